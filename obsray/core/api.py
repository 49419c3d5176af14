"""The functions of the public API; each finds the process' session and hands over."""

from __future__ import annotations

import atexit
import operator
import os
from pathlib import Path
from typing import Any, TypeVar, overload

import obsray
from obsray.config import translated
from obsray.core import options as opts
from obsray.core import parameters as params
from obsray.core.actors import ActorClass
from obsray.core.functions import RemoteFunction
from obsray.core.handles import ActorHandle, get_named
from obsray.core.remote import method, remote
from obsray.core.runtime import joining
from obsray.core.runtime.context import RuntimeContext
from obsray.core.runtime.display import take_uncaught_errors
from obsray.core.runtime.launch import Context, launch
from obsray.core.runtime.references import ObjectID, ObjectRef, unknown
from obsray.core.runtime.session import FORKED, NOT_JOINED, Session, current_or_none, is_before_joining, set_current
from obsray.core.runtime.streams import DynamicObjectRefGenerator, ObjectRefGenerator
from obsray.errors import RaySystemError
from obsray.ids import task_of
from obsray.job_config import JobConfig
from obsray.logging_config import LoggingConfig
from obsray.telemetry import session_file

T = TypeVar("T")
W = TypeVar("W", bound="ObjectRef[Any] | ObjectRefGenerator[Any]")

_context: Context | None = None
#: Whether this process was forked from one that had a runtime, and has started none of its own.
_forked = False


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    object_store_memory: int | None = None,
    namespace: str | None = None,
    ignore_reinit_error: bool = False,
    include_dashboard: bool | None = None,
    dashboard_host: str = "127.0.0.1",
    dashboard_port: int | None = None,
    log_to_driver: bool = True,
    logging_level: int | str | None = None,
    logging_format: str | None = None,
    configure_logging: bool = True,
    labels: dict[str, str] | None = None,
    runtime_env: dict[str, Any] | None = None,
    job_config: JobConfig | dict[str, Any] | None = None,
    logging_config: LoggingConfig | None = None,
    _memory: int | None = None,
    _temp_dir: str | None = None,
    _node_name: str | None = None,
    _system_config: dict[str, Any] | None = None,
    **unknown: Any,
) -> Context:
    """Start a runtime on this machine for this program: node, workers, telemetry and dashboard; or join one.

    ``address`` (else the variables OBSRAY_ADDRESS and RAY_ADDRESS) names a runtime of this user to join: what
    ``context.address_info["address"]`` says in a program of it (``host:port`` of a cluster of which a node runs on this
    machine, else a session directory), or ``"auto"`` for the newest. Without one, the cluster that ``obsray start``
    started on this machine is joined, unless this call says how large a runtime is to be (CPUs, resources, labels).
    Else, and with ``"local"``, a runtime is started, and ends with this program.

    ``num_cpus`` defaults to the cores this process may use (the cgroup's limit counts), ``object_store_memory`` (bytes)
    to 30 % of memory. ``labels`` are the node's, for label selectors.
    ``runtime_env`` (or that of ``job_config``) is what all tasks and actors of this program run in.
    ``logging_config`` sets up the root logger here and in workers, ``logging_level`` and ``logging_format`` the logger
    ``obsray``. ``_system_config`` overrides fields of ``obsray.config.Config``.

    Returns a context with ``dashboard_url`` and ``address_info``; usable as ``with obsray.init():``.
    Raises RuntimeError if a runtime is running (unless ``ignore_reinit_error``) or cannot be started and for parameters
    that do not exist or are not offered, RaySystemError in a setup hook, ConnectionError for an address where nothing
    can be joined, ValueError or TypeError for bad values and, when joining, for what only whoever starts a runtime can
    decide.
    """
    if is_before_joining():
        raise RaySystemError(NOT_JOINED)
    session = current_or_none()
    if session is not None and not session.closed and session.failure is None:
        if ignore_reinit_error:
            # A worker is part of its runtime from its beginning, without a call of init.
            if _context is not None:
                return _context
            return Context(session, None, None, shutdown, version=obsray.__version__)
        raise RuntimeError(
            "obsray.init() was called already; call obsray.shutdown() first or pass ignore_reinit_error=True"
        )
    if session is not None:
        shutdown()
    params.refuse(unknown, _PARAMETERS)
    given = {"num_cpus": num_cpus, "num_gpus": num_gpus, "resources": resources, "namespace": namespace,
             "object_store_memory": object_store_memory, "memory": _memory}  # fmt: skip
    opts.check(given, frozenset(given), "init")
    params.check_gpus(num_gpus)
    told = params.labels_of(labels)
    params.check_dashboard(dashboard_host, dashboard_port)
    own = any(value is not None for name, value in given.items() if name != "namespace")
    where = joining.wanted(address, bool(own or labels or _node_name or _system_config), _temp_dir)
    job, space, env = params.job_of(job_config, namespace, runtime_env)
    logs = params.logging_of(configure_logging, logging_level, logging_format, logging_config)
    plain = configure_logging and logging_level is None and logging_config is None
    if where is not None:
        only_starting = {
            **{name: value for name, value in given.items() if name not in ("namespace", "memory")}, "_memory": _memory,
            "labels": labels, "_system_config": _system_config, "_node_name": _node_name,
            "include_dashboard": include_dashboard, "dashboard_port": dashboard_port,
            "dashboard_host": None if dashboard_host == "127.0.0.1" else dashboard_host,
        }  # fmt: skip
        params.refuse_when_joining(where.given, only_starting)
        found = joining.find(where, _temp_dir)
        return _enter(
            joining.join(
                found, where, namespace=space, job_config=job, logs=logs, log_to_driver=log_to_driver,
                version=obsray.__version__, on_disconnect=shutdown,
            ),
            env,
            plain,
        )  # fmt: skip
    context = launch(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        resources=resources or {},
        labels=told,
        object_store_memory=object_store_memory,
        memory=_memory,
        namespace=space,
        job_config=job,
        logs=logs,
        node_name=_node_name,
        include_dashboard=True if include_dashboard is None else include_dashboard,
        dashboard_port=dashboard_port,
        log_to_driver=log_to_driver,
        temp_dir=_temp_dir,
        settings=translated(_system_config or {}),
        version=obsray.__version__,
        on_disconnect=shutdown,
    )
    return _enter(context, env, plain)


