"""The worker pool: starting, registering, ending, and how a death is explained."""

from __future__ import annotations

import pytest
from node_bench import Bench

from obsray.core.node.environments import DEFAULT_RUNTIME
from obsray.core.node.workers import FAILURES_MAX
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import WorkerState
from obsray.telemetry.events import DeathCause, ProcessKind, Reason


def started(prestart: int = 2, **options) -> tuple[Bench, list[bytes]]:
    bench = Bench(prestart=prestart, **options)
    bench.do(bench.machine.start)
    return bench, bench.workers_join()


def leased(bench: Bench) -> tuple[bytes, m.LeaseGranted]:
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.want(driver, 1, 1)
    bench.workers_join()
    (lease,) = bench.granted(driver)
    return driver, lease


def last_death(bench: Bench) -> dict:
    return bench.records.named("worker_died")[-1]


def test_processes_are_kept_ready():
    bench, workers = started(prestart=3)
    assert len(workers) == 3
    bench.worker_dies(workers[0])
    assert len(bench.asked) == 1


def test_a_ready_process_that_is_taken_by_an_actor_is_replaced():
    bench, workers = started(prestart=1)
    bench.pool.take(bench.pool.workers[workers[0]], WorkerState.ACTOR, DEFAULT_RUNTIME)
    bench.tick()
    assert len(bench.asked) == 1


def test_a_process_that_does_not_say_hello_is_killed_and_counted_as_failed():
    bench = Bench(prestart=1)
    bench.do(bench.machine.start)
    (worker,) = bench.asked
    bench.run_until_quiet(61)
    assert bench.killed() == [worker]
    bench.worker_dies(worker)
    assert last_death(bench)["cause"] is DeathCause.START_FAILED
    assert last_death(bench)["error"] == "it did not say hello within 60 s"


def test_processes_that_die_at_their_start_do_not_spin():
    bench = Bench(prestart=1)
    bench.do(bench.machine.start)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.want(driver, 1, 1)
    starts = 0
    for _ in range(600):
        while bench.asked:
            worker, _ = bench.asked.popitem()
            starts += 1
            bench.worker_dies(worker, exit_code=1, signal=0)
        bench.run_until_quiet(0.1)
    # A minute of a broken environment costs a few forks, not thousands.
    assert FAILURES_MAX < starts < 20
    assert bench.scheduler.waiting() == (1, 0)
    decision = bench.records.named("lease_decided")[-1]
    assert decision["reason"] is Reason.WORKER_STARTING


def test_a_broken_environment_does_not_hold_up_others():
    bench = Bench(cpus=2)
    driver = bench.driver()
    bench.define(driver, 1, runtime={"env_vars": {"LD_PRELOAD": "nothing.so"}}, CPU=1)
    bench.define(driver, 2, CPU=1)
    bench.want(driver, 1, 1)
    for _ in range(FAILURES_MAX + 1):
        worker, _ = bench.asked.popitem()
        bench.worker_dies(worker, exit_code=127, signal=0)
    assert bench.asked == {}
    bench.want(driver, 2, 1)
    bench.workers_join()
    assert [lease.shape for lease in bench.granted(driver)] == [2]


def test_a_process_idle_too_long_ends_unless_it_is_kept_ready():
    bench, _ = started(prestart=1, cpus=4)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.want(driver, 1, 3)
    bench.workers_join()
    for lease in bench.granted(driver):
        bench.give_back(driver, lease)
    bench.run_until_quiet(31)
    told = [worker for worker in bench.pool.workers if bench.take(worker)]
    assert len(told) == 2
    for worker in told:
        bench.send(worker, m.Goodbye())
        bench.worker_dies(worker, signal=0)
        assert last_death(bench)["cause"] is DeathCause.IDLE
    assert len(bench.pool.workers) == 1


def test_a_process_that_ignores_its_end_is_killed_after_the_grace_time():
    bench, (worker,) = started(prestart=1)
    driver, lease = leased(bench)
    bench.give_back(driver, lease, dispose=True)
    bench.run_until_quiet(1)
    assert bench.killed() == []
    bench.run_until_quiet(2)
    assert bench.killed() == [worker]
    bench.worker_dies(worker)
    assert last_death(bench)["cause"] is DeathCause.INTENDED


def test_a_process_that_loses_its_link_but_lives_on_is_killed():
    bench, (worker,) = started(prestart=1)
    bench.leave(worker)
    bench.run_until_quiet(3)
    assert bench.killed() == [worker]


@pytest.mark.parametrize(
    ("facts", "cause", "text"),
    [
        ({"signal": 6}, DeathCause.SIGNAL, "killed by signal 6"),
        ({"signal": 0, "exit_code": 3}, DeathCause.EXIT_CODE, "exit code 3"),
        ({"signal": 9}, DeathCause.KILLED_BY_REQUEST, "closed its link but did not end"),
    ],
)
def test_how_a_process_ended_counts_though_its_node_hears_of_it_late(facts, cause, text):
    bench, (worker,) = started(prestart=1)
    leased(bench)
    bench.leave(worker)
    bench.run_until_quiet(3)
    assert bench.killed() == [worker]
    bench.worker_dies(worker, **facts)
    assert last_death(bench)["cause"] is cause
    assert text in last_death(bench)["error"]


