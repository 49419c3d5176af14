"""Dialing over real sockets: every address that is not a node's is an error with a sentence, within the time given."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from obsray.core.node.doorman import Doorman
from obsray.core.protocol.addresses import join
from obsray.core.transport import handshake
from obsray.core.transport.connection import Connection, Hello, pack_hello
from obsray.core.transport.dial import (
    TRANSFER_TARGET,
    Unreachable,
    dial,
    is_address,
    split_address,
)
from obsray.core.transport.handshake import HandshakeError, NotAPeer, OtherToken, OtherVersion, UnknownTarget
from obsray.core.transport.links import Link, Reactor
from obsray.telemetry.events import ProcessKind

pytestmark = pytest.mark.timeout(30)

TOKEN = os.urandom(32)
NODE, WORKER = b"node____", b"worker__"
ME = Hello(b"driver__", int(ProcessKind.DRIVER), os.getpid())


class Running:
    """A reactor in a thread that answers every message with the same. ``seen`` is what happened, in order."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.happened = threading.Condition()
        self.reactor = Reactor(self._on_messages, lambda link: self.see("closed"))
        self._ending = False
        self._thread = threading.Thread(target=self._run)

    def _on_messages(self, link: Link, messages: list[tuple[object, ...]]) -> None:
        self.see(("messages", link.peer, messages))
        for message in messages:
            link.send(message)

    def see(self, what: object) -> None:
        with self.happened:
            self.seen.append(what)
            self.happened.notify_all()

    def wait(self, there: Callable[[object], bool]) -> object:
        with self.happened:
            assert self.happened.wait_for(lambda: any(map(there, self.seen)), 10), self.seen
            return next(filter(there, self.seen))

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        while not self._ending:
            self.reactor.run_once(5)

    def end(self) -> None:
        self._ending = True
        self.reactor.wake()
        self._thread.join()
        self.reactor.shutdown()


class House:
    """A node's door and one worker behind it."""

    def __init__(self, directory, host: str = "127.0.0.1") -> None:
        (directory / "sockets").mkdir()
        self.node, self.worker = Running(), Running()
        self.lines: list[str] = []
        self.door = Doorman(
            self.node.reactor, NODE, directory, TOKEN, join(host, 0),
            lambda link: self.node.see(("peer", link.peer)), self.transfer, self.tell,
        )  # fmt: skip
        path = directory / "sockets" / f"{WORKER.hex()}.sock"
        self.worker.reactor.listen(path, TOKEN, lambda link: self.worker.see(("link", link.peer)))
        self.address = self.door.address
        self.node.start()
        self.worker.start()

    def transfer(self, sock: socket.socket, hello: Hello) -> None:
        assert sock.getblocking()
        sock.sendall(b"objects for " + hello.worker)
        sock.close()

    def tell(self, line: str) -> None:
        self.lines.append(line)
        self.node.see(line)

    def told(self, words: str) -> str:
        return str(self.node.wait(lambda what: isinstance(what, str) and words in what))

    def end(self) -> None:
        self.node.end()
        self.worker.end()


@pytest.fixture
def house(tmp_path) -> Iterator[House]:
    found = House(tmp_path)
    yield found
    found.end()


def round_trip(sock: socket.socket, message: tuple[object, ...]) -> object:
    connection = Connection()
    sock.sendall(connection.pack([message]))
    received: list[object] = []
    while not received:
        received += connection.receive(sock.recv(1 << 16))
    return received[0]


def test_a_worker_is_reached_through_its_node_and_talks_to_the_peer_itself(house):
    with dial(house.address, TOKEN, ME, WORKER) as sock:
        assert round_trip(sock, (7, b"x" * 1_000_000)) == (7, b"x" * 1_000_000)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert house.worker.wait(lambda what: what[0] == "link") == ("link", Hello(ME.worker, ME.kind, ME.pid, remote=True))
    assert not house.node.seen
    house.worker.wait(lambda what: what == "closed")


def test_transfers_get_a_plain_socket(house):
    with dial(house.address, TOKEN, ME, TRANSFER_TARGET) as sock:
        assert sock.makefile("rb").read() == b"objects for driver__"


