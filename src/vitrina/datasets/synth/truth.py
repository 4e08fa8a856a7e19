"""The true chances of a world, and the best that any ranking can expect. Formulas: docs/datasets.md.

Legend: B users asked about, I items, Z topics, H events in a history.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numba
import numpy as np
import polars as pl

from vitrina.datasets.synth.ground import Ground
from vitrina.datasets.synth.people import LAGGED, NOW, look, meet, stranger, taste
from vitrina.datasets.synth.tables import APPEAL, BIRTH, Rules, Tables
from vitrina.schema import DoubleArray, IntArray, LongArray

PEOPLE_DIGEST = "49364de2cb774abf"
"""Digest of people.py, whose functions are compiled into these: numba's cache sees one file alone."""

Target = Literal["any", "new", "full"]
"""Which next event: any; one on an item that is not in the history; one that is played at least half."""

UNKNOWN_TOPIC = -1


@dataclass(frozen=True, eq=False, kw_only=True)
class Asked:
    """A user at a moment, with everything that the next event depends on."""

    user_ix: int
    at_s: float
    past: IntArray
    """(H,), items in time order"""
    visit_topic: int
    """What the visit that is under way is about, or -1 between visits"""


def ask(ground: Ground, user_ix: LongArray, at_s: DoubleArray) -> list[Asked]:
    """The state of each user just before a moment, by simulating what they did. Cost: about 1 us an event."""
    block = ground.simulate(user_ix, weigh=False)
    ends = np.cumsum(ground.counts[user_ix])
    asked = []
    for user, moment, end, n in zip(user_ix, at_s, ends, ground.counts[user_ix], strict=True):
        rows = slice(end - n, end)
        before = int(np.searchsorted(block.ts_s[rows], moment, side="left"))
        under_way = 0 < before < n and not block.starts_visit[rows][before]
        topic = int(block.visit_topic[rows][before]) if under_way else UNKNOWN_TOPIC
        past = block.item[rows][:before]
        asked.append(Asked(user_ix=int(user), at_s=float(moment), past=past, visit_topic=topic))
    return asked


@numba.njit(cache=True, nogil=True)
def tastes(user, ts_s, rules, tables):  # type: ignore[no-untyped-def]
    """Theta now, theta as the feed knows it, each of shape (Z,), and (r, rho) of one user."""
    person = stranger(rules.n_slots)
    meet(person, user, rules)
    look(person, NOW, ts_s, rules, tables)
    look(person, LAGGED, ts_s - rules.lag, rules, tables)
    now, known = np.empty(len(tables.topic_p)), np.empty(len(tables.topic_p))
    for topic in range(len(now)):
        now[topic] = taste(person, NOW, topic, rules, tables)
        known[topic] = taste(person, LAGGED, topic, rules, tables)
    return now, known, person.habits


def popularity(rules: Rules, tables: Tables, ts_s: float) -> DoubleArray:
    """phi_i = w_i(t) / W_z(t), the chance of an item within its topic; 0 before it is born. Shape (I,)."""
    age = ts_s - tables.item[BIRTH]
    weight = rules.p_evergreen + (1.0 - rules.p_evergreen) * np.exp(-rules.decay * np.maximum(age, 0.0))
    weight = np.where(age >= 0.0, tables.item[APPEAL] * weight, 0.0)
    return np.asarray(weight / np.bincount(tables.topic, weight, minlength=len(tables.topic_p))[tables.topic])


def feed_chances(
    rules: Rules, tables: Tables, phi: DoubleArray, ts_s: float, known: DoubleArray
) -> DoubleArray:
    """q_i = (1 - xi) theta'_z phi_i + xi / n(t), the propensity of each item at one position. Shape (I,)."""
    born = tables.item[BIRTH] <= ts_s
    fitting = (1.0 - rules.p_explore) * known[tables.topic] * phi
    return np.asarray(fitting + rules.p_explore * born / born.sum())


def repeats(past: IntArray, n_items: int) -> DoubleArray:
    """Chance that a repeat is of each item: sum over its places n events back of ln(1 + 1/n) / ln(H + 1).
    Shape (I,).
    """
    back = np.arange(len(past), 0, -1, dtype=np.float64)
    chance = np.log1p(1.0 / back) / np.log1p(len(past))
    return np.bincount(past, chance, minlength=n_items).astype(np.float64)


