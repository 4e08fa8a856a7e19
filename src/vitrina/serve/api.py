"""The routes under /v1, health and metrics. The two hot paths decode and encode with msgspec alone."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from starlette.exceptions import HTTPException

from vitrina.errors import InputError, StateError
from vitrina.serve import wire
from vitrina.serve.service import Service
from vitrina.serve.telemetry import Telemetry

T = TypeVar("T")
JSON = "application/json"


class Gate:
    """Runs blocking work in threads, and turns requests away while too many wait."""

    def __init__(self, n_threads: int, max_waiting: int) -> None:
        self._threads = ThreadPoolExecutor(n_threads, thread_name_prefix="request")
        self._max_waiting, self._n_waiting = max_waiting, 0

    async def run(self, work: Callable[..., T], *args: Any, **named: Any) -> T:
        """The result of `work`, computed in a thread.

        Raises:
            HTTPException: 503, too many requests wait already.
        """
        if self._n_waiting >= self._max_waiting:
            sentence = f"{self._n_waiting} requests are waiting already; try again in a second"
            raise HTTPException(503, sentence, headers={"Retry-After": "1"})
        self._n_waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, lambda: work(*args, **named)
            )
        finally:
            self._n_waiting -= 1

    def close(self) -> None:
        """Wait for what runs."""
        self._threads.shutdown()


def answers(*statuses: int, of: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: 200 with a struct, the others as problems."""
    told: dict[int | str, dict[str, Any]] = {200: _content(JSON, of) | {"description": "Done."}}
    for status in statuses:
        told[status] = _content("application/problem+json", "Problem") | {"description": "See `detail`."}
    return told


def body(of: str) -> dict[str, Any]:
    """`openapi_extra` of a route whose body a msgspec struct describes."""
    return {"requestBody": {"required": True, **_content(JSON, of)}}


def feeds(service: Service, gate: Gate, telemetry: Telemetry) -> APIRouter:
    """Routes that answer with a feed."""
    settings = service.settings
    routes = APIRouter(tags=["feeds"])
    K = Annotated[
        int, Query(ge=1, le=settings.max_k, description="Items wanted; shorter lists are possible.")
    ]
    Id = Annotated[str, Path(min_length=1, max_length=settings.max_id_length)]

    @routes.get(
        "/v1/users/{user_id:path}/recommendations",
        summary="The feed of a user",
        responses=answers(400, 422, 503, of="Answer"),
    )
    async def recommendations(user_id: Id, k: K = settings.default_k, explain: bool = False) -> Response:
        """An unknown user gets the fallback's feed, `known` false; `explain` adds what was dropped."""
        answer = await gate.run(service.recommend, user_id, k=k, explain=explain)
        telemetry.feed(answer)
        return _json(answer)

    @routes.post(
        "/v1/sessions/recommendations",
        summary="The feed of an anonymous visitor",
        responses=answers(400, 413, 415, 422, 503, of="Answer"),
        openapi_extra=body("Session"),
    )
    async def session(request: Request) -> Response:
        """From what was done in this session, oldest first; nothing is stored."""
        asked = decoded(wire.decode_session, await _body(request))
        check_session(asked, service)
        k = asked.k or settings.default_k
        answer = await gate.run(service.session, asked.items, k=k, explain=asked.explain)
        telemetry.feed(answer)
        return _json(answer)

    return routes


