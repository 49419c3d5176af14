"""Links and the reactor: the sockets that move what ``connection.py`` packs.

One reactor serves one process. ``wait`` blocks without touching any state; ``process`` reads, parses and calls the
handlers, and ``flush`` writes what was sent. A single-threaded process calls ``run_once``; a driver or worker calls
``wait`` from whichever thread has nothing better to do and the other two under its lock (``runtime/session.py``).
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from obsray.core.protocol.messages import Message
from obsray.core.transport.connection import (
    HELLO_BYTES,
    TOKEN_BYTES,
    Connection,
    Hello,
    ProtocolError,
    VersionMismatch,
    check_hello,
    pack_hello,
    pack_notice,
)
from obsray.core.transport.socket_paths import socket_path

RECEIVE_BYTES = 1 << 18
SOCKET_BUFFER_BYTES = 1 << 20
HANDSHAKE_SECONDS_MAX = 5.0
UNAUTHENTICATED_MAX = 256
#: How long nobody new is accepted after descriptors ran out.
ACCEPT_PAUSE_SECONDS = 0.2

_READ = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP


class LinkClosed(ConnectionError):
    """The other side of the link is gone."""


class Link:
    """One authenticated connection. ``send`` queues; ``Reactor.flush`` writes."""

    __slots__ = ("closed", "connection", "fd", "outbox", "peer", "reactor", "socket", "state", "unsent", "writing")

    def __init__(self, reactor: Reactor, sock: socket.socket, peer: Hello) -> None:
        self.reactor = reactor
        self.socket = sock
        self.fd = sock.fileno()
        self.peer = peer
        self.connection = Connection()
        self.outbox: list[Message] = []
        self.unsent: list[memoryview] = []
        self.writing = False
        self.closed = False
        #: Whatever the owner of the link keeps about the peer.
        self.state: Any = None

    def send(self, message: Message) -> None:
        """Queue a message (an encoded tuple) for the next flush; silently dropped if the link is closed."""
        if not self.outbox:
            self.reactor.dirty.append(self)
        self.outbox.append(message)

    def flush(self) -> None:
        """Write what is queued as far as the socket takes it."""
        if self.closed:
            self.outbox.clear()
            return
        if self.outbox:
            messages, self.outbox = self.outbox, []
            self.unsent.append(memoryview(self.connection.pack(messages)))
        if not self.writing:
            self._write()

    def _write(self) -> None:
        unsent = self.unsent
        try:
            while unsent:
                sent = self.socket.send(unsent[0])
                if sent < len(unsent[0]):
                    unsent[0] = unsent[0][sent:]
                    break
                del unsent[0]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError:
            self.reactor.broken.append(self)
            return
        writing = bool(unsent)
        if writing != self.writing:
            self.writing = writing
            self.reactor.watch(self.fd, _READ | select.EPOLLOUT if writing else _READ)

    def unsent_bytes(self) -> int:
        """How much is queued in this process because the peer does not read."""
        return sum(map(len, self.unsent))


class Listener:
    """A listening socket: peers that pass the handshake become links. ``on_refused`` is told why others do not."""

    __slots__ = ("fd", "on_link", "on_refused", "path", "reactor", "rejected", "socket", "token")

    def __init__(
        self,
        reactor: Reactor,
        path: Path,
        token: bytes,
        on_link: Callable[[Link], None],
        on_refused: Callable[[str], None],
    ) -> None:
        self.reactor = reactor
        self.path = path
        self.token = token
        self.on_link = on_link
        self.on_refused = on_refused
        self.rejected = 0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(socket_path(path))
        os.chmod(path, 0o600)
        self.socket.listen(512)
        self.socket.setblocking(False)
        self.fd = self.socket.fileno()

    def close(self) -> None:
        self.reactor.forget(self.fd)
        self.socket.close()
        self.path.unlink(missing_ok=True)


class _Greeting:
    """A connection whose peer has not shown the token yet. ``fds``: what came with its first bytes."""

    __slots__ = ("data", "deadline", "fds", "listener", "socket")

    def __init__(self, listener: Listener, sock: socket.socket, deadline: float) -> None:
        self.listener, self.socket, self.deadline, self.data = listener, sock, deadline, b""
        self.fds: list[int] = []

    def close(self) -> None:
        self.socket.close()
        while self.fds:
            os.close(self.fds.pop())


class Reactor:
    """Waits for sockets and timers. ``on_messages(link, messages)`` and ``on_close(link)`` are the process' own."""

    def __init__(
        self,
        on_messages: Callable[[Link, list[Message]], None],
        on_close: Callable[[Link], None],
    ) -> None:
        self.on_messages = on_messages
        self.on_close = on_close
        #: Faults on purpose make links of their own kind (``chaos.py``).
        self.make_link: Callable[[Reactor, socket.socket, Hello], Link] = Link
        self.dirty: list[Link] = []
        self.broken: list[Link] = []
        self.links: dict[int, Link] = {}
        self._epoll = select.epoll()
        self._listeners: dict[int, Listener] = {}
        self._greetings: dict[int, _Greeting] = {}
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timer_numbers = itertools.count()
        self._buffer = bytearray(RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, select.EPOLLIN)
        #: Whoever wakes must not write to a descriptor that is closed, and another's by now. Signal handlers wake, too.
        self._wake_lock = threading.RLock()
        self._posted: list[Callable[[], None]] = []
        self._posted_lock = threading.Lock()

    # --- what is watched ------------------------------------------------------------------------------------

    def watch(self, fd: int, mask: int) -> None:
        self._epoll.modify(fd, mask)

    def forget(self, fd: int) -> None:
        """Stop watching ``fd``."""
        try:
            self._epoll.unregister(fd)
        except (OSError, ValueError):
            pass
        self._listeners.pop(fd, None)
        self._callbacks.pop(fd, None)
        self._greetings.pop(fd, None)
        self.links.pop(fd, None)

    def listen(
        self,
        path: Path,
        token: bytes,
        on_link: Callable[[Link], None],
        on_refused: Callable[[str], None] = lambda why: None,
    ) -> Listener:
        """Accept authenticated peers at a unix socket, also those that a node hands over."""
        listener = Listener(self, path, token, on_link, on_refused)
        self._listeners[listener.fd] = listener
        self._epoll.register(listener.fd, select.EPOLLIN)
        return listener

    def adopt(self, sock: socket.socket, peer: Hello) -> Link:
        """Make a link of a socket whose handshake is over."""
        sock.setblocking(False)
        link = self.make_link(self, sock, peer)
        self.links[link.fd] = link
        self._epoll.register(link.fd, _READ)
        return link

    def on_readable(self, fd: int, callback: Callable[[], None]) -> None:
        """Call ``callback`` whenever ``fd`` can be read."""
        self._callbacks[fd] = callback
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLHUP)

    def call_at(self, deadline: float, callback: Callable[[], None]) -> None:
        """Call ``callback`` at a ``time.monotonic`` instant."""
        heapq.heappush(self._timers, (deadline, next(self._timer_numbers), callback))

    def post(self, callback: Callable[[], None]) -> None:
        """From any thread: have ``callback`` called by the reactor's next round."""
        with self._posted_lock:
            self._posted.append(callback)
        self.wake()

    def wake(self) -> None:
        """From any thread: end the current ``wait``. After ``shutdown`` it does nothing."""
        with self._wake_lock:
            if self._wake_fd < 0:
                return
            try:
                os.eventfd_write(self._wake_fd, 1)
            except OSError:
                pass

    # --- one round --------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None, spin_seconds: float = 0.0) -> list[tuple[int, int]]:
        """Block until something can be done or ``timeout`` seconds passed (None: no limit besides timers).

        ``spin_seconds``: look again and again for that long before falling asleep.
        """
        if self._timers:
            until = max(0.0, self._timers[0][0] - time.monotonic())
            timeout = until if timeout is None else min(timeout, until)
        try:
            if spin_seconds and timeout != 0:
                ready = self._epoll.poll(0)
                deadline = time.perf_counter() + spin_seconds
                while not ready and time.perf_counter() < deadline:
                    # Looking is for idle cores: whoever has work for this one goes first.
                    os.sched_yield()
                    ready = self._epoll.poll(0)
                if ready:
                    return ready
            return self._epoll.poll(-1 if timeout is None else timeout)
        except InterruptedError:
            return []

    def process(self, ready: list[tuple[int, int]]) -> None:
        """Handle what ``wait`` found, due timers included."""
        for fd, mask in ready:
            link = self.links.get(fd)
            if link is not None:
                if mask & select.EPOLLOUT:
                    link._write()
                if mask & ~select.EPOLLOUT:
                    self._read(link)
            elif fd in self._listeners:
                self._accept(self._listeners[fd])
            elif fd in self._greetings:
                self._greet(fd)
            elif fd in self._callbacks:
                self._callbacks[fd]()
            elif fd == self._wake_fd:
                try:
                    os.eventfd_read(self._wake_fd)
                except BlockingIOError:
                    pass
        if self._posted:
            with self._posted_lock:
                posted, self._posted = self._posted, []
            for callback in posted:
                callback()
        if self._timers:
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
        while self.broken:
            self.close(self.broken.pop())

    def flush(self) -> None:
        """Write everything that was sent since the last flush."""
        while self.dirty:
            dirty, self.dirty = self.dirty, []
            for link in dirty:
                link.flush()
        while self.broken:
            self.close(self.broken.pop())

    def run_once(self, timeout: float | None = None) -> None:
        """Flush, wait, process: one turn of a single-threaded process."""
        self.flush()
        self.process(self.wait(timeout))
        self.flush()

    def close(self, link: Link) -> None:
        """Close a link and say so to ``on_close``; closing twice does nothing."""
        if link.closed:
            return
        link.closed = True
        self.forget(link.fd)
        link.socket.close()
        link.outbox.clear()
        link.unsent.clear()
        self.on_close(link)

    def shutdown(self) -> None:
        """Close every socket without calling anybody."""
        for link in list(self.links.values()):
            link.closed = True
            link.socket.close()
        self.links.clear()
        for listener in list(self._listeners.values()):
            listener.close()
        for greeting in self._greetings.values():
            greeting.close()
        self._epoll.close()
        with self._wake_lock:
            fd, self._wake_fd = self._wake_fd, -1
            if fd >= 0:
                os.close(fd)

    # --- reading ------------------------------------------------------------------------------------------------

    def read_to_end(self, link: Link) -> None:
        """Handle at once what the peer has sent already."""
        while not link.closed and self._read(link):
            pass

    def _read(self, link: Link) -> bool:
        """Read once. False if there was nothing to read."""
        try:
            size = link.socket.recv_into(self._buffer)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            self.close(link)
            return False
        if size == 0:
            self.close(link)
            return False
        try:
            messages = link.connection.receive(self._view[:size])
        except ProtocolError:
            self.close(link)
            return False
        if messages:
            self.on_messages(link, messages)
        return True

    def _accept(self, listener: Listener) -> None:
        while True:
            try:
                sock, _ = listener.socket.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._pause(listener)
                return
            now = time.monotonic()
            for fd, greeting in list(self._greetings.items()):
                if greeting.deadline < now:
                    self._reject(fd, greeting)
            if len(self._greetings) >= UNAUTHENTICATED_MAX:
                sock.close()
                continue
            sock.setblocking(False)
            self._greetings[sock.fileno()] = _Greeting(listener, sock, now + HANDSHAKE_SECONDS_MAX)
            self._epoll.register(sock.fileno(), _READ)

    def _pause(self, listener: Listener) -> None:
        """No descriptor is left: the peer stays in the queue, and this process must not spin on it meanwhile."""
        self._epoll.unregister(listener.fd)
        self.call_at(time.monotonic() + ACCEPT_PAUSE_SECONDS, lambda: self._resume(listener))

    def _resume(self, listener: Listener) -> None:
        if listener.fd in self._listeners:
            self._epoll.register(listener.fd, select.EPOLLIN)

    def _reject(self, fd: int, greeting: _Greeting) -> None:
        greeting.listener.rejected += 1
        self.forget(fd)
        greeting.close()

    def _greet(self, fd: int) -> None:
        greeting = self._greetings[fd]
        try:
            data, fds, _, _ = socket.recv_fds(greeting.socket, HELLO_BYTES - len(greeting.data), 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, fds = b"", []
        greeting.fds += fds
        if not data:
            self._reject(fd, greeting)
            return
        greeting.data += data
        if len(greeting.data) < HELLO_BYTES:
            return
        try:
            hello = check_hello(greeting.data, greeting.listener.token)
            if hello.remote != (len(greeting.fds) == 1):
                raise ProtocolError("a connection is handed over as one descriptor, and nothing else is")
        except ProtocolError as error:
            if isinstance(error, VersionMismatch):
                try:
                    greeting.socket.send(pack_notice(error.theirs), socket.MSG_NOSIGNAL)
                except OSError:
                    pass
            self._reject(fd, greeting)
            greeting.listener.on_refused(str(error))
            return
        self.forget(fd)
        sock = greeting.socket
        if hello.remote:
            sock.close()
            sock = socket.socket(fileno=greeting.fds.pop())
        greeting.listener.on_link(self.adopt(sock, hello))


def connect(path: Path | str, token: bytes, me: Hello, timeout_seconds: float = HANDSHAKE_SECONDS_MAX) -> socket.socket:
    """Connect to a unix socket and introduce this process. Raises OSError if nobody listens there."""
    if len(token) != TOKEN_BYTES:
        raise ValueError(f"the token has {TOKEN_BYTES} bytes, got {len(token)}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    sock.settimeout(timeout_seconds)
    try:
        sock.connect(socket_path(path))
        sock.sendall(pack_hello(token, me))
    except BaseException:
        sock.close()
        raise
    return sock
