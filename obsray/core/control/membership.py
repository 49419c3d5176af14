"""Which nodes are there: registration, heartbeats, suspicion, death.

Invariants: a node declared dead stays dead, and nothing it says changes anything from then on. Every registration
gets an incarnation greater than all before; whoever shows an older one is fenced. Only monotonic time decides, and the
time in which the control store itself stood still counts for nobody. No two living nodes share a name, no two nodes a
mark.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from obsray.core.control.step import (
    NAME_BYTES_MAX,
    TEXT_BYTES_MAX,
    Instant,
    Outcome,
    Refusal,
    Refused,
    check_node,
    check_text,
)
from obsray.core.protocol import control_pb2 as pb
from obsray.core.protocol.lifecycle import NodeState, advance
from obsray.ids import mark_of_node

NODES_DEAD_MAX = 1_000
RESOURCES_MAX = 256
_SECOND_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class MembershipSettings:
    """When silence means something, in seconds."""

    #: Often enough that losing several in a row does not look like death.
    heartbeat_seconds: float = 0.5
    #: Placement avoids a suspected node; a late heartbeat clears it.
    suspect_seconds: float = 3.0
    #: Longer than a five-second interruption of the network, which must cost nothing.
    dead_seconds: float = 10.0
    #: Two looks at the clock further apart than this mean that the control store itself stood still.
    pause_seconds: float = 1.0
    #: A node whose port refuses connections is dead once its heartbeats stopped for this long: its process is gone.
    refused_seconds: float = 1.0


@dataclass(slots=True)
class NodeEntry:
    """One node. ``seen_ns`` is monotonic: its last registration or heartbeat."""

    state: NodeState
    row: pb.Node
    seen_ns: int
    #: Who was refused by it since its last heartbeat, and what they say.
    refused: dict[bytes, str] = field(default_factory=dict)

    def published(self) -> pb.Node:
        """The row as readers get it."""
        row = pb.Node()
        row.CopyFrom(self.row)
        row.state = pb.NodeState.ValueType(int(self.state))
        return row


class Membership:
    """The table of nodes."""

    def __init__(self, settings: MembershipSettings) -> None:
        self.settings = settings
        self.entries: dict[bytes, NodeEntry] = {}
        self._incarnations = 0
        self._looked_ns: int | None = None
        #: Every node that was ever declared dead; rows are forgotten, this never is.
        self._buried: set[bytes] = set()
        self._marks: dict[bytes, bytes] = {}
        #: Of ``entries`` those that are not dead, and the newest of each name.
        self._living: dict[bytes, NodeEntry] = {}
        self._named: dict[str, bytes] = {}

    # --- what nodes say ---------------------------------------------------------------------------------------

    def register(self, now: Instant, request: pb.RegisterNodeRequest) -> Outcome:
        """Take a node in, or again after the connection broke. Raises Refused if it was declared dead."""
        description = request.node
        _check_description(description)
        entry = self.entries.get(description.node)
        if description.node in self._buried:
            raise Refused(Refusal.FENCED, "this node was declared dead; it must come back under a new id")
        self._check_company(description)
        self._incarnations += 1
        self._marks[mark_of_node(description.node)] = description.node
        row = pb.Node(
            description=description,
            incarnation=self._incarnations,
            registered_at_ns=now.wall_ns,
            state_changed_at_ns=now.wall_ns,
            reason="registered",
        )
        if entry is None:
            entry = self.entries[description.node] = NodeEntry(NodeState.ALIVE, row, now.monotonic_ns)
        else:
            entry.row, entry.seen_ns = row, now.monotonic_ns
            entry.refused.clear()
            if entry.state is NodeState.SUSPECTED:
                advance(entry, NodeState.ALIVE)
        self._living[description.node] = entry
        self._named[description.name] = description.node
        settings = self.settings
        reply = pb.RegisterNodeReply(
            incarnation=self._incarnations,
            heartbeat_seconds=settings.heartbeat_seconds,
            suspect_seconds=settings.suspect_seconds,
            dead_seconds=settings.dead_seconds,
        )
        return Outcome(reply, [entry.published()])

    def heartbeat(self, now: Instant, request: pb.HeartbeatRequest) -> Outcome:
        """Note that a node lives. Clears a suspicion; revives nobody."""
        check_node(request.node)
        entry = self.entries.get(request.node)
        if entry is None and request.node not in self._buried:
            return Outcome(pb.HeartbeatReply(standing=pb.NODE_STANDING_UNKNOWN), [])
        if entry is None or entry.state is NodeState.DEAD or entry.row.incarnation != request.incarnation:
            return Outcome(pb.HeartbeatReply(standing=pb.NODE_STANDING_FENCED), [])
        entry.seen_ns = now.monotonic_ns
        entry.refused.clear()
        reply = pb.HeartbeatReply(standing=pb.NODE_STANDING_MEMBER)
        if entry.state is NodeState.SUSPECTED:
            return Outcome(reply, [self._move(now, entry, NodeState.ALIVE, "heartbeats arrive again")])
        return Outcome(reply, [])

    def leave(self, now: Instant, request: pb.LeaveNodeRequest) -> Outcome:
        """A node goes in order. Raises Refused if it is not a member."""
        check_text("reason", request.reason, TEXT_BYTES_MAX)
        entry = self.member(request.node, request.incarnation)
        row = self._move(now, entry, NodeState.DEAD, request.reason or "left in order")
        return Outcome(pb.LeaveNodeReply(), [row])

    def member(self, node: bytes, incarnation: int) -> NodeEntry:
        """The entry of a node that may still change something. Raises Refused for everybody else."""
        check_node(node)
        entry = self.entries.get(node)
        if entry is None:
            raise Refused(Refusal.NOT_FOUND, f"node {node.hex()} is not registered")
        if entry.state is NodeState.DEAD:
            raise Refused(Refusal.FENCED, f"node {node.hex()} was declared dead: {entry.row.reason}")
        if entry.row.incarnation != incarnation:
            raise Refused(
                Refusal.FENCED, f"node {node.hex()} has incarnation {entry.row.incarnation}, not {incarnation}"
            )
        return entry

    def check_not_dead(self, node: bytes) -> None:
        """Raise Refused for a node that was declared dead: nothing there may change anything. "" is nobody's."""
        if node in self._buried:
            raise Refused(Refusal.FENCED, f"node {node.hex()} was declared dead, and with it all that runs there")

    def unreachable(self, now: Instant, request: pb.ReportUnreachableRequest) -> Outcome:
        """A node was refused by another. Raises Refused if the one that says so is no member; decides nothing yet."""
        check_text("reason", request.reason, TEXT_BYTES_MAX)
        self.member(request.by, request.by_incarnation)
        check_node(request.node)
        if request.node != request.by:
            self.refused(request.node, request.by, request.reason)
        return Outcome(pb.ReportUnreachableReply(), [])

    def refused(self, node: bytes, by: bytes, reason: str) -> None:
        """Note that ``node`` refuses connections. It counts until the node's next heartbeat, and is not kept."""
        entry = self.entries.get(node)
        if entry is not None and entry.state is not NodeState.DEAD:
            entry.refused[by] = reason

    def is_suspected(self, node: bytes) -> bool:
        """Whether the next heartbeat of a node would change something."""
        entry = self.entries.get(node)
        return entry is not None and entry.state is NodeState.SUSPECTED

    def silent(self, now: Instant) -> list[tuple[bytes, str]]:
        """Nodes, with their addresses, whose heartbeats are late enough to look whether their port still answers."""
        limit_ns = now.monotonic_ns - int(self.settings.refused_seconds * _SECOND_NS)
        return [
            (node, entry.row.description.address)
            for node, entry in self._living.items()
            if entry.seen_ns <= limit_ns and not entry.refused
        ]

    # --- what the control store decides -----------------------------------------------------------------------

    def overdue(self, now: Instant) -> list[pb.DeclareNode]:
        """What must be declared about nodes that were silent for too long."""
        self._forgive_own_pause(now)
        found = []
        for node, entry in self._living.items():
            silent_seconds = (now.monotonic_ns - entry.seen_ns) / _SECOND_NS
            gone = ""
            if silent_seconds >= self.settings.dead_seconds:
                after = NodeState.DEAD
            elif entry.refused and (len(entry.refused) > 1 or silent_seconds >= self.settings.refused_seconds):
                after = NodeState.DEAD
                gone = f"its process is gone: {next(iter(entry.refused.values()))}; "
            elif silent_seconds >= self.settings.suspect_seconds and entry.state is NodeState.ALIVE:
                after = NodeState.SUSPECTED
            else:
                continue
            found.append(
                pb.DeclareNode(
                    node=node,
                    incarnation=entry.row.incarnation,
                    state=pb.NodeState.ValueType(int(after)),
                    reason=f"{gone}no heartbeat for {silent_seconds:.1f} s",
                )
            )
        return found

    def declare(self, now: Instant, stimulus: pb.DeclareNode) -> Outcome:
        """Carry out what ``overdue`` found. Saying it twice changes nothing."""
        entry = self.member(stimulus.node, stimulus.incarnation)
        if entry.state is NodeState(stimulus.state):
            return Outcome(stimulus, [])
        return Outcome(stimulus, [self._move(now, entry, NodeState(stimulus.state), stimulus.reason)])

    def recovered(self, now: Instant) -> None:
        """After a replay: nobody could be heard while there was no control store, so every silence begins anew."""
        self._looked_ns = now.monotonic_ns
        for entry in self.entries.values():
            entry.seen_ns = now.monotonic_ns
            entry.refused.clear()

    def _check_company(self, description: pb.NodeDescription) -> None:
        """Raise Refused if the node cannot be together with those that are there."""
        holder = self._marks.get(mark_of_node(description.node), description.node)
        if holder != description.node:
            raise Refused(
                Refusal.ANOTHER_ID, f"ids that begin with {description.node[:4].hex()} are those of node {holder.hex()}"
            )
        namesake = self._living.get(self._named.get(description.name, b""))
        other = namesake.row.description if namesake is not None else description
        if description.name and description.name == other.name and description.node != other.node:
            raise Refused(
                Refusal.EXISTS,
                f"a node called {other.name!r} is in the cluster already (on {other.host}, pid {other.pid})",
            )
        # All that live have the same version, but for those that do not say.
        for node, entry in self._living.items():
            other = entry.row.description
            if node == description.node or not other.version:
                continue
            if description.version and description.version != other.version:
                raise Refused(
                    Refusal.VERSION,
                    f"the cluster runs obsray {other.version}, the node that wants to join has {description.version}",
                )
            break

    def _forgive_own_pause(self, now: Instant) -> None:
        looked_ns, self._looked_ns = self._looked_ns, now.monotonic_ns
        if looked_ns is None:
            return
        pause_ns = now.monotonic_ns - looked_ns
        if pause_ns > self.settings.pause_seconds * _SECOND_NS:
            for entry in self.entries.values():
                entry.seen_ns = min(entry.seen_ns + pause_ns, now.monotonic_ns)

    def _move(self, now: Instant, entry: NodeEntry, after: NodeState, reason: str) -> pb.Node:
        advance(entry, after)
        entry.row.state_changed_at_ns = now.wall_ns
        entry.row.reason = reason
        row = entry.published()
        if after is NodeState.DEAD:
            node = row.description.node
            self._buried.add(node)
            del self._living[node]
            if self._named.get(row.description.name) == node:
                del self._named[row.description.name]
            self._forget_oldest_dead()
        return row

    def _forget_oldest_dead(self) -> None:
        dead = [node for node, entry in self.entries.items() if entry.state is NodeState.DEAD]
        for node in dead[: max(0, len(dead) - NODES_DEAD_MAX)]:
            del self.entries[node]

    def save(self, snapshot: pb.Snapshot) -> None:
        """Write down all that is not a matter of the present."""
        snapshot.incarnations = self._incarnations
        snapshot.nodes.extend(entry.published() for entry in self.entries.values())
        snapshot.buried.extend(sorted(self._buried))
        snapshot.marked.extend(self._marks.values())

    def restore(self, snapshot: pb.Snapshot) -> None:
        """Be what was saved. ``recovered`` must follow."""
        self._incarnations = snapshot.incarnations
        self.entries = {row.description.node: NodeEntry(NodeState(row.state), row, 0) for row in snapshot.nodes}
        self._living = {node: entry for node, entry in self.entries.items() if entry.state is not NodeState.DEAD}
        self._named = {entry.row.description.name: node for node, entry in self._living.items()}
        self._buried = set(snapshot.buried)
        self._marks = {mark_of_node(node): node for node in snapshot.marked}

    def check_invariants(self) -> None:
        """Raise AssertionError if the table contradicts itself."""
        incarnations = [entry.row.incarnation for entry in self.entries.values()]
        assert len(set(incarnations)) == len(incarnations), "two nodes share an incarnation"
        assert all(0 < each <= self._incarnations for each in incarnations), "an incarnation was never given out"
        dead = {node for node, entry in self.entries.items() if entry.state is NodeState.DEAD}
        assert self._buried & self.entries.keys() == dead, "a dead node is not buried, or a living one is"
        assert all(entry.row.description.node == node for node, entry in self.entries.items())
        assert all(self._marks[mark_of_node(node)] == node for node in self.entries), "two nodes share a mark"
        alive = {node for node, entry in self.entries.items() if entry.state is not NodeState.DEAD}
        assert alive == self._living.keys(), "who lives is not known"
        living = [entry.row.description.name for entry in self._living.values()]
        names = [name for name in living if name]
        assert len(set(names)) == len(names), "two living nodes share a name"


def _check_description(description: pb.NodeDescription) -> None:
    check_node(description.node)
    for name in ("host", "address", "version", "name", "session"):
        check_text(name, getattr(description, name), NAME_BYTES_MAX)
    if len(description.resources) > RESOURCES_MAX or len(description.labels) > RESOURCES_MAX:
        raise Refused(Refusal.INVALID, f"a node has at most {RESOURCES_MAX} resources and as many labels")
    for name in (*description.resources, *description.labels, *description.labels.values()):
        check_text("a resource or label", name, NAME_BYTES_MAX)
