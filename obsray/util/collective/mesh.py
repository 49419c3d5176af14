"""Members of a group connected each with each: unix sockets in the session's directory, or TCP between machines, which
a node hands over to its member; and nobody in between.

A member that ends is the end of file of its sockets, which all others notice at once. Everything said is a frame: a
header with a kind and a length, then bytes. A member that gives up sends ``ABORT`` with its reason between two frames.
Nothing is parsed before the token was shown, and nothing is ever unpickled.
"""

from __future__ import annotations

import hmac
import os
import select
import socket
import struct
import time
from pathlib import Path

from obsray.core.transport.connection import HELLO_BYTES, Hello, ProtocolError, check_hello
from obsray.core.transport.dial import DIAL_SECONDS_MAX, dial
from obsray.core.transport.socket_paths import socket_path
from obsray.errors import CollectiveError, CollectiveMemberDiedError, CollectiveTimeoutError

DESCRIPTION, DATA, ABORT = 1, 2, 3

_HEADER = struct.Struct("<IIQ")
_MAGIC = 0x0B5C0110
_RANK = struct.Struct("<I")
_FD = struct.Struct("@i")
#: Bytes of a description or a reason; data is as long as both sides know.
_WORDS_MAX = 1 << 16
_READ = select.POLLIN | select.POLLHUP | select.POLLERR
_WRITE = select.POLLOUT | select.POLLERR

Buffer = bytes | memoryview


