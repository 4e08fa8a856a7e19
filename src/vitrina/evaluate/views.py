"""What the template shows of one evaluation: numbers as text, charts as SVG, sentences in words."""

import math
from collections.abc import Sequence
from typing import Any

import polars as pl
from markupsafe import Markup

from vitrina.evaluate.curves import curves_view
from vitrina.evaluate.evaluation import Evaluation
from vitrina.evaluate.figures import Figures
from vitrina.evaluate.popularity_view import vectors_view
from vitrina.evaluate.protocol import pretty
from vitrina.metrics.measure import Accuracy
from vitrina.split import Part, written

SLICES = {
    "history": "by how much the user had done before the cut (training rows)",
    "popularity": "by how often the target had been taken (training rows)",
    "taken before": "by whether the user had taken the target before",
    "organic": "by whether the user found the target alone",
}

MAX_BARS = 60
"""Bars that fit in a chart of slices; above it only the first models are drawn, and the chart says so."""


def view(name: str, evaluation: Evaluation, figures: Figures) -> dict[str, Any]:
    """Everything that the page shows of one evaluation."""
    board = evaluation.leaderboard()
    comparisons = evaluation.comparisons()
    return {
        "name": name,
        "protocol": evaluation.protocol,
        "main": pretty(evaluation.protocol.main),
        "verdict": verdict(evaluation, board, comparisons),
        "board": _board(evaluation, board, figures),
        "accuracy": _accuracy(evaluation),
        "beyond": _beyond(evaluation),
        "ceiling": evaluation.ceiling[evaluation.protocol.main],
        "n_users": len(evaluation.users),
        "dropped": evaluation.dropped,
        "curve": figure(figures.curve(evaluation.curve(), "recall at k")),
        "tradeoff": _tradeoff(evaluation, board, figures),
        "lorenz": figure(figures.lorenz(evaluation.exposure())),
        "exposure_k": evaluation.runs[0].exposure_k,
        "slices": _slices(evaluation, figures),
        "matrix": _matrix(evaluation, comparisons),
        "control": evaluation.control().to_dicts(),
        "timings": evaluation.timings().to_dicts(),
        "sources": _sources(evaluation),
        "notes": evaluation.notes(),
        "vectors": vectors_view(evaluation, figures),
        "training": curves_view(evaluation.training(), figures),
    }


def verdict(evaluation: Evaluation, board: pl.DataFrame, comparisons: pl.DataFrame) -> str:
    """Who leads, by how much, and from whom the leader cannot be told apart."""
    leader = evaluation.models[0]
    main = evaluation.protocol.parsed[0]
    row = board.filter(
        (pl.col("model") == leader) & (pl.col("metric") == main.label) & (pl.col("k") == main.k)
    )
    mean, low, high = row.select("mean", "ci_low", "ci_high").row(0)
    interval = f"95 % interval {number(low)} to {number(high)}"
    said = f"{leader} leads with {pretty(main)} of {number(mean)} ({interval})"
    against = comparisons.filter(pl.col("model_a") == leader)
    if not len(against):
        return said + "; it is the only model."
    close = against.filter(~pl.col("significant"))["model_b"].to_list()
    if not close:
        return said + "; its lead over every other model is significant."
    return said + f"; it cannot be told apart from {', '.join(close)}."


def number(value: float | None) -> str:
    """Three or four digits that matter; a dash for what is not known."""
    if value is None or math.isnan(value):
        return "–"
    if value and abs(value) < 0.0001:
        return f"{value:.1e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4f}" if abs(value) < 1 else f"{value:.2f}"


