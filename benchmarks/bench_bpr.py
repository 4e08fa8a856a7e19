"""BPR against Cornac and implicit on MovieLens 1M, 64 factors: time at the best quality either reaches.

A grid over step size, regularisation and epochs (read on the test part, for all alike) found Cornac at 0.095
NDCG@10 after 200 epochs and implicit below 0.07 anywhere, since it draws negatives by popularity. Ours runs
with its defaults, on one thread; the peers have two.
"""

import json
from typing import Any

from benchmarks import data
from benchmarks.harness import OURS, Row, in_turn, median, peer_python, record

SCRIPT = "benchmarks/scripts/factors_run.py"
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "cornac": ("Cornac 3.0.1", {"k": 64, "max_iter": 200, "learning_rate": 0.02, "lambda_reg": 0.01}),
    "implicit": (
        "implicit 0.7.3",
        {"factors": 64, "iterations": 50, "learning_rate": 0.05, "regularization": 0.03},
    ),
}
OUR_PARAMS: dict[str, dict[str, Any]] = {"equal or better NDCG@10": {}}
FIGURES = ("seconds", "cpu_seconds", "lists_cpu_seconds", "peak_mb", "ndcg@10", "recall@100")


def main() -> None:
    """Run all in turn and record ours against each peer."""
    data.ml1m()

    def argv(python: str, library: str, params: dict[str, Any]) -> list[str]:
        asked = {"library": library, "model": "bpr", "data": "ml1m", "params": params}
        return [python, SCRIPT, json.dumps(asked)]

    commands = {what: argv(OURS, "ours", params) for what, params in OUR_PARAMS.items()}
    commands |= {name: argv(peer_python(name), name, params) for name, (_, params) in PEERS.items()}
    runs = in_turn(commands, repeats=3)
    found = {name: {of: median(run, of) for of in FIGURES} for name, run in runs.items()}
    for what, our_params in OUR_PARAMS.items():
        for name, (version, params) in PEERS.items():
            ours, theirs = found[what], found[name]
            both = (("ours", ours), (name, theirs))
            record(
                Row(
                    name="bpr",
                    what=f"ml1m: {what}",
                    ours=ours["cpu_seconds"],
                    peer=version,
                    theirs=theirs["cpu_seconds"],
                    ratio=ours["cpu_seconds"] / theirs["cpu_seconds"],
                    unit="CPU s",
                    target="<= 1.0x",
                    quality={side: {of: m[of] for of in FIGURES[-2:]} for side, m in both},
                    extra={
                        "wall_s": {side: m["seconds"] for side, m in both},
                        "wall_ratio": round(ours["seconds"] / theirs["seconds"], 3),
                        "lists_cpu_s": {side: m["lists_cpu_seconds"] for side, m in both},
                        "peak_mb": {side: m["peak_mb"] for side, m in both},
                        "params": {"ours": our_params, name: params},
                    },
                )
            )
