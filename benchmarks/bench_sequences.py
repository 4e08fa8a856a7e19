"""Sequence models on real logs: the protocol of the papers, and the global temporal split.

`make bench NAME=sequences` trains what is missing (hours on two cores; a killed run goes on where it was) and
writes docs/sequence_models.md; `python -m benchmarks.bench_sequences --page` only writes the page from the
runs that are there, `--only retail_time` trains what is missing of one table. Each run is one call of
scripts/sequence_run.py; what is run stands in sequence_cases.py.
"""

import argparse
import datetime
import json
import os
import sys
from typing import Any

import numpy as np
import polars as pl

from benchmarks import harness
from benchmarks.scripts.sequence_run import OUT, key_of
from benchmarks.sequence_cases import CASES, TITLES, Case

PAGE = harness.ROOT / "docs" / "sequence_models.md"
KEPT = harness.HERE / "sequences.json"
N_RESAMPLES = 2000
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
METRICS = ("ndcg@10", "recall@10", "recall@100")
PARTS = ("ndcg@10", "recall@10", "recall@100", "recall@10|head", "recall@10|middle", "recall@10|tail")
SLICES = {
    "count": ("ndcg@10|taken before:yes", "ndcg@10|taken before:no"),
    "new_only": ("recall@10|head", "recall@10|middle", "recall@10|tail"),
}
VIEWS = {"count": "repeats counted", "new_only": "only items new to the user"}


def asked(case: Case, seed: int) -> dict[str, Any] | None:
    """What `sequence_run.py` is asked for; None where the run that chooses the epochs is missing."""
    params = case.params
    if case.choose:
        curve = (result(choosing(case)) or {}).get("curve")
        if curve is None:
            return None
        params = {**params, "n_epochs": 1 + int(np.argmax([entry["validation"] for entry in curve]))}
    return {"data": case.table, "kind": case.kind, "params": params, "seed": seed}


def choosing(case: Case) -> dict[str, Any]:
    """The run whose best epoch all seeds take."""
    return {"data": case.table, "kind": case.kind, "params": {**case.params, **case.choose}, "seed": 0}


def result(what: dict[str, Any]) -> dict[str, Any] | None:
    """Of a run; None where it is missing."""
    file = OUT / f"{key_of(what)}.json"
    return json.loads(file.read_text()) if file.exists() else None


def train(case: Case, seeds: tuple[int, ...]) -> None:
    """Run what has no result yet."""

    def run(what: dict[str, Any]) -> None:
        if result(what) is None:
            print(f"   {case.table}: {case.label}, seed {what['seed']}", flush=True)
            script = str(harness.HERE / "scripts" / "sequence_run.py")
            harness.run([harness.OURS, script, json.dumps(what)], threads=THREADS)

    if case.choose:
        run(choosing(case))
    for seed in seeds:
        what = asked(case, seed)
        if what is not None:
            run(what)


def runs_of(case: Case) -> list[tuple[str, dict[str, Any]]]:
    """Key and result of each seed that ran."""
    found = [(what, result(what)) for what in (asked(case, seed) for seed in case.seeds) if what is not None]
    return [(key_of(what), line) for what, line in found if line is not None]


def values_of(case: Case, view: str, names: tuple[str, ...]) -> np.ndarray | None:
    """Mean over the seeds of each user's values, (U, metrics); None where nothing ran or a metric lacks."""
    tables = [pl.read_parquet(OUT / f"{key}.{view}.parquet") for key, line in runs_of(case) if view in line]
    if not tables or any(name not in table.columns for table in tables for name in names):
        return None
    arrays = [table.select(pl.col(names).cast(pl.Float64).fill_null(np.nan)).to_numpy() for table in tables]
    return np.mean(arrays, axis=0)


def entry_of(case: Case, view: str) -> dict[str, Any] | None:
    """One row of a table: means over the seeds, intervals over the users."""
    runs, mean_UC = runs_of(case), values_of(case, view, METRICS)
    if mean_UC is None:
        return None
    first = runs[0][1]
    by_seed = [
        float(pl.read_parquet(OUT / f"{key}.{view}.parquet")["ndcg@10"].drop_nulls().drop_nans().mean())  # type: ignore[arg-type]
        for key, _ in runs
    ]
    entry: dict[str, Any] = {"table": case.table, "view": view, "model": case.label, "group": case.group}
    entry |= {"disclosed": case.disclosed, "kind": case.kind, "is_simple": case.is_simple}
    entry |= {name: interval(mean_UC[:, at]) for at, name in enumerate(METRICS)}
    return entry | {
        "seeds": len(runs),
        "sd_seeds": float(np.std(by_seed, ddof=1)) if len(runs) > 1 else None,
        "epochs": len(first.get("curve", [])) or None,
        "fit_cpu_s": float(np.mean([run["fit_cpu_s"] for _, run in runs])),
        "coverage@10": float(np.mean([run[view]["coverage@10"] for _, run in runs])),
        "split": first["split"],
        "n_users": first[view]["n_users"],
        "n_items": first["n_items"],
        "params": first["asked"]["params"],
    }


