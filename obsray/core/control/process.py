"""The shell of the control store: a process with a gRPC server, a clock and a ring around ``machine.py``.

``python -m obsray.core.control.process --session-dir DIR`` is started by the node and ends with it. It is ready when
``session.json`` says ``control_address``. With ``--listen host:port`` other machines' nodes reach it too, and
``session.json`` says ``control_address_tcp``.

With ``--storage DIR`` (by default, if it listens, ``control/`` of the session) it keeps its state there and begins with
what is kept there. With ``--standby`` it waits until the process that uses the storage is gone, and takes over; so does
one that is started again after another has taken over from it.

Its end, in order: 1. no new calls; 2. calls under way get ``GRACE_SECONDS``; 3. the storage is let go; 4. the ring is
closed; 5. the socket is removed. Nothing needs to be saved: what was acknowledged is in the storage already.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import ipaddress
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from obsray.config import Config, variable
from obsray.core.control.journal import Fenced, Held, NoStorage, Storage
from obsray.core.control.machine import ControlMachine, from_journal
from obsray.core.control.membership import MembershipSettings
from obsray.core.control.redis_storage import RedisStorage
from obsray.core.control.service import ControlService, instant, serve, storage_of, taken
from obsray.core.control.sqlite_storage import SqliteStorage
from obsray.core.system.fate import die_with_parent, parent_is_gone
from obsray.ids import MARK_BYTES, WORKER_ID_BYTES, worker_id
from obsray.telemetry import live_stacks, session_file
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.spine import Emitter, Ring, Silent

SOCKET = "sockets/control.sock"
TOKEN_BYTES = 32
#: Well below MembershipSettings.pause_seconds, which tells this process' own standstill from a node's silence.
LOOK_SECONDS = 0.25
GRACE_SECONDS = 0.5
#: How long a standby waits for the one that it stands by for to say where its storage is.
JOIN_SECONDS_MAX = 10.0
WARNING = """\
**********************************************************************************************
WARNING: the control store listens at {}, where others than this machine reach it.
What is said there is not encrypted. Whoever can read this network can take part in the cluster,
and run programs as this user. See docs/security.md.
**********************************************************************************************"""


class Recovery:
    """A machine in the state that a storage describes, which may change meanwhile. One thread at a time uses it."""

    def __init__(self, storage: Storage, settings: MembershipSettings | None = None) -> None:
        self._storage, self._settings = storage, settings
        self._machine: ControlMachine | None = None
        self._fails = False
        self._since_snapshot = 0
        #: How many were new at the last look.
        self.entries = 0

    def follow(self) -> None:
        """Go on to what is kept by now. What cannot be read yet, or at all, is for whoever finishes."""
        if self._fails:
            return
        try:
            self._go_on()
        except OSError:
            self._machine = None
        except ValueError:
            self._machine, self._fails = None, True

    def finish(self) -> ControlMachine:
        """The machine, which decides from now on. Raises OSError, or ValueError if something cannot be read."""
        machine = self._go_on()
        machine.recovered(instant(), self._storage.epoch)
        return machine

    def _go_on(self) -> ControlMachine:
        machine, storage = self._machine, self._storage
        state, entries = storage.load(more=machine is not None)
        if machine is None or state is not None:
            machine = self._machine = ControlMachine(storage.epoch, self._settings)
            self._since_snapshot = 0
            if state:
                machine.restore(state)
        self.entries = 0
        for self.entries, entry in enumerate(entries, 1):
            self._since_snapshot += 1
            try:
                machine.step(*from_journal(entry))
            except ValueError as error:
                which = f"entry {self._since_snapshot} since the snapshot"
                raise ValueError(f"{storage.place}: {which} cannot be read: {error}") from error
        return machine


def open_storage(where: str) -> Storage:
    """The storage that ``--storage`` names; "" for none. Raises OSError or ValueError if it cannot be used."""
    if not where:
        return NoStorage(int.from_bytes(os.urandom(7), "big"))
    if where.startswith("redis://"):
        return RedisStorage(where)
    if "://" in where:
        kind = where.partition("://")[0]
        raise ValueError(f"there is no storage of the kind {kind!r}: give a directory or redis://HOST:PORT")
    return SqliteStorage(Path(where).resolve())


def read_token(session: Path) -> bytes:
    """The cluster's token. Raises PermissionError if others could have read it, ValueError if it is not one."""
    path = session / "token"
    if path.stat().st_mode & 0o077:
        raise PermissionError(f"{path} must be readable by its owner only (mode 0600)")
    token = path.read_bytes()
    if len(token) != TOKEN_BYTES:
        raise ValueError(f"{path} holds {len(token)} bytes, want {TOKEN_BYTES}")
    return token


