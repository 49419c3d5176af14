"""Which session is meant, and questions to it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from obsray.core.protocol.addresses import is_address
from obsray.core.runtime import joining
from obsray.core.runtime.questions import ask as ask_node
from obsray.core.runtime.session import current_or_none
from obsray.errors import RaySystemError
from obsray.telemetry import asking, living
from obsray.telemetry.store import find_session
from obsray.telemetry.views import Views
from obsray.util.state.exception import StateTimeoutError

T = TypeVar("T")


def ask(
    address: str | None,
    question: Callable[[Views], T],
    elsewhere: Callable[[living.Dashboard], T] | None = None,
    timeout: float | None = None,
) -> T:
    """Put a question to the views of a session, brought up to date.

    ``elsewhere`` is the same question to a dashboard that has read everything already; it is asked if this process
    would have to begin to read. Raises StateTimeoutError if the answer is not there within ``timeout`` seconds.
    """
    until = None if timeout is None else time.monotonic() + _seconds(timeout)
    directory = directory_of(address)
    if elsewhere is not None and not asking.has_read(directory):
        dashboard = living.dashboard_of(directory)
        if dashboard is not None:
            try:
                dashboard.patience = living.ANSWER_SECONDS if until is None else max(0.001, until - time.monotonic())
                return elsewhere(dashboard)
            except living.Unasked:
                pass
    try:
        return asking.ask(directory, question, None if until is None else until - time.monotonic())
    except asking.NotInTime:
        raise StateTimeoutError(
            f"session {directory.name} has not been read within timeout={timeout} s; what has been read is kept: ask "
            "again, or with a larger timeout"
        ) from None


def _seconds(timeout: float) -> float:
    """A timeout that was given. Raises TypeError, ValueError."""
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout={timeout!r}: must be a number of seconds")
    if not timeout > 0:
        raise ValueError(f"timeout={timeout!r}: must be more than 0 seconds")
    return float(timeout)


def directory_of(address: str | None) -> Path:
    """The directory of a session given by address, name or path; without one that of this process, else the newest."""
    if address is not None:
        if is_address(address):
            return joining.find(joining.Address(address, f"address={address!r}"))
        return find_session(address)
    session = current_or_none()
    return find_session() if session is None or session.closed else session.directory


def cluster_members(directory: Path, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """What the node of a session says of all nodes of its cluster; empty for a node on its own, or a silent one."""
    if not facts.get("control_address_tcp"):
        return []
    try:
        found: list[dict[str, Any]] = ask_node(directory, "nodes")
    except (OSError, RaySystemError):
        return []
    return found
