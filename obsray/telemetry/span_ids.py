"""Ids of spans, computed and never carried: a task and an attempt are enough to name every span about them.

So links need no propagation, a span may be made long after what it tells, and the same span made twice has one id.
"""

from __future__ import annotations

from enum import IntEnum

_MASK = (1 << 64) - 1
_A, _B, _C = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


class Part(IntEnum):
    """Which span about a task."""

    RUN = 0
    SUBMIT = 1
    QUEUE = 2
    FETCH = 3
    DESERIALIZE = 4
    STORE = 5
    GPU = 6
    #: Of an actor, by its incarnation.
    START = 7
    RESTART = 8


def _mixed(value: int) -> int:
    """64 bits in which every bit of ``value`` counts everywhere; never 0, which means "no span"."""
    value = (value ^ value >> 30) * _B & _MASK
    value = (value ^ value >> 27) * _C & _MASK
    return (value ^ value >> 31) or 1


def of_task(task: bytes, attempt: int = 0, part: Part = Part.RUN) -> int:
    """The span about one attempt of a task (of SUBMIT there is one for all attempts: attempt 0)."""
    owner, sequence = int.from_bytes(task[:8], "little"), int.from_bytes(task[8:16], "big")
    return _mixed((_mixed(owner + _A & _MASK) ^ sequence) + (attempt << 8 | int(part)) * _A & _MASK)


def of_record(process: bytes, sequence: int, kind: int = 0) -> int:
    """The span that one record tells of by itself."""
    return _mixed((_mixed(int.from_bytes(process, "little") ^ _B) ^ sequence) + kind * _A & _MASK)


def trace_of(identifier: bytes, kind: int) -> bytes:
    """A trace of its own for what belongs to no task: 16 bytes out of an id (of up to 16 bytes) and a kind."""
    low = _mixed(int.from_bytes(identifier[:8], "little") + kind * _A & _MASK)
    high = _mixed(int.from_bytes(identifier[8:16].ljust(8, b"\0"), "little") ^ low)
    return high.to_bytes(8, "big") + low.to_bytes(8, "big")
