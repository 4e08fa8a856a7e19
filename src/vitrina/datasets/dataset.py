"""What a reader gives: events in Vitrina's columns, what is known of the items, and where it is from."""

import datetime as dt
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import polars as pl

from vitrina.errors import InputError
from vitrina.log import Columns, EventLog
from vitrina.schema import EVENT, ITEM_ID, ORGANIC, TS, TS_DTYPE, USER_ID, VALUE, WEIGHT

OnMismatch = Literal["warn", "raise", "ignore"]
"""What a reader does when the counts of a folder are not the official ones; "ignore" does not count."""

Outcome = Literal["official", "subset", "differs", "unchecked"]
"""official: every published count matches; subset: no more rows than published; differs: anything else."""


CANONICAL = (USER_ID, ITEM_ID, TS, EVENT, VALUE, WEIGHT, ORGANIC)


class DatasetWarning(UserWarning):
    """The data in a folder are not the published data."""


@dataclass(frozen=True)
class Counts:
    """Rows, distinct users and distinct items of a log; None where nothing is published."""

    rows: int | None = None
    users: int | None = None
    items: int | None = None

    def __str__(self) -> str:
        known = {"rows": self.rows, "users": self.users, "items": self.items}
        return ", ".join(f"{n:,} {name}" for name, n in known.items() if n is not None) or "no counts"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where data come from and on what terms."""

    title: str
    licence: str
    """Licence, with what it means for the reader of the data. A note, not legal advice."""
    attribution: str
    page: str
    """Official page."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """Events, items and their origin.

    Example:
        >>> from vitrina import datasets
        >>> shop = datasets.load("online-retail")
        >>> shop.outcome
        'official'
    """

    name: str
    source: Source
    events: pl.LazyFrame
    """user_id, item_id, ts (UTC microseconds), event and, if there, value, organic and context."""
    items: pl.DataFrame
    """One row an item: item_id and what the source says of it; no rows where it says nothing."""
    users: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema={USER_ID: pl.String}))
    """One row a person: user_id and what the source says of them; no rows where it says nothing."""
    notes: tuple[str, ...] = ()
    """What a user must know: assumptions about time, what was left out or merged, what was approximated."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows of the files that are not events here, by reason."""
    found: Counts = Counts()
    """What was counted in the files."""
    official: Counts = Counts()
    """What the source publishes."""
    outcome: Outcome = "unchecked"
    wall_clock: bool = True
    """False where the source has no dates: its zero is then shown as 1970-01-01 UTC, which means nothing."""
    duplicates: Literal["set_aside", "keep"] = "set_aside"
    """What the log does with rows equal in all but context; "keep" where those are true events."""

    @cached_property
    def log(self) -> EventLog:
        """The events as a checked log that keeps every column; the files are streamed once."""
        context = tuple(n for n in self.events.collect_schema().names() if n not in CANONICAL)
        columns = Columns(context=context)
        if self.wall_clock:
            return EventLog.from_frame(self.events, columns, duplicates=self.duplicates)
        counted = self.events.with_columns(pl.col(TS).dt.timestamp("us"))
        epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        return EventLog.from_frame(counted, columns, time_unit="us", epoch=epoch, duplicates=self.duplicates)

    @property
    def licence(self) -> str:
        """Licence note."""
        return self.source.licence

    @property
    def attribution(self) -> str:
        """Whom to credit."""
        return self.source.attribution

    @property
    def page(self) -> str:
        """Official page."""
        return self.source.page

    def __repr__(self) -> str:
        return f"Dataset({self.name}: {self.found}, {self.outcome}; {self.licence})"


def count(events: pl.LazyFrame) -> Counts:
    """Rows, distinct users and distinct items, in one streaming pass.

    Cost: memory of the distinct ids; rows are not kept.
    """
    row = events.select(
        rows=pl.len(), users=pl.col(USER_ID).n_unique(), items=pl.col(ITEM_ID).n_unique()
    ).collect(engine="streaming")
    return Counts(*(int(n) for n in row.row(0)))


def check_counts(found: Counts, official: Counts, *, name: str, on_mismatch: OnMismatch) -> Outcome:
    """Compare what is there with what the source publishes.

    Returns:
        "official" where every published count that was counted matches, "subset" where no count is larger,
        "differs" else, "unchecked" where there is nothing to compare.

    Raises:
        InputError: the counts differ and `on_mismatch` is "raise".
    """
    pairs = [
        (mine, theirs)
        for mine, theirs in zip(_values(found), _values(official), strict=True)
        if mine is not None and theirs is not None
    ]
    if not pairs or on_mismatch == "ignore":
        return "unchecked"
    if all(mine == theirs for mine, theirs in pairs):
        return "official"
    outcome: Outcome = "subset" if all(mine <= theirs for mine, theirs in pairs) else "differs"
    kind = "a subset of" if outcome == "subset" else "not"
    sentence = (
        f"{name} here has {found}, the published data have {official}: this is {kind} the official data, "
        "so do not compare results with published ones; pass on_mismatch='ignore' if that is intended"
    )
    if on_mismatch == "raise":
        raise InputError(sentence)
    warnings.warn(sentence, DatasetWarning, stacklevel=3)
    return outcome


def _values(counts: Counts) -> tuple[int | None, ...]:
    return counts.rows, counts.users, counts.items


def canonical(events: pl.LazyFrame, **columns: pl.Expr) -> pl.LazyFrame:
    """The given columns, Vitrina's own first, `ts` cast to UTC microseconds."""
    first = [name for name in (USER_ID, ITEM_ID, TS, EVENT, VALUE, WEIGHT, ORGANIC) if name in columns]
    order = [*first, *(name for name in columns if name not in first)]
    columns[TS] = columns[TS].cast(TS_DTYPE)
    return events.select(columns[name].alias(name) for name in order)


def seconds(column: str) -> pl.Expr:
    """Unix seconds, whole or with a fraction, as UTC microseconds."""
    return (pl.col(column) * 1_000_000).round(0).cast(pl.Int64).cast(TS_DTYPE)


def milliseconds(column: str) -> pl.Expr:
    """Unix milliseconds as UTC microseconds."""
    return (pl.col(column).cast(pl.Int64) * 1_000).cast(TS_DTYPE)


def no_items() -> pl.DataFrame:
    """The item table of a source that says nothing of its items."""
    return pl.DataFrame(schema={ITEM_ID: pl.String})


def find(folder: str | os.PathLike[str], names: tuple[str, ...], *, source: Source) -> Path:
    """The first of the named files (glob patterns) in a folder, in it directly or one level below.

    Raises:
        InputError: none is there; the sentence says what is, and where the data come from.
    """
    files = find_all(folder, names, source=source)
    return files[0]


def find_all(folder: str | os.PathLike[str], names: tuple[str, ...], *, source: Source) -> list[Path]:
    """All files that match the first pattern that matches any, sorted.

    Raises:
        InputError: none is there; the sentence says what is, and where the data come from.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(
            f"{root} is not a folder; download {source.title} from {source.page} and unpack it there"
        )
    for pattern in names:
        matches = sorted(root.glob(pattern)) or sorted(root.glob(f"*/{pattern}"))
        if matches:
            return matches
    there = ", ".join(sorted(entry.name for entry in root.iterdir())[:12]) or "nothing"
    raise InputError(
        f"{root} holds none of {', '.join(names)} (there is: {there}); download {source.title} "
        f"from {source.page}"
    )
