"""Stored telemetry: Arrow streams that grow, Parquet files that do not, and the catalog that says what is valid.

::

    telemetry/
      manifest.json            everything known at generation G: files, rings, what was folded away
      commits-<G>.jsonl        one line per flush since then: only what changed
      live/<event>.<n>.arrows  Arrow IPC stream (lz4), appended to, one per kind of event
      <event>.<n>.parquet      a stream that became large, compacted
      aggregates.json          sums of what retention has deleted
    folded                     what a reader keeps for the next one (``snapshots.py``); counted, and the first to go

Nothing is valid before its commit: a flush writes batches to the streams first and then one line to the commits, so a
writer killed at any moment leaves at worst bytes that nobody looks at, and the records are still in the rings. Rows
of a kind are numbered; a file covers ``[first_row, first_row + rows)``, so a reader goes on where it was even if a
stream was compacted meanwhile. Files are replaced by writing beside them and renaming.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from obsray.telemetry.aggregates import Aggregates
from obsray.telemetry.columns import SCHEMAS, Batch, Columns, Texts, concat, from_arrow, to_arrow
from obsray.telemetry.events import BY_NAME
from obsray.telemetry.rings import RingState

#: A stream of this size is compacted to Parquet.
STREAM_BYTES_MAX = 16 << 20
#: And one of this share of what the session may keep, since only whole files that are not the newest of their kind go.
_STREAM_SHARE = 16
#: What readers keep, beside ``telemetry/``.
SNAPSHOT = "folded"
#: The commits are folded into a new manifest when they are this long.
COMMITS_BYTES_MAX = 1 << 20
#: So many batches are read before they are asked for, of files of at least so many rows.
_AHEAD_BATCHES = 2
AHEAD_ROWS_MIN = 100_000
#: Batches are small: waking Arrow's threads costs several times what compressing in this one does.
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)
#: A batch is some dozens of small pieces, written at once.
_SINK_BYTES = 1 << 14


@dataclass(slots=True)
class FileEntry:
    """One file of one kind. ``batches`` is how many batches of a stream are valid; ``rings`` holds, once the file is
    in a manifest, the first and last sequence of every ring in it."""

    name: str
    format: str
    first_row: int
    rows: int = 0
    batches: int = 0
    bytes: int = 0
    min_ns: int = 0
    max_ns: int = 0
    rings: dict[str, list[int]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Its fields, for the manifest."""
        return {**self.valid(), "rings": self.rings}

    def valid(self) -> dict[str, Any]:
        """Its fields without ``rings``, for a commit: those are only in manifests."""
        return {
            "name": self.name, "format": self.format, "first_row": self.first_row, "rows": self.rows,
            "batches": self.batches, "bytes": self.bytes, "min_ns": self.min_ns, "max_ns": self.max_ns, "rings": {},
        }  # fmt: skip

    def add(self, columns: Columns) -> None:
        times = columns["time_ns"]
        low, high = int(times.min()), int(times.max())
        self.min_ns = low if not self.rows else min(self.min_ns, low)
        self.max_ns = max(self.max_ns, high)
        self.rows += len(columns)
        self.batches += 1
        process, sequence = columns["process"].view("<u8"), columns["sequence"]
        starts = np.concatenate([[0], np.flatnonzero(process[1:] != process[:-1]) + 1])
        lows, highs = np.minimum.reduceat(sequence, starts), np.maximum.reduceat(sequence, starts)
        for start, first, last in zip(starts, lows, highs, strict=True):
            ring = columns["process"][start].tobytes().hex()
            known = self.rings.get(ring)
            self.rings[ring] = (
                [min(known[0], int(first)), max(known[1], int(last))] if known else [int(first), int(last)]
            )


