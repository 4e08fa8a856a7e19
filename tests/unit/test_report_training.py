"""Curves of training in the report: which models have one, what the disk keeps, what the page shows."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import polars as pl
import pytest

pytest.importorskip("torch")

from vitrina.candidates import ARGUS, MostPop, SASRec
from vitrina.evaluate import Evaluation, Protocol, evaluate, write_report
from vitrina.log import EventLog
from vitrina.pipeline import Pipeline, Source
from vitrina.split import last_days

SMALL = {"embedding_dim": 8, "max_len": 10, "n_layers": 1, "batch_size": 32}
KEPT = ["epoch", "loss", "lr", "seconds"]


def rows(model: pl.DataFrame, names: list[str]) -> list[dict[str, float]]:
    return model.select(names).to_dicts()


@pytest.fixture(scope="module")
def split():
    n_users, n_steps = 60, 12
    frame = pl.DataFrame(
        {
            "user_id": [user for user in range(n_users) for _ in range(n_steps)],
            "item_id": [(user + step) % 15 for user in range(n_users) for step in range(n_steps)],
            "ts": [86_400 * (5 * step + user % 5) for user in range(n_users) for step in range(n_steps)],
        }
    )
    return last_days(EventLog.from_frame(frame, time_unit="s", epoch=datetime(2020, 1, 1, tzinfo=UTC)), 10)


@pytest.fixture(scope="module")
def models():
    return {
        "validated": SASRec(**SMALL, n_epochs=3, validation="time", frac_validation=0.2),
        "plain": SASRec(**SMALL, n_epochs=2),
        "tuned": ARGUS(**SMALL, hidden_dim=8, n_negatives=8, n_epochs=2, n_tuning_epochs=1),
        "MostPop": MostPop(),
    }


@pytest.fixture(scope="module")
def evaluation(split, models):
    train = split.train.histories()
    pipelines = {
        name: Pipeline(sources=[Source(generator=model, name=name)]).fit(train)
        for name, model in models.items()
    }
    both = Pipeline(
        sources=[Source(generator=models["plain"], name="order"), Source(generator=MostPop(), name="most")]
    )
    pipelines["merged"] = both.fit(train, fitted={"order": pipelines["plain"].sources[0]})
    return evaluate(pipelines, split, train=train, protocol=Protocol(k=10, metrics=("NDCG@10",)))


def test_curves_are_those_that_the_models_keep(evaluation, models):
    found = evaluation.training()
    assert found.keys() == {"validated", "plain", "tuned", "merged"}
    (validated,) = found["validated"]
    assert (validated.source, validated.part) == ("validated", "training")
    names = ["epoch", "loss", "validation", "lr", "seconds"]
    assert list(validated.epochs) == rows(models["validated"].curve_, names)
    assert list(found["plain"][0].epochs) == rows(models["plain"].curve_, KEPT)
    training, tuning = found["tuned"]
    assert (training.part, tuning.part) == ("training", "fine-tuning")
    assert list(tuning.epochs) == rows(models["tuned"].tuning_curve_, KEPT)
    assert [curve.source for curve in found["merged"]] == ["order"]


def test_a_saved_evaluation_keeps_them_and_one_without_them_is_read(evaluation, tmp_path):
    evaluation.save(tmp_path / "kept")
    assert Evaluation.load(tmp_path / "kept").training() == evaluation.training()
    about = tmp_path / "kept" / "evaluation.json"
    older = json.loads(about.read_text())
    for run in older["runs"]:
        del run["curves"]
    about.write_text(json.dumps(older))
    assert Evaluation.load(tmp_path / "kept").training() == {}


def test_the_report_charts_every_curve_once_and_is_silent_where_there_is_none(evaluation, tmp_path):
    write_report({"all": evaluation}, tmp_path / "with.html")
    text = (tmp_path / "with.html").read_text()
    assert text.count("<h2>Training</h2>") == 1
    assert text.count("Loss and validation by epoch, training.") == 1
    assert text.count("Loss by epoch, training.") == 2  # of "plain", which "merged" shares, and of "tuned"
    assert text.count("Loss by epoch, fine-tuning.") == 1
    assert text.count("also in merged") == 1
    best = max(evaluation.training()["validated"][0].epochs, key=lambda epoch: epoch["validation"])
    assert f"<td>{best['validation']:.4f}</td><td>{best['epoch']:.0f}</td>" in text
    plain = replace(evaluation, runs=tuple(run for run in evaluation.runs if run.model == "MostPop"))
    write_report({"all": plain}, tmp_path / "without.html")
    assert "<h2>Training</h2>" not in (tmp_path / "without.html").read_text()
