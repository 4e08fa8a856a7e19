"""What the parameters of a world come to: its rules, its items and its users, ready to be simulated."""

from dataclasses import dataclass

import numpy as np

from vitrina.datasets.synth.kernel import Block, run
from vitrina.datasets.synth.tables import Rules, Tables
from vitrina.schema import US_PER_SECOND, DoubleArray, LongArray


@dataclass(frozen=True, eq=False, kw_only=True)
class Ground:
    """U users and I items."""

    rules: Rules
    tables: Tables
    counts: LongArray
    """Events of each user. Shape (U,)"""
    arrivals_s: DoubleArray
    """When each user first may come. Shape (U,)"""
    user_ids: LongArray
    """(U,)"""
    item_ids: LongArray
    """(I,), in the internal order of items"""
    start_us: int
    """UTC microseconds of second 0"""

    def simulate(self, user_ix: LongArray, *, views: bool = False, weigh: bool = True) -> Block:
        """What the given users do, one user after another, each in time order.

        Args:
            user_ix: (B,)
            views: keep what the feed showed.
            weigh: work out propensities.
        """
        users = np.ascontiguousarray(user_ix, dtype=np.int64)
        counts, arrivals_s = self.counts[users], self.arrivals_s[users]
        return run(users, counts, arrivals_s, self.rules, self.tables, views=views, weigh=weigh)

    def ts_us(self, ts_s: DoubleArray) -> LongArray:
        """Seconds since the start as UTC microseconds. Shape as given."""
        return self.start_us + (ts_s * US_PER_SECOND).astype(np.int64)