def _enter(context: Context, env: dict[str, Any], log_level_is_default: bool) -> Context:
    """This process is a driver now; its job begins."""
    global _context, _forked
    _context, _forked = context, False
    set_current(context.session)
    context.session.start()
    try:
        context.begin_job(env)
        context.announce(log_level_is_default)
    except BaseException:
        shutdown()
        raise
    take_uncaught_errors()
    return context


#: The names that ``init`` takes, for those who mistype one.
_PARAMETERS = [*(name for name in init.__kwdefaults__ or ()), "address"]


def shutdown(*, wait_for_processes: bool = False) -> None:
    """End the runtime this program started and all its processes, or leave the one it joined, which goes on without
    what this program owns. May be called at any time, any number of times; in tasks and actors it does nothing."""
    global _context
    session = current_or_none()
    if session is not None and session.executor is not None:
        return
    context, _context = _context, None
    set_current(None)
    if context is not None:
        context.stop()
    elif session is not None:
        session.close()


def _at_exit() -> None:
    try:
        shutdown()
    except KeyboardInterrupt:
        # Whoever presses it again wants to be gone, and everything is.
        return


atexit.register(_at_exit)


def _after_fork() -> None:
    # A forked child shares the sockets of its parent's session: using them would corrupt both.
    session = current_or_none()
    if session is not None and session.worker_pid != os.getpid():
        global _context, _forked
        _context, _forked = None, True
        session.left_behind()
        set_current(None)


os.register_at_fork(after_in_child=_after_fork)


def session() -> Session:
    """The session of this process; in a driver without one a runtime is started.

    Raises RaySystemError in a process that was forked from one with a runtime: it would have to be told which is meant.
    """
    found = current_or_none()
    if found is None or found.closed:
        if _forked:
            raise RaySystemError(FORKED)
        init()
        found = current_or_none()
        assert found is not None
    return found


def _session_of(reference: Any) -> Session:
    """The session of this process, for a reference: without one it cannot be valid, and none is started for it."""
    found = current_or_none()
    if found is None or found.closed:
        if _forked:
            raise RaySystemError(FORKED)
        raise unknown(reference)
    return found


def is_initialized() -> bool:
    """Whether this process is part of a running runtime."""
    found = current_or_none()
    return found is not None and not found.closed


@overload
def get(refs: ObjectRef[T], *, timeout: float | None = None, progress: bool | None = None) -> T: ...
@overload
def get(refs: list[ObjectRef[T]], *, timeout: float | None = None, progress: bool | None = None) -> list[T]: ...
@overload
def get(
    refs: ObjectRefGenerator[T], *, timeout: float | None = None, progress: bool | None = None
) -> ObjectRefGenerator[T]: ...


