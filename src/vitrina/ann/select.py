"""Kernels that pick the k best of a row: score descending, ties by smaller item.

A (score, item) pair is packed into one unsigned 64-bit key whose order is the order of the list:

    bits 63..32   the float32 score, its bits rearranged so that they compare as unsigned integers
    bits 31..0    2^32 - 1 - item, so that of equal scores the smaller item has the larger key

so that a heap or a sort compares one integer instead of two numbers. NaN and -inf never become a key.
"""

import numba
import numpy as np

_SIGN = np.uint32(0x80000000)
_LOW = np.uint64(0xFFFFFFFF)


@numba.njit(cache=True, nogil=True, inline="always")
def pack(bits, item):  # type: ignore[no-untyped-def]
    """Key of a score, given as the uint32 bits of its float32, and an item."""
    if bits == _SIGN:  # -0.0 equals 0.0
        bits = np.uint32(0)
    ordered = np.uint32(~bits) if bits & _SIGN else np.uint32(bits | _SIGN)
    return (np.uint64(ordered) << np.uint64(32)) | (_LOW - np.uint64(item))


@numba.njit(cache=True, nogil=True)
def push(heap, n, key):  # type: ignore[no-untyped-def]
    """Add a key to a min-heap that holds n of at most len(heap) keys; returns the new n."""
    k = len(heap)
    if n < k:
        child = n
        while child > 0:
            parent = (child - 1) >> 1
            if heap[parent] <= key:
                break
            heap[child] = heap[parent]
            child = parent
        heap[child] = key
        return n + 1
    if key > heap[0]:
        _sift_down(heap, n, key)
    return n


@numba.njit(cache=True, nogil=True)
def _sift_down(heap, n, key):  # type: ignore[no-untyped-def]
    """Replace the root of a heap of n keys by `key`."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= n:
            break
        if child + 1 < n and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= key:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = key


@numba.njit(cache=True, nogil=True)
def drain(heap, n, item_K, bits_K):  # type: ignore[no-untyped-def]
    """Write the n keys of a min-heap in falling order as items and score bits; the heap is used up."""
    for last in range(n - 1, -1, -1):
        key = heap[0]
        if last:
            _sift_down(heap, last, heap[last])
        ordered = np.uint32(key >> np.uint64(32))
        bits_K[last] = np.uint32(ordered & ~_SIGN) if ordered & _SIGN else np.uint32(~ordered)
        item_K[last] = np.int32(_LOW - (key & _LOW))


@numba.njit(cache=True, nogil=True)
def select_listed(items, scores, bits, n, heap, item_K, bits_K):  # type: ignore[no-untyped-def]
    """The best of n listed (item, score) pairs in any order, items distinct; `bits` views `scores`."""
    n_kept = 0
    for at in range(n):
        if scores[at] > -np.inf:
            n_kept = push(heap, n_kept, pack(bits[at], items[at]))
    drain(heap, n_kept, item_K, bits_K)
