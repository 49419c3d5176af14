"""Machine: what keeps a big demand from starving: what comes free is kept for it for a while.

A demand has its turn kept once it has waited ``RESERVE_AFTER_SECONDS`` and others took what it lacks meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from obsray.core.node.demands import Lease, Queue
from obsray.core.node.resources import Amounts, Resources
from obsray.core.node.step import Step

RESERVE_AFTER_SECONDS = 1.0
#: A reservation that led to nothing ends, lest what it holds back is what the holders wait for.
RESERVE_SECONDS_MAX = 10.0


class Reservation:
    """The queue for which ``resources`` are kept; ``leases`` are all there are."""

    def __init__(self, resources: Resources, leases: Mapping[int, Lease]) -> None:
        self.resources = resources
        self.leases = leases
        self.queue: Queue | None = None
        self._until = 0.0
        self._again_at = 0.0
        self._taken_at: dict[str, float] = {}

    def took(self, step: Step, amounts: Iterable[str]) -> None:
        """Somebody got some of these resources."""
        for name in amounts:
            self._taken_at[name] = step.now

    def over(self, queue: Queue) -> None:
        """It got something, or wants nothing any more."""
        if queue is self.queue:
            self.queue = None

    def choose(self, step: Step, queues: list[Queue]) -> None:
        """Choose the demand for which freed resources are kept: overtaken for too long in what it lacks."""
        if self.queue is not None:
            if step.now < self._until:
                return
            self.queue = None
            self._again_at = step.now + RESERVE_SECONDS_MAX
        if step.now < self._again_at:
            return
        outside = [queue for queue in queues if not queue.placement.group or queue.group is not None]
        for queue in sorted(outside, key=lambda queue: queue.waiting_since):
            missing = self.resources.deficit(queue.need)
            overtaken = any(self._taken_at.get(name, 0.0) > queue.waiting_since for name in missing)
            if overtaken and step.now - queue.waiting_since >= RESERVE_AFTER_SECONDS and self.can_come_free(missing):
                self.queue, self._until = queue, step.now + RESERVE_SECONDS_MAX
                step.wake(self._until)
                return

    def can_come_free(self, missing: Amounts) -> bool:
        """Whether ended task leases would give what is missing; what actors hold for life does not come back."""
        for name, lack in missing.items():
            held = sum(
                self.resources.shares[lease.key].amounts.get(name, 0)
                for lease in self.leases.values()
                if not lease.demand.actor and lease.bundle is None
            )
            if held < lack:
                return False
        return True
