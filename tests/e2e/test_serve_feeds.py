"""Over HTTP: what is served is what was measured, events change it, and nobody is left without a feed."""

# ruff: noqa: F401, F811  (fixtures are imported by name)

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from shopfront import (
    BLOCKED,
    DAY,
    client,
    event,
    feed,
    folder,
    pipeline,
    post,
    serving,
    shared,
    shop_frame,
    train,
    trained,
)

from vitrina.candidates import ItemKNN, MostPop
from vitrina.errors import ArtifactError, ConfigError
from vitrina.log import Histories
from vitrina.pipeline import Pipeline, Source
from vitrina.serve import Papers, Service, Settings, State, open_service


def test_the_feed_over_http_is_the_list_that_the_offline_pipeline_gives(client, pipeline, train):
    users = [f"user-{n}" for n in (0, 5, 17, 99)]
    offline = pipeline.recommend(train.of(pl.Series(users)), k=20).frame()
    for user_id in users:
        wanted = offline.filter(pl.col("query_id") == user_id)
        answer = feed(client, user_id, k=20)
        assert [item["item_id"] for item in answer["items"]] == wanted["item_id"].to_list()
        assert [item["source"] for item in answer["items"]] == wanted["source"].to_list()
        assert [item["rank"] for item in answer["items"]] == list(range(1, 21))
        np.testing.assert_array_equal(
            np.array([item["score"] for item in answer["items"]], np.float32), wanted["score"].to_numpy()
        )
        assert answer["known"] is True
        assert answer["fallback"] is False
        assert answer["user_id"] == user_id


def test_an_event_changes_the_next_feed_to_what_a_longer_history_gives(client, pipeline):
    before = feed(client, "user-5", k=10)
    wanted_item = before["items"][0]["item_id"]
    receipt = post(client, event(1, item_id=wanted_item), event(2, item_id="item-59"))
    assert receipt == {"accepted": 2, "duplicates": 0, "unknown_items": 0, "rejected": []}
    after = feed(client, "user-5", k=10)
    assert wanted_item not in {item["item_id"] for item in after["items"]}
    assert after["n_history"] == before["n_history"] + 2
    extra = pl.DataFrame(
        {"user_id": ["user-5"] * 2, "item_id": [wanted_item, "item-59"], "ts": [2 * 10**15, 2 * 10**15 + 1]}
    ).with_columns(pl.col("ts").cast(pl.Datetime("us", "UTC")), event=pl.lit("purchase"))
    longer = Histories.from_frame(pl.concat([shop_frame(), extra]), items=pipeline.catalogue.items)
    offline = pipeline.recommend(longer.of(pl.Series(["user-5"])), k=10).frame()
    assert [item["item_id"] for item in after["items"]] == offline["item_id"].to_list()


def test_a_user_who_came_after_training_is_served_from_his_events(client):
    stranger = feed(client, "new/one é", k=5)
    assert stranger["known"] is False
    assert stranger["fallback"] is True
    assert {item["source"] for item in stranger["items"]} == {"fallback:MostPop"}
    post(client, *[event(n, user_id="new/one é", item_id=f"item-{n}") for n in (16, 17, 18)])
    served = feed(client, "new/one é", k=5)
    session = client.post(
        "/v1/sessions/recommendations", json={"items": ["item-16", "item-17", "item-18"], "k": 5}
    )
    assert served["known"] is True
    assert served["fallback"] is False
    assert [i["item_id"] for i in served["items"]] == [i["item_id"] for i in session.json()["items"]]


def test_a_retry_changes_nothing_and_an_id_used_twice_is_told(client):
    assert post(client, event(1), event(2))["accepted"] == 2
    assert post(client, event(1), event(2), event(1)) == {
        "accepted": 3,
        "duplicates": 3,
        "unknown_items": 0,
        "rejected": [],
    }
    told = post(client, event(3), event(1, item_id="item-2"))
    assert told["accepted"] == 1
    assert told["rejected"][0]["index"] == 1
    assert "'e1' belongs to another event" in told["rejected"][0]["reason"]


