"""Metrics against a ten-line oracle, and what must hold whatever the lists."""

from math import log2

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrina.metrics import (
    MAP,
    MRR,
    NDCG,
    UNREACHABLE,
    HitRate,
    Precision,
    Recall,
    TargetLists,
    compute,
    hits,
    pessimistic_ranks,
)

N_ITEMS = 12
ACCURACY = (NDCG, Recall, HitRate, Precision, MAP, MRR)
items = st.integers(0, N_ITEMS - 1)
targets = st.lists(st.integers(0, N_ITEMS + 3), max_size=8)  # repeated and cold ones among them


@st.composite
def worlds(draw, unique=False, min_targets=0):
    """(B, K) lists with pads at the end, and targets of B users."""
    n_users, width = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    lists = [draw(st.lists(items, max_size=width, unique=unique)) for _ in range(n_users)]
    truth = [draw(targets.filter(lambda t: len(t) >= min_targets)) for _ in range(n_users)]
    return np.array([one + [-1] * (width - len(one)) for one in lists], dtype=np.int32), truth


def oracle(kind, ranked, truth, k):
    wanted, seen, hit = set(truth), set(), []
    for item in [i for i in ranked if i >= 0][:k]:
        hit.append(item in wanted - seen)
        seen.add(item)
    gains = [h / log2(r + 2) for r, h in enumerate(hit)]
    precisions = [sum(hit[: r + 1]) / (r + 1) for r, h in enumerate(hit) if h]
    first = next((1 / (r + 1) for r, h in enumerate(hit) if h), 0.0)
    n = min(len(wanted), k)
    return {
        "ndcg": sum(gains) / sum(1 / log2(r + 2) for r in range(n)),
        "recall": sum(hit) / len(wanted),
        "hitrate": float(any(hit)),
        "precision": sum(hit) / k,
        "map": sum(precisions) / n,
        "mrr": first,
    }[kind.label]


@settings(max_examples=150, deadline=None)
@given(worlds(), st.integers(1, 10))
def test_every_accuracy_metric_is_the_oracles(world, k):
    lists, truth = world
    found = compute([kind(k) for kind in ACCURACY], lists, TargetLists.of(truth)).per_user
    for b, wanted in enumerate(truth):
        for m, kind in enumerate(ACCURACY):
            value = found[b, m]
            assert kind(k).per_user(lists, TargetLists.of(truth))[b] == pytest.approx(value, nan_ok=True)
            if wanted:
                assert value == pytest.approx(oracle(kind, lists[b], wanted, k), abs=1e-12)
            else:
                assert np.isnan(value)


@settings(max_examples=60, deadline=None)
@given(worlds(min_targets=1))
def test_values_are_between_0_and_1_and_recall_grows_with_k(world):
    lists, truth = world
    cuts = range(1, 11)
    asked = [kind(k) for kind in ACCURACY for k in cuts]
    value = compute(asked, lists, TargetLists.of(truth)).per_user.reshape(
        len(truth), len(ACCURACY), len(cuts)
    )
    assert value.min() >= 0
    assert value.max() <= 1 + 1e-12
    for kind in (Recall, HitRate, MRR):
        assert (np.diff(value[:, ACCURACY.index(kind)], axis=1) >= 0).all()
    is_hit = value[:, ACCURACY.index(HitRate)] > 0
    for at in range(len(ACCURACY)):
        np.testing.assert_array_equal(value[:, at] > 0, is_hit)


@settings(max_examples=60, deadline=None)
@given(worlds(), st.randoms(use_true_random=False))
def test_order_of_users_of_targets_and_names_of_items_do_not_matter(world, random):
    lists, truth = world
    names = list(range(N_ITEMS + 4))
    random.shuffle(names)
    rows = list(range(len(truth)))
    random.shuffle(rows)
    renamed = np.where(lists >= 0, np.array(names)[lists], -1).astype(np.int32)
    shuffled = [random.sample(t, len(t)) for t in truth]
    asked = [kind(4) for kind in ACCURACY]
    before = compute(asked, lists, TargetLists.of(truth)).per_user[rows]
    after = compute(asked, renamed[rows], TargetLists.of([[names[i] for i in shuffled[b]] for b in rows]))
    np.testing.assert_array_equal(after.per_user, before)


@settings(max_examples=60, deadline=None)
@given(worlds(unique=True, min_targets=1), st.integers(1, 10))
def test_a_better_order_never_lowers_a_metric(world, k):
    lists, truth = world
    best = np.full_like(lists, -1)
    for b, wanted in enumerate(truth):
        ranked = [i for i in lists[b] if i >= 0]
        ranked.sort(key=lambda i: i not in wanted)
        best[b, : len(ranked)] = ranked
    asked = [kind(k) for kind in ACCURACY]
    of_best = compute(asked, best, TargetLists.of(truth)).per_user
    assert (of_best >= compute(asked, lists, TargetLists.of(truth)).per_user - 1e-12).all()


@settings(max_examples=60, deadline=None)
@given(worlds(unique=True), st.lists(st.integers(0, 2), min_size=8, max_size=8))
def test_ties_broken_against_the_model_are_never_better_than_any_order_of_the_tie(world, steps):
    lists, truth = world
    scores = -np.cumsum(np.array(steps[: lists.shape[1]]) // 2).astype(float)
    scores = np.broadcast_to(scores, lists.shape)
    offsets, item_ix = TargetLists.of(truth)
    strict = hits(lists, offsets, item_ix, score_BK=scores).is_hit
    shuffled = np.full_like(lists, -1)
    rng = np.random.default_rng(0)
    for b in range(len(lists)):
        n = int((lists[b] >= 0).sum())
        order = np.lexsort((rng.random(n), -scores[b, :n]))
        shuffled[b, :n] = lists[b, order]
    some_order = hits(shuffled, offsets, item_ix).is_hit
    assert (strict.cumsum(axis=1) <= some_order.cumsum(axis=1)).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1.0, 2.0, -np.inf, np.nan]), min_size=1, max_size=9), targets)
def test_pessimistic_ranks_are_those_of_a_sort_that_puts_targets_last(scores, wanted):
    wanted = sorted(set(wanted))
    ranks = pessimistic_ranks(np.array([scores]), TargetLists.of([wanted]))
    alive = [i for i, s in enumerate(scores) if s > -np.inf]
    order = sorted(alive, key=lambda i: (-scores[i], i in wanted, i))
    for i, rank in zip(wanted, ranks, strict=True):
        assert rank == (order.index(i) + 1 if i in order else UNREACHABLE)


@settings(max_examples=60, deadline=None)
@given(worlds(unique=True))
def test_yambda_definitions_equal_ours_where_every_user_has_equally_many_distinct_targets(world):
    lists, _ = world
    truth = TargetLists.of([[0, 3, N_ITEMS + 1]] * len(lists))
    names = ["ndcg@3", "recall@3", "precision@3", "mrr@3"]
    ours = compute(names, lists, truth).means
    np.testing.assert_allclose(compute(names, lists, truth, definitions="yambda").means, ours, atol=1e-12)
