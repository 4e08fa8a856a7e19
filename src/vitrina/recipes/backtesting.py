"""The same job on the windows before: is a model better every time, or was it that week?"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from vitrina.errors import SplitError
from vitrina.evaluate import Evaluation, backtest
from vitrina.recipes.config import ModelConfig, RunConfig
from vitrina.recipes.data import Data, training_histories
from vitrina.recipes.job import Job, evaluators
from vitrina.recipes.progress import Reporter
from vitrina.split import Split, written

FOLDER, TABLE = "backtest", "backtest.parquet"

Windows = dict[str, list[Evaluation]]
"""View -> evaluations of the test windows, oldest first, all with the same models."""


def measure_windows(
    config: RunConfig,
    splits: Sequence[Split],
    *,
    data: Data,
    folder: Path,
    models: Sequence[ModelConfig],
    fresh: bool,
    say: Reporter,
) -> tuple[list[dict[str, Evaluation]], dict[str, str]]:
    """Train and measure every model on each of some earlier windows.

    Args:
        config: of the run.
        splits: oldest first.
        data: the log that was split.
        folder: of the run; fitted models are kept there as those of the run are.
        models: to train.
        fresh: train again what an earlier run left trained.
        say: hears of the progress.

    Returns:
        The views of each window, and "MODEL, window from MOMENT" -> why it is missing there.
    """
    found: list[dict[str, Evaluation]] = []
    failures: dict[str, str] = {}
    for at, split in enumerate(splits):
        window = f"window from {written(split.cut_us or 0)}"
        train = training_histories(data, split, folder)
        try:
            measuring, skipped = evaluators(config, split, train)
        except SplitError as error:
            failures[window] = str(error)
            say.say(f"{window} is left out: {error}")
            continue
        job = Job(config, folder, data, split, train, measuring, fresh, skipped, keeps_lists=False)
        name = f"backtest {at + 1}/{len(splits)}"
        with say.step(name, total=sum(job.n_seeds(model) for model in models)) as advance:
            for model in models:
                job.measure(model, advance, say)
        failures |= {f"{model}, {window}": why for model, why in job.failures.items()}
        failures |= {f"view {view}, {window}": why for view, why in skipped.items()}
        if any(len(runs) > 0 for runs in job.runs.values()) and len(job.failures) < len(models):
            found.append(job.views())
    return found, failures


def over_windows(last: Mapping[str, Evaluation], earlier: Sequence[Mapping[str, Evaluation]]) -> Windows:
    """The windows of each view, the last among them, with the models that every window has."""
    if not earlier:
        return {}
    found: Windows = {}
    for view, evaluation in last.items():
        windows = [one[view] for one in earlier if view in one] + [evaluation]
        common = set.intersection(*(set(window.models) for window in windows))
        if len(windows) > 1 and common:
            found[view] = [
                replace(window, runs=tuple(run for run in window.runs if run.model in common))
                for window in windows
            ]
    return found


def table(windows: Windows) -> pl.DataFrame | None:
    """`vitrina.evaluate.backtest` of every view, with the view and the first moments of its windows."""
    frames = []
    for view, found in windows.items():
        combined = backtest(found)
        cuts = pl.Series("windows", [[cut(window) for window in found]] * len(combined))
        frames.append(combined.select(pl.lit(view).alias("view"), pl.all(), cuts))
    return pl.concat(frames) if frames else None


def backtest_summary(windows: Windows, n_earlier: int, failures: Mapping[str, str]) -> dict[str, Any]:
    """JSON values: windows and table of each view."""
    views = {
        view: {"windows": [cut(window) for window in found], "table": backtest(found).to_dicts()}
        for view, found in windows.items()
    }
    return {"n_earlier": n_earlier, "views": views, "failures": dict(failures)}


def save_windows(windows: Windows, earlier: Sequence[Mapping[str, Evaluation]], folder: Path) -> None:
    """Write the windows before the last into the run's folder, and the table over all of them."""
    found = table(windows)
    if found is None:
        (folder / TABLE).unlink(missing_ok=True)
    else:
        found.write_parquet(folder / TABLE)
    for at, views in enumerate(earlier):
        for view, evaluation in views.items():
            evaluation.save(folder / FOLDER / str(at) / view)


def load_windows(folder: str | Path, n_earlier: int) -> list[dict[str, Evaluation]]:
    """What `save_windows` wrote.

    Raises:
        ArtifactError: it is damaged.
    """
    homes = [Path(folder) / FOLDER / str(at) for at in range(n_earlier)]
    return [{view.name: Evaluation.load(view) for view in sorted(home.iterdir())} for home in homes]


def cut(window: Evaluation) -> str:
    """First moment of a test window."""
    since = [part.since_us for part in window.split.parts if part.name == "test"]
    return "" if not since or since[0] is None else written(since[0])
