"""Splits of any log: every row once, time never crossed, boundaries explicit."""

from datetime import UTC, datetime

import polars as pl
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from vitrina.errors import SplitError
from vitrina.log import EventLog
from vitrina.split import at, by_quantile, last_n_per_user, windows

SETTINGS = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
rows = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 8), st.integers(0, 40)), min_size=2, max_size=40, unique=True
)

many = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 8), st.integers(0, 40)), min_size=20, max_size=60, unique=True
)
"""Enough rows that most cuts leave some on both sides, so that few examples are thrown away."""


def log_of(rows):
    frame = pl.DataFrame(
        rows, schema={"user_id": pl.Int64, "item_id": pl.Int64, "ts": pl.Int64}, orient="row"
    )
    return EventLog.from_frame(frame, time_unit="us", epoch=datetime(1970, 1, 1, tzinfo=UTC))


def rows_of(log):
    return sorted(log.frame.select("user_id", "item_id", pl.col("ts").dt.timestamp("us")).collect().rows())


def days(us):
    return us / 86_400_000_000


@SETTINGS
@given(rows=rows, cut=st.integers(1, 40), gap=st.integers(0, 10), horizon=st.integers(1, 20) | st.none())
def test_a_split_by_time_holds_what_a_filter_by_hand_holds(rows, cut, gap, horizon):
    try:
        split = at(
            log_of(rows), cut=cut, gap_days=days(gap), horizon_days=None if horizon is None else days(horizon)
        )
    except SplitError:
        first, last = min(r[2] for r in rows), max(r[2] for r in rows)
        assert (
            not first < cut <= last
            or not [r for r in rows if r[2] < cut - gap]
            or not [r for r in rows if cut <= r[2] < cut + (horizon or 99)]
        )
        return
    assert rows_of(split.train) == sorted(r for r in rows if r[2] < cut - gap)
    assert rows_of(split.test) == sorted(r for r in rows if cut <= r[2] < cut + (horizon or 99))
    assert split.n_rows == len(rows)


@SETTINGS
@given(rows=many, cut=st.integers(22, 36), gap=st.integers(0, 4), validation=st.integers(3, 8))
def test_validation_lies_between_what_tuning_trains_on_and_the_test(rows, cut, gap, validation):
    try:
        split = at(log_of(rows), cut=cut, gap_days=days(gap), validation_days=days(validation))
    except SplitError:
        assume(False)
    tuning = split.tuning()
    assert rows_of(tuning.train)[-1:] is not None
    assert max(r[2] for r in rows_of(tuning.train)) < min(r[2] for r in rows_of(tuning.test)) - gap + 1
    assert max(r[2] for r in rows_of(tuning.test)) < cut - gap
    assert set(rows_of(tuning.train)) | set(rows_of(tuning.test)) <= set(rows_of(split.train))
    assert split.n_rows == tuning.n_rows == len(rows)


@SETTINGS
@given(rows=rows, q=st.floats(0.05, 0.95))
def test_a_quantile_cut_gives_the_same_split_as_its_stored_moment(rows, q):
    try:
        split = by_quantile(log_of(rows), q)
    except SplitError:
        assume(False)
    assert at(log_of(rows), cut=split.cut_us).digest == split.digest
    assert sum(r[2] < split.cut_us for r in rows) <= q * len(rows) + 1


@SETTINGS
@given(rows=rows, n=st.integers(1, 3), validation=st.booleans())
def test_a_split_per_user_partitions_and_never_crosses_a_users_own_time(rows, n, validation):
    try:
        split = last_n_per_user(log_of(rows), n, validation=validation)
    except SplitError:
        assume(False)
    train, test = rows_of(split.train), rows_of(split.test)
    assert sorted(train + test) == sorted(rows)
    for user in {r[0] for r in test}:
        held = [r[2] for r in test if r[0] == user]
        assert len(held) == n
        assert min(held) >= max(r[2] for r in train if r[0] == user)


@SETTINGS
@given(rows=rows, n=st.integers(1, 4), horizon=st.integers(1, 8))
def test_windows_never_overlap(rows, n, horizon):
    try:
        splits = windows(log_of(rows), n, days(horizon))
    except SplitError:
        assume(False)
    tested = [r for split in splits for r in rows_of(split.test)]
    assert len(tested) == len(set(tested))
    for split in splits:
        assert max(r[2] for r in rows_of(split.train)) < min(r[2] for r in rows_of(split.test))


@settings(SETTINGS, max_examples=8)  # histories of a log on disk take a while, however small
@given(rows=rows, cut=st.integers(1, 40), data=st.data())
def test_the_order_of_the_file_changes_neither_the_split_nor_its_truth(rows, cut, data):
    shuffled = data.draw(st.permutations(rows))
    try:
        one, other = at(log_of(rows), cut=cut), at(log_of(shuffled), cut=cut)
    except SplitError:
        assume(False)
    assert one.digest == other.digest
    truth, again = one.truth(one.train.histories()), other.truth(other.train.histories())
    assert truth.item_ix.tolist() == again.item_ix.tolist()
    assert truth.is_repeat.tolist() == again.is_repeat.tolist()
