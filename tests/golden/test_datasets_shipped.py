"""The shipped logs hold what they should, to the byte of their content, under their licences."""

import datetime as dt
import hashlib
from importlib import resources

import polars as pl
import pytest

from vitrina import datasets
from vitrina.datasets.shipped import DATA, NOT_GOODS
from vitrina.errors import InputError

UTC = dt.UTC


def content_digest(frame: pl.DataFrame) -> str:
    """SHA-256 over the rows as CSV: the same whatever the Parquet writer does."""
    return hashlib.sha256(frame.write_csv().encode()).hexdigest()


# name, file, rows, sha of content; the rows are those of the sources
FILES = [
    ("online-retail", "events", 791_114, "6a6700cba0fb6cbb526031584e4f7426f600a0b92cd2436ac4278b80c9f86300"),
    ("online-retail", "items", 4_631, "200a94bcf7735f84185dd15b3a6ea92e2a7b40b580913b684f90162dfd0925fb"),
    (
        "movietweetings-100k",
        "events",
        100_000,
        "4b2808415c1ce7c2ce993c7d870076357630291b13689d49c2d3250d07644e3d",
    ),
    (
        "movietweetings-100k",
        "items",
        10_506,
        "4421086f5dd7abf86859dc1d1635e9557a87ad68872fe545148ce2eff300d317",
    ),
]


@pytest.mark.parametrize(("name", "file", "n_rows", "digest"), FILES)
def test_shipped_files_have_their_content(name: str, file: str, n_rows: int, digest: str) -> None:
    frame = pl.read_parquet(DATA / name / f"{file}.parquet")
    assert len(frame) == n_rows
    assert content_digest(frame) == digest


def test_online_retail_counts_every_line() -> None:
    shop = datasets.load("online-retail")
    assert shop.outcome == "official"
    assert (shop.found.rows, shop.found.users, shop.found.items) == (791_114, 5_881, 4_631)
    purchases = shop.events.collect()
    assert shop.dropped == {"not goods": 2_940, "line merged into another of its invoice and item": 22_117}
    assert len(purchases) == 791_114 - 2_940 - 22_117 == shop.log.n_rows()
    assert purchases["user_id"].n_unique() == 5_853
    assert purchases["item_id"].n_unique() == 4_619
    assert not set(NOT_GOODS) & set(purchases["item_id"])
    assert purchases["ts"].min() == dt.datetime(2009, 12, 1, 7, 45, tzinfo=UTC)
    assert purchases["ts"].max() == dt.datetime(2011, 12, 9, 12, 50, tzinfo=UTC)
    assert not purchases.select("invoice", "item_id").is_duplicated().any()


def test_merging_lines_loses_no_quantity_and_no_money() -> None:
    shop = datasets.load("online-retail")
    lines = pl.read_parquet(DATA / "online-retail" / "events.parquet").filter(
        ~pl.col("item_id").is_in(list(NOT_GOODS))
    )
    purchases = shop.events.collect()
    assert purchases["quantity"].sum() == lines["quantity"].sum()
    money = (lines["quantity"] * lines["unit_price"]).sum()
    assert purchases["value"].sum() == pytest.approx(money, rel=1e-12)


def test_every_item_left_out_is_no_article_and_every_other_stays() -> None:
    items = pl.read_parquet(DATA / "online-retail" / "items.parquet")
    titles = dict(items.iter_rows() if items.width == 2 else items.select("item_id", "title").iter_rows())
    assert {code: titles[code] for code in NOT_GOODS} == {
        "POST": "POSTAGE",
        "C2": "CARRIAGE",
        "DOT": "DOTCOM POSTAGE",
        "23444": "Next Day Carriage",
        "23574": "PACKING CHARGE",
        "M": "Manual",
        "D": "Discount",
        "ADJUST": "Adjustment by john on 26/01/2010 16",
        "ADJUST2": "Adjustment by Peter on Jun 25 2010",
        "BANK CHARGES": "Bank Charges",
        "TEST001": "This is a test product.",
        "TEST002": "This is a test product.",
    }
    others = items.filter(
        ~pl.col("item_id").is_in(list(NOT_GOODS)) & ~pl.col("item_id").str.contains(r"^\d{5}")
    )
    assert others["item_id"].sort().to_list() == ["PADS", "SP1002"]  # cushion pads, a chalkboard


def test_summer_purchases_are_an_hour_earlier_in_utc() -> None:
    """London is at UTC+1 on 2011-07-01."""
    shop = datasets.load("online-retail").events.collect()
    day = shop.filter(pl.col("ts").dt.date() == dt.date(2011, 7, 1))
    local = day["ts"].dt.convert_time_zone("Europe/London")
    assert (local.dt.hour() - day["ts"].dt.hour()).unique().to_list() == [1]


def test_movietweetings_is_whole() -> None:
    tweets = datasets.load("movietweetings-100k")
    events = tweets.events.collect()
    assert tweets.outcome == "official"
    assert (len(events), events["user_id"].n_unique(), events["item_id"].n_unique()) == (
        100_000,
        16_554,
        10_506,
    )
    assert tweets.log.n_rows() == 100_000
    assert (events["value"].min(), events["value"].max()) == (0.0, 10.0)
    assert events["ts"].min() == dt.datetime(2013, 2, 28, 14, 38, 27, tzinfo=UTC)
    assert events["ts"].max() == dt.datetime(2013, 9, 1, 20, 27, 45, tzinfo=UTC)
    assert (events.group_by("user_id").len()["len"] >= 5).sum() == 4_692
    film = tweets.items.filter(pl.col("item_id") == "0104257").to_dicts()
    assert film == [
        {
            "item_id": "0104257",
            "title": "A Few Good Men",
            "year": 1992,
            "genres": "Crime|Drama|Mystery|Thriller",
        }
    ]


@pytest.mark.parametrize("name", sorted(datasets.SHIPPED))
def test_titles_are_known_for_every_item_of_the_log(name: str) -> None:
    shipped = datasets.load(name)
    assert shipped.items["item_id"].is_unique().all()
    assert shipped.items["title"].null_count() == 0
    assert set(shipped.events.select("item_id").collect()["item_id"]) <= set(shipped.items["item_id"])


@pytest.mark.parametrize(
    ("name", "file", "words"),
    [
        (
            "online-retail",
            "LICENSE",
            ["Daqing Chen", "UCI", "CC BY 4.0", "creativecommons.org", "Changes made"],
        ),
        (
            "movietweetings-100k",
            "LICENSE",
            ["The MIT License", "Copyright (c) 2013 Simon Dooms", "WITHOUT WARRANTY"],
        ),
        ("movietweetings-100k", "ATTRIBUTION", ["Simon Dooms", "Twitter accounts is left out"]),
    ],
)
def test_licences_and_attributions_are_in_the_package(name: str, file: str, words: list[str]) -> None:
    text = resources.files("vitrina.datasets").joinpath("data", name, file).read_text()
    assert [word for word in words if word not in text] == []
    loaded = datasets.load(name)
    assert loaded.licence
    assert loaded.attribution
    assert loaded.page.startswith("https://")


def test_the_shipped_files_are_small() -> None:
    size = sum(file.stat().st_size for file in DATA.rglob("*.parquet"))
    assert size < 5_000_000


def test_an_unknown_name_is_told_what_there_is() -> None:
    with pytest.raises(InputError, match="online-retail, movietweetings-100k"):
        datasets.load("ml-1m")
