"""Answers requests from a pipeline, the training histories and the online state; knows no web framework.

Every feed comes from `Pipeline.recommend`, the function that the offline evaluation measures. A user's
history is what training saw followed by the events since; an event that training saw too counts once.
"""

import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import polars as pl

from vitrina.ann import PAD, TopK
from vitrina.errors import ArtifactError, ConfigError, InputError, StateError, UnknownItem
from vitrina.feed import Feed
from vitrina.ids import UNKNOWN, Ids
from vitrina.log import Catalogue, Histories
from vitrina.log.catalogue import TITLE
from vitrina.log.order import unsaid
from vitrina.pipeline import Pipeline
from vitrina.schema import ByteArray, IntArray, LongArray
from vitrina.serve import wire
from vitrina.serve.intake import Intake, canonical
from vitrina.serve.settings import Clock, Settings
from vitrina.serve.state import State

EPOCH_NS_PER_US = 1000
FALLBACK = "fallback:"
"""How the pipeline names the source of items that its fallback added."""


@dataclass(frozen=True, eq=False)
class History:
    """What is known of one user."""

    user_id: int | str
    item_ix: IntArray
    ts: LongArray
    event: IntArray
    organic: ByteArray
    """As in `Histories`; nobody says it of newer rows."""
    known: bool
    n_trained: int
    """Rows that come from the training log; the others are newer."""
    unknown_items: list[int | str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


class Service:
    """One model, its users and its state. Safe to call from many threads."""

    def __init__(
        self,
        pipeline: Pipeline,
        histories: Histories,
        state: State,
        *,
        clock: Clock = "wall",
        model: str = "unsaved",
        settings: Settings | None = None,
    ) -> None:
        """Bind what serves.

        Args:
            pipeline: fitted or loaded.
            histories: the training histories, over the pipeline's items; may be memory-mapped.
            state: where events go.
            clock: `wall`, or `log` to begin at the end of the training log (data of years ago).
            model: digest shown with every answer.
            settings: limits.

        Raises:
            ArtifactError: pipeline and histories are of different logs.
            ConfigError: the pipeline was never fitted.
        """
        if pipeline.catalogue is None:
            raise ConfigError("the pipeline is not fitted; call fit(train) or Pipeline.load(path) first")
        if not isinstance(histories.user_ids, Ids):
            raise ConfigError("the histories are of anonymous queries; give the training histories")
        if histories.items != pipeline.catalogue.items:
            raise ArtifactError("model and histories know different items; train again to renew both")
        self.pipeline, self.state, self.model = pipeline, state, model
        self.catalogue: Catalogue = pipeline.catalogue
        self.items: Ids = self.catalogue.items
        self.users: Ids = histories.user_ids
        self.histories = replace(histories, items=self.items)
        self.settings = replace(settings or Settings(), clock=clock)
        self.item_ids: list[int | str] = self.items.values.to_list()
        self.titles: list[str | None] | None = None
        if TITLE in self.catalogue.frame.columns:
            self.titles = self.catalogue.frame[TITLE].cast(pl.String).to_list()
        self.intake = Intake(
            state=state,
            users=self.users,
            items=self.items,
            event_names=histories.event_names,
            first_ts=int(self.catalogue.first_ts.min()) if len(self.catalogue) else 0,
            settings=self.settings,
        )
        self._event_code = {name: code for code, name in enumerate(histories.event_names)}
        self._began = time.monotonic()
        self._log_start = max(pipeline.trained_until, state.latest_ts() or 0)
        self.ready = threading.Event()

    def now(self) -> int:
        """UTC microseconds: the wall clock, or the time since the end of the log."""
        if self.settings.clock == "wall":
            return time.time_ns() // EPOCH_NS_PER_US
        return self._log_start + int((time.monotonic() - self._began) * 1_000_000)

    def history(self, user_id: int | str) -> History:
        """Training history and newer events of a user, in time order. Reads the state once."""
        kept = canonical(user_id, self.users)
        user_ix = UNKNOWN if kept is None else self.users.get(kept)
        shown: int | str = int(kept) if kept is not None and self.users.is_integer else str(user_id)
        train = self.histories
        first, last = (
            (int(train.offsets[user_ix]), int(train.offsets[user_ix + 1])) if user_ix >= 0 else (0, 0)
        )
        rows = slice(first, last)
        item_ix, ts = np.asarray(train.item_ix[rows]), np.asarray(train.ts[rows])
        event = np.asarray(train.event[rows]).astype(np.int32)
        organic = unsaid(len(ts)) if train.organic is None else np.asarray(train.organic[rows])
        tail, failures = [], {}
        try:
            tail = [] if kept is None else self.state.tail(kept)
        except StateError as error:
            failures["state"] = str(error)
        known = user_ix >= 0 or bool(tail)
        if not tail:
            return History(shown, item_ix, ts, event, organic, known, len(item_ix), [], failures)
        seen = set(zip(item_ix.tolist(), ts.tolist(), strict=True))
        fresh: list[tuple[int, int, int]] = []
        unknown: list[int | str] = []
        for item_id, at, name in tail:
            ix, code = self.items.get(item_id), self._event_code.get(name)
            if ix == UNKNOWN:
                unknown.append(item_id)
            elif code is not None and (ix, at) not in seen:
                fresh.append((ix, at, code))
        newer = np.array(fresh, dtype=np.int64).reshape(-1, 3)
        ts = np.concatenate([ts, newer[:, 1]])
        order = np.argsort(ts, kind="stable")
        return History(
            user_id=shown,
            item_ix=np.concatenate([item_ix, newer[:, 0].astype(np.int32)])[order],
            ts=ts[order],
            event=np.concatenate([event, newer[:, 2].astype(np.int32)])[order],
            organic=np.concatenate([organic, unsaid(len(newer))])[order],
            known=known,
            n_trained=len(item_ix),
            unknown_items=unknown,
        )

    def recommend(self, user_id: int | str, *, k: int, explain: bool = False) -> wire.Answer:
        """The feed of a user; an unknown one gets what the fallback has, and `known` says so."""
        history = self.history(user_id)
        answer = self.answer(history, self.feed(history, k), explain)
        answer.user_id = history.user_id
        return answer

    def session(self, items: Sequence[int | str], *, k: int, explain: bool = False) -> wire.Answer:
        """The feed of somebody who did the given things, oldest first, just now."""
        history = self.session_history(items)
        return self.answer(history, self.feed(history, k), explain)

    def session_history(self, items: Sequence[int | str]) -> History:
        """A history out of bare items; those that the model does not know are set aside."""
        coded = [(item, self.items.get(item)) for item in items]
        item_ix = np.array([ix for _, ix in coded if ix != UNKNOWN], dtype=np.int32)
        ts, event = np.full(len(item_ix), self.now(), np.int64), np.zeros(len(item_ix), np.int32)
        unknown = [item for item, ix in coded if ix == UNKNOWN]
        return History("", item_ix, ts, event, unsaid(len(ts)), len(item_ix) > 0, 0, unknown)

    def feed(self, history: History, k: int) -> Feed:
        """`Pipeline.recommend` for one history."""
        train = self.histories
        query = Histories(
            user_ids=pl.Series("query_id", [history.user_id]),
            items=self.items,
            offsets=np.array([0, len(history.item_ix)], dtype=np.int64),
            item_ix=history.item_ix,
            ts=history.ts,
            event=history.event.astype(np.uint8),
            event_names=train.event_names,
            weight=None if train.weight is None else np.ones(len(history.item_ix), np.float32),
            organic=None if train.organic is None else history.organic,
        )
        return self.pipeline.recommend(query, k=k, now=self.now(), live=True)

    def answer(self, history: History, feed: Feed, explain: bool) -> wire.Answer:
        """The feed of one query, ready to be encoded."""
        names = feed.candidates.source_names
        sources = [names[at] for at in feed.source[0].tolist() if at != PAD]
        ranked = self._ranked(feed.item_ix[0], feed.score[0], sources)
        answer = wire.Answer(
            request_id=secrets.token_hex(8),
            model=self.model,
            known=history.known,
            fallback=bool(ranked) and all(item.source.startswith(FALLBACK) for item in ranked),
            n_history=len(history.item_ix),
            items=ranked,
            stages=[wire.StageCount(s.name, s.n_candidates, round(s.ms, 3)) for s in feed.stages],
            failures=feed.failures | history.failures,
            unknown_items=history.unknown_items,
        )
        if explain:
            answer.dropped = self._dropped(feed)
        return answer

    def similar(self, item_id: int | str, *, k: int, source: str | None = None) -> wire.Neighbours:
        """Items similar to one, those that the policies rule out left out.

        Raises:
            UnknownItem: the model does not know the item.
            InputError: no source (or not the named one) compares items.
        """
        item_ix = self.items.get(item_id)
        if item_ix == UNKNOWN:
            raise UnknownItem(f"item {str(item_id)[:60]!r} is unknown to this model; it may be newer than it")
        comparing = {s.name: s.generator for s in self.pipeline.sources if hasattr(s.generator, "similar")}
        if source is None and not comparing:
            raise InputError("no source of this model compares items; train one with ItemKNN or Ease")
        name = source if source is not None else next(iter(comparing))
        if name not in comparing:
            raise InputError(
                f"source {name[:60]!r} does not compare items; {', '.join(comparing) or 'none'} does"
            )
        allowed = self.pipeline.allowed(self.now())
        wanted = k if allowed is None else min(len(self.items), k + int((~allowed).sum()))
        found: TopK = comparing[name].similar(np.array([item_ix], np.int32), k=wanted)
        item_K, score_K = found.item_ix[0], found.score[0]
        keep_K = (item_K != PAD) & (True if allowed is None else allowed[np.maximum(item_K, 0)])
        items = self._ranked(item_K[keep_K][:k], score_K[keep_K][:k], [name] * k)
        return wire.Neighbours(self.item_ids[item_ix], self.model, name, items, self.title(item_ix))

    def popular(self, *, k: int, explain: bool = False) -> wire.Answer:
        """What somebody without a history sees."""
        return self.session([], k=k, explain=explain)

    def ingest(self, raw_events: Sequence[msgspec.Raw]) -> wire.Receipt:
        """Judge and store a batch of events; committed when this returns.

        Raises:
            InputError: the batch is too large.
            StateError: the state did not take it; nothing is stored.
        """
        if len(raw_events) > self.settings.max_batch:
            raise InputError(
                f"a batch holds at most {self.settings.max_batch} events, got {len(raw_events)}; send several"
            )
        return self.intake.store(raw_events, self.now())

    def title(self, item_ix: int) -> str | None:
        """Title of an item, None where the catalogue has none."""
        return None if self.titles is None else self.titles[item_ix]

    def warm(self) -> None:
        """Compile kernels and build lookup tables before the first request; then `ready` is set."""
        self.items.get(self.item_ids[0] if self.item_ids else "")
        longest = np.argsort(np.diff(self.histories.offsets))[-3:].astype(np.int32)
        for user_id in self.users.take(longest).to_list():
            self.recommend(user_id, k=self.settings.default_k, explain=True)
        self.session(self.item_ids[:3], k=self.settings.default_k)
        self.popular(k=self.settings.default_k)
        if self.item_ids and any(hasattr(s.generator, "similar") for s in self.pipeline.sources):
            self.similar(self.item_ids[0], k=self.settings.default_k)
        self.ready.set()

    def close(self) -> None:
        """Commit what waits and close the state."""
        self.state.close()

    def _ranked(self, item_ix: IntArray, score: np.ndarray, sources: Sequence[str]) -> list[wire.Ranked]:
        rows = zip(item_ix.tolist(), score.tolist(), sources, strict=False)
        return [
            wire.Ranked(self.item_ids[ix], rank, value, source, self.title(ix))
            for rank, (ix, value, source) in enumerate(rows, start=1)
            if ix != PAD
        ]

    def _dropped(self, feed: Feed) -> list[wire.Dropped]:
        found = feed.candidates
        columns = np.flatnonzero((found.item_ix[0] != PAD) & (found.reason[0] > 0))
        return [
            wire.Dropped(
                item_id=self.item_ids[ix],
                score=score,
                source=found.source_names[source],
                reason=found.reasons[reason - 1],
                title=self.title(ix),
            )
            for ix, score, source, reason in zip(
                found.item_ix[0, columns].tolist(),
                found.score[0, columns].tolist(),
                found.source[0, columns].tolist(),
                found.reason[0, columns].tolist(),
                strict=True,
            )
        ]
