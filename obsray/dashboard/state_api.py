"""The state API of Ray over HTTP, below ``/api/v0/``: lists, summaries and logs, for programs that know it from there.

A list answers ``{"result": true, "msg": "", "data": {"result": {"result": [rows], "total": n, "num_filtered": n,
"num_after_truncation": n, "partial_failure_warning": "", "warnings": [], "next_cursor": text or null, "left_out":
n}}}``, rows as ``obsray.util.state`` has them; what cannot be answered ``{"result": false, "msg": why, "data":
{"result": null}}``.
``timeout`` (seconds) bounds how long an answer may take; what takes longer is an answer with status 504 that says so.
Filters are the repeated parameters ``filter_keys``, ``filter_predicates`` and ``filter_values``. Only here: ``sort``,
``since``, ``until``, ``cursor``, and operators other than ``=`` and ``!=``.
"""

from __future__ import annotations

import asyncio
import importlib
import math
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from obsray.telemetry import asking

from . import plain_json
from .source import Source

_PREFIX = "/api/v0/"
#: Named, not imported: it is also the API of programs that have joined a runtime, of which this process knows nothing.
STATE = "obsray.util.state"
RESOURCES = (
    "tasks", "actors", "objects", "nodes", "workers", "placement_groups", "jobs", "runtime_envs", "cluster_events",
)  # fmt: skip
SUMMARIES = ("tasks", "actors", "objects")
OF_LISTS = frozenset({
    "limit", "timeout", "detail", "exclude_driver", "filter_keys", "filter_predicates", "filter_values", "sort",
    "since", "until", "cursor",
})  # fmt: skip
OF_SUMMARIES = frozenset({
    "timeout", "summary_by", "filter_keys", "filter_predicates", "filter_values", "since", "until",
})  # fmt: skip
_SUMMARIZED_BY = {"tasks": ("func_name",), "actors": ("class",), "objects": ("callsite",)}
OF_LOGS = frozenset({"node_id", "node_ip", "glob", "timeout"})
OF_LOG = frozenset({
    "node_id", "node_ip", "filename", "actor_id", "task_id", "pid", "lines", "interval", "suffix", "attempt_number",
    "submission_id", "timeout", "encoding", "errors", "format",
})  # fmt: skip
LINES_DEFAULT = 1000
_NO_DRIVER_TASKS = (
    "exclude_driver: no task stands for a program here, so none is left out; workers and jobs list programs"
)
_LOOK_SECONDS = 0.2


def routes() -> list[BaseRoute]:
    return [
        *(Route(f"{_PREFIX}{name}", _listing(name)) for name in RESOURCES),
        *(Route(f"{_PREFIX}{name}/summarize", _summary(name)) for name in SUMMARIES),
        Route(_PREFIX + "logs", logs),
        Route(_PREFIX + "logs/{media_type}", log),
    ]


def _state() -> Any:
    return importlib.import_module(STATE)


async def _ask(request: Request, allowed: frozenset[str], question: Callable[[QueryParams, str], Any]) -> Response:
    """The answer to a question about the session, or why there is none."""
    given = request.query_params
    source: Source = request.app.state.source
    unknown = set(given) - allowed
    if unknown:
        return _reply(None, f"there is no parameter {min(unknown)!r}; parameters: {', '.join(sorted(allowed))}", 400)
    directory = source.directory

    def answer(view: Any) -> Any:
        # The same tables as all other pages have, in the same thread.
        asking.use(directory, view)
        return question(given, str(directory))

    try:
        seconds = _timeout(given)
        found = await asyncio.wait_for(source.ask(answer, fresh=True), seconds)
    except TimeoutError:
        return _reply(None, f"no answer within {seconds:g} s: give a longer timeout, or ask for less", 504)
    except FileNotFoundError as error:
        return _reply(None, str(error), 404)
    except (ValueError, TypeError) as error:
        return _reply(None, str(error), 400)
    return found if isinstance(found, Response) else _reply(found)


def _reply(found: Any, message: str = "", status: int = 200) -> Response:
    body = {"result": status == 200, "msg": message, "data": {"result": found}}
    return Response(plain_json.dumps(body), status, media_type="application/json")


def _enveloped(rows: Any, total: int, filtered: int, warnings: list[str] | None = None) -> dict[str, Any]:
    return {
        "result": rows, "total": total, "num_after_truncation": total, "num_filtered": filtered,
        "partial_failure_warning": "", "warnings": warnings or [], "next_cursor": None, "left_out": 0,
    }  # fmt: skip


# --- lists and summaries -----------------------------------------------------------------------------------------


