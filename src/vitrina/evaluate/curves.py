"""What models lost while they learned: curves of the sources of a fitted pipeline, their part of a page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import polars as pl
from markupsafe import Markup

from vitrina.evaluate.figures import Figures
from vitrina.pipeline import Pipeline

KEPT = ("epoch", "loss", "validation", "lr", "seconds")
"""Of an epoch; the other figures of a curve belong to `vitrina.evaluate.popularity`."""

PARTS = {"curve_": "training", "tuning_curve_": "fine-tuning"}
"""Attributes of a fitted model that hold a curve, and what was done while it was taken."""


@dataclass(frozen=True)
class TrainingCurve:
    """One training, epoch by epoch."""

    source: str
    """Name of the source that was trained."""
    part: str
    """"training" or "fine-tuning"."""
    epochs: tuple[dict[str, float], ...]
    """epoch, loss, lr, seconds, and validation where there is one."""

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "TrainingCurve":
        """From what `dataclasses.asdict` and JSON made of it."""
        return cls(**{**saved, "epochs": tuple(saved["epochs"])})


def curves_of(pipeline: Pipeline) -> tuple[TrainingCurve, ...]:
    """The curves that the models of a fitted pipeline kept; nothing where none learns by epochs."""
    found = []
    for source in pipeline.sources:
        for attribute, part in PARTS.items():
            epochs = _epochs(getattr(source.generator, "__dict__", {}).get(attribute))
            found += [TrainingCurve(source.name, part, epochs)] if epochs else []
    return tuple(found)


def curves_view(curves: Mapping[str, tuple[TrainingCurve, ...]], figures: Figures) -> list[dict[str, Any]]:
    """What the page shows of each curve; a source that was trained once for several models is shown once."""
    owners: list[tuple[TrainingCurve, list[str]]] = []
    pairs = [(model, curve) for model, found in curves.items() for curve in found]
    for model, curve in sorted(pairs, key=lambda pair: pair[1].source != pair[0]):
        models = next((models for known, models in owners if known.epochs == curve.epochs), None)
        if models is None:
            owners.append((curve, [model]))
        else:
            models.append(model)
    return [_shown(models, curve, figures) for curve, models in owners]


def _shown(models: list[str], curve: TrainingCurve, figures: Figures) -> dict[str, Any]:
    model, *others = models
    validated = [epoch for epoch in curve.epochs if "validation" in epoch]
    names = ["loss", "validation"] if validated else ["loss"]
    return {
        "title": model if curve.source == model else f"{model}: {curve.source}",
        "others": others,
        "part": curve.part,
        "colour": figures.colour[model],
        "n_epochs": len(curve.epochs),
        "seconds": sum(epoch.get("seconds", 0.0) for epoch in curve.epochs),
        "first": curve.epochs[0]["loss"],
        "last": curve.epochs[-1]["loss"],
        "best": max(validated, key=lambda epoch: epoch["validation"], default=None),
        "charts": [_drawn(model, curve, name, figures) for name in names],
    }


def _drawn(model: str, curve: TrainingCurve, name: str, figures: Figures) -> Markup:
    rows = [
        {"model": model, "epoch": epoch["epoch"], "value": epoch[name]}
        for epoch in curve.epochs
        if name in epoch
    ]
    svg = figures.training(pl.DataFrame(rows), name)
    return Markup(svg)  # noqa: S704 - SVG that the drawing library made; it escapes the texts that we gave it


def _epochs(curve: Any) -> tuple[dict[str, float], ...]:
    if not isinstance(curve, pl.DataFrame) or not {"epoch", "loss"} <= set(curve.columns):
        return ()
    rows = curve.select([name for name in KEPT if name in curve.columns]).to_dicts()
    return tuple({name: float(value) for name, value in row.items() if value is not None} for row in rows)
