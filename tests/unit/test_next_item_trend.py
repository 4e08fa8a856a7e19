"""The term of the fashion, and targets that are new to a user."""

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

from vitrina.candidates import ARGUS, HSTU, BERT4Rec, GRU4Rec, SASRec, TwoTower  # noqa: E402
from vitrina.candidates.held_out import first_takes, hold_out, ties_shuffled  # noqa: E402
from vitrina.errors import ConfigError, InputError  # noqa: E402
from vitrina.ids import Ids  # noqa: E402
from vitrina.log import Histories  # noqa: E402
from vitrina.nn.full_softmax import Side, full_softmax, full_softmax_mean  # noqa: E402
from vitrina.nn.trend import Trend  # noqa: E402
from vitrina.schema import US_PER_DAY  # noqa: E402

SMALL = {"embedding_dim": 16, "max_len": 10, "batch_size": 32, "lr": 0.01, "dropout": 0.0}


def test_a_row_of_the_trend_is_the_decayed_share_of_what_came_before_it():
    rng = np.random.default_rng(0)
    item_ix = rng.integers(0, 7, 300).astype(np.int32)
    ts = rng.integers(0, 40 * US_PER_DAY, 300)
    trend = Trend.over(item_ix, ts, 9, half_life_days=4.0)

    def slow(t: int) -> np.ndarray:
        weight = np.where(ts < t, 0.5 ** ((t - ts) / (4.0 * US_PER_DAY)), 0.0)
        count_I = np.bincount(item_ix, weight, 9)
        return np.log1p(9 * count_I / count_I.sum())

    assert len(trend.table_RI) == 40  # 40 days / 4 days * 4
    for row in range(1, 40):
        begin = trend.start_us + row * trend.row_us
        assert trend.row_of(np.array([begin, begin + trend.row_us - 1])).tolist() == [row, row]
        np.testing.assert_allclose(trend.table_RI[row], slow(begin), rtol=1e-5, atol=1e-6)
    assert not trend.table_RI[0].any()
    np.testing.assert_allclose(trend.now_I, slow(int(ts.max()) + 1), rtol=1e-5, atol=1e-6)
    assert trend.row_of(np.array([-5, 10**18])).tolist() == [0, 39]


@pytest.mark.parametrize("chunk", [5, None])
def test_the_side_term_has_the_loss_and_gradients_of_plain_logits(chunk):
    torch.manual_seed(0)
    h, E, a = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((23, 4), (11, 4), (23,)))
    row, table = torch.randint(3, (23,)), torch.randn(3, 11, dtype=torch.float64)
    target, weight = torch.randint(11, (23,)), torch.rand(23, dtype=torch.float64)
    plain = torch.nn.functional.cross_entropy(h @ E.T + a[:, None] * table[row], target, reduction="none")
    ours = full_softmax(h, E, target, side=Side(a, row, table), chunk_positions=chunk)
    mean = full_softmax_mean(h, E, target, side=Side(a, row, table), chunk_positions=chunk)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    for mine, theirs in ((ours @ weight, plain @ weight), (mean, plain.mean())):
        found = torch.autograd.grad(mine, [h, E, a], retain_graph=True)
        torch.testing.assert_close(found, torch.autograd.grad(theirs, [h, E, a], retain_graph=True))
    far = full_softmax(h, E, target, side=Side(a * 1e3, row, table), chunk_positions=chunk)
    plain = torch.nn.functional.cross_entropy(
        h @ E.T + 1e3 * a[:, None] * table[row], target, reduction="none"
    )
    torch.testing.assert_close(far, plain, rtol=1e-9, atol=1e-9)
    with pytest.raises(InputError, match=r"a weight for each of 23 positions .* got \(22,\)"):
        full_softmax(h, E, target, side=Side(a[:22], row, table))


def histories(items: np.ndarray, ts: np.ndarray, offsets: np.ndarray, n_items: int) -> Histories:
    """Of whole numbers as users and items."""
    return Histories(
        user_ids=Ids(pl.Series(range(len(offsets) - 1))),
        items=Ids(pl.Series(range(n_items))),
        offsets=np.asarray(offsets, np.int64),
        item_ix=np.asarray(items, np.int32),
        ts=np.asarray(ts, np.int64),
        event=np.zeros(len(items), np.uint8),
    )


