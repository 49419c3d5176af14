"""The nouns of ``dispatch.py``: what is run, what a worker must be for it, and a worker one has."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from obsray.core.protocol.messages import LEASE_NUMBER_MASK
from obsray.core.runtime.ownership import Task
from obsray.telemetry.events import DispatchReason


class Function:
    """A function or actor class as its owner sends it: by value, once per worker."""

    __slots__ = ("blob", "id", "max_calls", "mean_ns", "name", "streaming")

    def __init__(self, identifier: bytes, name: str, blob: bytes, max_calls: int = 0) -> None:
        self.id = identifier
        self.name = name
        self.blob = blob
        self.max_calls = max_calls
        #: Running mean of its run time in nanoseconds; 0 while it has never returned.
        self.mean_ns = 0
        self.streaming = False


class Shape:
    """A scheduling class: what a worker must have and be to run these tasks, and where it must be.

    ``inherited`` is what those tasks know of where they run: their placement group, and whether what they submit goes
    there too. ``refusal``: why no task of this shape will ever run, as in ``ShapeRefused``. ``base``: the shape
    that this one is a variant of, for tasks whose arguments lie on another node.
    """

    __slots__ = (
        "base", "inherited", "keeping", "leases", "name", "name_number", "number", "placement", "queue", "refusal",
        "resources", "runtime", "spread", "unsorted", "wanted",
    )  # fmt: skip

    def __init__(
        self, number: int, name: str, name_number: int, resources: dict[str, int], runtime: Any,
        inherited: dict[str, Any] | None = None, placement: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.base = self
        self.placement = placement
        #: Each task is to be placed by itself.
        self.spread = bool(placement and placement.get("spread"))
        self.number = number
        self.name = name
        self.name_number = name_number
        self.resources = resources
        self.runtime = runtime
        #: First those that a worker had already, oldest first, then those that never left the line.
        self.queue: deque[Task] = deque()
        #: Some of the former were put at the front since somebody looked at their order.
        self.unsorted = False
        #: Tasks that pause and keep their place: a worker is left for each.
        self.keeping: list[Task] = []
        self.leases: list[Lease] = []
        self.inherited = inherited
        self.refusal: tuple[str, str] | None = None
        #: What the node was last told this process wants more than it holds.
        self.wanted = 0

    def put_back(self, task: Task) -> None:
        """A task that a worker had goes before all that none had."""
        self.queue.appendleft(task)
        self.unsorted = True

    def sort(self) -> None:
        """Those that came back are oldest first again, in whatever order they came."""
        self.unsorted = False
        queue, back = self.queue, list[Task]()
        while queue and queue[0].estimate_ns:
            back.append(queue.popleft())
        back.sort(key=_id_of, reverse=True)
        queue.extendleft(back)


def _id_of(task: Task) -> bytes:
    return task.id


class Suspect(NamedTuple):
    """The task that a worker seemed to be held up by when what was behind it was recalled."""

    task: bytes
    late_ns: int
    function: Function
    #: Mean run time of its function before.
    mean_ns: int


class Lease:
    """A worker that is this process' own until it is returned."""

    __slots__ = (
        "batch",
        "blocked",
        "context",
        "granted_at",
        "heard",
        "id",
        "idle_since",
        "in_flight",
        "load_ns",
        "number",
        "outgoing",
        "progress_at",
        "reason",
        "recalled",
        "reclaimed",
        "retire",
        "shape",
        "suspect",
        "tasks",
        "worker",
    )  # fmt: skip

    def __init__(self, identifier: int, shape: Shape, worker: bytes, context: dict[str, Any], now: float) -> None:
        self.id = identifier
        #: What records show of it.
        self.number = identifier & LEASE_NUMBER_MASK
        self.shape = shape
        self.worker = worker
        #: Sent with the first push: devices, resources, job.
        self.context: dict[str, Any] | None = context
        self.in_flight: dict[bytes, Task] = {}
        self.outgoing: list[tuple[Any, ...]] = []
        self.load_ns = 0
        self.batch = 0
        self.tasks = 0
        self.blocked = False
        #: It was asked for what it has not begun, and has not answered yet.
        self.recalled = False
        #: How often tasks came back from it.
        self.heard = 0
        self.reclaimed = False
        self.retire = False
        self.suspect: Suspect | None = None
        self.granted_at = now
        self.idle_since = now
        self.progress_at = now
        self.reason = DispatchReason.LEASE_GRANTED

    def forget(self, task: Task) -> None:
        """The task is no longer in flight here."""
        if self.in_flight.pop(task.id, None) is not None:
            self.load_ns -= task.estimate_ns
            if not self.in_flight:
                self.load_ns = 0
