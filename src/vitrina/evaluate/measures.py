"""From the lists of a batch to columns of per-user values.

A column `ndcg@10` holds each user's numerator; where the metric is a ratio of means, a column `ndcg@10/`
beside it holds the denominators. NaN marks a user whom the metric excludes. `ndcg@10|WHAT` is measured on a
part of the targets, or on other lists.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from vitrina.metrics import (
    ILD,
    NDCG,
    Context,
    Coverage,
    Definitions,
    Gini,
    Measured,
    Metric,
    PopularityLift,
    Targets,
    Vendi,
    compute,
    exposures,
)
from vitrina.schema import DoubleArray, FloatArray, IntArray, LongArray

OVER = "/"
"""Ends the name of a column of denominators."""

EXPOSURE_K = 10
"""Depth at which exposure is shown where no metric asks for another."""


class Lists(NamedTuple):
    """Ranked lists of B users; with scores, ties are read against the model."""

    item_ix: IntArray
    """(B, K), -1 pads"""
    score: FloatArray | None = None
    """(B, K)"""

    def of_others(self) -> "Lists":
        """Each user with the list of the user before; a batch of one has nobody to swap with: empty lists."""
        if len(self.item_ix) < 2:
            return Lists(np.full_like(self.item_ix, -1))
        score = None if self.score is None else np.roll(self.score, 1, axis=0)
        return Lists(np.roll(self.item_ix, 1, axis=0), score)


def columns(
    metrics: Sequence[Metric],
    lists: Lists,
    truth: Targets,
    definitions: Definitions = "vitrina",
    context: Context | None = None,
    *,
    suffix: str = "",
) -> dict[str, DoubleArray]:
    """Measure lists; one column a metric, or two where it is a ratio of means. Each of shape (B,)."""
    context = context or Context()
    found: dict[str, DoubleArray] = {}
    paired = [m for m in metrics if isinstance(m, ILD | Vendi)]
    plain = [m for m in metrics if not isinstance(m, ILD | Vendi)]
    if plain:
        measured = compute(
            plain, lists.item_ix, truth, context, score_BK=lists.score, definitions=definitions
        )
        found |= _columns(plain, measured, definitions, suffix)
    if paired:
        found |= _columns(paired, _diversity(paired, lists.item_ix, truth, context), definitions, suffix)
    return found


def _diversity(metrics: Sequence[Metric], item_BK: IntArray, truth: Targets, context: Context) -> Measured:
    """Measured on the items listed only, renumbered: the metrics read the vectors of the whole catalogue."""
    item_BK = item_BK[:, : max(m.k for m in metrics)]
    listed, renumbered = np.unique(item_BK, return_inverse=True)
    n_pads = int(len(listed) > 0 and listed[0] == -1)
    vectors = None if context.item_vectors is None else context.item_vectors[listed[n_pads:]]
    local_BK = (renumbered.reshape(item_BK.shape) - n_pads).astype(np.int32)
    return compute(metrics, local_BK, truth, Context(n_items=len(listed) - n_pads, item_vectors=vectors))


def _columns(
    metrics: Sequence[Metric], measured: Measured, definitions: Definitions, suffix: str
) -> dict[str, DoubleArray]:
    found = {}
    for at, m in enumerate(metrics):
        above, below = measured.numerator[:, at], measured.denominator[:, at]
        key = f"{m.name}|{suffix}" if suffix else m.name
        found[key] = np.where(below > 0, above, np.nan)
        if isinstance(m, PopularityLift) or (definitions == "yambda" and isinstance(m, NDCG)):
            found[key + OVER] = np.where(below > 0, below, np.nan)
    return found


def average(values: Mapping[str, DoubleArray], name: str) -> float:
    """Value of a metric over users: the mean, or the ratio of means where there are denominators."""
    above, below = parts(values, name)
    total = below.sum()
    return float(above.sum() / total) if total > 0 else float("nan")


def parts(values: Mapping[str, DoubleArray], name: str) -> tuple[DoubleArray, DoubleArray]:
    """Numerators and denominators of a metric, 0 for users it excludes. Each (U,)."""
    column = values[name]
    known = ~np.isnan(column)
    below = values[name + OVER] if name + OVER in values else known.astype(np.float64)
    return np.where(known, column, 0.0), np.nan_to_num(below)


class Shown:
    """How often each item was shown, added up over batches."""

    def __init__(self, metrics: Sequence[Coverage | Gini], n_items: int) -> None:
        self.metrics = metrics
        self.k = metrics[0].k if metrics else EXPOSURE_K
        self._count = {k: np.zeros(n_items, np.int64) for k in {self.k, *(m.k for m in metrics)}}

    def add(self, item_BK: IntArray) -> None:
        """Count the lists of a batch."""
        for k, total in self._count.items():
            np.add(total, exposures(item_BK, k=k, n_items=len(total)), out=total)

    @property
    def exposure(self) -> LongArray:
        """At depth `k`. Shape (I,)."""
        return self._count[self.k]

    def values(self) -> dict[str, float]:
        """Each metric by name."""
        return {m.name: m.of(self._count[m.k]) for m in self.metrics}
