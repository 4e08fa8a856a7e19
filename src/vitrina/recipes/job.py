"""Every model of a configuration, trained and measured on one split."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from vitrina.errors import SplitError, VitrinaError
from vitrina.evaluate import Evaluation, Evaluator, Run
from vitrina.log import Histories
from vitrina.recipes import build, fitted
from vitrina.recipes.config import ModelConfig, RunConfig
from vitrina.recipes.data import Data
from vitrina.recipes.progress import Advance, Reporter
from vitrina.recipes.tracking import tracked
from vitrina.split import Split


def evaluators(
    config: RunConfig, split: Split, train: Histories
) -> tuple[dict[str, Evaluator], dict[str, str]]:
    """What measures each view, and the views in which nobody is left to measure."""
    made: dict[str, Evaluator] = {}
    skipped: dict[str, str] = {}
    for view in config.evaluate.repeats:
        try:
            made[view] = Evaluator(split=split, train=train, protocol=build.protocol(config.evaluate, view))
        except SplitError as error:
            skipped[view] = str(error)
    if not made:
        raise SplitError("; ".join(skipped.values()))
    return made, skipped


@dataclass
class Job:
    """Models trained and measured on one split."""

    config: RunConfig
    folder: Path
    data: Data
    split: Split
    train: Histories
    evaluators: Mapping[str, Evaluator]
    fresh: bool
    skipped: Mapping[str, str]
    """Views in which nobody is left to measure: name -> sentence."""
    keeps_lists: bool = True
    """Whether top-k lists are written."""
    runs: dict[str, list[Run]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    reused: list[str] = field(default_factory=list)
    made_of: dict[str, dict[str, Any]] = field(default_factory=dict)

    def n_seeds(self, model: ModelConfig) -> int:
        """How often a model is trained."""
        return self.config.evaluate.n_seeds if build.is_random(model) else 1

    def measure(self, model: ModelConfig, advance: Advance, say: Reporter) -> None:
        """Train a model with each seed and measure it in every view; if it fails, the others go on."""
        first = self.config.evaluate.seed
        for seed in range(first, first + self.n_seeds(model)):
            advance(f"train {model.label}")
            try:
                self._one(model, seed, say)
            except VitrinaError as error:
                self.failures[model.label] = f"{model.label}: {error}"
                say.say(f"left out: {model.label}: {error}")
                return

    def _one(self, model: ModelConfig, seed: int, say: Reporter) -> None:
        pipeline = build.pipeline(model, self.config.pipeline, hide_seen=False, seed=seed)
        made = fitted.fit(
            pipeline,
            self.train,
            self.data.items,
            self.data.users,
            folder=self.folder / "models" if self.config.evaluate.keep_models else None,
            name=model.label,
            data=self.split.digest,
            fresh=self.fresh,
            heard=say.note,
            tracking=partial(tracked, self.config.training, self.folder),
        )
        self.made_of[model.label] = fitted.describe(made.pipeline)
        if made.reused:
            self.reused.append(model.label)
        first = self.config.evaluate.seed
        for view, evaluator in self.evaluators.items():
            lists = self.folder / "lists" / view / f"{fitted.slug(model.label)}.parquet"
            run = evaluator.run(
                model.label,
                made.pipeline,
                seed=seed,
                fit_s=made.fit_s,
                lists_path=lists if self.keeps_lists and seed == first else None,
            )
            self.runs.setdefault(view, []).append(run)

    def views(self) -> dict[str, Evaluation]:
        """What was found, by the name of the view; models that failed with any seed are not in it."""
        n = self.config.evaluate.n_bootstrap
        return {
            view: replace(Evaluation.of(evaluator, self._complete(self.runs[view])), n_resamples=n)
            for view, evaluator in self.evaluators.items()
        }

    def _complete(self, runs: list[Run]) -> list[Run]:
        """Runs of models that finished with every seed."""
        return [run for run in runs if run.model not in self.failures]