class Catalog:
    """What is stored, as of the last ``refresh``: files by event name, the ledger of every ring."""

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self.generation = -1
        self.files: dict[str, list[FileEntry]] = {}
        self.rings: dict[str, RingState] = {}
        self.folded_rows = 0
        self.folded_bytes = 0
        #: What the writer was told to stay below; 0: nobody has said so.
        self.bytes_max = 0
        self.finished = False
        self._stamp: tuple[int, int] = (0, 0)
        self._offset = 0

    def refresh(self) -> bool:
        """Read what was committed since; True if anything was."""
        for _ in range(5):
            changed = self._load_manifest()
            try:
                return self._read_commits() or changed
            except FileNotFoundError:
                if self._stamp == self._stamp_now():
                    return changed
        return True

    def position(self, process: bytes) -> int:
        """Up to which sequence the records of a ring are stored."""
        state = self.rings.get(process.hex())
        return state.position if state is not None else 0

    def stored(self) -> dict[str, int]:
        """How many rows of each kind were stored so far, those that were deleted included."""
        return {event: entries[-1].first_row + entries[-1].rows for event, entries in self.files.items() if entries}

    @property
    def rows(self) -> int:
        return sum(self.stored().values())

    @property
    def bytes(self) -> int:
        return sum(entry.bytes for entries in self.files.values() for entry in entries)

    def to_json(self) -> dict[str, Any]:
        return {
            "version": 1,
            "generation": self.generation,
            "finished": self.finished,
            "folded_rows": self.folded_rows,
            "folded_bytes": self.folded_bytes,
            "bytes_max": self.bytes_max,
            "files": {event: [entry.to_json() for entry in entries] for event, entries in self.files.items()},
            "rings": {process: state.to_json() for process, state in self.rings.items()},
        }

    def _stamp_now(self) -> tuple[int, int]:
        try:
            found = os.stat(self.directory / "manifest.json")
        except FileNotFoundError:
            return (0, 0)
        return (found.st_ino, found.st_mtime_ns)

    def _load_manifest(self) -> bool:
        stamp = self._stamp_now()
        if stamp == self._stamp:
            return False
        values = json.loads((self.directory / "manifest.json").read_bytes())
        self._stamp = stamp
        if values["generation"] == self.generation and values["finished"] == self.finished:
            return False
        self.generation = values["generation"]
        self.finished = values["finished"]
        self.folded_rows, self.folded_bytes = values["folded_rows"], values["folded_bytes"]
        self.bytes_max = values.get("bytes_max", 0)
        self.files = {event: [FileEntry(**entry) for entry in entries] for event, entries in values["files"].items()}
        self.rings = {process: RingState.from_json(process, state) for process, state in values["rings"].items()}
        self._offset = 0
        return True

    def _read_commits(self) -> bool:
        with open(self.directory / f"commits-{self.generation}.jsonl", "rb") as file:
            file.seek(self._offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        for line in data[:end].splitlines():
            commit = json.loads(line)
            for event, values in commit["files"].items():
                entries = self.files.setdefault(event, [])
                entry = FileEntry(**values)
                if entries and entries[-1].name == entry.name:
                    entries[-1] = entry
                else:
                    entries.append(entry)
            for process, state in commit["rings"].items():
                self.rings[process] = RingState.from_json(process, state)
        self._offset += end
        return end > 0


class _Stream:
    """One growing Arrow stream."""

    def __init__(self, directory: Path, event: str, entry: FileEntry) -> None:
        self.entry = entry
        (directory / "live").mkdir(exist_ok=True)
        self._sink = pa.BufferedOutputStream(pa.OSFile(str(directory / entry.name), "wb"), _SINK_BYTES)
        self._writer = pa.ipc.new_stream(self._sink, SCHEMAS[event], options=_OPTIONS)

    def write(self, columns: Columns, texts: Texts) -> None:
        self._writer.write_batch(to_arrow(columns, texts))
        self._sink.flush()
        self.entry.add(columns)
        self.entry.bytes = self._sink.tell()

    def close(self) -> None:
        try:
            self._writer.close()
        finally:
            # Otherwise what is left would be written when this is collected, behind the back of a later writer.
            self._sink.close()


class SegmentWriter:
    """Stores batches under ``directory`` (``<session>/telemetry``). One writer at a time.

    Goes on after what an earlier writer committed. Raises OSError if the disk is full; nothing is lost then, since
    what was not committed is still in the rings.
    """

    def __init__(self, directory: Path, texts: Texts, bytes_max: int) -> None:
        self.directory = Path(directory)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.texts = texts
        self.bytes_max = bytes_max
        self.catalog = Catalog(self.directory)
        self.catalog.refresh()
        self.catalog.bytes_max = bytes_max
        self._stream_bytes_max = min(STREAM_BYTES_MAX, bytes_max // _STREAM_SHARE)
        self.rows_pending = 0
        self._pending: dict[str, list[Columns]] = {}
        self._streams: dict[str, _Stream] = {}
        self._commits = -1
        self._commit_bytes = self._manifest_bytes = 0
        #: Files that nothing names any more once the next manifest is written.
        self._doomed: list[str] = []
        self._committed: dict[str, RingState] = dict(self.catalog.rings)
        self._number = 1 + max(
            (int(entry.name.rsplit(".", 2)[1]) for entries in self.catalog.files.values() for entry in entries),
            default=-1,
        )
        try:
            self.write_manifest()
        except OSError:
            pass  # the first flush tries it again, and says so if there still is no room

    def append(self, batch: Batch) -> None:
        """Take a batch; it is stored by the next ``flush``."""
        for event, columns in batch.items():
            self._pending.setdefault(event, []).append(columns)
            self.rows_pending += len(columns)

    def flush(self, rings: Iterable[RingState]) -> int:
        """Store what was taken and commit it together with how far each ring is read. Returns bytes written.

        After an OSError nothing of this flush counts, and what was taken is still to be stored.
        """
        if self._commits < 0:
            self.write_manifest()
        before = {
            event: replace(stream.entry, rings=dict(stream.entry.rings)) if event in self._pending else stream.entry
            for event, stream in self._streams.items()
        }
        try:
            changed, written = self._write_pending()
        except OSError:
            self._take_back(before)
            raise
        moved = {}
        for state in rings:
            process = state.process.hex()
            known = self._committed.get(process)
            if known is None or known.position != state.position or known.closed != state.closed:
                moved[process] = RingState.from_json(process, state.to_json())
        if changed or moved:
            try:
                self._commit(changed, {process: state.to_json() for process, state in moved.items()})
            except OSError:
                self._take_back(before)
                raise
        self._committed.update(moved)
        self.catalog.rings.update(moved)
        self._pending.clear()
        self.rows_pending = 0
        if self._commit_bytes > min(COMMITS_BYTES_MAX, self._stream_bytes_max):
            self.write_manifest()
        return written

    def _commit(self, files: dict[str, Any], rings: dict[str, Any]) -> None:
        """Make it so: one line. Raises OSError if it does not fit; then nothing of it is there."""
        line = json.dumps({"files": files, "rings": rings}, separators=(",", ":")).encode() + b"\n"
        try:
            written = os.write(self._commits, line)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            # Half a line would spoil the next one.
            os.ftruncate(self._commits, self._commit_bytes)
            raise
        self._commit_bytes += len(line)

    def _write_pending(self) -> tuple[dict[str, Any], int]:
        changed: dict[str, Any] = {}
        written = 0
        for event, parts in self._pending.items():
            stream = self._streams.get(event) or self._open(event)
            size = stream.entry.bytes
            stream.write(concat(parts), self.texts)
            written += stream.entry.bytes - size
            changed[event] = stream.entry.valid()
        return changed, written

    def _take_back(self, before: dict[str, FileEntry]) -> None:
        """A flush failed half way: what it wrote is not valid, and takes no room. Later flushes go to new files."""
        for event, stream in self._streams.items():
            entries = self.catalog.files[event]
            path = self.directory / stream.entry.name
            try:
                stream.close()
            except OSError:
                pass  # nothing behind the last commit is read
            if event in before:
                entries[-1] = before[event]
                os.truncate(path, entries[-1].bytes)
            else:
                entries.pop()
                path.unlink(missing_ok=True)
        self._streams.clear()

    def compact(self) -> bool:
        """Turn one large stream into Parquet and keep within ``bytes_max``; True if there was something to do.
        Call right after ``flush``."""
        self._drop_snapshot()
        for event, entries in self.catalog.files.items():
            for index, entry in enumerate(entries):
                if entry.format != "stream" or entry.bytes < self._stream_bytes_max:
                    continue
                stream = self._streams.get(event)
                if stream is not None and stream.entry.name == entry.name:
                    del self._streams[event]
                    stream.close()
                entries[index] = _to_parquet(self.directory, event, entry)
                self._doomed.append(entry.name)
                self.write_manifest()
                self._fold_away()
                return True
        return self._fold_away()

    def close(self, rings: Iterable[RingState]) -> None:
        """Store what is left and write the last manifest."""
        self.flush(rings)
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        with contextlib.suppress(OSError):  # everything is stored; it only takes more room than it might
            self._fold_away()
        self.catalog.finished = True
        self.write_manifest()
        self._drop_snapshot()
        os.close(self._commits)
        self._commits = -1

    def write_manifest(self) -> None:
        """Begin a new generation: one file that says everything, and an empty list of commits.

        Raises OSError if there is no room for it; then the generation before goes on."""
        catalog = self.catalog
        before = catalog.generation
        temporary = self.directory / "manifest.json.new"
        try:
            text = json.dumps({**catalog.to_json(), "generation": before + 1}, separators=(",", ":"))
            self._manifest_bytes = temporary.write_text(text)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        commits = os.open(
            self.directory / f"commits-{before + 1}.jsonl",
            os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC,
            0o600,
        )
        if self._commits >= 0:
            os.close(self._commits)
        self._commits, self._commit_bytes = commits, 0
        catalog.generation = before + 1
        temporary.rename(self.directory / "manifest.json")
        for name in (f"commits-{before}.jsonl", *self._doomed):
            (self.directory / name).unlink(missing_ok=True)
        self._doomed.clear()

    def _open(self, event: str) -> _Stream:
        entries = self.catalog.files.setdefault(event, [])
        first = entries[-1].first_row + entries[-1].rows if entries else 0
        entry = FileEntry(f"live/{event}.{self._number:06d}.arrows", "stream", first)
        self._number += 1
        stream = self._streams[event] = _Stream(self.directory, event, entry)
        entries.append(entry)
        return stream

    @property
    def _bytes(self) -> int:
        return self.catalog.bytes + self._manifest_bytes + self._commit_bytes

    def _fold_away(self) -> bool:
        """Delete the oldest Parquet files beyond ``bytes_max``; the manifest counts what they held, and the sums of it
        stay. False if there was nothing to delete."""
        excess = self._bytes - self.bytes_max
        if excess <= 0:
            return False
        catalog = self.catalog
        found = [
            (event, entry)
            for event, entries in catalog.files.items()
            for entry in entries[:-1]
            if entry.format == "parquet"
        ]
        gone: list[tuple[str, FileEntry]] = []
        for event, entry in sorted(found, key=lambda each: (each[1].max_ns, each[0])):
            if excess <= 0:
                break
            gone.append((event, entry))
            excess -= entry.bytes
        if not gone:
            return False
        self._keep_sums(gone)
        for event, entry in gone:
            catalog.files[event].remove(entry)
            catalog.folded_rows += entry.rows
            catalog.folded_bytes += entry.bytes
            self._doomed.append(entry.name)
        self.write_manifest()
        return True

    def _drop_snapshot(self) -> None:
        """What readers keep can be made again: it goes before any record does."""
        snapshot = self.directory.parent / SNAPSHOT
        with contextlib.suppress(OSError):
            if self._bytes + snapshot.stat().st_size > self.bytes_max:
                snapshot.unlink()

    def _keep_sums(self, gone: list[tuple[str, FileEntry]]) -> None:
        """Of what is about to be deleted the sums stay."""
        sums = Aggregates(self.directory)
        for event, entry in gone:
            read = read_batches(self.directory, entry, use_threads=False)
            batches = (from_arrow(batch, BY_NAME[event], self.texts) for batch in read)
            sums.add(entry.name, event, batches, self.texts)
        sums.write()
        _give_memory_back()


def _to_parquet(directory: Path, event: str, entry: FileEntry) -> FileEntry:
    # Parquet is imported where it is used: most sessions never grow to need it, and it costs 10 MB.
    import pyarrow.parquet as pq

    table = pa.Table.from_batches(list(read_batches(directory, entry)), SCHEMAS[event])
    table = table.unify_dictionaries()
    texts = [name.name for name in table.schema if pa.types.is_dictionary(name.type)]
    instants = ["time_ns", "sequence", *(name for name in table.schema.names if name.endswith("_at"))]
    name = entry.name.removeprefix("live/").replace(".arrows", ".parquet")
    temporary = directory / f"{name}.new"
    try:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=1,
            use_dictionary=["process", *texts],
            column_encoding=dict.fromkeys(instants, "DELTA_BINARY_PACKED"),
            # What rows are looked for by; the others would be computed for nobody.
            write_statistics=[*instants, *texts],
            row_group_size=131_072,
        )
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    temporary.rename(directory / name)
    del table
    _give_memory_back()
    return FileEntry(
        name, "parquet", entry.first_row, entry.rows, 0, (directory / name).stat().st_size, entry.min_ns, entry.max_ns,
        entry.rings,
    )  # fmt: skip


def _give_memory_back() -> None:
    """Whole files in memory are the most that this process ever needs, and seldom: the allocator would keep that."""
    pa.default_memory_pool().release_unused()


def read_batches(
    directory: Path, entry: FileEntry, columns: list[str] | None = None, use_threads: bool = True
) -> Iterator[pa.RecordBatch]:
    """The valid batches of one file, oldest first; what lies behind the last commit is not looked at. ``use_threads``:
    several columns of Parquet at once, which is faster and leaves each thread with memory of its own.

    Raises FileNotFoundError if the file was replaced meanwhile: refresh the catalog and ask again.
    """
    path = directory / entry.name
    if entry.format == "parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(131_072, columns=columns, use_threads=use_threads)
        return
    with pa.OSFile(str(path), "rb") as source:
        options = pa.ipc.IpcReadOptions()
        if columns is not None:  # the others are then not even decompressed
            names = pa.ipc.open_stream(pa.OSFile(str(path), "rb")).schema.names
            options.included_fields = [names.index(name) for name in columns if name in names]
        reader = pa.ipc.open_stream(source, options=options)
        for _ in range(entry.batches):
            yield reader.read_next_batch()


def ahead(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same batches, each read while the one before it is looked at: reading needs the interpreter for little of it.

    What is not taken to its end is still read to its end.
    """
    read: queue.SimpleQueue[pa.RecordBatch | BaseException | None] = queue.SimpleQueue()
    room = threading.Semaphore(_AHEAD_BATCHES)

    def run() -> None:
        try:
            for batch in batches:
                read.put(batch)
                room.acquire()
            read.put(None)
        except BaseException as error:
            read.put(error)

    thread = threading.Thread(target=run, name="obsray-ahead", daemon=True)
    thread.start()
    try:
        while (found := read.get()) is not None:
            if isinstance(found, BaseException):
                raise found
            room.release()
            yield found
    finally:
        # Whoever stops early lets it run to its end: nothing is read by two at once.
        while thread.is_alive():
            room.release()
            thread.join(0.001)


class StreamTail:
    """Follows one growing stream: each call gives the batches that were committed since the last one."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self._source = pa.OSFile(str(directory / name), "rb")
        self._reader = pa.ipc.open_stream(self._source)
        self._batches = 0

    def read(self, entry: FileEntry) -> Iterator[pa.RecordBatch]:
        while self._batches < entry.batches:
            self._batches += 1
            yield self._reader.read_next_batch()

    def close(self) -> None:
        self._source.close()
