"""Machine: errors of tasks that nobody had looked at when the last reference to their results went."""

from __future__ import annotations

from typing import Any

from obsray.ids import task_of


class Unseen:
    """Which tasks of this process failed, and whether anybody has looked at their error."""

    def __init__(self) -> None:
        #: task -> name of its function and its error, while somebody may still look at it.
        self._errors: dict[bytes, tuple[str, bytes]] = {}
        #: Name of a function -> how many of its errors nobody will see, and the first of them.
        self.missed: dict[str, tuple[int, bytes]] = {}

    def failed(self, task: Any, error: bytes) -> None:
        """A task has failed in user code, or with its process."""
        if task.entries:
            self._errors[task.id] = task.function.name, error
        else:
            self._miss(task.function.name, error)

    def seen(self, identifier: bytes) -> None:
        """Somebody got the error, another task failed with it, or another process was told. Any thread."""
        if self._errors:
            self._errors.pop(task_of(identifier), None)

    def gone(self, identifier: bytes) -> None:
        """Nothing refers to a failed object any more."""
        found = self._errors.pop(task_of(identifier), None)
        if found is not None:
            self._miss(*found)

    def _miss(self, name: str, error: bytes) -> None:
        count, first = self.missed.get(name, (0, error))
        self.missed[name] = count + 1, first
