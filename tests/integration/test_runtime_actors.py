"""Actors in their corners: unavailable or dead, names, ends, order, groups, generators, what references can do."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import obsray
from obsray import exceptions
from tests.integration.programs import eventually, views
from tests.reliability.oracle import checked_runtime

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[Path]:
    """One runtime for all tests here."""
    with checked_runtime(num_cpus=4) as directory:
        yield directory


@obsray.remote(num_cpus=0)
class Gate:
    """Opens once."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()

    async def wait(self) -> int:
        await self.opened.wait()
        return 1

    async def open(self) -> None:
        self.opened.set()


@obsray.remote
class Plain:
    def pid(self) -> int:
        return os.getpid()

    def die(self) -> None:
        os._exit(3)

    def __len__(self) -> int:
        return 7

    def echo(self, value: Any) -> Any:
        return value

    def leave(self) -> None:
        obsray.actor.exit_actor()


# --- unavailable, dead, taken ---------------------------------------------------------------------------------


def test_an_actor_that_starts_again_is_unavailable_and_one_that_does_not_is_dead():
    actor = Plain.options(max_restarts=1).remote()
    pid = obsray.get(actor.pid.remote())
    with pytest.raises(exceptions.ActorUnavailableError, match=f"pid {pid}.*exited with code 3") as unavailable:
        obsray.get(actor.die.remote())
    assert unavailable.value.actor_id == actor._actor_id.hex()

    def again() -> int:
        try:
            return obsray.get(actor.pid.remote())
        except exceptions.ActorUnavailableError:
            return 0

    second = eventually(again)
    assert second != pid
    for method in ("die", "pid"):
        with pytest.raises(exceptions.ActorDiedError, match=f"Plain .*pid {second}.*exit code 3") as died:
            obsray.get(getattr(actor, method).remote())
        assert not died.value.actor_init_failed
        assert f"`obsray post-mortem {actor._actor_id.hex()}`" in str(died.value)


def test_no_call_waits_for_a_constructor_that_takes_for_ever(
    tmp_path: Path,
) -> None:
    opened = tmp_path / "opened"

    @obsray.remote(max_restarts=1)
    class Slow:
        def __init__(self) -> None:
            if obsray.get_runtime_context().was_current_actor_reconstructed:
                while not opened.exists():
                    time.sleep(0.02)

        def work(self, die: bool = False) -> int:
            if die:
                os._exit(1)
            return 7

    actor = Slow.remote()
    assert obsray.get(actor.work.remote()) == 7
    refs = [actor.work.remote(True), *(actor.work.remote() for _ in range(5))]
    for ref in [*refs, actor.work.remote()]:
        with pytest.raises(exceptions.ActorUnavailableError):
            obsray.get(ref, timeout=30)
    patient = [actor.work.options(max_task_retries=1).remote() for _ in range(2)]
    assert obsray.wait(patient, timeout=0)[0] == []
    opened.touch()
    assert obsray.get(patient, timeout=30) == [7, 7]


def test_an_actor_whose_constructor_raised_never_ran():
    @obsray.remote
    class Broken:
        def __init__(self) -> None:
            raise KeyError("boom")

        def work(self) -> None: ...

    with pytest.raises(exceptions.ActorDiedError, match=r"(?s)Broken .*pid \d+.*never ran.*boom") as died:
        obsray.get(Broken.remote().work.remote())
    assert died.value.actor_init_failed and "boom" in died.value.error_msg
    assert "post-mortem" not in str(died.value)


def test_a_name_that_is_taken_is_an_error_of_its_own_and_the_end_of_the_creation(session):
    first = Plain.options(name="taken").remote()
    with pytest.raises(exceptions.ActorAlreadyExistsError, match="get_if_exists"):
        Plain.options(name="taken").remote()
    view = views(session)
    refused = [("name", "=", "Plain.__init__"), ("error", "contains", "the name 'taken' is taken")]
    (creation,) = eventually(lambda: view.tasks(refused)["rows"])
    assert (creation["state"], creation["outcome"]) == ("CANCELLED", "cancelled")
    assert issubclass(exceptions.ActorAlreadyExistsError, ValueError)
    assert obsray.get_actor("taken") == first
    for wrong in (5, b"taken"):
        with pytest.raises(TypeError):
            obsray.get_actor(wrong)


