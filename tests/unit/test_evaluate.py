"""The evaluator against slow twins; what it refuses, notes, drops and keeps."""

import math
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import polars as pl
import pytest

from vitrina.ann import TopK
from vitrina.candidates import ItemKNN, MostPop, OwnHistory, Random
from vitrina.errors import ArtifactError, ConfigError, InputError, SplitError
from vitrina.evaluate import Evaluation, Evaluator, Protocol, backtest, evaluate, paired, pretty
from vitrina.evaluate.slices import HISTORY, POPULARITY, range_name
from vitrina.log import EventLog
from vitrina.metrics import metric
from vitrina.pipeline import Pipeline, Source
from vitrina.policies import Unseen
from vitrina.schema import US_PER_DAY
from vitrina.split import at, leave_one_out, windows

METRICS = ("NDCG@10", "Recall@10", "HitRate@10", "MRR@10", "Coverage@10", "Gini@10", "Novelty@10")
PROTOCOL = Protocol(metrics=METRICS, k=20, ties="as_listed")


@pytest.fixture(scope="module")
def log():
    """150 users with a taste out of 3, who repeat; 60 items, the last 4 born after day 80; 30 late users."""
    rng = np.random.default_rng(3)
    n = 4500
    user = rng.integers(0, 150, n)
    day = rng.uniform(0, 100, n)
    day = np.where(user >= 120, 82 + day * 0.18, day)
    item = 20 * (user % 3) + np.minimum(rng.zipf(1.4, n) - 1, 19)
    item = np.where((day > 80) & (rng.random(n) < 0.04), 60 + rng.integers(0, 4, n), item)
    frame = pl.DataFrame(
        {
            "user_id": user,
            "item_id": item,
            "ts": (day * US_PER_DAY).astype(np.int64),
            "organic": rng.random(n) < 0.5,
        }
    )
    return EventLog.from_frame(frame, time_unit="us", epoch=datetime(2020, 1, 1, tzinfo=UTC))


CUT = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp() * 1e6) + 80 * US_PER_DAY


@pytest.fixture(scope="module")
def split(log):
    return at(log, cut=CUT, gap_days=1)


@pytest.fixture(scope="module")
def train(split):
    return split.train.histories()


def pipeline_of(generator, train, policies=(), fallback=None):
    return Pipeline(sources=[Source(generator=generator)], policies=list(policies), fallback=fallback).fit(
        train
    )


@pytest.fixture(scope="module")
def pipelines(train):
    return {
        "ItemKNN": pipeline_of(ItemKNN(), train, fallback=MostPop()),
        "MostPop": pipeline_of(MostPop(), train),
        "Random": pipeline_of(Random(seed=1), train),
    }


@pytest.fixture(scope="module")
def evaluation(pipelines, split, train):
    return evaluate(pipelines, split, train=train, protocol=PROTOCOL, batch_size=32)


class Answers:
    """A generator whose lists are given: what a model gone wrong would answer."""

    def __init__(self, items, answer):
        self.items_, self.answer = items, answer

    def fit(self, train):
        return self

    def retrieve(self, queries, *, k, exclude=None, allowed=None):
        item_ix = np.full((len(queries), k), -1, np.int32)
        for row, items in enumerate(self.answer(queries)):
            item_ix[row, : len(items[:k])] = items[:k]
        score = np.where(item_ix >= 0, -np.arange(k, dtype=np.float32), -np.inf).astype(np.float32)
        return TopK(item_ix, score)


def by_hand(split, train, lists):
    """user -> NDCG@10 and recall@10 from the written lists and the test rows, in plain Python."""
    taken = {}
    for user, item in split.test.frame.select("user_id", "item_id").collect().rows():
        taken.setdefault(user, set()).add(item)
    shown = {}
    for user, item in lists.sort("query_id", "rank").select("query_id", "item_id").rows():
        shown.setdefault(user, []).append(item)
    found = {}
    for user, targets in taken.items():
        hits = [item in targets for item in shown.get(user, [])[:10]]
        gain = sum(hit / math.log2(rank + 2) for rank, hit in enumerate(hits))
        ideal = sum(1 / math.log2(rank + 2) for rank in range(min(10, len(targets))))
        found[user] = (gain / ideal, sum(hits) / len(targets))
    return found


