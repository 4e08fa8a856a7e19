"""One kind of index beside exact search, in one process: `ann_run.py DATA KIND`; prints one JSON object.

Exact search is `top_k_products`, what `ExactIndex` uses. Queries asked one at a time give the latency of a
server; 2,000 at once, in two threads, give the throughput of making lists for everybody. The two take turns,
and the median of the turns counts. Recall is measured on queries that the build did not tune itself on.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from benchmarks.scripts.ann_data import vectors

from vitrina.ann import FaissIndex, TopK, top_k_products

K, TURNS, ONE_BY_ONE = 100, 3, 300


def cpu_and_wall(work: Callable[[], object]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def timed(search: Callable[[np.ndarray], TopK], query_QD: np.ndarray) -> dict[str, float]:
    """Milliseconds a query: one at a time (median, 99th percentile, CPU), and in one batch (wall, CPU)."""
    each = [cpu_and_wall(lambda b=b: search(query_QD[b : b + 1])) for b in range(ONE_BY_ONE)]
    batch_cpu, batch_wall = cpu_and_wall(lambda: search(query_QD))
    n = len(query_QD)
    return {
        "p50_ms": float(np.median([wall for _, wall in each])) * 1e3,
        "p99_ms": float(np.percentile([wall for _, wall in each], 99)) * 1e3,
        "cpu_ms": sum(cpu for cpu, _ in each) / ONE_BY_ONE * 1e3,
        "batch_ms": batch_wall / n * 1e3,
        "batch_cpu_ms": batch_cpu / n * 1e3,
    }


def one_by_one(search: Callable[[np.ndarray], TopK], query_QD: np.ndarray) -> float:
    """Median milliseconds of 100 queries."""
    each = [cpu_and_wall(lambda b=b: search(query_QD[b : b + 1]))[1] for b in range(100)]
    return round(float(np.median(each)) * 1e3, 3)


def share_found(found: TopK, best: TopK) -> float:
    """Recall@K; an item that ties with the last exact one counts, up to rounding."""
    last = best.score[:, -1:]
    return float((found.score >= last - 1e-6 * np.abs(last)).mean())


def medians(turns: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(float(np.median([turn[name] for turn in turns])), 4) for name in turns[0]}


def extras(index: FaissIndex, item_ID: np.ndarray, query_QD: np.ndarray) -> dict[str, object]:
    """Filters, additions, the cost of a delta, folders."""
    rng, told = np.random.default_rng(0), {}
    asked = query_QD[:300]
    for share in (0.5, 0.1, 0.01):
        allowed = rng.random(len(item_ID)) < share
        best = top_k_products(asked, item_ID, k=K, allowed=allowed)
        recall = share_found(index.search(asked, k=K, allowed=allowed), best)
        p50_ms = one_by_one(lambda query_BD, mask=allowed: index.search(query_BD, k=K, allowed=mask), asked)
        told[f"allowed {share:g}"] = {"p50_ms": p50_ms, "recall": round(recall, 4)}
    with TemporaryDirectory() as folder:
        told["save_s"] = round(cpu_and_wall(lambda: index.save(Path(folder) / "index"))[1], 2)
        told["files_mb"] = {
            file.name: round(file.stat().st_size / 1e6, 1)
            for file in Path(folder).rglob("*.*")
            if file.stat().st_size > 1e6
        }
        told["open_ms"] = round(
            cpu_and_wall(lambda: FaissIndex.load(Path(folder) / "index", verify=False))[1] * 1e3, 1
        )
        told["open_verified_ms"] = round(
            cpu_and_wall(lambda: FaissIndex.load(Path(folder) / "index"))[1] * 1e3, 1
        )
    names, new = np.arange(len(item_ID), len(item_ID) + 10_000), rng.permutation(item_ID)[:10_000]
    singly = cpu_and_wall(lambda: [index.add(names[i : i + 1], new[i : i + 1]) for i in range(1_000)])[1]
    steps = range(1_000, 10_000, 100)
    hundreds = cpu_and_wall(lambda: [index.add(names[i : i + 100], new[i : i + 100]) for i in steps])[1]
    told["added_per_s"] = {"singly": round(1_000 / singly), "in hundreds": round(9_000 / hundreds)}
    told["p50_ms with a delta of 10,000"] = one_by_one(lambda query_BD: index.search(query_BD, k=K), asked)
    return told


def main() -> None:
    name, kind = sys.argv[1:3]
    item_ID, queries = vectors(name)
    tuning_QD, query_QD = queries[2_000:], queries[:2_000]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    index = FaissIndex(kind=kind)
    build_cpu, build_wall = cpu_and_wall(lambda: index.build(item_ID, queries=tuning_QD))
    build_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    ways = {
        "exact": lambda query_BD: top_k_products(query_BD, item_ID, k=K),
        "index": lambda query_BD: index.search(query_BD, k=K),
    }
    for search in ways.values():
        search(query_QD[:300])
        search(query_QD[:1])
    turns: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(TURNS):
        for way, search in ways.items():
            turns[way].append(timed(search, query_QD))
    recall = share_found(ways["index"](query_QD), ways["exact"](query_QD))
    effort = index.effort_
    printed = {
        "recall": round(recall, 4),
        "exact": medians(turns["exact"]),
        "index": medians(turns["index"]),
        "effort": None if effort is None else {"width": effort.width, "overfetch": effort.overfetch},
        "gate": None if index.recall_ is None else round(index.recall_.mean, 4),
        "build": {
            "cpu_s": round(build_cpu, 1),
            "wall_s": round(build_wall, 1),
            "peak_mb_more": round(build_mb),
        },
    }
    if name == "clustered":
        printed["extras"] = extras(index, item_ID, query_QD)
    print(json.dumps(printed))


if __name__ == "__main__":
    main()
