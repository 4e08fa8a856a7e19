"""EASE^R: a linear item-item autoencoder with a closed form (Steck, WWW 2019, arXiv:1905.03375).

Notation (section 3)                                             shape
    X   1 if user u touched item i                               (U, I)
    G   X^T X + lambda I                                         (I, I)
    B   B_ij = -P_ij / P_jj, P = G^-1, diag(B) = 0               (I, I)   closed form
    score = x B, x = 1s of a query's history

B minimises |X - X B|^2 + lambda |B|^2 subject to diag(B) = 0: each item from all others.
Cost: 12 I^2 bytes and I^3 multiply-adds to fit (a Cholesky factorisation and the inverse from it, float64),
4 I^2 bytes after. NOTE[DIFF]: none. Use when: I < 30k. See also: SANSA (larger I), ItemKNN.
"""

from dataclasses import dataclass
from typing import Self

import numba
import numpy as np
from scipy import sparse
from scipy.linalg import lapack

from vitrina.ann import Jagged, TopK, empty_lists, top_k
from vitrina.ann.blocks import in_threads
from vitrina.ann.lanes import add_rows
from vitrina.ann.sparse import check_items, parts
from vitrina.errors import ConfigError
from vitrina.estimator import Estimator, check_positive, fitted
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.schema import BoolArray, DoubleArray, FloatArray, IntArray

BLOCK_BYTES = 32 << 20
"""Size of the dense block of scores of one step of `retrieve`."""
TILE = 64
"""Columns of B that one pass over a history adds up: 64 I floats stay in L2 for I of a few thousand."""


def ease_weights(X: sparse.csr_matrix, reg: float) -> FloatArray:
    """B of the closed form. Shape (I, I).

    Args:
        X: (U, I), non-negative.
        reg: lambda, > 0, which makes G positive definite.
    """
    G = gram(X)
    G[np.diag_indices_from(G)] += reg
    P, info = lapack.dpotrf(G.T, lower=1, clean=0, overwrite_a=1)
    if info == 0:
        P, info = lapack.dpotri(P, lower=1, overwrite_c=1)
    if info:
        raise ConfigError(f"Ease.reg={reg} is too small for this log: G is not positive definite; raise it")
    B = np.empty(G.shape, np.float32)
    diagonal = P.diagonal().copy()
    in_threads(lambda lo, hi: _weights_from_inverse(lo, hi, P.T, diagonal, B), len(B), 256)
    return B


def gram(X: sparse.csr_matrix) -> DoubleArray:
    """X^T X, dense, of which the upper triangle (row <= column) is filled. Shape (I, I)."""
    G = np.zeros((X.shape[1], X.shape[1]))
    X = X.sorted_indices()
    start, col, value = parts(X)
    t_start, t_col, t_value = parts(X.T.tocsr())
    in_threads(lambda lo, hi: _gram_rows(lo, hi, start, col, value, t_start, t_col, t_value, G), len(G), 64)
    return G


SMALL = 1 << 23
"""Multiply-adds below which a product stays in its thread: starting others would take longer."""