def test_an_item_that_is_newer_than_the_model_is_kept_and_comes_alive_with_the_next_one(folder, pipeline):
    with serving(folder) as client:
        n_before = feed(client, "user-5")["n_history"]
        receipt = post(client, event(1, item_id="brand new"))
        assert receipt["unknown_items"] == receipt["accepted"] == 1
        answer = feed(client, "user-5")
        assert answer["unknown_items"] == ["brand new"]
        assert answer["n_history"] == n_before
    state = State(folder / "events.db")
    fresh = state.frame().select("user_id", "item_id", "ts", "event")
    retrained = Histories.from_frame(pl.concat([shop_frame(), fresh]))
    again = Pipeline(sources=[Source(generator=ItemKNN(), name="knn")]).fit(retrained)
    service = Service(again, retrained, state, clock="log")
    history = service.history("user-5")
    assert history.unknown_items == []
    assert history.n_trained == n_before + 1
    assert len(history.item_ix) == n_before + 1, "an event that training saw too counts once"
    service.close()


def test_what_led_to_events_is_told_to_models_and_nobody_says_it_of_newer_ones(tmp_path):
    frame = shop_frame().with_columns(organic=pl.int_range(pl.len()) % 2 == 0)
    train, heard = Histories.from_frame(frame), []

    class Listening(MostPop):
        def retrieve(self, queries, *, k, exclude=None, allowed=None):
            heard.append(queries.organic)
            return super().retrieve(queries, k=k, exclude=exclude, allowed=allowed)

    pipeline = Pipeline(sources=[Source(generator=Listening(), name="listening")]).fit(train)
    with serving(Service(pipeline, train, State(tmp_path / "events.db"), clock="log")) as client:
        heard.clear()
        feed(client, "user-5")
        post(client, event(1, item_id="item-59"))
        feed(client, "user-5")
    before, after = heard
    assert np.array_equal(before, train.of(pl.Series(["user-5"])).organic)
    assert set(before.tolist()) == {0, 1}
    assert after.tolist() == [*before.tolist(), 2]


def test_every_drop_is_explained_and_every_candidate_accounted_for(client):
    answer = feed(client, "user-5", k=4, explain=True)
    assert "dropped" not in feed(client, "user-5", k=4)
    counts = {stage["name"]: stage["n_candidates"] for stage in answer["stages"]}
    assert list(counts) == ["source:knn", "source:ease", "merge", "filter:Unseen", "filter:Block", "select"]
    assert counts["select"] == len(answer["items"]) == 4
    assert counts["merge"] == len(answer["items"]) + len(answer["dropped"])
    assert {one["reason"] for one in answer["dropped"]} == {"below the cut"}
    assert answer["failures"] == {}


def test_a_session_says_which_items_the_model_does_not_know(client):
    body = {"items": ["item-1", "what?", 12, "item-1"], "k": 3, "explain": True}
    answer = client.post("/v1/sessions/recommendations", json=body).json()
    assert answer["unknown_items"] == ["what?", 12]
    assert answer["n_history"] == 2
    assert len(answer["items"]) == 3
    assert "dropped" in answer


def test_similar_items_never_hold_the_item_nor_what_policies_rule_out(client):
    for item_id in ("item-1", "item-8", "item-30"):
        for source in ("knn", "ease"):
            answer = client.get(f"/v1/items/{item_id}/similar", params={"k": 59, "source": source}).json()
            shown = [item["item_id"] for item in answer["items"]]
            assert item_id not in shown
            assert BLOCKED not in shown
            assert len(set(shown)) == len(shown)
            assert [item["rank"] for item in answer["items"]] == list(range(1, len(shown) + 1))
    unknown = client.get("/v1/items/nope/similar")
    assert unknown.status_code == 404
    assert "'nope' is unknown" in unknown.json()["detail"]
    assert client.get("/v1/items/item-1/similar?source=x").status_code == 422


def test_popular_is_what_nobody_in_particular_sees(client, pipeline, train):
    answer = client.get("/v1/popular", params={"k": 8}).json()
    nobody, _ = Histories.from_lists(train.items, [[]])
    wanted = pipeline.recommend(nobody, k=8).frame()["item_id"].to_list()
    assert [item["item_id"] for item in answer["items"]] == wanted
    assert BLOCKED not in wanted


def test_a_k_above_the_catalogue_gives_what_there_is(client):
    answer = client.get("/v1/popular", params={"k": 500}).json()
    assert len(answer["items"]) == 59  # 60 items, one blocked
    assert client.get("/v1/popular", params={"k": 501}).status_code == 422


