import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrina.ann import Jagged
from vitrina.errors import ConfigError, InputError
from vitrina.log import Catalogue, Histories
from vitrina.policies import Allow, Block, CapPer, MaxAge, MinAge, Unseen, not_in
from vitrina.schema import US_PER_DAY

ROWS = pl.DataFrame(
    {
        "user_id": [1, 1, 2, 2, 3],
        "item_id": ["a", "b", "b", "c", "d"],
        "ts": [0, 10 * US_PER_DAY, 4 * US_PER_DAY, 5 * US_PER_DAY, 9 * US_PER_DAY],
    }
).with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC")))
METADATA = pl.DataFrame({"item_id": ["a", "b", "c"], "author": ["x", "x", "y"]})


@pytest.fixture
def train():
    return Histories.from_frame(ROWS)


@pytest.fixture
def catalogue(train):
    return Catalogue.of(train, METADATA)


def test_allow_and_block_lists_are_complements(catalogue):
    listed = ("b", "d", "not in the catalogue")
    np.testing.assert_array_equal(Allow(item_ids=listed).allowed(catalogue, 0), [False, True, False, True])
    np.testing.assert_array_equal(Block(item_ids=listed).allowed(catalogue, 0), [True, False, True, False])


def test_block_by_column_leaves_items_without_a_value(catalogue):
    np.testing.assert_array_equal(
        Block(column="author", values=("x",)).allowed(catalogue, 0), [False, False, True, True]
    )


def test_ages_count_from_the_first_event_and_include_the_boundary(catalogue):
    now = 10 * US_PER_DAY  # ages: a 10, b 6, c 5, d 1 days
    np.testing.assert_array_equal(MinAge(days=5).allowed(catalogue, now), [True, True, True, False])
    np.testing.assert_array_equal(MaxAge(days=6).allowed(catalogue, now), [False, True, True, True])


def test_unseen_may_forget_what_was_taken_long_ago(train):
    everything = Unseen().excluded(train, 10 * US_PER_DAY)
    assert everything.item_ix.tolist() == [0, 1, 1, 2, 3]
    recent = Unseen(within_days=5).excluded(train, 10 * US_PER_DAY)
    assert recent.offsets.tolist() == [0, 1, 2, 3]
    assert recent.item_ix.tolist() == [1, 2, 3]


def test_not_in_agrees_with_sets():
    generator = np.random.default_rng(0)
    taken = [set(generator.integers(0, 9, n).tolist()) for n in (0, 3, 20)]
    jagged = Jagged(
        np.cumsum([0] + [len(t) for t in taken]), np.array([i for t in taken for i in t], np.int32)
    )
    items = generator.integers(0, 9, (3, 15)).astype(np.int32)
    expected = [[item not in taken[row] for item in items[row].tolist()] for row in range(3)]
    np.testing.assert_array_equal(not_in(items, jagged, 9), expected)


@given(st.lists(st.sampled_from([0, 1, 2, 3, -1]), min_size=1, max_size=12), st.integers(1, 3))
def test_cap_per_agrees_with_walking_the_list(ranked, cap):
    catalogue = Catalogue.of(Histories.from_frame(ROWS), METADATA)
    group = {0: "x", 1: "x", 2: "y"}
    count: dict[str, int] = {}
    expected = []
    for item in ranked:
        name = group.get(item)
        expected.append(name is None or count.get(name, 0) < cap)
        if name is not None:
            count[name] = count.get(name, 0) + 1
    kept = CapPer(column="author", cap=cap).keep(np.array([ranked], np.int32), catalogue)
    np.testing.assert_array_equal(kept[0], expected)


def test_an_unknown_column_names_those_that_are_there(catalogue):
    with pytest.raises(InputError, match="'brand'; it has: item_id, first_ts, author"):
        CapPer(column="brand", cap=1).keep(np.zeros((1, 1), np.int32), catalogue)


@pytest.mark.parametrize(
    "make", [lambda: CapPer(column="a", cap=0), lambda: MinAge(days=-1), lambda: Unseen(within_days=0)]
)
def test_impossible_parameters_are_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_metadata_with_a_repeated_item_is_refused(train):
    with pytest.raises(InputError, match="'a' more than once"):
        Catalogue.of(train, pl.DataFrame({"item_id": ["a", "a"]}))
