"""The spine: each process writes its events into its own chain of memory-mapped segments.

A segment is a file ``<process id>.<number>.ring`` of a header and ``SEGMENT_RECORDS`` records. It is written
once, front to back, by one process, and never overwritten: when it is full the writer opens the next, and the
collector deletes it once its records are stored. So a record, once written, cannot be lost to a slow reader,
and a process killed with -9 leaves its last events behind for whoever reads the file.

Header (``HEADER_BYTES``): magic 8s | version H | process kind B | pad B | pid I | process id 8s | node id 8s |
segment number I | pad I | sequence before the first record Q | opened at Q.

Interned text goes to ``<process id>.strings``: entries of number I | bytes I | UTF-8, in the order of their
numbers, always before the first record that names them.

What each thread runs right now stands in ``<process id>.now``: ``NOW_SLOTS`` slots of ``NOW`` (task id 16s |
started at Q | name I | attempt H | running B), and behind it the ``started at`` of the last attempt that has a record.
It is overwritten in place, so starting a short task costs no record, and still a kill leaves behind what was running.
Behind the slots is where others ask for stacks, and which numbers are being dropped.

Bounds: at most ``SEGMENTS_MAX`` unread segments a process. Beyond, the writer waits ``DROP_WAIT_SECONDS`` once,
then records go nowhere until there is room again, and one ``events_dropped`` says how many. So it is while the disk
is full, also for a process that starts then: whether there is room is tried every ``DROP_TRY_SECONDS``, and how many
records are lost so far stands in ``.now`` for everybody to read. Text that could not be written is written later.

Threads may share a ring: a slot is reserved by ``itertools.count``, atomic under the GIL. The sequence field is
the last of the record to be written, so that a reader never sees half a record.

Records are packed by ``record_writer.c`` where that could be compiled, otherwise in Python: the same bytes, at three
times the cost.
"""

from __future__ import annotations

import errno
import functools
import itertools
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from struct import Struct, calcsize
from types import CodeType, FunctionType
from typing import Any

from obsray.telemetry.events import BY_NAME, CODES, EVENTS, RECORD_BYTES, SCHEMA_VERSION, Event, ProcessKind

try:
    from obsray.telemetry import _record_writer
except ImportError:
    _record_writer = None  # type: ignore[assignment]

MAGIC = b"OBSRING\x01"
HEADER_BYTES = 128
HEADER = Struct("<8sHBxI8s8sIIQQ")
SEGMENT_RECORDS = 16_384
SEGMENT_BYTES = SEGMENT_RECORDS * RECORD_BYTES
SEGMENTS_MAX = 96
DROP_WAIT_SECONDS = 0.2
#: How long a thread that needs another segment lets one go first that is late with its record.
LATE_SECONDS = 0.0002
#: While records are dropped, room is looked for after so many of them, but not more often than that.
DROP_RECORDS = 64
DROP_TRY_SECONDS = 0.01
STRING_BYTES_MAX = 16_384
NOW = Struct("<16sQIHB")
NOW_SLOT_BYTES = 64
#: Where a slot says which attempt its process has recorded.
TOLD = Struct("<Q")
TOLD_AT = 32
#: In the attempt of ``NOW``: it will not be repeated if its process dies.
FINAL_ATTEMPT = 0x8000
NOW_SLOTS = 64
STRINGS_MAX = 200_000
#: Most bytes of texts that wait for room.
OWED_BYTES_MAX = 1 << 20
#: What an error says when a disk, or what one user may have of it, is full.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
#: Behind the slots: the number of the last question for stacks.
_ASKED = Struct("<Q")
_ASKED_AT = NOW_SLOTS * NOW_SLOT_BYTES + 40
#: Before it: the number before the first record that was dropped since there was room, and the last one.
_DROPPING = Struct("<QQ")
_DROPPING_AT = NOW_SLOTS * NOW_SLOT_BYTES + 8
_STRING_ENTRY = Struct("<II")

_SHIFT = RECORD_BYTES.bit_length() - 1

# Generated once per event so that a record costs one call and no argument tuple.
_EMITTER = """
def {name}(time_ns, {arguments}):
    number = take()
    offset = (number - ring.base) << {shift}
    if 0 <= offset < {limit}:
        pack_into(ring.buffer, offset, time_ns, {kind}, 0, {arguments}, number + 1 & 0xFFFFFFFF)
    else:
        buffer, offset = ring.place(number)
        pack_into(buffer, offset, time_ns, {kind}, 0, {arguments}, number + 1 & 0xFFFFFFFF)
"""


