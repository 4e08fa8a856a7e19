"""How the times of a source become UTC microseconds, and what a wrong unit looks like."""

import datetime as dt
from dataclasses import dataclass, field
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import polars as pl

from vitrina.errors import ConfigError, LogError
from vitrina.schema import TS_DTYPE, US_PER_SECOND

TimeUnit = Literal["s", "ms", "us", "ns"]

PER_SECOND: dict[str, int] = {"s": 1, "ms": 1_000, "us": US_PER_SECOND, "ns": 1_000_000_000}
UNIT_WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}

EARLIEST = dt.datetime(1980, 1, 1, tzinfo=dt.UTC)
"""Earlier wall-clock times are refused: no log is that old, and a wrong unit lands in January 1970."""

_PLAUSIBLE_FROM = dt.datetime(1995, 1, 1, tzinfo=dt.UTC)
_AWARE_MARKS = ("%z", "%:z", "%::z", "%#z", "%Z", "%+")
_NAIVE_FORMATS = (
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%dT%H:%M",
)


def looks_like(value: float, now_us: int) -> str | None:
    """The unit under which an integer is a time between 1995 and now, or None."""
    for unit, per_second in PER_SECOND.items():
        if _PLAUSIBLE_FROM.timestamp() <= value / per_second <= now_us / US_PER_SECOND:
            return unit
    return None


def to_us(moment: dt.datetime, what: str) -> int:
    """UTC microseconds of an aware datetime.

    Raises:
        ConfigError: it has no time zone.
    """
    if moment.tzinfo is None:
        raise ConfigError(
            f"{what} {moment} has no time zone; write {what}={moment!r} with tzinfo=datetime.UTC"
        )
    delta = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
    return (delta.days * 86_400 + delta.seconds) * US_PER_SECOND + delta.microseconds


