"""How much of what a worker prints is kept: its newest bytes, ``worker_log_bytes_max`` of each stream.

The oldest part of a file that has become longer is given back to the disk, in whole lines, as a hole: where a line lies
its file never changes, so what was recorded of it stays true, and the worker goes on writing and notices nothing.
What is gone is counted and told (``output_dropped``), and readers begin where the file does.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

#: From linux/falloc.h.
_KEEP_SIZE, _PUNCH_HOLE = 1, 2
#: A hole is made for a quarter of what is kept, so that it is rarely done.
_SLACK = 4
_LINE_BYTES_MAX = 1 << 20
_BLOCK = 1 << 16
_NAME = re.compile(r"worker-([0-9a-f]{16})\.(out|err)")

log = logging.getLogger("obsray.collector")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def missing(count: int) -> str:
    """What stands in the place of what was given back."""
    return f"[obsray: {count} bytes before this are not kept (worker_log_bytes_max)]"


class Dropped(NamedTuple):
    """``stream`` (out, err) of ``worker`` (hex) now begins at ``first_byte``, ``size`` bytes later than before."""

    worker: str
    stream: str
    first_byte: int
    size: int


def first_byte(descriptor: int) -> int:
    """Where an open file begins: behind what was given back."""
    try:
        at = os.lseek(descriptor, 0, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:  # no data at all
            return os.fstat(descriptor).st_size
        return 0
    if not at:
        # Nothing was given back, or less than a block of the disk.
        return _behind_zeros(descriptor, 0) if os.pread(descriptor, 1, 0) == b"\0" else 0
    return _behind_zeros(descriptor, at)


def _behind_zeros(descriptor: int, at: int) -> int:
    while block := os.pread(descriptor, _BLOCK, at):
        rest = block.lstrip(b"\0")
        if rest:
            return at + len(block) - len(rest)
        at += len(block)
    return at


class LogBounds:
    """Keeps the files of the workers in ``directory`` below ``bytes_max`` each; 0: there is no bound."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory, self._bytes_max = directory, bytes_max
        self._first: dict[str, int] = {}
        self._unable = False

    def look(self) -> Iterator[Dropped]:
        """Give back what is too much; what was."""
        if not self._bytes_max or self._unable:
            return
        try:
            entries = [entry for entry in os.scandir(self._directory) if _NAME.fullmatch(entry.name)]
        except OSError:
            return
        for entry in entries:
            try:
                size = entry.stat(follow_symlinks=False).st_size
                if size - self._first.get(entry.name, 0) > self._bytes_max + self._bytes_max // _SLACK:
                    yield from self._cut(entry, size)
            except OSError as error:
                if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
                    self._unable = True
                    log.warning("the output of workers is kept in full: this file system makes no holes (%s)", error)
                    return

    def _cut(self, entry: os.DirEntry[str], size: int) -> Iterator[Dropped]:
        descriptor = os.open(entry.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            before = first_byte(descriptor)
            until = size - self._bytes_max
            self._first[entry.name] = before
            if until <= before:
                return
            end = os.pread(descriptor, _LINE_BYTES_MAX, until).find(b"\n")
            until += end + 1 if end >= 0 else 0
            if _libc.fallocate(descriptor, _KEEP_SIZE | _PUNCH_HOLE, before, until - before):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
        finally:
            os.close(descriptor)
        self._first[entry.name] = until
        worker, stream = entry.name.removeprefix("worker-").split(".")
        yield Dropped(worker, stream, until, until - before)
