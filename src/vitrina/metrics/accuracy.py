"""Accuracy metrics: NDCG, Recall, HitRate, Precision, MAP, MRR. Formulas, once; everything else points here.

Notation: rel is the set of a user's targets, hit_r is 1 if the place of rank r is a hit (rules in `hits`), a
sum runs over r = 1..k. The value of a metric is the mean over the users who have a target; users without one
are excluded and counted. A short list is a list padded with misses; IDCG and divisors do not shrink with it.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from vitrina.errors import InputError
from vitrina.metrics.hits import AtCuts, DoubleArray, Targets, at_cuts, discounts, hits


@dataclass(frozen=True)
class _Accuracy:
    k: int
    """Places of the list that count."""
    label: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InputError(f"{type(self).__name__}.k must be >= 1, got {self.k}; it is a number of places")

    @property
    def name(self) -> str:
        """As in tables: `ndcg@10`."""
        return f"{self.label}@{self.k}"

    def per_user(self, lists_BK: npt.ArrayLike, truth: Targets) -> DoubleArray:
        """Value of each user, NaN for those without a target. Shape (B,), float64."""
        found = hits(lists_BK, truth.offsets, truth.item_ix)
        values = self.of(at_cuts(found, [self.k]))
        values[found.n_pos == 0] = np.nan
        return values

    def of(self, sums: AtCuts) -> DoubleArray:
        """Value of each user from the sums of one pass; where there is no target it means nothing. (B,)."""
        raise NotImplementedError

    def _column(self, sums: AtCuts) -> int:
        return sums.cuts.index(self.k)


def _divide(above: npt.ArrayLike, below: npt.ArrayLike) -> DoubleArray:
    """The quotient; 0 where the divisor is 0."""
    below = np.asarray(below, dtype=np.float64)
    out = np.zeros(np.broadcast_shapes(np.shape(above), below.shape))
    return np.asarray(np.divide(above, below, out=out, where=below > 0))


def ideal_dcg(n_pos: npt.ArrayLike, k: int) -> DoubleArray:
    """DCG of a list that starts with min(n_pos, k) hits. Shape of `n_pos`."""
    total = np.concatenate([[0.0], np.cumsum(discounts(k))])
    return np.asarray(total[np.minimum(np.asarray(n_pos, dtype=np.int64), k)])


@dataclass(frozen=True)
class NDCG(_Accuracy):
    """sum_r hit_r / log2(r + 1), over the same sum for min(|rel|, k) hits in front. Binary gain.

    Järvelin and Kekäläinen, TOIS 2002. 1 is reached by a full list of nothing but targets,
    and by any list with all of them in front.
    """

    label: ClassVar[str] = "ndcg"

    def of(self, sums: AtCuts) -> DoubleArray:
        """DCG over ideal DCG. (B,)."""
        return _divide(sums.dcg[:, self._column(sums)], ideal_dcg(sums.n_pos, self.k))


@dataclass(frozen=True)
class Recall(_Accuracy):
    """sum_r hit_r / |rel|. With more than k targets 1 cannot be reached."""

    label: ClassVar[str] = "recall"

    def of(self, sums: AtCuts) -> DoubleArray:
        """Share of the targets found. (B,)."""
        return _divide(sums.n_hits[:, self._column(sums)], sums.n_pos)


@dataclass(frozen=True)
class HitRate(_Accuracy):
    """1 if any of the first k places is a hit, else 0."""

    label: ClassVar[str] = "hitrate"

    def of(self, sums: AtCuts) -> DoubleArray:
        """0 or 1. (B,)."""
        return (sums.n_hits[:, self._column(sums)] > 0).astype(np.float64)


@dataclass(frozen=True)
class Precision(_Accuracy):
    """sum_r hit_r / k. The divisor is k for short lists too: an empty place is a wasted one."""

    label: ClassVar[str] = "precision"

    def of(self, sums: AtCuts) -> DoubleArray:
        """Share of the k places that are hits. (B,)."""
        return np.asarray(sums.n_hits[:, self._column(sums)] / self.k)


@dataclass(frozen=True)
class MAP(_Accuracy):
    """sum_r hit_r * (hits among the first r) / r, over min(|rel|, k)."""

    label: ClassVar[str] = "map"

    def of(self, sums: AtCuts) -> DoubleArray:
        """Average precision. (B,)."""
        return _divide(sums.precisions[:, self._column(sums)], np.minimum(sums.n_pos, self.k))


@dataclass(frozen=True)
class MRR(_Accuracy):
    """1 / rank of the first hit if that rank is at most k, else 0."""

    label: ClassVar[str] = "mrr"

    def of(self, sums: AtCuts) -> DoubleArray:
        """Reciprocal rank. (B,)."""
        hit = (sums.first > 0) & (sums.first <= self.k)
        return _divide(hit, np.maximum(sums.first, 1))
