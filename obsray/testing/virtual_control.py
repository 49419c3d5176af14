"""The control store without gRPC, disk and processes: the real machine, its journal, and the nodes' real reporters.

It can be away: what it had not kept by then is lost, and another process becomes what it was by replaying its journal.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from obsray.core.control.journal import unsealed
from obsray.core.control.machine import ControlMachine, from_journal, journal_entry
from obsray.core.control.membership import MembershipSettings
from obsray.core.control.step import Instant, Refuse, Refused
from obsray.core.protocol import control_pb2 as pb
from obsray.core.protocol.lifecycle import NodeState
from obsray.core.transport.control_client import (
    AGAIN,
    PAUSE_GROWTH,
    PAUSE_SECONDS_MAX,
    PAUSE_SECONDS_MIN,
    ControlClient,
    ControlError,
    Fields,
    OnDone,
    _Call,
)
from obsray.core.transport.node_reporter import HEARTBEAT_SECONDS_MAX, NodeReporter
from obsray.testing.agenda import MICROSECOND_NS, MILLISECOND_NS, SECOND_NS, START_NS, Records
from obsray.testing.ledger import Broken

if TYPE_CHECKING:
    from obsray.testing.simulator import Simulator
    from obsray.testing.virtual_node import VirtualNode

CONTROL_ID = b"\0control"
LOOK_NS = 250 * MILLISECOND_NS
#: A follower that was cut off looks this often whether it can be told again.
FOLLOW_NS = 300 * MILLISECOND_NS
RPC_SECONDS_MAX = 5.0
#: Nodes looked at per call, on average: its tables are checked after each call while they are small.
LOOKS_PER_STEP = 24
_NO_ANSWER = "the control store does not answer"

#: Called with a reply or None, and why not: the name of a gRPC status code and a sentence.
Done = Callable[[Any, "tuple[str, str] | None"], None]


class VirtualControl:
    """The control store on the machine of the head."""

    def __init__(self, simulator: Simulator, host: bytes) -> None:
        self.simulator = simulator
        self.agenda, self.network, self.chance = simulator.agenda, simulator.network, simulator.chance
        self.host = host
        self.up = True
        self.records = Records(simulator.log, CONTROL_ID)
        config = simulator.config
        self.settings = MembershipSettings(
            heartbeat_seconds=config.node_heartbeat_seconds,
            suspect_seconds=config.node_suspect_seconds,
            dead_seconds=config.node_dead_seconds,
            refused_seconds=max(2 * config.node_heartbeat_seconds, min(1.0, config.node_suspect_seconds)),
        )
        self.machine = ControlMachine(1, self.settings)
        #: What is on its disk.
        self.journal: list[bytes] = []
        #: Nodes that follow the table of nodes: the epoch and sequence up to which each has been told.
        self._followers: dict[bytes, tuple[int, int]] = {}
        self._kept = 0
        self._looks = 0
        self.agenda.after(LOOK_NS, self._look)

    def now(self) -> Instant:
        """Its clock."""
        return Instant(SECOND_NS + self.agenda.elapsed_ns, START_NS + self.agenda.elapsed_ns)

    # --- calls -------------------------------------------------------------------------------------------------

    def rpc(self, node: VirtualNode, method: str, request: Message, seconds_max: float, done: Done) -> None:
        """A node calls: ``done`` is called once, in its time."""
        answered = False

        def answer(reply: Any, error: tuple[str, str] | None) -> None:
            nonlocal answered
            if not answered:
                answered = True
                node.when_awake(done, reply, error)

        self.agenda.after(int(seconds_max * SECOND_NS), answer, None, ("DEADLINE_EXCEEDED", _NO_ANSWER))
        if not self.network.cut(node.host, self.host):
            self.agenda.after(self.network.latency_ns(), self._called, node.host, request, answer)

    def _called(self, caller: bytes, request: Message, answer: Done) -> None:
        if self.network.cut(caller, self.host):
            return
        if not self.up:
            self._reply(caller, answer, None, ("UNAVAILABLE", "nobody listens there"))
            return
        self._take(request, partial(self._reply, caller, answer))

    def _reply(self, caller: bytes, answer: Done, reply: Any, error: tuple[str, str] | None) -> None:
        if not self.network.cut(caller, self.host):
            self.agenda.after(self.network.latency_ns(), answer, reply, error)

    def _take(self, stimulus: Message, answer: Done | None = None) -> None:
        now, machine = self.now(), self.machine
        effects, events = self.simulator.decide("control", machine.step, now, stimulus)
        self._looks += LOOKS_PER_STEP
        if self._looks > len(machine.membership.entries) or self.simulator.invariants.thorough:
            self._looks = 0
            machine.check_invariants()
        for change in events:
            if change.WhichOneof("row") == "node":
                row, intern = change.node, self.records.intern
                state = intern(NodeState(row.state).name.lower())
                self.records.node_changed(
                    now.wall_ns, row.description.node, state, row.incarnation, intern(row.reason)
                )  # fmt: skip
        if not events and isinstance(stimulus, pb.ReportUnreachableRequest):
            self._declare()
        # No answer, not even one that only reads, before all that led to it is kept.
        wait = self.chance.randint(100 * MICROSECOND_NS, 2 * MILLISECOND_NS)
        self._kept = max(self._kept + 1, self.agenda.elapsed_ns + wait)
        entry = journal_entry(now, stimulus) if events else b""
        self.agenda.at(self._kept, self._keep, machine, entry, effects[0], answer)

    def _keep(self, machine: ControlMachine, entry: bytes, effect: Any, answer: Done | None) -> None:
        if machine is not self.machine or not self.up:
            return
        if entry:
            self.journal.append(entry)
            self._tell_all()
        if answer is not None and isinstance(effect, Refuse):
            answer(None, (effect.refusal.value, effect.detail))
        elif answer is not None:
            answer(effect.message, None)

    # --- followers -----------------------------------------------------------------------------------------------

    def follow(self, node: VirtualNode) -> None:
        """From now on the node hears of all nodes."""
        if self.simulator.founding is not None and not self.simulator.founding.is_complete:
            # It will have heard of all of them when all are there.
            self._followers[node.id] = (0, 0)
        elif node.id not in self._followers and not node.dead:
            self._followers[node.id] = (0, 0)
            self._tell(node)

    def followed_by_all(self) -> None:
        """All nodes have been told all so far."""
        history = self.machine.history
        self._followers = dict.fromkeys(self._followers, (history.epoch, history.last))

    def _tell_all(self) -> None:
        for identifier, position in list(self._followers.items()):
            node = self.simulator.nodes_by_id[identifier]
            if node.dead:
                del self._followers[identifier]
            elif position != (0, 0):
                self._tell(node)

    def _tell(self, node: VirtualNode) -> None:
        """Say what a follower has not heard; if that is impossible, try again later."""
        if node.dead:
            return
        if not self.up or self.network.cut(node.host, self.host):
            self._followers[node.id] = (0, 0)
            self.agenda.after(FOLLOW_NS, self._tell, node)
            return
        epoch, sequence = self._followers[node.id]
        history = self.machine.history
        try:
            rows = [change.node for change in history.after(epoch, sequence) if change.WhichOneof("row") == "node"]
        except Refused:
            rows = [entry.published() for entry in self.machine.membership.entries.values()]
        self._followers[node.id] = (history.epoch, history.last)
        if rows:
            node.hear_of_nodes(rows, self.network.latency_ns())

    # --- time ------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        if self.up:
            for identifier, address in self.machine.membership.silent(self.now()):
                node = self.simulator.nodes_by_id[identifier]
                if node.dead and not self.network.cut(node.host, self.host):
                    self.machine.membership.refused(identifier, bytes(8), f"{address} refuses connections")
            self._declare()
        self.agenda.after(LOOK_NS, self._look)

    def _declare(self) -> None:
        for stimulus in self.machine.overdue(self.now()):
            self._take(stimulus)

    # --- being away ------------------------------------------------------------------------------------------------

    def go_away(self) -> None:
        """The process is killed: nothing that is not in the journal outlives it."""
        self.up = False

    def come_back(self) -> None:
        """Another process takes over."""
        if self.up:
            return
        machine = ControlMachine(self.machine.history.epoch + 1, self.settings)
        for entry in self.journal:
            machine.step(*from_journal(entry))
        again = ControlMachine(machine.history.epoch, self.settings)
        again.restore(machine.snapshot())
        if _snapshot(again) != _snapshot(machine):
            raise Broken("a control store that was restored is not what it was")
        machine.recovered(self.now())
        machine.check_invariants()
        self.machine, self.up = machine, True
        for identifier in self._followers:
            self._followers[identifier] = (0, 0)
            self.agenda.after(FOLLOW_NS, self._tell, self.simulator.nodes_by_id[identifier])


class _Calls(ControlClient):
    """Stands in for gRPC: ``_attempt`` gives the answer that has just come."""

    _answer_here: tuple[str, Any, tuple[str, str] | None] = ("", None, None)
    #: A heartbeat was due while another call was answered: it comes next.
    _beat_is_next = False

    def _attempt(self, call: _Call, seconds_max: float = RPC_SECONDS_MAX) -> Any:
        method, reply, error = self._answer_here
        if call.method != method:
            self._beat_is_next = True
            raise ControlError(call.method, "UNAVAILABLE", "")
        if error is not None:
            raise ControlError(call.method, *error)
        return reply


class VirtualReporter(NodeReporter, _Calls):
    """A node's real reporter, with virtual calls in place of its thread: one after the other, as there."""

    def __init__(self, node: VirtualNode, on_fenced: Callable[[], None]) -> None:
        super().__init__("virtual:1", bytes(32), node.id, self._later, on_fenced)
        assert node.simulator.control is not None
        self._virtual = node
        self._control: VirtualControl = node.simulator.control
        self._monotonic = node.clock.monotonic
        self._caller = node.id
        self._busy = False
        self._beating = False

    def _later(self, callback: Callable[[], None]) -> None:
        self._virtual.when_awake(callback)

    def call(
        self, method: str, fields: Fields, on_done: OnDone | None = None, give_up_seconds: float | None = None
    ) -> None:
        """Queue a call."""
        patience = self._give_up_seconds if give_up_seconds is None else give_up_seconds
        request_id = self._caller + next(self._numbers).to_bytes(8, "big")
        self._calls.append(_Call(method, fields, on_done, request_id, self._monotonic() + patience))
        self._pump()

    def _pump(self) -> None:
        if self._busy or self._virtual.dead:
            return
        if self._heartbeat_seconds is not None and (self._beat_is_next or self._monotonic() >= self._beat_at):
            self._beat()
        elif self._calls:
            self._try(self._calls.popleft(), PAUSE_SECONDS_MIN)

    def _try(self, call: _Call, pause_seconds: float) -> None:
        if self._virtual.dead:
            return
        self._busy = True
        fields = call.fields() if callable(call.fields) else call.fields
        request = getattr(pb, f"{call.method}Request")(**fields)
        if "request_id" in request.DESCRIPTOR.fields_by_name:
            request.request_id = call.request_id
        self._control.rpc(
            self._virtual, call.method, request, RPC_SECONDS_MAX, partial(self._answered, call, pause_seconds)
        )

    def _answered(self, call: _Call, pause_seconds: float, reply: Any, error: tuple[str, str] | None) -> None:
        agenda = self._virtual.agenda
        if error is not None and error[0] in AGAIN and self._monotonic() + pause_seconds <= call.give_up_at:
            self._give_up(ControlError(call.method, *error))
            agenda.after(
                int(pause_seconds * SECOND_NS), self._virtual.when_awake, self._try, call,
                min(PAUSE_GROWTH * pause_seconds, PAUSE_SECONDS_MAX),
            )  # fmt: skip
            return
        self._answer_here = (call.method, reply, error)
        failure = None
        try:
            reply = self._attempt(call)
        except ControlError as raised:
            reply, failure = None, raised
        if call.method == "RegisterNode" and failure is None:
            self._control.follow(self._virtual)
            self._plan_beat()
        self._answer(call.on_done, reply, failure)
        self._busy = False
        self._pump()

    # --- heartbeats ----------------------------------------------------------------------------------------------

    def _plan_beat(self) -> None:
        if self._beating or self._heartbeat_seconds is None:
            return
        self._beating = True
        self._virtual.clock.at(self._beat_at, self._virtual.when_awake, self._beat_is_due)

    def _beat_is_due(self) -> None:
        self._beating = False
        if self._monotonic() < self._beat_at:
            self._plan_beat()
        else:
            self._pump()

    def _beat(self) -> None:
        self._busy, self._beat_is_next = True, False
        request = pb.HeartbeatRequest(node=self._node, incarnation=self._incarnation)
        self._control.rpc(self._virtual, "Heartbeat", request, HEARTBEAT_SECONDS_MAX, self._beaten)

    def _beaten(self, reply: Any, error: tuple[str, str] | None) -> None:
        self._answer_here = ("Heartbeat", reply, error)
        self._beat_at = self._monotonic()
        self._on_idle()
        self._busy = False
        self._plan_beat()
        self._pump()


def _snapshot(machine: ControlMachine) -> pb.Snapshot:
    found = pb.Snapshot()
    found.ParseFromString(unsealed(machine.snapshot()))
    return found
