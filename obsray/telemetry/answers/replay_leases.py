"""Who gets which worker in a replay, and when: leases and processes, by the rules of the scheduler.

An owner (a process that submits: a driver, or the worker that runs a task) keeps a worker as long as it has tasks of
its shape for it, and a little longer; whoever waits meanwhile asks for it back, if the owner has more than others, or
had it for long. First comes what is waited for deepest, then whoever holds least, then the oldest turn. A task that
waits lends its CPU and keeps its process, so that others need new ones; when it goes on, it takes its CPU at once, even
if more are in use than there are.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from obsray.config import CROWDED_SECONDS, PLAIN_EVERY_SECONDS, RECLAIMING_PER_LOOK_MAX, SLICE_SECONDS
from obsray.telemetry.answers.replay_model import FRESH, KEPT, WARM, Model
from obsray.telemetry.answers.replay_processors import Processors

_NEAR = 1e-9


@dataclass(slots=True, eq=False)
class Process:
    """A worker process, or whatever else submits. ``lease``: by which it works now."""

    used: bool = False
    #: It has submitted something.
    submitted: bool = False
    #: Functions that have run in it.
    ran: set[int] = field(default_factory=set)
    lease: Lease | None = None
    demands: dict[int, Demand] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Demand:
    """What an owner has lined up of one shape, and which workers it has for it."""

    owner: Process
    shape: int
    turn: int = 0
    #: Of what the queue says: older entries in the heap of its shape are void.
    version: int = 0
    asked_back: int = 0
    tasks: deque[int] = field(default_factory=deque)
    leases: dict[Lease, None] = field(default_factory=dict)
    #: Those that have nothing to do.
    idle: dict[Lease, None] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        lease = self.owner.lease
        return 0 if lease is None else lease.depth + 1

    @property
    def urgency(self) -> int:
        lease = self.owner.lease
        return lease.depth + 1 if lease is not None and lease.blocked else 0


@dataclass(slots=True, eq=False)
class Lease:
    """A worker that an owner has; ``task`` is -1 while it has nothing to do there."""

    demand: Demand
    process: Process
    node: int
    granted_at: float
    depth: int
    task: int = -1
    idle_since: float = 0.0
    blocked: bool = False
    asked_back: bool = False
    ended: bool = False
    #: Tasks that have ended here and that its owner has not looked at yet. ``stalled``: they are as many as may be.
    unheard: int = 0
    stalled: bool = False


class Leases:
    """``at(seconds, do)`` has something done later, ``begin(task, kind)`` begins a task: KEPT on a worker that its
    owner had, WARM on another one, FRESH on one that has never run anything."""

    def __init__(
        self, model: Model, workers: float, at: Callable[[float, Callable[[], None]], None],
        begin: Callable[[int, int], None],
    ) -> None:  # fmt: skip
        self.model, self.at, self.begin = model, at, begin
        self.now = 0.0
        self.free = model.left_by_actors(workers)
        self.lease_of: dict[int, Lease] = {}
        #: Demands of each shape that want more, first of the heap first; those nobody waits for once more.
        self.waiting: list[list[tuple[int, int, int, int, Demand]]] = [[] for _ in model.needs]
        self.plain: list[list[tuple[int, int, int, Demand]]] = [[] for _ in model.needs]
        self.plain_at = [0.0] * len(model.needs)
        #: Demands that have tasks for which there is no worker.
        self.wanting: dict[Demand, None] = {}
        #: Leases whose tasks do not wait, and demands that have any.
        self.active: dict[Lease, None] = {}
        self.holding: dict[Demand, None] = {}
        self.turn = 0
        self.crowded: list[float | None] = [None] * len(self.free)
        #: For how long more CPUs were in use than there were, on nodes where they were.
        self.crowded_seconds = 0.0
        self.endless = workers == float("inf")
        ready, coming = model.prestarted(workers)
        self.idle = [Process() for _ in range(ready)]
        self.processors = Processors(model.processors, at)
        #: What processes compute at their beginnings, all together.
        self.beginnings = 0.0
        #: Processes that are starting, and all there are.
        self.starting, self.there = 0, ready
        self.starting_max = 0 if self.endless else max(4, 2 * int(model.cpus() * workers))
        self.coming = coming

    def open(self) -> None:
        """What was under way when the job began."""
        known = self.model.coming[: self.coming]
        for seconds in known:
            self.starting += 1
            self.there += 1
            self.at(seconds, self._made)
        for _ in range(self.coming - len(known)):
            self._make()

    # --- what tasks do -----------------------------------------------------------------------------------

    def line_up(self, task: int, owner: Process, front: bool = False) -> None:
        """A task can run."""
        shape = self.model.shape_of[task]
        demand = owner.demands.get(shape)
        if demand is None:
            demand = owner.demands[shape] = Demand(owner, shape)
            demand.turn = self._next_turn()
        wanted = bool(demand.tasks)
        demand.tasks.appendleft(task) if front else demand.tasks.append(task)
        for lease in demand.idle:
            if not lease.asked_back:
                self._fill(lease, KEPT)
                return
        if not wanted:
            demand.turn = self._next_turn()
            self.wanting[demand] = None
            self._queue(demand)
        self.schedule()

    def over(self, task: int, ahead: int = 0) -> None:
        """A task has ended: its worker runs the next one of its owner, or goes back. ``ahead``: how many there may be
        of which the owner has not heard yet, if that matters."""
        lease = self.lease_of.pop(task)
        if lease.demand.tasks and not lease.asked_back and max(len(self.wanting), len(self.holding)) > 1:
            self._look()
        lease.task = -1
        if ahead:
            lease.unheard += self.model.members[task]
            if lease.unheard >= ahead and not lease.asked_back:
                lease.stalled = True
                return
        self._next(lease, self.model.stays_of[task])

    def heard(self, lease: Lease, task: int, ahead: int) -> None:
        """An owner has looked at the result of a task that ended."""
        lease.unheard -= self.model.members[task]
        if lease.stalled and lease.unheard < ahead and not lease.ended:
            lease.stalled = False
            self._next(lease)

    def _next(self, lease: Lease, stays: bool = False) -> None:
        lease.demand.idle[lease] = None
        lease.idle_since = self.now
        if lease.asked_back or stays:
            self._give_back(lease, stays)
        elif lease.demand.tasks:
            self._fill(lease, KEPT)
            return
        else:
            self.at(self.model.linger_seconds, lambda: self._lingered(lease))
        self.schedule()

    def waits(self, task: int) -> None:
        """A task waits: its CPU is free, and what it asked for comes first."""
        lease = self.lease_of[task]
        if not lease.blocked:
            lease.blocked = True
            self.active.pop(lease, None)
            self._take(lease, -1.0, "CPU")
            self._rank(lease.process)
            self.schedule()

    def goes_on(self, task: int) -> None:
        """What a task waited for is there."""
        lease = self.lease_of[task]
        if lease.blocked:
            lease.blocked = False
            self.active[lease] = None
            self._take(lease, 1.0, "CPU")
            self._rank(lease.process)

    # --- decisions ---------------------------------------------------------------------------------------

    def _next_turn(self) -> int:
        self.turn += 1
        return self.turn

    def _queue(self, demand: Demand) -> None:
        """A demand that wants something, or no longer does, or is of another rank now."""
        demand.version += 1
        if not demand.tasks:
            return
        held, shape = len(demand.leases), demand.shape
        heapq.heappush(self.waiting[shape], (-demand.urgency, held, demand.turn, demand.version, demand))
        if not demand.urgency:
            heapq.heappush(self.plain[shape], (held, demand.turn, demand.version, demand))

    def _rank(self, owner: Process) -> None:
        for demand in owner.demands.values():
            if demand.tasks:
                self._queue(demand)

    def _head(self, shape: int) -> Demand | None:
        queue = self.waiting[shape]
        while queue and queue[0][3] != queue[0][4].version:
            heapq.heappop(queue)
        if not queue:
            return None
        first = queue[0][4]
        if queue[0][0] and self.now - self.plain_at[shape] >= PLAIN_EVERY_SECONDS:
            plain = self.plain[shape]
            while plain and plain[0][2] != plain[0][3].version:
                heapq.heappop(plain)
            if plain:
                return plain[0][3]
        return first

    def _look(self) -> None:
        """Whether anybody waits who may have a worker of somebody else."""
        heads = [self._head(shape) for shape in range(len(self.waiting))]
        short = [head for head in heads if head is not None and self._node_for(head.shape) < 0]
        if short:
            self._ask_back(short)

    def schedule(self) -> None:
        """Give what is free to those who wait for it, in their order; have processes made; ask for leases back."""
        while True:
            best: Demand | None = None
            short: list[Demand] = []
            for shape in range(len(self.waiting)):
                head = self._head(shape)
                if head is None:
                    continue
                if self._node_for(shape) < 0:
                    short.append(head)
                elif best is None or _precedence(head) < _precedence(best):
                    best = head
            if best is None:
                break
            if not self.idle and not self.endless:
                self._make_wanted()
                break
            self._grant(best, self._node_for(best.shape, self.model.home[best.tasks[0]]))
        if short:
            self._ask_back(short)

    def _grant(self, demand: Demand, node: int) -> None:
        process = self.idle.pop() if self.idle else Process(True, True)
        if not demand.urgency:
            self.plain_at[demand.shape] = self.now
        lease = Lease(demand, process, node, self.now, demand.depth)
        process.lease = lease
        self._rank(process)
        demand.leases[lease] = None
        self.holding[demand] = None
        self.active[lease] = None
        self._take(lease, 1.0)
        demand.turn = self._next_turn()
        kind = WARM if process.used else FRESH
        process.used = True
        self._fill(lease, kind)
        self._queue(demand)

    def _fill(self, lease: Lease, kind: int) -> None:
        demand = lease.demand
        demand.idle.pop(lease, None)
        lease.task = task = demand.tasks.popleft()
        self.lease_of[task] = lease
        if not demand.tasks:
            demand.version += 1
            self.wanting.pop(demand, None)
        self.begin(task, kind)

    def _lingered(self, lease: Lease) -> None:
        if lease.ended or lease.task >= 0:
            return
        left = lease.idle_since + self.model.linger_seconds - self.now
        if left > _NEAR:
            return  # it was used meanwhile, and looks again by itself
        self._give_back(lease)
        self.schedule()

    def _give_back(self, lease: Lease, stays: bool = False) -> None:
        """``stays``: its process is an actor from now on."""
        lease.ended = True
        self.active.pop(lease, None)
        demand = lease.demand
        demand.leases.pop(lease)
        demand.idle.pop(lease, None)
        if not demand.leases:
            del self.holding[demand]
        demand.asked_back -= lease.asked_back
        self._queue(demand)
        self._take(lease, -1.0)
        lease.process.lease = None
        if not stays:
            self.idle.append(lease.process)

    def _take(self, lease: Lease, sign: float, only: str = "") -> None:
        free = self.free[lease.node]
        for name, amount in self.model.needs[lease.demand.shape].items():
            if not only or name == only:
                free[name] = free.get(name, 0.0) - sign * amount
        self._crowd(lease.node)

    def _node_for(self, shape: int, home: int = -1) -> int:
        """A node where tasks of a shape fit now, if it can be ``home``; -1 if there is none."""
        need, found = self.model.needs[shape], -1
        for node in self.model.hosts[shape]:
            free = self.free[node]
            if all(free.get(name, 0.0) >= amount - _NEAR for name, amount in need.items()):
                if node == home:
                    return node
                found = node if found < 0 else found
        return found

    # --- leases that others want ---------------------------------------------------------------------------

    def _ask_back(self, short: list[Demand]) -> None:
        """Ask those who want no more, have more than whoever waits, or have had a worker for long."""
        if len(self.holding) == 1 and len(short) == 1 and short[0] in self.holding:
            return
        candidates = [lease for lease in self.active if not lease.asked_back and not lease.blocked]
        if not candidates:
            return
        coming = sum(lease.asked_back for lease in self.active)
        candidates.sort(key=lambda lease: (lease.demand.asked_back - len(lease.demand.leases), lease.granted_at))
        for demand in sorted(short, key=_precedence)[:RECLAIMING_PER_LOOK_MAX]:
            missing = len(demand.tasks) - coming
            gained = int(coming > 0)
            coming = max(0, coming - len(demand.tasks))
            for lease in candidates:
                if missing <= 0:
                    break
                other = lease.demand
                if lease.asked_back or lease.ended or other is demand:
                    continue
                left = len(other.leases) - other.asked_back
                if (
                    not other.tasks
                    or left > len(demand.leases) + gained + 1
                    or (not gained and self.now - lease.granted_at >= SLICE_SECONDS)
                ):
                    gained += 1
                    missing -= 1
                    self._ask(lease)

    def _ask(self, lease: Lease) -> None:
        lease.asked_back = True
        lease.demand.asked_back += 1
        if lease.task < 0:
            self.at(0.0, lambda: self._returned(lease))

    def _returned(self, lease: Lease) -> None:
        if not lease.ended and lease.task < 0:
            self._give_back(lease)
            self.schedule()

    def _crowd(self, node: int) -> None:
        """More CPUs are in use than there are: for a while, then the newest leases go back."""
        if self.free[node].get("CPU", 0.0) >= -_NEAR:
            since = self.crowded[node]
            if since is not None:
                self.crowded_seconds += self.now - since
            self.crowded[node] = None
        elif self.crowded[node] is None:
            since = self.crowded[node] = self.now
            self.at(CROWDED_SECONDS, lambda: self._relieve(node, since))

    def _relieve(self, node: int, since: float) -> None:
        if self.crowded[node] != since:
            return
        excess = -self.free[node].get("CPU", 0.0)
        using = [lease for lease in self.active if lease.node == node]
        needs = self.model.needs
        excess -= sum(needs[lease.demand.shape].get("CPU", 0.0) for lease in using if lease.asked_back)
        for lease in sorted(using, key=lambda lease: lease.granted_at, reverse=True):
            if excess <= _NEAR:
                break
            amount = needs[lease.demand.shape].get("CPU", 0.0)
            if not lease.asked_back and amount:
                excess -= amount
                self._ask(lease)
        self.at(CROWDED_SECONDS, lambda: self._relieve(node, since))

    # --- processes -----------------------------------------------------------------------------------------

    def _make_wanted(self) -> None:
        """Have as many processes made as would have work now."""
        wanted, cpus = 0, sum(max(free.get("CPU", 0.0), 0.0) for free in self.free)
        for shape in range(len(self.waiting)):
            if self._head(shape) is None or self._node_for(shape) < 0:
                continue
            each = self.model.needs[shape].get("CPU", 0.0)
            tasks = sum(len(entry[4].tasks) for entry in self.waiting[shape] if entry[3] == entry[4].version)
            wanted += max(1, min(tasks, int(cpus / each + _NEAR)) if each else tasks)
        for _ in range(min(wanted, self.starting_max) - self.starting):
            if self.there < self.model.processes_max:
                self._make()

    def _make(self) -> None:
        self.starting += 1
        self.there += 1
        self.begin_with(self.model.process_seconds, self._made)

    def begin_with(self, seconds: float, then: Callable[[], None]) -> None:
        """A process computes so much at its beginning."""
        self.beginnings += seconds
        self.processors.compute(self.now, seconds, then)

    def _made(self) -> None:
        self.starting -= 1
        self.idle.append(Process())
        self.schedule()


def _precedence(demand: Demand) -> tuple[int, int, int]:
    return -demand.urgency, len(demand.leases), demand.turn
