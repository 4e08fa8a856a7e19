"""A small training run for the tests of the loop: one process by `run`, several as a program under torchrun.

torchrun --nproc-per-node 2 nn_small_run.py <folder> ddp
python nn_small_run.py <folder> alone       says each step, for a test that kills it with SIGKILL
"""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitrina.candidates.sasrec import SASRec
from vitrina.log import Histories
from vitrina.nn.blocks import TransformerBlock
from vitrina.nn.layout import batches, cut_windows
from vitrina.nn.next_item import Encoder, LossConfig, NextItemObjective, batch_of
from vitrina.nn.training import Run, Schedule, fit
from vitrina.testing import markov_world

N_ITEMS, MAX_LEN, BATCH_SIZE = 13, 5, 8
STOP = 6
"""Steps after which a run is killed: in the middle of its second epoch of four."""


class Killed(Exception):
    """Stands for kill -9: nothing after it runs."""


def log(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Offsets and items of 16 histories: the last batch holds one."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 12, 16)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return offsets, rng.integers(0, N_ITEMS, offsets[-1])


def new_objective(
    *, dropout: float = 0.0, dtype: torch.dtype = torch.float64, dim: int = 8, **loss: Any
) -> NextItemObjective:
    torch.manual_seed(0)
    blocks = [TransformerBlock(dim, 2, ffn_dim=2 * dim, dropout=dropout) for _ in range(2)]
    encoder = Encoder(N_ITEMS, dim, MAX_LEN, blocks, dropout=dropout, tied=False)
    counts = np.bincount(log()[1], minlength=N_ITEMS)
    return NextItemObjective(encoder, LossConfig(**loss), counts).to(dtype)


def new_run(**more: Any) -> Run:
    offsets, item_ix = log(more.pop("log_seed", 0))
    windows = cut_windows(offsets, MAX_LEN)

    def epoch_batches(epoch: int) -> Any:
        for some in batches(windows, BATCH_SIZE, rng=np.random.default_rng([0, epoch])):
            yield batch_of(some, item_ix, np.zeros(len(item_ix), np.int64), N_ITEMS)

    return Run(
        batches=epoch_batches, n_batches=-(-len(windows.start) // BATCH_SIZE), fingerprint="small", **more
    )


def new_schedule(**more: Any) -> Schedule:
    defaults = {"n_epochs": 2, "lr": 0.02, "clip_norm": 0.5, "decay": "cosine", "n_warmup_steps": 3}
    return Schedule(**{**defaults, "precision": "float32", "checkpoint_s": 1e9, **more})


def kill_after(step: int) -> Any:
    """Raises once `step` steps are done."""
    done = 0

    def on_step(epoch: int, at: int, loss: float) -> None:
        nonlocal done
        done += 1
        if done >= step:
            raise Killed

    return on_step


def weights(objective: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.detach().clone().numpy() for name, tensor in objective.state_dict().items()}


def small_fit(folder: Path | None = None) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Weights and losses of the run that all numbers of processes must agree on."""
    objective = new_objective()
    curve = fit(objective, new_schedule(), new_run(folder=folder))
    return weights(objective), np.array([entry["loss"] for entry in curve])


def small_model(train: Histories) -> SASRec:
    return SASRec(
        embedding_dim=8,
        max_len=10,
        n_layers=1,
        n_epochs=2,
        lr=0.01,
        dropout=0.0,
        validation="last",
        precision="float32",
        refit=False,
    ).fit(train)


def small_log() -> Histories:
    return markov_world(n_users=40, n_items=12, seed=0).train


def main(out: Path, kind: str) -> None:
    torch.set_num_threads(1)
    if kind == "alone":
        noisy_fit(out, lambda epoch, at, loss: print(epoch, at, flush=True), checkpoint_s=0.0)
        return
    rank = int(os.environ["RANK"])
    found: dict[str, np.ndarray] = {}
    train = small_log()
    os.environ["VITRINA_FSDP"] = str(int(kind == "fsdp"))
    arrays, losses = small_fit()
    found |= {f"{kind}/weight/{name}": array for name, array in arrays.items()} | {f"{kind}/loss": losses}

    stopped, from_one = out / f"{kind}_stopped", out / f"{kind}_from_one"
    fit_until(stopped, step=STOP)
    if rank == 0:
        shutil.copytree(stopped, out / f"{kind}_to_one")
    for name, folder in (("resumed", stopped), ("from_one", from_one)):
        arrays, losses = small_fit(folder)
        found |= {f"{kind}_{name}/weight/{key}": array for key, array in arrays.items()}
        found[f"{kind}_{name}/loss"] = losses

    model = small_model(train)
    lists = model.retrieve(train, k=5)
    found |= {f"{kind}_sasrec/item_ix": lists.item_ix, f"{kind}_sasrec/score": lists.score}
    found[f"{kind}_sasrec/loss"] = model.curve_["loss"].to_numpy()
    np.savez(out / f"rank{rank}.npz", **found)


def noisy_fit(folder: Path | None = None, on_step: Any = None, checkpoint_s: float = 1e9) -> Any:
    """Weights of a run of 80 steps with dropout and drawn negatives."""
    loss = {"loss": "sampled_softmax", "n_negatives": 6, "negatives": "mixed", "learned_temperature": True}
    objective = new_objective(dropout=0.3, dtype=torch.float32, **loss)
    schedule = new_schedule(n_epochs=20, checkpoint_s=checkpoint_s)
    fit(objective, schedule, new_run(folder=folder, on_step=on_step))
    return weights(objective)


def fit_until(folder: Path, *, step: int) -> None:
    """A run that is killed once `step` steps are done, its checkpoint written after the step before."""
    counted = kill_after(step)
    schedule, run = new_schedule(checkpoint_s=0.0), new_run(folder=folder)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        run.on_step = counted
    else:
        run.batches = killing(run.batches, step)
    try:
        fit(new_objective(), schedule, run)
    except Killed:
        return
    raise AssertionError("the run was not killed")


def killing(make: Any, step: int) -> Any:
    """Batches that end in `Killed` in every process at once, after `step` of them."""
    left = step

    def of(epoch: int) -> Any:
        nonlocal left
        for batch in make(epoch):
            if left == 0:
                raise Killed
            left -= 1
            yield batch

    return of


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
