"""What a node accepts: messages of clients are checked field by field before a machine sees them.

A client is another process, maybe with a bug, maybe hostile; nothing it sends may bring the node down. What does not
pass raises ``Malformed``, and its link is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from obsray.core.protocol import messages as m
from obsray.ids import OBJECT_ID_BYTES, TASK_ID_BYTES, WORKER_ID_BYTES

NAME_CHARACTERS_MAX = 1024
RESOURCES_MAX = 64
INTEGER_MAX = (1 << 63) - 1


class Malformed(ValueError):
    """A message that breaks the protocol."""


def _bytes(size: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, bytes) and len(value) == size


def _integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= INTEGER_MAX


def _lease(value: Any) -> bool:
    # The upper half is a node's mark.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


def _boolean(value: Any) -> bool:
    return isinstance(value, bool)


def _name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= NAME_CHARACTERS_MAX


def _blob(value: Any) -> bool:
    return isinstance(value, bytes)


def _dictionary(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(key, str) for key in value)


def _optional_dictionary(value: Any) -> bool:
    return value is None or _dictionary(value)


def _amounts(value: Any) -> bool:
    return _dictionary(value) and len(value) <= RESOURCES_MAX and all(map(_integer, value.values()))


def _objects(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(v, bytes) and len(v) == OBJECT_ID_BYTES for v in value)


_ACTOR = _GROUP = _bytes(TASK_ID_BYTES)
_OBJECT = _bytes(OBJECT_ID_BYTES)
_WORKER = _bytes(WORKER_ID_BYTES)

#: Message -> what each of its fields must be.
_FIELDS: dict[type, tuple[Callable[[Any], bool], ...]] = {
    m.DefineShape: (_integer, _name, _amounts, _optional_dictionary, _optional_dictionary),
    m.LeaseRequest: (_integer, _integer, _integer),
    m.LeaseReturn: (_lease, _integer, _integer, _boolean),
    m.Blocked: (_boolean,),
    m.Unblocked: (),
    m.CreateObject: (_integer, _OBJECT, _integer),
    m.SealObject: (_OBJECT,),
    m.AbortObject: (_OBJECT,),
    m.PinObject: (_integer, _OBJECT),
    m.UnpinObjects: (_objects,),
    m.FileGone: (_OBJECT, _name),
    m.FreeObjects: (_objects,),
    m.FreeItems: (_bytes(TASK_ID_BYTES), _objects),
    m.CreateActor: (_integer, _dictionary),
    m.ActorReady: (_ACTOR, _integer),
    m.ActorFailed: (_ACTOR, _blob, _boolean),
    m.ActorGaveUp: (_ACTOR, _blob, _name),
    m.WatchActor: (_ACTOR,),
    m.KillActor: (_ACTOR, _boolean, _boolean),
    m.KillWorker: (_WORKER, _lease),
    m.Request: (_integer, _name, _dictionary),
    m.StillNeeded: (_integer, _integer),
    m.DescribeJob: (_dictionary,),
    m.Goodbye: (),
    m.CreateGroup: (_integer, _dictionary),
    m.RemoveGroup: (_GROUP,),
    m.WatchGroup: (_GROUP,),
}


def accept(message: m.Message) -> Any:
    """The message object of what a client sent. Raises Malformed."""
    try:
        decoded = m.decode(message)
    except (ValueError, TypeError) as error:
        raise Malformed(str(error)) from None
    checks = _FIELDS.get(type(decoded))
    if checks is None:
        raise Malformed(f"{type(decoded).__name__} is not for a node")
    for check, value, name in zip(checks, decoded, decoded._fields, strict=False):
        if not check(value):
            raise Malformed(f"{type(decoded).__name__}.{name} is not what it should be")
    return decoded
