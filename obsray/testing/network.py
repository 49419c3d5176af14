"""Virtual links: FIFO like sockets, late like networks, and closed when a process dies.

Frames go through the real ``Connection``, so what arrives is what would arrive: plain values, tuples for lists.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any, Protocol

from obsray.core.protocol.messages import Message
from obsray.core.transport.connection import Connection, Hello
from obsray.testing.agenda import MICROSECOND_NS, Agenda, EventLog

LATENCY_NS_MIN = 20 * MICROSECOND_NS
LATENCY_NS_MAX = 120 * MICROSECOND_NS


class Process(Protocol):
    """Whoever has ends of links."""

    id: bytes
    dead: bool
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
        "connection",
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
        self.connection = Connection()
        self.outbox: list[Message] = []
        self.closed = False
        self.state: Any = None
        self.other: VirtualLink
        #: Frames on their way to this end; None is the end of the stream.
        self.arriving: deque[bytes | None] = deque()
        #: When the latest of them arrives.
        self.arrives_at = 0

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
        self.frames = 0
        self.late_ratio = 0.0
        self.late_ns_max = 0
        #: process -> until when nothing reaches it.
        self.clogged: dict[bytes, int] = {}
        self._numbers = 0

    def connect(self, here: Process, me: Hello, there: Process, peer: Hello) -> tuple[VirtualLink, VirtualLink]:
        """Both ends of a new link, the connecting side's first. Raises ConnectionRefusedError if nobody listens."""
        if there.dead:
            raise ConnectionRefusedError(f"{there.id.hex()} is gone")
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
                    frame = link.connection.pack(messages)
                    self.log.digest.update(frame)
                    self.frames += 1
                    self._put(link.other, frame)

    def _put(self, end: VirtualLink, frame: bytes | None) -> None:
        delay = self.chance.randint(LATENCY_NS_MIN, LATENCY_NS_MAX) + end.process.reading_delay_ns()
        if self.late_ratio and self.chance.random() < self.late_ratio:
            delay += self.chance.randint(0, self.late_ns_max)
        now = self.agenda.elapsed_ns
        end.arrives_at = max(end.arrives_at, now + delay, self.clogged.get(end.process.id, 0))
        end.arriving.append(frame)
        self.agenda.at(end.arrives_at, self._arrive, end)

    def _arrive(self, end: VirtualLink) -> None:
        if end.arriving:
            self._take(end, end.arriving.popleft())

    def _take(self, end: VirtualLink, frame: bytes | None) -> None:
        if end.closed or end.process.dead:
            return
        if frame is None:
            end.closed = True
            end.process.links.pop(end.number, None)
            end.process.closed_by_peer(end)
        else:
            end.process.deliver(end, end.connection.receive(frame))

    def read_to_end(self, end: VirtualLink) -> None:
        """Deliver now what its peer has sent: it lies in this machine's buffers already."""
        while end.arriving and not end.closed:
            self._take(end, end.arriving.popleft())

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
