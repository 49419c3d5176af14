"""Could a single copy have given this history of operations on one key? Wing & Gong's search, with Lowe's memory.

An operation takes effect at one instant between its call and its answer; one whose outcome is unknown at some instant
after its call, or never.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Operation(NamedTuple):
    """``end`` is infinite if nobody heard the answer. ``kind``: put, add (unless it is there), delete, get."""

    start: float
    end: float
    kind: str
    value: bytes | None
    #: What was answered: of get the value; of put, add and delete whether there was one before.
    answer: bytes | bool | None = None


def applied(state: bytes | None, operation: Operation) -> tuple[bool, bytes | None]:
    """Whether an operation can have been answered as it was in that state, and the state after it."""
    kind, value = operation.kind, operation.value
    if kind == "get":
        possible, after = operation.answer == state, state
    elif kind == "delete":
        possible, after = operation.answer == (state is not None), None
    elif kind == "add":
        possible, after = operation.answer == (state is not None), value if state is None else state
    else:
        possible, after = operation.answer == (state is not None), value
    return possible or operation.end == math.inf, after


def is_linearizable(history: Sequence[Operation]) -> bool:
    """Whether there is an order that fits all intervals and all answers."""
    history = sorted(history)
    #: Left to do: those that were answered. What nobody heard the end of may have had no effect.
    answered = sum(1 << index for index, operation in enumerate(history) if operation.end < math.inf)
    seen: set[tuple[int, bytes | None]] = set()
    stack: list[tuple[int, bytes | None]] = [(0, None)]
    while stack:
        done, state = stack.pop()
        if done & answered == answered:
            return True
        # Nothing that began after the end of something that is not yet done can come before it.
        until = min(each.end for index, each in enumerate(history) if not done >> index & 1)
        for index, operation in enumerate(history):
            if operation.start > until:
                break
            if done >> index & 1:
                continue
            possible, after = applied(state, operation)
            following = (done | 1 << index, after)
            if possible and following not in seen:
                seen.add(following)
                stack.append(following)
    return False
