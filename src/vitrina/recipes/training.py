"""Fit one model on the whole log and write the folder that `vitrina serve` reads.

served/
  model/         Pipeline.save
  histories/     the histories it was trained on, memory-mapped by the server
  card.json, card.md   the model card
  report.html    the evaluation behind the choice, where there is one
  config.toml    the configuration, in full
  events.db      made by the server, and never touched here

Under `torchrun` all processes train and the first one writes (see `vitrina.recipes.processes`).
"""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrina.errors import ConfigError
from vitrina.log import Histories
from vitrina.nn.session import session
from vitrina.recipes import build, cards, fitted, processes, reporting, toml
from vitrina.recipes.config import RunConfig
from vitrina.recipes.data import Data, open_data, vocabulary
from vitrina.recipes.evaluating import CONFIG, RUN, evaluate_run, read_summary
from vitrina.recipes.opening import with_models
from vitrina.recipes.progress import Reporter, Silent
from vitrina.recipes.tracking import check_tracker, told, tracked

SERVED = "served"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A folder that can be served."""

    folder: Path
    model: str
    card: dict[str, Any]
    fit_s: float

    def summary(self) -> dict[str, Any]:
        """JSON values."""
        return {"folder": str(self.folder), "model": self.model, "fit_s": self.fit_s, "card": self.card}


def train_run(
    config: RunConfig,
    *,
    model: str | None = None,
    out: str | Path | None = None,
    other_schedule: bool = False,
    reporter: Reporter | None = None,
) -> Trained:
    """Fit a model of a configuration on everything up to now.

    Args:
        config: from `load`, `check` or a named recipe.
        model: its name; None takes `[serve] model`, else the winner of the evaluation in the run's folder,
            which is run first unless it was run with this configuration already.
        out: folder to write to; None takes `served` in the run's folder.
        other_schedule: go on with a checkpoint whose epochs, rates or clipping were others, as after a loss
            that was NaN.
        reporter: hears of the progress.

    Raises:
        ConfigError: there is no such model, the folder cannot be written, or several processes were started
            before an evaluation chose the model.
    """
    say = reporter or Silent()
    check_tracker(config.training)
    run_folder = Path(config.out)
    name = model or config.serve.model
    summary = _finished(config, run_folder)
    if name is None:
        if summary is None:
            processes.check_alone("evaluate")
            summary = evaluate_run(config, other_schedule=other_schedule, reporter=reporter).summary()
        name = str(summary["winner"])
        say.say(f"winner of the evaluation: {name}")
    (chosen,) = with_models(config, [name]).models
    target = run_folder / SERVED if out is None else Path(out)
    with say.step(f"train {name} on everything", total=1) as advance:
        advance(f"train {name} on everything")
        data, histories = processes.first_then_others(lambda aside: _read(config, run_folder, target, aside))
        hide_seen = config.evaluate.repeats[0] == "new_only"
        pipeline = build.pipeline(chosen, config.pipeline, hide_seen=hide_seen, seed=config.evaluate.seed)
        began = time.perf_counter()
        with (
            tracked(
                config.training,
                run_folder,
                f"{fitted.slug(name)}-served",
                told(name, fitted.describe(pipeline)),
            ),
            session(folder=target / "checkpoint", heard=say.note, other_schedule=other_schedule or None),
        ):
            pipeline.fit(histories, data.items, data.users)
        fit_s = time.perf_counter() - began
        processes.wait()
        if processes.is_first():
            pipeline.save(target / "model")
            shutil.rmtree(target / "checkpoint", ignore_errors=True)
    card = cards.card(name, pipeline, data, config=config, summary=summary, fit_s=fit_s)
    if processes.is_first():
        _write_papers(target, card, config, run_folder if summary is not None else None)
    return Trained(folder=target, model=name, card=card, fit_s=fit_s)


def _read(config: RunConfig, run_folder: Path, target: Path, aside: Path | None) -> tuple[Data, Histories]:
    """The log, and its histories in the served folder; `aside` in processes that only read those."""
    data = open_data(config.data, out=run_folder if aside is None else aside)
    if aside is not None:
        return data, Histories.open(target / "histories")
    return data, data.log.histories(target / "histories", items=vocabulary(data, data.log))


def _finished(config: RunConfig, folder: Path) -> dict[str, Any] | None:
    """The summary of an evaluation of this very configuration, whoever heard of it, or None."""
    if not (folder / RUN).is_file():
        return None
    summary = read_summary(folder)
    wanted = json.loads(json.dumps(config.model_dump(exclude_none=True, exclude={"training"})))
    before = {key: value for key, value in summary.get("config", {}).items() if key != "training"}
    return summary if before == wanted else None


def _write_papers(target: Path, card: dict[str, Any], config: RunConfig, run_folder: Path | None) -> None:
    try:
        (target / "card.json").write_text(json.dumps(card, indent=1, default=str))
        (target / "card.md").write_text(cards.markdown(card))
        (target / CONFIG).write_text(toml.dumps(config))
        report = None if run_folder is None else run_folder / reporting.REPORT
        if report is not None and report.is_file():
            shutil.copyfile(report, target / reporting.REPORT)
        else:
            (target / reporting.REPORT).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{target} cannot be written ({error.strerror or error}); free space or choose another folder"
        ) from error
