"""Train one model on one real log and keep its values per user; a killed run goes on where it was.

    python -m benchmarks.scripts.sequence_run '{"data": "ml1m_loo", "kind": "Ease", "params": {}, "seed": 0}'

    ml1m_loo      MovieLens 1M, users and items of five ratings or more (3,416 items), rows of equal time
                  in the order of the file, the last row of each user held out, seen items hidden
    beauty_loo    Amazon Beauty 5-core, rows of one day in an order drawn by a hash
    *_time        the same logs and Online Retail under a global temporal split
    retail_tune   Online Retail without its test part, the last 30 days of the rest held out: what parameters
                  of the models were chosen on

Results lie under .bench/sequences/<hash of what was asked>.json and .parquet.
"""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from benchmarks.harness import LOCAL, WORK

from vitrina import split
from vitrina.ann import PAD
from vitrina.candidates import CANDIDATES, MostPop
from vitrina.datasets import load
from vitrina.evaluate import Evaluator, Protocol
from vitrina.evaluate.popularity import popularity_groups
from vitrina.log import Catalogue, EventLog
from vitrina.metrics import NDCG, Recall
from vitrina.nn.session import session
from vitrina.pipeline import Pipeline, Source
from vitrina.schema import IntArray

OUT = WORK / "sequences"
METRICS = ("NDCG@10", "Recall@10", "Recall@100", "Coverage@10", "Gini@10")
DELAYS = {
    "ndcg@10|taken within: 30 days": 30,
    "ndcg@10|taken within: 180 days": 180,
    "ndcg@10|taken within: longer": 10_000,
}
"""Days, at most, from the cut to a held-out row; told of logs that are held out for longer than 180."""


def five_core_once(frame: pl.DataFrame) -> pl.DataFrame:
    """Users and items with five rows or more, counted on the raw data."""
    return frame.filter(pl.len().over("user_id") >= 5, pl.len().over("item_id") >= 5)


def ml1m(*, five: bool) -> pl.DataFrame:
    """Ratings; rows of equal time follow one another by a microsecond in the order of the file."""
    columns = ["user_id", "item_id", "rating", "seconds"]
    text = (LOCAL / "ml-1m" / "ratings.dat").read_text(encoding="latin-1").replace("::", "\t")
    frame = pl.read_csv(text.encode(), separator="\t", has_header=False, new_columns=columns)
    frame = five_core_once(frame) if five else frame
    tie = pl.int_range(pl.len()).over("user_id", "seconds")
    ts = (pl.col("seconds") * 1_000_000 + tie).cast(pl.Datetime("us", "UTC"))
    return frame.select("user_id", "item_id", ts.alias("ts"))


def beauty() -> pl.DataFrame:
    frame = pl.read_csv(LOCAL / "amazon-beauty-5core" / "interactions_derived.tsv", separator="\t")
    ts = (pl.col("timestamp") * 1_000_000).cast(pl.Datetime("us", "UTC"))
    return frame.select("user_id", pl.col("item_asin").alias("item_id"), ts.alias("ts"))


def split_of(data: str) -> tuple[split.Split, str]:
    """The split and whether repeats count."""
    match data:
        case "ml1m_loo":
            return split.leave_one_out(EventLog.from_frame(ml1m(five=True))), "new_only"
        case "beauty_loo":
            return split.leave_one_out(EventLog.from_frame(beauty())), "new_only"
        case "ml1m_time":
            return split.by_quantile(EventLog.from_frame(ml1m(five=False)), 0.9), "new_only"
        case "beauty_time":
            return split.by_quantile(EventLog.from_frame(beauty()), 0.9), "new_only"
        case "retail_time":
            return split.last_days(load("online-retail").log, 30), "count"
        case "retail_tune":
            return split.last_days(split.last_days(load("online-retail").log, 30).train, 30), "count"
    raise SystemExit(f"no data {data!r}")


