"""``obsray debug``: this terminal becomes that of code which waits in the debugger."""

from __future__ import annotations

import argparse
import os
import select
import socket
import sys
from pathlib import Path

from obsray.cli import sessions
from obsray.core.transport.socket_paths import socket_path


def run(options: argparse.Namespace) -> int:
    from obsray.util.pdb import PREFIX, waiting

    directory = sessions.find(options.session)
    found = waiting(directory)
    if options.pid:
        found = [path for path in found if path.name.removeprefix(PREFIX).split("-")[0] == options.pid]
    if not found:
        raise sessions.Problem(
            "nothing waits in the debugger" + (f" in process {options.pid}" if options.pid else ""),
            "obsray.util.pdb.set_trace() or breakpoint() in a task or actor waits for this command.",
        )
    if len(found) > 1:
        pids = ", ".join(path.name.removeprefix(PREFIX).split("-")[0] for path in found)
        print(f"obsray: {len(found)} wait, in processes {pids}; this is the first", file=sys.stderr)
    return _attach(found[0], (directory / "token").read_bytes())


def _attach(path: Path, token: bytes) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(socket_path(path))
            sock.sendall(token)
        except OSError as error:
            raise sessions.Problem(
                f"{path.name} does not answer: {error.strerror}", "Its process may be gone."
            ) from None
        typed = sys.stdin.fileno()
        listening: list[int | socket.socket] = [sock, typed]
        while True:
            ready, _, _ = select.select(listening, [], [])
            if sock in ready:
                said = sock.recv(1 << 16)
                if not said:
                    return 0
                sys.stdout.write(said.decode(errors="replace"))
                sys.stdout.flush()
            elif ready:
                line = os.read(typed, 1 << 16)
                if line:
                    sock.sendall(line)
                else:
                    listening.remove(typed)
                    sock.shutdown(socket.SHUT_WR)
