"""``obsray status``: a doctor's note on a session."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from obsray.cli import output, sessions
from obsray.core.protocol.labels import NODE_ID
from obsray.dashboard import plain_json, units
from obsray.dashboard.shapes import overview_shape
from obsray.dashboard.tables import Column

UNIT = 10_000
_NODES = (
    Column("node_id", "Node"), Column("name", "Name"), Column("role", "Role"), Column("state", "State", "state"),
    Column("address", "Address"), Column("free", "Free/total"), Column("labels", "Labels", rank=2),
    Column("reason", "Reason", rank=2),
)  # fmt: skip
_TYPES = (
    Column("node_type", "Node type"), Column("resources", "Resources"), Column("running", "Running"),
    Column("starting", "Starting"), Column("leaving", "Leaving"), Column("min_workers", "Min"),
    Column("max_workers", "Max"), Column("error", "Not started because", rank=2),
)  # fmt: skip
DECISIONS_SHOWN = 5
DEMANDS_SHOWN = 10
#: How many pending tasks are asked why they are pending.
PENDING_ASKED_MAX = 20
REASONS_SHOWN = 3
ERRORS_SHOWN = 3
FAULTS_SHOWN = 6


def run(options: argparse.Namespace) -> int:
    from obsray.telemetry import session_file
    from obsray.telemetry.store import is_live

    directory = sessions.find(options.session)
    if options.at is not None:
        return _run_at(directory, options)
    view = sessions.answers(directory)
    facts, live, reasons = session_file.read(directory), is_live(directory), pending_reasons(view)
    nodes = cluster_nodes(directory, facts) if live else []
    if options.json:
        print(
            plain_json.dumps(
                {
                    "session": directory.name,
                    "live": live,
                    "pending_reasons": reasons,
                    "cluster_nodes": nodes,
                    "autoscaler": view.scaling(refresh=False),
                    **view.overview(refresh=False),
                }
            )
        )
        return 0
    shape = {**overview_shape(view), "jobs": view.jobs(refresh=False)}
    coloured = output.is_coloured(sys.stdout)
    print(_text(directory, facts, live, shape, reasons, coloured))
    if nodes:
        heading = f"nodes of the cluster at {units.plain(facts.get('control_address_tcp'))}"
        print(f"\n{output.bold(heading, coloured)}\n{output.table(_NODES, nodes, output.width(), coloured)}")
    scaling = view.scaling(DECISIONS_SHOWN, refresh=False)
    if scaling is not None:
        print(f"\n{scaling_text(scaling, coloured)}")
    return 0


def scaling_text(scaling: dict[str, Any], coloured: bool) -> str:
    """What the autoscaler has, what waits and what becomes of it, and what it did last."""
    lines = [output.bold("autoscaler", coloured), output.table(_TYPES, scaling["types"], output.width(), coloured)]
    if scaling["wish"] and scaling["wish"]["bundles"]:
        wish = scaling["wish"]
        lines += ["", f"asked for: room for {wish['bundles']} bundles ({units.plain(wish['resources'])})"]
    if scaling["demands"]:
        lines += ["", output.bold("what waits, and what becomes of it", coloured)]
        for row in scaling["demands"][:DEMANDS_SHOWN]:
            verdict = row["verdict"].replace("_", " ")
            shown = f"{row['units']} × {row['demand']}: {verdict}: {row['why']}"
            lines.append(f"  {units.plain(shown)}")
        if len(scaling["demands"]) > DEMANDS_SHOWN:
            lines.append(f"  and {len(scaling['demands']) - DEMANDS_SHOWN} more; --json has all")
    if scaling["decisions"]:
        lines += ["", output.bold("recent decisions", coloured)]
        for row in scaling["decisions"][:DECISIONS_SHOWN]:
            lines.append(f"  {units.clock(row['time_ns'])}  {units.plain(row['text'])}")
    return "\n".join(lines)


def _run_at(directory: Path, options: argparse.Namespace) -> int:
    """The same note, as it would have been written at a past instant."""
    from obsray.cli import past
    from obsray.telemetry import session_file

    view = past.at(directory, options.at)
    reasons = pending_reasons(view)
    if options.json:
        facts = {"session": directory.name, "at_ns": view.now_ns(), "live": view.store.is_live()}
        print(plain_json.dumps({"pending_reasons": reasons, **view.overview(refresh=False), **facts}))
        return 0
    shape = {**overview_shape(view), "jobs": view.jobs(refresh=False)}
    print(f"as of {units.moment(view.now_ns())}")
    text = _text(directory, session_file.read(directory), False, shape, reasons, output.is_coloured(sys.stdout))
    print(text.replace("ended", "then", 1))
    return 0


def cluster_nodes(directory: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each node of the cluster, as the node of this session knows them; empty for a node on its own."""
    from obsray.core.runtime.questions import ask
    from obsray.errors import RaySystemError
    from obsray.telemetry.pids import halted

    if not facts.get("control_address_tcp"):
        return []
    if halted(int(facts.get("node_pid") or 0)):
        print("obsray: the node stands still and cannot say what the cluster is", file=sys.stderr)
        return []
    try:
        rows = ask(directory, "nodes")
    except (OSError, RaySystemError) as error:
        print(f"obsray: the node does not say what the cluster is: {error}", file=sys.stderr)
        return []
    return [_node_row(row) for row in rows]


