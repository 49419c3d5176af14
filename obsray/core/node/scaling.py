"""Machine: what an autoscaler is told: what waits on all nodes, what they have free, and why a node is not idle.

The autoscaler is a process beside the head's node (``obsray/autoscaler``). It asks that node ("demand"), which asks the
others. Nothing is kept for it meanwhile, so a cluster without one pays nothing. What programs wish for
(``request_resources``) is kept at the head until the next wish takes its place.

Invariants: a question is answered, at the latest after ``ANSWER_SECONDS_MAX``; a unit that waits is told by the one
node in whose queue it is.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from obsray.core.node.bundles import BUNDLES_MAX, Group
from obsray.core.node.demands import Queue, describe
from obsray.core.node.intake import Malformed
from obsray.core.node.names import LATER
from obsray.core.node.peers import Peer
from obsray.core.node.resources import Amounts, amounts_of
from obsray.core.node.step import Step
from obsray.core.protocol import labels
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import ActorState, GroupState
from obsray.telemetry.events import ProcessKind, Reason

if TYPE_CHECKING:
    from obsray.core.node.machine import Client, NodeMachine

#: A node that does not answer counts as it was last heard of, and as in use.
ANSWER_SECONDS_MAX = 2.0
#: Different needs that one node tells of; more would not change what is started.
DEMANDS_TOLD_MAX = 1000
GROUPS_TOLD_MAX = 1000
TEXT_CHARACTERS_MAX = 200
_WISH_CHARACTERS_MAX = 500
_U32 = 0xFFFFFFFF

#: What waits for one of these is met without another node, or would not be met by one.
_COMING = frozenset({Reason.WORKER_STARTING, Reason.ENVIRONMENT, Reason.ENVIRONMENT_FAILED, Reason.PLACEMENT})


@dataclass(slots=True)
class _Question:
    """The autoscaler's: who asked, and the nodes that have not answered."""

    client: bytes
    request: int
    waited: float
    until: float
    missing: set[bytes]
    found: dict[bytes, dict[str, Any]] = field(default_factory=dict)