def test_the_written_lists_give_the_values_of_the_table_by_hand(pipelines, split, train, tmp_path):
    evaluation = evaluate(
        {"ItemKNN": pipelines["ItemKNN"]}, split, train=train, protocol=PROTOCOL, lists_folder=tmp_path
    )
    lists = pl.read_parquet(tmp_path / "ItemKNN.parquet")
    assert lists.columns == ["query_id", "item_id", "source", "score", "rank"]
    oracle = by_hand(split, train, lists)
    values = evaluation.values("ItemKNN")
    assert set(values["user_id"]) == set(oracle)
    for user, ndcg, recall in values.select("user_id", "ndcg@10", "recall@10").rows():
        assert (ndcg, recall) == pytest.approx(oracle[user], abs=1e-12)
    board = {(r["metric"], r["k"]): r["mean"] for r in evaluation.leaderboard().to_dicts()}
    assert board["ndcg", 10] == pytest.approx(np.mean([v[0] for v in oracle.values()]))
    shown = lists.filter(pl.col("rank") <= 10)["item_id"].n_unique()
    assert board["coverage", 10] == pytest.approx(shown / train.n_items)


def test_what_is_measured_is_what_the_pipeline_serves(pipelines, split, train, evaluation):
    users = evaluation.users["user_id"]
    feed = pipelines["ItemKNN"].recommend(train.of(users), k=20, now=split.cut_us)
    hit = np.zeros(len(users))
    truth = split.truth(train)
    for row in range(len(users)):
        targets = truth.item_ix[truth.offsets[row] : truth.offsets[row + 1]]
        hit[row] = np.isin(feed.item_ix[row, :10], targets).any()
    assert evaluation.values("ItemKNN")["hitrate@10"].to_list() == hit.tolist()


def test_intervals_hold_the_mean_and_models_come_best_first(evaluation):
    board = evaluation.leaderboard()
    assert board["model"].unique(maintain_order=True).to_list() == evaluation.models
    assert evaluation.models == ["ItemKNN", "MostPop", "Random"]
    known = board.filter(pl.col("ci_low").is_not_null())
    assert (known["ci_low"] <= known["mean"] + 1e-12).all()
    assert (known["mean"] <= known["ci_high"] + 1e-12).all()
    assert (known["ci_low"] < known["ci_high"]).any()
    without = board.filter(pl.col("ci_low").is_null())["metric"].unique().sort().to_list()
    assert without == ["coverage", "gini"]


def test_no_test_user_is_lost(pipelines, split, train):
    one = {"MostPop": pipelines["MostPop"]}
    for protocol in (
        PROTOCOL,
        replace(PROTOCOL, users="warm"),
        replace(PROTOCOL, repeats="new_only"),
        replace(PROTOCOL, users="warm", repeats="new_only"),
    ):
        found = evaluate(one, split, train=train, protocol=protocol)
        assert len(found.users) + found.n_dropped_users == found.counts["n_test_users"]
        targets = found.users["n_targets"].sum()
        lost = sum(d.n for d in found.dropped if d.what == "targets")
        assert targets + lost == found.counts["n_targets"]
    warm = evaluate(one, split, train=train, protocol=replace(PROTOCOL, users="warm"))
    assert len(warm.users) == found.counts["n_warm_users"] < found.counts["n_test_users"]
    assert found.counts["n_cold_users"] > 0
    assert warm.leaderboard()["n_dropped"][0] == found.counts["n_cold_users"]


def test_cold_items_stay_in_the_truth_as_misses(evaluation, split, train):
    truth = split.truth(train)
    assert evaluation.counts["n_cold_item_targets"] > 0
    assert evaluation.users["n_targets"].sum() == truth.distinct().n_targets
    assert evaluation.ceiling["recall@10"] < 1
    cold = evaluation.slices().filter((pl.col("by") == "popularity") & (pl.col("slice") == "0"))
    assert (cold["mean"] == 0).all()


