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
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any

from obsray.core.node import halt_watch, log_mirror
from obsray.core.node.abroad import STORE_RESOURCE
from obsray.core.node.deeds import Deeds
from obsray.core.node.detection import accelerator_type
from obsray.core.node.disk import Disk
from obsray.core.node.doorman import Doorman
from obsray.core.node.ending import end
from obsray.core.node.environment_maker import EnvironmentMaker
from obsray.core.node.environments import EnvironmentTable
from obsray.core.node.forks import Forks
from obsray.core.node.halt_watch import HaltWatch
from obsray.core.node.intake import Malformed
from obsray.core.node.joining import JOIN_SECONDS_MAX, CannotJoin, Joining
from obsray.core.node.log_mirror import LogMirror
from obsray.core.node.machine import Client, NodeMachine
from obsray.core.node.members import learned
from obsray.core.node.memory import MemoryWatch
from obsray.core.node.names import LATER
from obsray.core.node.naming import Naming
from obsray.core.node.neighbours import Neighbour, Neighbours
from obsray.core.node.nursery import Nursery
from obsray.core.node.objects import ObjectTable
from obsray.core.node.options import ACCELERATOR_RESOURCE, Machine, Options
from obsray.core.node.parcels import Parcels
from obsray.core.node.peers import PeerTable
from obsray.core.node.resources import Resources
from obsray.core.node.services import Services, services_of
from obsray.core.node.step import Step
from obsray.core.node.transfer import Transfers
from obsray.core.node.worker_processes import WorkerProcesses
from obsray.core.node.workers import WorkerPool
from obsray.core.protocol.labels import ACCELERATOR
from obsray.core.protocol.messages import Message, Welcome, encode
from obsray.core.system.arena import Arena
from obsray.core.system.cgroup import Cgroup, cpus
from obsray.core.transport import chaos
from obsray.core.transport.connection import PROTOCOL_VERSION, Hello
from obsray.core.transport.dial import DIAL_SECONDS_MAX, TRANSFER_TARGET, dial
from obsray.core.transport.links import Link, Reactor
from obsray.core.transport.node_reporter import Membership, NodeReporter
from obsray.ids import worker_ids
from obsray.telemetry import live_stacks, session_file
from obsray.telemetry.events import DeathCause, ProcessKind
from obsray.telemetry.old_sessions import remove_old_sessions
from obsray.telemetry.pids import stat_of
from obsray.telemetry.spine import Emitter, Ring, Silent

#: Children other than workers start once the first worker is there, or after this time.
SERVICES_AFTER_SECONDS = 0.3
#: A client that does not read what it is sent is cut off beyond this.
UNSENT_BYTES_MAX = 256 << 20


