"""The rules of a measurement: who is measured, on what, with which metrics."""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final, Literal

from vitrina.errors import ConfigError, InputError
from vitrina.metrics import METRICS, Coverage, Definitions, Gini, Metric, Recall, metric
from vitrina.metrics.measure import Accuracy

Users = Literal["all", "warm"]
Repeats = Literal["count", "new_only", "as_configured"]
Ties = Literal["against_the_model", "as_listed"]
Mode = Literal["default", "yambda"]

CURVE: Final = (1, 2, 5, 10, 20, 50, 100)
"""Depths of the recall curve."""


DEFAULT_METRICS: Final = (
    "NDCG@10",
    "Recall@10",
    "HitRate@10",
    "Precision@10",
    "MAP@10",
    "MRR@10",
    "NDCG@100",
    "Recall@100",
    "Coverage@10",
    "Gini@10",
    "Novelty@10",
    "PopLift@10",
    "ILD@10",
    "Vendi@10",
)

YAMBDA_METRICS: Final = ("NDCG@10", "NDCG@100", "Recall@10", "Recall@100", "Coverage@10", "Coverage@100")
"""What the tables of that benchmark's paper show."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The same for every model of a table; two tables are compared only if theirs are equal."""

    metrics: tuple[str, ...] = DEFAULT_METRICS
    """Each as `NAME@k`; the first is the one that models are ordered and compared by."""
    k: int = 100
    """Items asked for; where the catalogue is smaller, lists are as long as the catalogue."""
    users: Users = "all"
    """all: new users too, with an empty history; warm: only users with a training history."""
    repeats: Repeats = "count"
    """count: nothing is filtered and buying again counts; new_only: what a user had taken is neither shown
    nor counted; as_configured: each pipeline filters as it would when serving, everything counts."""
    mode: Mode = "default"
    """yambda: that benchmark's rules: warm users, repeated targets counted as often as they occur, NDCG as a
    ratio of means."""

    ties: Ties = "against_the_model"
    """against_the_model: items of equal score are read as if the hits stood last, so that an order that means
    nothing earns nothing; as_listed: in the order of the list."""

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"k must be >= 1, got {self.k}; it is the length of the lists")
        if not self.metrics:
            raise ConfigError("metrics is empty; name at least one, as NDCG@10")
        deepest = max(self.parsed, key=lambda m: m.k)
        if deepest.k > self.k:
            raise ConfigError(f"{pretty(deepest)} needs lists of {deepest.k}, k is {self.k}; raise k")
        if not isinstance(self.parsed[0], Accuracy):
            raise ConfigError(
                f"the first metric orders the table, so it must measure accuracy, got {self.metrics[0]}"
            )
        for name, value, allowed in (
            ("users", self.users, ("all", "warm")),
            ("repeats", self.repeats, ("count", "new_only", "as_configured")),
            ("ties", self.ties, ("against_the_model", "as_listed")),
            ("mode", self.mode, ("default", "yambda")),
        ):
            if value not in allowed:
                raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        rules = (self.users, self.repeats, self.ties)
        if self.mode == "yambda" and rules != ("warm", "count", "as_listed"):
            raise ConfigError('mode "yambda" has rules of its own; make it with Protocol.yambda()')

    @classmethod
    def yambda(cls) -> "Protocol":
        """The rules of the Yambda benchmark as its code had them in June 2025 (arXiv:2505.22238).

        Seen items are not filtered, users of the test must occur in training, targets are not de-duplicated,
        cold items stay as misses, lists are 100 long, coverage counts the lists of all training users. Cut
        with `last_days(log, 1, gap_days=1800 / 86400)`.
        """
        return cls(
            metrics=YAMBDA_METRICS, k=100, users="warm", repeats="count", ties="as_listed", mode="yambda"
        )

    @property
    def main(self) -> str:
        """Name of the metric that orders the table, as `ndcg@10`."""
        return self.parsed[0].name

    @cached_property
    def parsed(self) -> tuple[Metric, ...]:
        """Every metric."""
        try:
            return tuple(metric(text) for text in self.metrics)
        except InputError as error:
            raise ConfigError(str(error)) from error

    @property
    def user_metrics(self) -> tuple[Metric, ...]:
        """Metrics that every user has a value of, with those of the recall curve and of slices."""
        asked = [m for m in self.parsed if not isinstance(m, Coverage | Gini)]
        return tuple(dict.fromkeys([*asked, *self.curve, *self.slice_metrics]))

    @property
    def curve(self) -> tuple[Metric, ...]:
        """Recall at growing depth."""
        return tuple(Recall(k) for k in CURVE if k <= self.k)

    @property
    def catalogue_metrics(self) -> tuple[Coverage | Gini, ...]:
        """Metrics of all the lists together."""
        return tuple(m for m in self.parsed if isinstance(m, Coverage | Gini))

    @property
    def slice_metrics(self) -> tuple[Metric, ...]:
        """What slices show: the metric that orders the table, and recall at its depth."""
        return tuple(dict.fromkeys([self.parsed[0], Recall(self.parsed[0].k)]))

    @property
    def definitions(self) -> Definitions:
        """Which definitions the metrics follow."""
        return "yambda" if self.mode == "yambda" else "vitrina"

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Protocol":
        """What `as_dict` gave."""
        return cls(**{**values, "metrics": tuple(values["metrics"])})

    @property
    def title(self) -> str:
        """The rules in one line."""
        repeats = {
            "count": "repeat purchases counted",
            "new_only": "only items new to the user",
            "as_configured": "seen items filtered as each pipeline is configured",
        }[self.repeats]
        users = {"all": "all test users", "warm": "test users with a history"}[self.users]
        return f"{'Yambda benchmark: ' if self.mode == 'yambda' else ''}{users}, {repeats}, full catalogue"


def pretty(m: Metric | str) -> str:
    """`NDCG@10` from a metric or from `ndcg@10`."""
    label, _, k = (m if isinstance(m, str) else m.name).partition("@")
    return f"{METRICS[label].__name__}@{k}" if label in METRICS else str(m)
