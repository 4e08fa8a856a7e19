"""ItemKNN and its decayed form against slow twins, dense formulas and scikit-learn."""

import numpy as np
import polars as pl
import pytest
from scipy import sparse
from sklearn.metrics.pairwise import cosine_similarity

from vitrina.ann import PAD, Jagged
from vitrina.candidates import SANSA, DecayedItemKNN, ItemKNN
from vitrina.errors import ConfigError, UnknownItem
from vitrina.log import Histories
from vitrina.testing import block_world, checkerboard

HOUR_US = 3_600_000_000


def random_train(n_users=50, n_items=30, n_rows=500, seed=0):
    rng = np.random.default_rng(seed)
    item = (rng.beta(1, 3, n_rows) * n_items).astype(int)
    item[:n_items] = np.arange(n_items)
    ts = pl.Series(rng.integers(0, 10**6, n_rows) * 60_000_000 + 10**12).cast(pl.Datetime("us", "UTC"))
    return Histories.from_frame(
        pl.DataFrame({"user_id": rng.integers(0, n_users, n_rows), "item_id": item, "ts": ts})
    )


def slow_similarity(X, model):
    """The formulas of the module, dense."""
    X = X.toarray().astype(np.float64)
    n_U, x_I = (X > 0).sum(axis=1, keepdims=True), X.sum(axis=0)
    idf = np.log((1 + X.shape[1]) / (1 + n_U))
    if model.weighting == "tfidf":
        X = np.sqrt(X) * idf
    elif model.weighting == "bm25":
        length = 1 - model.bm25_b + model.bm25_b * x_I / x_I.mean()
        X = X * (model.bm25_k1 + 1) / (X + model.bm25_k1 * length) * idf
    S = X.T @ X
    if model.normalize:
        norm = np.sqrt(np.diag(S))
        S = S / (np.outer(norm, norm) + model.shrink)
    return S


MODELS = [
    ItemKNN(n_neighbors=5),
    ItemKNN(n_neighbors=8, shrink=10.0, binary=False),
    ItemKNN(n_neighbors=6, weighting="tfidf", binary=False),
    ItemKNN(n_neighbors=6, weighting="bm25", normalize=False, binary=False, bm25_k1=2.0, bm25_b=0.3),
]


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_neighbours_are_the_largest_of_the_dense_similarity(model):
    train = random_train()
    S = slow_similarity(train.user_item(binary=model.binary), model)
    found = model.clone().fit(train).similarity_.toarray()
    np.testing.assert_allclose(found.diagonal(), S.diagonal(), rtol=1e-5)
    for i in range(len(S)):
        others = np.delete(np.arange(len(S)), i)
        kept = others[found[i, others] > 0]
        np.testing.assert_allclose(found[i, kept], S[i, kept], rtol=1e-4)
        assert len(kept) == min(model.n_neighbors, (S[i, others] > 0).sum())
        left_out = np.setdiff1d(others, kept)
        assert S[i, left_out].max(initial=0) <= S[i, kept].min() * (1 + 1e-5)


