"""A search sets what a model leaves open: parameters, and of merged sources their weights."""

import datetime as dt
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vitrina.evaluate import Evaluator
from vitrina.recipes import build, check, load, tune_run
from vitrina.recipes.config import ModelConfig, PipelineConfig
from vitrina.recipes.data import make_split, open_data
from vitrina.recipes.settings import WEIGHTS, applied, identity, space, start

MERGED = {
    "name": "mixed",
    "sources": [
        {"kind": "Random", "params": {"seed": 1}, "name": "noise", "weight": 2.0, "k": 30},
        {"kind": "ItemKNN", "params": {"n_neighbors": 20}, "weight": 1.0},
    ],
    "policies": [{"kind": "Unseen"}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of four tastes, and a merged model of which one source is noise with twice the weight."""
    made = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(5)
    n = 4_000
    user = rng.integers(0, 100, n)
    item = np.where(rng.random(n) < 0.85, (user % 4) * 25 + rng.zipf(1.5, n) % 25, rng.integers(0, 100, n))
    start_at = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    ts = [start_at + dt.timedelta(seconds=float(s)) for s in rng.uniform(0, 60 * 86_400, n)]
    pl.DataFrame({"user_id": user, "item_id": item, "ts": ts}).write_parquet(made / "log.parquet")
    return made


def run_of(folder: Path, model: dict[str, object], n_trials: int):
    return check(
        {
            "out": str(folder / "runs"),
            "data": {"path": str(folder / "log.parquet")},
            "split": {"last_days": 10},
            "evaluate": {"metrics": ["NDCG@10", "Recall@10"], "k": 20, "repeats": ["count"]},
            "models": [model],
            "tune": {"n_trials": n_trials},
        }
    )


def test_the_space_of_merged_sources_has_every_parameter_and_the_weights_but_the_first() -> None:
    model = ModelConfig.model_validate(MERGED)
    assert [*space(model)] == ["ItemKNN.n_neighbors", "ItemKNN.weighting", "ItemKNN.shrink", "ItemKNN.weight"]
    assert space(model)["ItemKNN.weight"] is WEIGHTS
    assert start(model) == {
        "ItemKNN.n_neighbors": 20,
        "ItemKNN.weighting": build.parameter_values("ItemKNN", {})["weighting"],
        "ItemKNN.shrink": build.parameter_values("ItemKNN", {})["shrink"],
        "ItemKNN.weight": 1.0,
    }
    assert applied(model, start(model)).sources[0] == model.sources[0]
    made = applied(model, {"ItemKNN.weight": 7.5, "ItemKNN.shrink": 3.0}).sources[1]
    assert (made.weight, made.params) == (7.5, {"n_neighbors": 20, "shrink": 3.0})


def test_trials_are_shared_only_where_what_is_not_searched_is_equal() -> None:
    shared, model = PipelineConfig(), ModelConfig.model_validate(MERGED)
    assert identity(applied(model, {"ItemKNN.weight": 9.0}), shared) == identity(model, shared)
    longer = [model.sources[0].model_copy(update={"k": 31}), model.sources[1]]
    assert identity(model.model_copy(update={"sources": longer}), shared) != identity(model, shared)
    assert identity(model.model_copy(update={"policies": []}), shared) != identity(model, shared)
    assert identity(model, PipelineConfig(fallback="none")) != identity(model, shared)


def test_a_search_turns_noise_down_and_writes_the_weights_it_measured(folder: Path) -> None:
    config = run_of(folder, MERGED, n_trials=10)
    found = tune_run(config)
    best = found.best["mixed"]
    assert best["n_trials"] == 10
    assert best["params"]["ItemKNN.weight"] > 2.0
    assert best["value"] > best["start"]
    tuned = load(found.config_file).models[0]
    assert tuned == applied(config.models[0], best["params"])
    assert tuned.sources[1].weight == best["params"]["ItemKNN.weight"]
    assert tuned.sources[0] == config.models[0].sources[0]
    # measured again by hand
    window = make_split(open_data(config.data).log, config.split, validation=True).tuning()
    train = window.train.histories()
    pipeline = build.pipeline(tuned, config.pipeline, hide_seen=False).fit(train)
    evaluator = Evaluator(split=window, train=train, protocol=build.protocol(config.evaluate, "count"))
    assert evaluator.run("mixed", pipeline).average("ndcg@10") == best["value"]
    first = json.loads(found.trials.filter(pl.col("trial") == 0)["params"][0])
    assert first == start(config.models[0])


def test_a_search_goes_on_with_the_same_sources_and_begins_anew_with_others(folder: Path) -> None:
    assert len(tune_run(run_of(folder, MERGED | {"name": "again"}, n_trials=2)).trials) == 2
    assert len(tune_run(run_of(folder, MERGED | {"name": "again"}, n_trials=3)).trials) == 3
    other = MERGED | {"name": "again", "sources": [*MERGED["sources"], {"kind": "MostPop"}]}
    found = tune_run(run_of(folder, other, n_trials=2))
    assert len(found.trials) == 2
    assert "MostPop.weight" in found.best["again"]["params"]
