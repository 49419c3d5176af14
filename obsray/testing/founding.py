"""Large clusters that are whole when a run begins: as if all their nodes had joined and been linked before.

Of n nodes each knows n others and has a link to each. What one node knows of another, and the link between them, is
made here when one of them first touches it: until then both are what they would be, and cost nothing. So a cluster of
10,000 full nodes fits into one process, as long as not each of them deals with each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from obsray.core.node.abroad import STORE_RESOURCE
from obsray.core.node.clocks import ASK_SECONDS, Watch
from obsray.core.node.members import learned
from obsray.core.node.neighbours import Neighbour
from obsray.core.node.peers import NodeFacts, Peer, PeerTable
from obsray.core.node.step import require
from obsray.core.transport.connection import Hello
from obsray.ids import mark_of_node
from obsray.telemetry.events import ProcessKind

if TYPE_CHECKING:
    from obsray.testing.network import VirtualLink
    from obsray.testing.simulator import Simulator
    from obsray.testing.virtual_node import VirtualNode


class Founding:
    """The nodes that a cluster begins with, as its control store describes them. Empty until they have registered."""

    def __init__(self) -> None:
        self.facts: dict[bytes, tuple[NodeFacts, str, int]] = {}
        self.by_mark: dict[bytes, bytes] = {}
        #: What clients are told of each by its mark, as of ``by_mark``.
        self.addresses: dict[bytes, str] = {}

    @property
    def is_complete(self) -> bool:
        return bool(self.facts)

    def complete(self, simulator: Simulator) -> None:
        """All have registered: from here on each knows each, and is linked to it."""
        assert simulator.control is not None
        for row in simulator.control.machine.membership.entries.values():
            facts, _, reason, registered_at_ns = learned(row.published())
            self.facts[facts.node] = facts, reason, registered_at_ns
            self.by_mark[mark_of_node(facts.node)] = facts.node
            self.addresses[mark_of_node(facts.node)] = facts.address
        simulator.control.followed_by_all()
        head = simulator.nodes[0]
        for node in simulator.nodes:
            abroad, peers = node.machine.abroad, node.machine.peers
            # Each has told what it has to spare: all of it, which is what the control store knows of it, too.
            total = {**node.total, STORE_RESOURCE: node.machine.objects.capacity}
            abroad._reported = (total, 0, False, total)
            peers.head = peers.peers.get(head.id)
        clocks = head.machine.clocks
        for number, node in enumerate(simulator.nodes[1:]):
            clocks.watches[node.id] = watch = Watch(burst=1)
            head.do(clocks._plan, node.id, watch, ASK_SECONDS * (number + 1) / len(simulator.nodes))


class FoundedPeerTable(PeerTable):
    """The other nodes, of which founders are made when they are touched."""

    def __init__(self, node: bytes, head: bool, founding: Founding) -> None:
        super().__init__(node, head, clustered=True)
        self._founding = founding
        self.peers = self._founded = _Peers(node, founding)
        self.by_mark = _Marks(self._founded)
        self._all_known = False

    def usable(self) -> list[Peer]:
        if not self._all_known:
            self._all_known = True
            self._usable = sorted((peer for peer in self.peers.values() if peer.usable), key=lambda peer: peer.id)
        return self._usable

    def _changed(self, peer: Peer) -> None:
        if self._all_known:
            super()._changed(peer)
        elif peer.alive and not peer.linked:
            self.apart[peer.id] = peer
        else:
            self.apart.pop(peer.id, None)

    def touched(self) -> list[Peer]:
        """Those that are not just as they were in the beginning."""
        return self._founded.touched()

    def known_to_clients(self) -> tuple[Known, Known]:
        """Addresses and ids of those that live, by their marks, as a client that joins now is told them."""
        without = {mark_of_node(self.node)} | {mark_of_node(peer.id) for peer in self.touched() if not peer.alive}
        addresses = Known(self._founding.addresses, without)
        ids = Known(self._founding.by_mark, without)
        for peer in self.touched():
            if peer.alive and peer.id not in self._founding.facts:
                addresses[mark_of_node(peer.id)] = peer.facts.address
                ids[mark_of_node(peer.id)] = peer.id
        return addresses, ids

    def touched_count(self) -> int:
        """How many these are."""
        return dict.__len__(self._founded)

    def check_invariants(self) -> None:
        if self._all_known:
            super().check_invariants()
            return
        for peer in self.touched():
            require(peer.alive or not (peer.linked or peer.connecting), "a link to the dead")
            require((peer.id in self.apart) == (peer.alive and not peer.linked), "who cannot be reached is not known")
        self._check_turns()


class _Peers(dict[bytes, Peer]):
    """Node -> what is known of it; what nobody has looked for is not there yet, but counts."""

    def __init__(self, node: bytes, founding: Founding) -> None:
        super().__init__()
        self.founding = founding
        self._node = node
        self._late = 0

    def _found(self, node: bytes) -> Peer | None:
        facts = self.founding.facts.get(node)
        if facts is None or node == self._node:
            return None
        peer = Peer(
            facts[0], linked=True, reason=facts[1], registered_at_ns=facts[2], total=facts[0].resources,
            spare=dict(facts[0].resources),
        )  # fmt: skip
        super().__setitem__(node, peer)
        return peer

    def get(self, node: bytes, default: Any = None) -> Any:
        found = super().get(node)
        return found or self._found(node) or default

    def __missing__(self, node: bytes) -> Peer:
        found = self._found(node)
        if found is None:
            raise KeyError(node)
        return found

    def __setitem__(self, node: bytes, peer: Peer) -> None:
        self._late += node not in self.founding.facts
        super().__setitem__(node, peer)

    def __contains__(self, node: object) -> bool:
        return super().__contains__(node) or (node in self.founding.facts and node != self._node)

    def __len__(self) -> int:
        return max(0, len(self.founding.facts) - 1) + self._late

    def __iter__(self) -> Iterator[bytes]:
        for node in self.founding.facts:
            if node != self._node and not super().__contains__(node):
                self._found(node)
        return super().__iter__()

    def keys(self) -> Any:
        iter(self)
        return super().keys()

    def values(self) -> Any:
        iter(self)
        return super().values()

    def items(self) -> Any:
        iter(self)
        return super().items()

    def touched(self) -> list[Peer]:
        return list(super().values())


class Known(dict[bytes, Any]):
    """Mark of a node -> something about it, as a process of another node knows it. Founders are there until they are
    taken out."""

    def __init__(self, founded: dict[bytes, Any], without: Iterable[bytes]) -> None:
        super().__init__()
        self._founded = founded
        self._without = set(without)

    def get(self, mark: bytes, default: Any = None) -> Any:
        if super().__contains__(mark):
            return super().get(mark)
        return default if mark in self._without else self._founded.get(mark, default)

    def __missing__(self, mark: bytes) -> Any:
        if mark in self._without:
            raise KeyError(mark)
        return self._founded[mark]

    def __contains__(self, mark: object) -> bool:
        return super().__contains__(mark) or (mark in self._founded and mark not in self._without)

    def __setitem__(self, mark: bytes, value: Any) -> None:
        self._without.discard(mark)
        super().__setitem__(mark, value)

    def pop(self, mark: bytes, *default: Any) -> Any:
        found = self.get(mark, *default)
        super().pop(mark, None)
        self._without.add(mark)
        return found

    def __bool__(self) -> bool:
        return len(self) > 0 or len(self._without) < len(self._founded)


class _Marks(dict[bytes, Peer]):
    """Mark -> the node that has it."""

    def __init__(self, peers: _Peers) -> None:
        super().__init__()
        self._peers = peers

    def get(self, mark: bytes, default: Any = None) -> Any:
        found = super().get(mark)
        if found is None:
            node = self._peers.founding.by_mark.get(mark)
            found = self._peers.get(node) if node is not None else None
        return found or default

    def __missing__(self, mark: bytes) -> Peer:
        found: Peer | None = self.get(mark)
        if found is None:
            raise KeyError(mark)
        return found

    def __contains__(self, mark: object) -> bool:
        return super().__contains__(mark) or self.get(cast(bytes, mark)) is not None


class FoundedLinks(dict[bytes, Any]):
    """Node -> the link to it. One between two founders is there when it is first looked for, and breaks once."""

    def __init__(self, here: VirtualNode, founding: Founding) -> None:
        super().__init__()
        self._here = here
        self._founding = founding
        #: Founders to which there was a link.
        self._met = {here.id}

    def _meet(self, node: bytes) -> VirtualLink | None:
        if node in self._met or node not in self._founding.facts:
            return None
        here, there = self._here, self._here.simulator.nodes_by_id[node]
        self._met.add(node)
        others = cast(FoundedLinks, there.neighbours.links)
        others._met.add(here.id)
        kind = int(ProcessKind.NODE)
        near, far = here.network.join(here, Hello(here.id, kind, 0), there, Hello(node, kind, 0, True))
        near.state, far.state = Neighbour(node), Neighbour(here.id)
        self[node] = near
        others[here.id] = far
        return near

    def meet_all(self) -> None:
        """Have a link to each founder that lives: something becomes of them all."""
        if len(self._met) < len(self._founding.facts):
            for node in self._founding.facts:
                if node not in self._met and not self._here.simulator.nodes_by_id[node].dead:
                    self._meet(node)

    def get(self, node: bytes, default: Any = None) -> Any:
        found = super().get(node)
        return found or self._meet(node) or default

    def pop(self, node: bytes, *default: Any) -> Any:
        self.get(node)
        return super().pop(node, *default)

    def values(self) -> Any:
        self.meet_all()
        return super().values()

    def __bool__(self) -> bool:
        return len(self) > 0 or len(self._met) < len(self._founding.facts)


def peers_known(peers: PeerTable) -> int:
    """How many these are."""
    return peers.touched_count() if isinstance(peers, FoundedPeerTable) else len(peers.peers)


def known_peers(peers: PeerTable) -> Iterable[Peer]:
    """The other nodes of which there may be something to say: not founders that nothing has become of."""
    return sorted(peers.touched(), key=lambda peer: peer.id) if isinstance(peers, FoundedPeerTable) else peers.living()
