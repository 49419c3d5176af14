"""Talking to the control store from a process that must never wait for it.

A client is one daemon thread with one gRPC channel and one queue. Whoever calls goes on at once; the answer is handed
to ``post`` as a callback, which is how it gets back into the caller's own loop. gRPC is imported in that thread and
nowhere else, so a process pays for it only once it has started a client.

Calls are sent one after the other in the order they were made, because what a node says about an actor has an order.
While the control store is away, a call is tried again with growing pauses until ``give_up_seconds`` have passed since
it was made; then it fails, and the process works on. With several addresses (a control store and its standby) all of
them are asked before a pause, until one answers as the one that decides.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from obsray.core.transport.connection import control_credential
from obsray.core.transport.socket_paths import socket_path
from obsray.telemetry import session_file

MESSAGE_BYTES_MAX = 64 << 20
ATTEMPT_SECONDS_MAX = 5.0
#: gRPC gives a connection so long before it tries another one.
RECONNECT_SECONDS_MIN = 0.05
PAUSE_SECONDS_MIN = 0.02
#: Also what a client waits at most after the control store is back; a try that is refused costs next to nothing.
PAUSE_SECONDS_MAX = 0.25
#: So slowly that who waited for a control store hears of the next one after an eighth more.
PAUSE_GROWTH = 1.25
#: Answers that mean: not now, or not this process, or that it ended with the call under way.
AGAIN = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED")
CLOSE_SECONDS_MAX = 1.0
#: Trailing metadata of a control store that stands by: where all of them are.
PLACES_KEY = "control-addresses"

#: Trailing metadata of a control store that answers questions and can keep no change at the moment.
READ_ONLY_KEY = "control-read-only"
#: How the names of methods begin that only ask, or may be repeated and need not be kept.
CHANGES_NOTHING = ("Get", "List", "Find", "Heartbeat", "ReportUnreachable")

#: Names and values of a request's fields, or how to find them once it is sent.
Fields = dict[str, Any] | Callable[[], dict[str, Any]]
#: Where a control store may be, as ``Route`` takes it.
Address = Path | str | list[str]
#: Called with the reply (a message of ``control.proto``) or None, and the error or None.
OnDone = Callable[[Any, "ControlError | None"], None]


class ControlError(Exception):
    """A call was refused or could not be made. ``code`` is the name of a gRPC status code.

    ``read_only``: the control store is there and can keep no change at the moment.
    """

    def __init__(self, method: str, code: str, detail: str, read_only: bool = False) -> None:
        super().__init__(f"{method}: {code}: {detail}")
        self.method, self.code, self.detail, self.read_only = method, code, detail, read_only


class _Call(NamedTuple):
    method: str
    fields: Fields
    on_done: OnDone | None
    request_id: bytes
    give_up_at: float


class Route:
    """Where a control store may be, and a channel to each place, made when it is first needed. One thread uses it.

    ``address`` is the path of a unix socket, or ``host:port`` (several with commas between them), or a list of targets
    as gRPC has them.
    """

    def __init__(self, address: Address, token: bytes) -> None:
        if isinstance(address, Path):
            self._targets = [f"unix:{socket_path(address)}"]
        else:
            self._targets = _targets(address.split(",") if isinstance(address, str) else address)
        self.metadata = (("authorization", f"Bearer {control_credential(token)}"),)
        self._current = 0
        self._channels: dict[str, tuple[Any, Any]] = {}

    @property
    def address(self) -> str:
        """All places, for people."""
        return ", ".join(self._targets)

    @property
    def places(self) -> int:
        return len(self._targets)

    def learn(self, addresses: Iterable[str], go: bool = False) -> None:
        """Further places, beside those that are known. ``go``: the next try goes to what is new."""
        fresh = [address for address in _targets(addresses) if address not in self._targets]
        if fresh and go:
            self._current = len(self._targets)
        self._targets += fresh

    def stub(self) -> Any:
        """What calls are made on. Loads gRPC."""
        target = self._targets[self._current]
        if target not in self._channels:
            import grpc

            from obsray.core.protocol import control_pb2_grpc
            from obsray.core.transport import chaos

            channel = grpc.insecure_channel(
                target,
                options=(
                    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
                    ("grpc.initial_reconnect_backoff_ms", int(RECONNECT_SECONDS_MIN * 1000)),
                    ("grpc.min_reconnect_backoff_ms", int(RECONNECT_SECONDS_MIN * 1000)),
                    ("grpc.max_reconnect_backoff_ms", int(PAUSE_SECONDS_MAX * 1000)),
                    ("grpc.enable_http_proxy", 0),
                ),
            )
            stub = control_pb2_grpc.ControlStub(channel)  # type: ignore[no-untyped-call]
            self._channels[target] = (channel, chaos.disturbed(stub))
        return self._channels[target][1]

    def failed(self, error: Any) -> None:
        """The place did not answer, or one that stands by says where others are: the next try goes elsewhere."""
        self._current = (self._current + 1) % len(self._targets)
        for key, value in error.trailing_metadata() or ():
            if key == PLACES_KEY:
                self.learn(value.split(","), go=True)

    def close(self) -> None:
        for channel, _ in self._channels.values():
            channel.close()


def _targets(addresses: Iterable[str]) -> list[str]:
    return [address.strip() for address in addresses if address.strip()]


def address_of(session: Path) -> Address:
    """Where a process of this session finds the control store: in the session itself, or wherever its node joined."""
    path = session / "sockets" / "control.sock"
    facts = session_file.read(session)
    others = [*facts.get("control_addresses", ()), *filter(None, [facts.get("control_address_tcp")])]
    # A socket may be one that nobody listens at any more, if the one that decides is elsewhere by now.
    return [f"unix:{socket_path(path)}", *others] if path.exists() else others or path


class ControlClient:
    """Calls to the control store, made from any thread, carried out by one. ``address`` as in ``Route``.

    ``places``: asked for further places when one that is known does not answer.
    """

    def __init__(
        self,
        address: Address,
        token: bytes,
        post: Callable[[Callable[[], None]], None],
        give_up_seconds: float = 30.0,
        calls_max: int = 10_000,
        places: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._route = Route(address, token)
        self._places = places
        self._post = post
        self._give_up_seconds = give_up_seconds
        self._calls_max = calls_max
        self._calls: deque[_Call] = deque()
        self._news = threading.Condition()
        self._caller = os.urandom(8)
        self._numbers = itertools.count(1)
        self._monotonic: Callable[[], float] = time.monotonic
        #: When a control store answered last (monotonic).
        self.heard_at = self._monotonic()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="obsray-control-client", daemon=True)

    def start(self) -> None:
        """Begin to send what was called. Returns at once; the thread then imports gRPC. Twice is once."""
        if self._thread.ident is None:
            self._thread.start()

    def call(
        self, method: str, fields: Fields, on_done: OnDone | None = None, give_up_seconds: float | None = None
    ) -> None:
        """Queue a call; never blocks and never raises. ``fields`` do not contain ``request_id``."""
        if self._closing.is_set():
            self._answer(on_done, None, ControlError(method, "CANCELLED", "the client is closed"))
            return
        # next() on a count is atomic, so threads need no lock to get different numbers.
        request_id = self._caller + next(self._numbers).to_bytes(8, "big")
        patience = self._give_up_seconds if give_up_seconds is None else give_up_seconds
        if len(self._calls) >= self._calls_max:
            detail = f"{self._calls_max} calls wait for the control store already"
            self._answer(on_done, None, ControlError(method, "RESOURCE_EXHAUSTED", detail))
            return
        with self._news:
            self._calls.append(_Call(method, fields, on_done, request_id, self._monotonic() + patience))
            self._news.notify()

    def close(self, timeout_seconds: float = CLOSE_SECONDS_MAX) -> None:
        """Stop. Calls that still wait are not made; the one under way gets ``timeout_seconds`` to end."""
        self._closing.set()
        with self._news:
            self._news.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _answer(self, on_done: OnDone | None, reply: Any, error: ControlError | None) -> None:
        if on_done is not None:
            self._post(lambda: on_done(reply, error))

    # --- everything below runs in the client's thread -----------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                call = self._next()
                if call is not None:
                    self._carry_out(call)
                elif not self._closing.is_set():
                    self._on_idle()
        finally:
            self._route.close()

    def _next(self) -> _Call | None:
        with self._news:
            if not self._calls and not self._closing.is_set():
                self._news.wait(self._idle_seconds())
            return self._calls.popleft() if self._calls and not self._closing.is_set() else None

    def _idle_seconds(self) -> float | None:
        """How long nothing may happen before ``_on_idle`` is called."""
        return None

    def _on_idle(self) -> None:
        """Something to do now and then."""

    def _carry_out(self, call: _Call) -> None:
        pause_seconds = PAUSE_SECONDS_MIN
        tries = 0
        while True:
            try:
                reply, error = self._attempt(call), None
            except ControlError as failure:
                reply, error = None, failure
            retry = error is not None and error.code in AGAIN
            if not retry or self._monotonic() + pause_seconds > call.give_up_at:
                self._answer(call.on_done, reply, error)
                return
            assert error is not None
            self._route.learn(self._places(), go=not error.read_only)
            tries += 1
            # Another one may have taken over: all places are asked before a pause.
            all_asked = error.read_only or tries >= self._route.places
            if self._closing.wait(pause_seconds if all_asked else 0.0):
                self._answer(call.on_done, reply, error)
                return
            if all_asked:
                tries, pause_seconds = 0, min(PAUSE_GROWTH * pause_seconds, PAUSE_SECONDS_MAX)
            self._give_up(error)
            self._overtake(error)

    def _give_up(self, error: ControlError) -> None:
        """Those behind a call that is tried again and again wait no longer than they want to."""
        now = self._monotonic()
        with self._news:
            late = [call for call in self._calls if call.give_up_at <= now]
            for call in late:
                self._calls.remove(call)
        for call in late:
            self._answer(call.on_done, None, ControlError(call.method, error.code, error.detail))

    def _overtake(self, error: ControlError) -> None:
        """Those behind a change that cannot be kept now need not wait if they only ask."""
        if not error.read_only:
            return
        with self._news:
            asking = [call for call in self._calls if call.method.startswith(CHANGES_NOTHING)]
            for call in asking:
                self._calls.remove(call)
        for call in asking:
            try:
                self._answer(call.on_done, self._attempt(call), None)
            except ControlError as failure:
                self._answer(call.on_done, None, failure)

    def _attempt(self, call: _Call, seconds_max: float = ATTEMPT_SECONDS_MAX) -> Any:
        """One try. Raises ControlError."""
        import grpc

        from obsray.core.protocol import control_pb2 as pb

        try:
            fields = call.fields() if callable(call.fields) else call.fields
            request = getattr(pb, f"{call.method}Request")(**fields)
            if "request_id" in request.DESCRIPTOR.fields_by_name:
                request.request_id = call.request_id
            method = getattr(self._route.stub(), call.method)
            reply = method(request, timeout=seconds_max, metadata=self._route.metadata)
            self.heard_at = self._monotonic()
            return reply
        except grpc.RpcError as failure:
            code = failure.code().name
            read_only = any(key == READ_ONLY_KEY for key, _ in failure.trailing_metadata() or ())
            if code in AGAIN and not read_only:
                self._route.failed(failure)
            else:
                self.heard_at = self._monotonic()
            raise ControlError(call.method, code, failure.details() or "", read_only) from failure
        except (AttributeError, TypeError, ValueError) as failure:
            raise ControlError(call.method, "INVALID_ARGUMENT", str(failure)) from failure