def check_listen(listen: str, unsafe_network: bool) -> bool:
    """Whether ``host:port`` is loopback. Raises ValueError if it is no address, or open to others without leave."""
    host, separator, port = listen.rpartition(":")
    if not separator or not host or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"--listen wants host:port, got {listen!r}")
    addresses = {entry[4][0] for entry in socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)}
    if all(ipaddress.ip_address(str(address).partition("%")[0]).is_loopback for address in addresses):
        return True
    if not unsafe_network:
        raise ValueError(
            f"{host} is not loopback, and what is said to the control store is not encrypted: set "
            f"{variable('unsafe_network')}=1 if everybody who can read this network may take part in the cluster"
        )
    return False


def _settings(config: Config) -> MembershipSettings:
    return MembershipSettings(
        heartbeat_seconds=config.node_heartbeat_seconds,
        suspect_seconds=config.node_suspect_seconds,
        dead_seconds=config.node_dead_seconds,
        # Two heartbeats that did not come, and one second unless they come less often.
        refused_seconds=max(2 * config.node_heartbeat_seconds, min(1.0, config.node_suspect_seconds)),
    )


def _emitter(session: Path, node: bytes) -> Emitter:
    if Config.from_environment().telemetry == "off":
        return Silent()
    directory = session / "rings"
    directory.mkdir(mode=0o700, exist_ok=True)
    own = worker_id(node, os.urandom(WORKER_ID_BYTES - MARK_BYTES))
    live_stacks.listen(directory, own)
    return Ring(directory, own, ProcessKind.CONTROL, node)


