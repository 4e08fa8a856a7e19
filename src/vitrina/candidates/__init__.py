"""Candidate generators: each learns from histories and answers for histories.

Models whose file needs torch are imported when they are first asked for, so that the others work without it.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vitrina.candidates.als import ImplicitALS
from vitrina.candidates.bpr import BPR
from vitrina.candidates.decayed_itemknn import DecayedItemKNN
from vitrina.candidates.dual_ease import DualEase
from vitrina.candidates.ease import Ease
from vitrina.candidates.itemknn import ItemKNN
from vitrina.candidates.own_history import OwnHistory
from vitrina.candidates.popularity import DecayPop, MostPop, PopularLastDays
from vitrina.candidates.random import Random
from vitrina.candidates.sansa import SANSA
from vitrina.errors import ConfigError
from vitrina.estimator import Estimator

if TYPE_CHECKING:
    from vitrina.candidates.argus import ARGUS
    from vitrina.candidates.bert4rec import BERT4Rec
    from vitrina.candidates.gru4rec import GRU4Rec
    from vitrina.candidates.hstu import HSTU
    from vitrina.candidates.sasrec import ESASRec, GSASRec, SASRec
    from vitrina.candidates.two_tower import TwoTower

__all__ = [
    "ARGUS",
    "BPR",
    "CANDIDATES",
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
]

NEEDS_TORCH = {
    "SASRec": "sasrec",
    "GSASRec": "sasrec",
    "ESASRec": "sasrec",
    "HSTU": "hstu",
    "GRU4Rec": "gru4rec",
    "BERT4Rec": "bert4rec",
    "ARGUS": "argus",
    "TwoTower": "two_tower",
}
"""Module of each model that needs torch."""


class Registry(Mapping[str, type[Estimator]]):
    """Models by class name, as configuration files and saved pipelines name them."""

    def __init__(self, ready: dict[str, type[Estimator]], needs_torch: dict[str, str]) -> None:
        self._ready, self._needs_torch = ready, needs_torch

    def __getitem__(self, name: str) -> type[Estimator]:
        return self._ready[name] if name in self._ready else _imported(self._needs_torch[name], name)

    def __contains__(self, name: object) -> bool:
        return name in self._ready or name in self._needs_torch

    def __iter__(self) -> Iterator[str]:
        yield from self._ready
        yield from self._needs_torch

    def __len__(self) -> int:
        return len(self._ready) + len(self._needs_torch)


def _imported(module: str, name: str) -> type[Estimator]:
    try:
        found: type[Estimator] = getattr(importlib.import_module(f"vitrina.candidates.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ConfigError(
            f"{name} needs torch, which is not installed; pip install 'vitrina[torch]'"
        ) from error
    return found


def __getattr__(name: str) -> Any:
    if name in NEEDS_TORCH:
        return _imported(NEEDS_TORCH[name], name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


CANDIDATES = Registry(
    {
        "Random": Random,
        "MostPop": MostPop,
        "DecayPop": DecayPop,
        "PopularLastDays": PopularLastDays,
        "OwnHistory": OwnHistory,
        "ItemKNN": ItemKNN,
        "DecayedItemKNN": DecayedItemKNN,
        "Ease": Ease,
        "SANSA": SANSA,
        "DualEase": DualEase,
        "ImplicitALS": ImplicitALS,
        "BPR": BPR,
    },
    NEEDS_TORCH,
)
"""Every model by its class name."""
