"""Norms while a model learns: the figures, that watching changes no weight, that the report draws them."""

import numpy as np
import polars as pl
import pytest
from scipy import stats

torch = pytest.importorskip("torch")

from vitrina.candidates import CANDIDATES, norms  # noqa: E402
from vitrina.candidates.norms import NormWatch  # noqa: E402
from vitrina.candidates.sasrec import SASRec  # noqa: E402
from vitrina.errors import ConfigError  # noqa: E402
from vitrina.evaluate import Evaluation, Protocol, evaluate, write_report  # noqa: E402
from vitrina.ids import Ids  # noqa: E402
from vitrina.log import EventLog  # noqa: E402
from vitrina.nn.layout import cut_windows  # noqa: E402
from vitrina.nn.next_item import NextItemObjective, batch_of  # noqa: E402
from vitrina.nn.session import session  # noqa: E402
from vitrina.pipeline import Pipeline, Source  # noqa: E402
from vitrina.split import leave_one_out  # noqa: E402
from vitrina.testing import markov_world  # noqa: E402

SMALL = {"embedding_dim": 8, "max_len": 8, "n_layers": 1, "n_epochs": 2, "lr": 0.01, "precision": "float32"}
COSINE = {"cosine": True, "temperature": 0.1, "tied": False}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world():
    return markov_world(n_users=60, n_items=20, seed=0)


class Table:
    """What a watch reads of an encoder."""

    def __init__(self, vectors_ID):
        self.vectors_ID = torch.tensor(vectors_ID, dtype=torch.float32)

    def item_vectors(self):
        return self.vectors_ID


def test_the_figures_are_those_of_a_slow_twin(monkeypatch):
    monkeypatch.setattr(norms, "ROWS_AT_ONCE", 7)
    rng = np.random.default_rng(3)
    before, counts = rng.standard_normal((30, 5)), rng.integers(0, 20, 30)
    table = Table(before)
    watch = NormWatch(table, counts)
    watch.begin()
    after = before + 0.1 * rng.standard_normal((30, 5))
    after[4] = before[4]  # did not move
    table.vectors_ID.copy_(torch.tensor(after))
    found = watch.after_epoch()
    length = np.linalg.norm(after, axis=1)
    cos = [
        (a - b) @ b / np.linalg.norm(a - b) / np.linalg.norm(b)
        for at, (a, b) in enumerate(zip(after, before, strict=True))
        if at != 4
    ]
    assert found["norm"] == pytest.approx(length.mean(), rel=1e-5)
    assert found["update_cos"] == pytest.approx(np.mean(cos), abs=1e-5)
    seen = counts > 0
    assert found["count_norm"] == pytest.approx(stats.spearmanr(counts[seen], length[seen]).statistic)


@pytest.mark.parametrize("angle", [0.1, 1.0])
def test_a_vector_that_turns_has_minus_the_sine_of_half_the_angle_and_one_that_grows_has_one(angle):
    table = Table([[2.0, 0.0], [0.0, 3.0]])
    watch = NormWatch(table, np.array([1, 2]))
    watch.begin()
    cos, sin = np.cos(angle), np.sin(angle)
    table.vectors_ID.copy_(table.vectors_ID @ torch.tensor([[cos, sin], [-sin, cos]], dtype=torch.float32))
    assert watch.after_epoch()["update_cos"] == pytest.approx(-np.sin(angle / 2), abs=1e-5)
    watch.begin()
    table.vectors_ID.mul_(1.5)
    assert watch.after_epoch() == pytest.approx({"norm": 3.75, "count_norm": 1.0, "update_cos": 1.0})


def test_what_cannot_be_said_is_left_out():
    watch = NormWatch(Table(np.ones((3, 2))), np.array([5, 5, 5]))
    watch.begin()
    assert watch.after_epoch() == pytest.approx({"norm": 2**0.5})


def test_watching_changes_no_weight_and_costs_no_column_when_off(world):
    plain = SASRec(**SMALL, **COSINE).fit(world.train)
    with session(norms=True):
        watched = SASRec(**SMALL, **COSINE).fit(world.train)
    assert all((watched.weights_[name] == array).all() for name, array in plain.weights_.items())
    assert set(watched.curve_.columns) - set(plain.curve_.columns) == {"norm", "count_norm", "update_cos"}
    raw = watched.weights_["target.weight"]
    assert (watched.raw_item_emb == raw).all()
    assert watched.curve_["norm"][-1] == pytest.approx(np.linalg.norm(raw, axis=1).mean(), rel=1e-5)
    assert np.linalg.norm(watched.item_emb_, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_the_start_norm_is_that_of_the_weights_before_the_first_step(world):
    still = SASRec(**{**SMALL, **COSINE, "n_epochs": 1, "lr": 1e-12}).fit(world.train)
    assert still.start_norm == pytest.approx(np.linalg.norm(still.raw_item_emb, axis=1).mean(), rel=1e-4)


class StoppedError(Exception):
    pass


def test_a_run_that_was_stopped_goes_on_with_the_curve_it_had(world, tmp_path):
    model = {**SMALL, **COSINE, "n_epochs": 3, "batch_size": 8}
    with session(norms=True):
        whole = SASRec(**model).fit(world.train)
    fitted = []

    class Stops(SASRec):
        def _batches(self, train, windows, epoch):
            if epoch == 2 and not fitted:
                fitted.append(epoch)
                raise StoppedError
            return super()._batches(train, windows, epoch)

    for _ in range(2):
        with session(norms=True, folder=tmp_path):
            try:
                again = Stops(**model).fit(world.train)
            except StoppedError:
                continue
    names = ["epoch", "norm", "count_norm", "update_cos"]
    for name in names:
        assert again.curve_[name].to_list() == pytest.approx(whole.curve_[name].to_list())


def test_a_cosine_model_is_served_by_cosine_and_the_report_draws_its_epochs(world, tmp_path):
    rows = world.train.frame().select("user_id", "item_id", pl.col("ts").dt.offset_by("40y"))
    log = EventLog.from_frame(rows)
    split = leave_one_out(log)
    train = split.train.histories()
    pipelines = {}
    for name, params in (("cosine", COSINE), ("dot", {})):
        with session(norms=True):
            pipelines[name] = Pipeline(sources=[Source(generator=SASRec(**SMALL, **params))]).fit(train)
    protocol = Protocol(k=10, metrics=("NDCG@10", "Recall@10"), repeats="count")
    found = evaluate(pipelines, split, train=train, protocol=protocol)
    for name, entry in found.popularity().items():
        served = next(one for one in entry.servings if one.is_served)
        assert served.serving == name
        run = next(run for run in found.runs if run.model == name)
        assert served.ndcg == pytest.approx(run.average("ndcg@10"), abs=1e-9)
        assert served.recall == pytest.approx(run.average("recall@10"), abs=1e-9)
        assert entry.epoch_frame()["count_norm"].len() == 2
    write_report({"all": found}, tmp_path / "report.html")
    assert "Length while training" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("tied", "most"), [(False, 1e-4), (True, np.inf)])