def interval(values_U: np.ndarray) -> list[float]:
    """Mean and 95 % bootstrap interval over the users who have a target."""
    values_U = values_U[~np.isnan(values_U)]
    rng = np.random.default_rng(0)
    means = [values_U[rng.integers(0, len(values_U), len(values_U))].mean() for _ in range(N_RESAMPLES)]
    return [float(values_U.mean()), *(float(q) for q in np.quantile(means, [0.025, 0.975]))]


def paired(table: str, view: str) -> list[dict[str, Any]]:
    """The best sequence model (never one that was told the time) minus each of the others, user by user."""
    cases = [case for case in CASES if case.table == table and case.group == "models"]
    values = {case.label: (case, values_of(case, view, ("ndcg@10",))) for case in cases}
    known = {label: (case, v[:, 0]) for label, (case, v) in values.items() if v is not None}
    ours = {label: v for label, (case, v) in known.items() if not case.is_simple and not case.disclosed}
    if not ours:
        return []
    best = max(ours, key=lambda label: np.nanmean(ours[label]))
    return [
        {"table": table, "view": view, "best": best, "other": label, "difference": interval(ours[best] - v)}
        for label, (_, v) in known.items()
        if label != best
    ]


def slices(table: str, view: str) -> list[dict[str, Any]]:
    """Each model on parts of the targets: where a simple model wins, and where not."""
    found = []
    for case in CASES:
        if case.table == table and case.group == "models":
            values = values_of(case, view, SLICES[view])
            if values is not None:
                entry: dict[str, Any] = {"table": table, "view": view, "model": case.label}
                found.append(entry | {n: interval(values[:, at]) for at, n in enumerate(SLICES[view])})
    return found


def corrections(table: str) -> list[dict[str, Any]]:
    """Corrected minus standard logQ, user by user, for each kind of negatives."""
    cases = {case.label: case for case in CASES if case.table == table and case.group == "logq"}
    found = []
    for negatives in ("in_batch", "mixed"):
        standard, corrected = (cases[f"{negatives}, {name}"] for name in ("standard", "corrected"))
        n_seeds = min(len(runs_of(standard)), len(runs_of(corrected)))
        if n_seeds < max(len(standard.seeds), 1):
            continue
        before, after = (values_of(case, "new_only", PARTS) for case in (standard, corrected))
        if before is None or after is None:
            continue
        entry: dict[str, Any] = {"table": table, "negatives": negatives, "seeds": n_seeds}
        for at, name in enumerate(PARTS):
            entry[name] = [float(np.nanmean(before[:, at])), *interval(after[:, at] - before[:, at])]
        found.append(entry)
    return found


def record(case: Case, entry: dict[str, Any]) -> None:
    """The row that is asked for by name."""
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


def write_page(kept: dict[str, Any]) -> None:
    """docs/sequence_models.md."""
    parts = [INTRODUCTION]
    for table, title in TITLES.items():
        for view, words in VIEWS.items():
            rows = [
                e
                for e in kept["entries"]
                if (e["table"], e["view"]) == (table, view) and e["group"] == "models"
            ]
            if rows:
                parts.append(section(f"{title}: {words}", sorted(rows, key=lambda e: -e["ndcg@10"][0])))
                parts.append(
                    differences([d for d in kept["paired"] if (d["table"], d["view"]) == (table, view)])
                )
                parts.append(
                    slice_table([e for e in kept["slices"] if (e["table"], e["view"]) == (table, view)])
                )
    parts.append(correction_section(kept["corrections"]))
    PAGE.write_text("\n".join(part for part in parts if part))


