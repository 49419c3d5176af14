"""The executor behaves as those of the standard library; groups of actors are called together."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future

import pytest

import obsray
from obsray.util import ActorGroup
from obsray.util.executor import ObsrayExecutor


@pytest.fixture(scope="module", autouse=True)
def runtime():
    obsray.init(num_cpus=2, include_dashboard=False)
    yield
    obsray.shutdown()


@pytest.fixture
def executor():
    with ObsrayExecutor(max_workers=2) as made:
        yield made


def multiply(x, y=1):
    return x * y


def wait_for(path):
    while not path.exists():
        time.sleep(0.005)
    return "opened"


def test_calls_have_results_and_errors_of_their_own_class(executor):
    assert isinstance(executor, Executor)
    future = executor.submit(multiply, 2, y=8)
    assert isinstance(future, Future) and future.result(20) == 16 and future.done()
    assert executor.submit(pow, 2, 5).result(20) == 32
    assert executor.submit(lambda: os.getpid()).result(20) != os.getpid()
    bad = executor.submit(divmod, 1, 0)
    assert isinstance(bad.exception(20), ZeroDivisionError)
    with pytest.raises(ZeroDivisionError):
        bad.result()
    assert isinstance(executor.submit(multiply, threading.Lock()).exception(20), TypeError)
    with pytest.raises(TypeError, match="function"):
        executor.submit(3)


def test_map_keeps_the_order_and_raises_where_a_call_raised(executor):
    assert list(executor.map(pow, range(10), range(10))) == [n**n for n in range(10)]
    assert list(executor.map(multiply, range(25), chunksize=4)) == list(range(25))
    assert list(executor.map(multiply, [])) == []
    results = executor.map(divmod, [1, 1], [1, 0])
    assert next(results) == (1, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)
    with pytest.raises(ValueError):
        executor.map(multiply, [1], chunksize=0)


def test_map_gives_up_after_its_timeout(executor, tmp_path):
    gate = tmp_path / "gate"
    with pytest.raises(concurrent.futures.TimeoutError):
        list(executor.map(wait_for, [gate], timeout=0.1))
    gate.touch()


def test_what_is_pending_can_be_cancelled_and_what_runs_cannot(tmp_path):
    gate = tmp_path / "gate"
    with ObsrayExecutor(max_workers=1) as executor:
        running, pending = executor.submit(wait_for, gate), executor.submit(multiply, 1)
        assert running.running() and not running.cancel()
        assert pending.cancel() and pending.cancelled()
        gate.touch()
        assert running.result(20) == "opened"
        with pytest.raises(concurrent.futures.CancelledError):
            pending.result()


def test_futures_work_with_wait_as_completed_and_callbacks(executor, tmp_path):
    gate = tmp_path / "gate"
    slow, fast = executor.submit(wait_for, gate), executor.submit(multiply, 3)
    done, rest = concurrent.futures.wait([slow, fast], 20, concurrent.futures.FIRST_COMPLETED)
    assert (done, rest) == ({fast}, {slow})
    told = threading.Event()
    slow.add_done_callback(lambda _: told.set())
    gate.touch()
    assert told.wait(20)
    assert set(concurrent.futures.as_completed([slow, fast], 20)) == {slow, fast}


def test_shutdown_waits_or_drops_and_then_takes_nothing(tmp_path):
    executor = ObsrayExecutor(max_workers=1)
    futures = [executor.submit(multiply, n) for n in range(5)]
    executor.shutdown()
    assert [future.result(0) for future in futures] == [0, 1, 2, 3, 4]
    with pytest.raises(RuntimeError, match="shutdown"):
        executor.submit(multiply, 1)
    executor = ObsrayExecutor(max_workers=1)
    first, *others = [executor.submit(wait_for, tmp_path / "gate") for _ in range(4)]
    executor.shutdown(wait=False, cancel_futures=True)
    assert all(future.cancelled() for future in others)
    (tmp_path / "gate").touch()
    assert first.result(20) == "opened"


def test_an_initializer_runs_once_in_each_process_and_breaks_the_executor_if_it_fails(tmp_path):
    def prepare(path):
        with open(path, "a") as out:
            out.write(f"{os.getpid()}\n")

    with ObsrayExecutor(2, prepare, (tmp_path / "ran",)) as executor:
        pids = set(executor.map(lambda _: os.getpid(), range(20)))
    ran = (tmp_path / "ran").read_text().split()
    assert len(ran) == len(set(ran)) and {str(pid) for pid in pids} <= set(ran)
    executor = ObsrayExecutor(1, divmod, (1, 0))
    first = executor.submit(multiply, 1)
    try:
        # The executor may break between any two of these.
        others = [executor.submit(multiply, 1) for _ in range(2)]
    except BrokenExecutor:
        others = []
    assert all(isinstance(future.exception(20), BrokenExecutor) for future in [first, *others])
    with pytest.raises(BrokenExecutor, match="initializer"):
        executor.submit(multiply, 1)
    executor.shutdown()


def test_a_call_whose_worker_dies_fails_and_the_executor_goes_on(executor):
    with ObsrayExecutor(1, options={"max_retries": 0}) as mortal:
        assert isinstance(mortal.submit(os._exit, 1).exception(30), obsray.exceptions.WorkerCrashedError)
        assert mortal.submit(multiply, 2).result(20) == 2


@pytest.mark.parametrize(
    "arguments", [{"max_workers": 0}, {"max_workers": "2"}, {"initializer": 3}, {"options": {"no_such_option": 1}}]
)
def test_bad_arguments_are_refused(arguments):
    with pytest.raises((ValueError, TypeError)):
        ObsrayExecutor(**arguments)


class Adder:
    def __init__(self, start, step=0):
        self.value = start + step

    def add(self, x):
        self.value += x
        return self.value


def test_a_group_of_actors_is_called_together():
    group = ActorGroup(Adder, num_actors=2, num_cpus_per_actor=0, init_args=[1], init_kwargs={"step": 1})
    assert len(group) == 2 and obsray.get(group.add.remote(3)) == [5, 5]
    assert obsray.get(group[0].add.remote(1)) == 6
    assert len({facts.pid for facts in group.actor_metadata}) == 2
    group.add_actors(1)
    group.remove_actors([0])
    assert obsray.get(group.add.remote(0)) == [5, 2]
    with pytest.raises(AttributeError, match="its methods are: add"):
        _ = group.subtract
    with pytest.raises(RuntimeError, match="already"):
        group.start()
    group.shutdown()
    with pytest.raises(RuntimeError, match="shut down"):
        _ = group.add
    with pytest.raises(ValueError):
        ActorGroup(Adder, num_actors=0)


def test_actors_of_a_group_may_say_themselves_what_is_to_be_known_of_them():
    class Named:
        def get_actor_metadata(self):
            return "me"

    group = ActorGroup(Named, num_actors=2, num_cpus_per_actor=0)
    assert group.actor_metadata == ["me", "me"]
    group.shutdown(patience_s=0)