class Scaling:
    """``offered``: whether the head has an autoscaler, as far as this node decides that (only the head does)."""

    def __init__(self, machine: NodeMachine) -> None:
        self._machine = machine
        self.offered = False
        #: Bundles that the cluster shall have room for at once, as programs wished last.
        self.wished: list[tuple[Amounts, labels.Selector]] = []
        self._numbers = itertools.count(1)
        self._questions: dict[int, _Question] = {}
        machine.abroad.handlers[m.AskDemand] = self._asked
        machine.abroad.handlers[m.DemandDescribed] = self._described
        machine.abroad.on_lost.append(self._unlinked)

    # --- programs ----------------------------------------------------------------------------------------

    def wish(self, step: Step, client: Client, arguments: dict[str, Any]) -> dict[str, Any]:
        """The request "request_resources". Answers whether there is an autoscaler that will see to it.

        Raises PermissionError, with a sentence, if the head cannot be asked.
        """
        bundles = arguments.get("bundles")
        if not isinstance(bundles, list | tuple) or len(bundles) > BUNDLES_MAX:
            raise Malformed(f"bundles is no list of at most {BUNDLES_MAX}")
        try:
            wished = [(amounts_of(amounts), labels.received(selector)) for amounts, selector in bundles]
        except (TypeError, ValueError) as error:
            raise Malformed(f"request_resources: {error}") from None
        if not self._machine.peers.is_head:
            raise PermissionError("the head of the cluster cannot be reached now; try again")
        if not self.offered:
            return {"offered": False}
        self.wished = wished
        text = ", ".join(sorted({describe(amounts) for amounts, _ in wished}))[:_WISH_CHARACTERS_MAX]
        step.emit.resources_requested(step.time_ns, client.id, len(wished), step.emit.intern(text))
        return {"offered": True}

    # --- the autoscaler ----------------------------------------------------------------------------------

    def ask(self, step: Step, client: Client, arguments: dict[str, Any], request: int) -> Any:
        """The request "demand": what waits, and what nodes have. Answered when all nodes have told."""
        waited = arguments.get("waited_seconds", 0.0)
        if not isinstance(waited, int | float) or not waited >= 0:
            raise Malformed("waited_seconds is no number of seconds")
        if client.kind is not ProcessKind.TOOL:
            raise Malformed("demand is told to tools")
        others = [peer for peer in self._machine.peers.living() if peer.linked]
        question = _Question(
            client.id, request, float(waited), step.now + ANSWER_SECONDS_MAX, {peer.id for peer in others}
        )
        if not others:
            return self._answer(step, question)
        number = next(self._numbers)
        self._questions[number] = question
        for peer in others:
            step.tell_node(peer.id, m.AskDemand(number, question.waited))
        step.wake(question.until)
        return LATER

    def _asked(self, step: Step, peer: Peer, message: m.AskDemand) -> None:
        step.tell_node(peer.id, m.DemandDescribed(message.number, self.described(step.now, float(message.waited))))

    def _described(self, step: Step, peer: Peer, message: m.DemandDescribed) -> None:
        question = self._questions.get(message.number)
        if question is None or peer.id not in question.missing:
            return
        if not isinstance(message.demand, dict):
            raise Malformed("DemandDescribed.demand is no dict")
        question.found[peer.id] = message.demand
        self._no_longer_missing(step, message.number, question, peer.id)

    def _unlinked(self, step: Step, peer: Peer, why: str) -> None:
        for number, question in list(self._questions.items()):
            self._no_longer_missing(step, number, question, peer.id)

    def _no_longer_missing(self, step: Step, number: int, question: _Question, node: bytes) -> None:
        question.missing.discard(node)
        if not question.missing and self._questions.pop(number, None) is not None:
            step.send(question.client, m.Reply(question.request, self._answer(step, question)))

    def tick(self, step: Step) -> None:
        """Questions that take too long are answered with what is known."""
        for number, question in list(self._questions.items()):
            if question.until <= step.now:
                del self._questions[number]
                step.send(question.client, m.Reply(question.request, self._answer(step, question)))
            else:
                step.wake(question.until)

    def _answer(self, step: Step, question: _Question) -> dict[str, Any]:
        machine = self._machine
        mine = {
            "node": machine.node, "name": "", "head": machine.peers.is_head, "labels": machine.labels, "heard": True,
            **self.described(step.now, question.waited),
        }  # fmt: skip
        others = [
            {
                "node": peer.id, "name": peer.facts.name, "head": peer.facts.head,
                "labels": {labels.NODE_ID: peer.id.hex(), **peer.facts.labels}, "heard": peer.id in question.found,
                "total": peer.total, "free": peer.spare, "draining": peer.draining, "busy": "it does not answer",
                "leases": 0, "demands": [], "groups": [], **question.found.get(peer.id, {}),
            }
            for peer in machine.peers.living()
        ]  # fmt: skip
        return {"nodes": [mine, *others], "wished": self.wished}

    # --- this node ---------------------------------------------------------------------------------------

    def described(self, now: float, waited: float) -> dict[str, Any]:
        """What this node tells: what has waited here for ``waited`` seconds, what is free, why it is not idle."""
        scheduler, resources = self._machine.scheduler, self._machine.resources
        free = {name: max(0, amount) for name, amount in resources.free.items()}
        demands: list[dict[str, Any]] = []
        for queue in scheduler.queues.values():
            if queue.group is not None:
                continue
            if queue.reason in _COMING and not queue.infeasible:
                units = sum(demand.wanted for demand in queue.demands.values())
                if not queue.placement.group:
                    for name, amount in queue.need.items():
                        free[name] = max(0, free.get(name, 0) - amount * units)
            elif not queue.placement.group and len(demands) < DEMANDS_TOLD_MAX:
                told = _demand(queue, now, waited)
                if told["units"]:
                    demands.append(told)
        return {
            "total": resources.total, "free": free, "draining": self._machine.abroad.draining, "busy": self.busy(),
            "leases": scheduler.leases_granted, "demands": demands,
            "groups": [
                _group(group) for demand in itertools.islice(scheduler.group_demands.waiting.values(), GROUPS_TOLD_MAX)
                if (group := demand.group) is not None and now - group.waiting_since >= waited
            ],
        }  # fmt: skip

    def busy(self) -> str:
        """Why this node must not be taken away; empty if nothing would be missed."""
        machine = self._machine
        leases = machine.scheduler.leases.values()
        groups = machine.groups
        found = (
            (len(leases), "in use by", "worker"),
            (len(machine.resources.shares) - sum(not each.bundle for each in leases), "has", "bundle"),
            (
                sum(not queue.infeasible for queue in machine.scheduler.queues.values()),
                "is waited for by",
                "kind of work",
            ),
            (machine.pool.lingering, "has values that others hold in", "process"),
        )
        told = [f"{how} {count} {what}{_plural(what, count)}" for count, how, what in found if count > 0]
        # Of these there may be very many: whether there is one is enough.
        if any(each.kind is ProcessKind.DRIVER for each in machine.clients.values()):
            told.append("a program runs there")
        if any(each.state is not ActorState.DEAD for each in machine.actors.actors.values()):
            told.append("actors are at home there")
        if any(groups.at_home(each) and each.state is not GroupState.REMOVED for each in groups.groups.values()):
            told.append("placement groups are at home there")
        if any(not entry.copy for entry in machine.objects.entries.values()):
            told.append("objects lie there")
        return ", ".join(told)


def _demand(queue: Queue, now: float, waited: float) -> dict[str, Any]:
    placement = queue.placement
    old = [demand for demand in queue.demands.values() if now - demand.waiting_since >= waited]
    name = old[0].name if old else ""
    return {
        "need": queue.need,
        "units": sum(demand.wanted for demand in old),
        "selectors": placement.selectors,
        "node": b"" if placement.soft else placement.node,
        "name": name[:TEXT_CHARACTERS_MAX] if name != describe(queue.need) else "",
        "actor": bool(old and old[0].actor),
    }


def _group(group: Group) -> dict[str, Any]:
    """A group that waits: the bundles that have no place, and how many of the others each node has."""
    return {
        "group": group.id,
        "name": group.name,
        "strategy": group.strategy,
        "bundles": [(bundle.amounts, bundle.selector) for bundle in group.lost],
        "taken": list(group.taken.items()),
    }


def _plural(what: str, count: int) -> str:
    return "" if count == 1 else "es" if what.endswith("s") else "s"
