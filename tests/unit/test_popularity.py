"""Popularity diagnostics: each figure against a slow twin or a world whose answer is known."""

import math
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from scipy import stats

from vitrina.ann import Jagged
from vitrina.candidates import BPR, ImplicitALS, MostPop, SASRec
from vitrina.errors import InputError
from vitrina.evaluate import Evaluation, Protocol, evaluate, write_report
from vitrina.evaluate.popularity import (
    Asked,
    PopularityDiagnostics,
    diagnose,
    k_occurrences,
    mean_scores,
    measure_serving,
    norm_by_decile,
    norms,
    popularity_deciles,
    popularity_groups,
    recall_by_popularity,
    skewness,
    spaced,
    unit,
)
from vitrina.evaluate.vectors import popularity_of, source_with_vectors
from vitrina.log import EventLog
from vitrina.metrics import NDCG, compute
from vitrina.metrics.correlation import spearman
from vitrina.pipeline import Pipeline, Source
from vitrina.policies import Unseen
from vitrina.split import Truth, last_days
from vitrina.testing import markov_world

N_ITEMS, N_USERS, DIM = 40, 60, 6


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def jagged(lists):
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in lists])]).astype(np.int64)
    return Jagged(offsets, np.array([i for one in lists for i in one], dtype=np.int32))


@pytest.fixture
def asked(rng):
    return Asked(
        query_UD=rng.standard_normal((N_USERS, DIM)).astype(np.float32),
        truth=jagged([rng.choice(N_ITEMS + 5, 3, replace=False) for _ in range(N_USERS)]),
        counts_I=rng.integers(1, 60, N_ITEMS),
    )


@pytest.fixture
def vectors(rng):
    return rng.standard_normal((N_ITEMS, DIM)).astype(np.float32)


def test_spearman_is_the_correlation_of_ranks(rng):
    a = rng.integers(0, 5, 50)
    b = rng.standard_normal(50)
    by_ranks = np.corrcoef(stats.rankdata(a), stats.rankdata(b))[0, 1]
    assert spearman(a, b) == pytest.approx(by_ranks, abs=1e-12)
    assert spearman(a, np.exp(b)) == pytest.approx(by_ranks, abs=1e-12)


def test_spearman_of_what_cannot_rise_is_not_a_number_and_bad_input_is_refused():
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(spearman([1], [2]))
    with pytest.raises(InputError, match="one length"):
        spearman([1, 2], [1, 2, 3])
    with pytest.raises(InputError, match="NaN"):
        spearman([1, 2], [1, float("nan")])


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, -1.0)])
def test_norms_that_are_log_counts_have_the_correlation_one(asked, rng, sign, expected):
    counts = rng.permutation(N_ITEMS) + 2
    directions = unit(rng.standard_normal((N_ITEMS, DIM)).astype(np.float32))
    lengths = np.log(counts) if sign > 0 else 1 / np.log(counts)
    made = Asked(query_UD=asked.query_UD, truth=asked.truth, counts_I=counts)
    found = diagnose((directions * lengths[:, None]).astype(np.float32), made, source="x", served="dot")
    assert found.count_norm == pytest.approx(expected)
    norm = found.decile_frame()["norm"].to_numpy()
    assert (np.diff(norm) * sign > 0).all()
    assert found.n_unseen == 0
    assert math.isnan(found.unseen_norm)


def test_items_without_training_rows_are_told_apart(asked, vectors):
    counts = asked.counts_I.copy()
    counts[:4] = 0
    made = Asked(query_UD=asked.query_UD, truth=asked.truth, counts_I=counts)
    found = diagnose(vectors, made, source="x", served="dot", start_norm=0.5)
    length = np.linalg.norm(vectors.astype(np.float64), axis=1)
    assert found.n_unseen == 4
    assert found.unseen_norm == pytest.approx(length[:4].mean())
    assert found.seen_norm == pytest.approx(length[4:].mean())
    assert found.count_norm == pytest.approx(stats.spearmanr(np.log(counts[4:]), length[4:]).statistic)
    assert found.start_norm == 0.5


