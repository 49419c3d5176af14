"""The numbers of processes: what those that live use now, what all of them used, what workers spend their time on."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from prometheus_client.core import Metric

from obsray.metrics import exposed
from obsray.telemetry.columns import Batch, Columns, Texts
from obsray.telemetry.events import ProcessKind

#: A process that was not sampled for this long is gone, whether somebody said so or not.
GONE_NS = 30_000_000_000
#: A longer time between two samples of the node is not known to have been like its end.
SAMPLE_SECONDS_MAX = 15.0
#: What workers spend their time on.
ACTIVITIES = ("starting", "idle", "leased", "busy", "blocked_in_get")
#: What may stand still at a node, by the names under which it is told; the node itself cannot say so of itself.
HALTING = ("worker", "driver", "zygote", "control", "collector", "dashboard", "autoscaler", "gpu-watch")
#: Dead processes that are remembered, because their last sample may come after the news of their death.
DEAD_KEPT = 1024


@dataclass(slots=True)
class _Process:
    kind: ProcessKind
    seen_ns: int
    rss: int
    unique: int
    descriptors: int
    cpu: float


@dataclass(frozen=True, slots=True)
class Runs:
    """What processes of a node run: tasks, the processes that run any, and those whose tasks all wait inside get."""

    tasks: int
    processes: int
    blocked: int


class ProcessSeries:
    """Sums over processes of a kind. ``update`` folds a batch.

    What workers spend their time on is not in the node's records alone: who runs a task is looked up when the node is
    sampled. So whoever looks says so with ``spend`` and records it, and counts what is recorded, also by collectors
    before it.
    """

    def __init__(self, texts: Texts) -> None:
        self.texts = texts
        self.alive: dict[bytes, _Process] = {}
        #: Those that stand still: pid -> what it is.
        self.halted: dict[int, str] = {}
        self.cpu_seconds: dict[ProcessKind, float] = {}
        self.worker_seconds = dict.fromkeys(ACTIVITIES, 0.0)
        self._dead: deque[bytes] = deque(maxlen=DEAD_KEPT)
        #: What those had used that are gone: a sample that comes late does not count it a second time.
        self._gone: dict[bytes, float] = {}
        self._sampled_ns = 0
        #: Tasks that wait inside get, wait or put: by process, since when.
        self._waiting: dict[bytes, dict[bytes, int]] = {}

    def update(self, batch: Batch) -> None:
        """Fold a batch."""
        if "task_blocked" in batch or "task_unblocked" in batch:
            self._wait(batch)
        if "worker_died" in batch:
            for worker in batch["worker_died"]["worker"]:
                self._leave(worker.tobytes())
                self._dead.append(worker.tobytes())
                self._waiting.pop(worker.tobytes(), None)
        if "process_halted" in batch or "process_resumed" in batch:
            self._halt(batch)
        if "process_sample" in batch:
            self._sample(batch["process_sample"])
        if "worker_time_sample" in batch:
            for activity in ACTIVITIES:
                self.worker_seconds[activity] += float(batch["worker_time_sample"][f"{activity}_seconds"].sum())

    def _halt(self, batch: Batch) -> None:
        """All of it is told by the node, in order, but the batch has one event after the other."""
        found = [
            (record["sequence"], event, record)
            for event in ("process_halted", "process_resumed")
            if event in batch
            for record in batch[event].rows(self.texts)
        ]
        for _, event, record in sorted(found, key=lambda each: each[0]):
            if event == "process_halted":
                self.halted[record["pid"]] = record["process_name"]
            else:
                self.halted.pop(record["pid"], None)

    def _sample(self, columns: Columns) -> None:
        fields = ("process_kind", "time_ns", "rss_bytes", "unique_bytes", "descriptors", "cpu_seconds_total")
        for worker, *values in zip(columns["worker"], *(columns[name].tolist() for name in fields), strict=True):
            key = worker.tobytes()
            known = self.alive.get(key)
            now = _Process(ProcessKind(values[0]), *values[1:])
            used = max(0.0, now.cpu - (known.cpu if known is not None else self._gone.pop(key, 0.0)))
            self.cpu_seconds[now.kind] = self.cpu_seconds.get(now.kind, 0.0) + used
            self.alive[key] = now
            if key in self._dead:
                self._leave(key)
        newest = int(columns["time_ns"].max())
        for key in [key for key, process in self.alive.items() if newest - process.seen_ns > GONE_NS]:
            self._leave(key)

    def _wait(self, batch: Batch) -> None:
        """Who waits is told by each process, in order, but the batch has one event after the other."""
        if "task_blocked" in batch:
            columns = batch["task_blocked"]
            for process, task, at in zip(columns["process"], columns["task"], columns["time_ns"].tolist(), strict=True):
                self._waiting.setdefault(process.tobytes(), {})[task.tobytes()] = at
        if "task_unblocked" in batch:
            columns = batch["task_unblocked"]
            for process, task, at in zip(columns["process"], columns["task"], columns["time_ns"].tolist(), strict=True):
                tasks = self._waiting.get(key := process.tobytes(), {})
                if tasks.get(task.tobytes(), at + 1) <= at:
                    del tasks[task.tobytes()]
                    if not tasks:
                        del self._waiting[key]

    def runs(self, now: dict[bytes, list[bytes]], replaying: bool = False) -> Runs:
        """How much waits of what each process that lives runs now. Those of records of the past need not live."""
        waiting = self._waiting
        blocked = sum(bool(tasks) and waiting.get(key, {}).keys() >= set(tasks) for key, tasks in now.items())
        if not replaying:
            # What a process told is read after the news of its death, now and then.
            for key in waiting.keys() - now.keys():
                del waiting[key]
        return Runs(sum(map(len, now.values())), sum(map(bool, now.values())), blocked)

    def _leave(self, key: bytes) -> None:
        if (process := self.alive.pop(key, None)) is not None:
            self._gone[key] = process.cpu
            if len(self._gone) > DEAD_KEPT:
                del self._gone[next(iter(self._gone))]

    def spend(self, columns: Columns, runs: Runs) -> Iterator[tuple[int, list[float]]]:
        """Of samples of the node: when, and the seconds of ``ACTIVITIES`` since the one before, if that was of late.
        ``runs`` is what runs now."""
        for at in np.argsort(columns["time_ns"]).tolist():
            time_ns = int(columns["time_ns"][at])
            seconds = (time_ns - self._sampled_ns) / 1e9 if self._sampled_ns else 0.0
            self._sampled_ns = max(time_ns, self._sampled_ns)
            sample = {name: values[at].item() for name, values in columns.arrays.items() if name.startswith("workers")}
            if 0 < seconds <= SAMPLE_SECONDS_MAX:
                workers = by_state(sample, runs)
                yield time_ns, [workers[activity] * seconds for activity in ACTIVITIES]

    def families(self, node: str) -> Iterator[Metric]:
        """The families, for the exposition of ``node``."""
        count, cpu = exposed.gauge("obsray_processes"), exposed.counter("obsray_process_cpu_seconds")
        resident = exposed.gauge("obsray_process_resident_memory_bytes")
        unique = exposed.gauge("obsray_process_unique_memory_bytes")
        descriptors = exposed.gauge("obsray_process_open_descriptors")
        for kind, used in self.cpu_seconds.items():
            labels = [node, kind.name.lower()]
            mine = [process for process in self.alive.values() if process.kind == kind]
            cpu.add_metric(labels, used)
            if mine:
                count.add_metric(labels, len(mine))
                resident.add_metric(labels, sum(process.rss for process in mine))
                unique.add_metric(labels, sum(process.unique for process in mine))
                descriptors.add_metric(labels, sum(process.descriptors for process in mine))
        seconds = exposed.counter("obsray_worker_seconds")
        for activity, spent in self.worker_seconds.items():
            seconds.add_metric([node, activity], spent)
        halted = exposed.gauge("obsray_processes_halted")
        still = Counter(self.halted.values())
        for name in HALTING:
            halted.add_metric([node, name], still[name])
        yield from (count, halted, cpu, resident, unique, descriptors, seconds)


def by_state(sample: dict[str, Any], runs: Runs) -> dict[str, int]:
    """How many workers are in each state: a sample of the node, and what runs."""
    running = min(runs.processes, sample["workers"])
    blocked = min(runs.blocked, running)
    return {
        "starting": sample["workers_starting"],
        "idle": sample["workers_idle"],
        "busy": running - blocked,
        "blocked_in_get": blocked,
        "leased": max(0, sample["workers_leased"] + sample["workers_actor"] - running),
    }