def fashion_log(n_users: int, n_weeks: int, seed: int) -> Histories:
    """Of 12 items two are in fashion each week, drawn anew; a user takes one, about every third week."""
    rng = np.random.default_rng(seed)
    pair_W = rng.permutation(np.arange(n_weeks) % 6)
    is_there_UW = rng.random((n_users, n_weeks)) < 0.35
    is_there_UW[:, :2] = True
    _, week = np.nonzero(is_there_UW)
    items = 2 * pair_W[week] + rng.integers(0, 2, len(week))
    ts = week * 7 * US_PER_DAY + rng.integers(0, 7 * US_PER_DAY, len(week))
    return histories(items, ts, np.concatenate([[0], np.cumsum(is_there_UW.sum(1))]), 12)


@pytest.mark.parametrize(
    ("model", "more"),
    [
        (SASRec, {}),
        (SASRec, {"loss": "sampled_softmax", "n_negatives": 8, "cosine": True, "temperature": 0.2}),
        (SASRec, {"loss": "bce", "n_negatives": 4}),
        (HSTU, {"n_negatives": 8}),
        (GRU4Rec, {}),
        (BERT4Rec, {}),
    ],
)
def test_a_model_with_a_trend_knows_what_is_in_fashion_now(model, more):
    """What those took who stayed away lately says nothing of the week's pair; newcomers' rows do."""
    old = fashion_log(150, 24, seed=0)
    week, user = old.ts // (7 * US_PER_DAY), np.repeat(np.arange(150), np.diff(old.offsets))
    train = old.only(np.where(user < 75, week < 22, week >= 22))
    now = np.bincount(old.item_ix[week == 23], minlength=12).argsort()[-2:]
    away = train.rows(np.arange(75, dtype=np.int32))
    plain = model(**SMALL | more, n_epochs=6).fit(train)
    fashionable = model(**SMALL | more, n_epochs=6, trend_days=2.0).fit(train)
    hits = [np.isin(m.retrieve(away, k=2).item_ix, now).mean() for m in (plain, fashionable)]
    assert hits[1] > 0.9
    assert hits[0] < 0.5


def test_what_is_served_is_what_was_learned(tmp_path):
    """Scores are logits: hidden state and item, over the temperature, plus the term of the end of the log."""
    train = fashion_log(40, 6, seed=1)
    model = SASRec(**SMALL, n_epochs=2, trend_days=3.0, cosine=True, temperature=0.3).fit(train)
    score = model.retrieve(train, k=12).score
    assert model.item_emb_.shape == (12, 17)
    np.testing.assert_allclose(np.linalg.norm(model.item_emb_[:, :-1], axis=1), 1 / 0.3, rtol=1e-5)
    np.testing.assert_allclose(
        model.item_emb_[:, -1], Trend.over(train.item_ix, train.ts, 12, half_life_days=3.0).now_I
    )
    model.save(tmp_path / "m")
    np.testing.assert_array_equal(SASRec.load(tmp_path / "m").retrieve(train, k=12).score, score)
    assert model.similar(np.array([0]), k=3).item_ix.shape == (1, 3)
    unit = model.raw_item_emb / np.linalg.norm(model.raw_item_emb, axis=1, keepdims=True)
    np.testing.assert_allclose(unit / 0.3, model.item_emb_[:, :-1], rtol=1e-4, atol=1e-5)


def test_first_takes_are_the_first_of_each_user_and_item():
    item_ix = np.array([3, 1, 3, 3, 1, 2, 2], np.int32)
    log = histories(item_ix, np.arange(7), np.array([0, 4, 7]), 4)
    assert first_takes(log).tolist() == [True, True, False, False, True, True, False]


