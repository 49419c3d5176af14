"""Errors of tasks that nobody had looked at when the last reference to their results went: machine and its words."""

from __future__ import annotations

import logging
import os
import threading
from typing import Any

from obsray.ids import task_of

#: A program that lets very many tasks fail is told so at most this often, and of so many functions at a time.
REPORT_SECONDS = 1.0
FUNCTIONS_MAX = 10
#: Either of them as "1" says that nobody wants to hear of it.
SUPPRESS = ("RAY_IGNORE_UNHANDLED_ERRORS", "OBSRAY_IGNORE_UNHANDLED_ERRORS")


class Unseen:
    """Machine: which tasks of this process failed, and whether anybody has looked at their error."""

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


class UnseenReports:
    """Says what was missed, now and then, to whoever reads the log of this process."""

    def __init__(self, unseen: Unseen, lock: threading.Lock) -> None:
        self._unseen = unseen
        self._lock = lock
        self._next = 0.0

    def say(self, now: float) -> None:
        """Write what was missed since the last time, if that is long enough ago. Without the session's lock."""
        if now < self._next or not self._unseen.missed:
            return
        self._next = now + REPORT_SECONDS
        with self._lock:
            missed, self._unseen.missed = self._unseen.missed, {}
        if any(os.environ.get(name) == "1" for name in SUPPRESS):
            return
        logger = logging.getLogger("obsray.tasks")
        for name, (count, error) in list(missed.items())[:FUNCTIONS_MAX]:
            more = f" (the first of {count} of {name})" if count > 1 else ""
            logger.error("Unhandled error (suppress with '%s=1')%s: %s", SUPPRESS[0], more, _text(error))
        if len(missed) > FUNCTIONS_MAX:
            logger.error("Unhandled errors of %d more functions", len(missed) - FUNCTIONS_MAX)


def _text(error: bytes) -> str:
    from obsray.core.runtime.serialization import load_error

    try:
        return str(load_error(error))
    except Exception:
        return "an error that cannot be shown"
