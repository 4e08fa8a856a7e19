"""The worlds are what they say: their stated optimum is what the oracle that knows the truth measures."""

import numpy as np
import pytest

from vitrina.ann import top_k
from vitrina.testing import block_world, checkerboard, confounded_log, markov_world


def test_on_the_checkerboard_the_colour_is_perfect_and_popularity_is_blind():
    world = checkerboard(seed=3)
    n_users, n_items = len(world.train), world.train.n_items
    colour = ((np.arange(n_users)[:, None] + np.arange(n_items)) % 2 == 0).astype(np.float32)
    assert world.share_of_best(top_k(colour, k=world.k, exclude=world.seen)) == 1.0
    popular = np.tile(world.train.item_counts().astype(np.float32), (n_users, 1))
    blind = world.share_of_best(top_k(popular, k=world.k, exclude=world.seen))
    assert blind == pytest.approx(0.375, abs=0.15)


@pytest.mark.parametrize("p_noise", [0.0, 0.1, 0.5])
def test_the_oracle_of_the_block_world_reaches_its_stated_hit_rate(p_noise):
    reached, best = [], []
    for seed in range(8):
        world = block_world(n_taken=12, p_noise=p_noise, seed=seed)
        own = np.arange(200)[:, None] % 5 == np.arange(100)[None, :] // 20
        reached.append(world.hit_share(top_k(own.astype(np.float32), k=10, exclude=world.seen)))
        best.append(world.best)
    assert np.mean(reached) == pytest.approx(np.mean(best), abs=3 * 0.5 / np.sqrt(1600))


@pytest.mark.parametrize("k", [1, 3])
def test_no_ranking_beats_the_stated_optimum_of_the_markov_world(k):
    reached, best = [], []
    for seed in range(6):
        world = markov_world(length=400, k=k, seed=seed)
        counts = np.zeros((50, 50), np.float32)
        item_ix, offsets = world.train.item_ix, world.train.offsets
        inside = np.ones(len(item_ix), bool)
        inside[offsets[1:] - 1] = False
        np.add.at(counts, (item_ix[inside], np.roll(item_ix, -1)[inside]), 1)
        last = item_ix[offsets[1:] - 1]
        reached.append(world.hit_share(top_k(counts[last], k=k)))
        best.append(world.best)
    assert np.mean(reached) == pytest.approx(np.mean(best), abs=3 * 0.5 / np.sqrt(1800))


def test_clicks_of_the_confounded_log_mislead_and_propensities_undo_it():
    log = confounded_log(seed=1)
    item, clicked = log.frame["item_id"].to_numpy(), log.frame["clicked"].to_numpy()
    clicks = np.bincount(item, weights=clicked, minlength=20)
    weighted = np.bincount(item, weights=clicked / log.frame["propensity"].to_numpy(), minlength=20)
    estimate = weighted / len(item)
    error = 4 * np.sqrt(log.click_rate / (log.propensity * len(item)))
    assert (np.abs(estimate - log.click_rate) < error).all()
    assert np.corrcoef(clicks, log.click_rate)[0, 1] < 0
    assert np.corrcoef(estimate, log.click_rate)[0, 1] > 0.9
    assert log.click_rate[log.best_order[0]] == log.click_rate.max()
