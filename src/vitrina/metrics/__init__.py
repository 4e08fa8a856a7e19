"""Metrics of ranked lists: pure functions of arrays, defined once (docs/conventions.md).

    measured = compute(["ndcg@10", "recall@100", "coverage@10"], lists_BK, truth, Context(n_items=20_000))
    measured.values              {"ndcg@10": 0.0209, ...}
    bootstrap(measured)          the same with 95 % intervals over users
    paired_bootstrap(a, b)       differences of two models on the same users

`truth` is anything jagged: `offsets` (B + 1,) and `item_ix` (T,), cold items numbered beyond the catalogue.
"""

from vitrina.metrics.accuracy import MAP, MRR, NDCG, HitRate, Precision, Recall, ideal_dcg
from vitrina.metrics.diversity import ILD, Vendi, cooccurrence_vectors, one_hot
from vitrina.metrics.exposure import Context, Coverage, Gini, Novelty, PopularityLift, exposures, gini
from vitrina.metrics.hits import AtCuts, Hits, TargetLists, Targets, at_cuts, hits
from vitrina.metrics.intervals import (
    Comparison,
    Intervals,
    SeedSpread,
    bootstrap,
    holm,
    over_seeds,
    paired_bootstrap,
)
from vitrina.metrics.measure import METRICS, Definitions, Measured, Metric, compute, metric
from vitrina.metrics.ties import UNREACHABLE, pessimistic_ranks

__all__ = [
    "ILD",
    "MAP",
    "METRICS",
    "MRR",
    "NDCG",
    "UNREACHABLE",
    "AtCuts",
    "Comparison",
    "Context",
    "Coverage",
    "Definitions",
    "Gini",
    "HitRate",
    "Hits",
    "Intervals",
    "Measured",
    "Metric",
    "Novelty",
    "PopularityLift",
    "Precision",
    "Recall",
    "SeedSpread",
    "TargetLists",
    "Targets",
    "Vendi",
    "at_cuts",
    "bootstrap",
    "compute",
    "cooccurrence_vectors",
    "exposures",
    "gini",
    "hits",
    "holm",
    "ideal_dcg",
    "metric",
    "one_hot",
    "over_seeds",
    "paired_bootstrap",
    "pessimistic_ranks",
]