def test_two_nodes_are_linked_by_one_call(house, tmp_path_factory):
    other = Running()
    directory = tmp_path_factory.mktemp("other")
    door = Doorman(
        other.reactor, b"greater_", directory, TOKEN, "127.0.0.1:0", lambda link: other.see(("peer", link.peer)),
        lambda sock, hello: None, lambda line: None,
    )  # fmt: skip
    other.start()
    try:
        other.reactor.post(lambda: door.call(NODE, house.address, lambda node, error: other.see(error)))
        assert other.wait(lambda what: what[0] == "peer")[1].worker == NODE
        assert house.node.wait(lambda what: what[0] == "peer")[1].worker == b"greater_"
        nowhere = f"127.0.0.1:{free_port()}"
        other.reactor.post(lambda: door.call(NODE, nowhere, lambda node, error: other.see(error)))
        assert nowhere in str(other.wait(lambda what: isinstance(what, Unreachable)))
    finally:
        other.end()


def test_who_is_not_a_node_is_no_peer_of_one(house):
    with pytest.raises(UnknownTarget):
        dial(house.address, TOKEN, ME, NODE)


@pytest.mark.parametrize("target", [b"nobody__", b"control", b"collector", b"../x", b""])
def test_a_target_that_is_not_there_is_named_on_both_sides(house, target):
    with pytest.raises(UnknownTarget) as error:
        dial(house.address, TOKEN, ME, target)
    assert house.address in str(error.value) and handshake.shown(target) in str(error.value)
    assert ME.worker.hex() in house.told("nobody with the name")


def test_another_token_is_named_on_both_sides(house):
    with pytest.raises(OtherToken, match="another token"):
        dial(house.address, os.urandom(32), ME, WORKER)
    assert "another token" in house.told("refused by")


def test_other_sources_are_named_on_both_sides(house):
    code = """
import os, sys
from obsray.core.transport import connection, handshake
from obsray.core.transport.dial import dial
handshake.BUILD ^= 1
try:
    dial(sys.argv[1], bytes.fromhex(sys.stdin.read()), connection.Hello(b"driver__", 1, 1), b"worker__")
except handshake.OtherVersion as error:
    print(error)
"""
    command = [sys.executable, "-c", code, house.address]
    said = subprocess.run(command, input=TOKEN.hex(), capture_output=True, text=True, timeout=20)
    assert "PYTHONPATH" in said.stdout, said
    assert "PYTHONPATH" in house.told("refused 127.0.0.1")
    assert issubclass(OtherVersion, ConnectionError)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_an_address_without_a_listener_is_an_error_at_once():
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable, match=rf"{address}: nobody listens there"):
        dial(address, TOKEN, ME, WORKER)


def test_a_name_that_means_nothing_is_an_error():
    with pytest.raises(Unreachable, match=r"'nobody\.invalid'"):
        dial("nobody.invalid:1", TOKEN, ME, WORKER, 3.0)


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:x", "host:70000", "::1:5", "host:-1", "host:١"])
def test_what_is_no_address_is_a_value_error(address):
    with pytest.raises(ValueError, match="is not an address"):
        dial(address, TOKEN, ME, WORKER)


def test_addresses_are_written_as_they_are_read():
    for host, port in (("10.0.0.1", 1), ("::1", 65535), ("node-1.example", 6379)):
        assert split_address(join(host, port)) == (host, port)
    assert is_address("[::1]:5") and is_address("host:5") and not is_address("/tmp/a:b/x.sock") and not is_address("")


class Stranger:
    """Somebody else's server: what it does with a connection is ``behave``'s business."""

    def __init__(self, behave: Callable[[socket.socket], None]) -> None:
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.server.getsockname()[1]}"
        self._behave = behave
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        sock, _ = self.server.accept()
        with sock:
            try:
                self._behave(sock)
                # Until the other side has had enough.
                while sock.recv(4096):
                    pass
            except OSError:
                pass

    def close(self) -> None:
        self._thread.join()
        self.server.close()


def echo(sock: socket.socket) -> None:
    while data := sock.recv(4096):
        sock.sendall(data)


