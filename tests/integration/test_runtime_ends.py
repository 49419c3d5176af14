"""A runtime leaves nothing behind, however it ends, and does not disturb another one."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pytest

from obsray.telemetry.past import views_at
from obsray.util import state
from tests.integration.programs import SOON_SECONDS, eventually, gone, leftovers, views

pytest_plugins = ["tests.integration.fixtures"]
pytestmark = pytest.mark.timeout(120)

#: A busy runtime: tasks that run, a child of a task, an actor, an object on disk.
BUSY = """
import numpy as np
context = start(object_store_memory=64 << 20)

@obsray.remote
class Keeper:
    def pid(self): return os.getpid()

@obsray.remote
def outlive():
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    say_pid.remote(child.pid)
    time.sleep(600)

@obsray.remote(num_cpus=0)
def say_pid(pid):
    with open(os.path.join(directory, "grandchild"), "w") as file:
        file.write(str(pid))

directory = context.address_info["session_dir"]
keeper = Keeper.remote()
obsray.get(keeper.pid.remote())
objects = [obsray.put(np.ones(2 << 20)) for _ in range(6)]
running = outlive.remote()
while not os.path.exists(os.path.join(directory, "grandchild")) or not os.listdir(os.path.join(directory, "spill")):
    time.sleep(0.01)
say(busy=True)
if listen() == "get":
    try:
        obsray.get(running)
    except Exception as error:
        say(error=type(error).__name__)
"""


@pytest.mark.parametrize("killed", ["driver", "node", "driver and node"])
def test_what_is_killed_leaves_no_process_socket_or_spilled_object(program, root, killed):
    driver = program(BUSY)
    node = driver.hear()["node_pid"]
    driver.hear()
    family = driver.family()
    assert len(family) > 5 and leftovers(root)
    if "node" in killed:
        os.kill(node, signal.SIGKILL)
    if "driver" in killed:
        driver.process.kill()
    else:
        family = [process for process in family if process.pid != driver.process.pid]
    gone(family)
    if "driver" not in killed:
        driver.tell("get")
        assert driver.hear()["error"] == "LocalRayletDiedError"
        assert driver.wait() == 0, driver.errors()
    eventually(lambda: not leftovers(root))


def test_an_orderly_end_is_quick_and_leaves_nothing(program, root):
    driver = program(BUSY + "obsray.shutdown(); say(down=True); listen()")
    driver.hear()
    driver.hear()
    family = driver.family()[1:]
    started = time.monotonic()
    driver.tell()
    driver.hear()
    took = time.monotonic() - started
    gone(family, within_seconds=SOON_SECONDS)
    assert not leftovers(root)
    print(f"shutdown of a busy runtime took {took:.2f} s")
    assert took < SOON_SECONDS


def test_an_orderly_end_leaves_nothing_where_the_process_that_forks_workers_was_stopped(program, root):
    driver = program(BUSY + "obsray.shutdown(); say(down=True)")
    node = psutil.Process(driver.hear()["node_pid"])
    driver.hear()
    family = driver.family()
    (zygote,) = (child for child in node.children() if any("zygote" in part for part in child.cmdline()))
    zygote.suspend()
    driver.tell()
    driver.hear()
    gone(family)
    assert not leftovers(root)


def test_a_result_is_there_soon_after_the_start(program):
    driver = program(
        "started = time.monotonic()\n"
        "start(include_dashboard=True)\n"
        "value = obsray.get(obsray.remote(lambda: 7).remote())\n"
        "say(value=value, seconds=time.monotonic() - started)\n"
    )
    driver.hear()
    said = driver.hear()
    assert said["value"] == 7
    print(f"init to the first result took {said['seconds']:.2f} s")
    assert said["seconds"] < 2 * SOON_SECONDS


def test_a_program_with_more_than_a_thousand_open_files_starts_a_runtime_all_the_same(program):
    driver = program(
        "import resource\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard < 4000 else 4000, hard))\n"
        "held = [open(os.devnull) for _ in range(1100)]\n"
        "start()\n"
        "say(value=obsray.get(obsray.remote(lambda: 7).remote()))\n"
    )
    driver.hear()
    assert driver.hear()["value"] == 7


def test_two_runtimes_side_by_side_do_not_disturb_one_another(program, root):
    source = """
context = start()
@obsray.remote
class Named:
    def where(self): return os.environ["WHO"]
named = Named.options(name="named", namespace="same").remote()
obsray.get(named.where.remote())
say(ready=True)
listen()
refs = [obsray.remote(lambda x: x + 1).remote(x) for x in range(100)]
say(sum=sum(obsray.get(refs)), where=obsray.get(obsray.get_actor("named", "same").where.remote()))
listen()
"""
    first, second = program(source, WHO="first"), program(source, WHO="second")
    nodes = [each.hear()["node_pid"] for each in (first, second)]
    assert first.hear() and second.hear()
    assert nodes[0] != nodes[1]
    first.tell()
    assert first.hear() == {"sum": 5050, "where": "first"}
    first.process.kill()
    gone([psutil.Process(nodes[0])] if psutil.pid_exists(nodes[0]) else [])
    second.tell()
    assert second.hear() == {"sum": 5050, "where": "second"}
    second.tell()
    assert second.wait() == 0
    eventually(lambda: not leftovers(root))


@pytest.mark.parametrize(
    "blocked_in",
    [
        "obsray.get(forever.remote())",
        "obsray.wait([forever.remote()])",
        "next(stream.options(num_returns='streaming').remote())",
        "obsray.get(Actor.remote().forever.remote())",
    ],
)
def test_ctrl_c_in_a_blocked_call_is_a_keyboard_interrupt_soon(program, root, blocked_in):
    driver = program(f"""
