"""Bytes to messages and back, without I/O: frames, limits and the handshake.

A connection opens with one fixed-size hello from the side that connected::

    magic 8s | protocol H | python major B, minor B | process kind B | remote B | pad 2x | pid I | build I |
    worker 8s | token 32s

The listener checks size, magic and token (constant time) before it looks at anything else; until then not one byte
is parsed further. Whoever has the token and still cannot be let in (another Python, other sources of obsray) is told
why by a *notice*, which begins where a frame would: a length that no frame has, then words. After the hello both sides
send frames: length (u32, little endian), then that many bytes of msgpack, a list of messages. msgpack builds only
plain values, so reading a frame runs no code of the peer's choosing.

This is the handshake of unix sockets, where the operating system keeps others away; ``handshake.py`` is that of TCP.
"""

from __future__ import annotations

import hmac
import sys
from dataclasses import dataclass
from struct import Struct
from typing import Any
from zlib import crc32

import msgpack

from obsray.core.protocol import messages
from obsray.core.protocol.messages import Message
from obsray.version import VERSION

MAGIC = b"OBSRAY\x00\x01"
PROTOCOL_VERSION = 1
TOKEN_BYTES = 32
FRAME_BYTES_MAX = 256 << 20
_HELLO = Struct("<8sHBBBB2xII8s32s")
HELLO_BYTES = _HELLO.size
_LENGTH = Struct("<I")
_LENGTH_BYTES = _LENGTH.size
#: In place of a frame's length: what follows (one byte of length, then text) says why the connection ends.
_NOTICE_MARK = 0xFFFFFFFF


def _build() -> int:
    """A number that differs between sources that would misunderstand each other, also if their version is the same."""
    words = [VERSION, repr(messages.TASK_FIELDS), repr(messages.RESULT_FIELDS)]
    words += [f"{tag} {kind.__name__} {kind.__annotations__}" for tag, kind in sorted(messages.MESSAGES.items())]
    return crc32("\n".join(words).encode())


#: Which obsray this is: equal numbers speak the same protocol.
BUILD = _build()


class ProtocolError(Exception):
    """The peer sent something that is not this protocol; the connection must be closed."""


class VersionMismatch(ProtocolError):
    """The peer holds the token and runs something else than this side; ``theirs`` is the sentence for the peer."""

    def __init__(self, ours: str, theirs: str) -> None:
        super().__init__(ours)
        self.theirs = theirs


class Refused(ProtocolError, ConnectionError):
    """The peer does not let this side in, and says why."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Who connected: ``kind`` is an events.ProcessKind.

    ``remote``: it is at another node. On a unix socket a node says this of a peer whose connection it hands over, as a
    descriptor that comes with the hello.
    """

    worker: bytes
    kind: int
    pid: int
    remote: bool = False


def pack_hello(token: bytes, hello: Hello) -> bytes:
    """The opening bytes of the connecting side."""
    version = sys.version_info
    return _HELLO.pack(
        MAGIC, PROTOCOL_VERSION, version.major, version.minor, hello.kind, hello.remote, hello.pid, BUILD,
        hello.worker, token,
    )  # fmt: skip


def pack_notice(sentence: str) -> bytes:
    """Why the connection ends, in the place of a frame."""
    words = sentence.encode()[:255]
    return _LENGTH.pack(_NOTICE_MARK) + bytes([len(words)]) + words


def check_hello(data: bytes, token: bytes) -> Hello:
    """Who is there, if the token is right. Raises ProtocolError with a sentence for the log otherwise."""
    if len(data) != HELLO_BYTES or data[: len(MAGIC)] != MAGIC:
        raise ProtocolError("not an obsray peer")
    _, protocol, major, minor, kind, remote, pid, build, worker, offered = _HELLO.unpack(data)
    if not hmac.compare_digest(offered, token):
        raise ProtocolError("wrong token")
    if protocol != PROTOCOL_VERSION:
        raise _mismatch(f"speaks protocol {protocol}", f"speaks protocol {PROTOCOL_VERSION}", "")
    if (major, minor) != sys.version_info[:2]:
        ours = f"runs Python {sys.version_info.major}.{sys.version_info.minor}"
        raise _mismatch(f"runs Python {major}.{minor}", ours, ", and values would not unpickle")
    if build != BUILD:
        # Its version is not in the hello; the build tells two sources of one version apart as well.
        advice = ": a PYTHONPATH may lead one of them to other sources of obsray"
        raise _mismatch(f"runs obsray build {build:08x}", f"runs obsray {VERSION} build {BUILD:08x}", advice)
    return Hello(worker, kind, pid, bool(remote))


def _mismatch(theirs: str, ours: str, advice: str) -> VersionMismatch:
    return VersionMismatch(f"the peer {theirs}, this side {ours}{advice}", f"it {ours}, this side {theirs}{advice}")


def control_credential(token: bytes) -> str:
    """What calls to the control store carry: made of the token, and of no use where the token itself must be known."""
    return hmac.digest(token, b"obsray control store", "sha256").hex()


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
                    if size == _NOTICE_MARK:
                        raise Refused(_read_notice(view[offset + _LENGTH_BYTES :]))
                    raise ProtocolError(f"peer announced a frame of {size} bytes, limit {self.frame_bytes_max}")
                if end - offset - _LENGTH_BYTES < size:
                    break
                start = offset + _LENGTH_BYTES
                messages += _unpack(view[start : start + size])
                offset = start + size
            # What is kept is copied once, however many pieces a frame comes in: a large one comes in hundreds.
            if not self._buffer and offset < end:
                self._buffer = bytearray(view[offset:])
                offset = 0
        finally:
            view.release()
        if self._buffer and offset:
            del self._buffer[:offset]
        return messages


def _read_notice(data: memoryview) -> str:
    """The words of a notice; it is small and written at once, so it comes whole."""
    words = bytes(data[1 : 1 + data[0]]) if data else b""
    text = words.decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text) or "it does not say why"


def _unpack(body: memoryview) -> list[Message]:
    try:
        messages: Any = msgpack.unpackb(
            body, use_list=False, raw=False, strict_map_key=False, unicode_errors="surrogatepass"
        )
    except Exception as error:
        raise ProtocolError(f"a frame that is not msgpack: {error}") from error
    if type(messages) is not tuple:
        raise ProtocolError("a frame that is not a list of messages")
    for message in messages:
        if type(message) is not tuple or not message:
            raise ProtocolError("a frame that is not a list of messages")
    return messages  # type: ignore[return-value]
