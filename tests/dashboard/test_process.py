"""The process: where it listens, what it writes down, when it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from served import served

from obsray.dashboard import process
from obsray.telemetry import session_file
from obsray.testing.recorded_session import record_session


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    recorded = record_session(tmp_path / "s_20260101-000000_3", tasks=50).directory
    (recorded / "token").write_bytes(os.urandom(32))
    return recorded


def listening_addresses(pid: int) -> set[str]:
    """Local addresses (hex, as the kernel prints them) of the listening sockets of a process."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except FileNotFoundError:
            # Closed since.
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
    ]
    return {row[1] for row in rows if row[3] == "0A" and row[9] in inodes}


def test_it_listens_on_the_loopback_address_only_and_says_where(directory):
    with served(directory) as dashboard:
        port = int(dashboard.url.rpartition(":")[2])
        assert listening_addresses(dashboard.process.pid) == {f"0100007F:{port:04X}"}
        facts = session_file.read(directory)
        assert (facts["dashboard_url"], facts["dashboard_pid"]) == (dashboard.url, dashboard.process.pid)
        assert dashboard.get("/healthz", token="") == (200, "ok\n")
        assert dashboard.get("/tasks")[0] == 200
        assert dashboard.get("/tasks", token="00" * 32)[0] == 401
    # Whoever looks for it later must not find an address that somebody else may hold by then.
    assert session_file.read(directory)["dashboard_url"] is None
    assert dashboard.token not in "".join(dashboard.log)


def test_a_taken_port_is_said_and_the_next_free_one_is_used(directory):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with served(directory, port) as dashboard:
            assert int(dashboard.url.rpartition(":")[2]) > port
            assert any(f"port {port} is taken" in line and dashboard.url in line for line in dashboard.log)


def test_no_free_port_is_an_error_with_the_range(monkeypatch):
    class Taken:
        def __init__(self, *_: object) -> None: ...
        def setsockopt(self, *_: object) -> None: ...
        def close(self) -> None: ...
        def bind(self, _: object) -> None:
            raise OSError(98, "Address already in use")

    monkeypatch.setattr(process.socket, "socket", Taken)
    with pytest.raises(OSError, match="no free port between 8265 and 8328"):
        process.bind(8265)


def test_it_ends_by_itself_when_its_node_ends(directory):
    node = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    session_file.update(directory, node_pid=node.pid)
    with served(directory) as dashboard:
        assert dashboard.get("/healthz")[0] == 200
        node.kill()
        # Not reaped yet: a node that is a zombie is gone as well.
        assert dashboard.process.wait(30) == 0
    node.communicate()


def test_it_serves_a_recorded_session_until_it_is_told_to_stop(directory):
    session_file.update(directory, node_pid=(1 << 22) + 1)
    with served(directory) as dashboard:
        assert "recorded" in dashboard.get("/")[1]
        dashboard.process.send_signal(signal.SIGINT)
        assert dashboard.process.wait(30) == 0


@pytest.mark.parametrize("token", [None, b"", b"short"])
def test_without_a_good_token_it_does_not_serve(directory, token):
    (directory / "token").unlink()
    if token is not None:
        (directory / "token").write_bytes(token)
    command = [sys.executable, "-m", "obsray.dashboard.process", "--session-dir", str(directory)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1 and "token" in ended.stderr


def test_it_imports_nothing_of_the_node_or_the_control_store():
    code = "import sys, json, obsray.dashboard.process; print(json.dumps(list(sys.modules)))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60).stdout)
    assert [name for name in loaded if name.startswith("obsray.dashboard")]
    inside = ("obsray.core.node", "obsray.core.control", "obsray.core.runtime", "obsray.core.transport")
    assert not [name for name in loaded if name.startswith(inside)]
