"""What programs written for Ray rely on without asking for it."""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import obsray
from obsray import cloudpickle, exceptions
from obsray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from obsray.util.state import list_nodes, list_tasks, list_workers, summarize_tasks
from tests.integration.programs import eventually

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", autouse=True)
def runtime() -> Iterator[None]:
    with obsray.init(num_cpus=2, resources={"none": 0}, include_dashboard=False, log_to_driver=False):
        yield


@obsray.remote(num_cpus=0)
class Book:
    """What others say they have done."""

    def __init__(self) -> None:
        self.lines: list[Any] = []

    def write(self, line: Any) -> None:
        self.lines.append(line)

    def read(self) -> list[Any]:
        return self.lines


def has(book: Any, line: Any) -> bool:
    return line in obsray.get(book.read.remote(), timeout=60)


# --- cancelled ---------------------------------------------------------------------------------------------------


@obsray.remote
def sleeps(book: Any) -> None:
    obsray.get(book.write.remote("begun"))
    threading.Event().wait(600)


@obsray.remote
class Sleeper:
    async def sleeps(self, book: Any) -> None:
        try:
            await book.write.remote("begun")
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            await book.write.remote("told")


def test_code_that_is_cancelled_while_it_runs_has_failed_as_cancelled():
    sleeper, book, other = Sleeper.remote(), Book.remote(), Book.remote()
    for reference, where in (sleeper.sleeps.remote(book), book), (sleeps.remote(other), other):
        eventually(lambda where=where: has(where, "begun"), 60)
        obsray.cancel(reference)
        with pytest.raises(exceptions.RayTaskError, match="was cancelled") as caught:
            obsray.get(reference, timeout=60)
        assert isinstance(caught.value, exceptions.TaskCancelledError)
        assert caught.value.task_id == reference.task_id().hex()
    eventually(lambda: has(book, "told"), 60)


def test_what_is_cancelled_with_force_has_lost_its_process_and_what_has_not_begun_has_not():
    @obsray.remote
    def after(value: Any) -> None: ...

    book = Book.remote()
    runs = sleeps.remote(book)
    waits = after.remote(runs)
    eventually(lambda: has(book, "begun"), 60)
    obsray.cancel(waits, force=True)
    with pytest.raises(exceptions.TaskCancelledError) as caught:
        obsray.get(waits, timeout=60)
    assert not isinstance(caught.value, exceptions.WorkerCrashedError | exceptions.RayTaskError)
    obsray.cancel(runs, force=True)
    with pytest.raises(exceptions.WorkerCrashedError, match="was cancelled") as killed:
        obsray.get(runs, timeout=60)
    assert isinstance(killed.value, exceptions.TaskCancelledError)


# --- generators that nobody reads ------------------------------------------------------------------------------------


@obsray.remote(_generator_backpressure_num_objects=1)
def counts(book: Any) -> Iterator[int]:
    yield from range(5)
    obsray.get(book.write.remote("end"))


@obsray.remote
class Counter:
    def ready(self) -> bool:
        return True

    @obsray.method(_generator_backpressure_num_objects=1)
    def counts(self, book: Any) -> Iterator[int]:
        yield from range(5)
        obsray.get(book.write.remote("end"))


@obsray.remote
class CounterOnALoop:
    @obsray.method(_generator_backpressure_num_objects=1)
    async def counts(self, book: Any) -> Any:
        for number in range(5):
            yield number
        await book.write.remote("end")


def test_a_generator_whose_items_nobody_asks_for_runs_to_its_end():
    counter, on_a_loop = Counter.remote(), CounterOnALoop.remote()
    for make in (counts.remote, counter.counts.remote, on_a_loop.counts.remote):
        book = Book.remote()
        make(book)
        eventually(lambda book=book: has(book, "end"), 60)


@obsray.remote(num_cpus=0)
class Consumer:
    def reads_one(self, counter: Any, book: Any) -> int:
        self.items = counter.counts.remote(book)
        value: int = obsray.get(next(self.items))
        return value


