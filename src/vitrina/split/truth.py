"""What test users took, numbered against the training vocabulary; cold items stay, as certain misses."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl

from vitrina.ann import Jagged
from vitrina.ids import UNKNOWN, Ids
from vitrina.log import EventLog, Histories
from vitrina.log.order import time_order
from vitrina.schema import ITEM_ID, ORGANIC, TS, USER_ID, BoolArray, IntArray, LongArray


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth:
    """Targets of U test users: T rows over I training items and C cold ones."""

    user_ids: Ids
    """Test users. Length U."""
    items: Ids
    """Training vocabulary. Length I."""
    cold_items: Ids
    """Items of the test rows that training never saw; cold item c is numbered I + c. Length C."""
    offsets: LongArray
    """(U + 1,)"""
    item_ix: IntArray
    """(T,), in time order within a user, each in [0, I + C)"""
    is_repeat: BoolArray
    """(T,), the user has this item in the training history"""
    is_first: BoolArray
    """(T,), the first test row of this user and item"""
    is_organic: BoolArray | None
    """(T,), or None where the log has no such column"""
    history_length: LongArray
    """Training rows of each user, 0 for a cold user. Shape (U,)."""

    @classmethod
    def of(cls, test: EventLog, train: Histories, *, seed: int = 0) -> "Truth":
        """Targets from a test log; it is read into memory, the training histories may stay on disk."""
        schema = test.frame.collect_schema()
        columns = [USER_ID, ITEM_ID, TS, *([ORGANIC] if ORGANIC in schema else [])]
        rows = test.frame.select(columns).collect(engine="streaming")
        rows = rows.sort(ORGANIC) if ORGANIC in schema else rows  # the file's order decides nothing
        users = Ids(rows[USER_ID])
        user_ix = users.ix(rows[USER_ID])
        item_ix = train.items.ix(rows[ITEM_ID])
        cold = Ids(rows[ITEM_ID].filter(pl.Series(item_ix == UNKNOWN)))
        item_ix = np.where(item_ix == UNKNOWN, len(train.items) + cold.ix(rows[ITEM_ID]), item_ix)
        item_ix = item_ix.astype(np.int32)
        order = time_order(user_ix, rows[TS].dt.timestamp("us").to_numpy(), item_ix, seed)
        user_ix, item_ix = user_ix[order], item_ix[order]
        counts = np.bincount(user_ix, minlength=len(users))
        known = train.of(users.values)
        n_all = len(train.items) + len(cold)
        keys = user_ix.astype(np.int64) * n_all + item_ix
        taken = np.sort(known.user_rows.astype(np.int64) * n_all + known.item_ix)
        at = np.searchsorted(taken, keys)
        is_repeat = np.append(taken, -1)[at] == keys
        first = np.zeros(len(keys), dtype=bool)
        first[np.unique(keys, return_index=True)[1]] = True
        organic = None
        if ORGANIC in schema:
            organic = rows[ORGANIC].cast(pl.Boolean).fill_null(False).to_numpy()[order]
        return cls(
            user_ids=users,
            items=train.items,
            cold_items=cold,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            item_ix=item_ix,
            is_repeat=is_repeat,
            is_first=first,
            is_organic=organic,
            history_length=known.lengths.astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_targets(self) -> int:
        """T."""
        return len(self.item_ix)

    @cached_property
    def lengths(self) -> LongArray:
        """Targets of each user. Shape (U,)."""
        return np.diff(self.offsets)

    @property
    def is_warm(self) -> BoolArray:
        """Users with a training history. Shape (U,)."""
        return np.asarray(self.history_length > 0)

    @property
    def is_cold_item(self) -> BoolArray:
        """Rows whose item training never saw. Shape (T,)."""
        return np.asarray(self.item_ix >= len(self.items))

    @property
    def jagged(self) -> Jagged:
        """The targets alone."""
        return Jagged(self.offsets, self.item_ix)

    @property
    def counts(self) -> dict[str, int]:
        """What the test window holds, for the tables: users and targets, warm and cold, repeats."""
        return {
            "n_test_users": len(self),
            "n_warm_users": int(self.is_warm.sum()),
            "n_cold_users": int((~self.is_warm).sum()),
            "n_test_rows": self.n_targets,
            "n_targets": int(self.is_first.sum()),
            "n_repeat_targets": int((self.is_first & self.is_repeat).sum()),
            "n_cold_item_targets": int((self.is_first & self.is_cold_item).sum()),
            "n_cold_items": len(self.cold_items),
        }

    def distinct(self) -> "Truth":
        """Each item of a user once."""
        return self.only(self.is_first)

    def new_only(self) -> "Truth":
        """Without items that the user had taken before the cut; a user may be left with no target."""
        return self.only(~self.is_repeat)

    def only(self, row_mask: BoolArray) -> "Truth":
        """The rows where the mask is true, of the same users. `row_mask` has shape (T,)."""
        kept = np.concatenate([[0], np.cumsum(row_mask)])[self.offsets].astype(np.int64)
        return self._with_rows(self.user_ids, self.history_length, kept, np.flatnonzero(row_mask))

    def slice(self, start: int, stop: int) -> "Truth":
        """Consecutive users, from position `start` up to `stop`."""
        offsets = self.offsets[start : stop + 1]
        take = np.arange(offsets[0], offsets[-1])
        ids = Ids(self.user_ids.values[start:stop])
        return self._with_rows(ids, self.history_length[start:stop], offsets - offsets[0], take)

    def users(self, user_mask: BoolArray) -> "Truth":
        """The users where the mask is true. `user_mask` has shape (U,)."""
        lengths = self.lengths[user_mask]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        take = np.flatnonzero(np.repeat(user_mask, self.lengths))
        ids = Ids(self.user_ids.values.filter(pl.Series(user_mask, dtype=pl.Boolean)))
        return self._with_rows(ids, self.history_length[user_mask], offsets, take)

    def _with_rows(self, users: Ids, history: LongArray, offsets: LongArray, take: LongArray) -> "Truth":
        return replace(
            self,
            user_ids=users,
            history_length=history,
            offsets=offsets,
            item_ix=self.item_ix[take],
            is_repeat=self.is_repeat[take],
            is_first=self.is_first[take],
            is_organic=None if self.is_organic is None else self.is_organic[take],
        )
