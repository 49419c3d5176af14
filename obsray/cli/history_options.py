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


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("a time is a number of seconds above 0")
    return value


def _sql(options: argparse.Namespace) -> int:
    from obsray.cli import sql

    return sql.run(options)
