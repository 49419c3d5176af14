"""What functions and classes of ``__main__`` refer to by name, so that somebody who types can define it anew.

Code travels together with the globals that it uses, as they were when it was pickled. In a script that is once; at a
prompt or in a notebook, where people redefine things between calls, each call looks whether a name means something
else by now.
"""

from __future__ import annotations

import inspect
import sys
from types import CodeType, ModuleType
from typing import Any


def interactive() -> bool:
    """Whether somebody types into this process: a prompt, ``python -i``, IPython, a notebook."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive)


def names_in(code: CodeType) -> set[str]:
    """The global names and attributes that code mentions, also in the functions inside it."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= names_in(constant)
    return found


class Bindings:
    """The globals of ``__main__`` that something uses, directly or through other things defined there."""

    def __init__(self, thing: Any) -> None:
        self._globals: dict[str, Any] = getattr(sys.modules.get("__main__"), "__dict__", {})
        self._bound: dict[str, Any] = {}
        self._look(thing, set())

    def changed(self) -> bool:
        """Whether one of the names means something else by now."""
        present = self._globals
        return any(present.get(name, self) is not value for name, value in self._bound.items())

    def _look(self, thing: Any, seen: set[int]) -> None:
        if id(thing) in seen or isinstance(thing, ModuleType):
            return
        seen.add(id(thing))
        if inspect.isfunction(thing):
            if thing.__globals__ is self._globals:
                for name in names_in(thing.__code__) & self._globals.keys():
                    self._bound[name] = self._globals[name]
                    self._look(self._globals[name], seen)
            for cell in thing.__closure__ or ():
                try:
                    self._look(cell.cell_contents, seen)
                except ValueError:
                    # A variable that has no value yet.
                    continue
        elif isinstance(thing, type):
            if thing.__module__ == "__main__":
                for part in (*vars(thing).values(), *thing.__bases__):
                    self._look(part, seen)
        elif isinstance(thing, (staticmethod, classmethod)):
            self._look(thing.__func__, seen)
        elif isinstance(thing, property):
            for function in (thing.fget, thing.fset, thing.fdel):
                self._look(function, seen)
        else:
            # Remote functions and actor classes.
            for name in ("_function", "_class"):
                self._look(getattr(thing, "__dict__", {}).get(name), seen)
