"""Fixtures of the tests of serving: a small shop, a folder as training writes it, a real server."""

import contextlib
import json
import shutil
import threading
import time

import httpx
import numpy as np
import polars as pl
import pytest
import uvicorn

from vitrina.candidates import Ease, ItemKNN, MostPop
from vitrina.log import Histories
from vitrina.pipeline import Pipeline, Source
from vitrina.policies import Block, Unseen
from vitrina.serve import Settings, create_app
from vitrina.serve.app import uvicorn_options

HOSTILE = "<script>fetch('/v1/popular')</script>\"'><img src=x onerror=alert(1)> {{7*7}}"
DAY = 86_400_000_000
START = 1_600_000_000_000_000
BLOCKED = "item-7"


def shop_frame():
    """120 users in four tastes over 60 items; ids are strings."""
    rng = np.random.default_rng(7)
    n_rows = 3000
    taste = rng.integers(0, 4, 120)
    user = rng.integers(0, 120, n_rows)
    item = taste[user] * 15 + rng.zipf(1.5, n_rows) % 15
    frame = pl.DataFrame({"u": user, "i": item, "ts": START + rng.integers(0, 90, n_rows) * DAY})
    return frame.select(
        user_id=pl.format("user-{}", "u"),
        item_id=pl.format("item-{}", "i"),
        ts=pl.col("ts").cast(pl.Datetime("us", "UTC")),
        event=pl.lit("purchase"),
    )


@pytest.fixture(scope="session")
def train():
    return Histories.from_frame(shop_frame())


@pytest.fixture(scope="session")
def pipeline(train):
    ids = train.items.values
    titles = [HOSTILE if item_id == "item-3" else f"Teapot number {item_id[5:]}" for item_id in ids]
    metadata = pl.DataFrame({"item_id": ids, "title": titles, "shelf": ids.str.slice(5).cast(pl.Int64) // 15})
    sources = [
        Source(generator=ItemKNN(), name="knn", k=30),
        Source(generator=Ease(reg=50.0), name="ease", k=30),
    ]
    policies = [Unseen(), Block(item_ids=(BLOCKED,))]
    return Pipeline(sources=sources, policies=policies, fallback=MostPop()).fit(train, metadata)


@pytest.fixture(scope="session")
def trained(train, pipeline, tmp_path_factory):
    """What training leaves for a server; copied before it is served."""
    path = tmp_path_factory.mktemp("trained")
    pipeline.save(path / "model")
    train.save(path / "histories")
    (path / "card.json").write_text(json.dumps({"recipe": "two sources", "note": HOSTILE}))
    (path / "report.html").write_text("<!doctype html><title>r</title><h1>The report</h1><script>1</script>")
    return path


@pytest.fixture
def folder(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "served")


@contextlib.contextmanager
def serving(served, settings=None):
    """A real server over the application, in a thread, warm; yields an HTTP client."""
    app = create_app(served, settings or Settings(clock="log", extra_events=("impression",)))
    options = uvicorn_options() | {"loop": "asyncio", "http": "h11"}
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", access_log=False, **options))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    assert app.state.service.ready.wait(60)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            client.app = app
            yield client
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def client(folder):
    """A server of its own for one test."""
    with serving(folder) as opened:
        yield opened


@pytest.fixture(scope="module")
def shared(trained, tmp_path_factory):
    """One server for the tests of a module that leave it as it was, but for stored events."""
    with serving(shutil.copytree(trained, tmp_path_factory.mktemp("shared") / "served")) as opened:
        yield opened


def event(n, **more):
    return {"event_id": f"e{n}", "user_id": "user-5", "item_id": "item-1"} | more


def post(client, *events):
    answer = client.post("/v1/events", json={"events": list(events)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def feed(client, user_id, **params):
    answer = client.get(f"/v1/users/{user_id}/recommendations", params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()
