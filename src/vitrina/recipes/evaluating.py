"""The whole job: log, checks, split, models, leaderboards with intervals, report, lists; all in one folder.

out/
  run.json              what was read, how it was split, who won, what failed
  config.toml           the configuration, in full
  report.html           one self-contained page
  leaderboard.parquet   every view, model and metric, with intervals
  evaluation/VIEW/      per-user values, runs, protocol (`vitrina.evaluate`)
  lists/VIEW/MODEL.parquet   query_id, item_id, source, score, rank
  models/               fitted models, to be reused
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from vitrina.errors import ConfigError, SplitError, VitrinaError
from vitrina.evaluate import Evaluation, Evaluator, Run
from vitrina.log import Histories
from vitrina.recipes import build, fitted, reporting, toml
from vitrina.recipes.config import ModelConfig, RunConfig
from vitrina.recipes.data import Data, make_split, open_data, training_histories
from vitrina.recipes.models import classical_models
from vitrina.recipes.progress import Advance, Reporter, Silent
from vitrina.split import Split

RUN, LEADERBOARD, CONFIG = "run.json", "leaderboard.parquet", "config.toml"


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluated:
    """What an evaluation found and wrote."""

    folder: Path
    config: RunConfig
    data: dict[str, Any]
    split: Split
    views: dict[str, Evaluation]
    """By the name of the view, in the order of the configuration."""
    failures: dict[str, str] = field(default_factory=dict)
    """Models that could not be trained: name -> sentence."""
    skipped: dict[str, str] = field(default_factory=dict)
    """Views in which nobody is left to measure: name -> sentence."""
    reused: tuple[str, ...] = ()
    """Models that an earlier run had trained."""
    made_of: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Sources, parameters and fallback of each model."""

    @property
    def winner(self) -> str:
        """The best model of the first view by its first metric."""
        return next(iter(self.views.values())).models[0]

    @property
    def report(self) -> Path | None:
        """The HTML page, or None where what draws it is not installed."""
        file = self.folder / reporting.REPORT
        return None if reporting.missing() else file

    @property
    def leaderboard(self) -> pl.DataFrame:
        """The leaderboards of all views: view, model, metric, k, mean, ci_low, ci_high, ..."""
        tables = [
            evaluation.leaderboard().select(pl.lit(view).alias("view"), pl.all())
            for view, evaluation in self.views.items()
        ]
        return pl.concat(tables)

    def summary(self) -> dict[str, Any]:
        """JSON values: what `run.json` holds."""
        first = next(iter(self.views.values()))
        return {
            "folder": str(self.folder),
            "winner": self.winner,
            "by": first.protocol.main,
            "config": self.config.model_dump(exclude_none=True),
            "data": self.data,
            "split": {
                "digest": self.split.digest,
                "title": self.split.title,
                "warning": self.split.warning,
                "parts": self.split.describe().to_dicts(),
            },
            "views": {view: _view_summary(evaluation) for view, evaluation in self.views.items()},
            "failures": self.failures,
            "skipped": self.skipped,
            "reused": list(self.reused),
            "models": self.made_of,
            "report": None if self.report is None else str(self.report),
            "versions": first.versions,
        }


def evaluate_run(
    config: RunConfig,
    *,
    out: str | Path | None = None,
    fresh: bool = False,
    reporter: Reporter | None = None,
) -> Evaluated:
    """Do the whole job of a configuration.

    Args:
        config: from `load`, `check` or a named recipe.
        out: folder to write to; None takes that of the configuration.
        fresh: train again what an earlier run in this folder left trained.
        reporter: hears of the progress.

    Raises:
        LogError, SplitError, ConfigError: the log, the split or the configuration is wrong.
        VitrinaError: no model could be trained.
    """
    say = reporter or Silent()
    folder = Path(config.out if out is None else out)
    models = config.models or classical_models()
    with say.step("check the log") as advance:
        advance("check the log")
        data = open_data(config.data, out=folder)
        about = data.about()
    say.say(str(data.log.report))
    with say.step("split, histories") as advance:
        advance("split, histories")
        split = make_split(data.log, config.split)
        train = training_histories(split, folder)
    say.say(f"{split.title}: {split.counts}")
    evaluators, skipped = _evaluators(config, split, train)
    for view, sentence in skipped.items():
        say.say(f"the view {view} is left out: {sentence}")
    if (absent := reporting.missing()) is not None:
        say.say(absent)
    job = _Job(config, folder, data, split, train, evaluators, fresh, skipped)
    with say.step("train and measure", total=sum(job.n_seeds(model) for model in models)) as advance:
        for model in models:
            job.measure(model, advance, say)
    if not any(job.runs.values()):
        raise VitrinaError("no model could be trained: " + "; ".join(job.failures.values()))
    with say.step("intervals, report") as advance:
        advance("intervals, report")
        result = job.result(about)
        write(result)
    return result


def _evaluators(
    config: RunConfig, split: Split, train: Histories
) -> tuple[dict[str, Evaluator], dict[str, str]]:
    """What measures each view, and the views in which nobody is left to measure."""
    made: dict[str, Evaluator] = {}
    skipped: dict[str, str] = {}
    for view in config.evaluate.repeats:
        try:
            made[view] = Evaluator(split=split, train=train, protocol=build.protocol(config.evaluate, view))
        except SplitError as error:
            skipped[view] = str(error)
    if not made:
        raise SplitError("; ".join(skipped.values()))
    return made, skipped


