"""A program whose node stands still is told so: what it waits for comes only when that goes on."""

from __future__ import annotations

import logging
from pathlib import Path

from obsray.telemetry import session_file
from obsray.telemetry.halts import halted

log = logging.getLogger("obsray.session")

LOOK_SECONDS = 1.0
#: A shorter halt is not worth a word.
AFTER_SECONDS = 3.0


class HaltedNode:
    """What a program has been told of its node."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pid = 0
        self._next = 0.0
        self._since: float | None = None
        self._said = False

    def look(self, now: float) -> None:
        """Look, if it is time to, and say on stderr what has changed. ``now``: monotonic seconds."""
        if now < self._next:
            return
        self._next = now + LOOK_SECONDS
        self._pid = self._pid or int(session_file.read(self._directory).get("node_pid") or 0)
        why = halted(self._pid)
        if not why:
            if self._said:
                log.warning("the node of this program (pid %d) goes on", self._pid)
            self._since, self._said = None, False
            return
        self._since = now if self._since is None else self._since
        if not self._said and now - self._since >= AFTER_SECONDS:
            self._said = True
            log.warning(
                "the node of this program (pid %d) stands still: %s. What needs it waits until it goes on; "
                "`kill -CONT %d` has it do so", self._pid, why, self._pid,
            )  # fmt: skip
