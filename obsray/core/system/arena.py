"""The object arena: one piece of anonymous shared memory that all processes of a node map.

The node creates it (``memfd``: no name anywhere, gone with the last process) and hands its descriptor to clients.
Its size is fixed and sealed, so nobody can shrink it under a reader. Pages are reserved with ``posix_fallocate``
before anybody is told to write to them: a machine without memory answers ENOSPC there, never SIGBUS in user code.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

_SEALS = 0x0001 | 0x0002 | 0x0004  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW


class Arena:
    """``size_bytes`` of shared memory behind descriptor ``fd``. Mapped on first use."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        self.fd = fd
        self.size_bytes = size_bytes
        self._mapping: mmap.mmap | None = None
        self._view: memoryview | None = None

    @classmethod
    def create(cls, size_bytes: int) -> Arena:
        """A new arena; takes no memory until ``reserve``. Raises OSError if the kernel refuses."""
        fd = os.memfd_create("obsray-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size_bytes)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except OSError:
            os.close(fd)
            raise
        return cls(fd, size_bytes)

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
