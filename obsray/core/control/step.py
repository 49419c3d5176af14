"""The words of the control machine: when, what went in, what came out, why it was refused."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from google.protobuf.message import Message

from obsray.core.protocol import control_pb2 as pb
from obsray.ids import TASK_ID_BYTES, WORKER_ID_BYTES

NODE_ID_BYTES = 8
REQUEST_ID_BYTES_MAX = 64
NAME_BYTES_MAX = 1024
TEXT_BYTES_MAX = 16_384
ROWS_MAX = 10_000

#: One row of a table as it is published: what a ``Change`` can hold.
Row = pb.Node | pb.Job | pb.Actor | pb.KeyChange | pb.FunctionRow | pb.Group


class Instant(NamedTuple):
    """Now. Decisions use ``monotonic_ns`` alone; ``wall_ns`` is only written into rows, for people."""

    monotonic_ns: int
    wall_ns: int


class Refusal(Enum):
    """Why a request was not carried out; the value is the gRPC status code's name."""

    INVALID = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    EXISTS = "ALREADY_EXISTS"
    FENCED = "FAILED_PRECONDITION"
    #: The same under another id may succeed.
    ANOTHER_ID = "ABORTED"
    VERSION = "UNIMPLEMENTED"
    FULL = "RESOURCE_EXHAUSTED"
    TOO_OLD = "OUT_OF_RANGE"


class Refused(Exception):
    """Raised by a table before it changed anything; ``step`` turns it into a ``Refuse``."""

    def __init__(self, refusal: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.refusal = refusal
        self.detail = detail


class Reply(NamedTuple):
    """Effect: answer the caller with this message."""

    message: Message


class Refuse(NamedTuple):
    """Effect: answer the caller that it cannot be done."""

    refusal: Refusal
    detail: str


Effect = Reply | Refuse


class Step(NamedTuple):
    """What a stimulus led to: effects to carry out, and every change of a table, numbered.

    A step with events must be in the journal before any of its effects is carried out.
    """

    effects: list[Effect]
    events: list[pb.Change]


class Outcome(NamedTuple):
    """What a table answers to the machine: the reply, and the rows that changed."""

    message: Message
    rows: list[Row]


def check_bytes(field: str, value: bytes, size: int) -> None:
    """Raise Refused unless ``value`` has exactly ``size`` bytes."""
    if len(value) != size:
        raise Refused(Refusal.INVALID, f"{field} has {size} bytes, got {len(value)}")


def check_node(value: bytes) -> None:
    """Raise Refused unless ``value`` can be a node id."""
    check_bytes("node", value, NODE_ID_BYTES)


def check_actor(value: bytes) -> None:
    """Raise Refused unless ``value`` can be an actor id."""
    check_bytes("actor", value, TASK_ID_BYTES)


def check_worker(field: str, value: bytes) -> None:
    """Raise Refused unless ``value`` can be a worker id."""
    check_bytes(field, value, WORKER_ID_BYTES)


def check_text(field: str, value: str, bytes_max: int = NAME_BYTES_MAX) -> None:
    """Raise Refused if ``value`` is longer than ``bytes_max`` bytes of UTF-8."""
    # A character has at most four bytes, so most texts need no encoding to be known as short enough.
    if len(value) * 4 > bytes_max and len(value.encode()) > bytes_max:
        raise Refused(Refusal.INVALID, f"{field} has at most {bytes_max} bytes")


def limit_of(rows_max: int) -> int:
    """How many rows an answer holds at most when ``rows_max`` were asked for (0: no wish)."""
    return min(rows_max or ROWS_MAX, ROWS_MAX)
