"""Machine: objects of a node that go to disk when room is short, and come back when they are wanted.

Those read longest ago and pinned by nobody go first. Copies of what lies at another node are dropped instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from obsray.core.node.allocator import rounded
from obsray.core.node.entries import Entry, show_bytes
from obsray.core.node.step import RemoveFile, RestoreObject, SpillObject, Step
from obsray.core.protocol.fallback import FALLBACK, file_name
from obsray.core.protocol.lifecycle import ObjectState, advance
from obsray.telemetry.events import Reason

if TYPE_CHECKING:
    from obsray.core.node.objects import ObjectTable

SPILL_RETRY_SECONDS = 1.0


class Spilling:
    """Objects go to files in ``directory``, ``bytes_max`` at most (0: all there is)."""

    def __init__(self, table: ObjectTable, directory: str, bytes_max: int) -> None:
        self._table = table
        self._directory = directory
        self._bytes_max = bytes_max
        #: What nobody reads, those read longest ago first.
        self.evictable: dict[bytes, Entry] = {}
        self.evictable_bytes = 0
        #: On their way to disk, and there.
        self.writing_bytes = 0
        self.stored_bytes = 0
        #: What threads write and read, by token.
        self.io: dict[int, Entry] = {}
        #: Why the last attempt failed.
        self.error = ""
        self._tokens = 0
        #: After a failure nothing is written until then.
        self.not_before = 0.0

    def add(self, entry: Entry) -> None:
        """Nobody reads it: it may go when room is short, after those that were read longer ago."""
        if entry.offset < FALLBACK:
            self.evictable[entry.id] = entry
            self.evictable_bytes += entry.size

    def remove(self, entry: Entry) -> None:
        """Somebody reads it, or it is gone."""
        if self.evictable.pop(entry.id, None) is not None:
            self.evictable_bytes -= entry.size

    @property
    def may_free_room(self) -> bool:
        """Whether anything is left in the arena that could go, or is on its way out."""
        return bool(self.evictable or self.writing_bytes)

    def make_room(self, step: Step, size: int) -> bool:
        """Start to spill enough for ``size`` bytes. True if some room is free at once."""
        if step.now < self.not_before:
            step.wake(self.not_before)
            return False
        free = self._table.allocator.capacity - self._table.allocator.used_bytes
        coming = self.writing_bytes
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
        for entry in self.evictable.values():
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
            self._table.drop(step, entry)
            return True
        if not entry.stored_path and not self.disk_allows(step, entry.size):
            return False
        self.remove(entry)
        advance(entry, ObjectState.SPILLING)
        if entry.stored_path:
            advance(entry, ObjectState.SPILLED)
            self._table.room.release(step, entry)
            step.emit.object_spilled(step.time_ns, entry.id, entry.size, 0.0, step.emit.intern(entry.stored_path))
            return True
        self.writing_bytes += rounded(entry.size)
        entry.token, path = self.new_file(entry)
        self.io[entry.token] = entry
        step.emit.object_spilling(step.time_ns, entry.id, entry.size)
        step.effects.append(SpillObject(entry.id, entry.token, entry.offset, entry.size, path))
        return False

    def new_file(self, entry: Entry) -> tuple[int, str]:
        """A number that no other file and no other job of a thread has, and the path of the file of that number."""
        self._tokens += 1
        return self._tokens, f"{self._directory}/{file_name(entry.id, FALLBACK + self._tokens)}"

    def disk_allows(self, step: Step, size: int) -> bool:
        """Whether so much more may lie on disk; what lies there without need goes first."""
        limit = self._bytes_max
        if not limit or self._on_disk() + size <= limit:
            return True
        for entry in self._table.entries.values():
            if entry.stored_path and entry.state is ObjectState.SEALED and entry.offset < FALLBACK:
                self.remove_file(step, entry)
        self._drop_copies(step)
        if self._on_disk() + size <= limit:
            return True
        self.error = f"the limit of {show_bytes(limit)} on disk is reached"
        return False

    def _on_disk(self) -> int:
        making = sum(wait.entry.size for wait in self._table.room.fallback.making.values())
        return self.stored_bytes + self.writing_bytes + making

    def _drop_copies(self, step: Step) -> bool:
        """Copies in files that nobody reads go; whether there were any."""
        found = [
            entry for entry in self._table.entries.values()
            if entry.copy and entry.offset >= FALLBACK and entry.state is ObjectState.SEALED and not entry.pins
        ]  # fmt: skip
        for entry in found:
            self._table.drop(step, entry)
        return bool(found)

    def keeps(self, entry: Entry, path: str) -> None:
        """Its file is complete, or has all the space that it needs."""
        entry.stored_path = path
        self.stored_bytes += entry.size
        self.error = ""

    def failed(self, step: Step, error: str) -> bool:
        """The disk refuses. True if something was there that could go."""
        self.error = error
        self.not_before = step.now + SPILL_RETRY_SECONDS
        return self._drop_copies(step)

    def stop(self, step: Step, entry: Entry, error: str) -> None:
        """It stays in memory; ``error`` says why if it could not be written."""
        self.writing_bytes -= rounded(entry.size)
        entry.token = 0
        advance(entry, ObjectState.SEALED)
        step.emit.object_spill_stopped(step.time_ns, entry.id, entry.size, step.emit.intern(error))
        self.add(entry)

    def spilled(self, step: Step, token: int, path: str, seconds: float, error: str) -> None:
        """A thread has written the file, or could not."""
        entry = self.io.pop(token)
        if entry.token != token:
            # Wanted or freed meanwhile.
            if not error:
                step.effects.append(RemoveFile(path))
        elif error:
            self.stop(step, entry, error)
            self.failed(step, error)
        else:
            self.writing_bytes -= rounded(entry.size)
            entry.token = 0
            self.keeps(entry, path)
            advance(entry, ObjectState.SPILLED)
            self._table.room.release(step, entry)
            step.emit.object_spilled(step.time_ns, entry.id, entry.size, seconds, step.emit.intern(path))
        self._table.room.serve(step)

    def restore(self, step: Step, entry: Entry) -> None:
        """Have it read back into its range, or looked through where it lies."""
        self._tokens += 1
        entry.token = self._tokens
        self.io[entry.token] = entry
        step.effects.append(RestoreObject(entry.id, entry.token, entry.offset, entry.size, entry.stored_path))

    def restored(self, step: Step, token: int, seconds: float, error: str) -> None:
        """A thread has read the file back, or it cannot be read: then the object is lost."""
        entry = self.io.pop(token)
        entry.token = 0
        if entry.state is ObjectState.FREED:
            self._table.room.release(step, entry)
        elif error:
            self.lost(step, entry, error, f"spilled to {entry.stored_path}, which cannot be read back: {error}")
        else:
            advance(entry, ObjectState.SEALED)
            path = step.emit.intern(entry.stored_path)
            step.emit.object_restored(step.time_ns, entry.id, entry.size, seconds, path)
            self.add(entry)
            self._table.admit_readers(step, entry)
        self._table.room.serve(step)

    def lost(self, step: Step, entry: Entry, error: str, sentence: str) -> None:
        """What was on disk of it cannot be read; ``sentence`` is for those who want it."""
        advance(entry, ObjectState.LOST)
        self._table.room.release(step, entry)
        step.emit.object_lost(step.time_ns, entry.id, entry.size, Reason.NONE, step.emit.intern(error))
        entry.error = sentence
        self.remove_file(step, entry)
        if self._table.sharer is not None:
            self._table.sharer.lost(step, entry)
        self._table.refuse_readers(step, entry, "lost", entry.error)

    def remove_file(self, step: Step, entry: Entry) -> None:
        """What is on disk of it is not needed any more."""
        if entry.stored_path:
            step.effects.append(RemoveFile(entry.stored_path))
            self.stored_bytes -= entry.size
            entry.stored_path = ""
