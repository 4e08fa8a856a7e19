"""Yambda: listens and reactions of a music service, flat or one row a user, in three sizes.

flat/50m/listens.parquet         uid, timestamp, item_id, is_organic, played_ratio_pct, track_length_seconds
sequential/50m/listens.parquet   uid, and the other columns as lists in time order
artist_item_mapping.parquet, album_item_mapping.parquet, embeddings.parquet
"""

import os
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from vitrina.datasets.dataset import (
    Counts,
    Dataset,
    OnMismatch,
    Source,
    canonical,
    check_counts,
    count,
)
from vitrina.errors import InputError
from vitrina.schema import ITEM_ID, LongArray

SOURCE = Source(
    title="Yambda",
    licence="Apache-2.0: free for any use with attribution",
    attribution="Yandex: Yambda-5B, RecSys 2025, arXiv:2505.22238",
    page="https://huggingface.co/datasets/yandex/yambda",
)
SYNTHETIC = Source(
    title="a synthetic world in Yambda's schema",
    licence="made by vitrina: yours",
    attribution="vitrina.datasets.World",
    page="see world.json in the folder",
)

Size = Literal["50m", "500m", "5b"]
Part = Literal["listens", "likes", "dislikes", "unlikes", "undislikes", "multi_event"]

SINGULAR = {
    "listens": "listen",
    "dislikes": "dislike",
    "likes": "like",
    "undislikes": "undislike",
    "unlikes": "unlike",
}
"""Name of the event in each file, in the order in which the official multi_event joins them."""

OFFICIAL = {
    ("50m", "listens"): Counts(46_467_212, 9_238, 877_168),
    ("50m", "likes"): Counts(881_456, 8_283, 181_304),
    ("50m", "dislikes"): Counts(107_776, 5_951, 53_413),
    ("50m", "unlikes"): Counts(312_972, 6_406, 117_953),
    ("50m", "undislikes"): Counts(21_033),
    ("50m", "multi_event"): Counts(47_790_449, 10_000, 934_057),
    ("500m", "listens"): Counts(466_512_103),
    ("500m", "likes"): Counts(9_033_960),
    ("500m", "dislikes"): Counts(1_128_113),
    ("5b", "listens"): Counts(4_649_567_411),
    ("5b", "likes"): Counts(89_334_605),
    ("5b", "dislikes"): Counts(11_579_143),
    ("5b", "unlikes"): Counts(32_944_520),
    ("5b", "undislikes"): Counts(2_434_208),
}
"""Rows of each file, and users and items where they are known (counted in the files for 50m)."""

LISTEN_PLUS_PCT = 50
"""The benchmark's Listen+ keeps listens of at least this share of the track."""

LISTEN_PLUS_50M = 29_439_278
"""Rows of 50m's listens that Listen+ keeps."""

NOTES = (
    "no wall clock: times are seconds since the first event, in steps of 5 s, shown from "
    "1970-01-01 UTC; hours of the "
    "day are known up to a shift",
    "tracks are listened to again: do not filter what a user already heard unless you mean to",
)


def yambda(
    folder: str | os.PathLike[str],
    *,
    size: str = "50m",
    part: Part = "listens",
    layout: Literal["flat", "sequential"] = "flat",
    listen_plus: bool = False,
    on_mismatch: OnMismatch = "warn",
) -> Dataset:
    """Events of one file of Yambda. `value` is the share of the track played (listens alone), `organic` is
    is_organic.

    Args:
        folder: where flat/ or sequential/ lies.
        size: "50m", "500m" or "5b".
        part: which events; "multi_event" reads that file, or joins the five others where it is not there.
        layout: "flat", one row an event; "sequential", one row a user with lists.
        listen_plus: keep listens of at least half of the track, as the official benchmark does; the others
            are counted in `dropped`.
        on_mismatch: what to do when the counts are not the published ones. Users and items are counted for
            50m alone.

    Raises:
        InputError: a file is not there, or the counts are wrong and `on_mismatch` is "raise".
    """
    if part not in (*SINGULAR, "multi_event"):
        raise InputError(f"part must be one of {', '.join([*SINGULAR, 'multi_event'])}, got {part!r}")
    if layout not in ("flat", "sequential"):
        raise InputError(f"layout must be 'flat' or 'sequential', got {layout!r}")
    root = Path(folder)
    raw = _scan(root / layout / size, part, flat=layout == "flat")
    columns = {
        "user_id": pl.col("uid"),
        "item_id": pl.col("item_id"),
        "ts": pl.col("timestamp").cast(pl.Int64) * 1_000_000,
        "event": pl.col("event_type").cast(pl.String),
    }
    if part in ("listens", "multi_event"):
        columns["value"] = pl.col("played_ratio_pct") / 100
    columns["organic"] = pl.col("is_organic") == 1
    if part in ("listens", "multi_event"):
        columns["track_length_seconds"] = pl.col("track_length_seconds")
    events = canonical(raw, **columns)
    synthetic = (root / "world.json").is_file()
    official = Counts() if synthetic else OFFICIAL.get((size, part), Counts())
    found = _found(events, raw, size, on_mismatch)
    name = f"{'synthetic-' if synthetic else ''}yambda-{size}-{part}"
    outcome = check_counts(found, official, name=name, on_mismatch=on_mismatch)
    dropped = {}
    if listen_plus:
        skipped = (pl.col("event") == "listen") & (pl.col("value") < LISTEN_PLUS_PCT / 100 - 1e-9)
        dropped[f"listen of less than {LISTEN_PLUS_PCT} %"] = int(
            events.select(skipped.sum()).collect(engine="streaming").item()
        )
        events = events.filter(~skipped)
    return Dataset(
        name=name + ("-listen-plus" if listen_plus else ""),
        source=SYNTHETIC if synthetic else SOURCE,
        events=events,
        items=yambda_items(root),
        notes=NOTES,
        dropped=dropped,
        found=found,
        official=official,
        outcome=outcome,
        wall_clock=False,
    )


