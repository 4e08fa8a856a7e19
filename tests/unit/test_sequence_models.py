"""Sequence models: what they learn, what may not move them, HSTU against its formula, bad input."""

import itertools
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from vitrina.candidates import HSTU, BERT4Rec, ESASRec, GRU4Rec, GSASRec, SASRec
from vitrina.candidates.bert4rec import cloze, mask_of
from vitrina.candidates.gru4rec import Recurrent
from vitrina.candidates.held_out import hold_out
from vitrina.candidates.hstu import thinned
from vitrina.errors import ConfigError, InputError
from vitrina.ids import Ids
from vitrina.log import Histories
from vitrina.nn import hstu
from vitrina.nn.blocks import LiGRBlock, TransformerBlock
from vitrina.nn.hstu import HSTULayer, HSTULayers, Pairs, bucket_of, pairs_of, pointwise_attention
from vitrina.nn.layout import Windows, pack, pad
from vitrina.nn.next_item import NO_AIMS, Encoder, followed
from vitrina.schema import US_PER_DAY, US_PER_SECOND
from vitrina.testing import markov_world

torch.set_num_threads(1)

N_ITEMS, DIM, MAX_LEN = 30, 8, 12
OFFSETS = np.array([0, 5, 6, 13, 16], np.int64)
ITEM_IX = np.random.default_rng(0).integers(0, N_ITEMS, OFFSETS[-1]).astype(np.int32)
TS_S = np.concatenate(
    [np.sort(np.random.default_rng(u).integers(0, 10**6, n)) for u, n in enumerate((5, 1, 7, 3))]
)
WINDOWS = Windows(OFFSETS[:-1], OFFSETS[1:])

BLOCKS = {
    "pre": lambda: TransformerBlock(DIM, 2, ffn_dim=16, dropout=0.1),
    "post": lambda: TransformerBlock(DIM, 2, ffn_dim=16, dropout=0.1, norm="post"),
    "rotary": lambda: TransformerBlock(DIM, 2, ffn_dim=16, dropout=0.1, rotary=True),
    "ligr": lambda: LiGRBlock(DIM, 2, ffn_dim=16, dropout=0.1),
    "ligr rotary": lambda: LiGRBlock(DIM, 2, ffn_dim=16, dropout=0.1, rotary=True),
    "hstu": lambda: wide(HSTULayers(DIM, 2, 2, max_len=MAX_LEN, dropout=0.1)),
    "gru": lambda: Recurrent(DIM, 10, 2, dropout=0.1),
}


def wide(module):
    """Weights far from 0, so that what reaches a state is seen in it."""
    for weight in module.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    return module


def encoder_of(kind, *, causal=True):
    torch.manual_seed(0)
    encoder = Encoder(N_ITEMS, DIM, MAX_LEN, [BLOCKS[kind](), BLOCKS[kind]()], dropout=0.1, causal=causal)
    torch.nn.init.normal_(encoder.item.weight)
    torch.nn.init.normal_(encoder.position.weight)
    return encoder.eval()


@torch.inference_mode()
def states(encoder, rows, item_ix=ITEM_IX):
    """Hidden state of each row of the log, in the order of the log. Shape (N, D)."""
    layout = replace(rows.layout, ts_BT=rows.take(TS_S, 0))
    hidden_BTD = encoder(rows.take(item_ix, N_ITEMS), layout)
    out = np.full((len(item_ix), hidden_BTD.shape[2]), np.nan, np.float32)
    valid = rows.layout.valid_BT.numpy()
    out[rows.row_BT[valid]] = hidden_BTD.numpy()[valid]
    return out


