"""Keys and values in the control store, shared by everybody in the session, gone with it.

Keys and values are bytes (text is encoded); a key has at most 4096 bytes, a value 16 MiB.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

from obsray.core.api import session
from obsray.core.runtime.session import Session, current_or_none
from obsray.core.transport.control_client import ControlClient, ControlError, address_of
from obsray.errors import RpcError
from obsray.telemetry import session_file

#: Calls to the control store may take so long.
SECONDS_MAX = 30.0

_lock = threading.Lock()
_client: tuple[Session, ControlClient] | None = None


def _ask(method: str, **fields: Any) -> Any:
    global _client
    found = session()
    with _lock:
        if _client is None or _client[0] is not found:
            if _client is not None:
                _client[1].close()
            # Answers are few: the client's own thread may hand them over.
            client = ControlClient(
                address_of(found.directory),
                found.token,
                lambda answer: answer(),
                SECONDS_MAX,
                # One that stands by may have come since.
                places=lambda: session_file.read(found.directory).get("control_addresses", ()),
            )
            client.start()
            _client = (found, client)
        client = _client[1]
    answer: Future[Any] = Future()

    def done(reply: Any, error: ControlError | None) -> None:
        if error is None:
            answer.set_result(reply)
        elif error.read_only:
            answer.set_exception(RpcError(error.detail))
        elif error.code in ("INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"):
            answer.set_exception(ValueError(error.detail))
        else:
            answer.set_exception(RpcError(str(error)))

    client.call(method, fields, done)
    return answer.result()


def _bytes(name: str, value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, bytes):
        raise TypeError(f"{name} must be bytes or text, got {type(value).__name__}")
    return value


def _node() -> bytes:
    """Of a node that is taken for dead nothing is accepted any more."""
    return session().node_id


def _space(namespace: str | bytes | None) -> str:
    return _bytes("namespace", namespace or b"default").decode()


def _internal_kv_initialized() -> bool:
    """Whether there is a running runtime to ask."""
    found = current_or_none()
    return found is not None and not found.closed


def _internal_kv_get(key: str | bytes, *, namespace: str | bytes | None = None) -> bytes | None:
    """The value of ``key``, None if it has none."""
    reply = _ask("GetKey", namespace=_space(namespace), key=_bytes("key", key))
    return bytes(reply.value) if reply.found else None


def _internal_kv_exists(key: str | bytes, *, namespace: str | bytes | None = None) -> bool:
    """Whether ``key`` has a value."""
    return bool(_ask("GetKey", namespace=_space(namespace), key=_bytes("key", key)).found)


def _internal_kv_put(
    key: str | bytes, value: str | bytes, overwrite: bool = True, *, namespace: str | bytes | None = None
) -> bool:
    """Write a value, unless there is one and ``overwrite`` is False. Returns whether there was one before."""
    fields = {"key": _bytes("key", key), "value": _bytes("value", value), "overwrite": overwrite, "node": _node()}
    return bool(_ask("PutKey", namespace=_space(namespace), **fields).existed)


def _internal_kv_del(key: str | bytes, *, del_by_prefix: bool = False, namespace: str | bytes | None = None) -> int:
    """Delete ``key``, or all keys that begin with it. Returns how many there were."""
    fields = {"key": _bytes("key", key), "prefix": del_by_prefix, "node": _node()}
    return int(_ask("DeleteKey", namespace=_space(namespace), **fields).keys_deleted)


def _internal_kv_list(prefix: str | bytes, *, namespace: str | bytes | None = None) -> list[bytes]:
    """The keys that begin with ``prefix``."""
    return list(_ask("ListKeys", namespace=_space(namespace), prefix=_bytes("prefix", prefix)).keys)


def _internal_kv_reset() -> None:
    """Forget the connection to the control store; the next call makes another."""
    global _client
    with _lock:
        client, _client = _client, None
    if client is not None:
        client[1].close()


#: The same, without the underscore that the calls have for history's sake.
get, put, exists, delete, keys = (
    _internal_kv_get, _internal_kv_put, _internal_kv_exists, _internal_kv_del, _internal_kv_list,
)  # fmt: skip

__all__ = [
    "_internal_kv_del", "_internal_kv_exists", "_internal_kv_get", "_internal_kv_initialized",
    "_internal_kv_list", "_internal_kv_put", "_internal_kv_reset", "delete", "exists", "get", "keys", "put",
]  # fmt: skip
