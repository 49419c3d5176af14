"""The handshake of TCP as bytes: who proves that he knows the token, who does not, and what each side can say then."""

from __future__ import annotations

import random
import sys

import pytest

from obsray.core.transport import handshake
from obsray.core.transport.connection import BUILD, PROTOCOL_VERSION, Hello
from obsray.core.transport.handshake import (
    OPENING_BYTES,
    PROOF_RECORD_BYTES,
    REPLY_BYTES,
    Answerer,
    Dialer,
    HandshakeError,
    NotAPeer,
    OtherProtocol,
    OtherPython,
    OtherToken,
    OtherVersion,
    Refusal,
    TargetBusy,
    UnknownTarget,
    pack_introduction,
    unpack_introduction,
)

TOKEN = bytes(range(32))
OTHER = bytes(32)
CALLER = Hello(b"caller__", 1, 4242)
NODE = Hello(b"node____", 4, 17)
TARGET = b"worker__"


def nonce(seed: int) -> bytes:
    return random.Random(seed).randbytes(32)


def sides(theirs: bytes = TOKEN, ours: bytes = TOKEN) -> tuple[Dialer, Answerer]:
    return Dialer(theirs, CALLER, TARGET, nonce(1)), Answerer(ours, NODE, nonce(2))


def meet(dialer: Dialer, answerer: Answerer, verdict: Refusal = Refusal.NONE) -> None:
    proof = dialer.receive(answerer.receive(dialer.opening))
    assert answerer.receive(proof) == b""
    assert dialer.receive(answerer.verdict(verdict)) == b""


def fail(dialer: Dialer, answerer: Answerer) -> tuple[HandshakeError, HandshakeError]:
    """What each side says of a meeting that comes to nothing: first the dialer, then the listener."""
    reply = answerer.receive(dialer.opening)
    try:
        proof = dialer.receive(reply)
    except HandshakeError as error:
        with pytest.raises(HandshakeError) as told:
            answerer.receive(error.last_words)
        return error, told.value
    with pytest.raises(HandshakeError) as refusing:
        answerer.receive(proof)
    with pytest.raises(HandshakeError) as refused:
        dialer.receive(refusing.value.last_words)
    return refused.value, refusing.value


def test_both_sides_know_who_is_there_and_the_token_is_never_sent():
    dialer, answerer = sides()
    reply = answerer.receive(dialer.opening)
    proof = dialer.receive(reply)
    answerer.receive(proof)
    verdict = answerer.verdict()
    dialer.receive(verdict)
    assert dialer.over and answerer.over and answerer.proven
    assert answerer.peer is not None and answerer.peer.hello == CALLER and answerer.peer.target == TARGET
    assert dialer.peer is not None and dialer.peer.hello == NODE
    assert list(map(len, (dialer.opening, reply, proof, verdict))) == [
        OPENING_BYTES, REPLY_BYTES, PROOF_RECORD_BYTES, PROOF_RECORD_BYTES,
    ]  # fmt: skip
    assert TOKEN not in dialer.opening + reply + proof + verdict


def test_bytes_may_come_one_by_one():
    dialer, answerer = sides()

    def trickle(data: bytes, side: Dialer | Answerer) -> bytes:
        return b"".join(side.receive(data[at : at + 1]) for at in range(len(data)))

    proof = trickle(trickle(dialer.opening, answerer), dialer)
    trickle(proof, answerer)
    assert not dialer.over
    trickle(answerer.verdict(), dialer)
    assert dialer.over


def test_each_side_says_that_the_tokens_differ():
    refused, told = fail(*sides(theirs=OTHER))
    assert type(refused) is type(told) is OtherToken
    assert "another token" in str(refused) and not refused.told
    assert "another token" in str(told) and told.told


def test_a_listener_tells_who_answers_with_a_proof_of_another_token():
    # A dialer that does not care whether the listener has proved itself.
    dialer, answerer = sides(theirs=OTHER)
    answerer.receive(dialer.opening)
    with pytest.raises(OtherToken) as error:
        answerer.receive(handshake._PROOF.pack(b"OBSRAY\x01p", 0, bytes(32)))
    assert not answerer.proven
    dialer._expect(b"OBSRAY\x01v", PROOF_RECORD_BYTES)
    with pytest.raises(OtherToken) as told:
        dialer.receive(error.value.last_words)
    assert told.value.told


OTHERS = {
    OtherProtocol: ("PROTOCOL_VERSION", PROTOCOL_VERSION + 1, "protocol"),
    OtherVersion: ("BUILD", BUILD ^ 1, "build"),
}


@pytest.mark.parametrize("kind", OTHERS, ids=lambda kind: kind.__name__)
def test_another_version_is_named_by_both_sides(kind, monkeypatch):
    name, value, word = OTHERS[kind]
    with monkeypatch.context() as patch:
        patch.setattr(handshake, name, value)
        dialer = Dialer(TOKEN, CALLER, TARGET, nonce(1))
    refused, refusing = fail(dialer, Answerer(TOKEN, NODE, nonce(2)))
    assert type(refused) is type(refusing) is kind
    assert refused.told and not refusing.told
    assert word in str(refused) and word in str(refusing)


def test_another_python_is_named_by_both_sides(monkeypatch):
    dialer, _ = sides()
    python = type("python", (), {"major": 3, "minor": 99})
    with monkeypatch.context() as patch:
        patch.setattr(handshake.sys, "version_info", python)
        dialer = Dialer(TOKEN, CALLER, TARGET, nonce(1))
    refused, refusing = fail(dialer, Answerer(TOKEN, NODE, nonce(2)))
    assert type(refused) is type(refusing) is OtherPython
    assert "3.99" in str(refusing) and ".".join(map(str, sys.version_info[:2])) in str(refusing)


