"""Handles of actors and their methods: inert, picklable descriptions that calls go through."""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload

from obsray.core import options as opts
from obsray.core.calling import (
    MAX_RETRIES_DEFAULT,
    call_options,
    is_generator,
    signature_of,
)
from obsray.core.graph import ClassMethodNode, results_of
from obsray.core.runtime.leases import Function
from obsray.core.runtime.references import ObjectRef
from obsray.core.runtime.serialization import collector
from obsray.core.runtime.session import Session, current
from obsray.core.runtime.submission import DYNAMIC, STREAMING, Plan
from obsray.errors import ActorHandleNotFoundError, RaySystemError

T_co = TypeVar("T_co", covariant=True)
P = ParamSpec("P")
#: What a call returns: a reference, a list of them, a generator of them, None.
C = TypeVar("C", covariant=True)


class MethodInfo:
    """What a handle knows about one method."""

    __slots__ = ("bounds", "check", "name", "options", "streaming")

    def __init__(self, name: str, function: Any, static: bool) -> None:
        self.name = name
        self.options: dict[str, Any] = dict(getattr(function, "__obsray_method__", {}))
        self.streaming = is_generator(function)
        self.bounds, self.check = signature_of(function, skip_first=not static)

    def __getstate__(self) -> tuple[Any, ...]:
        return self.name, self.options, self.streaming, self.bounds

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.name, self.options, self.streaming, self.bounds = state
        self.check = self._check_count

    def _check_count(self, args: Any, kwargs: Any) -> None:
        # A handle that travelled knows only the number of arguments; the rest is found by the actor itself.
        if not kwargs and not self.bounds[0] <= len(args) <= self.bounds[1] and self.bounds[0] <= self.bounds[1]:
            raise TypeError(f"{self.name} takes {self.bounds[0]} to {self.bounds[1]} arguments, got {len(args)}")


#: Special methods that Python itself calls when an object is made, copied, pickled or looked into.
_NOT_CALLED = frozenset({
    "__init__", "__new__", "__del__", "__init_subclass__", "__class_getitem__", "__subclasshook__", "__getattr__",
    "__getattribute__", "__setattr__", "__delattr__", "__getstate__", "__setstate__", "__reduce__", "__reduce_ex__",
    "__getnewargs__", "__getnewargs_ex__", "__copy__", "__deepcopy__", "__post_init__", "__obsray_save__",
    "__obsray_restore__",
})  # fmt: skip
_BUILT_IN = {"__ray_ready__": (0, 0), "__ray_call__": (1, 1 << 30), "__ray_terminate__": (0, 0)}


def methods_of(cls: type) -> dict[str, MethodInfo]:
    found = {}
    for name in dir(cls):
        if name in _NOT_CALLED:
            continue
        raw = inspect.getattr_static(cls, name)
        static = isinstance(raw, (staticmethod, classmethod))
        function = raw.__func__ if static else raw
        if inspect.isfunction(function):
            found[name] = MethodInfo(name, function, isinstance(raw, staticmethod))
    return found


class HandleMeta:
    """What travels with a handle: class name, methods, defaults of its calls."""

    def __init__(
        self, class_name: str, methods: dict[str, MethodInfo], retries: int, ordered: bool, pending: int,
        concurrent: bool, groups: tuple[str, ...], ahead: int,
    ) -> None:  # fmt: skip
        self.class_name = class_name
        self.methods = methods
        self.retries = retries
        self.ordered = ordered
        self.pending_max = pending
        self.concurrent = concurrent
        self.groups = groups
        #: Items of all its generators that may be ahead of their consumers, -1 without bound.
        self.ahead = ahead


