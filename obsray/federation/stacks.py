"""Stacks of all living processes of a cluster: those of this node, and what the collectors of other nodes say."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from obsray.core.protocol.messages import Stacks, StacksWanted, decode, encode
from obsray.core.transport.connection import Connection, Hello
from obsray.core.transport.dial import dial
from obsray.telemetry import live_stacks, session_file
from obsray.telemetry.events import ProcessKind

Row = dict[str, Any]
TARGET = b"collector"
ANSWER_SECONDS_MAX = 5.0
RECEIVE_BYTES = 1 << 18
NODES_AT_ONCE = 32


def here(session: Path) -> list[Row]:
    """The stacks of the processes of this node's session."""
    node = session_file.read(session).get("node") or ""
    return [{**row, "node": node} for row in live_stacks.gather(session / "rings")]


def everywhere(session: Path) -> tuple[list[Row], list[Row]]:
    """The stacks of all processes of the cluster whose head's session this is, and the nodes that did not answer
    (``node``, ``why``)."""
    facts = session_file.read(session)
    others = {
        node: known["address"]
        for node, known in (facts.get("nodes") or {}).items()
        if node != facts.get("node") and known.get("alive")
    }
    if not others:
        return here(session), []
    found: list[Row] = []
    silent: list[Row] = []
    token = (session / "token").read_bytes()
    with ThreadPoolExecutor(min(NODES_AT_ONCE, len(others))) as pool:
        asked = {node: pool.submit(_ask, address, token, facts["node"]) for node, address in others.items()}
        found += here(session)
        for node, answer in asked.items():
            try:
                found += [{**row, "node": node} for row in answer.result()]
            except (OSError, ValueError) as error:
                silent.append({"node": node, "why": f"its collector does not answer: {error}"})
    return found, silent


def _ask(address: str, token: bytes, node: str) -> list[Row]:
    me = Hello(bytes.fromhex(node), int(ProcessKind.TOOL), os.getpid())
    with dial(address, token, me, TARGET, ANSWER_SECONDS_MAX) as sock:
        sock.settimeout(ANSWER_SECONDS_MAX)
        connection = Connection()
        sock.sendall(connection.pack([encode(StacksWanted())]))
        deadline = time.monotonic() + ANSWER_SECONDS_MAX
        while time.monotonic() < deadline:
            data = sock.recv(RECEIVE_BYTES)
            if not data:
                raise ConnectionError("the connection was closed")
            messages = connection.receive(data)
            if messages:
                answer = decode(messages[0])
                if not isinstance(answer, Stacks):
                    raise ValueError("not an answer of a collector")
                rows: list[Row] = json.loads(answer.processes)
                return rows
    raise TimeoutError("no answer in time")
