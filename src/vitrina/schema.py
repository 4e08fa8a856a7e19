"""Column names and types, once. Times are UTC microseconds; internal integers end in `_ix`."""

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

USER_ID: Final = "user_id"
ITEM_ID: Final = "item_id"
TS: Final = "ts"
EVENT: Final = "event"
WEIGHT: Final = "weight"
VALUE: Final = "value"
ORGANIC: Final = "organic"

QUERY_ID: Final = "query_id"
SOURCE: Final = "source"
SCORE: Final = "score"
RANK: Final = "rank"

TS_DTYPE: Final = pl.Datetime("us", "UTC")
"""The only time type inside Vitrina."""

US_PER_SECOND: Final = 1_000_000
US_PER_DAY: Final = 86_400 * US_PER_SECOND

DEFAULT_EVENT: Final = "interaction"
"""Name given to events of a log that has no event column."""

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int32]
LongArray = npt.NDArray[np.int64]
ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