@dataclass
class _Job:
    """One evaluation in the making."""

    config: RunConfig
    folder: Path
    data: Data
    split: Split
    train: Histories
    evaluators: Mapping[str, Evaluator]
    fresh: bool
    skipped: Mapping[str, str]
    runs: dict[str, list[Run]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    made_of: dict[str, dict[str, Any]] = field(default_factory=dict)

    def n_seeds(self, model: ModelConfig) -> int:
        """How often a model is trained."""
        return self.config.evaluate.n_seeds if build.is_random(model) else 1

    def measure(self, model: ModelConfig, advance: Advance, say: Reporter) -> None:
        """Train a model with each seed and measure it in every view; if it fails, the others go on."""
        first = self.config.evaluate.seed
        for seed in range(first, first + self.n_seeds(model)):
            advance(f"train {model.label}")
            try:
                self._one(model, seed, say)
            except VitrinaError as error:
                self.failures[model.label] = f"{model.label}: {error}"
                say.say(f"left out: {model.label}: {error}")
                return

    def _one(self, model: ModelConfig, seed: int, say: Reporter) -> None:
        pipeline = build.pipeline(model, self.config.pipeline, hide_seen=False, seed=seed)
        made = fitted.fit(
            pipeline,
            self.train,
            self.data.items,
            folder=self.folder / "models" if self.config.evaluate.keep_models else None,
            name=model.label,
            data=self.split.digest,
            fresh=self.fresh,
            heard=say.note,
        )
        self.made_of[model.label] = fitted.describe(made.pipeline)
        if made.reused:
            self.reused.append(model.label)
        first = self.config.evaluate.seed
        for view, evaluator in self.evaluators.items():
            lists = self.folder / "lists" / view / f"{fitted.slug(model.label)}.parquet"
            run = evaluator.run(
                model.label,
                made.pipeline,
                seed=seed,
                fit_s=made.fit_s,
                lists_path=lists if seed == first else None,
            )
            self.runs.setdefault(view, []).append(run)

    def result(self, about: dict[str, Any]) -> Evaluated:
        """What was found."""
        n = self.config.evaluate.n_bootstrap
        views = {
            view: replace(Evaluation.of(evaluator, self._complete(self.runs[view])), n_resamples=n)
            for view, evaluator in self.evaluators.items()
        }
        return Evaluated(
            folder=self.folder,
            config=self.config,
            data=about,
            split=self.split,
            views=views,
            failures=self.failures,
            skipped=dict(self.skipped),
            reused=tuple(dict.fromkeys(self.reused)),
            made_of={name: made for name, made in self.made_of.items() if name not in self.failures},
        )

    def _complete(self, runs: list[Run]) -> list[Run]:
        """Runs of models that finished with every seed."""
        return [run for run in runs if run.model not in self.failures]


def write(result: Evaluated) -> None:
    """Write the folder of an evaluation; `run.json` comes last, so a folder that has it is complete."""
    folder = result.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN).unlink(missing_ok=True)
        result.leaderboard.write_parquet(folder / LEADERBOARD)
        for view, evaluation in result.views.items():
            evaluation.save(folder / "evaluation" / view)
        if result.report is not None:
            write_page(result, result.report)
        summary = result.summary()
        (folder / CONFIG).write_text(toml.dumps(result.config))
        (folder / RUN).write_text(json.dumps(summary, indent=1, default=str))
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror or error}); free space or choose another folder"
        ) from error


def write_page(result: Evaluated, path: Path) -> None:
    """Write the report of an evaluation."""
    reporting.write(
        path,
        result.views,
        about=result.data,
        models=result.made_of,
        failures=result.failures,
        search_folders=(result.folder, Path(result.config.out)),
    )


def report_run(folder: str | Path, *, out: str | Path | None = None) -> Path:
    """Write the report of a finished evaluation again, from its folder.

    Args:
        folder: what `evaluate_run` wrote.
        out: HTML file; None takes `report.html` in the folder.

    Raises:
        ConfigError: the folder holds no finished evaluation.
        ArtifactError: it is damaged.
    """
    summary = read_summary(folder)
    views = {view: Evaluation.load(Path(folder) / "evaluation" / view) for view in summary["views"]}
    target = Path(folder) / reporting.REPORT if out is None else Path(out)
    reporting.write(
        target,
        views,
        about=summary["data"],
        models=summary["models"],
        failures=summary["failures"],
        search_folders=(Path(folder), Path(summary["config"]["out"])),
    )
    return target


def read_summary(folder: str | Path) -> dict[str, Any]:
    """What `run.json` of a finished evaluation holds.

    Raises:
        ConfigError: the folder holds no finished evaluation.
    """
    file = Path(folder) / RUN
    if not file.is_file():
        raise ConfigError(f"{folder} holds no finished evaluation ({RUN} is missing); run: vitrina evaluate")
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON ({error}); run vitrina evaluate again") from error
    return found


def _view_summary(evaluation: Evaluation) -> dict[str, Any]:
    return {
        "title": evaluation.protocol.title,
        "models": evaluation.models,
        "counts": evaluation.counts,
        "dropped": [{"what": d.what, "n": d.n, "why": d.why} for d in evaluation.dropped],
        "ceiling": evaluation.ceiling,
        "leaderboard": evaluation.leaderboard().to_dicts(),
        "comparisons": evaluation.comparisons().to_dicts(),
        "timings": evaluation.timings().to_dicts(),
        "notes": evaluation.notes(),
    }
