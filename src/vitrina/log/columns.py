"""Which column of a source is which, and the canonical form of each as polars expressions.

Every column becomes its canonical value and the rules that a row may break on it. A row that breaks several
rules is counted under the first of them, in the order of `Canonical.rules`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from vitrina.errors import ConfigError, LogError
from vitrina.log.times import Clock
from vitrina.schema import DEFAULT_EVENT, EVENT, ITEM_ID, ORGANIC, TS, USER_ID, VALUE, WEIGHT

MAX_EVENTS = 255
"""Kinds of events a log may have: their codes are bytes."""

Events = tuple[str, ...] | Mapping[object, str] | None
"""A vocabulary: the allowed names, or raw value -> name, or None for whatever the source holds."""

_OPTIONAL = (EVENT, WEIGHT, VALUE, ORGANIC)
_CANONICAL = (USER_ID, ITEM_ID, TS, *_OPTIONAL)


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns in the source.

    An optional column left at its default name is used where the source has it; None never uses it; any other
    name must be there.
    """

    user_id: str = USER_ID
    """Integers, whole floats or strings."""
    item_id: str = ITEM_ID
    """Integers, whole floats or strings."""
    ts: str = TS
    """Datetime, date, number (with `time_unit`) or text."""
    event: str | None = EVENT
    """Kind of event."""
    weight: str | None = WEIGHT
    """How much a row counts: finite and not negative."""
    value: str | None = VALUE
    """A rating, price, share listened: finite or null."""
    organic: str | None = ORGANIC
    """Whether the user came without a recommendation: boolean, 0/1, true/false, or null."""
    context: tuple[str, ...] = ()
    """Columns kept as they are, under their own names."""
    text_ids: bool = False
    """True keeps ids of a CSV or NDJSON file as text even where its first rows hold integers."""

    def mapped(self, available: list[str], source: str) -> dict[str, str]:
        """Canonical name -> name in the source, for the columns that are used.

        Raises:
            LogError: a column is not there.
        """
        named = {USER_ID: self.user_id, ITEM_ID: self.item_id, TS: self.ts}
        for canonical_name in _OPTIONAL:
            name = getattr(self, canonical_name)
            if name is not None and (name in available or name != canonical_name):
                named[canonical_name] = name
        clash = [name for name in self.context if name in _CANONICAL]
        if clash:
            raise ConfigError(f"context column {clash[0]!r} has the name of a canonical column; rename it")
        named |= {name: name for name in self.context}
        for canonical_name, name in named.items():
            if name not in available:
                said = "" if name == canonical_name else f" (as {canonical_name})"
                raise LogError(
                    f"{source} has no column {name!r}{said}; it has: {', '.join(available) or 'none'}; say "
                    f"which is {canonical_name}: Columns({canonical_name}=...), --column {canonical_name}=..."
                )
        return named


@dataclass
class Canonical:
    """Canonical columns of a source, as expressions over its raw columns."""

    columns: dict[str, pl.Expr] = field(default_factory=dict)
    rules: dict[str, pl.Expr] = field(default_factory=dict)
    """Reason -> whether a row breaks the rule."""
    raw_time: pl.Expr | None = None
    """The time as a number, where the source has numbers."""

    @property
    def exprs(self) -> list[pl.Expr]:
        """The canonical columns under their names."""
        return [expr.alias(name) for name, expr in self.columns.items()]

    def reason(self) -> pl.Expr:
        """0 for a row that keeps every rule, else 1 + position of the first rule it breaks (UInt8)."""
        code = pl.lit(0, dtype=pl.UInt8)
        for at, broken in reversed([*enumerate(self.rules.values(), start=1)]):
            code = pl.when(broken).then(pl.lit(at, dtype=pl.UInt8)).otherwise(code)
        return code


def canonical(
    named: Mapping[str, str], head: pl.DataFrame, *, integer_text: bool, clock: Clock, events: Events
) -> Canonical:
    """Expressions and rules for the raw columns `named`.

    Args:
        named: canonical name -> raw name.
        head: the first rows of the source, which say the types.
        integer_text: read text ids as integers where the first rows all hold integers.
        clock: how times are read.
        events: the vocabulary.

    Raises:
        LogError: a column has a type that cannot be what it is said to be.
    """
    made = Canonical()
    for name in (USER_ID, ITEM_ID):
        _add_id(made, name, head[named[name]], integer_text=integer_text)
    time = clock.read(head[named[TS]])
    made.columns[TS] = time.value
    made.rules |= time.rules
    made.raw_time = time.raw_number
    _add_event(made, head[named[EVENT]] if EVENT in named else None, events)
    if WEIGHT in named:
        number = _number(head[named[WEIGHT]], WEIGHT)
        made.columns[WEIGHT] = number
        made.rules["null_weight"] = pl.col(named[WEIGHT]).is_null()
        made.rules["weight_not_a_number"] = number.is_null()
        made.rules["non_finite_weight"] = ~number.is_finite()
        made.rules["negative_weight"] = number < 0
    if VALUE in named:
        number = _number(head[named[VALUE]], VALUE)
        made.columns[VALUE] = number
        made.rules["value_not_a_number"] = number.is_null() & pl.col(named[VALUE]).is_not_null()
        made.rules["non_finite_value"] = ~number.is_finite()
    if ORGANIC in named:
        made.columns[ORGANIC] = flag = _flag(head[named[ORGANIC]])
        made.rules["organic_not_a_flag"] = flag.is_null() & pl.col(named[ORGANIC]).is_not_null()
    for name, raw_name in named.items():
        if name not in _CANONICAL:
            made.columns[name] = pl.col(raw_name)
    return made


