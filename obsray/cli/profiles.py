"""``obsray profile``: where the code of tasks spends its time."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from obsray.cli import output, sessions
from obsray.cli.things import resolved
from obsray.dashboard import plain_json, units

if TYPE_CHECKING:
    from obsray.telemetry.answers.profile import Node

_ROWS_MAX = 60
_SHARE_SHOWN_MIN = 0.01
_LINES_SHOWN = 10
_BAR_CELLS = 12
_EXAMPLES = """an id may be cut short as long as it is unique, or be given as lists print it.
examples:
  obsray profile                                        everything that was sampled
  obsray profile --function load                        one function, as a tree
  obsray profile --function load --slow-vs-fast         what its slow tasks do that fast ones do not
  obsray profile --task 3fa2c1d0:42 --html t.html       one task (or actor, or worker), as a flame graph
  obsray profile --function '(driver)'                  the program itself
  obsray profile --speedscope p.speedscope.json         for https://www.speedscope.app
  obsray profile --collapsed - | flamegraph.pl > p.svg  for other tools
"""


def add(verb: Any) -> None:
    """The command and its options."""
    made = verb("profile", "Where the code of functions and tasks spends its time, out of samples.", run, _EXAMPLES)
    made.add_argument("--function", metavar="NAME", default="", help="only this function")
    made.add_argument("--task", metavar="ID", default="", help="only this task, or all calls of this actor or worker")
    made.add_argument("--slow-vs-fast", action="store_true", help="compare slow tasks of the function with fast ones")
    made.add_argument("--cpu", action="store_true", help="count time on a CPU only")
    made.add_argument("--lines", action="store_true", help="tell the lines of a function apart")
    made.add_argument("--html", metavar="FILE", help="write a flame graph that opens offline (- for stdout)")
    made.add_argument("--speedscope", metavar="FILE", help="write a file for speedscope (- for stdout)")
    made.add_argument("--collapsed", metavar="FILE", help="write one line for each stack (- for stdout)")


def run(options: argparse.Namespace) -> int:
    """Answer ``obsray profile``."""
    view = sessions.answers(sessions.find(options.session))
    identifier = resolved(view, None, options.task) if options.task else ""
    try:
        found = view.profile(options.function, identifier, options.slow_vs_fast, refresh=False)
    except (LookupError, ValueError) as error:
        raise sessions.Problem(str(error), "See 'obsray profile' for what was sampled, and --help.") from None
    written = False
    for path, make in (
        (options.html, _html), (options.speedscope, _speedscope), (options.collapsed, _collapsed),
    ):  # fmt: skip
        if path:
            _write(path, make(found, options))
            written = True
    if options.json:
        print(plain_json.dumps(found))
    elif not written:
        print(_text(found, options, output.is_coloured(sys.stdout)))
    return 0


def _html(found: Any, options: argparse.Namespace) -> bytes:
    from obsray.dashboard import flame

    return flame.standalone(found, options.lines, options.cpu).encode()


def _speedscope(found: Any, options: argparse.Namespace) -> bytes:
    from obsray.export import profiles

    return profiles.write(found)


def _collapsed(found: Any, options: argparse.Namespace) -> bytes:
    from obsray.telemetry.answers.profile import collapsed

    return collapsed(found).encode()


def _write(path: str, data: bytes) -> None:
    if path == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        Path(path).write_bytes(data)
    except OSError as error:
        raise sessions.Problem(f"cannot write {path}: {error.strerror or error}", "Give another file.") from None
    print(f"{units.size(len(data))} in {path}")


def _text(found: dict[str, Any], options: argparse.Namespace, coloured: bool) -> str:
    from obsray.telemetry.answers.profile import tree

    compared = found["slow_vs_fast"]
    tasks = f" of {units.count(found['tasks'])} task{'s' * (found['tasks'] != 1)}" if found["tasks"] else ""
    lines = [
        f"{output.bold('profile of ' + units.plain(found['what']), coloured)}: {units.count(found['samples'])} samples"
        f"{tasks} stand for {units.seconds(found['seconds'])}, {units.seconds(found['cpu_seconds'])} of it on a CPU"
    ]
    lines += [units.plain(note) for note in found["notes"]]
    if compared:
        lines += [
            f"{compared['slow_tasks']} slow tasks (from {units.seconds(compared['slow_from_seconds'])}, on average "
            f"{units.seconds(compared['slow_mean_seconds'])}) against {compared['fast_tasks']} fast ones (up to "
            f"{units.seconds(compared['fast_to_seconds'])}, {units.seconds(compared['fast_mean_seconds'])}); of one "
            "slow task, and how much more than of a fast one",
            *(units.plain(note) for note in compared["notes"]),
        ]
    root = tree(found, options.lines, options.cpu)
    lines += ["", *_tree(root, compared is not None, coloured)]
    lines += ["", output.bold("lines with most time", coloured)]
    for row in found["lines"][:_LINES_SHOWN]:
        more = ""
        if compared:
            more = f"  slow {units.seconds(row['slow_seconds']):>8}  fast {units.seconds(row['fast_seconds']):>8}"
        share = row["seconds"] / (found["seconds"] or 1.0)
        lines.append(
            f"  {units.seconds(row['seconds']):>8}  {share:>6.1%}{more}  cpu {units.seconds(row['cpu_seconds']):>8}  "
            f"{units.plain(row['line'])}"
        )
    if not found["function"] and len(found["functions"]) > 1:
        lines += ["", output.bold("functions", coloured)]
        lines += [
            f"  {units.seconds(row['seconds']):>8}  cpu {units.seconds(row['cpu_seconds']):>8}  "
            f"{units.plain(row['function'])}"
            for row in found["functions"][:_LINES_SHOWN]
        ]
    return "\n".join(lines)


def _tree(root: Node, compared: bool, coloured: bool) -> list[str]:
    whole = root.total or 1.0
    lines: list[str] = []
    left_out = 0
    waiting = [(child, 0) for child in reversed(root.sorted())]
    while waiting:
        node, depth = waiting.pop()
        share = node.total / whole
        change = node.total - node.before
        if (share < _SHARE_SHOWN_MIN and abs(change) < _SHARE_SHOWN_MIN * whole) or len(lines) >= _ROWS_MAX:
            left_out += 1
            continue
        if compared:
            tone = "bad" if change > 0.05 * whole else "run" if change < -0.05 * whole else ""
            told = f"{units.seconds(node.total):>8}  {output.paint(f'{change:+8.3f} s', tone, coloured)}"
        else:
            told = f"{units.seconds(node.total):>8}  {share:>6.1%}  {output.bar(share, _BAR_CELLS)}"
        lines.append(f"  {told}  {'  ' * depth}{units.plain(node.name)}")
        waiting.extend((child, depth + 1) for child in reversed(node.sorted()))
    if left_out:
        lines.append(f"  … {left_out} more; --html, --speedscope and --json have all")
    return lines
