import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitrina.errors import InputError
from vitrina.ids import Ids


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1), st.lists(st.integers(-(2**63), 2**63 - 1)))
def test_integer_ids_agree_with_a_dictionary(known, asked):
    ids = Ids(pl.Series(known, dtype=pl.Int64))
    position = {value: ix for ix, value in enumerate(sorted(set(known)))}
    assert ids.ix(pl.Series(known + asked, dtype=pl.Int64)).tolist() == [
        position.get(value, -1) for value in known + asked
    ]
    assert [ids.get(value) for value in asked] == [position.get(value, -1) for value in asked]


@given(st.lists(st.text(), min_size=1), st.lists(st.text()))
def test_string_ids_agree_with_a_dictionary(known, asked):
    ids = Ids(pl.Series(known, dtype=pl.String))
    position = {value: ix for ix, value in enumerate(ids.values.to_list())}
    assert set(position) == set(known)
    assert ids.ix(pl.Series(known + asked, dtype=pl.String)).tolist() == [
        position.get(value, -1) for value in known + asked
    ]


def test_the_numbering_depends_on_the_set_of_ids_alone():
    one, other = Ids(pl.Series(["b", "a", "b", "c"])), Ids(pl.Series(["c", "b", "a"]))
    assert one == other
    assert one.digest == other.digest
    assert one != Ids(pl.Series(["c", "b"]))


def test_digests_do_not_confuse_neighbouring_strings():
    assert Ids(pl.Series(["ab", "c"])).digest != Ids(pl.Series(["a", "bc"])).digest


def test_unknown_positions_come_back_as_null():
    ids = Ids(pl.Series([5, 7]))
    assert ids.take(np.array([1, -1, 0])).to_list() == [7, None, 5]


def test_a_request_may_write_an_integer_id_as_text():
    ids = Ids(pl.Series([5, 7]))
    assert [ids.get("7"), ids.get("007"), ids.get("x"), ids.get("9" * 40), ids.get("")] == [1, 1, -1, -1, -1]


def test_null_ids_and_floating_ids_are_refused():
    with pytest.raises(InputError, match="null"):
        Ids(pl.Series([1, None]))
    with pytest.raises(InputError, match="Float64"):
        Ids(pl.Series([1.5]))
    with pytest.raises(InputError, match="64 signed bits"):
        Ids(pl.Series([2**63 + 1], dtype=pl.UInt64))


def test_an_empty_vocabulary_knows_nothing():
    ids = Ids(pl.Series([], dtype=pl.Int64))
    assert len(ids) == 0
    assert ids.ix([1, 2]).tolist() == [-1, -1]
