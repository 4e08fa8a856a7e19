"""A table of few keys is asked about keys anywhere in 64 bits."""

import numpy as np

from vitrina.log.lookup import KeyTable


def test_a_key_far_outside_the_range_is_not_in_the_set() -> None:
    """The distance to the lowest key may not fit in 64 signed bits; it must not be read as an index."""
    key = np.array([12_345_678_901_234_567_890], dtype=np.uint64)
    asked = np.random.default_rng(0).integers(0, 2**64, 5_000, dtype=np.uint64)
    asked[17] = key[0]
    assert np.flatnonzero(KeyTable(key).find(asked) >= 0).tolist() == [17]
