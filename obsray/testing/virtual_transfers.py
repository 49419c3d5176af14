"""The bytes of objects between virtual nodes: as ``core/node/transfer.py``, from one source after the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from obsray.core.node.pulls import Pulled
from obsray.core.node.step import PullObject, RefuseTransfer, ServeObject
from obsray.ids import NIL_WORKER
from obsray.testing.agenda import MICROSECOND_NS, MILLISECOND_NS, SECOND_NS
from obsray.testing.ledger import Broken

if TYPE_CHECKING:
    from obsray.testing.virtual_node import VirtualNode

BYTES_PER_SECOND = 1e9
BLOCK_BYTES = 1 << 20
#: Without a byte for so long, a transfer is broken.
STALL_NS = 15 * SECOND_NS


class _Reading:
    """One pull. ``source`` is the node that is read now, ``over`` whether the machine was told."""

    def __init__(self, effect: PullObject, began_ns: int) -> None:
        self.effect = effect
        self.began_ns = began_ns
        self.left = list(effect.sources)
        self.source: VirtualNode | None = None
        self.failures: list[tuple[bytes, int, str]] = []
        self.cancelled = False
        self.over = False
        self.try_number = 0


class VirtualTransfers:
    """All transfers from and to one node."""

    def __init__(self, node: VirtualNode) -> None:
        self.node = node
        self.agenda, self.network, self.chance = node.agenda, node.network, node.chance
        self.reading: dict[int, _Reading] = {}
        #: What this node serves: token -> reader, object, what to do with the answer.
        self._asked: dict[int, Callable[[ServeObject | RefuseTransfer], None]] = {}
        self._tokens = itertools.count(1)

    # --- reading -----------------------------------------------------------------------------------------------

    def pull(self, effect: PullObject) -> None:
        """Fetch an object."""
        reading = self.reading[effect.token] = _Reading(effect, self.agenda.elapsed_ns)
        self.agenda.after(self.network.latency_ns(), self._next, reading)

    def cancel(self, token: int) -> None:
        """End a transfer soon."""
        reading = self.reading.get(token)
        if reading is not None:
            reading.cancelled = True
            self.agenda.after(self.network.latency_ns(), self._end, reading, "it was cancelled")

    def cut(self, peer: bytes) -> None:
        """End all transfers from a node; those to it end when it is not read any more."""
        for reading in list(self.reading.values()):
            if reading.source is not None and reading.source.id == peer:
                self.agenda.after(self.network.latency_ns(), self._failed, reading, reading.try_number, "it was cut")

    def _next(self, reading: _Reading) -> None:
        if reading.over:
            return
        if not reading.left or reading.cancelled:
            self._end(reading, "; ".join(why for _, _, why in reading.failures) or "no source")
            return
        identifier, _ = reading.left.pop(0)
        reading.source = there = self.node.simulator.nodes_by_id[identifier]
        reading.try_number += 1
        number = reading.try_number
        if there.dead:
            self._failed(reading, number, "connection refused")
        elif self.network.cut(self.node.host, there.host):
            self.agenda.after(5 * SECOND_NS, self._failed, reading, number, "it does not answer")
        else:
            # What stalls is broken some time.
            self.agenda.after(STALL_NS, self._failed, reading, number, "nothing came for too long")
            self.agenda.after(
                self.network.latency_ns(), there.when_awake, there.transfers.asked, self, reading, number,
                reading.effect.object,
            )  # fmt: skip

    def _failed(self, reading: _Reading, number: int, why: str) -> None:
        if reading.over or reading.try_number != number or reading.source is None:
            return
        reading.failures.append((reading.source.id, 0, f"node {reading.source.id.hex()}: {why}"))
        reading.source = None
        self._next(reading)

    def _arrived(self, reading: _Reading, number: int, there: VirtualNode, lies_at: int) -> None:
        """All its bytes have left: they are what lies there now, which must be the object."""
        found = there.arena.get(lies_at)
        if found is None or found[0] != reading.effect.object:
            what = "nothing" if found is None else found[0].hex()
            raise Broken(f"{reading.effect.object.hex()} is read at {lies_at} of {there.name}, but {what} is there")
        if reading.over or reading.try_number != number or self.node.dead:
            return
        if self.network.cut(self.node.host, there.host) or there.dead:
            self._failed(reading, number, "the connection ended in the middle")
            return
        self.node.arena[reading.effect.offset] = found
        self._tell(reading, Pulled((), there.id, 1, self._seconds(reading), tuple(reading.failures)))

    def _end(self, reading: _Reading, error: str) -> None:
        if not reading.over:
            effect = reading.effect
            failed = Pulled(effect.missing, NIL_WORKER, 0, self._seconds(reading), tuple(reading.failures), error)
            self._tell(reading, failed)

    def _tell(self, reading: _Reading, result: Pulled) -> None:
        reading.over = True
        token = reading.effect.token
        del self.reading[token]
        self.node.when_awake(self.node.do, self.node.machine.object_pulled, token, result)

    def _seconds(self, reading: _Reading) -> float:
        return (self.agenda.elapsed_ns - reading.began_ns) / SECOND_NS

    # --- serving -----------------------------------------------------------------------------------------------

    def asked(self, reader: VirtualTransfers, reading: _Reading, number: int, identifier: bytes) -> None:
        """Another node wants to read an object."""
        peer = self.node.machine.peers.peers.get(reader.node.id)
        if peer is None or not peer.alive:
            self._after(reader._failed, reading, number, "the connection was closed")
            return
        token = next(self._tokens)

        def answered(answer: ServeObject | RefuseTransfer) -> None:
            if isinstance(answer, RefuseTransfer):
                self._after(reader._failed, reading, number, answer.detail or answer.error)
            else:
                self._serve(reader, reading, number, identifier, answer)

        self._asked[token] = answered
        self.node.do(self.node.machine.transfer_asked, token, reader.node.id, identifier)

    def serve(self, effect: ServeObject | RefuseTransfer) -> None:
        """The machine's answer."""
        self._asked.pop(effect.token)(effect)

    def _serve(
        self, reader: VirtualTransfers, reading: _Reading, number: int, identifier: bytes, answer: ServeObject
    ) -> None:
        """Send it in one go; it stays pinned until the reader is done or gone."""
        if answer.offset in self.node.gone:
            why = "no such file"
            self.node.do(self.node.machine.transfer_over, reader.node.id, identifier, 0, 0.0, 0.0, why, True)
            self._after(reader._failed, reading, number, why)
            return
        took = int(answer.size / BYTES_PER_SECOND * SECOND_NS) + self.chance.randint(0, MILLISECOND_NS)

        def sent() -> None:
            if self.node.dead:
                return
            reader._arrived(reading, number, self.node, answer.offset)
            self.agenda.after(self.network.latency_ns(), self.node.when_awake, over)

        def over() -> None:
            seconds = took / SECOND_NS
            self.node.do(
                self.node.machine.transfer_over, reader.node.id, identifier, answer.size, 0.0, seconds, ""
            )  # fmt: skip

        self.agenda.after(took, sent)

    def _after(self, action: Callable[..., None], *arguments: Any) -> None:
        self.agenda.after(self.network.latency_ns() + 10 * MICROSECOND_NS, action, *arguments)
