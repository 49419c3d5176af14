"""Machine: the names of the actors at home here.

Without a cluster this node gives them, at once. In a cluster they are unique among all nodes: the control store is
asked (``ReserveName``) before an actor is registered, and it is asked for names that are not in use here.

Invariants: a name is taken from the moment it is asked for; only an actor that may have it is found by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from obsray.core.node.actor import TEXT_CHARACTERS_MAX, Actor
from obsray.core.node.peers import PeerTable
from obsray.core.node.step import FindName, ListNames, ReserveName, Step, require
from obsray.core.protocol.lifecycle import ActorState
from obsray.core.protocol.messages import Reply
from obsray.ids import NIL_WORKER
from obsray.telemetry.events import DeathCause


class _Later:
    """An answer that comes with a later ``Reply``."""


LATER = _Later()


@dataclass(slots=True, eq=False)
class Asked:
    """An actor for whose name the control store was asked. ``orphaned``: its owner ended meanwhile."""

    actor: Actor
    request: int
    orphaned: bool = False


def _refuse(step: Step, actor: Actor, request: int, error: str, kind: str) -> None:
    """Its owner is told, and so are records: by those it was asked for, and would be awaited for ever."""
    step.send(actor.owner, Reply(request, None, error, kind))
    text = f"it never ran; {error}"[:TEXT_CHARACTERS_MAX]
    step.emit.actor_died(
        step.time_ns, actor.id, NIL_WORKER, 0, DeathCause.INTENDED, step.emit.intern(actor.class_name),
        step.emit.intern(text),
    )  # fmt: skip


class NameTable:
    """Names of actors of this node, by namespace and name."""

    def __init__(self, peers: PeerTable) -> None:
        self.names: dict[tuple[str, str], Actor] = {}
        #: Actors whose name is not settled yet.
        self.asked: dict[bytes, Asked] = {}
        self._peers = peers

    def take(self, step: Step, actor: Actor, request: int) -> bool:
        """Whether the actor has its name now. If not, its owner is told, or the control store is asked first."""
        key = (actor.namespace, actor.name)
        if key in self.names:
            where = f" in namespace {actor.namespace!r}" if actor.namespace else ""
            _refuse(step, actor, request, f"the name {actor.name!r} is taken{where}", "name_taken")
            return False
        self.names[key] = actor
        if not self._peers.clustered:
            return True
        self.asked[actor.id] = Asked(actor, request)
        step.effects.append(ReserveName(actor.spec))
        return False

    def answered(self, step: Step, actor_id: bytes, error: str, kind: str) -> Asked | None:
        """The control store's answer. Returns the actor if it may have the name; else its owner is told why not."""
        asked = self.asked.pop(actor_id, None)
        if asked is None or not error:
            return asked
        actor = asked.actor
        del self.names[actor.namespace, actor.name]
        _refuse(step, actor, asked.request, error, kind)
        return None

    def give_back(self, actor: Actor) -> None:
        """The actor is dead."""
        if self.names.get((actor.namespace, actor.name)) is actor:
            del self.names[actor.namespace, actor.name]

    def client_gone(self, client: bytes) -> None:
        """Whoever asked for actors ended; detached ones come to be all the same."""
        for asked in self.asked.values():
            if asked.actor.owner == client and not asked.actor.detached:
                asked.orphaned = True

    # --- finding -------------------------------------------------------------------------------------------

    def find(self, step: Step, client: bytes, request: int, name: str, namespace: str) -> Any:
        """The living actor of that name: its id and what its owner wanted handles to know. Or LATER."""
        actor = self.names.get((namespace, name))
        if actor is not None and actor.id not in self.asked:
            return {"actor": actor.id, "meta": actor.spec["meta"]}
        if not self._peers.clustered:
            return None
        step.effects.append(FindName(client, request, namespace, name))
        return LATER

    def listed(self, step: Step, client: bytes, request: int, namespace: str | None) -> Any:
        """Names in use, in one namespace or (None) in all. Or LATER."""
        if self._peers.clustered:
            step.effects.append(ListNames(client, request, namespace))
            return LATER
        return [
            {"name": name, "namespace": space} for space, name in self.names if namespace is None or space == namespace
        ]

    def check_invariants(self) -> None:
        for (namespace, name), actor in self.names.items():
            require((actor.namespace, actor.name) == (namespace, name), "a name that leads elsewhere")
            require(actor.state is not ActorState.DEAD, f"the name {name} leads to the dead")
        for actor_id, asked in self.asked.items():
            require(self.names.get((asked.actor.namespace, asked.actor.name)) is asked.actor, "nobody holds the name")
            require(asked.actor.id == actor_id, "an actor under another's id")
