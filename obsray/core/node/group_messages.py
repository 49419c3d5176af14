"""Machine: what clients and other nodes say about placement groups, and what follows from it on this node.

Names are one for the whole cluster: the control store gives them, before a named group is made. What is listed or found
is gathered from all nodes, each for the groups at home there, so that works while the control store is away.

Invariants: a question to other nodes is answered, at the latest after ``GATHER_SECONDS_MAX``; a name that was asked for
and is not used is given back.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from obsray.core.node.bundles import Group, read_group
from obsray.core.node.intake import Malformed
from obsray.core.node.names import LATER
from obsray.core.node.peers import Peer
from obsray.core.node.step import RegisterGroup, ReportGroup, Step
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import GroupState
from obsray.telemetry.events import DeathCause, Reason

if TYPE_CHECKING:
    from obsray.core.node.machine import Client, NodeMachine

#: A node that does not answer is left out.
GATHER_SECONDS_MAX = 3.0
_REMOVED = "its placement group was removed"


@dataclass(slots=True)
class _Question:
    """``then`` is called with what all have answered."""

    then: Callable[[Step, list[dict[str, Any]]], None]
    until: float
    missing: set[bytes]
    found: list[dict[str, Any]] = field(default_factory=list)


class GroupMessages:
    """The part of a ``NodeMachine`` that placement groups are."""

    def __init__(self, machine: NodeMachine) -> None:
        self.machine = machine
        self.scheduler = machine.scheduler
        self.peers = machine.peers
        self.table = machine.scheduler.groups
        self.copies = machine.scheduler.copies
        self._numbers = itertools.count(1)
        self._questions: dict[int, _Question] = {}
        #: Groups whose names the control store was asked for: who wants them, and what.
        self._naming: dict[bytes, tuple[bytes, m.CreateGroup]] = {}
        #: Who wants a group removed whose home cannot be reached now.
        self._removals: dict[bytes, bytes] = {}
        machine.delegation.nodes_of = self.table.nodes_of
        machine.abroad.handlers |= {
            m.PrepareBundles: self._checked(self._prepare),
            m.BundlesPrepared: self._checked(self.table.prepared),
            m.CommitGroup: self._checked(lambda step, peer, message: self._learn(step, peer, message.group)),
            m.GroupDescribed: self._checked(lambda step, peer, message: self._learn(step, peer, message.group)),
            m.ReleaseBundles: self._checked(self._release),
            m.WatchGroup: self._checked(lambda step, peer, message: self.table.follow(step, peer, message.group)),
            m.ListGroups: self._checked(self._list),
            m.GroupsListed: self._checked(self._listed),
        }
        machine.abroad.on_linked.append(self._linked)
        machine.abroad.on_lost.append(self._unlinked)
        machine.abroad.on_died.append(self._died)

    @staticmethod
    def _checked(handler: Callable[[Step, Peer, Any], Any]) -> Callable[[Step, Peer, Any], None]:
        def checked(step: Step, peer: Peer, message: Any) -> None:
            try:
                handler(step, peer, message)
            except (KeyError, IndexError, TypeError, ValueError) as error:
                raise Malformed(f"{type(message).__name__}: {error!r}") from error

        return checked

    # --- clients -----------------------------------------------------------------------------------------

    def create(self, step: Step, client: Client, message: m.CreateGroup) -> None:
        """A client wants a group; a name is looked for at other nodes before."""
        spec = message.spec
        try:
            home = self.peers.home_of(spec["group"])
            name, namespace = str(spec["name"]), str(spec["namespace"])
        except (KeyError, TypeError, IndexError) as error:
            raise Malformed(f"CreateGroup: {error!r}") from None
        if home is not None:
            text = f"node {home.id.hex()[:8]}, which keeps detached placement groups, cannot be reached now; try again"
            step.send(client.id, m.Reply(message.request, None, text, "away"))
            return
        if not name or not self.peers.clustered or (namespace, name) in self.table.names:
            if self._create(step, client.id, message):
                step.effects.append(RegisterGroup(spec, False))
            return
        if any(
            (asked.spec["namespace"], asked.spec["name"]) == (namespace, name) for _, asked in self._naming.values()
        ):
            self._name_taken(step, client.id, message.request, (namespace, name))
            return
        if spec["group"] in self._naming:
            raise Malformed("CreateGroup: that group is being made already")
        try:
            # Before anything is said about it elsewhere.
            read_group(spec, client.id, self.machine.node)
        except (KeyError, TypeError, ValueError) as error:
            raise Malformed(f"CreateGroup: {error!r}") from None
        self._naming[spec["group"]] = client.id, message
        step.effects.append(RegisterGroup(spec, True))

    def named(self, step: Step, group: bytes, error: str, kind: str) -> None:
        """The control store has said whether a group may have its name (``RegisterGroup``)."""
        client, message = self._naming.pop(group)
        if error:
            if client in self.machine.clients:
                step.send(client, m.Reply(message.request, None, error, kind))
        elif client not in self.machine.clients or not self._create(step, client, message):
            step.effects.append(ReportGroup(group, GroupState.REMOVED, [], "its creator ended before it was made"))
        self.machine.look(step)

    def _create(self, step: Step, client: bytes, message: m.CreateGroup) -> bool:
        try:
            return self.table.create(step, client, message.request, message.spec) is not None
        except (KeyError, TypeError, ValueError) as error:
            raise Malformed(f"CreateGroup: {error!r}") from None

    def _name_taken(self, step: Step, client: bytes, request: int, key: tuple[str, str]) -> None:
        text = f"a placement group called {key[1]!r} exists in namespace {key[0]!r}"
        step.send(client, m.Reply(request, None, text, "name_taken"))

    def remove(self, step: Step, client: Client, message: m.RemoveGroup) -> None:
        """A client wants a group to end."""
        group = self.table.groups.get(message.group)
        home = self.peers.home_of(message.group)
        if home is not None:
            if home.alive:
                self._removals[message.group] = client.id
            return
        if group is not None and group.state is not GroupState.REMOVED:
            self.end(step, group, _REMOVED, Reason.REMOVED)

    def watch(self, step: Step, client: Client, message: m.WatchGroup) -> None:
        """A client waits for a group, wherever it is at home."""
        self.copies.watch(step, client.id, message.group)

    def find(self, step: Step, client: Client, arguments: dict[str, Any], request: int) -> Any:
        """The description of the group of a name, None if there is none; LATER if others are asked."""
        name, namespace = arguments.get("name", ""), arguments.get("namespace", "")
        if not isinstance(name, str) or not isinstance(namespace, str):
            raise Malformed("name or namespace is not text")
        mine = self.table.find(name, namespace)
        others = [peer for peer in self.peers.living() if peer.linked]
        if mine is not None or not others:
            return mine
        self._ask(
            step, others, b"", name, namespace,
            lambda step, found: step.send(client.id, m.Reply(request, found[0] if found else None)),
        )  # fmt: skip
        return LATER

    def describe(self, step: Step, client: Client, arguments: dict[str, Any], request: int) -> Any:
        """Descriptions of one group, or of all in the cluster; LATER if others are asked."""
        wanted = arguments.get("group")
        if wanted is not None and (not isinstance(wanted, bytes) or len(wanted) != 16):
            raise Malformed("group is not an id")
        mine = self.table.described(wanted)
        if wanted is None:
            others = [peer for peer in self.peers.living() if peer.linked]
        else:
            home = self.peers.home_of(wanted)
            others = [home] if home is not None and home.linked else []
        if not others:
            return mine

        def answer(step: Step, found: list[dict[str, Any]]) -> None:
            step.send(client.id, m.Reply(request, [*mine, *found] if wanted is None else found or mine))

        self._ask(step, others, wanted or b"", "", "", answer)
        return LATER

    # --- questions to all --------------------------------------------------------------------------------

    def _ask(
        self, step: Step, others: list[Peer], group: bytes, name: str, namespace: str,
        then: Callable[[Step, list[dict[str, Any]]], None],
    ) -> None:  # fmt: skip
        number = next(self._numbers)
        self._questions[number] = _Question(then, step.now + GATHER_SECONDS_MAX, {peer.id for peer in others})
        for peer in others:
            step.tell_node(peer.id, m.ListGroups(number, group, name, namespace))
        step.wake(step.now + GATHER_SECONDS_MAX)

    def _list(self, step: Step, peer: Peer, message: m.ListGroups) -> None:
        found: list[dict[str, Any]] = []
        if message.name:
            named = self.table.find(message.name, message.namespace)
            if named is not None:
                found = [named]
        else:
            found = self.table.described(message.group or None)
        step.tell_node(peer.id, m.GroupsListed(message.number, found))

    def _listed(self, step: Step, peer: Peer, message: m.GroupsListed) -> None:
        question = self._questions.get(message.number)
        if question is None or peer.id not in question.missing:
            return
        question.found += [{**found} for found in message.groups]
        self._no_longer_missing(step, message.number, question, peer.id)

    def _no_longer_missing(self, step: Step, number: int, question: _Question, node: bytes) -> None:
        question.missing.discard(node)
        if not question.missing and self._questions.pop(number, None) is not None:
            question.then(step, question.found)

    def tick(self, step: Step) -> None:
        """Tries and questions that take too long are over."""
        self.table.tick(step)
        for number, question in list(self._questions.items()):
            if question.until <= step.now:
                del self._questions[number]
                question.then(step, question.found)
            else:
                step.wake(question.until)

    # --- other nodes -------------------------------------------------------------------------------------

    def _prepare(self, step: Step, peer: Peer, message: m.PrepareBundles) -> None:
        turn = self.copies.prepare(step, peer, message, "it is draining" if self.machine.abroad.draining else "")
        if turn is not None:
            self.scheduler.group_demands.have_turn(step, turn)

    def _learn(self, step: Step, peer: Peer, facts: dict[str, Any]) -> None:
        group, ended = self.copies.learn(step, peer, facts)
        if group is None:
            return
        if ended:
            self.end(step, group, ended, Reason.REMOVED)
            return
        for demand, why in self.scheduler.group_demands.known(step, group):
            self.machine.keeper(demand.actor).unplaceable(step, demand.actor, DeathCause.UNSCHEDULABLE, why)

    def _release(self, step: Step, peer: Peer, message: m.ReleaseBundles) -> None:
        if self.peers.home_of(message.group) is peer:
            attempt = None if message.removed else message.attempt
            self.scheduler.group_demands.end_turn(step, message.group, attempt)
        group = self.copies.release(step, peer, message)
        if group is not None:
            self.end(step, group, message.detail or _REMOVED, Reason.REMOVED)

    def _linked(self, step: Step, peer: Peer) -> None:
        self.copies.linked(step, peer)
        for identifier, client in list(self._removals.items()):
            if self.peers.home_of(identifier) is peer:
                del self._removals[identifier]
                if client in self.machine.clients:
                    self.machine.abroad.forward(step, peer, client, m.RemoveGroup(identifier))

    def _unlinked(self, step: Step, peer: Peer, why: str) -> None:
        self.table.unlinked(step, peer)
        turns = self.scheduler.group_demands.turns
        for identifier in [each for each, (_, turn) in turns.items() if turn.home == peer.id]:
            self.scheduler.group_demands.end_turn(step, identifier)
        for number, question in list(self._questions.items()):
            self._no_longer_missing(step, number, question, peer.id)

    def _died(self, step: Step, peer: Peer) -> None:
        self.table.node_died(step, peer)
        for group in self.copies.of(peer):
            self.end(step, group, self.copies.ended_with(peer), Reason.NODE_DIED)
        for identifier in [each for each in self._removals if self.peers.home_of(each) is peer]:
            del self._removals[identifier]

    # --- the end -----------------------------------------------------------------------------------------

    def end(self, step: Step, group: Group, why: str, reason: Reason) -> None:
        """A group ends: what runs in it here is killed, and what waits for it is refused."""
        # Actors first, so that the deaths of their processes are not taken for crashes.
        self.machine.actors.group_removed(step, group.id, why)
        self.machine.guests.group_removed(step, group.id, why)
        self.machine.delegation.group_removed(group.id)
        for lease in self.scheduler.group_demands.end(step, group, why, reason):
            self.machine.pool.kill(step, lease.worker, DeathCause.PLACEMENT_REMOVED, why)

    def job_ended(self, step: Step, job: int) -> None:
        """The groups of a job end with it, but for detached ones."""
        for group in self.table.of_job(job):
            self.end(step, group, "the job that made it ended", Reason.OWNER_DIED)
