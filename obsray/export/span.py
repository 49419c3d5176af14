"""What a span is."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

Attributes = list[tuple[str, Any]]
#: Trace, span, attributes.
Link = tuple[bytes, int, Attributes]


class Kind(IntEnum):
    """As in OTLP."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


@dataclass(slots=True)
class Span:
    """One span. Times are nanoseconds since the epoch; ``parent`` 0 is none; ``error`` None is no error."""

    process: bytes
    trace: bytes
    span: int
    parent: int
    name: str
    kind: Kind
    start: int
    end: int
    attributes: Attributes
    events: list[tuple[int, str, Attributes]] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    dropped_links: int = 0
    dropped_events: int = 0
    error: str | None = None
