"""What a pipeline carries between its stages, and what it answers: candidates, stage counts, the feed."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from vitrina.ann import PAD, TopK
from vitrina.log import Catalogue
from vitrina.schema import BoolArray, FloatArray, IntArray, LongArray

RRF_OFFSET = 60.0
"""Constant of reciprocal rank fusion, sum_s weight_s / (60 + rank_s) (Cormack et al., SIGIR 2009)."""
UNKNOWN_ITEM = "the catalogue lacks the item"
"""Why a row of a history is not read."""


@dataclass(frozen=True)
class Stage:
    """How many candidates were left after a stage, over the batch, and how long it took."""

    name: str
    n_candidates: int
    ms: float

    @classmethod
    def of(cls, name: str, lengths: LongArray, began: float) -> "Stage":
        """From the lengths of the lists and the `perf_counter` reading at which the stage began."""
        return cls(name, int(np.sum(lengths)), (time.perf_counter() - began) * 1000)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Up to N candidates for each of B queries, best first; removed ones stay, with the reason."""

    item_ix: IntArray
    """(B, N), -1 pads"""
    score: FloatArray
    """(B, N): of the source that found it, or of the fusion where there are several"""
    source: IntArray
    """(B, N), position in `source_names`, -1 pads"""
    source_names: tuple[str, ...]
    reason: IntArray
    """(B, N), 0 while a candidate stands, else 1 + position in `reasons`"""
    reasons: tuple[str, ...] = ()

    @property
    def alive_BN(self) -> BoolArray:
        """Candidates that no stage removed."""
        return np.asarray((self.item_ix != PAD) & (self.reason == 0))

    def without(self, drop_BN: BoolArray, why: str) -> "Candidates":
        """Remove candidates, keeping the reason of those that stood until now."""
        drop_BN = drop_BN & self.alive_BN
        if not drop_BN.any():
            return self
        reasons = (*self.reasons, why)
        reason = np.where(drop_BN, np.int32(len(reasons)), self.reason)
        return replace(self, reason=reason, reasons=reasons)

    def ranked_by(self, score_BN: FloatArray) -> "Candidates":
        """Order by a new score, descending; removed candidates and NaN scores go last."""
        score_BN = np.where(np.isnan(score_BN), -np.inf, score_BN).astype(np.float32)
        order = np.argsort(np.where(self.alive_BN, -score_BN, np.inf), axis=1, kind="stable")
        return replace(
            self,
            item_ix=np.take_along_axis(self.item_ix, order, axis=1),
            score=np.take_along_axis(score_BN, order, axis=1),
            source=np.take_along_axis(self.source, order, axis=1),
            reason=np.take_along_axis(self.reason, order, axis=1),
        )

    def filled(self, rows: IntArray, lists: TopK, source_name: str) -> "Candidates":
        """Append to some rows the items of `lists` that they do not have yet."""
        known_BN = self.item_ix[rows]
        fresh = ~(lists.item_ix[:, :, None] == known_BN[:, None, :]).any(axis=2) & (lists.item_ix != PAD)
        shape = (len(self.item_ix), lists.item_ix.shape[1])
        item_ix, score = np.full(shape, PAD, np.int32), np.full(shape, -np.inf, np.float32)
        source = np.full(shape, PAD, np.int32)
        item_ix[rows] = np.where(fresh, lists.item_ix, PAD)
        score[rows] = np.where(fresh, lists.score, -np.inf)
        source[rows] = np.where(fresh, len(self.source_names), PAD)
        return Candidates(
            item_ix=np.concatenate([self.item_ix, item_ix], axis=1),
            score=np.concatenate([self.score, score], axis=1),
            source=np.concatenate([self.source, source], axis=1),
            source_names=(*self.source_names, source_name),
            reason=np.concatenate([self.reason, np.zeros(shape, np.int32)], axis=1),
            reasons=self.reasons,
        )


