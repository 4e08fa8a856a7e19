"""Small public models for the tests of several processes: in this one by `train`, in two as a program.

WORLD_SIZE=2 RANK=... python models_small_run.py <folder> SASRec TwoTower ...
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitrina.candidates import ARGUS, HSTU, BERT4Rec, GRU4Rec, SASRec, TwoTower
from vitrina.log import Histories
from vitrina.nn.session import session
from vitrina.testing import markov_world

SMALL = {"embedding_dim": 8, "max_len": 10, "n_epochs": 3, "lr": 0.01, "dropout": 0.0, "precision": "float32"}
SMALL |= {"loss": "softmax", "batch_size": 16}
"""Nothing is drawn in a step, so that processes that share a batch compute what one does."""
MODELS: dict[str, Any] = {
    "SASRec": lambda **more: SASRec(**{**SMALL, "n_layers": 1, **more}),
    "HSTU": lambda **more: HSTU(**{**SMALL, "n_layers": 1, **more}),
    "GRU4Rec": lambda **more: GRU4Rec(**{**SMALL, "hidden_dim": 8, **more}),
    "BERT4Rec": lambda **more: BERT4Rec(**{**SMALL, "n_layers": 1, **more}),
    "TwoTower": lambda **more: TwoTower(**{**SMALL, **more}),
    "ARGUS": lambda **more: ARGUS(**{**SMALL, "hidden_dim": 8, "n_layers": 1, "p_no_context": 0.0, **more}),
}
KILLED_AT = 6
"""Step at which the run that is killed dies: in its second epoch of three."""


class Killed(Exception):
    """Stands for kill -9: nothing after it runs."""


def small_log() -> Histories:
    return markov_world(n_users=16, n_items=12, seed=0).train


def train(name: str, folder: Path | None = None, kill_at: int = 0, **more: Any) -> dict[str, np.ndarray]:
    """Losses, vectors and lists of a model; with `kill_at` it dies in that step and gives nothing."""
    model, log = MODELS[name](**more), small_log()
    make = model.network

    def network(n_items: int) -> Any:
        encoder, left = make(n_items), kill_at

        def count(module: torch.nn.Module, inputs: Any) -> None:
            nonlocal left
            left -= module.training
            if module.training and left == 0:
                raise Killed

        encoder.register_forward_pre_hook(count)
        return encoder

    model.network = network
    with session(folder=folder):
        try:
            model.fit(log)
        except Killed:
            return {}
    lists = model.retrieve(log, k=5)
    return {
        "loss": model.curve_["loss"].to_numpy(),
        "vectors": model.item_emb_,
        "users": model.embed(log),
        "item_ix": lists.item_ix,
    }


def main(out: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    found: dict[str, np.ndarray] = {}
    for name in names:
        found |= {f"{name}/{key}": array for key, array in train(name).items()}
    train(names[0], folder=out / "stopped", kill_at=KILLED_AT)
    remembers = {"loss": "sampled_softmax", "negatives": "memory", "n_negatives": 150, "dropout": 0.2}
    found |= {f"memory/{key}": array for key, array in train("SASRec", **remembers).items()}
    train("SASRec", folder=out / "memory", kill_at=KILLED_AT, **remembers)
    again = train("SASRec", folder=out / "memory", **remembers)
    found |= {f"memory again/{key}": array for key, array in again.items()}
    rank = torch.distributed.get_rank()
    np.savez(out / f"rank{rank}.npz", **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