def key_of(asked: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def main(asked: dict[str, Any]) -> dict[str, Any]:
    OUT.mkdir(parents=True, exist_ok=True)
    target = OUT / f"{key_of(asked)}.json"
    if target.exists():
        return json.loads(target.read_text())
    cut, view = split_of(asked["data"])
    train = cut.train.histories()
    generator = CANDIDATES[asked["kind"]](**asked["params"])
    if "seed" in generator.params():
        generator = generator.clone(seed=asked["seed"])
    began, cpu = time.perf_counter(), time.process_time()
    line = {"asked": asked}
    with session(folder=OUT / f"{key_of(asked)}.checkpoint", heard=lambda text: print(text, flush=True)):
        generator.fit(train)
    fit_s, fit_cpu_s = time.perf_counter() - began, time.process_time() - cpu
    pipeline = Pipeline(sources=[Source(generator=generator, k=100)], fallback=MostPop().fit(train))
    pipeline = pipeline.bind(Catalogue.of(train), int(train.ts.max()))
    for repeats in [view] if view == "new_only" else ["count", "new_only"]:
        evaluator = Evaluator(
            split=cut, train=train, protocol=Protocol(k=100, repeats=repeats, metrics=METRICS)
        )
        lists = OUT / f"{key_of(asked)}.lists.parquet"
        run = evaluator.run(asked["kind"], pipeline, fit_s=fit_s, lists_path=lists)
        list_UK = lists_of(evaluator, lists)
        values = run.values.hstack(by_popularity(evaluator, list_UK)).hstack(by_delay(evaluator, list_UK))
        lists.unlink()
        values.write_parquet(OUT / f"{key_of(asked)}.{repeats}.parquet")
        line[repeats] = {"n_users": len(values), **run.lists, "notes": list(run.notes)}
    line |= {"n_items": train.n_items, "n_train": train.n_rows, "split": cut.digest}
    line |= {"fit_s": fit_s, "fit_cpu_s": fit_cpu_s}
    if "curve_" in vars(generator):
        line["curve"] = generator.curve_.to_dicts()
    target.write_text(json.dumps(line, indent=1, default=str))
    return line


def lists_of(evaluator: Evaluator, lists: Path) -> IntArray:
    """What each user of the truth was shown, (U, K)."""
    shown = pl.read_parquet(lists)
    list_UK = np.full((len(evaluator.truth), evaluator.protocol.k), PAD, np.int32)
    row, rank = evaluator.truth.user_ids.ix(shown["query_id"]), shown["rank"].to_numpy()
    list_UK[row, rank - 1] = evaluator.train.items.ix(shown["item_id"])
    return list_UK


def by_popularity(evaluator: Evaluator, list_UK: IntArray) -> pl.DataFrame:
    """Recall and NDCG of each user's targets among head, middle and tail: a third of the rows each."""
    truth = evaluator.truth
    group_T = np.full(truth.n_targets, -1)
    group_T[~truth.is_cold_item] = popularity_groups(evaluator.n_train)[truth.item_ix[~truth.is_cold_item]]
    found = {}
    for at, name in enumerate(("head", "middle", "tail")):
        part = truth.only(group_T == at).jagged
        for metric in (NDCG(10), Recall(10), Recall(100)):
            found[f"{metric.name}|{name}"] = metric.per_user(list_UK, part)
    return pl.DataFrame(found)


def by_delay(evaluator: Evaluator, list_UK: IntArray) -> pl.DataFrame:
    """NDCG of each user's targets by how long after the cut they were first taken."""
    truth, rows = evaluator.truth, evaluator.split.test.frame
    taken = rows.group_by("user_id", "item_id").agg(ts=pl.col("ts").min()).collect()
    ids = pl.concat([truth.items.values, truth.cold_items.values])
    targets = pl.DataFrame(
        {
            "user_id": truth.user_ids.values.gather(np.repeat(np.arange(len(truth)), truth.lengths)),
            "item_id": ids.gather(truth.item_ix),
        }
    )
    targets = targets.join(taken, on=["user_id", "item_id"], how="left", maintain_order="left")
    days_T = ((targets["ts"] - taken["ts"].min()).dt.total_seconds() / 86_400).to_numpy()
    if days_T.max() <= 180:
        return pl.DataFrame()
    found, low = {}, -1.0
    for name, high in DELAYS.items():
        part = truth.only((days_T > low) & (days_T <= high)).jagged
        found[name] = NDCG(10).per_user(list_UK, part)
        low = high
    return pl.DataFrame(found)


if __name__ == "__main__":
    found = main(json.loads(sys.argv[1]))
    print(json.dumps({k: v for k, v in found.items() if k != "curve"}, default=str))
