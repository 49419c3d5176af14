"""The one reader of a session's telemetry: every request asks through it.

Invariants: the store and its views are touched by one thread only; new segments are looked for at most every
``REFRESH_SECONDS``, however many pages are open; answers to the same question within that time are shared; a crowd of
questions is refused (``Busy``) instead of piling up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from obsray.telemetry import session_file

REFRESH_SECONDS = 0.5
WAITING_MAX = 64
SHARED_ANSWERS_MAX = 32

T = TypeVar("T")
log = logging.getLogger(__name__)


class Busy(RuntimeError):
    """More questions wait than can be answered in reasonable time."""


class Source:
    """Asks a session's views from the event loop. ``opener`` makes the views when the first question comes."""

    def __init__(self, session_directory: Path, opener: Callable[[Path], Any] | None = None) -> None:
        self.directory = session_directory
        self.session: dict[str, Any] = {}
        self.is_live = False
        self._opener = opener or open_views
        self._views: Any = None
        self._thread = ThreadPoolExecutor(1, "telemetry")
        self._refreshed_at = float("-inf")
        self._waiting = 0
        self._shared: dict[Hashable, Any] = {}

    async def ask(self, question: Callable[[Any], T], key: Hashable = None, fresh: bool = False) -> T:
        """``question(views)``, computed in the reading thread. Answers with the same ``key`` are shared until the
        next refresh. ``fresh``: what was recorded up to now is looked at first. Raises Busy."""
        if self._waiting >= WAITING_MAX:
            raise Busy(f"{WAITING_MAX} questions are waiting")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, question, key, fresh)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Let the reading thread end; questions that wait are dropped."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _answer(self, question: Callable[[Any], T], key: Hashable, fresh: bool) -> T:
        self._refresh(0.0 if fresh else REFRESH_SECONDS)
        if key is None:
            return question(self._views)
        if key not in self._shared:
            if len(self._shared) >= SHARED_ANSWERS_MAX:
                self._shared.clear()
            self._shared[key] = question(self._views)
        answer: T = self._shared[key]
        return answer

    def _refresh(self, after_seconds: float) -> None:
        now = time.monotonic()
        if now - self._refreshed_at < after_seconds:
            return
        self._shared.clear()
        self.session = session_file.read(self.directory) or self.session
        self.is_live = is_alive(self.session.get("node_pid"))
        if self._views is None:
            self._views = self._opener(self.directory)
        self._views.refresh()
        self._refreshed_at = time.monotonic()


def open_views(session_directory: Path) -> Any:
    """The views over a session's recorded telemetry."""
    from obsray.telemetry.store import Store
    from obsray.telemetry.views import Views

    return Views(Store.open(session_directory))


def is_alive(pid: object) -> bool:
    """Whether process ``pid`` runs (a zombie does not)."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except PermissionError:
        return True
    except OSError:
        return False
    return state not in ("Z", "X")
