"""Every model of the registry keeps the contract of a candidate generator."""

import pytest

from vitrina.candidates import CANDIDATES
from vitrina.testing import check_candidates

EXACT = {"deterministic", "equivariant"}
LEARNT = {"deterministic", "stable", "similar"}

CONTRACT = {
    "Random": ({}, {"deterministic", "answers_empty_history"}),
    "MostPop": ({}, EXACT | {"answers_empty_history"}),
    "DecayPop": ({}, EXACT | {"answers_empty_history"}),
    "PopularLastDays": ({}, EXACT | {"answers_empty_history"}),
    "OwnHistory": ({}, EXACT),
    "ItemKNN": ({}, EXACT | {"similar"}),
    "Ease": ({"reg": 10.0}, EXACT | {"similar"}),
    "DualEase": ({"reg": 10.0}, EXACT | {"similar"}),
    "DecayedItemKNN": ({}, EXACT | {"similar"}),
    "SANSA": ({"reg": 10.0}, LEARNT),
    "ImplicitALS": ({"embedding_dim": 8}, LEARNT),
    "BPR": ({"embedding_dim": 8}, LEARNT),
}


@pytest.mark.parametrize("name", CANDIDATES)
def test_the_model_keeps_the_contract_it_declares(name):
    assert name in CONTRACT, f"declare in this file what {name} can do"
    params, can = CONTRACT[name]
    check_candidates(CANDIDATES[name](**params), can=can, new_process=name in ("Ease", "ImplicitALS"))
