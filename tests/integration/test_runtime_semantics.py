"""What programs written for Ray rely on in corners: loops of groups, exits, cancelled values, generators, names."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

import obsray
from obsray import exceptions
from obsray.util import state
from obsray.util.placement_group import VALID_PLACEMENT_GROUP_STRATEGIES
from obsray.util.queue import Queue
from tests.integration.programs import eventually

pytestmark = pytest.mark.timeout(120)
SECONDS = 60


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    """One runtime for all tests here."""
    obsray.init(num_cpus=4, include_dashboard=False)
    yield
    obsray.shutdown()


def get(what: Any) -> Any:
    return obsray.get(what, timeout=SECONDS)


def outcomes(references: Any) -> list[Any]:
    """The value of each reference, or the text of its error's last line."""
    found = []
    for reference in references:
        try:
            found.append(get(reference))
        except exceptions.RayTaskError as error:
            found.append(error.traceback_str.strip().rpartition("\n")[2])
    return found


def wait_for(path: Path) -> None:
    eventually(path.exists)


# --- async actors ------------------------------------------------------------------------------------------------


@obsray.remote(concurrency_groups={"blocking": 2, "other": 1})
class Grouped:
    """Async, with groups. What it makes in its constructor lives on the default group's loop."""

    def __init__(self) -> None:
        self.ticks = 0
        self.made_by = threading.get_ident()
        self.ticking = asyncio.get_running_loop().create_task(self._tick())

    async def _tick(self) -> None:
        while True:
            self.ticks += 1
            await asyncio.sleep(0.01)

    @obsray.method(concurrency_group="blocking")
    async def block(self, path: Path) -> int:
        while not path.exists():
            time.sleep(0.01)
        return threading.get_ident()

    @obsray.method(concurrency_group="blocking")
    def plain(self) -> int:
        return threading.get_ident()

    @obsray.method(concurrency_group="other")
    async def other(self) -> int:
        return threading.get_ident()

    async def default(self) -> tuple[int, int]:
        return threading.get_ident(), self.made_by

    async def ticked(self) -> bool:
        before = self.ticks
        while self.ticks < before + 2:
            await asyncio.sleep(0.01)
        return True


def test_a_coroutine_that_blocks_its_loop_stops_its_own_group_and_no_other(tmp_path):
    actor = Grouped.remote()
    blocks = actor.block.remote(tmp_path / "go on")
    behind = actor.plain.remote()
    default, made_by = get(actor.default.remote())
    assert default == made_by and get(actor.ticked.remote())
    other = get(actor.other.remote())
    assert get(actor.default.options(concurrency_group="other").remote()) == (other, made_by)
    assert obsray.wait([blocks, behind], timeout=0) == ([], [blocks, behind])
    (tmp_path / "go on").touch()
    assert get(blocks) == get(behind)
    assert len({default, other, get(blocks)}) == 3


def test_a_constructor_may_await():
    @obsray.remote
    class Awaits:
        async def __init__(self, value: int, *, factor: int) -> None:
            await asyncio.sleep(0)
            self.value = value * factor

        def read(self) -> int:
            return self.value

    assert get(Awaits.remote(7, factor=6).read.remote()) == 42


# --- exits and interrupts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "status"), [(0, 0), (3, 3), (None, 0), ("text", 1)])
def test_sys_exit_in_a_task_is_a_crash_of_its_worker_that_names_it(code, status):
    @obsray.remote(max_retries=0)
    def leaves() -> None:
        sys.exit(code)

    with pytest.raises(exceptions.WorkerCrashedError, match=f"exited with code {status},") as crashed:
        get(leaves.remote())
    # The last output of a process is told of if it failed.
    assert ("leaves called sys.exit(" in str(crashed.value)) == (status != 0)


def test_sys_exit_uses_up_retries_as_other_crashes_do(tmp_path):
    @obsray.remote(max_retries=1)
    def leaves_once(path: Path) -> str:
        if not path.exists():
            path.touch()
            sys.exit(1)
        return "second"

    assert get(leaves_once.remote(tmp_path / "ran")) == "second"