def test_a_source_that_fails_is_told_counted_and_replaced(train, tmp_path):
    class Broken(MostPop):
        def retrieve(self, queries, *, k, exclude=None, allowed=None):
            raise ValueError("no connection")

    sources = [Source(generator=Broken(), name="broken"), Source(generator=ItemKNN(), name="knn")]
    pipeline = Pipeline(sources=sources, fallback=MostPop()).fit(train)
    service = Service(pipeline, train, State(tmp_path / "events.db"), clock="log")
    with serving(service) as client:
        answer = feed(client, "user-5", k=5)
        assert answer["failures"] == {"broken": "failed: ValueError: no connection"}
        assert {item["source"] for item in answer["items"]} == {"knn"}
        text = client.get("/metrics").text
        assert 'vitrina_source_failures_total{source="broken"} 1.0' in text


def test_many_threads_post_and_read_and_every_answer_is_whole(client):
    def work(thread):
        for n in range(8):
            receipt = post(client, event(f"{thread}-{n}", user_id=f"threaded-{thread}", item_id=f"item-{n}"))
            assert receipt["accepted"] == 1
            answer = feed(client, f"threaded-{thread}", k=5)
            assert answer["n_history"] == n + 1, "an acknowledged event is in the next feed"
            assert len({item["item_id"] for item in answer["items"]}) == 5

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert 'vitrina_events_total{outcome="stored"} 64.0' in client.get("/metrics").text


def test_stored_events_survive_a_restart_of_the_server(folder):
    with serving(folder) as client:
        post(client, event(1, item_id="item-59"))
        before = feed(client, "user-5")
    with serving(folder) as client:
        after = feed(client, "user-5")
        assert post(client, event(1, item_id="item-59"))["duplicates"] == 1
    assert [i["item_id"] for i in after["items"]] == [i["item_id"] for i in before["items"]]
    assert after["model"] == before["model"] != "unsaved"


def test_the_log_clock_starts_at_the_end_of_the_log_and_never_runs_back(folder):
    service = open_service(folder, Settings(clock="log"))
    first = service.now()
    assert 0 <= first - service.pipeline.trained_until < 60_000_000
    later = service.pipeline.trained_until + 100_000_000
    assert service.ingest([raw(event(1, ts=later))]).accepted == 1
    service.close()
    service = open_service(folder, Settings(clock="log"))
    assert service.now() >= later
    service.close()
    service = open_service(folder, Settings(clock="wall"))
    assert abs(service.now() - time.time_ns() // 1000) < DAY
    service.close()


def raw(content):
    return msgspec.Raw(msgspec.json.encode(content))


def test_a_feed_is_answered_without_the_state_and_says_so(folder):
    with serving(folder) as client:
        state = client.app.state.service.state
        state.tail = lambda user_id: State.tail(Unreadable(), user_id)
        answer = feed(client, "user-5", k=5)
        assert len(answer["items"]) == 5
        assert "not available" in answer["failures"]["state"]


class Unreadable:
    """A state whose disk is gone."""

    path = Path("events.db")

    def _reader(self):
        return sqlite3.connect("file:gone.db?mode=ro", uri=True)


@pytest.mark.parametrize(
    "missing", ["model", "histories", "model/pipeline/manifest.json", "model/source-knn"]
)
def test_a_folder_that_lacks_a_part_is_refused_in_one_sentence(folder, missing):
    (folder / missing).rename(folder / "elsewhere")
    with pytest.raises(ArtifactError) as told:
        open_service(folder)
    assert "\n" not in str(told.value)
    assert not (folder / "events.db").exists()


def test_model_and_histories_of_different_logs_are_refused(pipeline, train, tmp_path):
    other = Histories.from_frame(shop_frame().filter(pl.col("item_id") != "item-9"))
    state = State(tmp_path / "events.db")
    with pytest.raises(ArtifactError, match="different items"):
        Service(pipeline, other, state)
    with pytest.raises(ConfigError, match="not fitted"):
        Service(Pipeline(sources=[Source(generator=ItemKNN())]), train, state)
    state.close()


def test_a_broken_card_is_told_with_its_name(folder):
    (folder / "card.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"card\.json is not JSON"):
        Papers.of(folder)
