"""How next-item models learn: own items masked, negatives remembered, schedules, hashed tables."""

from typing import Any

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

import nn_small_run as small  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

from vitrina.candidates import ARGUS, HSTU, BERT4Rec, GRU4Rec, SASRec, TwoTower  # noqa: E402
from vitrina.errors import ConfigError, InputError  # noqa: E402
from vitrina.ids import Ids  # noqa: E402
from vitrina.log import Histories  # noqa: E402
from vitrina.nn.layout import Layout  # noqa: E402
from vitrina.nn.next_item import Batch, Encoder, LossConfig, NextItemObjective  # noqa: E402
from vitrina.nn.rowwise import AdamWWithTables, RowwiseAdagrad  # noqa: E402
from vitrina.nn.tables import Hashed, start  # noqa: E402
from vitrina.nn.training import Schedule, fit  # noqa: E402
from vitrina.testing import markov_world  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


# --- own items ----------------------------------------------------------------------------------------------

N_ITEMS, DIM = 40, 6
ITEM_BT = torch.tensor([[0, 3, 0, 7], [5, 1, N_ITEMS, N_ITEMS]])
TARGET_BT = torch.tensor([[3, 0, 7, 9], [1, 20, N_ITEMS, N_ITEMS]])
"""Targets that were read before and targets (9, 20) that come last; an own item twice; padding."""
COUNTS = 1 + 200 // (1 + np.arange(N_ITEMS))
"""Own items are the popular ones, so that much of the proposal is masked."""


def objective_of(**config: Any) -> NextItemObjective:
    torch.manual_seed(0)
    encoder = Encoder(N_ITEMS, DIM, 8, [], dropout=0.0, final_norm=False, positions="none")
    vectors_ID = 0.3 * torch.randn(N_ITEMS, DIM)
    vectors_ID[[0, 3, 7, 9], 0] += 2.0  # what follows is likely, P about 1/2, and so are the own items
    vectors_ID[[5, 1, 20], 1] += 2.0
    encoder.item.weight.data[:N_ITEMS] = vectors_ID
    return NextItemObjective(encoder, LossConfig(**config), COUNTS).double()


def own_batch() -> Batch:
    valid_BT = ITEM_BT < N_ITEMS
    return Batch(ITEM_BT, TARGET_BT, Layout(valid_BT, torch.zeros_like(ITEM_BT)))


def gradient_of(objective: NextItemObjective, loss: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, objective.encoder.item.weight)[0]


def exact_gradient(objective: NextItemObjective) -> torch.Tensor:
    """Of the softmax over the positive and all items that are not the window's own, written out."""
    batch, loss = own_batch(), 0.0
    vectors = objective.encoder.item_vectors()
    hidden_BTD = objective.encoder(batch.item_BT, batch.layout)
    for b in range(2):
        own = {*ITEM_BT[b].tolist(), *TARGET_BT[b].tolist()}
        for t in np.flatnonzero(batch.layout.valid_BT[b].numpy()):
            target = int(TARGET_BT[b, t])
            kept = [i for i in range(N_ITEMS) if i not in own or i == target]
            logit_K = vectors[kept] @ hidden_BTD[b, t]
            loss = loss + logit_K.logsumexp(0) - logit_K[kept.index(target)]
    return gradient_of(objective, loss)


def expected_gradient(objective: NextItemObjective, n_draws: int = 300) -> torch.Tensor:
    torch.manual_seed(1)
    return sum(gradient_of(objective, objective(own_batch())[0]) for _ in range(n_draws)) / n_draws


def error_of(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("negatives", "bound", "bias"), [("unigram", 0.02, 0.05), ("uniform", 0.01, 0.015)])
def test_masked_own_items_leave_the_gradient_of_the_softmax_without_them(negatives, bound, bias):
    config = {"loss": "sampled_softmax", "negatives": negatives, "n_negatives": 600}
    objective = objective_of(mask_own=True, **config)
    exact = exact_gradient(objective)
    assert error_of(expected_gradient(objective), exact) < bound
    # the log of the positive's probability alone, as where nothing else is masked, leaves a bias
    masks = objective.masks
    objective.masks = lambda drawn, target_P, batch: (
        masks(drawn, target_P, batch)[0],
        objective.proposal.log_q(target_P),
    )
    assert error_of(expected_gradient(objective), exact) > bias