def test_a_variable_says_how_often_tasks_are_tried_that_do_not_say_it(tmp_path, monkeypatch):
    @obsray.remote
    def leaves(path: Path) -> None:
        with path.open("a") as file:
            file.write("x")
        sys.exit(1)

    monkeypatch.setenv("RAY_TASK_MAX_RETRIES", "0")
    with pytest.raises(exceptions.WorkerCrashedError):
        get(leaves.remote(tmp_path / "runs"))
    assert (tmp_path / "runs").read_text() == "x"
    monkeypatch.setenv("RAY_TASK_MAX_RETRIES", "often")
    with pytest.raises(ValueError, match="RAY_TASK_MAX_RETRIES='often'"):
        leaves.options(num_cpus=0).remote(tmp_path / "runs")


def test_a_keyboard_interrupt_of_the_tasks_own_ends_it_as_cancelled_and_is_not_retried(tmp_path):
    @obsray.remote(max_retries=3, retry_exceptions=True)
    def interrupts(path: Path) -> None:
        with path.open("a") as file:
            file.write("x")
        raise KeyboardInterrupt

    @obsray.remote
    class Actor:
        def interrupts(self) -> None:
            raise KeyboardInterrupt

        def alive(self) -> bool:
            return True

    with pytest.raises(exceptions.TaskCancelledError, match=r"interrupts.*raised KeyboardInterrupt"):
        get(interrupts.remote(tmp_path / "runs"))
    assert (tmp_path / "runs").read_text() == "x"
    actor = Actor.remote()
    with pytest.raises(exceptions.TaskCancelledError):
        get(actor.interrupts.remote())
    assert get(actor.alive.remote())


def test_an_error_of_the_runtime_that_a_task_did_not_catch_is_an_error_of_the_task_too():
    @obsray.remote
    class Dies:
        def die(self) -> None:
            os._exit(1)

    @obsray.remote
    def meets() -> None:
        actor = Dies.remote()
        obsray.get(actor.die.remote())

    @obsray.remote
    def meets_through_a_task() -> None:
        obsray.get(meets.remote())

    for task in (meets, meets_through_a_task):
        with pytest.raises(exceptions.RayTaskError, match=r"obsray\.get") as caught:
            get(task.remote())
        assert isinstance(caught.value, exceptions.ActorDiedError)
        assert isinstance(caught.value.cause, exceptions.ActorDiedError) and caught.value.cause.actor_id


def test_the_name_of_a_running_function_has_its_module():
    @obsray.remote
    def name() -> str | None:
        return obsray.get_runtime_context().get_task_function_name()

    @obsray.remote
    class Names:
        def __init__(self) -> None:
            self.first = obsray.get_runtime_context().get_task_function_name()

        def plain(self) -> Any:
            return self.first, obsray.get_runtime_context().get_task_function_name()

        async def waits(self) -> str | None:
            return obsray.get_runtime_context().get_task_function_name()

    assert get(name.options(name="another").remote()) == f"{__name__}.name"
    actor = Names.remote()
    assert get(actor.plain.remote()) == (f"{__name__}.Names.__init__", f"{__name__}.Names.plain")
    assert get(actor.waits.remote()) == f"{__name__}.Names.waits"
    assert obsray.get_runtime_context().get_task_function_name() is None


# --- cancelled, and then? ---------------------------------------------------------------------------------------------


@obsray.remote
def stubborn(path: Path, how: str) -> str:
    try:
        path.touch()
        while path.exists():
            time.sleep(0.01)
    except KeyboardInterrupt:
        if how == "raises":
            raise ValueError("another error") from None
        return "a value"


def test_a_value_or_error_that_a_cancelled_task_ends_with_all_the_same_stands(tmp_path):
    for how, check in (("returns", lambda r: get(r) == "a value"), ("raises", _another_error)):
        reference = stubborn.remote(tmp_path / how, how)
        wait_for(tmp_path / how)
        obsray.cancel(reference)
        assert check(reference)


def _another_error(reference: Any) -> bool:
    with pytest.raises(ValueError, match="another error"):
        get(reference)
    return True


