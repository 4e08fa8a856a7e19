"""From a history to a feed. What is measured is what is served: both call `Pipeline.recommend`.

    queries ─► hydrate ─► sources (parallel, within budgets) ─► merge ─► filters ─► score ─► select ─► feed

Only filters and the selection remove candidates; each removal keeps its reason. Arrays carry their axes
in their names: B queries, N candidates of each, K items of a feed, I items of the catalogue.
"""

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import polars as pl

from vitrina import artifact
from vitrina.ann import Jagged, TopK
from vitrina.candidates import CANDIDATES
from vitrina.candidates.source import CandidateGenerator, Source, fit_generator
from vitrina.errors import ArtifactError, ConfigError
from vitrina.feed import Candidates, Feed, Stage, merge
from vitrina.log import Catalogue, Histories
from vitrina.policies import POLICIES, CapPer, Policy, Unseen, not_in
from vitrina.schema import BoolArray, FloatArray, IntArray, LongArray

__all__ = ["CandidateGenerator", "Pipeline", "Ranker", "Source"]


class Ranker(Protocol):
    """Scores candidates again, with more than a source can afford; keeps their number and order."""

    def score(self, queries: Histories, item_ix_BN: IntArray) -> FloatArray:
        """(B, N), higher is better; the value at item -1 is ignored."""


@dataclass(frozen=True, eq=False)
class _Request:
    """A batch of queries with what the policies say about it before any source is asked."""

    queries: Histories
    k: int
    now: int
    live: bool
    allowed: BoolArray | None
    exclude: Jagged | None
    n_unknown: LongArray
    """Rows of each history that were left out, because the catalogue lacks their item."""


