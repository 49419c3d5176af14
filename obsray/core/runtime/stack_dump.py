"""What every thread of this process does now, for somebody who asks (``telemetry/live_stacks.py``)."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from obsray.core.runtime.running import Running
from obsray.core.runtime.stacks import StackTexts, points_of, points_of_awaiting
from obsray.telemetry import live_stacks
from obsray.telemetry.spine import Ring

if TYPE_CHECKING:
    from obsray.core.runtime.session import Session

#: Suspended calls of an actor that are told one by one.
CALLS_MAX = 1_000
log = logging.getLogger("obsray.stacks")


class StackDump:
    """Answers of one process. Used by its watcher alone."""

    def __init__(self, session: Session, ring: Ring) -> None:
        self._session, self._ring = session, ring
        self._texts = StackTexts()
        self._answered = 0
        live_stacks.listen(ring.directory, ring.process)

    def answer_if_asked(self) -> None:
        """Write what the threads do, if somebody wants to know."""
        number = self._ring.stacks_asked()
        if number == self._answered:
            return
        self._answered = number
        try:
            live_stacks.write_answer(self._ring.directory, self._ring.process, number, self._threads())
        except OSError:
            log.exception("the stacks of this process could not be written")

    def close(self) -> None:
        """Answer no more."""
        live_stacks.silence(self._ring.process)

    def _threads(self) -> list[dict[str, Any]]:
        executor = self._session.executor
        tasks = {} if executor is None else {
            executor.threads.get(slot): running for slot, running in list(executor.slots.items())
        }  # fmt: skip
        found = []
        for thread in threading.enumerate():
            ident = thread.ident or 0
            points = points_of(ident)
            if not points:
                continue
            running = tasks.get(ident)
            idle = executor is not None and ident == executor.threads[0]
            ours = running is None and (idle or thread.name.startswith("obsray-"))
            row: dict[str, Any] = {"name": thread.name, "ident": ident, "runtime": ours}
            row["stack"] = self._texts.text(points, running is not None).split("\n")
            found.append(row | _told(running))
        for loop in executor.actor.loops if executor is not None and executor.actor is not None else ():
            for running, task in list(loop.coroutines.values())[:CALLS_MAX]:
                points = points_of_awaiting(task.get_coro())
                if running.loaded is not None and points:
                    stack = self._texts.text(points, True).split("\n")
                    found.append({"name": "await", "ident": 0, "runtime": False, "stack": stack} | _told(running))
        return found


def _told(running: Running | None) -> dict[str, Any]:
    if running is None or running.loaded is None:
        return {}
    return {
        "task": running.task.hex(), "attempt": running.attempt, "function": running.loaded.name,
        "started_at_ns": running.started_at,
    }  # fmt: skip