def test_a_worker_nobody_asked_for_is_refused():
    bench, (worker,) = started(prestart=1)
    assert bench.do(bench.machine.client_joined, b"stranger", ProcessKind.WORKER, 1) is None
    assert bench.do(bench.machine.client_joined, worker, ProcessKind.WORKER, 1) is None
    assert bench.do(bench.machine.client_joined, worker, ProcessKind.DRIVER, 1) is None


@pytest.mark.parametrize(
    ("facts", "cause", "text"),
    [
        ({"signal": 11}, DeathCause.SIGNAL, "killed by signal 11"),
        ({"signal": 9}, DeathCause.SIGNAL, "killed by signal 9"),
        ({"signal": 0, "exit_code": 3}, DeathCause.EXIT_CODE, "exit code 3"),
        ({"signal": 0, "exit_code": 0}, DeathCause.EXIT_CODE, "exit code 0"),
        ({"signal": 9, "oom": "killed for memory"}, DeathCause.OOM, "killed for memory"),
        # The counter of the whole container rose, but this one died of something else.
        ({"signal": 11, "oom": "killed for memory"}, DeathCause.SIGNAL, "killed by signal 11"),
        (
            {"signal": 9, "parent_died": "pid 7: signal 9"},
            DeathCause.PARENT_DIED,
            "(pid 7: signal 9) died and took it along",
        ),
    ],
)
def test_a_death_is_explained_by_its_wait_status(facts, cause, text):
    bench, (worker,) = started(prestart=1)
    leased(bench)
    bench.worker_dies(worker, **facts)
    assert last_death(bench)["cause"] is cause
    assert text in last_death(bench)["error"]


def test_a_crash_on_the_way_out_is_still_a_crash():
    bench, (worker,) = started(prestart=1)
    driver, lease = leased(bench)
    bench.give_back(driver, lease, dispose=True)
    bench.worker_dies(worker, signal=11)
    assert last_death(bench)["cause"] is DeathCause.SIGNAL


def test_a_process_that_said_goodbye_ended_in_order():
    bench, (worker,) = started(prestart=1)
    bench.send(worker, m.Goodbye())
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.want(driver, 1, 1)
    assert bench.granted(driver) == []
    bench.worker_dies(worker, signal=0)
    assert last_death(bench)["cause"] is DeathCause.INTENDED


def test_a_fork_that_the_system_refuses_is_a_failed_start():
    bench = Bench(prestart=1)
    bench.do(bench.machine.start)
    (worker,) = bench.asked
    bench.asked.clear()
    bench.do(bench.machine.worker_not_forked, worker, "fork: Resource temporarily unavailable")
    assert last_death(bench)["cause"] is DeathCause.START_FAILED
    assert "Resource temporarily unavailable" in last_death(bench)["error"]


def test_the_number_of_processes_is_bounded_whatever_is_wanted():
    bench = Bench(cpus=1000, workers_max=7)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.want(driver, 1, 900)
    while bench.workers_join():
        pass
    assert len(bench.granted(driver)) == len(bench.pool.workers) == 7


def idle_too_long(**options) -> tuple[Bench, bytes]:
    """A bench with one process that was idle for too long and has been asked to end."""
    bench, _ = started(prestart=0, **options)
    driver, lease = leased(bench)
    bench.give_back(driver, lease)
    bench.run_until_quiet(31)
    assert [message.unless_needed for message in bench.take(lease.worker, m.Exit)] == [True]
    return bench, lease.worker


def test_an_idle_process_that_owns_what_others_hold_stays_until_it_says_goodbye():
    bench, worker = idle_too_long()
    bench.send(worker, m.StillNeeded(2, 1))
    bench.run_until_quiet(100)
    assert bench.killed() == []
    assert bench.records.named("worker_lingers")[-1]["objects"] == 2
    bench.send(worker, m.Goodbye())
    bench.worker_dies(worker, signal=0)
    assert last_death(bench)["cause"] is DeathCause.IDLE
    assert bench.pool.lingering == 0


def test_a_process_that_lingers_gets_no_work_and_takes_nobody_s_place():
    bench, worker = idle_too_long(workers_max=1)
    bench.send(worker, m.StillNeeded(1, 0))
    driver = bench.driver(b"driver_2")
    bench.define(driver, 1, CPU=1)
    bench.want(driver, 1, 1)
    assert bench.workers_join() != [worker]
    assert [lease.worker == worker for lease in bench.granted(driver)] == [False]


def test_only_who_was_asked_to_end_can_say_that_it_is_needed():
    bench, workers = started(prestart=1)
    bench.send(workers[0], m.StillNeeded(1, 0))
    assert bench.pool.lingering == 0
