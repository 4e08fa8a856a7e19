"""Curves of training beside the report: a tracker for each fit of a run, where `[training]` asks for one.

    <where>/<model>-<key>/events...    TensorBoard: a folder for each fit
    experiment "vitrina"               MLflow: a run for each fit, named after the model and its key

A tracker is opened with the first epoch, so that models without epochs leave none.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vitrina.errors import ConfigError
from vitrina.nn.session import session
from vitrina.recipes import processes
from vitrina.recipes.config import RunConfig, TrainingConfig

PACKAGES = {"tensorboard": "tensorboard", "mlflow": "mlflow"}
"""Kind of tracker -> what it needs."""

Tracking = Callable[[str, Mapping[str, Any]], AbstractContextManager[None]]
"""Surrounds a fit, of the name and parameters that are given."""


def told(model: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a tracker shows beside the curves: the model and, where it has one source, its parameters."""
    sources = about["sources"]
    params = sources[0]["params"] if len(sources) == 1 else {}
    return {"model": model, "kinds": ", ".join(source["kind"] for source in sources)} | params


def with_tracker(config: RunConfig, asked: str | None) -> RunConfig:
    """A run with the tracker that a command line names, as "tensorboard" or "mlflow:http://host:5000".

    Raises:
        ConfigError: there is no such tracker.
    """
    if asked is None:
        return config
    kind, _, where = asked.partition(":")
    if kind not in PACKAGES:
        raise ConfigError(
            f"no tracker {kind!r}; there is: {', '.join(PACKAGES)}, each with a place behind a colon if not "
            "in the run's folder, as tensorboard:runs/curves"
        )
    training = TrainingConfig.model_validate({"tracker": kind, "tracker_where": where or None})
    return config.model_copy(update={"training": training})


def check_tracker(config: TrainingConfig) -> None:
    """Stop before an hour is spent where the package of the tracker is missing.

    Raises:
        ConfigError: it is not installed.
    """
    if config.tracker is not None and find_spec(PACKAGES[config.tracker]) is None:
        raise ConfigError(
            f"training.tracker {config.tracker!r} is not installed; run: pip install 'vitrina[tracking]'"
        )


@contextmanager
def tracked(config: TrainingConfig, folder: Path, name: str, params: Mapping[str, Any]) -> Iterator[None]:
    """Fits in the block are told to a tracker of their own, where one is asked for.

    Args:
        config: `[training]`.
        folder: of the run; curves lie in it unless the configuration says where.
        name: of the fit.
        params: shown beside the curves, where the tracker shows any.
    """
    if config.tracker is None or not processes.is_first():
        yield
        return
    where = config.tracker_where or str(folder / config.tracker)
    opened = _Opened(partial(_open, config.tracker, where, name, params))
    try:
        with session(tracker=opened):
            yield
    except BaseException as error:
        opened.close(error)
        raise
    opened.close(None)


UNTRACKED: Tracking = partial(tracked, TrainingConfig(), Path())
"""Of such a fit only the session around it hears."""


class _Opened:
    """A tracker that is opened when it first hears something."""

    def __init__(self, open_it: Callable[[], Any]) -> None:
        self._open = open_it
        self._tracker: Any = None

    def log(self, values: dict[str, float], step: int) -> None:
        if self._tracker is None:
            self._tracker = self._open()
        self._tracker.log(values, step)

    def close(self, error: BaseException | None) -> None:
        if self._tracker is not None:
            self._tracker.__exit__(None if error is None else type(error), error, None)


def _open(kind: str, where: str, name: str, params: Mapping[str, Any]) -> Any:
    from vitrina.nn.trackers import MLflowTracker, TensorBoardTracker

    if kind == "tensorboard":
        return TensorBoardTracker(Path(where) / name)
    return MLflowTracker(where, name=name, params=params)
