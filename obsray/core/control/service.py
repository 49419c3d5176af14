"""The control store on the wire: gRPC in front of the machine. One thread, one asyncio loop, no lock.

The token is checked by an interceptor before the method is looked up and before a byte of the request is parsed.
"""

from __future__ import annotations

import asyncio
import hmac
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from obsray.core.control.journal import NoRoom, Storage
from obsray.core.control.machine import ControlMachine, journal_entry
from obsray.core.control.step import Instant, Refuse, Refused
from obsray.core.protocol import control_pb2 as pb
from obsray.core.protocol import control_pb2_grpc
from obsray.core.protocol.lifecycle import NodeState
from obsray.core.transport.connection import control_credential
from obsray.core.transport.control_client import CHANGES_NOTHING, PLACES_KEY, READ_ONLY_KEY
from obsray.core.transport.socket_paths import PATH_BYTES_MAX
from obsray.telemetry.spine import Emitter

MESSAGE_BYTES_MAX = 64 << 20
METADATA_BYTES_MAX = 16 << 10
STREAMS_MAX = 1_024
WATCH_CHANGES_MAX = 1_000
#: How long a silent node may take to accept a connection that is only to see whether it does.
PROBE_SECONDS = 0.2

#: Who asks one that stands by is sent elsewhere if it is not its turn by then. Clients notice the end of the one that
#: decides before its standby does, and would have to ask again and again.
TURN_SECONDS = 0.1
#: While the storage has no room it is tried again so often.
ROOM_SECONDS = 1.0
#: A snapshot for which there was no room is tried again after so long.
COMPACT_AGAIN_SECONDS = 30.0
#: Refused at once while the storage has no room: programs wait for their answers. Everything else is tried again.
_OF_PROGRAMS = ("PutKey", "DeleteKey", "PutFunction")

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
    """Lets a call pass only with ``authorization: Bearer <credential>``, exactly once."""

    def __init__(self, token: bytes) -> None:
        self._expected = b"Bearer " + control_credential(token).encode()
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
    """Feeds requests to the machine and carries out what it answers.

    Entries that arrive while others are being written are written together. Nothing is answered, and no watcher told,
    before all that led to it is kept; so an answer that only reads waits for what it has read. Without a machine, this
    process stands by, and says so.
    """

    def __init__(self, storage: Storage, emitter: Emitter, machine: ControlMachine | None = None) -> None:
        self.storage = storage
        self.emitter = emitter
        #: It is this process' turn.
        self._decides = asyncio.Event()
        if machine is not None:
            self._decides.set()
        self.machine = machine or ControlMachine(0)
        #: Set when the storage failed or another process took over: nothing may be answered any more.
        self.broken = asyncio.Event()
        self.failure: OSError | None = None
        #: Why nothing can be kept at the moment; "" as long as it can. Reads are answered meanwhile.
        self.read_only = ""
        self._read_only_since = self._tried_room_at = self._compact_at = 0.0
        #: Memory was ahead of the storage and is made anew.
        self._returning = False
        self._recover: Callable[[], ControlMachine] = lambda: self.machine
        #: Where else to find the control store, as nodes are told.
        self.places: list[str] = []
        self._watchers: set[asyncio.Event] = set()
        self._pending: list[bytes] = []
        self._taken = self._kept = 0
        self._kept_sequence = self.machine.history.last
        self._settling: list[tuple[int, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, "obsray-control-storage")

    def begin(self, machine: ControlMachine, recover: Callable[[], ControlMachine]) -> None:
        """It is this process' turn: answer from what the storage holds. ``recover`` makes another machine of that."""
        self._recover = recover
        self.machine = machine
        self._kept_sequence = self.machine.history.last
        self._decides.set()

    def take(self, stimulus: Message) -> Message | Refuse:
        """One step, whose entry is on its way to the storage. Nothing of it may be told before ``settled``."""
        now = instant()
        effects, events = self.machine.step(now, stimulus)
        if events:
            self._taken += 1
            self._pending.append(journal_entry(now, stimulus))
            if not self.storage.durable:
                self._pending.clear()
                self._keep(self._taken, self.machine.history.last)
            elif self._writing is None:
                self._writing = asyncio.get_running_loop().create_task(self._write())
            self._record(now, events)
        elif isinstance(stimulus, pb.ReportUnreachableRequest):
            self.declare_overdue()
        (effect,) = effects
        return effect if isinstance(effect, Refuse) else effect.message

    async def settled(self) -> None:
        """Wait until all that was taken is kept. Raises OSError if it cannot be."""
        if self.failure is not None:
            raise self.failure
        if self._taken > self._kept:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._settling.append((self._taken, future))
            await future
        self.storage.renew()

    async def _write(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._pending:
                entries, self._pending = self._pending, []
                taken, sequence = self._taken, self.machine.history.last
                started_at = time.perf_counter()
                await loop.run_in_executor(self._thread, self.storage.append, entries)
                seconds = time.perf_counter() - started_at
                self.emitter.control_stored(time.time_ns(), seconds, len(entries), sum(map(len, entries)))
                self._keep(taken, sequence)
                if self.storage.compaction_due and not self._pending and loop.time() >= self._compact_at:
                    # Nothing was taken since: this is the state that all kept entries led to.
                    await self._compact(self.machine.snapshot())
        except NoRoom as error:
            await self._turn_read_only(error)
        except OSError as error:
            self.fail(error)
        finally:
            self._writing = None

    async def _compact(self, state: bytes) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self.storage.compact, state)
        except NoRoom as error:
            # What is kept stays as it is; a snapshot can wait.
            self._compact_at = loop.time() + COMPACT_AGAIN_SECONDS
            print(f"obsray control: no room for a snapshot: {error}", file=sys.stderr, flush=True)

    async def _turn_read_only(self, error: NoRoom) -> None:
        """Nothing more can be kept: go back to what is, answer questions from that, and refuse changes."""
        loop = asyncio.get_running_loop()
        self.read_only = f"the control store can change nothing, its storage has no room: {error}"
        self._read_only_since = self._tried_room_at = loop.time()
        self._returning = True
        self._pending.clear()
        self._taken = self._kept
        for _, future in self._settling:
            if not future.done():
                future.set_exception(error)
        self._settling.clear()
        print(f"obsray control: {self.read_only}", file=sys.stderr, flush=True)
        self.emitter.control_read_only(time.time_ns(), self.storage.epoch, self.emitter.intern(str(error)))
        try:
            self.machine = await loop.run_in_executor(self._thread, self._recover)
        except (OSError, ValueError) as failure:
            self.fail(failure if isinstance(failure, OSError) else OSError(str(failure)))
            return
        self._kept_sequence = self.machine.history.last
        self._returning = False

    async def _look_for_room(self) -> None:
        """Accept changes again if the storage has room by now."""
        loop = asyncio.get_running_loop()
        if self._returning or loop.time() < self._tried_room_at + ROOM_SECONDS:
            return
        self._tried_room_at = loop.time()
        try:
            await loop.run_in_executor(self._thread, self.storage.try_to_write)
        except NoRoom:
            return
        except OSError as error:
            self.fail(error)
            return
        # Nobody could be declared dead, and nobody's suspicion lifted.
        self.machine.recovered(instant())
        self.read_only = ""
        seconds = loop.time() - self._read_only_since
        self.emitter.control_writable(time.time_ns(), self.storage.epoch, seconds)
        print(f"obsray control: changes are kept again, after {seconds:.1f} s", file=sys.stderr, flush=True)

    def _keep(self, taken: int, sequence: int) -> None:
        self._kept, self._kept_sequence = taken, sequence
        while self._settling and self._settling[0][0] <= taken:
            _, future = self._settling.pop(0)
            if not future.done():
                future.set_result(None)
        for watcher in self._watchers:
            watcher.set()

    def fail(self, error: OSError) -> None:
        """Memory is ahead of the storage, or another process decides now: answer nobody any more."""
        self.failure = self.failure or error
        self.broken.set()
        for _, future in self._settling:
            if not future.done():
                future.set_exception(error)
        self._settling.clear()

    async def close(self) -> None:
        """Wait for what is being written."""
        if self._writing is not None:
            await asyncio.wait((self._writing,))
        self._thread.shutdown()

    async def answer(self, method: str, request: Message, context: Any) -> Message:
        """A unary call, from request to reply."""
        started_at = time.perf_counter()
        error = ""
        try:
            if not await self._its_turn():
                error = "UNAVAILABLE"
                await self._send_elsewhere(context)
            answer: Message | Refuse
            try:
                await self._may_answer()
                if self.read_only and self._would_change(method, request):
                    error = "READ_ONLY"
                    await self._refuse_change(method, context)
                answer = self.take(request)
                await self.settled()
            except NoRoom:
                error = "READ_ONLY"
                await self._refuse_change(method, context)
                raise
            except OSError as failure:
                error = type(failure).__name__
                self.fail(failure)
                await context.abort(grpc.StatusCode.UNAVAILABLE, f"the control store ends: {failure}")
                raise
            if isinstance(answer, Refuse):
                error = answer.refusal.value
                await context.abort(grpc.StatusCode[error], answer.detail)
            assert not isinstance(answer, Refuse)
            if isinstance(answer, pb.RegisterNodeReply | pb.HeartbeatReply):
                del answer.control_addresses[:]
                answer.control_addresses.extend(self.places)
                answer.control_epoch = self.storage.epoch if self.storage.durable else 0
            elif isinstance(answer, pb.GetStateReply) and self.storage.durable:
                answer.storage = self.storage.place
            return answer
        except (ValueError, AssertionError) as failure:
            error = type(failure).__name__
            raise
        finally:
            self._measure(method, time.perf_counter() - started_at, error)

    async def _its_turn(self) -> bool:
        if not self._decides.is_set():
            try:
                await asyncio.wait_for(self._decides.wait(), TURN_SECONDS)
            except TimeoutError:
                return False
        return True

    async def _send_elsewhere(self, context: Any) -> None:
        context.set_trailing_metadata(((PLACES_KEY, ",".join(self.storage.places())),))
        await context.abort(grpc.StatusCode.UNAVAILABLE, "this control store stands by; another one decides")

    def _would_change(self, method: str, request: Message) -> bool:
        """Whether a request may have to be kept before it is answered."""
        if isinstance(request, pb.HeartbeatRequest):
            return self.machine.membership.is_suspected(request.node)
        return self._returning or not method.startswith(CHANGES_NOTHING)

    async def _refuse_change(self, method: str, context: Any) -> None:
        context.set_trailing_metadata(((READ_ONLY_KEY, "1"),))
        code = grpc.StatusCode.RESOURCE_EXHAUSTED if method in _OF_PROGRAMS else grpc.StatusCode.UNAVAILABLE
        await context.abort(code, f"{self.read_only}; what it has can be read, and changes can be made when there is")

    async def _may_answer(self) -> None:
        if self.failure is not None:
            raise self.failure
        self.storage.renew()

    async def Watch(self, request: pb.WatchRequest, context: Any) -> AsyncIterator[pb.WatchReply]:
        """Follow the changes until the caller has enough or falls out of the history."""
        started_at = time.perf_counter()
        wanted = {_TABLES[table] for table in request.tables if table in _TABLES}
        position = request.after_sequence
        news = asyncio.Event()
        self._watchers.add(news)
        error = ""
        try:
            if not await self._its_turn():
                error = "UNAVAILABLE"
                await self._send_elsewhere(context)
            # Says that the watch is in place even while nothing changes.
            await context.send_initial_metadata(())
            while True:
                news.clear()
                changes = [
                    change
                    for change in self.machine.changes_after(request.epoch, position)[:WATCH_CHANGES_MAX]
                    if change.sequence <= self._kept_sequence
                ]
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

    async def look(self) -> None:
        """Find out about silent nodes and declare what follows. Called a few times a second."""
        if self.read_only:
            await self._look_for_room()
            return
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
        if self.read_only:
            return
        for stimulus in self.machine.overdue(instant()):
            self.take(stimulus)

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
    if len(str(socket_path).encode()) > PATH_BYTES_MAX:
        raise OSError(f"the path of a unix socket has at most {PATH_BYTES_MAX} bytes: {socket_path}")
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


async def storage_of(address: str, token: bytes, timeout_seconds: float) -> str:
    """Where the control store at ``host:port`` keeps its state. Raises ValueError if it does not say so in time."""
    request = pb.GetStateRequest(tables=[pb.TABLE_NODES], rows_max=1)
    metadata = (("authorization", f"Bearer {control_credential(token)}"),)
    async with grpc.aio.insecure_channel(address, options=(("grpc.enable_http_proxy", 0),)) as channel:
        stub = control_pb2_grpc.ControlStub(channel)  # type: ignore[no-untyped-call]
        try:
            state = await stub.GetState(request, timeout=timeout_seconds, metadata=metadata, wait_for_ready=True)
        except grpc.RpcError as error:
            raise ValueError(f"the control store at {address} does not answer: {error.details()}") from error
    return str(state.storage)


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
