"""Time order within users: by user, then time; rows of equal user and time in an order drawn from a seed.

The draw is a hash of (seed, user, time, item); what is still equal goes by event, organic, weight. It depends
on the content of a row, not on its place in the file, so shuffling the file, reading it in buckets or in
parallel gives the same histories.
"""

import numba
import numpy as np
import polars as pl

from vitrina.log.rowhash import mix
from vitrina.schema import ByteArray, FloatArray, IntArray, LongArray

UNSAID = 2
"""Where nobody says whether a row is organic."""
_GOLDEN = 0x9E3779B97F4A7C15


def flags(organic: pl.Series) -> ByteArray:
    """1, 0 or `UNSAID` for true, false or null. Shape (N,)."""
    return organic.cast(pl.UInt8).fill_null(UNSAID).to_numpy()


def unsaid(n: int) -> ByteArray:
    """`UNSAID` n times."""
    return np.full(n, UNSAID, np.uint8)


def time_order(
    user_ix: IntArray,
    ts: LongArray,
    item_ix: IntArray,
    seed: int,
    event: ByteArray | None = None,
    weight: FloatArray | None = None,
    organic: ByteArray | None = None,
) -> LongArray:
    """Positions of the rows in time order. Shape (N,).

    NumPy's sort of the whole; `sort_user_rows` does the same on rows already grouped by user, faster.
    """
    key = np.asarray(item_ix, dtype=np.uint64) + (
        np.asarray(ts, dtype=np.int64).view(np.uint64) << np.uint64(20)
    )
    key ^= np.asarray(user_ix, dtype=np.uint64) << np.uint64(40)
    key += seed_key(seed)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    last = [part for part in (weight, organic, event) if part is not None]
    return np.lexsort((*last, key ^ (key >> np.uint64(31)), ts, user_ix))


@numba.njit(cache=True, nogil=True)
def place_by_user(local_ix: IntArray, offsets: LongArray, order: IntArray) -> None:  # type: ignore[no-untyped-def, unused-ignore]
    """Counting sort: `order[at]` becomes the row that belongs at `at`; rows of a user keep their order.

    Args:
        local_ix: user of each row, from 0. Shape (n,).
        offsets: where each user's rows begin. Shape (users + 1,).
        order: written. Shape (n,).
    """
    cursor = offsets.copy()
    for row in range(len(local_ix)):
        user = local_ix[row]
        order[cursor[user]] = row
        cursor[user] += 1


@numba.njit(cache=True, nogil=True)
def sort_user_rows(  # type: ignore[no-untyped-def, unused-ignore]
    offsets: LongArray,
    first_user: int,
    seed_key: np.uint64,
    order: IntArray,
    ts: LongArray,
    item_ix: IntArray,
    event: ByteArray,
    weight: FloatArray,
) -> None:
    """Bring `order`, grouped by user, into time order.

    Args:
        offsets: where each user's rows begin in `order`. Shape (users + 1,).
        first_user: user_ix of the first user.
        seed_key: `seed_key(seed)`.
        order: rows, grouped by user; permuted in place. Shape (n,).
        ts: of each row. Shape (n,).
        item_ix: of each row. Shape (n,).
        event: code of each row, or of its event and what else goes before the weight. Shape (n,).
        weight: of each row, empty where the log has none. Shape (n,).
    """
    for user in range(len(offsets) - 1):
        begin, end = offsets[user], offsets[user + 1]
        sorted_by_time = True
        for at in range(begin + 1, end):
            if ts[order[at]] < ts[order[at - 1]]:
                sorted_by_time = False
                break
        if not sorted_by_time:
            segment = order[begin:end].copy()
            order[begin:end] = segment[np.argsort(ts[segment], kind="mergesort")]
        at = begin
        while at < end:
            stop = at + 1
            while stop < end and ts[order[stop]] == ts[order[at]]:
                stop += 1
            if stop - at > 1:
                _shuffle_ties(
                    order[at:stop], np.uint64(first_user + user), seed_key, ts, item_ix, event, weight
                )
            at = stop


@numba.njit(cache=True, nogil=True)
def _shuffle_ties(  # type: ignore[no-untyped-def, unused-ignore]
    rows: IntArray,
    user: np.uint64,
    seed_key: np.uint64,
    ts: LongArray,
    item_ix: IntArray,
    event: ByteArray,
    weight: FloatArray,
) -> None:
    n = len(rows)
    key = np.empty(n, dtype=np.uint64)
    for at in range(n):
        row = rows[at]
        raw = (np.uint64(item_ix[row]) + (np.uint64(ts[row]) << np.uint64(20))) ^ (user << np.uint64(40))
        key[at] = mix(raw + seed_key)
    taken = rows.copy()
    by_key = np.argsort(key, kind="mergesort")
    rows[:] = taken[by_key]
    begin = 0
    while begin < n:
        end = begin + 1
        while end < n and key[by_key[end]] == key[by_key[begin]]:
            end += 1
        if end - begin > 1:  # the same item at the same time: by event, then weight
            equal = rows[begin:end].copy()
            if len(weight):
                equal = equal[np.argsort(weight[equal], kind="mergesort")]
            rows[begin:end] = equal[np.argsort(event[equal], kind="mergesort")]
        begin = end


def seed_key(seed: int) -> np.uint64:
    """What the seed adds to the hash of a row."""
    return np.uint64(seed * _GOLDEN % 2**64)
