"""Where a log comes from: Parquet, CSV, NDJSON or a frame, opened lazily, each failure one sentence."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from vitrina.errors import LogError
from vitrina.log.columns import Columns

ROW = "__row"
FILE = "__file"

HEAD_ROWS = 1_000
"""Rows that tell the types of a text file."""

_SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
}
_HIDDEN = ["_", "."]
_ABSENT = "{} does not exist or holds no data file; give a file, a folder, a glob or a URL"


@dataclass(frozen=True)
class Source:
    """A log as it lies there, before any check."""

    name: str
    """What messages call it."""
    frame: pl.LazyFrame
    """Raw columns, and `ROW`: position over all files, from 0."""
    head: pl.DataFrame
    """First rows of the raw columns."""
    named: dict[str, str]
    """Canonical name -> raw name."""
    is_text: bool = False
    """Whether types were guessed from text."""
    located: pl.LazyFrame | None = None
    """`frame` with `FILE` as well; None for a frame in memory."""

    def places(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Adds `file` and `row` (within the file, from 0) to rows of `located` (or of `frame`)."""
        if self.located is None:
            return rows.with_columns(pl.lit(self.name).alias("file"), pl.col(ROW).cast(pl.Int64).alias("row"))
        first = (
            self.located.group_by(FILE).agg(pl.col(ROW).min().alias("__first")).collect(engine="streaming")
        )
        with_first = rows.join(first.lazy(), on=FILE, how="left")
        return with_first.with_columns(
            pl.col(FILE).alias("file"),
            (pl.col(ROW).cast(pl.Int64) - pl.col("__first").cast(pl.Int64)).alias("row"),
        ).drop(FILE, "__first")


def from_frame(frame: pl.DataFrame | pl.LazyFrame, columns: Columns, name: str = "the frame") -> Source:
    """A frame, in memory or lazy, as a source."""
    lazy = frame.lazy()
    named = columns.mapped(lazy.collect_schema().names(), name)
    return Source(name, lazy.with_row_index(ROW), lazy.head(HEAD_ROWS).collect(engine="streaming"), named)


def open_source(path: str | Path, columns: Columns, kind: str | None = None) -> Source:
    """A file, a folder, a glob or an object-store URL as a source; nothing but schema and first rows is read.

    Raises:
        LogError: it is not there, cannot be read, or lacks a column.
    """
    place, name = str(path), str(path)
    kind = kind or _kind(place)
    if kind != "parquet" and "://" not in place and Path(place).is_dir():
        place = str(Path(place) / "**" / f"*{_suffix_in(Path(place))}")
    scan: Callable[..., pl.LazyFrame]
    options: dict[str, Any] = {"row_index_name": ROW}
    with reading(name, place):
        if kind == "parquet":
            hive = True if "=" in place or "://" in place or Path(place).is_dir() else None
            options |= {"hive_partitioning": hive, "hidden_file_prefix": _HIDDEN}
            schema = pl.scan_parquet(place, **options).collect_schema()
            scan = pl.scan_parquet
        elif kind == "csv":
            options |= {"separator": "\t" if ".tsv" in place else ",", "infer_schema_length": HEAD_ROWS}
            schema = pl.scan_csv(place, **options).collect_schema()
            scan = pl.scan_csv
        else:
            options |= {"infer_schema_length": HEAD_ROWS}
            schema = pl.scan_ndjson(place, **options).collect_schema()
            scan = pl.scan_ndjson
        raw_names = [column for column in schema if column != ROW]
        named = columns.mapped(raw_names, name)
        if kind != "parquet":
            mapped = [raw for raw in named.values() if raw not in columns.context]
            options["schema_overrides"] = dict.fromkeys(mapped, pl.String)
        frame = scan(place, **options)
        head = frame.drop(ROW).head(HEAD_ROWS).collect(engine="streaming")
    located = scan(place, include_file_paths=FILE, **options)
    return Source(name, frame, head, named, is_text=kind != "parquet", located=located)


@contextmanager
def reading(name: str, place: str | None = None) -> Iterator[None]:
    """Turns what a reader raises into one sentence.

    Raises:
        LogError: always, in place of the reader's own error.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise LogError(_ABSENT.format(name)) from error
    except pl.exceptions.NoDataError as error:
        raise LogError(f"{name} is empty: it has not even a header; give a log with columns") from error
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        if "expanded paths were empty" in str(error):
            raise LogError(_ABSENT.format(name)) from error
        raise LogError(f"{name} cannot be read: {_why(error, place or name)}") from error


def _why(error: Exception, place: str) -> str:
    text = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
    if "PAR1" in text or "out of spec" in text.lower():
        file = _first_not_parquet(place)
        return f"{file} is not a Parquet file, is cut short or corrupted ({text}); write it again"
    if _kind(place) == "ndjson":
        return f"{_first_bad_line(place)}; mend or remove it"
    return f"{text}; mend the file or convert it to Parquet"


def _files(place: str) -> list[Path]:
    if "://" in place:
        return []
    path = Path(place)
    if path.is_file():
        return [path]
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    anchor = Path(path.anchor or ".")
    pattern = str(path.relative_to(anchor)) if path.anchor else place
    return sorted(file for file in anchor.glob(pattern) if file.is_file())


def _first_not_parquet(place: str) -> str:
    for file in _files(place):
        if file.name.startswith(tuple(_HIDDEN)):
            continue
        try:
            pl.read_parquet_schema(file)
        except (pl.exceptions.PolarsError, OSError):
            return str(file)
    return place


def _first_bad_line(place: str) -> str:
    for file in _files(place):
        with file.open("rb") as stream:
            for at, line in enumerate(stream, start=1):
                try:
                    ok = not line.strip() or isinstance(json.loads(line), dict)
                except ValueError:
                    ok = False
                if not ok:
                    shown = line[:60].decode(errors="replace").strip()
                    return f"line {at} of {file} is not a JSON object: {shown!r}"
    return f"{place} holds a line that is not a JSON object"


def _kind(place: str) -> str:
    path = Path(place.rstrip("/"))
    if "://" not in place and path.is_dir():
        return _SUFFIXES[_suffix_in(path)]
    for suffix in reversed(path.suffixes):
        if suffix.lower() in _SUFFIXES:
            return _SUFFIXES[suffix.lower()]
    return "parquet"


def _suffix_in(folder: Path) -> str:
    suffixes = {file.suffix.lower() for file in folder.rglob("*") if file.is_file()}
    known = sorted(suffixes & _SUFFIXES.keys())
    if not known:
        found = ", ".join(sorted(filter(None, suffixes))) or "nothing"
        raise LogError(f"{folder} holds no log: no {', '.join(_SUFFIXES)} file in it, but {found}")
    if len({_SUFFIXES[suffix] for suffix in known}) > 1:
        raise LogError(
            f"{folder} mixes {', '.join(known)}; give one format, e.g. a glob such as {folder}/*{known[0]}"
        )
    return known[0]
