"""Where scikit-learn's definitions are ours: full lists, distinct scores, every target inside the list."""

import numpy as np
import pytest

from vitrina.metrics import MAP, NDCG, Precision, Recall, TargetLists

metrics = pytest.importorskip("sklearn.metrics")

rng = np.random.default_rng(0)
N_USERS, N_ITEMS = 200, 40
score = rng.permuted(np.tile(np.arange(N_ITEMS, dtype=float), (N_USERS, 1)), axis=1)
relevant = rng.random((N_USERS, N_ITEMS)) < 0.15
relevant[:, 0] |= ~relevant.any(axis=1)
ranked = np.argsort(-score, axis=1).astype(np.int32)
truth = TargetLists.of([np.flatnonzero(row).tolist() for row in relevant])


@pytest.mark.parametrize("k", [1, 5, 10, 40])
def test_ndcg_is_that_of_ndcg_score(k):
    theirs = [metrics.ndcg_score(r[None], s[None], k=k) for r, s in zip(relevant, score, strict=True)]
    np.testing.assert_allclose(NDCG(k).per_user(ranked[:, :k], truth), theirs, rtol=1e-12)


def test_map_of_a_list_of_everything_is_average_precision():
    theirs = [metrics.average_precision_score(r, s) for r, s in zip(relevant, score, strict=True)]
    np.testing.assert_allclose(MAP(N_ITEMS).per_user(ranked, truth), theirs, rtol=1e-12)


@pytest.mark.parametrize("k", [1, 5, 40])
def test_recall_and_precision_are_those_of_the_chosen_set(k):
    chosen = np.zeros((N_USERS, N_ITEMS), dtype=bool)
    np.put_along_axis(chosen, ranked[:, :k], values=True, axis=1)
    recall = metrics.recall_score(relevant, chosen, average="samples")
    precision = metrics.precision_score(relevant, chosen, average="samples")
    assert Recall(k).per_user(ranked, truth).mean() == pytest.approx(recall, rel=1e-12)
    assert Precision(k).per_user(ranked, truth).mean() == pytest.approx(precision, rel=1e-12)
