"""The log files of another node, as the head keeps them: ``logs/nodes/<node>/<name>``, byte for byte the same."""

from __future__ import annotations

import logging
import os
import re
import time
from pathlib import Path

from obsray.core.protocol.messages import LogFilePieces, LogFilesWanted
from obsray.telemetry.log_files import LOOKED, NODES

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}")
log = logging.getLogger("obsray.collector")


class LogCopies:
    """Of one node. Goes on where an earlier collector was. ``bytes_max``: for the copies of all nodes together."""

    def __init__(self, session: Path, node: str, bytes_max: int) -> None:
        self._nodes = session / "logs" / NODES
        self._directory = self._nodes / node
        self._node = node
        self._bytes_max = bytes_max
        self._full = False
        self._asked_at = 0.0
        self._taken: dict[str, int] = {}
        if self._directory.is_dir():
            self._taken = {path.name: path.stat().st_size for path in self._directory.iterdir() if path.name != LOOKED}

    def wanted(self) -> LogFilesWanted | None:
        """What to ask for; None if there is no room for more."""
        self._asked_at = time.time()
        return None if self._full else LogFilesWanted(dict(self._taken))

    def take(self, pieces: LogFilePieces) -> None:
        """Write down what has come. Raises OSError, ValueError for a name that is none."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, start, data in pieces.pieces:
            if not _NAME.fullmatch(name) or start < self._taken.get(name, 0):
                raise ValueError(f"{name!r} from byte {start} on was not asked for")
            descriptor = os.open(self._directory / name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                written = 0
                while written < len(data):
                    written += os.pwrite(descriptor, data[written:], start + written)
            finally:
                os.close(descriptor)
            self._taken[name] = start + len(data)
        if pieces.whole:
            # Whoever reads copies can tell how new they are.
            looked = self._directory / LOOKED
            looked.touch(0o600)
            os.utime(looked, (self._asked_at, self._asked_at))
        if pieces.pieces and _size(self._nodes) >= self._bytes_max:
            self._full = True
            log.warning(
                "copies of logs have reached %d bytes (logs_bytes_max): what node %s logs from here on is only there",
                self._bytes_max, self._node,
            )  # fmt: skip


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
