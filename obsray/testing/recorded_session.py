"""A session directory as a run would leave it, written through real rings: for tests of whatever reads telemetry.

The run: a driver calls ``word_count`` (short), ``matrix`` (returns arrays) and ``flaky`` (fails now and then) on a
few workers, keeps an actor ``Counter``, puts objects, spills one. One worker is killed by signal 9 while it runs
``word_count``; its task is retried elsewhere. At the end some tasks still run, wait for a CPU or wait for arguments.
Everything is decided by ``seed``.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from struct import pack_into

from obsray import ids
from obsray.gpu.words import Attribution, Direction, Memory, WaitingFor
from obsray.telemetry import session_file
from obsray.telemetry.events import (
    DeathCause,
    DispatchReason,
    LeaseOutcome,
    Outcome,
    ProcessKind,
    Reason,
    ScalingCause,
    ScalingVerdict,
    TaskType,
    WaitKind,
)
from obsray.telemetry.spine import Ring

#: A pid that no process has: above what Linux gives out.
DEAD_PID = (1 << 22) + 1
_NS = 1_000_000_000
#: The GPU that the matrices go to.
_GPU = 7


@dataclass
class Recorded:
    """What was recorded, for assertions: ids as raw bytes, counts of tasks by what became of them."""

    directory: Path
    node: bytes = b""
    driver: bytes = b""
    workers: list[bytes] = field(default_factory=list)
    killed_worker: bytes = b""
    killed_task: bytes = b""
    failed_task: bytes = b""
    running_task: bytes = b""
    blocked_task: bytes = b""
    queued_task: bytes = b""
    waiting_task: bytes = b""
    actor: bytes = b""
    group: bytes = b""
    waiting_group: bytes = b""
    put_object: bytes = b""
    spilled_object: bytes = b""
    result_object: bytes = b""
    submitted: int = 0
    finished: int = 0
    failed: int = 0
    cancelled: int = 0
    pending: int = 0
    events: int = 0
    started_at_ns: int = 0
    ended_at_ns: int = 0


def record_session(
    directory: Path, tasks: int = 200, workers: int = 3, seed: int = 1, live: bool = True, at_ns: int | None = None
) -> Recorded:
    """Write a session with ``tasks`` finished tasks into ``directory`` (made if missing) and say what is in it.

    ``live``: the session looks as if it still ran (its processes have this process' pid); otherwise all of them are
    dead. ``at_ns`` is the time of its last events, now if None.
    """
    return _Recording(Path(directory), tasks, workers, seed, live, at_ns or time.time_ns()).run()


class _Recording:
    def __init__(self, directory: Path, tasks: int, workers: int, seed: int, live: bool, at_ns: int) -> None:
        self.chance = random.Random(seed)
        self.tasks = tasks
        self.live = live
        self.end = at_ns
        self.start = at_ns - max(20, tasks // 50) * _NS
        self.directory = directory
        for name in ("rings", "telemetry", "logs", "sockets", "spill"):
            (directory / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        self.made = Recorded(directory, started_at_ns=self.start, ended_at_ns=at_ns)
        self.made.node = self.chance.randbytes(8)
        self.rings: dict[bytes, Ring] = {}
        self.made.driver = self._ring(ProcessKind.DRIVER)
        self.node_ring = self._ring(ProcessKind.NODE)
        self.made.workers = [self._ring(ProcessKind.WORKER) for _ in range(max(2, workers))]
        self.made.killed_worker = self.made.workers[-1]
        self.free_at = dict.fromkeys(self.made.workers, self.start + _NS)
        self.sequence = 0
        self.batch = 0

    def _ring(self, kind: ProcessKind) -> bytes:
        process = self.chance.randbytes(8)
        self.rings[process] = Ring(self.directory / "rings", process, kind, self.made.node)
        return process

    def run(self) -> Recorded:
        self._begin()
        self._finished_tasks()
        self._killed_worker()
        self._actor()
        self._groups()
        self._collective()
        self._objects()
        self._open_tasks()
        self._scaling()
        self._samples()
        self._end()
        return self.made

    # --- acts ---------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        made, node, t = self.made, self.rings[self.node_ring], self.start
        driver = self.rings[made.driver]
        pid = os.getpid()
        self.job = 1
        self.names = {name: driver.intern(name) for name in ("word_count", "matrix", "flaky", "long_wait")}
        self.shapes = {name: driver.intern(f"{name} CPU:1") for name in self.names}
        self.node_shapes = {name: node.intern(f"{name} CPU:1") for name in self.names}
        node.node_started(
            t, made.node, pid, node.intern("localhost"), 1 << 30, node.intern("localhost"), True, node.intern("")
        )
        node.worker_registered(t + 20_000_000, made.driver, pid, int(ProcessKind.DRIVER), 0.0)
        node.job_started(
            t + 30_000_000, self.job, made.driver, pid, node.intern("example.py"), node.intern("default"), 0
        )
        environment = bytes(range(8))
        node.environment_asked(t + 40_000_000, environment, self.job, node.intern('{"env_vars": {"COLOUR": "green"}}'))
        node.environment_ready(t + 41_000_000, environment, 0.001, 0)
        for number, worker in enumerate(made.workers):
            at = t + 50_000_000 * (number + 1)
            node.worker_starting(at, worker, int(Reason.WORKER_STARTING), bytes(8))
            node.worker_registered(at + 15_000_000, worker, pid + number + 1, int(ProcessKind.WORKER), 0.015)
        for gpu in (0, _GPU):
            node.gpu_found(t, made.node, gpu, -1, 0, 0, 0, 0, 0, 0)
        for lease, worker in enumerate(made.workers, 1):
            self._reserved(t + 300_000_000 + lease, lease, worker)
            self._granted(t + 300_000_000 + lease, "word_count", lease, worker)

    def _reserved(self, at: int, lease: int, worker: bytes) -> None:
        """Each worker has a share of a GPU, and captures what it does."""
        share, ring = 1 / len(self.made.workers), self.rings[worker]
        self.rings[self.node_ring].gpu_reserved(at, _GPU, share, worker, lease, ids.NIL_TASK, -1, self.job)
        ring.gpu_capture_started(at, worker, 1, 130001, ring.intern("libcupti.so.13"))

    def _granted(self, at: int, name: str, lease: int, worker: bytes) -> None:
        node = self.rings[self.node_ring]
        owner = self.made.driver
        node.lease_requested(at - 1_000_000, owner, self.node_shapes[name], 1, 10)
        node.lease_decided(
            at, lease, owner, self.node_shapes[name], int(LeaseOutcome.GRANTED), int(Reason.CAPACITY_FREE),
            self.made.node, worker, lease, 1, 0, 0.001, 1, 0, ids.NIL_TASK, -1,
        )  # fmt: skip
        node.lease_candidate(at, lease, self.made.node, 1, int(Reason.NONE), 0.0, 0, 0.01, 0, 0.0, 0)

    def _new_task(self, at: int, name: str, parent: bytes = ids.NIL_TASK, unready: int = 0) -> bytes:
        task = ids.task_id(self.made.driver, self.sequence)
        self.sequence += 1
        self.made.submitted += 1
        self.rings[self.made.driver].task_submitted(
            at, task, parent, task, ids.NIL_TASK, self.names[name], self.shapes[name], self.job, 1, unready,
            int(TaskType.TASK), 3, 64,
        )  # fmt: skip
        return task

    def _dispatch(self, at: int, worker: bytes, name: str, task: bytes, tasks: int = 1) -> None:
        self.batch += 1
        self.rings[self.made.driver].tasks_dispatched(
            at, worker, self.made.workers.index(worker) + 1, self.batch, self.shapes[name], tasks, 0, 4,
            int(DispatchReason.PIPELINED), task,
        )  # fmt: skip

    def _ended(
        self, worker: bytes, task: bytes, name: str, attempt: int, dispatched: int, run: float, outcome: Outcome
    ) -> int:
        """The worker's record of one attempt; returns when it ended."""
        ring = self.rings[worker]
        arrived = dispatched + 80_000
        started = max(arrived + 20_000, self.free_at[worker])
        fetch, unpack, store = 0.0002, 0.0001, 0.0003
        ended = started + int((fetch + unpack + run + store) * _NS)
        result = 2_000_000 if name == "matrix" else 64
        ring.task_ended(
            ended, task, attempt, self.made.workers.index(worker) + 1, self.batch, ids.NIL_TASK, ring.intern(name),
            dispatched, arrived, started, int(outcome), fetch, unpack, run, store, run * 0.9, 0.0,
            result if outcome == Outcome.OK else 0,
        )  # fmt: skip
        if name == "matrix":
            self._gpu_work(ring, worker, task, attempt, started + 400_000)
        self.free_at[worker] = ended
        return ended

    def _gpu_work(self, ring: Ring, worker: bytes, task: bytes, attempt: int, at: int) -> None:
        """A matrix goes to the GPU and is multiplied there; the task waits for it."""
        whose = (worker, task, attempt, int(Attribution.EXTERNAL_ID), ring.intern("matrix"))
        ring.gpu_copy(
            at - 100_000, *whose, _GPU, int(Direction.HTOD), int(Memory.PINNED), int(Memory.DEVICE), 7, self.batch,
            at - 20_000, 0.00008, at - 105_000, 2_000_000, 0,
        )  # fmt: skip
        ring.gpu_kernel(
            at, *whose, _GPU, ring.intern("sgemm_128x64_nn"), 7, self.batch, at + 500_000, 0.0005, at - 10_000,
            64, 1, 1, 128, 1, 1, 32, 0, 0,
        )  # fmt: skip
        ring.gpu_wait(at + 10_000, *whose, int(WaitingFor.STREAM), 7, self.batch, at + 510_000, 0.0005)

    def _finished_tasks(self) -> None:
        made, driver = self.made, self.rings[self.made.driver]
        step = (self.end - self.start - 6 * _NS) // max(1, self.tasks)
        error = driver.intern("ValueError: no luck today\n  at flaky (example.py:12)")
        for number in range(self.tasks):
            submitted = self.start + 2 * _NS + number * step
            name = "flaky" if number % 20 == 7 else "matrix" if number % 5 == 0 else "word_count"
            worker = min(made.workers[:-1], key=self.free_at.__getitem__)
            task = self._new_task(submitted, name)
            dispatched = submitted + self.chance.randrange(50_000, 2_000_000)
            self._dispatch(dispatched, worker, name, task)
            fails = name == "flaky" and number % 40 == 7
            run = self.chance.lognormvariate(-5.5, 0.8)
            ended = self._ended(worker, task, name, 0, dispatched, run, Outcome.APP_ERROR if fails else Outcome.OK)
            if fails:
                driver.task_finished(ended + 90_000, task, 0, int(Outcome.APP_ERROR), 0, error)
                made.failed += 1
                made.failed_task = task
            elif name == "matrix":
                driver.task_finished(ended + 90_000, task, 0, int(Outcome.OK), 2_000_000, 0)
                made.finished += 1
                made.result_object = ids.object_id(task)
            else:
                driver.tasks_finished(ended + 90_000, task, 1, 64)
                made.finished += 1

    def _killed_worker(self) -> None:
        made, driver, node = self.made, self.rings[self.made.driver], self.rings[self.node_ring]
        worker, at = made.killed_worker, self.end - 4 * _NS
        task = made.killed_task = self._new_task(at, "word_count")
        self._dispatch(at + 500_000, worker, "word_count", task)
        started = at + 700_000
        ring = self.rings[worker]
        ring.task_started(
            started + 100_000_000, task, 0, made.workers.index(worker) + 1, self.batch, ids.NIL_TASK,
            ring.intern("word_count"), at + 500_000, at + 600_000, started,
        )  # fmt: skip
        ring.running(0, task, started, ring.intern("word_count"), 0)
        ring.told(0, started)
        pid = os.getpid() + len(made.workers)
        node.worker_died(
            at + 500_000_000,
            worker,
            pid,
            int(DeathCause.SIGNAL),
            0,
            9,
            50 << 20,
            task,
            node.intern("killed by signal 9"),
        )
        driver.task_retried(
            at + 501_000_000, task, 0, int(Outcome.WORKER_DIED), worker, 0.0, driver.intern("worker killed by signal 9")
        )
        second = made.workers[0]
        self.free_at[second] = max(self.free_at[second], at + 502_000_000)
        self._dispatch(at + 502_000_000, second, "word_count", task)
        ended = self._ended(second, task, "word_count", 1, at + 502_000_000, 0.05, Outcome.OK)
        driver.task_finished(ended + 90_000, task, 1, int(Outcome.OK), 64, 0)
        made.finished += 1
        cancelled = self._new_task(at + 600_000_000, "word_count")
        driver.task_cancel_requested(at + 601_000_000, cancelled, 0, 1)
        driver.task_finished(at + 602_000_000, cancelled, 0, int(Outcome.CANCELLED), 0, 0)
        made.cancelled += 1

    def _actor(self) -> None:
        made, driver, node = self.made, self.rings[self.made.driver], self.rings[self.node_ring]
        at, worker = self.end - 3 * _NS, made.workers[1]
        actor = made.actor = ids.task_id(made.driver, 0, ids.SEQUENCE_ACTOR)
        driver.actor_created(
            at, actor, actor, driver.intern("Counter"), driver.intern("counter"), driver.intern("default"),
            driver.intern("Counter CPU:1"), 1, 0, self.job, ids.NIL_TASK,
        )  # fmt: skip
        node.actor_placed(at + 1_000_000, actor, worker, made.node, 0.001, 0)
        node.actor_alive(at + 5_000_000, actor, worker, 0, 0.004, 4000)
        name, shape = driver.intern("Counter.add"), driver.intern("Counter CPU:1")
        ring = self.rings[worker]
        for number in range(10):
            task = ids.task_id(made.driver, self.sequence)
            self.sequence += 1
            submitted = at + 10_000_000 + number * 2_000_000
            driver.task_submitted(
                submitted, task, ids.NIL_TASK, task, actor, name, shape, self.job, 0, 0, int(TaskType.ACTOR_CALL), 0, 0
            )
            started = submitted + 100_000
            ring.task_ended(
                started + 1_000_000, task, 0, 0, number, actor, ring.intern("Counter.add"), submitted + 20_000,
                submitted + 60_000, started, int(Outcome.OK), 0.0, 0.0001, 0.0008, 0.0001, 0.0007, 0.0, 64,
            )  # fmt: skip
            made.submitted += 1
            made.finished += 1
        driver.tasks_finished(at + 40_000_000, ids.task_id(made.driver, self.sequence - 10), 10, 640)

    def _groups(self) -> None:
        """One group that is there and one that waits."""
        made, node = self.made, self.rings[self.node_ring]
        at = self.end - 3 * _NS
        for number, name in enumerate(("together", "too big")):
            group = ids.task_id(made.driver, number, ids.SEQUENCE_GROUP)
            node.group_requested(
                at, group, made.driver, node.intern(name), node.intern("default"), node.intern("PACK"), 2, 0, self.job,
                node.intern("CPU:10000|CPU:20000"),
            )  # fmt: skip
            if number:
                made.waiting_group = group
                deficit = node.intern("bundle 1 lacks CPU 2 more (0 of 2 free)")
                node.group_waiting(at + 1_000_000, group, int(Reason.NO_CAPACITY), 0, deficit)
                continue
            made.group = group
            for bundle in range(2):
                node.bundle_placed(at + 1_000_000, group, bundle, made.node, node.intern("CPU:10000"))
            node.group_prepared(at + 1_000_000, group, 1, 0.001)
            node.group_created(at + 1_000_000, group, 0.001, 1)

    def _objects(self) -> None:
        made, driver, node = self.made, self.rings[self.made.driver], self.rings[self.node_ring]
        at, size = self.end - 3 * _NS, 50_000_000
        for number in range(3):
            put = ids.object_id(ids.task_id(made.driver, number, ids.SEQUENCE_PUT))
            driver.object_put(at, put, ids.NIL_TASK, size, 0, driver.intern("example.py:30"))
            node.object_created(at + 100_000, put, made.driver, size, 0.0)
            node.object_sealed(at + 9_000_000, put, made.driver, size)
            if number == 0:
                made.put_object = put
                node.object_pinned(at + 10_000_000, put, made.workers[0], size, 0.0)
            elif number == 1:
                made.spilled_object = put
                node.object_spilled(at + 50_000_000, put, size, 0.04, node.intern("spill/0001"))
            else:
                node.object_freed(at + 60_000_000, put, size, 0.06)
            at += 100_000_000
        node.object_created(at, made.result_object, made.workers[0], 2_000_000, 0.0)
        node.object_sealed(at + 1_000_000, made.result_object, made.workers[0], 2_000_000)

    def _open_tasks(self) -> None:
        made, driver, node = self.made, self.rings[self.made.driver], self.rings[self.node_ring]
        at, worker = self.end - 2 * _NS, made.workers[0]
        for which in ("running_task", "blocked_task"):
            task = self._new_task(at, "long_wait")
            setattr(made, which, task)
            self._dispatch(at + 1_000_000, worker, "long_wait", task)
            ring = self.rings[worker]
            started = at + 2_000_000
            ring.task_started(
                started + 100_000_000, task, 0, made.workers.index(worker) + 1, self.batch, ids.NIL_TASK,
                ring.intern("long_wait"), at + 1_000_000, at + 1_500_000, started,
            )  # fmt: skip
            ring.running(made.workers.index(worker), task, started, ring.intern("long_wait"), 0)
            ring.told(made.workers.index(worker), started)
            if which == "blocked_task":
                ring.task_blocked(started + 5_000_000, task, int(WaitKind.GET), 1, made.put_object)
            worker = made.workers[1]
        made.queued_task = self._new_task(at + 10_000_000, "matrix")
        made.waiting_task = self._new_task(at + 20_000_000, "word_count", unready=1)
        driver.task_arguments_waiting(at + 20_000_000, made.waiting_task, ids.object_id(made.running_task))
        node.lease_requested(at + 11_000_000, made.driver, self.node_shapes["matrix"], 1, 1)
        node.lease_decided(
            at + 12_000_000, 90, made.driver, self.node_shapes["matrix"], int(LeaseOutcome.QUEUED),
            int(Reason.NO_CAPACITY), bytes(8), bytes(8), 0, 1, 1, 0.0, 1, node.intern("CPU: 1 wanted, 0 of 2 free"),
            ids.NIL_TASK, -1,
        )  # fmt: skip
        node.lease_candidate(
            at + 12_000_000, 90, made.node, 0, int(Reason.NO_CAPACITY), 1.5, 1, 0.01, 0, 0.0, node.intern("CPU:1")
        )
        made.pending = 4

    def _collective(self) -> None:
        """Two workers that reduce an array together, of which the second comes late."""
        at, group = self.end - 4 * _NS, self.chance.randbytes(16)
        for rank, worker in enumerate(self.made.workers[:2]):
            ring = self.rings[worker]
            name, operation = ring.intern("gradients"), ring.intern("allreduce")
            ring.collective_joined(at + rank, group, name, ids.NIL_TASK, rank, 2, ring.intern("obsray"), 0.01)
            ring.collective_ended(
                at + 10_000_000, group, name, ids.NIL_TASK, operation, 1, rank, 2, 4096, 4128, 0.005,
                0.004 if rank == 0 else 0.001, 0.001 if rank == 0 else 0.004,
            )  # fmt: skip

    def _scaling(self) -> None:
        """A node that an autoscaler asked for and that came, one that did not, and what is too large for both."""
        at, ring = self.end - 3 * _NS, self.rings[self.node_ring]
        came, failed = self.chance.randbytes(8), self.chance.randbytes(8)
        kind, amounts = ring.intern("big"), ring.intern("CPU:4")
        for node in (came, failed):
            ring.instance_requested(at, node, kind, int(ScalingCause.DEMAND), 2, ring.intern("for 2 × matrix (CPU:4)"))
        ring.instance_joined(at + _NS, came, kind, 1.0)
        ring.instance_failed(at + _NS, failed, kind, 1, 1.0, ring.intern("no quota"))
        ring.demand_judged(
            at, ring.intern("matrix (CPU:64)"), int(ScalingVerdict.INFEASIBLE), 1, 0,
            ring.intern("no node type can hold it (big: CPU 64 (it has 4))"),
        )  # fmt: skip
        ring.node_type_sample(at + _NS, kind, 1, 0, 0, 0, 3, 1, 0.001, amounts, ring.intern("no quota"))

    def _samples(self) -> None:
        made, node = self.made, self.rings[self.node_ring]
        cpu = node.intern("CPU")
        seconds = (self.end - self.start) // _NS
        for second in range(seconds):
            at = self.start + second * _NS + _NS // 2
            node.resource_sample(at, cpu, 2.0, float(second % 3))
            node.store_sample(at, 1 << 30, 52_000_000, 50_000_000, 50_000_000, 2, 1, 0, (1 << 30) - 52_000_000, 0)
            node.node_sample(at, 0.0005, len(made.workers), 0, 2, 1, 0, 1, 1, 0)
            for number, worker in enumerate(made.workers):
                if worker == made.killed_worker and at > self.end - 4 * _NS:
                    continue
                node.process_sample(
                    at, worker, os.getpid() + number + 1, int(ProcessKind.WORKER), 40 << 20, 12 << 20,
                    0.2 * second, 3, 20,
                )  # fmt: skip

    def _end(self) -> None:
        made = self.made
        dead = {made.killed_worker} if self.live else set(self.rings)
        for process in dead:
            for path in (self.directory / "rings").glob(f"{process.hex()}.*.ring"):
                with open(path, "r+b") as file:
                    header = bytearray(file.read(32))
                    pack_into("<I", header, 12, DEAD_PID)
                    file.seek(0)
                    file.write(header)
        if self.live:
            session_pid = os.getpid()
        else:
            session_pid = DEAD_PID
            for process, ring in self.rings.items():
                if process != made.killed_worker:
                    ring.close(self.end)
        made.events = sum(ring.taken() for ring in self.rings.values())
        session_file.update(
            self.directory, session=self.directory.name, directory=str(self.directory), node=made.node.hex(),
            node_pid=session_pid, started_at_ns=self.start, dashboard_url=None, metrics_url=None,
            resources={"CPU": 2.0}, version="0.1.0", **({} if self.live else {"stopped_at_ns": self.end}),
        )  # fmt: skip
