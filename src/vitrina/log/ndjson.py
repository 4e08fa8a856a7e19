"""NDJSON line by line, so that one malformed line is one row with a fault and not the end of the scan.

A file is read in pieces of some megabytes that end at a line; polars parses a piece at once. Where it refuses
one, the lines at fault are looked for. Such a line is a row whose columns are all null, with the reason in
`FAULT` and the text in `LINE`. A line cut short by the end of the file is one too.
"""

import gzip
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, BinaryIO, cast

import polars as pl
from polars.io.plugins import register_io_source

from vitrina.errors import LogError

FAULT = "__fault"
LINE = "__line"
WITHIN = "__within"

NOT_AN_OBJECT = "line_not_a_json_object"
"""The line is no JSON, is cut short, is not UTF-8, or is JSON of another kind, as a list."""
OTHER_TYPES = "line_of_other_types"
"""The line is a JSON object, and a context column in it does not have the type of the first rows."""

PIECE_BYTES = 8 << 20
"""Read at once; polars needs some four times as much to parse it."""
MAX_LINE_BYTES = 64 << 20
"""A longer line is cut there, which makes it malformed: memory stays bounded on a file without line ends."""

_FEW_LINES = 8_192
_BLANK = b" \t\r\n"
_BOM = b"\xef\xbb\xbf"
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"

Pieces = Callable[[], Iterator[tuple[str, bytes]]]
"""A log as (file, whole lines) from its first file to its last."""


@dataclass(frozen=True)
class Parser:
    """Lines to rows of a fixed schema."""

    columns: dict[str, Any]
    """Every raw column and its type; all but those of context are String, into which JSON always fits."""
    needed: tuple[str, ...]
    """Columns that are always parsed, so that a fault does not depend on what is asked for."""
    known: dict[tuple[str, int], dict[int, str]] = field(default_factory=dict)
    """(file, piece) -> row of the piece -> its fault, so that later passes need not look again."""

    def rows(self, piece: bytes, wanted: set[str], key: tuple[str, int]) -> pl.DataFrame:
        """A row a line that is not blank, in order: the wanted columns, `FAULT` and `LINE`.

        Args:
            piece: whole lines.
            wanted: raw columns that are asked for.
            key: which piece it is.
        """
        schema = {name: kind for name, kind in self.columns.items() if name in wanted or name in self.needed}
        whole = None if key in self.known else _parsed(piece, schema)
        if whole is not None:
            return whole.with_columns(_no_text(FAULT), _no_text(LINE))
        lines = [line for line in piece.split(b"\n") if line.strip(_BLANK)]
        if key not in self.known:
            self.known[key] = {at: fault for at, fault in enumerate(_faults(lines, schema)) if fault}
        faults = self.known[key]
        good = [at for at in range(len(lines)) if at not in faults]
        rows = _parsed(b"\n".join(lines[at] for at in good), schema)
        if rows is None:
            raise LogError(f"{key[0]} changed while it was read; read it again when nothing writes to it")
        texts = [lines[at].decode(errors="replace") for at in faults]
        told = {"at": list(faults), FAULT: list(faults.values()), LINE: texts}
        bad = pl.DataFrame(told, schema={"at": pl.Int64, FAULT: pl.String, LINE: pl.String})
        both = [rows.with_columns(pl.Series("at", good, dtype=pl.Int64)), bad]
        return pl.concat(both, how="diagonal").sort("at").select(*schema, FAULT, LINE)


def scan(pieces: Pieces, parser: Parser, *, row: str, file: str) -> pl.LazyFrame:
    """Rows of a log, lazily.

    Args:
        pieces: where the lines come from.
        parser: what makes rows of them.
        row: name of the column with the position over all files, from 0.
        file: name of the column with the file; `WITHIN` is the position in it.
    """
    own = {FAULT: pl.String(), LINE: pl.String(), row: pl.Int64(), file: pl.String(), WITHIN: pl.Int64()}

    def generate(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, _batch: int | None
    ) -> Iterator[pl.DataFrame]:
        names = [*parser.columns, *own] if with_columns is None else with_columns
        begin = 0
        for path, of_file in groupby(pieces(), key=itemgetter(0)):
            first = begin
            for at, (_, piece) in enumerate(of_file):
                rows = parser.rows(piece, set(names), (path, at))
                if n_rows is not None:
                    rows = rows.head(n_rows - begin)
                place = pl.int_range(begin, begin + len(rows), dtype=pl.Int64, eager=True)
                begin += len(rows)
                rows = rows.with_columns(
                    place.alias(row), (place - first).alias(WITHIN), pl.lit(path).alias(file)
                )
                yield rows.select(names) if predicate is None else rows.filter(predicate).select(names)
                if begin == n_rows:
                    return

    return register_io_source(generate, schema={**parser.columns, **own})


