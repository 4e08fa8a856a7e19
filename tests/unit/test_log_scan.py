"""Reading logs: sources, columns, what the check learns."""

import datetime as dt
import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vitrina.errors import ConfigError, LogError
from vitrina.log import Columns, EventLog, scan_log
from vitrina.schema import DEFAULT_EVENT, TS_DTYPE, US_PER_DAY

DAY = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
DAY_US = 1_714_521_600_000_000


def frame(n_rows: int = 200, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    return pl.DataFrame(
        {
            "user_id": rng.integers(0, 20, n_rows),
            "item_id": [f"i{at}" for at in rng.integers(0, 30, n_rows)],
            "ts": pl.Series(DAY_US + np.arange(n_rows) * 1_000_000).cast(TS_DTYPE),
            "event": rng.choice(["buy", "view"], n_rows),
            "weight": rng.random(n_rows).astype(np.float32),
            "value": pl.Series(
                [None if at % 7 == 0 else float(at) for at in range(n_rows)], dtype=pl.Float32
            ),
            "organic": rng.random(n_rows) < 0.5,
        }
    )


def write(data: pl.DataFrame, path: Path) -> Path:
    {".parquet": data.write_parquet, ".csv": data.write_csv, ".ndjson": data.write_ndjson}[path.suffix](path)
    return path


def rows(log: EventLog) -> pl.DataFrame:
    return log.frame.collect().sort("user_id", "item_id", "ts")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".ndjson"])
def test_every_format_gives_the_same_log(tmp_path: Path, suffix: str) -> None:
    data = frame()
    log = scan_log(write(data, tmp_path / f"log{suffix}"))
    assert rows(log).equals(rows(EventLog.from_frame(data)))
    assert log.digest == EventLog.from_frame(data).digest
    assert log.event_names == ("buy", "view")
    assert log.report.rows_in == log.report.rows_kept == log.n_rows() == len(data)


def test_a_tab_separated_file_is_read(tmp_path: Path) -> None:
    frame().write_csv(tmp_path / "log.tsv", separator="\t")
    assert scan_log(tmp_path / "log.tsv").digest == EventLog.from_frame(frame()).digest


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".ndjson"])
def test_a_folder_of_parts_is_one_log(tmp_path: Path, suffix: str) -> None:
    data = frame()
    (tmp_path / "deep").mkdir()
    write(data[:50], tmp_path / f"a{suffix}")
    write(data[50:120], tmp_path / f"b{suffix}")
    write(data[120:], tmp_path / "deep" / f"c{suffix}")
    (tmp_path / "_SUCCESS").touch()
    log = scan_log(tmp_path)
    assert log.digest == EventLog.from_frame(data).digest
    assert log.n_rows() == len(data)


def test_a_glob_takes_the_files_it_names(tmp_path: Path) -> None:
    data = frame()
    write(data[:50], tmp_path / "2024-05.parquet")
    write(data[50:], tmp_path / "2024-06.parquet")
    assert scan_log(tmp_path / "2024-05*.parquet").n_rows() == 50
    assert scan_log(tmp_path / "*.parquet").n_rows() == len(data)


def test_hive_partitions_become_a_column(tmp_path: Path) -> None:
    data = frame()
    for event, part in data.partition_by("event", as_dict=True).items():
        folder = tmp_path / f"event={event[0]}"
        folder.mkdir()
        write(part.drop("event"), folder / "0.parquet")
    log = scan_log(tmp_path)
    assert log.digest == EventLog.from_frame(data).digest


def test_columns_are_mapped_by_name(tmp_path: Path) -> None:
    data = frame().rename({"user_id": "uid", "item_id": "sku", "ts": "at", "event": "kind", "weight": "w"})
    named = Columns(user_id="uid", item_id="sku", ts="at", event="kind", weight="w")
    log = scan_log(write(data, tmp_path / "log.parquet"), named)
    assert log.digest == EventLog.from_frame(frame()).digest


def test_a_column_can_be_left_out_and_context_kept() -> None:
    data = frame().with_columns(place=pl.lit("home"), tags=pl.lit([1, 2]))
    log = EventLog.from_frame(data, Columns(weight=None, context=("place", "tags")))
    assert log.columns == ("user_id", "item_id", "ts", "event", "value", "organic", "place", "tags")
    assert log.digest != EventLog.from_frame(data, Columns(weight=None, context=("place",))).digest


