"""Where curves of training go beside the report: MLflow and TensorBoard, as `vitrina.nn.training.Tracker`.

    with MLflowTracker("file:runs/mlflow", "shop") as tracker, session(tracker=tracker):
        SASRec().fit(train)

Both need the extra: pip install 'vitrina[tracking]'. Neither is imported before it is asked for.
"""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from vitrina.errors import ConfigError


class MLflowTracker:
    """Figures as metrics of one MLflow run, in a store of files, a database or a server.

    A file store (a path, or file:...) works without a server; MLflow keeps it as it is and develops its
    database stores, sqlite:///mlflow.db, which need the full package `mlflow`.

    Args:
        uri: where MLflow keeps its runs, as its `tracking_uri`; a path is a folder of files.
        experiment: name of the experiment that the run belongs to; made where there is none.
        run_id: a run to go on with, so that a resumed fit continues its curves; None starts one.
        name: of a run that is started; None lets MLflow find one.
        params: parameters of the run, shown beside its metrics.

    Raises:
        ConfigError: mlflow is not installed.
    """

    def __init__(
        self,
        uri: str | Path,
        experiment: str = "vitrina",
        *,
        run_id: str | None = None,
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        where = str(uri)
        if "://" not in where and not where.startswith("file:"):
            where = Path(where).resolve().as_uri()
        if where.startswith("file:"):
            # MLflow refuses its own file store unless it is told that this is meant.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self._client = _needed("mlflow").MlflowClient(tracking_uri=where)
        if run_id is None:
            known = self._client.get_experiment_by_name(experiment)
            of = known.experiment_id if known else self._client.create_experiment(experiment)
            run_id = self._client.create_run(of, run_name=name).info.run_id
        self.run_id: str = run_id
        """Of the run, to go on with it later."""
        for key, value in (params or {}).items():
            self._client.log_param(self.run_id, key, value)

    def log(self, values: dict[str, float], step: int) -> None:
        """One point of every curve."""
        for name, value in values.items():
            self._client.log_metric(self.run_id, name, value, step=step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The run ends: finished, or failed where the block did."""
        self._client.set_terminated(self.run_id, "FINISHED" if kind is None else "FAILED")


class TensorBoardTracker:
    """Figures as scalars in an event file that `tensorboard --logdir` shows; no TensorFlow needed.

    Args:
        folder: of the event files; a resumed fit appends to its curves there.

    Raises:
        ConfigError: tensorboard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        _needed("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(log_dir=str(folder))

    def log(self, values: dict[str, float], step: int) -> None:
        """One point of every curve, on disk when it returns."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._writer.close()


def _needed(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f"{package} is not installed ({error}); pip install 'vitrina[tracking]'") from error
