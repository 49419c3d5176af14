"""The side of a node: gives stored records to the head's collector, from files, in a thread of its own."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from obsray.core.protocol.messages import (
    LogFilePieces,
    LogFilesWanted,
    Stacks,
    StacksWanted,
    TelemetryRows,
    TelemetryWanted,
    decode,
    encode,
)
from obsray.core.transport import chaos
from obsray.core.transport.links import Link, Reactor
from obsray.federation.stacks import here
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.log_bounds import first_byte
from obsray.telemetry.segments import Catalog, read_batches
from obsray.telemetry.spine import Emitter, Silent

SOCKET = "collector.sock"
#: Rows of one answer; what is left is asked for again.
ANSWER_BYTES_MAX = 32 << 20
#: Bytes of log files in one answer.
LOG_BYTES_MAX = 4 << 20
#: After the last drain, how long the head may still come for the rest.
LINGER_SECONDS_MAX = 2.0
LOOK_SECONDS = 0.5
#: Waking Arrow's threads for each small piece costs more than compressing it.
_OPTIONS = pa.ipc.IpcWriteOptions(compression="lz4", use_threads=False)

log = logging.getLogger("obsray.collector")


class Serving:
    """Listens at the socket that the node's port leads to. ``node`` is this node's id in hex.

    ``specification``: faults to inject on purpose, recorded by ``emitter``. ``recorded`` says how many records there
    are here, stored or not.
    """

    def __init__(
        self, session: Path, node: str, token: bytes, specification: str = "", emitter: Emitter | None = None,
        recorded: Callable[[], int] = lambda: 0,
    ) -> None:  # fmt: skip
        self._node = node
        self._session = session
        self._recorded = recorded
        self._catalog = Catalog(session / "telemetry")
        self._logs = session / "logs"
        self._reactor = Reactor(self._on_messages, lambda link: None)
        chaos.activate(
            specification, ProcessKind.COLLECTOR, bytes.fromhex(node), emitter or Silent(), self._reactor
        )  # fmt: skip
        #: Whether anybody has come for records.
        self._asked = threading.Event()
        self._reactor.listen(session / "sockets" / SOCKET, token, lambda link: self._asked.set())
        self._stopping = False
        self._served_all = threading.Event()
        self._thread = threading.Thread(target=self._run, name="obsray-telemetry-serving", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Call when the last record is stored: whoever takes records gets the rest, for a while."""
        self._served_all.clear()
        # The head may not have come yet to a node that lived for a moment only.
        self._asked.wait(LINGER_SECONDS_MAX)
        deadline = time.monotonic() + LINGER_SECONDS_MAX
        while self._reactor.links and not self._served_all.is_set() and time.monotonic() < deadline:
            self._served_all.wait(0.05)
        self._stopping = True
        self._reactor.wake()
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._reactor.run_once(LOOK_SECONDS)
            except Exception:
                log.exception("the head could not be given records")
        self._reactor.shutdown()

    def _on_messages(self, link: Link, messages: list[Any]) -> None:
        for message in messages:
            wanted = decode(message)
            if isinstance(wanted, LogFilesWanted):
                link.send(encode(self._log_pieces(wanted.taken)))
                continue
            if isinstance(wanted, StacksWanted):
                link.send(encode(Stacks(json.dumps(here(self._session)))))
                continue
            if not isinstance(wanted, TelemetryWanted):
                self._reactor.close(link)
                return
            link.send(encode(self._answer(wanted.rows)))

    def _log_pieces(self, taken: dict[str, int]) -> LogFilePieces:
        """What was written into log files beyond ``taken``. The head asks for it after the last records."""
        pieces: list[tuple[str, int, bytes]] = []
        size = 0
        for path in sorted(self._logs.iterdir()):
            start = taken.get(path.name, 0)
            if not path.is_file() or path.is_symlink() or path.stat().st_size <= start:
                continue
            if size >= LOG_BYTES_MAX:
                return LogFilePieces(pieces, False)
            with path.open("rb") as file:
                start = max(start, first_byte(file.fileno()))
                file.seek(start)
                data = file.read(LOG_BYTES_MAX - size)
            pieces.append((path.name, start, data))
            size += len(data)
        if size >= LOG_BYTES_MAX:
            return LogFilePieces(pieces, False)
        if self._catalog.finished:
            self._served_all.set()
        return LogFilePieces(pieces, True)

    def _answer(self, taken: dict[str, int]) -> TelemetryRows:
        """What is stored beyond ``taken`` (rows of each kind)."""
        catalog = self._catalog
        for _ in range(5):
            try:
                catalog.refresh()
                return self._read(taken)
            except FileNotFoundError:
                # Compacted between looking at the catalog and opening the file.
                continue
        return TelemetryRows([], {}, dict(taken), False, False, self._recorded())

    def _read(self, taken: dict[str, int]) -> TelemetryRows:
        catalog = self._catalog
        parts: list[tuple[str, bytes]] = []
        reached = dict(taken)
        size = 0
        for event, entries in catalog.files.items():
            for entry in entries:
                end = entry.first_row + entry.rows
                if end <= reached.get(event, 0):
                    continue
                if size >= ANSWER_BYTES_MAX:
                    return TelemetryRows(parts, {}, reached, False, False, self._recorded())
                data = self._rows(entry, max(0, reached.get(event, 0) - entry.first_row))
                parts.append((event, data))
                size += len(data)
                reached[event] = end
        rings = {}
        for process, state in catalog.rings.items():
            values = state.to_json()
            if not values["node"].strip("0"):
                values["node"] = self._node
            rings[process] = json.dumps(values)
        return TelemetryRows(parts, rings, reached, True, catalog.finished, self._recorded())

    def _rows(self, entry: Any, skip: int) -> bytes:
        sink = pa.BufferOutputStream()
        writer = None
        for batch in read_batches(self._catalog.directory, entry):
            if skip >= batch.num_rows:
                skip -= batch.num_rows
                continue
            part = batch.slice(skip) if skip else batch
            skip = 0
            if writer is None:
                writer = pa.ipc.new_stream(sink, part.schema, options=_OPTIONS)
            writer.write_batch(part)
        if writer is not None:
            writer.close()
        return bytes(sink.getvalue())
