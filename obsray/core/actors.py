"""Actor classes: inert, picklable descriptions that actors are made from."""

from __future__ import annotations

import hashlib
import inspect
import pickle
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeVar

from obsray.core import options as opts
from obsray.core import placement
from obsray.core.calling import (
    auto_init,
    pickled_once,
    shown,
    signature_of,
)
from obsray.core.graph import ClassNode
from obsray.core.handles import ActorHandle, HandleMeta, MethodInfo, get_named, methods_of
from obsray.core.runtime.bindings import Bindings, interactive
from obsray.core.runtime.leases import Function
from obsray.core.runtime.session import Session
from obsray.core.runtime.submission import Plan
from obsray.errors import ActorAlreadyExistsError, RaySystemError

#: How often an actor is tried to be made whose name is neither free nor found: others may make and end such meanwhile.
CREATE_ATTEMPTS_MAX = 10
#: A name whose actor has ended, as this process knows already, is waited for so long, and looked at so often.
NAME_SECONDS_MAX = 10.0
NAME_LOOK_SECONDS = 0.01

T = TypeVar("T")


class ActorClassInheritanceException(TypeError):
    """A class was derived from an actor class."""


class ActorClassMetadata:
    """What programs ask ``Class.__ray_metadata__`` for.

    ``class_name`` (qualified), ``modified_class`` (the plain class), and the options, None for those not given.
    """

    def __init__(self, cls: type, options: Mapping[str, Any]) -> None:
        self.class_name = cls.__qualname__
        self.modified_class = cls
        self.__dict__.update({name: options.get(name) for name in opts.ACTOR_OPTIONS if not name.startswith("_")})


class ActorClass(Generic[T]):
    """A class whose instances live in workers of their own: ``C.remote(...)`` returns a handle at once."""

    def __init__(self, cls: type[T], options: dict[str, Any]) -> None:
        self._begin(cls, opts.check(options, opts.ACTOR_OPTIONS, "an actor class"), cls.__doc__)
        for name in ("name", "namespace"):
            if options.get(name) == "":
                raise ValueError(f"{name} of an actor cannot be empty; leave it out for an actor without one")
        placement.check(self._options)
        self._check_checkpoints()
        self._methods = methods_of(cls)

    def _begin(self, cls: type[T], options: dict[str, Any], doc: str | None) -> None:
        """Set what the class need not be whole for."""
        self._class = cls
        self._options = options
        self._blob = b""
        self._bindings: Bindings | None = None
        self.__name__ = cls.__name__
        self.__doc__ = doc
        self.__module__ = cls.__module__

    @cached_property
    def _methods(self) -> dict[str, MethodInfo]:
        return methods_of(self._class)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"{self.__name__} is an actor class: call {self.__name__}.remote(...) to make an actor")

    def __getattr__(self, name: str) -> Any:
        # What the class itself has, which methods of the actor read by its name: constants, static and class methods.
        cls = self.__dict__.get("_class")
        if name == "__ray_actor_class__" and cls is not None:
            return cls
        if name == "__ray_metadata__" and cls is not None:
            return ActorClassMetadata(cls, self._options)
        if cls is None or name.startswith("__"):
            raise AttributeError(name)
        try:
            return getattr(cls, name)
        except AttributeError:
            raise AttributeError(f"the actor class {cls.__name__} has no attribute {name!r}") from None

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(name for name in dir(self._class) if not name.startswith("__"))})

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        raise ActorClassInheritanceException(
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
        session = auto_init()
        options = self._options
        name, namespace = options.get("name") or "", options.get("namespace") or session.namespace
        if options.get("get_if_exists"):
            if not name:
                raise ValueError("get_if_exists needs a name")
            found = get_named(session, name, namespace)
            if found is not None and not found._client.is_ending():
                return found
        self._check_order()
        bounds, check = self._signature()
        check(args, kwargs)
        if not self._blob or (self._bindings is not None and self._bindings.changed()):
            self._blob = pickled_once(self._class)
            self._bindings = Bindings(self._class) if interactive() else None
        function = Function(hashlib.blake2b(self._blob, digest_size=16).digest(), self.__name__, self._blob)
        labels = opts.shown_labels(options.get("_labels"))
        plan = Plan(session, function, f"{self.__name__}.__init__", 1, 0, None, None, bounds, check, labels)
        meta = HandleMeta(
            self.__name__, self._methods, options.get("max_task_retries") or 0, self._is_ordered(),
            options.get("max_pending_calls") or -1, not self._is_serial(),
            tuple(options.get("concurrency_groups") or ()),
            options.get("_actor_generator_backpressure_num_objects") or -1,
        )  # fmt: skip
        spec = self._spec(session, name, namespace, meta)
        until = time.monotonic() + NAME_SECONDS_MAX
        for _ in range(CREATE_ATTEMPTS_MAX):
            try:
                client, reference = session.submission.create_actor(
                    plan, dict(spec), args, kwargs, meta.ordered, meta.pending_max
                )
            except RaySystemError as error:
                if getattr(error, "kind", "") != "name_taken":
                    raise
            else:
                return ActorHandle(client.id, meta, session, reference)
            found = get_named(session, name, namespace)
            while found is not None and found._client.is_ending() and time.monotonic() < until:
                # Its node or the control store has not heard of its end yet.
                time.sleep(NAME_LOOK_SECONDS)
                found = get_named(session, name, namespace)
            if found is not None:
                if options.get("get_if_exists"):
                    return found
                break
            # Whoever had the name is dead by now: try again.
        raise ActorAlreadyExistsError(
            f"an actor called {name!r} already exists in namespace {namespace!r}; get_actor({name!r}) finds it, "
            "get_if_exists=True makes or finds it"
        )

    def _remote(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> ActorHandle[T]:
        """The same as ``options(**options).remote(*args, **kwargs)``, as older programs write it."""
        return self.options(**options).remote(*(args or ()), **(kwargs or {}))

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

    def _signature(self) -> tuple[tuple[int, int], Callable[[Any, Any], None]]:
        """How many arguments its constructor takes, and a check of them."""
        if self._class.__init__ is object.__init__:
            return (0, 0), _no_arguments(self.__name__)
        return signature_of(self._class.__init__, skip_first=True)

    def bind(self, /, *args: Any, **kwargs: Any) -> ClassNode:
        """An actor for a graph (``obsray.dag``); ``.method.bind(...)`` describes a call of it.

        Raises TypeError for arguments that its constructor does not take.
        """
        self._signature()[1](args, kwargs)
        return ClassNode(self, args, kwargs)

    def __repr__(self) -> str:
        return f"<actor class {self.__module__}.{self.__name__}{shown(self._options)}>"

    def __getstate__(self) -> dict[str, Any]:
        return {"class": self._class, "options": self._options, "doc": self.__doc__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # The class may be in the making still: one that makes actors of its own kind refers to this, too.
        self._begin(state["class"], state["options"], state["doc"])


def _no_arguments(name: str) -> Callable[[Any, Any], None]:
    def check(args: Any, kwargs: Any) -> None:
        if args or kwargs:
            raise TypeError(f"{name}() takes no arguments")

    return check
