"""Lines of log files that were asked for: over all processes and nodes of a session, live or after its end."""

from __future__ import annotations

import fnmatch
import json
import logging
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from obsray.telemetry import span_ids
from obsray.telemetry.log_files import STREAMS, Line, LogFile, LogReader, Marks, log_files, size_of, system_facts
from obsray.telemetry.moments import moment_ns
from obsray.telemetry.table import QueryError
from obsray.telemetry.views import Views

Row = dict[str, Any]
LIMIT_DEFAULT = 1000
TABLE_BYTES_MAX = 64 << 20
PATTERN_CHARACTERS_MAX = 1000
_ANY_ID = re.compile(r"[0-9a-f]{2,32}")


@dataclass(frozen=True, slots=True)
class LogQuery:
    """Which lines. All that is given must hold; ids are hex, ``worker``, ``actor`` and ``node`` may be cut short.

    ``limit``: the newest so many, -1 for all. ``level``: at least so severe; lines of unknown severity do not count.
    ``function``: a name, its last part, or a pattern with ``*``.
    """

    pattern: re.Pattern[bytes] | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    level: int | None = None
    function: str = ""
    task: str = ""
    attempt: int | None = None
    actor: str = ""
    worker: str = ""
    node: str = ""
    stream: str = ""
    file: str = ""
    limit: int = LIMIT_DEFAULT

    @classmethod
    def read(cls, now_ns: int, ignore_case: bool = False, **given: Any) -> LogQuery:
        """Out of what people type (``grep``, ``since``, ``until``, ``level`` and the names of the fields); what is None
        or "" was not given. Raises QueryError."""
        values = {name: value for name, value in given.items() if value not in (None, "")}
        unknown = values.keys() - {*cls.__slots__, "grep", "since", "until"} | (values.keys() & {"pattern", "since_ns"})
        if unknown:
            raise QueryError(f"there is no parameter {min(unknown)!r}; parameters: {', '.join(PARAMETERS)}")
        found: Row = {}
        for name, text in values.items():
            if name == "grep":
                found["pattern"] = _pattern(str(text), ignore_case)
            elif name in ("since", "until"):
                found[f"{name}_ns"] = _moment(name, text, now_ns)
            elif name == "level":
                found["level"] = level_number(str(text))
            elif name in ("limit", "attempt"):
                found[name] = _whole(name, text)
            elif name in ("task", "actor", "worker", "node"):
                found[name] = _identifier(name, str(text))
            elif name == "stream" and text not in STREAMS:
                raise QueryError(f"stream={text!r}: must be one of {', '.join(STREAMS)}")
            else:
                found[name] = str(text)
        return cls(**found)


PARAMETERS = (
    "grep", "since", "until", "level", "function", "task", "attempt", "actor", "worker", "node", "stream", "file",
    "limit",
)  # fmt: skip


def level_number(text: str) -> int:
    """A level as ``logging`` knows it. Raises QueryError."""
    number = logging.getLevelNamesMapping().get(text.upper())
    if number is None:
        raise QueryError(f"level={text!r}: must be one of DEBUG, INFO, WARNING, ERROR, CRITICAL")
    return number


def _pattern(text: str, ignore_case: bool) -> re.Pattern[bytes]:
    if len(text) > PATTERN_CHARACTERS_MAX:
        raise QueryError(f"grep: a pattern may have {PATTERN_CHARACTERS_MAX} characters")
    try:
        return re.compile(text.encode(), re.IGNORECASE if ignore_case else 0)
    except re.error as error:
        raise QueryError(f"grep={text!r}: not a regular expression: {error}; put \\ before . ( [ * + ? $ ^") from None


def _moment(name: str, text: Any, now_ns: int) -> int:
    try:
        return moment_ns(text, now_ns)
    except (ValueError, TypeError) as error:
        raise QueryError(f"{name}: {error}") from None


