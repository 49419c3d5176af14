"""Bytes to messages and back, without I/O: frames, limits and the handshake.

A connection opens with one fixed-size hello from the side that connected::

    magic 8s | protocol H | python major B, minor B | process kind B | pad 3x | pid I | pad I | worker 8s | token 32s

The listener checks size, magic and token (constant time) before it looks at anything else; until then not one byte
is parsed further. After it both sides send frames: length (u32, little endian), then that many bytes of msgpack, a
list of messages. msgpack builds only plain values, so reading a frame runs no code of the peer's choosing.
"""

from __future__ import annotations

import hmac
import sys
from dataclasses import dataclass
from struct import Struct
from typing import Any

import msgpack

from obsray.core.protocol.messages import Message

MAGIC = b"OBSRAY\x00\x01"
PROTOCOL_VERSION = 1
TOKEN_BYTES = 32
FRAME_BYTES_MAX = 256 << 20
_HELLO = Struct("<8sHBBB3xII8s32s")
HELLO_BYTES = _HELLO.size
_LENGTH = Struct("<I")
_LENGTH_BYTES = _LENGTH.size


class ProtocolError(Exception):
    """The peer sent something that is not this protocol; the connection must be closed."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Who connected: ``kind`` is an events.ProcessKind."""

    worker: bytes
    kind: int
    pid: int


def pack_hello(token: bytes, hello: Hello) -> bytes:
    """The opening bytes of the connecting side."""
    version = sys.version_info
    return _HELLO.pack(
        MAGIC, PROTOCOL_VERSION, version.major, version.minor, hello.kind, hello.pid, 0, hello.worker, token
    )


def check_hello(data: bytes, token: bytes) -> Hello:
    """Who is there, if the token is right. Raises ProtocolError with a sentence for the log otherwise."""
    if len(data) != HELLO_BYTES or data[: len(MAGIC)] != MAGIC:
        raise ProtocolError("not an obsray peer")
    _, protocol, major, minor, kind, pid, _, worker, offered = _HELLO.unpack(data)
    if not hmac.compare_digest(offered, token):
        raise ProtocolError("wrong token")
    if protocol != PROTOCOL_VERSION:
        raise ProtocolError(f"peer speaks protocol {protocol}, this side {PROTOCOL_VERSION}")
    if (major, minor) != sys.version_info[:2]:
        ours = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise ProtocolError(f"peer runs Python {major}.{minor}, this side {ours}: values would not unpickle")
    return Hello(worker, kind, pid)


class Connection:
    """The framing state of one connection after its handshake."""

    __slots__ = ("_buffer", "_packer", "frame_bytes_max")

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()
        self._packer = msgpack.Packer(use_bin_type=True, autoreset=True, unicode_errors="surrogatepass")

    def pack(self, messages: list[Message]) -> bytes:
        """One frame that carries ``messages``. Raises ProtocolError if it would be too large."""
        body: bytes = self._packer.pack(messages)
        if len(body) > self.frame_bytes_max:
            raise ProtocolError(f"a frame of {len(body)} bytes exceeds the limit of {self.frame_bytes_max}")
        return _LENGTH.pack(len(body)) + body

    def receive(self, data: memoryview | bytes) -> list[Message]:
        """The messages completed by ``data``. Raises ProtocolError if the peer breaks the rules."""
        if self._buffer:
            self._buffer += data
            view = memoryview(self._buffer)
        else:
            view = memoryview(data)
        messages: list[Message] = []
        offset, end = 0, len(view)
        try:
            while end - offset >= _LENGTH_BYTES:
                size = _LENGTH.unpack_from(view, offset)[0]
                if size > self.frame_bytes_max:
                    raise ProtocolError(f"peer announced a frame of {size} bytes, limit {self.frame_bytes_max}")
                if end - offset - _LENGTH_BYTES < size:
                    break
                start = offset + _LENGTH_BYTES
                messages += _unpack(view[start : start + size])
                offset = start + size
            rest = bytes(view[offset:]) if offset < end else b""
        finally:
            view.release()
        if rest or self._buffer:
            self._buffer = bytearray(rest)
        return messages


def _unpack(body: memoryview) -> list[Message]:
    try:
        messages: Any = msgpack.unpackb(
            body, use_list=False, raw=False, strict_map_key=False, unicode_errors="surrogatepass"
        )
    except Exception as error:
        raise ProtocolError(f"a frame that is not msgpack: {error}") from error
    if not isinstance(messages, tuple) or not all(isinstance(m, tuple) and m for m in messages):
        raise ProtocolError("a frame that is not a list of messages")
    return messages  # type: ignore[return-value]
