"""Tables from keys to positions and counts, and the hashes of rows, against Python's own dictionaries."""

from collections import Counter

import numpy as np
import polars as pl
import pytest

from vitrina.errors import LogError
from vitrina.ids import Ids
from vitrina.log import duplicates
from vitrina.log.buckets import Vocabulary
from vitrina.log.duplicates import DuplicateRows, RepeatedHashes
from vitrina.log.lookup import KeyCounts, KeyTable
from vitrina.log.rowhash import column_hash, text_hash

RNG = np.random.default_rng(0)
KEYS = {
    "none": np.zeros(0, np.int64),
    "one": np.array([7]),
    "dense": np.arange(1000) - 500,
    "spread": np.unique(RNG.integers(-(2**62), 2**62, 5000)),
    "extremes": np.array([-(2**63), -1, 0, 1, 2**63 - 1]),
    "strides": np.arange(3000) * 2**32,
}


@pytest.mark.parametrize("kind", KEYS)
def test_positions_are_those_of_a_dictionary(kind: str) -> None:
    keys = KEYS[kind]
    known = {int(key): at for at, key in enumerate(keys)}
    asked = np.concatenate([keys, keys + 1, RNG.integers(-(2**63), 2**63 - 1, 500), [-(2**63), 2**63 - 1]])
    assert KeyTable(keys).find(asked).tolist() == [known.get(int(key), -1) for key in asked]


@pytest.mark.parametrize("dense", [0, 100, 1 << 25])
def test_counts_are_those_of_a_dictionary(dense: int) -> None:
    stream = np.concatenate([RNG.choice(keys, 3000) for keys in KEYS.values() if len(keys)])
    RNG.shuffle(stream)
    seen = KeyCounts(dense=dense, capacity=4)
    for part in np.array_split(stream, 9):
        seen.add(part)
    keys, counts = seen.sorted()
    expected = Counter(stream.tolist())
    assert keys.tolist() == sorted(expected)
    assert dict(zip(keys.tolist(), counts.tolist(), strict=True)) == expected


def test_nothing_counted_is_nothing() -> None:
    seen = KeyCounts()
    seen.add(np.zeros(0, np.int64))
    keys, counts = seen.sorted()
    assert (len(keys), len(counts)) == (0, 0)


def test_text_hashes_differ_by_content_length_and_seed() -> None:
    texts = pl.Series(["", "\0", "a", "a\0", "\0a", "aaaaaaaa", "aaaaaaaaa", "é", "e", "日本"])
    assert len(np.unique(text_hash(texts))) == len(texts)
    assert (text_hash(texts, 1) != text_hash(texts)).all()
    assert np.array_equal(text_hash(texts[3:7]), text_hash(texts)[3:7])


def test_equal_values_have_equal_hashes_and_nulls_their_own() -> None:
    for column in (
        pl.Series([0, None, 1, 0]),
        pl.Series(["", None, "x", ""]),
        pl.Series([0.0, None, 1.5, -0.0]),
        pl.Series([False, None, True, False]),
        pl.Series([[1], None, [1, 2], [1]]),
        pl.Series([{"a": 1}, None, {"a": 2}, {"a": 1}]),
        pl.Series([0, None, 2**63 + 1, 0], dtype=pl.UInt64),
        pl.Series(["a", None, "b", "a"], dtype=pl.Categorical),
    ):
        hashed = column_hash(column)
        assert hashed[0] == hashed[3], column.dtype
        assert len(np.unique(hashed)) == 3, column.dtype


@pytest.mark.parametrize("in_memory_rows", [10, 10**9])
def test_repeated_hashes_are_found_in_memory_and_on_disk(in_memory_rows: int) -> None:
    hashes = RNG.integers(0, 2**64, 5000, dtype=np.uint64)
    stream = np.concatenate([hashes, hashes[:40], hashes[:10], np.array([0, 2**64 - 1] * 2, np.uint64)])
    seen = RepeatedHashes(in_memory_rows)
    for part in np.array_split(stream, 11):
        seen.add(part)
    assert seen.finish().tolist() == sorted([*hashes[:40].tolist(), 0, 2**64 - 1])


def test_a_full_disk_of_temporary_files_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(duplicates.tempfile, "TemporaryDirectory", full)
    seen = RepeatedHashes(1)
    with pytest.raises(LogError, match=r"no room for temporary files .*set TMPDIR"):
        seen.add(np.zeros(5, np.uint64))


def test_rows_of_one_hash_that_differ_are_no_duplicates() -> None:
    found = DuplicateRows(np.array([9], np.uint64), 20)
    first = found.mark(np.array([9, 9], np.uint64), np.array([1, 2], np.uint64), np.array([0, 3]))
    later = found.mark(np.array([9, 9], np.uint64), np.array([1, 2], np.uint64), np.array([11, 15]))
    assert (first.tolist(), later.tolist(), found.n_rows) == ([], [11], 1)
    assert np.flatnonzero(found.at(np.arange(20))).tolist() == [11]


def test_unknown_texts_are_not_in_a_given_vocabulary() -> None:
    vocabulary = Vocabulary(Ids(pl.Series(["a", "b"])), trusted=False)
    assert vocabulary.ix(pl.Series(["b", "zz", "a", ""])).tolist() == [1, -1, 0, -1]


def test_texts_that_share_a_hash_are_parted_by_another_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    from vitrina.log import buckets

    def narrow(texts: pl.Series, seed: int = 0) -> np.ndarray:
        return text_hash(texts, seed) % np.uint64(7)

    monkeypatch.setattr(buckets, "text_hash", narrow)
    vocabulary = Vocabulary(Ids(pl.Series(["a", "b", "c", "d"])), trusted=True)
    assert vocabulary.ix(pl.Series(["d", "a", "c", "b"])).tolist() == [3, 0, 2, 1]
