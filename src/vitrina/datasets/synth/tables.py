"""Everything a world holds that does not depend on a user: dice, topics, items.

Random numbers are hashes (splitmix64, Steele et al. 2014) of (seed, purpose, index): the number that item 17
or the fifth event of user 3 gets does not depend on who asks, in which order, or in how many threads.
"""

from itertools import pairwise
from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from vitrina.schema import BoolArray, DoubleArray, IntArray, LongArray

TO_UNIT = 2.0**-53
SECONDS_PER_DAY = 86_400.0

BIRTH, APPEAL, EVER, FRESH = 0, 1, 2, 3
"""Rows of `Tables.item`."""

ITEM_TOPIC, ITEM_BIRTH, ITEM_APPEAL, ITEM_LENGTH, ITEM_AUTHOR, ITEM_TITLE = 1, 2, 3, 4, 5, 6
USER_ACTIVITY, USER_ARRIVAL, USER_TASTE, USER_TIMES, USER_CHOICES, USER_FEEDBACK = 11, 12, 13, 14, 15, 16
"""Purposes; each has a stream of its own, so that a parameter of one leaves the dice of the others."""

DIURNAL = 0.7
"""Amplitude of the daily rhythm: the busiest hour sees (1 + 0.7) / (1 - 0.7) times the quietest."""
PEAK_DAY = 20.0 / 24.0
"""Busiest time, as a part of a UTC day."""


class Rules(NamedTuple):
    """The numbers of a world, as the kernels read them; times in seconds. Meanings: `World`."""

    seed: np.uint64
    dice: np.uint64
    """Seed of what happens, as `seed` is of who everybody is."""
    horizon: float
    n_slots: int
    p_global: float
    drift: float
    decay: float
    """lambda = ln 2 / half-life"""
    p_evergreen: float
    session_len: float
    gap: float
    p_session: float
    frac_late: float
    p_repeat: float
    p_recommended: float
    p_explore: float
    lag: float
    slate_len: int
    take_low: float
    take_high: float
    full_low: float
    full_high: float
    p_like: float
    p_dislike: float
    p_undo_like: float
    p_undo_dislike: float


class Tables(NamedTuple):
    """Topics Z and items I; items are in the order of (topic, birth)."""

    topic_p: DoubleArray
    """g, share of each topic. Shape (Z,)."""
    topic_cdf: DoubleArray
    """(Z,)"""
    topic_start: LongArray
    """(Z + 1,), first item of each topic"""
    topic: IntArray
    """(I,)"""
    item: DoubleArray
    """(4, I): BIRTH in seconds, negative for what is older than the log; APPEAL; EVER, running sum of appeal
    within the topic; FRESH, running sum of appeal * exp(decay * (birth - horizon)) within the topic"""
    born_by_day: LongArray
    """(Z + 1, days + 2), items born before the start of each day, by topic; the last row is for all topics"""
    by_birth: IntArray
    """(I,), items in order of birth"""
    births_sorted: DoubleArray
    """(I,)"""
    examined: DoubleArray
    """(slate_len,), chance that a position is looked at"""
    time_of_day: DoubleArray
    """Inverse of the daily rhythm's distribution on an even grid."""


