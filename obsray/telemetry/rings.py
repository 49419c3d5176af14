"""Reading rings: what processes recorded, taken in bulk and only once.

A ``RingReader`` follows the chain of segments of one process and remembers where it stopped. It reads a segment up
to the first record that is not complete; since the sequence is written last, everything before is whole. A hole that
stays (a thread was interrupted between taking a number and writing its record) would hide what follows, so it is
stepped over once its process is dead, or once it has been there for ``HOLE_SECONDS``; it is counted either way.

Missing numbers are of two kinds: ``gaps`` are numbers that were taken and never written, ``dropped`` are those for
which the writer had no segment, because too many were unread or the disk was full. Both are in the loss ledger, those
that a process drops just now too.
"""

from __future__ import annotations

import mmap
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from obsray.telemetry.columns import Array, Batch, Texts, decode
from obsray.telemetry.events import RECORD_BYTES, ProcessKind
from obsray.telemetry.pids import process_alive
from obsray.telemetry.spine import _STRING_ENTRY, HEADER, HEADER_BYTES, MAGIC, SEGMENT_RECORDS, dropping

#: A hole with records behind it is stepped over after this time even while its process lives.
HOLE_SECONDS = 1.0
#: Most records taken from one ring at a time, so that one busy process does not keep the others waiting.
READ_RECORDS_MAX = 4 * SEGMENT_RECORDS
_WINDOW = 256
#: A gap of more than ``_WINDOW`` records, before the end of what a living process writes to, is looked for so often: it
#: takes as many threads stopped half way through a record.
FAR_SECONDS = 30.0


