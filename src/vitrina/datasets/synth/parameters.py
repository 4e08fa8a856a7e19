"""The parameters of a world, what they must be, and what the kernels make of them."""

import datetime as dt
import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from vitrina.datasets.synth.tables import SECONDS_PER_DAY, Rules
from vitrina.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Who there is, how they choose, and how long it goes on. Greek letters: docs/datasets.md."""

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
    """Which course of events in that same world."""
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
    """Mean of rho_u, the chance that an organic event repeats an earlier one; users vary by half of it."""
    p_recommended: float = 0.3
    """Mean of r_u, the chance that an event comes from the feed; users vary by half of it. At most 2/3."""
    p_explore: float = 0.1
    """xi: share of the feed that is drawn evenly from all items, > 0 so that every propensity is."""
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

        Taken from that set: users, items, listens, days, the share of recommended listens (48.7 %), of plays
        of at least half a track (63.4 %), likes and dislikes and those taken back. Its spread of users'
        activity too.
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
            activity_sigma=1.0,
            frac_late_users=0.05,
            session_len=15.0,
            gap_s=130.0,
            p_repeat=0.5,
            p_recommended=0.487,
            full_play=(0.3, 0.7),
            p_like=0.0355,
            p_dislike=0.0265,
            p_undo=(0.355, 0.195),
        )

    def rules(self) -> Rules:
        """The parameters as the kernels read them; times in seconds."""
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


def _require(parameters: Parameters, name: str, holds: bool, rule: str) -> None:
    if not holds:
        raise ConfigError(f"World.{name} must be {rule}, got {getattr(parameters, name)}")