@dataclass(kw_only=True, eq=False)
class Pipeline:
    """Sources, policies and a fallback, answering for batches of histories.

    Example:
        pipeline = Pipeline(sources=[Source(generator=Ease())], policies=[Unseen()], fallback=MostPop())
        pipeline.fit(train).recommend(queries, k=10).frame()
    """

    sources: Sequence[Source]
    policies: Sequence[Policy] = ()
    fallback: CandidateGenerator | None = None
    """Fills lists that the sources leave short, below everything that they found."""
    ranker: Ranker | None = None
    side_effects: Sequence[Callable[[Feed], None]] = ()
    """Called with every finished feed: logging of impressions, counters."""
    catalogue: Catalogue | None = None
    """Set by `fit`."""
    trained_until: int = 0
    """Time of the last training event, UTC microseconds; `now` of a request that names none."""
    _pool: ThreadPoolExecutor | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"a pipeline needs at least one source and distinct names, got {names}")
        if sum(isinstance(policy, Unseen) for policy in self.policies) > 1:
            raise ConfigError("a pipeline takes one Unseen policy, got several; keep the strictest")

    def fit(
        self,
        train: Histories,
        metadata: pl.DataFrame | None = None,
        users: pl.DataFrame | None = None,
        *,
        fitted: Collection[str] = (),
    ) -> Self:
        """Fit every source and the fallback on the training histories; returns self.

        Args:
            train: histories before the cut.
            metadata: one row an item_id; policies, the console and generators with `reads_items` know them.
            users: one row a user_id, for generators with `reads_users`.
            fitted: names of sources that were fitted on these histories already.
        """
        for source in self.sources:
            if source.name not in fitted:
                source.fit(train, metadata, users)
        if self.fallback is not None:
            fit_generator(self.fallback, train, metadata, users)
        return self.bind(Catalogue.of(train, metadata), int(train.ts.max()) if train.n_rows else 0)

    def bind(self, catalogue: Catalogue, trained_until: int) -> Self:
        """Attach the catalogue of generators that are fitted already; returns self.

        Raises:
            ConfigError: a generator was fitted on other items, a policy names an unknown column, or an
                index is empty.
        """
        for generator in self._generators().values():
            if generator.items_ != catalogue.items:
                raise ConfigError(f"{type(generator).__name__} was fitted on other items; fit all on one log")
        for policy in self.policies:
            if isinstance(policy, CapPer):
                catalogue.codes(policy.column)
        for source in self.sources:
            source.follow()
        self.catalogue, self.trained_until = catalogue, trained_until
        return self

    def recommend(self, queries: Histories, *, k: int, now: int | None = None, live: bool = False) -> Feed:
        """A feed of k items for each query.

        Args:
            queries: histories, of known users or of anybody; rows whose item the catalogue lacks are left out
                and counted (`Feed.unread`).
            k: items of a feed; lists may be shorter where policies leave fewer.
            now: time of the request, UTC microseconds; None takes the time of the last training event.
            live: True enforces the sources' time budgets and counts a failing source instead of raising.

        Raises:
            ConfigError: the pipeline was not fitted, or k < 1.
        """
        stages: list[Stage] = []
        request = self._hydrate_query(queries, k, now, live)
        retrieved, failures = self._retrieve(request, stages)
        candidates = merge(retrieved, self._weights(), len(queries), stages)
        candidates = self._fill(request, candidates, failures, stages)
        candidates = self._filter(request, candidates, stages)
        candidates = self._score(request, candidates, stages)
        candidates = self._select(request, candidates, stages)
        ids = request.queries.query_ids
        feed = Feed.of(ids, self._catalogue(), candidates, k, stages, failures, request.n_unknown)
        for effect in self.side_effects:
            effect(feed)
        return feed

    @property
    def notes(self) -> tuple[str, ...]:
        """What was measured of the indexes that sources answer through, one sentence each."""
        several = len(self.sources) > 1
        return tuple(
            f"source {source.name} {source.note}" if several else source.note
            for source in self.sources
            if source.note is not None
        )

    def allowed(self, now: int) -> BoolArray | None:
        """Items that the policies let anybody see at a time; None where none rules on items. Shape (I,)."""
        rules = [p for p in self.policies if not isinstance(p, Unseen | CapPer)]
        masks = [policy.allowed(self._catalogue(), now) for policy in rules]
        return np.logical_and.reduce(masks) if masks else None

    def _hydrate_query(self, queries: Histories, k: int, now: int | None, live: bool) -> _Request:
        if k < 1:
            raise ConfigError(f"k must be >= 1, got {k}")
        catalogue = self._catalogue()
        known = queries.reindex(catalogue.items).asked_at(now)
        n_unknown = queries.lengths - known.lengths
        now = self.trained_until if now is None else now
        unseen = [p.excluded(known, now) for p in self.policies if isinstance(p, Unseen)]
        return _Request(known, k, now, live, self.allowed(now), unseen[0] if unseen else None, n_unknown)

    def _retrieve(self, request: _Request, stages: list[Stage]) -> tuple[dict[str, TopK], dict[str, str]]:
        """Ask every source; in live requests side by side, each within its budget."""
        if not request.live:
            found = {}
            for source in self.sources:
                began = time.perf_counter()
                found[source.name] = _ask(source, request)
                stages.append(Stage.of(f"source:{source.name}", found[source.name].lengths, began))
            return found, {}
        began = time.perf_counter()
        here = next((s for s in reversed(self.sources) if s.budget_ms is None), None)
        running = {
            s.name: self._threads().submit(copy_context().run, _timed, s, request)
            for s in self.sources
            if s is not here
        }
        if here is not None:  # this thread would only wait for it
            running[here.name] = _in_this_thread(here, request)
        return self._gather(running, began, stages)

    def _gather(
        self, running: Mapping[str, Future[tuple[TopK, Stage]]], began: float, stages: list[Stage]
    ) -> tuple[dict[str, TopK], dict[str, str]]:
        found: dict[str, tuple[TopK, Stage]] = {}
        failures: dict[str, str] = {}
        for source in sorted(self.sources, key=lambda s: s.budget_ms or np.inf):
            answer = running[source.name]
            left_s = None
            if source.budget_ms is not None:
                left_s = max(0.0, source.budget_ms / 1000 - (time.perf_counter() - began))
            wait([answer], timeout=left_s)
            if not answer.done():
                answer.cancel()
                failures[source.name] = f"late: no answer within {source.budget_ms:g} ms"
            elif (error := answer.exception()) is not None:
                failures[source.name] = f"failed: {type(error).__name__}: {error}"
            else:
                found[source.name] = answer.result()
        in_order = [source.name for source in self.sources if source.name in found]
        stages.extend(found[name][1] for name in in_order)
        return {name: found[name][0] for name in in_order}, failures

    def _fill(
        self, request: _Request, candidates: Candidates, failures: dict[str, str], stages: list[Stage]
    ) -> Candidates:
        """Append the fallback's items to lists shorter than the feed."""
        short = np.flatnonzero(candidates.alive_BN.sum(axis=1) < request.k).astype(np.int32)
        if self.fallback is None or not len(short):
            return candidates
        began = time.perf_counter()
        depth = request.k + candidates.item_ix.shape[1]
        rows = request.queries.rows(short)
        exclude = None if request.exclude is None else _rows_of(request.exclude, short)
        lists = self.fallback.retrieve(rows, k=depth, exclude=exclude, allowed=request.allowed)
        stages.append(Stage.of("fallback", lists.lengths, began))
        return candidates.filled(short, lists, f"fallback:{type(self.fallback).__name__}")

    def _filter(self, request: _Request, candidates: Candidates, stages: list[Stage]) -> Candidates:
        """Guard the rules that were passed down to the sources, in case one ignored them."""
        for policy in self.policies:
            if isinstance(policy, CapPer):
                continue
            began = time.perf_counter()
            keep_BN = np.ones(candidates.item_ix.shape, dtype=bool)
            if isinstance(policy, Unseen) and request.exclude is not None:
                keep_BN = not_in(candidates.item_ix, request.exclude, request.queries.n_items)
            elif not isinstance(policy, Unseen):
                keep_BN = policy.allowed(self._catalogue(), request.now)[np.maximum(candidates.item_ix, 0)]
            candidates = candidates.without(~keep_BN, type(policy).__name__)
            stages.append(Stage.of(f"filter:{type(policy).__name__}", candidates.alive_BN.sum(axis=1), began))
        return candidates

    def _score(self, request: _Request, candidates: Candidates, stages: list[Stage]) -> Candidates:
        """Order by the ranker; without one the merged order stands."""
        if self.ranker is None:
            return candidates
        began = time.perf_counter()
        score_BN = self.ranker.score(request.queries, candidates.item_ix)
        candidates = candidates.ranked_by(score_BN)
        stages.append(Stage.of("score", candidates.alive_BN.sum(axis=1), began))
        return candidates

    def _select(self, request: _Request, candidates: Candidates, stages: list[Stage]) -> Candidates:
        """Caps per group, walking each list from the top, then the cut at k."""
        began = time.perf_counter()
        for policy in self.policies:
            if isinstance(policy, CapPer):
                visible_BN = np.where(candidates.alive_BN, candidates.item_ix, -1)
                keep_BN = policy.keep(visible_BN, self._catalogue())
                candidates = candidates.without(~keep_BN, f"CapPer({policy.column})")
        beyond_BN = candidates.alive_BN & (np.cumsum(candidates.alive_BN, axis=1) > request.k)
        candidates = candidates.without(beyond_BN, "below the cut")
        stages.append(Stage.of("select", candidates.alive_BN.sum(axis=1), began))
        return candidates

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything that a server needs to a folder: generators, policies, catalogue."""
        if self.ranker is not None:
            kind = type(self.ranker).__name__
            raise ArtifactError(
                f"a pipeline with the ranker {kind} cannot be saved; only candidate generators can"
            )
        catalogue = self._catalogue()
        about = [
            {
                "name": s.name,
                "k": s.k,
                "weight": s.weight,
                "budget_ms": s.budget_ms,
                "kind": type(s.generator).__name__,
                "indexed": s.indexed is not None,
            }
            for s in self.sources
        ]
        params = {
            "sources": about,
            "policies": [{"kind": type(p).__name__, **asdict(p)} for p in self.policies],
            "fallback": None if self.fallback is None else type(self.fallback).__name__,
            "trained_until": self.trained_until,
        }
        state = {"items": catalogue.items, "catalogue": catalogue.frame}
        with artifact.writing(path) as folder:
            artifact.save(artifact.Saved(kind="Pipeline", params=params, state=state), folder / "pipeline")
            for name, generator in self._generators().items():
                generator.save(folder / name)
            for source in self.sources:
                source.save_index(folder / f"index-{source.name}")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Pipeline":
        """Read a folder that `save` wrote.

        Raises:
            ArtifactError: it is missing, half-written, corrupted, or names a class unknown here.
        """
        folder = Path(path)
        saved = artifact.load(folder / "pipeline")
        try:
            sources = [_load_source(folder, entry) for entry in saved.params["sources"]]
            policies = [_policy(entry) for entry in saved.params["policies"]]
            kind = saved.params["fallback"]
            fallback = None if kind is None else _load_generator(folder / "fallback", kind)
            catalogue = Catalogue(saved.state["items"], saved.state["catalogue"])
            pipeline = cls(sources=sources, policies=policies, fallback=fallback)
            return pipeline.bind(catalogue, saved.params["trained_until"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{folder} cannot be read as a pipeline ({error}); train it again") from error

    def _weights(self) -> dict[str, float]:
        return {source.name: source.weight for source in self.sources}

    def _generators(self) -> dict[str, CandidateGenerator]:
        generators = {f"source-{source.name}": source.generator for source in self.sources}
        return generators if self.fallback is None else generators | {"fallback": self.fallback}

    def _catalogue(self) -> Catalogue:
        if self.catalogue is None:
            raise ConfigError(
                "the pipeline has no catalogue yet; call fit(train) or Pipeline.load(path) first"
            )
        return self.catalogue

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=4 * len(self.sources), thread_name_prefix="source")
        return self._pool


def _ask(source: Source, request: _Request) -> TopK:
    k = max(source.k, request.k)
    return source.retrieve(request.queries, k=k, exclude=request.exclude, allowed=request.allowed)


def _timed(source: Source, request: _Request) -> tuple[TopK, Stage]:
    began = time.perf_counter()
    lists = _ask(source, request)
    return lists, Stage.of(f"source:{source.name}", lists.lengths, began)


def _in_this_thread(source: Source, request: _Request) -> Future[tuple[TopK, Stage]]:
    answer: Future[tuple[TopK, Stage]] = Future()
    try:
        answer.set_result(_timed(source, request))
    except Exception as error:
        answer.set_exception(error)
    return answer


def _rows_of(jagged: Jagged, rows: IntArray) -> Jagged:
    lengths = np.diff(jagged.offsets)[rows]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    take = np.arange(offsets[-1]) + np.repeat(jagged.offsets[:-1][rows] - offsets[:-1], lengths)
    return Jagged(offsets, jagged.item_ix[take])


def _load_source(folder: Path, entry: dict[str, Any]) -> Source:
    kind, indexed = entry.pop("kind"), entry.pop("indexed", False)
    source = Source(generator=_load_generator(folder / f"source-{entry['name']}", kind), **entry)
    return source.load_index(folder / f"index-{source.name}") if indexed else source


def _load_generator(folder: Path, kind: str) -> Any:
    if kind not in CANDIDATES:
        raise ArtifactError(
            f"{folder} holds a {kind}, unknown to this version; it has {', '.join(CANDIDATES)}"
        )
    return CANDIDATES[kind].load(folder)


def _policy(entry: dict[str, Any]) -> Policy:
    params = {name: tuple(value) if isinstance(value, list) else value for name, value in entry.items()}
    kind = params.pop("kind")
    if kind not in POLICIES:
        raise ConfigError(f"there is no policy {kind!r}; there is {', '.join(POLICIES)}")
    build: Callable[..., Policy] = POLICIES[kind]
    return build(**params)