def shares(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Parts of a split with their share of the rows."""
    total = sum(part.n_rows for part in parts) or 1
    return [
        {
            "name": part.name,
            "n_rows": part.n_rows,
            "frac": part.n_rows / total,
            "since": None if part.since_us is None else written(part.since_us),
            "until": None if part.until_us is None else written(part.until_us),
        }
        for part in parts
    ]


def best_so_far(trials: pl.DataFrame) -> pl.DataFrame:
    """Trials with a value, each with the best value up to it: trial, model, value, best."""
    found = trials.filter(pl.col("value").is_not_null()).sort("model", "trial")
    return found.select("trial", "model", "value").with_columns(best=pl.col("value").cum_max().over("model"))


def figure(svg: str) -> Markup:
    """SVG that the drawing library made; it escapes the texts that we gave it."""
    return Markup(svg)  # noqa: S704


def _board(evaluation: Evaluation, board: pl.DataFrame, figures: Figures) -> list[dict[str, Any]]:
    """Rows of the leaderboard, with the places of mean and interval along a common line in percent."""
    rows: dict[str, dict[str, Any]] = {}
    for entry in board.to_dicts():
        rows.setdefault(entry["model"], {})[f"{entry['metric']}@{entry['k']}"] = entry
    main = evaluation.protocol.main
    most = max(row[main]["ci_high"] for row in rows.values()) or 1.0
    fit_s = {t["model"]: t["fit_s"] for t in evaluation.timings().to_dicts()}
    return [
        {
            "model": model,
            "colour": figures.colour[model],
            "main": row[main],
            "at": {part: 100 * row[main][part] / most for part in ("mean", "ci_low", "ci_high")},
            "cells": row,
            "fit_s": fit_s[model],
            "notes": evaluation.notes().get(model, []),
        }
        for model, row in rows.items()
    ]


def _accuracy(evaluation: Evaluation) -> list[tuple[str, str]]:
    metrics = [m for m in evaluation.protocol.parsed[1:] if isinstance(m, Accuracy)]
    return [(m.name, pretty(m)) for m in metrics]


def _beyond(evaluation: Evaluation) -> list[tuple[str, str]]:
    metrics = [m for m in evaluation.protocol.parsed if not isinstance(m, Accuracy)]
    return [(m.name, pretty(m)) for m in metrics]


def _tradeoff(evaluation: Evaluation, board: pl.DataFrame, figures: Figures) -> Markup | None:
    main = evaluation.protocol.parsed[0]
    is_main = (pl.col("metric") == main.label) & (pl.col("k") == main.k)
    coverage = board.filter(pl.col("metric") == "coverage").group_by("model", maintain_order=True).first()
    if not len(coverage):
        return None
    joined = (
        board.filter(is_main)
        .select("model", "ci_low", "ci_high", accuracy="mean")
        .join(coverage.select("model", coverage="mean"), on="model")
    )
    return figure(figures.tradeoff(joined, pretty(main), f"coverage@{coverage['k'][0]}"))


def _slices(evaluation: Evaluation, figures: Figures) -> list[dict[str, Any]]:
    main = evaluation.protocol.parsed[0]
    table = evaluation.slices().filter((pl.col("metric") == main.label) & (pl.col("k") == main.k))
    shown = []
    for by in table["by"].unique(maintain_order=True).to_list():
        part = table.filter(pl.col("by") == by)
        names = part["slice"].unique(maintain_order=True).to_list()
        n_models = max(1, min(len(evaluation.models), MAX_BARS // len(names)))
        drawn = part.filter(pl.col("model").is_in(evaluation.models[:n_models])).with_columns(
            order=pl.col("slice").replace_strict(names, list(range(len(names))), return_dtype=pl.Int64)
        )
        sizes = part.unique("slice", maintain_order=True).select("slice", "n_users", "n_targets").to_dicts()
        shown.append(
            {
                "by": by,
                "title": SLICES.get(by, by),
                "chart": figure(figures.slices(drawn, pretty(main))),
                "sizes": sizes,
                "n_left_out": len(evaluation.models) - n_models,
            }
        )
    return shown


def _matrix(evaluation: Evaluation, comparisons: pl.DataFrame) -> list[dict[str, Any]]:
    """Rows of models, cells of (row - column): difference, corrected p-value, significance."""
    found = {(c["model_a"], c["model_b"]): c for c in comparisons.to_dicts()}
    most = max((abs(c["difference"]) for c in found.values()), default=0.0) or 1.0
    rows = []
    for a in evaluation.models:
        cells: list[dict[str, Any] | None] = []
        for b in evaluation.models:
            pair, sign = (found.get((a, b)), 1) if (a, b) in found else (found.get((b, a)), -1)
            cells.append(
                None
                if pair is None
                else {
                    "difference": sign * pair["difference"],
                    "p_holm": pair["p_holm"],
                    "significant": pair["significant"],
                    "low": sign * pair["ci_low" if sign > 0 else "ci_high"],
                    "high": sign * pair["ci_high" if sign > 0 else "ci_low"],
                    "strength": round(100 * (abs(pair["difference"]) / most) ** 0.5),
                }
            )
        rows.append({"model": a, "cells": cells})
    return rows


def _sources(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Who filled the lists of each model: share of items by source, where there was more than one."""
    rows = []
    for model in evaluation.models:
        counts: dict[str, int] = {}
        for run in evaluation.runs:
            if run.model == model:
                for source, n in run.sources.items():
                    counts[source] = counts.get(source, 0) + n
        total = sum(counts.values()) or 1
        rows.append({"model": model, "sources": [(source, n / total) for source, n in counts.items()]})
    return rows if any(len(row["sources"]) > 1 for row in rows) else []
