"""`torchrun -m vitrina train`: two processes train one model, the first one writes and prints."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

from vitrina.candidates import SASRec  # noqa: E402
from vitrina.errors import ArtifactError  # noqa: E402
from vitrina.nn.session import session  # noqa: E402
from vitrina.pipeline import Pipeline  # noqa: E402
from vitrina.recipes import load, open_data, train_run  # noqa: E402
from vitrina.testing import markov_world  # noqa: E402

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)
CONFIG = """
[data]
path = "log.parquet"
items = "items.parquet"

[[models]]
kind = "SASRec"
[models.params]
embedding_dim = 8
max_len = 10
n_layers = 1
n_epochs = 2
batch_size = 16
dropout = 0.0
precision = "float32"
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    train = markov_world(n_users=16, n_items=12, seed=0).train
    since_2020 = train.frame().with_columns(pl.col("ts") + pl.duration(days=365 * 50))
    since_2020.write_parquet(folder / "log.parquet")
    train.items.values.to_frame("item_id").write_parquet(folder / "items.parquet")
    (folder / "shop.toml").write_text(CONFIG)
    return folder


def torchrun(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    around = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*command, "-m", "vitrina", *arguments], cwd=cwd, env=around, capture_output=True, text=True
    )


def test_two_processes_write_one_folder_and_print_one_answer(shop, monkeypatch):
    done = torchrun("train", "shop.toml", "--model", "SASRec", "--out", "two", "--json", cwd=shop)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["model"] == "SASRec"
    assert sorted(path.name for path in (shop / "two").iterdir()) == [
        "card.json", "card.md", "config.toml", "histories", "model",
    ]  # fmt: skip
    monkeypatch.chdir(shop)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    train_run(load(shop / "shop.toml"), model="SASRec", out=shop / "one")
    torch.set_num_threads(before)
    one, two = (Pipeline.load(shop / name / "model").sources[0].generator for name in ("one", "two"))
    np.testing.assert_allclose(two.curve_["loss"], one.curve_["loss"], rtol=1e-4)
    np.testing.assert_allclose(two.item_emb_, one.item_emb_, atol=5e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("evaluate", "shop.toml"), "`vitrina evaluate` runs in one process and torchrun started 2"),
        (("train", "shop.toml"), "`vitrina evaluate` runs in one process and torchrun started 2"),
    ],
)
def test_what_several_processes_cannot_share_is_refused(arguments, message, shop, monkeypatch, capsys):
    """In this process, which torchrun could have started: it stops before it connects to others."""
    from vitrina.cli import main

    monkeypatch.chdir(shop)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(sys, "argv", ["vitrina", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_training_that_was_stopped_goes_on_with_another_schedule_where_that_is_asked_for(shop, tmp_path):
    """As `vitrina train --other-schedule` does, after the parameters of the file were changed."""
    config, served = load(shop / "shop.toml"), tmp_path / "served"
    log = open_data(config.data).log.histories()
    params = dict(config.models[0].params)
    with session(folder=served / "checkpoint"):
        SASRec(**params).fit(log)
    changed = config.model_copy(deep=True)
    changed.models[0].params["n_epochs"] = 3
    with pytest.raises(ArtifactError, match="n_epochs=2 in it and 3 now"):
        train_run(changed, model="SASRec", out=served)
    train_run(changed, model="SASRec", out=served, other_schedule=True)
    assert Pipeline.load(served / "model").sources[0].generator.curve_.height == 3
    assert not (served / "checkpoint").exists()
