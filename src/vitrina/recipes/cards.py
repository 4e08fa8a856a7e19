"""Model cards: what a model is, what it learned from, how well it did, with which versions, on what terms."""

import datetime as dt
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from vitrina import __version__
from vitrina.pipeline import Pipeline
from vitrina.recipes.config import RunConfig
from vitrina.recipes.data import Data
from vitrina.recipes.fitted import describe

PACKAGES = ("numpy", "scipy", "numba", "polars", "pyarrow", "safetensors")


def card(
    name: str,
    pipeline: Pipeline,
    data: Data,
    *,
    config: RunConfig,
    summary: dict[str, Any] | None,
    fit_s: float,
) -> dict[str, Any]:
    """The card of a fitted pipeline; JSON values.

    Args:
        name: of the model in the leaderboard.
        pipeline: fitted.
        data: what it was fitted on.
        config: of the run.
        summary: of the evaluation behind the choice, or None where there was none.
        fit_s: seconds of the fit.
    """
    return {
        "model": name,
        "made": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "pipeline": describe(pipeline)
        | {"indexes": list(pipeline.notes)}
        | {"policies": [{"kind": type(p).__name__, **vars(p)} for p in pipeline.policies]},
        "data": data.about(),
        "fit_s": fit_s,
        "evaluation": None if summary is None else _evaluation(name, summary),
        "config": config.model_dump(exclude_none=True),
        "versions": versions(),
        "licence": {
            "data": data.licence,
            "code": "Apache-2.0",
            "note": "a model learned from data may be bound by the terms of the data",
        },
    }


def versions() -> dict[str, str]:
    """Vitrina, Python, the machine and the packages that numbers depend on."""
    found = {"vitrina": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def markdown(card: dict[str, Any]) -> str:
    """The card for people."""
    data, evaluation = card["data"], card["evaluation"]
    lines = [
        f"# {card['model']}",
        "",
        f"Trained {card['made']} with Vitrina {card['versions']['vitrina']} in {card['fit_s']:.1f} s.",
        "",
        "## Data",
        "",
        f"- {data['name']}: {data['rows']:,} events ({', '.join(data['events'])})",
        f"- {data['since']} to {data['until']}",
        f"- digest `{data['digest']}`",
        f"- licence: {card['licence']['data']}",
        *(f"- {note}" for note in data["notes"]),
        "",
        "## Model",
        "",
        *(
            f"- source `{s['name']}`: {s['kind']}({_arguments(s['params'])})"
            for s in card["pipeline"]["sources"]
        ),
    ]
    lines += [f"- {note}" for note in card["pipeline"]["indexes"]]
    fallback = card["pipeline"]["fallback"]
    if fallback is not None:
        lines.append(f"- fallback: {fallback['kind']}({_arguments(fallback['params'])})")
    for policy in card["pipeline"]["policies"]:
        lines.append(
            f"- policy: {policy['kind']}({_arguments({k: v for k, v in policy.items() if k != 'kind'})})"
        )
    lines += ["", "## Measured", ""]
    if evaluation is None:
        lines.append("Not measured: the model was named and no evaluation of this configuration was there.")
    else:
        lines += [
            f"On held-out events, {evaluation['split']['title']}.",
            f"Hash of data and split: `{evaluation['split']['digest']}`.",
            "The served model learned from these events too, after it was measured.",
            "",
        ]
        for view in evaluation["views"]:
            lines += [f"### {view['title']}", "", "| metric | mean | 95 % interval |", "|---|---:|---|"]
            lines += [_metric(row) for row in view["metrics"]]
            lines.append("")
    lines += ["## Versions", "", ", ".join(f"{name} {v}" for name, v in card["versions"].items()), ""]
    return "\n".join(lines)


def _metric(row: dict[str, Any]) -> str:
    low, high = row.get("ci_low"), row.get("ci_high")
    interval = "-" if low is None else f"{low:.4f} to {high:.4f}"
    return f"| {row['metric']}@{row['k']} | {row['mean']:.4f} | {interval} |"


def _arguments(params: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in params.items())


def _evaluation(name: str, summary: dict[str, Any]) -> dict[str, Any]:
    views = []
    for view, found in summary["views"].items():
        rows = [row for row in found["leaderboard"] if row["model"] == name]
        views.append({"view": view, "title": found["title"], "counts": found["counts"], "metrics": rows})
    return {"split": summary["split"], "winner": summary["winner"], "by": summary["by"], "views": views}
