"""One person of a world: what they like at a time, and which item they take. Formulas: docs/datasets.md.

The state of a person is a `Person`, made anew by each worker and filled by `meet`; `rng` is a counter.
"""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from vitrina.datasets.synth.tables import (
    APPEAL,
    BIRTH,
    EVER,
    FRESH,
    SECONDS_PER_DAY,
    USER_TASTE,
    key,
    mix,
    unit,
)
from vitrina.schema import DoubleArray, LongArray

TABLES_DIGEST = "2a127846437aa4af"
"""Digest of tables.py, whose functions are compiled into these: numba's cache sees one file alone."""

NOW, LAGGED = 0, 1
NEVER = -(1 << 40)
"""An era no slot is ever in."""


class Person(NamedTuple):
    """Slots of taste s = 0 .. S-1, now and as the recommender knows them (some days ago)."""

    rng: npt.NDArray[np.uint64]
    """(1,)"""
    about: npt.NDArray[np.uint64]
    """(1,), start of the stream of the person's topics"""
    share: DoubleArray
    """(S,), v_s, sums to 1"""
    phase: DoubleArray
    """(S,)"""
    era: LongArray
    """(2, S), the era each slot is in"""
    fading: LongArray
    """(2, S), topic of this era"""
    rising: LongArray
    """(2, S), topic of the next"""
    progress: DoubleArray
    """(2, S), how far the slot has moved from one to the other, in [0, 1)"""
    habits: DoubleArray
    """(2,), chance that an event is recommended, and that an organic one repeats"""


@numba.njit(cache=True, nogil=True)
def stranger(n_slots):  # type: ignore[no-untyped-def]
    """A Person to be filled."""
    return Person(
        np.zeros(1, np.uint64),
        np.zeros(1, np.uint64),
        np.zeros(n_slots),
        np.zeros(n_slots),
        np.full((2, n_slots), NEVER, np.int64),
        np.zeros((2, n_slots), np.int64),
        np.zeros((2, n_slots), np.int64),
        np.zeros((2, n_slots)),
        np.zeros(2),
    )


@numba.njit(cache=True, nogil=True, _nrt=False)
def draw(rng):  # type: ignore[no-untyped-def]
    """The next number in [0, 1) of a stream."""
    rng[0] += np.uint64(0x9E3779B97F4A7C15)
    return unit(mix(rng[0]))


@numba.njit(cache=True, nogil=True, _nrt=False)
def meet(person, user, rules):  # type: ignore[no-untyped-def]
    """Fill in who a user is: slots, phases, habits. Depends on the seed and the user alone."""
    person.about[0] = key(rules.seed, USER_TASTE, user)
    rng = person.rng
    rng[0] = person.about[0]
    total = 0.0
    for s in range(len(person.share)):
        person.share[s] = -np.log(1.0 - draw(rng))
        person.phase[s] = draw(rng)
        total += person.share[s]
    for s in range(len(person.share)):
        person.share[s] /= total
        person.era[NOW, s] = person.era[LAGGED, s] = NEVER
    person.habits[0] = rules.p_recommended * (0.5 + draw(rng))
    person.habits[1] = rules.p_repeat * (0.5 + draw(rng))


@numba.njit(cache=True, nogil=True, _nrt=False)
def look(person, which, ts_s, rules, tables):  # type: ignore[no-untyped-def]
    """Bring the slots of a person (NOW or LAGGED) to a time."""
    for s in range(len(person.share)):
        at = ts_s / rules.drift + person.phase[s]
        era = np.int64(np.floor(at))
        if era != person.era[which, s]:
            person.era[which, s] = era
            person.fading[which, s] = topic_of(person, s, era, tables)
            person.rising[which, s] = topic_of(person, s, era + 1, tables)
        person.progress[which, s] = at - era


@numba.njit(cache=True, nogil=True, _nrt=False)
def topic_at(u, tables):  # type: ignore[no-untyped-def]
    """The topic that the number u in [0, 1) points at."""
    low, high = np.int64(0), np.int64(len(tables.topic_cdf) - 1)
    while low < high:
        middle = (low + high) >> 1
        if tables.topic_cdf[middle] > u:
            high = middle
        else:
            low = middle + 1
    return low


@numba.njit(cache=True, nogil=True, _nrt=False)
def topic_of(person, slot, era, tables):  # type: ignore[no-untyped-def]
    """The topic of a slot in an era: drawn from the topics' shares by a hash."""
    start = mix(person.about[0] ^ mix(np.uint64(slot) * np.uint64(0xD1342543DE82EF95) + np.uint64(era)))
    return topic_at(unit(start), tables)


