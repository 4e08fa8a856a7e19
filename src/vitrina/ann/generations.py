"""An index on disk: numbered generations in one folder, and a file that names the current one.

    path/CURRENT              the name of a generation, replaced in one step
    path/gen-00000007/        manifest.json and what it lists, never changed once it is there
    path/gen-00000006/        the one before, kept for readers that are still opening it

A reader reads CURRENT and opens that generation; a writer writes the next one beside it, then replaces
CURRENT, then deletes what is older than the last two. Readers that have opened or mapped files keep them: on
Linux and macOS a deleted file lives until it is closed, and where that is not so the file stays until the
next writer comes.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from vitrina import artifact
from vitrina.errors import ArtifactError

Made = TypeVar("Made")
FORMAT = 1
"""Version of the layout; a folder of another version is refused."""
CURRENT = "CURRENT"
MANIFEST = "manifest.json"
PREFIX = "gen-"
KEPT = 2
"""Generations left after a write."""
ATTEMPTS = 5
"""Times a reader looks again when the generation that it opens is deleted under it."""


@contextmanager
def writing(path: str | os.PathLike[str], about: dict[str, Any]) -> Iterator[Path]:
    """A new folder to write files into; it becomes the current generation of `path` when the block ends well.

    Args:
        path: folder of the index, made if it is not there.
        about: JSON values that the manifest tells beside the files and their SHA-256.

    Raises:
        ArtifactError: `path` holds something else, or the disk refuses; the current generation stays as it
        was.
    """
    root = Path(path)
    if root.exists() and not (root.is_dir() and all(_ours(entry) for entry in root.iterdir())):
        raise ArtifactError(f"{root} holds something that is not an index; choose another folder to save to")
    last = max([0, *(int(entry.name[len(PREFIX) :]) for entry in root.glob(f"{PREFIX}[0-9]*"))])
    name = f"{PREFIX}{last + 1:08d}"
    with artifact.writing(root / name) as folder:
        yield folder
        _seal(folder, about)
    pointer = root / f".{CURRENT}.partial-{os.getpid()}"
    try:
        with pointer.open("w") as stream:
            stream.write(name)
            stream.flush()
            os.fsync(stream.fileno())
        pointer.replace(root / CURRENT)
    except OSError as error:
        pointer.unlink(missing_ok=True)
        raise ArtifactError(
            f"{root / CURRENT} could not be written ({error.strerror}); free space"
        ) from error
    for old in sorted(root.glob(f"{PREFIX}[0-9]*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


class Generation:
    """One generation, being read."""

    def __init__(self, folder: Path, *, verify: bool) -> None:
        self.folder, self.verify = folder, verify
        self.about: dict[str, Any] = _manifest(folder / MANIFEST)

    def file(self, name: str) -> Path:
        """Path of a file, once it is known to be whole."""
        file, entry = self.folder / name, self.about["files"].get(name)
        if entry is None:
            raise ArtifactError(f"{self.folder / MANIFEST} does not list {name}; build the index again")
        if file.stat().st_size != entry["bytes"] or (
            self.verify and artifact.file_digest(file) != entry["sha256"]
        ):
            raise ArtifactError(
                f"{file} does not match its SHA-256; it is corrupted, build or copy the index again"
            )
        return file

    def array(self, name: str, dtype: Any, *, mapped: bool) -> Any:
        """An array, read or mapped, of the type that it must have."""
        file = self.file(f"{name}.npy")
        try:
            array = np.load(file, mmap_mode="r" if mapped else None, allow_pickle=False)
        except ValueError as error:
            raise ArtifactError(f"{file} is not an array ({error}); build the index again") from error
        if array.dtype != np.dtype(dtype):
            raise ArtifactError(f"{file} holds {array.dtype}, not {np.dtype(dtype)}; build the index again")
        return np.asarray(array)


def read(path: str | os.PathLike[str], use: Callable[[Generation], Made], *, verify: bool) -> Made:
    """What `use` makes of the current generation of a folder, or of the next if that is deleted meanwhile.

    Args:
        path: a folder that `writing` made.
        use: opens the files it needs.
        verify: whether files are checked against their SHA-256 when they are opened, which reads all of them.

    Raises:
        ArtifactError: there is no index, it is corrupted or of another version.
    """
    root, missing = Path(path), ""
    for _ in range(ATTEMPTS):
        try:
            return use(Generation(_current(root), verify=verify))
        except FileNotFoundError as error:
            missing = str(error.filename)
    raise ArtifactError(f"{missing} is missing; the index is half-copied, copy or build it again")


def _current(root: Path) -> Path:
    """Folder of the current generation."""
    try:
        name = (root / CURRENT).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{root} holds no index ({CURRENT} cannot be read); give a folder that `save` wrote"
        ) from error
    if not (name.startswith(PREFIX) and name[len(PREFIX) :].isdigit()):
        raise ArtifactError(
            f"{root / CURRENT} names {name!r}, which `save` never writes; do not trust this folder"
        )
    return root / name


def _ours(entry: Path) -> bool:
    """Whether a name is one that `writing` gives, finished or partial."""
    name = entry.name.removeprefix(".")
    number = name.removeprefix(PREFIX).split(".")[0]
    return name.split(".")[0] == CURRENT or (name.startswith(PREFIX) and number.isdigit())


def _seal(folder: Path, about: dict[str, Any]) -> None:
    """Write the manifest of a folder."""
    files = {
        file.name: {"bytes": file.stat().st_size, "sha256": artifact.file_digest(file)}
        for file in sorted(folder.iterdir())
    }
    with (folder / MANIFEST).open("w") as stream:
        json.dump({"format": FORMAT, **about, "files": files}, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())


def _manifest(file: Path) -> dict[str, Any]:
    """What a manifest tells; FileNotFoundError where there is none."""
    try:
        manifest = json.loads(file.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{file} is not JSON ({error}); it is corrupted, build the index again"
        ) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(
            f"{file} is not of format {FORMAT}; it is of another version, build the index again"
        )
    files = manifest.get("files")
    listed = isinstance(files, dict) and all(
        isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in files.values()
    )
    if not listed or not {"kind", "params"} <= manifest.keys():
        raise ArtifactError(f"{file} lacks what `save` writes; it is corrupted, build the index again")
    return manifest
