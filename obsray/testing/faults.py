"""What goes wrong in a simulated run, chosen by name. Each fault works until ``Simulator.faults_end``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import ActorState
from obsray.telemetry.events import ProcessKind
from obsray.testing.agenda import MILLISECOND_NS
from obsray.testing.virtual_node import Starts

if TYPE_CHECKING:
    from obsray.testing.simulator import Simulator
    from obsray.testing.virtual_process import VirtualProcess

FAULTS: dict[str, Callable[..., None]] = {}


def fault(code: Callable[..., None]) -> Callable[..., None]:
    """Make a fault available to scenarios under its own name."""
    FAULTS[code.__name__] = code
    return code


def now_and_then(simulator: Simulator, mean_ms: float, count_max: int, strike: Callable[[], bool]) -> None:
    """Strike at random instants ``mean_ms`` apart on average; a strike that met nothing does not count."""
    left = count_max

    def again() -> None:
        simulator.agenda.after(int(simulator.chance.expovariate(1 / mean_ms) * MILLISECOND_NS), happen)

    def happen() -> None:
        nonlocal left
        if simulator.faults_over or not left:
            return
        left -= bool(strike())
        again()

    again()


def at_all_nodes(simulator: Simulator, name: str, value: Any, cured: Any) -> None:
    """Set an attribute of all nodes, until the faults stop."""

    def put(to: Any) -> None:
        for node in simulator.nodes:
            setattr(node, name, to)

    put(value)
    simulator.cures.append(lambda: put(cured))


def _workers(simulator: Simulator) -> list[VirtualProcess]:
    return [process for process in simulator.living() if process.kind is ProcessKind.WORKER]


def _kill_one(simulator: Simulator) -> bool:
    workers = _workers(simulator)
    # Idle processes die as well, but most deaths meet those that work.
    busy = [process for process in workers if process.executor is not None and process.executor.has_work()]
    chosen = busy if busy and simulator.chance.random() < 0.8 else workers
    if not chosen:
        return False
    _kill(simulator, simulator.chance.choice(chosen))
    return True


def _kill(simulator: Simulator, process: VirtualProcess, oom: str = "") -> None:
    simulator.tell(f"{process.name} is killed")
    simulator.kill(process.id, oom)


@fault
def kill_workers(simulator: Simulator, mean_ms: float, count_max: int = 1000) -> None:
    """Worker processes die at random instants."""
    now_and_then(simulator, mean_ms, count_max, lambda: _kill_one(simulator))


@fault
def kill_workers_between_steps(simulator: Simulator, mean_steps: float, count_max: int = 1000) -> None:
    """Worker processes die after any step of the simulation, so that short moments are hit as often as long ones."""
    left, countdown = count_max, int(simulator.chance.expovariate(1 / mean_steps))

    def watch() -> None:
        nonlocal left, countdown
        countdown -= 1
        if countdown > 0 or simulator.faults_over or not left:
            return
        countdown = int(simulator.chance.expovariate(1 / mean_steps))
        left -= _kill_one(simulator)

    simulator.between_steps.append(watch)


@fault
def kill_all_workers(simulator: Simulator, mean_ms: float, count_max: int = 3) -> None:
    """All worker processes die at once."""

    def strike() -> bool:
        workers = _workers(simulator)
        for process in workers:
            _kill(simulator, process)
        return bool(workers)

    now_and_then(simulator, mean_ms, count_max, strike)


@fault
def kill_actors(simulator: Simulator, mean_ms: float, count_max: int = 1000, restart_ratio: float = 0.5) -> None:
    """Drivers kill actors they created."""

    def strike() -> bool:
        chance = simulator.chance
        found = [
            (driver, client)
            for driver in simulator.drivers
            if not driver.dead
            for client in driver.calls.clients.values()
            if client.state is not ActorState.DEAD
        ]
        if not found:
            return False
        driver, client = chance.choice(found)
        simulator.ledger.deaths += 1
        message = m.KillActor(client.id, chance.random() < restart_ratio, False)
        driver.do(driver.node.send, m.encode(message))
        return True

    now_and_then(simulator, mean_ms, count_max, strike)


@fault
def lose_driver(simulator: Simulator, number: int, after_ms: float) -> None:
    """A driver dies in the middle of its work, some time before ``after_ms``."""
    instant = simulator.chance.randint(0, int(after_ms * MILLISECOND_NS))
    simulator.agenda.after(instant, lambda: _kill(simulator, simulator.drivers[number]))


@fault
def slow_starts(
    simulator: Simulator, start_ms_max: float, fork_fails_ratio: float = 0.0, dies_ratio: float = 0.0
) -> None:
    """Processes take long to start, cannot be forked, or die before they say hello."""
    at_all_nodes(simulator, "starts", Starts(5.0, start_ms_max, fork_fails_ratio, dies_ratio), Starts())


@fault
def late_messages(simulator: Simulator, ratio: float, late_ms_max: float) -> None:
    """Some frames take long; those behind them on the same link wait."""
    network = simulator.network
    network.late_ratio, network.late_ns_max = ratio, int(late_ms_max * MILLISECOND_NS)
    simulator.cures.append(lambda: setattr(network, "late_ratio", 0.0))


@fault
def clogs(simulator: Simulator, mean_ms: float, clog_ms_max: float, count_max: int = 1000) -> None:
    """A process gets nothing for a while, be it a worker, a driver or the node."""

    def strike() -> bool:
        chance = simulator.chance
        nodes = [node.id for node in simulator.living_nodes()]
        chosen = chance.choice(nodes + [process.id for process in simulator.living()])
        until = simulator.agenda.elapsed_ns + chance.randint(0, int(clog_ms_max * MILLISECOND_NS))
        simulator.network.clogged[chosen] = until
        return True

    now_and_then(simulator, mean_ms, count_max, strike)


@fault
def cancels(
    simulator: Simulator, mean_ms: float, count_max: int = 1000, force_ratio: float = 0.2, recursive_ratio: float = 0.5
) -> None:
    """Drivers cancel tasks that have not ended."""

    def strike() -> bool:
        chance = simulator.chance
        drivers = [driver for driver in simulator.drivers if not driver.dead]
        found = [(driver, task) for driver in drivers for task in driver.ownership.tasks.values()]
        if not found:
            return False
        driver, task = chance.choice(found)
        simulator.ledger.cancels += 1
        driver.do(driver.cancel, task.id, chance.random() < force_ratio, chance.random() < recursive_ratio)
        return True

    now_and_then(simulator, mean_ms, count_max, strike)


@fault
def disk_fails(simulator: Simulator, ratio: float) -> None:
    """Some objects cannot be written to disk."""
    at_all_nodes(simulator, "disk_fails_ratio", ratio, 0.0)


@fault
def files_vanish(simulator: Simulator, mean_ms: float, count_max: int = 1000) -> None:
    """Files of objects that were spilled, or had no room, are damaged or removed: what was in them is lost
    when it is wanted again."""

    def strike() -> bool:
        node = simulator.chance.choice(simulator.living_nodes())
        paths = sorted({*node.files, *node.mapped_files()})
        if not paths:
            return False
        node.lose_file(simulator.chance.choice(paths))
        simulator.ledger.files_lost += 1
        return True

    now_and_then(simulator, mean_ms, count_max, strike)


@fault
def memory_pressure(simulator: Simulator, mean_ms: float, count_max: int = 1000) -> None:
    """The kernel kills workers that run something and says so."""

    def strike() -> bool:
        busy = [process for process in _workers(simulator) if process.executor is not None and process.executor.slots]
        if not busy:
            return False
        _kill(simulator, simulator.chance.choice(busy), "killed by the kernel for memory")
        return True

    now_and_then(simulator, mean_ms, count_max, strike)


@fault
def slow_disks(simulator: Simulator, disk_ms_max: float) -> None:
    """Writing and reading files takes long."""
    at_all_nodes(simulator, "disk_ns_max", int(disk_ms_max * MILLISECOND_NS), 2 * MILLISECOND_NS)


@fault
def wrong_clocks(simulator: Simulator, wrong_ms_max: float, mean_ms: float = 0) -> None:
    """The machines' wall clocks disagree; with ``mean_ms`` they are set, forward and back, now and then."""
    wrong_ns, chance = int(wrong_ms_max * MILLISECOND_NS), simulator.chance

    def set_one() -> bool:
        node = chance.choice(simulator.living_nodes())
        node.clock.wrong_ns = chance.randint(-wrong_ns, wrong_ns)
        return True

    for node in simulator.nodes:
        node.clock.wrong_ns = chance.randint(-wrong_ns, wrong_ns)
    if mean_ms:
        now_and_then(simulator, mean_ms, 1000, set_one)
