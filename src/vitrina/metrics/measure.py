"""Many metrics of one set of lists in one pass, and metrics from their names."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from vitrina.errors import InputError
from vitrina.metrics.accuracy import MAP, MRR, NDCG, HitRate, Precision, Recall, ideal_dcg
from vitrina.metrics.diversity import ILD, Vendi
from vitrina.metrics.exposure import Context, Coverage, Gini, Novelty, PopularityLift, exposures
from vitrina.metrics.hits import AtCuts, BoolArray, DoubleArray, IntArray, Targets, as_lists, at_cuts, hits

Accuracy = NDCG | Recall | HitRate | Precision | MAP | MRR
Catalogue = Coverage | Gini
OfList = Novelty | PopularityLift | ILD | Vendi
Metric = Accuracy | Catalogue | OfList
Definitions = Literal["vitrina", "yambda"]

METRICS: Final[dict[str, type[Metric]]] = {
    kind.label: kind
    for kind in (
        NDCG,
        Recall,
        HitRate,
        Precision,
        MAP,
        MRR,
        Coverage,
        Gini,
        Novelty,
        PopularityLift,
        ILD,
        Vendi,
    )
}
"""Metric classes by the name that `metric` reads."""

YAMBDA_RANKED_LEN: Final = 100
"""Length of the ranked lists of the Yambda benchmark: its ideal list holds min(n_pos, 100) hits."""
_YAMBDA_METRICS: Final = (NDCG, Recall, Precision, MRR, Coverage)


@dataclass(frozen=True, eq=False)
class Measured:
    """Values of M per-user metrics for B users, and of catalogue metrics for all the lists together.

    Each per-user metric is kept as a numerator and a denominator a user; its value is sum(numerator) /
    sum(denominator). A mean over users has denominators 1, and 0 for users it excludes; a ratio of means has
    others.
    """

    names: tuple[str, ...]
    """Per-user metrics, in the order asked for."""
    numerator: DoubleArray
    """(B, M)"""
    denominator: DoubleArray
    """(B, M), 0 where a metric excludes a user"""
    catalogue: dict[str, float]
    """Metrics of all the lists together, by name."""
    has_truth: BoolArray
    """(B,), users with a target; the others are excluded from every metric that needs one."""

    @property
    def n_without_truth(self) -> int:
        """Users without a target."""
        return int((~self.has_truth).sum())

    @property
    def n_users(self) -> int:
        """B."""
        return len(self.numerator)

    @property
    def per_user(self) -> DoubleArray:
        """Numerator over denominator, NaN for excluded users. (B, M)."""
        out = np.full(self.numerator.shape, np.nan)
        return np.asarray(np.divide(self.numerator, self.denominator, out=out, where=self.denominator > 0))

    @property
    def means(self) -> DoubleArray:
        """Value of each metric over the users it includes, NaN where it includes none. (M,)."""
        below = self.denominator.sum(axis=0)
        out = np.full(len(self.names), np.nan)
        return np.asarray(np.divide(self.numerator.sum(axis=0), below, out=out, where=below > 0))

    @property
    def n_included(self) -> dict[str, int]:
        """Users that each metric includes."""
        return dict(zip(self.names, (self.denominator > 0).sum(axis=0).tolist(), strict=True))

    @property
    def values(self) -> dict[str, float]:
        """Every metric by name."""
        return dict(zip(self.names, self.means.tolist(), strict=True)) | self.catalogue

    def users(self, user_mask: BoolArray) -> "Measured":
        """The per-user metrics of some users: a slice. Catalogue metrics, made of all lists, are left out."""
        return Measured(
            self.names,
            self.numerator[user_mask],
            self.denominator[user_mask],
            {},
            self.has_truth[user_mask],
        )


def metric(name: str) -> Metric:
    """The metric that `ndcg@10`, `coverage@100`, ... names.

    Raises:
        InputError: no such metric, or k is not a whole number above 0.
    """
    label, at, k = name.strip().lower().partition("@")
    if label not in METRICS or not at or not k.isdecimal():
        raise InputError(f"no metric {name!r}; write NAME@k with NAME one of {', '.join(METRICS)}")
    return METRICS[label](int(k))


def compute(
    metrics: Sequence[Metric | str],
    lists_BK: npt.ArrayLike,
    truth: Targets,
    context: Context | None = None,
    *,
    score_BK: npt.ArrayLike | None = None,
    definitions: Definitions = "vitrina",
) -> Measured:
    """Measure ranked lists against targets, walking both once, whatever the number of metrics.

    Args:
        metrics: metric objects or their names.
        lists_BK: (B, K) item numbers, best first, -1 where a list is shorter.
        truth: jagged targets of the same B users.
        context: what metrics beyond accuracy need.
        score_BK: scores of the places; given, ties are broken against the model (`hits`).
        definitions: `vitrina`, or `yambda` for the definitions of that benchmark (June 2025): targets are not
            de-duplicated and each place is a hit or not; NDCG is mean DCG over mean IDCG, with
            min(n_pos, 100, k) ideal hits; and there are NDCG, Recall, Precision, MRR and Coverage only.

    Raises:
        InputError: shapes that do not fit, a metric misses what it needs, or `yambda` has not got it.
    """
    asked = [metric(m) if isinstance(m, str) else m for m in metrics]
    names = [m.name for m in asked]
    if len(set(names)) < len(names):
        raise InputError(f"a metric is asked for twice: {', '.join(names)}")
    is_yambda = definitions == "yambda"
    if is_yambda:
        _check_yambda(asked)
    context = context or Context()
    lists = as_lists(lists_BK)
    found = hits(
        lists,
        truth.offsets,
        truth.item_ix,
        dedup_truth=not is_yambda,
        dedup_lists=not is_yambda,
        score_BK=score_BK,
    )
    sums = at_cuts(found, [m.k for m in asked if isinstance(m, Accuracy)])
    per_user = [m for m in asked if not isinstance(m, Catalogue)]
    shape = (len(lists), len(per_user))
    above, below = np.zeros(shape, order="F"), np.zeros(shape, order="F")
    has_truth = found.n_pos > 0
    for at, m in enumerate(per_user):
        if isinstance(m, OfList):
            above[:, at], below[:, at] = m.parts(lists, truth, context)
        elif is_yambda and isinstance(m, NDCG):
            above[:, at], below[:, at] = yambda_ndcg_parts(sums, m.k)
        else:
            above[:, at], below[:, at] = np.where(has_truth, m.of(sums), 0.0), has_truth
    return Measured(
        tuple(m.name for m in per_user), above, below, _catalogue(asked, lists, context), has_truth
    )


def yambda_ndcg_parts(sums: AtCuts, k: int) -> tuple[DoubleArray, DoubleArray]:
    """DCG@k and IDCG@k of each user, whose sums are divided: the NDCG of the Yambda benchmark. Each (B,)."""
    return sums.dcg[:, sums.cuts.index(k)], ideal_dcg(np.minimum(sums.n_pos, YAMBDA_RANKED_LEN), k)


def _check_yambda(asked: Sequence[Metric]) -> None:
    for m in asked:
        if not isinstance(m, _YAMBDA_METRICS) or m.k > YAMBDA_RANKED_LEN:
            known = ", ".join(kind.label for kind in _YAMBDA_METRICS)
            raise InputError(
                f"the yambda definitions have no {m.name}; they have {known}, k <= {YAMBDA_RANKED_LEN}"
            )


def _catalogue(asked: Sequence[Metric], lists: IntArray, context: Context) -> dict[str, float]:
    """Metrics of all lists together; the exposures of one k are counted once."""
    wanted = [m for m in asked if isinstance(m, Catalogue)]
    counted = {
        m.k: exposures(lists, k=m.k, n_items=context.need_n_items(m.name))
        for m in {m.k: m for m in wanted}.values()
    }
    return {m.name: m.of(counted[m.k]) for m in wanted}
