"""Ask RecTools, RePlay, ranx and scikit-learn about the worked lists: `python -m benchmarks.golden_metrics`.

Writes tests/golden/metrics_golden.json; tests/golden/test_metrics_golden.py derives every value in it.
"""

import json
import subprocess

from benchmarks.harness import HERE, OURS, ROOT, peer_python

WORKED = ROOT / "tests" / "golden" / "metrics_worked_lists.json"
GOLDEN = ROOT / "tests" / "golden" / "metrics_golden.json"


def main() -> None:
    pythons = {name: peer_python(name) for name in ("rectools", "replay", "ranx")} | {"sklearn": OURS}
    found = {}
    for name, python in pythons.items():
        argv = [python, str(HERE / "scripts" / "golden_peers.py"), name, str(WORKED)]
        found[name] = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
        print(f"   {name} {found[name]['version']}")
    GOLDEN.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
