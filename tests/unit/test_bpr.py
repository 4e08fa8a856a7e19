"""BPR: its step is the gradient of its objective, fold-ins lose nothing, known optima are reached."""

import numpy as np
import polars as pl
import pytest

from vitrina.candidates.bpr import BPR, steps
from vitrina.errors import ConfigError, InputError
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.testing import block_world, checkerboard


def objective(w, vi, vj, bi, bj, reg):
    x = w @ (vi - vj) + bi - bj
    return np.log(1 / (1 + np.exp(-x))) - reg / 2 * (w @ w + vi @ vi + vj @ vj + bi**2 + bj**2)


def test_a_step_follows_the_gradient_by_finite_differences():
    rng, d, reg, lr = np.random.default_rng(0), 5, 0.3, 1e-3
    W, V, b = rng.standard_normal((1, d)), rng.standard_normal((2, d)), rng.standard_normal(2)
    W32, V32, b32 = W.astype(np.float32), V.astype(np.float32), b.astype(np.float32)
    steps(
        np.array([0]), np.array([0, 1]), np.array([0], np.int32), W32, V32, b32,
        np.float32(lr), np.float32(reg), np.array([3], np.uint64), np.full(2, -1, np.int64),
    )  # fmt: skip
    before = np.concatenate([W[0], V[0], V[1], b])
    moved = (np.concatenate([W32[0], V32[0], V32[1], b32]) - before) / lr

    def value(p):
        return objective(p[:d], p[d : 2 * d], p[2 * d : 3 * d], p[3 * d], p[3 * d + 1], reg)

    eye = 1e-5 * np.eye(len(before))
    gradient = np.array([(value(before + e) - value(before - e)) / 2e-5 for e in eye])
    np.testing.assert_allclose(moved, gradient, rtol=2e-3, atol=5e-4)


def test_bpr_reaches_the_optimum_of_the_checkerboard_and_most_of_the_block_world():
    board = checkerboard(seed=4)
    model = BPR(embedding_dim=8).fit(board.train)
    assert board.share_of_best(model.retrieve(board.train, k=10, exclude=board.seen)) > 0.97
    shares = []
    for seed in range(4):
        world = block_world(seed=seed)
        model = BPR(embedding_dim=8).fit(world.train)
        shares.append(world.share_of_best(model.retrieve(world.train, k=10, exclude=world.seen)))
    assert np.mean(shares) > 0.93, shares


def test_two_threads_learn_as_well_as_one():
    world = block_world(seed=0)
    model = BPR(embedding_dim=8, n_threads=2).fit(world.train)
    assert world.share_of_best(model.retrieve(world.train, k=10, exclude=world.seen)) > 0.85


def test_popular_items_get_the_larger_bias():
    rng = np.random.default_rng(0)
    item = np.minimum(rng.geometric(0.15, 3000), 20) - 1
    frame = pl.DataFrame({"user_id": rng.integers(0, 300, 3000), "item_id": item, "ts": np.arange(3000)})
    log = Histories.from_frame(frame.with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC"))))
    model = BPR(embedding_dim=4).fit(log)
    assert np.corrcoef(model.item_emb_[:, -1], np.log(log.item_user_counts()))[0, 1] > 0.8


def test_a_user_who_took_everything_does_not_hang():
    items = Ids(pl.Series(np.arange(4)))
    log = Histories.from_lists(items, [[0, 1, 2, 3], [0, 1]])[0]
    lists = BPR(embedding_dim=2, n_epochs=2).fit(log).retrieve(log, k=4)
    assert (lists.lengths == 4).all()


def test_equal_histories_get_equal_vectors_whoever_asks():
    world = checkerboard(seed=0)
    model = BPR(embedding_dim=4, n_epochs=5).fit(world.train)
    twice = world.train.rows(np.array([5, 9, 5], np.int32))
    emb = model.embed(twice)
    np.testing.assert_array_equal(emb[0], emb[2])
    assert (emb[:, -1] == 1).all()
    assert not np.allclose(emb[0], emb[1])


def test_steps_that_diverge_are_reported():
    with pytest.raises(ConfigError, match="diverged"):
        BPR(embedding_dim=8, lr=50.0, reg=0.0, n_epochs=60).fit(checkerboard().train)


@pytest.mark.parametrize(
    ("params", "says"), [({"lr": 0.0}, "lr must be > 0"), ({"reg": 20.0}, "below 1 / lr")]
)
def test_parameters_out_of_range_are_refused_in_one_sentence(params, says):
    with pytest.raises(ConfigError, match=says):
        BPR(**params)


def test_an_empty_log_is_refused():
    with pytest.raises(InputError, match="0 rows"):
        BPR().fit(checkerboard().train.rows(np.array([-1], np.int32)))
