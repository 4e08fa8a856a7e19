"""The one pass that checks a log: every row is kept, or set aside under a reason, and both are counted.

The same pass learns the range of times, the kinds of events, the digest and the repeated rows.
"""

import datetime as dt
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from vitrina.errors import ConfigError, LogError
from vitrina.log.columns import MAX_EVENTS, Canonical, recoded
from vitrina.log.duplicates import DuplicateRows, RepeatedHashes
from vitrina.log.ndjson import FAULT, LINE, shown
from vitrina.log.rowhash import HashArray, LogDigest, column_hash, row_hash, text_hash
from vitrina.log.sources import ROW, Source, reading
from vitrina.log.stream import batches
from vitrina.log.times import UNIT_WORDS, Clock, looks_like
from vitrina.schema import EVENT, TS, ByteArray, LongArray

Mode = Literal["strict", "quarantine"]
Duplicates = Literal["set_aside", "keep", "error"]

FILTERED = "filtered"
DUPLICATE = "duplicate"
REASON = "reason"

_SHOWN_ROWS = 3
_CODE = "__reason"
_SECOND = 0x5EC0D


@dataclass(frozen=True)
class CheckReport:
    """What the check of one source found. `rows_in == rows_kept + sum(set_aside.values())`, always."""

    source: str
    rows_in: int
    rows_kept: int
    set_aside: dict[str, int]
    """Reason -> rows, largest first; only reasons that occurred."""
    quarantine: str | None = None
    """File that holds the offending rows and the duplicates, each with its reason, file and row."""
    notes: tuple[str, ...] = ()
    """What was assumed, in sentences."""

    def __post_init__(self) -> None:
        if self.rows_in != self.rows_kept + sum(self.set_aside.values()):
            raise AssertionError(
                f"rows in {self.rows_in} != kept {self.rows_kept} + set aside {self.set_aside}"
            )

    def __str__(self) -> str:
        n_aside = self.rows_in - self.rows_kept
        reasons = ", ".join(f"{name} {n:,}" for name, n in self.set_aside.items())
        said = f"{self.source}: {self.rows_in:,} rows in = {self.rows_kept:,} kept + {n_aside:,} set aside"
        lines = [f"{said} ({reasons})" if reasons else said]
        if self.quarantine:
            lines.append(f"  set-aside rows, with reasons: {self.quarantine}")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "source": self.source,
            "rows_in": self.rows_in,
            "rows_kept": self.rows_kept,
            "set_aside": dict(self.set_aside),
            "quarantine": self.quarantine,
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Facts:
    """What a pass over a log learnt."""

    n_rows: int
    time_range: tuple[int, int] | None
    """First and last UTC microseconds; None where the log is empty."""
    event_names: tuple[str, ...]
    """Sorted."""
    digest: str


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What to do with rows that break a rule."""

    mode: Mode = "strict"
    quarantine_path: str | os.PathLike[str] | None = None
    duplicates: Duplicates = "set_aside"

    def __post_init__(self) -> None:
        if self.mode not in ("strict", "quarantine"):
            raise ConfigError(f"mode must be 'strict' or 'quarantine', got {self.mode!r}")
        if self.duplicates not in ("set_aside", "keep", "error"):
            raise ConfigError(f"duplicates must be 'set_aside', 'keep' or 'error', got {self.duplicates!r}")
        if (self.mode == "quarantine") != (self.quarantine_path is not None):
            raise ConfigError(
                "mode='quarantine' and quarantine_path go together: say which Parquet file gets the rows"
            )


class EventCodes:
    """Codes of event names in the order of their first sight."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._hashes = np.zeros(0, np.uint64)

    def of(self, events: pl.Series) -> ByteArray:
        """Code of each event of a batch. Shape (n,)."""
        codes = events.cast(pl.Enum(self.names), strict=False).to_physical() if self.names else None
        if codes is None or codes.null_count():
            new = sorted(set(events.unique().to_list()) - set(self.names))
            self.names += new
            if len(self.names) > MAX_EVENTS:
                raise LogError(
                    f"column event has more than {MAX_EVENTS} kinds of events ({', '.join(new[:3])}, ...); "
                    f"events are kinds of action such as view or buy: map another column or give a vocabulary"
                )
            self._hashes = text_hash(pl.Series(self.names))
            codes = events.cast(pl.Enum(self.names)).to_physical()
        return codes.cast(pl.UInt8).to_numpy()

    def hashes(self, codes: ByteArray) -> HashArray:
        """Hash of the name behind each code. Shape (n,)."""
        return self._hashes[codes]


