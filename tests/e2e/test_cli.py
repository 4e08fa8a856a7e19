"""The command line as a person or a script uses it: processes, exit codes, stdout and stderr."""

import contextlib
import datetime as dt
import io
import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest
import typer.main

from vitrina.cli import main, options
from vitrina.cli.app import app
from vitrina.pipeline import Pipeline


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


def process(*arguments: str, cwd: Path, **env: str) -> Done:
    """A process of its own."""
    argv = [sys.executable, "-m", "vitrina", *arguments]
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True, env=os.environ | env)
    return Done(done.returncode, done.stdout, done.stderr)


def vitrina(*arguments: str, cwd: Path) -> Done:
    """The same in this process, which has compiled and imported everything already."""
    options._debug = False
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        old, sys.argv = sys.argv, ["vitrina", *arguments]
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.argv = old
    return Done(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    """A folder with a small log, and a configuration for it."""
    folder = tmp_path_factory.mktemp("shop")
    rng = np.random.default_rng(3)
    n, start = 5_000, dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    user = rng.integers(0, 120, n)
    item = (user % 4) * 50 + rng.zipf(1.6, n) % 50  # four tastes of fifty items each
    item = np.where(rng.random(n) < 0.2, rng.integers(0, 200, n), item)
    ts = [start + dt.timedelta(seconds=float(s)) for s in rng.uniform(0, 60 * 86_400, n)]
    pl.DataFrame({"customer": user, "sku": item, "ts": ts}).write_parquet(folder / "log.parquet")
    (folder / "shop.toml").write_text(
        """
[data]
path = "log.parquet"
columns = { user_id = "customer", item_id = "sku" }

[split]
last_days = 10

[evaluate]
metrics = ["NDCG@10", "Recall@10", "Coverage@10"]
k = 20
n_bootstrap = 1000

[[models]]
kind = "MostPop"

[[models]]
kind = "ItemKNN"

[[models]]
kind = "Random"

[tune]
n_trials = 3
models = ["ItemKNN"]
"""
    )
    return folder


@pytest.fixture(scope="module")
def evaluated(shop) -> dict[str, object]:
    done = process("evaluate", "shop.toml", "--json", cwd=shop)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


FLAGS = {
    "vitrina": {"--version"},
    "vitrina inspect": {
        "path", "--column", "--time-unit", "--time-zone", "--quarantine", "--json", "--debug"
    },
    "vitrina evaluate": {"config", "--model", "--out", "--windows", "--fresh", "--other-schedule"}
    | {"--tracker", "--json", "--quiet", "--debug"},
    "vitrina train": {"config", "--model", "--out", "--other-schedule", "--tracker", "--json", "--quiet"}
    | {"--debug"},
    "vitrina tune": {
        "config", "--model", "--n-trials", "--minutes", "--out", "--fresh", "--json", "--quiet", "--debug"
    },
    "vitrina plan": {"kind", "--items", "--users", "--events", "--set", "--teraflops", "--gigabytes-per-s"}
    | {"--json", "--debug"},
    "vitrina serve": {"folder", "--host", "--port", "--clock", "--debug"},
    "vitrina report": {"run", "--out", "--json", "--debug"},
    "vitrina demo": {"--out", "--serve", "--port", "--fresh", "--json", "--quiet", "--debug"},
    "vitrina data": set(),
    "vitrina data list": {"--json", "--debug"},
    "vitrina data info": {"name", "--folder", "--json", "--debug"},
    "vitrina data export": {"name", "out", "--folder", "--users", "--json", "--debug"},
    "vitrina data synth": {
        "out", "--events", "--users", "--items", "--days", "--seed", "--set", "--like-yambda", "--schema",
        "--json", "--quiet", "--debug",
    },
}  # fmt: skip


def commands(command, name="vitrina"):
    found = {name: command}
    for child, inner in getattr(command, "commands", {}).items():
        found |= commands(inner, f"{name} {child}")
    return found


def test_flags_are_frozen_a_new_one_needs_a_reason_and_a_line_here():
    found = {}
    for name, command in commands(typer.main.get_command(app)).items():
        given = [p.opts[0] if p.param_type_name == "option" else p.name for p in command.params]
        found[name] = set(given) - {"--help"}
    assert found == FLAGS


@pytest.mark.parametrize("name", [name for name in FLAGS if name not in ("vitrina", "vitrina data")])
def test_every_command_has_a_first_sentence_and_examples_of_itself(name):
    command = commands(typer.main.get_command(app))[name]
    first, _, rest = (command.help or "").partition("\n")
    assert first.endswith((".", "?"))
    assert rest.count(name) >= 2, f"{name} --help needs two examples"


def test_every_example_of_a_help_page_is_a_command_line_that_is_accepted():
    found = commands(typer.main.get_command(app))
    n_examples = 0
    for command in found.values():
        paragraphs = [" ".join(part.split()) for part in (command.help or "").split("\n\n")]
        for line in (part for part in paragraphs if part.startswith("vitrina ")):
            words = shlex.split(line.split(" > ")[0])
            name = max((n for n in found if words[: len(n.split())] == n.split()), key=len)
            found[name].make_context(name, words[len(name.split()) :])
            n_examples += 1
    assert n_examples >= 2 * (len(FLAGS) - 2)


def test_every_result_is_json_alone_on_stdout_where_asked(shop, evaluated):
    for arguments in (
        ("inspect", "shop.toml"),
        ("evaluate", "shop.toml"),
        ("train", "shop.toml", "--model", "MostPop", "--out", "json_served"),
        ("tune", "shop.toml", "--n-trials", "1", "--out", "json_tuned"),
        ("report", "runs", "--out", "json.html"),
        ("data", "list"),
        ("data", "info", "online-retail"),
        ("data", "export", "movietweetings-100k", "json_films", "--users", "20"),
        ("data", "synth", "json_world", "--events", "2000", "--users", "20", "--items", "50"),
    ):
        done = vitrina(*arguments, "--json", cwd=shop)
        assert done.returncode == 0, (arguments, done.stderr)
        json.loads(done.stdout)


def test_evaluate_answers_in_json_alone_and_leaves_a_folder(shop, evaluated):
    assert evaluated["winner"] in ("ItemKNN", "MostPop")
    assert set(evaluated["views"]) == {"count", "new_only"}
    board = evaluated["views"]["count"]["leaderboard"]
    assert {(row["model"], row["metric"]) for row in board} == {
        (model, metric)
        for model in ("MostPop", "ItemKNN", "Random")
        for metric in ("ndcg", "recall", "coverage")
    }
    row = next(r for r in board if r["model"] == "ItemKNN" and r["metric"] == "ndcg")
    assert row["ci_low"] < row["mean"] < row["ci_high"]
    runs = shop / "runs"
    lists = pl.read_parquet(runs / "lists" / "new_only" / "ItemKNN.parquet")
    assert lists.columns == ["query_id", "item_id", "source", "score", "rank"]
    assert lists["rank"].max() <= 20
    assert "<svg" in (runs / "report.html").read_text()
    assert pl.read_parquet(runs / "leaderboard.parquet").height == 18
    values = list((runs / "evaluation" / "count").glob("values-*.parquet"))
    assert len(values) == 3


def test_evaluate_again_trains_nothing_and_gives_the_same_numbers(shop, evaluated):
    again = json.loads(vitrina("evaluate", "shop.toml", "--json", "-q", cwd=shop).stdout)
    assert set(again["reused"]) == {"MostPop", "ItemKNN", "Random"}
    assert again["views"]["count"]["leaderboard"] == evaluated["views"]["count"]["leaderboard"]
    fresh = json.loads(vitrina("evaluate", "shop.toml", "--json", "-q", "--fresh", cwd=shop).stdout)
    assert fresh["reused"] == []
    assert fresh["views"]["new_only"]["leaderboard"] == evaluated["views"]["new_only"]["leaderboard"]


def test_evaluate_shows_a_table_on_stdout_and_its_progress_on_stderr(shop):
    done = vitrina("evaluate", "shop.toml", cwd=shop)
    assert "NDCG@10" in done.stdout
    assert "winner:" in done.stdout
    assert "rows in" in done.stderr
    assert "rows in" not in done.stdout


def test_report_is_written_again_from_the_folder(shop, evaluated):
    done = vitrina("report", "runs", "--out", "again.html", cwd=shop)
    assert done.returncode == 0, done.stderr
    assert "<svg" in (shop / "again.html").read_text()
    assert vitrina("report", ".", cwd=shop).returncode == 2


def test_a_backtest_measures_the_windows_before_and_the_last_as_without_it(shop, evaluated):
    done = vitrina("evaluate", "shop.toml", "--windows", "3", "--out", "three", "--json", "-q", cwd=shop)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["views"]["count"]["leaderboard"] == evaluated["views"]["count"]["leaderboard"]
    table = pl.read_parquet(shop / "three" / "backtest.parquet")
    assert set(table["view"]) == {"count", "new_only"}
    ndcg = table.filter((pl.col("view") == "count") & (pl.col("metric") == "ndcg"))
    assert (set(ndcg["model"]), ndcg["n_first"].sum()) == ({"MostPop", "ItemKNN", "Random"}, 3)
    board = {
        row["model"]: row["mean"] for row in found["views"]["count"]["leaderboard"] if row["metric"] == "ndcg"
    }
    for row in ndcg.to_dicts():
        assert row["values"][-1] == board[row["model"]]
        assert row["mean"] == pytest.approx(sum(row["values"]) / 3)
    log, cuts = pl.read_parquet(shop / "log.parquet"), found["backtest"]["views"]["count"]["windows"]
    assert len(cuts) == 3
    # the first window again, by hand: a log that ends where it ends, cut where it begins
    until, since = (dt.datetime.fromisoformat(cuts[at]) for at in (1, 0))
    (shop / "by_hand").mkdir()
    log.filter(pl.col("ts") < until).write_parquet(shop / "by_hand" / "log.parquet")
    text = (shop / "shop.toml").read_text().replace("last_days = 10", f'cut = "{since.isoformat()}"')
    (shop / "by_hand" / "shop.toml").write_text(text)
    alone = json.loads(vitrina("evaluate", "shop.toml", "--json", "-q", cwd=shop / "by_hand").stdout)
    for row in alone["views"]["count"]["leaderboard"]:
        if row["metric"] == "ndcg":
            assert row["mean"] == ndcg.filter(pl.col("model") == row["model"])["values"][0][0]
    page = (shop / "three" / "report.html").read_text()
    assert page.count("<h2>Backtest: ") == 2
    assert vitrina("report", "three", "--out", "again.html", cwd=shop).returncode == 0
    again = (shop / "again.html").read_text()
    begin, end = "<h2>Backtest: ", "<h2>The split"
    assert again[again.index(begin) : again.index(end)] == page[page.index(begin) : page.index(end)]
    shown = vitrina("evaluate", "shop.toml", "--windows", "3", "--out", "three", "-q", cwd=shop)
    assert "NDCG@10 in 3 windows" in shown.stdout
    assert "times first" in shown.stdout


def test_train_writes_a_folder_that_answers_as_the_pipeline_in_memory_does(shop, evaluated):
    done = vitrina("train", "shop.toml", "--model", "ItemKNN", "--json", cwd=shop)
    assert done.returncode == 0, done.stderr
    served = shop / "runs" / "served"
    card = json.loads((served / "card.json").read_text())
    assert card == json.loads(done.stdout)["card"]
    assert card["evaluation"]["split"]["digest"] == evaluated["split"]["digest"]
    assert card["data"]["digest"] == evaluated["data"]["digest"]
    assert {"model", "histories", "card.md", "report.html", "config.toml"} <= {
        f.name for f in served.iterdir()
    }
    from vitrina.log import Histories

    histories = Histories.open(served / "histories")
    assert histories.n_rows == pl.read_parquet(shop / "log.parquet").height
    loaded = Pipeline.load(served / "model")
    feed = loaded.recommend(histories.rows([0, 1, 2]), k=5).frame()
    assert feed.height == 15
    assert loaded.trained_until == int(histories.ts.max())


def test_train_keeps_the_events_that_a_server_collected(shop, evaluated):
    vitrina("train", "shop.toml", "--model", "MostPop", cwd=shop)
    (shop / "runs" / "served" / "events.db").write_bytes(b"events of today")
    assert vitrina("train", "shop.toml", "--model", "ItemKNN", cwd=shop).returncode == 0
    assert (shop / "runs" / "served" / "events.db").read_bytes() == b"events of today"
    (shop / "runs" / "served" / "events.db").unlink()


def test_tune_goes_on_where_it_stopped_and_never_sees_what_is_held_out(shop, evaluated):
    first = json.loads(vitrina("tune", "shop.toml", "--n-trials", "2", "--json", "-q", cwd=shop).stdout)
    assert first["n_trials"] == 2
    second = json.loads(vitrina("tune", "shop.toml", "--json", "-q", cwd=shop).stdout)
    assert second["n_trials"] == 3
    best = second["best"]["ItemKNN"]
    assert best["value"] >= best["start"]
    trials = pl.read_parquet(shop / "runs" / "tune" / "trials.parquet")
    assert trials["value"].max() == best["value"]
    test_since = next(p["since"] for p in evaluated["split"]["parts"] if p["part"] == "test")
    assert second["window"].split(" to ")[1].startswith(test_since)
    done = vitrina("evaluate", "runs/tune/tuned.toml", "--out", "tuned", "--json", "-q", cwd=shop)
    assert done.returncode == 0, done.stderr
    assert (
        json.loads(done.stdout)["models"]["ItemKNN"]["sources"][0]["params"] | best["params"]
        == (json.loads(done.stdout)["models"]["ItemKNN"]["sources"][0]["params"])
    )
    assert "What was tried" in (shop / "tuned" / "report.html").read_text()


def test_what_is_held_out_cannot_change_a_search(shop, tmp_path):
    """The same log with other events after the cut: the search must find the same numbers."""
    log = pl.read_parquet(shop / "log.parquet").sort("ts")
    cut = log["ts"].max() - pl.duration(days=10)
    other = log.with_columns(sku=pl.when(pl.col("ts") >= cut).then(pl.lit(log["sku"][0])).otherwise("sku"))
    other.unique(["customer", "sku", "ts"]).write_parquet(tmp_path / "log.parquet")
    (tmp_path / "shop.toml").write_text(
        (shop / "shop.toml").read_text().replace('[[models]]\nkind = "Random"', "")
    )
    (shop / "plain.toml").write_text((tmp_path / "shop.toml").read_text())
    ours = json.loads(vitrina("tune", "plain.toml", "--out", "a", "--json", "-q", cwd=shop).stdout)
    theirs = json.loads(vitrina("tune", "shop.toml", "--out", "b", "--json", "-q", cwd=tmp_path).stdout)
    assert ours["best"] == theirs["best"]


def test_inspect_says_what_is_in_a_log_and_where_to_cut(shop):
    said = vitrina(
        "inspect",
        "log.parquet",
        "--column",
        "user_id=customer",
        "--column",
        "item_id=sku",
        "--json",
        cwd=shop,
    )
    found = json.loads(said.stdout)
    log = pl.read_parquet(shop / "log.parquet")
    assert found["rows"] == log.height
    assert found["users"] == log["customer"].n_unique()
    assert found["items"] == log["sku"].n_unique()
    pairs = log.select("customer", "sku").n_unique()
    assert found["frac_repeats"] == pytest.approx(1 - pairs / log.height)
    assert any(split["sensible"] for split in found["splits"])
    text = vitrina("inspect", "shop.toml", cwd=shop).stdout
    assert f"{log.height:,}" in text


BAD = [
    (("inspect", "nothing.parquet"), 2, "nothing.parquet"),
    (("inspect", "log.parquet"), 2, "has no column 'user_id'"),
    (
        ("inspect", "log.parquet", "--column", "person=customer"),
        2,
        "--column 'person=customer' must be NAME=COLUMN",
    ),
    (("inspect", "shop.toml"), 0, ""),
    (("evaluate", "nothing.toml"), 2, "nothing.toml does not exist"),
    (("evaluate", "log.parquet"), 2, "cannot be read"),
    (("evaluate", "typo.toml"), 2, "unknown key data.pth (did you mean 'path'?)"),
    (("evaluate", "late.toml"), 2, "is outside the log, which runs from"),
    (("train", "shop.toml", "--model", "ItemKnn"), 2, "no model 'ItemKnn' in the configuration"),
    (("tune", "shop.toml", "--model", "MostPop"), 2, "MostPop has nothing to search"),
    (("serve", "."), 3, "lacks model and histories"),
    (("report", "nowhere"), 2, "holds no finished evaluation"),
    (("data", "info", "online-retial"), 2, "no dataset 'online-retial'"),
    (("data", "info", "movielens"), 2, "give the folder"),
    (("data", "synth", "x", "--set", "p_repeat"), 2, "must be NAME=VALUE"),
    (("data", "synth", "x", "--set", "p_repeet=1"), 2, "no parameter 'p_repeet'"),
    (("fly",), 2, "No such command 'fly'"),
    (("evaluate",), 2, "Missing argument"),
]


@pytest.mark.parametrize(("arguments", "code", "sentence"), BAD, ids=[" ".join(b[0]) for b in BAD])
def test_a_mistake_has_its_exit_code_and_one_sentence_without_a_traceback(shop, arguments, code, sentence):
    (shop / "typo.toml").write_text('[data]\npth = "log.parquet"\n')
    late = (shop / "shop.toml").read_text().replace("last_days = 10", 'cut = "2031-01-01T00:00Z"')
    (shop / "late.toml").write_text(late)
    done = vitrina(*arguments, cwd=shop)
    assert done.returncode == code, done.stderr
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_debug_shows_where_an_error_came_from(shop):
    done = process("inspect", "nothing.parquet", "--debug", cwd=shop)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_missing_extra_is_one_sentence_with_what_to_install(shop, tmp_path):
    for module in ("optuna", "fastapi"):
        (tmp_path / module).mkdir()
        (tmp_path / module / "__init__.py").write_text(
            f"raise ModuleNotFoundError('absent', name={module!r})"
        )
    done = process("tune", "shop.toml", cwd=shop, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip install 'vitrina[tune]'" in done.stderr
    done = process("serve", "runs/served", cwd=shop, PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip install 'vitrina[serve]'" in done.stderr


def test_a_port_that_is_taken_is_refused_if_asked_for_and_passed_over_if_not(shop):
    from vitrina.errors import ConfigError
    from vitrina.recipes.serving import free_port, serve_folder

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        assert free_port("127.0.0.1", taken) > taken
        with pytest.raises(ConfigError, match=f"port {taken} of 127.0.0.1 is taken"):
            serve_folder(shop / "x", host="127.0.0.1", port=taken, clock="wall", say=lambda text: None)


def test_a_model_that_fails_is_named_and_the_others_are_measured(shop):
    text = (shop / "shop.toml").read_text() + '\n[[models]]\nkind = "Ease"\nparams = { memory_gb = 1e-9 }\n'
    (shop / "large.toml").write_text(text)
    done = vitrina("evaluate", "large.toml", "--out", "large", "--json", cwd=shop)
    answer = json.loads(done.stdout)
    assert "memory_gb" in answer["failures"]["Ease"]
    assert answer["views"]["count"]["models"]
    assert done.returncode == 1
    assert "left out: Ease" in done.stderr


def test_data_export_gives_a_log_like_ones_own(tmp_path):
    done = vitrina("data", "export", "movietweetings-100k", "films", "--users", "50", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    events = pl.read_parquet(tmp_path / "films" / "events.parquet")
    assert events["user_id"].n_unique() == 50
    assert json.loads(done.stdout)["rows"] == events.height
    assert "title" in pl.read_parquet(tmp_path / "films" / "items.parquet").columns
    again = vitrina("data", "export", "movietweetings-100k", "more", "--users", "50", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["rows"] == events.height


def test_synth_writes_a_log_that_can_be_inspected(tmp_path):
    done = vitrina(
        "data", "synth", "w", "--events", "3000", "--users", "50", "--items", "100", "--json", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"]["events.parquet"] >= 3000
    assert json.loads(vitrina("inspect", "w/events.parquet", "--json", cwd=tmp_path).stdout)["users"] == 50


def test_a_view_in_which_nobody_is_left_is_named_and_the_other_is_measured(tmp_path):
    day = dt.datetime(2025, 1, 1, tzinfo=dt.UTC)
    ts = [day + dt.timedelta(days=n) for n in range(20)]
    pl.DataFrame({"user_id": [1] * 20, "item_id": [f"i{n % 7}" for n in range(20)], "ts": ts}).write_parquet(
        tmp_path / "one.parquet"
    )
    (tmp_path / "one.toml").write_text(
        '[data]\npath = "one.parquet"\n[split]\nlast_days = 5\n[[models]]\nkind = "MostPop"\n'
    )
    done = vitrina("evaluate", "one.toml", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert list(answer["views"]) == ["count"]
    assert "no test user is left" in answer["skipped"]["new_only"]


def test_an_empty_log_and_a_file_that_is_not_parquet_are_one_sentence(tmp_path):
    pl.DataFrame(
        schema={"user_id": pl.Int64, "item_id": pl.Int64, "ts": pl.Datetime("us", "UTC")}
    ).write_parquet(tmp_path / "empty.parquet")
    (tmp_path / "words.parquet").write_text("these are words")
    for name, sentence in (("empty", "has no events"), ("words", "is not a Parquet file")):
        (tmp_path / f"{name}.toml").write_text(f'[data]\npath = "{name}.parquet"\n')
        for arguments in (("inspect", f"{name}.parquet"), ("evaluate", f"{name}.toml")):
            done = vitrina(*arguments, cwd=tmp_path)
            assert done.returncode == 2
            assert sentence in done.stderr
            assert len(done.stderr.strip().splitlines()[-1]) < 600


def test_quarantine_sets_bad_rows_aside_and_every_row_is_accounted_for(tmp_path):
    lines = ["user_id,item_id,ts", "1,a,2025-01-01T00:00:00Z", ",b,2025-01-02T00:00:00Z", "2,c,yesterday"]
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    assert vitrina("inspect", "log.csv", cwd=tmp_path).returncode == 2
    done = vitrina("inspect", "log.csv", "--quarantine", "aside", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check = json.loads(done.stdout)["check"]
    assert (check["rows_in"], check["rows_kept"], sum(check["set_aside"].values())) == (3, 1, 2)
    assert pl.read_parquet(tmp_path / "aside" / "quarantine.parquet").height == 2
