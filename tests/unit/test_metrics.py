"""Metrics: rules at the edges, beyond accuracy, the yambda definitions, errors."""

from math import log2

import numpy as np
import pytest

from vitrina.errors import InputError
from vitrina.metrics import (
    ILD,
    METRICS,
    NDCG,
    Context,
    Coverage,
    Gini,
    Novelty,
    PopularityLift,
    Recall,
    TargetLists,
    Vendi,
    compute,
    cooccurrence_vectors,
    exposures,
    gini,
    hits,
    metric,
    one_hot,
    pessimistic_ranks,
)
from vitrina.metrics.hits import MAX_SLOTS

ONE = TargetLists.of([[1]])


def lists(*rows):
    width = max(len(row) for row in rows)
    return np.array([[*row, *[-1] * (width - len(row))] for row in rows], dtype=np.int32)


def test_a_constant_scorer_gets_no_credit():
    n_items, k = 50, 10
    score = np.zeros((3, n_items), dtype=np.float32)
    truth = TargetLists.of([[0, 1], [5], [49]])
    assert pessimistic_ranks(score, truth).tolist() == [49, 50, 50, 50]
    ranked = np.tile(np.arange(k, dtype=np.int32), (3, 1))  # what a stable top-k makes of it
    names = ["ndcg@5", "recall@10", "mrr@10", "hitrate@1"]
    assert compute(names, ranked, truth).means.min() > 0
    strict = compute(names, ranked, truth, score_BK=np.zeros((3, k)))
    assert (strict.numerator == 0).all()


def test_ties_inside_a_list_put_the_hits_last_and_across_a_cut_beyond_it():
    ranked = lists([4, 5, 6, 7, 8])
    scores = np.array([[3.0, 2.0, 2.0, 2.0, 1.0]])
    offsets, items = TargetLists.of([[5, 8]])
    found = hits(ranked, offsets, items, score_BK=scores)
    assert found.is_hit.tolist() == [[False, False, False, True, True]]
    assert compute(["recall@3"], ranked, TargetLists.of([[5]]), score_BK=scores).values["recall@3"] == 0


def test_a_tie_that_ends_a_short_list_is_not_open():
    ranked = lists([4, 5, -1])
    scores = np.array([[1.0, 1.0, -np.inf]])
    offsets, items = TargetLists.of([[4]])
    assert hits(ranked, offsets, items, score_BK=scores).is_hit.tolist() == [[False, True, False]]


def test_nan_scores_are_no_hits():
    offsets, items = ONE
    assert not hits(lists([1, 2]), offsets, items, score_BK=np.array([[np.nan, 1.0]])).is_hit.any()


def test_short_lists_are_not_divided_by_their_own_length():
    value = compute(["ndcg@10", "precision@10"], lists([0, 1, 2]), TargetLists.of([[0, 1, 2, 3, 4]])).values
    assert value["ndcg@10"] == pytest.approx(0.7227265726449519)
    assert value["precision@10"] == pytest.approx(0.3)


def test_cold_targets_stay_as_misses():
    value = compute(
        ["recall@2", "ndcg@2"], lists([0, 1]), TargetLists.of([[0, 7, 9]]), Context(n_items=5)
    ).values
    assert value["recall@2"] == pytest.approx(1 / 3)
    assert value["ndcg@2"] == pytest.approx(1 / (1 + 1 / log2(3)))


def test_users_without_a_target_are_excluded_and_counted():
    found = compute(["recall@2", "mrr@1"], lists([0, 1], [0, 1]), TargetLists.of([[], [1]]))
    assert found.n_without_truth == 1
    assert found.n_included == {"recall@2": 1, "mrr@1": 1}
    assert found.values == {"recall@2": 1.0, "mrr@1": 0.0}
    assert np.isnan(found.per_user[0]).all()


def test_no_user_at_all_gives_nan_without_a_warning():
    found = compute(
        ["ndcg@2", "coverage@2"], np.zeros((0, 3), np.int32), TargetLists.of([]), Context(n_items=3)
    )
    assert np.isnan(found.values["ndcg@2"])
    assert found.values["coverage@2"] == 0.0
    assert found.n_users == 0


def test_very_large_item_numbers_are_renumbered_with_the_same_result():
    rng = np.random.default_rng(3)
    ranked = np.array([rng.permutation(30)[:10] for _ in range(40)], dtype=np.int32)
    ranked[:5, 6:] = -1
    truth = TargetLists.of([rng.integers(0, 33, rng.integers(0, 6)).tolist() for _ in range(40)])
    names = ["ndcg@5", "recall@10", "map@7"]
    far = np.where(ranked >= 0, ranked + 2 * MAX_SLOTS, -1)
    expected = compute(names, ranked, truth).per_user
    moved = compute(names, far, TargetLists(truth.offsets, truth.item_ix + np.int32(2 * MAX_SLOTS)))
    np.testing.assert_array_equal(moved.per_user, expected)


