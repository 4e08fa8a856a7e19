"""Train one next-item model in a session that watches norms, and diagnose its vectors.

    python benchmarks/scripts/popularity_run.py '{"data": "ml100k", "params": {"tied": false}, "seed": 0}'

    ml100k    MovieLens 100K: 943 users, 1,682 items, rows of equal time in the order of the file
    beauty    Amazon Beauty 5-core: 22,363 users, 12,101 items, rows of one day in an order drawn from seed 0

The last row of each user is held out, seen items are hidden. The catalogue is that of the whole log, so items
that only held-out rows name are there without a training row.
"""

import json
import math
import sys
import time
from dataclasses import asdict

import polars as pl
from benchmarks.scripts.sequence_run import LOCAL, beauty

from vitrina import split
from vitrina.candidates.sasrec import SASRec
from vitrina.evaluate.vectors import popularity_of
from vitrina.ids import Ids
from vitrina.log import Catalogue, EventLog, Histories
from vitrina.nn.session import session
from vitrina.pipeline import Pipeline, Source
from vitrina.policies import Unseen
from vitrina.split import Truth


def ml100k() -> pl.DataFrame:
    names = ["user_id", "item_id", "rating", "seconds"]
    file = LOCAL / "ml-100k" / "u.data"
    frame = pl.read_csv(file, separator="\t", has_header=False, new_columns=names)
    tie = pl.int_range(pl.len()).over("user_id", "seconds")
    ts = (pl.col("seconds") * 1_000_000 + tie).cast(pl.Datetime("us", "UTC"))
    return frame.select("user_id", "item_id", ts.alias("ts"))


FRAMES = {"ml100k": ml100k, "beauty": beauty}


def histories_of(frame: pl.DataFrame) -> tuple[Histories, Truth]:
    """Training histories over the items of the whole log, and what each user took last."""
    cut = split.leave_one_out(EventLog.from_frame(frame))
    train = cut.train.histories().reindex(Ids(frame["item_id"]))
    return train, Truth.of(cut.test, train)


def main() -> None:
    asked = json.loads(sys.argv[1])
    train, truth = histories_of(FRAMES[asked["data"]]())
    model = SASRec(**asked["params"], seed=asked["seed"])
    began, cpu = time.perf_counter(), time.process_time()
    with session(norms=True, heard=lambda line: print(line, file=sys.stderr, flush=True)):
        model.fit(train)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    pipeline = Pipeline(sources=[Source(generator=model, k=10)], policies=[Unseen()])
    pipeline.bind(Catalogue.of(train), int(train.ts.max()))
    found = popularity_of(pipeline, train, truth, now=None)
    assert found is not None
    printed = asdict(found) | {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "loss": model.curve_["loss"][-1],
    }
    print(json.dumps(plain(printed)))


def plain(value: object) -> object:
    """NaN as null, numbers to six digits."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float):
        return None if math.isnan(value) else float(f"{value:.6g}")
    return value


if __name__ == "__main__":
    main()
