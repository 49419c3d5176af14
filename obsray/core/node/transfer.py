"""Shell: the bytes of objects between nodes, in threads with sockets of their own.

Whoever fetches asks for ranges; whoever has the object answers in blocks, each with its checksum, from where it lies
(the arena, or a file of its own) into the socket and from the socket to where it shall lie (docs/adr/0022)::

    request: operation B | pad 3x | object 20s | start Q | length Q
    answer:  status B | pad 3x | checksum I | length Q, then bytes of the object, or (status not 0) of a sentence

A range stays pinned where it is read until the reader says ``RELEASE``, asks for another object, or is gone. What did
not come is asked of another source, from the last good block on. No byte is ever interpreted; sizes and times are
bounded; a slow or dead peer costs its own transfer alone.
"""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from struct import Struct
from typing import TYPE_CHECKING

import xxhash

from obsray.core.node.pulls import IN_FLIGHT_MAX, Pulled
from obsray.core.node.step import PullObject, RefuseTransfer, ServeObject
from obsray.core.protocol.fallback import Gone
from obsray.ids import NIL_WORKER

if TYPE_CHECKING:
    from obsray.core.system.arena import Arena, Place

BLOCK_BYTES = 1 << 20
SEGMENT_BYTES = 16 << 20
#: A second, third ... source is read at the same time for each so many bytes.
STREAM_BYTES = 32 << 20
STREAMS_MAX = 3
REQUESTS_AHEAD = 2
SERVED_MAX = 128
BUFFER_BYTES = 4 << 20
#: Without a byte for so long, a transfer is broken.
STALL_SECONDS = 15
#: A connection that nobody uses is kept for so long by who asks, and longer by who answers.
IDLE_SECONDS = 20
SERVER_IDLE_SECONDS = 60
ANSWER_SECONDS_MAX = 60.0
#: No transfer lasts longer than this and what its bytes take at this rate.
TRANSFER_SECONDS_MAX = 60.0
BYTES_PER_SECOND_MIN = 2e6
SENTENCE_BYTES_MAX = 4096

READ, RELEASE = 1, 2
DATA, REFUSED = 0, 1
_REQUEST = Struct("<B3x20sQQ")
_BLOCK = Struct("<B3xIQ")
_TIMEVAL = Struct("ll")

Range = tuple[int, int]


class Broken(ConnectionError):
    """The peer of a transfer is gone, late, refuses, or does not keep to the protocol."""


