"""The same steps by hand in streaming polars: `log_50m_hand.py FILE FOLDER CUT_US`.

Of the ways to sort that were tried (streaming sort by both columns, collect and sort by both, sort inside
group_by, NumPy's lexsort, eight buckets of users) two stable sorts by one column each took the least CPU.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

path, folder, cut_us = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
began, cpu = time.perf_counter(), time.process_time()
marks = {}


def mark(step: str) -> None:
    marks[step] = round(time.process_time() - cpu - sum(marks.values()), 2)


EVENTS = ["buy", "cart", "view"]
log = pl.scan_parquet(path)
found = log.select(
    pl.len(),
    pl.sum_horizontal(pl.all().null_count()).alias("nulls"),
    pl.col("ts").min().alias("first"),
    pl.col("ts").max().alias("last"),
    (~pl.col("event").is_in(EVENTS)).sum().alias("unknown_events"),
).collect(engine="streaming")
row = found.row(0, named=True)
assert row["nulls"] == 0
assert row["unknown_events"] == 0
assert row["first"].year >= 1980
distinct = log.select(pl.struct(pl.all()).hash().n_unique()).collect(engine="streaming").item()
assert distinct == row["len"]
mark("check")

cut = pl.lit(cut_us).cast(pl.Datetime("us", "UTC"))
items = None
shapes = {}
for name, part in (("train", log.filter(pl.col("ts") < cut)), ("test", log.filter(pl.col("ts") >= cut))):
    users = (
        part.select(pl.col("user_id").unique())
        .collect(engine="streaming")
        .sort("user_id")
        .with_row_index("user_ix")
    )
    if items is None:
        found = part.select(pl.col("item_id").unique()).collect(engine="streaming")
        items = found.sort("item_id").with_row_index("item_ix")
    rows = (
        part.join(users.lazy(), on="user_id")
        .join(items.lazy(), on="item_id")
        .select(
            "user_ix", "item_ix", "ts", pl.col("event").cast(pl.Enum(EVENTS)).to_physical().cast(pl.UInt8)
        )
        .collect(engine="streaming")
        .sort("ts")
        .sort("user_ix", maintain_order=True)
    )
    place = folder / name
    place.mkdir(parents=True, exist_ok=True)
    counts = np.bincount(rows["user_ix"].to_numpy(), minlength=len(users))
    offsets = np.concatenate([[0], np.cumsum(counts)])
    np.save(place / "offsets.npy", offsets)
    np.save(place / "item_ix.npy", rows["item_ix"].to_numpy().astype(np.int32))
    np.save(place / "ts.npy", rows["ts"].to_physical().to_numpy())
    np.save(place / "event.npy", rows["event"].to_numpy())
    users.write_parquet(place / "users.parquet")
    items.write_parquet(place / "items.parquet")
    shapes[name] = [len(users), len(items), len(rows), int(offsets[1:].sum() % 2**31)]
    del rows, counts, offsets
    mark(f"{name} histories")
print(
    json.dumps(
        {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu,
            "cpu_by_step": marks,
            "rows": row["len"],
            **shapes,
        }
    )
)
