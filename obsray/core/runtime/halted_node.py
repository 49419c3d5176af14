"""A program is told that its node, or what serves it there, stands still: what it waits for comes when that goes on."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from obsray.telemetry import session_file
from obsray.telemetry.halts import FILE, NAMES, fix_of
from obsray.telemetry.pids import halted

log = logging.getLogger("obsray.session")

LOOK_SECONDS = 1.0
#: A shorter halt is not worth a word.
AFTER_SECONDS = 3.0
_NODE = "node"


class HaltedNode:
    """What a program has been told of its node and of the processes beside it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pid = 0
        self._next = 0.0
        #: What stands still, by name and pid: since when, and whether that was said.
        self._known: dict[tuple[str, int], tuple[float, bool]] = {}

    def look(self, now: float) -> None:
        """Look, if it is time to, and say on stderr what has changed. ``now``: monotonic seconds."""
        if now < self._next:
            return
        self._next = now + LOOK_SECONDS
        self._pid = self._pid or int(session_file.read(self._directory).get("node_pid") or 0)
        found = {who: why for who in [(_NODE, self._pid), *self._services()] if (why := halted(who[1]))}
        for who in [who for who in self._known if who not in found]:
            if self._known.pop(who)[1]:
                log.warning("%s goes on", _named(*who))
        for who, why in found.items():
            since, said = self._known.setdefault(who, (now, False))
            if not said and now - since >= AFTER_SECONDS:
                self._known[who] = since, True
                log.warning("%s stands still: %s. %s", _named(*who), why, _told(*who, why))

    def _services(self) -> list[tuple[str, int]]:
        """Those of which the node has written down that they stand still, and who may go on by now."""
        try:
            return [(str(name), int(pid)) for name, pid in json.loads((self._directory / FILE).read_bytes())]
        except (OSError, ValueError):
            return []


def _named(name: str, pid: int) -> str:
    if name == _NODE:
        return f"the node of this program (pid {pid})"
    return f"the {NAMES.get(name, name)} of this program's node (pid {pid})"


def _told(name: str, pid: int, why: str) -> str:
    fix = fix_of({"name": name, "pid": pid, "why": why})
    return f"What needs it waits until it goes on. {fix}" if name == _NODE else fix
