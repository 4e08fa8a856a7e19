"""Candidate generators: each learns from histories and answers for histories."""

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
from vitrina.estimator import Estimator

__all__ = [
    "BPR",
    "CANDIDATES",
    "SANSA",
    "DecayPop",
    "DecayedItemKNN",
    "DualEase",
    "Ease",
    "ImplicitALS",
    "ItemKNN",
    "MostPop",
    "OwnHistory",
    "PopularLastDays",
    "Random",
]

CANDIDATES: dict[str, type[Estimator]] = {
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
}
"""Every model by its class name, as configuration files and saved pipelines name it."""
