"""How raw GPU records travel from a worker to the collector: files of chunks, appended to and never changed.

A worker writes ``<process id>.<number>.gpu`` beside its rings. A chunk is a header of ``HEADER.size`` bytes and its
payload, written together; a chunk cut short by a kill is the last one and is not read. What was written survives the
kill of its writer. The collector deletes a file once all of it is stored and a newer one exists, or its writer is
gone.

========  ====================================================================================================
kind      payload
========  ====================================================================================================
FACTS     JSON: ``devices`` (the numbers of the node's GPUs, in the order in which the process sees them),
          ``level``, ``library``
MARKS     tasks that began or ended: records of ``MARK``
NAMES     entries of ``NAME`` and the text: kernels by the address of their name, calls by their number
BUFFER    one activity buffer as CUPTI gave it back
========  ====================================================================================================

Bounds: at most ``bytes_max`` of files that nobody read; beyond, buffers are dropped and counted.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Any

SUFFIX = "gpu"
MAGIC = b"OGPU"
FACTS, MARKS, NAMES, BUFFER = 1, 2, 3, 4
#: magic | kind | pad | CUPTI version | records lost before this chunk | chunk number | payload bytes | made from | to
HEADER = Struct("<4sHHIIQQQQ")
#: number | started | ended (0: runs) | thread | attempt | pad | function's number in the ring's strings | pad | task
MARK = Struct("<QQQIHHII16s")
#: space | pad | bytes of text | key
NAME = Struct("<HHIQ")
KERNEL_NAMES, DRIVER_CALLS, RUNTIME_CALLS = 0, 1, 2
#: A file of this size is followed by another.
FILE_BYTES = 16 << 20


class ChunkWriter:
    """Appends chunks for one process. Threads may share it."""

    def __init__(self, directory: Path, process: bytes, bytes_max: int) -> None:
        self.directory = directory
        self.process = process
        self.version = 0
        #: Records that were lost and not told yet.
        self.lost = 0
        self._files_max = max(2, bytes_max // FILE_BYTES)
        # May be taken again by the same thread: a buffer may come back in the middle of a write.
        self._lock = threading.RLock()
        self._fd = -1
        self._size = 0
        self._file = -1
        self._numbers = itertools.count(1)
        self._open()

    def write(self, kind: int, payload: Any, since_ns: int = 0, until_ns: int = 0) -> bool:
        """Append one chunk. False if it could not be written; nothing of it is left behind then."""
        size = memoryview(payload).nbytes
        with self._lock:
            if self._size >= FILE_BYTES and not self._roll(kind):
                return False
            lost = min(self.lost, 0xFFFFFFFF)
            header = HEADER.pack(
                MAGIC, kind, 0, self.version, lost, next(self._numbers), size, since_ns, until_ns,
            )  # fmt: skip
            try:
                written = os.writev(self._fd, (header, payload))
            except OSError:
                written = -1
            if written != len(header) + size:
                self._take_back()
                return False
            self._size += written
            self.lost -= lost
            return True

    def lose(self, records: int) -> None:
        """Count records that will not arrive; the next chunk says so."""
        with self._lock:
            self.lost += records

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def _take_back(self) -> None:
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            pass  # the file ends in a chunk cut short, and reading stops there

    def _roll(self, kind: int) -> bool:
        """Begin the next file. Marks and names are small and decide about the rest: only buffers are refused."""
        if kind == BUFFER and len(files(self.directory, self.process)) >= self._files_max:
            return False
        os.close(self._fd)
        self._open()
        return True

    def _open(self) -> None:
        self._file += 1
        path = self.directory / f"{self.process.hex()}.{self._file:06d}.{SUFFIX}"
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk as it was read; ``payload`` is a view of the file's bytes."""

    kind: int
    version: int
    lost: int
    number: int
    since_ns: int
    until_ns: int
    payload: memoryview


def files(directory: Path, process: bytes) -> list[Path]:
    """The files of a process, oldest first."""
    return sorted(directory.glob(f"{process.hex()}.*.{SUFFIX}"))


def read(path: Path, offset: int) -> tuple[list[Chunk], int]:
    """The whole chunks of a file from ``offset`` on, and where the next one begins. Raises FileNotFoundError."""
    with open(path, "rb") as file:
        file.seek(offset)
        data = memoryview(file.read())
    found = []
    at = 0
    while at + HEADER.size <= len(data):
        magic, kind, _, version, lost, number, size, since, until = HEADER.unpack_from(data, at)
        end = at + HEADER.size + size
        if magic != MAGIC or end > len(data):
            break
        found.append(Chunk(kind, version, lost, number, since, until, data[at + HEADER.size : end]))
        at = end
    return found, offset + at


def names(payload: memoryview) -> Iterator[tuple[int, int, str]]:
    """Space, key and text of each entry of a NAMES chunk."""
    at = 0
    while at + NAME.size <= len(payload):
        space, _, size, key = NAME.unpack_from(payload, at)
        at += NAME.size
        yield space, key, bytes(payload[at : at + size]).decode("utf-8", "replace")
        at += size


def name_entry(space: int, key: int, text: bytes) -> bytes:
    return NAME.pack(space, 0, len(text), key) + text
