"""SASRec: self-attention over what a person took, in order (Kang & McAuley, ICDM 2018, arXiv:1808.09781).

Notation                                                                                shape
    E       vectors of items; the same table reads the history and is scored against    (I, D)
    P       vectors of positions, counted from the newest row                           (max_len, D)
    h_t     hidden state after row t: blocks(E[s_1] + P[..], ..., E[s_t] + P[0])        (D,)
    logit   of item i after row t:  <h_t, E[i]>

    block   x + MHA(LN x), then x + FFN(LN x), causal                 (see `vitrina.nn.blocks`)
    loss    -log softmax over all items of the item that came next, at every row

Named configurations, all of this file:

    SASRec    cross-entropy over the whole catalogue (Klenitskiy & Vasilev, RecSys 2023, arXiv:2309.07602)
    gSASRec   gBCE with 256 negatives and a table of its own for what is predicted (Petrov & Macdonald, RecSys
              2023, arXiv:2308.07192)
    ESASRec   LiGR blocks and a sampled softmax (RecSys 2025, arXiv:2508.06450)

Cost of one epoch: about N (12 L D^2 + L T D + I D) multiply-adds, three times over, N rows, T = min(max_len,
length); memory 4 (I D) bytes for the table and as much again twice for AdamW.
NOTE[DIFF] paper: one sampled negative and binary cross-entropy; here: the whole softmax by default; because
it ranks far better (docs/sequence_models.md). `loss="bce", n_negatives=1` is the paper's.
NOTE[DIFF] eSASRec's paper: no correction of the sampled softmax; here: the corrected one, as everywhere in
this package; `correction="none"` is the paper's, see docs/negative_results.md for both.
NOTE[DIFF] authors' code: item vectors times sqrt(D) where they are read; here: only with `scale_items`;
because it learns sooner, not better (docs/negative_results.md).
NOTE[DIFF] paper: ReLU and a feed-forward part as wide as D; here: GELU and `ffn_mult` times D.
Use when: order and recency matter and histories have more than a few rows. See also: HSTU (time),
ImplicitALS (order does not matter), OwnHistory (repeats).
"""

from dataclasses import dataclass

from vitrina.candidates.next_item import NextItemModel
from vitrina.errors import ConfigError
from vitrina.estimator import check_positive
from vitrina.nn.blocks import LiGRBlock, TransformerBlock
from vitrina.nn.next_item import Encoder


@dataclass(kw_only=True, eq=False)
class SASRec(NextItemModel):
    """A causal transformer over items, trained with a softmax over the whole catalogue.

    Example:
        >>> from vitrina.testing import markov_world
        >>> world = markov_world(seed=0)
        >>> model = SASRec(embedding_dim=32, max_len=20, n_layers=1, n_epochs=30, lr=0.01).fit(world.train)
        >>> world.share_of_best(model.retrieve(world.train, k=1)) > 0.85
        True
    """

    n_layers: int = 2
    """Blocks."""
    n_heads: int = 1
    """Heads of attention; divides `embedding_dim`."""
    ffn_mult: int = 4
    """Width of the feed-forward part, in units of `embedding_dim`."""
    block: str = "pre"
    """"pre" or "post": where a transformer block normalises; "ligr": gated residuals and SwiGLU."""
    positions: str = "learned"
    """"learned": a vector a position; "rotary": turned queries and keys; "none"."""
    scale_items: bool = False
    """Whether vectors that are read are multiplied by sqrt(D), as in the authors' code: for short runs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        kind = type(self).__name__
        check_positive(self, n_layers=self.n_layers, n_heads=self.n_heads, ffn_mult=self.ffn_mult)
        if self.embedding_dim % self.n_heads:
            raise ConfigError(
                f"{kind}.embedding_dim={self.embedding_dim} must be a multiple of n_heads={self.n_heads}"
            )
        if self.block not in ("pre", "post", "ligr"):
            raise ConfigError(f'{kind}.block must be "pre", "post" or "ligr", got {self.block!r}')
        if self.positions not in ("learned", "rotary", "none"):
            raise ConfigError(
                f'{kind}.positions must be "learned", "rotary" or "none", got {self.positions!r}'
            )

    def network(self, n_items: int) -> Encoder:
        """Item and position vectors, `n_layers` blocks, LayerNorm."""
        wide, rotary = self.ffn_mult * self.embedding_dim, self.positions == "rotary"
        shape = (self.embedding_dim, self.n_heads)
        return Encoder(
            self._items(n_items),
            self.embedding_dim,
            self.max_len,
            [
                LiGRBlock(*shape, ffn_dim=wide, dropout=self.dropout, rotary=rotary)
                if self.block == "ligr"
                else TransformerBlock(
                    *shape, ffn_dim=wide, dropout=self.dropout, norm=self.block, rotary=rotary
                )
                for _ in range(self.n_layers)
            ],
            dropout=self.dropout,
            positions=self.positions,
            tied=self.tied,
            final_norm=self.block != "post",
            scale=self.embedding_dim**0.5 if self.scale_items else 1.0,
        )


@dataclass(kw_only=True, eq=False)
class GSASRec(SASRec):
    """SASRec with gBCE over 256 negatives and separate vectors for what is predicted."""

    loss: str = "gbce"
    n_share: int = 64
    tied: bool = False


@dataclass(kw_only=True, eq=False)
class ESASRec(SASRec):
    """SASRec with LiGR blocks and a sampled softmax."""

    loss: str = "sampled_softmax"
    block: str = "ligr"
    n_negatives: int = 256
    n_share: int = 64
