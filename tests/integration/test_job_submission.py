"""Jobs: submitted over HTTP, run at their node, stopped, and what is left when something dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import psutil
import pytest

import obsray
from obsray.job_submission import JobStatus, JobSubmissionClient, records
from tests.integration.programs import ROOT, eventually, gone

#: Everything here passes in seconds; a slow machine may take this long.
PATIENCE_SECONDS = 90.0


@pytest.fixture(scope="module")
def runtime():
    options = {"resources": {"disk": 1}, "labels": {"zone": "a"}, "_system_config": {"job_stop_seconds": 1.0}}
    with obsray.init(num_cpus=2, dashboard_port=0, **options) as context:
        yield context


@pytest.fixture(scope="module")
def client(runtime):
    return JobSubmissionClient(f"http://{runtime['webui_url']}")


@pytest.fixture
def script(tmp_path) -> Callable[[str], str]:
    def write(body: str) -> str:
        path = tmp_path / "job.py"
        path.write_text("import os, signal, subprocess, sys, time\nimport obsray\n" + textwrap.dedent(body))
        return f"{sys.executable} {path}"

    return write


def ended(client: JobSubmissionClient, job: str) -> Any:
    return eventually(lambda: (info := client.get_job_info(job)).status.is_terminal() and info, PATIENCE_SECONDS)


def said(client: JobSubmissionClient, job: str, words: str) -> str:
    return eventually(lambda: words in (text := client.get_job_logs(job)) and text, PATIENCE_SECONDS)


def test_the_programs_of_a_job_and_their_tasks_work_in_its_environment(client, runtime, tmp_path):
    work, module = tmp_path / "work", tmp_path / "modules"
    work.mkdir()
    module.mkdir()
    (module / "tool.py").write_text("name = 'tool'")
    (work / "data.txt").write_text("the data")
    (work / "main.py").write_text(
        textwrap.dedent(
            """
            import os, tool, obsray
            obsray.init(namespace="of the job")
            @obsray.remote
            def look():
                import tool
                return open("data.txt").read(), tool.name, os.environ["COLOUR"]
            here = open("data.txt").read(), tool.name, os.environ["COLOUR"]
            assert obsray.get(look.remote()) == here == ("the data", "tool", "blue"), here
            print("all of it")
            """
        )
    )
    job = client.submit_job(
        entrypoint="python main.py",
        runtime_env={
            "working_dir": str(work), "py_modules": [str(module / "tool.py")], "env_vars": {"COLOUR": "blue"}
        },
        metadata={"who": "a test"},
    )  # fmt: skip
    info = ended(client, job)
    assert info.status == JobStatus.SUCCEEDED, info.message
    assert info.driver_exit_code == 0 and "all of it" in client.get_job_logs(job)
    assert info.metadata == {"who": "a test"} and info.driver_node_id == runtime.address_info["node_id"]

    def driver() -> Any:
        return client.get_job_info(job).job_id

    known = eventually(driver, PATIENCE_SECONDS)
    assert client.get_job_info(known).submission_id == job
    listed = {one.submission_id or one.job_id: one for one in client.list_jobs()}
    assert listed[job].job_id == known and known not in listed


def test_the_command_gets_the_resources_it_asks_for_and_waits_for_them(client, script):
    first = client.submit_job(
        entrypoint=script("print('up', flush=True); time.sleep(600)"), entrypoint_resources={"disk": 1}
    )
    said(client, first, "up")
    second = client.submit_job(entrypoint="echo too", entrypoint_resources={"disk": 1}, entrypoint_num_cpus=1)
    third = client.submit_job(entrypoint="echo three", entrypoint_label_selector={"zone": "a"})
    assert ended(client, third).status == JobStatus.SUCCEEDED
    waiting = client.get_job_info(second)
    assert waiting.status == JobStatus.PENDING and "waiting for resources" in waiting.message
    assert client.stop_job(first)
    assert ended(client, first).status == JobStatus.STOPPED
    assert ended(client, second).status == JobStatus.SUCCEEDED


def test_a_job_that_waits_can_be_stopped(client):
    job = client.submit_job(entrypoint="echo never", entrypoint_resources={"nowhere": 1})
    assert "waiting for resources" in (client.get_job_info(job).message or ""), "from the beginning"
    with pytest.raises(RuntimeError, match="stop it before"):
        client.delete_job(job)
    eventually(lambda: client.stop_job(job), PATIENCE_SECONDS)
    info = ended(client, job)
    assert info.status == JobStatus.STOPPED and info.driver_exit_code is None and not client.get_job_logs(job)


def test_a_command_that_is_stopped_may_end_in_its_own_way(client, script):
    job = client.submit_job(
        entrypoint=script(
            """
            def end(*_):
                print("tidied up", flush=True)
                sys.exit(0)
            signal.signal(signal.SIGTERM, end)
            print("up", flush=True)
            while True:
                time.sleep(1)
            """
        )
    )
    said(client, job, "up")
    assert client.stop_job(job)
    assert ended(client, job).status == JobStatus.STOPPED and "tidied up" in client.get_job_logs(job)
    assert client.stop_job(job) is False


def test_stopping_reaches_all_processes_of_the_command_and_insists(client, script):
    job = client.submit_job(
        entrypoint=script(
            """
            signal.signal(signal.SIGTERM, lambda *_: print("not yet", flush=True))
            child = subprocess.Popen(["sleep", "600"])
            print("pids", os.getpid(), child.pid, flush=True)
            while True:
                time.sleep(1)
            """
        )
    )
    line = next(line for line in said(client, job, "pids").splitlines() if line.startswith("pids"))
    processes = [psutil.Process(int(word)) for word in line.split()[1:]]
    assert client.stop_job(job)
    info = ended(client, job)
    assert info.status == JobStatus.STOPPED and info.driver_exit_code < 0
    assert "not yet" in client.get_job_logs(job)
    gone(processes)


def test_what_a_command_leaves_running_does_not_keep_the_job(client):
    job = client.submit_job(entrypoint="sleep 600 & echo started; exit 7")
    info = ended(client, job)
    assert info.status == JobStatus.FAILED and info.driver_exit_code == 7
    assert info.error_type == "JOB_ENTRYPOINT_COMMAND_ERROR" and "started" in info.message


def test_a_killed_supervisor_takes_its_job_with_it_and_that_is_said(client, runtime, script):
    job = client.submit_job(entrypoint=script("print('pid', os.getpid(), flush=True); time.sleep(600)"))
    line = next(line for line in said(client, job, "pid").splitlines() if line.startswith("pid"))
    command = psutil.Process(int(line.split()[1]))
    found = records.read(runtime.session.directory, job)
    os.kill(found.supervisor_pid, signal.SIGKILL)
    info = ended(client, job)
    assert info.status == JobStatus.FAILED and info.error_type == "JOB_SUPERVISOR_ACTOR_DIED"
    gone([command])


def test_an_environment_that_cannot_be_made_is_the_reason(client):
    job = client.submit_job(
        entrypoint="echo no", runtime_env={"py_executable": "/no/such/python", "env_vars": {"A": "1"}}
    )
    info = ended(client, job)
    assert info.status == JobStatus.FAILED and info.error_type == "RUNTIME_ENV_SETUP_FAILURE"
    assert "/no/such/python" in info.message


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"entrypoint": ""}, "entrypoint"),
        ({"entrypoint": "x\0y"}, "NUL"),
        ({"entrypoint": "true", "submission_id": "../x"}, "submission_id"),
        ({"entrypoint": "true", "entrypoint_num_cpus": -1}, "num_cpus"),
        ({"entrypoint": "true", "entrypoint_resources": {"CPU": 1}}, "CPU"),
        ({"entrypoint": "true", "metadata": {"a": 1}}, "metadata"),
    ],
)
def test_a_job_that_cannot_be_is_refused_at_once(client, fields, what):
    with pytest.raises(RuntimeError, match=what):
        client.submit_job(**fields)


def test_who_has_no_key_gets_nowhere(runtime):
    with pytest.raises(RuntimeError, match="401"):
        JobSubmissionClient(runtime.dashboard_url, headers={"Authorization": "Bearer " + "0" * 64})
    with pytest.raises(ConnectionError, match="no dashboard answers"):
        JobSubmissionClient("http://127.0.0.1:9")
    with pytest.raises(ValueError, match="address"):
        JobSubmissionClient("http://")


def test_the_command_line_submits_shows_the_output_and_tells_the_outcome(runtime, script):
    def job(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "obsray.cli", "job", words[0], "--address", runtime.dashboard_url, *words[1:]]
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=PATIENCE_SECONDS)

    done = job("submit", "--submission-id", "by-hand", "--", "sh", "-c", "echo to be seen; exit 3")
    assert done.returncode == 1 and "to be seen" in done.stdout
    assert "FAILED" in done.stderr and "exit code 3" in done.stderr
    assert "by-hand" in job("list").stdout and "exit code" in job("status", "by-hand").stdout
    assert json.loads(job("status", "by-hand", "--json").stdout)["driver_exit_code"] == 3
    assert job("logs", "by-hand").stdout == "to be seen\n"
    assert job("delete", "by-hand").returncode == 0
    gone = job("status", "by-hand")
    assert gone.returncode == 1 and "there is no job 'by-hand'" in gone.stderr
