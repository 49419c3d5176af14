"""Helpers around the core API."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from obsray.core.runtime.serialization import CUSTOM


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
    namespace = None if all_namespaces else found.settings.get("namespace", "")
    rows = found.request("list_actors", namespace=namespace)
    return [dict(row) for row in rows] if all_namespaces else [row["name"] for row in rows]


__all__ = ["deregister_serializer", "list_named_actors", "register_serializer"]
