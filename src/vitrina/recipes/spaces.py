"""Where to look for each model's parameters: the ranges that `vitrina tune` searches.

`log` ranges are searched on a logarithmic scale. The first trial is what the configuration says.
"""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Real:
    """Any number from low to high."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Whole:
    """An integer from low to high."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]


Space = dict[str, Real | Whole | Choice]

SPACES: dict[str, Space] = {
    "DecayPop": {"hours": Real(0.5, 1000.0, log=True)},
    "PopularLastDays": {"days": Real(1.0, 180.0, log=True)},
    "OwnHistory": {"half_life_days": Real(1.0, 730.0, log=True)},
    "ItemKNN": {
        "n_neighbors": Whole(10, 1000, log=True),
        "weighting": Choice(("none", "tfidf", "bm25")),
        "shrink": Real(0.0, 100.0),
    },
    "DecayedItemKNN": {"hours": Real(0.5, 1000.0, log=True)},
    "ImplicitALS": {
        "embedding_dim": Choice((32, 64, 128)),
        "reg": Real(1e-4, 1e-1, log=True),
        "unobserved_weight": Real(1e-3, 1.0, log=True),
        "n_epochs": Whole(4, 16),
    },
    "BPR": {
        "embedding_dim": Choice((32, 64, 128)),
        "reg": Real(1e-4, 1e-1, log=True),
        "lr": Real(1e-3, 2e-1, log=True),
        "n_epochs": Whole(10, 100, log=True),
    },
    "Ease": {"reg": Real(10.0, 10_000.0, log=True)},
    "SANSA": {"reg": Real(10.0, 10_000.0, log=True), "n_neighbors": Whole(20, 400, log=True)},
    "DualEase": {"reg": Real(10.0, 10_000.0, log=True)},
    "HSTU": {
        "embedding_dim": Choice((50, 64, 128)),
        "n_layers": Whole(1, 8),
        "lr": Real(3e-4, 3e-3, log=True),
        "dropout": Real(0.0, 0.5),
        "temperature": Real(0.02, 0.2, log=True),
        "n_epochs": Whole(10, 100, log=True),
    },
    "GRU4Rec": {
        "embedding_dim": Choice((32, 64, 128)),
        "hidden_dim": Choice((64, 100, 128, 256)),
        "lr": Real(3e-4, 1e-2, log=True),
        "dropout": Real(0.0, 0.5),
        "n_epochs": Whole(5, 50, log=True),
    },
    "BERT4Rec": {
        "embedding_dim": Choice((32, 64, 128)),
        "n_layers": Whole(1, 4),
        "lr": Real(3e-4, 3e-3, log=True),
        "dropout": Real(0.0, 0.5),
        "p_mask": Real(0.1, 0.5),
        "n_epochs": Whole(20, 200, log=True),
    },
    "ARGUS": {
        "lr": Real(3e-4, 1e-2, log=True),
        "feedback_weight": Real(0.1, 3.0, log=True),
        "pair_weight": Real(0.03, 3.0, log=True),
        "n_tuning_epochs": Whole(0, 6),
        "dropout": Real(0.0, 0.4),
    },
    "TwoTower": {
        "embedding_dim": Choice((32, 64, 128)),
        "lr": Real(3e-4, 1e-2, log=True),
        "temperature": Real(0.03, 0.3, log=True),
        "p_no_id": Real(0.0, 0.8),
    },
}
"""By class name; a model that is not here has nothing to search."""


class Trial(Protocol):
    """What asks for values; Optuna's trial is one."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """An integer."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of some values."""


def suggest(trial: Trial, space: Space) -> dict[str, Any]:
    """A setting of every parameter of a space."""
    found: dict[str, Any] = {}
    for name, part in space.items():
        match part:
            case Real():
                found[name] = trial.suggest_float(name, part.low, part.high, log=part.log)
            case Whole():
                found[name] = trial.suggest_int(name, part.low, part.high, log=part.log)
            case Choice():
                found[name] = trial.suggest_categorical(name, list(part.values))
    return found


def inside(value: Any, part: Real | Whole | Choice) -> bool:
    """Whether a value can be asked for."""
    if isinstance(part, Choice):
        return value in part.values
    return value is not None and part.low <= value <= part.high