def test_an_actor_does_not_wait_for_a_consumer_that_died():
    counter, book, consumer = Counter.remote(), Book.remote(), Consumer.remote()
    assert obsray.get(consumer.reads_one.remote(counter, book), timeout=60) == 0
    obsray.kill(consumer)
    assert obsray.get(counter.ready.remote(), timeout=60)
    assert obsray.get(book.read.remote(), timeout=60) == [], "nobody wants the rest: the generator is closed"


# --- threads of tasks --------------------------------------------------------------------------------------------


@obsray.remote(num_cpus=0)
def where() -> Any:
    return obsray.util.get_current_placement_group()


def asked() -> list[Any]:
    """Where a thread that this task starts is, and where what it submits runs."""
    found: list[Any] = []

    def ask() -> None:
        context = obsray.get_runtime_context()
        found.extend([context.get_task_id(), obsray.util.get_current_placement_group()])
        found.append(obsray.get(where.options(name="of a thread").remote(), timeout=60))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return [obsray.get_runtime_context().get_task_id(), *found]


class Asks:
    def asked(self) -> list[Any]:
        return asked()


def test_a_thread_that_a_task_starts_belongs_to_the_task():
    group = obsray.util.placement_group([{"CPU": 1}])
    inside = PlacementGroupSchedulingStrategy(group, placement_group_capture_child_tasks=True)
    actor = obsray.remote(num_cpus=0, scheduling_strategy=inside)(Asks).remote()
    for reference in obsray.remote(scheduling_strategy=inside)(asked).remote(), actor.asked.remote():
        task, *found = obsray.get(reference, timeout=60)
        assert task == reference.task_id().hex()
        assert found == [task, group, group]
    obsray.util.remove_placement_group(group)
    eventually(lambda: len(list_tasks(filters=[("name", "=", "of a thread")])) == 2, 60)
    assert all(child["parent_task_id"] for child in list_tasks(filters=[("name", "=", "of a thread")]))


