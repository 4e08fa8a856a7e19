"""Boundaries of splits, stated row by row; what they refuse; what truth holds."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import polars as pl
import pytest

from vitrina.errors import SplitError
from vitrina.log import EventLog
from vitrina.schema import US_PER_DAY
from vitrina.split import (
    at,
    by_quantile,
    last_days,
    last_n_per_user,
    leave_one_out,
    rolled,
    same_split,
    windows,
)
from vitrina.split.moments import to_us, written

DAY = US_PER_DAY


def log_of(rows, **more):
    """A log of (user, item, ts in microseconds) rows."""
    frame = pl.DataFrame(
        rows, schema={"user_id": pl.Int64, "item_id": pl.Int64, "ts": pl.Int64}, orient="row"
    )
    frame = frame.with_columns(**{name: pl.Series(values) for name, values in more.items()})
    return EventLog.from_frame(frame, time_unit="us", epoch=datetime(1970, 1, 1, tzinfo=UTC))


def times(log):
    return sorted(log.frame.collect()["ts"].dt.timestamp("us").to_list())


@pytest.fixture(scope="module")
def daily():
    """One row at each midnight of days 0..20, and one a microsecond before it."""
    rows = [(day % 3, day % 5, day * DAY) for day in range(21)]
    return log_of(rows + [(day % 3, day % 5, day * DAY - 1) for day in range(1, 21)])


def test_each_boundary_belongs_to_the_later_part(daily):
    split = at(daily, cut=10 * DAY, gap_days=2, horizon_days=3)
    assert max(times(split.train)) == 8 * DAY - 1
    assert min(times(split.test)) == 10 * DAY
    assert max(times(split.test)) == 13 * DAY - 1
    rows = dict(
        zip(*split.describe().select("part", "n_rows").to_dict(as_series=False).values(), strict=True)
    )
    assert rows == {"train": 16, "gap": 4, "test": 6, "after the horizon": 15}
    assert sum(rows.values()) == split.n_rows == 41


def test_the_event_at_the_cut_is_tested_and_the_one_before_is_trained_on():
    split = at(log_of([(1, 1, 99), (1, 2, 100), (1, 3, 101)]), cut=100)
    assert times(split.train) == [99]
    assert times(split.test) == [100, 101]


def test_the_first_event_after_the_gap_starts_is_dropped():
    gap_days = 10 / DAY
    split = at(log_of([(1, 1, 89), (1, 2, 90), (1, 3, 99), (1, 4, 100)]), cut=100, gap_days=gap_days)
    assert times(split.train) == [89]
    assert split.counts == "train 1, gap 2, test 1, after the horizon 0"


def test_a_validation_window_ends_where_training_does_and_has_a_gap_of_its_own(daily):
    split = at(daily, cut=15 * DAY, gap_days=1, horizon_days=2, validation_days=3)
    tuning = split.tuning()
    assert max(times(split.train)) == 14 * DAY - 1
    assert (min(times(tuning.test)), max(times(tuning.test))) == (11 * DAY, 14 * DAY - 1)
    assert max(times(tuning.train)) == 10 * DAY - 1
    assert tuning.n_rows == split.n_rows == 41
    assert tuning.digest != split.digest
    assert set(times(tuning.train)) | set(times(tuning.test)) < set(times(split.train))


def test_the_published_boundaries_of_the_yambda_protocol_come_out():
    second = 1_000_000
    stamps = [
        0,
        25_823_595,
        25_823_600,
        25_825_395,
        25_825_400,
        25_911_795,
        25_911_800,
        25_913_595,
        25_913_600,
    ]
    log = log_of([(1, n, t * second) for n, t in enumerate([*stamps, 26_000_000])])
    split = last_days(log, 1, gap_days=1_800 / 86_400, validation_days=1)
    assert split.cut_us == 25_913_600 * second
    assert split.train_until_us == 25_911_800 * second
    assert split.validation_cut_us == 25_825_400 * second
    assert [p.n_rows for p in split.parts] == [2, 2, 2, 2, 2, 0]


def test_a_quantile_cut_is_stored_as_a_moment_and_survives_more_rows_of_training():
    log = log_of([(1, n, n * DAY) for n in range(100)])
    split = by_quantile(log, 0.9)
    assert split.cut_us == 90 * DAY
    assert split.counts == "train 90, gap 0, test 10, after the horizon 0"
    assert at(log, cut=split.cut_us).digest == split.digest


def test_windows_follow_each_other_to_the_end_of_the_log(daily):
    splits = windows(daily, 3, 2.0, gap_days=1)
    ends = [s.cut_us + s.horizon_us for s in splits]
    assert ends[:-1] == [s.cut_us for s in splits[1:]]
    assert ends[-1] == 20 * DAY + 1
    tested = [t for s in splits for t in times(s.test)]
    assert len(tested) == len(set(tested)) == len([t for t in times(daily) if t >= splits[0].cut_us])


def test_a_rolled_split_ends_with_itself_and_each_window_begins_where_the_one_before_ended(daily):
    last = last_days(daily, 3, gap_days=1)
    splits = rolled(daily, last, 4)
    assert splits[-1] is last
    assert [s.cut_us for s in splits] == [last.cut_us - back * 3 * DAY for back in (3, 2, 1, 0)]
    assert [s.cut_us + s.horizon_us for s in splits[:-1]] == [s.cut_us for s in splits[1:]]
    assert {s.gap_us for s in splits} == {DAY}
    with_horizon = at(daily, cut=12 * DAY, horizon_days=2)
    assert [s.cut_us for s in rolled(daily, with_horizon, 3)] == [8 * DAY, 10 * DAY, 12 * DAY]
    assert rolled(daily, last, 1) == [last]


def test_a_split_that_cannot_be_rolled_says_why(daily):
    with pytest.raises(SplitError, match=r"7 windows of 3 days do not fit in a log from"):
        rolled(daily, last_days(daily, 3), 7)
    with pytest.raises(SplitError, match="only a split by time"):
        rolled(daily, leave_one_out(log_of([(1, at, at * DAY) for at in range(4)])), 2)
    with pytest.raises(SplitError, match="n_windows must be >= 1"):
        rolled(daily, last_days(daily, 3), 0)


@pytest.mark.parametrize(
    "cut", ["2026-03-01T00:00Z", "2026-03-01", date(2026, 3, 1), "2026-03-01T03:00+03:00"]
)
def test_a_cut_may_be_written_in_several_ways(cut):
    assert to_us(cut) == 1_772_323_200_000_000
    assert written(to_us(cut)) == "2026-03-01T00:00:00Z"


def test_an_aware_datetime_keeps_its_microseconds():
    moment = datetime(2026, 3, 1, 3, 0, 0, 1, tzinfo=timezone(timedelta(hours=3)))
    assert to_us(moment) == 1_772_323_200_000_001
    assert to_us(moment.astimezone(UTC)) == 1_772_323_200_000_001


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        ("2026-03-01T10:00", "no offset"),
        (datetime(2026, 3, 1), "no offset"),
        ("first of March", "not ISO 8601"),
        (True, "not a time"),
        (1.5, "not a time"),
    ],
)
def test_a_cut_that_cannot_be_read_is_refused(cut, says):
    with pytest.raises(SplitError, match=says):
        to_us(cut)


@pytest.mark.parametrize("cut", [-5 * DAY, 0, 21 * DAY, "2030-01-01"])
def test_a_cut_outside_the_log_names_the_range_of_the_log(daily, cut):
    with pytest.raises(SplitError, match="1970-01-01T00:00:00Z to 1970-01-21T00:00:00Z"):
        at(daily, cut=cut)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"gap_days": -1}, "gap_days must be >= 0"),
        ({"gap_days": float("nan")}, "gap_days must be >= 0"),
        ({"horizon_days": 0}, "horizon_days must be > 0"),
        ({"validation_days": float("inf")}, "validation_days must be > 0"),
        ({"gap_days": 30}, "no train rows"),
        ({"validation_days": 30}, "validation window"),
    ],
)
def test_windows_that_cannot_be_are_refused(daily, wrong, says):
    with pytest.raises(SplitError, match=says):
        at(daily, cut=10 * DAY, **wrong)


def test_too_many_windows_and_wrong_quantiles_are_refused(daily):
    with pytest.raises(SplitError, match="do not fit"):
        windows(daily, 30, 1.0)
    with pytest.raises(SplitError, match="n_windows"):
        windows(daily, 0, 1.0)
    with pytest.raises(SplitError, match="q must be"):
        by_quantile(daily, 1.0)
    with pytest.raises(SplitError, match="no validation"):
        at(daily, cut=10 * DAY).tuning()


def test_an_empty_log_is_refused_in_one_sentence():
    empty = log_of([])
    for make in (lambda: last_days(empty, 1), lambda: leave_one_out(empty), lambda: by_quantile(empty)):
        with pytest.raises(SplitError, match="empty"):
            make()


def test_leave_one_out_takes_the_last_row_of_each_user_and_warns():
    log = log_of([(1, 1, 10), (1, 2, 30), (1, 3, 20), (2, 4, 5), (3, 5, 1), (3, 6, 2)])
    split = leave_one_out(log)
    assert sorted(split.test.frame.collect()["item_id"]) == [2, 6]
    assert sorted(split.train.frame.collect()["item_id"]) == [1, 3, 4, 5]
    assert "see the future" in split.warning
    assert at(log, cut=10).warning is None


def test_last_n_with_validation_keeps_short_users_in_training():
    log = log_of([(1, n, n) for n in range(6)] + [(2, n, n) for n in range(4)])
    split = last_n_per_user(log, 2, validation=True)
    assert split.counts == "train 6, validation 2, test 2"
    assert split.tuning().counts == "train 6, test 2, held back for the test 2"
    assert times(split.test) == [4, 5]
    with pytest.raises(SplitError, match="no user has more"):
        last_n_per_user(log, 7)
    with pytest.raises(SplitError, match="n must be"):
        last_n_per_user(log, 0)


def test_ties_of_leave_one_out_do_not_follow_the_order_of_the_file():
    rows = [(user, item, 0) for user in range(200) for item in range(4)]
    forward, backward = leave_one_out(log_of(rows)), leave_one_out(log_of(rows[::-1]))
    held = forward.test.frame.collect().sort("user_id")["item_id"]
    assert held.to_list() == backward.test.frame.collect().sort("user_id")["item_id"].to_list()
    share = np.bincount(held.to_numpy(), minlength=4) / 200
    assert share.max() < 0.4  # 0.25 expected, 5 standard deviations are 0.15
    other = leave_one_out(log_of(rows), seed=1)
    assert held.to_list() != other.test.frame.collect().sort("user_id")["item_id"].to_list()


@pytest.fixture(scope="module")
def shop():
    """Train: user 1 took 10, 11; user 2 took 10. Test: user 1 takes 10, 99, 10, 12; user 3 takes 11."""
    rows = [
        (1, 10, 1),
        (1, 11, 2),
        (2, 10, 3),
        (2, 12, 4),
        (1, 10, 50),
        (1, 99, 51),
        (1, 10, 52),
        (1, 12, 53),
    ]
    organic = [True, True, True, True, True, False, False, True, True]
    return at(log_of([*rows, (3, 11, 54)], organic=organic), cut=50)


def test_truth_numbers_cold_items_above_the_catalogue_and_flags_repeats(shop):
    truth = shop.truth(shop.train.histories())
    assert truth.user_ids.values.to_list() == [1, 3]
    assert truth.items.values.to_list() == [10, 11, 12]
    assert truth.cold_items.values.to_list() == [99]
    assert truth.item_ix.tolist() == [0, 3, 0, 2, 1]
    assert truth.is_repeat.tolist() == [True, False, True, False, False]
    assert truth.is_first.tolist() == [True, True, False, True, True]
    assert truth.is_organic.tolist() == [True, False, False, True, True]
    assert truth.history_length.tolist() == [2, 0]
    assert truth.counts == {
        "n_test_users": 2,
        "n_warm_users": 1,
        "n_cold_users": 1,
        "n_test_rows": 5,
        "n_targets": 4,
        "n_repeat_targets": 1,
        "n_cold_item_targets": 1,
        "n_cold_items": 1,
    }


def test_truth_can_be_seen_once_new_or_for_some_users(shop):
    truth = shop.truth(shop.train.histories())
    assert truth.distinct().item_ix.tolist() == [0, 3, 2, 1]
    assert truth.distinct().new_only().item_ix.tolist() == [3, 2, 1]
    warm = truth.users(truth.is_warm)
    assert (warm.user_ids.values.to_list(), warm.item_ix.tolist()) == ([1], [0, 3, 0, 2])
    assert truth.users(~truth.is_warm).distinct().lengths.tolist() == [1]


def test_histories_that_reach_past_the_cut_are_refused(shop):
    everything = replace(shop.train, frame=pl.concat([shop.train.frame, shop.test.frame]), known=None)
    with pytest.raises(SplitError, match=r"split\.train"):
        shop.truth(everything.histories())


def test_runs_on_different_splits_are_refused(daily):
    one, other = at(daily, cut=10 * DAY), at(daily, cut=10 * DAY, gap_days=1)
    same_split([one.digest, at(daily, cut=10 * DAY).digest])
    with pytest.raises(SplitError, match="different splits"):
        same_split([one.digest, other.digest])


def test_the_title_says_the_window_and_the_gap(daily):
    title = at(daily, cut=10 * DAY, gap_days=0.5, horizon_days=2).title
    assert title == "by time: test from 1970-01-11T00:00:00Z to 1970-01-13T00:00:00Z, gap 43,200 s before it"
