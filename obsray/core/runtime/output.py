"""What a worker prints, and whose it is.

stdout and stderr of a worker are files of the session, and all its tasks write to them, one after the other or at the
same time. Whenever somebody else begins to write, that is recorded with the place in the file (``output_began``), so
that every line can be told apart afterwards; so is who logged a log record, and how severe it is. It costs nothing
while the same attempt goes on writing, and an attempt that prints nothing costs a comparison.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from typing import TYPE_CHECKING, Any, TextIO

from obsray.core.runtime.running import Running, running_here
from obsray.core.system.bylines import STREAMS, Bylines, path_of
from obsray.ids import NIL_TASK
from obsray.telemetry.events import OutputStream
from obsray.telemetry.spine import NO_ROOM

if TYPE_CHECKING:
    from obsray.core.runtime.executor import Executor

#: After an attempt that ran at least this long it is looked whether something wrote past Python: a subprocess, C code.
LOOK_NS = 1_000_000
#: An attempt that goes on writing is recorded anew this often, so that its lines have a time.
AGAIN_NS = 1_000_000_000
#: Neither an attempt nor nobody (None): whoever writes next is somebody else.
_OVER: Any = object()


class Output(io.TextIOWrapper):
    """One of the two streams, line by line."""

    def __init__(self, stream: Any, kind: OutputStream, streams: Streams) -> None:
        encoding, errors = stream.encoding, stream.errors
        super().__init__(stream.detach(), encoding, errors, line_buffering=True)
        self.kind = kind
        self._streams = streams
        #: What ran where something was last written.
        self.last: Running | None = _OVER
        #: Whose the file is from the newest record on, and when that was.
        self.owner: Running | None = None
        self.marked_at = 0
        #: How long the file was when last looked at; nobody's writing since then was not.
        self.known = 0
        self.stale = False
        #: How much was lost since the disk is full.
        self.unwritten = 0

    def write(self, text: str) -> int:
        """As of any text stream."""
        if running_here() is not self.last or time.time_ns() - self.marked_at > AGAIN_NS:
            self._streams.changes(self)
        try:
            if self.unwritten:
                super().write(f"\n[obsray: {self.unwritten} characters are missing here, the disk was full]\n")
                self.unwritten = 0
            return super().write(text)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            # A task does not fail because nobody can keep what it prints.
            self.unwritten += len(text)
            return len(text)

    def size(self) -> int:
        """How long the file is, with what was buffered here."""
        try:
            self.flush()
            return os.fstat(self.fileno()).st_size
        except (OSError, ValueError):
            # The disk is full, or the program has closed its output.
            return self.known


class Streams:
    """Both streams of this worker. Made once, before it runs anything."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._emitter = executor.session.emitter
        self._pid = os.getpid()
        session = executor.session
        self._bylines = Bylines(path_of(session.directory, session.worker.hex()))
        #: The attempt that wrote last; nothing is to be done when another one ends quickly.
        self.writer: Running | None = None
        self._both = (Output(sys.stdout, OutputStream.OUT, self), Output(sys.stderr, OutputStream.ERR, self))
        sys.stdout, sys.stderr = self._both
        sys.__stdout__, sys.__stderr__ = self._both  # type: ignore[misc]
        self._plain_emit = logging.StreamHandler.emit
        logging.StreamHandler.emit = self._log_handler()  # type: ignore[method-assign]

    def changes(self, output: Output) -> None:
        """Somebody else than before is about to write, or it has been a while."""
        here = running_here()
        writer = here if here is not None else self._only()
        now = time.time_ns()
        output.stale = output.stale or writer is None
        if writer is not output.owner or (writer is not None and now - output.marked_at > AGAIN_NS):
            self._mark(output, writer, output.size(), now)
        output.last, output.marked_at, self.writer = here, now, writer

    def ended(self, running: Running) -> None:
        """An attempt is over: what it left unwritten is written, and what it had others write is told."""
        alone = self._executor.actor is None or not self._executor.actor.concurrent
        for output in self._both:
            size = output.size()
            if alone and not output.stale and size > output.known and output.owner is not running:
                self._mark(output, running, output.known, time.time_ns())
            if output.owner is running:
                output.owner = _OVER
            if output.owner is _OVER or alone:
                output.last, output.known, output.stale = _OVER, size, False
        if self.writer is running:
            self.writer = None

    def _mark(self, output: Output, writer: Running | None, offset: int, now: int, record: Any = None) -> None:
        output.owner, output.marked_at, output.known = writer, now, offset
        if os.getpid() != self._pid:
            # A child that user code has forked must not write into our records.
            return
        self._bylines.tell(STREAMS[output.kind], offset, self._name(writer))
        level = logger = 0
        if record is not None:
            level, logger = self._emitter.intern(record.levelname), self._emitter.intern(record.name)
        task, attempt, actor = (
            (writer.task, writer.attempt, writer.actor) if writer is not None else (NIL_TASK, 0, bytes(16))
        )
        self._emitter.output_began(now, task, attempt, actor, int(output.kind), offset, level, logger)

    def _name(self, writer: Running | None) -> str:
        """Who writes, for people: the actor whose process this is, or the task."""
        actor = self._executor.actor
        if actor is not None:
            return str(actor.byline)
        if writer is None:
            return ""
        return str((writer.options or {}).get("name") or writer.loaded.name)

    def _only(self) -> Running | None:
        """For a thread of user code: the attempt that runs here, if it is the only one."""
        slots = list(self._executor.slots.values())
        return slots[0] if len(slots) == 1 else None

    def _log_handler(self) -> Any:
        plain = self._plain_emit

        def emit(handler: logging.StreamHandler[TextIO], record: logging.LogRecord) -> None:
            output = handler.stream
            if type(output) is not Output:
                plain(handler, record)
                return
            here = running_here()
            writer = here if here is not None else self._only()
            self._mark(output, writer, output.size(), time.time_ns(), record)
            self.writer = writer
            output.last, output.marked_at = here, time.time_ns()
            plain(handler, record)
            # What comes next was not logged.
            output.last = output.owner = _OVER
            output.known = output.size()

        return emit
