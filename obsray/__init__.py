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

import sys
from typing import TYPE_CHECKING, Any

from obsray.version import VERSION

__version__ = VERSION
#: What kinds of processes there are, for programs that compare with them.
SCRIPT_MODE, WORKER_MODE, SPILL_WORKER_MODE, RESTORE_WORKER_MODE = range(4)

if TYPE_CHECKING:
    from obsray import (
        actor,
        autoscaler,
        cloudpickle,
        cluster_utils,
        dag,
        exceptions,
        experimental,
        job_config,
        runtime_env,
        util,
    )
    from obsray.core.api import (
        ActorHandle,
        DynamicObjectRefGenerator,
        ObjectID,
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
    from obsray.logging_config import LoggingConfig
    from obsray.typed_ids import (
        ActorClassID,
        ActorID,
        FunctionID,
        JobID,
        NodeID,
        PlacementGroupID,
        TaskID,
        UniqueID,
        WorkerID,
    )
    from obsray.util.client import ClientBuilder, client
    from obsray.util.languages import Language, cpp_function, java_actor_class, java_function
    from obsray.util.timeline import timeline

#: Name -> the module that has it; None: the name is a module itself.
_WHERE: dict[str, str | None] = {
    **dict.fromkeys(
        (
            "ActorHandle", "DynamicObjectRefGenerator", "ObjectID", "ObjectRef", "ObjectRefGenerator",
            "available_resources", "cancel", "cluster_resources", "get", "get_actor", "get_gpu_ids",
            "get_runtime_context", "init", "is_initialized", "kill", "method", "nodes", "put", "remote", "shutdown",
            "wait",
        ),
        "obsray.core.api",
    ),
    **dict.fromkeys(
        (
            "ActorClassID", "ActorID", "FunctionID", "JobID", "NodeID", "PlacementGroupID", "TaskID", "UniqueID",
            "WorkerID",
        ),
        "obsray.typed_ids",
    ),
    **dict.fromkeys(("ClientBuilder", "client"), "obsray.util.client"),
    **dict.fromkeys(("Language", "cpp_function", "java_actor_class", "java_function"), "obsray.util.languages"),
    "LoggingConfig": "obsray.logging_config",
    "timeline": "obsray.util.timeline",
    **dict.fromkeys(
        (
            "actor", "autoscaler", "cloudpickle", "cluster_utils", "dag", "exceptions", "experimental", "job_config",
            "job_submission", "remote_function", "runtime_context", "runtime_env", "types", "util", "_raylet",
        )
    ),
}  # fmt: skip

#: Parts of Ray that obsray does not have -> what to do instead.
_INSTEAD = {
    **dict.fromkeys(
        ("data", "train", "tune", "serve", "rllib", "air", "workflow", "llm"),
        "obsray is the core of tasks, actors and objects; the libraries on top of it are not there",
    ),
    **dict.fromkeys(
        ("_private", "worker"),
        "that is the inside of Ray; obsray has the public names, and obsray.util.state tells what a session does",
    ),
    "internal": "an object goes with its last reference (del reference)",
    "widgets": "the dashboard and obsray.util.state show what a session does",
    "LOCAL_MODE": "tasks always run in workers; call the function itself (f.__wrapped__) to run it in place",
    "get_dashboard_url": "obsray.init() returns a context with dashboard_url",
    "show_in_dashboard": "everything is shown in the dashboard",
}

__all__ = [
    "ActorClassID",
    "ActorHandle",
    "ActorID",
    "ClientBuilder",
    "DynamicObjectRefGenerator",
    "FunctionID",
    "JobID",
    "Language",
    "LoggingConfig",
    "NodeID",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "TaskID",
    "UniqueID",
    "WorkerID",
    "actor",
    "autoscaler",
    "available_resources",
    "cancel",
    "client",
    "cloudpickle",
    "cluster_resources",
    "cluster_utils",
    "cpp_function",
    "dag",
    "exceptions",
    "experimental",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "is_initialized",
    "java_actor_class",
    "java_function",
    "job_config",
    "job_submission",
    "kill",
    "method",
    "nodes",
    "put",
    "remote",
    "remote_function",
    "runtime_context",
    "runtime_env",
    "shutdown",
    "timeline",
    "types",
    "util",
    "wait",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _WHERE:
        where = _WHERE[name]
        value: Any = importlib.import_module(where or f"obsray.{name}")
        if where is not None:
            value = getattr(value, name)
    else:
        advice = f": {_INSTEAD[name]}" if name in _INSTEAD else ""
        raise AttributeError(f"module 'obsray' has no attribute {name!r}{advice}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


class _Absent:
    """Asked last, for modules that nothing else has found: ``from obsray import data`` says what to do instead, too."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> None:
        """Raises ModuleNotFoundError with advice for a part of Ray that is not there."""
        package, _, part = name.rpartition(".")
        advice = None
        if package == "obsray":
            advice = _INSTEAD.get(part)
        elif package == "obsray.util":
            advice = sys.modules[package]._INSTEAD.get(part)
        if advice is not None:
            raise ModuleNotFoundError(f"No module named {name!r}: {advice}")


sys.meta_path.append(_Absent)
