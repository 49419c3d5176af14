"""``obsray why``, ``books``, ``critical-path``, ``what-if`` and their like: analyses of what was recorded, as text."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any

from obsray.cli import output, sessions
from obsray.cli.gpu import activity_lines
from obsray.cli.patience import Patience
from obsray.cli.things import resolved
from obsray.dashboard import plain_json, queries, units
from obsray.dashboard.tables import TASKS
from obsray.telemetry.explain import size
from obsray.telemetry.questions import change_of, compare, factor, function_factor, job_of

_BAR_CELLS = 24
_HEIGHTS = "▁▂▃▄▅▆▇█"
_ROWS_SHOWN = 20
TASK_DIGITS = 32
_WHOLE_OBJECT = re.compile(r"[0-9a-f]{40}")
#: The exit code of a comparison in which something got worse.
REGRESSED = 3


def _asked_about(view: Any, text: str) -> str:
    """The full id of what is meant. Of a small value there is no record, but its task is known."""
    if not _WHOLE_OBJECT.fullmatch(text):
        return resolved(view, None, text)
    try:
        return resolved(view, "objects", text)
    except sessions.Problem:
        resolved(view, "tasks", text[:TASK_DIGITS])
        return text


def run_why(options: argparse.Namespace) -> int:
    """Answer ``obsray why``."""
    from obsray.telemetry.answers.why import UnknownThing

    view = sessions.answers(sessions.find(options.session))
    try:
        found = view.why(_asked_about(view, options.id.strip().lower()), refresh=False)
    except UnknownThing as error:
        raise sessions.Problem(str(error), "'obsray list tasks' shows ids; give another --session.") from None
    if options.json:
        print(plain_json.dumps(found))
        return 0
    print(_why_text(found, output.is_coloured(sys.stdout)))
    return 0


def run_books(options: argparse.Namespace) -> int:
    """Answer ``obsray books``."""

    def question(view: Any) -> Any:
        found = view.books(job_of(options.job), refresh=False)
        if options.over_time:
            found["over_time"] = view.slots_over_time(job_of(options.job), refresh=False)
        return found

    return _show(options, _asked(options, question), _books_text)


def run_critical_path(options: argparse.Namespace) -> int:
    """Answer ``obsray critical-path``."""
    found = _asked(options, lambda view: view.critical_path(job_of(options.job), refresh=False))
    return _show(options, found, _path_text)


def run_what_if(options: argparse.Namespace) -> int:
    """Answer ``obsray what-if``."""

    def question(view: Any) -> Any:
        change = change_of(
            factor(options.workers), dict(map(function_factor, options.function)), factor(options.network),
            factor(options.driver), options.no_stragglers,
        )  # fmt: skip
        return view.what_if(
            job_of(options.job), None if change is None else [change], refresh=False, rough=options.rough
        )

    return _show(options, _asked(options, question), _what_if_text)


def run_stragglers(options: argparse.Namespace) -> int:
    """Answer ``obsray stragglers``."""
    found = _asked(options, lambda view: view.stragglers(job_of(options.job), refresh=False))
    return _show(options, found, _stragglers_text)


def run_different(options: argparse.Namespace) -> int:
    """Answer ``obsray different``."""
    try:
        chosen, among = (
            queries.read(TASKS, [("where", text) for text in texts]).conditions
            for texts in (options.where, options.among)
        )
    except queries.BadQuery as error:
        print(f"obsray: {units.plain(error)}", file=sys.stderr)
        return 2
    return _show(options, _asked(options, lambda view: view.different(chosen, among, refresh=False)), _different_text)


def run_compare(options: argparse.Namespace) -> int:
    """Answer ``obsray compare``; the exit code says whether anything got worse."""
    try:
        share = float(options.threshold) / 100
        with Patience() as patience:
            patience.says("reading two sessions and comparing them")
            found = compare(options.before, options.after, threshold=share)
    except FileNotFoundError as error:
        raise sessions.Problem(str(error), "Give directories or names of sessions.") from None
    except ValueError as error:
        raise sessions.Problem(f"--threshold {options.threshold}: {error}", "Give percent, as in 10.") from None
    _show(options, found, _compare_text)
    return REGRESSED if found["regressed"] else 0


def run_memory(options: argparse.Namespace) -> int:
    """Answer ``obsray memory``."""
    return _show(options, _asked(options, lambda view: view.memory(refresh=False)), _memory_text)


def _asked(options: argparse.Namespace, question: Callable[[Any], Any]) -> Any:
    """The answer of a session's views. Raises Problem for what cannot be answered."""
    try:
        with Patience() as patience:
            directory = sessions.find(options.session)
            # A replay changes tables of its own.
            view = (sessions.views if options.command == "what-if" else sessions.answers)(directory, patience)
            patience.says(f"{options.command}: tasks are looked at")
            return question(view)
    except (LookupError, ValueError) as error:
        raise sessions.Problem(str(error), f"See 'obsray {options.command} --help'.") from None


