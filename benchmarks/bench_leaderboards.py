"""Leaderboards on real logs under a global temporal split: tuned on a validation window, measured once.

`make bench NAME=leaderboards` runs all; `python -m benchmarks.bench_leaderboards ml-1m` runs one. The rows go
to benchmarks/leaderboards.json and docs/leaderboards.md is written from them. Data that may not ship is read
from $VITRINA_DATA, or from the folder shared/data beside the repository; where it is missing, its rows stay.
"""

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks import harness
from vitrina.recipes import evaluate_run, tune_run
from vitrina.recipes.config import (
    DataConfig,
    EvaluateConfig,
    FallbackConfig,
    ModelConfig,
    PipelineConfig,
    RunConfig,
    SourceConfig,
    SplitConfig,
    TuneConfig,
)
from vitrina.recipes.models import classical_models
from vitrina.recipes.toml import load

ROWS = harness.HERE / "leaderboards.json"
PAGE = harness.ROOT / "docs" / "leaderboards.md"
COLUMNS = (("ndcg", 10), ("recall", 10), ("recall", 100), ("mrr", 10), ("coverage", 10))
N_TRIALS, MINUTES = 10, 0.5
FALLBACK = FallbackConfig(kind="DecayPop", params={"hours": 51.0})
"""Answers new users and fills short lists for every model alike; half-life 14 days."""


def local(dataset: str, folder: str) -> DataConfig:
    return DataConfig(dataset=dataset, folder=str(harness.LOCAL / folder))


DATA: dict[str, tuple[DataConfig, SplitConfig, list[str]]] = {
    "online-retail": (DataConfig(dataset="online-retail"), SplitConfig(last_days=30), ["count", "new_only"]),
    "movietweetings-100k": (
        DataConfig(dataset="movietweetings-100k"),
        SplitConfig(last_days=30),
        ["new_only"],
    ),
    "ml-100k": (local("movielens", "ml-100k"), SplitConfig(quantile=0.9), ["new_only"]),
    "ml-1m": (
        local("movielens", "ml-1m"),
        SplitConfig(quantile=0.9, validation_days=30),
        ["new_only"],
    ),
    "amazon-beauty": (
        local("amazon-beauty-derived", "amazon-beauty-5core"),
        SplitConfig(quantile=0.9),
        ["new_only"],
    ),
}
"""Data, split and views; where nobody takes an item twice only new items are asked for."""


def models(views: list[str]) -> list[ModelConfig]:
    """The classical models, and merged pipelines that use what the simple ones know."""
    ease, recent = SourceConfig(kind="Ease"), SourceConfig(kind="PopularLastDays")
    merged = [ModelConfig(name="PopularLastDays + Ease", sources=[recent, ease])]
    if "count" in views:
        own = SourceConfig(kind="OwnHistory", weight=2.0)
        merged.append(ModelConfig(name="OwnHistory + Ease", sources=[own, ease]))
    return [*classical_models(), ModelConfig(kind="DecayedItemKNN"), *merged]


def run(name: str) -> dict[str, Any]:
    data, split, views = DATA[name]
    config = RunConfig(
        data=data,
        split=split,
        models=models(views),
        evaluate=EvaluateConfig(repeats=views, n_seeds=1, keep_models=False),
        pipeline=PipelineConfig(fallback=FALLBACK),
        tune=TuneConfig(n_trials=N_TRIALS, minutes=MINUTES, metric="ndcg@10"),
        out=str(harness.WORK / "leaderboards" / name),
    )
    tuned = tune_run(config)
    result = evaluate_run(load(tuned.config_file))
    summary = result.summary()
    wanted = pl.struct("metric", "k").map_elements(
        lambda row: (row["metric"], row["k"]) in COLUMNS, pl.Boolean
    )
    return {
        "dataset": name,
        "date": datetime.date.today().isoformat(),
        "split": summary["split"],
        "views": {
            view: {key: one[key] for key in ("counts", "dropped")} for view, one in summary["views"].items()
        },
        "best": {model: found["params"] for model, found in tuned.best.items()},
        "rows": result.leaderboard.filter(wanted).to_dicts(),
    }


def write_page(found: dict[str, dict[str, Any]]) -> None:
    parts = [INTRODUCTION]
    for name in DATA:
        if name in found:
            parts.append(section(found[name]))
    PAGE.write_text("\n".join(parts))


INTRODUCTION = """# Leaderboards

Global temporal split, full catalogue, new users counted too, cold items kept as misses, ties read against
the model. Parameters were searched on a validation window before the cut (Optuna, at most 10 trials or half
a minute a model; the merged pipelines were not searched), and what is below was measured once. Intervals are
95 %, bootstrap over users. Every model has the same fallback for new users and short lists: DecayPop with a
half-life 14 days. `make bench NAME=leaderboards` writes this page; MovieLens and Amazon do not ship and are
read from disk.
"""


def section(one: dict[str, Any]) -> str:
    lines = [
        f"\n## {one['dataset']}\n",
        f"{one['split']['title']}, measured {one['date']}. Parts of the log:\n",
    ]
    lines += [f"- {part['part']}: {part['n_rows']:,} rows" for part in one["split"]["parts"]]
    for view in dict.fromkeys(row["view"] for row in one["rows"]):
        rows = [row for row in one["rows"] if row["view"] == view]
        title = {"count": "repeat purchases counted", "new_only": "only items new to the user"}.get(
            view, view
        )
        lines.append(f"\n### {one['dataset']}: {title}\n")
        about = one["views"][view]
        words = {what[2:].replace("_", " "): count for what, count in about["counts"].items()}
        counted = [f"{count:,} {what}" for what, count in words.items()]
        left_out = [f"{d['n']:,} {d['what']} dropped, {d['why']}" for d in about["dropped"]]
        lines.append("; ".join(counted + left_out) + ".\n")
        lines.append("| model | " + " | ".join(f"{metric}@{k}" for metric, k in COLUMNS) + " |")
        lines.append("|---|" + "---:|" * len(COLUMNS))
        cell = {(row["model"], row["metric"], row["k"]): row for row in rows}
        order = [row["model"] for row in rows if (row["metric"], row["k"]) == COLUMNS[0]]
        order.sort(key=lambda model: -cell[model, *COLUMNS[0]]["mean"])
        for model in order:
            lines.append(f"| {model} | " + " | ".join(number(cell.get((model, *c))) for c in COLUMNS) + " |")
    found = [f"`{model}` {json.dumps(params)}" for model, params in one["best"].items() if params]
    lines.append("\nParameters found: " + "; ".join(found) + ".")
    return "\n".join(lines) + "\n"


def number(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    if row["ci_low"] is None:
        return f"{row['mean']:.4f}"
    return f"{row['mean']:.4f} [{row['ci_low']:.4f}, {row['ci_high']:.4f}]"


def main(names: list[str] | None = None) -> None:
    found = json.loads(ROWS.read_text()) if ROWS.exists() else {}
    for name in names or list(DATA):
        folder = DATA[name][0].folder
        if folder is not None and not Path(folder).is_dir():
            print(
                f"   {name}: {folder} is not there, set VITRINA_DATA; its rows stay as they are", flush=True
            )
            continue
        found[name] = run(name)
        ROWS.write_text(json.dumps(found, indent=1) + "\n")
        best = max(
            (row for row in found[name]["rows"] if row["metric"] == "ndcg"), key=lambda row: row["mean"]
        )
        print(f"   {name}: {best['model']} {best['mean']:.4f} ({best['view']})", flush=True)
    write_page(found)


if __name__ == "__main__":
    main(sys.argv[1:] or None)
