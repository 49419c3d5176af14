"""Programs and interactive interpreters on a terminal of their own."""

from __future__ import annotations

import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

from tests.integration.programs import PATIENCE_SECONDS, ROOT


class Terminal:
    """A Python process on a pseudo terminal: what it shows, and what is typed."""

    def __init__(self, root: Path, *arguments: str, **environment: str) -> None:
        self.shown = ""
        self._read_to = 0
        self._status: int | None = None
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(root), "TERM": "dumb", **environment}
            os.execve(sys.executable, [sys.executable, *arguments], environment)

    def type(self, text: str) -> None:
        """Type this."""
        os.write(self._fd, text.encode())

    def interrupt(self) -> float:
        """Press Ctrl-C. Returns when."""
        self.type("\x03")
        return time.monotonic()

    def see(self, text: str) -> str:
        """Wait until this is shown, after what was seen before. Returns what was shown until then."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while text not in self.shown[self._read_to :]:
            if not self._read(deadline):
                raise AssertionError(f"{text!r} was not shown:\n{self.shown}")
        at = self.shown.index(text, self._read_to) + len(text)
        seen, self._read_to = self.shown[self._read_to : at], at
        return seen

    def end(self) -> int:
        """Wait until the process has ended. Returns its exit code, negative for a signal."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._read(deadline):
            pass
        if self._status is None:
            _, self._status = os.waitpid(self.pid, 0 if time.monotonic() < deadline else os.WNOHANG)
        return os.waitstatus_to_exitcode(self._status)

    def close(self) -> None:
        """End it, whatever it does."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            _, self._status = os.waitpid(self.pid, 0)
        os.close(self._fd)

    def _read(self, deadline: float) -> bool:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self._fd], [], [], left)[0]:
            return False
        try:
            data = os.read(self._fd, 1 << 16)
        except OSError:
            return False
        self.shown += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)
