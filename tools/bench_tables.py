"""Tables of docs/benchmarks.md from benchmarks/results.jsonl: `python tools/bench_tables.py [--check]`."""

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results.jsonl"
PAGE = ROOT / "docs" / "benchmarks.md"
START, END = "<!-- benchmarks:start -->", "<!-- benchmarks:end -->"


def latest(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The last row of each (name, what, peer without version, unit), in order of first appearance."""
    newest: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
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
    cells = [
        row["what"],
        f"{_number(row['ours'])} {row['unit']}",
        row["peer"],
        theirs,
        ratio,
        row["target"],
        quality,
    ]
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _number(value: Any) -> str:
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
    text = between(PAGE.read_text(), START, END, table(rows))
    if "--check" in sys.argv:
        if PAGE.read_text() != text:
            print("docs/benchmarks.md is out of date; run: python tools/bench_tables.py")
            return 1
        return 0
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
