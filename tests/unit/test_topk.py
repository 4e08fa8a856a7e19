import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vitrina.ann import Jagged, top_k


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
