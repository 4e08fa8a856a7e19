"""`python -m benchmarks` runs every benchmark; `python -m benchmarks itemknn` runs one."""

import importlib
import sys
from pathlib import Path

PREFIX = "bench_"
names = sorted(file.stem.removeprefix(PREFIX) for file in Path(__file__).parent.glob(f"{PREFIX}*.py"))
asked = sys.argv[1:] or names
unknown = [name for name in asked if name not in names]
if unknown:
    sys.exit(f"no benchmark {unknown[0]!r}; there is: {', '.join(names)}")
for name in asked:
    print(f"== {name}", flush=True)
    importlib.import_module(f"benchmarks.{PREFIX}{name}").main()