class Lets:
    """Its thread submits when no call runs any more."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.thread = threading.Thread(target=self.submits)

    def submits(self) -> None:
        self.gate.wait()
        obsray.get(nothing.options(name="of an actor").remote())

    def begins(self) -> None:
        self.thread.start()

    def ends(self) -> None:
        self.gate.set()
        self.thread.join()


@obsray.remote(num_cpus=0)
def nothing() -> None: ...


def test_a_thread_of_an_actor_that_outlives_its_call_belongs_to_the_making_of_the_actor():
    actor = obsray.remote(num_cpus=0, max_concurrency=2)(Lets).remote()
    # Calls of an actor with threads have no order.
    obsray.get(actor.begins.remote(), timeout=60)
    obsray.get(actor.ends.remote(), timeout=60)
    made = [("actor_id", "=", actor._actor_id.hex()), ("type", "=", "ACTOR_CREATION_TASK")]
    eventually(lambda: list_tasks(filters=[("name", "=", "of an actor")]) and list_tasks(filters=made), 60)
    (child,), (creation,) = list_tasks(filters=[("name", "=", "of an actor")]), list_tasks(filters=made)
    assert child.parent_task_id == creation.task_id


# --- asked to end ------------------------------------------------------------------------------------------------


def leaves(path: Any, name: str) -> None:
    atexit.register(lambda: (path / f"exit-{name}").touch())
    (path / "began").write_text(str(os.getpid()))


@obsray.remote(num_cpus=0, max_retries=0)
def spins(path: Any) -> None:
    leaves(path, "task")
    try:
        threading.Event().wait(600)
    finally:
        (path / "finally").touch()


@obsray.remote(num_cpus=0, max_restarts=1, max_task_retries=-1)
class Leaver:
    def __init__(self, path: Any) -> None:
        leaves(path, "actor")

    def pid(self) -> int:
        return os.getpid()

    def child(self) -> int | None:
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        child.start()
        child.terminate()
        child.join()
        return child.exitcode


def test_a_worker_that_is_sent_sigterm_leaves_in_order(tmp_path):
    running = spins.remote(tmp_path)
    eventually(lambda: (tmp_path / "began").exists() and (tmp_path / "began").read_text(), 60)
    os.kill(int((tmp_path / "began").read_text()), signal.SIGTERM)
    with pytest.raises(exceptions.WorkerCrashedError, match="signal 15"):
        obsray.get(running, timeout=60)
    assert (tmp_path / "finally").exists() and (tmp_path / "exit-task").exists()


@pytest.mark.parametrize("calls", [1, 2])
def test_an_actor_that_is_sent_sigterm_leaves_in_order_and_starts_again(tmp_path, calls):
    actor = Leaver.options(max_concurrency=calls).remote(tmp_path)
    pid = obsray.get(actor.pid.remote(), timeout=60)
    # What it forks is no worker.
    assert obsray.get(actor.child.remote(), timeout=60) == -signal.SIGTERM
    os.kill(pid, signal.SIGTERM)
    eventually(lambda: (tmp_path / "exit-actor").exists(), 60)
    eventually(lambda: obsray.get(actor.pid.remote(), timeout=60) != pid, 60)


def test_a_cancelled_task_has_failed_as_cancelled_for_who_lists_tasks():
    reference = nothing.options(name="never", resources={"node:nowhere": 1}).remote()
    obsray.cancel(reference)
    with pytest.raises(exceptions.TaskCancelledError):
        obsray.get(reference, timeout=60)
    named = ("name", "=", "never")
    eventually(lambda: list_tasks(filters=[named, ("state", "=", "FAILED")]), 60)
    for also in (
        ("state", "=", "FAILED"), ("state", "=", "cancelled"), ("state", "!=", "FINISHED"),
        ("error_type", "=", "TASK_CANCELLED"), ("state", "in", ["FAILED", "CANCELLED"]), ("state", "in", "CANCELLED"),
    ):  # fmt: skip
        (row,) = list_tasks(filters=[named, also])
        assert (row.state, row.error_type) == ("FAILED", "TASK_CANCELLED")
    assert not list_tasks(filters=[named, ("state", "!=", "CANCELLED")])
    with pytest.raises(ValueError, match="TASK_CANCELLED"):
        list_tasks(filters=[("state", "in", ["RUNNING", "CANCELLED"])])
    (counted,) = [
        row for row in summarize_tasks()["cluster"]["summary"].values() if row["func_or_class_name"] == "never"
    ]
    assert counted["state_counts"] == {"FAILED": 1}


# --- how processes ended -------------------------------------------------------------------------------------------


@obsray.remote(num_cpus=0)
class Ends:
    def __init__(self, raises: bool = False) -> None:
        if raises:
            raise LookupError

    def pid(self) -> int:
        return os.getpid()

    def exits(self, code: int) -> None:
        sys.exit(code)


def test_the_ends_of_processes_have_rays_kinds_and_the_living_have_no_end():
    ended = {}
    for kind, end in {
        "SYSTEM_ERROR SIGNAL": lambda actor, pid: os.kill(pid, signal.SIGKILL),
        "SYSTEM_ERROR EXIT_CODE": lambda actor, pid: actor.exits.remote(4),
        "INTENDED_USER_EXIT INTENDED": lambda actor, pid: actor.exits.remote(0),
        "INTENDED_USER_EXIT KILLED_BY_REQUEST": lambda actor, pid: obsray.kill(actor),
        "": lambda actor, pid: None,
    }.items():
        actor = Ends.remote()
        pid = obsray.get(actor.pid.remote(), timeout=60)
        end(actor, pid)
        ended[pid] = kind, actor
    broken = Ends.remote(True)

    def told() -> bool:
        rows = {row.pid: row for row in list_workers(limit=1000, detail=True)}
        found = {pid: f"{rows[pid].exit_type or ''} {rows[pid].exit_cause or ''}".strip() for pid in ended}
        assert all((rows[pid].end_time_ms == 0) == rows[pid].is_alive for pid in ended)
        assert any(row.end_time_ms == 0 for row in list_nodes(detail=True))
        return found == {pid: kind for pid, (kind, _) in ended.items()}

    eventually(told, 60)
    with pytest.raises(exceptions.ActorDiedError):
        obsray.get(broken.pid.remote(), timeout=60)
    eventually(lambda: list_workers(filters=[("exit_type", "=", "USER_ERROR")]), 60)


# --- tracebacks ----------------------------------------------------------------------------------------------------


def fails() -> None:
    raise LookupError("of a helper")


@obsray.remote
def raises() -> None:
    fails()


class Plain:
    def calls(self, wrapped: list[Any]) -> None:
        obsray.get(wrapped[0])


class Async:
    async def calls(self, wrapped: list[Any]) -> None:
        await wrapped[0]


@pytest.mark.parametrize("kind", [Plain, Async])
def test_a_traceback_has_every_frame_of_the_users_and_nothing_of_the_inside(kind):
    actor = obsray.remote(num_cpus=0)(kind).remote()
    # Not that of the moment in which its process did nothing.
    obsray.get(actor.__ray_ready__.remote(), timeout=60)
    with pytest.raises(LookupError, match="of a helper") as caught:
        obsray.get(actor.calls.remote([raises.remote()]), timeout=60)
    text = str(caught.value)
    assert [line.rpartition(" in ")[2] for line in text.splitlines() if line.startswith("  File")] == [
        "calls", "raises", "fails"
    ]  # fmt: skip
    assert "IndexError" not in text and "During handling" not in text


# --- the rest ------------------------------------------------------------------------------------------------------


def test_references_are_not_pickled_by_hand_where_a_variable_forbids_it(monkeypatch):
    reference = obsray.put(1)
    assert obsray.get(cloudpickle.loads(cloudpickle.dumps(reference))) == 1
    monkeypatch.setenv("RAY_allow_out_of_band_object_ref_serialization", "0")
    with pytest.raises(exceptions.OufOfBandObjectRefSerializationException, match="by hand"):
        cloudpickle.dumps([reference])

    @obsray.remote
    def reads(inside: list[Any]) -> int:
        value: int = obsray.get(reference) + obsray.get(inside[0])
        return value

    assert obsray.get(reads.remote([reference]), timeout=60) == 2


def test_resources_of_which_there_is_nothing_are_not_listed():
    assert "none" not in obsray.cluster_resources()
    assert "none" not in obsray.nodes()[0]["Resources"]


def test_rays_examples_find_generators_where_they_import_them_from():
    from obsray._raylet import ObjectRefGenerator

    assert ObjectRefGenerator is obsray.ObjectRefGenerator
    assert obsray._raylet.ObjectRef is obsray.ObjectRef


@obsray.remote
class Steady:
    def pid(self):
        return os.getpid()

    def holds(self, gate):
        while not os.path.exists(gate):
            time.sleep(0.01)


@obsray.remote
def holds(gate, told):
    Path(told).write_text(str(os.getpid()))
    while not os.path.exists(gate):
        time.sleep(0.01)


def test_ps_and_top_show_what_a_worker_runs(tmp_path):
    def titles(pid):
        process = Path(f"/proc/{pid}")
        return (process / "cmdline").read_text().rstrip("\0"), (process / "comm").read_text().rstrip()

    gate, told = tmp_path / "gate", [tmp_path / "one", tmp_path / "other"]
    steady = Steady.remote()
    pid = obsray.get(steady.pid.remote(), timeout=60)
    eventually(lambda: titles(pid) == ("obsray::Steady", "obsray::Steady"))
    running = [
        steady.holds.remote(str(gate)),
        holds.remote(str(gate), str(told[0])),
        holds.options(name="training").remote(str(gate), str(told[1])),
    ]
    eventually(lambda: all(path.exists() and path.read_text() for path in told))
    one, other = (int(path.read_text()) for path in told)
    eventually(lambda: titles(pid) == ("obsray::Steady.holds", "obsray::Steady."))
    eventually(lambda: titles(one) == ("obsray::holds", "obsray::holds"))
    eventually(lambda: titles(other) == ("obsray::training", "obsray::trainin"))
    gate.touch()
    obsray.get(running, timeout=60)
    eventually(lambda: titles(pid)[0] == "obsray::Steady")
    eventually(lambda: {titles(one)[0], titles(other)[0]} == {"obsray::IDLE"})