def test_a_log_without_events_gets_one_name() -> None:
    data = frame().select("user_id", "item_id", "ts")
    assert EventLog.from_frame(data).event_names == (DEFAULT_EVENT,)
    assert EventLog.from_frame(data, events=("listen",)).event_names == ("listen",)


def test_raw_events_are_named_by_a_mapping() -> None:
    data = frame().with_columns(event=pl.col("event").replace_strict({"buy": 2, "view": 1}))
    log = EventLog.from_frame(data, events={1: "view", 2: "buy"})
    assert log.digest == EventLog.from_frame(frame()).digest


def test_whole_floats_are_integer_ids() -> None:
    data = frame().with_columns(pl.col("user_id").cast(pl.Float64))
    assert EventLog.from_frame(data).digest == EventLog.from_frame(frame()).digest


def test_text_ids_of_digits_stay_text_on_request_and_in_parquet(tmp_path: Path) -> None:
    data = frame().with_columns(pl.col("user_id").cast(pl.String))
    assert rows(EventLog.from_frame(data))["user_id"].dtype == pl.String
    path = write(data, tmp_path / "log.csv")
    assert rows(scan_log(path))["user_id"].dtype == pl.Int64
    assert rows(scan_log(path, Columns(text_ids=True)))["user_id"].dtype == pl.String


