"""A split: what models learn from, what they are measured on, and what is neither, counted."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import polars as pl

from vitrina.errors import SplitError
from vitrina.log import EventLog, Histories
from vitrina.split.moments import written
from vitrina.split.truth import Truth

PER_USER_WARNING = (
    "split per user: training holds events later than other users' test events, so models see the future "
    "of the catalogue; use this for comparison with papers, not to choose a model"
)


@dataclass(frozen=True)
class Part:
    """One of the pieces that together hold every row of the log once."""

    name: str
    """train, gap before validation, validation, gap, test, after the horizon."""
    since_us: int | None
    """First moment in it; None where the split is per user."""
    until_us: int | None
    """First moment after it."""
    n_rows: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Split:
    """Train, test and validation logs of one log.

        by time:   |----- train ------|gap|-- validation --|gap|---- test ----|  after the horizon
                                          cut - gap - validation   cut         cut + horizon

    `train` is everything before cut - gap, the validation window included: it is what the final model learns
    from. To choose parameters, use `tuning()`, whose test is the validation window.
    """

    kind: str
    """How it was cut: `time`, `leave one out`, `last n per user`."""
    train: EventLog
    """What the final model learns from."""
    test: EventLog
    """What it is measured on."""
    validation: EventLog | None = None
    """A window of `train`, for choosing parameters."""
    train_before_validation: EventLog | None = None
    """What a model may learn from when it is measured on `validation`."""
    cut_us: int | None = None
    """First moment of the test window, UTC microseconds; None where the split is per user."""
    gap_us: int = 0
    """Length of what is left out before each window."""
    horizon_us: int | None = None
    """Length of the test window; None where it runs to the end of the log."""
    validation_cut_us: int | None = None
    """First moment of the validation window."""
    n_per_user: int | None = None
    """Test rows of each user, where the split is per user."""
    parts: tuple[Part, ...]
    """Every row of the log, once."""
    log_digest: str
    """Hash of the log that was split."""
    warning: str | None = None
    """Printed with every table measured on this split."""

    def __post_init__(self) -> None:
        for name in ("train", "test"):
            if not self._n_rows(name):
                raise SplitError(f"the split leaves no {name} rows ({self.counts}); move the cut or the gap")
        if self.validation is not None and not (self._n_rows("validation") and self._n_rows("fit")):
            raise SplitError(
                f"the validation window or the training before it is empty ({self.counts}); "
                "shorten the validation"
            )

    @property
    def n_rows(self) -> int:
        """Rows of the log that was split."""
        return sum(part.n_rows for part in self.parts)

    @property
    def counts(self) -> str:
        """Rows of each part as one line."""
        return ", ".join(f"{part.name} {part.n_rows:,}" for part in self.parts)

    @property
    def train_until_us(self) -> int | None:
        """First moment that training may not hold, cut - gap."""
        return None if self.cut_us is None else self.cut_us - self.gap_us

    @property
    def digest(self) -> str:
        """SHA-256 of the log's digest and of every boundary and count: what the parts hold."""
        about = [
            self.log_digest,
            self.kind,
            self.cut_us,
            self.gap_us,
            self.horizon_us,
            self.validation_cut_us,
            self.n_per_user,
            [(part.name, part.since_us, part.until_us, part.n_rows) for part in self.parts],
        ]
        return hashlib.sha256(json.dumps(about).encode()).hexdigest()

    @property
    def title(self) -> str:
        """The split in one line."""
        if self.cut_us is None:
            return f"{self.kind} (n = {self.n_per_user})"
        until = "the end of the log" if self.horizon_us is None else written(self.cut_us + self.horizon_us)
        gap = f", gap {self.gap_us / 1e6:,.0f} s before it" if self.gap_us else ", no gap"
        return f"by time: test from {written(self.cut_us)} to {until}{gap}"

    def describe(self) -> pl.DataFrame:
        """A frame with a row per part: part, since, until, n_rows, frac_rows."""
        return pl.DataFrame(
            {
                "part": [part.name for part in self.parts],
                "since": [None if p.since_us is None else written(p.since_us) for p in self.parts],
                "until": [None if p.until_us is None else written(p.until_us) for p in self.parts],
                "n_rows": [part.n_rows for part in self.parts],
                "frac_rows": [part.n_rows / self.n_rows for part in self.parts],
            },
            schema_overrides={"since": pl.String, "until": pl.String},
        )

    def tuning(self) -> "Split":
        """The split on which parameters are chosen: train before the validation window, test on it.

        Raises:
            SplitError: the split has no validation window.
        """
        if self.validation is None or self.train_before_validation is None:
            raise SplitError(
                "this split has no validation window; make it with validation_days or validation"
            )
        at = [part.name for part in self.parts].index("validation")
        rest = sum(part.n_rows for part in self.parts[at + 1 :])
        renamed = [
            replace(part, name=_TUNING_NAME.get(part.name, part.name)) for part in self.parts[: at + 1]
        ]
        held_back = Part("held back for the test", self.parts[at].until_us, self.parts[-1].until_us, rest)
        length = (
            None if self.validation_cut_us is None else (self.train_until_us or 0) - self.validation_cut_us
        )
        return Split(
            kind=self.kind,
            train=self.train_before_validation,
            test=self.validation,
            cut_us=self.validation_cut_us,
            gap_us=self.gap_us,
            horizon_us=length,
            n_per_user=self.n_per_user,
            parts=(*renamed, held_back),
            log_digest=self.log_digest,
            warning=self.warning,
        )

    def truth(self, train: Histories, *, seed: int = 0) -> Truth:
        """What the test users took, against what they had taken before.

        Args:
            train: the training histories: they number the items and say which users and repeats are known.
            seed: orders rows of equal time.

        Raises:
            SplitError: the histories hold events that this split keeps from training.
        """
        latest = int(train.ts.max()) if train.n_rows else None
        limit = self.train_until_us
        if latest is not None and limit is not None and latest >= limit:
            raise SplitError(
                f"the training histories reach {written(latest)}, training of this split ends before "
                f"{written(limit)}; build them from split.train"
            )
        return Truth.of(self.test, train, seed=seed)

    def _n_rows(self, name: str) -> int:
        held = {
            "train": ("train", "gap before validation", "validation"),
            "fit": ("train",),
            "test": ("test",),
            "validation": ("validation",),
        }[name]
        return sum(part.n_rows for part in self.parts if part.name in held)


_TUNING_NAME = {"gap before validation": "gap", "validation": "test"}


def same_split(splits: Sequence[str]) -> None:
    """Refuse digests that differ.

    Raises:
        SplitError: two of them are not the same.
    """
    for digest in splits[1:]:
        if digest != splits[0]:
            raise SplitError(
                f"these runs were measured on different splits ({splits[0][:12]} and {digest[:12]}); "
                "only runs on one split can be compared"
            )
