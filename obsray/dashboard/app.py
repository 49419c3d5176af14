"""The web application: routes, templates, errors. ``create_app`` is all a server or a test needs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from obsray.causes import gist
from obsray.telemetry.hang_watch import HangRecords

from . import analyses, api, hangs, jobs, logs, pages, profiles, scraping, state_api, units
from .auth import Guard
from .queries import BadQuery
from .shapes import gpu_parts
from .source import Busy, Source
from .tables import TABLES, TASK_STATES

_HERE = Path(__file__).parent

#: State -> how it is coloured. What is not named is neutral.
STATE_TONES = {
    "PENDING_ARGS_AVAIL": "wait",
    "PENDING_NODE_ASSIGNMENT": "wait",
    "SUBMITTED_TO_WORKER": "sent",
    "RUNNING": "run",
    "RUNNING_IN_RAY_GET": "block",
    "FINISHED": "ok",
    "FAILED": "bad",
    "CANCELLED": "off",
    "ALIVE": "ok",
    "PENDING_CREATION": "wait",
    "DEPENDENCIES_UNREADY": "wait",
    "RESTARTING": "block",
    "RESCHEDULING": "block",
    "DEAD": "off",
    "IDLE": "off",
    "LEASED": "run",
    "ACTOR": "run",
    "STARTING": "wait",
    "HALTED": "bad",
    "SEALED": "ok",
    "CREATED": "wait",
    "SPILLED": "block",
    "SPILLING": "block",
    "RESTORING": "wait",
    "FREED": "off",
    "LOST": "bad",
    "OUT_OF_SERVICE": "bad",
    "READY": "ok",
    "BLOCKED": "block",
    "BUSY": "run",
    "IN_OWNER": "sent",
    "SUCCEEDED": "ok",
    "STOPPED": "off",
    "ERROR": "bad",
    "WARNING": "block",
}


def create_app(source: Source, token: str, port: int, measured: scraping.Measured | None = None) -> Guard:
    """The application that shows ``source`` to whoever has ``token`` (hex) at ``port``; ``measured`` is told how it
    fares."""

    measured = measured or scraping.Measured()
    records = HangRecords(source.directory)
    watch = hangs.HangWatch(source, records)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        looking = asyncio.create_task(watch.run())
        yield
        looking.cancel()
        records.close()
        source.close()

    routes = [
        Route("/healthz", _healthz),
        *api.routes(),
        *logs.routes("/api/v1/"),
        *state_api.routes(),
        *scraping.routes(),
        *jobs.routes(),
        *pages.routes(),
        *analyses.routes(),
        *profiles.page_routes(),
        *hangs.page_routes(),
        Mount("/static", StaticFiles(directory=_HERE / "static"), name="static"),
    ]
    handlers: dict[Any, Any] = {
        BadQuery: _bad_query,
        Busy: _busy,
        HTTPException: _http_error,
        FileNotFoundError: _nothing_yet,
        Exception: _broken,
    }
    measuring = [Middleware(scraping.Measuring, measured=measured)]
    application = Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan, middleware=measuring)
    application.state.source = source
    application.state.environment = _environment()
    application.state.logs = logs.LogQuestions()
    application.state.measured = measured
    return Guard(application, token, port)


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        seconds=units.seconds,
        size=units.size,
        share=units.share,
        gpu_parts=gpu_parts,
        count=units.count,
        many=units.many,
        rate=units.rate,
        clock=units.clock,
        moment=units.moment,
        plain=units.plain,
        worded=worded,
        short_id=units.short_id,
        shortened=units.shortened,
        gist=gist,
        tone=lambda state: STATE_TONES.get(str(state).upper(), "off"),
    )
    environment.globals.update(
        tables=TABLES, task_states=TASK_STATES, now_ns=time.time_ns, ago=units.ago, version=_version()
    )
    return environment


def worded(text: object) -> Markup:
    """A sentence whose commands stand in backticks, as HTML."""
    parts = units.plain(text).split("`")
    if len(parts) % 2 == 0:
        return escape("`".join(parts))
    made = (Markup("<code>{}</code>").format(part) if at % 2 else escape(part) for at, part in enumerate(parts))
    return Markup("").join(made)


def _version() -> str:
    try:
        return version("obsray")
    except PackageNotFoundError:
        return ""


async def _healthz(request: Request) -> Response:
    return PlainTextResponse("ok\n")


# --- errors ------------------------------------------------------------------------------------------------


def _refuse(request: Request, status: int, title: str, detail: str) -> Response:
    """An error as a page, as a fragment of a page or as JSON, whichever was asked for."""
    headers = {"retry-after": "1"} if status == 503 else None
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": title, "detail": detail}, status_code=status, headers=headers)
    fragment = request.headers.get("hx-request") == "true"
    template = request.app.state.environment.get_template("_problem.html" if fragment else "problem.html")
    text = template.render(title=title, detail=detail, status=status, **pages.frame(request))
    # htmx shows only successful answers; a wrong filter must be seen where it was typed.
    return HTMLResponse(text, status_code=200 if fragment and status == 400 else status, headers=headers)


def _bad_query(request: Request, error: Exception) -> Response:
    return _refuse(request, 400, "This question is not understood", str(error))


def _busy(request: Request, error: Exception) -> Response:
    return _refuse(request, 503, "Too many questions at once", f"{error}; try again in a second.")


def _nothing_yet(request: Request, error: Exception) -> Response:
    return _refuse(
        request,
        503,
        "Nothing is recorded yet",
        "The session has just begun or its files were removed; try again in a second.",
    )


def _broken(request: Request, error: Exception) -> Response:
    return _refuse(
        request,
        500,
        "The dashboard failed to answer",
        f"{type(error).__name__}. The log of the dashboard has the details.",
    )


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = "There is no such page" if error.status_code == 404 else "This does not work"
    return _refuse(
        request, error.status_code, title, str(error.detail) if error.detail != "Not Found" else pages.NO_PAGE
    )
