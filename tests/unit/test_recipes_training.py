"""Runs whose models learn by epochs: stopped by a NaN and gone on with, from the command line."""

import contextlib
import datetime as dt
import json

import polars as pl
import pytest
from typer.testing import CliRunner

torch = pytest.importorskip("torch")

from vitrina.candidates import SASRec  # noqa: E402
from vitrina.cli.app import app  # noqa: E402
from vitrina.pipeline import Pipeline  # noqa: E402

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
