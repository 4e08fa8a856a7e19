"""Judges events as they arrive: nothing enters the state that the next training run would choke on."""

import datetime
import re
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from vitrina.ids import UNKNOWN, Ids
from vitrina.schema import US_PER_SECOND
from vitrina.serve import wire
from vitrina.serve.settings import Settings
from vitrina.serve.state import Row, State

INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,18})", re.ASCII)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
INT64 = range(-(2**63), 2**63)

UNITS = {"seconds": 1_000_000, "milliseconds": 1_000, "nanoseconds": 1e-3, "days": 86_400_000_000}
"""Microseconds in a unit of time that people send by mistake."""

YEAR_2100 = 4_102_444_800 * US_PER_SECOND


class Refused(ValueError):
    """Why one event is not stored; the text goes back to the sender."""


@dataclass(frozen=True, kw_only=True)
class Intake:
    """The rules for events of one log."""

    state: State
    users: Ids
    items: Ids
    event_names: tuple[str, ...]
    """Events of the training log; these enter histories."""
    first_ts: int
    """Time of the first training event, UTC microseconds."""
    settings: Settings

    def store(self, raw_events: Sequence[msgspec.Raw], now: int) -> wire.Receipt:
        """Judge every event, store the good ones in one transaction, tell about the others.

        Raises:
            StateError: the state did not take them; nothing of the batch is stored.
        """
        good: list[tuple[int, Row]] = []
        rejected: list[wire.Rejected] = []
        for index, raw in enumerate(raw_events):
            try:
                good.append((index, self.row(raw, now)))
            except Refused as why:
                rejected.append(wire.Rejected(index, str(why)))
        outcomes = self.state.append([row for _, row in good])
        n_unknown = n_duplicates = 0
        for (index, row), outcome in zip(good, outcomes, strict=True):
            if outcome == "conflict":
                reason = f"event_id {row.event_id!r} belongs to another event already; send it under a new id"
                rejected.append(wire.Rejected(index, reason))
                continue
            n_duplicates += outcome == "duplicate"
            n_unknown += self.items.get(row.item_id) == UNKNOWN
        rejected.sort(key=lambda one: one.index)
        return wire.Receipt(len(raw_events) - len(rejected), n_duplicates, n_unknown, rejected)

    def row(self, raw: msgspec.Raw, now: int) -> Row:
        """One event, checked.

        Raises:
            Refused: the first rule that it breaks.
        """
        try:
            event = wire.decode_event(raw)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Refused(f"the event does not have the expected form: {error}") from error
        if event.value is not None and not abs(event.value) < float("inf"):
            raise Refused(f"value {event.value} is not a finite number")
        limit = self.settings.max_id_length
        return Row(
            event_id=_text(event.event_id, "event_id", limit),
            user_id=_of_kind(event.user_id, self.users, "user_id", limit),
            item_id=_of_kind(event.item_id, self.items, "item_id", limit),
            event=self._event_name(event.event),
            ts=now if event.ts is None else self._ts(event.ts, now),
            value=event.value,
            request_id=None if event.request_id is None else _text(event.request_id, "request_id", limit),
            stamped=event.ts is None,
        )

    def _event_name(self, name: str | None) -> str:
        known = (*self.event_names, *self.settings.extra_events)
        if name is None and len(self.event_names) == 1:
            return self.event_names[0]
        if name not in known:
            said = "event is missing" if name is None else f"event {name[:60]!r} is unknown"
            raise Refused(f"{said}; this log has: {', '.join(known)}")
        return name

    def _ts(self, given: int | str, now: int) -> int:
        ts = _microseconds(given) if isinstance(given, str) else given
        latest = now + int(self.settings.max_future_s * US_PER_SECOND)
        if self.first_ts <= ts <= latest:
            return ts
        for unit, factor in UNITS.items():
            if isinstance(given, int) and self.first_ts <= ts * factor <= max(latest, YEAR_2100):
                raise Refused(f"ts {ts} looks like {unit}; give UTC microseconds or RFC 3339 text")
        if ts > latest:
            raise Refused(f"ts {given} is in the future; the server's clock says {_readable(now)}")
        raise Refused(f"ts {given} is before the training log begins, {_readable(self.first_ts)}")


def canonical(value: int | str, ids: Ids) -> str | None:
    """An id as the state keeps it, or None where it cannot be an id of this kind of log."""
    if not ids.is_integer:
        return str(value)
    text = str(value) if isinstance(value, int) and value in INT64 else value
    if not isinstance(text, str) or INTEGER.fullmatch(text) is None or int(text) not in INT64:
        return None
    return str(int(text))


def _of_kind(value: int | str, ids: Ids, name: str, limit: int) -> str:
    kept = canonical(value, ids)
    if kept is None:
        raise Refused(f"{name} {str(value)[:60]!r} is not a 64-bit integer, as the ids of this log are")
    return _text(kept, name, limit)


def _text(value: str, name: str, limit: int) -> str:
    if not value:
        raise Refused(f"{name} is empty")
    if len(value) > limit:
        raise Refused(f"{name} has {len(value)} characters, at most {limit} are taken")
    if CONTROL.search(value):
        raise Refused(f"{name} {value[:60]!r} holds a control character")
    return value


def _microseconds(text: str) -> int:
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused(f"ts {text[:60]!r} is neither an integer nor RFC 3339 text") from error
    if moment.tzinfo is None:
        raise Refused(f"ts {text[:60]!r} names no time zone; add Z or an offset")
    since = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return since // datetime.timedelta(microseconds=1)


def _readable(ts: int) -> str:
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    try:
        return (epoch + datetime.timedelta(microseconds=ts)).isoformat(timespec="seconds")
    except OverflowError:
        return str(ts)
