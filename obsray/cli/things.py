"""``obsray get``, ``obsray story``: one thing, all that is known about it; ``obsray timeline``: all of them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from obsray.cli import output, sessions
from obsray.cli.gpu import activity_lines
from obsray.dashboard import identifiers, plain_json, queries, units
from obsray.dashboard.tables import TABLES, TASKS, Column

_BAR_CELLS = 24
_KERNELS_SHOWN = 12
_KERNEL_NAME_SHOWN = 100


def run_get(options: argparse.Namespace) -> int:
    directory = sessions.find(options.session)
    view = sessions.answers(directory)
    if options.noun is None:
        options.noun = _noun_of(view, options.id)
    if options.noun != "task":
        return _get_row(view, f"{options.noun}s", options)
    task_id = resolved(view, "tasks", options.id)
    task = view.task(task_id, refresh=False)
    if task is None:
        raise sessions.Problem(f"no task {options.id}", "See 'obsray list tasks'.")
    if options.json:
        print(plain_json.dumps(task))
        return 0
    print(_task_text(task, output.is_coloured(sys.stdout)))
    return 0


def _noun_of(view: Any, text: str) -> str:
    """What kind of thing has an id. Raises Problem."""
    try:
        noun = identifiers.anything(view, text)[0]
    except identifiers.UnknownId as error:
        raise sessions.Problem(units.plain(error), "'obsray list tasks' shows ids; so do the other lists.") from None
    if noun not in identifiers.KEYS:
        raise sessions.Problem(f"{units.plain(text)} is no thing of a list", f"'obsray why {units.plain(text)}' tells.")
    return noun.removesuffix("s")


def _get_row(view: Any, noun: str, options: argparse.Namespace) -> int:
    """One row of a listing, with all its columns."""
    table, identifier = TABLES[noun], resolved(view, noun, options.id)
    query = queries.read(table, [("where", f"{identifiers.KEYS[noun][0]} = {identifier}")])
    found = queries.rows(view, table, query)["rows"]
    if not found:
        raise sessions.Problem(f"no {options.noun} {options.id}", f"See 'obsray list {noun}'.")
    row = found[0]
    if options.json:
        print(plain_json.dumps(row))
        return 0
    coloured = output.is_coloured(sys.stdout)
    state = str(row.get("state") or "")
    title = units.plain(row.get("name") or row.get("class_name") or options.noun.replace("_", " "))
    print(f"{output.bold(title, coloured)}  {output.paint(state, output.tone_of(state), coloured)}")
    if row.get("why"):
        print(units.plain(row["why"]))
    pairs = [pair for column in table.columns if column.key != "why" and (pair := _fact(column, row, True))]
    print(f"\n{output.facts(pairs, coloured)}")
    return 0


def run_story(options: argparse.Namespace) -> int:
    directory = sessions.find(options.session)
    view = sessions.answers(directory)
    found = queries.story(view, resolved(view, None, options.id))
    if options.json:
        print(plain_json.dumps(found))
        return 0
    print(_story_text(found, output.is_coloured(sys.stdout)))
    return 0


def run_timeline(options: argparse.Namespace) -> int:
    from obsray.telemetry import timeline

    directory = sessions.find(options.session)
    view = sessions.views(directory)
    path = options.output or f"timeline-{directory.name}.json"
    if path == "-":
        sys.stdout.buffer.writelines(timeline.write(view, refresh=False))
        return 0
    try:
        with open(path, "wb") as out:
            out.writelines(timeline.write(view, refresh=False))
            written = out.tell()
    except OSError as error:
        raise sessions.Problem(f"cannot write {path}: {error.strerror}", "Give another file with --output.") from None
    if options.json:
        print(plain_json.dumps({"file": path, "bytes": written}))
    else:
        print(f"{units.size(written)} in {path}; open it in https://ui.perfetto.dev or chrome://tracing")
    return 0


def resolved(view: Any, noun: str | None, text: str) -> str:
    """The full id that ``text`` means, of anything if ``noun`` is None. Raises Problem."""
    try:
        return identifiers.resolve(view, noun, text) if noun else identifiers.anything(view, text)[1]
    except identifiers.UnknownId as error:
        raise sessions.Problem(
            units.plain(error), f"'obsray list {noun or 'tasks'}' shows ids; give more of it, or another --session."
        ) from None


def _task_text(task: dict[str, Any], coloured: bool) -> str:
    state, name = str(task["state"]), units.plain(task.get("name") or "")
    lines = [f"{output.bold(name, coloured)}  {output.paint(state, output.tone_of(state), coloured)}"]
    if task.get("pending_reason"):
        lines.append(units.plain(task["pending_reason"]))
    lines += ["", output.facts(_facts(task), coloured)]
    environment = task.get("environment")
    if environment:
        told = f"{environment['environment_id']} {environment['state']} {environment['description']}".rstrip()
        lines += ["", output.bold("environment", coloured), units.plain(told)]
    parts = [part for part in task.get("time_split") or () if part["seconds"]]
    if parts:
        total = sum(part["seconds"] for part in parts)
        longest = max(len(part["what"]) for part in parts)
        lines += ["", output.bold(f"where {units.seconds(total)} went", coloured)]
        for part in parts:
            share = output.bar(part["seconds"] / total, _BAR_CELLS)
            why = units.plain(part.get("why") or "")
            lines.append(
                f"  {part['what'].ljust(longest)}  {units.seconds(part['seconds']):>9}  {share}  {why}".rstrip()
            )
    if task.get("memory"):
        from obsray.telemetry.task_memory import memory_words

        lines += ["", f"{output.bold('memory', coloured)}  {memory_words(task['memory'])}"]
    if task.get("gpu"):
        lines += ["", *_gpu_lines(task["gpu"], coloured)]
    if task.get("error"):
        lines += ["", output.bold("error", coloured), units.plain(task["error"], lines=True)]
    if task["children"]["total"]:
        listing = f"obsray list tasks --filter parent_task_id={task['task_id']}"
        lines += ["", f"{units.count(task['children']['total'])} children: {listing}"]
    return "\n".join(lines)


def _facts(task: dict[str, Any]) -> list[tuple[str, str]]:
    found = [pair for column in TASKS.columns if (pair := _fact(column, task))]
    if task.get("placement_group_id"):
        found.append(("Placement group", task["placement_group_id"]))
    return found


def _gpu_lines(gpu: dict[str, Any], coloured: bool) -> list[str]:
    """GPU work of a task: how busy it kept its GPU, and the kernels that took longest."""
    gpus = ", ".join(map(str, gpu["gpus"])) or "?"
    head = f"on GPU {gpus}: {units.count(gpu['kernels'])} kernels"
    lines = [f"{output.bold(head, coloured)}, {units.seconds(gpu['kernel_seconds'])}"]
    if gpu["busy_share"] is not None:
        share = output.bar(gpu["busy_share"], _BAR_CELLS)
        lines.append(f"  busy {units.seconds(gpu['busy_seconds'])}, idle {units.seconds(gpu['idle_seconds'])}  {share}")
    if gpu["copies"]:
        took = units.seconds(gpu["copy_seconds"])
        lines.append(f"  {units.count(gpu['copies'])} copies of {units.size(gpu['copy_bytes'])} in {took}")
    if gpu["wait_seconds"]:
        lines.append(f"  {units.seconds(gpu['wait_seconds'])} spent waiting for it")
    delay = gpu.get("launch_delay")
    if delay:
        lines.append(
            f"  kernels began {units.seconds(delay['mean_seconds'])} after their launch (p95 "
            f"{units.seconds(delay['p95_seconds'])}, longest {units.seconds(delay['max_seconds'])})"
        )
    lines += activity_lines(gpu.get("activities") or [], "  ")
    if gpu.get("why") and gpu.get("fix"):
        lines.append(f"  it {units.plain(gpu['why'])}. {gpu['fix']}")
    for row in gpu["by_kernel"][:_KERNELS_SHOWN]:
        name = units.shortened(units.plain(row["kernel"]), _KERNEL_NAME_SHOWN)
        took = f"{units.seconds(row['kernel_seconds']):>9}  {units.count(row['launches']):>6}"
        lines.append(f"  {took}  {name}")
    more = len(gpu["by_kernel"]) - _KERNELS_SHOWN
    if more > 0:
        lines.append(f"  and {more} more; --json shows all")
    return lines


def _fact(column: Column, row: dict[str, Any], durations: bool = False) -> tuple[str, str] | None:
    """A column of the listing as a line of its own; what the head says, or a task's time split, is not said again."""
    value = row.get(column.key)
    if value in (None, "") or column.key in ("name", "state"):
        return None
    if not durations and (column.key == "error" or column.key.endswith("_seconds")):
        return None
    if column.kind == "clock":
        return column.title, units.moment(value)
    return column.title, str(value) if column.kind == "id" else output.value_text(column, value)


def _story_text(story: dict[str, Any], coloured: bool) -> str:
    events = story["events"]
    if not events:
        return f"nothing is recorded about {story['id']}"
    first = events[0]["time_ns"]
    labels = [units.plain(event["process_label"]) for event in events]
    longest = min(max(map(len, labels)), 32)
    lines = [f"{output.bold('story of', coloured)} {story['id']}, from {units.moment(first)}"]
    for event, label in zip(events, labels, strict=True):
        tone = {"warning": "block", "error": "bad"}.get(event["severity"], "")
        since = "+" + units.seconds((event["time_ns"] - first) / 1e9)
        told = output.paint(units.plain(event["text"]), tone, coloured)
        lines.append(f"{since:>12}  {units.shortened(label, longest).ljust(longest)}  {told}")
    if story["left_out"]:
        lines.append(f"{units.count(story['left_out'])} events in the middle are not shown")
    return "\n".join(lines)
