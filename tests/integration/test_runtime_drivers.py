"""Several programs in one runtime: each comes, works and goes without the others noticing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from obsray.util import state
from tests.integration.programs import SOON_SECONDS, eventually, gone, leftovers, views

pytest_plugins = ["tests.integration.fixtures"]
pytestmark = pytest.mark.timeout(120)

#: Serves until it is told to end; answers with what ``eval`` gives.
FIRST = """
context = start(num_cpus=2, namespace="meeting")
say(address=context.address_info["address"])

@obsray.remote
def f(x):
    print("of the first")
    return x

while (asked := listen()) not in ("", "end"):
    say(answer=eval(asked))
"""

#: Joins what it is told.
SECOND = """
joined = obsray.init(address=listen(), namespace="meeting")
"""


def join(program, address, source, **environment):
    second = program(SECOND + source, **environment)
    second.tell(address)
    return second


def test_programs_share_a_runtime_and_keep_their_output_and_jobs_apart(program):
    first = program(FIRST)
    first.hear()
    address = first.hear()["address"]
    second = join(
        program,
        "auto",
        """
@obsray.remote
def g(x):
    print("of the second")
    print("error of the second", file=sys.stderr)
    return x + 1

say(answer=obsray.get(g.remote(1)), cpus=obsray.cluster_resources()["CPU"], address=joined.address_info["address"],
    process=joined.process, job=obsray.get_runtime_context().get_job_id())
print(listen(), flush=True)
""",
    )
    assert second.hear() == {"answer": 2, "cpus": 2.0, "address": address, "process": None, "job": "00000002"}
    first.tell("obsray.get(f.remote(5))")
    first_lines = [first.process.stdout.readline().decode() for _ in range(2)]
    assert any('"answer": 5' in line for line in first_lines) and any("of the first" in line for line in first_lines)
    second.tell("bye")
    out, errors = second.process.communicate(timeout=30)
    assert b"of the second" in out and b"of the first" not in out and b"bye" in out
    assert b"error of the second" in errors
    assert second.process.returncode == 0
    eventually(lambda: [job["state"] for job in views(address).jobs()] == ["SUCCEEDED", "RUNNING"])
    command = [sys.executable, "-m", "obsray.cli", "status", "--session", address]
    assert "1 running, 1 succeeded" in subprocess.run(command, capture_output=True, text=True).stdout
    first.tell("end")
    out, errors = first.process.communicate(timeout=30)
    assert b"of the second" not in out + errors
    jobs = views(address).jobs()
    assert len(jobs) == 2 and {job["namespace"] for job in jobs} == {"meeting"}


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_what_a_program_made_goes_with_it_and_its_detached_actors_stay(program, how):
    first = program(FIRST)
    first.hear()
    address = first.hear()["address"]
    second = join(
        program,
        address,
        """
import numpy as np

@obsray.remote
class A:
    def pid(self): return os.getpid()
    def pair(self):
        self.child = A.options(num_cpus=0).remote()
        return os.getpid(), obsray.get(self.child.pid.remote())

@obsray.remote(num_cpus=0)
def hang(pid):
    say_pid(os.getpid())
    time.sleep(600)

def say_pid(pid):
    with open(pids, "w") as file: file.write(str(pid))

pids = joined.address_info["session_dir"] + "/pid"
stays = A.options(name="stays", lifetime="detached", num_cpus=0).remote()
goes = A.options(name="goes", num_cpus=0).remote()
value = obsray.put(np.ones(1 << 20))
running = hang.options(num_cpus=2).remote(0)
while not os.path.exists(pids) or not open(pids).read():
    time.sleep(0.01)
say(stays=obsray.get(stays.pair.remote()), goes=obsray.get(goes.pair.remote()), task=int(open(pids).read()),
    free=obsray.available_resources().get("CPU", 0))
