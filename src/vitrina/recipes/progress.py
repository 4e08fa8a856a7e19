"""How a run says what it is doing; the command line draws bars, a script hears nothing."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[str], None]
"""Moves a step one further; the text says what is being done now."""


class Reporter(Protocol):
    """Hears of the steps of a run."""

    def step(self, name: str, total: int = 1) -> AbstractContextManager[Advance]:
        """A step of `total` parts; the block is given a function that says that the next part begins."""

    def say(self, text: str) -> None:
        """A remark that a person should read."""

    def note(self, text: str) -> None:
        """What is being done at this moment, in place of the last note."""


class Silent:
    """Says nothing."""

    @contextmanager
    def step(self, name: str, total: int = 1) -> Iterator[Advance]:
        """Nothing is drawn."""
        yield lambda _: None

    def say(self, text: str) -> None:
        """Nothing is said."""

    def note(self, text: str) -> None:
        """Nothing is noted."""
