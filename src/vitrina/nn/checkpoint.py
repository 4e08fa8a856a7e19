"""State of a training run on disk, so that a killed run goes on with the very numbers it would have had.

    <folder>/e0002-s000000345/manifest.json, arrays.safetensors      (`vitrina.artifact`: hashed, no pickle)

Kept are the weights, the state of the optimiser, the generators of random numbers (one a process), what a
module carries from step to step (its `carried` and `take_up`; one a process), the best weights so far and the
place in the run. The order of batches is a function of seed and epoch, and needs no state. A new checkpoint
is written beside the old one and renamed to its own name, and only then the old one is removed: at every
moment one is whole.

Weights and optimiser state are whole whatever the number of processes that wrote them; any number can go on.
"""

import logging
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitrina import artifact
from vitrina.errors import ArtifactError
from vitrina.nn.parallel import World, split_like, whole

KIND = "Checkpoint"
NAME = re.compile(r"e(\d+)-s(\d+)")

logger = logging.getLogger("vitrina.nn")


@dataclass
class Progress:
    """How far a run has come."""

    fingerprint: str
    """Of data and model; a checkpoint of another one is refused."""
    schedule: dict[str, Any] = field(default_factory=dict)
    """What it was trained by."""
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
    seconds: float = 0.0
    """Time spent on it, those before an interruption included."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """One entry an epoch: epoch, loss, validation (where there is one), lr (of its last step), seconds."""
    best_epoch: int = 0
    """Epoch of the best validation so far, from 1; 0 while there is none."""
    best: float | None = None
    """Its value."""


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    best: dict[str, Tensor] | None,
    carry: dict[str, Tensor],
    here: World,
) -> None:
    """Write everything that the run needs to go on; every process calls it, the first one writes.

    Args:
        folder: where checkpoints of this run lie; holds one.
        model: the whole weights.
        optimizer: of the weights that are trained, split or not.
        progress: the place in the run.
        best: weights of the best epoch.
        carry: what this process's module carries from step to step.
        here: the processes.

    Raises:
        ArtifactError: the disk refuses; the checkpoint before is as it was.
    """
    state = optimizer.state_dict()
    arrays = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    scalars: dict[str, dict[str, float]] = {}
    for index, slots in state["state"].items():
        for name, value in slots.items():
            if isinstance(value, Tensor):
                arrays[f"optimizer/{index}/{name}"] = whole(value)
            else:
                scalars.setdefault(str(index), {})[name] = value
    arrays |= {f"best/{name}": tensor for name, tensor in (best or {}).items()}
    for name, tensor in carry.items():
        arrays |= {f"carried/{rank}/{name}": one for rank, one in enumerate(here.each_says(tensor))}
    arrays["rng"] = here.all_say(torch.get_rng_state())
    if torch.cuda.is_available():
        arrays["rng_cuda"] = here.all_say(torch.cuda.get_rng_state())
    if not here.is_first:
        return
    about = {
        "progress": vars(progress),
        "optimizer": type(optimizer).__name__,
        "scalars": scalars,
        "shapes": {name: list(tensor.shape) for name, tensor in arrays.items()},
    }
    tensors = {name: _array(tensor) for name, tensor in arrays.items()}
    saved = artifact.Saved(kind=KIND, params={}, state={"about": about, "tensors": tensors})
    target = folder / f"e{progress.epoch:04d}-s{progress.step:09d}"
    artifact.save(saved, target)
    for other in folder.iterdir():
        if other != target and other.is_dir() and NAME.match(other.name.lstrip(".")):
            shutil.rmtree(other, ignore_errors=True)


def load(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    trained: nn.Module,
    new: Progress,
    here: World,
    *,
    other_schedule: bool = False,
) -> tuple[Progress, dict[str, Tensor] | None]:
    """Put a saved state into the model, the optimiser and the random numbers; every process calls it.

    Args:
        folder: where checkpoints of this run lie; it may be missing or empty.
        model: takes the whole weights.
        optimizer: of the weights that are trained.
        trained: `model`, or the copy of it that is split.
        new: of this run, were it to start anew.
        here: the processes; each must see the folder.
        other_schedule: whether a checkpoint of another schedule is gone on with.

    Returns:
        The place in the run (a new one where there is no checkpoint) and the weights of the best epoch.

    Raises:
        ArtifactError: the checkpoint is damaged, or it belongs to other data, parameters or shapes.
    """
    latest = find(folder)
    places = here.all_say(
        torch.tensor([int(g) for g in NAME.findall(latest.name)[0]] if latest else [-1, -1])
    )
    if (places != places[0]).any():
        raise ArtifactError(
            f"processes see different checkpoints in {folder} (epoch and step: {places.tolist()}); "
            "put it on a disk that all of them share"
        )
    if latest is None:
        return new, None
    about, tensors = _read(latest, type(optimizer).__name__)
    _check_shapes(latest, model, _part(tensors, "model/"))
    _check_run(latest, about["progress"], new, other_schedule=other_schedule)
    try:
        progress = Progress(**about["progress"] | {"schedule": new.schedule})
        with torch.no_grad():
            for part in {id(model): model, id(trained): trained}.values():
                for name, tensor in part.state_dict().items():
                    tensor.copy_(split_like(torch.from_numpy(tensors[f"model/{name}"]), tensor))
        optimizer.load_state_dict(_optimizer_state(optimizer, about, _part(tensors, "optimizer/")))
        _take_up(trained, tensors, here)
        _restore_rng(tensors, here)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"{latest} does not hold what this version keeps ({error}); delete {folder} to start anew"
        ) from error
    n_written = len(tensors["rng"])
    if n_written != here.size:
        logger.warning(
            "%s was written by %s and %s on: losses agree up to rounding, random draws are others",
            latest,
            "1 process" if n_written == 1 else f"{n_written} processes",
            "1 goes" if here.size == 1 else f"{here.size} go",
        )
    logger.info("going on from %s: %d epochs and %d steps done", latest, progress.epoch, progress.step)
    best = {name: torch.from_numpy(array) for name, array in _part(tensors, "best/").items()}
    return progress, best or None


def find(folder: Path) -> Path | None:
    """The latest checkpoint of a folder; None where there is none.

    Raises:
        ArtifactError: the folder holds something else.
    """
    if not folder.exists():
        return None
    names = [entry.name for entry in folder.iterdir() if not NAME.match(entry.name.lstrip("."))]
    if names:
        raise ArtifactError(
            f"{folder} holds {sorted(names)[0]}, which is no checkpoint; give a folder of its own to each run"
        )
    found = [entry for entry in folder.iterdir() if NAME.fullmatch(entry.name)]
    return max(found, key=lambda entry: [int(g) for g in NAME.findall(entry.name)[0]], default=None)


def _array(tensor: Tensor) -> Any:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _read(latest: Path, optimizer: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `save` wrote, as long as it is whole."""
    try:
        saved = artifact.load(latest)
        if saved.kind != KIND:
            raise ArtifactError(f"it holds a {saved.kind}, not a checkpoint")
        about, tensors = saved.state["about"], saved.state["tensors"]
        tensors = {name: array.reshape(about["shapes"][name]) for name, array in tensors.items()}
    except (ArtifactError, KeyError, ValueError) as error:
        raise ArtifactError(
            f"the checkpoint {latest} is damaged ({str(error).split(';')[0]}); "
            f"delete {latest.parent} to train from the start"
        ) from error
    if about["optimizer"] != optimizer:
        raise ArtifactError(
            f"{latest} is a checkpoint of another run (its optimiser is {about['optimizer']}, this run's "
            f"{optimizer}); delete it or give another folder"
        )
    return about, tensors


