"""What a block of users does, event by event: visits, choices, feeds, feedback."""

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from vitrina.datasets.synth.people import (
    LAGGED,
    NOW,
    draw,
    draw_item,
    draw_topic,
    look,
    match,
    meet,
    n_born,
    propensity,
    stranger,
)
from vitrina.datasets.synth.tables import (
    SECONDS_PER_DAY,
    USER_CHOICES,
    USER_FEEDBACK,
    USER_TIMES,
    Rules,
    Tables,
    key,
)
from vitrina.schema import ByteArray, DoubleArray, FloatArray, IntArray, LongArray

PEOPLE_DIGEST = "49364de2cb774abf"
"""Digest of people.py, whose functions are compiled into these: numba's cache sees one file alone."""

FRESH, REPEAT, RECOMMENDED, EXPLORED = 0, 1, 2, 3
"""Why an event happened; the last two are of the feed."""
LIKE, DISLIKE, UNLIKE, UNDISLIKE = 0, 1, 2, 3


class Block(NamedTuple):
    """Events of consecutive users, by user and time. N events, R reactions, V views of the feed."""

    ts_s: DoubleArray
    """(N,), seconds since the start"""
    item: IntArray
    """(N,)"""
    cause: ByteArray
    """(N,)"""
    visit_topic: npt.NDArray[np.int16]
    """(N,), what the visit is about"""
    starts_visit: ByteArray
    """(N,), 1 for the first event of a visit"""
    propensity: FloatArray
    """(N,), of the item at the position where it was taken; NaN if organic"""
    played_pct: npt.NDArray[np.uint16]
    """(N,)"""
    reaction_row: IntArray
    """(R,), the event it follows"""
    reaction_kind: ByteArray
    """(R,)"""
    reaction_ts_s: DoubleArray
    """(R,)"""
    view_row: IntArray
    """(V,), the event that the feed led to"""
    view_item: IntArray
    """(V,)"""
    view_position: ByteArray
    """(V,), from 0"""
    view_propensity: FloatArray
    """(V,)"""
    view_taken: ByteArray
    """(V,)"""


@numba.njit(cache=True, nogil=True)
def visits(user, n_events, arrival, rules, tables, ts_s, starts_visit):  # type: ignore[no-untyped-def]
    """Times of a user's events, increasing; marks the first of each visit.

    Visits start at the order statistics of uniform times, bent to the daily rhythm; their lengths are
    proportional to exponential draws; events of a visit are one gap apart, with jitter, and end before the
    next visit.
    """
    rng = np.array([key(rules.dice, USER_TIMES, user)], dtype=np.uint64)
    n_visits = max(int(n_events / rules.session_len + 0.5), 1)
    start, until = np.empty(n_visits + 1), np.empty(n_visits)
    at = length = 0.0
    for v in range(n_visits):
        at -= np.log(1.0 - draw(rng))
        length -= np.log(1.0 - draw(rng))
        start[v], until[v] = at, length
    at -= np.log(1.0 - draw(rng))
    for v in range(n_visits):
        start[v] = rhythm(arrival + start[v] / at * (rules.horizon - arrival), rules.horizon, tables)
    start[n_visits] = rules.horizon
    first = 0
    for v in range(n_visits):
        end = n_events if v == n_visits - 1 else int(n_events * (until[v] / length) + 0.5)
        gap = rules.gap * (0.5 + draw(rng))
        if end == first:
            continue
        gap = min(gap, (start[v + 1] - start[v]) / (end - first))
        for row in range(first, end):
            ts_s[row] = start[v] + (row - first + draw(rng)) * gap
            starts_visit[row] = 1 if row == first else 0
        first = end


@numba.njit(cache=True, nogil=True, _nrt=False)
def rhythm(ts_s, horizon, tables):  # type: ignore[no-untyped-def]
    """Move a time within its day so that evenly spread times follow the daily rhythm; keeps the order."""
    day = np.floor(ts_s / SECONDS_PER_DAY)
    if (day + 1.0) * SECONDS_PER_DAY > horizon:
        return ts_s  # the last day is not whole
    n_steps = len(tables.time_of_day) - 1
    part = (ts_s / SECONDS_PER_DAY - day) * n_steps
    step = min(int(part), n_steps - 1)
    low, high = tables.time_of_day[step], tables.time_of_day[step + 1]
    return (day + low + (part - step) * (high - low)) * SECONDS_PER_DAY


