"""The control store on the wire: gRPC in front of the machine. One thread, one asyncio loop, no lock.

The token is checked by an interceptor before the method is looked up and before a byte of the request is parsed.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from obsray.core.control.journal import Journal
from obsray.core.control.machine import ControlMachine, journal_entry
from obsray.core.control.step import Instant, Refuse, Refused
from obsray.core.protocol import control_pb2 as pb
from obsray.core.protocol import control_pb2_grpc
from obsray.core.protocol.lifecycle import NodeState
from obsray.telemetry.spine import Emitter

MESSAGE_BYTES_MAX = 64 << 20
METADATA_BYTES_MAX = 16 << 10
STREAMS_MAX = 1_024
WATCH_CHANGES_MAX = 1_000
UNIX_PATH_BYTES_MAX = 107
#: How long a silent node may take to accept a connection that is only to see whether it does.
PROBE_SECONDS = 0.2

_TABLES = {
    pb.TABLE_NODES: "node",
    pb.TABLE_JOBS: "job",
    pb.TABLE_ACTORS: "actor",
    pb.TABLE_KEYS: "key",
    pb.TABLE_FUNCTIONS: "function",
    pb.TABLE_GROUPS: "group",
}


def instant() -> Instant:
    """Now, by this machine's clocks."""
    return Instant(time.monotonic_ns(), time.time_ns())


class TokenCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Lets a call pass only with ``authorization: Bearer <hex of the token>``, exactly once."""

    def __init__(self, token: bytes) -> None:
        self._expected = b"Bearer " + token.hex().encode()
        self.rejected = 0

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any) -> Any:
        shown = [value for key, value in handler_call_details.invocation_metadata if key == "authorization"]
        offered = shown[0] if len(shown) == 1 else ""
        if hmac.compare_digest(offered.encode() if isinstance(offered, str) else offered, self._expected):
            return await continuation(handler_call_details)
        self.rejected += 1
        # A streaming handler is given nothing of the request unless it asks for it, and this one does not.
        return grpc.stream_stream_rpc_method_handler(_reject)


async def _reject(requests: Any, context: Any) -> AsyncIterator[bytes]:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the cluster's token is missing or wrong")
    yield b""


class ControlService(control_pb2_grpc.ControlServicer):
    """Feeds requests to the machine and carries out what it answers."""

    def __init__(self, machine: ControlMachine, journal: Journal, emitter: Emitter) -> None:
        self.machine = machine
        self.journal = journal
        self.emitter = emitter
        #: Set when the journal failed: memory is ahead of it, and nothing may be answered any more.
        self.broken = asyncio.Event()
        self._watchers: set[asyncio.Event] = set()

    def take(self, stimulus: Message) -> Message | Refuse:
        """One step: journal first, then watchers, then the answer. Raises OSError if the journal cannot keep it."""
        now = instant()
        effects, events = self.machine.step(now, stimulus)
        if events:
            try:
                self.journal.append(journal_entry(now, stimulus))
            except OSError:
                self.broken.set()
                raise
            for watcher in self._watchers:
                watcher.set()
            self._record(now, events)
        elif isinstance(stimulus, pb.ReportUnreachableRequest):
            self.declare_overdue()
        (effect,) = effects
        return effect if isinstance(effect, Refuse) else effect.message

    async def look(self) -> None:
        """Find out about silent nodes and declare what follows. Called a few times a second."""
        asked = [
            (node, address)
            for node, address in self.machine.membership.silent(instant())
            if not address.startswith("/")
        ]
        answers = await asyncio.gather(*(refuses(address, PROBE_SECONDS) for _, address in asked))
        for (node, address), refused in zip(asked, answers, strict=True):
            if refused:
                self.machine.membership.refused(node, bytes(8), f"{address} refuses connections")
        self.declare_overdue()

    def declare_overdue(self) -> None:
        """Carry out what silence, and those who were refused, have decided."""
        for stimulus in self.machine.overdue(instant()):
            self.take(stimulus)

    async def answer(self, method: str, request: Message, context: Any) -> Message:
        """A unary call, from request to reply."""
        started_at = time.perf_counter()
        error = ""
        try:
            if self.broken.is_set():
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the control store cannot write its journal")
            answer = self.take(request)
            if isinstance(answer, Refuse):
                error = answer.refusal.value
                await context.abort(grpc.StatusCode[error], answer.detail)
            assert not isinstance(answer, Refuse)
            return answer
        except (OSError, ValueError, AssertionError) as failure:
            error = type(failure).__name__
            raise
        finally:
            self._measure(method, time.perf_counter() - started_at, error)

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.WatchReply]:
        """Follow the changes until the caller has enough or falls out of the history."""
        started_at = time.perf_counter()
        wanted = {_TABLES[table] for table in request.tables if table in _TABLES}
        position = request.after_sequence
        news = asyncio.Event()
        self._watchers.add(news)
        error = ""
        try:
            # Says that the watch is in place even while nothing changes.
            await context.send_initial_metadata(())
            while True:
                news.clear()
                changes = self.machine.changes_after(request.epoch, position)[:WATCH_CHANGES_MAX]
                if not changes:
                    await news.wait()
                    continue
                position = changes[-1].sequence
                if wanted:
                    changes = [change for change in changes if change.WhichOneof("row") in wanted]
                if changes:
                    yield pb.WatchReply(changes=changes, sequence=position)
        except Refused as refused:
            error = refused.refusal.value
            await context.abort(grpc.StatusCode[error], refused.detail)
        finally:
            self._watchers.discard(news)
            self._measure("Watch", time.perf_counter() - started_at, error)

    def _measure(self, method: str, seconds: float, error: str) -> None:
        emitter = self.emitter
        emitter.control_rpc(time.time_ns(), emitter.intern(method), seconds, int(not error), emitter.intern(error))

    def _record(self, now: Instant, events: list[pb.Change]) -> None:
        emitter = self.emitter
        for change in events:
            if change.WhichOneof("row") == "node":
                row = change.node
                state = emitter.intern(NodeState(row.state).name.lower())
                emitter.node_changed(
                    now.wall_ns, row.description.node, state, row.incarnation, emitter.intern(row.reason)
                )


def _unary(method: str) -> Any:
    async def handler(self: ControlService, request: Message, context: Any) -> Message:
        return await self.answer(method, request, context)

    return handler


for _method in pb.DESCRIPTOR.services_by_name["Control"].methods:
    if not _method.server_streaming:
        setattr(ControlService, _method.name, _unary(_method.name))


async def serve(service: ControlService, socket_path: Path, token: bytes, listen: str = "") -> tuple[Any, str]:
    """Start the server at a unix socket only its user can open, and at ``listen``, if given.

    Returns the server and the ``host:port`` it got, "" without ``listen``. Raises OSError if it cannot listen there.
    """
    if len(str(socket_path).encode()) > UNIX_PATH_BYTES_MAX:
        raise OSError(f"the path of a unix socket has at most {UNIX_PATH_BYTES_MAX} bytes: {socket_path}")
    server = grpc.aio.server(
        interceptors=(TokenCheck(token),),
        options=(
            ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
            ("grpc.max_metadata_size", METADATA_BYTES_MAX),
            ("grpc.max_concurrent_streams", STREAMS_MAX),
            ("grpc.so_reuseport", 0),
        ),
    )
    control_pb2_grpc.add_ControlServicer_to_server(service, server)  # type: ignore[no-untyped-call]
    try:
        server.add_insecure_port(f"unix:{socket_path}")
    except RuntimeError as error:
        raise OSError(str(error)) from error
    # The directory is closed to others already; the process' umask keeps the socket closed until here.
    socket_path.chmod(0o600)
    address = _listen_tcp(server, listen) if listen else ""
    await server.start()
    return server, address


def _listen_tcp(server: Any, listen: str) -> str:
    host, _, port = listen.rpartition(":")
    try:
        bound = server.add_insecure_port(listen)
    except RuntimeError as error:
        raise OSError(f"the control store cannot listen at {listen}: {taken(host, port) or error}") from error
    return f"{host}:{bound}"


def taken(host: str, port: str) -> str:
    """Why an address cannot be listened at, in the words of the operating system; "" if it could be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    return ""


async def refuses(address: str, timeout_seconds: float) -> bool:
    """Whether nobody listens at ``host:port`` on a machine that answers: the process that listened there is gone."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(timeout_seconds):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError, TimeoutError):
        return False
    writer.close()
    return False
