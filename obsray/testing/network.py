"""Virtual links: FIFO like sockets, late like networks, closed when a process dies, silent while the network is cut.

Frames go through the real ``Connection``, so what arrives is what would arrive: plain values, tuples for lists.
Between two machines nothing is lost that was sent, as long as the connection lasts: what was under way when the network
was cut arrives when it is whole again, unless that takes so long that both ends give the connection up.
"""

from __future__ import annotations

import random
from typing import Any, Protocol

from obsray.core.protocol.messages import Message
from obsray.core.transport.connection import Connection, Hello
from obsray.core.transport.dial import UNACKNOWLEDGED_SECONDS_MAX
from obsray.testing.agenda import MICROSECOND_NS, MILLISECOND_NS, SECOND_NS, Agenda, EventLog

LATENCY_NS_MIN = 20 * MICROSECOND_NS
LATENCY_NS_MAX = 120 * MICROSECOND_NS
#: Between machines.
FAR_LATENCY_NS_MAX = 500 * MICROSECOND_NS


class Process(Protocol):
    """Whoever has ends of links. ``host``: its machine; ``paused``: it reads nothing for now."""

    id: bytes
    name: str
    host: bytes
    dead: bool
    paused: bool
    links: dict[int, VirtualLink]

    def deliver(self, link: VirtualLink, messages: list[Message]) -> None: ...

    def closed_by_peer(self, link: VirtualLink) -> None: ...

    def reading_delay_ns(self) -> int: ...


class VirtualLink:
    """One end of a connection, with the attributes of ``transport.links.Link`` that machines' shells use."""

    __slots__ = (
        "arrives_at",
        "arriving",
        "closed",
        "held",
        "network",
        "number",
        "other",
        "outbox",
        "peer",
        "process",
        "state",
    )  # fmt: skip

    def __init__(self, network: Network, process: Process, peer: Hello, number: int) -> None:
        self.network = network
        self.process = process
        self.peer = peer
        self.number = number
        self.outbox: list[Message] = []
        self.closed = False
        self.state: Any = None
        self.other: VirtualLink
        #: Frames on their way to this end; None is the end of the stream.
        self.arriving: list[bytes | None] = []
        #: When the latest of them arrives.
        self.arrives_at = 0
        #: How many of them would have arrived, but could not.
        self.held = 0

    @property
    def far(self) -> bool:
        """Whether it goes from one machine to another."""
        return self.process.host != self.other.process.host

    def send(self, message: Message) -> None:
        """Queue a message for the next flush; silently dropped if the link is closed."""
        if not self.outbox:
            self.network.dirty.append(self)
        self.outbox.append(message)