@dataclass
class TimeColumn:
    """A canonical time and what may be wrong with it."""

    value: pl.Expr
    """Datetime, UTC microseconds, null where the raw value cannot be read"""
    rules: dict[str, pl.Expr] = field(default_factory=dict)
    raw_number: pl.Expr | None = None
    """The number in the source, for guessing its unit; None where the source holds text or dates"""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """What the caller says about the times of a log."""

    unit: TimeUnit | None = None
    """Unit of times given as numbers."""
    zone: str | None = None
    """IANA zone of times given without one."""
    format: str | None = None
    """strftime format of times given as text; None reads ISO 8601."""
    epoch: dt.datetime | None = None
    """What zero stands for, in a log that has no wall clock."""
    now: dt.datetime | None = None
    """Later times are refused; None asks the system."""

    def __post_init__(self) -> None:
        if self.unit is not None and self.unit not in PER_SECOND:
            raise ConfigError(f"time_unit must be one of {', '.join(PER_SECOND)}, got {self.unit!r}")
        if self.zone is not None:
            try:
                ZoneInfo(self.zone)
            except (ZoneInfoNotFoundError, ValueError) as error:
                raise ConfigError(
                    f"time_zone {self.zone!r} is not an IANA zone; write e.g. 'Europe/London'"
                ) from error
        for what in ("epoch", "now"):
            moment = getattr(self, what)
            if moment is not None:
                to_us(moment, what)

    @property
    def epoch_us(self) -> int:
        """UTC microseconds of zero."""
        return 0 if self.epoch is None else to_us(self.epoch, "epoch")

    @property
    def now_us(self) -> int:
        """UTC microseconds after which a time is in the future."""
        return to_us(self.now or dt.datetime.now(dt.UTC), "now")

    @property
    def earliest_us(self) -> int:
        """UTC microseconds before which a time is impossible."""
        return to_us(EARLIEST, "earliest") if self.epoch is None else self.epoch_us

    def read(self, head: pl.Series) -> TimeColumn:
        """Expressions for the column whose first rows are `head`.

        Raises:
            LogError: the type is no time, or the caller must say its unit or zone.
        """
        dtype, raw = head.dtype, pl.col(head.name)
        if self.epoch is not None and not (dtype.is_numeric() or dtype == pl.String):
            raise LogError(f"column {head.name!r} (ts) holds {dtype}, which is a wall clock; leave epoch out")
        if dtype.is_integer() or dtype.is_float() or dtype == pl.Null:
            column = self._numbers(head, raw, integer=not dtype.is_float())
        elif isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
            utc = raw if dtype == TS_DTYPE else raw.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
            column = TimeColumn(utc, {"null_ts": raw.is_null()}, raw_number=raw.dt.timestamp("us"))
        elif isinstance(dtype, pl.Datetime) or dtype == pl.Date:
            if self.zone is None:
                raise LogError(
                    f"column {head.name!r} (ts) holds {dtype} without a time zone; say which is meant with "
                    f"time_zone='UTC' or another IANA name"
                )
            column = TimeColumn(self._local(raw.cast(pl.Datetime("us"))), {"null_ts": raw.is_null()})
        elif dtype == pl.String:
            column = self._text(head, raw)
        else:
            raise LogError(f"column {head.name!r} (ts) holds {dtype}; times are datetimes, numbers or text")
        column.rules["ts_not_a_time"] = column.value.is_null() & raw.is_not_null()
        column.rules["ts_before_1980" if self.epoch is None else "ts_before_epoch"] = (
            column.value < self._moment(self.earliest_us)
        )
        if self.epoch is None:
            column.rules["ts_in_the_future"] = column.value > self._moment(self.now_us)
        return column

    def _numbers(self, head: pl.Series, raw: pl.Expr, *, integer: bool) -> TimeColumn:
        if self.unit is None:
            known = head.cast(pl.Float64, strict=False).drop_nulls().drop_nans()
            guess = looks_like(known[0], self.now_us) if len(known) else None
            example = f" such as {known[0]:.16g}" if len(known) else ""
            hint = (
                f", they look like {UNIT_WORDS[guess]}: time_unit={guess!r}"
                if guess
                else " (s, ms, us or ns)"
            )
            raise LogError(f"column {head.name!r} (ts) holds numbers{example}; say their time_unit{hint}")
        per_second = PER_SECOND[self.unit]
        limit = 9_000_000_000 * per_second  # year 2255: any unit fits in 64 bits as microseconds
        number = raw.cast(pl.Int64, strict=False) if integer else raw
        inside = number.is_between(-limit, limit)
        if per_second > US_PER_SECOND:
            scaled = number // (per_second // US_PER_SECOND)
        elif integer:
            scaled = number * (US_PER_SECOND // per_second)
        else:
            scaled = (number * (US_PER_SECOND // per_second)).round()
        us = pl.when(inside).then(scaled).cast(pl.Int64, strict=False) + self.epoch_us
        rules = {"null_ts": raw.is_null()}
        if not integer:
            rules["null_ts"] = raw.is_null() | raw.is_nan()
        return TimeColumn(us.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"), rules, raw_number=number)

    def _text(self, head: pl.Series, raw: pl.Expr) -> TimeColumn:
        blank = raw.is_null() | (raw == "")
        known = head.drop_nulls().filter(head.drop_nulls() != "")
        if self.format is None and len(known) and known.cast(pl.Float64, strict=False).is_not_null().all():
            integer = bool(known.cast(pl.Int64, strict=False).is_not_null().all())
            dtype = pl.Int64 if integer else pl.Float64
            column = self._numbers(known.cast(dtype), raw.cast(dtype, strict=False), integer=integer)
            return TimeColumn(column.value, {"null_ts": blank}, raw_number=column.raw_number)
        if self.epoch is not None:
            raise LogError(f"column {head.name!r} (ts) holds text, which is a wall clock; leave epoch out")
        if self.format is not None and not any(mark in self.format for mark in _AWARE_MARKS):
            naive = raw.str.to_datetime(self.format, time_unit="us", strict=False)
            aware = pl.lit(None, dtype=TS_DTYPE)
        elif self.format is not None:
            naive = pl.lit(None, dtype=pl.Datetime("us"))
            aware = raw.str.to_datetime(self.format, time_unit="us", strict=False).dt.convert_time_zone("UTC")
        else:
            aware = raw.str.to_datetime("%+", time_unit="us", strict=False).dt.convert_time_zone("UTC")
            tries = [raw.str.to_datetime(f, time_unit="us", strict=False) for f in _NAIVE_FORMATS]
            naive = pl.coalesce(*tries, raw.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")))
        rules = {"null_ts": blank}
        if self.zone is None:
            rules["ts_without_a_time_zone"] = aware.is_null() & naive.is_not_null()
            return TimeColumn(aware, rules)
        return TimeColumn(pl.coalesce(aware, self._local(naive)), rules)

    def _local(self, naive: pl.Expr) -> pl.Expr:
        """Wall-clock times of the zone; the first of two equal ones in autumn, null if skipped in spring."""
        aware = naive.dt.replace_time_zone(self.zone or "UTC", ambiguous="earliest", non_existent="null")
        return aware.dt.convert_time_zone("UTC")

    @staticmethod
    def _moment(us: int) -> pl.Expr:
        return pl.lit(us, dtype=pl.Int64).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
