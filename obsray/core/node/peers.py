"""Machine: the other nodes of the cluster, as this one knows them: who they are, what they have to spare, who is at
home where.

News of who is there come from the control store alone (``learned``); a broken link says that a node cannot be reached
now, not that it is dead. Of two nodes the one with the greater id connects.

Invariants: a node that is dead stays dead; a dead node has no link; no two nodes have the same mark.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

from obsray.core.node.resources import Amounts
from obsray.core.node.step import ConnectPeer, DisconnectPeer, Step, require
from obsray.core.protocol.lifecycle import NodeState, advance
from obsray.core.protocol.messages import LoadReport
from obsray.ids import is_detached, mark_of, mark_of_node

RECONNECT_SECONDS_MIN = 0.05
RECONNECT_SECONDS_MAX = 2.0
#: Of so many nodes that ended a new process is told at once; of others it finds out by asking.
GONE_TOLD_MAX = 100


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node says about itself when it registers. ``address`` is its ``host:port``; resources in fixed point."""

    node: bytes
    address: str
    host: str = ""
    name: str = ""
    pid: int = 0
    resources: Amounts = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    session: str = ""
    head: bool = False
    version: str = ""


@dataclass(slots=True, eq=False)
class Peer:
    """Another node. ``spare`` is what it last reported less what was promised to be used there since."""

    facts: NodeFacts
    state: NodeState = NodeState.ALIVE
    reason: str = ""
    registered_at_ns: int = 0
    #: Whether there is a link to it now, and since or until when there is not.
    linked: bool = False
    failures: int = 0
    not_before: float = 0.0
    connecting: bool = False
    report: int = 0
    total: Amounts = field(default_factory=dict)
    spare: Amounts = field(default_factory=dict)
    queued: int = 0
    task_seconds: float = 0.0
    store_bytes: int = 0
    draining: bool = False
    #: It has said that it ends, and takes its processes along.
    leaving: bool = False
    #: What still holds it while it drains, as it last said (``DrainProgress``).
    drain: dict[str, Any] | None = None

    @property
    def id(self) -> bytes:
        return self.facts.node

    @property
    def alive(self) -> bool:
        return self.state is not NodeState.DEAD

    def gone_because(self, why: str) -> str:
        """A sentence for whoever had to do with it."""
        return f"node {self.facts.name or self.id.hex()} is gone: {why}"

    @property
    def usable(self) -> bool:
        """Whether work can be given to it now."""
        return self.linked and self.state is NodeState.ALIVE and not self.draining


