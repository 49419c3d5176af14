"""Values, functions and errors as bytes, and back.

A serialized value is one of three kinds, told by its first byte:

====  =====================================================================================================
0x80  a pickle stream (protocol 2 and later begin so): no out-of-band buffers
0x01  pickle with out-of-band buffers: count I | pickle bytes Q | count x (offset Q, bytes Q) | pickle | buffers,
      each buffer aligned to ``ALIGN_BYTES``, large ones to ``PAGE_BYTES``, so that arrays read from shared memory
      are aligned
0x02  an error: the pickle of a RayError, raised by whoever reads the value
====  =====================================================================================================

Plain values take a fast path through the C pickler. Everything else goes through cloudpickle, which takes functions
and classes of ``__main__`` and of closures by value. References found inside a value are collected, because whoever
keeps the value must keep what it refers to.
"""

from __future__ import annotations

import io
import pickle
import sys
import threading
from collections import ChainMap
from collections.abc import Callable
from struct import Struct
from types import CodeType
from typing import Any

import cloudpickle

from obsray.causes import CUSTOM, users, users_frames, with_sources
from obsray.core.runtime.bindings import interactive
from obsray.errors import RayError, RayTaskError, kept_from_running

ALIGN_BYTES = 64
#: A buffer of so many bytes begins on a page. Large arrays begin 16 bytes behind the begin of one, and where the copy's
#: begin lies a little further in its page than the original's, each load seems to the processor to want the store just
#: before it (4K aliasing): measured for 800 MB on an AMD EPYC 4 GB/s, and 16 GB/s on a page.
PAGED_BYTES_MIN = 1 << 20
PAGE_BYTES = 4096
KIND_BUFFERS = 0x01
KIND_ERROR = 0x02
#: Second byte of an error that others have failed with that needed the value; no pickle begins with it.
_NEEDED = 0x00
_NAMES = Struct("<I")
#: How many of them are named.
NEEDING_MAX = 20
_PREFIX = Struct("<B3xIQ")
_BUFFER = Struct("<QQ")
PICKLE_PROTOCOL = 5

#: Types whose pickles refer to nothing and mean the same in every process.
NUMBERS = frozenset({int, float, bool, type(None), complex})
PLAIN = NUMBERS | {str, bytes}


class _Collector(threading.local):
    """Where references report while a value is being pickled on this thread."""

    references: list[bytes] | None = None


collector = _Collector()


