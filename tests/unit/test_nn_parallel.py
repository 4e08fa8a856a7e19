"""Two processes take the steps of one: DDP and FSDP2 on the CPU, started by torchrun."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import nn_small_run as small  # noqa: E402

from vitrina.errors import ConfigError  # noqa: E402
from vitrina.nn.parallel import World, split_like, whole  # noqa: E402

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="this torch has no torch.distributed"
)

# In float64 the gradients of one and of two processes differ by the order of their sums: by less than 1e-13
# for terms of size 1. AdamW divides by sqrt(v) + 1e-8, so a step of lr 0.02 differs by less than
# 0.02 * 1e-13 / 1e-8 = 2e-7, and 8 steps by 2e-6. A gradient averaged wrongly moves weights by lr itself.
TOLERANCE = 2e-6


@pytest.fixture(scope="module")
def one() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The run of one process."""
    return small.small_fit()


@pytest.fixture(scope="module", params=["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote; those of FSDP2 are started by torchrun."""
    out = tmp_path_factory.mktemp(kind)
    small.fit_until(out / f"{kind}_from_one", step=small.STOP)
    program = [str(Path(small.__file__)), str(out), kind]
    around = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "CUDA_VISIBLE_DEVICES": ""}
    if kind == "fsdp":
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        started = [subprocess.Popen([*command, *program], env=around, stderr=subprocess.PIPE, text=True)]
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            around |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        started = [
            subprocess.Popen(
                [sys.executable, *program],
                env={**around, "WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in ("0", "1")
        ]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0] * len(started), said
    assert "was written by 1 process and 2 go on" in said[0]
    return out


@pytest.fixture(scope="module")
def pair(folder: Path) -> list[dict[str, np.ndarray]]:
    """What each of the two found."""
    return [dict(np.load(folder / f"rank{rank}.npz")) for rank in (0, 1)]


@pytest.mark.parametrize("how", ["", "_resumed", "_from_one"])
def test_two_processes_give_the_losses_and_weights_of_one(kind, how, one, pair) -> None:
    weights, losses = one
    for found in pair:
        np.testing.assert_allclose(found[f"{kind}{how}/loss"], losses, rtol=1e-9)
        for name, array in weights.items():
            np.testing.assert_allclose(found[f"{kind}{how}/weight/{name}"], array, atol=TOLERANCE, rtol=0)


def test_one_process_goes_on_from_a_checkpoint_of_two(kind, one, folder, pair, caplog) -> None:
    weights, losses = small.small_fit(folder / f"{kind}_to_one")
    assert "was written by 2 processes and 1 goes on" in caplog.text
    np.testing.assert_allclose(losses, one[1], rtol=1e-9)
    for name, array in one[0].items():
        np.testing.assert_allclose(weights[name], array, atol=TOLERANCE, rtol=0)


def test_every_process_retrieves_as_one_does(kind, pair) -> None:
    train = small.small_log()
    model = small.small_model(train)
    lists = model.retrieve(train, k=5)
    for found in pair:
        np.testing.assert_allclose(found[f"{kind}_sasrec/loss"], model.curve_["loss"].to_numpy(), rtol=1e-4)
        np.testing.assert_allclose(found[f"{kind}_sasrec/score"], lists.score, rtol=1e-2, atol=1e-3)
        assert (found[f"{kind}_sasrec/item_ix"] == lists.item_ix).mean() > 0.95
    for key in ("item_ix", "score"):
        np.testing.assert_array_equal(pair[0][f"{kind}_sasrec/{key}"], pair[1][f"{kind}_sasrec/{key}"])


@pytest.mark.parametrize(("n_rows", "size"), [(8, 2), (7, 3), (1, 2), (2, 5)])
def test_shares_count_every_row_once_and_none_is_empty(n_rows, size) -> None:
    batch = next(iter(small.new_run().batches(0))).rows(slice(0, n_rows))
    shares = [World(rank, size).share(batch) for rank in range(size)]
    assert all(len(share.batch) >= 1 for share in shares)
    counted = [share.batch.item_BT for share in shares if share.weight == 1]
    assert sum(map(len, counted)) == n_rows
    for rank, item_BT in enumerate(counted):
        torch.testing.assert_close(item_BT, batch.item_BT[rank::size], rtol=0, atol=0)


def test_processes_share_the_long_rows() -> None:
    """Rows come sorted by length; none may get the long ones alone."""
    batch = next(iter(small.new_run().batches(0)))
    n_tokens = [int(World(rank, 2).share(batch).batch.layout.valid_BT.sum()) for rank in range(2)]
    longest, shortest = batch.layout.valid_BT.sum(1).tolist()[:: len(batch) - 1]
    assert longest > shortest
    assert abs(n_tokens[0] - n_tokens[1]) <= longest


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigError, match="a list cannot be shared by 2 processes; give it rows"):
        World(0, 2).share([1, 2])


def test_tensors_of_one_process_are_whole() -> None:
    tensor = torch.arange(3.0)
    assert split_like(tensor, torch.zeros(3)) is tensor
    assert whole(tensor).equal(tensor)
