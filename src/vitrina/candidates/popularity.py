"""Popularity: everybody gets the same list, minus what may not be shown to them.

    MostPop            events, or distinct users, of an item in the whole training log
    DecayPop           sum over the events of an item of 0.9^(age in hours / hours)
    PopularLastDays    events, or distinct users, of an item in the last N days of the training log

Cost: one pass over the events to fit, O(k + excluded items) a query. Items without a training event are never
listed. Ties are broken by the number of events in the whole log, then by the smaller item_ix.
Use when: always, as the line to beat; as a fallback. See also: OwnHistory, better where people repeat.
"""

from dataclasses import dataclass
from typing import Literal, Self

import numba
import numpy as np

from vitrina.ann import Jagged, TopK, empty_lists
from vitrina.errors import ConfigError
from vitrina.estimator import Estimator, check_positive, fitted
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.schema import US_PER_DAY, BoolArray, DoubleArray, FloatArray, IntArray

US_PER_HOUR = US_PER_DAY // 24
ROWS_AT_ONCE = 4_000_000
"""Rows whose decay weights are in memory together."""

CountOf = Literal["users", "events"]


@dataclass(kw_only=True, eq=False)
class RankedForAll(Estimator):
    """One ranking of the catalogue for everybody; what the popularity models share."""

    items_: Ids = fitted()
    order_: IntArray = fitted()
    """item_ix of the items with an event, best first. Shape (n,)."""
    score_: FloatArray = fitted()
    """Score of each of them, non-increasing. Shape (n,)."""

    def retrieve(
        self, queries: Histories, *, k: int, exclude: Jagged | None = None, allowed: BoolArray | None = None
    ) -> TopK:
        """The first k admissible items of the ranking, for each query, whatever its history.

        Args:
            queries: B histories; only their number and `exclude` matter.
            k: length of a list; cut to I.
            exclude: items that may not enter each query's list.
            allowed: (I,), False excludes an item from every list.
        """
        order, score = self.order_, self.score_
        lists = empty_lists(len(queries), min(k, len(self.items_)))
        if allowed is not None:
            order, score = order[allowed[order]], score[allowed[order]]
        if exclude is None:
            lists.item_ix[:, : len(order)] = order[: lists.item_ix.shape[1]]
            lists.score[:, : len(order)] = score[: lists.item_ix.shape[1]]
        else:
            mark = np.full(len(self.items_), -1, np.int64)
            _first_admissible(
                order, score, exclude.offsets, exclude.item_ix, mark, lists.item_ix, lists.score
            )
        return lists

    def _rank(self, train: Histories, score_I: DoubleArray) -> Self:
        events_I = train.item_counts()
        order = np.lexsort((-events_I, -score_I))
        order = order[events_I[order] > 0]
        self.items_ = train.items
        self.order_ = order.astype(np.int32)
        self.score_ = score_I[order].astype(np.float32)
        return self


@dataclass(kw_only=True, eq=False)
class MostPop(RankedForAll):
    """Items by how many users took them, or by how many events they have.

    score(i) = number of distinct users of i, or the sum of the weights of its events.
    """

    by: CountOf = "users"
    """`users` counts a person once; `events` counts (weighted) rows, as the Yambda benchmark does."""

    def __post_init__(self) -> None:
        _check_by(self)

    def fit(self, train: Histories) -> Self:
        """Count; returns self."""
        everything = np.ones(0, dtype=bool)
        return self._rank(train, _counts(train, self.by, everything))


@dataclass(kw_only=True, eq=False)
class DecayPop(RankedForAll):
    """Items by events that count less the older they are.

    score(i) = sum over its events of weight * 0.9^((end - ts) / hours), end = time of the last training row.
    An event has half of its weight after ln 2 / -ln 0.9 = 6.58 times `hours`; 0.152 H gives a half-life of H.
    Source: the DecayPop baseline of the Yambda benchmark (arXiv 2505.22238), whose grid is 0.5 to 24 hours.
    """

    hours: float = 24.0
    """Time after which an event counts 0.9 times as much."""

    def __post_init__(self) -> None:
        check_positive(self, hours=self.hours)

    def fit(self, train: Histories) -> Self:
        """Sum the decayed weights; returns self."""
        score_I = np.zeros(train.n_items)
        end = int(train.ts.max()) if train.n_rows else 0
        for lo in range(0, train.n_rows, ROWS_AT_ONCE):
            rows = slice(lo, lo + ROWS_AT_ONCE)
            age_hours = (end - np.asarray(train.ts[rows])) / US_PER_HOUR
            weight = 0.9 ** (age_hours / self.hours)
            if train.weight is not None:
                weight *= train.weight[rows]
            score_I += np.bincount(train.item_ix[rows], weight, minlength=train.n_items)
        return self._rank(train, score_I)


@dataclass(kw_only=True, eq=False)
class PopularLastDays(RankedForAll):
    """Items by what happened in the last days of the training log.

    score(i) = users, or events, of i with ts > end - days, plus its share of all events (below 1):
    items without an event in the window, and ties, are ranked by all-time popularity.
    """

    days: float = 7.0
    """Length of the window that ends with the last training event."""
    by: CountOf = "users"
    """`users` counts a person once; `events` counts (weighted) rows."""

    def __post_init__(self) -> None:
        check_positive(self, days=self.days)
        _check_by(self)

    def fit(self, train: Histories) -> Self:
        """Count the rows of the window; returns self."""
        end = int(train.ts.max()) if train.n_rows else 0
        recent = np.asarray(train.ts) > end - self.days * US_PER_DAY
        share = train.item_counts() / (train.n_rows + 1.0)
        return self._rank(train, _counts(train, self.by, recent) + share)


def _check_by(model: MostPop | PopularLastDays) -> None:
    if model.by not in ("users", "events"):
        raise ConfigError(f"{type(model).__name__}.by must be 'users' or 'events', got {model.by!r}")


def _counts(train: Histories, by: CountOf, mask: BoolArray) -> DoubleArray:
    """Users, or weighted events, per item, over rows where the mask is true; an empty mask takes all rows."""
    count_I = np.zeros(train.n_items)
    if by == "users":
        last_user_I = np.full(train.n_items, -1, np.int64)
        _count_users(np.asarray(train.offsets), np.asarray(train.item_ix), mask, last_user_I, count_I)
        return count_I
    item_ix = train.item_ix[mask] if len(mask) else train.item_ix
    weight = train.weight if train.weight is None or not len(mask) else train.weight[mask]
    return np.bincount(item_ix, weight, minlength=train.n_items).astype(np.float64)


@numba.njit(cache=True, nogil=True)
def _count_users(offsets, item_ix, mask, last_user_I, count_I):  # type: ignore[no-untyped-def]
    for u in range(len(offsets) - 1):
        for at in range(offsets[u], offsets[u + 1]):
            i = item_ix[at]
            if (len(mask) == 0 or mask[at]) and last_user_I[i] != u:
                last_user_I[i] = u
                count_I[i] += 1.0


@numba.njit(cache=True, nogil=True)
def _first_admissible(  # type: ignore[no-untyped-def]
    order, score, offsets, excluded, mark, item_BK, score_BK
):
    """Walk down the ranking for each query; `mark` is (I,) scratch, b where row b excludes the item."""
    for b in range(len(item_BK)):
        for at in range(offsets[b], offsets[b + 1]):
            mark[excluded[at]] = b
        n = 0
        for at in range(len(order)):
            if n == item_BK.shape[1]:
                break
            if mark[order[at]] != b:
                item_BK[b, n] = order[at]
                score_BK[b, n] = score[at]
                n += 1
