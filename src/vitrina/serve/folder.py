"""The folder that a server serves: what training wrote, and what the server adds to it.

model/          Pipeline.save
histories/      the training histories, memory-mapped
card.json       model card, if there is one
report.html     evaluation report, if there is one
events.db       online state, made by the server
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrina import artifact
from vitrina.errors import ArtifactError
from vitrina.log import Histories
from vitrina.pipeline import Pipeline
from vitrina.serve.service import Service
from vitrina.serve.settings import Settings
from vitrina.serve.state import State

MODEL, HISTORIES, CARD, REPORT, EVENTS = "model", "histories", "card.json", "report.html", "events.db"


@dataclass(frozen=True)
class Papers:
    """What is known about a model besides the model."""

    card: dict[str, Any] | None = None
    """Content of the model card."""
    report: Path | None = None
    """The evaluation report, one self-contained HTML file."""

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> "Papers":
        """Card and report of a served folder, where they are.

        Raises:
            ArtifactError: the card is not JSON.
        """
        folder = Path(path)
        card, report = folder / CARD, folder / REPORT
        try:
            content = json.loads(card.read_text()) if card.is_file() else None
        except ValueError as error:
            raise ArtifactError(f"{card} is not JSON ({error}); train again or remove it") from error
        if content is not None and not isinstance(content, dict):
            raise ArtifactError(f"{card} must hold an object, got a {type(content).__name__}; remove it")
        return cls(content, report if report.is_file() else None)


def open_service(path: str | os.PathLike[str], settings: Settings | None = None) -> Service:
    """The service of a folder that `vitrina train` wrote.

    Raises:
        ArtifactError: a part is missing, half-written or of another log.
        StateError: the state file cannot be opened.
    """
    folder, settings = Path(path), settings or Settings()
    if not folder.is_dir():
        raise ArtifactError(f"there is no folder {folder} to serve; make one with: vitrina train")
    missing = [name for name in (MODEL, HISTORIES) if not (folder / name).exists()]
    if missing:
        raise ArtifactError(f"{folder} lacks {' and '.join(missing)}; make it with: vitrina train")
    pipeline = Pipeline.load(folder / MODEL)
    histories = Histories.open(folder / HISTORIES)
    digest = artifact.file_digest(folder / MODEL / "pipeline" / artifact.MANIFEST)[:12]
    state = State(folder / EVENTS, tail=settings.tail, durable=settings.durable)
    try:
        return Service(pipeline, histories, state, clock=settings.clock, model=digest, settings=settings)
    except Exception:
        state.close()
        raise
