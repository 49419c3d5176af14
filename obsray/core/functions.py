"""Remote functions: inert, picklable descriptions that calls go through."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, Generic, Literal, NoReturn, ParamSpec, TypeVar, overload

from obsray.core import options as opts
from obsray.core import placement
from obsray.core.calling import (
    auto_init,
    call_options,
    pickled_once,
    retries_by_default,
    returns_of,
    shape_of,
    shown,
    signature_of,
)
from obsray.core.graph import FunctionNode
from obsray.core.runtime.bindings import Bindings, interactive
from obsray.core.runtime.leases import Function
from obsray.core.runtime.references import ObjectRef
from obsray.core.runtime.session import Session
from obsray.core.runtime.streams import DynamicObjectRefGenerator, ObjectRefGenerator
from obsray.core.runtime.submission import Plan

P = ParamSpec("P")
Q = ParamSpec("Q")
#: What a call returns: a reference, a list of them, a generator of them, None.
C = TypeVar("C", covariant=True)


class _Code:
    """A function as it travels in one session: made once for all copies that differ in their options only."""

    __slots__ = ("blob", "bounds", "check", "identifier", "session")

    def __init__(self) -> None:
        self.session: Session | None = None

    def take(self, session: Session, function: Callable[..., Any], anew: bool) -> None:
        """Pickle it, unless that was done for this session. Raises as ``pickled_once``."""
        if self.session is session and not anew:
            return
        self.blob = pickled_once(function)
        self.identifier = hashlib.blake2b(self.blob, digest_size=16).digest()
        self.bounds, self.check = signature_of(function, skip_first=False)
        self.session = session


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
        returns_of(self._options, function)
        self._plan: Plan | None = None
        self._plan_session: Session | None = None
        self._bindings: Bindings | None = None
        self._code = _Code()
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

        Returns a reference, a list of them for ``num_returns`` > 1, None for 0, a generator of them for generators;
        for ``num_returns="dynamic"`` a reference whose value has the references of what was yielded, when all was.
        Raises TypeError if the arguments do not fit the signature or cannot be pickled.
        """
        session = self._plan_session
        if session is None or session.closed:
            session = self._prepare()
        assert self._plan is not None
        return session.submission.call(self._plan, args, kwargs)

    def _prepare(self) -> Session:
        session = auto_init()
        function = self._function
        plan, bindings = self._plan, self._bindings
        if plan is not None and plan.session is session and bindings is not None and not bindings.changed():
            return session
        code = self._code
        code.take(session, function, interactive())
        options = self._options
        max_calls = options.get("max_calls") or (1 if options.get("num_gpus") and "max_calls" not in options else 0)
        compiled = Function(code.identifier, self.__name__, code.blob, max_calls)
        retries = options.get("max_retries")
        self._plan = Plan(
            session,
            compiled,
            options.get("name") or self.__name__,
            returns_of(options, function),
            retries_by_default() if retries is None else retries,
            call_options({**options, "max_calls": max_calls}),
            shape_of(session, options, 1, self.__name__),
            code.bounds,
            code.check,
            opts.shown_labels(options.get("_labels")),
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
        self, *, num_returns: Literal["streaming"], **options: Any
    ) -> RemoteFunction[P, ObjectRefGenerator[Any]]: ...
    @overload
    def options(
        self, *, num_returns: Literal["dynamic"], **options: Any
    ) -> RemoteFunction[P, ObjectRef[DynamicObjectRefGenerator[Any]]]: ...
    @overload
    def options(self, **options: Any) -> RemoteFunction[P, C]: ...

    def options(self, **options: Any) -> RemoteFunction[P, Any]:
        """The same function with other options for the calls made through the copy."""
        copy: RemoteFunction[P, Any] = RemoteFunction(self._function, {**self._options, **options})
        copy._code = self._code
        return copy

    def _remote(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """The same as ``options(**options).remote(*args, **kwargs)``, as older programs write it."""
        return self.options(**options).remote(*(args or ()), **(kwargs or {}))

    def bind(self, /, *args: Any, **kwargs: Any) -> FunctionNode:
        """A call for a graph (``obsray.dag``): described, not made. Arguments may be other such calls.

        Raises TypeError for arguments that do not fit the signature.
        """
        signature_of(self._function, skip_first=False)[1](args, kwargs)
        return FunctionNode(self, args, kwargs)

    def __repr__(self) -> str:
        return f"<remote function {self.__module__}.{self.__name__}{shown(self._options)}>"

    def __getstate__(self) -> dict[str, Any]:
        return {"function": self._function, "options": self._options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["function"], state["options"])  # type: ignore[misc]
