"""The pipeline against slow twins: what it merges, drops, explains, saves; what a live request survives."""

import time
from collections import defaultdict

import numpy as np
import polars as pl
import pytest

from vitrina.ann import TopK
from vitrina.candidates import Ease, ItemKNN, MostPop
from vitrina.errors import ArtifactError, ConfigError
from vitrina.feed import merge
from vitrina.ids import Ids
from vitrina.log import Catalogue, Histories
from vitrina.nn import session
from vitrina.pipeline import Pipeline, Source
from vitrina.policies import Allow, Block, CapPer, MaxAge, Unseen


@pytest.fixture(scope="module")
def train():
    generator = np.random.default_rng(7)
    n_rows = 3000
    taste = generator.integers(0, 4, 120)
    user = generator.integers(0, 120, n_rows)
    item = (taste[user] * 15 + generator.zipf(1.5, n_rows) % 15).astype(np.int64)
    rows = pl.DataFrame({"user_id": user, "item_id": item, "ts": generator.integers(0, 10**12, n_rows)})
    return Histories.from_frame(rows.with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC"))))


@pytest.fixture(scope="module")
def metadata(train):
    return pl.DataFrame({"item_id": train.items.values, "author": train.items.values % 7})


@pytest.fixture
def pipeline(train, metadata):
    sources = [
        Source(generator=ItemKNN(), name="knn", k=20),
        Source(generator=Ease(reg=50.0), name="ease", k=20, weight=2.0),
    ]
    policies = [Unseen(), Block(item_ids=(0, 15)), CapPer(column="author", cap=2)]
    return Pipeline(sources=sources, policies=policies, fallback=MostPop()).fit(train, metadata)


class Raises:
    """A source that fails."""

    def __init__(self, items):
        self.items_ = items

    def retrieve(self, queries, *, k, exclude=None, allowed=None):
        raise ValueError("no connection")


class Sleeps:
    """A source that is late."""

    def __init__(self, generator, seconds):
        self.generator, self.seconds, self.items_ = generator, seconds, generator.items_

    def retrieve(self, queries, *, k, exclude=None, allowed=None):
        time.sleep(self.seconds)
        return self.generator.retrieve(queries, k=k, exclude=exclude, allowed=allowed)


class IgnoresEverything:
    """A source that returns items it was told to leave out."""

    def __init__(self, items):
        self.items_ = items

    def retrieve(self, queries, *, k, exclude=None, allowed=None):
        item_ix = np.tile(np.arange(len(self.items_), dtype=np.int32), (len(queries), 1))
        return TopK(item_ix, -item_ix.astype(np.float32))


def test_fusion_agrees_with_a_dictionary():
    generator = np.random.default_rng(1)
    lists = {}
    for name in ("a", "b", "c"):
        item = np.stack([generator.permutation(12)[:6] for _ in range(5)]).astype(np.int32)
        item[2, 4:] = -1
        lists[name] = TopK(item, np.where(item < 0, -np.inf, 1.0).astype(np.float32))
    weights = {"a": 1.0, "b": 2.0, "c": 0.5}
    merged = merge(lists, weights, 5, [])
    for row in range(5):
        score, first = defaultdict(float), {}
        for name, found in lists.items():
            for rank, item in enumerate(found.item_ix[row].tolist(), start=1):
                if item >= 0:
                    score[item] += weights[name] / (60 + rank)
                    first.setdefault(item, name)
        got = merged.item_ix[row][merged.item_ix[row] >= 0].tolist()
        assert sorted(got) == sorted(score)
        np.testing.assert_allclose(
            merged.score[row][: len(got)], sorted(score.values(), reverse=True), rtol=1e-6
        )
        assert [merged.source_names[s] for s in merged.source[row][: len(got)]] == [
            first[item] for item in got
        ]


def test_the_feed_obeys_every_policy(pipeline, train, metadata):
    feed = pipeline.recommend(train, k=10).frame().join(metadata, on="item_id")
    taken = set(train.frame().select("user_id", "item_id").iter_rows())
    assert not taken & set(feed.select("query_id", "item_id").iter_rows())
    assert not feed["item_id"].is_in([0, 15]).any()
    assert feed.group_by("query_id", "author").len()["len"].max() <= 2
    assert feed.group_by("query_id").agg(pl.col("item_id").n_unique() == pl.len())["item_id"].all()
    assert feed.filter(pl.col("rank") == 1).height == len(train)


def test_every_candidate_is_either_shown_or_dropped_with_a_reason(pipeline, train):
    feed = pipeline.recommend(train, k=5)
    n_found = int((feed.candidates.item_ix >= 0).sum())
    assert feed.frame().height + feed.dropped().height == n_found
    assert set(feed.dropped()["reason"]) <= {"Unseen", "Block", "CapPer(author)", "below the cut"}


def test_a_source_that_ignores_the_rules_is_caught_and_named(train):
    pipeline = Pipeline(
        sources=[Source(generator=IgnoresEverything(train.items), name="rogue", k=60)],
        policies=[Unseen(), Block(item_ids=(3,))],
    )
    feed = pipeline.bind(Catalogue.of(train), 0).recommend(train, k=5)
    taken = set(train.frame().select("user_id", "item_id").iter_rows())
    assert not taken & set(feed.frame().select("query_id", "item_id").iter_rows())
    reasons = feed.dropped()["reason"].value_counts().rows()
    assert {name for name, _ in reasons} == {"Unseen", "Block", "below the cut"}


def test_a_batch_gives_what_one_query_at_a_time_gives(pipeline, train):
    batch = pipeline.recommend(train, k=7)
    for row in range(0, len(train), 11):
        alone = pipeline.recommend(train.rows(np.array([row])), k=7)
        np.testing.assert_array_equal(alone.item_ix[0], batch.item_ix[row])


def test_the_live_path_gives_what_was_measured(pipeline, train):
    measured = pipeline.recommend(train, k=7)
    live = pipeline.recommend(train, k=7, live=True)
    np.testing.assert_array_equal(live.item_ix, measured.item_ix)
    np.testing.assert_array_equal(live.score, measured.score)
    assert [s.name for s in live.stages] == [s.name for s in measured.stages]


def test_a_new_user_is_answered_by_the_fallback(pipeline, train):
    nobody, unknown = Histories.from_lists(train.items, [[], ["never seen"]])
    assert unknown == [0, 1]
    feed = pipeline.recommend(nobody, k=5).frame()
    assert feed.height == 10
    assert set(feed["source"]) == {"fallback:MostPop"}


def test_rows_of_unknown_items_are_counted_and_change_nothing_else(pipeline, train):
    new = [10_001, 10_002]
    wide = Ids(pl.concat([train.items.values, pl.Series(new)]))
    known = [[3, 16], [], [7]]
    mixed = [[new[0], 3, new[1], 16], new, [7]]
    plain, _ = Histories.from_lists(train.items, known)
    queries, unknown = Histories.from_lists(wide, mixed)
    assert unknown == [0, 0, 0]
    for live in (False, True):
        feed, same = pipeline.recommend(queries, k=5, live=live), pipeline.recommend(plain, k=5, live=live)
        np.testing.assert_array_equal(feed.item_ix, same.item_ix)
        assert feed.n_unknown.tolist() == [2, 2, 0]
        assert feed.unread().rows() == [
            (0, 2, "the catalogue lacks the item"),
            (1, 2, "the catalogue lacks the item"),
        ]
        assert same.n_unknown.tolist() == [0, 0, 0]
        assert same.unread().rows() == []
    assert same.unread().schema == feed.unread().schema


def test_a_live_request_survives_sources_that_fail_or_are_late(train):
    knn = ItemKNN().fit(train)
    sources = [
        Source(generator=Raises(train.items), name="broken"),
        Source(generator=Sleeps(knn, 1.0), name="slow", budget_ms=30),
        Source(generator=knn, name="knn"),
    ]
    pipeline = Pipeline(sources=sources, fallback=MostPop().fit(train)).bind(Catalogue.of(train), 0)
    began = time.perf_counter()
    feed = pipeline.recommend(train.rows(np.array([0, 1])), k=5, live=True)
    assert time.perf_counter() - began < 0.9
    assert feed.failures == {
        "broken": "failed: ValueError: no connection",
        "slow": "late: no answer within 30 ms",
    }
    assert set(feed.frame()["source"]) == {"knn"}
    with pytest.raises(ValueError, match="no connection"):
        pipeline.recommend(train.rows(np.array([0])), k=5)


def test_when_every_source_fails_the_fallback_still_answers(train):
    pipeline = Pipeline(sources=[Source(generator=Raises(train.items))], fallback=MostPop().fit(train))
    feed = pipeline.bind(Catalogue.of(train), 0).recommend(train.rows(np.array([0, 5])), k=5, live=True)
    assert feed.frame().height == 10
    assert set(feed.failures) == {"Raises"}


def test_policies_that_leave_few_items_still_fill_the_feed_from_them(train, metadata):
    only = (3, 17, 33)
    pipeline = Pipeline(
        sources=[Source(generator=ItemKNN(), k=5)], policies=[Allow(item_ids=only)], fallback=MostPop()
    )
    feed = pipeline.fit(train, metadata).recommend(train, k=5).frame()
    assert set(feed["item_id"]) == set(only)
    assert feed.group_by("query_id").len()["len"].to_list() == [3] * len(train)


def test_now_decides_what_is_too_old(train):
    pipeline = Pipeline(sources=[Source(generator=MostPop())], policies=[MaxAge(days=1)]).fit(train)
    assert pipeline.recommend(train, k=5, now=10**12 + 40 * 86_400_000_000).frame().height == 0


def test_saved_and_loaded_answers_the_same(pipeline, train, tmp_path):
    pipeline.save(tmp_path / "model")
    loaded = Pipeline.load(tmp_path / "model")
    np.testing.assert_array_equal(
        loaded.recommend(train, k=9).item_ix, pipeline.recommend(train, k=9).item_ix
    )
    assert loaded.policies == pipeline.policies
    assert [(s.name, s.k, s.weight) for s in loaded.sources] == [("knn", 20, 1.0), ("ease", 20, 2.0)]
    assert loaded.trained_until == pipeline.trained_until


def test_a_half_written_pipeline_is_refused(pipeline, tmp_path):
    pipeline.save(tmp_path / "model")
    (tmp_path / "model" / "fallback" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="manifest"):
        Pipeline.load(tmp_path / "model")


def test_the_callers_arrays_are_left_alone(pipeline, train):
    before = train.item_ix.copy(), train.offsets.copy()
    pipeline.recommend(train, k=5)
    np.testing.assert_array_equal(train.item_ix, before[0])
    np.testing.assert_array_equal(train.offsets, before[1])


def test_a_ranker_reorders_and_nothing_else(train):
    class ByItem:
        def score(self, queries, item_ix_BN):
            return item_ix_BN.astype(np.float32)

    plain = Pipeline(sources=[Source(generator=ItemKNN(), k=10)]).fit(train)
    ranked = Pipeline(sources=plain.sources, ranker=ByItem()).bind(plain.catalogue, plain.trained_until)
    one, other = plain.recommend(train, k=10).item_ix, ranked.recommend(train, k=10).item_ix
    np.testing.assert_array_equal(np.sort(one, axis=1), np.sort(other, axis=1))
    assert all(np.array_equal(row[row >= 0], np.sort(row[row >= 0])[::-1]) for row in other)
    with pytest.raises(ArtifactError, match="ByItem"):
        ranked.save("nowhere")


def test_side_effects_see_the_finished_feed(train):
    seen = []
    pipeline = Pipeline(sources=[Source(generator=MostPop())], side_effects=[seen.append]).fit(train)
    feed = pipeline.recommend(train, k=3)
    assert seen == [feed]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pipeline(sources=[]), "at least one source"),
        (
            lambda: Pipeline(sources=[Source(generator=MostPop()), Source(generator=MostPop())]),
            "distinct names",
        ),
        (
            lambda: Pipeline(sources=[Source(generator=MostPop())], policies=[Unseen(), Unseen()]),
            "one Unseen",
        ),
        (lambda: Source(generator=MostPop(), name="../x"), "names a folder"),
        (lambda: Source(generator=MostPop(), k=0), "k >= 1"),
        (lambda: Pipeline(sources=[Source(generator=MostPop())]).recommend(None, k=5), "call fit"),
    ],
)
def test_impossible_pipelines_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_policy_on_an_unknown_column_is_refused_at_fit(train):
    pipeline = Pipeline(sources=[Source(generator=MostPop())], policies=[CapPer(column="brand", cap=1)])
    with pytest.raises(ValueError, match="'brand'"):
        pipeline.fit(train)


def test_the_session_of_a_request_is_that_of_every_source():
    """Sources side by side answer in threads of their own, where a session would be unknown."""
    seen = []

    class Asks(MostPop):
        def retrieve(self, *given, **named):
            seen.append(session.current().device)
            return super().retrieve(*given, **named)

    train = Histories.from_lists(Ids(pl.Series(range(5))), [[0, 1, 2], [2, 3]])[0]
    sources = [Source(generator=Asks(), name=name, budget_ms=60_000) for name in ("one", "two")]
    pipeline = Pipeline(sources=[*sources, Source(generator=Asks(), name="here")]).fit(train)
    with session.session(device="cuda:7"):
        pipeline.recommend(train, k=2, live=True)
    assert seen == ["cuda:7"] * 3
