"""Who does not hold the session's token gets nothing: not a byte is unpickled, not a page is shown."""

from __future__ import annotations

import json
import os
import pickle
import socket
import stat
import struct
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import psutil
import pytest

import obsray
from obsray.core.transport.connection import HELLO_BYTES, Hello, pack_hello
from obsray.telemetry.events import ProcessKind
from tests.integration.programs import eventually

pytestmark = pytest.mark.timeout(120)


@obsray.remote
class Idle:
    def answer(self) -> int:
        return 42


@pytest.fixture(scope="module")
def session() -> Iterator[Path]:
    context = obsray.init(num_cpus=1)
    assert context.wait_for_dashboard() and context.dashboard_url
    directory = Path(context.address_info["session_dir"])
    eventually(lambda: json.loads((directory / "session.json").read_text()).get("metrics_url"))
    yield directory
    obsray.shutdown()


@pytest.fixture(scope="module")
def actor(session: Path) -> Any:
    found = Idle.remote()
    assert obsray.get(found.answer.remote()) == 42
    return found


def facts(session: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((session / "session.json").read_text())
    return found


def token(session: Path) -> bytes:
    return (session / "token").read_bytes()


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def framed(data: bytes) -> bytes:
    return struct.pack("<I", len(data)) + data


def refused(path: Path, data: bytes) -> bool:
    """Whether whoever listens at ``path`` closes the connection without a word."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(30)
        sock.connect(str(path))
        try:
            sock.sendall(data)
            return sock.recv(1) == b""
        except (BrokenPipeError, ConnectionResetError):
            return True


def test_the_directory_and_the_token_are_for_their_user_alone(session):
    assert stat.S_IMODE(session.stat().st_mode) == stat.S_IMODE(session.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((session / "token").stat().st_mode) == 0o600
    assert len(token(session)) == 32
    readable = [path for path in session.rglob("*") if path.lstat().st_mode & 0o077 and not path.is_symlink()]
    assert not readable


def test_the_token_is_in_no_command_line_log_or_record(session, actor):
    raw, text = token(session), token(session).hex().encode()
    family = psutil.Process().children(recursive=True)
    assert len(family) >= 5
    for process in family:
        assert text not in " ".join(process.cmdline()).encode()
        assert text not in Path(f"/proc/{process.pid}/environ").read_bytes()
    for path in session.rglob("*"):
        if path.is_file() and path.name != "token":
            data = path.read_bytes()
            assert raw not in data and text not in data, path


def test_a_socket_closes_before_it_reads_anything_of_who_has_no_token(session, actor, tmp_path):
    canary = tmp_path / "canary"
    bomb = pickle.dumps(Bomb(canary))
    hello = Hello(os.urandom(8), int(ProcessKind.DRIVER), os.getpid())
    wrong = pack_hello(os.urandom(32), hello)
    sockets = [path for path in (session / "sockets").glob("*.sock") if path.name != "control.sock"]
    assert len(sockets) >= 3  # the node, this driver, a worker
    greetings = [
        wrong + framed(msgpack.packb([[20, bomb]])),
        pack_hello(bytes(32), hello),
        bomb.ljust(HELLO_BYTES, b"."),
        framed(bomb) + bomb * 20,
        struct.pack("<I", 0xFFFFFFFF) + bytes(200),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".ljust(HELLO_BYTES, b" "),
    ]
    for path in sockets:
        for greeting in greetings:
            assert refused(path, greeting), (path, greeting[:20])
    assert obsray.get(actor.answer.remote()) == 42
    assert not canary.exists()


def test_a_peer_that_has_the_token_but_talks_nonsense_is_cut_off_alone(session, actor):
    hello = pack_hello(token(session), Hello(os.urandom(8), int(ProcessKind.DRIVER), os.getpid()))
    for nonsense in (framed(b"\xc1" * 50), framed(msgpack.packb([[12345, "?"], 7, None])), b"\xff" * 64):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(30)
            sock.connect(str(session / "sockets" / "node.sock"))
            sock.sendall(hello + nonsense)
            while sock.recv(1 << 16):
                pass
    assert obsray.get(actor.answer.remote()) == 42


def status_of(url: str, method: str = "GET", **headers: str) -> int:
    request = urllib.request.Request(url, method=method, headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=30) as answer:
            assert not any(name.lower().startswith("access-control") for name in answer.headers)
            return int(answer.status)
    except urllib.error.HTTPError as error:
        assert not any(name.lower().startswith("access-control") for name in error.headers)
        return error.code


@pytest.mark.parametrize("name", ["metrics_url", "dashboard_url"])
def test_pages_and_metrics_are_for_holders_of_the_token(session, name):
    url = facts(session)[name].partition("?")[0]
    assert "127.0.0.1" in url
    mine = {"Authorization": f"Bearer {token(session).hex()}"}
    assert status_of(url, **mine) == 200
    for headers in (
        {},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {'0' * 64}"},
        {"Authorization": f"Basic {token(session).hex()}"},
        {"Cookie": f"obsray_8265={'0' * 64}"},
    ):
        assert status_of(url, **headers) == 401, headers
    assert status_of(url, **mine, Host="evil.test") in (403, 421)
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE"):
        assert status_of(url, method, **mine) in (403, 405, 501), method


def test_every_open_port_is_on_the_loopback_interface(session):
    mine = [psutil.Process(), *psutil.Process().children(recursive=True)]
    listening = [c for process in mine for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening
    assert {connection.laddr.ip for connection in listening} <= {"127.0.0.1", "::1"}
