"""Reading the telemetry of a session: while it runs, after it ended, after it was killed.

``Store`` joins two sources: what the collector stored (``segments.py``) and what still stands in the rings. A record
is in both for a moment, so each ring has a position up to which it was delivered, and nothing at or before it is
delivered again. Records are committed before their ring file is deleted: a file that is gone is in the catalog, if that
is looked at after the file was missed. So nothing is passed over while a session runs, however slow its reader is.

Costs: ``refresh`` reads and decodes only what is new and hands it to the folds, keeping nothing itself; what a fold
keeps is its own. ``events`` reads every stored file of that one kind, so its memory is that of the answer; use
``select`` to keep only matching rows. What is read of files for them is kept for the next question, up to a bound
(``decoded.py``). Opening a store reads no data at all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from obsray.telemetry import session_file
from obsray.telemetry.clocks import Clocks
from obsray.telemetry.columns import (
    SCHEMAS,
    Array,
    Batch,
    Columns,
    Texts,
    after,
    beyond,
    concat,
    empty,
    fixed_values,
    from_arrow,
    to_arrow,
)
from obsray.telemetry.decoded import DecodedFiles
from obsray.telemetry.events import BY_NAME
from obsray.telemetry.rings import RingDirectory, RingReader, RingState
from obsray.telemetry.segments import AHEAD_ROWS_MIN, Catalog, FileEntry, StreamTail, ahead, read_batches
from obsray.telemetry.spine import read_now
from obsray.telemetry.table import same_id

Fold = Callable[[Batch], None]
Found = TypeVar("Found")

#: How many times a reader looks again when the collector moved something under its eyes.
_ATTEMPTS = 8
#: Is the node of the session in a directory running?
is_live = session_file.is_live


class Running:
    """What one thread of a process runs now, out of its black box."""

    __slots__ = ("attempt", "name", "process", "started_at_ns", "task")

    def __init__(self, process: bytes, task: bytes, started_at_ns: int, name: str, attempt: int) -> None:
        self.process, self.task, self.started_at_ns = process, task, started_at_ns
        self.name, self.attempt = name, attempt


class Store:
    """The telemetry of one session directory. Not for use by several threads at once."""

    def __init__(self, session_dir: Path) -> None:
        self.session_dir = Path(session_dir)
        self.texts = Texts()
        self.catalog = Catalog(self.session_dir / "telemetry")
        self.rings = RingDirectory(self.session_dir / "rings", self.texts)
        #: Puts the times of other nodes' records on the clock of this session's node.
        self.clocks = Clocks(self._node_of)
        self._clock_rows = 0
        self._folds: list[Fold] = []
        self._rows: dict[str, int] = {}
        self._tails: dict[str, StreamTail] = {}
        #: For pages that look at whole kinds again and again.
        self._decoded = DecodedFiles(self.catalog.directory, self.texts)
        self._refreshed = False

    @classmethod
    def open(cls, session_dir: Path | str) -> Store:
        """The store of a session directory. Raises FileNotFoundError if there is none."""
        directory = Path(session_dir)
        if not (directory / "rings").is_dir() and not (directory / "telemetry").is_dir():
            raise FileNotFoundError(f"{directory} is not a session directory (no rings, no telemetry)")
        return cls(directory)

    @classmethod
    def latest(cls) -> Store:
        """The store of the newest session, a live one if there is one. Raises FileNotFoundError."""
        return cls.open(find_session())

    def session(self) -> dict[str, Any]:
        """The facts of ``session.json``."""
        return session_file.read(self.session_dir)

    def is_live(self) -> bool:
        """Is the session's node still running?"""
        return is_live(self.session_dir)

    # --- new records --------------------------------------------------------------------------------------

    def add_fold(self, fold: Fold) -> None:
        """Give ``fold`` every record from the first one on, in batches, now and on each refresh."""
        if self._refreshed:
            for batch in self._history():
                fold(batch)
        self._folds.append(fold)

    def refresh(self) -> int:
        """Hand what is new to the folds; returns how many records that were."""
        self._refreshed = True
        self.rings.nodes = other_nodes(self.session())
        count = 0
        for attempt in range(_ATTEMPTS):
            self._look()
            behind, missing = self._behind(), self.rings.missing
            if attempt and not behind and not missing:
                break
            for reader in missing:
                if reader.state.process not in behind:
                    reader.skip_missing()  # deleted, and not by the collector
            try:
                if behind:
                    count += self._read_stored(behind)
                count += self._read_rings()
            except FileNotFoundError:
                continue  # compacted between looking at the catalog and opening the file
        return count

    def come_to(self) -> tuple[dict[str, int], list[RingState]]:
        """How far the folds have been given: stored rows of each kind, and the ledger of every ring."""
        return dict(self._rows), [reader.state for reader in self.rings.readers.values()]

    def go_on(self, rows: dict[str, int], rings: dict[str, RingState]) -> None:
        """The folds have been given so much already (``come_to`` of another store of this session)."""
        self._rows = dict(rows)
        for process, state in rings.items():
            self.rings.reader(bytes.fromhex(process)).state = state

    def _look(self) -> None:
        """See what is stored now, and learn what was measured of the clocks of other nodes."""
        self.catalog.refresh()
        for entry in self.catalog.files.get("clock_measured", ()):
            if entry.first_row + entry.rows > self._clock_rows:
                try:
                    for batch in read_batches(self.catalog.directory, entry):
                        self.clocks.learn(from_arrow(batch, BY_NAME["clock_measured"], self.texts))
                except FileNotFoundError:
                    return  # compacted meanwhile; the next look finds it
                self._clock_rows = entry.first_row + entry.rows

    def _node_of(self, process: bytes) -> bytes | None:
        """The node whose process wrote a record; None if that is not known to be another one."""
        state = self.catalog.rings.get(process.hex())
        return state.node if state is not None else None

    def _behind(self) -> dict[bytes, int]:
        """Rings of which more is stored than was delivered, with what was delivered."""
        found = {}
        for name, state in self.catalog.rings.items():
            process = bytes.fromhex(name)
            delivered = self.rings.reader(process).state
            if not delivered.pid:
                delivered.kind, delivered.pid, delivered.node = state.kind, state.pid, state.node
                delivered.opened_at_ns = state.opened_at_ns
            if state.position > delivered.position:
                found[process] = delivered.position
        return found

    def _read_stored(self, behind: dict[bytes, int]) -> int:
        """Deliver stored rows beyond what was delivered, then move the rings' positions to the catalog's."""
        count = 0
        first_time = not any(reader.state.position for reader in self.rings.readers.values())
        positions = {process: reader.state.position for process, reader in self.rings.readers.items()}
        for event, entries in list(self.catalog.files.items()):
            for entry in entries:
                if entry.first_row + entry.rows <= self._rows.get(event, 0):
                    continue
                for columns in self._stored(event, entry):
                    new = columns if first_time else after(columns, positions)
                    if len(new):
                        count += len(new)
                        self._deliver({event: new})
                self._rows[event] = entry.first_row + entry.rows
        for process in behind:
            stored = self.catalog.rings[process.hex()]
            reader = self.rings.readers[process]
            state, reader.missing = reader.state, False
            for field in ("position", "records", "gaps", "dropped", "last_at_ns", "closed"):
                setattr(state, field, getattr(stored, field))
        self._close_tails()
        return count

    def _stored(self, event: str, entry: FileEntry) -> Iterator[Columns]:
        """The rows of one file that were not read yet."""
        kind = BY_NAME.get(event)
        if kind is None:
            return
        skip = max(0, self._rows.get(event, 0) - entry.first_row)
        if entry.format == "stream":
            tail = self._tails.get(entry.name)
            if tail is None:
                tail = self._tails[entry.name] = StreamTail(self.catalog.directory, entry.name)
            else:
                skip = 0
            batches = tail.read(entry)
        else:
            batches = read_batches(self.catalog.directory, entry)
        if entry.first_row + entry.rows - self._rows.get(event, 0) >= AHEAD_ROWS_MIN:
            batches = ahead(batches)
        for batch in batches:
            if skip >= batch.num_rows:
                skip -= batch.num_rows
                continue
            yield self.clocks.corrected(from_arrow(batch.slice(skip) if skip else batch, kind, self.texts))
            skip = 0

    def _close_tails(self) -> None:
        live = {entry.name for entries in self.catalog.files.values() for entry in entries if entry.format == "stream"}
        for name in [name for name in self._tails if name not in live]:
            self._tails.pop(name).close()
        self._decoded.prune({entry.name for entries in self.catalog.files.values() for entry in entries})

    def _read_rings(self) -> int:
        """Deliver what the rings have beyond what was delivered, up to where a file is gone."""
        count = 0
        while True:
            self.rings.scan()
            batch, found = self.rings.read()
            if found:
                self._deliver(self.clocks.corrected_all(batch))
                count += found
            if not found or self.rings.missing:
                return count

    def _deliver(self, batch: Batch) -> None:
        for fold in self._folds:
            fold(batch)

    # --- whole kinds --------------------------------------------------------------------------------------

    def events(self, name: str, columns: list[str] | None = None) -> pa.Table:
        """All records of one kind: ``time_ns``, ``process``, ``sequence``, then its fields, oldest first per ring.

        Raises KeyError for a name that is no event.
        """
        wanted = columns or SCHEMAS[name].names
        parts = [to_arrow(part, self.texts).select(wanted) for part in self.select(name)]
        if not parts:
            return SCHEMAS[name].empty_table().select(wanted)
        return pa.Table.from_batches(parts)

    def records(self, names: Iterable[str]) -> list[tuple[str, pa.RecordBatch]]:
        """All records of several kinds in one pass, as they are stored; those that stand only in rings come last.

        Raises FileNotFoundError if files go faster than they are read.
        """
        return _again(lambda: list(self._records(frozenset(names))))

    def _records(self, names: frozenset[str]) -> Iterator[tuple[str, pa.RecordBatch]]:
        standing = self._unstored(names)
        for name in sorted(names):
            for entry in self.catalog.files.get(name, ()):
                for batch in read_batches(self.catalog.directory, entry):
                    if batch.schema.equals(SCHEMAS[name]) and not self.clocks:
                        yield name, batch
                    else:  # of several nodes, or written before a field was appended to the event
                        columns = self.clocks.corrected(from_arrow(batch, BY_NAME[name], self.texts))
                        yield name, to_arrow(columns, self.texts)
        for unstored in standing:
            for name in sorted(unstored):
                yield name, to_arrow(unstored[name], self.texts)

    def select(self, name: str, where: Callable[[Columns], Array] | None = None) -> list[Columns]:
        """The records of one kind for which ``where`` (a mask over a batch) holds.

        Raises FileNotFoundError if files go faster than they are read.
        """

        def read() -> list[Columns]:
            found = []
            for columns in self._all(name):
                kept = columns if where is None else columns.take(where(columns))
                if len(kept):
                    found.append(kept)
            return found

        return _again(read)

    def rows(self, name: str, where: Callable[[Columns], Array] | None = None) -> list[dict[str, Any]]:
        """Like ``select``, as plain dictionaries ordered by time: for a handful of records."""
        parts = self.select(name, where)
        found = [row for part in parts for row in part.rows(self.texts)]
        found.sort(key=lambda row: row["time_ns"])
        return found

    def about(self, name: str, field: str, identifier: bytes, limit: int = 1000) -> list[dict[str, Any]]:
        """The first ``limit`` records of one kind whose id ``field`` is ``identifier``."""
        return self.mentions({name: lambda columns: same_id(columns[field], identifier)}, {name: field}, limit)

    def mentions(
        self,
        where: dict[str, Callable[[Columns], Array]],
        fields: dict[str, str] | None = None,
        limit: int = 1000,
    ) -> list[dict[str, Any]]:
        """Records of several kinds, each with its own mask, as dictionaries with ``event``, ordered by time.

        Where ``fields`` names the one field a mask looks at, only that column of stored files is read, and the rest
        of a file only if it matches: this is how one id is found among millions of records.

        Raises FileNotFoundError if files go faster than they are read.
        """
        found = _again(lambda: self._mentions(where, fields or {}, limit))
        found.sort(key=lambda row: (row["time_ns"], row["sequence"]))
        return found

    def _mentions(
        self, where: dict[str, Callable[[Columns], Array]], fields: dict[str, str], limit: int
    ) -> list[dict[str, Any]]:
        standing = self._unstored(where.keys())
        found: list[dict[str, Any]] = []

        def keep(name: str, columns: Columns) -> None:
            rows = np.flatnonzero(where[name](columns))[:limit]
            if len(rows):
                found.extend({"event": name, **row} for row in columns.take(rows).rows(self.texts))

        for name in where:
            only = [fields[name]] if name in fields else None
            for entry in list(self.catalog.files.get(name, ())):
                if only is None:
                    for columns in self._decoded.read(BY_NAME[name], entry):
                        keep(name, self.clocks.corrected(columns))
                elif self._matches(name, entry, only, where[name]):
                    for batch in read_batches(self.catalog.directory, entry):
                        keep(name, self.clocks.corrected(from_arrow(batch, BY_NAME[name], self.texts)))
        for new in standing:
            for name, columns in new.items():
                keep(name, columns)
        return found

    def _matches(self, name: str, entry: FileEntry, only: list[str], where: Callable[[Columns], Array]) -> bool:
        for batch in read_batches(self.catalog.directory, entry, only):
            values = fixed_values(batch.column(0))
            if where(Columns(BY_NAME[name], {"time_ns": values, only[0]: values})).any():
                return True
        return False

    def _all(self, name: str) -> Iterator[Columns]:
        """Every batch of one kind: the stored ones, then what only the rings hold."""
        standing = self._unstored({name})
        for entry in list(self.catalog.files.get(name, ())):
            for columns in self._decoded.read(BY_NAME[name], entry):
                yield self.clocks.corrected(columns)
        for batch in standing:
            yield from batch.values()

    def _unstored(self, names: Collection[str]) -> list[Batch]:
        """See what is stored now, and what of some kinds only the rings hold.

        The rings come first: what is deleted under its reader's eyes is then in the catalog.
        """
        self._look()
        rings = RingDirectory(self.rings.directory, self.texts)
        for process, state in self.catalog.rings.items():
            rings.reader(bytes.fromhex(process)).state.position = state.position
        batches = []
        while True:
            rings.scan()
            batch, found = rings.read()
            missing = rings.missing
            for reader in missing:
                reader.skip_missing()
            if found:
                batches.append({name: columns for name, columns in batch.items() if name in names})
            elif not missing:
                break
        self._look()
        stored = {bytes.fromhex(process): state.position for process, state in self.catalog.rings.items()}
        return [self.clocks.corrected_all(_beyond(batch, stored)) for batch in batches]

    def _history(self) -> Iterator[Batch]:
        """Everything that ``refresh`` delivered so far, for a fold that comes late."""
        positions = {process: reader.state.position for process, reader in self.rings.readers.items()}
        for event in BY_NAME:
            for columns in self.select(event):
                kept = columns.take(~beyond(columns, positions))
                if len(kept):
                    yield {event: kept}

    # --- processes ----------------------------------------------------------------------------------------

    def running(self) -> list[Running]:
        """What every process runs right now. In a session that is over: what it ran when it ended."""
        found = []
        live = self.is_live()
        for process, reader in self.rings.readers.items():
            if live and not self.rings.alive(process):
                continue
            for task, started_at, name, attempt in read_now(self.rings.directory, process):
                found.append(Running(process, task, started_at, reader.text(name), attempt))
        return found

    def ring_states(self) -> list[tuple[RingState, bool]]:
        """The ledger of every ring as delivered, and whether its process lives."""
        return [
            (reader.state, bool(reader.state.pid) and self.rings.alive(process))
            for process, reader in self.rings.readers.items()
        ]

    def dropping(self, process: bytes) -> int:
        """How many of the newest records of a process are lost already, while it has no room for them."""
        reader = self.rings.readers.get(process)
        return reader.dropping() if reader is not None else 0

    def ring(self, process: bytes) -> RingReader | None:
        return self.rings.readers.get(process)