def get(refs: Any, *, timeout: float | None = None, progress: bool | None = None) -> Any:
    """The value of a reference, or of each of a list, in order; waits until they exist.

    Raises what the task raised (an instance of the user's exception class and of RayTaskError), GetTimeoutError after
    ``timeout`` seconds (0: only if it is there), ValueError for anything that is not a reference or a list, TypeError
    for a list with anything else in it.

    ``progress=True`` shows on stderr how far it has come; left out, the setting ``progress`` decides (OBSRAY_PROGRESS).
    """
    if timeout is not None:
        _check_timeout(timeout)
    if type(refs) is ObjectRef:
        return _session_of(refs).values.get([refs], timeout, progress)[0]
    if isinstance(refs, ObjectRefGenerator):
        return refs
    if not isinstance(refs, list):
        raise ValueError(f"get takes an ObjectRef or a list of them, got {type(refs).__name__}")
    if not refs:
        return []
    if set(map(type, refs)) != {ObjectRef}:
        wrong = next(ref for ref in refs if type(ref) is not ObjectRef)
        raise TypeError(
            f"get takes an ObjectRef or a list of them, the list has a {type(wrong).__name__}: {wrong!r:.80}"
        )
    return _session_of(refs[0]).values.get(refs, timeout, progress)


def _check_timeout(timeout: Any) -> None:
    if not isinstance(timeout, (int, float)) and not hasattr(timeout, "__float__"):
        raise TypeError(f"timeout={timeout!r}: must be a number of seconds or None")
    if not timeout >= 0:
        raise ValueError(f"timeout={timeout}: must be >= 0 seconds, or None to wait as long as it takes")


def put(value: T) -> ObjectRef[T]:
    """Store a value and return a reference to it. Raises TypeError for what cannot be pickled and for references."""
    if type(value) is ObjectRef:
        raise TypeError(
            "put takes a value, not an ObjectRef; put it in a list if you want to store the reference itself"
        )
    return session().values.put(value)


def wait(
    refs: list[W],
    *,
    num_returns: int = 1,
    timeout: float | None = None,
    fetch_local: bool = True,
    progress: bool | None = None,
) -> tuple[list[W], list[W]]:
    """``(ready, rest)`` as soon as ``num_returns`` references are ready or ``timeout`` seconds have passed.

    Both lists keep the order of the input; ``ready`` has at most ``num_returns``; a failed task counts as ready.
    ``progress`` as for ``get``. ``fetch_local``: a value that lies on another node is ready once it has come here;
    False: as soon as it exists anywhere.
    Raises ValueError for duplicates, a bad ``num_returns`` or a negative timeout, TypeError for anything but a list of
    references.
    """
    if not isinstance(refs, list):
        raise TypeError(f"wait takes a list of references, got {type(refs).__name__}")
    found = current_or_none()
    # Loops wait for what the wait before has left: a comparison of two lists then says what took a look at each.
    known = found is not None and found.values.left == refs
    kinds = {ObjectRef} if known else set(map(type, refs))
    if not kinds <= {ObjectRef, ObjectRefGenerator}:
        wrong = next(ref for ref in refs if type(ref) not in (ObjectRef, ObjectRefGenerator))
        raise TypeError(f"wait takes a list of references, the list has a {type(wrong).__name__}")
    if timeout is not None:
        _check_timeout(timeout)
    if type(num_returns) is not int:
        if isinstance(num_returns, bool) or not hasattr(num_returns, "__index__"):
            raise TypeError(f"num_returns={num_returns!r}: must be a whole number")
        num_returns = operator.index(num_returns)
    if not refs:
        return [], []
    if not known:
        # Of ids a set is made faster than of references.
        distinct: set[Any] = {ref._id for ref in refs} if kinds == {ObjectRef} else set(refs)  # type: ignore[union-attr]
        if len(distinct) != len(refs):
            raise ValueError("wait needs each reference only once")
    if not 1 <= num_returns <= len(refs):
        raise ValueError(f"num_returns={num_returns}: must be between 1 and the number of references, {len(refs)}")
    return _session_of(refs[0]).values.wait(
        refs, num_returns, timeout, streams=ObjectRefGenerator in kinds, progress=progress, fetch_local=fetch_local
    )


def cancel(ref: Any, *, force: bool = False, recursive: bool = True) -> None:
    """Cancel the task that makes ``ref``: before it starts it never runs; running, it sees KeyboardInterrupt.

    ``force`` ends its process instead (ValueError for calls of actors); ``recursive`` cancels its children too.
    ``get`` then raises TaskCancelledError. Cancelling what has ended changes nothing. Of a reference that came from
    another process it is that process that cancels, a moment later; ``force`` has no effect there on calls of actors.
    """
    if isinstance(ref, ObjectRefGenerator):
        identifier = ref._task_id
    elif type(ref) is ObjectRef:
        identifier = bytes(ref)
    else:
        raise TypeError(f"cancel takes a reference, got {type(ref).__name__}")
    found = _session_of(ref)
    pending = found.ownership.tasks.get(task_of(identifier))
    if force and pending is not None and pending.actor is not None:
        raise ValueError("force=True is not possible for calls of an actor; kill(actor) ends the actor")
    found.cancel(identifier, force, recursive)