@dataclass
class _Tally:
    """What the pass counts."""

    columns: tuple[str, ...]
    reasons: tuple[str, ...]
    counts: LongArray = field(init=False)
    first_ts: int = np.iinfo(np.int64).max
    last_ts: int = np.iinfo(np.int64).min
    events: EventCodes = field(default_factory=EventCodes)

    def __post_init__(self) -> None:
        self.counts = np.zeros(len(self.reasons) + 1, np.int64)
        self.digest = LogDigest(tuple(sorted(self.columns)))

    def hash_rows(self, batch: pl.DataFrame, seed: int = 0) -> HashArray:
        """Hash of each row of canonical columns. Shape (n,)."""
        parts = []
        for name in sorted(self.columns):
            if name == EVENT:
                parts.append(self.events.hashes(self.events.of(batch[name])))
            else:
                parts.append(column_hash(batch[name], seed))
        return row_hash(parts, len(batch), seed)

    def add(self, batch: pl.DataFrame) -> HashArray:
        """Take in kept rows; returns their hashes."""
        row = self.hash_rows(batch)
        self.digest.add(row)
        if len(batch):
            times = batch[TS].to_physical().to_numpy()
            self.first_ts = min(self.first_ts, int(times.min()))
            self.last_ts = max(self.last_ts, int(times.max()))
        return row

    def facts(self) -> Facts:
        """What the kept rows are."""
        n_rows = self.digest.n_rows
        span = (self.first_ts, self.last_ts) if n_rows else None
        return Facts(n_rows, span, tuple(sorted(self.events.names)), self.digest.hexdigest())


def facts_of(frame: pl.LazyFrame) -> Facts:
    """One pass over canonical columns that were checked before."""
    tally = _Tally(tuple(frame.collect_schema().names()), ())
    for batch in batches(frame, in_order=False):
        tally.add(batch)
    return tally.facts()


def check(
    source: Source, made: Canonical, clock: Clock, keep: pl.Expr | None, policy: Policy
) -> tuple[pl.LazyFrame, CheckReport, Facts]:
    """Check every row of a source once.

    Args:
        source: what to read.
        made: its canonical columns and rules.
        clock: for saying which unit impossible times look like.
        keep: rows of the raw columns that belong to the log; None for all.
        policy: what to do with offending rows and duplicates.

    Returns:
        The kept rows with canonical columns (lazy), the report, and what was learnt.

    Raises:
        LogError: in strict mode, a row breaks a rule; or the source cannot be read.
    """
    free = {FILTERED: ~keep.fill_null(False)} if keep is not None else {}
    ruled = Canonical(made.columns, source.rules | free | made.rules, made.raw_time)
    breaks = np.array([False, *(name not in free for name in ruled.rules)])
    tally = _Tally(tuple(made.columns), tuple(ruled.rules))
    repeated = RepeatedHashes()
    try:
        with reading(source.name):
            for batch, clean in _batches(source, ruled):
                kept = clean
                offending = tally.counts[breaks].sum()
                if kept is None:
                    codes = batch[_CODE].to_numpy()
                    tally.counts += np.bincount(codes, minlength=len(tally.counts))
                    kept = batch.filter(pl.col(_CODE) == 0)
                else:
                    tally.counts[0] += len(batch)
                if policy.mode == "strict" and tally.counts[breaks].sum() > offending:
                    raise LogError(_complaint(source, ruled, clock))
                row = tally.add(kept)
                if policy.duplicates != "keep":
                    repeated.add(row)
            hashes = repeated.finish()
            duplicates = _mark_duplicates(source, ruled, tally, hashes, policy) if len(hashes) else None
    finally:
        repeated.close()
    return _outcome(source, ruled, clock, tally, duplicates, policy)


