"""Questions of a program to its own or another session: one reader for the whole process, one question at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from obsray.telemetry.store import Store
from obsray.telemetry.views import Views

T = TypeVar("T")

#: Views may be used by one thread at a time; those of the session asked for last are kept.
_lock = threading.Lock()
_open: tuple[Path, Views] | None = None


def use(directory: Path, views: Views) -> None:
    """Questions to this session are put to these views from here on: somebody in this process has folded it already.

    Whoever calls must be the only one that asks in this process.
    """
    global _open
    _open = (directory, views)


def has_read(directory: Path) -> bool:
    """Whether questions to this session need only read what is new."""
    opened = _open
    return opened is not None and opened[0] == directory


def ask(directory: Path, question: Callable[[Views], T]) -> T:
    """Put a question to the views of a session, brought up to date. Raises FileNotFoundError if there is none."""
    global _open
    with _lock:
        if _open is None or _open[0] != directory:
            _open = (directory, Views(Store.open(directory)))
        views = _open[1]
        views.refresh()
        return question(views)
