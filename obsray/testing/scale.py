"""What a decision costs in clusters of 10 to 10,000 nodes: one node's real machine, and the others as it sees them.

The node's own CPU is taken, so each wish of its driver is a choice among all others: it is given away, granted there
(one worker), used, and given back; the other node reports what it has to spare before and after. So one *decision* is
everything that a node does for one worker elsewhere. The others are as busy as ``busy`` says.
"""

from __future__ import annotations

import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from obsray.core.control.machine import ControlMachine
from obsray.core.control.step import Instant
from obsray.core.node.machine import NodeMachine
from obsray.core.node.objects import ObjectTable
from obsray.core.node.peers import NodeFacts, PeerTable
from obsray.core.node.resources import UNIT, Resources
from obsray.core.node.step import SendNode, Step
from obsray.core.node.workers import WorkerPool
from obsray.core.protocol import control_pb2 as pb
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import NodeState
from obsray.ids import SEQUENCE_ACTOR, task_id, worker_id
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.spine import Silent

CPUS = 4
#: Workers that the driver has at a time, at most.
HELD = 32
_HOME = b"HOME\0\0\0\0"
_FORWARD = m.Forward._field_defaults["tag"]
_LEASE_REQUEST = m.LeaseRequest._field_defaults["tag"]


@dataclass(frozen=True)
class Cost:
    """What decisions cost with so many nodes. ``lines`` of the runtime's own code were run for one decision, on
    average, which is the same on every machine; 0 if they were not counted."""

    nodes: int
    decisions: int
    seconds: float
    report_seconds: float
    lines: float = 0.0

    @property
    def per_second(self) -> float:
        return self.decisions / self.seconds if self.seconds else 0.0