def _node_row(row: dict[str, Any]) -> dict[str, Any]:
    state = str(row.get("state") or ("ALIVE" if row["alive"] else "DEAD"))
    if row["alive"] and row.get("draining"):
        state = "DRAINING"
    free = row.get("available") or {}
    amounts = {name: amount / UNIT for name, amount in row["resources"].items() if name != "memory"}
    shown = [
        f"{name} {free[name] / UNIT:g}/{amount:g}" if row["alive"] and name in free
        else f"{name} {amount:g}"
        for name, amount in sorted(amounts.items())
    ]  # fmt: skip
    return {
        "node_id": row["node"].hex(),
        "name": row["name"],
        "state": state,
        "role": "head" if row.get("head") else "",
        "address": row.get("address") or "",
        "free": ", ".join(shown),
        "labels": ", ".join(f"{key}={value}" for key, value in sorted(row["labels"].items()) if key != NODE_ID),
        "reason": row.get("reason") or (drain_text(row.get("drain") or {}) if state == "DRAINING" else ""),
    }


def drain_text(drain: dict[str, Any]) -> str:
    """What still holds a node that drains: ``2 workers in use, 3 objects (1.2 GiB) to move``."""
    parts = []
    if drain.get("leases"):
        parts.append(f"{drain['leases']} workers in use")
    if drain.get("drivers"):
        parts.append(f"{drain['drivers']} programs")
    if drain.get("owners"):
        parts.append(f"{drain['owners']} processes that own what others hold")
    if drain.get("left"):
        parts.append(f"{drain['left']} objects ({units.size(drain['left_bytes'])}) to move")
    if drain.get("moved"):
        parts.append(f"{drain['moved']} moved")
    if drain.get("failed"):
        parts.append(f"{drain['failed']} ({units.size(drain['failed_bytes'])}) cannot be moved: {drain['why']}")
    return ", ".join(parts)


def pending_reasons(view: Any) -> list[dict[str, Any]]:
    """Why tasks are pending, the most frequent reason among the longest waiting first."""
    states = ["PENDING_ARGS_AVAIL", "PENDING_NODE_ASSIGNMENT"]
    waiting = view.tasks(
        filters=[("state", "in", states)], sort="submitted_at_ns", limit=PENDING_ASKED_MAX, refresh=False
    )["rows"]
    found: Counter[str] = Counter()
    example: dict[str, str] = {}
    for row in waiting:
        task = view.task(row["task_id"], refresh=False) or {}
        reason = task.get("pending_reason")
        if reason:
            found[reason] += 1
            example.setdefault(reason, row["task_id"])
    return [
        {"reason": reason, "tasks": tasks, "task_id": example[reason]}
        for reason, tasks in found.most_common(REASONS_SHOWN)
    ]


