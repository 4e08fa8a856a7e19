"""Any log on disk as a `Dataset`."""

import os
from pathlib import Path
from typing import Any

import polars as pl

from vitrina.datasets.dataset import Counts, Dataset, Source
from vitrina.log import Columns, scan_log


def generic(
    path: str | os.PathLike[str],
    columns: Columns | None = None,
    *,
    name: str | None = None,
    items: pl.DataFrame | None = None,
    source: Source | None = None,
    **options: Any,
) -> Dataset:
    """A log that `vitrina.log.scan_log` reads, with what is known of its items.

    Args:
        path: file, folder, glob or URL of Parquet, CSV or NDJSON.
        columns: which column is which.
        name: how reports call it; None takes the name of the file or folder.
        items: one row an item_id.
        source: licence and origin, for model cards.
        options: further arguments of `scan_log` (time_unit, time_zone, events, mode, ...).

    Raises:
        LogError: the log cannot be read or breaks a rule.
    """
    log = scan_log(path, columns, **options)
    dataset = Dataset(
        name=name or Path(str(path)).stem,
        source=source
        or Source(title=str(path), licence="not stated", attribution="not stated", page=str(path)),
        events=log.frame,
        items=items if items is not None else pl.DataFrame(schema={"item_id": pl.String}),
        notes=log.report.notes,
        dropped=dict(log.report.set_aside),
        found=Counts(rows=log.report.rows_in),
        wall_clock=log.wall_clock,
    )
    dataset.__dict__["log"] = log  # checked already
    return dataset
