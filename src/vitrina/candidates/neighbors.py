"""The nearest items of every item, by inner products of sparse columns, in bounded memory."""

import numba
import numpy as np
from scipy import sparse

from vitrina.ann.blocks import in_threads
from vitrina.ann.select import fresh, scratch_for
from vitrina.ann.sparse import best_listed, parts
from vitrina.schema import FloatArray

HEAD = 6144
"""Most popular items whose products are kept in a dense table of 4 HEAD^2 bytes, 151 MB: most of the work is
among them, and there each pair is added up once instead of twice."""
MIRROR = 64
"""Side of the squares in which the table is mirrored."""


def nearest_items(
    W: sparse.csr_matrix,
    norm_I: np.ndarray,
    *,
    shrink: float = 0.0,
    n_neighbors: int,
    more_popular: bool = False,
) -> sparse.csr_matrix:
    """The n_neighbors largest positive <w_i, w_j> / (norm_i norm_j + shrink), j != i, of each row i.

    Items are numbered anew by falling popularity while this runs, so that the accumulators that most
    multiply-adds hit lie together in cache.

    Args:
        W: (U, I), non-negative.
        norm_I: (I,), or empty for the plain inner product.
        shrink: added to the product of norms.
        n_neighbors: entries kept per row.
        more_popular: only neighbours that come before the item in `popular_first` may be kept, and the result
        is in that numbering, strictly lower triangular, columns in order.
    """
    n_items = W.shape[1]
    by_count = popular_first(W)
    renumbered = np.empty(n_items, np.int32)
    renumbered[by_count] = np.arange(n_items, dtype=np.int32)
    by_item = sparse.csr_matrix((W.data, renumbered[W.indices], W.indptr), shape=W.shape).tocsc()
    rows, columns = parts(by_item.tocsr()), parts(by_item)  # there and back: rows come out sorted
    n_head = 0 if more_popular else min(n_items, HEAD)
    head = _products_of_head(rows, columns, n_head)
    k = min(n_neighbors, max(n_items - 1, 1))
    item_IK = np.full((n_items, k), -1, np.int32)
    score_IK = np.zeros((n_items, k), np.float32)
    norms = (norm_I[by_count] if len(norm_I) else norm_I, np.float32(shrink))
    numbering = np.arange(n_items) if more_popular else by_count
    numbering, out = numbering.astype(np.int32), (item_IK, score_IK.view(np.uint32))

    def work(lo: int, hi: int) -> None:
        scratch = (np.zeros(n_items, np.float32), np.full(n_items, -1, np.int32))
        lists_of = (fresh(1, k), scratch_for(n_items))
        _neighbors(lo, hi, rows, columns, head, norms, numbering, more_popular, scratch, lists_of, out)

    in_threads(work, n_items, max(16, n_items // 256))
    kept = item_IK >= 0
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    near = sparse.csr_matrix((score_IK[kept], item_IK[kept], indptr), shape=(n_items, n_items))
    near.sort_indices()
    return near


Matrix = tuple[np.ndarray, np.ndarray, np.ndarray]


def _products_of_head(rows: Matrix, columns: Matrix, n_head: int) -> FloatArray:
    """<w_i, w_j> of the first n_head items, each pair added up once. Shape (n_head, n_head)."""
    head = np.zeros((n_head, n_head), np.float32)
    start, col, _ = rows
    place = sparse.csr_matrix((np.arange(len(col)), col, start), shape=(len(start) - 1, len(columns[0]) - 1))
    place = place.tocsc().data.astype(np.int64)  # where in its row each entry of a column stands
    in_threads(lambda lo, hi: _lower_triangle(lo, hi, rows, columns, place, head), n_head, 64)
    in_threads(lambda lo, hi: _mirror(lo, hi, head), n_head, MIRROR)
    return head


@numba.njit(cache=True, nogil=True)
def _lower_triangle(lo, hi, rows, columns, place, head):  # type: ignore[no-untyped-def]
    (w_start, w_col, w_value), (t_start, t_col, t_value) = rows, columns
    for i in range(lo, hi):
        row = head[i]
        for at in range(t_start[i], t_start[i + 1]):
            value = t_value[at]
            for to in range(w_start[t_col[at]], place[at]):
                row[np.uint32(w_col[to])] += value * w_value[to]


@numba.njit(cache=True, nogil=True)
def _mirror(lo, hi, head):  # type: ignore[no-untyped-def]
    """Copy the lower triangle of columns lo..hi to the upper one, square by square."""
    for top in range(lo, len(head), MIRROR):
        for i in range(top, min(top + MIRROR, len(head))):
            for j in range(lo, min(hi, i)):
                head[j, i] = head[i, j]


@numba.njit(cache=True, nogil=True, error_model="numpy")  # an item of nobody: 0 / 0 is NaN, never listed
def _neighbors(  # type: ignore[no-untyped-def]
    lo, hi, rows, columns, head, norms, original, more_popular, scratch, lists_of, out
):
    """Items lo..hi of the new numbering, written at their original places; `scratch`: (I,) sums, marks."""
    (w_start, w_col, w_value), (t_start, t_col, t_value) = rows, columns
    (acc, mark), (item_IK, bits_IK), (norm_I, shrink) = scratch, out, norms
    n_head = len(head)
    reached = np.empty(len(acc), np.int32)
    scores = np.empty(len(acc), np.float32)
    for i in range(lo, hi):
        known = n_head if i < n_head else 0  # products with items below are in the table
        for j in range(known):
            reached[j] = j
            acc[j] = head[i, j]
        n = known
        all_known = known == len(acc)
        for at in range(t_start[i + 1] if all_known else t_start[i], t_start[i + 1]):
            u, value = t_col[at], t_value[at]
            first = w_start[u]
            if known:
                first += np.searchsorted(w_col[w_start[u] : w_start[u + 1]], known)
            for to in range(first, w_start[u + 1]):
                j = w_col[to]
                if more_popular and j >= i:
                    break
                if mark[j] != i:
                    mark[j] = i
                    acc[j] = 0.0
                    reached[n] = j
                    n += 1
                acc[j] += value * w_value[to]
        for at in range(n):
            j = reached[at]
            score = acc[j]
            if len(norm_I):
                score /= norm_I[i] * norm_I[j] + shrink
            scores[at] = score if score > 0.0 and j != i else -np.inf
            reached[at] = original[j]
        best_listed(reached, scores, n, lists_of, item_IK[original[i]], bits_IK[original[i]])


def popular_first(W: sparse.csr_matrix) -> np.ndarray:
    """Items by falling number of entries, ties by item. Shape (I,)."""
    return np.argsort(-np.bincount(W.indices, minlength=W.shape[1]), kind="stable")
