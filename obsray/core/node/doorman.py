"""Shell: the one port of a node. Who has proved itself is shown to whom it wants.

A connection names its target: the node itself (a link to a peer), its transfers (a plain socket), one of its workers,
drivers or services. To those the descriptor is handed over (``SCM_RIGHTS``) with a hello that says who is there, so
they listen on no port, and nothing of what is said then passes through the node.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from obsray.core.transport.connection import Hello, pack_hello
from obsray.core.transport.dial import TRANSFER_TARGET, dial, reachable
from obsray.core.transport.handshake import Refusal
from obsray.core.transport.links import Link, Reactor
from obsray.core.transport.socket_paths import socket_path
from obsray.core.transport.tcp import Taker, TcpListener
from obsray.ids import NODE_ID_BYTES, WORKER_ID_BYTES
from obsray.telemetry.events import ProcessKind

#: Processes beside the workers that others may talk to, by the names of their sockets.
SERVICES = (b"collector",)
#: How members of collective groups name their sockets (``util/collective/mesh.py``).
_MEMBER = re.compile(rb"c[0-9a-f]{12}")
PEER_SECONDS_MAX = 5.0
LAST_LOOK_SECONDS = 0.5


class Doorman:
    """Listens at ``address`` (port 0: any that is free) from the start on.

    ``on_peer(link)``: another node connected, or was connected to by ``call``; ``link.peer.worker`` is its id.
    ``on_transfer(sock, hello)``: the node ``hello.worker`` (or a process of it) wants objects; the socket blocks.
    ``tell`` takes a line for the node's log. Raises OSError with a sentence if it cannot listen there.
    """

    def __init__(
        self,
        reactor: Reactor,
        node: bytes,
        session: Path,
        token: bytes,
        address: str,
        on_peer: Callable[[Link], None],
        on_transfer: Callable[[socket.socket, Hello], None],
        tell: Callable[[str], None],
    ) -> None:
        self._reactor, self._node, self._token = reactor, node, token
        self._sockets = session / "sockets"
        self._on_peer, self._on_transfer, self._tell = on_peer, on_transfer, tell
        self._me = Hello(node, int(ProcessKind.NODE), os.getpid())
        self._listener = TcpListener(reactor, address, token, self._me, self._route, self._refused)
        #: Where others reach this node: "host:port".
        self.address = reachable(self._listener.address)

    def close(self) -> None:
        """Take nobody new; what was made stays."""
        self._listener.close()

    def services_only(self, reactor: Reactor) -> TcpListener:
        """After ``close``: the same port, but it leads to services alone. Raises OSError if it is taken meanwhile."""

        def route(hello: Hello, target: bytes) -> Taker | Refusal:
            return self._route(hello, target) if target in SERVICES else Refusal.UNKNOWN_TARGET

        return TcpListener(reactor, self._listener.address, self._token, self._me, route, lambda what: None)

    def call(self, node: bytes, address: str, on_failed: Callable[[bytes, ConnectionError], None]) -> None:
        """Connect to another node without waiting: ``on_peer`` gets the link, or ``on_failed`` the node and the error.

        Both are called in the reactor's thread.
        """
        threading.Thread(
            target=self._call, args=(node, address, on_failed), name="obsray-dial", daemon=True
        ).start()  # fmt: skip

    def _call(self, node: bytes, address: str, on_failed: Callable[[bytes, ConnectionError], None]) -> None:
        try:
            sock = dial(address, self._token, self._me, node, PEER_SECONDS_MAX)
        except (ConnectionError, ValueError) as error:
            failure = error if isinstance(error, ConnectionError) else ConnectionError(str(error))
            self._reactor.post(lambda: on_failed(node, failure))
            return
        there = Hello(node, int(ProcessKind.NODE), 0, remote=True)
        self._reactor.post(lambda: self._on_peer(self._reactor.adopt(sock, there)))

    # --- who wants what ------------------------------------------------------------------------------------

    def _route(self, hello: Hello, target: bytes) -> Taker | Refusal:
        here = Hello(hello.worker, hello.kind, hello.pid, remote=True)
        if target == self._node:
            if hello.kind != ProcessKind.NODE or len(hello.worker) != NODE_ID_BYTES or hello.worker == self._node:
                return Refusal.UNKNOWN_TARGET
            return lambda sock: self._on_peer(self._reactor.adopt(sock, here))
        if target == TRANSFER_TARGET:
            return lambda sock: self._transfer(sock, here)
        name = _socket_of(target)
        return self._hand_over(name, here) if name else Refusal.UNKNOWN_TARGET

    def _transfer(self, sock: socket.socket, hello: Hello) -> None:
        sock.setblocking(True)
        self._on_transfer(sock, hello)

    def _hand_over(self, name: str, hello: Hello) -> Taker | Refusal:
        carrier = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # A process that hangs must not make the node wait for it.
        carrier.setblocking(False)
        try:
            carrier.connect(socket_path(self._sockets / name))
        except BlockingIOError:
            carrier.close()
            return Refusal.BUSY
        except OSError:
            carrier.close()
            return Refusal.UNKNOWN_TARGET

        def take(sock: socket.socket) -> None:
            try:
                socket.send_fds(carrier, [pack_hello(self._token, hello)], [sock.fileno()], socket.MSG_NOSIGNAL)
            except OSError:
                # It ended just now; the peer sees the end of the connection.
                pass
            finally:
                carrier.close()
                sock.close()

        return take

    def _refused(self, what: str) -> None:
        self._tell(f"{self.address}: {what}")


class LastDoor:
    """While a node ends: its port leads to its collector alone, for a head that has not taken all records yet.

    In a thread of its own, because the node waits for those that end.
    """

    def __init__(self, door: Doorman) -> None:
        self._reactor = Reactor(lambda link, messages: None, lambda link: None)
        self._closing = False
        self._thread: threading.Thread | None = None
        try:
            self._listener = door.services_only(self._reactor)
        except OSError:
            self._reactor.shutdown()
            return
        self._thread = threading.Thread(target=self._run, name="obsray-last-door", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take nobody any more."""
        if self._thread is not None:
            self._closing = True
            self._reactor.wake()
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._closing:
            self._reactor.run_once(LAST_LOOK_SECONDS)
        self._listener.close()
        self._reactor.shutdown()


def _socket_of(target: bytes) -> str:
    """The name of the socket of a process that others may talk to, "" if it cannot be one."""
    if len(target) == WORKER_ID_BYTES:
        return f"{target.hex()}.sock"
    if target in SERVICES:
        return f"{target.decode()}.sock"
    return target.decode() if _MEMBER.fullmatch(target) else ""
