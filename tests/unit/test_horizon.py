"""Targets drawn among the rows to come, not the next row alone."""

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

from vitrina.candidates import ARGUS, HSTU, BERT4Rec, GRU4Rec, SASRec, TwoTower  # noqa: E402
from vitrina.errors import ConfigError  # noqa: E402
from vitrina.log import Histories  # noqa: E402
from vitrina.nn.layout import Windows  # noqa: E402
from vitrina.nn.next_item import held_back, steps_ahead  # noqa: E402
from vitrina.schema import US_PER_DAY  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
N = 12
"""Items of the cycle."""


def cycle(n_users: int = 80, length: int = 30) -> Histories:
    """Everybody goes round the same N items, from a start of their own."""
    user = np.repeat(np.arange(n_users), length)
    step = np.tile(np.arange(length), n_users)
    ts = pl.Series((1 + step + 1000 * user) * US_PER_DAY // 100).cast(pl.Datetime("us", "UTC"))
    return Histories.from_frame(pl.DataFrame({"user_id": user, "item_id": (user + step) % N, "ts": ts}))


def test_steps_are_uniform_over_what_is_left_of_the_horizon():
    row_BT, end_B = np.array([[3, 4, 8], [11, 12, 0]]), np.array([10, 14])
    rng = np.random.default_rng(0)
    drawn = np.stack([steps_ahead(row_BT, end_B, 4, rng) for _ in range(8000)])
    for b, t, most in ((0, 0, 4), (0, 1, 4), (0, 2, 1), (1, 0, 2), (1, 1, 1)):
        count = np.bincount(drawn[:, b, t], minlength=most + 1)
        assert count[0] == 0
        assert len(count) == most + 1
        np.testing.assert_allclose(count[1:] / 8000, 1 / most, atol=0.02)


@pytest.mark.parametrize("kind", [SASRec, HSTU, GRU4Rec])
def test_each_target_is_a_later_row_of_the_same_history_within_the_horizon(kind):
    train = cycle(5, 9)
    model = kind(max_len=4, horizon=3, embedding_dim=8)
    model._aims = model._aims_of(train)
    windows = Windows(np.array([0, 3, 13]), np.array([5, 9, 18]))
    rng, seen = np.random.default_rng(0), set()
    for _ in range(50):
        batch = model._batch(windows, train, rng)
        valid = batch.layout.valid_BT.numpy()
        ahead = (batch.target_BT.numpy() - batch.item_BT.numpy())[valid] % N
        seen |= set(ahead.tolist())
        # the rows before the last one read of a history have one row to come, whatever the horizon
        assert ahead[valid.cumsum().reshape(valid.shape)[1, valid[1].sum() - 1] - 1] == 1
    assert seen == {1, 2, 3}


def test_windows_leave_the_horizon_to_come_or_half_of_their_rows():
    offsets = np.array([0, 10, 14, 16])
    windows = Windows(np.array([0, 6, 10, 14]), np.array([7, 10, 14, 16]))
    moved = held_back(windows, offsets, 4)
    # 3 rows follow the first already; the others move by half of what they read, a history of two not at all
    assert moved.start.tolist() == [0, 5, 10, 14]
    assert moved.stop.tolist() == [7, 9, 13, 16]
    same = held_back(windows, offsets, 1)
    assert (same.start.tolist(), same.stop.tolist()) == (windows.start.tolist(), windows.stop.tolist())


def test_a_horizon_of_one_is_the_next_row():
    train = cycle(5, 9)
    one, plain = SASRec(horizon=1, max_len=4), SASRec(max_len=4)
    windows = Windows(np.array([0, 13]), np.array([5, 18]))
    for model in (one, plain):
        model._aims = model._aims_of(train)
    a, b = (model._batch(windows, train, np.random.default_rng(0)) for model in (one, plain))
    assert torch.equal(a.target_BT, b.target_BT)
    valid = a.layout.valid_BT
    assert ((a.target_BT - a.item_BT)[valid] % N == 1).all()


@pytest.mark.parametrize(
    ("kind", "more"),
    [(SASRec, {"n_layers": 1}), (HSTU, {"n_layers": 1, "loss": "softmax"}), (GRU4Rec, {"hidden_dim": 16})],
)
def test_the_softmax_learns_the_shares_of_the_rows_to_come(kind, more):
    # going round a cycle, the next three items come with a third each: the known optimum
    train = cycle()
    settings = {"embedding_dim": 16, "max_len": 8, "n_epochs": 80, "lr": 0.01, "lr_decay": "cosine"} | more
    settings |= {"dropout": 0.0}
    soon = kind(horizon=3, **settings).fit(train)
    scale = soon.temperature
    logits = torch.from_numpy(soon.embed(train) @ soon.item_emb_.T / scale)
    last = train.item_ix[train.offsets[1:] - 1]
    share = logits.softmax(1).numpy()[np.arange(len(last))[:, None], (last[:, None] + [1, 2, 3, 4]) % N]
    np.testing.assert_allclose(share[:, :3].mean(0), 1 / 3, atol=0.06)
    assert share[:, 3].mean() < 0.05
    alone = kind(**settings).fit(train)
    logits = torch.from_numpy(alone.embed(train) @ alone.item_emb_.T / scale)
    assert logits.softmax(1).numpy()[np.arange(len(last)), (last + 1) % N].mean() > 0.9


def test_models_that_have_no_row_after_refuse_it():
    for kind in (BERT4Rec, ARGUS):
        with pytest.raises(ConfigError, match="does not follow horizon, got 3; leave it out"):
            kind(horizon=3)
    with pytest.raises(ConfigError, match="horizon"):
        TwoTower(horizon=0)
