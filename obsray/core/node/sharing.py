"""Machine: the objects of this node among those of all: what is told to whom, and what is asked of whom.

Ties the node's own store to the directory of what is at home here (``directory.py``) and to the pulls of what lies
elsewhere (``pulls.py``). A node that is out of reach is as good as dead: what it had is gone, and what its clients own
here goes.

Invariant: what other nodes say of an object counts only if it comes from its home, or is said to its home.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from obsray.core.node.directory import FREED, Directory
from obsray.core.node.entries import Entry, Reader
from obsray.core.node.intake import Malformed
from obsray.core.node.objects import ObjectTable
from obsray.core.node.peers import Peer, PeerTable
from obsray.core.node.pulls import Pulled, Pulls
from obsray.core.node.step import CutTransfers, Step
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import ObjectState
from obsray.ids import OBJECT_ID_BYTES, mark_of, mark_of_node, owner_of

_READABLE = frozenset({ObjectState.SEALED, ObjectState.SPILLING, ObjectState.SPILLED, ObjectState.RESTORING})


class Sharing:
    """``lives`` says whether a process is a client of this node."""

    def __init__(self, node: bytes, objects: ObjectTable, peers: PeerTable, lives: Callable[[bytes], bool]) -> None:
        self.node = node
        self.objects, self.peers, self.lives = objects, peers, lives
        self.pulls = Pulls(node, objects, peers, lambda step, identifier: self.directory.locate(step, node, identifier))
        self.directory = Directory(
            node, self._here, self._lives_here, self.pulls.located, self._keep_here, self._settled, self._others
        )
        self.handlers: dict[type, Callable[[Step, Peer, Any], None]] = {
            m.LocateObject: self._locate,
            m.ObjectLocated: self._located,
            m.ObjectsAt: self._objects_at,
            m.ObjectsGone: self._objects_gone,
            m.FreeObjects: self._free_objects,
            m.FreeItems: self._free_items,
            m.KeepObjects: self._keep_objects,
            m.ObjectsFreed: self._objects_freed,
        }
        self._settled_at = 0.0
        self._new: dict[bytes, list[tuple[bytes, int]]] = {}
        self._gone: dict[bytes, list[bytes]] = {}
        self._later: list[tuple[bytes, Any]] = []
        #: Told how it ends when something is taken over from a node that leaves (``moving.py``).
        self.on_taken: Callable[[Step, bytes, str], None] = lambda step, object_id, error: None
        #: What its home has freed just now.
        self._freeing: set[bytes] = set()
        objects.sharer = self

    def _here(self, object_id: bytes) -> Entry | None:
        entry = self.objects.entries.get(object_id)
        return entry if entry is not None and entry.state in _READABLE and not entry.doomed else None

    def _known_here(self, object_id: bytes) -> bool:
        entry = self.objects.entries.get(object_id)
        return entry is not None and entry.state is not ObjectState.LOST

    def _lives_here(self, owner: bytes) -> bool:
        return self.peers.home_of(owner) is None and self.lives(owner)

    def _others(self) -> list[bytes]:
        return [peer.id for peer in self.peers.peers.values() if peer.linked]

    def _settled(self) -> float | None:
        return None if self.peers.apart else self._settled_at

    def may_create(self, object_id: bytes) -> bool:
        """Whether somebody is there who can free it."""
        home = self.peers.home_of(object_id)
        return self.lives(owner_of(object_id)) if home is None else home.linked

    # --- what the store tells ----------------------------------------------------------------------------

    def wanted(self, step: Step, reader: Reader, object_id: bytes) -> bool:
        """A client wants what is not in the store. False if there are no other nodes that could have it."""
        if not self.peers.peers:
            return False
        self.pulls.want(step, reader, object_id)
        return True

    def sealed(self, step: Step, entry: Entry) -> None:
        """An object is complete here: its home is told at the end of the turn."""
        if not self.peers.peers:
            return
        self.pulls.found_here(step, entry.id)
        home = self.peers.home_of(entry.id)
        if home is None:
            self.directory.sealed_here(step, entry.id)
        else:
            self._new.setdefault(home.id, []).append((entry.id, entry.size))

    def room(self, step: Step, entry: Entry) -> None:
        """There is room for a copy."""
        self.pulls.room(step, entry)

    def no_room(self, step: Step, object_id: bytes, error: str, detail: str) -> None:
        """There is none."""
        self.pulls.no_room(step, object_id, error, detail)

    def dropped(self, step: Step, entry: Entry) -> None:
        """A copy is gone from the store."""
        step.emit.object_copy_dropped(step.time_ns, entry.id, self.node, entry.size, step.now - entry.created_at)
        home = self.peers.home_of(entry.id)
        # What its home has freed is answered by ObjectsFreed: it is not lost.
        if home is not None and not entry.doomed and entry.id not in self._freeing:
            self._gone.setdefault(home.id, []).append(entry.id)

    def lost(self, step: Step, entry: Entry) -> None:
        """The store cannot read an object any more; if it lies elsewhere, those who wait for it get it from there."""
        if not self.peers.peers:
            step.send(entry.owner, m.ObjectLost([entry.id], entry.error))
            return
        home = self.peers.home_of(entry.id)
        if home is None:
            elsewhere = self.directory.lost_here(step, entry.id, entry.error)
        else:
            step.tell_node(home.id, m.ObjectsGone([entry.id], entry.error))
            elsewhere = True
        if elsewhere:
            waiting, entry.waiting = entry.waiting, [reader for reader in entry.waiting if reader.serves]
            for reader in waiting:
                if not reader.serves:
                    self.pulls.want(step, reader, entry.id)

    def freed(self, step: Step, owner: bytes, objects: tuple[bytes, ...]) -> None:
        """An owner of this node wants its objects to go."""
        if not self.peers.peers:
            return
        mine = [each for each in objects if owner_of(each) == owner]
        if mine and self._lives_here(owner):
            self.directory.freed(step, mine, self._known_here)
            for object_id in mine:
                self.pulls.withdraw(step, object_id, "unknown", FREED)

    def items_ended(self, step: Step, owner: bytes, task: bytes, kept: Iterable[bytes]) -> list[bytes]:
        """Nothing of this streaming task is to stay anywhere but what is kept: all that is known of it. Of what was
        stored elsewhere the news may be under way, so all are told."""
        if not self.peers.peers or not self._lives_here(owner):
            return []
        for node in self._others():
            step.tell_node(node, m.FreeItems(task, list(kept)))
        return self.directory.items_of(owner, task)

    def taken(self, step: Step, object_id: bytes, error: str) -> None:
        """What was to be taken over from another node is here, or cannot be had."""
        self.on_taken(step, object_id, error)

    def has(self, object_id: bytes) -> bool:
        """Whether it is complete here."""
        return self._here(object_id) is not None

    def keep(self, step: Step, object_id: bytes) -> None:
        """What is here of it is no copy any more that may be dropped."""
        self._keep_here(step, object_id)

    def tell_later(self, node: bytes, message: Any) -> None:
        """Say something at the end of the turn, after what is new here."""
        self._later.append((node, message))

    def owner_gone(self, step: Step, owner: bytes) -> None:
        """A client ended, of this node or of one that speaks for it."""
        if not self.peers.peers:
            return
        self.pulls.client_gone(owner)
        self.directory.owner_gone(step, owner)
        for object_id in [each for each in self.pulls.pulls if owner_of(each) == owner]:
            self.pulls.withdraw(step, object_id, "lost", "its owner has ended")

    def flush(self, step: Step) -> None:
        """The end of a turn: tell homes what is new here and what is not here any more."""
        while self._gone:
            node, objects = self._gone.popitem()
            step.tell_node(node, m.ObjectsGone(objects, ""))
        while self._new:
            node, new = self._new.popitem()
            step.tell_node(node, m.ObjectsAt([each for each in new if self._here(each[0]) is not None]))
        later, self._later = self._later, []
        for node, message in later:
            step.tell_node(node, message)

    # --- what other nodes say ----------------------------------------------------------------------------

    def _locate(self, step: Step, peer: Peer, message: m.LocateObject) -> None:
        if self.peers.home_of(_object(message.object)) is None:
            self.directory.locate(step, peer.id, message.object)
        else:
            step.tell_node(peer.id, m.ObjectLocated(message.object, 0, [], "it is not at home on the node asked"))

    def _located(self, step: Step, peer: Peer, message: m.ObjectLocated) -> None:
        if self.peers.home_of(_object(message.object)) is peer:
            self.pulls.located(step, message)

    def _objects_at(self, step: Step, peer: Peer, message: m.ObjectsAt) -> None:
        mine = [(each, size) for each, size in message.objects if self.peers.home_of(_object(each)) is None]
        self.directory.arrived(step, peer.id, mine)

    def _objects_gone(self, step: Step, peer: Peer, message: m.ObjectsGone) -> None:
        self.directory.gone(step, peer.id, map(_object, message.objects), message.detail)

    def _objects_freed(self, step: Step, peer: Peer, message: m.ObjectsFreed) -> None:
        self.directory.forget(step, peer.id, map(_object, message.objects))

    def _free_objects(self, step: Step, peer: Peer, message: m.FreeObjects) -> None:
        theirs = [each for each in message.objects if self.peers.home_of(_object(each)) is peer]
        self._freeing = set(theirs)
        found = self.objects.free_all(step, theirs)
        self._freeing.clear()
        for object_id in theirs:
            self.pulls.withdraw(step, object_id, "unknown", FREED)
        if found:
            step.tell_node(peer.id, m.ObjectsFreed(found))

    def _free_items(self, step: Step, peer: Peer, message: m.FreeItems) -> None:
        lying = [each for each in self.objects.owned_by(owner_of(message.task)) if each.startswith(message.task)]
        kept = set(message.kept)
        self._free_objects(step, peer, m.FreeObjects([each for each in lying if each not in kept]))

    def _keep_objects(self, step: Step, peer: Peer, message: m.KeepObjects) -> None:
        for object_id in map(_object, message.objects):
            if self.peers.home_of(object_id) is peer:
                self._keep_here(step, object_id)

    def _keep_here(self, step: Step, object_id: bytes) -> None:
        entry = self._here(object_id)
        if entry is not None and entry.copy:
            entry.copy = False
            step.emit.object_copy_kept(step.time_ns, object_id, self.node, entry.size)

    # --- nodes come and go -------------------------------------------------------------------------------

    def node_linked(self, step: Step, peer: Peer) -> None:
        """There is a link to a node: it is told what of its clients is here, and asked for what they own."""
        self._settled_at = step.now
        mark = mark_of_node(peer.id)
        for owner in self.objects.owners():
            if mark_of(owner) == mark and self.peers.home_of(owner) is peer:
                for object_id in self.objects.owned_by(owner):
                    entry = self._here(object_id)
                    if entry is not None:
                        self._new.setdefault(peer.id, []).append((object_id, entry.size))
        self.pulls.home_linked(step, peer)

    def node_lost(self, step: Step, peer: Peer, detail: str) -> None:
        """A node is dead or out of reach: so are its clients, and what lies there."""
        step.effects.append(CutTransfers(peer.id))
        self._new.pop(peer.id, None)
        self._gone.pop(peer.id, None)
        self.pulls.home_gone(step, peer, detail)
        for owner in self.objects.owners():
            if self.peers.home_of(owner) is peer:
                self.objects.free_all(step, self.objects.owned_by(owner))
        self.directory.node_gone(step, peer.id, detail)

    # --- transfers ---------------------------------------------------------------------------------------

    def transfer_asked(self, step: Step, token: int, node: bytes, object_id: bytes) -> None:
        """A transfer to another node begins: ServeObject or RefuseTransfer follows."""
        if self.objects.entries.get(object_id) is None:
            home = self.peers.home_of(object_id)
            if home is not None:
                # It was sent here in vain: its home does not know yet.
                step.tell_node(home.id, m.ObjectsGone([object_id], ""))
        self.objects.serve(step, node, token, object_id)

    def transfer_over(
        self,
        step: Step,
        node: bytes,
        object_id: bytes,
        sent: int,
        queue_seconds: float,
        wire_seconds: float,
        error: str,
        gone: bool,
    ) -> None:
        """What ServeObject granted is not used any more; ``sent`` bytes went out."""
        if gone:
            self.objects.file_gone(step, node, object_id, error, served=True)
        else:
            self.objects.unpin(step, node, (object_id,), served=True)
        step.emit.transfer_served(
            step.time_ns, object_id, self.node, node, sent, queue_seconds, wire_seconds, step.emit.intern(error)
        )

    def pulled(self, step: Step, token: int, result: Pulled) -> None:
        """The answer to PullObject."""
        self.pulls.pulled(step, token, result)

    def tick(self, step: Step) -> None:
        if self.peers.peers:
            self.pulls.tick(step)
            self.directory.tick(step)

    def check_invariants(self) -> None:
        self.pulls.check_invariants()
        self.directory.check_invariants()


def _object(value: Any) -> bytes:
    if not isinstance(value, bytes) or len(value) != OBJECT_ID_BYTES:
        raise Malformed("that is no object")
    return value
