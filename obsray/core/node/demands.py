"""What clients and actors want of the scheduler, and what they got: the nouns of ``scheduler.py``."""

from __future__ import annotations

from dataclasses import dataclass, field

from obsray.core.node.bundles import Bundle, Group
from obsray.core.node.environments import Runtime
from obsray.core.node.placement import ANYWHERE, Placement
from obsray.core.node.resources import UNIT, Amounts, Resources
from obsray.core.node.workers import Worker
from obsray.core.protocol.messages import DefineShape
from obsray.telemetry.events import LeaseOutcome, Reason

#: What must be free, what is then held, what the process must be and where: demands equal in these wait in one queue.
#: A group that waits to be placed has a queue of its own, named by its id.
Signature = tuple[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...], Runtime, Placement, bytes]


@dataclass(slots=True, eq=False)
class Demand:
    """``wanted`` more workers for one shape of one client, or one worker for an actor, or the bundles of ``group``.

    ``turn`` orders demands: whoever was served last goes to the back. ``outcome``, ``reason`` and ``deficit`` are
    what was last announced, so that waiting is told once and not at every look.
    """

    client: bytes
    shape: int
    name: str
    need: Amounts
    hold: Amounts
    runtime: Runtime
    actor: bytes = b""
    label: int = 0
    wanted: int = 0
    backlog: int = 0
    held: int = 0
    asked_back: int = 0
    turn: int = 0
    #: How many tasks around it wait for its tasks, and whether they do so now: then it goes first (``nesting.py``).
    depth: int = 0
    urgency: int = 0
    waiting_since: float = 0.0
    outcome: LeaseOutcome = LeaseOutcome.GRANTED
    reason: Reason = Reason.NONE
    deficit: str = ""
    task_seconds: float = 0.0
    placement: Placement = ANYWHERE
    group: Group | None = None
    #: The group of another node that has its turn here through this demand.
    for_group: bytes = b""
    #: Of another node's client, or kept here on purpose: it is not given away.
    foreign: bool = False
    #: As its client described it, for other nodes.
    described: DefineShape | None = None
    #: Node -> how much waits there (``delegation.py``), and since when some of it does.
    away: dict[bytes, int] = field(default_factory=dict)
    away_since: float = 0.0
    #: Where it has waited for a bundle in vain, and how often it has gone on.
    tried: set[bytes] = field(default_factory=set)
    moves: int = 0
    #: What of a demand that is spread waits here.
    twin: Demand | None = None

    @property
    def domain(self) -> bytes:
        """The group whose bundles it takes from, b"" for the node's own resources."""
        return b"" if self.group is not None else self.placement.group

    def signature(self) -> Signature:
        group = self.group.id if self.group is not None else self.for_group
        need, hold = tuple(sorted(self.need.items())), tuple(sorted(self.hold.items()))
        return need, hold, self.runtime, self.placement, group


@dataclass(slots=True, eq=False)
class Queue:
    """Demands that need the same. First comes what is waited for deepest, then who holds least, then the oldest turn.

    Adding, removing and finding the first cost the same however many there are. ``waiting_since`` is when the queue
    last got something, or began. ``plain_at``: when one got something that nobody waits for in a process;
    ``plain_turn``: it is high time for one.
    """

    need: Amounts
    hold: Amounts
    runtime: Runtime
    infeasible: str
    waiting_since: float
    placement: Placement = ANYWHERE
    group: Group | None = None
    for_group: bytes = b""
    demands: dict[int, Demand] = field(default_factory=dict)
    levels: dict[tuple[int, int], dict[int, Demand]] = field(default_factory=dict)
    unannounced: list[Demand] = field(default_factory=list)
    reason: Reason = Reason.NONE
    deficit: str = ""
    plain_at: float = 0.0
    plain_turn: bool = False

    def add(self, demand: Demand) -> None:
        """Behind all that are as urgent and hold as much."""
        self.demands[id(demand)] = demand
        self.levels.setdefault((-demand.urgency, demand.held), {})[id(demand)] = demand

    def remove(self, demand: Demand) -> None:
        """Before its urgency or what it holds changes, and when it wants nothing any more."""
        del self.demands[id(demand)]
        key = -demand.urgency, demand.held
        level = self.levels[key]
        del level[id(demand)]
        if not level:
            del self.levels[key]

    def head(self) -> Demand:
        first = min(self.levels)
        if first[0] and self.plain_turn:
            first = min((key for key in self.levels if not key[0]), default=first)
        return next(iter(self.levels[first].values()))


@dataclass(slots=True, eq=False)
class Lease:
    """``demand``'s owner (or actor) has ``worker`` until it is returned. ``key`` names its share of ``place``.

    ``place`` is the node's own resources, or ``bundle``'s.
    """

    key: int
    demand: Demand
    worker: Worker
    devices: dict[str, list[int]]
    granted_at: float
    place: Resources
    bundle: Bundle | None = None
    asked_back: bool = False
    blocked: bool = False
    #: It waits without end for a task of its own that runs on this node, or shall.
    sure: bool = False


def describe(need: Amounts) -> str:
    """``CPU:1 GPU:0.5`` for labels."""
    return " ".join(f"{name}:{amount / UNIT:g}" for name, amount in sorted(need.items()) if name != "memory")
