"""Helpers around the core API. Imported on first use, as in the package itself: what is not used costs nothing."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from obsray.core.groups import (
        get_current_placement_group,
        get_placement_group,
        placement_group,
        placement_group_table,
        remove_placement_group,
    )
    from obsray.util import (
        accelerators,
        actor_group,
        actor_pool,
        annotations,
        check_serialize,
        collective,
        debug,
        executor,
        joblib,
        metrics,
        multiprocessing,
        queue,
        scheduling_strategies,
        serialization,
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
    "get_current_placement_group": "placement_group",
    "get_node_ip_address": "process",
    "get_placement_group": "placement_group",
    "inspect_serializability": "inspection",
    "list_named_actors": "process",
    "log_once": "process",
    "map_unordered": "completion",
    "placement_group": "placement_group",
    "placement_group_table": "placement_group",
    "register_serializer": "process",
    "remove_placement_group": "placement_group",
}
_MODULES = frozenset(
    {
        "accelerators", "actor_group", "actor_pool", "annotations", "check_serialize", "collective", "dask", "debug",
        "executor", "joblib", "metrics", "multiprocessing", "pdb", "queue", "scheduling_strategies", "serialization",
        "spark", "state",
    }
)  # fmt: skip

#: Parts of Ray's util that are not there -> what to do instead.
_INSTEAD = {
    "iter": "obsray.util.map_unordered, ActorPool.map and generators of tasks iterate in parallel",
    "debugpy": "obsray.util.pdb.set_trace() waits for `obsray debug`",
    "rpdb": "obsray.util.pdb.set_trace() waits for `obsray debug`",
    "tpu": "only CPUs and NVIDIA GPUs are known",
    "sgd": "obsray is the core of tasks, actors and objects; the libraries on top of it are not there",
    "xgboost": "obsray is the core of tasks, actors and objects; the libraries on top of it are not there",
}

__all__ = [
    "ActorGroup",
    "ActorPool",
    "ObsrayExecutor",
    "accelerators",
    "actor_group",
    "actor_pool",
    "annotations",
    "as_completed",
    "check_serialize",
    "collective",
    "connect",
    "dask",
    "debug",
    "deregister_serializer",
    "disconnect",
    "executor",
    "get_current_placement_group",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "joblib",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "metrics",
    "multiprocessing",
    "pdb",
    "placement_group",
    "placement_group_table",
    "queue",
    "register_serializer",
    "remove_placement_group",
    "scheduling_strategies",
    "serialization",
    "spark",
    "state",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"obsray.util.{name}")
    if name not in _WHERE:
        advice = f": {_INSTEAD[name]}" if name in _INSTEAD else ""
        raise AttributeError(f"module 'obsray.util' has no attribute {name!r}{advice}")
    value = globals()[name] = getattr(importlib.import_module(f"obsray.util.{_WHERE[name]}"), name)
    return value


def __dir__() -> list[str]:
    return list(__all__)
