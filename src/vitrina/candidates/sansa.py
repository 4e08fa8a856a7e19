"""SANSA: EASE^R with a sparse approximate inverse, for catalogues whose dense inverse does not fit
(Spišák, Bartyzal, Hoskovec, Peška, Tůma, RecSys 2023, doi 10.1145/3604915.3608827).

Notation, items numbered by falling popularity                                     shape
    X    1 if user u touched item i                                                (U, I)
    G    X^T X + lambda I                                                          (I, I)
    K    unit lower triangular, n_neighbors entries a row: K G K^T ~ D             (I, I)
    D    what item i keeps unexplained by the more popular items it leans on       (I,)
    P    K^T D^-1 K ~ G^-1, never formed; P_jj = sum_i K_ij^2 / D_i                (I, I)
    score_j = x_j - (x P)_j / P_jj, which is x B of EASE

Row i of K is a ridge regression of item i on a set S_i of more popular items, those of largest
G_ij / sqrt(G_ii G_jj): K_i,S = -G_SS^-1 G_Si, D_i = G_ii + K_i,S G_Si. With all more popular items in S_i it
is the exact inverse of the Cholesky factor, and SANSA is EASE.

NOTE[DIFF] paper: an incomplete factorisation G ~ L D L^T with a fill-reducing order, then an approximate
inverse of L by minimal residual steps; here: the inverse factor itself on a given pattern (factorised sparse
approximate inverse: Kolotilina and Yeremin, SIAM J. Matrix Anal. Appl. 14, 1993), popular items first;
because it is the best K on its pattern, never breaks down, its rows are independent work, and no SuiteSparse
is needed.
NOTE[DIFF] paper: density of the weight matrices; here: n_neighbors = density * I.
Cost to fit: the neighbours (see ItemKNN), then I n^3 / 3 multiply-adds, I n^2 / 2 intersections of user
lists.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numba
import numpy as np
from scipy import sparse

from vitrina.ann import Jagged, TopK, empty_lists, top_k
from vitrina.ann.blocks import in_threads
from vitrina.ann.lanes import add_rows
from vitrina.ann.sparse import check_items, parts
from vitrina.candidates.ease import gram
from vitrina.candidates.neighbors import nearest_items, popular_first
from vitrina.estimator import Estimator, check_positive, fitted
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.schema import BoolArray, DoubleArray, FloatArray, IntArray

LANES = 32
"""Queries that one pass over K answers together."""
BLOCK_BYTES = 64 << 20
"""Size of the dense block of scores of one step of `retrieve`, at least LANES rows."""
ITEMS_OF_A_THREAD = 1 << 14
"""Larger catalogues are cut among threads by items, smaller ones by queries."""
HEAD = 4096
"""Most popular items whose pairs are counted once, in a dense table of 4 HEAD^2 bytes."""


@dataclass(kw_only=True, eq=False)
class SANSA(Estimator):
    """Nearly EASE, in memory that grows with the number of items instead of its square.

    Use when: I > 30k, or EASE is too slow. See also: Ease (exact), DualEase (exact where users are few).
    """

    reg: float = 500.0
    """lambda, in units of interactions, as in `Ease`."""
    n_neighbors: int = 100
    """More popular items that an item is regressed on; the density of K is n_neighbors / I."""
    max_len: int | None = None
    """Latest rows of each training history to learn from; None takes all. The time to find neighbours grows
    with the sum of the squared lengths, which a cap bounds where a few people have very long histories."""
    items_: Ids = fitted()
    order_: IntArray = fitted()
    """item_ix by falling popularity. Shape (I,)."""
    factor_: sparse.csr_matrix = fitted()
    """K without its unit diagonal, in the order of `order_`. Shape (I, I)."""
    transposed_: sparse.csr_matrix = fitted()
    """Its transpose, so that both products gather. Shape (I, I)."""
    unexplained_: FloatArray = fitted()
    """D in the order of `order_`. Shape (I,)."""
    diagonal_: FloatArray = fitted()
    """P_jj in the order of `order_`. Shape (I,)."""

    def __post_init__(self) -> None:
        check_positive(self, reg=self.reg, n_neighbors=self.n_neighbors)
        check_positive(self, max_len=1 if self.max_len is None else self.max_len)

    def fit(self, train: Histories) -> Self:
        """Regress every item on its more popular neighbours; returns self."""
        X = (train if self.max_len is None else train.last(self.max_len)).user_item()
        norm_I = np.sqrt(np.bincount(X.indices, minlength=train.n_items) + self.reg).astype(np.float32)
        near = nearest_items(X, norm_I, n_neighbors=self.n_neighbors, more_popular=True)
        order = popular_first(X)
        pattern = completed(near, self.n_neighbors)
        del near
        K, D = inverse_factor(X.tocsc()[:, order], pattern, self.reg)
        transposed = K.T.tocsr()
        P_jj = np.empty(len(D))
        in_threads(lambda lo, hi: _diagonal(lo, hi, parts(transposed), D, P_jj), len(D), 4096)
        self.items_, self.order_ = train.items, order.astype(np.int32)
        self.factor_, self.transposed_ = K, transposed
        self.unexplained_, self.diagonal_ = D.astype(np.float32), P_jj.astype(np.float32)
        return self

    def retrieve(
        self, queries: Histories, *, k: int, exclude: Jagged | None = None, allowed: BoolArray | None = None
    ) -> TopK:
        """The k best items of each history; an empty history gets an empty list.

        Cost: 2 I n_neighbors multiply-adds a query, 32 queries at a time.

        Args:
            queries: B histories.
            k: length of a list; cut to I.
            exclude: items that may not enter each query's list.
            allowed: (I,), False excludes an item from every list.
        """
        queries = queries.reindex(self.items_)
        lists = empty_lists(len(queries), min(k, len(self.items_)))
        groups = max(1, BLOCK_BYTES // (4 * LANES * max(1, len(self.items_))))
        for lo, block in queries.blocks(max_users=LANES * groups):
            score_BI = self._scores(block.user_item())
            score_BI[block.lengths == 0] = -np.inf
            banned = None if exclude is None else exclude.span(lo, lo + len(block))
            part = top_k(score_BI, k=k, exclude=banned, allowed=allowed)
            lists.item_ix[lo : lo + len(block)], lists.score[lo : lo + len(block)] = part.item_ix, part.score
        return lists

    def similar(self, item_ix: IntArray, *, k: int) -> TopK:
        """Items whose score one interaction with the given item raises most. Shape (n, k)."""
        item_ix = check_items(item_ix, len(self.items_))
        alone = Histories.from_lists(self.items_, [[value] for value in self.items_.take(item_ix)])[0]
        return self.retrieve(alone, k=k, exclude=Jagged(alone.offsets, item_ix))

    def _scores(self, X: sparse.csr_matrix) -> FloatArray:
        """X - (x P) / diag(P) of each row of X, LANES rows at a time. Shape (B, I)."""
        n_items = len(self.order_)
        score_BI = np.empty(X.shape, np.float32)
        place = np.empty(n_items, np.int32)
        place[self.order_] = np.arange(n_items, dtype=np.int32)
        start, item, value = parts(X)
        K, transposed = parts(self.factor_), parts(self.transposed_)

        def group(first: int, over_items: Callable[[Callable[[int, int], object]], None]) -> None:
            rows = slice(first, min(first + LANES, X.shape[0]))
            x_IL, z_IL = np.zeros((n_items, LANES), np.float32), np.empty((n_items, LANES), np.float32)
            cells = slice(start[rows.start], start[rows.stop])
            lane = np.repeat(np.arange(rows.stop - first), np.diff(start[first : rows.stop + 1]))
            x_IL[place[item[cells]], lane] = value[cells]
            over_items(lambda lo, hi: _encode(lo, hi, K, self.unexplained_, x_IL, z_IL))
            how = (self.diagonal_, self.order_)
            over_items(lambda lo, hi: _decode(lo, hi, transposed, how, x_IL, z_IL, score_BI[rows]))

        def whole(work: Callable[[int, int], object]) -> None:
            work(0, n_items)

        if n_items > ITEMS_OF_A_THREAD:
            for first in range(0, X.shape[0], LANES):
                group(first, lambda work: in_threads(work, n_items, ITEMS_OF_A_THREAD))
        else:
            in_threads(lambda lo, _: group(lo, whole), X.shape[0], LANES)
        return score_BI


def completed(near: sparse.csr_matrix, n_neighbors: int) -> sparse.csr_matrix:
    """The pattern with every row i filled up to min(n_neighbors, i) entries by the most popular items it
    lacks.

    That two items never meet tells something too; without such pairs no density would make SANSA exact.
    """
    start = np.concatenate([[0], np.cumsum(np.minimum(np.arange(near.shape[0]), n_neighbors))])
    col = np.empty(start[-1], np.int32)
    _complete(near.indptr.astype(np.int64), near.indices.astype(np.int32), start, col)
    return sparse.csr_matrix((np.ones(len(col), np.int8), col, start), shape=near.shape)


@numba.njit(cache=True, nogil=True)
def _complete(near_start, near_col, start, col):  # type: ignore[no-untyped-def]
    for i in range(len(start) - 1):
        lo, hi = near_start[i], near_start[i + 1]
        left = start[i + 1] - start[i] - (hi - lo)
        to, at, j = start[i], lo, 0
        while to < start[i + 1]:
            if at < hi and (near_col[at] == j or left == 0):
                j = near_col[at]
                col[to] = j
                to, at = to + 1, at + 1
            elif left > 0:
                col[to] = j
                to, left = to + 1, left - 1
            j += 1


def inverse_factor(
    X: sparse.csc_matrix, pattern: sparse.csr_matrix, reg: float
) -> tuple[sparse.csr_matrix, DoubleArray]:
    """K without its unit diagonal, and D.

    Args:
        X: (U, I), 0 or 1, items by falling popularity.
        pattern: (I, I) strictly lower triangular; where K may have entries. Its columns are in order.
        reg: lambda, > 0.
    """
    X.sort_indices()
    items = (X.indptr.astype(np.int64), X.indices.astype(np.int32))
    where = (pattern.indptr.astype(np.int64), pattern.indices.astype(np.int32))
    head = gram(X[:, :HEAD].tocsr()).astype(np.float32)
    value, D = np.zeros(pattern.nnz, np.float32), np.zeros(X.shape[1])
    in_threads(lambda lo, hi: _regress(lo, hi, items, where, head, reg, (value, D)), X.shape[1], 64)
    return sparse.csr_matrix((value, where[1], where[0]), shape=pattern.shape), D


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc", "nsz"})
def _regress(lo, hi, items, where, head, reg, out):  # type: ignore[no-untyped-def]
    """Rows lo..hi of K and D: a Cholesky solve of each item's little ridge regression."""
    (start, cols), (value, D) = where, out
    n_max = 0
    for i in range(lo, hi):
        n_max = max(n_max, start[i + 1] - start[i])
    A, w = np.empty((n_max, n_max)), np.empty(n_max)
    for i in range(lo, hi):
        S = cols[start[i] : start[i + 1]]
        n = len(S)
        own = _together(i, i, items, head) + reg
        for a in range(n):
            for b in range(a):
                A[a, b] = _together(S[b], S[a], items, head)
            A[a, a] = _together(S[a], S[a], items, head) + reg
            w[a] = _together(S[a], i, items, head)
        D[i] = own
        for a in range(n):
            for b in range(a + 1):
                total = A[a, b]
                for c in range(b):
                    total -= A[a, c] * A[b, c]
                A[a, b] = np.sqrt(total) if a == b else total / A[b, b]
            for c in range(a):
                w[a] -= A[a, c] * w[c]
            w[a] /= A[a, a]
            D[i] -= w[a] * w[a]  # G_iS G_SS^-1 G_Si = |L^-1 G_Si|^2
        for a in range(n - 1, -1, -1):
            w[a] /= A[a, a]
            for c in range(a):
                w[c] -= A[a, c] * w[a]
            value[start[i] + a] = -w[a]