def _text(
    directory: Path,
    facts: dict[str, Any],
    live: bool,
    shape: dict[str, Any],
    reasons: list[dict[str, Any]],
    coloured: bool,
) -> str:
    state = output.paint("live", "ok", coloured) if live else output.paint("ended", "off", coloured)
    pairs = [("session", f"{units.plain(directory.name)}  {state}, up {units.seconds(shape['uptime_seconds'])}")]
    if live and facts.get("dashboard_url"):
        url = units.plain(facts["dashboard_url"])
        pairs.append(("dashboard", f"{url}  (obsray dashboard prints the link that opens it)"))
    if live and facts.get("control_address_tcp"):
        pairs.append(("control store", _control_text(facts)))
    pairs += [(units.plain(item["name"]), _meter(item["percent"], _amounts(item))) for item in shape["resources"]]
    pairs += [("store", _store_text(shape["store"])), ("workers", _workers_text(shape["workers_by_state"]))]
    if len(shape["jobs"]) > 1:
        pairs.append(("jobs", _jobs_text(shape["jobs"])))
    pairs.append(
        ("tasks", f"{units.count(shape['tasks_total'])}, {units.rate(shape['finished_per_second'])} finished/s")
    )
    for item in shape["tasks"]:
        if item["tasks"]:
            name = output.paint(item["state"].ljust(24), output.tone_of(item["state"]), coloured)
            pairs.append(("", f"{name}{units.count(item['tasks']):>12}"))
    pairs.append(("events", _events_text(shape, coloured)))
    pairs += _collectors_pairs(shape["collectors"], coloured)
    sent = _spans_text(directory)
    if sent:
        pairs.append(("spans", sent))
    pairs += _gpus_pairs(shape.get("gpu_devices") or [], coloured)
    if pushed := _pushes_text(directory):
        pairs.append(("metrics", pushed))
    if shape["gpu"]["kernels"] or shape["gpu"]["notices"]:
        pairs.append(("GPU work", _gpu_text(shape["gpu"])))
    if shape.get("chaos"):
        pairs.append(("chaos", _chaos_text(shape["chaos"], coloured)))
    lines = [output.facts(pairs, coloured)]
    if shape.get("halts"):
        lines += ["", output.bold("what stands still", coloured)]
        lines += [line for row in shape["halts"] for line in _halt_lines(row, coloured)]
    if reasons:
        lines += ["", output.bold("why tasks wait", coloured)]
        lines += [f"  {units.plain(item['reason'])}  (e.g. {units.short_id(item['task_id'])})" for item in reasons]
    if shape["errors"]:
        lines += ["", output.bold("recent errors", coloured), *map(_error_text, shape["errors"][:ERRORS_SHOWN])]
    return "\n".join(lines)


def _halt_lines(row: dict[str, Any], coloured: bool) -> list[str]:
    """Who stands still, since when and why, and what helps."""
    since = units.clock(row["halted_at_ns"])
    told = f"{row['label']} has stood still since {since}: {row['why']}"
    return [f"  {output.paint(units.plain(told), 'bad', coloured)}", f"    {units.plain(row['fix'])}"]


def _control_text(facts: dict[str, Any]) -> str:
    """Where it answers now, since which epoch if it runs here, and who else would take over."""
    address = facts["control_address_tcp"]
    others = [place for place in facts.get("control_addresses", ()) if place != address]
    epoch = f"  epoch {facts['control_epoch']}" if "control_epoch" in facts else ""
    more = f"  (stands by: {', '.join(map(units.plain, others))})" if others else ""
    return f"{units.plain(address)}{epoch}{more}"


def _store_text(store: dict[str, Any]) -> str:
    filled = f"{units.size(store['used_bytes'])} of {units.size(store['capacity_bytes'])}"
    held = f"{units.size(store['pinned_bytes'])} pinned, {units.size(store['spilled_bytes'])} spilled"
    if store["fallback_bytes"]:
        held += f", {units.size(store['fallback_bytes'])} on disk for want of room"
    return _meter(store["used_percent"], f"{filled}, {units.many(store['objects'], 'object')}, {held}")


def _workers_text(by_state: dict[str, int]) -> str:
    shown = [f"{units.count(number)} {name.lower()}" for name, number in sorted(by_state.items()) if number]
    return ", ".join(shown) or "none"


def _jobs_text(jobs: list[dict[str, Any]]) -> str:
    shown = Counter(job["state"].lower() for job in jobs)
    return ", ".join(f"{units.count(number)} {state}" for state, number in sorted(shown.items()))


def _events_text(shape: dict[str, Any], coloured: bool) -> str:
    book = shape["ledger"]
    lost = book["events_lost"] + book.get("events_lost_with_nodes", 0)
    about = book.get("events_lost_estimated", 0)
    verdict = output.paint("none lost", "ok", coloured)
    if lost:
        verdict = output.paint(f"{units.count(lost)} LOST (see the dashboard's ledger page)", "bad", coloured)
    if about:
        verdict += f", about {units.count(about)} more with nodes that are gone"
    return f"{units.count(shape['events_total'])}, {units.rate(shape['events_per_second'])}/s, {verdict}"