def section(title: str, rows: list[dict[str, Any]]) -> str:
    """One table."""
    lines = [
        f"\n## {title}\n",
        f"{rows[0]['n_users']:,} users, {rows[0]['n_items']:,} items in training, split "
        f"`{rows[0]['split'][:16]}`.\n",
        "| model | Recall@10 | NDCG@10 | Recall@100 | coverage@10 | seeds (sd) | epochs | fit CPU s |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for e in rows:
        name = e["model"] + (f" ({e['disclosed']})" if e["disclosed"] else "")
        seeds = str(e["seeds"]) + ("" if e["sd_seeds"] is None else f" ({e['sd_seeds']:.4f})")
        cells = [spread(e[m]) for m in ("recall@10", "ndcg@10", "recall@100")]
        cells += [f"{e['coverage@10']:.3f}", seeds, str(e["epochs"] or "-"), f"{e['fit_cpu_s']:.0f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def differences(rows: list[dict[str, Any]]) -> str:
    """The best sequence model against the others."""
    if not rows:
        return ""
    told = ", ".join(f"{d['other']} {signed(d['difference'])}" for d in rows)
    return f"NDCG@10 of **{rows[0]['best']}** minus that of the others, paired by user: {told}.\n"


def slice_table(rows: list[dict[str, Any]]) -> str:
    """Parts of the targets."""
    if not rows:
        return ""
    names = SLICES[rows[0]["view"]]
    lines = [f"| model | {' | '.join(n.replace('|', ', ') for n in names)} |", "|---|" + "---:|" * len(names)]
    for e in sorted(rows, key=lambda e: -e[names[0]][0]):
        lines.append(f"| {e['model']} | " + " | ".join(spread(e[n]) for n in names) + " |")
    return "\n".join(lines) + "\n"


def correction_section(rows: list[dict[str, Any]]) -> str:
    """Corrected against standard logQ."""
    if not rows:
        return ""
    head = (
        " | ".join(PARTS).replace("|head", ", head").replace("|middle", ", middle").replace("|tail", ", tail")
    )
    lines = [CORRECTIONS, f"| log | negatives | {head} |", "|---|---|" + "---:|" * len(PARTS)]
    for e in rows:
        cells = [f"{e[name][0]:.4f} {signed(e[name][1:])}" for name in PARTS]
        lines.append(f"| {TITLES[e['table']]} | {e['negatives']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def spread(m: list[float]) -> str:
    return f"{m[0]:.4f} [{m[1]:.4f}, {m[2]:.4f}]"


def signed(m: list[float]) -> str:
    return f"{m[0]:+.4f} [{m[1]:+.4f}, {m[2]:+.4f}]"


CORRECTIONS = """
## Corrected against standard logQ

SASRec with separate tables, one block, 64 wide, the latest 50 rows of each user, 256 negatives, early
stopping on validation, three seeds. Each cell: the standard correction, and corrected minus standard with its
95 % interval, paired by user, values averaged over the seeds first. Head, middle and tail items hold a third
of the training rows each.
"""

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

Tables that hold out the future are the ones to go by. There the simple models have the parameters of the
[leaderboards](leaderboards.md), and each sequence model the number of epochs that did best on the latest
twentieth of its training rows (seed 0), trained anew on all of them with three seeds. "trend": `trend_days`,
an item's share of the latest events as a term of its logit; "new targets": only rows in which a user takes an
item first are predicted. Where many rows share a time, baskets on Online Retail and dates on Beauty, ties
are put in a new order every epoch (`shuffle_ties`). All three were chosen on Online Retail's 30 days before
the test ([what was tried](models/sequences.md)). A second table shows parts of the targets: whether a user
had taken the item before, and whether it is among the most popular items that hold a third of the training
rows (head), the next third, or the rest.

`OwnHistory` stays ahead on Online Retail where repeats count because of them alone: it orders what a user
took by how often and how lately, which a model of the next row keeps only as far as its vectors can, and
finds next to nothing else. A merged list takes both: the demo's has 0.341.
"""


def main(arguments: list[str] | None = None) -> None:
    """Train what is missing, record the rows that are asked for, write the page."""
    parser = argparse.ArgumentParser(prog="bench_sequences")
    parser.add_argument("--page", action="store_true", help="write the page from the runs that are there")
    parser.add_argument("--only", help="table, or table:label, or table:group, to train; no page")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each case, at most")
    options = parser.parse_args(arguments or [])
    if not options.page:
        for case in CASES:
            if options.only in (None, case.table, f"{case.table}:{case.label}", f"{case.table}:{case.group}"):
                train(case, case.seeds[: options.seeds])
    if options.only is None:
        keep()


def keep() -> None:
    """Take what ran into sequences.json, results.jsonl and the page; what ran elsewhere before stays."""
    kept = (
        json.loads(KEPT.read_text())
        if KEPT.exists()
        else {"entries": [], "paired": [], "slices": [], "corrections": []}
    )
    for case in CASES:
        for view in VIEWS:
            entry = entry_of(case, view)
            if entry is not None and _take(kept["entries"], entry, ("table", "view", "model")) and case.row:
                record(case, entry)
    for table in TITLES:
        for view in VIEWS:
            for what, rows in (("paired", paired(table, view)), ("slices", slices(table, view))):
                known = [e for e in kept[what] if (e["table"], e["view"]) == (table, view)]
                if len(rows) >= len(known):
                    kept[what] = [e for e in kept[what] if e not in known] + rows
        for entry in corrections(table) if table != "retail_time" else []:
            _take(kept["corrections"], entry, ("table", "negatives"))
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    write_page(kept)


def _take(entries: list[dict[str, Any]], entry: dict[str, Any], same: tuple[str, ...]) -> bool:
    """Put an entry in place of the one it renews; whether anything changed."""
    at = next((n for n, e in enumerate(entries) if all(e[k] == entry[k] for k in same)), None)
    if at is None:
        entries.append(entry)
    elif entries[at] != entry:
        entries[at] = entry
    else:
        return False
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
