"""A lazy frame, batch by batch, in bounded memory."""

import os
from collections.abc import Iterator
from threading import Lock

import polars as pl

_PREFETCH = "POLARS_ROW_GROUP_PREFETCH_SIZE"
_lock = Lock()


def batches(frame: pl.LazyFrame, *, in_order: bool) -> Iterator[pl.DataFrame]:
    """The rows of a frame, some 100,000 to a million at a time.

    polars reads Parquet row groups ahead of a slow consumer, and on 50 M rows held 1.1 GB of them; reading
    one ahead holds 0.4 GB and costs no measurable time. polars takes the number from the environment when a
    query starts, so it is set for that moment, unless the user has set it.

    Args:
        frame: what to read.
        in_order: whether batches come in the order of the rows.
    """
    with _lock:
        mine = _PREFETCH not in os.environ
        if mine:
            os.environ[_PREFETCH] = "1"
        try:
            running = iter(frame.collect_batches(maintain_order=in_order, engine="streaming"))
            first = next(running, None)
        finally:
            if mine:
                del os.environ[_PREFETCH]
    if first is not None:
        yield first
        yield from running
