"""What is wrong is an error of the right type, at once, that says what to do; and the runtime goes on."""

from __future__ import annotations

import asyncio
import math
import os
import sys
import threading
from collections.abc import Iterator

import pytest

import obsray
from obsray import exceptions

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module", autouse=True)
def runtime() -> Iterator[None]:
    with obsray.init(num_cpus=2, include_dashboard=False, log_to_driver=False):
        yield


@obsray.remote
def same(value: object) -> object:
    return value


@obsray.remote
class Cup:
    def fill(self, with_what: object = None) -> object:
        return with_what


class Holder:
    def __init__(self) -> None:
        self.name = "fine"
        self.connection = threading.Lock()


class NeedsTwo(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")
        self.first = first


class NoReduce(Exception):
    def __reduce__(self) -> str:
        raise RuntimeError("not me")


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Locked(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock, self.code = threading.Lock(), 7


class ArgsAreAProperty(Exception):
    @property
    def args(self) -> tuple[object, ...]:  # type: ignore[override]
        return (7,)


class Outside(BaseException):
    pass


class NotHere:
    def __reduce__(self) -> tuple[object, ...]:
        return int, ("no number",)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"num_cpu": 1}, ValueError, "did you mean 'num_cpus'"),
        ({"max_retry": 1}, ValueError, "did you mean 'max_retries'"),
        ({"max_restarts": 1}, ValueError, "but of actor classes"),
        ({"concurrency_group": "io"}, ValueError, "but of methods of actors"),
        ({"num_cpus": -1}, ValueError, "num_cpus=-1"),
        ({"num_cpus": math.nan}, ValueError, "num_cpus=nan"),
        ({"num_cpus": "2"}, TypeError, "must be a number"),
        ({"num_cpus": 1e-6}, ValueError, "steps of 0.0001"),
        ({"memory": 1 << 70}, ValueError, "at most"),
        ({"resources": {"x": math.inf}}, ValueError, r"resources\['x'\]"),
        ({"resources": {1: 1}}, TypeError, "non-empty string"),
        ({"resources": {"CPU": 1}}, ValueError, "num_cpus instead"),
        ({"resources": {"memory": 1}}, ValueError, "use memory instead"),
        ({"resources": {"object_store_memory": 1}}, ValueError, "the store is shared"),
        ({"resources": {"bundle": 1}}, ValueError, "reserved for placement groups"),
        ({"resources": {"bundle_group_1": 1}}, ValueError, "reserved for placement groups"),
        ({"resources": {"CPU_group_0_" + "ab" * 18: 1}}, ValueError, "reserved for placement groups"),
        ({"num_cpus": 0.00005}, ValueError, "steps of 0.0001"),
        ({"num_gpus": 1.5}, ValueError, "whole number"),
        ({"num_returns": True}, ValueError, "num_returns"),
        ({"num_returns": 10**9}, ValueError, "yield the values"),
        ({"max_retries": 1.5}, TypeError, "whole number"),
        ({"max_retries": -2}, ValueError, "max_retries"),
        ({"name": "n" * 5000}, ValueError, "characters"),
        ({"retry_exceptions": [1]}, TypeError, "exception classes"),
    ],
)
def test_a_wrong_option_is_refused_when_it_is_given(options, error, says):
    with pytest.raises(error, match=says):
        same.options(**options)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: same(1), TypeError, r"same\.remote"),
        (lambda: Cup(), TypeError, r"Cup\.remote"),
        (lambda: Cup.remote().fill(), TypeError, r"fill\.remote"),
        (lambda: Cup.remote().empty, AttributeError, "its methods are: fill"),
        (lambda: obsray.remote(same), TypeError, "remote already"),
        (lambda: obsray.remote(3), TypeError, "int"),
        (lambda: same.remote(), TypeError, "missing a required argument: 'value'"),
        (lambda: same.remote(1, colour="red"), TypeError, "colour"),
        (lambda: Cup.remote(1), TypeError, "no arguments"),
        (lambda: Cup.remote().fill.remote(1, 2), TypeError, "too many"),
        (lambda: obsray.get([[obsray.put(1)]]), TypeError, "the list has a list"),
        (lambda: obsray.get([1]), TypeError, "the list has a int: 1"),
        (lambda: obsray.get((obsray.put(1),)), ValueError, "got tuple"),
        (lambda: obsray.get(obsray.ObjectRef.nil()), exceptions.RaySystemError, "nil reference"),
        (lambda: obsray.get(obsray.ObjectRef.from_random()), exceptions.RaySystemError, "does not know|or was made"),
        (lambda: obsray.wait((obsray.put(1),)), TypeError, "got tuple"),
        (lambda: obsray.wait([1]), TypeError, "has a int"),
        (lambda: obsray.cancel([obsray.put(1)]), TypeError, "got list"),
        (lambda: obsray.cancel(Cup.remote()), TypeError, "got ActorHandle"),
        (lambda: obsray.kill(obsray.put(1)), ValueError, "got ObjectRef"),
        (lambda: obsray.get(same), ValueError, "RemoteFunction"),
        (lambda: obsray.get(obsray.put(1), timeout=-1), ValueError, "timeout=-1"),
        (lambda: obsray.get(obsray.put(1), timeout="1"), TypeError, "seconds"),
        (lambda: obsray.get([obsray.put(1)], timeout=math.nan), ValueError, "nan"),
        (lambda: obsray.wait(obsray.put(1)), TypeError, "list"),
        (lambda: obsray.wait([obsray.put(1)], num_returns="1"), TypeError, "num_returns='1'"),
        (lambda: obsray.wait([obsray.put(1)], timeout="1"), TypeError, "seconds"),
        (lambda: obsray.put(obsray.put(1)), TypeError, "put it in a list"),
        (lambda: obsray.cancel(1), TypeError, "reference"),
        (lambda: obsray.kill(Cup), ValueError, "actor handle"),
        (lambda: obsray.get_actor(3), TypeError, "name=3"),
        (lambda: obsray.get_actor("a", namespace=3), TypeError, "namespace=3"),
        (lambda: obsray.get_actor("nobody"), ValueError, "obsray list actors"),
        (lambda: list(obsray.put(1)), TypeError, r"obsray\.get"),
        (lambda: obsray.put(1) + obsray.put(2), TypeError, r"obsray\.get"),
        (lambda: sum([obsray.put(1)]), TypeError, r"obsray\.get"),
        (lambda: obsray.init(num_cpus="2"), RuntimeError, "called already"),
    ],
)
def test_a_wrong_call_says_what_to_do_instead(call, error, says):
    with pytest.raises(error, match=says):
        call()
    assert obsray.get(same.remote(1)) == 1


