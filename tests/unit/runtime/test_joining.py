"""Which runtime an address means, and what is said where none can be joined."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from obsray.core import parameters
from obsray.core.runtime import joining
from obsray.core.runtime.joining import Address
from obsray.core.transport.connection import PROTOCOL_VERSION

MINE = os.getuid()


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of this user's sessions, and no other; short, because a socket's path may have 107 bytes."""
    for variable in joining.VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    with tempfile.TemporaryDirectory(prefix="o") as root:
        found = Path(root) / f"obsray-{MINE}"
        found.mkdir()
        monkeypatch.setattr(joining, "_bases", lambda temp_dir=None: [found])
        yield found


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    found: list[socket.socket] = []
    yield found
    for each in found:
        each.close()


def session(base: Path, name: str, started: int, listening: list[socket.socket] | None = None, **facts: Any) -> Path:
    """A session directory; its node listens if there is a list to keep the socket in."""
    directory = base / name
    (directory / "sockets").mkdir(parents=True)
    (directory / "token").write_bytes(bytes(32))
    told = {"node_pid": 1, "started_at_ns": started, "directory": str(directory), **facts}
    (directory / "session.json").write_text(json.dumps(told))
    if listening is not None:
        listening.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listening[-1].bind(str(directory / "sockets" / "node.sock"))
        listening[-1].listen()
    return directory


def refused(text: str, given: str = "init(address=...)") -> str:
    with pytest.raises(ConnectionError) as caught:
        joining.find(Address(text, given))
    return str(caught.value)


def test_without_an_address_a_runtime_is_started(base, monkeypatch):
    assert joining.wanted(None) is None and joining.wanted("local") is None and joining.wanted("") is None
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert joining.wanted(None) is None
    with pytest.raises(TypeError, match="address=5"):
        joining.wanted(5)  # type: ignore[arg-type]


def test_who_names_no_runtime_joins_what_obsray_start_started_while_it_lives(base, sockets, monkeypatch):
    head, node = session(base, "s_head", 1, sockets), session(base, "s_node", 2, sockets)
    joining.announce(node, head=False)
    assert joining.wanted(None).text == str(node)
    joining.announce(head, head=True)
    joining.announce(node, head=False)
    assert joining.wanted(None).text == str(head), "the head is there still"
    assert joining.wanted(None, starts=True) is None and joining.wanted("local") is None
    monkeypatch.setenv("OBSRAY_ADDRESS", "local")
    assert joining.wanted(None) is None
    monkeypatch.delenv("OBSRAY_ADDRESS")
    (head / "token").unlink()
    assert joining.wanted(None) is None, "what has ended is not joined"
    joining.announce(node, head=False)
    assert joining.wanted(None).text == str(node)
    (base / joining.CURRENT).write_bytes(b"\xff\x00")
    assert joining.wanted(None) is None


def test_what_the_program_says_wins_over_the_environment_and_our_variable_over_rays(base, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "/theirs")
    assert joining.wanted(None) == Address("/theirs", "RAY_ADDRESS=/theirs")
    monkeypatch.setenv("OBSRAY_ADDRESS", "/ours")
    assert joining.wanted(None) == Address("/ours", "OBSRAY_ADDRESS=/ours")
    assert joining.wanted("auto") == Address("auto", "init(address='auto')")
    assert joining.wanted("local") is None


def test_auto_means_the_newest_that_lives(base, sockets):
    session(base, "s_old", 1, sockets)
    living = session(base, "s_living", 2, sockets)
    session(base, "s_dead", 3)
    assert joining.find(Address("auto", "")) == living
    assert joining.running_sessions()[0] == living and len(joining.running_sessions()) == 2


def test_auto_means_one_of_the_programs_own_directory_before_a_newer_one_elsewhere(base, sockets, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="o") as root:
        session(Path(root), "s_of_others", 9, sockets, head=True)
        mine = session(base, "s_mine", 1, sockets, head=True)
        monkeypatch.setattr(joining, "_bases", lambda temp_dir=None: [base, Path(root)])
        assert joining.find(Address("auto", "")) == mine
        (mine / "token").unlink()
        sockets[-1].close()
        assert joining.find(Address("auto", "")).name == "s_of_others"


