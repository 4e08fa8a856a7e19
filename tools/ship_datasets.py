"""Make the Parquet files that the package ships, from the sources named in each folder's ATTRIBUTION.

    VITRINA_DATA=<folder of local data> python tools/ship_datasets.py

Nothing is dropped or merged here: every row of a source is a row of the shipped file. What a loader leaves
out, it counts (`vitrina.datasets.shipped`). Running this twice gives the same bytes with the same pyarrow.
"""

import os
import shutil
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path(os.environ.get("VITRINA_DATA", ROOT.parent / "shared" / "data"))
SHIPPED = ROOT / "src" / "vitrina" / "datasets" / "data"


def write(frame: pl.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    pq.write_table(table, path, compression="zstd", compression_level=19, row_group_size=1 << 20)
    print(f"{path.relative_to(ROOT)}: {len(frame):,} rows, {path.stat().st_size / 1e6:.2f} MB")


def online_retail() -> None:
    lines = pl.read_parquet(SOURCE / "online-retail" / "purchases.parquet").select(
        user_id=pl.col("CustomerID").cast(pl.Int32),
        item_id=pl.col("StockCode"),
        ts=pl.col("InvoiceDate").dt.replace_time_zone("Europe/London").dt.convert_time_zone("UTC"),
        invoice=pl.col("InvoiceNo").cast(pl.Int32),
        quantity=pl.col("Quantity").cast(pl.Int32),
        unit_price=pl.col("UnitPrice"),
        country=pl.col("Country"),
        title=pl.col("Description").str.strip_chars().str.replace_all(r"\s+", " "),
    )
    titles = (
        lines.group_by("item_id", "title")
        .agg(n=pl.len(), last=pl.col("ts").max())
        .sort("item_id", "n", "last", "title", descending=[False, True, True, False])
        .group_by("item_id", maintain_order=True)
        .first()
        .select("item_id", "title")
    )
    prices = lines.group_by("item_id").agg(price=pl.col("unit_price").median())
    order = ["ts", "invoice", "user_id", "item_id", "quantity", "unit_price"]
    write(lines.drop("title").sort(order), SHIPPED / "online-retail" / "events.parquet")
    write(titles.join(prices, on="item_id").sort("item_id"), SHIPPED / "online-retail" / "items.parquet")


def movietweetings() -> None:
    source = SOURCE / "movietweetings-100k"
    ratings = [line.split("::") for line in (source / "ratings.dat").read_text().splitlines()]
    user, movie, rating, second = zip(*ratings, strict=True)
    frame = pl.DataFrame(
        {
            "user_id": pl.Series(user).cast(pl.Int32),
            "item_id": pl.Series(movie),
            "ts": (pl.Series(second).cast(pl.Int64) * 1_000_000).cast(pl.Datetime("us", "UTC")),
            "rating": pl.Series(rating).cast(pl.Int8),
        }
    )
    order = ["ts", "user_id", "item_id", "rating"]
    write(frame.sort(order), SHIPPED / "movietweetings-100k" / "events.parquet")
    movies = [line.split("::") for line in (source / "movies.dat").read_text().splitlines()]
    movie, title, genres = zip(*movies, strict=True)
    items = pl.DataFrame({"item_id": movie, "full": title, "genres": genres}).select(
        "item_id",
        title=pl.col("full").str.replace(r"\s*\(\d{4}\)\s*$", ""),
        year=pl.col("full").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int16),
        genres=pl.when(pl.col("genres") != "").then("genres"),
    )
    write(items.sort("item_id"), SHIPPED / "movietweetings-100k" / "items.parquet")
    shutil.copyfile(source / "LICENSE", SHIPPED / "movietweetings-100k" / "LICENSE")


if __name__ == "__main__":
    online_retail()
    movietweetings()
