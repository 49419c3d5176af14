"""What threads wait with."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from obsray.core.runtime.ownership import Entry
from obsray.ids import NIL_OBJECT

#: A task keeps its CPU so long while it waits for room in the store or for bytes on their way. Both come soon, and need
#: no other worker to come; a CPU that is lent goes to one, which keeps it for a while.
STORE_PATIENCE_SECONDS = 0.25
#: A wait of a driver, or of an async call, that has lasted so long is told before it ends.
NOTICED_SECONDS = 1.0
#: Of a wait for several things so many of those that are missing are told.
WAITED_FOR_MAX = 64


def object_of(source: Any) -> bytes:
    """The object behind what a thread waits for; of a generator its first item."""
    identifier: bytes = source.id if hasattr(source, "id") else source.task + bytes(4)
    return identifier


class Waiter:
    """A thread that waits for a number of entries. ``fail_fast``: the first failure ends the wait.

    ``first``: the id of one of them, for the record of what blocked a task; ``sources``: all that may serve it, for the
    record of a wait that lasts. ``began``: when a thread began to wait for it (monotonic), ``noticed``: that it has
    waited for long is recorded.
    """

    __slots__ = ("began", "event", "fail_fast", "first", "missing", "noticed", "sources")

    def __init__(self, missing: int, fail_fast: bool = False) -> None:
        self.missing = missing
        self.fail_fast = fail_fast
        self.first = NIL_OBJECT
        self.event: threading.Event | None = None
        self.sources: Sequence[Any] = ()
        self.began, self.noticed = 0.0, False

    def __repr__(self) -> str:
        return f"a wait for {self.missing} more, first {self.first.hex()}"

    def on_ready(self, entry: Entry | None) -> None:
        self.missing -= 1
        if self.fail_fast and entry is not None and entry.failed:
            self.missing = 0
        if self.missing <= 0 and self.event is not None:
            self.event.set()


class Answer(Waiter):
    """A thread that waits for the node's answer to one request.

    ``undo``: nobody waits any more; what to tell the node if it grants the request nevertheless. ``then``: called with
    the answer.
    """

    __slots__ = ("message", "then", "undo")

    def __init__(self) -> None:
        super().__init__(1)
        self.message: Any = None
        self.undo: Any = None
        self.then: Any = None

    def arrived(self, message: Any) -> None:
        """The answer is here."""
        self.message = message
        self.missing = 0
        if self.event is not None:
            self.event.set()
        if self.then is not None:
            self.then(message)
