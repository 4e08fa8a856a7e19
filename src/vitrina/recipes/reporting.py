"""The report of a run: what was measured, what was searched before, what each model was made of."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl

from vitrina.evaluate import Evaluation
from vitrina.evaluate.report import write_report

REPORT = "report.html"
TRIALS = Path("tune") / "trials.parquet"
NEEDED = {"altair": "altair", "vl_convert": "vl-convert-python"}


def missing() -> str | None:
    """One sentence where the packages that draw are not installed."""
    absent = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if not absent:
        return None
    return f"no report is written: {absent[0]} is not installed; run: pip install 'vitrina[report]'"


def write(
    path: Path,
    views: Mapping[str, Evaluation],
    *,
    about: Mapping[str, Any],
    models: Mapping[str, Mapping[str, Any]],
    failures: Mapping[str, str],
    windows: Mapping[str, Sequence[Evaluation]] | None = None,
    search_folders: tuple[Path, ...] = (),
) -> None:
    """Write the page.

    Args:
        path: HTML file.
        views: what was measured, by the name of the view.
        about: facts about the log.
        models: what each model was made of, by name.
        failures: models that could not be trained, and why.
        windows: of a backtest, the evaluations of each view, oldest first.
        search_folders: where a search may have left its trials.
    """
    found = [folder / TRIALS for folder in search_folders if (folder / TRIALS).is_file()]
    write_report(
        {evaluation.protocol.title: evaluation for evaluation in views.values()},
        path,
        title=f"{about['name']}: {len(models)} models",
        data=about,
        trials=pl.read_parquet(found[0]) if found else None,
        cards=[{"model": name, **card} for name, card in models.items()],
        failures=failures,
        windows={views[view].protocol.title: found for view, found in (windows or {}).items()},
    )
