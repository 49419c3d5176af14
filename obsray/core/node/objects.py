"""Machine: the object table of a node: who owns, writes and reads which object, and where it lies.

The life of an object: a writer asks for room (CREATED), seals it (SEALED), readers pin it while they map it. When
room is short the objects read longest ago and pinned by nobody go to disk (SPILLING, SPILLED) and come back when
they are wanted (RESTORING). It ends when its owner frees it or dies (FREED), or when its file cannot be read (LOST).
A *copy* of what lies at another node goes when its room is wanted, and is never spilled. What finds no room lies in a
file (``fallback.py``): then its ``offset`` is beyond the arena.

Invariants: only SEALED, CREATED, SPILLING and RESTORING objects have a range, no two the same; a pinned object is
SEALED and does not move; what an owner freed or its death orphaned goes once the last pin is gone; a range is
reused only after nobody, not even a thread restoring it, writes there.
"""

from __future__ import annotations

from collections.abc import Iterable

from obsray.core.node.allocator import Allocator, rounded
from obsray.core.node.entries import Entry, Reader, Sharer, StoreNumbers, Wait
from obsray.core.node.room import Room
from obsray.core.node.spilling import Spilling
from obsray.core.node.step import RefuseTransfer, ServeObject, Step, require
from obsray.core.protocol.fallback import FALLBACK, place_in
from obsray.core.protocol.lifecycle import ObjectState, advance
from obsray.core.protocol.messages import ObjectPinned, ObjectRefused
from obsray.ids import owner_of