class Serialized:
    """A value ready to be written somewhere: ``pickled`` and its out-of-band ``buffers``.

    ``size``: bytes it takes when written. ``references``: ids of the object references inside it.
    """

    __slots__ = ("buffers", "offsets", "pickled", "references", "size")

    def __init__(self, pickled: bytes, buffers: list[memoryview], references: list[bytes]) -> None:
        self.pickled = pickled
        self.buffers = buffers
        self.references = references
        self.offsets: list[int] = []
        if not buffers:
            self.size = len(pickled)
            return
        end = _PREFIX.size + _BUFFER.size * len(buffers) + len(pickled)
        for buffer in buffers:
            unit = ALIGN_BYTES if buffer.nbytes < PAGED_BYTES_MIN else PAGE_BYTES
            end = -(-end // unit) * unit
            self.offsets.append(end)
            end += buffer.nbytes
        self.size = end

    def write_into(self, target: memoryview) -> None:
        """Write all ``size`` bytes to the front of ``target``."""
        if not self.buffers:
            target[: self.size] = self.pickled
            return
        _PREFIX.pack_into(target, 0, KIND_BUFFERS, len(self.buffers), len(self.pickled))
        at = _PREFIX.size
        for buffer, offset in zip(self.buffers, self.offsets, strict=True):
            _BUFFER.pack_into(target, at, offset, buffer.nbytes)
            at += _BUFFER.size
        target[at : at + len(self.pickled)] = self.pickled
        for buffer, offset in zip(self.buffers, self.offsets, strict=True):
            target[offset : offset + buffer.nbytes] = buffer

    def to_bytes(self) -> bytes:
        """The same as one bytes object, for values that travel inside messages."""
        if not self.buffers:
            return self.pickled
        data = bytearray(self.size)
        self.write_into(memoryview(data))
        return bytes(data)


#: What some versions of cloudpickle write in place of the name of the file that code came from.
_NAMELESS = "<dynamic-code>"


def _reduce_code(code: CodeType) -> Any:
    """As cloudpickle does it, but with the file's name: the traceback of an error shall lead to the user's line."""
    build, parts = _CLOUDPICKLE_TABLE[CodeType](code)
    return build, tuple(code.co_filename if part == _NAMELESS else part for part in parts)


_CLOUDPICKLE_TABLE = cloudpickle.Pickler.dispatch_table


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    dispatch_table = ChainMap({CodeType: _reduce_code}, _CLOUDPICKLE_TABLE)

    def reducer_override(self, obj: Any) -> Any:
        if CUSTOM:
            functions = CUSTOM.get(type(obj))
            if functions is not None:
                return _rebuild_custom, (functions[1], functions[0](obj))
        return super().reducer_override(obj)


def _rebuild_custom(deserializer: Callable[[Any], Any], state: Any) -> Any:
    return deserializer(state)


#: What the pickling of a value may raise without that being an error of the code that it runs.
_UNFIT = (pickle.PicklingError, TypeError, AttributeError, RecursionError, NotImplementedError, ValueError)


def serialize(value: Any, name: str = "") -> Serialized:
    """Pickle ``value``, which errors call ``name``. Raises TypeError if it cannot be pickled, naming what could not."""
    if type(value) in PLAIN:
        return Serialized(pickle.dumps(value, PICKLE_PROTOCOL), [], [])
    buffers: list[pickle.PickleBuffer] = []
    references: list[bytes] = []
    before, collector.references = collector.references, references
    try:
        numpy = sys.modules.get("numpy")
        if numpy is not None and type(value) is numpy.ndarray and not value.dtype.hasobject:
            pickled = pickle.dumps(value, PICKLE_PROTOCOL, buffer_callback=buffers.append)
        else:
            stream = io.BytesIO()
            _Pickler(stream, protocol=PICKLE_PROTOCOL, buffer_callback=buffers.append).dump(value)
            pickled = stream.getvalue()
    except RayError:
        raise
    except _UNFIT as error:
        # What the pickler itself says is in the text; what the user's own code raised keeps its traceback.
        told = None if users_frames(error.__traceback__, _outside) is None else error
        raise TypeError(_explain(value, name, error)) from told
    finally:
        collector.references = before
    return Serialized(pickled, [buffer.raw() for buffer in buffers], references)


def _outside(filename: str) -> bool:
    return users(filename) and filename != pickle.__file__


def _fails(value: Any) -> bool:
    if type(value) in PLAIN:
        return False
    try:
        _Pickler(io.BytesIO(), protocol=PICKLE_PROTOCOL, buffer_callback=lambda _: None).dump(value)
    except Exception:
        return True
    return False


def _explain(value: Any, name: str, error: BaseException) -> str:
    from obsray.core.runtime.culprit import blame

    name = name or getattr(value, "__qualname__", "") or f"a {type(value).__qualname__!r}"
    text = (str(error).strip() or type(error).__name__).rstrip(".")
    if isinstance(error, RecursionError) or isinstance(error.__cause__, RecursionError):
        return f"cannot send {name} to another process: it is nested too deeply to be pickled; send it in a flat form"
    where, part = blame(value, name, _fails)
    cls = type(part)
    kind = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    what = f"{where} is a {kind!r}" if part is not value else text
    if part is not value and not text.startswith("cannot pickle"):
        what += f" ({text})"
    return (
        f"cannot send {name} to another process: {what}. Locks, sockets, generators, threads and open files cannot "
        "travel: make them where they are used, or leave them out of the pickle (__getstate__)"
    )


def deserialize(data: bytes | memoryview) -> Any:
    """The value. Raises the error if ``data`` is one."""
    kind = data[0]
    if kind == 0x80:
        return pickle.loads(data)
    if kind == KIND_BUFFERS:
        view = memoryview(data)
        _, count, size = _PREFIX.unpack_from(view, 0)
        at = _PREFIX.size
        buffers = []
        for _ in range(count):
            offset, length = _BUFFER.unpack_from(view, at)
            buffers.append(view[offset : offset + length])
            at += _BUFFER.size
        return pickle.loads(view[at : at + size], buffers=buffers)
    if kind == KIND_ERROR:
        raise load_error(data)
    raise ValueError(f"not a serialized value: it begins with {kind:#x}")


def is_error(data: bytes | memoryview) -> bool:
    """Whether reading ``data`` would raise."""
    return data[0] == KIND_ERROR


def dump_error(error: BaseException) -> bytes:
    """An error of the runtime or of user code (wrapped in RayTaskError by the caller) as a value."""
    try:
        return bytes([KIND_ERROR]) + pickle.dumps(error, PICKLE_PROTOCOL)
    except Exception:
        plain = RayError(f"{type(error).__name__}: {error}")
        return bytes([KIND_ERROR]) + pickle.dumps(plain, PICKLE_PROTOCOL)


def needed_by(data: bytes, who: str) -> bytes:
    """An error as a value that ``who`` needed as well, and so did not run. Nothing of the user's is unpickled."""
    needing, inner = _needing(data)
    if len(needing) < NEEDING_MAX:
        needing = (*needing, who)
    elif needing[-1] != "...":
        needing = (*needing, "...")
    names = pickle.dumps(needing, PICKLE_PROTOCOL)
    return bytes([KIND_ERROR, _NEEDED]) + _NAMES.pack(len(names)) + names + inner


def _needing(data: bytes | memoryview) -> tuple[tuple[str, ...], bytes]:
    if data[1] != _NEEDED:
        return (), bytes(data)
    (size,) = _NAMES.unpack_from(data, 2)
    at = 2 + _NAMES.size
    return pickle.loads(data[at : at + size]), bytes(data[at + size :])


def load_error(data: bytes | memoryview) -> BaseException:
    """The error inside a value, as it should be raised here."""
    needing, data = _needing(data)
    error = pickle.loads(memoryview(data)[1:])
    if needing and isinstance(error, RayError):
        error = kept_from_running(error, needing)
    if isinstance(error, RayTaskError):
        if interactive():
            error.traceback_str = with_sources(error.traceback_str)
        return error.as_instanceof_cause()
    if isinstance(error, BaseException):
        return error
    return RayError(f"an error that is not an exception: {error!r}")


def dump_function(function: Any) -> bytes:
    """A function or class by value where it must be. Raises TypeError if its closure cannot travel."""
    serialized = serialize(function)
    return serialized.to_bytes()
