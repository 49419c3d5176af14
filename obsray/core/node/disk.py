"""Shell: the slow work of the object store (pages, files) in threads, so that the node's loop never waits for it.

Each job ends in a callback on the node's own thread, posted through the reactor.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from obsray.core.node.step import MakeFile, ReserveArena, RestoreObject, SpillObject
from obsray.core.protocol.fallback import FALLBACK
from obsray.core.system.arena import Arena
from obsray.core.system.spill import check_object, make_file, read_object, write_object

SPILL_THREADS = 2

Job = Callable[[], None]


class Disk:
    """``post`` runs a callable on the node's thread; the four others are told how a job ended."""

    def __init__(
        self,
        arena: Arena,
        post: Callable[[Job], None],
        reserved: Callable[[int, str], None],
        spilled: Callable[[int, str, float, str], None],
        restored: Callable[[int, float, str], None],
        file_made: Callable[[int, str, str], None],
    ) -> None:
        self._arena = arena
        self._post = post
        self._reserved = reserved
        self._spilled = spilled
        self._restored = restored
        self._file_made = file_made
        self._pages: SimpleQueue[Job | None] = SimpleQueue()
        self._files: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: dict[str, threading.Thread] = {}

    def reserve(self, effect: ReserveArena) -> None:
        """Make pages exist, in a thread of its own: nobody who needs them waits behind a spill."""

        def job() -> None:
            error = ""
            try:
                self._arena.reserve(effect.start, effect.end)
            except OSError as failure:
                error = failure.strerror or str(failure)
            self._post(lambda: self._reserved(effect.end, error))

        self._run("pages", self._pages, 1, job)

    def spill(self, effect: SpillObject) -> None:
        """Write an object to its file."""

        def job() -> None:
            started, error = time.monotonic(), ""
            try:
                write_object(effect.path, effect.object, self._arena.view(effect.offset, effect.size))
            except OSError as failure:
                error = f"{effect.path}: {failure.strerror or failure}"
            seconds = time.monotonic() - started
            self._post(lambda: self._spilled(effect.token, effect.path, seconds, error))

        self._run("files", self._files, SPILL_THREADS, job)

    def make_file(self, effect: MakeFile) -> None:
        """Make a file into which an object is written in place."""

        def job() -> None:
            error = ""
            try:
                make_file(effect.path, effect.size)
            except OSError as failure:
                error = f"{effect.path}: {failure.strerror or failure}"
            self._post(lambda: self._file_made(effect.number, effect.path, error))

        self._run("files", self._files, SPILL_THREADS, job)

    def restore(self, effect: RestoreObject) -> None:
        """Read an object back from its file, or see whether it can be mapped there."""

        def job() -> None:
            started, error = time.monotonic(), ""
            try:
                if effect.offset < FALLBACK:
                    read_object(effect.path, effect.object, self._arena.view(effect.offset, effect.size))
                else:
                    check_object(effect.path, effect.object, effect.size)
            except (OSError, ValueError) as failure:
                error = getattr(failure, "strerror", None) or str(failure)
            seconds = time.monotonic() - started
            self._post(lambda: self._restored(effect.token, seconds, error))

        self._run("files", self._files, SPILL_THREADS, job)

    def remove(self, path: str) -> None:
        """Delete a file, after whatever is being read or written now."""

        def job() -> None:
            try:
                os.unlink(path)
            except OSError:
                # Gone already, or its directory is: what matters is that it is not there.
                pass

        self._run("files", self._files, SPILL_THREADS, job)

    def remove_directory(self, path: Path) -> None:
        """Delete a directory with what is in it, if it is there."""
        self._run("files", self._files, SPILL_THREADS, lambda: shutil.rmtree(path, ignore_errors=True))

    def do(self, work: Callable[[], Any], done: Callable[[Any, str], None]) -> None:
        """Have ``work`` done; ``done`` is told what it returned, or why it could not be done."""

        def job() -> None:
            value, error = None, ""
            try:
                value = work()
            except OSError as failure:
                error = f"{failure.filename or 'a file'}: {failure.strerror or failure}"
            self._post(lambda: done(value, error))

        self._run("files", self._files, SPILL_THREADS, job)

    def _run(self, name: str, queue: SimpleQueue[Job | None], count: int, job: Job) -> None:
        for number in range(count):
            key = f"{name}-{number}"
            if key not in self._threads:
                thread = threading.Thread(target=_work, args=(queue,), name=f"obsray-{key}", daemon=True)
                self._threads[key] = thread
                thread.start()
        queue.put(job)

    def close(self, seconds: float) -> None:
        """Let the threads end; one that is stuck in the disk is left to the end of the process."""
        for name in self._threads:
            (self._pages if name.startswith("pages") else self._files).put(None)
        deadline = time.monotonic() + seconds
        for thread in self._threads.values():
            thread.join(max(0.0, deadline - time.monotonic()))


def _work(queue: SimpleQueue[Job | None]) -> None:
    while (job := queue.get()) is not None:
        job()