def merge(
    found: Mapping[str, TopK], weights: Mapping[str, float], n_queries: int, stages: list[Stage]
) -> Candidates:
    """One list a query out of the sources' lists.

    One source keeps its scores. Several fuse by reciprocal rank, score(i) = sum_s w_s / (60 + rank_s(i));
    an item is credited to the first source that found it.
    """
    began = time.perf_counter()
    names = tuple(found)
    if not names:
        empty = np.zeros((n_queries, 0), np.int32)
        return Candidates(empty, empty.astype(np.float32), empty, (), empty)
    item_BN = np.concatenate([lists.item_ix for lists in found.values()], axis=1)
    source_BN = np.concatenate(
        [np.full(found[n].item_ix.shape, at, np.int32) for at, n in enumerate(names)], axis=1
    )
    none_BN = np.zeros(item_BN.shape, np.int32)
    if len(names) == 1:
        return Candidates(item_BN, found[names[0]].score, source_BN, names, none_BN)
    share = np.concatenate(
        [weights[n] / (RRF_OFFSET + 1.0 + np.arange(found[n].item_ix.shape[1])) for n in names]
    ).astype(np.float32)
    order = np.argsort(item_BN, axis=1, kind="stable")
    sorted_BN = np.take_along_axis(item_BN, order, axis=1)
    starts_BN = np.ones(item_BN.shape, dtype=bool)
    starts_BN[:, 1:] = sorted_BN[:, 1:] != sorted_BN[:, :-1]
    flat = np.flatnonzero(starts_BN)
    fused = np.full(item_BN.size, -np.inf, np.float32)
    fused[flat] = np.add.reduceat(share[order].ravel(), flat)
    score_BN = np.full(item_BN.shape, -np.inf, np.float32)
    np.put_along_axis(score_BN, order, fused.reshape(item_BN.shape), axis=1)
    score_BN[item_BN == PAD] = -np.inf
    item_BN = np.where(np.isneginf(score_BN), PAD, item_BN).astype(np.int32)
    source_BN = np.where(item_BN == PAD, PAD, source_BN).astype(np.int32)
    merged = Candidates(item_BN, score_BN, source_BN, names, none_BN).ranked_by(score_BN)
    stages.append(Stage.of("merge", merged.alive_BN.sum(axis=1), began))
    return merged


@dataclass(frozen=True, eq=False)
class Feed:
    """Ranked items for each of B queries, with everything that led to them."""

    query_ids: pl.Series
    catalogue: Catalogue
    item_ix: IntArray
    """(B, K), -1 where a list is shorter than k"""
    score: FloatArray
    """(B, K), comparable within a source"""
    source: IntArray
    """(B, K), position in `candidates.source_names`"""
    candidates: Candidates
    stages: list[Stage]
    failures: dict[str, str]
    """Sources that contributed nothing: name -> reason."""
    n_unknown: LongArray
    """(B,), rows of each history that nobody read, because the catalogue lacks their item"""

    @classmethod
    def of(
        cls,
        query_ids: pl.Series,
        catalogue: Catalogue,
        candidates: Candidates,
        k: int,
        stages: list[Stage],
        failures: dict[str, str],
        n_unknown: LongArray,
    ) -> "Feed":
        """The standing candidates of each query, packed to the left."""
        alive_BN = candidates.alive_BN
        shape = (len(query_ids), k)
        item_ix, score = np.full(shape, PAD, np.int32), np.full(shape, -np.inf, np.float32)
        source = np.full(shape, PAD, np.int32)
        rows, columns = np.nonzero(alive_BN)
        place = np.cumsum(alive_BN, axis=1)[rows, columns] - 1
        item_ix[rows, place] = candidates.item_ix[rows, columns]
        score[rows, place] = candidates.score[rows, columns]
        source[rows, place] = candidates.source[rows, columns]
        return cls(query_ids, catalogue, item_ix, score, source, candidates, stages, failures, n_unknown)

    def frame(self) -> pl.DataFrame:
        """A long frame: query_id, item_id, source, score, rank (from 1), best first within a query."""
        rows, columns = np.nonzero(self.item_ix != PAD)
        names = pl.Series(list(self.candidates.source_names), dtype=pl.String)
        return pl.DataFrame(
            {
                "query_id": self.query_ids.gather(pl.Series(rows, dtype=pl.UInt32)),
                "item_id": self.catalogue.items.take(self.item_ix[rows, columns]),
                "source": names.gather(pl.Series(self.source[rows, columns], dtype=pl.UInt32)),
                "score": self.score[rows, columns],
                "rank": (columns + 1).astype(np.int32),
            }
        )

    def unread(self) -> pl.DataFrame:
        """The queries with rows that nobody read: query_id, n_rows, reason."""
        rows = np.flatnonzero(self.n_unknown)
        return pl.DataFrame(
            {
                "query_id": self.query_ids.gather(pl.Series(rows, dtype=pl.UInt32)),
                "n_rows": self.n_unknown[rows],
                "reason": pl.repeat(UNKNOWN_ITEM, len(rows), dtype=pl.String, eager=True),
            }
        )

    def dropped(self) -> pl.DataFrame:
        """A long frame of the removed candidates: query_id, item_id, source, score, reason."""
        found = self.candidates
        rows, columns = np.nonzero((found.item_ix != PAD) & (found.reason > 0))
        sources = pl.Series(list(found.source_names), dtype=pl.String)
        reasons = pl.Series(list(found.reasons), dtype=pl.String)
        return pl.DataFrame(
            {
                "query_id": self.query_ids.gather(pl.Series(rows, dtype=pl.UInt32)),
                "item_id": self.catalogue.items.take(found.item_ix[rows, columns]),
                "source": sources.gather(pl.Series(found.source[rows, columns], dtype=pl.UInt32)),
                "score": found.score[rows, columns],
                "reason": reasons.gather(pl.Series(found.reason[rows, columns] - 1, dtype=pl.UInt32)),
            }
        )
