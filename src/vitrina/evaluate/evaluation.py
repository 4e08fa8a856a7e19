"""What a measurement found: per-user values of every run, and the tables that follow from them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from itertools import combinations

import numpy as np
import polars as pl

from vitrina.errors import InputError, SplitError
from vitrina.evaluate import store
from vitrina.evaluate.card import SplitCard
from vitrina.evaluate.curves import TrainingCurve
from vitrina.evaluate.evaluator import CONTROL, Dropped, Evaluator, Run
from vitrina.evaluate.measures import parts
from vitrina.evaluate.popularity import PopularityDiagnostics
from vitrina.evaluate.protocol import Protocol
from vitrina.evaluate.slices import history_slices
from vitrina.evaluate.versions import versions
from vitrina.metrics import Intervals, Measured, Metric, bootstrap, holm, over_seeds, paired_bootstrap
from vitrina.schema import BoolArray, DoubleArray
from vitrina.split import same_split

SIGNIFICANT = 0.05
"""Corrected p-value below which a difference is called one."""

RESAMPLES_A_PAIR = 100
"""The smallest p-value of R resamples is 2 / (R + 1); after Holm's correction over m pairs it must still be
able to fall below `SIGNIFICANT`, which takes R > 40 m."""

ROW_SCHEMA = {
    "model": pl.String,
    "metric": pl.String,
    "k": pl.Int64,
    "mean": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "sd_seeds": pl.Float64,
    "n_seeds": pl.Int64,
    "n_users": pl.Int64,
    "n_dropped": pl.Int64,
}

SLICE_SCHEMA = {
    "by": pl.String,
    "slice": pl.String,
    "model": pl.String,
    "metric": pl.String,
    "k": pl.Int64,
    "mean": pl.Float64,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "n_users": pl.Int64,
    "n_targets": pl.Int64,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """Runs of several models on one split under one protocol."""

    protocol: Protocol
    split: SplitCard
    counts: dict[str, int]
    """Of the test window before anything was left out: users, targets, warm, cold, repeats."""
    dropped: tuple[Dropped, ...]
    """What was left out, and why."""
    ceiling: dict[str, float]
    """Each accuracy metric for a model that knows the answers but has training items only."""
    users: pl.DataFrame
    """The measured users: user_id, history_length, n_targets."""
    slice_targets: dict[str, int]
    """Targets of each slice of targets."""
    n_items: int
    """Training items, the catalogue."""
    runs: tuple[Run, ...]
    versions: dict[str, str] = field(default_factory=versions)
    n_resamples: int = 1000

    @classmethod
    def of(cls, evaluator: Evaluator, runs: Sequence[Run]) -> "Evaluation":
        """What an evaluator and its runs found.

        Raises:
            InputError: there is no run, or a model and seed occur twice.
        """
        keys = [(run.model, run.seed) for run in runs]
        if not runs or len(set(keys)) < len(keys):
            raise InputError(
                f"an evaluation needs at least one run and distinct models and seeds, got {keys}"
            )
        truth = evaluator.truth
        columns = {"history_length": truth.history_length, "n_targets": truth.lengths}
        return cls(
            protocol=evaluator.protocol,
            split=SplitCard.of(evaluator.split),
            counts=evaluator.whole.counts,
            dropped=tuple(d for d in evaluator.dropped if d.n),
            ceiling=evaluator.ceiling,
            users=pl.DataFrame({"user_id": truth.user_ids.values, **columns}),
            slice_targets={name: int(mask.sum()) for name, mask in evaluator.slices.items()},
            n_items=evaluator.train.n_items,
            runs=tuple(runs),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a folder: JSON and Parquet, with the hash of the split and of every file (`store`)."""
        held = [f.name for f in fields(self) if f.name not in ("users", "runs")]
        store.write({name: getattr(self, name) for name in held}, self.users, self.runs, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Evaluation":
        """Read a folder that `save` wrote.

        Raises:
            ArtifactError: it is missing, incomplete, changed or of another version.
        """
        return cls(**store.read(path))

    @property
    def models(self) -> list[str]:
        """Names, best first by the metric that orders the table."""
        value = {model: self._value(model, self.protocol.main)[0] for model in self._all}
        return sorted(value, key=lambda model: -value[model])

    @property
    def n_dropped_users(self) -> int:
        """Test users that are not measured."""
        return sum(d.n for d in self.dropped if d.what == "test users")

    def leaderboard(self) -> pl.DataFrame:
        """A row per model and metric, best model first.

        Columns: model, metric, k, mean, ci_low, ci_high (95 %, bootstrap over users), sd_seeds and n_seeds
        (over runs of the model, null for one), n_users, n_dropped. Coverage and Gini belong to all lists
        together and have no interval over users.
        """
        rows = [self._row(model, m) for model in self.models for m in self.protocol.parsed]
        return pl.DataFrame(rows, schema=ROW_SCHEMA)

    def curve(self) -> pl.DataFrame:
        """Recall at growing depth: model, k, mean, ci_low, ci_high."""
        rows = [self._row(model, m) for model in self.models for m in self.protocol.curve]
        return pl.DataFrame(rows, schema=ROW_SCHEMA).select("model", "k", "mean", "ci_low", "ci_high")

    def control(self) -> pl.DataFrame:
        """Each model with every user given the list of another user: what is left is not personal.

        Columns: model, mean, ci_low, ci_high of the metric that orders the table.
        """
        joint = self._measured([(model, f"{self.protocol.main}|{CONTROL}") for model in self.models])
        found = bootstrap(joint, n_resamples=self.n_resamples)
        columns = {"mean": found.value, "ci_low": found.low, "ci_high": found.high}
        return pl.DataFrame({"model": self.models, **columns})

    def slices(self) -> pl.DataFrame:
        """Each model on parts of the test.

        Columns: by, slice, model, metric, k, mean, ci_low, ci_high, n_users, n_targets. Slices by `history`
        split users; the others split targets, and a user counts in each where they have one.
        """
        rows: list[dict[str, object]] = []
        n_targets = self.users["n_targets"].to_numpy()
        for name, mask in history_slices(self.users["history_length"].to_numpy()).items():
            rows += self._slice(name, "", int(n_targets[mask].sum()), mask)
        for name, n in self.slice_targets.items():
            rows += self._slice(name, f"|{name}", n, np.ones(len(self.users), dtype=bool))
        return pl.DataFrame(rows, schema=SLICE_SCHEMA)

    def comparisons(self, metric: str | None = None) -> pl.DataFrame:
        """Every two models by paired bootstrap over users, with Holm's correction over all the pairs.

        Columns: model_a, model_b, difference (a - b), ci_low, ci_high, p, p_holm, significant (p_holm < .05).
        Seeds of a model are averaged first; their spread stands in the leaderboard.

        Args:
            metric: a metric of the protocol; None takes the one that orders the table.
        """
        name = (metric or self.protocol.main).lower()
        if name not in self.runs[0].values.columns:
            raise InputError(f"{name} has no per-user values here; there are: {', '.join(self._columns)}")
        pairs = list(combinations(self.models, 2))
        return _compared(
            pairs,
            self._measured([(a, name) for a, _ in pairs]),
            self._measured([(b, name) for _, b in pairs]),
            self.n_resamples,
        )

    def timings(self) -> pl.DataFrame:
        """A row per run: model, seed, fit_s, recommend_s, users_per_s, n_empty, n_short."""
        order = {model: at for at, model in enumerate(self.models)}
        rows = [
            [r.model, r.seed, r.fit_s, r.recommend_s, r.users_per_s, r.n_empty, r.n_short]
            for r in sorted(self.runs, key=lambda r: (order[r.model], r.seed))
        ]
        floats = dict.fromkeys(("fit_s", "recommend_s", "users_per_s"), pl.Float64())
        counts = dict.fromkeys(("n_empty", "n_short"), pl.Int64())
        return pl.DataFrame(
            rows, schema={"model": pl.String(), "seed": pl.Int64(), **floats, **counts}, orient="row"
        )

    def exposure(self) -> pl.DataFrame:
        """Lorenz curve of each model: model, frac_items (least shown first), frac_shown; 101 points."""
        frames = []
        at = np.linspace(0, 1, 101)
        for model in self.models:
            shown = np.sort(np.sum([run.exposure for run in self._runs_of(model)], axis=0))
            total = np.concatenate([[0.0], np.cumsum(shown)]) / max(1, shown.sum())
            curve = np.interp(at, np.linspace(0, 1, len(total)), total)
            frames.append(pl.DataFrame({"model": model, "frac_items": at, "frac_shown": curve}))
        return pl.concat(frames)

    def popularity(self) -> dict[str, PopularityDiagnostics]:
        """How the vectors of each model that has some follow popularity, by model, of its first run."""
        found: dict[str, PopularityDiagnostics] = {}
        for model in self.models:
            known = [run.popularity for run in self._runs_of(model) if run.popularity is not None]
            found |= {model: known[0]} if known else {}
        return found

    def training(self) -> dict[str, tuple[TrainingCurve, ...]]:
        """Loss and validation by epoch of each model that learned so, by model, of its first run."""
        found = {model: self._runs_of(model)[0].curves for model in self.models}
        return {model: curves for model, curves in found.items() if curves}

    def notes(self) -> dict[str, list[str]]:
        """What a reader must know of each model before believing its numbers."""
        found: dict[str, list[str]] = {model: [] for model in self.models}
        for run in self.runs:
            found[run.model] += [note for note in run.notes if note not in found[run.model]]
        return {model: notes for model, notes in found.items() if notes}

    def values(self, model: str) -> pl.DataFrame:
        """Per-user values of a model, averaged over its seeds; null for a user whom a metric excludes."""
        frames = [run.values for run in self._runs_of(model)]
        if len(frames) == 1:
            return frames[0]
        names = [name for name in frames[0].columns if name != "user_id"]
        means = [pl.mean_horizontal([f[name] for f in frames]).alias(name) for name in names]
        return frames[0].select("user_id").with_columns(pl.select(means))

    def _runs_of(self, model: str) -> list[Run]:
        found = [run for run in self.runs if run.model == model]
        if not found:
            raise InputError(f"no run of {model!r} here; there are: {', '.join(self._all)}")
        return found

    @cached_property
    def _all(self) -> list[str]:
        return list(dict.fromkeys(run.model for run in self.runs))

    @cached_property
    def _columns(self) -> list[str]:
        return [m.name for m in self.protocol.user_metrics]

    @cached_property
    def _arrays(self) -> dict[str, dict[str, DoubleArray]]:
        """Columns of each model, NaN for null."""
        arrays = {}
        for model in self._all:
            frame = self.values(model).drop("user_id").fill_null(float("nan"))
            arrays[model] = {name: frame[name].to_numpy() for name in frame.columns}
        return arrays

    def _measured(self, asked: list[tuple[str, str]]) -> Measured:
        """Columns of several models side by side, so that one bootstrap draws the same users for all."""
        pairs = [parts(self._arrays[model], column) for model, column in asked]
        above = np.stack([a for a, _ in pairs], axis=1) if pairs else np.zeros((len(self.users), 0))
        below = np.stack([b for _, b in pairs], axis=1) if pairs else np.zeros((len(self.users), 0))
        names = tuple(f"{model} {column}" for model, column in asked)
        return Measured(names, above, below, {}, np.ones(len(self.users), dtype=bool))

    @cached_property
    def _intervals(self) -> dict[tuple[str, str], tuple[float, float, float]]:
        asked = [(model, name) for model in self._all for name in self._columns]
        return dict(
            zip(asked, _triples(bootstrap(self._measured(asked), n_resamples=self.n_resamples)), strict=True)
        )

    def _value(self, model: str, name: str) -> tuple[float, float, float]:
        return self._intervals[model, name]

    def _row(self, model: str, m: Metric) -> dict[str, object]:
        runs = self._runs_of(model)
        row: dict[str, object] = {"model": model, "metric": m.label, "k": m.k, "n_seeds": len(runs)}
        if m.name in self._columns:
            mean, low, high = self._value(model, m.name)
            row |= {"mean": mean, "ci_low": low, "ci_high": high}
            per_seed = [run.average(m.name) for run in runs]
        else:
            per_seed = [run.lists[m.name] for run in runs]
            row |= {"mean": over_seeds(per_seed).mean}
        sd = over_seeds(per_seed).sd
        return row | {
            "sd_seeds": None if np.isnan(sd) else sd,
            "n_users": len(self.users),
            "n_dropped": self.n_dropped_users,
        }

    def _slice(self, name: str, suffix: str, n_targets: int, mask: BoolArray) -> list[dict[str, object]]:
        by, which = name.split(":", 1)
        metrics = self.protocol.slice_metrics
        asked = [(model, m.name + suffix) for model in self.models for m in metrics]
        measured = self._measured(asked).users(mask)
        some = measured.users(np.asarray((measured.denominator > 0).any(axis=1)))
        triples = _triples(bootstrap(some, n_resamples=self.n_resamples))
        shown = [(model, m) for model in self.models for m in metrics]
        return [
            {
                "by": by,
                "slice": which,
                "model": model,
                "metric": m.label,
                "k": m.k,
                "mean": mean,
                "ci_low": low,
                "ci_high": high,
                "n_users": some.n_users,
                "n_targets": n_targets,
            }
            for (model, m), (mean, low, high) in zip(shown, triples, strict=True)
        ]


def paired(
    a: Evaluation, model_a: str, b: Evaluation, model_b: str, metric: str | None = None
) -> pl.DataFrame:
    """Compare a model of one evaluation with a model of another, say of last week's.

    Raises:
        SplitError: they were measured on different splits, protocols or users.
    """
    same_split([a.split.digest, b.split.digest])
    if a.protocol != b.protocol or not a.users["user_id"].equals(b.users["user_id"]):
        raise SplitError("these runs follow different protocols; measure both under one to compare them")
    name = (metric or a.protocol.main).lower()
    first, second = a._measured([(model_a, name)]), b._measured([(model_b, name)])
    return _compared([(model_a, model_b)], first, second, a.n_resamples)


def _triples(found: Intervals) -> list[tuple[float, float, float]]:
    return list(zip(found.value.tolist(), found.low.tolist(), found.high.tolist(), strict=True))


def _compared(pairs: list[tuple[str, str]], a: Measured, b: Measured, n_resamples: int) -> pl.DataFrame:
    names = tuple(f"{one} {other}" for one, other in pairs)
    a = Measured(names, a.numerator, a.denominator, {}, a.has_truth)
    b = Measured(names, b.numerator, b.denominator, {}, b.has_truth)
    found = paired_bootstrap(a, b, n_resamples=max(n_resamples, RESAMPLES_A_PAIR * len(pairs)))
    corrected = holm(found.p_value)
    return pl.DataFrame(
        {
            "model_a": pl.Series([one for one, _ in pairs], dtype=pl.String),
            "model_b": pl.Series([other for _, other in pairs], dtype=pl.String),
            "difference": found.difference,
            "ci_low": found.low,
            "ci_high": found.high,
            "p": found.p_value,
            "p_holm": corrected,
            "significant": corrected < SIGNIFICANT,
        }
    )