def _batches(source: Source, ruled: Canonical) -> Iterator[tuple[pl.DataFrame, pl.DataFrame | None]]:
    """Batches of canonical columns and reasons; the second is the batch itself where every row is kept."""
    stream = source.frame.select(*ruled.exprs, ruled.reason().alias(_CODE))
    for batch in batches(stream, in_order=True):
        clean = len(batch) == 0 or batch[_CODE].max() == 0
        yield batch, batch if clean else None


def _mark_duplicates(
    source: Source, ruled: Canonical, tally: _Tally, hashes: HashArray, policy: Policy
) -> DuplicateRows:
    """The second pass: which rows repeat an earlier one. The digest is taken again, without them."""
    found = DuplicateRows(hashes, int(tally.counts.sum()))
    tally.digest = LogDigest(tally.digest.columns)
    begin = 0
    for batch, clean in _batches(source, ruled):
        kept = clean
        place = np.arange(begin, begin + len(batch))
        begin += len(batch)
        if kept is None:
            standing = batch[_CODE].to_numpy() == 0
            place, kept = place[standing], batch.filter(pl.Series(standing))
        row = tally.hash_rows(kept)
        at = found.candidates(row)
        if len(at):
            second = tally.hash_rows(kept[at], seed=_SECOND)
            marked = found.mark(row[at], second, place[at])
            if len(marked) and policy.duplicates == "error":
                rows = source.frame if source.located is None else source.located
                where = _where(source, rows.filter(pl.col(ROW).cast(pl.Int64) == int(marked[0])))
                raise LogError(
                    f"{source.name} repeats a row exactly: {where[0]}; use duplicates='set_aside' to keep "
                    f"one of each, or duplicates='keep'"
                )
            row = row[~found.at(place)]
        tally.digest.add(row)
    return found


def _outcome(
    source: Source,
    ruled: Canonical,
    clock: Clock,
    tally: _Tally,
    duplicates: DuplicateRows | None,
    policy: Policy,
) -> tuple[pl.LazyFrame, CheckReport, Facts]:
    n_duplicates = duplicates.n_rows if duplicates is not None else 0
    aside = dict(zip(ruled.rules, (int(n) for n in tally.counts[1:]), strict=True)) | {
        DUPLICATE: n_duplicates
    }
    aside = {name: n for name, n in sorted(aside.items(), key=lambda pair: -pair[1]) if n}
    code = ruled.reason()
    if duplicates is not None and n_duplicates:
        repeats = (
            pl.col(ROW)
            .cast(pl.Int64)
            .map_batches(
                lambda place: pl.Series(duplicates.at(place.to_numpy())),
                return_dtype=pl.Boolean,
                is_elementwise=True,
            )
        )
        code = (
            pl.when((code == 0) & repeats).then(pl.lit(len(ruled.rules) + 1, dtype=pl.UInt8)).otherwise(code)
        )
    frame = source.frame.filter(code == 0) if aside else source.frame
    facts = tally.facts()
    quarantine = None
    if policy.quarantine_path is not None:
        offending = {name: n for name, n in aside.items() if name != FILTERED}
        names = [*ruled.rules, DUPLICATE]
        _write_quarantine(source, code, names, Path(policy.quarantine_path), sum(offending.values()))
        quarantine = str(policy.quarantine_path)
    report = CheckReport(
        source.name, int(tally.counts.sum()), facts.n_rows, aside, quarantine, tuple(_notes(clock, facts))
    )
    return frame.select(*ruled.exprs), report, facts


