"""The log files of a session, and whose each line in them is.

Files of the session's own node lie in ``logs``, those that the head took over from other nodes in
``logs/nodes/<node>``; copies made for a driver (``logs/remote/<node>``) count where there is nothing better. Workers
record which byte of their output begins whose (``output_began``), so a line is found by task, attempt, actor, function,
time and severity.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from obsray.telemetry.columns import Array, Batch, Columns, Texts, concat
from obsray.telemetry.events import OutputStream
from obsray.telemetry.log_bounds import first_byte, is_bounded, missing

NODES, REMOTE = "nodes", "remote"
#: In each directory of ``NODES``: when the copies there were complete, as the time of this file.
LOOKED = ".looked"
STREAMS = (*(stream.name.lower() for stream in OutputStream), "system")
_WORKER_FILE = re.compile(r"worker-([0-9a-f]{16})\.(out|err)")
_NODE = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file. ``node`` and ``worker`` are hex; no worker: it is of the runtime's own processes, or of a job."""

    path: Path
    node: str
    worker: str
    stream: str

    @property
    def name(self) -> str:
        return self.path.name


def log_files(session: Path, node: str) -> list[LogFile]:
    """All log files that are here, by node and name. ``node``: the session's own, in hex."""
    found = {(node, path.name): path for path in _plain_files(session / "logs")}
    for kind in (REMOTE, NODES):
        for directory in _directories(session / "logs" / kind):
            for path in _plain_files(directory):
                if kind == NODES or _WORKER_FILE.fullmatch(path.name):
                    found[directory.name, path.name] = path
    return [_log_file(path, where) for (where, _), path in sorted(found.items(), key=lambda item: item[0])]


def looked_at(session: Path, node: str) -> float:
    """When the copies of a node's files were complete, in seconds since the epoch; 0 if they never were."""
    try:
        return (session / "logs" / NODES / node / LOOKED).stat().st_mtime
    except OSError:
        return 0.0


def _log_file(path: Path, node: str) -> LogFile:
    worker = _WORKER_FILE.fullmatch(path.name)
    return LogFile(path, node, *(worker.groups() if worker else ("", "system")))


def _plain_files(directory: Path) -> list[Path]:
    try:
        return [
            path for path in directory.iterdir() if path.name[0] != "." and path.is_file() and not path.is_symlink()
        ]
    except OSError:
        return []


def _directories(directory: Path) -> list[Path]:
    try:
        return [path for path in directory.iterdir() if _NODE.fullmatch(path.name) and path.is_dir()]
    except OSError:
        return []


# --- marks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Marks:
    """Of one file, from which byte on it is whose; sorted."""

    from_byte: Array
    time_ns: Array
    task: Array
    attempt: Array
    actor: Array
    level: Array
    logger: Array

    def at(self, offset: int) -> int:
        """The number of the mark that a byte comes after, -1 for none."""
        return int(np.searchsorted(self.from_byte, offset, "right")) - 1


class LogTable:
    """What workers recorded about their output."""

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self._new: list[Columns] = []
        self._all: Columns | None = None
        self._marks: dict[tuple[str, str], Marks] | None = None

    def update(self, batch: Batch) -> None:
        """Fold the new records of a batch."""
        if "output_began" in batch:
            self._new.append(batch["output_began"])
            self._marks = None

    def marks(self, worker: str, stream: str) -> Marks | None:
        """Those of one file, None if there are none."""
        if self._marks is None:
            self._marks = self._grouped()
        return self._marks.get((worker, stream))

    def workers_of(self, task: bytes) -> set[str]:
        """The processes in which attempts of a task wrote something."""
        if self._marks is None:
            self._marks = self._grouped()
        wanted = np.frombuffer(task, "V16")[0]
        return {worker for (worker, _), marks in self._marks.items() if (marks.task == wanted).any()}

    def _grouped(self) -> dict[tuple[str, str], Marks]:
        if self._new:
            self._all = concat([*([self._all] if self._all is not None else []), *self._new])
            self._new = []
        columns = self._all
        if columns is None or not len(columns):
            return {}
        # A mark may repeat the byte of an earlier one, which is then empty: the later one counts.
        order = np.lexsort((columns["sequence"], columns["from_byte"], columns["stream"], _numbers(columns["process"])))
        process, stream = columns["process"][order], columns["stream"][order]
        keys = np.stack([_numbers(process), stream.astype(np.uint64)], axis=1)
        bounds = np.flatnonzero((keys[1:] != keys[:-1]).any(axis=1)) + 1
        found = {}
        for part in np.split(order, bounds):
            name = (columns["process"][part[0]].tobytes().hex(), STREAMS[int(columns["stream"][part[0]])])
            found[name] = Marks(*(columns[field][part] for field in Marks.__slots__))
        return found


