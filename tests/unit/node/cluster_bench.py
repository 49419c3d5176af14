"""Several nodes' machines wired together by their effects: messages between nodes arrive when ``settle`` is called."""

from __future__ import annotations

from collections import deque
from typing import Any

from node_bench import Bench

from obsray.core.node.peers import NodeFacts, PeerTable
from obsray.core.node.step import (
    Broadcast,
    ConnectPeer,
    DisconnectPeer,
    Effect,
    FindName,
    ListNames,
    RegisterGroup,
    Report,
    ReportGroup,
    ReserveName,
    Send,
    SendNode,
)
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import ActorState, GroupState, NodeState, WorkerState
from obsray.core.transport.connection import Connection
from obsray.ids import mark_of, worker_id


def node_id(number: int) -> bytes:
    """``N000....``, ``N001....``"""
    return b"N%03d...." % number


class ClusterBench:
    """``nodes[0]`` is the head. What nodes say to each other waits in ``wires`` and arrives in order, link by link."""

    def __init__(self, *nodes: dict[str, Any]) -> None:
        self.nodes: list[Member] = []
        self.wires: dict[tuple[bytes, bytes], deque[m.Message]] = {}
        self.codec = Connection()
        #: The control store's table of names: namespace and name -> actor, what its handles need, its home.
        self.names: dict[tuple[str, str], tuple[bytes, bytes, bytes]] = {}
        #: Its table of groups' names: namespace and name -> group, its home.
        self.group_names: dict[tuple[str, str], tuple[bytes, bytes]] = {}
        #: What nodes have asked the control store and not heard yet, in order.
        self.asked_control: deque[tuple[Member, Effect]] = deque()
        self.control_answers = True
        for options in nodes:
            self.add(**options)

    def add(self, **options: Any) -> Member:
        """Another node joins: all hear of each other and connect. Options are those of ``Bench``."""
        number = len(self.nodes)
        member = Member(self, number, options)
        if self.nodes:
            member.now = self.nodes[0].now
        self.nodes.append(member)
        for other in self.nodes[:-1]:
            if other.up:
                other.hear_of(member, NodeState.ALIVE)
                member.hear_of(other, NodeState.ALIVE)
        self.settle()
        return member

    def member(self, node: bytes) -> Member:
        return next(member for member in self.nodes if member.node == node)

    def settle(self, workers: bool = True) -> None:
        """Deliver all that waits until all is quiet; ``workers``: processes that were asked for say hello."""
        for _ in range(1000):
            busy = self.control_answers and bool(self.asked_control)
            if busy:
                self.answer_control()
            for (sender, receiver), wire in list(self.wires.items()):
                if wire:
                    busy = True
                    self.deliver(sender, receiver)
            if workers:
                for member in self.nodes:
                    if member.up and member.asked:
                        busy = True
                        member.workers_join()
            if not busy:
                return
        raise AssertionError("the nodes do not come to rest")

    def answer_control(self) -> None:
        """The control store hears what waits for it, in order, and answers."""
        for _ in range(len(self.asked_control)):
            member, effect = self.asked_control.popleft()
            machine = member.machine
            match effect:
                case Report(m.ActorChanged(actor, ActorState.DEAD)):
                    for name in [name for name, known in self.names.items() if known[0] == actor]:
                        del self.names[name]
                case ReserveName(spec) if member.up:
                    name = (spec["namespace"], spec["name"])
                    known = self.names.setdefault(name, (spec["actor"], spec["meta"], member.node))
                    mine = known[0] == spec["actor"]
                    error, kind = ("", "") if mine else ("the name is taken", "name_taken")
                    member.do(machine.name_answered, spec["actor"], error, kind)
                case RegisterGroup(spec, named) if spec["name"]:
                    name = (spec["namespace"], spec["name"])
                    known_group, _ = self.group_names.setdefault(name, (spec["group"], member.node))
                    taken = known_group != spec["group"]
                    if named and member.up:
                        answer = ("the name is taken", "name_taken") if taken else ("", "")
                        member.do(machine.group_messages.named, spec["group"], *answer)
                case ReportGroup(group, GroupState.REMOVED):
                    for name in [name for name, known in self.group_names.items() if known[0] == group]:
                        del self.group_names[name]
                case FindName(_, _, namespace, called) if member.up:
                    actor, meta, _ = self.names.get((namespace, called), (b"", b"", b""))
                    member.do(machine.requests.name_found, effect, actor, meta, "")
                case ListNames(_, _, namespace) if member.up:
                    names = [name for name in sorted(self.names) if namespace in (None, name[0])]
                    member.do(machine.requests.names_listed, effect, names, "")

    def control_is_away(self) -> None:
        """Whoever waits for the control store has waited long enough."""
        while self.asked_control:
            member, effect = self.asked_control.popleft()
            why = "the control store does not answer"
            match effect:
                case ReserveName(spec):
                    member.do(member.machine.name_answered, spec["actor"], why, "unavailable")
                case RegisterGroup(spec, True):
                    member.do(member.machine.group_messages.named, spec["group"], why, "unavailable")
                case FindName():
                    member.do(member.machine.requests.name_found, effect, b"", b"", why)
                case ListNames():
                    member.do(member.machine.requests.names_listed, effect, [], why)

    def deliver(self, sender: bytes, receiver: bytes) -> None:
        """All that one node has said to another."""
        wire = self.wires[sender, receiver]
        messages = [wire.popleft() for _ in range(len(wire))]
        member = self.member(receiver)
        if member.up and self.member(sender).up:
            # As it travels: tuples of plain values.
            self_packed = self.codec.receive(self.codec.pack(messages))
            member.do(member.machine.abroad.peer_messages, sender, self_packed)

    def say(self, sender: bytes, receiver: bytes, message: m.Message) -> None:
        self.wires.setdefault((sender, receiver), deque()).append(message)

    def cut(self, one: Member, other: Member) -> None:
        """The link between two nodes breaks; both notice."""
        self.wires.pop((one.node, other.node), None)
        self.wires.pop((other.node, one.node), None)
        for near, far in ((one, other), (other, one)):
            if near.up:
                near.do(near.machine.abroad.peer_unlinked, far.node, "the test cut it")

    def kill(self, member: Member, declare: bool = True) -> None:
        """A node dies without a word; the others see their links break, and (``declare``) hear that it is dead."""
        member.up = False
        for other in self.nodes:
            if other.up:
                self.cut(other, member)
        if declare:
            for other in self.nodes:
                if other.up:
                    other.hear_of(member, NodeState.DEAD)
            self.names = {name: known for name, known in self.names.items() if known[2] != member.node}
            self.group_names = {name: known for name, known in self.group_names.items() if known[1] != member.node}
        self.settle()

    def pass_time(self, seconds: float, workers: bool = True) -> None:
        """Time goes by on all nodes, in small pieces, and what becomes due is done; ``workers`` as for ``settle``."""
        left = seconds
        while left > 0:
            piece = min(left, 0.05)
            left -= piece
            for member in self.nodes:
                member.now += piece
                if member.up:
                    member.do(member.machine.tick)
            self.settle(workers)