def _compiled(event: Event) -> tuple[CodeType, Callable[..., None]]:
    arguments = ", ".join(field.name for field in event.fields)
    source = _EMITTER.format(name=event.name, arguments=arguments, kind=event.kind, shift=_SHIFT, limit=SEGMENT_BYTES)
    scope: dict[str, Any] = {}
    exec(source, scope)
    return scope[event.name].__code__, event.struct.pack_into


@functools.cache
def emitters() -> dict[str, tuple[CodeType, Callable[..., None]]]:
    """The code of every emitter, compiled once: workers are forked from a process that has done it."""
    return {event.name: _compiled(event) for event in EVENTS.values()}


@functools.cache
def layouts() -> dict[str, tuple[int, tuple[tuple[str, str, int, int], ...]]]:
    """What ``record_writer.c`` packs of every event: kind, and of its fields name, struct code, offset and bytes."""
    return {
        event.name: (event.kind, tuple(
            (field.name, CODES[field.code][0][-1], event.offsets[field.name], calcsize("<" + CODES[field.code][0]))
            for field in event.fields
        ))
        for event in EVENTS.values()
    }  # fmt: skip


def prepare() -> None:
    """Do now what every process that records needs once: workers are forked from one that has done it."""
    (emitters if _record_writer is None else layouts)()


class Emitter:
    """What a process records through: one method per event, ``name(time_ns, *fields)``, and ``intern(text)``."""

    #: Why records go nowhere at the moment, "" while they do not; and how many are known to be lost since then.
    dropping = ""
    dropped = 0

    def __getattr__(self, name: str) -> Callable[..., None]:
        raise AttributeError(f"no event is called {name!r}; see obsray/telemetry/events.py")

    def intern(self, text: str) -> int:
        """The number that stands for ``text`` in records; the same text always gets the same number."""
        raise NotImplementedError

    def running(self, slot: int, task: bytes, started_at: int, name: int, attempt: int) -> None:
        """Say what thread ``slot`` runs now. ``attempt``: with ``FINAL_ATTEMPT`` if it is the last one."""

    def told(self, slot: int, started_at: int) -> None:
        """Say that what thread ``slot`` runs since ``started_at`` has been recorded."""

    def idle(self, slot: int) -> None:
        """Say that thread ``slot`` runs nothing."""

    def close(self, time_ns: int) -> None:
        """Say that this process ends in order."""


class Silent(Emitter):
    """Records nothing: ``OBSRAY_TELEMETRY=off`` exists to measure what telemetry costs."""

    def __init__(self) -> None:
        for event in EVENTS.values():
            setattr(self, event.name, _nothing)

    def intern(self, text: str) -> int:
        return 0


def _nothing(*_: object) -> None:
    return None


