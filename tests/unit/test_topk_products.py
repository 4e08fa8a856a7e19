"""The tiled and the sparse product against sorting all scores."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from threadpoolctl import threadpool_info

from vitrina.ann import PAD, Jagged, products, top_k, top_k_products, top_k_sparse


def by_sorting(score_BI, k, exclude=None, allowed=None):
    """Items by falling score, ties by smaller item; NaN, -inf and what is not admissible left out."""
    lists = []
    for b, row in enumerate(score_BI):
        ok = row > -np.inf
        if allowed is not None:
            ok &= allowed
        if exclude is not None:
            ok[exclude.item_ix[exclude.offsets[b] : exclude.offsets[b + 1]]] = False
        items = np.flatnonzero(ok)
        lists.append(items[np.argsort(-row[items], kind="stable")][:k].tolist())
    return lists


def as_lists(found):
    return [row[row != PAD].tolist() for row in found.item_ix]


def whole_factors(rng, n_queries, n_items, dim, largest):
    """Small whole numbers: their products are exact in float32 in any order of summation, and tie often."""
    query = rng.integers(-largest, largest + 1, (n_queries, dim)).astype(np.float32)
    return query, rng.integers(-largest, largest + 1, (n_items, dim)).astype(np.float32)


def random_sets(rng, n_queries, n_items, most):
    lengths = rng.integers(0, most + 1, n_queries)
    items = [rng.choice(n_items, n, replace=False) for n in np.minimum(lengths, n_items)]
    offsets = np.concatenate([[0], np.cumsum([len(i) for i in items])]).astype(np.int64)
    return Jagged(offsets, np.concatenate([*items, np.zeros(0, int)]).astype(np.int32))


@pytest.mark.parametrize("largest", [1, 30], ids=["many ties", "few ties"])
@pytest.mark.parametrize(
    ("n_queries", "n_items", "k"), [(5, 300, 10), (40, 300, 10), (300, 5000, 100), (20, 3000, 900)]
)
def test_products_agree_with_sorting(n_queries, n_items, k, largest):
    rng = np.random.default_rng(n_items + k)
    query, items = whole_factors(rng, n_queries, n_items, 8, largest)
    bias = rng.integers(-3, 4, n_items).astype(np.float32)
    exclude, allowed = random_sets(rng, n_queries, n_items, 50), rng.random(n_items) < 0.7
    for limits in ({}, {"exclude": exclude}, {"allowed": allowed}, {"exclude": exclude, "allowed": allowed}):
        found = top_k_products(query, items, k=k, **limits)
        assert as_lists(found) == by_sorting(query @ items.T, k, **limits)
        found = top_k_products(query, items, k=k, bias=bias, **limits)
        assert as_lists(found) == by_sorting(query @ items.T + bias, k, **limits)
        at = found.item_ix != PAD
        score = np.take_along_axis(query @ items.T + bias, np.maximum(found.item_ix, 0), axis=1)
        np.testing.assert_array_equal(found.score[at], score[at])
        assert np.isneginf(found.score[~at]).all()


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_products_agree_with_sorting_for_any_shape(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n_queries, n_items = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 700))
    k, largest = data.draw(st.integers(1, 200)), data.draw(st.sampled_from([0, 1, 5]))
    query, items = whole_factors(rng, n_queries, n_items, 3, largest)
    exclude = random_sets(rng, n_queries, n_items, n_items)
    found = top_k_products(query, items, k=k, exclude=exclude)
    assert found.item_ix.shape == (n_queries, min(k, n_items))
    assert as_lists(found) == by_sorting(query @ items.T, k, exclude)


def test_a_guess_that_was_too_high_is_made_good(monkeypatch):
    """With a guess of rank 1 nearly every row finds too few items at first."""
    rng = np.random.default_rng(0)
    query, items = whole_factors(rng, 30, 5000, 6, 20)
    exclude = random_sets(rng, 30, 5000, 40)
    again = []
    one_row = products._one_row
    monkeypatch.setattr(products, "SIGMAS", -100.0)
    monkeypatch.setattr(products, "_one_row", lambda *args: (again.append(1), one_row(*args)))
    found = top_k_products(query, items, k=50, exclude=exclude)
    assert len(again) > 20
    assert as_lists(found) == by_sorting(query @ items.T, 50, exclude)


def test_the_guess_is_seldom_too_high(monkeypatch):
    again = []
    one_row = products._one_row
    monkeypatch.setattr(products, "_one_row", lambda *args: (again.append(1), one_row(*args)))
    rng = np.random.default_rng(1)
    query, items = (rng.standard_normal((n, 16)).astype(np.float32) for n in (1000, 20_000))
    top_k_products(query, items, k=100)
    assert len(again) <= 10


def test_nan_never_enters_a_list():
    rng = np.random.default_rng(2)
    query, items = whole_factors(rng, 40, 3000, 4, 9)
    items[::7] = np.nan
    query[3] = np.nan
    found = top_k_products(query, items, k=20)
    score = np.where(np.isnan(query @ items.T), -np.inf, query @ items.T)
    assert as_lists(found) == by_sorting(score, 20)
    assert as_lists(found)[3] == []


@pytest.mark.parametrize("n_items", [1, 127, 128, 129, 2047, 5000])
@pytest.mark.parametrize("rise", [1, -1, 0], ids=["rising", "falling", "constant"])
def test_dense_rows_in_any_order_are_selected_alike(n_items, rise):
    """Rising rows beat every floor, constant rows tie everywhere."""
    score = np.tile((rise * np.arange(n_items)).astype(np.float32), (3, 1))
    found = top_k(score.copy(), k=100)
    assert as_lists(found) == by_sorting(score, 100)


def test_zero_and_minus_zero_are_one_score():
    score = np.array([[-0.0, 0.0, -0.0, 0.0, -1.0]], np.float32)
    assert as_lists(top_k(score, k=4)) == [[0, 1, 2, 3]]


def test_threads_share_no_state():
    rng = np.random.default_rng(3)
    query, items = whole_factors(rng, 200, 3000, 5, 9)
    expected = by_sorting(query @ items.T, 30)
    before = [pool["num_threads"] for pool in threadpool_info()]
    wrong = []

    def ask():
        for _ in range(3):
            if as_lists(top_k_products(query, items, k=30)) != expected:
                wrong.append(1)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert [pool["num_threads"] for pool in threadpool_info()] == before


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_sparse_products_agree_with_sorting_what_is_reached(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n_queries, n_rows, n_items = (data.draw(st.integers(1, n)) for n in (10, 30, 60))
    density = data.draw(st.sampled_from([0.02, 0.2, 0.9]))  # few items reached, or most of them
    query = sparse.random(n_queries, n_rows, 0.3, "csr", np.float32, rng)
    weights = sparse.random(n_rows, n_items, density, "csr", np.float32, rng)
    query.data, weights.data = np.ceil(query.data * 3), np.ceil(weights.data * 5) - 2
    exclude, allowed = random_sets(rng, n_queries, n_items, 20), rng.random(n_items) < 0.8
    k = data.draw(st.integers(1, 70))
    reached = ((query.toarray() != 0).astype(int) @ np.where(has_entry(weights), 1, 0)) > 0
    score = np.where(reached, query.toarray() @ weights.toarray(), -np.inf)
    for limits in ({}, {"exclude": exclude}, {"exclude": exclude, "allowed": allowed}):
        found = top_k_sparse(query, weights, k=k, **limits)
        assert as_lists(found) == by_sorting(score, k, **limits)


def has_entry(matrix):
    """Where a sparse matrix stores something, be it 0."""
    stored = matrix.copy()
    stored.data = np.ones_like(stored.data)
    return stored.toarray() > 0
