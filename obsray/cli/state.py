"""``obsray list --format``, ``obsray summary``: the rows of ``obsray.util.state`` on the command line."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from obsray.cli import output, sessions
from obsray.dashboard import conditions, units
from obsray.dashboard.tables import Column

#: What people call things -> what the state API calls them.
NOUNS = {"environments": "runtime_envs"}


def run_list(options: argparse.Namespace) -> int:
    """One page of rows in the words of the state API; what was left out is said on stderr."""
    from obsray.util import state

    directory = sessions.find(options.session)
    noun = NOUNS.get(options.noun, options.noun)
    ask = getattr(state, f"list_{noun}", None)
    if ask is None:
        raise sessions.Problem(
            f"{options.noun} have no rows of the state API", "Leave --format and --detail away, or take --json."
        )
    try:
        rows = ask(
            str(directory), [_filter(text) for text in options.filter], options.limit, detail=options.detail,
            sort=options.sort, since=options.since, until=options.until, cursor=options.cursor,
        )  # fmt: skip
    except ValueError as error:
        print(f"obsray list {options.noun}: {error}", file=sys.stderr)
        return 2
    _print(rows, options.format or ("json" if options.json else "yaml" if options.detail else "table"))
    if rows.left_out:
        noun = options.noun.replace("_", " ")
        told = f"{units.count(rows.left_out)} of {units.count(rows.total)} {noun} come after these"
        print(f"obsray: {told}; --limit N for more at once, --cursor {rows.next_cursor} to go on", file=sys.stderr)
    return 0


def run_summary(options: argparse.Namespace) -> int:
    """Counts by function, class or call site, over everything that matches."""
    from obsray.util import state

    ask = getattr(state, f"summarize_{options.noun}")
    try:
        filters = [_filter(text) for text in options.filter]
        found = ask(
            str(sessions.find(options.session)), filters=filters, since=options.since, until=options.until
        )["cluster"]  # fmt: skip
    except ValueError as error:
        print(f"obsray summary {options.noun}: {error}", file=sys.stderr)
        return 2
    if options.json or options.format == "json":
        print(json.dumps(found))
    elif options.format == "yaml":
        sys.stdout.writelines(_yaml([found]))
    else:
        _print_summary(found)
    return 0


def _print_summary(found: dict[str, Any]) -> None:
    coloured = output.is_coloured(sys.stdout)
    totals = [(name, value) for name, value in found.items() if name.startswith("total")]
    print(output.facts([(name.replace("_", " "), _number(value)) for name, value in totals], coloured))
    rows = []
    for name, entry in found["summary"].items():
        states = ", ".join(f"{state}: {units.count(count)}" for state, count in sorted(entry["state_counts"].items()))
        row = {"name": units.plain(name), "type": entry.get("type"), "states": states}
        row.update({key: _number(value) for key, value in entry.items() if key.startswith("total")})
        rows.append(row)
    if rows:
        keys = [key for key in rows[0] if rows[0][key] is not None]
        columns = [Column(key, found["summary_by"] if key == "name" else key) for key in keys]
        print(f"\n{output.table(columns, rows, output.width(), coloured)}")


def _number(value: Any) -> str:
    return units.count(value) if isinstance(value, int) else f"{value:.3f}"


def _filter(text: str) -> tuple[str, str, Any]:
    try:
        return conditions.split(text)
    except conditions.BadCondition as error:
        raise ValueError(str(error)) from None


def _print(rows: Sequence[Any], form: str) -> None:
    plain = [row.asdict() for row in rows]
    if form == "json":
        print(json.dumps(plain, default=str))
    elif form == "yaml":
        sys.stdout.writelines(_yaml(plain))
    elif plain:
        shown = [key for key in plain[0] if any(row[key] is not None for row in plain)]
        columns = [Column(key, key.upper()) for key in shown]
        cells = [{key: _cell(row[key]) for key in shown} for row in plain]
        print(output.table(columns, cells, output.width(), output.is_coloured(sys.stdout)))


def _cell(value: Any) -> str | None:
    if value is None:
        return None
    return units.plain(json.dumps(value, default=str) if isinstance(value, dict | list) else str(value))


def _yaml(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Rows as YAML: a list of mappings, each value as JSON, which YAML reads."""
    empty = True
    for row in rows:
        empty = False
        for at, (key, value) in enumerate(row.items()):
            yield f"{'  ' if at else '- '}{key}: {json.dumps(value, default=str)}\n"
    if empty:
        yield "[]\n"
