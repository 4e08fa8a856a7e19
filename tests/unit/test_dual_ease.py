"""EASE solved among users gives what EASE solved among items gives."""

import numpy as np
import polars as pl
import pytest

from vitrina.candidates import DualEase, Ease
from vitrina.errors import ConfigError
from vitrina.log import Histories


@pytest.fixture(scope="module")
def train():
    generator = np.random.default_rng(3)
    rows = pl.DataFrame(
        {
            "user_id": generator.integers(0, 90, 4000),
            "item_id": generator.zipf(1.3, 4000) % 250,
            "ts": generator.integers(0, 10**12, 4000),
        }
    )
    return Histories.from_frame(rows.with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC"))))


@pytest.mark.parametrize("reg", [3.0, 200.0])
def test_both_solutions_score_alike(train, reg):
    by_items = Ease(reg=reg).fit(train)
    by_users = DualEase(reg=reg).fit(train)
    n = train.n_items
    one, other = by_items.retrieve(train, k=n), by_users.retrieve(train, k=n)
    scores = [np.zeros((len(train), n), np.float32) for _ in range(2)]
    for dense, lists in zip(scores, (one, other), strict=True):
        np.put_along_axis(dense, lists.item_ix.astype(np.int64), lists.score, axis=1)
    np.testing.assert_allclose(scores[1], scores[0], atol=2e-5)


def test_similar_items_are_those_of_ease(train):
    item_ix = np.arange(40, dtype=np.int32)
    one, other = (
        Ease(reg=20.0).fit(train).similar(item_ix, k=5),
        DualEase(reg=20.0).fit(train).similar(item_ix, k=5),
    )
    np.testing.assert_allclose(other.score, one.score, atol=2e-5)
    assert (one.item_ix == other.item_ix).mean() > 0.98


def test_too_many_users_are_refused_with_the_way_out(train):
    with pytest.raises(ConfigError, match="use SANSA"):
        DualEase(memory_gb=1e-6).fit(train)
