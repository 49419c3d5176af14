"""Talking to the control store from a process that must never wait for it.

A client is one daemon thread with one gRPC channel and one queue. Whoever calls goes on at once; the answer is handed
to ``post`` as a callback, which is how it gets back into the caller's own loop. gRPC is imported in that thread and
nowhere else, so a process pays for it only once it has started a client.

Calls are sent one after the other in the order they were made, because what a node says about an actor has an order.
While the control store is away, a call is tried again with growing pauses until ``give_up_seconds`` have passed since
it was made; then it fails, and the process works on: on one machine nothing it does depends on the answer.
"""

from __future__ import annotations

import itertools
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from obsray.core.protocol.lifecycle import ActorState
from obsray.ids import owner_of

MESSAGE_BYTES_MAX = 64 << 20
ATTEMPT_SECONDS_MAX = 5.0
RESTARTS_MAX = (1 << 31) - 1
DETAIL_CHARACTERS_MAX = 4_096
PAUSE_SECONDS_MIN = 0.05
PAUSE_SECONDS_MAX = 1.0
#: Until the control store has said how often it wants to hear from a node.
HEARTBEAT_SECONDS = 1.0
CLOSE_SECONDS_MAX = 1.0

#: Names and values of a request's fields, or how to find them once it is sent.
Fields = dict[str, Any] | Callable[[], dict[str, Any]]
#: Called with the reply (a message of ``control.proto``) or None, and the error or None.
OnDone = Callable[[Any, "ControlError | None"], None]


class ControlError(Exception):
    """A call was refused or could not be made. ``code`` is the name of a gRPC status code."""

    def __init__(self, method: str, code: str, detail: str) -> None:
        super().__init__(f"{method}: {code}: {detail}")
        self.method, self.code, self.detail = method, code, detail


class _Call(NamedTuple):
    method: str
    fields: Fields
    on_done: OnDone | None
    request_id: bytes
    give_up_at: float


