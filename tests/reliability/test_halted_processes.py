"""Processes that stand still and are not dead: check A7 of docs/reliability.md."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

import obsray
from obsray.cluster_utils import Cluster
from obsray.experimental import internal_kv
from obsray.telemetry import session_file
from obsray.telemetry.halts import FROZEN
from obsray.telemetry.pids import halted
from tests.integration.programs import eventually, gone, views
from tests.monitoring.faults import nvml
from tests.reliability.control_groups import Freezer, freezer
from tests.reliability.oracle import Oracle, checked_runtime, children, command_of, node_of

pytestmark = pytest.mark.timeout(200)
#: A process with this never comes back from that signal, and is not stopped either.
HANGS = "import signal, time\nsignal.signal(signal.SIGUSR2, lambda *_: time.sleep(3600))\n"
#: Names of what serves a node, and what runs them.
SERVICES = {
    "control": "obsray.core.control.process", "collector": "obsray.telemetry.process",
    "dashboard": "obsray.dashboard.process", "autoscaler": "obsray.autoscaler.process",
    "gpu-watch": "obsray.gpu_watch.process",
}  # fmt: skip


@obsray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class Speaker:
    def pid(self) -> int:
        return os.getpid()


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def zygote_of(session: Path) -> psutil.Process:
    (found,) = [process for process in children(node_of(session)) if "zygote" in command_of(process)]
    return found


def status(session: Path) -> str:
    command = [sys.executable, "-m", "obsray.cli", "status", "--session", str(session)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout


def test_what_stands_still_is_said_with_what_helps_and_so_is_that_it_goes_on():
    """A7: an actor, the node, the zygote: who, since when, why, what helps; nothing is lost, new processes start."""
    with checked_runtime() as session:
        stop_and_look(session)


def stop_and_look(session: Path) -> None:
    actor, view = Speaker.remote(), views(session)
    pid = obsray.get(actor.pid.remote(), timeout=60)
    with stopped(pid):
        call = actor.pid.remote()
        (row,) = eventually(lambda: [row for row in view.halts() if row["pid"] == pid])
        assert (row["name"], row["why"]) == ("worker", "it was stopped (SIGSTOP)")
        why = eventually(lambda: (made := view.why(call.hex()[:32]))["root_code"] == "STANDS_STILL" and made)
        assert f"(pid {pid}) has stood still for" in why["sentence"] and f"kill -CONT {pid}" in why["fix"]
        said = status(session)
        assert "what stands still" in said and f"kill -CONT {pid}" in said and "1 halted" in said
    assert obsray.get(call, timeout=60) == pid
    eventually(lambda: pid not in [row["pid"] for row in view.halts()])
    node = node_of(session)
    with stopped(node.pid):
        eventually(lambda: ("node", node.pid) in [(row["name"], row["pid"]) for row in view.halts()])
    eventually(lambda: "node" not in [row["name"] for row in view.halts()])
    with stopped(zygote_of(session).pid):
        speakers = [Speaker.remote() for _ in range(4)]
        assert len(set(obsray.get([each.pid.remote() for each in speakers], timeout=60))) == 4
        told = eventually(lambda: view.refresh() >= 0 and view.store.rows("process_resumed"))
        assert bytes.fromhex(row["worker_id"]) in [each["worker"] for each in told]


@obsray.remote(num_cpus=0)
def square(x: int) -> int:
    return x * x


def test_what_serves_a_node_is_woken_where_somebody_stopped_it_and_nothing_is_lost(tmp_path, caplog, monkeypatch):
    """A7: control store, collector, dashboard, autoscaler and the process that watches the GPUs, all at once."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cluster = Cluster()
    try:
        head = cluster.add_node(
            num_cpus=2, num_gpus=2, include_dashboard=True, dashboard_port=0,
            _system_config={"service_halted_seconds_max": 7.0},
            autoscaling_config={"available_node_types": {"more": {"resources": {"more": 1}, "max_workers": 1}}},
            env_vars={"OBSRAY_NVML_LIBRARY": nvml(tmp_path), "FAKE_NVML": str(tmp_path)},
        )  # fmt: skip
        other = cluster.add_node(num_cpus=1)
        obsray.init(address=cluster.address)
        oracle = Oracle(Path(head.session_dir), Path(other.session_dir))
        with caplog.at_level(logging.WARNING, "obsray.session"):
            stop_what_serves(Path(head.session_dir), caplog)
        assert all(row["Alive"] for row in obsray.nodes()), "while no control store was there nobody could be heard"
        oracle.check("process_halted", "process_resumed")
    finally:
        obsray.shutdown()
        cluster.shutdown()