def test_cosine_is_that_of_scikit_learn():
    train = random_train(seed=1)
    found = ItemKNN(n_neighbors=29).fit(train).similarity_.toarray()
    np.testing.assert_allclose(found, cosine_similarity(train.user_item().T.toarray()), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_scores_are_the_votes_of_the_history(model):
    train = random_train(seed=2)
    fitted = model.clone().fit(train)
    X = train.user_item(binary=model.binary).toarray()
    expected = X @ fitted.similarity_.toarray()
    lists = fitted.retrieve(train, k=30)
    for b, row in enumerate(lists.item_ix):
        items = row[row != PAD]
        assert set(items) == set(np.flatnonzero(expected[b] > 0))
        np.testing.assert_allclose(lists.score[b, : len(items)], expected[b, items], rtol=1e-4)


def test_a_short_list_is_never_filled_with_seen_items():
    """Two pairs of items that nobody crosses: after excluding what was seen, one candidate is left."""
    ts = pl.Series([1, 2, 3, 4, 5, 6]).cast(pl.Datetime("us", "UTC"))
    frame = pl.DataFrame({"user_id": [0, 0, 1, 1, 2, 3], "item_id": [0, 1, 2, 3, 0, 2], "ts": ts})
    train = Histories.from_frame(frame)
    lists = ItemKNN().fit(train).retrieve(train, k=4, exclude=Jagged(train.offsets, train.item_ix))
    assert lists.item_ix.tolist() == [[-1] * 4, [-1] * 4, [1, -1, -1, -1], [3, -1, -1, -1]]
    assert np.isneginf(lists.score[:, 1:]).all()


def test_without_self_similarity_an_item_does_not_vote_for_itself():
    train = random_train(seed=3)
    assert not ItemKNN(self_similarity=False).fit(train).similarity_.diagonal().any()


def test_similar_items_are_the_row_of_the_matrix_without_the_item():
    fitted = ItemKNN(n_neighbors=5).fit(random_train(seed=4))
    lists = fitted.similar(np.arange(30, dtype=np.int32), k=29)
    S = fitted.similarity_.toarray()
    np.fill_diagonal(S, 0.0)
    for i, row in enumerate(lists.item_ix):
        assert set(row[row != PAD]) == set(np.flatnonzero(S[i]))
    with pytest.raises(UnknownItem, match="item_ix 30 is not in the model's vocabulary of 30 items"):
        fitted.similar(np.array([30]), k=3)


def test_knn_solves_the_checkerboard_and_nears_the_best_of_the_block_world():
    board = checkerboard()
    lists = ItemKNN().fit(board.train).retrieve(board.train, k=10, exclude=board.seen)
    assert board.share_of_best(lists) == 1.0
    blocks = block_world(n_users=1000)
    lists = ItemKNN().fit(blocks.train).retrieve(blocks.train, k=10, exclude=blocks.seen)
    assert blocks.share_of_best(lists) > 0.9


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"weighting": "bm26"}, "must be 'none', 'tfidf' or 'bm25', got 'bm26'"),
        ({"shrink": 3.0, "normalize": False}, "shrink must be >= 0, and 0 without normalize, got 3.0"),
        ({"bm25_b": 1.5}, r"bm25_b must be in \[0, 1\], got 1.5"),
        ({"n_neighbors": 0}, "n_neighbors must be > 0"),
    ],
)
def test_wrong_parameters_are_refused_by_name(params, message):
    with pytest.raises(ConfigError, match=message):
        ItemKNN(**params)


@pytest.mark.parametrize("hours", [0.0, 0.5, 24.0])
def test_decayed_scores_equal_the_dense_formula(hours):
    train = random_train(seed=5)
    lists = DecayedItemKNN(hours=hours).fit(train).retrieve(train, k=30)
    N = train.user_item(binary=False).toarray().astype(np.float64)
    unit = N / np.linalg.norm(N, axis=0)
    for u in range(len(train)):
        rows = slice(train.offsets[u], train.offsets[u + 1])
        age = (train.ts[rows].max() - train.ts[rows]) / HOUR_US
        weight = 0.9 ** (age / hours) if hours else (age == 0) * 1.0
        v = N[:, train.item_ix[rows]] @ np.where(weight < 1e-9, 0.0, weight)
        expected = (v / np.linalg.norm(v)) @ unit
        found = lists.item_ix[u][lists.item_ix[u] != PAD]
        assert set(found) == set(np.flatnonzero(expected > 0))
        np.testing.assert_allclose(lists.score[u, : len(found)], expected[found], rtol=1e-4)


def test_neighbours_of_a_log_wider_than_the_accumulators_are_found_in_blocks():
    """More items than one block of the kernel, most of them rare: against the sparse product."""
    rng = np.random.default_rng(7)
    user, item = rng.integers(0, 300, 6000), (rng.pareto(1.0, 6000) * 20).astype(int) % 3000
    X = sparse.csr_matrix((np.ones(6000, np.float32), (user, item)), shape=(300, 3000))
    X.data[:] = 1.0
    from vitrina.candidates.neighbors import nearest_items

    found = nearest_items(X, np.zeros(0, np.float32), n_neighbors=3000)
    expected = (X.T @ X).tolil()
    expected.setdiag(0)
    difference = found - expected.tocsr()
    assert abs(difference).max() == 0


@pytest.mark.parametrize("model", [ItemKNN, SANSA])
def test_max_len_learns_from_the_latest_rows_alone(model):
    train = random_train()
    capped, cut = model(max_len=4).fit(train), model().fit(train.last(4))
    one, other = capped.retrieve(train, k=20), cut.retrieve(train, k=20)
    np.testing.assert_array_equal(one.item_ix, other.item_ix)
    assert not np.array_equal(one.score, model().fit(train).retrieve(train, k=20).score)
