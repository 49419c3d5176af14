"""Which leases are asked back because others wait, and which not.

Asked are those who want no more, who hold more than the one who waits would then, or who had their worker long enough.
What is missing in a bundle can only come from leases in that group.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice

from obsray.config import CROWDED_SECONDS, RECLAIMING_PER_LOOK_MAX, SLICE_SECONDS
from obsray.core.node.demands import Demand, Lease, Queue
from obsray.core.node.groups import GroupTable
from obsray.core.node.resources import CPU, GPU, Amounts, Resources, free_in
from obsray.core.node.step import Step
from obsray.core.protocol.messages import LEASE_NUMBER_MASK, LeaseReclaim
from obsray.telemetry.events import Reason


class Reclaimer:
    """Asks for leases back on behalf of the scheduler."""

    def __init__(self, resources: Resources, groups: GroupTable) -> None:
        self.resources = resources
        self.groups = groups
        #: Since when more CPUs are in use than there are.
        self._crowded_since: float | None = None

    def relieve(self, step: Step, leases: Collection[Lease]) -> None:
        """More CPUs are in use than there are, as a task that had lent its own goes on: ask the newest leases back.

        At once it would cost every task that waits for its children a lease; that of a child is idle soon by itself.
        """
        excess = -self.resources.free.get(CPU, 0)
        if excess <= 0:
            self._crowded_since = None
            return
        if self._crowded_since is None:
            self._crowded_since = step.now
        if step.now < self._crowded_since + CROWDED_SECONDS:
            step.wake(self._crowded_since + CROWDED_SECONDS)
            return
        using = [
            lease for lease in leases if lease.place is self.resources and not lease.blocked and not lease.demand.actor
        ]
        excess -= sum(lease.demand.hold.get(CPU, 0) for lease in using if lease.asked_back)
        for lease in sorted(using, key=lambda lease: (lease.granted_at, lease.key), reverse=True):
            if excess <= 0:
                break
            if not lease.asked_back and lease.demand.hold.get(CPU, 0):
                excess -= lease.demand.hold[CPU]
                self._ask(step, lease)

    def ask_back(self, step: Step, queues: list[Queue], leases: Collection[Lease]) -> None:
        """Ask for what the waiting ``queues``, most urgent first, lack and nobody is bringing already."""
        candidates = [lease for lease in leases if self._may_be_asked(step, lease)]
        if not candidates:
            return
        candidates.sort(key=lambda lease: (lease.demand.asked_back - lease.demand.held, lease.granted_at))
        #: What is on its way back, outside of groups (b"") and in each.
        coming: dict[bytes, Amounts] = {}
        workers_coming = 0
        for lease in leases:
            if lease.asked_back:
                workers_coming += 1
                there = coming.setdefault(lease.demand.placement.group, {})
                for name, amount in lease.demand.hold.items():
                    there[name] = there.get(name, 0) + amount
        for queue in queues:
            if queue.infeasible or queue.reason not in (Reason.NO_CAPACITY, Reason.WORKER_LIMIT):
                continue
            there = coming.setdefault(b"" if queue.group is not None else queue.placement.group, {})
            for demand in islice(queue.demands.values(), RECLAIMING_PER_LOOK_MAX):
                missing = self._missing(queue, demand, there)
                short_of_workers = queue.reason is Reason.WORKER_LIMIT and not workers_coming
                if missing or short_of_workers:
                    incoming = any(there.get(name, 0) > 0 for name in queue.need)
                    for lease in self._victims(step, candidates, demand, missing, incoming):
                        self._ask(step, lease)
                        workers_coming += 1
                        for name, amount in lease.demand.hold.items():
                            missing[name] = missing.get(name, 0) - amount
                        if all(lack <= 0 for lack in missing.values()):
                            break
                # What is on its way is for this demand; the next one may not count on it again.
                for name, amount in queue.need.items():
                    there[name] = max(0, there.get(name, 0) - amount * demand.wanted)

    def _missing(self, queue: Queue, demand: Demand, coming: Amounts) -> Amounts:
        places = [self.resources]
        if queue.placement.group and queue.group is None:
            places = self.groups.groups[queue.placement.group].pools(queue.placement.bundle)
        free = free_in(places)
        missing = {}
        for name, amount in queue.need.items():
            lack = amount * demand.wanted - free.get(name, 0) - coming.get(name, 0)
            if lack > 0:
                missing[name] = min(lack, sum(place.total.get(name, 0) for place in places))
        if not missing and not any(place.fits(queue.need) for place in places):
            # Enough in sum, but not in one piece.
            missing = {GPU: queue.need[GPU]} if GPU in queue.need and len(places) == 1 else dict(queue.need)
        return missing

    def _may_be_asked(self, step: Step, lease: Lease) -> bool:
        """Whether anybody could have this lease asked back: its holder wants no more, has more, or had it long."""
        demand = lease.demand
        if lease.asked_back or lease.blocked or demand.actor:
            return False
        rich = demand.held - demand.asked_back > 1
        return not demand.wanted or rich or step.now - lease.granted_at >= SLICE_SECONDS

    def _victims(
        self, step: Step, candidates: list[Lease], demand: Demand, missing: Amounts, incoming: bool
    ) -> Iterator[Lease]:
        """Leases to ask for, best first: of those who want no more, or hold more even after giving one up."""
        gained = int(incoming)
        for lease in candidates:
            other = lease.demand
            if lease.asked_back or other is demand:
                continue
            if missing and (other.domain != demand.domain or not any(name in other.hold for name in missing)):
                continue
            idle_soon = not other.wanted
            richer = other.held - other.asked_back > demand.held + gained + 1
            slice_over = not gained and step.now - lease.granted_at >= SLICE_SECONDS
            if idle_soon or richer or slice_over:
                gained += 1
                yield lease

    def recall(self, step: Step, lease: Lease) -> None:
        """Ask for a lease back although nobody else wants it: its device is out of service."""
        if not lease.asked_back and not lease.demand.actor:
            self._ask(step, lease)

    def _ask(self, step: Step, lease: Lease) -> None:
        lease.asked_back = True
        lease.demand.asked_back += 1
        step.emit.lease_reclaim_requested(
            step.time_ns,
            lease.key & LEASE_NUMBER_MASK,
            lease.demand.client,
            lease.worker.id,
            Reason.RECLAIMED_FOR_OTHERS,
        )
        step.send(lease.demand.client, LeaseReclaim(lease.key))