def test_one_seen_filter_holds_for_every_model(pipelines, split, train, tmp_path):
    filtered = pipeline_of(ItemKNN(), train, policies=[Unseen()], fallback=MostPop())
    both = {"plain": pipelines["ItemKNN"], "filtered": filtered}
    for repeats in ("count", "new_only"):
        found = evaluate(
            both, split, train=train, protocol=replace(PROTOCOL, repeats=repeats), lists_folder=tmp_path
        )
        assert found.values("plain").equals(found.values("filtered"))
    lists = pl.read_parquet(tmp_path / "plain.parquet")
    seen = split.train.frame.select(query_id="user_id", item_id="item_id").collect()
    assert not len(lists.join(seen, on=["query_id", "item_id"]))
    with pytest.raises(ConfigError, match="filter seen items differently"):
        evaluate(both, split, train=train, protocol=replace(PROTOCOL, repeats="as_configured"))


def test_the_size_of_a_batch_changes_no_value(pipelines, split, train, evaluation):
    again = evaluate(pipelines, split, train=train, protocol=PROTOCOL, batch_size=1024)
    for model in pipelines:
        names = [name for name in evaluation.values(model).columns if "another" not in name]
        assert again.values(model).select(names).equals(evaluation.values(model).select(names))


def test_user_slices_hold_every_user_once_and_average_to_the_whole(evaluation):
    part = evaluation.slices().filter((pl.col("by") == "history") & (pl.col("metric") == "ndcg"))
    board = evaluation.leaderboard().filter(pl.col("metric") == "ndcg")
    for model in evaluation.models:
        rows = part.filter(pl.col("model") == model)
        assert rows["n_users"].sum() == len(evaluation.users)
        assert rows["n_targets"].sum() == evaluation.users["n_targets"].sum()
        mean = (rows["mean"] * rows["n_users"]).sum() / rows["n_users"].sum()
        assert mean == pytest.approx(board.filter(pl.col("model") == model)["mean"][0])


@pytest.mark.parametrize("by", ["popularity", "taken before", "organic"])
def test_target_slices_hold_every_target_and_every_hit_once(evaluation, split, train, by):
    names = [name for name in evaluation.slice_targets if name.startswith(f"{by}:")]
    assert sum(evaluation.slice_targets[name] for name in names) == evaluation.users["n_targets"].sum()
    truth = split.truth(train).distinct()
    values = evaluation.values("ItemKNN")
    hits = values["recall@10"].to_numpy() * truth.lengths
    in_slices = np.zeros(len(truth))
    evaluator = Evaluator(split=split, train=train, protocol=PROTOCOL)
    for name in names:
        n_targets = truth.only(evaluator.slices[name]).lengths
        in_slices += values[f"recall@10|{name}"].fill_null(0.0).to_numpy() * n_targets
    assert in_slices == pytest.approx(hits)


def test_bounds_of_slices_leave_no_count_out():
    for bounds in (POPULARITY, HISTORY):
        assert bounds[0][0] == 0
        assert bounds[-1][1] is None
        assert all(a[1] + 1 == b[0] for a, b in pairwise(bounds))
    assert [range_name(r) for r in POPULARITY] == ["0", "1-5", "6-20", ">20"]


def test_a_constant_model_is_named_as_such(train, split):
    constant = pipeline_of(Answers(train.items, lambda queries: [[5, 6, 7]] * len(queries)), train)
    found = evaluate({"constant": constant}, split, train=train, protocol=PROTOCOL)
    assert found.notes()["constant"] == ["gives everybody the same list"]
    control = found.control().row(0, named=True)
    assert control["mean"] == pytest.approx(found.leaderboard()["mean"][0])


def test_a_constant_scorer_earns_nothing_when_ties_are_read_against_it(train, split):
    class Indifferent(Answers):
        def retrieve(self, queries, *, k, exclude=None, allowed=None):
            lists = super().retrieve(queries, k=k)
            return TopK(lists.item_ix, np.zeros_like(lists.score))

    everything = list(range(train.n_items))
    flat = pipeline_of(Indifferent(train.items, lambda queries: [everything] * len(queries)), train)
    rules = replace(PROTOCOL, ties="against_the_model")
    assert evaluate({"flat": flat}, split, train=train, protocol=rules).leaderboard()["mean"][0] == 0
    assert evaluate({"flat": flat}, split, train=train, protocol=PROTOCOL).leaderboard()["mean"][0] > 0