class Member(Bench):
    """One node of a ``ClusterBench``."""

    def __init__(self, cluster: ClusterBench, number: int, options: dict[str, Any]) -> None:
        self.cluster = cluster
        self.up = True
        node = node_id(number)
        self.facts: NodeFacts | None = None
        super().__init__(node=node, peers=PeerTable(node, number == 0, clustered=True), **options)
        labels = {**self.machine.labels}
        self.facts = NodeFacts(
            node, f"10.0.0.{number}:1", f"host{number}", f"node{number}", 1, dict(self.machine.resources.total), labels,
            f"/s{number}", number == 0,
        )  # fmt: skip
        self.machine.jobs.count = number << 16

    def hear_of(self, other: Member, state: NodeState) -> None:
        assert other.facts is not None
        self.do(self.machine.abroad.node_learned, other.facts, state, "the test says so")

    def driver(self, name: bytes = b"drv1") -> bytes:
        """A driver of this node whose job is described; ``name`` are four bytes."""
        client = super().driver(worker_id(self.node, name))
        self.send(client, m.DescribeJob({"entrypoint": "program.py", "namespace": "space"}))
        return client

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Send(client, message) if mark_of(client) != self.node[:4]:
                self.cluster.say(self.node, _home(self, client), m.encode(m.Forward(client, 0, message)))
            case SendNode(node, message):
                self.cluster.say(self.node, node, message)
            case Broadcast(message, abroad):
                super()._carry_out(Broadcast(message))
                if abroad:
                    for peer in self.machine.peers.peers.values():
                        if peer.linked:
                            self.cluster.say(self.node, peer.id, message)
            case ConnectPeer(node, _):
                other = self.cluster.member(node)
                if not other.up:
                    self.do(self.machine.abroad.peer_unlinked, node, "connection refused")
                    return
                assert self.do(self.machine.abroad.peer_linked, node)
                assert other.do(other.machine.abroad.peer_linked, self.node)
            case ReserveName() | FindName() | ListNames() | Report(m.ActorChanged()) | RegisterGroup() | ReportGroup():
                self.cluster.asked_control.append((self, effect))
            case DisconnectPeer():
                pass
            case _:
                super()._carry_out(effect)

    def leased(self) -> int:
        """How many of its workers somebody has."""
        return sum(worker.state in (WorkerState.LEASED, WorkerState.ACTOR) for worker in self.pool.workers.values())


def _home(member: Member, client: bytes) -> bytes:
    peer = member.machine.peers.home_of(client)
    assert peer is not None, f"nobody knows where {client!r} is at home"
    return peer.id
