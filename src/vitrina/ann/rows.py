"""Vectors of distinct items, checked once, in ascending order of item_ix: what every index is made of."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from vitrina.ann.blocks import spans
from vitrina.ann.topk import Jagged, within
from vitrina.errors import InputError
from vitrina.schema import BoolArray, FloatArray, IntArray, LongArray

CHECKED_AT_ONCE = 1 << 16
"""Vectors whose numbers are looked at together, so that checking a mapped file needs little memory."""


@dataclass(frozen=True, eq=False)
class Rows:
    """N items with a vector and a bias each."""

    item_ix: IntArray
    """(N,), ascending"""
    vector_ND: FloatArray
    """(N, D), C order"""
    bias: FloatArray
    """(N,)"""

    def __len__(self) -> int:
        return len(self.item_ix)

    @property
    def n_dims(self) -> int:
        """D."""
        return int(self.vector_ND.shape[1])

    @cached_property
    def bias_or_none(self) -> FloatArray | None:
        """The bias, or None where all of it is 0."""
        return self.bias if self.bias.any() else None

    @cached_property
    def is_range(self) -> bool:
        """Whether the items are 0, 1, ... N - 1, so that an item is its own place."""
        return len(self) == 0 or (int(self.item_ix[0]) == 0 and int(self.item_ix[-1]) == len(self) - 1)

    def place(self, item_ix: IntArray) -> LongArray:
        """Place of each item among the rows, -1 where it is not there."""
        if self.is_range:
            return np.where((item_ix >= 0) & (item_ix < len(self)), item_ix, -1).astype(np.int64)
        at = np.searchsorted(self.item_ix, item_ix)
        found = self.item_ix[np.minimum(at, len(self) - 1)] == item_ix
        return np.where(found, at, -1)

    def places(self, items: Jagged) -> Jagged:
        """Sets of items as sets of places; those that are not there are left out."""
        if self.is_range:
            return within(items, len(self))
        at = self.place(items.item_ix)
        there = np.concatenate([[0], np.cumsum(at >= 0)])
        return Jagged(there[items.offsets], at[at >= 0].astype(np.int32))

    def mask(self, allowed: BoolArray) -> BoolArray:
        """Which rows are allowed: (N,). An item beyond the end of `allowed` is not."""
        if self.is_range and len(allowed) >= len(self):
            return allowed[: len(self)]
        inside = self.item_ix < len(allowed)
        mask = np.zeros(len(self), bool)
        mask[inside] = allowed[self.item_ix[inside]]
        return mask

    def take(self, keep: BoolArray | LongArray | IntArray) -> "Rows":
        """Some of the rows, in the same order."""
        return Rows(frozen(self.item_ix[keep]), frozen(self.vector_ND[keep]), frozen(self.bias[keep]))


def no_rows(n_dims: int) -> Rows:
    """No item at all."""
    return Rows(
        *map(frozen, (np.zeros(0, np.int32), np.zeros((0, n_dims), np.float32), np.zeros(0, np.float32)))
    )


def checked(
    vector_ND: Any,
    item_ix: Any = None,
    bias: Any = None,
    *,
    n_dims: int | None = None,
    owner: str = "the index",
) -> Rows:
    """Rows from what a caller gives; vectors that are float32 and in order are not copied.

    Args:
        vector_ND: (N, D).
        item_ix: (N,), distinct, in any order; None means 0, 1, ... N - 1.
        bias: (N,); None means 0.
        n_dims: what D has to be.
        owner: who asks, for the message.

    Raises:
        InputError: a shape or a number breaks a rule; the sentence says which and where.
    """
    vector_ND = np.asarray(vector_ND)
    if vector_ND.ndim != 2 or vector_ND.dtype.kind not in "fiu":
        raise InputError(
            f"vectors must be numbers of shape (N, D), got {vector_ND.dtype} of shape {vector_ND.shape}; "
            "give one row per item"
        )
    if n_dims is not None and vector_ND.shape[1] != n_dims:
        raise InputError(
            f"vectors have {vector_ND.shape[1]} dimensions but {owner} holds {n_dims}; "
            "use vectors of the model that it was built from, or build it again"
        )
    if vector_ND.shape[1] == 0:
        raise InputError("vectors have 0 dimensions; at least 1 is needed")
    items = _items(item_ix, len(vector_ND))
    with np.errstate(over="ignore"):  # too large for float32 becomes an infinity, which is refused below
        vector_ND = np.ascontiguousarray(vector_ND, dtype=np.float32)
        added = np.zeros(len(items), np.float32) if bias is None else np.array(bias, dtype=np.float32)
    if added.shape != items.shape:
        raise InputError(f"bias has shape {added.shape} for {len(items)} vectors; give one number per item")
    refuse_not_finite(vector_ND, "vector", items)
    refuse_not_finite(added[:, None], "bias", items)
    if len(items) > 1 and (np.diff(items) < 0).any():
        order = np.argsort(items, kind="stable")
        items, vector_ND, added = items[order], vector_ND[order], added[order]
    return Rows(frozen(items), frozen(vector_ND), frozen(added))


def checked_queries(query_BD: Any, n_dims: int, *, owner: str = "the index") -> FloatArray:
    """Queries as float32 in C order.

    Raises:
        InputError: their shape is not (B, D) of the index, or one is not finite.
    """
    asked: FloatArray = np.asarray(query_BD)
    if asked.ndim != 2 or asked.dtype.kind not in "fiu" or asked.shape[1] != n_dims:
        raise InputError(
            f"queries must be numbers of shape (B, {n_dims}), the dimensions that {owner} holds; "
            f"got {asked.dtype} of shape {asked.shape}"
        )
    with np.errstate(over="ignore"):
        asked = np.ascontiguousarray(asked, dtype=np.float32)
    refuse_not_finite(asked, "query", np.arange(len(asked)))
    return asked


def checked_limits(
    n_queries: int, k: int, exclude: Jagged | None, allowed: Any
) -> tuple[Jagged | None, BoolArray | None]:
    """What limits the lists of a search, in the types that the kernels are compiled for.

    Raises:
        InputError: k is negative, or a limit has the wrong shape.
    """
    if k < 0:
        raise InputError(f"k must be >= 0, got {k}; it is the length of a list")
    if exclude is not None:
        offsets, items = (np.asarray(part) for part in exclude)
        rising = offsets.shape == (n_queries + 1,) and offsets[0] == 0 and (np.diff(offsets) >= 0).all()
        if not rising or offsets[-1] != len(items):
            raise InputError(
                f"exclude has offsets of shape {offsets.shape} over {len(items)} items for {n_queries} "
                f"queries; give {n_queries + 1} rising bounds, from 0 to the number of items"
            )
        exclude = Jagged(offsets.astype(np.int64), items.astype(np.int32))
    if allowed is not None:
        allowed = np.asarray(allowed)
        if allowed.ndim != 1 or allowed.dtype != np.bool_:
            raise InputError(
                f"allowed must be booleans of shape (I,), got {allowed.dtype} of shape {allowed.shape}; "
                "entry i says whether item_ix i may be listed"
            )
    return exclude, allowed


def checked_items(item_ix: Any) -> IntArray:
    """Item numbers as int32, in the given order.

    Raises:
        InputError: they are not whole numbers in [0, 2^31).
    """
    items = np.asarray(item_ix)
    if items.ndim != 1 or (items.size and items.dtype.kind not in "iu"):
        raise InputError(
            f"item_ix must be whole numbers of shape (N,), got {items.dtype} of shape {items.shape}"
        )
    if items.size and (int(items.min()) < 0 or int(items.max()) >= 2**31):
        outside = items[(items < 0) | (items >= 2**31)][0]
        raise InputError(f"item_ix {outside} is outside [0, 2^31); number the items from 0")
    return items.astype(np.int32)


def _items(item_ix: Any, n: int) -> IntArray:
    """Item numbers of n vectors, distinct."""
    if item_ix is None:
        return np.arange(n, dtype=np.int32)
    items = checked_items(item_ix)
    if len(items) != n:
        raise InputError(f"there are {len(items)} item_ix for {n} vectors; give one per vector")
    ordered = np.sort(items)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if len(twice):
        raise InputError(f"item_ix {twice[0]} is given twice; an item has one vector, keep the right one")
    return items


def refuse_not_finite(values: FloatArray, what: str, names: Any) -> None:
    """Raise for the first row that holds a NaN or an infinity.

    Raises:
        InputError: names the row and how many there are.
    """
    bad: list[int] = []
    for lo, hi in spans(len(values), CHECKED_AT_ONCE):
        block = values[lo:hi]
        if not np.isfinite(block).all():
            bad += (lo + np.flatnonzero(~np.isfinite(block).all(axis=1))).tolist()
    if bad:
        others = f" (and of {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise InputError(
            f"the {what} of {names[bad[0]]}{others} holds a NaN or an infinity; find out where it came from, "
            "it would spoil every list"
        )


def frozen(array: Any) -> Any:
    """A view that nobody can write through."""
    view = array.view()
    view.flags.writeable = False
    return view
