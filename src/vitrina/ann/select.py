"""Kernels that pick the k best of a row: score descending, ties by smaller item.

A (score, item) pair is packed into one unsigned 64-bit key whose order is the order of the list:

    bits 63..32   the float32 score, its bits rearranged so that they compare as unsigned integers
    bits 31..0    2^32 - 1 - item, so that of equal scores the smaller item has the larger key

so that selecting and sorting compare one integer. NaN and -inf never become a key.

Most scores are dismissed without a look: rows are reduced to the maxima of groups of 8 scores, 16 groups side
by side, which compiles to vector instructions, and only groups whose maximum reaches the floor are opened.
A floor is a score that is known, or guessed and checked later, to be at most the k-th best.
"""

from typing import Any

import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.extending import intrinsic

_SIGN = np.uint32(0x80000000)
_LOW = np.uint64(0xFFFFFFFF)
LOWEST = np.finfo(np.float32).min
"""The floor of a row of which nothing is known: every finite score and +inf reach it, -inf and NaN do not."""
WIDTH = 16
"""Groups side by side: the floats of one AVX-512 register, or of two AVX2 registers."""
DEPTH = 8
"""Scores of a group."""
STRIPE = WIDTH * DEPTH
_WORD = 8 * DEPTH
"""Scores behind one 64-bit word of group flags."""


