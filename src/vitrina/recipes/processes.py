"""Several processes that train one model together: what `torchrun` started, seen from a recipe.

    torchrun --nproc-per-node 2 -m vitrina train my.toml --model SASRec

Only the first one writes and prints. Reads the variables that torchrun sets; torch is imported only where
there is more than one process.
"""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from vitrina.errors import ConfigError

Made = TypeVar("Made")


def count() -> int:
    """Processes that train together; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this process writes files and prints."""
    return count() == 1 or int(os.environ.get("RANK", "0")) == 0


def wait() -> None:
    """Until every process is here."""
    if count() > 1:
        from vitrina.nn.parallel import world

        world().wait()


def first_then_others(make: Callable[[Path | None], Made]) -> Made:
    """What `make` gives, in the first process before it runs in any other.

    Args:
        make: given None in the first process; in the others, which must leave no file behind, a folder for
            what they have to write, removed when it returns.
    """
    if is_first():
        made = make(None)
        wait()
        return made
    wait()
    with TemporaryDirectory() as aside:
        return make(Path(aside))


def check_alone(command: str) -> None:
    """Refuse a command that several processes cannot share.

    Raises:
        ConfigError: there are several.
    """
    if count() > 1:
        raise ConfigError(
            f"`vitrina {command}` runs in one process and torchrun started {count()}; start it without, or "
            "train one model with torchrun: -m vitrina train CONFIG.TOML --model NAME"
        )