@cache
def _listing(name: str) -> Callable[[Request], Any]:
    def listed(given: QueryParams, address: str) -> dict[str, Any]:
        warnings = [] if _boolean(given, "exclude_driver", True) else [_NO_DRIVER_TASKS]
        rows = getattr(_state(), f"list_{name}")(
            address, _filters(given), _whole(given, "limit", 100), detail=_boolean(given, "detail", False),
            sort=given.get("sort"), since=given.get("since"), until=given.get("until"), cursor=given.get("cursor"),
        )  # fmt: skip
        page = _enveloped([dict(row) for row in rows], rows.total, rows.total, warnings)
        return {**page, "next_cursor": rows.next_cursor, "left_out": rows.left_out}

    async def endpoint(request: Request) -> Response:
        return await _ask(request, OF_LISTS, listed)

    return endpoint


@cache
def _summary(name: str) -> Callable[[Request], Any]:
    def summarized(given: QueryParams, address: str) -> dict[str, Any]:
        by = given.get("summary_by")
        if by is not None and by not in _SUMMARIZED_BY[name]:
            raise ValueError(f"summary_by={by!r}: {name} are summarized by {_SUMMARIZED_BY[name][0]}")
        found = getattr(_state(), f"summarize_{name}")(
            address, filters=_filters(given), since=given.get("since"), until=given.get("until")
        )
        count = sum(value for key, value in found["cluster"].items() if key.startswith("total_") and "size" not in key)
        return _enveloped({"node_id_to_summary": found}, count, count)

    async def endpoint(request: Request) -> Response:
        return await _ask(request, OF_SUMMARIES, summarized)

    return endpoint


def _filters(given: QueryParams) -> list[tuple[str, str, str]]:
    columns = [given.getlist(name) for name in ("filter_keys", "filter_predicates", "filter_values")]
    if len({len(column) for column in columns}) != 1:
        raise ValueError("filter_keys, filter_predicates and filter_values must be given equally often")
    return list(zip(*columns, strict=True))


def _whole(given: QueryParams, name: str, default: int) -> int:
    text = given.get(name, str(default))
    if not text.isdigit():
        raise ValueError(f"{name}={text!r}: must be a whole number")
    return int(text)


def _seconds(given: QueryParams, name: str) -> float:
    try:
        return float(given.get(name, "0"))
    except ValueError:
        raise ValueError(f"{name}={given[name]!r}: must be a number of seconds") from None


def _timeout(given: QueryParams) -> float | None:
    """How long an answer may take; None: as long as it takes."""
    if "timeout" not in given:
        return None
    seconds = _seconds(given, "timeout")
    # Programs that know this API from elsewhere say -1 for "however long".
    if not math.isfinite(seconds) or (seconds <= 0 and seconds != -1):
        raise ValueError(f"timeout={given['timeout']!r}: must be a number of seconds above 0, or -1 for no limit")
    return None if seconds < 0 else seconds


def _boolean(given: QueryParams, name: str, default: bool) -> bool:
    text = given.get(name, str(default)).lower()
    if text not in ("true", "false", "1", "0"):
        raise ValueError(f"{name}={text!r}: must be true or false")
    return text in ("true", "1")


# --- logs --------------------------------------------------------------------------------------------------------


async def logs(request: Request) -> Response:
    """The names of log files, by whose they are."""

    def listed(given: QueryParams, address: str) -> Any:
        return _state().list_logs(
            address, given.get("node_id"), given.get("node_ip"), given.get("glob"), timeout=_NO_WAITING
        )

    return await _ask(request, OF_LOGS, listed)


#: The reading thread has others to answer; what is on its way from another node comes with the next question.
_NO_WAITING = 0


async def log(request: Request) -> Response:
    """The last ``lines`` lines (default 1000, -1: all) of one log as text; ``stream`` instead of ``file`` goes on until
    the session ends."""
    media_type = request.path_params["media_type"]
    if media_type not in ("file", "stream"):
        return _reply(None, f"logs/{media_type}: must be logs/file or logs/stream", 404)

    def opened(given: QueryParams, address: str) -> Response:
        lines = given.get("lines", str(LINES_DEFAULT))
        if not lines.removeprefix("-").isdigit():
            raise ValueError(f"lines={lines!r}: must be a number of lines, or -1 for all")
        if given.get("format", "text") != "text":
            raise ValueError(f"format={given['format']!r}: logs are answered as they are, which is format=text")
        pid = given.get("pid")
        found: Iterator[str] = _state().get_log(
            address, given.get("node_id"), given.get("node_ip"), given.get("filename"), given.get("actor_id"),
            given.get("task_id"), _whole(given, "pid", 0) if pid is not None else None, media_type == "stream",
            int(lines), _NO_WAITING, given.get("suffix", "out"), given.get("encoding", "utf-8"),
            given.get("errors", "replace"), given.get("submission_id"), _whole(given, "attempt_number", 0),
            # Whoever has gone is noticed only between two pieces.
            max(_LOOK_SECONDS, _seconds(given, "interval")),
        )  # fmt: skip
        return StreamingResponse(found, media_type="text/plain")

    return await _ask(request, OF_LOG, opened)
