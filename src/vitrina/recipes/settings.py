"""What a trial may set in a model: its parameters; of a merged one those of every source, and weights.

Values have the names of parameters, `n_neighbors`; in a model with sources `SOURCE.n_neighbors` and
`SOURCE.weight`. The first source keeps its configured weight: only ratios of weights change a merged list.
"""

import hashlib
import json
from typing import Any

from vitrina.recipes import build
from vitrina.recipes.config import ModelConfig, PipelineConfig, SourceConfig
from vitrina.recipes.spaces import SPACES, Real, Space, inside

WEIGHT = "weight"
WEIGHTS = Real(0.05, 20.0, log=True)
"""Where weights of sources are looked for."""


def space(model: ModelConfig) -> Space:
    """Everything that can be searched in a model; empty where there is nothing."""
    if model.kind is not None:
        return SPACES.get(model.kind, {})
    found: Space = {}
    for at, source in enumerate(model.sources):
        name = _name(source)
        found |= {f"{name}.{parameter}": part for parameter, part in SPACES.get(source.kind, {}).items()}
        if at:
            found[f"{name}.{WEIGHT}"] = WEIGHTS
    return found


def start(model: ModelConfig) -> dict[str, Any]:
    """The configured values, where the space holds them."""
    if model.kind is not None:
        configured = build.parameter_values(model.kind, model.params)
    else:
        configured = {}
        for source in model.sources:
            values = build.parameter_values(source.kind, source.params) | {WEIGHT: source.weight}
            configured |= {f"{_name(source)}.{name}": value for name, value in values.items()}
    return {
        name: configured[name]
        for name, part in space(model).items()
        if name in configured and inside(configured[name], part)
    }


def applied(model: ModelConfig, values: dict[str, Any]) -> ModelConfig:
    """The model with values of its space put in, and everything else as it was."""
    if model.kind is not None:
        return model.model_copy(update={"params": model.params | values})
    sources = []
    for source in model.sources:
        prefix = f"{_name(source)}."
        mine = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
        weight = mine.pop(WEIGHT, source.weight)
        sources.append(source.model_copy(update={"params": source.params | mine, "weight": weight}))
    return model.model_copy(update={"sources": sources})


def identity(model: ModelConfig, pipeline: PipelineConfig) -> str:
    """A hash of everything but what is searched: trials of two models with one identity can be compared."""
    names = [*space(model)]
    fixed = applied(model, dict.fromkeys(names))
    about = [fixed.model_dump(exclude={"name"}), pipeline.model_dump()]
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:8]


def _name(source: SourceConfig) -> str:
    return source.name or source.kind
