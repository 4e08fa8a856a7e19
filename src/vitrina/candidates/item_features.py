"""What a catalogue says of its items, as arrays a network reads; fitted once, applied to items of any day.

    category, text   hashed: bucket = BLAKE2b(column, NUL, value) mod n_buckets; a text has a token a word
    number           (x - mean) / deviation, within 5; 0 where missing, and a second column says so
    vector           as it is, 0 where missing

Hashing needs no vocabulary, so a value never seen before has a bucket too; two values share one with chance
1 / n_buckets. Items' ids are no feature here.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from vitrina.errors import ConfigError, InputError
from vitrina.ids import Ids
from vitrina.schema import ITEM_ID, FloatArray, LongArray

KINDS = ("category", "text", "number", "vector", "skip")
LIMIT = 5.0
"""Deviations at which a number is cut."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ItemFeatures:
    """Features of I items: a bag of tokens each, and a row of numbers each."""

    offsets: LongArray
    """(I + 1,)"""
    token: LongArray
    """Buckets, (n,)."""
    weight: FloatArray
    """1 for a category, 1 / sqrt(words) for a word, (n,)."""
    dense: FloatArray
    """(I, F)"""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def take(self, rows: LongArray) -> "ItemFeatures":
        """Features of the items at some positions, in that order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        at = np.arange(offsets[-1]) + np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths)
        return ItemFeatures(
            offsets=offsets, token=self.token[at], weight=self.weight[at], dense=self.dense[rows]
        )

    def then(self, other: "ItemFeatures") -> "ItemFeatures":
        """These items and then those."""
        return ItemFeatures(
            offsets=np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]]),
            token=np.concatenate([self.token, other.token]),
            weight=np.concatenate([self.weight, other.weight]),
            dense=np.concatenate([self.dense, other.dense]),
        )


def learn(items: pl.DataFrame | None, given: dict[str, str], n_buckets: int) -> dict[str, Any]:
    """How each column is read, and means and deviations of numbers; a JSON value.

    A column not in `given` is a vector if it holds lists of numbers, a text if it holds lists of words or any
    value with a space, a category if it holds other strings, a number if it holds numbers, times or truths.

    Raises:
        ConfigError: `given` names an unknown column or kind.
        InputError: the frame has no item_id, or has one twice.
    """
    columns: dict[str, dict[str, Any]] = {}
    if items is None:
        if given:
            raise ConfigError(
                f"columns names {next(iter(given))!r}, but there is no item metadata; give items"
            )
        return {"n_buckets": n_buckets, "columns": columns}
    _check(items)
    for name, kind in given.items():
        if name not in items.columns or kind not in KINDS:
            raise ConfigError(
                f"columns has {name!r}: {kind!r}; there are the columns "
                f"{', '.join(items.columns)} and the kinds {', '.join(KINDS)}"
            )
    for series in items.drop(ITEM_ID):
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
            if len(widths):
                columns[series.name] = {"kind": kind, "width": int(widths[0])}
        elif kind != "skip":
            columns[series.name] = {"kind": kind}
    return {"n_buckets": n_buckets, "columns": columns}


def encode(items: pl.DataFrame | None, ids: Ids, learnt: dict[str, Any]) -> ItemFeatures:
    """Features of the items of a vocabulary; one that the frame lacks has none.

    Raises:
        InputError: the frame lacks a column that was learnt, has no item_id, or has one twice.
    """
    rows = pl.DataFrame({ITEM_ID: ids.values})
    if items is not None:
        _check(items)
        known = items.with_columns(pl.col(ITEM_ID).cast(rows[ITEM_ID].dtype))
        rows = rows.join(known, on=ITEM_ID, how="left", maintain_order="left")
    n_items, n_buckets = len(ids), int(learnt["n_buckets"])
    owners, tokens, weights, dense = [], [], [], [np.zeros((n_items, 0), np.float32)]
    for name, how in learnt["columns"].items():
        if name not in rows.columns:
            raise InputError(f"item metadata lacks the column {name!r} that the model was fitted with")
        series = rows[name]
        if how["kind"] == "number":
            values = (_numbers(series) - how["mean"]) / how["deviation"]
            missing = ~np.isfinite(values)
            dense.append(np.where(missing, 0.0, np.clip(values, -LIMIT, LIMIT))[:, None].astype(np.float32))
            dense.append(missing[:, None].astype(np.float32))
        elif how["kind"] == "vector":
            dense.append(_vectors(series, int(how["width"])))
        else:
            owner, token, weight = _bag(series, how["kind"], n_buckets)
            owners.append(owner)
            tokens.append(token)
            weights.append(weight)
    owner = np.concatenate([np.zeros(0, np.int64), *owners])
    order = np.argsort(owner, kind="stable")
    return ItemFeatures(
        offsets=np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=n_items))]).astype(np.int64),
        token=np.concatenate([np.zeros(0, np.int64), *tokens])[order],
        weight=np.concatenate([np.zeros(0, np.float32), *weights])[order],
        dense=np.concatenate(dense, axis=1),
    )


def _check(items: pl.DataFrame) -> None:
    if ITEM_ID not in items.columns:
        raise InputError(f"item metadata needs a column item_id, it has: {', '.join(items.columns)}")
    repeated = items[ITEM_ID].is_duplicated()
    if repeated.any():
        raise InputError(
            f"item metadata has {items[ITEM_ID].filter(repeated)[0]!r} more than once; keep one row an item"
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
    plain = series.to_physical() if series.dtype.is_temporal() else series
    return plain.cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _vectors(series: pl.Series, width: int) -> FloatArray:
    out = np.zeros((len(series), width), np.float32)
    known = series.is_not_null().to_numpy()
    lists = series.cast(pl.List(pl.Float32)).drop_nulls()
    if len(lists) and (lists.list.len() != width).any():
        raise InputError(
            f"vectors of {series.name!r} must have {width} numbers, as those of the training had"
        )
    out[known] = lists.explode().to_numpy().reshape(-1, width) if len(lists) else 0.0
    return np.nan_to_num(out, posinf=0.0, neginf=0.0)


def _bag(series: pl.Series, kind: str, n_buckets: int) -> tuple[LongArray, LongArray, FloatArray]:
    """Item, bucket and weight of every token of a column."""
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
    bucket = {word: _bucket(series.name, word, n_buckets) for word in distinct.to_list()}
    token = (
        frame["word"].replace_strict(bucket, return_dtype=pl.Int64).to_numpy()
        if len(frame)
        else np.zeros(0, np.int64)
    )
    return frame["owner"].to_numpy(), token, (frame["n"].to_numpy() ** -0.5).astype(np.float32)


def _bucket(column: str, value: str, n_buckets: int) -> int:
    digest = hashlib.blake2b(f"{column}\0{value}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") % n_buckets
