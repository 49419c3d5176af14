"""The JSON twins of the pages, under ``/api/v1/``: same questions, same answers, for programs.

Listings answer ``{"rows": [...], "total": n, "limit": n, "offset": n}``; they and the overview, asked for an instant
(``at``), also ``at_ns``, null if that is now; errors ``{"error": ..., "detail": ...}``.
"""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from . import answers, asked, openapi, pages, plain_json, profiles, queries, sql
from .source import Source
from .tables import TABLES

_PREFIX = "/api/v1/"


def routes() -> list[BaseRoute]:
    return [
        Route(_PREFIX + "overview", overview),
        Route(_PREFIX + "ledger", ledger),
        *(Route(_PREFIX + noun, listing) for noun in TABLES),
        Route(_PREFIX + "ask", asked.answer),
        Route(_PREFIX + "sql", sql.answer),
        Route(_PREFIX + "sql/tables", sql.tables),
        Route(_PREFIX + "tasks/{id}", task),
        Route(_PREFIX + "story/{id}", story),
        *answers.routes(_PREFIX),
        *profiles.routes(_PREFIX),
        *openapi.routes(),
    ]


async def overview(request: Request) -> Response:
    moment = pages.moment_of(request)
    found, at_ns = await pages.asked_of(request, moment, lambda view: view.overview(refresh=False), "api/overview")
    return _json({**found, "at_ns": at_ns} if moment else found)


async def ledger(request: Request) -> Response:
    return _json(await _source(request).ask(lambda view: view.ledger(refresh=False), key="ledger"))


async def listing(request: Request) -> Response:
    table = TABLES[request.url.path.removeprefix(_PREFIX)]
    query = queries.read(table, request.query_params.multi_items())
    found, at_ns = await pages.asked_of(request, query.moment, lambda view: queries.rows(view, table, query))
    of = {"at_ns": at_ns} if query.moment else {}
    return _json({**found, "limit": query.limit, "offset": query.offset, **of})


async def task(request: Request) -> Response:
    identifier = queries.identifier(request.path_params["id"])
    found = await _source(request).ask(lambda view: view.task(identifier, refresh=False))
    if found is None:
        raise HTTPException(404, f"no task {identifier}")
    return _json(found)


async def story(request: Request) -> Response:
    identifier = queries.identifier(request.path_params["id"])
    return _json(await _source(request).ask(lambda view: queries.story(view, identifier)))


def _source(request: Request) -> Source:
    source: Source = request.app.state.source
    return source


def _json(value: Any) -> Response:
    return Response(plain_json.dumps(value), media_type="application/json")
