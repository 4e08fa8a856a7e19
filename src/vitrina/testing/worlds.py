"""Small worlds whose best possible answer is known, so that a model can be held to a share of it."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from vitrina.ann import Jagged, TopK
from vitrina.errors import InputError
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.rng import Seed, generator
from vitrina.schema import US_PER_DAY, US_PER_SECOND, BoolArray, DoubleArray, IntArray, LongArray


@dataclass(frozen=True, eq=False, kw_only=True)
class World:
    """A training log, held-out items of the same users, and the best that any model can reach."""

    train: Histories
    """U users; query with these histories."""
    truth: Jagged
    """Held-out items of each user, over the same vocabulary."""
    k: int
    """Length of the lists that `best` is about."""
    best: float
    """Expected `hit_share` of the Bayes-optimal ranking that leaves out `seen`."""
    seen: Jagged | None
    """What `retrieve` must exclude; None where repeats are part of the world."""

    def hit_share(self, lists: TopK) -> float:
        """Mean over users of |first k of the list in truth| / min(k, |truth|)."""
        share = []
        for u in range(len(self.train)):
            relevant = self.truth.item_ix[self.truth.offsets[u] : self.truth.offsets[u + 1]]
            if len(relevant):
                hits = np.isin(lists.item_ix[u, : self.k], relevant).sum()
                share.append(hits / min(self.k, len(relevant)))
        return float(np.mean(share))

    def share_of_best(self, lists: TopK) -> float:
        """`hit_share` over what the best model reaches; about 1 for a perfect model."""
        return self.hit_share(lists) / self.best


def checkerboard(n_users: int = 120, n_items: int = 60, p_seen: float = 0.4, *, seed: Seed = 0) -> World:
    """User u likes item i iff u + i is even, and has taken each liked item with probability `p_seen`.

    The untaken liked items are the truth. The best model fills its list with them: hit share 1. Popularity
    cannot tell the colours apart; it reaches about (1 - p_seen) / (2 - p_seen), 0.375 by default.
    """
    rng = generator(seed)
    likes_UI = (np.arange(n_users)[:, None] + np.arange(n_items)) % 2 == 0
    taken_UI = likes_UI & (rng.random((n_users, n_items)) < p_seen)
    taken_UI[np.arange(n_users), np.arange(n_users) % 2] = True  # no empty history: u + (u mod 2) is even
    held_UI = likes_UI & ~taken_UI
    k = min(10, int(held_UI.sum(axis=1).min()))
    if k < 1:
        raise InputError(f"p_seen={p_seen} leaves a user without a held-out item; lower it or add items")
    train = _histories(taken_UI, rng)
    return World(
        train=train,
        truth=_jagged(held_UI),
        k=k,
        best=1.0,
        seen=Jagged(train.offsets, train.item_ix),
    )


def block_world(
    n_users: int = 200,
    n_items: int = 100,
    n_blocks: int = 5,
    n_taken: int = 15,
    p_noise: float = 0.1,
    *,
    seed: Seed = 0,
) -> World:
    """Users and items live in blocks; a user takes distinct items, from the own block but for noise.

    Each of the `n_taken` items, and then one held-out item, is drawn among the untaken ones: of the own block
    with probability 1 - p_noise, of the whole catalogue otherwise. The best list of ten starts with untaken
    items of the own block; with m of them left and n_left = I - n_taken untaken items in all, its expected
    hit rate is (1 - p) min(10, m) / m + p min(10, n_left) / n_left. `best` is its mean over the users.
    """
    rng = generator(seed)
    block_U, block_I = np.arange(n_users) % n_blocks, np.arange(n_items) * n_blocks // n_items
    taken_UI = np.zeros((n_users, n_items), dtype=bool)
    held_UI = np.zeros((n_users, n_items), dtype=bool)
    best = np.zeros(n_users)
    for u in range(n_users):
        for at in range(n_taken + 1):
            own = ~taken_UI[u] & (block_I == block_U[u])
            if not own.any():
                raise InputError(f"{n_taken} taken items exhaust a block; take fewer or add items")
            left = own if rng.random() >= p_noise else ~taken_UI[u]
            if at == n_taken:
                m, n_left = int(own.sum()), n_items - n_taken
                best[u] = (1 - p_noise) * min(10, m) / m + p_noise * min(10, n_left) / n_left
            (taken_UI if at < n_taken else held_UI)[u, rng.choice(np.flatnonzero(left))] = True
    train = _histories(taken_UI, rng)
    seen = Jagged(train.offsets, train.item_ix)
    return World(train=train, truth=_jagged(held_UI), k=10, best=float(best.mean()), seen=seen)


def markov_world(
    n_users: int = 300, n_items: int = 50, length: int = 40, n_next: int = 3, *, seed: Seed = 0, k: int = 1
) -> World:
    """Users walk a Markov chain over items; the held-out item is the next step, repeats included.

    Each item goes to `n_next` others with probabilities drawn from a Dirichlet, and with 10 % anywhere. The
    best list holds the k likeliest successors of the last item; `best` is the mean over users of the sum of
    their probabilities.
    """
    rng = generator(seed)
    P = np.full((n_items, n_items), 0.1 / n_items)
    for i in range(n_items):
        successors = rng.choice(np.delete(np.arange(n_items), i), size=n_next, replace=False)
        P[i, successors] += 0.9 * rng.dirichlet(np.ones(n_next))
    cumulated = P.cumsum(axis=1)
    walk = np.zeros((n_users, length + 1), dtype=np.int64)
    walk[:, 0] = rng.integers(0, n_items, n_users)
    for t in range(length):
        draw = rng.random(n_users)[:, None] * cumulated[walk[:, t], -1:]
        walk[:, t + 1] = (cumulated[walk[:, t]] < draw).sum(axis=1)
    best = np.sort(P[walk[:, -2]], axis=1)[:, -k:].sum(axis=1).mean()
    train = Histories.from_frame(
        _frame(
            np.repeat(np.arange(n_users), length), walk[:, :-1].ravel(), np.tile(np.arange(length), n_users)
        )
    )
    truth = Jagged(np.arange(n_users + 1, dtype=np.int64), train.items.ix(pl.Series(walk[:, -1])))
    return World(train=train, truth=truth, k=k, best=float(best), seen=None)


@dataclass(frozen=True, eq=False, kw_only=True)
class ConfoundedLog:
    """Impressions chosen by a policy that favours what is already popular, with their propensities."""

    frame: pl.DataFrame
    """user_id, item_id, ts, propensity (probability that this user was shown this item), clicked."""
    click_rate: DoubleArray
    """Probability of a click when shown, the truth that an unbiased estimate finds. Shape (I,)."""
    propensity: DoubleArray
    """Probability that an item is the one shown. Shape (I,)."""

    @property
    def best_order(self) -> LongArray:
        """Items by true click rate, best first; click counts give another order. Shape (I,)."""
        return np.argsort(-self.click_rate, kind="stable").astype(np.int64)


def confounded_log(
    n_rows: int = 40_000, n_users: int = 400, n_items: int = 20, *, seed: Seed = 0
) -> ConfoundedLog:
    """A logging policy shows item i with a probability that falls as its true click rate rises.

    Propensities follow 1 / rank and click rates rise with rank, from 0.05 to 0.5, so that the items that
    collect the most clicks are not those that people like best. Inverse propensity weighting, the mean over
    rows of clicked * 1{item = i} / propensity, has the true click rate as its expectation.
    """
    rng = generator(seed)
    propensity = 1.0 / (1.0 + np.arange(n_items))
    propensity = (propensity / propensity.sum()).astype(np.float64)
    click_rate = np.linspace(0.05, 0.5, n_items)
    order = rng.permutation(n_items)
    propensity, click_rate = propensity[order], click_rate[order]
    item = rng.choice(n_items, size=n_rows, p=propensity)
    frame = _frame(rng.integers(0, n_users, n_rows), item, np.arange(n_rows)).with_columns(
        propensity=pl.Series(propensity[item]), clicked=pl.Series(rng.random(n_rows) < click_rate[item])
    )
    return ConfoundedLog(frame=frame, click_rate=click_rate, propensity=propensity)


def _frame(user_id: LongArray, item_id: LongArray, step: LongArray) -> pl.DataFrame:
    ts = pl.Series(np.asarray(step, dtype=np.int64) * US_PER_SECOND + US_PER_DAY).cast(
        pl.Datetime("us", "UTC")
    )
    return pl.DataFrame({"user_id": user_id, "item_id": item_id, "ts": ts})


def _histories(taken_UI: BoolArray, rng: np.random.Generator) -> Histories:
    user, item = np.nonzero(taken_UI)
    frame = _frame(user, item, rng.permutation(len(user)))
    return Histories.from_frame(frame, items=Ids(pl.Series(np.arange(taken_UI.shape[1]))))


def _jagged(mask_UI: BoolArray) -> Jagged:
    offsets = np.concatenate([[0], np.cumsum(mask_UI.sum(axis=1))]).astype(np.int64)
    item_ix: IntArray = np.nonzero(mask_UI)[1].astype(np.int32)
    return Jagged(offsets, item_ix)
