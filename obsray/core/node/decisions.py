"""Saying what the scheduler decided and why: every change of mind about a demand is one record with its reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from obsray.core.node.bundles import Group
from obsray.core.node.demands import Demand, Lease, Queue, Signature
from obsray.core.node.groups import GroupTable
from obsray.core.node.resources import Resources, free_in, show
from obsray.core.node.step import Step
from obsray.ids import NIL_TASK, NIL_WORKER, short
from obsray.telemetry.events import LeaseOutcome, Reason

ANNOUNCED_PER_LOOK_MAX = 1000
_U32 = 0xFFFFFFFF


class Candidate(NamedTuple):
    """Another node as a decision saw it. ``reject`` NONE: it was chosen, or could take the demand now."""

    node: bytes
    feasible: bool
    reject: Reason
    wait_seconds: float
    queued: int
    task_seconds: float
    remote_bytes: int
    missing: str


class Decisions:
    """Announces decisions; ``queues`` are the scheduler's own."""

    def __init__(
        self, node: bytes, labels: Mapping[str, str], resources: Resources, groups: GroupTable,
        queues: dict[Signature, Queue],
    ) -> None:  # fmt: skip
        self.node = node
        self.labels = labels
        self.resources = resources
        self.groups = groups
        self.queues = queues
        self._decisions = 0

    def explain(self, step: Step, reserved: Queue | None) -> None:
        """Announce new waiting demands, and the first of each queue if its reason has changed."""
        # What waits for a group says why the group waits, so groups come first.
        for queue in sorted(self.queues.values(), key=lambda queue: queue.group is None):
            if queue.infeasible:
                unlabelled = queue.placement.unmet(self.node, self.labels)
                queue.reason = Reason.LABELS if unlabelled else Reason.INFEASIBLE
                queue.deficit = queue.infeasible
            elif queue.reason is Reason.PLACEMENT:
                queue.deficit = self._group_waits(queue.placement.group, queue.placement.bundle)
            elif queue.placement.group and queue.group is None:
                if queue.reason is Reason.NO_CAPACITY:
                    queue.deficit = self._lacks_in_group(queue)
            elif queue.group is not None:
                # Costly, so only when it will be said; ``tell_changes`` looks again.
                if queue.unannounced or queue.reason is not queue.group.reason:
                    queue.deficit = self._group_lacks(queue.group)
            elif queue.reason is Reason.NO_CAPACITY:
                keep = None if reserved is None or reserved is queue else reserved.need
                if keep and self.resources.fits(queue.need):
                    queue.reason = Reason.FAIRNESS
                queue.deficit = self.resources.explain(self.resources.deficit(queue.need, keep))
            for demand in queue.unannounced:
                if demand.wanted and id(demand) in queue.demands:
                    self._waits(step, queue, demand)
            self._waits(step, queue, queue.head())
            if queue.group is not None:
                self.groups.waits(step, queue.group, queue.reason, queue.deficit)
            queue.unannounced.clear()

    def _group_lacks(self, group: Group) -> str:
        return self.groups.lacks(group) or "what is free is kept for others that have waited longer"

    def _group_waits(self, identifier: bytes, index: int) -> str:
        group = self.groups.groups[identifier]
        elsewhere = sorted({each.node.hex()[:8] for each in group.chosen(index) if each.open and each.node})
        if group.placed and elsewhere:
            which = f"bundle {index}" if index >= 0 else "every bundle"
            return f"{which} of placement group {group.name or short(identifier)} is on node {', '.join(elsewhere)}"
        return f"placement group {group.name or short(identifier)} waits: {group.deficit}"

    def _lacks_in_group(self, queue: Queue) -> str:
        group = self.groups.groups[queue.placement.group]
        pools = group.pools(queue.placement.bundle)
        if len(pools) == 1:
            index = max(queue.placement.bundle, 0)
            return f"bundle {index}: {pools[0].explain(pools[0].deficit(queue.need))}"
        free = ", ".join(f"{name} {show(name, amount)}" for name, amount in free_in(pools).items())
        return f"none of its {len(pools)} bundles has room; free in all of them together: {free}"

    def tell_changes(self, step: Step) -> None:
        """Announce every demand whose reason or deficit has changed since it was told (called at a slow pace)."""
        left = ANNOUNCED_PER_LOOK_MAX
        for queue in self.queues.values():
            if queue.group is not None:
                if not queue.infeasible:
                    queue.deficit = queue.group.deficit = self._group_lacks(queue.group)
                self.groups.tell_waiting(step, queue.group)
            for demand in queue.demands.values():
                if (demand.reason, demand.deficit) != (queue.reason, queue.deficit):
                    outcome = LeaseOutcome.INFEASIBLE if queue.infeasible else LeaseOutcome.QUEUED
                    self.announce(step, demand, outcome, queue.reason, queue.deficit, None)
                    left -= 1
                    if not left:
                        return

    def _waits(self, step: Step, queue: Queue, demand: Demand) -> None:
        outcome = LeaseOutcome.INFEASIBLE if queue.infeasible else LeaseOutcome.QUEUED
        if (outcome, queue.reason) != (demand.outcome, demand.reason):
            self.announce(step, demand, outcome, queue.reason, queue.deficit, None)

    def announce(
        self, step: Step, demand: Demand, outcome: LeaseOutcome, reason: Reason, deficit: str, lease: Lease | None
    ) -> None:
        """Record one decision about a demand, and what the candidate was like."""
        if outcome in (LeaseOutcome.QUEUED, LeaseOutcome.INFEASIBLE):
            demand.outcome, demand.reason, demand.deficit = outcome, reason, deficit
        self._decisions = self._decisions % _U32 + 1
        text = step.emit.intern(deficit)
        granted = lease is not None
        worker, key, chosen = (
            (lease.worker.id, lease.key & _U32, self.node) if lease is not None else (NIL_WORKER, 0, bytes(8))
        )
        waited = step.now - demand.waiting_since
        queue = self.queues.get(demand.signature())
        depth = len(queue.demands) if queue is not None else 0
        step.emit.lease_decided(
            step.time_ns, self._decisions, demand.client, demand.label, outcome, reason, chosen, worker, key,
            min(demand.wanted, _U32), min(depth, _U32), waited, outcome is not LeaseOutcome.WITHDRAWN, text,
            demand.placement.group or NIL_TASK,
            lease.bundle.index if lease is not None and lease.bundle is not None else demand.placement.bundle,
        )  # fmt: skip
        if outcome is not LeaseOutcome.WITHDRAWN:
            mean = demand.task_seconds
            step.emit.lease_candidate(
                step.time_ns, self._decisions, self.node, outcome is not LeaseOutcome.INFEASIBLE,
                Reason.NONE if granted else reason, 0.0 if granted else mean * demand.backlog / max(1, demand.held),
                min(demand.backlog, _U32), mean, 0, 0.0, text,
            )  # fmt: skip

    def spilled(
        self, step: Step, demand: Demand, reason: Reason, chosen: bytes, candidates: Sequence[Candidate]
    ) -> None:
        """Record that a demand was given to another node, and what all nodes looked like then."""
        self._decisions = self._decisions % _U32 + 1
        step.emit.lease_decided(
            step.time_ns, self._decisions, demand.client, demand.label, LeaseOutcome.SPILLED, reason, chosen,
            NIL_WORKER, 0, min(demand.wanted, _U32), 0, max(0.0, step.now - demand.waiting_since), len(candidates) + 1,
            0, demand.placement.group or NIL_TASK, demand.placement.bundle,
        )  # fmt: skip
        text = step.emit.intern(self.resources.explain(self.resources.deficit(demand.need)) or demand.deficit)
        here = reason in (Reason.NO_CAPACITY, Reason.LOCALITY, Reason.FAIRNESS, Reason.GPUS_KEPT_FREE)
        step.emit.lease_candidate(
            step.time_ns, self._decisions, self.node, here, reason, 0.0, min(demand.backlog, _U32),
            demand.task_seconds, 0, 0.0, text,
        )  # fmt: skip
        for each in candidates:
            step.emit.lease_candidate(
                step.time_ns, self._decisions, each.node, each.feasible, each.reject, each.wait_seconds,
                min(each.queued, _U32), each.task_seconds, each.remote_bytes, 0.0, step.emit.intern(each.missing),
            )  # fmt: skip
