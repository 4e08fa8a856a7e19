"""The demo with a few of the shop's customers: its sequence model is in the leaderboards and in the feed."""

import pytest

pytest.importorskip("torch")

from vitrina.log import Histories
from vitrina.pipeline import Pipeline
from vitrina.recipes import demo, models
from vitrina.recipes.config import DataConfig
from vitrina.recipes.known_data import export

MERGED = "OwnHistory + SASRec + recent"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """The demo's run on 200 customers, with the models that make what it serves."""
    folder = tmp_path_factory.mktemp("demo")
    export("online-retail", folder, users=200)
    whole = models.online_retail()
    kept = [model for model in whole.models if model.label in ("MostPop", "SASRec", MERGED)]
    data = DataConfig(path=str(folder / "events.parquet"), items=str(folder / "items.parquet"))
    return whole.model_copy(update={"data": data, "models": kept, "out": str(folder / "run")})


def test_the_learner_of_order_is_a_sasrec_where_torch_is_installed(monkeypatch):
    assert models.learner_of_order().kind == "SASRec"
    labels = [model.label for model in models.online_retail().models]
    assert {"SASRec", MERGED} <= set(labels)
    monkeypatch.setattr(models, "find_spec", lambda package: None)
    assert models.learner_of_order().kind == "Ease"


def test_sasrec_is_in_the_demos_leaderboards_and_fills_places_of_its_feed(shop, monkeypatch):
    monkeypatch.setattr(demo, "online_retail", lambda: shop)
    shown = demo.demo_run(out=shop.out)
    assert shown.evaluated.failures == {}
    for view in shown.evaluated.views.values():
        assert {"SASRec", MERGED} <= set(view.models)
    assert shown.trained.model == MERGED
    pipeline, histories = Pipeline.load(shown.served / "model"), Histories.open(shown.served / "histories")
    feed = pipeline.recommend(histories.rows(range(50)), k=20).frame()
    assert "SASRec" in feed["source"].to_list()
