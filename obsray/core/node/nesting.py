"""Machine: work that tasks ask for and wait for: what is nested deepest goes first, and what if every process waits.

Whoever waits in a task holds a process. So what such tasks wait for comes before what nobody waits for in a process,
the deepest first: then a tree of tasks needs about as many processes as it is deep, however many branches it has. Lest
others starve, each queue serves one that is not nested twice a second.

If there are as many processes as may be and every one of them waits, what they still ask for will never run: it is
refused (``TooDeep``), for the one job that waits for most, and its tasks fail with a NestedTooDeepError.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from obsray.config import PLAIN_EVERY_SECONDS
from obsray.core.node.demands import Demand, Lease, Queue, Signature
from obsray.core.node.step import Step
from obsray.core.node.workers import WorkerPool
from obsray.telemetry.events import Reason

#: All have waited for so long, for tasks of their own that have no process: that is no coincidence.
SURE_SECONDS = 2.0
#: ... provided that at least this share of the processes runs tasks.
TASKS_MIN = 0.75
_U16 = 0xFFFF


class Refusal(NamedTuple):
    """A demand that will not be met, and the reason for people."""

    demand: Demand
    detail: str


class Nesting:
    """``queues`` and ``by_worker`` are the scheduler's own. ``seconds_max``: patience if some wait for other things."""

    def __init__(
        self, pool: WorkerPool, queues: Mapping[Signature, Queue], by_worker: Mapping[bytes, Lease], seconds_max: float
    ) -> None:
        self.pool = pool
        self.queues = queues
        self.by_worker = by_worker
        self.seconds_max = seconds_max
        #: What each client has ever asked for.
        self.asked: dict[bytes, list[Demand]] = {}
        self._since: float | None = None

    def defined(self, demand: Demand) -> None:
        """A client may ask for this from now on."""
        self.asked.setdefault(demand.client, []).append(demand)

    def client_gone(self, client: bytes) -> None:
        self.asked.pop(client, None)

    def rank(self, demand: Demand) -> None:
        """Say how urgent a demand is that is in no queue now."""
        lease = self.by_worker.get(demand.client)
        demand.urgency = 0
        if lease is not None:
            demand.depth = min(lease.demand.depth + 1, _U16)
            demand.urgency = demand.depth if lease.blocked else 0

    def changed(self, client: bytes) -> None:
        """The task of this client waits, or goes on: its demands move up or back."""
        self._since = None
        for demand in self.asked.get(client, ()):
            queue = self.queues.get(demand.signature()) if demand.wanted else None
            if queue is not None and id(demand) in queue.demands:
                queue.remove(demand)
                self.rank(demand)
                queue.add(demand)

    def begin(self, step: Step) -> None:
        """Before anything is granted: which queues may serve one that is not nested although others are."""
        for queue in self.queues.values():
            queue.plain_turn = step.now - queue.plain_at >= PLAIN_EVERY_SECONDS

    def granted(self, step: Step, queue: Queue, demand: Demand) -> None:
        """The first of a queue got a worker."""
        if not demand.urgency:
            queue.plain_at, queue.plain_turn = step.now, False

    # --- when every process waits ------------------------------------------------------------------------

    def refuse(self, step: Step) -> list[Refusal]:
        """The demands that will never be met, because whoever could make room waits, too."""
        limited = [
            queue for queue in self.queues.values() if queue.reason is Reason.WORKER_LIMIT and not queue.infeasible
        ]
        if not limited or not self._all_wait():
            self._since = None
            return []
        if self._since is None:
            self._since = step.now
        tasks = [lease for lease in self.by_worker.values() if not lease.demand.actor]
        # Actors may end: where they are many, a process may come free any moment.
        sure = all(lease.sure for lease in tasks) and len(tasks) >= TASKS_MIN * len(self.by_worker)
        until = self._since + (SURE_SECONDS if sure else max(SURE_SECONDS, self.seconds_max))
        if step.now < until:
            step.wake(until)
            return []
        by_job: dict[int, list[Demand]] = {}
        for queue in limited:
            for demand in queue.demands.values():
                lease = self.by_worker.get(demand.client)
                if lease is not None and lease.blocked and demand.group is None and not demand.foreign:
                    by_job.setdefault(lease.worker.job, []).append(demand)
        if not by_job:
            return []
        self._since = None
        chosen = max(by_job.values(), key=len)
        waiting = sum(lease.blocked for lease in self.by_worker.values() if not lease.demand.actor)
        return [Refusal(demand, self._detail(demand, waiting)) for demand in chosen]

    def _detail(self, demand: Demand, waiting: int) -> str:
        others = len(self.pool.workers) - self.pool.lingering - waiting
        actors = f" ({others} are actors)" if others else ""
        return (
            f"the node has {self.pool.workers_max} processes, which is its limit{actors}, and all that run tasks wait "
            f"for other tasks, so none is left; this one would be {demand.depth} deep"
        )

    def _all_wait(self) -> bool:
        """Whether the pool is full, no process comes or goes, and all that run tasks wait."""
        if not self.pool.is_full() or self.pool.starting or self.pool.idle:
            return False
        if any(worker.end_cause is not None and not worker.lingers for worker in self.pool.workers.values()):
            return False
        return all(lease.blocked for lease in self.by_worker.values() if not lease.demand.actor)
