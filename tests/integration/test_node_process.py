"""The node as a process: real sockets, real forks, a real zygote; workers are played by a script.

The script takes the place of ``obsray.core.runtime.process`` through a ``sitecustomize`` on the path of the child
processes. It does what the driver tells it in the environment of its runtime: nothing, crash, swallow its end.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from obsray.core.node.options import read_options
from obsray.core.protocol import messages as m
from obsray.core.system.arena import Arena
from obsray.core.system.processes import clean_session
from obsray.core.transport.connection import Connection, Hello
from obsray.core.transport.links import connect
from obsray.ids import object_id, task_id
from obsray.telemetry.events import DeathCause, ProcessKind

MIB = 1 << 20
WAIT_SECONDS = 20.0

SCRIPT = """
import sys, types

def main(session, worker, place):
    import os, signal, socket, subprocess, time
    from pathlib import Path
    from obsray.core.transport.connection import Connection, Hello
    from obsray.core.transport.links import connect
    play = os.environ.get("PLAY", "")
    if play == "die-at-start":
        print("no such library", file=sys.stderr)
        os._exit(5)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{session}/sockets/{worker.hex()}.sock")
    listener.listen()
    if play == "orphan":
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
    token = Path(session, "token").read_bytes()
    node = connect(Path(session, "sockets/node.sock"), token, Hello(worker, 1, os.getpid()))
    node.settimeout(None)
    connection = Connection()
    if play == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        data = node.recv(65536)
        if not data:
            return
        for message in connection.receive(data):
            if message[0] == 42 and play != "deaf":
                node.sendall(connection.pack([(19,)]))
                return
            if message[0] == 39:
                node.sendall(connection.pack([(13, message[1]["actor"], os.getpid())]))
                if "raise" in message[1]["class_name"]:
                    print("last words", file=sys.stderr)
                    os.abort()
                if "glutton" in message[1]["class_name"]:
                    eaten = []
                    while True:
                        eaten.append(bytearray(b"x") * (1 << 24))

