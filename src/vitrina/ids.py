"""External ids to internal integers and back.

An `Ids` holds the sorted distinct ids of users or of items; the position of an id is its `*_ix`.
Sorting makes the numbering a function of the set of ids alone, so shuffling rows changes nothing.
"""

import hashlib
from collections.abc import Iterable
from functools import cached_property

import numpy as np
import polars as pl

from vitrina.errors import InputError
from vitrina.schema import IntArray

UNKNOWN = -1
"""The internal integer of an id that is not in the vocabulary."""


class Ids:
    """A vocabulary: n distinct ids, sorted; integers (as Int64) or strings.

    Example:
        >>> items = Ids(pl.Series(["b", "a", "b"]))
        >>> items.ix(["a", "zzz", "b"]).tolist()
        [0, -1, 1]
        >>> items.take(np.array([1, 0])).to_list()
        ['b', 'a']
    """

    def __init__(self, values: pl.Series) -> None:
        self.values = _canonical(values).unique().sort()
        if self.values.null_count():
            raise InputError("an id is null; ids must be integers or strings; set such rows aside first")

    @classmethod
    def _from_sorted(cls, values: pl.Series) -> "Ids":
        ids = cls.__new__(cls)
        ids.values = values
        return ids

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"Ids({len(self):,} {self.values.dtype})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ids) and (self is other or self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def is_integer(self) -> bool:
        """Whether ids are integers (else strings)."""
        return bool(self.values.dtype == pl.Int64)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the ids in order: two vocabularies are the same iff their digests are."""
        head = f"{self.values.dtype}:{len(self)}:".encode()
        if self.is_integer:
            body = self.values.to_numpy().tobytes()
        else:
            lengths = self.values.str.len_bytes().to_numpy().astype(np.int64).tobytes()
            body = lengths + "".join(self.values.to_list()).encode()
        return hashlib.sha256(head + body).hexdigest()

    @cached_property
    def _position(self) -> dict[object, int]:
        return {value: ix for ix, value in enumerate(self.values.to_list())}

    def get(self, value: object) -> int:
        """`*_ix` of one id, or -1. For requests: O(1) after the first call."""
        if self.is_integer and isinstance(value, str):
            value = int(value) if value.removeprefix("-").isdecimal() and len(value) < 20 else None
        elif not self.is_integer and isinstance(value, int):
            value = str(value)
        return self._position.get(value, UNKNOWN)

    def ix(self, values: pl.Series | Iterable[object]) -> IntArray:
        """`*_ix` of each id, -1 where unknown. Shape (n,)."""
        asked = values if isinstance(values, pl.Series) else pl.Series(list(values), strict=False)
        if len(asked) == 0:
            return np.zeros(0, dtype=np.int32)
        if len(self) == 0:
            return np.full(len(asked), UNKNOWN, dtype=np.int32)
        asked = asked.cast(self.values.dtype, strict=False)
        if self.is_integer:
            known = self.values.to_numpy()
            wanted = asked.fill_null(known[0] - 1 if known[0] > np.iinfo(np.int64).min else 0).to_numpy()
            at = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            found = (known[at] == wanted) & ~asked.is_null().to_numpy()
            return np.where(found, at, UNKNOWN).astype(np.int32)
        table = pl.DataFrame({"id": self.values, "ix": np.arange(len(self), dtype=np.int32)})
        joined = pl.DataFrame({"id": asked}).join(table, on="id", how="left", maintain_order="left")
        return joined["ix"].fill_null(UNKNOWN).to_numpy().astype(np.int32)

    def take(self, ix: IntArray) -> pl.Series:
        """External ids at the given positions; null where ix is -1. Shape (n,)."""
        position = pl.Series(np.asarray(ix, dtype=np.int64))
        return self.values.gather(position.set(position < 0, None).cast(pl.UInt32))


def _canonical(values: pl.Series) -> pl.Series:
    if values.dtype.is_integer():
        too_large = (
            values.filter(values > np.iinfo(np.int64).max) if values.dtype == pl.UInt64 else values.clear()
        )
        if len(too_large):
            raise InputError(f"id {too_large[0]!r} does not fit in 64 signed bits; give ids as strings")
        return values.cast(pl.Int64)
    if values.dtype in (pl.String, pl.Categorical) or isinstance(values.dtype, pl.Enum):
        return values.cast(pl.String)
    if values.dtype == pl.Null:
        return values.cast(pl.Int64)
    raise InputError(f"ids of type {values.dtype} are not supported; give integers or strings")
