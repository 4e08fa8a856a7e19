"""Search parameters on the validation window; what is held out for the final measurement is never looked at.

    out/tune/
      trials.db          every trial (SQLite); an interrupted search goes on from it
      trials.parquet     model, trial, value, state, params, seconds
      tune.json          the best of each model
      tuned.toml         the configuration with the best parameters, for `vitrina evaluate`

The validation window ends where training does; models learn from what lies before it. The first trial of a
model is what the configuration says, so that the best is never worse than where one began, on that window.
"""

import json
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from vitrina.errors import ConfigError, VitrinaError
from vitrina.evaluate import Evaluator
from vitrina.metrics import metric as parse_metric
from vitrina.recipes import build, toml
from vitrina.recipes.config import ModelConfig, RunConfig
from vitrina.recipes.data import Data, make_split, open_data, training_histories
from vitrina.recipes.fitted import slug
from vitrina.recipes.models import classical_models
from vitrina.recipes.progress import Advance, Reporter, Silent
from vitrina.recipes.settings import applied, identity, space, start
from vitrina.recipes.spaces import SPACES, suggest

FOLDER = "tune"
VALUE, SECONDS, WHY = "value", "seconds", "why"


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What a search found and wrote."""

    folder: Path
    metric: str
    window: str
    """The validation window in one line."""
    best: dict[str, dict[str, Any]]
    """Model -> params (what was searched), value, start (that of what was configured), n_trials, n_failed."""
    trials: pl.DataFrame
    """model, trial, value, state, params (JSON), seconds, why"""
    config_file: Path
    """TOML with the best parameters."""

    def summary(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "folder": str(self.folder),
            "metric": self.metric,
            "window": self.window,
            "best": self.best,
            "n_trials": len(self.trials),
            "config": str(self.config_file),
        }


def tune_run(
    config: RunConfig,
    *,
    models: list[str] | None = None,
    n_trials: int | None = None,
    minutes: float | None = None,
    out: str | Path | None = None,
    fresh: bool = False,
    reporter: Reporter | None = None,
) -> Tuned:
    """Search the parameters of one model after another; of merged sources their weights too.

    Args:
        config: from `load`, `check` or a named recipe.
        models: names; None takes those of `[tune]`, else all that have a search space.
        n_trials: settings for each model, with those of an interrupted search; None takes that of `[tune]`.
        minutes: wall time for each model; None takes that of `[tune]`.
        out: folder to write to; None takes that of the configuration.
        fresh: forget the trials of an earlier search.
        reporter: hears of the progress.

    Raises:
        ModuleNotFoundError: Optuna, of the extra `tune`, is not installed.
        ConfigError: there is nothing to search.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    say = reporter or Silent()
    run_folder = Path(config.out if out is None else out)
    folder = run_folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    chosen = _chosen(config, models)
    with say.step("check the log, split") as advance:
        advance("check the log, split")
        data = open_data(config.data, out=run_folder)
        window = make_split(data.log, config.split, validation=True).tuning()
        rules = build.protocol(config.evaluate, config.evaluate.repeats[0])
        train = training_histories(data, window, run_folder)
        evaluator = Evaluator(split=window, train=train, protocol=rules)
    metric = rules.main if config.tune.metric is None else parse_metric(config.tune.metric).name
    if metric not in {one.name for one in rules.user_metrics}:
        raise ConfigError(
            f"tune.metric {metric!r} is not measured for each user; name one of evaluate.metrics"
        )
    search = _Search(
        config, data, evaluator, metric, n_trials or config.tune.n_trials, minutes or config.tune.minutes
    )
    storage = f"sqlite:///{folder / 'trials.db'}"
    best, frames = {}, []
    with say.step("search", total=search.n_trials * len(chosen)) as advance:
        for model in chosen:
            known = f"{slug(model.label)}-{identity(model, config.pipeline)}-{window.digest[:12]}-{metric}"
            study = _study(storage, known, config.tune.seed, fresh)
            search.run(study, model, advance)
            best[model.label] = _best(study, model)
            frames.append(_trials(study, model))
    return _write(config, folder, metric, window.title, best, pl.concat(frames))


