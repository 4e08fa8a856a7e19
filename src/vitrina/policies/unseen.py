"""Do not show again what the person already took."""

from dataclasses import dataclass

import numpy as np

from vitrina.ann import Jagged
from vitrina.errors import ConfigError
from vitrina.log import Histories
from vitrina.schema import US_PER_DAY, BoolArray, IntArray


@dataclass(kw_only=True, frozen=True)
class Unseen:
    """Leave out items of the query's own history.

    The pipeline passes `excluded` down to the sources; `keep` guards against a source that ignores it.
    """

    within_days: float | None = None
    """Leave out only what was taken in the last so many days; None leaves out everything ever taken."""

    def __post_init__(self) -> None:
        if self.within_days is not None and not 0 < self.within_days < float("inf"):
            raise ConfigError(
                f"Unseen.within_days must be > 0 and finite or left out, got {self.within_days}"
            )

    def excluded(self, queries: Histories, now: int) -> Jagged:
        """The items that each query may not be shown."""
        if self.within_days is not None:
            queries = queries.only(queries.ts >= now - self.within_days * US_PER_DAY)
        return Jagged(queries.offsets, queries.item_ix)


def not_in(item_BN: IntArray, excluded: Jagged, n_items: int) -> BoolArray:
    """Whether each candidate is outside its row's excluded set. Shape (B, N)."""
    rows = np.repeat(np.arange(len(item_BN), dtype=np.int64), np.diff(excluded.offsets))
    taken = np.sort(rows * n_items + excluded.item_ix)
    key_BN = np.arange(len(item_BN), dtype=np.int64)[:, None] * n_items + item_BN
    if not len(taken):
        return np.ones(item_BN.shape, dtype=bool)
    at = np.minimum(np.searchsorted(taken, key_BN), len(taken) - 1)
    return np.asarray(taken[at] != key_BN)
