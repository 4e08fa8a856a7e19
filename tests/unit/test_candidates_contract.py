"""Every classical model keeps the contract of a candidate generator."""

import pytest

from vitrina.candidates import DecayPop, Ease, ItemKNN, MostPop, OwnHistory, PopularLastDays, Random
from vitrina.testing import check_candidates

FOR_ALL = {"deterministic", "equivariant", "answers_empty_history"}
FROM_ITEMS = {"deterministic", "equivariant", "similar"}
CASES = [
    (Random(), {"deterministic", "answers_empty_history"}),
    (MostPop(), FOR_ALL),
    (MostPop(by="events"), FOR_ALL),
    (DecayPop(hours=2.0), FOR_ALL),
    (PopularLastDays(days=1.0), FOR_ALL),
    (PopularLastDays(days=1.0, by="events"), FOR_ALL),
    (OwnHistory(), {"deterministic", "equivariant"}),
    (OwnHistory(half_life_days=None), {"deterministic", "equivariant"}),
    (ItemKNN(), FROM_ITEMS),
    (ItemKNN(weighting="tfidf", n_neighbors=30, shrink=5.0, binary=False), FROM_ITEMS),
    (ItemKNN(weighting="bm25", n_neighbors=30, normalize=False, binary=False), FROM_ITEMS),
    (Ease(reg=5.0), FROM_ITEMS),
]


@pytest.mark.parametrize(
    ("model", "can"), CASES, ids=lambda value: repr(value) if hasattr(value, "fit") else ""
)
def test_a_model_keeps_the_contract(model, can):
    check_candidates(model, can=can)
