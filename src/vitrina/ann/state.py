"""What a local index holds at one moment: a base, the items removed from it, the items added since.

A state never changes: writers make the next one and put it in place with one assignment, so a search that has
begun goes on with the state it began with, without a lock. An item is in the base and alive, or in the delta,
or nowhere; putting an item that is there replaces it.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from vitrina.ann.rows import Rows, no_rows
from vitrina.schema import BoolArray, IntArray, LongArray


@dataclass(frozen=True, eq=False)
class State:
    """One moment of a local index."""

    base: Rows
    """What was built."""
    searcher: Any
    """What finds candidates in the base; None where the base is searched exactly."""
    alive: BoolArray
    """(N,), False for items of the base that were removed or replaced"""
    delta: Rows
    """Put since, exact."""
    stamp: LongArray
    """(J,), the change that put each row of the delta"""
    clock: int = 0
    """Changes so far."""

    def __len__(self) -> int:
        return len(self.base) - self.n_dead + len(self.delta)

    @cached_property
    def n_dead(self) -> int:
        """Items of the base that are no more."""
        return len(self.alive) - int(np.count_nonzero(self.alive))

    def holds(self, item_ix: IntArray) -> BoolArray:
        """Whether each item is there."""
        at = self.base.place(item_ix)
        in_base = at >= 0
        in_base[in_base] = self.alive[at[in_base]]
        return np.asarray(in_base | (self.delta.place(item_ix) >= 0))

    def put(self, rows: Rows) -> "State":
        """With rows added; those of the same items give way."""
        left = self.without(rows.item_ix)
        stamp = np.full(len(rows), left.clock, np.int64)
        return replace(left, delta=_merged(left.delta, rows), stamp=_in_order(left, rows, stamp))

    def without(self, item_ix: IntArray) -> "State":
        """With items removed; those that are not there change nothing."""
        at, alive = self.base.place(item_ix), self.alive
        if (at >= 0).any():
            alive = alive.copy()
            alive[at[at >= 0]] = False
        kept = ~np.isin(self.delta.item_ix, item_ix)
        if kept.all():
            return replace(self, alive=alive, clock=self.clock + 1)
        return replace(
            self, alive=alive, delta=self.delta.take(kept), stamp=self.stamp[kept], clock=self.clock + 1
        )

    def live(self) -> Rows:
        """All items in one piece: what the next base is made of."""
        kept = self.base if self.alive.all() else self.base.take(self.alive)
        return _merged(kept, self.delta) if len(self.delta) else kept

    def onto(self, base: Rows, searcher: Any, since: int) -> "State":
        """The same items over a base that was built from an earlier moment, `since`, of this index."""
        newer = self.stamp > since
        delta = self.delta.take(newer)
        alive = self.holds(base.item_ix) & (delta.place(base.item_ix) < 0)
        return State(base, searcher, alive, delta, self.stamp[newer], self.clock)


def first_state(base: Rows, searcher: Any) -> State:
    """A base as it was built."""
    return State(base, searcher, np.ones(len(base), bool), no_rows(base.n_dims), np.zeros(0, np.int64))


def _merged(a: Rows, b: Rows) -> Rows:
    """Two sets of rows without an item in common, in order."""
    order = np.argsort(np.concatenate([a.item_ix, b.item_ix]), kind="stable")
    both = Rows(
        np.concatenate([a.item_ix, b.item_ix]),
        np.concatenate([a.vector_ND, b.vector_ND]),
        np.concatenate([a.bias, b.bias]),
    )
    return both.take(order)


def _in_order(left: State, rows: Rows, stamp: LongArray) -> LongArray:
    """Stamps of the merged delta."""
    order = np.argsort(np.concatenate([left.delta.item_ix, rows.item_ix]), kind="stable")
    return np.concatenate([left.stamp, stamp])[order]
