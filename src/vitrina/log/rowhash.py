"""A 64-bit hash of each row, of its content alone, defined here so that no library's release changes it.

    h = seed;  for each column:  h = mix(h * K + v + 1)    v: bits of a number, or hash of a text's bytes

The hash of a log adds the hashes of its rows modulo 2^64: neither the order of rows nor the cut into files
matters.
"""

import hashlib

import numba
import numpy as np
import numpy.typing as npt
import polars as pl

from vitrina.schema import ByteArray, LongArray

HashArray = npt.NDArray[np.uint64]

_NULL = np.uint64(0x6E756C6C6E756C6C)
_STEP = np.uint64(0x9E3779B97F4A7C15)
_PRIME = np.uint64(0x100000001B3)


@numba.njit(inline="always")
def mix(key: np.uint64) -> np.uint64:  # type: ignore[no-untyped-def, unused-ignore]
    """Finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection of 64-bit words."""
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def _absorb(row: HashArray, value: HashArray) -> None:  # type: ignore[no-untyped-def, unused-ignore]
    for at in range(len(row)):
        row[at] = mix(row[at] * _STEP + value[at] + np.uint64(1))


@numba.njit(cache=True, nogil=True)
def _bytes_hash(offsets: LongArray, data: ByteArray, seed: np.uint64, out: HashArray) -> None:  # type: ignore[no-untyped-def, unused-ignore]
    for at in range(len(out)):
        begin, end = offsets[at], offsets[at + 1]
        h = mix(np.uint64(end - begin) + _STEP + seed)
        word, n_bytes = np.uint64(0), 0
        for byte in data[begin:end]:
            word |= np.uint64(byte) << np.uint64(8 * n_bytes)
            n_bytes += 1
            if n_bytes == 8:
                h = mix(h * _PRIME + word)
                word, n_bytes = np.uint64(0), 0
        out[at] = mix(h * _PRIME + word)


@numba.njit(cache=True, nogil=True)
def fold(row: HashArray) -> tuple[np.uint64, np.uint64]:  # type: ignore[no-untyped-def, unused-ignore]
    """Two sums of the hashes modulo 2^64, the second over hashes mixed once more."""
    first, second = np.uint64(0), np.uint64(0)
    for at in range(len(row)):
        first += row[at]
        second += mix(row[at] ^ _STEP)
    return first, second


def text_hash(texts: pl.Series, seed: int = 0) -> HashArray:
    """64-bit hash of the UTF-8 bytes of each string. Shape (n,)."""
    out = np.empty(len(texts), dtype=np.uint64)
    if len(texts):
        array = texts.cast(pl.String).fill_null("").rechunk().to_arrow()
        _, offsets, data = array.buffers()
        starts = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
        body = (
            np.frombuffer(data, dtype=np.uint8) if data is not None and data.size else np.zeros(1, np.uint8)
        )
        _bytes_hash(starts, body, np.uint64(seed), out)
    return out


def column_hash(column: pl.Series, seed: int = 0) -> HashArray:
    """64 bits that stand for each value of a column; equal values have equal bits. Shape (n,)."""
    dtype = column.dtype
    nulls = column.is_null().to_numpy() if column.null_count() else None
    if isinstance(dtype, pl.Datetime | pl.Duration) or dtype in (pl.Date, pl.Time):
        bits = column.to_physical().fill_null(0).cast(pl.Int64).to_numpy().view(np.uint64)
    elif (dtype.is_integer() and dtype not in (pl.UInt64, pl.Int128, pl.UInt128)) or dtype == pl.Boolean:
        bits = column.cast(pl.Int64).fill_null(0).to_numpy().view(np.uint64)
    elif dtype == pl.UInt64:
        bits = column.fill_null(0).to_numpy()
    elif dtype.is_float():
        bits = (column.cast(pl.Float64).fill_null(0.0).to_numpy() + 0.0).view(np.uint64)
    elif dtype in (pl.String, pl.Categorical) or isinstance(dtype, pl.Enum):
        bits = text_hash(column, seed)
    elif dtype.is_nested():
        bits = text_hash(column.to_frame("v").select(pl.struct("v").struct.json_encode()).to_series(), seed)
    else:
        bits = text_hash(column.cast(pl.String), seed)
    return bits if nulls is None else np.where(nulls, _NULL, bits)


def row_hash(columns: list[HashArray], n_rows: int, seed: int = 0) -> HashArray:
    """Hash of each row from the hashes of its columns. Shape (n_rows,)."""
    row = np.full(n_rows, seed, dtype=np.uint64)
    for column in columns:
        _absorb(row, column)
    return row


class LogDigest:
    """Adds up the rows of a log, batch by batch."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self.columns = columns
        self.n_rows = 0
        self._sums = [0, 0]

    def add(self, row: HashArray) -> None:
        """Take in the hashes of some rows."""
        self.n_rows += len(row)
        for at, part in enumerate(fold(row)):
            self._sums[at] = (self._sums[at] + int(part)) % 2**64

    def hexdigest(self) -> str:
        """SHA-256 of the column names, the number of rows and the two sums."""
        text = f"vitrina log 1:{','.join(self.columns)}:{self.n_rows}:{self._sums[0]}:{self._sums[1]}"
        return hashlib.sha256(text.encode()).hexdigest()
