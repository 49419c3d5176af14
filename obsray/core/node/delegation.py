"""Machine: the global choice (paper section 4.2): which demand of this node's own clients goes to which other node.

A demand is met here if it can be. What cannot be met here now is given to the node with the least estimated wait:
what waits there × how long it runs, plus bytes to bring there ÷ bandwidth. Wishes come first: a node, a bundle, labels
that are preferred, where large arguments lie, or all nodes in turn (SPREAD). What needs no GPU leaves a node that has
some to those that do, as long as a node without has room, and goes to one with GPUs last. A node to which a demand was
given does not pass it on. What waits elsewhere is taken back when there is room here, goes on to where there is room if
there is none where it waits, and is given again when its node is gone.

Invariants: ``demand.away`` counts what was given away and is not granted; only demands of this node's own clients are
given away; what a client wants in all is ``demand.wanted`` + what is away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from obsray.core.node.decisions import Candidate
from obsray.core.node.demands import Demand, Queue
from obsray.core.node.peers import Peer, PeerTable
from obsray.core.node.placement import Placement
from obsray.core.node.resources import GPU, Amounts, Resources
from obsray.core.node.scheduler import Scheduler
from obsray.core.node.shortlist import LOOKED_AT_MAX, Shortlist
from obsray.core.node.step import Step, require
from obsray.core.protocol.messages import LeaseRequest
from obsray.telemetry.events import Reason

#: What a connection between two nodes carries, until transfers have shown it.
BANDWIDTH_BYTES = 1e9
#: What waits elsewhere is left there at least this long: its worker may be starting.
SETTLE_SECONDS = 0.1
#: What is spread stays in its turn for this long, so that short tasks that wait for one another are spread, too.
SPREAD_SECONDS = 1.0
#: What was given to a node because of its labels, or to keep GPUs free, stays there at least this long.
PREFERRED_SECONDS = 2.0
#: What waits for room in any bundle of a group goes on to the next node that has some after this time, each time after
#: twice as long: only the node that has a bundle knows what is free in it.
BUNDLE_SECONDS = 0.2
BUNDLE_SECONDS_MAX = 5.0
DEMANDS_PER_LOOK_MAX = 64
#: Units of one demand that are placed one by one; more go in equal parts.
SINGLE_UNITS_MAX = 64
CANDIDATES_TOLD_MAX = 16


class Delegation:
    """``node``, ``node_labels`` and ``resources`` are this node's."""

    def __init__(
        self, node: bytes, node_labels: Mapping[str, str], resources: Resources, peers: PeerTable,
        scheduler: Scheduler,
    ) -> None:  # fmt: skip
        self.node = node
        self.labels = node_labels
        self.resources = resources
        self.peers = peers
        self.scheduler = scheduler
        #: Demands with something away, by client and shape.
        self.away: dict[tuple[bytes, int], Demand] = {}
        #: Actors that wait elsewhere: their demand, where, since when.
        self.actors_away: dict[bytes, tuple[Demand, bytes, float]] = {}
        #: Demands that are spread, of which some (may) wait here as the turn of this node.
        self._kept: dict[tuple[bytes, int], Demand] = {}
        self._defined: dict[bytes, set[tuple[bytes, int]]] = {}
        self._turn = 0
        self.shortlist = Shortlist(node, peers)
        #: Whether something waits that none of those looked at can help with.
        self._unmet = False
        #: A node has said what it has to spare, since that was looked at last.
        self.news = False
        #: Says something to another node for a client of this one (``abroad.py``).
        self.speak: Callable[[Step, Peer, bytes, Any], None] = lambda step, peer, client, message: None
        #: Has an actor's demand go to a node, or come back (``actors.py``).
        self.send_actor: Callable[[Step, Demand, Peer], None] = lambda step, demand, peer: None
        self.recall_actor: Callable[[Step, bytes, bytes], None] = lambda step, actor, node: None
        #: Other nodes with bundles that could serve (``groups.py``).
        self.nodes_of: Callable[[bytes, int, Amounts], list[bytes]] = lambda group, bundle, need: []

    # --- what clients want ---------------------------------------------------------------------------------

    def request(self, step: Step, client: bytes, shape: int, wanted: int, backlog: int) -> None:
        """A client of this node wants ``wanted`` workers more than it holds. Raises KeyError as the scheduler does."""
        demand = self.scheduler.demands.get((client, shape))
        if demand is None or demand.foreign or not self.peers.peers:
            self.scheduler.request(step, client, shape, wanted, backlog)
            return
        demand.backlog = backlog
        self.shortlist.begin_again()
        rest = wanted - sum(demand.away.values()) - self._here(demand)
        if rest < 0:
            self._reduce(step, demand, -rest)
        elif rest > demand.wanted:
            self._follow_wish(step, demand, rest - demand.wanted)
        local = wanted - sum(demand.away.values()) - self._here(demand)
        self.scheduler.request(step, client, shape, max(0, local), backlog)

    def want_actor(self, step: Step, demand: Demand) -> None:
        """Find a worker for an actor at home here: where it wishes to be, else here first."""
        if self.peers.peers:
            closer = self._closer(demand)
            peer = closer[0] if closer else self._wished(demand, 1)
            if peer is not None:
                self._give_actor(step, demand, peer, Reason.AFFINITY)
                return
            if demand.placement.spread and not demand.placement.group:
                chosen = self._in_turn(demand)
                if chosen is not None:
                    self._give_actor(step, demand, chosen, Reason.FAIRNESS)
                    return
            for chosen, _ in self._without_gpus(demand, 1):
                self._give_actor(step, demand, chosen, Reason.GPUS_KEPT_FREE)
                return
        self.scheduler.want_actor(step, demand)

    def actor_settled(self, actor: bytes) -> Demand | None:
        """The actor no longer waits elsewhere: it has a worker, or will get none there. Returns its demand."""
        found = self.actors_away.pop(actor, None)
        return None if found is None else found[0]

    def _here(self, demand: Demand) -> int:
        """What of a demand that is spread was given to this node itself."""
        return demand.twin.wanted if demand.twin is not None else 0

    # --- wishes --------------------------------------------------------------------------------------------

    def _follow_wish(self, step: Step, demand: Demand, units: int) -> None:
        """Give away what wants to be elsewhere before anything is tried here."""
        placement = demand.placement
        if placement.spread and not placement.group:
            for _ in range(min(units, SINGLE_UNITS_MAX)):
                peer = self._in_turn(demand)
                if peer is None:
                    self._keep(step, demand)
                else:
                    self._give(step, demand, peer, 1, Reason.FAIRNESS)
            return
        for peer in self._closer(demand):
            count = min(units, self._fit_count(demand, peer))
            if count:
                self._give(step, demand, peer, count, Reason.AFFINITY)
                units -= count
        peer = self._wished(demand, units) if units else None
        if peer is not None:
            self._give(step, demand, peer, units, Reason.LOCALITY if placement.near else Reason.AFFINITY)
            return
        for peer, count in self._without_gpus(demand, units):
            self._give(step, demand, peer, count, Reason.GPUS_KEPT_FREE)

    def _closer(self, demand: Demand) -> list[Peer]:
        """The nodes with room now whose labels are preferred to those of this one, the best first."""
        placement = demand.placement
        if not placement.choosy or placement.node or placement.group:
            return []
        able = not self.scheduler.infeasible(demand)
        here = placement.distance(self.labels) if able else (len(placement.selectors) + 1, True)
        found = [peer for peer in self.shortlist.take() if placement.distance(peer.facts.labels) < here]
        found = [peer for peer in found if self._lack(demand, peer)[0] is Reason.NONE]
        return sorted(found, key=lambda peer: self._load(demand, peer))

    def _wished(self, demand: Demand, units: int) -> Peer | None:
        """The other node that a demand wants to be on and can be; None if that is no reason to leave."""
        placement = demand.placement
        if placement.node and placement.node != self.node:
            peer = self.peers.peers.get(placement.node)
            if peer is not None and peer.usable and self._lack(demand, peer)[0] in (Reason.NONE, Reason.NO_CAPACITY):
                return peer
        if placement.near and placement.near != self.node and not placement.node and not placement.group:
            peer = self.peers.peers.get(placement.near)
            if peer is not None and peer.usable and self._as_close(placement, peer):
                lack = self._lack(demand, peer)[0]
                if lack is Reason.NONE:
                    return peer
                there, here = self._wait(demand, peer), self._wait_here(demand)
                if lack is Reason.NO_CAPACITY and there < here + placement.near_bytes / BANDWIDTH_BYTES:
                    return peer
        return None

    def _as_close(self, placement: Placement, peer: Peer) -> bool:
        """Whether the labels of a node are no reason to stay here."""
        return not placement.choosy or placement.distance(peer.facts.labels) <= placement.distance(self.labels)

    def _without_gpus(self, demand: Demand, units: int) -> Iterator[tuple[Peer, int]]:
        """Which other nodes take how many units of what needs no GPU, so that the GPUs of this one stay of use: those
        without GPUs that have room now. Each has to be given away before the next is asked for."""
        placement = demand.placement
        if not self.resources.total.get(GPU) or demand.need.get(GPU):
            return
        if placement.group or placement.node or placement.near or placement.spread or placement.choosy:
            return
        able = [peer for peer in self.shortlist.take() if not peer.total.get(GPU)]
        able = [peer for peer in able if self._lack(demand, peer)[0] is Reason.NONE]
        while units > 0 and able:
            peer = min(able, key=lambda peer: self._load(demand, peer))
            count = min(1 if units <= SINGLE_UNITS_MAX else -(-units // len(able)), self._fit_count(demand, peer))
            yield peer, count
            units -= count
            able = [peer for peer in able if self._fits(demand, peer)]

    def _in_turn(self, demand: Demand) -> Peer | None:
        """For SPREAD: the next node, those with room first. None: this one."""
        usable = self.peers.usable()
        self._turn += 1
        if len(usable) > LOOKED_AT_MAX:
            looked = [(peer, self._lack(demand, peer)[0]) for peer in self.shortlist.take()]
            wanted = [Reason.NONE, Reason.NO_CAPACITY] if self.scheduler.infeasible(demand) else [Reason.NONE]
            return next((peer for lack in wanted for peer, its in looked if its is lack), None)
        able: list[Peer | None] = [
            peer for peer in usable if self._lack(demand, peer)[0] in (Reason.NONE, Reason.NO_CAPACITY)
        ]
        if not self.scheduler.infeasible(demand):
            able.insert(0, None)
        if not able:
            return None
        with_room = [peer for peer in able if self._has_room(demand, peer)]
        chosen = with_room or able
        return chosen[self._turn % len(chosen)]

    def _has_room(self, demand: Demand, peer: Peer | None) -> bool:
        if peer is not None:
            return self._lack(demand, peer)[0] is Reason.NONE
        already = self._here(demand)
        free = self.resources.free
        return all(free.get(name, 0) >= amount * (already + 1) for name, amount in demand.need.items())

    def _keep(self, step: Step, demand: Demand) -> None:
        """One unit of a demand that is spread stays here: as a demand of its own, which may not go elsewhere."""
        twin = demand.twin
        if twin is None:
            placement = replace(demand.placement, spread=False)
            twin = Demand(
                demand.client, demand.shape, demand.name, demand.need, demand.hold, demand.runtime,
                label=demand.label, placement=placement, foreign=True,
            )  # fmt: skip
            demand.twin = twin
            self.scheduler.demands[demand.client, ~demand.shape] = twin
        self._kept[demand.client, demand.shape] = demand
        self.scheduler.request(step, demand.client, ~demand.shape, twin.wanted + 1, demand.backlog)

    # --- what cannot be met here ---------------------------------------------------------------------------

    def look(self, step: Step) -> None:
        """Give away what has not been met here, take back what could be met now. After the scheduler has looked."""
        if not self.peers.peers:
            return
        if self.away or self.actors_away:
            self._take_back(step)
            self._try_other_bundles(step)
        moves = self.news and bool(self.away or self.actors_away or self._kept)
        usable = self.shortlist.take() if moves or self.scheduler.queues else []
        if moves:
            self.news = False
            self._move_on(step, usable)
        if not self.scheduler.queues or not usable:
            return
        self._unmet = False
        for queue in list(self.scheduler.queues.values()):
            if queue.group is None:
                self._empty(step, queue, usable)
        if self._unmet:
            self.shortlist.look_on(step)

    def _empty(self, step: Step, queue: Queue, usable: list[Peer]) -> None:
        """Give away the units of a queue for which there is no room here."""
        own = []
        for demand in queue.demands.values():
            if not demand.foreign:
                own.append(demand)
                if len(own) == DEMANDS_PER_LOOK_MAX:
                    break
        if not own:
            return
        stays = 0 if queue.infeasible else self._room_here(queue)
        candidates = self._candidates(own[0], usable)
        for demand in own:
            kept = min(stays, demand.wanted)
            stays -= kept
            units = demand.wanted - kept
            while units > 0:
                fitting = [peer for peer, lack, _ in candidates if lack is Reason.NONE and self._fits(demand, peer)]
                if fitting:
                    part = 1 if units <= SINGLE_UNITS_MAX else -(-units // len(fitting))
                    peer = min(fitting, key=lambda peer: self._load(demand, peer))
                    count = min(part, units, self._fit_count(demand, peer))
                elif queue.infeasible:
                    able = [peer for peer, lack, _ in candidates if lack in (Reason.NONE, Reason.NO_CAPACITY)]
                    if not able:
                        self._unmet = True
                        break
                    peer = min(able, key=lambda peer: (self._wait(demand, peer), peer.id))
                    count = -(-units // len(able))
                else:
                    self._unmet = True
                    break
                reason = Reason.INFEASIBLE if queue.infeasible else Reason.NO_CAPACITY
                units -= count
                if demand.actor:
                    self.scheduler.take_actor(demand.actor)
                    self._give_actor(step, demand, peer, reason)
                else:
                    self._give(step, demand, peer, count, reason)
                    self.scheduler.request(step, demand.client, demand.shape, demand.wanted - count, demand.backlog)

    def _room_here(self, queue: Queue) -> int:
        """How many units of a queue only wait for their worker to start."""
        if queue.reason is not Reason.WORKER_STARTING:
            return 0
        if queue.placement.group:
            pools = self.scheduler.groups.groups[queue.placement.group].pools(queue.placement.bundle)
        else:
            pools = [self.resources]
        return sum(
            min((max(0, pool.free.get(name, 0)) // amount for name, amount in queue.need.items()), default=1 << 30)
            for pool in pools
        )

    def _candidates(self, demand: Demand, usable: list[Peer]) -> list[tuple[Peer, Reason, str]]:
        placement = demand.placement
        if placement.group:
            able = set(self.nodes_of(placement.group, placement.bundle, demand.need))
            listed = {peer.id for peer in usable}
            found = [self.peers.peers[node] for node in sorted(able - listed)]
            usable = [*usable, *(peer for peer in found if peer.usable)]
            # What is free in a bundle only its own node knows.
            return [(peer, Reason.NONE if peer.id in able else Reason.PLACEMENT, "") for peer in usable]
        return [(peer, *self._lack(demand, peer)) for peer in usable]

    def _lack(self, demand: Demand, peer: Peer) -> tuple[Reason, str]:
        """What keeps a demand off a node: NONE nothing, NO_CAPACITY only for now, others for good."""
        placement = demand.placement
        if peer.draining:
            return Reason.DRAINING, "it is draining"
        if placement.node and placement.node != peer.id and not placement.soft:
            return Reason.AFFINITY, f"it may run on node {placement.node.hex()} only"
        if placement.selectors:
            unlabelled = Placement(selectors=placement.selectors).unmet(peer.id, peer.facts.labels)
            if unlabelled:
                return Reason.LABELS, unlabelled
        for name, amount in demand.need.items():
            if peer.total.get(name, 0) < amount:
                return Reason.INFEASIBLE, f"it has {_shown(peer.total.get(name, 0))} {name} of {_shown(amount)}"
        if not self._fits(demand, peer):
            return Reason.NO_CAPACITY, "it has no room now"
        return Reason.NONE, ""

    def _fits(self, demand: Demand, peer: Peer) -> bool:
        if demand.placement.group:
            return demand.away.get(peer.id, 0) < SINGLE_UNITS_MAX
        return all(peer.spare.get(name, 0) >= amount for name, amount in demand.need.items())

    def _fit_count(self, demand: Demand, peer: Peer) -> int:
        if demand.placement.group:
            return 1
        return min((peer.spare.get(name, 0) // amount for name, amount in demand.need.items()), default=1 << 30)

    def _load(self, demand: Demand, peer: Peer) -> tuple[bool, tuple[int, bool], bool, float, int, float, bytes]:
        """What makes a node less welcome than another; least first."""
        placement = demand.placement
        distance = placement.distance(peer.facts.labels) if placement.choosy else (0, False)
        taken = max(
            (
                1 - peer.spare.get(name, 0) / total
                for name, total in peer.total.items()
                if name in demand.need and total
            ),
            default=0.0,
        )
        idle_gpus = bool(peer.total.get(GPU)) and not demand.need.get(GPU)
        waits, there = self._wait(demand, peer), demand.away.get(peer.id, 0)
        return peer.id in demand.tried, distance, idle_gpus, waits, there, taken, peer.id

    def _wait(self, demand: Demand, peer: Peer) -> float:
        """Estimated seconds until a task would run there."""
        wait = peer.queued * (peer.task_seconds or demand.task_seconds) / _places(demand.need, peer.total)
        placement = demand.placement
        if placement.near and placement.near != peer.id:
            wait += placement.near_bytes / BANDWIDTH_BYTES
        return wait

    def _wait_here(self, demand: Demand) -> float:
        if self.resources.fits(demand.need):
            return 0.0
        queued = sum(other.wanted for queue in self.scheduler.queues.values() for other in queue.demands.values())
        return queued * demand.task_seconds / _places(demand.need, self.resources.total)

    # --- giving and taking back ----------------------------------------------------------------------------

    def _give(self, step: Step, demand: Demand, peer: Peer, count: int, reason: Reason) -> None:
        key = (demand.client, demand.shape)
        known = self._defined.setdefault(peer.id, set())
        if key not in known:
            known.add(key)
            assert demand.described is not None
            self.speak(step, peer, demand.client, demand.described)
        demand.away[peer.id] = demand.away.get(peer.id, 0) + count
        demand.away_since = step.now
        self.away[key] = demand
        self._promise(demand, peer, count)
        self._tell(step, demand, peer.id, demand.away[peer.id])
        self._announce(step, demand, peer, reason)
        step.wake(step.now + SETTLE_SECONDS)

    def _give_actor(self, step: Step, demand: Demand, peer: Peer, reason: Reason) -> None:
        demand.wanted = 0
        self.actors_away[demand.actor] = (demand, peer.id, step.now)
        self._promise(demand, peer, 1)
        self._announce(step, demand, peer, reason)
        self.send_actor(step, demand, peer)
        step.wake(step.now + SETTLE_SECONDS)

    def _promise(self, demand: Demand, peer: Peer, count: int) -> None:
        if not demand.placement.group:
            for name, amount in demand.need.items():
                peer.spare[name] = max(0, peer.spare.get(name, 0) - amount * count)

    def _tell(self, step: Step, demand: Demand, node: bytes, wanted: int) -> None:
        peer = self.peers.peers[node]
        self.speak(step, peer, demand.client, LeaseRequest(demand.shape, wanted, demand.backlog))

    def _announce(self, step: Step, demand: Demand, peer: Peer, reason: Reason) -> None:
        candidates = []
        near = demand.placement.near
        others = self.peers.usable()
        if len(others) > CANDIDATES_TOLD_MAX:
            others = [peer, *(other for other in others[: CANDIDATES_TOLD_MAX - 1] if other is not peer)]
        else:
            others = self.peers.living()
        for other, lack, missing in self._candidates(demand, others)[:CANDIDATES_TOLD_MAX]:
            chosen = other is peer
            wait = 0.0 if chosen and self._fits(demand, other) else self._wait(demand, other)
            able = lack in (Reason.NONE, Reason.NO_CAPACITY)
            remote = demand.placement.near_bytes if near and near != other.id else 0
            reject = Reason.NONE if chosen else lack
            candidates.append(
                Candidate(other.id, able, reject, wait, other.queued, other.task_seconds, remote, missing)
            )
        self.scheduler.decisions.spilled(step, demand, reason, peer.id, candidates)

    def _reduce(self, step: Step, demand: Demand, units: int) -> None:
        """The client wants less: what is farthest from being met goes first."""
        twin = demand.twin
        if twin is not None and twin.wanted:
            less = min(units, twin.wanted)
            self.scheduler.request(step, demand.client, ~demand.shape, twin.wanted - less, demand.backlog)
            units -= less
        for node in list(demand.away):
            if units <= 0:
                break
            less = min(units, demand.away[node])
            units -= less
            self._recall(step, demand, node, less)

    def _recall(self, step: Step, demand: Demand, node: bytes, count: int) -> None:
        left = demand.away[node] - count
        self._settle(demand, node, left)
        self._tell(step, demand, node, left)

    def _settle(self, demand: Demand, node: bytes, left: int) -> None:
        if left > 0:
            demand.away[node] = left
            return
        demand.away.pop(node, None)
        if not demand.away:
            self.away.pop((demand.client, demand.shape), None)

    def _take_back(self, step: Step) -> None:
        """What waits elsewhere comes back if there is room here for it now and nothing else keeps it there."""
        planned: Amounts = {}
        for demand in list(self.away.values()):
            if not self._may_come_back(step, demand, demand.away, demand.away_since):
                continue
            room = self._room_for(demand, planned)
            for node in list(demand.away):
                count = min(room, demand.away.get(node, 0))
                if count <= 0:
                    continue
                room -= count
                for name, amount in demand.need.items():
                    planned[name] = planned.get(name, 0) + amount * count
                self._recall(step, demand, node, count)
                self.scheduler.request(step, demand.client, demand.shape, demand.wanted + count, demand.backlog)
        for actor, (demand, node, since) in list(self.actors_away.items()):
            if self._may_come_back(step, demand, (node,), since) and self._room_for(demand, planned):
                for name, amount in demand.need.items():
                    planned[name] = planned.get(name, 0) + amount
                # Its node answers whether it had found a worker before.
                self.actors_away[actor] = (demand, node, step.now)
                self.recall_actor(step, actor, node)

    def _move_on(self, step: Step, usable: list[Peer]) -> None:
        """What waits at a node without room for it goes where there is some: another has joined, or become free."""
        for demand in list(self.away.values()):
            if not self._may_move(step, demand, demand.away_since):
                continue
            for node in list(demand.away):
                count = min(demand.away[node], self._room_beside(demand, node, usable))
                if count > 0:
                    self._recall(step, demand, node, count)
                    self.scheduler.request(step, demand.client, demand.shape, demand.wanted + count, demand.backlog)
        for actor, (demand, node, since) in list(self.actors_away.items()):
            if self._may_move(step, demand, since) and self._room_beside(demand, node, usable):
                self.actors_away[actor] = (demand, node, step.now)
                self.recall_actor(step, actor, node)
        for demand in list(self._kept.values()):
            self._spread_again(step, demand, usable)

    def _try_other_bundles(self, step: Step) -> None:
        """What waits at a node for room in any bundle of its group is given to the next that has bundles."""
        for demand in list(self.away.values()):
            if self._may_try_others(step, demand, demand.away_since):
                for node, count in list(demand.away.items()):
                    self._went_on(demand, node)
                    self._recall(step, demand, node, count)
                    self.scheduler.request(step, demand.client, demand.shape, demand.wanted + count, demand.backlog)
        for actor, (demand, node, since) in list(self.actors_away.items()):
            if self._may_try_others(step, demand, since):
                self._went_on(demand, node)
                self.actors_away[actor] = (demand, node, step.now)
                self.recall_actor(step, actor, node)

    def _may_try_others(self, step: Step, demand: Demand, since: float) -> bool:
        placement = demand.placement
        if not placement.group or placement.bundle >= 0:
            return False
        if len(self._with_bundles(demand)) < 2:
            return False
        until = since + min(BUNDLE_SECONDS * 2**demand.moves, BUNDLE_SECONDS_MAX)
        if step.now < until:
            step.wake(until)
            return False
        return True

    def _with_bundles(self, demand: Demand) -> set[bytes]:
        """The nodes, this one too, that have a bundle that could serve."""
        placement = demand.placement
        found = set(self.nodes_of(placement.group, placement.bundle, demand.need))
        group = self.scheduler.groups.groups.get(placement.group)
        if group is not None and group.pools(placement.bundle):
            found.add(self.node)
        return found

    def _went_on(self, demand: Demand, node: bytes) -> None:
        demand.tried.add(node)
        demand.moves = min(demand.moves + 1, 10)
        if demand.tried >= self._with_bundles(demand) - {self.node}:
            demand.tried = {node}

    def _spread_again(self, step: Step, demand: Demand, usable: list[Peer]) -> None:
        """What waits here because it was this node's turn goes on if there is no room here and some elsewhere."""
        key, twin = (demand.client, demand.shape), demand.twin
        if twin is None or not twin.wanted or self.scheduler.demands.get((key[0], ~key[1])) is not twin:
            del self._kept[key]
        elif not self.resources.fits(twin.need) and self._may_move(step, demand, twin.waiting_since):
            able = [peer for peer in usable if self._lack(demand, peer)[0] is Reason.NONE]
            count = min(twin.wanted, sum(self._fit_count(demand, peer) for peer in able))
            if count:
                self.scheduler.request(step, demand.client, ~demand.shape, twin.wanted - count, demand.backlog)
                self.scheduler.request(step, demand.client, demand.shape, demand.wanted + count, demand.backlog)

    def _room_beside(self, demand: Demand, node: bytes, usable: list[Peer]) -> int:
        """How many units other nodes have room for now, 0 if there is room at ``node`` itself."""
        peer = self.peers.peers.get(node)
        if peer is None or self._fits(demand, peer):
            return 0
        others = [each for each in usable if each is not peer and self._lack(demand, each)[0] is Reason.NONE]
        return sum(self._fit_count(demand, each) for each in others)

    def node_drains(self, step: Step, node: bytes) -> None:
        """A node takes no more work: what waits there comes back, and is given to others as if it were new."""
        for demand in list(self.away.values()):
            count = demand.away.get(node, 0)
            if count:
                self._recall(step, demand, node, count)
                self.scheduler.request(step, demand.client, demand.shape, demand.wanted + count, demand.backlog)
        for actor, (_, where, _) in list(self.actors_away.items()):
            if where == node:
                self.recall_actor(step, actor, node)

    def _may_come_back(self, step: Step, demand: Demand, where: Iterable[bytes], since: float) -> bool:
        if not self._may_move(step, demand, since) or self.scheduler.infeasible(demand):
            return False
        if self._keeps_gpus_free(demand, where) and step.now < since + PREFERRED_SECONDS:
            step.wake(since + PREFERRED_SECONDS)
            return False
        # Where it would rather be it stays as long as there is room: its worker is starting.
        return not demand.placement.choosy or not any(self._rather(demand, node) for node in where)

    def _keeps_gpus_free(self, demand: Demand, where: Iterable[bytes]) -> bool:
        """Whether what needs no GPU waits at a node without any, while this one has some."""
        if not self.resources.total.get(GPU) or demand.need.get(GPU):
            return False
        peers = [self.peers.peers.get(node) for node in where]
        return any(peer is not None and not peer.total.get(GPU) for peer in peers)

    def _rather(self, demand: Demand, node: bytes) -> bool:
        peer = self.peers.peers.get(node)
        if peer is None or not peer.usable or not self._fits(demand, peer):
            return False
        return demand.placement.distance(peer.facts.labels) < demand.placement.distance(self.labels)

    def _may_move(self, step: Step, demand: Demand, since: float) -> bool:
        """Whether nothing ties it to where it waits. If it is only too early, this is asked again."""
        placement = demand.placement
        if placement.group or placement.node:
            return False
        settle = SETTLE_SECONDS + (placement.near_bytes / BANDWIDTH_BYTES if placement.near else 0.0)
        if placement.spread and not demand.actor:
            settle = SPREAD_SECONDS
        elif placement.choosy:
            settle = PREFERRED_SECONDS
        if step.now < since + settle:
            step.wake(since + settle)
            self.news = True
            return False
        return True

    def _room_for(self, demand: Demand, planned: Amounts) -> int:
        return min(
            (
                max(0, self.resources.free.get(name, 0) - planned.get(name, 0)) // amount
                for name, amount in demand.need.items()
            ),
            default=1 << 30,
        )

    # --- what becomes of it --------------------------------------------------------------------------------

    def granted(self, client: bytes, shape: int, node: bytes) -> None:
        """A node has given a client of this one a worker for ``shape``."""
        demand = self.scheduler.demands.get((client, shape))
        if demand is not None and node in demand.away:
            self._settle(demand, node, demand.away[node] - 1)
            if not demand.away:
                demand.moves = 0
                demand.tried.clear()

    def withdrawn(self, client: bytes, shape: int, node: bytes) -> None:
        """A node will never meet what a client wanted of this shape."""
        demand = self.scheduler.demands.get((client, shape))
        if demand is not None:
            self._settle(demand, node, 0)

    def client_gone(self, client: bytes) -> None:
        """A client of this node ended. Other nodes hear of it by themselves (``ClientGone``)."""
        for key in [key for key in self.away if key[0] == client]:
            del self.away[key]
        for known in self._defined.values():
            known -= {key for key in known if key[0] == client}

    def group_removed(self, group: bytes) -> None:
        """What waited for its bundles elsewhere waits no longer; the nodes that have them refuse it by themselves."""
        for key in [key for key, demand in self.away.items() if demand.placement.group == group]:
            self.away.pop(key).away.clear()

    def node_lost(self, step: Step, node: bytes) -> None:
        """What waited there is wanted here again, and from here anywhere."""
        self._defined.pop(node, None)
        for demand in list(self.away.values()):
            count = demand.away.get(node, 0)
            if count:
                self._settle(demand, node, 0)
                self.scheduler.request(step, demand.client, demand.shape, demand.wanted + count, demand.backlog)
        for actor, (demand, where, _) in list(self.actors_away.items()):
            if where == node:
                del self.actors_away[actor]
                self.want_actor(step, demand)

    def check_invariants(self) -> None:
        for key, demand in self.away.items():
            require(bool(demand.away) and all(count > 0 for count in demand.away.values()), "nothing is away")
            require(self.scheduler.demands.get(key) is demand and not demand.foreign, "a demand that is not ours")


def _places(need: Amounts, total: Mapping[str, int]) -> int:
    return max(1, min((total.get(name, 0) // amount for name, amount in need.items()), default=1))


def _shown(amount: int) -> str:
    return f"{amount / 10_000:g}"