def test_the_masked_probability_is_summed_over_distinct_own_items_and_the_positive():
    objective = objective_of(loss="sampled_softmax", negatives="unigram", mask_own=True)
    q, batch = COUNTS / COUNTS.sum(), own_batch()
    target_P = batch.target_BT[batch.targets_BT]
    drawn = objective.draw(target_P)
    valid_PM, log_q_P = objective.masks(drawn, target_P, batch)
    masked = [{0, 3, 7, 9}] * 4 + [{5, 1, 20}] * 2  # what the window holds, its newest row too
    np.testing.assert_allclose(log_q_P.exp(), [sum(q[i] for i in mine) for mine in masked], rtol=1e-5)
    for p, mine in enumerate(masked):
        assert valid_PM[p].tolist() == [int(item) not in mine for item in drawn.item_ix]


@pytest.mark.parametrize("loss", ["sampled_softmax", "bce"])
@pytest.mark.parametrize("kind", [SASRec, HSTU, GRU4Rec, BERT4Rec])
def test_every_model_learns_with_its_own_items_masked(kind, loss):
    world = markov_world(n_users=40, n_items=12, seed=0)
    model = kind(embedding_dim=8, max_len=10, n_epochs=2, loss=loss, n_negatives=8, mask_own=True)
    assert model.fit(world.train).curve_["loss"].is_finite().all()


def test_negatives_that_are_all_the_users_own_leave_no_loss():
    """Two items, each window holds both: nothing is left to draw."""
    train, _ = Histories.from_lists(Ids(pl.Series([5, 7])), [[5, 7, 5, 7], [7, 5, 7]])
    model = SASRec(embedding_dim=8, max_len=9, n_epochs=2, loss="sampled_softmax", mask_own=True)
    assert model.fit(train).curve_["loss"].to_list() == [0.0, 0.0]
    assert np.isfinite(model.item_emb_).all()


# --- how often an item is a target --------------------------------------------------------------------------


COUNTED = [
    (SASRec, {}),
    (SASRec, {"windows": "last"}),
    (SASRec, {"targets": "new"}),
    (BERT4Rec, {"windows": "last"}),
    (TwoTower, {}),
    (ARGUS, {}),
]


@pytest.mark.parametrize(("kind", "more"), COUNTED)
def test_log_q_of_negatives_in_the_batch_is_how_often_they_are_targets(kind, more):
    """Not how often they occur: here item 0 opens every history and is a target of nothing else."""
    rng = np.random.default_rng(0)
    lists = [[0, *rng.integers(1, 6, n).tolist()] for n in rng.integers(3, 15, 30)]
    train, _ = Histories.from_lists(Ids(pl.Series(range(6))), lists)
    model = kind(embedding_dim=8, max_len=5, n_epochs=1, negatives="in_batch", loss="sampled_softmax", **more)
    model.fit(train)
    model._aims = model._aims_of(train)
    if kind is TwoTower:
        model._person_U = model._people_of(train)
    counted = np.zeros(6)
    for epoch in range(400 if kind is BERT4Rec else 1):
        for batch in model._batches(train, model._windows(train), epoch):
            one = batch.next_item if kind is ARGUS else batch
            counted += np.bincount(one.target_BT[one.targets_BT], minlength=6)
    q_I = model._objective(train).proposal.q_I
    np.testing.assert_allclose(q_I, counted / counted.sum(), atol=0.01 if kind is BERT4Rec else 1e-6)
    assert (q_I[0] == 0) == (kind is not BERT4Rec)


def test_pairwise_losses_share_no_drawn_negatives_whatever_they_are_drawn_from():
    for negatives in ("uniform", "unigram"):
        objective = objective_of(loss="bce", negatives=negatives, n_negatives=3)
        assert objective.draw(torch.arange(7)).item_ix.shape == (7, 3)


# --- fits that fail, models that are loaded -----------------------------------------------------------------


def test_a_fit_that_fails_leaves_the_model_that_was_there(tmp_path):
    world = markov_world(n_users=20, n_items=12, seed=0)
    items = pl.DataFrame({"item_id": world.train.items.values, "kind": ["a", "b"] * 6})
    model = TwoTower(embedding_dim=8, max_len=10, n_epochs=1, min_count=1).fit(world.train, items=items)
    before = model.retrieve(world.train, k=3).item_ix
    nothing_follows = world.train.last(1)
    for fit_again in (lambda: model.fit(nothing_follows, items=items), lambda: model.fit(nothing_follows)):
        with pytest.raises(InputError, match="at least two rows"):
            fit_again()
        np.testing.assert_array_equal(model.retrieve(world.train, k=3).item_ix, before)
        model.save(tmp_path / "m")
        np.testing.assert_array_equal(
            TwoTower.load(tmp_path / "m").retrieve(world.train, k=3).item_ix, before
        )