def padded_to(rows, n_tokens):
    """The same rows with more padding."""
    more = n_tokens - rows.row_BT.shape[1]
    layout = rows.layout._each(lambda x: torch.nn.functional.pad(x, (0, more)))
    return rows._replace(row_BT=np.pad(rows.row_BT, ((0, 0), (0, more))), layout=layout)


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_later_item_does_not_reach_an_earlier_state(kind):
    encoder, rows = encoder_of(kind), pad(WINDOWS)
    before = states(encoder, rows)
    changed = ITEM_IX.copy()
    changed[9] = (changed[9] + 1) % N_ITEMS  # the fourth row of the third history
    after = states(encoder, rows, changed)
    same = np.abs(after - before).max(axis=1) < 1e-6
    assert same[:9].all()
    assert same[13:].all()
    assert not same[9:13].any()


@pytest.mark.parametrize("kind", BLOCKS)
def test_padding_changes_no_state(kind):
    encoder, rows = encoder_of(kind), pad(WINDOWS)
    np.testing.assert_allclose(states(encoder, rows), states(encoder, padded_to(rows, 11)), atol=2e-6)
    alone = pad(Windows(OFFSETS[2:3], OFFSETS[3:4]))
    np.testing.assert_allclose(states(encoder, rows)[6:13], states(encoder, alone)[6:13], atol=2e-6)


@pytest.mark.parametrize("kind", [kind for kind in BLOCKS if kind != "gru"])
def test_packed_rows_have_the_states_of_padded_rows(kind):
    encoder = encoder_of(kind)
    for n_tokens in (7, 9, 20):
        packed = states(encoder, pack(WINDOWS, n_tokens))
        np.testing.assert_allclose(packed, states(encoder, pad(WINDOWS)), atol=5e-6)


def test_a_recurrent_network_refuses_packed_rows():
    with pytest.raises(InputError, match="cannot read packed rows"):
        states(encoder_of("gru"), pack(WINDOWS, 9))


def test_looking_both_ways_stays_within_a_history_and_off_padding():
    encoder = encoder_of("pre", causal=False)
    before = states(encoder, pad(WINDOWS))
    np.testing.assert_allclose(before, states(encoder, padded_to(pad(WINDOWS), 11)), atol=2e-6)
    np.testing.assert_allclose(before, states(encoder, pack(WINDOWS, 9)), atol=2e-6)
    changed = ITEM_IX.copy()
    changed[12] = (changed[12] + 1) % N_ITEMS
    moved = np.abs(states(encoder, pad(WINDOWS), changed) - before).max(axis=1) > 1e-6
    assert moved.tolist() == [6 <= row < 13 for row in range(16)]


@pytest.mark.parametrize("kind", ["hstu", "gru"])
def test_blocks_that_only_look_back_refuse_to_look_both_ways(kind):
    encoder = encoder_of(kind, causal=False)
    with pytest.raises(
        InputError, match=r"cannot follow a mask of shape \(4, 1, 1, 7\); give the encoder caus"
    ):
        states(encoder, pad(WINDOWS))
    if kind == "hstu":
        with pytest.raises(InputError, match=r"cannot follow a mask of shape \(2, 1, 9, 9\)"):
            states(encoder, pack(WINDOWS, 9))


def test_positions_are_counted_from_the_newest_row():
    for start in (6, 8, 10):
        layout = pad(Windows(np.array([start]), np.array([13]))).layout
        assert layout.position_BT[0].tolist() == list(range(13 - start))[::-1]
    # rows of a longer history that a causal state cannot see move nothing: the newest is always at 0
    encoder = Encoder(N_ITEMS, DIM, MAX_LEN, [], dropout=0.0).eval()
    long, short = (pad(Windows(np.array([lo]), np.array([13]))) for lo in (6, 10))
    np.testing.assert_array_equal(states(encoder, long)[10:13], states(encoder, short)[10:13])


def slow_attention(q, k, v, distance, time, age_s, n):
    """A V written out for one history: q, k, v (H, T, E), age_s (T, T)."""
    out = np.zeros_like(v)
    for h in range(len(q)):
        for i in range(q.shape[1]):
            for j in range(i + 1):
                bucket = min(int(np.floor(np.log(max(1, age_s[i, j])) / 0.301)), 127)
                s = q[h, i] @ k[h, j] + distance[h, i - j] + time[h, bucket]
                out[h, i] += s / (1 + np.exp(-s)) / n * v[h, j]
    return out


