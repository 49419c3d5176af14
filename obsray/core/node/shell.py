"""Shell: sockets, clock, threads and child processes around ``machine.py``.

One thread runs everything; what could block (pages, spill files) is done in ``disk.py``. Whatever a client sends, the
worst that happens is that its link is closed.
"""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from obsray.core.node import log_mirror
from obsray.core.node.abroad import STORE_RESOURCE
from obsray.core.node.black_box import BlackBox
from obsray.core.node.disk import Disk
from obsray.core.node.doorman import Doorman
from obsray.core.node.environment_maker import EnvironmentMaker
from obsray.core.node.environments import EnvironmentTable
from obsray.core.node.forks import Forks
from obsray.core.node.intake import Malformed
from obsray.core.node.joining import JOIN_SECONDS_MAX, CannotJoin, Joining
from obsray.core.node.log_mirror import LogMirror
from obsray.core.node.machine import Client, NodeMachine
from obsray.core.node.members import learned
from obsray.core.node.names import LATER
from obsray.core.node.naming import Naming
from obsray.core.node.neighbours import Neighbour, Neighbours
from obsray.core.node.objects import ObjectTable
from obsray.core.node.options import Machine, Options
from obsray.core.node.parcels import Parcels
from obsray.core.node.peers import PeerTable
from obsray.core.node.resources import Resources
from obsray.core.node.services import Services, services_of, wait_all
from obsray.core.node.step import (
    Broadcast,
    CancelPull,
    ConnectPeer,
    CutTransfers,
    DisconnectPeer,
    Effect,
    EndProcess,
    FindName,
    KeepCheckpoint,
    ListNames,
    MakeEnvironment,
    PullObject,
    ReadCheckpoint,
    RefuseTransfer,
    RemoveCheckpoints,
    RemoveEnvironment,
    RemoveFile,
    Report,
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
from obsray.core.node.transfer import Transfers
from obsray.core.node.workers import SIGNAL_KILL, Ended, WorkerPool
from obsray.core.protocol.labels import ACCELERATOR
from obsray.core.protocol.lifecycle import WorkerState
from obsray.core.protocol.messages import ActorChanged, Exit, Message, NodeLeaves, Welcome, encode
from obsray.core.system.arena import Arena
from obsray.core.system.checkpoints import keep, kept
from obsray.core.system.processes import clean_session
from obsray.core.transport.connection import PROTOCOL_VERSION, Hello
from obsray.core.transport.dial import TRANSFER_TARGET, dial
from obsray.core.transport.links import Link, Reactor
from obsray.core.transport.node_reporter import Membership, NodeReporter
from obsray.ids import worker_ids
from obsray.telemetry import session_file
from obsray.telemetry.events import DeathCause, ProcessKind
from obsray.telemetry.spine import Emitter, Ring, Silent

#: Children other than workers start once the first worker is there, or after this time.
SERVICES_AFTER_SECONDS = 0.3
#: A dead worker's link is read to its end first; if somebody else keeps it open, only this long.
LAST_WORDS_SECONDS = 0.1
#: A worker in the middle of a task cannot end in order; at a shutdown it gets only this long.
BUSY_GRACE_SECONDS = 0.3
#: A client that does not read what it is sent is cut off beyond this.
UNSENT_BYTES_MAX = 256 << 20
ZYGOTE_BACKOFF_SECONDS_MAX = 30.0


class Node:
    """A running node. ``run`` returns when it has ended and left nothing behind."""

    def __init__(self, options: Options, machine: Machine, forks: Forks, node: bytes) -> None:
        self.options, self.config, self.session = options, options.config, options.session
        self.node = node
        self.malformed = 0
        self.emitter: Emitter = (
            Silent() if self.config.telemetry == "off" else Ring(self.session / "rings", node, ProcessKind.NODE, node)
        )
        self.reactor = Reactor(self._on_messages, self._on_close)
        self.arena = Arena.create(machine.store_bytes)
        self.links: dict[bytes, Link] = {}
        self.disk = Disk(self.arena, self.reactor.post, self._reserved, self._spilled, self._restored)
        self.black_box = BlackBox(self.session)
        self.environments = EnvironmentMaker(self.session, self.reactor.post, self._environment_made)
        self.forks = forks
        self.machine = self._build(machine)
        self.neighbours = Neighbours(
            self.reactor, self.machine, self._do, self._log,
            lambda peer, why: self.reporter.report_unreachable(peer, why),
        )  # fmt: skip
        self.door: Doorman | None = None
        self.transfers = Transfers(
            self.arena, self._dial_transfers, self.reactor.post, partial(self._do, self.machine.transfer_asked),
            partial(self._do, self.machine.transfer_over), partial(self._do, self.machine.object_pulled),
        )  # fmt: skip
        self.log_mirror = LogMirror(self.session, self.machine, self.neighbours, self.emitter, self._logs_are_here)
        self.machine.requests.answer_by("flush_logs", self._flush_logs)
        if options.clustered:
            parcels = Parcels(self.session / "environments" / "packages", self.neighbours, self.reactor.post)
            self.environments.fetch = parcels.fetch
        self.services = Services(self.session, services_of(options), self._log)
        # Keeps what it is told until it is started, after the first worker: only then it loads gRPC, in its thread.
        self.reporter = NodeReporter(
            options.control or self.session / "sockets" / "control.sock", options.token, node, self.reactor.post,
            self._fenced, self._on_nodes if options.clustered else None,
        )  # fmt: skip
        self.joining = Joining(options, self.services)
        #: Where other nodes connect to: "host:port", "" on its own.
        self.address = ""
        self.naming = Naming(self.machine, self.reporter, self._do)
        self._offered = machine
        self._dying: dict[bytes, tuple[int, int, int]] = {}
        self._wake_at: float | None = None
        self._ending = ""
        self._fences = False
        self._child_ended = False
        self._zygote_failures = 0
        self._shared_settings: dict[str, Any] = {}
        self._started_at_ns = time.time_ns()

    def _build(self, machine: Machine) -> NodeMachine:
        config = self.config
        prestart = config.workers_prestart or max(1, machine.total["CPU"] // 10_000)
        new_id = worker_ids(self.node, int.from_bytes(os.urandom(4), "big"))
        pool = WorkerPool(
            new_id, prestart, config.workers_max, config.worker_idle_seconds,
            config.worker_start_seconds_max, config.shutdown_grace_seconds,
            EnvironmentTable(config.environment_bytes_max),
        )  # fmt: skip
        objects = ObjectTable(
            self.arena.size_bytes, str(self.session / "spill"), config.spill_bytes_max, config.store_wait_seconds_max
        )
        resources = Resources(machine.total, machine.gpus)
        sockets = str(self.session / "sockets")
        peers = PeerTable(self.node, self.options.head, self.options.clustered)
        return NodeMachine(self.node, resources, pool, objects, sockets, self._describe, self._labels(machine), peers)

    def _labels(self, machine: Machine) -> dict[str, str]:
        """The labels it was started with, and what accelerator it has if that is only one kind."""
        kinds = [name.partition(":")[2] for name in machine.total if name.startswith("accelerator_type:")]
        return {**({ACCELERATOR: kinds[0]} if len(kinds) == 1 else {}), **self.options.labels}

    def _describe(self) -> dict[str, Any]:
        return {
            "node": self.node,
            "alive": True,
            "address": self.address,
            "head": self.options.head,
            "name": self.options.node_name or socket.gethostname(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "session": str(self.session),
            "started_at_ns": self._started_at_ns,
            "resources": self._offered.total,
            "object_store_memory": self._offered.store_bytes,
        }

    def _log(self, line: str) -> None:
        print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {line}", file=sys.stderr, flush=True)

    # --- the life of a node --------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen, fork the first workers, say in ``session.json`` that the node is there."""
        self._shared_settings = {
            **self.options.settings,
            "config": asdict(self.config),
            "session_directory": str(self.session),
        }
        self._watch_signals()
        self._watch_zygote()
        if self.options.lifeline_fd is not None:
            self.reactor.on_readable(self.options.lifeline_fd, self._on_lifeline)
        self.listener = self.reactor.listen(
            self.session / "sockets" / "node.sock", self.options.token, self._on_link,
            lambda why: self._log(f"refused a process of this machine: {why}"),
        )  # fmt: skip
        if self.options.listen:
            self.address = self._open_door(self.options.listen)
        self.emitter.node_started(
            time.time_ns(), self.node, os.getpid(), self.emitter.intern(socket.gethostname()), self.arena.size_bytes
        )
        self._do(self.machine.start)
        self.reporter.register_node(
            socket.gethostname(), self.address or str(self.session / "sockets" / "node.sock"),
            {**self._offered.total, STORE_RESOURCE: self._offered.store_bytes},
            self.options.settings.get("version", ""), labels=self.machine.labels, name=self.options.node_name or "",
            session=str(self.session), head=self.options.head, on_admitted=self._admitted,
            on_not_admitted=self.joining.not_admitted,
            join_seconds=math.inf if self.options.head else JOIN_SECONDS_MAX,
        )  # fmt: skip
        now = time.monotonic()
        self.reactor.call_at(now + SERVICES_AFTER_SECONDS, self._start_services)
        self._sample_at(now + self.config.sample_interval_seconds)

    def _open_door(self, where: str) -> str:
        """Listen for other nodes; where they reach this one."""
        try:
            door = Doorman(
                self.reactor, self.node, self.session, self.options.token, where, self.neighbours.arrived,
                self._on_transfer, self._log,
            )  # fmt: skip
        except OSError as error:
            raise CannotJoin(f"this node cannot listen at {where}: {error}") from None
        self.neighbours.doorman = self.door = door
        return door.address

    def _on_transfer(self, sock: socket.socket, hello: Hello) -> None:
        peer = self.machine.peers.peers.get(hello.worker)
        if peer is None or not peer.alive or self._ending:
            sock.close()
        else:
            self.transfers.accept(sock, peer.id)

    def _dial_transfers(self, address: str) -> socket.socket:
        return dial(address, self.options.token, Hello(self.node, int(ProcessKind.NODE), os.getpid()), TRANSFER_TARGET)

    def _flush_logs(self, client: Client, arguments: dict[str, Any], number: int) -> Any:
        return LATER if self.log_mirror.ask(client.id, client.job, number) else {"nodes": []}

    def _logs_are_here(self, client: bytes, number: int, nodes: list[bytes]) -> None:
        self._do(self.machine.requests.answered, client, number, {"nodes": nodes})

    def _mirror_logs(self) -> None:
        self.log_mirror.look()
        self.reactor.call_at(time.monotonic() + log_mirror.LOOK_SECONDS, self._mirror_logs)

    def _admitted(self, membership: Membership) -> None:
        self.machine.jobs.count = max(self.machine.jobs.count, membership.jobs_above)
        self.joining.admitted(membership)

    def _on_nodes(self, rows: list[Any]) -> None:
        """The control store says who is there."""
        for row in rows:
            self._do(self.machine.abroad.node_learned, *learned(row))
        if self.options.head:
            # For the collector, which takes over the records of all nodes.
            known = self.machine.peers.peers.values()
            nodes = {peer.id.hex(): {"address": peer.facts.address, "alive": peer.alive} for peer in known}
            session_file.update(self.session, nodes=nodes)

    def join_cluster(self) -> None:
        """Become one of a cluster, or its head. Raises CannotJoin, with nothing left running."""
        # Nothing else may be in the way of what is waited for here.
        self.services.start({"control"})
        self.reporter.start()
        try:
            began = time.monotonic()
            self.joining.wait(self._turn)
            took, address = time.monotonic() - began, self.emitter.intern(self.joining.address)
            self.emitter.node_joined(time.time_ns(), self.node, address, took)
            self._mirror_logs()
            if self._ending:
                raise CannotJoin(self._ending)
        except CannotJoin as error:
            self._ending = str(error)
            self._end()
            raise

    def _fenced(self) -> None:
        self._log("the control store takes this node for dead")
        if self.options.clustered:
            # What it does is not part of the cluster any more, and others do it again: no time for anything.
            self._ending, self._fences = "the cluster takes this node for dead", True
            self.reactor.wake()

    def announce(self) -> None:
        """Write the facts that others look for. After the node listens: it takes a few milliseconds."""
        session_file.update(
            self.session, session=self.session.name, directory=str(self.session), node=self.node.hex(),
            node_pid=os.getpid(), started_at_ns=self._started_at_ns, resources=self._offered.total,
            object_store_memory=self._offered.store_bytes, host=socket.gethostname(), labels=self.machine.labels,
            config=asdict(self.config), protocol=PROTOCOL_VERSION, version=self.options.settings.get("version", ""),
            python=".".join(map(str, sys.version_info[:2])), node_address=self.address, head=self.options.head,
            control_address_tcp=self.joining.address, node_name=self._describe()["name"],
            lifeline=self.options.lifeline_fd is not None,
        )  # fmt: skip

    def run(self) -> None:
        """Serve until told to end, then end."""
        while not self._ending:
            self._turn()
        self._end()

    def _turn(self, timeout: float | None = None) -> None:
        self.forks.flush()
        if self._wake_at is not None:
            until = max(0.0, self._wake_at - time.monotonic())
            timeout = until if timeout is None else min(timeout, until)
        if self.forks.backlog():
            timeout = 0.005
        self.reactor.run_once(timeout)
        if self._wake_at is not None and time.monotonic() >= self._wake_at:
            self._wake_at = None
            self._do(self.machine.tick)
        if self._child_ended:
            self._child_ended = False
            self.services.check()

    def _watch_signals(self) -> None:
        def end(number: int, _: Any) -> None:
            self._ending = self._ending or f"it got signal {number}"
            self.reactor.wake()

        def child(*_: Any) -> None:
            self._child_ended = True
            self.reactor.wake()

        signal.signal(signal.SIGTERM, end)
        signal.signal(signal.SIGCHLD, child)
        # A ^C in a terminal is for the driver, which ends the node in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _on_lifeline(self) -> None:
        lifeline = self.options.lifeline_fd
        assert lifeline is not None
        if not os.read(lifeline, 4096):
            self.reactor.forget(lifeline)
            self._ending = self._ending or "the program that started it has ended"

    # --- machine and effects -------------------------------------------------------------------------------

    def _do(self, stimulus: Callable[..., Any], *arguments: Any) -> Any:
        """One turn of the machine: give it a stimulus, carry out what it wants."""
        step = self._step()
        try:
            return stimulus(step, *arguments)
        finally:
            self._carry_out(step)

    def _step(self) -> Step:
        return Step(time.monotonic(), time.time_ns(), self.emitter)

    def _carry_out(self, step: Step) -> None:
        for effect in step.effects:
            self._effect(effect)
        if step.wake_at is not None and (self._wake_at is None or step.wake_at < self._wake_at):
            self._wake_at = step.wake_at

    def _effect(self, effect: Effect) -> None:
        match effect:
            case Send(client, message):
                link = self.links.get(client)
                if link is not None:
                    link.send(message)
                elif self.neighbours.links:
                    self.neighbours.send_client(client, message)
            case SendNode(node, message):
                self.neighbours.send(node, message)
            case Broadcast(message, abroad):
                for link in self.links.values():
                    link.send(message)
                if abroad:
                    self.neighbours.send_all(message)
            case ConnectPeer(node, address):
                self.neighbours.connect(node, address)
            case DisconnectPeer(node):
                self.neighbours.disconnect(node)
            case StartWorker(worker, environment, place):
                if not self.forks.fork(worker, environment, place):
                    why = "the process that forks workers does not run; see logs/zygote.log"
                    self.reactor.post(lambda: self._do(self.machine.worker_not_forked, worker, why))
            case MakeEnvironment():
                self.environments.make(effect)
            case RemoveEnvironment(environment_id):
                self.environments.remove(environment_id)
            case EndProcess(worker, number):
                self.forks.signal(worker, number)
            case ReserveArena():
                self.disk.reserve(effect)
            case SpillObject():
                self.disk.spill(effect)
            case RestoreObject():
                self.disk.restore(effect)
            case PullObject():
                self.transfers.pull(effect)
            case CancelPull(token):
                self.transfers.cancel(token)
            case ServeObject() | RefuseTransfer():
                self.transfers.serve(effect)
            case CutTransfers(node):
                self.transfers.cut(node)
            case RemoveFile(path):
                self.disk.remove(path)
            case RemoveCheckpoints(actor):
                self.disk.remove_directory(self.session / "checkpoints" / actor.hex())
            case Report(news):
                self._report(news)
            case ReportJob(job, driver, pid, entrypoint, namespace):
                self.reporter.start_job(job, driver, pid, entrypoint, namespace)
            case KeepCheckpoint(_, _, actor, file, data, append, gone):
                directory = self.session / "checkpoints" / actor.hex()
                done = partial(self._do, self.machine.requests.checkpoint_done, effect)
                self.disk.do(partial(keep, directory, file, data, append, gone), done)
            case ReadCheckpoint(_, _, actor, file):
                done = partial(self._do, self.machine.requests.checkpoint_done, effect)
                self.disk.do(partial(kept, self.session / "checkpoints" / actor.hex(), file), done)
            case ReserveName() | FindName() | ListNames():
                self.naming.ask(effect)
            case Shutdown(reason):
                self._ending = self._ending or reason

    def _report(self, news: dict[str, Any] | ActorChanged) -> None:
        if isinstance(news, dict):
            self.reporter.actor_created(news)
        else:
            self.reporter.actor_changed(
                news.actor, news.state, news.incarnation, news.worker, news.path, news.cause, news.detail
            )

    def _reserved(self, end: int, error: str) -> None:
        if error:
            self._log(f"object store: no memory up to {end} bytes: {error}")
        self._do(self.machine.arena_reserved, end, error)

    def _spilled(self, token: int, path: str, seconds: float, error: str) -> None:
        if error:
            self._log(f"object store: spilling failed: {error}")
        self._do(self.machine.object_spilled, token, path, seconds, error)

    def _restored(self, token: int, seconds: float, error: str) -> None:
        if error:
            self._log(f"object store: an object is lost: {error}")
        self._do(self.machine.object_restored, token, seconds, error)

    def _environment_made(self, environment: bytes, place: dict[str, Any], size_bytes: int, error: str) -> None:
        if error:
            self._log(f"environment {environment.hex()} cannot be made: {error}")
        self._do(self.machine.environment_made, environment, place, size_bytes, error)

    # --- links ---------------------------------------------------------------------------------------------

    def _on_link(self, link: Link) -> None:
        peer = link.peer
        try:
            kind = ProcessKind(peer.kind)
        except ValueError:
            self.reactor.close(link)
            return
        step = self._step()
        client = self.machine.client_joined(step, peer.worker, kind, peer.pid)
        if client is None:
            self._log(f"refused {kind.name.lower()} {peer.worker.hex()} (pid {peer.pid}): not expected")
            self.reactor.close(link)
        else:
            link.state = peer.worker
            self.links[peer.worker] = link
            # Before anything that the machine has for it: the first message carries the arena.
            self._welcome(link, client.job)
        self._carry_out(step)
        if kind is ProcessKind.WORKER and not self.services.started and not self._ending:
            self.reactor.post(self._start_services)

    def _welcome(self, link: Link, job: int) -> None:
        addresses = {peer.id: peer.facts.address for peer in self.machine.peers.living()}
        settings = {**self._shared_settings, "nodes": addresses}
        message = Welcome(self.node, link.peer.worker, job, self.arena.size_bytes, settings)
        frame = link.connection.pack([encode(message)])
        try:
            sent = socket.send_fds(link.socket, [frame], [self.arena.fd])
        except OSError:
            self.reactor.broken.append(link)
            return
        if sent < len(frame):
            link.unsent.append(memoryview(frame)[sent:])

    def _on_messages(self, link: Link, messages: list[Message]) -> None:
        if type(link.state) is Neighbour:
            self.neighbours.received(link, messages)
            return
        try:
            self._do(self.machine.client_messages, link.state, messages)
        except Malformed as error:
            self.malformed += 1
            self._log(f"client {link.state.hex()} is cut off: {error}")
            self.reactor.close(link)
        except Exception:
            # A bug here must not end everybody's work; whoever met it is cut off and the log has the story.
            self.malformed += 1
            self._log(f"client {link.state.hex()} is cut off after an error in the node:\n{traceback.format_exc()}")
            self.reactor.close(link)

    def _on_close(self, link: Link) -> None:
        client = link.state
        if type(client) is Neighbour:
            self.neighbours.closed(link)
            return
        if client is None or self.links.get(client) is not link:
            return
        del self.links[client]
        known = self.machine.clients.get(client)
        self._do(self.machine.client_left, client)
        if known is not None and known.described:
            self.reporter.end_job(known.job, DeathCause.INTENDED if known.said_goodbye else DeathCause.UNKNOWN)
        if client in self._dying:
            self._bury(client)

    # --- worker processes ----------------------------------------------------------------------------------

    def _watch_zygote(self) -> None:
        if self.forks.socket is not None:
            self.reactor.on_readable(self.forks.socket.fileno(), self._on_zygote)

    def _on_zygote(self) -> None:
        messages = self.forks.receive()
        if messages is None:
            self._zygote_died()
            return
        for message in messages:
            match message:
                case ("ready", int()):
                    self._zygote_failures = 0
                case ("forked", worker, pid):
                    self._do(self.machine.worker_forked, worker, pid)
                case ("failed", worker, why):
                    self._do(self.machine.worker_not_forked, worker, why)
                case ("ended", worker, pid, status, rss_bytes):
                    self._worker_ended(worker, pid, status, rss_bytes)

    def _worker_ended(self, worker: bytes, pid: int, status: int, rss_bytes: int) -> None:
        self._dying[worker] = (pid, status, rss_bytes)
        link = self.links.get(worker)
        if link is None:
            self._bury(worker)
        else:
            # What it sent before it died is still in the socket; the end of file behind it buries the worker.
            self.reactor.call_at(time.monotonic() + LAST_WORDS_SECONDS, lambda: self.reactor.close(link))

    def _bury(self, worker: bytes) -> None:
        pid, status, rss_bytes = self._dying.pop(worker)
        self._remove_socket(worker)
        end = self.black_box.read(worker, pid, status, rss_bytes)
        known = self.machine.pool.workers.get(worker)
        if known is not None and known.state is WorkerState.STARTING:
            how = f"signal {end.signal}" if end.signal else f"exit code {end.exit_code}"
            self._log(f"worker {worker.hex()} (pid {pid}) ended before it said hello: {how}\n{end.tail}".rstrip())
        self._do(self.machine.worker_ended, end)

    def _remove_socket(self, worker: bytes) -> None:
        (self.session / "sockets" / f"{worker.hex()}.sock").unlink(missing_ok=True)

    def _zygote_died(self) -> None:
        assert self.forks.socket is not None
        self.reactor.forget(self.forks.socket.fileno())
        gone = self.forks.lost()
        self._log(f"the zygote (pid {self.forks.pid}) died with {len(gone)} workers")
        wait_all([self.forks.pid], 1.0, self._log)
        for worker, pid in gone.items():
            link = self.links.get(worker)
            if link is not None:
                self.reactor.close(link)
            self._remove_socket(worker)
            self._do(self.machine.worker_ended, Ended(worker, pid, 0, SIGNAL_KILL, parent_died=True))
        if not self._ending:
            delay = min(ZYGOTE_BACKOFF_SECONDS_MAX, 0.1 * 2**self._zygote_failures)
            self._zygote_failures += 1
            self.reactor.call_at(time.monotonic() + delay, self._start_zygote)

    def _start_zygote(self) -> None:
        if self._ending:
            return
        try:
            self.forks.start()
        except OSError as error:
            self._log(f"the zygote cannot be started: {error}")
            self.reactor.call_at(time.monotonic() + ZYGOTE_BACKOFF_SECONDS_MAX, self._start_zygote)
            return
        self._watch_zygote()
        self._do(self.machine.tick)

    # --- time ----------------------------------------------------------------------------------------------

    def _start_services(self) -> None:
        if not self.services.started and not self._ending:
            self.services.start()
            self.reporter.start()

    def _sample_at(self, instant: float) -> None:
        def sample() -> None:
            now = time.monotonic()
            self._do(self.machine.sample, now - instant)
            self.services.check()
            self._check_control(now)
            for link in list(self.links.values()):
                if link.unsent_bytes() > UNSENT_BYTES_MAX:
                    self._log(f"client {link.state.hex()} does not read and is cut off")
                    self.reactor.close(link)
            # From the plan, not from now: lateness must not add up.
            interval = self.config.sample_interval_seconds
            self._sample_at(max(instant + interval, now))

        self.reactor.call_at(instant, sample)

    def _check_control(self, now: float) -> None:
        """A node without a control store is in no cluster; that of the head is started again by itself."""
        silent = now - self.reporter.heard_at
        if not self.options.clustered or self.options.head or silent <= self.config.control_gone_seconds_max:
            return
        self.emitter.control_lost(time.time_ns(), self.node, silent)
        self._ending = self._ending or (
            f"it has heard of no control store of its cluster at {self.joining.address} for {silent:.0f} s "
            "(control_gone_seconds_max)"
        )

    # --- the end -------------------------------------------------------------------------------------------

    def _end(self) -> None:
        """End in order; after this nothing of the runtime is left but its logs and telemetry."""
        grace = self.config.shutdown_grace_seconds
        self._log(f"ending: {self._ending}")
        # 1. Nobody new comes in, and the other nodes know, after what workers here have printed so far.
        self.log_mirror.look()
        self.neighbours.send_all(encode(NodeLeaves(self._ending)))
        if self.options.clustered and not self._fences:
            self.reporter.leave(self._ending)
        self.neighbours.close()
        if self.door is not None:
            self.door.close()
        self.listener.close()
        self.machine.pool.draining = True
        # 2. Everybody is told; workers end by themselves, what does not is killed.
        for link in self.links.values():
            link.send(encode(Exit(self._ending)))
        self._end_workers(0.0 if self._fences else grace)
        # 3. Files and threads of the object store.
        self.transfers.close()
        self.disk.close(grace)
        self.environments.close()
        # 4. What serves people, and what the cluster's state lives in.
        self.reporter.close(grace)
        self.services.end({"dashboard", "control"}, grace)
        # 5. The last records are written before the collector reads for the last time.
        now = time.time_ns()
        self.emitter.node_stopped(now, self.node, self.emitter.intern(self._ending))
        self.emitter.close(now)
        self.services.end({"collector"}, grace)
        # 6. The zygote ends what workers may have left running, then itself.
        self.forks.close()
        wait_all([self.forks.pid], grace, self._log)
        # 7. Sockets, spilled objects, memory. Clients see their links close only now, when all is gone.
        clean_session(self.session)
        self.reactor.shutdown()
        self.arena.close()

    def _end_workers(self, grace: float) -> None:
        started = time.monotonic()
        workers = self.machine.pool.workers
        while workers:
            waited = time.monotonic() - started
            for worker in list(workers.values()):
                busy = worker.state in (WorkerState.LEASED, WorkerState.STARTING)
                if waited >= (min(grace, BUSY_GRACE_SECONDS) if busy else grace) and not worker.killed:
                    worker.killed = True
                    self.forks.signal(worker.id, SIGNAL_KILL)
            if waited >= 2 * grace + 1 or self.forks.socket is None:
                self._log(f"{len(workers)} workers did not end")
                # The zygote kills them when it ends; this is the last chance to record it.
                for name in list(workers):
                    self._do(self.machine.worker_ended, Ended(name, self.forks.pids.get(name, 0), 0, SIGNAL_KILL))
                return
            self._turn(0.05)