def _numbers(ids: Array) -> Array:
    found: Array = np.ascontiguousarray(ids).view("<u8")
    return found


# --- lines -------------------------------------------------------------------------------------------------------

BLOCK_BYTES = 1 << 20
#: A line longer than this is given in pieces.
LINE_BYTES_MAX = 1 << 20
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:[,.](\d{3}))? (?: *([A-Z]+) +([\w.]+):? )?")


@dataclass(slots=True)
class Line:
    """One line: ``number`` from 1, ``offset`` of its first byte, and the mark it comes after (-1: none).

    ``time_ns``: when whoever wrote it began to, or went on to, within a second; 0 if that is not known.
    """

    number: int
    offset: int
    data: bytes
    mark: int
    time_ns: int


class LogReader:
    """Reads one file on from where it was."""

    def __init__(self, file: LogFile) -> None:
        self.file = file
        self.offset = 0
        self._number = 0
        self._time_ns = 0

    def skip(self, lines_max: int, until: int) -> int:
        """Go to the last lines before byte ``until``; returns how many are passed over. Costs little in a huge file."""
        start, newlines = until, 0
        with self.file.path.open("rb") as source:
            self._begin(source)
            while start > self.offset and newlines <= lines_max:
                step = min(BLOCK_BYTES, start - self.offset)
                source.seek(start - step)
                block = source.read(step)
                # A line end at the very end of what is read begins no line.
                ends = _line_ends(block)
                if start == until and ends and ends[-1] == len(block) - 1:
                    ends.pop()
                if newlines + len(ends) >= lines_max:
                    start += ends[len(ends) - (lines_max - newlines)] + 1 - step if lines_max > newlines else 0
                    break
                newlines += len(ends)
                start -= step
            return self._pass(source, start)

    def skip_to(self, start: int) -> None:
        """Go to the first line that begins at or after byte ``start``."""
        with self.file.path.open("rb") as source:
            self._begin(source)
            start = max(start, self.offset)
            source.seek(max(0, start - 1))
            source.readline(LINE_BYTES_MAX)
            self._pass(source, source.tell())

    def _begin(self, source: BinaryIO) -> int:
        """Go on where the file begins, if that is behind where this is; how many bytes are missing there."""
        if not is_bounded(self.file.name):
            return 0
        gone = max(0, first_byte(source.fileno()) - self.offset)
        self.offset += gone
        return gone

    def _pass(self, source: BinaryIO, start: int) -> int:
        before, at = 0, self.offset
        source.seek(at)
        while at < start and (block := source.read(min(BLOCK_BYTES, start - at))):
            before += block.count(b"\n")
            at += len(block)
        self._number += before
        self.offset = start
        return before

    def lines(self, marks: Marks | None, until: int, final: bool, pattern: re.Pattern[bytes] | None) -> Iterator[Line]:
        """The lines that are complete before byte ``until`` (with ``final``: also one that is not); those of blocks
        without a match of ``pattern`` are passed over. Two that wrote into one line have it divided."""
        try:
            source = self.file.path.open("rb")
        except OSError:
            return
        with source:
            gone = self._begin(source)
            if gone and pattern is None:
                yield Line(self._number, self.offset, missing(gone).encode(), -1, self._time_ns)
            source.seek(self.offset)
            rest = b""
            while (at := self.offset + len(rest)) < until:
                block = source.read(min(BLOCK_BYTES, until - at))
                if not block:
                    break
                data = rest + block
                end = data.rfind(b"\n") + 1
                if not end and len(data) >= LINE_BYTES_MAX:
                    end = len(data)
                yield from self._of(data[:end], marks, pattern)
                rest = data[end:]
            if final and rest:
                yield from self._of(rest, marks, pattern)

    def _of(self, data: bytes, marks: Marks | None, pattern: re.Pattern[bytes] | None) -> Iterator[Line]:
        start = self.offset
        self.offset += len(data)
        if pattern is not None and self.file.worker and pattern.search(data) is None:
            self._number += data.count(b"\n")
            return
        mark = marks.at(start) if marks is not None else -1
        ahead = int(marks.from_byte[mark + 1]) if marks is not None and mark + 1 < len(marks.from_byte) else 1 << 62
        offset = start
        for whole in data.splitlines(keepends=True) if b"\r" not in data else _lines_of(data):
            self._number += 1
            end = offset + len(whole)
            if ahead <= offset or ahead < end:
                assert marks is not None
                yield from self._divided(whole, offset, marks, mark)
                mark = marks.at(end - 1)
                more = mark + 1 < len(marks.from_byte)
                ahead = int(marks.from_byte[mark + 1]) if more else 1 << 62
            else:
                yield self._line(whole, offset, mark, marks)
            offset = end

    def _divided(self, whole: bytes, offset: int, marks: Marks, mark: int) -> Iterator[Line]:
        """A line in or before which somebody else began to write."""
        end, begin = offset + len(whole), offset
        mark = marks.at(offset)
        for number in range(mark + 1, marks.at(end - 1) + 1):
            cut = int(marks.from_byte[number])
            if begin < cut and not _same(marks, mark, number):
                yield self._line(whole[begin - offset : cut - offset], begin, mark, marks)
                begin = cut
            mark = number
        yield self._line(whole[begin - offset :], begin, mark, marks)

    def _line(self, data: bytes, offset: int, mark: int, marks: Marks | None) -> Line:
        if mark >= 0 and marks is not None:
            self._time_ns = int(marks.time_ns[mark])
        elif not self.file.worker:
            stamp = _STAMP.match(data)
            if stamp is not None:
                self._time_ns = _stamped(stamp) or self._time_ns
        return Line(self._number, offset, data.rstrip(b"\r\n"), mark, self._time_ns)


