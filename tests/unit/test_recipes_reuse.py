"""A merged model takes sources that are models of their own in the same run as they are."""

import datetime as dt

import numpy as np
import polars as pl
import pytest

from vitrina.candidates import ImplicitALS
from vitrina.recipes import check, evaluate_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    made = tmp_path_factory.mktemp("reuse")
    rng, start = np.random.default_rng(0), dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    n = 4_000
    user = rng.integers(0, 100, n)
    item = (user % 4) * 20 + rng.integers(0, 20, n)
    ts = [start + dt.timedelta(days=float(day)) for day in rng.uniform(0, 50, n)]
    pl.DataFrame({"user_id": user, "item_id": item, "ts": ts}).write_parquet(made / "log.parquet")
    return made


def run(folder, out, *, with_alone, epochs=3, **evaluate):
    als = {"kind": "ImplicitALS", "params": {"embedding_dim": 8, "n_epochs": 3}}
    merged = {
        "name": "both",
        "sources": [
            {"kind": "OwnHistory", "weight": 2.0},
            als | {"params": als["params"] | {"n_epochs": epochs}},
        ],
    }
    return evaluate_run(
        check(
            {
                "out": str(folder / out),
                "data": {"path": str(folder / "log.parquet")},
                "split": {"last_days": 10},
                "evaluate": {"metrics": ["NDCG@10"], "k": 20, "n_seeds": 1, **evaluate},
                "models": [*([als] if with_alone else []), merged],
            }
        )
    )


@pytest.fixture
def n_fits(monkeypatch):
    """How often ImplicitALS was trained."""
    fits, real = [], ImplicitALS.fit

    def counted(self, train):
        fits.append(self)
        return real(self, train)

    monkeypatch.setattr(ImplicitALS, "fit", counted)
    return fits


def of(result, model):
    return result.leaderboard.filter(pl.col("model") == model).drop("model")


def test_the_source_is_read_and_the_lists_are_those_of_a_source_that_was_trained(folder, n_fits):
    shared = run(folder, "shared", with_alone=True)
    assert len(n_fits) == 1
    anew = run(folder, "anew", with_alone=False)
    assert len(n_fits) == 2
    assert of(shared, "both").equals(of(anew, "both"))


def test_other_parameters_and_runs_that_keep_nothing_train_anew(folder, n_fits):
    run(folder, "other", with_alone=True, epochs=2)
    assert len(n_fits) == 2
    run(folder, "none", with_alone=True, keep_models=False)
    assert len(n_fits) == 4
