"""OwnHistory: what a person took before, by count and recency.

    score(u, i) = (1 + 0.01 p_i) * sum over the rows of u with item i of weight * 2^(-days / half_life_days)

Days are counted back from the last row of the history. p_i in [0, 1] is the item's training rows over those
of the most taken item: it orders the items of one basket, which would tie. What still ties goes to the item
taken last. It lists nothing new, so it is empty where taken items are left out. Cost: O(n log n) for n rows.
Use when: people repeat (groceries, music); it is the baseline to beat there. See also: ItemKNN, MostPop.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np

from vitrina.ann import Jagged, TopK, empty_lists
from vitrina.estimator import Estimator, check_positive, fitted
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.schema import US_PER_DAY, BoolArray, FloatArray, IntArray, LongArray

TIE_BREAK = 0.01
"""What popularity may add to a score: enough to order a basket, too little to outrun a newer one."""
ROWS_AT_ONCE = 1_000_000
"""History rows that are sorted together."""


@dataclass(kw_only=True, eq=False)
class OwnHistory(Estimator):
    """The items of the query's own history, most taken and most recent first."""

    half_life_days: float | None = 30.0
    """Days after which a row counts half; None counts all rows alike."""
    items_: Ids = fitted()
    popularity_: FloatArray = fitted()
    """p_i, (I,)."""

    def __post_init__(self) -> None:
        if self.half_life_days is not None:
            check_positive(self, half_life_days=self.half_life_days)

    def fit(self, train: Histories) -> Self:
        """Remember the vocabulary and how often each item was taken; returns self."""
        n_rows = train.item_counts()
        self.items_ = train.items
        self.popularity_ = (n_rows / max(1, n_rows.max(initial=0))).astype(np.float32)
        return self

    def retrieve(
        self, queries: Histories, *, k: int, exclude: Jagged | None = None, allowed: BoolArray | None = None
    ) -> TopK:
        """The k best items of each query's own history; lists end where the history does.

        Args:
            queries: B histories.
            k: length of a list; cut to I.
            exclude: items that may not enter each query's list.
            allowed: (I,), False excludes an item from every list.
        """
        queries = queries.reindex(self.items_)
        lists = empty_lists(len(queries), min(k, len(self.items_)))
        offsets = np.asarray(queries.offsets)
        lo = 0
        while lo < len(queries):
            hi = max(lo + 1, int(np.searchsorted(offsets, offsets[lo] + ROWS_AT_ONCE, side="right")) - 1)
            self._fill(queries, lo, hi, lists, exclude, allowed)
            lo = hi
        return lists

    def _fill(
        self,
        queries: Histories,
        lo: int,
        hi: int,
        lists: TopK,
        exclude: Jagged | None,
        allowed: BoolArray | None,
    ) -> None:
        """Lists of queries lo..hi."""
        start, end = int(queries.offsets[lo]), int(queries.offsets[hi])
        if start == end:
            return
        lengths = queries.lengths[lo:hi]
        row = np.repeat(np.arange(lo, hi, dtype=np.int64), lengths)
        key = row * len(self.items_) + queries.item_ix[start:end]
        weight = np.ones(end - start) if queries.weight is None else queries.weight[start:end].astype(float)
        if self.half_life_days is not None:
            ts = np.asarray(queries.ts[start:end])
            last_ts = np.repeat(queries.ts[np.maximum(queries.offsets[lo + 1 : hi + 1] - 1, 0)], lengths)
            weight = weight * np.exp2(-(last_ts - ts) / US_PER_DAY / self.half_life_days)
        by_key = np.argsort(key, kind="stable")
        first = np.flatnonzero(np.diff(key[by_key], prepend=-1))
        pair = key[by_key[first]]
        tie_break = 1.0 + TIE_BREAK * self.popularity_[pair % len(self.items_)]
        score = (np.add.reduceat(weight[by_key], first) * tie_break).astype(np.float32)
        latest = by_key[
            np.append(first[1:], len(by_key)) - 1
        ]  # stable sort: the last row of a pair is the latest
        keep = np.ones(len(pair), bool) if allowed is None else allowed[pair % len(self.items_)]
        if exclude is not None:
            keep &= ~np.isin(pair, _pairs(exclude, lo, hi, len(self.items_)))
        _place(
            lists, pair[keep] // len(self.items_), pair[keep] % len(self.items_), score[keep], latest[keep]
        )


def _pairs(exclude: Jagged, lo: int, hi: int, n_items: int) -> LongArray:
    """Row * I + item of each excluded item of rows lo..hi."""
    rows = np.repeat(np.arange(lo, hi, dtype=np.int64), np.diff(exclude.offsets[lo : hi + 1]))
    return rows * n_items + exclude.item_ix[exclude.offsets[lo] : exclude.offsets[hi]]


def _place(lists: TopK, row: LongArray, item: LongArray, score: IntArray, latest: LongArray) -> None:
    """Write pairs into the rows of the lists: by score, then the one taken last."""
    order = np.lexsort((-latest, -score, row))
    row, item, score = row[order], item[order], score[order]
    rank = np.arange(len(row)) - np.searchsorted(row, row)
    fits = rank < lists.item_ix.shape[1]
    lists.item_ix[row[fits], rank[fits]] = item[fits]
    lists.score[row[fits], rank[fits]] = score[fits]
