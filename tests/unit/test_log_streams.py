"""A scan holds a bounded part of its source: what polars cannot stream must not creep into the checks."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from polars.io.plugins import register_io_source

from vitrina.log import EventLog, checks
from vitrina.log.stream import batches

N_PIECES = 300
DAY = dt.datetime(2024, 5, 1, tzinfo=dt.UTC)
RAW = {
    "user_id": pl.Int64(),
    "item_id": pl.String(),
    "ts": pl.Datetime("us", "UTC"),
    "event": pl.String(),
    "organic": pl.Int64(),
}


class Tap:
    """A source in many pieces that knows how many were drawn from it."""

    def __init__(self) -> None:
        self.n_drawn = 0

    def frame(self) -> pl.LazyFrame:
        def generate(
            columns: list[str] | None, keep: pl.Expr | None, n_rows: int | None, _: int | None
        ) -> Iterator[pl.DataFrame]:
            self.n_drawn = 0
            for at in range(N_PIECES):
                self.n_drawn += 1
                rows = {"user_id": [1, None], "item_id": ["a", "b"], "ts": [DAY] * 2}
                piece = pl.DataFrame(rows | {"event": ["v", "x"], "organic": [at % 2, 7]}, schema=RAW)
                piece = piece if columns is None else piece.select(columns)
                yield piece if keep is None else piece.filter(keep)

        return register_io_source(generate, schema=RAW)

    def drawn_at_first_batch(self, frame: pl.LazyFrame) -> int:
        for _ in batches(frame, in_order=True):
            return self.n_drawn
        raise AssertionError("no batch came")


def test_the_tap_sees_an_expression_that_holds_everything() -> None:
    tap = Tap()
    held = tap.frame().with_columns(pl.col("event").replace_strict({"v": "view"}, default=None))
    assert tap.drawn_at_first_batch(held) == N_PIECES


def test_kept_rows_stream_with_names_for_events_and_flags(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tap, written = Tap(), []
    as_written = checks._as_written

    def caught(rows: pl.LazyFrame) -> pl.LazyFrame:
        written.append(as_written(rows))
        return written[0]

    monkeypatch.setattr(checks, "_as_written", caught)
    log = EventLog.from_frame(
        tap.frame(),
        events={"v": "view", "b": "buy"},
        mode="quarantine",
        quarantine_path=tmp_path / "q.parquet",
        duplicates="keep",
    )
    assert log.report.set_aside == {"null_user_id": N_PIECES}
    assert tap.drawn_at_first_batch(log.frame) < N_PIECES / 2
    assert tap.drawn_at_first_batch(written[0]) < N_PIECES / 2
