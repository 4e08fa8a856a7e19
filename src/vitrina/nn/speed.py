"""A line of progress while a model learns."""

import time
from collections.abc import Callable


class Speed:
    """Turns steps into a line of progress, twice a second at most.

    Args:
        kind: name of the model.
        n_epochs: of the run, at most.
        n_batches: of an epoch.
        heard: hears the lines; None makes none.
    """

    def __init__(self, kind: str, n_epochs: int, n_batches: int, heard: Callable[[str], None] | None) -> None:
        self.kind, self.n_epochs, self.n_batches, self.heard = kind, n_epochs, n_batches, heard
        self.began = self.told = time.monotonic()
        self.n_steps = 0

    def __call__(self, epoch: int, at: int, loss: float) -> None:
        """A step is done: `at` of `epoch`, both from 0; `loss` is the epoch's mean so far."""
        self.n_steps += 1
        now = time.monotonic()
        if self.heard is not None and now - self.told > 0.5:
            self.told = now
            rate = self.n_steps / (now - self.began)
            left_s = ((self.n_epochs - epoch) * self.n_batches - at - 1) / rate
            self.heard(
                f"{self.kind} epoch {epoch + 1}/{self.n_epochs}, batch {at + 1}/{self.n_batches}, "
                f"loss {loss:.4f}, {rate:.1f} steps/s, {left_s:.0f} s left at most"
            )