def test_a_model_that_mixes_up_its_users_is_caught(train, split, pipelines):
    rng = np.random.default_rng(0)

    def lists_of_somebody_else(queries):
        feed = pipelines["ItemKNN"].recommend(train.rows(rng.integers(0, len(train), len(queries))), k=20)
        return feed.item_ix

    shuffled = pipeline_of(Answers(train.items, lists_of_somebody_else), train)
    found = evaluate(
        {"right": pipelines["ItemKNN"], "shuffled": shuffled}, split, train=train, protocol=PROTOCOL
    )
    assert found.notes() == {"shuffled": ["does no better with a user's own list than with another user's"]}
    assert found.models[0] == "right"


def test_a_pipeline_fitted_past_the_cut_is_refused(log, split, train):
    everything = log.histories(items=train.items)
    peeking = Pipeline(sources=[Source(generator=MostPop())]).fit(everything)
    with pytest.raises(SplitError, match="has seen the future"):
        evaluate({"peeking": peeking}, split, train=train, protocol=PROTOCOL)


def test_a_pipeline_fitted_within_the_gap_is_refused(log, split, train):
    until_cut = log.between(None, split.cut_us).histories(items=train.items)
    late = Pipeline(sources=[Source(generator=MostPop())]).fit(until_cut)
    with pytest.raises(SplitError, match="has seen the future"):
        evaluate({"late": late}, split, train=train, protocol=PROTOCOL)


def test_a_pipeline_of_other_items_or_none_is_refused(split, train):
    other = train.reindex(type(train.items)(train.items.values.head(20)))
    with pytest.raises(SplitError, match="fitted on 20 items"):
        evaluate({"other": pipeline_of(MostPop(), other)}, split, train=train, protocol=PROTOCOL)
    with pytest.raises(ConfigError, match="not fitted"):
        evaluate(
            {"new": Pipeline(sources=[Source(generator=MostPop())])}, split, train=train, protocol=PROTOCOL
        )
    with pytest.raises(ConfigError, match="no pipeline"):
        evaluate({}, split, train=train, protocol=PROTOCOL)


def test_a_model_that_knows_the_answers_is_asked_for_an_explanation(train, split):
    truth = split.truth(train)
    answers = dict(zip(truth.user_ids.values, np.split(truth.item_ix, truth.offsets[1:-1]), strict=True))

    def cheat(queries):
        return [[i for i in dict.fromkeys(answers[u]) if i < train.n_items] for u in queries.query_ids]

    found = evaluate(
        {"cheat": pipeline_of(Answers(train.items, cheat), train)}, split, train=train, protocol=PROTOCOL
    )
    assert any("look for a leak" in note for note in found.notes()["cheat"])
    value = found.leaderboard()["mean"][0]
    assert value == pytest.approx(found.ceiling["ndcg@10"])


def test_lists_that_are_missing_are_counted(train, split):
    found = evaluate({"own": pipeline_of(OwnHistory(), train)}, split, train=train, protocol=PROTOCOL)
    timing = found.timings().row(0, named=True)
    assert timing["n_empty"] == found.counts["n_cold_users"]
    assert timing["n_short"] >= timing["n_empty"]
    assert f"has nothing to say to {timing['n_empty']:,} users" in " ".join(found.notes()["own"])


def test_seeds_are_averaged_and_their_spread_is_shown(train, split, pipelines):
    fits = [pipeline_of(Random(seed=s), train) for s in range(3)]
    found = evaluate({"Random": fits, "MostPop": pipelines["MostPop"]}, split, train=train, protocol=PROTOCOL)
    board = found.leaderboard().filter(pl.col("metric") == "ndcg")
    random = board.filter(pl.col("model") == "Random").row(0, named=True)
    alone = [
        evaluate({"r": fit}, split, train=train, protocol=PROTOCOL).leaderboard()["mean"][0] for fit in fits
    ]
    assert random["n_seeds"] == 3
    assert random["mean"] == pytest.approx(np.mean(alone))
    assert random["sd_seeds"] == pytest.approx(np.std(alone, ddof=1))
    assert board.filter(pl.col("model") == "MostPop")["sd_seeds"][0] is None


