"""The whole job: log, checks, split, models, leaderboards with intervals, report, lists; all in one folder.

out/
  run.json              what was read, how it was split, who won, what failed
  config.toml           the configuration, in full
  report.html           one self-contained page
  leaderboard.parquet   every view, model and metric, with intervals
  evaluation/VIEW/      per-user values, runs, protocol (`vitrina.evaluate`)
  backtest.parquet      every view, model and metric over the test windows, if there are several
  backtest/N/VIEW/      as evaluation/VIEW, of the windows before the last, oldest first
  lists/VIEW/MODEL.parquet   query_id, item_id, source, score, rank
  models/               fitted models, to be reused
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import polars as pl

from vitrina.errors import ConfigError, VitrinaError
from vitrina.evaluate import Evaluation
from vitrina.nn.session import session
from vitrina.recipes import reporting, toml
from vitrina.recipes.backtesting import (
    Windows,
    backtest_summary,
    load_windows,
    measure_windows,
    over_windows,
    save_windows,
)
from vitrina.recipes.config import RunConfig
from vitrina.recipes.data import make_split, open_data, training_histories
from vitrina.recipes.job import Job, evaluators
from vitrina.recipes.models import classical_models
from vitrina.recipes.progress import Reporter, Silent
from vitrina.recipes.toml import check
from vitrina.recipes.tracking import check_tracker
from vitrina.split import Split, rolled

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
    earlier: list[dict[str, Evaluation]] = field(default_factory=list)
    """Of a backtest: the same views on the windows before, oldest first."""
    failures: dict[str, str] = field(default_factory=dict)
    """Models that could not be trained: name -> sentence."""
    window_failures: dict[str, str] = field(default_factory=dict)
    """What is missing from an earlier window: "MODEL, window from MOMENT" -> sentence."""
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

    @property
    def windows(self) -> Windows:
        """Of a backtest: the evaluations of each view, oldest first; empty for a single window."""
        return over_windows(self.views, self.earlier)

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
            "backtest": backtest_summary(self.windows, len(self.earlier), self.window_failures),
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
    windows: int | None = None,
    fresh: bool = False,
    other_schedule: bool = False,
    reporter: Reporter | None = None,
) -> Evaluated:
    """Do the whole job of a configuration.

    Args:
        config: from `load`, `check` or a named recipe.
        out: folder to write to; None takes that of the configuration.
        windows: test windows of a backtest; None takes what the configuration says.
        fresh: train again what an earlier run in this folder left trained.
        other_schedule: go on with trainings that were stopped though their epochs, rates or clipping were
            others, as after a loss that was NaN.
        reporter: hears of the progress.

    Raises:
        LogError, SplitError, ConfigError: the log, the split or the configuration is wrong.
        VitrinaError: no model could be trained.
    """
    say = reporter or Silent()
    if windows is not None:
        config = check(config.model_dump() | {"split": config.split.model_dump() | {"windows": windows}})
    check_tracker(config.training)
    folder = _made(Path(config.out if out is None else out))
    models = config.models or classical_models()
    with say.step("check the log") as advance:
        advance("check the log")
        data = open_data(config.data, out=folder)
        about = data.about()
    say.say(str(data.log.report))
    with say.step("split, histories") as advance:
        advance("split, histories")
        split = make_split(data.log, config.split)
        older = rolled(data.log, split, config.split.windows)[:-1] if config.split.windows > 1 else []
        train = training_histories(data, split, folder)
    say.say(f"{split.title}: {split.counts}")
    measuring, skipped = evaluators(config, split, train)
    for view, sentence in skipped.items():
        say.say(f"the view {view} is left out: {sentence}")
    if (absent := reporting.missing()) is not None:
        say.say(absent)
    job = Job(config, folder, data, split, train, measuring, fresh, skipped)
    with session(other_schedule=other_schedule or None):
        with say.step("train and measure", total=sum(job.n_seeds(model) for model in models)) as advance:
            for model in models:
                job.measure(model, advance, say)
        if not any(job.runs.values()):
            raise VitrinaError("no model could be trained: " + "; ".join(job.failures.values()))
        earlier, window_failures = measure_windows(
            config, older, data=data, folder=folder, models=models, fresh=fresh, say=say
        )
    with say.step("intervals, report") as advance:
        advance("intervals, report")
        views = job.views()
        result = Evaluated(
            folder=folder,
            config=config,
            data=about,
            split=split,
            views=views,
            earlier=earlier,
            failures=job.failures,
            window_failures=window_failures,
            skipped=dict(skipped),
            reused=tuple(dict.fromkeys(job.reused)),
            made_of={name: made for name, made in job.made_of.items() if name not in job.failures},
        )
        write(result)
    return result


def _made(folder: Path) -> Path:
    """The folder of a run, there and writable before an hour is spent on what it shall hold."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be written ({error.strerror or error}); free space or choose another folder"
        ) from error


def write(result: Evaluated) -> None:
    """Write the folder of an evaluation; `run.json` comes last, so a folder that has it is complete."""
    folder = result.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RUN).unlink(missing_ok=True)
        result.leaderboard.write_parquet(folder / LEADERBOARD)
        for view, evaluation in result.views.items():
            evaluation.save(folder / "evaluation" / view)
        save_windows(result.windows, result.earlier, folder)
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
        failures=result.failures | result.window_failures,
        windows=result.windows,
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
        failures=summary["failures"] | summary["backtest"]["failures"],
        windows=over_windows(views, load_windows(folder, summary["backtest"]["n_earlier"])),
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