def _write_quarantine(source: Source, code: pl.Expr, names: list[str], path: Path, expected: int) -> None:
    codes = {at: name for at, name in enumerate(names, start=1) if name != FILTERED}
    rows = source.places(_reasoned(source, code, codes) if expected else _reasoned(source, code, {}).head(0))
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)
        _as_written(rows).sink_parquet(partial, engine="streaming")
        written = pl.scan_parquet(partial).select(pl.len()).collect().item()
        partial.rename(path)
    except OSError as error:
        raise LogError(
            f"{path} could not be written ({error.strerror or error}); set-aside rows need a place"
        ) from error
    if written != expected:
        raise AssertionError(f"{expected} rows were set aside but {written} written to {path}")


def _as_written(rows: pl.LazyFrame) -> pl.LazyFrame:
    """Set-aside rows without what is internal; lines that could not be read are in the column `line`."""
    names = rows.collect_schema().names()
    free_name = "line" if "line" not in names else LINE
    return rows.drop(ROW, FAULT, strict=False).rename({LINE: free_name}, strict=False)


def _complaint(source: Source, ruled: Canonical, clock: Clock) -> str:
    """One sentence on the first offending rows: where, why, what they hold."""
    codes = {at: name for at, name in enumerate(ruled.rules, start=1) if name != FILTERED}
    rows = _reasoned(source, ruled.reason(), codes)
    shown = _where(source, rows)
    guess = _unit_guess(rows, ruled, clock)
    return (
        f"{source.name} has rows that break a rule: {'; '.join(shown)}{guess}; "
        f"mend them, or set them aside with mode='quarantine' (--quarantine DIR)"
    )


def _reasoned(source: Source, code: pl.Expr, codes: dict[int, str]) -> pl.LazyFrame:
    """Offending rows as they lie there, with their `REASON`."""
    rows = (source.frame if source.located is None else source.located).with_columns(code.alias(_CODE))
    reason = recoded(pl.col(_CODE), codes, pl.String()).alias(REASON)
    return rows.filter(pl.col(_CODE).is_in([*codes])).with_columns(reason).drop(_CODE)


def _where(source: Source, rows: pl.LazyFrame) -> list[str]:
    found = source.places(rows.head(_SHOWN_ROWS)).collect(engine="streaming").sort("file", "row")
    said = []
    for row in found.to_dicts():
        held = ", ".join(f"{raw}={_told(row[raw])}" for raw in dict.fromkeys(source.named.values()))
        if row.get(LINE) is not None:
            held = shown(row[LINE])
        why = f"{row[REASON]}: " if REASON in row else ""
        said.append(f"{why}row {row['row']} of {row['file']} ({held})")
    return said


def _told(value: Any) -> str:
    return str(value) if isinstance(value, dt.date) else repr(value)


def _unit_guess(rows: pl.LazyFrame, ruled: Canonical, clock: Clock) -> str:
    if ruled.raw_time is None:
        return ""
    wrong = pl.col(REASON).is_in(["ts_before_1980", "ts_in_the_future", "ts_not_a_time"])
    times = rows.filter(wrong).head(1).select(ruled.raw_time.cast(pl.Float64))
    found = times.collect(engine="streaming").to_series()
    unit = looks_like(found[0], clock.now_us) if len(found) and found[0] is not None else None
    if unit is None or unit == clock.unit:
        return ""
    return f" (these times look like {UNIT_WORDS[unit]}: time_unit={unit!r})"


def _notes(clock: Clock, facts: Facts) -> Iterator[str]:
    if clock.epoch is not None:
        yield f"times have no wall clock: zero is taken as {clock.epoch.isoformat()}"
    if clock.zone is not None:
        yield f"times without a zone are taken in {clock.zone}"
    if not facts.n_rows:
        yield "the log is empty"
