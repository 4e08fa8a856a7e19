"""What is wrong with a log is said in one sentence: which rule, which file, which row, and what to do."""

import datetime as dt
from pathlib import Path

import polars as pl
import pytest

from vitrina.errors import LogError
from vitrina.log import Columns, EventLog, scan_log
from vitrina.schema import TS_DTYPE

DAY = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
DAY_S = 1_714_521_600


def good(n_rows: int = 6) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": [at // 2 for at in range(n_rows)],
            "item_id": [f"i{at}" for at in range(n_rows)],
            "ts": [DAY + dt.timedelta(minutes=at) for at in range(n_rows)],
            "event": ["view"] * n_rows,
            "weight": [1.0] * n_rows,
            "value": [0.5] * n_rows,
        }
    ).cast({"ts": TS_DTYPE})


def spoilt(column: str, value: object, dtype: pl.DataType | type[pl.DataType] | None = None) -> pl.DataFrame:
    data = good()
    values = data[column].to_list()
    values[3] = value
    return data.with_columns(pl.Series(column, values, dtype=dtype or data[column].dtype, strict=False))


OFFENCES = {
    "null_user_id": spoilt("user_id", None),
    "null_item_id": spoilt("item_id", None),
    "null_ts": spoilt("ts", None),
    "user_id_not_an_integer": spoilt("user_id", 1.5, pl.Float64),
    "user_id_beyond_64_bits": spoilt("user_id", 2**63 + 5, pl.UInt64),
    "ts_before_1980": spoilt("ts", dt.datetime(1970, 1, 1, tzinfo=dt.UTC)),
    "ts_in_the_future": spoilt("ts", dt.datetime(2200, 1, 1, tzinfo=dt.UTC)),
    "null_event": spoilt("event", None),
    "unknown_event": spoilt("event", "veiw"),
    "null_weight": spoilt("weight", None),
    "weight_not_a_number": spoilt("weight", "much", pl.String),
    "non_finite_weight": spoilt("weight", float("nan")),
    "negative_weight": spoilt("weight", -1.0),
    "value_not_a_number": spoilt("value", "much", pl.String),
    "non_finite_value": spoilt("value", float("inf")),
    "organic_not_a_flag": good().with_columns(organic=pl.Series([0, 1, 0, 2, 1, 0])),
    "ts_not_a_time": good().with_columns(
        ts=pl.Series(["2024-05-01Z"] * 3 + ["yesterday"] + ["2024-05-01"] * 2)
    ),
}
CLEAN_TIMES = pl.Series("ts", [f"2024-05-0{at + 1}T00:00:00Z" for at in range(6)])
OFFENCES["ts_not_a_time"] = good().with_columns(
    ts=pl.when(pl.int_range(6) == 3).then(pl.lit("yesterday")).otherwise(CLEAN_TIMES)
)
OFFENCES["ts_without_a_time_zone"] = good().with_columns(
    ts=pl.when(pl.int_range(6) == 3).then(pl.lit("2024-05-04T00:00:00")).otherwise(CLEAN_TIMES)
)


@pytest.mark.parametrize("reason", OFFENCES)
def test_strict_mode_names_the_reason_the_file_and_the_row(reason: str, tmp_path: Path) -> None:
    path = tmp_path / "log.parquet"
    OFFENCES[reason].write_parquet(path)
    with pytest.raises(LogError) as caught:
        scan_log(path, events=("view",))
    message = str(caught.value)
    assert f"{reason}: row 3 of {path}" in message
    assert "\n" not in message


@pytest.mark.parametrize("reason", OFFENCES)
def test_quarantine_keeps_the_row_its_reason_and_its_place(reason: str, tmp_path: Path) -> None:
    path, aside = tmp_path / "log.parquet", tmp_path / "deep" / "aside.parquet"
    OFFENCES[reason].write_parquet(path)
    log = scan_log(path, events=("view",), mode="quarantine", quarantine_path=aside)
    assert log.report.set_aside == {reason: 1}
    assert (log.report.rows_in, log.report.rows_kept, log.n_rows()) == (6, 5, 5)
    kept = pl.read_parquet(aside)
    assert kept.select("reason", "file", "row").rows() == [(reason, str(path), 3)]
    assert kept.drop("reason", "file", "row").equals(OFFENCES[reason][3:4])
    assert len(log.frame.collect()) == 5
    assert str(aside) in str(log.report)


def test_rows_are_counted_within_their_file(tmp_path: Path) -> None:
    good().write_parquet(tmp_path / "a.parquet")
    OFFENCES["null_item_id"].with_columns(pl.col("user_id") + 10).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(LogError, match=rf"row 3 of {tmp_path}/b.parquet"):
        scan_log(tmp_path)