def closing_over(value):
    @obsray.remote
    def uses():
        return value

    return uses


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: same.remote(threading.Lock()), "argument 0.*lock"),
        (lambda: same.remote(value={"a": [Holder()]}), r"argument 'value'\['a'\]\[0\]\.connection is a '_thread.lock'"),
        (lambda: same.remote(x for x in ()), "generator"),
        (lambda: closing_over([Holder()]).remote(), r"variable 'value' used by .*uses\[0\]\.connection"),
        (lambda: obsray.put(open(os.devnull, "rb")), "BufferedReader"),
        (lambda: Cup.remote().fill.remote({1: threading.Lock()}), r"argument 0\[1\] is a '_thread.lock'"),
    ],
)
def test_what_cannot_travel_is_named_by_where_it_is(call, says):
    with pytest.raises(TypeError, match=says):
        call()


def test_what_refuses_to_be_pickled_is_blamed_itself():
    with pytest.raises(TypeError, match="argument 0 to another process: a stream has one consumer"):
        same.remote(obsray.remote(lambda: (yield 1)).remote())


def test_an_argument_may_have_any_name():
    echo = obsray.remote(lambda self, args, kwargs: (self, args, kwargs))
    assert obsray.get(echo.remote(self=1, args=2, kwargs=3)) == (1, 2, 3)


def test_a_result_that_cannot_travel_is_named_without_frames_of_the_runtime():
    @obsray.remote
    def make():
        return {"x": threading.Lock()}

    with pytest.raises(TypeError, match=r"the result\['x'\] is a '_thread.lock'") as caught:
        obsray.get(make.remote())
    assert "core/runtime" not in str(caught.value) and "cloudpickle" not in str(caught.value)


def deep():
    value: list[object] = []
    for _ in range(100_000):
        value = [value]
    return value


def test_what_is_nested_too_deeply_is_refused_everywhere():
    @obsray.remote
    def make():
        return deep()

    for call in (lambda: obsray.put(deep()), lambda: same.remote(deep()), lambda: obsray.get(make.remote())):
        with pytest.raises(TypeError, match="nested too deeply"):
            call()


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (lambda: NeedsTwo("a", "b"), lambda e: e.first == "a"),
        (lambda: NoReduce("x"), lambda e: e.args == ("x",)),
        (lambda: ArgsAreAProperty(), lambda e: e.args == (7,)),
        (lambda: Outside("x"), lambda e: e.args == ("x",)),
        (lambda: NoText(), lambda e: "NoText" in str(e)),
        (lambda: Locked("x"), lambda e: e.code == 7 and not hasattr(e, "lock")),
        (lambda: FileNotFoundError(2, "no file", "name"), lambda e: (e.errno, e.filename) == (2, "name")),
        (lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), lambda e: e.start == 0 and e.object == b"\xff"),
        (lambda: ExceptionGroup("both", [ValueError(1), KeyError(2)]), lambda e: e.subgroup(KeyError) is not None),
        (lambda: ValueError("x" * 3_000_000), lambda e: len(str(e)) < 200_000),
    ],
)
def test_any_exception_is_caught_by_its_class_with_what_can_travel(make, check):
    @obsray.remote
    def fail():
        raise make()

    with pytest.raises(type(make())) as caught:
        obsray.get(fail.remote())
    assert isinstance(caught.value, exceptions.RayTaskError)
    assert check(caught.value), str(caught.value)