def test_bad_options_of_actors_are_refused_where_they_are_given():
    class Some: ...

    bad: list[dict[str, Any]] = [
        {"max_pending_calls": -2}, {"max_pending_calls": "a"}, {"max_restarts": True}, {"max_task_retries": 1.5},
        {"max_concurrency": 0}, {"allow_out_of_order_execution": "yes"}, {"concurrency_groups": {"io": 0}},
        {"concurrency_groups": ["io"]}, {"get_if_exists": 1}, {"name": ""}, {"namespace": ""}, {"lifetime": "long"},
        {"_actor_generator_backpressure_num_objects": 0}, {"enable_tensor_transport": True},
    ]  # fmt: skip
    for options in bad:
        with pytest.raises((TypeError, ValueError), match=next(iter(options))):
            obsray.remote(**options)(Some)
    for options in ({"tensor_transport": "NCCL"}, {"_num_objects_per_yield": 2}, {"concurrency_group": 1}):
        with pytest.raises((TypeError, ValueError), match=next(iter(options))):
            obsray.method(**options)
    with pytest.raises(ValueError, match=r"runs? .*beside each other"):
        obsray.remote(allow_out_of_order_execution=False, max_concurrency=2)(Some).remote()
    with pytest.raises(TypeError, match="inheriting from actor classes"):

        class Child(Plain): ...


def test_an_unknown_group_is_refused_at_the_call():
    actor = obsray.remote(concurrency_groups={"io": 1})(Plain._class).remote()
    assert obsray.get(actor.echo.options(concurrency_group="io").remote(1)) == 1
    with pytest.raises(ValueError, match="groups of Plain are: io"):
        actor.echo.options(concurrency_group="disk").remote(1)


def test_actors_make_actors_of_their_own_class_and_of_classes_that_make_theirs():
    @obsray.remote(num_cpus=0)
    class Tree:
        """Of nodes."""

        def __init__(self, depth):
            self.below = [Tree.remote(depth - 1) for _ in range(2)] if depth else []

        @obsray.method(num_returns=2)
        def two(self):
            return 1, Tree.__doc__

        def count(self):
            return 1 + sum(obsray.get([tree.count.remote() for tree in self.below]))

        def first(self):
            return self.below[0]

    @obsray.remote(num_cpus=0)
    class Ping:
        def other(self):
            return Pong.remote()

    @obsray.remote(num_cpus=0)
    class Pong:
        def other(self):
            return Ping.remote()

    root = Tree.remote(2)
    assert obsray.get(root.count.remote()) == 7
    below = obsray.get(root.first.remote())
    assert obsray.get(below.count.remote()) == 3 and obsray.get(below.two.remote()) == [1, "Of nodes."]
    # Each ends with the actor that made it.
    found = [Ping.remote()]
    for _ in range(3):
        found.append(obsray.get(found[-1].other.remote()))
    assert [actor._meta.class_name for actor in found] == ["Ping", "Pong"] * 2


def test_special_methods_are_called_by_name():
    actor = Plain.remote()
    assert obsray.get(actor.__len__.remote()) == 7


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_method_is_found_beside_an_attribute_of_its_name_and_may_return_a_reference(asynchronous):
    class Shadowed:
        def __init__(self) -> None:
            self.count = 3

        def count(self) -> int:
            return self.count

        def reference(self) -> Any:
            return obsray.put("value")

    class Async(Shadowed):
        async def nothing(self) -> None:
            return None

    actor = obsray.remote(Async if asynchronous else Shadowed).remote()
    assert obsray.get(actor.count.remote()) == 3
    reference = obsray.get(actor.reference.remote())
    assert obsray.get(reference) == "value"