def kill(actor: ActorHandle[Any], *, no_restart: bool = True) -> None:
    """End an actor's process at once; calls that run or wait fail. With ``no_restart=False`` it uses up a restart."""
    if not isinstance(actor, ActorHandle):
        raise ValueError(f"kill takes an actor handle, got {type(actor).__name__}; cancel(ref) ends a task")
    actor._check_session()
    session().kill_actor(actor._actor, restart=not no_restart)


def get_actor(name: str, namespace: str | None = None) -> ActorHandle[Any]:
    """A handle of a named actor. It does not keep the actor alive.

    Raises ValueError if there is none, and for an empty name or namespace, TypeError for what is not a string.
    """
    if name is None or name == "":
        raise ValueError(f"get_actor({name!r}): needs the name that an actor was given with options(name=...)")
    opts.check_name("name", name)
    if namespace is not None:
        opts.check_name("namespace", namespace)
        if not namespace:
            raise ValueError("namespace='': must not be empty; leave it out for the namespace of this program")
    found_session = session()
    where = found_session.namespace if namespace is None else namespace
    found = get_named(found_session, name, where)
    if found is None:
        raise ValueError(
            f"no actor is called {name!r} in namespace {where!r}; `obsray list actors` shows those that are alive"
        )
    return found


def nodes() -> list[dict[str, Any]]:
    """One dict for each node of the cluster, dead ones too: ``NodeID`` (hex), ``Alive``, ``NodeManagerAddress``,
    ``NodeManagerPort``, ``Resources``, ``Labels`` and more.

    A node has one port for everything; it is 0 for one on its own, whose processes talk over unix sockets. The object
    store has no socket. ``MetricsExportPort`` is 0 until metrics are served, and for nodes of other machines.
    ``DeathReasonMessage`` says why a node is dead.
    """
    return [_node_row(node) for node in session().request("nodes")]


def _node_row(node: dict[str, Any]) -> dict[str, Any]:
    # http://127.0.0.1:<port>/metrics, once the collector serves it.
    metrics = str(session_file.read(Path(node["session"])).get("metrics_url") or "")
    port = metrics.rpartition(":")[2].partition("/")[0]
    host, _, own_port = str(node.get("address") or "").rpartition(":")
    own = int(own_port) if own_port.isdigit() else 0
    return {
        "NodeID": node["node"].hex(),
        "Alive": node["alive"],
        "alive": node["alive"],
        "NodeManagerAddress": host or "127.0.0.1",
        "NodeManagerHostname": node["host"],
        "NodeManagerPort": own,
        "ObjectManagerPort": own,
        "RuntimeEnvAgentPort": 0,
        "ObjectStoreSocketName": "",
        "RayletSocketName": str(Path(node["session"]) / "sockets" / "node.sock"),
        "MetricsExportPort": int(port) if port.isdigit() else 0,
        "NodeName": node.get("name", node["host"]),
        "NodeManagerPid": node["pid"],
        "SessionDirectory": node["session"],
        "DeathReason": 0 if node["alive"] else 1,
        "DeathReasonMessage": "" if node["alive"] else str(node.get("reason") or ""),
        "Resources": {
            **{name: opts.floating(name, amount) for name, amount in node["resources"].items() if amount > 0},
            "object_store_memory": float(node["object_store_memory"]),
        },
        "Labels": dict(node["labels"]),
    }


def cluster_resources() -> dict[str, float]:
    """What the runtime has, by resource; memory in bytes. Resources of which there is nothing are left out."""
    total = session().request("resources")["total"]
    return {name: opts.floating(name, amount) for name, amount in total.items() if amount > 0}


def available_resources() -> dict[str, float]:
    """What of it is free now; resources of which nothing is free are left out."""
    found = session()
    found.give_back_idle()
    free = found.request("resources")["available"]
    return {name: opts.floating(name, amount) for name, amount in free.items() if amount > 0}


def get_gpu_ids() -> list[Any]:
    """The ids of the GPUs assigned to this task or actor; empty in a driver."""
    return get_runtime_context().assigned_gpus()


def get_runtime_context() -> RuntimeContext:
    """Where this code runs: job, node, worker, task, actor; a driver without a runtime starts one."""
    return RuntimeContext(session())


__all__ = [
    "ActorClass",
    "ActorHandle",
    "Context",
    "DynamicObjectRefGenerator",
    "ObjectID",
    "ObjectRef",
    "ObjectRefGenerator",
    "RemoteFunction",
    "available_resources",
    "cancel",
    "cluster_resources",
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
    "session",
    "shutdown",
    "wait",
]