class ObjectTable:
    """``capacity`` bytes of arena; spilled objects go to ``spill_directory``, ``spill_bytes_max`` at most (0: all)."""

    def __init__(
        self,
        capacity: int,
        spill_directory: str,
        spill_bytes_max: int,
        wait_seconds_max: float,
        fallback_wait_seconds: float,
    ) -> None:
        self.allocator = Allocator(capacity)
        self.capacity = self.allocator.capacity
        self.entries: dict[bytes, Entry] = {}
        self.pinned_bytes = 0
        self.spilling = Spilling(self, spill_directory, spill_bytes_max)
        self.room = Room(self, self.allocator, wait_seconds_max, fallback_wait_seconds)
        self._by_owner: dict[bytes, dict[bytes, Entry]] = {}
        self._by_writer: dict[bytes, dict[bytes, Entry]] = {}
        self._by_reader: dict[bytes, dict[bytes, Entry]] = {}
        #: Client -> what it has mapped of files that are gone, and how often; nothing has to be kept in place for that.
        self._stale: dict[bytes, dict[bytes, int]] = {}
        #: Set where there are other nodes.
        self.sharer: Sharer | None = None

    # --- writers -----------------------------------------------------------------------------------------

    def create(self, step: Step, client: bytes, request: int, object_id: bytes, size: int) -> None:
        """Answered with ObjectRoom, maybe after others were spilled, maybe in a file, or with ObjectRefused."""
        known = self.entries.get(object_id)
        if known is not None and known.state is not ObjectState.LOST:
            step.send(client, ObjectRefused(request, "duplicate", f"the object is here already ({known.state.name})"))
            return
        self._enter(step, Entry(object_id, size, client, step.now), request)

    def make_copy(self, step: Step, node: bytes, object_id: bytes, size: int) -> None:
        """``node`` (this one) will write a copy of what lies elsewhere; its ``Sharer`` is told if there is room."""
        self._enter(step, Entry(object_id, size, node, step.now, copy=True), 0)

    def _enter(self, step: Step, entry: Entry, request: int) -> None:
        known = self.entries.get(entry.id)
        if known is not None:
            if entry.copy:
                entry.replaces = known
            else:
                advance(known, ObjectState.CREATED)
            self._forget(known)
        self._remember(entry)
        self._by_writer.setdefault(entry.creator, {})[entry.id] = entry
        self.room.queue(step, Wait(entry, step.now, entry.creator, request))

    @property
    def others(self) -> Sharer:
        """Its ``sharer``, where there must be one."""
        assert self.sharer is not None, "there are no other nodes"
        return self.sharer

    def seal(self, step: Step, client: bytes, object_id: bytes) -> None:
        """The writer is done; nothing happens if it is not the writer of such an object."""
        entry = self._by_writer.get(client, {}).get(object_id)
        if entry is None or entry.offset < 0:
            return
        self.written(entry)
        advance(entry, ObjectState.SEALED)
        if not entry.copy:
            step.emit.object_sealed(step.time_ns, object_id, client, entry.size)
        if entry.doomed:
            self.drop(step, entry)
            self.room.serve(step)
            return
        self.spilling.add(entry)
        self.admit_readers(step, entry)
        if self.sharer is not None:
            self.sharer.sealed(step, entry)
        if self.room.waits:
            self.room.serve(step)

    def abort(self, step: Step, client: bytes, object_id: bytes, why: str = "its writer gave up") -> None:
        """The writer will not finish; those who wait to read are told."""
        entry = self._by_writer.get(client, {}).get(object_id)
        if entry is None:
            return
        self.written(entry)
        self.room.cancel(entry)
        self.refuse_readers(step, entry, "lost", f"{why} before the object was complete")
        self.drop(step, entry)
        self.room.serve(step)

    def written(self, entry: Entry) -> None:
        """Nobody writes it any more."""
        mine = self._by_writer[entry.creator]
        del mine[entry.id]
        if not mine:
            del self._by_writer[entry.creator]

    # --- readers -----------------------------------------------------------------------------------------

    def pin(self, step: Step, client: bytes, request: int, object_id: bytes, keeps: bool = False) -> None:
        """Answered with ObjectPinned once the object is sealed and in memory, or with ObjectRefused.

        ``keeps``: this node itself is to have it; answered by ``Sharer.taken``.
        """
        reader = Reader(client, request, step.now, keeps=object_id if keeps else b"")
        entry = self.entries.get(object_id)
        missing = entry is None or entry.state is ObjectState.LOST
        if missing and self.sharer is not None and self.sharer.wanted(step, reader, object_id):
            return
        self.admit(step, reader, object_id)

    def serve(self, step: Step, node: bytes, token: int, object_id: bytes) -> None:
        """Another node wants to read; answered with ServeObject or RefuseTransfer."""
        reader = Reader(node, token, step.now, serves=True)
        entry = self.entries.get(object_id)
        if entry is not None and entry.state is ObjectState.CREATED:
            self.refuse(step, reader, "unknown", "the object is not complete on this node")
        else:
            self.admit(step, reader, object_id)

    def admit(self, step: Step, reader: Reader, object_id: bytes) -> None:
        """Let somebody read what is here, once it can be."""
        entry = self.entries.get(object_id)
        if entry is None or entry.doomed:
            self.refuse(step, reader, "unknown", "this node has no such object")
        elif entry.state is ObjectState.LOST:
            self.refuse(step, reader, "lost", entry.error)
        elif entry.state is ObjectState.SEALED:
            self._admit(step, entry, reader)
        elif entry.state is ObjectState.SPILLING:
            # Wanted after all: it stays, and what the thread writes is thrown away when it is done.
            self.spilling.stop(step, entry, "")
            self._admit(step, entry, reader)
        else:
            entry.waiting.append(reader)
            if entry.state is ObjectState.SPILLED and not entry.wants_room:
                entry.wants_room = True
                self.room.queue(step, Wait(entry, step.now))

    def refuse(self, step: Step, reader: Reader, error: str, detail: str) -> None:
        """Tell somebody that it cannot be read here; ``error`` as in ``ObjectRefused``."""
        if reader.keeps:
            self.others.taken(step, reader.keeps, detail)
        elif reader.serves:
            step.effects.append(RefuseTransfer(reader.request, error, detail))
        else:
            step.send(reader.client, ObjectRefused(reader.request, error, detail))

    def _admit(self, step: Step, entry: Entry, reader: Reader) -> None:
        if reader.keeps:
            self.others.taken(step, entry.id, "")
            return
        if not entry.pins:
            self.pinned_bytes += entry.size
            self.spilling.remove(entry)
        entry.pins[reader.client] = entry.pins.get(reader.client, 0) + 1
        self._by_reader.setdefault(reader.client, {})[entry.id] = entry
        if reader.serves:
            step.effects.append(ServeObject(reader.request, entry.offset, entry.size))
            return
        step.emit.object_pinned(step.time_ns, entry.id, reader.client, entry.size, step.now - reader.asked_at)
        step.send(reader.client, ObjectPinned(reader.request, entry.offset, entry.size))

    def admit_readers(self, step: Step, entry: Entry) -> None:
        """Those who wait to read it can."""
        waiting, entry.waiting = entry.waiting, []
        for reader in waiting:
            self._admit(step, entry, reader)

    def refuse_readers(self, step: Step, entry: Entry, error: str, detail: str) -> None:
        """Those who wait to read it are told that they cannot; ``error`` as in ``ObjectRefused``."""
        waiting, entry.waiting = entry.waiting, []
        for reader in waiting:
            self.refuse(step, reader, error, detail)

    def unpin(self, step: Step, client: bytes, objects: tuple[bytes, ...], served: bool = False) -> None:
        """The client's views of these are gone, one pin an entry; more than it had change nothing.

        ``served``: it is another node, which has its copy.
        """
        for object_id in objects:
            if self._was_stale(client, object_id):
                continue
            entry = self._by_reader.get(client, {}).get(object_id)
            if entry is None:
                continue
            entry.pins[client] -= 1
            if not served:
                step.emit.object_unpinned(step.time_ns, entry.id, client, 1)
            if not entry.pins[client]:
                self._unpin_all(step, client, entry)
        self.room.serve(step)

    def file_gone(self, step: Step, client: bytes, object_id: bytes, why: str, served: bool = False) -> None:
        """Its file is not what was pinned for the client: it is lost. Others read on what they have mapped.

        ``served`` as in ``unpin``.
        """
        if self._was_stale(client, object_id) or object_id not in self._by_reader.get(client, {}):
            return
        self.unpin(step, client, (object_id,), served)
        entry = self.entries.get(object_id)
        if entry is None or entry.state is not ObjectState.SEALED or entry.offset < FALLBACK:
            return
        for reader, count in list(entry.pins.items()):
            stale = self._stale.setdefault(reader, {})
            stale[object_id] = stale.get(object_id, 0) + count
            self._unpin_all(step, reader, entry)
        # What its owner has freed is gone with its last reader.
        there = self.entries.get(object_id) is entry
        if there and entry.copy:
            self.drop(step, entry)
        elif there:
            self.spilling.lost(step, entry, why, f"it lay in a file that cannot be mapped: {why}")
        self.room.serve(step)

    def _was_stale(self, client: bytes, object_id: bytes) -> bool:
        """Whether what the client unpins may be what it had mapped of a file that is gone; that goes first."""
        stale = self._stale.get(client)
        if stale is None or object_id not in stale:
            return False
        stale[object_id] -= 1
        if not stale[object_id]:
            del stale[object_id]
            if not stale:
                del self._stale[client]
        return True

    def _unpin_all(self, step: Step, client: bytes, entry: Entry) -> None:
        del entry.pins[client]
        mine = self._by_reader[client]
        del mine[entry.id]
        if not mine:
            del self._by_reader[client]
        if not entry.pins:
            self.pinned_bytes -= entry.size
            if entry.doomed:
                self.drop(step, entry)
            else:
                self.spilling.add(entry)

    # --- the end of objects ------------------------------------------------------------------------------

    def free(self, step: Step, client: bytes, objects: tuple[bytes, ...]) -> None:
        """The owner says that nothing refers to these any more. Ids that are not its own are left alone."""
        if self.sharer is not None:
            self.sharer.freed(step, client, objects)
        mine = self._by_owner.get(client, {})
        for object_id in objects:
            entry = mine.get(object_id)
            if entry is not None:
                self._free(step, entry)
        self.room.serve(step)

    def free_items(self, step: Step, client: bytes, task: bytes, kept: Iterable[bytes]) -> None:
        """The owner of a streaming task that has ended wants whatever lies of it to go, but for what it keeps."""
        if owner_of(task) != client:
            return
        found = {each for each in self.owned_by(client) if each.startswith(task)}
        if self.sharer is not None:
            found.update(self.sharer.items_ended(step, client, task, kept))
        found.difference_update(kept)
        self.free(step, client, tuple(sorted(found)))

    def free_all(self, step: Step, objects: list[bytes]) -> list[bytes]:
        """Whoever speaks for their owners says that they may go. Returns those that were here."""
        found = [entry for each in objects if (entry := self.entries.get(each)) is not None]
        for entry in found:
            self._free(step, entry)
        self.room.serve(step)
        return [entry.id for entry in found]

    def owners(self) -> list[bytes]:
        """Whose objects are here."""
        return list(self._by_owner)

    def owned_by(self, owner: bytes) -> list[bytes]:
        """Ids of the objects of one owner that are here."""
        return list(self._by_owner.get(owner, {}))

    def give_up_copy(self, step: Step, entry: Entry, error: str, detail: str) -> None:
        """What should have become a copy does not come; those who wait for it here are told why."""
        self.written(entry)
        self.room.cancel(entry)
        self.refuse_readers(step, entry, error, detail)
        self.drop(step, entry)
        self.room.serve(step)

    def _free(self, step: Step, entry: Entry) -> None:
        self.refuse_readers(step, entry, "unknown", "the object was freed")
        if entry.pins or entry.state is ObjectState.CREATED:
            entry.doomed = True
        else:
            self.drop(step, entry)

    def client_gone(self, step: Step, client: bytes) -> None:
        """Its pins, its unfinished objects, its requests and the objects it owned go."""
        self._stale.pop(client, None)
        for entry in list(self._by_reader.get(client, {}).values()):
            step.emit.object_unpinned(step.time_ns, entry.id, client, entry.pins[client])
            self._unpin_all(step, client, entry)
        for object_id in list(self._by_writer.get(client, {})):
            self.abort(step, client, object_id, "its writer died")
        for entry in self.entries.values():
            if entry.waiting:
                entry.waiting = [reader for reader in entry.waiting if reader.client != client]
        for entry in list(self._by_owner.get(client, {}).values()):
            self._free(step, entry)
        if self.sharer is not None:
            self.sharer.owner_gone(step, client)
        self.room.serve(step)

    def drop(self, step: Step, entry: Entry) -> None:
        """The object is gone: its file, its range (unless a thread still writes there) and its entry."""
        if entry.state is ObjectState.SPILLING:
            self.spilling.stop(step, entry, "")
        restoring = entry.state is ObjectState.RESTORING
        complete = entry.state is not ObjectState.CREATED
        advance(entry, ObjectState.FREED)
        self.room.cancel(entry)
        self.spilling.remove(entry)
        self.spilling.remove_file(step, entry)
        if entry.offset >= 0 and not restoring:
            self.room.release(step, entry)
        self._forget(entry)
        if not entry.copy:
            step.emit.object_freed(step.time_ns, entry.id, entry.size, step.now - entry.created_at)
        elif complete:
            self.others.dropped(step, entry)
        elif entry.replaces is not None:
            # The copy has not come: what was lost here is so still, until it is freed.
            self._remember(entry.replaces)
            if entry.doomed:
                self.drop(step, entry.replaces)

    def _remember(self, entry: Entry) -> None:
        self.entries[entry.id] = entry
        self._by_owner.setdefault(entry.owner, {})[entry.id] = entry

    def _forget(self, entry: Entry) -> None:
        del self.entries[entry.id]
        mine = self._by_owner[entry.owner]
        del mine[entry.id]
        if not mine:
            del self._by_owner[entry.owner]

    # --- views ----------------------------------------------------------------------------------

    def largest_pinned(self, count: int = 10) -> list[Entry]:
        pinned = {entry.id: entry for entries in self._by_reader.values() for entry in entries.values()}
        return sorted(pinned.values(), key=lambda entry: -entry.size)[:count]

    def largest_owners(self, count: int = 3) -> list[tuple[bytes, int, int]]:
        """The owners with the most bytes, on disk or in memory: id, objects, bytes."""
        owners = [
            (owner, len(entries), sum(entry.size for entry in entries.values()))
            for owner, entries in self._by_owner.items()
            if entries
        ]
        return sorted(owners, key=lambda owner: -owner[2])[:count]

    def numbers(self) -> StoreNumbers:
        stored, in_files = self.spilling.stored_bytes, self.room.fallback.bytes
        return StoreNumbers(
            self.capacity, self.allocator.used_bytes, self.pinned_bytes, stored - in_files, len(self.entries),
            sum(entry.state is ObjectState.SPILLED for entry in self.entries.values()) if stored else 0,
            len(self.room.waits) + len(self.room.unready) + len(self.room.fallback.making),
            self.allocator.largest_free_bytes(), in_files,
        )  # fmt: skip

    def check_invariants(self) -> None:
        self.allocator.check_invariants()
        with_range = {ObjectState.CREATED, ObjectState.SEALED, ObjectState.SPILLING, ObjectState.RESTORING}
        ranges = set()
        pinned = evictable = spilling = stored = 0
        gone = [entry for entry in self.spilling.io.values() if entry.state is ObjectState.FREED and entry.offset >= 0]
        zombies = {entry.offset for entry in gone}
        in_files = sum(entry.size for entry in gone if entry.offset >= FALLBACK)
        for entry in self.entries.values():
            if entry.offset >= 0:
                waits = any(wait.entry is entry for wait in self.room.unready)
                require(entry.state in with_range or waits, "{} has a range", entry)
                require(entry.offset not in ranges, "{} shares its range", entry)
                ranges.add(entry.offset)
            if entry.offset >= FALLBACK:
                in_files += entry.size
                require(place_in(entry.stored_path) == entry.offset, "{} does not lie in its file", entry)
            require(not entry.pins or entry.state is ObjectState.SEALED, "{} is pinned", entry)
            busy = bool(entry.pins) or entry.state is ObjectState.CREATED
            require(not entry.doomed or busy, "{} should be gone", entry)
            free_to_go = entry.state is ObjectState.SEALED and not entry.pins and entry.offset < FALLBACK
            require(free_to_go == (entry.id in self.spilling.evictable), "{} can be spilled: {}", entry, free_to_go)
            pinned += entry.size if entry.pins else 0
            evictable += entry.size if free_to_go else 0
            spilling += rounded(entry.size) if entry.state is ObjectState.SPILLING else 0
            stored += entry.size if entry.stored_path else 0
        in_arena = {offset for offset in ranges | zombies if offset < FALLBACK}
        require(in_arena == set(self.allocator.taken), "a range that no object has")
        sums = (
            self.pinned_bytes,
            self.spilling.evictable_bytes,
            self.spilling.writing_bytes,
            self.spilling.stored_bytes,
            self.room.fallback.bytes,
        )
        found = (pinned, evictable, spilling, stored, in_files)
        require(sums == found, f"{sums} != {found}")