def _beyond(batch: Batch, positions: dict[bytes, int]) -> Batch:
    kept = {name: after(columns, positions) for name, columns in batch.items()}
    return {name: columns for name, columns in kept.items() if len(columns)}


def _again(read: Callable[[], Found]) -> Found:
    """What ``read`` gives, tried again while files are replaced under its eyes. Raises FileNotFoundError."""
    for _ in range(_ATTEMPTS - 1):
        with contextlib.suppress(FileNotFoundError):
            return read()
    return read()


def joined(parts: list[Columns], name: str) -> Columns:
    """The parts of one kind as one, also if there are none."""
    return concat(parts) if parts else empty(BY_NAME[name])


def other_nodes(facts: dict[str, Any]) -> dict[bytes, bool]:
    """The other nodes of a cluster, by the facts of its head's session, and whether they live."""
    nodes = facts.get("nodes") or {}
    return {bytes.fromhex(node): bool(known.get("alive")) for node, known in nodes.items() if node != facts.get("node")}


def find_session(name: str | Path | None = None) -> Path:
    """The directory of a session given by path, by name or part of it, or, with None, the newest live one, else the
    newest. Raises FileNotFoundError with what was looked for."""
    if name:
        path = Path(name)
        if (path / "session.json").exists() or (path / "rings").is_dir():
            return path
        matches = [path for path in session_file.sessions() if str(name) in path.name]
        if not matches:
            raise FileNotFoundError(f"no session called {name} in {session_file.root()}")
        return matches[0]
    found = session_file.sessions()
    if not found:
        raise FileNotFoundError(f"no session in {session_file.root()}")
    live = [path for path in found if is_live(path)]
    # Of a cluster the head is what people mean.
    return next((path for path in live if session_file.read(path).get("head") is not False), (live or found)[0])
