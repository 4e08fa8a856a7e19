"""Tables of docs from benchmarks/results.jsonl: `python tools/bench_tables.py [--check]`."""

import json
import re
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.jsonl"
PAGE = ROOT / "docs" / "benchmarks.md"
INDEXES = ROOT / "docs" / "ann.md"
NEW_ITEMS = ROOT / "docs" / "models" / "two_tower.md"
ARGUS = ROOT / "docs" / "models" / "argus.md"
POPULARITY = ROOT / "docs" / "popularity.md"
LOGS = {"ml100k": ("MovieLens 100K", (1, 2, 3, 5, 8, 10, 15)), "beauty": ("Amazon Beauty", (1, 2, 3, 5, 8))}
"""Title of a log of the popularity runs, and the epochs that its table shows."""
CORRECTIONS = ("none", "standard", "corrected", "none, tied")
START, END = "<!-- benchmarks:start -->", "<!-- benchmarks:end -->"


def latest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last row of each (name, what, peer without version, unit), in order of first appearance."""
    newest: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        row["what"] = re.sub(r": HR@10 [\d.]+, NDCG@10$", "", row["what"])  # of rows before 22 November 2026
        key = (row["name"], row["what"], row["peer"].split(" ")[0], row["unit"])
        newest[key] = row
    return list(newest.values())


def table(rows: list[dict[str, Any]]) -> str:
    """One table a benchmark, with where and when it was measured below it."""
    if not rows:
        return "\nNothing has been measured yet.\n"
    parts = []
    for name in dict.fromkeys(row["name"] for row in rows):
        mine = [row for row in rows if row["name"] == name]
        parts.append(f"\n### {name}\n")
        parts.append(
            "| what | ours | peer | theirs | ratio | to reach | quality |\n|---|---:|---|---:|---:|---|---|"
        )
        parts += [_row(row) for row in mine]
        where = sorted({f"{row['machine']}; {row['date']}, commit {row['commit']}" for row in mine})
        parts.append("\n" + "\n".join(f"*{one}*" for one in where) + "\n")
    return "\n".join(parts)


def _row(row: dict[str, Any]) -> str:
    theirs = "-" if row["theirs"] is None else f"{_number(row['theirs'])} {row['unit']}"
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.3g}x"
    quality = ", ".join(f"{key} {_number(value)}" for key, value in row["quality"].items()) or "-"
    params = row["extra"].get("params")
    is_told = isinstance(params, dict) and params.get("request_time")
    told = " (told the time of the request)" if is_told else ""
    cells = [
        row["what"] + told,
        f"{_number(row['ours'])} {row['unit']}",
        row["peer"],
        theirs,
        ratio,
        row["target"],
        quality,
    ]
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def index_table(rows: list[dict[str, Any]]) -> str:
    """What indexes in this process find, and at what cost beside exact search."""
    parts = [
        "| vectors | index | recall@100 | one query, p50 | exact, p50 | CPU over exact | in batches of 2,000 "
        "| build, CPU |\n|---|---|---:|---:|---:|---:|---:|---:|"
    ]
    measured = [row for row in rows if row["name"] == "ann" and "ratio of CPU" in row["quality"]]
    for row in measured:
        what = row["what"].removeprefix("top-100 of 200 k x 128, one query at a time, ")
        about, _, vectors = what.rpartition("; ")
        effort, quality = row["extra"]["effort"], row["quality"]
        width = f" (refused: {row['extra']['gate']:.3f} of the lists; exact answers)"
        if effort is not None:
            width = f", width {effort['width']}, overfetch {effort['overfetch']:g}"
        parts.append(
            f"| {vectors} | {about}{width} | {quality['recall@100']:.4f} | {row['ours']:.2f} ms "
            f"| {row['theirs']:.2f} ms | {quality['ratio of CPU']:.3f} "
            f"| {quality['the same, batch of 2,000']:.3f} | {row['extra']['build']['cpu_s']:.0f} s |"
        )
    dates = ", ".join(sorted({f"{row['date']} (commit {row['commit']})" for row in measured}))
    return "\n".join(parts) + f"\n\n*{measured[-1]['machine']}; {dates}*"


def new_items_table(rows: list[dict[str, Any]]) -> str:
    """Recall on items that nobody had taken before the cut, by log, task and model."""
    parts = []
    for row in (row for row in rows if row["name"] == "new_items"):
        models, about = row["extra"]["models"], row["extra"]["about"]
        parts.append(
            f"**{row['what'].split(':')[0]}**: {about['rows']:,} rows before the cut; {about['new items']:,} "
            f"new items, {about['new items taken']:,} of them taken by {about['people']:,} people with a "
            f"history ({about['targets']:,} targets).\n"
        )
        tasks = list(models["TwoTower"])
        parts.append("| recall, 95 % interval | " + " | ".join(tasks) + " |\n|---|" + "---:|" * len(tasks))
        for model, told in models.items():
            cells = [f"{mean:.4f} [{low:.4f}, {high:.4f}]" for mean, low, high in told.values()]
            parts.append(f"| {model} | " + " | ".join(cells) + " |")
        for model, told in row["extra"]["over ContentKNN"].items():
            cells = [f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]" for mean, low, high in told.values()]
            parts.append(f"| *{model} over ContentKNN* | " + " | ".join(cells) + " |")
        parts.append(f"\n*{row['machine']}; {row['date']}, commit {row['commit']}*\n")
    return "\n".join(parts)


def argus_table(rows: list[dict[str, Any]]) -> str:
    """What ARGUS, its ablation and others reach of the best possible in a world that is known."""
    (row,) = (row for row in rows if row["name"] == "argus_world")
    lines = [
        f"{row['extra']['params']['n_epochs']} epochs; ARGUS, in both rows, knows the time of the request:\n",
        "| share of the best NDCG@10 | played in full | three seeds | ARGUS is ahead by | any event | alone "
        "| CPU s of the fit |\n|---|---:|---|---|---:|---:|---:|",
    ]
    for model, own in row["quality"].items():
        seeds = ", ".join(f"{share:.3f}" for share in own.get("full_seeds", [])) or "-"
        ahead = (
            "{:.3f} ({:.3f} to {:.3f})".format(*own["full_argus_minus"]) if "full_argus_minus" in own else "-"
        )
        cpu = row["extra"]["cpu_seconds"].get(model)
        cells = [f"{own['full']:.3f}", seeds, ahead, f"{own['any']:.3f}", f"{own['alone']:.3f}"]
        lines.append(f"| {model} | {' | '.join(cells)} | {'-' if cpu is None else f'{cpu:.1f}'} |")
    return "\n".join(lines) + f"\n\n*{row['machine']}; {row['date']}, commit {row['commit']}*"


def popularity_table(rows: list[dict[str, Any]]) -> str:
    """Count and length after some epochs, and the lists of the same vectors scored both ways."""
    parts = []
    mine = [row for row in rows if row["name"] == "popularity"]
    for log, (title, epochs) in LOGS.items():
        kinds = {kind: row for kind in CORRECTIONS for row in mine if row["what"] == f"{log}: {kind}"}
        head, middle, tail = next(iter(kinds.values()))["extra"]["runs"][0]["group_items"]
        parts.append(
            f"{title}: Spearman of count and length after an epoch, mean over seeds (± their standard "
            "deviation at the end)\n\n"
            f"| correction | {' | '.join(map(str, epochs))} | length at start, end | update_cos, last |\n"
            f"|---|{'---:|' * (len(epochs) + 2)}"
        )
        for kind, row in kinds.items():
            runs = row["extra"]["runs"]
            cells = [f"{mean(run['epochs'][n - 1]['count_norm'] for run in runs):.2f}" for n in epochs]
            cells[-1] += f" ± {row['extra']['sd_seeds']:.2f}"
            start = mean(run["start_norm"] for run in runs)
            end = mean(run["epochs"][-1]["norm"] for run in runs)
            cells += [f"{start:.2f}, {end:.2f}", f"{mean(r['epochs'][-1]['update_cos'] for r in runs):.2f}"]
            parts.append(f"| {kind} | {' | '.join(cells)} |")
        parts.append(
            f"\n{title}: the lists of the same vectors, mean ± standard deviation over seeds; head, middle "
            f"and tail are {head:,}, {middle:,} and {tail:,} items\n\n"
            "| correction | scored by | NDCG@10 | recall head | middle | tail | shown / taken | Gini "
            "| count ~ score | hubness |\n|---|---|" + "---:|" * 8
        )
        parts += [_served(kind, row, by) for kind, row in kinds.items() for by in ("cosine", "dot")]
        where = sorted({f"{row['machine']}; {row['date']}, commit {row['commit']}" for row in kinds.values()})
        parts.append("\n" + "\n".join(f"*{one}*" for one in where) + "\n")
    return "\n".join(parts)


def _served(kind: str, row: dict[str, Any], by: str) -> str:
    """A row of figures of the lists, one for each seed."""
    told = [one for run in row["extra"]["runs"] for one in run["servings"] if one["serving"] == by]
    share = [one["shown_popularity"] / one["target_popularity"] for one in told]
    ndcg = [one["ndcg"] for one in told]
    name = "cosine, as trained" if by == "cosine" else "inner product"
    cells = [kind, name, f"{mean(ndcg):.4f} ± {stdev(ndcg):.4f}"]
    cells += [f"{mean(one[f'recall_{part}'] for one in told):.3f}" for part in ("head", "middle", "tail")]
    cells += [f"{mean(share):.2f} ± {stdev(share):.2f}"]
    cells += [f"{mean(one[name] for one in told):.2f}" for name in ("gini", "count_score")]
    return f"| {' | '.join(cells)} | {mean(one['hubness'] for one in told):.1f} |"


def _number(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_number(one)}" for key, one in value.items()) + ")"
    if isinstance(value, list):
        return " / ".join(_number(one) for one in value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def between(text: str, start: str, end: str, body: str) -> str:
    """`text` with what stands between two markers replaced."""
    if text.count(start) != 1 or text.count(end) != 1:
        raise SystemExit(f"the page needs {start} and {end} once each")
    head, rest = text.split(start)
    return f"{head}{start}\n{body.strip()}\n{end}{rest.split(end)[1]}"


def main() -> int:
    """Write the tables, or with --check say whether they are up to date."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    rows = latest([json.loads(line) for line in lines if line.strip()])
    made_of = {
        PAGE: table,
        INDEXES: index_table,
        NEW_ITEMS: new_items_table,
        ARGUS: argus_table,
        POPULARITY: popularity_table,
    }
    for page, made in ((page, make(rows)) for page, make in made_of.items()):
        text = between(page.read_text(), START, END, made)
        if "--check" not in sys.argv:
            page.write_text(text)
        elif page.read_text() != text:
            print(f"{page.relative_to(ROOT)} is out of date; run: python tools/bench_tables.py")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
