"""The decorators: ``remote`` for functions and classes, ``method`` for methods of actors."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from obsray.core import options as opts
from obsray.core import placement
from obsray.core.actors import ActorClass
from obsray.core.functions import RemoteFunction
from obsray.core.runtime.references import ObjectRef
from obsray.core.runtime.streams import DynamicObjectRefGenerator, ObjectRefGenerator

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
#: What a call returns: a reference, a list of them, a generator of them, None.
C = TypeVar("C", covariant=True)


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
def remote(*, num_returns: Literal["streaming"], **options: Any) -> _DecoratorFor[ObjectRefGenerator[Any]]: ...
@overload
def remote(
    *, num_returns: Literal["dynamic"], **options: Any
) -> _DecoratorFor[ObjectRef[DynamicObjectRefGenerator[Any]]]: ...
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


@overload
def method(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def method(**options: Any) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def method(function: Any = None, /, **options: Any) -> Any:
    """Options of one method of an actor class, given at its definition. Bare, it only says that this is a method.

    Raises TypeError or ValueError for options that do not exist.
    """
    if function is not None and not callable(function):
        raise TypeError(f"give options by keyword only: method(num_returns=2), got {type(function).__name__}")
    opts.check(options, opts.METHOD_OPTIONS, "a method")

    def mark(function: Callable[P, R]) -> Callable[P, R]:
        function.__obsray_method__ = options  # type: ignore[attr-defined]
        return function

    return mark if function is None else mark(function)
