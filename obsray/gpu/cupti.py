"""libcupti through ctypes: found, loaded, and as much of it as capturing needs.

Calls release the interpreter's lock. Every failure is a ``CuptiError`` that says what was asked and what came back;
capturing then does not take place.
"""

from __future__ import annotations

import ctypes
import glob
import importlib.util
import os
import re
from collections.abc import Iterator
from typing import Any

#: External correlation of kind CUSTOM0.
_CUSTOM0 = 3
_FLUSH_FORCED = 1
_SUBSCRIBED_BY_ANOTHER = 39
DRIVER_DOMAIN, RUNTIME_DOMAIN = 1, 2
#: Numbers of calls end before this one; CUDA 13 has some 800 and 500.
_CALLS_MAX = 1200
#: Calls that put work on a GPU or wait for it; their records say who launched what, and when.
_LAUNCHES = re.compile(r"cu(da)?(Launch|GraphLaunch|Memcpy|Memset|MemPrefetch)|cu(da)?\w+Synchronize")

_SUBSCRIBER = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32, ctypes.c_void_p)


class CuptiError(Exception):
    """Something CUPTI did not do; the text says what and why."""


class Cupti:
    """One loaded library."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._library = ctypes.CDLL(path)
        except OSError as error:
            raise CuptiError(f"{path} cannot be loaded: {error}") from None
        self.push_external = self._function("cuptiActivityPushExternalCorrelationId", ctypes.c_int, ctypes.c_uint64)
        self.pop_external = self._function(
            "cuptiActivityPopExternalCorrelationId", ctypes.c_int, ctypes.POINTER(ctypes.c_uint64)
        )
        self._flush = self._function("cuptiActivityFlushAll", ctypes.c_uint32)
        self._dropped = self._function(
            "cuptiActivityGetNumDroppedRecords", ctypes.c_void_p, ctypes.c_uint32, ctypes.POINTER(ctypes.c_size_t)
        )
        self._popped = ctypes.c_uint64()
        self._subscriber = ctypes.c_void_p()
        # The library keeps their addresses, so they must live as long as this object.
        self._kept: list[Any] = []

    def _function(self, name: str, *arguments: Any) -> Any:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise CuptiError(f"{self.path} has no {name}: it is too old") from None
        function.argtypes = arguments
        function.restype = ctypes.c_int
        return function

    def call(self, name: str, *arguments: Any) -> None:
        """Call by name. Raises CuptiError for anything but success."""
        result = self._function(name, *[type(argument) for argument in arguments])(*arguments)
        if result:
            raise CuptiError(f"{name} failed: {self._text(result)}")

    def _text(self, result: int) -> str:
        text = ctypes.c_char_p()
        try:
            self._function("cuptiGetResultString", ctypes.c_int, ctypes.POINTER(ctypes.c_char_p))(
                result, ctypes.byref(text)
            )
        except CuptiError:
            pass
        return f"{(text.value or b'error').decode()} ({result})"

    def version(self) -> int:
        """The version of the interface, which decides how records lie in memory."""
        found = ctypes.c_uint32()
        result = self._function("cuptiGetVersion", ctypes.POINTER(ctypes.c_uint32))(ctypes.byref(found))
        if result:
            raise CuptiError(f"cuptiGetVersion failed: {self._text(result)}")
        return found.value

    def subscribe(self) -> None:
        """Take the place of the one subscriber a process can have. Raises CuptiError if somebody has it."""
        callback = _SUBSCRIBER(_nothing)
        self._kept.append(callback)
        function = self._function("cuptiSubscribe", ctypes.POINTER(ctypes.c_void_p), _SUBSCRIBER, ctypes.c_void_p)
        result = function(ctypes.byref(self._subscriber), callback, None)
        if result == _SUBSCRIBED_BY_ANOTHER:
            raise CuptiError("another profiler (torch.profiler, nsys, ncu, ...) has subscribed in this process first")
        if result:
            raise CuptiError(f"cuptiSubscribe failed: {self._text(result)}")

    def unsubscribe(self) -> None:
        """Leave the place to others."""
        if self._subscriber.value:
            self.call("cuptiUnsubscribe", self._subscriber)
            self._subscriber = ctypes.c_void_p()

    def register(self, requested: int, completed: int) -> None:
        """Have buffers asked for and given back through the functions at these addresses."""
        self.call("cuptiActivityRegisterCallbacks", ctypes.c_void_p(requested), ctypes.c_void_p(completed))

    def enable(self, kind: int) -> None:
        self.call("cuptiActivityEnable", ctypes.c_int(kind))

    def disable(self, kind: int) -> None:
        self.call("cuptiActivityDisable", ctypes.c_int(kind))

    def can_choose_calls(self) -> bool:
        """Whether single calls can be recorded instead of all of them."""
        return hasattr(self._library, "cuptiActivityEnableRuntimeApi")

    def choose_call(self, domain: int, number: int, wanted: bool) -> None:
        """Record one call of an interface, or no longer."""
        name = "cuptiActivityEnableRuntimeApi" if domain == RUNTIME_DOMAIN else "cuptiActivityEnableDriverApi"
        self.call(name, ctypes.c_uint32(number), ctypes.c_uint8(wanted))

    def calls(self, domain: int) -> dict[int, str]:
        """The names of an interface's calls by number."""
        function = self._function(
            "cuptiGetCallbackName", ctypes.c_int, ctypes.c_uint32, ctypes.POINTER(ctypes.c_char_p)
        )
        found = {}
        text = ctypes.c_char_p()
        for number in range(1, _CALLS_MAX):
            if function(domain, number, ctypes.byref(text)) == 0 and text.value:
                found[number] = text.value.decode("utf-8", "replace")
        return found

    def flush(self, forced: bool = False) -> None:
        """Have buffers given back: those with finished work only, or all."""
        self._flush(_FLUSH_FORCED if forced else 0)

    def push(self, number: int) -> bool:
        """What this thread launches from now on carries ``number``."""
        return bool(self.push_external(_CUSTOM0, number) == 0)

    def pop(self) -> None:
        """... no longer."""
        self.pop_external(_CUSTOM0, ctypes.byref(self._popped))

    def dropped(self, context: int | None, stream: int) -> int:
        """How many records had no room since this was asked last."""
        count = ctypes.c_size_t()
        return count.value if self._dropped(context, stream, ctypes.byref(count)) == 0 else 0


