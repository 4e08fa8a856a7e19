"""What is known of each item: a frame in the order of the vocabulary."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl

from vitrina.errors import InputError
from vitrina.ids import Ids
from vitrina.log.histories import Histories
from vitrina.schema import IntArray, LongArray

FIRST_TS = "first_ts"
TITLE = "title"
NEVER = int(np.iinfo(np.int64).max)
"""`first_ts` of an item of which the log has no row."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """I items with their metadata; row i of `frame` describes item_ix i."""

    items: Ids
    frame: pl.DataFrame
    """item_id, first_ts (Int64, UTC microseconds of the first event or birth,
    `NEVER` without one) and any other columns."""

    @classmethod
    def of(cls, train: Histories, metadata: pl.DataFrame | None = None) -> "Catalogue":
        """The items of a training log, with the columns of `metadata` (one row an item_id) if known."""
        first = np.full(train.n_items, NEVER, dtype=np.int64)
        np.minimum.at(first, train.item_ix, train.ts)
        frame = pl.DataFrame({"item_id": train.items.values, FIRST_TS: first})
        if metadata is not None:
            if "item_id" not in metadata.columns:
                raise InputError(
                    f"item metadata needs a column item_id, it has: {', '.join(metadata.columns)}"
                )
            repeated = metadata["item_id"].is_duplicated()
            if repeated.any():
                example = metadata["item_id"].filter(repeated)[0]
                raise InputError(f"item metadata has {example!r} more than once; keep one row an item")
            known = metadata.with_columns(pl.col("item_id").cast(frame["item_id"].dtype)).drop(
                FIRST_TS, strict=False
            )
            frame = frame.join(known, on="item_id", how="left", maintain_order="left")
        return cls(train.items, frame)

    def __len__(self) -> int:
        return len(self.items)

    @cached_property
    def first_ts(self) -> LongArray:
        """First time of each item, UTC microseconds. Shape (I,)."""
        return self.frame[FIRST_TS].to_numpy().astype(np.int64)

    def codes(self, column: str) -> IntArray:
        """Each item's value of a column as an integer, -1 where it is null. Shape (I,).

        Raises:
            InputError: there is no such column.
        """
        if column not in self.frame.columns:
            raise InputError(
                f"the catalogue has no column {column!r}; it has: {', '.join(self.frame.columns)}"
            )
        return self.frame[column].rank("dense").cast(pl.Int32).fill_null(0).to_numpy().astype(np.int32) - 1
