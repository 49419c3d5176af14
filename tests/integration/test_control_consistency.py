"""The control store's keys are linearizable while replicas and control stores die: check A9 of docs/reliability.md."""

from __future__ import annotations

import math
import queue
import random
import signal
import subprocess
import threading
import time

import pytest
from linearizability import Operation, is_linearizable
from test_control_process import make_session
from test_control_redis import SEED, Server, start, wait_for

from obsray.core.transport.control_client import ControlClient, address_of

KEYS = 3
CLIENTS = 3


@pytest.mark.parametrize(
    ("history", "possible"),
    [
        ([(0, 1, "put", b"a", False), (2, 3, "get", None, b"a")], True),
        ([(0, 1, "put", b"a", False), (2, 3, "get", None, None)], False),
        # Who overlaps may come before or after, for everybody the same.
        ([(0, 9, "put", b"a", False), (1, 2, "get", None, None), (3, 4, "get", None, b"a")], True),
        ([(0, 9, "put", b"a", False), (1, 2, "get", None, b"a"), (3, 4, "get", None, None)], False),
        # Nobody heard the answer: with or without effect, but not first with it and then without.
        ([(0, math.inf, "put", b"a", None), (5, 6, "get", None, None)], True),
        ([(0, math.inf, "put", b"a", None), (5, 6, "get", None, b"a"), (7, 8, "get", None, None)], False),
        # Two cannot both have been the first.
        ([(0, 5, "add", b"a", False), (1, 6, "add", b"b", False)], False),
        ([(0, 5, "add", b"a", False), (1, 6, "add", b"b", True), (7, 8, "get", None, b"a")], True),
        # An acknowledged write is lost.
        ([(0, 1, "put", b"a", False), (2, 3, "put", b"b", True), (4, 5, "get", None, b"a")], False),
    ],
)  # fmt: skip
def test_the_checker_knows_good_histories_from_bad_ones(history, possible):
    assert is_linearizable([Operation(*each) for each in history]) is possible


class Caller(threading.Thread):
    """One at a time, on a few keys, everything written down."""

    def __init__(self, session, seed: int) -> None:
        super().__init__(daemon=True)
        self.chance = random.Random(seed)
        self.client = ControlClient(
            address_of(session), (session / "token").read_bytes(), lambda answer: answer(), give_up_seconds=20.0
        )
        self.client.start()
        self.name_of = seed
        self.histories: list[list[Operation]] = [[] for _ in range(KEYS)]
        self.slowest_seconds = 0.0
        self.over = threading.Event()
        self.count = 0

    def run(self) -> None:
        while not self.over.is_set():
            key = self.chance.randrange(KEYS)
            kind = self.chance.choice(["put", "put", "add", "delete", "get", "get", "get"])
            self.count += 1
            padding = self.chance.choice([25, 512])
            value = b"%d %d" % (self.name_of, self.count) if kind in ("put", "add") else None
            fields = {"namespace": "n", "key": b"%d" % key}
            if value is not None:
                fields |= {"value": value.ljust(padding), "overwrite": kind == "put"}
            method = {"put": "PutKey", "add": "PutKey", "delete": "DeleteKey", "get": "GetKey"}[kind]
            answers: queue.Queue = queue.Queue()
            began = time.monotonic()
            self.client.call(method, fields, lambda reply, error, to=answers: to.put((reply, error)))
            reply, error = answers.get(timeout=60)
            ended = math.inf if error is not None else time.monotonic()
            self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
            answer = None
            if reply is not None and kind == "get":
                answer = reply.value.rstrip() if reply.found else None
            elif reply is not None:
                answer = reply.keys_deleted > 0 if kind == "delete" else reply.existed
            if error is None or kind != "get":
                self.histories[key].append(Operation(began, ended, kind, value, answer))


def test_each_key_is_linearizable_while_a_replica_and_then_the_control_store_are_killed(tmp_path):
    print("seed", SEED)
    session = make_session(tmp_path)
    primary = Server(tmp_path)
    replicas = [Server(tmp_path, "--replicaof", "127.0.0.1", str(primary.port)) for _ in range(2)]
    processes: list[subprocess.Popen] = []
    callers: list[Caller] = []
    try:
        while primary.connection.ask("WAIT", 2, 100) < 2:
            pass
        where = f"redis://{primary.address}/test?replicas=1"
        processes.append(start(session, where))
        wait_for(session, processes[0])
        processes.append(start(session, where, "--standby"))
        callers = [Caller(session, SEED + number) for number in range(CLIENTS)]
        for caller in callers:
            caller.start()
        while len(primary.connection.ask("HVALS", "test:places")) < 2 or min(each.count for each in callers) < 30:
            time.sleep(0.01)
        replicas[0].process.kill()
        goal = [each.count + 30 for each in callers]
        while any(each.count < least for each, least in zip(callers, goal, strict=True)):
            time.sleep(0.01)
        slowest = max(each.slowest_seconds for each in callers)
        processes[0].send_signal(signal.SIGKILL)
        wait_for(session, processes[1])
        goal = [each.count + 30 for each in callers]
        while any(each.count < least for each, least in zip(callers, goal, strict=True)):
            time.sleep(0.01)
        for caller in callers:
            caller.over.set()
            caller.join(60)
        after = max(each.slowest_seconds for each in callers)
        print(f"slowest answer {slowest * 1000:.0f} ms with a replica killed, {after:.2f} s with a takeover")
        for key in range(KEYS):
            history = [operation for caller in callers for operation in caller.histories[key]]
            assert len(history) > 30
            assert is_linearizable(history), sorted(history)
    finally:
        for caller in callers:
            caller.over.set()
            caller.client.close()
        for process in processes:
            process.kill()
            process.wait()
            process.stderr.close()
        for server in (primary, *replicas):
            server.end()
