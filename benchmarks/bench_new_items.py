"""Recall on items that nobody had taken before the cut: TwoTower, words alone, chance; see the script."""

import json

import numpy as np

from benchmarks.harness import HERE, OURS, Row, record, run
from vitrina.metrics.intervals import bootstrap, paired_bootstrap
from vitrina.metrics.measure import Measured

SEEDS = (0, 1, 2)
PARAMS = {"embedding_dim": 32, "max_len": 50, "n_epochs": 4, "lr": 3e-3, "p_no_id": 0.5}
"""Chosen on the rows before the cut."""
DISCOUNTED = {"correction": "none", "negatives": "in_batch"}
"""In-batch negatives without correction: what is popular is drawn often and learns to score lower."""
MODELS = {
    "TwoTower": ("TwoTower", {}, SEEDS),
    "TwoTower, popularity discounted": ("TwoTower", DISCOUNTED, SEEDS),
    "TwoTower without metadata": ("TwoTower without metadata", {}, SEEDS),
    "ContentKNN": ("ContentKNN", {}, (0,)),
    "Random": ("Random", {}, SEEDS),
}
MAIN = "among new@50"


def main() -> None:
    for data in ("movietweetings-100k", "amazon-beauty"):
        one(data)


def one(data: str) -> None:
    """All models on one log."""
    recall: dict[str, dict[str, np.ndarray]] = {}
    about: dict[str, int] = {}
    for label, (name, more, seeds) in MODELS.items():
        params = json.dumps(PARAMS | more)
        runs = []
        for seed in seeds:
            argv = [OURS, str(HERE / "scripts" / "new_items_run.py"), data, name, str(seed), params, "test"]
            printed = run(argv, threads=1).printed
            runs.append(printed["recall"])
            about = {what: n for what, n in printed.items() if what not in ("recall", "fit_s")}
            means = {task: round(float(np.mean(values)), 4) for task, values in printed["recall"].items()}
            print(f"   {data} {label} {seed}: {means}, fit {printed['fit_s']} s", flush=True)
        recall[label] = {task: np.mean([one[task] for one in runs], axis=0) for task in runs[0]}
    measured = {label: _measured(values) for label, values in recall.items()}
    found = {label: bootstrap(values) for label, values in measured.items()}
    told = {
        label: {
            task: [round(float(number[at]), 4) for number in (one.value, one.low, one.high)]
            for at, task in enumerate(one.names)
        }
        for label, one in found.items()
    }
    differences = {}
    for label in list(MODELS)[:2]:
        compared = paired_bootstrap(measured[label], measured["ContentKNN"])
        differences[label] = {
            task: [
                round(float(number[at]), 4) for number in (compared.difference, compared.low, compared.high)
            ]
            for at, task in enumerate(compared.names)
        }
    ours, theirs = told["TwoTower"][MAIN][0], told["ContentKNN"][MAIN][0]
    record(
        Row(
            name="new_items",
            what=f"{data}: recall@50 of items first taken after the cut, ranked among new items",
            ours=ours,
            peer="ContentKNN",
            theirs=theirs,
            ratio=ours / theirs,
            unit="recall@50",
            target="> chance and > content alone",
            quality={"chance": told["Random"][MAIN][0], "over content": str(differences["TwoTower"][MAIN])},
            extra={"models": told, "over ContentKNN": differences, "about": about, "seeds": len(SEEDS)},
        )
    )


def _measured(recall: dict[str, np.ndarray]) -> Measured:
    """Recall of each person, by task, as the intervals want it."""
    values = np.column_stack([*recall.values()])
    return Measured(tuple(recall), values, np.ones_like(values), {}, np.ones(len(values), bool))


if __name__ == "__main__":
    main()
