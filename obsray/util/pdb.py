"""A debugger for code in workers: ``obsray.util.pdb.set_trace()``, or ``breakpoint()``, waits for ``obsray debug``.

The worker listens on a unix socket in the session's directory, which only its user can open, and hands the debugger to
whoever shows the session's token. In a driver it is Python's own debugger on this terminal.
"""

from __future__ import annotations

import hmac
import os
import pdb
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from obsray.core.runtime.session import Session, current_or_none
from obsray.core.transport.socket_paths import socket_path

#: How the sockets of waiting code begin; then pid and a number.
PREFIX = "debug-"

_count = 0


class _Debugger(pdb.Pdb):
    """Python's debugger over a socket, until the code goes on by itself."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._stream = sock.makefile("rw", encoding="utf-8", errors="replace", newline="\n")
        super().__init__(stdin=self._stream, stdout=self._stream, nosigint=True)
        self.use_rawinput = False
        self.prompt = "(obsray) "

    def do_continue(self, arg: str) -> Any:
        ended = super().do_continue(arg)
        if not self.breaks:
            self._hang_up()
        return ended

    do_c = do_cont = do_continue

    def do_quit(self, arg: str) -> Any:
        ended = super().do_quit(arg)
        self._hang_up()
        return ended

    do_q = do_exit = do_quit

    def do_EOF(self, arg: str) -> Any:
        """Whoever debugged has gone: the code goes on."""
        self.clear_all_breaks()
        return self.do_continue(arg)

    def _hang_up(self) -> None:
        # The stream is asked for once more when the debugger leaves its loop.
        self.stdin = self.stdout = open(os.devnull, "r+")
        for each in (self._stream, self._sock):
            try:
                each.close()
            except OSError:
                continue


def set_trace(frame: FrameType | None = None, **_: Any) -> None:
    """Stop here. In a worker: say how to attach, and wait until somebody does."""
    frame = frame or sys._getframe(1)
    session = current_or_none()
    if session is None or session.closed or session.executor is None:
        pdb.Pdb().set_trace(frame)
        return
    _Debugger(_wait_for_somebody(session, frame)).set_trace(frame)


def _wait_for_somebody(session: Session, frame: FrameType) -> socket.socket:
    global _count
    _count += 1
    path = session.directory / "sockets" / f"{PREFIX}{os.getpid()}-{_count}"
    running = session.local.running
    task = running.loaded.name if running is not None else "this process"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        # Whoever sees it can connect.
        unready = path.with_name(f"new-{path.name}")
        listener.bind(socket_path(unready))
        listener.listen(1)
        unready.rename(path)
        where = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        print(f"{task} waits in the debugger at {where}: run `obsray debug {os.getpid()}`", file=sys.stderr, flush=True)
        try:
            while True:
                sock, _ = listener.accept()
                if _shows_token(sock, session.token):
                    return sock
                sock.close()
        finally:
            path.unlink(missing_ok=True)


def _shows_token(sock: socket.socket, token: bytes) -> bool:
    sock.settimeout(5)
    shown = b""
    try:
        while len(shown) < len(token) and (more := sock.recv(len(token) - len(shown))):
            shown += more
    except OSError:
        return False
    sock.settimeout(None)
    return hmac.compare_digest(shown, token)


def waiting(directory: Path) -> list[Path]:
    """The sockets of code that waits in the debugger, oldest first."""
    found = (directory / "sockets").glob(f"{PREFIX}*")
    return sorted(found, key=lambda path: path.stat().st_mtime)


__all__ = ["set_trace", "waiting"]
