"""Shell: how a node becomes one of a cluster.

A head waits until its control store listens where others will look for it; every other node until the control store has
taken it in. Either is a matter of tenths of a second, or of a sentence that says why not.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path

from obsray.core.node.options import Options
from obsray.core.node.services import Services
from obsray.core.protocol.addresses import parse
from obsray.core.transport.node_reporter import Membership, NotAdmitted
from obsray.telemetry import session_file

#: How long a first connection to the control store may take, and how long it may take to answer.
CONNECT_SECONDS_MAX = 3.0
JOIN_SECONDS_MAX = 5.0
#: How long the head's own control store may take to listen.
LISTEN_SECONDS_MAX = 20.0
LOOK_SECONDS = 0.01
RETRY_SECONDS = 0.1


class CannotJoin(RuntimeError):
    """This node is none of the cluster; the message says why, and what to do."""


class Joining:
    """A node on its way into a cluster. ``address`` is the cluster's, once the node is one of it."""

    def __init__(self, options: Options, services: Services) -> None:
        self._options = options
        self._services = services
        self._admitted: Membership | None = None
        self._refusal: NotAdmitted | None = None
        self.address = ""

    def admitted(self, membership: Membership) -> None:
        """The control store has taken the node in."""
        self._admitted = membership

    def not_admitted(self, refusal: NotAdmitted) -> None:
        """The control store does not want the node, or did not answer."""
        self._refusal = refusal

    def wait(self, turn: Callable[[float], None]) -> None:
        """Drive the node with ``turn(seconds)`` until it is a member. Raises CannotJoin."""
        if self._options.head:
            self._wait_for_own_control(turn)
        else:
            self._wait_for_answer(turn)

    def _wait_for_own_control(self, turn: Callable[[float], None]) -> None:
        deadline = time.monotonic() + LISTEN_SECONDS_MAX
        session, wanted = self._options.session, self._options.control_listen
        while not self.address and wanted:
            if self._services.failed("control"):
                why = _last_line(session / "logs" / "control.log").removeprefix("obsray control: ")
                raise CannotJoin(why or f"the control store for {wanted} ended without a word")
            if time.monotonic() > deadline:
                raise CannotJoin(f"the control store did not listen at {wanted} within {LISTEN_SECONDS_MAX:g} s")
            turn(LOOK_SECONDS)
            self.address = str(session_file.read(session).get("control_address_tcp") or "")

    def _wait_for_answer(self, turn: Callable[[float], None]) -> None:
        address = self._options.control
        assert address is not None
        # The reporter gives up by itself; this is for the case that it does not.
        deadline = time.monotonic() + 2 * JOIN_SECONDS_MAX
        while self._admitted is None:
            if self._refusal is not None:
                raise CannotJoin(self._refusal.sentence)
            if time.monotonic() > deadline:
                raise CannotJoin(f"no control store of an obsray cluster answers at {address}")
            turn(LOOK_SECONDS)
        self.address = address
        if self._options.standby:
            self._wait_for_standby(turn)

    def _wait_for_standby(self, turn: Callable[[float], None]) -> None:
        """Until the control store that decides tells nodes of the one here: before, nobody would find it."""
        deadline = time.monotonic() + LISTEN_SECONDS_MAX
        session = self._options.session
        while len(session_file.read(session).get("control_addresses") or ()) < 2:
            if self._services.failed("control"):
                why = _last_line(session / "logs" / "control.log").removeprefix("obsray control: ")
                raise CannotJoin(why or "the standby control store ended without a word")
            if time.monotonic() > deadline:
                raise CannotJoin(f"the standby control store was not known to the cluster in {LISTEN_SECONDS_MAX:g} s")
            turn(LOOK_SECONDS)


def check_reachable(address: str) -> None:
    """Raises CannotJoin with the system's own words if nothing can be connected to at the control store's address."""
    deadline = time.monotonic() + CONNECT_SECONDS_MAX
    while error := _connection_error(parse(address)):
        # One that ended is started again in less than that.
        if time.monotonic() + RETRY_SECONDS > deadline:
            why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise CannotJoin(
                f"no control store can be reached at {address}: {why}; it is the address that 'obsray start --head' "
                "printed, and that node must be running"
            )
        time.sleep(RETRY_SECONDS)


def _connection_error(address: tuple[str, int]) -> OSError | None:
    try:
        socket.create_connection(address, CONNECT_SECONDS_MAX).close()
    except OSError as error:
        return error
    return None


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""
