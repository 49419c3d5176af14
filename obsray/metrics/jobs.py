"""What jobs cost, out of the records of all nodes: whose task it was says the id of its owner."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from prometheus_client.core import Metric

from obsray.metrics import exposed
from obsray.metrics.catalog import JOBS_MAX, OTHER
from obsray.telemetry.columns import Array, Batch, Columns

#: Owners of tasks whose job is remembered.
OWNERS_MAX = 100_000
#: The job of work whose owner nobody has heard of.
UNKNOWN = "unknown"
#: For so long work waits for the record that says whose it is: processes tell at different times.
HELD_NS = 60_000_000_000
_METRICS = ("obsray_job_attempts", "obsray_job_task_seconds", "obsray_job_cpu_seconds", "obsray_job_gpu_seconds")
_SPENT = ("fetch_seconds", "deserialize_seconds", "run_seconds", "store_seconds")


class JobSeries:
    """Sums by job: attempts, seconds of workers, of CPUs, of GPUs. ``update`` folds a batch of any node."""

    def __init__(self) -> None:
        #: The newest jobs by number; what older ones cost is the cost of ``other``.
        self.costs: dict[int, Array] = {}
        self.other = np.zeros(len(_METRICS))
        self.unknown = np.zeros(len(_METRICS))
        self._job_of: dict[int, int] = {}
        #: Of owners that are not known yet: since when, and the costs.
        self._held: dict[int, tuple[int, Array]] = {}

    def update(self, batch: Batch) -> None:
        """Fold the new records."""
        if "job_started" in batch:
            self._learn(_first_words(batch["job_started"]["worker"]), batch["job_started"]["job"])
        for event, task in (("task_submitted", "task"), ("tasks_submitted", "first_task")):
            if event in batch:
                self._learn(_first_words(batch[event][task]), batch[event]["job"])
        if "task_ended" in batch:
            ended = batch["task_ended"]
            spent = np.sum([ended[name].astype(np.float64) for name in _SPENT], axis=0)
            self._add(ended, [(0, np.ones(len(ended))), (1, spent), (2, ended["cpu_seconds"].astype(np.float64))])
        if "gpu_kernel" in batch:
            kernels = batch["gpu_kernel"]
            kernels = kernels.take(kernels["attributed_by"] != 0)
            if len(kernels):
                self._add(kernels, [(3, kernels["kernel_seconds"].astype(np.float64))])
        if self._held:
            self._let_go(max((int(columns["time_ns"].max()) for columns in batch.values() if len(columns)), default=0))

    def _let_go(self, now_ns: int) -> None:
        """Nobody has told for long whose work this was. What is exposed once as unknown stays it."""
        for owner, (since, cost) in list(self._held.items()):
            if now_ns - since > HELD_NS or len(self._held) > OWNERS_MAX:
                self.unknown += cost
                del self._held[owner]

    def _learn(self, owners: Array, jobs: Array) -> None:
        found, first = np.unique(owners, return_index=True)
        for owner, job in zip(found.tolist(), jobs[first].tolist(), strict=True):
            if owner not in self._job_of:
                self._job_of[owner] = job
                if owner in self._held:
                    _, held = self._held.pop(owner)
                    self._cost(job)[:] += held
                if len(self._job_of) > OWNERS_MAX:
                    del self._job_of[next(iter(self._job_of))]

    def _add(self, columns: Columns, sums: list[tuple[int, Array]]) -> None:
        owners, back = np.unique(_first_words(columns["task"]), return_inverse=True)
        for at, weights in sums:
            for owner, total in zip(owners.tolist(), np.bincount(back, weights=weights).tolist(), strict=True):
                job = self._job_of.get(owner)
                if job is None:
                    since = int(columns["time_ns"].max())
                    self._held.setdefault(owner, (since, np.zeros(len(_METRICS))))[1][at] += total
                else:
                    self._cost(job)[at] += total

    def _cost(self, job: int) -> Array:
        if job not in self.costs:
            if len(self.costs) >= JOBS_MAX and job < min(self.costs):
                return self.other
            self.costs[job] = np.zeros(len(_METRICS))
            if len(self.costs) > JOBS_MAX:
                self.other += self.costs.pop(min(self.costs))
        return self.costs[job]

    def families(self) -> Iterator[Metric]:
        """The families of the head."""
        for at, name in enumerate(_METRICS):
            family = exposed.counter(name)
            for job, cost in sorted(self.costs.items()):
                family.add_metric([f"{job:08x}"], float(cost[at]))
            for label, cost in ((OTHER, self.other), (UNKNOWN, self.unknown)):
                if cost.any():
                    family.add_metric([label], float(cost[at]))
            yield family


def _first_words(ids: Array) -> Array:
    """The first eight bytes of ids as numbers: the owner of a task."""
    words: Array = np.ascontiguousarray(ids).view("<u8").reshape(len(ids), -1)[:, 0]
    return words
