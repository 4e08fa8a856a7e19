"""DecayedItemKNN: the items taken by whoever took what this person took lately. No neighbour list is cut.

Notation                                                                 shape
    N    how often user u took item i                                    (U, I)
    v    sum over history rows of 0.9^((latest - ts) / hours) N_:i       (U,)      one query as a vector of
    users score_j = <v, N_:j> / (|v| |N_:j|)

Source: the ItemKNN baseline of the Yambda benchmark (arXiv 2505.22238), whose grid of `hours` is 0 to 6.
NOTE[DIFF] benchmark: dense matrices of users by users; here: sparse columns, 32 queries at a time; because
a million users must fit. Its rule that weights below 1e-9 are dropped is kept.
Cost: nothing to fit but a sorted copy of the log; a query costs one multiply-add for each entry of N.
"""

from dataclasses import dataclass
from typing import Self

import numba
import numpy as np
from scipy import sparse

from vitrina.ann import Jagged, TopK, empty_lists, top_k
from vitrina.ann.blocks import in_threads
from vitrina.ann.lanes import add_rows
from vitrina.ann.sparse import check_items, parts
from vitrina.candidates.popularity import US_PER_HOUR
from vitrina.errors import ConfigError
from vitrina.estimator import Estimator, fitted
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.schema import BoolArray, DoubleArray, FloatArray, IntArray

LANES = 32
"""Queries scored together: U rows of 32 floats stay in L2 for some ten thousand users."""
LEAST_WEIGHT = 1e-9


@dataclass(kw_only=True, eq=False)
class DecayedItemKNN(Estimator):
    """Cosine between items and a query whose old rows have faded.

    Use when: what a person does next follows from the last hours (music, video). See also: ItemKNN
    (faster, ignores recency), DecayPop (the same decay, for everybody alike).
    """

    hours: float = 1.0
    """A row counts 0.9 times as much for every so many hours before the latest; 0 keeps the latest alone."""
    items_: Ids = fitted()
    item_user_: sparse.csr_matrix = fitted()
    """N transposed, (I, U)."""

    def __post_init__(self) -> None:
        if not 0 <= self.hours < float("inf"):
            raise ConfigError(f"DecayedItemKNN.hours must be >= 0 and finite, got {self.hours}")

    def fit(self, train: Histories) -> Self:
        """Sort the log by item; returns self."""
        self.items_ = train.items
        self.item_user_ = train.user_item(binary=False).T.tocsr()
        return self

    def retrieve(
        self, queries: Histories, *, k: int, exclude: Jagged | None = None, allowed: BoolArray | None = None
    ) -> TopK:
        """The k items closest to each faded history. Items that share no user with it are not listed.

        Args:
            queries: B histories; only the differences between the times of one history matter.
            k: length of a list; cut to I.
            exclude: items that may not enter each query's list.
            allowed: (I,), False excludes an item from every list.
        """
        queries = queries.reindex(self.items_)
        lists = empty_lists(len(queries), min(k, len(self.items_)))
        item_user = parts(self.item_user_)
        norm_I = _norms(item_user)
        for lo, block in queries.blocks(max_users=LANES):
            hi = lo + len(block)
            faded = (np.asarray(block.offsets), np.asarray(block.item_ix), self._weights(block))
            v_LU = np.zeros((LANES, self.item_user_.shape[1]), np.float32)
            _people(*faded, item_user, np.zeros(len(self.items_)), v_LU)
            v_LU /= np.maximum(np.linalg.norm(v_LU, axis=1, keepdims=True), np.float32(1e-30))
            score_BI = np.empty((len(block), len(self.items_)), np.float32)
            _score(item_user, norm_I, np.ascontiguousarray(v_LU.T), score_BI)
            banned = None if exclude is None else exclude.span(lo, hi)
            part = top_k(score_BI, k=k, exclude=banned, allowed=allowed)
            lists.item_ix[lo:hi], lists.score[lo:hi] = part.item_ix, part.score
        return lists

    def similar(self, item_ix: IntArray, *, k: int) -> TopK:
        """The items of largest cosine with each item, itself left out. Shape (n, k)."""
        item_ix = check_items(item_ix, len(self.items_))
        alone = Histories.from_lists(self.items_, [[value] for value in self.items_.take(item_ix)])[0]
        return self.retrieve(alone, k=k, exclude=Jagged(alone.offsets, item_ix))

    def _weights(self, block: Histories) -> DoubleArray:
        """Weight of each history row."""
        if not block.n_rows:
            return np.zeros(0)
        latest = np.repeat(block.ts[np.maximum(block.offsets[1:] - 1, 0)], block.lengths)
        age_hours = (latest - np.asarray(block.ts)) / US_PER_HOUR
        weight = 0.9 ** (age_hours / self.hours) if self.hours else (age_hours == 0).astype(np.float64)
        weight[weight < LEAST_WEIGHT] = 0.0
        return weight if block.weight is None else weight * block.weight


def _norms(item_user: tuple[np.ndarray, np.ndarray, np.ndarray]) -> FloatArray:
    """|N_:j| of each item. Shape (I,)."""
    start, _, value = item_user
    squares = np.concatenate([[0.0], np.cumsum(value.astype(np.float64) ** 2)])
    norm_I: FloatArray = np.sqrt(squares[start[1:]] - squares[start[:-1]]).astype(np.float32)
    return norm_I


def _score(
    item_user: tuple[np.ndarray, np.ndarray, np.ndarray],
    norm_I: FloatArray,
    v_UL: FloatArray,
    score_BI: FloatArray,
) -> None:
    """Cosines of all items with the queries of a block."""
    in_threads(lambda lo, hi: _cosines(lo, hi, item_user, norm_I, v_UL, score_BI), len(norm_I), 8192)


@numba.njit(cache=True, nogil=True)
def _people(offsets, item_ix, weight, item_user, weight_I, v_LU):  # type: ignore[no-untyped-def]
    """V of each query, not normalised; `weight_I` is (I,) scratch of zeros and is left so."""
    start, user, value = item_user
    for b in range(len(offsets) - 1):
        for at in range(offsets[b], offsets[b + 1]):
            weight_I[item_ix[at]] += weight[at]
        for at in range(offsets[b], offsets[b + 1]):
            i = item_ix[at]
            w = np.float32(weight_I[i])
            weight_I[i] = 0.0
            if w > 0.0:
                for to in range(start[i], start[i + 1]):
                    v_LU[b, user[to]] += w * value[to]


@numba.njit(cache=True, nogil=True)
def _cosines(lo, hi, item_user, norm_I, v_UL, score_BI):  # type: ignore[no-untyped-def]
    """Items lo..hi; -inf where no user is shared."""
    start, user, value = item_user
    acc = np.empty(LANES, np.float32)
    for j in range(lo, hi):
        acc[:] = 0.0
        add_rows(start[j], start[j + 1], user, value, v_UL, acc)
        for b in range(len(score_BI)):
            score_BI[b, j] = acc[b] / norm_I[j] if acc[b] > 0.0 else -np.inf
