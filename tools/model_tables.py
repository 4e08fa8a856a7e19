"""Tables of docs/models/*.md from measured files of benchmarks/: `python tools/model_tables.py [--check]`.

A page with the line `<!-- measured: ItemKNN DecayedItemKNN -->` gets, up to `<!-- measured:end -->`, NDCG@10
of these models on every leaderboard, and their share of the best possible in worlds of known truth.
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
MARKED = re.compile(r"<!-- measured: ([\w ]+) -->\n.*?<!-- measured:end -->", re.DOTALL)
VIEWS = {"count": "repeats counted", "new_only": "new items only"}
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


def _measured(row: dict[str, Any] | None) -> str:
    return "-" if row is None else f"{row['mean']:.4f} [{row['ci_low']:.4f}, {row['ci_high']:.4f}]"


def _reached(row: dict[str, Any]) -> float:
    return float(row["as_it_comes"] if row["tuned"] is None else row["tuned"])


def renewed(text: str) -> str:
    """The page with its tables as they are now."""

    def one(found: re.Match[str]) -> str:
        return f"<!-- measured: {found[1]} -->\n{table(found[1].split())}\n<!-- measured:end -->"

    return MARKED.sub(one, text)


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
