"""The k best of each row, exactly: what every dense scorer ends with.

Order: score descending, ties by smaller item_ix. NaN never enters a list. Rows with fewer than k
admissible items are padded at the end with item -1 and score -inf.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numba
import numpy as np

from vitrina.ann.blocks import in_threads
from vitrina.ann.select import drain, fresh, offer, raise_floors, scratch_for
from vitrina.errors import InputError
from vitrina.schema import BoolArray, FloatArray, IntArray, LongArray

PAD = -1
BLOCK_SCORES = 1 << 18
"""Scores that one thread selects from before it takes the next block."""


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

    def of(self, b: int) -> IntArray:
        """The set of one query, as a view."""
        return self.item_ix[self.offsets[b] : self.offsets[b + 1]]

    def take(self, rows: LongArray) -> "Jagged":
        """The sets of some of the queries."""
        sets = [self.of(b) for b in rows.tolist()]
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in sets])]).astype(np.int64)
        return Jagged(offsets, np.concatenate([*sets, np.zeros(0, np.int32)]).astype(np.int32))


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


def no_limit(n_queries: int) -> Jagged:
    """Nothing excluded from any of B lists."""
    return Jagged(np.zeros(n_queries + 1, np.int64), np.zeros(0, np.int32))


def within(items: Jagged, n_items: int) -> Jagged:
    """The sets without what is no item: numbers outside [0, I), as unknown ids have them (-1)."""
    item_ix = items.item_ix
    if not len(item_ix) or (int(item_ix.min()) >= 0 and int(item_ix.max()) < n_items):
        return items
    known = (item_ix >= 0) & (item_ix < n_items)
    return Jagged(np.concatenate([[0], np.cumsum(known)])[items.offsets].astype(np.int64), item_ix[known])


def limits(
    n_queries: int, n_items: int, exclude: Jagged | None, allowed: BoolArray | None
) -> tuple[Jagged, BoolArray | None]:
    """What kernels, which check nothing, may be given as limits of B lists over I items.

    Raises:
        InputError: there are not B sets, or not one `allowed` an item.
    """
    if allowed is not None and np.shape(allowed) != (n_items,):
        raise InputError(
            f"allowed has shape {np.shape(allowed)} over {n_items} items; give one True or False for each"
        )
    if exclude is None:
        return no_limit(n_queries), allowed
    if len(exclude.offsets) != n_queries + 1 or int(exclude.offsets[-1]) > len(exclude.item_ix):
        raise InputError(
            f"exclude has {len(exclude.offsets)} bounds over {len(exclude.item_ix)} items for {n_queries} "
            f"queries; give {n_queries + 1}, from 0 to the number of items"
        )
    return within(exclude, n_items), allowed


def top_k(
    score_BI: FloatArray,
    *,
    k: int,
    exclude: Jagged | None = None,
    allowed: BoolArray | None = None,
) -> TopK:
    """The k best items of each row of a dense score matrix; excluded scores in it may be overwritten.

    Args:
        score_BI: (B, I) float32, C order.
        k: length of a list; cut to I.
        exclude: items that may not enter each row's list; a number that is no item excludes nothing.
        allowed: (I,), False excludes an item from every row.
    """
    score_BI = np.ascontiguousarray(score_BI, dtype=np.float32)
    n_items = score_BI.shape[1]
    lists = empty_lists(len(score_BI), min(k, n_items))
    banned, allowed = limits(len(score_BI), n_items, exclude, allowed)
    if lists.item_ix.size:
        mask = np.zeros(0, bool) if allowed is None else allowed

        def work(lo: int, hi: int) -> None:
            _ban(score_BI[lo:hi], banned.offsets[lo : hi + 1], banned.item_ix, mask)
            _select_rows(score_BI[lo:hi], lists.item_ix[lo:hi], lists.score[lo:hi])

        in_threads(work, len(score_BI), max(1, BLOCK_SCORES // n_items))
    return lists


def _select_rows(score_BI: FloatArray, item_BK: IntArray, best_BK: FloatArray) -> None:
    """Fill the lists of a block of rows."""
    k = item_BK.shape[1]
    state, scratch = fresh(len(score_BI), k), scratch_for(score_BI.shape[1])
    raise_floors(score_BI, k, 1 << (2 * k - 1).bit_length(), state, scratch)
    offer(score_BI, 0, np.zeros(0, np.int32), k, state, scratch)
    drain(k, state, (item_BK, best_BK.view(np.uint32)))


@numba.njit(cache=True, nogil=True)
def _ban(score_BI, banned_start, banned_item, allowed):  # type: ignore[no-untyped-def]
    """Overwrite by -inf what may not be listed."""
    for b in range(len(score_BI)):
        if len(allowed):
            for i in range(len(allowed)):
                score_BI[b, i] = score_BI[b, i] if allowed[i] else -np.inf
        for at in range(banned_start[b], banned_start[b + 1]):
            score_BI[b, banned_item[at]] = -np.inf
