"""What must hold after every step of a simulated run, and at its end.

Looking at everything after each step would make a run cost the square of its tasks. So a machine is looked at when
the steps since the last look are a fair share of what looking costs; ``thorough`` looks after each step, which is how
a failing seed is replayed to find the first step after which something was wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from obsray.core.node.peers import Peer
from obsray.core.protocol.lifecycle import ActorState, GroupState, ObjectState, TaskState, WorkerState
from obsray.core.protocol.messages import LEASE_NUMBER_MASK
from obsray.core.runtime.leases import Lease
from obsray.core.runtime.ownership import Task
from obsray.telemetry.events import ProcessKind
from obsray.testing.founding import known_peers, peers_known
from obsray.testing.ledger import Broken
from obsray.testing.replay import NodeTables
from obsray.testing.virtual_node import VirtualNode
from obsray.testing.virtual_process import VirtualProcess

if TYPE_CHECKING:
    from obsray.testing.simulator import Simulator

#: Things looked at per step, on average.
LOOKS_PER_STEP = 24
_ENDED = (TaskState.FINISHED, TaskState.FAILED, TaskState.CANCELLED)


def demand(condition: bool, text: str) -> None:
    """Raise Broken with ``text`` unless ``condition`` holds."""
    if not condition:
        raise Broken(text)


class Invariants:
    """Looks after a simulator."""

    def __init__(self, simulator: Simulator, thorough: bool) -> None:
        self.simulator = simulator
        self.thorough = thorough
        self._credit: dict[bytes, int] = {}
        self.looks = 0

    def after_step(self, process: VirtualProcess | VirtualNode) -> None:
        """A process has taken a step."""
        credit = self._credit.get(process.id, 0) + LOOKS_PER_STEP
        if self.thorough or credit >= self._cost(process):
            self.look_at(process)
            credit = 0
        self._credit[process.id] = credit

    def _cost(self, process: VirtualProcess | VirtualNode) -> int:
        if isinstance(process, VirtualNode):
            machine = process.machine
            things = len(machine.objects.entries) + len(machine.actors.actors) + len(machine.pool.workers)
            things += len(machine.groups.groups) + peers_known(machine.peers)
            return 40 + 4 * (things + len(machine.scheduler.leases))
        return 20 + len(process.ownership.entries) + 2 * len(process.ownership.tasks)

    def look_at(self, process: VirtualProcess | VirtualNode) -> None:
        """Check everything about one process."""
        self.looks += 1
        if isinstance(process, VirtualNode):
            process.machine.check_invariants()
            check_node_replay(process, self.simulator.replay.nodes[process.id])
        else:
            process.ownership.check_invariants()
            process.dispatcher.check_invariants()
            process.dispatcher.lineage.check_invariants()
            process.calls.check_invariants()
            check_tasks(process)
            check_task_replay(process, self.simulator.replay)


def check_tasks(process: VirtualProcess) -> None:
    """No task is lost: each that has not ended is in exactly one place, the one its state names."""
    queued: dict[bytes, int] = {}
    for shape in process.dispatcher.shapes.values():
        for task in shape.queue:
            if task.state is TaskState.QUEUED:
                queued[task.id] = queued.get(task.id, 0) + 1
    for _, _, task in process.dispatcher.paused:
        if task.state is TaskState.QUEUED:
            queued[task.id] = queued.get(task.id, 0) + 1
    for client in process.calls.clients.values():
        for task in client.queue:
            if task.state in (TaskState.QUEUED, TaskState.WAITING_ARGUMENTS):
                queued[task.id] = queued.get(task.id, 0) + 1
    for task in process.ownership.tasks.values():
        _check_place(process, task, queued.get(task.id, 0))


def _check_place(process: VirtualProcess, task: Task, queued: int) -> None:
    is_call = task.actor is not None
    if task.state is TaskState.QUEUED:
        demand(queued == 1, f"{task} is queued {queued} times")
    elif task.state is TaskState.WAITING_ARGUMENTS:
        demand(queued == is_call, f"{task} waits for arguments and is queued {queued} times")
        waits = any(entry.waiters and task in entry.waiters for _, entry in task.arguments or ())
        demand(waits, f"{task} waits for arguments, but none would tell it")
    else:
        demand(task.state is TaskState.DISPATCHED and not queued, f"{task} is {task.state.name}, queued {queued}")
        holder: Any = task.dispatched_to
        if isinstance(holder, Lease):
            demand(task.id in holder.in_flight, f"{task} is not in flight where it says")
            demand(process.dispatcher.leases.get(holder.id) is holder, f"{task} is in flight under a lease that ended")
        elif is_call:
            demand(task.id in holder.in_flight, f"{task} is not in flight where it says")
        else:
            demand(task in process.placements.values(), f"{task} is being placed, but nobody places it")


def check_task_replay(process: VirtualProcess, replay: Any) -> None:
    """The events alone tell which tasks have not ended, and which of them wait for arguments, but for calls that
    nobody was told of yet."""
    told = replay.open.get(process.id, {})
    unrecorded = process.submitted.tasks()
    if not unrecorded.isdisjoint(told):
        raise Broken(f"recorded and yet to be: {_some(told.keys() & unrecorded)}")
    tasks = {task: known for task, known in process.ownership.tasks.items() if task not in unrecorded}
    if told.keys() != tasks.keys():
        raise Broken(
            f"open by events but not in truth: {_some(told.keys() - tasks.keys())}; "
            f"the reverse: {_some(tasks.keys() - told.keys())}"
        )
    for task in tasks.values():
        if (task.state is TaskState.WAITING_ARGUMENTS) is not (told[task.id] is TaskState.WAITING_ARGUMENTS):
            raise Broken(f"{task} is {task.state.name}, by events {told[task.id].name}")


def check_node_replay(node: VirtualNode, replay: NodeTables) -> None:
    """The events alone tell which objects, actors, leases and workers there are, and how they are."""
    machine = node.machine
    objects = {
        entry.id: entry.state for entry in machine.objects.entries.values() if entry.state is not ObjectState.CREATED
    }
    # What is lost is so by events until there is room to write it again.
    again = {entry.id for entry in machine.objects.entries.values() if entry.state is ObjectState.CREATED}
    told = {
        key: state
        for key, state in replay.objects.items()
        if state is not ObjectState.CREATED and not (state is ObjectState.LOST and key in again)
    }
    _same("objects", objects, told)
    actors = {actor.id: actor.state for actor in machine.actors.actors.values()}
    _same("actors", actors, replay.actors)
    # Copies of those that are at home elsewhere are told of there.
    groups = {group.id: group for group in machine.groups.groups.values() if group.home == node.id}
    states = {group.id: group.state for group in groups.values()}
    _same("groups", states, replay.groups)
    bundles = {(group.id, each.index) for group in groups.values() for each in group.bundles if each.pool is not None}
    demand(
        node.clustered or bundles == replay.bundles,
        f"bundles with a share: {len(bundles)}, by events {len(replay.bundles)}",
    )
    leases = {lease.key & LEASE_NUMBER_MASK: lease.worker.id for lease in machine.scheduler.leases.values()}
    _same("leases", leases, replay.leases)
    workers = {
        worker.id: worker.state if worker.state is WorkerState.STARTING else WorkerState.IDLE
        for worker in machine.pool.workers.values()
    }
    _same("workers", workers, replay.workers)


def _some(identifiers: Any) -> str:
    return ", ".join(sorted(identifier.hex() for identifier in identifiers)[:3]) or "none"


def _same(what: str, truth: dict[Any, Any], told: dict[Any, Any]) -> None:
    """Raise Broken with the first differences unless both are equal."""
    if truth == told:
        return
    keys = [key for key in {**truth, **told} if truth.get(key) != told.get(key)]
    shown = [
        f"{key.hex() if isinstance(key, bytes) else key}: {truth.get(key)} by events {told.get(key)}" for key in keys
    ]
    raise Broken(f"{what} {'; '.join(shown[:3])}")


# --- the end ---------------------------------------------------------------------------------------------------


def leftovers(simulator: Simulator) -> Iterator[str]:
    """What is still there although every program has ended and let go of everything. Nothing when all is well."""
    for process in simulator.living():
        yield from left_with(process)
    for node in simulator.living_nodes():
        yield from left_with(node)


def left_with(each: VirtualProcess | VirtualNode) -> Iterator[str]:
    """The same of one process or node."""
    if each.dead:
        return
    if isinstance(each, VirtualProcess):
        yield from _left_in(each)
    else:
        for what in _left_at(each):
            yield f"{each.name}: {what}"


def _left_in(process: VirtualProcess) -> Iterator[str]:
    who = f"{process.kind.name.lower()} {process.id.hex()}"
    ownership = process.ownership
    for task in ownership.tasks.values():
        yield f"{who}: {task} is {task.state.name}"
    for entry in ownership.entries.values():
        yield (
            f"{who}: entry {entry.id.hex()} state {entry.state} local {entry.local} pins {entry.pins} "
            f"holders { {w.hex(): n for w, n in ownership.holders.get(entry.id, {}).items()} } "
            f"waiters {len(entry.waiters or ())}"
        )
    for worker, held in ownership.held_by.items():
        if held:
            yield f"{who}: holder {worker.hex()}"
    for lease in process.dispatcher.leases.values():
        yield f"{who}: lease {lease.id} with {len(lease.in_flight)} tasks"
    for task_id in process.submission.streams.streams:
        yield f"{who}: the stream of {task_id.hex()}"
    if process.dropped or ownership.outbox:
        yield f"{who}: has not sent everything"


def _left_at(node: VirtualNode) -> Iterator[str]:
    machine = node.machine
    for entry in machine.objects.entries.values():
        yield f"object {entry.id.hex()} {entry.state.name} by {entry.creator.hex()} pins {len(entry.pins)}"
    for lease in machine.scheduler.leases.values():
        yield f"lease {lease.key} of {lease.demand.client.hex()}"
    for wish in machine.scheduler.demands.values():
        if wish.wanted:
            yield f"{wish.client.hex()} wants {wish.wanted} for {wish.name!r}"
    for actor in machine.actors.actors.values():
        if actor.state is not ActorState.DEAD:
            yield f"actor {actor.id.hex()} is {actor.state.name}"
    for group in machine.groups.groups.values():
        if group.state is not GroupState.REMOVED or any(bundle.pool is not None for bundle in group.bundles):
            yield f"placement group {group.id.hex()} is {group.state.name}"
    for path in node.files:
        yield f"file {path}"
    if machine.resources.free != machine.resources.total:
        yield f"{machine.resources.free} free of {machine.resources.total}"
    yield from _left_abroad(node)


def _left_abroad(node: VirtualNode) -> Iterator[str]:
    """What a node still has to do with others, or believes of them although it is not so."""
    machine = node.machine
    directory, pulls, delegation = machine.sharing.directory, machine.sharing.pulls, machine.delegation
    for object_id in directory.waiting:
        yield f"somebody asks where {object_id.hex()} is"
    for object_id, place in directory.places.items():
        yield f"{object_id.hex()} is known to lie at {len(place.nodes)} nodes"
    for object_id in directory.lost:
        yield f"{object_id.hex()} is still known to be lost"
    for object_id in pulls.pulls:
        yield f"{object_id.hex()} is being fetched"
    for wish in delegation.away.values():
        yield f"{sum(wish.away.values())} of {wish.name!r} wait elsewhere"
    for actor in delegation.actors_away:
        yield f"actor {actor.hex()} waits elsewhere"
    for actor in machine.guests.waiting:
        yield f"actor {actor.hex()} of another node waits"
    for worker in machine.guests.by_worker:
        yield f"worker {worker.hex()} is that of another node's actor"
    for peer in known_peers(machine.peers):
        if peer.alive:
            yield from _believed_wrongly(node, peer)


def _believed_wrongly(node: VirtualNode, peer: Peer) -> Iterator[str]:
    there = node.simulator.nodes_by_id[peer.id]
    free = there.machine.resources.free
    if there.dead:
        yield f"{there.name} is taken to live"
    elif not peer.linked:
        yield f"there is no link to {there.name}"
    elif any(peer.spare.get(name, 0) != amount for name, amount in free.items()):
        spare = {name: peer.spare.get(name, 0) for name in free}
        yield f"{there.name} is believed to have {spare} free"


def waits(simulator: Simulator) -> list[str]:
    """What the programs and attempts that have not ended wait for."""
    found = []
    for process in simulator.living():
        for thread in process.threads:
            if not thread.done and not (thread.name == "main" and thread.running is None):
                what = f"runs {simulator.ledger.names.get(thread.running.task)} " if thread.running is not None else ""
                found.append(f"{process.kind.name.lower()} {process.id.hex()} {thread.name}: {what}{thread.waiting}")
        for task in process.ownership.tasks.values():
            where = task.dispatched_to
            at = f" at {where.worker.hex()}" if where is not None and hasattr(where, "worker") else ""
            missing = [entry.id.hex() for _, entry in task.arguments or () if not entry.is_ready()]
            found.append(f"  {task} is {task.state.name}{at} attempt {task.attempt} missing {missing}")
    return found


def check_end(simulator: Simulator) -> None:
    """After the end: everything that was submitted ended, once; nothing is left."""
    left = list(islice(leftovers(simulator), 20))
    demand(not left, "left over at the end:\n  " + "\n  ".join(left))
    for process in simulator.living():
        simulator.invariants.look_at(process)
    workers = Counter(process.home.id for process in simulator.living() if process.kind is ProcessKind.WORKER)
    for node in simulator.living_nodes():
        simulator.invariants.look_at(node)
        idle = workers[node.id]
        known = len(node.machine.pool.workers)
        demand(idle <= known, f"{idle} workers live, {node.name} knows {known}")
    driver_tasks = [
        task for driver in simulator.drivers if not driver.dead for task in simulator.replay.open.get(driver.id, {})
    ]
    demand(not driver_tasks, f"by events these never ended: {_some(driver_tasks)}")
    for task, state in simulator.replay.ended.items():
        demand(state in _ENDED, f"{task.hex()} ended as {state.name}")
