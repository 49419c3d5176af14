"""The node without its sockets: every stimulus goes in here and is routed to the machines below.

Owns the rules that concern more than one of them: what a client's death means, what a worker's death means, and
that after everything that may have freed something the scheduler looks again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from obsray.core.node.abroad import STORE_RESOURCE, Abroad
from obsray.core.node.actors import ActorTable
from obsray.core.node.clocks import Clocks
from obsray.core.node.delegation import Delegation
from obsray.core.node.demands import describe
from obsray.core.node.distant import DistantActors
from obsray.core.node.draining import Draining
from obsray.core.node.environments import of_job, runtime_of
from obsray.core.node.gpus import Gpus
from obsray.core.node.group_messages import GroupMessages
from obsray.core.node.guests import GuestTable
from obsray.core.node.intake import Malformed, accept
from obsray.core.node.jobs import Jobs
from obsray.core.node.moving import Moving
from obsray.core.node.objects import ObjectTable
from obsray.core.node.peers import Peer, PeerTable
from obsray.core.node.placement import placement_of
from obsray.core.node.pulls import Pulled
from obsray.core.node.requests import Requests
from obsray.core.node.resources import MEMORY, Resources
from obsray.core.node.scaling import Scaling
from obsray.core.node.scheduler import Scheduler
from obsray.core.node.sharing import Sharing
from obsray.core.node.step import Broadcast, Step, require
from obsray.core.node.workers import Death, Ended, WorkerPool
from obsray.core.protocol import messages as m
from obsray.core.protocol.labels import NODE_ID
from obsray.core.protocol.lifecycle import WorkerState
from obsray.gpu.nvml import Found
from obsray.ids import owner_of, short
from obsray.telemetry.events import DeathCause, ProcessKind, Reason

SHAPES_PER_CLIENT_MAX = 10_000
_REASONS = frozenset(Reason)


@dataclass(slots=True, eq=False)
class Client:
    """A process with a link to this node. ``job`` is 0 for workers. ``described``: a driver has told about its job."""

    id: bytes
    kind: ProcessKind
    pid: int
    job: int = 0
    shapes: int = 0
    described: bool = False
    said_goodbye: bool = False
    #: Of another node, which speaks for it.
    foreign: bool = False


class NodeMachine:
    """``describe_node`` gives the facts about this node that ``nodes`` answers with."""

    def __init__(
        self,
        node: bytes,
        resources: Resources,
        pool: WorkerPool,
        objects: ObjectTable,
        socket_directory: str,
        describe_node: Callable[[], dict[str, Any]],
        labels: dict[str, str] | None = None,
        peers: PeerTable | None = None,
        gpus: dict[int, Found] | None = None,
        nesting_seconds_max: float = 60.0,
    ) -> None:
        self.node = node
        self.peers = peers or PeerTable(node)
        self.resources = resources
        self.pool = pool
        self.objects = objects
        self.labels = {NODE_ID: node.hex(), **(labels or {})}
        self.scheduler = Scheduler(
            node, resources, pool, socket_directory, self.labels, self.peers, nesting_seconds_max
        )
        self.groups = self.scheduler.groups
        self.gpus = Gpus(self, gpus or {})
        self.clients: dict[bytes, Client] = {}
        self.jobs = Jobs(self)
        self.delegation = Delegation(node, self.labels, resources, self.peers, self.scheduler)
        self.actors = ActorTable(node, self.scheduler, pool, socket_directory, self.delegation, self.peers)
        self.guests = GuestTable(self.scheduler, pool)
        self.abroad = Abroad(self)
        self.delegation.speak = self.abroad.forward
        self.group_messages = GroupMessages(self)
        self.sharing = Sharing(node, objects, self.peers, self.clients.__contains__)
        self.abroad.handlers.update(self.sharing.handlers)
        self.abroad.on_linked.append(self.sharing.node_linked)
        self.abroad.on_lost.append(self.sharing.node_lost)
        self.distant = DistantActors(self.peers, self.abroad.forward)
        self.clocks = Clocks(self.peers, self.abroad)
        self._join_actors()
        self.scaling = Scaling(self)
        self.moving = Moving(self)
        self.draining = Draining(self)
        self.requests = Requests(self, describe_node)
        self._handlers: dict[type, Callable[[Step, Client, Any], None]] = {
            m.DescribeJob: self.jobs.describe,
            m.DefineShape: self._define_shape,
            m.LeaseRequest: self._lease_request,
            m.LeaseReturn: self._lease_return,
            m.Blocked: lambda step, client, message: self.scheduler.block(client.id, message.sure),
            m.Unblocked: lambda step, client, message: self.scheduler.unblock(client.id),
            m.CreateObject: self._create_object,
            m.SealObject: lambda step, client, message: objects.seal(step, client.id, message.object),
            m.AbortObject: lambda step, client, message: objects.abort(step, client.id, message.object),
            m.PinObject: lambda step, client, message: objects.pin(step, client.id, message.request, message.object),
            m.UnpinObjects: lambda step, client, message: objects.unpin(step, client.id, message.objects),
            m.FileGone: lambda step, client, message: objects.file_gone(
                step, client.id, message.object, message.detail
            ),
            m.FreeObjects: lambda step, client, message: objects.free(step, client.id, message.objects),
            m.FreeItems: lambda step, client, message: objects.free_items(step, client.id, message.task, message.kept),
            m.CreateActor: self._create_actor,
            m.ActorReady: lambda step, client, message: self.actors.ready(step, client.id, message.actor, message.pid),
            m.ActorFailed: self._actor_failed,
            m.ActorGaveUp: lambda step, client, message: self.actors.gave_up(
                step, client.id, message.actor, message.error, message.detail
            ),
            m.WatchActor: lambda step, client, message: self.actors.watch(
                step, client.id, message.actor, self._lives(owner_of(message.actor))
            ),
            m.KillActor: self._kill_actor,
            m.KillWorker: self._kill_worker,
            m.Request: self.requests.ask,
            m.StillNeeded: self._still_needed,
            m.Goodbye: self._goodbye,
            m.CreateGroup: self.group_messages.create,
            m.RemoveGroup: self.group_messages.remove,
            m.WatchGroup: self.group_messages.watch,
        }

    # --- clients -----------------------------------------------------------------------------------------

    def client_joined(self, step: Step, client_id: bytes, kind: ProcessKind, pid: int) -> Client | None:
        """A process has introduced itself. None if it cannot be who it says it is; its link must be closed then."""
        if client_id in self.clients:
            return None
        client = Client(client_id, kind, pid)
        if kind is ProcessKind.WORKER:
            if not self.pool.registered(step, client_id, pid):
                return None
        elif client_id in self.pool.workers:
            return None
        elif kind is ProcessKind.DRIVER:
            self.jobs.count += 1
            client.job = self.jobs.count
        self.clients[client_id] = client
        self.look(step)
        return client

    def client_messages(self, step: Step, client_id: bytes, messages: list[m.Message]) -> None:
        """What a client sent. Raises Malformed for the first message that breaks the protocol; earlier ones count."""
        client = self.clients[client_id]
        try:
            for message in messages:
                self.handle(step, client, accept(message))
        finally:
            self.look(step)

    def handle(self, step: Step, client: Client, message: Any) -> None:
        """One checked message of a client, here or at the node where what it is about is at home."""
        if self.peers.peers:
            peer = self.abroad.goes_to(message)
            if peer is not None and self.distant.say(step, peer, client.id, message):
                return
            if peer is not None and peer.linked:
                self.abroad.forward(step, peer, client.id, message)
                return
        self._handlers[type(message)](step, client, message)

    def foreign_client(self, client_id: bytes, job: int) -> Client:
        """A client of another node, which speaks for it."""
        client = self.clients[client_id] = Client(client_id, ProcessKind.WORKER, 0, job, foreign=True)
        return client

    def client_left(self, step: Step, client_id: bytes) -> None:
        """The link of a client is gone: whatever it wanted, held, wrote, read or owned goes with it."""
        client = self.clients.pop(client_id, None)
        if client is None:
            return
        for lease in self.scheduler.client_gone(step, client_id):
            # What it computes has no owner any more, and what it has computed nobody will ask for.
            self.pool.kill(
                step, lease.worker, DeathCause.OWNER_DIED, f"the owner of its tasks ({client_id.hex()}) ended"
            )
        self.actors.client_gone(step, client_id)
        self.delegation.client_gone(client_id)
        self.abroad.client_ended(step, client_id)
        self.distant.client_gone(client_id)
        if client.foreign:
            self.objects.client_gone(step, client_id)
            self.look(step)
            return
        if client.job:
            self.group_messages.job_ended(step, client.job)
        self.objects.client_gone(step, client_id)
        worker = self.pool.workers.get(client_id)
        if worker is not None:
            self.pool.link_lost(step, worker)
        elif client.kind is ProcessKind.DRIVER:
            cause = DeathCause.INTENDED if client.said_goodbye else DeathCause.UNKNOWN
            if client.described:
                step.emit.job_ended(step.time_ns, client.job, client_id, cause)
                self.jobs.end(step, client.job)
                self.abroad.job_described(step, client.job, client_id, None)
            detail = "it ended in order" if client.said_goodbye else "its connection broke"
            self._broadcast(step, m.WorkerDied(client_id, client.pid, cause, 0, 0, [], detail, ""))
        self.look(step)

    def _goodbye(self, step: Step, client: Client, message: m.Goodbye) -> None:
        client.said_goodbye = True
        worker = self.pool.workers.get(client.id)
        if worker is not None:
            self.pool.goodbye(step, worker)

    def _still_needed(self, step: Step, client: Client, message: m.StillNeeded) -> None:
        worker = self.pool.workers.get(client.id)
        if worker is not None:
            self.pool.still_needed(step, worker, message.objects, message.tasks)

    # --- processes ---------------------------------------------------------------------------------------

    def start(self, step: Step) -> None:
        """Begin: start the processes that are kept ready."""
        self.pool.keep_prestarted(step)

    def worker_forked(self, step: Step, worker: bytes, pid: int) -> None:
        self.pool.forked(worker, pid)

    def worker_not_forked(self, step: Step, worker: bytes, why: str) -> None:
        """The system refused another process."""
        death = self.pool.not_forked(step, worker, why)
        if death is not None:
            self.look(step)

    def worker_ended(self, step: Step, end: Ended) -> None:
        """A worker's process is gone; its last messages have been handled."""
        self.client_left(step, end.worker)
        lease = self.scheduler.worker_gone(step, end.worker, Reason.WORKER_DIED)
        death = self.pool.ended(step, end)
        if death is None:
            require(lease is None, "a lease on a process that never was")
            return
        self.actors.worker_ended(step, death, end.tail)
        self.guests.worker_ended(step, end.worker)
        if death.worker.state is WorkerState.DEAD and death.worker.uses:
            self._tell_death(step, death, end)
        self.pool.keep_prestarted(step)
        self.look(step)

    def _tell_death(self, step: Step, death: Death, end: Ended) -> None:
        self._broadcast(
            step,
            m.WorkerDied(
                end.worker, end.pid, death.cause, end.exit_code, end.signal, list(end.started), death.detail, end.tail,
                end.attempts,
            ),
        )  # fmt: skip

    def _broadcast(self, step: Step, message: m.WorkerDied) -> None:
        step.effects.append(Broadcast(m.encode(message), abroad=True))

    # --- the store's threads -----------------------------------------------------------------------------

    def arena_reserved(self, step: Step, end: int, error: str) -> None:
        self.objects.room.arena_reserved(step, end, error)

    def object_spilled(self, step: Step, token: int, path: str, seconds: float, error: str) -> None:
        self.objects.spilling.spilled(step, token, path, seconds, error)
        self.sharing.flush(step)

    def object_file_made(self, step: Step, number: int, path: str, error: str) -> None:
        self.objects.room.fallback.made(step, number, path, error)
        self.sharing.flush(step)

    def object_restored(self, step: Step, token: int, seconds: float, error: str) -> None:
        self.objects.spilling.restored(step, token, seconds, error)
        self.sharing.flush(step)

    def object_pulled(self, step: Step, token: int, result: Pulled) -> None:
        """What PullObject asked for is over."""
        self.sharing.pulled(step, token, result)
        self.sharing.flush(step)

    def transfer_asked(self, step: Step, token: int, node: bytes, object_id: bytes) -> None:
        """Another node wants to read an object."""
        self.sharing.transfer_asked(step, token, node, object_id)
        self.sharing.flush(step)

    def transfer_over(
        self,
        step: Step,
        node: bytes,
        object_id: bytes,
        sent: int,
        queue_seconds: float,
        wire_seconds: float,
        error: str,
        gone: bool = False,
    ) -> None:
        """Another node has read what ServeObject granted. ``gone``: it lies in a file that is not there any more."""
        self.sharing.transfer_over(step, node, object_id, sent, queue_seconds, wire_seconds, error, gone)
        self.sharing.flush(step)

    def environment_made(
        self, step: Step, environment: bytes, place: dict[str, Any], size_bytes: int, error: str
    ) -> None:
        """What some processes must be is there, or ``error`` says why it cannot be."""
        self.pool.environments.made(step, environment, place, size_bytes, error)
        self.look(step)

    # --- time --------------------------------------------------------------------------------------------

    def tick(self, step: Step) -> None:
        """An instant that some machine asked for (``Step.wake_at``) has come."""
        self.pool.tick(step)
        self.objects.room.tick(step)
        self.actors.tick(step)
        self.abroad.tick(step)
        self.clocks.tick(step)
        self.group_messages.tick(step)
        self.scaling.tick(step)
        self.sharing.tick(step)
        self.look(step)

    def sample(self, step: Step, lag_seconds: float) -> None:
        """Record how the node does now."""
        counts = self.pool.counts()
        queued, infeasible = self.scheduler.waiting()
        step.emit.node_sample(
            step.time_ns, lag_seconds, len(self.pool.workers), counts[WorkerState.IDLE], counts[WorkerState.LEASED],
            counts[WorkerState.ACTOR], counts[WorkerState.STARTING], self.scheduler.blocked_workers(), queued,
            infeasible,
        )  # fmt: skip
        numbers = self.objects.numbers()
        step.emit.store_sample(step.time_ns, *asdict(numbers).values())
        for name, (total, used) in self._amounts().items():
            step.emit.resource_sample(step.time_ns, step.emit.intern(name), total, used)
        self.scheduler.tell_changes(step)

    def _amounts(self) -> dict[str, tuple[float, float]]:
        """Resource -> total and used, in whole units or bytes."""
        found: dict[str, tuple[float, float]] = {}
        for name, total in self.resources.total.items():
            unit = 1 if name == MEMORY else 10_000
            found[name] = total / unit, (total - self.resources.free[name]) / unit
        found[STORE_RESOURCE] = float(self.objects.capacity), float(self.objects.allocator.used_bytes)
        return found

    def look(self, step: Step) -> None:
        """Something may have become free, or wanted: decide again."""
        for lease in self.scheduler.schedule(step):
            self.keeper(lease.demand.actor).placed(step, lease)
        for demand, error in self.scheduler.give_up(step):
            if demand.actor:
                self.keeper(demand.actor).environment_failed(step, demand.actor, error)
            else:
                step.send(demand.client, m.EnvironmentFailed(demand.shape, error))
        for demand, detail in self.scheduler.refuse_too_deep(step):
            step.send(demand.client, m.TooDeep(demand.shape, detail))
        if self.draining.active:
            self.draining.look(step)
        if self.peers.peers:
            self.delegation.look(step)
            self.abroad.report(step)
            self.sharing.flush(step)

    # --- leases ------------------------------------------------------------------------------------------

    def _define_shape(self, step: Step, client: Client, message: m.DefineShape) -> None:
        client.shapes += 1
        if client.shapes > SHAPES_PER_CLIENT_MAX:
            # Those of groups that were removed do not count.
            client.shapes = 1 + sum(1 for owner, _ in self.scheduler.demands if owner == client.id)
        if client.shapes > SHAPES_PER_CLIENT_MAX:
            raise Malformed(f"more than {SHAPES_PER_CLIENT_MAX} shapes")
        try:
            job = self.jobs.of(client.id)
            runtime = of_job(runtime_of(message.runtime), job)
            self.pool.environments.define(runtime, message.runtime, job)
            placement = placement_of(message.placement)
        except ValueError as error:
            raise Malformed(str(error)) from None
        label = step.emit.intern(message.name or describe(message.resources))
        self.scheduler.define(
            step, client.id, message.shape, message.name, message.resources, runtime, label, placement, message
        )

    def _lease_request(self, step: Step, client: Client, message: m.LeaseRequest) -> None:
        try:
            self.delegation.request(step, client.id, message.shape, message.wanted, message.backlog)
        except KeyError:
            raise Malformed(f"shape {message.shape} was never defined") from None

    def _lease_return(self, step: Step, client: Client, message: m.LeaseReturn) -> None:
        reason = Reason(message.reason) if message.reason in _REASONS else Reason.NONE
        try:
            self.scheduler.return_lease(step, client.id, message.lease, message.tasks, reason, message.dispose)
        except KeyError:
            # Its worker died while the message was under way; the lease is over either way.
            pass

    def _kill_worker(self, step: Step, client: Client, message: m.KillWorker) -> None:
        lease = self.scheduler.leases.get(message.lease)
        if lease is not None and lease.demand.client == client.id and lease.worker.id == message.worker:
            self.pool.kill(
                step, lease.worker, DeathCause.KILLED_BY_REQUEST, "the owner of its task cancelled it by force"
            )

    # --- objects and actors ------------------------------------------------------------------------------

    def _create_object(self, step: Step, client: Client, message: m.CreateObject) -> None:
        if not self.sharing.may_create(message.object):
            detail = f"the owner of {short(message.object)} is gone, so nobody could ever free it"
            step.send(client.id, m.ObjectRefused(message.request, "unknown", detail))
            return
        self.objects.create(step, client.id, message.request, message.object, message.size)

    def _create_actor(self, step: Step, client: Client, message: m.CreateActor) -> None:
        try:
            self.actors.create(step, client.id, message.request, message.spec, self.jobs.of(client.id))
        except (KeyError, TypeError, ValueError) as error:
            raise Malformed(f"CreateActor: {error!r}") from None

    def _join_actors(self) -> None:
        """Have what other nodes say of actors, and what becomes of the nodes, reach those that it concerns."""
        self.abroad.handlers |= {
            m.WantActor: self.guests.want,
            m.WithdrawActor: self.guests.withdraw,
            m.EndWorker: self.guests.end_worker,
            m.ActorPlaced: self.actors.peer_placed,
        }
        self.abroad.on_linked.append(self.distant.node_linked)
        self.abroad.on_lost.append(self._node_lost)
        self.abroad.on_died += [self.actors.node_died, self.distant.node_died]

    def keeper(self, actor: bytes) -> ActorTable | GuestTable:
        """Who knows what to do with a worker for an actor: it is at home here, or a guest."""
        return self.actors if actor in self.actors.actors else self.guests

    def _node_lost(self, step: Step, peer: Peer, detail: str) -> None:
        self.actors.node_lost(step, peer, detail)
        self.guests.home_lost(step, peer.id, detail)
        self.distant.node_lost(peer)

    def _lives(self, client: bytes) -> bool:
        """Whether a process may still say something: one of this node, or of one whose processes all may."""
        peer = self.peers.home_of(client)
        return client in self.clients if peer is None else peer.linked

    def _actor_failed(self, step: Step, client: Client, message: m.ActorFailed) -> None:
        self.actors.failed(step, client.id, message.actor, message.error, message.intended)

    def _kill_actor(self, step: Step, client: Client, message: m.KillActor) -> None:
        self.actors.kill(step, message.actor, message.restart, message.graceful)

    def name_answered(self, step: Step, actor: bytes, error: str, kind: str) -> None:
        """The control store has said whether an actor may have its name (``ReserveName``)."""
        self.actors.name_answered(step, actor, error, kind)
        self.look(step)

    def check_invariants(self) -> None:
        """Raise InvariantViolated if any machine's books do not balance."""
        self.resources.check_invariants()
        self.pool.check_invariants()
        self.scheduler.check_invariants()
        self.gpus.check_invariants()
        self.objects.check_invariants()
        self.actors.check_invariants()
        self.guests.check_invariants()
        self.distant.check_invariants()
        self.peers.check_invariants()
        self.delegation.check_invariants()
        self.sharing.check_invariants()
        self.moving.check_invariants()
