"""Bad input through the public models: what each answers, or the one sentence it refuses with."""

import logging
import shutil

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

from vitrina.candidates import ARGUS, HSTU, BERT4Rec, ESASRec, GRU4Rec, GSASRec, SASRec, TwoTower  # noqa: E402
from vitrina.errors import ArtifactError, InputError  # noqa: E402
from vitrina.ids import Ids  # noqa: E402
from vitrina.log import Histories  # noqa: E402
from vitrina.nn import checkpoint  # noqa: E402
from vitrina.nn.session import session  # noqa: E402
from vitrina.nn.training import NotFiniteError  # noqa: E402
from vitrina.schema import US_PER_DAY, US_PER_SECOND  # noqa: E402

SMALL = {"embedding_dim": 8, "max_len": 6, "n_epochs": 2, "precision": "float32"}
MODELS = {
    "SASRec": lambda **more: SASRec(**{**SMALL, "n_layers": 1, **more}),
    "GSASRec": lambda **more: GSASRec(**{**SMALL, "n_layers": 1, "n_negatives": 4, **more}),
    "ESASRec": lambda **more: ESASRec(**{**SMALL, "n_layers": 1, "n_negatives": 4, **more}),
    "HSTU": lambda **more: HSTU(**{**SMALL, "n_layers": 1, "n_negatives": 4, **more}),
    "GRU4Rec": lambda **more: GRU4Rec(**{**SMALL, "hidden_dim": 8, **more}),
    "BERT4Rec": lambda **more: BERT4Rec(**{**SMALL, "n_layers": 1, **more}),
    "TwoTower": lambda **more: TwoTower(**{**SMALL, "n_negatives": 4, **more}),
    "ARGUS": lambda **more: ARGUS(**{**SMALL, "hidden_dim": 8, "n_layers": 1, "n_negatives": 4, **more}),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def log_of(lists: list[list[int]]) -> Histories:
    """Users 0, 1, ... who took these items, one a minute."""
    frame = pl.DataFrame(
        {
            "user_id": np.repeat(np.arange(len(lists)), [len(one) for one in lists]),
            "item_id": np.concatenate(lists).astype(np.int64),
            "ts": np.concatenate([US_PER_DAY + 60 * US_PER_SECOND * np.arange(len(one)) for one in lists]),
        }
    ).with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC")))
    return Histories.from_frame(frame)


def some_log(n_items: int = 9, seed: int = 0) -> Histories:
    rng = np.random.default_rng(seed)
    return log_of([rng.integers(0, n_items, n).tolist() for n in (20, 3, 8, 5, 11, 2)])


@pytest.mark.parametrize("name", MODELS)
def test_of_a_history_longer_than_max_len_the_latest_rows_are_read(name):
    train = some_log()
    model = MODELS[name]().fit(train)
    n_read = 5 if name == "BERT4Rec" else 6
    whole = model.retrieve(train, k=3)
    np.testing.assert_allclose(model.embed(train), model.embed(train.last(n_read)), atol=1e-6)
    np.testing.assert_array_equal(whole.item_ix, model.retrieve(train.last(n_read), k=3).item_ix)
    assert np.abs(model.embed(train) - model.embed(train.last(n_read - 1))).max() > 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_history_gets_an_empty_list_and_an_unknown_item_is_left_out(name):
    train = log_of([[0, 1, 2, 3], [2, 3, 0], [1, 0]])
    model = MODELS[name]().fit(train)
    asked, _ = Histories.from_lists(Ids(pl.Series([0, 1, 2, 3, 77])), [[], [77], [0, 77, 1], [0, 1]])
    lists = model.retrieve(asked, k=3)
    assert lists.lengths.tolist() == [0, 0, 3, 3]
    np.testing.assert_array_equal(lists.item_ix[2], lists.item_ix[3])
    assert not model.embed(asked)[:2].any()
    nobody = model.retrieve(asked.rows(np.zeros(0, np.int32)), k=3)
    assert nobody.item_ix.shape[0] == 0


@pytest.mark.parametrize("name", MODELS)
def test_a_log_in_which_nothing_follows_anything_is_refused(name):
    with pytest.raises(
        InputError, match=f"{name}.fit needs a history of at least two rows, the longest of 3"
    ):
        MODELS[name]().fit(log_of([[0], [1], [2]]))


@pytest.mark.parametrize("name", MODELS)
def test_a_catalogue_of_one_item_has_one_answer(name):
    train = log_of([[5, 5, 5], [5, 5]])
    model = MODELS[name]().fit(train)
    assert model.retrieve(train, k=4).item_ix.tolist() == [[0], [0]]
    assert np.isfinite(model.item_emb_).all()
    assert model.curve_["loss"].is_finite().all()


LOSSES = {"sampled_softmax": 0.0, "bce": np.log(2), "gbce": np.log(2)}
"""What is left of each loss once no negative counts: nothing, or the term of the positive, log 2 at 0."""


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ["SASRec", "HSTU", "GRU4Rec", "BERT4Rec"])
def test_negatives_that_all_collide_leave_the_term_of_the_positive(name, loss):
    """Everyone takes nothing but 1, and negatives are what the others took next."""
    train = log_of([[1, 1, 1], [1, 1], [1, 1, 1, 1]])
    wide = train.reindex(Ids(pl.Series([0, 1, 2])))
    model = MODELS[name](
        loss=loss, negatives="in_batch", n_negatives=8, n_epochs=1, cosine=False, temperature=1.0
    )
    model.fit(wide)
    assert np.isfinite(model.item_emb_).all()
    assert model.curve_["loss"][0] == pytest.approx(LOSSES[loss], abs=0.05)
    assert model.retrieve(wide, k=3).lengths.tolist() == [3, 3, 3]