def test_a_session_goes_by_its_path_its_name_and_the_link_to_the_latest(base, sockets):
    living = session(base, "s_living", 2, sockets)
    (base / "latest").symlink_to("s_living")
    for text in (str(living), "s_living", "latest", str(base / "latest"), f"{living}/"):
        assert joining.find(Address(text, "")) == living


@pytest.mark.parametrize("text", ["127.0.0.1:9", "ray://host:10001", "nonsense", "/no/such/place", "auto"])
def test_where_nothing_runs_the_error_says_what_to_do(base, text):
    said = refused(text, f"RAY_ADDRESS={text}")
    assert said.startswith(f"RAY_ADDRESS={text}: ")
    assert "Start one with obsray.init() in another program" in said and "'local'" in said


def test_the_error_lists_what_could_be_joined(base, sockets):
    living = session(base, "s_living", 2, sockets)
    dead = session(base, "s_dead", 3)
    said = refused(str(dead))
    assert "has ended" in said and f"Running now: {living}" in said


def test_a_directory_of_somebody_else_is_refused(base, sockets, monkeypatch):
    living = session(base, "s_living", 2, sockets)
    monkeypatch.setattr("os.getuid", lambda: MINE + 1)
    assert "belongs to" in refused(str(living))


def test_files_and_other_directories_are_no_sessions(base, tmp_path):
    (tmp_path / "file").write_text("")
    assert "is not a directory" in refused(str(tmp_path / "file"))
    assert "is not the directory of a session" in refused(str(tmp_path))
    assert "no directory" in refused(str(tmp_path / "file" / "below"))


def test_another_version_is_named_with_ours():
    facts = {"protocol": PROTOCOL_VERSION + 1, "version": "9.9", "python": "3.99"}
    said = joining._check_version(facts, "0.1.0")
    assert "obsray 9.9 with Python 3.99" in said and "obsray 0.1.0" in said
    assert "unknown" in joining._check_version({}, "0.1.0")


def test_what_only_the_starter_decides_is_a_value_error_when_joining():
    parameters.refuse_when_joining("init(address='auto')", {"num_cpus": None, "labels": None})
    with pytest.raises(ValueError, match="num_cpus and num_gpus must not be provided"):
        parameters.refuse_when_joining("RAY_ADDRESS=auto", {"num_cpus": 2, "labels": None})
    with pytest.raises(ValueError, match="labels and _node_name must not be provided"):
        parameters.refuse_when_joining("init(address='auto')", {"num_cpus": None, "labels": {}, "_node_name": "x"})
    with pytest.warns(RuntimeWarning, match="include_dashboard and dashboard_port makes no difference"):
        parameters.refuse_when_joining("RAY_ADDRESS=auto", {"include_dashboard": False, "dashboard_port": 1})
    with pytest.raises(ValueError, match="num_cpus and num_gpus must"):
        parameters.refuse_when_joining("RAY_ADDRESS=auto", {"include_dashboard": False, "num_cpus": 1})
    anyway = {
        "_enable_object_reconstruction": True,
        "_redis_password": "5241590000000000",
        "_redis_username": "default",
    }
    parameters.refuse(anyway, [])


def test_the_address_of_a_cluster_means_a_node_of_it_on_this_machine_the_head_if_it_is_here(base, sockets):
    cluster = {"control_address_tcp": "127.0.0.1:7001"}
    session(base, "s_other", 4, sockets, head=True, control_address_tcp="127.0.0.1:7002")
    session(base, "s_ended", 5, None, head=False, **cluster)
    head = session(base, "s_head", 1, sockets, head=True, node_address="127.0.0.1:9001", **cluster)
    node = session(base, "s_node", 3, sockets, head=False, node_address="127.0.0.1:9002", **cluster)
    assert joining.find(Address("127.0.0.1:7001", "")) == joining.find(Address("localhost:7001", "")) == head
    assert joining.find(Address("127.0.0.1:9002", "")) == node
    # Of all that run, heads come first.
    assert joining.find(Address("auto", "")).name == "s_other"


def test_an_address_without_a_node_here_says_what_is_there_and_what_to_start(base):
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        where = f"127.0.0.1:{stranger.getsockname()[1]}"
        said = refused(where)
        assert "runs on this machine" in said and f"obsray start --address={where}" in said
    assert f"nothing can be reached at {where}: Connection refused" in refused(where)
