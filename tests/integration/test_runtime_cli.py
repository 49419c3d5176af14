"""The commands and the dashboard's link answer about a session that lives and about one that is over."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import urllib.request
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest

from obsray.cli import main as cli
from tests.integration.programs import ROOT, eventually

pytest_plugins = ["tests.integration.fixtures"]
pytestmark = pytest.mark.timeout(120)

SESSION = """
start(include_dashboard=True, log_to_driver=False).wait_for_dashboard()

@obsray.remote
def greet(name):
    print("hello from the task", name)
    return name
@obsray.remote
def fails(): raise ValueError("on purpose")
@obsray.remote
class Counter:
    def add(self): return 1
import numpy as np
obsray.get([greet.remote(str(x)) for x in range(10)])
failed = fails.remote()
try: obsray.get(failed)
except ValueError: pass
counter = Counter.options(name="the_counter").remote()
obsray.get(counter.add.remote())
kept = obsray.put(np.ones(1 << 18))
waits = greet.options(num_gpus=1).remote("never")
say(failed=failed.hex()[:32], waits=waits.hex()[:32])
listen()
"""


def obsray(directory: str, *arguments: str) -> str:
    """What a command prints. Raises AssertionError if it fails or complains."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli([*arguments, "--session", directory])
    assert code == 0 and not err.getvalue(), f"{arguments}: {err.getvalue() or out.getvalue()}"
    return out.getvalue()


def as_json(directory: str, *arguments: str) -> Any:
    return json.loads(obsray(directory, *arguments, "--json"))


def check(directory: str, said: dict[str, Any], live: bool) -> None:
    text = obsray(directory, "status")
    assert ("live" in text or "running" in text) is live or not live, text
    status = as_json(directory, "status")
    assert status["session"]["live"] is live and status["ledger"]["events_lost"] == 0
    assert status["tasks"]["FINISHED"] >= 12 and status["tasks"]["FAILED"] >= 1

    tasks = as_json(directory, "list", "tasks", "--filter", "state = FAILED")["rows"]
    assert said["failed"] in [task["task_id"] for task in tasks]
    assert "fails" in obsray(directory, "list", "tasks", "--filter", "state = FAILED")
    (actor,) = as_json(directory, "list", "actors")["rows"]
    assert (actor["class_name"], actor["name"], actor["calls"]) == ("Counter", "the_counter", 1)
    assert actor["state"] == ("ALIVE" if live else "DEAD"), actor
    assert "the_counter" in obsray(directory, "list", "actors")
    (kept,) = [row for row in as_json(directory, "list", "objects")["rows"] if row["bytes"] > 1 << 20]
    assert kept["state"] == ("SEALED" if live else "FREED") or not live, kept
    assert kept["object_id"][:8] in obsray(directory, "list", "objects")

    def started() -> list[dict[str, Any]]:
        # A process that was asked for has no pid until it exists, and services come late.
        rows: list[dict[str, Any]] = as_json(directory, "list", "workers")["rows"]
        there = all(row["pid"] for row in rows)
        return rows if there and {"worker", "driver", "collector"} <= {row["kind"] for row in rows} else []

    workers = eventually(started) if live else as_json(directory, "list", "workers")["rows"]
    assert {"worker", "driver", "collector"} <= {worker["kind"] for worker in workers}
    assert all(worker["pid"] for worker in workers), workers
    assert any(worker["state"] != "DEAD" for worker in workers) is live, workers
    assert "driver" in obsray(directory, "list", "workers")
    (job,) = as_json(directory, "list", "jobs")["rows"]
    assert job["state"] == ("RUNNING" if live else "SUCCEEDED") and job["pid"] and job["tasks"] >= 13, job
    (node,) = as_json(directory, "list", "nodes")["rows"]
    assert node["state"] == ("ALIVE" if live else "DEAD")
    assert {row["name"] for row in as_json(directory, "list", "functions")["rows"]} >= {"greet", "fails"}

    task = as_json(directory, "get", "task", said["failed"])
    assert task["state"] == "FAILED" and "on purpose" in task["error"]
    assert "on purpose" in obsray(directory, "get", "task", said["failed"])
    assert as_json(directory, "story", said["failed"])["events"]
    assert "on purpose" in obsray(directory, "story", said["failed"])
    assert "GPU" in obsray(directory, "get", "task", said["waits"]) or not live

    files = [row["file"] for row in as_json(directory, "logs")["rows"]]
    assert "node.log" in files and "node.log" in obsray(directory, "logs")
    greeted = as_json(directory, "list", "tasks", "--filter", "name = greet", "--filter", "state = FINISHED")["rows"]
    assert "hello from the task" in obsray(directory, "logs", "--task", greeted[0]["task_id"])
    lines = obsray(directory, "logs", "--task", greeted[0]["task_id"], "--json").splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["hello from the task 9"]


def test_every_command_answers_during_a_session_and_after_it(program):
    driver = program(SESSION)
    directory = driver.hear()["directory"]
    said = driver.hear()
    check(directory, said, live=True)

    link = obsray(directory, "dashboard").strip()
    opener = urllib.request.build_opener(
        urllib.request.HTTPCookieProcessor(CookieJar()), urllib.request.ProxyHandler({})
    )
    with opener.open(link, timeout=30) as page:
        assert page.status == 200 and "obsray" in page.read().decode()
    with opener.open(link.partition("/auth")[0] + "/tasks?where=state+%3D+FAILED", timeout=30) as page:
        assert "fails" in page.read().decode()

    driver.tell()
    assert driver.wait() == 0, driver.errors()
    check(directory, said, live=False)


def test_a_driver_that_was_killed_leaves_a_session_that_can_be_asked(program):
    driver = program(SESSION)
    directory = driver.hear()["directory"]
    said = driver.hear()
    driver.process.kill()
    eventually(lambda: not as_json(directory, "status")["session"]["live"])
    (job,) = as_json(directory, "list", "jobs")["rows"]
    assert job["state"] == "FAILED", job
    assert as_json(directory, "get", "task", said["failed"])["state"] == "FAILED"
    assert as_json(directory, "list", "tasks", "--filter", "state = FINISHED")["total"] >= 12


def test_without_a_session_the_commands_say_what_to_do(tmp_path: Path):
    ended = subprocess.run(
        [sys.executable, "-m", "obsray.cli", "status"],
        capture_output=True, text=True, timeout=30, cwd=ROOT, env={"TMPDIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert ended.returncode == 1 and "no session" in ended.stderr and "Traceback" not in ended.stderr, ended.stderr
