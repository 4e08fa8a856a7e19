"""GRU4Rec: a recurrent network over what a person took (Hidasi et al., ICLR 2016, arXiv:1511.06939).

Notation                                                                          shape
    E         vectors of items; read and, unless `tied=False`, scored against     (I, D)
    h_t       GRU state after row t                                               (hidden_dim,)
    W         from states to vectors, where hidden_dim is not D                   (D, hidden_dim)
    logit     of item i after row t:  <W h_t, E[i]>

    z = sigmoid(W_z x + U_z h),  r = sigmoid(W_r x + U_r h)
    h <- (1 - z) * tanh(W_n x + r * U_n h) + z * h
    loss      -log softmax over all items of the item that came next, at every row

Cost of one epoch: about N (3 L (D H + H^2) + I D) multiply-adds, three times over, N rows, L layers, H =
hidden_dim; the rows of a history one after another, so that a processor is used less well than by attention.
Memory: 4 (I D) bytes for the table and as much again twice for AdamW.
NOTE[DIFF] paper: TOP1 and BPR over the batch's own items; here: the whole softmax by default; because ranking
losses over few negatives rank far worse (Hidasi and Karatzoglou, CIKM 2018).
NOTE[DIFF] paper: sessions in parallel lanes, states carried over truncated steps; here: whole windows, state
0 at their start; because each window then stands alone and batches can be shuffled and resumed.
NOTE[DIFF] paper: one-hot items into the GRU; here: their vectors, which is the same product.
Use when: as a baseline that people ask for, or where a server can keep one state a person and read one row at
a time. See also: SASRec (trains in parallel over rows), OwnHistory (repeats).
"""

from dataclasses import dataclass

from torch import Tensor, nn

from vitrina.candidates.next_item import NextItemModel
from vitrina.errors import InputError
from vitrina.estimator import check_positive
from vitrina.nn.layout import Layout
from vitrina.nn.next_item import Encoder


@dataclass(kw_only=True, eq=False)
class GRU4Rec(NextItemModel):
    """A GRU over items, trained with a softmax over the whole catalogue.

    Example:
        >>> from vitrina.testing import markov_world
        >>> world = markov_world(seed=0)
        >>> model = GRU4Rec(embedding_dim=32, max_len=20, n_epochs=10, lr=0.02).fit(world.train)
        >>> world.share_of_best(model.retrieve(world.train, k=1)) > 0.85
        True
    """

    n_layers: int = 1
    """GRUs, one upon another."""
    hidden_dim: int = 100
    """Width of a state."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, n_layers=self.n_layers, hidden_dim=self.hidden_dim)

    def network(self, n_items: int) -> Encoder:
        """Item vectors, the GRU, a projection."""
        return Encoder(
            self._items(n_items),
            self.embedding_dim,
            self.max_len,
            [Recurrent(self.embedding_dim, self.hidden_dim, self.n_layers, dropout=self.dropout)],
            dropout=self.dropout,
            positions="none",
            tied=self.tied,
            final_norm=False,
        )


class Recurrent(nn.Module):
    """GRUs that read a history from its first token to its last."""

    def __init__(self, embedding_dim: int, hidden_dim: int, n_layers: int, *, dropout: float) -> None:
        super().__init__()
        between = dropout if n_layers > 1 else 0.0
        self.gru = nn.GRU(embedding_dim, hidden_dim, n_layers, batch_first=True, dropout=between)
        self.out = nn.Identity() if hidden_dim == embedding_dim else nn.Linear(hidden_dim, embedding_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BTD: Tensor, layout: Layout, mask: Tensor | None = None) -> Tensor:
        """States after each token; padding lies behind the last token, so it changes none of them.

        Raises:
            InputError: the rows are packed, and a state would run from one history into the next; or a mask
                says what a token sees.
        """
        if layout.segment_BT is not None:
            raise InputError("a recurrent network cannot read packed rows; pad them, one history a row")
        if mask is not None:
            raise InputError(
                "a recurrent network looks back alone and cannot follow a mask of shape "
                f"{tuple(mask.shape)}; give the encoder causal=True or other blocks"
            )
        return self.out(self.dropout(self.gru(x_BTD)[0]))  # type: ignore[no-any-return]
