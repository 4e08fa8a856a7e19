"""Global temporal splits: one cut for everybody, stored as an explicit moment. All of them stay lazy."""

import polars as pl

from vitrina.errors import SplitError
from vitrina.log import EventLog
from vitrina.schema import TS, US_PER_DAY
from vitrina.split.moments import Moment, days_to_us, to_us, written
from vitrina.split.splits import Part, Split


def at(
    log: EventLog,
    *,
    cut: Moment,
    gap_days: float = 0.0,
    horizon_days: float | None = None,
    validation_days: float | None = None,
) -> Split:
    """Cut a log at a moment.

        train ts < cut - gap      gap cut - gap <= ts < cut      test cut <= ts < cut + horizon

    With `validation_days`, the validation window ends where training does, at cut - gap, and has its own gap
    before it: [cut - gap - validation, cut - gap), trained on ts < cut - gap - validation - gap.

    Args:
        log: a checked log; one pass over its times counts the parts, nothing is read into memory.
        cut: first moment of the test window.
        gap_days: left out before each window, so that what is logged late cannot leak into training.
        horizon_days: length of the test window; None runs to the end of the log.
        validation_days: length of the validation window; None makes none.

    Raises:
        SplitError: the cut is outside the log, or a part that must hold rows is empty.
    """
    cut_us = to_us(cut)
    gap_us = days_to_us(gap_days, "gap_days", positive=False)
    horizon_us = None if horizon_days is None else days_to_us(horizon_days, "horizon_days", positive=True)
    first, last = _time_range(log)
    if not first < cut_us <= last:
        raise SplitError(
            f"cut {written(cut_us)} is outside the log, which runs from {written(first)} to {written(last)}; "
            "choose a cut inside it"
        )
    train_until = cut_us - gap_us
    test_until = last + 1 if horizon_us is None else cut_us + horizon_us
    validation_cut = None
    edges = [("train", first, train_until)]
    if validation_days is not None:
        validation_cut = train_until - days_to_us(validation_days, "validation_days", positive=True)
        fit_until = validation_cut - gap_us
        edges = [
            ("train", first, fit_until),
            ("gap before validation", fit_until, validation_cut),
            ("validation", validation_cut, train_until),
        ]
    edges += [("gap", train_until, cut_us), ("test", cut_us, test_until)]
    edges += [("after the horizon", test_until, max(test_until, last + 1))]
    return Split(
        kind="time",
        train=log.between(first, train_until),
        test=log.between(cut_us, test_until),
        validation=None if validation_cut is None else log.between(validation_cut, train_until),
        train_before_validation=None
        if validation_cut is None
        else log.between(first, validation_cut - gap_us),
        cut_us=cut_us,
        gap_us=gap_us,
        horizon_us=horizon_us,
        validation_cut_us=validation_cut,
        parts=_counted(log, edges),
        log_digest=log.digest,
    )


def by_quantile(
    log: EventLog,
    q: float = 0.9,
    *,
    gap_days: float = 0.0,
    horizon_days: float | None = None,
    validation_days: float | None = None,
) -> Split:
    """Cut where a fraction q of the rows has passed; the moment found is stored in the split.

    Raises:
        SplitError: q is not in (0, 1), or see `at`.
    """
    if not 0 < q < 1:
        raise SplitError(
            f"q must be between 0 and 1, both excluded, got {q}; it is the share of rows to train on"
        )
    _time_range(log)
    moment = pl.col(TS).dt.timestamp("us").quantile(q, interpolation="higher")
    cut = int(log.frame.select(moment).collect(engine="streaming").item())
    return at(log, cut=cut, gap_days=gap_days, horizon_days=horizon_days, validation_days=validation_days)


def last_days(
    log: EventLog,
    n_days: float,
    *,
    gap_days: float = 0.0,
    horizon_days: float | None = None,
    validation_days: float | None = None,
) -> Split:
    """Cut n days before the last event of the log.

    Raises:
        SplitError: n_days is not positive or reaches before the log, or see `at`.
    """
    cut = _time_range(log)[1] - days_to_us(n_days, "n_days", positive=True)
    return at(log, cut=cut, gap_days=gap_days, horizon_days=horizon_days, validation_days=validation_days)


def windows(
    log: EventLog,
    n_windows: int,
    horizon_days: float,
    *,
    gap_days: float = 0.0,
    validation_days: float | None = None,
) -> list[Split]:
    """Backtest: n consecutive test windows of equal length, the last ending with the log; oldest first.

    Each split trains on everything before its own window, so later ones know more.

    Raises:
        SplitError: the windows do not fit in the log, or see `at`.
    """
    if n_windows < 1:
        raise SplitError(f"n_windows must be >= 1, got {n_windows}")
    horizon_us = days_to_us(horizon_days, "horizon_days", positive=True)
    first, last = _time_range(log)
    cuts = [last + 1 - (n_windows - at_window) * horizon_us for at_window in range(n_windows)]
    if cuts[0] <= first:
        raise SplitError(
            f"{n_windows} windows of {horizon_days:g} days do not fit in a log from {written(first)} to "
            f"{written(last)}; take fewer or shorter ones"
        )
    return [
        at(log, cut=cut, gap_days=gap_days, horizon_days=horizon_days, validation_days=validation_days)
        for cut in cuts
    ]


def rolled(log: EventLog, made: Split, n_windows: int) -> list[Split]:
    """Backtest of a split by time: the same split earlier and earlier, oldest first, the given one last.

    Each test window has the length of the given one and ends where the next begins. Each split has the gap of
    the given one and trains on everything before its own window.

    Args:
        log: what was split.
        made: by `at`, `by_quantile` or `last_days`.
        n_windows: test windows in all.

    Raises:
        SplitError: the split is not by time, or the windows do not fit in the log.
    """
    if n_windows < 1:
        raise SplitError(f"n_windows must be >= 1, got {n_windows}")
    if made.cut_us is None:
        raise SplitError(f"only a split by time has several windows, this one is {made.kind}; cut by time")
    first, last = _time_range(log)
    length = max(1, last - made.cut_us) if made.horizon_us is None else made.horizon_us
    cuts = [made.cut_us - back * length for back in range(n_windows - 1, 0, -1)]
    if cuts and cuts[0] - made.gap_us <= first:
        raise SplitError(
            f"{n_windows} windows of {length / US_PER_DAY:g} days do not fit in a log from {written(first)} "
            f"to {written(last)}; take fewer windows or shorter ones"
        )
    days = {"gap_days": made.gap_us / US_PER_DAY, "horizon_days": length / US_PER_DAY}
    return [*(at(log, cut=cut, **days) for cut in cuts), made]


def _time_range(log: EventLog) -> tuple[int, int]:
    if not log.n_rows():
        raise SplitError("the log is empty, there is nothing to split; check the file and its filters")
    return log.time_range()


def _counted(log: EventLog, edges: list[tuple[str, int, int]]) -> tuple[Part, ...]:
    """Rows of each interval, in one pass; nothing may be counted twice or not at all."""
    ts = pl.col(TS).dt.timestamp("us")
    counts = [((ts >= since) & (ts < until)).sum().alias(name) for name, since, until in edges]
    row = log.frame.select(pl.len().alias("all rows"), *counts).collect(engine="streaming").row(0, named=True)
    parts = tuple(Part(name, since, until, int(row[name])) for name, since, until in edges)
    if sum(part.n_rows for part in parts) != row["all rows"]:
        raise AssertionError(f"{row['all rows']} rows in, {parts} out")
    return parts
