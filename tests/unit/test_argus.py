"""ARGUS: what its tokens see, what feedback is worth to it, and which preferences a log tells."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import vitrina.nn.layout
from vitrina.candidates.argus import ARGUS, SIZES
from vitrina.candidates.contexts import N_CONTEXTS, SURFACE, TIME, contexts
from vitrina.candidates.preferences import preferences
from vitrina.errors import ArtifactError, ConfigError
from vitrina.log import Histories
from vitrina.nn import checkpoint, session
from vitrina.nn.argus import ArgusNet, ArgusObjective, Pairs, Tokens, Triples, hidden
from vitrina.nn.layout import Windows, pad, runs
from vitrina.nn.next_item import LossConfig

SMALL = {"embedding_dim": 16, "hidden_dim": 32, "n_layers": 1, "n_heads": 2, "max_len": 24, "lr": 0.005}
MINUTE = 60_000_000


pytestmark = pytest.mark.usefixtures("one_thread")


def log(rows: list[tuple[int, int, int, str]]) -> Histories:
    """Rows of (user, item, minute, event)."""
    user, item, minute, event = zip(*rows, strict=True)
    ts = pl.Series(np.array(minute, dtype=np.int64) * MINUTE).cast(pl.Datetime("us", "UTC"))
    return Histories.from_frame(pl.DataFrame({"user_id": user, "item_id": item, "ts": ts, "event": event}))


def world_of_feedback(seed: int, n_users: int = 200, n: int = 24) -> tuple[Histories, np.ndarray]:
    """Items come at random, whoever it is; users play those of their own parity (90 %), skip the others.

    Which item comes next says nothing about a user: all is in the feedback.
    """
    rng = np.random.default_rng(seed)
    taste = np.arange(n_users) % 2
    user, item = np.repeat(np.arange(n_users), n), rng.integers(0, 16, n_users * n)
    full = rng.random(len(user)) < np.where(item % 2 == taste[user], 0.9, 0.1)
    rows = zip(user, item, np.tile(np.arange(n), n_users), np.where(full, "full", "skip"), strict=True)
    return log(list(rows)), taste


def world_of_refusals(n_users: int = 80) -> tuple[Histories, np.ndarray]:
    """Half of what a user takes, items 0..3 or 4..7, says the user's group; the rest is 8..15, each once.

    Who takes an item of the own parity there was shown its neighbour before: of (8, 9), (10, 11), ... group 0
    refuses the odd one, group 1 the even one. Both take both equally often, so only impressions tell.
    """
    rng, group, rows = np.random.default_rng(0), np.arange(n_users) % 2, []
    for user in range(n_users):
        for t, item in enumerate(rng.permutation(np.arange(8, 16)).tolist()):
            rows.append((user, int(rng.integers(4) + 4 * group[user]), 10 * t, "take"))
            if item % 2 == group[user]:
                rows.append((user, item ^ 1, 10 * t + 3, "impression"))
            rows.append((user, item, 10 * t + 5, "take"))
    return log(rows), group


# --- learning -----------------------------------------------------------------------------------------------


def test_feedback_tells_tastes_that_the_next_item_does_not():
    train, taste = world_of_feedback(seed=0, n_users=200)
    asked = np.tile(np.arange(8, dtype=np.int32), 200)
    own = asked % 2 == np.repeat(taste, 8)
    share, told = {}, {}
    for name, params in {
        "next item only": {"feedback_weight": 0.0, "n_tuning_epochs": 0, "n_epochs": 4},
        "both": {"refusals": ("skip",), "n_tuning_epochs": 6, "tuning_lr": 0.003, "n_epochs": 12},
    }.items():
        model = ARGUS(**SMALL, **params, dropout=0.0, loss="softmax", batch_size=10).fit(train)
        share[name] = (model.retrieve(train, k=8).item_ix % 2 == taste[:, None]).mean()
        full = model.p_feedback(train.rows(np.repeat(np.arange(200), 8)), asked)[:, 0]
        told[name] = full[own].mean() - full[~own].mean()
    assert abs(share["next item only"] - 0.5) < 0.05
    assert abs(told["next item only"]) < 0.05
    assert share["both"] > 0.9
    assert told["both"] > 0.5


def test_only_pairs_tell_what_was_shown_and_refused():
    train, group = world_of_refusals()
    better_UP = np.arange(8, 16, 2) + group[:, None]  # items are numbered as they are named
    params = {"dropout": 0.0, "loss": "softmax", "batch_size": 10, "n_epochs": 1, "tuning_lr": 0.005}
    share = {}
    for weight in (0.0, 1.0):
        model = ARGUS(**SMALL, **params, n_tuning_epochs=3, pair_weight=weight).fit(train)
        score_UI = model.embed(train) @ model.item_emb_.T
        taken_UP, refused_UP = (np.take_along_axis(score_UI, ix, 1) for ix in (better_UP, better_UP ^ 1))
        share[weight] = (taken_UP > refused_UP).mean()
    assert share[0.0] < 0.6
    assert share[1.0] > 0.95


def test_saved_and_loaded_it_gives_the_same_lists(tmp_path):
    train, _ = world_of_feedback(seed=1, n_users=30)
    model = ARGUS(**SMALL, n_epochs=1, refusals=("skip",)).fit(train)
    model.save(tmp_path / "m")
    again = ARGUS.load(tmp_path / "m")
    first, second = model.retrieve(train, k=5), again.retrieve(train, k=5)
    assert np.array_equal(first.item_ix, second.item_ix)
    assert np.array_equal(first.score, second.score)
    assert again.event_names_ == ["full", "skip"]
    assert again.tuning_curve_.height == model.n_tuning_epochs


def test_a_kind_of_event_never_trained_on_is_read_as_unknown():
    train, _ = world_of_feedback(seed=1, n_users=30)
    model = ARGUS(**SMALL, n_epochs=1).fit(train)
    strange = replace(train, event_names=("wish", "gift"))
    lists = model.retrieve(strange, k=5)
    assert np.isfinite(lists.score).all()
    anonymous = Histories.from_lists(train.items, [[1, 2, 3]])[0]
    assert model.retrieve(anonymous, k=5).lengths.tolist() == [5]


def test_impressions_are_no_tokens():
    train, _ = world_of_feedback(seed=1, n_users=30)
    model = ARGUS(**SMALL, n_epochs=1).fit(train)
    rows = [(1, 3, 5, "full"), (1, 4, 9, "skip")]
    plain = log(rows)
    shown = log([*rows, (1, 7, 6, "impression"), (1, 8, 7, "impression")])
    assert np.array_equal(model.embed(plain), model.embed(shown)), "an impression changed the state of a user"
    only_shown = log([(1, 7, 6, "impression"), (1, 8, 7, "impression")])
    assert model.retrieve(only_shown, k=3).lengths.tolist() == [0]


# --- the network --------------------------------------------------------------------------------------------


def tokens(n_rows: int = 2, n: int = 6, seed: int = 0) -> tuple[ArgusNet, Tokens, object]:
    torch.manual_seed(seed)
    net = ArgusNet(9, 3, (5, 4), embedding_dim=8, hidden_dim=16, n_layers=2, n_heads=2, dropout=0.0).eval()
    for parameter in net.parameters():  # at the start, much is 0
        torch.nn.init.normal_(parameter, std=0.2)
    shape = (n_rows, n)
    context = torch.stack([torch.randint(5, shape), torch.randint(4, shape)], -1)
    read = Tokens(torch.randint(9, shape), context, torch.randint(3, shape))
    stop = np.arange(1, n_rows + 1) * n
    return net, read, pad(Windows(stop - n, stop)).layout


@pytest.mark.parametrize("column", ["item_BT", "context_BTC", "kind_BT"])
def test_a_state_knows_its_event_and_nothing_after_it(column):
    net, read, layout = tokens()
    before = net(read, layout)
    changed = getattr(read, column).clone()
    changed[:, 3] = (changed[:, 3] + 1) % 3
    after = net(read._replace(**{column: changed}), layout)
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_before_the_first_step_the_items_read_reach_the_query_unchanged():
    torch.manual_seed(0)
    shape = {"embedding_dim": 8, "hidden_dim": 16, "n_layers": 1, "n_heads": 2, "dropout": 0.0}
    net = ArgusNet(9, 3, (5, 4), **shape)
    items = net.item_vectors()
    assert torch.allclose(
        net.back(net.merge(torch.cat([items, torch.ones(9, 8), torch.zeros(9, 8)], -1))), items, atol=1e-6
    )
    states, context = torch.randn(2, 3, 16), torch.randint(4, (2, 3, 2))
    layout = pad(Windows(np.array([0, 3]), np.array([3, 6]))).layout
    assert torch.equal(net.asked(states, context, context, layout), states)
    assert torch.equal(net.query(states, context), net.back(states))


def test_a_question_reads_its_own_context_and_no_later_event():
    net, read, layout = tokens()
    states, context = net(read, layout), read.context_BTC
    before = net.asked(states, context, context, layout)
    changed = context.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 4
    other = net.asked(states, context, changed, layout)
    assert torch.equal(before[:, :3], other[:, :3])
    assert torch.equal(before[:, 4:], other[:, 4:])
    assert not torch.allclose(before[:, 3], other[:, 3])
    later = states.clone()
    later[:, 4:] += 1.0
    assert torch.equal(before[:, :4], net.asked(later, context, context, layout)[:, :4])


def test_item_and_feedback_of_an_event_are_not_among_the_inputs_of_their_prediction():
    train, _ = world_of_feedback(seed=2, n_users=4, n=8)
    model = ARGUS(**SMALL, n_epochs=1).fit(train)
    windows = Windows(train.offsets[:-1], train.offsets[1:])
    batch = model._triples(windows, train, contexts(train))
    at = train.offsets[:-1, None] + np.arange(7)
    for tokens_read, rows in ((batch.read, at), (batch.after, at + 1)):
        assert np.array_equal(tokens_read.item_BT[:, :7].numpy(), train.item_ix[rows])
        assert np.array_equal(tokens_read.kind_BT[:, :7].numpy(), train.event[rows])
    assert not batch.layout.valid_BT[:, 7:].any()


def test_a_share_of_a_batch_keeps_its_own_pairs():
    _, read, layout = tokens(n_rows=4)
    pairs = Pairs(*(torch.tensor(c) for c in ([0, 2, 3, 2], [1, 0, 4, 5], [1, 2, 3, 4], [5, 6, 7, 8])))
    half = Triples(read, read, layout, pairs).rows(slice(2, 4))
    assert len(half) == 2
    assert [column.tolist() for column in half.pairs] == [[0, 1, 0], [0, 4, 5], [2, 3, 4], [6, 7, 8]]


def test_the_objective_is_the_same_in_runs_as_in_one_batch(monkeypatch):
    """Loss and gradients: next item, feedback and preferences, of 40 histories of 20 tokens and 30 of 3."""
    net, read, _ = tokens(n_rows=70, n=20)
    stop = np.arange(1, 71) * 20
    lengths = np.repeat([20, 3], [40, 30])
    layout = pad(Windows(stop - lengths, stop)).layout
    pairs = Pairs(*(torch.tensor(c) for c in ([0, 69], [3, 2], [1, 2], [5, 6])))
    config = LossConfig(loss="softmax")
    options = {"feedback_weight": 1.0, "groups": (), "pair_weight": 0.5}
    objective = ArgusObjective(net, config, np.ones(9, np.int64), **options).double()
    assert len(runs(layout, net.blocks)) == 2
    found = []
    for rows_of_a_run in (32, 10_000):
        monkeypatch.setitem(vitrina.nn.layout.ROWS_OF_A_RUN, "cpu", rows_of_a_run)
        loss, n_events = objective(Triples(read, read, layout, pairs))
        found.append((loss, n_events, *torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)))
    assert found[0][1] == found[1][1] == 40 * 20 + 30 * 3
    assert all(grad is not None for grad in found[0])
    for in_runs, at_once in zip(*found, strict=True):
        torch.testing.assert_close(in_runs, at_once, rtol=1e-9, atol=1e-9)


def slow_pairs(query_BTD, item_emb_ID, pairs, tau, *, cosine):
    """Sum of -log sigmoid((<u, e(a)> - <u, e(b)>) / tau), and its gradients in queries, items and tau."""
    value, d_query, d_items, d_tau = 0.0, np.zeros_like(query_BTD), np.zeros_like(item_emb_ID), 0.0
    for row, token, a, b in zip(*(column.tolist() for column in pairs), strict=True):
        raw = query_BTD[row, token], item_emb_ID[a], item_emb_ID[b]
        norms = [np.sqrt((x**2).sum()) if cosine else 1.0 for x in raw]
        u, e_a, e_b = (x / norm for x, norm in zip(raw, norms, strict=True))
        margin = (u @ e_a - u @ e_b) / tau
        value += np.log(1 + np.exp(-margin))
        slope = -1 / (1 + np.exp(margin))
        slopes = [slope * (e_a - e_b) / tau, slope * u / tau, -slope * u / tau]
        if cosine:  # of x / |x|: what is orthogonal to x, over |x|
            unit = zip(slopes, (u, e_a, e_b), norms, strict=True)
            slopes = [(s - (s @ x) * x) / norm for s, x, norm in unit]
        d_query[row, token] += slopes[0]
        d_items[a] += slopes[1]
        d_items[b] += slopes[2]
        d_tau -= slope * margin / tau
    return value, d_query, d_items, d_tau


@pytest.mark.parametrize("cosine", [False, True])
def test_the_loss_of_pairs_and_its_gradients_are_their_formulas(cosine):
    net, read, layout = tokens()
    pairs = Pairs(*(torch.tensor(c) for c in ([0, 1, 1, 0], [2, 5, 5, 0], [1, 2, 1, 7], [3, 1, 8, 2])))
    config = LossConfig(loss="softmax", cosine=cosine, temperature=0.4, learned_temperature=True)
    options = {"feedback_weight": 1.0, "groups": ()}
    objectives = [
        ArgusObjective(net, config, np.ones(9, np.int64), **options, pair_weight=mu).double()
        for mu in (0.0, 0.7)
    ]
    objective, batch = objectives[1], Triples(read, read, layout, pairs)
    query_BTD = objective._heads(read, read, layout)[..., :8].detach().requires_grad_()
    item_emb_ID, theta = net.item_vectors().detach().requires_grad_(), objective.temperature.theta
    arrays = query_BTD.detach().numpy(), item_emb_ID.detach().numpy()
    tau = objective.temperature().item()
    value, d_query, d_items, d_tau = slow_pairs(*arrays, pairs, tau, cosine=cosine)
    loss = objective._of_pairs(query_BTD, item_emb_ID, pairs)
    found = [x.numpy() for x in torch.autograd.grad(loss, [query_BTD, item_emb_ID, theta])]
    assert loss.item() == pytest.approx(value, rel=1e-6)  # margins are in float32
    for one, wanted in zip(found, (d_query, d_items, d_tau * tau), strict=True):
        np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=1e-6)
    without, with_pairs = (float(one(batch)[0].detach()) for one in objectives)
    assert with_pairs - without == pytest.approx(0.7 * value, rel=1e-5)


@pytest.mark.parametrize(("size", "millions"), [("3m", 3.15), ("25m", 25.2), ("100m", 100.7), ("1b", 1006.6)])
def test_named_sizes_have_the_parameters_they_are_named_after(size, millions):
    with torch.device("meta"):
        net = ARGUS(size=size).network(100)
    n_layers, hidden_dim, _ = SIZES[size]
    in_blocks = sum(p.numel() for p in net.blocks.parameters())
    assert in_blocks == n_layers * (12 * hidden_dim**2 + 13 * hidden_dim)
    assert in_blocks / 1e6 == pytest.approx(millions, rel=0.01)


# --- what the log tells -------------------------------------------------------------------------------------


def test_context_is_hour_day_gap_and_surface():
    rows = [(1, 1, 0, "a"), (1, 2, 1, "f"), (1, 3, 60, "a"), (2, 4, 8 * 24 * 60 + 61, "f")]
    train = log(rows)  # 1970-01-01 was a Thursday
    unknown = N_CONTEXTS[2]
    told = contexts(train, [train.event_names.index("f")])
    assert told.tolist() == [[0, 3, unknown, 0], [0, 3, 5, 1], [1, 3, 11, 0], [1, 4, unknown, 1]]
    assert contexts(train)[:, SURFACE[0]].tolist() == [N_CONTEXTS[SURFACE[0]]] * 4
    flagged = replace(train, organic=np.array([1, 0, 2, 0], np.uint8))
    assert contexts(flagged)[:, SURFACE[0]].tolist() == [0, 1, 2, 1]
    assert np.array_equal(contexts(flagged, [train.event_names.index("f")]), told)
    assert contexts(log([(1, 1, 0, "a")]).rows(np.array([-1], np.int32))).shape == (0, 4)


def test_parts_of_a_context_are_hidden_together_as_often_as_asked():
    torch.manual_seed(0)
    known = torch.zeros(4000, 4, dtype=torch.long)
    seen = hidden(known, N_CONTEXTS, ((TIME, 0.25), (SURFACE, 1.0)))
    is_hidden = seen == torch.tensor(N_CONTEXTS)
    assert is_hidden[:, TIME].all(1).float().mean() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(is_hidden[:, TIME].all(1), is_hidden[:, TIME].any(1))
    assert is_hidden[:, 3].all()
    assert not known.any(), "the batch was changed in place"


# --- what is known of a request -----------------------------------------------------------------------------


def told_by_the_hour(n_users: int = 200, n: int = 24) -> Histories:
    """By day (12 h) everybody takes an item of 0..7, by night one of 8..15; a feed shows even ones."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(n_users), n)
    hour = np.concatenate([np.sort(rng.choice(24 * 40, n, replace=False)) for _ in range(n_users)])
    feed = rng.random(len(user)) < 0.5
    item = rng.integers(0, 4, len(user)) * 2 + np.where(feed, 0, 1) + np.where(hour % 24 < 12, 0, 8)
    return log(list(zip(user, item, hour * 60, np.where(feed, "seen", "found"), strict=True)))


