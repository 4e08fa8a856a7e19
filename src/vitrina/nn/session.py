"""What surrounds a training run and is no part of the model: where checkpoints lie, who hears of progress.

    with session(folder=Path("runs/a/checkpoints"), heard=print, device="cuda"):
        SASRec().fit(train)

Set by the command line and by recipes; a model reads it when it is fitted, and the device also when it
answers. Holds no torch.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Session:
    """The surroundings of a fit."""

    folder: Path | None = None
    """Checkpoints of the running fit; None writes none."""
    heard: Callable[[str], None] | None = None
    """Hears a line of progress: epoch, batch, loss, speed."""
    tracker: Any = None
    """A `vitrina.nn.training.Tracker`."""
    norms: bool = False
    """Whether curves also tell how the lengths of item vectors follow popularity, epoch by epoch."""
    device: str | None = None
    """"cpu", "cuda", "cuda:1", or "auto": a GPU where torch sees one. None: what the environment variable
    VITRINA_DEVICE says, else "auto"."""
    other_schedule: bool = False
    """Whether a checkpoint that was written with another schedule (learning rate, clipping, epochs and so on)
    is gone on with."""

    @property
    def wanted_device(self) -> str:
        """The device by name, "auto" where nobody chose."""
        return self.device or os.environ.get("VITRINA_DEVICE") or "auto"


_OUTSIDE = Session()
_CURRENT: ContextVar[Session] = ContextVar("session", default=_OUTSIDE)


def current() -> Session:
    """The session in force; an empty one outside of any."""
    return _CURRENT.get()


@contextmanager
def session(
    *,
    folder: Path | None = None,
    heard: Callable[[str], None] | None = None,
    tracker: Any = None,
    norms: bool = False,
    device: str | None = None,
    other_schedule: bool | None = None,
) -> Iterator[None]:
    """Fits in the block keep checkpoints in `folder` and report to `heard` and `tracker`.

    Args:
        folder: of the checkpoints; None writes none.
        heard: hears lines of progress.
        tracker: hears the figures of epochs; None keeps that of the session around this one.
        norms: whether those also tell of the lengths of item vectors.
        device: "cpu", "cuda", "cuda:1" or "auto"; None keeps that of the session around this one.
        other_schedule: whether to go on with a checkpoint of another schedule, as after a loss that was NaN;
            None keeps what the session around this one says.
    """
    around = _CURRENT.get()
    here = Session(
        folder=folder,
        heard=heard,
        tracker=around.tracker if tracker is None else tracker,
        norms=norms,
        device=around.device if device is None else device,
        other_schedule=around.other_schedule if other_schedule is None else other_schedule,
    )
    token = _CURRENT.set(here)
    try:
        yield
    finally:
        _CURRENT.reset(token)
