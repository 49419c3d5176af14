"""The control store's tables behind one door: ``step(now, stimulus) -> (effects, events)``.

A stimulus is a request of ``control.proto`` (or ``DeclareNode``, the store's own decision); an effect is the answer;
an event is a row that changed, numbered. Nothing else changes the tables. No clock, no socket, no thread and no
chance in here: time comes in with the stimulus, and the same stimuli always give the same steps, which is what makes
replaying the journal a recovery.

Invariants: a request that was refused changed nothing. A request id that changed something is answered the same way
again without changing anything (the last ``ANSWERS_MAX`` of them; beyond, each table's own rules make a repetition
harmless). Requests with no effect are not remembered: asking again simply looks again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from google.protobuf.message import Message

from obsray.core.control.actors import Actors
from obsray.core.control.changes import CHANGES_MAX, History
from obsray.core.control.groups import Groups
from obsray.core.control.jobs import SPAN, Jobs
from obsray.core.control.journal import sealed, unsealed
from obsray.core.control.kv import Functions, Keys
from obsray.core.control.membership import Membership, MembershipSettings
from obsray.core.control.step import (
    REQUEST_ID_BYTES_MAX,
    Instant,
    Outcome,
    Refusal,
    Refuse,
    Refused,
    Reply,
    Row,
    Step,
    limit_of,
)
from obsray.core.protocol import control_pb2 as pb
from obsray.core.protocol.lifecycle import NodeState
from obsray.telemetry.events import DeathCause

ANSWERS_MAX = 10_000

Handler = Callable[[Instant, Any], Outcome]


class ControlMachine:
    """All the state of a cluster that is not a task, an object or a measurement."""

    def __init__(self, epoch: int, settings: MembershipSettings | None = None, changes_max: int = CHANGES_MAX) -> None:
        self.membership = Membership(settings or MembershipSettings())
        self.jobs = Jobs()
        self.actors = Actors()
        self.groups = Groups()
        self.keys = Keys()
        self.functions = Functions()
        self._tables = (self.membership, self.jobs, self.actors, self.groups, self.keys, self.functions)
        self.history = History(epoch, changes_max)
        self._answers: dict[tuple[str, bytes], Message] = {}
        self._handlers: dict[type[Message], Handler] = {
            pb.RegisterNodeRequest: self._register_node,
            pb.HeartbeatRequest: self.membership.heartbeat,
            pb.LeaveNodeRequest: self.membership.leave,
            pb.DeclareNode: self.membership.declare,
            pb.ReportUnreachableRequest: self.membership.unreachable,
            pb.StartJobRequest: self.jobs.start,
            pb.EndJobRequest: self.jobs.end,
            pb.RegisterActorRequest: self._register_actor,
            pb.UpdateActorRequest: self._update_actor,
            pb.GetNamedActorRequest: lambda now, request: self.actors.named(request),
            pb.ListActorsRequest: lambda now, request: self.actors.listed(request),
            pb.RegisterGroupRequest: self._register_group,
            pb.UpdateGroupRequest: self._update_group,
            pb.FindGroupRequest: lambda now, request: self.groups.found(request),
            pb.PutKeyRequest: lambda now, request: self._of_program(self.keys.put, request),
            pb.GetKeyRequest: lambda now, request: self.keys.get(request),
            pb.DeleteKeyRequest: lambda now, request: self._of_program(self.keys.delete, request),
            pb.ListKeysRequest: lambda now, request: self.keys.listed(request),
            pb.PutFunctionRequest: lambda now, request: self._of_program(self.functions.put, request),
            pb.GetFunctionRequest: lambda now, request: self.functions.get(request),
            pb.GetStateRequest: lambda now, request: Outcome(self._state(request), []),
        }

    # --- the door -----------------------------------------------------------------------------------------------

    def step(self, now: Instant, stimulus: Message) -> Step:
        """Take one stimulus. Raises TypeError for something that is none."""
        handler = self._handlers.get(type(stimulus))
        if handler is None:
            raise TypeError(f"{type(stimulus).__name__} is no stimulus of the control machine")
        try:
            key = _request_key(stimulus)
            if key in self._answers:
                return Step([Reply(self._answers[key])], [])
            message, rows = handler(now, stimulus)
        except Refused as refused:
            return Step([Refuse(refused.refusal, refused.detail)], [])
        rows = rows + self._consequences(now, rows)
        events = [self.history.record(now, row) for row in rows]
        if events and key is not None:
            self._answers[key] = message
            if len(self._answers) > ANSWERS_MAX:
                del self._answers[next(iter(self._answers))]
        return Step([Reply(message)], events)

    def overdue(self, now: Instant) -> list[pb.DeclareNode]:
        """Stimuli that are due because nothing came: to be fed to ``step`` like any other."""
        return self.membership.overdue(now)

    def changes_after(self, epoch: int, sequence: int) -> list[pb.Change]:
        """Every change after ``sequence``. Raises Refused if the history does not reach back to it."""
        return self.history.after(epoch, sequence)

    def recovered(self, now: Instant, epoch: int | None = None) -> None:
        """The journal has been replayed; the present begins, under this epoch if it is another one."""
        self.membership.recovered(now)
        if epoch is not None:
            self.history.epoch = epoch

    def snapshot(self) -> bytes:
        """All state that entries of the journal led to, to take their place."""
        found = pb.Snapshot(sequence=self.history.last)
        for table in self._tables:
            table.save(found)
        for (method, request_id), reply in self._answers.items():
            found.answers.add(method=method, request_id=request_id, reply=reply.SerializeToString())
        return sealed(found.SerializeToString())

    def restore(self, data: bytes) -> None:
        """Be what ``snapshot`` saved. Raises ValueError for what is none."""
        found = pb.Snapshot()
        try:
            found.ParseFromString(unsealed(data))
            answers = {
                (each.method, each.request_id): getattr(pb, f"{each.method.removesuffix('Request')}Reply").FromString(
                    each.reply
                )
                for each in found.answers
            }
        except Exception as error:
            raise ValueError(f"not a snapshot of the control store: {error}") from error
        for table in self._tables:
            table.restore(found)
        self._answers = answers
        self.history.resume(found.sequence)

    # --- what concerns two tables ---------------------------------------------------------------------------------

    def _of_program(self, change: Callable[[Any], Outcome], request: Any) -> Outcome:
        self.membership.check_not_dead(request.node)
        return change(request)

    def _register_actor(self, now: Instant, request: pb.RegisterActorRequest) -> Outcome:
        self.membership.member(request.node, request.node_incarnation)
        return self.actors.register(now, request)

    def _update_actor(self, now: Instant, request: pb.UpdateActorRequest) -> Outcome:
        self.membership.member(request.node, request.node_incarnation)
        return self.actors.update(now, request)

    def _register_group(self, now: Instant, request: pb.RegisterGroupRequest) -> Outcome:
        self.membership.member(request.node, request.node_incarnation)
        return self.groups.register(now, request)

    def _update_group(self, now: Instant, request: pb.UpdateGroupRequest) -> Outcome:
        self.membership.member(request.node, request.node_incarnation)
        return self.groups.update(now, request)

    def _register_node(self, now: Instant, request: pb.RegisterNodeRequest) -> Outcome:
        message, rows = self.membership.register(now, request)
        # A head numbers from 1, as long as no head before it has.
        message.jobs_above = self.jobs.highest(0) if request.node.head else message.incarnation * SPAN
        return Outcome(message, rows)

    def _consequences(self, now: Instant, rows: list[Row]) -> list[Row]:
        """What the death of a node takes with it."""
        found: list[Row] = []
        for row in rows:
            if isinstance(row, pb.Node) and row.state == pb.NODE_STATE_DEAD:
                node = row.description.node
                found += self.actors.node_died(now, node, int(DeathCause.OWNER_DIED), row.reason)
                found += self.jobs.node_died(now, node, int(DeathCause.NODE_DIED))
                found += self.groups.node_died(now, node, row.reason)
        return found

    def _state(self, request: pb.GetStateRequest) -> pb.GetStateReply:
        limit = limit_of(request.rows_max)
        asked = set(request.tables) - {pb.TABLE_ALL}
        reply = pb.GetStateReply(epoch=self.history.epoch, sequence=self.history.last)

        def part(table: int, rows: dict[Any, Any]) -> Iterator[Any]:
            if asked and table not in asked:
                return iter(())
            reply.truncated |= len(rows) > limit
            return islice(rows.items(), limit)

        reply.nodes.extend(entry.published() for _, entry in part(pb.TABLE_NODES, self.membership.entries))
        reply.jobs.extend(entry.published() for _, entry in part(pb.TABLE_JOBS, self.jobs.entries))
        reply.actors.extend(entry.published() for _, entry in part(pb.TABLE_ACTORS, self.actors.entries))
        reply.groups.extend(entry.published() for _, entry in part(pb.TABLE_GROUPS, self.groups.entries))
        reply.key_spaces.extend(
            pb.KeySpace(namespace=name, keys=len(space), value_bytes=sum(map(len, space.values())))
            for name, space in part(pb.TABLE_KEYS, self.keys.spaces)
        )
        reply.functions.extend(
            pb.FunctionRow(hash=digest, name=name, blob_bytes=len(blob))
            for digest, (name, blob) in part(pb.TABLE_FUNCTIONS, self.functions.entries)
        )
        return reply

    def check_invariants(self) -> None:
        """Raise AssertionError if a table contradicts itself or another one."""
        for table in self._tables:
            table.check_invariants()
        dead = {node for node, entry in self.membership.entries.items() if entry.state is NodeState.DEAD}
        for entry in self.actors.entries.values():
            assert entry.state.name == "DEAD" or entry.row.node not in dead, "an actor lives on a dead node"


def _request_key(stimulus: Message) -> tuple[str, bytes] | None:
    """What a repetition of this request is known by; None for what changes nothing or may be repeated freely."""
    descriptor = stimulus.DESCRIPTOR
    if "request_id" not in descriptor.fields_by_name:
        return None
    request_id: bytes = stimulus.request_id
    if not 0 < len(request_id) <= REQUEST_ID_BYTES_MAX:
        raise Refused(Refusal.INVALID, f"request_id has 1 to {REQUEST_ID_BYTES_MAX} bytes, got {len(request_id)}")
    return str(descriptor.name), request_id


# --- the journal's form ---------------------------------------------------------------------------------------------

_ENTRY_FIELDS = {
    field.message_type.name: field.name for field in pb.JournalEntry.DESCRIPTOR.oneofs_by_name["stimulus"].fields
}


def journal_entry(now: Instant, stimulus: Message) -> bytes:
    """A stimulus as the journal keeps it."""
    entry = pb.JournalEntry(monotonic_ns=now.monotonic_ns, wall_ns=now.wall_ns)
    getattr(entry, _ENTRY_FIELDS[stimulus.DESCRIPTOR.name]).CopyFrom(stimulus)
    return sealed(entry.SerializeToString())


def from_journal(data: bytes) -> tuple[Instant, Message]:
    """What ``journal_entry`` kept. Raises ValueError if it is none."""
    entry = pb.JournalEntry()
    try:
        entry.ParseFromString(unsealed(data))
    except Exception as error:
        raise ValueError(f"not a journal entry: {error}") from error
    field = entry.WhichOneof("stimulus")
    if field is None:
        raise ValueError("a journal entry without a stimulus")
    return Instant(entry.monotonic_ns, entry.wall_ns), getattr(entry, field)
