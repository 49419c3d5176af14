"""Which session is meant, and questions to it."""

from __future__ import annotations

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

T = TypeVar("T")


def ask(
    address: str | None, question: Callable[[Views], T], elsewhere: Callable[[living.Dashboard], T] | None = None
) -> T:
    """Put a question to the views of a session, brought up to date.

    ``elsewhere`` is the same question to a dashboard that has read everything already; it is asked if this process
    would have to begin to read.
    """
    directory = directory_of(address)
    if elsewhere is not None and not asking.has_read(directory):
        dashboard = living.dashboard_of(directory)
        if dashboard is not None:
            try:
                return elsewhere(dashboard)
            except living.Unasked:
                pass
    return asking.ask(directory, question)


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