def test_members_of_a_group_are_caught_with_except_star():
    @obsray.remote
    def fail():
        raise ExceptionGroup("both", [ValueError(1), KeyError(2)])

    caught = []
    try:
        obsray.get(fail.remote())
    except* KeyError as group:
        caught += group.exceptions
    except* ValueError:
        pass
    assert [type(error) for error in caught] == [KeyError]


@pytest.mark.parametrize(
    "error",
    [GeneratorExit(), asyncio.CancelledError(), BaseException("b")],
    ids=repr,
)
def test_what_ends_a_program_does_not_end_the_one_that_asks(error):
    @obsray.remote(max_retries=0)
    def leave():
        raise error

    with pytest.raises(exceptions.RayTaskError, match=type(error).__name__) as caught:
        obsray.get(leave.remote())
    assert isinstance(caught.value.cause, type(error)) and not isinstance(caught.value, SystemExit | KeyboardInterrupt)
    assert obsray.get(same.remote(1)) == 1


def test_a_value_that_cannot_be_rebuilt_here_is_an_error_that_says_so():
    @obsray.remote
    def make():
        return NotHere()

    with pytest.raises(exceptions.RaySystemError, match="could not be rebuilt here: ValueError"):
        obsray.get(make.remote())


def test_an_argument_that_cannot_be_rebuilt_in_the_worker_says_where_it_happened(tmp_path, monkeypatch):
    (tmp_path / "only_here.py").write_text("class Thing: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import only_here

    with pytest.raises(ModuleNotFoundError, match="rebuilt in a worker") as caught:
        obsray.get(same.remote(only_here.Thing()))
    assert "only_here" in str(caught.value)
    sys.modules.pop("only_here")


def test_what_did_not_come_in_time_says_what_it_waits_for():
    waiting = same.options(resources={"nothing has": 1}).remote(1)
    with pytest.raises(exceptions.GetTimeoutError, match=r"(?s)same, waiting for .*obsray get task") as caught:
        obsray.get([obsray.put(1), waiting], timeout=0.1)
    assert "1 of 2 values" in str(caught.value)


def test_an_actor_that_died_names_the_command_that_tells_its_story():
    cup = Cup.remote()
    obsray.kill(cup)
    with pytest.raises(exceptions.ActorDiedError, match=f"obsray story {cup._actor_id.hex()}"):
        obsray.get(cup.fill.remote())


def test_a_forked_child_is_told_that_the_runtime_is_its_parents():
    reference, cup = same.remote(1), Cup.remote()
    obsray.get([reference, cup.fill.remote()])
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        for call in (lambda: obsray.get(reference), lambda: same.remote(1), lambda: cup.fill.remote(), obsray.nodes):
            try:
                call()
                os.write(write, b"no error\n")
            except exceptions.RaySystemError as error:
                os.write(write, f"{error}\n".encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read) as heard:
        lines = heard.read().splitlines()
    assert len(lines) == 4 and all("forked" in line for line in lines)
    assert obsray.get(same.remote(2)) == 2


def test_after_shutdown_nothing_is_started_for_what_belonged_to_it(runtime):
    reference, cup = same.remote(1), Cup.remote()
    obsray.get(cup.fill.remote())
    obsray.shutdown()
    for call in (lambda: obsray.get(reference), lambda: obsray.wait([reference]), lambda: obsray.cancel(reference)):
        with pytest.raises(exceptions.RaySystemError, match="shut down"):
            call()
    for call in (cup.fill.remote, lambda: obsray.kill(cup), lambda: Cup.options(name=3)):
        with pytest.raises((exceptions.ActorHandleNotFoundError, TypeError)):
            call()
    assert not obsray.is_initialized()
    repr((reference, cup, same, Cup))
    for wrong in ({"num_cpus": "2"}, {"num_gpus": -1}, {"resources": 3}, {"namespace": 3}, {"dashboard_port": "x"}):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
            obsray.init(**wrong)
    assert not obsray.is_initialized()


def test_references_of_a_runtime_that_ended_are_refused_by_the_next_one_at_the_call():
    obsray.shutdown()
    with obsray.init(num_cpus=1, include_dashboard=False):
        old = [obsray.put(1), same.remote(2)]
        obsray.get(old)
    with obsray.init(num_cpus=1, include_dashboard=False):
        fill = Cup.remote().fill.remote
        calls = [same.remote, fill, obsray.get, lambda one: obsray.wait([one]), lambda one: obsray.put({1: one})]
        calls += [lambda one: same.remote(value=one), lambda one: same.remote([one]), lambda one: fill([one])]
        for call in calls:
            for reference in old:
                with pytest.raises(ValueError, match="belongs to a runtime that was shut down") as caught:
                    call(reference)
                assert isinstance(caught.value, exceptions.UnknownReferenceError)
        assert obsray.get(same.remote(3), timeout=60) == 3
