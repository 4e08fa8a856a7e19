"""Recommendations over HTTP at 200 requests a second, against the same server answering a constant.

Online Retail, all of it: ItemKNN and EASE side by side, Unseen, MostPop as fallback, 20 items a feed, users
drawn uniformly; state in SQLite is read for every request. Loopback, one worker.
"""

import json
import shutil

import polars as pl

from benchmarks.harness import OURS, WORK, Row, in_turn, median, record

RATE = 200
SECONDS = 15
TARGET_P99_MS = 25


def prepare() -> str:
    """The served folder, made anew."""
    from vitrina import datasets
    from vitrina.candidates import Ease, ItemKNN, MostPop
    from vitrina.log import Histories
    from vitrina.pipeline import Pipeline, Source
    from vitrina.policies import Unseen
    from vitrina.serve import Service, State, wire

    shop = datasets.load("online-retail")
    events = shop.events if isinstance(shop.events, pl.DataFrame) else shop.events.collect()
    items = shop.items if isinstance(shop.items, pl.DataFrame) else shop.items.collect()
    train = Histories.from_frame(events.select("user_id", "item_id", "ts"))
    sources = [Source(generator=ItemKNN(), k=100), Source(generator=Ease(), k=100)]
    pipeline = Pipeline(sources=sources, policies=[Unseen()], fallback=MostPop()).fit(train, items)
    folder = WORK / "http"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    pipeline.save(folder / "model")
    train.save(folder / "histories")
    (folder / "users.json").write_text(json.dumps(train.query_ids.to_list()))
    service = Service(pipeline, train, State(folder / "constant.db"), clock="log")
    (folder / "constant.json").write_bytes(wire.encode(service.recommend(train.query_ids[0], k=20)))
    service.close()
    return str(folder)


def main() -> None:
    """Prepare, load both servers in turn, record."""
    folder = prepare()
    script = "benchmarks/scripts/http_load.py"
    commands = {kind: [OURS, script, kind, folder, str(RATE), str(SECONDS)] for kind in ("bare", "ours")}
    runs = in_turn(commands, repeats=3)
    figures = {
        kind: {name: median(runs[kind], name) for name in ("p50_ms", "p99_ms", "p999_ms", "max_ms", "cpu_ms")}
        for kind in runs
    }
    failed = sum(run.printed["failed"] for kind in runs for run in runs[kind])
    import fastapi
    import uvicorn

    record(
        Row(
            name="http",
            what=f"p99 of a feed of 20 at {RATE} requests/s, Online Retail, ItemKNN + EASE",
            ours=figures["ours"]["p99_ms"],
            peer=f"bare FastAPI {fastapi.__version__} on uvicorn {uvicorn.__version__}, a constant",
            theirs=figures["bare"]["p99_ms"],
            ratio=figures["ours"]["p99_ms"] / figures["bare"]["p99_ms"],
            unit="ms",
            target=f"p99 < {TARGET_P99_MS} ms",
            quality={"failed_requests": failed},
            extra=figures,
        )
    )


if __name__ == "__main__":
    main()
