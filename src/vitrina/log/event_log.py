"""EventLog: a checked log, scanned lazily, that may be larger than memory."""

import datetime as dt
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from vitrina.errors import ConfigError, LogError
from vitrina.ids import Ids
from vitrina.log import store
from vitrina.log.buckets import Layout, Spill, bucketed, lay_out
from vitrina.log.checks import CheckReport, Duplicates, Facts, Mode, Policy, check, facts_of
from vitrina.log.columns import Columns, Events, canonical
from vitrina.log.histories import Histories
from vitrina.log.sources import Source, from_frame, open_source
from vitrina.log.times import Clock, TimeUnit
from vitrina.schema import DEFAULT_EVENT, EVENT, ITEM_ID, ORGANIC, TS, USER_ID, WEIGHT


@dataclass(frozen=True, eq=False)
class EventLog:
    """A checked log. Rows are read when they are asked for.

    Example:
        >>> import datetime as dt
        >>> day = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
        >>> frame = pl.DataFrame({"user_id": [1, 1], "item_id": ["a", "b"], "ts": [day, day]})
        >>> log = EventLog.from_frame(frame)
        >>> print(log.report)
        the frame: 2 rows in = 2 kept + 0 set aside
    """

    frame: pl.LazyFrame
    """user_id, item_id (Int64 or String), ts (Datetime, UTC microseconds), event (String) and, where the
    source has them, weight, value (Float32), organic (Boolean) and the context columns."""
    event_names: tuple[str, ...]
    """Sorted; the kinds of events of the whole scanned log."""
    report: CheckReport
    """What the check of the whole scanned log found."""
    wall_clock: bool = True
    """False where times count from a stated epoch."""
    known: Facts | None = None
    """What the check learnt, if these are the very rows it kept."""

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the canonical columns that the log has."""
        return tuple(self.frame.collect_schema().names())

    @cached_property
    def facts(self) -> Facts:
        """Rows, time range, events and digest, in one streaming pass (none for a log just scanned)."""
        return self.known or facts_of(self.frame)

    @property
    def digest(self) -> str:
        """SHA-256 over the multiset of rows: the same whatever their order and the cut into files."""
        return self.facts.digest

    def n_rows(self) -> int:
        """Number of rows. Streams the log once where it was filtered since the check."""
        return self._span[0]

    def time_range(self) -> tuple[int, int]:
        """First and last ts, UTC microseconds.

        Raises:
            LogError: the log is empty.
        """
        if self._span[1] is None:
            raise LogError(f"{self.report.source} has no rows (after filters), so it has no range of times")
        return self._span[1]

    @cached_property
    def _span(self) -> tuple[int, tuple[int, int] | None]:
        facts = self.known or self.__dict__.get("facts")
        if facts is not None:
            return facts.n_rows, facts.time_range
        us = pl.col(TS).dt.timestamp("us")
        n_rows, first, last = (
            self.frame.select(pl.len(), us.min().alias("first"), us.max().alias("last"))
            .collect(engine="streaming")
            .row(0)
        )
        return int(n_rows), (int(first), int(last)) if n_rows else None

    def filter(self, keep: pl.Expr) -> "EventLog":
        """The rows where an expression over the canonical columns is true."""
        return replace(self, frame=self.frame.filter(keep), known=None)

    def between(self, start_us: int | None = None, end_us: int | None = None) -> "EventLog":
        """Rows with start_us <= ts < end_us (UTC microseconds); None leaves an end open."""
        log = self
        if start_us is not None:
            log = log.filter(pl.col(TS) >= _moment(start_us))
        if end_us is not None:
            log = log.filter(pl.col(TS) < _moment(end_us))
        return log

    @classmethod
    def from_frame(
        cls,
        frame: pl.DataFrame | pl.LazyFrame,
        columns: Columns | None = None,
        *,
        time_unit: TimeUnit | None = None,
        time_zone: str | None = None,
        time_format: str | None = None,
        epoch: dt.datetime | None = None,
        events: Events = None,
        filter: pl.Expr | None = None,  # noqa: A002
        mode: Mode = "strict",
        quarantine_path: str | os.PathLike[str] | None = None,
        duplicates: Duplicates = "set_aside",
    ) -> "EventLog":
        """A log from a frame, in memory or lazy, under the checks of `scan_log`, which see for arguments."""
        columns = columns or Columns()
        clock = Clock(unit=time_unit, zone=time_zone, format=time_format, epoch=epoch)
        policy = Policy(mode=mode, quarantine_path=quarantine_path, duplicates=duplicates)
        return _checked(from_frame(frame, columns), columns, clock, events, filter, policy)

    def histories(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        items: Ids | None = None,
        n_buckets: int | None = None,
        seed: int = 0,
        events: tuple[str, ...] | None = None,
    ) -> Histories:
        """Histories of the users of this log: everything that learns from sequences reads these.

        Two streaming passes. Memory holds the vocabularies and one bucket (about 200 MB unless `n_buckets`
        says otherwise), and without a `directory` the result as well, 17 bytes a row. The result is the same
        whatever `n_buckets` is, whatever the order of the rows and the cut into files.

        Args:
            directory: where the arrays go, memory-mapped in the result; None keeps them in memory.
            items: the vocabulary; None takes the items of the log. Rows of other items are left out.
            n_buckets: in how many ranges of users the work is cut, 1 to 255.
            seed: draws the order of a user's rows of equal ts.
            events: the kinds of events that count; None takes all.

        Raises:
            ConfigError: an event is unknown to the log, or `n_buckets` is out of range.
            ArtifactError: the disk refuses.
        """
        log = self if events is None else self.filter(pl.col(EVENT).is_in(list(events)))
        names = self.event_names if events is None else tuple(sorted(events))
        unknown = sorted(set(names) - set(self.event_names))
        if unknown:
            raise ConfigError(f"the log has no event {unknown[0]!r}; it has: {', '.join(self.event_names)}")
        names = names or (DEFAULT_EVENT,)
        more = [name for name in (WEIGHT, ORGANIC) if name in self.columns]
        arrays = ["item_ix", "ts", "event", *more]
        wanted = [USER_ID, ITEM_ID, TS] + [EVENT] * (len(names) > 1) + more
        frame = log.frame.select(wanted)
        layout = lay_out(frame, items, n_buckets)
        if directory is None:
            return _in_memory(frame, layout, names, seed, arrays)
        _on_disk(frame, layout, names, seed, arrays, directory)
        return Histories.open(directory)


def scan_log(
    path: str | os.PathLike[str],
    columns: Columns | None = None,
    *,
    time_unit: TimeUnit | None = None,
    time_zone: str | None = None,
    time_format: str | None = None,
    epoch: dt.datetime | None = None,
    events: Events = None,
    filter: pl.Expr | None = None,  # noqa: A002
    mode: Mode = "strict",
    quarantine_path: str | os.PathLike[str] | None = None,
    duplicates: Duplicates = "set_aside",
    now: dt.datetime | None = None,
) -> EventLog:
    """Scan and check a log, in one streaming pass that holds a bounded part of it in memory.

    Args:
        path: a file, folder (hive partitions too), glob or object-store URL of Parquet, CSV, TSV or NDJSON.
        columns: which column is which, where names differ from `user_id`, `item_id`, `ts`, ...
        time_unit: unit of times given as numbers: "s", "ms", "us" or "ns".
        time_zone: IANA zone of times without one; they are refused where this is not said. Of the two times
            when clocks go back the first is meant; a time that clocks skip is no time.
        time_format: strftime format of times given as text; ISO 8601 otherwise.
        epoch: what zero stands for, in a log whose times are numbers and no wall clock; the report says so.
        events: the allowed names, or raw value -> name; None allows what there is. Without an event column,
            the one name that every row gets.
        filter: which rows of the raw columns belong to the log; the others are counted as `filtered`.
        mode: "strict" stops at the first offending rows and says where they are; "quarantine" writes them to
            `quarantine_path` (Parquet: the raw columns, reason, file, row from 0) and goes on.
        quarantine_path: see mode.
        duplicates: rows equal in every canonical column: "set_aside" keeps the first and counts the others,
            in both modes, "keep" keeps them (two equal order lines may both be true), "error" stops.
        now: later times are in the future and refused; the system's clock by default.

    Raises:
        LogError: the log cannot be read, lacks a column, or breaks a rule in strict mode.
        ConfigError: an argument is wrong.
    """
    columns = columns or Columns()
    clock = Clock(unit=time_unit, zone=time_zone, format=time_format, epoch=epoch, now=now)
    policy = Policy(mode=mode, quarantine_path=quarantine_path, duplicates=duplicates)
    return _checked(open_source(os.fspath(path), columns), columns, clock, events, filter, policy)


def _checked(
    source: Source, columns: Columns, clock: Clock, events: Events, keep: pl.Expr | None, policy: Policy
) -> EventLog:
    integer_text = source.is_text and not columns.text_ids
    made = canonical(source.named, source.head, integer_text=integer_text, clock=clock, events=events)
    frame, report, facts = check(source, made, clock, keep, policy)
    names = facts.event_names
    return EventLog(frame, names, report, wall_clock=clock.epoch is None, known=facts)


def _moment(us: int) -> pl.Expr:
    return pl.lit(us, dtype=pl.Int64).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")


def _in_memory(
    frame: pl.LazyFrame, layout: Layout, event_names: tuple[str, ...], seed: int, arrays: list[str]
) -> Histories:
    spill = Spill(["user_ix", *arrays], layout.n_buckets, len(layout.users.ids), None)
    parts: dict[str, list[npt.NDArray[Any]]] = {name: [] for name in arrays}
    for bucket in bucketed(frame, layout, event_names, seed, spill):
        for name, column in bucket.items():
            parts[name].append(column)
    columns: dict[str, Any] = {name: np.concatenate(parts.pop(name)) for name in arrays}
    return Histories(
        user_ids=layout.users.ids,
        items=layout.items.ids,
        offsets=spill.offsets,
        event_names=event_names,
        **columns,
    )


def _on_disk(
    frame: pl.LazyFrame,
    layout: Layout,
    event_names: tuple[str, ...],
    seed: int,
    arrays: list[str],
    directory: str | os.PathLike[str],
) -> None:
    with store.folder(directory) as folder, ExitStack() as stack:
        folder.add_ids("users", layout.users.ids)
        folder.add_ids("items", layout.items.ids)
        waiting = Path(stack.enter_context(TemporaryDirectory(dir=folder.path, prefix=".waiting-")))
        spill = Spill(["user_ix", *arrays], layout.n_buckets, len(layout.users.ids), waiting)
        files: dict[str, store.ArrayFile] = {}
        for bucket in bucketed(frame, layout, event_names, seed, spill):
            for name in arrays:
                if name not in files:
                    file = store.ArrayFile(folder.path, name, int(spill.offsets[-1]))
                    files[name] = stack.enter_context(file)
                files[name].append(bucket[name])
        for file in files.values():
            folder.closed(file)
        folder.add_array("offsets", iter([spill.offsets]), len(spill.offsets))
        folder.finish(event_names)
