"""Exact duplicates of a log larger than memory: rows equal in every column, found by hash.

First pass: the 64-bit hashes of all rows are kept, on disk once there are many, in 64 buckets by their top
bits; each bucket is sorted and hashes that occur twice are remembered. Second pass, only if there are any:
rows with such a hash are compared by a second, independent hash, so two different rows pass for equal with
probability 2^-128 a pair.
"""

import tempfile
from pathlib import Path

import numpy as np

from vitrina.errors import LogError
from vitrina.log.lookup import KeyTable
from vitrina.log.rowhash import HashArray
from vitrina.schema import BoolArray, LongArray

IN_MEMORY_ROWS = 4_000_000
"""Hashes held before they go to disk: 32 MB."""

_N_BUCKETS = 64


class RepeatedHashes:
    """Collects the hashes of rows; `finish` gives those that occur more than once."""

    def __init__(self, in_memory_rows: int = IN_MEMORY_ROWS) -> None:
        self._limit = in_memory_rows
        self._held: list[HashArray] = []
        self._n_held = 0
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def add(self, row: HashArray) -> None:
        """Take in the hashes of some rows."""
        self._held.append(row)
        self._n_held += len(row)
        if self._n_held > self._limit:
            self._spill()

    def finish(self) -> HashArray:
        """Sorted distinct hashes that occurred more than once; the disk space is given back."""
        if self._folder is None:
            return _repeated(np.concatenate([*self._held, np.zeros(0, np.uint64)]))
        self._spill()
        found = [
            _repeated(np.fromfile(file, np.uint64)) for file in sorted(Path(self._folder.name).iterdir())
        ]
        self.close()
        return np.concatenate([*found, np.zeros(0, np.uint64)])

    def close(self) -> None:
        """Give the disk space back."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _spill(self) -> None:
        try:
            self._write()
        except OSError as error:
            raise LogError(
                f"{tempfile.gettempdir()} has no room for temporary files of 8 bytes a row "
                f"({error.strerror or error}); free space there or set TMPDIR to another folder"
            ) from error

    def _write(self) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="vitrina-duplicates-")
        rows = np.sort(np.concatenate([*self._held, np.zeros(0, np.uint64)]))
        edges = (np.arange(1, _N_BUCKETS, dtype=np.uint64) * np.uint64(2**64 // _N_BUCKETS)).astype(np.uint64)
        for at, part in enumerate(np.split(rows, np.searchsorted(rows, edges))):
            with (Path(self._folder.name) / f"{at:03d}").open("ab") as stream:
                part.tofile(stream)
        self._held, self._n_held = [], 0


def _repeated(rows: HashArray) -> HashArray:
    rows.sort()
    return np.unique(rows[1:][rows[1:] == rows[:-1]])


class DuplicateRows:
    """Marks every occurrence but the first of a repeated row. One bit a row of the log."""

    def __init__(self, repeated: HashArray, n_rows: int) -> None:
        self._table = KeyTable(repeated)
        self._first = np.zeros(len(repeated), dtype=np.uint64)
        self._seen = np.zeros(len(repeated), dtype=np.bool_)
        self._bits = np.zeros(n_rows // 8 + 1, dtype=np.uint8)
        self.n_rows = 0

    def candidates(self, row: HashArray) -> LongArray:
        """Positions within a batch of the rows whose hash is repeated."""
        return np.flatnonzero(self._table.find(row) >= 0)

    def mark(self, row: HashArray, second: HashArray, position: LongArray) -> LongArray:
        """Take in candidates in the order of the log; returns the positions that are duplicates.

        Args:
            row: their hash. Shape (n,).
            second: their independent hash. Shape (n,).
            position: where they are in the log. Shape (n,).
        """
        slot = self._table.find(row)
        firsts, where = np.unique(slot, return_index=True)
        new = firsts[~self._seen[firsts]]
        opening = where[~self._seen[firsts]]
        self._first[new], self._seen[new] = second[opening], True
        duplicate: BoolArray = second == self._first[slot]
        duplicate[opening] = False
        found: LongArray = position[duplicate]
        np.bitwise_or.at(self._bits, found >> 3, (1 << (found & 7)).astype(np.uint8))
        self.n_rows += len(found)
        return found

    def at(self, position: LongArray) -> BoolArray:
        """Whether the rows at the given positions are duplicates. Shape (n,)."""
        bits: BoolArray = (self._bits[position >> 3] >> (position & 7).astype(np.uint8)) & 1 == 1
        return bits
