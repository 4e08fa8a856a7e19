"""Options that every command has, and what is written where: results to stdout, the rest to stderr."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

EXTRAS = {
    "fastapi": "serve",
    "uvicorn": "serve",
    "msgspec": "serve",
    "prometheus_client": "serve",
    "altair": "report",
    "vl_convert": "report",
    "optuna": "tune",
}
"""Import name -> extra of the package that brings it."""

PIPE_WIDTH = 120
"""Columns of a table that goes to a file or a pipe."""

_debug = False


def _set_debug(value: bool) -> bool:
    global _debug  # noqa: PLW0603  one process runs one command
    _debug = _debug or value
    return value


def debugging() -> bool:
    """Whether --debug was given."""
    return _debug


Json = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Debug = Annotated[bool, typer.Option("--debug", help="On an error, show the traceback.", callback=_set_debug)]


def missing_extra(error: ModuleNotFoundError) -> str | None:
    """One sentence that says which extra to install, or None where the module is no extra's."""
    name = (error.name or "").split(".")[0]
    if name not in EXTRAS:
        return None
    extra = EXTRAS[name]
    return f"this command needs {name}, which the extra {extra} brings; run: pip install 'vitrina[{extra}]'"


def emit_json(value: Mapping[str, Any] | list[Any]) -> None:
    """The machine's answer: one JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, allow_nan=False) + "\n")


def stdout() -> "Console":
    """Console for results; a file or a pipe is as wide as a table needs."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def stderr() -> "Console":
    """Console for progress and remarks."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


class Reporter:
    """Tells a person what a run is doing: a bar for each step, and remarks between them."""

    def __init__(self, console: "Console", progress: "Progress") -> None:
        self.console = console
        self.progress = progress

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Any]:
        """A step of the run; the block is given a function that advances its bar by one."""
        task = self.progress.add_task(name, total=total)
        yield lambda label=None: self.progress.update(task, advance=1, description=label or name)
        done = self.progress.tasks[-1].total or 1
        self.progress.update(task, total=done, completed=done, description=name)

    def note(self, text: str) -> None:
        """What is being done at this moment, beside the running bar."""
        self.progress.update(self.progress.tasks[-1].id, description=text)

    def say(self, text: str) -> None:
        """A remark."""
        self.progress.console.print(text, markup=False, soft_wrap=True)


@contextmanager
def reporting(*, quiet: bool) -> Iterator[Any]:
    """Progress bars on stderr while the block runs; with `quiet` nothing is drawn."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    console = stderr()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=quiet, transient=False) as progress:
        yield Reporter(console, progress) if not quiet else None