class Ring(Emitter):
    """The events of one process, in files that outlive it."""

    def __init__(self, directory: Path, process: bytes, kind: ProcessKind, node: bytes = bytes(8)) -> None:
        self.directory = Path(directory)
        self.process = process
        self.kind = kind
        self.node = node
        self.base = 0
        self.dropped = 0
        #: Why records go nowhere at the moment; "" while they do not.
        self.dropping = ""
        self._drop_from: int | None = None
        self._try_at = 0.0
        self._scrap = memoryview(b"")
        self._segment = -1
        self._lock = threading.Lock()
        #: The file before the current one: number before its first record, and where its records are.
        self._previous: tuple[int, memoryview] | None = None
        self._unread: deque[Path] = deque()
        self._strings: dict[str, int] = {"": 0}
        self._strings_fd = -1
        #: Entries for the file of texts that it had no room for.
        self._owed = bytearray()
        self._now = _now_file(self.directory / f"{process.hex()}.now")
        self.buffer = memoryview(b"")
        self._record_through(_record_writer)
        self._write_texts()
        try:
            self._open_segment(0)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self._drop(0, error.strerror or str(error))
        self.ring_opened(time.time_ns(), process, os.getpid(), int(kind))

    def _record_through(self, compiled: Any) -> None:
        """Make what this ring is called by: through ``record_writer.c``, or in Python (None)."""
        #: Reserves the next number; how many are reserved; a number before which every record is written, or is
        #: about to be by a thread that was not interrupted; and is told where records go (``buffer``, ``base``).
        self._take: Callable[[], int]
        self.taken: Callable[[], int]
        self._oldest: Callable[[], int]
        self._aim: Callable[[memoryview, int], None]
        if compiled is None:
            numbers = itertools.count()
            self._take, self._aim = numbers.__next__, _nothing
            self._oldest = self.taken = lambda: int(repr(numbers).removeprefix("count(").removesuffix(")"))
            for name, (code, pack_into) in emitters().items():
                scope = {"ring": self, "take": self._take, "pack_into": pack_into}
                setattr(self, name, FunctionType(code, scope))
            return
        writer = compiled.Writer(self.place, self._now)
        self._take, self.taken, self._oldest, self._aim = writer.take, writer.taken, writer.oldest, writer.aim
        for name, (kind, fields) in layouts().items():
            setattr(self, name, compiled.Recorder(writer, kind, fields))
        for name in ("running", "told", "idle"):
            setattr(self, name, getattr(writer, name))

    def _go_on(self, buffer: memoryview, base: int) -> None:
        """Records from number ``base`` on go into ``buffer``."""
        self.buffer, self.base = buffer, base
        self._aim(buffer, base)

    # --- segments -----------------------------------------------------------------------------------------

    def place(self, number: int) -> tuple[memoryview, int]:
        """Where record ``number`` goes when it is not in the current segment."""
        with self._lock:
            while True:
                slot = number - self.base
                if slot < 0:
                    # Another thread opened the next segment between reserving this slot and writing it.
                    before = self._previous
                    if before is not None and 0 <= number - before[0] < SEGMENT_RECORDS:
                        return before[1], (number - before[0]) * RECORD_BYTES
                    return memoryview(bytearray(RECORD_BYTES)), 0
                if slot < SEGMENT_RECORDS:
                    return self.buffer, slot * RECORD_BYTES
                if self._oldest() < self.base:
                    # Another thread has yet to write into the segment before, which would be out of reach then.
                    self._lock.release()
                    time.sleep(LATE_SECONDS)
                    self._lock.acquire()
                else:
                    self._roll()

    def _roll(self) -> None:
        first = self.base + SEGMENT_RECORDS
        if self._drop_from is not None and time.monotonic() < self._try_at:
            self._drop(first)
            return
        deadline = time.monotonic() + DROP_WAIT_SECONDS
        while self._backlog() >= SEGMENTS_MAX:
            if self._drop_from is not None or time.monotonic() > deadline:
                self._drop(first, "the collector is too far behind")
                return
            time.sleep(0.005)
        try:
            self._open_segment(first)
        except OSError as error:
            self._drop(first, error.strerror or str(error))
            return
        if self._drop_from is not None:
            lost, self._drop_from, self.dropping = first - self._drop_from, None, ""
            self.dropped += lost
            # Takes a slot of the segment just opened; this thread holds the lock, so it must not roll.
            number = self._take()
            slot = number - self.base
            if 0 <= slot < SEGMENT_RECORDS:
                pack, offset = EVENTS[113].struct.pack_into, slot * RECORD_BYTES
                pack(self.buffer, offset, time.time_ns(), 113, 0, self.process, lost, number + 1 & 0xFFFFFFFF)

    def _backlog(self) -> int:
        while self._unread and not self._unread[0].exists():
            self._unread.popleft()
        return len(self._unread)

    def _drop(self, first: int, why: str = "") -> None:
        """The records from ``first`` on go nowhere for now. ``why``: what was tried and failed."""
        if self._drop_from is None:
            self._drop_from = first
            self._scrap = self._scrap or memoryview(bytearray(SEGMENT_BYTES))
            if self._segment >= 0:
                self._previous = (self.base, self.buffer)
        if why:
            self.dropping, self._try_at = why, time.monotonic() + DROP_TRY_SECONDS
        _DROPPING.pack_into(self._now, _DROPPING_AT, self._drop_from, first)
        # Only the last slots of it: so this thread is here again soon.
        self._go_on(self._scrap, first - (SEGMENT_RECORDS - DROP_RECORDS))

    def _open_segment(self, first: int) -> None:
        """Create the next file. Raises OSError if there is no room for it, or not for the texts that it may name."""
        self._write_texts()
        if self._owed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        number = self._segment + 1
        path = self.directory / f"{self.process.hex()}.{number:06d}.ring"
        temporary = path.with_suffix(".new")
        fd = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # Reserved now, so that a full disk is an error here and never a SIGBUS in user code.
            os.posix_fallocate(fd, 0, HEADER_BYTES + SEGMENT_BYTES)
            mapping = mmap.mmap(fd, HEADER_BYTES + SEGMENT_BYTES)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        HEADER.pack_into(
            mapping, 0, MAGIC, SCHEMA_VERSION, int(self.kind), os.getpid(), self.process, self.node,
            number, 0, first, time.time_ns(),
        )  # fmt: skip
        temporary.rename(path)
        if self._segment >= 0 and self._drop_from is None:
            self._previous = (self.base, self.buffer)
        self._segment = number
        self._unread.append(path)
        self._go_on(memoryview(mapping)[HEADER_BYTES:], first)

    # --- text ---------------------------------------------------------------------------------------------

    def intern(self, text: str) -> int:
        number = self._strings.get(text)
        if number is not None:
            return number
        with self._lock:
            number = self._strings.get(text)
            if number is not None:
                return number
            if len(self._strings) >= STRINGS_MAX:
                return 0
            number = len(self._strings)
            data = text.encode("utf-8", "replace")[:STRING_BYTES_MAX]
            if len(self._owed) > OWED_BYTES_MAX:
                return 0
            self._owed += _STRING_ENTRY.pack(number, len(data)) + data
            self._write_texts()
            self._strings[text] = number
            return number

    def _write_texts(self) -> None:
        """Write the texts that are owed, as far as there is room."""
        try:
            if self._strings_fd < 0:
                path = self.directory / f"{self.process.hex()}.strings"
                self._strings_fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            while self._owed:
                # What was cut off is gone on with: readers take an entry when it is whole.
                del self._owed[: os.write(self._strings_fd, self._owed)]
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise

    def running(self, slot: int, task: bytes, started_at: int, name: int, attempt: int) -> None:
        NOW.pack_into(self._now, slot * NOW_SLOT_BYTES, task, started_at, name, attempt, 1)

    def told(self, slot: int, started_at: int) -> None:
        TOLD.pack_into(self._now, slot * NOW_SLOT_BYTES + TOLD_AT, started_at)

    def idle(self, slot: int) -> None:
        self._now[slot * NOW_SLOT_BYTES + NOW.size - 1] = 0

    def stacks_asked(self) -> int:
        """The number of the last question for the stacks of this process, 0 for none."""
        number: int = _ASKED.unpack_from(self._now, _ASKED_AT)[0]
        return number

    def close(self, time_ns: int) -> None:
        # The number of records before this one is this one's own, so it cannot go through the emitter, which takes
        # another: the slot left empty would hide everything behind it from readers.
        number = self._take()
        buffer, offset = self.place(number)
        event = BY_NAME["ring_closed"]
        event.struct.pack_into(buffer, offset, time_ns, event.kind, 0, self.process, number, (number + 1) & 0xFFFFFFFF)
        with self._lock:
            if self._drop_from is not None:
                _DROPPING.pack_into(self._now, _DROPPING_AT, self._drop_from, number + 1)


