"""docs/configuration.md from the classes that read it: `python tools/config_docs.py [--check]`."""

import sys
import types
import typing
from pathlib import Path

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from vitrina.recipes import config

PAGE = Path(__file__).resolve().parent.parent / "docs" / "configuration.md"

HEAD = """\
# Configuration

One TOML file says what to read, how to split, what to train, what to measure and what to serve.
`vitrina evaluate`, `vitrina train` and `vitrina tune` read the same file, or take a run by name in its place:
`online-retail` or `movietweetings-100k`, with `--model` for any class with its defaults. Relative paths are
taken from the folder of the file. Only `[data]` is needed; an unknown key, a wrong type or a model that does
not exist stops the run before any data is read, with a sentence that names the key, the value and what is
allowed.

```toml
[data]
path = "events/*.parquet"
items = "items.parquet"
time_unit = "s"

[data.columns]
user_id = "customer"
item_id = "sku"
ts = "time"

[split]
last_days = 30
gap_days = 1

[evaluate]
metrics = ["NDCG@10", "Recall@10", "Recall@100", "Coverage@10"]
repeats = ["count", "new_only"]

[pipeline]
policies = [{ kind = "CapPer", column = "category", cap = 3 }]
fallback = { kind = "DecayPop", params = { hours = 50 } }

[[models]]
kind = "OwnHistory"

[[models]]
kind = "ItemKNN"
params = { n_neighbors = 100 }

[[models]]
name = "neighbours and repeats"

[[models.sources]]
kind = "OwnHistory"
k = 50
weight = 2.0

[[models.sources]]
kind = "ItemKNN"
k = 200
budget_ms = 50
```

This page is generated from the code (`python tools/config_docs.py`).
"""

SECTIONS = [
    ("Top level", config.RunConfig),
    ("[data]", config.DataConfig),
    ("[data.columns]", config.ColumnsConfig),
    ("[split]", config.SplitConfig),
    ("[evaluate]", config.EvaluateConfig),
    ("[pipeline]", config.PipelineConfig),
    ("policies", config.PolicyConfig),
    ("fallback", config.FallbackConfig),
    ("index", config.IndexConfig),
    ("[[models]]", config.ModelConfig),
    ("[[models.sources]]", config.SourceConfig),
    ("[training]", config.TrainingConfig),
    ("[serve]", config.ServeConfig),
    ("[tune]", config.TuneConfig),
]


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, section in SECTIONS:
        intro = (section.__doc__ or "").strip().split("`: ", 1)[-1]
        heading = title if title == "Top level" else f"`{title}`"
        parts.append(f"## {heading}\n\n{intro[0].upper()}{intro[1:]}\n")
        parts.append("| key | type | default | meaning |\n|---|---|---|---|")
        parts.append("\n".join(_row(name, field) for name, field in section.model_fields.items()) + "\n")
    return "\n".join(parts)


def _row(name: str, field: FieldInfo) -> str:
    if not field.description:
        raise SystemExit(f"{name} has no description; write one under the field in recipes/config.py")
    meaning = " ".join(field.description.split())
    bounds = [_bound(one) for one in field.metadata]
    limits = ", ".join(b for b in bounds if b)
    kind = _type(field.annotation) + (f", {limits}" if limits else "")
    return f"| `{name}` | {kind} | {_default(field)} | {meaning} |".replace("``", "`")


def _bound(one: object) -> str:
    match one:
        case Gt():
            return f"> {one.gt}"
        case Ge():
            return f">= {one.ge}"
        case Lt():
            return f"< {one.lt}"
        case Le():
            return f"<= {one.le}"
    return ""


def _type(annotation: object) -> str:
    names = {str: "text", int: "integer", float: "number", bool: "true or false"}
    if annotation in names:
        return names[annotation]  # type: ignore[index]
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return " or ".join(f'`"{value}"`' for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(one) for one in inner if one is not type(None))
    if origin is list:
        return f"list of {_type(inner[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    return "table"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True)
    if value is None or value in ({}, [], ""):
        return "-"
    if isinstance(value, BaseModel):
        given = value.model_dump(exclude_none=True, exclude_defaults=False)
        return f"`{given['kind']}`" if "kind" in given else "-"
    return f"`{value!r}`".replace("'", '"').replace("True", "true").replace("False", "false")


def main() -> int:
    """Write the page, or with --check say whether it is up to date."""
    text = page()
    if "--check" in sys.argv:
        if PAGE.read_text() != text:
            print("docs/configuration.md is out of date; run: python tools/config_docs.py")
            return 1
        return 0
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
