"""The demo: the classical models on two years of a real shop; the winner, trained on everything, to serve."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrina.recipes.evaluating import Evaluated, evaluate_run
from vitrina.recipes.models import online_retail
from vitrina.recipes.progress import Reporter
from vitrina.recipes.training import Trained, train_run


@dataclass(frozen=True, kw_only=True)
class Demonstrated:
    """What the demo found and wrote."""

    evaluated: Evaluated
    trained: Trained

    @property
    def served(self) -> Path:
        """The folder to serve."""
        return self.trained.folder

    def summary(self) -> dict[str, Any]:
        """JSON values."""
        return self.evaluated.summary() | {"served": str(self.served)}


def demo_run(
    *, out: str | Path = "runs/demo", fresh: bool = False, reporter: Reporter | None = None
) -> Demonstrated:
    """Evaluate on the shipped shop log, then train the winner on all of it.

    Args:
        out: folder to write to.
        fresh: train again what an earlier demo left trained.
        reporter: hears of the progress.
    """
    config = online_retail().model_copy(update={"out": str(out)})
    evaluated = evaluate_run(config, fresh=fresh, reporter=reporter)
    trained = train_run(config, model=evaluated.winner, reporter=reporter)
    return Demonstrated(evaluated=evaluated, trained=trained)