module = types.ModuleType("obsray.core.runtime.process")
module.main = main
sys.modules["obsray.core.runtime.process"] = module
"""


class Client:
    """A scripted driver."""

    def __init__(self, session: Path, token: bytes) -> None:
        self.id = os.urandom(8)
        self.connection = Connection()
        self.inbox: list[Any] = []
        self.socket = connect(session / "sockets" / "node.sock", token, Hello(self.id, ProcessKind.DRIVER, os.getpid()))
        self.socket.settimeout(WAIT_SECONDS)
        data, fds, _, _ = socket.recv_fds(self.socket, 1 << 16, 1)
        if not data:
            raise ConnectionRefusedError("the node closed the connection")
        self.welcome, *self.inbox = [m.decode(message) for message in self.connection.receive(data)]
        self.arena = Arena(fds[0], self.welcome.arena_bytes, session / "spill")

    def send(self, *messages: Any) -> None:
        self.socket.sendall(self.connection.pack([m.encode(message) for message in messages]))

    def wait(self, kind: type, **fields: Any) -> Any:
        """The next message of that kind with those fields; fails loudly if it does not come."""
        while True:
            for message in self.inbox:
                if isinstance(message, kind) and all(getattr(message, name) == value for name, value in fields.items()):
                    self.inbox.remove(message)
                    return message
            try:
                data = self.socket.recv(1 << 18)
            except TimeoutError:
                raise AssertionError(f"no {kind.__name__} {fields} came, but {self.inbox}") from None
            if not data:
                raise ConnectionResetError("the node closed the connection")
            self.inbox += [m.decode(message) for message in self.connection.receive(data)]

    def request(self, method: str, **arguments: Any) -> Any:
        self.send(m.Request(77, method, arguments))
        reply = self.wait(m.Reply, request=77)
        assert not reply.error, reply
        return reply.value

    def lease(self, shape: int, runtime: dict[str, Any] | None = None, **resources: int) -> m.LeaseGranted:
        self.send(m.DefineShape(shape, f"shape{shape}", resources, runtime), m.LeaseRequest(shape, 1, 1))
        lease = self.wait(m.LeaseGranted)
        assert isinstance(lease, m.LeaseGranted)
        return lease

    def put(self, number: int, data: bytes) -> bytes:
        identifier = object_id(task_id(self.id, number, 1))
        self.send(m.CreateObject(number, identifier, len(data)))
        room = self.wait(m.ObjectRoom, request=number)
        self.arena.view(room.offset, len(data))[:] = data
        self.send(m.SealObject(identifier))
        return identifier

    def create_actor(self, class_name: str) -> bytes:
        """What the script of the worker does then is in the name of the class."""
        actor = task_id(self.id, 1, 2)
        spec = {
            "actor": actor, "class_name": class_name, "name": "", "namespace": "", "detached": False, "resources": {},
            "held": {}, "runtime": None, "restarts_max": 0, "job": 1, "owner": self.id, "meta": b"", "task": actor,
            "trace": bytes(16), "function": b"", "payload": b"", "arguments": None, "concurrency": {}, "restore": None,
        }  # fmt: skip
        self.send(m.CreateActor(1, spec))
        return actor

    def read(self, identifier: bytes) -> bytes:
        self.send(m.PinObject(5, identifier))
        pinned = self.wait(m.ObjectPinned, request=5)
        data = bytes(self.arena.view(pinned.offset, pinned.size))
        self.send(m.UnpinObjects([identifier]))
        return data

    def close(self) -> None:
        self.socket.close()
        self.arena.close()


class RunningNode:
    """A node started the way a driver starts it."""

    def __init__(self, group: Path | None = None, **options: Any) -> None:
        self.session = Path(tempfile.mkdtemp(prefix="s_"))
        self.token = os.urandom(32)
        token = os.open(self.session / "token", os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(token, self.token)
        os.close(token)
        (self.session / "fake").mkdir()
        (self.session / "fake" / "sitecustomize.py").write_text(SCRIPT)
        path = os.pathsep.join(filter(None, (str(self.session / "fake"), os.environ.get("PYTHONPATH"))))
        ready_read, ready_write = os.pipe()
        lifeline_read, self.lifeline = os.pipe()
        values = {
            "session_directory": str(self.session), "ready_fd": ready_write, "lifeline_fd": lifeline_read,
            "include_dashboard": False, "resources": {"CPU": 2, "object_store_memory": 8 * MIB},
            "config": {"sample_interval_seconds": 0.2, "shutdown_grace_seconds": 1.0}, **options,
        }  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-m", "obsray.core.node.process"], stdin=subprocess.PIPE,
            pass_fds=(ready_write, lifeline_read), env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        assert self.process.stdin is not None
        if group is not None:
            (group / "cgroup.procs").write_text(str(self.process.pid))
        self.process.stdin.write(json.dumps(values).encode())
        self.process.stdin.close()
        os.close(ready_write)
        os.close(lifeline_read)
        with open(ready_read) as ready:
            self.ready = json.loads(ready.readline() or "{}")

    def client(self, token: bytes | None = None) -> Client:
        return Client(self.session, token or self.token)

    def descendants(self) -> list[int]:
        """All processes below the node, whatever their depth (pids)."""
        parents: dict[int, list[int]] = {}
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                try:
                    status = Path(entry.path, "stat").read_text()
                except OSError:
                    continue
                parents.setdefault(int(status.rpartition(")")[2].split()[1]), []).append(int(entry.name))
        found, new = [], [self.process.pid]
        while new:
            new = [child for pid in new for child in parents.get(pid, [])]
            found += new
        return found

    def log(self) -> str:
        return (self.session / "logs" / "node.log").read_text()

    def release(self) -> None:
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1

    def end(self) -> None:
        self.release()
        try:
            self.process.wait(WAIT_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            shutil.rmtree(self.session)


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """A control group of 512 MiB (version 1, as root: elsewhere this cannot be tried)."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        group = Path("/sys/fs/cgroup/memory") / path.lstrip("/") / f"obsray-test-{os.getpid()}"
        if names == "memory" and os.access(group.parent, os.W_OK):
            break
    else:
        pytest.skip("no memory control group can be made here")
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(512 * MIB))
    yield group
    group.rmdir()


