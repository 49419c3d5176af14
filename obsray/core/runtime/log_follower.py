"""What tasks and actors print reaches the terminal of the driver that started them, and no other's.

Workers write to files of the session, which outlive them; this follows the files, whole lines only, each with the task
or actor that wrote it in front (``system/bylines.py``), its process, and its node if that is another one (which sends
them here, ``node/log_mirror.py``). The files stay the truth: a line that several workers print is shown once and then
counted, nothing in a line steers the terminal (``repeats.py``), and what is shown here may lag by ``POLL_SECONDS``.

A worker says whose it is before it runs anything for a job: ``jobs/<worker>`` holds the job's number. It works for no
other afterwards. What nobody claims (a process that did not start) is for the driver that started the runtime.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import TextIO

from obsray.core.runtime.bars import bars, read_mark
from obsray.core.runtime.repeats import Repeats, harmless
from obsray.core.system.bylines import Reader, path_of
from obsray.telemetry.log_bounds import first_byte, missing

POLL_SECONDS = 0.2
READ_BYTES_MAX = 1 << 20


CLAIMS = "jobs"
#: Below ``logs``: a directory for each other node, with its ``name`` and copies of what workers print there.
REMOTE = "remote"


def claim_output(session: Path, worker: bytes, job: int) -> None:
    """A worker of job ``job`` (0: of none yet) says that what it prints is for that job's driver."""
    if job:
        try:
            with open(session / CLAIMS / worker.hex(), "x") as file:
                file.write(str(job))
        except OSError:
            # It said so before, or the session ends.
            pass


class LogFollower:
    """Follows ``worker-*.out`` and ``.err`` of one job's workers on a thread of its own, until ``stop``.

    ``unclaimed``: those that belong to no job as well. ``bare``: lines as they are, with nothing in front, for programs
    whose ``logging_config`` says what a line looks like (a line of JSON stays one). ``ended``: workers that have ended
    are put there, after the last of what they print was written; bars that they had not closed end then.
    """

    def __init__(
        self,
        session: Path,
        job: int,
        unclaimed: bool = True,
        dedup_seconds: float = 0.0,
        bare: bool = False,
        ended: deque[str] | None = None,
    ) -> None:
        self._repeats = Repeats(dedup_seconds)
        self._session = session
        self._directory = session / "logs"
        self._claims = session / CLAIMS
        self._job = job
        self._unclaimed = unclaimed
        self._bare = bare
        self._jobs: dict[str, int] = {}
        self._offsets: dict[str, int] = {}
        #: Worker -> who wrote which of its lines.
        self._bylines: dict[str, Reader] = {}
        #: File -> what is said of the node it comes from, if that is not the driver's own.
        self._nodes: dict[str, str] = {}
        self._ended: deque[str] = deque() if ended is None else ended
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="obsray-logs", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Show what is still unshown and end."""
        self._stopping.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            self._poll(final=False)
        self._poll(final=True)

    def _poll(self, final: bool) -> None:
        ended = [self._ended.popleft() for _ in range(len(self._ended))]
        for entry in self._entries():
            try:
                # The size first: whoever claims a file does so before writing to it.
                while (
                    entry.stat().st_size > self._offsets.get(entry.name, 0)
                    and self._is_mine(entry.name)
                    and self._show(entry, final)
                ):
                    pass
            except (OSError, ValueError):
                # The file went with its session, or the program has closed its own output: nothing left to show.
                continue
        for worker in ended:
            bars.end_of(worker)
        if final:
            bars.end_others()
        bars.tick()
        try:
            for stream, line in self._repeats.due(None if final else time.monotonic()):
                _stream(stream).write(line + "\n")
                _stream(stream).flush()
        except (OSError, ValueError):
            # The program has closed its own output.
            pass

    def _entries(self) -> list[os.DirEntry[str]]:
        """The files of workers here, and copies of those of workers elsewhere."""
        try:
            found = [entry for entry in os.scandir(self._directory) if entry.name.startswith("worker-")]
        except OSError:
            return []
        try:
            nodes = list(os.scandir(self._directory / REMOTE))
        except OSError:
            return found
        for node in nodes:
            try:
                theirs = [entry for entry in os.scandir(node.path) if entry.name.startswith("worker-")]
                name = Path(node.path, "name").read_text()
            except OSError:
                # It is being made, or the session has ended.
                continue
            self._nodes.update({entry.name: f", node {name}" for entry in theirs})
            found += theirs
        return found

    def _is_mine(self, name: str) -> bool:
        worker = name.removeprefix("worker-").partition(".")[0]
        job = self._jobs.get(worker)
        if job is None:
            try:
                job = int((self._claims / worker).read_text())
            except FileNotFoundError:
                return self._unclaimed
            except ValueError:
                # It is being written.
                return False
            self._jobs[worker] = job
        return job == self._job

    def _show(self, entry: os.DirEntry[str], final: bool) -> bool:
        """Show one piece of one file. False if there is no whole line in it yet."""
        offset = self._offsets.get(entry.name, 0)
        with open(entry.path, "rb") as file:
            begin = first_byte(file.fileno())
            if begin > offset:
                # It was written faster than it is read here, and is not kept.
                stream = _stream(entry.name.rpartition(".")[2])
                stream.write(missing(begin - offset) + "\n")
                self._offsets[entry.name] = offset = begin
            file.seek(offset)
            data = file.read(READ_BYTES_MAX)
        # A line without its end waits for it, unless there is nothing to wait for or it is absurdly long.
        end = len(data) if final or len(data) == READ_BYTES_MAX else data.rfind(b"\n") + 1
        if not end:
            return False
        self._offsets[entry.name] = offset + end
        worker, _, kind = entry.name.removeprefix("worker-").rpartition(".")
        bylines = self._bylines.get(worker)
        if bylines is None:
            bylines = self._bylines[worker] = Reader(path_of(self._session, worker))
        bylines.read()
        now, shown, node = time.monotonic(), [], self._nodes.get(entry.name, "")
        for part in data[:end].splitlines(keepends=True):
            name = " ".join(harmless(bylines.name_at(kind, offset)).split())
            offset += len(part)
            who = f"{name} pid={bylines.pid}".lstrip() if bylines.pid else f"worker {worker[:8]}"
            prefix = "" if self._bare else f"({who}{node}) "
            for line in part.decode("utf-8", "replace").splitlines():
                bar = read_mark(line)
                if bar is not None:
                    identifier, position, over, text = bar
                    bars.show(f"{worker}/{identifier}", f"{prefix}{text}", worker, position, over)
                    continue
                line = harmless(line)
                if self._repeats.shows(kind, line, worker, prefix, now):
                    shown.append(f"{prefix}{line}\n")
        stream = _stream(kind)
        stream.write("".join(shown))
        stream.flush()
        return True


def _stream(kind: str) -> TextIO:
    return sys.stderr if kind == "err" else sys.stdout
