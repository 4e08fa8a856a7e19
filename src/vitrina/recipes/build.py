"""From a model's configuration to a `Pipeline`, with its parameters checked before any data is read."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from vitrina.ann import INDEXES, Index
from vitrina.candidates import CANDIDATES
from vitrina.errors import ConfigError, InputError
from vitrina.evaluate import Protocol
from vitrina.pipeline import CandidateGenerator, Pipeline, Source
from vitrina.policies import POLICIES, Policy, Unseen
from vitrina.recipes.config import (
    EvaluateConfig,
    FallbackConfig,
    IndexConfig,
    ModelConfig,
    PipelineConfig,
    PolicyConfig,
    RunConfig,
    SourceConfig,
)


def generator(kind: str, params: dict[str, Any], *, seed: int | None = None) -> CandidateGenerator:
    """An unfitted candidate generator.

    Args:
        kind: name of its class in `vitrina.candidates`.
        params: its parameters.
        seed: given to a model that has a `seed` which `params` does not set.

    Raises:
        ConfigError: there is no such class, no such parameter, or the value has the wrong type.
    """
    cls = _known(kind, CANDIDATES, "model")
    given = dict(params)
    if seed is not None and "seed" in parameters(cls):
        given.setdefault("seed", seed)
    made: CandidateGenerator = cls(**_checked(kind, cls, given))
    return made


def parameter_values(kind: str, params: dict[str, Any]) -> dict[str, Any]:
    """The given parameters of a model, and the defaults of the others."""
    made = CANDIDATES[kind](**_checked(kind, CANDIDATES[kind], params))
    return made.params()


def is_random(model: ModelConfig) -> bool:
    """Whether the model has a seed that its configuration leaves open."""
    parts = [(s.kind, s.params) for s in model.sources] or [(str(model.kind), model.params)]
    return any("seed" in parameters(CANDIDATES[kind]) and "seed" not in params for kind, params in parts)


def parameters(cls: type[Any]) -> list[str]:
    """Names of the parameters of a model or a policy."""
    return [f.name for f in fields(cls) if f.init]


def policy(entry: PolicyConfig) -> Policy:
    """A policy out of its configuration.

    Raises:
        ConfigError: there is no such policy, no such parameter, or the value has the wrong type.
    """
    cls = _known(entry.kind, POLICIES, "policy")
    made: Policy = cls(**_checked(entry.kind, cls, entry.params))
    return made


def index(entry: IndexConfig | None) -> Index | None:
    """An empty index out of its configuration, or None.

    Raises:
        ConfigError: there is no such index, no such parameter, the value has the wrong type, or it is a
        secret, which a configuration would copy into the folder of every run.
    """
    if entry is None:
        return None
    cls = _known(entry.kind, INDEXES, "index")
    secret = [f.name for f in fields(cls) if f.init and not f.repr and f.name in entry.params]
    if secret:
        raise ConfigError(
            f"{entry.kind}.{secret[0]} may hold a password, and every run copies its configuration; "
            "set the environment instead (PGHOST, PGUSER, PGPASSWORD), or build the pipeline in Python"
        )
    made: Index = cls(**_checked(entry.kind, cls, entry.params))
    return made


def pipeline(model: ModelConfig, shared: PipelineConfig, *, hide_seen: bool, seed: int = 0) -> Pipeline:
    """An unfitted pipeline: the model's sources, the policies of the run and its own, the fallback.

    Args:
        model: one entry of `[[models]]`.
        shared: `[pipeline]`.
        hide_seen: adds `Unseen()` unless the policies hold one.
        seed: given to models with randomness.
    """
    if model.sources:
        sources = [
            Source(
                generator=generator(s.kind, s.params, seed=seed),
                name=s.name or s.kind,
                k=s.k,
                weight=s.weight,
                budget_ms=s.budget_ms,
                index=index(s.index),
            )
            for s in model.sources
        ]
    else:
        made = generator(str(model.kind), model.params, seed=seed)
        one = Source(generator=made, name=str(model.kind), k=shared.k_sources, index=index(model.index))
        sources = [one]
    policies = [policy(entry) for entry in (*shared.policies, *model.policies)]
    if hide_seen and not any(isinstance(one, Unseen) for one in policies):
        policies.append(Unseen())
    chosen = shared.fallback if model.fallback is None else model.fallback
    fallback = (
        generator(chosen.kind, chosen.params, seed=seed) if isinstance(chosen, FallbackConfig) else None
    )
    return Pipeline(sources=sources, policies=policies, fallback=fallback)


def protocol(config: EvaluateConfig, view: str) -> Protocol:
    """The rules of one view of `[evaluate]`.

    Raises:
        ConfigError: a metric does not exist or is deeper than the lists.
    """
    rules: dict[str, Any] = {"k": config.k, "users": config.users, "repeats": view}
    if config.metrics is not None:
        rules["metrics"] = tuple(config.metrics)
    return Protocol(**rules)


def check_parts(config: RunConfig, *, name: str = "the configuration") -> None:
    """Build everything once, unfitted, so that a typo is found before an hour of training.

    Raises:
        ConfigError: names the key.
    """
    try:
        for view in config.evaluate.repeats:
            protocol(config.evaluate, view)
    except InputError as error:
        raise ConfigError(f"{name}: evaluate: {error}") from error
    for where, part in _parts(config):
        try:
            if isinstance(part, PolicyConfig):
                policy(part)
            else:
                generator(part.kind, part.params)
        except InputError as error:
            raise ConfigError(f"{name}: {where}: {error}") from error
    for at, model in enumerate(config.models):
        try:
            pipeline(model, config.pipeline, hide_seen=False)
        except InputError as error:
            raise ConfigError(f"{name}: models[{at}] ({model.label}): {error}") from error
    labels = [model.label for model in config.models]
    if labels:
        wanted = [("serve.model", config.serve.model)] + [("tune.models", one) for one in config.tune.models]
        for key, label in wanted:
            if label is not None and label not in labels:
                raise ConfigError(f"{name}: {key} {label!r} is not among the models: {', '.join(labels)}")


def _parts(config: RunConfig) -> Iterable[tuple[str, PolicyConfig | SourceConfig | FallbackConfig]]:
    yield from ((f"pipeline.policies[{at}]", one) for at, one in enumerate(config.pipeline.policies))
    if isinstance(config.pipeline.fallback, FallbackConfig):
        yield "pipeline.fallback", config.pipeline.fallback
    for at, model in enumerate(config.models):
        if model.kind is not None:
            yield f"models[{at}]", SourceConfig(kind=model.kind, params=model.params)
        yield from ((f"models[{at}].sources[{s}]", one) for s, one in enumerate(model.sources))
        yield from ((f"models[{at}].policies[{p}]", one) for p, one in enumerate(model.policies))
        if isinstance(model.fallback, FallbackConfig):
            yield f"models[{at}].fallback", model.fallback


def _known(kind: str, known: Mapping[str, Any], what: str) -> type[Any]:
    if kind in known:
        return known[kind]  # type: ignore[no-any-return]
    close = difflib.get_close_matches(kind, known, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ConfigError(f"there is no {what} {kind!r}{hint}; there is: {', '.join(known)}")


def _checked(kind: str, cls: type[Any], params: dict[str, Any]) -> dict[str, Any]:
    """The parameters, if the class has them and they have its types."""
    hints = get_type_hints(cls)
    names = parameters(cls)
    unknown = [name for name in params if name not in names]
    if unknown:
        close = difflib.get_close_matches(unknown[0], names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(
            f"{kind} has no parameter {unknown[0]!r}{hint}; it has: {', '.join(names) or 'none'}"
        )
    shape: Any = {name: (hints[name], ...) for name in params}
    model: type[BaseModel] = create_model(kind, __config__=ConfigDict(arbitrary_types_allowed=True), **shape)
    try:
        checked = model.model_validate(params)
    except ValidationError as error:
        one = error.errors()[0]
        rule = one["msg"].removeprefix("Input ").removeprefix("should ").replace("should", "must")
        raise ConfigError(f"{kind}.{one['loc'][0]} must {rule}, got {one['input']!r}") from None
    return {name: getattr(checked, name) for name in params}
