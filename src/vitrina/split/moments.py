"""Points in time as people write them, and as the log keeps them (UTC microseconds)."""

from datetime import UTC, date, datetime, timedelta

from vitrina.errors import SplitError
from vitrina.schema import US_PER_DAY

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DATE_LENGTH = len("2026-03-01")

Moment = str | datetime | date | int
"""ISO 8601 with an offset, an aware datetime, a date (its midnight in UTC), or UTC microseconds."""


def to_us(moment: Moment, name: str = "cut") -> int:
    """UTC microseconds of a moment.

    Raises:
        SplitError: it cannot be read, or is a time of day without an offset.
    """
    if isinstance(moment, bool) or not isinstance(moment, str | date | int):
        raise SplitError(
            f"{name} {moment!r} is not a time; give an ISO 8601 string such as 2026-03-01T00:00Z"
        )
    if isinstance(moment, int):
        return moment
    if isinstance(moment, str):
        try:
            parsed: date = datetime.fromisoformat(moment)
        except ValueError as error:
            raise SplitError(f"{name} {moment!r} is not ISO 8601; write it as 2026-03-01T00:00Z") from error
        if len(moment) == DATE_LENGTH:
            parsed = date(parsed.year, parsed.month, parsed.day)
        moment = parsed
    if not isinstance(moment, datetime):
        return int((datetime(moment.year, moment.month, moment.day, tzinfo=UTC) - EPOCH).days) * US_PER_DAY
    if moment.tzinfo is None:
        raise SplitError(f"{name} {moment.isoformat()} has no offset from UTC; write {moment.isoformat()}Z")
    return (moment - EPOCH) // timedelta(microseconds=1)


def days_to_us(days: float, name: str, *, positive: bool) -> int:
    """Microseconds of a number of days, to the nearest.

    Raises:
        SplitError: it is negative, infinite, NaN, or zero where it must be positive.
    """
    if not (days > 0 if positive else days >= 0) or not days < float("inf"):
        raise SplitError(f"{name} must be {'> 0' if positive else '>= 0'} and finite, got {days}")
    return round(days * US_PER_DAY)


def written(us: int) -> str:
    """ISO 8601 in UTC, with fractions of a second only where there are any."""
    try:
        at = EPOCH + timedelta(microseconds=us)
    except OverflowError:
        return f"{us} us"
    return at.replace(tzinfo=None).isoformat() + "Z"
