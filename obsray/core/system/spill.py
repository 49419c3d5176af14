"""Files of spilled objects: header, bytes, checksum. A file exists under its name only if it is complete."""

from __future__ import annotations

import os
import zlib
from struct import Struct

_MAGIC = b"OBSSPIL\x01"
_HEADER = Struct("<8s20sQI24x")
_CHUNK_BYTES = 4 << 20


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


def read_object(path: str, object_id: bytes, view: memoryview) -> None:
    """Read an object back into ``view``, which has its size. Raises OSError, or Damaged if the file is not intact."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        header = os.read(fd, _HEADER.size)
        if len(header) != _HEADER.size:
            raise Damaged("the file is shorter than its header")
        magic, found, size, checksum = _HEADER.unpack(header)
        if magic != _MAGIC or found != object_id or size != len(view):
            raise Damaged("the file is not that of this object")
        actual = 0
        for start in range(0, size, _CHUNK_BYTES):
            chunk = view[start : start + _CHUNK_BYTES]
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