def test_deciles_of_distinct_counts_are_tenths_and_equal_counts_stay_together(rng):
    counts = rng.permutation(200)
    decile = popularity_deciles(counts)
    assert np.bincount(decile)[1:].tolist() == [20] * 10
    assert (np.diff(decile[np.argsort(counts)]) >= 0).all()
    tied = rng.integers(1, 6, 300)
    assert all(len(set(popularity_deciles(tied)[tied == value])) == 1 for value in range(1, 6))
    found = norm_by_decile(tied, tied.astype(float))
    assert sum(entry.n_items for entry in found) == 300
    assert all(entry.count_low <= entry.norm <= entry.count_high for entry in found)


def test_groups_hold_a_third_of_the_rows_each(rng):
    counts = np.concatenate([[100], np.full(10, 10), np.full(100, 1), np.zeros(7, int)])
    group = popularity_groups(counts)
    assert (group == 0).tolist() == [True] + [False] * 117
    assert (group[1:11] == 1).all()
    assert (group[11:] == 2).all()
    many = rng.integers(1, 1000, 3000)
    share = [many[popularity_groups(many) == g].sum() / many.sum() for g in range(3)]
    assert share == pytest.approx([1 / 3] * 3, abs=0.01)


def test_recall_of_a_group_counts_its_own_targets_only(rng):
    counts = np.array([100, 50, 50, 40, 40, 20])
    assert popularity_groups(counts).tolist() == [0, 1, 1, 2, 2, 2]
    lists = np.array([[0, 3, 1], [2, 5, 4], [4, -1, -1]], np.int32)
    truth = jagged([[0, 5, 9], [1, 2, 3], [4, 0]])
    found = recall_by_popularity(lists, truth, counts, k=2)
    assert found["head"] == pytest.approx((1 + 0) / 2)
    assert found["middle"] == pytest.approx(1 / 2)
    assert found["tail"] == pytest.approx((0 + 0 + 1) / 3)
    nobody = recall_by_popularity(lists, jagged([[9], [9], [9]]), counts, k=2)
    assert all(math.isnan(value) for value in nobody.values())


def test_skewness_is_that_of_scipy_and_zero_where_symmetric(rng):
    x = rng.exponential(size=400)
    assert skewness(x) == pytest.approx(stats.skew(x), rel=1e-12)
    assert skewness(np.array([1, 2, 3])) == pytest.approx(0)
    assert math.isnan(skewness(np.array([4, 4, 4])))


def test_neighbours_are_counted_as_a_slow_loop_counts_them(vectors):
    score = vectors @ vectors.T
    np.fill_diagonal(score, -np.inf)
    nearest = np.argsort(-score, axis=1)[:, :5]
    assert k_occurrences(vectors, k=5).tolist() == np.bincount(nearest.ravel(), minlength=N_ITEMS).tolist()
    some = spaced(N_ITEMS, 10)
    part = np.bincount(nearest[some].ravel(), minlength=N_ITEMS)
    assert k_occurrences(vectors, k=5, n_queries=10).tolist() == part.tolist()


def test_a_hub_is_seen_in_the_skew_and_a_ring_has_none():
    turn = 2 * np.pi * np.arange(50) / 50
    ring = np.column_stack([np.cos(turn), np.sin(turn)]).astype(np.float32)
    assert set(k_occurrences(ring, k=2).tolist()) == {2}
    hub = np.vstack([np.eye(50), np.ones((1, 50))]).astype(np.float32)
    assert k_occurrences(hub, k=1)[50] == 50
    assert skewness(k_occurrences(hub, k=1)) > 5


def test_mean_scores_are_the_means_of_all_scores(asked, vectors):
    slow = [np.mean([float(q @ v) for q in asked.query_UD]) for v in vectors]
    assert mean_scores(asked.query_UD, vectors) == pytest.approx(np.array(slow), abs=1e-5)


