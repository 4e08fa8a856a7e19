"""ImplicitALS against slow twins: dense algebra in float64, gradients, exact solutions, known optima."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from vitrina.ann import Jagged
from vitrina.candidates.als import ImplicitALS
from vitrina.candidates.als_kernels import both_sides, conjugate_gradients, half_step
from vitrina.errors import ConfigError, InputError
from vitrina.log import Histories
from vitrina.testing import block_world, checkerboard


def histories(n_users=40, n_items=25, *, seed=0, weight=False):
    rng = np.random.default_rng(seed)
    n = 9 * n_users
    frame = pl.DataFrame(
        {
            "user_id": np.concatenate([np.arange(n_users), rng.integers(0, n_users, n)]),
            "item_id": np.concatenate([rng.integers(0, n_items, n_users), rng.integers(0, n_items, n)]),
            "ts": pl.Series(rng.permutation(n + n_users)).cast(pl.Datetime("us", "UTC")),
        }
    )
    if weight:
        frame = frame.with_columns(weight=pl.Series(rng.uniform(0.5, 3.0, n + n_users)).cast(pl.Float32))
    return Histories.from_frame(frame)


def dense(log, model):
    """C (U, I), the weights of the observed pairs, 0 elsewhere."""
    return log.user_item(binary=not model.weighted).toarray().astype(np.float64)


def loss(C, W, V, model):
    """The formula of the module, written out over every pair."""
    a0, lam, nu = model.unobserved_weight, model.reg, model.reg_exponent
    S = W @ V.T
    ridge_U = lam * (C.sum(axis=1) + a0 * C.shape[1]) ** nu
    ridge_I = lam * (C.sum(axis=0) + a0 * C.shape[0]) ** nu
    fit = (C * (model.observed_curvature * S**2 - 2 * S)).sum() + a0 * (S**2).sum()
    return fit + (ridge_U * (W**2).sum(axis=1)).sum() + (ridge_I * (V**2).sum(axis=1)).sum()


def users_given_items(C, V, model):
    """Each user's normal equations, one dense system after the other."""
    ridge = model.reg * (C.sum(axis=1) + model.unobserved_weight * C.shape[1]) ** model.reg_exponent
    gram = model.unobserved_weight * V.T @ V
    eye = np.eye(V.shape[1])
    return np.stack(
        [
            np.linalg.solve(gram + model.observed_curvature * (V.T * c) @ V + r * eye, V.T @ c)
            for c, r in zip(C, ridge, strict=True)
        ]
    )


