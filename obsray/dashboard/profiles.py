"""The profile: its page, and the same for programs as JSON, for speedscope, or one stack a line."""

from __future__ import annotations

import asyncio
from typing import Any

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from obsray.telemetry.answers.stacks import merged

from . import answers, flame, identifiers, queries
from .source import Source

SHOWN = ("wall", "cpu", "slow_vs_fast")
FORMATS = ("json", "speedscope", "collapsed")


def routes(prefix: str) -> list[BaseRoute]:
    """The addresses for programs."""
    return [Route(prefix + "profile", for_programs), Route(prefix + "stacks", stacks)]


def page_routes() -> list[BaseRoute]:
    """The page."""
    return [Route("/profile", page)]


async def for_programs(request: Request) -> Response:
    """``function``, ``id`` (task, actor, worker), ``slow_vs_fast=1``, ``format``: json, speedscope, collapsed."""
    given = answers.only(request, "function", "id", "slow_vs_fast", "format")
    form = given.get("format", "json")
    if form not in FORMATS:
        raise queries.BadQuery(f"format={form}: must be one of {', '.join(FORMATS)}")

    def question(view: Any) -> Any:
        return view.profile(
            given.get("function", ""), _identifier(view, given.get("id", "")), given.get("slow_vs_fast", "0") != "0",
            refresh=False,
        )  # fmt: skip

    if form == "json":
        return await answers.answered(request, question)
    found = await answers.asked(request, question)
    if form == "speedscope":
        from obsray.export import profiles

        return Response(profiles.write(found), media_type="application/json")
    from obsray.telemetry.answers.profile import collapsed

    return PlainTextResponse(collapsed(found))


async def stacks(request: Request) -> Response:
    """What all threads do now. ``id``: only this task, actor, worker or node; ``all=1``: also the runtime's own."""
    given = answers.only(request, "id", "all")
    source: Source = request.app.state.source
    # Here, because other pages need nothing of what talks to other nodes.
    from obsray.federation.stacks import everywhere

    found, silent = await asyncio.to_thread(everywhere, source.directory)

    def question(view: Any) -> Any:
        if not source.is_live:
            raise LookupError("the session is over: nothing runs there any more")
        return merged(view, found, silent, _identifier(view, given.get("id", "")), given.get("all", "0") != "0")

    return await answers.answered(request, question)


def _identifier(view: Any, text: str) -> str:
    return identifiers.anything(view, queries.identifier(text))[1] if text else ""


async def page(request: Request) -> Response:
    """The flame graph with its table."""
    given = answers.only(request, "function", "id", "show", "lines")
    asked: dict[str, Any] = {
        "function": given.get("function", ""), "id": given.get("id", ""), "show": given.get("show", "wall"),
        "lines": given.get("lines", "0") != "0",
    }  # fmt: skip
    if asked["show"] not in SHOWN:
        raise queries.BadQuery(f"show={asked['show']}: must be one of {', '.join(SHOWN)}")

    def question(view: Any) -> tuple[dict[str, Any] | None, str, list[Any]]:
        identifier = _identifier(view, asked["id"])
        try:
            every = view.profile("", identifier, refresh=False)
        except LookupError as error:
            return None, str(error), []
        try:
            if asked["function"] or asked["show"] == "slow_vs_fast":
                found = view.profile(asked["function"], identifier, asked["show"] == "slow_vs_fast", refresh=False)
            else:
                found = every
        except LookupError as error:
            return None, str(error), every["functions"]
        shaped = flame.shape(found, asked["lines"], asked["show"] == "cpu")
        return {**shaped, "drawing": Markup(shaped["drawing"])}, "", every["functions"]

    source: Source = request.app.state.source
    shaped, nothing, functions = await source.ask(question, key=str(request.url))
    from .pages import render

    return render(request, "profile.html", profile=shaped, nothing=nothing, functions=functions, asked=asked)
