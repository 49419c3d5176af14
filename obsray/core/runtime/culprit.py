"""Which part of a value keeps it from being pickled, as somebody who wrote the program would say it."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from obsray.core.runtime.bindings import names_in

#: Elements of a container that are looked at, how deep, and how often something is tried in all.
ELEMENTS_MAX = 1_000
_DEPTH_MAX = 12
_TRIES_MAX = 3_000


#: Ways to be pickled that take the attributes along.
_BY_STATE = (object.__reduce__, BaseException.__reduce__)


def parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What pickle would take along with ``value``, each with what it is called there."""
    if inspect.ismethod(value):
        yield f"self of {value.__name__}", value.__self__
        value = value.__func__
    if inspect.isfunction(value):
        yield from _used(value)
    elif isinstance(value, Mapping):
        for key, each in itertools.islice(value.items(), ELEMENTS_MAX):
            yield f"key {key!r}", key
            yield f"[{key!r}]", each
    elif isinstance(value, (list, tuple, set, frozenset)):
        for number, each in enumerate(itertools.islice(value, ELEMENTS_MAX)):
            yield f"[{number}]", each
    elif isinstance(value, type):
        yield from ((k, v) for k, v in vars(value).items() if not k.startswith("__") or k == "__init__")
    else:
        yield from _state(value)


def _used(function: Any) -> Iterator[tuple[str, Any]]:
    """Variables of enclosing functions and of the module that a function uses, and its defaults."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:
            continue
    names = sorted(names_in(function.__code__) & function.__globals__.keys())
    yield from ((name, function.__globals__[name]) for name in names)
    yield from ((f"default {number}", each) for number, each in enumerate(function.__defaults__ or ()))
    yield from ((f"default {name!r}", each) for name, each in (function.__kwdefaults__ or {}).items())


def _state(value: Any) -> Iterator[tuple[str, Any]]:
    cls: Any = type(value)
    if cls.__reduce_ex__ is not object.__reduce_ex__ or cls.__reduce__ not in _BY_STATE:
        # What it is made of is its own secret; it is to blame itself.
        return
    try:
        state = value.__getstate__()
    except Exception:
        state = getattr(value, "__dict__", None)
    for each in state if isinstance(state, tuple) else (state,):
        if isinstance(each, Mapping):
            yield from each.items()
        elif each is not None:
            yield "state", each


def _joined(value: Any, name: str, part: str) -> str:
    """``part`` of ``value``, which is called ``name``."""
    if inspect.isroutine(value):
        what = part if part.startswith(("default ", "self ")) else f"variable {part!r}"
        return f"{what} used by {name}"
    if part.startswith("["):
        return name + part
    if part.startswith(("key ", "state")):
        return f"{part} of {name}"
    return f"{name}.{part}"


def blame(value: Any, name: str, fails: Callable[[Any], bool]) -> tuple[str, Any]:
    """The innermost part that ``fails``, and what to call it, for a value called ``name`` that does."""
    seen = {id(value)}
    tries = 0
    for _ in range(_DEPTH_MAX):
        for part_name, part in parts(value):
            tries += 1
            if tries > _TRIES_MAX:
                return name, value
            if id(part) in seen or inspect.ismodule(part) or not fails(part):
                continue
            seen.add(id(part))
            name, value = _joined(value, name, part_name), part
            break
        else:
            break
    return name, value
