"""Stacks of Python threads and coroutines as text, without the runtime's own frames.

A frame is one line, ``name (directory/file.py:line)``, a stack its frames from the outermost to the innermost.
"""

from __future__ import annotations

import gc
import os
import sys
from itertools import accumulate, chain, repeat, takewhile
from operator import attrgetter, call, methodcaller, truth
from types import CodeType
from typing import Any

#: Frames of one stack at most; of a deeper one the outermost and the innermost stay.
DEPTH_MAX = 80
_OUTERMOST_KEPT = 24
#: Stacks remembered with their text; more are looked at anew each time.
CACHED_MAX = 4096
PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
_CORE = PACKAGE + "core" + os.sep
_EXECUTORS = tuple(_CORE + f"runtime/{name}.py" for name in ("executor", "actor", "group_loop", "checkpoints"))
#: What a stack of a task says that is not in user code.
NOT_USER_CODE = "(obsray)"

Point = tuple[CodeType, int]


_WHERE = attrgetter("f_code", "f_lasti")
_WHERE_SUSPENDED = [(kind, attrgetter(f"{kind}_frame.f_code", f"{kind}_frame.f_lasti")) for kind in ("cr", "ag", "gi")]


def points_of(ident: int) -> list[Point]:
    """Where a thread is in each of its functions, innermost first; empty if there is no such thread.

    The whole walk is one call that runs no bytecode. Between two bytecodes the other thread may run and return from the
    functions whose frames are in hand; CPython 3.11 then follows freed memory, and the process dies of it.
    """
    frame = map(methodcaller("get", ident), map(call, (sys._current_frames,)))
    frames = takewhile(truth, accumulate(chain(frame, repeat("f_back")), getattr))
    return _in_one_go(map(_WHERE, frames))


def threads() -> list[int]:
    """The threads that run Python code, by their idents."""
    return _in_one_go(chain.from_iterable(map(call, (sys._current_frames,))))


def _in_one_go(values: Any) -> list[Any]:
    # A collection would run finalizers, which are bytecode.
    collects = gc.isenabled()
    if collects:
        gc.disable()
    try:
        return list(values)
    finally:
        if collects:
            gc.enable()


def points_of_awaiting(coroutine: Any) -> list[Point]:
    """Where a suspended coroutine is, and what it awaits, innermost first."""
    points: list[Point] = []
    while coroutine is not None and len(points) < 4 * DEPTH_MAX:
        for kind, where in _WHERE_SUSPENDED:
            try:
                points.append(where(coroutine))
            except AttributeError:
                continue
            coroutine = getattr(coroutine, f"{kind}_await", None) or getattr(coroutine, f"{kind}_yieldfrom", None)
            break
        else:
            break
    points.reverse()
    return points


class StackTexts:
    """From points to text, the same stack only once."""

    def __init__(self) -> None:
        # Keys are identities, which the values keep true by holding what they are identities of.
        self._known: dict[tuple[int, ...], tuple[str, list[Point]]] = {}

    def text(self, points: list[Point], task: bool) -> str:
        """The stack as text. ``task``: of a task, whose own code begins below ``call_user_code``."""
        key = (task, *(part for code, at in points for part in (id(code), at)))
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= CACHED_MAX:
                self._known.clear()
            known = self._known[key] = (_text(points, task), points)
        return known[0]


def _text(points: list[Point], task: bool) -> str:
    """Innermost first in, outermost first out."""
    own = points
    if task:
        for depth, (code, _) in enumerate(points):
            if code.co_filename in _EXECUTORS and code.co_name in ("call_user_code", "_run_async"):
                own = points[:depth]
                break
        else:
            return _phase(points)
        if not own:
            return NOT_USER_CODE
    inner = 0
    while inner < len(own) and own[inner][0].co_filename.startswith(_CORE):
        inner += 1
    # What the runtime does inside of a call of it is that call.
    own = own[max(0, inner - 1) :] if inner < len(own) else own
    lines = [_line(code, at) for code, at in reversed(own) if not code.co_filename.startswith("<frozen importlib")]
    if len(lines) > DEPTH_MAX:
        left_out = len(lines) - DEPTH_MAX
        innermost = DEPTH_MAX - _OUTERMOST_KEPT
        lines = [*lines[:_OUTERMOST_KEPT], f"({left_out} frames left out)", *lines[-innermost:]]
    return "\n".join(lines)


def _phase(points: list[Point]) -> str:
    """What the runtime does for a task before or after its own code: the outermost function that says it."""
    for depth, (code, _) in enumerate(points):
        if code.co_filename in _EXECUTORS and code.co_name in ("execute", "run", "start", "perform") and depth:
            return f"{NOT_USER_CODE} {points[depth - 1][0].co_name}"
    return NOT_USER_CODE


def _line(code: CodeType, at: int) -> str:
    line = code.co_firstlineno
    for start, end, number in code.co_lines():
        if start <= at < end:
            line = number or line
            break
    return f"{code.co_qualname} ({place_of(code.co_filename)}:{line})"


def place_of(path: str) -> str:
    """A file as a frame names it: with its directory, or what stands there of code that is in no file."""
    if path.startswith("<"):
        return path
    if path.startswith(PACKAGE):
        return "obsray/" + path[len(PACKAGE) :]
    _, installed, rest = path.rpartition("/site-packages/")
    return rest if installed else "/".join(path.split(os.sep)[-2:])
