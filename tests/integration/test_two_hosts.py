"""Two nodes on two hosts: each in a network namespace of its own, with nothing between them but one cable."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import PORT, Host, ip

HEAD, OTHER = "10.77.0.1", "10.77.0.2"
START_SECONDS_MAX = 40.0

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Host, Host]]:
    # Not pytest's: a unix socket's path may not be longer than about a hundred characters.
    base = Path(tempfile.mkdtemp(prefix="h"))
    made: list[Host] = []
    try:
        for letter, address in (("a", HEAD), ("b", OTHER)):
            made.append(Host(f"obsray{os.getpid()}{letter}", address, base / letter))
        first, second = made
        ip("link", "add", "cable", "netns", first.name, "type", "veth", "peer", "name", "cable", "netns", second.name)
        for host in made:
            ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "cable")
            ip("-n", host.name, "link", "set", "cable", "up")
        started = first.try_node(
            "--head", "--port", str(PORT), "--include-dashboard", "false", seconds=START_SECONDS_MAX
        )
        assert started.returncode == 0, started
        yield first, second
    finally:
        for host in made:
            host.remove()
        shutil.rmtree(base)


@pytest.fixture(scope="module")
def node(hosts: tuple[Host, Host], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a node on the second host."""
    head, other = hosts
    joined = other.try_node(
        "--address", f"{HEAD}:{PORT}", "--token-file", token_of(head, tmp_path_factory.mktemp("token")),
        "--resources", '{"far": 1}', seconds=START_SECONDS_MAX,
    )  # fmt: skip
    assert joined.returncode == 0, joined
    return str(json.loads((other.session / "session.json").read_text())["node"])


def token_of(host: Host, tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_bytes((host.session / "token").read_bytes())
    path.chmod(0o600)
    return str(path)


def test_a_node_with_another_token_is_refused_by_name(hosts, tmp_path):
    _, other = hosts
    wrong = tmp_path / "wrong"
    wrong.write_bytes(bytes(32))
    began = time.monotonic()
    done = other.try_node("--address", f"{HEAD}:{PORT}", "--token-file", str(wrong), seconds=START_SECONDS_MAX)
    assert done.returncode != 0 and "token" in done.stderr
    assert time.monotonic() - began < 15


def test_a_host_without_a_cluster_is_an_error_in_seconds(hosts, tmp_path):
    head, other = hosts
    for address in (f"{HEAD}:1", "10.77.0.99:6379"):
        began = time.monotonic()
        done = other.try_node("--address", address, "--token-file", token_of(head, tmp_path), seconds=START_SECONDS_MAX)
        assert done.returncode != 0 and address in done.stderr, done
        assert time.monotonic() - began < 20


PROGRAM = """
import sys
from pathlib import Path
import obsray
from tests.reliability.oracle import Oracle

obsray.init(address=sys.argv[1])
oracle = Oracle(Path(sys.argv[1]))

@obsray.remote(num_cpus=1, resources={"far": 0.1})
def far(text):
    return obsray.get_runtime_context().get_node_id(), len(text)

here = obsray.get_runtime_context().get_node_id()
answers = obsray.get([far.remote("x" * 10_000) for _ in range(200)], timeout=30)
assert {size for _, size in answers} == {10_000}
assert {node for node, _ in answers} == {sys.argv[2]} != {here}
oracle.check()
"""


def test_two_hosts_act_as_one(hosts, node):
    head, _ = hosts
    done = head.run("-c", PROGRAM, str(head.session), node, seconds=150)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


BLIP = """
import subprocess, sys, threading, time
from pathlib import Path
import obsray
from tests.reliability.oracle import Oracle

obsray.init(address=sys.argv[1])
oracle = Oracle(Path(sys.argv[1]))

@obsray.remote(num_cpus=0.1, resources={"far": 0.01}, max_retries=0)
def far(x):
    time.sleep(0.02)
    return x

def blip():
    time.sleep(0.3)
    subprocess.run(["ip", "link", "set", "cable", "down"], check=True)
    time.sleep(1.5)
    subprocess.run(["ip", "link", "set", "cable", "up"], check=True)

cutter = threading.Thread(target=blip)
cutter.start()
assert obsray.get([far.remote(x) for x in range(100)], timeout=60) == list(range(100))
cutter.join()
assert obsray.get([far.remote(x) for x in range(20)], timeout=60) == list(range(20))
assert all(row["Alive"] for row in obsray.nodes())
oracle.check()
"""


@pytest.mark.usefixtures("node")
def test_a_short_interruption_of_the_network_costs_no_task_and_no_node(hosts):
    head, _ = hosts
    done = head.run("-c", BLIP, str(head.session), seconds=150)
    assert done.returncode == 0, done.stdout + done.stderr


CUT = """
import subprocess, sys, time
from pathlib import Path
import obsray
from tests.reliability.oracle import Oracle

obsray.init(address=sys.argv[1])
oracle = Oracle(Path(sys.argv[1]))

@obsray.remote(num_cpus=0, resources={"far": 0.1}, max_retries=0)
def forever():
    time.sleep(1000)

@obsray.remote(num_cpus=0)
class Counter:
    def where(self):
        return obsray.get_runtime_context().get_node_id()

    def wait(self):
        time.sleep(1000)

lost = forever.remote()
actor = Counter.options(resources={"far": 0.1}).remote()
assert obsray.get(actor.where.remote(), timeout=20) == sys.argv[2]
call = actor.wait.remote()
assert obsray.wait([lost, call], timeout=1) == ([], [lost, call])
subprocess.run(["ip", "link", "set", "cable", "down"], check=True)
began = time.monotonic()
for ref, kind in ((lost, obsray.exceptions.WorkerCrashedError), (call, obsray.exceptions.ActorDiedError)):
    try:
        obsray.get(ref, timeout=40)
    except kind as error:
        print(f"{time.monotonic() - began:.1f} s", error, flush=True)
    else:
        raise AssertionError(kind)
# What is here goes on.
@obsray.remote
def here():
    return obsray.get_runtime_context().get_node_id()

assert obsray.get(here.remote(), timeout=20) == obsray.get_runtime_context().get_node_id()
del lost, actor, call, ref
oracle.check("node_changed", "worker_died", "actor_died")
"""


def test_what_ran_on_the_other_side_of_a_cut_cable_ends_and_the_rest_goes_on(hosts, node):
    head, _ = hosts
    done = head.run("-c", CUT, str(head.session), node, seconds=150)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
