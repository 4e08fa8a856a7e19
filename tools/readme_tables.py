"""The leaderboard of the README, from benchmarks/demo.json. Takes --check."""

import json
import sys
from pathlib import Path
from typing import Any

from bench_tables import between

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "benchmarks" / "demo.json"
PAGE = ROOT / "README.md"
START, END = "<!-- leaderboard:start -->", "<!-- leaderboard:end -->"
COLUMNS = (
    ("count", "ndcg", 10),
    ("count", "recall", 100),
    ("new_only", "ndcg", 10),
    ("new_only", "recall", 100),
)
HEAD = "NDCG@10, with repeats | Recall@100, with repeats | NDCG@10, new items | Recall@100, new items"


def table(found: dict[str, Any]) -> str:
    """The table, best first by the first column."""
    cell = {
        (row["model"], name, row["metric"], row["k"]): row
        for name, view in found["views"].items()
        for row in view["rows"]
    }
    models = sorted({key[0] for key in cell}, key=lambda model: -cell[model, *COLUMNS[0]]["mean"])
    lines = [f"| model | {HEAD} |", "|---|" + "---:|" * len(COLUMNS)]
    lines += [
        f"| {model} | " + " | ".join(_cell(cell.get((model, *c))) for c in COLUMNS) + " |" for model in models
    ]
    counts = found["views"]["count"]["counts"]
    lines.append(
        f"\n{counts['n_test_users']:,} test users, {counts['n_cold_users']:,} of them new;"
        f" {counts['n_targets']:,} targets; 95 % intervals, bootstrap over users. `make bench NAME=demo`,"
        f" {found['date']}, {found['machine']}: {found['wall_s']:.0f} s in all."
    )
    return "\n".join(lines)


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return "-"
    return f"{row['mean']:.4f} ({row['ci_low']:.4f}-{row['ci_high']:.4f})"


def main() -> int:
    """Write the table, or with --check say whether it is up to date."""
    text = between(PAGE.read_text(), START, END, table(json.loads(ROWS.read_text())))
    if "--check" in sys.argv:
        if PAGE.read_text() != text:
            print("README.md is out of date; run: python tools/readme_tables.py")
            return 1
        return 0
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
