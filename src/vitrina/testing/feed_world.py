"""A feed whose viewers skip most of what it shows, and whose tastes change with the hour: all chances known.

Notation: U users, I items of Z topics, phi_i the share of item i in the appeal of its topic, g_z the share of
topic z in all appeal.

    taste     theta(u, h) = 0.1 g + 0.9 (2 topics of the user's), others by day (8 to 18 UTC) than by night
    match     mu_z = theta_z / (theta_z + g_z)
    request   from the feed with chance p_feed, else the person comes alone
    feed      shows up to 10 items, drawn from q_i = 0.45 g_z phi_i + 0.45 (mean of both tastes)_z phi_i
              + 0.1 / I: it knows a person, but not the hour. The first that is opened, with chance
              0.05 + 0.45 mu_z, is the event; those before it, or all 10, are impressions
    alone     item i with chance theta_z phi_i
    feedback  played in full with chance 0.1 + 0.8 mu_z, else skipped; a full play is a like with 0.3 mu_z

So a person with a history is asked about at a moment after it, and the next event is item i with chance

    p_i = f q_i alpha_i / sum_j q_j alpha_j + (1 - f) theta_z phi_i,   f = p_feed A / (p_feed A + 1 - p_feed)

with A = 1 - (1 - sum_j q_j alpha_j)^10, and the next event that is played in full with chance proportional
to p_i (0.1 + 0.8 mu_z). With one relevant item the best list goes by falling chance, so its expected NDCG is
known; it is an upper bound, reached by one who knows all tastes.

What a model of the next item alone cannot know here: which events were skipped (half of them, most of them
the feed's doing), what was shown and not opened, and which of both tastes is asked for.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from vitrina.ann import TopK
from vitrina.log import Histories
from vitrina.rng import Seed, generator
from vitrina.schema import US_PER_DAY, US_PER_SECOND, DoubleArray, LongArray

Target = Literal["any", "full", "alone"]
"""Which next event: any; one that is played in full; one that the person comes for alone."""

SLATE, P_EXPLORE, P_GLOBAL, N_SLOTS = 10, 0.1, 0.1, 2
OPEN, FULL, LIKE = (0.05, 0.5), (0.1, 0.9), 0.3
DAY = (8, 18)
"""Hours (UTC) of the first taste."""
FEED = ("feed full", "feed like", "feed skip")
SKIPS = ("feed skip", "skip")


@dataclass(frozen=True, eq=False, kw_only=True)
class FeedWorld:
    """What people did up to a moment each, and the chances of what they do next."""

    train: Histories
    """U users; events "full", "like", "skip", the same three after "feed ", and "impression"."""
    asked: Histories
    """The same histories, each asking (`asked_ts`) within the day after the log."""
    p: dict[str, DoubleArray]
    """Chance of each item to be the next event, by target. Shape (U, I)."""
    p_blind: dict[str, DoubleArray]
    """The same for one who knows the tastes and not the hour. Shape (U, I)."""

    def ndcg(self, lists: TopK, k: int, target: Target = "full") -> DoubleArray:
        """Expected NDCG@k of lists on the next event of each user. Shape (U,)."""
        item_BK = lists.item_ix[:, :k]
        p_BK = np.where(
            item_BK >= 0, np.take_along_axis(self.p[target], np.maximum(item_BK, 0).astype(np.int64), 1), 0.0
        )
        return np.asarray(p_BK @ _discount(item_BK.shape[1]))

    def best(self, k: int, target: Target = "full", *, blind: bool = False) -> DoubleArray:
        """Expected NDCG@k of the best lists; `blind`: of the best without the hour. Shape (U,)."""
        by = (self.p_blind if blind else self.p)[target]
        order = np.argsort(-by, axis=1, kind="stable")[:, :k]
        return np.asarray(np.take_along_axis(self.p[target], order, 1) @ _discount(k))

    def share(self, lists: TopK, k: int = 10, target: Target = "full") -> float:
        """Mean of `ndcg` over the mean of `best`."""
        return float(self.ndcg(lists, k, target).mean() / self.best(k, target).mean())


def feed_world(
    n_users: int = 400,
    n_items: int = 150,
    n_topics: int = 8,
    n_visits: int = 14,
    p_feed: float = 0.7,
    days: int = 40,
    *,
    seed: Seed = 0,
) -> FeedWorld:
    """Users with `n_visits` visits of six requests on average, spread evenly over days and hours.

    Cost: about 0.3 ms a request.
    """
    rng = generator(seed)
    topic_I = np.concatenate([np.arange(n_topics), rng.integers(0, n_topics, n_items - n_topics)])
    appeal_I = rng.lognormal(0.0, 1.0, n_items)
    weight_Z = np.bincount(topic_I, appeal_I, minlength=n_topics)
    phi_I, g_Z = appeal_I / weight_Z[topic_I], weight_Z / weight_Z.sum()
    taste_U2Z = _tastes(rng, n_users, g_Z)
    known_UZ = 0.5 * g_Z + 0.5 * taste_U2Z.mean(1)
    shown_UI = (1 - P_EXPLORE) * known_UZ[:, topic_I] * phi_I + P_EXPLORE / n_items
    match_U2Z = taste_U2Z / (taste_U2Z + g_Z)
    rows: list[tuple[int, int, int, str]] = []
    for u in range(n_users):
        alone_2I = taste_U2Z[u][:, topic_I] * phi_I
        rows += _life(
            rng,
            u,
            shown_UI[u],
            alone_2I,
            match_U2Z[u][:, topic_I],
            n_visits=n_visits,
            p_feed=p_feed,
            days=days,
        )
    train = _log(rows, n_items)
    asked_ts = (days * US_PER_DAY + rng.random(n_users) * US_PER_DAY).astype(np.int64)
    both = [
        _chances(shown_UI, taste_U2Z[:, at][:, topic_I] * phi_I, match_U2Z[:, at][:, topic_I], p_feed)
        for at in (0, 1)
    ]
    is_day_U1 = (_taste_at(asked_ts) == 0)[:, None]
    frac_day = (DAY[1] - DAY[0]) / 24
    return FeedWorld(
        train=train,
        asked=train.asked_at(asked_ts),
        p={name: np.where(is_day_U1, both[0][name], both[1][name]) for name in both[0]},
        p_blind={name: frac_day * both[0][name] + (1 - frac_day) * both[1][name] for name in both[0]},
    )


def _tastes(rng: np.random.Generator, n_users: int, g_Z: DoubleArray) -> DoubleArray:
    """Theta by day and by night. Shape (U, 2, Z)."""
    taste_U2Z = np.tile(P_GLOBAL * g_Z, (n_users, 2, 1))
    for u in range(n_users):
        topics = rng.choice(len(g_Z), size=(2, N_SLOTS), replace=False)
        for at in (0, 1):
            taste_U2Z[u, at, topics[at]] += (1 - P_GLOBAL) * rng.dirichlet(np.ones(N_SLOTS))
    return taste_U2Z


def _taste_at(ts: LongArray) -> LongArray:
    """0 by day, 1 by night."""
    hour = ts // (3600 * US_PER_SECOND) % 24
    return np.where((hour >= DAY[0]) & (hour < DAY[1]), 0, 1)


def _life(
    rng: np.random.Generator,
    user: int,
    shown_I: DoubleArray,
    alone_2I: DoubleArray,
    match_2I: DoubleArray,
    *,
    n_visits: int,
    p_feed: float,
    days: int,
) -> list[tuple[int, int, int, str]]:
    """(user, item, microseconds, event) of one person."""
    rows: list[tuple[int, int, int, str]] = []
    items, p_shown, p_alone = np.arange(len(shown_I)), shown_I / shown_I.sum(), alone_2I.cumsum(1)
    for start in np.sort(rng.random(n_visits)) * days * US_PER_DAY:
        ts = int(start)
        for _ in range(1 + rng.geometric(1 / 5)):
            ts += int(rng.integers(20, 120)) * US_PER_SECOND
            at = int(_taste_at(np.array(ts)))
            prefix = ""
            if rng.random() < p_feed:
                slate = rng.choice(items, size=SLATE, p=p_shown)
                opened = rng.random(SLATE) < OPEN[0] + (OPEN[1] - OPEN[0]) * match_2I[at, slate]
                n_passed = int(opened.argmax()) if opened.any() else SLATE
                rows += [(user, int(item), ts, "impression") for item in slate[:n_passed]]
                if n_passed == SLATE:
                    continue
                item, prefix = int(slate[n_passed]), "feed "
            else:
                item = int(min(np.searchsorted(p_alone[at], rng.random() * p_alone[at, -1]), len(items) - 1))
            match = match_2I[at, item]
            is_full = rng.random() < FULL[0] + (FULL[1] - FULL[0]) * match
            said = "skip" if not is_full else "like" if rng.random() < LIKE * match else "full"
            ts += 5 * US_PER_SECOND
            rows.append((user, item, ts, prefix + said))
    return [row for row in rows if row[2] < days * US_PER_DAY]


def _chances(
    shown_UI: DoubleArray, alone_UI: DoubleArray, match_UI: DoubleArray, p_feed: float
) -> dict[str, DoubleArray]:
    """Of each item to be the next event, by target (see the module). Shapes (U, I)."""
    opened_UI = shown_UI * (OPEN[0] + (OPEN[1] - OPEN[0]) * match_UI)
    opens_U1 = opened_UI.sum(1, keepdims=True)
    from_feed_U1 = p_feed * (1 - (1 - opens_U1) ** SLATE)
    from_feed_U1 /= from_feed_U1 + 1 - p_feed
    any_UI = from_feed_U1 * opened_UI / opens_U1 + (1 - from_feed_U1) * alone_UI
    full_UI = any_UI * (FULL[0] + (FULL[1] - FULL[0]) * match_UI)
    return {"any": any_UI, "full": full_UI / full_UI.sum(1, keepdims=True), "alone": alone_UI}


def _log(rows: list[tuple[int, int, int, str]], n_items: int) -> Histories:
    from vitrina.ids import Ids

    user, item, ts, event = zip(*rows, strict=True)
    frame = pl.DataFrame({"user_id": user, "item_id": item, "ts": ts, "event": event})
    frame = frame.with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC")))
    return Histories.from_frame(frame, items=Ids(pl.Series(np.arange(n_items))))


def _discount(k: int) -> DoubleArray:
    return np.asarray(1.0 / np.log2(np.arange(k) + 2.0))
