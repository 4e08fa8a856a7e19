import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import sparse

from vitrina.ann import ExactIndex, Jagged, top_k
from vitrina.ann.products import top_k_products
from vitrina.ann.sparse import top_k_sparse
from vitrina.errors import InputError


def slow_top_k(scores, k, excluded, allowed):
    lists = []
    for row, taken in zip(scores, excluded, strict=True):
        admissible = [i for i in range(len(row)) if i not in taken and allowed[i] and row[i] > -np.inf]
        lists.append(sorted(admissible, key=lambda i: (-row[i], i))[:k])
    return lists


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_top_k_agrees_with_sorting(data):
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 40)))
    value = st.one_of(st.integers(-3, 3).map(float), st.sampled_from([np.inf, -np.inf, np.nan]))
    scores = data.draw(hnp.arrays(np.float32, shape, elements=value.map(np.float32)))
    excluded = [data.draw(st.sets(st.integers(0, shape[1] - 1))) for _ in range(shape[0])]
    allowed = data.draw(hnp.arrays(bool, shape[1]))
    k = data.draw(st.integers(1, 45))
    jagged = Jagged(
        np.cumsum([0] + [len(s) for s in excluded]),
        np.array([i for s in excluded for i in s], dtype=np.int32),
    )
    found = top_k(scores.copy(), k=k, exclude=jagged, allowed=allowed)
    expected = slow_top_k(scores, k, excluded, allowed)
    assert found.lengths.tolist() == [len(row) for row in expected]
    for row, item_ix, score in zip(expected, found.item_ix, found.score, strict=True):
        assert item_ix[: len(row)].tolist() == row
        assert (item_ix[len(row) :] == -1).all()
        assert np.isneginf(score[len(row) :]).all()
    rows = np.arange(shape[0])[:, None]
    at = found.item_ix >= 0
    np.testing.assert_array_equal(found.score[at], scores[rows, np.maximum(found.item_ix, 0)][at])


def by_all_ways(score_BI, **limits):
    """The same scores as a dense matrix, as products of few and of many queries, as a sparse product."""
    eye = np.eye(score_BI.shape[1], dtype=np.float32)
    yield top_k(score_BI.copy(), k=4, **limits).item_ix
    yield top_k_products(score_BI, eye, k=4, **limits).item_ix
    yield top_k_sparse(sparse.csr_matrix(score_BI), sparse.csr_matrix(eye), k=4, **limits).item_ix


@pytest.mark.parametrize("n_queries", [2, 40])
@pytest.mark.parametrize("outside", [-1, 6, 50_000_000])
def test_a_number_that_is_no_item_excludes_nothing_from_anybody(outside, n_queries):
    """Kernels write where they are told: a number outside is another row's score, or nobody's memory."""
    score_BI = 1 + np.random.default_rng(0).random((n_queries, 6), dtype=np.float32)
    known = Jagged(np.arange(n_queries + 1), np.full(n_queries, 2, np.int32))
    also = Jagged(2 * np.arange(n_queries + 1), np.tile(np.array([outside, 2], np.int32), n_queries))
    for found, wanted in zip(
        by_all_ways(score_BI, exclude=also), by_all_ways(score_BI, exclude=known), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)
    index = ExactIndex()
    index.build(np.eye(6, dtype=np.float32))
    lists = [index.search(score_BI, k=4, exclude=sets).item_ix for sets in (known, also)]
    np.testing.assert_array_equal(*lists)


@pytest.mark.parametrize("n_queries", [2, 40])
def test_limits_of_another_shape_are_refused(n_queries):
    score_BI = np.ones((n_queries, 6), np.float32)
    for n in (5, 7, 200):
        for way in (0, 1, 2):
            with pytest.raises(InputError, match=rf"allowed has shape \({n},\) over 6 items; give one"):
                list(by_all_ways(score_BI, allowed=np.ones(n, bool)))[way]
    short = Jagged(np.zeros(n_queries, np.int64), np.zeros(0, np.int32))
    with pytest.raises(InputError, match=f"exclude has {n_queries} bounds over 0 items for {n_queries}"):
        top_k(score_BI, k=3, exclude=short)
