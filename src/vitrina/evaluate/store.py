"""An evaluation on disk: JSON for what is said once, Parquet for what every user has.

evaluation.json     protocol, split with its hash, counts, what was dropped, runs, versions
users.parquet       user_id, history_length, n_targets
values-N.parquet    per-user values of run N
exposure.parquet    times shown, a column per run
"""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from vitrina import artifact
from vitrina.errors import ArtifactError
from vitrina.evaluate.card import SplitCard
from vitrina.evaluate.curves import TrainingCurve
from vitrina.evaluate.evaluator import Dropped, Run
from vitrina.evaluate.popularity import PopularityDiagnostics
from vitrina.evaluate.protocol import Protocol
from vitrina.split import Part

FORMAT = 1
ABOUT, USERS, EXPOSURE = "evaluation.json", "users.parquet", "exposure.parquet"


def write(
    about: dict[str, Any], users: pl.DataFrame, runs: Sequence[Run], path: str | os.PathLike[str]
) -> None:
    """Write a folder; it appears when complete.

    Args:
        about: what is said once, as dataclasses and JSON values.
        users: the measured users.
        runs: their values.
        path: the folder.

    Raises:
        ArtifactError: the disk refuses.
    """
    with artifact.writing(path) as folder:
        users.write_parquet(folder / USERS)
        shown = {f"run {n}": run.exposure for n, run in enumerate(runs)}
        pl.DataFrame(shown).write_parquet(folder / EXPOSURE)
        for n, run in enumerate(runs):
            run.values.write_parquet(folder / _values(n))
        files = {file.name: artifact.file_digest(file) for file in sorted(folder.iterdir())}
        whole = {"format": FORMAT, **about, "runs": [_about_run(run) for run in runs], "files": files}
        (folder / ABOUT).write_text(json.dumps(whole, indent=1, default=_json))


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Everything that `write` was given, by field of an evaluation.

    Raises:
        ArtifactError: the folder is missing, incomplete, changed or of another version.
    """
    folder = Path(path)
    about = _about(folder)
    try:
        exposure = pl.read_parquet(folder / EXPOSURE)
        runs = [
            Run(
                **{
                    **entry,
                    "notes": tuple(entry["notes"]),
                    "popularity": _popularity(entry),
                    "curves": _curves(entry),
                },
                values=pl.read_parquet(folder / _values(n)),
                exposure=exposure[f"run {n}"].to_numpy().astype(np.int64),
            )
            for n, entry in enumerate(about.pop("runs"))
        ]
        parts = tuple(Part(**part) for part in about["split"].pop("parts"))
        return {
            **about,
            "protocol": Protocol.from_dict(about["protocol"]),
            "split": SplitCard(**about["split"], parts=parts),
            "dropped": tuple(Dropped(**dropped) for dropped in about["dropped"]),
            "users": pl.read_parquet(folder / USERS),
            "runs": tuple(runs),
        }
    except (KeyError, TypeError, ValueError, OSError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(f"{folder} cannot be read as an evaluation ({error}); measure again") from error


def _json(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _about_run(run: Run) -> dict[str, Any]:
    held = {
        name: getattr(run, name) for name in run.__dataclass_fields__ if name not in ("values", "exposure")
    }
    return {**held, "notes": list(run.notes)}


def _about(folder: Path) -> dict[str, Any]:
    file = folder / ABOUT
    if not file.is_file():
        raise ArtifactError(f"{file} does not exist; give a folder that an evaluation was saved to")
    try:
        about: dict[str, Any] = json.loads(file.read_text())
        files = about["files"] if about["format"] == FORMAT else None
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"{file} is not what an evaluation saves ({error}); measure again") from error
    if files is None:
        raise ArtifactError(f"{file} is not of format {FORMAT}; measure again with this version")
    del about["files"], about["format"]
    for name, digest in files.items():
        part = folder / Path(name).name
        if not part.is_file() or artifact.file_digest(part) != digest:
            raise ArtifactError(f"{part} is missing or was changed since it was saved; measure again")
    return about


def _popularity(entry: dict[str, Any]) -> PopularityDiagnostics | None:
    """Of a run; evaluations saved before there was any have none."""
    saved = entry.get("popularity")
    return None if saved is None else PopularityDiagnostics.from_dict(saved)


def _curves(entry: dict[str, Any]) -> tuple[TrainingCurve, ...]:
    """Of a run; evaluations saved before there were any have none."""
    return tuple(TrainingCurve.from_dict(saved) for saved in entry.get("curves", ()))


def _values(n: int) -> str:
    return f"values-{n}.parquet"
