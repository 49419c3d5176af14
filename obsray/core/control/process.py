"""The shell of the control store: a process with a gRPC server, a clock and a ring around ``machine.py``.

``python -m obsray.core.control.process --session-dir DIR`` is started by the node and ends with it. It is ready when
``session.json`` says ``control_address``.

Its end, in order: 1. no new calls; 2. calls under way get ``GRACE_SECONDS``; 3. the ring is closed; 4. the socket is
removed. Nothing needs to be saved: what was acknowledged is in the journal already.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from obsray.config import Config
from obsray.core.control.journal import Journal, NoJournal
from obsray.core.control.machine import ControlMachine, from_journal
from obsray.core.control.service import ControlService, instant, serve
from obsray.core.system.fate import die_with_parent, parent_is_gone
from obsray.ids import WORKER_ID_BYTES
from obsray.telemetry import session_file
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.spine import Emitter, Ring, Silent

SOCKET = "sockets/control.sock"
TOKEN_BYTES = 32
#: Well below MembershipSettings.pause_seconds, which tells this process' own standstill from a node's silence.
LOOK_SECONDS = 0.25
GRACE_SECONDS = 0.5


def recover(journal: Journal, epoch: int) -> ControlMachine:
    """A machine in the state that the journal describes. Raises ValueError if an entry cannot be read."""
    machine = ControlMachine(epoch)
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


def _emitter(session: Path, node: bytes) -> Emitter:
    if Config.from_environment().telemetry == "off":
        return Silent()
    directory = session / "rings"
    directory.mkdir(mode=0o700, exist_ok=True)
    return Ring(directory, os.urandom(WORKER_ID_BYTES), ProcessKind.CONTROL, node)


async def _run(session: Path, parent: int) -> int:
    token = read_token(session)
    facts = session_file.read(session)
    emitter = _emitter(session, bytes.fromhex(facts.get("node", "")) or bytes(8))
    journal = NoJournal()
    service = ControlService(recover(journal, int.from_bytes(os.urandom(7), "big")), journal, emitter)
    socket_path = session / SOCKET
    socket_path.parent.mkdir(mode=0o700, exist_ok=True)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await serve(service, socket_path, token)
    session_file.update(session, control_address=f"unix:{socket_path}", control_pid=os.getpid())
    # What is here now stays: spares every later collection a walk over the imported modules.
    gc.collect()
    gc.freeze()
    while not stop.is_set() and not service.broken.is_set() and not parent_is_gone(parent):
        service.declare_overdue()
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
    parent = os.getppid()
    session: Path = parser.parse_args(arguments).session_dir
    die_with_parent(parent)
    os.umask(0o077)
    try:
        return asyncio.run(_run(session, parent))
    except (OSError, ValueError) as error:
        print(f"obsray control: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