def _scan(folder: Path, part: str, *, flat: bool) -> pl.LazyFrame:
    """Rows of one part in the flat form, with event_type."""
    file = folder / f"{part}.parquet"
    if part == "multi_event" and not file.is_file():
        each = [_scan(folder, one, flat=flat) for one in SINGULAR]
        return pl.concat(each, how="diagonal")
    if not file.is_file():
        there = ", ".join(sorted(f.name for f in folder.glob("*.parquet"))) or "nothing"
        raise InputError(
            f"{file} is not there (there is: {there}); download {SOURCE.title} from "
            f"{SOURCE.page} in its own layout"
        )
    frame = pl.scan_parquet(file)
    if not flat:
        names = frame.collect_schema().names()
        plural = {f"{n}s": n for n in ("item_id", "timestamp") if f"{n}s" in names}
        frame = frame.rename(plural)
        frame = frame.explode([plural.get(n, n) for n in names if n != "uid"], empty_as_null=False)
    if part != "multi_event":
        frame = frame.with_columns(event_type=pl.lit(SINGULAR[part]))
    return frame


def _found(events: pl.LazyFrame, raw: pl.LazyFrame, size: str, on_mismatch: OnMismatch) -> Counts:
    if on_mismatch == "ignore":
        return Counts()
    if size == "50m":
        return count(events)
    return Counts(int(raw.select(pl.len()).collect(engine="streaming").item()))


def yambda_items(folder: str | os.PathLike[str]) -> pl.DataFrame:
    """item_id, author (its first artist by id) and album (likewise), from the two mappings where they are
    there.
    """
    table = pl.DataFrame(schema={ITEM_ID: pl.UInt32})
    for name, group in (("author", "artist"), ("album", "album")):
        file = Path(folder) / f"{group}_item_mapping.parquet"
        if file.is_file():
            first = (
                pl.scan_parquet(file)
                .group_by(ITEM_ID)
                .agg(pl.col(f"{group}_id").min().alias(name))
                .collect(engine="streaming")
            )
            table = table.join(first, on=ITEM_ID, how="full", coalesce=True) if len(table) else first
    return table.sort(ITEM_ID)


def yambda_embeddings(
    folder: str | os.PathLike[str], *, item_ids: pl.Series | None = None, normalized: bool = True
) -> tuple[LongArray, npt.NDArray[np.float32]]:
    """Audio vectors of the tracks that have one.

    Args:
        folder: where embeddings.parquet lies (13.8 GB in all).
        item_ids: which tracks; None takes all.
        normalized: the column of unit vectors, or the raw one.

    Returns:
        Item ids, shape (n,), ascending, and vectors, shape (n, 128), float32.

    Raises:
        InputError: the file is not there.
    """
    file = Path(folder) / "embeddings.parquet"
    if not file.is_file():
        raise InputError(f"{file} is not there; download it from {SOURCE.page}")
    frame = pl.scan_parquet(file)
    if item_ids is not None:
        frame = frame.filter(pl.col(ITEM_ID).is_in(item_ids.cast(pl.UInt32).implode()))
    column = "normalized_embed" if normalized else "embed"
    table = frame.select(ITEM_ID, column).sort(ITEM_ID).collect(engine="streaming")
    if not len(table):
        return np.zeros(0, np.int64), np.zeros((0, 0), np.float32)
    width = table[column].list.len()[0] if isinstance(table[column].dtype, pl.List) else None
    flat = table[column].explode().cast(pl.Float32).to_numpy()
    n = len(table)
    return table[ITEM_ID].to_numpy().astype(np.int64), flat.reshape(n, width or len(flat) // n)
