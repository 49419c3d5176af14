"""Machine: objects that lie only on a node that drains are moved to others before it leaves.

The node says to the home of each what is about to go (``ObjectsLeaving``). The home has another node take it
(``TakeObjects``): one that has a copy, else the one with most room, maybe itself. That node fetches it as if somebody
wanted to read it, keeps it, and says so (``ObjectTaken``); if it cannot, the home asks another. The home tells the
node that drains how it ended (``ObjectMoved``). What is owned by processes of that node itself ends with them and is
not moved.

Invariants: the bytes under way add up; what a node was asked to take is answered once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from obsray.core.node.abroad import STORE_RESOURCE
from obsray.core.node.entries import Entry
from obsray.core.node.peers import Peer
from obsray.core.node.step import Step, require
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import ObjectState

if TYPE_CHECKING:
    from obsray.core.node.machine import NodeMachine

#: So much of a node's objects is being moved at a time (one is always allowed).
BYTES_UNDER_WAY_MAX = 256 << 20
OBJECTS_UNDER_WAY_MAX = 1000
#: So many nodes are asked to take an object before it is given up.
TARGETS_MAX = 3
LOOK_SECONDS = 0.1
#: What has not moved for so long does not hold up the node that leaves.
STALL_SECONDS = 60.0


@dataclass(slots=True, eq=False)
class Errand:
    """At the home of an object: whom it is to be moved away from, who was asked to take it, who could not."""

    leaving: bytes
    size: int
    target: bytes = b""
    refused: dict[bytes, str] = field(default_factory=dict)


@dataclass(slots=True)
class Progress:
    """What became of the objects of a node that drains."""

    moved: int = 0
    moved_bytes: int = 0
    left: int = 0
    left_bytes: int = 0
    failed: int = 0
    failed_bytes: int = 0
    #: Why the last of those failed.
    why: str = ""


class Moving:
    """The part that a node has in moving objects: as the one that drains, as their home, as the one that takes them."""

    def __init__(self, machine: NodeMachine) -> None:
        self._machine = machine
        self._sharing = machine.sharing
        self._objects = machine.objects
        self.progress = Progress()
        #: On a node that drains: object -> when its home was told, and what could not be moved.
        self._under_way: dict[bytes, int] = {}
        self._failed: dict[bytes, str] = {}
        self._progress_at = 0.0
        self._look_at = 0.0
        self._told: tuple[int, ...] = ()
        #: At the home.
        self.errands: dict[bytes, Errand] = {}
        machine.sharing.on_taken = self.taken
        machine.abroad.handlers |= {
            m.ObjectsLeaving: self._leaving,
            m.TakeObjects: self._take,
            m.ObjectTaken: self._was_taken,
            m.ObjectMoved: self._moved,
        }
        machine.abroad.on_lost.append(self._node_lost)

    # --- the node that drains --------------------------------------------------------------------------------

    def look(self, step: Step) -> bool:
        """Have moved what is only here. Returns whether the node may leave, as far as its objects go."""
        if step.now >= self._look_at:
            self._look_at = step.now + LOOK_SECONDS
            self._send_off(step)
        progress = self.progress
        if progress.left:
            step.wake(self._look_at)
        if progress.left and step.now >= self._progress_at + STALL_SECONDS:
            for object_id in list(self._under_way):
                self._give_up(step, object_id, f"nothing was moved for {STALL_SECONDS:g} s")
            self._count(step)
        return not self.progress.left

    def _send_off(self, step: Step) -> None:
        by_home: dict[bytes, list[tuple[bytes, int]]] = {}
        size = sum(self._under_way.values())
        left = left_bytes = 0
        for entry in self._objects.entries.values():
            if not self._must_move(entry):
                continue
            left += 1
            left_bytes += entry.size
            home = self._machine.peers.home_of(entry.id)
            if entry.id in self._under_way or home is None:
                continue
            busy = size + entry.size > BYTES_UNDER_WAY_MAX or len(self._under_way) >= OBJECTS_UNDER_WAY_MAX
            if busy and self._under_way:
                continue
            if not self._under_way:
                self._progress_at = step.now
            self._under_way[entry.id] = entry.size
            size += entry.size
            by_home.setdefault(home.id, []).append((entry.id, entry.size))
        for node, objects in by_home.items():
            step.tell_node(node, m.ObjectsLeaving(objects))
        # What was freed meanwhile is no longer under way.
        for object_id in [each for each in self._under_way if not self._must_move(self._objects.entries.get(each))]:
            del self._under_way[object_id]
        self.progress.left, self.progress.left_bytes = left, left_bytes
        self._tell(step)

    def _must_move(self, entry: Entry | None) -> bool:
        if entry is None or entry.copy or entry.doomed or entry.id in self._failed:
            return False
        if entry.state in (ObjectState.CREATED, ObjectState.LOST):
            return False
        home = self._machine.peers.home_of(entry.id)
        return home is not None and home.linked

    def _moved(self, step: Step, peer: Peer, message: m.ObjectMoved) -> None:
        """The home says how it ended."""
        size = self._under_way.pop(message.object, None)
        if size is None:
            return
        self._progress_at = step.now
        entry = self._objects.entries.get(message.object)
        if message.error:
            if entry is not None:
                self._under_way[message.object] = size
                self._give_up(step, message.object, message.error)
        elif entry is not None:
            # Another node has it now: this one is a copy.
            entry.copy = True
            progress = self.progress
            progress.moved += 1
            progress.moved_bytes += entry.size
            progress.left -= 1
            progress.left_bytes -= entry.size
            step.emit.object_moved(step.time_ns, entry.id, self._machine.node, message.node, entry.size)
        if not self._under_way:
            self._look_at = step.now
        self._machine.look(step)

    def _give_up(self, step: Step, object_id: bytes, why: str) -> None:
        size = self._under_way.pop(object_id)
        self._failed[object_id] = why
        self.progress.failed += 1
        self.progress.failed_bytes += size
        self.progress.why = why
        step.emit.object_not_moved(step.time_ns, object_id, self._machine.node, size, step.emit.intern(why))

    def _count(self, step: Step) -> None:
        waits = [entry.size for entry in self._objects.entries.values() if self._must_move(entry)]
        self.progress.left, self.progress.left_bytes = len(waits), sum(waits)
        self._tell(step)

    def _tell(self, step: Step) -> None:
        """Record how far it is, if that has changed."""
        progress = self.progress
        counts = (progress.moved, progress.left, progress.failed)
        if counts == self._told or not any(counts):
            return
        self._told = counts
        step.emit.drain_progress(
            step.time_ns, self._machine.node, progress.moved, progress.moved_bytes, progress.left, progress.left_bytes,
            progress.failed, progress.failed_bytes,
        )  # fmt: skip

    # --- the home --------------------------------------------------------------------------------------------

    def _leaving(self, step: Step, peer: Peer, message: m.ObjectsLeaving) -> None:
        for object_id, size in message.objects:
            if self._machine.peers.home_of(object_id) is not None:
                continue
            if peer.id not in self._sharing.directory.nodes_of(object_id):
                # Freed, and the news of it is under way, or it is made again elsewhere.
                step.tell_node(peer.id, m.ObjectMoved(object_id, b"", "its home does not know it"))
                continue
            errand = self.errands[object_id] = Errand(peer.id, size)
            self._find_target(step, object_id, errand)

    def _find_target(self, step: Step, object_id: bytes, errand: Errand) -> None:
        node = b"" if len(errand.refused) >= TARGETS_MAX else self._target(object_id, errand)
        if not node:
            why = "; ".join(errand.refused.values()) or f"no other node has room for {errand.size:,} bytes"
            self._answer(step, object_id, b"", why)
            return
        errand.target = node
        if node == self._machine.node:
            self._take_here(step, object_id)
        else:
            step.tell_node(node, m.TakeObjects([object_id]))

    def _target(self, object_id: bytes, errand: Errand) -> bytes:
        """A node that has it, else the one with most room; empty if there is none."""
        machine = self._machine
        under_way: dict[bytes, int] = {}
        for other in self.errands.values():
            under_way[other.target] = under_way.get(other.target, 0) + other.size
        room: dict[bytes, int] = {}
        if not machine.abroad.draining and machine.objects.capacity >= errand.size:
            room[machine.node] = machine.objects.capacity - machine.objects.allocator.used_bytes
        for peer in machine.peers.usable():
            if peer.total.get(STORE_RESOURCE, 0) >= errand.size:
                room[peer.id] = peer.store_bytes
        candidates = [node for node in room if node != errand.leaving and node not in errand.refused]
        have = machine.sharing.directory.nodes_of(object_id)
        best = [node for node in candidates if node in have] or candidates
        return max(best, key=lambda node: (room[node] - under_way.get(node, 0), node), default=b"")

    def _was_taken(self, step: Step, peer: Peer, message: m.ObjectTaken) -> None:
        self._taken_by(step, peer.id, message.object, message.error)

    def _taken_by(self, step: Step, node: bytes, object_id: bytes, error: str) -> None:
        errand = self.errands.get(object_id)
        if errand is None or errand.target != node:
            return
        if error:
            errand.refused[node] = error
            errand.target = b""
            self._find_target(step, object_id, errand)
        else:
            self._sharing.directory.hand_over(object_id, errand.leaving, node)
            self._answer(step, object_id, node, "")

    def _answer(self, step: Step, object_id: bytes, node: bytes, error: str) -> None:
        errand = self.errands.pop(object_id)
        step.tell_node(errand.leaving, m.ObjectMoved(object_id, node, error))

    def _node_lost(self, step: Step, peer: Peer, why: str) -> None:
        for object_id, errand in list(self.errands.items()):
            if errand.leaving == peer.id:
                del self.errands[object_id]
            elif errand.target == peer.id:
                self._taken_by(step, peer.id, object_id, why)
        # A home that is out of reach has let go of what it had here.

    # --- the one that takes it -------------------------------------------------------------------------------

    def _take(self, step: Step, peer: Peer, message: m.TakeObjects) -> None:
        for object_id in message.objects:
            if self._machine.abroad.draining:
                self.taken(step, object_id, "it drains, too")
            elif self._machine.peers.home_of(object_id) is peer:
                self._take_here(step, object_id)

    def _take_here(self, step: Step, object_id: bytes) -> None:
        if self._sharing.has(object_id):
            self.taken(step, object_id, "")
        else:
            self._objects.pin(step, self._machine.node, 0, object_id, keeps=True)

    def taken(self, step: Step, object_id: bytes, error: str) -> None:
        """It lies here now and stays, or cannot be had."""
        if not error:
            self._sharing.keep(step, object_id)
        home = self._machine.peers.home_of(object_id)
        if home is None:
            self._taken_by(step, self._machine.node, object_id, error)
        else:
            self._sharing.tell_later(home.id, m.ObjectTaken(object_id, error))

    def check_invariants(self) -> None:
        for object_id, errand in self.errands.items():
            require(errand.target != errand.leaving, f"{object_id!r} is moved to where it leaves")
            require(self._machine.peers.home_of(object_id) is None, f"{object_id!r} is not at home here")