def test_comparisons_find_the_difference_and_no_difference(pipelines, split, train):
    twins = {"a": pipelines["MostPop"], "b": pipelines["MostPop"], "knn": pipelines["ItemKNN"]}
    table = evaluate(twins, split, train=train, protocol=PROTOCOL).comparisons()
    rows = {(r["model_a"], r["model_b"]): r for r in table.to_dicts()}
    assert rows["a", "b"]["p_holm"] == 1.0
    assert not rows["a", "b"]["significant"]
    assert rows["knn", "a"]["significant"]
    assert rows["knn", "a"]["ci_low"] > 0
    with pytest.raises(InputError, match="no per-user values"):
        evaluate(twins, split, train=train, protocol=PROTOCOL).comparisons("coverage@10")


def test_a_clear_difference_stays_significant_among_many_models(pipelines, split, train):
    many = {f"random {n}": pipeline_of(Random(seed=n), train) for n in range(11)}
    table = evaluate(
        many | {"knn": pipelines["ItemKNN"]}, split, train=train, protocol=PROTOCOL
    ).comparisons()
    assert len(table) == 66
    assert table.filter(pl.col("model_a") == "knn")["significant"].all()
    assert table.filter(pl.col("model_a") != "knn")["significant"].mean() < 0.1


def test_runs_on_different_splits_or_protocols_are_not_compared(log, pipelines, evaluation, split, train):
    later = at(log, cut=CUT + 5 * US_PER_DAY)
    train_later = later.train.histories()
    other = evaluate(
        {"MostPop": pipeline_of(MostPop(), train_later)}, later, train=train_later, protocol=PROTOCOL
    )
    with pytest.raises(SplitError, match="different splits"):
        paired(evaluation, "ItemKNN", other, "MostPop")
    warm = evaluate(pipelines, split, train=train, protocol=replace(PROTOCOL, users="warm"))
    with pytest.raises(SplitError, match="different protocols"):
        paired(evaluation, "ItemKNN", warm, "MostPop")
    row = paired(evaluation, "ItemKNN", evaluation, "MostPop").row(0, named=True)
    same = evaluation.comparisons().row(0, named=True)
    assert row["difference"] == pytest.approx(same["difference"])


def test_an_evaluation_survives_the_disk(evaluation, tmp_path):
    evaluation.save(tmp_path / "run")
    again = Evaluation.load(tmp_path / "run")
    assert again.leaderboard().equals(evaluation.leaderboard())
    assert again.comparisons().equals(evaluation.comparisons())
    assert again.slices().equals(evaluation.slices())
    assert again.split == evaluation.split
    assert again.protocol == evaluation.protocol
    assert again.dropped == evaluation.dropped
    assert again.exposure().equals(evaluation.exposure())
    stored = pl.read_parquet(tmp_path / "run" / "values-0.parquet")
    assert stored.equals(evaluation.runs[0].values)


def test_a_changed_or_missing_file_of_an_evaluation_is_refused(evaluation, tmp_path):
    evaluation.save(tmp_path / "run")
    with pytest.raises(ArtifactError, match="does not exist"):
        Evaluation.load(tmp_path / "nowhere")
    frame = pl.read_parquet(tmp_path / "run" / "values-1.parquet")
    frame.with_columns(pl.col("ndcg@10") + 0.1).write_parquet(tmp_path / "run" / "values-1.parquet")
    with pytest.raises(ArtifactError, match="was changed"):
        Evaluation.load(tmp_path / "run")
    (tmp_path / "run" / "evaluation.json").write_text("{")
    with pytest.raises(ArtifactError, match="not what an evaluation saves"):
        Evaluation.load(tmp_path / "run")


