"""``obsray why``, ``books``, ``critical-path``, ``what-if`` and their like: analyses of what was recorded, as text."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from obsray.cli import output, sessions
from obsray.cli.things import resolved
from obsray.dashboard import plain_json, units

_BAR_CELLS = 24


def run_why(options: argparse.Namespace) -> int:
    """Answer ``obsray why``."""
    from obsray.telemetry.answers.why import UnknownThing

    view = sessions.views(sessions.find(options.session))
    try:
        found = view.why(resolved(view, None, options.id), refresh=False)
    except UnknownThing as error:
        raise sessions.Problem(str(error), "'obsray list tasks' shows ids; give another --session.") from None
    if options.json:
        print(plain_json.dumps(found))
        return 0
    print(_why_text(found, output.is_coloured(sys.stdout)))
    return 0


def _why_text(found: dict[str, Any], coloured: bool) -> str:
    state = units.plain(found["state"])
    lines = [units.plain(found["sentence"])]
    if found["eta_seconds"] is not None:
        lines.append(f"expected in about {units.seconds(found['eta_seconds'])}")
    if found["fix"]:
        lines.append(f"{output.bold('what helps', coloured)}  {units.plain(found['fix'])}")
    if len(found["chain"]) > 1:
        lines += ["", output.bold("what waits for what", coloured)]
        lines += [f"  {'  ' * depth}{units.plain(link['text'])}" for depth, link in enumerate(found["chain"])]
    if found["time"]:
        total = sum(part["seconds"] for part in found["time"]) or 1.0
        lines += ["", output.bold("where the time went", coloured)]
        width = max(len(part["what"]) for part in found["time"])
        for part in found["time"]:
            bar = output.bar(part["seconds"] / total, _BAR_CELLS)
            seconds = units.seconds(part["seconds"])
            lines.append(f"  {part['what'].ljust(width)}  {seconds:>10}  {bar}  {units.plain(part['why'])}")
    if found["facts"]:
        lines += ["", output.bold("facts", coloured), *(f"  {units.plain(fact)}" for fact in found["facts"])]
    lines += ["", f"state {output.paint(state, output.tone_of(state), coloured)}, code {found['code']}"]
    return "\n".join(lines)
