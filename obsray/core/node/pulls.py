"""Machine: fetching objects that lie at other nodes, one pull for all who want the same.

Its home says where the object is (LOCATING); then it waits for its turn (QUEUED), for room (WAITING_ROOM), and for its
bytes (PULLING). What could not be had from any source is looked for again: it may have moved. What has come already is
kept meanwhile.

Turns: the order is by the instant at which it was located plus the time its bytes take, so small ones pass large ones
and no large one waits for ever. ``IN_FLIGHT_MAX`` pulls and ``BYTES_IN_FLIGHT_MAX`` are under way at a time (one is
always allowed), and of the places a part is kept for small and a part for large ones.

Invariants: who waits for an object waits either at its pull or at its entry in the object table; a pull that is in
flight has a token; the bytes in flight add up.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from obsray.core.node.directory import FREED
from obsray.core.node.entries import Entry, Reader
from obsray.core.node.objects import ObjectTable
from obsray.core.node.peers import Peer, PeerTable
from obsray.core.node.step import CancelPull, PullObject, Step, require
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import ObjectState, PullState, advance
from obsray.ids import NIL_WORKER

IN_FLIGHT_MAX = 8
BYTES_IN_FLIGHT_MAX = 512 << 20
SMALL_BYTES = 4 << 20
#: So many of the places in flight are for small objects alone, and for large ones alone.
PLACES_FOR_SMALL = 3
PLACES_FOR_LARGE = 2
#: What an object's size counts for in the order of turns.
TURN_BYTES_PER_SECOND = 200e6
ATTEMPTS_MAX = 6
RETRY_SECONDS = 0.05
#: How long a node that is known and not connected yet is waited for.
HOME_SECONDS_MAX = 10.0


@dataclass(frozen=True, slots=True)
class Pulled:
    """How a transfer ended. ``missing``: what did not come; empty if all is there and its checksums are right.

    ``failures``: sources that failed: node, bytes that it had sent, why.
    """

    missing: tuple[tuple[int, int], ...]
    source: bytes
    sources: int
    wire_seconds: float
    failures: tuple[tuple[bytes, int, str], ...] = ()
    error: str = ""


@dataclass(slots=True, eq=False)
class Pull:
    """One object on its way here. ``token`` is not 0 while a thread writes into its range."""

    id: bytes
    asked_at: float
    state: PullState = PullState.LOCATING
    readers: list[Reader] = field(default_factory=list)
    size: int = -1
    sources: list[bytes] = field(default_factory=list)
    missing: tuple[tuple[int, int], ...] = ()
    entry: Entry | None = None
    token: int = 0
    attempts: int = 0
    failures: int = 0
    queued_at: float = 0.0
    queue_seconds: float = 0.0
    wire_seconds: float = 0.0
    not_before: float = 0.0
    asked_home: bool = False
    #: Why it is not wanted any more: error and detail of the refusal.
    withdrawn: tuple[str, str] | None = None

    @property
    def large(self) -> bool:
        return self.size > SMALL_BYTES

    @property
    def received(self) -> int:
        return max(0, self.size) - sum(end - start for start, end in self.missing)


class Pulls:
    """All pulls of a node. ``locate`` asks this node's own directory, for objects that are at home here."""

    def __init__(
        self, node: bytes, objects: ObjectTable, peers: PeerTable, locate: Callable[[Step, bytes], None]
    ) -> None:
        self.node = node
        self.pulls: dict[bytes, Pull] = {}
        self._objects, self._peers, self._locate = objects, peers, locate
        self._queues: tuple[list[tuple[float, int, Pull]], list[tuple[float, int, Pull]]] = ([], [])
        self._flying: dict[bytes, Pull] = {}
        self._flying_bytes = 0
        self._flying_large = 0
        self._by_token: dict[int, Pull] = {}
        self._numbers = 0

    # --- who wants what ----------------------------------------------------------------------------------

    def want(self, step: Step, reader: Reader, object_id: bytes) -> None:
        """Somebody here wants to read what is not here; told when it is, or why it does not come."""
        pull = self.pulls.get(object_id)
        if pull is None:
            pull = self.pulls[object_id] = Pull(object_id, step.now)
            home = self._peers.home_of(object_id)
            step.emit.transfer_asked(step.time_ns, object_id, reader.client, self.node if home is None else home.id)
            pull.readers.append(reader)
            self._ask(step, pull)
        elif pull.entry is not None:
            pull.entry.waiting.append(reader)
        else:
            pull.readers.append(reader)

    def client_gone(self, client: bytes) -> None:
        """A client ended; what only it wanted and nobody has begun to fetch is not fetched."""
        for pull in self.pulls.values():
            if pull.readers:
                pull.readers = [reader for reader in pull.readers if reader.client != client]

    def _ask(self, step: Step, pull: Pull) -> None:
        home = self._peers.home_of(pull.id)
        if home is None:
            pull.asked_home = True
            self._locate(step, pull.id)
        elif home.linked:
            pull.asked_home = True
            step.tell_node(home.id, m.LocateObject(pull.id))
        elif not home.alive or step.now >= pull.asked_at + HOME_SECONDS_MAX:
            self._fail(step, pull, "lost", f"its home, node {home.facts.name or home.id.hex()}, is out of reach")
        else:
            pull.asked_home = False
            step.wake(pull.asked_at + HOME_SECONDS_MAX)

    def located(self, step: Step, message: m.ObjectLocated) -> None:
        """Its home has answered."""
        pull = self.pulls.get(message.object)
        if pull is None or pull.state is not PullState.LOCATING or not pull.asked_home:
            return
        pull.asked_home = False
        sources = [node for node in message.nodes if node != self.node and self._address(node)]
        if not message.nodes:
            self._fail(step, pull, "unknown" if message.detail == FREED else "lost", message.detail)
            return
        if not sources:
            self._again(step, pull, "none of the nodes that have it can be reached")
            return
        if pull.size not in (-1, message.size):
            # It was made again, and is not what it was.
            self._give_room_back(step, pull)
        pull.size, pull.sources = message.size, sources
        if pull.entry is None:
            pull.missing = ((0, message.size),)
        advance(pull, PullState.QUEUED)
        pull.queued_at = step.now
        self._numbers += 1
        turn = step.now + pull.size / TURN_BYTES_PER_SECOND
        heapq.heappush(self._queues[pull.large], (turn, self._numbers, pull))
        self._admit(step)

    def _address(self, node: bytes) -> str:
        peer = self._peers.peers.get(node)
        return peer.facts.address if peer is not None and peer.linked else ""

    # --- turns -------------------------------------------------------------------------------------------

    def _admit(self, step: Step) -> None:
        """Begin what may begin now."""
        while (pull := self._next()) is not None:
            heapq.heappop(self._queues[pull.large])
            if pull.entry is None and not pull.readers:
                # Whoever wanted it is gone.
                self._end(pull, PullState.FAILED)
                continue
            self._flying[pull.id] = pull
            self._flying_bytes += pull.size
            self._flying_large += pull.large
            pull.queue_seconds += step.now - pull.queued_at
            if pull.entry is not None:
                self._begin(step, pull)
                continue
            known = self._objects.entries.get(pull.id)
            if known is not None and known.state is not ObjectState.LOST:
                self._found_here(step, pull)
                continue
            advance(pull, PullState.WAITING_ROOM)
            pull.queued_at = step.now
            self._objects.make_copy(step, self.node, pull.id, pull.size)

    def _next(self) -> Pull | None:
        for queue in self._queues:
            while queue and queue[0][2].state is not PullState.QUEUED:
                heapq.heappop(queue)
        small, large = (queue[0] if queue else None for queue in self._queues)
        flying = len(self._flying)
        if flying >= IN_FLIGHT_MAX:
            return None
        may_small = small is not None and flying - self._flying_large < IN_FLIGHT_MAX - PLACES_FOR_LARGE
        may_large = (
            large is not None
            and self._flying_large < IN_FLIGHT_MAX - PLACES_FOR_SMALL
            and (not self._flying_large or self._flying_bytes + large[2].size <= BYTES_IN_FLIGHT_MAX)
        )
        if may_small and may_large:
            assert small is not None and large is not None
            return min(small, large)[2]
        if may_small:
            return small[2] if small is not None else None
        return large[2] if may_large and large is not None else None

    def _land(self, pull: Pull) -> None:
        if self._flying.pop(pull.id, None) is not None:
            self._flying_bytes -= pull.size
            self._flying_large -= pull.large

    def room(self, step: Step, entry: Entry) -> None:
        """The object table has room for a copy."""
        pull = self.pulls.get(entry.id)
        if pull is None or pull.state is not PullState.WAITING_ROOM:
            self._objects.give_up_copy(step, entry, "lost", "nobody fetches it any more")
            return
        pull.queue_seconds += step.now - pull.queued_at
        pull.entry = entry
        entry.waiting += pull.readers
        pull.readers = []
        self._begin(step, pull)

    def no_room(self, step: Step, object_id: bytes, error: str, detail: str) -> None:
        """There is no room for it, and none to be expected."""
        pull = self.pulls.get(object_id)
        if pull is not None and pull.state is PullState.WAITING_ROOM:
            self._fail(step, pull, error, detail)
            self._admit(step)

    def _begin(self, step: Step, pull: Pull) -> None:
        assert pull.entry is not None
        sources = tuple((node, address) for node in pull.sources if (address := self._address(node)))
        if not sources:
            self._land(pull)
            advance(pull, PullState.PULLING)
            self._again(step, pull, "none of the nodes that have it can be reached")
            return
        advance(pull, PullState.PULLING)
        self._numbers += 1
        pull.token = self._numbers
        self._by_token[pull.token] = pull
        pull.attempts += 1
        step.emit.transfer_begun(
            step.time_ns, pull.id, sources[0][0], self.node, pull.size, pull.queue_seconds, len(sources),
            pull.attempts,
        )  # fmt: skip
        step.effects.append(PullObject(pull.token, pull.id, pull.entry.offset, pull.size, pull.missing, sources))

    # --- how it ends -------------------------------------------------------------------------------------

    def pulled(self, step: Step, token: int, result: Pulled) -> None:
        """The transfer is over: nobody writes into the range any more."""
        pull = self._by_token.pop(token)
        pull.token = 0
        entry = pull.entry
        assert entry is not None
        pull.missing = result.missing
        pull.wire_seconds += result.wire_seconds
        for node, received, error in result.failures:
            step.emit.transfer_retried(
                step.time_ns, pull.id, node, self.node, received, pull.attempts, step.emit.intern(error)
            )
        self._land(pull)
        if pull.withdrawn or entry.doomed:
            self._fail(step, pull, *(pull.withdrawn or ("unknown", FREED)))
        elif result.missing:
            self._again(step, pull, result.error)
        else:
            step.emit.transfer_done(
                step.time_ns, pull.id, result.source, self.node, pull.size, pull.queue_seconds, pull.wire_seconds,
                result.sources, pull.attempts,
            )  # fmt: skip
            self._end(pull, PullState.DONE)
            self._objects.seal(step, self.node, pull.id)
        self._admit(step)

    def _again(self, step: Step, pull: Pull, error: str) -> None:
        """Ask its home once more, after a while."""
        pull.failures += 1
        if pull.failures >= ATTEMPTS_MAX:
            self._fail(step, pull, "lost", f"it could not be fetched: {error}")
            return
        if pull.state is not PullState.LOCATING:
            advance(pull, PullState.LOCATING)
        pull.asked_home = False
        pull.not_before = step.now + RETRY_SECONDS * 2 ** (pull.failures - 1)
        step.wake(pull.not_before)

    def _fail(self, step: Step, pull: Pull, error: str, detail: str) -> None:
        step.emit.transfer_failed(
            step.time_ns, pull.id, (pull.sources or [NIL_WORKER])[0], self.node, max(0, pull.size), pull.received,
            pull.queue_seconds, pull.wire_seconds, pull.attempts, step.emit.intern(detail),
        )  # fmt: skip
        self._land(pull)
        self._end(pull, PullState.FAILED)
        entry, pull.entry = pull.entry, None
        if entry is not None:
            self._objects.give_up_copy(step, entry, error, detail)
        for reader in pull.readers:
            self._objects.refuse(step, reader, error, detail)

    def _give_room_back(self, step: Step, pull: Pull) -> None:
        entry, pull.entry = pull.entry, None
        if entry is not None:
            pull.readers += [reader for reader in entry.waiting if not reader.serves]
            entry.waiting = []
            self._objects.give_up_copy(step, entry, "lost", "it has changed")

    def _end(self, pull: Pull, state: PullState) -> None:
        advance(pull, state)
        del self.pulls[pull.id]

    def found_here(self, step: Step, object_id: bytes) -> None:
        """It is complete in this node's own store, though not by a pull."""
        pull = self.pulls.get(object_id)
        if pull is not None and pull.entry is None:
            self._found_here(step, pull)

    def _found_here(self, step: Step, pull: Pull) -> None:
        self._land(pull)
        self._end(pull, PullState.DONE)
        for reader in pull.readers:
            self._objects.admit(step, reader, pull.id)

    # --- what happens elsewhere --------------------------------------------------------------------------

    def withdraw(self, step: Step, object_id: bytes, error: str, detail: str) -> None:
        """It was freed, or its owner is gone: it shall not come any more."""
        pull = self.pulls.get(object_id)
        if pull is None:
            return
        if pull.token:
            pull.withdrawn = (error, detail)
            step.effects.append(CancelPull(pull.token))
            return
        if pull.state is PullState.WAITING_ROOM:
            entry = self._objects.entries.get(object_id)
            pull.entry = entry if entry is not None and entry.copy else None
        self._fail(step, pull, error, detail)
        self._admit(step)

    def home_linked(self, step: Step, peer: Peer) -> None:
        """Its link is there (again): what it was asked for in vain is asked again."""
        self._ask_waiting(step, lambda pull: self._peers.home_of(pull.id) is peer)

    def home_gone(self, step: Step, peer: Peer, detail: str) -> None:
        """A node is dead or out of reach, and all owners at home there."""
        for pull in list(self.pulls.values()):
            if self._peers.home_of(pull.id) is peer:
                self.withdraw(step, pull.id, "lost", f"its owner is gone: {detail}")

    def tick(self, step: Step) -> None:
        """Try again what failed a while ago."""
        self._ask_waiting(step, lambda pull: step.now >= pull.not_before)
        self._admit(step)

    def _ask_waiting(self, step: Step, which: Callable[[Pull], bool]) -> None:
        for pull in list(self.pulls.values()):
            if pull.state is PullState.LOCATING and not pull.asked_home:
                if which(pull):
                    self._ask(step, pull)
                elif pull.not_before > step.now:
                    step.wake(pull.not_before)

    def check_invariants(self) -> None:
        flying = [pull for pull in self.pulls.values() if pull.id in self._flying]
        require(len(flying) == len(self._flying), "a pull that is over is in flight")
        require(sum(pull.size for pull in flying) == self._flying_bytes, "the bytes in flight do not add up")
        require(sum(pull.large for pull in flying) == self._flying_large, "the large ones in flight do not add up")
        for pull in self.pulls.values():
            in_flight = pull.state in (PullState.WAITING_ROOM, PullState.PULLING)
            require(in_flight == (pull.id in self._flying), "{} in flight: {}", pull, not in_flight)
            require((pull.state is PullState.PULLING) == bool(pull.token), "{} has the wrong token", pull)
            require(pull.entry is None or not pull.readers, "{}: readers at the wrong place", pull)
            require(self._by_token.get(pull.token) is pull or not pull.token, "{} has a foreign token", pull)
