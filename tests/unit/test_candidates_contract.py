"""Every model of the registry keeps the contract of a candidate generator."""

import numpy as np
import pytest

from vitrina.candidates import CANDIDATES
from vitrina.errors import ConfigError
from vitrina.testing import check_candidates

EXACT = {"deterministic", "equivariant"}
LEARNT = {"deterministic", "stable", "similar"}
NEXT_ITEM = {"deterministic", "similar", "needs_pairs"}
SMALL = {"embedding_dim": 8, "max_len": 12, "n_epochs": 2}

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
    "SASRec": (SMALL, NEXT_ITEM),
    "GSASRec": (SMALL, NEXT_ITEM),
    "ESASRec": (SMALL, NEXT_ITEM),
    "HSTU": ({**SMALL, "request_time": True}, NEXT_ITEM),
    "GRU4Rec": ({**SMALL, "hidden_dim": 12}, NEXT_ITEM),
    "BERT4Rec": (SMALL, NEXT_ITEM),
    "TwoTower": ({**SMALL, "n_negatives": 16}, NEXT_ITEM),
    "ARGUS": ({**SMALL, "hidden_dim": 16, "n_layers": 1, "n_heads": 2, "n_tuning_epochs": 1}, NEXT_ITEM),
}


@pytest.mark.parametrize("name", CANDIDATES)
def test_the_model_keeps_the_contract_it_declares(name):
    assert name in CONTRACT, f"declare in this file what {name} can do"
    params, can = CONTRACT[name]
    check_candidates(CANDIDATES[name](**params), can=can, new_process=name in ("Ease", "ImplicitALS"))


@pytest.mark.parametrize("name", [name for name in CANDIDATES if "seed" in CANDIDATES[name]().params()])
def test_a_seed_is_a_whole_number_from_0(name):
    for seed in (-1, 2**63, 1.5, "1", None):
        with pytest.raises(ConfigError, match=rf"{name}\.seed must be a whole number in \[0, 2\^63\), got"):
            CANDIDATES[name](seed=seed)
    for seed in (0, 2**63 - 1, np.int64(3)):
        assert CANDIDATES[name](seed=seed).seed == seed
