"""One attempt of a task in a worker."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

_running: ContextVar[Running | None] = ContextVar("obsray_running", default=None)
#: The attempt that runs here, None in a driver: as ``Here.running``, without looking at a session.
running_here = _running.get
_trace: ContextVar[bytes | None] = ContextVar("obsray_trace", default=None)


class Here:
    """What the code that asks is part of: of its thread, or of its coroutine, across every ``await``."""

    __slots__ = ()

    @property
    def running(self) -> Running | None:
        """The attempt that runs here; None in a driver."""
        return _running.get()

    @running.setter
    def running(self, value: Running | None) -> None:
        _running.set(value)

    @property
    def trace(self) -> bytes | None:
        """The trace (16 bytes) that submissions from here belong to, if they are not to start one each."""
        return _trace.get()

    @trace.setter
    def trace(self, value: bytes | None) -> None:
        _trace.set(value)


class Running:
    """One attempt in a worker: as it arrived, and what its thread is doing with it.

    ``task`` .. ``options`` are ``messages.TASK_FIELDS``; the rest is about this push and this execution.
    """

    __slots__ = (
        "actor",
        "arguments",
        "arrived_at",
        "attempt",
        "batch",
        "blocked_in_run_ns",
        "blocked_ns",
        "borrowed",
        "cancelled",
        "context",
        "cpu_started",
        "dispatched_at",
        "fetched_at",
        "gpu",
        "lease",
        "link",
        "loaded",
        "made",
        "marked",
        "number",
        "options",
        "payload",
        "ready_at",
        "returns",
        "slot",
        "started_at",
        "task",
        "trace",
    )

    def __init__(
        self,
        link: Any,
        lease: int,
        batch: int,
        dispatched_at: int,
        context: dict[str, Any],
        arrived_at: int,
        fields: tuple[Any, ...],
    ) -> None:
        self.link = link
        self.lease = lease
        self.batch = batch
        self.dispatched_at = dispatched_at
        #: Devices, resources and job of the lease.
        self.context = context
        self.arrived_at = arrived_at
        (
            self.task,
            self.attempt,
            self.number,
            self.payload,
            self.arguments,
            self.returns,
            self.trace,
            self.options,
        ) = fields
        self.loaded: Any = None
        self.actor = bytes(16)
        self.slot = 0
        self.started_at = 0
        self.fetched_at = 0
        self.ready_at = 0
        #: Thread CPU time at the start, -1 if not read.
        self.cpu_started = -1
        self.marked = False
        #: What a generator of several values has yielded so far, while it runs or if it raised.
        self.made: Any = None
        self.cancelled = False
        #: What its GPU work is known by, 0 if none is captured.
        self.gpu = 0
        self.blocked_ns = 0
        #: The part of it while user code ran; -1 until that has ended.
        self.blocked_in_run_ns = -1
        #: Ids of other owners' objects that came in with the arguments.
        self.borrowed: list[bytes] | None = None
