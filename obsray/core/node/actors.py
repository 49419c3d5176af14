"""Actors: who they are, where they run, when they start again, and who is told.

An actor waits for a worker like any other demand, becomes that worker, and ends with it. Its process may die
``restarts_max`` times before the actor does. Names belong to living actors only.

Invariants: an actor has a worker only while it is placed (PENDING_CREATION or RESTARTING with a worker, ALIVE); it
waits in the scheduler, or rests before that, exactly while it has none and is not DEAD; a name leads to an actor that
is not DEAD.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from obsray.core.node.demands import Demand, Lease, describe
from obsray.core.node.environments import Runtime, of_job, runtime_of
from obsray.core.node.placement import Placement, placement_of
from obsray.core.node.resources import Amounts, amounts_of
from obsray.core.node.scheduler import Scheduler
from obsray.core.node.step import RemoveCheckpoints, Report, Step, require
from obsray.core.node.workers import Death, WorkerPool
from obsray.core.protocol.environment_key import environment_id
from obsray.core.protocol.lifecycle import ActorState, advance
from obsray.core.protocol.messages import ActorChanged, Reply, StartActor, WorkerDied
from obsray.ids import NIL_TASK, NIL_WORKER, owner_of
from obsray.telemetry.events import DeathCause

#: The dead are remembered, so that late callers learn why; beyond this the oldest are forgotten.
DEAD_REMEMBERED_MAX = 10_000
#: Of so many more it is known that nobody need wait for them.
FORGOTTEN_REMEMBERED_MAX = 1_000_000
TEXT_CHARACTERS_MAX = 500
#: An actor whose process keeps dying in its constructor waits before it starts again: twice as long each time.
RESTART_SECONDS = 0.1
RESTART_SECONDS_MAX = 10.0
_LAST_LINES = "; the last lines of its log:\n"


@dataclass(slots=True, eq=False)
class Actor:
    """One actor. ``cause``, ``error`` and ``detail`` say why it died last."""

    id: bytes
    owner: bytes
    spec: dict[str, Any]
    class_name: str
    name: str
    namespace: str
    detached: bool
    restarts_max: int
    need: Amounts
    hold: Amounts
    runtime: Runtime
    label: int
    waiting_since: float
    placement: Placement
    state: ActorState = ActorState.DEPENDENCIES_UNREADY
    incarnation: int = 0
    worker: bytes = NIL_WORKER
    lease: int = 0
    placed_at: float = 0.0
    watchers: dict[bytes, None] = field(default_factory=dict)
    leaving: bool = False
    #: Whether its constructor has ever returned.
    lived: bool = False
    #: Processes in a row that ended before the constructor had returned.
    failures: int = 0
    cause: DeathCause = DeathCause.INTENDED
    error: bytes = b""
    detail: str = ""


class ActorTable:
    """The actors of this node."""

    def __init__(self, node: bytes, scheduler: Scheduler, pool: WorkerPool, socket_directory: str) -> None:
        self.node = node
        self.actors: dict[bytes, Actor] = {}
        self.names: dict[tuple[str, str], Actor] = {}
        self.by_worker: dict[bytes, Actor] = {}
        #: Actors that clients ask for before their owner has created them -> who asks.
        self.awaited: dict[bytes, dict[bytes, None]] = {}
        #: Actors that their owner never created -> what to tell about them. Dead ones that were forgotten -> nothing.
        self.unborn: dict[bytes, tuple[DeathCause, bytes, str] | None] = {}
        self._scheduler = scheduler
        self._pool = pool
        self._socket_directory = socket_directory
        self._dead: deque[bytes] = deque()
        #: Actors that wait before they start again -> until when.
        self.resting: dict[bytes, float] = {}

    # --- birth -------------------------------------------------------------------------------------------

    def create(self, step: Step, client: bytes, request: int, spec: dict[str, Any], job: int = 0) -> None:
        """Register an actor and look for a worker. Raises KeyError, TypeError or ValueError for a malformed spec."""
        actor = self._read(step, client, spec)
        actor.runtime = of_job(actor.runtime, job)
        self._pool.environments.define(actor.runtime, spec["runtime"], job)
        key = (actor.namespace, actor.name)
        if actor.id in self.actors:
            step.send(client, Reply(request, None, "an actor with this id exists", "duplicate"))
            return
        if actor.name and key in self.names:
            where = f" in namespace {actor.namespace!r}" if actor.namespace else ""
            step.send(client, Reply(request, None, f"the name {actor.name!r} is taken{where}", "name_taken"))
            return
        self.actors[actor.id] = actor
        if actor.name:
            self.names[key] = actor
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

    def _read(self, step: Step, client: bytes, spec: dict[str, Any]) -> Actor:
        class_name, restarts_max = str(spec["class_name"])[:TEXT_CHARACTERS_MAX], int(spec["restarts_max"])
        for name, kind in (("actor", bytes), ("task", bytes), ("job", int), ("resources", dict), ("held", dict)):
            if not isinstance(spec[name], kind):
                raise TypeError(f"{name} is not {kind.__name__}")
        if len(spec["actor"]) != 16 or len(spec["task"]) != 16:
            raise ValueError("an id of the wrong size")
        # Placed where all of ``resources`` is free; what it keeps cannot be more than that.
        hold = amounts_of(spec["held"])
        need = {**hold, **{name: max(n, hold.get(name, 0)) for name, n in amounts_of(spec["resources"]).items()}}
        runtime = runtime_of(spec["runtime"])
        made = f"env:{environment_id(runtime.key).hex()}" if runtime.key else ""
        where = str(spec.get("where", ""))[:TEXT_CHARACTERS_MAX].strip()
        label = step.emit.intern(" ".join(filter(None, (class_name, describe(need), made, where))))
        return Actor(
            spec["actor"], client, spec, class_name, str(spec["name"]), str(spec["namespace"]), bool(spec["detached"]),
            max(-1, min(restarts_max, 0x7FFFFFFF)), need, hold, runtime, label, step.now,
            placement_of(spec.get("placement")),
        )  # fmt: skip

    def _look_for_worker(self, step: Step, actor: Actor) -> None:
        actor.waiting_since = step.now
        kind, why = self._scheduler.refusal(actor.placement, actor.need)
        if kind:
            cause = DeathCause.PLACEMENT_REMOVED if kind == "group_removed" else DeathCause.UNSCHEDULABLE
            self._die(step, actor, cause, why)
            return
        demand = Demand(
            actor.owner, -1, actor.class_name, actor.need, actor.hold, actor.runtime, actor=actor.id, label=actor.label,
            placement=actor.placement,
        )  # fmt: skip
        self._scheduler.want_actor(step, demand)

    def placed(self, step: Step, lease: Lease) -> None:
        """The scheduler found a worker: it shall become the actor."""
        actor = self.actors[lease.demand.actor]
        actor.worker, actor.lease, actor.placed_at = lease.worker.id, lease.key, step.now
        self.by_worker[actor.worker] = actor
        step.emit.actor_placed(
            step.time_ns, actor.id, actor.worker, self.node, step.now - actor.waiting_since, actor.incarnation & 0xFFFF
        )
        step.send(actor.worker, StartActor(actor.spec, actor.incarnation, lease.devices))

    def ready(self, step: Step, client: bytes, actor_id: bytes) -> None:
        """The constructor returned; nothing happens unless it comes from the actor's own worker."""
        actor = self.by_worker.get(client)
        if actor is None or actor.id != actor_id or actor.state in (ActorState.ALIVE, ActorState.DEAD):
            return
        advance(actor, ActorState.ALIVE)
        actor.lived, actor.failures = True, 0
        step.emit.actor_alive(
            step.time_ns, actor.id, actor.worker, actor.incarnation & 0xFFFF, step.now - actor.placed_at
        )
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
        detail = "the actor asked to exit" if intended else "its constructor raised"
        self._die(step, actor, cause, detail, error)
        worker = self._pool.workers.get(client)
        if worker is not None:
            self._pool.retire(step, worker, DeathCause.INTENDED, detail)

    def gave_up(self, step: Step, client: bytes, actor_id: bytes, error: bytes, detail: str) -> None:
        """The actor's state could not be saved or restored: starting it again would not make it better."""
        actor = self.by_worker.get(client)
        if actor is None or actor.id != actor_id or actor.state is ActorState.DEAD:
            return
        self._die(step, actor, DeathCause.GAVE_UP, detail, error)
        worker = self._pool.workers.get(client)
        if worker is not None:
            self._pool.retire(step, worker, DeathCause.INTENDED, detail)

    def _never_born(self, step: Step, actor_id: bytes, cause: DeathCause, error: bytes, detail: str) -> None:
        self._remember(actor_id, (cause, error, detail))
        for client in self.awaited.pop(actor_id, {}):
            step.send(client, ActorChanged(actor_id, ActorState.DEAD, 0, NIL_WORKER, "", cause, error, detail))

    def _remember(self, actor_id: bytes, what: tuple[DeathCause, bytes, str] | None) -> None:
        self.unborn[actor_id] = what
        if len(self.unborn) > FORGOTTEN_REMEMBERED_MAX:
            del self.unborn[next(iter(self.unborn))]

    def worker_ended(self, step: Step, death: Death, tail: str) -> None:
        """The process is gone; its lease has ended already."""
        actor = self.by_worker.pop(death.worker.id, None)
        if actor is None or actor.state is ActorState.DEAD:
            return
        detail = f"its process (pid {death.worker.pid}) died: {death.detail}"
        if tail and death.cause not in (DeathCause.INTENDED, DeathCause.KILLED_BY_REQUEST):
            detail += _LAST_LINES + tail
        may_restart = actor.restarts_max < 0 or actor.incarnation < actor.restarts_max
        if actor.leaving or death.cause is DeathCause.INTENDED or not may_restart:
            self._die(step, actor, death.cause, detail)
            return
        actor.failures += actor.state is not ActorState.ALIVE
        seconds = self._rest_seconds(actor.failures)
        if seconds:
            detail = f"it starts again in {seconds:g} s; {detail}"
        actor.incarnation += 1
        actor.worker, actor.lease = NIL_WORKER, 0
        actor.cause, actor.detail = death.cause, detail
        advance(actor, ActorState.RESTARTING)
        step.emit.actor_restarting(
            step.time_ns, actor.id, death.worker.id, actor.incarnation & 0xFFFF, death.cause,
            step.emit.intern(detail[:TEXT_CHARACTERS_MAX]),
        )  # fmt: skip
        self._tell(step, actor)
        if seconds:
            self.resting[actor.id] = step.now + seconds
            step.wake(step.now + seconds)
        else:
            self._look_for_worker(step, actor)

    def peer_worker_died(self, step: Step, death: WorkerDied) -> None:
        """A process of another node died."""

    def _rest_seconds(self, failures: int) -> float:
        # The first failure may be an accident.
        return min(RESTART_SECONDS_MAX, RESTART_SECONDS * 2 ** min(failures - 2, 30)) if failures > 1 else 0.0

    def tick(self, step: Step) -> None:
        """Actors that have waited long enough start again."""
        for actor_id, until in list(self.resting.items()):
            if until <= step.now:
                del self.resting[actor_id]
                self._look_for_worker(step, self.actors[actor_id])
            else:
                step.wake(until)

    def kill(self, step: Step, actor_id: bytes, restart: bool, graceful: bool) -> None:
        """End the actor's process; ``restart`` uses up one restart, otherwise it is the end of the actor."""
        actor = self.actors.get(actor_id)
        if actor is None and actor_id not in self.unborn and not restart:
            # Its owner still waits for an argument of its constructor.
            cause = DeathCause.INTENDED if graceful else DeathCause.KILLED_BY_REQUEST
            self._never_born(step, actor_id, cause, b"", "it was asked to end before it was created")
        if actor is None or actor.state is ActorState.DEAD:
            return
        worker = self._pool.workers.get(actor.worker)
        if graceful and worker is not None:
            # It ends after the calls already made, however long they take; then it says goodbye.
            actor.leaving = actor.leaving or not restart
            self._pool.retire(step, worker, DeathCause.KILLED_BY_REQUEST, "the actor was asked to end", patient=True)
            return
        if not restart:
            where = f" (pid {worker.pid})" if worker is not None else ""
            self._die(step, actor, DeathCause.KILLED_BY_REQUEST, f"its process{where} was ended by kill()")
        if worker is not None:
            self._pool.kill(step, worker, DeathCause.KILLED_BY_REQUEST, "the actor was killed")

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
            worker = self._pool.workers.get(actor.worker)
            self._die(step, actor, DeathCause.PARENT_DIED, "the driver of its job ended")
            if worker is not None:
                self._pool.kill(step, worker, DeathCause.KILLED_BY_REQUEST, "the driver of the actor's job ended")

    def client_gone(self, step: Step, client: bytes) -> None:
        """Watches end; actors that the client owned end with it unless they are detached."""
        for actor_id, clients in list(self.awaited.items()):
            clients.pop(client, None)
            if owner_of(actor_id) == client:
                self._never_born(step, actor_id, DeathCause.PARENT_DIED, b"", "its owner ended before it was created")
            elif not clients:
                del self.awaited[actor_id]
        for actor in list(self.actors.values()):
            actor.watchers.pop(client, None)
            if actor.owner == client and not actor.detached and actor.state is not ActorState.DEAD:
                worker = self._pool.workers.get(actor.worker)
                self._die(step, actor, DeathCause.PARENT_DIED, "its owner ended")
                if worker is not None:
                    self._pool.kill(step, worker, DeathCause.KILLED_BY_REQUEST, "the owner of the actor ended")

    def _die(self, step: Step, actor: Actor, cause: DeathCause, detail: str, error: bytes = b"") -> None:
        if self.resting.pop(actor.id, None) is None and not actor.lease:
            self._scheduler.withdraw_actor(step, actor.id)
        if not actor.lived:
            detail = f"it never ran; {detail}"
        if actor.name:
            said, last_lines, tail = detail.partition(_LAST_LINES)
            detail = f"{said}; it was called {actor.name!r} in namespace {actor.namespace!r}{last_lines}{tail}"
        worker, actor.worker, actor.lease = actor.worker, NIL_WORKER, 0
        actor.cause, actor.detail, actor.error = cause, detail, error
        advance(actor, ActorState.DEAD)
        if self.names.get((actor.namespace, actor.name)) is actor:
            del self.names[actor.namespace, actor.name]
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
        step.send(client, self._news(actor))

    def _tell(self, step: Step, actor: Actor) -> None:
        news = self._news(actor)
        for client in actor.watchers:
            step.send(client, news)
        step.effects.append(Report(news))

    def _news(self, actor: Actor) -> ActorChanged:
        alive = actor.state is ActorState.ALIVE
        path = f"{self._socket_directory}/{actor.worker.hex()}.sock" if alive else ""
        return ActorChanged(
            actor.id, actor.state, actor.incarnation, actor.worker if alive else NIL_WORKER, path,
            actor.cause, actor.error, actor.detail,
        )  # fmt: skip

    def find(self, name: str, namespace: str) -> dict[str, bytes] | None:
        """The living actor of that name: its id and what its owner wanted handles to know."""
        actor = self.names.get((namespace, name))
        return None if actor is None else {"actor": actor.id, "meta": actor.spec["meta"]}

    def named(self, namespace: str | None) -> list[dict[str, str]]:
        """Names in use, in one namespace or (None) in all."""
        return [
            {"name": name, "namespace": space} for space, name in self.names if namespace is None or space == namespace
        ]

    def check_invariants(self) -> None:
        for actor_id, clients in self.awaited.items():
            require(bool(clients), "nobody awaits an actor")
            require(actor_id not in self.actors and actor_id not in self.unborn, "an awaited actor is known")
        for actor in self.actors.values():
            waits = (actor.id in self._scheduler.actor_demands) + (actor.id in self.resting)
            placed = actor.worker != NIL_WORKER
            dead = actor.state is ActorState.DEAD
            require(waits + placed + dead == 1, f"{actor.id.hex()}: waits {waits}, placed {placed}, {actor.state.name}")
            require(not placed or self.by_worker[actor.worker] is actor, "a worker that does not know its actor")
            require(actor.state is not ActorState.ALIVE or placed, "alive nowhere")
        for (namespace, name), actor in self.names.items():
            require((actor.namespace, actor.name) == (namespace, name), "a name that leads elsewhere")
            require(actor.state is not ActorState.DEAD, f"the name {name} leads to the dead")
