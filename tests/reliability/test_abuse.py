"""More than anybody should ask for: checks E1, E2, E3 and E4 of docs/reliability.md."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import obsray
from tests.integration.programs import eventually, views
from tests.reliability.oracle import Oracle, workers_of

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module")
def session() -> Iterator[Path]:
    context = obsray.init(num_cpus=2, include_dashboard=False, _system_config={"workers_max": 64})
    yield Path(context.address_info["session_dir"])
    obsray.shutdown()


@obsray.remote
def nothing(value: int = 0) -> int:
    return value


@obsray.remote
def add_up(*values: int) -> int:
    return sum(values)


@obsray.remote
def deeper(depth: int) -> int:
    return 0 if depth == 0 else 1 + obsray.get(deeper.remote(depth - 1))


@obsray.remote
def twice(depth: int) -> int:
    """A fork bomb of tasks: each makes two more and waits for them."""
    return 1 if depth == 0 else sum(obsray.get([twice.remote(depth - 1), twice.remote(depth - 1)]))


@obsray.remote(num_cpus=0)
class Small:
    def value(self) -> int:
        return 1


def test_a_long_queue_drains_as_fast_as_a_short_one(session):
    """E1: what waits costs nothing. The margin is wide: what is looked for is a cost that grows with the queue."""

    def rate(tasks: int) -> float:
        began = time.monotonic()
        assert sum(obsray.get([nothing.remote(1) for _ in range(tasks)], timeout=100)) == tasks
        return tasks / (time.monotonic() - began)

    rate(1000)
    short, long = max(rate(2000) for _ in range(3)), rate(40_000)
    print(f"{short:.0f} tasks/s with 2000 waiting, {long:.0f} with 40000")
    assert long > short / 5


def test_many_arguments_many_results_and_many_values_at_once(session):
    """E2."""
    oracle = Oracle(session)
    references = [nothing.remote(number) for number in range(5000)]
    assert obsray.get(add_up.remote(*references), timeout=60) == sum(range(5000))

    @obsray.remote(num_returns=3000)
    def many() -> range:
        return range(3000)

    assert obsray.get(many.remote(), timeout=60) == list(range(3000))
    ready, waiting = obsray.wait(references, num_returns=5000, timeout=60)
    assert len(ready) == 5000 and not waiting
    del references, ready
    oracle.check()


def test_tasks_that_wait_for_tasks_that_wait_need_no_end_of_processes(session):
    """E3: those that wait lend their CPU, and the number of processes is bounded."""
    oracle = Oracle(session)
    assert obsray.get(deeper.remote(30), timeout=100) == 30
    assert obsray.get(twice.remote(5), timeout=100) == 32
    assert len(workers_of(session)) <= 64
    oracle.check()


def test_actors_come_and_go_by_the_dozen_and_leave_nothing(session):
    """E4."""
    oracle = Oracle(session)
    began = time.monotonic()
    for turn in range(3):
        actors = [Small.options(name=f"small {turn}.{number}").remote() for number in range(16)]
        assert sum(obsray.get([actor.value.remote() for actor in actors], timeout=100)) == 16
        del actors
    print(f"{48 / (time.monotonic() - began):.0f} actors/s")
    oracle.check("actor_died")
    eventually(lambda: sum(row["state"] == "DEAD" for row in views(session).actors()) == 48)
