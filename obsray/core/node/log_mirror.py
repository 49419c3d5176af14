"""Shell: what workers here print for a driver at another node goes there, and what comes from others is kept for ours.

The files of a worker stay at its own node and are the truth. A copy of what it prints goes to the node of its job's
driver, into ``logs/remote/<node>/``, where the driver finds it as it finds the files of workers beside it. Copies are
bounded: what comes faster than ``BYTES_PER_LOOK`` for too long, and what goes beyond ``FILE_BYTES_MAX``, is left out
and said so.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from obsray.core.node.machine import NodeMachine
from obsray.core.node.neighbours import Neighbours
from obsray.core.protocol.messages import LogChunk, LogsSent, LogsWanted, encode
from obsray.core.system.bylines import lose, path_of
from obsray.ids import mark_of
from obsray.telemetry.log_bounds import first_byte
from obsray.telemetry.spine import Emitter

LOOK_SECONDS = 0.2
CHUNK_BYTES = 64 << 10
#: Of all workers here, towards one look: 5 MB/s.
BYTES_PER_LOOK = 1 << 20
#: A file that is further behind is skipped up to its last ``BYTES_PER_LOOK``.
BEHIND_BYTES_MAX = 8 << 20
#: A link that has this much unsent gets no output on top.
UNSENT_BYTES_MAX = 4 << 20
FILE_BYTES_MAX = 64 << 20
#: A driver that ends waits this long for what others still have of its workers' last words.
ANSWER_SECONDS_MAX = 1.0
REMOTE = "remote"
_STREAMS = ("out", "err")
#: In place of a stream: who wrote what.
BYLINES = "by"


class LogMirror:
    """``answer(client, request, nodes)`` tells a driver which nodes have sent all that there was."""

    def __init__(
        self,
        session: Path,
        machine: NodeMachine,
        neighbours: Neighbours,
        emitter: Emitter,
        answer: Callable[[bytes, int, list[bytes]], None],
    ) -> None:
        self._session, self._logs, self._claims = session, session / "logs", session / "jobs"
        self._machine, self._neighbours, self._emitter, self._answer = machine, neighbours, emitter, answer
        #: Worker -> its job, once it has said so.
        self._jobs: dict[str, int] = {}
        self._offsets: dict[str, int] = {}
        #: Bytes of copies here that were left out, by path; said in the file once.
        self._full: set[Path] = set()
        #: Job -> the driver that waits, its request, the nodes that have not answered, and those that have.
        self._asked: dict[int, tuple[bytes, int, set[bytes], list[bytes], float]] = {}
        neighbours.handle(LogChunk, self._received)
        neighbours.handle(LogsWanted, self._wanted)
        neighbours.handle(LogsSent, self._sent)

    # --- sending -------------------------------------------------------------------------------------------

    def look(self, job: int | None = None) -> None:
        """Send what is new, of all jobs or of one."""
        now = time.monotonic()
        for waiting, (_, _, _, _, deadline) in list(self._asked.items()):
            if now >= deadline:
                self._finish(waiting)
        homes = self._machine.abroad.jobs
        if not homes:
            return
        room = BYTES_PER_LOOK
        try:
            entries = [entry for entry in os.scandir(self._logs) if entry.name.startswith("worker-")]
        except OSError:
            return
        for entry in entries:
            worker = entry.name[len("worker-") :].partition(".")[0]
            theirs = self._job_of(worker)
            home = homes.get(theirs)
            if home is None or (job is not None and theirs != job):
                continue
            link = self._neighbours.links.get(home)
            if link is None or link.unsent_bytes() > UNSENT_BYTES_MAX:
                continue
            room -= self._send(entry, bytes.fromhex(worker), theirs, home, room)

    def _job_of(self, worker: str) -> int:
        job = self._jobs.get(worker)
        if job is None:
            try:
                job = int((self._claims / worker).read_text())
            except (OSError, ValueError):
                return 0
            self._jobs[worker] = job
        return job

    def _send(self, entry: os.DirEntry[str], worker: bytes, job: int, home: bytes, room: int) -> int:
        """Send what is new in one file, up to ``room`` bytes; returns how much that was."""
        offset, sent, dropped = self._offsets.get(entry.name, 0), 0, 0
        stream = entry.name.rpartition(".")[2]
        if stream not in _STREAMS:
            return 0
        try:
            size = entry.stat().st_size
            with open(entry.path, "rb") as file:
                gone = max(0, first_byte(file.fileno()) - offset)
                if gone:
                    dropped, offset = gone, offset + gone
                    self._emitter.logs_dropped(time.time_ns(), worker, job, gone)
                file.seek(offset)
                if size - offset > BEHIND_BYTES_MAX:
                    file.seek(size - BYTES_PER_LOOK)
                    file.readline(CHUNK_BYTES)
                    skipped, offset = file.tell() - offset, file.tell()
                    self._emitter.logs_dropped(time.time_ns(), worker, job, skipped)
                    dropped += skipped
                while sent < room and (data := file.read(min(CHUNK_BYTES, room - sent))):
                    # Behind the look at the output and before it on the link: it tells of all that is sent.
                    self._send_bylines(worker, job, home)
                    self._neighbours.send(home, encode(LogChunk(worker, job, stream, offset, data, dropped)))
                    sent, offset, dropped = sent + len(data), offset + len(data), 0
        except OSError:
            return sent
        self._offsets[entry.name] = offset
        return sent

    def _send_bylines(self, worker: bytes, job: int, home: bytes) -> None:
        path = path_of(self._session, worker.hex())
        offset = self._offsets.get(path.name, 0)
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read(CHUNK_BYTES)
        except OSError:
            return
        if data:
            self._neighbours.send(home, encode(LogChunk(worker, job, BYLINES, offset, data, 0)))
            self._offsets[path.name] = offset + len(data)

    # --- receiving -----------------------------------------------------------------------------------------

    def _received(self, node: bytes, message: LogChunk) -> None:
        worker, stream = message.worker, message.stream
        if len(worker) != 8 or stream not in (*_STREAMS, BYLINES) or mark_of(worker) != node[:4] or not message.job:
            return
        bylines = path_of(self._session, worker.hex())
        if stream == BYLINES:
            self._append(bylines, message.data)
            return
        directory = self._logs / REMOTE / node.hex()
        path = directory / f"worker-{worker.hex()}.{stream}"
        try:
            if not directory.is_dir():
                directory.mkdir(mode=0o700, parents=True)
                (directory / "name").write_text(self._name(node))
            self._claim(worker, message.job)
            with open(path, "a+b") as file:
                if message.dropped:
                    lose(bylines)
                    file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
                    begun = file.read() not in (b"", b"\n")
                    said = f"... {message.dropped} bytes left out here: they came too fast ..."
                    file.write(f"{chr(10) if begun else ''}{said}\n".encode())
                if file.tell() < FILE_BYTES_MAX:
                    file.write(message.data)
                    return
                if path not in self._full:
                    lose(bylines)
                    self._full.add(path)
                    where = f"node {self._name(node)}, file {path.name}"
                    file.write(f"\n... what follows is only at its own node: {where} ...\n".encode())
        except OSError:
            return
        self._emitter.logs_dropped(time.time_ns(), worker, message.job, len(message.data))

    def _append(self, path: Path, data: bytes) -> None:
        with contextlib.suppress(OSError), path.open("ab") as file:
            if file.tell() < FILE_BYTES_MAX:
                file.write(data)

    def _name(self, node: bytes) -> str:
        peer = self._machine.peers.peers.get(node)
        return (peer.facts.name if peer is not None else "") or node.hex()[:8]

    def _claim(self, worker: bytes, job: int) -> None:
        try:
            with open(self._claims / worker.hex(), "x") as file:
                file.write(str(job))
        except FileExistsError:
            pass

    # --- the last words ------------------------------------------------------------------------------------

    def ask(self, client: bytes, job: int, request: int) -> bool:
        """A driver is about to end: have all others send what they have for its job. False if there is nobody to
        ask.
        """
        nodes = set(self._neighbours.links)
        if not nodes or job in self._asked:
            return False
        self._asked[job] = (client, request, nodes, [], time.monotonic() + ANSWER_SECONDS_MAX)
        for node in nodes:
            self._neighbours.send(node, encode(LogsWanted(job)))
        return True

    def _wanted(self, node: bytes, message: LogsWanted) -> None:
        if self._machine.abroad.jobs.get(message.job) == node:
            self.look(message.job)
        self._neighbours.send(node, encode(LogsSent(message.job)))

    def _sent(self, node: bytes, message: LogsSent) -> None:
        asked = self._asked.get(message.job)
        if asked is not None and node in asked[2]:
            asked[2].discard(node)
            asked[3].append(node)
            if not asked[2]:
                self._finish(message.job)

    def _finish(self, job: int) -> None:
        client, request, _, nodes, _ = self._asked.pop(job)
        self._answer(client, request, nodes)

    def numbers(self) -> dict[str, Any]:
        """How far each file was sent, for tests and for whoever looks into a running node."""
        return dict(self._offsets)
