"""The object store as a client sees it: one mapping of the node's arena, one of each file that a value has instead of
room there, views that pin what they show.

A view of a stored object is a read-only numpy array over such a mapping; everything deserialized from it (arrays, Arrow
buffers) keeps the view alive, and only when the last of them is gone does the node hear that the object may move.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque
from pathlib import Path
from typing import Any

from obsray.core.protocol.fallback import FALLBACK, HEADER_BYTES, Gone, file_name
from obsray.core.runtime.serialization import Serialized
from obsray.core.system.spill import map_file

#: Page tables are filled in pieces of this size by one call each, the first time this process writes there,
#: instead of by a fault per page; the arena never gives pages back, so once is enough.
PIECE_BYTES = 1 << 20
_MADV_POPULATE_WRITE = 23


class Arena:
    """The node's shared memory, mapped into this process. ``files``: the directory of what has no room in it."""

    def __init__(self, fd: int, size: int, files: Path) -> None:
        self.size = size
        self._files = files
        self._mapping = mmap.mmap(fd, size) if size else None
        os.close(fd)
        #: One byte for each piece: whether this process has its page tables.
        self._populated = bytearray(-(-size // PIECE_BYTES))
        #: object id -> weak reference to its view.
        self._views: dict[bytes, weakref.ref[Any]] = {}
        #: Ids of objects whose last view is gone; appended to by the garbage collector from any thread.
        self.unpinned: deque[bytes] = deque()

    def write(self, identifier: bytes, offset: int, serialized: Serialized) -> None:
        """Write a value into the room the node gave for it. Raises OSError if that is a file and cannot be opened."""
        if offset >= FALLBACK:
            with (
                self._map(identifier, offset, serialized.size, writable=True) as mapping,
                memoryview(mapping)[HEADER_BYTES:] as target,
            ):
                serialized.write_into(target)
            return
        assert self._mapping is not None
        if serialized.size >= PIECE_BYTES:
            self._populate(offset, offset + serialized.size)
        with memoryview(self._mapping)[offset : offset + serialized.size] as target:
            serialized.write_into(target)

    def _map(self, identifier: bytes, offset: int, size: int, writable: bool = False) -> mmap.mmap:
        return map_file(str(self._files / file_name(identifier, offset)), size, writable)

    def _populate(self, start: int, end: int) -> None:
        assert self._mapping is not None
        first, last = start // PIECE_BYTES, end // PIECE_BYTES
        if self._populated.find(0, first, last) < 0:
            return
        begin = first * PIECE_BYTES
        length = min(last * PIECE_BYTES, self.size) - begin
        try:
            self._mapping.madvise(_MADV_POPULATE_WRITE, begin, length)
        except OSError:
            # An older kernel, or pages of a neighbour that are not reserved yet: they are faulted in one by one.
            return
        self._populated[first:last] = b"\x01" * (last - first)

    def view(self, identifier: bytes) -> memoryview | None:
        """The view of an object this process has pinned already, if one is alive."""
        reference = self._views.get(identifier)
        base = reference() if reference is not None else None
        return None if base is None else memoryview(base)

    def open(self, identifier: bytes, offset: int, size: int) -> memoryview:
        """A view of an object that the node has just pinned for this process at ``offset``. Raises OSError if that is
        a file and cannot be opened; then the pin is given back, unless it is Gone, which the node is to be told."""
        import numpy

        if offset >= FALLBACK:
            try:
                base = numpy.frombuffer(self._map(identifier, offset, size), numpy.uint8, size, HEADER_BYTES)
            except Gone:
                raise
            except OSError:
                self.unpinned.append(identifier)
                raise
        else:
            assert self._mapping is not None
            base = numpy.frombuffer(self._mapping, numpy.uint8, size, offset)
        base.flags.writeable = False
        views, unpinned = self._views, self.unpinned

        def gone(reference: weakref.ref[Any]) -> None:
            if views.get(identifier) is reference:
                del views[identifier]
            unpinned.append(identifier)

        views[identifier] = weakref.ref(base, gone)
        return base.data