def _now_file(path: Path) -> mmap.mmap:
    size = (NOW_SLOTS + 1) * NOW_SLOT_BYTES
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
        return mmap.mmap(fd, size)
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        # Nobody else will see what this process runs, but it runs.
        path.unlink(missing_ok=True)
        return mmap.mmap(-1, size)
    finally:
        os.close(fd)


def dropping(directory: Path, process: bytes) -> tuple[int, int]:
    """Which numbers of a process went nowhere when it last had no room: behind the first up to the second.

    Of a process that was killed meanwhile, up to ``DROP_RECORDS`` more may be lost.
    """
    try:
        with open(directory / f"{process.hex()}.now", "rb", buffering=0) as file:
            file.seek(_DROPPING_AT)
            data = file.read(_DROPPING.size)
    except OSError:
        return 0, 0
    if len(data) < _DROPPING.size:
        return 0, 0
    first, last = _DROPPING.unpack(data)
    return first, last


def ask_for_stacks(directory: Path, process: bytes) -> int:
    """Ask a process of this machine for the stacks of its threads; the number of the question, 0 if it cannot hear."""
    number = time.time_ns()
    try:
        fd = os.open(directory / f"{process.hex()}.now", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        if os.fstat(fd).st_size < _ASKED_AT + _ASKED.size:
            return 0
        os.pwrite(fd, _ASKED.pack(number), _ASKED_AT)
    finally:
        os.close(fd)
    return number


def read_now(directory: Path, process: bytes) -> list[tuple[bytes, int, int, int]]:
    """What the threads of a process run, or ran when it was killed: ``(task, started_at, name, attempt)``."""
    try:
        descriptor = os.open(f"{directory}/{process.hex()}.now", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        data = os.read(descriptor, NOW_SLOTS * NOW_SLOT_BYTES)
    finally:
        os.close(descriptor)
    found = []
    # Most slots were never used.
    for offset in range(0, min(len(data.rstrip(b"\0")), len(data) - NOW_SLOT_BYTES + 1), NOW_SLOT_BYTES):
        task, started_at, name, attempt, running = NOW.unpack_from(data, offset)
        if running:
            found.append((task, started_at, name, attempt & ~FINAL_ATTEMPT))
    return found


def read_final(directory: Path, process: bytes) -> list[tuple[bytes, int, bool]]:
    """What the threads of a process run, the newest first: ``(task, started_at, whether it is its last attempt)``."""
    try:
        data = (directory / f"{process.hex()}.now").read_bytes()
    except OSError:
        return []
    slots = [NOW.unpack_from(data, at) for at in range(0, len(data) - NOW_SLOT_BYTES + 1, NOW_SLOT_BYTES)]
    found = [(task, at, bool(attempt & FINAL_ATTEMPT)) for task, at, _, attempt, running in slots if running]
    return sorted(found, key=lambda slot: -slot[1])


def read_ran(directory: Path, process: bytes) -> list[tuple[bytes, int]] | None:
    """The task that each thread of a process runs or ran last, with the attempt, those still running first.

    None if nobody knows.
    """
    try:
        data = (directory / f"{process.hex()}.now").read_bytes()
    except FileNotFoundError:
        return None
    found = []
    for offset in range(0, len(data) - NOW_SLOT_BYTES + 1, NOW_SLOT_BYTES):
        task, started_at, _, attempt, running = NOW.unpack_from(data, offset)
        if started_at:
            found.append((-running, -started_at, task, attempt & ~FINAL_ATTEMPT))
    return [(task, attempt) for _, _, task, attempt in sorted(found)]


def read_strings(path: Path) -> list[str]:
    """The interned texts of a process, by number. An entry cut short by a kill is left out."""
    texts = [""]
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return texts
    offset = 0
    while offset + _STRING_ENTRY.size <= len(data):
        _, size = _STRING_ENTRY.unpack_from(data, offset)
        offset += _STRING_ENTRY.size
        if offset + size > len(data):
            break
        texts.append(data[offset : offset + size].decode("utf-8", "replace"))
        offset += size
    return texts


def last_records(directory: Path, process: bytes, count: int) -> list[tuple[Any, ...]]:
    """The last ``count`` records of a process as ``(time_ns, event, {field: value})``, oldest first.

    Reads only the tail of the newest segments, without numpy: this is how a node learns what a killed worker
    was doing. Text is resolved, ids stay bytes.
    """
    texts = read_strings(directory / f"{process.hex()}.strings")
    found: list[tuple[Any, ...]] = []
    for path in sorted(directory.glob(f"{process.hex()}.*.ring"), reverse=True):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            continue
        first = HEADER.unpack_from(data)[8]
        used = _written(data, first)
        for slot in range(used - 1, max(-1, used - 1 - (count - len(found))), -1):
            found.append(decode(data, HEADER_BYTES + slot * RECORD_BYTES, texts))
        if len(found) >= count:
            break
    found.reverse()
    return found


def _written(data: bytes, first: int) -> int:
    """How many records of a segment are complete (binary search on the sequence field)."""
    low, high = 0, (len(data) - HEADER_BYTES) // RECORD_BYTES
    while low < high:
        middle = (low + high) // 2
        at = HEADER_BYTES + middle * RECORD_BYTES + RECORD_BYTES - 4
        if int.from_bytes(data[at : at + 4], "little") == (first + middle + 1) & 0xFFFFFFFF:
            low = middle + 1
        else:
            high = middle
    return low


def decode(data: bytes | memoryview, offset: int, texts: list[str]) -> tuple[int, str, dict[str, Any]]:
    """One record as ``(time_ns, event name, fields)``; the slow, readable way, for a handful of records."""
    kind = int.from_bytes(data[offset + 8 : offset + 10], "little")
    event = EVENTS[kind]
    values = event.struct.unpack_from(data, offset)
    fields: dict[str, Any] = {}
    for field, value in zip(event.fields, values[3:-1], strict=True):
        if field.code == "str":
            value = texts[value] if value < len(texts) else f"?{value}"
        elif field.labels is not None:
            value = field.labels(value).name.lower()
        fields[field.name] = value
    return values[0], event.name, fields