@pytest.mark.parametrize("kind", ["dot", "cosine"])
def test_a_serving_is_what_a_slow_twin_makes_of_it(asked, vectors, kind):
    vectors = vectors * np.linspace(0.2, 3, N_ITEMS, dtype=np.float32)[:, None]
    found = measure_serving(kind, vectors, asked, is_served=True, k=5)
    item = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if kind == "cosine" else vectors
    query = asked.query_UD
    query = query / np.linalg.norm(query, axis=1, keepdims=True) if kind == "cosine" else query
    score = query @ item.T
    lists = np.argsort(-score, axis=1)[:, :5]
    targets = np.asarray(asked.truth.item_ix).reshape(N_USERS, 3)
    hit = (lists[:, :, None] == targets[:, None, :]).any(axis=2)
    gain = 1 / np.log2(np.arange(2, 7))
    assert found.ndcg == pytest.approx(np.mean(hit @ gain / gain[:3].sum()))
    assert found.recall == pytest.approx(np.mean(hit.sum(axis=1) / 3))
    shown = np.bincount(lists.ravel(), minlength=N_ITEMS)
    pairs = np.abs(shown[:, None] - shown[None, :]).sum()
    assert found.gini == pytest.approx(pairs / (2 * N_ITEMS * shown.sum()))
    assert found.coverage == pytest.approx((shown > 0).mean())
    assert found.shown_popularity == pytest.approx(asked.counts_I[lists].mean())
    padded = np.concatenate([asked.counts_I, np.zeros(5)])
    assert found.target_popularity == pytest.approx(padded[targets].mean())
    rank = stats.spearmanr(asked.counts_I, score.mean(axis=0)).statistic
    assert found.count_score == pytest.approx(rank, abs=1e-6)


def test_vectors_of_one_length_give_the_same_lists_both_ways_and_even_exposure_has_gini_zero():
    every = np.eye(30, dtype=np.float32)
    made = Asked(query_UD=every, truth=jagged([[i] for i in range(30)]), counts_I=np.arange(1, 31))
    dot, cosine = (measure_serving(kind, every, made, is_served=True, k=1) for kind in ("dot", "cosine"))
    assert dot.gini == cosine.gini == pytest.approx(0)
    assert dot.ndcg == cosine.ndcg == pytest.approx(1)
    assert dot.lift == pytest.approx(1)


def test_a_long_vector_is_shown_to_all_by_inner_product_and_to_few_by_cosine(asked, rng):
    directions = unit(rng.standard_normal((N_ITEMS, DIM)).astype(np.float32))
    directions[0] = unit(asked.query_UD.mean(axis=0, keepdims=True))[0]
    long = directions.copy()
    long[0] *= 200
    dot = measure_serving("dot", long, asked, is_served=False, k=1)
    cosine = measure_serving("cosine", long, asked, is_served=True, k=1)
    assert dot.gini > cosine.gini + 0.1
    assert dot.hubness > cosine.hubness


def test_rules_reach_the_lists_and_empty_queries_get_none(asked, vectors):
    query = asked.query_UD.copy()
    query[0] = 0
    allowed = np.arange(N_ITEMS) >= 10
    seen = jagged([[10, 11]] * N_USERS)
    made = Asked(query_UD=query, truth=asked.truth, counts_I=asked.counts_I, exclude=seen, allowed=allowed)
    found = measure_serving("dot", vectors, made, is_served=True, k=28)
    assert found.coverage == pytest.approx(28 / N_ITEMS)
    assert found.gini == pytest.approx(12 / N_ITEMS)  # 28 items alike, 12 never


def test_what_does_not_fit_together_is_refused(asked, vectors):
    with pytest.raises(InputError, match="training counts"):
        diagnose(vectors[:-1], asked, source="x", served="dot")
    with pytest.raises(InputError, match="offsets"):
        Asked(query_UD=asked.query_UD[:-1], truth=asked.truth, counts_I=asked.counts_I)
    with pytest.raises(InputError, match="serving"):
        measure_serving("angle", vectors, asked, is_served=True)


@pytest.fixture(scope="module")
def split():
    rng = np.random.default_rng(0)
    user = rng.integers(0, 80, 2500)
    item = 15 * (user % 3) + np.minimum(rng.zipf(1.5, 2500), 15) - 1
    frame = pl.DataFrame({"user_id": user, "item_id": item, "ts": rng.integers(0, 100 * 86_400, 2500)})
    return last_days(EventLog.from_frame(frame, time_unit="s", epoch=datetime(2020, 1, 1, tzinfo=UTC)), 20)


@pytest.fixture(scope="module")
def evaluation(split):
    train = split.train.histories()
    models = {
        "ALS": ImplicitALS(embedding_dim=8),
        "BPR": BPR(embedding_dim=8, n_epochs=5),
        "MostPop": MostPop(),
    }
    pipelines = {name: Pipeline(sources=[Source(generator=m)]).fit(train) for name, m in models.items()}
    protocol = Protocol(k=20, metrics=("NDCG@10", "Recall@10"), repeats="count")
    return evaluate(pipelines, split, train=train, protocol=protocol)


