"""The control store's storage in real Redis servers: spread, replicated, claimed by one process at a time."""

from __future__ import annotations

import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_control_process import COMMAND, WAIT_SECONDS, make_session
from test_control_takeover import TAKEOVER_SECONDS_MAX, ask, put

from obsray.core.control import redis_storage
from obsray.core.control.journal import Fenced, Held, NoRoom
from obsray.core.control.redis_storage import RedisStorage
from obsray.core.control.resp import Connection
from obsray.core.transport.control_client import ControlClient, address_of
from obsray.telemetry import session_file

SEED = random.SystemRandom().randrange(1 << 32)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    def __init__(self, base: Path, *arguments: str) -> None:
        program = shutil.which("redis-server")
        assert program, "redis-server is missing: scripts/system-package redis-server redis-server"
        self.port = free_port()
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(base), "--save", "", *arguments]
        self.process = subprocess.Popen(
            [program, *options, "--repl-diskless-sync-delay", "0"], stdout=subprocess.DEVNULL
        )
        self.connection = Connection("127.0.0.1", self.port, "", 5.0)
        until = time.monotonic() + WAIT_SECONDS
        while not self.answers():
            assert time.monotonic() < until and self.process.poll() is None
            time.sleep(0.02)

    def answers(self) -> bool:
        try:
            return self.connection.ask("PING") == "PONG"
        except OSError:
            return False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def end(self) -> None:
        self.connection.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    servers = [Server(tmp_path_factory.mktemp("redis")) for _ in range(3)]
    yield servers
    for server in servers:
        server.end()


@pytest.fixture
def where(servers):
    for server in servers:
        server.connection.ask("FLUSHALL")
    return f"redis://{','.join(server.address for server in servers)}/test"


def contents(where: str) -> int:
    storage = RedisStorage(where)
    storage.acquire()
    state, entries = storage.load()
    number = int(state or b"0")
    for entry in entries:
        number += 1
        assert int(entry.split(b" ")[0]) == number
    storage.close()
    return number


def test_entries_are_spread_over_the_servers_and_found_again_in_order(servers, where):
    storage = RedisStorage(where)
    storage.acquire()
    storage.load()
    storage.append([b"%d " % number for number in range(1, 41)])
    kept = [len(server.connection.ask("KEYS", "test:entry:*")) for server in servers]
    assert sum(kept) == 40 and all(kept)
    storage.compact(b"40")
    assert not any(server.connection.ask("KEYS", "test:entry:*") for server in servers)
    storage.append([b"41 ", b"42 "])
    storage.close()
    assert contents(where) == 42
    assert int(servers[0].connection.ask("GET", "test:epoch")) == 2


def test_what_a_batch_that_did_not_count_left_behind_is_never_read(servers, where):
    storage = RedisStorage(where)
    storage.acquire()
    storage.load()
    storage.append([b"1 "])
    # Of a batch of 2, 3, 4 only some arrived before the crash.
    storage._write({"entry:3": b"3 stale", "entry:4": b"4 stale"})
    storage.close()
    second = RedisStorage(where)
    second.acquire()
    assert list(second.load()[1]) == [b"1 "]
    second.append([b"2 "])
    second.close()
    assert contents(where) == 2


def test_only_one_writes_and_who_lost_the_claim_is_told(where, monkeypatch):
    first = RedisStorage(where)
    first.acquire()
    first.load()
    first.append([b"1 "])
    second = RedisStorage(where)
    with pytest.raises(Held, match=r"has held redis://.* since 20"):
        second.acquire()
    first._ended.set()
    first._beater.join()
    assert "no sign of life" in second.stand_by(lambda: False, lambda: None)
    second.load()
    monkeypatch.setattr(redis_storage, "LEASE_SECONDS", 0.0)
    for attempt in (lambda: first.append([b"2 "]), lambda: first.compact(b"9"), first.renew):
        with pytest.raises(Fenced, match="epoch 1 of this process is over"):
            attempt()
    second.append([b"2 "])
    first.close()
    second.close()
    assert contents(where) == 2


def test_a_write_counts_once_the_replicas_have_it(tmp_path, monkeypatch):
    primary = Server(tmp_path)
    replica = Server(tmp_path, "--replicaof", "127.0.0.1", str(primary.port))
    try:
        storage = RedisStorage(f"redis://{primary.address}/test?replicas=1")
        storage.acquire()
        storage.load()
        storage.append([b"1 "])
        assert replica.connection.ask("GET", "test:entry:1") == b"1 "
        replica.process.kill()
        replica.process.wait()
        monkeypatch.setattr(redis_storage, "REPLICA_SECONDS_MAX", 0.1)
        with pytest.raises(OSError, match="0 of 1 replicas"):
            storage.append([b"2 "])
        storage.close()
    finally:
        primary.end()
        replica.end()