def _show(options: argparse.Namespace, found: Any, text: Callable[[Any, bool], str]) -> int:
    print(plain_json.dumps(found) if options.json else text(found, output.is_coloured(sys.stdout)))
    return 0


def _books_text(found: dict[str, Any], coloured: bool) -> str:
    what = f"job {found['job_id']}" if found["job_id"] else "the session"
    lines = [
        f"{output.bold('books of ' + what, coloured)}: {units.seconds(found['wall_seconds'])} of wall time, "
        f"{found['slots']:.1f} slots on average ({found['cpus']:g} CPU{'' if found['cpus'] == 1 else 's'}), "
        f"{units.seconds(found['slot_seconds'])} of "
        f"slot time; {found['error_ratio']:.2%} of it is not accounted for",
        f"{output.bold('would more workers help?', coloured)} {found['more_workers']['helps']}: "
        f"{found['more_workers']['reason']}",
        "",
    ]
    lines += _activities_text(found["activities"])
    for title, key, name in (("by function", "functions", "name"), ("by job", "jobs", "job_id")):
        rows = found[key][:_ROWS_SHOWN]
        if not rows or (key == "jobs" and len(rows) < 2):
            continue
        lines += ["", output.bold(title, coloured)]
        longest = max(len(units.plain(row[name])) for row in rows)
        for row in rows:
            told = _most_of(row["activities"])
            failed = f"; {units.seconds(row['failed_seconds'])} in failed attempts" if row["failed_seconds"] else ""
            lines.append(
                f"  {units.plain(row[name]).ljust(longest)}  {units.seconds(row['seconds']):>10}  "
                f"{units.many(row['attempts'], 'run')}: {told}{failed}"
            )
    lines += _over_time_text(found["over_time"], coloured) if "over_time" in found else []
    lines += _gpu_books_text(found["gpus"], coloured)
    return "\n".join(lines)


def _over_time_text(found: dict[str, Any], coloured: bool) -> list[str]:
    """A line for each worker: how busy it was, piece of time by piece of time."""
    rows = [found["together"], *found["workers"]]
    longest = max(len(units.plain(row["label"])) for row in rows)
    lines = ["", output.bold(f"over time, {units.seconds(found['piece_seconds'])} a piece", coloured)]
    for row in rows:
        there, busy = [0.0] * found["pieces"], [0.0] * found["pieces"]
        for activity, seconds in row["activities"].items():
            for at, value in enumerate(seconds):
                there[at] += value
                busy[at] += 0.0 if activity.startswith("idle") else value
        cells = (_HEIGHTS[round(b / t * (len(_HEIGHTS) - 1))] if t else " " for b, t in zip(busy, there, strict=True))
        lines.append(f"  {units.plain(row['label']).ljust(longest)}  {''.join(cells)}")
    if found["left_out"]:
        lines.append(f"  and {units.count(found['left_out'])} more workers")
    return lines


def _activities_text(activities: list[dict[str, Any]]) -> list[str]:
    """A line for each activity of some books: seconds, share and what it means."""
    width = max([len(row["activity"]) for row in activities], default=0)
    lines = []
    for row in activities:
        seconds, bar = units.seconds(row["seconds"]), output.bar(row["share"], _BAR_CELLS)
        lines.append(f"  {row['activity'].ljust(width)}  {seconds:>10}  {row['share']:>6.1%}  {bar}  {row['what']}")
    return lines


def _most_of(activities: dict[str, float]) -> str:
    """The three activities that took most, in words."""
    parts = sorted(activities.items(), key=lambda pair: -pair[1])[:3]
    return ", ".join(f"{part} {units.seconds(seconds)}" for part, seconds in parts)


