"""The models of every table, and whole runs on known data as Python functions.

A variant calls one of these and replaces what differs:

    run = online_retail()
    run = run.model_copy(update={"models": [*run.models, ModelConfig(kind="ItemKNN", name="few neighbours")]})
"""

from importlib.util import find_spec
from typing import Any

from vitrina.candidates import CANDIDATES
from vitrina.recipes.config import (
    DataConfig,
    EvaluateConfig,
    FallbackConfig,
    ModelConfig,
    PipelineConfig,
    RunConfig,
    SourceConfig,
    SplitConfig,
)

SIMPLE = ("Random", "MostPop", "DecayPop", "PopularLastDays", "OwnHistory")
"""In every table: a model earns its place by beating these."""
LEARNED = ("ItemKNN", "ImplicitALS", "BPR", "Ease", "SANSA")
"""Learn who took what together."""


SMALL_SASREC: dict[str, Any] = {
    "n_layers": 1,
    "max_len": 100,
    "windows": "last",
    "n_epochs": 6,
    "batch_size": 64,
    "lr": 0.003,
    "cosine": True,
    "temperature": 0.07,
    "shuffle_ties": True,
    "trend_days": 7.0,
}
"""Trains in under a minute on two cores: one block, the latest rows of each user, what is in fashion told."""


def learner_of_order() -> ModelConfig:
    """A small SASRec, or EASE where torch is not installed."""
    return ModelConfig(kind="SASRec", params=SMALL_SASREC) if find_spec("torch") else ModelConfig(kind="Ease")


def classical_models() -> list[ModelConfig]:
    """The models of every table with their defaults, the simple ones first."""
    return [ModelConfig(kind=kind) for kind in (*SIMPLE, *LEARNED) if kind in CANDIDATES]


def online_retail() -> RunConfig:
    """Two years of a gift shop, the last 30 days held out; people buy again, so both views matter.

    Tastes change slowly in this shop: an event of DecayPop has half of its weight after 14 days, one of
    OwnHistory after 180. What is merged, and with which weights, was chosen on the 30 days before.
    """
    own_history = {"half_life_days": 180.0}
    params: dict[str, dict[str, Any]] = {"DecayPop": {"hours": 0.15 * 14 * 24}, "OwnHistory": own_history}
    models = [
        ModelConfig(kind=model.kind, params=params.get(str(model.kind), {})) for model in classical_models()
    ]
    learner = learner_of_order()
    merged = ModelConfig(
        name=f"OwnHistory + {learner.kind} + recent",
        sources=[
            SourceConfig(kind="OwnHistory", params=own_history, weight=4.0),
            SourceConfig(kind=str(learner.kind), params=learner.params),
            SourceConfig(kind="PopularLastDays"),
        ],
    )
    models = [model for model in models if model.kind != learner.kind]
    return RunConfig(
        data=DataConfig(dataset="online-retail"),
        split=SplitConfig(last_days=30),
        models=[*models, learner, merged],
        pipeline=PipelineConfig(fallback=FallbackConfig(kind="MostPop")),
        out="runs/online-retail",
    )


def movietweetings() -> RunConfig:
    """Ratings of films that people tweeted, the last 30 days held out; nobody rates a film twice."""
    return RunConfig(
        data=DataConfig(dataset="movietweetings-100k"),
        split=SplitConfig(last_days=30),
        evaluate=EvaluateConfig(repeats=["new_only"]),
        models=classical_models(),
        out="runs/movietweetings-100k",
    )


RECIPES = {"online-retail": online_retail, "movietweetings-100k": movietweetings}
"""Named runs: functions without arguments that return a `RunConfig`."""