@numba.njit(cache=True, nogil=True)
def _together(i, j, items, head):  # type: ignore[no-untyped-def]
    """Users of both i and j, i <= j: from the table, or each user of j, the rarer, sought in those of i."""
    start, user = items
    if i == j:
        return np.float64(start[i + 1] - start[i])
    if j < len(head):
        return np.float64(head[i, j])
    n = 0
    lo, hi = start[i], start[i + 1]
    for at in range(start[j], start[j + 1]):
        left, right = lo, hi
        while left < right:
            middle = (left + right) >> 1
            if user[middle] < user[at]:
                left = middle + 1
            else:
                right = middle
        lo = left
        if lo < hi and user[lo] == user[at]:
            n += 1
    return np.float64(n)


@numba.njit(cache=True, nogil=True)
def _diagonal(lo, hi, transposed, D, P_jj):  # type: ignore[no-untyped-def]
    """Items lo..hi of diag(K^T D^-1 K)."""
    start, row, value = transposed
    for j in range(lo, hi):
        P_jj[j] = 1.0 / D[j]
        for at in range(start[j], start[j + 1]):
            P_jj[j] += np.float64(value[at]) ** 2 / D[row[at]]


@numba.njit(cache=True, nogil=True)
def _encode(lo, hi, K, D, x_IL, z_IL):  # type: ignore[no-untyped-def]
    """Z = D^-1 K x, rows lo..hi."""
    start, col, value = K
    acc = np.empty(LANES, np.float32)
    for i in range(lo, hi):
        for lane in range(LANES):
            acc[lane] = x_IL[i, lane]
        add_rows(start[i], start[i + 1], col, value, x_IL, acc)
        for lane in range(LANES):
            z_IL[i, lane] = acc[lane] / D[i]


@numba.njit(cache=True, nogil=True)
def _decode(lo, hi, transposed, how, x_IL, z_IL, score_BI):  # type: ignore[no-untyped-def]
    """X - K^T z / diag(P) for items lo..hi, written at their own item_ix."""
    (start, row, value), (diagonal, order) = transposed, how
    acc = np.empty(LANES, np.float32)
    for j in range(lo, hi):
        for lane in range(LANES):
            acc[lane] = z_IL[j, lane]
        add_rows(start[j], start[j + 1], row, value, z_IL, acc)
        for b in range(len(score_BI)):
            score_BI[b, order[j]] = x_IL[j, b] - acc[b] / diagonal[j]