def _collectors_pairs(collectors: list[dict[str, Any]], coloured: bool) -> list[tuple[str, str]]:
    """What collecting costs, and whether it can store: a line for each collector that lives, else for the last."""
    found = []
    for one in [row for row in collectors if row["alive"]] or collectors[-1:]:
        told = f"{units.seconds(one['cpu_seconds'])} of CPU"
        if one["alive"] and one["cpu_share"] is not None:
            told += f", {one['cpu_share']:.1%} of a processor in the last minute"
        if one["unstored_since_ns"]:
            since = units.clock(one["unstored_since_ns"])
            failing = output.paint(f"CANNOT STORE since {since}", "bad", coloured)
            told += f"; {failing}: {units.plain(one['unstored_why'])}; make room on the disk of the session directory"
        found.append(("collector", told))
    return found


def _spans_text(directory: Path) -> str:
    """How far the spans were sent; "" if nobody sends them."""
    from obsray.export.sending import state_of

    state = state_of(directory)
    if not state:
        return ""
    told = f"{units.count(int(str(state['sent'])))} sent to {units.plain(state['receiver'])}"
    if state["refused"]:
        told += f", {units.count(int(str(state['refused'])))} refused"
    return told + (f"; waiting: {units.plain(state['error'])}" if state["error"] else "")


def _gpus_pairs(gpus: list[dict[str, Any]], coloured: bool) -> list[tuple[str, str]]:
    """A line for each GPU about which something is known besides that it is there."""
    return [
        (
            f"GPU {gpu['node_id'][:8]}/{gpu['gpu']}",
            output.paint(units.plain(gpu["text"]), "bad" if gpu["reason"] else "", coloured),
        )
        for gpu in gpus
        if gpu["text"]
    ]


def _pushes_text(directory: Path) -> str:
    """How pushing metrics fares; "" if nobody does it."""
    from obsray.metrics.push import states

    said = []
    for who, state in states(directory).items():
        told = (
            f"{units.plain(who)}'s go to {units.plain(state['receiver'])}, {units.count(state['delivered'])} delivered"
        )
        if state["refused"]:
            told += f", {units.count(state['refused'])} refused"
        said.append(told + (f"; {units.plain(state['error'])}" if state["error"] else ""))
    return "; ".join(said)


def _gpu_text(gpu: dict[str, Any]) -> str:
    said = f"{units.count(gpu['kernels'])} kernels"
    if gpu["unattributed_kernels"]:
        said += f", {gpu['unattributed_share']:.1%} of no known task"
    if gpu["records_lost"]:
        said += f", {units.count(gpu['records_lost'])} records lost"
    for text in dict.fromkeys(notice["text"] for notice in gpu["notices"]):
        said += f"; {units.plain(text)}"
    return said


def _chaos_text(chaos: dict[str, Any], coloured: bool) -> str:
    """That faults are injected on purpose must not be overlooked."""
    told = "; ".join(map(units.plain, chaos["specifications"]))
    said = f"{output.paint('faults are injected on purpose', 'bad', coloured)} (OBSRAY_CHAOS={told})"
    hit = [
        f"{units.plain(item['method'])} {item['fault'].replace('_', ' ')} {units.count(item['count'])}x"
        for item in chaos["faults"][:FAULTS_SHOWN]
    ]
    more = len(chaos["faults"]) - len(hit)
    return "; ".join([said, ", ".join(hit) + (f", and {more} more kinds" if more else "") if hit else "none so far"])


def _error_text(error: dict[str, Any]) -> str:
    text = units.plain(error["error"] or error["outcome"] or "")
    what = f"{units.plain(error['name'])} ({units.short_id(error['task_id'])})"
    return f"  {units.clock(error['ended_at_ns'])}  {units.shortened(what, 60)}  {units.shortened(text, 100)}"


def _amounts(item: dict[str, Any]) -> str:
    show = units.size if item["is_bytes"] else units.count
    return f"{show(item['used'])} of {show(item['total'])}"


def _meter(percent: float, text: str) -> str:
    return f"{output.bar(percent / 100)}  {text}"
