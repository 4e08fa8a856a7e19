"""Counts of a stream: exact while ids are few, a count-min sketch beyond."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vitrina.errors import ArtifactError, ConfigError, InputError
from vitrina.log import CountMin, Frequencies
from vitrina.log.rowhash import HashArray
from vitrina.schema import LongArray


def zipf(n_rows: int, n_ids: int, seed: int = 0) -> LongArray:
    return np.minimum(np.random.default_rng(seed).zipf(1.3, n_rows), n_ids) - 1


def truth(ids: LongArray) -> tuple[LongArray, LongArray]:
    values, counts = np.unique(ids, return_counts=True)
    return values, counts.astype(np.int64)


def keys(ids: LongArray) -> HashArray:
    return ids.astype(np.int64).view(np.uint64)


def sketch_of(ids: LongArray, **params: object) -> CountMin:
    sketch = CountMin(**params)  # type: ignore[arg-type]
    for part in np.array_split(ids, 7):
        values, counts = truth(part)
        sketch.update(keys(values), counts)
    return sketch


def test_few_ids_are_counted_exactly() -> None:
    ids = zipf(50_000, 3000)
    seen = Frequencies(max_exact=3000)
    for part in np.array_split(ids, 5):
        seen.update(part)
    values, counts = truth(ids)
    assert seen.is_exact
    assert seen.error_bound == 0
    assert seen.estimate(values).tolist() == counts.tolist()
    assert seen.estimate(np.array([10**9, -1])).tolist() == [0, 0]
    assert seen.total == len(ids)


def test_the_sketch_begins_with_the_id_that_is_one_too_many() -> None:
    seen = Frequencies(max_exact=3, eps=0.01)
    seen.update([1, 2, 3])
    assert seen.is_exact
    seen.update([3, 4])
    assert not seen.is_exact
    assert seen.total == 5
    assert seen.estimate([1, 2, 3, 4]).tolist() == [1, 1, 2, 1]  # 272 columns for 4 ids


@pytest.mark.parametrize("conservative", [True, False])
def test_a_sketch_never_underestimates(conservative: bool) -> None:
    ids = zipf(200_000, 50_000)
    sketch = sketch_of(ids, eps=1e-3, delta=0.05, conservative=conservative)
    values, counts = truth(ids)
    assert (sketch.estimate(keys(values)) >= counts).all()


def test_the_error_bound_holds_with_its_probability() -> None:
    """f^ > f + eps N for at most a share delta of ids, over 20 draws of the hash functions.

    Here delta = 0.1 and so depth = 3: each row exceeds the bound with probability at most 1 / e, all three
    with at most e^-3 = 0.05.
    """
    ids = np.arange(30_000)  # a flat stream is the worst: all collide alike
    for conservative in (False, True):
        exceeded = []
        for seed in range(20):
            sketch = sketch_of(ids, eps=2e-4, delta=0.1, conservative=conservative, seed=seed)
            error = sketch.estimate(keys(ids)) - 1
            exceeded.append((error > 2e-4 * sketch.total).mean())
        assert np.mean(exceeded) <= 0.1
        assert np.mean(exceeded) < 0.05


def test_a_sketch_is_wrong_where_it_may_be() -> None:
    """The bound would hold for a sketch that is exact by accident; this one is too narrow to be."""
    ids = zipf(200_000, 50_000)
    values, counts = truth(ids)
    error = sketch_of(ids, eps=1e-3, delta=0.05, conservative=False).estimate(keys(values)) - counts
    assert (error > 0).mean() > 0.5


def test_conservative_update_is_never_above_the_plain_one_and_mostly_below() -> None:
    ids = zipf(200_000, 50_000)
    values, counts = truth(ids)
    plain = sketch_of(ids, eps=1e-3, delta=0.05, conservative=False).estimate(keys(values))
    careful = sketch_of(ids, eps=1e-3, delta=0.05, conservative=True).estimate(keys(values))
    assert (careful <= plain).all()
    assert (careful - counts).sum() < 0.6 * (plain - counts).sum()  # 0.52 on this stream


def test_shape_follows_from_eps_and_delta() -> None:
    assert CountMin(eps=0.01, delta=0.01).counters.shape == (5, 272)  # ceil(ln 100), ceil(100 e)
    assert CountMin(eps=0.5, delta=0.9).counters.shape == (1, 6)


def test_plain_update_agrees_with_a_slow_twin() -> None:
    ids = zipf(3000, 500)
    values, counts = truth(ids)
    sketch = sketch_of(ids, eps=0.02, delta=0.05, conservative=False)
    single = [sketch_of(ids[ids == one], eps=0.02, delta=0.05, conservative=False) for one in values]
    assert np.array_equal(sketch.counters, sum(one.counters.astype(np.int64) for one in single))
    assert (sketch.counters.sum(axis=1) == len(ids)).all()
    assert all(one.counters.max() == n for one, n in zip(single, counts, strict=True))


def test_conservative_update_agrees_with_a_slow_twin() -> None:
    ids = zipf(3000, 500)
    sketch = CountMin(eps=0.02, delta=0.05)
    places = {}
    for one in np.unique(ids):
        probe = CountMin(eps=0.02, delta=0.05, conservative=False)
        probe.update(keys(np.array([one])), np.array([1]))
        places[int(one)] = probe.counters.argmax(axis=1)
    slow = np.zeros(sketch.counters.shape, np.int64)
    rows = np.arange(len(slow))
    for part in np.array_split(ids, 7):
        values, counts = truth(part)
        sketch.update(keys(values), counts)
        for value, count in zip(values, counts, strict=True):
            at = (rows, places[int(value)])
            slow[at] = np.maximum(slow[at], slow[at].min() + count)
    assert np.array_equal(sketch.counters, slow)


def test_rows_of_a_sketch_hash_independently() -> None:
    """Two ids that share a column in one row share one in another with probability 1 / width."""
    sketch = CountMin(eps=0.03, delta=0.05, conservative=False)
    depth, width = sketch.counters.shape
    columns = []
    for one in range(400):
        probe = CountMin(eps=0.03, delta=0.05, conservative=False)
        probe.update(keys(np.array([one])), np.array([1]))
        columns.append(probe.counters.argmax(axis=1))
    taken = np.array(columns)
    same = [taken[:, None, row] == taken[None, :, row] for row in range(depth)]
    pairs = np.triu(np.ones((400, 400), bool), 1)
    for row in range(depth):
        share = same[row][pairs].mean()
        assert abs(share - 1 / width) < 5 * np.sqrt(1 / width / pairs.sum())
    both = (same[0] & same[1])[pairs].sum()
    expected = pairs.sum() / width**2
    assert abs(both - expected) < 5 * np.sqrt(expected)


@pytest.mark.parametrize("max_exact", [0, 200, 10**6])
def test_merged_counts_are_an_upper_bound_of_both_streams(max_exact: int) -> None:
    left, right = zipf(20_000, 900, 1), zipf(30_000, 900, 2)
    one = Frequencies(max_exact=max_exact, eps=1e-3)
    two = Frequencies(max_exact=max_exact, eps=1e-3)
    one.update(left)
    two.update(right)
    both = one.merge(two)
    values, counts = truth(np.concatenate([left, right]))
    assert (both.estimate(values) >= counts).all()
    assert both.total == 50_000
    assert one.total == 20_000, "merging leaves the parts alone"
    if max_exact == 10**6:
        assert both.estimate(values).tolist() == counts.tolist()


def test_an_exact_part_merges_into_a_sketch() -> None:
    few, many = Frequencies(max_exact=100, eps=1e-3), Frequencies(max_exact=100, eps=1e-3)
    few.update([1, 1, 2])
    many.update(np.arange(1000))
    for both in (few.merge(many), many.merge(few)):
        assert not both.is_exact
        assert (both.estimate([1, 2, 3]) >= [3, 2, 1]).all()
        assert both.total == 1003


def test_merging_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="other eps, delta or seed"):
        CountMin(eps=0.1).merge(CountMin(eps=0.2))
    with pytest.raises(InputError, match="other eps, delta or seed"):
        Frequencies(max_exact=0, seed=1).merge(Frequencies(max_exact=0, seed=2))
    text, whole = Frequencies(), Frequencies()
    text.update(["a"])
    whole.update([1])
    with pytest.raises(InputError, match="text ids and of integer ids"):
        text.merge(whole)


@pytest.mark.parametrize("max_exact", [0, 10**6])
def test_halving_keeps_the_bound_and_forgets_what_falls_to_nothing(max_exact: int) -> None:
    ids = zipf(50_000, 5000)
    seen = Frequencies(max_exact=max_exact, eps=1e-3, delta=0.01)
    seen.update(ids)
    values, counts = truth(ids)
    for _ in range(3):
        seen.halve()
        counts //= 2
        assert (seen.estimate(values) >= counts).all()
    if max_exact:
        assert seen.estimate(values).tolist() == counts.tolist()
        assert len(seen._keys) == (counts > 0).sum()
    assert seen.total <= 50_000 // 8
    for _ in range(20):
        seen.halve()
    assert (seen.total, int(seen.estimate(values).max())) == (0, 0)


def test_counts_may_be_given() -> None:
    for max_exact in (0, 100):
        seen = Frequencies(max_exact=max_exact, eps=0.01)
        seen.update([5, 6, 5], counts=[10, 1, 2])
        assert seen.estimate([5, 6]).tolist() == [12, 1]
        assert seen.total == 13


def test_text_and_series_are_counted() -> None:
    seen = Frequencies()
    seen.update(pl.Series(["a", "é", "a"]))
    seen.update(np.array(["a", "b"]).tolist())
    assert seen.estimate(["a", "é", "b", "c"]).tolist() == [3, 1, 1, 0]
    seen.update([])
    assert seen.total == 5


def test_counters_stop_at_their_top() -> None:
    seen = Frequencies(max_exact=0, eps=0.1)
    for _ in range(3):
        seen.update([1], counts=[2**31])
    assert seen.estimate([1]).tolist() == [2**32 - 1]
    assert seen.merge(seen).estimate([1]).tolist() == [2**32 - 1]


@pytest.mark.parametrize("max_exact", [0, 10, 10**6])
@pytest.mark.parametrize("text", [False, True])
def test_saved_counts_load_and_go_on(tmp_path: Path, max_exact: int, text: bool) -> None:
    ids = pl.Series(zipf(5000, 300)).cast(pl.String if text else pl.Int64)
    seen = Frequencies(max_exact=max_exact, eps=1e-2, seed=3)
    seen.update(ids)
    seen.save(tmp_path / "f")
    loaded = Frequencies.load(tmp_path / "f")
    assert not list((tmp_path / "f").glob("*.pkl"))
    for one in (seen, loaded):
        one.update(ids[:100])
        one.halve()
    distinct = ids.unique()
    assert loaded.estimate(distinct).tolist() == seen.estimate(distinct).tolist()
    assert (loaded.total, loaded.is_exact) == (seen.total, seen.is_exact)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    from vitrina import artifact

    artifact.save(artifact.Saved(kind="Ease", params={}), tmp_path / "m")
    with pytest.raises(ArtifactError, match="holds a Ease, not Frequencies"):
        Frequencies.load(tmp_path / "m")
    with pytest.raises(ArtifactError, match="does not exist"):
        Frequencies.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("ids", "counts", "message"),
    [
        ([1, 2], [1], "counts must be 2 whole numbers"),
        ([1], [-1], "whole numbers >= 0"),
        ([1], [0.5], "whole numbers >= 0"),
        ([1.5], None, "must be integers or text"),
        ([None, 1], None, "must be integers or text"),
    ],
)
def test_what_cannot_be_counted_is_refused(ids: list[object], counts: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Frequencies().update(ids, counts=counts)  # type: ignore[arg-type]


def test_text_after_integers_is_refused() -> None:
    seen = Frequencies()
    seen.update([1])
    with pytest.raises(InputError, match="ids were integers before"):
        seen.update(["a"])


@pytest.mark.parametrize("params", [{"eps": 0.0}, {"eps": 1.0}, {"delta": 0.0}, {"delta": 1.5}])
def test_bounds_out_of_range_are_refused(params: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"must be between 0 and 1"):
        CountMin(**params)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_exact must be >= 0"):
        Frequencies(max_exact=-1)
