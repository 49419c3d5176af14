"""Control stores that share a storage: restarted ones remember, standbys take over, and only one ever answers."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import Future

import grpc
import pytest
from test_control_nodes import Member
from test_control_process import COMMAND, NODE, WAIT_SECONDS, make_session

from obsray.core.protocol import control_pb2 as pb
from obsray.core.protocol import control_pb2_grpc
from obsray.core.protocol.lifecycle import NodeState
from obsray.core.transport import control_client
from obsray.core.transport.connection import control_credential
from obsray.core.transport.control_client import ControlClient, address_of
from obsray.telemetry import session_file

OTHER = b"othernod"
ACTOR = b"driver01" + (2 << 56 | 1).to_bytes(8, "big")
#: Less than two on an idle machine.
TAKEOVER_SECONDS_MAX = 6.0


class Control:
    """Control processes of one session and storage, and a client that knows all of them."""

    def __init__(self, base) -> None:
        self.session = make_session(base)
        self.token = (self.session / "token").read_bytes()
        self.storage = base / "storage"
        self.processes: list[subprocess.Popen] = []
        self.addresses: dict[int, str] = {}

    def start(self, *arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [*COMMAND, str(self.session), "--storage", str(self.storage), "--listen", "127.0.0.1:0", *arguments],
            stderr=subprocess.PIPE,
        )
        self.processes.append(process)
        place = self.storage / "places" / str(process.pid)
        until = time.monotonic() + WAIT_SECONDS
        while not place.exists() or (not arguments and self.epoch_pid() != process.pid):
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < until
            time.sleep(0.01)
        self.addresses[process.pid] = place.read_text()
        return process

    def epoch_pid(self) -> int:
        return session_file.read(self.session).get("control_pid", 0)

    @property
    def address(self) -> str:
        return ",".join(self.addresses.values())

    def client(self) -> ControlClient:
        client = ControlClient(self.address, self.token, lambda answer: answer())
        client.start()
        return client

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(WAIT_SECONDS)
            process.stderr.close()


def ask(client: ControlClient, method: str, **fields):
    answer: Future = Future()
    client.call(method, fields, lambda reply, error: answer.set_exception(error) if error else answer.set_result(reply))
    return answer.result(WAIT_SECONDS)


@pytest.fixture
def control(tmp_path):
    control = Control(tmp_path)
    yield control
    control.end()


def put(client: ControlClient, number: int) -> None:
    ask(client, "PutKey", namespace="n", key=b"%d" % number, value=b"v")


def test_a_control_store_that_was_killed_comes_back_as_it_was(control):
    first = control.start()
    member = Member(control, NODE, address=control.address)
    member.register(head=True, name="one")
    reserved: Future = Future()
    spec = {"actor": ACTOR, "class_name": "C", "name": "counter", "namespace": "space"}
    member.reporter.reserve_name(spec, lambda reply, error: reserved.set_result(error))
    member.until(reserved.done)
    client = control.client()
    put(client, 1)
    before = ask(client, "GetState")
    first.kill()
    first.wait()
    second = control.start()
    assert control.addresses[second.pid] == control.addresses[first.pid], "nodes find it where it was"
    after = ask(client, "GetState")
    assert after.epoch == before.epoch + 1
    assert [row.description.name for row in after.nodes] == ["one"] and after.nodes[0].state == pb.NODE_STATE_ALIVE
    assert [row.description.name for row in after.actors] == ["counter"]
    assert ask(client, "GetKey", namespace="n", key=b"1").value == b"v"
    taken: Future = Future()
    other = {**spec, "actor": ACTOR[:-1] + b"\x02"}
    member.reporter.reserve_name(other, lambda reply, error: taken.set_result(error))
    member.until(taken.done)
    assert taken.result().code == "ALREADY_EXISTS"
    assert not member.fenced
    client.close()
    member.end()


def test_a_standby_takes_over_in_time_and_clients_go_on(control):
    first, second = control.start(), control.start("--standby")
    member = Member(control, NODE, address=control.addresses[first.pid])
    member.register(head=True)
    member.until(lambda: NODE in member.rows)
    while len(member.reporter._learned[0]) < 2:
        time.sleep(0.01)
    client = control.client()
    for number in range(3):
        put(client, number)
    killed_at = time.monotonic()
    first.kill()
    put(client, 3)
    assert time.monotonic() - killed_at < TAKEOVER_SECONDS_MAX
    assert len(ask(client, "ListKeys", namespace="n").keys) == 4
    assert session_file.read(control.session)["control_address_tcp"] == control.addresses[second.pid]
    # The node was only told of the first one: it learnt the other from it.
    found: Future = Future()
    member.reporter.register_group(
        {"group": ACTOR[:8] + b"\x03" + ACTOR[9:], "name": "g", "strategy": "PACK", "bundles": [{"CPU": 10_000}]},
        lambda reply, error: found.set_result(error),
    )
    member.until(found.done)
    assert found.result() is None
    other = Member(control, OTHER, address=control.addresses[second.pid])
    other.register()
    member.until(lambda: member.rows.get(OTHER, (None,))[0] is NodeState.ALIVE)
    # The programs of this session find it where its socket has always been.
    own = ControlClient(address_of(control.session), control.token, lambda answer: answer())
    own.start()
    assert ask(own, "FindGroup", namespace="", name="g").group.description.strategy == "PACK"
    for each in (client, own):
        each.close()
    for node in (member, other):
        node.end()


def test_a_client_that_was_there_before_the_standby_asks_where_it_is(control):
    first = control.start()
    asked: list[int] = []

    def places() -> list[str]:
        asked.append(len(control.addresses))
        return list(control.addresses.values())

    client = ControlClient(control.addresses[first.pid], control.token, lambda answer: answer(), places=places)
    client.start()
    put(client, 1)
    control.start("--standby")
    assert not asked, "as long as the first one answers nobody is asked"
    first.kill()
    put(client, 2)
    assert asked and len(ask(client, "ListKeys", namespace="n").keys) == 2
    client.close()


def test_a_client_asks_all_places_before_it_pauses(control, monkeypatch):
    monkeypatch.setattr(control_client, "PAUSE_SECONDS_MIN", 2 * WAIT_SECONDS)
    control.start()
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        silent = f"127.0.0.1:{nobody.getsockname()[1]}"
        client = ControlClient(silent, control.token, lambda answer: answer(), 100.0, places=control.addresses.values)
        client.start()
        put(client, 1)
        client.close()


def test_one_that_only_stood_still_acknowledges_nothing_after_the_takeover_and_ends(control):
    first, second = control.start(), control.start("--standby")
    client = control.client()
    put(client, 0)
    channel = grpc.insecure_channel(control.addresses[first.pid])
    stub = control_pb2_grpc.ControlStub(channel)
    metadata = (("authorization", f"Bearer {control_credential(control.token)}"),)
    stub.GetState(pb.GetStateRequest(), metadata=metadata, timeout=WAIT_SECONDS)
    acknowledged = [0]
    stop = threading.Event()

    def write() -> None:
        number = 1
        while not stop.is_set():
            put(client, number)
            acknowledged.append(number)
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    stopped_at = time.monotonic()
    first.send_signal(signal.SIGSTOP)
    while control.epoch_pid() != second.pid:
        assert time.monotonic() < stopped_at + TAKEOVER_SECONDS_MAX
        time.sleep(0.01)
    late = [
        stub.PutKey.future(
            pb.PutKeyRequest(request_id=b"late", namespace="late", key=b"k"), metadata=metadata, timeout=WAIT_SECONDS
        ),
        stub.GetKey.future(pb.GetKeyRequest(namespace="n", key=b"0"), metadata=metadata, timeout=WAIT_SECONDS),
    ]
    if first.poll() is None:
        first.send_signal(signal.SIGCONT)
    for call in late:
        assert isinstance(call.exception(WAIT_SECONDS), grpc.RpcError), "it answered although another one decides"
    assert first.wait(WAIT_SECONDS) in (1, -signal.SIGKILL)
    if first.returncode == 1:
        assert "epoch 1 of this process is over" in first.stderr.read().decode()
    stop.set()
    writer.join(WAIT_SECONDS)
    kept = {int(key) for key in ask(client, "ListKeys", namespace="n").keys}
    assert set(acknowledged) <= kept
    assert not ask(client, "ListKeys", namespace="late").keys
    channel.close()
    client.close()


def test_a_second_control_store_is_refused_and_one_that_is_started_again_stands_by(control, tmp_path):
    first = control.start()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    session = make_session(elsewhere)
    ended = subprocess.run(
        [*COMMAND, str(session), "--storage", str(control.storage)],
        capture_output=True, text=True, timeout=WAIT_SECONDS,
    )  # fmt: skip
    assert ended.returncode == 1
    assert f"pid {first.pid} on {socket.gethostname()}" in ended.stderr and "Traceback" not in ended.stderr
    standby = control.start("--standby")
    first.kill()
    first.wait()
    while control.epoch_pid() != standby.pid:
        time.sleep(0.01)
    again = control.start("--listen", "127.0.0.1:0")
    standby.kill()
    client = control.client()
    put(client, 1)
    assert control.epoch_pid() == again.pid
    client.close()


def test_a_standby_of_another_node_learns_from_the_first_where_the_storage_is(control, tmp_path):
    first = control.start()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    session = make_session(elsewhere)
    (session / "token").write_bytes(control.token)
    command = [*COMMAND, str(session), "--listen", "127.0.0.1:0", "--join", control.address]
    standby = subprocess.Popen(command, stderr=subprocess.PIPE)
    control.processes.append(standby)
    client = control.client()
    put(client, 1)
    # The node that the first one runs beside: it knows it by its socket.
    head = Member(control, NODE, address=control.session / "sockets" / "control.sock")
    head.register(head=True, session=str(control.session))
    while len(session_file.read(control.session).get("control_addresses", ())) < 2:
        assert standby.poll() is None, standby.stderr.read().decode()
        time.sleep(0.01)
    first.kill()
    while session_file.read(session).get("control_pid") != standby.pid:
        assert standby.poll() is None, standby.stderr.read().decode()
        time.sleep(0.01)
    own = ControlClient(address_of(session), control.token, lambda answer: answer())
    own.start()
    assert ask(own, "GetKey", namespace="n", key=b"1").value == b"v"
    heads = ControlClient(address_of(control.session), control.token, lambda answer: answer())
    heads.start()
    assert ask(heads, "GetKey", namespace="n", key=b"1").value == b"v"
    # It was told of the first one alone, which is started again and stands by, and says so.
    again = control.start("--standby")
    late = Member(control, OTHER, address=control.addresses[again.pid])
    assert late.register(join_seconds=WAIT_SECONDS).incarnation
    # Who looks at the first one's node finds the one that decides now.
    while session_file.read(control.session)["control_epoch"] != 2:
        time.sleep(0.01)
    assert (
        session_file.read(control.session)["control_address_tcp"]
        == (control.storage / "places" / str(standby.pid)).read_text()
    )
    head.until(lambda: head.rows.get(OTHER, (None,))[0] is NodeState.ALIVE)
    for each in (own, heads, client):
        each.close()
    for node in (head, late):
        node.end()


def test_nobody_stands_by_for_what_is_kept_in_memory(tmp_path):
    session = make_session(tmp_path)
    first = subprocess.Popen([*COMMAND, str(session)])
    try:
        while "control_pid" not in session_file.read(session):
            time.sleep(0.01)
        command = [*COMMAND, str(session), "--join", f"unix:{session}/sockets/control.sock"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS)
        assert ended.returncode == 1 and "in memory" in ended.stderr
    finally:
        first.kill()
        first.wait()


def test_a_standby_without_a_storage_is_refused(tmp_path):
    session = make_session(tmp_path)
    ended = subprocess.run([*COMMAND, str(session), "--standby"], capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert ended.returncode == 1 and "--storage" in ended.stderr


PROGRAM = """
import os, signal, time
import obsray
from obsray.cluster_utils import Cluster
from obsray.experimental import internal_kv
from obsray.core.api import session
from obsray.telemetry import session_file

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
obsray.init(address=cluster.address, namespace="n")

@obsray.remote
class Counter:
    def __init__(self):
        self.n = 0
    def add(self):
        self.n += 1
        return self.n

@obsray.remote
def wait(seconds):
    time.sleep(seconds)
    return seconds

counter = Counter.options(name="counter").remote()
assert obsray.get(counter.add.remote()) == 1
internal_kv.put("k", "v")
running = [wait.remote(0.5) for _ in range(6)]
directory = session().directory
os.kill(session_file.read(directory)["control_pid"], signal.SIGKILL)
assert obsray.get(running, timeout=30) == [0.5] * 6
assert internal_kv.get("k") == b"v"
assert obsray.get(obsray.get_actor("counter").add.remote(), timeout=30) == 2
assert [node["Alive"] for node in obsray.nodes()] == [True]
try:
    Counter.options(name="counter").remote()
except ValueError:
    print("taken")
obsray.shutdown()
cluster.shutdown()
"""


def test_while_control_is_away_a_job_goes_on_and_afterwards_all_is_as_it_was():
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=90)
    assert ended.returncode == 0, ended.stderr
    assert "taken" in ended.stdout