start()
begun = os.path.join(obsray.get_runtime_context().gcs_address, "begun")

@obsray.remote
def forever(): open(begun, "w"); time.sleep(600)
@obsray.remote
def stream(): open(begun, "w"); time.sleep(600); yield 1
@obsray.remote
class Actor:
    def forever(self): open(begun, "w"); time.sleep(600)
try:
    say(begun=begun)
    {blocked_in}
except KeyboardInterrupt:
    say(interrupted=True)
""")
    driver.hear()
    begun = driver.hear()["begun"]
    eventually(lambda: os.path.exists(begun))
    family = driver.family()
    started = time.monotonic()
    os.killpg(driver.process.pid, signal.SIGINT)
    assert driver.hear() == {"interrupted": True}
    assert time.monotonic() - started < SOON_SECONDS
    assert driver.wait() == 0
    gone(family)
    assert not leftovers(root)


DEEP = """
context = start(_temp_dir=os.environ["DEEP"])
session = context.address_info["session_dir"]
other = subprocess.run(
    [sys.executable, "-c", "import obsray, sys; obsray.init(address=sys.argv[1]); print(len(obsray.nodes()))", session],
    capture_output=True, text=True,
)
say(value=obsray.get(obsray.remote(lambda: 7).remote()), joined=other.stdout.strip(), why=other.stderr)
if listen() == "end":
    obsray.shutdown()
    say(down=True)
    listen()
try:
    while True:
        obsray.get(obsray.remote(lambda: 7).remote())
        time.sleep(0.05)
except obsray.exceptions.LocalRayletDiedError as error:
    say(error=str(error))
"""


@pytest.mark.parametrize("told", ["end", "removed"])
def test_a_session_may_lie_deeper_than_a_socket_could_and_is_over_when_its_directory_is_removed(program, root, told):
    deep = root / ("deep" * 30)
    deep.mkdir()
    driver = program(DEEP, DEEP=str(deep))
    session = Path(driver.hear()["directory"])
    assert session.is_relative_to(deep)
    said = driver.hear()
    assert (said["value"], said["joined"]) == (7, "1"), said["why"]
    sockets = (session / "sockets").resolve()
    assert len(str(sockets)) < 100 and list(sockets.iterdir())
    family = driver.family()[1:]
    if told == "end":
        driver.tell("end")
        driver.hear()
    else:
        driver.tell("go on")
        shutil.rmtree(session)
        assert f"its session directory {session} was removed" in driver.hear()["error"]
    gone(family)
    eventually(lambda: not sockets.exists() and not (session / "sockets").is_symlink())


def test_of_many_short_programs_no_more_sessions_stay_than_sessions_max_says(program, root):
    for number in range(4):
        each = program("start(num_cpus=1)\nsay(done=obsray.get(obsray.put(1)))", OBSRAY_SESSIONS_MAX="1")
        assert each.wait() == 0, each.errors()
        # Its own, and that of the one before it.
        assert len(list(root.glob("*/s_*"))) == min(number + 1, 2)


def test_what_a_session_did_that_was_killed_as_a_whole_is_over_wherever_one_asks(program, root):
    each = program(
        """
start(num_cpus=1)

@obsray.remote
def hang():
    time.sleep(600)

@obsray.remote
def after(value): pass

@obsray.remote(num_cpus=0)
class Keeper:
    def hold(self): time.sleep(600)

keeper = Keeper.options(lifetime="detached", name="keeper").remote()
held, running, queued, value = keeper.hold.remote(), hang.remote(), hang.remote(), obsray.put(1)
waiting = after.remote(running)
from obsray.util import state
while sorted(row.state for row in state.list_tasks(filters=[("name", "!=", "Keeper.__init__")])) != [
    "PENDING_ARGS_AVAIL", "PENDING_NODE_ASSIGNMENT", "RUNNING", "RUNNING"
]:
    time.sleep(0.01)
say(held=held.task_id().hex(), running=running.task_id().hex(), value=value.hex())
time.sleep(600)
"""
    )
    said = [each.hear(), each.hear()][-1]
    session = next(root.glob("*/s_*"))
    before_ns = time.time_ns()
    family = each.family()
    # Stopped first: nobody may see another one go.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in family:
            process.send_signal(number)
    gone(family)
    killed_ns = time.time_ns()
    view = views(session)
    rows = {row["task_id"]: row for row in view.tasks(limit=100)["rows"]}
    assert sorted(row["state"] for row in rows.values()) == ["FAILED"] * 4 + ["FINISHED"]
    for row in rows.values():
        if row["state"] == "FAILED":
            assert row["outcome"] == "owner_died" and row["ended_at_ns"] <= killed_ns
            assert row["error"].startswith("its owner, driver ") and "ended with its whole session" in row["error"]
    assert {row["state"] for row in view.workers() + view.actors() + view.nodes()} == {"DEAD"}
    assert all(row["died_at_ns"] for row in view.workers() + view.actors())
    assert view.why(said["running"])["code"] == "OWNER_DIED"
    assert "WORKER_DIED" in {row.error_type for row in state.list_tasks(str(session), detail=True)}
    assert not state.list_objects(str(session), filters=[("object_id", "=", said["value"]), ("state", "!=", "FREED")])
    # At the last moment that is recorded it still ran.
    assert views_at(session, before_ns).task(said["held"])["state"] == "RUNNING"
