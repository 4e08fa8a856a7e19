"""Items that nobody had taken before the cut, from a configuration to a served folder."""

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vitrina.errors import ConfigError
from vitrina.recipes import check, evaluate_run, loads, train_run
from vitrina.serve import Papers, open_service
from vitrina.serve.console import Console
from vitrina.serve.telemetry import Telemetry

pytest.importorskip("torch")
START = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
TOWER = {
    "embedding_dim": 16,
    "max_len": 20,
    "n_epochs": 6,
    "lr": 0.01,
    "n_negatives": 32,
    "p_no_id": 0.5,
    "batch_size": 32,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Users take items of their own brand; each fourth item is first taken in the last ten days."""
    made = tmp_path_factory.mktemp("new")
    rng = np.random.default_rng(0)
    brand = np.arange(80) // 4 % 4
    is_new = np.arange(80) % 4 == 3
    rows = []
    for user in range(80):
        for new, days, n in ((False, rng.uniform(0, 50, 14), 14), (True, rng.uniform(51, 59, 3), 3)):
            of_taste = np.flatnonzero((brand == user % 4) & (is_new == new))
            rows += [
                (f"u{user}", f"i{item:02d}", START + dt.timedelta(days=float(day)))
                for item, day in zip(rng.choice(of_taste, n), np.sort(days), strict=True)
            ]
    pl.DataFrame(rows, schema=["user_id", "item_id", "ts"], orient="row").write_parquet(made / "log.parquet")
    pl.DataFrame(
        {
            "item_id": [f"i{i:02d}" for i in range(81)],
            "title": [f"thing number {i}" for i in range(81)],
            "brand": [f"brand{b}" for b in [*brand, 0]],
        }
    ).write_parquet(made / "items.parquet")
    pl.DataFrame(
        {"user_id": [f"u{u}" for u in range(80)], "town": [f"t{u % 3}" for u in range(80)]}
    ).write_csv(made / "users.csv")
    return made


def config_of(folder: Path, *, vocabulary: str, out: str, **data: str):
    return check(
        {
            "out": str(folder / out),
            "data": {
                "path": str(folder / "log.parquet"),
                "items": str(folder / "items.parquet"),
                "users": str(folder / "users.csv"),
                "vocabulary": vocabulary,
            }
            | data,
            "split": {"last_days": 9},
            "evaluate": {"metrics": ["Recall@10"], "k": 20, "repeats": ["new_only"], "n_bootstrap": 1000},
            "models": [
                {"kind": "TwoTower", "params": TOWER, "index": {"kind": "ExactIndex"}},
                {"kind": "MostPop"},
            ],
        }
    )


def recall_of_new(run, model: str) -> float:
    values = next(one for one in run.views["new_only"].runs if one.model == model).values
    column = next(name for name in values.columns if name.endswith("popularity:0") and "recall" in name)
    return float(values[column].mean())


@pytest.fixture(scope="module")
def wide(folder):
    return evaluate_run(config_of(folder, vocabulary="items", out="wide"))


def test_what_nobody_had_taken_is_recommended_only_where_the_metadata_are_the_vocabulary(folder, wide):
    narrow = evaluate_run(config_of(folder, vocabulary="log", out="narrow"))
    assert recall_of_new(narrow, "TwoTower") == 0
    assert recall_of_new(wide, "TwoTower") > 0.2
    assert recall_of_new(wide, "MostPop") == 0
    assert narrow.split.digest == wide.split.digest
    assert any("every item of the item metadata" in note for note in wide.data["notes"])
    assert not any("every item of the item metadata" in note for note in narrow.data["notes"])


def test_a_model_that_reads_tables_is_trained_again_when_they_change(folder, wide, tmp_path):
    assert not wide.reused
    again = evaluate_run(config_of(folder, vocabulary="items", out="wide"))
    assert set(again.reused) == {"TwoTower", "MostPop"}
    assert again.leaderboard.equals(wide.leaderboard)
    people = pl.read_csv(folder / "users.csv").with_columns(town=pl.lit("elsewhere"))
    people.write_csv(tmp_path / "moved.csv")
    other = config_of(folder, vocabulary="items", out="wide", users=str(tmp_path / "moved.csv"))
    assert set(evaluate_run(other).reused) == {"MostPop"}


def test_a_served_folder_shows_what_nobody_has_taken_and_names_what_it_does_not_know(folder):
    run = config_of(folder, vocabulary="items", out="served")
    trained = train_run(run, model="TwoTower")
    service = open_service(trained.folder)
    try:
        assert service.histories.item_counts()[service.items.get("i80")] == 0
        answer = service.session(["i80", "no such thing"], k=81)
        assert answer.unknown_items == ["no such thing"]
        assert "TwoTower" in {item.source for item in answer.items}
        answer = service.session(["i00", "i01"], k=81)
        assert "i80" in {item.item_id for item in answer.items if item.source == "TwoTower"}
        assert "not taken yet" in Console(service, Telemetry(), Papers()).item("i80")
    finally:
        service.state.close()


def test_tables_that_are_not_there_are_said_before_anything_is_trained(folder):
    with pytest.raises(ConfigError, match=r"data.users .*nobody.csv cannot be read"):
        evaluate_run(config_of(folder, vocabulary="log", out="x", users=str(folder / "nobody.csv")))
    with pytest.raises(ConfigError, match=r"data.users .* has no column 'user_id'; it has: item_id"):
        evaluate_run(config_of(folder, vocabulary="log", out="x", users=str(folder / "items.parquet")))
    run = config_of(folder, vocabulary="items", out="x")
    bare = run.model_copy(update={"data": run.data.model_copy(update={"items": None})})
    with pytest.raises(ConfigError, match=r'data.vocabulary = "items" needs the metadata of items'):
        evaluate_run(bare)
    with pytest.raises(ConfigError, match=r"data.vocabulary must be 'log' or 'items', got 'all'"):
        loads('[data]\npath = "log.parquet"\nvocabulary = "all"\n')