class ControlClient:
    """Calls to the control store, made from any thread, carried out by one."""

    def __init__(
        self,
        socket_path: Path,
        token: bytes,
        post: Callable[[Callable[[], None]], None],
        give_up_seconds: float = 30.0,
        calls_max: int = 10_000,
    ) -> None:
        self._address = f"unix:{socket_path}"
        self._metadata = (("authorization", f"Bearer {token.hex()}"),)
        self._post = post
        self._give_up_seconds = give_up_seconds
        self._calls: queue.Queue[_Call | None] = queue.Queue(calls_max)
        self._caller = os.urandom(8)
        self._numbers = itertools.count(1)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="obsray-control-client", daemon=True)
        self._stub: Any = None
        self._channel: Any = None

    def start(self) -> None:
        """Begin to send what was called. Returns at once; the thread then imports gRPC."""
        self._thread.start()

    def call(self, method: str, fields: Fields, on_done: OnDone | None = None) -> None:
        """Queue a call; never blocks and never raises. ``fields`` do not contain ``request_id``."""
        if self._closing.is_set():
            self._answer(on_done, None, ControlError(method, "CANCELLED", "the client is closed"))
            return
        # next() on a count is atomic, so threads need no lock to get different numbers.
        request_id = self._caller + next(self._numbers).to_bytes(8, "big")
        try:
            self._calls.put_nowait(_Call(method, fields, on_done, request_id, time.monotonic() + self._give_up_seconds))
        except queue.Full:
            detail = f"{self._calls.maxsize} calls wait for the control store already"
            self._answer(on_done, None, ControlError(method, "RESOURCE_EXHAUSTED", detail))

    def close(self, timeout_seconds: float = CLOSE_SECONDS_MAX) -> None:
        """Stop. Calls that still wait are not made; the one under way gets ``timeout_seconds`` to end."""
        self._closing.set()
        try:
            self._calls.put_nowait(None)
        except queue.Full:
            pass
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _answer(self, on_done: OnDone | None, reply: Any, error: ControlError | None) -> None:
        if on_done is not None:
            self._post(lambda: on_done(reply, error))

    # --- everything below runs in the client's thread -----------------------------------------------------------

    def _run(self) -> None:
        import grpc

        from obsray.core.protocol import control_pb2_grpc

        self._channel = grpc.insecure_channel(
            self._address,
            options=(
                ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
                ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
                ("grpc.initial_reconnect_backoff_ms", int(PAUSE_SECONDS_MIN * 1000)),
                ("grpc.min_reconnect_backoff_ms", int(PAUSE_SECONDS_MIN * 1000)),
                ("grpc.max_reconnect_backoff_ms", int(PAUSE_SECONDS_MAX * 1000)),
                ("grpc.enable_http_proxy", 0),
            ),
        )
        self._stub = control_pb2_grpc.ControlStub(self._channel)  # type: ignore[no-untyped-call]
        try:
            while not self._closing.is_set():
                try:
                    call = self._calls.get(timeout=self._idle_seconds())
                except queue.Empty:
                    self._on_idle()
                    continue
                if call is not None:
                    self._carry_out(call)
        finally:
            self._channel.close()

    def _idle_seconds(self) -> float | None:
        """How long nothing may happen before ``_on_idle`` is called."""
        return None

    def _on_idle(self) -> None:
        """Something to do now and then."""

    def _carry_out(self, call: _Call) -> None:
        pause_seconds = PAUSE_SECONDS_MIN
        while True:
            try:
                reply, error = self._attempt(call), None
            except ControlError as failure:
                reply, error = None, failure
            retry = error is not None and error.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
            if not retry or time.monotonic() + pause_seconds > call.give_up_at or self._closing.wait(pause_seconds):
                self._answer(call.on_done, reply, error)
                return
            pause_seconds = min(2 * pause_seconds, PAUSE_SECONDS_MAX)

    def _attempt(self, call: _Call) -> Any:
        """One try. Raises ControlError."""
        import grpc

        from obsray.core.protocol import control_pb2 as pb

        try:
            fields = call.fields() if callable(call.fields) else call.fields
            request = getattr(pb, f"{call.method}Request")(**fields)
            if "request_id" in request.DESCRIPTOR.fields_by_name:
                request.request_id = call.request_id
            return getattr(self._stub, call.method)(request, timeout=ATTEMPT_SECONDS_MAX, metadata=self._metadata)
        except grpc.RpcError as failure:
            raise ControlError(call.method, failure.code().name, failure.details() or "") from failure
        except (AttributeError, TypeError, ValueError) as failure:
            raise ControlError(call.method, "INVALID_ARGUMENT", str(failure)) from failure


