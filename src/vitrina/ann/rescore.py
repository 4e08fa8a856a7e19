"""Score listed candidates again, from their own vectors in float32, and keep the best of them.

    score_bi = sum over d of query_bd vector_id + bias_i

The sum is taken in one order whatever the number of queries, the place of the item and the index that found
it, so an item scores the same everywhere: a batch equals its queries one by one, and two local indexes that
list the same items list them in the same order.
"""

import numba
import numpy as np

from vitrina.ann.blocks import in_threads
from vitrina.ann.rows import Rows
from vitrina.ann.select import best_keys, drain, fresh, scratch_for
from vitrina.ann.topk import Jagged, TopK, empty_lists, no_limit
from vitrina.schema import FloatArray, IntArray

BLOCK_CANDIDATES = 1 << 14
"""Candidates that one thread scores before it takes the next block of queries."""


def rescored(
    query_BD: FloatArray,
    place_BC: IntArray,
    base: Rows,
    delta: Rows,
    *,
    k: int,
    exclude: Jagged | None = None,
) -> TopK:
    """The k best of each query's candidates. Cost: B C D multiply-adds on rows scattered over memory.

    Args:
        query_BD: (B, D) float32, C order.
        place_BC: (B, C), distinct along a row: place in `base`, len(base) + place in `delta`, or -1.
        base: most of the items.
        delta: the others.
        k: length of a list.
        exclude: items that may not enter each query's list.
    """
    lists = empty_lists(len(query_BD), k)
    if not lists.item_ix.size or not place_BC.shape[1]:
        return lists
    banned = no_limit(len(query_BD)) if exclude is None else exclude
    place_BC = np.ascontiguousarray(place_BC, dtype=np.int32)
    parts = tuple((rows.item_ix, rows.vector_ND, rows.bias) for rows in (base, delta))
    out = (lists.item_ix, lists.score.view(np.uint32))

    def work(lo: int, hi: int) -> None:
        _rescore(
            lo, hi, query_BD, place_BC, parts, (banned.offsets, banned.item_ix), lists_for(k, place_BC), out
        )

    in_threads(work, len(query_BD), max(1, BLOCK_CANDIDATES // place_BC.shape[1]))
    return lists


def lists_for(k: int, place_BC: IntArray) -> tuple[object, object]:
    """Memory that selecting k of so many candidates works in."""
    return fresh(1, k), scratch_for(place_BC.shape[1])


@numba.njit(cache=True, nogil=True)
def _rescore(lo, hi, query_BD, place_BC, parts, banned, lists_of, out):  # type: ignore[no-untyped-def]
    """Fill lists lo..hi."""
    (base_item, base_ND, base_bias), (delta_item, delta_ND, delta_bias) = parts
    (banned_start, banned_item), (state, scratch), (item_BK, bits_BK) = banned, lists_of, out
    n_base, k = len(base_item), item_BK.shape[1]
    items, scores = np.empty(place_BC.shape[1], np.int32), np.empty(place_BC.shape[1], np.float32)
    for b in range(lo, hi):
        mine = np.sort(banned_item[banned_start[b] : banned_start[b + 1]])
        n = 0
        for at in range(place_BC.shape[1]):
            i = place_BC[b, at]
            if i < 0:
                continue
            if i < n_base:
                items[n], scores[n] = base_item[i], _dot(query_BD[b], base_ND[i]) + base_bias[i]
            else:
                i -= n_base
                items[n], scores[n] = delta_item[i], _dot(query_BD[b], delta_ND[i]) + delta_bias[i]
            if len(mine):
                found = np.searchsorted(mine, items[n])
                if found < len(mine) and mine[found] == items[n]:
                    continue
            n += 1
        best_keys(items, scores, n, k, state, scratch)
        drain(k, state, (item_BK[b].reshape(1, k), bits_BK[b].reshape(1, k)))


@numba.njit(cache=True, nogil=True, fastmath={"reassoc", "contract", "nsz"})
def _dot(a_D, b_D):  # type: ignore[no-untyped-def]
    """Inner product in the widest registers there are."""
    total = np.float32(0)
    for d in range(len(a_D)):
        total += a_D[d] * b_D[d]
    return total
