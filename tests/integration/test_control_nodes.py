"""Nodes and the control store over TCP: they join, hear of each other, are refused, and are noticed when gone."""

from __future__ import annotations

import queue
import signal
import socket
import subprocess
import sys
import time

import pytest
from test_control_process import COMMAND, NODE, WAIT_SECONDS, make_session

from obsray.core.node.members import learned
from obsray.core.protocol.lifecycle import NodeState
from obsray.core.transport.node_reporter import Membership, NodeReporter, NotAdmitted
from obsray.telemetry import session_file

OTHER, THIRD = b"othernod", b"thirdone"


class Store:
    """A control process that listens on TCP, found through its session's file."""

    def __init__(self, base, *arguments: str, **environment: str) -> None:
        self.session = make_session(base)
        self.token = (self.session / "token").read_bytes()
        self.process = subprocess.Popen(
            [*COMMAND, str(self.session), "--listen", "127.0.0.1:0", *arguments], stderr=subprocess.PIPE
        )
        self.address = self.fact("control_address_tcp")

    def fact(self, name: str) -> str:
        until = time.monotonic() + WAIT_SECONDS
        while name not in session_file.read(self.session):
            assert self.process.poll() is None, self.process.stderr.read().decode()
            assert time.monotonic() < until
            time.sleep(0.02)
        return session_file.read(self.session)[name]

    def end(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_SECONDS)
        self.process.stderr.close()


class Member:
    """A node as the control store knows it, and what it was told."""

    def __init__(self, store: Store, node: bytes, *, token: bytes | None = None, address: str | None = None) -> None:
        self.posted: queue.Queue = queue.Queue()
        self.answers: list = []
        self.rows: dict[bytes, tuple[NodeState, str]] = {}
        self.fenced = False
        self.reporter = NodeReporter(
            address or store.address, token or store.token, node, self.posted.put, self.on_fenced, self.on_nodes
        )
        self.reporter.start()

    def register(self, address: str = "127.0.0.1:1", **facts) -> Membership | NotAdmitted:
        facts = {"host": "h", "resources": {"CPU": 10_000}, "join_seconds": 1.0, "version": "1", **facts}
        self.reporter.register_node(
            address=address, on_admitted=self.answers.append, on_not_admitted=self.answers.append, **facts
        )
        self.until(lambda: self.answers)
        return self.answers[-1]

    def on_fenced(self) -> None:
        self.fenced = True

    def on_nodes(self, rows) -> None:
        for row in rows:
            facts, state, reason, registered_at_ns = learned(row)
            assert registered_at_ns
            self.rows[facts.node] = (state, reason)
            self.facts = facts

    def until(self, condition) -> None:
        until = time.monotonic() + WAIT_SECONDS
        while not condition():
            self.posted.get(timeout=max(0.01, until - time.monotonic()))()

    def end(self) -> None:
        self.reporter.close()


@pytest.fixture
def dead_seconds():
    return 3.0


@pytest.fixture
def store(tmp_path, monkeypatch, dead_seconds):
    monkeypatch.setenv("OBSRAY_NODE_HEARTBEAT_SECONDS", "0.1")
    monkeypatch.setenv("OBSRAY_NODE_SUSPECT_SECONDS", "0.5")
    monkeypatch.setenv("OBSRAY_NODE_DEAD_SECONDS", str(dead_seconds))
    store = Store(tmp_path)
    yield store
    store.end()


@pytest.fixture
def member(store):
    members = []

    def make(node: bytes, **options) -> Member:
        members.append(Member(store, node, **options))
        return members[-1]

    yield make
    for each in members:
        each.end()


def test_nodes_that_join_by_host_and_port_learn_of_each_other(member):
    head, other = member(NODE), member(OTHER)
    first = head.register(head=True)
    assert first == Membership(1, 0)
    labels = {"side": "left"}
    second = other.register("127.0.0.1:77", labels=labels, name="left", session="/tmp/s", version="1")
    assert second == Membership(2, 2 << 16)
    head.until(lambda: OTHER in head.rows)
    assert head.rows[OTHER] == (NodeState.ALIVE, "registered")
    facts = head.facts
    assert (facts.address, facts.name, facts.labels, facts.session, facts.head, facts.resources) == (
        "127.0.0.1:77", "left", labels, "/tmp/s", False, {"CPU": 10_000},
    )  # fmt: skip
    other.until(lambda: len(other.rows) == 2)
    other.reporter.leave("no longer needed")
    head.until(lambda: head.rows[OTHER] == (NodeState.DEAD, "no longer needed"))


