"""The nearest items of every item, by inner products of sparse columns, in bounded memory.

Items are numbered by falling popularity, so that the sums that most multiply-adds hit lie together in cache.
Row i adds up its products with the more popular items j < i, keeps its own best, and offers the product to
item j where it reaches the floor of j, the score of its worst kept neighbour: each pair is added up once.
Rows are done in rounds; offers are collected while a round runs and taken after it, so that no two threads
write to one list.
"""

from typing import NamedTuple

import numba
import numpy as np
from scipy import sparse

from vitrina.ann.blocks import in_threads
from vitrina.ann.select import best_keys, fresh, item_of, key_of, push, score_bits, scratch_for
from vitrina.ann.sparse import parts
from vitrina.schema import FloatArray, IntArray, LongArray

ROUND = 1024
"""Rows of a round, at least; large catalogues take 1/256 of their rows."""


class _Heaps(NamedTuple):
    """The kept neighbours of each item as min-heaps of keys."""

    keys: np.ndarray
    sizes: LongArray
    floors: FloatArray
    """Score that an offer must reach, 0 while a heap has room."""


def nearest_items(
    W: sparse.csr_matrix,
    norm_I: np.ndarray,
    *,
    shrink: float = 0.0,
    n_neighbors: int,
    more_popular: bool = False,
) -> sparse.csr_matrix:
    """The n_neighbors largest positive <w_i, w_j> / (norm_i norm_j + shrink), j != i, of each row i.

    Cost: sum over users of n_u^2 / 2 multiply-adds; memory for the kept neighbours, twice, and a few numbers
    an item in each thread. Ties are broken by the smaller item.

    Args:
        W: (U, I), non-negative.
        norm_I: (I,), or empty for the plain inner product.
        shrink: added to the product of norms.
        n_neighbors: entries kept per row.
        more_popular: only neighbours that come before the item in `popular_first` may be kept, and the result
            is in that numbering, strictly lower triangular, columns in order.
    """
    n_items = W.shape[1]
    by_count = popular_first(W).astype(np.int32)
    place = np.empty(n_items, np.int32)
    place[by_count] = np.arange(n_items, dtype=np.int32)
    by_item = parts(sparse.csr_matrix((W.data, place[W.indices], W.indptr), shape=W.shape).tocsc())
    rows = (parts(W)[0], np.empty(W.nnz, np.int32), np.empty(W.nnz, np.float32))
    before = np.empty(W.nnz, np.int64)
    _back_to_rows(by_item, rows, before)
    columns = (*by_item, before)
    k = min(n_neighbors, max(n_items - 1, 1))
    heaps = _Heaps(
        np.empty((n_items, k), np.uint64), np.zeros(n_items, np.int64), np.zeros(n_items, np.float32)
    )
    norms = (np.zeros(n_items, np.float32), np.float32(1.0))  # of the plain inner product
    if len(norm_I):
        norms = (norm_I[by_count].astype(np.float32), np.float32(shrink))
    number = np.arange(n_items, dtype=np.int32) if more_popular else by_count
    _fill(rows, columns, norms, number, heaps, offers_wanted=not more_popular)
    where = np.arange(n_items, dtype=np.int32) if more_popular else place
    start = np.concatenate([[0], np.cumsum(heaps.sizes[where])])
    item, score = np.empty(start[-1], np.int32), np.empty(start[-1], np.float32)
    _unpack(heaps, where, start, item, score.view(np.uint32))
    near = sparse.csr_matrix((score, item, start), shape=(n_items, n_items))
    near.sort_indices()
    return near


def popular_first(W: sparse.csr_matrix) -> np.ndarray:
    """Items by falling number of entries, ties by item. Shape (I,)."""
    return np.argsort(-np.bincount(W.indices, minlength=W.shape[1]), kind="stable")