def recoded(raw: pl.Expr, names: Mapping[Any, Any], dtype: pl.DataType) -> pl.Expr:
    """What each value stands for, null where it has no name.

    `replace_strict` says the same, but polars 2 holds a whole column in memory for it, where this streams.
    """
    values: dict[Any, list[Any]] = {}
    for value, name in names.items():
        values.setdefault(name, []).append(value)
    found = pl.lit(None, dtype=dtype)
    for name, meant in values.items():
        found = pl.when(raw.is_in(meant)).then(pl.lit(name, dtype=dtype)).otherwise(found)
    return found


def is_text(dtype: pl.DataType) -> bool:
    """Whether a column holds strings, however they are stored."""
    return dtype in (pl.String, pl.Categorical) or isinstance(dtype, pl.Enum)


def _add_id(made: Canonical, name: str, head: pl.Series, *, integer_text: bool) -> None:
    raw, dtype = pl.col(head.name), head.dtype
    if is_text(dtype):
        raw = raw.cast(pl.String)
        made.columns[name] = raw
        made.rules[f"null_{name}"] = blank = raw.is_null() | (raw == "")
        known = head.cast(pl.String).drop_nulls()
        if (
            integer_text
            and len(known)
            and (known.cast(pl.Int64, strict=False).cast(pl.String) == known).fill_null(False).all()
        ):
            made.columns[name] = number = raw.cast(pl.Int64, strict=False)
            made.rules[f"{name}_not_an_integer"] = ~blank & (number.cast(pl.String) != raw).fill_null(True)
    elif dtype.is_integer() or dtype == pl.Null:
        made.columns[name] = number = raw if dtype == pl.Int64 else raw.cast(pl.Int64, strict=False)
        made.rules[f"null_{name}"] = raw.is_null()
        if dtype in (pl.UInt64, pl.Int128):
            made.rules[f"{name}_beyond_64_bits"] = number.is_null() & raw.is_not_null()
    elif dtype.is_float():
        made.columns[name] = number = raw.cast(pl.Int64, strict=False)
        made.rules[f"null_{name}"] = raw.is_null() | raw.is_nan()
        made.rules[f"{name}_not_an_integer"] = (number.cast(dtype) != raw).fill_null(True)
    else:
        raise LogError(f"column {head.name!r} ({name}) holds {dtype}; ids must be integers or strings")


def _add_event(made: Canonical, head: pl.Series | None, events: Events) -> None:
    if head is None:
        if isinstance(events, Mapping) or (events is not None and len(events) != 1):
            raise ConfigError("the log has no event column, so events may name one event at most")
        made.columns[EVENT] = pl.lit(events[0] if events else DEFAULT_EVENT)
        return
    if not (is_text(head.dtype) or head.dtype.is_integer() or head.dtype in (pl.Boolean, pl.Null)):
        raise LogError(f"column {head.name!r} (event) holds {head.dtype}; events are text or integers")
    raw = pl.col(head.name).cast(pl.String)
    made.rules["null_event"] = raw.is_null()
    if isinstance(events, Mapping):
        names = {str(key): name for key, name in events.items()}
        made.columns[EVENT] = recoded(raw, names, pl.String())
        made.rules["unknown_event"] = ~raw.is_in([*names])
    else:
        made.columns[EVENT] = raw
        if events is not None:
            made.rules["unknown_event"] = ~raw.is_in([*events])


def _number(head: pl.Series, name: str) -> pl.Expr:
    if not (head.dtype.is_numeric() or head.dtype in (pl.String, pl.Null)):
        raise LogError(f"column {head.name!r} ({name}) holds {head.dtype}; it must hold numbers")
    raw = pl.col(head.name)
    return raw if head.dtype == pl.Float32 else raw.cast(pl.Float32, strict=False)


def _flag(head: pl.Series) -> pl.Expr:
    raw = pl.col(head.name)
    if head.dtype == pl.Boolean:
        return raw
    if head.dtype == pl.String or head.dtype.is_numeric() or head.dtype == pl.Null:
        words = {"1": True, "0": False, "1.0": True, "0.0": False, "true": True, "false": False}
        text = raw.cast(pl.String).str.to_lowercase()
        return recoded(text, words, pl.Boolean())
    raise LogError(f"column {head.name!r} (organic) holds {head.dtype}; it must hold true/false or 0/1")
