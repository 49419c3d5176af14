"""The object table of a node: who owns, writes and reads which object, where it lies, and who waits for room.

The life of an object: a writer asks for room (CREATED), seals it (SEALED), readers pin it while they map it. When
room is short the objects read longest ago and pinned by nobody go to disk (SPILLING, SPILLED) and come back when
they are wanted (RESTORING). It ends when its owner frees it or dies (FREED), or when its file cannot be read (LOST).
A *copy* of what lies at another node goes when its room is wanted, and is never written to disk.

Requests for room are served first come, first served. One that sees no progress for ``wait_seconds_max`` is refused
with the sizes and the largest holders.

Invariants: only SEALED, CREATED, SPILLING and RESTORING objects have a range, no two the same; a pinned object is
SEALED and does not move; what an owner freed or its death orphaned goes once the last pin is gone; a range is
reused only after nobody, not even a thread restoring it, writes there.
"""

from __future__ import annotations

from collections import deque

from obsray.core.node.allocator import Allocator, rounded
from obsray.core.node.entries import Entry, Reader, Sharer, StoreNumbers, Wait, explain_full, show_bytes
from obsray.core.node.step import (
    RefuseTransfer,
    RemoveFile,
    ReserveArena,
    RestoreObject,
    ServeObject,
    SpillObject,
    Step,
    require,
)
from obsray.core.protocol.lifecycle import ObjectState, advance
from obsray.core.protocol.messages import ObjectPinned, ObjectRefused, ObjectRoom
from obsray.telemetry.events import Reason

RESERVE_AHEAD_BYTES = 64 << 20
SPILL_RETRY_SECONDS = 1.0
RESERVE_RETRY_SECONDS = 10.0