class ActorHandle(Generic[T_co]):
    """A handle of an actor: ``handle.method.remote(...)``. Equal by actor; the actor ends when no handle is left."""

    def __init__(self, actor: bytes, meta: HandleMeta, session: Session, reference: ObjectRef[Any] | None) -> None:
        self._actor = actor
        self._meta = meta
        self._session = session
        #: Keeps the actor alive; None for handles made from a name, which do not.
        self._reference = reference
        self._plans: dict[str, ActorMethod[..., Any]] = {}
        with session.lock:
            client = session.calls.client(actor, meta.class_name)
            client.ordered = meta.ordered
            client.pending_max = meta.pending_max
            client.concurrent = meta.concurrent
            if session.ownership.outbox:
                session.after()
        self._client = client

    @property
    def _actor_id(self) -> Any:
        from obsray.typed_ids import ActorID

        return ActorID(self._actor)

    #: By another name that programs know.
    _ray_actor_id = _actor_id

    def __getattr__(self, name: str) -> ActorMethod[..., Any]:
        method = self.__dict__.get("_plans", {}).get(name)
        if method is not None:
            found: ActorMethod[..., Any] = method
            return found
        # Before it has its attributes (while it is unpickled or copied) a handle has no methods.
        meta: HandleMeta | None = self.__dict__.get("_meta")
        if meta is None or (name.startswith("_") and name not in _BUILT_IN and name not in meta.methods):
            raise AttributeError(name)
        info = self._meta.methods.get(name)
        if info is None and name not in _BUILT_IN:
            known = ", ".join(sorted(self._meta.methods)) or "none"
            raise AttributeError(f"{self._meta.class_name} has no method {name!r}; its methods are: {known}")
        made: ActorMethod[..., Any] = ActorMethod(self, name, info, {})
        self._plans[name] = made
        return made

    def __dir__(self) -> list[str]:
        # What can be called, and nothing else: this is what an interactive prompt offers.
        return sorted({*self._meta.methods, *_BUILT_IN})

    def _check_session(self) -> None:
        _check_session(self._session, self._meta.class_name, self._actor)

    def __repr__(self) -> str:
        # What this process knows anyway: it must neither wait nor ask.
        client = self._client
        state = "its runtime has ended" if self._session.closed else client.state.name.lower().replace("_", " ")
        waiting = len(client.queue) + len(client.in_flight)
        calls = f", {waiting} calls not answered" if waiting and not self._session.closed else ""
        return f"ActorHandle({self._meta.class_name}, {self._actor.hex()}, {state}{calls})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActorHandle) and other._actor == self._actor

    def __hash__(self) -> int:
        return hash(self._actor)

    def __reduce__(self) -> tuple[Any, ...]:
        self._check_session()
        if collector.references is not None and self._reference is not None:
            collector.references.append(bytes(self._reference))
        return _rebuild_handle, (self._actor, self._meta, self._reference is not None)


def _check_session(session: Session, class_name: str, actor: bytes) -> None:
    """Raises ActorHandleNotFoundError if the actor's runtime has ended, RaySystemError in a forked process."""
    if session.closed:
        if session.failure is not None and session.worker_pid != os.getpid():
            raise session.failure
        raise ActorHandleNotFoundError(
            f"the actor {class_name} ({actor.hex()}) belongs to a runtime that was shut down"
        )


def _rebuild_handle(actor: bytes, meta: HandleMeta, counted: bool) -> ActorHandle[Any]:
    session = current()
    reference = session.reference(actor + bytes(4)) if counted else None
    return ActorHandle(actor, meta, session, reference)


