"""One model on a synthetic world with feedback and impressions: share of the best possible.

python argus_world.py '{"kind": "ARGUS", "params": {...}}'
"""

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import torch

from vitrina.ann import Jagged
from vitrina.candidates import CANDIDATES
from vitrina.datasets import World
from vitrina.log import Histories

AT = 0.9
"""Share of the world's days that training sees; it is asked about the event after that."""
N_ASKED = 500
DAY_S = 86_400


def log_of(folder: Path) -> pl.DataFrame:
    """Takes with what people made of them, and what they were shown beside them.

    Feedback: "like" and "dislike" where one is given at once or later before the cut, else "full" for a play
    of at least half, else "skip". "impression": shown by the feed, not taken.
    """
    events = pl.read_parquet(folder / "events.parquet")
    key = ["user_id", "item_id"]
    takes = events.filter(pl.col("event") == "take")
    said = (
        events.filter(pl.col("event").is_in(["like", "dislike"]))
        .select(*key, said_ts="ts", said="event")
        .sort("said_ts")
    )
    takes = takes.sort("ts").join_asof(
        said,
        left_on="ts",
        right_on="said_ts",
        by=key,
        strategy="forward",
        tolerance="1h",
        check_sortedness=False,
    )
    played = pl.when(pl.col("value") >= 0.5).then(pl.lit("full")).otherwise(pl.lit("skip"))
    takes = takes.select(*key, "ts", event=pl.coalesce("said", played))
    shown = pl.read_parquet(folder / "impressions.parquet").filter(~pl.col("taken"))
    return pl.concat([takes, shown.select(*key, "ts", event=pl.lit("impression"))])


def main() -> None:
    asked = json.loads(sys.argv[1])
    torch.set_num_threads(int(asked.get("threads", 1)))
    world = World(**asked.get("world", {}))
    with tempfile.TemporaryDirectory() as folder:
        world.write(folder)
        frame = log_of(Path(folder))
    start = frame["ts"].min().replace(hour=0, minute=0, second=0, microsecond=0)
    at_s = AT * world.days * DAY_S
    before = frame.filter(((pl.col("ts") - start).dt.total_microseconds() / 1e6) < at_s)
    n_shown = before.filter(pl.col("event") == "impression").height
    if asked["kind"] != "ARGUS":
        before = before.filter(pl.col("event") != "impression")
    train = Histories.from_frame(before)
    began, cpu = time.perf_counter(), time.process_time()
    model = CANDIDATES[asked["kind"]](**asked.get("params", {})).fit(train)
    fit_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
    takes = before.filter(pl.col("event") != "impression")
    users = takes["user_id"].unique().sort().to_numpy()
    users = np.sort(np.random.default_rng(0).permutation(users)[:N_ASKED])
    queries = train.of(pl.Series(users))
    found = {"seconds": fit_s, "cpu_seconds": cpu_s, "n_events": takes.height, "n_impressions": n_shown}
    for target in ("any", "new"):
        exclude = None
        if target == "new":
            exclude = _taken(queries)
        lists = model.retrieve(queries, k=100, exclude=exclude)
        rows = pl.DataFrame(
            {
                "query_id": np.repeat(users, 100),
                "item_id": train.items.take(lists.item_ix.ravel()),
                "rank": np.tile(np.arange(1, 101), len(users)),
            }
        ).drop_nulls()
        if not rows.height:
            continue
        scored = world.expected(rows, at_s, ks=(10, 100), target=target)
        for k in (10, 100):
            one = scored.filter(pl.col("k") == k)
            for metric in ("recall", "ndcg"):
                share = one[metric].mean() / one[f"best_{metric}"].mean()
                found[f"{target}_{metric}@{k}"] = one[metric].mean()
                found[f"{target}_{metric}@{k}_share"] = share
    print(json.dumps(found))


def _taken(queries: Histories) -> Jagged:
    shown = [code for code, name in enumerate(queries.event_names) if name == "impression"]
    taken = queries.only(~np.isin(queries.event, shown))
    return Jagged(taken.offsets, taken.item_ix)


if __name__ == "__main__":
    main()
