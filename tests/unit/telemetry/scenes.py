"""Small sessions written record by record: what a node, a driver and workers record while one thing goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from unittest import mock

from obsray import ids
from obsray.telemetry import log_files, session_file
from obsray.telemetry.events import (
    DeathCause,
    DispatchReason,
    LeaseOutcome,
    Outcome,
    OutputStream,
    ProcessKind,
    Reason,
    TaskType,
    WaitKind,
)
from obsray.telemetry.log_search import LogQuery, LogSearch
from obsray.telemetry.spine import Ring
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views

NS = 1_000_000_000
MS = 1_000_000
NODE = bytes([9]) * 8
OTHER_NODE = bytes([8]) * 8


class Scene:
    """A session in the making. ``now`` is its clock; every call takes a millisecond unless it says how long."""

    def __init__(self, directory: Path) -> None:
        (directory / "rings").mkdir(parents=True)
        self.directory = directory
        self.now = time.time_ns() - 1000 * NS
        self.rings: dict[bytes, Ring] = {}
        self.node = self._ring(NODE, ProcessKind.NODE)
        self.driver = self._ring(bytes([1]) * 8, ProcessKind.DRIVER)
        self._tasks: dict[bytes, int] = {}
        self._names: dict[bytes, tuple[str, str]] = {}
        self._started: dict[bytes, int] = {}
        self._leases = self._decisions = self._workers = self._objects = 0
        host = self.node.intern("host")
        self.node.node_started(self.now, NODE, 1, host, 1 << 30, host, True, self.node.intern("zone=a"))
        self.node.job_started(self.tick(), 1, self.driver.process, 1, 0, 0, 0)
        self.resources(CPU=2.0)

    def _ring(self, process: bytes, kind: ProcessKind, node: bytes = NODE) -> Ring:
        with mock.patch("obsray.telemetry.spine.time.time_ns", lambda: self.now):
            ring = self.rings[process] = Ring(self.directory / "rings", process, kind, node)
        return ring

    def tick(self, seconds: float = 0.001) -> int:
        """Time passes; the new time."""
        self.now += int(seconds * NS)
        return self.now

    def views(self) -> Views:
        """The session as a reader sees it, a moment later."""
        self.resources(**self._resources)
        return Views(Store.open(self.directory))

    def resources(self, **amounts: float) -> None:
        self._resources = amounts
        for name, total in amounts.items():
            self.node.resource_sample(self.tick(), self.node.intern(name), total, 0.0)

    # --- processes ----------------------------------------------------------------------------------------

    def worker(self, ready: bool = True, node: bytes = NODE) -> bytes:
        """A worker process, that is there or is starting."""
        self._workers += 1
        process = bytes([100 + self._workers]) * 4 + node[:4]
        self.node.worker_starting(self.tick(), process, int(Reason.CAPACITY_FREE), bytes(8))
        if ready:
            self._ring(process, ProcessKind.WORKER, node)
            self.node.worker_registered(self.tick(0.01), process, 1000 + self._workers, int(ProcessKind.WORKER), 0.01)
        return process

    def die(self, worker: bytes, cause: DeathCause, task: bytes = ids.NIL_TASK, rss: int = 0, text: str = "") -> None:
        self.node.worker_died(self.tick(), worker, 1, int(cause), 0, 9, rss, task, self.node.intern(text))

    # --- tasks --------------------------------------------------------------------------------------------

    def submit(
        self, name: str, shape: str = "CPU:1", needs: tuple[bytes, ...] = (), owner: bytes | None = None,
        actor: bytes = ids.NIL_TASK, parent: bytes = ids.NIL_TASK, kind: TaskType = TaskType.TASK, retries: int = 3,
        argument_bytes: int = 100,
    ) -> bytes:  # fmt: skip
        """A task is submitted; ``needs`` are the objects that do not exist yet."""
        ring = self.rings[owner or self.driver.process]
        number = self._tasks[ring.process] = self._tasks.get(ring.process, 0) + 1
        task = ids.task_id(ring.process, number)
        self._names[task] = name, shape
        ring.task_submitted(
            self.tick(), task, parent, task, actor, ring.intern(name), ring.intern(shape), 1, len(needs), len(needs),
            int(kind), retries, argument_bytes,
        )  # fmt: skip
        for needed in needs:
            ring.task_arguments_waiting(self.tick(), task, needed)
        return task

    def result(self, task: bytes) -> bytes:
        return ids.object_id(task)

    def ready(self, task: bytes, last: bytes) -> None:
        self.rings[ids.owner_of(task)].task_ready(self.tick(), task, last)

    def dispatch(self, task: bytes, worker: bytes, shape: str | None = None) -> None:
        ring = self.rings[ids.owner_of(task)]
        ring.tasks_dispatched(
            self.tick(), worker, 1, 1, ring.intern(self._names[task][1] if shape is None else shape), 1, 0, 1,
            int(DispatchReason.LEASE_GRANTED), task,
        )  # fmt: skip

    def start(self, task: bytes, worker: bytes, attempt: int = 0, actor: bytes = ids.NIL_TASK) -> None:
        """The task runs on a worker from now on."""
        ring, name = self.rings[worker], self._names[task][0]
        began = self._started[task] = self.tick()
        ring.running(0, task, began, ring.intern(name), attempt)
        ring.task_started(
            self.tick(0.005), task, attempt, 1, 1, actor, ring.intern(name), began - 2 * MS, began - MS, began
        )
        ring.told(0, began)

    def block(self, task: bytes, worker: bytes, wanted: bytes, kind: WaitKind = WaitKind.GET, count: int = 1) -> None:
        self.rings[worker].task_blocked(self.tick(), task, int(kind), count, wanted)

    def end(
        self, task: bytes, worker: bytes, seconds: float = 0.1, outcome: Outcome = Outcome.OK, attempt: int = 0,
        fetch: float = 0.0, cpu: float | None = None, error: str = "", result: int = 10, blocked: float = 0.0,
        actor: bytes = ids.NIL_TASK, store: float = 0.0, dispatched: int = 0,
    ) -> None:  # fmt: skip
        """The task has run for so long on a worker and is over, for its owner too."""
        ring, name = self.rings[worker], self._names[task][0]
        began = self._started.pop(task, 0) or self.tick()
        at = self.now = max(self.now, began + int((seconds + fetch + blocked + store) * NS))
        ring.task_ended(
            at, task, attempt, 1, 1, actor, ring.intern(name), dispatched or began - 2 * MS, began - MS, began,
            int(outcome), fetch, 0.0, seconds, store, seconds if cpu is None else cpu, blocked, result,
        )  # fmt: skip
        ring.idle(0)
        self.over(task, outcome, attempt, error, result)

    def over(self, task: bytes, outcome: Outcome, attempt: int = 0, error: str = "", result: int = 0) -> None:
        ring = self.rings[ids.owner_of(task)]
        ring.task_finished(self.tick(), task, attempt, int(outcome), result, ring.intern(error))

    def retry(self, task: bytes, worker: bytes, outcome: Outcome, error: str, attempt: int = 0) -> None:
        ring = self.rings[ids.owner_of(task)]
        ring.task_retried(self.tick(), task, attempt, int(outcome), worker, 0.0, ring.intern(error))

    def run(self, name: str, worker: bytes, seconds: float = 0.1, **options: Any) -> bytes:
        """A task from its submission to its end."""
        shape = options.pop("shape", "CPU:1")
        task = self.submit(name, shape)
        self.dispatch(task, worker)
        self.end(task, worker, seconds, **options)
        return task

    # --- the scheduler ------------------------------------------------------------------------------------

    def decide(
        self, shape: str, outcome: LeaseOutcome, reason: Reason, deficit: str = "", worker: bytes = bytes(8),
        owner: bytes | None = None, group: bytes = ids.NIL_TASK, chosen: bytes = bytes(8), wanted: int = 1,
    ) -> None:  # fmt: skip
        owner = owner or self.driver.process
        node = self.node
        node.lease_requested(self.tick(), owner, node.intern(shape), wanted, wanted)
        self._decisions += 1
        lease = 0
        if outcome is LeaseOutcome.GRANTED:
            self._leases += 1
            lease = self._leases
        node.lease_decided(
            self.tick(), self._decisions, owner, node.intern(shape), int(outcome), int(reason), chosen, worker, lease,
            wanted, 1, 0.0, 1, node.intern(deficit), group, -1,
        )  # fmt: skip
        node.lease_candidate(
            self.now, self._decisions, NODE, int(outcome is not LeaseOutcome.INFEASIBLE), int(reason), 1.5, 0, 0.1, 0,
            0.0, node.intern(deficit),
        )  # fmt: skip

    def queued(self, shape: str, reason: Reason, deficit: str = "", **options: Any) -> None:
        self.decide(shape, LeaseOutcome.QUEUED, reason, deficit, **options)

    def grant(self, shape: str, worker: bytes, **options: Any) -> None:
        self.decide(shape, LeaseOutcome.GRANTED, Reason.CAPACITY_FREE, worker=worker, chosen=NODE, **options)

    def busy(self, name: str = "hog", shape: str = "CPU:1") -> tuple[bytes, bytes]:
        """A worker that was leased and runs a task: (worker, task)."""
        worker = self.worker()
        self.grant(shape, worker)
        task = self.submit(name, shape)
        self.dispatch(task, worker)
        self.start(task, worker)
        return worker, task

    # --- actors, groups, objects --------------------------------------------------------------------------

    def actor(self, class_name: str = "Counter", alive: bool = True, shape: str = "Counter") -> tuple[bytes, bytes]:
        """An actor, alive on a worker of its own or waiting for one: (actor, worker)."""
        self._objects += 1
        actor = ids.task_id(self.driver.process, self._objects, ids.SEQUENCE_ACTOR)
        driver = self.driver
        driver.actor_created(
            self.tick(), actor, actor, driver.intern(class_name), 0, 0, driver.intern(shape), 1, 0, 1, ids.NIL_TASK
        )
        if not alive:
            return actor, b""
        worker = self.worker()
        self.node.actor_placed(self.tick(), actor, worker, NODE, 0.01, 0)
        self.node.actor_alive(self.tick(), actor, worker, 0, 0.01, 7)
        return actor, worker

    def call(self, actor: bytes, name: str, needs: tuple[bytes, ...] = (), owner: bytes | None = None) -> bytes:
        return self.submit(name, "", needs, owner, actor, kind=TaskType.ACTOR_CALL, retries=0)

    def group(self, deficit: str = "", reason: Reason = Reason.NO_CAPACITY, name: str = "trainers") -> bytes:
        """A placement group that waits."""
        self._objects += 1
        group = ids.task_id(self.driver.process, self._objects, ids.SEQUENCE_GROUP)
        node = self.node
        node.group_requested(
            self.tick(), group, self.driver.process, node.intern(name), 0, node.intern("PACK"), 1, 0, 1,
            node.intern("CPU:40000"),
        )  # fmt: skip
        node.group_waiting(self.tick(), group, int(reason), 1, node.intern(deficit))
        return group

    def put(
        self, size: int = 1000, worker: bytes | None = None, stored: bool = True, site: str = "train.py:30"
    ) -> bytes:
        """A value of a process' own."""
        self._objects += 1
        ring = self.rings[worker or self.driver.process]
        identifier = ids.object_id(ids.task_id(ring.process, self._objects, ids.SEQUENCE_PUT))
        ring.object_put(self.tick(), identifier, ids.NIL_TASK, size, int(not stored), ring.intern(site))
        if stored:
            self.node.object_created(self.tick(), identifier, ring.process, size, 0.0)
            self.node.object_sealed(self.tick(), identifier, ring.process, size)
        return identifier


class Logs(Scene):
    """A scene whose workers write."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        session_file.update(directory, node=NODE.hex())

    def file(self, worker: bytes, stream: str = "out", node: bytes = NODE) -> Path:
        own = self.directory / "logs"
        directory = own if node == NODE else own / log_files.NODES / node.hex()
        directory.mkdir(parents=True, exist_ok=True)
        return directory / f"worker-{worker.hex()}.{stream}"

    def write(
        self, worker: bytes, task: bytes | None, text: str, stream: str = "out", level: str = "", logger: str = "",
        mark: bool = True, node: bytes = NODE,
    ) -> None:  # fmt: skip
        """Append to a worker's file, and record who does."""
        path, ring = self.file(worker, stream, node), self.rings[worker]
        size = path.stat().st_size if path.exists() else 0
        if mark:
            ring.output_began(
                self.tick(), task or ids.NIL_TASK, 0, bytes(16), int(OutputStream[stream.upper()]), size,
                ring.intern(level), ring.intern(logger),
            )  # fmt: skip
        with path.open("ab") as file:
            file.write(text.encode())

    def find(self, **asked: object) -> list[dict]:
        views = self.views()
        views.refresh()
        return LogSearch(views, LogQuery.read(views.now_ns(), **asked)).newest()
