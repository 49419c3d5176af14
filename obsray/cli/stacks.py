"""``obsray stack``: what all threads do now."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from obsray.cli import output, sessions
from obsray.cli.things import resolved
from obsray.dashboard import plain_json, units

_WHO_SHOWN = 5
_EXAMPLES = """examples:
  obsray stack                     what the code of tasks, actors and programs does now, equal stacks once
  obsray stack 3fa2c1d0:42         one task (also an actor, a worker, a node)
  obsray stack --all               also the runtime's own threads and processes, and idle workers
  obsray stack --json              for programs
a process whose interpreter is held by C code is asked by a signal; of one that does not answer the last sample is told.
"""


def add(verb: Any) -> None:
    """The command and its options."""
    made = verb("stack", "What every thread of the cluster does now, equal stacks merged.", run, _EXAMPLES)
    made.add_argument("id", nargs="?", default="", help="only this task, actor, worker or node")
    made.add_argument("--all", action="store_true", help="also threads of the runtime itself")


def run(options: argparse.Namespace) -> int:
    """Answer ``obsray stack``."""
    from obsray.federation import stacks
    from obsray.telemetry.answers.stacks import merged
    from obsray.telemetry.store import is_live

    directory = sessions.find(options.session)
    if not is_live(directory):
        raise sessions.Problem(
            f"the session {directory.name} is over: nothing runs there any more",
            "'obsray profile' shows what was sampled, 'obsray post-mortem ID' what a process did last.",
        )
    processes, silent = stacks.everywhere(directory)
    view = sessions.views(directory)
    identifier = resolved(view, None, options.id) if options.id else ""
    try:
        found = merged(view, processes, silent, identifier, options.all)
    except (LookupError, ValueError) as error:
        raise sessions.Problem(str(error), "See 'obsray stack' for what there is.") from None
    print(plain_json.dumps(found) if options.json else _text(found, output.is_coloured(sys.stdout)))
    return 0


def _text(found: dict[str, Any], coloured: bool) -> str:
    hidden = f"; {found['hidden']} of the runtime itself not shown (--all)" if found["hidden"] else ""
    lines = [
        f"{units.count(found['threads'])} thread{'s' * (found['threads'] != 1)} of "
        f"{units.count(found['processes'])} processes in {len(found['stacks'])} different stacks{hidden}"
    ]
    for row in found["silent_nodes"]:
        lines.append(output.paint(f"node {row['node'][:8]} is missing: {units.plain(row['why'])}", "bad", coloured))
    for row in found["unheard"]:
        lines.append(f"{units.plain(row['label'])} does not answer, {units.plain(row['why'])}")
    for row in found["stacks"]:
        lines += ["", output.bold(f"{units.count(row['count'])} x", coloured)]
        lines += [f"    {units.plain(frame)}" for frame in row["frames"]]
        for who in sorted(row["who"], key=lambda one: -(one["seconds"] or 0.0))[:_WHO_SHOWN]:
            lines.append(f"  {_who(who)}")
        if row["count"] > _WHO_SHOWN:
            lines.append(f"  and {units.count(row['count'] - _WHO_SHOWN)} more (--json has all)")
    return "\n".join(lines)


def _who(who: dict[str, Any]) -> str:
    doing = ""
    if who["task_label"]:
        running = f", running for {units.seconds(who['seconds'])}" if who["seconds"] is not None else ""
        doing = f"{units.plain(who['task_label'])}{running}, "
    how = {
        "signal": " (by signal: the interpreter is held)",
        "sample": f" (sampled {units.seconds(who['age_seconds'])} ago)" if who["age_seconds"] is not None else "",
    }.get(who["how"], "")
    if who["how"] == "signal" and not who["task_label"]:
        how = " (by signal)"
    return f"{doing}{units.plain(who['label'])}, thread {units.plain(who['thread']) or 'unnamed'}{how}"
