"""Files of objects. A spilled one has a header with a checksum and exists under its name only if it is complete; one
that an object is written to in place, for want of room in the arena, has room for a header and none in it."""

from __future__ import annotations

import mmap
import os
import zlib
from struct import Struct

from obsray.core.protocol.fallback import HEADER_BYTES, Gone

_MAGIC = b"OBSSPIL\x01"
_HEADER = Struct("<8s20sQI24x")
_CHUNK_BYTES = 4 << 20
assert _HEADER.size == HEADER_BYTES


class Damaged(ValueError):
    """The file is not what was written: wrong object, wrong length or wrong checksum."""


def write_object(path: str, object_id: bytes, view: memoryview) -> None:
    """Store an object. Raises OSError; then no file is left behind."""
    temporary = f"{path}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        try:
            # A full disk is found out before the first byte is written.
            os.posix_fallocate(fd, 0, _HEADER.size + len(view))
            os.lseek(fd, _HEADER.size, os.SEEK_SET)
            checksum = 0
            for start in range(0, len(view), _CHUNK_BYTES):
                chunk = view[start : start + _CHUNK_BYTES]
                checksum = zlib.crc32(chunk, checksum)
                while chunk:
                    chunk = chunk[os.write(fd, chunk) :]
            os.pwrite(fd, _HEADER.pack(_MAGIC, object_id, len(view), checksum), 0)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        try:
            os.unlink(temporary)
        except FileNotFoundError:
            pass
        raise


def make_file(path: str, size: int) -> None:
    """Make a file for an object that is written in place. Raises OSError; then no file is left behind.

    All its blocks exist then: whoever writes to it cannot find the disk full, which would be a SIGBUS.
    """
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, HEADER_BYTES + size)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def map_file(path: str, size: int, writable: bool) -> mmap.mmap:
    """The file of an object, mapped; it begins after ``HEADER_BYTES``. Raises OSError, Gone if there is none."""
    try:
        fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise Gone(str(error)) from None
    try:
        if os.fstat(fd).st_size < HEADER_BYTES + size:
            raise Gone(f"{path} is shorter than its object")
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        return mmap.mmap(fd, HEADER_BYTES + size, access=access)
    finally:
        os.close(fd)


def read_object(path: str, object_id: bytes, view: memoryview) -> None:
    """Read an object back into ``view``, which has its size. Raises OSError, or Damaged if the file is not intact."""
    _read(path, object_id, len(view), view)


def check_object(path: str, object_id: bytes, size: int) -> None:
    """See whether an object could be read back. Raises OSError, or Damaged if the file is not intact."""
    _read(path, object_id, size, None)


def _read(path: str, object_id: bytes, size: int, view: memoryview | None) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = os.read(fd, _HEADER.size)
        if len(header) != _HEADER.size:
            raise Damaged("the file is shorter than its header")
        magic, found, stored, checksum = _HEADER.unpack(header)
        if magic != _MAGIC or found != object_id or stored != size:
            raise Damaged("the file is not that of this object")
        actual = 0
        scratch = memoryview(bytearray(0 if view is not None else min(size, _CHUNK_BYTES)))
        for start in range(0, size, _CHUNK_BYTES):
            end = min(start + _CHUNK_BYTES, size)
            chunk = scratch[: end - start] if view is None else view[start:end]
            done = 0
            while done < len(chunk):
                count = os.readv(fd, [chunk[done:]])
                if not count:
                    raise Damaged(f"the file ends after {start + done} of {size} bytes")
                done += count
            actual = zlib.crc32(chunk, actual)
        if actual != checksum:
            raise Damaged(f"checksum {actual:08x}, written with {checksum:08x}")
    finally:
        os.close(fd)
