"""What was recorded: writing it (``spine``), storing it, and every way of reading it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any


def sql(
    query: str,
    parameters: Sequence[Any] | dict[str, Any] | None = None,
    *,
    session: str | os.PathLike[str] | None = None,
    format: str = "arrow",
    allow_files: bool = False,
    timeout_seconds: float | None = None,
) -> Any:
    """Ask SQL (DuckDB's) over the telemetry of a session, live or over: the tables of ``docs/sql.md``.

        obsray.telemetry.sql("SELECT name, quantile_cont(run_seconds, 0.99) FROM tasks GROUP BY name")

    ``session`` is a directory, a name or part of one; without it, the one this program takes part in, else the newest.
    ``parameters`` stand for ``?`` or ``$name`` in the query. ``format`` is "arrow" (a ``pyarrow.Table``), "pandas" (a
    ``DataFrame``) or "rows" (a list of dictionaries). With ``allow_files`` the query may read and write files.

    Raises ValueError for a query that is refused, wrong or stopped after ``timeout_seconds``, and if DuckDB is not
    installed (``pip install 'obsray[sql]'``); FileNotFoundError if there is no such session.
    """
    from obsray.telemetry import asking, session_file
    from obsray.telemetry.database import engine
    from obsray.telemetry.store import find_session

    if format not in ("arrow", "pandas", "rows"):
        raise ValueError(f'format={format!r}: must be "arrow", "pandas" or "rows"')
    directory = session_file.current if session is None and session_file.current else find_session(_path(session))
    statement = asking.ask(directory, lambda views: engine.prepare(views, query, parameters, allow_files))
    table = statement.run(timeout_seconds)
    if format == "pandas":
        return table.to_pandas()
    return table.to_pylist() if format == "rows" else table


def _path(session: str | os.PathLike[str] | None) -> str | None:
    return None if session is None else os.fspath(session)


#: Analyses, each with ``session=`` as ``sql`` has it: ``obsray.telemetry.questions``.
_ANSWERS = (
    "why", "books", "critical_path", "what_if", "stragglers", "different", "memory", "profile", "stacks", "hangs",
    "post_mortem", "compare",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _ANSWERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from obsray.telemetry import questions

    return getattr(questions, name)


__all__ = ["sql", *_ANSWERS]
