"""The two logs that come with the package: a real shop with repeat purchases, and ratings of films.

    online-retail         791,114 order lines, 788,174 of goods, 766,057 purchases (an item on an invoice)
    movietweetings-100k   100,000 ratings

`data/<name>/` holds events.parquet, items.parquet and the licence with the attribution.
"""

from pathlib import Path

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

DATA = Path(__file__).resolve().parent / "data"

NOT_GOODS = {
    "POST": "postage",
    "C2": "carriage",
    "DOT": "postage of the web shop",
    "23444": "next-day carriage",
    "23574": "packing charge",
    "M": "manual entry",
    "D": "discount",
    "ADJUST": "adjustment",
    "ADJUST2": "adjustment",
    "BANK CHARGES": "bank charges",
    "TEST001": "test product",
    "TEST002": "test product",
}
"""Stock codes of Online Retail that name no article, and what they are. Two look like articles' codes."""

ONLINE_RETAIL = Source(
    title="Online Retail",
    licence="CC BY 4.0: free for any use with attribution; shipped with this package",
    attribution="Daqing Chen, UCI Machine Learning Repository, doi:10.24432/C5BW33 and doi:10.24432/C5CG6D",
    page="https://archive.ics.uci.edu/dataset/502/online+retail+ii",
)
MOVIETWEETINGS = Source(
    title="MovieTweetings 100K",
    licence="MIT: free for any use with the licence text; shipped with this package",
    attribution="Simon Dooms, MovieTweetings (CrowdRec at RecSys 2013)",
    page="https://github.com/sidooms/MovieTweetings",
)


def online_retail(*, on_mismatch: OnMismatch = "raise") -> Dataset:
    """Two years of a UK gift shop: purchases from 2009-12-01 to 2011-12-09.

    One event is one item on one invoice. The source has order lines, and 2.8 % of the goods lines repeat an
    item of their invoice (11,612 are exact copies): the customer decided once, so those lines are one event
    and their quantities and values add up. Twelve stock codes that are not goods are left out. Both are
    counted in `dropped`.

    Columns beside the usual: value (GBP, quantity times unit price), quantity, invoice, country. `weight` is
    not set: quantities reach 80,995 and would drown everything else; make it from `quantity` where that is
    wanted.
    """
    folder = DATA / "online-retail"
    lines = pl.read_parquet(folder / "events.parquet")
    found = count(lines.lazy())
    official = Counts(791_114, 5_881, 4_631)
    outcome = check_counts(found, official, name="online-retail", on_mismatch=on_mismatch)
    is_goods = ~pl.col("item_id").is_in(list(NOT_GOODS))
    goods = lines.filter(is_goods)
    value = pl.col("quantity") * pl.col("unit_price")
    purchases = goods.group_by("invoice", "item_id", "user_id", "country", maintain_order=True).agg(
        ts=pl.col("ts").min(), quantity=pl.col("quantity").sum(), value=value.sum()
    )
    events = canonical(
        purchases.lazy(),
        user_id=pl.col("user_id"),
        item_id=pl.col("item_id"),
        ts=pl.col("ts"),
        event=pl.lit("purchase"),
        value=pl.col("value"),
        quantity=pl.col("quantity"),
        invoice=pl.col("invoice"),
        country=pl.col("country"),
    )
    return Dataset(
        name="online-retail",
        source=ONLINE_RETAIL,
        events=events,
        items=pl.read_parquet(folder / "items.parquet").filter(is_goods),
        notes=(
            "the source gives local shop times without a zone; Europe/London is assumed",
            "one event is one item on one invoice; lines of the same item and invoice are merged",
            "customers buy again: measure with and without the items a customer already has",
        ),
        dropped={
            "not goods": len(lines) - len(goods),
            "line merged into another of its invoice and item": len(goods) - len(purchases),
        },
        found=found,
        official=official,
        outcome=outcome,
        duplicates="keep",
    )


def movietweetings(*, on_mismatch: OnMismatch = "raise") -> Dataset:
    """Ratings 0-10 that people tweeted, 2013-02-28 to 2013-09-01; `value` is the rating, items are IMDb's."""
    folder = DATA / "movietweetings-100k"
    ratings = pl.scan_parquet(folder / "events.parquet")
    events = canonical(
        ratings,
        user_id=pl.col("user_id"),
        item_id=pl.col("item_id"),
        ts=pl.col("ts"),
        event=pl.lit("rating"),
        value=pl.col("rating").cast(pl.Float64),
    )
    found, official = count(events), Counts(100_000, 16_554, 10_506)
    return Dataset(
        name="movietweetings-100k",
        source=MOVIETWEETINGS,
        events=events,
        items=pl.read_parquet(folder / "items.parquet"),
        notes=("11,862 of 16,554 users have fewer than 5 ratings",),
        found=found,
        official=official,
        outcome=check_counts(found, official, name="movietweetings-100k", on_mismatch=on_mismatch),
    )


SHIPPED = {"online-retail": online_retail, "movietweetings-100k": movietweetings}
"""Loader by name."""


def load(name: str) -> Dataset:
    """A shipped log by name: "online-retail" or "movietweetings-100k".

    Raises:
        InputError: there is no such name, or the shipped files are not the ones that were built.
    """
    if name not in SHIPPED:
        raise InputError(
            f"no dataset {name!r} comes with vitrina; it has: {', '.join(SHIPPED)}; for others "
            f"see vitrina.datasets"
        )
    return SHIPPED[name]()