class NodeReporter(ControlClient):
    """What a node tells the control store: that it is there, and what happens to its drivers and actors.

    Every method returns at once and reports no failure: the node is right about itself, the control store only
    learns. If that was started anew and remembers nothing, it is told again what lives now. ``on_fenced`` is posted
    once if the control store has declared the node dead.

    The methods and what ``post`` is given run in one thread, the node's own.
    """

    def __init__(
        self,
        socket_path: Path,
        token: bytes,
        node: bytes,
        post: Callable[[Callable[[], None]], None],
        on_fenced: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(socket_path, token, post)
        self._node = node
        self._on_fenced = on_fenced
        self._description: dict[str, Any] = {}
        #: What lives, as it was last reported: running jobs, and actors with their creation and newest change.
        self._jobs: dict[int, dict[str, Any]] = {}
        self._actors: dict[bytes, dict[str, Any]] = {}
        self._changes: dict[bytes, dict[str, Any]] = {}
        self._incarnation = 0
        self._heartbeat_seconds: float | None = None
        self._beat_at = 0.0

    def register_node(self, host: str, address: str, resources: dict[str, int], version: str = "") -> None:
        """Join. ``resources`` in fixed point, ``address`` is where the data plane listens."""
        self._description = {
            "node": self._node,
            "host": host,
            "pid": os.getpid(),
            "address": address,
            "resources": resources,
            "version": version,
        }
        # Heartbeats from here on: should this call fail, the answer to a later one is that the node is unknown.
        self._heartbeat_seconds = HEARTBEAT_SECONDS
        self._beat_at = time.monotonic() + HEARTBEAT_SECONDS
        self.call("RegisterNode", self._registration)

    def leave(self, reason: str) -> None:
        """The node ends in order."""
        self.call("LeaveNode", lambda: {"node": self._node, "incarnation": self._incarnation, "reason": reason})

    def start_job(self, job: int, driver: bytes, driver_pid: int, entrypoint: str, namespace: str) -> None:
        """A driver joined, and this node has numbered its job."""
        self._jobs[job] = {
            "job": job,
            "driver": driver,
            "driver_pid": driver_pid,
            "entrypoint": entrypoint,
            "namespace": namespace,
            "node": self._node,
        }
        self.call("StartJob", self._jobs[job])

    def end_job(self, job: int, cause: int) -> None:
        """A driver left; ``cause`` is an events.DeathCause."""
        self._jobs.pop(job, None)
        self.call("EndJob", {"job": job, "cause": cause})

    def actor_created(self, spec: dict[str, Any]) -> None:
        """An actor was asked for; ``spec`` as in messages.CreateActor."""
        names = ("actor", "class_name", "name", "namespace", "detached", "job", "owner", "restarts_max", "meta")
        described = {name: spec[name] for name in names if spec.get(name) is not None}
        described.setdefault("owner", owner_of(spec["actor"]))
        described["restarts_max"] = max(-1, min(described.get("restarts_max", 0), RESTARTS_MAX))
        self._actors[spec["actor"]] = described
        self._register_actor(described)

    def actor_changed(
        self, actor: bytes, state: int, incarnation: int, worker: bytes, path: str, cause: int, detail: str
    ) -> None:
        """An actor moved; the fields are those of messages.ActorChanged."""
        fields = {
            "actor": actor,
            "state": state,
            "incarnation": incarnation,
            "worker": worker,
            "address": path,
            "cause": cause,
            "detail": detail[:DETAIL_CHARACTERS_MAX],
        }
        if state == ActorState.DEAD:
            self._actors.pop(actor, None)
            self._changes.pop(actor, None)
        else:
            self._changes[actor] = fields
        self._update_actor(fields)

    def _register_actor(self, described: dict[str, Any]) -> None:
        self.call("RegisterActor", lambda: {"actor": described, **self._sender()})

    def _update_actor(self, fields: dict[str, Any]) -> None:
        self.call("UpdateActor", lambda: fields | self._sender())

    def _report_again(self) -> None:
        self.call("RegisterNode", self._registration)
        for job in self._jobs.values():
            self.call("StartJob", job)
        for actor, described in self._actors.items():
            self._register_actor(described)
            change = self._changes.get(actor)
            if change is not None:
                # Every later state can be reached from here.
                self._update_actor(change | {"state": int(ActorState.PENDING_CREATION), "address": ""})
                self._update_actor(change)

    def _sender(self) -> dict[str, Any]:
        return {"node": self._node, "node_incarnation": self._incarnation}

    # --- everything below runs in the client's thread -----------------------------------------------------------

    def _registration(self) -> dict[str, Any]:
        return {"node": self._description}

    def _attempt(self, call: _Call) -> Any:
        reply = super()._attempt(call)
        if call.method == "RegisterNode":
            self._incarnation = reply.incarnation
            self._heartbeat_seconds = reply.heartbeat_seconds
            self._beat_at = time.monotonic() + reply.heartbeat_seconds
        elif call.method == "LeaveNode":
            self._heartbeat_seconds = None
        elif self._heartbeat_seconds is not None and time.monotonic() >= self._beat_at:
            # A queue that never runs empty must not keep the heartbeats back.
            self._on_idle()
        return reply

    def _idle_seconds(self) -> float | None:
        if self._heartbeat_seconds is None:
            return None
        return max(0.001, self._beat_at - time.monotonic())

    def _on_idle(self) -> None:
        if self._heartbeat_seconds is None:
            return
        self._beat_at = time.monotonic() + self._heartbeat_seconds
        fields = {"node": self._node, "incarnation": self._incarnation}
        try:
            # Past ControlClient, whose calls would beat again; and without a retry: the next beat says the same.
            reply = super()._attempt(_Call("Heartbeat", fields, None, b"", 0.0))
        except ControlError:
            return
        if reply.standing == 1:
            # The answer to the registration puts it back to what the control store wants; until then, no more of these.
            self._beat_at += self._heartbeat_seconds
            self._post(self._report_again)
        elif reply.standing == 2:
            self._heartbeat_seconds = None
            if self._on_fenced is not None:
                self._post(self._on_fenced)