@numba.njit(cache=True, nogil=True, _nrt=False)
def back(u, n_past):  # type: ignore[no-untyped-def]
    """How many events back a repeat reaches: P(n) = ln(1 + 1/n) / ln(H + 1), n = 1 .. H."""
    return min(int(np.exp(u * np.log(n_past + 1.0))), n_past)


@numba.njit(cache=True, nogil=True, _nrt=False)
def feed(person, ts_s, rules, tables, weigh, views, n_views, row):  # type: ignore[no-untyped-def]
    """Show one item after another until one is taken; log each in `views` where that has room for any.

    Returns:
        The item taken, its topic, its propensity (NaN unless `weigh`), its cause, and the views so far.
    """
    logged = len(views[0]) > 0
    position = 0
    while True:
        explores = draw(person.rng) < rules.p_explore
        topic = draw_topic(person, LAGGED, rules, tables)
        which, accept = draw(person.rng), draw(person.rng)
        item = np.int64(-1)
        if explores:
            item = np.int64(tables.by_birth[np.int64(which * n_born(ts_s, tables))])
            topic = np.int64(tables.topic[item])
        takes = rules.take_low + (rules.take_high - rules.take_low) * match(person, topic, rules, tables)
        taken = accept < tables.examined[position] * takes
        if taken or logged:
            if item < 0:
                item = draw_item(topic, which, ts_s, rules, tables)
            chance = propensity(person, item, topic, ts_s, rules, tables) if weigh else np.nan
            if logged:
                if n_views == len(views[0]):
                    return item, topic, -1.0, RECOMMENDED, n_views
                views[0][n_views], views[1][n_views], views[2][n_views] = row, item, position
                views[3][n_views], views[4][n_views] = chance, taken
                n_views += 1
            if taken:
                return item, topic, chance, EXPLORED if explores else RECOMMENDED, n_views
        position = (position + 1) % rules.slate_len


@numba.njit(cache=True, nogil=True, _nrt=False)
def live(user, n_events, person, rules, tables, out, first, weigh, views, n_views):  # type: ignore[no-untyped-def]
    """All choices of one user, in rows first .. first + n_events of `out`. Returns views, or -1 if full."""
    ts_s, item, cause, visit_topic, starts_visit, chance, topic_of_row, mu = out
    meet(person, user, rules)
    person.rng[0] = key(rules.dice, USER_CHOICES, user)
    about = np.int64(0)
    for row in range(first, first + n_events):
        t = ts_s[row]
        look(person, NOW, t, rules, tables)
        if starts_visit[row]:
            about = draw_topic(person, NOW, rules, tables)
        visit_topic[row] = about
        chance[row] = np.nan
        how, which = draw(person.rng), draw(person.rng)
        if how < person.habits[0]:
            look(person, LAGGED, t - rules.lag, rules, tables)
            item[row], topic, chance[row], cause[row], n_views = feed(
                person, t, rules, tables, weigh, views, n_views, row
            )
            if chance[row] < 0:
                return np.int64(-1)
        elif row > first and draw(person.rng) < person.habits[1]:
            past = row - back(which, row - first)
            item[row], cause[row], topic = item[past], REPEAT, np.int64(topic_of_row[past])
        else:
            topic = about if draw(person.rng) < rules.p_session else draw_topic(person, NOW, rules, tables)
            item[row], cause[row] = draw_item(topic, which, t, rules, tables), FRESH
        topic_of_row[row], mu[row] = topic, match(person, topic, rules, tables)
    return n_views


