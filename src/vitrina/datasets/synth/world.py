"""A world with known truth: it writes logs of any size, and says how well anybody could predict them."""

import datetime as dt
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl

from vitrina.datasets.synth import files, truth
from vitrina.datasets.synth.ground import Ground
from vitrina.datasets.synth.items import item_frame
from vitrina.datasets.synth.kernel import Block
from vitrina.datasets.synth.parameters import Parameters
from vitrina.datasets.synth.tables import event_counts, make_tables, public_order
from vitrina.datasets.synth.truth import Target
from vitrina.errors import InputError
from vitrina.schema import US_PER_SECOND, DoubleArray, LongArray

Schema = Literal["vitrina", "yambda"]
Moment = dt.datetime | float | DoubleArray
"""An aware datetime, or seconds since the start of the world, or such seconds for each user. Shape (B,)."""

PARAMETERS = "world.json"
"""File beside the written log from which `World.read` makes the same world."""


@dataclass(frozen=True, kw_only=True)
class World(Parameters):
    """People, items, a recommender, and the log they leave. Equal parameters give equal bytes.

    Every event is, in this order: with chance r_u one that the feed led to; else with chance rho_u a repeat
    of an earlier item of that user; else a fresh pick by taste. Formulas: docs/datasets.md.

    Cost: about 1 microsecond of CPU an event; memory is a few hundred bytes an item and 100 MB for the blocks
    under way, whatever the number of events. The first use compiles for about half a minute and is cached.

    Example:
        >>> world = World(n_users=50, n_items=200, n_events=2_000, seed=1)
        >>> world.simulate(np.arange(50)).item.shape
        (2000,)
    """

    @cached_property
    def ground(self) -> Ground:
        """What the parameters come to: rules, items and users. Made once."""
        rules = self.rules()
        counts, arrivals_s = event_counts(
            rules, n_users=self.n_users, n_events=self.n_events, sigma=self.activity_sigma
        )
        tables = make_tables(
            rules,
            n_items=self.n_items,
            n_topics=self.n_topics,
            topic_skew=self.topic_skew,
            appeal_sigma=self.appeal_sigma,
            frac_old=self.frac_old_items,
        )
        return Ground(
            rules=rules,
            tables=tables,
            counts=counts,
            arrivals_s=arrivals_s,
            user_ids=100 * (np.arange(self.n_users, dtype=np.int64) + 1),
            item_ids=10 * public_order(self.n_items, self.seed) + 1,
            start_us=round(dt.datetime.fromisoformat(self.start).timestamp()) * US_PER_SECOND,
        )

    @property
    def user_ids(self) -> LongArray:
        """External ids: multiples of 100, as in Yambda-50M, since real ids have gaps. Shape (U,)."""
        return self.ground.user_ids

    @property
    def item_ids(self) -> LongArray:
        """External ids in the internal order of items; they tell neither topic nor age. Shape (I,)."""
        return self.ground.item_ids

    def simulate(self, user_ix: LongArray, *, views: bool = False) -> Block:
        """What the given users do, one user after another, each in time order.

        Args:
            user_ix: positions in `user_ids`. Shape (B,)
            views: also keep every item that the feed showed.
        """
        return self.ground.simulate(user_ix, views=views)

    def items(self) -> pl.DataFrame:
        """item_id, title, author, born (UTC) and length_s of every item; topics stay hidden, titles hint."""
        return item_frame(self.ground)

    def write(
        self,
        directory: str | os.PathLike[str],
        schema: Schema = "vitrina",
        *,
        progress: Callable[[int, int], None] | None = None,
        n_threads: int = 2,
        rows_per_block: int = 1 << 18,
        impressions: bool = True,
        size: str = "50m",
    ) -> dict[str, int]:
        """Write the log, streaming, and `world.json`. The bytes depend on the parameters of the world alone.

        Args:
            directory: made if it is not there.
            schema: "vitrina" gives events.parquet (user_id, item_id, ts, event, value, organic, propensity),
                items.parquet and, if asked, impressions.parquet. "yambda" gives Yambda's flat files under
                flat/<size>/ and its mappings of artists and albums.
            progress: called with events written and events in all.
            n_threads: blocks made at the same time, beside the one that is written.
            rows_per_block: about how many events a block has; memory grows with it, the files do not change.
            impressions: whether the schema "vitrina" logs what the feed showed.
            size: name of the folder in Yambda's layout.

        Returns:
            Rows of each file written.

        Raises:
            InputError: the schema is unknown, or the disk refuses.
        """
        if schema not in ("vitrina", "yambda"):
            raise InputError(f"schema must be 'vitrina' or 'yambda', got {schema!r}")
        folder = Path(directory)
        plan = files.Plan(n_threads=n_threads, rows_per_block=rows_per_block, progress=progress)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if schema == "yambda":
                rows = files.write_yambda(self.ground, folder, size, plan)
            else:
                rows = files.write_vitrina(self.ground, folder, plan, impressions=impressions)
            (folder / PARAMETERS).write_text(json.dumps(asdict(self), indent=1) + "\n")
        except OSError as error:
            raise InputError(
                f"{folder} could not be written ({error.strerror or error}); free space or "
                f"choose another folder"
            ) from error
        return rows

    @classmethod
    def read(cls, directory: str | os.PathLike[str]) -> Self:
        """The world that wrote a folder.

        Raises:
            InputError: the folder has no `world.json`, or it is not one of this version.
        """
        file = Path(directory) / PARAMETERS
        try:
            values = json.loads(file.read_text())
            known = {f.name for f in fields(cls)}
            if values.keys() - known:
                raise ValueError(f"unknown parameter {sorted(values.keys() - known)[0]}")
            made: dict[str, Any] = {
                name: tuple(v) if isinstance(v, list) else v for name, v in values.items()
            }
            return cls(**made)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file} does not describe a world ({error}); give a folder that World.write made"
            ) from error

    def next_item(self, user_ids: Sequence[int], at: Moment, *, target: Target = "any") -> DoubleArray:
        """The true chance of each item to be the next event of each user. Shape (B, I), in the order of
        `item_ids`.

        Args:
            user_ids: external ids. Length B.
            at: the moment of that event; what the user did before it is the history.
            target: "any" event; "new": given that the item is not in the history; "full": given a play of at
                least half.
        """
        true = truth.Chances(self.ground, target)
        asked = truth.ask(self.ground, self._ix(user_ids), self.seconds(at, len(user_ids)))
        return np.array([true(one) for one in asked]).reshape(len(asked), self.n_items)

    def optimal(
        self, user_ids: Sequence[int], at: Moment, *, ks: Sequence[int] = (10, 100), target: Target = "any"
    ) -> pl.DataFrame:
        """The best expected metrics that any ranking can reach on the next event of each user.

        With one relevant item the best list is by falling chance p, so Recall@k = sum_{r<=k} p_(r) and
        NDCG@k = sum_{r<=k} p_(r) / log2(r + 1), in expectation over the next event, given everything before
        it.

        Returns:
            user_id, k, recall, ndcg.
        """
        return truth.optimal(self.ground, self._ix(user_ids), self.seconds(at, len(user_ids)), ks, target)

    def expected(
        self, lists: pl.DataFrame, at: Moment, *, ks: Sequence[int] = (10, 100), target: Target = "any"
    ) -> pl.DataFrame:
        """Expected metrics of given lists under the true chances: no noise of a test set.

        Args:
            lists: query_id (a user), item_id, rank from 1.
            at: as in `next_item`; an array has one moment for each user, in the order of first appearance.
            ks: cut-offs.
            target: as in `next_item`.

        Returns:
            user_id, k, recall, ndcg, best_recall, best_ndcg. The mean of one over the mean of the other is
            the share of the possible that a model reaches.
        """
        users = lists["query_id"].unique(maintain_order=True)
        moments = self.seconds(at, len(users))
        order = np.argsort(self.item_ids)
        ids = self.item_ids[order]
        parts = lists.sort("rank").partition_by("query_id", as_dict=True)
        coded = []
        for user in users.to_list():
            wanted = parts[(user,)]["item_id"].to_numpy()
            place = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
            coded.append(np.where(ids[place] == wanted, order[place], -1))
        return truth.expected(self.ground, self._ix(users.to_list()), coded, moments, ks, target)

    def best_lists(
        self, user_ids: Sequence[int], at: Moment, *, k: int = 100, target: Target = "any"
    ) -> pl.DataFrame:
        """The optimal lists: query_id, item_id, source, score (the chance), rank. For scoring on a real test
        window.
        """
        return truth.best_lists(self.ground, self._ix(user_ids), self.seconds(at, len(user_ids)), k, target)

    def seconds(self, at: Moment, n: int) -> DoubleArray:
        """A moment as seconds since the start, one for each of n users. Shape (n,)."""
        if isinstance(at, dt.datetime):
            if at.tzinfo is None:
                raise InputError(f"time {at} has no time zone; add tzinfo=datetime.UTC")
            at = (at - dt.datetime.fromisoformat(self.start)).total_seconds()
        values = np.broadcast_to(np.asarray(at, dtype=np.float64), (n,))
        if len(values) and not (values.min() >= 0 and values.max() <= self.ground.rules.horizon):
            raise InputError(
                f"time {values.min():.0f}..{values.max():.0f} s lies outside the world, which has "
                f"0..{self.ground.rules.horizon:.0f} s"
            )
        return np.ascontiguousarray(values)

    def _ix(self, user_ids: Sequence[int]) -> LongArray:
        ids = np.asarray(user_ids, dtype=np.int64)
        ix = ids // 100 - 1
        wrong = (ids % 100 != 0) | (ix < 0) | (ix >= self.n_users)
        if wrong.any():
            raise InputError(
                f"user {int(ids[wrong][0])} is not of this world; ids are 100, 200, ..., {100 * self.n_users}"
            )
        return ix
