"""Exceptions of user code on their way to whoever asked for the result: as bytes, as text, and as a class that is both
theirs and ours.
"""

from __future__ import annotations

import contextlib
import linecache
import pickle
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

#: A longer text of an error keeps its beginning and its end.
TEXT_MAX = 100_000
_HERE = __file__.rpartition("causes")[0]
#: Where frames come from that are not the user's.
INSIDE = (_HERE + "core/", _HERE + "util/")
_PICKLER = "cloudpickle/cloudpickle"
#: How the line of an exception begins in its text.
_EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(\([\w.]+\))?(: |$)")
_FRAME = re.compile(r'( *)File "([^"]+)", line (\d+), in ')
#: What whoever waits for the result would take for an end of his own.
_ENDS = (SystemExit, KeyboardInterrupt, GeneratorExit)
#: Class -> (serializer, deserializer), set by ``obsray.util.register_serializer``; for values of all kinds.
CUSTOM: dict[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {}
#: User's exception class -> class that is both. Grows with the number of exception classes a program uses.
_BOTH: dict[type, type] = {}


def dump_exception(error: BaseException | None) -> bytes:
    """An exception as bytes: its text and, if it can be pickled, itself. b"" for None.

    One that cannot be rebuilt as it is (a constructor that wants other arguments, an attribute that cannot be
    pickled) loses what is in the way, so that ``except`` clauses for its class still catch it.
    """
    return b"" if error is None else pickle.dumps((_text_of(error), _pickled(error)))


def _pickled(error: BaseException) -> bytes:
    import cloudpickle

    if type(error) in CUSTOM:
        with contextlib.suppress(Exception):
            return _as_its_user_says(error)
    # Tracebacks do not pickle; the cause and context chain is in the text already.
    if _travels(error):
        data: bytes = cloudpickle.dumps(error)
        return data
    try:
        arguments = tuple(value if _travels(value) else _text(value) for value in error.args)
        state = {name: value for name, value in vars(error).items() if _travels(value)}
        data = cloudpickle.dumps(_Bare(type(error), arguments, state))
        pickle.loads(data)
        return data
    except Exception:
        return b""


def _as_its_user_says(error: BaseException) -> bytes:
    import cloudpickle

    serializer, deserializer = CUSTOM[type(error)]
    data: bytes = cloudpickle.dumps(_Custom(deserializer, serializer(error)))
    pickle.loads(data)
    return data


def load_exception(data: bytes) -> BaseException | str | None:
    """The exception that ``dump_exception`` wrote, or its text if it cannot be rebuilt here; None for b""."""
    if not data:
        return None
    text: str
    text, pickled = pickle.loads(data)
    try:
        error = pickle.loads(pickled)
    except Exception:
        return text
    return error if isinstance(error, BaseException) else text


def _text_of(error: BaseException) -> str:
    try:
        text = "".join(traceback.format_exception_only(error)).strip()
    except Exception:
        return type(error).__name__
    return text if len(text) <= TEXT_MAX else text[:TEXT_MAX]


class _Custom:
    """Something that is rebuilt by a function of the user's."""

    def __init__(self, deserializer: Callable[[Any], Any], state: Any) -> None:
        self.deserializer, self.state = deserializer, state

    def __reduce__(self) -> tuple[Any, ...]:
        return self.deserializer, (self.state,)


class _Bare:
    """An exception that is rebuilt without a call of its constructor."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_bare, self.parts


def _rebuild_bare(cls: type[BaseException], arguments: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error: BaseException = _built_in(cls).__new__(cls, *arguments)
    error.args = arguments
    error.__dict__.update(state)
    return error


def _travels(value: Any) -> bool:
    import cloudpickle

    try:
        pickle.loads(cloudpickle.dumps(value))
    except Exception:
        return False
    return True


def _text(value: Any) -> str:
    try:
        return repr(value)
    except Exception:
        return object.__repr__(value)


def _built_in(cls: type) -> Any:
    return next(base for base in cls.__mro__ if base.__module__ == "builtins")


def combined(ours: type[BaseException], cause: BaseException) -> BaseException | None:
    """An empty instance of a class that is ``ours`` and the class of ``cause``, with what Python itself keeps in such
    exceptions (``errno``, ``value``, ``exceptions`` ...); None if there cannot be one.

    Exceptions that end a program, a generator or a coroutine (SystemExit, KeyboardInterrupt, GeneratorExit,
    CancelledError) are not combined: the task's end is not the caller's.
    """
    cls = type(cause)
    # asyncio.CancelledError by where it is from: asyncio is not imported for it.
    if isinstance(cause, _ENDS) or cls.__module__ == "asyncio.exceptions" or issubclass(ours, cls):
        return None
    try:
        both = _BOTH.get(cls)
        if both is None:
            both = _BOTH[cls] = type(f"{ours.__name__}({cls.__name__})", (ours, cls), {"__module__": ours.__module__})
        base = _built_in(cls)
        error: BaseException = base.__new__(both, *cause.args)
        # Its arguments as Python itself would pickle it: those that the fields in C come from.
        base.__init__(error, *base.__reduce__(cause)[1])
    except (TypeError, ValueError, AttributeError):
        # Some classes cannot be combined with another: their layout or __new__ forbids it.
        return None
    return error


# --- as text ---------------------------------------------------------------------------------------------------------


def users(filename: str) -> bool:
    """Whether a frame of this file is the user's and not of the runtime's inside."""
    return not filename.startswith(INSIDE) and _PICKLER not in filename


def _links(told: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    waiting = [told]
    while waiting:
        link = waiting.pop()
        yield link
        waiting += [each for each in (link.__cause__, link.__context__) if each is not None]
        waiting += link.exceptions or ()


def format_user_traceback(error: BaseException) -> str:
    """The traceback as the user would see it at home: without the frames of the runtime's inside.

    Causes, contexts and members of groups are included. An exception whose ``__str__`` raises is named by its class.
    """
    trace = error.__traceback__
    try:
        told = traceback.TracebackException(type(error), error, trace)
        for link in _links(told):
            link.stack[:] = [frame for frame in link.stack if users(frame.filename)]
        text = "".join(told.format())
    except Exception:
        text = "".join(traceback.format_tb(trace)) + f"{type(error).__name__}: <its text cannot be shown>\n"
    if len(text) > TEXT_MAX:
        text = f"{text[: TEXT_MAX // 2]}\n... {len(text) - TEXT_MAX} characters ...\n{text[-TEXT_MAX // 2 :]}"
    return text


def with_sources(text: str) -> str:
    """A traceback with the lines that only this process knows: those of a prompt's or a notebook's cells."""
    found: list[str] = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        found.append(line)
        frame = _FRAME.match(line)
        following = lines[number + 1] if number + 1 < len(lines) else ""
        if frame is not None and not following.startswith(frame[1] + "  "):
            source = linecache.getline(frame[2], int(frame[3])).strip()
            if source:
                found.append(f"{frame[1]}  {source}")
    return "\n".join(found)


def users_frames(trace: TracebackType | None, wanted: Callable[[str], bool] = users) -> TracebackType | None:
    """A traceback without the frames of the runtime; the given one stays as it is."""
    kept = []
    while trace is not None:
        if wanted(trace.tb_frame.f_code.co_filename):
            kept.append(trace)
        trace = trace.tb_next
    found: TracebackType | None = None
    for each in reversed(kept):
        # An interrupt may hit an instruction that belongs to no line.
        line = -1 if each.tb_lineno is None else each.tb_lineno
        found = TracebackType(found, each.tb_frame, each.tb_lasti, line)
    return found


def rendered(error: BaseException) -> list[str]:
    """The lines of an uncaught error for a notebook: from the user's cell on, without frames of the runtime."""
    trace = users_frames(error.__traceback__, lambda filename: users(filename) and not _notebook(filename))
    return "".join(traceback.format_exception(type(error), error, trace)).splitlines()


def rendered_now() -> list[str]:
    """``rendered``, of the error that is being handled."""
    error = sys.exception()
    return [] if error is None else rendered(error)


def _notebook(filename: str) -> bool:
    return "/IPython/" in filename or "/ipykernel/" in filename


def gist(error: str) -> str:
    """The one line of an error's text that says most: of a traceback the exception, else the first line."""
    lines = [line for line in error.splitlines() if line.strip()]
    if "Traceback (most recent call last):" not in error:
        return lines[0] if lines else ""
    outer = [line for line in lines if line[0] != " " and not line.startswith("trace ")]
    named = [line for line in outer if _EXCEPTION.match(line)]
    return (named or outer or lines)[-1]
