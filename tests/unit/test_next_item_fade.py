"""Targets that weigh by their age."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from vitrina.candidates import BERT4Rec, SASRec
from vitrina.errors import ConfigError
from vitrina.nn.layout import Windows
from vitrina.nn.next_item import Aims, Encoder, Fade, LossConfig, NextItemObjective, batch_of
from vitrina.schema import US_PER_DAY

DAYS = np.arange(10, dtype=np.int64) * US_PER_DAY


def test_a_weight_halves_with_each_half_life_and_is_one_on_average():
    fade = Fade.over(DAYS, 3.0)
    weight = fade.of(DAYS)
    assert np.allclose(weight[6] / weight[3], 2.0, rtol=1e-5)
    assert np.isclose(weight.mean(), 1.0, rtol=1e-5)
    assert weight.argmax() == 9


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "bce"])
def test_the_weighted_loss_is_the_sum_of_weight_times_loss(loss):
    torch.manual_seed(0)
    encoder = Encoder(6, 4, 9, [], dropout=0.0)
    objective = NextItemObjective(encoder, LossConfig(loss=loss, n_negatives=3), np.ones(6, np.int64)).eval()
    windows = Windows(np.array([0]), np.array([10]))
    item_ix = np.array([0, 1, 2, 3, 4, 5, 0, 1, 2, 3], dtype=np.int32)
    whole = batch_of(windows, item_ix, DAYS, 6, aims=Aims(fade=Fade.over(DAYS, 2.0)))
    parts = 0.0
    torch.manual_seed(1)
    weighted, n = objective(whole)
    hidden_PD = encoder(whole.item_BT, whole.layout)[whole.targets_BT]
    for p in range(int(n)):
        weight_BT = torch.zeros_like(whole.weight_BT)
        weight_BT[0, p] = whole.weight_BT[0, p]
        only = replace(whole, weight_BT=weight_BT)
        torch.manual_seed(1)
        target_P = whole.target_BT[whole.targets_BT]
        parts += float(objective.of_targets(hidden_PD, encoder.item_vectors(), target_P, only).detach())
    assert float(weighted.detach()) == pytest.approx(parts, rel=1e-5)
    torch.manual_seed(1)
    alike, _ = objective(replace(whole, weight_BT=None))
    assert abs(float(alike.detach()) - float(weighted.detach())) > 1e-3


@pytest.mark.parametrize("model", [SASRec, BERT4Rec])
def test_what_came_next_lately_wins_over_what_came_next_often(model):
    """After item 0 came item 1 thirty times, long ago, and item 2 ten times, lately."""
    import polars as pl

    from vitrina.log import Histories

    rows = []
    for user in range(40):
        day = 0 if user < 30 else 360
        rows += [(user, 0, day), (user, 1 if user < 30 else 2, day + 1)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "day"], orient="row").select(
        "user_id", "item_id", (pl.col("day") * US_PER_DAY).cast(pl.Datetime("us", "UTC")).alias("ts")
    )
    train = Histories.from_frame(frame)
    query, _ = Histories.from_lists(train.items, [[0]])
    params = {"embedding_dim": 8, "max_len": 4, "n_layers": 1, "n_epochs": 30, "lr": 0.05, "dropout": 0.0}
    often = model(**params).fit(train).retrieve(query, k=2).item_ix[0]
    lately = model(**params, half_life_days=30.0).fit(train).retrieve(query, k=2).item_ix[0]
    assert often[0] == 1
    assert lately[0] == 2


def test_a_negative_half_life_is_refused():
    with pytest.raises(ConfigError, match="half_life_days must be >= 0"):
        SASRec(half_life_days=-1.0)
