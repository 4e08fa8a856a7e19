"""Tables of docs/models/*.md from measured files of benchmarks/: `python tools/model_tables.py [--check]`.

A page with the line `<!-- measured: ItemKNN DecayedItemKNN -->` gets, up to `<!-- measured:end -->`, NDCG@10
of these models on every leaderboard, and their share of the best possible in worlds of known truth. One with
`<!-- sequences: HSTU -->` gets, up to `<!-- sequences:end -->`, what these reached on real
logs (benchmarks/sequences.json).
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "docs" / "models"
LEADERBOARDS = ROOT / "benchmarks" / "leaderboards.json"
WORLDS = ROOT / "benchmarks" / "known_truth.json"
SEQUENCES = ROOT / "benchmarks" / "sequences.json"
MARKED = re.compile(r"<!-- measured: ([\w ]+) -->\n.*?<!-- measured:end -->", re.DOTALL)
SEQUENCE_MARKED = re.compile(r"<!-- sequences: ([\w ]+) -->\n.*?<!-- sequences:end -->", re.DOTALL)
VIEWS = {"count": "repeats counted", "new_only": "new items only"}
LOGS = {
    "ml1m_loo": "MovieLens 1M, each user's last row",
    "beauty_loo": "Amazon Beauty, each user's last row",
    "ml1m_time": "MovieLens 1M, the last tenth",
    "beauty_time": "Amazon Beauty, the last tenth",
    "retail_time": "Online Retail, the last 30 days",
}
WORDS = {"any": "any next event", "new": "a new item"}


def boards() -> list[tuple[str, dict[str, dict[str, Any]]]]:
    """Title of each leaderboard, and NDCG@10 of every model on it."""
    found = []
    for name, one in json.loads(LEADERBOARDS.read_text()).items():
        rows = [row for row in one["rows"] if (row["metric"], row["k"]) == ("ndcg", 10)]
        for view in dict.fromkeys(row["view"] for row in rows):
            title = f"{name}, {VIEWS[view]}"
            found.append((title, {row["model"]: row for row in rows if row["view"] == view}))
    return found


def table(models: list[str]) -> str:
    """Both tables of one page."""
    lines = ["| NDCG@10, 95 % interval | " + " | ".join(models) + " | best of all |"]
    lines.append("|---|" + "---:|" * (len(models) + 1))
    for title, board in boards():
        best = max(board.values(), key=lambda row: row["mean"])
        cells = [_measured(board.get(model)) for model in models]
        lines.append(f"| {title} | " + " | ".join(cells) + f" | {best['model']} {best['mean']:.4f} |")
    rows = json.loads(WORLDS.read_text())
    lines += ["", "| share of the best possible | " + " | ".join(models) + " | best of all |"]
    lines.append("|---|" + "---:|" * (len(models) + 1))
    for world, target in dict.fromkeys((row["world"], row["target"]) for row in rows):
        mine = {row["model"]: row for row in rows if (row["world"], row["target"]) == (world, target)}
        best = max(mine.values(), key=_reached)
        cells = [f"{_reached(mine[model]):.2f}" if model in mine else "-" for model in models]
        title = f"{world} world, {WORDS[target]}"
        lines.append(f"| {title} | " + " | ".join(cells) + f" | {best['model']} {_reached(best):.2f} |")
    return "\n".join(lines)


def sequence_table(kinds: list[str]) -> str:
    """Every run of these models on a real log, beside the best of its table."""
    entries = [e for e in json.loads(SEQUENCES.read_text())["entries"] if e["group"] == "models"]
    lines = ["| log, held out, view | model | NDCG@10 | Recall@10 | seeds | best of all |"]
    lines.append("|---|---|---:|---:|---:|---:|")
    for log, view in dict.fromkeys((e["table"], e["view"]) for e in entries):
        board = [e for e in entries if (e["table"], e["view"]) == (log, view)]
        best = max(board, key=lambda e: e["ndcg@10"][0])
        title = f"{LOGS[log]}, {VIEWS[view]}"
        for e in sorted((e for e in board if e["kind"] in kinds), key=lambda e: -e["ndcg@10"][0]):
            name = e["model"] + (f" ({e['disclosed']})" if e["disclosed"] else "")
            cells = ["{:.4f} [{:.4f}, {:.4f}]".format(*e[m]) for m in ("ndcg@10", "recall@10")]
            lines.append(
                f"| {title} | {name} | {' | '.join(cells)} | {e['seeds']} "
                f"| {best['model']} {best['ndcg@10'][0]:.4f} |"
            )
    return "\n".join(lines)


def _measured(row: dict[str, Any] | None) -> str:
    return "-" if row is None else f"{row['mean']:.4f} [{row['ci_low']:.4f}, {row['ci_high']:.4f}]"


def _reached(row: dict[str, Any]) -> float:
    return float(row["as_it_comes"] if row["tuned"] is None else row["tuned"])


def renewed(text: str) -> str:
    """The page with its tables as they are now."""

    def one(found: re.Match[str]) -> str:
        return f"<!-- measured: {found[1]} -->\n{table(found[1].split())}\n<!-- measured:end -->"

    def sequences(found: re.Match[str]) -> str:
        return f"<!-- sequences: {found[1]} -->\n{sequence_table(found[1].split())}\n<!-- sequences:end -->"

    return SEQUENCE_MARKED.sub(sequences, MARKED.sub(one, text))


def main() -> int:
    """Write the pages, or with --check say which is out of date."""
    old = [page for page in sorted(PAGES.glob("*.md")) if renewed(page.read_text()) != page.read_text()]
    if "--check" in sys.argv:
        for page in old:
            print(f"{page.relative_to(ROOT)} is out of date; run: python tools/model_tables.py")
        return 1 if old else 0
    for page in old:
        page.write_text(renewed(page.read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
