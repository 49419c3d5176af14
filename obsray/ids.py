"""Identifiers: what the runtime calls its things, as values.

An id is raw bytes on every hot path and on the wire; `obsray/typed_ids.py` has what users hold and print.

============  =====  ==========================================================================
id            bytes  layout
============  =====  ==========================================================================
worker         8     of its own (4) | mark of its node (4); names one process for its whole life
task          16     owner's worker id (8) | sequence (8, big endian)
actor         16     like a task: an actor is named by the call that creates it
group         16     like a task: a placement group is named by the call that creates it
object        20     task id (16) | index (4): ``index`` 0.. are the returns of that task
node           8     random; the first four are its mark, unlike those of all other nodes of the cluster
job            4     counter of the cluster
============  =====  ==========================================================================

Invariants: the first eight bytes of a task, actor or object id name its *owner*, so nobody has to ask who
owns what, and the last four of those the node where it is at home; an object id embeds the task that produces
it, so data flow needs no propagation; the first byte of a sequence says what was numbered, and within one owner
and kind sequences are dense, so columns can be addressed by them.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

WORKER_ID_BYTES = 8
NODE_ID_BYTES = 8
MARK_BYTES = 4
TASK_ID_BYTES = 16
OBJECT_ID_BYTES = 20

#: First byte of the eight sequence bytes: what the sequence counts.
SEQUENCE_TASK = 0
SEQUENCE_PUT = 1
SEQUENCE_ACTOR = 2
SEQUENCE_GROUP = 3
#: Detached ones are at home at the head of the cluster, whoever made them.
SEQUENCE_DETACHED_ACTOR = 4
SEQUENCE_DETACHED_GROUP = 5

NIL_WORKER = bytes(WORKER_ID_BYTES)
NIL_TASK = bytes(TASK_ID_BYTES)
NIL_OBJECT = bytes(OBJECT_ID_BYTES)

_SHORT_MARKS = {
    SEQUENCE_PUT: "p",
    SEQUENCE_ACTOR: "a",
    SEQUENCE_GROUP: "g",
    SEQUENCE_DETACHED_ACTOR: "a",
    SEQUENCE_DETACHED_GROUP: "g",
}
_SEQUENCE = Struct(">Q").pack
_INDEX = Struct(">I").pack
_KIND_SHIFT = 56
_SEQUENCE_MASK = (1 << _KIND_SHIFT) - 1


def task_id(owner: bytes, sequence: int, kind: int = SEQUENCE_TASK) -> bytes:
    """The id of the ``sequence``-th thing of ``kind`` owned by worker ``owner`` (16 bytes)."""
    return owner + _SEQUENCE((kind << _KIND_SHIFT) | sequence)


def object_id(task: bytes, index: int = 0) -> bytes:
    """The id of return value ``index`` of ``task`` (20 bytes)."""
    return task + _INDEX(index)


def owner_of(identifier: bytes) -> bytes:
    """The worker id of the process that owns a task, actor or object."""
    return identifier[:WORKER_ID_BYTES]


def mark_of(identifier: bytes) -> bytes:
    """The mark of the node where a worker, task, actor, group or object is at home (detached ones aside)."""
    return identifier[WORKER_ID_BYTES - MARK_BYTES : WORKER_ID_BYTES]


def mark_of_node(node: bytes) -> bytes:
    """The mark of a node."""
    return node[:MARK_BYTES]


def worker_id(node: bytes, own: bytes) -> bytes:
    """The id of a process of ``node``; ``own`` are four bytes that no other process of it has."""
    return own + node[:MARK_BYTES]


def worker_ids(node: bytes, first: int) -> Callable[[], bytes]:
    """Gives ids to the processes of a node from number ``first`` on: no two the same, and unlike each other."""
    state = first

    def next_id() -> bytes:
        nonlocal state
        # An odd step goes through all numbers before one comes again.
        state = (state + 0x9E3779B1) & 0xFFFFFFFF
        return worker_id(node, state.to_bytes(4, "big"))

    return next_id


def is_detached(identifier: bytes) -> bool:
    """Whether an actor or group is detached, and so at home at the head."""
    return identifier[WORKER_ID_BYTES] in (SEQUENCE_DETACHED_ACTOR, SEQUENCE_DETACHED_GROUP)


def task_of(object_identifier: bytes) -> bytes:
    """The id of the task whose result an object is; for ``put`` objects the id of the put."""
    return object_identifier[:TASK_ID_BYTES]


def index_of(object_identifier: bytes) -> int:
    """Which return value of its task an object is."""
    return int.from_bytes(object_identifier[TASK_ID_BYTES:OBJECT_ID_BYTES], "big")


def sequence_of(identifier: bytes) -> int:
    """The dense per-owner counter inside a task, actor or object id."""
    return int.from_bytes(identifier[WORKER_ID_BYTES:TASK_ID_BYTES], "big") & _SEQUENCE_MASK


def kind_of(identifier: bytes) -> int:
    """One of the ``SEQUENCE_*``: what was numbered."""
    return identifier[WORKER_ID_BYTES]


def short(identifier: bytes) -> str:
    """A form for people: the first bytes of the owner and the sequence, e.g. ``3fa2c1d0:42``."""
    if len(identifier) < TASK_ID_BYTES:
        return identifier.hex()
    mark = _SHORT_MARKS.get(kind_of(identifier), "")
    text = f"{identifier[:4].hex()}:{mark}{sequence_of(identifier)}"
    if len(identifier) == OBJECT_ID_BYTES and index_of(identifier):
        text += f"[{index_of(identifier)}]"
    return text
