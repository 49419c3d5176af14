"""Machine: how far the clocks of other nodes are from the head's.

The head asks each node in turn what time it is there. The answer was given between question and answer, so half the
round trip bounds the error, and the quickest exchanges are the ones that count. What was measured is only recorded:
readers show the records of several nodes on the head's clock by it (``obsray/telemetry/clocks.py``). No decision in
the cluster depends on it, because decisions use monotonic time.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

from obsray.core.node.abroad import Abroad
from obsray.core.node.intake import Malformed
from obsray.core.node.peers import Peer, PeerTable
from obsray.core.node.step import Step
from obsray.core.protocol.messages import ClockAnswer, ClockQuestion

ASK_SECONDS = 2.0
#: So many questions in a row to a node whose clock is not known, or has jumped.
BURST = 8
ANSWER_SECONDS_MAX = 5.0
SAMPLES_MAX = 16
#: By how much two clocks drift apart at most while nobody looks, in seconds a second.
DRIFT = 50e-6
#: A deviation beyond what both measurements allow for, and this, is a jump of a clock.
JUMP_SECONDS = 0.001
#: An offset that has not changed is recorded again after so long.
TELL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One exchange: the node's clock less the head's, known to ``round_trip / 2``; all in seconds."""

    at: float
    offset: float
    round_trip: float

    def uncertainty(self, now: float) -> float:
        """How wrong it may be by now."""
        return self.round_trip / 2 + DRIFT * (now - self.at)


@dataclass(slots=True)
class Watch:
    """What is known of one node's clock. ``told`` is what was last recorded, and how wrong that may be."""

    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=SAMPLES_MAX))
    number: int = 0
    waiting: bool = False
    asked_at: float = 0.0
    asked_at_ns: int = 0
    next_at: float = 0.0
    burst: int = BURST
    told: Sample | None = None
    told_at: float = 0.0


class Clocks:
    """The clocks of the nodes that this one is linked to. Only the head asks; every node answers."""

    def __init__(self, peers: PeerTable, abroad: Abroad) -> None:
        self._peers = peers
        self.watches: dict[bytes, Watch] = {}
        #: When whose turn is, soonest first; what is no more its ``next_at`` does not count.
        self._turns: list[tuple[float, bytes]] = []
        abroad.handlers |= {ClockQuestion: self._asked, ClockAnswer: self._answered}
        abroad.on_linked.append(self._linked)
        abroad.on_lost.append(self._lost)
        abroad.on_died.append(self._died)

    def _linked(self, step: Step, peer: Peer) -> None:
        if self._peers.is_head:
            self._ask(step, peer, self.watches.setdefault(peer.id, Watch()))

    def _lost(self, step: Step, peer: Peer, why: str) -> None:
        watch = self.watches.get(peer.id)
        if watch is not None:
            watch.waiting, watch.burst = False, BURST

    def _died(self, step: Step, peer: Peer) -> None:
        self.watches.pop(peer.id, None)

    def _ask(self, step: Step, peer: Peer, watch: Watch) -> None:
        watch.number += 1
        watch.waiting, watch.asked_at, watch.asked_at_ns = True, step.now, step.time_ns
        step.tell_node(peer.id, ClockQuestion(watch.number))
        self._plan(step, peer.id, watch, ANSWER_SECONDS_MAX)

    def _plan(self, step: Step, node: bytes, watch: Watch, seconds: float) -> None:
        watch.next_at = step.now + seconds
        heapq.heappush(self._turns, (watch.next_at, node))
        step.wake(watch.next_at)

    def _asked(self, step: Step, peer: Peer, message: ClockQuestion) -> None:
        step.tell_node(peer.id, ClockAnswer(message.number, step.time_ns))

    def _answered(self, step: Step, peer: Peer, message: ClockAnswer) -> None:
        if not isinstance(message.time_ns, int):
            raise Malformed("ClockAnswer.time_ns is no number")
        watch = self.watches.get(peer.id)
        if watch is None or not watch.waiting or message.number != watch.number:
            return
        watch.waiting = False
        round_trip = max(0.0, step.now - watch.asked_at)
        offset = (message.time_ns - watch.asked_at_ns) / 1e9 - round_trip / 2
        sample = Sample(step.now, offset, round_trip)
        if watch.told is not None and _contradict(watch.told, sample, step.now):
            watch.samples.clear()
            watch.told, watch.burst = None, BURST
        watch.samples.append(sample)
        watch.burst = max(0, watch.burst - 1)
        if watch.burst:
            self._ask(step, peer, watch)
            return
        self._tell(step, peer, watch, message.time_ns)
        self._plan(step, peer.id, watch, ASK_SECONDS)

    def _tell(self, step: Step, peer: Peer, watch: Watch, node_time_ns: int) -> None:
        best = min(watch.samples, key=lambda sample: sample.uncertainty(step.now))
        uncertainty, told = best.uncertainty(step.now), watch.told
        if told is not None:
            known = told.uncertainty(step.now)
            better = uncertainty < known / 2 and abs(best.offset - told.offset) > uncertainty
            if not better and step.now - watch.told_at < TELL_SECONDS:
                return
        watch.told, watch.told_at = best, step.now
        step.emit.clock_measured(
            step.time_ns, peer.id, best.offset, uncertainty, best.round_trip, len(watch.samples), node_time_ns
        )

    def tick(self, step: Step) -> None:
        """Ask the nodes whose turn it is, and those that did not answer."""
        turns = self._turns
        while turns:
            at, node = turns[0]
            watch = self.watches.get(node)
            if watch is not None and watch.next_at == at and step.now < at:
                step.wake(at)
                return
            heapq.heappop(turns)
            peer = self._peers.peers[node]
            # To one without a link it is put as soon as there is one.
            if watch is not None and watch.next_at == at and peer.linked:
                self._ask(step, peer, watch)


def _contradict(told: Sample, sample: Sample, now: float) -> bool:
    allowed = told.uncertainty(now) + sample.uncertainty(now) + JUMP_SECONDS
    return abs(sample.offset - told.offset) > allowed
