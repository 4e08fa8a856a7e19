"""Online state: every accepted event, and the latest ones of each user, in one SQLite file.

    events   append-only; the event id is unique, which makes a retry harmless
    tails    one packed row a user: its latest events, in time order (a cache of `events`)

Readers never wait (write-ahead log, a connection a thread). Writes go through one thread that commits
whatever has gathered since its last commit, so that a hundred small batches cost one commit. A batch is
acknowledged after its commit: what was acknowledged survives the death of the process.
Item ids are kept as text, not as positions: state outlives the model, and an item that the model of today
does not know comes alive with the next one.
"""

import os
import queue
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import polars as pl

from vitrina.errors import StateError
from vitrina.schema import TS_DTYPE

APPLICATION_ID = 0x56495452
"""Marks the file as ours (PRAGMA application_id): "VITR"."""
FORMAT = 1
"""PRAGMA user_version of the layout."""

SCHEMA = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY,
    event_id TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    item_id TEXT NOT NULL,
    event TEXT NOT NULL,
    ts INTEGER NOT NULL,
    value REAL,
    request_id TEXT
);
CREATE TABLE tails (user_id TEXT PRIMARY KEY, packed BLOB NOT NULL) WITHOUT ROWID;
"""

INSERT = """
INSERT INTO events (event_id, user_id, item_id, event, ts, value, request_id)
VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (event_id) DO NOTHING
"""

Outcome = Literal["stored", "duplicate", "conflict"]


class Row(NamedTuple):
    """One event as it is stored."""

    event_id: str
    user_id: str
    item_id: str
    event: str
    ts: int
    """UTC microseconds"""
    value: float | None = None
    request_id: str | None = None
    stamped: bool = False
    """The server gave the time, so a repeat of the event will carry another one."""


Tail = list[tuple[str, int, str]]
"""(item_id, ts, event) in time order."""

_unpack = msgspec.msgpack.Decoder(Tail).decode
_pack = msgspec.msgpack.Encoder().encode


class State:
    """The SQLite file behind a server. Safe to use from many threads; several processes may share a file."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        tail: int = 500,
        durable: Literal["process", "power"] = "process",
        busy_timeout_s: float = 2.0,
        max_group: int = 256,
    ) -> None:
        """Open or create.

        Args:
            path: the file; its folder must exist.
            tail: events kept in a user's packed row.
            durable: `process` (synchronous=NORMAL) or `power` (FULL, an fsync a commit).
            busy_timeout_s: how long to wait for another process's lock.
            max_group: batches committed together.

        Raises:
            StateError: the file cannot be opened or written, is damaged, or is not ours.
        """
        self.path = Path(path)
        self._tail, self._busy_s, self._max_group = tail, busy_timeout_s, max_group
        self._connections: list[sqlite3.Connection] = []
        self._local = threading.local()
        self._lock = threading.Lock()
        self._closed = False
        self._writer = self._connect()
        try:
            self._prepare(durable)
        except sqlite3.Error as error:
            self._close_connections()
            raise StateError(_sentence(self.path, error)) from error
        except StateError:
            self._close_connections()
            raise
        self._queue: queue.SimpleQueue[tuple[Sequence[Row], Future[list[Outcome]]] | None] = (
            queue.SimpleQueue()
        )
        self._thread = threading.Thread(target=self._write_forever, name="state-writer", daemon=True)
        self._thread.start()

    def append(self, rows: Sequence[Row]) -> list[Outcome]:
        """Store a batch; returns once it is committed, with what became of each row.

        `stored`; `duplicate`: an equal event has this id already; `conflict`: another event has it.

        Raises:
            StateError: nothing of this batch was stored; the message says why.
        """
        if not rows:
            return []
        answer: Future[list[Outcome]] = Future()
        with self._lock:
            if self._closed:
                raise StateError(f"the state {self.path.name} is closed; start the server again")
            self._queue.put((rows, answer))
        return answer.result()

    def tail(self, user_id: str) -> Tail:
        """The latest events of a user in time order; empty for one never seen.

        Raises:
            StateError: the file cannot be read.
        """
        try:
            row = self._reader().execute("SELECT packed FROM tails WHERE user_id = ?", (user_id,)).fetchone()
            return [] if row is None else _unpack(row[0])
        except (sqlite3.Error, msgspec.DecodeError) as error:
            raise StateError(_sentence(self.path, error)) from error

    def latest_ts(self) -> int | None:
        """The largest ts among the most recent thousand events, None where there is none."""
        found = self._query("SELECT max(ts) FROM (SELECT ts FROM events ORDER BY seq DESC LIMIT 1000)")
        return None if found[0][0] is None else int(found[0][0])

    def counts(self) -> dict[str, int]:
        """Events stored, users with events, bytes on disk with the write-ahead log."""
        n_events = self._query("SELECT coalesce(max(seq), 0) FROM events")[0][0]
        n_users = self._query("SELECT count(*) FROM tails")[0][0]
        files = [self.path, self.path.with_name(self.path.name + "-wal")]
        n_bytes = sum(file.stat().st_size for file in files if file.exists())
        return {"events": int(n_events), "users": int(n_users), "bytes": n_bytes}

    def users(self, like: str = "", limit: int = 20) -> list[str]:
        """Users with events whose id starts with the given text."""
        escaped = like.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        sql = "SELECT user_id FROM tails WHERE user_id LIKE ? ESCAPE '\\' ORDER BY user_id LIMIT ?"
        return [row[0] for row in self._query(sql, (escaped + "%", limit))]

    def frame(self) -> pl.DataFrame:
        """Every stored event, oldest first: event_id, user_id, item_id, event, ts, value, request_id.

        Ids are text. This is what the next training run reads beside the old log.
        """
        rows = self._query(
            "SELECT event_id, user_id, item_id, event, ts, value, request_id FROM events ORDER BY seq"
        )
        text = dict.fromkeys(("event_id", "user_id", "item_id", "event"), pl.String)
        schema = text | {"ts": pl.Int64, "value": pl.Float64, "request_id": pl.String}
        return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col("ts").cast(TS_DTYPE))

    def close(self) -> None:
        """Commit what waits, then close. Later calls do nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._queue.put(None)
        self._thread.join()
        self._close_connections()

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self.path, timeout=self._busy_s, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise StateError(_sentence(self.path, error)) from error
        self._connections.append(connection)
        return connection

    def _prepare(self, durable: str) -> None:
        found = self._writer.execute("PRAGMA user_version").fetchone()[0]
        ours = self._writer.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        n_tables = self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if (n_tables and not ours) or (ours and found != FORMAT):
            raise StateError(
                f"{self.path} is not a state file of this version (format {found}, expected {FORMAT}); "
                "move it away and start again"
            )
        mode = self._writer.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            raise StateError(f"{self.path} cannot be written (journal mode {mode}); check its permissions")
        self._writer.execute(f"PRAGMA synchronous = {'FULL' if durable == 'power' else 'NORMAL'}")
        self._writer.execute("BEGIN IMMEDIATE")
        if not self._writer.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in SCHEMA.split(";")[:-1]:
                self._writer.execute(statement)
            self._writer.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self._writer.execute(f"PRAGMA user_version = {FORMAT}")  # a write: a read-only file is found out here
        self._writer.execute("COMMIT")
        verdict = self._writer.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            where = " ".join(verdict.split())
            raise StateError(f"{self.path} is damaged ({where}); move it away and start again")

    def _reader(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            with self._lock:
                if self._closed:
                    raise StateError(f"the state {self.path.name} is closed; start the server again")
                connection = self._connect()
            connection.execute("PRAGMA query_only = 1")
            self._local.connection = connection
        return connection

    def _query(self, sql: str, values: tuple[object, ...] = ()) -> list[Any]:
        try:
            return self._reader().execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise StateError(_sentence(self.path, error)) from error

    def _write_forever(self) -> None:
        while (first := self._queue.get()) is not None:
            group = [first]
            while len(group) < self._max_group and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    self._queue.put(None)
                    break
                group.append(following)
            self._commit(group)

    def _commit(self, group: list[tuple[Sequence[Row], Future[list[Outcome]]]]) -> None:
        """One transaction for the whole group; on failure none of it is stored and every caller is told."""
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            fresh: dict[str, list[Row]] = defaultdict(list)
            outcomes = [[self._store(row, fresh) for row in rows] for rows, _ in group]
            for user_id, rows in fresh.items():
                self._extend_tail(user_id, rows)
            self._writer.execute("COMMIT")
        except Exception as error:
            with suppress(sqlite3.Error):
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
            for _, answer in group:
                answer.set_exception(StateError(_sentence(self.path, error)))
            return
        for (_, answer), outcome in zip(group, outcomes, strict=True):
            answer.set_result(outcome)

    def _store(self, row: Row, fresh: dict[str, list[Row]]) -> Outcome:
        if self._writer.execute(INSERT, row[:7]).rowcount == 1:
            fresh[row.user_id].append(row)
            return "stored"
        sql = "SELECT user_id, item_id, event, value, request_id, ts FROM events WHERE event_id = ?"
        stored = self._writer.execute(sql, (row.event_id,)).fetchone()
        same = stored[:5] == (row.user_id, row.item_id, row.event, row.value, row.request_id)
        return "duplicate" if same and (row.stamped or stored[5] == row.ts) else "conflict"

    def _extend_tail(self, user_id: str, rows: Sequence[Row]) -> None:
        found = self._writer.execute("SELECT packed FROM tails WHERE user_id = ?", (user_id,)).fetchone()
        tail = [] if found is None else _unpack(found[0])
        tail.extend((row.item_id, row.ts, row.event) for row in rows)
        tail.sort(key=lambda entry: entry[1])
        sql = "INSERT INTO tails VALUES (?, ?) ON CONFLICT (user_id) DO UPDATE SET packed = excluded.packed"
        self._writer.execute(sql, (user_id, _pack(tail[-self._tail :])))

    def _close_connections(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()


def _sentence(path: Path, error: BaseException) -> str:
    """What happened to the state file, and what to do about it."""
    name = getattr(error, "sqlite_errorname", "")
    for prefix, what in {
        "SQLITE_FULL": "the disk is full; nothing of this request was stored, free space and send it again",
        "SQLITE_READONLY": "the file or its folder is read-only; make it writable and send it again",
        "SQLITE_BUSY": "another process holds its lock; try again",
        "SQLITE_LOCKED": "another process holds its lock; try again",
        "SQLITE_CORRUPT": "the file is damaged; move it away and start again",
        "SQLITE_NOTADB": "the file is not an SQLite database; move it away and start again",
        "SQLITE_CANTOPEN": "the file cannot be opened; check that its folder exists and is writable",
        "SQLITE_IOERR": "the disk refused to read or write; check its space and health",
        "SQLITE_PERM": "permission was denied; check the owner of the file",
    }.items():
        if name.startswith(prefix):
            return f"the state {path.name} is not available: {what}"
    return f"the state {path.name} is not available: {error}"