def _whole(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -2
    if number < -1 or (number == -1 and name != "limit"):
        raise QueryError(f"{name}={value!r}: must be a whole number")
    return number


def _identifier(name: str, text: str) -> str:
    lowered = text.lower()
    if not _ANY_ID.fullmatch(lowered):
        raise QueryError(f"{name}={text!r}: must be hex digits of an id")
    return lowered


class LogSearch:
    """One question, answered once (``newest``) or for as long as something is written (``more``)."""

    def __init__(self, views: Views, query: LogQuery) -> None:
        self.views = views
        self.query = query
        #: Lines that matched and were not given because of the limit.
        self.left_out = 0
        self._readers: dict[tuple[str, str], LogReader] = {}

    def newest(self, final: bool = True, each: bool = False) -> list[Row]:
        """The newest lines that match, in order of time as far as that is known; ``each``: so many of each file. Views
        must be up to date."""
        return self._found(final, self.query.limit, each)

    def more(self) -> list[Row]:
        """What was written since; brings the views up to date."""
        return self._found(False, -1, True)

    def __iter__(self) -> Iterator[Row]:
        """All lines that match, file after file, of each no more than its last ``TABLE_BYTES_MAX``: for tables."""
        for file in self._files():
            reader, size = LogReader(file), size_of(file)
            if size > TABLE_BYTES_MAX:
                reader.skip_to(size - TABLE_BYTES_MAX)
            yield from self._rows(reader, size, True)

    def _found(self, final: bool, limit: int, each: bool) -> list[Row]:
        found: list[Row] = []
        query = self.query
        # Whatever can be told only by looking at lines needs all of them.
        looks = query.pattern is not None or query.level is not None or query.until_ns is not None
        looks = looks or query.since_ns is not None or query.attempt is not None
        looks = looks or bool(query.task or query.actor or query.function)
        # Sizes first: whoever writes says so before.
        sizes = [(file, size_of(file)) for file in self._files()]
        if not final:
            self.views.refresh()
        for file, size in sizes:
            reader = self._readers.setdefault((file.node, file.name), LogReader(file))
            reader.file = file
            if limit >= 0 and not looks and size > reader.offset:
                self.left_out += reader.skip(limit, size)
            kept: deque[Row] = deque(maxlen=None if limit < 0 else limit)
            count = 0
            for row in self._rows(reader, size, final):
                kept.append(row)
                count += 1
            self.left_out += count - len(kept)
            found += kept
        found.sort(key=lambda row: row["time_ns"] or 0)
        if not each and 0 <= limit < len(found):
            self.left_out += len(found) - limit
            found = found[len(found) - limit :]
        return found

    def _files(self) -> list[LogFile]:
        query, store = self.query, self.views.store
        files = log_files(store.session_dir, str(store.session().get("node") or ""))
        workers: set[str] | None = None
        if query.task:
            workers = self.views.log_table.workers_of(bytes.fromhex(query.task)) if len(query.task) == 32 else set()
        return [
            file
            for file in files
            if (not query.node or file.node.startswith(query.node))
            and (not query.worker or file.worker.startswith(query.worker))
            and (not query.stream or file.stream == query.stream)
            and (not query.file or file.name == query.file)
            and (workers is None or file.worker in workers)
            and (file.worker or not (query.worker or query.function or query.actor))
            and (query.since_ns is None or _written_ns(file) >= query.since_ns)
        ]

    def _rows(self, reader: LogReader, until: int, final: bool) -> Iterator[Row]:
        file, query = reader.file, self.query
        marks = self.views.log_table.marks(file.worker, file.stream) if file.worker else None
        wanted = self._wanted(marks)
        known: dict[int, Row] = {}
        for line in reader.lines(marks, until, final, query.pattern):
            if wanted is not None and not wanted(line):
                continue
            if query.pattern is not None and query.pattern.search(line.data) is None:
                continue
            row = self._row(file, line, marks, known)
            if query.level is not None and logging.getLevelNamesMapping().get(row["level"] or "", -1) < query.level:
                continue
            yield row

    def _wanted(self, marks: Marks | None) -> Callable[[Line], bool] | None:
        """What can be told of a line by its place and time."""
        query = self.query
        low = query.since_ns or 0
        high = query.until_ns if query.until_ns is not None else 1 << 63
        if not (query.task or query.actor or query.function or query.attempt is not None):
            return None if not low and high == 1 << 63 else lambda line: low <= line.time_ns < high
        if marks is None:
            return lambda line: False
        fits = [self._fits(marks, number) for number in range(len(marks.from_byte))]
        return lambda line: line.mark >= 0 and fits[line.mark] and low <= line.time_ns < high

    def _fits(self, marks: Marks, number: int) -> bool:
        query = self.query
        if query.task and marks.task[number].tobytes().hex() != query.task:
            return False
        if query.attempt is not None and int(marks.attempt[number]) != query.attempt:
            return False
        if query.actor and not marks.actor[number].tobytes().hex().startswith(query.actor):
            return False
        if query.function:
            name = self._task_facts(marks.task[number].tobytes())["name"] or ""
            last = name.rpartition(".")[2]
            return query.function in (name, last) or fnmatch.fnmatchcase(name, query.function)
        return True

    def _row(self, file: LogFile, line: Line, marks: Marks | None, known: dict[int, Row]) -> Row:
        facts = known.get(line.mark)
        if facts is None:
            facts = known[line.mark] = self._facts(file, line.mark, marks)
        row = {
            **facts, "line": line.number, "offset": line.offset, "time_ns": line.time_ns or None,
            "text": line.data.decode("utf-8", "replace"), "message": None,
        }  # fmt: skip
        if not file.worker:
            said = system_facts(line.data)
            if said is not None:
                row["level"], row["logger"] = said
        if line.data.startswith(b"{") and line.data.endswith(b"}"):
            _add_structured(row, line.data)
        return row

    def _facts(self, file: LogFile, mark: int, marks: Marks | None) -> Row:
        """What all lines after one mark have in common."""
        texts = self.views.store.texts
        worker = bytes.fromhex(file.worker) if file.worker else b""
        facts: Row = {
            "node_id": file.node or None, "worker_id": file.worker or None,
            "pid": self.views.pid(worker) if worker else None, "file": file.name, "stream": file.stream,
            "task_id": None, "attempt": None, "actor_id": None, "name": None, "trace_id": None, "span_id": None,
            "job_id": None, "level": None, "logger": None,
        }  # fmt: skip
        if mark < 0 or marks is None:
            return facts
        task, actor = marks.task[mark].tobytes(), marks.actor[mark].tobytes()
        if any(task):
            attempt = int(marks.attempt[mark])
            span = f"{span_ids.of_task(task, attempt):016x}"
            facts.update(task_id=task.hex(), attempt=attempt, span_id=span, **self._task_facts(task))
        facts["actor_id"] = actor.hex() if any(actor) else None
        facts["level"] = texts[int(marks.level[mark])] or None
        facts["logger"] = texts[int(marks.logger[mark])] or None
        return facts

    def _task_facts(self, task: bytes) -> Row:
        table = self.views.task_table
        row = table.index.row(task)
        if row < 0:
            return {"name": None, "trace_id": None, "job_id": None}
        trace = table["trace"][row].tobytes()
        return {
            "name": self.views.store.texts[int(table["name"][row])] or None,
            "trace_id": trace.hex() if any(trace) else None, "job_id": f"{int(table['job'][row]):08x}",
        }  # fmt: skip


def _written_ns(file: LogFile) -> int:
    try:
        return file.path.stat().st_mtime_ns
    except OSError:
        return 0


def _add_structured(row: Row, data: bytes) -> None:
    """A log record that was written as JSON says itself who logged it, when, and how severe it is."""
    try:
        values = json.loads(data)
    except ValueError:
        return
    if not isinstance(values, dict) or not isinstance(values.get("message"), str):
        return
    row["message"] = values["message"]
    if isinstance(values.get("levelname"), str):
        row["level"] = values["levelname"]
    if isinstance(values.get("logger"), str):
        row["logger"] = values["logger"]
    if isinstance(values.get("timestamp_ns"), int):
        row["time_ns"] = values["timestamp_ns"]


__all__ = ["LIMIT_DEFAULT", "PARAMETERS", "LogQuery", "LogSearch", "level_number"]
