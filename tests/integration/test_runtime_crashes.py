"""Workers die and values cannot travel: the caller gets what was promised, and the story says what happened."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import obsray
from obsray import exceptions, telemetry
from tests.integration.programs import ROOT, eventually, gone, views
from tests.reliability.oracle import checked_runtime

pytest_plugins = ["tests.integration.fixtures"]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def session() -> Iterator[Path]:
    """One runtime for all tests here: they show at the same time that it survives all of them."""
    with checked_runtime() as directory:
        yield directory


@obsray.remote
def stop_at(path: Path, attempts: int) -> int:
    """Say in ``path`` who runs it; the first ``attempts`` times wait to be killed."""
    before = path.read_text().splitlines() if path.exists() else []
    path.write_text("\n".join([*before, str(os.getpid())]))
    if len(before) < attempts:
        signal.pause()
    return len(before)


def pid_in(path: Path, attempt: int) -> int:
    """The process of an attempt, once there is one."""
    return int(eventually(lambda: path.exists() and path.read_text().splitlines()[attempt:])[0])


@obsray.remote(max_retries=0)
def start_processes(path: Path) -> None:
    """Start a process that starts one, and wait; ``path`` gets the number of this one and of the last."""
    shell = subprocess.Popen(
        ["sh", "-c", "sleep 600 & echo $!; wait"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert shell.stdout is not None
    (path.parent / "part").write_text(f"{os.getpid()}\n{shell.pid}\n{shell.stdout.readline()}")
    (path.parent / "part").rename(path)
    signal.pause()


def task_of(reference: Any) -> str:
    return str(reference.hex()[:32])


def test_what_a_killed_worker_had_started_goes_with_it_however_deep(session, tmp_path):
    path = tmp_path / "pids"
    reference = start_processes.remote(path)
    worker, *others = (
        psutil.Process(int(line)) for line in eventually(lambda: path.exists() and path.read_text()).split()
    )
    worker.kill()
    with pytest.raises(exceptions.WorkerCrashedError):
        obsray.get(reference)
    gone(others)


@obsray.remote(max_retries=1)
def end_at_once() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_an_attempt_that_was_killed_before_anybody_noticed_it_is_in_the_story_like_any_other(session):
    """No attempt takes long enough to be recorded by its worker; what its black box says is."""
    reference = end_at_once.remote()
    with pytest.raises(exceptions.WorkerCrashedError):
        obsray.get(reference, timeout=60)
    view = views(session)

    def started() -> list[dict[str, Any]]:
        return [event for event in view.story(task_of(reference)) if event["event"] == "task_started"]

    both = eventually(lambda: len(found := started()) == 2 and found)
    attempts = view.task(task_of(reference))["attempts"]
    assert [each["fields"]["attempt"] for each in both] == [0, 1]
    assert [each["worker_id"] for each in attempts] == [each["process"] for each in both]
    assert all(each["started_at_ns"] and each["run_seconds"] is not None for each in attempts), attempts


def test_a_task_whose_worker_is_killed_runs_again_and_its_story_says_why(session, tmp_path):
    path = tmp_path / "pids"
    reference = stop_at.remote(path, 1)
    killed, task, view = pid_in(path, 0), task_of(reference), views(session)
    eventually(lambda: "task_started" in [event["event"] for event in view.story(task)])
    os.kill(killed, signal.SIGKILL)
    assert obsray.get(reference) == 1

    eventually(lambda: view.task(task)["state"] == "FINISHED")
    attempts = view.task(task)["attempts"]
    assert [attempt["outcome"] for attempt in attempts] == ["worker_died", "ok"]
    assert attempts[0]["worker_pid"] == killed != attempts[1]["worker_pid"]
    assert "signal 9" in attempts[0]["error"]

    events = eventually(lambda: death_between(view.story(task)))
    names = [event["event"] for event in events]
    died, retried = names.index("worker_died"), names.index("task_retried")
    assert names.index("task_started") < died and retried < names.index("task_ended", retried)
    assert events[died]["fields"]["signal"] == 9 and events[died]["fields"]["pid"] == killed
    assert "signal 9" in events[died]["text"]

    told = subprocess.run(
        [sys.executable, "-m", "obsray.cli", "story", task, "--session", str(session)],
        capture_output=True, text=True, timeout=30, cwd=ROOT,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert "signal 9" in told.stdout and str(killed) in told.stdout
    as_json = subprocess.run(
        [sys.executable, "-m", "obsray.cli", "story", task, "--session", str(session), "--json"],
        capture_output=True, text=True, timeout=30, cwd=ROOT,
    )  # fmt: skip
    assert {"worker_died", "task_retried"} <= {event["event"] for event in json.loads(as_json.stdout)["events"]}


def death_between(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    names = {event["event"] for event in events}
    return events if {"task_started", "worker_died", "task_retried", "task_ended"} <= names else []


def test_every_retry_is_used_and_then_the_error_tells_of_each_attempt(session, tmp_path):
    path = tmp_path / "pids"
    reference = stop_at.options(max_retries=2).remote(path, 10)
    for attempt in range(3):
        os.kill(pid_in(path, attempt), signal.SIGKILL)
    with pytest.raises(exceptions.WorkerCrashedError) as caught:
        obsray.get(reference)
    text = str(caught.value)
    assert all(f"attempt {attempt}" in text for attempt in range(3)), text
    task = reference.task_id().hex()
    assert f"`obsray post-mortem {task}`" in text
    assert eventually(lambda: telemetry.post_mortem(task)["cause"]["signal"]) == signal.SIGKILL
    assert len(path.read_text().splitlines()) == 3


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def end_self() -> None:
    os._exit(3)


def crash() -> None:
    ctypes.string_at(0)


@pytest.mark.parametrize(
    ("how", "said"),
    [(kill_self, "signal 9"), (end_self, "code 3"), (crash, "signal 11")],
    ids=["kill", "exit", "crash"],
)
def test_without_retries_the_error_names_what_the_wait_status_says(session, how, said):
    reference = obsray.remote(how).options(max_retries=0).remote()
    with pytest.raises(exceptions.WorkerCrashedError, match=said):
        obsray.get(reference)
    task = views(session).task(task_of(reference))
    assert task["state"] == "FAILED" and task["outcome"] == "worker_died" and said in task["error"]


def test_the_error_of_a_crash_says_in_which_line_of_user_code_and_nothing_of_the_runtimes(session):
    with pytest.raises(exceptions.WorkerCrashedError) as caught:
        obsray.get(obsray.remote(crash).options(max_retries=0).remote())
    text = str(caught.value)
    assert "signal 11 (SIGSEGV)" in text and "Fatal Python error: Segmentation fault" in text
    line = crash.__code__.co_firstlineno + 1
    assert f'File "{__file__}", line {line} in crash' in text and "call_user_code" not in text


def test_an_actor_that_crashes_says_so_to_calls_that_run_wait_and_come_later(session):
    @obsray.remote
    class Fragile:
        def crash(self):
            crash()

        def work(self):
            return 1

    fragile = Fragile.remote()
    assert obsray.get(fragile.work.remote()) == 1
    running, waiting = fragile.crash.remote(), fragile.work.remote()
    for reference in (running, waiting):
        with pytest.raises(exceptions.ActorDiedError, match="signal 11"):
            obsray.get(reference)
    with pytest.raises(exceptions.ActorDiedError, match="signal 11"):
        obsray.get(fragile.work.remote())


def test_the_short_form_of_an_error_of_the_runtime_in_a_task_is_the_line_that_names_it(session):
    @obsray.remote(num_cpus=0)
    class Gone:
        def work(self):
            os._exit(3)

    @obsray.remote
    def ask(actors):
        return obsray.get(actors[0].work.remote())

    gone = Gone.remote()
    with pytest.raises(exceptions.ActorDiedError) as caught:
        obsray.get(ask.remote([gone]))
    assert repr(caught.value).startswith("RayTaskError(ActorDiedError)('obsray.errors.ActorDiedError: the actor Gone (")
    assert repr(caught.value).endswith(" died: exit code 3' in ask)")


# --- what cannot travel ------------------------------------------------------------------------------------


class Unreadable:
    """Arrives as bytes that cannot be read."""

    def __reduce__(self) -> Any:
        return refuse, ()


def refuse() -> None:
    raise RuntimeError("it cannot be rebuilt")


class Touchy(Exception):
    """Needs two arguments, so unpickling it with one fails; its text fails too."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(first)

    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class Locked(Exception):
    def __init__(self) -> None:
        super().__init__("with a lock inside")
        self.lock = threading.Lock()


