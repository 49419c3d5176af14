"""Machine: room in the arena of a node: who waits for it, and whether its pages exist.

Requests are served first come, first served. One that sees no progress gets a file instead (``fallback.py``); if there
can be none, it is refused after ``wait_seconds_max`` with the sizes and the largest holders.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from obsray.core.node.allocator import Allocator, rounded
from obsray.core.node.entries import Entry, Wait, explain_full, show_bytes
from obsray.core.node.fallback import Fallback
from obsray.core.node.step import ReserveArena, Step
from obsray.core.protocol.fallback import FALLBACK
from obsray.core.protocol.lifecycle import ObjectState, advance
from obsray.core.protocol.messages import ObjectRefused, ObjectRoom

if TYPE_CHECKING:
    from obsray.core.node.objects import ObjectTable

RESERVE_AHEAD_BYTES = 64 << 20
RESERVE_RETRY_SECONDS = 10.0


class Room:
    """The arena of an ``ObjectTable``."""

    def __init__(
        self, table: ObjectTable, allocator: Allocator, wait_seconds_max: float, fallback_wait_seconds: float
    ) -> None:
        self._table = table
        self._spilling = table.spilling
        self.allocator = allocator
        self.capacity = allocator.capacity
        self.waits: deque[Wait] = deque()
        #: Those that have a range whose pages do not exist yet.
        self.unready: deque[Wait] = deque()
        #: Pages exist up to here.
        self.reserved = 0
        self._wait_seconds_max = wait_seconds_max
        self._reserving = False
        self._progress_at = 0.0
        self._grow_not_before = 0.0
        self.fallback = Fallback(table, self, fallback_wait_seconds)

    def queue(self, step: Step, wait: Wait) -> None:
        """Somebody wants room, and comes last; one for whom there never could be any waits for nobody."""
        if self.fallback.needed(wait.entry.size):
            if not self.fallback.begin(step, wait):
                self.refuse(step, wait)
            return
        self.waits.append(wait)
        self.serve(step)

    def cancel(self, entry: Entry) -> None:
        """Nobody wants room for it any more."""
        entry.wants_room = False
        for waits in (self.waits, self.unready):
            for wait in waits:
                if wait.entry is entry:
                    waits.remove(wait)
                    break

    def serve(self, step: Step) -> None:
        """Give room to those who wait, in order; start to make some for the first who cannot have it."""
        while self.waits:
            wait = self.waits[0]
            offset = self.allocator.allocate(wait.entry.size)
            if offset is None:
                if self._spilling.make_room(step, rounded(wait.entry.size)):
                    continue
                if self.fallback.instead(step, wait):
                    self.waits.popleft()
                    continue
                if self._refuse_if_stuck(step, wait):
                    continue
                self._tell_waiting(step, wait)
                return
            self.waits.popleft()
            wait.entry.offset = offset
            if offset + rounded(wait.entry.size) <= self.reserved:
                self.give(step, wait)
            else:
                self.unready.append(wait)
        self._reserve(step)

    def give(self, step: Step, wait: Wait) -> None:
        """Its entry has a place: whoever waited for one goes on."""
        entry = wait.entry
        if wait.restores:
            entry.wants_room = False
            advance(entry, ObjectState.RESTORING)
            step.emit.object_restoring(step.time_ns, entry.id, entry.size, step.now - wait.asked_at)
            self._spilling.restore(step, entry)
        elif entry.copy:
            self._table.others.room(step, entry)
        else:
            step.emit.object_created(step.time_ns, entry.id, wait.client, entry.size, step.now - wait.asked_at)
            step.send(wait.client, ObjectRoom(wait.request, entry.offset))

    def _refuse_if_stuck(self, step: Step, wait: Wait) -> bool:
        deadline = max(wait.asked_at, self._progress_at) + self._wait_seconds_max
        if step.now < deadline:
            step.wake(deadline)
            return False
        self.waits.popleft()
        self.refuse(step, wait)
        return True

    def refuse(self, step: Step, wait: Wait) -> None:
        """There is no room, and none to be expected; not on disk either."""
        entry = wait.entry
        if self.fallback.needed(entry.size):
            error = "too_large"
            detail = (
                f"{show_bytes(entry.size)} do not fit a store of {show_bytes(self.capacity)}, "
                f"and no file for them can be made: {self._spilling.error}"
            )
        else:
            error = "full"
            detail = explain_full(
                entry.size, self._table.numbers(), self._table.largest_pinned(), self._table.largest_owners(),
                self._spilling.error,
            )  # fmt: skip
        self.tell_failed(step, entry.id, wait.client or bytes(8), entry.size)
        if wait.restores:
            entry.wants_room = False
            self._table.refuse_readers(step, entry, error, detail)
        elif entry.copy:
            self._table.written(entry)
            self._table.refuse_readers(step, entry, error, detail)
            self._table.drop(step, entry)
            self._table.others.no_room(step, entry.id, error, detail)
        else:
            step.send(wait.client, ObjectRefused(wait.request, error, detail))
            self._table.written(entry)
            self._table.refuse_readers(step, entry, "lost", "its writer found no room for it")
            self._table.drop(step, entry)

    def _tell_waiting(self, step: Step, wait: Wait) -> None:
        if wait.told:
            return
        wait.told = True
        free = self.capacity - self.allocator.used_bytes
        step.emit.object_allocation_waiting(
            step.time_ns, wait.entry.id, wait.client or bytes(8), wait.entry.size, free, self._spilling.evictable_bytes,
            self._table.pinned_bytes,
        )  # fmt: skip

    def tell_failed(self, step: Step, object_id: bytes, client: bytes, size: int) -> None:
        """Record that there is no room for it."""
        free = self.capacity - self.allocator.used_bytes
        step.emit.object_allocation_failed(
            step.time_ns, object_id, client, size, free, self._table.pinned_bytes, self.capacity
        )

    def release(self, step: Step, entry: Entry) -> None:
        """Where it lay is nothing any more."""
        if entry.offset >= FALLBACK:
            self.fallback.release(entry)
        else:
            self.allocator.free(entry.offset)
            self._progress_at = step.now
            self.fallback.room_freed()
        entry.offset = -1

    def tick(self, step: Step) -> None:
        """Try again what failed a while ago, refuse what has waited too long."""
        if self.allocator.capacity < self.capacity and step.now >= self._grow_not_before:
            self.allocator.limit(self.capacity)
        if self.waits or self.unready:
            self.serve(step)

    # --- pages -------------------------------------------------------------------------------------------

    def _reserve(self, step: Step) -> None:
        """Have pages made for those who got a range without, and some ahead of the next."""
        if self._reserving:
            return
        if self.unready:
            end = max(wait.entry.offset + rounded(wait.entry.size) for wait in self.unready)
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
            self._spilling.error = self._spilling.error or f"the machine has no more memory: {error}"
            self._grow_not_before = step.now + RESERVE_RETRY_SECONDS
            while self.unready:
                wait = self.unready.pop()
                self.allocator.free(wait.entry.offset)
                wait.entry.offset = -1
                self.waits.appendleft(wait)
            self.allocator.limit(self.reserved)
        else:
            self.reserved = end
            self._progress_at = step.now
            for _ in range(len(self.unready)):
                wait = self.unready.popleft()
                if wait.entry.offset + rounded(wait.entry.size) <= end:
                    self.give(step, wait)
                else:
                    self.unready.append(wait)
        self.serve(step)