def test_a_row_with_two_faults_is_counted_once(tmp_path: Path) -> None:
    data = spoilt("user_id", None).with_columns(
        weight=pl.when(pl.int_range(6) == 3).then(-1.0).otherwise("weight")
    )
    log = EventLog.from_frame(data, mode="quarantine", quarantine_path=tmp_path / "q.parquet")
    assert log.report.set_aside == {"null_user_id": 1}


def test_quarantine_holds_duplicates_and_not_filtered_rows(tmp_path: Path) -> None:
    data = pl.concat([good(), good()[:2], spoilt("item_id", None)[3:4]])
    log = EventLog.from_frame(
        data, filter=pl.col("item_id") != "i5", mode="quarantine", quarantine_path=tmp_path / "q.parquet"
    )
    assert log.report.set_aside == {"duplicate": 2, "filtered": 2}
    assert pl.read_parquet(tmp_path / "q.parquet")["row"].to_list() == [6, 7]


def test_a_clean_log_leaves_an_empty_quarantine(tmp_path: Path) -> None:
    EventLog.from_frame(good(), mode="quarantine", quarantine_path=tmp_path / "q.parquet")
    assert len(pl.read_parquet(tmp_path / "q.parquet")) == 0


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_strings_in_numeric_columns_of_text_files_are_offending_rows(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log.{suffix}"
    data = good().with_columns(
        user_id=pl.when(pl.int_range(6) == 4)
        .then(pl.lit("guest"))
        .otherwise(pl.col("user_id").cast(pl.String))
    )
    long = pl.concat([good(1200).with_columns(pl.col("user_id").cast(pl.String)), data])
    long.write_csv(path) if suffix == "csv" else long.write_ndjson(path)
    with pytest.raises(LogError, match=rf"user_id_not_an_integer: row 1204 of {path}.*'guest'"):
        scan_log(path, duplicates="keep")
    assert scan_log(path, Columns(text_ids=True), duplicates="keep").n_rows() == 1206


def test_a_text_column_of_weights_is_read_where_it_holds_numbers() -> None:
    data = good().with_columns(pl.col("weight").cast(pl.String))
    assert EventLog.from_frame(data).digest == EventLog.from_frame(good()).digest


def test_a_missing_column_is_named_with_what_is_there(tmp_path: Path) -> None:
    good().rename({"item_id": "sku"}).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(
        LogError, match=r"has no column 'item_id'; it has: user_id, sku, ts, event, weight, value"
    ):
        scan_log(tmp_path / "log.parquet")
    with pytest.raises(LogError, match=r"has no column 'score' \(as weight\)"):
        scan_log(tmp_path / "log.parquet", Columns(item_id="sku", weight="score"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"nowhere.parquet does not exist"):
        scan_log(tmp_path / "nowhere.parquet")
    with pytest.raises(LogError, match=r"\*\.parquet does not exist or holds no data file"):
        scan_log(tmp_path / "*.parquet")


def test_a_folder_without_a_log_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(LogError, match=r"holds no log: .*, but nothing"):
        scan_log(tmp_path)
    (tmp_path / "photo.jpg").touch()
    with pytest.raises(LogError, match=r"but \.jpg"):
        scan_log(tmp_path)


def test_a_folder_of_mixed_formats_is_refused(tmp_path: Path) -> None:
    good().write_parquet(tmp_path / "a.parquet")
    good().write_csv(tmp_path / "a.csv")
    with pytest.raises(LogError, match=r"mixes \.csv, \.parquet"):
        scan_log(tmp_path)


def test_a_file_that_is_not_parquet_is_named_among_many(tmp_path: Path) -> None:
    good().write_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_text("user_id,item_id\n1,2\n")
    with pytest.raises(LogError, match=r"b\.parquet is not a Parquet file, is cut short or corrupted"):
        scan_log(tmp_path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_parquet_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "log.parquet"
    good(1000).write_parquet(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(LogError, match="cut short or corrupted"):
        scan_log(path)


def test_a_truncated_csv_ends_in_an_offending_row(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    good().select("item_id", "user_id", "ts").write_csv(path)
    whole = path.read_text()
    path.write_text(whole[: whole.rindex(",")])
    with pytest.raises(LogError, match=rf"row 5 of {path}"):
        scan_log(path)


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    for name in ("log.csv", "log.parquet", "log.ndjson"):
        (tmp_path / name).touch()
        with pytest.raises(LogError, match=name):
            scan_log(tmp_path / name)


def test_an_empty_log_is_a_log(tmp_path: Path) -> None:
    good().clear().write_parquet(tmp_path / "log.parquet")
    log = scan_log(tmp_path / "log.parquet")
    assert (log.n_rows(), log.event_names) == (0, ())
    assert "the log is empty" in str(log.report)
    assert len(log.histories(tmp_path / "histories")) == 0
    with pytest.raises(LogError, match="no rows"):
        log.time_range()


def test_one_user_and_users_with_one_event_are_logs() -> None:
    one = EventLog.from_frame(good().with_columns(user_id=pl.lit(1, pl.Int64))).histories()
    assert one.lengths.tolist() == [6]
    singles = EventLog.from_frame(good().with_columns(user_id=pl.int_range(6))).histories(n_buckets=4)
    assert singles.lengths.tolist() == [1] * 6


@pytest.mark.parametrize(("unit", "word"), [("s", "seconds"), ("ms", "milliseconds"), ("us", "microseconds")])
def test_times_in_a_wrong_unit_say_which_they_look_like(unit: str, word: str, tmp_path: Path) -> None:
    per_second = {"s": 1, "ms": 1000, "us": 10**6}[unit]
    data = good().with_columns(ts=(DAY_S + pl.int_range(6)) * per_second)
    for wrong in {"s", "ms", "us", "ns"} - {unit}:
        with pytest.raises(LogError, match=rf"look like {word}: time_unit='{unit}'"):
            EventLog.from_frame(data, time_unit=wrong)  # type: ignore[arg-type]
    with pytest.raises(
        LogError, match=rf"holds numbers such as \d+; say their time_unit, they look like {word}"
    ):
        EventLog.from_frame(data)


def test_datetimes_made_with_a_wrong_unit_say_so() -> None:
    data = good().with_columns(ts=((DAY_S + pl.int_range(6)) * 1000).cast(TS_DTYPE))
    with pytest.raises(LogError, match=r"ts_before_1980: .*look like milliseconds"):
        EventLog.from_frame(data)


def test_now_is_what_the_caller_says(tmp_path: Path) -> None:
    good().write_parquet(tmp_path / "log.parquet")
    with pytest.raises(LogError, match=r"ts_in_the_future: row 1 of"):
        scan_log(tmp_path / "log.parquet", now=DAY)


def test_naive_times_are_refused_without_a_zone() -> None:
    naive = good().with_columns(pl.col("ts").dt.replace_time_zone(None))
    with pytest.raises(LogError, match="without a time zone; say which is meant with time_zone"):
        EventLog.from_frame(naive)


def test_times_before_the_epoch_are_refused() -> None:
    data = good().with_columns(ts=pl.int_range(6) - 1)
    with pytest.raises(LogError, match=r"ts_before_epoch: row 0"):
        EventLog.from_frame(data, time_unit="s", epoch=DAY)
    with pytest.raises(LogError, match="leave epoch out"):
        EventLog.from_frame(good(), epoch=DAY)


def test_times_too_large_for_any_clock_are_no_times() -> None:
    data = good().with_columns(
        ts=pl.when(pl.int_range(6) == 3).then(2**62).otherwise(DAY_S + pl.int_range(6))
    )
    with pytest.raises(LogError, match=r"ts_not_a_time: row 3"):
        EventLog.from_frame(data, time_unit="s")


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("user_id", [[1]] * 6, "ids must be integers or strings"),
        ("item_id", [True] * 6, "ids must be integers or strings"),
        ("ts", [True] * 6, "times are datetimes, numbers or text"),
        ("event", [1.5] * 6, "events are text or integers"),
        ("weight", [[1.0]] * 6, "it must hold numbers"),
        ("value", [dt.date(2024, 1, 1)] * 6, "it must hold numbers"),
        ("organic", [dt.date(2024, 1, 1)] * 6, "it must hold true/false or 0/1"),
    ],
)
def test_columns_of_a_wrong_type_are_named(column: str, values: list[object], message: str) -> None:
    with pytest.raises(LogError, match=rf"column '{column}'.*{message}"):
        EventLog.from_frame(good().with_columns(pl.Series(column, values)))


def test_too_many_kinds_of_events_mean_a_wrong_column() -> None:
    data = good(600).with_columns(event=pl.int_range(600).cast(pl.String))
    with pytest.raises(LogError, match="more than 255 kinds of events"):
        EventLog.from_frame(data)


def test_a_quarantine_that_cannot_be_written_is_an_error_of_the_disk(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LogError, match="could not be written"):
        EventLog.from_frame(good(), mode="quarantine", quarantine_path=tmp_path / "file" / "q.parquet")