def infer(pieces: Pieces, name: str, n_lines: int) -> dict[str, Any]:
    """Columns and types of the JSON objects among the first lines, and of nothing else.

    Raises:
        LogError: there is no line, or no JSON object among the first.
    """
    lines: list[bytes] = []
    for _, piece in pieces():
        lines += [line for line in piece.split(b"\n", n_lines) if line.strip(_BLANK)]
        if len(lines) >= n_lines:
            break
    if not lines:
        raise LogError(f"{name} is empty: it has not even a line; give a log with columns")
    good = [line for line in lines[:n_lines] if _parsed(line, {}) is not None]
    if not good:
        raise LogError(
            f"{name} has no JSON object in its first {min(len(lines), n_lines):,} lines, the first being "
            f"{shown(lines[0].decode(errors='replace'))}; NDJSON is one object a line"
        )
    frame = pl.read_ndjson(io.BytesIO(b"\n".join(good)), infer_schema_length=None)
    return dict(frame.schema)


def local(files: list[Path]) -> Pieces:
    """Files on disk, packed with gzip or Zstandard or not at all."""

    def pieces() -> Iterator[tuple[str, bytes]]:
        for file in files:
            with file.open("rb") as stream:
                first = stream.read(len(_ZSTD))
            if first == _ZSTD:
                yield from remote(str(file))()
                continue
            with cast(BinaryIO, gzip.open(file) if first.startswith(_GZIP) else file.open("rb")) as whole:
                for piece in _cut(whole):
                    yield str(file), piece

    return pieces


def remote(url: str) -> Pieces:
    """Objects of a store, or whatever else polars reads lines from; they must be UTF-8."""

    def pieces() -> Iterator[tuple[str, bytes]]:
        lines = pl.scan_lines(url, name=LINE, include_file_paths=FAULT)
        for batch in lines.collect_batches(maintain_order=True, engine="streaming"):
            for path, rows in groupby(batch.iter_rows(), key=itemgetter(1)):
                yield str(path), "\n".join(str(row[0]) for row in rows).encode()

    return pieces


def shown(line: str) -> str:
    """A line as messages quote it."""
    return repr(line[:60].strip())


def _parsed(piece: bytes, schema: dict[str, Any]) -> pl.DataFrame | None:
    """Rows of a piece in which every line is as it must be, else None."""
    try:
        return pl.read_ndjson(io.BytesIO(piece), schema=schema or {"": pl.String})
    except pl.exceptions.PolarsError:
        return None


def _no_text(name: str) -> pl.Expr:
    return pl.lit(None, dtype=pl.String).alias(name)


def _faults(lines: list[bytes], schema: dict[str, Any]) -> list[str | None]:
    """What is wrong with each line, None where nothing is: halves while polars refuses them."""
    if _parsed(b"\n".join(lines), schema) is not None:
        return [None] * len(lines)
    if len(lines) <= _FEW_LINES:
        return _faults_of_few(lines, schema)
    middle = len(lines) // 2
    return _faults(lines[:middle], schema) + _faults(lines[middle:], schema)


def _faults_of_few(lines: list[bytes], schema: dict[str, Any]) -> list[str | None]:
    """The same, line by line: first what Python's reader refuses, which is quick, then what polars does."""
    faults = [None if _is_object(line) else NOT_AN_OBJECT for line in lines]
    _refused(lines, dict.fromkeys(schema, pl.String), NOT_AN_OBJECT, faults)
    at = [at for at, fault in enumerate(faults) if not fault]
    scalar = [name for name, kind in schema.items() if kind != pl.String and not kind.is_nested()]
    if scalar and at:
        text = pl.read_ndjson(
            io.BytesIO(b"\n".join(lines[one] for one in at)), schema=dict.fromkeys(scalar, pl.String)
        )
        for name in scalar:
            cannot = text[name].is_not_null() & text[name].cast(schema[name], strict=False).is_null()
            for one in cannot.arg_true():
                faults[at[one]] = OTHER_TYPES
    _refused(lines, schema, OTHER_TYPES, faults)
    return faults


def _refused(lines: list[bytes], schema: dict[str, Any], reason: str, faults: list[str | None]) -> None:
    """Notes the reason at the lines without a fault that polars refuses, halving until each stands alone."""
    waiting = [[at for at, fault in enumerate(faults) if not fault]]
    while waiting:
        at = waiting.pop()
        if not at or _parsed(b"\n".join(lines[one] for one in at), schema) is not None:
            continue
        if len(at) == 1:
            faults[at[0]] = reason
            continue
        waiting += [at[: len(at) // 2], at[len(at) // 2 :]]


def _not_json(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_python = json.JSONDecoder(parse_int=str, parse_constant=_not_json)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(_python.decode(line.decode()), dict)
    except ValueError:
        return False
    except RecursionError:
        return True


def _cut(stream: BinaryIO) -> Iterator[bytes]:
    """The stream in pieces of whole lines; a line longer than the limit loses its end."""
    held, is_cut = stream.read(len(_BOM)).removeprefix(_BOM), False
    while read := stream.read(PIECE_BYTES):
        if is_cut:
            _, newline, read = read.partition(b"\n")
            if not newline:
                continue
            is_cut = False
        held += read
        end = held.rfind(b"\n") + 1
        if end:
            yield held[:end]
            held = held[end:]
        elif len(held) > MAX_LINE_BYTES:
            yield held[:MAX_LINE_BYTES]
            held, is_cut = b"", True
    if held.strip(_BLANK):
        yield held
