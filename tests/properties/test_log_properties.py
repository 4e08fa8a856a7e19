"""Properties of logs: the balance of rows, the digest, histories, counts."""

import datetime as dt
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vitrina.log import EventLog, Frequencies, Histories, scan_log
from vitrina.schema import TS_DTYPE

START = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
T0 = 1_577_836_800_000_000

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])

maybe_bad_rows = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(0, 3)),
        st.one_of(st.none(), st.sampled_from(["", "a", "b", "é"])),
        st.one_of(st.none(), st.sampled_from([-(10**16), 0, 1, 2, 10**16])),
        st.sampled_from(["view", "buy", "veiw", None]),
        st.sampled_from([0.0, 1.0, -1.0, float("nan"), None]),
    ),
    max_size=40,
)
good_rows = st.lists(
    st.tuples(
        st.integers(-(2**40), 2**40) | st.integers(0, 4),
        st.integers(0, 6),
        st.integers(0, 5),
        st.sampled_from(["view", "buy"]),
        st.sampled_from([0.0, 1.0, 2.5]),
    ),
    max_size=60,
)


def frame(rows: list[tuple[object, ...]]) -> pl.DataFrame:
    item_type = pl.String if any(isinstance(row[1], str) for row in rows) else pl.Int64
    columns = [*zip(*rows, strict=True)] if rows else [[]] * 5
    return pl.DataFrame(
        {
            "user_id": pl.Series(columns[0], dtype=pl.Int64),
            "item_id": pl.Series(columns[1], dtype=item_type),
            "ts": pl.Series([None if t is None else T0 + int(t) for t in columns[2]], dtype=pl.Int64).cast(
                TS_DTYPE
            ),
            "event": pl.Series(columns[3], dtype=pl.String),
            "weight": pl.Series(columns[4], dtype=pl.Float32),
        }
    )


def offends(row: tuple[object, ...]) -> bool:
    user, item, ts, event, weight = row
    return (
        user is None
        or item in (None, "")
        or ts not in (0, 1, 2)
        or event not in ("view", "buy")
        or weight not in (0.0, 1.0)
    )


@given(maybe_bad_rows)
@FEW
def test_rows_in_are_rows_kept_and_rows_set_aside_and_none_is_lost(rows: list[tuple[object, ...]]) -> None:
    data = frame(rows)
    good = [row for row in rows if not offends(row)]
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder) / "aside.parquet"
        log = EventLog.from_frame(data, events=("view", "buy"), mode="quarantine", quarantine_path=aside)
        apart = pl.read_parquet(aside)
    assert log.report.rows_in == len(rows)
    assert log.report.rows_kept == len(set(good)) == len(log.frame.collect())
    assert log.report.set_aside.get("duplicate", 0) == len(good) - len(set(good))
    assert len(apart) == sum(log.report.set_aside.values()) == len(rows) - len(set(good))
    assert Counter(apart["reason"].to_list()) == log.report.set_aside
    assert len(set(apart["row"].to_list())) == len(apart)
    assert repr(apart.select(data.columns).rows()) == repr(data[apart["row"].to_list()].rows())


@given(good_rows, st.randoms(use_true_random=False), st.integers(1, 4))
@FEW
def test_the_digest_depends_on_the_rows_alone(
    rows: list[tuple[object, ...]], random: object, n_files: int
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    digest = EventLog.from_frame(frame(rows), duplicates="keep").digest
    with tempfile.TemporaryDirectory() as folder:
        for at in range(n_files):
            frame(shuffled[at::n_files]).write_parquet(Path(folder) / f"{at}.parquet")
        log = scan_log(folder, duplicates="keep")
        assert log.digest == digest
        assert log.filter(pl.lit(True)).digest == digest
    if rows:
        assert EventLog.from_frame(frame(rows[1:]), duplicates="keep").digest != digest


@given(good_rows, st.integers(0, 6), st.integers(0, 6))
@FEW
def test_parts_between_cuts_partition_the_log(
    rows: list[tuple[object, ...]], first: int, second: int
) -> None:
    low, high = sorted((T0 + first, T0 + second))
    log = EventLog.from_frame(frame(rows), duplicates="keep")
    parts = [log.between(None, low), log.between(low, high), log.between(high, None)]
    assert sum(part.n_rows() for part in parts) == len(rows)
    kept = [part.frame.collect() for part in parts]
    assert Counter(pl.concat(kept).rows()) == Counter(log.frame.collect().rows())


@given(good_rows, st.integers(1, 255), st.integers(0, 2**63), st.randoms(use_true_random=False))
@FEW
def test_histories_do_not_depend_on_buckets_or_order(
    rows: list[tuple[object, ...]], n_buckets: int, seed: int, random: object
) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    plain = Histories.from_frame(frame(rows), seed=seed)
    built = EventLog.from_frame(frame(shuffled), duplicates="keep").histories(n_buckets=n_buckets, seed=seed)
    assert (built.user_ids, built.items) == (plain.user_ids, plain.items)
    for name in ("offsets", "item_ix", "ts", "event", "weight"):
        assert np.array_equal(getattr(built, name), getattr(plain, name)), name


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 20)), max_size=200),
    st.integers(0, 60),
    st.sampled_from([0.5, 0.05]),
    st.integers(0, 3),
)
@FEW
def test_counts_are_never_below_the_truth(
    stream: list[tuple[int, int]], max_exact: int, eps: float, n_halvings: int
) -> None:
    seen, truth = Frequencies(max_exact=max_exact, eps=eps, delta=0.3), Counter[int]()
    for part in (stream[::2], stream[1::2]):
        if part:
            seen.update([one for one, _ in part], counts=[n for _, n in part])
        for one, n in part:
            truth[one] += n
        for _ in range(n_halvings):
            seen.halve()
            truth = Counter({one: n // 2 for one, n in truth.items()})
    asked = [*range(-60, 60)]
    estimate = seen.estimate(asked)
    assert all(estimate[at] >= truth[one] for at, one in enumerate(asked))
    assert seen.total >= sum(truth.values())
    if seen.is_exact:
        assert estimate.tolist() == [truth[one] for one in asked]
