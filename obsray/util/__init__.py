"""Helpers around the core API. Imported on first use, as in the package itself: what is not used costs nothing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obsray.util import (
        actor_group,
        actor_pool,
        collective,
        executor,
        joblib,
        metrics,
        multiprocessing,
        queue,
        state,
    )
    from obsray.util.actor_group import ActorGroup
    from obsray.util.actor_pool import ActorPool
    from obsray.util.client import connect, disconnect
    from obsray.util.completion import as_completed, map_unordered
    from obsray.util.executor import ObsrayExecutor
    from obsray.util.inspection import inspect_serializability
    from obsray.util.process import (
        deregister_serializer,
        get_node_ip_address,
        list_named_actors,
        log_once,
        register_serializer,
    )

#: Name -> the module that has it.
_WHERE = {
    "ActorGroup": "actor_group",
    "ActorPool": "actor_pool",
    "ObsrayExecutor": "executor",
    "as_completed": "completion",
    "connect": "client",
    "deregister_serializer": "process",
    "disconnect": "client",
    "get_node_ip_address": "process",
    "inspect_serializability": "inspection",
    "list_named_actors": "process",
    "log_once": "process",
    "map_unordered": "completion",
    "register_serializer": "process",
}
_MODULES = frozenset(
    {"actor_group", "actor_pool", "collective", "executor", "joblib", "metrics", "multiprocessing", "queue", "state"}
)

__all__ = [
    "ActorGroup",
    "ActorPool",
    "ObsrayExecutor",
    "actor_group",
    "actor_pool",
    "as_completed",
    "collective",
    "connect",
    "deregister_serializer",
    "disconnect",
    "executor",
    "get_node_ip_address",
    "inspect_serializability",
    "joblib",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "metrics",
    "multiprocessing",
    "queue",
    "register_serializer",
    "state",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"obsray.util.{name}")
    if name not in _WHERE:
        raise AttributeError(f"module 'obsray.util' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"obsray.util.{_WHERE[name]}"), name)
    return value


def __dir__() -> list[str]:
    return list(__all__)
