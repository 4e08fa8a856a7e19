"""Check, split and write histories: `log_50m_ours.py FILE FOLDER CUT_US`."""

import json
import sys
import time
from pathlib import Path

from vitrina import split
from vitrina.log import scan_log

path, folder, cut_us = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
began, cpu = time.perf_counter(), time.process_time()
marks = {}


def mark(step: str) -> None:
    marks[step] = round(time.process_time() - cpu - sum(marks.values()), 2)


log = scan_log(path, events=("buy", "cart", "view"), duplicates="error")
mark("check")
parts = split.at(log, cut=cut_us)
mark("split")
train = parts.train.histories(folder / "train")
mark("train histories")
test = parts.test.histories(folder / "test", items=train.items)
mark("test histories")
print(
    json.dumps(
        {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": time.process_time() - cpu,
            "cpu_by_step": marks,
            "rows": log.n_rows(),
            "train": [len(train), train.n_items, train.n_rows, int(train.offsets[1:].sum() % 2**31)],
            "test": [len(test), test.n_items, test.n_rows, int(test.offsets[1:].sum() % 2**31)],
        }
    )
)