@dataclass(slots=True)
class Segment:
    """One file of a chain, mapped for reading. ``first`` is the number before its first record."""

    path: Path
    number: int
    kind: int
    pid: int
    process: bytes
    node: bytes
    first: int
    opened_at_ns: int
    records: Array
    mapping: mmap.mmap

    @classmethod
    def open(cls, path: Path) -> Segment | None:
        """Map a segment file; None if it is gone or is not one."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            size = os.fstat(fd).st_size
            if size < HEADER_BYTES + RECORD_BYTES:
                return None
            mapping = mmap.mmap(fd, size, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)
        magic, _, kind, pid, process, node, number, _, first, opened_at = HEADER.unpack_from(mapping)
        if magic != MAGIC:
            return None
        count = (size - HEADER_BYTES) // RECORD_BYTES
        records = np.frombuffer(mapping, np.uint8, count * RECORD_BYTES, HEADER_BYTES).reshape(count, RECORD_BYTES)
        return cls(path, number, kind, pid, process, node, first, opened_at, records, mapping)

    @property
    def end(self) -> int:
        """The number of the last record that fits."""
        return self.first + len(self.records)


@dataclass(slots=True)
class Piece:
    """Records taken from one ring: ``records`` (n x RECORD_BYTES) and their absolute ``sequence``."""

    records: Array
    sequence: Array


@dataclass(slots=True)
class RingState:
    """The ledger of one ring. ``position`` is the last number read, missing ones included."""

    process: bytes
    node: bytes = bytes(8)
    kind: int = int(ProcessKind.TOOL)
    pid: int = 0
    opened_at_ns: int = 0
    position: int = 0
    records: int = 0
    gaps: int = 0
    dropped: int = 0
    last_at_ns: int = 0
    closed: bool = False
    #: Of a stream of GPU records: the last chunk of raw ones that was taken.
    chunks: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "node": self.node.hex(), "kind": self.kind, "pid": self.pid, "opened_at_ns": self.opened_at_ns,
            "position": self.position, "records": self.records, "gaps": self.gaps, "dropped": self.dropped,
            "last_at_ns": self.last_at_ns, "closed": self.closed, "chunks": self.chunks,
        }  # fmt: skip

    @classmethod
    def from_json(cls, process: str, values: dict[str, Any]) -> RingState:
        return cls(process=bytes.fromhex(process), **{**values, "node": bytes.fromhex(values["node"])})


@dataclass
class RingReader:
    """The chain of one process, read from where the last read stopped."""

    directory: Path
    state: RingState
    texts: Texts
    missing: bool = False
    codes: Array = field(default_factory=lambda: np.zeros(1, np.int32))
    _string_bytes: int = 0
    _segments: dict[int, Segment] = field(default_factory=dict)
    _expected_number: int | None = None
    _hole: tuple[int, float] | None = None
    _looked_far_at: float = 0.0
    #: Behind which record nothing follows, in all of the last file of a dead process: it is looked through only once.
    _ends_at: int = -1
    _settled: bool = False

    def read(self, paths: list[tuple[int, Path]], dead: bool, limit: int = READ_RECORDS_MAX) -> list[Piece]:
        """The records after ``state.position``. ``paths`` are the chain's files by number, ``dead`` says that no
        more will be written. Sets ``missing`` if files with unread records were already deleted."""
        pieces: list[Piece] = []
        self.missing = False
        for number, path in paths:
            segment = self._open(number, path)
            if segment is None or segment.end <= self.state.position:
                continue
            if segment.first > self.state.position and not self._step_to(segment):
                break
            before = self.state.records
            finished = self._read_segment(segment, dead, number != paths[-1][0], limit, pieces)
            # One that is not read to its end may be deleted before the next look.
            self._expected_number = number + finished
            limit -= self.state.records - before
            if not finished or limit <= 0:
                break
        if pieces:
            self._load_texts()
        return pieces

    def _open(self, number: int, path: Path) -> Segment | None:
        segment = self._segments.get(number)
        if segment is None:
            segment = Segment.open(path)
            if segment is None:
                return None
            self._segments[number] = segment
            state = self.state
            if not state.opened_at_ns:
                state.opened_at_ns = segment.opened_at_ns
            state.kind, state.pid, state.node = segment.kind, segment.pid, segment.node
        return segment

    def _step_to(self, segment: Segment) -> bool:
        """Account for numbers between what was read and the segment's first; False if files are missing."""
        expected = self._expected_number
        if (expected is None and segment.number > 0 and not self._continues(segment)) or (
            expected is not None and segment.number > expected
        ):
            self.missing = True
            return False
        self.state.dropped += segment.first - self.state.position
        self.state.position = segment.first
        return True

    def _continues(self, segment: Segment) -> bool:
        previous = self._segments.get(segment.number - 1)
        return previous is not None and previous.end <= self.state.position

    def skip_missing(self) -> None:
        """Accept that records are gone: the next read goes on with the first file there is, counting the numbers
        between as gaps."""
        first = min((s.first for s in self._segments.values() if s.first > self.state.position), default=None)
        if first is not None:
            self.state.gaps += first - self.state.position
            self.state.position = first
        self.missing = False

    def _read_segment(self, segment: Segment, dead: bool, more: bool, limit: int, pieces: list[Piece]) -> bool:
        """Take what is complete; True if the segment has nothing left to give."""
        state = self.state
        while state.position < segment.end and limit > 0:
            slot = state.position - segment.first
            count = _complete(segment, slot, limit)
            if count:
                records = segment.records[slot : slot + count]
                sequence = np.arange(state.position + 1, state.position + count + 1, dtype=np.uint64)
                pieces.append(Piece(records, sequence))
                state.position += count
                state.records += count
                state.last_at_ns = int.from_bytes(records[-1, :8].tobytes(), "little")
                limit -= count
                self._hole = None
                continue
            ended = dead and self._ends_at != state.position
            width = _hole(segment, slot, len(segment.records) if ended or more or self._looks_far(dead) else _WINDOW)
            if width == 0:  # nothing follows in what was looked at
                if not more:
                    if dead:
                        self._ends_at = state.position
                    return False
                width = len(segment.records) - slot
            if not dead and not self._hole_is_old():
                return False
            state.gaps += width
            state.position += width
            self._hole = None
        return state.position >= segment.end

    def _looks_far(self, dead: bool) -> bool:
        """Once in a while, whatever a segment may hold is looked at. Not each time: that would pull the unwritten
        rest of the segment through the processor's caches, and make pages of it, many times a second."""
        now = time.monotonic()
        if dead or now - self._looked_far_at < FAR_SECONDS:
            return False
        self._looked_far_at = now
        return True

    def _hole_is_old(self) -> bool:
        now = time.monotonic()
        if self._hole is None or self._hole[0] != self.state.position:
            self._hole = (self.state.position, now)
            return False
        return now - self._hole[1] > HOLE_SECONDS

    def _load_texts(self) -> None:
        """Learn the texts interned since the last time. They were written before the records that name them."""
        path = f"{self.directory}/{self.state.process.hex()}.strings"
        try:
            if os.stat(path).st_size == self._string_bytes:
                return
            with open(path, "rb") as file:
                file.seek(self._string_bytes)
                data = file.read()
        except FileNotFoundError:
            return
        offset, found = 0, []
        while offset + _STRING_ENTRY.size <= len(data):
            _, size = _STRING_ENTRY.unpack_from(data, offset)
            end = offset + _STRING_ENTRY.size + size
            if end > len(data):
                break
            found.append(data[offset + _STRING_ENTRY.size : end].decode("utf-8", "replace"))
            offset = end
        if found:
            self._string_bytes += offset
            self.codes = np.concatenate([self.codes, self.texts.codes(found)])

    def dropping(self) -> int:
        """How many records behind those that were read are lost already, because their writer has no room."""
        first, last = dropping(self.directory, self.state.process)
        return max(0, last - max(first, self.state.position))

    def settle(self) -> None:
        """What a process that is dead has dropped in the end is lost."""
        if self._settled:
            return
        self._settled = True
        first, last = dropping(self.directory, self.state.process)
        if first <= self.state.position < last:
            self.state.dropped += last - self.state.position
            self.state.position = last

    def text(self, number: int) -> str:
        """The text a record of this ring means by ``number``."""
        if number >= len(self.codes):
            self._load_texts()
        return self.texts[int(self.codes[number])] if number < len(self.codes) else ""

    def gone(self) -> None:
        """All files are deleted; what was not read of them is stored."""
        self.release(set())
        self.missing = True

    def release(self, numbers: set[int]) -> None:
        """Forget segments whose files are not among ``numbers`` any more."""
        for number in [number for number in self._segments if number not in numbers]:
            del self._segments[number]

    def done_segments(self, position: int, keep_last: bool) -> list[Path]:
        """Files all of whose records are up to ``position``; ``keep_last`` spares the newest one."""
        newest = max(self._segments, default=-1)
        return [
            segment.path
            for number, segment in self._segments.items()
            if segment.end <= position and not (keep_last and number == newest)
        ]

    def files(self) -> list[Path]:
        return [segment.path for segment in self._segments.values()]