@pytest.mark.parametrize("model", [SASRec, HSTU, GRU4Rec, TwoTower])
def test_only_new_targets_are_learned(model):
    """Everybody repeats one item again and again; what is new is seldom, and only it is to be learned."""
    rng = np.random.default_rng(0)
    items = np.repeat(np.arange(60)[:, None] % 5, 10, axis=1)
    at = rng.integers(2, 9, 60)
    items[np.arange(60), at] += 5
    ts = np.sort(rng.integers(0, 30 * US_PER_DAY, items.shape), axis=1)
    log = histories(items.reshape(-1), ts.reshape(-1), np.arange(61) * 10, 10)
    first = log.only((np.arange(10) < at[:, None]).reshape(-1))
    settings = SMALL | {"n_epochs": 60, "n_negatives": 8}
    top = {
        t: model(**settings, targets=t).fit(log).retrieve(first, k=1).item_ix[:, 0] for t in ("all", "new")
    }
    assert (top["new"] == 5 + np.arange(60) % 5).mean() > 0.9
    assert (top["all"] == np.arange(60) % 5).mean() > 0.5


def test_validation_of_new_targets_hides_what_was_seen():
    log = fashion_log(20, 4, seed=3)
    held = hold_out(log, by="time", frac=0.4, seed=0, only_new=True)
    assert held.hide_seen
    for user in range(len(held.queries)):
        seen = held.queries.item_ix[held.queries.offsets[user] : held.queries.offsets[user + 1]]
        wanted = held.truth.item_ix[held.truth.offsets[user] : held.truth.offsets[user + 1]]
        assert not set(seen) & set(wanted)
        assert len(set(wanted)) == len(wanted)


def test_what_a_model_does_not_follow_is_refused():
    with pytest.raises(ConfigError, match="trend_days must be >= 0 and finite, got -1"):
        SASRec(trend_days=-1.0)
    with pytest.raises(ConfigError, match='targets must be "all" or "new"'):
        SASRec(targets="old")
    with pytest.raises(ConfigError, match=r"TwoTower does not follow trend_days, got 3\.0"):
        TwoTower(trend_days=3.0)
    with pytest.raises(ConfigError, match="ARGUS does not follow targets, got 'new'"):
        ARGUS(targets="new")
    with pytest.raises(ConfigError, match="BERT4Rec does not follow targets, got 'new'"):
        BERT4Rec(targets="new")


def test_ties_are_shuffled_within_a_user_and_a_time_and_nowhere_else():
    item_ix = np.arange(12)
    ts = np.array([0, 0, 0, 1, 2, 2, 0, 0, 5, 5, 5, 5])
    log = histories(item_ix, ts, np.array([0, 6, 12]), 12)
    groups = [slice(0, 3), slice(3, 4), slice(4, 6), slice(6, 8), slice(8, 12)]
    drawn = [ties_shuffled(log, np.random.default_rng(seed)).item_ix for seed in range(200)]
    for at in groups:
        assert all(set(one[at]) == set(item_ix[at]) for one in drawn)
    first = np.bincount([one[0] for one in drawn], minlength=3)
    assert abs(first - 200 / 3).max() < 4 * np.sqrt(200 * 2 / 9)


def test_with_shuffled_ties_baskets_are_learned_in_either_order():
    """Baskets of two in one order in the log: without shuffling the second follows the first alone."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, (80, 4))
    items = np.stack([first, first + 4], -1).reshape(80, 8)
    ts = np.repeat(np.arange(4) * US_PER_DAY, 2)[None] + np.zeros((80, 1), np.int64)
    log = histories(items.reshape(-1), ts.reshape(-1), np.arange(81) * 8, 8)
    asked = histories(np.arange(8), np.zeros(8), np.arange(9), 8)
    other = (np.arange(8) + 4) % 8
    found = {}
    for shuffle in (False, True):
        model = SASRec(**SMALL | {"n_epochs": 30, "shuffle_ties": shuffle}).fit(log)
        found[shuffle] = (model.retrieve(asked, k=1).item_ix[:, 0] == other).tolist()
    assert found[False][:4] == [True] * 4
    assert not all(found[False][4:])
    assert found[True] == [True] * 8


def test_in_a_log_shorter_than_the_half_life_the_trend_is_learned_all_the_same():
    """Of one row, in which nothing was in fashion yet, its weight would stay as it began, and be served."""
    train = fashion_log(40, 6, seed=1)
    trend = Trend.over(train.item_ix, train.ts, 12, half_life_days=1e6)
    assert len(trend.table_RI) == 32
    assert (trend.row_of(train.ts) == 0).mean() < 0.15  # the log begins with a row or two of everybody
    assert trend.table_RI[1:].any(axis=1).all()
