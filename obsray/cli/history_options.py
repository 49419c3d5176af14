"""Options of the commands about a whole session: sql, summary, export, history, report, diff."""

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
_DIFFS = """a moment is 10m (ago), +5s (after the start),
12:03:05, 2026-01-31T12:03:05, now, or seconds since the epoch.
examples:
  obsray diff 5m now
  obsray diff +10s +20s --session s_2026
"""
_HISTORIES = """examples:
  obsray history list                        the sessions on this machine
  obsray history serve s_2026                the dashboard over a session that is over
  obsray history archive s_2026 s3://bucket/obsray     a copy elsewhere
  obsray history list s3://bucket/obsray     what is kept there
  obsray history serve s3://bucket/obsray/s_2026...    the dashboard over a copy
"""
_REPORTS = """examples:
  obsray report                              the newest session, into report-<session>.html
  obsray report s_2026 -o job.html
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

    history = verb("history", "Sessions after their end: listed, shown, kept elsewhere.", _history, _HISTORIES)
    history.add_argument("what", choices=("list", "serve", "archive"))
    history.add_argument("directory", nargs="?", metavar="SESSION", help="directory, name or part of it, address")
    history.add_argument("target", nargs="?", metavar="ADDRESS", help="where to archive it: s3://..., file:///...")
    history.add_argument("--port", type=int, default=8265, help="first port to try when serving (default 8265)")

    report = verb("report", "One HTML file about a session that opens without anything else.", _report, _REPORTS)
    report.add_argument("directory", nargs="?", metavar="SESSION", help="directory, name or part of it, address")
    report.add_argument("-o", "--output", metavar="FILE", help="where to write it")
    report.add_argument(
        "--tasks", type=_whole, default=3_000_000, metavar="N",
        help="tasks in the file; beyond, those that failed or ran longest (default 3000000)",
    )  # fmt: skip

    diff = verb("diff", "What changed in a session between two instants.", _diff, _DIFFS)
    diff.add_argument("before", metavar="MOMENT")
    diff.add_argument("after", metavar="MOMENT")

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


def add_log_options(logs: argparse.ArgumentParser) -> None:
    """Options of ``logs``: which lines."""
    logs.add_argument("--task", metavar="ID", help="lines that this task wrote")
    logs.add_argument("--actor", metavar="ID", help="lines that calls of this actor wrote")
    logs.add_argument("--function", metavar="NAME", help="lines of tasks of this name (or pattern with *)")
    logs.add_argument("--grep", metavar="PATTERN", help="lines in which this regular expression is found")
    logs.add_argument("-i", "--ignore-case", action="store_true", help="upper and lower case are the same to --grep")
    logs.add_argument("--level", metavar="LEVEL", help="log records at least so severe: debug, info, warning, error")
    logs.add_argument("--since", metavar="MOMENT", help="what was written from here on: 10m (ago), 12:03, ...")
    logs.add_argument("--until", metavar="MOMENT", help="what was written before")
    logs.add_argument("--node", metavar="ID", help="of this node's processes (or part of the id)")
    logs.add_argument("--stream", choices=("out", "err", "system"), help="stdout, stderr, or the runtime's own logs")
    logs.add_argument(
        "--tail", type=int, default=1000, metavar="N", help="lines from the end (default 1000, -1 for all)"
    )
    logs.add_argument("-f", "--follow", action="store_true", help="go on as more is written")


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("a time is a number of seconds above 0")
    return value


def _whole(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("a number of tasks is 1 or more")
    return value


def _history(options: argparse.Namespace) -> int:
    from obsray.cli import history, sessions

    if options.what == "list":
        return history.run_list(options)
    options.directory = options.directory or options.session
    if options.what == "archive":
        return history.run_archive(options)
    if options.directory is None:
        raise sessions.Problem("which session?", "obsray history list shows them; obsray history serve SESSION.")
    return history.run_serve(options)


def _report(options: argparse.Namespace) -> int:
    from obsray.cli import history

    return history.run_report(options)


def _diff(options: argparse.Namespace) -> int:
    from obsray.cli import past

    return past.run_diff(options)


def _export(options: argparse.Namespace) -> int:
    from obsray.cli import export

    return export.run(options)


def _summary(options: argparse.Namespace) -> int:
    from obsray.cli import state

    return state.run_summary(options)


def _sql(options: argparse.Namespace) -> int:
    from obsray.cli import sql

    return sql.run(options)