@numba.njit(cache=True, nogil=True, _nrt=False)
def taste(person, which, topic, rules, tables):  # type: ignore[no-untyped-def]
    """theta_z = eta g_z + (1 - eta) sum_s v_s [(1 - x_s) 1{z = fading_s} + x_s 1{z = rising_s}]."""
    own = 0.0
    for s in range(len(person.share)):
        x = person.progress[which, s]
        if person.fading[which, s] == topic:
            own += person.share[s] * (1.0 - x)
        if person.rising[which, s] == topic:
            own += person.share[s] * x
    return rules.p_global * tables.topic_p[topic] + (1.0 - rules.p_global) * own


@numba.njit(cache=True, nogil=True, _nrt=False)
def match(person, topic, rules, tables):  # type: ignore[no-untyped-def]
    """mu_z = theta_z / (theta_z + g_z): 1/2 where a person likes a topic as much as everybody does."""
    own = taste(person, NOW, topic, rules, tables)
    return own / (own + tables.topic_p[topic])


@numba.njit(cache=True, nogil=True, _nrt=False)
def draw_topic(person, which, rules, tables):  # type: ignore[no-untyped-def]
    """A topic from the taste theta. Takes one number, which is used up part by part."""
    u = draw(person.rng)
    if u < rules.p_global:
        return topic_at(u / rules.p_global, tables)
    u = (u - rules.p_global) / (1.0 - rules.p_global)
    s = np.int64(0)
    while s < len(person.share) - 1 and u >= person.share[s]:
        u -= person.share[s]
        s += 1
    rises = u < person.progress[which, s] * person.share[s]
    return person.rising[which, s] if rises else person.fading[which, s]


@numba.njit(cache=True, nogil=True, _nrt=False)
def last_born(topic, ts_s, tables):  # type: ignore[no-untyped-def]
    """Position of the youngest item of a topic that exists at a time."""
    day = max(int(ts_s / SECONDS_PER_DAY), 0)
    start = tables.topic_start[topic]
    low, high = start + tables.born_by_day[topic, day], start + tables.born_by_day[topic, day + 1]
    while low < high:
        middle = (low + high) >> 1
        if tables.item[BIRTH, middle] <= ts_s:
            low = middle + 1
        else:
            high = middle
    return low - 1


@numba.njit(cache=True, nogil=True, _nrt=False)
def topic_mass(last, ts_s, rules, tables):  # type: ignore[no-untyped-def]
    """The two parts of W_z(t): sum of eps a_i, and of (1 - eps) a_i exp(-lambda (t - b_i))."""
    rise = np.exp(rules.decay * (rules.horizon - ts_s))
    fresh = (1.0 - rules.p_evergreen) * rise * tables.item[FRESH, last]
    return rules.p_evergreen * tables.item[EVER, last], fresh


@numba.njit(cache=True, nogil=True, _nrt=False)
def draw_item(topic, u, ts_s, rules, tables):  # type: ignore[no-untyped-def]
    """The item of a topic with chance w_i(t) / W_z(t) that the number u in [0, 1) points at."""
    last = last_born(topic, ts_s, tables)
    ever, fresh = topic_mass(last, ts_s, rules, tables)
    point = u * (ever + fresh)
    part, goal = EVER, point / rules.p_evergreen
    if point >= ever:
        part, goal = FRESH, (point - ever) / fresh * tables.item[FRESH, last]
    low, high = tables.topic_start[topic], last
    while low < high:
        middle = (low + high) >> 1
        if tables.item[part, middle] > goal:
            high = middle
        else:
            low = middle + 1
    return low


@numba.njit(cache=True, nogil=True, _nrt=False)
def item_share(item, topic, ts_s, rules, tables):  # type: ignore[no-untyped-def]
    """w_i(t) / W_z(t), the chance of an item once its topic is drawn."""
    ever, fresh = topic_mass(last_born(topic, ts_s, tables), ts_s, rules, tables)
    age = ts_s - tables.item[BIRTH, item]
    weight = rules.p_evergreen + (1.0 - rules.p_evergreen) * np.exp(-rules.decay * age)
    return tables.item[APPEAL, item] * weight / (ever + fresh)


@numba.njit(cache=True, nogil=True, _nrt=False)
def n_born(ts_s, tables):  # type: ignore[no-untyped-def]
    """Items that exist at a time."""
    day = max(int(ts_s / SECONDS_PER_DAY), 0)
    low, high = tables.born_by_day[-1, day], tables.born_by_day[-1, day + 1]
    while low < high:
        middle = (low + high) >> 1
        if tables.births_sorted[middle] <= ts_s:
            low = middle + 1
        else:
            high = middle
    return low


@numba.njit(cache=True, nogil=True, _nrt=False)
def propensity(person, item, topic, ts_s, rules, tables):  # type: ignore[no-untyped-def]
    """q_i = (1 - xi) theta'_z w_i / W_z + xi / n(t): the chance that the feed shows it at a position."""
    known = taste(person, LAGGED, topic, rules, tables) * item_share(item, topic, ts_s, rules, tables)
    return (1.0 - rules.p_explore) * known + rules.p_explore / n_born(ts_s, tables)