def test_only_models_with_vectors_are_diagnosed_and_the_disk_keeps_it(evaluation, tmp_path):
    found = evaluation.popularity()
    assert found.keys() == {"ALS", "BPR"}
    evaluation.save(tmp_path / "kept")
    again = Evaluation.load(tmp_path / "kept").popularity()
    for model, entry in found.items():
        assert isinstance(again[model], PopularityDiagnostics)
        assert again[model].serving_frame().equals(entry.serving_frame(), null_equal=True)
        assert again[model].decile_frame().equals(entry.decile_frame())
        assert again[model].count_norm == entry.count_norm
        assert again[model].epoch_frame().is_empty()


@pytest.mark.parametrize("model", ["ALS", "BPR"])
def test_the_serving_of_the_model_itself_has_the_values_of_the_leaderboard(evaluation, model):
    served = next(s for s in evaluation.popularity()[model].servings if s.is_served)
    assert served.serving == "dot"
    run = next(run for run in evaluation.runs if run.model == model)
    assert served.ndcg == pytest.approx(run.average("ndcg@10"), abs=1e-9)
    assert served.recall == pytest.approx(run.average("recall@10"), abs=1e-9)


def test_the_report_shows_it_where_there_are_vectors_and_is_silent_elsewhere(evaluation, split, tmp_path):
    write_report({"all": evaluation}, tmp_path / "with.html")
    text = (tmp_path / "with.html").read_text()
    assert "Vectors and popularity" in text
    assert "Length by popularity" in text
    assert "Length while training" not in text  # neither model has epochs that tell of norms
    train = split.train.histories()
    plain = evaluate(
        {"MostPop": Pipeline(sources=[Source(generator=MostPop())]).fit(train)}, split, train=train
    )
    assert plain.popularity() == {}
    write_report({"all": plain}, tmp_path / "without.html")
    assert "Vectors and popularity" not in (tmp_path / "without.html").read_text()


def test_seen_items_stay_out_where_the_pipeline_hides_them(split):
    train = split.train.histories()
    truth = split.truth(train)
    model = ImplicitALS(embedding_dim=8)
    shown = Pipeline(sources=[Source(generator=model)]).fit(train)
    hidden = Pipeline(sources=[Source(generator=model)], policies=[Unseen()])
    hidden.bind(shown.catalogue, shown.trained_until)
    assert source_with_vectors(hidden, train).generator is model
    one, other = (popularity_of(p, train, truth, now=split.cut_us) for p in (shown, hidden))
    assert one.count_norm == other.count_norm
    assert one.servings[0].recall > other.servings[0].recall  # this log repeats itself
    assert norms(model.item_emb_) == pytest.approx(np.linalg.norm(model.item_emb_, axis=1), rel=1e-5)


@pytest.mark.parametrize("params", [{"cosine": True, "temperature": 0.1}, {"temperature": 0.2}])
def test_with_a_trend_the_serving_of_the_model_is_what_it_answers(params):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    world = markov_world(n_users=60, seed=0)
    last = np.zeros(world.train.n_rows, bool)
    last[world.train.offsets[1:] - 1] = True
    train = world.train.only(~last)
    model = SASRec(embedding_dim=16, max_len=20, n_layers=1, n_epochs=3, lr=0.01, trend_days=1e-4, **params)
    pipeline = Pipeline(sources=[Source(generator=model)]).fit(train)
    rows = world.train.only(last).frame().with_columns(pl.col("ts").dt.offset_by("40y"))
    truth = Truth.of(EventLog.from_frame(rows), train)
    found = popularity_of(pipeline, train, truth, now=None)
    lists = model.retrieve(train.of(truth.user_ids.values), k=10)
    (served,) = (one for one in found.servings if one.is_served)
    (other,) = (one for one in found.servings if not one.is_served)
    assert served.serving == ("cosine" if params.get("cosine") else "dot")
    wanted = compute([NDCG(10)], lists.item_ix, truth.jagged).values["ndcg@10"]
    assert served.ndcg == pytest.approx(wanted, abs=1e-6)
    assert other.ndcg != pytest.approx(wanted, abs=1e-3)
