"""The loop that trains every neural model: one function, plain, from the first batch to the last.

    for epoch: for batch: loss = objective(batch) / n;  backward;  clip;  step;  lr of the next step
    after an epoch: validate, keep the best weights, stop when it has not risen for `patience` epochs

The objective is a module that gives the *sum* of a batch's losses and how many terms it has. So the loss of a
step is a mean over all processes' terms, and two processes that share a batch take the same step as one.

A step is a function of the weights, the optimiser's state, the batch and the state of torch's generator. The
first, second and last are in the checkpoint, and the batch is a function of seed and epoch; validation and
the skipping of batches leave the generator as it was. So a run that goes on gives the numbers of one that was
never stopped.
"""

import hashlib
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitrina.errors import ConfigError, VitrinaError
from vitrina.nn import checkpoint
from vitrina.nn.checkpoint import Progress
from vitrina.nn.parallel import Said, World, world

logger = logging.getLogger("vitrina.nn")


class NotFiniteError(VitrinaError, ArithmeticError):
    """The loss of a batch, a weight or a validation is NaN or infinite."""


class Tracker(Protocol):
    """Where curves go: MLflow, TensorBoard (`vitrina.nn.trackers`), a list in a test."""

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
        if self.n_epochs < 1 or not 0 < self.lr < math.inf:
            raise ConfigError(
                f"a schedule needs n_epochs >= 1 and a finite lr > 0, got {self.n_epochs} and {self.lr}"
            )
        for name in ("weight_decay", "n_warmup_steps", "clip_norm", "patience", "checkpoint_s"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be >= 0, got {getattr(self, name)}")

    def lr_at(self, step: int, n_steps: int) -> float:
        """Learning rate of step s = 0, 1, ... of S = `n_steps`, with W = `n_warmup_steps`.

            s < W           lr (s + 1) / W
            "cosine"        lr (0.55 + 0.45 cos(pi (s - W) / (S - 1 - W))), from lr to lr / 10
            "none"          lr

        Source of the cosine: Loshchilov & Hutter, ICLR 2017, arXiv:1608.03983, without restarts.
        """
        if step < self.n_warmup_steps:
            return self.lr * (step + 1) / self.n_warmup_steps
        if self.decay == "none":
            return self.lr
        done = min(1.0, (step - self.n_warmup_steps) / max(1, n_steps - 1 - self.n_warmup_steps))
        return self.lr * (0.55 + 0.45 * math.cos(math.pi * done))


@dataclass
class Run:
    """What `fit` needs to know beside the objective and the schedule."""

    batches: Callable[[int], Sequence[Any] | Iterable[Any]]
    """Batches of epoch 0, 1, ...; the same at every call with the same epoch."""
    n_batches: int
    """Batches of an epoch."""
    fingerprint: str = ""
    """Of data and model, for checkpoints, which hold the schedule beside it."""
    other_schedule: bool = False
    """Whether to go on with a checkpoint of the same data and model that has another schedule."""
    validate: Callable[[], float] | None = None
    """After an epoch, in eval mode, in every process; the first one's value counts. Higher is better."""
    after_epoch: Callable[[], dict[str, float]] | None = None
    """Called after an epoch, before validation, in every process; its figures join the curve."""
    folder: Path | None = None
    """Where checkpoints of this run, and nothing else, lie; None writes none."""
    tracker: Tracker | None = None
    """Hears of every epoch: "<name>/loss", "<name>/validation", "<name>/lr", "<name>/seconds"."""
    on_step: Callable[[int, int, float], None] | None = None
    """Hears of (epoch, step of the epoch, mean loss so far) after every step."""
    name: str = "fit"
    """Stands before the figures that the tracker gets."""


def has_fast_bf16(device: str = "cpu") -> bool:
    """Whether a "cpu" or "cuda" device multiplies in bfloat16, rather than emulating it."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags.read_text().split())


@dataclass
class _Trainee:
    """One run, while it runs."""

    objective: nn.Module
    """Holds the whole weights, after `collect`."""
    wrapped: nn.Module
    """Is trained: the objective, DDP around it, or a copy of it that is split."""
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    run: Run
    here: World
    progress: Progress
    best: dict[str, Tensor] | None = None

    def save(self, folder: Path) -> None:
        """Write a checkpoint; every process calls it."""
        self.here.collect(self.wrapped, self.objective)
        self.check_weights()
        checkpoint.save(
            folder,
            self.objective,
            self.optimizer,
            self.progress,
            self.best,
            checkpoint.carried(self.trained),
            self.here,
        )

    @property
    def trained(self) -> nn.Module:
        """The module whose parameters the optimiser holds: the objective, or the copy of it that is split."""
        return self.wrapped if self.here.sharded else self.objective

    def check_weights(self) -> None:
        """Refuse weights that a step has ruined although its loss was finite."""
        for name, tensor in self.objective.state_dict().items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                at, epoch = self.progress.step_of_epoch, self.progress.epoch + 1
                raise NotFiniteError(
                    f"{name} is not finite after epoch {epoch}, batch {at} of {self.run.n_batches}; "
                    f"{self.advice}"
                )

    @property
    def advice(self) -> str:
        """What to do about it."""
        do = f"lower lr={self.schedule.lr:g} or clip the gradient, clip_norm={self.schedule.clip_norm:g}"
        if self.run.folder is None:
            return do
        if checkpoint.find(self.run.folder) is None:
            return f"{do}; no checkpoint was written yet"
        return (
            f"{do}; the last good checkpoint stays in {self.run.folder}, and --other-schedule of the command "
            "line, or session(other_schedule=True), goes on from it with another schedule"
        )


def fit(
    objective: nn.Module,
    schedule: Schedule,
    run: Run,
    *,
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None,
) -> list[dict[str, float]]:
    """Train `objective` in place and give its curve, one entry an epoch.

    With validation, the weights at the end are those of the best epoch. With a folder, a run that was stopped
    at any step goes on from its last checkpoint and ends with the same weights as if it had not been. Under
    `torchrun` every process calls it, and each ends with the whole weights.

    Args:
        objective: forward(batch) gives (sum of losses, number of terms), the first a scalar tensor. With
            several processes every parameter must take part in every batch's loss.
        schedule: epochs, learning rate and so on.
        run: batches, validation, checkpoints, who hears of it.
        optimizer: makes the optimiser of a module's parameters; None takes AdamW.

    Returns:
        Dicts of epoch (from 1), loss (mean over the epoch's terms), lr (of its last step), validation (where
        there is one) and seconds.

    Raises:
        NotFiniteError: a loss is NaN or infinite; says at which batch. The last checkpoint stays as it was.
        ArtifactError: the checkpoint in the folder is damaged or belongs to another run.
    """
    here = world()
    wrapped = here.wrap(objective)
    trained = wrapped if here.sharded else objective
    made = _adamw(trained, schedule) if optimizer is None else optimizer(trained)
    progress, best = _new_progress(schedule, run), None
    here.part_ways()
    if run.folder is not None:
        progress, best = checkpoint.load(
            run.folder, objective, made, trained, progress, here, other_schedule=run.other_schedule
        )
    state = _Trainee(objective, wrapped, made, schedule, run, here, progress, best)
    while progress.epoch < schedule.n_epochs and not _is_tired(progress, schedule):
        _epoch(state)
        _after_epoch(state)
    if state.best is not None:
        objective.load_state_dict(state.best)
    else:
        here.collect(wrapped, objective)
    objective.eval()
    return progress.curve


def _adamw(module: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        module.parameters(), lr=schedule.lr, betas=schedule.betas, weight_decay=schedule.weight_decay
    )


def _new_progress(schedule: Schedule, run: Run) -> Progress:
    """With all that decides the numbers; how often checkpoints are written does not."""
    fingerprint = hashlib.sha256(repr((run.fingerprint, run.n_batches)).encode()).hexdigest()[:16]
    decides = {name: value for name, value in asdict(schedule).items() if name != "checkpoint_s"}
    return Progress(fingerprint=fingerprint, schedule=decides | {"betas": list(schedule.betas)})


def _is_tired(progress: Progress, schedule: Schedule) -> bool:
    return bool(schedule.patience) and progress.epoch - progress.best_epoch >= schedule.patience


def kept_rng() -> AbstractContextManager[Any]:
    """What is drawn inside does not move the generators outside."""
    return torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else [])


class NothingDrawn(TorchFunctionMode):
    """Modules made inside start from zeros, for weights that are loaded anyway.

    The generators, which are those of the whole process, stay untouched: `kept_rng` would put them back to
    where they were, and so rewind a training in another thread.
    """

    DRAWS = (Tensor.normal_, Tensor.uniform_)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.DRAWS or getattr(func, "__module__", "") == "torch.nn.init":
            with torch.no_grad():
                return (args[0] if args else kwargs["tensor"]).zero_()
        return func(*args, **kwargs)


def _batches_left(state: _Trainee) -> Iterator[tuple[int, Any]]:
    """Batches of the running epoch that are still to be taken, with their places."""
    done = state.progress.step_of_epoch
    if not done:
        return enumerate(state.run.batches(state.progress.epoch))
    with kept_rng():
        batches = enumerate(state.run.batches(state.progress.epoch))
        for _ in islice(batches, done):
            pass
    return batches


def _epoch(state: _Trainee) -> None:
    """The steps of one epoch that are still to be taken."""
    schedule, run, progress = state.schedule, state.run, state.progress
    state.wrapped.train()
    device = next(state.wrapped.parameters()).device
    bf16 = schedule.precision == "bf16" or (schedule.precision == "auto" and has_fast_bf16(device.type))
    began, spent = time.perf_counter(), progress.seconds
    saved_at = began
    for at, batch in _batches_left(state):
        is_due = run.folder is not None and time.perf_counter() - saved_at >= schedule.checkpoint_s
        said = _step(state, at, batch, device, bf16=bf16, is_due=is_due)
        progress.seconds = spent + time.perf_counter() - began
        if run.on_step is not None and state.here.is_first:
            run.on_step(progress.epoch, at, progress.loss_sum / max(1, progress.n_terms))
        if run.folder is not None and said.is_due:
            state.save(run.folder)
            saved_at = time.perf_counter()


def _step(state: _Trainee, at: int, batch: Any, device: torch.device, *, bf16: bool, is_due: bool) -> Said:
    """Loss, gradient, step of the optimiser."""
    schedule, run, progress, here = state.schedule, state.run, state.progress, state.here
    for group in state.optimizer.param_groups:
        group["lr"] = schedule.lr_at(progress.step, schedule.n_epochs * run.n_batches)
    state.optimizer.zero_grad(set_to_none=True)
    share, weight = here.share(batch)
    if device.type != "cpu":
        share = share.to(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
        loss_sum, n_terms = state.wrapped(share)
    said = here.agree(float(loss_sum.detach()) * weight, int(n_terms) * int(weight), is_due=is_due)
    if not math.isfinite(said.loss_sum):
        raise NotFiniteError(
            f"the loss is {said.loss_sum} at epoch {progress.epoch + 1}, batch {at + 1} of {run.n_batches}; "
            f"{state.advice}"
        )
    (loss_sum * (weight * here.size / max(1, said.n_terms))).backward()
    if schedule.clip_norm:
        clip_(state.wrapped.parameters(), schedule.clip_norm)
    state.optimizer.step()
    progress.step, progress.step_of_epoch = progress.step + 1, at + 1
    progress.loss_sum, progress.n_terms = progress.loss_sum + said.loss_sum, progress.n_terms + said.n_terms
    return said


def clip_(params: Iterable[Tensor], largest: float) -> None:
    """Scale gradients, all alike, so that their norm together is at most `largest`.

    A sparse gradient may hold a row more than once; what its rows add up to is what counts, and is scaled.
    """
    grads = []
    for param in params:
        if param.grad is not None and param.grad.is_sparse:
            param.grad = param.grad.coalesce()
        if param.grad is not None:
            grads.append(param.grad.values() if param.grad.is_sparse else param.grad)
    scale = (largest / (nn.utils.get_total_norm(grads) + 1e-6)).clamp(max=1.0)
    for grad in grads:
        grad.mul_(scale.to(grad.device))


def _after_epoch(state: _Trainee) -> None:
    """Validation, the curve, a checkpoint."""
    run, progress, here = state.run, state.progress, state.here
    began = time.perf_counter()
    here.collect(state.wrapped, state.objective)
    state.check_weights()
    entry = {"epoch": progress.epoch + 1.0, "loss": progress.loss_sum / max(1, progress.n_terms)}
    entry["lr"] = float(state.optimizer.param_groups[0]["lr"])
    if run.after_epoch is not None:
        with kept_rng():
            entry |= run.after_epoch()
    if run.validate is not None:
        state.objective.eval()
        with kept_rng():
            value = here.first_says(run.validate())
        if math.isnan(value):
            raise NotFiniteError(
                f"the validation after epoch {progress.epoch + 1} is nan; hold out more, so that it has one"
            )
        entry["validation"] = value
        if progress.best is None or value > progress.best:
            progress.best, progress.best_epoch = value, progress.epoch + 1
            state.best = {
                name: tensor.detach().clone() for name, tensor in state.objective.state_dict().items()
            }
    entry["seconds"] = progress.seconds + time.perf_counter() - began
    progress.curve.append(entry)
    progress.epoch, progress.step_of_epoch = progress.epoch + 1, 0
    progress.loss_sum, progress.n_terms, progress.seconds = 0.0, 0, 0.0
    if run.tracker is not None and here.is_first:
        _tell(run.tracker, {f"{run.name}/{key}": figure for key, figure in entry.items()}, progress.step)
    if run.folder is not None:
        state.save(run.folder)


def _tell(tracker: Tracker, values: dict[str, float], step: int) -> None:
    """Hand figures to a tracker; one that fails costs its point of the curve, not the run."""
    try:
        tracker.log(values, step)
    except Exception:
        logger.exception("%s did not take the figures of step %d; training goes on", tracker, step)
