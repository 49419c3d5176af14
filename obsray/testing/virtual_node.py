"""A node without sockets, clock and processes: the real machines, driven as ``core/node/shell.py`` drives them.

In a cluster its dealings with other nodes are the real ones, too: ``Neighbours`` for links, ``Naming`` and a reporter
for the control store; ``virtual_transfers.py`` stands for the threads that move objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from obsray.core.node.abroad import STORE_RESOURCE
from obsray.core.node.doorman import PEER_SECONDS_MAX
from obsray.core.node.machine import NodeMachine
from obsray.core.node.members import learned
from obsray.core.node.naming import Naming
from obsray.core.node.neighbours import Neighbour, Neighbours
from obsray.core.node.objects import ObjectTable
from obsray.core.node.peers import PeerTable
from obsray.core.node.resources import UNIT, Resources
from obsray.core.node.step import (
    Broadcast,
    CancelPull,
    ConnectPeer,
    CutTransfers,
    DisconnectPeer,
    Effect,
    EndProcess,
    FindName,
    ListNames,
    MakeFile,
    PullObject,
    RefuseTransfer,
    RegisterGroup,
    RemoveCheckpoints,
    RemoveFile,
    Report,
    ReportGroup,
    ReportJob,
    ReserveArena,
    ReserveName,
    RestoreObject,
    Send,
    SendNode,
    ServeObject,
    Shutdown,
    SpillObject,
    StartWorker,
    Step,
)
from obsray.core.node.workers import SIGNAL_KILL, Ended, WorkerPool
from obsray.core.protocol import messages as m
from obsray.core.protocol.fallback import FALLBACK, place_in
from obsray.core.protocol.lifecycle import ObjectState
from obsray.core.protocol.messages import Message, Welcome, encode
from obsray.core.transport.connection import Hello
from obsray.core.transport.node_reporter import Membership
from obsray.ids import NIL_TASK
from obsray.telemetry.events import DeathCause, ProcessKind
from obsray.testing.agenda import MICROSECOND_NS, MILLISECOND_NS, SECOND_NS, Appointment, Clock, Records
from obsray.testing.founding import FoundedLinks, FoundedPeerTable
from obsray.testing.ledger import Broken
from obsray.testing.network import VirtualLink
from obsray.testing.virtual_control import VirtualReporter
from obsray.testing.virtual_transfers import VirtualTransfers

if TYPE_CHECKING:
    from obsray.testing.simulator import Simulator
    from obsray.testing.virtual_autoscaler import VirtualAutoscaler
    from obsray.testing.virtual_process import VirtualProcess

NODE_ID = b"\0node\0\0\0"
FIRST_PID = 1000
LAST_WORDS_NS = 100 * MILLISECOND_NS
SAMPLE_NS = SECOND_NS
#: From the end of a drained node's work to the end of its process.
LEAVE_NS = 20 * MILLISECOND_NS


@dataclass(slots=True)
class Starts:
    """How new worker processes fare."""

    start_ms_min: float = 5.0
    start_ms_max: float = 20.0
    fork_fails_ratio: float = 0.0
    dies_ratio: float = 0.0


def node_id(number: int) -> bytes:
    """The id of the node with that number; in the order of their numbers, with a mark of its own."""
    return b"%c%03d\0\0\0\0" % (ord("n") + number // 1000, number % 1000)


def number_of(identifier: bytes) -> int:
    """The number of the node with that id."""
    return (identifier[0] - ord("n")) * 1000 + int(identifier[1:4])


class VirtualNode:
    """``number`` 0 is the head. ``cpus``: if it has not as many as others."""

    def __init__(self, simulator: Simulator, number: int, cpus: float | None = None) -> None:
        scenario = simulator.scenario
        self.simulator = simulator
        self.agenda, self.network, self.chance = simulator.agenda, simulator.network, simulator.chance
        self.number = number
        self.clustered = scenario.nodes > 1
        self.id = self.host = node_id(number) if self.clustered else NODE_ID
        self.name = f"node n{number}"
        # Machines were not started at the same time.
        self.clock = Clock(self.agenda, 1000.0 + 100 * number)
        self.dead = False
        self.paused = False
        self._failure: Exception | None = None
        #: What waits for the end of a pause, in order.
        self._waiting: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []
        self.links: dict[int, VirtualLink] = {}
        self.records = Records(simulator.log, self.id)
        self.starts = Starts()
        #: Share of writes to disk that fail, and how long they take at most.
        self.disk_fails_ratio = 0.0
        self.disk_ns_max = 2 * MILLISECOND_NS
        config = simulator.config
        cpus = scenario.cpus if cpus is None else cpus
        total = {"CPU": round(cpus * UNIT), "memory": 1 << 30}
        total |= {name: round(amount * UNIT) for name, amount in scenario.custom.items()}
        self.total = total
        pool = WorkerPool(
            lambda: self.new_id(), config.workers_prestart or max(1, int(cpus)), config.workers_max,
            config.worker_idle_seconds, config.worker_start_seconds_max, config.shutdown_grace_seconds,
        )  # fmt: skip
        store_bytes = scenario.store_bytes
        objects = ObjectTable(
            store_bytes, "spill", config.spill_bytes_max, config.store_wait_seconds_max,
            config.store_fallback_wait_seconds,
        )  # fmt: skip
        founding = simulator.founding
        founds = founding is not None and not founding.is_complete
        if founding is not None and founds:
            peers: PeerTable = FoundedPeerTable(self.id, not number, founding)
        else:
            peers = PeerTable(self.id, head=not number, clustered=self.clustered)
        self.machine = NodeMachine(self.id, Resources(total), pool, objects, "sockets", dict, {}, peers)
        #: Offset -> what was written there last, in the arena or in a file instead; path -> what was spilled there.
        self.arena: dict[int, Any] = {}
        self.files: dict[str, Any] = {}
        #: Offsets that stand for files that are gone: who has not mapped them yet cannot.
        self.gone: set[int] = set()
        self._pids = FIRST_PID
        self._dying: dict[bytes, Ended] = {}
        self._clients: dict[bytes, VirtualLink] = {}
        self._wake: Appointment | None = None
        self._wake_at = 0.0
        #: It is about to end by itself.
        self.leaving = False
        self.transfers = VirtualTransfers(self)
        reactor = cast(Any, SimpleNamespace(close=self._close_link, flush=self.network.flush))
        self.neighbours = Neighbours(reactor, self.machine, self.do, self._broken, self._refused)
        if founding is not None and founds:
            self.neighbours.links = FoundedLinks(self, founding)
        self.neighbours.doorman = cast(Any, SimpleNamespace(call=self._call))
        self.reporter: VirtualReporter | None = None
        self.naming: Naming | None = None
        self._heard_at = 0
        self.admitted = not self.clustered

    def new_id(self) -> bytes:
        """The id of a new process of this node."""
        return self.chance.randbytes(8)[:4] + self.id[:4] if self.clustered else self.chance.randbytes(8)

    def start(self) -> None:
        """Begin: fork the first workers, take samples, join."""
        self.do(self.machine.start)
        self.agenda.after(SAMPLE_NS, self._sample)
        if self.clustered:
            self.reporter = VirtualReporter(self, self._fenced)
            self.naming = Naming(self.machine, self.reporter, self.do)
            host, resources = self.id[:4].decode(), {**self.total, STORE_RESOURCE: self.machine.objects.capacity}
            self.reporter.register_node(
                host, f"{host}:1", resources, labels=self.machine.labels, name=host, head=not self.number,
                on_admitted=self._admitted,
                on_not_admitted=lambda why: self._broken(f"it may not join: {why.sentence}"),
            )  # fmt: skip

    def _admitted(self, membership: Membership) -> None:
        self.machine.jobs.count = max(self.machine.jobs.count, membership.jobs_above)
        self.admitted = True

    def _sample(self) -> None:
        if not self.dead:
            self.when_awake(self.do, self.machine.sample, 0.0)
            self.agenda.after(SAMPLE_NS, self._sample)

    def _broken(self, text: str) -> None:
        raise self._failure or Broken(f"{self.name}: {text}")

    # --- pauses and the end --------------------------------------------------------------------------------

    def when_awake(self, action: Callable[..., Any], *arguments: Any) -> None:
        """Call this now, or when the node goes on."""
        if self.paused:
            self._waiting.append((action, arguments))
        elif not self.dead:
            action(*arguments)

    def pause(self) -> None:
        """Stand still: nothing is read, and no time passes."""
        self.paused = True

    def go_on(self) -> None:
        """The end of a pause: all that happened meanwhile happens now."""
        self.paused = False
        waiting, self._waiting = self._waiting, []
        for action, arguments in waiting:
            self.when_awake(action, *arguments)
        self.network.resume()

    def _fenced(self) -> None:
        self.simulator.node_is_fenced(self)

    # --- the machine ---------------------------------------------------------------------------------------

    def do(self, stimulus: Callable[..., Any], *arguments: Any) -> Any:
        """One turn: give the machine a stimulus, carry out what it wants."""
        if self.dead:
            return None
        if self.paused:
            self._waiting.append((self.do, (stimulus, *arguments)))
            return None
        step = Step(self.clock.monotonic(), self.clock.time_ns(), self.records)
        try:
            result = self.simulator.decide("node", stimulus, step, *arguments)
            self._carry_out(step)
        except Exception as error:
            # Its shell would log it and go on; here it is the end, and only the first one counts.
            self._failure = self._failure or error
            raise
        return result

    def _carry_out(self, step: Step) -> None:
        for effect in step.effects:
            self._effect(effect)
        self.network.flush()
        if step.wake_at is not None and (self._wake is None or step.wake_at < self._wake_at):
            if self._wake is not None:
                self._wake.call_off()
            self._wake_at = step.wake_at
            self._wake = self.clock.at(step.wake_at, self._tick)
        if not self.dead:
            self.simulator.after_step(self)

    def _tick(self) -> None:
        self._wake = None
        self.do(self.machine.tick)

    def _effect(self, effect: Effect) -> None:
        match effect:
            case Send(client, message):
                link = self._clients.get(client)
                if link is not None:
                    link.send(message)
                elif self.neighbours.links:
                    self.neighbours.send_client(client, message)
            case SendNode(node, message):
                self.neighbours.send(node, message)
            case Broadcast(message, abroad):
                for link in self._clients.values():
                    link.send(message)
                if abroad:
                    self.neighbours.send_all(message)
            case StartWorker(worker, _):
                self.agenda.after(self._soon(), self._fork, worker)
            case EndProcess(worker, _):
                self.agenda.after(self._soon(), self.simulator.kill, worker)
            case ReserveArena(_, end):
                self.agenda.after(self._soon(), self.do, self.machine.arena_reserved, end, "")
            case SpillObject():
                self.agenda.after(self._disk_ns(), self._spill, effect)
            case MakeFile():
                self.agenda.after(self._disk_ns(), self._make_file, effect)
            case RestoreObject():
                self.agenda.after(self._disk_ns(), self._restore, effect)
            case RemoveFile(path):
                self.files.pop(path, None)
                if place_in(path) not in self.gone:
                    # What somebody else removed may still be mapped.
                    self.arena.pop(place_in(path), None)
            case RemoveCheckpoints(actor):
                # A guest's are kept by its home, which shares its disk here.
                if self.machine.peers.home_of(actor) is None:
                    self.simulator.checkpoints.pop(actor, None)
            case _:
                self._effect_abroad(effect)

    def _effect_abroad(self, effect: Effect) -> None:
        match effect:
            case ConnectPeer(node, address):
                self.neighbours.connect(node, address)
            case DisconnectPeer(node):
                self.neighbours.disconnect(node)
            case PullObject():
                self.transfers.pull(effect)
            case CancelPull(token):
                self.transfers.cancel(token)
            case ServeObject() | RefuseTransfer():
                self.transfers.serve(effect)
            case CutTransfers(node):
                self.transfers.cut(node)
            case ReserveName() | FindName() | ListNames():
                assert self.naming is not None
                self.naming.ask(effect)
            case RegisterGroup() if self.naming is not None:
                self.naming.register_group(effect)
            case ReportGroup(group, state, nodes, detail) if self.reporter is not None:
                self.reporter.update_group(group, int(state), nodes, detail)
            case Report(news) if self.reporter is not None:
                if isinstance(news, dict):
                    self.reporter.actor_created(news)
                else:
                    self.reporter.actor_changed(
                        news.actor, news.state, news.incarnation, news.worker, news.path, news.cause, news.detail
                    )
            case ReportJob(job, driver, pid, entrypoint, namespace) if self.reporter is not None:
                self.reporter.start_job(job, driver, pid, entrypoint, namespace)
            case Report() | ReportJob() | RegisterGroup() | ReportGroup():
                pass
            case Shutdown(reason) if self.machine.draining.active:
                self._leave(reason)
            case _:
                self._broken(f"nothing here carries out {effect}")

    def _leave(self, reason: str) -> None:
        """A drained node ends in order: it tells the others and the control store, and is gone a moment later."""
        if self.leaving:
            return
        self.leaving = True
        self.neighbours.send_all(m.encode(m.NodeLeaves(reason, False)))
        if self.reporter is not None:
            self.reporter.leave(reason)
        self.agenda.after(LEAVE_NS, self.simulator.crash_node, self, reason)

    def _soon(self) -> int:
        return self.chance.randint(10 * MICROSECOND_NS, 2 * MILLISECOND_NS)

    def _disk_ns(self) -> int:
        return self.chance.randint(10 * MICROSECOND_NS, self.disk_ns_max)

    # --- other nodes -----------------------------------------------------------------------------------------

    def hear_of_nodes(self, rows: list[Any], latency_ns: int) -> None:
        """The control store says who is there; in the order in which it said so."""
        self._heard_at = max(self._heard_at, self.agenda.elapsed_ns + latency_ns)
        self.agenda.at(self._heard_at, self.when_awake, self._on_nodes, rows)

    def _on_nodes(self, rows: list[Any]) -> None:
        for row in rows:
            self.do(self.machine.abroad.node_learned, *learned(row))

    def _refused(self, node: bytes, why: str) -> None:
        assert self.reporter is not None
        self.reporter.report_unreachable(node, why)

    def _call(self, node: bytes, address: str, on_failed: Callable[[bytes, ConnectionError], None]) -> None:
        """As ``Doorman.call``."""
        self.agenda.after(self.network.latency_ns(), self._knock, node, on_failed)

    def _knock(self, node: bytes, on_failed: Callable[[bytes, ConnectionError], None]) -> None:
        if self.dead:
            return
        there = self.simulator.nodes_by_id[node]
        try:
            if there.paused:
                raise TimeoutError("it does not answer")
            near, far = self.network.connect(
                self, Hello(self.id, int(ProcessKind.NODE), 0), there, Hello(node, int(ProcessKind.NODE), 0, True)
            )
        except ConnectionRefusedError as refused:
            self.when_awake(on_failed, node, refused)
        except TimeoutError as late:
            failed = ConnectionError(str(late))
            self.agenda.after(int(PEER_SECONDS_MAX * SECOND_NS), self.when_awake, on_failed, node, failed)
        else:
            there.neighbours.arrived(cast(Any, far))
            self.when_awake(self.neighbours.arrived, cast(Any, near))
            self.network.flush()

    def meet_all(self) -> None:
        """Have a link to each other node, also where none was needed so far."""
        if isinstance(self.neighbours.links, FoundedLinks):
            self.neighbours.links.meet_all()

    def _close_link(self, link: VirtualLink) -> None:
        if not link.closed:
            self.network.close(link)
            self._on_close(link)

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

    def _make_file(self, file: MakeFile) -> None:
        error = "the disk is full" if self._disk_fails() else ""
        self.do(self.machine.object_file_made, file.number, file.path, error)

    def _restore(self, restore: RestoreObject) -> None:
        if restore.path not in self.files:
            self.do(self.machine.object_restored, restore.token, 0.001, "no such file")
            return
        self.arena[restore.offset] = self.files[restore.path]
        self.do(self.machine.object_restored, restore.token, 0.001, "")

    def mapped_files(self) -> list[str]:
        """Those of complete objects that lie in files instead of the arena, and are not gone."""
        entries = self.machine.objects.entries.values()
        return [
            entry.stored_path for entry in entries
            if entry.state is ObjectState.SEALED and entry.offset >= FALLBACK and entry.offset not in self.gone
        ]  # fmt: skip

    def lose_file(self, path: str) -> None:
        """Somebody removes it."""
        self.files.pop(path, None)
        self.gone.add(place_in(path))

    def check_read(self, identifier: bytes, offset: int) -> None:
        """A reader has an object mapped at ``offset``. Raises Broken if something else lies there."""
        written = self.arena.get(offset)
        if written is None or written[0] != identifier:
            what = "nothing" if written is None else written[0].hex()
            raise Broken(f"{identifier.hex()} should lie at {offset} of {self.name}, but {what} does")

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
            self.agenda.after(wait, self.when_awake, self.worker_ended, Ended(worker, self._pids, 1, 0))
        else:
            self.agenda.after(wait, self.when_awake, self._join, worker, self._pids)

    def _join(self, worker: bytes, pid: int) -> None:
        if worker in self.machine.pool.workers and not self.machine.pool.workers[worker].killed:
            self.simulator.worker_started(self, worker, pid)
        else:
            # Killed before it could say hello.
            self.worker_ended(Ended(worker, pid, 0, SIGNAL_KILL))

    def worker_died(self, process: VirtualProcess, exit_code: int, signal: int, oom: str) -> None:
        """The system says that a child is gone; what its black box holds is read when it is buried."""
        ran = list(process.records.ran.values()) or [(NIL_TASK, 0)]
        started, attempts = tuple(task for task, _ in ran), tuple(attempt for _, attempt in ran)
        end = Ended(process.id, process.pid, exit_code, signal, 0, oom, "", started, started[0], "", attempts)
        wait = self.chance.randint(10 * MICROSECOND_NS, 5 * MILLISECOND_NS)
        self.agenda.after(wait, self.when_awake, self.worker_ended, end)

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

    def join(self, process: VirtualProcess | VirtualAutoscaler, kind: ProcessKind | None = None) -> VirtualLink | None:
        """A process connects and says hello: its end of the link, or None if it is not expected."""
        kind = process.kind if kind is None else kind
        me = Hello(process.id, int(kind), process.pid)
        near, far = self.network.connect(process, me, self, Hello(b"", int(ProcessKind.NODE), 0))
        step = Step(self.clock.monotonic(), self.clock.time_ns(), self.records)
        client = self.simulator.decide("node", self.machine.client_joined, step, process.id, kind, process.pid)
        if client is None:
            self.network.close(far)
            self._carry_out(step)
            return None
        process.job = client.job
        far.state = process.id
        self._clients[process.id] = far
        far.send(encode(Welcome(self.id, process.id, client.job, self.machine.objects.capacity, {})))
        self._carry_out(step)
        return near

    def deliver(self, link: VirtualLink, messages: list[Message]) -> None:
        """Somebody sent something. What breaks the protocol is an error of the runtime here."""
        if type(link.state) is Neighbour:
            self.neighbours.received(cast(Any, link), messages)
        else:
            self.do(self.machine.client_messages, link.state, messages)

    def closed_by_peer(self, link: VirtualLink) -> None:
        """Somebody is gone."""
        self.when_awake(self._on_close, link)

    def _on_close(self, link: VirtualLink) -> None:
        client = link.state
        if type(client) is Neighbour:
            self.neighbours.closed(cast(Any, link))
            return
        if client is None or self._clients.get(client) is not link:
            return
        del self._clients[client]
        known = self.machine.clients.get(client)
        self.do(self.machine.client_left, client)
        if known is not None and known.described and self.reporter is not None:
            self.reporter.end_job(known.job, DeathCause.INTENDED if known.said_goodbye else DeathCause.UNKNOWN)
        end = self._dying.pop(client, None)
        if end is not None:
            self.do(self.machine.worker_ended, end)

    def reading_delay_ns(self) -> int:
        """A node reads at once."""
        return 0