@pytest.mark.parametrize(("refusal", "kind"), [(Refusal.UNKNOWN_TARGET, UnknownTarget), (Refusal.BUSY, TargetBusy)])
def test_a_target_that_cannot_be_had_is_named(refusal, kind):
    with pytest.raises(kind, match=TARGET.decode()):
        meet(*sides(), refusal)


def test_a_reflection_of_ones_own_bytes_proves_nothing():
    dialer, _ = sides()
    with pytest.raises(NotAPeer):
        dialer.receive(dialer.opening[:REPLY_BYTES])
    # Nor does it with the right magic in front: an echo that has learned how a reply begins.
    dialer, _ = sides()
    forged = handshake._REPLY.pack(b"OBSRAY\x01r", pack_introduction(NODE), nonce(1), bytes(32))
    with pytest.raises(OtherToken):
        dialer.receive(forged)


def test_two_dialers_and_two_listeners_do_not_let_each_other_in():
    first, second = Dialer(TOKEN, CALLER, TARGET, nonce(1)), Dialer(TOKEN, NODE, TARGET, nonce(3))
    with pytest.raises(NotAPeer):
        first.receive(second.opening)
    # A listener's proof, used by somebody who was asked for one, is not a dialer's.
    dialer, answerer = sides()
    reply = answerer.receive(dialer.opening)
    proof_of_listener = handshake._REPLY.unpack(reply)[3]
    with pytest.raises(OtherToken):
        answerer.receive(handshake._PROOF.pack(b"OBSRAY\x01p", 0, proof_of_listener))


def test_a_proof_is_of_no_use_in_another_connection():
    dialer, answerer = sides()
    proof = dialer.receive(answerer.receive(dialer.opening))
    later = Answerer(TOKEN, NODE, nonce(5))
    later.receive(dialer.opening)
    with pytest.raises(OtherToken):
        later.receive(proof)


def test_a_verdict_cannot_be_turned_into_another():
    dialer, answerer = sides()
    answerer.receive(dialer.receive(answerer.receive(dialer.opening)))
    refused = bytearray(answerer.verdict(Refusal.UNKNOWN_TARGET))
    refused[8] = Refusal.NONE
    with pytest.raises(NotAPeer):
        dialer.receive(bytes(refused))
    assert not dialer.over


@pytest.mark.parametrize("record", ["opening", "reply", "proof", "verdict"])
def test_a_change_of_any_byte_ends_the_handshake(record):
    """Every byte but those of the padding, which mean nothing, counts in a proof."""
    size = {"opening": OPENING_BYTES, "reply": REPLY_BYTES}.get(record, PROOF_RECORD_BYTES)
    padding = range(9, 16) if record in ("proof", "verdict") else range(0)
    for at in range(size):
        if at in padding:
            continue
        dialer, answerer = sides()

        def spoil(data: bytes, name: str, at: int = at) -> bytes:
            return data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :] if name == record else data

        with pytest.raises(HandshakeError):
            reply = answerer.receive(spoil(dialer.opening, "opening"))
            answerer.receive(spoil(dialer.receive(spoil(reply, "reply")), "proof"))
            dialer.receive(spoil(answerer.verdict(), "verdict"))
        assert not dialer.over, at


def test_whoever_leaves_in_the_middle_is_no_peer_wherever_he_was():
    for kept in (0, 1, 8, OPENING_BYTES - 1):
        _, answerer = sides()
        answerer.receive(sides()[0].opening[:kept])
        assert answerer.missing == OPENING_BYTES - kept and not answerer.proven
        assert isinstance(answerer.ended(), NotAPeer) and f"{kept} of {OPENING_BYTES}" in str(answerer.ended())


@pytest.mark.parametrize(
    "said", [b"HTTP/1.1 400 Bad Request\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00", b"\xff" * 40, b"OBSRAY\x00\x01"]
)
def test_a_stranger_is_known_by_his_first_bytes(said):
    for side in sides():
        with pytest.raises(NotAPeer, match="does not speak obsray's protocol"):
            side.receive(said)


def test_random_bytes_raise_nothing_but_a_handshake_error():
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(2000):
        side = chance.choice(sides())
        start = side._magic[: chance.randrange(9)]
        data = (start + chance.randbytes(chance.randrange(200)))[: side.missing]
        try:
            side.receive(data)
        except HandshakeError:
            pass
        assert not side.over


def test_more_than_a_record_is_not_taken():
    _, answerer = sides()
    with pytest.raises(NotAPeer):
        answerer.receive(sides()[0].opening + b"x")


def test_what_a_hello_says_is_only_ever_shown_as_printable_text():
    data = bytearray(pack_introduction(CALLER, TARGET))
    at = bytes(data).index(handshake.VERSION.encode())
    data[at : at + 5] = b"\x1b[31m"
    assert unpack_introduction(bytes(data)).version.isprintable()


def test_what_cannot_be_a_target_or_a_token_is_refused_at_once():
    with pytest.raises(ValueError, match="32 bytes"):
        Dialer(TOKEN, CALLER, b"x" * 33, nonce(1))
    with pytest.raises(ValueError, match="token"):
        Answerer(b"short", NODE, nonce(1))
