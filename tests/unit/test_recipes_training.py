"""Runs whose models learn by epochs: stopped by a NaN and gone on with, from the command line."""

import contextlib
import datetime as dt
import json

import polars as pl
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

from vitrina.candidates import GRU4Rec, SASRec  # noqa: E402
from vitrina.cli.app import app  # noqa: E402
from vitrina.errors import ConfigError  # noqa: E402
from vitrina.nn.session import session  # noqa: E402
from vitrina.pipeline import Pipeline  # noqa: E402
from vitrina.recipes import RECIPES, evaluate_run, load, open_run, with_models  # noqa: E402

CONFIG = """
[data]
path = "log.parquet"

[split]
last_days = 12

[evaluate]
metrics = ["NDCG@10"]
repeats = ["count"]
k = 10
n_bootstrap = 1000

[[models]]
kind = "MostPop"

[[models]]
kind = "SASRec"
params = { embedding_dim = 8, max_len = 10, n_layers = 1, n_epochs = 3, batch_size = 16, lr = 0.001 }
"""


@pytest.fixture
def shop(tmp_path):
    """Forty users who walk round a ring of ten items, one every three days."""
    start = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    rows = [
        {
            "user_id": user,
            "item_id": (user + step) % 10,
            "ts": start + dt.timedelta(days=3 * step, hours=user),
        }
        for user in range(40)
        for step in range(12)
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    (tmp_path / "shop.toml").write_text(CONFIG)
    return tmp_path


def vitrina(*arguments, cwd):
    with contextlib.chdir(cwd):
        return CliRunner().invoke(app, [*arguments, "--json"])


@pytest.fixture
def spoilt(monkeypatch):
    """A SASRec whose encoder computes NaN once, in the fifth batch: of the second epoch of three."""
    network, left = SASRec.network, [5]

    def of(self, n_items):
        encoder = network(self, n_items)

        def spoil(module, args, hidden_BTD):
            left[0] -= module.training
            return hidden_BTD * torch.nan if module.training and left[0] == 0 else hidden_BTD

        encoder.register_forward_hook(spoil)
        return encoder

    monkeypatch.setattr(SASRec, "network", of)


def test_an_evaluation_that_a_nan_stopped_goes_on_at_a_lower_rate_where_that_is_said(shop, spoilt):
    stopped = vitrina("evaluate", "shop.toml", cwd=shop)
    assert stopped.exit_code == 1
    why = json.loads(stopped.stdout)["failures"]["SASRec"]
    assert "the loss is nan at epoch 2, batch 2 of 3" in why
    assert "--other-schedule" in why
    models = shop / "runs" / "models"
    (kept,) = models.glob("SASRec-*.checkpoint")
    (shop / "shop.toml").write_text(CONFIG.replace("lr = 0.001", "lr = 0.0001"))

    refused = vitrina("evaluate", "shop.toml", cwd=shop)
    assert "its schedule: lr=0.001 in it and 0.0001 now" in json.loads(refused.stdout)["failures"]["SASRec"]
    assert list(models.glob("SASRec-*.checkpoint")) == [kept]

    gone_on = vitrina("evaluate", "shop.toml", "--other-schedule", cwd=shop)
    assert gone_on.exit_code == 0, gone_on.output
    assert list(models.glob("*.checkpoint")) == []
    (home,) = (path for path in models.glob("SASRec-*") if path.is_dir())
    assert json.loads(home.with_name(home.name + ".json").read_text())["sources"][0]["params"]["lr"] == 1e-4
    assert Pipeline.load(home).sources[0].generator.curve_["lr"].to_list() == [1e-3, 1e-4, 1e-4]


def scalars(folder):
    """Values of each curve that TensorBoard reads in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [point.value for point in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_reads_the_curves_of_a_run_that_asks_for_them(shop):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'vitrina[tracking]'")
    (shop / "shop.toml").write_text(
        CONFIG.replace("[[models]]", '[training]\ntracker = "tensorboard"\n\n[[models]]', 1)
    )
    assert vitrina("evaluate", "shop.toml", cwd=shop).exit_code == 0
    (curves,) = (shop / "runs" / "tensorboard").iterdir()  # MostPop has no epochs
    fit = Pipeline.load(shop / "runs" / "models" / curves.name).sources[0].generator.curve_
    assert scalars(curves)["fit/loss"] == pytest.approx(fit["loss"].to_list(), rel=1e-6)
    again = vitrina("train", "shop.toml", "--model", "SASRec", "--tracker", "tensorboard:here", cwd=shop)
    assert again.exit_code == 0, again.output
    served = Pipeline.load(shop / "runs" / "served" / "model").sources[0].generator.curve_
    assert scalars(shop / "here" / "SASRec-served")["fit/loss"] == pytest.approx(
        served["loss"].to_list(), rel=1e-6
    )


def test_mlflow_holds_a_run_for_each_fit_that_has_curves(shop):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: pip install 'vitrina[tracking]'")
    assert vitrina("evaluate", "shop.toml", "--tracker", "mlflow", cwd=shop).exit_code == 0
    client = mlflow.MlflowClient(tracking_uri=(shop / "runs" / "mlflow").as_uri())
    (kept,) = client.search_runs([client.get_experiment_by_name("vitrina").experiment_id])
    assert kept.info.run_name.startswith("SASRec-")
    assert kept.info.status == "FINISHED"
    assert kept.data.params["model"] == "SASRec"
    assert kept.data.params["lr"] == "0.001"
    assert len(client.get_metric_history(kept.info.run_id, "fit/loss")) == 3


def test_a_tracker_around_a_run_hears_of_its_fits(shop):
    points = []

    class Heard:
        def log(self, values, step):
            points.append(values["fit/loss"])

    with session(tracker=Heard()):
        evaluate_run(load(shop / "shop.toml"))
    assert len(points) == 3


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("comet", "no tracker 'comet'; there is: tensorboard, mlflow"),
        ("mlflow", "is not installed; run: pip"),
    ],
)
def test_a_tracker_that_is_not_there_stops_the_run_before_it_reads(asked, message, shop, monkeypatch):
    monkeypatch.setattr("vitrina.recipes.tracking.find_spec", lambda package: None)
    (shop / "log.parquet").unlink()
    stopped = vitrina("train", "shop.toml", "--model", "SASRec", "--tracker", asked, cwd=shop)
    assert message in str(stopped.exception)


def test_a_run_by_name_keeps_its_data_and_split_and_takes_any_class():
    run, shipped = open_run("online-retail", ["HSTU", "ItemKNN"]), RECIPES["online-retail"]()
    assert run.model_copy(update={"models": shipped.models}) == shipped
    assert [model.label for model in run.models] == [*(model.label for model in shipped.models), "HSTU"]
    assert run.models[-1].params == {}
    assert open_run("online-retail") == shipped
    assert [model.label for model in with_models(run, ["HSTU", "MostPop", "HSTU"]).models] == [
        "HSTU",
        "MostPop",
    ]


@pytest.mark.parametrize(
    ("given", "model", "message"),
    [
        (
            "online-shop",
            [],
            "a TOML file, docs/configuration.md has one, or a run by name: online-retail, movie",
        ),
        (
            "online-retail",
            ["Transformer"],
            r"has no model 'Transformer' and there is no such class; it has: Ran",
        ),
    ],
)
def test_what_is_neither_a_file_nor_a_run_nor_a_class_is_named(given, model, message):
    with pytest.raises(ConfigError, match=message):
        open_run(given, model)


def test_models_of_the_next_item_run_by_name_without_a_file(shop, monkeypatch):
    """On a small log in place of the shop's, with the defaults of the classes."""
    small = load(shop / "shop.toml")
    monkeypatch.setitem(RECIPES, "online-retail", lambda: small)
    found = vitrina("evaluate", "online-retail", "--model", "GRU4Rec", "--model", "SASRec", cwd=shop)
    assert found.exit_code == 0, found.output
    made = json.loads(found.stdout)["models"]
    assert made.keys() == {"GRU4Rec", "SASRec"}
    assert made["GRU4Rec"]["sources"][0]["params"] == GRU4Rec().params()
    assert made["SASRec"]["sources"][0]["params"]["lr"] == 0.001  # the run's own
    trained = vitrina("train", "online-retail", "--model", "GRU4Rec", cwd=shop)
    assert trained.exit_code == 0, trained.output
    (source,) = Pipeline.load(shop / "runs" / "served" / "model").sources
    assert isinstance(source.generator, GRU4Rec)
    assert source.generator.curve_.height == GRU4Rec().n_epochs