class Node:
    """A running node. ``run`` returns when it has ended and left nothing behind."""

    def __init__(self, options: Options, machine: Machine, forks: Forks, node: bytes) -> None:
        self.options, self.config, self.session = options, options.config, options.session
        self._session_inode = os.stat(self.session).st_ino
        #: Where they are, if not in the session.
        self.sockets = (self.session / "sockets").resolve()
        self.node = node
        self.malformed = 0
        self.emitter: Emitter = (
            Silent() if self.config.telemetry == "off" else Ring(self.session / "rings", node, ProcessKind.NODE, node)
        )
        if isinstance(self.emitter, Ring):
            live_stacks.listen(self.emitter.directory, node)
        self.reactor = Reactor(self._on_messages, self._on_close)
        chaos.activate(self.config.chaos, ProcessKind.NODE, node, self.emitter, self.reactor)
        self.arena = Arena.create(machine.store_bytes, self.session / "spill")
        self.links: dict[bytes, Link] = {}
        deeds = Deeds(self)
        self._deeds = deeds.table
        self.disk = Disk(
            self.arena, self.reactor.post, deeds.reserved, deeds.spilled, deeds.restored, deeds.file_made
        )  # fmt: skip
        self.environments = EnvironmentMaker(self.session, self.reactor.post, deeds.environment_made)
        self.forks = forks
        self.machine = self._build(machine)
        self.processes = WorkerProcesses(self)
        self.memory = MemoryWatch(self)
        self.halts = HaltWatch(self)
        self.neighbours = Neighbours(
            self.reactor, self.machine, self.do, self.log,
            lambda peer, why: self.reporter.report_unreachable(peer, why),
        )  # fmt: skip
        self.door: Doorman | None = None
        self.transfers = Transfers(
            self.arena, self._dial_transfers, self.reactor.post, partial(self.do, self.machine.transfer_asked),
            partial(self.do, self.machine.transfer_over), partial(self.do, self.machine.object_pulled),
            self.config.transfer_stall_seconds,
        )  # fmt: skip
        self.log_mirror = LogMirror(self.session, self.machine, self.neighbours, self.emitter, self._logs_are_here)
        self.machine.requests.answer_by("flush_logs", self._flush_logs)
        if options.clustered:
            parcels = Parcels(self.session / "environments" / "packages", self.neighbours, self.reactor.post)
            self.environments.fetch = parcels.fetch
        watched = any(gpu.uuid for gpu in machine.gpus.values())
        self.services = Services(self.session, services_of(options, watched), self.log)
        self.nursery = Nursery(options, self.services)
        #: Beside the first tasks, and waited for at the end: also those of many short programs go.
        self.old_sessions = threading.Thread(target=self._remove_old_sessions, name="obsray-old-sessions", daemon=True)
        self.machine.scaling.offered = self.nursery.offered
        # Keeps what it is told until it is started, after the first worker: only then it loads gRPC, in its thread.
        self.reporter = NodeReporter(
            options.control or self.session / "sockets" / "control.sock", options.token, node, self.reactor.post,
            self._fenced, self._on_nodes if options.clustered else None,
        )  # fmt: skip
        self.joining = Joining(options, self.services)
        #: Where other nodes connect to: "host:port", "" on its own.
        self.address = ""
        self.naming = Naming(self.machine, self.reporter, self.do)
        self._offered = machine
        self._wake_at: float | None = None
        self.ending = ""
        self.fenced = False
        self._child_ended = False
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
            self.arena.size_bytes, str(self.session / "spill"), config.spill_bytes_max, config.store_wait_seconds_max,
            config.store_fallback_wait_seconds,
        )  # fmt: skip
        resources = Resources(machine.total, list(machine.gpus))
        sockets = str(self.session / "sockets")
        peers = PeerTable(self.node, self.options.head, self.options.clustered)
        labels = self._labels(machine)
        return NodeMachine(
            self.node, resources, pool, objects, sockets, self._describe, labels, peers, machine.gpus,
            config.nesting_wait_seconds_max,
        )  # fmt: skip

    def _labels(self, machine: Machine) -> dict[str, str]:
        """The labels it was started with, and what accelerator it has if that is only one kind."""
        custom = self.options.resources.get("custom") or {}
        said = [name.partition(":")[2] for name in custom if name.startswith(ACCELERATOR_RESOURCE)]
        kinds = said or [kind for kind in machine.kinds if not kind.startswith("A100-")]
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

    def log(self, line: str) -> None:
        try:
            print(f"{time.strftime('%Y-%m-%dT%H:%M:%S')} {line}", file=sys.stderr, flush=True)
        except OSError:
            pass  # the disk is full: the node has more important things to do

    # --- the life of a node --------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen, fork the first workers, say in ``session.json`` that the node is there."""
        self._shared_settings = {
            **self.options.settings,
            "config": asdict(self.config),
            "session_directory": str(self.session),
        }
        self._watch_signals()
        self.processes.watch()
        if self.options.lifeline_fd is not None:
            self.reactor.on_readable(self.options.lifeline_fd, self._on_lifeline)
        self.listener = self.reactor.listen(
            self.session / "sockets" / "node.sock", self.options.token, self._on_link,
            lambda why: self.log(f"refused a process of this machine: {why}"),
        )  # fmt: skip
        if self.options.listen:
            self.address = self._open_door(self.options.listen)
        self.emitter.node_started(
            time.time_ns(), self.node, os.getpid(), self.emitter.intern(socket.gethostname()), self.arena.size_bytes,
            self.emitter.intern(self._describe()["name"]), self.options.head,
            self.emitter.intern(", ".join(f"{key}={text}" for key, text in sorted(self.machine.labels.items()))),
        )  # fmt: skip
        self._tell_gpus()
        self.do(self.machine.start)
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
        self.reactor.call_at(now + self.config.memory_check_seconds, self.memory.start)
        self.reactor.call_at(now + halt_watch.LOOK_SECONDS, self.halts.start)

    def _tell_gpus(self) -> None:
        """Record what this node has, and say in the log what people should know about it."""
        intern, kind = self.emitter.intern, accelerator_type
        for note in self._offered.notes:
            self.log(note)
        for number, gpu in self._offered.gpus.items():
            self.emitter.gpu_found(
                time.time_ns(), self.node, min(number, 255), gpu.index, intern(gpu.uuid), intern(gpu.model),
                intern(kind(gpu.model)), gpu.memory_bytes, gpu.mig, intern("; ".join(self._offered.notes)),
            )  # fmt: skip

    def _open_door(self, where: str) -> str:
        """Listen for other nodes; where they reach this one."""
        try:
            door = Doorman(
                self.reactor, self.node, self.session, self.options.token, where, self.neighbours.arrived,
                self._on_transfer, self.log,
            )  # fmt: skip
        except OSError as error:
            raise CannotJoin(f"this node cannot listen at {where}: {error}") from None
        self.neighbours.doorman = self.door = door
        return door.address

    def _on_transfer(self, sock: socket.socket, hello: Hello) -> None:
        peer = self.machine.peers.peers.get(hello.worker)
        if peer is None or not peer.alive or self.ending:
            sock.close()
        else:
            self.transfers.accept(sock, peer.id)

    def _dial_transfers(self, address: str) -> socket.socket:
        seconds = min(DIAL_SECONDS_MAX, self.config.transfer_stall_seconds)
        me = Hello(self.node, int(ProcessKind.NODE), os.getpid())
        return dial(address, self.options.token, me, TRANSFER_TARGET, seconds)

    def _flush_logs(self, client: Client, arguments: dict[str, Any], number: int) -> Any:
        return LATER if self.log_mirror.ask(client.id, client.job, number) else {"nodes": []}

    def _logs_are_here(self, client: bytes, number: int, nodes: list[bytes]) -> None:
        self.do(self.machine.requests.answered, client, number, {"nodes": nodes})

    def _mirror_logs(self) -> None:
        self.log_mirror.look()
        self.reactor.call_at(time.monotonic() + log_mirror.LOOK_SECONDS, self._mirror_logs)

    def _admitted(self, membership: Membership) -> None:
        self.machine.jobs.count = max(self.machine.jobs.count, membership.jobs_above)
        self.joining.admitted(membership)

    def _on_nodes(self, rows: list[Any]) -> None:
        """The control store says who is there."""
        for row in rows:
            self.do(self.machine.abroad.node_learned, *learned(row))
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
            self.joining.wait(self.turn)
            took, address = time.monotonic() - began, self.emitter.intern(self.joining.address)
            self.emitter.node_joined(time.time_ns(), self.node, address, took)
            self._mirror_logs()
            if self.ending:
                raise CannotJoin(self.ending)
        except CannotJoin as error:
            self.ending = str(error)
            end(self)
            raise

    def _fenced(self) -> None:
        self.log("the control store takes this node for dead")
        if self.options.clustered:
            # What it does is not part of the cluster any more, and others do it again: no time for anything.
            self.ending, self.fenced = "the cluster takes this node for dead", True
            self.reactor.wake()

    def announce(self) -> None:
        """Write the facts that others look for. After the node listens: it takes a few milliseconds."""
        started = stat_of(os.getpid())
        session_file.update(
            self.session, session=self.session.name, directory=str(self.session), node=self.node.hex(),
            node_pid=os.getpid(), dashboard=any(s.name == "dashboard" for s in self.services.services),
            started_at_ns=self._started_at_ns, resources=self._offered.total,
            object_store_memory=self._offered.store_bytes, host=socket.gethostname(), labels=self.machine.labels,
            config=asdict(self.config), protocol=PROTOCOL_VERSION, version=self.options.settings.get("version", ""),
            python=".".join(map(str, sys.version_info[:2])), node_address=self.address, head=self.options.head,
            control_address_tcp=self.joining.address, node_name=self._describe()["name"],
            lifeline=self.options.lifeline_fd is not None, gpus=self.machine.gpus.described(),
            processors=cpus(Cgroup()), node_started_ticks=started.started if started else 0,
        )  # fmt: skip

    def run(self) -> None:
        """Serve until told to end, then end."""
        self.old_sessions.start()
        while not self.ending:
            self.turn()
        end(self)

    def turn(self, timeout: float | None = None) -> None:
        self.forks.flush()
        if self._wake_at is not None:
            until = max(0.0, self._wake_at - time.monotonic())
            timeout = until if timeout is None else min(timeout, until)
        if self.forks.backlog():
            timeout = 0.005
        self.reactor.run_once(timeout)
        if self._wake_at is not None and time.monotonic() >= self._wake_at:
            self._wake_at = None
            self.do(self.machine.tick)
        if self._child_ended:
            self._child_ended = False
            self.services.check()

    def _remove_old_sessions(self) -> None:
        removed = remove_old_sessions(self.session, self.config.sessions_max)
        if removed:
            count = f"{len(removed)} session{'s' * (len(removed) > 1)}"
            self.log(
                f"removed the directories of {count} that ended long ago: sessions_max is {self.config.sessions_max}"
            )

    def _watch_signals(self) -> None:
        def stop(number: int, _: Any) -> None:
            self.ending = self.ending or f"it got signal {number}"
            self.reactor.wake()

        def child(*_: Any) -> None:
            self._child_ended = True
            self.reactor.wake()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGCHLD, child)
        # A ^C in a terminal is for the driver, which ends the node in order.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _on_lifeline(self) -> None:
        lifeline = self.options.lifeline_fd
        assert lifeline is not None
        if not os.read(lifeline, 4096):
            self.reactor.forget(lifeline)
            self.ending = self.ending or "the program that started it has ended"

    # --- machine and effects -------------------------------------------------------------------------------

    def do(self, stimulus: Callable[..., Any], *arguments: Any) -> Any:
        """One turn of the machine: give it a stimulus, carry out what it wants."""
        step = self._step()
        try:
            return stimulus(step, *arguments)
        finally:
            self._carry_out(step)

    def _step(self) -> Step:
        return Step(time.monotonic(), time.time_ns(), self.emitter)

    def _carry_out(self, step: Step) -> None:
        deeds = self._deeds
        for effect in step.effects:
            deeds[type(effect)](effect)
        if step.wake_at is not None and (self._wake_at is None or step.wake_at < self._wake_at):
            self._wake_at = step.wake_at

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
            self.log(f"refused {kind.name.lower()} {peer.worker.hex()} (pid {peer.pid}): not expected")
            self.reactor.close(link)
        else:
            link.state = peer.worker
            self.links[peer.worker] = link
            # Before anything that the machine has for it: the first message carries the arena.
            self._welcome(link, client.job)
        self._carry_out(step)
        if kind is ProcessKind.WORKER and not self.services.started and not self.ending:
            self.reactor.post(self._start_services)

    def _welcome(self, link: Link, job: int) -> None:
        addresses = {peer.id: peer.facts.address for peer in self.machine.peers.living()}
        settings = {**self._shared_settings, "nodes": addresses, "gone": self.machine.peers.gone()}
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
            self.do(self.machine.client_messages, link.state, messages)
        except Malformed as error:
            self.malformed += 1
            self.log(f"client {link.state.hex()} is cut off: {error}")
            self.reactor.close(link)
        except Exception:
            # A bug here must not end everybody's work; whoever met it is cut off and the log has the story.
            self.malformed += 1
            self.log(f"client {link.state.hex()} is cut off after an error in the node:\n{traceback.format_exc()}")
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
        self.do(self.machine.client_left, client)
        if known is not None and known.described:
            self.reporter.end_job(known.job, DeathCause.INTENDED if known.said_goodbye else DeathCause.UNKNOWN)
        self.processes.link_closed(client)

    # --- time ----------------------------------------------------------------------------------------------

    def _start_services(self) -> None:
        if not self.services.started and not self.ending:
            self.services.start()
            self.reporter.start()

    def _sample_at(self, instant: float) -> None:
        def sample() -> None:
            now = time.monotonic()
            self.do(self.machine.sample, now - instant)
            self.services.check()
            self._check_control(now)
            self._check_session()
            for link in list(self.links.values()):
                if link.unsent_bytes() > UNSENT_BYTES_MAX:
                    self.log(f"client {link.state.hex()} does not read and is cut off")
                    self.reactor.close(link)
            # From the plan, not from now: lateness must not add up.
            interval = self.config.sample_interval_seconds
            self._sample_at(max(instant + interval, now))

        self.reactor.call_at(instant, sample)

    def _check_session(self) -> None:
        """Without its directory nobody can join, nothing can be kept, and nobody can end it: it is over."""
        try:
            there = os.stat(self.session).st_ino == self._session_inode
        except FileNotFoundError:
            there = False
        if not there:
            self.ending = self.ending or f"its session directory {self.session} was removed"

    def _check_control(self, now: float) -> None:
        """A node without a control store is in no cluster; that of the head is started again by itself."""
        silent = now - self.reporter.heard_at
        if not self.options.clustered or self.options.head or silent <= self.config.control_gone_seconds_max:
            return
        self.emitter.control_lost(time.time_ns(), self.node, silent)
        self.ending = self.ending or (
            f"it has heard of no control store of its cluster at {self.joining.address} for {silent:.0f} s "
            "(control_gone_seconds_max)"
        )