def _gpu_books_text(found: dict[str, Any] | None, coloured: bool) -> list[str]:
    """The books of GPUs, as part of the books."""
    if found is None:
        return []
    many = f"{found['gpus']} GPU{'s' * (found['gpus'] != 1)}"
    lines = [
        "",
        f"{output.bold('GPUs', coloured)}: {many}, {units.seconds(found['slot_seconds'])} of GPU time; "
        f"{found['error_ratio']:.2%} of it is not accounted for",
    ]
    lines += _activities_text(found["activities"])
    for title, key, name in (("GPU time by function", "functions", "name"), ("by job", "jobs", "job_id")):
        rows = found[key][:_ROWS_SHOWN]
        if not rows or (key == "jobs" and len(rows) < 2):
            continue
        lines += ["", output.bold(title, coloured)]
        longest = max(len(units.plain(row[name])) for row in rows)
        for row in rows:
            told = _most_of(row["activities"])
            busy = f"{units.seconds(row['busy_seconds'])} of {units.seconds(row['seconds'])}"
            lines.append(f"  {units.plain(row[name]).ljust(longest)}  worked {busy}: {told}")
    return lines


def _path_text(found: dict[str, Any], coloured: bool) -> str:
    lines = [units.plain(found["sentence"]), ""]
    width = max(len(row["kind"]) for row in found["kinds"])
    for row in found["kinds"]:
        bar = output.bar(row["share"], _BAR_CELLS)
        seconds = units.seconds(row["seconds"])
        lines.append(f"  {row['kind'].ljust(width)}  {seconds:>10}  {row['share']:>6.1%}  {bar}  {row['what']}")
    if found["gpu"]:
        lines += ["", output.bold("what the GPUs of its tasks did meanwhile", coloured)]
        lines += activity_lines(found["gpu"], "  ")
    if found["functions"]:
        lines += ["", output.bold("by function", coloured)]
        lines += [
            f"  {units.seconds(row['seconds']):>10}  {row['share']:>6.1%}  {units.plain(row['name'])}"
            for row in found["functions"][:_ROWS_SHOWN]
        ]
    longest = sorted(found["path"], key=lambda piece: -piece["seconds"])[:_ROWS_SHOWN]
    lines += ["", output.bold(f"the longest of its {found['pieces']} pieces, in order", coloured)]
    for piece in sorted(longest, key=lambda piece: int(piece["from_ns"])):
        at = units.seconds((piece["from_ns"] - found["from_ns"]) / 1e9)
        what = f"{units.plain(piece['name'])} ({piece['task']})" if piece["task"] else ""
        lines.append(f"  +{at:>9}  {units.seconds(piece['seconds']):>10}  {piece['kind'].ljust(width)}  {what}")
    if found["nearly"]:
        lines += ["", output.bold("long tasks beside it, with how much later they may end", coloured)]
        lines += [
            f"  {units.seconds(row['seconds']):>10}  slack {units.seconds(row['slack_seconds']):>10}  "
            f"{units.plain(row['name'])} ({row['task_id']})"
            for row in found["nearly"][:5]
        ]
    return "\n".join(lines)


def _what_if_text(found: dict[str, Any], coloured: bool) -> str:
    lines = [
        f"{output.bold('unchanged', coloured)}: {units.seconds(found['actual_seconds'])} really, "
        f"{units.seconds(found['replayed_seconds'])} replayed, {found['error_ratio']:.1%} off"
        + ("" if found["trusted"] or not found["scenarios"] else "; what follows is a rough guide only"),
        "",
    ]
    for row in found["scenarios"]:
        seconds = units.seconds(row["seconds"])
        lines.append(
            f"  {seconds:>10}  {row['speedup']:>6.2f} x as fast  {units.plain(row['change'])}"
            + (f" (no less: {units.plain(row['bound'])})" if row["bound"] else "")
        )
    why = ""
    for row in found["refused"]:
        if row["why"] != why:
            why = row["why"]
            guess = " (--rough guesses)" if row["rough"] else ""
            lines.append(f"{output.bold('not foretold', coloured)} because {units.plain(why)}{guess}:")
        lines.append(f"  {units.plain(row['change'])}")
    if not found["refused"]:
        lines += [f"{output.bold('with other workers a rough guide', coloured)}: {one}" for one in found["limits"]]
    return "\n".join(lines)


