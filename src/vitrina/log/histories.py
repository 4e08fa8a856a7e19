"""Histories: who did what, when, as jagged arrays.

    user_ids   u0        u1   u2
    offsets    0         3    3    5          user u owns rows offsets[u] : offsets[u + 1]
    item_ix    4  1  4        0  2            in time order; ties in an order drawn from a seed
    ts         10 20 30       15 15           UTC microseconds

The arrays may be memory-mapped: nothing here copies all of them. The same type carries the training
data of a model and the batch of users (or anonymous sessions) that a request asks about.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
from scipy import sparse

from vitrina.errors import InputError
from vitrina.ids import UNKNOWN, Ids
from vitrina.log import store
from vitrina.log.order import UNSAID, flags, time_order
from vitrina.schema import DEFAULT_EVENT, ByteArray, FloatArray, IntArray, LongArray


@dataclass(frozen=True, eq=False, kw_only=True)
class Histories:
    """Jagged histories of U users over a vocabulary of I items, N rows in all."""

    user_ids: Ids | pl.Series
    """External id of each user (`Ids`, sorted) or query (a Series, any order, may repeat). Length U."""
    items: Ids
    """Vocabulary of items. Length I."""
    offsets: LongArray
    """(U + 1,)"""
    item_ix: IntArray
    """(N,), each in [0, I)"""
    ts: LongArray
    """(N,), UTC microseconds, non-decreasing within a user"""
    event: ByteArray
    """(N,), code of the event in `event_names`"""
    event_names: tuple[str, ...] = (DEFAULT_EVENT,)
    weight: FloatArray | None = None
    """(N,), or None where every row weighs 1"""
    organic: ByteArray | None = None
    """(N,), 1 where the user found the item alone, 0 where a feed led to it, 2 (`UNSAID`) where nobody says;
    None where the log has no such column"""
    asked_ts: LongArray | None = None
    """(U,), UTC microseconds, when each query asks, for models that know the time of a request; None where
    nobody said. `save` leaves it out."""
    anonymous: bool = False
    """Whether `user_ids` only number the queries, so that they are nobody's, whoever has the same id."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_rows(self) -> int:
        """N."""
        return int(self.offsets[-1] - self.offsets[0])

    @property
    def n_items(self) -> int:
        """I."""
        return len(self.items)

    @cached_property
    def lengths(self) -> LongArray:
        """Rows per user. Shape (U,)."""
        return np.diff(self.offsets)

    @cached_property
    def user_rows(self) -> IntArray:
        """Position of the user of each row. Shape (N,)."""
        return np.repeat(np.arange(len(self), dtype=np.int32), self.lengths)

    @property
    def query_ids(self) -> pl.Series:
        """External ids as a Series. Shape (U,)."""
        return self.user_ids.values if isinstance(self.user_ids, Ids) else self.user_ids

    def of(self, user_ids: pl.Series) -> "Histories":
        """Histories of the given users in their order; an unknown user has an empty one. Shape (B,)."""
        if not isinstance(self.user_ids, Ids):
            raise InputError("histories of queries cannot be looked up by user; ask the training histories")
        return replace(self.rows(self.user_ids.ix(user_ids)), user_ids=user_ids)

    def rows(self, user_ix: IntArray) -> "Histories":
        """Histories at the given positions, -1 for an empty one, asked at 0; copies. Shape (B,)."""
        user_ix = np.asarray(user_ix, dtype=np.int64)
        known = np.maximum(user_ix, 0)
        lengths = (
            np.where(user_ix >= 0, self.lengths[known], 0) if len(self) else np.zeros(len(user_ix), np.int64)
        )
        starts = self.offsets[:-1][known] if len(self) else np.zeros(len(user_ix), np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        take = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        ids = self.query_ids.gather(pl.Series(known, dtype=pl.UInt32).set(pl.Series(user_ix < 0), None))
        picked = self._with_rows(ids, offsets, take)
        if self.asked_ts is None:
            return picked
        asked = self.asked_ts[known] if len(self) else 0
        return replace(picked, asked_ts=np.where(user_ix >= 0, asked, 0))

    def asked_at(self, ts: LongArray | int | None) -> "Histories":
        """The same, asking at a time (or at one each, (U,)); those that say already when they ask keep it."""
        if ts is None or self.asked_ts is not None:
            return self
        return replace(self, asked_ts=np.broadcast_to(np.asarray(ts, np.int64), len(self)))

    def last(self, n: int) -> "Histories":
        """At most the latest n rows of each user."""
        lengths = np.minimum(self.lengths, n)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        take = np.arange(offsets[-1]) + np.repeat(self.offsets[1:] - lengths - offsets[:-1], lengths)
        return self._with_rows(self.user_ids, offsets, take)

    def only(self, row_mask: np.ndarray) -> "Histories":
        """The rows where the mask is true, of the same users. `row_mask` has shape (N,)."""
        kept = np.concatenate([[0], np.cumsum(row_mask)])[self.offsets]
        return self._with_rows(self.user_ids, kept.astype(np.int64), np.flatnonzero(row_mask))

    def blocks(
        self, *, max_users: int = 4096, max_rows: int = 2_000_000
    ) -> Iterator[tuple[int, "Histories"]]:
        """Cut into runs of users, as views: nothing is copied.

        Args:
            max_users: users of a block, at most.
            max_rows: rows of a block, at most; a user with more is a block of their own.

        Yields:
            The position of the first user of a block, and its histories.
        """
        if 0 < len(self) <= max_users and self.n_rows <= max_rows and self.offsets[0] == 0:
            yield 0, self
            return
        lo = 0
        while lo < len(self):
            hi = int(np.searchsorted(self.offsets, self.offsets[lo] + max_rows, side="right")) - 1
            hi = min(max(hi, lo + 1), lo + max_users, len(self))
            rows = slice(int(self.offsets[lo]), int(self.offsets[hi]))
            yield (
                lo,
                replace(
                    self,
                    user_ids=self.query_ids[lo:hi],
                    offsets=np.asarray(self.offsets[lo : hi + 1]) - self.offsets[lo],
                    item_ix=self.item_ix[rows],
                    ts=self.ts[rows],
                    event=self.event[rows],
                    weight=None if self.weight is None else self.weight[rows],
                    organic=None if self.organic is None else self.organic[rows],
                    asked_ts=None if self.asked_ts is None else self.asked_ts[lo:hi],
                ),
            )
            lo = hi

    def user_item(self, *, binary: bool = True) -> sparse.csr_matrix:
        """Matrix of users by items, float32, shape (U, I).

        Args:
            binary: True gives 1 for every pair that occurs; False gives the sum of the weights of its rows.
        """
        weight = np.ones(self.n_rows, dtype=np.float32) if self.weight is None else np.asarray(self.weight)
        matrix = sparse.csr_matrix(
            (weight, np.asarray(self.item_ix), np.asarray(self.offsets)),
            shape=(len(self), self.n_items),
            copy=True,
        )
        matrix.sum_duplicates()
        if binary:
            matrix.data[:] = 1.0
        return matrix

    def item_counts(self) -> LongArray:
        """Rows per item. Shape (I,)."""
        return np.bincount(self.item_ix, minlength=self.n_items).astype(np.int64)

    def item_user_counts(self) -> LongArray:
        """Distinct users per item. Shape (I,)."""
        return np.bincount(self.user_item().indices, minlength=self.n_items).astype(np.int64)

    def reindex(self, items: Ids) -> "Histories":
        """The same histories over another vocabulary; rows whose item it lacks are left out.

        `lengths` before and after tell how many; `Pipeline.recommend` counts them.
        """
        if items == self.items:
            return self
        translated = items.ix(self.items.values)[self.item_ix]
        known = translated != UNKNOWN
        kept = self.only(known)
        return replace(kept, items=items, item_ix=translated[known])

    def frame(self) -> pl.DataFrame:
        """A long frame: user_id, item_id, ts, event and, if there, weight and organic, one row a row."""
        event = pl.Series(np.asarray(self.event)).replace_strict(
            list(range(len(self.event_names))), list(self.event_names), return_dtype=pl.String
        )
        columns = {
            "user_id": self.query_ids.gather(pl.Series(self.user_rows, dtype=pl.UInt32)),
            "item_id": self.items.take(self.item_ix),
            "ts": pl.Series(np.asarray(self.ts)).cast(pl.Datetime("us", "UTC")),
            "event": event,
        }
        if self.weight is not None:
            columns["weight"] = pl.Series(np.asarray(self.weight))
        if self.organic is not None:
            flag = pl.Series(np.asarray(self.organic))
            columns["organic"] = (flag == 1).set(flag == UNSAID, None)
        return pl.DataFrame(columns)

    @classmethod
    def from_frame(cls, frame: pl.DataFrame, *, items: Ids | None = None, seed: int = 0) -> "Histories":
        """Histories of a checked frame that fits in memory.

        Args:
            frame: user_id, item_id, ts (UTC microseconds) and, if there, event, weight and organic.
            items: the vocabulary; None takes the items of the frame. Rows of other items are left out.
            seed: draws the order of a user's rows of equal ts.
        """
        users = Ids(frame["user_id"])
        items = Ids(frame["item_id"]) if items is None else items
        item_ix = items.ix(frame["item_id"])
        known = item_ix != UNKNOWN
        frame, item_ix = frame.filter(pl.Series(known)), item_ix[known]
        user_ix = users.ix(frame["user_id"])
        ts = frame["ts"].dt.timestamp("us").to_numpy() if len(frame) else np.zeros(0, np.int64)
        names = (
            tuple(sorted(frame["event"].unique().to_list())) if "event" in frame.columns else (DEFAULT_EVENT,)
        )
        code = {name: at for at, name in enumerate(names)}
        event = (
            frame["event"].replace_strict(code, return_dtype=pl.UInt8).to_numpy()
            if "event" in frame.columns and len(frame)
            else np.zeros(len(frame), np.uint8)
        )
        weight = frame["weight"].cast(pl.Float32).to_numpy() if "weight" in frame.columns else None
        organic = flags(frame["organic"]) if "organic" in frame.columns else None
        order = time_order(user_ix, ts, item_ix, seed, event, weight, organic)
        counts = np.bincount(user_ix, minlength=len(users))
        return cls(
            user_ids=users,
            items=items,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            item_ix=item_ix[order],
            ts=ts[order],
            event=event[order],
            event_names=names or (DEFAULT_EVENT,),
            weight=None if weight is None else weight[order],
            organic=None if organic is None else organic[order],
        )

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write a folder that `open` maps; an existing one is replaced once the new one is complete.

        Raises:
            ArtifactError: the disk refuses.
            InputError: these are histories of queries, not of users.
        """
        if not isinstance(self.user_ids, Ids):
            raise InputError("histories of queries have no vocabulary of users; save the training histories")
        with store.folder(directory) as folder:
            folder.add_ids("users", self.user_ids)
            folder.add_ids("items", self.items)
            for name in store.DTYPES:
                array = getattr(self, name)
                if array is not None:
                    folder.add_array(name, iter([array]), len(array))
            folder.finish(self.event_names)

    @classmethod
    def open(cls, directory: str | os.PathLike[str], *, verify: bool = False) -> "Histories":
        """Histories in a folder, arrays memory-mapped: nothing is read until it is asked for.

        Args:
            directory: what `save` or `EventLog.histories` wrote.
            verify: also check the SHA-256 of every file, which reads all of them.

        Raises:
            ArtifactError: the folder is missing, half-written, corrupted or of another version.
        """
        return cls(**store.read(directory, verify=verify))

    @classmethod
    def from_lists(
        cls, items: Ids, lists: Sequence[Sequence[object]], *, ts: int = 0
    ) -> tuple["Histories", list[int]]:
        """Anonymous sessions, each a list of external item ids in time order, all at time `ts`.

        Returns:
            The histories, and how many unknown items were left out of each session.
        """
        coded = [items.ix(session) for session in lists]
        known = [ix[ix != UNKNOWN] for ix in coded]
        n_rows = sum(map(len, known))
        histories = cls(
            user_ids=pl.Series("query_id", np.arange(len(lists)), dtype=pl.Int64),
            items=items,
            offsets=np.concatenate([[0], np.cumsum([len(ix) for ix in known])]).astype(np.int64),
            item_ix=np.concatenate([*known, np.zeros(0, np.int32)]).astype(np.int32),
            ts=np.full(n_rows, ts, dtype=np.int64),
            event=np.zeros(n_rows, dtype=np.uint8),
            anonymous=True,
        )
        return histories, [len(all_ix) - len(ix) for all_ix, ix in zip(coded, known, strict=True)]

    def _with_rows(self, user_ids: Ids | pl.Series, offsets: LongArray, take: LongArray) -> "Histories":
        weight = None if self.weight is None else self.weight[take]
        organic = None if self.organic is None else self.organic[take]
        return replace(
            self,
            user_ids=user_ids,
            offsets=offsets,
            item_ix=self.item_ix[take],
            ts=self.ts[take],
            event=self.event[take],
            weight=weight,
            organic=organic,
        )
