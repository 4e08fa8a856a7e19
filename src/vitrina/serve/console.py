"""The console: pages that show what the engine does and why. Rendered here, nothing inline, no CDN."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import msgspec
import numpy as np
from fastapi import FastAPI, Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse
from starlette.staticfiles import StaticFiles

from vitrina import __version__
from vitrina.errors import StateError, UnknownItem
from vitrina.ids import UNKNOWN
from vitrina.log.catalogue import NEVER
from vitrina.serve import views, wire
from vitrina.serve.api import Gate
from vitrina.serve.folder import Papers
from vitrina.serve.search import TitleSearch
from vitrina.serve.service import Service
from vitrina.serve.telemetry import Telemetry

HERE = Path(__file__).parent
FEED_K = 12
SHOWN_IDS = 60
"""Characters of an id that a sentence quotes."""

REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data:; font-src data:; frame-ancestors 'self'"
)
"""The report carries its own scripts; the sandbox gives it an origin of its own, out of reach of ours."""

Fields = dict[str, list[str]]


class Console:
    """Turns what was asked into pages."""

    def __init__(self, service: Service, telemetry: Telemetry, papers: Papers) -> None:
        self.service, self.telemetry, self.papers = service, telemetry, papers
        self.item_counts = service.histories.item_counts()
        self.search = TitleSearch(service.catalogue, self.item_counts)
        self.lengths = np.diff(service.histories.offsets)
        self.templates = Environment(
            loader=PackageLoader("vitrina.serve"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        self.templates.globals.update(
            version=__version__, model=service.model, papers=papers, spark=views.spark, short=views.short
        )
        self.templates.globals["about"] = {"items": len(service.items), "users": len(service.users)}

    def page(self, template: str, **values: Any) -> str:
        """A rendered template."""
        return self.templates.get_template(template).render(**values)

    def bench(self, asked: Fields, said: str = "") -> views.Bench:
        """The feed page for a known user, or for a visitor whose history travels with the request."""
        service, was = self.service, asked.get("was", [])[:FEED_K]
        user = one(asked, "user")
        if user:
            history = service.history(user)
            shown = views.bench(service, history, service.feed(history, FEED_K), user=user, was=was)
        else:
            items = asked.get("h", [])[: service.settings.max_session]
            history = service.session_history(items)
            shown = views.bench(service, history, service.feed(history, FEED_K), user=None, was=was)
        shown.said = said
        return shown

    def edited(self, asked: Fields) -> Fields:
        """The visitor's history after the button that was pressed."""
        kept = [item for item in asked.get("h", []) if self.service.items.get(item) != UNKNOWN]
        added = [item for item in asked.get("add", []) if self.service.items.get(item) != UNKNOWN]
        if "enter" in asked and one(asked, "q"):
            added += [str(self.service.item_ids[ix]) for ix in self.search.find(one(asked, "q"), 1)]
        dropped = one(asked, "drop")
        if dropped.isdecimal() and len(dropped) < 6 and int(dropped) < len(kept):
            kept.pop(len(kept) - 1 - int(dropped))
        history = [] if "clear" in asked else kept + added
        return {**asked, "h": history}

    def act(self, asked: Fields) -> str:
        """Store that a known user took an item, through the same intake as POST /v1/events."""
        event: dict[str, Any] = {
            "event_id": f"console-{uuid.uuid4()}",
            "user_id": one(asked, "user"),
            "item_id": one(asked, "item"),
            "event": self.service.histories.event_names[0],
        }
        receipt = self.service.ingest([msgspec.Raw(wire.encode(event))])
        self.telemetry.receipt(receipt)
        if receipt.rejected:
            return f"Not stored: {receipt.rejected[0].reason}."
        return "Stored. The feed below already knows."

    def users(self, text: str) -> list[dict[str, Any]]:
        """Users whose id starts with the text; without one, a sample from short histories to long."""
        service = self.service
        if not len(self.lengths):
            return []
        if text:
            ids = service.users.values.cast(str)
            at = np.flatnonzero(ids.str.starts_with(text).to_numpy())[:8]
            fresh = [u for u in service.state.users(text, 8) if service.users.get(u) == UNKNOWN]
        else:
            order = np.argsort(self.lengths, kind="stable")
            at = order[np.linspace(len(order) * 0.5, len(order) - 1, 8).astype(int)]
            fresh = []
        known = [
            {"id": user_id, "n": int(n)}
            for user_id, n in zip(
                service.users.take(at.astype(np.int32)).to_list(), self.lengths[at], strict=True
            )
        ]
        return known + [{"id": user_id, "n": len(service.state.tail(user_id))} for user_id in fresh]

    def item(self, item_id: str) -> str:
        """The page of one item.

        Raises:
            UnknownItem: the model does not know it.
        """
        service = self.service
        item_ix = service.items.get(item_id)
        if item_ix == UNKNOWN:
            raise UnknownItem(f"item {item_id[:SHOWN_IDS]!r} is unknown to this model")
        shelves = []
        for source in service.pipeline.sources:
            if hasattr(source.generator, "similar"):
                found = service.similar(item_id, k=FEED_K, source=source.name)
                shelves.append((source.name, views.ranked_cards(found.items)))
        facts = service.catalogue.frame.row(item_ix, named=True)
        first_ts = int(facts["first_ts"])
        facts["first_ts"] = views.day(first_ts) if first_ts < NEVER else "not taken yet"
        return self.page(
            "item.html",
            here="feed",
            card=views.card(service, item_ix),
            facts={name: value for name, value in facts.items() if value is not None},
            n_events=int(self.item_counts[item_ix]),
            shelves=shelves,
        )

    def operations(self) -> str:
        """The operations page."""
        try:
            state, trouble = self.service.state.counts(), ""
        except StateError as error:
            state, trouble = {}, str(error)
        return self.page(
            "operations.html",
            here="operations",
            summary=self.telemetry.summary(),
            state=state,
            trouble=trouble,
            ready=self.service.ready.is_set(),
            settings=self.service.settings,
            trained_until=views.day(self.service.pipeline.trained_until),
            sources=self.service.pipeline.sources,
            policies=self.service.pipeline.policies,
        )