@pytest.mark.parametrize("tile", [2**18, 40])
def test_hstu_attention_is_its_formula(tile, monkeypatch):
    monkeypatch.setattr(hstu, "TILE_NUMBERS", {"cpu": tile})
    monkeypatch.setattr(hstu, "ROWS_OF_A_TILE", 3)
    rng = np.random.default_rng(0)
    rows = pad(WINDOWS)
    layout = replace(rows.layout, ts_BT=rows.take(TS_S, 0))
    n_rows, n_tokens = rows.row_BT.shape
    q, k, v = rng.normal(size=(3, n_rows, 2, n_tokens, 4)).astype(np.float32)
    distance, time = rng.normal(size=(2, MAX_LEN)), rng.normal(size=(2, 128))
    tensors = [torch.tensor(x, dtype=torch.float32) for x in (q, k, v, distance, time)]
    mixed = pointwise_attention(*tensors, pairs_of(layout), n=MAX_LEN).numpy()
    for b in range(n_rows):
        ts = layout.ts_BT[b].numpy()
        age = ts[:, None] - ts[None, :]
        n = int(layout.valid_BT[b].sum())
        slow = slow_attention(q[b, :, :n], k[b, :, :n], v[b, :, :n], distance, time, age[:n, :n], MAX_LEN)
        np.testing.assert_allclose(mixed[b, :, :n], slow, atol=1e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_hstu_gradients_are_those_of_plain_torch(packed, monkeypatch):
    """Against autograd through the formula; the tiled backward is written by hand."""
    monkeypatch.setattr(hstu, "TILE_NUMBERS", {"cpu": 60})
    monkeypatch.setattr(hstu, "ROWS_OF_A_TILE", 4)
    rows = pack(WINDOWS, 9) if packed else pad(WINDOWS)
    layout = replace(rows.layout, ts_BT=rows.take(TS_S, 0))
    pairs, generator = pairs_of(layout), torch.Generator().manual_seed(0)
    n_rows, n_tokens = rows.row_BT.shape
    shapes = [(n_rows, 2, n_tokens, 4)] * 3 + [(2, MAX_LEN), (2, 128)]
    params = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    weight = torch.randn(shapes[0], generator=generator)
    q, k, v, distance, time = params
    at = torch.arange(n_tokens)
    S = q @ k.mT + distance[:, (at[:, None] - at).clamp(0, MAX_LEN - 1)]
    S = S + time[:, pairs.bucket_BTT.long()].transpose(0, 1)
    may = torch.ones(n_tokens, n_tokens).tril() * (1 if pairs.same_BTT is None else pairs.same_BTT[:, None])
    plain = (torch.nn.functional.silu(S) * may / MAX_LEN) @ v
    expected = torch.autograd.grad((plain * weight).sum(), params)
    mixed = pointwise_attention(*params, pairs, n=MAX_LEN)
    torch.testing.assert_close(mixed, plain, atol=1e-5, rtol=1e-4)
    for found, wanted in zip(torch.autograd.grad((mixed * weight).sum(), params), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_buckets_of_time():
    edges = [-5, 0, 1, 2, 60, 86_400, 365 * 86_400, 10**18]
    assert bucket_of(torch.tensor(edges)).tolist() == [0, 0, 0, 2, 13, 37, 57, 127]


def test_hstu_refuses_a_row_longer_than_its_distances():
    x = torch.zeros(1, 1, MAX_LEN + 1, 4)
    with pytest.raises(InputError, match="longer than the 12 distances"):
        pointwise_attention(x, x, x, torch.zeros(1, MAX_LEN), torch.zeros(1, 128), Pairs(None, None), n=1)
    with pytest.raises(ConfigError, match="multiple of n_heads"):
        HSTULayer(10, 3, max_len=5, dropout=0.0)


FLOORS = {
    "SASRec": (SASRec, {"n_layers": 1, "n_epochs": 15, "lr": 0.02, "loss": "softmax"}, 0.85),
    "HSTU": (HSTU, {"n_layers": 1, "n_epochs": 12, "lr": 0.01}, 0.85),
    "HSTU softmax": (HSTU, {"n_layers": 1, "n_epochs": 8, "lr": 0.01, "loss": "softmax"}, 0.85),
    "HSTU thinned": (HSTU, {"n_layers": 1, "n_epochs": 12, "lr": 0.01, "length_exponent": 1.2}, 0.85),
    "GRU4Rec": (GRU4Rec, {"hidden_dim": 32, "n_epochs": 10, "lr": 0.02}, 0.85),
    "BERT4Rec": (
        BERT4Rec,
        {"max_len": 8, "n_layers": 1, "n_heads": 1, "p_mask": 0.3, "frac_last": 0.3},
        0.75,
    ),
}


@pytest.mark.parametrize("name", FLOORS)
def test_each_model_learns_a_markov_chain(name):
    kind, params, floor = FLOORS[name]
    world = markov_world(seed=0)
    shape = {"embedding_dim": 32, "max_len": 20, "n_epochs": 20, "lr": 0.01}
    model = kind(**{**shape, **params}).fit(world.train)
    assert world.share_of_best(model.retrieve(world.train, k=world.k)) >= floor


def log_of(lists, gap_s=60, items=None):
    """Users 0, 1, ... who took these items, one every `gap_s` seconds."""
    frame = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(len(lists)), [len(one) for one in lists]),
            "item_id": np.concatenate(lists).astype(np.int64),
            "ts": np.concatenate([US_PER_DAY + gap_s * US_PER_SECOND * np.arange(len(one)) for one in lists]),
        }
    ).with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC")))
    return Histories.from_frame(frame, items=items)


