"""A line on stderr that says how far a ``get`` or ``wait`` over many references has come, for who asks for it.

On a terminal one of the lines of ``bars.py``, elsewhere plain carriage returns, so that notebooks show one line;
nothing before ``QUIET_SECONDS``; and when nothing has moved for a second, what the rest is waiting for, as far as this
process knows without asking anybody.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, TextIO

from obsray.core.protocol.lifecycle import TaskState
from obsray.core.runtime.bars import bars, can_draw
from obsray.ids import task_of
from obsray.telemetry.events import WaitKind

if TYPE_CHECKING:
    from obsray.core.runtime.ownership import Entry
    from obsray.core.runtime.session import Session
    from obsray.core.runtime.waiting import Waiter

QUIET_SECONDS = 0.3
REDRAW_SECONDS = 0.1
STALLED_SECONDS = 1.0
BAR_CHARACTERS = 16
#: Where the width is unknown: in a notebook or a file.
WIDTH_CHARACTERS = 160


def wanted(session: Session, asked: bool | None) -> bool:
    """Whether to show it: as asked, or as the setting ``progress`` says (``1``: on a terminal). Never in workers."""
    if session.executor is not None or asked is False or sys.stderr is None:
        return False
    setting = session.config.progress
    return asked is True or setting == "always" or (setting == "1" and sys.stderr.isatty())


class Progress:
    """Follows one wait for ``entries``, those of ``asked`` that were not there when it began; ``already`` were."""

    def __init__(
        self, session: Session, verb: str, asked: list[Any], entries: list[Any], total: int, already: int
    ) -> None:
        self._session = session
        self._verb = verb
        self._asked: list[Entry] = asked
        self._entries: list[Entry] = entries
        self._total = total
        self._already = already
        self._stream: TextIO = sys.stderr
        self._started = self._moved = time.monotonic()
        self._done = already
        self._width = 0
        #: Its name among the bars of a terminal, where it is drawn with those of tasks; "" elsewhere.
        self._bar = f"{verb} {id(self)}" if can_draw(self._stream) else ""

    def follow(self, waiter: Waiter, deadline: float | None, kind: WaitKind) -> None:
        """Wait as ``Session.wait_until`` does, and draw meanwhile."""
        drawn = self._started + QUIET_SECONDS
        try:
            while waiter.missing > 0:
                until = max(drawn, time.monotonic()) if self._width == 0 else time.monotonic() + REDRAW_SECONDS
                if deadline is not None and deadline <= until:
                    self._session.wait_until(waiter, deadline, kind)
                    break
                self._session.wait_until(waiter, until, kind, part=True)
                if waiter.missing > 0:
                    self._draw(self._total - waiter.missing, time.monotonic())
        finally:
            if self._width:
                # Not by the waiter: a first failure ends the wait for all.
                still = sum(not entry.is_ready() for entry in self._entries)
                done = max(self._done, min(self._total, self._already + len(self._entries) - still))
                self._draw(done, time.monotonic(), over=True)
                if not self._bar:
                    self._write("\n")

    def _draw(self, done: int, now: float, over: bool = False) -> None:
        if done != self._done:
            self._done, self._moved = done, now
        text = self.line(done, now)
        if self._bar:
            self._width = len(text)
            bars.show(self._bar, text, over=over)
            return
        # What stood there before is overwritten with blanks: not every notebook knows how to clear a line.
        text = text[:WIDTH_CHARACTERS]
        self._write("\r" + text.ljust(self._width))
        self._width = len(text)

    def line(self, done: int, now: float) -> str:
        """What the line says."""
        total = self._total
        filled = BAR_CHARACTERS * done // total
        text = f"{self._verb} [{'#' * filled}{'.' * (BAR_CHARACTERS - filled)}] {done}/{total}"
        failed = sum(entry.failed for entry in self._asked if hasattr(entry, "failed"))
        if failed:
            text += f", {failed} failed"
        if done < total and now - self._moved >= STALLED_SECONDS:
            return f"{text}, nothing for {_span(now - self._moved)}: {self._reasons()}"
        rate = (done - self._already) / max(1e-9, now - self._started)
        if rate > 0:
            text += f", {rate:.3g}/s"
            if done < total:
                text += f", {_span((total - done) / rate)} left"
        return text

    def _reasons(self) -> str:
        counts: Counter[str] = Counter()
        first = b""
        tasks = self._session.ownership.tasks
        for entry in self._entries:
            if entry.is_ready() or not hasattr(entry, "owned"):
                continue
            task = tasks.get(task_of(entry.id))
            if task is None:
                counts["made elsewhere"] += 1
                continue
            first = first or task.id
            counts[reason(task)] += 1
        text = ", ".join(f"{number} {what}" for what, number in counts.most_common(3)) or "still to come"
        return f"{text}; `obsray get task {first.hex()}` says why" if first else text

    def _write(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):
            # Whoever closed its stderr does not want to see it.
            self._stream = open(os.devnull, "w")


def reason(task: Any) -> str:
    """What a task that has not ended is doing, as far as its owner knows."""
    if task.state is TaskState.WAITING_ARGUMENTS:
        return "waiting for arguments"
    if task.dispatched_to is not None:
        return "running or next in a worker" if task.actor is None else "running or next in their actor"
    if task.actor is not None:
        return f"waiting for their actor ({task.actor.state.name.lower().replace('_', ' ')})"
    return f"waiting for {task.shape.name}" if task.shape is not None else "waiting"


def _span(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