# --- order and ends ---------------------------------------------------------------------------------------------


def test_calls_overtake_each_other_only_if_that_is_asked_for():
    gate = Gate.remote()
    actor = Plain.options(allow_out_of_order_execution=True).remote()
    waits, overtakes = actor.echo.remote(gate.wait.remote()), actor.echo.remote(2)
    assert obsray.wait([waits, overtakes], timeout=20)[0] == [overtakes]
    gate.open.remote()
    assert obsray.get(waits) == 1


def test_sys_exit_in_a_method_ends_the_actor_in_order_or_as_a_crash():
    actor = Plain.options(max_restarts=1).remote()
    with pytest.raises(exceptions.ActorUnavailableError, match="exited with code 3"):
        obsray.get(actor.__ray_call__.remote(lambda self: sys.exit(3)))
    eventually(lambda: obsray.get(actor.echo.options(max_task_retries=-1).remote(1)))
    with pytest.raises(exceptions.ActorDiedError):
        obsray.get(actor.__ray_call__.options(max_task_retries=-1).remote(lambda self: sys.exit(0)))
    with pytest.raises(exceptions.ActorDiedError, match="asked to exit"):
        obsray.get(actor.pid.remote())


def test_exit_actor_lets_calls_on_threads_finish_and_fails_those_in_line():
    @obsray.remote(max_concurrency=2, max_restarts=3)
    class Threaded:
        def run(self, gate: Any) -> str:
            obsray.get(gate.wait.remote())
            return "done"

        def leave(self) -> None:
            obsray.actor.exit_actor()

    gate, begun = Gate.remote(), Gate.remote()
    actor = Threaded.remote()
    obsray.get(begun.open.remote())
    assert obsray.get(actor.run.remote(begun)) == "done"
    running, leaves = actor.run.remote(gate), actor.leave.remote()
    with pytest.raises(exceptions.ActorDiedError, match="exit_actor"):
        obsray.get(leaves)
    late = actor.run.remote(gate)
    gate.open.remote()
    assert obsray.get(running) == "done"
    with pytest.raises(exceptions.ActorDiedError):
        obsray.get(late)


@obsray.remote(max_restarts=3, max_concurrency=4)
class AsyncLeaver:
    async def pid(self) -> int:
        return os.getpid()

    async def forever(self) -> None:
        await asyncio.Event().wait()

    async def leave(self) -> None:
        obsray.actor.exit_actor()

    async def leave_later(self) -> None:
        async def soon() -> None:
            await asyncio.sleep(0)
            obsray.actor.exit_actor()

        self.task = asyncio.create_task(soon())
        await asyncio.Event().wait()


@pytest.mark.parametrize("way", ["leave", "leave_later"])
def test_exit_actor_of_an_async_actor_ends_all_that_runs_on_its_loop(way):
    actor = AsyncLeaver.remote()
    pid = obsray.get(actor.pid.remote())
    beside = [actor.forever.remote() for _ in range(3)]
    leaves = getattr(actor, way).remote()
    for reference in (leaves, *beside, actor.pid.remote()):
        with pytest.raises(exceptions.ActorDiedError, match="exit"):
            obsray.get(reference, timeout=60)
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_exit_actor_in_a_thread_of_the_users_own_ends_the_actor():
    @obsray.remote
    class Starts:
        def leave_by_thread(self) -> None:
            threading.Thread(target=obsray.actor.exit_actor).start()

    actor = Starts.remote()
    obsray.get(actor.leave_by_thread.remote())
    eventually(lambda: _is_dead(actor))


