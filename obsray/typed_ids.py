"""Ids as users hold and print them: typed, hashable, of a fixed size in bytes (`obsray/ids.py` says of which)."""

from __future__ import annotations

import builtins
import os

from obsray.ids import NODE_ID_BYTES, TASK_ID_BYTES, WORKER_ID_BYTES


class BaseID:
    """A typed, hashable, printable id; subclasses fix the size in bytes."""

    SIZE = 0
    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        if not isinstance(value, (bytes, bytearray)):
            raise TypeError(
                f"{type(self).__name__} is made of {self.SIZE} bytes, got {type(value).__name__}; from_hex() reads text"
            )
        if len(value) != self.SIZE:
            raise ValueError(f"{type(self).__name__} has {self.SIZE} bytes, got {len(value)}")
        self._value = bytes(value)

    @classmethod
    def from_hex(cls, text: str) -> BaseID:
        """Parse what ``hex()`` printed. Raises ValueError for anything else."""
        return cls(bytes.fromhex(text))

    @classmethod
    def from_binary(cls, value: bytes) -> BaseID:
        """The id of these bytes. Raises ValueError if there are too many or too few."""
        return cls(value)

    @classmethod
    def nil(cls) -> BaseID:
        """The id that names nothing."""
        return cls(bytes(cls.SIZE))

    @classmethod
    def from_random(cls) -> BaseID:
        """An id that names nothing, different each time."""
        return cls(os.urandom(cls.SIZE))

    @classmethod
    def size(cls) -> int:
        """How many bytes it has."""
        return cls.SIZE

    def binary(self) -> bytes:
        return self._value

    def __bytes__(self) -> bytes:
        return self._value

    def hex(self) -> str:
        return self._value.hex()

    def is_nil(self) -> bool:
        return not any(self._value)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._value == self._value

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._value))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"

    def __reduce__(self) -> tuple[type, tuple[bytes]]:
        return type(self), (self._value,)


class JobID(BaseID):
    SIZE = 4
    __slots__ = ()

    @classmethod
    def from_int(cls, number: builtins.int) -> JobID:
        """The job of this number."""
        return cls(number.to_bytes(cls.SIZE, "big"))

    def int(self) -> builtins.int:
        """The job's number."""
        return builtins.int.from_bytes(self._value, "big")


class NodeID(BaseID):
    SIZE = NODE_ID_BYTES
    __slots__ = ()


class WorkerID(BaseID):
    SIZE = WORKER_ID_BYTES
    __slots__ = ()


class TaskID(BaseID):
    SIZE = TASK_ID_BYTES
    __slots__ = ()


class ActorID(BaseID):
    SIZE = TASK_ID_BYTES
    __slots__ = ()


class PlacementGroupID(BaseID):
    SIZE = TASK_ID_BYTES
    __slots__ = ()


class UniqueID(BaseID):
    """An id of 16 bytes that names anything."""

    SIZE = 16
    __slots__ = ()


class FunctionID(BaseID):
    """A function, by the hash of its pickled form."""

    SIZE = 16
    __slots__ = ()


class ActorClassID(BaseID):
    """A class of actors, by the hash of its pickled form."""

    SIZE = 16
    __slots__ = ()
