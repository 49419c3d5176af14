"""``obsray hangs``: what can never go on, and what has stopped going on."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from obsray.cli import output, sessions
from obsray.dashboard import plain_json, units

#: The exit code if something hangs.
HANGS = 3
_EXAMPLES = """exit codes: 0 nothing hangs, 3 something does, 1 and 2 as for all commands.
examples:
  obsray hangs                       cycles of waits, and tasks that others wait for in vain
  obsray hangs --json                for programs
  obsray hangs || obsray stack       and what they do
"""


def add(verb: Any) -> None:
    """The command and its options."""
    verb("hangs", "What waits for itself, or for something that makes no progress.", run, _EXAMPLES)


def run(options: argparse.Namespace) -> int:
    """Answer ``obsray hangs``; the exit code says whether anything hangs."""
    view = sessions.answers(sessions.find(options.session))
    found = view.hangs(refresh=False)
    print(plain_json.dumps(found) if options.json else _text(found, output.is_coloured(sys.stdout)))
    return HANGS if found["hangs"] else 0


def _text(found: dict[str, Any], coloured: bool) -> str:
    if not found["live"]:
        return "the session is over: nothing waits there any more"
    partly = "" if found["complete"] else "; the graph is larger than is looked at, there may be more"
    looked = f"{units.count(found['blocked'])} blocked task{'s' * (found['blocked'] != 1)}"
    if not found["hangs"]:
        return "\n".join([f"nothing hangs: {looked}, each can go on{partly}", *_drivers(found)])
    lines = [f"{looked}, {len(found['hangs'])} hang{'s' * (len(found['hangs']) != 1)} found{partly}"]
    for hang in found["hangs"]:
        lines += ["", output.paint(units.plain(hang["sentence"]), "bad", coloured), "", *_picture(hang)]
        lines.append(f"{output.bold('what helps', coloured)}  {units.plain(hang['fix'])}")
    waiting = _drivers(found)
    lines += ["", *waiting] if waiting else []
    return "\n".join(lines)


def _drivers(found: dict[str, Any]) -> list[str]:
    """Programs that wait, and for what."""
    return [
        f"{units.plain(one['label'])} {one['how']} "
        + (f"{units.plain(one['for'])}, {one['for_state']}," if one["for"] else "any of several,")
        + f" for {units.seconds(one['seconds'])} so far"
        for one in found["drivers"]
    ]


def _picture(hang: dict[str, Any]) -> list[str]:
    """Each member with its wait below it; of a cycle the last one leads back to the first."""
    members, lines = hang["members"], []
    cycle = hang["kind"] == "cycle"
    for number, member in enumerate(members):
        last = number == len(members) - 1
        rail = ("┌─▶" if number == 0 else "│  ") if cycle else "   "
        on = f" on {units.plain(member['where'])}" if member["where"] else ""
        lines.append(
            f"  {rail} {units.plain(member['label'])}  {member['state']} for {units.seconds(member['seconds'])}{on}"
        )
        if cycle:
            lines.append(f"  {'└──' if last else '│  '}   {units.plain(member['how'])}{' the first' if last else ''}")
    if hang["behind"]:
        lines.append(f"        {units.count(hang['behind'])} more wait behind")
    return lines
