"""One process' membership in a group, and the operations: rings over a mesh of sockets.

An operation begins with a word of everybody to everybody: what, of which shape, the how many-th. So all of them find
out together that they do not agree, and nobody waits for what will not come. Then data goes round the ring: with n
members each sends 2(n-1)/n of an array to reduce it everywhere. Every member computes the same bits.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from obsray import errors
from obsray.core import api
from obsray.core.protocol.lifecycle import CollectiveState, advance
from obsray.core.runtime.session import Session
from obsray.core.transport.connection import Hello
from obsray.errors import (
    CollectiveError,
    CollectiveMemberDiedError,
    CollectiveMismatchError,
    CollectiveTimeoutError,
    RayActorError,
)
from obsray.telemetry import session_file
from obsray.util.collective.mesh import DATA, DESCRIPTION, Mesh, Receiving, Sending, split_member
from obsray.util.collective.rendezvous import key_of, rendezvous
from obsray.util.collective.types import Array, Backend, Tensor, ufunc_of

#: What goes round the ring at a time: small enough to stay in a cache, large enough for the costs of a system call.
CHUNK_BYTES = 1 << 20
_NO_TASK = bytes(16)

Words = dict[str, Any]


class Group:
    """A member of a group. Operations of several threads take turns."""

    def __init__(self, session: Session, name: str, rank: int, members: int, backend: Backend, seconds: float) -> None:
        self.session, self.name, self.rank, self.members = session, name, rank, members
        self.backend, self.seconds = backend, seconds
        self.state = CollectiveState.FORMING
        self.id = bytes(16)
        self.task = self._running_task()
        self.round = 0
        self.failure: CollectiveError | None = None
        self.lock = threading.Lock()
        self._emitter = session.emitter
        self._name_number = self._emitter.intern(name)
        node = str(session_file.read(session.directory).get("node_address") or "")
        me = Hello(session.worker, int(session.kind), os.getpid())
        self.mesh = Mesh(session.directory / "sockets", session.token, name, node, me)

    def _running_task(self) -> bytes:
        running = getattr(self.session.local, "running", None)
        return _NO_TASK if running is None else running.task

    def form(self) -> None:
        """Find the others and connect with them. Raises CollectiveError of some kind."""
        began = time.monotonic()
        try:
            self._meet(began + self.seconds)
        except CollectiveError as error:
            error.group_name, error.rank = self.name, self.rank
            self._break(error)
            raise
        advance(self, CollectiveState.READY)
        self._emitter.collective_joined(
            time.time_ns(), self.id, self._name_number, self._running_task(), self.rank, self.members,
            self._emitter.intern(self.backend.value), time.monotonic() - began,
        )  # fmt: skip

    def _meet(self, deadline: float) -> None:
        arguments = (key_of(self.name), self.rank, self.members, self.backend.value, self.mesh.address, self.seconds)
        try:
            found = api.get(rendezvous().join.remote(*arguments), timeout=self.seconds + 10)
        except RayActorError as error:
            raise CollectiveMemberDiedError(f"group {self.name!r}: where members meet is gone: {error}") from error
        except errors.GetTimeoutError:
            raise CollectiveTimeoutError(f"group {self.name!r}: no answer within {self.seconds + 10:g} s") from None
        if isinstance(found[0], str):
            raise getattr(errors, found[0])(found[1])
        self.id, addresses = found
        places = map(split_member, addresses)
        elsewhere = [rank for rank, (node, path) in enumerate(places) if not node and not Path(path).parent.exists()]
        if elsewhere:
            raise CollectiveError(f"group {self.name!r}: ranks {elsewhere} are on machines that do not listen")
        self.mesh.connect(self.id, self.rank, addresses, deadline)

    # --- one operation ----------------------------------------------------------------------------------------

    def operate(
        self,
        operation: str,
        prepare: Callable[[], tuple[Words, int, Callable[[float], None]]],
        peers: list[int] | None = None,
        other: str = "",
    ) -> None:
        """Run an operation: ``prepare`` gives what to tell the others, the bytes of this member's data, and the body.

        ``peers`` are those that take part (all others if None), ``other`` is the operation they are to be in. Raises
        CollectiveError of some kind, and what ``prepare`` raises, which the others hear of.
        """
        with self.lock:
            self._check_ready()
            self.round += 1 if peers is None else 0
            ranks = [rank for rank in range(self.members) if rank != self.rank] if peers is None else peers
            began, sent = time.monotonic(), self.mesh.sent_bytes
            waited, data_bytes = 0.0, 0
            try:
                refusal: Exception | None = None
                words: Words = {}
                body: Callable[[float], None] | None = None
                try:
                    words, data_bytes, body = prepare()
                except (TypeError, ValueError) as error:
                    refusal, words = error, {"refused": f"{type(error).__name__}: {error}"}
                said = self._exchange({"operation": operation, **words}, ranks, began + self.seconds, peers is None)
                waited = time.monotonic() - began
                if refusal is not None:
                    raise refusal
                self._compare(said, operation, other or operation)
                assert body is not None
                body(began + self.seconds)
            except BaseException as error:
                self._failed(operation, began, error)
                raise
            took = time.monotonic() - began
            self._emitter.collective_ended(
                time.time_ns(), self.id, self._name_number, self._running_task(), self._emitter.intern(operation),
                self.round, self.rank, self.members, data_bytes, self.mesh.sent_bytes - sent, took, waited,
                took - waited,
            )  # fmt: skip

    def _check_ready(self) -> None:
        if self.state is CollectiveState.READY:
            return
        if self.failure is not None:
            raise type(self.failure)(
                f"group {self.name!r} is broken ({self.failure.args[0]}); destroy it and form it again",
                self.name, self.rank,
            )  # fmt: skip
        raise CollectiveError(f"this process left group {self.name!r}", self.name, self.rank)

    def _exchange(self, words: Words, ranks: list[int], deadline: float, counted: bool) -> dict[int, Words]:
        """Everybody's words, one's own among them."""
        words = {"round": self.round if counted else 0, **words}
        told = json.dumps(words).encode()
        receiving = [Receiving(rank, DESCRIPTION) for rank in ranks]
        self.mesh.run([*receiving, *(Sending(rank, DESCRIPTION, told) for rank in ranks)], deadline)
        return {self.rank: words, **{job.rank: json.loads(job.words) for job in receiving}}

    def _compare(self, said: dict[int, Words], operation: str, other: str) -> None:
        mine = said[self.rank]
        for rank, words in sorted(said.items()):
            wanted = operation if rank == self.rank else other
            if words["operation"] != wanted or words["round"] != mine["round"]:
                raise CollectiveError(
                    f"group {self.name!r}: out of step: rank {self.rank} is in {operation} number {mine['round']}, "
                    f"rank {rank} in {words['operation']} number {words['round']}"
                )
        refused = [f"rank {rank}: {words['refused']}" for rank, words in sorted(said.items()) if "refused" in words]
        if refused:
            raise CollectiveMismatchError(f"group {self.name!r}: {operation}: {'; '.join(refused)}")
        for name in mine:
            values = {rank: words.get(name) for rank, words in sorted(said.items())}
            if name != "operation" and len({json.dumps(value) for value in values.values()}) > 1:
                told = ", ".join(f"rank {rank}: {value}" for rank, value in values.items())
                raise CollectiveMismatchError(f"group {self.name!r}: {operation}: {name} differs: {told}")

    def _failed(self, operation: str, began: float, error: BaseException) -> None:
        if isinstance(error, CollectiveError):
            error.group_name, error.rank = self.name, self.rank
        self._emitter.collective_failed(
            time.time_ns(), self.id, self._name_number, self._running_task(), self._emitter.intern(operation),
            self.round, self.rank, self.members, time.monotonic() - began, self._emitter.intern(str(error)[:2000]),
        )  # fmt: skip
        if isinstance(error, (CollectiveMismatchError, TypeError, ValueError)):
            # Everybody knows, and nobody has sent anything: the next operation may be right.
            return
        reason = error if isinstance(error, CollectiveError) else CollectiveError(
            f"group {self.name!r}: rank {self.rank} was interrupted by {type(error).__name__} in {operation}"
        )  # fmt: skip
        self._break(reason)

    def _break(self, reason: CollectiveError) -> None:
        self.failure = reason
        advance(self, CollectiveState.BROKEN)
        self.mesh.abort(reason)
        self._emitter.collective_broken(
            time.time_ns(), self.id, self._name_number, self._running_task(), self.rank, self.members,
            self._emitter.intern(str(reason.args[0])[:2000]),
        )  # fmt: skip

    def leave(self) -> None:
        """Close the connections; others notice when they need this member. May be called twice."""
        if self.state in (CollectiveState.LEFT, CollectiveState.FORMING):
            return
        advance(self, CollectiveState.LEFT)
        self.mesh.close()
        self._emitter.collective_left(
            time.time_ns(), self.id, self._name_number, self._running_task(), self.rank, self.members
        )

    # --- bodies -----------------------------------------------------------------------------------------------

    @property
    def _next(self) -> int:
        return (self.rank + 1) % self.members

    @property
    def _previous(self) -> int:
        return (self.rank - 1) % self.members

    def _pass_on(self, out: Array, into: Array, deadline: float) -> None:
        """Send ``out`` to the next member while ``into`` comes from the one before."""
        self.mesh.run([Receiving(self._previous, DATA, _bytes(into)), Sending(self._next, DATA, _bytes(out))], deadline)

    def reduce_scatter(self, parts: list[Array], ufunc: Any, deadline: float) -> None:
        """Afterwards ``parts[rank]`` has the values of all members; the other parts have some of them."""
        n, r = self.members, self.rank
        scratch = np.empty_like(max(parts, key=len))
        for step in range(n - 1):
            out, into = parts[(r - step - 1) % n], parts[(r - step - 2) % n]
            came = scratch[: len(into)]
            self._pass_on(out, came, deadline)
            ufunc(came, into, out=into)

    def all_gather(self, parts: list[Array], deadline: float) -> None:
        """``parts[rank]`` of each member goes to all."""
        n, r = self.members, self.rank
        for step in range(n - 1):
            self._pass_on(parts[(r - step) % n], parts[(r - step - 1) % n], deadline)

    def all_reduce(self, flat: Array, ufunc: Any, deadline: float) -> None:
        """Reduce ``flat`` in place, everywhere, in chunks of which each member has one part."""
        count = max(1, CHUNK_BYTES // flat.itemsize) * self.members
        for at in range(0, len(flat), count):
            parts = np.array_split(flat[at : at + count], self.members)
            self.reduce_scatter(parts, ufunc, deadline)
            self.all_gather(parts, deadline)

    def chain(self, flat: Array, root: int, ufunc: Any, deadline: float) -> None:
        """Along the ring, chunk by chunk: from ``root`` to all, or with ``ufunc`` from all to ``root``."""
        place = (self.rank - root - (0 if ufunc is None else 1)) % self.members
        is_first, is_last = place == 0, place == self.members - 1
        count = max(1, CHUNK_BYTES // flat.itemsize)
        scratch = np.empty_like(flat[:count])
        for at in range(0, len(flat), count):
            chunk = flat[at : at + count]
            if not is_first:
                came = chunk if ufunc is None else scratch[: len(chunk)]
                self.mesh.run([Receiving(self._previous, DATA, _bytes(came))], deadline)
                if ufunc is not None:
                    chunk = ufunc(came, chunk, out=chunk if is_last else came)
            if not is_last:
                self.mesh.run([Sending(self._next, DATA, _bytes(chunk))], deadline)

    def one_way(self, flat: Array, rank: int, sends: bool, deadline: float) -> None:
        """Send ``flat`` to a member or receive it from there."""
        data = _bytes(flat)
        self.mesh.run([Sending(rank, DATA, data) if sends else Receiving(rank, DATA, data)], deadline)


def _bytes(array: Array) -> memoryview:
    return array.view(np.uint8).data


def shape_words(tensor: Tensor) -> Words:
    """What all members have to agree on about an array."""
    return {"dtype": tensor.work.dtype.str, "shape": list(tensor.work.shape)}


__all__ = ["Group", "shape_words", "ufunc_of"]
