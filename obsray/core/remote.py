"""Remote functions, actor classes and handles: inert, picklable descriptions that calls go through."""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Concatenate, Generic, Literal, NoReturn, ParamSpec, Protocol, TypeVar, overload

from obsray.core import options as opts
from obsray.core import placement
from obsray.core.graph import ClassMethodNode, ClassNode, FunctionNode
from obsray.core.protocol.environment_key import environment_id, environment_key
from obsray.core.runtime.bindings import Bindings, interactive
from obsray.core.runtime.dispatch import Function, Shape
from obsray.core.runtime.references import ObjectRef
from obsray.core.runtime.serialization import collector, dump_function
from obsray.core.runtime.session import Session, current
from obsray.core.runtime.streams import ObjectRefGenerator
from obsray.core.runtime.submission import STREAMING, Plan
from obsray.errors import ActorAlreadyExistsError, ActorHandleNotFoundError, RaySystemError

P = ParamSpec("P")
Q = ParamSpec("Q")
R = TypeVar("R")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
#: What a call returns: a reference, a list of them, a generator of them, None.
C = TypeVar("C", covariant=True)

MAX_RETRIES_DEFAULT = 3


def _auto_init() -> Session:
    from obsray.core.api import session

    return session()


def _signature(function: Any, skip_first: bool) -> tuple[tuple[int, int], Callable[[Any, Any], None]]:
    """How many positional arguments always fit, and a full check for every other call."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return (0, 1 << 30), lambda args, kwargs: None
    if skip_first:
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    least = most = 0
    for parameter in signature.parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            most += 1
            if parameter.default is parameter.empty:
                least += 1
        elif parameter.kind is parameter.VAR_POSITIONAL:
            most = 1 << 30
        elif parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty:
            # A required keyword: no call without keywords fits.
            least, most = 1, 0
            break

    def check(args: Any, kwargs: Any) -> None:
        try:
            signature.bind(*args, **kwargs)
        except TypeError as error:
            name = getattr(function, "__name__", "function")
            raise TypeError(f"{name}{signature}: {error}") from None

    return (least, most), check


def _is_generator(function: Any) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _returns(options: dict[str, Any], function: Any) -> int:
    returns = options.get("num_returns")
    if returns is None:
        return STREAMING if _is_generator(function) else 1
    if returns in ("streaming", "dynamic"):
        if inspect.isfunction(function) and not _is_generator(function):
            raise ValueError(f'num_returns="streaming": {function.__name__} is not a generator function')
        return STREAMING
    return int(returns)


def _call_options(options: dict[str, Any]) -> dict[str, Any] | None:
    """What a worker must know about a call besides its arguments."""
    found: dict[str, Any] = {}
    wanted = options.get("retry_exceptions")
    if wanted is True:
        found["retry"] = True
    elif wanted:
        found["retry"] = dump_function(tuple(wanted))
    if options.get("max_calls"):
        found["max_calls"] = options["max_calls"]
    if options.get("name"):
        found["name"] = options["name"]
    if options.get("concurrency_group"):
        found["group"] = options["concurrency_group"]
    ahead = options.get("_generator_backpressure_num_objects")
    if ahead is not None and ahead != -1:
        found["backpressure"] = ahead
    return found or None


def shape_of(session: Session, options: dict[str, Any], cpus_default: float, what: str = "a task") -> Shape:
    """The scheduling class of these options. Raises ValueError for a placement in which it can never run."""
    resources = opts.demanded(options, cpus_default)
    runtime = session.environments.describe(options.get("runtime_env"))
    where = placement.placed(session, options, resources, what=what)
    inherited = where.inherited
    key = (tuple(sorted(resources.items())), repr(runtime), where.key, inherited is not None and inherited["capture"])
    with session.lock:
        name = (opts.describe(resources) + where.name)[: opts.NAME_CHARACTERS_MAX - 32]
        if runtime is not None:
            name += f" env:{environment_id(environment_key(runtime)).hex()}"
        return session.dispatcher.shape(name, resources, runtime, key, where.wire, inherited)


class RemoteFunction(Generic[P, C]):
    """A function whose calls run in workers: ``f.remote(...)`` returns a reference to the result at once."""

    def __init__(self, function: Callable[P, Any], options: dict[str, Any]) -> None:
        self._function = function
        self._options = opts.check(options, opts.TASK_OPTIONS, "a remote function")
        if inspect.iscoroutinefunction(function):
            raise ValueError(
                f"{getattr(function, '__name__', function)} is async: a task runs alone in its process and has "
                "nothing to await beside; call asyncio.run(...) inside a plain function, or use an actor, whose "
                "async methods run beside each other"
            )
        placement.check(self._options)
        _returns(self._options, function)
        self._plan: Plan | None = None
        self._plan_session: Session | None = None
        self._bindings: Bindings | None = None
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        self.__module__ = getattr(function, "__module__", "")

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(f"{self.__name__} is a remote function: call {self.__name__}.remote(...) instead")

    # For type checkers: the arguments of the function itself, or references to them in the first four places.
    @overload
    def remote(self, /, *args: P.args, **kwargs: P.kwargs) -> C: ...
    @overload
    def remote(
        self: RemoteFunction[Concatenate[Any, Q], C], a: ObjectRef[Any], /, *args: Q.args, **kwargs: Q.kwargs
    ) -> C: ...
    @overload
    def remote(
        self: RemoteFunction[Concatenate[Any, Any, Q], C], a: Any, b: ObjectRef[Any], /,
        *args: Q.args, **kwargs: Q.kwargs,
    ) -> C: ...  # fmt: skip
    @overload
    def remote(
        self: RemoteFunction[Concatenate[Any, Any, Any, Q], C], a: Any, b: Any, c: ObjectRef[Any], /,
        *args: Q.args, **kwargs: Q.kwargs,
    ) -> C: ...  # fmt: skip
    @overload
    def remote(
        self: RemoteFunction[Concatenate[Any, Any, Any, Any, Q], C], a: Any, b: Any, c: Any, d: ObjectRef[Any], /,
        *args: Q.args, **kwargs: Q.kwargs,
    ) -> C: ...  # fmt: skip

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the function in a worker.

        Returns a reference, a list of them for ``num_returns`` > 1, None for 0, a generator of them for generators.
        Raises TypeError if the arguments do not fit the signature or cannot be pickled.
        """
        session = self._plan_session
        if session is None or session.closed:
            session = self._prepare()
        assert self._plan is not None
        return session.submission.call(self._plan, args, kwargs)

    def _prepare(self) -> Session:
        session = _auto_init()
        function = self._function
        plan, bindings = self._plan, self._bindings
        if plan is not None and plan.session is session and bindings is not None and not bindings.changed():
            return session
        blob = dump_function(function)
        identifier = hashlib.blake2b(blob, digest_size=16).digest()
        options = self._options
        max_calls = options.get("max_calls") or (1 if options.get("num_gpus") and "max_calls" not in options else 0)
        compiled = Function(identifier, self.__name__, blob, max_calls)
        retries = options.get("max_retries")
        bounds, check = _signature(function, skip_first=False)
        self._plan = Plan(
            session,
            compiled,
            options.get("name") or self.__name__,
            _returns(options, function),
            MAX_RETRIES_DEFAULT if retries is None else retries,
            _call_options({**options, "max_calls": max_calls}),
            shape_of(session, options, 1, self.__name__),
            bounds,
            check,
        )
        if interactive():
            # What it uses may be defined anew at any time: each call comes here and looks.
            self._bindings = Bindings(function)
            return session
        self._plan_session = session
        if session.executor is not None:
            session.planned.add(self)
        return session

    def forget_plan(self) -> None:
        """The next call plans anew: this process runs work of another placement group now."""
        self._plan_session = None

    @overload
    def options(self, *, num_returns: Literal[0], **options: Any) -> RemoteFunction[P, None]: ...
    @overload
    def options(self, *, num_returns: Literal[1], **options: Any) -> RemoteFunction[P, ObjectRef[Any]]: ...
    @overload
    def options(self, *, num_returns: int, **options: Any) -> RemoteFunction[P, list[ObjectRef[Any]]]: ...
    @overload
    def options(
        self, *, num_returns: Literal["streaming", "dynamic"], **options: Any
    ) -> RemoteFunction[P, ObjectRefGenerator[Any]]: ...
    @overload
    def options(self, **options: Any) -> RemoteFunction[P, C]: ...

    def options(self, **options: Any) -> RemoteFunction[P, Any]:
        """The same function with other options for the calls made through the copy."""
        return RemoteFunction(self._function, {**self._options, **options})

    def bind(self, /, *args: Any, **kwargs: Any) -> FunctionNode:
        """A call for a graph (``obsray.dag``): described, not made. Arguments may be other such calls."""
        return FunctionNode(self, args, kwargs)

    def __repr__(self) -> str:
        return f"<remote function {self.__module__}.{self.__name__}{_shown(self._options)}>"

    def __getstate__(self) -> dict[str, Any]:
        return {"function": self._function, "options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["function"], state["options"])  # type: ignore[misc]


class MethodInfo:
    """What a handle knows about one method."""

    __slots__ = ("bounds", "check", "name", "options", "streaming")

    def __init__(self, name: str, function: Any, static: bool) -> None:
        self.name = name
        self.options: dict[str, Any] = dict(getattr(function, "__obsray_method__", {}))
        self.streaming = _is_generator(function)
        self.bounds, self.check = _signature(function, skip_first=not static)

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


def _methods_of(cls: type) -> dict[str, MethodInfo]:
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


class ActorClass(Generic[T]):
    """A class whose instances live in workers of their own: ``C.remote(...)`` returns a handle at once."""

    def __init__(self, cls: type[T], options: dict[str, Any]) -> None:
        self._class = cls
        self._options = opts.check(options, opts.ACTOR_OPTIONS, "an actor class")
        for name in ("name", "namespace"):
            if options.get(name) == "":
                raise ValueError(f"{name} of an actor cannot be empty; leave it out for an actor without one")
        placement.check(self._options)
        self._check_checkpoints()
        self._methods = _methods_of(cls)
        self._blob = b""
        self._bindings: Bindings | None = None
        self.__name__ = cls.__name__
        self.__doc__ = cls.__doc__
        self.__module__ = cls.__module__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self.__name__} is an actor class: call {self.__name__}.remote(...) to make an actor")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise TypeError(
            f"inheriting from actor classes is not supported: {self.__name__} is one. Inherit from the plain class "
            "and make both remote, e.g. Actor = obsray.remote(Plain)"
        )

    def options(self, **options: Any) -> ActorClass[T]:
        """The same class with other options for the actors made through the copy."""
        if "concurrency_groups" in options:
            raise ValueError("concurrency_groups belong to the class: give them to @remote")
        return ActorClass(self._class, {**self._options, **options})

    def remote(self, /, *args: Any, **kwargs: Any) -> ActorHandle[T]:
        """Make an actor. Raises TypeError for arguments its constructor does not take, ValueError for a taken name."""
        session = _auto_init()
        options = self._options
        name, namespace = options.get("name") or "", options.get("namespace") or session.namespace
        if options.get("get_if_exists"):
            if not name:
                raise ValueError("get_if_exists needs a name")
            found = get_named(session, name, namespace)
            if found is not None:
                return found
        self._check_order()
        bounds, check = _signature(self._class.__init__, skip_first=True)
        if self._class.__init__ is object.__init__:
            bounds, check = (0, 0), _no_arguments(self.__name__)
        check(args, kwargs)
        if not self._blob or (self._bindings is not None and self._bindings.changed()):
            self._blob = dump_function(self._class)
            self._bindings = Bindings(self._class) if interactive() else None
        function = Function(hashlib.blake2b(self._blob, digest_size=16).digest(), self.__name__, self._blob)
        plan = Plan(session, function, f"{self.__name__}.__init__", 1, 0, None, None, bounds, check)
        meta = HandleMeta(
            self.__name__, self._methods, options.get("max_task_retries") or 0, self._is_ordered(),
            options.get("max_pending_calls") or -1, not self._is_serial(),
            tuple(options.get("concurrency_groups") or ()),
            options.get("_actor_generator_backpressure_num_objects") or -1,
        )  # fmt: skip
        spec = self._spec(session, name, namespace, meta)
        try:
            client, reference = session.submission.create_actor(
                plan, spec, args, kwargs, meta.ordered, meta.pending_max
            )
        except RaySystemError as error:
            if getattr(error, "kind", "") != "name_taken":
                raise
            found = get_named(session, name, namespace) if options.get("get_if_exists") else None
            if found is not None:
                return found
            raise ActorAlreadyExistsError(
                f"an actor called {name!r} already exists in namespace {namespace!r}; get_actor({name!r}) finds it, "
                "get_if_exists=True makes or finds it"
            ) from None
        return ActorHandle(client.id, meta, session, reference)

    def _is_serial(self) -> bool:
        """Whether its calls run one after the other."""
        functions = inspect.getmembers(self._class, inspect.isfunction)
        is_async = any(inspect.iscoroutinefunction(f) or inspect.isasyncgenfunction(f) for _, f in functions)
        options = self._options
        return not is_async and (options.get("max_concurrency") or 1) == 1 and not options.get("concurrency_groups")

    def _is_ordered(self) -> bool:
        return self._is_serial() and not self._options.get("allow_out_of_order_execution")

    def _check_checkpoints(self) -> None:
        name = self._class.__name__
        hooks = [hasattr(self._class, hook) for hook in ("__obsray_save__", "__obsray_restore__")]
        wanted = [option for option in ("checkpoint_every", "checkpoint_seconds") if self._options.get(option)]
        if any(hooks) != all(hooks) or (wanted and not all(hooks)):
            raise TypeError(
                f"{name} needs both __obsray_save__(self), which returns its state, and "
                f"__obsray_restore__(self, state){f', for {wanted[0]}' if wanted else ''}"
            )
        if all(hooks) and not self._is_serial():
            raise TypeError(
                f"{name} has __obsray_save__ but runs calls beside each other (async methods, max_concurrency or "
                "concurrency_groups): there is no moment between two calls to save it at"
            )

    def _checkpoint(self) -> dict[str, Any] | None:
        """What the actor's process must know about its checkpoints. Raises ValueError if none would ever be used."""
        options = self._options
        every, seconds = options.get("checkpoint_every"), options.get("checkpoint_seconds")
        if not hasattr(self._class, "__obsray_save__"):
            return None
        if not options.get("max_restarts"):
            if every or seconds:
                raise ValueError(f"{self.__name__} is to be saved but never to start again: give it max_restarts, too")
            return None
        return {"every": every, "seconds": seconds, "repeats": bool(options.get("max_task_retries"))}

    def _check_order(self) -> None:
        if self._options.get("allow_out_of_order_execution") is False and not self._is_serial():
            raise ValueError(
                f"allow_out_of_order_execution=False: {self.__name__} runs calls beside each other (async methods, "
                "max_concurrency or concurrency_groups), so they cannot be kept in order; leave the option out"
            )

    def _spec(self, session: Session, name: str, namespace: str, meta: HandleMeta) -> dict[str, Any]:
        options = self._options
        held = opts.demanded(options, 0)
        # An actor that asks for nothing needs a CPU to be placed, and none afterwards.
        placed = opts.demanded(options, 1)
        where = placement.placed(session, options, held, placed, what=self.__name__)
        return {
            "class_name": self.__name__,
            "name": name,
            "namespace": namespace,
            "detached": (options.get("lifetime") or session.description.get("actor_lifetime")) == "detached",
            "resources": placed,
            "held": held,
            "runtime": session.environments.describe(options.get("runtime_env")),
            "placement": where.wire,
            "where": where.name,
            "inherited": where.inherited,
            "restarts_max": options.get("max_restarts") or 0,
            "meta": pickle.dumps(meta),
            "concurrency": {
                "max": options.get("max_concurrency"),
                "groups": options.get("concurrency_groups"),
                "ahead": meta.ahead,
            },
            "checkpoint": self._checkpoint(),
            "arguments": None,
        }

    def bind(self, /, *args: Any, **kwargs: Any) -> ClassNode:
        """An actor for a graph (``obsray.dag``); ``.method.bind(...)`` describes a call of it."""
        return ClassNode(self, args, kwargs)

    def __repr__(self) -> str:
        return f"<actor class {self.__module__}.{self.__name__}{_shown(self._options)}>"

    def __getstate__(self) -> dict[str, Any]:
        return {"class": self._class, "options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["class"], state["options"])  # type: ignore[misc]


def _shown(options: dict[str, Any]) -> str:
    text = ", ".join(f"{name}={value!r}" for name, value in options.items())
    return f" with {text if len(text) <= 200 else text[:197] + '...'}" if text else ""


def _no_arguments(name: str) -> Callable[[Any, Any], None]:
    def check(args: Any, kwargs: Any) -> None:
        if args or kwargs:
            raise TypeError(f"{name}() takes no arguments")

    return check


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
        self._plans: dict[str, ActorMethod] = {}
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
        from obsray.ids import ActorID

        return ActorID(self._actor)

    def __getattr__(self, name: str) -> ActorMethod:
        method = self.__dict__.get("_plans", {}).get(name)
        if method is not None:
            found: ActorMethod = method
            return found
        # Before it has its attributes (while it is unpickled or copied) a handle has no methods.
        meta: HandleMeta | None = self.__dict__.get("_meta")
        if meta is None or (name.startswith("_") and name not in _BUILT_IN and name not in meta.methods):
            raise AttributeError(name)
        info = self._meta.methods.get(name)
        if info is None and name not in _BUILT_IN:
            known = ", ".join(sorted(self._meta.methods)) or "none"
            raise AttributeError(f"{self._meta.class_name} has no method {name!r}; its methods are: {known}")
        made = self._plans[name] = ActorMethod(self, name, info, {})
        return made

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


class ActorMethod:
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

    def remote(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the method; returns like ``RemoteFunction.remote``."""
        plan = self._plan
        if plan is None:
            plan = self._prepare()
        try:
            return self._session.submission.call_actor(plan, self._client, args, kwargs)
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
            returns = STREAMING
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
            session, function, options.get("name") or full, returns, retries, _call_options(options), None, bounds,
            check,
        )  # fmt: skip
        return self._plan

    def options(self, **options: Any) -> ActorMethod:
        """The same method with other options for the calls made through the copy."""
        opts.check(options, opts.METHOD_OPTIONS, "an actor's method")
        copy = object.__new__(ActorMethod)
        copy.__dict__.update(self.__dict__, _options={**self._options, **options}, _plan=None)
        return copy

    def bind(self, /, *args: Any, **kwargs: Any) -> ClassMethodNode:
        """A call for a graph (``obsray.dag``): described, not made."""
        handle: ActorHandle[Any] = ActorHandle(self._client.id, self._meta, self._session, self._reference)
        return ClassMethodNode(handle, self._name, args, kwargs, self._options)


def get_named(session: Session, name: str, namespace: str) -> ActorHandle[Any] | None:
    """A handle of the actor of this name, or None. Such a handle does not keep the actor alive."""
    found = session.request("get_actor", name=name, namespace=namespace)
    if found is None:
        return None
    return ActorHandle(found["actor"], pickle.loads(found["meta"]), session, None)


class _Decorator(Protocol):
    """What ``remote`` with options returns."""

    @overload
    def __call__(self, target: type[T], /) -> ActorClass[T]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, AsyncIterator[T]], /) -> RemoteFunction[P, ObjectRefGenerator[T]]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, Iterator[T]], /) -> RemoteFunction[P, ObjectRefGenerator[T]]: ...  # type: ignore[overload-overlap]
    @overload
    def __call__(self, target: Callable[P, R], /) -> RemoteFunction[P, ObjectRef[R]]: ...


class _DecoratorFor(Protocol[C]):
    """The same, when the options say what a call returns."""

    def __call__(self, target: Callable[P, Any], /) -> RemoteFunction[P, C]: ...


@overload
def remote(target: type[T]) -> ActorClass[T]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, AsyncIterator[T]]) -> RemoteFunction[P, ObjectRefGenerator[T]]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, Iterator[T]]) -> RemoteFunction[P, ObjectRefGenerator[T]]: ...  # type: ignore[overload-overlap]
@overload
def remote(target: Callable[P, R]) -> RemoteFunction[P, ObjectRef[R]]: ...
@overload
def remote(*, num_returns: Literal[0], **options: Any) -> _DecoratorFor[None]: ...
@overload
def remote(*, num_returns: Literal[1], **options: Any) -> _Decorator: ...
@overload
def remote(*, num_returns: int, **options: Any) -> _DecoratorFor[list[ObjectRef[Any]]]: ...
@overload
def remote(
    *, num_returns: Literal["streaming", "dynamic"], **options: Any
) -> _DecoratorFor[ObjectRefGenerator[Any]]: ...
@overload
def remote(**options: Any) -> _Decorator: ...


def remote(target: Any = None, **options: Any) -> Any:
    """Make a function or class remote, bare or with options.

    Raises TypeError or ValueError at once for anything that is not a function or class, and for options that do not
    exist.
    """
    if target is None:
        if not options:
            raise TypeError("remote needs a function or class, or options: @remote or @remote(num_cpus=2)")
        # Options are checked when they are given, not when the first call is made.
        allowed = opts.TASK_OPTIONS | opts.ACTOR_OPTIONS
        opts.check(options, allowed, "remote")
        placement.check(options)
        return lambda function: _make(function, options)
    if options:
        raise TypeError("give options by keyword only: remote(num_cpus=2)(f)")
    return _make(target, {})


def _make(target: Any, options: dict[str, Any]) -> Any:
    if isinstance(target, (RemoteFunction, ActorClass)):
        raise TypeError(f"{target!r} is remote already")
    if inspect.isclass(target):
        return ActorClass(target, options)
    if not callable(target) or isinstance(target, (staticmethod, classmethod)):
        raise TypeError(f"remote needs a function or class, got {type(target).__name__}")
    return RemoteFunction(target, options)


def method(**options: Any) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Options of one method of an actor class, given at its definition."""
    opts.check(options, opts.METHOD_OPTIONS, "a method")
    if not options:
        raise ValueError("method needs an option, e.g. @method(num_returns=2)")

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        function.__obsray_method__ = options  # type: ignore[attr-defined]
        return function

    return mark