class Network:
    """All links. ``late_ratio`` of the frames take up to ``late_ns_max`` longer."""

    def __init__(self, agenda: Agenda, chance: random.Random, log: EventLog) -> None:
        self.agenda = agenda
        self.chance = chance
        self.log = log
        self.dirty: list[VirtualLink] = []
        #: Frames arrive whole, so that one serves all links.
        self.connection = Connection()
        self.frames = 0
        self.late_ratio = 0.0
        self.late_ns_max = 0
        #: process -> until when nothing reaches it.
        self.clogged: dict[bytes, int] = {}
        #: From which machine nothing reaches which, and the number of the cut.
        self.severed: dict[tuple[bytes, bytes], int] = {}
        self._held: dict[int, VirtualLink] = {}
        self._numbers = 0
        self._cuts = 0

    def connect(self, here: Process, me: Hello, there: Process, peer: Hello) -> tuple[VirtualLink, VirtualLink]:
        """Both ends of a new link, the connecting side's first. Raises OSError if that is impossible."""
        if self.cut(here.host, there.host):
            raise TimeoutError(f"{there.id.hex()} does not answer")
        if there.dead:
            raise ConnectionRefusedError(f"{there.id.hex()} is gone")
        return self.join(here, me, there, peer)

    def join(self, here: Process, me: Hello, there: Process, peer: Hello) -> tuple[VirtualLink, VirtualLink]:
        """Both ends of a new link, whatever becomes of it."""
        self._numbers += 1
        near = VirtualLink(self, here, peer, 2 * self._numbers)
        far = VirtualLink(self, there, me, 2 * self._numbers + 1)
        near.other, far.other = far, near
        here.links[near.number] = near
        there.links[far.number] = far
        return near, far

    def flush(self) -> None:
        """Put everything that was sent on its way."""
        while self.dirty:
            dirty, self.dirty = self.dirty, []
            for link in dirty:
                messages, link.outbox = link.outbox, []
                if messages and not link.closed and not link.process.dead:
                    frame = self.connection.pack(messages)
                    self.log.digest.update(frame)
                    self.frames += 1
                    self._put(link.other, frame)

    def latency_ns(self, far: bool = True) -> int:
        """How long a frame takes."""
        delay = self.chance.randint(LATENCY_NS_MIN, FAR_LATENCY_NS_MAX if far else LATENCY_NS_MAX)
        if self.late_ratio and self.chance.random() < self.late_ratio:
            delay += self.chance.randint(0, self.late_ns_max)
        return delay

    def _put(self, end: VirtualLink, frame: bytes | None) -> None:
        delay = self.latency_ns(end.far) + end.process.reading_delay_ns()
        now = self.agenda.elapsed_ns
        end.arrives_at = max(end.arrives_at, now + delay, self.clogged.get(end.process.id, 0))
        end.arriving.append(frame)
        self.agenda.at(end.arrives_at, self._arrive, end)

    def _arrive(self, end: VirtualLink) -> None:
        if not end.arriving:
            return
        if end.process.paused or (end.other.process.host, end.process.host) in self.severed:
            end.held += 1
            self._held[end.number] = end
        else:
            self._take(end, end.arriving.pop(0))

    def _take(self, end: VirtualLink, frame: bytes | None) -> None:
        if end.closed or end.process.dead:
            return
        if frame is None:
            self._closed(end)
        else:
            end.process.deliver(end, self.connection.receive(frame))

    def _closed(self, end: VirtualLink) -> None:
        end.closed = True
        end.process.links.pop(end.number, None)
        end.process.closed_by_peer(end)

    def read_to_end(self, end: VirtualLink) -> None:
        """Deliver now what lies in this machine's buffers already: all that its peer has sent, if that is here, too."""
        while end.arriving and not end.closed and not end.far:
            self._take(end, end.arriving.pop(0))

    def close(self, link: VirtualLink) -> None:
        """Close one end; the other hears of it behind what was sent before."""
        if link.closed:
            return
        link.closed = True
        link.process.links.pop(link.number, None)
        link.outbox.clear()
        self._put(link.other, None)

    def process_died(self, process: Process) -> None:
        """All its links close; what it had written still arrives."""
        for link in list(process.links.values()):
            self.close(link)

    def between(self, links: list[VirtualLink]) -> dict[frozenset[bytes], list[VirtualLink]]:
        """Ends of links by the two machines that they connect."""
        found: dict[frozenset[bytes], list[VirtualLink]] = {}
        for end in links:
            if end.far:
                found.setdefault(frozenset((end.process.host, end.other.process.host)), []).append(end)
        return found

    # --- a network that does not always work --------------------------------------------------------------------

    def cut(self, one: bytes, other: bytes) -> bool:
        """Whether two machines cannot talk."""
        return (one, other) in self.severed or (other, one) in self.severed

    def sever(self, one: bytes, other: bytes, links: list[VirtualLink]) -> None:
        """From now on nothing gets from one machine to the other. ``links``: ends of all links between them."""
        self._cuts += 1
        self.severed[one, other] = self._cuts
        for end in links:
            patience = UNACKNOWLEDGED_SECONDS_MAX * SECOND_NS + self.chance.randint(0, 500) * MILLISECOND_NS
            self.agenda.after(patience, self._give_up, end, one, other, self._cuts)

    def _give_up(self, end: VirtualLink, one: bytes, other: bytes, cut: int) -> None:
        if self.severed.get((one, other)) != cut or end.closed or end.process.dead:
            return
        # Should the other end not have given up when the network is whole again, it hears of it then.
        self._put(end.other, None)
        if end.process.paused:
            # Its kernel knows; the process will when it reads.
            end.arriving.clear()
            end.arriving.append(None)
            end.held = 1
            self._held[end.number] = end
        else:
            self._closed(end)

    def heal(self, one: bytes, other: bytes) -> None:
        """What was sent arrives after all."""
        self.severed.pop((one, other), None)
        self.resume()

    def resume(self) -> None:
        """Something can arrive again: have what waited do so, in its order."""
        held, self._held = self._held, {}
        for end in held.values():
            count, end.held = end.held, 0
            now = self.agenda.elapsed_ns
            end.arrives_at = max(end.arrives_at, now + self.latency_ns(end.far))
            for _ in range(count):
                self.agenda.at(end.arrives_at, self._arrive, end)

    def reset(self, link: VirtualLink) -> None:
        """A connection breaks: both ends hear of it, and what was under way is lost."""
        for end in (link, link.other):
            if not end.closed:
                end.arriving.clear()
                end.outbox.clear()
                end.held = 0
                self._put(end, None)