def _line_ends(block: bytes) -> list[int]:
    found: list[int] = np.flatnonzero(np.frombuffer(block, np.uint8) == 10).tolist()
    return found


def system_facts(data: bytes) -> tuple[str, str] | None:
    """Level and logger of a line that a process of the runtime has logged."""
    stamp = _STAMP.match(data)
    return (stamp[3].decode(), stamp[4].decode()) if stamp is not None and stamp[3] else None


def _same(marks: Marks, one: int, other: int) -> bool:
    """Whether two marks name the same attempt."""
    if one < 0:
        return False
    return bool(marks.task[one] == marks.task[other] and marks.attempt[one] == marks.attempt[other])


def _lines_of(data: bytes) -> list[bytes]:
    """Lines end with a line feed; a carriage return alone (a progress bar) ends none."""
    return [part + b"\n" for part in data.split(b"\n")[:-1]] + ([data[data.rfind(b"\n") + 1 :]] * (data[-1:] != b"\n"))


def _stamped(stamp: re.Match[bytes]) -> int:
    try:
        seconds = time.mktime(time.strptime(stamp[1].decode().replace("T", " "), "%Y-%m-%d %H:%M:%S"))
    except (ValueError, OverflowError):
        return 0
    return int(seconds) * 1_000_000_000 + int(stamp[2] or 0) * 1_000_000


def size_of(file: LogFile) -> int:
    """How long a file is; 0 if it is gone."""
    try:
        return file.path.stat().st_size
    except OSError:
        return 0


__all__ = [
    "LOOKED", "NODES", "Line", "LogFile", "LogReader", "LogTable", "Marks", "log_files", "looked_at", "size_of",
    "system_facts",
]  # fmt: skip
