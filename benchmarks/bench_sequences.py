"""Sequence models on real logs: the protocol of the papers, and the global temporal split.

`make bench NAME=sequences` trains what is missing (hours on two cores; a killed run goes on where it was) and
writes docs/sequence_models.md; `python -m benchmarks.bench_sequences --page` only writes the page from the
runs that are there. Each run is one call of scripts/sequence_run.py.
"""

import datetime
import json
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from benchmarks import harness
from benchmarks.scripts.sequence_run import OUT, key_of

PAGE = harness.ROOT / "docs" / "sequence_models.md"
KEPT = harness.HERE / "sequences.json"
N_RESAMPLES = 2000


@dataclass(frozen=True)
class Case:
    """One model on one log."""

    table: str
    label: str
    kind: str
    params: dict[str, Any] = field(default_factory=dict)
    row: str = ""
    """Name in results.jsonl, where the issue of the project asks for one."""
    target: tuple[float, float] | None = None
    """Hit rate and NDCG at 10 to reach."""
    seeds: tuple[int, ...] = (0,)
    disclosed: str = ""
    """What the model was told that the others were not."""


LAST: dict[str, Any] = {"n_epochs": 60, "validation": "last", "patience": 6, "refit": False}
BEAUTY: dict[str, Any] = {
    "n_epochs": 40,
    "max_len": 50,
    "n_layers": 1,
    "embedding_dim": 128,
    "dropout": 0.5,
    "validation": "last",
    "patience": 4,
    "refit": True,
}
LONG_BEAUTY: dict[str, Any] = {
    "n_epochs": 29,
    "max_len": 50,
    "n_layers": 1,
    "embedding_dim": 128,
    "dropout": 0.5,
    "cosine": True,
    "temperature": 0.05,
}
COSINE: dict[str, Any] = {"cosine": True, "temperature": 0.07}
SIMPLE = ("MostPop", "PopularLastDays", "OwnHistory", "ItemKNN", "ImplicitALS", "Ease")

CASES = [
    Case("ml1m_loo", "SASRec, softmax", "SASRec", LAST, "sasrec_ml1m_loo", (0.305, 0.178)),
    Case(
        "ml1m_loo",
        "SASRec, softmax, 50 epochs on all rows",
        "SASRec",
        {"n_epochs": 50},
        "sasrec_ml1m_loo",
        (0.305, 0.178),
    ),
    Case("beauty_loo", "SASRec, softmax", "SASRec", BEAUTY | COSINE, "sasrec_beauty_loo", (0.086, 0.050)),
    Case(
        "beauty_loo",
        "SASRec, softmax, 29 epochs on all rows",
        "SASRec",
        LONG_BEAUTY,
        "sasrec_beauty_loo",
        (0.086, 0.050),
    ),
    *(Case(data, kind, kind) for data in ("ml1m_loo", "beauty_loo") for kind in SIMPLE),
]


def asked(case: Case, seed: int) -> dict[str, Any]:
    """What `sequence_run.py` is asked for."""
    return {"data": case.table, "kind": case.kind, "params": case.params, "seed": seed}


def train_missing() -> None:
    """Run every case that has no result yet."""
    for case in CASES:
        for seed in case.seeds:
            if not (OUT / f"{key_of(asked(case, seed))}.json").exists():
                print(f"   {case.table}: {case.label}, seed {seed}", flush=True)
                script = str(harness.HERE / "scripts" / "sequence_run.py")
                harness.run([harness.OURS, script, json.dumps(asked(case, seed))])


def found(case: Case) -> list[dict[str, Any]]:
    """One entry a view, with means over the seeds and an interval over the users; empty where nothing ran."""
    runs = []
    for seed in case.seeds:
        file = OUT / f"{key_of(asked(case, seed))}.json"
        if file.exists():
            runs.append((key_of(asked(case, seed)), json.loads(file.read_text())))
    entries = []
    for view in ("count", "new_only"):
        if not runs or view not in runs[0][1]:
            continue
        columns = ("ndcg@10", "recall@10", "recall@100")
        values = [pl.read_parquet(OUT / f"{key}.{view}.parquet").select(columns) for key, _ in runs]
        mean_UC = np.mean([v.to_numpy() for v in values], axis=0)
        entry = {"table": case.table, "view": view, "model": case.label, "disclosed": case.disclosed}
        entry |= {c: interval(mean_UC[:, at]) for at, c in enumerate(columns)}
        first = runs[0][1]
        entry |= {
            "seeds": len(runs),
            "epochs": len(first.get("curve", [])) or None,
            "fit_cpu_s": float(np.mean([run["fit_cpu_s"] for _, run in runs])),
            "coverage@10": float(np.mean([run[view]["coverage@10"] for _, run in runs])),
            "split": first["split"],
            "n_users": first[view]["n_users"],
            "n_items": first["n_items"],
            "params": case.params,
        }
        entries.append(entry)
    return entries


