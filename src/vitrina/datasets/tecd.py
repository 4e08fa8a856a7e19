"""T-ECD: a synthetic log of shops, offers, payments and reviews; one file a day, named by the day."""

import os
from pathlib import Path
from typing import Literal

import polars as pl

from vitrina.datasets.dataset import Dataset, Source, canonical, find_all
from vitrina.errors import InputError
from vitrina.schema import ITEM_ID, TS_DTYPE, US_PER_DAY

SOURCE = Source(
    title="T-ECD",
    licence="CC BY-NC-SA 4.0: not for commercial use; share alike. Its publisher calls it synthetic",
    attribution="T-Bank: T-ECD, Hugging Face t-tech/T-ECD",
    page="https://huggingface.co/datasets/t-tech/T-ECD",
)

Domain = Literal["marketplace", "retail", "offers", "payments", "reviews"]

FOLDERS = {
    "marketplace": "marketplace/events",
    "retail": "retail/events",
    "offers": "offers/events",
    "payments": "payments/events",
    "reviews": "reviews",
}
"""Where the day files of each domain lie."""


def tecd(
    folder: str | os.PathLike[str],
    *,
    domain: Domain = "marketplace",
    days: tuple[int, int] | None = None,
) -> Dataset:
    """Day files of one domain of T-ECD, small or full (dataset/small or dataset/full).

    The calendar day is in the file name alone (01082.pq is day 1082), and no date is given for day 0: times
    are counted from 1970-01-01 UTC, which means nothing. `event` is action_type in lower case ("payment",
    "review" where there is none). Items are brands in payments (`value` is the price) and reviews (`value` is
    the rating). Published counts are round ("~1B"), so nothing is checked.

    Args:
        folder: the folder that holds users.pq, brands.pq and the domains.
        domain: which part.
        days: first and last day to read; None reads all that is there.

    Raises:
        InputError: there are no such files.
    """
    if domain not in FOLDERS:
        raise InputError(f"domain must be one of {', '.join(FOLDERS)}, got {domain!r}")
    root = Path(folder)
    files = find_all(root / FOLDERS[domain], ("[0-9]*.pq",), source=SOURCE)
    chosen = [f for f in files if days is None or days[0] <= int(f.stem) <= days[1]]
    if not chosen:
        raise InputError(f"{root / FOLDERS[domain]} has days {files[0].stem}..{files[-1].stem}, not {days}")
    parts = [_day(file) for file in chosen]
    names = set(parts[0].collect_schema().names())
    item = "item_id" if "item_id" in names else "brand_id"
    value = next((name for name in ("rating", "price") if name in names and item == "brand_id"), None)
    action = pl.col("action_type").cast(pl.String).str.to_lowercase() if "action_type" in names else None
    used = {"user_id", item, "ts", "day", "timestamp", "action_type", value, "embedding"}
    events = canonical(
        pl.concat(parts, how="vertical_relaxed"),
        user_id=pl.col("user_id"),
        item_id=pl.col(item),
        ts=pl.col("ts"),
        event=action if action is not None else pl.lit({"payments": "payment"}.get(domain, "review")),
        **({"value": pl.col(value).cast(pl.Float64)} if value else {}),
        day=pl.col("day"),
        **{name: pl.col(name) for name in sorted(names - used)},
    )
    return Dataset(
        name=f"tecd-{domain}",
        source=SOURCE,
        events=events,
        items=_items(root, domain),
        notes=(
            "no wall clock: day 0 is shown as 1970-01-01 UTC; days of the week and seasons are unknown",
            f"items are {'brands' if item == 'brand_id' else 'ids of this domain alone'}; users "
            f"and brands are common",
        ),
        wall_clock=False,
    )


def _day(file: Path) -> pl.LazyFrame:
    """One day file with `day` and `ts`; its timestamp counts from midnight, or from day 0 if it exceeds a
    day.
    """
    frame, day = pl.scan_parquet(file), int(file.stem)
    dtype = frame.collect_schema()["timestamp"]
    raw = pl.col("timestamp")
    if isinstance(dtype, pl.Duration):
        us = raw.dt.total_microseconds()
    elif isinstance(dtype, pl.Datetime):
        us = raw.dt.timestamp("us")
    else:
        us = raw.cast(pl.Int64)
    last = frame.select(us.max()).collect(engine="streaming").item()
    start = 0 if last is not None and last >= US_PER_DAY else day * US_PER_DAY
    return frame.with_columns(day=pl.lit(day, pl.Int32), ts=(us + start).cast(TS_DTYPE))


def _items(root: Path, domain: str) -> pl.DataFrame:
    file = root / domain / "items.pq"
    if not file.is_file():
        return pl.DataFrame(schema={ITEM_ID: pl.String})
    table = pl.scan_parquet(file)
    return table.drop("embedding", strict=False).sort(ITEM_ID).collect(engine="streaming")
