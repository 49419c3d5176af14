"""``obsray list NOUN``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from obsray.cli import output, sessions
from obsray.dashboard import plain_json, queries, units
from obsray.dashboard.tables import TABLES

LIMIT_MAX = 100_000


def run_list(options: argparse.Namespace) -> int:
    """Print one page of a listing; the last line says how many there are and how to see more."""
    table = TABLES[options.noun]
    parameters = [("where", text) for text in options.filter] + [
        ("limit", str(options.limit)),
        ("offset", str(options.offset)),
    ]
    if options.sort:
        parameters.append(("sort", options.sort))
    try:
        query = queries.read(table, parameters, LIMIT_MAX)
    except queries.BadQuery as error:
        print(f"obsray list {options.noun}: {error}", file=sys.stderr)
        return 2
    directory = sessions.find(options.session)
    found = queries.rows(sessions.answers(directory), table, query)
    rows, total = found["rows"], found["total"]
    if options.noun == "nodes":
        _complete(rows, directory)
    if options.json:
        print(plain_json.dumps({"session": directory.name, **found, "limit": query.limit, "offset": query.offset}))
        return 0
    if rows:
        print(output.table(table.shown(), rows, output.width(), output.is_coloured(sys.stdout)))
    print(_summary(options.noun, len(rows), total, query))
    return 0


def _complete(rows: list[dict[str, Any]], directory: Path) -> None:
    """What this session has not recorded of other nodes, because they record it themselves, their cluster knows."""
    from obsray.telemetry import session_file
    from obsray.telemetry.store import is_live
    from obsray.util.state import cluster_members

    members = cluster_members(directory, session_file.read(directory)) if is_live(directory) else []
    known = {member["node"].hex(): member for member in members}
    for row in rows:
        member = known.get(row["node_id"])
        if member is not None and not row["pid"]:
            row.update(
                host=member["host"], pid=member["pid"], store_bytes=member["object_store_memory"],
                started_at_ns=member["started_at_ns"],
            )  # fmt: skip


def _summary(noun: str, shown: int, total: int, query: queries.Query) -> str:
    noun = noun.replace("_", " ")
    kind = noun.removesuffix("s") if total == 1 else noun
    matching = f"{kind} that match{'es' if total == 1 else ''}" if query.conditions else kind
    if not total:
        return f"no {matching}"
    if not shown:
        return f"nothing from {units.count(query.offset)} on; there are {units.count(total)} {matching}"
    last = query.offset + shown
    if shown == total:
        return f"{units.count(total)} {matching}"
    more = f"; --offset {last} for more" if last < total else ""
    first = f"{units.count(query.offset + 1)} to {units.count(last)}" if query.offset else units.count(shown)
    return f"{first} of {units.count(total)} {matching}{more}"
