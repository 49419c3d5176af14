"""What ``ps`` and ``top`` show of this process: its command line and its short name, both in memory of its own.

The kernel reads a process' command line where the process' own arguments lie, so a title has the room that these had,
and is written without a system call; the short name has 15 bytes. Nothing happens where the system has no such thing.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

#: The kernel keeps no more of a short name.
_SHORT_BYTES_MAX = 15
#: Places of the addresses in ``/proc/<pid>/stat``, counted behind the command's name.
_BEGIN, _END = 45, 46


class Title:
    """The title of this process, once it is known where it lies."""

    def __init__(self, proc: Path = Path("/proc/self")) -> None:
        self._short = proc / "comm"
        self._text = ""
        self._begin = self._size = 0
        try:
            fields = (proc / "stat").read_bytes().rpartition(b")")[2].split()
            begin, end = int(fields[_BEGIN]), int(fields[_END])
            arguments = (proc / "cmdline").read_bytes()
            # Only what is certainly the place: it must say what the kernel says, byte by byte.
            if 0 < begin < end and len(arguments) == end - begin and ctypes.string_at(begin, end - begin) == arguments:
                self._begin, self._size = begin, end - begin
        except (OSError, ValueError, IndexError):
            pass

    def show(self, text: str) -> None:
        """From now on the process is called ``text``; what has no room is left out."""
        if text == self._text:
            return
        self._text = text
        plain = (
            text if text.isprintable() else "".join(character if character.isprintable() else " " for character in text)
        )
        if self._size:
            data = _cut(plain, self._size - 1)
            ctypes.memmove(self._begin, data.ljust(self._size, b"\0"), self._size)
        try:
            self._short.write_bytes(_cut(plain, _SHORT_BYTES_MAX))
        except OSError:
            self._short = Path("/dev/null")


def _cut(text: str, size: int) -> bytes:
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore").encode()