def stop_what_serves(session: Path, caplog: pytest.LogCaptureFixture) -> None:
    view = views(session)
    dashboard = eventually(lambda: session_file.read(session).get("dashboard_url"))

    def services() -> dict[str, int]:
        commands = {each.pid: command_of(each) for each in children(node_of(session))}
        return {name: pid for name, module in SERVICES.items() for pid, line in commands.items() if module in line}

    eventually(lambda: services().keys() == SERVICES.keys())
    internal_kv.put("key", "before")
    stopped = services()
    for pid in stopped.values():
        os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as thread:
        written = thread.submit(internal_kv.put, "key", "after")
        assert obsray.get([square.remote(x) for x in range(100)], timeout=60) == [x * x for x in range(100)]
        rows = eventually(lambda: (found := view.halts()) and {row["name"] for row in found} == set(SERVICES) and found)
        said = status(session)
        for row in rows:
            assert row["pid"] == stopped[row["name"]] and row["label"] in said
        assert "Names, keys, joining and the news of deaths wait" in said and "its node wakes it" in said.lower()
        eventually(lambda: not view.halts())
        written.result(60)
    assert internal_kv.get("key") == b"after"
    assert services() == stopped, "none was killed"
    told = {row["pid"]: row for row in view.store.rows("process_resumed")}
    for pid in stopped.values():
        assert told[pid]["why"] == "its node woke it" and told[pid]["halted_seconds"] >= 7.0
    # Programs hear of both.
    for pid in stopped.values():
        eventually(lambda pid=pid: f"(pid {pid}) goes on" in caplog.text)
        assert f"(pid {pid}) stands still: it was stopped (SIGSTOP)" in caplog.text
    with urllib.request.urlopen(f"{dashboard}/healthz", timeout=60) as answer:
        assert answer.status == 200


def test_a_zygote_that_does_not_answer_is_replaced_and_what_it_had_forked_is_done_again(tmp_path, monkeypatch):
    """A7: it hangs, so that it cannot be woken."""
    (tmp_path / "sitecustomize.py").write_text(HANGS)
    path = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    with checked_runtime(_system_config={"zygote_silent_seconds_max": 5.0}) as session:
        hang_and_look(session)


def hang_and_look(session: Path) -> None:
    actor, zygote = Speaker.remote(), zygote_of(session)
    pid = obsray.get(actor.pid.remote(), timeout=60)
    zygote.send_signal(signal.SIGUSR2)
    # More than there are idle processes.
    others = [Speaker.remote() for _ in range(4)]
    gone([zygote])
    found = {obsray.get(each.pid.remote(), timeout=60) for each in (actor, *others)}
    assert len(found) == 5 and pid not in found
    assert zygote_of(session) != zygote
    view = views(session)
    told = eventually(lambda: view.refresh() >= 0 and view.store.rows("process_resumed"))
    assert "another one is started" in told[-1]["why"]
    (halt,) = view.store.rows("process_halted")
    assert (halt["pid"], halt["process_name"]) == (zygote.pid, "zygote") and "has not answered" in halt["error"]


def test_what_was_stopped_ends_with_its_node_and_nothing_is_left():
    """A7: everything is stopped, the node last of all, and nobody has it go on."""
    context = obsray.init(num_cpus=2, include_dashboard=False)
    try:
        session = Path(context.address_info["session_dir"])
        actor = Speaker.remote()
        obsray.get(actor.pid.remote(), timeout=60)
        node = node_of(session)
        eventually(lambda: len([each for each in children(node) if "launch()" in command_of(each)]) == 2)
        everybody = [node, *node.children(recursive=True)]
        for process in reversed(everybody):
            process.suspend()
    finally:
        obsray.shutdown()
    gone(everybody)


@obsray.remote(num_cpus=0, resources={"paused": 1})
class Counter:
    """Counts what reached it."""

    def __init__(self) -> None:
        self.calls = 0

    def add(self) -> int:
        self.calls += 1
        return self.calls

    def pid(self) -> int:
        return os.getpid()


