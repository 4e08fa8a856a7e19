"""A saved model, loaded and asked in a Python process of its own: nothing it needs may live in memory."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from vitrina.ann import TopK
from vitrina.log import Histories

_SCRIPT = """
import importlib, sys
import numpy as np
import polars as pl
from vitrina.log import Histories
module, kind, folder, k = sys.argv[1:]
model = getattr(importlib.import_module(module), kind).load(folder + "/model")
with np.load(folder + "/queries.npz") as asked:
    ids = pl.Series(np.arange(len(asked["offsets"]) - 1))
    queries = Histories(user_ids=ids, items=model.items_, **asked)
lists = model.retrieve(queries, k=int(k))
np.savez(folder + "/lists.npz", item_ix=lists.item_ix, score=lists.score)
"""


def retrieved_in_new_process(model: Any, queries: Histories, *, k: int) -> TopK:
    """Save a fitted model, load it in a new Python process, and give what it retrieves there.

    Raises:
        RuntimeError: the new process failed; the end of what it printed is in the message.
    """
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        arrays = {name: getattr(queries, name) for name in ("offsets", "item_ix", "ts", "event")}
        np.savez(Path(folder) / "queries.npz", **arrays)
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        argv = [
            sys.executable,
            "-c",
            _SCRIPT,
            type(model).__module__,
            type(model).__qualname__,
            folder,
            str(k),
        ]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"loading in a new process failed: {done.stderr.strip()[-500:]}")
        with np.load(Path(folder) / "lists.npz") as lists:
            return TopK(lists["item_ix"], lists["score"])