MODELS = {
    "SASRec": lambda **more: SASRec(embedding_dim=8, max_len=6, n_epochs=2, **more),
    "HSTU": lambda **more: HSTU(embedding_dim=8, max_len=6, n_epochs=2, **more),
    "GRU4Rec": lambda **more: GRU4Rec(embedding_dim=8, hidden_dim=10, max_len=6, n_epochs=2, **more),
    "BERT4Rec": lambda **more: BERT4Rec(embedding_dim=8, max_len=6, n_epochs=2, **more),
}


@pytest.mark.parametrize("name", MODELS)
def test_rows_beyond_max_len_are_not_read(name):
    rng = np.random.default_rng(0)
    train = log_of([rng.integers(0, 9, n) for n in (20, 3, 8)])
    model = MODELS[name]().fit(train)
    n_read = 5 if name == "BERT4Rec" else 6
    np.testing.assert_allclose(model.embed(train), model.embed(train.last(n_read)), atol=1e-6)
    assert np.abs(model.embed(train) - model.embed(train.last(n_read - 1))).max() > 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_empty_histories_and_unknown_items(name):
    train = log_of([[0, 1, 2, 3], [2, 3, 0], [1, 0]])
    model = MODELS[name]().fit(train)
    wider = Ids(pl.Series([0, 1, 2, 3, 77]))
    asked, _ = Histories.from_lists(wider, [[], [77], [0, 77, 1], [0, 1]])
    lists = model.retrieve(asked, k=3)
    assert lists.lengths.tolist() == [0, 0, 3, 3]
    np.testing.assert_array_equal(lists.item_ix[2], lists.item_ix[3])
    assert not model.embed(asked)[:2].any()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax"])
