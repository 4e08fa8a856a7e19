"""What a table says of items or of people, as arrays a network reads; fitted once, applied on any day.

    category, text   hashed: token = 63 bits of BLAKE2b(column, NUL, value); a text has a token a word
    number           (x - mean) / deviation, within 5; 0 where missing, NaN or infinite, and a second column
                     says so
    vector           as it is, 0 where missing

The network folds tokens into the rows of one table (`vitrina.nn.embeddings.MultiHash`). Words that few rows
have are left out (`common`, `TableFeatures.only`): they name their row as an id would and teach nothing of
others, and the words of a row that came later were never learnt. Ids are no feature here.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from vitrina.errors import ConfigError, InputError
from vitrina.ids import Ids
from vitrina.schema import ITEM_ID, USER_ID, FloatArray, LongArray

KINDS = ("category", "text", "number", "vector", "skip")
LIMIT = 5.0
"""Deviations at which a number is cut."""
TABLES = {ITEM_ID: "item metadata", USER_ID: "the users table"}
"""What a table is called, by its key."""


@dataclass(frozen=True, eq=False, kw_only=True)
class TableFeatures:
    """Features of R rows: a bag of tokens each, a row of numbers each, and the given vectors side by side."""

    offsets: LongArray
    """(R + 1,)"""
    token: LongArray
    """In [0, 2^63), (n,)."""
    weight: FloatArray
    """1 for a category, 1 / sqrt(words) for a word, (n,)."""
    number: FloatArray
    """(R, F)"""
    content: FloatArray
    """(R, C)"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: LongArray) -> "TableFeatures":
        """Features of the rows at some positions, in that order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        at = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        return TableFeatures(
            offsets=offsets,
            token=self.token[at],
            weight=self.weight[at],
            number=self.number[rows],
            content=self.content[rows],
        )

    def only(self, tokens: LongArray) -> "TableFeatures":
        """The same rows without other tokens than these."""
        keep = np.isin(self.token, tokens)
        return TableFeatures(
            offsets=np.concatenate([[0], np.cumsum(keep)])[self.offsets].astype(np.int64),
            token=self.token[keep],
            weight=self.weight[keep],
            number=self.number,
            content=self.content,
        )

    def then(self, other: "TableFeatures") -> "TableFeatures":
        """These rows and then those."""
        return TableFeatures(
            offsets=np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]]),
            token=np.concatenate([self.token, other.token]),
            weight=np.concatenate([self.weight, other.weight]),
            number=np.concatenate([self.number, other.number]),
            content=np.concatenate([self.content, other.content]),
        )


def learn(table: pl.DataFrame | None, given: dict[str, str], *, key: str = ITEM_ID) -> dict[str, Any]:
    """How each column is read, and means and deviations of numbers; a JSON value.

    A column not in `given` is a vector if it holds lists of numbers, a text if it holds lists of words or any
    value with a space, a category if it holds other strings, a number if it holds numbers, times or truths.

    Args:
        table: one row an id; None has no columns.
        given: kind by column, where it is not to be guessed.
        key: the column of ids, item_id or user_id.

    Raises:
        ConfigError: `given` names an unknown column or kind.
        InputError: the table has no ids, has one twice, or has vectors of unequal lengths.
    """
    columns: dict[str, dict[str, Any]] = {}
    if table is None:
        if given:
            raise ConfigError(
                f"columns are named, {next(iter(given))!r} the first, but {TABLES[key]} is not there; give it"
            )
        return {"key": key, "columns": columns}
    _check(table, key)
    for name, kind in given.items():
        if name not in table.columns or kind not in KINDS:
            raise ConfigError(
                f"columns has {name!r}: {kind!r}; there are the columns "
                f"{', '.join(table.columns)} and the kinds {', '.join(KINDS)}"
            )
    for series in table.drop(key):
        kind = given.get(series.name) or _kind(series)
        if kind == "number":
            values = _numbers(series)
            known = values[np.isfinite(values)]
            mean, deviation = (float(known.mean()), float(known.std())) if len(known) else (0.0, 1.0)
            columns[series.name] = {"kind": kind, "mean": mean, "deviation": deviation or 1.0}
        elif kind == "vector":
            widths = series.drop_nulls().cast(pl.List(pl.Float32)).list.len()
            if widths.n_unique() > 1:
                raise InputError(
                    f"vectors of {series.name!r} have {widths.min()!r} to {widths.max()!r} numbers; "
                    "give one length"
                )
            if len(widths) and widths[0]:
                columns[series.name] = {"kind": kind, "width": int(widths[0])}
        elif kind != "skip":
            columns[series.name] = {"kind": kind}
    return {"key": key, "columns": columns}


def encode(
    table: pl.DataFrame | None, ids: Ids, learnt: dict[str, Any], *, and_nobody: bool = False
) -> TableFeatures:
    """Features of the ids of a vocabulary; one that the table lacks has none.

    Args:
        table: one row an id, with the columns that were learnt.
        ids: what to describe.
        learnt: from `learn`.
        and_nobody: adds a row at the end: of an id that no table has.

    Raises:
        InputError: the table lacks a column that was learnt, has no ids, has one twice, or has a vector that
        is not finite or of another length.
    """
    key = str(learnt["key"])
    values = ids.values if not and_nobody else ids.values.extend_constant(None, 1)
    rows = pl.DataFrame({key: values})
    if table is not None:
        _check(table, key)
        known = table.with_columns(pl.col(key).cast(rows[key].dtype))
        rows = rows.join(known, on=key, how="left", maintain_order="left")
    n_rows = len(rows)
    owners, tokens, weights = [], [], []
    numbers, contents = [np.zeros((n_rows, 0), np.float32)], [np.zeros((n_rows, 0), np.float32)]
    for name, how in learnt["columns"].items():
        if name not in rows.columns:
            raise InputError(f"{TABLES[key]} lacks the column {name!r} that the model was fitted with")
        series = rows[name]
        if how["kind"] == "number":
            values = (_numbers(series) - how["mean"]) / how["deviation"]
            missing = ~np.isfinite(values)
            numbers.append(np.where(missing, 0.0, np.clip(values, -LIMIT, LIMIT))[:, None].astype(np.float32))
            numbers.append(missing[:, None].astype(np.float32))
        elif how["kind"] == "vector":
            contents.append(_vectors(series, int(how["width"]), rows[key]))
        else:
            owner, token, weight = _bag(series, how["kind"])
            owners.append(owner)
            tokens.append(token)
            weights.append(weight)
    owner = np.concatenate([np.zeros(0, np.int64), *owners])
    order = np.argsort(owner, kind="stable")
    return TableFeatures(
        offsets=np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=n_rows))]).astype(np.int64),
        token=np.concatenate([np.zeros(0, np.int64), *tokens])[order],
        weight=np.concatenate([np.zeros(0, np.float32), *weights])[order],
        number=np.concatenate(numbers, axis=1),
        content=np.concatenate(contents, axis=1),
    )


def common(features: TableFeatures, min_count: int) -> LongArray:
    """Tokens that at least `min_count` of some rows have, ascending."""
    owner = np.repeat(np.arange(len(features)), np.diff(features.offsets))
    once = np.unique(np.column_stack([features.token, owner]), axis=0)[:, 0]
    token, n_rows = np.unique(once, return_counts=True)
    return np.asarray(token[n_rows >= min_count], dtype=np.int64)


def _check(table: pl.DataFrame, key: str) -> None:
    if key not in table.columns:
        raise InputError(f"{TABLES[key]} needs a column {key}, it has: {', '.join(table.columns)}")
    repeated = table[key].is_duplicated()
    if repeated.any():
        raise InputError(
            f"{TABLES[key]} has {table[key].filter(repeated)[0]!r} more than once; keep one row an id"
        )


def _kind(series: pl.Series) -> str:
    dtype = series.dtype
    if isinstance(dtype, pl.List | pl.Array):
        return "text" if dtype.inner == pl.String else "vector"
    if dtype.is_numeric() or dtype.is_temporal() or dtype == pl.Boolean:
        return "number"
    if dtype == pl.String:
        return "text" if series.str.contains(" ", literal=True).any() else "category"
    return "category" if isinstance(dtype, pl.Categorical | pl.Enum) else "skip"


def _numbers(series: pl.Series) -> np.ndarray[Any, np.dtype[np.float64]]:
    plain = series
    if isinstance(series.dtype, pl.Date | pl.Datetime):
        plain = series.cast(pl.Datetime("us")).to_physical()
    elif isinstance(series.dtype, pl.Duration):
        plain = series.cast(pl.Duration("us")).to_physical()
    elif series.dtype.is_temporal():
        plain = series.to_physical()
    return plain.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _vectors(series: pl.Series, width: int, ids: pl.Series) -> FloatArray:
    out = np.zeros((len(series), width), np.float32)
    known = series.is_not_null().to_numpy()
    lists = series.cast(pl.List(pl.Float32)).drop_nulls()
    if len(lists) and (lists.list.len() != width).any():
        raise InputError(
            f"vectors of {series.name!r} must have {width} numbers, as those of the training had"
        )
    out[known] = lists.explode().to_numpy().reshape(-1, width) if len(lists) else 0.0
    bad = np.flatnonzero(~np.isfinite(out).all(axis=1))
    if len(bad):
        raise InputError(
            f"the vector {series.name!r} of {ids[int(bad[0])]!r} (and of {len(bad) - 1} more) has a null, "
            "NaN or infinity in it; leave the whole vector empty where it is not known"
        )
    return out


def _bag(series: pl.Series, kind: str) -> tuple[LongArray, LongArray, FloatArray]:
    """Row, token and weight of every word of a column."""
    words = series
    if kind == "text" and series.dtype == pl.String:
        words = series.str.to_lowercase().str.extract_all(r"\w+")
    elif kind == "category":
        words = series.cast(pl.String)
    frame = pl.DataFrame({"owner": np.arange(len(series)), "word": words})
    if words.dtype == pl.List:
        frame = frame.explode("word")
    frame = frame.drop_nulls().with_columns(n=pl.len().over("owner"))
    distinct = frame["word"].unique()
    number = {word: _token(series.name, word) for word in distinct.to_list()}
    token = (
        frame["word"].replace_strict(number, return_dtype=pl.Int64).to_numpy()
        if len(frame)
        else np.zeros(0, np.int64)
    )
    return frame["owner"].to_numpy(), token, (frame["n"].to_numpy() ** -0.5).astype(np.float32)


def _token(column: str, value: str) -> int:
    digest = hashlib.blake2b(f"{column}\0{value}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