def test_what_cannot_be_pickled_is_a_typed_error_and_the_worker_lives(session):
    @obsray.remote(num_cpus=2)
    def identity(value):
        return os.getpid()

    @obsray.remote(num_cpus=2)
    def result():
        return threading.Lock()

    @obsray.remote(num_cpus=2)
    def unreadable():
        return Unreadable()

    @obsray.remote(num_cpus=2)
    def raises(which):
        raise {"touchy": lambda: Touchy(1, 2), "locked": Locked}[which]()

    pid = obsray.get(identity.remote(0))
    with pytest.raises(TypeError, match=r"cannot (send|store) .* to another process|cannot store"):
        identity.remote(threading.Lock())
    with pytest.raises(TypeError, match=r"cannot (send|store) .* to another process|cannot store"):
        obsray.put(threading.Lock())
    with pytest.raises(exceptions.RayTaskError) as caught:
        obsray.get(result.remote())
    assert isinstance(caught.value, TypeError) and "lock" in str(caught.value)
    with pytest.raises(exceptions.RayTaskError, match="cannot be rebuilt"):
        obsray.get(identity.remote(Unreadable()))
    with pytest.raises(exceptions.RaySystemError, match="cannot be rebuilt"):
        obsray.get(unreadable.remote())
    with pytest.raises(exceptions.RayTaskError, match="Touchy"):
        obsray.get(raises.remote("touchy"))
    with pytest.raises(exceptions.RayTaskError, match="with a lock inside"):
        obsray.get(raises.remote("locked"))
    assert obsray.get(identity.remote(0)) == pid


