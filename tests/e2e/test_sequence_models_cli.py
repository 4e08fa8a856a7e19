"""Every sequence model from a TOML file: evaluated with intervals, trained, loaded, asked."""

import contextlib
import datetime as dt
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from vitrina.cli.app import app
from vitrina.log import Histories
from vitrina.pipeline import Pipeline

SMALL = {"embedding_dim": 16, "max_len": 12, "n_epochs": 2, "lr": 0.01, "batch_size": 32}
MODELS: dict[str, dict[str, object]] = {
    "SASRec": SMALL | {"n_layers": 1, "trend_days": 7.0, "targets": "new", "shuffle_ties": True},
    "GSASRec": SMALL | {"n_layers": 1, "n_negatives": 8},
    "ESASRec": SMALL | {"n_layers": 1, "n_negatives": 8, "lr_decay": "cosine", "n_warmup_steps": 5},
    "HSTU": SMALL | {"n_layers": 1, "n_negatives": 8, "request_time": True},
    "GRU4Rec": SMALL | {"hidden_dim": 16},
    "BERT4Rec": SMALL | {"n_layers": 1, "validation": "time", "patience": 1},
    "TwoTower": SMALL | {"n_negatives": 16},
    "ARGUS": SMALL
    | {"n_negatives": 16, "request_time": True, "feed_events": ["event"], "asked_from": "feed"},
}


def toml(value: object) -> str:
    return json.dumps(value)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 users who walk through rings of ten items."""
    folder = tmp_path_factory.mktemp("rings")
    rng = np.random.default_rng(0)
    length, start = rng.integers(6, 20, 120), dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    user = np.repeat(np.arange(120), length)
    step = np.concatenate([np.arange(n) for n in length])
    item = 10 * (user % 4) + (user + step) % 10
    day = step * 3 + rng.uniform(0, 1, len(user))
    ts = [start + dt.timedelta(days=float(d)) for d in day]
    pl.DataFrame({"user_id": user, "item_id": item, "ts": ts}).write_parquet(folder / "log.parquet")
    models = "".join(
        f'\n[[models]]\nkind = "{kind}"\nparams = {{ '
        + ", ".join(f"{name} = {toml(value)}" for name, value in params.items())
        + " }\n"
        for kind, params in {"MostPop": {}, **MODELS}.items()
    )
    (folder / "rings.toml").write_text(
        """
[data]
path = "log.parquet"

[split]
last_days = 12

[evaluate]
metrics = ["NDCG@10"]
k = 10
n_bootstrap = 1000
"""
        + models
    )
    return folder


def vitrina(*arguments: str, cwd: Path) -> dict[str, object]:
    with contextlib.chdir(cwd):
        done = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_every_model_is_evaluated_from_one_file(log):
    found = vitrina("evaluate", "rings.toml", cwd=log)
    text = json.dumps(found)
    for kind in MODELS:
        assert f'"{kind}' in text
    assert "knows the time of each request" in text


@pytest.mark.parametrize("kind", MODELS)
def test_each_model_is_trained_loaded_and_asked(log, kind):
    served = log / f"served-{kind}"
    vitrina("train", "rings.toml", "--model", kind, "--out", served.name, cwd=log)
    histories = Histories.open(served / "histories")
    feed = Pipeline.load(served / "model").recommend(histories.rows([0, 1, 2]), k=5).frame()
    assert feed.height == 15