class ScaleBench:
    """A node among ``nodes``, of which a share ``busy`` have no room."""

    def __init__(self, nodes: int, seed: int = 1, busy: float = 0.5) -> None:
        self.chance = random.Random(seed)
        self.now = 1000.0
        pool = WorkerPool(lambda: worker_id(_HOME, self.chance.randbytes(4)), 0, 1, 60.0, 60.0, 1.0)
        objects = ObjectTable(1 << 30, "spill", 1 << 30, 60.0, 1.0)
        peers = PeerTable(_HOME, head=True, clustered=True)
        resources = Resources({"CPU": UNIT})
        resources.take(1, {"CPU": UNIT})
        self.machine = NodeMachine(_HOME, resources, pool, objects, "sockets", dict, {}, peers)
        self.driver = worker_id(_HOME, b"drvr")
        self.effects: list[Any] = []
        self.free: dict[bytes, int] = {}
        self._reports: dict[bytes, int] = {}
        #: Workers that were granted so far.
        self.granted = 0
        self._held: deque[tuple[bytes, int]] = deque()
        self._wanted = 0
        for number in range(1, nodes):
            self._add(number, busy)
        #: So many workers that there is always a choice.
        self.held_max = min(HELD, sum(self.free.values()) // 2)
        assert self._do(self.machine.client_joined, self.driver, ProcessKind.DRIVER, 1) is not None
        self._say(m.DefineShape(1, "f", {"CPU": UNIT}, None, None))
        self.effects.clear()

    def _add(self, number: int, busy: float) -> None:
        node = b"%04d\1\0\0\0" % number
        total = {"CPU": CPUS * UNIT}
        facts = NodeFacts(node, f"10.0.0.1:{number}", f"host{number}", "", 1, total, {"zone": str(number % 8)})
        self.free[node] = 0 if self.chance.random() < busy else CPUS
        # Without the looks around them, which would make the square of their number.
        step = self._step()
        self.machine.peers.learned(step, facts, NodeState.ALIVE, "it is there")
        self.machine.peers.linked(step, node)
        self._report(node)

    def _step(self) -> Step:
        return Step(self.now, int(self.now * 1e9), Silent())

    def _do(self, stimulus: Callable[..., Any], *arguments: Any) -> Any:
        step = self._step()
        found = stimulus(step, *arguments)
        self.effects += step.effects
        return found

    def _say(self, *messages: Any) -> None:
        self._do(self.machine.client_messages, self.driver, [m.encode(message) for message in messages])

    def _report(self, node: bytes) -> m.LoadReport:
        number = self._reports[node] = self._reports.get(node, 0) + 1
        spare = {"CPU": self.free[node] * UNIT}
        report = m.LoadReport(number, {"CPU": CPUS * UNIT}, spare, 0, 0.0, 0, False)
        if number == 1:
            self.machine.peers.reported(node, report)
        return report

    # --- decisions -------------------------------------------------------------------------------------------

    def decide(self) -> None:
        """One worker elsewhere is wished for, granted, and an older one given back."""
        self.now += 0.0005
        self._wanted += 1
        self._say(m.LeaseRequest(1, self._wanted, 1))
        self._answer()
        if len(self._held) > self.held_max:
            node, lease = self._held.popleft()
            self._say(m.LeaseReturn(lease, 1, 0, False))
            self.free[node] += 1
            self._do(self.machine.abroad.peer_messages, node, [m.encode(self._report(node))])

    def _answer(self) -> None:
        effects, self.effects = self.effects, []
        for effect in effects:
            if isinstance(effect, SendNode) and effect.message[0] == _FORWARD:
                asked = effect.message[3]
                if asked[0] == _LEASE_REQUEST and asked[2]:
                    self._grant(effect.node)

    def _grant(self, node: bytes) -> None:
        assert self.free[node] > 0, "it was sent where no room is"
        self.free[node] -= 1
        self.granted += 1
        lease = int.from_bytes(node[:4], "big") << m.LEASE_MARK_SHIFT | self.granted
        granted = m.LeaseGranted(1, lease, worker_id(node, self.granted.to_bytes(4, "big")), "10.0.0.1:1", {})
        self._held.append((node, lease))
        self._wanted -= 1
        forwarded = m.Forward(self.driver, 0, m.encode(granted))
        self._do(self.machine.abroad.peer_messages, node, [m.encode(forwarded), m.encode(self._report(node))])

    def hear(self, node: bytes = b"") -> None:
        """Another node, any if none is named, reports what it has to spare, of its own accord."""
        node = node or b"%04d\1\0\0\0" % self.chance.randint(1, len(self._reports))
        self._do(self.machine.abroad.peer_messages, node, [m.encode(self._report(node))])
        self._answer()

    def break_link(self, node: bytes) -> None:
        """A link breaks, and is there again."""
        self.lose_link(node)
        self.now += 1.0
        self._do(self.machine.tick)
        self._do(self.machine.abroad.peer_linked, node)
        self._reports[node] = 0
        self._do(self.machine.abroad.peer_messages, node, [m.encode(self._report(node))])
        self.effects.clear()

    def lose_link(self, node: bytes) -> None:
        """A link breaks."""
        self._do(self.machine.abroad.peer_unlinked, node, "its connection broke")

    def pass_time(self, seconds: float) -> None:
        """Time goes by, and what is due is done."""
        self.now += seconds
        self._do(self.machine.tick)
        self._answer()


def measure(nodes: int, decisions: int, clock: Callable[[], float]) -> Cost:
    """What a decision costs, and what it costs to hear one report."""
    bench = ScaleBench(nodes)
    for _ in range(2 * HELD):
        bench.decide()
    began = clock()
    for _ in range(decisions):
        bench.decide()
    seconds = clock() - began
    began = clock()
    for _ in range(decisions):
        bench.hear()
    return Cost(nodes, decisions, seconds, (clock() - began) / decisions)


def count(nodes: int, decisions: int) -> Cost:
    """The same in lines of code that are run: no clock, so that a test can compare."""
    bench = ScaleBench(nodes)
    for _ in range(2 * HELD):
        bench.decide()

    def decide_all() -> None:
        for _ in range(decisions):
            bench.decide()

    lines = lines_run(decide_all)
    return Cost(nodes, decisions, 0.0, 0.0, lines / decisions)


def lines_run(action: Callable[[], Any]) -> int:
    """How many lines of Python are run for something."""
    lines = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal lines
        if event == "line":
            lines += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return lines


# --- the control store -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ControlCost:
    """What the control store does for ``nodes`` nodes, in seconds: one heartbeat, one actor from its registration to
    its death (four calls), one look for silent nodes."""

    nodes: int
    heartbeat_seconds: float
    actor_seconds: float
    look_seconds: float

    def load(self, actors_per_second: float) -> float:
        """The share of one process that is busy: heartbeats twice and looks four times a second, and so many actors
        made and ended on each node in a second."""
        return (
            self.nodes * (2 * self.heartbeat_seconds + actors_per_second * self.actor_seconds) + 4 * self.look_seconds
        )


def measure_control(nodes: int, calls: int, clock: Callable[[], float]) -> ControlCost:
    """What the real control machine needs for one of each."""
    machine = ControlMachine(1)
    instant = Instant(1_000_000_000, 1_000_000_000)
    ids = [b"%04d\1\0\0\0" % number for number in range(nodes)]
    for number, node in enumerate(ids):
        described = pb.NodeDescription(node=node, host="host", address="10.0.0.1:1", name=f"n{number}", version="1")
        machine.step(instant, pb.RegisterNodeRequest(request_id=node, node=described))
    chosen = [ids[number * 7919 % nodes] for number in range(calls)]
    incarnations = {node: number for number, node in enumerate(ids, 1)}
    began = clock()
    for node in chosen:
        machine.step(instant, pb.HeartbeatRequest(node=node, incarnation=incarnations[node]))
    heartbeat = (clock() - began) / calls
    began = clock()
    for number, node in enumerate(chosen):
        _live_and_die(machine, instant, node, incarnations[node], number)
    actor = (clock() - began) / calls
    began = clock()
    for _ in range(5):
        machine.overdue(instant)
        machine.membership.silent(instant)
    return ControlCost(nodes, heartbeat, actor, (clock() - began) / 5)


def _live_and_die(machine: ControlMachine, instant: Instant, node: bytes, incarnation: int, number: int) -> None:
    owner = worker_id(node, number.to_bytes(4, "big"))
    actor = task_id(owner, 1, SEQUENCE_ACTOR)
    described = pb.ActorDescription(actor=actor, owner=owner, class_name="Counter", name=f"a{number}")
    registered = pb.RegisterActorRequest(
        request_id=actor, actor=described, node=node, node_incarnation=incarnation
    )  # fmt: skip
    machine.step(instant, registered)
    for state in (pb.ACTOR_STATE_PENDING_CREATION, pb.ACTOR_STATE_ALIVE, pb.ACTOR_STATE_DEAD):
        moved = pb.UpdateActorRequest(
            request_id=actor + bytes([state]), actor=actor, state=state, node=node, node_incarnation=incarnation
        )
        assert machine.step(instant, moved).events, "an actor could not move"