class _Job:
    """One pull: the ranges that are still to come, and who has sent what."""

    def __init__(self, effect: PullObject) -> None:
        self.effect = effect
        self.lock = threading.Lock()
        self.ranges: deque[Range] = deque()
        for start, end in effect.missing:
            self.ranges += [(at, min(at + SEGMENT_BYTES, end)) for at in range(start, end, SEGMENT_BYTES)]
        self.sources = deque(effect.sources)
        self.got: dict[bytes, int] = {}
        self.failures: list[tuple[bytes, int, str]] = []
        self.sockets: set[socket.socket] = set()
        self.cancelled = False
        #: Where it shall lie, while streams run.
        self.view = memoryview(b"")
        wanted = sum(end - start for start, end in effect.missing)
        self.streams = max(1, min(len(effect.sources), STREAMS_MAX, wanted // STREAM_BYTES))
        self.deadline = time.monotonic() + TRANSFER_SECONDS_MAX + wanted / BYTES_PER_SECOND_MIN

    def take(self) -> Range | None:
        with self.lock:
            return self.ranges.popleft() if self.ranges and not self.cancelled else None

    def give_back(self, ranges: list[Range]) -> None:
        with self.lock:
            self.ranges.extendleft(reversed([(start, end) for start, end in ranges if start < end]))

    def next_source(self) -> tuple[bytes, str] | None:
        with self.lock:
            return self.sources.popleft() if self.sources and self.ranges and not self.cancelled else None


class Transfers:
    """``dial(address)`` connects to the transfers of a node; ``post`` runs a callable on the node's thread, where
    ``asked(token, node, object)``, ``over(node, object, sent, queue seconds, wire seconds, error, file gone)`` and
    ``pulled(token, result)`` tell the machine. Nothing is started before it is needed."""

    def __init__(
        self,
        arena: Arena,
        dial: Callable[[str], socket.socket],
        post: Callable[[Callable[[], None]], None],
        asked: Callable[[int, bytes, bytes], None],
        over: Callable[[bytes, bytes, int, float, float, str, bool], None],
        pulled: Callable[[int, Pulled], None],
        stall_seconds: float = STALL_SECONDS,
    ) -> None:
        self._arena, self._dial, self._post = arena, dial, post
        self._asked, self._over, self._pulled = asked, over, pulled
        self._stall_seconds = max(1, round(stall_seconds))
        self._lock = threading.Lock()
        self._tokens = itertools.count(1)
        self._answers: dict[int, SimpleQueue[ServeObject | RefuseTransfer]] = {}
        self._late: dict[int, tuple[bytes, bytes]] = {}
        self._jobs: dict[int, _Job] = {}
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._workers = 0
        self._sockets: dict[bytes, set[socket.socket]] = {}
        self._idle: dict[bytes, list[tuple[float, socket.socket]]] = {}
        self._serving = 0
        self._closed = False

    # --- what the machine wants ----------------------------------------------------------------------------

    def pull(self, effect: PullObject) -> None:
        """Fetch an object in a thread."""
        self._arena.view(0, 0)
        job = self._jobs[effect.token] = _Job(effect)
        if self._workers < min(len(self._jobs), IN_FLIGHT_MAX):
            self._workers += 1
            threading.Thread(target=self._work, name=f"obsray-pull-{self._workers}", daemon=True).start()
        self._queue.put(job)

    def cancel(self, token: int) -> None:
        """End a transfer soon; it is answered like any other."""
        job = self._jobs.get(token)
        if job is not None:
            job.cancelled = True
            with job.lock:
                for sock in job.sockets:
                    _shut(sock)

    def serve(self, effect: ServeObject | RefuseTransfer) -> None:
        """The machine's answer to ``asked``."""
        answers = self._answers.pop(effect.token, None)
        if answers is not None:
            answers.put(effect)
        elif (late := self._late.pop(effect.token, None)) is not None and isinstance(effect, ServeObject):
            self._over(*late, 0, ANSWER_SECONDS_MAX, 0.0, "the reader had given up", False)

    def cut(self, node: bytes) -> None:
        """End all transfers from and to a node."""
        with self._lock:
            found = [*self._sockets.get(node, ()), *(sock for _, sock in self._idle.pop(node, ()))]
        for sock in found:
            _shut(sock)

    def close(self) -> None:
        """End everything; threads that still run end with their sockets."""
        self._closed = True
        for node in {*self._sockets, *self._idle}:
            self.cut(node)
        for _ in range(self._workers):
            self._queue.put(None)

    # --- sockets -------------------------------------------------------------------------------------------

    def _use(self, node: bytes, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.setdefault(node, set()).add(sock)
        if self._closed:
            _shut(sock)

    def _drop(self, node: bytes, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.get(node, set()).discard(sock)
        sock.close()

    def _connect(self, node: bytes, address: str) -> tuple[socket.socket, bool]:
        """A connection to a node, and whether it was used before."""
        with self._lock:
            idle = self._idle.get(node, [])
            while idle:
                since, sock = idle.pop()
                if time.monotonic() - since < IDLE_SECONDS:
                    self._sockets.setdefault(node, set()).add(sock)
                    return sock, True
                sock.close()
        sock = self._dial(address)
        _tune(sock, self._stall_seconds)
        self._use(node, sock)
        return sock, False

    def _keep(self, node: bytes, sock: socket.socket) -> None:
        with self._lock:
            self._sockets.get(node, set()).discard(sock)
            self._idle.setdefault(node, []).append((time.monotonic(), sock))

    # --- fetching ------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            started = time.monotonic()
            effect = job.effect
            try:
                place = self._arena.place(effect.object, effect.offset, effect.size)
            except OSError as error:
                job.failures.append((effect.sources[0][0], 0, f"there is nowhere to put it: {error}"))
                self._tell(job, 0.0)
                continue
            job.view = place.view
            others = [
                threading.Thread(target=self._stream, args=(job,), name="obsray-pull-more", daemon=True)
                for _ in range(job.streams - 1)
            ]
            for other in others:
                other.start()
            self._stream(job)
            for other in others:
                other.join()
            place.close()
            job.view = memoryview(b"")
            del place
            self._tell(job, time.monotonic() - started)

    def _tell(self, job: _Job, seconds: float) -> None:
        token = job.effect.token
        source = max(job.got, key=job.got.__getitem__, default=job.effect.sources[0][0])
        error = "it was cancelled" if job.cancelled else "; ".join(why for _, _, why in job.failures) or "no source"
        missing = tuple(sorted(job.ranges))
        result = Pulled(
            missing, source or NIL_WORKER, len(job.got), seconds, tuple(job.failures), error if missing else ""
        )

        def told() -> None:
            del self._jobs[token]
            self._pulled(token, result)

        self._post(told)

    def _stream(self, job: _Job) -> None:
        """Read from one source after the other until nothing is missing."""
        while (source := job.next_source()) is not None:
            node, address = source
            try:
                self._fetch(job, node, address)
            except (OSError, ValueError) as error:
                why = str(error) or type(error).__name__
                job.failures.append((node, job.got.get(node, 0), f"node {node.hex()[:8]}: {why}"))

    def _fetch(self, job: _Job, node: bytes, address: str) -> None:
        sock, used = self._connect(node, address)
        before = job.got.get(node, 0)
        try:
            self._read(job, node, sock)
        except OSError:
            if not used or job.got.get(node, 0) != before or job.cancelled:
                raise
        else:
            return
        # The other side had closed it meanwhile, as it may.
        sock = self._dial(address)
        _tune(sock, self._stall_seconds)
        self._use(node, sock)
        self._read(job, node, sock)

    def _read(self, job: _Job, node: bytes, sock: socket.socket) -> None:
        """Ask for ranges and read them into the arena, until none is left. Raises OSError; what came stays."""
        pending: deque[Range] = deque()
        with job.lock:
            job.sockets.add(sock)
        try:
            while True:
                while len(pending) < REQUESTS_AHEAD and (more := job.take()) is not None:
                    pending.append(more)
                    sock.sendall(_REQUEST.pack(READ, job.effect.object, more[0], more[1] - more[0]))
                if not pending:
                    break
                start, end = pending[0]
                while start < end:
                    start = self._read_block(job, node, sock, start, end)
                    pending[0] = (start, end)
                pending.popleft()
            if job.cancelled:
                raise Broken("it was cancelled")
            sock.sendall(_REQUEST.pack(RELEASE, job.effect.object, 0, 0))
        except BaseException:
            job.give_back(list(pending))
            self._drop(node, sock)
            raise
        finally:
            with job.lock:
                job.sockets.discard(sock)
        self._keep(node, sock)

    def _read_block(self, job: _Job, node: bytes, sock: socket.socket, start: int, end: int) -> int:
        """One block. Returns where the next one begins."""
        if job.cancelled or time.monotonic() > job.deadline:
            raise Broken("it was cancelled" if job.cancelled else "it is too slow")
        status, checksum, length = _BLOCK.unpack(_receive(sock, _BLOCK.size))
        if status != DATA:
            raise Broken(_receive(sock, min(length, SENTENCE_BYTES_MAX)).decode(errors="replace"))
        if not 0 < length <= min(BLOCK_BYTES, end - start):
            raise Broken("it sent a block of the wrong size")
        view = job.view[start : start + length]
        _receive_into(sock, view)
        if checksum_of(view) != checksum:
            raise Broken(f"the checksum of bytes {start} to {start + length} is wrong")
        with job.lock:
            job.got[node] = job.got.get(node, 0) + length
        return int(start + length)

    # --- serving -------------------------------------------------------------------------------------------

    def accept(self, sock: socket.socket, node: bytes) -> None:
        """Another node wants objects; its requests are served in a thread."""
        if self._closed or self._serving >= SERVED_MAX:
            sock.close()
            return
        self._arena.view(0, 0)
        self._serving += 1
        threading.Thread(target=self._serve, args=(sock, node), name="obsray-serve", daemon=True).start()

    def _serve(self, sock: socket.socket, node: bytes) -> None:
        grant = _Grant()
        error = ""
        try:
            _tune(sock, SERVER_IDLE_SECONDS)
            self._use(node, sock)
            request = bytearray(_REQUEST.size)
            while _receive_into(sock, memoryview(request), may_end=True):
                operation, identifier, start, length = _REQUEST.unpack(request)
                if operation not in (READ, RELEASE):
                    raise Broken("it asked for something unknown")
                if grant.object and (operation == RELEASE or grant.object != identifier):
                    self._release(node, grant, "")
                    grant = _Grant()
                if operation == RELEASE:
                    continue
                refused = "" if grant.object else self._ask(node, identifier, grant)
                if not refused and (not length or start + length > grant.size):
                    refused = f"bytes {start} to {start + length} of {grant.size}"
                if refused:
                    text = refused.encode()[:SENTENCE_BYTES_MAX]
                    sock.sendall(_BLOCK.pack(REFUSED, 0, len(text)) + text)
                else:
                    self._send(sock, grant, start, start + length)
        except (OSError, ValueError) as failure:
            error = str(failure) or type(failure).__name__
        finally:
            if grant.object:
                self._release(node, grant, error)
            self._drop(node, sock)
            self._serving -= 1

    def _ask(self, node: bytes, identifier: bytes, grant: _Grant) -> str:
        """Have the machine pin an object. Returns why it does not."""
        asked_at = time.monotonic()
        token = next(self._tokens)
        answers = self._answers[token] = SimpleQueue[ServeObject | RefuseTransfer]()
        self._post(lambda: self._asked(token, node, identifier))
        try:
            answer = answers.get(timeout=ANSWER_SECONDS_MAX)
        except Empty:
            self._late[token] = (node, identifier)
            if self._answers.pop(token, None) is not None:
                return "the node takes too long to make it readable"
            self._late.pop(token, None)
            answer = answers.get()
        if isinstance(answer, RefuseTransfer):
            return answer.detail or answer.error
        grant.object, grant.size = identifier, answer.size
        grant.queue_seconds = time.monotonic() - asked_at
        try:
            grant.place = self._arena.place(identifier, answer.offset, answer.size)
        except OSError as error:
            why = f"it cannot be read: {error}"
            self._release(node, grant, why, isinstance(error, Gone))
            grant.object = b""
            return why
        return ""

    def _release(self, node: bytes, grant: _Grant, error: str, gone: bool = False) -> None:
        if grant.place is not None:
            grant.place.close()
        # As it is now: the grant may be used again before this is told.
        told = node, grant.object, grant.sent, grant.queue_seconds, grant.wire_seconds, error, gone
        self._post(lambda: self._over(*told))

    def _send(self, sock: socket.socket, grant: _Grant, start: int, end: int) -> None:
        """Send a range, block by block. The pages go straight from where they lie to the socket."""
        began = time.monotonic()
        place = grant.place
        assert place is not None
        out = sock.fileno()
        try:
            while start < end:
                length = min(BLOCK_BYTES, end - start)
                at = place.start + start
                checksum = checksum_of(place.view[start : start + length])
                sock.sendall(_BLOCK.pack(DATA, checksum, length), socket.MSG_MORE)
                left = length
                while left:
                    sent = os.sendfile(out, place.fd, at, left)
                    if not sent:
                        raise Broken("the connection ended")
                    at, left = at + sent, left - sent
                    grant.sent += sent
                start += length
        except BlockingIOError:
            raise Broken("it does not read") from None
        finally:
            grant.wire_seconds += time.monotonic() - began


class _Grant:
    """An object that is pinned for a connection, and what was sent of it."""

    def __init__(self) -> None:
        self.object = b""
        self.place: Place | None = None
        self.size = self.sent = 0
        self.queue_seconds = self.wire_seconds = 0.0


def checksum_of(block: memoryview) -> int:
    """32 bits that tell whether a block is what was sent (XXH3, at five times the speed of CRC-32)."""
    return xxhash.xxh3_64_intdigest(block) & 0xFFFF_FFFF


def _tune(sock: socket.socket, idle_seconds: int) -> None:
    """Blocking, with limits that the kernel keeps: ``sendfile`` knows no others."""
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEVAL.pack(idle_seconds, 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(STALL_SECONDS, 0))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)


def _receive(sock: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    _receive_into(sock, memoryview(data))
    return bytes(data)


def _receive_into(sock: socket.socket, view: memoryview, may_end: bool = False) -> bool:
    """Fill ``view``. False if the connection ended before its first byte and it ``may_end``."""
    done = 0
    while done < len(view):
        try:
            count = sock.recv_into(view[done:])
        except BlockingIOError:
            if may_end and not done:
                return False
            raise Broken("nothing came for too long") from None
        if not count:
            if may_end and not done:
                return False
            raise Broken("the connection ended in the middle")
        done += count
    return True


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        # It is closed already.
        pass