def test_a_node_is_told_in_a_sentence_why_it_may_not_join(store, member):
    assert isinstance(member(NODE).register(name="one"), Membership)
    namesake = member(OTHER).register(name="one")
    assert "a node called 'one' is in the cluster already" in namesake.sentence and not namesake.another_id
    same_mark = member(NODE[:4] + b"else").register()
    assert same_mark.another_id and NODE.hex() in same_mark.sentence
    old = member(OTHER).register(version="0")
    assert "obsray 1" in old.sentence and "has 0" in old.sentence
    stranger = member(OTHER, token=bytes(32)).register()
    assert stranger.code == "UNAUTHENTICATED" and "token" in stranger.sentence and store.address in stranger.sentence
    for each in (namesake, same_mark, old, stranger):
        assert isinstance(each, NotAdmitted) and "\n" not in each.sentence
    assert isinstance(member(OTHER).register(name="two"), Membership)


def test_where_no_control_store_is_a_node_learns_it_within_seconds(member):
    with socket.socket() as nobody, socket.socket() as mute:
        nobody.bind(("127.0.0.1", 0))
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        started_at = time.monotonic()
        for place in (nobody, mute):
            address = f"127.0.0.1:{place.getsockname()[1]}"
            answer = member(NODE, address=address).register(join_seconds=0.5)
            assert "no control store" in answer.sentence and address in answer.sentence
        assert time.monotonic() - started_at < 15


@pytest.mark.parametrize("dead_seconds", [60.0])
def test_a_node_whose_port_refuses_connections_is_dead_long_before_its_heartbeats_are_late(member, store, dead_seconds):
    head = member(NODE)
    head.register(head=True)
    # A node in a process of its own: what listens for it ends with it.
    code = f"""
import socket, sys
from obsray.core.transport.node_reporter import NodeReporter
listener = socket.create_server(("127.0.0.1", 0))
reporter = NodeReporter({store.address!r}, {store.token!r}, {OTHER!r}, lambda call: call())
reporter.start()
reporter.register_node("h", "127.0.0.1:%d" % listener.getsockname()[1], {{}})
sys.stdin.read()
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        head.until(lambda: head.rows.get(OTHER, (None,))[0] is NodeState.ALIVE)
        process.send_signal(signal.SIGSTOP)
        head.until(lambda: head.rows[OTHER][0] is NodeState.SUSPECTED)
        process.send_signal(signal.SIGCONT)
        head.until(lambda: head.rows[OTHER][0] is NodeState.ALIVE)
        process.kill()
        killed_at = time.monotonic()
        head.until(lambda: head.rows[OTHER][0] is NodeState.DEAD)
        assert "its process is gone" in head.rows[OTHER][1] and "refuses" in head.rows[OTHER][1]
        assert time.monotonic() - killed_at < dead_seconds / 4
    finally:
        process.kill()
        process.stdin.close()
        process.wait()


def test_two_who_were_refused_are_believed_at_once(member):
    head, second = member(NODE), member(OTHER)
    for each in (head, second):
        each.register()
    third = member(THIRD)
    third.register()
    # Its heartbeats end, and nobody is told.
    third.reporter.close()
    for each in (head, second):
        each.reporter.report_unreachable(THIRD, "127.0.0.1:1 refused a connection")
    head.until(lambda: head.rows.get(THIRD, (None,))[0] is NodeState.DEAD)


def test_a_node_that_was_declared_dead_is_told_to_end(member):
    head, other = member(NODE), member(OTHER)
    head.register()
    other.register(address="")
    other.reporter._beat_at += 5.0
    head.until(lambda: head.rows.get(OTHER, (None,))[0] is NodeState.DEAD)
    assert "no heartbeat" in head.rows[OTHER][1]
    other.until(lambda: other.fenced)


@pytest.mark.parametrize(
    ("listen", "says"),
    [("nonsense", "host:port"), ("127.0.0.1:99999", "host:port"), ("0.0.0.0:0", "OBSRAY_UNSAFE_NETWORK=1")],
)
def test_it_does_not_listen_where_it_must_not(tmp_path, listen, says):
    session = make_session(tmp_path)
    ended = subprocess.run(
        [*COMMAND, str(session), "--listen", listen], capture_output=True, text=True, timeout=WAIT_SECONDS
    )
    assert ended.returncode == 1 and says in ended.stderr and "Traceback" not in ended.stderr


def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        session = make_session(tmp_path)
        ended = subprocess.run(
            [*COMMAND, str(session), "--listen", listen], capture_output=True, text=True, timeout=WAIT_SECONDS
        )
    assert ended.returncode == 1 and listen in ended.stderr and "in use" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_listening_to_other_machines_is_announced_loudly(tmp_path, monkeypatch):
    monkeypatch.setenv("OBSRAY_UNSAFE_NETWORK", "1")
    session = make_session(tmp_path)
    process = subprocess.Popen([*COMMAND, str(session), "--listen", "0.0.0.0:0"], stderr=subprocess.PIPE, text=True)
    try:
        assert "WARNING" in process.stderr.readline() + process.stderr.readline()
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
