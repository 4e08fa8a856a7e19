"""Whole runs: a configuration, from TOML or a function, becomes an evaluation, a search, a trained model."""

from vitrina.recipes.config import RunConfig
from vitrina.recipes.data import open_data
from vitrina.recipes.evaluating import Evaluated, evaluate_run, report_run
from vitrina.recipes.models import RECIPES
from vitrina.recipes.opening import open_run, with_models
from vitrina.recipes.toml import check, dumps, load, loads
from vitrina.recipes.training import Trained, train_run
from vitrina.recipes.tuning import Tuned, tune_run

__all__ = [
    "RECIPES",
    "Evaluated",
    "RunConfig",
    "Trained",
    "Tuned",
    "check",
    "dumps",
    "evaluate_run",
    "load",
    "loads",
    "open_data",
    "open_run",
    "report_run",
    "train_run",
    "tune_run",
    "with_models",
]
