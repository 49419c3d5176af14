"""Ctrl-C and cancellation on the main thread: never inside the machines, soon, and not lost in a finalizer.

An exception that leaves a finalizer, a callback of a weak reference, or a generator that nobody wants any more, is only
told to ``sys.unraisablehook``; Python ignores it. If it is an interrupt, it is asked for again.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from obsray.core.runtime.session import current_or_none

_PACKAGE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))) + os.sep
#: Parts of the package that use the runtime as a user's program does: they hold nothing of it, and some wait long.
_LIKE_USERS = tuple(
    _PACKAGE + part
    for part in (
        "__init__",
        "autoscaler",
        "cli",
        "cluster_utils",
        "dashboard",
        "demo",
        "experimental",
        "testing",
        "util",
    )
)
#: Where Python imports.
_IMPORTS = "<frozen importlib._bootstrap>"

#: Whether an interrupt is being looked at just now: a second one is the same.
_looking = False
#: What ``hear_ignored`` put in the place of ``sys.unraisablehook``, and what was there.
_hooks: tuple[Any, Any] | None = None


def take_interrupts() -> None:
    """Have Ctrl-C end a blocked call soon without tearing the machines open, if Python's own handler is in place."""
    _take()
    cells = _cells()
    if cells is not None and _take not in cells.callbacks["pre_run_cell"]:
        # A notebook's kernel puts Python's own handler back before each cell.
        cells.register("pre_run_cell", _take)


def _take(*_: Any) -> None:
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, on_interrupt)
        if _hooks is None:
            hear_ignored(_ask_again)


def _cells() -> Any:
    """What IPython has called around its cells; None where there is no IPython."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return None if shell is None else shell.events


def restore_interrupts() -> None:
    """Undo ``take_interrupts``, unless the program has put a handler of its own there. Other threads cannot: the
    handler stays, and serves the next session."""
    cells = _cells()
    if cells is not None and _take in cells.callbacks["pre_run_cell"]:
        cells.unregister("pre_run_cell", _take)
    in_main = threading.current_thread() is threading.main_thread()
    if in_main and signal.getsignal(signal.SIGINT) is on_interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _stop_hearing()


def on_interrupt(number: int, frame: FrameType | None) -> None:
    """SIGINT on the main thread, whichever session this process has then: never inside the machines, always soon."""
    global _looking
    session = current_or_none()
    if session is None or session.closed:
        signal.default_int_handler(number, frame)
    if _looking:
        # The watcher asks again before this handler is through with the first: without an end, if that woke it again.
        session.interrupt_pending.append(None)
        return
    _looking = True
    try:
        if in_runtime(frame):
            session.interrupt_pending.append(None)
            session.reactor.wake()
            return
        session.interrupt_pending.clear()
    finally:
        _looking = False
    signal.default_int_handler(number, frame)


def in_runtime(frame: FrameType | None) -> bool:
    """Whether the innermost frames of a thread are the runtime's own (and must not be torn open by an exception)."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE) and not file.startswith(_LIKE_USERS):
            return frame.f_code.co_name != "call_user_code"
        if "threading.py" not in file and not file.startswith("<"):
            # Standard library frames may stand between; user code ends the search.
            module = frame.f_globals.get("__name__", "")
            if module not in sys.stdlib_module_names and module.partition(".")[0] not in sys.stdlib_module_names:
                return False
        frame = frame.f_back
    return False


def in_import(frame: FrameType | None) -> bool:
    """Whether a thread is importing something."""
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTS:
            return True
        frame = frame.f_back
    return False


def hear_ignored(again: Callable[[], bool]) -> None:
    """Have ``again`` called when Python ignores a KeyboardInterrupt of the main thread.

    It says whether the interrupt comes again; if not, and for all else that is ignored, the hook there was is called.
    """
    global _hooks
    before = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        ignored = unraisable.exc_type
        interrupted = issubclass(ignored, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
        if not (interrupted and again()):
            before(unraisable)

    _hooks = (hook, before)
    sys.unraisablehook = hook


def _stop_hearing() -> None:
    global _hooks
    if _hooks is not None and sys.unraisablehook is _hooks[0]:
        sys.unraisablehook = _hooks[1]
    _hooks = None


def _ask_again() -> bool:
    session = current_or_none()
    if session is None or session.closed:
        return False
    # The watcher sends it once more, when the finalizer is over.
    session.interrupt_pending.append(None)
    session.reactor.wake()
    return True