def test_leading_zeros_make_an_id_text(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(f"user_id,item_id,ts\n007,1,{DAY.isoformat()}\n8,1,{DAY.isoformat()}\n")
    assert rows(scan_log(path))["user_id"].to_list() == ["007", "8"]


def test_filtered_rows_are_counted_and_not_checked() -> None:
    data = frame().with_columns(item_id=pl.when(pl.col("event") == "buy").then(None).otherwise("item_id"))
    log = EventLog.from_frame(data, filter=pl.col("event") == "view")
    n_views = int((data["event"] == "view").sum())
    assert log.report.set_aside == {"filtered": len(data) - n_views}
    assert log.n_rows() == n_views == len(rows(log))


def test_the_report_prints_the_balance() -> None:
    data = pl.concat([frame(), frame()[:3]])
    log = EventLog.from_frame(data)
    assert str(log.report) == "the frame: 203 rows in = 200 kept + 3 set aside (duplicate 3)"
    assert log.report.to_dict()["set_aside"] == {"duplicate": 3}


def test_a_report_that_does_not_add_up_cannot_be_made() -> None:
    report = EventLog.from_frame(frame()).report
    with pytest.raises(AssertionError, match="rows in"):
        type(report)("x", 10, 8, {"null_ts": 1})


def test_between_is_half_open_and_time_range_is_inclusive() -> None:
    log = EventLog.from_frame(frame())
    first, last = log.time_range()
    assert (first, last) == (DAY_US, DAY_US + 199_000_000)
    assert log.between(first, last).n_rows() == 199
    assert log.between(None, last + 1).n_rows() == 200
    assert log.between(first + 1, None).time_range() == (first + 1_000_000, last)
    assert log.between(first, first).n_rows() == 0
    with pytest.raises(LogError, match="no rows"):
        log.between(first, first).time_range()


def test_facts_of_a_part_are_those_of_its_rows() -> None:
    data = frame()
    part = EventLog.from_frame(data).filter(pl.col("event") == "buy")
    alone = EventLog.from_frame(data.filter(pl.col("event") == "buy"))
    assert part.facts == alone.facts
    assert part.event_names == ("buy", "view"), "codes of events stay those of the whole log"


def test_an_empty_part_has_facts() -> None:
    empty = EventLog.from_frame(frame()).filter(pl.lit(False))
    assert (empty.n_rows(), empty.facts.event_names) == (0, ())
    assert len(empty.histories()) == 0


def test_the_digest_ignores_order_and_files_and_notices_a_change() -> None:
    data = frame()
    digest = EventLog.from_frame(data).digest
    assert EventLog.from_frame(data.sample(fraction=1.0, shuffle=True, seed=3)).digest == digest
    for column, value in (("weight", 9.0), ("item_id", "zzz"), ("event", "like"), ("organic", None)):
        changed = data.with_columns(
            pl.when(pl.int_range(pl.len()) == 5).then(pl.lit(value)).otherwise(column).alias(column)
        )
        assert EventLog.from_frame(changed.cast({"weight": pl.Float32})).digest != digest, column


def test_the_digest_counts_equal_rows() -> None:
    once, twice = frame(), pl.concat([frame(), frame()])
    kept = EventLog.from_frame(twice, duplicates="keep")
    assert kept.digest != EventLog.from_frame(once).digest
    assert EventLog.from_frame(twice).digest == EventLog.from_frame(once).digest


WORD = 2**64 - 1


def mix(key: int) -> int:
    key = (key ^ key >> 30) * 0xBF58476D1CE4E5B9 & WORD
    key = (key ^ key >> 27) * 0x94D049BB133111EB & WORD
    return key ^ key >> 31


def text_bits(data: bytes) -> int:
    h = mix(len(data) + 0x9E3779B97F4A7C15 & WORD)
    whole = len(data) // 8 * 8
    for at in range(0, whole, 8):
        h = mix(h * 0x100000001B3 + int.from_bytes(data[at : at + 8], "little") & WORD)
    return mix(h * 0x100000001B3 + int.from_bytes(data[whole:], "little") & WORD)


def test_the_digest_is_the_one_its_definition_gives_in_plain_integers() -> None:
    """Stored results name logs by digest, so neither the definition nor its value may drift."""
    items, event = ["a", "twelve bytes", "é", "x"], "interaction"
    data = pl.DataFrame({"user_id": [5, -1, 2**40, 0], "item_id": items, "ts": [DAY] * 4})
    sums = [0, 0]
    for user, item in zip(data["user_id"], items, strict=True):
        row = 0  # columns by name: event, item_id, ts, user_id
        for bits in (text_bits(event.encode()), text_bits(item.encode()), DAY_US, user & WORD):
            row = mix(row * 0x9E3779B97F4A7C15 + bits + 1 & WORD)
        sums = [(sums[0] + row) & WORD, (sums[1] + mix(row ^ 0x9E3779B97F4A7C15)) & WORD]
    said = f"vitrina log 1:event,item_id,ts,user_id:4:{sums[0]}:{sums[1]}"
    assert EventLog.from_frame(data).digest == hashlib.sha256(said.encode()).hexdigest()


def test_integer_times_take_a_unit(tmp_path: Path) -> None:
    expected = EventLog.from_frame(frame()).digest
    for unit, per_second in (("s", 1), ("ms", 1000), ("us", 10**6), ("ns", 10**9)):
        data = frame().with_columns(ts=pl.col("ts").dt.timestamp("us") // 1_000_000 * per_second)
        assert EventLog.from_frame(data, time_unit=unit).digest == expected  # type: ignore[arg-type]
        assert EventLog.from_frame(data.cast({"ts": pl.Float64}), time_unit=unit).digest == expected  # type: ignore[arg-type]
        assert scan_log(write(data, tmp_path / "log.csv"), time_unit=unit).digest == expected  # type: ignore[arg-type]


def test_naive_times_take_a_zone() -> None:
    naive = frame().with_columns(pl.col("ts").dt.replace_time_zone(None))
    log = EventLog.from_frame(naive, time_zone="Asia/Tokyo")
    assert log.time_range()[0] == DAY_US - 9 * 3600 * 10**6
    assert "taken in Asia/Tokyo" in str(log.report)


def test_other_zones_become_utc() -> None:
    there = frame().with_columns(pl.col("ts").dt.convert_time_zone("America/New_York"))
    assert EventLog.from_frame(there).digest == EventLog.from_frame(frame()).digest


def test_nanoseconds_and_dates_are_read() -> None:
    nano = frame().with_columns(pl.col("ts").dt.cast_time_unit("ns"))
    assert EventLog.from_frame(nano).digest == EventLog.from_frame(frame()).digest
    days = frame().with_columns(pl.col("ts").dt.date())
    assert EventLog.from_frame(days, time_zone="UTC", duplicates="keep").time_range() == (DAY_US, DAY_US)


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("2024-05-01T00:00:00Z", DAY_US),
        ("2024-05-01T02:00:00+02:00", DAY_US),
        ("2024-05-01 02:00:00.250+02:00", DAY_US + 250_000),
        ("2024-05-01T00:00:00", DAY_US - 2 * 3600 * 10**6),
        ("2024-05-01 00:00", DAY_US - 2 * 3600 * 10**6),
        ("2024-05-01", DAY_US - 2 * 3600 * 10**6),
    ],
)
def test_iso_texts_are_times(text: str, us: int) -> None:
    data = pl.DataFrame({"user_id": [1], "item_id": [1], "ts": [text]})
    assert EventLog.from_frame(data, time_zone="Europe/Paris").time_range() == (us, us)


