"""Fitted models on disk, so that an interrupted or repeated evaluation trains nothing twice.

    models/<name>-<key>/       Pipeline.save, without policies
    models/<name>-<key>.json   what the key was made of, and how long the fit took
    models/<name>-<trained>.checkpoint/   of a long training that was stopped; the next run goes on from it

A source of a merged model that is a model of its own in the same folder is read from there too.

The key is a hash of the split (which includes the hash of the data), of the vocabulary and the tables that
the model reads, of the model with all its parameters and seed, and of the version of Vitrina: a change of any
of them trains again. `trained` is the same hash without the parameters of a schedule (rates, epochs,
clipping), so that a training which was stopped may go on with others where a session says so.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from vitrina import __version__
from vitrina.candidates.source import tables_of
from vitrina.errors import ArtifactError
from vitrina.log import Catalogue, Histories
from vitrina.nn.session import session
from vitrina.pipeline import Pipeline, Source
from vitrina.recipes.tracking import UNTRACKED, Tracking, told


class Fitted(NamedTuple):
    """A fitted pipeline and what it cost."""

    pipeline: Pipeline
    fit_s: float
    reused: bool
    """Whether it was read from disk."""


def fit(
    pipeline: Pipeline,
    train: Histories,
    items: pl.DataFrame | None,
    users: pl.DataFrame | None = None,
    *,
    folder: Path | None,
    name: str,
    data: str,
    fresh: bool = False,
    heard: Callable[[str], None] | None = None,
    tracking: Tracking = UNTRACKED,
) -> Fitted:
    """Fit a pipeline, or read what an earlier run fitted with the same data and parameters.

    Args:
        pipeline: unfitted.
        train: training histories.
        items: item metadata.
        users: what is known of people.
        folder: where fitted models lie; None keeps none.
        name: of the model, for the name of its folder.
        data: digest of the split.
        fresh: fit even if there is one.
        heard: hears of the progress of a long training.
        tracking: who hears of the epochs of this fit, by its name and what it is made of.
    """
    read = {"items": train.items.digest, "tables": _tables(pipeline, items, users)}
    about = describe(pipeline) | read | {"data": data, "vitrina": __version__}
    own = f"{slug(name)}-{_key(about)}"
    if folder is None:
        began = time.perf_counter()
        with tracking(own, told(name, about)), session(heard=heard, norms=True):
            return Fitted(pipeline.fit(train, items, users), time.perf_counter() - began, False)
    home = folder / own
    note = home.with_name(home.name + ".json")
    if not fresh and note.is_file():
        try:
            loaded = Pipeline.load(home)
            fit_s = float(json.loads(note.read_text())["fit_s"])
            return Fitted(_with_generators_of(pipeline, loaded, train, items), fit_s, True)
        except (ArtifactError, ValueError, KeyError, TypeError):
            pass  # half-written or of an older layout: it is only a copy, and is made again below
    checkpoints = folder / f"{slug(name)}-{_key(_unscheduled(about, pipeline))}.checkpoint"
    if fresh:
        shutil.rmtree(checkpoints, ignore_errors=True)
    known = {} if fresh else _sources_on_disk(folder, about)
    for source in pipeline.sources:
        if source.name in known:
            source.take(known[source.name].source)
    began = time.perf_counter()
    with tracking(own, told(name, about)), session(folder=checkpoints, heard=heard, norms=True):
        pipeline.fit(train, items, users, fitted=known)
    fit_s = time.perf_counter() - began + sum(one.fit_s for one in known.values())
    replace(pipeline, policies=()).save(home)
    note.write_text(json.dumps(about | {"fit_s": fit_s}, indent=1, default=str))
    shutil.rmtree(checkpoints, ignore_errors=True)
    return Fitted(pipeline, fit_s, False)


def _key(about: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _unscheduled(about: dict[str, Any], pipeline: Pipeline) -> dict[str, Any]:
    """What a key is made of, without the parameters of schedules, which checkpoints hold and compare."""
    sources = []
    for entry, source in zip(about["sources"], pipeline.sources, strict=True):
        left_out = getattr(source.generator, "scheduled", ())
        kept = {name: value for name, value in entry["params"].items() if name not in left_out}
        sources.append({**entry, "params": kept})
    return {**about, "sources": sources}


class _Known(NamedTuple):
    """A source that another model of the same run is made of alone."""

    source: Source
    fit_s: float


def _sources_on_disk(folder: Path, about: dict[str, Any]) -> dict[str, _Known]:
    """By name, those sources of a merged model that lie fitted in the folder as models of their own.

    Sources with an index are fitted anew, because the index is built for one of them.
    """
    found: dict[str, _Known] = {}
    if len(about["sources"]) == 1:
        return found
    about = json.loads(json.dumps(about, default=str))
    same = {key: value for key, value in about.items() if key not in ("sources", "fallback")}
    for note in sorted(folder.glob("*.json")):
        try:
            other = json.loads(note.read_text())
            if len(other["sources"]) > 1 or not same.items() <= other.items():
                continue
            alone = {**other["sources"][0], "name": ""}
            for source in about["sources"]:
                if "index" not in source and {**source, "name": ""} == alone:
                    loaded = Pipeline.load(note.with_suffix(""))
                    found[source["name"]] = _Known(loaded.sources[0], float(other["fit_s"]))
        except (ArtifactError, ValueError, KeyError, TypeError):
            continue  # half-written or of an older layout
    return found


def describe(pipeline: Pipeline) -> dict[str, Any]:
    """Every class and parameter of a pipeline, policies left out: they are no part of what is learned."""
    sources = [
        {"name": s.name, "kind": type(s.generator).__name__, "params": _params(s.generator)}
        | ({} if s.index is None else {"index": {"kind": type(s.index).__name__, **s.index.params()}})
        for s in pipeline.sources
    ]
    fallback = pipeline.fallback
    kind = None if fallback is None else {"kind": type(fallback).__name__, "params": _params(fallback)}
    return {"sources": sources, "fallback": kind}


def slug(name: str) -> str:
    """A name that any file system takes; a digest stands in for what is lost, so two names stay two."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in name).strip("-.")
    if plain == name:
        return plain
    return f"{plain[:40]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def _tables(pipeline: Pipeline, items: pl.DataFrame | None, users: pl.DataFrame | None) -> dict[str, str]:
    """Digests of the tables that generators of a pipeline learn from."""
    read: dict[str, pl.DataFrame] = {}
    for generator in (*(source.generator for source in pipeline.sources), pipeline.fallback):
        read |= tables_of(generator, items, users)
    return {
        name: hashlib.sha256(table.write_ipc(None).getvalue()).hexdigest() for name, table in read.items()
    }


def _params(generator: Any) -> dict[str, Any]:
    found: dict[str, Any] = generator.params()
    return found


def _with_generators_of(
    wanted: Pipeline, loaded: Pipeline, train: Histories, items: pl.DataFrame | None
) -> Pipeline:
    """The wanted pipeline, its policies and limits, around generators that are fitted already."""
    for source, known in zip(wanted.sources, loaded.sources, strict=True):
        source.take(known)
    wanted.fallback = loaded.fallback
    return wanted.bind(Catalogue.of(train, items), loaded.trained_until)
