"""Random, popularity and OwnHistory against hand arithmetic."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

from vitrina.ann import Jagged
from vitrina.candidates import DecayPop, MostPop, PopularLastDays, Random
from vitrina.errors import ConfigError
from vitrina.ids import Ids
from vitrina.log import Histories

HOUR_US = 3_600_000_000


def log(rows, items=None):
    """Rows of (user, item, hour)."""
    user, item, hour = zip(*rows, strict=True)
    ts = pl.Series([int(h * HOUR_US) for h in hour]).cast(pl.Datetime("us", "UTC"))
    return Histories.from_frame(pl.DataFrame({"user_id": user, "item_id": item, "ts": ts}), items=items)


ROWS = [(0, "a", 0), (0, "a", 1), (0, "a", 2), (1, "b", 3), (2, "b", 50), (2, "c", 100)]
TRAIN = log(ROWS)
ANYBODY = Histories.from_lists(TRAIN.items, [[]])[0]


def ranked(model):
    lists = model.fit(TRAIN).retrieve(ANYBODY, k=3)
    return TRAIN.items.take(lists.item_ix[0]).to_list(), lists.score[0].tolist()


def test_most_popular_counts_users_or_events():
    assert ranked(MostPop()) == (["b", "a", "c"], [2.0, 1.0, 1.0])
    assert ranked(MostPop(by="events")) == (["a", "b", "c"], [3.0, 2.0, 1.0])


def test_decayed_popularity_is_the_sum_of_faded_events():
    items, score = ranked(DecayPop(hours=10.0))
    assert items == ["a", "c", "b"]
    assert score == pytest.approx([0.9**10 + 0.9**9.9 + 0.9**9.8, 1.0, 0.9**5 + 0.9**9.7], rel=1e-6)


def test_the_last_days_come_first_and_the_rest_follows_by_all_time_popularity():
    items, score = ranked(PopularLastDays(days=1.0))
    assert items == ["c", "a", "b"]
    assert score == pytest.approx([1 + 1 / 7, 3 / 7, 2 / 7])
    assert ranked(PopularLastDays(days=3.0))[0] == ["b", "c", "a"]


def test_the_window_is_open_at_its_old_end():
    train = log([(0, "a", 0), (1, "b", 24)])
    lists = PopularLastDays(days=1.0).fit(train).retrieve(ANYBODY, k=2)
    assert lists.score[0].tolist() == pytest.approx([1 + 1 / 3, 1 / 3])


def test_weights_count_as_so_many_events():
    frame = pl.DataFrame(
        {"user_id": [0, 1, 2], "item_id": ["a", "b", "b"], "weight": [5.0, 1.0, 1.0]}
    ).with_columns(ts=pl.Series([HOUR_US] * 3).cast(pl.Datetime("us", "UTC")))
    train = Histories.from_frame(frame)
    for model in (MostPop(by="events"), DecayPop()):
        assert model.fit(train).retrieve(ANYBODY, k=2).score[0].tolist() == [5.0, 2.0]


def test_an_item_without_training_events_is_never_popular():
    train = log(ROWS, items=Ids(pl.Series(["a", "b", "c", "never"])))
    for model in (MostPop(), DecayPop(), PopularLastDays()):
        lists = model.fit(train).retrieve(ANYBODY.reindex(train.items), k=4)
        assert lists.item_ix[0].tolist().count(-1) == 1
        assert train.items.get("never") not in lists.item_ix[0]


@pytest.mark.parametrize(
    "build", [lambda: MostPop(by="likes"), lambda: DecayPop(hours=0), lambda: PopularLastDays(days=-1)]
)
def test_wrong_parameters_of_popularity_are_refused(build):
    with pytest.raises(ConfigError, match=r"(MostPop\.by|DecayPop\.hours|PopularLastDays\.days) must be"):
        build()


def test_random_lists_are_uniform_over_items_and_differ_between_histories():
    n_items = 24
    items = Ids(pl.Series(np.arange(n_items)))
    rng = np.random.default_rng(0)
    sessions = [rng.integers(0, n_items, 6).tolist() for _ in range(4000)]
    queries = Histories.from_lists(items, sessions)[0]
    lists = Random(seed=1).fit(queries).retrieve(queries, k=n_items)
    assert (np.sort(lists.item_ix, axis=1) == np.arange(n_items)).all()
    for place in (0, 1, 23):
        counts = np.bincount(lists.item_ix[:, place], minlength=n_items)
        assert stats.chisquare(counts).pvalue > 1e-4
    pairs = np.bincount(lists.item_ix[:, 0] * n_items + lists.item_ix[:, 1], minlength=n_items**2)
    off_diagonal = pairs[~np.eye(n_items, dtype=bool).ravel()]
    assert stats.chisquare(off_diagonal).pvalue > 1e-4
    other = Random(seed=2).fit(queries).retrieve(queries, k=n_items)
    assert (other.item_ix[:, 0] == lists.item_ix[:, 0]).mean() < 0.1


def test_random_passes_over_excluded_items_without_reordering():
    items = Ids(pl.Series(np.arange(500)))
    queries = Histories.from_lists(items, [[1, 2, 3]])[0]
    model = Random().fit(queries)
    full = model.retrieve(queries, k=500).item_ix[0]
    banned = full[[0, 2, 5]]
    cut = model.retrieve(queries, k=10, exclude=Jagged(np.array([0, 3]), banned.astype(np.int32))).item_ix[0]
    assert cut.tolist() == [i for i in full.tolist() if i not in set(banned.tolist())][:10]
