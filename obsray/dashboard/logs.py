"""Lines of logs, for people and programs: searched over all processes and nodes, and followed.

A question that comes again, as pages that follow do, is answered from where it stood: only what was written since is
read.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from obsray.telemetry.log_search import PARAMETERS, LogQuery, LogSearch
from obsray.telemetry.table import QueryError

from . import identifiers, pages, plain_json
from .queries import BadQuery
from .source import Source

LIMIT_DEFAULT = 500
LIMIT_MAX = 20_000
#: Questions whose place in the files is remembered.
KEPT_MAX = 8
_FLAGS = ("ignore_case", "follow")


class LogQuestions:
    """Used by the reading thread alone."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[tuple[str, str], ...], tuple[LogSearch, deque[dict[str, Any]]]] = OrderedDict()

    def answer(self, view: Any, given: dict[str, str]) -> dict[str, Any]:
        """``{"lines": [...], "left_out": n}``: the newest lines that match, oldest first. Raises BadQuery."""
        key = tuple(sorted(given.items()))
        kept = self._kept.pop(key, None)
        final = not view.store.is_live()
        if kept is None or kept[0].views is not view:
            search = _search(view, given)
            lines = deque(search.newest(final=final))
        else:
            search, lines = kept
            lines.extend(search.more() if not final else search.newest(each=True))
        limit = search.query.limit
        while len(lines) > limit:
            lines.popleft()
            search.left_out += 1
        self._kept[key] = (search, lines)
        while len(self._kept) > KEPT_MAX:
            self._kept.popitem(last=False)
        return {"lines": list(lines), "left_out": search.left_out}


def _search(view: Any, given: dict[str, str]) -> LogSearch:
    asked = {"limit": str(LIMIT_DEFAULT), **{name: value for name, value in given.items() if name not in _FLAGS}}
    try:
        for name, noun in (("task", "tasks"), ("actor", "actors"), ("worker", "workers")):
            if asked.get(name):
                asked[name] = identifiers.resolve(view, noun, asked[name])
        query = LogQuery.read(view.now_ns(), bool(given.get("ignore_case")), **asked)
    except (QueryError, identifiers.UnknownId) as error:
        raise BadQuery(str(error)) from None
    if not 1 <= query.limit <= LIMIT_MAX:
        raise BadQuery(f"limit is between 1 and {LIMIT_MAX:,}, not {query.limit}")
    return LogSearch(view, query)


def routes(prefix: str) -> list[BaseRoute]:
    """The page, and its twin below ``prefix``."""
    return [Route("/logs", page, name="logs"), Route(prefix + "logs", listing)]


def _given(request: Request) -> dict[str, str]:
    given = {name: value for name, value in request.query_params.items() if value != ""}
    unknown = set(given) - {*PARAMETERS, *_FLAGS}
    if unknown:
        raise BadQuery(f"there is no parameter {min(unknown)!r}; parameters: {', '.join((*PARAMETERS, *_FLAGS))}")
    return given


async def _ask(request: Request, given: dict[str, str]) -> dict[str, Any]:
    source: Source = request.app.state.source
    questions: LogQuestions = request.app.state.logs
    return await source.ask(lambda view: questions.answer(view, given))


async def listing(request: Request) -> Response:
    """As JSON; see ``LogQuestions.answer``."""
    return Response(plain_json.dumps(await _ask(request, _given(request))), media_type="application/json")


async def page(request: Request) -> Response:
    """The page; asked by htmx only its lines come."""
    given = _given(request)
    found = await _ask(request, given)
    environment = request.app.state.environment
    fragment = request.headers.get("hx-request") == "true" and request.headers.get("hx-boosted") != "true"
    template = environment.get_template("_logs.html" if fragment else "logs.html")
    frame = pages.frame(request)
    # A page that follows a session asks until that is over.
    over = fragment and given.get("follow") and not frame["is_live"]
    text = template.render(given=given, lines=found["lines"], left_out=found["left_out"], **frame)
    return HTMLResponse(text, status_code=pages.STOP_POLLING if over else 200)
