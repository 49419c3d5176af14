"""Which line of user code made a value: looked up once per line, a number from then on."""

from __future__ import annotations

import os
import sys
from types import CodeType
from typing import Any

#: Lines of code that are told apart; what comes later is told as unknown.
SITES_MAX = 10_000
_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
#: What stands between user code and a value.
_OURS = (os.path.join(_PACKAGE, "core") + os.sep, os.path.join(_PACKAGE, "util") + os.sep)


class CallSites:
    """The lines that one process has seen, as numbers of interned text."""

    def __init__(self, emitter: Any) -> None:
        self._emitter = emitter
        self._numbers: dict[tuple[CodeType, int], int] = {}
        self._is_ours: dict[str, bool] = {}

    def here(self) -> int:
        """The number of the line of user code that called us; 0 if there is none."""
        frame = sys._getframe(1)
        while frame is not None:
            file = frame.f_code.co_filename
            ours = self._is_ours.get(file)
            if ours is None:
                ours = self._is_ours[file] = file.startswith(_OURS)
            if not ours:
                break
            frame = frame.f_back  # type: ignore[assignment]
        else:
            return 0
        key = frame.f_code, frame.f_lasti
        number = self._numbers.get(key)
        if number is None:
            if len(self._numbers) >= SITES_MAX:
                return 0
            number = self._numbers[key] = self._emitter.intern(_shown(frame.f_code, frame.f_lineno))
        return number


def _shown(code: CodeType, line: int) -> str:
    path = code.co_filename
    near = os.path.relpath(path) if os.path.isabs(path) else path
    name = code.co_qualname if sys.version_info >= (3, 11) else code.co_name
    where = "" if name == "<module>" else f" in {name}"
    return f"{path if near.startswith('..') else near}:{line}{where}"
