"""Saved state that a server can load while trusting no code: safetensors, JSON, Parquet; never pickle.

A folder holds `manifest.json` (format, kind, parameters, scalars, SHA-256 of every other file),
`arrays.safetensors` (dense arrays and the three arrays of each sparse matrix) and one Parquet file per table.
The folder is written beside its target and renamed into place, so that a half-written one is never seen.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy import sparse

from vitrina.errors import ArtifactError
from vitrina.ids import Ids

FORMAT = 1
"""Version of the layout; a folder of another version is refused."""

MANIFEST = "manifest.json"
ARRAYS = "arrays.safetensors"


@dataclass(kw_only=True)
class Saved:
    """What one folder holds."""

    kind: str
    """Class name of what was saved."""
    params: dict[str, Any]
    """Constructor parameters, JSON values."""
    state: dict[str, Any] = field(default_factory=dict)
    """Fitted values by name: arrays, dicts of arrays, CSR matrices, `Ids`, frames, JSON values."""


def save(saved: Saved, path: str | os.PathLike[str]) -> None:
    """Write a folder, atomically: an existing one is replaced only once the new one is complete.

    Raises:
        ArtifactError: a value has a type that cannot be saved safely, or the disk refuses.
    """
    with writing(path) as folder:
        _write(saved, folder)


@contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new folder to write into; it takes the place of `path` when the block ends well, else it is removed.

    Raises:
        ArtifactError: the disk refuses; what stood at `path` before is untouched.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        yield partial
        if target.exists():
            old = target.with_name(f".{target.name}.old-{os.getpid()}")
            target.rename(old)
            partial.rename(target)
            shutil.rmtree(old)
        else:
            partial.rename(target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ArtifactError(
            f"{target} could not be written ({reason}); free space or choose another folder"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load(path: str | os.PathLike[str]) -> Saved:
    """Read a folder written by `save`, checking every file against its SHA-256.

    Raises:
        ArtifactError: the folder is missing, half-written, corrupted or of another version.
    """
    folder = Path(path)
    manifest = _manifest(folder)
    for name, digest in manifest["files"].items():
        file = folder / name
        if not file.is_file():
            raise ArtifactError(f"{file} is missing; the model folder is half-written, train it again")
        if file_digest(file) != digest:
            raise ArtifactError(f"{file} does not match its SHA-256; it is corrupted, train or copy it again")
    try:
        arrays = load_file(folder / ARRAYS) if ARRAYS in manifest["files"] else {}
        state = {name: _decode(name, entry, arrays, folder) for name, entry in manifest["state"].items()}
    except (SafetensorError, KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise ArtifactError(f"{folder} cannot be read ({error}); train it again") from error
    return Saved(kind=manifest["kind"], params=manifest["params"], state=state)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        raise ArtifactError(f"{file} does not exist; give a folder that `save` or `vitrina train` wrote")
    try:
        manifest = json.loads(file.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{file} is not JSON ({error}); it is corrupted, train it again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(
            f"{file} is not of format {FORMAT}; it was written by another version, train it again"
        )
    names = [*manifest.get("files", {})]
    if (
        any(Path(name).name != name for name in names)
        or not {"kind", "params", "state", "files"} <= manifest.keys()
    ):
        raise ArtifactError(f"{file} lists files or keys that `save` never writes; do not trust this folder")
    return manifest


def _write(saved: Saved, folder: Path) -> None:
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    state = {name: _encode(name, value, arrays, folder) for name, value in saved.state.items()}
    if arrays:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / ARRAYS)
    files = {file.name: file_digest(file) for file in sorted(folder.iterdir())}
    manifest = {"format": FORMAT, "kind": saved.kind, "params": saved.params, "state": state, "files": files}
    with (folder / MANIFEST).open("w") as stream:
        json.dump(manifest, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())


def _encode(name: str, value: Any, arrays: dict[str, np.ndarray[Any, Any]], folder: Path) -> dict[str, Any]:
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"is": "array"}
    if isinstance(value, dict) and value and all(isinstance(part, np.ndarray) for part in value.values()):
        arrays.update({f"{name}.{key}": part for key, part in value.items()})
        return {"is": "arrays", "names": list(value)}
    if sparse.issparse(value):
        matrix = value.tocsr()
        arrays.update(
            {f"{name}.data": matrix.data, f"{name}.indices": matrix.indices, f"{name}.indptr": matrix.indptr}
        )
        return {"is": "csr", "shape": [int(n) for n in matrix.shape]}
    if isinstance(value, Ids):
        value.values.alias("id").to_frame().write_parquet(folder / f"{name}.parquet")
        return {"is": "ids"}
    if isinstance(value, pl.DataFrame):
        value.write_parquet(folder / f"{name}.parquet")
        return {"is": "frame"}
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str | list | tuple | dict):
        return {"is": "json", "value": value}
    raise ArtifactError(
        f"{name} is a {type(value).__name__}, which cannot be saved without pickle; use arrays or frames"
    )


def _decode(name: str, entry: dict[str, Any], arrays: dict[str, np.ndarray[Any, Any]], folder: Path) -> Any:
    match entry["is"]:
        case "array":
            return arrays[name]
        case "arrays":
            return {key: arrays[f"{name}.{key}"] for key in entry["names"]}
        case "csr":
            parts = (arrays[f"{name}.data"], arrays[f"{name}.indices"], arrays[f"{name}.indptr"])
            return sparse.csr_matrix(parts, shape=tuple(entry["shape"]))
        case "ids":
            return Ids(pl.read_parquet(folder / f"{name}.parquet")["id"])
        case "frame":
            return pl.read_parquet(folder / f"{name}.parquet")
        case "json":
            return entry["value"]
    raise ValueError(f"unknown kind of state {entry['is']!r}")
