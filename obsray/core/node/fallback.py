"""Machine: values that get a file instead of room in the arena, so that programs go on when it is full of what is read.

Whoever waits for room gets a file once nothing is left that could be spilled and nothing has become free for
``wait_seconds``; what is larger than the whole arena gets one at once. A spilled value that is wanted again is mapped
where it lies. A value in a file is like any other, but takes no room and is never spilled; it stays there to its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from obsray.core.node.allocator import rounded
from obsray.core.node.entries import Entry, Wait
from obsray.core.node.step import MakeFile, RemoveFile, Step
from obsray.core.protocol.fallback import FALLBACK, place_in
from obsray.core.protocol.lifecycle import ObjectState

if TYPE_CHECKING:
    from obsray.core.node.objects import ObjectTable
    from obsray.core.node.room import Room


class Fallback:
    """The values of an ``ObjectTable`` that have no room in its arena."""

    def __init__(self, table: ObjectTable, room: Room, wait_seconds: float) -> None:
        self._table, self._room, self._spilling = table, room, table.spilling
        self._wait_seconds = wait_seconds
        #: Those whose files are being made, by number.
        self.making: dict[int, Wait] = {}
        #: Of the values in files.
        self.bytes = 0
        self._stuck_since: float | None = None

    def needed(self, size: int) -> bool:
        """Whether no arena of this size could ever hold so many bytes."""
        return rounded(size) > self._room.capacity

    def instead(self, step: Step, wait: Wait) -> bool:
        """Give whoever waits for room a file, if room is not to be expected. False: it is to wait on."""
        if self._stuck_since is None:
            self._stuck_since = step.now
        if self._spilling.may_free_room:
            return False
        due = max(self._stuck_since + self._wait_seconds, self._spilling.not_before)
        if step.now < due:
            step.wake(due)
            return False
        return self.begin(step, wait)

    def begin(self, step: Step, wait: Wait) -> bool:
        """Have a file made, or take the one that is there. False: there may be no more on disk."""
        entry = wait.entry
        if wait.restores:
            self._lies(step, wait, place_in(entry.stored_path))
            self._room.give(step, wait)
            return True
        if not self._spilling.disk_allows(step, entry.size):
            return False
        number, path = self._spilling.new_file(entry)
        self.making[number] = wait
        step.effects.append(MakeFile(number, entry.size, path))
        return True

    def made(self, step: Step, number: int, path: str, error: str) -> None:
        """The file is there, with all the disk space that it needs, or it cannot be."""
        wait = self.making.pop(number)
        entry = wait.entry
        if entry.state is ObjectState.FREED:
            if not error:
                step.effects.append(RemoveFile(path))
        elif not error:
            self._spilling.keeps(entry, path)
            self._lies(step, wait, FALLBACK + number)
            self._room.give(step, wait)
        elif self._spilling.failed(step, error) and self.begin(step, wait):
            # Copies that nobody reads have gone: now there may be space.
            return
        elif self.needed(entry.size):
            self._room.refuse(step, wait)
        else:
            self._room.waits.appendleft(wait)
        self._room.serve(step)

    def _lies(self, step: Step, wait: Wait, offset: int) -> None:
        entry = wait.entry
        entry.offset = offset
        self.bytes += entry.size
        step.emit.object_fallback(
            step.time_ns, entry.id, wait.client or bytes(8), entry.size, step.now - wait.asked_at,
            self._room.capacity - self._room.allocator.used_bytes, self._table.pinned_bytes, self._room.capacity,
            step.emit.intern(entry.stored_path),
        )  # fmt: skip

    def release(self, entry: Entry) -> None:
        """It lies in its file no more."""
        self.bytes -= entry.size

    def room_freed(self) -> None:
        """Something in the arena has become free: there may be room for all who wait."""
        self._stuck_since = None