@contextmanager
def running(**options: Any) -> Iterator[RunningNode]:
    node = RunningNode(**options)
    try:
        assert node.ready.get("ok"), node.ready
        yield node
    except BaseException:
        print((node.session / "logs" / "node.log").read_text(), file=sys.stderr)
        raise
    finally:
        node.end()


@pytest.fixture
def node() -> Iterator[RunningNode]:
    with running() as started:
        yield started


def gone(pids: list[int]) -> None:
    """Wait until none of these processes exists; fails if one stays."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert select.select([descriptor], [], [], WAIT_SECONDS)[0], Path(f"/proc/{pid}/cmdline").read_text()
        finally:
            os.close(descriptor)


def test_a_driver_is_welcomed_with_the_arena(node):
    driver = node.client()
    assert driver.welcome.node.hex() == node.ready["node"]
    assert (driver.welcome.worker, driver.welcome.job) == (driver.id, 1)
    assert driver.welcome.arena_bytes == driver.arena.size_bytes == 8 * MIB
    assert driver.request("resources")["total"]["CPU"] == 20000
    assert driver.request("nodes")[0]["pid"] == node.process.pid
    driver.close()


@pytest.mark.parametrize("opening", ["wrong token", "garbage", "unknown worker"])
def test_who_does_not_belong_here_is_turned_away_and_the_node_lives_on(node, opening):
    if opening == "wrong token":
        with pytest.raises(ConnectionError):
            node.client(token=bytes(32))
    elif opening == "garbage":
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(WAIT_SECONDS)
            stranger.connect(str(node.session / "sockets" / "node.sock"))
            stranger.sendall(os.urandom(500))
            try:
                assert stranger.recv(1) == b""
            except ConnectionResetError:
                pass
    else:
        hello = Hello(os.urandom(8), ProcessKind.WORKER, os.getpid())
        sock = connect(node.session / "sockets" / "node.sock", node.token, hello)
        assert sock.recv(1) == b""
        sock.close()
    node.client().close()


def test_a_client_that_breaks_the_protocol_is_cut_off_alone(node):
    good, bad = node.client(), node.client()
    bad.socket.sendall(bad.connection.pack([(2, 99, 1, 1)]))
    with pytest.raises(ConnectionResetError):
        bad.wait(m.Reply)
    assert good.request("resources")
    assert "was never defined" in node.log()


def test_a_lease_leads_to_a_worker_that_listens(node):
    driver = node.client()
    lease = driver.lease(1, CPU=10000)
    with socket.socket(socket.AF_UNIX) as worker:
        worker.connect(lease.path)
    assert driver.request("resources")["available"]["CPU"] == 10000
    driver.send(m.LeaseReturn(lease.lease, 1, 0))
    assert driver.request("resources")["available"]["CPU"] == 20000


def test_the_environment_of_a_runtime_is_set_before_the_worker_begins(node):
    driver = node.client()
    # Read by the interpreter itself, so the worker needs a new one.
    lease = driver.lease(1, {"env_vars": {"PYTHONHASHSEED": "7", "PLAY": ""}}, CPU=10000)
    pid = next(pid for pid in node.descendants() if lease.worker.hex() in _environment_or_arguments(pid))
    assert "PYTHONHASHSEED=7" in _environment_or_arguments(pid)


def _environment_or_arguments(pid: int) -> str:
    """The environment of a process that was executed, and its arguments (which name its worker id, packed)."""
    try:
        return "".join(
            Path(f"/proc/{pid}/{name}").read_bytes().decode("utf-8", "replace") for name in ("environ", "cmdline")
        )
    except OSError:
        return ""


def test_objects_are_written_read_spilled_and_freed(node):
    driver = node.client()
    contents = [bytes([number]) * (3 * MIB) for number in range(4)]
    objects = [driver.put(number, data) for number, data in enumerate(contents)]
    assert driver.request("store")["spilled_bytes"] >= 6 * MIB
    for identifier, data in zip(objects, contents, strict=True):
        assert driver.read(identifier) == data
    driver.send(m.FreeObjects(objects))
    numbers = driver.request("store")
    assert (numbers["used_bytes"], numbers["spilled_bytes"], numbers["objects"]) == (0, 0, 0)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_spill_file_means_a_lost_object_and_never_wrong_bytes(node, damage):
    driver = node.client()
    first = driver.put(1, b"a" * (5 * MIB))
    driver.put(2, b"b" * (5 * MIB))
    (path,) = (node.session / "spill").glob(f"{first.hex()}*")
    if damage == "flip":
        with open(path, "r+b") as file:
            file.seek(3 * MIB)
            file.write(b"x")
    elif damage == "truncate":
        os.truncate(path, MIB)
    else:
        path.unlink()
    driver.send(m.PinObject(5, first))
    refused = driver.wait(m.ObjectRefused, request=5)
    assert refused.error == "lost" and str(path) in refused.detail


def test_an_object_that_no_thread_can_spill_is_refused_with_the_reason():
    with running(config={"store_wait_seconds_max": 1.5, "shutdown_grace_seconds": 1.0}) as node:
        shutil.rmtree(node.session / "spill")
        driver = node.client()
        driver.put(1, b"a" * (5 * MIB))
        driver.send(m.CreateObject(2, object_id(task_id(driver.id, 2, 1)), 5 * MIB))
        refused = driver.wait(m.ObjectRefused, request=2)
        assert refused.error == "full" and "No such file or directory" in refused.detail


def test_a_killed_client_leaves_nothing_of_it_behind(node):
    script = (
        "import os, signal, sys; sys.path[:0] = sys.argv[2:]; from test_node_process import *;"
        "d = Client(Path(sys.argv[1]), Path(sys.argv[1], 'token').read_bytes());"
        "d.lease(1, CPU=10000); d.put(1, bytes(MIB)); d.read(object_id(task_id(d.id, 1, 1)));"
        "d.send(m.PinObject(9, object_id(task_id(d.id, 1, 1)))); d.wait(m.ObjectPinned);"
        "d.send(m.CreateObject(3, object_id(task_id(d.id, 3, 1)), MIB)); d.wait(m.ObjectRoom);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    watcher = node.client()
    command = [sys.executable, "-c", script, str(node.session), str(Path(__file__).parent)]
    assert subprocess.run(command, timeout=WAIT_SECONDS).returncode == -signal.SIGKILL
    # The driver, and the worker that worked for it.
    causes = {watcher.wait(m.WorkerDied).cause, watcher.wait(m.WorkerDied).cause}
    assert causes == {DeathCause.UNKNOWN, DeathCause.OWNER_DIED}
    assert watcher.request("store")["used_bytes"] == 0
    assert watcher.request("resources")["available"]["CPU"] == 20000


def test_a_worker_killed_from_outside_is_explained_and_replaced(node):
    driver = node.client()
    lease = driver.lease(1, CPU=10000)
    driver.create_actor("raise")
    news = driver.wait(m.ActorChanged, state=4)
    assert news.cause == DeathCause.SIGNAL
    assert f"killed by signal {signal.SIGABRT}" in news.detail and "last words" in news.detail
    died = driver.wait(m.WorkerDied)
    assert (died.signal, died.tail) == (signal.SIGABRT, "last words")
    driver.send(m.KillWorker(lease.worker, lease.lease))
    died = driver.wait(m.WorkerDied, worker=lease.worker)
    assert (died.signal, died.cause) == (signal.SIGKILL, DeathCause.KILLED_BY_REQUEST)
    driver.lease(2, CPU=20000)


def test_a_worker_killed_for_memory_dies_alone_and_the_kernel_is_quoted(memory_group):
    # The node's own guard would be quicker now and then.
    config = {"sample_interval_seconds": 0.2, "memory_usage_ratio_max": 1.0}
    with running(group=memory_group, config=config) as node:
        driver = node.client()
        driver.create_actor("glutton")
        died = driver.wait(m.WorkerDied)
        assert died.cause == DeathCause.OOM
        assert "killed by the kernel for memory: it held" in died.detail
        assert "the limit of the container is 512.0 MiB" in died.detail
        driver.lease(1, CPU=20000)


def test_a_runtime_whose_workers_die_at_their_start_says_so_and_hurts_nobody_else(node):
    driver = node.client()
    driver.send(
        m.DefineShape(1, "broken", {"CPU": 10000}, {"env_vars": {"PLAY": "die-at-start"}}), m.LeaseRequest(1, 1, 1)
    )
    driver.lease(2, CPU=10000)
    deadline = time.monotonic() + WAIT_SECONDS
    while "ended before it said hello: exit code 5\nno such library" not in node.log():
        assert time.monotonic() < deadline, node.log()
        driver.request("resources")


def test_the_death_of_the_zygote_is_survived(node):
    driver = node.client()
    lease = driver.lease(1, CPU=10000)
    zygote = next(pid for pid in node.descendants() if "zygote" in Path(f"/proc/{pid}/cmdline").read_text())
    os.kill(zygote, signal.SIGKILL)
    died = driver.wait(m.WorkerDied, worker=lease.worker)
    assert died.cause == DeathCause.PARENT_DIED
    driver.lease(2, CPU=20000)


def test_what_a_worker_leaves_running_ends_with_it(node):
    driver = node.client()
    lease = driver.lease(1, {"env_vars": {"PLAY": "orphan"}}, CPU=10000)
    (orphan,) = [pid for pid in node.descendants() if Path(f"/proc/{pid}/comm").read_text() == "sleep\n"]
    driver.send(m.KillWorker(lease.worker, lease.lease))
    gone([orphan])


@pytest.mark.parametrize("how", ["lifeline", "sigterm", "request"])
def test_nothing_is_left_when_the_node_ends(how):
    with running() as node:
        driver = node.client()
        driver.lease(1, {"env_vars": {"PLAY": "deaf"}}, CPU=10000)
        driver.put(1, bytes(5 * MIB))
        driver.put(2, bytes(5 * MIB))
        processes = node.descendants()
        assert len(processes) >= 4
        started = time.monotonic()
        if how == "lifeline":
            node.release()
        elif how == "sigterm":
            node.process.terminate()
        else:
            driver.request("shutdown")
        assert node.process.wait(WAIT_SECONDS) == 0
        print(f"ended after {time.monotonic() - started:.2f} s")
        gone(processes)
        assert driver.wait(m.Exit).reason
        # What a scraper of metrics needs is there if the collector had the time to start.
        left = {path.name for path in node.session.iterdir()} - {"fake", "metrics_token", "prometheus_targets.json"}
        assert left == {"token", "session.json", "session.lock", "logs", "jobs", "rings", "telemetry"}
        assert not [name for name in os.listdir("/dev/shm") if "obsray" in name]


def test_a_killed_node_takes_everything_with_it_and_the_driver_cleans_up():
    with running() as node:
        driver = node.client()
        driver.lease(1, CPU=10000)
        driver.put(1, bytes(5 * MIB))
        driver.put(2, bytes(5 * MIB))
        processes = node.descendants()
        node.process.kill()
        node.process.wait()
        gone(processes)
        clean_session(node.session)
        assert not (node.session / "sockets").exists() and not (node.session / "spill").exists()
        clean_session(node.session)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"resources": {"object_store_memory": 10}}, "object_store_memory must be at least"),
        ({"resources": {"CPU": -1}}, "CPU cannot be -1"),
        ({"resources": {"custom": {"GPU": 1}}}, "GPU is not a custom resource"),
        ({"config": {"no_such_setting": 1}}, "no_such_setting"),
        ({"colour": "blue"}, "unknown options: colour"),
    ],
)
def test_a_node_that_cannot_start_says_why(options, text):
    node = RunningNode(**options)
    try:
        assert node.ready["ok"] is False
        assert text in node.ready["error"]
        assert node.process.wait(WAIT_SECONDS) == 1
    finally:
        node.end()


def test_a_session_directory_that_others_can_read_is_refused(tmp_path):
    tmp_path.chmod(0o755)
    with pytest.raises(ValueError, match="mode 0700"):
        read_options(json.dumps({"session_directory": str(tmp_path)}))
