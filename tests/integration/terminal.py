"""Programs and interactive interpreters on a terminal of their own."""

from __future__ import annotations

import io
import os
import pty
import re
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

    def look(self) -> list[str]:
        """The lines that a person sees by now."""
        self._read(time.monotonic() + 0.05)
        return Screen.of(self.shown)

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


class Screen(io.StringIO):
    """A terminal of ``rows`` lines; knows what bars use: lines, carriage returns, cursor up, erase below."""

    def __init__(self, rows: int = 24, columns: int = 80) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        #: All lines, those that have left the screen included, and where the cursor is.
        self.lines, self.row, self.column = [""], 0, 0

    @classmethod
    def of(cls, written: str) -> list[str]:
        """What is on a terminal to which this was written."""
        screen = cls()
        screen.write(written)
        return screen.shown

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 99

    def write(self, text: str) -> int:
        for part in re.findall(r"\x1b\[\d*[AJ]|\x1b|[\s\S]", text):
            if part == "\n":
                self.row, self.column = self.row + 1, 0
                self.lines += [""] * (self.row + 1 - len(self.lines))
            elif part == "\r":
                self.column = 0
            elif part.endswith("A") and part.startswith("\x1b["):
                self.row = max(self.row - int(part[2:-1]), len(self.lines) - self.rows, 0)
            elif part == "\x1b[J":
                self.lines[self.row] = self.lines[self.row][: self.column]
                del self.lines[self.row + 1 :]
            else:
                assert part.isprintable(), f"{part!r} is not known to the test"
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + part + line[self.column + 1 :]
                self.column += 1
                assert self.column <= self.columns, "a line that goes on in the next cannot be drawn anew"
        return len(text)

    @property
    def shown(self) -> list[str]:
        return [line for line in self.lines if line]
