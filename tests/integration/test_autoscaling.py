"""Nodes come when something waits for them and go when they are idle, for real."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import obsray
from obsray.autoscaler.sdk import request_resources
from obsray.cluster_utils import AutoscalingCluster
from obsray.core.runtime.questions import ask
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views

#: Longer than anything here takes on a busy machine; a test that passes does not wait.
SECONDS = 60


def eventually(what: Callable[[], Any], said: str) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (found := what()):
        assert time.monotonic() < deadline, said
        time.sleep(0.05)
    return found


def living() -> list[dict[str, Any]]:
    return [node for node in obsray.nodes() if node["Alive"]]


@contextmanager
def running() -> Iterator[AutoscalingCluster]:
    made = AutoscalingCluster(
        head_resources={"CPU": 1},
        worker_node_types={
            "plain": {"resources": {"CPU": 2}, "max_workers": 2},
            "disk": {"resources": {"CPU": 1, "disk": 1}, "max_workers": 1, "labels": {"zone": "a"}},
        },
        idle_timeout_s=1,
    )
    made.start(_system_config={"autoscaler_interval_seconds": 0.2})
    obsray.init(address=made.address)
    try:
        yield made
    finally:
        obsray.shutdown()
        made.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[AutoscalingCluster]:
    """One for all tests that leave it as they found it: with its head alone."""
    with running() as made:
        yield made


def test_what_does_not_fit_gets_nodes_of_the_right_type_which_leave_when_idle(cluster: AutoscalingCluster):
    @obsray.remote(num_cpus=2)
    def where() -> Any:
        return obsray.get_runtime_context().get_node_labels()["ray.io/node-group"]

    @obsray.remote(num_cpus=1, resources={"disk": 1}, label_selector={"zone": "a"})
    class Keeper:
        def where(self) -> Any:
            return obsray.get_runtime_context().get_node_labels()["ray.io/node-group"]

    keeper = Keeper.remote()
    assert obsray.get([where.remote(), where.remote()], timeout=SECONDS) == ["plain", "plain"]
    assert obsray.get(keeper.where.remote(), timeout=SECONDS) == "disk"
    eventually(lambda: len(living()) == 2, "the plain nodes did not leave, or the actor's did")
    assert obsray.get(keeper.where.remote(), timeout=SECONDS) == "disk", "a node in use was taken"
    del keeper
    eventually(lambda: len(living()) == 1, "the actor's node did not leave after it")

    views = Views(Store(_session(cluster)))
    scaling = eventually(
        lambda: (found := views.scaling())
        and all(row["state"] == "ENDED" for row in found["instances"]) and found,
        "the end of the nodes was not recorded",
    )  # fmt: skip
    assert {row["node_type"] for row in scaling["instances"]} == {"plain", "disk"}
    assert all("nothing has run there" in row["error"] for row in scaling["instances"])
    told = [row["text"] for row in views.story(scaling["instances"][0]["node_id"])]
    assert any("is started: for" in text for text in told) and any("is to leave" in text for text in told)


def test_a_wish_starts_nodes_and_keeps_them_until_it_is_taken_back(cluster: AutoscalingCluster):
    request_resources(bundles=[{"CPU": 2}, {"disk": 1}], bundle_label_selectors=[{}, {"zone": "a"}])
    eventually(lambda: len(living()) == 3, "the nodes that were asked for did not come")
    group = obsray.util.placement_group([{"CPU": 2}, {"CPU": 2}], strategy="STRICT_SPREAD")
    assert group.wait(SECONDS), "no node came for the group"
    obsray.util.remove_placement_group(group)
    eventually(lambda: len(living()) == 3, "the node that nobody asked for any more stayed, or others left")

    @obsray.remote(num_cpus=64)
    def huge() -> None: ...

    never = huge.remote()
    status = eventually(lambda: _infeasible(cluster), "what nothing can hold is not named in obsray status")
    assert "CPU 64 (it has 2)" in status["why"]
    obsray.cancel(never)
    request_resources()
    eventually(lambda: len(living()) == 1, "nodes stayed that nobody asks for any more")


def _infeasible(cluster: AutoscalingCluster) -> dict[str, Any] | None:
    command = [sys.executable, "-m", "obsray.cli", "status", "--json", "--session", _session(cluster).name]
    found = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=SECONDS).stdout)
    rows = [row for row in found["autoscaler"]["demands"] if row["verdict"] == "infeasible"]
    return rows[0] if rows else None


def _session(cluster: AutoscalingCluster) -> Path:
    return Path(cluster.head_node.session_dir)


@pytest.fixture
def doomed(cluster: AutoscalingCluster) -> Iterator[AutoscalingCluster]:
    """One that a test may end. A program is in one cluster at a time."""
    obsray.shutdown()
    with running() as made:
        yield made


def test_nodes_outlive_the_autoscaler_and_the_next_one_takes_them_over(doomed: AutoscalingCluster):
    cluster = doomed
    request_resources(num_cpus=3)
    eventually(lambda: len(living()) == 2, "the node that was asked for did not come")
    before = {node["NodeID"] for node in living()}
    pid = _autoscaler(_session(cluster))
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: _autoscaler(_session(cluster)) not in (0, pid), "it was not started again")
    request_resources(num_cpus=5)
    eventually(lambda: len(living()) == 3, "the new autoscaler starts nothing")
    assert before < {node["NodeID"] for node in living()}, "the node ended with the autoscaler"
    handles = [os.pidfd_open(row["pid"]) for row in ask(_session(cluster), "nodes")]
    obsray.shutdown()
    cluster.shutdown()
    for handle in handles:
        assert select.select([handle], [], [], SECONDS)[0], "a node outlived its cluster"
        os.close(handle)


def _autoscaler(session: Path) -> int:
    """The pid of the autoscaler of a session; 0 if there is none."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"obsray.autoscaler.process" in words and os.fsencode(session) in words:
            return int(path.parent.name)
    return 0
