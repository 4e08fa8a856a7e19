"""The loop that trains every neural model: one function, plain, from the first batch to the last.

    for epoch: for batch: loss = objective(batch) / n;  backward;  clip;  step;  lr of the next step
    after an epoch: validate, keep the best weights, stop when it has not risen for `patience` epochs

The objective is a module that gives the *sum* of a batch's losses and how many terms it has. So the loss of a
step is a mean over all processes' terms, and two processes that share a batch take the same step as one.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from vitrina.errors import ConfigError, VitrinaError
from vitrina.nn import checkpoint
from vitrina.nn.checkpoint import Progress
from vitrina.nn.parallel import World, world


class NotFiniteError(VitrinaError, ArithmeticError):
    """The loss of a batch is NaN or infinite."""


class Tracker(Protocol):
    """Where curves go: MLflow, TensorBoard, a list in a test."""

    def log(self, values: dict[str, float], step: int) -> None:
        """Figures of one moment of the run."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long, how fast, how carefully."""

    n_epochs: int
    lr: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.98)
    n_warmup_steps: int = 0
    """Steps over which lr rises from 0."""
    decay: str = "none"
    """"none": lr stays; "cosine": falls to a tenth by the last step."""
    clip_norm: float = 0.0
    """Largest norm of the gradient; 0 does not clip."""
    patience: int = 0
    """Epochs without a better validation after which to stop; 0 runs all epochs."""
    precision: str = "auto"
    """"float32", "bf16" (autocast), or "auto": bf16 where the processor computes in it."""
    checkpoint_s: float = 60.0
    """Seconds between checkpoints, where a folder is given; one is written at the end of every epoch, too."""

    def __post_init__(self) -> None:
        if self.decay not in ("none", "cosine"):
            raise ConfigError(f'decay must be "none" or "cosine", got {self.decay!r}')
        if self.precision not in ("auto", "float32", "bf16"):
            raise ConfigError(f'precision must be "auto", "float32" or "bf16", got {self.precision!r}')

    def lr_at(self, step: int, n_steps: int) -> float:
        """Learning rate of step 0, 1, ... of `n_steps`."""
        warm = min(1.0, (step + 1) / self.n_warmup_steps) if self.n_warmup_steps else 1.0
        if self.decay == "none":
            return self.lr * warm
        done = min(1.0, step / max(1, n_steps))
        return self.lr * warm * (0.55 + 0.45 * math.cos(math.pi * done))


@dataclass
class Run:
    """What `fit` needs to know beside the objective and the schedule."""

    batches: Callable[[int], Sequence[Any] | Iterable[Any]]
    """Batches of epoch 0, 1, ...; the same at every call with the same epoch."""
    n_batches: int
    """Batches of an epoch."""
    fingerprint: str = ""
    """Of data and model, for checkpoints."""
    validate: Callable[[], float] | None = None
    """Called after every epoch in eval mode; higher is better."""
    folder: Path | None = None
    """Where checkpoints lie; None writes none."""
    tracker: Tracker | None = None
    on_step: Callable[[int, int, float], None] | None = None
    """Hears of (epoch, step of the epoch, mean loss so far) after every step."""


