"""Analyses for programs, under ``/api/v1/``: ``why/{id}`` and its like, as the command line gives them with --json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from obsray.telemetry.questions import change_of, factor, function_factor, job_of

from . import identifiers, plain_json, queries
from .source import Source
from .tables import TASKS


def routes(prefix: str) -> list[BaseRoute]:
    """The addresses of all analyses."""
    return [
        Route(prefix + "why/{id}", why),
        Route(prefix + "books", books),
        Route(prefix + "critical-path", critical_path),
        Route(prefix + "what-if", what_if),
        Route(prefix + "stragglers", stragglers),
        Route(prefix + "different", different),
        Route(prefix + "memory", memory),
        Route(prefix + "hangs", hangs),
        Route(prefix + "post-mortem/{id}", post_mortem),
    ]


async def why(request: Request) -> Response:
    identifier = queries.identifier(request.path_params["id"])

    def question(view: Any) -> Any:
        return view.why(identifiers.anything(view, identifier)[1], refresh=False)

    return await answered(request, question)


async def books(request: Request) -> Response:
    """``job``; ``over_time=1``: also each worker's books in equal pieces of the time."""
    given = only(request, "job", "over_time")

    def question(view: Any) -> Any:
        job, found = job_of(given.get("job")), view.books(job_of(given.get("job")), refresh=False)
        return found | ({"over_time": view.slots_over_time(job, refresh=False)} if given.get("over_time") else {})

    return await answered(request, question)


async def critical_path(request: Request) -> Response:
    job = only(request, "job").get("job")
    return await answered(request, lambda view: view.critical_path(job_of(job), refresh=False))


async def what_if(request: Request) -> Response:
    """``workers``, ``network``, ``driver``: factors; ``function``: name=factor, repeatable; ``no_stragglers=1``;
    ``rough=1``: a number also where replays are known to be far off."""
    given = only(request, "job", "workers", "network", "driver", "function", "no_stragglers", "rough")
    rough = given.get("rough", "0") != "0"

    def question(view: Any) -> Any:
        change = change_of(
            factor(given.get("workers")), dict(map(function_factor, request.query_params.getlist("function"))),
            factor(given.get("network")), factor(given.get("driver")), given.get("no_stragglers", "0") != "0",
        )  # fmt: skip
        return view.what_if(job_of(given.get("job")), None if change is None else [change], refresh=False, rough=rough)

    return await answered(request, question)


async def stragglers(request: Request) -> Response:
    job = only(request, "job").get("job")
    return await answered(request, lambda view: view.stragglers(job_of(job), refresh=False))


async def memory(request: Request) -> Response:
    only(request)
    return await answered(request, lambda view: view.memory(refresh=False))


async def hangs(request: Request) -> Response:
    only(request)
    return await answered(request, lambda view: view.hangs(refresh=False))


async def post_mortem(request: Request) -> Response:
    identifier = queries.identifier(request.path_params["id"])
    return await answered(
        request, lambda view: view.post_mortem(identifiers.anything(view, identifier)[1], refresh=False)
    )


async def different(request: Request) -> Response:
    """``where``: conditions on the tasks that are asked about, ``among``: on all that are looked at; repeatable."""
    only(request, "where", "among")
    chosen, among = different_filters(request)
    if not chosen:
        raise queries.BadQuery("which tasks? Give where=COLUMN OP VALUE, for example where=run_seconds > 1s")
    return await answered(request, lambda view: view.different(chosen, among, refresh=False))


def different_filters(request: Request) -> tuple[Any, Any]:
    """The conditions ``where`` and ``among`` of a request. Raises BadQuery."""
    chosen, among = (
        queries.read(TASKS, [("where", text) for text in request.query_params.getlist(name)]).conditions
        for name in ("where", "among")
    )
    return chosen, among


def only(request: Request, *names: str) -> dict[str, str]:
    """The parameters of a request, if there are no others than these. Raises BadQuery."""
    given = {name: value for name, value in request.query_params.items() if value != ""}
    unknown = set(given) - set(names)
    if unknown:
        raise queries.BadQuery(f"there is no parameter {min(unknown)!r}; parameters: {', '.join(names) or 'none'}")
    return given


async def answered(request: Request, question: Callable[[Any], Any]) -> Response:
    """The answer to a question as JSON."""
    return Response(plain_json.dumps(await asked(request, question)), media_type="application/json")


async def asked(request: Request, question: Callable[[Any], Any]) -> Any:
    """The answer to a question; what cannot be answered becomes an HTTP error."""
    source: Source = request.app.state.source
    try:
        return await source.ask(question, key=str(request.url))
    except LookupError as error:
        raise HTTPException(404, str(error)) from None
    except ValueError as error:
        raise queries.BadQuery(str(error)) from None
