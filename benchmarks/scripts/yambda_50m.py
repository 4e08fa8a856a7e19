"""Raw Parquet in Yambda's layout -> leaderboard of the classical models under that benchmark's protocol.

    python benchmarks/scripts/yambda_50m.py FOLDER WORK

Prints a line a model while it runs; the last line is the JSON that the harness reads.
"""

import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path

import polars as pl

from vitrina import datasets, split
from vitrina.candidates import CANDIDATES
from vitrina.evaluate import Evaluation, Evaluator, Protocol
from vitrina.log import Catalogue
from vitrina.pipeline import Pipeline, Source

MODELS = {
    "Random": {},
    "MostPop": {"by": "events"},
    "DecayPop": {"hours": 12.0},
    "PopularLastDays": {"days": 1.0},
    "OwnHistory": {},
    "ItemKNN": {"n_neighbors": 100, "weighting": "bm25", "max_len": 1000},
    "DecayedItemKNN": {"hours": 0.5},
    "DualEase": {"reg": 500.0},
    "SANSA": {"n_neighbors": 20, "max_len": 1000},
    "ImplicitALS": {"embedding_dim": 64},
    "BPR": {"embedding_dim": 64},
}
"""Defaults where nothing is said: this measures time and memory, not the best each model can reach."""


def peak_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def step(what: str, since: float) -> float:
    now = time.perf_counter()
    print(f"{what:<16} {now - since:7.1f} s, peak {peak_gb():.2f} GB", flush=True)
    return now


def main(folder: str, work: str) -> None:
    began = clock = time.perf_counter()
    log = datasets.yambda(folder, size="50m", part="listens", listen_plus=True, on_mismatch="ignore").log
    cut = split.last_days(log, 1, gap_days=1800 / 86400)
    shutil.rmtree(work, ignore_errors=True)
    train = cut.train.histories(Path(work) / "train")
    clock = step("histories", clock)
    evaluator = Evaluator(split=cut, train=train, protocol=Protocol.yambda())
    clock = step("truth", clock)
    runs, failed = [], {}
    catalogue = Catalogue.of(train)
    until = int(train.ts.max())
    for name, params in MODELS.items():
        if name not in CANDIDATES:
            failed[name] = "not in this version"
            continue
        generator = CANDIDATES[name](**params).fit(train)
        fit_s = time.perf_counter() - clock
        pipeline = Pipeline(sources=[Source(generator=generator, k=100)]).bind(catalogue, until)
        runs.append(evaluator.run(name, pipeline, fit_s=fit_s))
        clock = step(f"{name} ({fit_s:.0f} s fit)", clock)
        del pipeline, generator
    board = Evaluation.of(evaluator, runs).leaderboard()
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=160):
        print(board.select("model", "metric", "k", "mean", "ci_low", "ci_high", "n_users"))
    ndcg = board.filter((pl.col("metric") == "ndcg") & (pl.col("k") == 100))
    quality = {model: round(mean, 5) for model, mean in ndcg.select("model", "mean").iter_rows()}
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - began,
                "cpu_seconds": sum(os.times()[:2]),
                "n_train": train.n_rows,
                "n_users": len(train),
                "n_items": train.n_items,
                "ndcg@100": quality,
                "left_out": failed,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
