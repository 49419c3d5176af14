"""Clusters: started from terminals and by programs, joined, looked at and ended; and the ways in which that fails."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.programs import ROOT, eventually, gone, leftovers

pytest_plugins = ["tests.integration.fixtures"]
pytestmark = pytest.mark.timeout(90)

Run = Callable[..., "subprocess.CompletedProcess[str]"]
START_HEAD = ("start", "--head", "--port", "0", "--include-dashboard", "false", "--json")


@pytest.fixture
def obsray(root: Path) -> Iterator[Run]:
    """The command line, with its sessions below ``root``; nodes that a test leaves are ended."""

    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "obsray.cli", *arguments], capture_output=True, text=True, timeout=30, cwd=ROOT,
            env={**os.environ, "TMPDIR": str(root), "COLUMNS": "200", **environment},
        )  # fmt: skip

    yield run
    run("stop", "--force")


def started(ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert ended.returncode == 0, ended.stderr
    facts: dict[str, Any] = json.loads(ended.stdout)
    return facts


def family(pid: int) -> list[psutil.Process]:
    node = psutil.Process(pid)
    return [node, *node.children(recursive=True)]


DRIVER = """
context = obsray.init(address=os.environ["WHERE"] or None)

@obsray.remote(num_cpus=0, resources={"there": 1})
def far(x):
    print("printed far away")
    print("an error far away", file=sys.stderr)
    return x + 1

say(answer=obsray.get(far.remote(1)), address=context.address_info["address"],
    context=obsray.get_runtime_context().gcs_address, names=sorted(row["NodeName"] for row in obsray.nodes()))
"""


OWN = """
obsray.init(num_cpus=int(os.environ["SIZE"]) if os.environ["SIZE"] else None)
say(nodes=len(obsray.nodes()))
"""


def test_two_terminals_make_a_cluster_that_programs_join_and_stop_ends(obsray, program, root):
    head = started(obsray(*START_HEAD, "--num-cpus", "1"))
    other = started(
        obsray("start", "--address", head["address"], "--num-cpus", "2", "--resources", '{"there": 1}', "--labels",
               "zone=a", "--node-name", "far", "--json")
    )  # fmt: skip
    assert head["head"] and not other["head"] and other["address"] == head["address"]
    # Who names none joins as well.
    for where in ("auto", head["address"].replace("127.0.0.1", "localhost"), ""):
        driver = program(DRIVER, WHERE=where)
        said = driver.hear()
        assert said["answer"] == 2 and said["address"] == said["context"] == head["address"]
        assert said["names"] == sorted([socket.gethostname(), "far"])
        out, errors = driver.process.communicate(timeout=30)
        assert driver.process.returncode == 0
        # Also the last words of a program that ends at once.
        assert re.search(rb"\(far pid=\d+, node far\) printed far away", out)
        assert re.search(rb"\(far pid=\d+, node far\) an error far away", errors)
    shown = json.loads(obsray("status", "--json").stdout)["cluster_nodes"]
    assert [(row["role"], row["state"]) for row in shown] == [("head", "ALIVE"), ("", "ALIVE")]
    assert shown[1]["labels"] == "zone=a" and "CPU 2/2" in shown[1]["free"]
    assert "nodes of the cluster at" in obsray("status").stdout
    listed = json.loads(obsray("list", "nodes", "--json").stdout)["rows"]
    assert {row["node_id"]: row["pid"] for row in listed} == {each["node_id"]: each["pid"] for each in (head, other)}
    files = [row["file"] for row in json.loads(obsray("logs", "--json").stdout)["rows"]]
    copies = [name for name in files if name.startswith(f"nodes/{other['node_id']}/worker-") and name.endswith(".out")]
    # One of each program.
    assert len(copies) == 3
    assert "printed far away" in obsray("logs", Path(copies[0]).name).stdout
    # Who says how large a runtime is to be gets one of his own.
    alone = program(OWN, SIZE="1")
    assert alone.hear() == {"nodes": 1}
    alone.process.communicate(timeout=30)
    processes = [*family(head["pid"]), *family(other["pid"])]
    ended = obsray("stop")
    assert ended.returncode == 0 and ended.stdout.count("in order") == 2, ended.stdout + ended.stderr
    gone(processes)
    assert leftovers(root) == []
    assert "no node" in obsray("stop").stdout
    alone = program(OWN, SIZE="")
    assert alone.hear() == {"nodes": 1}, "the cluster is over"
    alone.process.communicate(timeout=30)


def test_a_drained_node_leaves_and_the_cluster_goes_on(obsray):
    head = started(obsray(*START_HEAD))
    started(obsray("start", "--address", head["address"], "--node-name", "left", "--json"))
    assert "the head of a cluster cannot be drained" in obsray("drain", head["node_id"]).stderr
    assert "no living node" in obsray("drain", "right").stderr
    assert obsray("drain", "left", "--reason", "repairs").returncode == 0

    def dead() -> list[dict[str, Any]]:
        return [row for row in json.loads(obsray("status", "--json").stdout)["cluster_nodes"] if row["state"] == "DEAD"]

    (row,) = eventually(dead)
    assert row["name"] == "left" and "repairs" in row["reason"]


FAR_VALUE = """
context = obsray.init(address="auto")