WRITER = """
import random, sys
from obsray.core.control.redis_storage import RedisStorage
chance = random.Random(int(sys.argv[2]))
storage = RedisStorage(sys.argv[1])
storage.acquire()
state, entries = storage.load()
number = int(state or b"0") + len(list(entries))
while True:
    batch = [b"%d " % each + chance.randbytes(chance.randrange(3000)) for each in range(number + 1, number + 9)]
    storage.append(batch)
    number += len(batch)
    print(number, flush=True)
    if chance.random() < 0.05:
        storage.compact(b"%d" % number)
"""


def test_a_writer_that_is_killed_at_any_instant_loses_nothing_it_has_acknowledged(where):
    print("seed", SEED)
    chance = random.Random(SEED)
    for _ in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, where, str(chance.randrange(1 << 30))], stdout=subprocess.PIPE
        )
        for _ in range(chance.randrange(1, 60)):
            acknowledged = int(writer.stdout.readline())
        writer.kill()
        rest = writer.stdout.read().split(b"\n")
        acknowledged = max([acknowledged, *(int(line) for line in rest[:-1])])
        writer.stdout.close()
        writer.wait()
        assert contents(where) >= acknowledged


def start(session: Path, where: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [*COMMAND, str(session), "--storage", where, "--listen", "127.0.0.1:0", *arguments], stderr=subprocess.PIPE
    )


def wait_for(session: Path, process: subprocess.Popen, seconds: float = WAIT_SECONDS) -> None:
    until = time.monotonic() + seconds
    while session_file.read(session).get("control_pid") != process.pid:
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < until, "nobody took over in time"
        time.sleep(0.01)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "paused"])
def test_a_standby_takes_over_and_knows_all_that_was_acknowledged(tmp_path, servers, where, how):
    session = make_session(tmp_path)
    first = start(session, where)
    wait_for(session, first)
    second = start(session, where, "--standby")
    client = ControlClient(address_of(session), (session / "token").read_bytes(), lambda answer: answer())
    client.start()
    try:
        while len(servers[0].connection.ask("HVALS", "test:places")) < 2:
            assert second.poll() is None, second.stderr.read().decode()
            time.sleep(0.01)
        for number in range(20):
            put(client, number)
        first.send_signal(how)
        wait_for(session, second, TAKEOVER_SECONDS_MAX)
        first.send_signal(signal.SIGCONT)
        put(client, 20)
        assert {int(key) for key in ask(client, "ListKeys", namespace="n").keys} == set(range(21))
        first.wait(WAIT_SECONDS)
        if how is signal.SIGSTOP:
            assert "epoch 1 of this process is over" in first.stderr.read().decode()
    finally:
        client.close()
        for process in (first, second):
            process.kill()
            process.wait()
            process.stderr.close()


def test_beyond_maxmemory_changes_are_refused_and_signs_of_life_are_not(servers):
    connection = servers[2].connection
    storage = RedisStorage(f"redis://{servers[2].address}/full")
    try:
        storage.acquire()
        storage.append([b"kept"])
        connection.ask("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(NoRoom):
            storage.append([b"too much"])
        storage._beat()
        storage.announce("127.0.0.1:1")
        another = RedisStorage(storage.place)
        with pytest.raises(Held):
            another.acquire()
        another.close()
        connection.ask("CONFIG", "SET", "maxmemory", 0)
        storage.try_to_write()
        storage.append([b"again"])
    finally:
        connection.ask("CONFIG", "SET", "maxmemory", 0)
        storage.close()


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ("redis://127.0.0.1:1", "127.0.0.1:1"),
        ("redis://user:secret@127.0.0.1:1", "OBSRAY_REDIS_PASSWORD"),
        ("redis://127.0.0.1:1?replica=1", "replicas=N"),
        ("etcd://127.0.0.1:1", "redis://"),
    ],
)
def test_a_storage_that_cannot_be_used_is_refused_in_a_sentence(tmp_path, where, says):
    session = make_session(tmp_path)
    command = [*COMMAND, str(session), "--storage", where]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_SECONDS)
    assert ended.returncode == 1 and says in ended.stderr and "Traceback" not in ended.stderr
