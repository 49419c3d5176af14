"""Folded tables as bytes and back: what one reader has folded, another need not fold again.

Plain values go into JSON, arrays beside it, compressed and each with its checksum. Nothing is unpickled and no class is
looked up by its name: objects are of ``CLASSES``. What is shared between tables is shared again afterwards.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections import Counter, deque
from typing import Any

import numpy as np
import pyarrow as pa

from obsray.chaos import Fault
from obsray.telemetry.columns import Array, Columns, Texts
from obsray.telemetry.events import BY_NAME
from obsray.telemetry.gpu_work import Reservation
from obsray.telemetry.objects import ObjectIndex
from obsray.telemetry.processes import Unplaced
from obsray.telemetry.samples import CollectorCost, PerSecond
from obsray.telemetry.table import DenseIndex, Grid, HashIndex

#: What tables are made of, besides plain values and arrays.
CLASSES: dict[str, type[Any]] = {
    each.__name__: each
    for each in (DenseIndex, HashIndex, Grid, ObjectIndex, PerSecond, CollectorCost, Reservation, Unplaced)
}
ENUMERATIONS: dict[type[Any], str] = {Fault: "Fault"}
#: Attributes of tables that follow from others, are code, or belong to one reader.
_UNKEPT = frozenset({"texts", "_folds", "_marks", "_directory", "_mapped"})
MAGIC = b"obsfold1"
_HEAD = struct.Struct("<8sQI")
#: In the place of where an array lies: all its values are this one.
_SAME = "same"
_PLAIN = (type(None), bool, int, float, str)


class Unfreezable(TypeError):
    """There is something in a table that is not known here."""


class Damaged(ValueError):
    """These bytes are not what was written."""


def freeze(tables: dict[str, Any], texts: Texts, facts: Any) -> list[bytes | pa.Buffer]:
    """``tables`` (by name) and ``facts`` (as JSON) as pieces of bytes. Raises Unfreezable."""
    writer = _Writer(texts)
    frozen = {name: writer.attributes(table) for name, table in tables.items()}
    head = {
        "facts": facts, "texts": texts.texts, "tables": frozen, "nodes": writer.nodes, "arrays": writer.arrays,
    }  # fmt: skip
    data = json.dumps(head, separators=(",", ":")).encode()
    return [_HEAD.pack(MAGIC, len(data), zlib.crc32(data)), data, *writer.pieces]


def facts_of(data: memoryview) -> tuple[Any, dict[str, Any]]:
    """The facts, and what ``thaw`` wants. Raises Damaged."""
    if len(data) < _HEAD.size:
        raise Damaged("too short")
    magic, size, checksum = _HEAD.unpack_from(data)
    text = data[_HEAD.size : _HEAD.size + size]
    if magic != MAGIC or len(text) != size or zlib.crc32(text) != checksum:
        raise Damaged("the head is not what was written")
    head = json.loads(bytes(text))
    return head["facts"], head


def thaw(head: dict[str, Any], data: memoryview, tables: dict[str, Any], texts: Texts) -> None:
    """Fill fresh tables. Raises Damaged, and leaves all as they were then."""
    known: list[str] = head["texts"]
    if known[: len(texts)] != texts.texts or head["tables"].keys() != tables.keys():
        raise Damaged("made of other tables")
    size = _HEAD.unpack_from(data)[1]
    try:
        reader = _Reader(head, data[_HEAD.size + size :], texts)
        filled = {name: reader.attributes(values) for name, values in head["tables"].items()}
    except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
        raise Damaged(repr(error)) from None
    texts.codes(known[len(texts) :])
    for name, values in filled.items():
        vars(tables[name]).update(values)


class _Writer:
    """Values to JSON. What may be shared goes to ``nodes`` and stands elsewhere as its number there."""

    def __init__(self, texts: Texts) -> None:
        self.nodes: list[Any] = []
        self.arrays: list[Any] = []
        self.pieces: list[bytes | pa.Buffer] = []
        self._texts = texts
        self._numbers: dict[int, Any] = {}
        #: So that no id is used twice while we look.
        self._alive: list[Any] = []
        self._codec = pa.Codec("lz4")
        self._offset = 0

    def attributes(self, thing: Any) -> dict[str, Any]:
        names = vars(thing) if hasattr(thing, "__dict__") else type(thing).__slots__
        values = {name: getattr(thing, name) for name in names if name not in _UNKEPT}
        if type(thing) is Grid:
            # Without the room for more.
            values["_arrays"] = {name: thing[name] for name in thing.spec}
        return {name: self.value(value) for name, value in values.items()}

    def value(self, value: Any) -> Any:
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is bytes:
            return {"b": value.hex()}
        if kind is tuple:
            return {"t": [self.value(each) for each in value]}
        if isinstance(value, np.generic):
            return {"n": [value.dtype.str, value.tobytes().hex()]}
        if kind in ENUMERATIONS:
            return {"e": [ENUMERATIONS[kind], int(value)]}
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self.nodes)
            self._alive.append(value)
            self.nodes.append(None)
            self.nodes[number] = self._node(value)
        return {"@": number}

    def _node(self, value: Any) -> list[Any]:
        kind = type(value)
        if kind is dict or kind is Counter:
            name = "d" if kind is dict else "C"
            if all(type(key) is str for key in value):
                return [name, {key: self.value(each) for key, each in value.items()}]
            return [name, [[self.value(key), self.value(each)] for key, each in value.items()]]
        if kind is list or kind is set or kind is deque:
            name = {list: "l", set: "s", deque: "q"}[kind]
            # In one order, so that the same tables are the same bytes.
            things = sorted(value, key=repr) if kind is set else value
            return [name, [self.value(each) for each in things], getattr(value, "maxlen", None)]
        if kind is np.ndarray:
            return ["a", self._array(value)]
        if kind is Columns:
            return ["c", value.event.name, {name: self.value(array) for name, array in value.arrays.items()}]
        if CLASSES.get(kind.__name__) is kind:
            return ["o", kind.__name__, self.attributes(value)]
        raise Unfreezable(f"{kind.__module__}.{kind.__qualname__}")

    def _array(self, values: Array) -> int:
        if values.dtype.hasobject or (values.ndim != 1 and values.size):
            raise Unfreezable(f"an array of {values.dtype} with {values.ndim} dimensions")
        kind = values.dtype.str if values.dtype.names is None else [list(field) for field in values.dtype.descr]
        # First bytes of all, then second bytes: half as much when compressed.
        rows = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), values.dtype.itemsize)
        turned = np.ascontiguousarray(rows.T)
        if len(values) and (turned == turned[:, :1]).all():
            self.arrays.append([kind, len(values), _SAME, turned[:, 0].tobytes().hex()])
        else:
            packed = self._codec.compress(turned)
            self.arrays.append([kind, len(values), self._offset, packed.size, zlib.crc32(packed)])
            self.pieces.append(packed)
            self._offset += packed.size
        return len(self.arrays) - 1


class _Reader:
    """JSON to values."""

    def __init__(self, head: dict[str, Any], data: memoryview, texts: Texts) -> None:
        self._nodes, self._arrays, self._data, self._texts = head["nodes"], head["arrays"], data, texts
        self._made: dict[int, Any] = {}
        self._codec = pa.Codec("lz4")

    def attributes(self, values: dict[str, Any]) -> dict[str, Any]:
        return {name: self.value(value) for name, value in values.items()}

    def value(self, value: Any) -> Any:
        if type(value) is not dict:
            return value
        ((kind, inner),) = value.items()
        if kind == "b":
            return bytes.fromhex(inner)
        if kind == "t":
            return tuple(self.value(each) for each in inner)
        if kind == "n":
            return np.frombuffer(bytes.fromhex(inner[1]), np.dtype(inner[0]))[0]
        if kind == "e":
            return next(each for each, name in ENUMERATIONS.items() if name == inner[0])(inner[1])
        if kind != "@":
            raise ValueError(f"no kind of value: {kind}")
        made = self._made.get(inner)
        return self._make(inner) if made is None else made

    def _make(self, number: int) -> Any:
        kind, inner, *more = self._nodes[number]
        made: Any
        # Kept before it is filled: it may hold itself.
        if kind == "d" or kind == "C":
            made = self._made[number] = {} if kind == "d" else Counter()
            pairs = inner.items() if type(inner) is dict else ((self.value(key), each) for key, each in inner)
            for key, each in pairs:
                made[key] = self.value(each)
        elif kind == "l" or kind == "q":
            made = self._made[number] = [] if kind == "l" else deque(maxlen=more[0])
            made.extend(self.value(each) for each in inner)
        elif kind == "s":
            made = self._made[number] = set()
            made.update(self.value(each) for each in inner)
        elif kind == "a":
            made = self._made[number] = self._array(*self._arrays[inner])
        elif kind == "c":
            made = self._made[number] = Columns(BY_NAME[inner], self.attributes(more[0]))
        elif kind == "o":
            made = self._made[number] = object.__new__(CLASSES[inner])
            for name, each in more[0].items():
                setattr(made, name, self.value(each))
        else:
            raise ValueError(f"no kind of thing: {kind}")
        return made

    def _array(self, kind: Any, count: int, offset: Any, *stored: Any) -> Array:
        dtype = np.dtype(kind if isinstance(kind, str) else [tuple(field) for field in kind])
        if offset == _SAME:
            one = np.frombuffer(bytes.fromhex(stored[0]), dtype)
            # Zeros cost no memory before they are written to.
            return np.full(count, one[0], dtype) if any(one.tobytes()) else np.zeros(count, dtype)
        size, checksum = stored
        packed = self._data[offset : offset + size]
        if len(packed) != size or zlib.crc32(packed) != checksum:
            raise ValueError("an array is not what was written")
        if not count:
            return np.empty(0, dtype)
        plain = self._codec.decompress(packed, decompressed_size=count * dtype.itemsize)
        turned = np.frombuffer(plain, np.uint8).reshape(dtype.itemsize, count)
        return np.ascontiguousarray(turned.T).view(dtype).reshape(count)
