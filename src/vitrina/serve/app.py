"""The web application around a service, and the server that runs it."""

import logging
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from vitrina import __version__
from vitrina.errors import VitrinaError
from vitrina.serve import wire
from vitrina.serve.api import Gate, feeds, health, intake, shelves
from vitrina.serve.console import console
from vitrina.serve.folder import Papers, open_service
from vitrina.serve.guard import Guard, problem
from vitrina.serve.service import Service
from vitrina.serve.settings import Settings
from vitrina.serve.telemetry import Telemetry

log = logging.getLogger(__name__)

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def create_app(
    served: Service | str | os.PathLike[str],
    settings: Settings | None = None,
    papers: Papers | None = None,
) -> FastAPI:
    """The application: API, health, metrics and console.

    Args:
        served: a service, or the folder of one (see `vitrina.serve.folder`). The application closes it.
        settings: for a folder; a service brings its own.
        papers: card and report to show; a folder brings its own.

    Raises:
        ArtifactError: the folder cannot be served.
    """
    service = served if isinstance(served, Service) else open_service(served, settings)
    papers = papers or (Papers() if isinstance(served, Service) else Papers.of(served))
    telemetry = Telemetry()
    gate = Gate(service.settings.n_threads, service.settings.max_waiting)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        warming = threading.Thread(target=_warm, args=(service,), name="warm-up", daemon=True)
        warming.start()
        yield
        gate.close()
        warming.join()
        service.close()

    app = FastAPI(
        title="Vitrina",
        version=__version__,
        description="Feeds from an event log: what is measured is what is served.",
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    app.state.service, app.state.telemetry = service, telemetry
    for routes in (feeds, shelves, intake, health):
        app.include_router(routes(service, gate, telemetry))
    if service.settings.console:
        console(app, service, gate, telemetry, papers)
    app.add_middleware(Guard, settings=service.settings, telemetry=telemetry)
    app.add_exception_handler(VitrinaError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(Exception, _on_bug)
    _describe(app, service)
    return app


def run(
    folder: str | os.PathLike[str],
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    settings: Settings | None = None,
    log_level: str = "warning",
    on_loaded: Callable[[], None] | None = None,
) -> None:
    """Serve a folder until interrupted.

    Args:
        folder: what `vitrina train` wrote.
        host: address to listen on; beyond the loopback put a proxy with authentication before it.
        port: TCP port.
        settings: limits; on a loopback address only local Host headers are answered unless it names others.
        log_level: of uvicorn.
        on_loaded: called once the folder is read, before anything listens.

    Raises:
        ArtifactError, StateError: the folder cannot be served.
    """
    settings = settings or Settings()
    if host in LOOPBACK and not settings.allowed_hosts:
        settings = replace(settings, allowed_hosts=(*LOOPBACK, "[::1]"))
    app = create_app(folder, settings)
    if on_loaded is not None:
        on_loaded()
    uvicorn.run(app, host=host, port=port, log_level=log_level, access_log=False, **uvicorn_options())


def uvicorn_options() -> dict[str, Any]:
    """The fastest event loop and parser that are installed, and limits on idle connections."""
    return {
        "loop": "uvloop" if find_spec("uvloop") else "asyncio",
        "http": "httptools" if find_spec("httptools") else "h11",
        "ws": "none",
        "timeout_keep_alive": 30,
        "limit_concurrency": 1024,
        "server_header": False,
    }


def _warm(service: Service) -> None:
    try:
        service.warm()
    except Exception:  # the server stays up and not ready, so that the sentence can be read
        log.exception("the model cannot answer; /health/ready stays at 503")


def _describe(app: FastAPI, service: Service) -> None:
    """Put the msgspec structs into the OpenAPI document."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            components = document.setdefault("components", {}).setdefault("schemas", {})
            components.clear()
            components.update(wire.schemas())
            limits = service.settings
            components["Session"]["properties"]["items"]["maxItems"] = limits.max_session
            components["EventBatch"]["properties"]["events"]["maxItems"] = limits.max_batch
            for path in document["paths"].values():
                for operation in path.values():
                    _only_problems(operation)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]


def _only_problems(operation: dict[str, Any]) -> None:
    """FastAPI adds its own schema of a 422 where parameters are checked; ours is a Problem."""
    answers = operation["responses"]
    schema = {"$ref": "#/components/schemas/Problem"}
    if "422" in answers:
        answers["422"]["content"] = {"application/problem+json": {"schema": schema}}


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    body = wire.encode(problem(status, detail))
    return Response(body, status, headers=headers, media_type="application/problem+json")


async def _on_error(_: Request, error: Exception) -> Response:
    status = error.http_status if isinstance(error, VitrinaError) else 500
    headers = {"Retry-After": "1"} if status == 503 else None
    return _problem(status, str(error), headers)


async def _on_invalid(_: Request, error: Exception) -> Response:
    first = error.errors()[0] if isinstance(error, RequestValidationError) else {"msg": str(error)}
    where = ".".join(str(part) for part in first.get("loc", ())[1:])
    given = str(first.get("input", ""))[:60]
    return _problem(422, f"{where} {given!r} is refused: {first['msg']}")


async def _on_http(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    detail = "there is no such page; see /openapi.json" if error.detail == "Not Found" else str(error.detail)
    return _problem(error.status_code, detail, dict(error.headers or {}))


async def _on_bug(_: Request, error: Exception) -> Response:
    return _problem(500, f"an error inside the server ({type(error).__name__}); its log has the details")