def _is_dead(actor: Any) -> bool:
    try:
        obsray.get(actor.__ray_ready__.remote(), timeout=30)
    except exceptions.ActorDiedError:
        return True
    return False


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_actor_that_catches_its_own_exit_ends_all_the_same(asynchronous):
    class Plain:
        def leave(self) -> str:
            try:
                obsray.actor.exit_actor()
            except SystemExit:
                return "I stay"

    class Async:
        async def leave(self) -> str:
            try:
                obsray.actor.exit_actor()
            except exceptions.AsyncioActorExit:
                return "I stay"

    actor = obsray.remote(Async if asynchronous else Plain).remote()
    for call in (actor.leave.remote(), actor.leave.remote()):
        with pytest.raises(exceptions.ActorDiedError, match="exit_actor"):
            obsray.get(call)


@pytest.mark.parametrize("code", [0, 3])
def test_sys_exit_in_a_coroutine_that_is_no_call_ends_the_actor(code):
    @obsray.remote
    class Spawns:
        async def leave_later(self, code: int, gate: Any) -> None:
            self.task = asyncio.create_task(self._leave(code, gate))

        async def _leave(self, code: int, gate: Any) -> None:
            await gate.wait.remote()
            sys.exit(code)

    gate = Gate.remote()
    actor = Spawns.remote()
    obsray.get(actor.leave_later.remote(code, gate))
    gate.open.remote()
    with pytest.raises(exceptions.ActorDiedError):
        while True:
            obsray.get(actor.__ray_ready__.remote())


def test_what_user_code_wants_done_at_the_end_is_done_at_every_end_but_kill(tmp_path):
    @obsray.remote
    class Registers:
        def __init__(self, path: Path) -> None:
            import atexit

            self.path = path
            atexit.register(path.touch)

        def leave(self) -> None:
            obsray.actor.exit_actor()

        def __ray_shutdown__(self) -> None:
            assert not self.path.exists()
            self.path.with_suffix(".shutdown").touch()
            raise ValueError("this is logged and stops nothing")

    paths = [tmp_path / name for name in ("exit_actor", "terminate", "handle", "kill")]
    by_exit, by_terminate, by_handle, by_kill = (Registers.remote(path) for path in paths)
    obsray.get([actor.__ray_ready__.remote() for actor in (by_exit, by_terminate, by_handle, by_kill)])
    obsray.kill(by_kill)
    by_exit.leave.remote()
    by_terminate.__ray_terminate__.remote()
    del by_handle
    eventually(lambda: all(path.exists() for path in paths[:3]))
    assert all(path.with_suffix(".shutdown").exists() for path in paths[:3])
    assert not paths[3].exists() and not paths[3].with_suffix(".shutdown").exists()


def test_a_call_that_is_cancelled_while_it_changes_hands_does_not_begin():
    actor = Plain.remote()
    obsray.get(actor.pid.remote())
    references = [actor.echo.remote(number) for number in range(200)]
    for reference in references[::2]:
        obsray.cancel(reference)
    for number, reference in enumerate(references):
        if number % 2:
            assert obsray.get(reference) == number
        else:
            try:
                assert obsray.get(reference) == number
            except exceptions.TaskCancelledError:
                pass


# --- generators -----------------------------------------------------------------------------------------------------


class Counts:
    """Yields numbers in every way; ``made`` says how many."""

    def __init__(self) -> None:
        self.count = 0
        self.closed = False

    async def by_async(self, most: int) -> Any:
        try:
            for number in range(most):
                self.count += 1
                yield number
        finally:
            self.closed = True

    def by_plain(self, most: int) -> Any:
        for number in range(most):
            self.count += 1
            yield number

    async def made(self) -> tuple[int, bool]:
        return self.count, self.closed


@pytest.mark.parametrize("method", ["by_async", "by_plain"])
@pytest.mark.parametrize("of_actor", [False, True])
def test_a_generator_of_an_async_actor_waits_for_its_consumer_and_others_go_on(method, of_actor):
    actor = obsray.remote(_actor_generator_backpressure_num_objects=2 if of_actor else -1)(Counts).remote()
    generate = getattr(actor, method)
    items = (generate if of_actor else generate.options(_generator_backpressure_num_objects=2)).remote(10)
    eventually(lambda: obsray.get(actor.made.remote())[0] == 2)
    assert obsray.get(actor.made.remote())[0] == 2
    assert [obsray.get(item) for item in items] == list(range(10))