def test_a_time_format_is_obeyed() -> None:
    data = pl.DataFrame({"user_id": [1], "item_id": [1], "ts": ["05/01/2024 12:30"]})
    log = EventLog.from_frame(data, time_format="%m/%d/%Y %H:%M", time_zone="UTC")
    assert log.time_range()[0] == DAY_US + 45_000_000_000
    aware = pl.DataFrame({"user_id": [1], "item_id": [1], "ts": ["05/01/2024 12:30 +0100"]})
    log = EventLog.from_frame(aware, time_format="%m/%d/%Y %H:%M %z")
    assert log.time_range()[0] == DAY_US + 45_000_000_000 - 3600 * 10**6


def test_an_epoch_stands_for_zero_and_the_log_says_so() -> None:
    data = pl.DataFrame({"user_id": [1, 1], "item_id": [1, 2], "ts": [0, 86_400]})
    log = EventLog.from_frame(data, time_unit="s", epoch=DAY)
    assert log.time_range() == (DAY_US, DAY_US + US_PER_DAY)
    assert not log.wall_clock
    assert "no wall clock: zero is taken as 2024-05-01" in str(log.report)


def test_the_autumn_hour_is_its_first_and_the_spring_hour_is_none() -> None:
    data = pl.DataFrame({"user_id": [1], "item_id": [1], "ts": [dt.datetime(2024, 10, 27, 2, 30)]})
    log = EventLog.from_frame(data, time_zone="Europe/Paris")
    assert log.time_range()[0] == int(dt.datetime(2024, 10, 27, 0, 30, tzinfo=dt.UTC).timestamp() * 1e6)
    skipped = data.with_columns(ts=pl.lit(dt.datetime(2024, 3, 31, 2, 30)))
    with pytest.raises(LogError, match="ts_not_a_time"):
        EventLog.from_frame(skipped, time_zone="Europe/Paris")


def test_equal_rows_are_kept_set_aside_or_refused() -> None:
    data = pl.concat([frame(), frame()[10:12]])
    assert EventLog.from_frame(data, duplicates="keep").n_rows() == 202
    log = EventLog.from_frame(data)
    assert (log.n_rows(), len(rows(log))) == (200, 200)
    with pytest.raises(LogError, match=r"repeats a row exactly: row 200 of the frame"):
        EventLog.from_frame(data, duplicates="error")


def test_three_equal_rows_leave_one() -> None:
    log = EventLog.from_frame(pl.concat([frame()[:1]] * 3))
    assert (log.n_rows(), log.report.set_aside) == (1, {"duplicate": 2})
    assert len(log.frame.collect()) == 1


def test_duplicates_over_files_and_filters_stay_out(tmp_path: Path) -> None:
    data = frame()
    write(data[:150], tmp_path / "a.parquet")
    write(data[100:], tmp_path / "b.parquet")
    log = scan_log(tmp_path)
    assert log.report.set_aside == {"duplicate": 50}
    later = log.between(DAY_US + 120_000_000, None)
    assert later.n_rows() == 80
    assert len(later.frame.collect()) == 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "lenient"}, "mode must be"),
        ({"mode": "quarantine"}, "go together"),
        ({"quarantine_path": "x.parquet"}, "go together"),
        ({"duplicates": "drop"}, "duplicates must be"),
        ({"time_unit": "h"}, "time_unit must be one of s, ms, us, ns"),
        ({"time_zone": "Mars/Olympus"}, "not an IANA zone"),
        ({"epoch": dt.datetime(2020, 1, 1)}, "has no time zone"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EventLog.from_frame(frame(), **arguments)  # type: ignore[arg-type]


def test_several_names_for_a_log_without_events_are_refused() -> None:
    with pytest.raises(ConfigError, match="no event column"):
        EventLog.from_frame(frame().drop("event"), events=("a", "b"))