def test_k_larger_than_the_catalogue_gives_the_whole_catalogue(pipelines, split, train):
    rules = Protocol(metrics=("NDCG@10", "Recall@500"), k=500)
    found = evaluate({"MostPop": pipelines["MostPop"]}, split, train=train, protocol=rules)
    recall = found.leaderboard().filter(pl.col("metric") == "recall")["mean"][0]
    assert recall == pytest.approx(found.ceiling["recall@500"])


def test_rows_after_the_horizon_change_no_number(log):
    full = at(log, cut=CUT, horizon_days=5)
    cut_off = at(log.between(None, CUT + 5 * US_PER_DAY), cut=CUT, horizon_days=5)
    boards = []
    for split in (full, cut_off):
        train = split.train.histories()
        models = {"knn": pipeline_of(ItemKNN(), train, fallback=MostPop())}
        boards.append(evaluate(models, split, train=train, protocol=PROTOCOL).leaderboard())
    assert boards[0].equals(boards[1])
    assert full.parts[-1].n_rows > 0


def test_an_interrupted_run_leaves_no_list_file_that_looks_complete(train, split, tmp_path):
    calls = []

    def fails_later(queries):
        calls.append(len(queries))
        if len(calls) > 1:
            raise RuntimeError("out of memory")
        return [[1, 2]] * len(queries)

    broken = pipeline_of(Answers(train.items, fails_later), train)
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(
            {"broken": broken}, split, train=train, protocol=PROTOCOL, batch_size=16, lists_folder=tmp_path
        )
    assert [file.name for file in tmp_path.iterdir()] == ["broken.parquet.partial"]


def test_leave_one_out_carries_its_warning(log):
    split = leave_one_out(log)
    train = split.train.histories()
    found = evaluate({"pop": pipeline_of(MostPop(), train)}, split, train=train, protocol=PROTOCOL)
    assert "see the future" in found.split.warning
    assert (found.users["n_targets"] == 1).all()


def test_a_backtest_counts_windows_alike(log):
    evaluations = []
    for split in windows(log, 3, 5.0):
        train = split.train.histories()
        models = {
            "knn": pipeline_of(ItemKNN(), train, fallback=MostPop()),
            "pop": pipeline_of(MostPop(), train),
        }
        evaluations.append(evaluate(models, split, train=train, protocol=PROTOCOL))
    table = backtest(evaluations)
    for row in table.filter(pl.col("metric") == "ndcg").to_dicts():
        values = [
            e.leaderboard().filter((pl.col("model") == row["model"]) & (pl.col("metric") == "ndcg"))["mean"][
                0
            ]
            for e in evaluations
        ]
        assert row["values"] == values
        assert row["mean"] == pytest.approx(np.mean(values))
        assert row["sd_windows"] == pytest.approx(np.std(values, ddof=1))
        assert (row["worst"], row["best"], row["n_windows"]) == (min(values), max(values), 3)
    firsts = table.filter(pl.col("metric") == "ndcg")["n_first"].sum()
    assert firsts == 3
    with pytest.raises(InputError, match="given twice"):
        backtest([evaluations[0], evaluations[0]])
    with pytest.raises(InputError, match="at least one"):
        backtest([])


