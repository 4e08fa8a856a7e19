"""Vitrina: an event log becomes a measured, served feed.

Names are imported when first used, so `import vitrina` costs next to nothing; `__init__.pyi` lists them.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = (
    "ann",
    "artifact",
    "candidates",
    "datasets",
    "errors",
    "evaluate",
    "log",
    "metrics",
    "policies",
    "split",
)
"""Subpackages reachable as attributes: `vitrina.split.last_days(...)`."""

_HOMES = {
    "vitrina.log": ("Catalogue", "Columns", "EventLog", "Histories", "scan_log"),
    "vitrina.pipeline": ("Pipeline", "Source"),
    "vitrina.feed": ("Feed",),
    "vitrina.ids": ("Ids",),
    "vitrina.policies": ("Allow", "Block", "CapPer", "MaxAge", "MinAge", "Unseen"),
    "vitrina.candidates": (
        "ARGUS",
        "BPR",
        "HSTU",
        "SANSA",
        "BERT4Rec",
        "DecayPop",
        "DecayedItemKNN",
        "DualEase",
        "ESASRec",
        "Ease",
        "GRU4Rec",
        "GSASRec",
        "ImplicitALS",
        "ItemKNN",
        "MostPop",
        "OwnHistory",
        "PopularLastDays",
        "Random",
        "SASRec",
        "TwoTower",
    ),
}
"""Module -> names that it gives to the top level."""

_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(["__version__", *_MODULES, *_HOME_OF])  # noqa: PLE0605  a list, computed


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        value = getattr(importlib.import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has: {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
