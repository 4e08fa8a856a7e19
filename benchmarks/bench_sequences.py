"""Sequence models on real logs: the protocol of the papers, and the global temporal split.

`make bench NAME=sequences` trains what is missing (hours on two cores; a killed run goes on where it was) and
writes docs/sequence_models.md; `python -m benchmarks.bench_sequences --page` only writes the page from the
runs that are there, `--only retail_time` trains what is missing of one table. Each run is one call of
scripts/sequence_run.py; what is run stands in sequence_cases.py.
"""

import argparse
import json
import os
import sys
from typing import Any

import numpy as np
import polars as pl

from benchmarks import harness
from benchmarks.scripts.sequence_run import DELAYS, OUT, key_of, split_of
from benchmarks.sequence_cases import CASES, TITLES, Case
from benchmarks.sequence_page import PARTS, PAUSES, SLICES, VIEWS, on, write_page

KEPT = harness.HERE / "sequences.json"
N_RESAMPLES = 2000
WITHIN = {"an hour": 1, "a day": 24}
THREADS = int(os.environ.get("OMP_NUM_THREADS", "2"))
METRICS = ("ndcg@10", "recall@10", "recall@100")


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


def slices(table: str, view: str, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Each model on parts of the targets: where a simple model wins, and where not."""
    found = []
    for case in CASES:
        if case.table == table and case.group == "models":
            values = values_of(case, view, names)
            if values is not None:
                entry: dict[str, Any] = {"table": table, "view": view, "model": case.label}
                found.append(entry | {n: interval(values[:, at]) for at, n in enumerate(names)})
    return found


def pauses(table: str) -> list[dict[str, Any]]:
    """Each model on users by how long they were away; only what is new to them."""
    cases = [case for case in CASES if case.table == table and case.group == "models"]
    known = {case.label: runs_of(case) for case in cases}
    if not any(known.values()):
        return []
    cut, _ = split_of(table)
    last = cut.train.frame.group_by("user_id").agg(last=pl.col("ts").max())
    first = cut.test.frame.group_by("user_id").agg(first=pl.col("ts").min())
    days = (pl.col("first") - pl.col("last")).dt.total_seconds() / 86_400
    away = first.join(last, on="user_id", how="left").select("user_id", days=days).collect()
    gap = pl.col("ts").sort().diff().over("user_id").drop_nulls()
    within = cut.train.frame.select(
        **{
            f"share of rows within {words}": (gap <= pl.duration(hours=n)).mean()
            for words, n in WITHIN.items()
        }
    )
    shares = within.collect().row(0, named=True)
    found = []
    for label, runs in known.items():
        each = [
            pl.read_parquet(OUT / f"{key}.new_only.parquet", columns=["user_id", "ndcg@10"])
            for key, _ in runs
        ]
        if not each:
            continue
        mean = pl.concat(each).group_by("user_id").agg(pl.col("ndcg@10").mean()).join(away, on="user_id")
        entry: dict[str, Any] = {"table": table, "view": "new_only", "model": label, **shares}
        low = -1.0
        for name, high in PAUSES.items():
            is_in = (
                pl.col("days").is_null()
                if high is None
                else pl.col("days").is_between(low, high, closed="right")
            )
            some = mean.filter(is_in).sort("user_id")["ndcg@10"].to_numpy()
            entry[name] = [*interval(some), len(some)] if len(some) else None
            low = low if high is None else float(high)
        found.append(entry)
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
            what=f"{case.label}, {case.table}",
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


def record_correction(entry: dict[str, Any]) -> None:
    """Corrected against standard logQ, with one kind of negatives on one log."""
    standard, *difference = entry["ndcg@10"]
    harness.record(
        harness.Row(
            name="logq",
            what=f"{TITLES[entry['table']]}, {entry['negatives']}, {entry['seeds']} seeds: corrected",
            ours=standard + difference[0],
            peer="standard (ours)",
            theirs=standard,
            ratio=(standard + difference[0]) / standard,
            unit="NDCG@10",
            target="the paper's direction confirmed or refuted, paired",
            quality={"difference": difference},
            extra={name: entry[name] for name in PARTS},
        )
    )


def record_table(entries: list[dict[str, Any]], differences: list[dict[str, Any]]) -> None:
    """The best sequence model of one table that holds out the future, beside the best simple one."""
    best = next(e for e in entries if e["model"] == differences[0]["best"])
    simple = max((e for e in entries if e["is_simple"]), key=lambda e: e["ndcg@10"][0])
    paired = {d["other"]: d["difference"] for d in differences}
    harness.record(
        harness.Row(
            name="gts",
            what=f"{TITLES[best['table']]}, {VIEWS[best['view']]}: the best sequence model",
            ours=best["ndcg@10"][0],
            peer=f"{simple['model']} (ours)",
            theirs=simple["ndcg@10"][0],
            ratio=best["ndcg@10"][0] / simple["ndcg@10"][0],
            unit="NDCG@10",
            target="Online Retail: above all in new items, all but OwnHistory with repeats; else the reason",
            quality={"best": best["model"], "minus the best simple one": paired[simple["model"]]},
            extra={"ndcg@10": {e["model"]: e["ndcg@10"] for e in entries}, "minus": paired},
        )
    )


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
        else {"entries": [], "paired": [], "slices": [], "pauses": [], "delays": [], "corrections": []}
    )
    for case in CASES:
        for view in VIEWS:
            entry = entry_of(case, view)
            if entry is not None and _take(kept["entries"], entry, ("table", "view", "model")) and case.row:
                record(case, entry)
    for table in TITLES:
        for view in VIEWS:
            for what, rows in (
                ("paired", paired(table, view)),
                ("slices", slices(table, view, SLICES[view])),
            ):
                if _renew(kept, what, table, view, rows) and what == "paired" and table.endswith("_time"):
                    entries = on(kept["entries"], table, view)
                    record_table([e for e in entries if e["group"] == "models"], rows)
        if table.endswith("_time"):
            _renew(kept, "pauses", table, "new_only", pauses(table))
            _renew(kept, "delays", table, "new_only", slices(table, "new_only", tuple(DELAYS)))
        for entry in corrections(table) if table != "retail_time" else []:
            if _take(kept["corrections"], entry, ("table", "negatives")):
                record_correction(entry)
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
    write_page(kept)


def _renew(kept: dict[str, Any], what: str, table: str, view: str, rows: list[dict[str, Any]]) -> bool:
    """Put rows in place of those of the same log and view, unless those are more; whether it changed."""
    known = on(kept[what], table, view)
    if len(rows) < len(known) or rows == known:
        return False
    kept[what] = [e for e in kept[what] if e not in known] + rows
    return True


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
