"""Metrics of what the lists show to everybody: coverage, Gini, novelty, popularity lift."""

from dataclasses import dataclass
from typing import ClassVar

import numba
import numpy as np
import numpy.typing as npt

from vitrina.errors import InputError
from vitrina.metrics.hits import DoubleArray, FloatArray, IntArray, LongArray, Targets, as_lists


@dataclass(frozen=True, eq=False)
class Context:
    """What metrics beyond accuracy need to know; each one says by name what it misses."""

    n_items: int | None = None
    """Size of the catalogue, I."""
    item_counts: LongArray | None = None
    """Training users (or rows: say which in the report) of each item. (I,)"""
    item_vectors: FloatArray | None = None
    """Vectors whose cosine says how alike two items are, see `diversity`. (I, D)"""

    def need_n_items(self, asked_by: str) -> int:
        """Size of the catalogue.

        Raises:
            InputError: nothing here tells it.
        """
        if self.n_items is not None:
            return self.n_items
        for known in (self.item_counts, self.item_vectors):
            if known is not None:
                return len(known)
        raise InputError(f"{asked_by} needs the size of the catalogue; give Context(n_items=...)")

    def need_counts(self, asked_by: str) -> DoubleArray:
        """Training counts. (I,).

        Raises:
            InputError: there are none, or one is negative.
        """
        if self.item_counts is None:
            raise InputError(f"{asked_by} needs training counts; give Context(item_counts=...)")
        counts = np.asarray(self.item_counts, dtype=np.float64)
        if not (counts >= 0).all():
            raise InputError(f"{asked_by}: item_counts must be >= 0, got {counts.min()}")
        return counts


def exposures(lists_BK: npt.ArrayLike, *, k: int, n_items: int) -> LongArray:
    """How often each item stands in the first k places of a list. (I,).

    Raises:
        InputError: an item number is not below n_items.
    """
    lists = as_lists(lists_BK)
    if lists.max(initial=-1) >= n_items:
        raise InputError(f"lists hold item {lists.max()} of a catalogue of {n_items}; were they made for it?")
    counts = np.zeros(n_items, np.int64)
    _expose(lists, min(k, lists.shape[1]), counts)
    return counts


def gini(counts: npt.ArrayLike) -> float:
    """sum_i (2 i - n - 1) x_i / (n sum_i x_i), x ascending, i = 1..n.

    0: equal shares; (n - 1) / n: one takes all; NaN where there is nothing to share.
    """
    x = np.sort(np.asarray(counts, dtype=np.float64))
    n, total = len(x), x.sum()
    return float((2 * np.arange(1, n + 1) - n - 1) @ x / (n * total)) if total > 0 else float("nan")


@dataclass(frozen=True)
class _AtK:
    k: int
    """Places of the list that count."""
    label: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"{type(self).__name__}.k must be >= 1, got {self.k}; it is a number of places")

    @property
    def name(self) -> str:
        """As in tables: `coverage@10`."""
        return f"{self.label}@{self.k}"


@dataclass(frozen=True)
class _Catalogue(_AtK):
    def value(self, lists_BK: npt.ArrayLike, context: Context) -> float:
        """One number for all the lists given."""
        return self.of(exposures(lists_BK, k=self.k, n_items=context.need_n_items(self.name)))

    def of(self, exposure_I: LongArray) -> float:
        """From the counts that `exposures` gives."""
        raise NotImplementedError


@dataclass(frozen=True)
class Coverage(_Catalogue):
    """Share of the catalogue that stands in the first k places of at least one list. It grows with B."""

    label: ClassVar[str] = "coverage"

    def of(self, exposure_I: LongArray) -> float:
        """Shown items over I; NaN for an empty catalogue."""
        return float((exposure_I > 0).mean()) if len(exposure_I) else float("nan")


@dataclass(frozen=True)
class Gini(_Catalogue):
    """Gini coefficient of the exposures of all items of the catalogue, never shown ones included."""

    label: ClassVar[str] = "gini"

    def of(self, exposure_I: LongArray) -> float:
        """See `gini`."""
        return gini(exposure_I)