@dataclass
class _Search:
    """The budget and what a trial needs."""

    config: RunConfig
    data: Data
    evaluator: Evaluator
    metric: str
    n_trials: int
    minutes: float | None

    def run(self, study: Any, model: ModelConfig, advance: Advance) -> None:
        """Try settings of one model until its budget is spent."""
        done = len([t for t in study.trials if t.state.is_finished()])
        for _ in range(min(done, self.n_trials)):
            advance(f"{model.label}: read from an earlier search")
        if not study.trials:
            study.enqueue_trial(start(model))

        def objective(trial: Any) -> float:
            wanted = applied(model, suggest(trial, space(model)))
            advance(f"{model.label} {trial.number + 1}/{self.n_trials}")
            began = time.perf_counter()
            try:
                return self.value(wanted)
            except VitrinaError as error:
                trial.set_user_attr(WHY, str(error))
                raise
            finally:
                trial.set_user_attr(SECONDS, time.perf_counter() - began)

        timeout = None if self.minutes is None else self.minutes * 60
        study.optimize(
            objective, n_trials=max(0, self.n_trials - done), timeout=timeout, catch=(VitrinaError,)
        )

    def value(self, model: ModelConfig) -> float:
        """The metric on the validation window."""
        pipeline = build.pipeline(
            model, self.config.pipeline, hide_seen=False, seed=self.config.evaluate.seed
        )
        pipeline.fit(self.evaluator.train, self.data.items, self.data.users)
        run = self.evaluator.run(model.label, pipeline)
        return run.average(self.metric)


def _chosen(config: RunConfig, names: list[str] | None) -> list[ModelConfig]:
    models = config.models or classical_models()
    wanted = names or config.tune.models
    unknown = [name for name in wanted if name not in {model.label for model in models}]
    if unknown:
        raise ConfigError(
            f"no model {unknown[0]!r} in the configuration; it has: {', '.join(m.label for m in models)}"
        )
    chosen = [m for m in models if (m.label in wanted if wanted else space(m))]
    without = [m.label for m in chosen if not space(m)]
    if without:
        raise ConfigError(
            f"{without[0]} has nothing to search; what has: {', '.join(SPACES)}, merged sources"
        )
    if not chosen:
        raise ConfigError(
            "no model of the configuration has anything to search; "
            f"what has: {', '.join(SPACES)}, merged sources"
        )
    return chosen


def _study(storage: str, name: str, seed: int, fresh: bool) -> Any:
    import optuna

    if fresh and name in optuna.get_all_study_names(storage):
        optuna.delete_study(study_name=name, storage=storage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )
        study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials), n_startup_trials=5)
    return study


def _best(study: Any, model: ModelConfig) -> dict[str, Any]:
    finished = [t for t in study.trials if t.value is not None]
    if not finished:
        reasons = {t.user_attrs.get(WHY, "interrupted") for t in study.trials}
        raise VitrinaError(f"no trial of {model.label} succeeded: {'; '.join(sorted(reasons))}")
    best = max(finished, key=lambda t: t.value)
    first = next((t.value for t in finished if t.number == 0), None)
    return {
        "params": best.params,
        "value": best.value,
        "start": first,
        "n_trials": len(study.trials),
        "n_failed": len(study.trials) - len(finished),
    }


def _trials(study: Any, model: ModelConfig) -> pl.DataFrame:
    rows = [
        {
            "model": model.label,
            "trial": t.number,
            VALUE: t.value,
            "state": t.state.name.lower(),
            "params": json.dumps(t.params, sort_keys=True),
            SECONDS: t.user_attrs.get(SECONDS),
            WHY: t.user_attrs.get(WHY),
        }
        for t in study.trials
    ]
    types = {"model": pl.String, "trial": pl.Int64, VALUE: pl.Float64, "state": pl.String}
    return pl.DataFrame(rows, schema=types | {"params": pl.String, SECONDS: pl.Float64, WHY: pl.String})


def _write(
    config: RunConfig, folder: Path, metric: str, window: str, best: dict[str, Any], trials: pl.DataFrame
) -> Tuned:
    models = [
        applied(model, best[model.label]["params"]) if model.label in best else model
        for model in config.models or classical_models()
    ]
    file = folder / "tuned.toml"
    file.write_text(toml.dumps(config.model_copy(update={"models": models})))
    trials.write_parquet(folder / "trials.parquet")
    tuned = Tuned(folder=folder, metric=metric, window=window, best=best, trials=trials, config_file=file)
    (folder / "tune.json").write_text(json.dumps(tuned.summary(), indent=1))
    return tuned
