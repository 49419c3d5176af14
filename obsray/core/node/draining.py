"""Machine: a node that takes no more work and leaves when what runs there has ended.

Draining is for good: who drains never takes work again. What was wanted here and has not begun goes to other nodes.
Drivers of this node, tasks and actors are waited for, up to the deadline if there is one, and so are processes that own
what others hold. Meanwhile objects that lie only here are moved to other nodes (``moving.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from obsray.core.node.entries import show_bytes
from obsray.core.node.intake import Malformed
from obsray.core.node.moving import Progress
from obsray.core.node.step import Shutdown, Step
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import WorkerState
from obsray.telemetry.events import DeathCause, ProcessKind

if TYPE_CHECKING:
    from obsray.core.node.machine import NodeMachine
    from obsray.core.node.peers import Peer

REASON_CHARACTERS_MAX = 500
#: Other nodes are told at most this often how far it is.
TELL_SECONDS = 0.2


class Draining:
    """``active`` once this node drains; ``deadline``: when it leaves whatever runs, None for never."""

    def __init__(self, machine: NodeMachine) -> None:
        self._machine = machine
        self.active = False
        self.deadline: float | None = None
        self._reason = ""
        self._said: m.DrainProgress | None = None
        self._say_at = 0.0
        machine.abroad.handlers |= {m.DrainNode: self._told, m.DrainProgress: self._progress}
        machine.abroad.on_linked.append(self._linked)

    def ask(self, step: Step, arguments: dict[str, Any]) -> dict[str, Any]:
        """The request "drain". Raises PermissionError, with a sentence, for a node that cannot be drained."""
        node, reason, seconds = (arguments.get(name) for name in ("node", "reason", "deadline_seconds"))
        if_idle = arguments.get("if_idle") is True
        if not isinstance(node, bytes) or not isinstance(reason or "", str):
            raise Malformed("drain takes a node's id and a text")
        if seconds is not None and (not isinstance(seconds, int | float) or not seconds >= 0):
            raise Malformed("deadline_seconds is no number of seconds")
        deadline = None if seconds is None else float(seconds)
        message = m.DrainNode((reason or "")[:REASON_CHARACTERS_MAX], deadline, if_idle)
        peers = self._machine.peers
        if node == self._machine.node:
            if peers.is_head:
                raise PermissionError("the head of a cluster cannot be drained; obsray stop ends the cluster")
            if not if_idle or not self._machine.scaling.busy():
                self.begin(step, message.reason, message.deadline_seconds)
            return {}
        peer = peers.peers.get(node)
        if peer is None or not peer.alive:
            raise PermissionError(f"node {node.hex()} is not, or no longer, in the cluster")
        if peer.facts.head:
            raise PermissionError("the head of a cluster cannot be drained; obsray stop ends the cluster")
        if not peer.linked:
            raise PermissionError(f"node {node.hex()} cannot be reached now; try again")
        step.tell_node(node, message)
        return {}

    def _told(self, step: Step, peer: Peer, message: m.DrainNode) -> None:
        if self._machine.peers.is_head or (message.if_idle and self._machine.scaling.busy()):
            return
        self.begin(step, str(message.reason), message.deadline_seconds)

    def begin(self, step: Step, reason: str, deadline_seconds: float | None) -> None:
        """Take no more work. Saying it again can only bring the deadline nearer."""
        machine = self._machine
        if deadline_seconds is not None:
            deadline = step.now + deadline_seconds
            self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)
            step.wake(self.deadline)
        if not self.active:
            self.active = machine.abroad.draining = True
            self._reason = reason
            machine.scheduler.drain()
            machine.pool.prestart = 0
            told = -1.0 if deadline_seconds is None else deadline_seconds
            step.emit.node_drains(step.time_ns, machine.node, told, step.emit.intern(reason))
        machine.look(step)

    def look(self, step: Step) -> None:
        """Leave if nothing holds this node any more."""
        machine = self._machine
        moved = machine.moving.look(step)
        why = f"it was drained{': ' + self._reason if self._reason else ''}{self._left_behind()}"
        if self.deadline is not None and step.now >= self.deadline:
            step.effects.append(Shutdown(f"{why} (its deadline has come)"))
            return
        drivers = sum(client.kind is ProcessKind.DRIVER and not client.foreign for client in machine.clients.values())
        working = bool(machine.scheduler.leases) or bool(drivers)
        if not working:
            # Now they are only needed for what they own; one that owns what others hold stays until those let go.
            for worker in list(machine.pool.workers.values()):
                if worker.state is WorkerState.IDLE and worker.end_cause is None:
                    machine.pool.retire(step, worker, DeathCause.INTENDED, "its node leaves")
        if not working and not machine.pool.workers and moved:
            step.effects.append(Shutdown(why))
        elif self.deadline is not None:
            step.wake(self.deadline)
        leases = len(machine.scheduler.leases)
        self._say(step, leases, drivers, 0 if working else len(machine.pool.workers))

    def _left_behind(self) -> str:
        progress = self._machine.moving.progress
        lost, size = progress.failed + progress.left, progress.failed_bytes + progress.left_bytes
        if not lost:
            return ""
        because = f": {progress.why}" if progress.why else ""
        return f"; {lost} object{'s' * (lost > 1)} ({show_bytes(size)}) went with it{because}"

    def _say(self, step: Step, leases: int, drivers: int, owners: int) -> None:
        """Tell the other nodes what still holds this one."""
        progress = self._machine.moving.progress
        message = m.DrainProgress(leases, drivers, owners, *(getattr(progress, name) for name in Progress.__slots__))
        if message == self._said:
            return
        if step.now < self._say_at:
            step.wake(self._say_at)
            return
        self._said, self._say_at = message, step.now + TELL_SECONDS
        for peer in self._machine.peers.living():
            if peer.linked:
                step.tell_node(peer.id, message)

    def _progress(self, step: Step, peer: Peer, message: m.DrainProgress) -> None:
        peer.drain = message._asdict()

    def _linked(self, step: Step, peer: Peer) -> None:
        self._said = None

    def described(self) -> dict[str, Any] | None:
        """What holds this node while it drains, for lists of nodes."""
        return None if self._said is None else self._said._asdict()
