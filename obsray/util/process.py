"""What concerns this process alone: how it sends values, what it has said, where it is."""

from __future__ import annotations

import socket
from collections.abc import Callable, Hashable
from typing import Any

from obsray.causes import CUSTOM
from obsray.core.protocol.addresses import LOCALHOST
from obsray.telemetry import session_file

_said: set[Hashable] = set()


def register_serializer(cls: type, *, serializer: Callable[[Any], Any], deserializer: Callable[[Any], Any]) -> None:
    """Send instances of ``cls`` as ``serializer(instance)`` and rebuild them with ``deserializer``, in this process."""
    CUSTOM[cls] = (serializer, deserializer)


def deregister_serializer(cls: type) -> None:
    """Undo ``register_serializer``; does nothing for a class that is not registered."""
    CUSTOM.pop(cls, None)


def list_named_actors(all_namespaces: bool = False) -> list[Any]:
    """Names of the actors that are alive; with ``all_namespaces`` dicts of name and namespace."""
    from obsray.core.api import session

    found = session()
    namespace = None if all_namespaces else found.namespace
    rows = found.request("list_actors", namespace=namespace)
    return [dict(row) for row in rows] if all_namespaces else [row["name"] for row in rows]


def log_once(key: Hashable) -> bool:
    """True the first time it is called with ``key`` in this process, False from then on."""
    if key in _said:
        return False
    _said.add(key)
    return True


def get_node_ip_address() -> str:
    """The address of the node this process is at, as ``nodes()`` has it; ``127.0.0.1`` for one on its own.

    Outside of a runtime the address under which other machines reach this one. Sends nothing.
    """
    from obsray.core.runtime.session import current_or_none

    session = current_or_none()
    if session is not None and not session.closed:
        facts = session_file.read(session.directory)
        return str(facts.get("node_address") or "").rpartition(":")[0] or LOCALHOST
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket only asks for the route; the address is reserved for documentation.
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return LOCALHOST
        return str(probe.getsockname()[0])


__all__ = ["deregister_serializer", "get_node_ip_address", "list_named_actors", "log_once", "register_serializer"]
