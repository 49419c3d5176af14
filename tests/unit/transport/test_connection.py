"""Frames and the handshake: what a peer may send, and what happens if it sends something else."""

import random
import struct

import msgpack
import pytest

from obsray.core.transport.connection import (
    HELLO_BYTES,
    Connection,
    Hello,
    ProtocolError,
    check_hello,
    pack_hello,
)

TOKEN = bytes(range(32))
ME = Hello(b"worker__", 1, 4242)


def test_a_hello_with_the_right_token_says_who_is_there() -> None:
    assert check_hello(pack_hello(TOKEN, ME), TOKEN) == ME


@pytest.mark.parametrize("cut", [0, 1, 8, HELLO_BYTES - 1])
def test_a_hello_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(ProtocolError):
        check_hello(pack_hello(TOKEN, ME)[:cut], TOKEN)


def test_a_wrong_token_is_refused_before_anything_else_is_looked_at() -> None:
    hello = bytearray(pack_hello(bytes(32), ME))
    hello[8:12] = b"\xff\xff\xff\xff"  # versions that would be refused by name
    with pytest.raises(ProtocolError, match="wrong token"):
        check_hello(bytes(hello), TOKEN)


def test_another_version_is_refused_and_both_are_named() -> None:
    hello = bytearray(pack_hello(TOKEN, ME))
    hello[8:10] = struct.pack("<H", 999)
    with pytest.raises(ProtocolError, match=r"999.*1"):
        check_hello(bytes(hello), TOKEN)


def test_messages_arrive_whole_however_the_bytes_are_cut() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    sender, receiver = Connection(), Connection()
    sent = [(n, chance.randbytes(chance.randrange(3000)), [n] * (n % 5), None, {"k": 1.5}) for n in range(200)]
    stream, at = b"", 0
    while at < len(sent):
        count = chance.randrange(1, 9)
        stream += sender.pack(sent[at : at + count])
        at += count
    got, at = [], 0
    while at < len(stream):
        size = chance.randrange(1, 5000)
        got += receiver.receive(memoryview(stream[at : at + size]))
        at += size
    assert got == [(n, blob, tuple(many), none, extra) for n, blob, many, none, extra in sent]


def test_a_large_frame_is_not_copied_again_with_each_piece_that_comes() -> None:
    receiver = Connection()
    stream = Connection().pack([(1,)]) + Connection().pack([(2, bytes(1 << 20))])
    assert receiver.receive(memoryview(stream[:4096])) == [(1,)]
    kept = receiver._buffer
    for at in range(4096, len(stream) - 4096, 4096):
        assert receiver.receive(memoryview(stream[at : at + 4096])) == []
        assert receiver._buffer is kept
    rest = stream[4096 + len(range(4096, len(stream) - 4096, 4096)) * 4096 :]
    assert receiver.receive(memoryview(rest)) == [(2, bytes(1 << 20))]
    assert receiver._buffer is kept
    assert not kept


def test_a_frame_beyond_the_limit_is_refused_at_its_header() -> None:
    receiver = Connection(frame_bytes_max=1000)
    with pytest.raises(ProtocolError, match="1001"):
        receiver.receive(struct.pack("<I", 1001))
    with pytest.raises(ProtocolError, match="limit"):
        Connection(frame_bytes_max=10).pack([(1, b"x" * 100)])


@pytest.mark.parametrize(
    "body",
    [b"\xc1", b"", msgpack.packb(7), msgpack.packb([7]), msgpack.packb([[]]), msgpack.packb({"a": 1}), b"\x93\x01"],
    ids=lambda body: body.hex() or "empty",
)
def test_a_frame_that_is_not_a_list_of_messages_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        Connection().receive(struct.pack("<I", len(body)) + body)


def test_random_bytes_never_raise_anything_but_a_protocol_error() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    for _ in range(3000):
        body = chance.randbytes(chance.randrange(0, 200))
        data = struct.pack("<I", len(body)) + body if chance.random() < 0.8 else body
        try:
            Connection(frame_bytes_max=1 << 16).receive(data)
        except ProtocolError:
            pass


def test_lone_surrogates_travel() -> None:
    assert Connection().receive(Connection().pack([(1, "\udcff")])) == [(1, "\udcff")]
