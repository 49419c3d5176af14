"""Tasks that wait for tasks: the deepest first, and a refusal when every process waits."""

from __future__ import annotations

from typing import Any

from node_bench import Bench, actor_spec

from obsray.core.protocol import messages as m
from obsray.ids import SEQUENCE_ACTOR, task_id


def begun(bench: Bench, driver: bytes) -> Any:
    """The driver's first task runs somewhere: its lease."""
    bench.define(driver, 1, CPU=1)
    return granted_to(bench, driver)


def granted_to(bench: Bench, client: bytes, shape: int = 1) -> Any:
    """One worker for the client: its lease."""
    bench.want(client, shape, 1)
    bench.workers_join()
    (lease,) = bench.granted(client)
    return lease


def waits(bench: Bench, worker: bytes, wanted: int = 1, sure: bool = True) -> None:
    """The task of a worker asks for tasks, and waits for them."""
    bench.define(worker, 1, CPU=1)
    bench.send(worker, m.LeaseRequest(1, wanted, wanted), m.Blocked(sure))
    bench.workers_join()


def chain(bench: Bench, sure: bool = True) -> list[bytes]:
    """Tasks that wait for tasks, until there is no process for one more: the workers, the driver first."""
    waiting = [bench.driver()]
    lease = begun(bench, waiting[0])
    while True:
        waiting.append(lease.worker)
        waits(bench, lease.worker, sure=sure)
        more = bench.granted(lease.worker)
        if not more:
            return waiting
        (lease,) = more


def test_what_is_waited_for_deepest_comes_first():
    """A tree of tasks is walked down and not across, so it needs as many processes as it is deep."""
    bench = Bench(cpus=1, workers_max=64)
    driver = bench.driver()
    lease = begun(bench, driver)
    order = []
    for _ in range(6):
        waits(bench, lease.worker, wanted=2)
        order.append(lease.worker)
        (lease,) = bench.granted(lease.worker)
    # The first of the deepest ends: its sibling is next, not one of those that have waited longer.
    parent = order[-1]
    bench.give_back(parent, lease)
    assert len(bench.granted(parent)) == 1
    assert not any(bench.granted(other) for other in order[:-1])
    assert len(bench.pool.workers) == 7


def test_who_is_not_waited_for_gets_its_turn_all_the_same():
    """However much is nested, a program's plain task runs."""
    bench = Bench(cpus=1)
    driver, other = bench.driver(), bench.driver(b"driver_2")
    lease = begun(bench, driver)
    waits(bench, lease.worker, wanted=100)
    bench.define(other, 1, CPU=1)
    bench.want(other, 1, 1)
    served = 0
    for _ in range(10):
        served += len(bench.granted(other))
        for child in bench.granted(lease.worker):
            bench.give_back(lease.worker, child)
        bench.tick(0.2)
    assert served == 1


def test_who_goes_on_is_not_urgent_any_more():
    """Only those that wait come first: what a running task has merely begun is like everybody's."""
    bench = Bench(cpus=1)
    driver, other = bench.driver(), bench.driver(b"driver_2")
    lease = begun(bench, driver)
    bench.define(other, 1, CPU=1)
    bench.want(other, 1, 1)
    waits(bench, lease.worker, wanted=2)
    (child,) = bench.granted(lease.worker)
    bench.send(lease.worker, m.Unblocked())
    bench.give_back(lease.worker, child)
    bench.give_back(driver, lease)
    assert len(bench.granted(other)) == 1


def test_when_every_process_waits_for_one_that_cannot_come_it_is_refused_and_told():
    bench = Bench(cpus=2, workers_max=5)
    waiting = chain(bench)
    assert len(waiting) == 6 and len(bench.pool.workers) == 5
    bench.run_until_quiet(1.0)
    assert not bench.take(waiting[-1], m.TooDeep)
    bench.run_until_quiet(2.0)
    (refused,) = bench.take(waiting[-1], m.TooDeep)
    assert refused.shape == 1 and "5 processes" in refused.detail and "5 deep" in refused.detail
    (record,) = bench.records.take("nesting_refused")
    assert record["owner"] == waiting[-1] and record["depth"] == 5 and record["workers_max"] == 5
    # Nobody else is told anything, and nobody is told twice.
    bench.run_until_quiet(100.0)
    assert not any(bench.take(each, m.TooDeep) for each in waiting)
    # It may ask again, and gets a worker once there is one.
    bench.send(waiting[-1], m.Unblocked())
    bench.give_back(waiting[-2], m.LeaseGranted(1, bench.scheduler.by_worker[waiting[-1]].key, b"", "", {}))
    bench.want(waiting[-2], 1, 1)
    assert len(bench.granted(waiting[-2])) == 1


def test_as_long_as_one_may_go_on_by_itself_nothing_is_refused_for_a_minute():
    """Who waits for an actor, or with a timeout, may go on: then patience is longer."""
    bench = Bench(cpus=2, workers_max=4)
    waiting = chain(bench, sure=False)
    bench.run_until_quiet(59.0)
    assert not bench.take(waiting[-1], m.TooDeep)
    bench.run_until_quiet(2.0)
    assert len(bench.take(waiting[-1], m.TooDeep)) == 1


def test_where_many_processes_are_actors_one_of_them_may_end_so_patience_is_longer():
    bench = Bench(cpus=2, workers_max=6)
    driver = bench.driver(b"driver_9")
    for number in range(2):
        actor = task_id(driver, number + 1, SEQUENCE_ACTOR)
        bench.send(driver, m.CreateActor(number, actor_spec(actor, driver, resources={})))
        bench.workers_join()
    waiting = chain(bench)
    bench.run_until_quiet(59.0)
    assert not bench.take(waiting[-1], m.TooDeep)
    bench.run_until_quiet(2.0)
    (refused,) = bench.take(waiting[-1], m.TooDeep)
    assert "2 are actors" in refused.detail


def test_who_goes_on_and_waits_again_starts_the_patience_anew():
    bench = Bench(cpus=2, workers_max=4)
    waiting = chain(bench)
    for _ in range(5):
        bench.run_until_quiet(1.5)
        bench.send(waiting[1], m.Unblocked(), m.Blocked(True))
    assert not bench.take(waiting[-1], m.TooDeep)


def test_a_program_that_only_waits_for_a_process_is_never_refused():
    """A driver's tasks wait for as long as it takes: others will end."""
    bench = Bench(cpus=2, workers_max=3)
    waiting = chain(bench)
    other = bench.driver(b"driver_2")
    bench.define(other, 1, CPU=1)
    bench.want(other, 1, 1)
    bench.run_until_quiet(10.0)
    assert len(bench.take(waiting[-1], m.TooDeep)) == 1 and not bench.take(other, m.TooDeep)
