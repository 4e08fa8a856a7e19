"""The k best of each row of a sparse product, without ever forming it.

    scores of query b over items:   q_b W,   q sparse (B, J), W sparse (J, I)

Only items that at least one entry of W reaches are listed: a list is never padded with items the model knows
nothing about, nor with excluded ones.
"""

import numba
import numpy as np
from scipy import sparse

from vitrina.ann.blocks import in_threads
from vitrina.ann.select import best_keys, drain, fresh, scratch_for
from vitrina.ann.topk import Jagged, TopK, empty_lists, limits
from vitrina.errors import UnknownItem
from vitrina.schema import BoolArray, IntArray

NOTHING = np.float32(-0.0)
"""Marks items not reached: no sum of products is -0.0 unless each of them is."""
NOTHING_BITS = np.uint32(0x80000000)


def top_k_sparse(
    query: sparse.csr_matrix,
    weights: sparse.csr_matrix,
    *,
    k: int,
    exclude: Jagged | None = None,
    allowed: BoolArray | None = None,
) -> TopK:
    """The k best reached items of each row of `query @ weights`.

    Cost: one multiply-add for each (entry of a query, entry of its row of `weights`), plus memory for
    one score an item in each thread; nothing of shape (B, I) is made.

    Args:
        query: (B, J), sparse rows.
        weights: (J, I), sparse rows.
        k: length of a list; cut to I.
        exclude: items that may not enter each row's list; a number that is no item excludes nothing.
        allowed: (I,), False excludes an item from every row.
    """
    n_queries, n_items = query.shape[0], weights.shape[1]
    lists = empty_lists(n_queries, min(k, n_items))
    banned, allowed = limits(n_queries, n_items, exclude, allowed)
    if not n_queries or not lists.item_ix.shape[1]:
        return lists
    limited = (banned.offsets, banned.item_ix, np.zeros(0, bool) if allowed is None else allowed)
    q, w, out = parts(query), parts(weights), (lists.item_ix, lists.score.view(np.uint32))

    def work(lo: int, hi: int) -> None:
        scratch = (np.zeros(n_items, np.float32), np.zeros(n_items, np.int32))
        lists_of = (fresh(1, out[0].shape[1]), scratch_for(n_items))
        _rows_of_product(lo, hi, q, w, limited, scratch, lists_of, out)

    in_threads(work, n_queries, max(64, n_queries // 32))
    return lists


def parts(matrix: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row bounds, columns and values in the types that the kernels are compiled for."""
    return (
        np.asarray(matrix.indptr, dtype=np.int64),
        np.asarray(matrix.indices, dtype=np.int32),
        np.asarray(matrix.data, dtype=np.float32),
    )


@numba.njit(cache=True, nogil=True)
def _rows_of_product(lo, hi, query, weights, limits, scratch, lists_of, out):  # type: ignore[no-untyped-def]
    """Rows lo..hi. `scratch`: (I,) sums and (I,) marks, stamp where reached, -stamp where banned."""
    (q_start, q_col, q_value), (w_start, w_col, w_value) = query, weights
    (banned_start, banned_item, allowed), (acc, mark), (item_BK, bits_BK) = limits, scratch, out
    reached = np.empty(len(acc), np.int32)
    scores = np.empty(len(acc), np.float32)
    bits = scores.view(np.uint32)
    everything = np.arange(len(acc)).astype(np.int32)
    for b in range(lo, hi):
        n_steps = 0
        for at in range(q_start[b], q_start[b + 1]):
            n_steps += w_start[q_col[at] + 1] - w_start[q_col[at]]
        if 4 * n_steps > len(acc):  # many items are reached: plain sums over all of them, then a pass
            scores[:] = NOTHING
            for at in range(q_start[b], q_start[b + 1]):
                value, j = q_value[at], q_col[at]
                for to in range(w_start[j], w_start[j + 1]):
                    scores[np.uint32(w_col[to])] += value * w_value[to]
            for i in range(len(scores)):
                scores[i] = -np.inf if bits[i] == NOTHING_BITS else scores[i]
            for at in range(banned_start[b], banned_start[b + 1]):
                scores[banned_item[at]] = -np.inf
            for i in range(len(allowed)):
                scores[i] = scores[i] if allowed[i] else -np.inf
            _best_listed(everything, scores, len(acc), lists_of, item_BK[b], bits_BK[b])
            continue
        stamp = np.int32(b - lo + 1)
        for at in range(banned_start[b], banned_start[b + 1]):
            mark[banned_item[at]] = -stamp
        n = 0
        for at in range(q_start[b], q_start[b + 1]):
            value, j = q_value[at], q_col[at]
            for to in range(w_start[j], w_start[j + 1]):
                i = w_col[to]
                if mark[i] == stamp:
                    acc[i] += value * w_value[to]
                elif mark[i] != -stamp:
                    mark[i] = stamp
                    acc[i] = value * w_value[to]
                    reached[n] = i
                    n += 1
        for at in range(n):
            i = reached[at]
            scores[at] = acc[i] if len(allowed) == 0 or allowed[i] else -np.inf
        _best_listed(reached, scores, n, lists_of, item_BK[b], bits_BK[b])


@numba.njit(cache=True, nogil=True)
def _best_listed(items, scores, n, lists_of, item_K, bits_K):  # type: ignore[no-untyped-def]
    """Write the best of n listed pairs to a list; `lists_of` is state and scratch of `best_keys`."""
    state, scratch = lists_of
    k = len(item_K)
    best_keys(items, scores, n, k, state, scratch)
    drain(k, state, (item_K.reshape(1, k), bits_K.reshape(1, k)))


def similar_rows(weights: sparse.csr_matrix, item_ix: IntArray, *, k: int) -> TopK:
    """The k largest entries of rows of an item-item matrix without the diagonal. Shape (n, min(k, I))."""
    item_ix = check_items(item_ix, weights.shape[0])
    n = len(item_ix)
    bounds = np.arange(n + 1, dtype=np.int64)
    one_hot = sparse.csr_matrix((np.ones(n, np.float32), item_ix, bounds), shape=(n, weights.shape[0]))
    return top_k_sparse(one_hot, weights, k=k, exclude=Jagged(bounds, item_ix))


def check_items(item_ix: IntArray, n_items: int) -> IntArray:
    """The items as an int32 array, refused where one is outside the vocabulary.

    Raises:
        UnknownItem: names the first such item_ix.
    """
    item_ix = np.atleast_1d(np.asarray(item_ix, dtype=np.int32))
    outside = (item_ix < 0) | (item_ix >= n_items)
    if outside.any():
        raise UnknownItem(
            f"item_ix {item_ix[outside][0]} is not in the model's vocabulary of {n_items} items"
        )
    return item_ix
