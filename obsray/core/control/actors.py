"""Actors and their names.

Invariants: within a namespace a name belongs to at most one living actor, and a dead one gives it back at once; only
the member that hosts an actor's newest process can say what became of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from obsray.core.control.step import (
    NAME_BYTES_MAX,
    TEXT_BYTES_MAX,
    Instant,
    Outcome,
    Refusal,
    Refused,
    check_actor,
    check_text,
    check_worker,
    limit_of,
)
from obsray.core.protocol import control_pb2 as pb
from obsray.core.protocol.lifecycle import ACTOR, ActorState, advance

ACTORS_DEAD_MAX = 10_000
META_BYTES_MAX = 16 << 20


@dataclass(slots=True)
class ActorEntry:
    state: ActorState
    row: pb.Actor

    def published(self) -> pb.Actor:
        """The row as readers get it."""
        row = pb.Actor()
        row.CopyFrom(self.row)
        row.state = pb.ActorState.ValueType(int(self.state))
        return row


class Actors:
    """The tables of actors and of their names."""

    def __init__(self) -> None:
        self.entries: dict[bytes, ActorEntry] = {}
        self._names: dict[tuple[str, str], bytes] = {}
        self._dead: list[bytes] = []

    def register(self, now: Instant, request: pb.RegisterActorRequest) -> Outcome:
        """Know an actor and take its name. Raises Refused if a living actor has the name."""
        actor = request.actor
        _check_description(actor)
        if actor.actor in self.entries:
            return Outcome(pb.RegisterActorReply(), [])
        name = (actor.namespace, actor.name)
        if actor.name and name in self._names:
            raise Refused(Refusal.EXISTS, f"an actor named {actor.name!r} lives in namespace {actor.namespace!r}")
        row = pb.Actor(
            description=actor, node=request.node, registered_at_ns=now.wall_ns, state_changed_at_ns=now.wall_ns
        )
        entry = self.entries[actor.actor] = ActorEntry(ActorState.DEPENDENCIES_UNREADY, row)
        if actor.name:
            self._names[name] = actor.actor
        return Outcome(pb.RegisterActorReply(), [entry.published()])

    def update(self, now: Instant, request: pb.UpdateActorRequest) -> Outcome:
        """An actor moved. Raises Refused if it cannot have, or if the news are old."""
        check_actor(request.actor)
        check_text("address", request.address, NAME_BYTES_MAX)
        check_text("detail", request.detail, TEXT_BYTES_MAX)
        if request.worker:
            check_worker("worker", request.worker)
        entry = self.entries.get(request.actor)
        if entry is None:
            raise Refused(Refusal.NOT_FOUND, f"actor {request.actor.hex()} is not registered")
        after = _state_of(request.state)
        row = entry.row
        if request.incarnation < row.incarnation:
            raise Refused(
                Refusal.FENCED,
                f"actor {request.actor.hex()} is at incarnation {row.incarnation}, past {request.incarnation}",
            )
        if request.incarnation == row.incarnation and row.node != request.node:
            raise Refused(Refusal.FENCED, f"actor {request.actor.hex()} lives on node {row.node.hex()}")
        if after is entry.state and request.incarnation == row.incarnation:
            return Outcome(pb.UpdateActorReply(), [])
        if after not in ACTOR[entry.state]:
            raise Refused(
                Refusal.FENCED, f"actor {request.actor.hex()} cannot go from {entry.state.name} to {after.name}"
            )
        row.incarnation, row.node, row.worker = request.incarnation, request.node, request.worker
        row.address = request.address if after is ActorState.ALIVE else ""
        return Outcome(pb.UpdateActorReply(), [self._move(now, entry, after, request.cause, request.detail)])

    def node_died(self, now: Instant, node: bytes, cause: int, reason: str) -> list[pb.Actor]:
        """The actors of a dead node went with it."""
        lost = [
            entry for entry in self.entries.values() if entry.row.node == node and entry.state is not ActorState.DEAD
        ]
        detail = f"its node {node.hex()} is dead: {reason}"
        return [self._move(now, entry, ActorState.DEAD, cause, detail) for entry in lost]

    def named(self, request: pb.GetNamedActorRequest) -> Outcome:
        """The living actor of a name. Raises Refused if there is none."""
        actor = self._names.get((request.namespace, request.name))
        if actor is None:
            raise Refused(
                Refusal.NOT_FOUND, f"no actor named {request.name!r} lives in namespace {request.namespace!r}"
            )
        return Outcome(pb.GetNamedActorReply(actor=self.entries[actor].published()), [])

    def listed(self, request: pb.ListActorsRequest) -> Outcome:
        """One page of actors in the order of their ids."""
        wanted = sorted(
            actor
            for actor, entry in self.entries.items()
            if actor > request.after
            and not (request.HasField("namespace") and entry.row.description.namespace != request.namespace)
            and not (request.named_only and not entry.row.description.name)
            and not (request.living_only and entry.state is ActorState.DEAD)
        )
        limit = limit_of(request.actors_max)
        page = [self.entries[actor].published() for actor in wanted[:limit]]
        return Outcome(pb.ListActorsReply(actors=page, more=len(wanted) > limit), [])

    def _move(self, now: Instant, entry: ActorEntry, after: ActorState, cause: int, detail: str) -> pb.Actor:
        advance(entry, after)
        row = entry.row
        row.state_changed_at_ns = now.wall_ns
        row.cause, row.detail = cause, detail
        if after is ActorState.DEAD:
            row.address = ""
            described = row.description
            if described.name:
                del self._names[(described.namespace, described.name)]
            self._dead.append(described.actor)
            if len(self._dead) > ACTORS_DEAD_MAX:
                del self.entries[self._dead.pop(0)]
        return entry.published()

    def save(self, snapshot: pb.Snapshot) -> None:
        """Write all of it down."""
        snapshot.actors.extend(entry.published() for entry in self.entries.values())
        snapshot.actors_dead.extend(self._dead)

    def restore(self, snapshot: pb.Snapshot) -> None:
        """Be what was saved."""
        self.entries = {row.description.actor: ActorEntry(ActorState(row.state), row) for row in snapshot.actors}
        self._dead = list(snapshot.actors_dead)
        self._names = {
            (entry.row.description.namespace, entry.row.description.name): actor
            for actor, entry in self.entries.items()
            if entry.row.description.name and entry.state is not ActorState.DEAD
        }

    def check_invariants(self) -> None:
        """Raise AssertionError if the tables contradict each other."""
        living = {
            (entry.row.description.namespace, entry.row.description.name): actor
            for actor, entry in self.entries.items()
            if entry.row.description.name and entry.state is not ActorState.DEAD
        }
        assert living == self._names, "names and living actors disagree"
        dead = {actor for actor, entry in self.entries.items() if entry.state is ActorState.DEAD}
        assert dead == set(self._dead)


def _check_description(actor: pb.ActorDescription) -> None:
    check_actor(actor.actor)
    check_worker("owner", actor.owner)
    for field in ("class_name", "name", "namespace"):
        check_text(field, getattr(actor, field), NAME_BYTES_MAX)
    if len(actor.meta) > META_BYTES_MAX:
        raise Refused(Refusal.INVALID, f"meta has at most {META_BYTES_MAX} bytes")
    if actor.restarts_max < -1:
        raise Refused(Refusal.INVALID, "restarts_max is -1 (without bound) or more")


def _state_of(number: int) -> ActorState:
    try:
        return ActorState(number)
    except ValueError:
        raise Refused(Refusal.INVALID, f"there is no actor state {number}") from None
