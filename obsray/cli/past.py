"""``obsray status --at``, ``obsray diff``: a session at an instant, and what changed between two."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from obsray.cli import output, sessions
from obsray.dashboard import plain_json, units
from obsray.dashboard.tables import Column


def at(directory: Path, moment: str) -> Any:
    """The views of a session at a moment. Raises Problem."""
    from obsray.telemetry.past import views_at

    try:
        return views_at(directory, moment)
    except FileNotFoundError as error:
        raise sessions.Problem(f"nothing is recorded in {directory}: {error}", "Give another session.") from None
    except ValueError as error:
        raise sessions.Problem(str(error)) from None


def run_diff(options: argparse.Namespace) -> int:
    """Print what changed between two instants."""
    from obsray.telemetry.past import difference

    directory = sessions.find(options.session)
    before, after = at(directory, options.before), at(directory, options.after)
    if after.now_ns() < before.now_ns():
        before, after = after, before
    found = difference(before, after)
    if options.json:
        print(plain_json.dumps({"session": directory.name, **found}))
        return 0
    print(_text(found, output.is_coloured(sys.stdout)))
    return 0


def _text(found: dict[str, Any], coloured: bool) -> str:
    took = units.seconds((found["until_ns"] - found["from_ns"]) / 1e9)
    lines = [f"from {units.moment(found['from_ns'])} to {units.moment(found['until_ns'])}, {took}"]
    rows = [
        {"state": state, "before": counts["before"], "after": counts["after"], "change": _signed(counts)}
        for state, counts in found["tasks"].items()
        if counts["before"] or counts["after"]
    ]
    columns = [
        Column("state", "Tasks", "state"),
        Column("before", "Before", "count"),
        Column("after", "After", "count"),
    ]
    if rows:
        lines += ["", output.table([*columns, Column("change", "Change")], rows, output.width(), coloured)]
    if found["functions"]:
        of_functions = [
            Column("name", "Function"), Column("submitted", "Submitted", "count"),
            Column("finished", "Finished", "count"), Column("failed", "Failed", "count"),
            Column("cpu_seconds", "CPU", "seconds"),
        ]  # fmt: skip
        lines += ["", output.table(of_functions, found["functions"], output.width(), coloured)]
    for noun in ("actors", "workers", "nodes"):
        changed = found[noun]
        if changed:
            lines += ["", output.bold(noun, coloured)]
            for row in changed:
                name = f"{units.plain(row['name'] or row['id'])} ({row['id'][:8]})"
                lines.append(f"  {name}: {row['before'] or 'not there'} → {row['after']}")
    return "\n".join(lines) if len(lines) > 1 else lines[0] + "\nnothing changed"


def _signed(counts: dict[str, int]) -> str:
    change = counts["after"] - counts["before"]
    return f"{change:+,}" if change else ""