@obsray.remote
class Cancelled:
    """Sync: nothing interrupts its calls."""

    def ends(self, path: Path, how: str) -> str:
        path.touch()
        while not obsray.get_runtime_context().is_canceled():
            time.sleep(0.01)
        if how == "raises":
            raise ValueError("another error")
        return "a value"


@obsray.remote
class CancelledAsync:
    async def ends(self, path: Path, how: str) -> str:
        path.touch()
        try:
            await asyncio.sleep(SECONDS)
        except asyncio.CancelledError:
            if how == "raises":
                raise ValueError("another error") from None
        return "a value"


@pytest.mark.parametrize(
    ("cls", "how", "expected"),
    [
        (Cancelled, "returns", exceptions.TaskCancelledError), (Cancelled, "raises", ValueError),
        (CancelledAsync, "returns", exceptions.TaskCancelledError),
        (CancelledAsync, "raises", exceptions.TaskCancelledError),
    ],
)  # fmt: skip
def test_calls_of_actors_are_cancelled_whatever_they_return(cls, how, expected, tmp_path):
    actor = cls.remote()
    reference = actor.ends.remote(tmp_path / "begun", how)
    wait_for(tmp_path / "begun")
    obsray.cancel(reference)
    with pytest.raises(expected):
        get(reference)


# --- generators with a fixed number of returns ---------------------------------------------------------------------


def test_values_yielded_before_an_error_stay_and_only_the_rest_raises():
    @obsray.remote(num_returns=3)
    def breaks() -> Any:
        yield 1
        yield bytes(1 << 20)
        raise ValueError("mid")

    first, second, third = outcomes(breaks.remote())
    assert (first, len(second), third) == (1, 1 << 20, "ValueError: mid")


def test_too_few_values_are_an_error_of_the_rest_and_too_many_are_dropped():
    @obsray.remote(num_returns=3)
    def yields(count: int) -> Any:
        yield from range(count)

    assert outcomes(yields.remote(2)) == [0, 1, "ValueError: yields must yield 3 values (num_returns=3), it yielded 2"]
    assert outcomes(yields.remote(4)) == [0, 1, 2]
    assert outcomes([yields.options(num_returns=1).remote(1)]) == [0]


def test_a_generator_that_is_retried_counts_only_with_its_last_attempt(tmp_path):
    @obsray.remote(num_returns=2, max_retries=1, retry_exceptions=True)
    def second_time(path: Path) -> Any:
        attempt = path.exists()
        path.touch()
        yield attempt
        if not attempt:
            raise ValueError("first attempt")
        yield "done"

    assert outcomes(second_time.remote(tmp_path / "ran")) == [True, "done"]


def test_methods_of_all_kinds_of_actors_yield_their_returns():
    class Yields:
        @obsray.method(num_returns=2)
        def pair(self) -> Any:
            yield 1
            raise ValueError("mid")

    class YieldsAsync(Yields):
        async def other(self) -> None: ...

    for actor in (obsray.remote(Yields), obsray.remote(YieldsAsync), obsray.remote(max_concurrency=2)(Yields)):
        assert outcomes(actor.remote().pair.remote()) == [1, "ValueError: mid"]


def test_a_dynamic_method_does_not_wait_for_a_consumer():
    @obsray.remote
    class Actor:
        @obsray.method(num_returns="dynamic")
        def items(self, count: int) -> Any:
            yield from range(count)

    actor = Actor.options(_actor_generator_backpressure_num_objects=1).remote()
    assert outcomes(get(actor.items.remote(3))) == [0, 1, 2]


# --- names, sizes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [((None,), ValueError), (("",), ValueError), ((5,), TypeError), ((["a"],), TypeError), (("a", 5), TypeError),
     (("a", ""), ValueError)],
)  # fmt: skip
def test_what_cannot_name_an_actor_is_refused_at_once(arguments, error):
    with pytest.raises(error):
        obsray.get_actor(*arguments)