@dataclass(frozen=True)
class ListMetric(_AtK):
    """A metric of each list for which accuracy does not matter: a numerator and a denominator a user."""

    def per_user(
        self, lists_BK: npt.ArrayLike, truth: Targets | None = None, *, context: Context
    ) -> DoubleArray:
        """Numerator over denominator, NaN for excluded users. (B,), float64."""
        above, below = self.parts(as_lists(lists_BK), truth, context)
        return np.asarray(np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0))

    def parts(
        self, lists: IntArray, truth: Targets | None, context: Context
    ) -> tuple[DoubleArray, DoubleArray]:
        """Numerator and denominator of each user; both 0 for an excluded one. Each (B,)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Novelty(ListMetric):
    """Mean over the places filled of -log2 p(i), p(i) = (c_i + 1) / (sum_j c_j + I). In bits.

    c are training counts; add-one smoothing keeps an item that nobody took finite. Mean self-information of
    Zhou et al., PNAS 2010. Users with an empty list are excluded and counted.
    """

    label: ClassVar[str] = "novelty"

    def parts(
        self, lists: IntArray, truth: Targets | None, context: Context
    ) -> tuple[DoubleArray, DoubleArray]:
        """Mean self-information and 1. Each (B,)."""
        counts = context.need_counts(self.name)
        bits = -np.log2((counts + 1) / (counts.sum() + len(counts)))
        mean = _mean_over_list(lists, bits, self.k, self.name)
        return np.nan_to_num(mean), (~np.isnan(mean)).astype(np.float64)


@dataclass(frozen=True)
class PopularityLift(ListMetric):
    """Mean training count of what is shown over that of what people took: a ratio of two means over users.

        mean_u( mean of c_i over the list ) / mean_u( mean of c_i over the targets )

    1: shown items are as popular as the ones taken; 3: three times. Cold targets count as 0, repeated ones
    once. A ratio of means, as in the group average popularity of Abdollahpouri et al., RecSys 2020, with the
    targets in place of the profile and without subtracting 1. Users with an empty list or without a target
    are excluded and counted.
    """

    label: ClassVar[str] = "poplift"

    def parts(
        self, lists: IntArray, truth: Targets | None, context: Context
    ) -> tuple[DoubleArray, DoubleArray]:
        """Mean count of the list and of the targets. Each (B,)."""
        if truth is None:
            raise InputError(f"{self.name} compares lists with targets; give truth")
        counts = context.need_counts(self.name)
        shown = _mean_over_list(lists, counts, self.k, self.name)
        offsets = np.asarray(truth.offsets, dtype=np.int64)
        items = np.asarray(truth.item_ix)
        if len(offsets) != len(lists) + 1:
            raise InputError(
                f"{self.name}: {len(lists)} lists need {len(lists) + 1} offsets, got {len(offsets)}"
            )
        stamp = np.full(int(items.max(initial=-1)) + 1, -1, np.int32)
        taken = np.full(len(lists), np.nan)
        _mean_of_targets(offsets, items, counts, stamp, taken)
        kept = ~np.isnan(shown) & ~np.isnan(taken)
        return np.where(kept, shown, 0.0), np.where(kept, taken, 0.0)


def _mean_over_list(lists: IntArray, value_I: DoubleArray, k: int, asked_by: str) -> DoubleArray:
    """Mean of an item value over the filled places among the first k, NaN for an empty list. (B,)."""
    if lists.max(initial=-1) >= len(value_I):
        raise InputError(f"{asked_by}: lists hold item {lists.max()}, the catalogue has {len(value_I)} items")
    out = np.full(len(lists), np.nan)
    _mean(lists, value_I, min(k, lists.shape[1]), out)
    return out


@numba.njit(cache=True, nogil=True)
def _expose(lists, k, counts):  # type: ignore[no-untyped-def]
    for b in range(lists.shape[0]):
        for r in range(k):
            if lists[b, r] >= 0:
                counts[lists[b, r]] += 1


@numba.njit(cache=True, nogil=True)
def _mean(lists, value_I, k, out):  # type: ignore[no-untyped-def]
    for b in range(lists.shape[0]):
        total, n = 0.0, 0
        for r in range(k):
            if lists[b, r] >= 0:
                total += value_I[lists[b, r]]
                n += 1
        if n:
            out[b] = total / n


@numba.njit(cache=True, nogil=True)
def _mean_of_targets(offsets, items, value_I, stamp, out):  # type: ignore[no-untyped-def]
    for b in range(len(offsets) - 1):
        total, n = 0.0, 0
        for at in range(offsets[b], offsets[b + 1]):
            i = items[at]
            if stamp[i] != b:
                stamp[i] = b
                n += 1
                if i < len(value_I):
                    total += value_I[i]
        if n:
            out[b] = total / n
