"""Connecting to a node over TCP: find the address, connect, shake hands, all within one timeout.

Whoever dials blocks meanwhile; a single-threaded process does it in a thread (``node/doorman.py``).
"""

from __future__ import annotations

import errno
import os
import queue
import socket
import threading
import time
from typing import Any

from obsray.core.protocol.addresses import PORT_MAX, join
from obsray.core.transport.connection import Hello
from obsray.core.transport.handshake import NONCE_BYTES, Dialer, HandshakeError, NotAPeer, Refusal, sentence

SOCKET_BUFFER_BYTES = 1 << 20
DIAL_SECONDS_MAX = 5.0
#: A peer whose machine is gone is noticed after about IDLE + INTERVAL * COUNT seconds of silence.
KEEPALIVE_IDLE_SECONDS = 5
KEEPALIVE_INTERVAL_SECONDS = 2
KEEPALIVE_COUNT = 5
#: How long what was sent may stay without an acknowledgement before the connection counts as broken.
UNACKNOWLEDGED_SECONDS_MAX = 15

#: The target of a connection that carries objects: its socket goes to the node's transfers.
TRANSFER_TARGET = b"transfers"


class Unreachable(ConnectionError):
    """No connection could be made to the address; the sentence says which address, why, and what to look at."""


def split_address(address: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[v6 address]:port``. Raises ValueError with a sentence for anything else."""
    host, colon, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or not port.isascii() or not port.isdigit() or int(port) > PORT_MAX:
        raise ValueError(f"{address!r} is not an address: write host:port, e.g. 10.0.0.1:6379 or [::1]:6379")
    if ":" in bare and bare == host:
        raise ValueError(f"{address!r} is not an address: an IPv6 address is written in brackets, e.g. [::1]:6379")
    return bare, int(port)


def reachable(address: str) -> str:
    """Where others reach who listens at ``address``, which may be at every address of this machine."""
    host, port = split_address(address)
    if host not in ("0.0.0.0", "::"):
        return join(host, port)
    family, elsewhere, loopback = (
        (socket.AF_INET, "192.0.2.1", "127.0.0.1") if host == "0.0.0.0" else (socket.AF_INET6, "2001:db8::1", "::1")
    )  # fmt: skip
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket only asks for the route; the addresses are reserved for documentation.
            probe.connect((elsewhere, 9))
        except OSError:
            return join(loopback, port)
        return join(str(probe.getsockname()[0]), port)


def is_address(path: str) -> bool:
    """Whether what a worker's path says is ``host:port`` and not a file."""
    return ":" in path and not path.startswith("/")


def dial(
    address: str, token: bytes, me: Hello, target: bytes, timeout_seconds: float = DIAL_SECONDS_MAX
) -> socket.socket:
    """A connection to ``target`` at the node that listens at ``address`` ("host:port"), ready for its first message.

    The socket blocks. Raises HandshakeError (of the kinds in ``handshake.py``) if it is not one to talk to and
    Unreachable if nobody can be reached, both ConnectionErrors that say the address and what to do, within about
    ``timeout_seconds``. Raises ValueError for what is no address.
    """
    deadline = time.monotonic() + timeout_seconds
    host, port = split_address(address)
    sock = _connect(address, _resolve(address, host, port, deadline), deadline, timeout_seconds)
    try:
        _shake_hands(sock, Dialer(token, me, target, os.urandom(NONCE_BYTES)), address, deadline, timeout_seconds)
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return sock


def tune(sock: socket.socket) -> None:
    """How every TCP connection between nodes is set: no delay, and a peer that vanished is noticed."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_SECONDS)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_SECONDS_MAX * 1000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)


def _resolve(address: str, host: str, port: int, deadline: float) -> list[Any]:
    """Where ``host`` is. A name is looked up in a thread: the resolver of the system has no timeout of ours."""
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        pass
    answers: queue.SimpleQueue[list[Any] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.put(OSError(str(getattr(error, "strerror", None) or error)))

    threading.Thread(target=look_up, name="obsray-resolver", daemon=True).start()
    try:
        found = answers.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        raise Unreachable(f"{address}: the name {host!r} was not resolved in time: give an IP address") from None
    if isinstance(found, OSError):
        raise Unreachable(f"{address}: the name {host!r} cannot be resolved ({found}): is it written right?")
    return found


def _connect(address: str, places: list[Any], deadline: float, timeout_seconds: float) -> socket.socket:
    """Try the addresses of a host in order; each gets its share of the time that is left."""
    failure: OSError = TimeoutError()
    for index, (family, kind, protocol, _, place) in enumerate(places):
        share = (deadline - time.monotonic()) / (len(places) - index)
        if share <= 0:
            break
        sock = socket.socket(family, kind, protocol)
        try:
            tune(sock)
            sock.settimeout(share)
            sock.connect(place)
            if sock.getsockname() == sock.getpeername():
                # A port of the ephemeral range on which nobody listens can be given to the very call to it.
                raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise Unreachable(f"{address}: {_why(failure, timeout_seconds)}") from failure


def _why(error: OSError, timeout_seconds: float) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there (connection refused): does the node run, and is the port right?"
    if isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT:
        return f"no answer within {timeout_seconds:g} s: is the host up, and does a firewall let the port through?"
    return f"it cannot be reached ({(error.strerror or str(error)).lower()}): is there a network between the two?"


def _shake_hands(sock: socket.socket, dialer: Dialer, address: str, deadline: float, timeout_seconds: float) -> None:
    try:
        _send(sock, dialer.opening, deadline)
        while not dialer.over:
            sock.settimeout(max(0.001, deadline - time.monotonic()))
            data = sock.recv(dialer.missing)
            if time.monotonic() > deadline:
                raise TimeoutError
            if not data:
                raise dialer.ended()
            answer = dialer.receive(data)
            if answer:
                _send(sock, answer, deadline)
    except HandshakeError as error:
        if error.last_words:
            try:
                _send(sock, error.last_words, deadline)
            except OSError:
                pass
        raise _placed(error, address) from None
    except TimeoutError:
        raise NotAPeer(
            f"{address}: a connection was made, but what is there did not say enough within {timeout_seconds:g} s: "
            "is it a node of obsray, and does it hang?"
        ) from None
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise NotAPeer(f"{address}: it ended the connection ({why}): {sentence(Refusal.NOT_A_PEER, None)}") from None


def _send(sock: socket.socket, data: bytes, deadline: float) -> None:
    sock.settimeout(max(0.001, deadline - time.monotonic()))
    sock.sendall(data, socket.MSG_NOSIGNAL)


def _placed(error: HandshakeError, address: str) -> HandshakeError:
    """The same error, with the address before its sentence."""
    return type(error)(f"{address}: {error}", error.told)