def http(sock: socket.socket) -> None:
    sock.recv(4096)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def dribble(sock: socket.socket) -> None:
    for byte in b"OBSRAY\x01r" + bytes(200):
        sock.sendall(bytes([byte]))
        sock.settimeout(0.05)
        try:
            if not sock.recv(4096):
                return
        except TimeoutError:
            pass


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        (lambda sock: None, "did not say enough within 0.5 s"),
        (echo, "does not speak obsray's protocol"),
        (http, "does not speak obsray's protocol"),
        (dribble, "did not say enough within 0.5 s"),
        (lambda sock: sock.shutdown(socket.SHUT_RDWR), "closed the connection|ended the connection"),
        (lambda sock: sock.sendall(b"OBSRAY\x01r" + bytes(144)), "another token"),
    ],
    ids=["silent", "echo", "http", "dribble", "leaves", "forged"],
)
def test_a_stranger_on_the_port_is_an_error_and_never_a_hang(behave, words):
    stranger = Stranger(behave)
    started = time.monotonic()
    try:
        with pytest.raises(HandshakeError, match=words) as error:
            dial(stranger.address, TOKEN, ME, WORKER, 0.5)
        assert stranger.address in str(error.value)
        assert isinstance(error.value, NotAPeer | OtherToken)
        assert time.monotonic() - started < 3
    finally:
        stranger.close()


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"OBSRAY\x01o", b"\x16\x03\x01" + bytes(300)])
def test_strangers_at_the_door_are_shown_out_and_others_let_in_meanwhile(house, said, monkeypatch):
    monkeypatch.setattr("obsray.core.transport.tcp.HANDSHAKE_SECONDS_MAX", 0.5)
    with socket.create_connection(split_address(house.address)) as stranger:
        stranger.settimeout(10)
        stranger.sendall(said)
        dial(house.address, TOKEN, ME, WORKER).close()
        try:
            assert stranger.recv(1) == b""
        except ConnectionResetError:
            pass
    assert house.told("refused 127.0.0.1")


def test_however_many_wait_at_the_door_a_peer_gets_in(house):
    crowd = [socket.create_connection(split_address(house.address)) for _ in range(300)]
    try:
        with dial(house.address, TOKEN, ME, WORKER) as sock:
            assert round_trip(sock, (1,)) == (1,)
    finally:
        for sock in crowd:
            sock.close()


def test_a_worker_takes_a_connection_from_its_node_alone(house, tmp_path):
    """A hello that says a connection is handed over needs the token, and exactly one descriptor."""
    path = str(tmp_path / "sockets" / f"{WORKER.hex()}.sock")
    remote = Hello(b"peer____", 1, 1, remote=True)
    near, far = socket.socketpair()
    for token, hello, fds in (
        (bytes(32), remote, [far.fileno()]),
        (TOKEN, remote, []),
        (TOKEN, ME, [far.fileno()]),
    ):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(path)
            data = pack_hello(token, hello)
            socket.send_fds(sock, [data], fds) if fds else sock.sendall(data)
            assert sock.recv(1) == b""
    far.close()
    near.settimeout(10)
    # No copy of the descriptor is left anywhere: its other end is at an end.
    assert near.recv(1) == b""
    assert not house.worker.seen
    near.close()


def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="the port is taken"):
        Doorman(
            Reactor(lambda link, messages: None, lambda link: None), NODE, tmp_path, TOKEN,
            f"127.0.0.1:{taken.getsockname()[1]}", lambda link: None, lambda sock, hello: None, lambda line: None,
        )  # fmt: skip


def test_ipv6_and_names_are_addresses_too(tmp_path):
    house = House(tmp_path, "::1")
    try:
        assert house.address.startswith("[::1]:")
        with dial(house.address, TOKEN, ME, WORKER) as sock:
            assert round_trip(sock, (1, "six")) == (1, "six")
    finally:
        house.end()


def test_a_host_name_is_looked_up(house):
    with dial(f"localhost:{split_address(house.address)[1]}", TOKEN, ME, WORKER) as sock:
        assert round_trip(sock, (1,)) == (1,)