class ActorMethod(Generic[P, C]):
    """One method of one actor, which it keeps alive as its handle does.

    Not by the handle itself: that keeps its methods, and a cycle would live until the next garbage collection.
    """

    def __init__(self, handle: ActorHandle[Any], name: str, info: MethodInfo | None, options: dict[str, Any]) -> None:
        self._session = handle._session
        self._client = handle._client
        self._meta = handle._meta
        self._reference = handle._reference
        self._name = name
        self._info = info
        self._options = options
        self._plan: Plan | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self._name} is an actor's method: call {self._name}.remote(...) instead")

    def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> C:
        """Call the method; returns like ``RemoteFunction.remote``."""
        plan = self._plan
        if plan is None:
            plan = self._prepare()
        try:
            returned: C = self._session.submission.call_actor(plan, self._client, args, kwargs)
            return returned
        except RaySystemError:
            self._check_session()
            raise

    def _check_session(self) -> None:
        _check_session(self._session, self._meta.class_name, self._client.id)

    def _prepare(self) -> Plan:
        session, meta = self._session, self._meta
        self._check_session()
        options = {**(self._info.options if self._info is not None else {}), **self._options}
        group = options.get("concurrency_group")
        if group is not None and group not in meta.groups:
            known = ", ".join(meta.groups) or "none"
            raise ValueError(f"concurrency_group={group!r}: the groups of {meta.class_name} are: {known}")
        full = f"{meta.class_name}.{self._name}"
        function = Function(hashlib.blake2b(full.encode(), digest_size=16).digest(), full, b"")
        returns = options.get("num_returns")
        if returns is None:
            returns = STREAMING if self._info is not None and self._info.streaming else 1
        elif returns in ("streaming", "dynamic"):
            returns = STREAMING if returns == "streaming" else DYNAMIC
        if returns == STREAMING and meta.ahead > 0 and not options.get("_generator_backpressure_num_objects"):
            # So that its consumer tells how far it is.
            options["_generator_backpressure_num_objects"] = meta.ahead
        retries = options.get("max_task_retries")
        retries = meta.retries if retries is None else retries
        if retries == 0 and options.get("retry_exceptions"):
            retries = MAX_RETRIES_DEFAULT
        bounds, check = (
            (self._info.bounds, self._info.check)
            if self._info is not None
            else (_BUILT_IN[self._name], lambda args, kwargs: None)
        )
        self._plan = Plan(
            session, function, options.get("name") or full, returns, retries, call_options(options), None, bounds,
            check,
        )  # fmt: skip
        return self._plan

    @overload
    def options(self, *, num_returns: Literal[0], **options: Any) -> ActorMethod[P, None]: ...
    @overload
    def options(self, *, num_returns: Literal[1], **options: Any) -> ActorMethod[P, ObjectRef[Any]]: ...
    @overload
    def options(self, *, num_returns: int, **options: Any) -> ActorMethod[P, list[ObjectRef[Any]]]: ...
    @overload
    def options(self, *, num_returns: str, **options: Any) -> ActorMethod[P, Any]: ...
    @overload
    def options(self, **options: Any) -> ActorMethod[P, C]: ...

    def options(self, **options: Any) -> ActorMethod[P, Any]:
        """The same method with other options for the calls made through the copy."""
        opts.check(options, opts.METHOD_OPTIONS, "an actor's method")
        copy: ActorMethod[P, Any] = object.__new__(ActorMethod)
        copy.__dict__.update(self.__dict__, _options={**self._options, **options}, _plan=None)
        return copy

    def bind(self, /, *args: Any, **kwargs: Any) -> Any:
        """A call for a graph (``obsray.dag``): described, not made. A tuple of its results if it has several.

        Raises TypeError for arguments that the method does not take.
        """
        if self._info is not None:
            self._info.check(args, kwargs)
        handle: ActorHandle[Any] = ActorHandle(self._client.id, self._meta, self._session, self._reference)
        returns = {**(self._info.options if self._info is not None else {}), **self._options}.get("num_returns")
        return results_of(ClassMethodNode(handle, self._name, args, kwargs, self._options), returns)

    def _remote(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """The same as ``options(**options).remote(*args, **kwargs)``, as older programs write it."""
        return self.options(**options).remote(*(args or ()), **(kwargs or {}))

    def __reduce__(self) -> tuple[Any, ...]:
        handle: ActorHandle[Any] = ActorHandle(self._client.id, self._meta, self._session, self._reference)
        return _rebuild_method, (handle, self._name, self._options)

    def __repr__(self) -> str:
        return f"<method {self._name} of actor {self._meta.class_name} {self._client.id.hex()}>"


def _rebuild_method(handle: ActorHandle[Any], name: str, options: dict[str, Any]) -> ActorMethod[..., Any]:
    method: ActorMethod[..., Any] = getattr(handle, name)
    return method.options(**options) if options else method


def get_named(session: Session, name: str, namespace: str) -> ActorHandle[Any] | None:
    """A handle of the actor of this name, or None. Such a handle does not keep the actor alive."""
    found = session.request("get_actor", name=name, namespace=namespace)
    if found is None:
        return None
    return ActorHandle(found["actor"], pickle.loads(found["meta"]), session, None)
