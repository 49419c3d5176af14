"""Pages for people. Each page that lives has a partial (``_name.html``) that is also its body: the same template
answers the first request and every later one, so what is seen live is what a reload would show."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from . import identifiers, queries
from .shapes import gpus_shape, overview_shape, task_shape
from .source import Source
from .tables import TABLES

NO_PAGE = "Look at the overview, or search for the id of a task, object, actor or worker in the field on top."
LIST_PAGES = (
    "tasks",
    "actors",
    "placement_groups",
    "objects",
    "workers",
    "environments",
    "nodes",
    "instances",
    "jobs",
    "functions",
    "collectives",
    "kernels",
)
T = TypeVar("T")
#: What a page says of its instant when none is asked for.
NOW: dict[str, Any] = {"moment": "", "at_ns": None}
#: htmx stops asking again after an answer with this status.
STOP_POLLING = 286


def routes() -> list[BaseRoute]:
    return [
        Route("/", overview, name="overview"),
        Route("/_overview", overview_live),
        Route("/_ledger", ledger_live),
        Route("/gpus", gpus_page, name="gpus"),
        Route("/_gpus", gpus_live),
        *(Route(f"/{noun}", list_page, name=noun) for noun in LIST_PAGES),
        Route("/tasks/{id}", task_page),
        Route("/ledger", ledger_page, name="ledger"),
        Route("/story/{id}", story_page),
        Route("/find", find),
    ]


def frame(request: Request, page: str = "") -> dict[str, Any]:
    """What every page shows around its content."""
    source: Source = request.app.state.source
    session = source.session
    name = session.get("session") or source.directory.name
    return {"page": page, "session_name": str(name), "session": session, "is_live": source.is_live}


def render(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A page out of a template, with what every page shows around it."""
    environment = request.app.state.environment
    return HTMLResponse(environment.get_template(template).render(**frame(request), **values), status_code=status)


def source_of(request: Request) -> Source:
    """The one reader of the session."""
    source: Source = request.app.state.source
    return source


def is_fragment(request: Request) -> bool:
    """Whether htmx asks for a part of a page."""
    return request.headers.get("hx-request") == "true" and request.headers.get("hx-boosted") != "true"


async def _of_moment(
    request: Request, shape: Callable[[Any], dict[str, Any]], key: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A page's content as it was at the instant that is asked for, and what the page says of that instant."""
    moment = moment_of(request)
    found, at_ns = await asked_of(request, moment, shape, key)
    return found, {"moment": moment, "at_ns": at_ns}


async def overview(request: Request) -> Response:
    shape, of = await _of_moment(request, overview_shape, "overview")
    return render(request, "overview.html", overview=shape, series=json.dumps(shape["series"]), **of)


async def overview_live(request: Request) -> Response:
    shape = await source_of(request).ask(overview_shape, key="overview")
    status = 200 if source_of(request).is_live else STOP_POLLING
    return render(request, "_overview.html", status, overview=shape, series=json.dumps(shape["series"]), **NOW)


async def ledger_live(request: Request) -> Response:
    ledger = await source_of(request).ask(lambda view: view.ledger(refresh=False), key="ledger")
    return render(request, "_ledger.html", 200 if source_of(request).is_live else STOP_POLLING, ledger=ledger)


async def ledger_page(request: Request) -> Response:
    # What is missing is known now, whenever it got lost; an earlier instant knew less.
    ledger = await source_of(request).ask(lambda view: view.ledger(refresh=False), key="ledger")
    return render(request, "ledger.html", ledger=ledger, moment=moment_of(request))


async def gpus_page(request: Request) -> Response:
    """Every GPU and why it idles; ``/kernels`` is the list of what they ran."""
    shape, of = await _of_moment(request, gpus_shape, "gpus")
    return render(request, "gpus.html", gpus=shape, **of)


async def gpus_live(request: Request) -> Response:
    shape = await source_of(request).ask(gpus_shape, key="gpus")
    return render(request, "_gpus.html", 200 if source_of(request).is_live else STOP_POLLING, gpus=shape, **NOW)


async def list_page(request: Request) -> Response:
    """One page of one table; asked by htmx only the table comes, so that the filter bar keeps its focus."""
    table = TABLES[request.url.path.strip("/")]
    query = queries.read(table, request.query_params.multi_items())
    found, at_ns = await asked_of(request, query.moment, lambda view: queries.rows(view, table, query))
    template = "_table.html" if is_fragment(request) else "list.html"
    values = {"table": table, "query": query, "rows": found["rows"], "total": found["total"]}
    return render(request, template, **values, moment=query.moment, at_ns=at_ns)


async def asked_of(
    request: Request, moment: str, question: Callable[[Any], T], key: str | None = None
) -> tuple[T, int | None]:
    """The answer as it was at a moment, and the instant it is of, None for now. Raises BadQuery."""
    try:
        return await source_of(request).ask_of(moment, question, key)
    except queries.BadQuery:
        raise
    except ValueError as error:
        raise queries.BadQuery(str(error)) from None


def moment_of(request: Request) -> str:
    """The instant that is asked for, "" for now."""
    return next((text for name in queries.MOMENTS if (text := request.query_params.get(name))), "")


async def task_page(request: Request) -> Response:
    task_id = queries.identifier(request.path_params["id"])

    def all_of_it(view: Any) -> tuple[dict[str, Any] | None, dict[str, Any], dict[str, Any] | None]:
        task = view.task(task_id, refresh=False)
        if task is None:
            return None, {"id": task_id, "events": [], "left_out": 0}, None
        return task, queries.story(view, task["task_id"]), view.why(task["task_id"], refresh=False)

    task, story, why = await source_of(request).ask(all_of_it)
    if task is None:
        raise HTTPException(
            404,
            f"No task of this session has the id {task_id}. It may be of another session, or name something else.",
        )
    is_open = task.get("state") not in ("FINISHED", "FAILED", "CANCELLED")
    template = "_task.html" if is_fragment(request) else "task.html"
    status = STOP_POLLING if template == "_task.html" and not (is_open and source_of(request).is_live) else 200
    return render(request, template, status, task=task_shape(task), story=story, why=why, is_open=is_open)


async def story_page(request: Request) -> Response:
    identifier = queries.identifier(request.path_params["id"])
    story = await source_of(request).ask(lambda view: queries.story(view, identifier))
    if not story["events"]:
        raise HTTPException(
            404,
            f"Nothing is recorded about {identifier}. It may belong to another session, or the id may be cut short.",
        )
    return render(request, "_story.html" if is_fragment(request) else "story.html", story=story)


async def find(request: Request) -> Response:
    """The search field on top: an id goes to its page, anything else is looked for in task names."""
    text = request.query_params.get("q", "").strip()
    by_name = f"/tasks?{urlencode({'name': text})}" if text else "/tasks"

    def place(view: Any) -> str:
        try:
            noun, identifier = identifiers.anything(view, text)
        except identifiers.UnknownId:
            return by_name
        return f"/tasks/{identifier}" if noun == "tasks" else f"/story/{identifier}"

    return RedirectResponse(await source_of(request).ask(place), status_code=303)
