"""The one reader of a session's telemetry: every request asks through it.

Invariants: the store and its views are touched by one thread only; new segments are looked for at most every
``REFRESH_SECONDS``, however many pages are open; answers to the same question within that time are shared; a crowd of
questions is refused (``Busy``) instead of piling up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from obsray.telemetry import session_file
from obsray.telemetry.moments import moment_ns, said
from obsray.telemetry.pids import process_alive

REFRESH_SECONDS = 0.5
#: For how long nobody must have asked before the memory is wanted back.
RELEASE_SECONDS = 2.0
WAITING_MAX = 64
SHARED_ANSWERS_MAX = 32
#: What is younger than this is now: a live view says more of it than records do.
NOW_SECONDS = 3.0

T = TypeVar("T")
log = logging.getLogger(__name__)


class Busy(RuntimeError):
    """More questions wait than can be answered in reasonable time."""


class Source:
    """Asks a session's views from the event loop. ``opener`` makes the views when the first question comes,
    ``past_opener`` those of an instant (ns)."""

    def __init__(
        self,
        session_directory: Path,
        opener: Callable[[Path], Any] | None = None,
        past_opener: Callable[[Path, int], Any] | None = None,
    ) -> None:
        self.directory = session_directory
        self.session: dict[str, Any] = {}
        self.is_live = False
        self._opener = opener or open_views
        self._past_opener = past_opener or open_past
        self._views: Any = None
        self._thread = ThreadPoolExecutor(1, "telemetry")
        #: Instants of the past are read from the beginning, so nobody else waits for that.
        self._past_thread = ThreadPoolExecutor(1, "past")
        self._past: tuple[int, Any] = (0, None)
        self._refreshed_at = float("-inf")
        self._waiting = 0
        self._releasing: asyncio.TimerHandle | None = None
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
            self._release_later()

    async def ask_of(self, moment: str, question: Callable[[Any], T], key: Hashable = None) -> tuple[T, int | None]:
        """``question(views)`` of the session as it was at a moment; "" is now. Returns the answer, and the instant it
        is of: None for now, also if the moment is later. Raises ValueError for what is no moment of the session, and
        Busy."""
        at = await self.ask(lambda views: self._instant(views, moment)) if moment else None
        if at is None:
            return await self.ask(question, key), None
        if self._waiting >= WAITING_MAX:
            raise Busy(f"{WAITING_MAX} questions are waiting")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._past_thread, self._answer_of, question, at), at
        finally:
            self._waiting -= 1

    def _release_later(self) -> None:
        """When nobody has asked for a while, what questions have brought into memory leaves it."""
        if self._releasing is not None:
            self._releasing.cancel()
        self._releasing = asyncio.get_running_loop().call_later(RELEASE_SECONDS, self._thread.submit, self._release)

    def _release(self) -> None:
        if self._views is not None:
            self._views.release()

    def close(self) -> None:
        """Let the reading threads end; questions that wait are dropped."""
        if self._releasing is not None:
            self._releasing.cancel()
        for thread in (self._thread, self._past_thread):
            thread.shutdown(wait=False, cancel_futures=True)

    def _instant(self, views: Any, moment: str) -> int | None:
        now = int(self.session.get("stopped_at_ns") or 0) or int(views.now_ns())
        start = int(self.session.get("started_at_ns") or 0)
        at = moment_ns(moment, now, start)
        if at < start:
            raise ValueError(f"{moment!r} is before the session began, at {said(start)}")
        return at if at < now - NOW_SECONDS * 1e9 else None

    def _answer_of(self, question: Callable[[Any], T], at: int) -> T:
        known, views = self._past
        if known != at:
            # Only one, and the one before goes first: each is as large as the session.
            self._past = (0, None)
            views = self._past_opener(self.directory, at)
            views.refresh()
            self._past = (at, views)
        try:
            return question(views)
        finally:
            views.release()

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
        self.is_live = session_file.node_lives(self.session)
        if self._views is None:
            self._views = self._opener(self.directory)
        self._views.refresh()
        self._refreshed_at = time.monotonic()


def open_views(session_directory: Path) -> Any:
    """The views over a session's recorded telemetry."""
    from obsray.telemetry.snapshots import KeptViews

    views = KeptViews(session_directory)
    views.lie_in(session_directory)
    return views


def open_past(session_directory: Path, until_ns: int) -> Any:
    """The views over what a session had recorded at an instant."""
    from obsray.telemetry.past import PastViews

    views = PastViews(session_directory, until_ns)
    views.lie_in(session_directory)
    return views


def is_alive(pid: object) -> bool:
    """Whether process ``pid`` runs (a zombie does not)."""
    return isinstance(pid, int) and process_alive(pid)