@obsray.remote(resources={"far": 1})
def make():
    return bytes(3_000_000) + b"end"

made = make.remote()
say(made=len(obsray.wait([made], fetch_local=False, timeout=30)[0]))
listen()
say(end=obsray.get(made, timeout=30)[-3:].decode())
"""


def test_what_lies_only_on_a_drained_node_is_moved_and_the_command_waits_for_it(obsray, program):
    head = started(obsray(*START_HEAD, "--num-cpus", "1"))
    started(obsray("start", "--address", head["address"], "--node-name", "left", "--resources", '{"far": 1}', "--json"))
    driver = program(FAR_VALUE)
    assert driver.hear() == {"made": 1}
    drained = obsray("drain", "left", "--wait")
    assert drained.returncode == 0, drained.stderr
    assert "takes no more work" in drained.stdout and "has left: it was drained" in drained.stdout
    assert "went with it" not in drained.stdout
    driver.tell("go")
    assert driver.hear() == {"end": "end"}


def test_what_cannot_start_or_join_says_why_and_leaves_nothing(obsray, root):
    head = started(obsray(*START_HEAD, "--node-name", "one"))
    address = head["address"]
    before = {path.name for path in root.glob("obsray-*/s_*")}
    token = "00" * 32
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        nobody = f"127.0.0.1:{stranger.getsockname()[1]}"
        wrong: list[tuple[list[str], dict[str, str], str]] = [
            (["--head", "--port", address.rpartition(":")[2]], {}, "Address already in use"),
            (["--address", address, "--node-name", "one"], {}, "a node called 'one' is in the cluster already"),
            (["--address", address], {"OBSRAY_TOKEN": token}, "--token-file FILE"),
            (["--address", "127.0.0.1:1"], {}, "Connection refused"),
            (["--address", nobody], {"OBSRAY_TOKEN": token}, "no control store of an obsray cluster answers"),
            (["--head", "--host", "0.0.0.0", "--port", "0"], {}, "unsafe_network"),
        ]  # fmt: skip
        for arguments, environment, why in wrong:
            ended = obsray("start", *arguments, **environment)
            assert ended.returncode in (1, 2) and why in ended.stderr, (arguments, ended.stdout, ended.stderr)
            assert "Traceback" not in ended.stderr
    assert {path.name for path in root.glob("obsray-*/s_*")} == before


CLUSTER = """
from obsray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 1})
left = cluster.add_node(num_cpus=2, resources={"left": 1}, labels={"side": "left"}, node_name="left", _system_config={})
right = cluster.add_node(num_cpus=2)
"""


def test_a_program_makes_a_cluster_whose_nodes_come_go_and_crash(program, root):
    test = program(
        CLUSTER
        + """
cpus = obsray.cluster_resources()["CPU"]
row = {row["NodeID"]: row for row in obsray.nodes()}[left.node_id]
say(cpus=cpus, labels=row["Labels"]["side"], name=row["NodeName"], port=row["NodeManagerPort"] ==
left.node_manager_port,
    address=cluster.address == obsray.get_runtime_context().gcs_address)
