"""What `make demo` prints: all its models on the shop log in the package, trained anew.

`make bench NAME=demo` writes benchmarks/demo.json, from which the README's leaderboard is made.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

from benchmarks import harness

KEPT = harness.HERE / "demo.json"
COLUMNS = (("ndcg", 10), ("recall", 100))


def kept(printed: dict[str, Any]) -> dict[str, Any]:
    """Of what `vitrina demo --json` printed: the columns that are shown, who was measured, and the winner."""
    views = {
        name: {
            "title": view["title"],
            "counts": view["counts"],
            "rows": [
                {key: row[key] for key in ("model", "metric", "k", "mean", "ci_low", "ci_high")}
                for row in view["leaderboard"]
                if (row["metric"], row["k"]) in COLUMNS
            ],
        }
        for name, view in printed["views"].items()
    }
    return {"winner": printed["winner"], "split": printed["split"]["title"], "views": views}


def main() -> None:
    """Run the demo without its server and keep its tables."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "vitrina", "demo", "--no-serve", "--fresh", "--quiet", "--json"]
        began, before = time.perf_counter(), os.times()
        done = subprocess.run([*command, "--out", folder], check=True, stdout=subprocess.PIPE, text=True)
        after = os.times()
    seconds = {
        "wall_s": round(time.perf_counter() - began, 1),
        "cpu_s": round(sum(after[2:4]) - sum(before[2:4]), 1),
    }
    found = kept(json.loads(done.stdout)) | seconds | harness.about()
    KEPT.write_text(json.dumps(found, indent=1) + "\n")
    print(f"   demo: {found['winner']}, {seconds}", flush=True)


if __name__ == "__main__":
    main()
