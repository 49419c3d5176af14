"""Machine: the actors at home here: who they are, where they run, when they start again, and who is told.

An actor waits for a worker like any other demand, here or at another node (``delegation.py``), becomes that worker, and
ends with it. Its process may die ``restarts_max`` times before the actor does. Names belong to living actors only; in a
cluster the control store says who gets one.

Invariants: an actor has a worker only while it is placed (PENDING_CREATION or RESTARTING with a worker, ALIVE); it
waits in the scheduler or at another node, or rests before that, exactly while it has none and is not DEAD; a name leads
to an actor that is not DEAD.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from obsray.core.node.actor import TEXT_CHARACTERS_MAX, Actor
from obsray.core.node.delegation import Delegation
from obsray.core.node.demands import Demand, Lease
from obsray.core.node.names import NameTable
from obsray.core.node.peers import Peer, PeerTable
from obsray.core.node.resources import GPU
from obsray.core.node.scheduler import Scheduler
from obsray.core.node.step import RemoveCheckpoints, Report, Step, require
from obsray.core.node.workers import Death, WorkerPool
from obsray.core.protocol.lifecycle import ActorState, advance
from obsray.core.protocol.messages import (
    CONSTRUCTOR_RAISED,
    ActorChanged,
    ActorPlaced,
    EndWorker,
    Reply,
    StartActor,
    WithdrawActor,
    WorkerDied,
)
from obsray.ids import NIL_TASK, NIL_WORKER, mark_of, mark_of_node, owner_of
from obsray.telemetry.events import DeathCause

#: The dead are remembered, so that late callers learn why; beyond this the oldest are forgotten.
DEAD_REMEMBERED_MAX = 10_000
#: Of so many more it is known that nobody need wait for them.
FORGOTTEN_REMEMBERED_MAX = 1_000_000
#: An actor whose process keeps dying in its constructor waits before it starts again: twice as long each time.
RESTART_SECONDS = 0.1
RESTART_SECONDS_MAX = 10.0
#: A node that refused an actor is not asked again before this.
REFUSED_SECONDS = 0.2
#: Why an actor has ended that nobody can call any more.
NO_HANDLE = "no handle to the actor was left"
_LAST_LINES = "; the last lines of its log:\n"
_FINAL = (DeathCause.INTENDED, DeathCause.PLACEMENT_REMOVED)

#: A process whose owner is gone, and with it anybody who could use what it still does, gets so long to hand over what
#: CUPTI recorded of its GPUs. One in the middle of a call cannot end in order: its own thread hands over meanwhile.
HAND_OVER_SECONDS = 0.5


class ActorTable:
    """The actors at home at this node."""

    def __init__(
        self, node: bytes, scheduler: Scheduler, pool: WorkerPool, socket_directory: str, delegation: Delegation,
        peers: PeerTable,
    ) -> None:  # fmt: skip
        self.node = node
        self.actors: dict[bytes, Actor] = {}
        self.names = NameTable(peers)
        self.by_worker: dict[bytes, Actor] = {}
        #: Actors that clients ask for before their owner has created them -> who asks.
        self.awaited: dict[bytes, dict[bytes, None]] = {}
        #: Actors that their owner never created -> what to tell about them. Dead ones that were forgotten -> nothing.
        self.unborn: dict[bytes, tuple[DeathCause, bytes, str] | None] = {}
        self._scheduler = scheduler
        self._pool = pool
        self._socket_directory = socket_directory
        self._delegation = delegation
        self._peers = peers
        self._dead: deque[bytes] = deque()
        #: Actors that wait before they start again -> until when.
        self.resting: dict[bytes, float] = {}
        delegation.send_actor = self._ask_node
        delegation.recall_actor = self._recall

    # --- birth -------------------------------------------------------------------------------------------

    def create(self, step: Step, client: bytes, request: int, spec: dict[str, Any], job: int = 0) -> None:
        """Register an actor and look for a worker. Raises KeyError, TypeError or ValueError for a malformed spec."""
        actor = Actor.read(client, spec, job, step.now)
        actor.label = step.emit.intern(actor.shown)
        self._pool.environments.define(actor.runtime, spec["runtime"], job)
        if actor.id in self.names.asked:
            # Its node says it again after a break of the link; the answer comes.
            return
        known = self.actors.get(actor.id)
        if known is None:
            if not actor.name or self.names.take(step, actor, request):
                self._register(step, actor, request)
        elif known.detached and known.owner == client:
            # As above, and it had been heard the first time.
            known.watchers[client] = None
            step.send(client, Reply(request, None))
            step.send(client, self._news(known, client))
        else:
            step.send(client, Reply(request, None, "an actor with this id exists", "duplicate"))

    def name_answered(self, step: Step, actor_id: bytes, error: str, kind: str) -> None:
        """The control store has said whether an actor may have its name."""
        asked = self.names.answered(step, actor_id, error, kind)
        if asked is not None:
            self._register(step, asked.actor, asked.request)
            if asked.orphaned:
                self._die(step, asked.actor, DeathCause.OWNER_DIED, "its owner ended")

    def _register(self, step: Step, actor: Actor, request: int) -> None:
        client, spec = actor.owner, actor.spec
        self.actors[actor.id] = actor
        intern = step.emit.intern
        step.emit.actor_created(
            step.time_ns, actor.id, spec["task"], intern(actor.class_name), intern(actor.name), intern(actor.namespace),
            actor.label, actor.restarts_max, actor.detached, spec["job"] & 0xFFFFFFFF,
            actor.placement.group or NIL_TASK,
        )  # fmt: skip
        step.send(client, Reply(request, None))
        # Whoever creates an actor wants to know where it is.
        actor.watchers[client] = None
        actor.watchers |= self.awaited.pop(actor.id, {})
        advance(actor, ActorState.PENDING_CREATION)
        step.effects += [Report(spec), Report(self._news(actor))]
        end = self.unborn.pop(actor.id, None)
        if end is None:
            self._look_for_worker(step, actor)
        else:
            self._die(step, actor, end[0], end[2], end[1])

    def _look_for_worker(self, step: Step, actor: Actor) -> None:
        actor.waiting_since = step.now
        kind, why = self._scheduler.refusal(actor.placement, actor.need)
        if kind:
            self._refused(step, actor, kind, why)
        else:
            self._delegation.want_actor(step, actor.demand())

    def _refused(self, step: Step, actor: Actor, kind: str, why: str) -> None:
        cause = DeathCause.PLACEMENT_REMOVED if kind == "group_removed" else DeathCause.UNSCHEDULABLE
        self._die(step, actor, cause, why)

    # --- a worker ----------------------------------------------------------------------------------------

    def placed(self, step: Step, lease: Lease) -> None:
        """The scheduler found a worker: it shall become the actor."""
        self._become(step, self.actors[lease.demand.actor], self.node, lease.worker.id, lease.key, lease.devices)

    def _become(
        self, step: Step, actor: Actor, node: bytes, worker: bytes, lease: int, devices: dict[str, list[int]]
    ) -> None:
        actor.worker, actor.lease, actor.placed_at = worker, lease, step.now
        self.by_worker[worker] = actor
        step.emit.actor_placed(
            step.time_ns, actor.id, worker, node, step.now - actor.waiting_since, actor.incarnation & 0xFFFF
        )
        spec = actor.spec
        if node != self.node and spec.get("checkpoint") is not None:
            # What it saves is kept here, so that it outlives that node.
            spec = {**spec, "checkpoint": {**spec["checkpoint"], "distant": True}}
        step.send(worker, StartActor(spec, actor.incarnation, devices))

    def _ask_node(self, step: Step, demand: Demand, peer: Peer) -> None:
        """The actor's worker shall be found by another node."""
        actor = self.actors[demand.actor]
        actor.asked = peer.id
        actor.attempt += 1
        step.tell_node(peer.id, actor.wanted())

    def _recall(self, step: Step, actor_id: bytes, node: bytes) -> None:
        """The other node shall look no longer. It answers, and may have found one before."""
        step.tell_node(node, WithdrawActor(actor_id, self.actors[actor_id].attempt))

    def peer_placed(self, step: Step, peer: Peer, message: ActorPlaced) -> None:
        """A node that was asked has found a worker, or has none."""
        actor = self.actors.get(message.actor)
        if actor is None or (actor.asked, actor.attempt) != (peer.id, message.attempt):
            if message.worker != NIL_WORKER:
                why = "the actor does not need it any more"
                step.tell_node(peer.id, EndWorker(message.worker, DeathCause.KILLED_BY_REQUEST, why, False, False))
            return
        demand, actor.asked = self._delegation.actor_settled(actor.id), b""
        if message.worker != NIL_WORKER:
            self._become(step, actor, peer.id, message.worker, message.lease, message.devices)
        elif message.kind == "environment":
            self.environment_failed(step, actor.id, message.detail)
        elif message.kind or demand is None:
            # What this node knows of the group or of the other node may be newer: look again, but not at once.
            self._rest(step, actor, REFUSED_SECONDS)
        else:
            self._scheduler.want_actor(step, demand)

    def ready(self, step: Step, client: bytes, actor_id: bytes, pid: int) -> None:
        """The constructor returned; nothing happens unless it comes from the actor's own worker."""
        actor = self.by_worker.get(client)
        if actor is None or actor.id != actor_id or actor.state in (ActorState.ALIVE, ActorState.DEAD):
            return
        advance(actor, ActorState.ALIVE)
        actor.lived, actor.failures = True, 0
        step.emit.actor_alive(
            step.time_ns, actor.id, actor.worker, actor.incarnation & 0xFFFF, step.now - actor.placed_at,
            pid & 0xFFFFFFFF,
        )  # fmt: skip
        self._tell(step, actor)

    # --- death -------------------------------------------------------------------------------------------

    def failed(self, step: Step, client: bytes, actor_id: bytes, error: bytes, intended: bool) -> None:
        """The constructor raised, or the actor asked to exit: either way it does not start again."""
        actor = self.by_worker.get(client)
        if actor is None or actor.id != actor_id or actor.state is ActorState.DEAD:
            if owner_of(actor_id) == client and actor_id not in self.actors:
                detail = (
                    "nobody wanted it before it was created" if intended else "an argument of its constructor failed"
                )
                self._never_born(
                    step, actor_id, DeathCause.INTENDED if intended else DeathCause.START_FAILED, error, detail
                )
            return
        cause = DeathCause.INTENDED if intended else DeathCause.START_FAILED
        detail = "the actor asked to exit (exit_actor())" if intended else CONSTRUCTOR_RAISED
        self._die(step, actor, cause, detail, error)
        self._end_worker(step, client, DeathCause.INTENDED, detail, graceful=True)

    def gave_up(self, step: Step, client: bytes, actor_id: bytes, error: bytes, detail: str) -> None:
        """The actor's state could not be saved or restored: starting it again would not make it better."""
        actor = self.by_worker.get(client)
        if actor is None or actor.id != actor_id or actor.state is ActorState.DEAD:
            return
        self._die(step, actor, DeathCause.GAVE_UP, detail, error)
        self._end_worker(step, client, DeathCause.INTENDED, detail, graceful=True)

    def _end_worker(
        self, step: Step, worker_id: bytes, cause: DeathCause, why: str, graceful: bool = False, patient: bool = False,
        hands_over: bool = False,
    ) -> None:  # fmt: skip
        """End the process of an actor, here or elsewhere. ``graceful`` and ``patient`` as in ``EndWorker``;
        ``hands_over``: it gets only as long as handing over what it recorded of its GPUs may take."""
        worker = self._pool.workers.get(worker_id)
        peer = self._peers.home_of(worker_id) if worker is None else None
        if peer is not None:
            step.tell_node(peer.id, EndWorker(worker_id, cause, why, graceful, patient))
        elif worker is not None and graceful:
            self._pool.retire(step, worker, cause, why, patient, HAND_OVER_SECONDS if hands_over else None)
        elif worker is not None:
            self._pool.kill(step, worker, cause, why)

    def _never_born(self, step: Step, actor_id: bytes, cause: DeathCause, error: bytes, detail: str) -> None:
        self._remember(actor_id, (cause, error, detail))
        for client in self.awaited.pop(actor_id, {}):
            step.send(client, ActorChanged(actor_id, ActorState.DEAD, 0, NIL_WORKER, "", cause, error, detail))

    def _remember(self, actor_id: bytes, what: tuple[DeathCause, bytes, str] | None) -> None:
        self.unborn[actor_id] = what
        if len(self.unborn) > FORGOTTEN_REMEMBERED_MAX:
            del self.unborn[next(iter(self.unborn))]

    def worker_ended(self, step: Step, death: Death, tail: str) -> None:
        """A process of this node is gone; its lease has ended already."""
        how = f"its process (pid {death.worker.pid}) died: {death.detail}"
        self._process_ended(step, death.worker.id, death.cause, how, tail)

    def peer_worker_died(self, step: Step, death: WorkerDied) -> None:
        """A process of another node is gone: the worker of an actor, or the owner of one that it never created."""
        for actor_id in [each for each in self.awaited if owner_of(each) == death.worker]:
            self._never_born(step, actor_id, DeathCause.OWNER_DIED, b"", "its owner ended before it was created")
        try:
            cause = DeathCause(death.cause)
        except ValueError:
            cause = DeathCause.UNKNOWN
        how = f"its process (pid {death.pid} on {self._name_of(death.worker)}) died: {death.detail}"
        self._process_ended(step, death.worker, cause, how, death.tail)

    def node_lost(self, step: Step, peer: Peer, detail: str) -> None:
        """A node is gone, and with it the processes of actors that ran there."""
        for actor in self.actors.values():
            if actor.asked == peer.id:
                # Delegation has its demand, and looks again.
                actor.asked = b""
        for worker in [worker for worker in self.by_worker if mark_of(worker) == mark_of_node(peer.id)]:
            self._process_ended(step, worker, DeathCause.NODE_DIED, f"its process died with its node: {detail}", "")

    def node_died(self, step: Step, peer: Peer) -> None:
        """A node will never come back: actors that may run nowhere else are dead."""
        for actor in list(self.actors.values()):
            placement = actor.placement
            if placement.node == peer.id and not placement.soft and actor.state is not ActorState.DEAD:
                self._refused(step, actor, *self._scheduler.refusal(placement, actor.need))

    def _name_of(self, worker: bytes) -> str:
        peer = self._peers.home_of(worker)
        return "this node" if peer is None else f"node {peer.facts.name or peer.id.hex()}"

    def _process_ended(self, step: Step, worker: bytes, cause: DeathCause, detail: str, tail: str) -> None:
        actor = self.by_worker.pop(worker, None)
        if actor is None or actor.state is ActorState.DEAD:
            return
        if tail and cause not in (DeathCause.INTENDED, DeathCause.KILLED_BY_REQUEST):
            detail += _LAST_LINES + tail
        may_restart = actor.restarts_max < 0 or actor.incarnation < actor.restarts_max
        if actor.leaving or cause in _FINAL or not may_restart:
            self._die(step, actor, cause, detail)
            return
        actor.failures += actor.state is not ActorState.ALIVE
        seconds = self._rest_seconds(actor.failures)
        if seconds:
            detail = f"it starts again in {seconds:g} s; {detail}"
        actor.incarnation += 1
        actor.worker, actor.lease = NIL_WORKER, 0
        actor.cause, actor.detail = cause, detail
        advance(actor, ActorState.RESTARTING)
        step.emit.actor_restarting(
            step.time_ns, actor.id, worker, actor.incarnation & 0xFFFF, cause,
            step.emit.intern(detail[:TEXT_CHARACTERS_MAX]),
        )  # fmt: skip
        self._tell(step, actor)
        if seconds:
            self._rest(step, actor, seconds)
        else:
            self._look_for_worker(step, actor)

    def _rest_seconds(self, failures: int) -> float:
        # The first failure may be an accident.
        return min(RESTART_SECONDS_MAX, RESTART_SECONDS * 2 ** min(failures - 2, 30)) if failures > 1 else 0.0

    def _rest(self, step: Step, actor: Actor, seconds: float) -> None:
        self.resting[actor.id] = step.now + seconds
        step.wake(step.now + seconds)

    def tick(self, step: Step) -> None:
        """Actors that have waited long enough start again."""
        for actor_id, until in list(self.resting.items()):
            if until <= step.now:
                del self.resting[actor_id]
                self._look_for_worker(step, self.actors[actor_id])
            else:
                step.wake(until)

    def kill(self, step: Step, actor_id: bytes, restart: bool, graceful: bool) -> None:
        """End the actor's process; ``restart`` uses up one restart, otherwise it is the end of the actor.

        ``graceful``: because no handle to it is left.
        """
        actor = self.actors.get(actor_id)
        if actor is None and actor_id not in self.unborn and not restart:
            # Its owner still waits for an argument of its constructor, or for its name.
            if graceful:
                self._never_born(step, actor_id, DeathCause.INTENDED, b"", NO_HANDLE)
            else:
                why = "it was ended by kill() before it was created"
                self._never_born(step, actor_id, DeathCause.KILLED_BY_REQUEST, b"", why)
        if actor is None or actor.state is ActorState.DEAD:
            return
        worker = actor.worker
        if graceful and worker != NIL_WORKER:
            # It ends after the calls already made, however long they take; then it says goodbye.
            actor.leaving = actor.leaving or not restart
            self._end_worker(step, worker, DeathCause.KILLED_BY_REQUEST, NO_HANDLE, graceful=True, patient=True)
            return
        if graceful:
            self._die(step, actor, DeathCause.INTENDED, NO_HANDLE)
        elif not restart:
            said = f"its process{self._where(worker)} was ended by kill()"
            self._die(step, actor, DeathCause.KILLED_BY_REQUEST, said)
        if worker != NIL_WORKER:
            self._end_worker(step, worker, DeathCause.KILLED_BY_REQUEST, "the actor was killed")

    def _where(self, worker: bytes) -> str:
        known = self._pool.workers.get(worker)
        if known is not None:
            return f" (pid {known.pid})"
        return f" (on {self._name_of(worker)})" if worker != NIL_WORKER else ""

    def group_removed(self, step: Step, group: bytes, why: str) -> None:
        """The actors of a placement group end with it; their processes are the scheduler's to name."""
        for actor in list(self.actors.values()):
            if actor.placement.group == group and actor.state is not ActorState.DEAD:
                self._die(step, actor, DeathCause.PLACEMENT_REMOVED, why)

    def detached_workers(self) -> set[bytes]:
        """The processes of detached actors."""
        return {worker for worker, actor in self.by_worker.items() if actor.detached}

    def workers_of(self, client: bytes) -> set[bytes]:
        """The processes of actors that a client owns."""
        return {worker for worker, actor in self.by_worker.items() if actor.owner == client}

    def job_ended(self, step: Step, job: int, stay: set[bytes]) -> None:
        """The driver of a job is gone: its actors end, but for detached ones and those owned by processes that stay."""
        for actor in list(self.actors.values()):
            if actor.state is ActorState.DEAD or actor.detached or actor.spec["job"] != job or actor.owner in stay:
                continue
            worker, gpus = actor.worker, _owns_gpus(actor)
            self._die(step, actor, DeathCause.OWNER_DIED, "the driver of its job ended")
            self._end_worker(
                step, worker, DeathCause.OWNER_DIED, "the driver of the actor's job ended", gpus, hands_over=gpus
            )

    def client_gone(self, step: Step, client: bytes) -> None:
        """Watches end; actors that the client owned end with it unless they are detached."""
        self.names.client_gone(client)
        for actor_id, clients in list(self.awaited.items()):
            clients.pop(client, None)
            if owner_of(actor_id) == client:
                self._never_born(step, actor_id, DeathCause.OWNER_DIED, b"", "its owner ended before it was created")
            elif not clients:
                del self.awaited[actor_id]
        for actor in list(self.actors.values()):
            actor.watchers.pop(client, None)
            if actor.owner == client and not actor.detached and actor.state is not ActorState.DEAD:
                worker, gpus = actor.worker, _owns_gpus(actor)
                self._die(step, actor, DeathCause.OWNER_DIED, "its owner ended")
                self._end_worker(
                    step, worker, DeathCause.OWNER_DIED, "the owner of the actor ended", gpus, hands_over=gpus
                )

    def _die(self, step: Step, actor: Actor, cause: DeathCause, detail: str, error: bytes = b"") -> None:
        self._stop_waiting(step, actor)
        if not actor.lived:
            detail = f"it never ran; {detail}"
        if actor.name:
            said, last_lines, tail = detail.partition(_LAST_LINES)
            detail = f"{said}{actor.called}{last_lines}{tail}"
        worker, actor.worker, actor.lease = actor.worker, NIL_WORKER, 0
        actor.cause, actor.detail, actor.error = cause, detail, error
        advance(actor, ActorState.DEAD)
        self.names.give_back(actor)
        if actor.spec.get("checkpoint") is not None:
            step.effects.append(RemoveCheckpoints(actor.id))
        # Code and arguments are not needed any more; what is kept is small.
        actor.spec = {}
        step.emit.actor_died(
            step.time_ns, actor.id, worker, actor.incarnation & 0xFFFF, cause, step.emit.intern(actor.class_name),
            step.emit.intern(detail[:TEXT_CHARACTERS_MAX]),
        )  # fmt: skip
        self._tell(step, actor)
        self._dead.append(actor.id)
        if len(self._dead) > DEAD_REMEMBERED_MAX:
            forgotten = self._dead.popleft()
            self.actors.pop(forgotten, None)
            self._remember(forgotten, None)

    def _stop_waiting(self, step: Step, actor: Actor) -> None:
        """It looks for no worker any more, neither here nor elsewhere."""
        if actor.asked:
            self._recall(step, actor.id, actor.asked)
            self._delegation.actor_settled(actor.id)
            actor.asked = b""
        elif self.resting.pop(actor.id, None) is None and not actor.lease:
            self._scheduler.withdraw_actor(step, actor.id)

    def environment_failed(self, step: Step, actor_id: bytes, error: str) -> None:
        """What the actor's process must be cannot be made."""
        actor = self.actors[actor_id]
        self._die(step, actor, DeathCause.ENVIRONMENT_FAILED, f"its environment cannot be made: {error}")

    def unplaceable(self, step: Step, actor_id: bytes, cause: DeathCause, why: str) -> None:
        """What has become known of where it shall be says that it can never run there."""
        actor = self.actors.get(actor_id)
        if actor is not None and actor.state is not ActorState.DEAD:
            self._die(step, actor, cause, why)

    # --- telling -----------------------------------------------------------------------------------------

    def watch(self, step: Step, client: bytes, actor_id: bytes, owner_lives: bool) -> None:
        """Tell the client where the actor is now and whenever that changes, also if it is still to be created."""
        actor = self.actors.get(actor_id)
        if actor is None:
            if owner_lives and actor_id not in self.unborn:
                self.awaited.setdefault(actor_id, {})[client] = None
                return
            unknown = "this node knows no such actor (it died long ago, or never was)"
            cause, error, detail = self.unborn.get(actor_id) or (DeathCause.INTENDED, b"", unknown)
            step.send(client, ActorChanged(actor_id, ActorState.DEAD, 0, NIL_WORKER, "", cause, error, detail))
            return
        actor.watchers[client] = None
        step.send(client, self._news(actor, client))

    def _tell(self, step: Step, actor: Actor) -> None:
        for client in actor.watchers:
            step.send(client, self._news(actor, client))
        step.effects.append(Report(self._news(actor)))

    def _news(self, actor: Actor, client: bytes = b"") -> ActorChanged:
        """What the actor is now, for one client or (b"") for the whole cluster."""
        alive = actor.state is ActorState.ALIVE
        return ActorChanged(
            actor.id, actor.state, actor.incarnation, actor.worker if alive else NIL_WORKER,
            self._path(actor.worker, client) if alive else "", actor.cause, actor.error, actor.detail,
        )  # fmt: skip

    def _path(self, worker: bytes, client: bytes) -> str:
        """Where a client reaches a worker; empty if it has to go by the mark of the worker's id."""
        peer = self._peers.home_of(worker)
        if peer is not None:
            return "" if client and mark_of(client) == mark_of(worker) else peer.facts.address
        if client and self._peers.home_of(client) is not None:
            return ""
        return f"{self._socket_directory}/{worker.hex()}.sock"

    def check_invariants(self) -> None:
        for actor_id, clients in self.awaited.items():
            require(bool(clients), "nobody awaits an actor")
            require(actor_id not in self.actors and actor_id not in self.unborn, "an awaited actor is known")
        for actor in self.actors.values():
            away = self._delegation.actors_away.get(actor.id)
            require((away is not None) == bool(actor.asked), f"{actor.id.hex()}: asked {actor.asked!r}, away {away}")
            waits = (actor.id in self._scheduler.actor_demands) + (actor.id in self.resting) + bool(actor.asked)
            placed = actor.worker != NIL_WORKER
            dead = actor.state is ActorState.DEAD
            require(waits + placed + dead == 1, f"{actor.id.hex()}: waits {waits}, placed {placed}, {actor.state.name}")
            require(not placed or self.by_worker[actor.worker] is actor, "a worker that does not know its actor")
            require(actor.state is not ActorState.ALIVE or placed, "alive nowhere")
        self.names.check_invariants()


def _owns_gpus(actor: Actor) -> bool:
    return bool(actor.spec.get("held", {}).get(GPU))
