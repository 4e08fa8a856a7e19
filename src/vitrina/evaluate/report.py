"""The report: one HTML file that needs nothing else, with charts as inline SVG, for screen and paper."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup

from vitrina.errors import ArtifactError, InputError
from vitrina.evaluate.backtest import backtest
from vitrina.evaluate.evaluation import Evaluation
from vitrina.evaluate.figures import Figures
from vitrina.evaluate.protocol import pretty
from vitrina.evaluate.views import best_so_far, figure, number, shares, view
from vitrina.split import same_split, written

DATE_LENGTH = len("2026-03-01")


def write_report(
    views: Mapping[str, Evaluation],
    path: str | os.PathLike[str],
    *,
    title: str = "Evaluation",
    data: Mapping[str, Any] | None = None,
    windows: Mapping[str, Sequence[Evaluation]] | None = None,
    trials: pl.DataFrame | None = None,
    cards: Sequence[Mapping[str, Any]] = (),
    failures: Mapping[str, str] | None = None,
) -> None:
    """Write a report.

    Args:
        views: evaluations of one split under different protocols, as repeats counted and not; by name.
        path: the file to write.
        title: its heading.
        data: facts about the log, by name; values may be nested.
        windows: evaluations of a backtest by the name of the view, oldest first, for a table over windows.
        trials: what a search tried: model, trial, value and, if there, params.
        cards: model cards, as nested mappings.
        failures: models that could not be measured, and why.

    Raises:
        SplitError: the views were measured on different splits.
        ConfigError: altair or vl-convert-python is not installed (`vitrina[report]`).
        ArtifactError: the file cannot be written.
    """
    if not views:
        raise InputError("a report needs at least one evaluation, got none")
    same_split([evaluation.split.digest for evaluation in views.values()])
    first = next(iter(views.values()))
    models = list(dict.fromkeys(model for evaluation in views.values() for model in evaluation.models))
    tried = [] if trials is None else trials["model"].unique(maintain_order=True).to_list()
    figures = Figures(list(dict.fromkeys([*models, *tried])))
    page = {
        "title": title,
        "views": [view(name, evaluation, figures) for name, evaluation in views.items()],
        "split": first.split,
        "parts": shares(first.split.parts),
        "counts": first.counts,
        "n_items": first.n_items,
        "n_resamples": first.n_resamples,
        "versions": first.versions,
        "data": data or {},
        "windows": [_windows(name, found) for name, found in (windows or {}).items()],
        "trials": None if trials is None else _trials(trials, figures, pretty(first.protocol.main)),
        "cards": cards,
        "failures": failures or {},
    }
    text = _environment().get_template("report.html").render(page)
    try:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise ArtifactError(
            f"{path} could not be written ({reason}); free space or write elsewhere"
        ) from error


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vitrina.evaluate"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = number
    environment.globals["style"] = Markup(  # noqa: S704 - our own file
        (Path(__file__).parent / "templates" / "report.css").read_text(encoding="utf-8")
    )
    return environment


def _windows(name: str, windows: Sequence[Evaluation]) -> dict[str, Any]:
    main = windows[0].protocol.main
    label, _, k = main.partition("@")
    table = backtest(windows).filter((pl.col("metric") == label) & (pl.col("k") == int(k)))
    since = [part.since_us for window in windows for part in window.split.parts if part.name == "test"]
    return {
        "view": name,
        "metric": pretty(main),
        "titles": [window.split.title for window in windows],
        "since": ["" if us is None else written(us)[:DATE_LENGTH] for us in since],
        "rows": table.to_dicts(),
    }


def _trials(trials: pl.DataFrame, figures: Figures, metric: str) -> dict[str, Any]:
    best = best_so_far(trials)
    top = (
        trials.filter(pl.col("value").is_not_null())
        .sort("value", descending=True)
        .group_by("model", maintain_order=True)
    )
    return {
        "chart": figure(figures.trials(best, metric)),
        "n": len(trials),
        "top": top.head(3).to_dicts(),
        "metric": metric,
    }