def test_time_and_surface_of_a_request_tell_what_comes_next():
    train = told_by_the_hour()
    params = {
        **SMALL,
        "loss": "softmax",
        "n_epochs": 12,
        "batch_size": 16,
        "p_no_context": 0.2,
        "dropout": 0.0,
    }
    day, night = (train.asked_at((41 * 24 + hour) * 60 * MINUTE) for hour in (6, 18))
    model = ARGUS(**params, request_time=True, feed_events=("seen",), asked_from="feed", n_tuning_epochs=1)
    model.fit(train)
    shares = [(model.retrieve(q, k=4).item_ix // 8 == at).mean() for at, q in enumerate((day, night))]
    assert min(shares) > 0.95
    assert (model.retrieve(day, k=4).item_ix % 2 == 0).mean() > 0.95
    alone = replace(model, asked_from="alone")
    alone.__dict__.update({name: value for name, value in vars(model).items() if name.endswith("_")})
    assert (alone.retrieve(day, k=4).item_ix % 2 == 1).mean() > 0.95


def test_the_flag_of_the_log_stands_for_kinds_of_event_that_a_feed_led_to():
    train = told_by_the_hour()
    seen = train.event == train.event_names.index("seen")
    named = ARGUS(**SMALL, n_epochs=1, feed_events=("seen",), asked_from="alone").fit(train)
    flagged = replace(train, organic=(~seen).astype(np.uint8))
    by_flag = ARGUS(**SMALL, n_epochs=1, asked_from="alone").fit(flagged)
    assert np.array_equal(named.embed(train), by_flag.embed(flagged))
    with pytest.raises(ConfigError, match="needs to know what a feed led to; name those kinds"):
        ARGUS(**SMALL, n_epochs=1, asked_from="alone").fit(train)


def test_without_request_time_the_time_of_a_request_changes_nothing():
    train, _ = world_of_feedback(seed=1, n_users=20)
    model = ARGUS(**SMALL, n_epochs=1).fit(train)
    assert np.array_equal(model.embed(train), model.embed(train.asked_at(10**15)))
    told = ARGUS(**SMALL, n_epochs=1, request_time=True).fit(train)
    assert np.isfinite(told.embed(train)).all(), "a query that does not say when was refused"
    assert not np.allclose(told.embed(train), told.embed(train.asked_at(10**15)), atol=1e-7)


# --- being stopped ------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


def test_a_fit_killed_in_either_phase_goes_on_to_the_same_weights(tmp_path, monkeypatch):
    train, _ = world_of_feedback(seed=3, n_users=24)
    params = {**SMALL, "batch_size": 8, "n_epochs": 2, "n_tuning_epochs": 2, "refusals": ("skip",)}
    whole = ARGUS(**params).fit(train)
    saved = checkpoint.save
    for kill in range(1, 5):  # a checkpoint after each epoch: two of the pre-training, two of the tuning
        folder, n_saved = tmp_path / str(kill), []

        def save(*given, n_saved=n_saved, kill=kill):
            saved(*given)
            n_saved.append(given[0].name[:10])
            if len(n_saved) == kill:
                raise Killed

        monkeypatch.setattr(checkpoint, "save", save)
        with session.session(folder=folder), pytest.raises(Killed):
            ARGUS(**params).fit(train)
        monkeypatch.setattr(checkpoint, "save", saved)
        with session.session(folder=folder):
            again = ARGUS(**params).fit(train)
        assert n_saved == ["ARGUS-fit", "ARGUS-fit", "ARGUS-tune", "ARGUS-tune"][:kill]
        assert all(np.array_equal(whole.weights_[name], again.weights_[name]) for name in whole.weights_)
        assert again.tuning_curve_["loss"].to_list() == whole.tuning_curve_["loss"].to_list()


def test_a_pre_training_that_goes_on_is_tuned_anew(tmp_path):
    train, _ = world_of_feedback(seed=3, n_users=24)
    params = {**SMALL, "batch_size": 8, "n_tuning_epochs": 2, "refusals": ("skip",)}
    with session.session(folder=tmp_path):
        short = ARGUS(**params, n_epochs=1).fit(train)
    with session.session(folder=tmp_path, other_schedule=True):
        gone_on = ARGUS(**params, n_epochs=3).fit(train)
    whole = ARGUS(**params, n_epochs=3).fit(train)
    for name, weight in whole.weights_.items():
        np.testing.assert_array_equal(gone_on.weights_[name], weight)
    assert any((short.weights_[name] != weight).any() for name, weight in whole.weights_.items())


def test_a_tuning_on_other_impressions_is_not_gone_on_with(tmp_path):
    def shown(seed: int) -> Histories:
        rng = np.random.default_rng(seed)
        rows = [(u, t % 5, 2 * t, "click") for u in range(20) for t in range(6)]
        return log(rows + [(u, int(rng.integers(5, 9)), 2 * t + 1, "impression") for u, _, t, _ in rows])

    params = {**SMALL, "batch_size": 8, "n_epochs": 1, "n_tuning_epochs": 1, "shown_events": ("impression",)}
    with session.session(folder=tmp_path):
        ARGUS(**params).fit(shown(0))
        with pytest.raises(ArtifactError, match="of another run"):
            ARGUS(**params).fit(shown(1))


def test_preferences_join_what_was_shown_to_what_was_taken_next():
    events = log([(1, 10, 0, "a"), (1, 11, 10, "a"), (1, 12, 20, "no"), (1, 13, 30, "a"), (2, 14, 5, "a")])
    shown = log(
        [
            (1, 20, 10, "s"),
            (1, 21, 11, "s"),
            (1, 22, 0, "s"),
            (1, 23, 31, "s"),
            (2, 24, 4, "s"),
            (1, 13, 25, "s"),
        ]
    )
    items = events.items.__class__(pl.Series([*range(10, 15), *range(20, 25)]))
    found = preferences(events.reindex(items), shown.reindex(items), [1])
    told = zip(found.state_N, items.take(found.better_N), items.take(found.worse_N), strict=True)
    # 22 and 24 were seen before any event; after 23 nothing was taken; 13 cannot be preferred to itself
    assert sorted(told) == [(0, 11, 20), (1, 13, 12), (1, 13, 21)]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"size": "7b"}, "ARGUS.size must be one of tiny, 3m, 25m, 100m, 1b, got '7b'"),
        ({"hidden_dim": 30, "n_heads": 4}, "multiple of n_heads"),
        ({"p_no_context": 1.5}, "p_no_context must be in"),
        ({"tuning_lr": 0.0}, "tuning_lr must be > 0"),
        ({"tied": False}, "ARGUS.tied must be True"),
        ({"asked_from": "home"}, "asked_from must be one of anywhere, alone, feed"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused(params, says):
    with pytest.raises(ConfigError, match=says):
        ARGUS(**params)


def test_a_tuning_goes_on_with_another_schedule_of_its_own_where_that_is_said(monkeypatch, tmp_path):
    train, _ = world_of_feedback(seed=3, n_users=24)
    params = {**SMALL, "batch_size": 8, "n_epochs": 1, "refusals": ("skip",)}
    saved, names = checkpoint.save, []

    def save(*given):
        saved(*given)
        names.append(given[0].name[:10])
        if names[-1] == "ARGUS-tune":
            raise Killed

    monkeypatch.setattr(checkpoint, "save", save)
    with session.session(folder=tmp_path), pytest.raises(Killed):
        ARGUS(**params, n_tuning_epochs=2, tuning_lr=0.001).fit(train)
    monkeypatch.setattr(checkpoint, "save", saved)
    lower = ARGUS(**params, n_tuning_epochs=3, tuning_lr=0.0001)
    with (
        session.session(folder=tmp_path),
        pytest.raises(ArtifactError, match=r"lr=0\.001 in it and 0\.0001 now"),
    ):
        lower.fit(train)
    with session.session(folder=tmp_path, other_schedule=True):
        lower.fit(train)
    assert lower.tuning_curve_["lr"].to_list() == [1e-3, 1e-4, 1e-4]