def interval(values_U: np.ndarray) -> list[float]:
    """Mean and 95 % bootstrap interval over the users who have a target."""
    values_U = values_U[~np.isnan(values_U)]
    rng = np.random.default_rng(0)
    means = [values_U[rng.integers(0, len(values_U), len(values_U))].mean() for _ in range(N_RESAMPLES)]
    return [float(values_U.mean()), *(float(q) for q in np.quantile(means, [0.025, 0.975]))]


def record(case: Case, entry: dict[str, Any]) -> None:
    """The row that the project asks for."""
    hit, ndcg = case.target or (None, None)
    harness.record(
        harness.Row(
            name=case.row,
            what=f"{case.label}, {case.table}: HR@10 {entry['recall@10'][0]:.4f}, NDCG@10",
            ours=entry["ndcg@10"][0],
            peer="-",
            theirs=None,
            ratio=None,
            unit="NDCG@10",
            target=f"HR@10 >= {hit}, NDCG@10 >= {ndcg}",
            quality={"hr@10": entry["recall@10"], "ndcg@10": entry["ndcg@10"]},
            extra={"fit_cpu_s": entry["fit_cpu_s"], "epochs": entry["epochs"], "params": case.params},
        )
    )


TITLES = {
    "ml1m_loo": "MovieLens 1M, the last row of each user held out",
    "beauty_loo": "Amazon Beauty 5-core, the last row of each user held out",
    "ml1m_time": "MovieLens 1M, the last tenth of the rows held out",
    "beauty_time": "Amazon Beauty 5-core, the last tenth of the rows held out",
    "retail_time": "Online Retail, the last 30 days held out",
}
VIEWS = {"count": "repeats counted", "new_only": "only items new to the user"}


def write_page(entries: list[dict[str, Any]]) -> None:
    """docs/sequence_models.md."""
    parts = [INTRODUCTION]
    for table, title in TITLES.items():
        for view, words in VIEWS.items():
            rows = [e for e in entries if (e["table"], e["view"]) == (table, view)]
            if rows:
                parts.append(section(f"{title}: {words}", sorted(rows, key=lambda e: -e["ndcg@10"][0])))
    PAGE.write_text("\n".join(parts))


def section(title: str, rows: list[dict[str, Any]]) -> str:
    """One table."""
    lines = [
        f"\n## {title}\n",
        f"{rows[0]['n_users']:,} users, {rows[0]['n_items']:,} items in training, split ",
    ]
    lines[-1] += f"`{rows[0]['split'][:16]}`.\n"
    lines.append("| model | Recall@10 | NDCG@10 | Recall@100 | coverage@10 | seeds | epochs | fit CPU s |")
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for e in rows:
        cells = [" ".join((f"{m[0]:.4f}", f"[{m[1]:.4f}, {m[2]:.4f}]")) for m in metrics_of(e)]
        name = e["model"] + (f" ({e['disclosed']})" if e["disclosed"] else "")
        cells += [
            f"{e['coverage@10']:.3f}",
            str(e["seeds"]),
            str(e["epochs"] or "-"),
            f"{e['fit_cpu_s']:.0f}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def metrics_of(entry: dict[str, Any]) -> list[list[float]]:
    return [entry[name] for name in ("recall@10", "ndcg@10", "recall@100")]


INTRODUCTION = f"""# Sequence models, measured

Full catalogue, seen items hidden (but where repeats count), ties read against the model, 95 % intervals by
bootstrap over users. Written by `make bench NAME=sequences` ({datetime.date.today().isoformat()}); parameters
stand in `benchmarks/bench_sequences.py`.

Tables that hold out each user's last row are for comparison with papers: training sees the time after other
users' test rows, and what wins there need not win in time order. The epoch was chosen on each user's row
before the last, never on the test. Rows of equal time are in the order of the file on MovieLens 1M, and in an
order drawn by a hash on Beauty, whose times are days. A user has one held-out row there, so Recall@10 is the
papers' HR@10. "50 epochs on all rows": the best epoch of the run above it, trained anew with the rows that
its validation had held out. "29 epochs on all rows": the same on Beauty, at temperature 0.05; the epoch was
the best of 37 on each user's row before the last.
"""


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing, record the rows that are asked for, write the page."""
    if "--page" not in (arguments or []):
        train_missing()
    entries = json.loads(KEPT.read_text()) if KEPT.exists() else []
    for case in CASES:
        for entry in found(case):
            same = ("table", "view", "model")
            known = next((e for e in entries if all(e[k] == entry[k] for k in same)), None)
            if known == entry:
                continue
            entries = [e for e in entries if e is not known] + [entry]
            if case.row:
                record(case, entry)
    KEPT.write_text(json.dumps(entries, indent=1) + "\n")
    write_page(entries)


if __name__ == "__main__":
    main(sys.argv[1:])