def test_a_catalogue_of_one_item_has_only_collisions_and_one_answer(name, loss):
    """Every negative drawn is the positive: the loss is 0, and nothing breaks."""
    train = log_of([[5, 5, 5], [5, 5]])
    model = MODELS[name](loss=loss).fit(train)
    assert model.retrieve(train, k=4).item_ix.tolist() == [[0], [0]]
    assert np.isfinite(model.item_emb_).all()
    np.testing.assert_allclose(model.curve_["loss"].to_numpy(), 0, atol=1e-6)


def timed_log(n_users=200, seed=0):
    """After a short pause the same item again, after a long one any of the eight."""
    rng = np.random.default_rng(seed)
    is_long = rng.random((n_users, 12)) < 0.5
    gap = np.where(is_long, 30 * US_PER_DAY, 60 * US_PER_SECOND)
    item = rng.integers(0, 8, (n_users, 12))
    for t in range(1, 12):
        item[:, t] = np.where(is_long[:, t], item[:, t], item[:, t - 1])
    frame = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(n_users), 12),
            "item_id": item.ravel(),
            "ts": pl.Series((US_PER_DAY + np.cumsum(gap, axis=1)).ravel()).cast(pl.Datetime("us", "UTC")),
        }
    )
    return Histories.from_frame(frame)


def test_the_time_of_the_request_changes_the_answer_where_it_is_told():
    train = timed_log()
    newest, last = (x[train.offsets[1:] - 1] for x in (train.ts, train.item_ix))
    soon, late = (train.asked_at(newest + wait) for wait in (60 * US_PER_SECOND, 30 * US_PER_DAY))
    settings = {"embedding_dim": 16, "max_len": 12, "n_layers": 1, "lr": 0.01, "loss": "softmax"}
    settings |= {"temperature": 0.1, "batch_size": 16, "n_epochs": 10, "dropout": 0.0}
    told = HSTU(request_time=True, positions="none", **settings).fit(train)
    assert (told.retrieve(soon, k=1).item_ix[:, 0] == last).mean() > 0.95
    assert (told.retrieve(late, k=1).item_ix[:, 0] == last).mean() < 0.6
    # nobody says, or says something before the newest row: the newest row's time
    np.testing.assert_array_equal(told.embed(train), told.embed(train.asked_at(newest)))
    np.testing.assert_array_equal(told.embed(train), told.embed(train.asked_at(newest - US_PER_DAY)))
    not_told = HSTU(**{**settings, "n_epochs": 1}).fit(train)
    np.testing.assert_array_equal(not_told.embed(soon), not_told.embed(late))


def test_without_time_bias_no_time_is_read():
    train = timed_log(40)
    settings = {"embedding_dim": 8, "max_len": 12, "n_epochs": 2, "time_bias": False}
    other = replace(train, ts=train.ts[0] + np.arange(train.n_rows) * US_PER_SECOND)
    models = [HSTU(**settings).fit(log) for log in (train, other)]
    np.testing.assert_array_equal(models[0].embed(train), models[1].embed(other))
    assert HSTU(**settings, half_life_days=30.0).fit(train).curve_["loss"].is_finite().all()


def test_validation_tells_the_time_of_the_request():
    for validation in ("last", "time"):
        held = hold_out(timed_log(20), by=validation, frac=0.05, seed=0)
        newest = held.queries.ts[held.queries.offsets[1:] - 1]
        assert (held.queries.asked_ts > newest).all()


def test_inputs_carry_the_time_of_their_target_only_where_asked():
    train = log_of([[0, 1, 2, 3], [2, 3]], gap_s=7)
    rows = pad(Windows(train.offsets[:-1], train.offsets[1:] - 1))
    batch = followed(rows, train.item_ix, train.ts, train.n_items, asked=True)
    wait_s = (batch.layout.asked_BT - batch.layout.ts_BT)[batch.layout.valid_BT]
    assert wait_s.tolist() == [7] * 4
    assert batch.rows(slice(1, 2)).layout.asked_BT.shape == (1, 3)
    assert followed(rows, train.item_ix, train.ts, train.n_items).layout.asked_BT is None


