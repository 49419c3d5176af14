"""Which part of a value keeps it from travelling to another process."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TextIO

from obsray.core.runtime.serialization import serialize

#: Elements of a container that are looked at.
_ELEMENTS_MAX = 1_000


class Failure(NamedTuple):
    """A value that cannot be pickled and contains nothing that explains it."""

    obj: Any
    name: str
    parent: Any

    def __repr__(self) -> str:
        return f"Failure({self.name}: {_shown(self.obj)}, inside {_shown(self.parent)})"


def inspect_serializability(
    base_obj: Any, name: str | None = None, depth: int = 3, print_file: TextIO | None = None
) -> tuple[bool, set[Failure]]:
    """Whether ``base_obj`` can be sent to another process, and the innermost parts that cannot.

    Looks ``depth`` levels into closures, globals that functions use, attributes and containers, and writes what it
    finds to ``print_file`` (stdout). Parts that cannot be hashed are kept as their text.
    """
    out = sys.stdout if print_file is None else print_file
    name = name or getattr(base_obj, "__qualname__", None) or type(base_obj).__qualname__
    failures: set[Failure] = set()
    if _error(base_obj) is None:
        print(f"{name} can be serialized", file=out)
        return True, failures
    _look_into(base_obj, name, None, depth, failures, set(), out)
    return False, failures


def _look_into(
    value: Any, name: str, parent: Any, depth: int, failures: set[Failure], seen: set[int], out: TextIO
) -> None:
    seen.add(id(value))
    error = _error(value)
    print(f"{name} cannot be serialized: {_shown(value)}: {error}", file=out)
    blamed = False
    if depth > 0:
        for part_name, part in _parts(value):
            if id(part) in seen:
                continue
            if _error(part) is not None:
                blamed = True
                _look_into(part, part_name, value, depth - 1, failures, seen, out)
    if not blamed:
        failures.add(Failure(_hashable(value), name, _hashable(parent)))


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if inspect.ismethod(value):
        yield f"self of {value.__name__}", value.__self__
        value = value.__func__
    if inspect.isfunction(value):
        used = inspect.getclosurevars(value)
        yield from used.nonlocals.items()
        yield from used.globals.items()
        yield from ((f"default {number}", each) for number, each in enumerate(value.__defaults__ or ()))
    elif isinstance(value, Mapping):
        for number, (key, each) in enumerate(value.items()):
            if number >= _ELEMENTS_MAX:
                return
            yield f"key {key!r}", key
            yield f"[{key!r}]", each
    elif isinstance(value, (list, tuple, set, frozenset)):
        for number, each in enumerate(value):
            if number >= _ELEMENTS_MAX:
                return
            yield f"[{number}]", each
    elif isinstance(value, type):
        yield from ((k, v) for k, v in vars(value).items() if not k.startswith("__") or k == "__init__")
    else:
        yield from getattr(value, "__dict__", {}).items()


def _error(value: Any) -> str | None:
    try:
        serialize(value)
    except Exception as error:
        cause = error.__cause__ or error
        return str(cause) or type(cause).__name__
    return None


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except Exception:
        text = object.__repr__(value)
    return text if len(text) <= 200 else text[:197] + "..."


def _hashable(value: Any) -> Any:
    try:
        hash(value)
    except TypeError:
        return _shown(value)
    return value


__all__ = ["Failure", "inspect_serializability"]
