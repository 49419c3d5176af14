"""The control store as a process: started, spoken to, attacked, stopped."""

from __future__ import annotations

import os
import queue
import random
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import grpc
import pytest

from obsray.core.protocol import control_pb2 as pb
from obsray.core.protocol import control_pb2_grpc
from obsray.core.transport.connection import control_credential
from obsray.core.transport.control_client import ControlClient, ControlError
from obsray.core.transport.node_reporter import NodeReporter
from obsray.telemetry import session_file
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.spine import HEADER, last_records

WAIT_SECONDS = 20
NODE = b"nodenode"
DRIVER = b"driver01"
ACTOR = DRIVER + (2 << 56 | 1).to_bytes(8, "big")
COMMAND = [sys.executable, "-m", "obsray.core.control.process", "--session-dir"]


def make_session(base: Path) -> Path:
    session = base / "session"
    session.mkdir(mode=0o700)
    for name in ("rings", "sockets"):
        (session / name).mkdir()
    (session / "token").touch(0o600)
    (session / "token").write_bytes(os.urandom(32))
    session_file.update(session, node=NODE.hex())
    return session


class Control:
    """One control process and a way to call it."""

    def __init__(self, session: Path) -> None:
        self.session = session
        self.token = (session / "token").read_bytes()
        self.socket = session / "sockets/control.sock"
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen([*COMMAND, str(self.session)], stderr=subprocess.PIPE)
        self.channel = grpc.insecure_channel(f"unix:{self.socket}", options=[("grpc.max_reconnect_backoff_ms", 50)])
        grpc.channel_ready_future(self.channel).result(WAIT_SECONDS)
        self.stub = control_pb2_grpc.ControlStub(self.channel)

    def call(self, method: str, request, token: str | None = None):
        metadata = (("authorization", token or f"Bearer {control_credential(self.token)}"),)
        return getattr(self.stub, method)(request, metadata=metadata, timeout=WAIT_SECONDS)

    def stop(self) -> int:
        self.channel.close()
        self.process.terminate()
        code = self.process.wait(WAIT_SECONDS)
        self.process.stderr.close()
        return code

    def kill(self) -> None:
        self.channel.close()
        self.process.kill()
        self.process.wait(WAIT_SECONDS)
        self.process.stderr.close()


@pytest.fixture(scope="module")
def control(tmp_path_factory):
    control = Control(make_session(tmp_path_factory.mktemp("control")))
    yield control
    assert control.stop() == 0


@pytest.fixture
def own_control(tmp_path):
    control = Control(make_session(tmp_path))
    yield control
    control.kill()


class Inbox:
    """What a node's loop is for a client: callbacks arrive from another thread and are run here."""

    def __init__(self) -> None:
        self.posted: queue.Queue = queue.Queue()
        self.answers: list[tuple] = []

    def on_done(self, reply, error) -> None:
        self.answers.append((reply, error))

    def wait(self, answers: int) -> list[tuple]:
        while len(self.answers) < answers:
            self.posted.get(timeout=WAIT_SECONDS)()
        return self.answers


@pytest.fixture
def inbox():
    return Inbox()


# --- the process --------------------------------------------------------------------------------------------


def test_it_tells_its_address_and_opens_its_socket_to_its_user_only(control):
    facts = session_file.read(control.session)
    assert facts["control_address"] == f"unix:{control.socket}"
    assert facts["control_pid"] == control.process.pid
    assert facts["node"] == NODE.hex(), "what others wrote stays"
    assert control.socket.stat().st_mode & 0o777 == 0o600


def test_every_call_is_recorded_in_its_own_ring(own_control):
    own_control.call("GetState", pb.GetStateRequest())
    with pytest.raises(grpc.RpcError):
        own_control.call("EndJob", pb.EndJobRequest(request_id=b"r", job=9))
    own_control.call("RegisterNode", pb.RegisterNodeRequest(request_id=b"s", node=pb.NodeDescription(node=NODE)))
    (ring,) = (own_control.session / "rings").glob("*.ring")
    process = bytes.fromhex(ring.name.split(".")[0])
    header = HEADER.unpack_from(ring.read_bytes())
    assert (header[2], header[5]) == (ProcessKind.CONTROL, NODE)
    assert own_control.stop() == 0
    records = [(name, fields) for _, name, fields in last_records(own_control.session / "rings", process, 100)]
    calls = [(fields["method"], fields["ok"], fields["error"]) for name, fields in records if name == "control_rpc"]
    assert calls == [("GetState", 1, ""), ("EndJob", 0, "NOT_FOUND"), ("RegisterNode", 1, "")]
    assert all(0 < fields["rpc_seconds"] < 1 for name, fields in records if name == "control_rpc")
    assert [(fields["node"], fields["state"]) for name, fields in records if name == "node_changed"] == [
        (NODE, "alive")
    ]
    assert records[-1][0] == "ring_closed"
    assert not own_control.socket.exists()


