"""Amazon reviews: the releases of 2014, 2018 and 2023, as ratings or as reviews; and a derived Beauty.

The three releases differ where it hurts: 2014 has user before item and 2018 has item before user, both
without a header and in seconds; 2023 has a header and milliseconds, and its item is the parent product.
"""

import os
from pathlib import Path
from typing import Literal

import polars as pl

from vitrina.datasets.amazon_counts import FIVE_CORE_2014, FIVE_CORE_2018
from vitrina.datasets.dataset import (
    Counts,
    Dataset,
    OnMismatch,
    Source,
    canonical,
    check_counts,
    count,
    find,
    milliseconds,
    seconds,
)
from vitrina.errors import InputError

Year = Literal[2014, 2018, 2023]

TERMS = "no licence is stated; offered for research, so keep it local and cite the paper"
SOURCES = {
    2014: Source(
        title="Amazon reviews 2014",
        licence=TERMS,
        attribution="J. McAuley et al.: Image-based recommendations on styles and substitutes, SIGIR 2015",
        page="https://cseweb.ucsd.edu/~jmcauley/datasets/amazon/links.html",
    ),
    2018: Source(
        title="Amazon reviews 2018",
        licence=TERMS,
        attribution=(
            "J. Ni, J. Li, J. McAuley: Justifying recommendations using distantly-labeled reviews, EMNLP 2019"
        ),
        page="https://nijianmo.github.io/amazon/index.html",
    ),
    2023: Source(
        title="Amazon reviews 2023",
        licence=TERMS,
        attribution=(
            "Y. Hou et al.: Bridging Language and Items for Retrieval and Recommendation, arXiv:2403.03952"
        ),
        page="https://amazon-reviews-2023.github.io/",
    ),
}

ASIN_CHARS = 10
"""Items of Amazon have ids of 10 characters; users of 10 to 28, and in any file some of more than 10."""


def amazon(
    file: str | os.PathLike[str],
    *,
    year: Year,
    category: str | None = None,
    on_mismatch: OnMismatch = "warn",
) -> Dataset:
    """One file of ratings (.csv) or reviews (.json, .jsonl), packed with gzip or not; `value` is the stars.

    Counts are checked where they are published for exactly this file: the 5-core reviews of 2014 (rows,
    users, items) and of 2018 (rows). Others end as "unchecked".

    Args:
        file: the file itself.
        year: which release; it decides the columns.
        category: name of the category as in the official file name; None takes it from this file's name.
        on_mismatch: what to do when the counts are not the published ones.

    Raises:
        InputError: the file is not there, or its columns are in the order of another release.
    """
    if year not in SOURCES:
        raise InputError(f"year must be 2014, 2018 or 2023, got {year!r}")
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{path} is not a file; download {SOURCES[year].title} from {SOURCES[year].page}")
    suffix = [s for s in path.suffixes if s != ".gz"][-1:]
    raw = _ratings(path, year) if suffix == [".csv"] else _reviews(path, year)
    events = canonical(
        raw,
        user_id=pl.col("user"),
        item_id=pl.col("item"),
        ts=milliseconds("timestamp") if year == 2023 else seconds("timestamp"),
        event=pl.lit("rating"),
        value=pl.col("rating").cast(pl.Float64),
    )
    category = category or _category(path)
    official = {2014: FIVE_CORE_2014, 2018: FIVE_CORE_2018}.get(year, {}).get(category, Counts())
    if suffix == [".csv"] or "_5." not in path.name:
        official = Counts()
    found = count(events) if on_mismatch != "ignore" else Counts()
    name = f"amazon-{year}-{category.lower()}"
    notes = ["times of 2014 and 2018 are days; the order within a day is unknown"] if year != 2023 else []
    return Dataset(
        name=name,
        source=SOURCES[year],
        events=events,
        items=pl.DataFrame(schema={"item_id": pl.String}),
        notes=tuple(notes),
        found=found,
        official=official,
        outcome=check_counts(found, official, name=name, on_mismatch=on_mismatch),
    )


def _ratings(path: Path, year: int) -> pl.LazyFrame:
    if year == 2023:
        raw = pl.scan_csv(path, schema_overrides={"user_id": pl.String, "parent_asin": pl.String})
        return raw.rename({"user_id": "user", "parent_asin": "item"})
    order = ("user", "item") if year == 2014 else ("item", "user")
    types = {order[0]: pl.String, order[1]: pl.String, "rating": pl.Float64, "timestamp": pl.Int64}
    raw = pl.scan_csv(path, has_header=False, schema=types)
    head = raw.select("user", "item").head(10_000).collect()
    longest = head.select(pl.col("user", "item").str.len_chars().max()).row(0)
    if longest[1] is not None and longest[1] > ASIN_CHARS >= longest[0]:
        other = 2018 if year == 2014 else 2014
        raise InputError(
            f"{path} has items where the release of {year} has users, as that of {other} does; "
            f"pass year={other}"
        )
    return raw


def _reviews(path: Path, year: int) -> pl.LazyFrame:
    if year == 2023:
        names = {"user_id": "user", "parent_asin": "item", "rating": "rating", "timestamp": "timestamp"}
    else:
        names = {"reviewerID": "user", "asin": "item", "overall": "rating", "unixReviewTime": "timestamp"}
    numbers = {"overall": pl.Float64, "rating": pl.Float64, "unixReviewTime": pl.Int64, "timestamp": pl.Int64}
    schema = {name: numbers.get(name, pl.String) for name in names}
    return pl.scan_ndjson(path, schema=schema, ignore_errors=False).rename(names)


def _category(path: Path) -> str:
    """Beauty from ratings_Beauty.csv, reviews_Beauty_5.json.gz, Beauty_5.json and the like."""
    name = path.name.split(".")[0]
    return name.removeprefix("ratings_").removeprefix("reviews_").removesuffix("_5")


def amazon_beauty_derived(folder: str | os.PathLike[str], *, on_mismatch: OnMismatch = "warn") -> Dataset:
    """interactions_derived.tsv (user_id, item_asin, timestamp at day resolution) and items_derived.tsv.

    No ratings and no review text: event "review", and keywords stand in for titles, and
    `attributes` joins words of brand and category by |.
    """
    file = find(folder, ("interactions_derived.tsv",), source=SOURCES[2014])
    types = {"user_id": pl.String, "item_asin": pl.String, "timestamp": pl.Int64}
    events = canonical(
        pl.scan_csv(file, separator="\t", schema=types),
        user_id=pl.col("user_id"),
        item_id=pl.col("item_asin"),
        ts=seconds("timestamp"),
        event=pl.lit("review"),
    )
    items = pl.DataFrame(schema={"item_id": pl.String})
    if (file.parent / "items_derived.tsv").is_file():
        table = pl.read_csv(file.parent / "items_derived.tsv", separator="\t", quote_char=None)
        items = table.select("item_asin", "keywords", "attributes")
        items = items.rename({"item_asin": "item_id", "keywords": "title"}).sort("item_id")
    found, official = count(events), FIVE_CORE_2014["Beauty"]
    return Dataset(
        name="amazon-2014-beauty-derived",
        source=SOURCES[2014],
        events=events,
        items=items,
        notes=(
            "times are days and often tie: histories draw the order within a day from a seed",
            "two public copies joined on their baskets; 13 items bought by exactly the same "
            "users are paired arbitrarily",
        ),
        found=found,
        official=official,
        outcome=check_counts(found, official, name="amazon-2014-beauty-derived", on_mismatch=on_mismatch),
    )
