"""The files of one actor's checkpoints: its state, and the calls that ended since.

``<number>.state`` is there only if it is complete; ``<number>.calls`` holds what ended after state ``number`` was
saved (state 0 is what the constructor made, and has no file), one record after the other. A process killed in the
middle of either leaves the state before, and a last record that is cut off and not counted. The last two states are
kept, so that one that turns out damaged can be done without.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from struct import Struct

from obsray.telemetry.small_files import write_whole

_MAGIC = b"OBSCKPT\x01"
_STATE = Struct("<8sQI4x")
_RECORD = Struct("<II")
STATES_KEPT = 2
#: The larger ones of what an actor saves cannot be kept by another node.
DISTANT_BYTES_MAX = 64 << 20

#: Keeps a copy elsewhere: a file's name, what to write, whether at its end, and files that are not needed any more.
Mirror = Callable[[str, bytes, bool, list[str]], None]


def keep(directory: Path, file: str, data: bytes, append: bool, gone: Iterable[str]) -> None:
    """Do as the process of an actor on another node has done. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / file
    if append:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as end:
            end.write(data)
    else:
        write_whole(path, data)
    for name in gone:
        (directory / name).unlink(missing_ok=True)


def kept(directory: Path, file: str) -> bytes | list[str]:
    """What a file has; for "" the names of all files. Raises OSError."""
    if file:
        return (directory / file).read_bytes()
    return sorted(path.name for kind in ("state", "calls") for path in directory.glob(f"*.{kind}"))


class CheckpointFiles:
    """``state``: the newest intact one, None before the first. ``calls``: what ended since, oldest first.

    ``mirror`` is told of all that is written, before it counts as written; what it raises, its caller gets.
    """

    def __init__(self, directory: Path, mirror: Mirror | None = None) -> None:
        self.directory = directory
        self._mirror = mirror
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        numbers = sorted((int(path.stem) for path in directory.glob("*.state")), reverse=True)
        self.number = 0
        self.state: bytes | None = None
        for number in numbers:
            self.state = self._read(number)
            if self.state is not None:
                self.number = number
                break
        newest = max([self.number, *numbers])
        self.calls: list[bytes] = []
        for number in range(self.number, newest + 1):
            self.calls += self._records(number)
        self.number = newest
        self.calls_bytes = sum(map(len, self.calls))
        self._calls = self._open_calls()

    def _read(self, number: int) -> bytes | None:
        data = (self.directory / f"{number}.state").read_bytes()
        if len(data) < _STATE.size:
            return None
        magic, size, checksum = _STATE.unpack_from(data)
        state = data[_STATE.size :]
        return state if magic == _MAGIC and size == len(state) and checksum == zlib.crc32(state) else None

    def _records(self, number: int) -> Iterator[bytes]:
        path = self.directory / f"{number}.calls"
        data = path.read_bytes() if path.exists() else b""
        at = 0
        while at + _RECORD.size <= len(data):
            size, checksum = _RECORD.unpack_from(data, at)
            record = data[at + _RECORD.size : at + _RECORD.size + size]
            if len(record) < size or zlib.crc32(record) != checksum:
                break
            yield record
            at += _RECORD.size + size
        if at < len(data):
            # What follows would otherwise be written behind a record that ends every later reading.
            os.truncate(path, at)

    def _open_calls(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(self.directory / f"{self.number}.calls", flags, 0o600)

    def append(self, record: bytes) -> None:
        """A call has ended. Raises OSError."""
        data = _RECORD.pack(len(record), zlib.crc32(record)) + record
        if self._mirror is not None:
            self._mirror(f"{self.number}.calls", data, True, [])
        while data:
            data = data[os.write(self._calls, data) :]
        self.calls_bytes += len(record)

    def save(self, state: bytes) -> int:
        """Keep a state: from now on only calls that end later count. Returns its number. Raises OSError."""
        number = self.number + 1
        path, temporary = self.directory / f"{number}.state", self.directory / f"{number}.new"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            for part in (_STATE.pack(_MAGIC, len(state), zlib.crc32(state)), state):
                view = memoryview(part)
                while view:
                    view = view[os.write(fd, view) :]
        finally:
            os.close(fd)
        if self._mirror is not None:
            old_files = [f"{number - STATES_KEPT}.{kind}" for kind in ("state", "calls") if number >= STATES_KEPT]
            self._mirror(path.name, _STATE.pack(_MAGIC, len(state), zlib.crc32(state)) + state, False, old_files)
        os.rename(temporary, path)
        os.close(self._calls)
        self.number, self.calls_bytes = number, 0
        self._calls = self._open_calls()
        for old in range(number - STATES_KEPT, -1, -1):
            found = [self.directory / f"{old}.{kind}" for kind in ("state", "calls")]
            if not any(each.exists() for each in found):
                break
            for each in found:
                each.unlink(missing_ok=True)
        return number
