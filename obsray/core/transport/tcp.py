"""Listening on TCP: strangers are kept waiting nowhere, peers that prove themselves are shown to whom they want.

Works inside a ``Reactor``. What has not shown the token yet costs one descriptor and a few hundred bytes, for a few
seconds; if too many wait in that state, those that came first make room.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from obsray.core.protocol.addresses import join
from obsray.core.transport.connection import Hello
from obsray.core.transport.dial import split_address, tune
from obsray.core.transport.handshake import NONCE_BYTES, Answerer, HandshakeError, Refusal, sentence
from obsray.core.transport.links import ACCEPT_PAUSE_SECONDS, HANDSHAKE_SECONDS_MAX, UNAUTHENTICATED_MAX, Reactor

#: Takes the socket of a peer that has proved itself, after the verdict was sent. The socket does not block.
Taker = Callable[[socket.socket], None]
#: Who takes a peer with this target, or why nobody does.
Route = Callable[[Hello, bytes], Taker | Refusal]
#: Refusals told to the log are at most this many in ``TELL_PERIOD_SECONDS``: strangers must not fill the disk.
TELLS_MAX = 20
TELL_PERIOD_SECONDS = 60.0


class _Greeting(NamedTuple):
    """A connection whose peer has not proved itself yet."""

    socket: socket.socket
    answerer: Answerer
    whence: str
    deadline: float


class TcpListener:
    """One listening port. ``address`` is where it listens, with the port it got if it asked for any (0).

    Raises OSError with a sentence if it cannot listen there, ValueError for what is no address.
    """

    def __init__(
        self, reactor: Reactor, address: str, token: bytes, me: Hello, route: Route, tell: Callable[[str], None]
    ) -> None:
        self.reactor = reactor
        self._token, self._me, self._route, self._tell = token, me, route, tell
        host, port = split_address(address)
        self.socket = _bind(host, port, address)
        self.socket.setblocking(False)
        self.address = join(host, self.socket.getsockname()[1])
        self.rejected = 0
        self._greetings: dict[int, _Greeting] = {}
        self._sweeping = False
        self._told: list[float] = []
        self._closed = False
        reactor.on_readable(self.socket.fileno(), self._accept)

    def close(self) -> None:
        """Listen no more; connections that are made stay."""
        if self._closed:
            return
        self._closed = True
        self.reactor.forget(self.socket.fileno())
        self.socket.close()
        for fd in list(self._greetings):
            self._drop(fd)

    def _accept(self) -> None:
        while not self._closed:
            try:
                sock, place = self.socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    # No descriptor is left: the peer stays in the queue, and this process must not spin on it.
                    self.reactor.forget(self.socket.fileno())
                    self.reactor.call_at(time.monotonic() + ACCEPT_PAUSE_SECONDS, self._resume)
                    return
                # The one that came is gone already (ECONNABORTED and its like); the next may be there.
                if error.errno in (errno.EBADF, errno.EINVAL):
                    return
                continue
            if len(self._greetings) >= UNAUTHENTICATED_MAX:
                self._drop(next(iter(self._greetings)))
            sock.setblocking(False)
            try:
                tune(sock)
            except OSError:
                sock.close()
                continue
            answerer = Answerer(self._token, self._me, os.urandom(NONCE_BYTES))
            fd, deadline = sock.fileno(), time.monotonic() + HANDSHAKE_SECONDS_MAX
            self._greetings[fd] = _Greeting(sock, answerer, join(*place[:2]), deadline)
            self.reactor.on_readable(fd, lambda fd=fd: self._greet(fd))  # type: ignore[misc]
            self._sweep_at(deadline)

    def _resume(self) -> None:
        if not self._closed:
            self.reactor.on_readable(self.socket.fileno(), self._accept)

    def _sweep_at(self, deadline: float) -> None:
        if not self._sweeping:
            self._sweeping = True
            self.reactor.call_at(deadline, self._sweep)

    def _sweep(self) -> None:
        """End those that were given their time. They are in the order of their deadlines."""
        self._sweeping = False
        now = time.monotonic()
        for fd, greeting in list(self._greetings.items()):
            if greeting.deadline > now:
                self._sweep_at(greeting.deadline)
                return
            self._refuse(fd, f"it did not say who it is within {HANDSHAKE_SECONDS_MAX:g} s")

    def _drop(self, fd: int) -> None:
        greeting = self._greetings.pop(fd)
        self.reactor.forget(fd)
        greeting.socket.close()
        self.rejected += 1

    def _refuse(self, fd: int, why: str, told: bool = False) -> None:
        greeting = self._greetings[fd]
        self._drop(fd)
        peer = greeting.answerer.peer
        who = greeting.whence if peer is None else f"{greeting.whence} (it calls itself {peer.hello.worker.hex()})"
        now = time.monotonic()
        self._told = [instant for instant in self._told if now - instant < TELL_PERIOD_SECONDS]
        if len(self._told) < TELLS_MAX:
            self._told.append(now)
            self._tell(f"{'refused by' if told else 'refused'} {who}: {why}")

    def _greet(self, fd: int) -> None:
        greeting = self._greetings[fd]
        sock, answerer = greeting.socket, greeting.answerer
        try:
            data = sock.recv(answerer.missing)
            if not data:
                raise answerer.ended()
            _send(sock, answerer.receive(data))
        except (BlockingIOError, InterruptedError):
            return
        except HandshakeError as error:
            _send_quietly(sock, error.last_words)
            self._refuse(fd, str(error), error.told)
            return
        except OSError as error:
            self._refuse(fd, str(error.strerror or error).lower())
            return
        if answerer.proven:
            self._admit(fd, greeting)

    def _admit(self, fd: int, greeting: _Greeting) -> None:
        answerer, sock = greeting.answerer, greeting.socket
        assert answerer.peer is not None
        taker = self._route(answerer.peer.hello, answerer.peer.target)
        if isinstance(taker, Refusal):
            _send_quietly(sock, answerer.verdict(taker))
            self._refuse(fd, sentence(taker, answerer.peer, answerer.peer.target))
            return
        del self._greetings[fd]
        self.reactor.forget(fd)
        # A peer that is gone already is an end of file to whoever takes it.
        _send_quietly(sock, answerer.verdict())
        taker(sock)


def _bind(host: str, port: int, address: str) -> socket.socket:
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen at {address}: {host!r} is no address of this machine") from error
    family, kind, protocol, _, place = places[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(place)
        sock.listen(512)
    except OSError as error:
        sock.close()
        raise OSError(error.errno, f"cannot listen at {address}: {_cannot(error)}") from error
    return sock


def _cannot(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is taken: stop what listens there, or choose another (0: any that is free)"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    if error.errno == errno.EACCES:
        return "this user may not listen at that port: choose one above 1023"
    return str(error.strerror or error)


def _send(sock: socket.socket, data: bytes) -> None:
    """The records are small and the first bytes of a connection: what does not fit is a peer that does not read."""
    if data and sock.send(data, socket.MSG_NOSIGNAL) != len(data):
        raise ConnectionError("it does not read")


def _send_quietly(sock: socket.socket, data: bytes) -> None:
    try:
        _send(sock, data)
    except OSError:
        pass