class Faulty(SASRec):
    """A SASRec whose encoder computes NaN once, in one batch: a fault of the machine, say."""

    at_call = 0
    """Of the encoder while training, from 1; 0 is never."""

    def network(self, n_items):
        encoder, left = super().network(n_items), type(self).at_call

        def spoil(module, args, hidden_BTD):
            nonlocal left
            left -= module.training
            return hidden_BTD * np.nan if module.training and left == 0 else hidden_BTD

        encoder.register_forward_hook(spoil)
        return encoder


def faulty(at_call: int, folder, **more):
    Faulty.at_call = at_call
    with session(folder=folder):
        return Faulty(**{**SMALL, "n_layers": 1, "batch_size": 4, "n_epochs": 3, **more}).fit(some_log())


def test_a_loss_that_is_nan_stops_at_its_batch_and_the_run_goes_on_from_the_last_good_checkpoint(tmp_path):
    expected = faulty(0, tmp_path / "never")
    n_batches = 3
    message = (
        rf"the loss is nan at epoch 2, batch 2 of {n_batches}; lower lr=0.001 or clip the gradient, "
        r"clip_norm=0; the last good checkpoint stays in .*Faulty-fit, and --other-schedule of the command "
        r"line, or session\(other_schedule=True\), goes on"
    )
    with pytest.raises(NotFiniteError, match=message) as caught:
        faulty(n_batches + 2, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert checkpoint.find(tmp_path / "run" / "Faulty-fit").name == f"e0001-s{n_batches:09d}"
    model = faulty(0, tmp_path / "run")
    np.testing.assert_array_equal(model.item_emb_, expected.item_emb_)
    assert model.curve_["loss"].to_list() == expected.curve_["loss"].to_list()


def test_a_loss_that_is_nan_before_any_checkpoint_says_that_there_is_none(tmp_path):
    with pytest.raises(NotFiniteError, match=r"epoch 1, batch 1 of 3; .*; no checkpoint was written yet"):
        faulty(1, tmp_path / "run")


def test_a_step_out_of_bounds_is_gone_on_with_at_a_lower_rate_where_that_is_said(tmp_path, caplog):
    with pytest.raises(NotFiniteError, match=r"lower lr=1e\+30"):
        faulty(0, tmp_path / "run", lr=1e30)
    with pytest.raises(NotFiniteError):
        faulty(5, tmp_path / "run")
    with pytest.raises(ArtifactError, match=r"another run \(its schedule: lr=0.001 in it and 0.0001 now\)"):
        faulty(0, tmp_path / "run", lr=1e-4)
    with session(other_schedule=True), caplog.at_level(logging.WARNING):
        model = faulty(0, tmp_path / "run", lr=1e-4)
    assert "had another schedule: lr=0.001 in it and 0.0001 now; going on with this one" in caplog.text
    assert model.curve_["lr"].to_list() == [1e-3, 1e-4, 1e-4]


@pytest.mark.parametrize("name", MODELS)
def test_a_checkpoint_of_other_shapes_or_of_another_log_is_refused(name, tmp_path):
    folder = tmp_path / "run"

    def train(log: Histories, **more) -> None:
        with session(folder=folder):
            MODELS[name](n_epochs=1, **more).fit(log)

    train(some_log())
    with pytest.raises(
        ArtifactError, match=r"other shapes \(.* is \(.*8.*\) in it and \(.*16.*\) in the model"
    ):
        train(some_log(), embedding_dim=16)
    other = some_log()
    other.item_ix[:2] = other.item_ix[:2][::-1].copy()
    assert other.item_ix.tolist() != some_log().item_ix.tolist()
    with pytest.raises(ArtifactError, match=r"another run \(log or parameters differ: its hash is"):
        train(other)
    with pytest.raises(ArtifactError, match=r"another run \(log or parameters differ"):
        train(some_log(), dropout=0.4)
    shutil.rmtree(folder)
    train(other)
