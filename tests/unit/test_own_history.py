import numpy as np
import polars as pl

from vitrina.candidates import OwnHistory
from vitrina.log import Histories
from vitrina.schema import US_PER_DAY


def histories(rows):
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "day"], orient="row")
    ts = (pl.col("day") * US_PER_DAY).cast(pl.Int64).cast(pl.Datetime("us", "UTC"))
    return Histories.from_frame(frame.with_columns(ts=ts))


def test_scores_are_those_of_the_formula():
    train = histories([("u", "a", 0), ("u", "b", 10), ("u", "a", 10), ("v", "b", 3), ("v", "c", 3)])
    found = OwnHistory(half_life_days=10.0).fit(train).retrieve(train, k=3)
    assert train.items.take(found.item_ix[0]).to_list() == ["a", "b", None]
    # a: rows 10 and 0 days old weigh 1/2 and 1, twice taken as is b, so p = 1 for both; c once, p = 1/2
    np.testing.assert_allclose(found.score[0][:2], [1.5 * 1.01, 1.0 * 1.01], rtol=1e-6)
    np.testing.assert_allclose(found.score[1][:2], [1.0 * 1.01, 1.0 * 1.005], rtol=1e-6)


def test_a_basket_is_ordered_by_popularity_and_a_newer_basket_comes_first():
    others = [(f"w{n}", "milk", 1) for n in range(5)] + [("w0", "tea", 1)]
    train = histories([*others, ("u", "tea", 50), ("u", "milk", 50), ("u", "salt", 52)])
    query = train.of(pl.Series(["u"]))
    found = OwnHistory(half_life_days=30.0).fit(train).retrieve(query, k=3)
    assert train.items.take(found.item_ix[0]).to_list() == ["salt", "milk", "tea"]


def test_weights_count_as_that_many_rows():
    base = [("u", "a", 1.0, 1.0), ("u", "b", 1.0, 3.0), ("v", "a", 1.0, 1.0), ("v", "b", 1.0, 1.0)]
    frame = pl.DataFrame(base, schema=["user_id", "item_id", "day", "weight"], orient="row")
    ts = (pl.col("day") * US_PER_DAY).cast(pl.Int64).cast(pl.Datetime("us", "UTC"))
    train = Histories.from_frame(frame.with_columns(ts=ts))
    found = OwnHistory().fit(train).retrieve(train, k=2)
    np.testing.assert_allclose(found.score[0], [3.0 * 1.01, 1.01], rtol=1e-6)
