"""Machine: placement groups as those see them who wait for them."""

from __future__ import annotations

from typing import Any

from obsray.core.protocol.lifecycle import GroupState
from obsray.core.protocol.messages import GroupChanged, WatchGroup, encode
from obsray.core.runtime.ownership import NODE, Entry, Ownership
from obsray.core.runtime.serialization import dump_error
from obsray.errors import TaskPlacementGroupRemoved


class Reservations:
    """Objects of this process that come to be when a group is there, and fail when it is removed before."""

    def __init__(self, ownership: Ownership) -> None:
        self.ownership = ownership
        self._awaited: dict[bytes, list[tuple[bytes, bytes]]] = {}

    def await_group(self, identifier: bytes, group: bytes, value: bytes) -> None:
        """Make object ``identifier``, one reference counted; it gets ``value`` (serialized) once the group is there."""
        entry = Entry(identifier, True)
        entry.local = 1
        self.ownership.entries[identifier] = entry
        self.ownership.pending.add(identifier)
        waiting = self._awaited.setdefault(group, [])
        waiting.append((identifier, value))
        if len(waiting) == 1:
            self.ownership.outbox.append((NODE, encode(WatchGroup(group))))

    def changed(self, message: GroupChanged) -> None:
        """The node says that a group is there, or gone."""
        error: Any = None
        if message.state == GroupState.REMOVED:
            text = f"placement group {message.group.hex()} is gone: {message.detail}"
            error = dump_error(TaskPlacementGroupRemoved(text))
        for identifier, value in self._awaited.pop(message.group, ()):
            entry = self.ownership.entries.get(identifier)
            if entry is not None:
                self.ownership.fulfil(entry, error or value, failed=error is not None)
