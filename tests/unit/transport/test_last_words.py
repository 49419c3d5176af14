"""What a process sent before it died is read, also by somebody who knows already that it is dead."""

from __future__ import annotations

import socket

import pytest

from obsray.core.transport.connection import Connection, Hello
from obsray.core.transport.links import Link, Reactor


@pytest.fixture
def ends():
    """A reactor with one link, what it receives, and the peer's socket."""
    received: list[object] = []
    reactor = Reactor(lambda link, messages: received.extend(messages), lambda link: received.append("closed"))
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    link = reactor.adopt(ours, Hello(b"worker_1", 1, 1))
    yield reactor, link, received, theirs
    theirs.close()
    reactor.shutdown()


def test_everything_up_to_the_end_is_handled_in_order(ends: tuple[Reactor, Link, list[object], socket.socket]):
    reactor, link, received, theirs = ends
    peer = Connection()
    for number in range(3):
        theirs.sendall(peer.pack([(number, b"x" * 20_000)]))
    theirs.close()
    reactor.read_to_end(link)
    assert [message[0] for message in received[:-1]] == [0, 1, 2] and received[-1] == "closed"
    reactor.read_to_end(link)
    assert len(received) == 4


def test_a_peer_that_lives_is_not_waited_for(ends: tuple[Reactor, Link, list[object], socket.socket]):
    reactor, link, received, theirs = ends
    theirs.sendall(Connection().pack([(1,)]))
    reactor.read_to_end(link)
    assert received == [(1,)] and not link.closed