def als_in_float64(log, model):
    """Exact alternating least squares from the same start."""
    C = dense(log, model)
    V = np.random.default_rng(model.seed).standard_normal((C.shape[1], model.embedding_dim), np.float32)
    V = V.astype(np.float64) * model.init_std / np.sqrt(model.embedding_dim)
    V[C.sum(axis=0) == 0] = 0
    for _ in range(model.n_epochs):
        W = users_given_items(C, V, model)
        V = users_given_items(C.T, W, model)
    return V


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"weighted": True},
        {"reg_exponent": 0.5},
        {"reg_exponent": 0.0, "weighted": True},
        {"observed_curvature": 0.4, "weighted": True},
        {"observed_curvature": -0.1},
    ],
)
@pytest.mark.parametrize("solver", [{"solver": "blocks"}, {"cg_steps": 24}])
def test_one_block_or_many_conjugate_gradient_steps_are_exact_als(params, solver):
    log = histories(weight=True)
    model = ImplicitALS(embedding_dim=6, n_epochs=4, reg=0.02, **params, **solver).fit(log)
    np.testing.assert_allclose(model.item_emb_, als_in_float64(log, model), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_fold_in_solves_the_normal_equations_and_the_gradient_vanishes_there(weighted):
    log = histories(weight=True)
    model = ImplicitALS(embedding_dim=6, reg=0.02, weighted=weighted).fit(log)
    C, V, W = dense(log, model), model.item_emb_.astype(np.float64), model.embed(log).astype(np.float64)
    np.testing.assert_allclose(W, users_given_items(C, V, model), rtol=1e-4, atol=1e-5)
    step = 1e-4
    for u, f in [(0, 0), (7, 3), (39, 5)]:
        up, down = W.copy(), W.copy()
        up[u, f] += step
        down[u, f] -= step
        gradient = (loss(C, up, V, model) - loss(C, down, V, model)) / (2 * step)
        assert abs(gradient) < 1e-3 * abs(loss(C, W, V, model))
        far = W.copy()
        far[u, f] += 0.3
        assert loss(C, far, V, model) > loss(C, W, V, model)


def test_no_half_step_of_exact_als_raises_the_loss():
    log = histories()
    models = [ImplicitALS(embedding_dim=5, n_epochs=n, reg=0.05, solver="blocks") for n in (1, 2, 4, 8)]
    losses = []
    for model in models:
        model.fit(log)
        V = model.item_emb_.astype(np.float64)
        losses.append(loss(dense(log, model), users_given_items(dense(log, model), V, model), V, model))
    assert np.all(np.diff(losses) <= 1e-4 * abs(losses[0])), losses


@pytest.mark.parametrize("solver", [{"solver": "blocks", "block_size": 4}, {"solver": "cg"}])
def test_blocks_and_conjugate_gradients_reach_the_loss_of_exact_als(solver):
    log = block_world(n_users=80, n_items=60, n_taken=6, seed=2).train
    found = []
    for params in ({"solver": "blocks", "block_size": 16}, solver):
        model = ImplicitALS(embedding_dim=16, n_epochs=60, reg=0.03, **params).fit(log)
        C, V = dense(log, model), model.item_emb_.astype(np.float64)
        found.append(loss(C, users_given_items(C, V, model), V, model))
    assert found[1] == pytest.approx(found[0], rel=5e-3)


@pytest.mark.parametrize("block_size", [1, 3, 5, 8, 64])
def test_block_sizes_that_do_not_divide_the_dimension_work(block_size):
    world = checkerboard(seed=1)
    model = ImplicitALS(embedding_dim=8, n_epochs=20, reg=0.01, solver="blocks", block_size=block_size)
    assert world.share_of_best(model.fit(world.train).retrieve(world.train, k=10, exclude=world.seen)) > 0.99


def test_doubling_all_weights_and_the_unobserved_weight_changes_nothing():
    log = histories(weight=True)
    doubled = replace(log, weight=2 * log.weight)
    params = {"embedding_dim": 6, "reg": 0.02, "weighted": True, "solver": "blocks", "n_epochs": 3}
    one = ImplicitALS(unobserved_weight=0.3, **params).fit(log)
    two = ImplicitALS(unobserved_weight=0.6, **params).fit(doubled)
    np.testing.assert_allclose(one.item_emb_, two.item_emb_, rtol=1e-3, atol=1e-5)


def test_repeats_are_one_pair_without_weights_and_add_up_with_them():
    log = histories()
    once = Histories.from_frame(log.frame().unique(["user_id", "item_id"]), items=log.items)
    a, b = (ImplicitALS(embedding_dim=4, n_epochs=2).fit(h) for h in (log, once))
    np.testing.assert_array_equal(a.item_emb_, b.item_emb_)
    counted = ImplicitALS(embedding_dim=4, n_epochs=2, weighted=True, solver="blocks").fit(log)
    np.testing.assert_allclose(counted.item_emb_, als_in_float64(log, counted), rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("weight", [False, True])
def test_the_two_sorted_sides_hold_the_distinct_pairs(weight):
    log = histories(weight=weight)
    given = log.weight if weight else None
    by_user, by_item = both_sides(log.offsets, log.item_ix, given, log.n_items)
    X = log.user_item(binary=not weight)
    X.sort_indices()
    T = X.T.tocsr()
    for pairs, matrix in ((by_user, X), (by_item, T)):
        np.testing.assert_array_equal(pairs.offsets, matrix.indptr)
        np.testing.assert_array_equal(pairs.column, matrix.indices)
        np.testing.assert_allclose(pairs.row_weight(), matrix.sum(axis=1).A1, rtol=1e-5)
        if weight:
            np.testing.assert_allclose(pairs.weight, matrix.data, rtol=1e-5)


def test_threads_change_nothing():
    rng = np.random.default_rng(0)
    offsets = np.arange(0, 40_001, 20, dtype=np.int64)
    pairs, _ = both_sides(offsets, rng.integers(0, 300, 40_000).astype(np.int32), None, 300)
    V = rng.standard_normal((300, 16), np.float32)
    gram, ridge = V.T @ V, np.ones(2000, np.float32)
    found = []
    for n_threads in (1, 2, 3):
        W = np.zeros((2000, 16), np.float32)
        half_step(pairs, V, gram, W, ridge, solver=conjugate_gradients, effort=3, n_threads=n_threads)
        found.append(W)
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_an_item_that_nobody_took_scores_zero():
    log = histories()
    wider = Histories.from_frame(log.frame(), items=type(log.items)(pl.Series(np.arange(-3, 25))))
    model = ImplicitALS(embedding_dim=4).fit(wider)
    assert not model.item_emb_[:3].any()


@pytest.mark.parametrize("solver", ["cg", "blocks"])
def test_als_reaches_the_optimum_of_the_checkerboard_and_most_of_the_block_world(solver):
    board = checkerboard(seed=4)
    model = ImplicitALS(embedding_dim=4, reg=0.03, solver=solver).fit(board.train)
    assert board.share_of_best(model.retrieve(board.train, k=10, exclude=board.seen)) > 0.99
    shares = []
    for seed in range(4):
        world = block_world(seed=seed)
        model = ImplicitALS(embedding_dim=8, reg=0.03, solver=solver).fit(world.train)
        shares.append(world.share_of_best(model.retrieve(world.train, k=10, exclude=world.seen)))
    assert np.mean(shares) > 0.95, shares


def test_excluding_history_and_a_mask_together_leave_only_what_is_left():
    log = histories()
    model = ImplicitALS(embedding_dim=4).fit(log)
    allowed = np.arange(25) < 5
    lists = model.retrieve(log, k=25, exclude=Jagged(log.offsets, log.item_ix), allowed=allowed)
    assert set(np.unique(lists.item_ix)) <= {-1, 0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"reg": 0.0}, "reg must be > 0"),
        ({"embedding_dim": 0}, "embedding_dim must be > 0"),
        ({"solver": "lu"}, "'lu'"),
        ({"reg_exponent": -1.0}, "reg_exponent"),
        ({"observed_curvature": -0.3, "unobserved_weight": 0.3}, "observed_curvature must be > -0.3"),
        ({"observed_curvature": 0.0, "weighted": True}, "observed_curvature must be > 0"),
    ],
)
def test_parameters_out_of_range_are_refused_in_one_sentence(params, says):
    with pytest.raises(ConfigError, match=says):
        ImplicitALS(**params)


def test_an_empty_log_is_refused():
    with pytest.raises(InputError, match="0 rows"):
        ImplicitALS().fit(histories().rows(np.array([-1], np.int32)))
