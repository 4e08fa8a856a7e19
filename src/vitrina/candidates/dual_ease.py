"""EASE^R solved among users: the same weights, exact, where users are few and items many.

Notation (Steck, WWW 2019, arXiv:1905.03375, section 3)              shape
    X   1 if user u touched item i                                   (U, I)
    P   (X^T X + lambda I)^-1, never formed                          (I, I)
    K   X X^T + lambda I                                             (U, U)
    d   d_j = x_j^T K^-1 x_j, x_j the users of item j                (I,)

By the Woodbury identity P = (I - X^T K^-1 X) / lambda, so P_jj = (1 - d_j) / lambda, and since
B = I - P diag(1 / P_jj), the scores of a query q are

    q B = q - (q - s) / (1 - d),    s = (q X^T) K^-1 X

Cost: 12 U^2 bytes and U^3 multiply-adds to fit, 4 U^2 bytes and X after; a query costs U^2 + (entries of X)
multiply-adds. NOTE[DIFF] paper: the inverse among items; here: among users; because G of 600 thousand items
would take 3 TB. Use when: U < 30k < I. See also: Ease (small I), SANSA (both large).
"""

from dataclasses import dataclass
from typing import Self

import numba
import numpy as np
from scipy import sparse
from scipy.linalg import lapack

from vitrina.ann import Jagged, TopK, empty_lists, top_k
from vitrina.ann.blocks import in_threads
from vitrina.ann.sparse import check_items, parts
from vitrina.candidates.ease import gram
from vitrina.errors import ConfigError
from vitrina.estimator import Estimator, check_positive, fitted
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.schema import BoolArray, FloatArray, IntArray

LANES = 32
"""Queries scored together: U rows of 32 floats stay in L2, and a block of 32 I scores in memory."""


