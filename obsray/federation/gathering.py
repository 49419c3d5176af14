"""The side of the head: asks the collectors of all other nodes for what is new, in a thread for each.

A snapshot is handed on only when it is complete: then the positions of its rings are true, and records that come a
second time (after a restart of the head's collector) are known by them.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from obsray.core.protocol.messages import LogFilePieces, TelemetryRows, TelemetryWanted, decode, encode
from obsray.core.transport import chaos
from obsray.core.transport.connection import Connection, Hello
from obsray.core.transport.dial import dial
from obsray.core.transport.handshake import UnknownTarget
from obsray.federation.logs import LogCopies
from obsray.telemetry import session_file
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.rings import RingState
from obsray.telemetry.spine import Emitter, Silent

TARGET = b"collector"
GATHER_SECONDS = 0.5
#: Of a node that leaves: it ends when its last records are here.
LEAVING_SECONDS = 0.05
LOOK_SECONDS = 0.25
ANSWER_SECONDS_MAX = 10.0
RECEIVE_BYTES = 1 << 18
#: Snapshots that wait to be stored; a thread that finds the queue full asks later.
WAITING_MAX = 16

log = logging.getLogger("obsray.collector")


@dataclass
class Snapshot:
    """Records of one node, by kind as Arrow streams, and how far its rings were read. ``last``: there will be no more.

    ``complete``: the node's collector has ended in order and all of it is here. Of one that ended otherwise: how many
    records it was known to have, how long it may have lived on unheard, and how many it made a second.
    """

    node: bytes
    parts: list[tuple[str, bytes]] = field(default_factory=list)
    rings: dict[bytes, RingState] = field(default_factory=dict)
    last: bool = False
    complete: bool = False
    recorded: int = 0
    unheard: tuple[float, float] = (0.0, 0.0)


class _Pulse:
    """How a node's records grow, as far as its answers tell."""

    def __init__(self, now: float) -> None:
        self.recorded = 0
        self._rate = 0.0
        self._heard_at = now
        self._missed_at: float | None = None

    def heard(self, recorded: int, now: float) -> None:
        """It answered, and has so many."""
        if self.recorded and now > self._heard_at:
            self._rate = max(0, recorded - self.recorded) / (now - self._heard_at)
        self.recorded, self._heard_at, self._missed_at = recorded, now, None

    def missed(self, now: float) -> None:
        """It did not answer; it may have been gone since."""
        self._missed_at = self._missed_at or now

    def unheard(self) -> tuple[float, float]:
        """For how many seconds it may have recorded what nobody knows of, and how many a second."""
        until = self._missed_at if self._missed_at is not None else self._heard_at
        return max(0.0, until - self._heard_at), self._rate


