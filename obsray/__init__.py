"""obsray: tasks, actors and objects for Python, where every decision can be asked why.

    import obsray

    @obsray.remote
    def square(x):
        return x * x

    obsray.init()
    print(obsray.get([square.remote(i) for i in range(4)]))

Names are imported on first use (PEP 562), so that a process that needs one part does not pay for the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from obsray import actor, exceptions, util
    from obsray.core.api import (
        ActorHandle,
        ObjectRef,
        ObjectRefGenerator,
        available_resources,
        cancel,
        cluster_resources,
        get,
        get_actor,
        get_gpu_ids,
        get_runtime_context,
        init,
        is_initialized,
        kill,
        method,
        nodes,
        put,
        remote,
        shutdown,
        wait,
    )
    from obsray.ids import ActorID, JobID, NodeID, ObjectID, TaskID, WorkerID

_IDS = frozenset({"ActorID", "JobID", "NodeID", "ObjectID", "TaskID", "WorkerID"})
_MODULES = frozenset({"actor", "exceptions", "util"})

__all__ = [
    "ActorHandle",
    "ActorID",
    "JobID",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "TaskID",
    "WorkerID",
    "actor",
    "available_resources",
    "cancel",
    "cluster_resources",
    "exceptions",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "shutdown",
    "util",
    "wait",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'obsray' has no attribute {name!r}")
    value: Any
    if name in _IDS:
        from obsray import ids

        value = getattr(ids, name)
    elif name in _MODULES:
        import importlib

        value = importlib.import_module(f"obsray.{name}")
    else:
        from obsray.core import api

        value = getattr(api, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