@pytest.mark.parametrize("kind", [SASRec, HSTU, GRU4Rec, BERT4Rec, TwoTower, ARGUS])
def test_a_loaded_model_draws_nothing_so_that_a_training_beside_it_stays_as_it_is(kind, tmp_path):
    world = markov_world(n_users=20, n_items=12, seed=0)
    kind(embedding_dim=8, max_len=10, n_epochs=1).fit(world.train).save(tmp_path / "m")
    drawn = []

    class Heard(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            before = torch.get_rng_state()
            found = func(*args, **(kwargs or {}))
            if not torch.equal(before, torch.get_rng_state()):
                drawn.append(func)
            return found

    model = kind.load(tmp_path / "m")
    with Heard():
        model.retrieve(world.train, k=3)
    assert not drawn


# --- what proposals carry -----------------------------------------------------------------------------------

NOISY = {"dropout": 0.3, "dtype": torch.float32, "loss": "sampled_softmax", "n_negatives": 60}


def noisy(negatives: str, folder=None, kill: int | None = None) -> tuple[dict, list]:
    objective = small.new_objective(negatives=negatives, **NOISY)
    run = small.new_run(folder=folder)
    if kill is not None:
        run.on_step = small.kill_after(kill)
    curve = fit(objective, small.new_schedule(checkpoint_s=0.0), run)
    return small.weights(objective), [entry["loss"] for entry in curve]


@pytest.mark.parametrize("negatives", ["memory", "streaming"])
@pytest.mark.parametrize("step", [1, 3, 6])
def test_a_run_killed_with_negatives_that_remember_goes_on_to_the_same_bits(
    negatives, step, tmp_path, monkeypatch
):
    expected = noisy(negatives)
    for name in ("kept", "lost"):
        with pytest.raises(small.Killed):
            noisy(negatives, tmp_path / name, kill=step)
    weights, losses = noisy(negatives, tmp_path / "kept")
    assert losses == expected[1]
    for name, array in expected[0].items():
        np.testing.assert_array_equal(weights[name], array, err_msg=name)
    if step > 1:  # a checkpoint whose memory is thrown away is another run
        monkeypatch.setattr(NextItemObjective, "take_up", lambda self, state: None)
        assert noisy(negatives, tmp_path / "lost")[1] != expected[1]


@pytest.mark.parametrize("kind", [SASRec, HSTU, GRU4Rec, BERT4Rec, TwoTower])
@pytest.mark.parametrize("negatives", ["memory", "streaming"])
def test_every_model_learns_from_remembered_negatives(kind, negatives):
    world = markov_world(n_users=40, n_items=12, seed=0)
    shape = {"embedding_dim": 8, "max_len": 10, "n_epochs": 2, "batch_size": 4, "loss": "sampled_softmax"}
    model = kind(negatives=negatives, n_negatives=64, **shape).fit(world.train)
    assert model.curve_["loss"].is_finite().all()


def test_memory_fills_what_a_small_batch_lacks():
    objective = objective_of(loss="sampled_softmax", negatives="memory", n_negatives=10)
    first, second = torch.arange(6), torch.arange(10, 16)
    assert objective.draw(first).item_ix.tolist() == list(range(6))
    assert objective.draw(second).item_ix.tolist() == [10, 11, 12, 13, 14, 15, 2, 3, 4, 5]
    large = objective.draw(torch.arange(20, 35)).item_ix.tolist()
    assert len(large) == 10
    assert set(large) <= set(range(20, 35))


# --- batches without a target -------------------------------------------------------------------------------


WITHOUT = [
    *((kind, {}) for kind in (SASRec, HSTU, GRU4Rec, TwoTower)),
    (SASRec, {"tied": False, "trend_days": 5.0}),
    (SASRec, {"tied": False, "item_table": "hashed"}),
]


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax"])
@pytest.mark.parametrize(("kind", "more"), WITHOUT)
def test_a_part_of_a_batch_without_targets_has_no_loss_and_a_gradient_of_every_parameter(kind, loss, more):
    """As where `targets="new"` and a process gets windows in which nobody takes anything new."""
    model = kind(
        embedding_dim=8, max_len=5, loss=loss, learned_temperature=True, negatives="in_batch", **more
    )
    train = markov_world(n_users=6, n_items=12, seed=0).train
    if kind is TwoTower:
        model.fit(train)
    model._aims = model._aims_of(train)
    objective = model._objective(train).train()
    windows = model._windows(train)
    batch = model._batch(windows, train, np.random.default_rng(0))
    nothing_BT = torch.zeros_like(batch.layout.valid_BT)
    none = Batch(batch.item_BT, batch.target_BT, batch.layout, nothing_BT, None, batch.trend_BT)
    loss_sum, n_terms = objective(none)
    assert (float(loss_sum.detach()), int(n_terms)) == (0.0, 0)
    loss_sum.backward()
    missed = [name for name, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert not missed


# --- schedules ----------------------------------------------------------------------------------------------


def test_a_models_schedule_is_what_its_parameters_say():
    world = markov_world(n_users=20, n_items=12, seed=0)
    given = {"lr": 0.01, "n_warmup_steps": 5, "lr_decay": "cosine", "clip_norm": 0.5, "weight_decay": 0.1}
    model = SASRec(embedding_dim=8, max_len=10, n_epochs=3, batch_size=8, precision="float32", **given)
    assert model._schedule(3, patience=2) == Schedule(
        n_epochs=3,
        lr=0.01,
        n_warmup_steps=5,
        decay="cosine",
        clip_norm=0.5,
        weight_decay=0.1,
        patience=2,
        precision="float32",
    )
    n_steps = 3 * -(-len(model._windows(world.train).start) // 8)
    schedule, lr = model._schedule(3, patience=0), model.fit(world.train).curve_["lr"].to_list()
    assert lr == [schedule.lr_at(n_steps * epoch // 3 - 1, n_steps) for epoch in (1, 2, 3)]
    unclipped = model.clone(clip_norm=0.0).fit(world.train)
    assert not np.array_equal(unclipped.item_emb_, model.item_emb_)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clip_norm": -1.0}, "clip_norm must be >= 0, got -1.0"),
        ({"lr_decay": "linear"}, 'decay must be "none" or "cosine", got \'linear\''),
        ({"n_warmup_steps": -1}, "n_warmup_steps must be >= 0"),
        ({"item_table": "sparse"}, 'SASRec.item_table must be "plain" or "hashed", got \'sparse\''),
        ({"table_optimizer": "sgd"}, "SASRec.table_optimizer must be"),
        ({"rows_per_item": 0.0}, "SASRec.rows_per_item must be > 0"),
        (
            {"negatives": "hard"},
            "negatives must be one of uniform, unigram, in_batch, mixed, memory, streaming",
        ),
    ],
)
def test_a_parameter_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        SASRec(**change)


def test_a_model_without_such_a_table_says_so():
    with pytest.raises(ConfigError, match="TwoTower does not follow item_table, got 'hashed'; leave it out"):
        TwoTower(item_table="hashed")


# --- tables -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("table_optimizer", ["adamw", "rowwise"])
def test_a_hashed_table_of_a_quarter_of_the_rows_learns_as_a_plain_one(table_optimizer):
    world = markov_world(n_users=200, n_items=200, seed=0)
    shape = {"embedding_dim": 32, "max_len": 20, "n_layers": 1, "n_epochs": 20, "lr": 0.01, "batch_size": 64}
    model = SASRec(item_table="hashed", table_optimizer=table_optimizer, **shape).fit(world.train)
    assert model.weights_["item.table.weight"].shape == (1 + 50, 32)
    assert not any(len(array) > 51 for name, array in model.weights_.items() if "item" in name)
    plain = SASRec(table_optimizer=table_optimizer, **shape).fit(world.train)
    share = {name: world.share_of_best(one.retrieve(world.train, k=1)) for name, one in
             {"hashed": model, "plain": plain}.items()}  # fmt: skip
    assert share["plain"] > 0.9
    assert share["hashed"] > 0.95 * share["plain"]


@pytest.mark.parametrize("kind", [SASRec, HSTU, GRU4Rec, BERT4Rec])
@pytest.mark.parametrize("more", [{}, {"tied": False, "loss": "sampled_softmax", "cosine": True}])
def test_every_encoder_takes_a_hashed_table_and_is_saved_with_it(kind, more, tmp_path):
    train = markov_world(n_users=20, n_items=40, seed=0).train
    model = kind(embedding_dim=8, max_len=10, n_epochs=1, item_table="hashed", **more).fit(train)
    model.save(tmp_path / "model")
    again = kind.load(tmp_path / "model")
    np.testing.assert_array_equal(model.retrieve(train, k=5).item_ix, again.retrieve(train, k=5).item_ix)
    assert ("target.table.weight" in model.weights_) == (more.get("tied") is False)


@pytest.mark.parametrize(
    "config", [{"loss": "sampled_softmax", "cosine": True}, {"loss": "bce"}, {"loss": "gbce"}]
)
def test_looking_drawn_items_up_alone_gives_the_loss_of_all_vectors(config):
    torch.manual_seed(0)
    encoder = Encoder(Hashed(N_ITEMS, 12), DIM, 8, [], dropout=0.0, tied=False)
    objective = NextItemObjective(encoder, LossConfig(n_negatives=7, **config), COUNTS)
    batch, made = own_batch(), []
    target_P = batch.target_BT[batch.targets_BT]
    for vectors in (None, encoder.item_vectors()):
        torch.manual_seed(1)
        hidden_PD = encoder(batch.item_BT, batch.layout)[batch.targets_BT]
        made.append(objective.of_targets(hidden_PD, vectors, target_P, batch))
    torch.manual_seed(1)
    made.append(objective(batch)[0])
    torch.testing.assert_close(made[0], made[1])
    assert made[2] == made[0]


def test_hashed_vectors_start_with_the_spread_of_plain_ones_and_padding_is_zero():
    encoder = Encoder(Hashed(4000, 1000), 16, 8, [], dropout=0.0)
    assert encoder.item_vectors().detach().std().item() == pytest.approx(0.02, rel=0.03)
    assert not encoder.item(torch.tensor(4000)).any()
    assert encoder.item(torch.tensor(4001)).any()
    start(encoder.item, 0.5)
    assert encoder.item_vectors().detach().std().item() == pytest.approx(0.5, rel=0.03)


def test_the_stated_rate_of_twins_is_what_tables_have():
    """Items that no model can tell apart; a row met twice has fewer orders, so the rate is a little high."""
    n_items, rate, twins = 4000, Hashed(4000, 64).p_confused, 0
    for seed in range(20):
        rows = Hashed(n_items, 64).table(4, seed=seed).rows(torch.arange(n_items)).sort(1).values
        _, n_same = rows.unique(dim=0, return_counts=True)
        twins += int(n_same[n_same > 1].sum())
    assert rate == pytest.approx(6 * 4000 / 64**3, rel=0.05)
    assert 0.8 * rate < twins / (20 * n_items) < 1.02 * rate


def test_adamw_with_tables_is_each_optimiser_on_its_own_part():
    def parts() -> list[torch.nn.Parameter]:
        torch.manual_seed(0)
        return [torch.nn.Parameter(torch.randn(5, 3)), torch.nn.Parameter(torch.randn(9, 3))]

    (dense, table), (dense_alone, table_alone) = parts(), parts()
    both = AdamWWithTables([dense], [table], lr=0.01, weight_decay=0.1, table_scale=10.0)
    adamw = torch.optim.AdamW([dense_alone], lr=0.01, betas=(0.9, 0.98), weight_decay=0.1)
    rowwise = RowwiseAdagrad([table_alone], lr=0.1)
    for step in range(4):
        for one in (dense, table, dense_alone, table_alone):
            torch.manual_seed(step)
            one.grad = torch.randn_like(one)
        for optimizer in (both, adamw, rowwise):
            optimizer.step()
    assert torch.equal(dense, dense_alone)
    assert torch.equal(table, table_alone)
    state = both.state_dict()["state"]
    assert {name: tuple(x.shape) for name, x in state[1].items()} == {"sum": (9,), "step": ()}
    assert "exp_avg" in state[0]


def test_tables_that_are_split_among_processes_are_refused():
    table = torch.nn.Parameter(torch.zeros(9, 3))
    table.device_mesh = "of FSDP2"
    with pytest.raises(ConfigError, match="needs tables whole in each process; train without VITRINA_FSDP=1"):
        AdamWWithTables([], [table], lr=0.1)


def test_a_model_with_rowwise_tables_goes_on_from_its_checkpoint(tmp_path):
    from vitrina.nn.session import session

    train = markov_world(n_users=20, n_items=40, seed=0).train
    shape = {"embedding_dim": 8, "max_len": 10, "table_optimizer": "rowwise", "item_table": "hashed"}
    whole = SASRec(n_epochs=3, **shape).fit(train)
    with session(folder=tmp_path):
        SASRec(n_epochs=1, **shape).fit(train)
    with session(folder=tmp_path, other_schedule=True):
        model = SASRec(n_epochs=3, **shape).fit(train)
    np.testing.assert_array_equal(model.item_emb_, whole.item_emb_)
