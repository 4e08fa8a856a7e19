"""What surrounds a training run and is no part of the model: where checkpoints lie, who hears of progress.

    with session(folder=Path("runs/a/checkpoints"), heard=print):
        SASRec().fit(train)

Set by the command line and by recipes; a model reads it when it is fitted. Holds no torch.
"""

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
) -> Iterator[None]:
    """Fits in the block keep checkpoints in `folder` and report to `heard` and `tracker`.

    Args:
        folder: of the checkpoints; None writes none.
        heard: hears lines of progress.
        tracker: hears the figures of epochs.
        norms: whether those also tell of the lengths of item vectors.
    """
    token = _CURRENT.set(Session(folder=folder, heard=heard, tracker=tracker, norms=norms))
    try:
        yield
    finally:
        _CURRENT.reset(token)