def _stragglers_text(found: dict[str, Any], coloured: bool) -> str:
    causes = ", ".join(f"{count} {cause}" for cause, count in found["causes"].items())
    lines = [
        f"{units.count(found['total'])} of {units.many(found['tasks'], 'task')} took unusually long, "
        f"{units.seconds(found['excess_seconds'])} more than usual in all" + (f": {causes}" if causes else "")
    ]
    for row in found["stragglers"][:_ROWS_SHOWN]:
        lines.append(
            f"  {units.plain(row['name'])} ({row['task']})  {units.seconds(row['seconds'])}, {row['factor']:.1f} x the "
            f"usual {units.seconds(row['usual_seconds'])}  {row['cause']}: {units.plain(row['text'])}"
        )
    uneven = [row for row in found["functions"] if row["uneven"]][:_ROWS_SHOWN]
    if uneven:
        lines += ["", output.bold("uneven functions (p99 against p50)", coloured)]
        lines += [
            f"  {row['skew']:>6.1f} x  p50 {units.seconds(row['p50_seconds'])}, p99 "
            f"{units.seconds(row['p99_seconds'])}, longest {units.seconds(row['max_seconds'])}, "
            f"{units.many(row['runs'], 'run')}  {units.plain(row['name'])}"
            for row in uneven
        ]
    return "\n".join(lines)


def _different_text(found: dict[str, Any], coloured: bool) -> str:
    lines = [
        f"{units.many(found['selected'], 'task')} against {units.many(found['others'], 'other')}: "
        f"{units.plain(found['sentence'])}"
    ]
    for row in found["differences"][:_ROWS_SHOWN]:
        lines.append(f"  {row['effect']:+.2f}  {output.bar(abs(row['effect']), 12)}  {units.plain(row['text'])}")
    return "\n".join(lines)


def _compare_text(found: dict[str, Any], coloured: bool) -> str:
    tone = "bad" if found["regressed"] else "ok"
    lines = [output.paint(units.plain(found["sentence"]), tone, coloured), ""]
    for row in found["functions"]:
        before, after = row["run_seconds"]["before"]["p50"], row["run_seconds"]["after"]["p50"]
        ratio = f"{row['ratio']:.2f} x" if row["ratio"] is not None else ""
        lines.append(
            f"  {row['verdict'].ljust(10)}  {units.seconds(before):>10} → {units.seconds(after):>10}  {ratio:>8}  "
            f"{units.count(row['tasks']['before'])} → {units.many(row['tasks']['after'], 'task')}  "
            f"{units.plain(row['name'])}"
        )
    for row in found["errors"]:
        lines.append(f"  new error   {units.plain(row['error'])} ({units.many(row['tasks'], 'task')})")
    return "\n".join(lines)


def _memory_text(found: dict[str, Any], coloured: bool) -> str:
    peak = f"; at most {size(found['peak']['bytes'])} at once" if found["peak"]["bytes"] else ""
    lines = [units.plain(found["sentence"]) + peak]
    for title, key in (
        ("by call site of put", "by_call_site"), ("by function", "by_function"), ("by job", "by_job"),
        ("by holder", "by_holder"), ("by owner", "by_owner"), ("by age", "by_age"),
    ):  # fmt: skip
        if not found[key]:
            continue
        lines += ["", output.bold(title, coloured)]
        for row in found[key][:_ROWS_SHOWN]:
            oldest = f", the oldest {units.seconds(row['oldest_seconds'])}" if "oldest_seconds" in row else ""
            pinned = f", {units.size(row['pinned_bytes'])} read" if row.get("pinned_bytes") else ""
            lines.append(
                f"  {units.size(row['bytes']):>10}  {units.many(row['objects'], 'object'):>14}  "
                f"{units.plain(row['what'])}{oldest}{pinned}"
            )
    if found["tasks"]:
        lines += ["", output.bold("memory of processes while tasks ran (growth of the worst one)", coloured)]
        lines += [
            f"  {units.size(row['growth_bytes']) if row['growth_bytes'] > 0 else '0 B':>10}  at most "
            f"{units.size(row['peak_bytes'])}  {units.plain(row['name'])} ({row['task']})"
            for row in found["tasks"][:_ROWS_SHOWN]
        ]
    for row in found["suspects"]:
        lines += ["", f"{output.paint('suspected leak', 'bad', coloured)}  {units.plain(row['text'])}"]
    return "\n".join(lines)


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
