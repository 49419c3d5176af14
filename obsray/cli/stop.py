"""``obsray stop`` and ``obsray drain``: nodes leave."""

from __future__ import annotations

import argparse
import os
import select
import signal
import time
from pathlib import Path
from typing import Any

from obsray.cli import sessions
from obsray.cli.sessions import Problem
from obsray.cli.start import STARTED_BY
from obsray.cli.status import drain_text
from obsray.core.runtime import joining
from obsray.core.runtime.node_process import clean_up_after
from obsray.core.runtime.questions import ask
from obsray.dashboard import plain_json, units
from obsray.errors import RaySystemError
from obsray.telemetry import session_file
from obsray.telemetry.store import is_live

FOLLOW_SECONDS = 0.2


def run_stop(options: argparse.Namespace) -> int:
    """End what ``obsray start`` has started here, and say what that was."""
    if options.grace_period < 0:
        raise Problem(f"--grace-period {options.grace_period:g}: must be >= 0 seconds")
    found = started_nodes(options.session)
    ended = end_nodes(found, options.force, options.grace_period)
    if options.json:
        print(plain_json.dumps({"ended": ended}))
    elif not ended:
        print("no node that 'obsray start' has started runs here; what a program started ends with that program")
    else:
        for row in ended:
            role = "the head" if row["head"] else "a node"
            print(f"ended {role} of {row['address']}: node {row['node_id']}, pid {row['pid']}  ({row['how']})")
    return 0


def started_nodes(name: str | None = None) -> list[Path]:
    """The sessions of living nodes that ``obsray start`` has started, those that joined before their heads."""
    paths = [sessions.find(name)] if name else joining.all_sessions()
    found = [path for path in paths if session_file.read(path).get("started_by") == STARTED_BY and is_live(path)]
    return sorted(found, key=lambda path: bool(session_file.read(path).get("head")))


def end_nodes(found: list[Path], force: bool, grace_seconds: float) -> list[dict[str, Any]]:
    """Ask them to end, kill what does not in time; returns when all are gone, with one row for each."""
    deadline = time.monotonic() + grace_seconds
    watched = []
    for path in found:
        facts = session_file.read(path)
        pid = int(facts["node_pid"])
        try:
            descriptor = os.pidfd_open(pid)
            signal.pidfd_send_signal(descriptor, signal.SIGKILL if force else signal.SIGTERM)
            # Also one that somebody has stopped ends in order.
            signal.pidfd_send_signal(descriptor, signal.SIGCONT)
        except ProcessLookupError:
            continue
        watched.append((path, facts, pid, descriptor))
    rows = []
    for path, facts, pid, descriptor in watched:
        how = "killed" if force else "in order"
        if not _ended(descriptor, deadline if not force else time.monotonic() + 5.0):
            how = f"killed: it did not end within {grace_seconds:g} s"
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            _ended(descriptor, time.monotonic() + 5.0)
        os.close(descriptor)
        if how != "in order":
            clean_up_after(path)
        rows.append(
            {
                "node_id": facts.get("node"), "address": facts.get("control_address_tcp") or str(path), "pid": pid,
                "head": bool(facts.get("head")), "session_dir": str(path), "how": how,
            }
        )  # fmt: skip
    return rows


def _ended(descriptor: int, deadline: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0, int((deadline - time.monotonic()) * 1000))))


def run_drain(options: argparse.Namespace) -> int:
    """Tell a node to leave once its work is done."""
    if options.deadline is not None and options.deadline < 0:
        raise Problem(f"--deadline {options.deadline:g}: must be >= 0 seconds")
    directory = sessions.find(options.session)
    try:
        rows = ask(directory, "nodes")
        node = find_node(rows, options.node)
        ask(directory, "drain", node=node["node"], reason=options.reason, deadline_seconds=options.deadline)
    except (OSError, RaySystemError) as error:
        if isinstance(error, (FileNotFoundError, ConnectionRefusedError)) or not is_live(directory):
            raise Problem(
                f"no cluster runs here: nobody answers for session {units.plain(directory.name)}",
                "Name one that runs with --session; 'obsray history list' shows the sessions of this machine.",
            ) from None
        raise Problem(f"{options.node}: {error}") from None
    shown = f"node {node['node'].hex()} ({units.plain(node['name'])})"
    until = "" if options.deadline is None else f", at the latest in {options.deadline:g} s"
    if not options.json:
        hint = "" if options.wait else "; see obsray status"
        print(f"{shown} takes no more work and leaves when what runs there has ended{until}{hint}", flush=True)
    reason = _follow(directory, node["node"], not options.json) if options.wait else None
    if options.json:
        facts = {"node_id": node["node"].hex(), "name": node["name"], "draining": True}
        print(plain_json.dumps({**facts, "left": reason} if options.wait else facts))
    elif reason is not None:
        print(f"{shown} has left: {units.plain(reason)}")
    return 0


def _follow(directory: Path, node: bytes, shows: bool) -> str:
    """Print what still holds a node whenever that changes, until it has left; returns why it is gone."""
    said = ""
    while True:
        try:
            rows = ask(directory, "nodes")
        except (OSError, RaySystemError) as error:
            raise Problem(f"the node that was asked does not answer any more: {error}") from None
        row = next((row for row in rows if row["node"] == node), None)
        if row is None or not row["alive"]:
            return str(row.get("reason") or "it ended") if row is not None else "it ended"
        text = drain_text(row.get("drain") or {})
        if text and text != said and shows:
            said = text
            print(f"  {units.plain(text)}", flush=True)
        time.sleep(FOLLOW_SECONDS)


def find_node(rows: list[dict[str, Any]], text: str) -> dict[str, Any]:
    """The living node of that name, address or (part of an) id. Raises Problem."""
    living = [row for row in rows if row["alive"]]
    found = [row for row in living if text in (row["name"], row.get("address"), row["node"].hex())]
    found = found or [row for row in living if row["node"].hex().startswith(text.lower())]
    if len(found) == 1:
        return found[0]
    there = ", ".join(f"{row['node'].hex()} ({row['name']})" for row in living)
    if not found:
        raise Problem(f"no living node is called {units.plain(text)}", f"There are: {there}.")
    raise Problem(f"{units.plain(text)!r} is more than one node", f"Give more of the id: {there}.")
