"""How much of what a worker, or the command of a submitted job, prints is kept: its newest bytes,
``worker_log_bytes_max`` of each stream.

The oldest part of a file that has become longer is given back to the disk, in whole lines, as a hole: where a line lies
its file never changes, so what was recorded of it stays true, and the worker goes on writing and notices nothing.
What is gone is counted and told (``output_dropped``, ``job_output_dropped``), and readers begin where the file does.
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
_WORKER = re.compile(r"worker-([0-9a-f]{16})\.(out|err)")
_JOB = re.compile(r"job-driver-(.+)\.log")

log = logging.getLogger("obsray.collector")
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


def missing(count: int) -> str:
    """What stands in the place of what was given back."""
    return f"[obsray: {count} bytes before this are not kept (worker_log_bytes_max)]"


def is_bounded(name: str) -> bool:
    """Whether the beginning of a file of this name may be given back."""
    return bool(_WORKER.fullmatch(name) or _JOB.fullmatch(name))


class Dropped(NamedTuple):
    """What a worker (hex) wrote to a stream (out, err), or a job (its submission id; no stream) printed, now begins at
    ``first_byte``, ``size`` bytes later than before."""

    whose: str
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
    """Keeps files of workers and jobs in ``directory`` below ``bytes_max`` each; 0: there is no bound."""

    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory, self._bytes_max = directory, bytes_max
        self._first: dict[str, int] = {}
        self._unable = False

    def look(self) -> Iterator[Dropped]:
        """Give back what is too much; what was."""
        if not self._bytes_max or self._unable:
            return
        try:
            entries = [entry for entry in os.scandir(self._directory) if is_bounded(entry.name)]
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
                    log.warning(
                        "the output of workers and jobs is kept in full: this file system makes no holes (%s)", error
                    )
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
        worker, job = _WORKER.fullmatch(entry.name), _JOB.fullmatch(entry.name)
        whose, stream = (worker[1], worker[2]) if worker else (job[1] if job else "", "")
        yield Dropped(whose, stream, until, until - before)
