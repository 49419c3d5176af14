"""Several programs in one runtime: each comes, works and goes without the others noticing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from obsray.telemetry.past import views_at
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


def begin(program):
    """The first program, and the address of its runtime."""
    first = program(FIRST)
    first.hear()
    return first, first.hear()["address"]


def join(program, address, source, **environment):
    second = program(SECOND + source, **environment)
    second.tell(address)
    return second


def test_programs_share_a_runtime_and_keep_their_output_and_jobs_apart(program):
    first, address = begin(program)
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
    first, address = begin(program)
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
    def keep(self, box): self.box = box
    def read(self):
        try: return len(obsray.get(self.box[0], timeout=30))
        except obsray.exceptions.RayError as error: return type(error).__name__

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
obsray.get(stays.keep.remote([value]))
assert obsray.get(stays.read.remote()) == 1 << 20
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
    gone(ending, SOON_SECONDS)
    assert all(process.is_running() for process in staying)
    error = "WORKER_DIED" if how == "killed" else "TASK_CANCELLED"
    hung = [("name", "=", "hang"), ("state", "=", "FAILED"), ("error_type", "=", error)]
    eventually(lambda: state.list_tasks(address, filters=hung), 60)
    ended = eventually(lambda: [job for job in views(address).jobs() if job["ended_at_ns"]])
    assert [job["state"] for job in ended] == ["FAILED" if how == "killed" else "SUCCEEDED"], ended

    def free():
        first.tell("[obsray.available_resources().get(name, 0) for name in ('CPU', 'object_store_memory')]")
        return first.hear()["answer"]

    eventually(lambda: free()[0] == 2.0)
    first.tell("obsray.cluster_resources()['object_store_memory'] - " + str(free()[1]))
    assert first.hear()["answer"] == 0
    first.tell("obsray.get(obsray.get_actor('stays').pid.remote())")
    assert first.hear()["answer"] == said["stays"][0]
    # What it had borrowed went with its owner, and it hears of that at once.
    first.tell("obsray.get(obsray.get_actor('stays').read.remote())")
    assert first.hear()["answer"] == "OwnerDiedError"
    first.tell("obsray.util.list_named_actors()")
    assert first.hear()["answer"] == ["stays"]
    first.tell("obsray.kill(obsray.get_actor('stays'))")
    first.hear()
    gone(staying)


@pytest.mark.parametrize("how", ["killed", "ended"])
def test_when_the_program_that_started_it_ends_the_others_are_told_and_nothing_hangs(program, root, how):
    first, address = begin(program)
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
    first, address = begin(program)
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
    first, address = begin(program)
    second = join(
        program,
        address,
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
    first, address = begin(program)
    second = join(
        program,
        address,
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


def test_tasks_of_a_killed_program_are_over_from_that_moment_wherever_one_asks(program):
    """Lists, SQL, the state API, answers and time travel: what waited and what ran ended with its owner."""
    _, address = begin(program)
    second = join(
        program,
        address,
        """
files = joined.address_info["session_dir"]

@obsray.remote(num_cpus=0)
class Keeper:
    def hold(self):
        open(files + "/held", "w").close()
        while not os.path.exists(files + "/go"):
            time.sleep(0.01)

    def then(self):
        open(files + "/after", "w").close()

@obsray.remote(num_cpus=2)
def hang():
    open(files + "/hangs", "w").close()
    time.sleep(600)

@obsray.remote
def after(value): pass

keeper = Keeper.options(name="keeper", lifetime="detached").remote()
held, behind = keeper.hold.remote(), keeper.then.remote()
running = hang.remote()
while not (os.path.exists(files + "/hangs") and os.path.exists(files + "/held")):
    time.sleep(0.01)
queued, waiting, value = hang.remote(), after.remote(running), obsray.put(1)
from obsray.util import state
wanted = {one.task_id().hex(): name for name, one in (
    ("held", held), ("behind", behind), ("running", running), ("queued", queued), ("waiting", waiting))}
while {row.task_id for row in state.list_tasks(detail=True)} < wanted.keys():
    time.sleep(0.01)
say(tasks=wanted, value=value.hex(), files=files)
listen()
""",
    )
    said = second.hear()
    names = said["tasks"]

    def states(at=None):
        told = (views(said["files"]) if at is None else views_at(said["files"], at)).tasks(limit=100)["rows"]
        return {names[row["task_id"]]: row["state"] for row in told if row["task_id"] in names}

    lived = {
        "held": "RUNNING", "behind": "SUBMITTED_TO_WORKER", "running": "RUNNING", "queued": "PENDING_NODE_ASSIGNMENT",
        "waiting": "PENDING_ARGS_AVAIL",
    }  # fmt: skip
    eventually(lambda: states() == lived)
    before_ns = time.time_ns()
    second.process.kill()
    second.wait()
    # The call of an actor that lives on runs to its end, whoever asked for it.
    over = dict.fromkeys(names.values(), "FAILED") | {"held": "RUNNING"}
    eventually(lambda: states() == over)
    rows = {
        names[row["task_id"]]: row for row in views(said["files"]).tasks(limit=100)["rows"] if row["task_id"] in names
    }
    for name in over.keys() - {"held"}:
        row = rows[name]
        assert row["outcome"] == "owner_died" and before_ns < row["ended_at_ns"] < time.time_ns()
        assert row["error"].startswith("its owner, driver ") and "was killed or crashed" in row["error"]
        assert row["total_seconds"] < 60
    assert rows["held"]["outcome"] is None and rows["held"]["ended_at_ns"] is None
    assert states(before_ns) == lived
    assert states(rows["queued"]["ended_at_ns"]) | {"running": "FAILED"} == over
    listed = {row.task_id: row for row in state.list_tasks(address, detail=True)}
    assert {name: listed[task].state for task, name in names.items()} == over
    assert listed[next(task for task in names if names[task] == "queued")].error_type == "WORKER_DIED"

    def asked(*words):
        command = [sys.executable, "-m", "obsray.cli", *words, "--session", said["files"]]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    told = json.loads(asked("list", "tasks", "--format", "json", "--limit", "100"))
    assert {names[row["task_id"]]: row["state"] for row in told if row["task_id"] in names} == over
    told = json.loads(asked("sql", "select task_id, state, outcome, ended_at from tasks", "--json"))
    table = {names[row["task_id"]]: (row["state"], row["outcome"]) for row in told if row["task_id"] in names}
    assert table == {name: (state, None if state == "RUNNING" else "owner_died") for name, state in over.items()}
    of = {name: task for task, name in names.items()}
    why = asked("why", of["queued"])
    assert "failed before it began: its owner, driver " in why and "was killed or crashed" in why
    assert "failed while it ran: its owner, driver " in asked("why", of["running"])
    told = asked("story", of["running"])
    assert "job 00000002 ended (unknown)" in told
    assert re.search(r"was killed while running hang \(\S+\): the owner of its tasks \(\w{16}\) ended", told)
    # A value that was in its owner is gone with it.
    gone_value = state.list_objects(address, filters=[("object_id", "=", said["value"]), ("state", "=", "FREED")])
    assert len(gone_value) == 1
    (Path(said["files"]) / "go").touch()
    eventually(lambda: states()["held"] == "FINISHED")
    assert not (Path(said["files"]) / "after").exists()
