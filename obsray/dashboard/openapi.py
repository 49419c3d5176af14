"""What is below ``/api/``, as OpenAPI 3.1 at ``/api/v1/openapi.json``: every address, its parameters, what it answers.

The tables describe themselves (``tables.py``, the rows of the state API); the rest stands in ``_OPERATIONS``. Answers
may have more fields than are described: none that is described is ever missing.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import types
import typing
from functools import cache
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from obsray.telemetry.log_search import PARAMETERS as LOG_PARAMETERS
from obsray.version import VERSION

from . import plain_json, state_api
from .tables import TABLES

PATH = "/api/v1/openapi.json"
Schema = dict[str, Any]

_WORDS = {
    "text": "string", "whole": "integer", "number": "number", "flag": "boolean", "object": "object", "list": "array",
}  # fmt: skip
#: How the values of a kind of column lie in JSON.
_OF_COLUMNS = {
    "id": "text", "job": "text", "state": "text", "seconds": "number", "share": "number",
    "rate": "number", "size": "number", "count": "number", "clock": "whole", "states": "object",
}  # fmt: skip
_OF_ANNOTATIONS = {str: "text", int: "whole", float: "number", bool: "flag", dict: "object", list: "list"}
_INSTANT = "an instant: seconds, ISO 8601, or ago (30s)"


class Operation(NamedTuple):
    """One method of one address. ``answer`` is a schema, or the media type of something that is no JSON."""

    method: str
    path: str
    summary: str
    answer: Schema | str
    parameters: dict[str, str] = {}
    statuses: tuple[int, ...] = (400,)
    body: bool = False


def routes() -> list[BaseRoute]:
    """The one address."""
    return [Route(PATH, answer)]


async def answer(request: Request) -> Response:
    """The description."""
    return Response(plain_json.dumps(describe()), media_type="application/json")


def _fields(text: str) -> Schema:
    """``name:word name:word?`` as an object that has all of these; ``?``: or null."""
    properties = {}
    for part in text.split():
        name, _, word = part.partition(":")
        kind = _WORDS[word.rstrip("?")]
        properties[name] = {"type": [kind, "null"] if word.endswith("?") else kind}
    return {"type": "object", "required": list(properties), "properties": properties}


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _listed(noun: str) -> Schema:
    """What a list of a noun answers."""
    row: Schema = {}
    for column in TABLES[noun].columns:
        # What is shown as text may be a number or several.
        known = {"type": [_WORDS[_OF_COLUMNS[column.kind]], "null"]} if column.kind in _OF_COLUMNS else {}
        row[column.key] = {"description": column.title, **known}
    found = _fields("rows:list total:whole limit:whole offset:whole")
    found["properties"]["rows"] = _list({"type": "object", "properties": row})
    return found


def _state_rows(resource: str) -> Schema:
    """What a list of the state API answers."""
    single = "".join(word.capitalize() for word in resource.removesuffix("s").split("_"))
    kind = getattr(importlib.import_module(f"{state_api.STATE}.common"), f"{single}State")
    hints = typing.get_type_hints(kind)
    row = {field.name: _of_annotation(hints[field.name]) for field in dataclasses.fields(kind)}
    page = _fields(
        "result:list total:whole num_after_truncation:whole num_filtered:whole partial_failure_warning:text"
        " warnings:list next_cursor:text? left_out:whole"
    )
    page["properties"]["result"] = _list({"type": "object", "properties": row})
    return _replied(page)


def _of_annotation(hint: Any) -> Schema:
    inner = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    words = [_OF_ANNOTATIONS.get(typing.get_origin(each) or each) for each in inner if each is not type(None)]
    # Without ``detail`` many are null.
    return {} if None in words else {"type": sorted({*(_WORDS[str(word)] for word in words), "null"})}


def _replied(found: Schema) -> Schema:
    """The envelope of the state API."""
    reply = _fields("result:flag msg:text data:object")
    reply["properties"]["data"] = {"type": "object", "required": ["result"], "properties": {"result": found}}
    return reply


_JOB = _fields(
    "type:text job_id:text? submission_id:text? status:text entrypoint:text message:text? error_type:text?"
    " start_time:whole? end_time:whole? metadata:object? runtime_env:object?"
)
_WHICH_JOB = {"job": "its id, in hex; by default the one with most tasks"}
_V1 = "/api/v1/"
_ANALYSES = (
    Operation("get", _V1 + "overview", "How the session is", _fields(
        "session:object uptime_seconds:number now_ns:whole nodes:list resources:object tasks:object tasks_total:whole"
        " rates:object workers:object actors:object store:object events_total:whole events_per_second:number"
        " bytes_stored:whole ledger:object telemetry_lag_seconds:number collectors:list gpu:object gpu_devices:list"
        " chaos:object? halts:list recent_errors:list"), {"at": _INSTANT, "from": _INSTANT, "to": _INSTANT}),
    Operation("get", _V1 + "ledger", "Whether everything that was recorded is here", _fields(
        "rings:list nodes:list totals:object tasks:object collectors:list"), statuses=()),
    Operation("get", _V1 + "tasks/{id}", "Everything known about one task", _fields(
        "task_id:text name:text type:text state:text attempt:whole submitted_at_ns:whole? time_split:list"
        " attempts:list children:object arguments:list results:list"), statuses=(400, 404)),
    Operation("get", _V1 + "story/{id}", "What happened to one thing, oldest first", _fields(
        "id:text name:text events:list left_out:whole")),
    Operation("get", _V1 + "why/{id}", "Why a thing is as it is", _fields(
        "id:text noun:text name:text state:text code:text root_code:text sentence:text fix:text facts:list time:list"
        " eta_seconds:number? chain:list"), statuses=(400, 404)),
    Operation("get", _V1 + "books", "Where every second of every worker slot went", _fields(
        "job_id:text? from_ns:whole to_ns:whole wall_seconds:number slots:number cpus:number slot_seconds:number"
        " booked_seconds:number error_ratio:number activities:list functions:list jobs:list waiting:object"
        " more_workers:object gpus:object?"),
        {"job": "its id, in hex; by default all", "over_time": "1: also piece of time by piece of time"}, (400, 404)),
    Operation("get", _V1 + "critical-path", "What the duration of a job consists of", _fields(
        "job_id:text from_ns:whole to_ns:whole seconds:number tasks:whole tasks_on_path:whole kinds:list"
        " functions:list path:list pieces:whole nearly:list gpu:list sentence:text"), _WHICH_JOB, (400, 404)),
    Operation("get", _V1 + "what-if", "How long a job would have taken", _fields(
        "job_id:text tasks:whole actual_seconds:number replayed_seconds:number? error_ratio:number? trusted:flag"
        " scenarios:list sentence:text limits:list refused:list"), {
        **_WHICH_JOB, "workers": "so many times the workers", "network": "so many times faster",
        "driver": "so many times faster", "function": "name=factor, repeatable", "no_stragglers": "1: none",
        "rough": "1: numbers also where replays are far off"}, (400, 404)),
    Operation("get", _V1 + "stragglers", "Tasks that took unusually long, and why", _fields(
        "tasks:whole total:whole stragglers:list functions:list causes:object excess_seconds:number"),
        {"job": "its id, in hex; by default all"}, (400, 404)),
    Operation("get", _V1 + "different", "What is different about some tasks", _fields(
        "selected:whole others:whole differences:list sentence:text"), {
        "where": "COLUMN OP VALUE: these tasks; repeatable", "among": "COLUMN OP VALUE: of these; repeatable"},
        (400, 404)),
    Operation("get", _V1 + "memory", "What fills the object store", _fields(
        "at_ns:whole live:flag objects:whole bytes:whole pinned_bytes:whole spilled_bytes:whole fallback_bytes:whole"
        " store:object peak:object by_age:list by_call_site:list by_function:list by_job:list by_owner:list"
        " by_holder:list suspects:list tasks:list sentence:text")),
    Operation("get", _V1 + "hangs", "What can never go on, and what makes no progress", _fields(
        "hangs:list live:flag blocked:whole looked_at:whole complete:flag drivers:list")),
    Operation("get", _V1 + "post-mortem/{id}", "Why a process ended, and what it did last", _fields(
        "process:text label:text pid:whole? kind:text alive:flag died_at_ns:whole? lived_seconds:number? sentence:text"
        " cause:object? running:list stacks:list memory:object? objects:object? events:list"), statuses=(400, 404)),
    Operation("get", _V1 + "profile", "Where code spends its time", _fields(
        "what:text function:text? id:text? samples:whole seconds:number cpu_seconds:number tasks:whole functions:list"
        " slow_vs_fast:object? notes:list lines:list left_out:whole stacks:list"), {
        "function": "of one function", "id": "of one task, actor or worker", "slow_vs_fast": "1: slow against fast",
        "format": "json, speedscope or collapsed (text)"}, (400, 404)),
    Operation("get", _V1 + "stacks", "What all threads do now", _fields(
        "stacks:list processes:whole threads:whole hidden:whole unheard:list silent_nodes:list"), {
        "id": "only of this task, actor, worker or node", "all": "1: also the runtime's own"}, (400, 404)),
    Operation("get", _V1 + "logs", "Lines of all logs", _fields("lines:list left_out:whole"), {
        **dict.fromkeys(LOG_PARAMETERS, "as the option of 'obsray logs'"), "ignore_case": "1: yes",
        "follow": "1: yes"}),
    Operation("get", _V1 + "sql", "SQL over what was recorded; without a query, the tables", {"anyOf": [
        _fields("columns:list rows:list total:whole left_out:whole"), _fields("tables:list")]}, {
        "query": "SQL (DuckDB's)", "limit": "rows at most", "format": "json, or arrow: a stream of all rows"}),
    Operation("get", _V1 + "sql/tables", "The tables that SQL sees", _fields("tables:list"), statuses=()),
    Operation("get", _V1 + "ask", "What the command line asks of tables that are folded", _fields("version:text"), {
        "question": '{"method": name, "arguments": [...], "options": {...}}'}),
    Operation("get", PATH, "This description", _fields("openapi:text info:object paths:object"), statuses=()),
)  # fmt: skip
_JOBS = (
    Operation("get", "/api/jobs/", "Submitted jobs and drivers, the newest first", _list(_JOB), statuses=()),
    Operation("post", "/api/jobs/", "Submit a job", _fields("submission_id:text job_id:text?"),
        statuses=(400, 409, 413), body=True),
    Operation("get", "/api/jobs/{id}", "One job, or a driver", _JOB, statuses=(404,)),
    Operation("delete", "/api/jobs/{id}", "Forget a job that is over", _fields("deleted:flag"), statuses=(404, 409)),
    Operation("post", "/api/jobs/{id}/stop", "End a job", _fields("stopped:flag"), statuses=(404,)),
    Operation("get", "/api/jobs/{id}/logs", "What its command printed", _fields("logs:text"), statuses=(404,)),
    Operation("get", "/api/jobs/{id}/logs/tail", "What its command prints, as it comes", "text/plain",
        statuses=(404,)),
    Operation("get", "/api/packages/{protocol}/{name}", "Whether a package is here", _fields("package:text"),
        statuses=(400, 404)),
    Operation("put", "/api/packages/{protocol}/{name}", "Store a package", _fields("package:text bytes:whole"),
        statuses=(400, 413), body=True),
    Operation("get", "/api/version", "Versions of the API and of obsray", _fields(
        "version:text obsray_version:text session_name:text"), statuses=()),
    Operation("get", "/api/prometheus/sd", "What Prometheus scrapes", _list(_fields("targets:list labels:object")),
        statuses=()),
)  # fmt: skip


def _state_operations() -> list[Operation]:
    """The state API."""
    prefix = "/api/v0/"
    found = [
        Operation(
            "get", f"{prefix}{name}", f"List {name.replace('_', ' ')}", _state_rows(name),
            dict.fromkeys(sorted(state_api.OF_LISTS), "as of obsray.util.state"), (400, 404, 504),
        )
        for name in state_api.RESOURCES
    ]  # fmt: skip
    found += [
        Operation(
            "get", f"{prefix}{name}/summarize", f"Count {name}", _replied(_fields("result:object")),
            dict.fromkeys(sorted(state_api.OF_SUMMARIES), "as of obsray.util.state"), (400, 404, 504),
        )
        for name in state_api.SUMMARIES
    ]  # fmt: skip
    logs, log = sorted(state_api.OF_LOGS), sorted(state_api.OF_LOG)
    as_function = "as of obsray.util.state.{}"
    return [
        *found,
        Operation(
            "get", prefix + "logs", "Names of log files", _replied({"type": "object"}),
            dict.fromkeys(logs, as_function.format("list_logs")), (400, 404, 504),
        ),
        Operation(
            "get", prefix + "logs/{media_type}", "One log (media_type: file or stream)", "text/plain",
            dict.fromkeys(log, as_function.format("get_log")), (400, 404, 504),
        ),
    ]  # fmt: skip


def operations() -> list[Operation]:
    """Everything below ``/api/``."""
    page = {
        "where": "COLUMN OP VALUE, repeatable", "sort": "a column, with - for descending",
        "limit": "rows, at most 1000",
        "offset": "rows to skip", "name": "a part of the name", "state": "the state", "worker": "a part of its id",
        "job": "its id, in hex", "at": _INSTANT, "from": _INSTANT, "to": _INSTANT,
    }  # fmt: skip
    lists = [
        Operation("get", _V1 + noun, f"List {table.title.lower()}: {table.about}", _listed(noun), page)
        for noun, table in TABLES.items()
    ]
    return [*_ANALYSES, *lists, *_state_operations(), *_JOBS]


@cache
def describe() -> dict[str, Any]:
    """The description, as JSON values."""
    paths: dict[str, dict[str, Any]] = {}
    for each in operations():
        paths.setdefault(each.path, {})[each.method] = _described(each)
    return {
        "openapi": "3.1.0",
        "info": {"title": "obsray", "version": VERSION, "description": "What a session does and did, for programs."},
        "security": [{"token": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "the file 'token' of the session, in hex"}
            },
            "schemas": {"Error": _fields("error:text detail:text"), "StateError": _replied({"type": "null"})},
        },
    }


_SAID = {
    400: "The question is not understood; the answer says why.", 401: "The token is missing or wrong.",
    404: "There is no such thing.", 409: "Not in the state it is in.", 413: "Too large.",
    503: "Too many questions at once, or nothing is recorded yet; ask again in a second.", 504: "No answer in time.",
}  # fmt: skip


def _described(each: Operation) -> dict[str, Any]:
    is_text = isinstance(each.answer, str)
    content = (
        {each.answer: {"schema": {"type": "string"}}} if is_text else {"application/json": {"schema": each.answer}}
    )
    error = "StateError" if each.path.startswith("/api/v0/") else "Error"
    refused = {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}}
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": content}}
    for status in sorted({*each.statuses, 503}):
        responses[str(status)] = {"description": _SAID[status], "content": refused}
    responses["401"] = {"description": _SAID[401]}
    placed = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", each.path)
    ]
    asked = [
        {"name": name, "in": "query", "required": False, "description": text, "schema": {"type": "string"}}
        for name, text in each.parameters.items()
    ]
    found = {"summary": each.summary, "parameters": [*placed, *asked], "responses": responses}
    if each.body:
        kind = "application/octet-stream" if each.method == "put" else "application/json"
        found["requestBody"] = {"required": True, "content": {kind: {"schema": {}}}}
    return found
