"""Data sets by name: those that ship, those whose files lie in a folder, and those that are made up."""

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from vitrina import datasets
from vitrina.errors import ConfigError
from vitrina.recipes.progress import Reporter, Silent
from vitrina.schema import TS, USER_ID
from vitrina.split import written


class Reader(NamedTuple):
    """How a data set that does not ship is read."""

    read: Callable[..., datasets.Dataset]
    what: str
    """What `folder` must hold."""


READERS: dict[str, Reader] = {
    "movielens": Reader(datasets.movielens, "an unpacked release: 100K, 1M, latest-small, 20M, 25M or 32M"),
    "amazon": Reader(
        datasets.amazon, "one file of ratings or reviews; options need year, as { year = 2018 }"
    ),
    "amazon-beauty-derived": Reader(
        datasets.amazon_beauty_derived, "interactions_derived.tsv of Beauty 5-core"
    ),
    "retailrocket": Reader(datasets.retailrocket, "events.csv and the item properties"),
    "yoochoose": Reader(datasets.yoochoose, "yoochoose-clicks.dat or -buys.dat"),
    "yoochoose-sample": Reader(datasets.yoochoose_sample, "a sample with a header, SessionId ItemId Time"),
    "kuairand": Reader(datasets.kuairand, "the data folder of a release"),
    "tecd": Reader(datasets.tecd, "dataset/small or dataset/full"),
    "yambda": Reader(datasets.yambda, "flat/ or sequential/"),
}
"""Data sets that do not ship, by name."""


def listing() -> list[dict[str, Any]]:
    """Every data set: name, whether it ships, what its folder holds, options of its reader."""
    found: list[dict[str, Any]] = [
        {"name": name, "ships": True, "what": "comes with vitrina", "options": []}
        for name in datasets.SHIPPED
    ]
    for name, reader in READERS.items():
        found.append({"name": name, "ships": False, "what": reader.what, "options": options_of(reader)})
    return found


def options_of(reader: Reader) -> list[str]:
    """Names of the arguments beside the folder."""
    return list(inspect.signature(reader.read).parameters)[1:]


def open_dataset(
    name: str, folder: str | Path | None, options: Mapping[str, Any] | None = None
) -> datasets.Dataset:
    """A data set that ships, or one whose files lie in a folder.

    Args:
        name: see `listing`.
        folder: where the files of one that does not ship lie.
        options: arguments of its reader, as {"size": "50m"}.

    Raises:
        InputError: the folder does not hold it.
        ConfigError: there is no such data set or option, the folder is missing where it is needed.
    """
    if name in datasets.SHIPPED:
        if folder is not None or options:
            raise ConfigError(
                f"{name} ships with vitrina and takes neither folder nor options; leave them out"
            )
        return datasets.load(name)
    if name not in READERS:
        known = ", ".join((*datasets.SHIPPED, *READERS))
        raise ConfigError(f"no dataset {name!r}; there is: {known}; for your own log give path")
    reader, given = READERS[name], dict(options or {})
    if folder is None:
        raise ConfigError(f"{name} does not ship; give the folder with {reader.what}")
    unknown = [option for option in given if option not in options_of(reader)]
    if unknown:
        raise ConfigError(f"{name} has no option {unknown[0]!r}; it has: {', '.join(options_of(reader))}")
    try:
        return reader.read(folder, **given)
    except TypeError as error:
        raise ConfigError(
            f"{name} cannot be read so: {error}; its options are {options_of(reader)}"
        ) from error


def about(name: str, folder: Path | None) -> dict[str, Any]:
    """What a data set holds and on what terms; JSON values."""
    found = open_dataset(name, folder)
    first, last = found.log.time_range()
    return {
        "name": found.name,
        "title": found.source.title,
        "licence": found.licence,
        "attribution": found.attribution,
        "page": found.page,
        "counts": str(found.found),
        "against the published counts": found.outcome,
        "rows of the log": found.log.n_rows(),
        "events": ", ".join(found.log.event_names),
        "since": written(first),
        "until": written(last),
        "left out": [f"{n:,} rows: {reason}" for reason, n in found.dropped.items()],
        "notes": list(found.notes),
    }