@dataclass(kw_only=True, eq=False)
class Ease(Estimator):
    """The strongest linear model for catalogues of up to some ten thousand items."""

    reg: float = 500.0
    """lambda, in units of interactions: larger leans on popularity, smaller trusts rare pairs."""
    memory_gb: float = 12.0
    """`fit` refuses a catalogue that needs more than this, 12 I^2 bytes; 12 GB hold 31 thousand items."""
    items_: Ids = fitted()
    weights_: FloatArray = fitted()
    """B, (I, I)."""

    def __post_init__(self) -> None:
        check_positive(self, reg=self.reg, memory_gb=self.memory_gb)

    def fit(self, train: Histories) -> Self:
        """Solve for B; returns self.

        Raises:
            ConfigError: the catalogue is too large for a dense inverse.
        """
        need_gb = 12 * train.n_items**2 / 1e9
        if need_gb > self.memory_gb:
            raise ConfigError(
                f"Ease needs {need_gb:,.1f} GB for {train.n_items:,} items, more than memory_gb="
                f"{self.memory_gb:g}; use SANSA, which keeps the inverse sparse, or raise memory_gb"
            )
        self.items_ = train.items
        self.weights_ = ease_weights(train.user_item(), self.reg)
        return self

    def retrieve(
        self, queries: Histories, *, k: int, exclude: Jagged | None = None, allowed: BoolArray | None = None
    ) -> TopK:
        """The k best items of each history; an empty history gets an empty list.

        Cost: (distinct items of the history) * I multiply-adds a query, in blocks of 32 MB of scores.

        Args:
            queries: B histories.
            k: length of a list; cut to I.
            exclude: items that may not enter each query's list.
            allowed: (I,), False excludes an item from every list.
        """
        queries = queries.reindex(self.items_)
        n_items = len(self.items_)
        lists = empty_lists(len(queries), min(k, n_items))
        for lo, block in queries.blocks(max_users=max(1, BLOCK_BYTES // (4 * max(n_items, 1)))):
            hi = lo + len(block)
            score_BI = rows_times_dense(block.user_item(), self.weights_)
            score_BI[block.lengths == 0] = -np.inf
            banned = None if exclude is None else exclude.span(lo, hi)
            part = top_k(score_BI, k=k, exclude=banned, allowed=allowed)
            lists.item_ix[lo:hi], lists.score[lo:hi] = part.item_ix, part.score
        return lists

    def similar(self, item_ix: IntArray, *, k: int) -> TopK:
        """Items whose score one interaction with the given item raises most. Shape (n, k)."""
        item_ix = check_items(item_ix, len(self.items_))
        itself = Jagged(np.arange(len(item_ix) + 1, dtype=np.int64), item_ix)
        return top_k(self.weights_[item_ix], k=k, exclude=itself)


def rows_times_dense(X: sparse.csr_matrix, B: FloatArray) -> FloatArray:
    """X B for sparse rows and a dense matrix. Shape (rows of X, columns of B)."""
    out = np.empty((X.shape[0], B.shape[1]), np.float32)
    start, col, value = parts(X)
    if X.nnz * B.shape[1] < SMALL:
        _sum_row_by_row(start, col, value, B, out)
    else:
        in_threads(lambda lo, hi: _sum_of_rows(lo, hi, start, col, value, B, out), B.shape[1], TILE * 8)
    return out


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
def _sum_row_by_row(start, col, value, B, out):  # type: ignore[no-untyped-def]
    """X B for few rows: every row of B is read once, from left to right. The same sums in the same order."""
    out[:] = 0.0
    for b in range(len(start) - 1):
        total = out[b]
        for at in range(start[b], start[b + 1]):
            x, row = value[at], B[col[at]]
            for c in range(B.shape[1]):
                total[c] += x * row[c]


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
def _sum_of_rows(lo, hi, start, col, value, B, out):  # type: ignore[no-untyped-def]
    """Columns lo..hi of X B, TILE at a time, copied together first: strides of I floats miss the TLB."""
    acc = np.empty(TILE, np.float32)
    tile = np.zeros((len(B), TILE), np.float32)
    for left in range(lo, hi, TILE):
        width = min(TILE, hi - left)
        for j in range(len(B)):
            for c in range(width):
                tile[j, c] = B[j, left + c]
        for b in range(len(start) - 1):
            acc[:] = 0.0
            add_rows(start[b], start[b + 1], col, value, tile, acc)
            for c in range(width):
                out[b, left + c] = acc[c]


@numba.njit(cache=True, nogil=True)
def _gram_rows(lo, hi, start, col, value, t_start, t_col, t_value, G):  # type: ignore[no-untyped-def]
    """Rows lo..hi of the upper triangle of X^T X; columns within a row of X are sorted."""
    for i in range(lo, hi):
        row = G[i]
        for at in range(t_start[i], t_start[i + 1]):
            u, x = t_col[at], np.float64(t_value[at])
            for to in range(start[u + 1] - 1, start[u] - 1, -1):
                j = col[to]
                if j < i:
                    break
                row[j] += x * value[to]


@numba.njit(cache=True, nogil=True)
def _weights_from_inverse(lo, hi, P, diagonal, B):  # type: ignore[no-untyped-def]
    """Rows lo..hi of B from the upper triangle of P."""
    for i in range(lo, hi):
        for j in range(len(B)):
            p = P[i, j] if i <= j else P[j, i]
            B[i, j] = -p / diagonal[j]
        B[i, i] = 0.0