@numba.njit(cache=True, nogil=True)
def mix(x):  # type: ignore[no-untyped-def]
    """The finaliser of splitmix64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@numba.njit(cache=True, nogil=True)
def key(seed, purpose, index):  # type: ignore[no-untyped-def]
    """Start of the stream of one thing: a hash of (seed, purpose, index)."""
    inner = mix(np.uint64(seed) + np.uint64(purpose) * np.uint64(0xD1342543DE82EF95))
    return mix(inner ^ (np.uint64(index) * np.uint64(0x9E3779B97F4A7C15)))


@numba.njit(cache=True, nogil=True)
def unit(bits):  # type: ignore[no-untyped-def]
    """A number in [0, 1) from 64 bits."""
    return np.float64(bits >> np.uint64(11)) * TO_UNIT


@numba.njit(cache=True, nogil=True)
def hashed(seed, purpose, n):  # type: ignore[no-untyped-def]
    """Uniform numbers of things 0 .. n-1. Shape (n,)."""
    out = np.empty(n)
    for index in range(n):
        out[index] = unit(mix(key(seed, purpose, index) + np.uint64(0x9E3779B97F4A7C15)))
    return out


@numba.njit(cache=True, nogil=True)
def hashed_normal(seed, purpose, n):  # type: ignore[no-untyped-def]
    """Standard normal numbers of things 0 .. n-1, by Box and Muller. Shape (n,)."""
    out = np.empty(n)
    for index in range(n):
        start = key(seed, purpose, index)
        first = unit(mix(start + np.uint64(0x9E3779B97F4A7C15)))
        second = unit(mix(start + np.uint64(2) * np.uint64(0x9E3779B97F4A7C15)))
        out[index] = np.sqrt(-2.0 * np.log(1.0 - first)) * np.cos(2.0 * np.pi * second)
    return out


def make_tables(
    rules: Rules, *, n_items: int, n_topics: int, topic_skew: float, appeal_sigma: float, frac_old: float
) -> Tables:
    """Topics and items of a world.

    The first n_topics items take one topic each and are older than the log, so that no topic is ever empty.
    """
    topic_p = np.asarray(np.arange(1, n_topics + 1) ** -topic_skew, dtype=np.float64)
    topic_p /= topic_p.sum()
    topic_cdf = np.cumsum(topic_p)
    topic_cdf[-1] = 1.0
    topic = np.searchsorted(topic_cdf, hashed(rules.seed, ITEM_TOPIC, n_items), side="right")
    topic[:n_topics] = np.arange(n_topics)
    age = hashed(rules.seed, ITEM_BIRTH, n_items)
    is_old = age < frac_old
    is_old[:n_topics] = True
    within = np.where(
        is_old, age / frac_old if frac_old else 0.0, (age - frac_old) / max(1.0 - frac_old, 1e-12)
    )
    within[:n_topics] = (1.0 + np.arange(n_topics)) / (n_topics + 1.0)
    birth = np.where(is_old, -rules.horizon * -np.log1p(-within) - 1.0, rules.horizon * within)
    appeal = np.exp(appeal_sigma * hashed_normal(rules.seed, ITEM_APPEAL, n_items))
    order = np.lexsort((np.arange(n_items), birth, topic))
    topic, birth, appeal = topic[order].astype(np.int32), birth[order], appeal[order]
    topic_start = np.searchsorted(topic, np.arange(n_topics + 1)).astype(np.int64)
    by_birth = np.argsort(birth, kind="stable").astype(np.int32)
    fresh = _running(appeal * np.exp(rules.decay * (birth - rules.horizon)), topic_start)
    return Tables(
        topic_p=topic_p,
        topic_cdf=topic_cdf,
        topic_start=topic_start,
        topic=topic,
        item=np.stack([birth, appeal, _running(appeal, topic_start), fresh]),
        born_by_day=_born_by_day(birth, topic_start, rules.horizon),
        by_birth=by_birth,
        births_sorted=birth[by_birth],
        examined=1.0 / np.sqrt(np.arange(1.0, rules.slate_len + 1.0)),
        time_of_day=_time_of_day(),
    )


def _running(values: DoubleArray, topic_start: LongArray) -> DoubleArray:
    """Cumulative sums that start anew at each topic."""
    return np.concatenate([np.cumsum(values[a:b]) for a, b in pairwise(topic_start)])


def _born_by_day(birth: DoubleArray, topic_start: LongArray, horizon: float) -> LongArray:
    edges = np.arange(int(np.ceil(horizon / SECONDS_PER_DAY)) + 2) * SECONDS_PER_DAY
    parts = [np.searchsorted(birth[a:b], edges, side="left") for a, b in pairwise(topic_start)]
    return np.array([*parts, np.sum(parts, axis=0)], dtype=np.int64)


def _time_of_day(n_steps: int = 1440) -> DoubleArray:
    """Part of a day below which a share y of a day's visits falls, for y = 0, 1/n, ..., 1."""
    h = np.linspace(0.0, 1.0, 8 * n_steps + 1)
    rhythm = np.sin(2 * np.pi * (h - PEAK_DAY)) + np.sin(2 * np.pi * PEAK_DAY)
    return np.interp(np.linspace(0.0, 1.0, n_steps + 1), h + DIURNAL / (2 * np.pi) * rhythm, h)


def event_counts(rules: Rules, *, n_users: int, n_events: int, sigma: float) -> tuple[LongArray, DoubleArray]:
    """How many events each user has (their sum is n_events exactly), and when each user first comes.

    Activity is log-normal, cut at 2.5 standard deviations; a user who comes late has the share of it that is
    left of the horizon.
    """
    late = hashed(rules.seed, USER_ARRIVAL, n_users)
    arrival = np.where(late < rules.frac_late, late / max(rules.frac_late, 1e-12) * 0.95 * rules.horizon, 0.0)
    normal = np.clip(hashed_normal(rules.seed, USER_ACTIVITY, n_users), -2.5, 2.5)
    weight = np.exp(sigma * normal) * (1.0 - arrival / rules.horizon)
    cumulative = np.cumsum(weight)
    edges = np.floor(n_events * (cumulative / cumulative[-1]) + 0.5).astype(np.int64)
    edges[-1] = n_events
    return np.diff(edges, prepend=0), arrival


def public_order(n: int, seed: int) -> npt.NDArray[np.int64]:
    """A bijection of 0 .. n-1 that hides topic and age: i -> (a i + c) mod n a prime to n. Shape (n,)."""
    start = (seed * 0x9E3779B97F4A7C15 % 2**64) % n
    step = max(int(0.6180339887 * n), 1)
    while np.gcd(step, n) != 1:
        step += 1
    return (np.arange(n, dtype=np.int64) * step + start) % n


def born(tables: Tables, ts_s: float) -> BoolArray:
    """Items that exist at a time. Shape (I,)."""
    return np.asarray(tables.item[BIRTH] <= ts_s)
