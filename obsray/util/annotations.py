"""Marks that libraries put on their own names: how stable each is. They change nothing but what is written down."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any


class RayDeprecationWarning(DeprecationWarning):
    """Something marked as ``Deprecated(warning=True)`` is used."""


def _mark(kind: str, args: tuple[Any, ...]) -> Any:
    """With or without arguments: ``@PublicAPI`` or ``@PublicAPI(stability="beta")``."""
    if len(args) == 1 and callable(args[0]):
        return _marked(args[0], kind)
    if args:
        raise TypeError(f"give arguments of {kind} by keyword")
    return lambda what: _marked(what, kind)


def _marked(what: Any, kind: str) -> Any:
    what._annotated = getattr(what, "__name__", "")
    what._annotated_type = kind
    return what


def PublicAPI(*args: Any, stability: str = "stable", api_group: str = "Others") -> Any:
    """Marks what users may rely on. ``stability``: "stable", "beta" or "alpha"."""
    if stability not in ("stable", "beta", "alpha"):
        raise ValueError(f"stability={stability!r}: must be 'stable', 'beta' or 'alpha'")
    return _mark("PublicAPI", args)


def DeveloperAPI(*args: Any) -> Any:
    """Marks what libraries may rely on, and users should not."""
    return _mark("DeveloperAPI", args)


def Deprecated(*args: Any, message: str = "", warning: bool = False) -> Any:
    """Marks what will go. ``warning``: a call says so, with ``message``."""

    def wrap(what: Any) -> Any:
        if warning:
            text = message or f"{getattr(what, '__name__', what)} is deprecated"
            if isinstance(what, type):
                made: Any = what
                made.__init__ = _warning(made.__init__, text)
            else:
                what = _warning(what, text)
        return _marked(what, "Deprecated")

    if len(args) == 1 and not message and not warning and callable(args[0]):
        return wrap(args[0])
    if args:
        raise TypeError("give arguments of Deprecated by keyword")
    return wrap


def _warning(what: Callable[..., Any], text: str) -> Callable[..., Any]:
    """The same function, which warns when it is called."""

    @functools.wraps(what)
    def call(*positional: Any, **named: Any) -> Any:
        warnings.warn(text, RayDeprecationWarning, stacklevel=2)
        return what(*positional, **named)

    return call


__all__ = ["Deprecated", "DeveloperAPI", "PublicAPI", "RayDeprecationWarning"]
