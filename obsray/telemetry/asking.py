"""Questions of a program to its own or another session: one reader for the whole process, one question at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from obsray.telemetry.snapshots import KeptViews
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


class NotInTime(Exception):
    """The answer was not there in time. What had to be read for it is read on, for who asks next."""


def ask(directory: Path, question: Callable[[Views], T], timeout: float | None = None) -> T:
    """Put a question to the views of a session, brought up to date. Raises FileNotFoundError if there is none,
    NotInTime after ``timeout`` seconds."""
    if timeout is None:
        return _answer(directory, question)
    found: list[T] = []
    failed: list[BaseException] = []
    gave_up = threading.Event()

    def answer() -> None:
        try:
            found.append(_answer(directory, question, gave_up))
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=answer, name="obsray-question", daemon=True)
    thread.start()
    thread.join(max(0.0, timeout))
    if thread.is_alive():
        gave_up.set()
        raise NotInTime
    if failed:
        raise failed[0]
    return found[0]


def _answer(directory: Path, question: Callable[[Views], T], gave_up: threading.Event | None = None) -> T:
    global _open
    with _lock:
        if _open is None or _open[0] != directory:
            _open = (directory, KeptViews(directory))
        views = _open[1]
        views.refresh()
        if gave_up is not None and gave_up.is_set():
            raise NotInTime
        answer = question(views)
    if isinstance(views, KeptViews) and views.unkept:
        # Not before somebody has the answer; a program that ends waits for it.
        threading.Thread(target=_keep, args=(views,), name="obsray-keep").start()
    return answer


def _keep(views: KeptViews) -> None:
    with _lock:
        views.keep()
