"""The autoscaler without its process and machines: the real one, a tool of the virtual head, and a provider that has
nodes join after a while, or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from obsray.autoscaler.demand import Provided, read_view
from obsray.autoscaler.machine import Action, Autoscaler, End, Leave, Start
from obsray.autoscaler.settings import NodeType, Settings
from obsray.core.node.resources import UNIT
from obsray.core.protocol import messages as m
from obsray.telemetry.events import ProcessKind
from obsray.testing.agenda import MILLISECOND_NS, Records
from obsray.testing.ledger import Broken
from obsray.testing.network import VirtualLink

if TYPE_CHECKING:
    from obsray.testing.simulator import Simulator
    from obsray.testing.virtual_node import VirtualNode

LOOK_NS = 200 * MILLISECOND_NS
WAITED_SECONDS = 0.1
#: A machine that does not start is known as such after this time.
FAILS_NS = 100 * MILLISECOND_NS
PID = 90


class VirtualAutoscaler:
    """Of a scenario's ``autoscaler``: at most ``nodes_max`` more nodes with ``cpus`` each, which leave when they were
    idle for ``idle_ms``. They take up to ``start_ms_max``, and ``fails_ratio`` of them do not start."""

    def __init__(
        self, simulator: Simulator, nodes_max: int = 3, cpus: float = 2, idle_ms: float = 500,
        start_ms_max: float = 300, fails_ratio: float = 0.0,
    ) -> None:  # fmt: skip
        head = simulator.nodes[0]
        self.simulator, self.agenda, self.chance = simulator, simulator.agenda, simulator.chance
        self.home, self.host, self.clock = head, head.host, head.clock
        self.id, self.kind, self.pid = head.new_id(), ProcessKind.AUTOSCALER, PID
        self.name = "autoscaler"
        self.dead = self.paused = False
        self.links: dict[int, VirtualLink] = {}
        self.job = 0
        self.nodes_max = nodes_max
        self._cpus = cpus
        self._start_ns_max = int(start_ms_max * MILLISECOND_NS)
        self._fails_ratio = fails_ratio
        resources = head.total | {"CPU": round(cpus * UNIT)}
        kind = NodeType("virtual", resources, {}, 0, nodes_max, idle_ms / 1000)
        records = Records(simulator.log, self.id)
        self.machine = Autoscaler(Settings({kind.name: kind}, nodes_max), records, simulator.next_node_id)
        #: Nodes asked for and not forgotten: what runs, or why it never will; None while it starts.
        self.provided: dict[bytes, VirtualNode | str | None] = {}
        self._numbers = 0
        self._asked = False
        self.node: VirtualLink

    def start(self) -> None:
        """Connect to the head, and look from time to time."""
        link = self.home.join(self, ProcessKind.TOOL)
        assert link is not None
        self.node = link
        self._look()

    def _look(self) -> None:
        self.agenda.after(LOOK_NS, self._look)
        if not self._asked:
            self._asked = True
            self._ask("demand", waited_seconds=WAITED_SECONDS)

    def _ask(self, method: str, **arguments: Any) -> None:
        self._numbers += 1
        self.node.send(m.encode(m.Request(self._numbers, method, arguments)))
        self.simulator.network.flush()

    def deliver(self, link: VirtualLink, messages: list[m.Message]) -> None:
        """The head's node has answered."""
        for message in messages:
            reply = m.decode(message)
            if isinstance(reply, m.Reply) and isinstance(reply.value, dict) and "wished" in reply.value:
                self._asked = False
                self._decide(reply.value)

    def closed_by_peer(self, link: VirtualLink) -> None:
        """The head has ended, and the run with it."""
        self.dead = True

    def reading_delay_ns(self) -> int:
        """It reads at once."""
        return 0

    def _decide(self, answer: dict[str, Any]) -> None:
        now, time_ns = self.clock.monotonic(), self.clock.time_ns()
        for node in [node for node, there in self.provided.items() if there and not isinstance(there, str)]:
            there = self.provided[node]
            if there is not None and not isinstance(there, str) and there.dead:
                del self.provided[node]
        provided = [
            Provided(node, "virtual", there if isinstance(there, str) else "") for node, there in self.provided.items()
        ]
        actions = self.simulator.decide("autoscaler", self.machine.look, now, time_ns, read_view(answer), provided)
        self.machine.sample(now, time_ns, 0.0)
        if len(self.machine.instances) > self.nodes_max:
            raise Broken(f"{len(self.machine.instances)} nodes were asked for, {self.nodes_max} are allowed")
        for action in actions:
            self._do(action)

    def _do(self, action: Action) -> None:
        match action:
            case Start(node, _):
                self.provided[node] = None
                if self.chance.random() < self._fails_ratio and not self.simulator.faults_over:
                    self.agenda.after(FAILS_NS, self._fail, node)
                else:
                    self.agenda.after(self.chance.randint(0, self._start_ns_max), self._join, node)
            case Leave(node, why):
                self._ask("drain", node=node, reason=why, if_idle=True)
            case End(node):
                there = self.provided.pop(node, None)
                if there is not None and not isinstance(there, str):
                    self.simulator.crash_node(there, "its machine is ended")

    def _fail(self, node: bytes) -> None:
        if node in self.provided:
            self.provided[node] = "there is no machine to be had"

    def _join(self, node: bytes) -> None:
        if node in self.provided:
            self.provided[node] = self.simulator.join_node(node, self._cpus)
