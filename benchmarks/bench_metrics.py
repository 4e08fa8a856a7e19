"""NDCG@10, Recall@100, MAP@10, Coverage@10 of top-100 lists for 100 k users: ours, RecTools, RePlay, ranx.

Each library times itself on its natural input; the first call, which may compile, is apart.
"""

import os
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.harness import OURS, WORK, Measured, Row, in_turn, median, peer_python, record, run

N_USERS, N_ITEMS, K, MEAN_TARGETS = 100_000, 20_000, 100, 10
SCRIPT = "benchmarks/scripts/metrics_run.py"
TITLES = {"rectools": "RecTools", "replay": "RePlay (polars)", "ranx": "ranx"}


def lists_file() -> Path:
    """Distinct items and about 10 targets a user, both drawn by a popularity of 1 / (rank + 10)."""
    path = WORK / "metrics_100k.npz"
    if path.exists():
        return path
    rng = np.random.default_rng(0)
    p = 1.0 / (np.arange(N_ITEMS) + 10)
    up_to = np.cumsum(p / p.sum())
    lists = np.empty((N_USERS, K), dtype=np.int32)
    targets = []
    for user in range(N_USERS):
        distinct = np.empty(0, dtype=np.int64)
        while len(distinct) < K + 40:
            drawn = np.concatenate([distinct, np.searchsorted(up_to, rng.random(200))])
            distinct = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
        lists[user] = distinct[:K]
        own = np.searchsorted(up_to, rng.random(1 + rng.poisson(MEAN_TARGETS - 1)))
        targets.append(np.unique(own).astype(np.int32))
    offsets = np.concatenate([[0], np.cumsum([len(t) for t in targets])]).astype(np.int64)
    WORK.mkdir(exist_ok=True)
    np.savez(path, lists=lists, offsets=offsets, truth=np.concatenate(targets), n_items=N_ITEMS)
    return path


def check_equal(runs: dict[str, list[Measured]]) -> dict[str, dict[str, float]]:
    """Values of every library; where the definitions are one, they must agree to 1e-9."""
    values = {name: of[0].printed["values"] for name, of in runs.items()}
    divides_by_all_targets = {"rectools": {"map@10"}, "ranx": {"map@10"}}
    for name, found in values.items():
        for metric, value in found.items():
            if metric not in divides_by_all_targets.get(name, set()):
                assert abs(value - values["ours"][metric]) < 1e-9, (name, metric, value)
    return values


def main() -> None:
    """Measure all in turn and record a row for each peer."""
    path = str(lists_file())
    pythons = {"ours": OURS, "ours_frame": OURS} | {name: peer_python(name) for name in TITLES}
    runs = in_turn({name: [python, SCRIPT, name, path] for name, python in pythons.items()}, repeats=3)
    with tempfile.TemporaryDirectory() as fresh:
        os.environ["NUMBA_CACHE_DIR"] = fresh
        compiling = run([OURS, SCRIPT, "ours", path]).printed["first_seconds"]
        del os.environ["NUMBA_CACHE_DIR"]
    values = check_equal(runs)
    seconds = {name: median(of, "seconds") for name, of in runs.items()}
    fastest = min(TITLES, key=lambda name: seconds[name])
    for name, title in TITLES.items():
        record(
            Row(
                name="metrics",
                what=f"ndcg, recall, map, coverage: {N_USERS // 1000} k users x top-{K}",
                ours=seconds["ours"],
                peer=f"{title} {runs[name][0].printed['version']}"
                + (" (no coverage)" if name == "ranx" else ""),
                theirs=seconds[name],
                ratio=seconds["ours"] / seconds[name],
                unit="s",
                target="<= 0.1x" if name == "rectools" else "<= 0.5x" if name == fastest else "-",
                quality={"ours": values["ours"], "theirs": values[name]},
                extra={
                    "cpu_ratio": median(runs["ours"], "cpu_seconds") / median(runs[name], "cpu_seconds"),
                    "ours_from_a_long_frame_s": seconds["ours_frame"],
                    "ratio_from_a_long_frame": seconds["ours_frame"] / seconds[name],
                    "ours_first_call_s": median(runs["ours"], "first_seconds"),
                    "ours_first_call_compiling_s": compiling,
                    "theirs_first_call_s": median(runs[name], "first_seconds"),
                    "peak_mb": [median(runs[n], lambda one: one.peak_mb) for n in ("ours", name)],
                    "cpu_s_of_the_process": [median(runs[n], lambda one: one.cpu_s) for n in ("ours", name)],
                },
            )
        )


if __name__ == "__main__":
    main()
