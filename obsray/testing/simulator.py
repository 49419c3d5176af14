"""One node, its drivers and workers in one thread: the real machines, a virtual clock, one seeded chance.

A run is decided by its scenario and its seed alone. ``simulate`` runs one and raises ``SimulationFailed`` with the
command that replays it. Shipped with the package, so that users can try what a setting or a fault would do.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from obsray.config import Config
from obsray.core.node.workers import SIGNAL_KILL
from obsray.core.runtime.ownership import Task
from obsray.core.runtime.running import Running
from obsray.telemetry.events import Outcome, ProcessKind
from obsray.testing.agenda import MILLISECOND_NS, Agenda, EventLog
from obsray.testing.faults import FAULTS
from obsray.testing.invariants import Invariants, check_end, leftovers, waits
from obsray.testing.ledger import Broken, Ledger
from obsray.testing.network import Network
from obsray.testing.replay import Replay
from obsray.testing.scenarios import Scenario
from obsray.testing.virtual_checkpoints import Saved
from obsray.testing.virtual_node import NODE_ID, VirtualNode
from obsray.testing.virtual_process import VirtualProcess
from obsray.testing.virtual_worker import VirtualExecutor
from obsray.testing.workloads import WORKLOADS

DRIVER_PID = 100
#: How often it is looked whether everything has been let go at the end.
LOOK_NS = 20 * MILLISECOND_NS
#: A run that takes more steps than this goes in circles.
STEPS_MAX = 5_000_000


class SimulationFailed(AssertionError):
    """A run broke an invariant. ``step`` is the number of the step, counted from the beginning."""

    def __init__(self, scenario: str, seed: int, step: int, text: str) -> None:
        super().__init__(f"after step {step}: {text}\n  replay it: obsray sim --seed {seed} --scenario {scenario}")
        self.scenario, self.seed, self.step = scenario, seed, step


@dataclass(frozen=True, slots=True)
class Result:
    """What a run did. ``digest`` is equal for equal runs; times are virtual except ``decide_ns``."""

    scenario: str
    seed: int
    digest: str
    steps: int
    tasks: int
    attempts: int
    events: int
    frames: int
    deaths: int
    cancels: int
    virtual_seconds: float
    #: Kind of machine ("node", "owner") -> stimuli, and wall nanoseconds they took if a clock was given.
    decisions: dict[str, int]
    decide_ns: dict[str, int]
    #: Events that the scenario is there for and that this seed did not lead to.
    missing_events: tuple[str, ...] = ()


class Simulator:
    """A run. ``clock_ns`` measures what decisions cost; without one nothing is measured."""

    def __init__(
        self, scenario: Scenario, seed: int, thorough: bool = False, clock_ns: Callable[[], int] | None = None
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self.chance = random.Random(seed)
        self.agenda = Agenda()
        self.log = EventLog()
        self.network = Network(self.agenda, self.chance, self.log)
        self.config = Config(**scenario.config)
        self.replay = Replay(NODE_ID)
        self.log.watchers.append(self.replay.fold)
        self.ledger = Ledger()
        #: actor -> what it has saved; as files, it outlives processes.
        self.checkpoints: dict[bytes, Saved] = {}
        self.invariants = Invariants(self, thorough)
        self.node = VirtualNode(self, scenario.cpus, scenario.custom, scenario.store_bytes)
        self.processes: dict[bytes, VirtualProcess] = {}
        self.drivers: list[VirtualProcess] = []
        #: Called after each step: faults that strike at steps and not at instants.
        self.between_steps: list[Callable[[], None]] = []
        #: Called when the faults stop.
        self.cures: list[Callable[[], None]] = []
        self.faults_over = False
        self.steps = 0
        self.decisions: dict[str, int] = {"node": 0, "owner": 0}
        self.decide_ns: dict[str, int] = {"node": 0, "owner": 0}
        self._clock_ns = clock_ns
        self._programs = 0

    # --- a run -------------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """From the first fork until nothing is left. Raises SimulationFailed."""
        try:
            self._run()
        except SimulationFailed:
            raise
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            raise SimulationFailed(self.scenario.name, self.seed, self.steps, text) from error
        return Result(
            self.scenario.name, self.seed, self.log.hash(), self.steps, self.ledger.submitted,
            sum(self.ledger.begun.values()), len(self.log.rows), self.network.frames, self.ledger.deaths,
            self.ledger.cancels, self.agenda.elapsed_ns / 1e9, self.decisions, self.decide_ns,
            tuple(name for name in self.scenario.expect_events if not self.replay.counts.get(name)),
        )  # fmt: skip

    def _run(self) -> None:
        self.node.start()
        for number in range(self.scenario.drivers):
            self._start_driver(number)
        for part in self.scenario.faults:
            FAULTS[part.name](self, **part.parameters)
        faults_end = int(self.scenario.faults_ms * MILLISECOND_NS)
        self._step_while(lambda: self._programs > 0 and self.agenda.elapsed_ns < faults_end)
        self._stop_faults()
        deadline = self.agenda.elapsed_ns + int(self.scenario.finish_within_ms * MILLISECOND_NS)
        self._step_while(lambda: self._programs > 0 and self.agenda.elapsed_ns < deadline)
        if self._programs:
            raise Broken("these waits do not end:\n  " + "\n  ".join(waits(self)[:20]))
        self._settle(deadline)
        check_end(self)
        self._leave()

    def _step_while(self, condition: Callable[[], bool]) -> None:
        while condition():
            if not self.agenda.step():
                raise Broken("nothing will ever happen any more")
            self.steps += 1
            for watch in self.between_steps:
                watch()
            if self.steps > STEPS_MAX:
                raise Broken(f"more than {STEPS_MAX} steps")

    def _step_for(self, duration_ns: int) -> None:
        until = self.agenda.elapsed_ns + duration_ns
        self._step_while(lambda: self.agenda.elapsed_ns < until)

    def _stop_faults(self) -> None:
        self.faults_over = True
        self.between_steps.clear()
        for cure in self.cures:
            cure()

    def _settle(self, deadline: int) -> None:
        """Let everything be let go: leases, references, actors without handles."""
        left = leftovers(self)
        while left and self.agenda.elapsed_ns < deadline:
            self._step_for(LOOK_NS)
            left = leftovers(self)

    def _leave(self) -> None:
        """The drivers leave in order, and take nothing along."""
        for driver in self.drivers:
            if not driver.dead:
                self.exit(driver)
        self._step_for(LOOK_NS)
        self.invariants.look_at(self.node)
        clients = [client for client in self.node.machine.clients.values() if client.kind is ProcessKind.DRIVER]
        if clients:
            raise Broken(f"the node still serves {len(clients)} drivers")

    def _start_driver(self, number: int) -> None:
        driver = VirtualProcess(self, self.chance.randbytes(8), DRIVER_PID + number, ProcessKind.DRIVER)
        self.processes[driver.id] = driver
        self.drivers.append(driver)
        driver.join()
        for part in self.scenario.workloads:
            if part.driver == number:
                for copy in range(part.copies):
                    thread = driver.start_thread(f"{part.name}[{copy}]")
                    thread.ended = self._program_ended
                    self._programs += 1
                    self.agenda.after(0, driver.do, thread.run, WORKLOADS[part.name](thread, **part.parameters))

    def _program_ended(self, value: Any, error: BaseException | None) -> None:
        self._programs -= 1
        if error is not None:
            raise error

    # --- steps -------------------------------------------------------------------------------------------------

    def decide(self, kind: str, stimulus: Callable[..., Any], *arguments: Any) -> Any:
        """Give a machine a stimulus and take note of it."""
        self.decisions[kind] += 1
        if self._clock_ns is None:
            return stimulus(*arguments)
        began = self._clock_ns()
        try:
            return stimulus(*arguments)
        finally:
            self.decide_ns[kind] += self._clock_ns() - began

    def after_step(self, process: VirtualProcess | VirtualNode) -> None:
        """A process has taken a step: everything must hold."""
        self.invariants.after_step(process)

    # --- processes -----------------------------------------------------------------------------------------------

    def living(self) -> list[VirtualProcess]:
        """All processes that run, in the order in which they started."""
        return list(self.processes.values())

    def worker_started(self, worker: bytes, pid: int) -> None:
        """A forked process has come as far as saying hello."""
        process = VirtualProcess(self, worker, pid, ProcessKind.WORKER)
        self.processes[worker] = process
        executor = VirtualExecutor(process)
        if process.join():
            executor.start()
        else:
            self._bury(process, 1, 0)

    def kill(self, identifier: bytes, oom: str = "") -> None:
        """A process gets signal 9. Nothing happens if it is gone already."""
        process = self.processes.get(identifier)
        if process is not None:
            self.ledger.deaths += 1
            self._bury(process, 0, SIGNAL_KILL, oom)

    def exit(self, process: VirtualProcess) -> None:
        """A driver leaves in order."""
        process.leave()
        self._bury(process, 0, 0)

    def exited(self, process: VirtualProcess) -> None:
        """A worker has ended in order."""
        self.ledger.exits += 1
        self._bury(process, 0, 0)

    def _bury(self, process: VirtualProcess, exit_code: int, signal: int, oom: str = "") -> None:
        process.dead = True
        del self.processes[process.id]
        self.network.process_died(process)
        if process.kind is ProcessKind.WORKER:
            self.node.worker_died(process, exit_code, signal, oom)
        else:
            self._programs -= sum(not thread.done for thread in process.threads)

    # --- what really happened ------------------------------------------------------------------------------------

    def task_submitted(self, process: VirtualProcess, task: Task) -> None:
        """A process accepted a task or call."""
        arguments = [entry.id[:16] for entry in task.pinned or ()]
        self.ledger.submit(task.id, task.function.name, task.retries_left, task.parent, arguments)

    def attempt_began(self, process: VirtualProcess, running: Running) -> None:
        """A virtual worker begins an attempt."""
        executor = process.executor
        self.ledger.begin(process.id, running, executor is not None and bool(executor.actor))

    def attempt_given_back(self, running: Running) -> None:
        """An attempt had no argument: it has not begun after all."""
        self.ledger.begun[running.task] -= 1

    def attempt_ended(self, process: VirtualProcess, running: Running, outcome: Outcome) -> None:
        """A virtual worker has ended an attempt."""
        self.ledger.ended += 1

    def check_read(self, identifier: bytes, offset: int, size: int) -> None:
        """A reader has an object mapped at ``offset``. Raises Broken if something else lies there."""
        written = cast(Any, self.node.arena.get(offset))
        if written is None or written[0] != identifier:
            what = "nothing" if written is None else written[0].hex()
            raise Broken(f"{identifier.hex()} should lie at {offset}, but {what} does")


def simulate(
    scenario: Scenario, seed: int, thorough: bool = False, clock_ns: Callable[[], int] | None = None
) -> Result:
    """Run a scenario. If it fails, run it again with a look after each step, to name the first bad one."""
    try:
        return Simulator(scenario, seed, thorough, clock_ns).run()
    except SimulationFailed as first:
        if thorough:
            raise
        try:
            Simulator(scenario, seed, thorough=True).run()
        except SimulationFailed as exact:
            raise exact from first
        raise
