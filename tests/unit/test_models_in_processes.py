"""Every public sequence model, trained by two processes on the CPU: the losses and lists of one."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import models_small_run as small  # noqa: E402

from vitrina.candidates import next_item  # noqa: E402
from vitrina.nn.training import fit  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed"),
    pytest.mark.usefixtures("one_thread"),
]
FIRST, OTHERS = ["SASRec", "TwoTower"], ["HSTU", "GRU4Rec", "BERT4Rec", "ARGUS"]


def by_two(out: Path, names: list[str]) -> list[dict[str, np.ndarray]]:
    """What each of two processes found."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    around = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    around |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, str(Path(small.__file__)), str(out), *names],
            env=around | {"RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in ("0", "1")
    ]
    said = [process.communicate(timeout=600)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    return [dict(np.load(out / f"rank{rank}.npz")) for rank in (0, 1)]


def check_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], prefix: str = "") -> None:
    """In float32, up to the order of sums over a few dozen steps."""
    np.testing.assert_allclose(found[f"{prefix}loss"], wanted["loss"], rtol=1e-4)
    for name in ("vectors", "users"):
        np.testing.assert_allclose(found[prefix + name], wanted[name], atol=5e-3)
    assert (found[f"{prefix}item_ix"] == wanted["item_ix"]).mean() > 0.95


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> tuple[Path, list[dict[str, np.ndarray]]]:
    out = tmp_path_factory.mktemp("two")
    return out, by_two(out, FIRST)


@pytest.mark.parametrize("name", FIRST)
def test_two_processes_give_the_losses_and_lists_of_one(name, two):
    wanted = small.train(name)
    for found in two[1]:
        check_same(found, wanted, f"{name}/")
    assert np.array_equal(two[1][0][f"{name}/vectors"], two[1][1][f"{name}/vectors"])


def test_one_process_goes_on_where_two_were_killed(two, caplog):
    """Fewer processes than the checkpoint had: it says so, and ends as one would have."""
    out, _ = two
    assert next((out / "stopped" / "SASRec-fit").iterdir()).name.startswith("e0001-")
    found = small.train("SASRec", folder=out / "stopped")
    assert "was written by 2 processes and 1 goes on: losses agree up to rounding" in caplog.text
    check_same(found, small.train("SASRec"))


def test_two_processes_that_remember_negatives_go_on_to_the_same_bits(two):
    """Each keeps the memory of its own part of the batches, of another length than the other's."""
    for found in two[1]:
        for key in ("loss", "vectors", "users", "item_ix"):
            np.testing.assert_array_equal(found[f"memory again/{key}"], found[f"memory/{key}"])


CASES = [
    *((name, {}) for name in small.MODELS),
    ("ARGUS", {"kinds": 2}),
    ("ARGUS", {"kinds": 2, "refusals": ("b",)}),
]
CASES += [("SASRec", {"tied": False, "trend_days": 5.0}), ("SASRec", {"tied": False, "item_table": "hashed"})]
CASES += [("TwoTower", {"n_layers": 1, "loss": "sampled_softmax"}), ("HSTU", {"time_bias": False})]


@pytest.mark.parametrize(("name", "more"), CASES)
def test_every_parameter_takes_part_in_the_loss_of_a_batch(name, more, monkeypatch):
    """Or is not trained: processes would wait for its gradient for ever."""
    log, missed, module = small.small_log(), {}, sys.modules[small.MODELS[name]().__module__]
    if "kinds" in more:
        kind_N = (np.arange(log.n_rows) % 2).astype(np.uint8)
        log = replace(log, event=kind_N, event_names=("a", "b"))

    def spied(objective, schedule, run, **options):
        loss_sum, _ = objective.train()(next(iter(run.batches(0))))
        loss_sum.backward()
        params = objective.named_parameters()
        missed[run.name] = [one for one, p in params if p.requires_grad and p.grad is None]
        objective.zero_grad(set_to_none=True)
        return fit(objective, schedule, run, **options)

    for where in {module, next_item}:
        monkeypatch.setattr(where, "fit", spied, raising=False)
    small.MODELS[name](n_epochs=1, **{key: value for key, value in more.items() if key != "kinds"}).fit(log)
    parts = ("fit", "tune") if name == "ARGUS" else ("fit",)
    assert missed == {part: [] for part in parts}


@pytest.mark.slow
def test_two_processes_give_the_losses_and_lists_of_one_for_the_other_models(tmp_path):
    pair = by_two(tmp_path, OTHERS)
    for name in OTHERS:
        wanted = small.train(name)
        for found in pair:
            check_same(found, wanted, f"{name}/")