def test_one_pass_gives_the_same_as_one_metric_at_a_time():
    rng = np.random.default_rng(0)
    ranked = np.array([rng.permutation(20)[:10] for _ in range(50)], dtype=np.int32)
    truth = TargetLists.of([rng.integers(0, 25, rng.integers(0, 6)).tolist() for _ in range(50)])
    context = Context(20, rng.integers(0, 9, 20), rng.normal(size=(20, 4)).astype(np.float32))
    names = [f"{label}@{k}" for label in METRICS for k in (1, 5, 10)]
    together = compute(names, ranked, truth, context)
    for at, name in enumerate(together.names):
        alone = compute([name], ranked, truth, context).per_user[:, 0]
        np.testing.assert_array_equal(together.per_user[:, at], alone)
    for name, value in together.catalogue.items():
        assert metric(name).value(ranked, context) == value
    half = np.arange(50) < 25
    np.testing.assert_array_equal(together.users(half).per_user, together.per_user[half])
    assert together.users(half).n_without_truth == int((np.diff(truth.offsets)[:25] == 0).sum())


def test_coverage_and_gini_count_the_whole_catalogue():
    shown = lists([0, 1, 2], [0, 1, 3], [0])
    context = Context(n_items=8)
    assert exposures(shown, k=2, n_items=8).tolist() == [3, 2, 0, 0, 0, 0, 0, 0]
    assert Coverage(2).value(shown, context) == 2 / 8
    assert Coverage(3).value(shown, context) == 4 / 8
    # exposures 3, 2 and six zeros: (2 * 7 - 9) * 2 + (2 * 8 - 9) * 3 = 31, over 8 * 5
    assert Gini(2).value(shown, context) == pytest.approx(31 / 40)
    assert gini([5, 5, 5]) == 0
    assert gini([0, 0, 0, 7]) == pytest.approx(3 / 4)
    assert np.isnan(gini([0, 0]))


def test_novelty_is_the_mean_self_information_of_add_one_shares():
    context = Context(item_counts=np.array([7, 0, 1, 0]))  # shares 8/12, 1/12, 2/12, 1/12
    values = Novelty(2).per_user(lists([0, 1], [2], [-1]), context=context)
    assert values[:2] == pytest.approx([(log2(12 / 8) + log2(12)) / 2, log2(6)])
    assert np.isnan(values[2])


def test_popularity_lift_is_a_ratio_of_means_with_cold_targets_at_0():
    context = Context(item_counts=np.array([10, 4, 2, 0]))
    truth = TargetLists.of([[2, 9], [1, 1], [0], []])
    shown = lists([0, 1], [1, 2], [-1, -1], [0, 0])
    found = compute([PopularityLift(2)], shown, truth, context)
    # lists: 7 and 3, targets: (2 + 0) / 2 and 4; the third has no list, the fourth no target
    assert found.values["poplift@2"] == pytest.approx((7 + 3) / (1 + 4))
    assert found.n_included == {"poplift@2": 2}


def test_each_diversity_measure_sees_what_the_other_misses():
    vectors = np.array([[1, 0, 0, 0], [-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]])
    context = Context(item_vectors=vectors.astype(np.float32) * 3)
    shown = lists([0, 5, 1, 1], [0, 2, 3, 4])
    assert ILD(4).per_user(shown, context=context) == pytest.approx([4 / 3, 1.0])
    assert Vendi(4).per_user(shown, context=context) == pytest.approx([1.0, 4.0])


def test_diversity_of_known_lists():
    context = Context(item_vectors=one_hot(np.array([0, 0, 1, 1, 2, -1], dtype=np.int32)))
    shown = lists([0, 1, 2, 3], [0, 2, 4, -1], [5, 0, -1, -1], [3, -1, -1, -1], [-1, -1, -1, -1])
    # two pairs of copies: 4 of 6 pairs differ, and two kinds of item
    np.testing.assert_allclose(ILD(4).per_user(shown, context=context), [2 / 3, 1, 1, np.nan, np.nan])
    np.testing.assert_allclose(Vendi(4).per_user(shown, context=context), [2, 3, 2, 1, np.nan])
    assert ILD(2).per_user(shown, context=context)[0] == 0