def console(app: FastAPI, service: Service, gate: Gate, telemetry: Telemetry, papers: Papers) -> None:
    """Add the pages to the application."""
    pages = Console(service, telemetry, papers)
    hidden: dict[str, Any] = {"include_in_schema": False, "response_class": HTMLResponse}

    async def html(make: Callable[..., str], *args: Any, **headers: str) -> Response:
        return HTMLResponse(await gate.run(make, *args), headers=headers)

    @app.get("/", **hidden)
    async def feed(request: Request) -> Response:
        asked = fields(request)
        if "as" in asked:
            asked = {"user": asked["as"]}
        asked = pages.edited(asked) if not one(asked, "user") else asked
        return await html(_feed_page, pages, asked, _partial(request), **_push(request, asked))

    @app.post("/act", **hidden)
    async def act(request: Request) -> Response:
        _only_from_here(request)
        asked = parsed((await request.body()).decode("utf-8", "replace"))
        return await html(_acted_page, pages, asked, _partial(request), **_push(request, asked))

    @app.get("/search", **hidden)
    async def search(request: Request) -> Response:
        return await html(_search_page, pages, fields(request))

    @app.get("/users", **hidden)
    async def users(request: Request) -> Response:
        return await html(_users_page, pages, one(fields(request), "uq")[: service.settings.max_id_length])

    @app.get("/item", **hidden)
    async def item(request: Request) -> Response:
        return await html(pages.item, one(fields(request), "id"))

    @app.get("/operations", **hidden)
    async def operations() -> Response:
        return await html(pages.operations)

    @app.get("/api", **hidden)
    async def api() -> Response:
        return await html(_plain_page, pages, "api.html", "api")

    @app.get("/report", **hidden)
    async def report() -> Response:
        return await html(_plain_page, pages, "report.html", "report")

    @app.get("/report.html", **hidden)
    async def report_file() -> Response:
        if papers.report is None:
            raise HTTPException(404, "this model came without a report; make one with: vitrina evaluate")
        return FileResponse(
            papers.report, media_type="text/html", headers={"content-security-policy": REPORT_POLICY}
        )

    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")


def one(asked: Fields, name: str) -> str:
    """The last value of a field, or an empty text."""
    return asked.get(name, [""])[-1]


def fields(request: Request) -> Fields:
    """The query string as lists of values."""
    return parsed(request.url.query)


def parsed(text: str) -> Fields:
    """Fields of a query string or of a form.

    Raises:
        HTTPException: 400, there are too many.
    """
    try:
        return parse_qs(text, max_num_fields=5000, errors="replace")
    except ValueError as error:
        raise HTTPException(400, f"the form cannot be read: {error}") from error


def _feed_page(pages: Console, asked: Fields, partial: bool, said: str = "") -> str:
    shown = pages.bench(asked, said)
    sample = pages.users("") if shown.user is None and asked.get("mode") == ["user"] else []
    mode = "user" if shown.user is not None or asked.get("mode") == ["user"] else "visitor"
    template = "bench.html" if partial else "feed.html"
    return pages.page(template, here="feed", bench=shown, mode=mode, users=sample)


def _acted_page(pages: Console, asked: Fields, partial: bool) -> str:
    return _feed_page(pages, asked, partial, pages.act(asked))


def _search_page(pages: Console, asked: Fields) -> str:
    text = one(asked, "q")[:200]
    found = [views.card(pages.service, int(ix)) for ix in pages.search.find(text)]
    counts = [int(pages.item_counts[pages.service.items.get(card.item_id)]) for card in found]
    return pages.page(
        "found.html", found=list(zip(found, counts, strict=True)), text=text, user=one(asked, "user")
    )


def _users_page(pages: Console, text: str) -> str:
    return pages.page("users.html", users=pages.users(text), text=text)


def _plain_page(pages: Console, template: str, here: str) -> str:
    return pages.page(template, here=here)


def _partial(request: Request) -> bool:
    return request.headers.get("hx-request") == "true"


def _push(request: Request, asked: Fields) -> dict[str, str]:
    """The address that shows this page again, for the browser's history."""
    if not _partial(request):
        return {}
    kept = {name: asked[name] for name in ("user",) if one(asked, name)} or {
        name: asked[name] for name in ("h", "mode") if asked.get(name)
    }
    address = "/?" + urlencode(kept, doseq=True) if kept else "/"
    return {"hx-push-url": address} if len(address) < 4000 else {}


def _only_from_here(request: Request) -> None:
    """Refuse a form that another site made the browser send."""
    from_here = request.headers.get("sec-fetch-site") == "same-origin" or _partial(request)
    if not from_here:
        raise HTTPException(403, "this form can be sent from the console only; use POST /v1/events instead")