def test_it_dies_with_the_process_that_started_it(tmp_path):
    session = make_session(tmp_path)
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(f"""
                import subprocess, sys
                child = subprocess.Popen({[*COMMAND, str(session)]!r})
                print(child.pid, flush=True)
                sys.stdin.read()
            """),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    pid = int(parent.stdout.readline())
    with grpc.insecure_channel(f"unix:{session}/sockets/control.sock") as channel:
        grpc.channel_ready_future(channel).result(WAIT_SECONDS)
    descriptor = os.pidfd_open(pid)
    parent.kill()
    parent.wait()
    try:
        assert select.select([descriptor], [], [], WAIT_SECONDS)[0], "the control store outlived its parent"
    finally:
        os.close(descriptor)
        parent.stdin.close()
        parent.stdout.close()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda session: (session / "token").chmod(0o644), "0600"),
        (lambda session: (session / "token").write_bytes(b"short"), "want 32"),
        (lambda session: (session / "token").unlink(), "token"),
    ],
    ids=["token readable by others", "token too short", "no token"],
)
def test_without_a_proper_token_it_does_not_start(tmp_path, damage, message):
    session = make_session(tmp_path)
    damage(session)
    ended = subprocess.run([*COMMAND, str(session)], capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert ended.returncode == 1
    assert message in ended.stderr and "Traceback" not in ended.stderr
    assert not list((session / "sockets").iterdir())


# --- who may speak ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [method.name for method in pb.DESCRIPTOR.services_by_name["Control"].methods])
def test_no_call_works_without_the_token(control, method):
    request = getattr(pb, f"{method}Request")()
    right = control_credential(control.token)
    wrong = [
        None,
        "",
        right,
        "Bearer",
        f"Bearer {right[:-1]}",
        f"Bearer {'0' * 64}",
        f"bearer {right}",
        f"Bearer {control.token.hex()}",
        "Bearer é",
    ]
    for offered in wrong:
        metadata = () if offered is None else (("authorization", offered),)
        with pytest.raises((grpc.RpcError, ValueError, UnicodeEncodeError)) as caught:
            answer = getattr(control.stub, method)(request, metadata=metadata, timeout=WAIT_SECONDS)
            list(answer) if method == "Watch" else None
        if isinstance(caught.value, grpc.RpcError) and offered != "Bearer é":
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, offered
    twice = (("authorization", f"Bearer {right}"),) * 2
    with pytest.raises(grpc.RpcError) as caught:
        list(control.stub.Watch(pb.WatchRequest(), metadata=twice, timeout=WAIT_SECONDS))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_stranger_does_not_learn_which_calls_exist(control):
    unknown = control.channel.unary_unary("/obsray.v1.Control/NoSuchCall")
    with pytest.raises(grpc.RpcError) as caught:
        unknown(b"", timeout=WAIT_SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    with pytest.raises(grpc.RpcError) as caught:
        unknown(b"", timeout=WAIT_SECONDS, metadata=(("authorization", f"Bearer {control_credential(control.token)}"),))
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_bytes_that_are_no_request_are_refused_and_the_store_lives(control):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    metadata = (("authorization", f"Bearer {control_credential(control.token)}"),)
    for method in ("RegisterNode", "UpdateActor", "PutKey", "Watch"):
        for _ in range(20):
            raw = control.channel.unary_stream(f"/obsray.v1.Control/{method}")
            call = raw(chance.randbytes(chance.randrange(1, 200)), timeout=WAIT_SECONDS, metadata=metadata)
            with pytest.raises(grpc.RpcError):
                for _ in call:
                    pass
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as raw_socket:
            raw_socket.connect(str(control.socket))
            raw_socket.sendall(chance.randbytes(500))
    assert control.call("GetState", pb.GetStateRequest()).epoch


# --- what is said -------------------------------------------------------------------------------------------


def test_a_repeated_request_changes_nothing(control):
    request = pb.PutKeyRequest(request_id=b"put once", namespace="repeat", key=b"k", value=b"v")
    first = control.call("PutKey", request)
    assert first.written and control.call("PutKey", request) == first
    deleted = pb.DeleteKeyRequest(request_id=b"delete once", namespace="repeat", key=b"k")
    assert control.call("DeleteKey", deleted).keys_deleted == 1
    assert control.call("DeleteKey", deleted).keys_deleted == 1


def test_a_watch_from_a_snapshot_sees_every_later_change_of_its_tables_in_order(control):
    state = control.call("GetState", pb.GetStateRequest())
    request = pb.WatchRequest(epoch=state.epoch, after_sequence=state.sequence, tables=[pb.TABLE_KEYS])
    watch = control.call("Watch", request)
    control.call("StartJob", pb.StartJobRequest(request_id=b"watched job", driver=b"watcher1", node=NODE))
    for number in range(5):
        put = pb.PutKeyRequest(request_id=b"watched %d" % number, namespace="watched", key=b"%d" % number)
        control.call("PutKey", put)
    seen = []
    while len(seen) < 5:
        reply = next(watch)
        seen += reply.changes
    assert [change.key.key for change in seen] == [b"%d" % number for number in range(5)]
    assert [change.sequence for change in seen] == list(range(state.sequence + 2, state.sequence + 7))
    watch.cancel()


@pytest.mark.parametrize("epoch_shift, sequence", [(1, 0), (0, 1 << 40)])
def test_a_watch_from_what_is_not_kept_says_so(control, epoch_shift, sequence):
    state = control.call("GetState", pb.GetStateRequest())
    with pytest.raises(grpc.RpcError) as caught:
        next(control.call("Watch", pb.WatchRequest(epoch=state.epoch + epoch_shift, after_sequence=sequence)))
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert "GetState" in caught.value.details()


# --- the client of a node -----------------------------------------------------------------------------------


def test_a_node_reports_itself_its_drivers_and_its_actors(own_control, inbox):
    reporter = NodeReporter(own_control.socket, own_control.token, NODE, inbox.posted.put)
    reporter.start()
    reporter.register_node("host", "/node.sock", {"CPU": 20_000}, "0.1.0")
    reporter.start_job(1, DRIVER, 42, "program.py", "space")
    spec = {"actor": ACTOR, "class_name": "C", "name": "n", "namespace": "space", "owner": DRIVER, "payload": b"x"}
    reporter.actor_created(spec)
    reporter.actor_changed(ACTOR, 1, 0, b"", "", 0, "")
    reporter.actor_changed(ACTOR, 2, 0, b"worker01", "/worker.sock", 0, "")
    reporter.end_job(1, 0)
    reporter.call("GetState", {}, inbox.on_done)
    ((state, error),) = inbox.wait(1)
    assert error is None
    assert [(row.description.node, row.description.host, row.state) for row in state.nodes] == [(NODE, "host", 0)]
    assert [(row.job, row.driver_pid, row.entrypoint, row.state) for row in state.jobs] == [(1, 42, "program.py", 1)]
    (actor,) = state.actors
    assert (actor.description.name, actor.state, actor.address) == ("n", pb.ACTOR_STATE_ALIVE, "/worker.sock")
    reporter.leave("test over")
    reporter.call("GetState", {}, inbox.on_done)
    assert inbox.wait(2)[1][0].nodes[0].reason == "test over"
    reporter.close()


def test_calls_made_while_the_control_store_is_away_arrive_when_it_comes(tmp_path, inbox):
    session = make_session(tmp_path)
    client = ControlClient(session / "sockets/control.sock", (session / "token").read_bytes(), inbox.posted.put)
    client.start()
    for number in range(3):
        client.call("PutKey", {"namespace": "late", "key": b"k", "value": b"%d" % number}, inbox.on_done)
    control = Control(session)
    try:
        assert [(reply.written, error) for reply, error in inbox.wait(3)] == [
            (True, None),
            (False, None),
            (False, None),
        ]
    finally:
        client.close()
        control.kill()


def test_a_node_tells_a_control_store_that_has_forgotten_everything_what_lives_now(own_control, inbox):
    reporter = NodeReporter(own_control.socket, own_control.token, NODE, inbox.posted.put)
    reporter.start()
    reporter.register_node("host", "/node.sock", {})
    for job in (1, 2):
        reporter.start_job(job, b"driver%02d" % job, 42, "program.py", "")
    dead, restarting = ACTOR[:-1] + b"\x02", ACTOR[:-1] + b"\x03"
    for actor in (ACTOR, dead, restarting):
        reporter.actor_created({"actor": actor, "class_name": "C", "owner": DRIVER})
        reporter.actor_changed(actor, 1, 0, b"", "", 0, "")
    reporter.actor_changed(ACTOR, 2, 0, b"worker01", "/worker.sock", 0, "")
    reporter.actor_changed(dead, 4, 0, b"worker02", "", 2, "killed")
    reporter.actor_changed(restarting, 3, 1, b"", "", 2, "again")
    reporter.end_job(2, 0)
    reporter.call("GetState", {}, inbox.on_done)
    inbox.wait(1)
    own_control.kill()
    own_control.start()
    # What the reporter posts is a node's next round: the report of everything.
    inbox.posted.get(timeout=WAIT_SECONDS)()
    reporter.call("GetState", {}, inbox.on_done)
    state, _ = inbox.wait(2)[1]
    assert [row.description.host for row in state.nodes] == ["host"]
    assert [(row.job, row.state) for row in state.jobs] == [(1, pb.JOB_STATE_RUNNING)]
    found = {row.description.actor: (row.state, row.incarnation, row.address) for row in state.actors}
    assert found == {
        ACTOR: (pb.ACTOR_STATE_ALIVE, 0, "/worker.sock"),
        restarting: (pb.ACTOR_STATE_RESTARTING, 1, ""),
    }
    reporter.close()


def test_a_call_gives_up_in_time_and_says_why(tmp_path, inbox):
    client = ControlClient(tmp_path / "nobody.sock", bytes(32), inbox.posted.put, give_up_seconds=0.2)
    client.start()
    client.call("GetState", {}, inbox.on_done)
    ((reply, error),) = inbox.wait(1)
    assert reply is None and isinstance(error, ControlError) and error.code == "UNAVAILABLE"
    client.close()
    client.call("GetState", {}, inbox.on_done)
    assert inbox.wait(2)[1][1].code == "CANCELLED"


def test_a_caller_never_waits_however_much_it_has_to_say(tmp_path, inbox):
    client = ControlClient(tmp_path / "nobody.sock", bytes(32), inbox.posted.put, calls_max=2)
    for _ in range(3):
        client.call("GetState", {}, inbox.on_done)
    ((_, error),) = inbox.wait(1)
    assert error.code == "RESOURCE_EXHAUSTED"


@pytest.mark.parametrize(
    ("method", "fields", "code"),
    [
        ("NoSuchCall", {}, "INVALID_ARGUMENT"),
        ("PutKey", {"no_such_field": 1}, "INVALID_ARGUMENT"),
        ("PutKey", {"key": 1}, "INVALID_ARGUMENT"),
        ("GetFunction", {"hash": bytes(32)}, "NOT_FOUND"),
    ],
)
def test_a_call_that_cannot_be_made_fails_and_the_next_one_works(control, inbox, method, fields, code):
    client = ControlClient(control.socket, control.token, inbox.posted.put)
    client.start()
    client.call(method, fields, inbox.on_done)
    client.call("GetState", {}, inbox.on_done)
    (_, error), (state, no_error) = inbox.wait(2)
    assert error.code == code and no_error is None and state.epoch
    client.close()


def test_a_fenced_node_is_told_once(own_control, inbox):
    fenced = threading.Event()
    reporter = NodeReporter(own_control.socket, own_control.token, NODE, lambda callback: callback(), fenced.set)
    reporter.start()
    reporter.register_node("host", "", {})
    reporter.call("GetState", {}, lambda reply, error: inbox.posted.put(lambda: inbox.on_done(reply, error)))
    ((state, _),) = inbox.wait(1)
    leave = {"request_id": b"l", "node": NODE, "incarnation": state.nodes[0].incarnation, "reason": "by order"}
    own_control.call("LeaveNode", pb.LeaveNodeRequest(**leave))
    assert fenced.wait(WAIT_SECONDS)
    reporter.close()


def test_importing_the_client_does_not_import_grpc():
    code = (
        "import sys, obsray.core.transport.control_client; sys.exit('grpc' in sys.modules or 'google' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=WAIT_SECONDS).returncode == 0


def test_it_ends_in_order_when_told_to(tmp_path):
    control = Control(make_session(tmp_path))
    control.process.send_signal(signal.SIGINT)
    assert control.process.wait(WAIT_SECONDS) == 0
    control.kill()