def test_diversity_equals_the_slow_formula():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(30, 6)).astype(np.float32)
    shown = np.array([rng.permutation(30)[:7] for _ in range(20)], dtype=np.int32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    context = Context(item_vectors=vectors)
    for b, row in enumerate(shown):
        cos = unit[row].astype(float) @ unit[row].astype(float).T
        pairs = [1 - cos[i, j] for i in range(7) for j in range(i)]
        assert ILD(7).per_user(shown, context=context)[b] == pytest.approx(np.mean(pairs), abs=1e-6)
        p = np.linalg.eigvalsh(cos / 7)
        p = p[p > 1e-12]
        assert Vendi(7).per_user(shown, context=context)[b] == pytest.approx(
            np.exp(-(p * np.log(p)).sum()), rel=1e-5
        )


def test_cooccurrence_vectors_estimate_the_cosine_of_the_users_of_two_items():
    rng = np.random.default_rng(0)
    taken = rng.random((300, 20)) < np.linspace(0.05, 0.6, 20)
    taken[:, 1] = taken[:, 0]
    rows = [np.flatnonzero(user).tolist() * 2 for user in taken]  # each item twice: counts once
    offsets, items = TargetLists.of(rows)
    vectors = cooccurrence_vectors(offsets, items, n_items=21, n_dims=2048, seed=1)
    unit = vectors[:20] / np.linalg.norm(vectors[:20], axis=1, keepdims=True)
    exact = taken / np.linalg.norm(taken, axis=0)
    error = unit @ unit.T - exact.T @ exact
    assert np.abs(error).max() < 5 / np.sqrt(2048)
    assert unit[0] @ unit[1] == pytest.approx(1, abs=1e-5)
    assert not vectors[20].any()


def test_yambda_ndcg_is_the_ratio_of_means_over_targets_with_repeats():
    ranked = lists([0, 1, 2], [3, 4, 5])
    truth = TargetLists.of([[0, 0, 2], [9]])  # three targets with the repeat; one that is missed
    found = compute(["ndcg@2", "recall@3", "precision@3", "mrr@3"], ranked, truth, definitions="yambda")
    assert found.values["ndcg@2"] == pytest.approx(1 / ((1 + 1 / log2(3)) + 1))
    assert found.values["recall@3"] == pytest.approx((2 / 3 + 0) / 2)
    assert found.values["precision@3"] == pytest.approx((2 / 3 + 0) / 2)
    assert found.values["mrr@3"] == 0.5
    ours = compute(["ndcg@2", "recall@3"], ranked, truth)
    assert ours.values["ndcg@2"] == pytest.approx(1 / (1 + 1 / log2(3)) / 2)
    assert ours.values["recall@3"] == 0.5


def test_yambda_ideal_lists_hold_at_most_100_hits_cut_at_k():
    ranked = np.arange(100, dtype=np.int32)[None, :]
    truth = TargetLists.of([list(range(250))])
    names = ["ndcg@10", "ndcg@100", "recall@100"]
    found = compute(names, ranked, truth, definitions="yambda").values
    assert [found[name] for name in names] == pytest.approx([1, 1, 100 / 250])


@pytest.mark.parametrize("name", ["map@10", "gini@10", "ild@10", "ndcg@101", "hitrate@5"])
def test_yambda_definitions_have_nothing_else(name):
    with pytest.raises(InputError, match="the yambda definitions have no"):
        compute([name], lists([1]), ONE, Context(n_items=3), definitions="yambda")


def test_a_metric_is_read_from_its_name():
    assert metric(" NDCG@10 ") == NDCG(10)
    assert metric("recall@100").name == "recall@100"
    assert {metric(f"{label}@3").name for label in METRICS} == {f"{label}@3" for label in METRICS}


@pytest.mark.parametrize("name", ["ndcg", "ndcg@", "ndcg@ten", "accuracy@10", "ndcg@-1", "ndcg@1.5", ""])
def test_a_name_that_is_no_metric_is_refused_with_the_list_of_metrics(name):
    with pytest.raises(InputError, match=r"no metric .* NAME one of ndcg, recall"):
        metric(name)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: NDCG(0), "NDCG.k must be >= 1, got 0"),
        (lambda: Coverage(-1), "Coverage.k must be >= 1"),
        (lambda: Recall(1).per_user(np.zeros(3, np.int32), ONE), r"must be a \(B, K\) array of integers"),
        (lambda: Recall(1).per_user(np.zeros((1, 3)), ONE), "array of integers, got shape"),
        (lambda: Recall(1).per_user(np.array([[-2]]), ONE), "item numbers must be in"),
        (lambda: Recall(1).per_user(lists([1], [2]), ONE), "2 lists need 3 offsets from 0 to 1"),
        (lambda: Recall(1).per_user(lists([1]), TargetLists.of([[-1]])), "give cold items numbers beyond"),
        (lambda: compute(["ndcg@1", NDCG(1)], lists([1]), ONE), "asked for twice"),
        (lambda: compute(["coverage@1"], lists([1]), ONE), "needs the size of the catalogue"),
        (
            lambda: compute(["coverage@1"], lists([9]), ONE, Context(n_items=3)),
            "hold item 9 of a catalogue of 3",
        ),
        (lambda: compute(["novelty@1"], lists([1]), ONE), "needs training counts"),
        (lambda: compute(["ild@1"], lists([1]), ONE), "needs item vectors"),
        (lambda: compute(["ndcg@1"], lists([1]), ONE, score_BK=np.zeros((1, 2))), "they must be equal"),
    ],
)
def test_errors_say_value_rule_and_fix(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()
