"""What workers print is known by its task, on all nodes, also when all of them are gone."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import obsray
from obsray.cluster_utils import Cluster
from obsray.util import state
from tests.integration.programs import PATIENCE_SECONDS

pytest_plugins = ["tests.integration.fixtures"]

pytestmark = pytest.mark.timeout(180)

PRINTS = """
import asyncio, logging, threading
start(log_to_driver=False)

@obsray.remote(max_retries=0)
def speak(number):
    print("hello", number)
    logging.getLogger("my.log").warning("careful %d", number)
    thread = threading.Thread(target=print, args=("from a thread",))
    thread.start()
    thread.join()
    return obsray.get_runtime_context().get_task_id()

@obsray.remote
def child():
    subprocess.run(["echo", "said by a child"], check=True)
    time.sleep(0.01)

@obsray.remote(max_retries=0)
def dies():
    print("last words")
    os.kill(os.getpid(), signal.SIGKILL)

@obsray.remote
class Actor:
    async def call(self, number):
        print("begin", number)
        await asyncio.sleep(0.05)
        print("end", number)

tasks = obsray.get([speak.remote(number) for number in range(6)])
obsray.get(child.remote())
actor = Actor.remote()
obsray.get([actor.call.remote(number) for number in range(3)])
try:
    obsray.get(dies.remote())
except obsray.exceptions.WorkerCrashedError:
    pass
say(tasks=tasks, actor=actor._actor_id.hex())
listen()
"""


def obsray_logs(directory, *arguments):
    command = [sys.executable, "-m", "obsray.cli", "logs", "--session", directory, "--json", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    return [json.loads(line) for line in ended.stdout.splitlines()]


def test_every_line_is_known_by_its_task_during_a_session_and_after_it(program):
    driver = program(PRINTS)
    directory = driver.hear()["directory"]
    said = driver.hear()

    def check():
        for number, task in enumerate(said["tasks"]):
            rows = obsray_logs(directory, "--task", task)
            assert sorted(row["text"] for row in rows) == [f"careful {number}", "from a thread", f"hello {number}"]
            (record,) = [row for row in rows if row["level"]]
            assert (record["level"], record["logger"]) == ("WARNING", "my.log") and record["trace_id"]
            found = list(state.get_log(directory, task_id=task))
            assert found == [f"hello {number}\n", "from a thread\n"]
        assert [row["name"] for row in obsray_logs(directory, "--grep", "by a child")] == ["child"]
        assert [row["text"] for row in obsray_logs(directory, "--function", "dies")] == ["last words"]
        calls = obsray_logs(directory, "--actor", said["actor"])
        assert len(calls) == 6 and len({row["task_id"] for row in calls}) == 3
        assert obsray_logs(directory, said["actor"]) == calls, "an id may be an actor's"
        assert obsray_logs(directory, said["tasks"][0]) == obsray_logs(directory, "--task", said["tasks"][0])
        for row in calls:
            mine = [other["text"] for other in calls if other["task_id"] == row["task_id"]]
            assert mine == [f"begin {mine[0][-1]}", f"end {mine[0][-1]}"]
        assert len(obsray_logs(directory, "--level", "warning")) == 6

    check()
    driver.tell()
    assert driver.wait() == 0, driver.errors()
    check()


def test_logs_of_another_node_are_at_the_head_and_stay_when_it_is_gone():
    obsray.shutdown()
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        node = cluster.add_node(num_cpus=1)

        @obsray.remote
        class Far:
            def speak(self, text):
                print(text)
                print("trouble", file=sys.stderr)
                context = obsray.get_runtime_context()
                return context.get_task_id(), obsray.util.get_node_ip_address()

        actor = Far.remote()
        task, _ = obsray.get(actor.speak.remote("far away"))
        (row,) = state.list_actors(detail=True)
        assert row.state == "ALIVE" and row.pid
        directory = str(obsray.get_runtime_context()._session.directory)

        def check():
            assert list(state.get_log(directory, task_id=task)) == ["far away\n"]
            assert list(state.get_log(directory, task_id=task, suffix="err")) == ["trouble\n"]
            assert list(state.get_log(directory, actor_id=row.actor_id, node_id=node.node_id)) == ["far away\n"]
            assert list(state.get_log(directory, pid=row.pid, node_id=node.node_id, tail=1)) == ["far away\n"]
            assert "node.log" in state.list_logs(directory, node_id=node.node_id)["system"]
            assert list(state.get_log(directory, filename="node.log", node_id=node.node_id))
            assert [found["node_id"] for found in obsray_logs(directory, "--grep", "far away")] == [node.node_id]

        check()
        with pytest.raises(ValueError, match="here are those of"):
            state.list_logs(directory, node_id="00" * 8)
        cluster.remove_node(node)
        check()
    finally:
        obsray.shutdown()
        cluster.shutdown()
    check()
