"""Options of the commands that ask for more than a page: sql."""

from __future__ import annotations

import argparse
from collections.abc import Callable

Run = Callable[[argparse.Namespace], int]
Verb = Callable[..., argparse.ArgumentParser]

_SQL_EXAMPLES = """examples:
  obsray sql                                                      the tables there are
  obsray sql "SELECT name, quantile_cont(run_seconds, 0.99) AS p99 FROM tasks GROUP BY name ORDER BY p99 DESC"
  obsray sql "SELECT * FROM event.worker_died" --json
  obsray sql "FROM attempts WHERE outcome = 'oom'" --format parquet -o oom.parquet
"""
_SUMMARIES = """examples:
  obsray summary tasks
  obsray summary tasks --filter 'state=FAILED' --since 10m
  obsray summary objects --format json
"""
_EXPORTS = """examples:
  obsray export --perfetto                                 into <session>.perfetto-trace
  obsray export --otlp --endpoint http://localhost:4318    send its spans (or as OTEL_* variables say)
  obsray export --parquet -o tables --session s_2026       a recorded session as Parquet files
"""


def add(verb: Verb) -> None:
    """Add the commands to the parser that ``verb`` adds to."""
    sql = verb("sql", "Ask SQL (DuckDB's) over what a session recorded, live or after its end.", _sql, _SQL_EXAMPLES)
    sql.add_argument("query", nargs="?", help="one query that reads; - for stdin; nothing for the tables there are")
    sql.add_argument(
        "--format", choices=("table", "json", "jsonl", "csv", "arrow", "parquet"), help="how the answer is written"
    )
    sql.add_argument("-o", "--output", metavar="FILE", help="where to write it")
    sql.add_argument(
        "--limit", type=int, default=200, metavar="N", help="rows of a table on a terminal (default 200, -1 for all)"
    )
    sql.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="stop the query after this time")
    sql.add_argument("--allow-files", action="store_true", help="let the query read and write files (read_csv, COPY)")

    export = verb("export", "Write a session in the format of another program, or send its spans.", _export, _EXPORTS)
    forms = export.add_mutually_exclusive_group(required=True)
    for form, text in (
        ("perfetto", "Perfetto's format, with arrows"), ("chrome", "Chrome's JSON"), ("otlp", "OpenTelemetry spans"),
        ("parquet", "a directory of Parquet files"), ("speedscope", "speedscope's JSON"),
    ):  # fmt: skip
        forms.add_argument(f"--{form}", dest="form", action="store_const", const=form, help=text)
    export.add_argument("-o", "--output", metavar="FILE", help="where to write it (- for stdout)")
    export.add_argument("--endpoint", metavar="URL", help="with --otlp: send there instead of writing a file")
    export.add_argument("--all", action="store_true", help="with --otlp: also what was sent before")
    export.add_argument(
        "--timeout", type=_seconds, default=60.0, metavar="SECONDS", help="how long a receiver may be away (default 60)"
    )

    summary = verb("summary", "Count tasks, actors or objects by function, class or call site.", _summary, _SUMMARIES)
    summary.add_argument("noun", choices=("tasks", "actors", "objects"), metavar="NOUN", help="tasks, actors, objects")
    summary.add_argument(
        "--filter", action="append", default=[], metavar="CONDITION", help="'key op value', repeatable"
    )
    summary.add_argument("--since", metavar="MOMENT", help="only what began from here on: 10m (ago), 12:03, ...")
    summary.add_argument("--until", metavar="MOMENT", help="only what began before")
    summary.add_argument("--format", choices=("default", "json", "yaml"), help="how the answer is written")


def add_rows(lists: argparse.ArgumentParser) -> None:
    """Options of ``list`` whose answer is rows of ``obsray.util.state``, with its keys."""
    lists.add_argument("--detail", action="store_true", help="all fields, as the state API names them")
    lists.add_argument(
        "--format", choices=("table", "json", "yaml"), help="rows of the state API, with its keys, in this form"
    )
    lists.add_argument("--since", metavar="MOMENT", help="only what began from here on: 10m (ago), 12:03, ...")
    lists.add_argument("--until", metavar="MOMENT", help="only what began before")
    lists.add_argument("--cursor", metavar="CURSOR", help="go on behind an earlier page")


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("a time is a number of seconds above 0")
    return value


def _export(options: argparse.Namespace) -> int:
    from obsray.cli import export

    return export.run(options)


def _summary(options: argparse.Namespace) -> int:
    from obsray.cli import state

    return state.run_summary(options)


def _sql(options: argparse.Namespace) -> int:
    from obsray.cli import sql

    return sql.run(options)