def test_a_cosine_loss_pulls_at_right_angles_unless_the_table_is_read_too(world, tied, most):
    params = {**SMALL, **COSINE, "tied": tied, "dropout": 0.0, "loss": "sampled_softmax", "n_negatives": 16}
    train, model = world.train, SASRec(**params)
    objective = NextItemObjective(model.network(20), model._loss_config(), train.item_counts())
    windows = cut_windows(train.offsets, 8, every=True)
    objective(batch_of(windows, train.item_ix, train.ts, 20))[0].backward()
    encoder = objective.encoder
    table = encoder.item if tied else encoder.target
    vectors, pull = (t.detach().numpy()[:20].astype(float) for t in (table.weight, table.weight.grad))
    length = np.linalg.norm(vectors, axis=1) * np.linalg.norm(pull, axis=1)
    cos = np.abs((vectors * pull).sum(axis=1)[length > 0] / length[length > 0])
    assert len(cos) == 20
    assert cos.max() < most
    assert (cos.max() > 0.05) == tied


def test_an_item_without_training_rows_keeps_its_start_where_negatives_come_from_the_batch(world):
    known = world.train.items.values
    train = world.train.reindex(Ids(pl.concat([known, pl.Series([999], dtype=known.dtype)])))
    params = {**SMALL, **COSINE, "loss": "sampled_softmax", "negatives": "in_batch", "n_negatives": 32}
    start, end = (SASRec(**{**params, "lr": lr}).fit(train).raw_item_emb for lr in (1e-12, 0.01))
    assert end[20] == pytest.approx(start[20], abs=1e-7)
    assert np.abs(end[:20] - start[:20]).max() > 0.01


@pytest.mark.parametrize("name", ["ImplicitALS", "BPR"])
def test_factor_models_keep_their_lengths_by_epoch_when_asked(name, world, tmp_path):
    model = CANDIDATES[name](embedding_dim=8, n_epochs=3).fit(world.train)
    assert model.curve_.is_empty()
    with session(norms=True):
        watched = model.clone().fit(world.train)
    np.testing.assert_array_equal(watched.item_emb_, model.item_emb_)
    assert watched.curve_["epoch"].to_list() == [1, 2, 3]
    length, counts = np.linalg.norm(model.item_emb_, axis=1), world.train.item_counts()
    last = watched.curve_.row(-1, named=True)
    assert last["norm"] == pytest.approx(length.mean(), rel=1e-5)
    assert last["count_norm"] == pytest.approx(stats.spearmanr(counts, length).statistic)
    for one in (model, watched):
        one.save(tmp_path / "model")
        assert CANDIDATES[name].load(tmp_path / "model").curve_.equals(one.curve_)


def test_the_report_draws_the_epochs_of_a_factor_model_beside_those_of_a_network(world, tmp_path):
    rows = world.train.frame().select("user_id", "item_id", pl.col("ts").dt.offset_by("40y"))
    split = leave_one_out(EventLog.from_frame(rows))
    train = split.train.histories()
    models = {"als": CANDIDATES["ImplicitALS"](embedding_dim=8, n_epochs=3), "sasrec": SASRec(**SMALL)}
    with session(norms=True):
        pipelines = {
            name: Pipeline(sources=[Source(generator=model)]).fit(train) for name, model in models.items()
        }
    found = evaluate(
        pipelines, split, train=train, protocol=Protocol(k=10, metrics=("NDCG@10",), repeats="count")
    )
    frame = found.popularity()["als"].epoch_frame()
    assert frame["epoch"].to_list() == [1, 2, 3]
    assert frame["count_norm"].is_not_null().all()
    found.save(tmp_path / "found")
    write_report({"all": Evaluation.load(tmp_path / "found")}, tmp_path / "report.html")
    assert "Length while training" in (tmp_path / "report.html").read_text()


def test_a_model_that_diverges_says_so_when_its_lengths_are_asked_for_too(world):
    with session(norms=True), pytest.raises(ConfigError, match="BPR diverged"):
        CANDIDATES["BPR"](embedding_dim=8, n_epochs=30, lr=1e4, reg=0.0).fit(world.train)
