"""Machine: this node's dealings with the other nodes of its cluster (docs/adr/0019).

What its clients say about things at home elsewhere goes there (``Forward``); what clients of others say here is handled
as if they were its own. A link that breaks, or a death, ends at once all that the two nodes had with each other; if the
link comes back they begin anew.

Invariants: a node speaks for clients with its own mark only; clients of a node that is not linked have nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from obsray.core.node.intake import Malformed, accept
from obsray.core.node.jobs import JobDescription
from obsray.core.node.peers import NodeFacts, Peer
from obsray.core.node.resources import Amounts
from obsray.core.node.step import Broadcast, Send, Shutdown, Step
from obsray.core.node.workers import SIGNAL_KILL
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import NodeState
from obsray.ids import TASK_ID_BYTES, mark_of, mark_of_node
from obsray.telemetry.events import DeathCause

if TYPE_CHECKING:
    from obsray.core.node.machine import NodeMachine

#: What a node has to spare is told at most this often to those that have asked it for something, and to all others at
#: most so often that each hears ``REPORTS_HEARD_MAX`` a second of all together.
REPORT_SECONDS = 0.02
REPORTS_HEARD_MAX = 2000
STORE_RESOURCE = "object_store_memory"

#: Client messages that go to the home of what they name: the field that names it.
_AT_HOME: dict[type, str] = {
    m.WatchActor: "actor",
    m.KillActor: "actor",
    m.ActorReady: "actor",
    m.ActorFailed: "actor",
    m.ActorGaveUp: "actor",
    m.RemoveGroup: "group",
}
#: Messages of nodes that have promised some of what is here to somebody.
_ASKING = frozenset({m.Forward, m.WantActor, m.PrepareBundles})
_GRANTED = m.LeaseGranted._field_defaults["tag"]
_REFUSED = m.ShapeRefused._field_defaults["tag"]
_UNMAKEABLE = m.EnvironmentFailed._field_defaults["tag"]


class Abroad:
    """The side of a ``NodeMachine`` that other nodes see."""

    def __init__(self, machine: NodeMachine) -> None:
        self.machine = machine
        self.peers = machine.peers
        #: Our clients -> nodes that have heard of them.
        self.spoken: dict[bytes, set[bytes]] = {}
        #: Jobs of other nodes -> the node of their driver.
        self.jobs: dict[int, bytes] = {}
        self.handlers: dict[type, Callable[[Step, Peer, Any], None]] = {
            m.Forward: self._forwarded,
            m.ClientGone: self._client_gone,
            m.JobDescribed: self._job_described,
            m.LoadReport: self._reported_load,
            m.WorkerDied: self._worker_died,
            m.NodeLeaves: self._node_leaves,
        }
        #: Told when a node is gone or its link broke, and when there is a link (again).
        self.on_lost: list[Callable[[Step, Peer, str], None]] = []
        self.on_linked: list[Callable[[Step, Peer], None]] = []
        #: Told when a node is dead, after ``on_lost``.
        self.on_died: list[Callable[[Step, Peer], None]] = []
        self._reports = 0
        self._reported: tuple[Any, ...] = ()
        self._report_at = 0.0
        self._report_all_at = 0.0
        #: Nodes that have asked for something here: they count on less now, until they hear what there is.
        self._asked: set[bytes] = set()
        self.draining = False

    # --- who is there ----------------------------------------------------------------------------------------

    def node_learned(
        self, step: Step, facts: NodeFacts, state: NodeState, reason: str, registered_at_ns: int = 0
    ) -> None:
        """The control store says what it knows of a node."""
        known = self.peers.peers.get(facts.node)
        was_linked = known is not None and known.linked
        peer = self.peers.learned(step, facts, state, reason, registered_at_ns)
        if peer is None:
            return
        if state is NodeState.DEAD:
            if was_linked:
                self._lost(step, peer, reason)
            elif known is None:
                # It ended before this node came: processes here that are older than this news need not look for it.
                news = m.NodeChanged(peer.id, False, peer.facts.address, peer.gone_because(reason))
                step.effects.append(Broadcast(m.encode(news)))
            self.machine.scheduler.node_lost(step, peer.id)
            for hook in self.on_died:
                hook(step, peer)
        self._look(step)

    def peer_linked(self, step: Step, node: bytes) -> bool:
        """There is a link to a node. False if it is not one of the living; the link must be closed then."""
        known = self.peers.peers.get(node)
        if known is not None and known.linked:
            # It has noticed before us that the old link broke.
            self.peer_unlinked(step, node, "its connection broke")
        peer = self.peers.linked(step, node)
        if peer is None:
            return False
        for client in self.machine.clients.values():
            if client.described and client.job in self.machine.jobs.descriptions:
                described = m.JobDescribed(client.job, client.id, self.machine.jobs.descriptions[client.job])
                step.tell_node(peer.id, described)
        step.effects.append(Broadcast(m.encode(m.NodeChanged(peer.id, True, peer.facts.address, ""))))
        for hook in self.on_linked:
            hook(step, peer)
        self.machine.delegation.news = True
        self._asked.add(peer.id)
        self._report_at = 0.0
        self._look(step)
        return True

    def peer_unlinked(self, step: Step, node: bytes, why: str) -> None:
        """The link to a node broke, or there was none to be had."""
        known = self.peers.peers.get(node)
        was_linked = known is not None and known.linked
        peer = self.peers.unlinked(step, node)
        if peer is not None and was_linked:
            self._lost(step, peer, why)
        self._look(step)

    def peer_messages(self, step: Step, node: bytes, messages: list[m.Message]) -> None:
        """What another node sent. Raises Malformed for what is no message between nodes."""
        peer = self.peers.peers.get(node)
        if peer is None or not peer.linked:
            return
        try:
            for message in messages:
                try:
                    decoded = m.decode(message)
                except (ValueError, TypeError) as error:
                    raise Malformed(str(error)) from None
                handler = self.handlers.get(type(decoded))
                if handler is None:
                    raise Malformed(f"{type(decoded).__name__} is not for another node")
                handler(step, peer, decoded)
                if type(decoded) in _ASKING:
                    self._asked.add(node)
        finally:
            self._look(step)

    def _lost(self, step: Step, peer: Peer, why: str) -> None:
        """All that was shared with a node is over: its clients are gone from here, ours have nothing there."""
        machine = self.machine
        mark = mark_of_node(peer.id)
        detail = peer.gone_because(why)
        for client in [client for client in machine.clients.values() if client.foreign and mark_of(client.id) == mark]:
            machine.client_left(step, client.id)
        for job in [job for job, home in self.jobs.items() if home == peer.id]:
            self._end_job(step, job)
        for nodes in self.spoken.values():
            nodes.discard(peer.id)
        machine.delegation.node_lost(step, peer.id)
        for hook in self.on_lost:
            hook(step, peer, detail)
        # Last: whether an actor starts again must be known before its calls are asked what becomes of them.
        step.effects.append(Broadcast(m.encode(m.NodeChanged(peer.id, False, peer.facts.address, detail))))

    def _reported_load(self, step: Step, peer: Peer, message: m.LoadReport) -> None:
        drained = peer.draining
        self.peers.reported(peer.id, message)
        self.machine.delegation.shortlist.heard(peer)
        self.machine.delegation.news = True
        if peer.draining and not drained:
            self.machine.delegation.node_drains(step, peer.id)

    def _node_leaves(self, step: Step, peer: Peer, message: m.NodeLeaves) -> None:
        self.peers.drains(peer, True)
        peer.leaving, peer.reason = True, message.reason
        if message.cluster_ends is True and peer.facts.head:
            step.effects.append(Shutdown(f"its cluster has ended: {message.reason}"))

    # --- speaking for clients --------------------------------------------------------------------------------

    def goes_to(self, message: Any) -> Peer | None:
        """The node at which a client's message is at home; None if it is for this one."""
        field = _AT_HOME.get(type(message))
        if field is not None:
            return self.peers.home_of(getattr(message, field))
        match message:
            case m.CreateActor(_, spec) | m.CreateGroup(_, spec):
                return self.peers.head if spec.get("detached") is True else None
            case m.Request(method="checkpoint", arguments={"actor": bytes(actor)}) if len(actor) == TASK_ID_BYTES:
                return self.peers.home_of(actor)
            case m.Request(method="request_resources"):
                return self.peers.head
            case m.LeaseReturn(lease=lease) | m.KillWorker(lease=lease):
                mark = (lease >> m.LEASE_MARK_SHIFT).to_bytes(5, "big")[-4:]
                return self.peers.by_mark.get(mark)
        return None

    def forward(self, step: Step, peer: Peer, client: bytes, message: Any) -> None:
        """Say ``message`` to another node for one of ours. What is said to a node that is gone nobody answers."""
        self.spoken.setdefault(client, set()).add(peer.id)
        step.tell_node(peer.id, m.Forward(client, self.machine.jobs.of(client), m.encode(message)))

    def client_ended(self, step: Step, client: bytes) -> None:
        """One of ours ended: what it had elsewhere ends, too."""
        for node in sorted(self.spoken.pop(client, ())):
            step.tell_node(node, m.ClientGone(client))

    def _forwarded(self, step: Step, peer: Peer, message: m.Forward) -> None:
        client_id, theirs = message.client, mark_of_node(peer.id)
        if not isinstance(client_id, bytes) or len(client_id) != 8:
            raise Malformed("Forward.client is no id")
        if mark_of(client_id) != theirs:
            self._for_ours(step, peer, client_id, message.message)
            return
        machine = self.machine
        client = machine.clients.get(client_id)
        if client is None:
            client = machine.foreign_client(client_id, message.job)
        elif message.job:
            client.job = message.job
        machine.handle(step, client, accept(message.message))

    def _for_ours(self, step: Step, peer: Peer, client: bytes, message: m.Message) -> None:
        if client not in self.machine.clients:
            # It has ended meanwhile; its node is told by ClientGone.
            return
        if message[0] == _GRANTED:
            self.machine.delegation.granted(client, message[1], peer.id)
        elif message[0] in (_REFUSED, _UNMAKEABLE):
            self.machine.delegation.withdrawn(client, message[1], peer.id)
        self.machine.distant.heard(client, message)
        step.effects.append(Send(client, message))

    def _client_gone(self, step: Step, peer: Peer, message: m.ClientGone) -> None:
        client = self.machine.clients.get(message.client)
        if client is not None and client.foreign and mark_of(client.id) == mark_of_node(peer.id):
            self.machine.client_left(step, client.id)

    def _worker_died(self, step: Step, peer: Peer, message: m.WorkerDied) -> None:
        if peer.leaving and (message.cause == DeathCause.INTENDED or message.signal == SIGNAL_KILL):
            # It was asked to end, or did not in time, because its node does: nobody meant it in particular.
            message = message._replace(cause=DeathCause.NODE_DIED, detail=peer.gone_because(peer.reason))
        # First what it means for its actor, as at home: callers must know that it starts again before calls come back.
        self.machine.actors.peer_worker_died(step, message)
        step.effects.append(Broadcast(m.encode(message)))

    # --- jobs ------------------------------------------------------------------------------------------------

    def job_described(self, step: Step, job: int, driver: bytes, description: dict[str, Any] | None) -> None:
        """A driver of this node has said what its job is, or has ended."""
        for peer in self.peers.peers.values():
            if peer.linked:
                step.tell_node(peer.id, m.JobDescribed(job, driver, description))

    def _job_described(self, step: Step, peer: Peer, message: m.JobDescribed) -> None:
        if message.description is None:
            if self.jobs.get(message.job) == peer.id:
                self._end_job(step, message.job)
            return
        try:
            description = JobDescription.read(message.description)
        except (KeyError, TypeError, ValueError) as error:
            raise Malformed(f"JobDescribed: {error!r}") from None
        self.jobs[message.job] = peer.id
        self.machine.jobs.descriptions[message.job] = description.told
        self.machine.pool.environments.job_paths[message.job] = description.told.get("sys_path") or ()

    def _end_job(self, step: Step, job: int) -> None:
        del self.jobs[job]
        self.machine.group_messages.job_ended(step, job)
        self.machine.jobs.end(step, job)

    # --- what there is ---------------------------------------------------------------------------------------

    def resources(self) -> tuple[Amounts, Amounts]:
        """What the other nodes have in sum, and what of it is free."""
        total: Amounts = {}
        free: Amounts = {}
        for peer in self.peers.peers.values():
            if not peer.alive:
                continue
            for name, amount in peer.total.items():
                total[name] = total.get(name, 0) + amount
                free.setdefault(name, 0)
            for name, amount in peer.spare.items():
                free[name] = free.get(name, 0) + amount
        return total, free

    def described(self) -> list[dict[str, Any]]:
        """The other nodes, dead ones too, as ``nodes`` answers."""
        return [
            {
                "node": peer.id,
                "alive": peer.alive,
                "state": peer.state.name,
                "reason": peer.reason,
                "linked": peer.linked,
                "draining": peer.draining,
                "drain": peer.drain,
                "name": peer.facts.name or peer.facts.host,
                "host": peer.facts.host,
                "pid": peer.facts.pid,
                "address": peer.facts.address,
                "session": peer.facts.session,
                "head": peer.facts.head,
                "started_at_ns": peer.registered_at_ns,
                "resources": {name: n for name, n in peer.total.items() if name != STORE_RESOURCE},
                "object_store_memory": peer.facts.resources.get(STORE_RESOURCE, 0),
                "available": {name: n for name, n in peer.spare.items() if name != STORE_RESOURCE},
                "labels": dict(peer.facts.labels),
            }
            for peer in sorted(self.peers.peers.values(), key=lambda peer: (peer.registered_at_ns, peer.id))
        ]

    def report(self, step: Step) -> None:
        """Tell the others what there is to spare, if that has changed since and not too often."""
        if not self.peers.peers:
            return
        if step.now < self._report_at:
            step.wake(self._report_at)
            return
        machine = self.machine
        spare = {name: max(0, amount) for name, amount in machine.resources.free.items()}
        queued, weighted = 0, 0.0
        for queue in machine.scheduler.queues.values():
            wanted = 0
            for demand in queue.demands.values():
                wanted += demand.wanted
                weighted += demand.wanted * demand.task_seconds
            queued += wanted
            if queue.group is None and not queue.placement.group and not queue.infeasible:
                for name, amount in queue.need.items():
                    spare[name] = max(0, spare.get(name, 0) - amount * wanted)
        total = dict(machine.resources.total)
        total[STORE_RESOURCE] = machine.objects.capacity
        spare[STORE_RESOURCE] = machine.objects.capacity - machine.objects.allocator.used_bytes
        mean = weighted / queued if queued else 0.0
        facts = (spare, queued, self.draining, total)
        asked, self._asked = self._asked, set()
        changed = facts != self._reported
        if changed and step.now >= self._report_all_at:
            self._reported, asked = facts, set(self.peers.peers)
            self._report_all_at = step.now + max(REPORT_SECONDS, len(self.peers.peers) / REPORTS_HEARD_MAX)
        elif changed:
            step.wake(self._report_all_at)
            if asked:
                # Some know what others do not: all hear it next time, also if it is by then as it was.
                self._reported = ()
        if not asked:
            return
        self._report_at = step.now + REPORT_SECONDS
        self._reports += 1
        message = m.LoadReport(self._reports, total, spare, queued, mean, spare[STORE_RESOURCE], self.draining)
        for node in sorted(asked):
            if self.peers.peers[node].linked:
                step.tell_node(node, message)

    def tick(self, step: Step) -> None:
        """Connect again, report what could not be reported before."""
        self.peers.tick(step)

    def _look(self, step: Step) -> None:
        self.machine.look(step)