def _complete(segment: Segment, slot: int, limit: int) -> int:
    """How many records from ``slot`` on are complete; looks at little more than is new."""
    words = segment.records.view("<u4")
    column = RECORD_BYTES // 4 - 1
    end = min(len(words), slot + limit)
    at, window = slot, _WINDOW
    while at < end:
        stop = min(end, at + window)
        expected = np.arange(segment.first + at + 1, segment.first + stop + 1, dtype=np.uint64).astype(np.uint32)
        wrong = np.flatnonzero(words[at:stop, column] != expected)
        if len(wrong):
            return at + int(wrong[0]) - slot
        at, window = stop, window * 4
    return end - slot


def _hole(segment: Segment, slot: int, reach: int) -> int:
    """How many records are missing from ``slot`` to the next complete one; 0 if none follows within ``reach``."""
    words = segment.records.view("<u4")[slot : slot + reach, RECORD_BYTES // 4 - 1]
    first = segment.first + slot + 1
    expected = np.arange(first, first + len(words), dtype=np.uint64).astype(np.uint32)
    right = np.flatnonzero(words == expected)
    return int(right[0]) if len(right) else 0


class RingDirectory:
    """All rings of a session; finds new ones, reads what is new in each, decodes it as one batch."""

    def __init__(self, directory: Path, texts: Texts) -> None:
        self.directory = Path(directory)
        self.texts = texts
        self.readers: dict[bytes, RingReader] = {}
        self.unknown = 0
        #: Other nodes whose records are here, and whether they live: their processes cannot be looked for here.
        self.nodes: dict[bytes, bool] = {}
        self._chains: dict[bytes, list[tuple[int, Path]]] = {}
        self._checked: dict[bytes, tuple[float, bool]] = {}
        self._dead: set[bytes] = set()

    def scan(self) -> None:
        """Look which files there are."""
        chains: dict[bytes, list[tuple[int, Path]]] = {}
        try:
            entries = list(os.scandir(self.directory))
        except FileNotFoundError:
            entries = []
        for entry in entries:
            name, _, rest = entry.name.partition(".")
            number, _, suffix = rest.partition(".")
            if suffix != "ring" or len(name) != 16:
                continue
            try:
                chains.setdefault(bytes.fromhex(name), []).append((int(number), Path(entry.path)))
            except ValueError:
                continue
        for process in self._chains.keys() - chains.keys():
            # Stored and deleted: mapped files take room and descriptors until nobody has them.
            self.readers[process].gone()
        self._chains = chains
        for process, chain in chains.items():
            chain.sort()
            reader = self.reader(process)
            reader.release({number for number, _ in chain})
            if not reader.state.pid:
                reader._open(*chain[0])

    def reader(self, process: bytes) -> RingReader:
        reader = self.readers.get(process)
        if reader is None:
            reader = self.readers[process] = RingReader(self.directory, RingState(process), self.texts)
        return reader

    def alive(self, process: bytes, within_seconds: float = 0.5) -> bool:
        """Is the process that writes this ring still there? The answer may be ``within_seconds`` old."""
        state = self.readers[process].state
        if state.node in self.nodes:
            return self.nodes[state.node] and not state.closed
        now = time.monotonic()
        checked = self._checked.get(process)
        if checked is not None and (not checked[1] or now - checked[0] < within_seconds):
            return checked[1]
        alive = process_alive(state.pid, state.opened_at_ns)
        self._checked[process] = (now, alive)
        return alive

    def newly_dead(self) -> list[bytes]:
        """Processes of this node that have ended since this was asked last."""
        found = [each for each in self._chains if each not in self._dead and not self.alive(each)]
        self._dead.update(found)
        return found

    def read(self, limit: int = READ_RECORDS_MAX) -> tuple[Batch, int]:
        """What is new in all rings since the last read, and how many records that is. Call ``scan`` before."""
        taken: list[tuple[RingReader, list[Piece]]] = []
        for process, chain in self._chains.items():
            reader = self.readers[process]
            # Asked before reading: what a process wrote before it died is then sure to be seen.
            dead = not self.alive(process)
            pieces = reader.read(chain, dead, limit)
            if pieces:
                taken.append((reader, pieces))
            elif dead:
                reader.settle()
        return self._decode(taken)

    def _decode(self, taken: list[tuple[RingReader, list[Piece]]]) -> tuple[Batch, int]:
        if not taken:
            return {}, 0
        counts = [sum(len(piece.sequence) for piece in pieces) for _, pieces in taken]
        records = np.concatenate([piece.records for _, pieces in taken for piece in pieces])
        sequence = np.concatenate([piece.sequence for _, pieces in taken for piece in pieces])
        owners = np.frombuffer(b"".join(reader.state.process for reader, _ in taken), "V8")
        process = np.repeat(owners, counts)
        codes = np.concatenate([reader.codes for reader, _ in taken])
        sizes = np.array([len(reader.codes) for reader, _ in taken], np.int64)
        base = np.repeat(np.cumsum(sizes) - sizes, counts)
        batch, unknown = decode(records, process, sequence, codes, base, np.repeat(sizes, counts))
        self.unknown += unknown
        closed = batch.get("ring_closed")
        if closed is not None:
            for owner in closed["process"]:
                self.readers[owner.tobytes()].state.closed = True
        return batch, len(sequence)

    @property
    def missing(self) -> list[RingReader]:
        """Readers that found files deleted before they had read them."""
        return [reader for reader in self.readers.values() if reader.missing]