def test_thinned_histories_keep_their_newest_rows_and_order():
    n, exponent, target = 100, 1.2, 15  # 100 ** 0.6 = 15.8
    length = np.array([10, 100, 100, 0, 60])
    offsets = np.concatenate([[0], np.cumsum(length)])
    ts = np.arange(offsets[-1]) * US_PER_DAY
    rows = pad(Windows(offsets[:-1], offsets[1:]))
    rng, kept, ages = np.random.default_rng(0), [], []
    for _ in range(300):
        some = thinned(rows, ts, n=n, exponent=exponent, rng=rng)
        valid, found = some.layout.valid_BT.numpy(), some.layout.valid_BT.sum(1).numpy()
        assert found[[0, 3]].tolist() == [10, 0]
        assert set(found[[1, 2]]) <= {target, 100}
        kept.append(found[1] == 100)
        for b in (1, 4):
            at = some.row_BT[b][valid[b]]
            assert at[-1] == offsets[b + 1] - 1
            assert (np.diff(at) > 0).all()
            assert (at >= offsets[b]).all()
            assert some.layout.position_BT[b][valid[b]].tolist() == list(range(len(at)))[::-1]
        if found[1] == target:
            ages.append(offsets[2] - 1 - some.row_BT[1][: target - 1].mean())
    # kept whole with probability 100^1.2 / 100^2 = 0.025: within 4 standard deviations of 300 draws
    assert abs(np.mean(kept) - 0.025) < 4 * np.sqrt(0.025 * 0.975 / 300)
    assert np.mean(ages) < 49.7  # uniform over the older 99 would be 50; the newest weigh a little more


def chance_of_each_set(weights, n):
    """Of every set of n drawn one after another without replacement, each time in proportion to weight."""
    chance = {}
    for order in itertools.permutations(range(len(weights)), n):
        p, left = 1.0, sum(weights)
        for one in order:
            p, left = p * weights[one] / left, left - weights[one]
        chance[frozenset(order)] = chance.get(frozenset(order), 0.0) + p
    return chance


def test_thinned_rows_are_drawn_without_replacement_by_their_age():
    """Five rows aged 90, 50, 40, 20 and 0 days, thinned to three: the newest, and two of the others."""
    age = np.array([90, 50, 40, 20, 0])
    ts, n_draws = (100 - age) * US_PER_DAY, 40_000
    rows = pad(Windows(np.zeros(n_draws, np.int64), np.full(n_draws, 5)))
    some = thinned(rows, ts, n=9, exponent=1.0, rng=np.random.default_rng(0))  # 9^(1/2) = 3 rows
    length = some.layout.valid_BT.sum(1).numpy()
    p_whole = 9 / 5**2
    assert abs((length == 5).mean() - p_whole) < 4 * np.sqrt(p_whole * (1 - p_whole) / n_draws)
    kept = some.row_BT[length == 3, :3]
    assert len(kept) + (length == 5).sum() == n_draws
    assert (kept[:, 2] == 4).all()
    for drawn, p in chance_of_each_set(1 - age[:4] / age.sum(), 2).items():
        found = (kept[:, :2] == sorted(drawn)).all(1).mean()
        assert abs(found - p) < 4 * np.sqrt(p * (1 - p) / len(kept)), drawn


def test_long_histories_are_thinned_in_training_and_short_ones_whole(monkeypatch):
    """Of 36 rows that are read 36^(1/2) = 6 are left, but for a history in 36; short ones keep their 5."""
    train, seen = log_of([np.arange(40) % 9] * 30 + [np.arange(6)] * 5), []
    real = HSTU._batch

    def spied(*given):
        seen.append(real(*given))
        return seen[-1]

    def lengths(**more):
        monkeypatch.setattr(HSTU, "_batch", spied)
        seen.clear()
        HSTU(embedding_dim=8, max_len=36, n_epochs=1, batch_size=7, windows="last", **more).fit(train)
        return np.sort(np.concatenate([batch.layout.valid_BT.sum(1).numpy() for batch in seen]))

    whole, short = lengths(), lengths(length_exponent=1.0)
    assert whole.tolist() == [5] * 5 + [36] * 30
    assert set(short[5:]) <= {6, 36}
    assert short[:5].tolist() == [5] * 5
    assert (short == 6).sum() >= 24


