"""Following a table of the control store: all of it, then every change, in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from obsray.core.transport.control_client import (
    AGAIN,
    CLOSE_SECONDS_MAX,
    PAUSE_SECONDS_MAX,
    PAUSE_SECONDS_MIN,
    Address,
    Route,
)

GET_STATE_SECONDS_MAX = 5.0
#: A watch ends by itself after this time and is resumed, so that none outlives a connection that died silently.
WATCH_SECONDS_MAX = 60.0


class Follower:
    """Posts the rows of one table: ``on_rows(rows)`` with all of them, then those that changed, in order, none twice.

    If the control store lost its memory, or another process took over, all rows come again. ``table`` is a
    ``control_pb2.Table`` by name, ``field`` the name of the rows in ``GetStateReply``, ``row`` that in ``Change``.
    """

    def __init__(
        self,
        address: Address,
        token: bytes,
        table: str,
        field: str,
        row: str,
        post: Callable[[Callable[[], None]], None],
        on_rows: Callable[[list[Any]], None],
    ) -> None:
        self._route = Route(address, token)
        self._table, self._field, self._row = table, field, row
        self._post = post
        self._on_rows = on_rows
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._learned: list[str] = []
        self._watch: Any = None
        self._thread = threading.Thread(target=self._run, name="obsray-control-follower", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def learn(self, addresses: list[str]) -> None:
        """Where else the control store may be found. From any thread."""
        with self._lock:
            self._learned = addresses

    def disturb(self) -> None:
        """The control store does not answer others: look whether it still answers here. From any thread."""
        with self._lock:
            watch = self._watch
        if watch is not None:
            watch.cancel()

    def close(self) -> None:
        """Stop. Nothing is posted afterwards that was not before."""
        self._closing.set()
        self.disturb()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS_MAX)

    # --- everything below runs in the follower's thread ---------------------------------------------------------

    def _run(self) -> None:
        import grpc

        pause_seconds = PAUSE_SECONDS_MIN
        #: The epoch and the sequence up to which everything was posted.
        position: tuple[int, int] | None = None
        try:
            while not self._closing.is_set():
                with self._lock:
                    self._route.learn(self._learned)
                try:
                    if position is None:
                        position = self._all()
                    for sequence in self._changes(position):
                        position = (position[0], sequence)
                        pause_seconds = PAUSE_SECONDS_MIN
                except grpc.RpcError as error:
                    code = error.code().name
                    if code == "OUT_OF_RANGE":
                        position = None
                    elif code in AGAIN and position is not None and code == "DEADLINE_EXCEEDED":
                        continue
                    else:
                        self._route.failed(error)
                    self._closing.wait(pause_seconds)
                    pause_seconds = min(2 * pause_seconds, PAUSE_SECONDS_MAX)
        finally:
            self._route.close()

    def _all(self) -> tuple[int, int]:
        from obsray.core.protocol import control_pb2 as pb

        request = pb.GetStateRequest(tables=[pb.Table.Value(self._table)])
        state = self._route.stub().GetState(request, timeout=GET_STATE_SECONDS_MAX, metadata=self._route.metadata)
        self._tell(list(getattr(state, self._field)))
        return state.epoch, state.sequence

    def _changes(self, position: tuple[int, int]) -> Any:
        """The sequences up to which changes were posted. Raises RpcError when the watch ends."""
        from obsray.core.protocol import control_pb2 as pb

        request = pb.WatchRequest(epoch=position[0], after_sequence=position[1], tables=[pb.Table.Value(self._table)])
        watch = self._route.stub().Watch(request, timeout=WATCH_SECONDS_MAX, metadata=self._route.metadata)
        with self._lock:
            self._watch = watch
        try:
            if self._closing.is_set():
                watch.cancel()
            for reply in watch:
                self._tell([getattr(change, self._row) for change in reply.changes])
                yield reply.sequence
        finally:
            with self._lock:
                self._watch = None

    def _tell(self, rows: list[Any]) -> None:
        if rows and not self._closing.is_set():
            self._post(lambda: self._on_rows(rows))
