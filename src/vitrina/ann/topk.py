"""The k best of each row, exactly: what every dense scorer ends with.

Order: score descending, ties by smaller item_ix. NaN never enters a list. Rows with fewer than k
admissible items are padded at the end with item -1 and score -inf.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from vitrina.schema import BoolArray, FloatArray, IntArray, LongArray

PAD = -1


class Jagged(NamedTuple):
    """A set of items for each of B queries: row b owns item_ix[offsets[b] : offsets[b + 1]]."""

    offsets: LongArray
    """(B + 1,), from 0"""
    item_ix: IntArray
    """(n,)"""

    def span(self, lo: int, hi: int) -> "Jagged":
        """The sets of queries lo..hi, as a view."""
        bounds = self.offsets[lo : hi + 1]
        return Jagged(bounds - bounds[0], self.item_ix[bounds[0] : bounds[-1]])


@dataclass(frozen=True, eq=False)
class TopK:
    """Ranked lists of B queries, at most K long."""

    item_ix: IntArray
    """(B, K), -1 where a list is shorter than K"""
    score: FloatArray
    """(B, K), non-increasing along a row, -inf where item_ix is -1"""

    def __len__(self) -> int:
        return len(self.item_ix)

    @property
    def lengths(self) -> LongArray:
        """Items per list. Shape (B,)."""
        return np.asarray((self.item_ix != PAD).sum(axis=1), dtype=np.int64)

    def first(self, k: int) -> "TopK":
        """The same lists cut to k."""
        return TopK(self.item_ix[:, :k], self.score[:, :k])


def empty_lists(n_queries: int, k: int) -> TopK:
    """B lists with nothing in them."""
    return TopK(np.full((n_queries, k), PAD, np.int32), np.full((n_queries, k), -np.inf, np.float32))


def top_k(
    score_BI: FloatArray,
    *,
    k: int,
    exclude: Jagged | None = None,
    allowed: BoolArray | None = None,
) -> TopK:
    """The k best items of each row of a dense score matrix; excluded scores in it are overwritten.

    Args:
        score_BI: (B, I) float32, C order.
        k: length of a list; cut to I.
        exclude: items that may not enter each row's list.
        allowed: (I,), False excludes an item from every row.
    """
    if allowed is not None:
        score_BI[:, ~allowed] = -np.inf
    if exclude is not None:
        rows = np.repeat(np.arange(len(score_BI)), np.diff(exclude.offsets))
        score_BI[rows, exclude.item_ix] = -np.inf
    k = min(k, score_BI.shape[1])
    item_BK = np.full((len(score_BI), k), PAD, dtype=np.int32)
    best_BK = np.full((len(score_BI), k), -np.inf, dtype=np.float32)
    if k:
        _select(np.ascontiguousarray(score_BI, dtype=np.float32), item_BK, best_BK)
    return TopK(item_BK, best_BK)


@numba.njit(cache=True, nogil=True)
def _select(score_BI, item_BK, best_BK):  # type: ignore[no-untyped-def]
    """Min-heap of size k per row; an entry is worse if its score is lower, or equal with a larger item."""
    k = item_BK.shape[1]
    for b in range(score_BI.shape[0]):
        items, best = item_BK[b], best_BK[b]
        n = 0
        for i in range(score_BI.shape[1]):
            s = score_BI[b, i]
            if not s > -np.inf:
                continue
            if n < k:
                child = n
                n += 1
                while child > 0:
                    parent = (child - 1) >> 1
                    if best[parent] < s:  # on equal scores the newcomer, whose item is larger, is the worse
                        break
                    best[child], items[child] = best[parent], items[parent]
                    child = parent
                best[child], items[child] = s, i
            elif s > best[0]:
                _sift_down(items, best, 0, n, i, s)
        for last in range(n - 1, 0, -1):
            s, i = best[last], items[last]
            best[last], items[last] = best[0], items[0]
            _sift_down(items, best, 0, last, i, s)


@numba.njit(cache=True, nogil=True)
def _sift_down(items, best, at, n, i, s):  # type: ignore[no-untyped-def]
    while True:
        child = 2 * at + 1
        if child >= n:
            break
        right = child + 1
        if right < n and (
            best[right] < best[child] or (best[right] == best[child] and items[right] > items[child])
        ):
            child = right
        if best[child] < s or (best[child] == s and items[child] > i):
            best[at], items[at] = best[child], items[child]
            at = child
        else:
            break
    best[at], items[at] = s, i
