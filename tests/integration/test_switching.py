"""Ways to write a program that people bring along, and that work here as they did there."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any

import numpy as np
import pytest

import obsray
from obsray.actor import ActorClassInheritanceException
from obsray.core import functions
from obsray.core.calling import pickled_once
from obsray.core.runtime.running import running_here
from obsray.util.state import get_log, list_tasks
from tests.integration.programs import eventually

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", autouse=True)
def runtime() -> Iterator[None]:
    with obsray.init(num_cpus=2, include_dashboard=False, log_to_driver=False):
        yield


class Plain:
    LIMIT = 3

    @classmethod
    def named(cls) -> str:
        return cls.__name__

    @staticmethod
    def double(value: int) -> int:
        return 2 * value


@obsray.remote
class Shelf(Plain):
    OWN = "own"

    def __init__(self, first: Any = None, *, second: Any = None) -> None:
        self.values = [first, second]

    def limits(self) -> tuple[Any, ...]:
        return Shelf.OWN, Shelf.LIMIT, Shelf.named(), Shelf.double(4)

    @obsray.method
    def both(self) -> list[Any]:
        return self.values

    def pair(self, left: Any, right: Any = None) -> tuple[Any, Any]:
        return left, right

    def call(self, method: Any, *args: Any) -> Any:
        return obsray.get(method.remote(*args))

    def threads(self) -> str | None:
        return os.environ.get("OMP_NUM_THREADS")


@obsray.remote
def echo(*args: Any, **kwargs: Any) -> Any:
    return args, kwargs


@obsray.remote
def threads() -> str | None:
    return os.environ.get("OMP_NUM_THREADS")


def test_what_a_class_has_is_there_by_the_name_of_its_actor_class_too():
    assert (Shelf.OWN, Shelf.LIMIT, Shelf.named(), Shelf.double(2)) == ("own", 3, "Shelf", 4)
    assert obsray.get(Shelf.remote().limits.remote()) == ("own", 3, "Shelf", 8)
    assert Shelf.options(num_cpus=1).LIMIT == 3
    with pytest.raises(AttributeError, match=r"Shelf has no attribute 'nothing'"):
        _ = Shelf.nothing


def test_a_prompt_is_offered_the_methods_of_an_actor():
    assert {"OWN", "LIMIT", "named", "remote", "options", "bind"} <= set(dir(Shelf))
    shelf = Shelf.remote()
    assert [name for name in dir(shelf) if not name.startswith("_")] == [
        "both", "call", "double", "limits", "named", "pair", "threads",
    ]  # fmt: skip


def test_a_method_of_an_actor_can_be_sent_and_keeps_its_actor_alive():
    caller = Shelf.remote()
    assert obsray.get(caller.call.remote(Shelf.remote("kept").both)) == ["kept", None]
    two = Shelf.remote().pair.options(num_returns=2)
    assert obsray.get(caller.call.remote(two, 1, 2)) == [1, 2]
    # Its handle is gone; the method alone is what holds the actor.
    method = obsray.get(obsray.put([Shelf.remote("there").both]))[0]
    assert obsray.get(method.remote()) == ["there", None]


def test_calls_with_arguments_in_a_list_and_options_beside_them():
    assert obsray.get(echo._remote([1, 2], {"x": 3}, num_cpus=0.5)) == ((1, 2), {"x": 3})
    assert obsray.get(echo._remote()) == ((), {})
    shelf = Shelf._remote(args=[1], kwargs={"second": 2}, num_cpus=0)
    assert obsray.get(shelf.both._remote()) == [1, 2]
    left, right = shelf.pair._remote(args=("a",), kwargs={"right": "b"}, num_returns=2)
    assert obsray.get([left, right]) == ["a", "b"]
    with pytest.raises(ValueError, match="did you mean 'num_cpus'"):
        echo._remote(num_cpu=1)


def test_deriving_from_an_actor_class_is_an_error_of_its_own_kind():
    with pytest.raises(ActorClassInheritanceException, match="Inherit from the plain class"):

        class Derived(Shelf):  # type: ignore[misc]
            pass


def test_libraries_use_as_many_threads_as_a_task_or_actor_has_cpus(monkeypatch):
    assert obsray.get(threads.remote()) == "1"
    assert obsray.get(threads.options(num_cpus=2).remote()) == "2"
    assert obsray.get(threads.options(num_cpus=0.5).remote()) == "1"
    assert obsray.get(Shelf.options(num_cpus=2).remote().threads.remote()) == "2"
    assert obsray.get(Shelf.remote().threads.remote()) == "1"
    own = {"env_vars": {"OMP_NUM_THREADS": "1"}}
    assert obsray.get(threads.options(num_cpus=2, runtime_env=own).remote()) == "1"


@obsray.remote(num_cpus=0)
class Canceller:
    def cancel(self, held: list[Any], **options: Any) -> None:
        obsray.cancel(held[0], **options)


@obsray.remote(num_cpus=0)
def sleeps_until_cancelled() -> None:
    threading.Event().wait()


@obsray.remote(num_cpus=0)
def submits() -> list[Any]:
    return [sleeps_until_cancelled.remote()]


@obsray.remote(num_cpus=0)
def waits_for(held: list[Any]) -> Any:
    return obsray.get(held[0])


def test_whoever_holds_a_reference_can_cancel_what_makes_it():
    canceller = Canceller.remote()
    for options in ({}, {"force": True}, {"recursive": False}):
        mine = sleeps_until_cancelled.remote()
        obsray.get(canceller.cancel.remote([mine], **options))
        with pytest.raises(obsray.exceptions.TaskCancelledError):
            obsray.get(mine, timeout=60)
    theirs = obsray.get(submits.remote())[0]
    obsray.cancel(theirs)
    with pytest.raises(obsray.exceptions.TaskCancelledError):
        obsray.get(theirs, timeout=60)
    # What it had submitted in turn ends with it, and what has ended already stays as it is.
    outer = waits_for.remote([sleeps_until_cancelled.remote()])
    obsray.get(canceller.cancel.remote([outer]))
    with pytest.raises(obsray.exceptions.TaskCancelledError):
        obsray.get(outer, timeout=60)
    done = echo.remote(1)
    assert obsray.get(done) == ((1,), {})
    obsray.get(canceller.cancel.remote([done]))
    assert obsray.get(done) == ((1,), {})


@obsray.remote(num_cpus=0)
def address() -> str:
    return obsray.util.get_node_ip_address()


def test_a_node_is_asked_for_by_its_address_and_the_head_by_its_name():
    here = f"node:{obsray.util.get_node_ip_address()}"
    assert obsray.nodes()[0]["Resources"][here] == obsray.cluster_resources()["node:__internal_head__"] == 1
    where = address.options(resources={here: 0.01, "node:__internal_head__": 0.01}).remote()
    assert f"node:{obsray.get(where)}" == here == f"node:{obsray.nodes()[0]['NodeManagerAddress']}"
    group = obsray.util.placement_group([{"CPU": 1, here: 0.001}])
    assert group.wait(60)
    obsray.util.remove_placement_group(group)


def test_copies_with_other_options_are_the_same_code_and_pickled_once(monkeypatch):
    pickled = []
    monkeypatch.setattr(functions, "pickled_once", lambda function: pickled.append(1) or pickled_once(function))

    @obsray.remote
    def called():
        return obsray.get_runtime_context().get_task_name()

    copies = [called.options(name=f"copy {number}") for number in range(3)]
    assert obsray.get([copy.remote() for copy in copies]) == ["copy 0", "copy 1", "copy 2"]
    assert obsray.get([called.remote(), called.options(max_calls=1).remote()]) == ["called", "called"]
    assert len(pickled) == 1


def test_a_pool_takes_calls_that_return_several_values():
    pool = obsray.util.ActorPool([Shelf.remote(), Shelf.remote()])
    for number in range(4):
        pool.submit(lambda actor, value: actor.pair.options(num_returns=2).remote(value, -value), number)
    assert [pool.get_next() for _ in range(4)] == [[number, -number] for number in range(4)]
    pairs = pool.map_unordered(lambda actor, value: actor.pair.options(num_returns=2).remote(value), range(3))
    assert sorted(pairs) == [[0, None], [1, None], [2, None]]


@obsray.remote
def fails(text: str) -> None:
    raise ValueError(text)


@obsray.remote
class FailsToBegin:
    def __init__(self) -> None:
        raise ValueError("nobody calls")


def test_an_error_that_nobody_looks_at_is_logged_and_one_that_is_caught_is_not(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("obsray"), "propagate", True)
    caught = [fails.remote("it is caught") for _ in range(2)]
    for references in (caught, [echo.remote(caught[0])]):
        with pytest.raises(ValueError, match="it is caught"):
            obsray.get(references)
    obsray.wait(caught, num_returns=2)
    with pytest.raises(ValueError, match="it is caught"):
        obsray.get(caught)
    del caught, references
    fails.remote("nobody looks")
    eventually(lambda: "nobody looks" in caplog.text)
    assert "Unhandled error (suppress with 'RAY_IGNORE_UNHANDLED_ERRORS=1')" in caplog.text
    assert "it is caught" not in caplog.text


def test_a_constructor_that_fails_says_so_where_the_actor_prints():
    actor = FailsToBegin.remote()

    def printed() -> bool:
        try:
            return any("nobody calls" in line for line in get_log(actor_id=actor._actor_id.hex(), suffix="err"))
        except Exception:
            return False

    eventually(printed)


def test_libraries_do_not_take_references_for_bytes_or_sequences():
    references = [obsray.put(number) for number in range(3)]
    array = np.array(references)
    assert array.dtype == object and array.shape == (3,) and obsray.get(array.tolist()) == [0, 1, 2]
    first = references[0]
    assert not isinstance(first, (bytes, Sequence, Iterable, Sized)) and first != first.binary()
    assert weakref.ref(first)() is first and {first: 1}[obsray.ObjectRef(first.binary())] == 1
    with pytest.raises(TypeError, match=r"obsray\.get"):
        for _ in first:
            pass


def test_a_reference_made_of_bytes_counts_as_one_and_leaves_the_others_alone():
    reference = obsray.put([1])
    for again in (obsray.ObjectRef(reference.binary()), obsray.ObjectRef.from_hex(reference.hex())):
        assert again == reference and obsray.get(again) == [1]
    del again
    assert obsray.get(reference) == [1]
    binary = reference.binary()
    again = obsray.ObjectRef(binary)
    del reference
    assert obsray.get(again) == [1]
    assert obsray.ObjectRef.nil().is_nil() and not again.is_nil() and obsray.ObjectRef.size() == len(binary)
    with pytest.raises(obsray.exceptions.RaySystemError):
        obsray.get(obsray.ObjectRef.from_random(), timeout=1)
    for wrong in ("text", 3):
        with pytest.raises(TypeError):
            obsray.ObjectRef(wrong)
    with pytest.raises(ValueError, match="20 bytes"):
        obsray.ObjectRef(b"short")


@obsray.remote(num_cpus=0)
class SubmitsLate:
    def __init__(self) -> None:
        self.children: list[Any] = []

    async def run(self) -> None:
        while not running_here().cancelled:
            time.sleep(0.01)  # on the loop, so that the wish to cancel comes before the child does
        self.children.append(sleeps_until_cancelled.remote())
        await asyncio.sleep(600)

    def submitted(self) -> list[Any]:
        return self.children


def test_what_a_call_submits_while_it_is_being_cancelled_is_cancelled_too():
    actor = SubmitsLate.remote()
    obsray.get(actor.submitted.remote())
    call = actor.run.remote()
    eventually(
        lambda: [each.state for each in list_tasks(filters=[("task_id", "=", call.task_id().hex())])] == ["RUNNING"]
    )
    obsray.cancel(call)
    with pytest.raises(obsray.exceptions.TaskCancelledError):
        obsray.get(call, timeout=60)
    (child,) = obsray.get(actor.submitted.remote())
    with pytest.raises(obsray.exceptions.TaskCancelledError):
        obsray.get(child, timeout=60)
