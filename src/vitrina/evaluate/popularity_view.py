"""What the report shows of vectors and popularity: a table of figures and servings, two charts."""

from dataclasses import asdict
from typing import Any

import numpy as np
import polars as pl
from markupsafe import Markup

from vitrina.evaluate.evaluation import Evaluation
from vitrina.evaluate.figures import Figures
from vitrina.evaluate.popularity import PopularityDiagnostics


def vectors_view(evaluation: Evaluation, figures: Figures) -> dict[str, Any] | None:
    """Everything the page shows of the models with vectors; None where no model has any."""
    found = evaluation.popularity()
    if not found:
        return None
    one = next(iter(found.values()))
    return {
        "k": one.k,
        "n_users": one.n_users,
        "groups": one.group_items,
        "rows": [_row(model, entry, figures) for model, entry in found.items()],
        "norms": _drawn(figures.norms(pl.concat([_norms(model, entry) for model, entry in found.items()]))),
        "curve": _curve(found, figures),
    }


def _row(model: str, entry: PopularityDiagnostics, figures: Figures) -> dict[str, Any]:
    return {
        "model": model,
        "colour": figures.colour[model],
        "about": asdict(entry),
        "servings": [asdict(serving) | {"lift": serving.lift} for serving in entry.servings],
    }


def _norms(model: str, entry: PopularityDiagnostics) -> pl.DataFrame:
    """model, decile and mean length over that of all items."""
    deciles = entry.decile_frame()
    mean = float(np.average(deciles["norm"].to_numpy(), weights=deciles["n_items"].to_numpy()))
    return deciles.select(
        pl.lit(model).alias("model"), "decile", relative=pl.col("norm") / (mean if mean > 0 else 1.0)
    )


def _curve(found: dict[str, PopularityDiagnostics], figures: Figures) -> Markup | None:
    """Correlation by epoch, of the models whose training kept it."""
    frames = [
        entry.epoch_frame().select(pl.lit(model).alias("model"), "epoch", "count_norm")
        for model, entry in found.items()
        if entry.epochs
    ]
    return _drawn(figures.norm_curve(pl.concat(frames).drop_nulls())) if frames else None


def _drawn(svg: str) -> Markup:
    """SVG that the drawing library made; it escapes the texts that we gave it."""
    return Markup(svg)  # noqa: S704
