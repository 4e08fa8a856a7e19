"""Write a world and say how long it took: `synth_write.py SCHEMA FOLDER [SCALE]`."""

import json
import shutil
import sys
import time
from pathlib import Path

from vitrina.datasets import World

schema, folder = sys.argv[1], Path(sys.argv[2])
scale = float(sys.argv[3]) if len(sys.argv) > 3 else 0.2
World(n_users=20, n_items=100, n_events=500).write(folder / "warm", schema)  # compiles, or reads the cache

world = World.yambda_50m(scale=scale)
wall, cpu = time.perf_counter(), time.process_time()
rows = world.write(folder / "made", schema)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
n_bytes = sum(file.stat().st_size for file in (folder / "made").rglob("*.parquet"))
shutil.rmtree(folder)

events = sum(n for name, n in rows.items() if "mapping" not in name and "items" not in name)
print(
    json.dumps(
        {
            "seconds": wall,
            "cpu_seconds": cpu,
            "rows": events,
            "rows_per_s": events / wall,
            "cpu_us_per_row": cpu / events * 1e6,
            "mb": n_bytes / 1e6,
            "rows_by_file": rows,
        }
    )
)
