"""The handshake of a TCP connection, without I/O: both sides prove that they know the cluster's token, unsent.

Four records of fixed size, each with a magic of its own::

    dialer                                           listener
      opening: hello, nonce                      ──▶
                                                 ◀──  reply: hello, nonce, proof
      proof (or why not)                         ──▶
                                                 ◀──  verdict (or why not), proof

A proof is an HMAC-SHA256 with the token as its key over the name of the record, both nonces, both hellos as they
travelled, and the reason given. So an old proof is of no use in another connection, and neither is one's own that is
sent back. A hello is::

    protocol H | python major B, minor B | kind B | target size B | pad H | pid I | build I | worker 8s | version 24s |
    target 32s

Until the other side has proved itself nothing but these fixed fields is looked at, and they decide nothing. Whoever
refuses says why in one byte, so that both sides can tell their people. The layout of the records stays the same in
every version: else nobody could say which versions met.
"""

from __future__ import annotations

import hmac
import sys
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from obsray.core.transport.connection import BUILD, PROTOCOL_VERSION, TOKEN_BYTES, Hello
from obsray.version import VERSION

NONCE_BYTES = 32
PROOF_BYTES = 32
TARGET_BYTES_MAX = 32
_VERSION_BYTES = 24
_HELLO = Struct(f"<HBBBBHII8s{_VERSION_BYTES}s{TARGET_BYTES_MAX}s")
_OPENING = Struct(f"<8s{_HELLO.size}s{NONCE_BYTES}s")
_REPLY = Struct(f"<8s{_HELLO.size}s{NONCE_BYTES}s{PROOF_BYTES}s")
_PROOF = Struct(f"<8sB7x{PROOF_BYTES}s")
OPENING_BYTES, REPLY_BYTES, PROOF_RECORD_BYTES = _OPENING.size, _REPLY.size, _PROOF.size
_OPENING_MAGIC, _REPLY_MAGIC, _PROOF_MAGIC, _VERDICT_MAGIC = (b"OBSRAY\x01" + role for role in (b"o", b"r", b"p", b"v"))


class Refusal(IntEnum):
    """Why a connection is not made, as one byte on the wire."""

    NONE = 0
    OTHER_TOKEN = 1
    OTHER_PROTOCOL = 2
    OTHER_PYTHON = 3
    OTHER_VERSION = 4
    UNKNOWN_TARGET = 5
    #: The target is there and takes nobody now.
    BUSY = 6
    #: Never sent: whoever is there does not speak this protocol.
    NOT_A_PEER = 7


class HandshakeError(ConnectionError):
    """The other side is not one to talk to. ``refusal`` says why; ``told``: it was the other side that refused."""

    refusal = Refusal.NOT_A_PEER

    def __init__(self, sentence: str, told: bool = False) -> None:
        super().__init__(sentence)
        self.told = told
        #: What the other side must still be sent, so that it can say the same.
        self.last_words = b""


class NotAPeer(HandshakeError):
    """Something else listens or calls there, or it left in the middle of the handshake."""


class OtherToken(HandshakeError):
    """It belongs to another cluster: it has another token."""

    refusal = Refusal.OTHER_TOKEN


class OtherProtocol(HandshakeError):
    """It speaks another version of the protocol."""

    refusal = Refusal.OTHER_PROTOCOL


class OtherPython(HandshakeError):
    """It runs another version of Python, so that values would not unpickle."""

    refusal = Refusal.OTHER_PYTHON


class OtherVersion(HandshakeError):
    """It runs another version of obsray, or other sources of the same."""

    refusal = Refusal.OTHER_VERSION


class UnknownTarget(HandshakeError):
    """The node is there, and whoever was asked for is not (any more)."""

    refusal = Refusal.UNKNOWN_TARGET


class TargetBusy(HandshakeError):
    """Whoever was asked for takes no connection now."""

    refusal = Refusal.BUSY


