"""The vectors of a fitted pipeline, and what they tell of popularity."""

import math
from typing import Any

import numpy as np
import polars as pl

from vitrina.evaluate.popularity import (
    MAX_QUERIES,
    Asked,
    Fashion,
    PopularityDiagnostics,
    diagnose,
    norms,
    spaced,
)
from vitrina.log import Histories
from vitrina.pipeline import Pipeline, Source
from vitrina.policies import Unseen
from vitrina.schema import FloatArray, LongArray
from vitrina.split import Truth

QUERIES_AT_ONCE = 4096
"""Histories turned into vectors together."""


def source_with_vectors(pipeline: Pipeline, train: Histories) -> Source | None:
    """The first source whose model has a vector for each training item and one for any history, or None."""
    for source in pipeline.sources:
        generator = source.generator
        has_both = callable(getattr(generator, "embed", None)) and "item_emb_" in getattr(
            generator, "__dict__", {}
        )
        if has_both and getattr(generator, "items_", None) == train.items:
            return source
    return None


def popularity_of(
    pipeline: Pipeline, train: Histories, truth: Truth, *, now: int | None, asked_ts: LongArray | None = None
) -> PopularityDiagnostics | None:
    """Diagnose the vectors of a pipeline; None where no source has any.

    The lists are those of the source alone, under the pipeline's rules on items and on seen ones, without
    fallback, merging and caps.

    Args:
        pipeline: fitted on `train`.
        train: training histories.
        truth: the test users and what they took.
        now: time of the requests, UTC microseconds; None takes the time of the last training event.
        asked_ts: when each test user asks, where a model is told. Shape (U,).
    """
    source = source_with_vectors(pipeline, train)
    if source is None or not len(truth):
        return None
    generator: Any = source.generator
    now = pipeline.trained_until if now is None else now
    users = spaced(len(truth), MAX_QUERIES)
    part = truth.users(np.isin(np.arange(len(truth)), users))
    queries = train.of(part.user_ids.values).asked_at(None if asked_ts is None else asked_ts[users])
    queries = queries.asked_at(now)
    blocks = []
    for lo in range(0, len(queries), QUERIES_AT_ONCE):
        some = queries.rows(np.arange(lo, min(lo + QUERIES_AT_ONCE, len(queries)), dtype=np.int32))
        blocks.append(np.where(some.lengths[:, None] > 0, generator.embed(some), np.float32(0)))
    unseen = next((p for p in pipeline.policies if isinstance(p, Unseen)), None)
    counts_I = train.item_counts()
    own = getattr(generator, "raw_item_emb", None)
    raw_ID, query_UD, fashion = generator.item_emb_ if own is None else own, np.concatenate(blocks), None
    if getattr(generator, "trend_days", 0):
        query_UD, fashion = query_UD[:, :-1], _fashion(generator, raw_ID, query_UD[:, -1])
    return diagnose(
        raw_ID,
        Asked(
            query_UD=query_UD,
            truth=part.jagged,
            counts_I=counts_I,
            exclude=None if unseen is None else unseen.excluded(queries, now),
            allowed=pipeline.allowed(now),
            fashion=fashion,
        ),
        source=source.name,
        served="cosine" if getattr(generator, "cosine", False) else "dot",
        start_norm=_start_norm(generator) if (counts_I == 0).any() else math.nan,
        epochs=_epochs(generator),
    )


def _fashion(generator: Any, raw_ID: FloatArray, weight_U: FloatArray) -> Fashion:
    """The trend of a model, and the scale of its products beside it, as it scores with them."""
    scored_ID, longest = generator.item_emb_[:, :-1], int(np.argmax(norms(raw_ID)))
    length = 1.0 if generator.cosine else norms(raw_ID)[longest]
    return Fashion(float(norms(scored_ID)[longest] / length), weight_U, generator.item_emb_[:, -1])


def _start_norm(generator: Any) -> float:
    """Mean length of an item vector before training; models drawn with `init_std` say it by that."""
    known = getattr(generator, "start_norm", None)
    return float(getattr(generator, "init_std", math.nan) if known is None else known)


def _epochs(generator: Any) -> tuple[dict[str, float], ...]:
    """The part of a training curve that tells of norms."""
    curve = vars(generator).get("curve_")
    if not isinstance(curve, pl.DataFrame) or "norm" not in curve.columns:
        return ()
    kept = [name for name in ("epoch", "norm", "count_norm", "update_cos") if name in curve.columns]
    return tuple({k: v for k, v in row.items() if v is not None} for row in curve.select(kept).to_dicts())