def chances(ground: Ground, asked: Asked, phi: DoubleArray, target: Target) -> DoubleArray:
    """The chance of each item to be the next event. Shape (I,), sums to 1."""
    rules, tables = ground.rules, ground.tables
    now, known, (p_feed, p_repeat) = tastes(asked.user_ix, asked.at_s, rules, tables)
    mu = now / (now + tables.topic_p)
    shown = feed_chances(rules, tables, phi, asked.at_s, known)
    taken = shown * (rules.take_low + (rules.take_high - rules.take_low) * mu)[tables.topic]
    topics = now.copy()
    if asked.visit_topic != UNKNOWN_TOPIC:
        topics *= 1.0 - rules.p_session
        topics[asked.visit_topic] += rules.p_session
    organic = topics[tables.topic] * phi
    if len(asked.past):
        organic = p_repeat * repeats(asked.past, len(phi)) + (1.0 - p_repeat) * organic
    p = p_feed * taken / taken.sum() + (1.0 - p_feed) * organic
    if target == "new":
        p[asked.past] = 0.0
    elif target == "full":
        p *= (rules.full_low + (rules.full_high - rules.full_low) * mu)[tables.topic]
    return np.asarray(p / p.sum())


class Chances:
    """`chances` of one user after another; the popularity of items is kept while the moment stays."""

    def __init__(self, ground: Ground, target: Target) -> None:
        self.ground, self.target = ground, target
        self._at_s, self._phi = np.nan, np.zeros(0)

    def __call__(self, asked: Asked) -> DoubleArray:
        """Shape (I,)."""
        if asked.at_s != self._at_s:
            self._at_s = asked.at_s
            self._phi = popularity(self.ground.rules, self.ground.tables, asked.at_s)
        return chances(self.ground, asked, self._phi, self.target)


def ranked(p: DoubleArray, k: int) -> LongArray:
    """The k items of highest chance, best first, ties by smaller position. Shape (min(k, I),)."""
    k = min(k, len(p))
    worst = np.partition(p, len(p) - k)[len(p) - k]
    inside = np.flatnonzero(p >= worst)
    return inside[np.lexsort((inside, -p[inside]))][:k]


def metrics(p_K: DoubleArray, k: int) -> tuple[float, float]:
    """Expected Recall@k and NDCG@k of a list whose items have chances p, with one relevant item."""
    p_K = p_K[:k]
    return float(p_K.sum()), float((p_K / np.log2(np.arange(len(p_K)) + 2.0)).sum())


def optimal(
    ground: Ground, user_ix: LongArray, at_s: DoubleArray, ks: Sequence[int], target: Target
) -> pl.DataFrame:
    """Best expected metrics: user_id, k, recall, ndcg."""
    true = Chances(ground, target)
    rows = []
    for asked in ask(ground, user_ix, at_s):
        p = true(asked)
        best = p[ranked(p, max(ks))]
        rows += [(int(ground.user_ids[asked.user_ix]), k, *metrics(best, k)) for k in ks]
    return pl.DataFrame(rows, schema=_schema("recall", "ndcg"), orient="row")


def expected(
    ground: Ground,
    user_ix: LongArray,
    lists: list[LongArray],
    at_s: DoubleArray,
    ks: Sequence[int],
    target: Target,
) -> pl.DataFrame:
    """Expected metrics of lists of internal items (-1: an item unknown to the world) beside the best."""
    true = Chances(ground, target)
    rows = []
    for asked, items in zip(ask(ground, user_ix, at_s), lists, strict=True):
        p = true(asked)
        best = p[ranked(p, max(ks))]
        first = np.zeros(len(items), dtype=bool)
        first[np.unique(items, return_index=True)[1]] = True  # an item counts at its first rank alone
        own = np.where(first & (items >= 0), p[items], 0.0)
        name = int(ground.user_ids[asked.user_ix])
        rows += [(name, k, *metrics(own, k), *metrics(best, k)) for k in ks]
    return pl.DataFrame(rows, schema=_schema("recall", "ndcg", "best_recall", "best_ndcg"), orient="row")


def best_lists(ground: Ground, user_ix: LongArray, at_s: DoubleArray, k: int, target: Target) -> pl.DataFrame:
    """query_id, item_id, source, score, rank of the optimal lists."""
    true = Chances(ground, target)
    parts = []
    for asked in ask(ground, user_ix, at_s):
        p = true(asked)
        best = ranked(p, k)
        parts.append(
            pl.DataFrame(
                {
                    "query_id": np.full(len(best), ground.user_ids[asked.user_ix]),
                    "item_id": ground.item_ids[best],
                    "source": ["optimal"] * len(best),
                    "score": p[best],
                    "rank": np.arange(1, len(best) + 1),
                }
            )
        )
    return pl.concat(parts) if parts else pl.DataFrame()


def _schema(*values: str) -> dict[str, type[pl.DataType]]:
    return {"user_id": pl.Int64, "k": pl.Int64} | dict.fromkeys(values, pl.Float64)
