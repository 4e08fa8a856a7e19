"""Random: a list that knows nothing, the floor of every table.

Each history gets its own random order of the catalogue: a permutation of [0, I) keyed by a hash of (seed,
history), computed place by place by a four-round Feistel network with cycle walking (Black and
Rogaway, CT-RSA 2002), so that nothing of the size of the catalogue is made for a query. Equal histories get
equal lists.
"""

from dataclasses import dataclass
from typing import Self

import numba
import numpy as np

from vitrina.ann import Jagged, TopK, empty_lists
from vitrina.estimator import Estimator, fitted
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.schema import BoolArray


@dataclass(kw_only=True, eq=False)
class Random(Estimator):
    """Items drawn uniformly without replacement; score(place p) = (I - p) / I.

    Cost: O(k) a query while few items are excluded. Use when: as the floor of a comparison, or to explore.
    """

    seed: int = 0
    """Another seed gives other lists."""
    items_: Ids = fitted()

    def fit(self, train: Histories) -> Self:
        """Remember the vocabulary; returns self."""
        self.items_ = train.items
        return self

    def retrieve(
        self, queries: Histories, *, k: int, exclude: Jagged | None = None, allowed: BoolArray | None = None
    ) -> TopK:
        """The first k admissible items of each history's random order; an empty history has one too.

        Args:
            queries: B histories.
            k: length of a list; cut to I.
            exclude: items that may not enter each query's list.
            allowed: (I,), False excludes an item from every list.
        """
        queries = queries.reindex(self.items_)
        n_items = len(self.items_)
        lists = empty_lists(len(queries), min(k, n_items))
        if exclude is None:
            exclude = Jagged(np.zeros(len(queries) + 1, np.int64), np.zeros(0, np.int32))
        _random_order(
            np.asarray(queries.offsets),
            np.asarray(queries.item_ix),
            np.uint64(self.seed),
            exclude.offsets,
            exclude.item_ix,
            np.ones(0, bool) if allowed is None else allowed,
            np.full(n_items, -1, np.int64),
            lists.item_ix,
            lists.score,
        )
        return lists


@numba.njit(cache=True, nogil=True)
def _mix(key):  # type: ignore[no-untyped-def]
    """Finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _permuted(place, key, half_bits):  # type: ignore[no-untyped-def]
    """A keyed permutation of [0, 4^half_bits)."""
    half = (np.uint64(1) << half_bits) - np.uint64(1)
    left, right = place >> half_bits, place & half
    for round_ in range(4):
        salt = np.uint64(round_ + 1) * np.uint64(0x9E3779B97F4A7C15)
        left, right = right, left ^ (_mix(key + salt + right * np.uint64(0xD1342543DE82EF95)) & half)
    return (left << half_bits) | right


@numba.njit(cache=True, nogil=True)
def _random_order(  # type: ignore[no-untyped-def]
    offsets, item_ix, seed, banned_start, banned_item, allowed, mark, item_BK, score_BK
):
    n_items, k = len(mark), item_BK.shape[1]
    half_bits = np.uint64(1)
    while (np.int64(1) << (2 * np.int64(half_bits))) < n_items:
        half_bits += np.uint64(1)
    for b in range(len(item_BK)):
        key = _mix(seed + np.uint64(0x9E3779B97F4A7C15))
        for at in range(offsets[b], offsets[b + 1]):
            key = _mix(key + np.uint64(item_ix[at]) + np.uint64(1))
        for at in range(banned_start[b], banned_start[b + 1]):
            mark[banned_item[at]] = b
        n = 0
        for place in range(n_items):
            if n == k:
                break
            i = _permuted(np.uint64(place), key, half_bits)
            while i >= np.uint64(n_items):  # cycle walking: leave only values inside [0, I)
                i = _permuted(i, key, half_bits)
            if mark[i] != b and (len(allowed) == 0 or allowed[i]):
                item_BK[b, n] = i
                score_BK[b, n] = (n_items - place) / n_items
                n += 1
