"""Placement groups and their names.

Invariants: within a namespace a name belongs to at most one group that is not removed, and a removed one gives it back
at once; only the node where a group is at home can say what became of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from obsray.core.control.step import (
    NAME_BYTES_MAX,
    NODE_ID_BYTES,
    TEXT_BYTES_MAX,
    Instant,
    Outcome,
    Refusal,
    Refused,
    Row,
    check_bytes,
    check_text,
    check_worker,
)
from obsray.core.protocol import control_pb2 as pb
from obsray.core.protocol.lifecycle import GROUP, GroupState, advance
from obsray.ids import TASK_ID_BYTES

GROUPS_REMOVED_MAX = 10_000
BUNDLES_MAX = 10_000


@dataclass(slots=True)
class GroupEntry:
    state: GroupState
    row: pb.Group

    def published(self) -> pb.Group:
        """The row as readers get it."""
        row = pb.Group()
        row.CopyFrom(self.row)
        row.state = pb.GroupState.ValueType(int(self.state))
        return row


class Groups:
    """The tables of groups and of their names."""

    def __init__(self) -> None:
        self.entries: dict[bytes, GroupEntry] = {}
        self._names: dict[tuple[str, str], bytes] = {}
        self._removed: list[bytes] = []

    def register(self, now: Instant, request: pb.RegisterGroupRequest) -> Outcome:
        """Know a group and take its name. Raises Refused if a group that is not removed has the name."""
        group = request.group
        _check_description(group)
        if group.group in self.entries:
            return Outcome(pb.RegisterGroupReply(), [])
        name = (group.namespace, group.name)
        if group.name and name in self._names:
            raise Refused(
                Refusal.EXISTS, f"a placement group named {group.name!r} is in namespace {group.namespace!r} already"
            )
        row = pb.Group(
            description=group, node=request.node, registered_at_ns=now.wall_ns, state_changed_at_ns=now.wall_ns
        )
        entry = self.entries[group.group] = GroupEntry(GroupState.PENDING, row)
        if group.name:
            self._names[name] = group.group
        return Outcome(pb.RegisterGroupReply(), [entry.published()])

    def update(self, now: Instant, request: pb.UpdateGroupRequest) -> Outcome:
        """A group moved. Raises Refused if it cannot have, or if somebody else says so."""
        check_bytes("group", request.group, TASK_ID_BYTES)
        check_text("detail", request.detail, TEXT_BYTES_MAX)
        if len(request.nodes) > BUNDLES_MAX or any(len(node) not in (0, NODE_ID_BYTES) for node in request.nodes):
            raise Refused(Refusal.INVALID, "nodes are the ids of at most as many nodes as there are bundles")
        entry = self.entries.get(request.group)
        if entry is None:
            raise Refused(Refusal.NOT_FOUND, f"group {request.group.hex()} is not registered")
        if entry.row.node != request.node:
            raise Refused(Refusal.FENCED, f"group {request.group.hex()} is at home at node {entry.row.node.hex()}")
        try:
            after = GroupState(request.state)
        except ValueError:
            raise Refused(Refusal.INVALID, f"there is no group state {request.state}") from None
        if after is entry.state and list(entry.row.nodes) == list(request.nodes):
            return Outcome(pb.UpdateGroupReply(), [])
        path = _path(entry.state, after)
        if path is None:
            raise Refused(
                Refusal.FENCED, f"group {request.group.hex()} cannot go from {entry.state.name} to {after.name}"
            )
        return Outcome(pb.UpdateGroupReply(), [self._move(now, entry, path, request.detail, list(request.nodes))])

    def node_died(self, now: Instant, node: bytes, reason: str) -> list[Row]:
        """The groups at home at a dead node went with it; bundles of others are nowhere until their home says more."""
        found: list[Row] = []
        for entry in list(self.entries.values()):
            if entry.state is GroupState.REMOVED:
                continue
            if entry.row.node == node:
                detail = f"its node {node.hex()} is dead: {reason}"
                found.append(self._move(now, entry, [GroupState.REMOVED], detail, []))
        return found

    def found(self, request: pb.FindGroupRequest) -> Outcome:
        """A group by its id or its name. Raises Refused if there is none."""
        if request.group:
            check_bytes("group", request.group, TASK_ID_BYTES)
        group = request.group or self._names.get((request.namespace, request.name))
        entry = self.entries.get(group) if group else None
        if entry is None:
            what = request.group.hex() if request.group else f"named {request.name!r}"
            raise Refused(Refusal.NOT_FOUND, f"there is no placement group {what} in namespace {request.namespace!r}")
        return Outcome(pb.FindGroupReply(group=entry.published()), [])

    def _move(
        self, now: Instant, entry: GroupEntry, path: list[GroupState], detail: str, nodes: list[bytes]
    ) -> pb.Group:
        for state in path:
            advance(entry, state)
        row = entry.row
        row.state_changed_at_ns = now.wall_ns
        row.detail = detail
        del row.nodes[:]
        row.nodes.extend(nodes)
        if entry.state is GroupState.REMOVED:
            described = row.description
            if described.name:
                self._names.pop((described.namespace, described.name), None)
            self._removed.append(described.group)
            if len(self._removed) > GROUPS_REMOVED_MAX:
                del self.entries[self._removed.pop(0)]
        return entry.published()

    def save(self, snapshot: pb.Snapshot) -> None:
        """Write all of it down."""
        snapshot.groups.extend(entry.published() for entry in self.entries.values())
        snapshot.groups_removed.extend(self._removed)

    def restore(self, snapshot: pb.Snapshot) -> None:
        """Be what was saved."""
        self.entries = {row.description.group: GroupEntry(GroupState(row.state), row) for row in snapshot.groups}
        self._removed = list(snapshot.groups_removed)
        self._names = {
            (entry.row.description.namespace, entry.row.description.name): group
            for group, entry in self.entries.items()
            if entry.row.description.name and entry.state is not GroupState.REMOVED
        }

    def check_invariants(self) -> None:
        """Raise AssertionError if the tables contradict each other."""
        named = {
            (entry.row.description.namespace, entry.row.description.name): group
            for group, entry in self.entries.items()
            if entry.row.description.name and entry.state is not GroupState.REMOVED
        }
        assert named == self._names, "names and groups disagree"
        removed = {group for group, entry in self.entries.items() if entry.state is GroupState.REMOVED}
        assert removed == set(self._removed)


def _path(before: GroupState, after: GroupState) -> list[GroupState] | None:
    """The states on the shortest way: a home tells where its group has got to, not each station."""
    if before is after:
        return []
    ways: list[list[GroupState]] = [[before]]
    seen = {before}
    for way in ways:
        for state in sorted(GROUP[way[-1]]):
            if state is after:
                return [*way[1:], state]
            if state not in seen:
                seen.add(state)
                ways.append([*way, state])
    return None


def _check_description(group: pb.GroupDescription) -> None:
    check_bytes("group", group.group, TASK_ID_BYTES)
    check_worker("owner", group.owner)
    for field in ("name", "namespace", "strategy"):
        check_text(field, getattr(group, field), NAME_BYTES_MAX)
    if len(group.bundles) > BUNDLES_MAX:
        raise Refused(Refusal.INVALID, f"a group has at most {BUNDLES_MAX} bundles")
