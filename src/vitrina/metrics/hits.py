"""Which places of the ranked lists are hits: the one pass over lists and targets that all metrics share.

Rules, all of them against the model:

- a place is a hit if its item is among the user's targets; the padding -1 never is;
- an item that stands twice in a list counts once, at its first place, and still takes both places;
- a target that occurs twice counts once (unless `dedup_truth` is off);
- a target numbered beyond the catalogue (a cold item) is a target that nothing can hit;
- where scores are given, a run of equal scores is read as if its hits stood at its end, and a run of two or
  more that reaches the end of a full list has none: the ties may go on behind it. A constant scorer gets 0.

Letters: B lists, K places, C cuts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numba
import numpy as np
import numpy.typing as npt

from vitrina.errors import InputError

DoubleArray = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MAX_SLOTS = 1 << 26
"""Item numbers above this are renumbered before the pass, which keeps 4 bytes an item."""


class Targets(Protocol):
    """Jagged targets of B users: user b owns item_ix[offsets[b] : offsets[b + 1]]."""

    @property
    def offsets(self) -> LongArray:
        """(B + 1,), from 0."""

    @property
    def item_ix(self) -> IntArray:
        """(T,), each >= 0; numbers beyond the catalogue are cold items."""


class TargetLists(NamedTuple):
    """The plainest `Targets`."""

    offsets: LongArray
    """(B + 1,), from 0"""
    item_ix: IntArray
    """(T,)"""

    @classmethod
    def of(cls, targets: Sequence[Sequence[int]]) -> "TargetLists":
        """From one sequence of item numbers a user."""
        offsets = np.concatenate([[0], np.cumsum([len(t) for t in targets])]).astype(np.int64)
        return cls(offsets, np.array([i for t in targets for i in t], dtype=np.int32))


@dataclass(frozen=True, eq=False)
class Hits:
    """What the pass found."""

    is_hit: BoolArray
    """(B, K)"""
    n_pos: LongArray
    """(B,), targets of each user, reachable or not"""


class AtCuts(NamedTuple):
    """Sums over the first k places, for each cut k. All that the accuracy metrics are made of."""

    cuts: tuple[int, ...]
    """Ascending, C of them."""
    n_hits: LongArray
    """(B, C), hits among the first k"""
    dcg: DoubleArray
    """(B, C), sum over those hits of 1 / log2(rank + 1)"""
    precisions: DoubleArray
    """(B, C), sum over those hits of hits so far / rank"""
    first: LongArray
    """(B,), rank of the first hit, 0 where there is none"""
    n_pos: LongArray
    """(B,), targets"""


def as_lists(lists_BK: npt.ArrayLike) -> IntArray:
    """Ranked lists as a (B, K) int32 array in C order.

    Raises:
        InputError: not two axes of integers, or a number below -1.
    """
    lists = np.asarray(lists_BK)
    if lists.ndim != 2 or not np.issubdtype(lists.dtype, np.integer):
        raise InputError(
            f"ranked lists must be a (B, K) array of integers, got shape {lists.shape} of {lists.dtype}; "
            "pad short lists with -1 at their end"
        )
    if lists.size and (lists.min() < -1 or lists.max() > np.iinfo(np.int32).max):
        raise InputError(
            f"item numbers must be in [-1, 2^31), got {lists.min()} to {lists.max()}; -1 pads a list"
        )
    return np.ascontiguousarray(lists, dtype=np.int32)


def hits(
    lists_BK: npt.ArrayLike,
    offsets: LongArray,
    item_ix: IntArray,
    *,
    dedup_truth: bool = True,
    dedup_lists: bool = True,
    score_BK: npt.ArrayLike | None = None,
) -> Hits:
    """Mark the places of ranked lists that are hits.

    Args:
        lists_BK: (B, K) item numbers, best first, -1 where a list is shorter.
        offsets: (B + 1,), targets of user b are item_ix[offsets[b] : offsets[b + 1]].
        item_ix: (T,), any order; numbers beyond the catalogue are unreachable targets.
        dedup_truth: count a target once a user, however often it occurs.
        dedup_lists: count an item once a list, at its first place.
        score_BK: (B, K) non-increasing scores; ties are then broken against the model.

    Cost:
        One pass, O(B K + T), and 4 bytes an item number.

    Raises:
        InputError: shapes that do not fit, or a negative target.
    """
    lists = as_lists(lists_BK)
    offsets = np.ascontiguousarray(offsets, dtype=np.int64)
    items = np.ascontiguousarray(item_ix, dtype=np.int32)
    if offsets.shape != (len(lists) + 1,) or offsets[0] != 0 or offsets[-1] != len(items):
        raise InputError(
            f"{len(lists)} lists need {len(lists) + 1} offsets from 0 to {len(items)}, "
            f"got {len(offsets)} from {offsets[:1].tolist()} to {offsets[-1:].tolist()}"
        )
    if len(lists) and np.diff(offsets).min() < 0:
        raise InputError("offsets must not decrease; each pair of neighbours bounds one user's targets")
    if items.size and items.min() < 0:
        raise InputError(
            f"a target is numbered {items.min()}; give cold items numbers beyond the catalogue, "
            "so that they stay apart and count as misses"
        )
    n_slots = max(int(items.max(initial=-1)), int(lists.max(initial=-1))) + 1
    if n_slots > MAX_SLOTS:
        lists, items, n_slots = _renumbered(lists, items)
    hit_BK = np.zeros(lists.shape, dtype=np.bool_)
    n_pos = np.zeros(len(lists), dtype=np.int64)
    _mark(lists, offsets, items, np.full(n_slots, -1, np.int32), dedup_truth, dedup_lists, hit_BK, n_pos)
    if score_BK is not None:
        score = np.ascontiguousarray(score_BK)
        if score.shape != lists.shape:
            raise InputError(f"scores have shape {score.shape}, lists {lists.shape}; they must be equal")
        _sink_ties(lists, score, hit_BK)
    return Hits(hit_BK, n_pos)


def at_cuts(found: Hits, cuts: Sequence[int]) -> AtCuts:
    """Sum hits up to each cut; cuts beyond K read the lists as padded."""
    ordered = tuple(sorted(set(cuts)))
    shape = (len(found.n_pos), len(ordered))
    n_hits, dcg, precision = np.zeros(shape, np.int64), np.zeros(shape), np.zeros(shape)
    first = np.zeros(len(found.n_pos), np.int64)
    width = found.is_hit.shape[1]
    discount = discounts(width)
    _sum_at_cuts(found.is_hit, np.array(ordered, np.int64), discount, n_hits, dcg, precision, first)
    return AtCuts(ordered, n_hits, dcg, precision, first, found.n_pos)


def discounts(n: int) -> DoubleArray:
    """1 / log2(rank + 1) of ranks 1..n (Järvelin and Kekäläinen, TOIS 2002, with log base 2)."""
    return np.asarray(1.0 / np.log2(np.arange(2, n + 2)))


def _renumbered(lists: IntArray, items: IntArray) -> tuple[IntArray, IntArray, int]:
    """The same lists and targets with numbers 0..n-1; -1 stays."""
    known = np.unique(np.concatenate([lists.ravel(), items]))
    n_pads = int(len(known) > 0 and known[0] == -1)
    to_new = np.searchsorted(known, lists).astype(np.int32) - n_pads
    return to_new, (np.searchsorted(known, items) - n_pads).astype(np.int32), len(known) - n_pads


@numba.njit(cache=True, nogil=True)
def _mark(lists, offsets, items, stamp, dedup_truth, dedup_lists, hit_BK, n_pos):  # type: ignore[no-untyped-def]
    """stamp[i] == b while item i is a target of user b that is not yet hit; -1 at the start."""
    for b in range(lists.shape[0]):
        n = 0
        for at in range(offsets[b], offsets[b + 1]):
            i = items[at]
            if stamp[i] != b:
                stamp[i] = b
                n += 1
            elif not dedup_truth:
                n += 1
        n_pos[b] = n
        if n == 0:
            continue
        for k in range(lists.shape[1]):
            i = lists[b, k]
            if i >= 0 and stamp[i] == b:
                hit_BK[b, k] = True
                if dedup_lists:
                    stamp[i] = -1


@numba.njit(cache=True, nogil=True)
def _sink_ties(lists, score, hit_BK):  # type: ignore[no-untyped-def]
    """Move the hits of each run of equal scores to its end; drop those of a run that may go on."""
    width = lists.shape[1]
    for b in range(lists.shape[0]):
        start = 0
        while start < width and lists[b, start] >= 0:
            end, n = start, 0
            while end < width and lists[b, end] >= 0 and score[b, end] == score[b, start]:
                n += hit_BK[b, end]
                hit_BK[b, end] = False
                end += 1
            if end == start:  # a NaN equals nothing, not even itself
                hit_BK[b, start] = False
                end += 1
            if not (end == width and end - start > 1):
                for k in range(end - n, end):
                    hit_BK[b, k] = True
            start = end


@numba.njit(cache=True, nogil=True)
def _sum_at_cuts(hit_BK, cuts, discount, n_hits, dcg, precision, first):  # type: ignore[no-untyped-def]
    n_cuts, width = len(cuts), hit_BK.shape[1]
    for b in range(hit_BK.shape[0]):
        n, gain, precisions = 0, 0.0, 0.0
        k = 0
        for c in range(n_cuts):
            end = min(cuts[c], width)
            while k < end:
                if hit_BK[b, k]:
                    n += 1
                    gain += discount[k]
                    precisions += n / (k + 1)
                    if n == 1:
                        first[b] = k + 1
                k += 1
            n_hits[b, c], dcg[b, c], precision[b, c] = n, gain, precisions