def test_hidden_items_leave_no_trace_in_what_bert4rec_reads():
    model = BERT4Rec(max_len=12, p_mask=0.3)
    rng = np.random.default_rng(0)
    train = log_of([rng.integers(0, 9, n) for n in (12, 3, 8, 1, 5)])
    windows, model._aims = model._windows(train), NO_AIMS
    batch = model._batch(windows, train, np.random.default_rng(1))
    hidden = batch.counted_BT
    assert hidden.any(1).all()
    assert not (hidden & ~batch.layout.valid_BT).any()
    assert (batch.item_BT[hidden] == mask_of(train.n_items)).all()
    seen = batch.layout.valid_BT & ~hidden
    assert (batch.item_BT[seen] == batch.target_BT[seen]).all()
    row_BT = pad(windows, model.max_len).row_BT
    other = train.item_ix.copy()
    other[row_BT[hidden.numpy()]] = (other[row_BT[hidden.numpy()]] + 1) % train.n_items
    again = model._batch(windows, replace(train, item_ix=other), np.random.default_rng(1))
    assert torch.equal(batch.item_BT, again.item_BT)
    assert not (batch.target_BT == again.target_BT)[hidden].any()


def test_cloze_hides_the_share_it_is_told():
    rng, valid = np.random.default_rng(0), np.ones((4000, 20), bool)
    hidden = cloze(valid, p_mask=0.3, frac_last=0.0, rng=rng).numpy()
    assert abs(hidden.mean() - 0.3) < 4 * np.sqrt(0.21 / hidden.size) + 0.7**20
    last = cloze(valid, p_mask=0.3, frac_last=1.0, rng=rng).numpy()
    assert last[:, -1].all()
    assert last.sum() == 4000


BAD = [
    (lambda: HSTU(embedding_dim=10, n_heads=3), "multiple of n_heads"),
    (lambda: HSTU(request_time=True, time_bias=False), "needs time_bias=True"),
    (lambda: HSTU(length_exponent=2.5), r"must be in \(0, 2\], got 2.5"),
    (lambda: HSTU(positions="rotary"), 'must be "learned" or "none"'),
    (lambda: GRU4Rec(hidden_dim=0), "hidden_dim"),
    (lambda: BERT4Rec(max_len=1), "max_len must be >= 2"),
    (lambda: BERT4Rec(p_mask=0.0), "p_mask must be in"),
    (lambda: BERT4Rec(block="ligr"), 'must be "pre" or "post"'),
    (lambda: BERT4Rec(embedding_dim=9), "multiple of n_heads"),
]


@pytest.mark.parametrize(("make", "message"), BAD)
def test_settings_that_mean_nothing_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("kind", [SASRec, GSASRec, ESASRec])
def test_scaled_items_are_read_times_the_root_of_their_width_and_predicted_as_they_are(kind):
    settings = {"embedding_dim": 16, "max_len": 6, "n_layers": 1, "dropout": 0.0}
    torch.manual_seed(0)
    scaled = kind(scale_items=True, **settings).network(9).eval()
    plain = kind(**settings).network(9).eval()
    plain.load_state_dict(scaled.state_dict())
    with torch.no_grad():
        plain.item.weight *= 4
    rows = pad(Windows(np.array([0, 4]), np.array([4, 9])))
    item_BT = rows.take(np.arange(9), 9)
    torch.testing.assert_close(scaled(item_BT, rows.layout), plain(item_BT, rows.layout))
    if kind is not GSASRec:  # which predicts from a table of its own
        torch.testing.assert_close(scaled.item_vectors() * 4, plain.item_vectors())