def fresh(n_rows: int, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """State of n_rows empty lists: keys in any order, how many, the floor, the key that must be beaten."""
    keys = np.empty((n_rows, 4 * k + STRIPE + _WORD), np.uint64)
    floor = np.full(n_rows, LOWEST, np.float32)
    return keys, np.zeros(n_rows, np.int64), floor, np.zeros(n_rows, np.uint64)


def scratch_for(n_scores: int) -> tuple[np.ndarray, np.ndarray]:
    """Memory that `offer` and `raise_floors` work in, for tiles of at most so many columns; one a thread."""
    n_groups = max(1, n_scores // STRIPE) * WIDTH
    return np.empty(n_groups, np.float32), np.zeros(n_groups, np.uint8)


@numba.njit(cache=True, nogil=True)
def offer(tile, left, number, k, state, scratch):  # type: ignore[no-untyped-def]
    """Offer columns of scores to the lists of their rows.

    Args:
        tile: (R, T) float32, C order.
        left: position of the first column.
        number: item of each position; empty where they are the same.
        k: length of a list.
        state: from `fresh`, R rows.
        scratch: from `scratch_for(T)`.
    """
    (keys, size, floor_R, worst), (best, flags) = state, scratch
    bits, words = tile.view(np.uint32), flags.view(np.uint64)
    width = tile.shape[1]
    n_stripes = width // STRIPE
    for b in range(len(tile)):
        floor = floor_R[b]
        _group_maxima(tile, b, n_stripes, best)
        for g in range(n_stripes * WIDTH):
            flags[g] = best[g] >= floor
        done = size[b]
        n = done
        for w in range(n_stripes * (WIDTH // 8)):
            word = words[w]
            if word and n + _WORD > keys.shape[1]:
                done = _settle(bits, b, left, number, keys, done, n, worst)
                done = _shrink(keys[b], done, k, floor_R, worst, b)
                n, floor = done, floor_R[b]
            while word:
                g = 8 * w + (_trailing_zeros(word) >> 3)
                word &= word - np.uint64(1)
                base = (g // WIDTH) * STRIPE + g % WIDTH
                for r in range(DEPTH):
                    keys[b, n] = base + r * WIDTH
                    n += np.int64(tile[b, base + r * WIDTH] >= floor)
        if n + STRIPE > keys.shape[1]:
            done = _settle(bits, b, left, number, keys, done, n, worst)
            done = _shrink(keys[b], done, k, floor_R, worst, b)
            n, floor = done, floor_R[b]
        for at in range(n_stripes * STRIPE, width):
            keys[b, n] = at
            n += np.int64(tile[b, at] >= floor)
        size[b] = _settle(bits, b, left, number, keys, done, n, worst)


@numba.njit(cache=True, nogil=True)
def raise_floors(tile, rank, n_sets, state, scratch):  # type: ignore[no-untyped-def]
    """Set each row's floor to a score that at least `rank` scores of the tile reach.

    It is the rank-th largest of the maxima of n_sets disjoint sets of scores: the closer to the true rank-th
    score the more sets there are. A tile too narrow for n_sets groups leaves the floors as they are.
    """
    (_, _, floor_R, _), (best, _) = state, scratch
    n_stripes = tile.shape[1] // STRIPE
    n_groups = n_stripes * WIDTH
    if n_groups < n_sets or n_sets < rank:
        return
    for b in range(len(tile)):
        _group_maxima(tile, b, n_stripes, best)
        for base in range(n_sets, n_groups, n_sets):
            for j in range(min(n_sets, n_groups - base)):
                s = best[base + j]
                best[j] = s if s > best[j] else best[j]
        _select(best, n_sets, rank)
        floor_R[b] = max(LOWEST, best[rank - 1])


@numba.njit(cache=True, nogil=True)
def drain(k, state, out):  # type: ignore[no-untyped-def]
    """Write the k best keys of each row, best first, as items and score bits; the state is used up."""
    (keys, size, _, _), (item_BK, bits_BK) = state, out
    for b in range(len(keys)):
        n = size[b]
        if n > k:
            _select(keys[b], n, k)
            n = k
        keys[b][:n].sort()
        for at in range(n):
            key = keys[b, n - 1 - at]
            bits_BK[b, at] = score_bits(key)
            item_BK[b, at] = item_of(key)


@numba.njit(cache=True, nogil=True, inline="always")
def _group_maxima(tile, b, n_stripes, best):  # type: ignore[no-untyped-def]
    """best[16 c + j] = max over r < 8 of row[128 c + 16 r + j]; a NaN is never the maximum."""
    for c in range(n_stripes):
        for j in range(WIDTH):
            m = np.float32(-np.inf)
            for r in range(DEPTH):
                s = tile[b, c * STRIPE + r * WIDTH + j]
                m = s if s > m else m
            best[c * WIDTH + j] = m


@numba.njit(cache=True, nogil=True, inline="always")
def _settle(bits, b, left, number, keys, done, n, worst):  # type: ignore[no-untyped-def]
    """Turn columns done..n of the list into keys, and keep those that beat the worst; returns the new end."""
    end = done
    for at in range(done, n):
        column = np.int64(keys[b, at])
        item = number[left + column] if len(number) else np.int32(left + column)
        key = key_of(bits[b, column], item)
        keys[b, end] = key
        end += np.int64(key > worst[b])
    return end


@numba.njit(cache=True, nogil=True)
def _shrink(keys, n, k, floor_R, worst, b):  # type: ignore[no-untyped-def]
    """Keep the k largest of n keys, the smallest of them as the new bar; returns how many are left."""
    if n < k:
        return n
    _select(keys, n, k)
    worst[b] = keys[k - 1]
    one = np.empty(1, np.uint32)
    one[0] = score_bits(keys[k - 1])
    floor_R[b] = max(floor_R[b], one.view(np.float32)[0])
    return k


@numba.njit(cache=True, nogil=True)
def key_of(bits, item):  # type: ignore[no-untyped-def]
    """Key of a score, given as the bits of its float32, and an item."""
    if bits == _SIGN:  # -0.0 equals 0.0
        bits = np.uint32(0)
    ordered = np.uint32(~bits) if bits & _SIGN else np.uint32(bits | _SIGN)
    return (np.uint64(ordered) << np.uint64(32)) | (_LOW - np.uint64(item))


@numba.njit(cache=True, nogil=True)
def score_bits(key):  # type: ignore[no-untyped-def]
    """Bits of the float32 score of a key."""
    ordered = np.uint32(key >> np.uint64(32))
    return np.uint32(ordered & ~_SIGN) if ordered & _SIGN else np.uint32(~ordered)


@numba.njit(cache=True, nogil=True)
def item_of(key):  # type: ignore[no-untyped-def]
    """Item of a key."""
    return np.int32(_LOW - (key & _LOW))


@numba.njit(cache=True, nogil=True)
def push(heap, n, key):  # type: ignore[no-untyped-def]
    """Offer a key to a min-heap that holds n of at most len(heap) keys; returns the new n."""
    if n < len(heap):
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
        at = 0
        while 2 * at + 1 < n:
            child = 2 * at + 1
            if child + 1 < n and heap[child + 1] < heap[child]:
                child += 1
            if heap[child] >= key:
                break
            heap[at] = heap[child]
            at = child
        heap[at] = key
    return n


@numba.njit(cache=True, nogil=True)
def best_keys(items, scores, n, k, state, scratch):  # type: ignore[no-untyped-def]
    """The k best of n listed (item, score) pairs in any order, items distinct, NaN and -inf left out.

    Args:
        items: (>= n,) int32.
        scores: (>= n,) float32.
        n: how many there are.
        k: how many are wanted.
        state: from `fresh(1, k)`; its first keys are the result, in no order.
        scratch: from `scratch_for(>= n)`.

    Returns:
        How many keys there are.
    """
    keys, size, floor_R, worst = state
    size[0], floor_R[0], worst[0] = 0, LOWEST, 0
    tile = scores[:n].reshape(1, n)
    n_sets = 1
    while n_sets < 2 * k:
        n_sets *= 2
    raise_floors(tile, k, n_sets, state, scratch)
    offer(tile, 0, items, k, state, scratch)
    if size[0] > k:
        _select(keys[0], size[0], k)
        size[0] = k
    return size[0]


@numba.njit(cache=True, nogil=True)
def _select(values, n, k):  # type: ignore[no-untyped-def]
    """Hoare's selection: the k largest of values[:n] come first, the smallest of them at k - 1. No NaN."""
    lo, hi, want = 0, n - 1, k - 1
    while lo < hi:
        pivot = values[(lo + hi) >> 1]
        i, j = lo, hi
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if want <= j:
            hi = j
        elif want >= i:
            lo = i
        else:
            break


@intrinsic
def _trailing_zeros(typing_context: Any, word: Any) -> Any:  # noqa: ARG001 (numba calls it so)
    """Zero bits below the lowest set bit of a uint64 that is not 0: one machine instruction."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:  # noqa: ARG001
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate
