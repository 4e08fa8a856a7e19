"""Ask a fitted pipeline for the lists of every test user, and measure them.

The evaluator builds the queries itself, from training histories that it checks against the cut, and calls the
same `Pipeline.recommend` that a server calls. A pipeline that was fitted past the cut, or on other items, is
refused before it is asked anything.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from vitrina.errors import ConfigError, SplitError
from vitrina.evaluate.curves import TrainingCurve, curves_of
from vitrina.evaluate.lists import ListWriter
from vitrina.evaluate.measures import OVER, Lists, Shown, average, columns
from vitrina.evaluate.popularity import PopularityDiagnostics
from vitrina.evaluate.protocol import Protocol, pretty
from vitrina.evaluate.slices import target_slices
from vitrina.evaluate.vectors import popularity_of
from vitrina.feed import Feed
from vitrina.log import Histories
from vitrina.metrics import ILD, Context, Vendi, cooccurrence_vectors
from vitrina.metrics.measure import Accuracy
from vitrina.pipeline import Pipeline
from vitrina.policies import Unseen
from vitrina.schema import TS, USER_ID, BoolArray, DoubleArray, FloatArray, IntArray, LongArray
from vitrina.split import Split, Truth, written

CONTROL = "another user's list"
"""Suffix of the column that measures each user against the list of another user of the batch."""

SUSPICIOUS = 0.9
"""Share of the ceiling above which a result asks for an explanation."""

MANY_ITEMS, MANY_DIMS, FEW_DIMS = 100_000, 256, 64
"""Length of co-occurrence vectors: 256 numbers an item, 64 in a catalogue of more than 100 thousand."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Run:
    """One fitted pipeline, measured."""

    model: str
    seed: int
    values: pl.DataFrame
    """user_id and the columns that `measures.columns` makes: `ndcg@10`, and `ndcg@10|popularity:1-5` where
    only targets of that popularity count."""
    lists: dict[str, float]
    """Metrics of the lists alone, by name."""
    exposure: LongArray
    """Times each training item was shown, at the depth `exposure_k`. Shape (I,)."""
    exposure_k: int
    sources: dict[str, int]
    """Items contributed by each source."""
    n_empty: int
    """Users who got nothing."""
    n_short: int
    """Users who got fewer items than asked for."""
    fit_s: float | None
    recommend_s: float
    notes: tuple[str, ...]
    """What a reader must know before believing the numbers."""
    popularity: PopularityDiagnostics | None = None
    """How the vectors of its model follow popularity; None where it has none."""
    curves: tuple[TrainingCurve, ...] = ()
    """Loss and validation of its sources by epoch, where they learned so."""

    def average(self, name: str) -> float:
        """Value of one metric over the users, as `ndcg@10`."""
        wanted = [column for column in (name, name + OVER) if column in self.values.columns]
        return average({c: self.values[c].fill_null(float("nan")).to_numpy() for c in wanted}, name)

    @property
    def users_per_s(self) -> float:
        """Lists per second of wall-clock time, without measuring them."""
        return len(self.values) / self.recommend_s if self.recommend_s else float("inf")


@dataclass(frozen=True)
class Dropped:
    """Test users or rows that are not measured, and why."""

    what: str
    n: int
    why: str


@dataclass(eq=False, kw_only=True)
class Evaluator:
    """Measures pipelines one by one on one split, so that only one of them need be in memory."""

    split: Split
    train: Histories
    """Histories of `split.train`, on which the pipelines were fitted."""
    protocol: Protocol = field(default_factory=Protocol)
    batch_size: int = 1024
    """Queries asked at once."""
    item_vectors: FloatArray | None = None
    """(I, D), for diversity: how alike two items are; None takes who took them together."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(
                f"batch_size must be >= 1, got {self.batch_size}; it is the queries asked at once"
            )
        self.whole: Truth = self.split.truth(self.train)
        self.truth, self.dropped = _measured(self.whole, self.protocol)
        if not len(self.truth):
            why = "; ".join(f"{d.n:,} {d.what} {d.why}" for d in self.dropped)
            raise SplitError(f"no test user is left to measure ({why}); take a longer test window")

    @cached_property
    def n_train(self) -> LongArray:
        """Training rows of each item. Shape (I,)."""
        return self.train.item_counts()

    @cached_property
    def slices(self) -> dict[str, BoolArray]:
        """Targets of each slice, by its name. Each of shape (T,)."""
        return target_slices(self.truth, self.n_train, with_repeats=self.protocol.repeats != "new_only")

    @cached_property
    def ceiling(self) -> dict[str, float]:
        """Each accuracy metric for a model that knows the targets and can recommend training items only."""
        metrics = [m for m in self.protocol.user_metrics if isinstance(m, Accuracy)]
        blocks = []
        for start, stop in self._batches(len(self.truth)):
            truth = self.truth.slice(start, stop)
            lists = Lists(_known_targets(truth, self.protocol.k))
            blocks.append(columns(metrics, lists, truth.jagged, self.protocol.definitions))
        joined = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        return {m.name: average(joined, m.name) for m in metrics}

    @cached_property
    def context(self) -> Context:
        """What metrics beyond accuracy need: training rows of items, and vectors of items."""
        vectors = self.item_vectors
        if vectors is None and any(isinstance(m, ILD | Vendi) for m in self.protocol.parsed):
            n_items = self.train.n_items
            vectors = cooccurrence_vectors(
                self.train.offsets,
                self.train.item_ix,
                n_items=n_items,
                n_dims=MANY_DIMS if n_items <= MANY_ITEMS else FEW_DIMS,
            )
        return Context(n_items=self.train.n_items, item_counts=self.n_train, item_vectors=vectors)

    def run(
        self,
        model: str,
        pipeline: Pipeline,
        *,
        seed: int = 0,
        fit_s: float | None = None,
        lists_path: str | os.PathLike[str] | None = None,
    ) -> Run:
        """Measure one fitted pipeline.

        Args:
            model: its name in the tables.
            pipeline: fitted on the training histories; it is not changed.
            seed: tells runs of one model apart where training is random.
            fit_s: how long the fit took, for the tables.
            lists_path: Parquet file for the lists (query_id, item_id, source, score, rank); None writes none.

        Raises:
            SplitError: it was fitted on events that the split keeps from training, or on other items.
        """
        self._check(model, pipeline)
        pipeline = self._with_seen_filter(pipeline)
        asked = self._asked(pipeline)
        collected = _Collected(self, asked)
        with ListWriter(None if lists_path is None else Path(lists_path)) as writer:
            for start, stop in self._batches(len(self.truth)):
                queries = self.train.of(self.truth.user_ids.values[start:stop])
                queries = queries.asked_at(None if asked is None else asked.ts_U[start:stop])
                began = time.perf_counter()
                feed = pipeline.recommend(queries, k=self.protocol.k, now=self.split.cut_us)
                collected.add(feed, start, stop, time.perf_counter() - began)
                writer.write(feed)
        if self.protocol.mode == "yambda":
            self._show_to_everybody(pipeline, collected)
        run = collected.run(model, seed, fit_s)
        return replace(
            run,
            notes=(*pipeline.notes, *run.notes),
            popularity=self._popularity(pipeline, asked),
            curves=curves_of(pipeline),
        )

    def _check(self, model: str, pipeline: Pipeline) -> None:
        if pipeline.catalogue is None:
            raise ConfigError(f"{model} is not fitted; call fit(train) before it is evaluated")
        limit = self.split.train_until_us
        if limit is not None and pipeline.trained_until >= limit:
            raise SplitError(
                f"{model} was fitted on events until {written(pipeline.trained_until)}, but training of this "
                f"split ends before {written(limit)}: it has seen the future; fit it on split.train"
            )
        if pipeline.catalogue.items != self.train.items:
            raise SplitError(
                f"{model} was fitted on {len(pipeline.catalogue):,} items that are not the "
                f"{self.train.n_items:,} of this split's training histories; fit it on them"
            )

    def _with_seen_filter(self, pipeline: Pipeline) -> Pipeline:
        """The same seen filter for every model, whatever each was configured with."""
        if self.protocol.repeats == "as_configured":
            return pipeline
        others = [policy for policy in pipeline.policies if not isinstance(policy, Unseen)]
        seen = [Unseen()] if self.protocol.repeats == "new_only" else []
        return replace(pipeline, policies=[*others, *seen])

    def _asked(self, pipeline: Pipeline) -> "_Asked | None":
        """When each test user asks, where a source of the pipeline has `request_time` on."""
        if not any(getattr(source.generator, "request_time", False) for source in pipeline.sources):
            return None
        if self.split.cut_us is not None:
            ts_U = np.full(len(self.truth), self.split.cut_us, dtype=np.int64)
            return _Asked(ts_U, "knows the time of each request, which is that of the cut")
        first = self.split.test.frame.group_by(USER_ID).agg(pl.col(TS).dt.timestamp("us").min()).collect()
        at = self.truth.user_ids.ix(first[USER_ID])
        ts_U = np.zeros(len(self.truth), dtype=np.int64)
        ts_U[at[at >= 0]] = first[TS].to_numpy()[at >= 0]
        return _Asked(
            ts_U,
            "knows the time of each request, which is that of the user's first test row; models without "
            "request_time are not told it",
        )

    def _batches(self, n: int) -> Iterator[tuple[int, int]]:
        for start in range(0, n, self.batch_size):
            yield start, min(start + self.batch_size, n)

    def _popularity(self, pipeline: Pipeline, asked: "_Asked | None") -> PopularityDiagnostics | None:
        asked_ts = None if asked is None else asked.ts_U
        return popularity_of(pipeline, self.train, self.truth, now=self.split.cut_us, asked_ts=asked_ts)

    def _show_to_everybody(self, pipeline: Pipeline, collected: "_Collected") -> None:
        """Lists of the training users who are not in the test count for coverage in that benchmark."""
        measured = self.truth.user_ids.ix(self.train.query_ids) >= 0
        rest = self.train.query_ids.filter(pl.Series(~measured))
        for start, stop in self._batches(len(rest)):
            feed = pipeline.recommend(
                self.train.of(rest[start:stop]), k=self.protocol.k, now=self.split.cut_us
            )
            collected.shown.add(feed.item_ix)


class _Asked(NamedTuple):
    """What a model that knows the time of a request is told."""

    ts_U: LongArray
    note: str


class _Collected:
    """What the batches of one run add up to."""

    def __init__(self, evaluator: Evaluator, asked: _Asked | None) -> None:
        self.evaluator, self.asked = evaluator, asked
        self.blocks: list[dict[str, DoubleArray]] = []
        self.shown = Shown(evaluator.protocol.catalogue_metrics, evaluator.train.n_items)
        self.sources: Counter[str] = Counter()
        self.n_empty = self.n_short = self.n_different = 0
        self.first_list: IntArray | None = None
        self.recommend_s = 0.0

    def add(self, feed: Feed, start: int, stop: int, seconds: float) -> None:
        """Measure the lists of one batch."""
        evaluator, protocol = self.evaluator, self.evaluator.protocol
        truth = evaluator.truth.slice(start, stop)
        score = feed.score if protocol.ties == "against_the_model" else None
        lists = Lists(feed.item_ix, score)
        rules, context = protocol.definitions, evaluator.context
        values = columns(protocol.user_metrics, lists, truth.jagged, rules, context)
        values |= columns([protocol.parsed[0]], lists.of_others(), truth.jagged, rules, suffix=CONTROL)
        rows = slice(int(evaluator.truth.offsets[start]), int(evaluator.truth.offsets[stop]))
        for name, mask in evaluator.slices.items():
            part = truth.only(mask[rows])
            values |= columns(protocol.slice_metrics, lists, part.jagged, rules, suffix=name)
        self.blocks.append(values)
        self.shown.add(feed.item_ix)
        self._count(feed)
        self.recommend_s += seconds

    def _count(self, feed: Feed) -> None:
        lengths = (feed.item_ix >= 0).sum(axis=1)
        wanted = min(self.evaluator.protocol.k, self.evaluator.train.n_items)
        self.n_empty += int((lengths == 0).sum())
        self.n_short += int((lengths < wanted).sum())
        names = feed.candidates.source_names
        counts = np.bincount(feed.source[feed.item_ix >= 0], minlength=len(names))
        self.sources.update({name: int(n) for name, n in zip(names, counts, strict=True) if n})
        if self.first_list is None:
            self.first_list = feed.item_ix[0]
        self.n_different += int((feed.item_ix != self.first_list).any(axis=1).sum())

    def run(self, model: str, seed: int, fit_s: float | None) -> Run:
        """The finished run."""
        values = {name: np.concatenate([block[name] for block in self.blocks]) for name in self.blocks[0]}
        frame = pl.DataFrame({"user_id": self.evaluator.truth.user_ids.values, **values})
        return Run(
            model=model,
            seed=seed,
            values=frame.with_columns(pl.col(pl.Float64).fill_nan(None)),
            lists=self.shown.values(),
            exposure=self.shown.exposure,
            exposure_k=self.shown.k,
            sources=dict(self.sources),
            n_empty=self.n_empty,
            n_short=self.n_short,
            fit_s=fit_s,
            recommend_s=self.recommend_s,
            notes=self._notes(values),
        )

    def _notes(self, values: dict[str, DoubleArray]) -> tuple[str, ...]:
        main = self.evaluator.protocol.main
        found = [] if self.asked is None else [self.asked.note]
        if self.n_different == 0 and len(values[main]) > 1:
            found.append("gives everybody the same list")
        else:
            gain = values[main] - values[f"{main}|{CONTROL}"]
            gain = gain[~np.isnan(gain)]
            if len(gain) > 1 and not gain.mean() > 1.96 * gain.std(ddof=1) / np.sqrt(len(gain)):
                found.append("does no better with a user's own list than with another user's")
        mean, ceiling = average(values, main), self.evaluator.ceiling[main]
        if ceiling > 0 and mean > SUSPICIOUS * ceiling:
            found.append(
                f"reaches {mean / ceiling:.0%} of the {pretty(main)} that knowing the answers gives; "
                "look for a leak"
            )
        if self.n_empty:
            found.append(f"has nothing to say to {self.n_empty:,} users; give it a fallback")
        return tuple(found)


def _measured(whole: Truth, protocol: Protocol) -> tuple[Truth, list[Dropped]]:
    """The truth that counts under a protocol, and what it leaves out."""
    dropped: list[Dropped] = []
    truth = whole if protocol.mode == "yambda" else whole.distinct()
    if truth.n_targets < whole.n_targets:
        n = whole.n_targets - truth.n_targets
        dropped.append(Dropped("test rows", n, "repeat a target of the same user and window; it counts once"))
    if protocol.users == "warm":
        warm = truth.is_warm
        dropped.append(Dropped("test users", int((~warm).sum()), "have no training history"))
        dropped.append(
            Dropped("targets", int(truth.lengths[~warm].sum()), "belong to users without a training history")
        )
        truth = truth.users(warm)
    if protocol.repeats == "new_only":
        new = truth.new_only()
        n = truth.n_targets - new.n_targets
        dropped.append(Dropped("targets", n, "had been taken by the user before the cut"))
        empty = new.lengths == 0
        dropped.append(Dropped("test users", int(empty.sum()), "took nothing new to them"))
        truth = new.users(~empty)
    return truth, dropped


def _known_targets(truth: Truth, k: int) -> IntArray:
    """Each user's distinct targets that training knows, as a list. Shape (B, k)."""
    known = truth.only(truth.is_first & ~truth.is_cold_item)
    rows = np.repeat(np.arange(len(known)), known.lengths)
    place = np.arange(known.n_targets) - known.offsets[:-1][rows]
    item_BK = np.full((len(known), k), -1, dtype=np.int32)
    item_BK[rows[place < k], place[place < k]] = known.item_ix[place < k]
    return item_BK