def test_the_processes_that_user_code_leaves_behind_end_with_its_worker(session):
    @obsray.remote(max_retries=0)
    def parent(path):
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        path.write_text(str(child.pid))
        os._exit(1)

    path = session / "child"
    reference = parent.remote(path)
    with pytest.raises(exceptions.WorkerCrashedError, match="code 1"):
        obsray.get(reference)
    pid = int(path.read_text())
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_after_all_of_it_nothing_is_lost_and_the_pool_is_whole(session):
    assert sorted(obsray.get([obsray.remote(lambda x: x).remote(x) for x in range(50)])) == list(range(50))
    book = eventually(lambda: balanced(session))
    assert book["totals"]["events_lost"] == 0
    assert obsray.available_resources()["CPU"] == 2.0


def balanced(session: Path) -> Any:
    book = views(session).ledger()
    tasks = book["tasks"]
    ended = tasks["finished"] + tasks["failed"] + tasks["cancelled"]
    return book if tasks["submitted"] == ended + tasks["pending"] and tasks["pending"] == 0 else None


@obsray.remote
def lame() -> int:
    """Have what watches over this process fail at its next look."""
    from obsray.core.runtime.session import current

    current().dispatcher.tick = lambda *_: 1 / 0  # type: ignore[assignment, return-value]
    return os.getpid()


def test_a_worker_whose_watcher_fails_ends_and_others_go_on(session):
    worker = obsray.get(lame.remote())
    eventually(lambda: not psutil.pid_exists(worker))
    assert obsray.get(stop_at.remote(Path(os.devnull), 0)) == 0


def test_a_driver_whose_watcher_fails_hears_it_where_it_waits(program):
    driver = program("""
start()
from obsray.core.runtime.session import current
try:
    current().dispatcher.tick = lambda *_: 1 / 0
    obsray.get(obsray.remote(time.sleep).remote(300))
except obsray.exceptions.RaySystemError as error:
    say(error=str(error))
""")
    driver.hear()
    assert "ZeroDivisionError" in driver.hear()["error"]
    assert driver.wait() == 0


@obsray.remote(num_cpus=0)
def waits_and_counts(release: Path) -> tuple[int, float, bool]:
    """How often this worker was looked after while it waited for another task, for how long, and whether what looks
    after it knew at once that it went on."""
    from obsray.core.runtime.session import current

    watcher, ticks = current().watcher, []
    tick = watcher.tick
    watcher.tick = lambda: (ticks.append(time.monotonic()), tick())[1]  # type: ignore[method-assign]
    waited = appears.remote(release)
    threading.Thread(target=lambda: (eventually(lambda: watcher.asleep and len(ticks) > 10), release.touch())).start()
    obsray.get(waited)
    noticed = watcher._awake.is_set() or not watcher.asleep
    del watcher.tick
    return len(ticks), ticks[-1] - ticks[0], noticed


@obsray.remote(num_cpus=0)
def appears(path: Path) -> None:
    eventually(path.exists)


def test_workers_that_wait_are_looked_after_seldom_so_that_hundreds_may_wait(session, tmp_path):
    ticks, seconds, noticed = obsray.get(waits_and_counts.remote(tmp_path / "go on"))
    assert ticks / seconds < 100, f"{ticks} times in {seconds} s"
    assert noticed