@dataclass(kw_only=True, eq=False)
class DualEase(Estimator):
    """EASE^R for a catalogue too large for `Ease` and a log of some ten thousand users."""

    reg: float = 500.0
    """lambda, in units of interactions, as in `Ease`."""
    memory_gb: float = 12.0
    """`fit` refuses a log that needs more than this, 12 U^2 bytes; 12 GB hold 31 thousand users."""
    items_: Ids = fitted()
    user_item_: sparse.csr_matrix = fitted()
    """X, (U, I)."""
    inverse_: FloatArray = fitted()
    """K^-1, (U, U)."""
    leverage_: FloatArray = fitted()
    """d, (I,)."""

    def __post_init__(self) -> None:
        check_positive(self, reg=self.reg, memory_gb=self.memory_gb)

    def fit(self, train: Histories) -> Self:
        """Invert K; returns self.

        Raises:
            ConfigError: too many users for a dense inverse.
        """
        need_gb = 12 * len(train) ** 2 / 1e9
        if need_gb > self.memory_gb:
            raise ConfigError(
                f"DualEase needs {need_gb:,.1f} GB for {len(train):,} users, more than memory_gb="
                f"{self.memory_gb:g}; use SANSA, or Ease where items are fewer, or raise memory_gb"
            )
        X = train.user_item()
        K = gram(X.T.tocsr())
        K[np.diag_indices_from(K)] += self.reg
        inverse, info = lapack.dpotrf(K.T, lower=1, clean=0, overwrite_a=1)
        if info == 0:
            inverse, info = lapack.dpotri(inverse, lower=1, overwrite_c=1)
        if info:
            raise ConfigError(
                f"DualEase.reg={self.reg} is too small for this log: K is not definite; raise it"
            )
        leverage = np.zeros(train.n_items)
        start, user, _ = parts(X.T.tocsr())
        upper = inverse.T
        in_threads(lambda lo, hi: _leverages(lo, hi, start, user, upper, leverage), train.n_items, 1024)
        self.items_, self.user_item_ = train.items, X
        self.inverse_ = np.empty(upper.shape, np.float32)
        in_threads(lambda lo, hi: _mirror(lo, hi, upper, self.inverse_), len(upper), 256)
        self.leverage_ = leverage.astype(np.float32)
        return self

    def retrieve(
        self, queries: Histories, *, k: int, exclude: Jagged | None = None, allowed: BoolArray | None = None
    ) -> TopK:
        """The k best items of each history; an empty history gets an empty list.

        Cost: U^2 + (entries of X) multiply-adds a query, 32 queries at a time.

        Args:
            queries: B histories.
            k: length of a list; cut to I.
            exclude: items that may not enter each query's list.
            allowed: (I,), False excludes an item from every list.
        """
        queries = queries.reindex(self.items_)
        lists = empty_lists(len(queries), min(k, len(self.items_)))
        item_user = parts(self.user_item_.T.tocsr())
        for lo, block in queries.blocks(max_users=LANES):
            score_BI = self._scores(block.user_item(), item_user)
            score_BI[block.lengths == 0] = -np.inf
            banned = None if exclude is None else exclude.span(lo, lo + len(block))
            part = top_k(score_BI, k=k, exclude=banned, allowed=allowed)
            lists.item_ix[lo : lo + len(block)], lists.score[lo : lo + len(block)] = part.item_ix, part.score
        return lists

    def similar(self, item_ix: IntArray, *, k: int) -> TopK:
        """Items whose score one interaction with the given item raises most. Shape (n, k)."""
        item_ix = check_items(item_ix, len(self.items_))
        lists = empty_lists(len(item_ix), min(k, len(self.items_)))
        item_user = parts(self.user_item_.T.tocsr())
        for lo in range(0, len(item_ix), LANES):
            asked = item_ix[lo : lo + LANES]
            bounds = np.arange(len(asked) + 1, dtype=np.int64)
            one_hot = (np.ones(len(asked), np.float32), asked, bounds)
            query = sparse.csr_matrix(one_hot, shape=(len(asked), len(self.items_)))
            part = top_k(self._scores(query, item_user), k=k, exclude=Jagged(bounds, asked))
            lists.item_ix[lo : lo + LANES], lists.score[lo : lo + LANES] = part.item_ix, part.score
        return lists

    def _scores(
        self, query: sparse.csr_matrix, item_user: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> FloatArray:
        """Scores q B for at most LANES queries. Shape (B, I)."""
        start, user, _ = item_user
        q_start, q_item, q_value = parts(query)
        overlap_BU = np.zeros((query.shape[0], len(self.inverse_)), np.float32)
        _overlaps(q_start, q_item, q_value, start, user, overlap_BU)
        pull_UL = np.zeros((len(self.inverse_), LANES), np.float32)
        pull_UL[:, : query.shape[0]] = (overlap_BU @ self.inverse_).T
        score_BI = np.empty((query.shape[0], len(self.items_)), np.float32)
        in_threads(
            lambda lo, hi: _sum_users(lo, hi, start, user, pull_UL, self.leverage_, score_BI),
            len(self.items_),
            8192,
        )
        rows = np.repeat(np.arange(query.shape[0]), np.diff(q_start))
        score_BI[rows, q_item] += q_value * (1.0 - 1.0 / (1.0 - self.leverage_[q_item]))
        return score_BI


@numba.njit(cache=True, nogil=True)
def _leverages(lo, hi, start, user, upper, leverage):  # type: ignore[no-untyped-def]
    """d_j for items lo..hi from the upper triangle of K^-1; users of an item are sorted."""
    for j in range(lo, hi):
        total = 0.0
        for at in range(start[j], start[j + 1]):
            row = upper[user[at]]
            total += row[user[at]]
            for to in range(at + 1, start[j + 1]):
                total += 2.0 * row[user[to]]
        leverage[j] = total


@numba.njit(cache=True, nogil=True)
def _mirror(lo, hi, upper, full):  # type: ignore[no-untyped-def]
    for u in range(lo, hi):
        for v in range(len(full)):
            full[u, v] = upper[u, v] if u <= v else upper[v, u]


@numba.njit(cache=True, nogil=True)
def _overlaps(q_start, q_item, q_value, start, user, overlap_BU):  # type: ignore[no-untyped-def]
    """Overlaps q X^T: how much of each query every user shares."""
    for b in range(len(q_start) - 1):
        row = overlap_BU[b]
        for at in range(q_start[b], q_start[b + 1]):
            for to in range(start[q_item[at]], start[q_item[at] + 1]):
                row[user[to]] += q_value[at]


@numba.njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
def _sum_users(lo, hi, start, user, pull_UL, leverage, score_BI):  # type: ignore[no-untyped-def]
    """Scores s / (1 - d) for items lo..hi, LANES queries at a time."""
    acc = np.empty(LANES, np.float32)
    for j in range(lo, hi):
        acc[:] = 0.0
        for at in range(start[j], start[j + 1]):
            row = pull_UL[user[at]]
            for lane in range(LANES):
                acc[lane] += row[lane]
        scale = np.float32(1.0) / (np.float32(1.0) - leverage[j])
        for b in range(len(score_BI)):
            score_BI[b, j] = acc[b] * scale
