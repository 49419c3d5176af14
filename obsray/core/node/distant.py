"""Machine: what clients of this node have to do with actors that are at home at other nodes.

What they say goes to the home. While it cannot be reached, that waits here and is said again once there is a link; a
home says everything about an actor anew to whoever asks, so nothing is missed. If the home is dead, so are its actors,
and whoever asks hears it from this node.

Invariants: a client that watches hears of the actor's death once, from its home or from here; nothing waits for a node
that is dead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from obsray.core.node.peers import Peer, PeerTable
from obsray.core.node.step import Step, require
from obsray.core.protocol.lifecycle import ActorState
from obsray.core.protocol.messages import (
    ActorChanged,
    ActorFailed,
    ActorGaveUp,
    ActorReady,
    CreateActor,
    KillActor,
    Message,
    Reply,
    WatchActor,
)
from obsray.ids import NIL_WORKER, is_detached
from obsray.telemetry.events import DeathCause

_ABOUT_ACTORS = (CreateActor, WatchActor, KillActor, ActorReady, ActorFailed, ActorGaveUp)
_CHANGED = ActorChanged._field_defaults["tag"]
_REPLY = Reply._field_defaults["tag"]


class DistantActors:
    """``forward`` says a message to a node that is linked, for a client of this one."""

    def __init__(self, peers: PeerTable, forward: Callable[[Step, Peer, bytes, Any], None]) -> None:
        #: Actor -> our clients that watch it.
        self.watched: dict[bytes, dict[bytes, None]] = {}
        #: Actors that our clients have asked the head for, by client and request, until it has answered.
        self.created: dict[tuple[bytes, int], CreateActor] = {}
        #: What waits for a link, by node.
        self.unsaid: dict[bytes, list[tuple[bytes, Any]]] = {}
        self._peers = peers
        self._forward = forward

    def say(self, step: Step, peer: Peer, client: bytes, message: Any) -> bool:
        """Have a client's message go to ``peer``, its home. False if it is not about an actor."""
        if not isinstance(message, _ABOUT_ACTORS):
            return False
        if not peer.alive:
            self._answer_for(step, peer, client, message)
            return True
        if isinstance(message, WatchActor):
            self.watched.setdefault(message.actor, {})[client] = None
        elif isinstance(message, CreateActor) and isinstance(message.spec.get("actor"), bytes):
            self.watched.setdefault(message.spec["actor"], {})[client] = None
            self.created[client, message.request] = message
        if peer.linked:
            self._forward(step, peer, client, message)
        else:
            self.unsaid.setdefault(peer.id, []).append((client, message))
        return True

    def heard(self, client: bytes, message: Message) -> None:
        """What another node answers to a client."""
        if message[0] == _REPLY:
            asked = self.created.pop((client, message[1]), None)
            if asked is not None and message[3]:
                # It was refused: there is nothing to watch.
                self._unwatch(asked.spec["actor"], client)
        elif message[0] == _CHANGED and message[2] == ActorState.DEAD:
            self._unwatch(message[1], client)

    def _unwatch(self, actor: bytes, client: bytes) -> None:
        clients = self.watched.get(actor)
        if clients is not None:
            clients.pop(client, None)
            if not clients:
                del self.watched[actor]

    def client_gone(self, client: bytes) -> None:
        """A client of this node ended; where it was known that is said by ``ClientGone``."""
        for actor in [actor for actor, clients in self.watched.items() if client in clients]:
            self._unwatch(actor, client)
        for key in [key for key in self.created if key[0] == client]:
            del self.created[key]
        for node, waiting in list(self.unsaid.items()):
            self.unsaid[node] = [said for said in waiting if said[0] != client]

    # --- nodes ---------------------------------------------------------------------------------------------

    def node_linked(self, step: Step, peer: Peer) -> None:
        """There is a link to a home, maybe again: say what waits, and ask anew for what is watched there."""
        waiting = self.unsaid.pop(peer.id, [])
        for client, message in waiting:
            self._forward(step, peer, client, message)
        said = {(client, message.actor) for client, message in waiting if isinstance(message, WatchActor)}
        said |= {(client, message.spec["actor"]) for client, message in waiting if isinstance(message, CreateActor)}
        for actor, clients in self.watched.items():
            if self._peers.home_of(actor) is peer:
                for client in clients:
                    if (client, actor) not in said:
                        self._forward(step, peer, client, WatchActor(actor))

    def node_lost(self, peer: Peer) -> None:
        """The link to a home broke: whether it got what it had not answered, nobody knows, so that is said again."""
        if not peer.alive:
            return
        waiting = self.unsaid.setdefault(peer.id, [])
        known = {(client, message.request) for client, message in waiting if isinstance(message, CreateActor)}
        waiting[:0] = [
            (client, message)
            for (client, request), message in self.created.items()
            if peer is self._peers.head and (client, request) not in known
        ]

    def node_died(self, step: Step, peer: Peer) -> None:
        """A home is dead, and all its actors with it."""
        self.unsaid.pop(peer.id, None)
        for actor in [actor for actor in self.watched if self._peers.home_of(actor) is peer]:
            for client in self.watched.pop(actor):
                self._answer_for(step, peer, client, WatchActor(actor))
        if peer is self._peers.head:
            created, self.created = self.created, {}
            for (client, _), message in created.items():
                self._answer_for(step, peer, client, message)

    def _answer_for(self, step: Step, peer: Peer, client: bytes, message: Any) -> None:
        who = f"node {peer.facts.name or peer.id.hex()}"
        if isinstance(message, CreateActor):
            why = f"detached actors are kept by the head of the cluster, {who}, and that is dead: {peer.reason}"
            step.send(client, Reply(message.request, None, why, "unavailable"))
        elif isinstance(message, WatchActor):
            kept = "the head of the cluster, which kept it," if is_detached(message.actor) else "the node of its owner"
            detail = f"{kept} died ({who}: {peer.reason})"
            step.send(
                client,
                ActorChanged(
                    message.actor, ActorState.DEAD, 0, NIL_WORKER, "", DeathCause.NODE_DIED, b"", detail
                ),
            )  # fmt: skip

    def check_invariants(self) -> None:
        for clients in self.watched.values():
            require(bool(clients), "nobody watches a distant actor")
        for node in self.unsaid:
            require(self._peers.peers[node].alive, "something waits for the dead")