class _Process:
    """One control process: what it needs, its turn, its end."""

    def __init__(self, session: Path, options: argparse.Namespace, parent: int) -> None:
        self.session, self.options, self.parent = session, options, parent
        self.config = Config.from_environment()
        self.token = read_token(session)
        self.storage = open_storage(options.storage or (str(session / "control") if options.listen else ""))
        self.standby: bool = options.standby
        node = bytes.fromhex(session_file.read(session).get("node", "")) or bytes(8)
        self.emitter = _emitter(session, node)
        self.service = ControlService(self.storage, self.emitter)
        self.stop = asyncio.Event()
        #: With its own name: gRPC would not follow a link to where paths are short.
        self.socket = session / SOCKET
        if self.socket.parent.is_symlink():
            self.socket = self.socket.resolve()
        #: Where it listens until it is its turn: a socket's path leads to the one that decides.
        self.own_socket = self.socket.with_name(f"control.{os.getpid()}.sock")
        self.address = ""

    async def run(self) -> int:
        listen = self._listen()
        if listen and not check_listen(listen, self.config.unsafe_network == "1"):
            print(WARNING.format(listen), file=sys.stderr, flush=True)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        self.socket.parent.mkdir(mode=0o700, exist_ok=True)
        if not self.standby:
            try:
                self.storage.acquire()
            except Held:
                if "control_pid" not in session_file.read(self.session):
                    raise
                # This session's own control store, started again: another one has taken over from it.
                self.standby = True
        server, self.address = await serve(self.service, self.own_socket, self.token, listen)
        try:
            if self.address:
                self.storage.announce(self.address)
            if await self._turn():
                await self._serve()
        finally:
            await server.stop(GRACE_SECONDS)
            await self.service.close()
            self.storage.close()
            self._forget_socket()
            failure = self.service.failure
            if isinstance(failure, Fenced):
                self.emitter.control_fenced(time.time_ns(), self.storage.epoch, self.emitter.intern(str(failure)))
            self.emitter.close(time.time_ns())
        if failure is not None:
            print(f"obsray control: {failure}", file=sys.stderr)
        return 0 if failure is None else 1

    def _listen(self) -> str:
        """Where to listen: if any port will do, the one of the last time, which nodes and programs know."""
        listen: str = self.options.listen
        before: str = session_file.read(self.session).get("control_own_address", "")
        host, _, port = listen.rpartition(":")
        known = port == "0" and not self.standby and before.rpartition(":")[0] == host
        return before if known and not taken(host, before.rpartition(":")[2]) else listen

    async def _turn(self) -> bool:
        """Wait for the turn and begin to answer; False if the end came first."""
        why = ""
        recovery = Recovery(self.storage, _settings(self.config))
        # What is here now stays: spares every later collection a walk over the imported modules.
        gc.collect()
        gc.freeze()
        if self.standby:
            loop = asyncio.get_running_loop()
            why = await loop.run_in_executor(None, self.storage.stand_by, self._over, recovery.follow)
            if not why:
                return False
        started_at = time.perf_counter()
        machine, entries = recovery.finish(), recovery.entries
        self.service.begin(machine, lambda: Recovery(self.storage, _settings(self.config)).finish())
        seconds = time.perf_counter() - started_at
        # Those who wait already come first.
        await asyncio.sleep(0)
        emitter, epoch = self.emitter, self.storage.epoch
        place = emitter.intern(self.storage.place)
        if why:
            emitter.control_took_over(time.time_ns(), epoch, seconds, entries, place, emitter.intern(why))
            try:
                print(f"obsray control: epoch {epoch}: took over: {why}", file=sys.stderr, flush=True)
            except OSError:
                pass  # the disk is full
        else:
            emitter.control_started(time.time_ns(), epoch, seconds, entries, place)
        self.own_socket.rename(self.socket)
        facts = {"control_address": f"unix:{self.socket}", "control_pid": os.getpid()}
        if self.storage.durable:
            facts["control_epoch"] = epoch
        if self.address:
            facts |= {"control_address_tcp": self.address, "control_own_address": self.address}
        session_file.update(self.session, **facts)
        return True

    def _over(self) -> bool:
        return self.stop.is_set() or parent_is_gone(self.parent)

    async def _serve(self) -> None:
        service = self.service
        gc.freeze()
        while not self._over() and not service.broken.is_set():
            try:
                self.storage.renew()
                others = [place for place in self.storage.places() if place != self.address]
                service.places = [self.address, *others] if self.address else others
            except OSError as error:
                service.fail(error)
                return
            await service.look()
            try:
                await asyncio.wait_for(self.stop.wait(), LOOK_SECONDS)
            except TimeoutError:
                pass

    def _forget_socket(self) -> None:
        """Remove the socket, unless its path leads to another process by now."""
        self.own_socket.unlink(missing_ok=True)
        if session_file.read(self.session).get("control_pid") == os.getpid():
            self.socket.unlink(missing_ok=True)


async def _storage_to_share(address: str, token: bytes) -> str:
    where = await storage_of(address, token, JOIN_SECONDS_MAX)
    if not where:
        raise ValueError(f"the control store at {address} keeps its state in memory: nobody can stand by for it")
    if "://" not in where and not Path(where).is_dir():
        raise ValueError(
            f"the control store at {address} keeps its state in {where}, which is not on this machine: start the head "
            "with --storage redis://HOST:PORT, or the standby on the head's machine"
        )
    return where


async def _process(session: Path, options: argparse.Namespace, parent: int) -> int:
    if options.standby and not options.storage:
        options.storage = await _storage_to_share(options.join, read_token(session))
    return await _Process(session, options, parent).run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop or until the parent is gone; returns the exit code."""
    parser = argparse.ArgumentParser(prog="obsray-control", description="The control store of an obsray runtime.")
    parser.add_argument("--session-dir", type=Path, required=True, help="directory of the session")
    parser.add_argument("--listen", default="", metavar="HOST:PORT", help="also listen there, for nodes (port 0: any)")
    parser.add_argument("--storage", default="", metavar="WHERE", help="a directory, or redis://HOST:PORT,...")
    parser.add_argument("--standby", action="store_true", help="take over when the one that uses the storage is gone")
    parser.add_argument("--join", default="", metavar="HOST:PORT", help="stand by for the control store there")
    parent = os.getppid()
    options = parser.parse_args(arguments)
    if options.join:
        options.standby = True
    if options.standby and not options.storage and not options.join:
        print("obsray control: a standby needs the --storage of the control store it stands by for", file=sys.stderr)
        return 1
    session: Path = options.session_dir
    die_with_parent(parent)
    os.umask(0o077)
    try:
        return asyncio.run(_process(session, options, parent))
    except (OSError, ValueError) as error:
        print(f"obsray control: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
