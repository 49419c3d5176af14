"""The object arena: one piece of anonymous shared memory that all processes of a node map.

The node creates it (``memfd``: no name anywhere, gone with the last process) and hands its descriptor to clients.
Its size is fixed and sealed, so nobody can shrink it under a reader. Pages are reserved with ``posix_fallocate``
before anybody is told to write to them: a machine without memory answers ENOSPC there, never SIGBUS in user code.

What it has no room for lies in a file each (``spill.py``) and is told by an offset beyond the arena.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from dataclasses import dataclass
from pathlib import Path

from obsray.core.protocol.fallback import FALLBACK, HEADER_BYTES, file_name
from obsray.core.system.spill import map_file

_SEALS = 0x0001 | 0x0002 | 0x0004  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW


@dataclass(slots=True)
class Place:
    """Where an object lies: ``view`` of its bytes, which begin at ``start`` of the file behind ``fd``; ``own``: a file
    of its own."""

    fd: int
    start: int
    view: memoryview
    own: bool = False

    def close(self) -> None:
        """Let go of its file; the mapping goes with the last view."""
        if self.own:
            os.close(self.fd)


class Arena:
    """``size_bytes`` of shared memory behind descriptor ``fd``. Mapped on first use. ``files``: the directory of what
    has no room in it."""

    def __init__(self, fd: int, size_bytes: int, files: Path) -> None:
        self.fd = fd
        self.size_bytes = size_bytes
        self.files = files
        self._mapping: mmap.mmap | None = None
        self._view: memoryview | None = None

    @classmethod
    def create(cls, size_bytes: int, files: Path) -> Arena:
        """A new arena; takes no memory until ``reserve``. Raises OSError if the kernel refuses."""
        fd = os.memfd_create("obsray-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size_bytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except OSError:
            os.close(fd)
            raise
        return cls(fd, size_bytes, files)

    def reserve(self, start: int, end: int) -> None:
        """Make the pages of ``[start, end)`` exist. Takes about 0.5 ms per MiB the first time; other threads go on.

        Raises OSError (ENOSPC, ENOMEM) if the machine has no room for them.
        """
        os.posix_fallocate(self.fd, start, min(end, self.size_bytes) - start)

    def view(self, offset: int, size: int) -> memoryview:
        """The bytes of one object, writable and without a copy. Raises ValueError outside the arena."""
        if offset < 0 or size < 0 or offset + size > self.size_bytes:
            raise ValueError(f"[{offset}, {offset + size}) is outside an arena of {self.size_bytes} bytes")
        if self._view is None:
            self._mapping = mmap.mmap(self.fd, self.size_bytes)
            self._view = memoryview(self._mapping)
        return self._view[offset : offset + size]

    def place(self, object_id: bytes, offset: int, size: int) -> Place:
        """An object, in the arena or in its file; to be closed. Raises OSError if the file cannot be opened."""
        if offset < FALLBACK:
            return Place(self.fd, offset, self.view(offset, size))
        path = str(self.files / file_name(object_id, offset))
        view = memoryview(map_file(path, size, writable=True))[HEADER_BYTES:]
        return Place(os.open(path, os.O_RDONLY | os.O_CLOEXEC), HEADER_BYTES, view, own=True)

    def close(self) -> None:
        """Unmap, if no view is in use any more, and close the descriptor."""
        if self._view is not None and self._mapping is not None:
            try:
                self._view.release()
                self._mapping.close()
            except BufferError:
                # Somebody still reads through a view; the mapping goes when that view does.
                pass
        try:
            os.close(self.fd)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
