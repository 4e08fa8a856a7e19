"""Ranks of targets among dense scores, ties against the model."""

from typing import Final

import numba
import numpy as np

from vitrina.errors import InputError
from vitrina.metrics.hits import FloatArray, IntArray, Targets

UNREACHABLE: Final = int(np.iinfo(np.int32).max)
"""Rank of a target that has no place: a cold item, or one whose score is -inf or NaN."""


def pessimistic_ranks(score_BI: FloatArray, truth: Targets) -> IntArray:
    """Rank (from 1) of each target, items ordered by score and, in a tie, every non-target first.

        rank(i) = 1 + |{j : s_j > s_i}| + |{j not a target : s_j = s_i}| + |{targets j < i : s_j = s_i}|

    so tied targets still take different places and a constant scorer puts n targets last of I places.

    Args:
        score_BI: (B, I) scores; -inf and NaN mean that the item is not ranked.
        truth: targets of the B rows, numbered in [0, I) or, where cold, beyond.

    Returns:
        (T,) int32, in the order of `truth.item_ix`; `UNREACHABLE` where a target has no place.

    Cost:
        O(T I), made for slices and checks; lists of a whole test set go through `hits`.
    """
    if score_BI.ndim != 2 or len(truth.offsets) != len(score_BI) + 1:
        raise InputError(
            f"scores of shape {score_BI.shape} need {len(score_BI) + 1} offsets, got {len(truth.offsets)}"
        )
    if len(truth.item_ix) and truth.item_ix.min() < 0:
        raise InputError(f"a target is numbered {truth.item_ix.min()}; give cold items numbers >= I")
    ranks = np.full(len(truth.item_ix), UNREACHABLE, dtype=np.int32)
    is_target = np.zeros(score_BI.shape[1], dtype=np.bool_)
    _rank(np.ascontiguousarray(score_BI), truth.offsets, truth.item_ix, is_target, ranks)
    return ranks


@numba.njit(cache=True, nogil=True)
def _rank(score_BI, offsets, items, is_target, ranks):  # type: ignore[no-untyped-def]
    n_items = score_BI.shape[1]
    for b in range(score_BI.shape[0]):
        for at in range(offsets[b], offsets[b + 1]):
            if items[at] < n_items:
                is_target[items[at]] = True
        for at in range(offsets[b], offsets[b + 1]):
            i = items[at]
            if i >= n_items or not score_BI[b, i] > -np.inf:
                continue
            s, rank = score_BI[b, i], 1
            for j in range(n_items):
                t = score_BI[b, j]
                if t > s or (t == s and j != i and (j < i or not is_target[j])):
                    rank += 1
            ranks[at] = rank
        for at in range(offsets[b], offsets[b + 1]):
            if items[at] < n_items:
                is_target[items[at]] = False
