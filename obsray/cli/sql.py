"""``obsray sql``: questions in SQL over what a session recorded."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from typing import Any

from obsray.cli import output, sessions
from obsray.dashboard import plain_json, units
from obsray.dashboard.tables import Column

FORMATS = ("table", "json", "jsonl", "csv", "arrow", "parquet")
#: Rows shown on a terminal unless more are asked for.
ROWS_SHOWN = 200
#: Longer values are cut in tables, and only there.
_CELL_CHARACTERS_MAX = 80


def run(options: argparse.Namespace) -> int:
    """Print the answer of one query; without a query, what there is to ask."""
    from obsray.telemetry.database import engine

    query = sys.stdin.read() if options.query == "-" else options.query
    if query is None:
        return _print_relations(options)
    form = "json" if options.json else options.format or ("table" if options.output is None else "csv")
    view = sessions.views(sessions.find(options.session))
    try:
        table = engine.prepare(view, query, allow_files=options.allow_files).run(options.timeout)
    except engine.QueryError as error:
        advice = "'obsray sql' without a query shows the tables."
        raise sessions.Problem(units.plain(str(error), lines=True), advice) from None
    if options.output is not None:
        _write(table, form, options.output)
        print(f"{units.count(table.num_rows)} rows in {options.output}", file=sys.stderr)
    elif form in ("arrow", "parquet"):
        raise sessions.Problem(f"{form} is not for terminals", "Give a file with --output.")
    elif form == "table":
        _print_table(table, options.limit)
    else:
        sys.stdout.writelines(_lines(table, form))
    return 0


def _print_relations(options: argparse.Namespace) -> int:
    from obsray.telemetry.database.relations import RELATIONS

    if options.json:
        print(plain_json.dumps([
            {"table": relation.name, "text": relation.text, "columns": [
                {"name": column.name, "type": column.kind, "unit": column.unit, "text": column.text}
                for column in relation.columns
            ]} for relation in RELATIONS
        ]))  # fmt: skip
        return 0
    coloured = output.is_coloured(sys.stdout)
    for relation in RELATIONS:
        print(f"{output.bold(relation.name, coloured)}  {relation.text}")
        print(f"    {', '.join(column.name for column in relation.columns)}")
    print(
        "\nevent.<kind> holds the records of one kind of event (docs/events.md). docs/sql.md describes the columns.\n"
        'example: obsray sql "SELECT name, quantile_cont(run_seconds, 0.99) FROM tasks GROUP BY name"'
    )
    return 0


def _print_table(table: Any, limit: int) -> None:
    shown = table.slice(0, limit) if limit >= 0 else table
    columns = [
        Column(name, name, "count" if _is_number(table.schema.field(at).type) else "text")
        for at, name in enumerate(table.column_names)
    ]
    names = [f"{at}" for at in range(len(columns))]  # a query may give two columns one name
    keyed = [Column(key, column.title, column.kind) for key, column in zip(names, columns, strict=True)]
    rows = [
        {key: _cell(value) for key, value in zip(names, values, strict=True)}
        for values in zip(*(column.to_pylist() for column in shown.columns), strict=True)
    ]
    if rows:
        print(output.table(keyed, rows, max(output.width(), 80), output.is_coloured(sys.stdout)))
    left = table.num_rows - len(rows)
    more = f"{units.count(len(rows))} of {units.count(table.num_rows)} rows; --limit {table.num_rows} shows all"
    print(more if left else f"{units.count(len(rows))} row{'s' * (len(rows) != 1)}")


def _is_number(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _cell(value: Any) -> str | None:
    if value is None:
        return None
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return units.shortened(units.plain(text), _CELL_CHARACTERS_MAX)


def _lines(table: Any, form: str) -> Iterator[str]:
    names = table.column_names
    if form == "csv":
        lines: list[str] = []
        writer = csv.writer(_Appending(lines), lineterminator="\n")
        writer.writerow(names)
        for batch in table.to_batches(8192):
            writer.writerows(zip(*(column.to_pylist() for column in batch.columns), strict=True))
            yield from lines
            lines.clear()
        yield from lines
        return
    rows = ({name: _json_value(value) for name, value in row.items()} for row in table.to_pylist())
    if form == "jsonl":
        yield from (plain_json.dumps(row) + "\n" for row in rows)
    else:
        yield plain_json.dumps(list(rows)) + "\n"


class _Appending:
    """What csv writes to."""

    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append


def _json_value(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return value.isoformat() if hasattr(value, "isoformat") else value


def _write(table: Any, form: str, path: str) -> None:
    try:
        if form == "parquet":
            import pyarrow.parquet as pq

            pq.write_table(table, path, compression="zstd")
        elif form == "arrow":
            import pyarrow as pa

            with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
        elif form == "table":
            raise sessions.Problem("a table is for terminals", f"Give --format: {', '.join(FORMATS[1:])}.")
        else:
            with open(path, "w", encoding="utf-8") as out:
                out.writelines(_lines(table, form))
    except OSError as error:
        raise sessions.Problem(f"cannot write {path}: {error.strerror or error}", "Give another --output.") from None
