"""EASE and its sparse approximation against what defines them."""

import numpy as np
import pytest
from scipy import sparse

from vitrina.candidates import SANSA, DualEase, Ease
from vitrina.candidates.ease import ease_weights, rows_times_dense
from vitrina.candidates.sansa import completed, inverse_factor
from vitrina.errors import ConfigError
from vitrina.testing import block_world, checkerboard, same_lists


def random_log(n_users=60, n_items=25, density=0.2, seed=0):
    rng = np.random.default_rng(seed)
    return sparse.csr_matrix((rng.random((n_users, n_items)) < density).astype(np.float32))


def test_each_column_of_ease_is_the_ridge_regression_of_an_item_on_all_others():
    X, reg = random_log(), 7.0
    B = ease_weights(X, reg)
    dense = X.toarray().astype(np.float64)
    for j in range(X.shape[1]):
        others = np.delete(np.arange(X.shape[1]), j)
        A = dense[:, others]
        ridge = np.linalg.lstsq(
            np.vstack([A, np.sqrt(reg) * np.eye(len(others))]),
            np.concatenate([dense[:, j], np.zeros(len(others))]),
            rcond=None,
        )[0]
        np.testing.assert_allclose(B[others, j], ridge, atol=2e-6)
        assert B[j, j] == 0.0


def test_scores_of_a_block_equal_those_of_a_plain_product():
    X = random_log(70, 150, seed=3)
    B = np.random.default_rng(1).standard_normal((150, 150)).astype(np.float32)
    expected = X.toarray() @ B
    np.testing.assert_allclose(rows_times_dense(X, B), expected, rtol=1e-4, atol=1e-4)
    few = rows_times_dense(X[:2], B)
    np.testing.assert_allclose(few, expected[:2], rtol=1e-4, atol=1e-4)


def test_ease_refuses_a_catalogue_that_does_not_fit_and_names_what_does():
    world = checkerboard()
    with pytest.raises(ConfigError, match=r"needs .* GB for 60 items.*use SANSA"):
        Ease(memory_gb=1e-6).fit(world.train)


@pytest.mark.parametrize("model", [Ease(reg=50.0), SANSA(reg=50.0), DualEase(reg=50.0)], ids=repr)
def test_linear_models_solve_the_checkerboard(model):
    world = checkerboard()
    lists = model.clone().fit(world.train).retrieve(world.train, k=10, exclude=world.seen)
    assert world.share_of_best(lists) == 1.0


@pytest.mark.parametrize("model", [Ease(reg=10.0), SANSA(reg=10.0, n_neighbors=20)], ids=repr)
def test_linear_models_come_near_the_best_list_of_the_block_world(model):
    world = block_world(n_users=1000)
    lists = model.clone().fit(world.train).retrieve(world.train, k=10, exclude=world.seen)
    assert world.share_of_best(lists) > 0.9


def test_sansa_with_all_neighbours_is_ease():
    world = block_world(seed=2)
    exact = Ease(reg=20.0).fit(world.train)
    sparse_one = SANSA(reg=20.0, n_neighbors=99).fit(world.train)
    problem = same_lists(
        exact.retrieve(world.train, k=100), sparse_one.retrieve(world.train, k=100), rtol=1e-4
    )
    assert problem is None
    asked = np.arange(100, dtype=np.int32)
    assert same_lists(exact.similar(asked, k=10), sparse_one.similar(asked, k=10), rtol=1e-4) is None


def test_the_inverse_factor_is_the_best_on_its_pattern():
    """Row by row against a dense solve, and against K G K^T = D on the full pattern."""
    X, reg = random_log(80, 30, seed=5), 3.0
    order = np.argsort(-np.asarray(X.sum(axis=0)).ravel(), kind="stable")
    X = X[:, order]
    G = (X.T @ X).toarray().astype(np.float64) + reg * np.eye(30)
    rng = np.random.default_rng(0)
    pattern = sparse.csr_matrix(np.tril(rng.random((30, 30)) < 0.4, -1).astype(np.float32))
    K, D = inverse_factor(X.tocsc(), pattern, reg)
    for i in range(30):
        S = pattern[i].indices
        solved = np.linalg.solve(G[np.ix_(S, S)], G[S, i]) if len(S) else np.zeros(0)
        np.testing.assert_allclose(K[i].toarray().ravel()[S], -solved, atol=1e-6)
        assert D[i] == pytest.approx(G[i, i] - G[S, i] @ solved, rel=1e-9)
    full = sparse.csr_matrix(np.tril(np.ones((30, 30), np.float32), -1))
    K, D = inverse_factor(X.tocsc(), full, reg)
    L = K.toarray() + np.eye(30)
    np.testing.assert_allclose(L @ G @ L.T, np.diag(D), atol=1e-3)


def test_pairs_outside_the_table_of_popular_items_are_counted_alike(monkeypatch):
    world = block_world(seed=4)
    whole = SANSA(reg=5.0, n_neighbors=15).fit(world.train)
    monkeypatch.setattr("vitrina.candidates.sansa.HEAD", 7)
    looked_up = SANSA(reg=5.0, n_neighbors=15).fit(world.train)
    np.testing.assert_allclose(whole.factor_.data, looked_up.factor_.data, rtol=1e-6)


def test_more_neighbours_bring_sansa_closer_to_ease():
    world = block_world(n_users=600, n_items=120, seed=6)
    queries = world.train.rows(np.arange(50, dtype=np.int32))
    exact = Ease(reg=50.0).fit(world.train)
    X = queries.user_item()
    wanted = rows_times_dense(X, exact.weights_)
    errors = []
    for n_neighbors in (2, 10, 40, 119):
        model = SANSA(reg=50.0, n_neighbors=n_neighbors).fit(world.train)
        errors.append(float(np.abs(model._scores(X) - wanted).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-5 < errors[0]


def test_a_short_pattern_is_completed_by_the_most_popular_items():
    near = sparse.csr_matrix(np.array([[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]], np.float32))
    rows = [row.indices.tolist() for row in completed(near, 2)]
    assert rows == [[], [0], [0, 1], [0, 2]]
    assert [row.indices.tolist() for row in completed(near, 9)] == [[], [0], [0, 1], [0, 1, 2]]
