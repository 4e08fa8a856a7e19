"""From 64-bit keys to positions or counts, for streams of rows: arrays where keys are dense, else tables.

A slot of a hash table holds a key beside its value, so that a look-up costs one cache miss; open addressing
with linear probing, at most half full.
"""

import numba
import numpy as np
import numpy.typing as npt

from vitrina.log.rowhash import HashArray, mix
from vitrina.schema import IntArray, LongArray

_FREE = -1

DENSE_SLOTS_PER_KEY = 16
"""Keys are looked up in an array where their range is at most this many times their number."""

DENSE_COUNTS = 1 << 25
"""Keys from 0 to this are counted in an array, of which only touched pages take memory: 128 MB at most."""

DENSE_SLOTS_PER_ROW = 256
"""That array is at most this many times as long as the first batch of rows."""


class KeyTable:
    """Positions of n distinct 64-bit keys."""

    def __init__(self, keys: npt.NDArray[np.int64] | HashArray) -> None:
        keys = np.ascontiguousarray(keys).view(np.int64)
        n = len(keys)
        low, high = (int(keys.min()), int(keys.max())) if n else (0, 0)
        self._low, self._dense = low, high - low < DENSE_SLOTS_PER_KEY * n + 1024
        if self._dense:
            self._places = np.full(high - low + 1, _FREE, dtype=np.int32)
            self._places[keys - low] = np.arange(n, dtype=np.int32)
        else:
            self._slots = _new_slots(n)
            _insert(self._slots, keys, np.arange(n, dtype=np.int64))

    def find(self, keys: npt.NDArray[np.int64] | HashArray) -> IntArray:
        """Position of each key, -1 where it is not in the set. Shape (n,)."""
        asked = np.ascontiguousarray(keys).view(np.int64)
        out = np.empty(len(asked), dtype=np.int32)
        if self._dense:
            _find_dense(self._places, self._low, asked, out)
        else:
            _find(self._slots, asked, out)
        return out


class KeyCounts:
    """Distinct 64-bit keys of a stream and how often each occurs: 4 bytes a dense key, else 32 to 64."""

    def __init__(self, dense: int = DENSE_COUNTS, capacity: int = 1 << 12) -> None:
        self._limit = dense
        self._dense = np.zeros(0, dtype=np.int32)
        self._slots = _new_slots(capacity)
        self._n = 0

    def add(self, keys: LongArray) -> None:
        """Take in some keys; none may occur more than 2^31 times."""
        if not len(keys):
            return
        if not len(self._dense):  # an array much longer than the log would cost more than it saves
            self._dense = np.zeros(min(self._limit, DENSE_SLOTS_PER_ROW * len(keys)), dtype=np.int32)
        begin = 0
        while True:
            self._n, begin = _count(self._dense, self._slots, self._n, keys, begin)
            if begin == len(keys):
                return
            grown = _new_slots(len(self._slots))
            taken = self._slots[self._slots[:, 1] != _FREE]
            _insert(grown, np.ascontiguousarray(taken[:, 0]), np.ascontiguousarray(taken[:, 1]))
            self._slots = grown

    def sorted(self) -> tuple[LongArray, LongArray]:
        """Keys in ascending order, and their counts. Shapes (n,), (n,)."""
        dense = np.flatnonzero(self._dense)
        taken = self._slots[self._slots[:, 1] != _FREE]
        keys = np.concatenate([dense, taken[:, 0]])
        counts = np.concatenate([self._dense[dense], taken[:, 1]])
        order = np.argsort(keys)
        return keys[order], counts[order]


def _new_slots(n: int) -> LongArray:
    """Room for n keys and their values, half full then. Shape (a power of two, 2)."""
    slots = np.zeros((1 << max(1, (2 * n - 1).bit_length()), 2), dtype=np.int64)
    slots[:, 1] = _FREE
    return slots


@numba.njit(cache=True, nogil=True)
def _insert(slots: LongArray, keys: LongArray, values: LongArray) -> None:  # type: ignore[no-untyped-def, unused-ignore]
    mask = np.uint64(len(slots) - 1)
    for at in range(len(keys)):
        slot = mix(np.uint64(keys[at])) & mask
        while slots[slot, 1] != _FREE:
            slot = (slot + np.uint64(1)) & mask
        slots[slot, 0] = keys[at]
        slots[slot, 1] = values[at]


@numba.njit(cache=True, nogil=True)
def _find(slots: LongArray, asked: LongArray, out: IntArray) -> None:  # type: ignore[no-untyped-def, unused-ignore]
    mask = np.uint64(len(slots) - 1)
    for at in range(len(asked)):
        slot = mix(np.uint64(asked[at])) & mask
        while slots[slot, 1] != _FREE and slots[slot, 0] != asked[at]:
            slot = (slot + np.uint64(1)) & mask
        out[at] = slots[slot, 1]


@numba.njit(cache=True, nogil=True)
def _find_dense(places: IntArray, low: int, asked: LongArray, out: IntArray) -> None:  # type: ignore[no-untyped-def, unused-ignore]
    n = np.uint64(len(places))
    for at in range(len(asked)):
        place = np.uint64(asked[at]) - np.uint64(low)  # wraps, where signed overflow would be undefined
        out[at] = places[np.int64(place)] if place < n else _FREE


@numba.njit(cache=True, nogil=True)
def _count(  # type: ignore[no-untyped-def, unused-ignore]
    dense: IntArray, slots: LongArray, n: int, keys: LongArray, begin: int
) -> tuple[int, int]:
    """Counts keys from `begin` on, until the table is half full; returns its keys and how far it came."""
    mask = np.uint64(len(slots) - 1)
    for at in range(begin, len(keys)):
        key = keys[at]
        if 0 <= key < len(dense):
            dense[key] += 1
            continue
        slot = mix(np.uint64(key)) & mask
        while slots[slot, 1] != _FREE and slots[slot, 0] != key:
            slot = (slot + np.uint64(1)) & mask
        if slots[slot, 1] == _FREE:
            if 2 * n >= len(slots):
                return n, at
            slots[slot, 0] = key
            slots[slot, 1] = 0
            n += 1
        slots[slot, 1] += 1
    return n, len(keys)
