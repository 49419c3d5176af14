"""What stored files say, kept for whoever asks again: pages that look at a kind every few seconds read a file once.

Kept are columns as they are stored, of the files used last, up to ``bytes_max``. A file that grows is followed: only
what was added is read. Files are known by their names, which are never used twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from obsray.telemetry.columns import Columns, Texts, from_arrow
from obsray.telemetry.events import Event
from obsray.telemetry.segments import FileEntry, StreamTail, read_batches

BYTES_MAX = 128 << 20


class DecodedFiles:
    """Columns of files below one directory. Not for several threads at once."""

    def __init__(self, directory: Path, texts: Texts, bytes_max: int = BYTES_MAX) -> None:
        self._directory, self._texts, self._bytes_max = directory, texts, bytes_max
        self._kept: dict[str, _File] = {}
        self.bytes = 0
        #: How many batches were read from files: for tests.
        self.batches_read = 0

    def read(self, event: Event, entry: FileEntry) -> Iterator[Columns]:
        """The valid rows of a file, in batches. Raises FileNotFoundError if it was replaced meanwhile."""
        kept = self._kept.pop(entry.name, None)
        if kept is not None:
            # The one used last is the last one to go.
            self._kept[entry.name] = kept
            yield from list(kept.batches)
            if kept.tail is None:
                return
        else:
            kept = _File(StreamTail(self._directory, entry.name) if entry.format == "stream" else None)
            self._kept[entry.name] = kept
        try:
            batches = kept.tail.read(entry) if kept.tail is not None else read_batches(self._directory, entry)
            for batch in batches:
                self.batches_read += 1
                columns = from_arrow(batch, event, self._texts)
                self._keep(entry.name, kept, columns)
                yield columns
        except BaseException:
            # Half of it is no file: it is read anew.
            self._forget(entry.name)
            raise

    def _keep(self, name: str, kept: _File, columns: Columns) -> None:
        if self._kept.get(name) is not kept:
            return  # too much for what may be kept
        size = sum(values.nbytes for values in columns.arrays.values())
        kept.batches.append(columns)
        kept.bytes += size
        self.bytes += size
        while self.bytes > self._bytes_max:
            self._forget(next(iter(self._kept)))

    def _forget(self, name: str) -> None:
        kept = self._kept.pop(name, None)
        if kept is not None:
            self.bytes -= kept.bytes

    def prune(self, names: set[str]) -> None:
        """Forget files that are not among ``names``: nobody will ask for them any more."""
        for name in [name for name in self._kept if name not in names]:
            self._forget(name)


class _File:
    """What is kept of one file; ``tail`` reads on where it grows."""

    def __init__(self, tail: StreamTail | None) -> None:
        self.tail = tail
        self.batches: list[Columns] = []
        self.bytes = 0