def test_the_yambda_mode_follows_that_benchmark(log):
    split = at(log, cut=CUT, gap_days=1800 / 86_400)
    train = split.train.histories()
    pipeline = pipeline_of(ItemKNN(), train, fallback=MostPop())
    found = evaluate({"knn": pipeline}, split, train=train, protocol=Protocol.yambda())
    known = set(split.train.frame.collect()["user_id"])
    items = {}
    for user, item in split.test.frame.select("user_id", "item_id").collect().rows():
        if user in known:
            items.setdefault(user, []).append(item)
    dcg, ideal, recall = [], [], []
    shown = pipeline.recommend(train.of(pl.Series(list(items))), k=100, now=split.cut_us)
    for row, targets in enumerate(items.values()):
        listed = train.items.take(shown.item_ix[row, :10]).to_list()
        hits = [item in targets for item in listed]
        dcg.append(sum(h / math.log2(r + 2) for r, h in enumerate(hits)))
        ideal.append(sum(1 / math.log2(r + 2) for r in range(min(len(targets), 10))))
        recall.append(sum(hits) / len(targets))
    board = {(r["metric"], r["k"]): r["mean"] for r in found.leaderboard().to_dicts()}
    assert board["ndcg", 10] == pytest.approx(sum(dcg) / sum(ideal))
    assert board["recall", 10] == pytest.approx(np.mean(recall))
    everybody = pipeline.recommend(train, k=100, now=split.cut_us).item_ix
    assert board["coverage", 10] == pytest.approx(len(np.unique(everybody[:, :10])) / train.n_items)
    assert found.users["n_targets"].sum() == sum(map(len, items.values()))
    with pytest.raises(ConfigError, match="rules of its own"):
        Protocol(mode="yambda")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"metrics": ()}, "metrics is empty"),
        ({"metrics": ("AUC@10",)}, "no metric"),
        ({"metrics": ("NDCG",)}, "no metric"),
        ({"metrics": ("Coverage@10",)}, "must measure accuracy"),
        ({"metrics": ("NDCG@200",)}, "raise k"),
        ({"k": 0}, "k must be"),
        ({"users": "some"}, "users must be"),
        ({"repeats": "maybe"}, "repeats must be"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused(wrong, says):
    with pytest.raises(ConfigError, match=says):
        Protocol(**wrong)


def test_a_test_window_without_anybody_to_measure_is_refused(log):
    split = at(log, cut=CUT)
    train = split.train.histories()
    strangers = replace(split, test=split.test.filter(pl.col("user_id") >= 120))
    with pytest.raises(SplitError, match="no test user is left"):
        Evaluator(split=strangers, train=train, protocol=replace(PROTOCOL, users="warm"))


def test_names_of_metrics_are_written_as_people_write_them():
    assert pretty("ndcg@10") == pretty(metric("NDCG@10")) == "NDCG@10"
    assert pretty("poplift@5") == "PopularityLift@5"


class _Heard(MostPop):
    """Keeps what it was asked."""

    request_time = True

    def retrieve(self, queries, **limits):
        self.heard = [*getattr(self, "heard", []), queries]
        return super().retrieve(queries, **limits)


def test_models_of_request_time_are_told_the_cut(split, train):
    model = _Heard()
    run = Evaluator(split=split, train=train, protocol=PROTOCOL).run("heard", _fitted(model, train))
    assert all((queries.asked_ts == CUT).all() for queries in model.heard)
    assert "knows the time of each request, which is that of the cut" in run.notes


def test_models_of_request_time_are_told_their_targets_time_where_users_have_no_common_cut(log):
    split = leave_one_out(log)
    train = split.train.histories()
    model, plain = _Heard(), MostPop()
    evaluator = Evaluator(split=split, train=train, protocol=PROTOCOL)
    run = evaluator.run("heard", _fitted(model, train))
    rows = split.test.frame.select("user_id", pl.col("ts").dt.timestamp("us")).collect()
    when = dict(rows.iter_rows())
    for queries in model.heard:
        assert queries.asked_ts.tolist() == [when[user] for user in queries.query_ids]
    assert any("that of the user's first test row" in note for note in run.notes)
    assert not any("time of each request" in n for n in evaluator.run("pop", _fitted(plain, train)).notes)


def _fitted(model, train):
    return Pipeline(sources=[Source(generator=model)]).fit(train)


@pytest.mark.parametrize("first", ["NDCG@3", "MRR@7"])
def test_the_first_metric_may_have_a_depth_that_the_recall_curve_has_not(pipelines, split, train, first):
    found = evaluate(pipelines, split, train=train, protocol=Protocol(metrics=(first,), k=10))
    slices = found.slices().filter(pl.col("metric") == "recall")
    depth = int(first.partition("@")[2])
    assert slices["k"].unique().to_list() == [depth]
    assert found.leaderboard()["metric"].unique().to_list() == [first.partition("@")[0].lower()]
    deeper = evaluate(
        pipelines, split, train=train, protocol=Protocol(metrics=(first, f"Recall@{depth}"), k=10)
    )
    assert found.slices().equals(deeper.slices(), null_equal=True)
