"""Nodes, their drivers and workers in one thread: the real machines, a virtual clock, one seeded chance.

A run is decided by its scenario and its seed alone. ``simulate`` runs one and raises ``SimulationFailed`` with the
command that replays it. Shipped with the package, so that users can try what a setting or a fault would do.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from obsray.config import Config
from obsray.core.node.workers import SIGNAL_KILL
from obsray.core.runtime.ownership import Task
from obsray.core.runtime.running import Running
from obsray.telemetry.events import Outcome, ProcessKind
from obsray.testing.agenda import MILLISECOND_NS, Agenda, EventLog
from obsray.testing.faults import FAULTS
from obsray.testing.founding import Founding
from obsray.testing.invariants import Invariants, check_end, left_with, waits
from obsray.testing.ledger import Broken, Ledger
from obsray.testing.network import Network, Process, VirtualLink
from obsray.testing.replay import NodeTables, Replay
from obsray.testing.scenarios import Scenario
from obsray.testing.virtual_autoscaler import VirtualAutoscaler
from obsray.testing.virtual_checkpoints import Saved
from obsray.testing.virtual_control import VirtualControl
from obsray.testing.virtual_node import VirtualNode, node_id, number_of
from obsray.testing.virtual_process import VirtualProcess
from obsray.testing.virtual_worker import VirtualExecutor
from obsray.testing.workloads import WORKLOADS

DRIVER_PID = 100
#: How often it is looked whether everything has been let go at the end.
LOOK_NS = 20 * MILLISECOND_NS
#: A run that takes more steps than this goes in circles.
STEPS_MAX = 20_000_000
PROGRESS_STEPS = 4096
#: Kinds of machines whose decisions are counted.
MACHINES = ("node", "owner", "control", "autoscaler")
#: Often, so that what broken links left behind is gone soon after the faults.
HOLDS_CHECK_SECONDS = 1.0


class SimulationFailed(AssertionError):
    """A run broke an invariant. ``step`` is the number of the step, counted from the beginning; ``run``: all of it."""

    def __init__(self, scenario: str, seed: int, step: int, text: str, run: Simulator | None = None) -> None:
        super().__init__(f"after step {step}: {text}\n  replay it: obsray sim --seed {seed} --scenario {scenario}")
        self.scenario, self.seed, self.step, self.run = scenario, seed, step, run


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
    #: Kind of machine (``MACHINES``) -> stimuli, and wall nanoseconds they took if a clock was given.
    decisions: dict[str, int]
    decide_ns: dict[str, int]
    #: Events that the scenario is there for and that this seed did not lead to.
    missing_events: tuple[str, ...] = ()


class Simulator:
    """A run. ``clock_ns`` measures what decisions cost; without one nothing is measured. ``looks``: whether invariants
    are looked at, which changes nothing in the run; ``thorough``: after each step."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        thorough: bool = False,
        clock_ns: Callable[[], int] | None = None,
        looks: bool = True,
    ) -> None:
        self.scenario = scenario
        self.seed = seed
        self.looks = looks
        #: Called now and then, with the run: something for whoever waits.
        self.on_progress: Callable[[Simulator], None] | None = None
        self.chance = random.Random(seed)
        self.agenda = Agenda()
        self.log = EventLog(self.agenda)
        self.network = Network(self.agenda, self.chance, self.log)
        self.config = Config(**{"holds_check_seconds": HOLDS_CHECK_SECONDS} | scenario.config)
        self.replay = Replay()
        self.log.watchers.append(self.replay.fold)
        self.ledger = Ledger()
        self.log.watchers.append(self._recorded)
        #: actor -> what it has saved; as files, it outlives processes.
        self.checkpoints: dict[bytes, Saved] = {}
        self.invariants = Invariants(self, thorough)
        self.control = VirtualControl(self, node_id(0)) if scenario.nodes > 1 else None
        self.founding = Founding() if scenario.founded else None
        #: All nodes that there ever were, the head first.
        self.nodes: list[VirtualNode] = []
        self.nodes_by_id: dict[bytes, VirtualNode] = {}
        self._numbers = itertools.count()
        for _ in range(scenario.nodes):
            self._add_node(next(self._numbers))
        #: Of those that there are in the beginning, those that have not joined as far as they should.
        self._waited_for = list(self.nodes)
        self.autoscaler = VirtualAutoscaler(self, **scenario.autoscaler) if scenario.autoscaler else None
        self.processes: dict[bytes, VirtualProcess] = {}
        self.drivers: list[VirtualProcess] = []
        #: All workers that ever said hello: node and pid.
        self.workers: dict[bytes, tuple[VirtualNode, int]] = {}
        #: Called after each step: faults that strike at steps and not at instants.
        self.between_steps: list[Callable[[], None]] = []
        #: Called when the faults stop.
        self.cures: list[Callable[[], None]] = []
        self.faults_over = False
        self.steps = 0
        self.decisions = dict.fromkeys(MACHINES, 0)
        self.decide_ns = dict.fromkeys(MACHINES, 0)
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
            raise SimulationFailed(self.scenario.name, self.seed, self.steps, text, self) from error
        return Result(
            self.scenario.name, self.seed, self.log.hash(), self.steps, self.ledger.submitted,
            sum(self.ledger.begun.values()), len(self.log.rows), self.network.frames, self.ledger.deaths,
            self.ledger.cancels, self.agenda.elapsed_ns / 1e9, self.decisions, self.decide_ns,
            tuple(name for name in self.scenario.expect_events if not self.replay.counts.get(name)),
        )  # fmt: skip

    def _run(self) -> None:
        for node in self.nodes:
            node.start()
        if self.founding is not None:
            self._step_while(lambda: not self._are_admitted())
            self.founding.complete(self)
        elif self.control is not None:
            self._step_while(lambda: not self._is_whole())
        if self.autoscaler is not None:
            self.autoscaler.start()
        for number in range(self.scenario.drivers):
            self._start_driver(number)
        for part in self.scenario.faults:
            FAULTS[part.name](self, **part.parameters)
        faults_end = self.agenda.elapsed_ns + int(self.scenario.faults_ms * MILLISECOND_NS)
        self._step_while(lambda: self._programs > 0 and self.agenda.elapsed_ns < faults_end)
        self._stop_faults()
        deadline = self.agenda.elapsed_ns + int(self.scenario.finish_within_ms * MILLISECOND_NS)
        self._step_while(lambda: self._programs > 0 and self.agenda.elapsed_ns < deadline)
        if self._programs:
            raise Broken("these waits do not end:\n  " + "\n  ".join(waits(self)[:20]))
        self._settle(deadline)
        if self.looks:
            check_end(self)
        self._leave()

    def _step_while(self, condition: Callable[[], bool]) -> None:
        while condition():
            if not self.agenda.step():
                raise Broken("nothing will ever happen any more")
            self.steps += 1
            for watch in self.between_steps:
                watch()
            if not self.steps % PROGRESS_STEPS and self.on_progress is not None:
                self.on_progress(self)
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
        # In turn, because to look at all costs the square of the nodes: everything is let go when nobody in a whole
        # round had anything left, and nothing has happened meanwhile.
        everybody: list[VirtualProcess | VirtualNode] = [*self.living(), *self.living_nodes()]
        turn = clean = 0
        while clean < len(everybody) and self.agenda.elapsed_ns < deadline:
            if any(left_with(everybody[turn % len(everybody)])):
                self._step_for(LOOK_NS)
                everybody, clean = [*self.living(), *self.living_nodes()], 0
            else:
                turn, clean = turn + 1, clean + 1

    def _leave(self) -> None:
        """The drivers leave in order, and take nothing along."""
        for driver in self.drivers:
            if not driver.dead:
                self.exit(driver)
        self._step_for(LOOK_NS)
        for node in self.living_nodes():
            if self.looks:
                self.invariants.look_at(node)
            clients = [client for client in node.machine.clients.values() if client.kind is ProcessKind.DRIVER]
            if clients:
                raise Broken(f"{node.name} still serves {len(clients)} drivers")

    def _start_driver(self, number: int) -> None:
        home = self.nodes[number % self.scenario.nodes]
        driver = VirtualProcess(home, home.new_id(), DRIVER_PID + number, ProcessKind.DRIVER)
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
        if self.looks:
            self.invariants.after_step(process)

    # --- nodes -------------------------------------------------------------------------------------------------

    def next_node_id(self) -> bytes:
        """The id of a node that is not there yet."""
        return node_id(next(self._numbers))

    def _add_node(self, number: int, cpus: float | None = None) -> VirtualNode:
        node = VirtualNode(self, number, cpus)
        self.nodes.append(node)
        self.nodes_by_id[node.id] = node
        self.replay.nodes[node.id] = NodeTables()
        return node

    def living_nodes(self) -> list[VirtualNode]:
        """All nodes that run, the head first."""
        return [node for node in self.nodes if not node.dead]

    def _are_admitted(self) -> bool:
        while self._waited_for and self._waited_for[-1].admitted:
            self._waited_for.pop()
        return not self._waited_for

    def _is_whole(self) -> bool:
        """Whether all nodes that there are in the beginning are members and linked each with each."""
        others = len(self.nodes) - 1
        while self._waited_for:
            node = self._waited_for[-1]
            if not node.admitted or not len(node.neighbours.links) == others == len(node.machine.peers.usable()):
                return False
            self._waited_for.pop()
        return True

    def join_node(self, identifier: bytes = b"", cpus: float | None = None) -> VirtualNode:
        """Another node joins the cluster; under an id from ``next_node_id``, with as many CPUs as others, if not said
        otherwise."""
        node = self._add_node(number_of(identifier) if identifier else next(self._numbers), cpus)
        node.start()
        return node

    def crash_node(self, node: VirtualNode, why: str) -> None:
        """A node is gone with all its processes."""
        if node.dead:
            return
        self.ledger.deaths += 1
        self.tell(f"{node.name} ends: {why}")
        node.meet_all()
        node.dead, node.paused = True, False
        for process in [each for each in self.living() if each.home is node]:
            self._bury(process, 0, SIGNAL_KILL)
        self.network.process_died(node)

    def node_is_fenced(self, node: VirtualNode) -> None:
        """A node has heard that the cluster takes it for dead: it ends at once, and is started again as another."""
        self.crash_node(node, "the cluster takes it for dead")
        self.join_node()

    def all_links(self) -> list[VirtualLink]:
        """One end of each connection."""
        processes: list[Process] = [*self.living_nodes(), *self.living()]
        return [link for process in processes for number, link in process.links.items() if not number % 2]

    def tell(self, text: str) -> None:
        """A fault strikes, in words, for those who read the log."""
        self.log.tell(text)

    # --- processes -----------------------------------------------------------------------------------------------

    def living(self) -> list[VirtualProcess]:
        """All processes that run, in the order in which they started."""
        return list(self.processes.values())

    def worker_started(self, node: VirtualNode, worker: bytes, pid: int) -> None:
        """A forked process has come as far as saying hello."""
        process = VirtualProcess(node, worker, pid, ProcessKind.WORKER)
        self.processes[worker] = process
        self.workers[worker] = (node, pid)
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
            process.home.worker_died(process, exit_code, signal, oom)
        else:
            self._programs -= sum(not thread.done for thread in process.threads)

    def _recorded(self, process: bytes, name: str, values: tuple[Any, ...]) -> None:
        if name in ("object_missing", "object_rebuilding"):
            self.ledger.lost(values[0])

    # --- what really happened ------------------------------------------------------------------------------------

    def task_submitted(self, process: VirtualProcess, task: Task) -> None:
        """A process accepted a task or call."""
        arguments = [entry.id[:16] for entry in task.pinned or ()]
        self.ledger.submit(task.id, task.function.name, task.retries_left, task.parent, arguments)

    def attempt_began(self, process: VirtualProcess, running: Running) -> None:
        """A virtual worker begins an attempt."""
        executor = process.executor
        ordered = executor is not None and bool(executor.actor) and executor.at_a_time == 1
        self.ledger.begin(process.id, running, ordered)

    def attempt_given_back(self, running: Running) -> None:
        """An attempt had no argument: it has not begun after all."""
        self.ledger.begun[running.task] -= 1

    def attempt_ended(self, process: VirtualProcess, running: Running, outcome: Outcome) -> None:
        """A virtual worker has ended an attempt."""
        self.ledger.ended += 1


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