def test_an_async_generator_that_nobody_consumes_is_closed():
    actor = obsray.remote(Counts).remote()
    items = actor.by_async.remote(10**9)
    assert obsray.get(next(items)) == 0
    del items
    eventually(lambda: obsray.get(actor.made.remote())[1])


class Yields:
    def some(self, count: int, size: int, raises: bool = False) -> Iterator[Any]:
        for number in range(count):
            yield np.full(size, number)
        if raises:
            raise ValueError("enough")


def of_task_or_actor(kind: str) -> Any:
    if kind == "actor":
        return obsray.remote(num_cpus=0)(Yields).remote().some
    return obsray.remote(max_retries=0)(lambda *args: (yield from Yields().some(*args)))


@pytest.mark.parametrize("kind", ["task", "actor"])
@pytest.mark.parametrize("size", [1, 50_000])
def test_of_a_generator_of_several_values_those_it_yielded_before_it_raised_count(kind, size):
    some = of_task_or_actor(kind).options(num_returns=3)
    assert [value[0] for value in obsray.get(some.remote(3, size))] == [0, 1, 2]
    assert [value[0] for value in obsray.get(some.remote(4, size))] == [0, 1, 2], "one too many is warned of"
    assert obsray.get(of_task_or_actor(kind).options(num_returns=1).remote(1, size))[0] == 0
    first, second, third = some.remote(1, size, True)
    assert obsray.get(first)[0] == 0
    for reference in (second, third):
        with pytest.raises(ValueError, match="enough"):
            obsray.get(reference)
    first, second, third = some.remote(2, size)
    assert obsray.get(second)[0] == 1
    with pytest.raises(ValueError, match="it yielded 2"):
        obsray.get(third)


def test_what_a_generator_of_several_values_yielded_is_not_kept_when_it_runs_again(tmp_path):
    @obsray.remote(num_returns=2, max_retries=2, retry_exceptions=True)
    def flaky() -> Iterator[Any]:
        yield [obsray.put("inside")]
        with (tmp_path / "tries").open("a") as file:
            file.write("x")
        if len((tmp_path / "tries").read_text()) < 3:
            raise ValueError("not yet")
        yield 2

    first, second = flaky.remote()
    assert obsray.get(second) == 2
    assert obsray.get(obsray.get(first)[0]) == "inside"


@pytest.mark.parametrize("kind", ["task", "actor"])
@pytest.mark.parametrize("size", [1, 50_000])
def test_what_a_dynamic_generator_yields_is_one_value_that_others_can_have(kind, size):
    dynamic = of_task_or_actor(kind).options(num_returns="dynamic", _generator_backpressure_num_objects=1)
    reference = dynamic.remote(5, size)
    assert isinstance(reference, obsray.ObjectRef)
    items = obsray.get(reference)
    assert isinstance(items, obsray.DynamicObjectRefGenerator) and len(items) == 5
    assert [obsray.get(item)[0] for item in items] == list(range(5)) and len(items) == 0

    @obsray.remote(num_cpus=0)
    def read(items: Any) -> list[int]:
        return [int(obsray.get(item)[0]) for item in items]

    assert obsray.get(read.remote(dynamic.remote(3, size))) == [0, 1, 2]
    assert obsray.get(read.remote(obsray.get(dynamic.remote(3, size)))) == [0, 1, 2]
    assert len(obsray.get(dynamic.remote(0, size))) == 0
    good, bad = obsray.get(dynamic.remote(1, size, True))
    assert obsray.get(good)[0] == 0
    with pytest.raises(ValueError, match="enough"):
        obsray.get(bad)


