"""The nearest items of every item, by inner products of sparse columns, in bounded memory."""

import numba
import numpy as np
from scipy import sparse

from vitrina.ann.blocks import in_threads
from vitrina.ann.select import fresh, scratch_for
from vitrina.ann.sparse import best_listed, parts


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
        more_popular: only neighbours that come before the item in `popular_first` may be kept.
    """
    n_items = W.shape[1]
    by_count = popular_first(W)
    renumbered = np.empty(n_items, np.int32)
    renumbered[by_count] = np.arange(n_items, dtype=np.int32)
    W = sparse.csr_matrix((W.data, renumbered[W.indices], W.indptr), shape=W.shape)
    W.sort_indices()
    rows, columns = parts(W), parts(W.T.tocsr())
    k = min(n_neighbors, max(n_items - 1, 1))
    item_IK = np.full((n_items, k), -1, np.int32)
    score_IK = np.zeros((n_items, k), np.float32)
    norm_I = norm_I[by_count] if len(norm_I) else norm_I
    numbering, out = by_count.astype(np.int32), (item_IK, score_IK.view(np.uint32))

    def work(lo: int, hi: int) -> None:
        scratch = (np.zeros(n_items, np.float32), np.full(n_items, -1, np.int32))
        lists_of = (fresh(1, k), scratch_for(n_items))
        norms = (norm_I, np.float32(shrink))
        _neighbors(lo, hi, rows, columns, norms, numbering, more_popular, scratch, lists_of, out)

    in_threads(work, n_items, max(16, n_items // 256))
    kept = item_IK >= 0
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return sparse.csr_matrix((score_IK[kept], item_IK[kept], indptr), shape=(n_items, n_items))


@numba.njit(cache=True, nogil=True)
def _neighbors(lo, hi, rows, columns, norms, original, more_popular, scratch, lists_of, out):  # type: ignore[no-untyped-def]
    """Items lo..hi of the new numbering, written at their original places; `scratch`: (I,) sums, marks."""
    (w_start, w_col, w_value), (t_start, t_col, t_value) = rows, columns
    (acc, mark), (item_IK, bits_IK), (norm_I, shrink) = scratch, out, norms
    reached = np.empty(len(acc), np.int32)
    scores = np.empty(len(acc), np.float32)
    for i in range(lo, hi):
        n = 0
        for at in range(t_start[i], t_start[i + 1]):
            u, value = t_col[at], t_value[at]
            for to in range(w_start[u], w_start[u + 1]):
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
