"""The feed's world: its chances against what its people do, and its best lists."""

import numpy as np
import pytest

from vitrina.ann import TopK
from vitrina.schema import US_PER_SECOND
from vitrina.testing.feed_world import DAY, feed_world


@pytest.fixture(scope="module")
def world():
    return feed_world(n_users=12, n_items=60, n_topics=6, n_visits=200, seed=3)


def top(p_UI: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-p_UI, axis=1, kind="stable")[:, :k]


def is_day(ts: np.ndarray) -> np.ndarray:
    hour = ts // (3600 * US_PER_SECOND) % 24
    return (hour >= DAY[0]) & (hour < DAY[1])


def observed(world, kinds: tuple[str, ...]) -> np.ndarray:
    """Share of each item in a user's events of these kinds at the part of the day that is asked about."""
    log = world.train
    codes = [code for code, name in enumerate(log.event_names) if name in kinds]
    asked_U = is_day(world.asked.asked_ts)
    counts = np.isin(log.event, codes) & (is_day(log.ts) == asked_U[log.user_rows])
    found_UI = np.zeros((len(log), log.n_items))
    np.add.at(found_UI, (log.user_rows[counts], log.item_ix[counts]), 1)
    return found_UI / found_UI.sum(1, keepdims=True)


KINDS = {
    "any": ("full", "like", "skip", "feed full", "feed like", "feed skip"),
    "full": ("full", "like", "feed full", "feed like"),
    "alone": ("full", "like", "skip"),
}


@pytest.mark.parametrize("target", KINDS)
def test_people_take_items_as_often_as_their_chances_say(world, target):
    p_UI, found_UI = world.p[target], observed(world, KINDS[target])
    assert np.allclose(p_UI.sum(1), 1.0)
    likely = top(p_UI, 10)
    expected = np.take_along_axis(p_UI, likely, 1).sum(1)
    was = np.take_along_axis(found_UI, likely, 1).sum(1)
    assert was.mean() == pytest.approx(expected.mean(), abs=0.02)
    assert np.corrcoef(expected, was)[0, 1] > 0.8
    assert np.abs(found_UI - p_UI).sum(1).mean() / 2 < 0.2, "total variation, of some hundred events"


def test_impressions_were_shown_and_not_opened(world):
    log = world.train
    kinds = dict(zip(log.event_names, np.bincount(log.event), strict=True))
    assert kinds["impression"] > 2 * sum(n for name, n in kinds.items() if name.startswith("feed"))
    assert (world.asked.asked_ts > log.ts.max()).all()


def test_the_best_lists_are_best_and_the_hour_is_worth_something(world):
    best = TopK(top(world.p["full"], 10).astype(np.int32), np.ones((12, 10), np.float32))
    assert np.allclose(world.ndcg(best, 10), world.best(10))
    assert world.share(best) == pytest.approx(1.0)
    assert (world.best(10, blind=True) <= world.best(10) + 1e-12).all()
    assert world.best(10, blind=True).mean() < 0.9 * world.best(10).mean()
    empty = TopK(np.full((12, 10), -1, np.int32), np.zeros((12, 10), np.float32))
    assert world.share(empty) == 0.0
    turned = TopK(best.item_ix[:, ::-1].copy(), best.score)
    assert world.share(turned) < 1.0


def test_equal_seeds_give_equal_worlds():
    small = {"n_users": 3, "n_items": 20, "n_topics": 4, "n_visits": 3}
    one, again, other = (feed_world(**small, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.train.item_ix, again.train.item_ix)
    assert np.array_equal(one.p["full"], again.p["full"])
    assert not np.array_equal(one.p["full"], other.p["full"])