_ERRORS = {
    cls.refusal: cls for cls in (OtherToken, OtherProtocol, OtherPython, OtherVersion, UnknownTarget, TargetBusy)
}


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a hello says: who it is, what it is made of, and whom it wants to talk to (``target``)."""

    hello: Hello
    target: bytes
    protocol: int
    python: tuple[int, int]
    version: str
    build: int


def pack_introduction(me: Hello, target: bytes = b"") -> bytes:
    """A hello of this process. Raises ValueError for a target that is too long."""
    if len(target) > TARGET_BYTES_MAX:
        raise ValueError(f"a target has at most {TARGET_BYTES_MAX} bytes, got {len(target)}")
    python = sys.version_info
    return _HELLO.pack(
        PROTOCOL_VERSION, python.major, python.minor, me.kind, len(target), 0, me.pid, BUILD, me.worker,
        VERSION.encode()[:_VERSION_BYTES], target,
    )  # fmt: skip


def unpack_introduction(data: bytes) -> Introduction:
    """What a hello of another process says; any bytes of the right number are one."""
    protocol, major, minor, kind, size, _, pid, build, worker, version, target = _HELLO.unpack(data)
    text = version.rstrip(b"\0").decode("ascii", "replace")
    shown = "".join(character if character.isprintable() else "?" for character in text)
    return Introduction(Hello(worker, kind, pid), target[:size], protocol, (major, minor), shown, build)


def mismatch(theirs: Introduction) -> Refusal:
    """What keeps this process from talking to that one, NONE if nothing does."""
    if theirs.protocol != PROTOCOL_VERSION:
        return Refusal.OTHER_PROTOCOL
    if theirs.python != sys.version_info[:2]:
        return Refusal.OTHER_PYTHON
    if theirs.build != BUILD:
        return Refusal.OTHER_VERSION
    return Refusal.NONE


def sentence(refusal: Refusal, theirs: Introduction | None, target: bytes = b"") -> str:
    """Why, for people, as this side sees it."""
    python = ".".join(map(str, sys.version_info[:2]))
    match refusal:
        case Refusal.OTHER_TOKEN:
            return (
                "it has another token, so it belongs to another cluster, or one of the two was given the wrong token: "
                "all nodes of a cluster are started with the same"
            )
        case Refusal.OTHER_PROTOCOL if theirs is not None:
            return (
                f"it speaks protocol {theirs.protocol} (obsray {theirs.version}), this side protocol "
                f"{PROTOCOL_VERSION} (obsray {VERSION}): install the same obsray on both"
            )
        case Refusal.OTHER_PYTHON if theirs is not None:
            return (
                f"it runs Python {'.'.join(map(str, theirs.python))}, this side Python {python}, and values would not "
                "unpickle: run the same Python on both"
            )
        case Refusal.OTHER_VERSION if theirs is not None:
            return (
                f"it runs obsray {_made_of(theirs.version, theirs.build)}, this side {_made_of(VERSION, BUILD)}: run "
                "the same obsray on both (a PYTHONPATH may lead one of them to other sources)"
            )
        case Refusal.UNKNOWN_TARGET:
            return f"nobody with the name {shown(target)} is there (any more)"
        case Refusal.BUSY:
            return f"{shown(target)} takes no connection now"
    return "what is there does not speak obsray's protocol: is this the address of a node of obsray?"


def _made_of(version: str, build: int) -> str:
    return f"{version} (build {build:08x})"


def shown(target: bytes) -> str:
    """A target for people: a service by its name, anything else in hex."""
    name = target.decode("ascii", "replace")
    return name if name.isidentifier() else target.hex()


class _Side:
    """What both sides keep: how many bytes are missing, what has come, what the proofs are about."""

    def __init__(self, token: bytes, nonce: bytes) -> None:
        if len(token) != TOKEN_BYTES or len(nonce) != NONCE_BYTES:
            raise ValueError(f"a token has {TOKEN_BYTES} bytes, a nonce {NONCE_BYTES}")
        self._token, self._nonce = token, nonce
        self._data = b""
        #: How long the record is that is waited for; 0 once the handshake is over.
        self._size = 0
        self._magic = b""
        self._transcript = b""
        #: Who is there: what the other side says, not to be believed before it has proved itself.
        self.peer: Introduction | None = None

    @property
    def missing(self) -> int:
        """How many bytes have to come next, so that none is taken of what follows."""
        return self._size - len(self._data)

    @property
    def over(self) -> bool:
        """Whether both sides have proved themselves and agreed."""
        return self._size == 0

    def _expect(self, magic: bytes, size: int) -> None:
        self._magic, self._size, self._data = magic, size, b""

    def _collect(self, data: bytes) -> bytes | None:
        """The record, once it is whole. Raises NotAPeer at the first byte that cannot belong to one."""
        if len(data) > self.missing:
            raise NotAPeer(sentence(Refusal.NOT_A_PEER, None))
        self._data += data
        start = self._data[: len(self._magic)]
        if start != self._magic[: len(start)]:
            raise NotAPeer(sentence(Refusal.NOT_A_PEER, None))
        return self._data if len(self._data) == self._size else None

    def _proof(self, role: bytes, refusal: int = 0) -> bytes:
        return hmac.digest(self._token, role + bytes([refusal]) + self._transcript, "sha256")

    def _is_proof(self, offered: bytes, role: bytes, refusal: int = 0) -> bool:
        return hmac.compare_digest(offered, self._proof(role, refusal))

    def ended(self) -> HandshakeError:
        """The error if the other side closes the connection now."""
        return NotAPeer(
            f"it closed the connection before it had said enough ({len(self._data)} of {self._size} bytes): is this "
            "the address of a node of obsray?"
        )


class Dialer(_Side):
    """The side that connects: send ``opening``, then what ``receive`` returns, until it is ``over``."""

    def __init__(self, token: bytes, me: Hello, target: bytes, nonce: bytes) -> None:
        super().__init__(token, nonce)
        self._target = target
        self._hello = pack_introduction(me, target)
        self.opening = _OPENING.pack(_OPENING_MAGIC, self._hello, nonce)
        self._expect(_REPLY_MAGIC, REPLY_BYTES)

    def receive(self, data: bytes) -> bytes:
        """Bytes that came; returns what is to be sent now. Raises HandshakeError."""
        record = self._collect(data)
        if record is None:
            return b""
        if self._magic == _REPLY_MAGIC:
            return self._replied(record)
        self._judged(record)
        return b""

    def _replied(self, record: bytes) -> bytes:
        _, hello, nonce, proof = _REPLY.unpack(record)
        self.peer = unpack_introduction(hello)
        self._transcript = self._nonce + nonce + self._hello + hello
        if not self._is_proof(proof, b"listener"):
            raise self._refuse(Refusal.OTHER_TOKEN)
        self._expect(_VERDICT_MAGIC, PROOF_RECORD_BYTES)
        return _PROOF.pack(_PROOF_MAGIC, 0, self._proof(b"dialer"))

    def _refuse(self, refusal: Refusal) -> HandshakeError:
        error = _ERRORS[refusal](sentence(refusal, self.peer, self._target))
        error.last_words = _PROOF.pack(_PROOF_MAGIC, refusal, bytes(PROOF_BYTES))
        return error

    def _judged(self, record: bytes) -> None:
        _, verdict, proof = _PROOF.unpack(record)
        if verdict == Refusal.OTHER_TOKEN:
            raise OtherToken(sentence(Refusal.OTHER_TOKEN, self.peer), told=True)
        if verdict not in (Refusal.NONE, *_ERRORS) or not self._is_proof(proof, b"verdict", verdict):
            raise NotAPeer(sentence(Refusal.NOT_A_PEER, None))
        if verdict != Refusal.NONE:
            refusal = Refusal(verdict)
            raise _ERRORS[refusal](sentence(refusal, self.peer, self._target), told=True)
        self._expect(b"", 0)


class Answerer(_Side):
    """The side that listens. Once ``proven``, ``verdict`` makes the last record, and who asked is to be believed."""

    def __init__(self, token: bytes, me: Hello, nonce: bytes) -> None:
        super().__init__(token, nonce)
        self._hello = pack_introduction(me)
        self.proven = False
        self._expect(_OPENING_MAGIC, OPENING_BYTES)

    def receive(self, data: bytes) -> bytes:
        """Bytes that came; returns what is to be sent now. Raises HandshakeError, maybe with ``last_words`` to send."""
        record = self._collect(data)
        if record is None:
            return b""
        if self._magic == _OPENING_MAGIC:
            return self._opened(record)
        self._proved(record)
        return b""

    def _opened(self, record: bytes) -> bytes:
        _, hello, nonce = _OPENING.unpack(record)
        self.peer = unpack_introduction(hello)
        self._transcript = nonce + self._nonce + hello + self._hello
        self._expect(_PROOF_MAGIC, PROOF_RECORD_BYTES)
        return _REPLY.pack(_REPLY_MAGIC, self._hello, self._nonce, self._proof(b"listener"))

    def _proved(self, record: bytes) -> None:
        _, said, proof = _PROOF.unpack(record)
        if said == Refusal.OTHER_TOKEN:
            raise OtherToken(sentence(Refusal.OTHER_TOKEN, self.peer), told=True)
        if said != Refusal.NONE or not self._is_proof(proof, b"dialer"):
            error = OtherToken(sentence(Refusal.OTHER_TOKEN, self.peer))
            error.last_words = _PROOF.pack(_VERDICT_MAGIC, Refusal.OTHER_TOKEN, bytes(PROOF_BYTES))
            raise error
        assert self.peer is not None
        refusal = mismatch(self.peer)
        if refusal is not Refusal.NONE:
            refused = _ERRORS[refusal](sentence(refusal, self.peer))
            refused.last_words = self._pack_verdict(refusal)
            raise refused
        self.proven = True
        self._expect(b"", 0)

    def verdict(self, refusal: Refusal = Refusal.NONE) -> bytes:
        """The last record: the connection is made, or why not. Only once ``proven``."""
        assert self.proven
        return self._pack_verdict(refusal)

    def _pack_verdict(self, refusal: Refusal) -> bytes:
        return _PROOF.pack(_VERDICT_MAGIC, refusal, self._proof(b"verdict", refusal))