class PeerTable:
    """The other nodes. ``node`` is this one's id; ``head``: whether the control store runs beside it.

    ``clustered``: whether there can be other nodes.
    """

    def __init__(self, node: bytes, head: bool = True, clustered: bool = False) -> None:
        self.node = node
        self.is_head = head
        self.clustered = clustered
        self.peers: dict[bytes, Peer] = {}
        self.by_mark: dict[bytes, Peer] = {}
        #: The head, if that is another node and known.
        self.head: Peer | None = None
        #: Those that live and have no link.
        self.apart: dict[bytes, Peer] = {}
        self._usable: list[Peer] = []
        #: When whom to try again, earliest first. What is not that node's ``not_before`` any more says nothing.
        self._again: list[tuple[float, bytes]] = []

    # --- who is at home where ----------------------------------------------------------------------------

    def home_of(self, identifier: bytes) -> Peer | None:
        """The node at which a worker, task, actor, group or object is at home; None if it is this one.

        It may be dead. Worker ids are of processes *of* that node.
        """
        if not self.peers:
            return None
        if len(identifier) > len(self.node) and is_detached(identifier):
            return self.head
        return self.by_mark.get(mark_of(identifier))

    def living(self) -> list[Peer]:
        """Those that are not dead, in the order of their ids."""
        return sorted((peer for peer in self.peers.values() if peer.alive), key=lambda peer: peer.id)

    def gone(self) -> dict[bytes, str]:
        """Those that ended, the latest of them, with what is known of why: for processes that were not there then."""
        dead = [peer for peer in self.peers.values() if not peer.alive][-GONE_TOLD_MAX:]
        return {peer.id: peer.gone_because(peer.reason) for peer in dead}

    def usable(self) -> list[Peer]:
        """Those that work can be given to now, in the order of their ids. Not to be changed."""
        return self._usable

    def _changed(self, peer: Peer) -> None:
        """Its state or its link may be another one: a place in a line is found, and not all are sorted again."""
        if peer.alive and not peer.linked:
            self.apart[peer.id] = peer
        else:
            self.apart.pop(peer.id, None)
        place = bisect_left(self._usable, peer.id, key=_id_of)
        known = place < len(self._usable) and self._usable[place] is peer
        if peer.usable and not known:
            self._usable.insert(place, peer)
        elif known and not peer.usable:
            del self._usable[place]

    # --- news --------------------------------------------------------------------------------------------

    def learned(
        self, step: Step, facts: NodeFacts, state: NodeState, reason: str, registered_at_ns: int = 0
    ) -> Peer | None:
        """The control store says what it knows of a node. Returns it if that is another one and something changed."""
        if facts.node == self.node:
            return None
        peer = self.peers.get(facts.node)
        if peer is None:
            if mark_of_node(facts.node) in self.by_mark or mark_of_node(facts.node) == mark_of_node(self.node):
                return None
            peer = Peer(facts, total=dict(facts.resources), spare=dict(facts.resources))
            peer.registered_at_ns = registered_at_ns
            self.peers[facts.node] = self.by_mark[mark_of_node(facts.node)] = peer
            if facts.head:
                self.head = peer
            self._changed(peer)
            if state is not NodeState.DEAD:
                self._connect(step, peer)
            if state is NodeState.ALIVE:
                peer.reason = reason
                return peer
        if peer.state is state or peer.state is NodeState.DEAD:
            return None
        advance(peer, state)
        peer.reason = reason
        if state is NodeState.DEAD:
            peer.spare = {}
            if peer.linked or peer.connecting:
                step.effects.append(DisconnectPeer(peer.id))
                peer.linked = peer.connecting = False
        self._changed(peer)
        return peer

    def is_mine_to_connect(self, peer: Peer) -> bool:
        """Of two nodes the one with the greater id connects."""
        return self.node > peer.id

    def _connect(self, step: Step, peer: Peer) -> None:
        if not peer.alive or peer.linked or peer.connecting or not self.is_mine_to_connect(peer):
            return
        peer.connecting = True
        step.effects.append(ConnectPeer(peer.id, peer.facts.address))

    def linked(self, step: Step, node: bytes) -> Peer | None:
        """There is a link to this node now. None if it is not one of the living: the link must be closed."""
        peer = self.peers.get(node)
        if peer is None or not peer.alive:
            return None
        peer.linked, peer.connecting, peer.failures = True, False, 0
        peer.report = 0
        self._changed(peer)
        return peer

    def unlinked(self, step: Step, node: bytes) -> Peer | None:
        """The link is gone, or there was none to be had; another is tried after a while."""
        peer = self.peers.get(node)
        if peer is None:
            return None
        peer.linked = peer.connecting = False
        self._changed(peer)
        delay = min(RECONNECT_SECONDS_MAX, RECONNECT_SECONDS_MIN * 2 ** min(peer.failures, 10))
        peer.failures += 1
        peer.not_before = step.now + delay
        if peer.alive and self.is_mine_to_connect(peer):
            heapq.heappush(self._again, (peer.not_before, node))
            step.wake(peer.not_before)
        return peer

    def reported(self, node: bytes, report: LoadReport) -> None:
        """What a node has to spare now."""
        peer = self.peers.get(node)
        if peer is None or report.number <= peer.report:
            return
        peer.report = report.number
        peer.total, peer.spare = dict(report.total), dict(report.spare)
        peer.queued, peer.task_seconds = report.queued, report.task_seconds
        peer.store_bytes = report.store_bytes
        self.drains(peer, report.draining)

    def drains(self, peer: Peer, draining: bool) -> None:
        """A node takes no more work, or does again."""
        if peer.draining is not draining:
            peer.draining = draining
            self._changed(peer)

    def tick(self, step: Step) -> None:
        """Try again to connect to those that could not be reached, as soon as it is their turn."""
        again = self._again
        while again and again[0][0] <= step.now:
            at, node = heapq.heappop(again)
            if self.peers[node].not_before == at:
                self._connect(step, self.peers[node])
        if again:
            step.wake(again[0][0])

    def check_invariants(self) -> None:
        for node, peer in self.peers.items():
            require(peer.id == node and self.by_mark[mark_of_node(node)] is peer, "a node under another's mark")
            require(peer.alive or not (peer.linked or peer.connecting), "a link to the dead")
        usable = [node for node, peer in self.peers.items() if peer.usable]
        require([peer.id for peer in self._usable] == sorted(usable), "who can be given work is not known")
        apart = {node for node, peer in self.peers.items() if peer.alive and not peer.linked}
        require(self.apart.keys() == apart, "who cannot be reached is not known")
        self._check_turns()

    def _check_turns(self) -> None:
        """Each that this node has to connect to is connected to, or its turn comes."""
        turns = {node for at, node in self._again if self.peers[node].not_before == at}
        for peer in self.apart.values():
            require(
                peer.connecting or peer.id in turns or not self.is_mine_to_connect(peer), "a node is never tried again"
            )


def _id_of(peer: Peer) -> bytes:
    return peer.facts.node
