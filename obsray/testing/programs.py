"""The words of virtual user code: what it computes with and what it waits for."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, TypeVar

from obsray.core.runtime.waiting import Waiter
from obsray.telemetry.events import WaitKind


class Value(NamedTuple):
    """What programs compute with: a number, references inside, and the bytes it would take.

    ``made`` tells apart what different attempts made: no two have the same.
    """

    number: int
    inner: tuple[bytes, ...] = ()
    size: int = 64
    made: int = 0


class Sleep(NamedTuple):
    """User code computes for this long."""

    duration_ns: int


class Item(NamedTuple):
    """A body of a streaming task yields a value to whoever consumes it."""

    value: Value


class Until(NamedTuple):
    """User code waits for the runtime."""

    waiter: Waiter
    timeout_ns: int | None = None
    kind: WaitKind = WaitKind.GET


T = TypeVar("T")

#: User code: yields what it waits for, is sent whether that came in time, returns a T.
Steps = Generator[Sleep | Until | Item, bool | None, T]
Program = Steps[Any]
