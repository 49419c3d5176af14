"""The shell of the control store: a process with a gRPC server, a clock and a ring around ``machine.py``.

``python -m obsray.core.control.process --session-dir DIR`` is started by the node and ends with it. It is ready when
``session.json`` says ``control_address``. With ``--listen host:port`` other machines' nodes reach it too, and
``session.json`` says ``control_address_tcp``.

Its end, in order: 1. no new calls; 2. calls under way get ``GRACE_SECONDS``; 3. the ring is closed; 4. the socket is
removed. Nothing needs to be saved: what was acknowledged is in the journal already.
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
from obsray.core.control.journal import Journal, NoJournal
from obsray.core.control.machine import ControlMachine, from_journal
from obsray.core.control.membership import MembershipSettings
from obsray.core.control.service import ControlService, instant, serve
from obsray.core.system.fate import die_with_parent, parent_is_gone
from obsray.ids import MARK_BYTES, WORKER_ID_BYTES, worker_id
from obsray.telemetry import session_file
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.spine import Emitter, Ring, Silent

SOCKET = "sockets/control.sock"
TOKEN_BYTES = 32
#: Well below MembershipSettings.pause_seconds, which tells this process' own standstill from a node's silence.
LOOK_SECONDS = 0.25
GRACE_SECONDS = 0.5
WARNING = """\
**********************************************************************************************
WARNING: the control store listens at {}, where others than this machine reach it.
What is said there is not encrypted. Whoever can read this network can take part in the cluster,
and run programs as this user. See docs/security.md.
**********************************************************************************************"""


def recover(journal: Journal, epoch: int, settings: MembershipSettings | None = None) -> ControlMachine:
    """A machine in the state that the journal describes. Raises ValueError if an entry cannot be read."""
    machine = ControlMachine(epoch, settings)
    for entry in journal.replay():
        machine.step(*from_journal(entry))
    machine.recovered(instant())
    return machine


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
    return Ring(directory, own, ProcessKind.CONTROL, node)


async def _run(session: Path, listen: str, parent: int) -> int:
    config = Config.from_environment()
    if listen and not check_listen(listen, config.unsafe_network == "1"):
        print(WARNING.format(listen), file=sys.stderr, flush=True)
    token = read_token(session)
    facts = session_file.read(session)
    emitter = _emitter(session, bytes.fromhex(facts.get("node", "")) or bytes(8))
    journal = NoJournal()
    machine = recover(journal, int.from_bytes(os.urandom(7), "big"), _settings(config))
    service = ControlService(machine, journal, emitter)
    socket_path = session / SOCKET
    socket_path.parent.mkdir(mode=0o700, exist_ok=True)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server, address = await serve(service, socket_path, token, listen)
    facts = {"control_address": f"unix:{socket_path}", "control_pid": os.getpid()}
    session_file.update(session, **facts, **({"control_address_tcp": address} if address else {}))
    # What is here now stays: spares every later collection a walk over the imported modules.
    gc.collect()
    gc.freeze()
    while not stop.is_set() and not service.broken.is_set() and not parent_is_gone(parent):
        await service.look()
        try:
            await asyncio.wait_for(stop.wait(), LOOK_SECONDS)
        except TimeoutError:
            pass
    await server.stop(GRACE_SECONDS)
    emitter.close(time.time_ns())
    socket_path.unlink(missing_ok=True)
    return 1 if service.broken.is_set() else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to stop or until the parent is gone; returns the exit code."""
    parser = argparse.ArgumentParser(prog="obsray-control", description="The control store of an obsray runtime.")
    parser.add_argument("--session-dir", type=Path, required=True, help="directory of the session")
    parser.add_argument("--listen", default="", metavar="HOST:PORT", help="also listen there, for nodes (port 0: any)")
    parent = os.getppid()
    options = parser.parse_args(arguments)
    session: Path = options.session_dir
    die_with_parent(parent)
    os.umask(0o077)
    try:
        return asyncio.run(_run(session, options.listen, parent))
    except (OSError, ValueError) as error:
        print(f"obsray control: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
