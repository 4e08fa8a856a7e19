"""From a 64-bit key to its position: a hash table over a fixed set of keys, for streams of rows."""

import numba
import numpy as np
import numpy.typing as npt

from vitrina.log.rowhash import HashArray, mix
from vitrina.schema import IntArray, LongArray

_FREE = np.int32(-1)


class KeyTable:
    """Positions of n distinct 64-bit keys.

    Keys that lie densely in a range are looked up in an array; others in an open-addressing table at most
    half full. 4 bytes a slot; the keys themselves are not copied. A look-up costs one or two cache misses.
    """

    def __init__(self, keys: npt.NDArray[np.int64] | HashArray) -> None:
        self.keys = np.ascontiguousarray(keys).view(np.int64)
        n = len(self.keys)
        low, high = (int(self.keys.min()), int(self.keys.max())) if n else (0, -1)
        self._low = low
        self._dense = high - low < 4 * n + 1024
        size = high - low + 1 if self._dense else 1 << max(1, (2 * n - 1).bit_length())
        self._slots = np.full(max(size, 1), _FREE, dtype=np.int32)
        if self._dense:
            self._slots[self.keys - low] = np.arange(n, dtype=np.int32)
        else:
            _insert(self._slots, self.keys)

    def find(self, keys: npt.NDArray[np.int64] | HashArray) -> IntArray:
        """Position of each key, -1 where it is not in the set. Shape (n,)."""
        asked = np.ascontiguousarray(keys).view(np.int64)
        out = np.empty(len(asked), dtype=np.int32)
        if self._dense:
            _find_dense(self._slots, self._low, asked, out)
        else:
            _find(self._slots, self.keys, asked, out)
        return out


@numba.njit(cache=True, nogil=True)
def _insert(slots: IntArray, keys: LongArray) -> None:  # type: ignore[no-untyped-def, unused-ignore]
    mask = np.uint64(len(slots) - 1)
    for at in range(len(keys)):
        slot = mix(np.uint64(keys[at])) & mask
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = at


@numba.njit(cache=True, nogil=True)
def _find(slots: IntArray, keys: LongArray, asked: LongArray, out: IntArray) -> None:  # type: ignore[no-untyped-def, unused-ignore]
    mask = np.uint64(len(slots) - 1)
    for at in range(len(asked)):
        slot = mix(np.uint64(asked[at])) & mask
        found = slots[slot]
        while found >= 0 and keys[found] != asked[at]:
            slot = (slot + np.uint64(1)) & mask
            found = slots[slot]
        out[at] = found


@numba.njit(cache=True, nogil=True)
def _find_dense(slots: IntArray, low: int, asked: LongArray, out: IntArray) -> None:  # type: ignore[no-untyped-def, unused-ignore]
    n = len(slots)
    for at in range(len(asked)):
        place = asked[at] - low
        out[at] = slots[place] if asked[at] >= low and place >= 0 and place < n else -1


class KeyCounts:
    """Distinct 64-bit keys of a stream and how often each occurs. 24 to 48 bytes a key."""

    def __init__(self, capacity: int = 1 << 16) -> None:
        self._slots = np.full(2 * capacity, _FREE, dtype=np.int32)
        self._keys = np.zeros(capacity, dtype=np.int64)
        self._counts = np.zeros(capacity, dtype=np.int64)
        self._n = 0

    def add(self, keys: LongArray) -> None:
        """Take in some keys."""
        begin = 0
        while True:
            self._n, begin = _count(self._slots, self._keys, self._counts, self._n, keys, begin)
            if begin == len(keys):
                return
            self._keys = np.concatenate([self._keys, np.zeros_like(self._keys)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
            self._slots = np.full(2 * len(self._slots), _FREE, dtype=np.int32)
            _insert(self._slots, self._keys[: self._n])

    def sorted(self) -> tuple[LongArray, LongArray]:
        """Keys in ascending order, and their counts. Shapes (n,), (n,)."""
        order = np.argsort(self._keys[: self._n])
        return self._keys[order], self._counts[order]


@numba.njit(cache=True, nogil=True)
def _count(  # type: ignore[no-untyped-def, unused-ignore]
    slots: IntArray, keys: LongArray, counts: LongArray, n: int, added: LongArray, begin: int
) -> tuple[int, int]:
    mask = np.uint64(len(slots) - 1)
    for at in range(begin, len(added)):
        slot = mix(np.uint64(added[at])) & mask
        while slots[slot] >= 0 and keys[slots[slot]] != added[at]:
            slot = (slot + np.uint64(1)) & mask
        if slots[slot] < 0:
            if n == len(keys):
                return n, at
            slots[slot] = n
            keys[n] = added[at]
            n += 1
        counts[slots[slot]] += 1
    return n, len(added)
