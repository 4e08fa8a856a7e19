"""BERT4Rec: fill in what is missing, looking both ways (Sun et al., CIKM 2019, arXiv:1904.06690).

Notation                                                                          shape
    E         vectors of items; read and, unless `tied=False`, scored against     (I, D)
    m         vector of [mask], the token that stands for a hidden item           (D,)
    P         vectors of positions, counted from the newest token                 (max_len, D)
    h_t       blocks(...)_t, each token seeing all others, earlier and later      (D,)
    logit     of item i at a hidden place t:  <h_t, E[i]>

    training  each row of a window is hidden with probability `p_mask`, at least one; of a share `frac_last`
              of the windows only the newest row is hidden, as in a request
    loss      -log softmax over all items of the hidden item, at hidden places only
    request   the latest max_len - 1 rows and [mask] behind them; h at [mask] is scored

Cost of one epoch: about N (12 L D^2 + 2 L T D + p_mask I D) multiply-adds, three times over; an epoch teaches
p_mask N targets where SASRec's teaches N, so it takes several times as many epochs.
NOTE[DIFF] paper: a dense layer and a bias for each item before the softmax; here: inner products alone;
because vectors are exported to nearest-neighbour indexes as they are trained.
NOTE[DIFF] paper: normed after each part ("post"); here: before ("pre") by default; because it trains without
a warm-up.
NOTE[DIFF] authors' code: each window ten times with other masks and once with the newest row hidden, written
to disk; here: drawn anew in every epoch, with `frac_last` = 1/11.
Use when: as a baseline that people ask for. With the same loss and enough negatives a causal model is as good
and learns sooner (Klenitskiy and Vasilev, RecSys 2023, arXiv:2309.07602). See also: SASRec.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from vitrina.candidates.next_item import NextItemModel
from vitrina.errors import ConfigError
from vitrina.estimator import check_positive
from vitrina.log import Histories
from vitrina.nn.blocks import TransformerBlock
from vitrina.nn.layout import Layout, Windows, cut_windows, pad
from vitrina.nn.next_item import Batch, Encoder
from vitrina.schema import BoolArray, DoubleArray, IntArray


@dataclass(kw_only=True, eq=False)
class BERT4Rec(NextItemModel):
    """A transformer that looks both ways, trained to fill in hidden items.

    Example:
        >>> from vitrina.testing import markov_world
        >>> world = markov_world(seed=0)
        >>> model = BERT4Rec(embedding_dim=32, max_len=20, n_layers=1, n_epochs=60, lr=0.01).fit(world.train)
        >>> world.share_of_best(model.retrieve(world.train, k=1)) > 0.8
        True
    """

    n_layers: int = 2
    """Blocks."""
    n_heads: int = 2
    """Heads of attention; divides `embedding_dim`."""
    ffn_mult: int = 4
    """Width of the feed-forward part, in units of `embedding_dim`."""
    block: str = "pre"
    """"pre" or "post": where a block normalises."""
    without: ClassVar[tuple[str, ...]] = ("targets",)
    p_mask: float = 0.2
    """Probability that a row is hidden."""
    frac_last: float = 1 / 11
    """Share of windows of which only the newest row is hidden."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, n_layers=self.n_layers, n_heads=self.n_heads, ffn_mult=self.ffn_mult)
        if self.embedding_dim % self.n_heads:
            raise ConfigError(
                f"BERT4Rec.embedding_dim={self.embedding_dim} must be a multiple of n_heads={self.n_heads}"
            )
        if self.block not in ("pre", "post"):
            raise ConfigError(f'BERT4Rec.block must be "pre" or "post", got {self.block!r}')
        if self.max_len < 2:
            raise ConfigError("BERT4Rec.max_len must be >= 2, a row and the [mask] behind it, got 1")
        if not 0 < self.p_mask < 1 or not 0 <= self.frac_last <= 1:
            raise ConfigError(
                f"BERT4Rec.p_mask must be in (0, 1) and frac_last in [0, 1], got {self.p_mask} and "
                f"{self.frac_last}"
            )

    def network(self, n_items: int) -> Encoder:
        """Vectors of items, of [mask] and of positions, `n_layers` blocks that see both ways."""
        return Encoder(
            self._items(n_items),
            self.embedding_dim,
            self.max_len,
            [
                TransformerBlock(
                    self.embedding_dim,
                    self.n_heads,
                    ffn_dim=self.ffn_mult * self.embedding_dim,
                    dropout=self.dropout,
                    norm=self.block,
                )
                for _ in range(self.n_layers)
            ],
            dropout=self.dropout,
            tied=self.tied,
            final_norm=self.block == "pre",
            causal=False,
            n_extra=1,
        )

    def _windows(self, train: Histories) -> Windows:
        """Of at most `max_len` rows: what is hidden lies inside."""
        return cut_windows(train.offsets, self.max_len - 1, every=self.windows == "all")

    def _target_counts(self, train: Histories) -> DoubleArray:
        """How often each item is expected to be hidden in an epoch (see `cloze`). Shape (I,)."""
        windows = self._windows(train)
        length_N = np.repeat(windows.lengths, windows.lengths)
        row_N = np.concatenate([np.arange(lo, hi) for lo, hi in zip(*windows, strict=True)])
        alone_N = (1 - self.p_mask) ** length_N / length_N  # the one that is hidden where chance hides none
        odds_N = (1 - self.frac_last) * (self.p_mask + alone_N)
        odds_N[np.cumsum(windows.lengths) - 1] += self.frac_last
        return np.asarray(np.bincount(train.item_ix[row_N], odds_N, train.n_items), np.float64)

    def _batch(self, windows: Windows, train: Histories, rng: np.random.Generator) -> Batch:
        rows = pad(windows, self.max_len)
        hidden_BT = cloze(rows.layout.valid_BT.numpy(), p_mask=self.p_mask, frac_last=self.frac_last, rng=rng)
        target_BT = rows.take(train.item_ix, train.n_items)
        item_BT = target_BT.masked_fill(hidden_BT, mask_of(train.n_items))
        aims = self._aims.of(rows.row_BT, train.ts, hidden_BT)
        return Batch(item_BT, target_BT, rows.layout, hidden_BT, **aims)

    def _asked(self, queries: Histories, users: IntArray) -> tuple[torch.Tensor, Layout]:
        stop = queries.offsets[1:][users]
        start = np.maximum(queries.offsets[:-1][users], stop - (self.max_len - 1))
        rows = pad(Windows(start, stop + 1), self.max_len)  # the last is no row: its place is overwritten
        last_B = rows.layout.valid_BT.sum(1) - 1
        at_B = torch.arange(len(users))
        rows.row_BT[at_B, last_B] = 0
        item_BT = rows.take(queries.item_ix, len(self.items_))
        item_BT[at_B, last_B] = mask_of(len(self.items_))
        return item_BT, rows.layout


def mask_of(n_items: int) -> int:
    """Index of [mask]: the one after padding."""
    return n_items + 1


def cloze(valid_BT: BoolArray, *, p_mask: float, frac_last: float, rng: np.random.Generator) -> torch.Tensor:
    """Places to hide: in each window at least one, and never padding. bool, (B, T).

    Args:
        valid_BT: tokens of each window, at least 1; False for padding, at the right.
        p_mask: probability of each token.
        frac_last: share of windows of which the newest token alone is hidden.
        rng: draws.
    """
    row_B, last_B = np.arange(len(valid_BT)), valid_BT.sum(axis=1) - 1
    draw_BT = np.where(valid_BT, rng.random(valid_BT.shape), np.inf)
    hidden_BT = draw_BT < p_mask
    hidden_BT[row_B, draw_BT.argmin(axis=1)] = True
    last_only_B = rng.random(len(valid_BT)) < frac_last
    hidden_BT[last_only_B] = False
    hidden_BT[row_B[last_only_B], last_B[last_only_B]] = True
    return torch.from_numpy(hidden_BT)