def launches(calls: dict[int, str]) -> list[int]:
    """The numbers of calls that launch work or wait for it."""
    return [number for number, name in calls.items() if _LAUNCHES.match(name)]


def _nothing(*_: Any) -> None:
    """No callback is ever enabled; the subscription only holds the place."""


def find() -> list[str]:
    """Paths and names of libcupti to try, the likeliest first.

    What is loaded in this process; the pip wheel, which torch brings and links; a CUDA toolkit; the linker's path.
    """
    # One library has many names; each is tried once.
    files: dict[str, str] = {}
    for path in (*_loaded(), *_wheels(), *_toolkits()):
        files.setdefault(os.path.realpath(path), path)
    return [*files.values(), "libcupti.so", "libcupti.so.13", "libcupti.so.12"]


def _loaded() -> Iterator[str]:
    try:
        with open("/proc/self/maps") as maps:
            for line in maps:
                path = line.rpartition(" ")[2].strip()
                if "/libcupti.so" in path:
                    yield path
    except OSError:
        return


def _wheels() -> Iterator[str]:
    try:
        spec = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        spec = None
    for root in spec.submodule_search_locations or () if spec is not None else ():
        yield from sorted(glob.glob(os.path.join(root, "*", "lib", "libcupti.so*")), reverse=True)


def _toolkits() -> Iterator[str]:
    roots = [os.environ.get(name, "") for name in ("CUDA_HOME", "CUDA_PATH", "CUDA_ROOT")]
    roots += ["/usr/local/cuda", *sorted(glob.glob("/usr/local/cuda-*"), reverse=True), "/opt/cuda"]
    for root in filter(None, roots):
        for below in ("extras/CUPTI/lib64", "lib64", "targets/x86_64-linux/lib"):
            yield from sorted(glob.glob(os.path.join(root, below, "libcupti.so*")), key=len)
