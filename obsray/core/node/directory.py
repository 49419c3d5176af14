"""Machine: at the home of objects, which other nodes hold them, and who asks where they are.

What lies in this node's own store is looked up there (``here``) and not repeated. Whoever asks for what is nowhere yet
waits: what announces it may still be under way. It is told that the object is lost if it is still nowhere
``WAIT_SECONDS`` after all nodes could have said so (sooner if it was lost before), and at once if its owner ends or
frees it.

Large objects are given out in turn: each copy is read by ``READERS_PER_COPY`` nodes at a time, so that those who come
later read from copies made meanwhile and not all from where it was made.

Invariants: a place has a node, or readers that were sent to this one; a lost object has no place; nobody waits for
what could be read at once, unless it is read by as many as may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from obsray.core.node.entries import Entry
from obsray.core.node.step import Step, require
from obsray.core.protocol import messages as m
from obsray.ids import owner_of
from obsray.telemetry.events import Reason

WAIT_SECONDS = 10.0
#: What lay on a node that died does not come any more; what others announce is soon here.
WAIT_AFTER_DEATH_SECONDS = 2.0
#: What is known to be lost may be made again, and the news of it be under way.
WAIT_IF_LOST_SECONDS = 1.0
#: How often it is looked whether all can be heard again.
UNSETTLED_SECONDS = 1.0
LARGE_BYTES = 8 << 20
READERS_PER_COPY = 2
#: A node that was sent to a copy and is not heard of for this long, plus what so many bytes take, counts no more.
READING_SECONDS = 1.0
READING_BYTES_PER_SECOND = 100e6
FREED = "it was freed"


@dataclass(slots=True, eq=False)
class Place:
    """Where an object lies besides this node. ``original`` is the node whose copy may not be dropped."""

    id: bytes
    size: int
    nodes: dict[bytes, None] = field(default_factory=dict)
    original: bytes = b""
    #: Nodes that were told where it is and have not said that they have it: the source, and until when that counts.
    readers: dict[bytes, tuple[bytes, float]] = field(default_factory=dict)


class Directory:
    """``here`` finds a readable object in this node's store, ``lives`` says whether an owner does, ``answer`` tells
    this node's own pulls, ``keep`` makes a copy in the own store the original, ``settled`` says since when all nodes
    that live could be heard (None: one cannot), ``others`` are the nodes that can be told something."""

    def __init__(
        self,
        node: bytes,
        here: Callable[[bytes], Entry | None],
        lives: Callable[[bytes], bool],
        answer: Callable[[Step, m.ObjectLocated], None],
        keep: Callable[[Step, bytes], None],
        settled: Callable[[], float | None],
        others: Callable[[], Iterable[bytes]],
    ) -> None:
        self.node = node
        self.places: dict[bytes, Place] = {}
        self.lost: dict[bytes, str] = {}
        #: Object -> other nodes whose store could not read it and says so until it is freed, wherever it is made again.
        self._lost_at: dict[bytes, set[bytes]] = {}
        #: Object -> nodes that ask where it is, and since when.
        self.waiting: dict[bytes, dict[bytes, float]] = {}
        self._here, self._lives, self._tell_here = here, lives, answer
        self._keep_here, self._settled, self._others = keep, settled, others
        self._died_at: float | None = None
        self._by_owner: dict[bytes, set[bytes]] = {}
        self._by_node: dict[bytes, dict[bytes, Place]] = {}

    # --- questions ---------------------------------------------------------------------------------------

    def locate(self, step: Step, asker: bytes, object_id: bytes) -> None:
        """A node (maybe this one) wants to read: answered with ObjectLocated, now or later."""
        place = self.places.get(object_id)
        if place is not None:
            place.readers.pop(asker, None)
            if asker in place.nodes:
                self.gone(step, asker, [object_id], "")
        if not self._lives(owner_of(object_id)):
            self._answer(step, asker, object_id, 0, [], "its owner has ended")
        elif not self._send_to_copy(step, asker, object_id):
            self._remember(object_id)
            # It may have been made again, and who asks has heard of it before us.
            ago = 0.0
            if object_id in self.lost:
                ago = WAIT_SECONDS - WAIT_IF_LOST_SECONDS
            elif self._died_at is not None and step.now < self._died_at + WAIT_SECONDS:
                ago = WAIT_SECONDS - WAIT_AFTER_DEATH_SECONDS
            self.waiting.setdefault(object_id, {})[asker] = step.now - ago
            self._wake_for(step, object_id)

    def _sources(self, object_id: bytes, asker: bytes) -> tuple[int, list[bytes]]:
        entry, place = self._here(object_id), self.places.get(object_id)
        nodes = list(place.nodes) if place is not None else []
        size = place.size if place is not None else 0
        if entry is not None and asker != self.node:
            return entry.size, [self.node, *nodes]
        return size, [node for node in nodes if node != asker]

    def _send_to_copy(self, step: Step, asker: bytes, object_id: bytes) -> bool:
        """Answer with a copy that has room for one more reader. False if there is none now."""
        size, nodes = self._sources(object_id, asker)
        if not nodes:
            return False
        place = self.places.get(object_id)
        if size >= LARGE_BYTES and place is not None:
            load = dict.fromkeys(nodes, 0)
            for reader, (source, until) in list(place.readers.items()):
                if until <= step.now:
                    place.readers[reader] = (b"", until)
                elif source in load:
                    load[source] += 1
            # Those that have it longest are asked by most: of equals the youngest copy.
            nodes = nodes[::-1]
            nodes.sort(key=load.__getitem__)
            if load[nodes[0]] >= READERS_PER_COPY:
                return False
        if asker != self.node or size >= LARGE_BYTES:
            if place is None:
                place = self.places[object_id] = Place(object_id, size)
                self._remember(object_id)
            place.readers[asker] = (nodes[0], step.now + READING_SECONDS + size / READING_BYTES_PER_SECOND)
        self._answer(step, asker, object_id, size, nodes, "")
        return True

    def _answer(self, step: Step, asker: bytes, object_id: bytes, size: int, nodes: list[bytes], detail: str) -> None:
        message = m.ObjectLocated(object_id, size, nodes, detail)
        if asker == self.node:
            self._tell_here(step, message)
        else:
            step.tell_node(asker, message)

    def _wake_for(self, step: Step, object_id: bytes) -> None:
        """Somebody waits: look again when a reader counts no more, or when it has been waited for long enough."""
        place = self.places.get(object_id)
        if place is not None and self.nodes_of(object_id):
            readers = place.readers.values()
            step.wake(min((until for _, until in readers if until > step.now), default=step.now + READING_SECONDS))
        elif object_id in self.lost:
            step.wake(min(self.waiting[object_id].values()) + WAIT_SECONDS)
        elif (settled := self._settled()) is not None:
            step.wake(max(settled, min(self.waiting[object_id].values())) + WAIT_SECONDS)
        else:
            # A node that cannot be heard comes back or is declared dead; neither need say anything of this object.
            step.wake(step.now + UNSETTLED_SECONDS)

    def retry(self, step: Step, object_id: bytes) -> None:
        """There may be (another) copy now, or a reader less."""
        waiting = self.waiting.get(object_id)
        if not waiting:
            return
        for asker in list(waiting):
            if not self._send_to_copy(step, asker, object_id):
                break
            del waiting[asker]
        if not waiting:
            del self.waiting[object_id]
            self._tidy(object_id)
        else:
            self._wake_for(step, object_id)

    def _refuse(self, step: Step, object_id: bytes, detail: str) -> None:
        for asker in self.waiting.pop(object_id, {}):
            self._answer(step, asker, object_id, 0, [], detail)

    # --- news --------------------------------------------------------------------------------------------

    def arrived(self, step: Step, node: bytes, objects: Iterable[tuple[bytes, int]]) -> None:
        """These lie at another node now."""
        unwanted = []
        for object_id, size in objects:
            if not self._lives(owner_of(object_id)):
                unwanted.append(object_id)
                continue
            self.lost.pop(object_id, None)
            place = self.places.get(object_id)
            if place is None:
                place = self.places[object_id] = Place(object_id, size)
                self._remember(object_id)
            self._no_longer_lost_at(object_id, node)
            place.size = size
            place.nodes[node] = None
            place.readers.pop(node, None)
            self._by_node.setdefault(node, {})[object_id] = place
            if not place.original:
                entry = self._here(object_id)
                place.original = self.node if entry is not None and not entry.copy else node
            self.retry(step, object_id)
        if unwanted:
            step.tell_node(node, m.FreeObjects(unwanted))

    def sealed_here(self, step: Step, object_id: bytes) -> None:
        """It is complete in this node's own store."""
        self.lost.pop(object_id, None)
        place = self.places.get(object_id)
        if place is not None:
            place.readers.pop(self.node, None)
        waiting = self.waiting.get(object_id, {})
        if waiting.pop(self.node, None) is not None and not waiting:
            del self.waiting[object_id]
        self.retry(step, object_id)
        self._tidy(object_id)

    def gone(self, step: Step, node: bytes, objects: Iterable[bytes], detail: str) -> None:
        """These no longer lie there: copies that were dropped, or (``detail``) what was lost."""
        without = []
        keep: dict[bytes, list[bytes]] = {}
        for object_id in objects:
            place = self._by_node.get(node, {}).pop(object_id, None)
            if place is None:
                continue
            del place.nodes[node]
            if detail:
                self._lost_at.setdefault(object_id, set()).add(node)
            if self._without_original(step, place, node, keep):
                without.append(place)
            else:
                self._tidy(object_id)
        self._tell_keepers(step, keep)
        self._lose(step, without, detail or "its last copy was dropped", Reason.NONE)

    def hand_over(self, object_id: bytes, leaving: bytes, node: bytes) -> None:
        """``node`` keeps it from now on; what ``leaving`` has is a copy."""
        place = self.places.get(object_id)
        if place is not None and place.original == leaving and (node == self.node or node in place.nodes):
            place.original = node

    def forget(self, step: Step, node: bytes, objects: Iterable[bytes]) -> None:
        """These were freed there, as they should be."""
        keep: dict[bytes, list[bytes]] = {}
        for object_id in objects:
            place = self._by_node.get(node, {}).pop(object_id, None)
            if place is not None:
                del place.nodes[node]
                self._without_original(step, place, node, keep)
                self._tidy(object_id)
        self._tell_keepers(step, keep)

    def lost_here(self, step: Step, object_id: bytes, detail: str) -> bool:
        """The own store cannot read it any more. True if it lies elsewhere, too."""
        place = self.places.get(object_id)
        if place is None or not place.nodes:
            if place is not None:
                self._forget(place)
            self.lost[object_id] = detail
            self._remember(object_id)
            self._refuse(step, object_id, detail)
            step.send(owner_of(object_id), m.ObjectLost([object_id], detail))
            return False
        keep: dict[bytes, list[bytes]] = {}
        self._without_original(step, place, self.node, keep)
        self._tell_keepers(step, keep)
        return True

    def _without_original(self, step: Step, place: Place, node: bytes, keep: dict[bytes, list[bytes]]) -> bool:
        """``node`` has it no more; if that was the original, another copy takes its place. True if there is none."""
        for reader, (source, until) in list(place.readers.items()):
            if source == node:
                place.readers[reader] = (b"", until)
        if place.original != node and (place.nodes or self._here(place.id) is not None):
            return False
        if self._here(place.id) is not None:
            place.original = self.node
            self._keep_here(step, place.id)
            self._tidy(place.id)
        elif place.nodes:
            place.original = next(iter(place.nodes))
            keep.setdefault(place.original, []).append(place.id)
        else:
            place.original = b""
            return True
        return False

    def _tell_keepers(self, step: Step, keep: dict[bytes, list[bytes]]) -> None:
        for node, objects in keep.items():
            step.tell_node(node, m.KeepObjects(objects))

    def _lose(self, step: Step, places: list[Place], detail: str, reason: Reason) -> None:
        """No copy of these is left: those who wait are told, and each owner once for all."""
        by_owner: dict[bytes, list[bytes]] = {}
        for place in places:
            self._forget(place)
            self.lost[place.id] = detail
            self._remember(place.id)
            by_owner.setdefault(owner_of(place.id), []).append(place.id)
            step.emit.object_lost(step.time_ns, place.id, place.size, reason, step.emit.intern(detail))
            self._refuse(step, place.id, detail)
        for owner, objects in by_owner.items():
            step.send(owner, m.ObjectLost(objects, detail))

    def node_gone(self, step: Step, node: bytes, detail: str) -> None:
        """A node is dead or out of reach: its copies are gone, and it asks for nothing any more."""
        self._died_at = step.now
        for object_id, waiting in list(self.waiting.items()):
            waiting.pop(node, None)
            for asker in waiting:
                waiting[asker] = min(waiting[asker], step.now - WAIT_SECONDS + WAIT_AFTER_DEATH_SECONDS)
            if not waiting:
                del self.waiting[object_id]
        if self.waiting:
            step.wake(step.now + WAIT_AFTER_DEATH_SECONDS)
        without = []
        keep: dict[bytes, list[bytes]] = {}
        for place in self._by_node.pop(node, {}).values():
            del place.nodes[node]
            if self._without_original(step, place, node, keep):
                without.append(place)
            else:
                self._tidy(place.id)
        for place in list(self.places.values()):
            if place.readers.pop(node, None) is not None:
                self._tidy(place.id)
        for object_id in [each for each, nodes in self._lost_at.items() if node in nodes]:
            self._no_longer_lost_at(object_id, node)
            self._tidy(object_id)
        self._tell_keepers(step, keep)
        self._lose(step, without, detail, Reason.NODE_DIED)
        for object_id in list(self.waiting):
            self.retry(step, object_id)

    def freed(self, step: Step, objects: Iterable[bytes], known: Callable[[bytes], bool]) -> None:
        """Their owner wants them to go everywhere. ``known``: whether an object is in the own store, or will be.

        What is nowhere, as far as this node has heard, may be complete elsewhere, with the news of it under way: all
        are told. So it is with what was lost: it may have been made again.
        """
        told: dict[bytes, list[bytes]] = {}
        for object_id in objects:
            place = self.places.get(object_id)
            nodes: Iterable[bytes] = sorted(self._lost_at.pop(object_id, ()))
            if place is not None:
                nodes = {**place.nodes, **place.readers, **dict.fromkeys(nodes)}
                self._forget(place)
            elif not known(object_id):
                nodes = self._others()
            for node in nodes:
                told.setdefault(node, []).append(object_id)
            self.lost.pop(object_id, None)
            self._refuse(step, object_id, FREED)
            self._tidy(object_id)
        for node, theirs in told.items():
            if node != self.node:
                step.tell_node(node, m.FreeObjects(theirs))

    def items_of(self, owner: bytes, task: bytes) -> list[bytes]:
        """All that is known of what a streaming task has stored."""
        return [each for each in self._by_owner.get(owner, ()) if each.startswith(task)]

    def owner_gone(self, step: Step, owner: bytes) -> None:
        """A client of this node ended: what it owned goes everywhere."""
        objects = sorted(self._by_owner.get(owner, ()))
        for object_id in objects:
            self._refuse(step, object_id, "its owner has ended")
        self.freed(step, objects, lambda _: True)

    def tick(self, step: Step) -> None:
        """Those who have waited long enough are told that it is nowhere."""
        settled = self._settled()
        for object_id, waiting in list(self.waiting.items()):
            self.retry(step, object_id)
            if object_id not in self.waiting or self.nodes_of(object_id):
                continue
            if object_id in self.lost and step.now >= min(waiting.values()) + WAIT_SECONDS:
                self._refuse(step, object_id, self.lost[object_id])
            elif settled is not None and step.now >= max(settled, min(waiting.values())) + WAIT_SECONDS:
                self._lose(step, [self.places.get(object_id) or Place(object_id, 0)], "no node has it", Reason.NONE)
            else:
                self._wake_for(step, object_id)

    # --- the books ---------------------------------------------------------------------------------------

    def nodes_of(self, object_id: bytes) -> list[bytes]:
        """Where it lies now, this node included."""
        return self._sources(object_id, b"")[1]

    def _no_longer_lost_at(self, object_id: bytes, node: bytes) -> None:
        nodes = self._lost_at.get(object_id)
        if nodes is not None:
            nodes.discard(node)
            if not nodes:
                del self._lost_at[object_id]

    def _remember(self, object_id: bytes) -> None:
        self._by_owner.setdefault(owner_of(object_id), set()).add(object_id)

    def _forget(self, place: Place) -> None:
        self.places.pop(place.id, None)
        for node in place.nodes:
            del self._by_node[node][place.id]

    def _tidy(self, object_id: bytes) -> None:
        """Nothing is kept of what is only here, nowhere, or gone."""
        place = self.places.get(object_id)
        if place is not None and not place.nodes and not place.readers:
            del self.places[object_id]
            place = None
        nowhere = place is None and object_id not in self.lost and object_id not in self._lost_at
        if nowhere and object_id not in self.waiting:
            owner = owner_of(object_id)
            mine = self._by_owner.get(owner)
            if mine is not None:
                mine.discard(object_id)
                if not mine:
                    del self._by_owner[owner]

    def check_invariants(self) -> None:
        for object_id, place in self.places.items():
            require(place.id == object_id and bool(place.nodes or place.readers), f"{object_id!r} is nowhere")
            require(object_id not in self.lost, f"{object_id!r} is lost and has a place")
            require(object_id in self._by_owner.get(owner_of(object_id), ()), f"{object_id!r} of nobody")
            for node in place.nodes:
                require(self._by_node[node].get(object_id) is place, f"{object_id!r} is not known by its node")
            require(not place.nodes or place.original in (self.node, *place.nodes), f"{object_id!r} has no original")
        for node, places in self._by_node.items():
            require(all(node in place.nodes for place in places.values()), "a node with what is not there")
        require(all(self.waiting.values()), "nobody waits for it")
