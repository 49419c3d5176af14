"""Machine: which of many nodes are looked at for one choice, so that a choice costs the same however many there are.

Up to ``LOOKED_AT_MAX`` it is all of them. Of more it is so many, each time the next ones in turn, and first those that
lately said they have room: the best of dozens taken anywhere is nearly as good as the best of all. If none of them will
do, the next ones are looked at a moment later, until all were.

Invariant: whoever waits and could be helped by some node is, at the latest when all have been looked at once.
"""

from __future__ import annotations

from obsray.core.node.peers import Peer, PeerTable
from obsray.core.node.step import Step

LOOKED_AT_MAX = 64
#: Of these, so many are those that said they have room.
ROOMY_MAX = 16
#: Until the next ones are looked at.
LOOK_ON_SECONDS = 0.001


class Shortlist:
    """``node`` is this one's id: nodes begin at different places, so that not all choose the same others."""

    def __init__(self, node: bytes, peers: PeerTable) -> None:
        self._peers = peers
        self._next = int.from_bytes(node, "big")
        self._roomy: dict[bytes, Peer] = {}
        #: How many were looked at in vain since there was news.
        self._in_vain = 0

    def take(self) -> list[Peer]:
        """Those that are looked at now; all can be given work."""
        usable = self._peers.usable()
        if len(usable) <= LOOKED_AT_MAX:
            return usable
        begin, count = self._next % len(usable), LOOKED_AT_MAX - ROOMY_MAX
        self._next = begin + count
        ring = usable[begin : begin + count]
        ring += usable[: count - len(ring)]
        roomy = {node: peer for node, peer in self._roomy.items() if peer.usable}
        return [*roomy.values(), *(peer for peer in ring if peer.id not in roomy)]

    def heard(self, peer: Peer) -> None:
        """A node has said what it has to spare."""
        self._in_vain = 0
        self._roomy.pop(peer.id, None)
        if any(peer.spare.values()):
            self._roomy[peer.id] = peer
            if len(self._roomy) > ROOMY_MAX:
                del self._roomy[next(iter(self._roomy))]

    def look_on(self, step: Step) -> None:
        """None of these could help with something: look at the next ones, unless all were looked at."""
        count = len(self._peers.usable())
        self._in_vain += LOOKED_AT_MAX - ROOMY_MAX
        if count > LOOKED_AT_MAX and self._in_vain < count:
            step.wake(step.now + LOOK_ON_SECONDS)

    def begin_again(self) -> None:
        """Something else is wanted, or something was found."""
        self._in_vain = 0