@pytest.fixture(params=[1, 2], ids=["version 1", "version 2"])
def group(request: pytest.FixtureRequest) -> Iterator[Freezer]:
    yield from freezer(request.param)


def test_a_zygote_that_is_frozen_and_needed_is_replaced_and_ends_when_it_is_thawed(group):
    """A7: it can be neither woken nor killed by then; workers come from another one."""
    with checked_runtime(_system_config={"zygote_silent_seconds_max": 3.0}) as session:
        zygote = zygote_of(session)
        group.take([zygote.pid])
        group.freeze()
        speakers = [Speaker.remote() for _ in range(4)]
        assert len(set(obsray.get([each.pid.remote() for each in speakers], timeout=60))) == 4
        halts = eventually(lambda: views(session).store.rows("process_halted"))
        assert [(halt["pid"], halt["error"]) for halt in halts] == [(zygote.pid, FROZEN)]
        group.thaw()
        gone([zygote])
        del speakers


#: Suspected soon, and dead only long after.
PATIENT = {"node_heartbeat_seconds": 0.1, "node_suspect_seconds": 1.0, "node_dead_seconds": 120.0}


def test_what_a_paused_container_holds_is_told_from_what_is_dead_and_answers_go_on_afterwards(group):
    """A7: the control group of a worker, then of a whole node, is frozen; each call is answered, none is repeated."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": PATIENT})
    try:
        paused = cluster.add_node(num_cpus=1, resources={"paused": 10})
        obsray.init(address=cluster.address)
        head, there = Path(cluster.head_node.session_dir), Path(paused.session_dir)
        oracle = Oracle(head, there)
        counter = Counter.remote()
        pid = obsray.get(counter.pid.remote(), timeout=60)
        freeze_a_worker(head, counter, pid, group)
        freeze_a_node(head, there, paused, counter, group)
        del counter
        oracle.check("process_halted", "process_resumed", "node_changed")
        view = views(head)
        assert not [row for row in view.store.rows("node_changed") if row["state"].upper() == "DEAD"]
        assert all(row["attempt"] == 0 for row in view.tasks(limit=1000)["rows"]), "something was repeated"
    finally:
        obsray.shutdown()
        cluster.shutdown()


def freeze_a_worker(head: Path, counter: object, pid: int, group: Freezer) -> None:
    view = views(head)
    group.take([pid])
    group.freeze()
    calls = [counter.add.remote() for _ in range(10)]
    (row,) = eventually(lambda: [row for row in view.halts() if row["pid"] == pid])
    assert (row["name"], row["why"]) == ("worker", FROZEN) and "docker unpause" in row["fix"]
    why = eventually(lambda: (made := view.why(calls[0].hex()[:32]))["root_code"] == "STANDS_STILL" and made)
    assert f"(pid {pid}) has stood still for" in why["sentence"] and FROZEN in why["sentence"]
    assert FROZEN in status(head)
    assert obsray.wait(calls, timeout=0) == ([], calls)
    group.thaw()
    assert obsray.get(calls, timeout=60) == list(range(1, 11))
    eventually(lambda: pid not in [row["pid"] for row in view.halts()])


def freeze_a_node(head: Path, there: Path, paused: object, counter: object, group: Freezer) -> None:
    view, node = views(head), node_of(there)
    group.take([node.pid, *(each.pid for each in node.children(recursive=True))])
    group.freeze()
    calls = [counter.add.remote() for _ in range(10)]
    more = square.options(resources={"paused": 1}).remote(7)
    (row,) = eventually(lambda: [row for row in view.halts() if row["name"] == "node"])
    assert row["node_id"] == paused.node_id and "no heartbeat" in row["why"]
    # On its own machine the same is seen from outside.
    assert halted(node.pid) == FROZEN
    assert FROZEN in status(there)
    assert obsray.wait([*calls, more], timeout=0) == ([], [*calls, more])
    group.thaw()
    assert obsray.get(calls, timeout=60) == list(range(11, 21)) and obsray.get(more, timeout=60) == 49
    eventually(lambda: not [row for row in view.halts() if row["name"] == "node"])
    assert all(row["Alive"] for row in obsray.nodes())
