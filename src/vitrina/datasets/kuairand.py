"""KuaiRand: short videos shown by a recommender, with a part shown at random."""

import os
from typing import Literal

import polars as pl

from vitrina.datasets.dataset import (
    Counts,
    Dataset,
    OnMismatch,
    Source,
    canonical,
    check_counts,
    count,
    find_all,
    milliseconds,
)
from vitrina.errors import InputError

SOURCE = Source(
    title="KuaiRand",
    licence="CC BY-SA 4.0: free for any use with attribution; share alike",
    attribution="C. Gao et al.: KuaiRand, CIKM 2022, doi:10.1145/3511808.3557624",
    page="https://kuairand.com",
)

OFFICIAL = {
    ("pure", "standard"): Counts(1_436_609, 27_285, 7_551),
    ("1k", "standard"): Counts(11_713_045, 1_000, 4_369_953),
    ("27k", "standard"): Counts(322_278_385, 27_285, 32_038_725),
    ("pure", "random"): Counts(1_186_059, 27_285, 7_583),
    ("1k", "random"): Counts(43_028, 1_000, 7_388),
    ("27k", "random"): Counts(1_186_059, 27_285, 7_583),
}
"""Rows, users, videos by version and log."""

SIGNALS = [
    "is_click", "is_like", "is_follow", "is_comment", "is_forward", "is_hate", "long_view",
    "play_time_ms", "duration_ms", "profile_stay_time", "comment_stay_time", "is_profile_enter",
    "is_rand", "tab",
]  # fmt: skip


def kuairand(
    folder: str | os.PathLike[str],
    *,
    log: Literal["standard", "random"] = "standard",
    on_mismatch: OnMismatch = "warn",
) -> Dataset:
    """log_standard_*.csv or log_random_*.csv of KuaiRand-Pure, -1K or -27K; the version is read off the file
    names.

    Every row is a video shown: event is "click" where is_click is 1, else "impression"; `value` is
    play_time_ms over duration_ms (null where there is no duration); `organic` is false throughout, for a
    recommender showed them all. All other signals are context columns.

    Args:
        folder: the unpacked release, or its data folder.
        log: what the recommender showed, or what was shown at random in its place (uniform over a pool of
            7,583).
        on_mismatch: what to do when the counts are not the published ones.
    """
    if log not in ("standard", "random"):
        raise InputError(f"log must be 'standard' or 'random', got {log!r}")
    files = find_all(folder, (f"log_{log}_*.csv",), source=SOURCE)
    version = next((v for v in ("pure", "27k", "1k") if f"_{v}" in files[0].stem), None)
    if version is None:
        raise InputError(
            f"{files[0].name} does not say its version; keep the official name, e.g. ..._pure.csv"
        )
    types: dict[str, type[pl.DataType]] = {"user_id": pl.Int64, "video_id": pl.Int64, "date": pl.Int64}
    types |= {"hourmin": pl.Int64, "time_ms": pl.Int64} | dict.fromkeys(SIGNALS, pl.Int64)
    share = pl.col("play_time_ms") / pl.col("duration_ms")
    events = canonical(
        pl.scan_csv(files, schema=types),
        user_id=pl.col("user_id"),
        item_id=pl.col("video_id"),
        ts=milliseconds("time_ms"),
        event=pl.when(pl.col("is_click") == 1).then(pl.lit("click")).otherwise(pl.lit("impression")),
        value=pl.when(pl.col("duration_ms") > 0).then(share),
        organic=pl.lit(False),
        **{name: pl.col(name) for name in SIGNALS if name != "is_click"},
    )
    found, official = count(events), OFFICIAL[version, log]
    name = f"kuairand-{version}-{log}"
    return Dataset(
        name=name,
        source=SOURCE,
        events=events,
        items=pl.DataFrame(schema={"item_id": pl.Int64}),
        notes=("most rows are impressions: filter on event to get what users chose",),
        found=found,
        official=official,
        outcome=check_counts(found, official, name=name, on_mismatch=on_mismatch),
    )