def shelves(service: Service, gate: Gate, telemetry: Telemetry) -> APIRouter:
    """Routes that answer for an item, or for nobody."""
    settings = service.settings
    routes = APIRouter(tags=["feeds"])
    K = Annotated[
        int, Query(ge=1, le=settings.max_k, description="Items wanted; shorter lists are possible.")
    ]
    Id = Annotated[str, Path(min_length=1, max_length=settings.max_id_length)]

    @routes.get(
        "/v1/items/{item_id:path}/similar",
        summary="Items similar to one",
        responses=answers(400, 404, 422, 503, of="Neighbours"),
    )
    async def similar(
        item_id: Id,
        k: K = settings.default_k,
        source: Annotated[str | None, Query(max_length=100, description="Which source compares.")] = None,
    ) -> Response:
        """By the first source that compares items, or by the named one. Never the item itself."""
        return _json(await gate.run(service.similar, item_id, k=k, source=source))

    @routes.get(
        "/v1/popular",
        summary="What somebody without a history sees",
        responses=answers(400, 422, 503, of="Answer"),
    )
    async def popular(k: K = settings.default_k, explain: bool = False) -> Response:
        """The pipeline's answer to an empty history: its fallback, under the same policies."""
        answer = await gate.run(service.popular, k=k, explain=explain)
        telemetry.feed(answer)
        return _json(answer)

    return routes


def intake(service: Service, gate: Gate, telemetry: Telemetry) -> APIRouter:
    """The route that takes events."""
    routes = APIRouter(tags=["events"])

    @routes.post(
        "/v1/events",
        summary="Store a batch of events",
        responses=answers(400, 413, 415, 422, 503, of="Receipt"),
        openapi_extra=body("EventBatch"),
    )
    async def events(request: Request) -> Response:
        """Each is judged by itself. Accepted ones are stored before the answer; repeats are harmless."""
        batch = decoded(wire.decode_batch, await _body(request))
        receipt = await gate.run(service.ingest, batch.events)
        telemetry.receipt(receipt)
        return _json(receipt)

    return routes


def health(service: Service, gate: Gate, telemetry: Telemetry) -> APIRouter:
    """What an orchestrator and a monitor ask."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health/live", summary="The process runs", responses=answers(of="Health"))
    async def live() -> Response:
        """Always 200 while the process can answer at all."""
        return _json(wire.Health("live"))

    @routes.get(
        "/health/ready",
        summary="The model is warm and the state can be read",
        responses=answers(503, of="Health"),
    )
    async def ready() -> Response:
        """503 while kernels compile after the start, or when the state cannot be read."""
        if not service.ready.is_set():
            raise HTTPException(503, "the model is warming up; try again in a few seconds")
        await gate.run(service.state.latest_ts)
        return _json(wire.Health("ready"))

    @routes.get(
        "/metrics",
        summary="Prometheus metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}, "description": "Exposition text."}},
    )
    async def metrics() -> Response:
        """Text in Prometheus' format."""
        try:
            counts = await gate.run(service.state.counts)
        except StateError:
            counts = {}
        text = telemetry.exposition(counts, service.ready.is_set())
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    return routes


def check_session(asked: wire.Session, service: Service) -> None:
    """Refuse a session that is too long or holds something that is no id.

    Raises:
        InputError: names the limit.
    """
    settings = service.settings
    if len(asked.items) > settings.max_session:
        raise InputError(
            f"a session holds at most {settings.max_session} items, got {len(asked.items)}; send the latest"
        )
    if asked.k is not None and asked.k > settings.max_k:
        raise InputError(f"k must be at most {settings.max_k}, got {asked.k}")
    longest = max((len(str(item)) for item in asked.items), default=0)
    if longest > settings.max_id_length:
        raise InputError(f"an item id has at most {settings.max_id_length} characters, got {longest}")


def decoded(decode: Callable[[bytes], T], raw: bytes) -> T:
    """The struct in a body.

    Raises:
        HTTPException: 400 where it is not JSON, 422 where it is JSON of another form.
    """
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        raise HTTPException(422, f"the body does not have the expected form: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise HTTPException(400, "the body is nested too deeply") from error


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != JSON:
        raise HTTPException(415, f"the body must be sent as {JSON}, got {kind[:60] or 'no content type'!r}")
    return await request.body()


def _json(struct: msgspec.Struct) -> Response:
    return Response(wire.encode(struct), media_type=JSON)


def _content(kind: str, of: str) -> dict[str, Any]:
    return {"content": {kind: {"schema": {"$ref": f"#/components/schemas/{of}"}}}}
