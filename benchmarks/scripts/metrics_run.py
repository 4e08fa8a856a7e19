"""NDCG@10, Recall@100, MAP@10 and Coverage@10 by one library: metrics_run.py NAME FILE.npz.

The library gets its natural input, made outside the clock: arrays (ours), a long polars frame (ours_frame,
replay), a long pandas frame (rectools), Qrels and Run (ranx). Prints the first call, which may compile, and
the median of the following ones.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

MAX_CALLS, ENOUGH_S = 6, 10.0
"""The first call and at least one more; no further one after ten seconds."""
Values = dict[str, float]


def ours(data: dict[str, np.ndarray]) -> tuple[str, Callable[[], Values]]:
    import vitrina
    from vitrina.metrics import Context, TargetLists, compute

    names = ["ndcg@10", "recall@100", "map@10", "coverage@10"]
    truth, context = TargetLists(data["offsets"], data["truth"]), Context(n_items=int(data["n_items"]))
    return vitrina.__version__, lambda: compute(names, data["lists"], truth, context).values


def ours_frame(data: dict[str, np.ndarray]) -> tuple[str, Callable[[], Values]]:
    """From rows in any order to arrays, and then the same."""
    import polars as pl

    import vitrina
    from vitrina.metrics import Context, TargetLists, compute

    names = ["ndcg@10", "recall@100", "map@10", "coverage@10"]
    users, items, ranks = long(data)
    reco = pl.DataFrame({"user_ix": users, "item_ix": items, "rank": ranks})
    took = pl.DataFrame({"user_ix": truth_users(data), "item_ix": data["truth"]})
    context = Context(n_items=int(data["n_items"]))

    def measure() -> Values:
        n_users = took["user_ix"].n_unique()
        lists = np.full((n_users, int(reco["rank"].max())), -1, dtype=np.int32)
        lists[reco["user_ix"].to_numpy(), reco["rank"].to_numpy() - 1] = reco["item_ix"].to_numpy()
        rows = took.sort("user_ix")
        counts = np.bincount(rows["user_ix"].to_numpy(), minlength=n_users)
        offsets = np.concatenate([[0], np.cumsum(counts)])
        return compute(names, lists, TargetLists(offsets, rows["item_ix"].to_numpy()), context).values

    return vitrina.__version__, measure


def rectools(data: dict[str, np.ndarray]) -> tuple[str, Callable[[], Values]]:
    import importlib.metadata

    import pandas as pd
    from rectools.metrics import MAP, NDCG, CatalogCoverage, Recall, calc_metrics

    users, items, ranks = long(data)
    reco = pd.DataFrame({"user_id": users, "item_id": items, "rank": ranks})
    took = pd.DataFrame({"user_id": truth_users(data), "item_id": data["truth"]})
    catalogue = np.arange(int(data["n_items"]))
    metrics = {
        "ndcg@10": NDCG(10, divide_by_achievable=True),
        "recall@100": Recall(100),
        "map@10": MAP(10),
        "coverage@10": CatalogCoverage(10, normalize=True),
    }
    return importlib.metadata.version("rectools"), lambda: calc_metrics(
        metrics, reco, took, catalog=catalogue
    )


def replay(data: dict[str, np.ndarray]) -> tuple[str, Callable[[], Values]]:
    import importlib.metadata

    import polars as pl
    from replay.metrics import MAP, NDCG, Coverage, OfflineMetrics, Recall

    users, items, ranks = long(data)
    reco = pl.DataFrame({"query_id": users, "item_id": items, "rating": 1.0 / ranks})
    took = pl.DataFrame({"query_id": truth_users(data), "item_id": data["truth"]})
    n_items = int(data["n_items"])
    train = pl.DataFrame(
        {"query_id": np.zeros(n_items, np.int32), "item_id": np.arange(n_items, dtype=np.int32)}
    )
    metrics = OfflineMetrics([NDCG(10), Recall(100), MAP(10), Coverage(10)])

    def measure() -> Values:
        found = metrics(reco, took, train)
        return {name.lower(): float(value) for name, value in found.items()}

    return importlib.metadata.version("replay-rec"), measure


def ranx(data: dict[str, np.ndarray]) -> tuple[str, Callable[[], Values]]:
    import importlib.metadata

    from ranx import Qrels, Run, evaluate

    offsets, truth = data["offsets"].tolist(), data["truth"].astype(str)
    items, score = data["lists"].astype(str), (1.0 / np.arange(1, data["lists"].shape[1] + 1)).tolist()
    took = {str(u): dict.fromkeys(truth[offsets[u] : offsets[u + 1]].tolist(), 1) for u in range(len(items))}
    qrels = Qrels(took)
    run = Run({str(u): dict(zip(row.tolist(), score, strict=True)) for u, row in enumerate(items)})
    names = ["ndcg@10", "recall@100", "map@10"]  # it has no coverage
    return importlib.metadata.version("ranx"), lambda: evaluate(qrels, run, names)


def long(data: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User, item and rank of every place."""
    n_users, k = data["lists"].shape
    users = np.repeat(np.arange(n_users, dtype=np.int32), k)
    return users, data["lists"].ravel(), np.tile(np.arange(1, k + 1, dtype=np.int32), n_users)


def truth_users(data: dict[str, np.ndarray]) -> np.ndarray:
    """User of every target."""
    return np.repeat(np.arange(len(data["lists"]), dtype=np.int32), np.diff(data["offsets"]))


def main() -> None:
    name, path = sys.argv[1:]
    with np.load(path) as stored:
        data = dict(stored)
    version, measure = {f.__name__: f for f in (ours, ours_frame, rectools, replay, ranx)}[name](data)
    wall: list[float] = []
    cpu: list[float] = []
    while len(wall) < 2 or (len(wall) < MAX_CALLS and sum(wall) < ENOUGH_S):
        began, began_cpu = time.perf_counter(), time.process_time()
        values = measure()
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
    figures = {"version": version, "first_seconds": wall[0], "seconds": statistics.median(wall[1:])}
    figures["cpu_seconds"] = statistics.median(cpu[1:])
    print(json.dumps(figures | {"values": {key: float(value) for key, value in values.items()}}))


if __name__ == "__main__":
    main()
