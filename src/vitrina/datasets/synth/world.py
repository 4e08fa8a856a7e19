"""A world with known truth: it writes logs of any size, and says how well anybody could predict them."""

import datetime as dt
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
import polars as pl

from vitrina.datasets.synth import files, truth
from vitrina.datasets.synth.ground import Ground
from vitrina.datasets.synth.kernel import Block
from vitrina.datasets.synth.tables import SECONDS_PER_DAY, Rules, event_counts, make_tables, public_order
from vitrina.datasets.synth.truth import Target
from vitrina.errors import ConfigError, InputError
from vitrina.schema import US_PER_SECOND, DoubleArray, LongArray

Schema = Literal["vitrina", "yambda"]
Moment = dt.datetime | float | DoubleArray
"""An aware datetime, or seconds since the start of the world, or such seconds for each user. Shape (B,)."""

PARAMETERS = "world.json"
"""File beside the written log from which `World.read` makes the same world."""


@dataclass(frozen=True, kw_only=True)
class World:
    """People, items, a recommender, and the log they leave. Equal parameters give equal bytes.

    Every event is, in this order: with chance r_u one that the feed led to; else with chance rho_u a repeat of an
    earlier item of that user; else a fresh pick by taste. Formulas: docs/datasets.md.

    Cost: about 1 microsecond of CPU an event; memory is a few hundred bytes an item and 100 MB for the blocks under
    way, whatever the number of events. The first use compiles for about half a minute and is cached.

    Example:
        >>> world = World(n_users=50, n_items=200, n_events=2_000, seed=1)
        >>> world.simulate(np.arange(50)).item.shape
        (2000,)
    """

    n_users: int = 1_000
    """Users."""
    n_items: int = 2_000
    """Items that exist by the end."""
    n_events: int = 100_000
    """Events taken by users (listens, in Yambda's schema), exactly; likes and dislikes come on top."""
    days: float = 90.0
    """Length of the log."""
    seed: int = 0
    """Who everybody is: tastes, activity, topics, births, appeals."""
    draw: int = 0
    """Which course of events of that same world; the truth about a user at a time changes with the history alone."""
    start: str = "2025-01-01T00:00:00+00:00"
    """First moment, ISO 8601 with an offset. Yambda's schema has no dates and ignores it."""

    n_topics: int = 32
    """Topics; each item has one."""
    topic_skew: float = 0.6
    """The z-th topic has a share proportional to z^-topic_skew."""
    n_slots: int = 4
    """Interests a user has at a time."""
    p_global: float = 0.1
    """eta: share of a taste that is everybody's."""
    drift_days: float = 60.0
    """Days in which an interest gives way to the next one."""

    appeal_sigma: float = 1.2
    """Spread of the log-normal appeal of items; 0 makes items of an age equally popular."""
    half_life_days: float = 14.0
    """Half-life of the fading part of popularity."""
    p_evergreen: float = 0.3
    """epsilon: part of popularity that never fades, > 0."""
    frac_old_items: float = 0.6
    """Items older than the log; the others are born evenly over its days."""

    activity_sigma: float = 1.0
    """Spread of the log-normal activity of users."""
    frac_late_users: float = 0.15
    """Users who first come in the course of the log."""
    session_len: float = 12.0
    """Mean events of a visit."""
    gap_s: float = 180.0
    """Mean seconds between events of a visit."""
    p_session: float = 0.4
    """kappa: chance that a fresh pick keeps to the topic of the visit."""

    p_repeat: float = 0.25
    """Mean of rho_u, the chance that an organic event repeats an earlier one; users vary by half of it. At most 2/3."""
    p_recommended: float = 0.3
    """Mean of r_u, the chance that an event comes from the feed; users vary by half of it. At most 2/3."""
    p_explore: float = 0.1
    """xi: share of the feed that is drawn evenly from all items there are, > 0 so that every propensity is."""
    lag_days: float = 7.0
    """The feed knows the tastes of so many days ago."""
    slate_len: int = 10
    """Positions of the feed; position m is looked at with chance 1 / sqrt(m)."""
    take: tuple[float, float] = (0.1, 0.6)
    """Chance of taking an item that is looked at, from no match of tastes to a full one; the first > 0."""

    full_play: tuple[float, float] = (0.35, 0.75)
    """Chance of playing at least half of an item, from no match to a full one."""
    p_like: float = 0.05
    """Chance of a like after a full play, at a full match. A user likes or dislikes an item once."""
    p_dislike: float = 0.02
    """Chance of a dislike after a partial play, at no match."""
    p_undo: tuple[float, float] = (0.35, 0.2)
    """Chance that a like, and that a dislike, is taken back later."""

    def __post_init__(self) -> None:
        for name in ("n_users", "n_items", "n_events", "n_topics", "n_slots", "slate_len"):
            _require(self, name, getattr(self, name) >= 1, ">= 1")
        for name in (
            "days",
            "drift_days",
            "half_life_days",
            "session_len",
            "gap_s",
            "p_evergreen",
            "p_explore",
        ):
            _require(self, name, 0 < getattr(self, name) < math.inf, "> 0 and finite")
        for name in (
            "p_evergreen",
            "p_explore",
            "p_global",
            "frac_old_items",
            "frac_late_users",
            "p_session",
        ):
            _require(self, name, 0 <= getattr(self, name) <= 1, "in [0, 1]")
        for name in ("p_repeat", "p_recommended"):
            _require(self, name, 0 <= getattr(self, name) <= 2 / 3, "in [0, 2/3]; users vary by half of it")
        for name in ("take", "full_play", "p_undo"):
            low, high = getattr(self, name)
            _require(self, name, 0 <= low <= 1 and 0 <= high <= 1, "two chances in [0, 1]")
        _require(self, "take", self.take[0] > 0, "> 0 in its first number")
        _require(self, "p_global", self.p_global > 0, "> 0")
        _require(self, "n_items", self.n_topics <= self.n_items < 400_000_000, "from n_topics to 400 million")
        _require(self, "n_topics", self.n_topics <= 32_000, "<= 32,000")
        _require(self, "n_users", self.n_users < 40_000_000, "< 40 million")
        _require(self, "days", self.days / self.half_life_days <= 500, "at most 500 half-lives")
        if dt.datetime.fromisoformat(self.start).tzinfo is None:
            raise ConfigError(
                f"World.start {self.start!r} has no time zone; write e.g. '2025-01-01T00:00:00Z'"
            )

    @classmethod
    def yambda_50m(cls, *, seed: int = 0, scale: float = 1.0) -> Self:
        """A world of the size and the rates of Yambda-50M, or of a part of its users and events.

        Taken from that set: users, items, listens, days, the share of recommended listens (48.7 %), of plays of at
        least half a track (63.4 %), likes and dislikes and those taken back. Its spread of users' activity too.
        """
        return cls(
            n_users=max(int(10_000 * scale), 1),
            n_items=934_057,
            n_events=max(int(46_467_212 * scale), 1),
            days=26_000_000 / SECONDS_PER_DAY,
            seed=seed,
            n_topics=128,
            appeal_sigma=1.8,
            half_life_days=30.0,
            activity_sigma=1.1,
            session_len=15.0,
            gap_s=130.0,
            p_repeat=0.5,
            p_recommended=0.487,
            full_play=(0.3, 0.71),
            p_like=0.043,
            p_dislike=0.019,
            p_undo=(0.355, 0.195),
        )

    @cached_property
    def ground(self) -> Ground:
        """What the parameters come to: rules, items and users. Made once."""
        rules = self._rules()
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

    def _rules(self) -> Rules:
        return Rules(
            seed=np.uint64(self.seed % 2**64),
            dice=np.uint64((self.seed + 0x632BE59BD9B4E019 * self.draw) % 2**64),
            horizon=self.days * SECONDS_PER_DAY,
            n_slots=self.n_slots,
            p_global=self.p_global,
            drift=self.drift_days * SECONDS_PER_DAY,
            decay=math.log(2.0) / (self.half_life_days * SECONDS_PER_DAY),
            p_evergreen=self.p_evergreen,
            session_len=float(self.session_len),
            gap=float(self.gap_s),
            p_session=self.p_session,
            frac_late=self.frac_late_users,
            p_repeat=self.p_repeat,
            p_recommended=self.p_recommended,
            p_explore=self.p_explore,
            lag=self.lag_days * SECONDS_PER_DAY,
            slate_len=self.slate_len,
            take_low=self.take[0],
            take_high=self.take[1],
            full_low=self.full_play[0],
            full_high=self.full_play[1],
            p_like=self.p_like,
            p_dislike=self.p_dislike,
            p_undo_like=self.p_undo[0],
            p_undo_dislike=self.p_undo[1],
        )

    def simulate(self, user_ix: LongArray, *, views: bool = False) -> Block:
        """What the given users do, one user after another, each in time order.

        Args:
            user_ix: positions in `user_ids`. Shape (B,)
            views: also keep every item that the feed showed.
        """
        return self.ground.simulate(user_ix, views=views)

    def items(self) -> pl.DataFrame:
        """item_id, title, author, born (UTC) and length_s of every item; topics stay hidden, titles hint at them."""
        return files.item_frame(self.ground)

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
                f"{folder} could not be written ({error.strerror or error}); free space or choose another folder"
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
            return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"{file} does not describe a world ({error}); give a folder that World.write made"
            ) from error

    def next_item(self, user_ids: Sequence[int], at: Moment, *, target: Target = "any") -> DoubleArray:
        """The true chance of each item to be the next event of each user. Shape (B, I), in the order of `item_ids`.

        Args:
            user_ids: external ids. Length B.
            at: the moment of that event; what the user did before it is the history.
            target: "any" event; "new": given that the item is not in the history; "full": given a play of at least
                half.
        """
        true = truth.Chances(self.ground, target)
        asked = truth.ask(self.ground, self._ix(user_ids), self.seconds(at, len(user_ids)))
        return np.array([true(one) for one in asked]).reshape(len(asked), self.n_items)

    def optimal(
        self, user_ids: Sequence[int], at: Moment, *, ks: Sequence[int] = (10, 100), target: Target = "any"
    ) -> pl.DataFrame:
        """The best expected metrics that any ranking can reach on the next event of each user.

        With one relevant item the best list is by falling chance p, so Recall@k = sum_{r<=k} p_(r) and
        NDCG@k = sum_{r<=k} p_(r) / log2(r + 1), in expectation over the next event, given everything before it.

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
            user_id, k, recall, ndcg, best_recall, best_ndcg. The mean of one over the mean of the other is the share
            of the possible that a model reaches.
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
        """The optimal lists: query_id, item_id, source, score (the chance), rank. For scoring on a real test window."""
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


def _require(world: World, name: str, holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(f"World.{name} must be {rule}, got {getattr(world, name)}")