listen()
cluster.remove_node(right)
cluster.remove_node(left, allow_graceful=False)
cluster.wait_for_nodes(20)
alive = {row["NodeID"]: row["Alive"] for row in obsray.nodes()}
def refused(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
from obsray.util.state import list_nodes
listed = {row.node_id: row.state for row in list_nodes(address=cluster.address)}
assert listed == {name: "ALIVE" if lives else "DEAD" for name, lives in alive.items()}, listed
wrong = [refused(lambda: cluster.remove_node(left)), refused(lambda: cluster.remove_node(cluster.head_node)),
         refused(lambda: cluster.add_node(num_cpu=1)), refused(lambda: cluster.add_node(port=1)),
         refused(lambda: cluster.add_node(_system_config={"workers_max": 9})),
         refused(lambda: cluster.add_node(num_cpus=-1)), refused(lambda: Cluster(connect=True))]
say(alive=[alive[left.node_id], alive[right.node_id]], cpus=obsray.cluster_resources()["CPU"], wrong=wrong)
obsray.shutdown()
context = obsray.init(address=cluster.address)
say(again=context.address_info["address"] == cluster.address)
obsray.shutdown()
cluster.shutdown()
cluster.shutdown()
"""
    )
    assert test.hear() == {"cpus": 5, "labels": "left", "name": "left", "port": True, "address": True}
    processes = test.family()
    test.tell()
    assert test.hear() == {
        "alive": [False, False],
        "cpus": 1,
        "wrong": ["ValueError", "ValueError", "TypeError", "ValueError", "ValueError", "ValueError", "RuntimeError"],
    }  # fmt: skip
    assert test.hear() == {"again": True}
    assert test.wait() == 0, test.errors()
    gone(processes)
    assert leftovers(root) == []


def test_nodes_end_with_the_program_that_made_them_even_by_kill(program, root):
    test = program(CLUSTER + "say(ready=True)\nlisten()")
    test.hear()
    processes = test.family()
    test.process.kill()
    gone(processes)
    eventually(lambda: leftovers(root) == [])


def test_a_standby_takes_over_from_a_head_that_is_killed(program):
    test = program(
        """
from obsray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
standby = cluster.add_node(standby=True, num_cpus=0, resources={"aside": 1})
worker = cluster.add_node(num_cpus=3)
obsray.init(address=worker.address)
old = cluster.head_node.node_id
say(nodes=3)

from obsray.util import get_placement_group, placement_group
group = placement_group([{"CPU": 1}], name="mine")
group.wait(20)
cluster.remove_node(cluster.head_node, allow_graceful=False)

@obsray.remote(num_cpus=0, resources={"aside": 1})
def take(name):
    try:
        placement_group([{"CPU": 1}], name=name)
    except obsray.exceptions.PlacementGroupAlreadyExistsError as error:
        return "taken"
    return "new"

# Only the control store knows it there, and that is another one now.
said = obsray.get([take.remote("mine"), take.remote("other")], timeout=60)
assert said == ["taken", "new"], said
assert get_placement_group("mine").id == group.id
say(names=True)

@obsray.remote
def f():
    return obsray.get_runtime_context().get_node_id()

assert obsray.get(f.remote(), timeout=20) == worker.node_id
wanted = {old: False, standby.node_id: True, worker.node_id: True}
deadline = time.monotonic() + 20
# A node that is slow to answer may count as gone for a moment.
while (nodes := {row["NodeID"]: row["Alive"] for row in obsray.nodes()}) != wanted and time.monotonic() < deadline:
    time.sleep(0.05)
say(nodes=nodes, wanted=wanted)
"""
    )
    # Three times, because each may take a while.
    assert test.hear() == {"nodes": 3} and test.hear() == {"names": True}
    said = test.hear()
    assert said["nodes"] == said["wanted"]


def test_nodes_end_at_once_with_a_head_that_ends_in_order_and_say_why(program):
    test = program(
        """
from pathlib import Path
from obsray.cluster_utils import Cluster
from obsray.core.runtime.questions import ask

cluster = Cluster(initialize_head=True)
node = cluster.add_node()
deadline = time.monotonic() + 30
while sum(row.get("linked", True) for row in ask(Path(cluster.head_node.session_dir), "nodes")) < 2:
    assert time.monotonic() < deadline, "the head does not get to know the node"
    time.sleep(0.05)
cluster.remove_node(cluster.head_node)
node._process.process.wait(30)
say(code=node._process.process.returncode, log=Path(node.session_dir, "logs", "node.log").read_text())
"""
    )
    heard = test.hear()
    assert heard["code"] == 0 and "ending: its cluster has ended: " in heard["log"]
    assert test.wait() == 0, test.errors()


def test_a_node_whose_control_store_is_gone_for_too_long_ends_and_says_why(program):
    test = program(
        """
from obsray.cluster_utils import Cluster

cluster = Cluster(initialize_head=True, head_node_args={"_system_config": {"control_gone_seconds_max": 1}})
node = cluster.add_node()
cluster.remove_node(cluster.head_node, allow_graceful=False)
deadline = time.monotonic() + 20
while node.any_processes_alive() and time.monotonic() < deadline:
    time.sleep(0.05)
say(alive=node.any_processes_alive(), log=open(node.session_dir + "/logs/node.log").read())
"""
    )
    said = test.hear()
    assert said["alive"] is False and "it has heard of no control store" in said["log"]


def test_a_node_that_was_taken_for_dead_meanwhile_ends_at_once_with_its_workers(program):
    test = program(
        """
from obsray.cluster_utils import Cluster

soon = {"node_heartbeat_seconds": 0.1, "node_suspect_seconds": 0.5, "node_dead_seconds": 1.0}
cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 0, "_system_config": soon})
node = cluster.add_node()

@obsray.remote(max_retries=0)
def pid():
    return os.getpid()

worker = obsray.get(pid.remote())
os.kill(node.pid, signal.SIGSTOP)
deadline = time.monotonic() + 20
while {row["NodeID"]: row["Alive"] for row in obsray.nodes()}[node.node_id] and time.monotonic() < deadline:
    time.sleep(0.05)
(row,) = [row for row in obsray.nodes() if row["NodeID"] == node.node_id]
os.kill(node.pid, signal.SIGCONT)
while (node.any_processes_alive() or os.path.exists(f"/proc/{worker}")) and time.monotonic() < deadline:
    time.sleep(0.05)
say(alive=[row["Alive"], node.any_processes_alive(), os.path.exists(f"/proc/{worker}")],
    why=row["DeathReasonMessage"], log=open(node.session_dir + "/logs/node.log").read())
"""
    )
    said = test.hear()
    assert said["alive"] == [False, False, False] and "no heartbeat" in said["why"]
    assert "the cluster takes this node for dead" in said["log"]
