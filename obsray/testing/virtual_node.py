"""A node without sockets, clock and processes: the real machines, driven as ``core/node/shell.py`` drives them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from obsray.core.node.machine import NodeMachine
from obsray.core.node.objects import ObjectTable
from obsray.core.node.resources import UNIT, Resources
from obsray.core.node.step import (
    Broadcast,
    Effect,
    EndProcess,
    RemoveCheckpoints,
    RemoveFile,
    ReserveArena,
    RestoreObject,
    Send,
    SpillObject,
    StartWorker,
    Step,
)
from obsray.core.node.workers import SIGNAL_KILL, Ended, WorkerPool
from obsray.core.protocol.messages import Message, Welcome, encode
from obsray.core.transport.connection import Hello
from obsray.ids import NIL_TASK
from obsray.telemetry.events import ProcessKind
from obsray.testing.agenda import MICROSECOND_NS, MILLISECOND_NS, SECOND_NS, Appointment, Records
from obsray.testing.network import VirtualLink

if TYPE_CHECKING:
    from obsray.testing.simulator import Simulator
    from obsray.testing.virtual_process import VirtualProcess

NODE_ID = b"\0node\0\0\0"
FIRST_PID = 1000
LAST_WORDS_NS = 100 * MILLISECOND_NS
SAMPLE_NS = SECOND_NS


@dataclass(slots=True)
class Starts:
    """How new worker processes fare."""

    start_ms_min: float = 5.0
    start_ms_max: float = 20.0
    fork_fails_ratio: float = 0.0
    dies_ratio: float = 0.0


class VirtualNode:
    """``cpus`` and other resources as users give them; ``store_bytes`` of arena."""

    def __init__(self, simulator: Simulator, cpus: float, custom: dict[str, float], store_bytes: int) -> None:
        self.simulator = simulator
        self.agenda, self.network, self.chance = simulator.agenda, simulator.network, simulator.chance
        self.id = NODE_ID
        self.dead = False
        self.links: dict[int, VirtualLink] = {}
        self.records = Records(simulator.log, NODE_ID)
        self.starts = Starts()
        #: Share of writes to disk that fail.
        self.disk_fails_ratio = 0.0
        config = simulator.config
        total = {"CPU": round(cpus * UNIT), "memory": 1 << 30}
        total |= {name: round(amount * UNIT) for name, amount in custom.items()}
        self.total = total
        pool = WorkerPool(
            lambda: self.chance.randbytes(8), config.workers_prestart or max(1, int(cpus)), config.workers_max,
            config.worker_idle_seconds, config.worker_start_seconds_max, config.shutdown_grace_seconds,
        )  # fmt: skip
        objects = ObjectTable(store_bytes, "spill", config.spill_bytes_max, config.store_wait_seconds_max)
        self.machine = NodeMachine(NODE_ID, Resources(total), pool, objects, "sockets", dict)
        #: Offset in the arena -> what was written there last; path -> what lies in that file.
        self.arena: dict[int, Any] = {}
        self.files: dict[str, Any] = {}
        self._pids = FIRST_PID
        self._dying: dict[bytes, Ended] = {}
        self._clients: dict[bytes, VirtualLink] = {}
        self._wake: Appointment | None = None
        self._wake_at = 0.0

    def start(self) -> None:
        """Begin: fork the first workers, take samples."""
        self.do(self.machine.start)
        self.agenda.after(SAMPLE_NS, self._sample)

    def _sample(self) -> None:
        self.do(self.machine.sample, 0.0)
        self.agenda.after(SAMPLE_NS, self._sample)

    # --- the machine ---------------------------------------------------------------------------------------

    def do(self, stimulus: Callable[..., Any], *arguments: Any) -> Any:
        """One turn: give the machine a stimulus, carry out what it wants."""
        step = Step(self.agenda.monotonic(), self.agenda.time_ns(), self.records)
        result = self.simulator.decide("node", stimulus, step, *arguments)
        self._carry_out(step)
        return result

    def _carry_out(self, step: Step) -> None:
        for effect in step.effects:
            self._effect(effect)
        self.network.flush()
        if step.wake_at is not None and (self._wake is None or step.wake_at < self._wake_at):
            if self._wake is not None:
                self._wake.call_off()
            self._wake_at = step.wake_at
            self._wake = self.agenda.at_monotonic(step.wake_at, self._tick)
        self.simulator.after_step(self)

    def _tick(self) -> None:
        self._wake = None
        self.do(self.machine.tick)

    def _effect(self, effect: Effect) -> None:
        soon = self.chance.randint(10 * MICROSECOND_NS, 2 * MILLISECOND_NS)
        match effect:
            case Send(client, message):
                link = self._clients.get(client)
                if link is not None:
                    link.send(message)
            case Broadcast(message):
                for link in self._clients.values():
                    link.send(message)
            case StartWorker(worker, _):
                self.agenda.after(soon, self._fork, worker)
            case EndProcess(worker, _):
                self.agenda.after(soon, self.simulator.kill, worker)
            case ReserveArena(_, end):
                self.agenda.after(soon, self.do, self.machine.arena_reserved, end, "")
            case SpillObject():
                self.agenda.after(soon, self._spill, effect)
            case RestoreObject():
                self.agenda.after(soon, self._restore, effect)
            case RemoveFile(path):
                self.files.pop(path, None)
            case RemoveCheckpoints(actor):
                self.simulator.checkpoints.pop(actor, None)
            case _:
                pass

    # --- the disk ------------------------------------------------------------------------------------------

    def _disk_fails(self) -> bool:
        return bool(self.disk_fails_ratio) and self.chance.random() < self.disk_fails_ratio

    def _spill(self, spill: SpillObject) -> None:
        if self._disk_fails():
            self.do(self.machine.object_spilled, spill.token, spill.path, 0.001, "the disk is full")
            return
        # A file of an object that is freed while it is written is removed by the machine.
        self.files[spill.path] = self.arena.get(spill.offset)
        self.do(self.machine.object_spilled, spill.token, spill.path, 0.001, "")

    def _restore(self, restore: RestoreObject) -> None:
        if restore.path not in self.files:
            self.do(self.machine.object_restored, restore.token, 0.001, "no such file")
            return
        self.arena[restore.offset] = self.files[restore.path]
        self.do(self.machine.object_restored, restore.token, 0.001, "")

    # --- worker processes ------------------------------------------------------------------------------------

    def _fork(self, worker: bytes) -> None:
        starts, chance = self.starts, self.chance
        if chance.random() < starts.fork_fails_ratio:
            self.do(self.machine.worker_not_forked, worker, "no more processes")
            return
        self._pids += 1
        self.do(self.machine.worker_forked, worker, self._pids)
        wait = chance.randint(int(starts.start_ms_min * MILLISECOND_NS), int(starts.start_ms_max * MILLISECOND_NS))
        if chance.random() < starts.dies_ratio:
            self.agenda.after(wait, self.worker_ended, Ended(worker, self._pids, 1, 0))
        else:
            self.agenda.after(wait, self._join, worker, self._pids)

    def _join(self, worker: bytes, pid: int) -> None:
        if worker in self.machine.pool.workers and not self.machine.pool.workers[worker].killed:
            self.simulator.worker_started(worker, pid)
        else:
            # Killed before it could say hello.
            self.worker_ended(Ended(worker, pid, 0, SIGNAL_KILL))

    def worker_died(self, process: VirtualProcess, exit_code: int, signal: int, oom: str) -> None:
        """The system says that a child is gone; what its black box holds is read when it is buried."""
        ran = list(process.records.ran.values()) or [(NIL_TASK, 0)]
        started, attempts = tuple(task for task, _ in ran), tuple(attempt for _, attempt in ran)
        end = Ended(process.id, process.pid, exit_code, signal, 0, oom, False, started, started[0], "", attempts)
        self.agenda.after(self.chance.randint(10 * MICROSECOND_NS, 5 * MILLISECOND_NS), self.worker_ended, end)

    def worker_ended(self, end: Ended) -> None:
        """First its last words are read, then it is buried."""
        link = self._clients.get(end.worker)
        if link is None:
            self.do(self.machine.worker_ended, end)
            return
        self._dying[end.worker] = end
        self.agenda.after(LAST_WORDS_NS, self._cut_off, link)

    def _cut_off(self, link: VirtualLink) -> None:
        if not link.closed:
            self.network.close(link)
            self.closed_by_peer(link)

    # --- clients -------------------------------------------------------------------------------------------

    def join(self, process: VirtualProcess) -> VirtualLink | None:
        """A process connects and says hello: its end of the link, or None if it is not expected."""
        kind = process.kind
        me = Hello(process.id, int(kind), process.pid)
        near, far = self.network.connect(process, me, self, Hello(b"", int(ProcessKind.NODE), 0))
        step = Step(self.agenda.monotonic(), self.agenda.time_ns(), self.records)
        client = self.simulator.decide("node", self.machine.client_joined, step, process.id, kind, process.pid)
        if client is None:
            self.network.close(far)
            self._carry_out(step)
            return None
        process.job = client.job
        far.state = process.id
        self._clients[process.id] = far
        far.send(encode(Welcome(NODE_ID, process.id, client.job, self.machine.objects.capacity, {})))
        self._carry_out(step)
        return near

    def deliver(self, link: VirtualLink, messages: list[Message]) -> None:
        """A client sent something. What breaks the protocol is an error of the runtime here."""
        self.do(self.machine.client_messages, link.state, messages)

    def closed_by_peer(self, link: VirtualLink) -> None:
        """A client is gone."""
        client = link.state
        if client is None or self._clients.get(client) is not link:
            return
        del self._clients[client]
        self.do(self.machine.client_left, client)
        end = self._dying.pop(client, None)
        if end is not None:
            self.do(self.machine.worker_ended, end)

    def reading_delay_ns(self) -> int:
        """A node reads at once."""
        return 0
