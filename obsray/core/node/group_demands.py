"""Machine: what waits for placement groups, and groups that wait for a place, among the demands of the scheduler.

A group that is not placed yet waits in a queue of its own, by the same rules as everybody else. One that has waited
long for room at other nodes has them let it have its turn there: its bundles wait in a queue there, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from obsray.core.node.arranging import Offer
from obsray.core.node.bundles import Bundle, Group
from obsray.core.node.demands import Demand, Lease, Queue
from obsray.core.node.environments import DEFAULT_RUNTIME
from obsray.core.node.group_copies import Turn
from obsray.core.node.placement import Placement
from obsray.core.node.reservation import RESERVE_AFTER_SECONDS
from obsray.core.node.resources import Amounts
from obsray.core.node.step import Step
from obsray.core.protocol.lifecycle import GroupState
from obsray.telemetry.events import LeaseOutcome, Reason

if TYPE_CHECKING:
    from obsray.core.node.scheduler import Scheduler


class GroupDemands:
    """Demands of and for groups, kept in the queues of a ``Scheduler``."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        #: Of groups that look for a place, by their ids.
        self.waiting: dict[bytes, Demand] = {}
        #: Of groups at home elsewhere that have their turn here, by their ids.
        self.turns: dict[bytes, tuple[Demand, Turn]] = {}

    def want(self, step: Step, group: Group) -> None:
        """Place the group, or what it has lost, as soon as all of that fits."""
        scheduler = self._scheduler
        before = self.waiting.pop(group.id, None)
        if before is not None:
            scheduler.dequeue(before)
        need = group.need
        demand = Demand(
            group.owner, -1, group.name, need, need, DEFAULT_RUNTIME, label=group.label, wanted=1,
            placement=Placement(group=group.id), group=group,
        )  # fmt: skip
        self.waiting[group.id] = demand
        scheduler.enqueue(step, demand)
        # Tries that failed do not cost it its turn.
        scheduler.queues[demand.signature()].waiting_since = demand.waiting_since = group.waiting_since

    def end(self, step: Step, group: Group, why: str, reason: Reason) -> list[Lease]:
        """The group ends: nothing more runs in it. Returns the leases in it, whose workers must end.

        Actors that wait for it are not this machine's to end.
        """
        scheduler = self._scheduler
        self.end_turn(step, group.id)
        demand = self.waiting.pop(group.id, None)
        if demand is not None:
            scheduler.withdraw(step, demand, Reason.REMOVED)
        for (client, shape), demand in list(scheduler.demands.items()):
            if demand.placement.group == group.id:
                if demand.wanted:
                    scheduler.withdraw(step, demand, Reason.REMOVED)
                del scheduler.demands[client, shape]
                scheduler.refuse(step, client, shape, "group_removed", why)
        held = [lease for lease in scheduler.leases.values() if lease.demand.placement.group == group.id]
        scheduler.groups.remove(
            step, group, "somebody removed it" if reason is Reason.REMOVED else why, reason, len(held)
        )
        return held

    def known(self, step: Step, group: Group) -> list[tuple[Demand, str]]:
        """Its home has said what a group is: what can never run in it is refused. Returns the actors, and why."""
        scheduler = self._scheduler
        actors = []
        for (client, shape), demand in list(scheduler.demands.items()):
            if demand.placement.group == group.id:
                kind, detail = scheduler.refusal(demand.placement, demand.need)
                if kind:
                    if demand.wanted:
                        scheduler.withdraw(step, demand, Reason.INFEASIBLE, detail)
                    del scheduler.demands[client, shape]
                    scheduler.refuse(step, client, shape, kind, detail)
        for demand in scheduler.actor_demands.values():
            if demand.placement.group == group.id:
                kind, detail = scheduler.refusal(demand.placement, demand.need)
                if kind:
                    actors.append((demand, detail))
        return actors

    def shelter(self, step: Step) -> None:
        """Groups that look for a place wait like everybody else; those that no node could take may be able to now."""
        scheduler = self._scheduler
        if scheduler.groups.homeless:
            homeless, scheduler.groups.homeless = scheduler.groups.homeless, []
            for group in homeless:
                self.want(step, group)
        if self.waiting and scheduler.groups.nodes_changed():
            for demand in self.waiting.values():
                queue = scheduler.queues[demand.signature()]
                queue.infeasible = scheduler.infeasible(demand)

    def place(self, step: Step, queue: Queue, keep: Amounts | None) -> bool:
        """Place the group that waits in this queue, if all its bundles fit. Returns whether it is there now."""
        scheduler = self._scheduler
        group = queue.group
        assert group is not None
        queue.reason = Reason.NO_CAPACITY
        if step.now < group.not_before:
            step.wake(group.not_before)
            return False
        found = scheduler.groups.arranged(group, queue.need, keep)
        patient = isinstance(found, str)
        if isinstance(found, str):
            found = self._patiently(step, group, keep)
            if not found:
                return False
        demand = self.waiting.pop(group.id)
        scheduler.dequeue(demand)
        demand.wanted = 0
        scheduler.reservation.took(step, demand.need)
        scheduler.decisions.announce(step, demand, LeaseOutcome.GRANTED, Reason.PLACEMENT, "", None)
        scheduler.groups.place(step, group, found, patient)
        return group.state is GroupState.CREATED

    def _patiently(self, step: Step, group: Group, keep: Amounts | None) -> list[tuple[Bundle, Offer]]:
        """Where it may have its turn if it has waited long enough for room; empty if nowhere, or not yet."""
        groups = self._scheduler.groups
        since = max(group.waiting_since + RESERVE_AFTER_SECONDS, group.patient_not_before)
        if not groups.peers.peers:
            return []
        if step.now < since:
            step.wake(since)
            return []
        group.patient_not_before = step.now + RESERVE_AFTER_SECONDS
        return groups.arranged_patiently(group, keep)

    # --- turns of groups at home elsewhere -------------------------------------------------------------------

    def have_turn(self, step: Step, turn: Turn) -> None:
        """Hold these bundles as soon as it is their turn: they wait like everybody else."""
        scheduler, group = self._scheduler, turn.group
        self.end_turn(step, group.id)
        missing = scheduler.resources.deficit(turn.need)
        if not scheduler.reservation.can_come_free(missing):
            scheduler.copies.answer(step, turn, "what they lack is held by actors")
            return
        demand = Demand(
            group.owner, -1, group.name, turn.need, turn.need, DEFAULT_RUNTIME,
            label=step.emit.intern("placement group of another node"), wanted=1, for_group=group.id, foreign=True,
        )  # fmt: skip
        self.turns[group.id] = demand, turn
        scheduler.enqueue(step, demand)

    def end_turn(self, step: Step, group: bytes, attempt: int | None = None) -> None:
        """Its home waits no longer (for this ``attempt``), or is gone; nothing happens if it has no turn here."""
        demand, turn = self.turns.get(group, (None, None))
        if demand is None or turn is None or attempt not in (None, turn.attempt):
            return
        del self.turns[group]
        self._scheduler.withdraw(step, demand, Reason.REMOVED)

    def hold(self, step: Step, queue: Queue, keep: Amounts | None) -> None:
        """It is its turn: hold the bundles if they fit."""
        scheduler = self._scheduler
        demand, turn = self.turns[queue.for_group]
        queue.reason = Reason.NO_CAPACITY
        if not scheduler.resources.fits(queue.need, keep) or scheduler.copies.hold(step, turn):
            return
        del self.turns[queue.for_group]
        scheduler.dequeue(demand)
        demand.wanted = 0
        scheduler.reservation.took(step, demand.need)
        scheduler.decisions.announce(step, demand, LeaseOutcome.GRANTED, Reason.PLACEMENT, "", None)
