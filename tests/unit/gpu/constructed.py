"""Sessions in which it is known beforehand what each GPU did, and why it idled."""

from __future__ import annotations

from pathlib import Path

from obsray import ids
from obsray.gpu.words import Attribution, Direction, Memory, WaitingFor
from obsray.telemetry.events import Outcome, ProcessKind, TaskType, WaitKind
from obsray.telemetry.spine import Ring
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views

#: When sessions begin; times below are microseconds after it.
BEGIN_NS = 1_800_000_000_000_000_000
NODE, DRIVER = bytes.fromhex("a1a1a1a1a1a1a1a1"), bytes.fromhex("d1d1d1d1d1d1d1d1")
WORKER, OTHER = bytes.fromhex("0101010101010101"), bytes.fromhex("0202020202020202")
JOB = 1


def at(microseconds: float) -> int:
    return BEGIN_NS + round(microseconds * 1000)


class Constructed:
    """A node with GPUs, workers, and what they do, told event by event."""

    def __init__(self, directory: Path, gpus: tuple[int, ...] = (0,), workers: tuple[bytes, ...] = (WORKER,)) -> None:
        for name in ("rings", "telemetry"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        self.directory = directory
        kinds = {NODE: ProcessKind.NODE, DRIVER: ProcessKind.DRIVER, **dict.fromkeys(workers, ProcessKind.WORKER)}
        self.rings = {process: Ring(directory / "rings", process, kind, NODE) for process, kind in kinds.items()}
        node = self.node = self.rings[NODE]
        node.node_started(at(0), NODE, 1, node.intern("host"), 1 << 30, node.intern("host"), True, 0)
        node.job_started(at(0), JOB, DRIVER, 2, node.intern("train.py"), node.intern("default"), 0)
        for gpu in gpus:
            node.gpu_found(at(0), NODE, gpu, -1, 0, 0, 0, 0, 0, 0)
        node.resource_sample(at(0), node.intern("GPU"), float(len(gpus)), 0.0)
        for worker in workers:
            node.worker_registered(at(0), worker, 3, int(ProcessKind.WORKER), 0.0)
        self.leases = self.sequence = 0
        self.correlation = 0

    def reserve(
        self, begin: float, end: float | None = None, worker: bytes = WORKER, gpu: int = 0, share: float = 1.0,
        group: bytes = ids.NIL_TASK, bundle: int = -1, captured: bool = True, job: int = JOB,
    ) -> None:  # fmt: skip
        """Somebody has a GPU; ``worker`` nil: a bundle of a group."""
        self.leases += 1
        self.node.gpu_reserved(at(begin), gpu, share, worker, self.leases, group, bundle, job)
        if end is not None:
            self.node.gpu_released(at(end), gpu, share, worker, self.leases, group, bundle, (end - begin) / 1e6)
        if any(worker) and captured:
            ring = self.rings[worker]
            ring.gpu_capture_started(at(begin), worker, 1, 130001, ring.intern("libcupti.so"))

    def task(
        self, begin: float, end: float | None, name: str = "train", worker: bytes = WORKER, fetch: float = 0.0,
        unpack: float = 0.0, store: float = 0.0, cpu: float = 0.0, blocked: float = 0.0,
    ) -> bytes:  # fmt: skip
        """An attempt that ran from ``begin`` to ``end`` (None: it runs); its parts in microseconds."""
        task = ids.task_id(DRIVER, self.sequence)
        self.sequence += 1
        driver, ring = self.rings[DRIVER], self.rings[worker]
        driver.task_submitted(
            at(begin), task, ids.NIL_TASK, task, ids.NIL_TASK, driver.intern(name), driver.intern(f"{name} GPU:1"),
            JOB, 0, 0, int(TaskType.TASK), 3, 64,
        )  # fmt: skip
        if end is None:
            ring.task_started(
                at(begin) + 1, task, 0, 1, 1, ids.NIL_TASK, ring.intern(name), at(begin), at(begin), at(begin)
            )
            return task
        run = (end - begin - fetch - unpack - store - blocked) / 1e6
        ring.task_ended(
            at(end), task, 0, 1, 1, ids.NIL_TASK, ring.intern(name), at(begin), at(begin), at(begin), int(Outcome.OK),
            fetch / 1e6, unpack / 1e6, run, store / 1e6, cpu / 1e6, blocked / 1e6, 0,
        )  # fmt: skip
        driver.tasks_finished(at(end), task, 1, 0)
        return task

    def kernel(
        self, launched: float | None, begin: float, end: float, task: bytes = ids.NIL_TASK, name: str = "gemm",
        worker: bytes = WORKER, gpu: int = 0, stream: int = 7, function: str = "train", graph: int = 0,
    ) -> None:  # fmt: skip
        """A kernel; ``launched`` None: nobody knows when."""
        ring = self.rings[worker]
        self.correlation += 1
        how = Attribution.EXTERNAL_ID if any(task) else Attribution.NONE
        ring.gpu_kernel(
            at(begin), worker, task, 0, int(how), ring.intern(function) if any(task) else 0, gpu, ring.intern(name),
            stream, self.correlation, at(end), (end - begin) / 1e6, 0 if launched is None else at(launched),
            64, 1, 1, 128, 1, 1, 32, 0, graph,
        )  # fmt: skip

    def copy(self, launched: float, begin: float, end: float, task: bytes = ids.NIL_TASK, gpu: int = 0) -> None:
        ring = self.rings[WORKER]
        self.correlation += 1
        how = Attribution.EXTERNAL_ID if any(task) else Attribution.NONE
        ring.gpu_copy(
            at(begin), WORKER, task, 0, int(how), ring.intern("train") if any(task) else 0, gpu, int(Direction.HTOD),
            int(Memory.PINNED), int(Memory.DEVICE), 7, self.correlation, at(end), (end - begin) / 1e6, at(launched),
            1 << 20, 0,
        )  # fmt: skip

    def wait(
        self, begin: float, end: float, task: bytes = ids.NIL_TASK, worker: bytes = WORKER,
        what: WaitingFor = WaitingFor.STREAM,
    ) -> None:  # fmt: skip
        """The host waits for its GPU."""
        self.rings[worker].gpu_wait(at(begin), worker, task, 0, 1, 0, int(what), 7, 0, at(end), (end - begin) / 1e6)

    def blocked(
        self, begin: float, end: float, task: bytes, worker: bytes = WORKER, kind: WaitKind = WaitKind.GET
    ) -> None:
        """The task waits in ``get``."""
        ring = self.rings[worker]
        ring.task_blocked(at(begin), task, int(kind), 1, ids.NIL_OBJECT)
        ring.task_unblocked(at(end), task, int(kind), (end - begin) / 1e6)

    def ends(self, when: float) -> None:
        self.node.node_stopped(at(when), NODE, 0)
        self.node.job_ended(at(when), JOB, DRIVER, 0)

    def views(self) -> Views:
        made = Views(Store.open(self.directory))
        made.refresh()
        return made