@numba.njit(cache=True, nogil=True, _nrt=False)
def react(user, n_events, person, rules, out, first, played_pct, reactions, n):  # type: ignore[no-untyped-def]
    """How much of each item was played, and likes and dislikes: at most one of them per user and item.

    Returns:
        The number of reactions so far. `reactions` has room for two a row.
    """
    ts_s, item, match_of = out[0], out[1], out[7]
    row_of, kind_of, ts_of = reactions
    before = n
    rng = person.rng
    rng[0] = key(rules.dice, USER_FEEDBACK, user)
    for row in range(first, first + n_events):
        t, mu = ts_s[row], match_of[row]
        plays, amount, says = draw(rng), draw(rng), draw(rng)
        if plays < rules.full_low + (rules.full_high - rules.full_low) * mu:
            played_pct[row] = 100 if amount < 0.8 else np.uint16(50 + 250 * (amount - 0.8))
            kind, p_says, p_undo = LIKE, rules.p_like * mu, rules.p_undo_like
        else:
            played_pct[row] = np.uint16(50.0 * amount**5)
            kind, p_says, p_undo = DISLIKE, rules.p_dislike * (1.0 - mu), rules.p_undo_dislike
        if says >= p_says:
            continue
        known = False
        for other in range(before, n):
            known = known or item[row_of[other]] == item[row]
        if known:
            continue
        row_of[n], kind_of[n], ts_of[n] = row, kind, t
        n += 1
        if draw(rng) < p_undo:
            row_of[n], kind_of[n], ts_of[n] = row, kind + 2, t + draw(rng) * (rules.horizon - t)
            n += 1
    return n


@numba.njit(cache=True, nogil=True)
def simulate(users, counts, arrival, rules, tables, weigh, view_room):  # type: ignore[no-untyped-def]
    """The life of each user of a block; an empty answer means that `view_room` views are not enough.

    Args:
        users: (B,)
        counts: (B,), events of each
        arrival: (B,), seconds
        rules: numbers of the world.
        tables: topics and items.
        weigh: work out the propensities of what the feed led to.
        view_room: views of the feed to make room for; 0 logs none.
    """
    n_rows = counts.sum()
    ts_s, item = np.empty(n_rows), np.empty(n_rows, np.int32)
    cause, visit_topic = np.empty(n_rows, np.uint8), np.empty(n_rows, np.int16)
    starts_visit, chance = np.empty(n_rows, np.uint8), np.empty(n_rows, np.float32)
    played_pct = np.empty(n_rows, np.uint16)
    reactions = (np.empty(2 * n_rows, np.int32), np.empty(2 * n_rows, np.uint8), np.empty(2 * n_rows))
    views = (
        np.empty(view_room, np.int32),
        np.empty(view_room, np.int32),
        np.empty(view_room, np.uint8),
        np.empty(view_room, np.float32),
        np.empty(view_room, np.uint8),
    )
    person = stranger(rules.n_slots)
    topic_of_row, mu = np.empty(n_rows, np.int16), np.empty(n_rows)
    out = (ts_s, item, cause, visit_topic, starts_visit, chance, topic_of_row, mu)
    first, n_views, n_reactions, full = np.int64(0), np.int64(0), np.int64(0), False
    for b in range(len(users)):
        if counts[b] and not full:
            end = first + counts[b]
            visits(users[b], counts[b], arrival[b], rules, tables, ts_s[first:end], starts_visit[first:end])
            n_views = live(users[b], counts[b], person, rules, tables, out, first, weigh, views, n_views)
            full = n_views < 0
            n_reactions = react(
                users[b], counts[b], person, rules, out, first, played_pct, reactions, n_reactions
            )
            first = end
    r, v = n_reactions, max(n_views, 0)
    return full, Block(
        ts_s, item, cause, visit_topic, starts_visit, chance, played_pct,
        reactions[0][:r].copy(), reactions[1][:r].copy(), reactions[2][:r].copy(),
        views[0][:v].copy(), views[1][:v].copy(), views[2][:v].copy(),
        views[3][:v].copy(), views[4][:v].copy(),
    )  # fmt: skip


def run(
    users: LongArray,
    counts: LongArray,
    arrival: DoubleArray,
    rules: Rules,
    tables: Tables,
    *,
    views: bool,
    weigh: bool = True,
) -> Block:
    """Simulate a block, with room for views of the feed that grows until it is enough.

    Args:
        users: (B,)
        counts: (B,), events of each.
        arrival: (B,), seconds.
        rules: numbers of the world.
        tables: topics and items.
        views: keep what the feed showed.
        weigh: work out propensities; without, they are NaN, and everything else is the same.
    """
    room = int(4 * counts.sum() * rules.p_recommended) + 1024 if views else 0
    while True:
        full, block = simulate(users, counts, arrival, rules, tables, weigh or views, room)
        if not full:
            return Block(*block)
        room *= 2
