"""Clicks and purchases of shops: RetailRocket, Yoochoose (RecSys Challenge 2015) and a sample of it."""

import os
from pathlib import Path
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
    find,
    find_all,
    milliseconds,
    no_items,
    seconds,
)
from vitrina.errors import InputError

RETAILROCKET = Source(
    title="RetailRocket",
    licence="CC BY-NC-SA 4.0: not for commercial use; share alike",
    attribution="Retailrocket recommender system dataset, Kaggle, doi:10.34740/kaggle/dsv/4471234",
    page="https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset",
)
YOOCHOOSE = Source(
    title="Yoochoose",
    licence="CC BY-NC-ND 4.0: not for commercial use; no derived data may be shared",
    attribution=(
        "D. Ben-Shimon et al.: RecSys Challenge 2015 and the YOOCHOOSE Dataset, doi:10.1145/2792838.2798723"
    ),
    page="https://2015.recsyschallenge.com/challenge.html",
)

YOOCHOOSE_OFFICIAL = {
    "clicks": Counts(33_003_944, 9_249_729, 52_739),
    "buys": Counts(1_150_753, 509_696, 19_949),
}
"""Rows, sessions, items."""


def retailrocket(folder: str | os.PathLike[str], *, on_mismatch: OnMismatch = "warn") -> Dataset:
    """events.csv: views, carts and purchases ("view", "addtocart", "transaction") of 4.5 months of 2015.

    `items` has the category that each item had last, if item_properties_part*.csv are there.
    """
    file = find(folder, ("events.csv",), source=RETAILROCKET)
    types = {
        "timestamp": pl.Int64,
        "visitorid": pl.Int64,
        "event": pl.String,
        "itemid": pl.Int64,
        "transactionid": pl.Int64,
    }
    events = canonical(
        pl.scan_csv(file, schema=types),
        user_id=pl.col("visitorid"),
        item_id=pl.col("itemid"),
        ts=milliseconds("timestamp"),
        event=pl.col("event"),
        transaction_id=pl.col("transactionid"),
    )
    found, official = count(events), Counts(2_756_101, 1_407_580, 235_061)
    return Dataset(
        name="retailrocket",
        source=RETAILROCKET,
        events=events,
        items=_categories(file.parent),
        notes=("460 events are exact copies of others; the log sets them aside and counts them",),
        found=found,
        official=official,
        outcome=check_counts(found, official, name="retailrocket", on_mismatch=on_mismatch),
    )


def _categories(folder: Path) -> pl.DataFrame:
    files = sorted(folder.glob("item_properties_part*.csv"))
    if not files:
        return no_items()
    types = {"timestamp": pl.Int64, "itemid": pl.Int64, "property": pl.String, "value": pl.String}
    return (
        pl.scan_csv(files, schema=types)
        .filter(pl.col("property") == "categoryid")
        .group_by("itemid")
        .agg(category=pl.col("value").sort_by("timestamp").last())
        .select(item_id=pl.col("itemid"), category=pl.col("category"))
        .sort("item_id")
        .collect(engine="streaming")
    )


def yoochoose(
    folder: str | os.PathLike[str],
    *,
    part: Literal["clicks", "buys"] = "clicks",
    on_mismatch: OnMismatch = "warn",
) -> Dataset:
    """yoochoose-clicks.dat or yoochoose-buys.dat: six months of 2014; a "user" is a session.

    Clicks have the context column category; buys have value (price times quantity), price and quantity.
    """
    if part not in YOOCHOOSE_OFFICIAL:
        raise InputError(f"part must be 'clicks' or 'buys', got {part!r}")
    file = find(folder, (f"yoochoose-{part}.dat",), source=YOOCHOOSE)
    fields: dict[str, type[pl.DataType]] = {"session": pl.Int64, "time": pl.String, "item": pl.Int64}
    fields |= {"category": pl.String} if part == "clicks" else {"price": pl.Float64, "quantity": pl.Int64}
    raw = pl.scan_csv(file, has_header=False, schema=fields)
    more = (
        {"category": pl.col("category")}
        if part == "clicks"
        else {
            "value": pl.col("price") * pl.col("quantity"),
            "price": pl.col("price"),
            "quantity": pl.col("quantity"),
        }
    )
    events = canonical(
        raw,
        user_id=pl.col("session"),
        item_id=pl.col("item"),
        ts=pl.col("time")
        .str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us")
        .dt.replace_time_zone("UTC"),
        event=pl.lit("click" if part == "clicks" else "buy"),
        **more,
    )
    found, official = count(events), YOOCHOOSE_OFFICIAL[part]
    return Dataset(
        name=f"yoochoose-{part}",
        source=YOOCHOOSE,
        events=events,
        items=no_items(),
        notes=("user_id is a session: nobody is followed from one session to the next",),
        found=found,
        official=official,
        outcome=check_counts(found, official, name=f"yoochoose-{part}", on_mismatch=on_mismatch),
    )


def yoochoose_sample(folder: str | os.PathLike[str], *, on_mismatch: OnMismatch = "warn") -> Dataset:
    """The prepared sample of 100k clicks: tab-separated SessionId, ItemId, Time in two files.

    The context column part says which file a click came from ("train", "test"); the training file's own
    division into *_train_tr and *_train_valid is left alone.
    """
    types = {"SessionId": pl.Int64, "ItemId": pl.Int64, "Time": pl.Float64}
    parts = []
    for part, pattern in (("train", "*_train_full.txt"), ("test", "*_test.txt")):
        file = find_all(folder, (pattern,), source=YOOCHOOSE)[0]
        parts.append(pl.scan_csv(file, separator="\t", schema=types).with_columns(part=pl.lit(part)))
    events = canonical(
        pl.concat(parts),
        user_id=pl.col("SessionId"),
        item_id=pl.col("ItemId"),
        ts=seconds("Time"),
        event=pl.lit("click"),
        part=pl.col("part"),
    )
    found, official = count(events), Counts(83_846, 21_210, 2_933)
    return Dataset(
        name="yoochoose-100k",
        source=YOOCHOOSE,
        events=events,
        items=no_items(),
        notes=(
            "user_id is a session: nobody is followed from one session to the next",
            "times are 2 hours before the official ones: the sample's maker read UTC as the "
            "time of UTC+2; the order "
            "and the gaps are right",
        ),
        found=found,
        official=official,
        outcome=check_counts(found, official, name="yoochoose-100k", on_mismatch=on_mismatch),
    )