def test_the_name_of_a_dead_actor_is_free_although_handles_remain():
    @obsray.remote
    class Named:
        def pid(self) -> int:
            return os.getpid()

        def die(self) -> None:
            os._exit(1)

        def leave(self) -> None:
            obsray.actor.exit_actor()

    ways: list[Callable[[Any], Any]] = [obsray.kill, lambda a: get(a.die.remote()), lambda a: get(a.leave.remote())]
    first = Named.options(name="heir").remote()
    kept = [first]
    for end in ways:
        get(kept[-1].pid.remote())
        with contextlib.suppress(exceptions.ActorDiedError):
            end(kept[-1])
        kept.append(Named.options(name="heir").remote())
        assert get(kept[-1].pid.remote()) and obsray.get_actor("heir") == kept[-1] != kept[-2]


def test_small_names_that_programs_compare_with():
    @obsray.remote(num_cpus=2)
    class Some: ...

    assert (obsray.SCRIPT_MODE, obsray.WORKER_MODE) == (0, 1)
    assert {"PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"} == VALID_PLACEMENT_GROUP_STRATEGIES
    about = Some.__ray_metadata__
    assert about.class_name.endswith("Some") and about.modified_class.__name__ == "Some" and about.num_cpus == 2
    assert obsray.JobID.from_int(3).int() == 3 and obsray.NodeID.from_binary(bytes(obsray.NodeID.size())).is_nil()
    queue = Queue()
    assert get(queue.actor.empty.remote())
    queue.shutdown()
    assert queue.actor is None
    with pytest.raises(exceptions.RayActorError):
        queue.put(1)


@pytest.mark.parametrize("kind", ["function", "class"])
def test_what_refers_to_too_much_is_refused_at_the_call(kind: Literal["function", "class"]):
    data = bytearray(96 << 20)

    def function() -> int:
        return len(data)

    class Class:
        def size(self) -> int:
            return len(data)

    with pytest.raises(ValueError, match=r"too large: 96 MiB.*FUNCTION_SIZE_ERROR_THRESHOLD \(95 MiB\).*obsray.put"):
        obsray.remote(function if kind == "function" else Class).remote()


def test_a_large_function_is_warned_of(caplog):
    data = bytes(11 << 20)

    @obsray.remote
    def large() -> int:
        return len(data)

    assert get(large.remote()) == 11 << 20
    assert "large is large: 11 MiB" in caplog.text and "obsray.put" in caplog.text


def test_init_and_shutdown_inside_a_task_leave_its_runtime_alone():
    @obsray.remote
    def asks() -> tuple[Any, ...]:
        with pytest.raises(RuntimeError, match="called already"):
            obsray.init()
        address = obsray.init(ignore_reinit_error=True).address_info["address"]
        obsray.shutdown()
        return address, obsray.is_initialized(), obsray.get_runtime_context().gcs_address

    here = obsray.get_runtime_context().gcs_address
    assert get([asks.remote() for _ in range(2)]) == [(here, True, here)] * 2


# --- labels ------------------------------------------------------------------------------------------------------


def test_labels_of_tasks_and_actors_are_recorded_listed_and_filtered():
    @obsray.remote(_labels={"team": "blue", "stage": "1"})
    def labelled() -> int:
        return 1

    @obsray.remote(num_cpus=0)
    class Labelled: ...

    actor = Labelled.options(_labels={"team": "blue"}).remote()
    get([labelled.remote(), labelled.options(_labels={"team": "red"}).remote()])

    def tasks() -> list[Any]:
        return [row.name for row in state.list_tasks(filters=[("labels", "=", "stage=1,team=blue")])]

    eventually(lambda: tasks() == ["labelled"])
    eventually(
        lambda: [row.class_name for row in state.list_actors(filters=[("labels", "=", "team=blue")])] == ["Labelled"]
    )
    assert state.get_actor(actor._actor_id.hex()).labels == "team=blue"


@pytest.mark.parametrize(
    ("options", "error"),
    [({"_labels": 5}, TypeError), ({"_labels": {"a": 1}}, TypeError), ({"_labels": {"a=b": "c"}}, ValueError),
     ({"_labels": {"a": "b" * 2000}}, ValueError), ({"_metadata": {"a": 1}}, ValueError)],
)  # fmt: skip
def test_wrong_labels_are_refused(options, error):
    with pytest.raises(error):
        obsray.remote(**options)(print)