def test_a_dynamic_generator_whose_process_dies_or_that_is_cancelled_is_one_failure():
    @obsray.remote(num_returns="dynamic", max_retries=0)
    def dies() -> Iterator[int]:
        yield 1
        os._exit(4)

    with pytest.raises(exceptions.WorkerCrashedError, match="exited with code 4"):
        obsray.get(dies.remote())
    gate = Gate.remote()

    @obsray.remote(num_returns="dynamic")
    def waits() -> Iterator[int]:
        yield 1
        yield obsray.get(gate.wait.remote())

    reference = waits.remote()
    obsray.cancel(reference)
    with pytest.raises(exceptions.TaskCancelledError):
        obsray.get(reference)


def test_a_task_may_be_an_async_generator_and_not_a_coroutine():
    @obsray.remote
    async def numbers() -> Any:
        for number in range(3):
            await asyncio.sleep(0)
            yield number

    assert [obsray.get(item) for item in numbers.remote()] == [0, 1, 2]
    with pytest.raises(ValueError, match=r"asyncio\.run"):

        @obsray.remote
        async def coroutine() -> None: ...


def test_a_generator_that_runs_again_does_not_wait_for_items_that_were_taken_long_ago(tmp_path):
    marker = tmp_path / "died"

    @obsray.remote(max_retries=1, _generator_backpressure_num_objects=2)
    def numbers() -> Any:
        for number in range(8):
            if number == 5 and not marker.exists():
                marker.touch()
                os._exit(1)
            yield number

    assert [obsray.get(item) for item in numbers.remote()] == list(range(8))


def test_a_generator_that_waits_for_its_consumer_can_be_cancelled():
    actor = obsray.remote(Numbers).remote()
    items = actor.forever.options(_generator_backpressure_num_objects=1).remote()
    obsray.wait([items])
    obsray.cancel(items)
    with pytest.raises(exceptions.TaskCancelledError):
        obsray.get(items.completed())
    assert obsray.get(actor.alive.remote()) is True


class Numbers:
    def forever(self) -> Any:
        number = 0
        while True:
            yield number
            number += 1

    def alive(self) -> bool:
        return True


# --- references -----------------------------------------------------------------------------------------------------


def test_asyncio_and_futures_take_references_as_they_are():
    @obsray.remote
    def double(value: int) -> int:
        return 2 * value

    @obsray.remote
    def fail() -> None:
        raise ValueError("no")

    async def main() -> None:
        references = [double.remote(number) for number in range(4)]
        done, pending = await asyncio.wait(references)
        assert done == set(references) and not pending
        assert await asyncio.gather(*references, references[0]) == [0, 2, 4, 6, 0]
        gate = Gate.remote()
        waits, failed = gate.wait.remote(), fail.remote()
        done, pending = await asyncio.wait([waits, failed], return_when=asyncio.FIRST_EXCEPTION)
        assert (done, pending) == ({failed}, {waits})
        assert isinstance(failed.exception(), ValueError) and not failed.cancelled()
        _, pending = await asyncio.wait([waits], timeout=0.01)
        assert pending == {waits}
        await gate.open.remote()
        assert await waits == 1

    asyncio.run(main())
    futures = [double.remote(number).future() for number in range(3)]
    assert sorted(f.result() for f in concurrent.futures.wait(futures).done) == [0, 2, 4]


def test_a_reference_knows_its_owner_and_tells_when_it_is_ready():
    reference = obsray.put(5)
    assert reference.owner_address().hex() == obsray.get_runtime_context().get_worker_id()
    assert reference.tensor_transport() is None
    heard: list[Any] = []
    told = threading.Event()
    reference._on_completed(lambda value: (heard.append(value), told.set()))
    assert told.wait(20) and heard == [5]


def test_an_error_names_the_file_of_a_function_that_travelled_by_value():
    def innermost() -> None:
        raise ValueError("here")

    with pytest.raises(ValueError, match=os.path.basename(__file__)):
        obsray.get(obsray.remote(lambda: innermost()).remote())