Matrix = tuple[np.ndarray, np.ndarray, np.ndarray]
Columns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Row bounds of a matrix by column, rows, values, and where in its row each entry stands."""


@numba.njit(cache=True, nogil=True)
def _back_to_rows(by_item, rows, before):  # type: ignore[no-untyped-def]
    """Fill the rows, columns sorted, from the columns; and where in its row each entry of a column stands."""
    (t_start, t_row, t_value), (w_start, w_col, w_value) = by_item, rows
    free = w_start[:-1].copy()
    for j in range(len(t_start) - 1):
        for at in range(t_start[j], t_start[j + 1]):
            to = free[t_row[at]]
            free[t_row[at]] += 1
            w_col[to], w_value[to], before[at] = j, t_value[at], to


def _fill(
    rows: Matrix,
    columns: Columns,
    norms: tuple[np.ndarray, np.float32],
    number: IntArray,
    heaps: _Heaps,
    *,
    offers_wanted: bool,
) -> None:
    """Round after round: rows in threads, then their offers, those to one item in one thread."""
    n_items, k = heaps.keys.shape
    size = max(ROUND, n_items // 256)
    free: list[tuple[np.ndarray, ...]] = []

    def one_round(first: int, last: int) -> None:
        offered: list[tuple[np.ndarray, np.ndarray]] = []

        def work(lo: int, hi: int) -> None:
            try:
                scratch = free.pop()
            except IndexError:
                marks = np.full(n_items, -1, np.int32)
                scratch = (np.zeros(n_items, np.float32), marks, *scratch_for(n_items))
            span, state = (first + lo, first + hi), fresh(1, k)
            offered.append(_rows(span, rows, columns, norms, number, scratch, state, heaps, offers_wanted))
            free.append(scratch)

        def take(lo: int, hi: int) -> None:
            for to, key in offered:
                _take(lo, hi, to, key, heaps)

        in_threads(work, last - first, max(8, size // 64))
        if offers_wanted:
            in_threads(take, last, 1 + last // numba.get_num_threads())

    for first in range(0, n_items, size):
        one_round(first, min(n_items, first + size))


@numba.njit(cache=True, nogil=True, error_model="numpy")  # an item of nobody: 0 / 0 is NaN, never listed
def _rows(  # type: ignore[no-untyped-def]
    span, rows, columns, norms, number, scratch, state, heaps, offers_wanted
):
    """Rows of a span: their own lists, and the offers to others as (item, key)."""
    (w_start, w_col, w_value), (t_start, t_col, t_value, before) = rows, columns
    acc, mark, best, flags = scratch
    (norm_I, shrink), (key_IK, size_I, floor_I) = norms, heaps
    reached, listed = np.empty(span[1], np.int32), np.empty(span[1], np.int32)
    scores, wanted = np.empty(span[1], np.float32), np.empty(span[1] + 8, np.uint8)
    bits = scores.view(np.uint32)
    to, offer, n_offers = np.empty(1 << 12, np.int32), np.empty(1 << 12, np.uint64), 0
    for i in range(span[0], span[1]):
        n_steps = 0
        for at in range(t_start[i], t_start[i + 1]):
            n_steps += before[at] - w_start[t_col[at]]
        dense = 4 * n_steps > i
        if dense:  # plain sums over all items before i
            n = i
            acc[:i] = 0.0
            for at in range(t_start[i], t_start[i + 1]):
                value = t_value[at]
                for step in range(w_start[t_col[at]], before[at]):
                    acc[np.uint32(w_col[step])] += value * w_value[step]
            for j in range(i):
                score = acc[j] / (norm_I[i] * norm_I[j] + shrink)
                scores[j] = score if score > 0.0 else -np.inf
                wanted[j] = scores[j] >= floor_I[j]
            kept = best_keys(number, scores, n, key_IK.shape[1], state, (best, flags))
        else:
            n = 0
            for at in range(t_start[i], t_start[i + 1]):
                value = t_value[at]
                for step in range(w_start[t_col[at]], before[at]):
                    j = w_col[step]
                    if mark[j] != i:
                        mark[j] = i
                        acc[j] = 0.0
                        reached[n] = j
                        n += 1
                    acc[j] += value * w_value[step]
            for at in range(n):
                j = reached[at]
                score = acc[j] / (norm_I[i] * norm_I[j] + shrink)
                scores[at] = score if score > 0.0 else -np.inf
                wanted[at] = scores[at] >= floor_I[j]
                listed[at] = number[j]
            kept = best_keys(listed, scores, n, key_IK.shape[1], state, (best, flags))
        size_I[i] = kept
        state[0][0, :kept].sort()  # rising order is a min-heap
        key_IK[i, :kept] = state[0][0, :kept]
        if offers_wanted:
            who = np.empty(0, np.int32) if dense else reached
            to, offer, n_offers = _append(wanted, n, who, bits, number[i], to, offer, n_offers)
    return to[:n_offers].copy(), offer[:n_offers].copy()


@numba.njit(cache=True, nogil=True)
def _append(wanted, n, who, bits, item, to, offer, n_offers):  # type: ignore[no-untyped-def]
    """Append an offer of `item` for each of n flags; `who` names the receivers, empty where they are 0..n."""
    if n_offers + n > len(to):
        longer_to, longer_offer = (
            np.empty(2 * (n_offers + n), np.int32),
            np.empty(2 * (n_offers + n), np.uint64),
        )
        longer_to[:n_offers], longer_offer[:n_offers] = to[:n_offers], offer[:n_offers]
        to, offer = longer_to, longer_offer
    wanted[n : n + 8] = 0
    words = wanted[: (n + 7) // 8 * 8].view(np.uint64)
    for w in range(len(words)):
        if words[w]:
            for at in range(8 * w, 8 * w + 8):
                if wanted[at]:
                    to[n_offers] = who[at] if len(who) else at
                    offer[n_offers] = key_of(bits[at], item)
                    n_offers += 1
    return to, offer, n_offers


@numba.njit(cache=True, nogil=True)
def _take(lo, hi, to, key, heaps):  # type: ignore[no-untyped-def]
    """Put the offers to items lo..hi into their heaps."""
    key_IK, size_I, floor_I = heaps
    one = np.empty(1, np.uint32)
    for at in range(len(to)):
        j = to[at]
        if lo <= j < hi:
            size_I[j] = push(key_IK[j], size_I[j], key[at])
            if size_I[j] == key_IK.shape[1]:
                one[0] = score_bits(key_IK[j, 0])
                floor_I[j] = one.view(np.float32)[0]


@numba.njit(cache=True, nogil=True)
def _unpack(heaps, where, start, item, bits):  # type: ignore[no-untyped-def]
    """Row r of the result out of the heap at where[r]."""
    for r in range(len(where)):
        for at in range(heaps[1][where[r]]):
            key = heaps[0][where[r], at]
            item[start[r] + at] = item_of(key)
            bits[start[r] + at] = score_bits(key)
