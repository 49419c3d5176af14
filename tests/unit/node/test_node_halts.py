"""Processes that stand still: told once, given nothing new, and a zygote that is woken or replaced."""

from __future__ import annotations

import pytest
from node_bench import Bench

from obsray.core.node.halts import SILENT_SECONDS, WAKE_SECONDS, ZYGOTE, Halts, Remedy, Seen
from obsray.ids import NIL_WORKER
from obsray.telemetry.halts import HELD, STOPPED


@pytest.fixture
def bench() -> Bench:
    made = Bench(prestart=2)
    made.do(made.machine.start)
    made.workers_join()
    return made


def look(bench: Bench, halts: Halts, *seen: Seen, owes: bool = False, after: float = 1.0) -> Remedy:
    """The remedy for the last of these, if there is any."""
    bench.now += after
    found = bench.do(halts.look, list(seen), owes)
    return found[-1][1] if found else Remedy.NONE


def test_a_process_that_stands_still_is_told_once_and_so_is_that_it_goes_on(bench):
    halts = Halts(bench.pool, 60.0)
    worker = next(iter(bench.pool.workers))
    for _ in range(3):
        look(bench, halts, Seen(7, "worker", worker, STOPPED), Seen(8, "driver", NIL_WORKER))
    (told,) = bench.records.take("process_halted")
    assert (told["worker"], told["pid"], told["process_name"], told["error"]) == (worker, 7, "worker", STOPPED)
    look(bench, halts, Seen(7, "worker", worker), Seen(8, "driver", NIL_WORKER))
    look(bench, halts, Seen(7, "worker", worker), Seen(8, "driver", NIL_WORKER))
    (over,) = bench.records.take("process_resumed")
    assert (over["pid"], over["why"], over["halted_seconds"]) == (7, "it goes on", 3.0)


def test_a_process_that_stood_still_and_ended_stands_still_no_more(bench):
    halts = Halts(bench.pool, 60.0)
    look(bench, halts, Seen(7, "collector", NIL_WORKER, STOPPED))
    look(bench, halts)
    assert bench.records.take("process_resumed")[0]["why"] == "it has ended"
    assert not halts.halted


def test_an_idle_worker_that_stands_still_gets_no_work_and_another_process_is_started_for_it(bench):
    halts = Halts(bench.pool, 60.0)
    look(bench, halts, *(Seen(pid, "worker", each, STOPPED) for pid, each in enumerate(bench.pool.workers)))
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.want(driver, 1, 1)
    assert not bench.granted(driver)
    (fresh,) = bench.workers_join()
    (lease,) = bench.granted(driver)
    assert lease.worker == fresh


def test_a_worker_that_goes_on_gets_work_again(bench):
    halts = Halts(bench.pool, 60.0)
    workers = list(bench.pool.workers)
    look(bench, halts, *(Seen(n, "worker", each, STOPPED) for n, each in enumerate(workers)))
    look(bench, halts, *(Seen(n, "worker", each) for n, each in enumerate(workers)))
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.want(driver, 1, 1)
    assert bench.granted(driver)[0].worker in workers


def test_a_stopped_zygote_is_left_alone_until_it_is_needed_and_then_woken(bench):
    halts = Halts(bench.pool, 60.0)
    stopped = Seen(9, ZYGOTE, NIL_WORKER, STOPPED)
    assert {look(bench, halts, stopped) for _ in range(50)} == {Remedy.NONE}
    found = [look(bench, halts, stopped, owes=True) for _ in range(4)]
    assert found[-1] is Remedy.WAKE and found.index(Remedy.WAKE) + 1 == WAKE_SECONDS
    look(bench, halts, Seen(9, ZYGOTE, NIL_WORKER))
    assert [(row["pid"], row["why"]) for row in bench.records.take("process_resumed")] == [(9, "its node woke it")]


def test_a_zygote_that_owes_an_answer_is_said_to_stand_still_and_replaced_in_the_end(bench):
    halts = Halts(bench.pool, 60.0)
    runs = Seen(9, ZYGOTE, NIL_WORKER)
    for second in range(1, 61):
        assert look(bench, halts, runs, owes=True) is Remedy.NONE
        assert (9 in halts.halted) == (second > SILENT_SECONDS)
    assert look(bench, halts, runs, owes=True) is Remedy.REPLACE
    bench.do(halts.replaced, 9)
    assert [row["pid"] for row in bench.records.take("process_halted")] == [9]
    assert "another one is started" in bench.records.take("process_resumed")[0]["why"]
    assert look(bench, halts, Seen(10, ZYGOTE, NIL_WORKER), owes=True) is Remedy.NONE


def test_the_time_in_which_the_node_itself_stood_still_counts_for_nobody(bench):
    halts = Halts(bench.pool, 60.0)
    runs = Seen(9, ZYGOTE, NIL_WORKER)
    look(bench, halts, runs, owes=True)
    assert look(bench, halts, runs, owes=True, after=600.0) is not Remedy.REPLACE
    assert look(bench, halts, runs, owes=False) is Remedy.NONE


def test_a_zygote_that_answers_in_between_is_never_replaced(bench):
    halts = Halts(bench.pool, 60.0)
    runs = Seen(9, ZYGOTE, NIL_WORKER)
    assert {look(bench, halts, runs, owes=bool(second % 30)) for second in range(200)} == {Remedy.NONE}


def test_a_zygote_that_has_only_been_started_has_a_minute_whatever_the_setting(bench):
    halts = Halts(bench.pool, 5.0)
    found = []
    for _ in range(61):
        bench.now += 1.0
        found.append(bench.do(halts.look, [Seen(9, ZYGOTE, NIL_WORKER)], True, True))
    assert not any(found[:-1]) and [remedy for _, remedy in found[-1]] == [Remedy.REPLACE]


def test_what_serves_the_node_is_woken_after_a_while_and_again_if_it_is_stopped_again(bench):
    halts = Halts(bench.pool, 60.0, 10.0)
    stopped = Seen(7, "control", NIL_WORKER, STOPPED, service=True)
    found = [look(bench, halts, stopped) for _ in range(25)]
    # Seen at 0; whoever stops it again before the next look has it stopped for as long again.
    assert [second for second, remedy in enumerate(found) if remedy is Remedy.WAKE] == [10, 20]
    look(bench, halts, Seen(7, "control", NIL_WORKER, service=True))
    (over,) = bench.records.take("process_resumed")
    assert (over["why"], over["halted_seconds"]) == ("its node woke it", 25.0)
    assert {look(bench, halts, stopped) for _ in range(10)} == {Remedy.NONE}, "counted anew"
    assert look(bench, halts, stopped) is Remedy.WAKE


def test_what_is_not_stopped_but_held_and_what_may_be_stopped_is_left_alone(bench):
    halts, forever = Halts(bench.pool, 60.0, 10.0), Halts(bench.pool, 60.0, 0.0)
    held = Seen(7, "control", NIL_WORKER, HELD, service=True)
    driver = Seen(8, "driver", NIL_WORKER, STOPPED)
    assert {look(bench, halts, held, driver) for _ in range(50)} == {Remedy.NONE}
    stopped = Seen(7, "control", NIL_WORKER, STOPPED, service=True)
    assert {look(bench, forever, stopped) for _ in range(50)} == {Remedy.NONE}
    zygote = Seen(9, ZYGOTE, NIL_WORKER, HELD)
    look(bench, halts, zygote)
    found = [look(bench, halts, zygote, owes=True) for _ in range(60)]
    assert set(found[:-1]) == {Remedy.NONE} and found[-1] is Remedy.REPLACE, "it is not woken, and is missed"