listen()
""",
    )
    said = second.hear()
    assert said["free"] == 0
    import psutil

    ending = [psutil.Process(pid) for pid in (*said["goes"], said["task"])]
    staying = [psutil.Process(pid) for pid in said["stays"]]
    if how == "killed":
        second.process.kill()
    else:
        second.tell()
    second.wait()
    gone(ending)
    assert all(process.is_running() for process in staying)
    error = "WORKER_DIED" if how == "killed" else "TASK_CANCELLED"
    hung = [("name", "=", "hang"), ("state", "=", "FAILED"), ("error_type", "=", error)]
    eventually(lambda: state.list_tasks(address, filters=hung), 60)

    def free():
        first.tell("[obsray.available_resources().get(name, 0) for name in ('CPU', 'object_store_memory')]")
        return first.hear()["answer"]

    eventually(lambda: free()[0] == 2.0)
    first.tell("obsray.cluster_resources()['object_store_memory'] - " + str(free()[1]))
    assert first.hear()["answer"] == 0
    first.tell("obsray.get(obsray.get_actor('stays').pid.remote())")
    assert first.hear()["answer"] == said["stays"][0]
    first.tell("obsray.util.list_named_actors()")
    assert first.hear()["answer"] == ["stays"]
    first.tell("obsray.kill(obsray.get_actor('stays'))")
    first.hear()
    gone(staying)


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_when_the_program_that_started_it_ends_the_others_are_told_and_nothing_hangs(program, root, how):
    first = program(FIRST)
    first.hear()
    address = first.hear()["address"]
    second = join(
        program,
        address,
        """
import asyncio

@obsray.remote
def hang():
    time.sleep(600)

reference = hang.remote()
future = reference.future()
say(ready=True)
try:
    obsray.get(reference)
except Exception as error:
    say(error=type(error).__name__, text=str(error))
say(future=type(future.exception(10)).__name__)
try:
    hang.remote()
except Exception as error:
    say(error=type(error).__name__)
obsray.shutdown()
try:
    obsray.init(address=joined.address_info["address"])
except ConnectionError as error:
    say(text=str(error))
""",
    )
    second.hear()
    family = first.family()
    if how == "killed":
        first.process.kill()
    else:
        first.tell("end")
    said = second.hear()
    assert said["error"] == "LocalRayletDiedError" and "the program that started it has ended" in said["text"]
    assert second.hear()["future"] == "LocalRayletDiedError"
    assert second.hear()["error"] == "LocalRayletDiedError"
    assert "has ended" in second.hear()["text"]
    assert second.wait() == 0, second.errors()
    gone(family)
    eventually(lambda: not leftovers(root))


def test_an_error_that_nobody_catches_a_bad_parameter_and_the_variable(program):
    first = program(FIRST)
    first.hear()
    address = first.hear()["address"]
    second = program(
        """
for wrong in ({"num_cpus": 1}, {"resources": {"a": 1}}, {"labels": {"a": "b"}}, {"object_store_memory": 1 << 30},
              {"_system_config": {}, "include_dashboard": False}):
    try:
        obsray.init(**wrong)
    except ValueError as error:
        say(text=str(error))

@obsray.remote
def fail():
    raise KeyError("the reason")

obsray.init(include_dashboard=False)
obsray.get(fail.remote())
""",
        OBSRAY_ADDRESS=address,
    )
    for _ in range(5):
        assert f"OBSRAY_ADDRESS={address}: when connecting to an existing cluster" in second.hear()["text"]
    assert second.wait() == 1
    errors = second.errors()
    assert "KeyError: 'the reason'" in errors and "RuntimeWarning: OBSRAY_ADDRESS=" in errors
    first.tell("len(obsray.nodes())")
    assert first.hear()["answer"] == 1


def test_a_child_forked_from_a_program_does_not_keep_its_end_from_being_noticed(program):
    first = program(FIRST)
    first.hear()
    second = join(
        program,
        first.hear()["address"],
        """
@obsray.remote(num_cpus=2)
class A:
    def ping(self): pass

a = A.remote()
obsray.get(a.ping.remote())
if os.fork() == 0:
    say(child=os.getpid())
    os.close(1)
    time.sleep(600)
listen()
""",
    )
    child = second.hear()["child"]
    second.process.kill()
    try:

        def free():
            first.tell("obsray.available_resources().get('CPU', 0)")
            return first.hear()["answer"]

        eventually(lambda: free() == 2.0)
    finally:
        os.kill(child, signal.SIGKILL)


def test_two_programs_may_end_at_the_same_moment(program, root):
    first = program(FIRST)
    first.hear()
    second = join(
        program,
        first.hear()["address"],
        """
@obsray.remote
def f(x): return x

obsray.get([f.remote(i) for i in range(10)])
say(ready=True)
listen()
""",
    )
    second.hear()
    families = first.family() + second.family()
    started = time.monotonic()
    first.tell("end")
    second.tell()
    assert first.wait() == 0, first.errors()
    assert second.wait() == 0, second.errors()
    assert time.monotonic() - started < 3 * SOON_SECONDS
    gone(families)
    eventually(lambda: not leftovers(root))
