"""SQL over HTTP: ``/api/v1/sql?query=...``, behind the same guard as everything else.

The tables of a query are made by the reading thread; DuckDB itself runs beside it, so that other questions are
answered meanwhile. A query has ``QUERY_SECONDS_MAX``, sees no files, and only reads.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response

from obsray.telemetry.database import engine
from obsray.telemetry.database.relations import RELATIONS

from . import plain_json
from .queries import BadQuery
from .source import Busy, Source

QUERY_SECONDS_MAX = 20.0
ROWS_DEFAULT = 1000
ROWS_MAX = 100_000
#: Queries that run at the same time; more are refused.
QUERIES_MAX = 2
THREADS = 2
_FORMATS = ("json", "arrow")

_running = 0
_pool = ThreadPoolExecutor(QUERIES_MAX, "sql")


async def answer(request: Request) -> Response:
    """``{"columns": [{"name", "type"}], "rows": [[...]], "total": n, "left_out": n}``, or an Arrow stream of all rows
    with ``format=arrow``; without parameters, what there is to ask."""
    global _running
    given = dict(request.query_params)
    if not given:
        return await tables(request)
    if set(given) - {"query", "limit", "format"} or "query" not in given:
        raise BadQuery("parameters: query (SQL), limit (rows, with format=json), format (json or arrow)")
    form = given.get("format", "json")
    if form not in _FORMATS:
        raise BadQuery(f"format is one of {', '.join(_FORMATS)}, not {form!r}")
    limit = _limit(given.get("limit", str(ROWS_DEFAULT)))
    source: Source = request.app.state.source
    if _running >= QUERIES_MAX:
        raise Busy(f"{QUERIES_MAX} SQL queries are running")
    _running += 1
    try:
        statement = await source.ask(lambda view: engine.prepare(view, given["query"], threads=THREADS))
        table = await asyncio.get_running_loop().run_in_executor(_pool, statement.run, QUERY_SECONDS_MAX)
    except engine.QueryError as error:
        raise BadQuery(str(error)) from None
    finally:
        _running -= 1
    if form == "arrow":
        return Response(_stream(table), media_type="application/vnd.apache.arrow.stream")
    return _json(_page(table, limit))


async def tables(request: Request) -> Response:
    """The tables there are: ``{"tables": [{"name", "text", "columns": [{"name", "type", "unit", "text"}]}]}``."""
    described = [
        {
            "name": relation.name,
            "text": relation.text,
            "columns": [
                {"name": column.name, "type": column.kind, "unit": column.unit, "text": column.text}
                for column in relation.columns
            ],
        }
        for relation in RELATIONS
    ]
    return _json({"tables": described})


def _limit(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= ROWS_MAX:
        raise BadQuery(f"limit is between 1 and {ROWS_MAX:,}, not {text!r}; format=arrow gives all rows")
    return int(text)


def _page(table: pa.Table, limit: int) -> dict[str, Any]:
    shown = table.slice(0, limit)
    columns = [[_value(value) for value in column.to_pylist()] for column in shown.columns]
    return {
        "columns": [{"name": field.name, "type": str(field.type)} for field in table.schema],
        "rows": [list(row) for row in zip(*columns, strict=True)],
        "total": table.num_rows,
        "left_out": table.num_rows - shown.num_rows,
    }


def _value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if hasattr(value, "isoformat") else value


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _json(value: Any) -> Response:
    return Response(plain_json.dumps(value), media_type="application/json")