def _part(tensors: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): array for name, array in tensors.items() if name.startswith(prefix)}


def carried(module: nn.Module) -> dict[str, Tensor]:
    """What a module carries from step to step beside its weights; nothing where it has no `carried`."""
    give = getattr(module, "carried", None)
    return {} if give is None else give()


def _take_up(module: nn.Module, tensors: dict[str, Any], here: World) -> None:
    """What this process carried; one that the checkpoint did not have takes that of another."""
    if not carried(module):
        return
    found = _part(tensors, f"carried/{here.rank % len(tensors['rng'])}/")
    module.take_up({name: torch.from_numpy(array) for name, array in found.items()})  # type: ignore[operator]


def _check_run(latest: Path, was: dict[str, Any], new: Progress, *, other_schedule: bool) -> None:
    if was["fingerprint"] != new.fingerprint:
        raise ArtifactError(
            f"{latest} is a checkpoint of another run (log or parameters differ: its hash is "
            f"{was['fingerprint']}, this run's {new.fingerprint}); delete it or give another folder"
        )
    before = was.get("schedule", {})
    differs = ", ".join(
        f"{name}={before.get(name)} in it and {value} now"
        for name, value in new.schedule.items()
        if before.get(name) != value
    )
    if differs and not other_schedule:
        raise ArtifactError(
            f"{latest} is a checkpoint of another run (its schedule: {differs}); delete it, give another "
            "folder or go on with it by --other-schedule, or session(other_schedule=True)"
        )
    if differs:
        logger.warning("%s had another schedule: %s; going on with this one", latest, differs)


def _check_shapes(latest: Path, model: nn.Module, arrays: dict[str, Any]) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(array.shape) for name, array in arrays.items()}
    for name in [*wanted, *found]:
        if found.get(name) != wanted.get(name):
            raise ArtifactError(
                f"{latest} is a checkpoint of other shapes ({name} is {found.get(name, 'missing')} in it and "
                f"{wanted.get(name, 'missing')} in the model); resume with the parameters and the log it was "
                "written with, or delete it"
            )


def _optimizer_state(
    optimizer: torch.optim.Optimizer, about: dict[str, Any], arrays: dict[str, Any]
) -> dict[str, Any]:
    """Moments from the checkpoint, options as the schedule of this run gave them."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, array in arrays.items():
        index, slot = name.split("/", 1)
        state.setdefault(int(index), {})[slot] = split_like(torch.from_numpy(array), params[int(index)])
    for index, slots in about["scalars"].items():
        state.setdefault(int(index), {}).update(slots)
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}


def _restore_rng(tensors: dict[str, Any], here: World) -> None:
    """The state of this process's generators; a process that the checkpoint did not have draws a new one."""
    n_written = len(tensors["rng"])
    torch.set_rng_state(torch.from_numpy(tensors["rng"][here.rank if here.rank < n_written else 0]))
    if "rng_cuda" in tensors and torch.cuda.is_available() and here.rank < n_written:
        torch.cuda.set_rng_state(torch.from_numpy(tensors["rng_cuda"][here.rank]))
    if here.rank >= n_written:
        torch.manual_seed(int(torch.randint(1 << 62, ())) + here.rank)
