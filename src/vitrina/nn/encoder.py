"""The encoder of next-item models: items plus positions through blocks; one state after each token."""

from torch import Tensor, nn

from vitrina.nn.blocks import through
from vitrina.nn.layout import Layout
from vitrina.nn.tables import Hashed, all_vectors, read_table, start, target_table

INIT_STD = 0.02
"""Of the vectors at the start; 1 / sqrt(D) makes confident logits, slow to unlearn on MovieLens 1M."""


class Encoder(nn.Module):
    """Items plus positions through blocks, normed.

    Args:
        items: I, or how I items share the rows of a smaller table; the index I is padding, its vector 0.
        embedding_dim: D.
        max_len: tokens that are looked at; older ones share the oldest position.
        blocks: modules that take (x_BTD, layout).
        dropout: on the input.
        positions: "learned" adds a vector a position, counted from the newest token; "none" adds nothing.
        tied: whether the items to predict have the vectors of the items read, or a table of their own.
        final_norm: LayerNorm at the end, as pre-norm blocks need.
        scale: multiplies the vectors of the items read.
        causal: whether a token sees only itself and those before it; False shows it all of its history.
        n_extra: vectors behind the padding one, for tokens that are no items.
    """

    def __init__(
        self,
        items: int | Hashed,
        embedding_dim: int,
        max_len: int,
        blocks: list[nn.Module],
        *,
        dropout: float,
        positions: str = "learned",
        tied: bool = True,
        final_norm: bool = True,
        scale: float = 1.0,
        causal: bool = True,
        n_extra: int = 0,
    ) -> None:
        super().__init__()
        self.hashed = isinstance(items, Hashed)
        self.n_items = items.n_items if isinstance(items, Hashed) else items
        self.embedding_dim, self.max_len, self.scale, self.causal = embedding_dim, max_len, scale, causal
        self.item = read_table(items, embedding_dim, n_extra=n_extra)
        self.target = None if tied else target_table(items, embedding_dim)
        self.position = nn.Embedding(max_len, embedding_dim) if positions == "learned" else None
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(embedding_dim) if final_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        for table in (self.item, self.target, self.position):
            if table is not None:
                start(table, INIT_STD)
        self.trend: nn.Linear | None = None

    def follow_trend(self) -> "Encoder":
        """Let each history say how much it follows the fashion (`vitrina.nn.trend`); returns self."""
        self.trend = nn.Linear(self.embedding_dim, 1)
        nn.init.zeros_(self.trend.weight)
        nn.init.ones_(self.trend.bias)
        return self

    def forward(self, item_BT: Tensor, layout: Layout) -> Tensor:
        """Hidden states, (B, T, D)."""
        x_BTD = self.item(item_BT)
        x_BTD = x_BTD * self.scale if self.scale != 1.0 else x_BTD
        if self.position is not None:
            x_BTD = x_BTD + self.position(layout.position_BT.clamp(max=self.max_len - 1))
        x_BTD = self.dropout(x_BTD) * layout.valid_BT[..., None]
        x_BTD = through(self.blocks, x_BTD, layout, causal=self.causal)
        return self.norm(x_BTD)  # type: ignore[no-any-return]

    def item_vectors(self) -> Tensor:
        """Vectors of the items to predict. Shape (I, D)."""
        return all_vectors(self.item if self.target is None else self.target, self.n_items)

    def vectors_of(self, item_ix: Tensor) -> Tensor:
        """Vectors of some items to predict, looked up alone. Shape (..., D)."""
        return (self.item if self.target is None else self.target)(item_ix)  # type: ignore[no-any-return]

    def tables(self) -> list[Tensor]:
        """Parameters that hold the vectors of items."""
        modules = (self.item, self.target)
        return [
            table.weight if isinstance(table, nn.Embedding) else table.table.weight
            for table in modules
            if table is not None
        ]