def export(name: str, out: Path, *, folder: Path | None = None, users: int | None = None) -> dict[str, Any]:
    """Write events.parquet, items.parquet and users.parquet, as far as they are known.

    Args:
        name: of the data set.
        out: folder to write to.
        folder: files of a data set that does not ship.
        users: keep so many, those with the smallest hash of their id; None keeps all.
    """
    found = open_dataset(name, folder)
    events = found.log.frame
    if users is not None:
        ids = events.select(USER_ID).unique().collect(engine="streaming")[USER_ID]
        kept = ids.to_frame().with_columns(key=ids.hash(seed=0)).sort("key", USER_ID).head(users)
        events = events.join(kept.lazy().select(USER_ID), on=USER_ID, how="semi")
    answer: dict[str, Any] = {"events": str(out / "events.parquet")}
    try:
        out.mkdir(parents=True, exist_ok=True)
        events.sort(TS, USER_ID, maintain_order=True).sink_parquet(out / "events.parquet")
        answer["rows"] = pl.scan_parquet(out / "events.parquet").select(pl.len()).collect().item()
        for table, rows in (("items", found.items), ("users", found.users)):
            if len(rows):
                rows.write_parquet(out / f"{table}.parquet")
                answer[table] = str(out / f"{table}.parquet")
    except OSError as error:
        raise ConfigError(
            f"{out} cannot be written ({error.strerror or error}); free space or choose another folder"
        ) from error
    return answer | {"licence": found.licence, "attribution": found.attribution}


def synth(
    out: Path,
    *,
    world: Mapping[str, Any],
    like_yambda: float | None = None,
    schema: str = "vitrina",
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write a made-up log, with the parameters of its world beside it.

    Args:
        out: folder to write to.
        world: parameters of `vitrina.datasets.World`, as numbers or as text.
        like_yambda: makes a world of this share of Yambda-50M's users and events; `world` may hold its seed.
        schema: `vitrina` or `yambda`.
        reporter: hears of the progress.

    Raises:
        ConfigError: no such parameter, or a value that its rule refuses.
    """
    if like_yambda is not None:
        extra = [name for name in world if name != "seed"]
        if extra:
            raise ConfigError(
                f"{extra[0]} is set by the world of Yambda-50M; give its scale and the seed alone"
            )
        made = datasets.World.yambda_50m(seed=int(world.get("seed", 0)), scale=like_yambda)
    else:
        made = datasets.World(**_parameters(world))
    say = reporter or Silent()
    began = time.perf_counter()
    with say.step("make up a log", total=PARTS) as advance:
        parts = 0

        def progress(done: int, total: int) -> None:
            nonlocal parts
            while parts < PARTS * done // max(total, 1):
                parts += 1
                advance("make up a log")

        rows = made.write(out, schema, progress=progress)  # type: ignore[arg-type]  # checked there
    seconds = time.perf_counter() - began
    return {"folder": str(out), "rows": rows, "seconds": seconds, "rows_per_s": sum(rows.values()) / seconds}


PARTS = 100
"""Steps of the progress bar."""


def _parameters(world: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of a world in their types; text, as from a command line, is read as a number."""
    kinds: dict[str, Callable[[Any], Any]] = {f.name: type(f.default) for f in fields(datasets.World)}
    found: dict[str, Any] = {}
    for name, value in world.items():
        if name not in kinds:
            raise ConfigError(f"a world has no parameter {name!r}; it has: {', '.join(kinds)}")
        try:
            if kinds[name] is tuple:
                pair = value.split(",") if isinstance(value, str) else value
                found[name] = tuple(float(part) for part in pair)
            else:
                found[name] = kinds[name](value)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name} must be like {_default(name)!r}, got {value!r}") from error
    return found


def _default(name: str) -> Any:
    return next(f.default for f in fields(datasets.World) if f.name == name)
