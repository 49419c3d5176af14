"""Machine: the local scheduler: who gets which worker and when, and why not yet.

Demands that need the same share a queue, so a decision costs as much as there are *different* needs, however many
tasks wait. First comes who holds least, among equals whose turn is oldest: round robin over all demands. One that
does not fit now does not hold up smaller ones, and has its turn kept once it was overtaken for too long
(``reservation.py``). Demands that cannot be met now ask the holders of other leases to give idle ones back.

A lease takes from its *place*: the node's own resources, or a bundle of a placement group. A group that is not placed
yet waits in a queue of its own, by the same rules (``group_demands.py``); work for it waits until it is.

Invariants: resources free + held by leases + reserved by bundles == total, and in each bundle free + held == its share;
a worker has at most one lease; a demand is in exactly one queue while it wants something. Amounts beyond the node's
total wait as infeasible.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import replace

from obsray.core.node.bundles import Bundle
from obsray.core.node.decisions import Decisions
from obsray.core.node.demands import Demand, Lease, Queue, Signature
from obsray.core.node.environments import Runtime
from obsray.core.node.gpu_shares import tell_lease_begins, tell_lease_ends
from obsray.core.node.group_copies import GroupCopies
from obsray.core.node.group_demands import GroupDemands
from obsray.core.node.groups import GroupTable
from obsray.core.node.nesting import Nesting, Refusal
from obsray.core.node.peers import PeerTable
from obsray.core.node.placement import ANYWHERE, Placement
from obsray.core.node.reclaim import Reclaimer
from obsray.core.node.reservation import Reservation
from obsray.core.node.resources import GPU, Amounts, Resources, default_need, free_in, shortfall
from obsray.core.node.step import Step, require
from obsray.core.node.workers import Worker, WorkerPool
from obsray.core.protocol.lifecycle import GroupState, WorkerState
from obsray.core.protocol.messages import LEASE_MARK_SHIFT, DefineShape, LeaseGranted, ShapeRefused
from obsray.ids import mark_of_node
from obsray.telemetry.events import DeathCause, LeaseOutcome, Reason

LOOK_SECONDS = 0.1
_MEAN_WEIGHT = 0.2
_U32 = 0xFFFFFFFF
#: Why nothing is possible on a node that drains.
DRAINING = "this node is draining"


class Scheduler:
    """``node`` is this node's id, ``labels`` what it is called; workers listen in ``socket_directory``."""

    def __init__(
        self, node: bytes, resources: Resources, pool: WorkerPool, socket_directory: str, labels: Mapping[str, str],
        peers: PeerTable | None = None, nesting_seconds_max: float = 60.0,
    ) -> None:  # fmt: skip
        self.node = node
        self.resources = resources
        self.labels = labels
        self.peers = peers or PeerTable(node)
        #: No more work is taken: this node is about to leave.
        self.draining = False
        self.groups = GroupTable(node, labels, resources, self.peers)
        self.copies = GroupCopies(self.groups)
        self.pool = pool
        self.demands: dict[tuple[bytes, int], Demand] = {}
        self.actor_demands: dict[bytes, Demand] = {}
        self.group_demands = GroupDemands(self)
        #: Shapes that can never run: what their clients still ask for them is not heard.
        self.refused: set[tuple[bytes, int]] = set()
        self.queues: dict[Signature, Queue] = {}
        self.leases: dict[int, Lease] = {}
        self.by_worker: dict[bytes, Lease] = {}
        self.nesting = Nesting(pool, self.queues, self.by_worker, nesting_seconds_max)
        self._socket_directory = socket_directory
        self._turn = 0
        # In a cluster the number says whose lease it is.
        self._lease_numbers = (
            int.from_bytes(mark_of_node(node), "big") << LEASE_MARK_SHIFT if self.peers.clustered else 0
        )
        self._reclaimer = Reclaimer(resources, self.groups)
        self.decisions = Decisions(node, labels, resources, self.groups, self.queues)
        self.reservation = Reservation(resources, self.leases)

    # --- demands -----------------------------------------------------------------------------------------

    def define(
        self, step: Step, client: bytes, shape: int, name: str, need: Amounts, runtime: Runtime, label: int,
        placement: Placement = ANYWHERE, described: DefineShape | None = None,
    ) -> None:  # fmt: skip
        """A client explains its number ``shape``; a second time for the same number changes nothing."""
        if (client, shape) in self.demands or (client, shape) in self.refused:
            return
        need = default_need(need)
        kind, detail = self.refusal(placement, need)
        if kind:
            self.refuse(step, client, shape, kind, detail)
        else:
            runtime = replace(runtime, devices=GPU in need)
            demand = Demand(client, shape, name, need, need, runtime, label=label, placement=placement)
            demand.foreign = self.peers.home_of(client) is not None
            demand.described = described
            self.demands[client, shape] = demand
            self.nesting.defined(demand)

    def refusal(self, placement: Placement, need: Amounts) -> tuple[str, str]:
        """Why nothing placed so can ever run, as the kind of ``ShapeRefused`` and in words; empty if it can."""
        if placement.group:
            group = self.copies.meet(placement.group)
            if group is None or group.state is GroupState.REMOVED:
                why = f": {group.ended}" if group is not None and group.reason is not Reason.REMOVED else ""
                return "group_removed", f"its placement group was removed{why}"
            detail = group.refusal(placement.bundle, need)
            if detail:
                return "unschedulable", detail
        if placement.node and not placement.soft:
            detail = self._never_there(placement, need)
            if detail:
                return "unschedulable", detail
        return "", ""

    def _never_there(self, placement: Placement, need: Amounts) -> str:
        """Why the one node where this may run is gone or will never have what it needs; empty if it may have it."""
        if placement.node == self.node:
            labels, total = self.labels, self.resources.whole()
        else:
            peer = self.peers.peers.get(placement.node)
            if peer is None or not peer.alive:
                return f"node {placement.node.hex()} does not exist or is dead"
            labels, total = peer.facts.labels, peer.facts.resources
        # A device may come back into service: what counts is what the node was started with.
        lacks = [placement.unmet(placement.node, labels), shortfall(need, total)]
        why = ", ".join(filter(None, lacks))
        return why and f"it may run on node {placement.node.hex()} only, which can never hold it: {why}"

    def refuse(self, step: Step, client: bytes, shape: int, kind: str, detail: str) -> None:
        """The client's shape can never run; it is told why."""
        self.refused.add((client, shape))
        step.send(client, ShapeRefused(shape, kind, detail))

    def request(self, step: Step, client: bytes, shape: int, wanted: int, backlog: int) -> None:
        """The client wants ``wanted`` workers more than it holds. Raises KeyError for a shape it never defined."""
        if (client, shape) in self.refused:
            return
        demand = self.demands[client, shape]
        demand.backlog = backlog
        if wanted and not demand.wanted:
            self.enqueue(step, demand)
        elif demand.wanted and not wanted:
            self.dequeue(demand)
            if demand.outcome is not LeaseOutcome.GRANTED:
                self.decisions.announce(step, demand, LeaseOutcome.WITHDRAWN, Reason.NONE, "", None)
        demand.wanted = wanted

    def want_actor(self, step: Step, demand: Demand) -> None:
        """Find a worker for ``demand.actor``; its lease comes out of ``schedule``."""
        demand.wanted = 1
        self.actor_demands[demand.actor] = demand
        self.enqueue(step, demand)

    def take_actor(self, actor: bytes) -> Demand:
        """The actor waits here no longer: its demand goes elsewhere."""
        demand = self.actor_demands.pop(actor)
        self.dequeue(demand)
        return demand

    def withdraw_actor(self, step: Step, actor: bytes) -> None:
        """The actor is not wanted any more; nothing happens if it does not wait."""
        demand = self.actor_demands.pop(actor, None)
        if demand is not None:
            self.withdraw(step, demand, Reason.NONE)

    def enqueue(self, step: Step, demand: Demand) -> None:
        """It wants something and waits, behind all that are as modest."""
        signature = demand.signature()
        queue = self.queues.get(signature)
        if queue is None:
            queue = Queue(
                demand.need, demand.hold, demand.runtime, self.infeasible(demand), step.now, demand.placement,
                demand.group, demand.for_group, plain_at=step.now,
            )  # fmt: skip
            self.queues[signature] = queue
        self._turn += 1
        demand.turn = self._turn
        demand.waiting_since = step.now
        demand.outcome, demand.reason = LeaseOutcome.GRANTED, Reason.NONE
        self.nesting.rank(demand)
        queue.add(demand)
        queue.unannounced.append(demand)

    def drain(self) -> None:
        """Grant nothing any more; what waits here waits for other nodes."""
        self.draining, self.reservation.queue = True, None
        for queue in self.queues.values():
            queue.infeasible = DRAINING

    def offer_changed(self, step: Step, device: int = -1) -> None:
        """What this node has is not what it was: ``device`` is out of service, so its leases are asked back."""
        self.groups.look_again()
        for queue in self.queues.values():
            queue.infeasible = self.infeasible(queue.head())
            if queue.infeasible:
                self.reservation.over(queue)
        for lease in self.leases.values():
            if device in lease.devices.get(GPU, ()):
                self._reclaimer.recall(step, lease)

    def infeasible(self, demand: Demand) -> str:
        """Why this node could never meet the demand, as it is now; empty if it could."""
        if self.draining:
            return DRAINING
        if demand.group is not None:
            return self.groups.infeasible(demand.group)
        lack = demand.placement.unmet(self.node, self.labels)
        if demand.placement.group:
            return lack
        return ", ".join(filter(None, (lack, self.resources.infeasible(demand.need))))

    def dequeue(self, demand: Demand) -> None:
        """It waits here no longer; what it wants is for the caller to say."""
        signature = demand.signature()
        queue = self.queues[signature]
        queue.remove(demand)
        if not queue.demands:
            del self.queues[signature]
            self.reservation.over(queue)

    def withdraw(self, step: Step, demand: Demand, reason: Reason, detail: str = "") -> None:
        """It waits here no longer, and wants nothing any more."""
        self.dequeue(demand)
        demand.wanted = 0
        self.decisions.announce(step, demand, LeaseOutcome.WITHDRAWN, reason, detail, None)

    def node_lost(self, step: Step, node: bytes) -> None:
        """The node is dead: what is tied to it will never run."""
        for (client, shape), demand in list(self.demands.items()):
            if demand.placement.node == node and not demand.placement.soft:
                if demand.wanted:
                    self.withdraw(step, demand, Reason.NODE_DIED)
                del self.demands[client, shape]
                self.refuse(step, client, shape, *self.refusal(demand.placement, demand.need))

    # --- leases ------------------------------------------------------------------------------------------

    def return_lease(self, step: Step, client: bytes, key: int, tasks: int, reason: Reason, dispose: bool) -> None:
        """The owner is done with a worker. Raises KeyError if it is not its own lease."""
        lease = self.leases[key]
        if lease.demand.client != client or lease.demand.actor:
            raise KeyError(key)
        self._close(step, lease, tasks, reason)
        worker = lease.worker
        self.pool.put_back(step, worker)
        if (dispose or worker.runtime.fresh or lease.demand.runtime.fresh) and worker.end_cause is None:
            self.pool.retire(step, worker, DeathCause.INTENDED, "its owner asked for it not to be used again")

    def worker_gone(self, step: Step, worker: bytes, reason: Reason) -> Lease | None:
        """The worker died: what it held is free. Returns the lease that ended with it."""
        lease = self.by_worker.get(worker)
        if lease is not None:
            self._close(step, lease, 0, reason)
        return lease

    def _close(self, step: Step, lease: Lease, tasks: int, reason: Reason) -> None:
        del self.leases[lease.key]
        del self.by_worker[lease.worker.id]
        demand = lease.demand
        queue = self.queues.get(demand.signature()) if demand.wanted else None
        if queue is not None:
            queue.remove(demand)
        demand.held -= 1
        demand.asked_back -= lease.asked_back
        if queue is not None:
            queue.add(demand)
        if lease.devices:
            tell_lease_ends(step, lease)
        lease.place.give(lease.key)
        if lease.bundle is not None:
            self.groups.release(step, self.groups.groups[demand.placement.group], lease.bundle)
        held_seconds = step.now - lease.granted_at
        if tasks > 0:
            demand.task_seconds += _MEAN_WEIGHT * (held_seconds / tasks - demand.task_seconds)
        step.emit.lease_returned(
            step.time_ns, lease.key & _U32, demand.client, lease.worker.id, demand.label, reason, held_seconds,
            min(tasks, _U32),
        )  # fmt: skip

    def block(self, worker: bytes, sure: bool = False) -> None:
        """The worker's task waits: its CPUs are free meanwhile. ``sure``: as in ``Lease``."""
        lease = self.by_worker.get(worker)
        if lease is not None and not lease.blocked:
            lease.blocked, lease.sure = True, sure
            lease.place.lend_cpus(lease.key)
            self.nesting.changed(worker)

    def unblock(self, worker: bytes) -> None:
        """The worker's task goes on, at once."""
        lease = self.by_worker.get(worker)
        if lease is not None and lease.blocked:
            lease.blocked = lease.sure = False
            lease.place.retake_cpus(lease.key)
            self.nesting.changed(worker)

    def client_gone(self, step: Step, client: bytes) -> list[Lease]:
        """Forget the client's demands; returns the leases it held, whose workers now work for nobody."""
        for key in [key for key in self.demands if key[0] == client]:
            demand = self.demands.pop(key)
            if demand.wanted:
                self.dequeue(demand)
                demand.wanted = 0
        self.refused -= {key for key in self.refused if key[0] == client}
        self.groups.client_gone(client)
        self.nesting.client_gone(client)
        return [lease for lease in self.leases.values() if lease.demand.client == client and not lease.demand.actor]

    # --- decisions ---------------------------------------------------------------------------------------

    def schedule(self, step: Step) -> list[Lease]:
        """Grant what can be granted. Clients are told here; leases for actors are returned."""
        for_actors: list[Lease] = []
        self.copies.ask(step)
        self.groups.look_again()
        self.group_demands.shelter(step)
        self._reclaimer.relieve(step, self.leases.values())
        if self.queues:
            self.reservation.choose(step, [queue for queue in self.queues.values() if not queue.infeasible])
            self.nesting.begin(step)
            # Once more after a group was placed: work for it may have come first.
            while self._grant_all(step, for_actors):
                pass
            self._start_workers(step)
            self.decisions.explain(step, self.reservation.queue)
            self._reclaimer.ask_back(step, sorted(self.queues.values(), key=self._precedence), self.leases.values())
            if any(not queue.infeasible for queue in self.queues.values()):
                step.wake(step.now + LOOK_SECONDS)
        return for_actors

    def _grant_all(self, step: Step, for_actors: list[Lease]) -> bool:
        """One pass over the queues in order of precedence. Returns whether a group was placed."""
        grouped = False
        reservation = self.reservation
        order = [(self._precedence(queue), queue) for queue in self.queues.values() if not queue.infeasible]
        # No two have the same precedence: every demand has a turn of its own.
        heapq.heapify(order)
        while order:
            _, queue = heapq.heappop(order)
            keep = reservation.queue.need if reservation.queue not in (None, queue) else None
            if queue.group is not None:
                grouped |= self.group_demands.place(step, queue, keep)
                continue
            if queue.for_group:
                self.group_demands.hold(step, queue, keep)
                continue
            place, bundle = self._place_for(queue, keep)
            if place is None:
                continue
            worker = self.pool.find(queue.runtime)
            if worker is None:
                queue.reason = Reason.WORKER_STARTING
                continue
            lease = self._grant(step, queue, worker, place, bundle)
            if lease.demand.actor:
                for_actors.append(lease)
            if queue.demands:
                heapq.heappush(order, (self._precedence(queue), queue))
        return grouped

    def _place_for(self, queue: Queue, keep: Amounts | None) -> tuple[Resources | None, Bundle | None]:
        """Where the queue's first demand fits now; of several bundles the one with least left over."""
        placement = queue.placement
        if not placement.group:
            if self.resources.fits(queue.need, keep):
                return self.resources, None
            queue.reason = Reason.NO_CAPACITY
            return None, None
        group = self.groups.groups[placement.group]
        here = [bundle for bundle in group.chosen(placement.bundle) if bundle.pool is not None and bundle.open]
        if not group.placed or not here:
            queue.reason = Reason.PLACEMENT
            return None, None
        fitting = [
            (sum(bundle.pool.free.values()), bundle.index, bundle)
            for bundle in here
            if bundle.pool is not None and bundle.pool.fits(queue.need)
        ]
        if not fitting:
            queue.reason = Reason.NO_CAPACITY
            return None, None
        bundle = min(fitting)[2]
        return bundle.pool, bundle

    def _precedence(self, queue: Queue) -> tuple[bool, int, int, int]:
        head = queue.head()
        return queue is not self.reservation.queue, -head.urgency, head.held, head.turn

    def _grant(self, step: Step, queue: Queue, worker: Worker, place: Resources, bundle: Bundle | None) -> Lease:
        demand = queue.head()
        self._lease_numbers += 1
        key = self._lease_numbers
        devices = place.take(key, demand.hold)
        self.pool.take(worker, WorkerState.ACTOR if demand.actor else WorkerState.LEASED, demand.runtime)
        lease = Lease(key, demand, worker, devices, step.now, place, bundle)
        self.leases[key] = self.by_worker[worker.id] = lease
        if devices:
            tell_lease_begins(step, lease)
        if bundle is None:
            self.reservation.took(step, demand.hold)
        reason = Reason.CAPACITY_FREE if bundle is None else Reason.PLACEMENT
        self.decisions.announce(step, demand, LeaseOutcome.GRANTED, reason, "", lease)
        queue.remove(demand)
        self.nesting.granted(step, queue, demand)
        queue.waiting_since = step.now
        demand.held += 1
        demand.wanted -= 1
        if demand.wanted:
            self._turn += 1
            demand.turn = self._turn
            demand.waiting_since = step.now
            queue.add(demand)
        else:
            self.actor_demands.pop(demand.actor, None)
            if not queue.demands:
                del self.queues[demand.signature()]
        self.reservation.over(queue)
        if not demand.actor:
            path = f"{self._socket_directory}/{worker.id.hex()}.sock"
            step.send(demand.client, LeaseGranted(demand.shape, key, worker.id, path, devices))
        return lease

    def _start_workers(self, step: Step) -> None:
        """Ask for as many processes as could be given work now."""
        outside = free_in([self.resources])
        wanted: dict[str, int] = {}
        waiting = [queue for queue in self.queues.values() if queue.reason is Reason.WORKER_STARTING]
        for queue in waiting:
            count = 0
            for demand in queue.demands.values():
                count += demand.wanted
                if count >= self.pool.workers_max:
                    break
            placement = queue.placement
            group = self.groups.groups[placement.group] if placement.group else None
            free = outside if group is None else free_in(group.pools(placement.bundle))
            for name, amount in queue.hold.items():
                count = min(count, free[name] // amount)
            for name, amount in queue.hold.items():
                free[name] -= amount * count
            # Even if others have taken all of it in this plan, one process has to come first.
            wanted[queue.runtime.key] = wanted.get(queue.runtime.key, 0) + max(1, count)
        for queue in waiting:
            queue.reason, queue.deficit = self.pool.want(
                step, queue.runtime, wanted[queue.runtime.key], Reason.CAPACITY_FREE
            )
        for queue in self.queues.values():
            # What takes long to make is begun while others still have the room.
            if queue.runtime.key and queue.reason is Reason.NO_CAPACITY and not queue.infeasible:
                reason, why = self.pool.prepare(step, queue.runtime)
                if reason is Reason.ENVIRONMENT_FAILED:
                    queue.reason, queue.deficit = reason, why

    def give_up(self, step: Step) -> list[tuple[Demand, str]]:
        """Take out the demands whose environment cannot be made, each with the reason."""
        lost = []
        for queue in [queue for queue in self.queues.values() if queue.reason is Reason.ENVIRONMENT_FAILED]:
            for demand in list(queue.demands.values()):
                self.withdraw(step, demand, queue.reason, queue.deficit)
                self.actor_demands.pop(demand.actor, None)
                lost.append((demand, queue.deficit))
        return lost

    def refuse_too_deep(self, step: Step) -> list[Refusal]:
        """Take out the demands that will never be met because every process waits, each with the reason."""
        refusals = self.nesting.refuse(step)
        for demand, detail in refusals:
            self.withdraw(step, demand, Reason.WORKER_LIMIT, detail)
            step.emit.nesting_refused(
                step.time_ns, demand.client, demand.label, min(demand.backlog, _U32), demand.depth,
                min(self.pool.workers_max, _U32), step.emit.intern(detail),
            )  # fmt: skip
        return refusals

    def tell_changes(self, step: Step) -> None:
        """Announce every demand whose reason or deficit has changed since it was told (called at a slow pace)."""
        self.decisions.tell_changes(step)

    # --- views -------------------------------------------------------------------------------------------

    @property
    def leases_granted(self) -> int:
        """How many leases there have been so far, from some number on."""
        return self._lease_numbers

    def waiting(self) -> tuple[int, int]:
        """How many demands wait, and how many of them this node can never meet."""
        queued = sum(len(queue.demands) for queue in self.queues.values() if not queue.infeasible)
        return queued, sum(len(queue.demands) for queue in self.queues.values() if queue.infeasible)

    def blocked_workers(self) -> int:
        return sum(lease.blocked for lease in self.leases.values())

    def check_invariants(self) -> None:
        self.resources.check_invariants()
        places: dict[int, set[int]] = {id(self.resources): set()}
        for group in self.groups.groups.values():
            for bundle in group.bundles:
                if bundle.pool is not None:
                    places[id(self.resources)].add(bundle.share)
                    places[id(bundle.pool)] = set()
                    require(set(bundle.pool.shares) <= set(self.leases), "a share of a bundle without a lease")
        for lease in self.leases.values():
            require(id(lease.place) in places, "a lease in a bundle that has no share")
            places[id(lease.place)].add(lease.key)
            require((lease.bundle is not None) == bool(lease.demand.placement.group), "a lease outside of its group")
            require(lease.key in lease.place.shares, "a lease without a share")
        require(set(self.resources.shares) == places[id(self.resources)], "a share without a lease, or the reverse")
        self.groups.check_invariants()
        waiting = {
            group.id
            for group in self.groups.groups.values()
            if self.groups.at_home(group)
            and group.state in (GroupState.PENDING, GroupState.RESCHEDULING)
            and not (group.trying or group in self.groups.homeless)
        }
        require(
            waiting == set(self.group_demands.waiting), "a group that waits nowhere, or waits although it is placed"
        )
        require(len(self.by_worker) == len(self.leases), "a worker with two leases")
        held: dict[int, int] = {}
        for lease in self.leases.values():
            held[id(lease.demand)] = held.get(id(lease.demand), 0) + 1
            require(lease.worker.state in (WorkerState.LEASED, WorkerState.ACTOR), "{} has a lease", lease.worker)
            require(self.by_worker[lease.worker.id] is lease, "a lease that its worker does not know")
        for queue in self.queues.values():
            require(bool(queue.demands), "an empty queue")
            levels = {key: set(level) for key, level in queue.levels.items()}
            require(set().union(*levels.values()) == set(queue.demands), "the levels do not hold the demands")
            ranks = {i: (-demand.urgency, demand.held) for i, demand in queue.demands.items()}
            require(all(ranks[i] == key for key in levels for i in levels[key]), "a wrong level")
            require(all(demand.wanted > 0 for demand in queue.demands.values()), "a queued demand wants nothing")
        for demand in self.demands.values():
            found = self.queues.get(demand.signature())
            queued = found is not None and id(demand) in found.demands
            require(not demand.placement.group or demand.placement.group in self.groups.groups, "an unknown group")
            require(queued == (demand.wanted > 0), "{} is queued: {}", demand, queued)
            require(demand.held == held.get(id(demand), 0), "{} holds {}", demand, held.get(id(demand), 0))
