"""State of a training run on disk, so that a killed run goes on with the very numbers it would have had.

    <folder>/manifest.json, arrays.safetensors      (`vitrina.artifact`: hashed, atomic, no pickle)

Kept are the weights, the state of the optimiser, the generator of random numbers, the best weights so far
and the place in the run. The order of batches is a function of seed and epoch, and needs no state.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitrina import artifact
from vitrina.errors import ArtifactError

KIND = "Checkpoint"


@dataclass
class Progress:
    """How far a run has come."""

    fingerprint: str
    """Of data, model and schedule; a checkpoint of another one is refused."""
    epoch: int = 0
    """Epochs done."""
    step: int = 0
    """Steps done in all."""
    step_of_epoch: int = 0
    """Steps done of the running epoch."""
    loss_sum: float = 0.0
    """Summed loss of the running epoch."""
    n_terms: int = 0
    """Terms in it."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """One entry an epoch: epoch, loss, validation, seconds, lr."""
    best_epoch: int = 0
    """Epoch of the best validation so far, from 1; 0 while there is none."""
    best: float = float("-inf")
    """Its value."""


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    best: dict[str, Tensor] | None,
) -> None:
    """Write everything that the run needs to go on; atomically."""
    state = optimizer.state_dict()
    arrays = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    scalars: dict[str, dict[str, float]] = {}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                arrays[f"optimizer/{index}/{name}"] = value
            else:
                scalars.setdefault(str(index), {})[name] = value
    arrays |= {f"best/{name}": tensor for name, tensor in (best or {}).items()}
    arrays["rng"] = torch.get_rng_state()
    if torch.cuda.is_available():
        arrays["rng_cuda"] = torch.cuda.get_rng_state()
    groups = [{k: v for k, v in group.items() if k != "params"} for group in state["param_groups"]]
    about = {"progress": vars(progress), "scalars": scalars, "groups": groups}
    tensors = {
        name: tensor.detach().cpu().float().numpy()
        if tensor.dtype == torch.bfloat16
        else tensor.detach().cpu().numpy()
        for name, tensor in arrays.items()
    }
    artifact.save(artifact.Saved(kind=KIND, params={}, state={"about": about, "tensors": tensors}), folder)


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, fingerprint: str
) -> tuple[Progress, dict[str, Tensor] | None]:
    """Put a saved state into the model, the optimiser and the random numbers.

    Raises:
        ArtifactError: the folder is damaged, or it belongs to other data, parameters or shapes.
    """
    saved = artifact.load(folder)
    if saved.kind != KIND:
        raise ArtifactError(f"{folder} holds a {saved.kind}, not a checkpoint; give another folder")
    about, tensors = saved.state["about"], saved.state["tensors"]
    progress = Progress(**about["progress"])
    if progress.fingerprint != fingerprint:
        raise ArtifactError(
            f"{folder} is a checkpoint of another run (log, model or schedule differ: {progress.fingerprint} "
            f"is not {fingerprint}); delete it or give another folder"
        )
    _load_weights(folder, model, _part(tensors, "model/"))
    optimizer.load_state_dict(_optimizer_state(optimizer, about, _part(tensors, "optimizer/")))
    torch.set_rng_state(torch.from_numpy(tensors["rng"]))
    if "rng_cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.from_numpy(tensors["rng_cuda"]))
    best = {name: torch.from_numpy(array) for name, array in _part(tensors, "best/").items()}
    return progress, best or None


def _part(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def _load_weights(folder: Path, model: nn.Module, arrays: dict[str, Any]) -> None:
    for name, tensor in model.state_dict().items():
        found = arrays.get(name)
        shape = None if found is None else tuple(found.shape)
        if shape != tuple(tensor.shape):
            raise ArtifactError(
                f"{folder} has {shape} for {name}, the model has {tuple(tensor.shape)}; "
                "resume with the parameters the checkpoint was written with"
            )
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})


def _optimizer_state(
    optimizer: torch.optim.Optimizer, about: dict[str, Any], arrays: dict[str, Any]
) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for name, array in arrays.items():
        index, slot = name.split("/", 1)
        state.setdefault(int(index), {})[slot] = torch.from_numpy(array)
    for index, slots in about["scalars"].items():
        state.setdefault(int(index), {}).update(slots)
    members = [group["params"] for group in optimizer.state_dict()["param_groups"]]
    groups = [group | {"params": params} for group, params in zip(about["groups"], members, strict=True)]
    return {"state": state, "param_groups": groups}
