"""What must hold after every step of a simulated run, and at its end.

Looking at everything after each step would make a run cost the square of its tasks. So a machine is looked at when
the steps since the last look are a fair share of what looking costs; ``thorough`` looks after each step, which is how
a failing seed is replayed to find the first step after which something was wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from obsray.core.protocol.lifecycle import ActorState, GroupState, ObjectState, TaskState, WorkerState
from obsray.core.protocol.messages import LEASE_NUMBER_MASK
from obsray.core.runtime.leases import Lease
from obsray.core.runtime.ownership import Task
from obsray.telemetry.events import ProcessKind
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
            things += len(machine.groups.groups)
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
    demand(not told.keys() & unrecorded, f"recorded and yet to be: {_some(told.keys() & unrecorded)}")
    tasks = {task: known for task, known in process.ownership.tasks.items() if task not in unrecorded}
    demand(
        told.keys() == tasks.keys(),
        f"open by events but not in truth: {_some(told.keys() - tasks.keys())}; "
        f"the reverse: {_some(tasks.keys() - told.keys())}",
    )
    for task in tasks.values():
        waits, told_waiting = task.state is TaskState.WAITING_ARGUMENTS, told[task.id] is TaskState.WAITING_ARGUMENTS
        demand(waits == told_waiting, f"{task} is {task.state.name}, by events {told[task.id].name}")


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
    demand(objects == told, f"objects {_difference(objects, told)}")
    actors = {actor.id: actor.state for actor in machine.actors.actors.values()}
    demand(actors == replay.actors, f"actors {_difference(actors, replay.actors)}")
    # Copies of those that are at home elsewhere are told of there.
    groups = {group.id: group for group in machine.groups.groups.values() if group.home == node.id}
    states = {group.id: group.state for group in groups.values()}
    demand(states == replay.groups, f"groups {_difference(states, replay.groups)}")
    bundles = {(group.id, each.index) for group in groups.values() for each in group.bundles if each.pool is not None}
    demand(
        node.clustered or bundles == replay.bundles,
        f"bundles with a share: {len(bundles)}, by events {len(replay.bundles)}",
    )
    leases = {lease.key & LEASE_NUMBER_MASK: lease.worker.id for lease in machine.scheduler.leases.values()}
    demand(leases == replay.leases, f"leases {_difference(leases, replay.leases)}")
    workers = {
        worker.id: worker.state if worker.state is WorkerState.STARTING else WorkerState.IDLE
        for worker in machine.pool.workers.values()
    }
    demand(workers == replay.workers, f"workers {_difference(workers, replay.workers)}")


def _some(identifiers: Any) -> str:
    return ", ".join(sorted(identifier.hex() for identifier in identifiers)[:3]) or "none"


def _difference(truth: dict[Any, Any], told: dict[Any, Any]) -> str:
    keys = [key for key in {**truth, **told} if truth.get(key) != told.get(key)]
    shown = [
        f"{key.hex() if isinstance(key, bytes) else key}: {truth.get(key)} by events {told.get(key)}" for key in keys
    ]
    return "; ".join(shown[:3])


# --- the end ---------------------------------------------------------------------------------------------------


def leftovers(simulator: Simulator) -> list[str]:
    """What is still there although every program has ended and let go of everything. Empty when all is well."""
    found: list[str] = []
    for process in simulator.living():
        who = f"{process.kind.name.lower()} {process.id.hex()}"
        ownership = process.ownership
        found += [f"{who}: {task} is {task.state.name}" for task in ownership.tasks.values()]
        for entry in ownership.entries.values():
            found.append(
                f"{who}: entry {entry.id.hex()} state {entry.state} local {entry.local} pins {entry.pins} "
                f"holders { {w.hex(): n for w, n in ownership.holders.get(entry.id, {}).items()} } "
                f"waiters {len(entry.waiters or ())}"
            )
        found += [f"{who}: holder {worker.hex()}" for worker, held in ownership.held_by.items() if held]
        found += [
            f"{who}: lease {lease.id} with {len(lease.in_flight)} tasks" for lease in process.dispatcher.leases.values()
        ]
        if process.dropped or ownership.outbox:
            found.append(f"{who}: has not sent everything")
    for node in simulator.living_nodes():
        found += [f"{node.name}: {what}" for what in _left_at(node)]
    return found


def _left_at(node: VirtualNode) -> list[str]:
    machine = node.machine
    found = [
        f"object {entry.id.hex()} {entry.state.name} by {entry.creator.hex()} pins {len(entry.pins)}"
        for entry in machine.objects.entries.values()
    ]
    found += [f"lease {lease.key} of {lease.demand.client.hex()}" for lease in machine.scheduler.leases.values()]
    found += [
        f"{demand_.client.hex()} wants {demand_.wanted} for {demand_.name!r}"
        for demand_ in machine.scheduler.demands.values()
        if demand_.wanted
    ]
    found += [
        f"actor {actor.id.hex()} is {actor.state.name}"
        for actor in machine.actors.actors.values()
        if actor.state is not ActorState.DEAD
    ]
    found += [
        f"placement group {group.id.hex()} is {group.state.name}"
        for group in machine.groups.groups.values()
        if group.state is not GroupState.REMOVED or any(bundle.pool is not None for bundle in group.bundles)
    ]
    found += [f"file {path}" for path in node.files]
    if machine.resources.free != machine.resources.total:
        found.append(f"{machine.resources.free} free of {machine.resources.total}")
    return found + _left_abroad(node)


def _left_abroad(node: VirtualNode) -> list[str]:
    """What a node still has to do with others, or believes of them although it is not so."""
    machine = node.machine
    directory, pulls, delegation = machine.sharing.directory, machine.sharing.pulls, machine.delegation
    found = [f"somebody asks where {each.hex()} is" for each in directory.waiting]
    found += [f"{each.hex()} is known to lie at {len(place.nodes)} nodes" for each, place in directory.places.items()]
    if not node.simulator.ledger.cuts:
        # With a link the news can be lost that what is lost was freed (docs/simulation.md).
        found += [f"{each.hex()} is still known to be lost" for each in directory.lost]
    found += [f"{each.hex()} is being fetched" for each in pulls.pulls]
    found += [
        f"{sum(demand_.away.values())} of {demand_.name!r} wait elsewhere" for demand_ in delegation.away.values()
    ]
    found += [f"actor {actor.hex()} waits elsewhere" for actor in delegation.actors_away]
    found += [f"actor {actor.hex()} of another node waits" for actor in machine.guests.waiting]
    found += [f"worker {worker.hex()} is that of another node's actor" for worker in machine.guests.by_worker]
    for peer in machine.peers.living():
        there = node.simulator.nodes_by_id[peer.id]
        if there.dead:
            found.append(f"{there.name} is taken to live")
        elif not peer.linked:
            found.append(f"there is no link to {there.name}")
        else:
            spare = {name: peer.spare.get(name, 0) for name in there.machine.resources.free}
            if spare != there.machine.resources.free:
                found.append(f"{there.name} is believed to have {spare} free")
    return found


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
    left = leftovers(simulator)
    demand(not left, "left over at the end:\n  " + "\n  ".join(left[:20]))
    for process in simulator.living():
        simulator.invariants.look_at(process)
    for node in simulator.living_nodes():
        simulator.invariants.look_at(node)
        idle = sum(process.kind is ProcessKind.WORKER and process.home is node for process in simulator.living())
        known = len(node.machine.pool.workers)
        demand(idle <= known, f"{idle} workers live, {node.name} knows {known}")
    driver_tasks = [
        task for driver in simulator.drivers if not driver.dead for task in simulator.replay.open.get(driver.id, {})
    ]
    demand(not driver_tasks, f"by events these never ended: {_some(driver_tasks)}")
    for task, state in simulator.replay.ended.items():
        demand(state in _ENDED, f"{task.hex()} ended as {state.name}")
