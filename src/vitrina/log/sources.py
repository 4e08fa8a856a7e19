"""Where a log comes from: Parquet, CSV, NDJSON or a frame, opened lazily, each failure one sentence."""

import csv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from vitrina.errors import LogError
from vitrina.log import ndjson
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
    rules: dict[str, pl.Expr] = field(default_factory=dict)
    """Reason -> whether a row could not be read at all; these come before every other rule."""

    def places(self, rows: pl.LazyFrame) -> pl.LazyFrame:
        """Adds `file` and `row` (within the file, from 0) to rows of `located` (or of `frame`)."""
        if self.located is None:
            return rows.with_columns(pl.lit(self.name).alias("file"), pl.col(ROW).cast(pl.Int64).alias("row"))
        if ndjson.WITHIN in self.located.collect_schema():
            return rows.rename({FILE: "file", ndjson.WITHIN: "row"})
        first = (
            self.located.group_by(FILE).agg(pl.col(ROW).min().alias("__first")).collect(engine="streaming")
        )
        with_first = rows.join(first.lazy(), on=FILE, how="left", maintain_order="left")
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
    if not place:
        raise LogError("the path of the log is empty; give a file, a folder, a glob or a URL")
    kind = kind or _kind(place)
    if kind == "ndjson":
        with reading(name, place):
            return _open_ndjson(place, columns)
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
        else:
            options |= {"separator": "\t" if ".tsv" in place else ",", "infer_schema_length": HEAD_ROWS}
            schema = pl.scan_csv(place, **options).collect_schema()
            scan = pl.scan_csv
        raw_names = [column for column in schema if column != ROW]
        named = columns.mapped(raw_names, name)
        if kind != "parquet":
            mapped = [raw for raw in named.values() if raw not in columns.context]
            options["schema_overrides"] = dict.fromkeys(mapped, pl.String)
        frame = scan(place, **options)
        head = frame.drop(ROW).head(HEAD_ROWS).collect(engine="streaming")
    located = scan(place, include_file_paths=FILE, **options)
    return Source(name, frame, head, named, is_text=kind != "parquet", located=located)


def _open_ndjson(place: str, columns: Columns) -> Source:
    name = place
    files = _files(place)
    if "://" not in place and not files:
        raise LogError(_ABSENT.format(name))
    pieces = ndjson.remote(place) if "://" in place else ndjson.local(files)
    types = ndjson.infer(pieces, name, HEAD_ROWS)
    named = columns.mapped([*types], name)
    fixed = {
        raw: kind if raw in columns.context and kind != pl.Null else pl.String for raw, kind in types.items()
    }
    parser = ndjson.Parser(fixed, tuple(named.values()))
    located = ndjson.scan(pieces, parser, row=ROW, file=FILE)
    head = located.filter(pl.col(ndjson.FAULT).is_null()).select(*fixed).head(HEAD_ROWS)
    rules = {
        reason: (pl.col(ndjson.FAULT) == reason).fill_null(False)
        for reason in (ndjson.NOT_AN_OBJECT, ndjson.OTHER_TYPES)
    }
    return Source(
        name,
        located.drop(FILE, ndjson.WITHIN),
        head.collect(engine="streaming"),
        named,
        is_text=True,
        located=located,
        rules=rules,
    )


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
    except (pl.exceptions.PolarsError, OSError, EOFError, UnicodeDecodeError) as error:
        if "expanded paths were empty" in str(error):
            raise LogError(_ABSENT.format(name)) from error
        if "://" in name:
            raise LogError(_store_says(error, name)) from error
        raise LogError(f"{name} cannot be read: {_why(error, place or name)}") from error


def _store_says(error: Exception, name: str) -> str:
    text = " ".join(str(error).split())
    if "403" in text or "401" in text or "credential" in text.lower():
        said = f"{name} was refused by the store"
    elif "404" in text and "NoSuchBucket" not in text:
        return _ABSENT.format(name)
    else:
        said = f"{name} cannot be read from its store"
    return (
        f"{said} ({text[:300]}); check the URL and the environment variables of the store, "
        f"as AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL for s3://"
    )


def _why(error: Exception, place: str) -> str:
    text = str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
    if "PAR1" in text or "out of spec" in text.lower():
        file = _first_not_parquet(place)
        return f"{file} is not a Parquet file, is cut short or corrupted ({text}); write it again"
    if _kind(place) == "csv" and (fault := _first_bad_csv_line(place)) is not None:
        return f"{fault}; mend or remove the line"
    return f"{text}; mend the file or convert it to Parquet"


def _files(place: str) -> list[Path]:
    if "://" in place:
        return []
    path = Path(place)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = path.rglob("*")
    else:
        anchor = Path(path.anchor or ".")
        found = anchor.glob(str(path.relative_to(anchor)) if path.anchor else place)
    return sorted(file for file in found if file.is_file() and not file.name.startswith(tuple(_HIDDEN)))


def _first_not_parquet(place: str) -> str:
    for file in _files(place):
        try:
            pl.read_parquet_schema(file)
        except (pl.exceptions.PolarsError, OSError):
            return str(file)
    return place


def _first_bad_csv_line(place: str) -> str | None:
    """Where Python's reader finds a line that is not UTF-8, has too many fields or an open quote."""
    for file in _files(place):
        with file.open("rb") as stream:
            if stream.read(2) == b"\x1f\x8b":
                continue  # packed: the line is not worth unpacking it here
        delimiter, at = "\t" if ".tsv" in file.name else ",", 0
        try:
            with file.open(encoding="utf-8", newline="") as text:
                rows = csv.reader(text, delimiter=delimiter, strict=True)
                n_fields = len(next(rows, []))
                for row in rows:
                    at = rows.line_num
                    if len(row) > n_fields:
                        return f"line {at} of {file} has {len(row)} fields, its header {n_fields}"
        except UnicodeDecodeError:
            return f"{_first_not_utf8(file)} is not UTF-8"
        except csv.Error as error:
            return f"a quote is opened and not closed after line {at} of {file} ({error})"
    return None


def _first_not_utf8(file: Path) -> str:
    with file.open("rb") as stream:
        for at, line in enumerate(stream, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"line {at} of {file}"
    return str(file)


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
