"""The head's store holds the records of all nodes, also of those that are gone."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import psutil
import pytest

import obsray
from obsray.cluster_utils import Cluster
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from tests.integration.programs import eventually

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def cluster():
    obsray.shutdown()
    made = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield made
    obsray.shutdown()
    made.shutdown()


def store() -> Store:
    return Store.open(obsray.get_runtime_context()._session.directory)


def collectors(opened: Store) -> set[int]:
    """The process ids of the collectors of this session that live."""
    command = ["obsray.telemetry.process", "--session-dir", str(opened.session_dir)]
    found = psutil.process_iter(["cmdline"])
    return {process.pid for process in found if (process.info["cmdline"] or [])[-3:] == command}


def ran_on(opened: Store, node: str) -> set[bytes]:
    """The tasks that processes of a node have recorded as ended."""
    opened.refresh()
    found = opened.events("task_ended")
    mark = bytes.fromhex(node)[:4]
    rows = zip(found["process"].to_pylist(), found["task"].to_pylist(), strict=True)
    return {task for process, task in rows if process[4:] == mark}


@pytest.mark.parametrize("graceful", [True, False])
def test_what_other_nodes_recorded_is_at_the_head_and_stays_when_they_are_gone(cluster, graceful):
    node = cluster.add_node(num_cpus=2)

    @obsray.remote
    def work():
        return obsray.get_runtime_context().get_node_id()

    assert set(obsray.get([work.remote() for _ in range(10)])) == {node.node_id}
    opened = store()
    eventually(lambda: len(ran_on(opened, node.node_id)) == 10)
    opened.refresh()
    states = {state.process: alive for state, alive in opened.ring_states() if state.node.hex() == node.node_id}
    assert states and any(states.values())
    cluster.remove_node(node, allow_graceful=graceful)
    eventually(lambda: opened.rows("node_records_ended"))
    (ended,) = opened.rows("node_records_ended")
    assert ended["node"].hex() == node.node_id and (ended["complete"] or not graceful)
    assert ended["events"] > 0 and (not ended["complete"] or ended["missing"] == ended["missing_estimated"] == 0)
    opened.refresh()
    assert not any(alive for state, alive in opened.ring_states() if state.node.hex() == node.node_id)
    assert len(ran_on(store(), node.node_id)) == 10


@pytest.mark.parametrize("graceful", [True, False])
def test_of_a_node_that_leaves_as_soon_as_it_has_joined_everything_is_at_the_head_or_said_to_be_missing(
    cluster, graceful
):
    node = cluster.add_node(num_cpus=1)
    cluster.remove_node(node, allow_graceful=graceful)
    opened = store()
    (ended,) = eventually(lambda: opened.rows("node_records_ended"))
    assert ended["node"].hex() == node.node_id and bool(ended["complete"]) is graceful

    def told() -> int:
        opened.refresh()
        rows = [row for event in ("node_started", "node_joined", "node_stopped") for row in opened.rows(event)]
        return sum(row["node"].hex() == node.node_id for row in rows)

    # What was taken over is stored a moment later.
    eventually(lambda: told() == (3 if graceful else 0))


def test_a_collector_that_follows_a_killed_one_says_nothing_again_of_nodes_that_are_gone(cluster):
    gone = cluster.add_node(num_cpus=1)
    cluster.remove_node(gone, allow_graceful=True)
    opened = store()
    eventually(lambda: opened.rows("node_records_ended"))
    (killed,) = collectors(opened)
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: collectors(opened) - {killed})
    node = cluster.add_node(num_cpus=1)
    obsray.get(obsray.remote(os.getpid).remote())
    # It has looked at all nodes once it has what this one recorded.
    eventually(lambda: ran_on(opened, node.node_id))
    said = opened.rows("node_records_ended")
    assert [(row["node"].hex(), row["complete"]) for row in said] == [(gone.node_id, 1)], said


#: What Python runs first in every process that has its directory in PYTHONPATH.
_WRONG_CLOCK = """
import os, time
_skew = float(os.environ.get("TEST_CLOCK_SKEW_SECONDS", "0"))
if _skew:
    # time.time() stays right: gRPC gives the kernel's clock deadlines that it makes of it.
    _time_ns = time.time_ns
    time.time_ns = lambda: _time_ns() + round(_skew * 1e9)
"""


@pytest.mark.parametrize("skew", [6.0, -6.0])
def test_a_node_whose_clock_is_wrong_by_seconds_is_shown_on_the_heads_clock(cluster, tmp_path, monkeypatch, skew):
    (tmp_path / "sitecustomize.py").write_text(_WRONG_CLOCK)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    monkeypatch.setenv("TEST_CLOCK_SKEW_SECONDS", str(skew))
    node = cluster.add_node(num_cpus=1)
    monkeypatch.delenv("TEST_CLOCK_SKEW_SECONDS")

    @obsray.remote
    def what_time():
        return time.time_ns() / 1e9

    before = time.time()
    reference = what_time.remote()
    there = obsray.get(reference)
    after = time.time()
    assert before - 3 + skew < there < after + 3 + skew, "the clock there is not wrong"
    task = reference.task_id().hex()
    views = Views(store())

    def told() -> list[dict[str, Any]]:
        views.refresh()
        parts = ("submitted", "ended", "finished")
        return [record for record in views.story(task) if record["event"].rpartition("_")[2] in parts]

    eventually(lambda: len(told()) == 3)
    records = told()
    assert [record["event"].rpartition("_")[2] for record in records] == ["submitted", "ended", "finished"]
    assert all(before - 1 < record["time_ns"] / 1e9 < after + 1 for record in records)
    row = views.task(task)
    assert before - 1 < row["started_at_ns"] / 1e9 <= row["ended_at_ns"] / 1e9 < after + 1
    (known,) = [row for row in views.nodes() if row["node_id"] == node.node_id]
    assert abs(known["clock_offset_seconds"] - skew) < 0.5
    assert 0 < known["clock_uncertainty_seconds"] < 0.5


def test_stacks_of_other_nodes_are_asked_of_their_collectors(cluster):
    node = cluster.add_node(num_cpus=2)

    @obsray.remote
    def far_away():
        threading.Event().wait()

    references = [far_away.remote() for _ in range(2)]

    def seen() -> list[dict[str, Any]]:
        found = obsray.telemetry.stacks()
        return [stack for stack in found["stacks"] if stack["count"] == 2 and "far_away" in stack["frames"][0]]

    eventually(seen)
    (stack,) = seen()
    assert {who["node"] for who in stack["who"]} == {node.node_id}
    assert {who["task"] for who in stack["who"]} == {reference.hex()[:32] for reference in references}