class Sending:
    """Bytes on their way to one member."""

    def __init__(self, rank: int, kind: int, *parts: Buffer) -> None:
        self.rank = rank
        views = [memoryview(part) for part in parts]
        self.parts: list[memoryview] = [
            memoryview(_HEADER.pack(_MAGIC, kind, sum(map(len, views)))), *(view for view in views if len(view)),
        ]  # fmt: skip

    def step(self, sock: socket.socket) -> bool:
        """Send what goes; True when all is gone."""
        while self.parts:
            try:
                # The flag: whatever user code made of SIGPIPE, a member that is gone is an error.
                sent = sock.sendmsg(self.parts[:8], (), socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                return False
            while sent:
                first = self.parts[0]
                if sent < len(first):
                    self.parts[0] = first[sent:]
                    return False
                sent -= len(first)
                self.parts.pop(0)
        return True


class Receiving:
    """One frame on its way from one member; of data exactly as much as ``into`` takes."""

    def __init__(self, rank: int, kind: int, into: memoryview | None = None) -> None:
        self.rank, self.kind = rank, kind
        self._head = bytearray(_HEADER.size)
        self._left: memoryview = memoryview(self._head)
        self._in_head = True
        self._into = into
        self.words = bytearray()
        self.aborted = False

    def step(self, sock: socket.socket) -> bool:
        """Receive what is there; True when the frame is complete. Raises EOFError and ValueError."""
        while True:
            while len(self._left):
                try:
                    count = sock.recv_into(self._left)
                except (BlockingIOError, InterruptedError):
                    return False
                if count == 0:
                    raise EOFError
                self._left = self._left[count:]
            if not self._in_head:
                return True
            self._in_head = False
            self._left = self._body(*_HEADER.unpack(self._head))

    def _body(self, magic: int, kind: int, length: int) -> memoryview:
        self.aborted = kind == ABORT
        if magic != _MAGIC or (kind != self.kind and not self.aborted):
            raise ValueError("is at another point of the program")
        if kind == DATA:
            if self._into is None or length != len(self._into):
                raise ValueError(f"sent {length} bytes that nobody expects")
            return self._into
        if length > _WORDS_MAX:
            raise ValueError(f"sent {length} bytes of description")
        self.words = bytearray(length)
        return memoryview(self.words)


class Mesh:
    """The sockets of one member. ``node`` is where its node listens, "" if other machines cannot reach it."""

    def __init__(self, directory: Path, token: bytes, name: str, node: str = "", me: Hello | None = None) -> None:
        self._token = token
        self._node = node
        self._me = me or Hello(bytes(8), 0, os.getpid())
        self._path = directory / f"c{os.urandom(6).hex()}"
        self.name = name
        self.peers: dict[int, socket.socket] = {}
        self.sent_bytes = 0
        #: Members to whom a frame is on its way: they cannot be told anything else.
        self._midway: set[int] = set()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(socket_path(self._path))
        self._listener.listen(1024)
        self._listener.settimeout(0)

    @property
    def address(self) -> str:
        """Where others find this member: ``path``, or ``host:port path``."""
        return f"{self._node} {self._path}" if self._node else str(self._path)

    def connect(self, group: bytes, rank: int, addresses: list[str], deadline: float) -> None:
        """Connect with all others. Raises CollectiveMemberDiedError, CollectiveTimeoutError."""
        for other in range(rank):
            self.peers[other], proven = self._call(other, addresses[other], deadline)
            self._settle(self.peers[other], deadline, other)
            try:
                shown = b"" if proven else self._token
                self.peers[other].sendall(shown + group + _RANK.pack(rank), socket.MSG_NOSIGNAL)
            except OSError as error:
                raise self._died(other, str(error.strerror).lower()) from None
            self.peers[other].setblocking(False)
        for other in range(rank + 1, len(addresses)):
            # Whoever is to call us has to be there; a call that says nothing is taken for such a look.
            self._call(other, addresses[other], deadline)[0].close()
        while len(self.peers) < len(addresses) - 1:
            self._accept(group, rank, len(addresses), deadline)
        # Whoever is not done yet may still look whether we are there: the listener stays as long as the mesh.

    def _call(self, rank: int, address: str, deadline: float) -> tuple[socket.socket, bool]:
        """A connection to a member, and whether both sides have proved themselves already."""
        node, path = split_member(address)
        try:
            if node:
                seconds = max(0.001, min(DIAL_SECONDS_MAX, deadline - time.monotonic()))
                return dial(node, self._token, self._me, os.path.basename(path).encode(), seconds), True
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                sock.connect(socket_path(path))
            except OSError:
                sock.close()
                raise
        except OSError as error:
            raise self._died(rank, f"it cannot be reached ({error.strerror or error})") from None
        return sock, False

    def _settle(self, sock: socket.socket, deadline: float, rank: int) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise CollectiveTimeoutError(f"group {self.name!r}: rank {rank} did not connect in time", self.name)
        sock.settimeout(left)

    def _accept(self, group: bytes, rank: int, members: int, deadline: float) -> None:
        self._settle(self._listener, deadline, next(r for r in range(rank + 1, members) if r not in self.peers))
        try:
            sock, _ = self._listener.accept()
        except TimeoutError:
            missing = [other for other in range(rank + 1, members) if other not in self.peers]
            raise CollectiveTimeoutError(
                f"group {self.name!r}: ranks {missing} did not connect in time", self.name, rank
            ) from None
        self._settle(sock, deadline, rank)
        sock, proven = self._adopt(sock)
        shown = group if proven else self._token + group
        said = _read(sock, len(shown) + _RANK.size)
        known = hmac.compare_digest(said[: -_RANK.size], shown) if len(said) == len(shown) + _RANK.size else False
        other = _RANK.unpack(said[-_RANK.size :])[0] if known else -1
        if not rank < other < members or other in self.peers:
            sock.close()
            return
        sock.setblocking(False)
        self.peers[other] = sock

    def _adopt(self, sock: socket.socket) -> tuple[socket.socket, bool]:
        """The connection that the node hands over, if it is one, and whether it is."""
        fds: list[int] = []
        try:
            # Looks, and takes nothing: only the node's greeting comes with a descriptor. (recv_fds takes no flags.)
            _, extras, _, _ = sock.recvmsg(1, socket.CMSG_LEN(_FD.size), socket.MSG_PEEK)
            fds += [
                _FD.unpack(data)[0]
                for level, kind, data in extras
                if (level, kind, len(data)) == (socket.SOL_SOCKET, socket.SCM_RIGHTS, _FD.size)
            ]
            if not fds:
                return sock, False
            hello = check_hello(_read(sock, HELLO_BYTES), self._token)
            if not hello.remote:
                return sock, False
            carried = socket.socket(fileno=fds.pop())
            carried.settimeout(sock.gettimeout())
            sock.close()
            return carried, True
        except (OSError, ProtocolError):
            # What is left to read is no greeting of a member.
            return sock, False
        finally:
            for fd in fds:
                os.close(fd)

    def _died(self, rank: int, how: str) -> CollectiveMemberDiedError:
        return CollectiveMemberDiedError(f"group {self.name!r}: rank {rank} is gone: {how}", self.name)

    # --- talking ----------------------------------------------------------------------------------------------

    def run(self, jobs: list[Sending | Receiving], deadline: float) -> None:
        """Carry out all jobs at the same time, at most one of each direction for a member.

        Raises CollectiveMemberDiedError, CollectiveTimeoutError, CollectiveError with the reason of a member that
        gave up; then the mesh is of no use any more.
        """
        left = [job for job in jobs if not self._step(job)]
        if not left:
            return
        poll = select.poll()
        while left:
            wanted: dict[int, int] = {}
            for job in left:
                fd = self.peers[job.rank].fileno()
                wanted[fd] = wanted.get(fd, 0) | (_WRITE if isinstance(job, Sending) else _READ)
            for fd, events in wanted.items():
                poll.register(fd, events)
            seconds = deadline - time.monotonic()
            ready = dict(poll.poll(seconds * 1000 + 1)) if seconds > 0 else {}
            for fd in wanted:
                poll.unregister(fd)
            if not ready and time.monotonic() >= deadline:
                ranks = sorted({job.rank for job in left})
                raise CollectiveTimeoutError(f"group {self.name!r}: ranks {ranks} did not come in time", self.name)
            left = [job for job in left if self.peers[job.rank].fileno() not in ready or not self._step(job)]

    def _step(self, job: Sending | Receiving) -> bool:
        if isinstance(job, Sending):
            return self._send(job)
        try:
            done = job.step(self.peers[job.rank])
        except EOFError:
            raise self._died(job.rank, "it left, or its process ended") from None
        except OSError as error:
            raise self._died(job.rank, str(error.strerror).lower()) from None
        except ValueError as error:
            raise CollectiveError(f"group {self.name!r}: rank {job.rank} {error}", self.name) from None
        if done and job.aborted:
            raise _reason(bytes(job.words), self.name)
        return done

    def _send(self, job: Sending) -> bool:
        before = sum(map(len, job.parts))
        self._midway.add(job.rank)
        try:
            done = job.step(self.peers[job.rank])
        except OSError as error:
            raise self._last_words(job.rank) or self._died(job.rank, str(error.strerror).lower()) from None
        self.sent_bytes += before - sum(map(len, job.parts))
        if done:
            self._midway.discard(job.rank)
        return done

    def _last_words(self, rank: int) -> CollectiveError | None:
        """Why a member that takes nothing any more gave up, if it said so."""
        last = Receiving(rank, DESCRIPTION)
        try:
            said = last.step(self.peers[rank])
        except (EOFError, OSError, ValueError):
            return None
        return _reason(bytes(last.words), self.name) if said and last.aborted else None

    def abort(self, error: CollectiveError) -> None:
        """Tell the others why, as far as they can be told without waiting, and close."""
        words = f"{type(error).__name__}\n{error.args[0] if error.args else ''}".encode()[:_WORDS_MAX]
        for rank, sock in self.peers.items():
            if rank in self._midway:
                continue
            try:
                Sending(rank, ABORT, words).step(sock)
            except OSError:
                continue
        self.close()

    def close(self) -> None:
        self._listener.close()
        self._path.unlink(missing_ok=True)
        for sock in self.peers.values():
            sock.close()
        self.peers.clear()


def split_member(address: str) -> tuple[str, str]:
    """Which node to ask for a member ("" for nobody: its socket is on this machine), and its socket's path."""
    node, _, path = ("", "", address) if address.startswith("/") else address.partition(" ")
    return ("" if os.path.exists(os.path.dirname(path)) else node), path


def _read(sock: socket.socket, size: int) -> bytes:
    """So many bytes, or fewer if there are no more."""
    said = b""
    try:
        while len(said) < size and (more := sock.recv(size - len(said))):
            said += more
    except OSError:
        return b""
    return said


_REASONS = {cls.__name__: cls for cls in (CollectiveError, CollectiveMemberDiedError, CollectiveTimeoutError)}


def _reason(words: bytes, name: str) -> CollectiveError:
    kind, _, text = words.decode(errors="replace").partition("\n")
    return _REASONS.get(kind, CollectiveError)(text, name)
