"""Histories of a log larger than memory, one bucket of users after another.

    pass 1   distinct users with their number of rows, distinct items         -> vocabularies, buckets
    pass 2   rows as integers, each appended to the file of its user's bucket (17 to 22 bytes a row on disk)
    then     each bucket: counting sort by user, time order within a user     -> appended to the result

A bucket is a range of user_ix that holds about `n_rows / n_buckets` rows, so buckets follow one another in
the result and memory holds one of them. The result does not depend on how many there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numba
import numpy as np
import numpy.typing as npt
import polars as pl

from vitrina.errors import ConfigError
from vitrina.ids import UNKNOWN, Ids
from vitrina.log.lookup import KeyCounts, KeyTable
from vitrina.log.order import UNSAID, flags, place_by_user, seed_key, sort_user_rows
from vitrina.log.rowhash import text_hash
from vitrina.log.stream import batches
from vitrina.schema import EVENT, ITEM_ID, ORGANIC, TS, USER_ID, WEIGHT, ByteArray, IntArray, LongArray

ROWS_PER_BUCKET = 4_000_000
"""Rows of a bucket unless the caller says how many buckets: about 200 MB while it is sorted."""

MAX_BUCKETS = 255

_SPILLED: dict[str, type[np.generic]] = {
    "user_ix": np.int32,
    "item_ix": np.int32,
    "ts": np.int64,
    "event": np.uint8,
    "weight": np.float32,
    "organic": np.uint8,
}
Columns = dict[str, npt.NDArray[Any]]


class Vocabulary:
    """Distinct ids, and a fast look-up of `*_ix` in batches.

    Args:
        ids: the vocabulary.
        trusted: whether every id that is asked for is in it.
    """

    def __init__(self, ids: Ids, *, trusted: bool) -> None:
        self.ids = ids
        self._seed = 0
        self._trusted = trusted
        if ids.is_integer:
            self._table = KeyTable(ids.values.to_numpy())
            return
        keys = text_hash(ids.values, self._seed)
        while len(np.unique(keys)) < len(keys):  # two texts with one hash: another seed parts them
            self._seed += 1
            keys = text_hash(ids.values, self._seed)
        self._table = KeyTable(keys)

    def ix(self, values: pl.Series) -> IntArray:
        """`*_ix` of each id, -1 where unknown. Shape (n,)."""
        if values.dtype != self.ids.values.dtype:
            return self.ids.ix(values)
        if self.ids.is_integer:
            return self._table.find(values.to_numpy())
        found = self._table.find(text_hash(values, self._seed))
        if self._trusted:
            return found
        same = (self.ids.take(found) == values).fill_null(False).to_numpy()
        return np.where(same, found, UNKNOWN).astype(np.int32)


@dataclass
class Layout:
    """Users of a log, in buckets."""

    users: Vocabulary
    items: Vocabulary
    complete: bool
    """Whether every item of the log is in `items`."""
    first_user: IntArray
    """First user_ix of each bucket, and the number of users. Shape (n_buckets + 1,)"""

    @property
    def n_buckets(self) -> int:
        """How many."""
        return len(self.first_user) - 1


def lay_out(frame: pl.LazyFrame, items: Ids | None, n_buckets: int | None) -> Layout:
    """The first pass: vocabularies and bounds of buckets.

    Args:
        frame: user_id, item_id.
        items: a given vocabulary; None takes the items of the log.
        n_buckets: how many; None makes buckets of `ROWS_PER_BUCKET`.
    """
    complete = items is None
    found = _distinct(frame, [USER_ID] if items is not None else [USER_ID, ITEM_ID])
    users, counts = found[USER_ID]
    vocabulary = items if items is not None else found[ITEM_ID][0]
    n_rows = int(counts.sum())
    if n_buckets is not None and not 1 <= n_buckets <= MAX_BUCKETS:
        raise ConfigError(f"n_buckets must be 1 to {MAX_BUCKETS}, got {n_buckets}")
    wanted = n_buckets if n_buckets is not None else -(-n_rows // ROWS_PER_BUCKET)
    wanted = min(max(wanted, 1), MAX_BUCKETS)
    before = np.cumsum(counts)
    cuts = np.searchsorted(before, np.arange(1, wanted) * (n_rows / wanted), side="left") + 1
    bounds = np.unique(np.concatenate([[0], np.minimum(cuts, len(users)), [len(users)]])).astype(np.int32)
    if len(bounds) == 1:
        bounds = np.zeros(2, np.int32)
    return Layout(Vocabulary(users, trusted=True), Vocabulary(vocabulary, trusted=complete), complete, bounds)


def _distinct(frame: pl.LazyFrame, columns: list[str]) -> dict[str, tuple[Ids, LongArray]]:
    """Distinct ids of each column and the rows of each: integers in one pass, a column of text in one."""
    schema = frame.collect_schema()
    integer = [name for name in columns if schema[name] == pl.Int64]
    seen = {name: KeyCounts() for name in integer}
    if integer:
        for batch in batches(frame.select(integer), in_order=False):
            for name in integer:
                seen[name].add(batch[name].to_numpy())
    found = {}
    for name in columns:
        if name in seen:
            keys, counts = seen.pop(name).sorted()
            found[name] = Ids(pl.Series(name, keys)), counts
        else:
            table = frame.group_by(name).len().collect(engine="streaming").sort(name)
            found[name] = Ids(table[name]), table["len"].to_numpy().astype(np.int64)
    return found


class Spill:
    """Rows of a log as integers, by bucket, in memory or in files."""

    def __init__(self, names: list[str], n_buckets: int, n_users: int, folder: Path | None) -> None:
        self.names = names
        self.lengths = np.zeros(n_users, dtype=np.int64)
        self._n_buckets = n_buckets
        self._folder = folder
        self._held: list[list[Columns]] = [[] for _ in range(n_buckets)]

    def add(self, rows: Columns, bucket: ByteArray | None) -> None:
        """Take in a batch; `bucket` is that of each row, None where there is only one."""
        _count_users(self.lengths, rows["user_ix"])
        if bucket is None:
            parts = [rows]
        else:
            order, edges = _by_bucket(bucket, self._n_buckets)
            moved = {name: column[order] for name, column in rows.items()}
            parts = [
                {name: column[edges[at] : edges[at + 1]] for name, column in moved.items()}
                for at in range(self._n_buckets)
            ]
        for at, part in enumerate(parts):
            if self._folder is None:
                self._held[at].append(part)
                continue
            for name, column in part.items():
                with (self._folder / f"{at:03d}.{name}").open("ab") as stream:
                    column.tofile(stream)

    @property
    def offsets(self) -> LongArray:
        """Where the rows of each user begin. Shape (n_users + 1,)."""
        return np.concatenate([[0], np.cumsum(self.lengths)]).astype(np.int64)

    def bucket(self, at: int) -> Columns:
        """All rows of one bucket, in the order they came; they are given up."""
        if self._folder is None:
            parts, self._held[at] = self._held[at], []
            return {
                name: np.concatenate([*(part[name] for part in parts), np.zeros(0, _SPILLED[name])])
                for name in self.names
            }
        rows = {}
        for name in self.names:
            file = self._folder / f"{at:03d}.{name}"
            rows[name] = np.fromfile(file, _SPILLED[name]) if file.exists() else np.zeros(0, _SPILLED[name])
            file.unlink(missing_ok=True)
        return rows


def bucketed(
    frame: pl.LazyFrame, layout: Layout, event_names: tuple[str, ...], seed: int, spill: Spill
) -> Iterator[Columns]:
    """The second pass, then the buckets in turn: item_ix, ts, event, weight, organic in their final order.

    `spill.lengths` holds the rows of each user once the first bucket is out.
    """
    code = pl.col(EVENT).cast(pl.Enum(event_names)).to_physical() if len(event_names) > 1 else pl.lit(0)
    frame = frame.with_columns(code.cast(pl.UInt8).alias(EVENT))
    bucket_of = np.repeat(np.arange(layout.n_buckets), np.diff(layout.first_user)).astype(np.uint8)
    for batch in batches(frame, in_order=False):
        rows: Columns = {
            "user_ix": layout.users.ix(batch[USER_ID]),
            "item_ix": layout.items.ix(batch[ITEM_ID]),
            "ts": batch[TS].to_physical().to_numpy(),
            "event": batch[EVENT].to_numpy(),
        }
        if "weight" in spill.names:
            rows["weight"] = batch[WEIGHT].to_numpy()
        if "organic" in spill.names:
            rows["organic"] = flags(batch[ORGANIC])
        if not layout.complete:
            known = rows["item_ix"] != UNKNOWN
            if not known.all():
                rows = {name: column[known] for name, column in rows.items()}
        spill.add(rows, bucket_of[rows["user_ix"]] if layout.n_buckets > 1 else None)
    for at in range(layout.n_buckets):
        first, stop = int(layout.first_user[at]), int(layout.first_user[at + 1])
        yield _in_order(spill.bucket(at), first, spill.lengths[first:stop], seed)


def _in_order(rows: Columns, first: int, lengths: LongArray, seed: int) -> Columns:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    order = np.empty(len(rows["ts"]), dtype=np.int32)
    place_by_user(rows.pop("user_ix") - np.int32(first), offsets, order)
    kind, weight = rows["event"], rows.get("weight", np.zeros(0, np.float32))
    if "organic" in rows:
        kind = kind.astype(np.uint16) * (UNSAID + 1) + rows["organic"]
    sort_user_rows(offsets, first, seed_key(seed), order, rows["ts"], rows["item_ix"], kind, weight)
    return {name: column[order] for name, column in rows.items()}


@numba.njit(cache=True, nogil=True)
def _count_users(lengths: LongArray, user_ix: IntArray) -> None:  # type: ignore[no-untyped-def, unused-ignore]
    for user in user_ix:
        lengths[user] += 1


@numba.njit(cache=True, nogil=True)
def _by_bucket(bucket: ByteArray, n_buckets: int) -> tuple[IntArray, LongArray]:  # type: ignore[no-untyped-def, unused-ignore]
    edges = np.zeros(n_buckets + 1, dtype=np.int64)
    for one in bucket:
        edges[one + 1] += 1
    for at in range(n_buckets):
        edges[at + 1] += edges[at]
    cursor = edges.copy()
    order = np.empty(len(bucket), dtype=np.int32)
    for row in range(len(bucket)):
        order[cursor[bucket[row]]] = row
        cursor[bucket[row]] += 1
    return order, edges
