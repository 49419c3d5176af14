"""Which part of a value keeps it from travelling to another process."""

from __future__ import annotations

import sys
from typing import Any, NamedTuple, TextIO

from obsray.core.runtime.culprit import parts
from obsray.core.runtime.serialization import serialize


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
        for part_name, part in parts(value):
            if id(part) in seen:
                continue
            if _error(part) is not None:
                blamed = True
                _look_into(part, part_name, value, depth - 1, failures, seen, out)
    if not blamed:
        failures.add(Failure(_hashable(value), name, _hashable(parent)))


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