class Gathering:
    """``snapshots`` is what has come and is to be stored.

    ``specification``: faults to inject on purpose, recorded by ``emitter``. ``over``: the nodes of which an earlier
    collector has said that nothing more comes.
    """

    def __init__(
        self, session: Path, node: str, token: bytes, specification: str = "", emitter: Emitter | None = None,
        logs_bytes_max: int = 1 << 30, over: Collection[bytes] = (),
    ) -> None:  # fmt: skip
        chaos.activate(specification, ProcessKind.COLLECTOR, bytes.fromhex(node), emitter or Silent())
        self.snapshots: queue.Queue[Snapshot] = queue.Queue(WAITING_MAX)
        self._session, self._node, self._token = session, node, token
        self._logs_bytes_max = logs_bytes_max
        self._known = {node, *(other.hex() for other in over)}
        #: Of each node, whether it leaves, or is gone.
        self._leaves: dict[str, threading.Event] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="obsray-telemetry-gathering", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask nobody any more."""
        self._stopping.set()

    def _watch(self) -> None:
        """Begin with every node that joins, also if it has left again until it is seen."""
        while not self._stopping.wait(LOOK_SECONDS):
            nodes = session_file.read(self._session).get("nodes") or {}
            for node, facts in nodes.items():
                leaves = self._leaves.setdefault(node, threading.Event())
                if facts.get("alive"):
                    leaves.clear()
                else:
                    leaves.set()
                if node not in self._known:
                    self._known.add(node)
                    name = f"obsray-telemetry-{node[:8]}"
                    threading.Thread(target=self._gather, args=(node, facts["address"]), name=name, daemon=True).start()

    def _gather(self, node: str, address: str) -> None:
        """Take what is new until the node is dead or has said all."""
        snapshot, taken, pulse = Snapshot(bytes.fromhex(node)), dict[str, int](), _Pulse(time.monotonic())
        logs = LogCopies(self._session, node, self._logs_bytes_max)
        connection: tuple[Any, Connection] | None = None
        patience, leaves = time.monotonic() + ANSWER_SECONDS_MAX, self._leaves[node]
        while not self._stopping.is_set():
            try:
                if connection is None:
                    me = Hello(bytes.fromhex(self._node), int(ProcessKind.COLLECTOR), os.getpid())
                    sock = dial(address, self._token, me, TARGET, ANSWER_SECONDS_MAX)
                    sock.settimeout(ANSWER_SECONDS_MAX)
                    connection = sock, Connection()
                answer = _ask(connection[0], connection[1], taken)
                pulse.heard(answer.recorded, time.monotonic())
            except (OSError, ValueError) as error:
                if connection is not None:
                    connection[0].close()
                    connection = None
                pulse.missed(time.monotonic())
                # Where the port answers, a node that hardly lived ends, and its collector has yet to start.
                starts = isinstance(error, UnknownTarget) and time.monotonic() < patience
                if leaves.is_set() and not starts:
                    snapshot.last = True
                    snapshot.recorded, snapshot.unheard = pulse.recorded, pulse.unheard()
                    self._hand_on(snapshot)
                    log.info("node %s is gone; its records end here: %s", node, error)
                    return
                self._stopping.wait(GATHER_SECONDS)
                continue
            snapshot.parts += answer.parts
            taken = answer.rows
            if answer.whole:
                snapshot.rings = {
                    bytes.fromhex(ring): RingState.from_json(ring, json.loads(text))
                    for ring, text in answer.rings.items()
                }
                snapshot.last = snapshot.complete = answer.finished
                self._hand_on(snapshot)
                broken = self._take_logs(connection, logs)
                if answer.finished or broken:
                    connection[0].close()
                    connection = None
                if answer.finished:
                    return
                snapshot = Snapshot(bytes.fromhex(node))
                if leaves.wait(GATHER_SECONDS):
                    self._stopping.wait(LEAVING_SECONDS)

    def _take_logs(self, connection: tuple[Any, Connection], logs: LogCopies) -> bool:
        """Copy what is new in the log files of a node; whether the connection broke over it."""
        try:
            while not self._stopping.is_set():
                wanted = logs.wanted()
                if wanted is None:
                    break
                answer = _exchange(*connection, encode(wanted))
                if not isinstance(answer, LogFilePieces):
                    raise ValueError("not an answer of a collector")
                logs.take(answer)
                if answer.whole:
                    break
        except (OSError, ValueError) as error:
            log.warning("the logs of a node are not copied for now: %s", error)
            return True
        return False

    def _hand_on(self, snapshot: Snapshot) -> None:
        while not self._stopping.is_set():
            try:
                self.snapshots.put(snapshot, timeout=GATHER_SECONDS)
                return
            except queue.Full:
                continue


def _ask(sock: Any, connection: Connection, taken: dict[str, int]) -> TelemetryRows:
    question, faults = encode(TelemetryWanted(taken)), chaos.active()
    breaks = faults is not None and faults.pause("TelemetryWanted", b"", question)
    if breaks:
        sock.sendall(connection.pack([question]))
        raise ConnectionError("it was broken on purpose (OBSRAY_CHAOS)")
    answer = _exchange(sock, connection, question)
    if not isinstance(answer, TelemetryRows):
        raise ValueError("not an answer of a collector")
    return answer


def _exchange(sock: Any, connection: Connection, question: Any) -> Any:
    """Send a question and wait for the answer. Raises OSError, ValueError."""
    sock.sendall(connection.pack([question]))
    deadline = time.monotonic() + ANSWER_SECONDS_MAX
    while time.monotonic() < deadline:
        data = sock.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("its collector closed the connection")
        messages = connection.receive(data)
        if messages:
            return decode(messages[0])
    raise TimeoutError("its collector did not answer in time")
