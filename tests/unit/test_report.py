"""The report: complete, self-contained, safe with any name, readable in a browser."""

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from vitrina.candidates import ItemKNN, MostPop, Random
from vitrina.errors import ArtifactError, InputError, SplitError
from vitrina.evaluate import Protocol, evaluate, write_report
from vitrina.evaluate.views import best_so_far, number, verdict
from vitrina.log import EventLog
from vitrina.pipeline import Pipeline, Source
from vitrina.split import last_days, leave_one_out

HOSTILE = "<script>alert('x')</script>"


TOO_WIDE = """
  [...document.querySelectorAll("main *")]
    .filter(e => !e.closest(".scroll"))
    .filter(e => e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map(e => e.tagName + "." + e.className)
"""


@pytest.fixture(scope="module")
def log():
    rng = np.random.default_rng(0)
    user = rng.integers(0, 80, 2500)
    frame = pl.DataFrame(
        {
            "user_id": user,
            "item_id": 15 * (user % 3) + np.minimum(rng.zipf(1.5, 2500), 15) - 1,
            "ts": rng.integers(0, 100 * 86_400, 2500),
        }
    )
    return EventLog.from_frame(frame, time_unit="s", epoch=datetime(2020, 1, 1, tzinfo=UTC))


def measured(split, repeats="count"):
    train = split.train.histories()
    pipelines = {
        name: Pipeline(sources=[Source(generator=model)], fallback=MostPop()).fit(train)
        for name, model in (("KNN", ItemKNN()), (HOSTILE, MostPop()), ("Random", Random()))
    }
    return evaluate(pipelines, split, train=train, protocol=Protocol(repeats=repeats, k=20, metrics=METRICS))


METRICS = ("NDCG@10", "Recall@20", "Coverage@10", "Gini@10", "ILD@10", "Vendi@10", "PopLift@10")


@pytest.fixture(scope="module")
def views(log):
    split = last_days(log, 20, gap_days=1)
    return {"Repeats counted": measured(split), "Only new items": measured(split, "new_only")}


@pytest.fixture(scope="module")
def page(views, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "folder" / "report.html"
    trials = pl.DataFrame(
        {
            "model": ["KNN"] * 4 + ["Random"],
            "trial": [0, 1, 2, 3, 0],
            "value": [0.1, 0.3, None, 0.2, 0.01],
            "params": ["{}"] * 5,
        }
    )
    write_report(
        views,
        path,
        title=f"Shop {HOSTILE}",
        data={"name": HOSTILE, "rows": 2500, "by day": {"first": "2020-01-01", "kinds": ["buy", "view"]}},
        windows={"Repeats counted": [views["Repeats counted"]]},
        trials=trials,
        cards=[{"model": "KNN", "licence": {"data": "CC BY 4.0", "share": 0.25}}],
        failures={"Ease": "out of memory"},
    )
    return path


def test_the_report_loads_nothing_from_elsewhere(page):
    text = page.read_text()
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)""", text)
    assert not re.search(r"@import|url\((?!#)", text)
    assert set(re.findall(r"https?://[^\s\"'<>)]+", text)) <= {"http://www.w3.org/2000/svg"}


def test_no_two_parts_of_the_drawings_share_an_id(page):
    ids = re.findall(r'\bid="([^"]+)"', page.read_text())
    assert len(ids) == len(set(ids))


def test_names_in_a_report_are_text_not_markup(page):
    text = page.read_text()
    assert HOSTILE not in text
    assert "&lt;script&gt;" in text
    assert text.count("<script") == 1  # ours, which switches between light and dark


def test_the_report_holds_every_part(page, views):
    text = page.read_text()
    for heading in (
        "Leaderboard",
        "Beyond accuracy",
        "Recall at k",
        "Coverage against accuracy",
        "History",
        "Popularity",
        "Exposure",
        "Model against model",
        "Is it personal?",
        "What was left out",
        "The split",
        "Backtest",
        "What was tried",
        "Models that could not be measured",
        "Model card: KNN",
    ):
        assert heading in text, heading
    first = views["Repeats counted"]
    assert first.split.digest in text
    for part in first.split.parts:
        assert f"{part.n_rows:,}" in text
    for mean in first.leaderboard()["mean"]:
        assert number(mean) in text
    for dropped in views["Only new items"].dropped:
        assert dropped.why in text
    n_charts = (
        2 * (3 + first.slices()["by"].n_unique()) - 1 + 1
    )  # one view has no slice by repeats; the trials
    assert text.count("<svg xmlns") == n_charts


def test_a_split_that_looks_ahead_is_marked(log, tmp_path):
    write_report({"one": measured(leave_one_out(log))}, tmp_path / "r.html")
    assert "Read with care" in (tmp_path / "r.html").read_text()


def test_views_of_different_splits_do_not_share_a_report(views, log, tmp_path):
    other = measured(last_days(log, 10))
    with pytest.raises(SplitError, match="different splits"):
        write_report({**views, "other": other}, tmp_path / "r.html")
    with pytest.raises(InputError, match="at least one"):
        write_report({}, tmp_path / "r.html")


def test_a_report_that_cannot_be_written_says_why(views, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="could not be written"):
        write_report({"one": views["Repeats counted"]}, tmp_path / "file" / "r.html")


def test_the_verdict_names_whom_the_leader_cannot_be_told_from(views):
    evaluation = views["Repeats counted"]
    said = verdict(evaluation, evaluation.leaderboard(), evaluation.comparisons())
    assert said.startswith("KNN leads with NDCG@10 of ")
    assert said.endswith("its lead over every other model is significant.")
    table = evaluation.comparisons().with_columns(significant=pl.col("model_b") != "Random")
    assert verdict(evaluation, evaluation.leaderboard(), table).endswith("cannot be told apart from Random.")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (float("nan"), "–"),
        (0.0, "0.0000"),
        (0.12345, "0.1235"),
        (3.14159, "3.14"),
        (2e-6, "2.0e-06"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_the_best_so_far_never_falls_and_failed_trials_are_left_out():
    trials = pl.DataFrame({"model": ["a"] * 4, "trial": [2, 0, 1, 3], "value": [0.2, 0.1, 0.3, None]})
    assert best_so_far(trials)["best"].to_list() == [0.1, 0.3, 0.3]


@pytest.mark.browser
def test_a_browser_shows_one_view_at_a_time_and_asks_for_nothing(page):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine; install Debian's chromium to run this test")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        asked, problems = [], []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.goto(Path(page).as_uri())
        sections = tab.locator(".tabs > section")
        assert [sections.nth(n).is_visible() for n in range(2)] == [True, False]
        tab.get_by_text("Only new items", exact=True).click()
        assert [sections.nth(n).is_visible() for n in range(2)] == [False, True]
        tab.get_by_role("button", name="Switch between light and dark").click()
        assert tab.locator("html").get_attribute("data-theme") == "dark"
        for width in (1280, 420):
            tab.set_viewport_size({"width": width, "height": 900})
            assert tab.evaluate(TOO_WIDE) == [], f"parts that are too wide at {width}"
        browser.close()
    assert asked == [Path(page).as_uri()]
    assert problems == []
