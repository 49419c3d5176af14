"""Who wrote which line of a worker's output, for the terminal that shows it: a small file beside the worker's claim.

A worker adds a line to it before the first one that somebody else than before writes. It is read after the output
itself, so that whoever reads it knows of every line that it has. What the file says is for people: the telemetry has
it exactly (``output_began``).
"""

from __future__ import annotations

import json
import os
from collections import deque
from pathlib import Path

STREAMS = ("out", "err")
#: A longer name is cut.
NAME_CHARACTERS_MAX = 80
#: In place of a stream: output is missing, so offsets mean nothing from here on.
_LOST = "lost"


def path_of(session: Path, worker: str) -> Path:
    """The file of worker ``worker`` (hex)."""
    return session / "jobs" / f"{worker}.by"


class Bylines:
    """The worker's side. Makes no file while nothing is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        self._told: dict[str, str] = {}

    def tell(self, stream: str, offset: int, name: str) -> None:
        """From ``offset`` of ``stream`` on, ``name`` writes ("": nobody knows who)."""
        if self._told.get(stream) == name:
            return
        self._told[stream] = name
        line = json.dumps([stream, offset, name[:NAME_CHARACTERS_MAX], os.getpid()]) + "\n"
        try:
            if self._file < 0:
                self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            os.write(self._file, line.encode())
        except OSError:
            # The disk is full, or the session has ended: the lines are shown without a name.
            pass


def lose(path: Path) -> None:
    """Output that this file tells of is missing where it is."""
    with path.open("a") as file:
        file.write(json.dumps([_LOST, 0, "", 0]) + "\n")


class Reader:
    """The reader's side. Offsets are to be asked for in their order."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._lost = False
        self._next: dict[str, deque[tuple[int, str]]] = {stream: deque() for stream in STREAMS}
        self._now = dict.fromkeys(STREAMS, "")
        #: Of the process that writes; 0 while it is not known.
        self.pid = 0

    def read(self) -> None:
        """Take note of what was added."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
        except OSError:
            return
        end = data.rfind(b"\n") + 1
        self._read += end
        for line in data[:end].splitlines():
            try:
                stream, offset, name, pid = json.loads(line)
                self._lost = self._lost or stream == _LOST
                self.pid = self.pid or int(pid)
                if not self._lost:
                    self._next[stream].append((int(offset), str(name)))
            except (ValueError, TypeError, KeyError):
                # A disk that was full may have kept a part of a line: the output is shown all the same.
                continue

    def name_at(self, stream: str, offset: int) -> str:
        """Who wrote the line that begins at ``offset``; "" if that is not known."""
        if self._lost:
            return ""
        waiting = self._next[stream]
        while waiting and waiting[0][0] <= offset:
            self._now[stream] = waiting.popleft()[1]
        return self._now[stream]