class ObjectTable:
    """``capacity`` bytes of arena; spilled objects go to ``spill_directory``, ``spill_bytes_max`` at most (0: all)."""

    def __init__(self, capacity: int, spill_directory: str, spill_bytes_max: int, wait_seconds_max: float) -> None:
        self.allocator = Allocator(capacity)
        self.capacity = self.allocator.capacity
        self.entries: dict[bytes, Entry] = {}
        self.waits: deque[Wait] = deque()
        self.pinned_bytes = 0
        self.spilled_bytes = 0
        self.reserved = 0
        self._spill_directory = spill_directory
        self._spill_bytes_max = spill_bytes_max
        self._wait_seconds_max = wait_seconds_max
        self._evictable: dict[bytes, Entry] = {}
        self._evictable_bytes = 0
        self._spilling_bytes = 0
        self._unready: deque[Wait] = deque()
        self._reserving = False
        self._tokens = 0
        self._io: dict[int, Entry] = {}
        self._progress_at = 0.0
        self._spill_error = ""
        self._spill_not_before = 0.0
        self._grow_not_before = 0.0
        self._by_owner: dict[bytes, dict[bytes, Entry]] = {}
        self._by_writer: dict[bytes, dict[bytes, Entry]] = {}
        self._by_reader: dict[bytes, dict[bytes, Entry]] = {}
        #: Set where there are other nodes.
        self.sharer: Sharer | None = None

    # --- writers -----------------------------------------------------------------------------------------

    def create(self, step: Step, client: bytes, request: int, object_id: bytes, size: int) -> None:
        """Answered with ObjectRoom, maybe after others were spilled, or with ObjectRefused."""
        known = self.entries.get(object_id)
        if known is not None and known.state is not ObjectState.LOST:
            step.send(client, ObjectRefused(request, "duplicate", f"the object is here already ({known.state.name})"))
            return
        if rounded(size) > self.capacity:
            detail = f"{show_bytes(size)} do not fit a store of {show_bytes(self.capacity)}"
            self._tell_failed(step, object_id, client, size)
            step.send(client, ObjectRefused(request, "too_large", detail))
            return
        self._enter(step, Entry(object_id, size, client, step.now), request)

    def make_copy(self, step: Step, node: bytes, object_id: bytes, size: int) -> None:
        """``node`` (this one) will write a copy of what lies elsewhere; its ``Sharer`` is told if there is room."""
        if rounded(size) > self.capacity:
            detail = f"{show_bytes(size)} do not fit a store of {show_bytes(self.capacity)}"
            self._tell_failed(step, object_id, node, size)
            self._sharer.no_room(step, object_id, "too_large", detail)
            return
        self._enter(step, Entry(object_id, size, node, step.now, copy=True), 0)

    def _enter(self, step: Step, entry: Entry, request: int) -> None:
        known = self.entries.get(entry.id)
        if known is not None:
            advance(known, ObjectState.CREATED)
            self._forget(known)
        self.entries[entry.id] = entry
        self._by_owner.setdefault(entry.owner, {})[entry.id] = entry
        self._by_writer.setdefault(entry.creator, {})[entry.id] = entry
        self._queue(step, Wait(entry, step.now, entry.creator, request))

    @property
    def _sharer(self) -> Sharer:
        assert self.sharer is not None, "there are no other nodes"
        return self.sharer

    def seal(self, step: Step, client: bytes, object_id: bytes) -> None:
        """The writer is done; nothing happens if it is not the writer of such an object."""
        entry = self._by_writer.get(client, {}).get(object_id)
        if entry is None or entry.offset < 0:
            return
        self._written(entry)
        advance(entry, ObjectState.SEALED)
        if not entry.copy:
            step.emit.object_sealed(step.time_ns, object_id, client, entry.size)
        if entry.doomed:
            self._drop(step, entry)
            self._serve(step)
            return
        self._add_evictable(entry)
        self._admit_readers(step, entry)
        if self.sharer is not None:
            self.sharer.sealed(step, entry)
        if self.waits:
            self._serve(step)

    def abort(self, step: Step, client: bytes, object_id: bytes, why: str = "its writer gave up") -> None:
        """The writer will not finish; those who wait to read are told."""
        entry = self._by_writer.get(client, {}).get(object_id)
        if entry is None:
            return
        self._written(entry)
        self._cancel_wait(entry)
        self._refuse_readers(step, entry, "lost", f"{why} before the object was complete")
        self._drop(step, entry)
        self._serve(step)

    def _written(self, entry: Entry) -> None:
        mine = self._by_writer[entry.creator]
        del mine[entry.id]
        if not mine:
            del self._by_writer[entry.creator]

    # --- readers -----------------------------------------------------------------------------------------

    def pin(self, step: Step, client: bytes, request: int, object_id: bytes) -> None:
        """Answered with ObjectPinned once the object is sealed and in memory, or with ObjectRefused."""
        reader = Reader(client, request, step.now)
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
            self._refuse(step, reader, "unknown", "the object is not complete on this node")
        else:
            self.admit(step, reader, object_id)

    def admit(self, step: Step, reader: Reader, object_id: bytes) -> None:
        """Let somebody read what is here, once it can be."""
        entry = self.entries.get(object_id)
        if entry is None or entry.doomed:
            self._refuse(step, reader, "unknown", "this node has no such object")
        elif entry.state is ObjectState.LOST:
            self._refuse(step, reader, "lost", entry.error)
        elif entry.state is ObjectState.SEALED:
            self._admit(step, entry, reader)
        elif entry.state is ObjectState.SPILLING:
            # Wanted after all: it stays, and what the thread writes is thrown away when it is done.
            self._stop_spilling(step, entry, "")
            self._admit(step, entry, reader)
        else:
            entry.waiting.append(reader)
            if entry.state is ObjectState.SPILLED and not entry.wants_room:
                entry.wants_room = True
                self._queue(step, Wait(entry, step.now))

    def _refuse(self, step: Step, reader: Reader, error: str, detail: str) -> None:
        if reader.serves:
            step.effects.append(RefuseTransfer(reader.request, error, detail))
        else:
            step.send(reader.client, ObjectRefused(reader.request, error, detail))

    def _admit(self, step: Step, entry: Entry, reader: Reader) -> None:
        if not entry.pins:
            self.pinned_bytes += entry.size
            self._remove_evictable(entry)
        entry.pins[reader.client] = entry.pins.get(reader.client, 0) + 1
        self._by_reader.setdefault(reader.client, {})[entry.id] = entry
        if reader.serves:
            step.effects.append(ServeObject(reader.request, entry.offset, entry.size))
            return
        step.emit.object_pinned(step.time_ns, entry.id, reader.client, entry.size, step.now - reader.asked_at)
        step.send(reader.client, ObjectPinned(reader.request, entry.offset, entry.size))

    def _admit_readers(self, step: Step, entry: Entry) -> None:
        waiting, entry.waiting = entry.waiting, []
        for reader in waiting:
            self._admit(step, entry, reader)

    def _refuse_readers(self, step: Step, entry: Entry, error: str, detail: str) -> None:
        waiting, entry.waiting = entry.waiting, []
        for reader in waiting:
            self._refuse(step, reader, error, detail)

    def unpin(self, step: Step, client: bytes, objects: tuple[bytes, ...]) -> None:
        """The client's views of these are gone, one pin an entry; more than it had change nothing."""
        for object_id in objects:
            entry = self._by_reader.get(client, {}).get(object_id)
            if entry is None:
                continue
            entry.pins[client] -= 1
            if not entry.pins[client]:
                self._unpin_all(step, client, entry)
        self._serve(step)

    def _unpin_all(self, step: Step, client: bytes, entry: Entry) -> None:
        del entry.pins[client]
        mine = self._by_reader[client]
        del mine[entry.id]
        if not mine:
            del self._by_reader[client]
        if not entry.pins:
            self.pinned_bytes -= entry.size
            if entry.doomed:
                self._drop(step, entry)
            else:
                self._add_evictable(entry)

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
        self._serve(step)

    def free_all(self, step: Step, objects: list[bytes]) -> list[bytes]:
        """Whoever speaks for their owners says that they may go. Returns those that were here."""
        found = [entry for each in objects if (entry := self.entries.get(each)) is not None]
        for entry in found:
            self._free(step, entry)
        self._serve(step)
        return [entry.id for entry in found]

    def owners(self) -> list[bytes]:
        """Whose objects are here."""
        return list(self._by_owner)

    def owned_by(self, owner: bytes) -> list[bytes]:
        """Ids of the objects of one owner that are here."""
        return list(self._by_owner.get(owner, {}))

    def give_up_copy(self, step: Step, entry: Entry, error: str, detail: str) -> None:
        """What should have become a copy does not come; those who wait for it here are told why."""
        self._written(entry)
        self._cancel_wait(entry)
        self._refuse_readers(step, entry, error, detail)
        self._drop(step, entry)
        self._serve(step)

    def _free(self, step: Step, entry: Entry) -> None:
        self._refuse_readers(step, entry, "unknown", "the object was freed")
        if entry.pins or entry.state is ObjectState.CREATED:
            entry.doomed = True
        else:
            self._drop(step, entry)

    def client_gone(self, step: Step, client: bytes) -> None:
        """Its pins, its unfinished objects, its requests and the objects it owned go."""
        for entry in list(self._by_reader.get(client, {}).values()):
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
        self._serve(step)

    def _drop(self, step: Step, entry: Entry) -> None:
        """The object is gone: its file, its range (unless a thread still writes there) and its entry."""
        if entry.state is ObjectState.SPILLING:
            self._stop_spilling(step, entry, "")
        restoring = entry.state is ObjectState.RESTORING
        complete = entry.state is not ObjectState.CREATED
        advance(entry, ObjectState.FREED)
        self._cancel_wait(entry)
        self._remove_evictable(entry)
        self._remove_file(step, entry)
        if entry.offset >= 0 and not restoring:
            self._release(step, entry)
        self._forget(entry)
        if not entry.copy:
            step.emit.object_freed(step.time_ns, entry.id, entry.size, step.now - entry.created_at)
        elif complete:
            self._sharer.dropped(step, entry)

    def _forget(self, entry: Entry) -> None:
        del self.entries[entry.id]
        mine = self._by_owner[entry.owner]
        del mine[entry.id]
        if not mine:
            del self._by_owner[entry.owner]

    def _release(self, step: Step, entry: Entry) -> None:
        self.allocator.free(entry.offset)
        entry.offset = -1
        self._progress_at = step.now

    def _remove_file(self, step: Step, entry: Entry) -> None:
        if entry.stored_path:
            step.effects.append(RemoveFile(entry.stored_path))
            self.spilled_bytes -= entry.size
            entry.stored_path = ""

    # --- room --------------------------------------------------------------------------------------------

    def _queue(self, step: Step, wait: Wait) -> None:
        self.waits.append(wait)
        self._serve(step)

    def _cancel_wait(self, entry: Entry) -> None:
        entry.wants_room = False
        for waits in (self.waits, self._unready):
            for wait in waits:
                if wait.entry is entry:
                    waits.remove(wait)
                    break

    def _serve(self, step: Step) -> None:
        """Give room to those who wait, in order; start to make some for the first who cannot have it."""
        while self.waits:
            wait = self.waits[0]
            offset = self.allocator.allocate(wait.entry.size)
            if offset is None:
                if self._make_room(step, rounded(wait.entry.size)):
                    continue
                if self._refuse_if_stuck(step, wait):
                    continue
                self._tell_waiting(step, wait)
                return
            self.waits.popleft()
            wait.entry.offset = offset
            if offset + rounded(wait.entry.size) <= self.reserved:
                self._give(step, wait)
            else:
                self._unready.append(wait)
        self._reserve(step)

    def _give(self, step: Step, wait: Wait) -> None:
        entry = wait.entry
        if wait.restores:
            entry.wants_room = False
            advance(entry, ObjectState.RESTORING)
            self._tokens += 1
            entry.token = self._tokens
            self._io[entry.token] = entry
            step.emit.object_restoring(step.time_ns, entry.id, entry.size, step.now - wait.asked_at)
            step.effects.append(RestoreObject(entry.id, entry.token, entry.offset, entry.size, entry.stored_path))
        elif entry.copy:
            self._sharer.room(step, entry)
        else:
            step.emit.object_created(step.time_ns, entry.id, wait.client, entry.size, step.now - wait.asked_at)
            step.send(wait.client, ObjectRoom(wait.request, entry.offset))

    def _refuse_if_stuck(self, step: Step, wait: Wait) -> bool:
        deadline = max(wait.asked_at, self._progress_at) + self._wait_seconds_max
        if step.now < deadline:
            step.wake(deadline)
            return False
        self.waits.popleft()
        entry = wait.entry
        detail = explain_full(
            entry.size, self.numbers(), self.largest_pinned(), self.largest_owners(), self._spill_error
        )
        self._tell_failed(step, entry.id, wait.client or bytes(8), entry.size)
        if wait.restores:
            entry.wants_room = False
            self._refuse_readers(step, entry, "full", detail)
        elif entry.copy:
            self._written(entry)
            self._refuse_readers(step, entry, "full", detail)
            self._drop(step, entry)
            self._sharer.no_room(step, entry.id, "full", detail)
        else:
            step.send(wait.client, ObjectRefused(wait.request, "full", detail))
            self._written(entry)
            self._refuse_readers(step, entry, "lost", "its writer found no room for it")
            self._drop(step, entry)
        return True

    def _tell_waiting(self, step: Step, wait: Wait) -> None:
        if wait.told:
            return
        wait.told = True
        free = self.capacity - self.allocator.used_bytes
        step.emit.object_allocation_waiting(
            step.time_ns, wait.entry.id, wait.client or bytes(8), wait.entry.size, free, self._evictable_bytes,
            self.pinned_bytes,
        )  # fmt: skip

    def _tell_failed(self, step: Step, object_id: bytes, client: bytes, size: int) -> None:
        free = self.capacity - self.allocator.used_bytes
        step.emit.object_allocation_failed(
            step.time_ns, object_id, client, size, free, self.pinned_bytes, self.capacity
        )

    # --- pages -------------------------------------------------------------------------------------------

    def _reserve(self, step: Step) -> None:
        """Have pages made for those who got a range without, and some ahead of the next."""
        if self._reserving:
            return
        if self._unready:
            end = max(wait.entry.offset + rounded(wait.entry.size) for wait in self._unready)
        elif self.allocator.touched and self.reserved - self.allocator.touched < RESERVE_AHEAD_BYTES // 2:
            end = self.reserved + RESERVE_AHEAD_BYTES
        else:
            return
        end = min(end, self.allocator.capacity)
        if end > self.reserved and step.now >= self._grow_not_before:
            self._reserving = True
            step.effects.append(ReserveArena(self.reserved, end))

    def arena_reserved(self, step: Step, end: int, error: str) -> None:
        """The pages up to ``end`` exist, or the machine has no memory for them."""
        self._reserving = False
        if error:
            self._spill_error = self._spill_error or f"the machine has no more memory: {error}"
            self._grow_not_before = step.now + RESERVE_RETRY_SECONDS
            while self._unready:
                wait = self._unready.pop()
                self.allocator.free(wait.entry.offset)
                wait.entry.offset = -1
                self.waits.appendleft(wait)
            self.allocator.limit(self.reserved)
        else:
            self.reserved = end
            self._progress_at = step.now
            for _ in range(len(self._unready)):
                wait = self._unready.popleft()
                if wait.entry.offset + rounded(wait.entry.size) <= end:
                    self._give(step, wait)
                else:
                    self._unready.append(wait)
        self._serve(step)

    # --- spilling ----------------------------------------------------------------------------------------

    def _make_room(self, step: Step, size: int) -> bool:
        """Start to spill enough for ``size`` bytes. True if some room is free at once."""
        if step.now < self._spill_not_before:
            step.wake(self._spill_not_before)
            return False
        free = self.allocator.capacity - self.allocator.used_bytes
        coming = self._spilling_bytes
        # Enough free bytes, but in pieces: then only what spilling joins together counts.
        lacking = size - coming - (free if free + coming < size else 0)
        if lacking <= 0:
            return False
        freed = False
        for entry in self._victims(lacking):
            freed |= self._spill(step, entry)
        return freed

    def _victims(self, lacking: int) -> list[Entry]:
        """Those read longest ago that together suffice, without the ones that the larger among them make needless."""
        chosen: list[Entry] = []
        total = 0
        for entry in self._evictable.values():
            chosen.append(entry)
            total += rounded(entry.size)
            if total >= lacking:
                break
        needed = []
        for entry in chosen:
            if total - rounded(entry.size) >= lacking:
                total -= rounded(entry.size)
            else:
                needed.append(entry)
        return needed

    def _spill(self, step: Step, entry: Entry) -> bool:
        """Move one object out. True if its range is free at once: it is a copy, or its file exists already."""
        if entry.copy:
            self._drop(step, entry)
            return True
        if not entry.stored_path and not self._disk_allows(step, entry.size):
            return False
        self._remove_evictable(entry)
        advance(entry, ObjectState.SPILLING)
        if entry.stored_path:
            advance(entry, ObjectState.SPILLED)
            self._release(step, entry)
            step.emit.object_spilled(step.time_ns, entry.id, entry.size, 0.0, step.emit.intern(entry.stored_path))
            return True
        self._tokens += 1
        entry.token = self._tokens
        self._io[entry.token] = entry
        self._spilling_bytes += rounded(entry.size)
        path = f"{self._spill_directory}/{entry.id.hex()}.{entry.token}"
        step.emit.object_spilling(step.time_ns, entry.id, entry.size)
        step.effects.append(SpillObject(entry.id, entry.token, entry.offset, entry.size, path))
        return False

    def _disk_allows(self, step: Step, size: int) -> bool:
        limit = self._spill_bytes_max
        if not limit or self.spilled_bytes + self._spilling_bytes + size <= limit:
            return True
        for entry in list(self.entries.values()):
            if entry.stored_path and entry.state is ObjectState.SEALED:
                self._remove_file(step, entry)
        if self.spilled_bytes + self._spilling_bytes + size <= limit:
            return True
        self._spill_error = f"the limit of {show_bytes(limit)} on disk is reached"
        return False

    def _stop_spilling(self, step: Step, entry: Entry, error: str) -> None:
        self._spilling_bytes -= rounded(entry.size)
        entry.token = 0
        advance(entry, ObjectState.SEALED)
        step.emit.object_spill_stopped(step.time_ns, entry.id, entry.size, step.emit.intern(error))
        self._add_evictable(entry)

    def spilled(self, step: Step, token: int, path: str, seconds: float, error: str) -> None:
        """A thread has written the file, or could not."""
        entry = self._io.pop(token)
        if entry.token != token:
            # Wanted or freed meanwhile.
            if not error:
                step.effects.append(RemoveFile(path))
        elif error:
            self._stop_spilling(step, entry, error)
            self._spill_error = error
            self._spill_not_before = step.now + SPILL_RETRY_SECONDS
        else:
            self._spilling_bytes -= rounded(entry.size)
            self._spill_error = ""
            entry.token = 0
            entry.stored_path = path
            self.spilled_bytes += entry.size
            advance(entry, ObjectState.SPILLED)
            self._release(step, entry)
            step.emit.object_spilled(step.time_ns, entry.id, entry.size, seconds, step.emit.intern(path))
        self._serve(step)

    def restored(self, step: Step, token: int, seconds: float, error: str) -> None:
        """A thread has read the file back, or it cannot be read: then the object is lost."""
        entry = self._io.pop(token)
        entry.token = 0
        if entry.state is ObjectState.FREED:
            self._release(step, entry)
        elif error:
            advance(entry, ObjectState.LOST)
            self._release(step, entry)
            step.emit.object_lost(step.time_ns, entry.id, entry.size, Reason.NONE, step.emit.intern(error))
            entry.error = f"spilled to {entry.stored_path}, which cannot be read back: {error}"
            self._remove_file(step, entry)
            if self.sharer is not None:
                self.sharer.lost(step, entry)
            self._refuse_readers(step, entry, "lost", entry.error)
        else:
            advance(entry, ObjectState.SEALED)
            path = step.emit.intern(entry.stored_path)
            step.emit.object_restored(step.time_ns, entry.id, entry.size, seconds, path)
            self._add_evictable(entry)
            self._admit_readers(step, entry)
        self._serve(step)

    def _add_evictable(self, entry: Entry) -> None:
        self._evictable[entry.id] = entry
        self._evictable_bytes += entry.size

    def _remove_evictable(self, entry: Entry) -> None:
        if self._evictable.pop(entry.id, None) is not None:
            self._evictable_bytes -= entry.size

    # --- time and views ----------------------------------------------------------------------------------

    def tick(self, step: Step) -> None:
        """Try again what failed a while ago, refuse what has waited too long."""
        if self.allocator.capacity < self.capacity and step.now >= self._grow_not_before:
            self.allocator.limit(self.capacity)
        if self.waits or self._unready:
            self._serve(step)

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
        return StoreNumbers(
            self.capacity, self.allocator.used_bytes, self.pinned_bytes, self.spilled_bytes, len(self.entries),
            sum(entry.state is ObjectState.SPILLED for entry in self.entries.values()) if self.spilled_bytes else 0,
            len(self.waits) + len(self._unready), self.allocator.largest_free_bytes(),
        )  # fmt: skip

    def check_invariants(self) -> None:
        self.allocator.check_invariants()
        with_range = {ObjectState.CREATED, ObjectState.SEALED, ObjectState.SPILLING, ObjectState.RESTORING}
        ranges = set()
        pinned = evictable = spilling = stored = 0
        zombies = {entry.offset for entry in self._io.values() if entry.state is ObjectState.FREED} - {-1}
        for entry in self.entries.values():
            if entry.offset >= 0:
                waits = any(wait.entry is entry for wait in self._unready)
                require(entry.state in with_range or waits, f"{entry} has a range")
                require(entry.offset not in ranges, f"{entry} shares its range")
                ranges.add(entry.offset)
            require(not entry.pins or entry.state is ObjectState.SEALED, f"{entry} is pinned")
            require(
                not entry.doomed or bool(entry.pins) or entry.state is ObjectState.CREATED, f"{entry} should be gone"
            )
            free_to_go = entry.state is ObjectState.SEALED and not entry.pins
            require(free_to_go == (entry.id in self._evictable), f"{entry} can be spilled: {free_to_go}")
            pinned += entry.size if entry.pins else 0
            evictable += entry.size if free_to_go else 0
            spilling += rounded(entry.size) if entry.state is ObjectState.SPILLING else 0
            stored += entry.size if entry.stored_path else 0
        require(ranges | zombies == set(self.allocator.taken), "a range that no object has")
        sums = (self.pinned_bytes, self._evictable_bytes, self._spilling_bytes, self.spilled_bytes)
        require(sums == (pinned, evictable, spilling, stored), f"{sums} != {(pinned, evictable, spilling, stored)}")
