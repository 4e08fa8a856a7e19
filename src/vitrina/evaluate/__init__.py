"""Measuring fitted pipelines on a split, as they would be served.

evaluation = evaluate({"EASE": pipeline, "MostPop": other}, split, train=train)
evaluation.leaderboard()     model, metric, k, mean, ci_low, ci_high, sd_seeds, n_users, n_dropped
evaluation.comparisons()     every two models, paired, corrected
save(evaluation, "runs/shop")
"""

from vitrina.evaluate.backtest import backtest
from vitrina.evaluate.card import SplitCard
from vitrina.evaluate.curves import TrainingCurve
from vitrina.evaluate.evaluation import Evaluation, paired
from vitrina.evaluate.evaluator import Dropped, Evaluator, Run
from vitrina.evaluate.measuring import evaluate
from vitrina.evaluate.popularity import PopularityDiagnostics
from vitrina.evaluate.protocol import DEFAULT_METRICS, YAMBDA_METRICS, Protocol, pretty
from vitrina.evaluate.report import write_report

__all__ = [
    "DEFAULT_METRICS",
    "YAMBDA_METRICS",
    "Dropped",
    "Evaluation",
    "Evaluator",
    "PopularityDiagnostics",
    "Protocol",
    "Run",
    "SplitCard",
    "TrainingCurve",
    "backtest",
    "evaluate",
    "paired",
    "pretty",
    "write_report",
]
