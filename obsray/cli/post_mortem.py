"""``obsray post-mortem``: what is left of a process that died."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from obsray.cli import output, sessions
from obsray.cli.things import resolved
from obsray.dashboard import plain_json, units

_BARS = " ▁▂▃▄▅▆▇█"
_EVENTS_SHOWN = 20
_OBJECTS_SHOWN = 8
_EXAMPLES = """an id may be cut short as long as it is unique, or be given as lists print it.
examples:
  obsray post-mortem 3fa2c1d0:42      the process that a task died with
  obsray post-mortem 3fa2c1d0:a1      the last process of an actor
  obsray post-mortem 7c01ab22         a worker (obsray list workers --filter state=DEAD)
"""


def add(verb: Any) -> None:
    """The command and its options."""
    made = verb("post-mortem", "Why a process died, what it did last, and what it had.", run, _EXAMPLES)
    made.add_argument("id", help="worker, actor or task")


def run(options: argparse.Namespace) -> int:
    """Answer ``obsray post-mortem``."""
    view = sessions.answers(sessions.find(options.session))
    try:
        found = view.post_mortem(resolved(view, None, options.id), refresh=False)
    except (LookupError, ValueError) as error:
        raise sessions.Problem(str(error), "See 'obsray list workers'.") from None
    print(plain_json.dumps(found) if options.json else _text(found, output.is_coloured(sys.stdout)))
    return 0


def _text(found: dict[str, Any], coloured: bool) -> str:
    lines = [output.paint(units.plain(found["sentence"]), "" if found["alive"] else "bad", coloured)]
    if found["lived_seconds"] is not None:
        lines.append(f"it {'has lived' if found['alive'] else 'lived'} for {units.seconds(found['lived_seconds'])}")
    for one in found["running"]:
        ran = f", running for {units.seconds(one['seconds'])}" if one["seconds"] is not None else ""
        lines.append(f"in the middle of {units.plain(one['label'])}{ran}")
    if found["stacks"]:
        lines += ["", output.bold("what it was seen in last", coloured)]
    for stack in found["stacks"]:
        what = units.plain(stack.get("function") or "no task")
        lines.append(f"  {what}, thread {units.plain(stack['name'])}, {units.seconds(stack['age_seconds'])} before")
        lines += [f"      {units.plain(frame)}" for frame in stack["stack"]]
    memory = found["memory"]
    if memory["points"]:
        lines += ["", f"{output.bold('memory', coloured)}  {sparkline([p['rss_bytes'] for p in memory['points']])}"]
        lines.append(
            f"  resident {units.size(memory['first_bytes'])} at first, {units.size(memory['peak_bytes'])} at most, "
            f"{units.size(memory['last_bytes'])} at last"
        )
    objects = found["objects"]
    lines += [
        "",
        f"{output.bold('objects', coloured)}  owned {units.count(objects['owned_count'])} "
        f"({units.size(objects['owned_bytes'])}), had mapped {units.count(objects['mapped_count'])} "
        f"({units.size(objects['mapped_bytes'])})",
    ]
    for row in objects["owned"][:_OBJECTS_SHOWN]:
        of = f" of {units.plain(row['producer'])}" if row["producer"] else ""
        at = f", put at {units.plain(row['call_site'])}" if row["call_site"] else ""
        lines.append(f"  {units.size(row['bytes']):>10}  {units.short_id(row['object_id'])} {row['kind']}{of}{at}")
    lines += ["", output.bold("last events", coloured)]
    for record in found["events"][-_EVENTS_SHOWN:]:
        lines.append(f"  {units.clock(record['time_ns'])}  {units.plain(record['text'])}")
    return "\n".join(lines)


def sparkline(values: list[int]) -> str:
    """Numbers as a row of bars, from nothing to the highest."""
    highest = max(values) or 1
    return "".join(_BARS[round(value / highest * (len(_BARS) - 1))] for value in values)