def has_fast_bf16() -> bool:
    """Whether this processor (or GPU) multiplies in bfloat16, rather than emulating it."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and any(word in flags.read_text() for word in ("avx512_bf16", "amx_bf16"))


def fit(
    objective: nn.Module,
    schedule: Schedule,
    run: Run,
    *,
    optimizer: torch.optim.Optimizer | None = None,
) -> list[dict[str, float]]:
    """Train `objective` in place and give its curve, one entry an epoch.

    With validation, the weights at the end are those of the best epoch. With a folder, a run that was stopped
    at any step goes on from its last checkpoint and ends with the same weights as if it had not been.

    Args:
        objective: forward(batch) gives (sum of losses, number of terms), both scalar tensors.
        schedule: epochs, learning rate and so on.
        run: batches, validation, checkpoints, who hears of it.
        optimizer: None takes AdamW.

    Raises:
        NotFiniteError: a loss is NaN or infinite; says at which batch. The last checkpoint stays as it was.
        ArtifactError: the checkpoint in the folder belongs to another run.
    """
    here = world()
    optimizer = optimizer or torch.optim.AdamW(
        objective.parameters(), lr=schedule.lr, betas=schedule.betas, weight_decay=schedule.weight_decay
    )
    progress, best = Progress(fingerprint=run.fingerprint), None
    if run.folder is not None and (run.folder / "manifest.json").is_file():
        progress, best = checkpoint.load(run.folder, objective, optimizer, run.fingerprint)
    wrapped = here.wrap(objective)
    while progress.epoch < schedule.n_epochs and not _tired(progress, schedule):
        began = time.perf_counter()
        _epoch(wrapped, objective, optimizer, schedule, run, progress, best, here)
        entry = {"epoch": progress.epoch + 1.0, "loss": progress.loss_sum / max(1, progress.n_terms)}
        if run.validate is not None:
            objective.eval()
            entry["validation"] = run.validate()
            if entry["validation"] > progress.best:
                progress.best, progress.best_epoch = entry["validation"], progress.epoch + 1
                best = {name: tensor.detach().clone() for name, tensor in objective.state_dict().items()}
        entry["seconds"] = time.perf_counter() - began
        progress.curve.append(entry)
        progress.epoch, progress.step_of_epoch = progress.epoch + 1, 0
        progress.loss_sum, progress.n_terms = 0.0, 0
        if run.tracker is not None and here.is_first:
            run.tracker.log(entry, progress.step)
        if run.folder is not None and here.is_first:
            checkpoint.save(run.folder, objective, optimizer, progress, best)
    if best is not None:
        objective.load_state_dict(best)
    objective.eval()
    return progress.curve


def _tired(progress: Progress, schedule: Schedule) -> bool:
    return bool(schedule.patience) and progress.epoch - progress.best_epoch >= schedule.patience


def _epoch(
    wrapped: nn.Module,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    run: Run,
    progress: Progress,
    best: dict[str, Tensor] | None,
    here: World,
) -> None:
    """The steps of one epoch that are still to be taken."""
    objective.train()
    n_steps = schedule.n_epochs * run.n_batches
    device = next(objective.parameters()).device.type
    bf16 = schedule.precision == "bf16" or (schedule.precision == "auto" and has_fast_bf16())
    saved_at = time.monotonic()
    for at, batch in enumerate(run.batches(progress.epoch)):
        if at < progress.step_of_epoch:
            continue
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr_at(progress.step, n_steps)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            loss_sum, n_terms = wrapped(here.share(batch))
        total, n_all = here.sum(loss_sum.detach(), n_terms)
        if not math.isfinite(total):
            raise NotFiniteError(
                f"the loss is {total} at epoch {progress.epoch + 1}, batch {at + 1} of {run.n_batches}; "
                f"lower lr={schedule.lr:g} or set clip_norm, the last checkpoint is as it was"
            )
        (loss_sum * (here.size / max(1, n_all))).backward()
        if schedule.clip_norm:
            nn.utils.clip_grad_norm_(objective.parameters(), schedule.clip_norm)
        optimizer.step()
        progress.step, progress.step_of_epoch = progress.step + 1, at + 1
        progress.loss_sum, progress.n_terms = progress.loss_sum + total, progress.n_terms + n_all
        if run.on_step is not None:
            run.on_step(progress.epoch, at, progress.loss_sum / max(1, progress.n_terms))
        if run.folder is not None and here.is_first and time.monotonic() - saved_at > schedule.checkpoint_s:
            checkpoint.save(run.folder, objective, optimizer, progress, best)
            saved_at = time.monotonic()
