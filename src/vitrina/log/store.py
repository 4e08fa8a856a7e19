"""Histories on disk: one little-endian .npy file an array, memory-mapped when opened.

    offsets.npy item_ix.npy ts.npy event.npy [weight.npy organic.npy]     arrays, as in `Histories`
    users.parquet items.parquet                               external ids in the order of *_ix
    manifest.json                                             format, event names, sizes and SHA-256

The folder is written beside its target and renamed into place when it is complete.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import polars as pl

from vitrina.artifact import file_digest, writing
from vitrina.errors import ArtifactError
from vitrina.ids import Ids

FORMAT = 1
"""Version of the layout; a folder of another version is refused."""

MANIFEST = "manifest.json"
KIND = "Histories"

DTYPES = {"offsets": "<i8", "item_ix": "<i4", "ts": "<i8", "event": "|u1"}
OPTIONAL = {"weight": "<f4", "organic": "|u1"}
"""Arrays that not every log has."""
DTYPES |= OPTIONAL
_IDS = ("users", "items")


class ArrayFile:
    """A .npy file of known length that is written piece by piece, and hashed on the way."""

    def __init__(self, folder: Path, name: str, length: int) -> None:
        self.path = folder / f"{name}.npy"
        self.dtype = np.dtype(DTYPES[name])
        self._left = length
        self._sha = hashlib.sha256()
        self._stream: BinaryIO = self.path.open("wb")
        header = {"descr": self.dtype.str, "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(self._stream, header)
        self._stream.flush()
        self._sha.update(self.path.read_bytes())

    def append(self, part: npt.NDArray[Any]) -> None:
        """Write the next values."""
        part = np.ascontiguousarray(part, dtype=self.dtype)
        self._left -= len(part)
        self._stream.write(part.data)
        self._sha.update(part.data)

    def close(self) -> dict[str, Any]:
        """Entry of the manifest.

        Raises:
            AssertionError: fewer or more values were written than announced.
        """
        self._stream.close()
        if self._left:
            raise AssertionError(f"{self.path.name} is off by {self._left} values")
        return {"bytes": self.path.stat().st_size, "sha256": self._sha.hexdigest()}

    def __enter__(self) -> "ArrayFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()


class Folder:
    """A histories folder being written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: dict[str, dict[str, Any]] = {}

    def add_array(self, name: str, parts: Iterator[npt.NDArray[Any]], length: int) -> None:
        """Write one array, part by part."""
        with ArrayFile(self.path, name, length) as file:
            for part in parts:
                file.append(part)
            self.closed(file)

    def closed(self, file: ArrayFile) -> None:
        """Close an array file and note its digest."""
        self._files[file.path.name] = file.close()

    def add_ids(self, name: str, ids: Ids) -> None:
        """Write a vocabulary."""
        file = self.path / f"{name}.parquet"
        ids.values.alias("id").to_frame().write_parquet(file)
        self._files[file.name] = {"bytes": file.stat().st_size, "sha256": file_digest(file)}

    def finish(self, event_names: tuple[str, ...]) -> None:
        """Write the manifest: from here on the folder can be opened."""
        manifest = {"format": FORMAT, "kind": KIND, "event_names": list(event_names), "files": self._files}
        with (self.path / MANIFEST).open("w") as stream:
            json.dump(manifest, stream, indent=1)
            stream.flush()
            os.fsync(stream.fileno())


@contextmanager
def folder(path: str | os.PathLike[str]) -> Iterator[Folder]:
    """A new histories folder that takes the place of `path` when the block ends well.

    Raises:
        ArtifactError: the disk refuses.
    """
    with writing(path) as partial:
        yield Folder(partial)


def read(path: str | os.PathLike[str], *, verify: bool = False) -> dict[str, Any]:
    """The fields of the `Histories` in a folder, arrays memory-mapped and read-only.

    Args:
        path: folder that `Histories.save` or `EventLog.histories` wrote.
        verify: also compare every file with its SHA-256, which reads all of it; sizes, types, lengths and the
            order of offsets are always checked.

    Raises:
        ArtifactError: the folder is missing, half-written, corrupted or of another version.
    """
    place = Path(path)
    manifest = _manifest(place)
    for name, entry in manifest["files"].items():
        file = place / name
        if not file.is_file():
            raise ArtifactError(f"{file} is missing; the histories are half-written, build them again")
        if file.stat().st_size != entry["bytes"]:
            raise ArtifactError(
                f"{file} has {file.stat().st_size:,} bytes, not {entry['bytes']:,}; build the histories again"
            )
        if verify and file_digest(file) != entry["sha256"]:
            raise ArtifactError(
                f"{file} does not match its SHA-256; it is corrupted, build the histories again"
            )
    arrays = {name: _mapped(place, name) for name in DTYPES if f"{name}.npy" in manifest["files"]}
    try:
        users, items = (Ids(pl.read_parquet(place / f"{name}.parquet")["id"]) for name in _IDS)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ArtifactError(f"ids in {place} cannot be read ({error}); build the histories again") from error
    n_rows, offsets = len(arrays["item_ix"]), arrays["offsets"]
    fits = len(offsets) == len(users) + 1 and offsets[0] == 0 and offsets[-1] == n_rows
    if (
        not fits
        or (np.diff(offsets) < 0).any()
        or any(len(array) != n_rows for name, array in arrays.items() if name != "offsets")
    ):
        raise ArtifactError(
            f"arrays in {place} do not fit together; it is corrupted, build the histories again"
        )
    return {
        "user_ids": users,
        "items": items,
        **arrays,
        "event_names": tuple(manifest["event_names"]),
    }


def _mapped(place: Path, name: str) -> npt.NDArray[Any]:
    file = place / f"{name}.npy"
    try:
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
        except ValueError:  # an empty file cannot be mapped
            array = np.load(file, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ArtifactError(
            f"{file} is no array ({error}); it is corrupted, build the histories again"
        ) from error
    if array.dtype != np.dtype(DTYPES[name]) or array.ndim != 1:
        raise ArtifactError(f"{file} holds {array.dtype} of {array.ndim} axes; build the histories again")
    return np.asarray(array)


def _manifest(place: Path) -> dict[str, Any]:
    file = place / MANIFEST
    if not file.is_file():
        raise ArtifactError(f"{file} does not exist; {place} holds no complete histories, build them again")
    try:
        manifest = json.loads(file.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{file} is not JSON ({error}); build the histories again") from error
    if not isinstance(manifest, dict) or (manifest.get("kind"), manifest.get("format")) != (KIND, FORMAT):
        raise ArtifactError(f"{file} is not of {KIND} format {FORMAT}; build the histories again")
    wanted = {f"{name}.npy" for name in DTYPES.keys() - OPTIONAL} | {f"{name}.parquet" for name in _IDS}
    files = manifest.get("files")
    if not isinstance(files, dict) or set(files) - {f"{name}.npy" for name in OPTIONAL} != wanted:
        raise ArtifactError(f"{file} lists other files than histories have; do not trust this folder")
    return manifest
