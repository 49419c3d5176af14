"""The dispatcher: from queues to leased workers, and back with results."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from owner_bench import CPU, INLINE, ME, MS, OTHER, WORKER, Bench, death, ids

from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import TaskState
from obsray.core.runtime.dispatch import BATCH_TASKS
from obsray.core.runtime.leases import Function
from obsray.core.runtime.ownership import Entry
from obsray.core.runtime.serialization import load_error
from obsray.core.runtime.verdicts import tasks_begun
from obsray.errors import RayError, RayTaskError, TaskCancelledError, WorkerCrashedError
from obsray.ids import object_id, task_id
from obsray.telemetry.events import DeathCause, Outcome, Reason


def error_of(task) -> BaseException:
    return load_error(task.entries[0].value)


def warm(bench: Bench, run_ns: int = MS // 10) -> None:
    """Have the function run once, so that its time is known."""
    (task,) = bench.submit()
    bench.grant()
    bench.run()
    bench.done(task, run_ns=run_ns)
    bench.take()


# --- demand -------------------------------------------------------------------------------------------------


def test_the_node_hears_of_demand_when_it_doubles_and_not_at_every_task():
    bench = Bench()
    told = []
    for _ in range(16):
        bench.submit()
        bench.run()
        told += [request.wanted for request in bench.take(m.LeaseRequest)]
    assert told == [1, 2, 4, 8, 16]


def test_demand_is_withdrawn_when_nothing_waits():
    bench = Bench()
    (task,) = bench.submit()
    bench.run()
    assert [request.wanted for request in bench.take(m.LeaseRequest)] == [1]
    bench.dispatcher.cancel(task, False, False, 0)
    bench.submit()
    bench.grant()
    bench.run()
    assert bench.dispatcher.shape("f CPU:1", CPU, None, "f") is bench.shape
    assert bench.shape.wanted == 0


# --- pipelining ---------------------------------------------------------------------------------------------


def test_a_function_that_never_ran_is_pushed_alone():
    bench = Bench()
    tasks = bench.submit(5)
    bench.grant()
    bench.run()
    assert bench.pushed() == ids(tasks[:1])
    bench.check()


def test_a_worker_gets_no_more_work_ahead_than_the_window():
    bench = Bench(pipeline_seconds=0.002)
    warm(bench, run_ns=MS // 2)
    tasks = bench.submit(10)
    bench.run()
    assert bench.pushed() == ids(tasks[:4])
    bench.done(tasks[0], run_ns=MS // 2)
    bench.run()
    assert bench.pushed() == ids(tasks[4:5])
    bench.check()


def test_if_all_workers_have_as_much_as_they_may_and_there_is_one_more_for_each_each_gets_it():
    bench = Bench(pipeline_seconds=0.002)
    warm(bench, run_ns=3 * MS // 2)
    bench.grant(OTHER)
    tasks = bench.submit(5)
    bench.run()
    mine, others = (list(bench.dispatcher.by_worker[worker][0].in_flight) for worker in (WORKER, OTHER))
    assert (mine, others) == ([tasks[0].id, tasks[2].id], [tasks[1].id, tasks[3].id])
    bench.check()


def test_of_fewer_tasks_than_workers_none_waits_behind_another_longer_than_the_window():
    bench = Bench(pipeline_seconds=0.002)
    warm(bench, run_ns=3 * MS // 2)
    bench.grant(OTHER)
    tasks = bench.submit(3)
    bench.run()
    assert bench.pushed() == ids(tasks[:2])
    bench.check()


def test_nothing_more_is_pushed_behind_a_task_that_is_late():
    bench = Bench(pipeline_seconds=0.002, recall_seconds=0.01)
    warm(bench, run_ns=MS // 10)
    _, second = bench.submit(2)
    bench.run()
    bench.now += 0.02
    bench.dispatcher.tick(bench.now, 0)
    bench.dispatcher.returned(WORKER, [second.id], Reason.FAIRNESS, 0)
    bench.submit(5)
    bench.run()
    assert len(bench.dispatcher.by_worker[WORKER][0].in_flight) == 1
    bench.check()


def test_a_worker_never_waits_for_what_was_collected_for_it():
    bench = Bench(pipeline_seconds=0.002)
    warm(bench, run_ns=MS // 2)
    tasks = bench.submit(40)
    bench.run()
    there = bench.pushed()
    for done in range(len(tasks)):
        assert tasks[done].id in there
        bench.done(tasks[done], run_ns=MS // 2)
        bench.turn()
        there += bench.pushed()
    assert sorted(there) == ids(tasks)
    assert bench.dispatcher.unsent == []


def test_no_more_tasks_are_in_flight_than_allowed_however_short_they_are():
    bench = Bench(pipeline_tasks_max=BATCH_TASKS)
    warm(bench, run_ns=1)
    bench.submit(500)
    bench.run()
    assert len(bench.pushed()) == BATCH_TASKS
    bench.check()


def test_functions_with_max_calls_are_never_pipelined():
    bench = Bench()
    function = Function(b"once", "once", b"", max_calls=1)
    function.mean_ns = 1
    tasks = bench.submit(3, function=function)
    bench.grant()
    bench.run()
    assert bench.pushed() == ids(tasks[:1])


def test_a_function_travels_once_to_each_worker():
    bench = Bench()
    first, second, third = bench.submit(3)
    bench.grant()
    bench.grant(OTHER)
    bench.run()
    assert len(bench.take(m.DefineFunction)) == 2
    bench.done(first)
    bench.done(second, worker=OTHER)
    bench.run()
    assert bench.take(m.DefineFunction) == [] and third.state is TaskState.DISPATCHED


# --- leases -------------------------------------------------------------------------------------------------


def test_a_lease_that_is_asked_back_ends_once_nothing_runs_under_it_and_gets_nothing_new():
    bench = Bench()
    warm(bench)
    first, second = bench.submit(2)
    bench.run()
    bench.dispatcher.reclaim(1, 0)
    bench.submit(3)
    bench.run()
    told = bench.take()
    assert [message.wanted for message in told if isinstance(message, m.LeaseRequest)] == [3]
    assert not any(isinstance(message, m.LeaseReturn) for message in told)
    bench.done(first)
    assert bench.take(m.LeaseReturn) == []
    bench.done(second)
    assert [(r.lease, r.tasks, r.reason) for r in bench.take(m.LeaseReturn)] == [(1, 3, Reason.RECLAIMED_FOR_OTHERS)]
    assert len(bench.shape.queue) == 3
    bench.check()


def test_an_idle_lease_goes_back_after_its_linger_time_and_not_before():
    bench = Bench(lease_linger_seconds=0.05)
    warm(bench)
    bench.now += 0.04
    assert bench.dispatcher.tick(bench.now, 0) == 0.05
    assert bench.take(m.LeaseReturn) == []
    bench.now += 0.02
    assert bench.dispatcher.tick(bench.now, 0) is None
    assert [message.reason for message in bench.take(m.LeaseReturn)] == [Reason.IDLE_TIMEOUT]


def test_a_worker_that_reached_max_calls_goes_back_not_to_be_used_again():
    bench = Bench()
    (task,) = bench.submit()
    bench.grant()
    bench.run()
    bench.done(task, extra={"retire": True})
    assert [message.dispose for message in bench.take(m.LeaseReturn)] == [True]


# --- recall -------------------------------------------------------------------------------------------------


def test_what_waits_behind_a_slow_task_is_recalled_and_runs_elsewhere_in_its_old_order():
    bench = Bench(recall_seconds=0.01)
    warm(bench)
    slow, *others = tasks = bench.submit(4)
    bench.run()
    assert bench.pushed() == ids(tasks)
    bench.now += 0.02
    bench.dispatcher.tick(bench.now, 0)
    assert bench.take(m.Recall) == [m.Recall([])]
    bench.dispatcher.returned(WORKER, ids(others), Reason.FAIRNESS, 0)
    later = bench.submit(1)
    bench.grant(OTHER)
    bench.run()
    assert [task.id for task in bench.dispatcher.by_worker[OTHER][0].in_flight.values()][:1] == ids(others[:1])
    assert ids(list(bench.shape.queue)) == ids(others[1:] + later)
    assert slow.state is TaskState.DISPATCHED
    bench.check()


def test_what_workers_give_back_or_lose_is_oldest_first_whoever_gave_it_back_first():
    bench = Bench(pipeline_seconds=0.002)
    warm(bench, run_ns=MS // 2)
    bench.grant(OTHER)
    tasks = bench.submit(10, retries=3)
    bench.run()
    early, late = (bench.dispatcher.by_worker[worker][0].in_flight for worker in (WORKER, OTHER))
    assert [*early, *late] == ids(tasks[:8])
    bench.dispatcher.returned(WORKER, ids(tasks[1:4]), Reason.BLOCKED_IN_GET, 0)
    bench.dispatcher.returned(OTHER, ids(tasks[6:8]), Reason.BLOCKED_IN_GET, 0)
    news = death(OTHER, tasks[4].id)
    for lost in bench.dispatcher.worker_died(OTHER):
        bench.verdicts.crashed(lost, news, lost is tasks[4])
    bench.run()
    assert ids(list(bench.shape.queue)) == ids(tasks[1:])
    bench.check()


def test_a_task_that_came_back_is_not_pushed_behind_a_younger_one_which_may_wait_for_it():
    bench = Bench(pipeline_seconds=0.002)
    warm(bench, run_ns=MS // 2)
    bench.grant(OTHER)
    old, young = bench.submit(2, retries=3, function=Function(b"new", "new", b""))
    others = bench.submit(3)
    bench.run()
    bench.pushed()
    young.function.mean_ns = bench.function.mean_ns
    crash(bench, death(WORKER, old.id))
    lease = bench.dispatcher.by_worker[OTHER][0]
    lease.load_ns, young.estimate_ns = 1000, 1000
    bench.run()
    assert list(lease.in_flight) == [young.id] and ids(list(bench.shape.queue)) == ids([old, *others])
    bench.grant()
    bench.run()
    assert bench.pushed()[:1] == [old.id]
    assert next(iter(bench.dispatcher.by_worker[WORKER][0].in_flight)) == old.id
    bench.check()


def test_nothing_is_pushed_after_a_recall_before_it_is_answered_so_nothing_younger_overtakes():
    bench = Bench(recall_seconds=0.01)
    warm(bench, run_ns=1000)
    first, second, third = bench.submit(3)
    bench.run()
    younger = bench.submit(2)
    bench.pushed()
    assert _recall_after(bench, 0.011)
    # Sent before the recall came there: the worker only had no CPU.
    bench.done(first, run_ns=1000)
    bench.run()
    assert bench.pushed() == []
    bench.dispatcher.returned(WORKER, ids([second, third]), Reason.FAIRNESS, 0)
    bench.run()
    assert bench.pushed() == ids([second, third, *younger])
    bench.check()


def _recall_after(bench: Bench, seconds: float) -> bool:
    """Whether what waits is recalled once no answer has come for so long."""
    bench.now += seconds
    bench.dispatcher.tick(bench.now, 0)
    return bool(bench.take(m.Recall))


def test_a_recall_for_nothing_makes_the_next_one_wait_longer_and_a_right_one_sooner_again():
    bench = Bench(recall_seconds=0.01)
    warm(bench, run_ns=1000)
    usual = bench.function.mean_ns
    for waited in (0.01, 0.02, 0.04, 0.08, 0.16, 0.16):
        tasks = bench.submit(3)
        bench.run()
        assert not _recall_after(bench, waited * 0.9)
        assert _recall_after(bench, waited * 0.2)
        # The worker had no CPU: nothing of it took long.
        bench.dispatcher.returned(WORKER, [], Reason.FAIRNESS, 0)
        for task in tasks:
            bench.done(task, run_ns=1000)
        assert bench.function.mean_ns == usual, "one alarm for nothing and tasks go one by one"
    slow, other = bench.submit(2)
    bench.run()
    assert _recall_after(bench, 0.2)
    bench.dispatcher.returned(WORKER, [other.id], Reason.FAIRNESS, 0)
    bench.done(slow, run_ns=300 * MS)
    bench.function.mean_ns = usual
    bench.run()
    bench.submit(2)
    bench.run()
    assert _recall_after(bench, 0.011)
    bench.check()


def test_a_recall_whose_suspect_had_not_begun_was_for_nothing():
    bench = Bench(recall_seconds=0.01)
    warm(bench, run_ns=1000)
    tasks = bench.submit(3)
    bench.run()
    assert _recall_after(bench, 0.011)
    bench.dispatcher.returned(WORKER, ids(tasks), Reason.FAIRNESS, 0)
    assert ids(list(bench.shape.queue)) == ids(tasks)
    bench.run()
    assert bench.pushed()[-3:] == ids(tasks), "the function counts as short again"
    assert not _recall_after(bench, 0.011)
    assert _recall_after(bench, 0.01)
    bench.check()


def test_a_worker_that_waits_in_get_gets_nothing_until_it_has_a_result():
    bench = Bench()
    warm(bench)
    first, second = bench.submit(2)
    bench.run()
    bench.pushed()
    bench.dispatcher.returned(WORKER, [second.id], Reason.BLOCKED_IN_GET, 0)
    bench.run()
    assert bench.pushed() == []
    bench.done(first)
    bench.run()
    assert bench.pushed() == [second.id]
    bench.check()


def test_each_push_says_how_often_tasks_came_back_so_that_what_crossed_them_is_given_back_too():
    bench = Bench()
    warm(bench)
    running, old = bench.submit(2)
    bench.run()
    (crossed,) = bench.submit()
    bench.run()
    assert [push.heard for push in bench.take(m.Push)][-1] == 0
    bench.dispatcher.returned(WORKER, [old.id], Reason.BLOCKED_IN_GET, 0)
    bench.done(running)
    bench.run()
    # The older one is not pushed behind the younger one, which the worker gives back as soon as it comes there.
    assert bench.take(m.Push) == []
    bench.dispatcher.returned(WORKER, [], Reason.FAIRNESS, 0)
    bench.dispatcher.returned(WORKER, [crossed.id], Reason.FAIRNESS, 0)
    bench.run()
    assert [push.heard for push in bench.take(m.Push)] == [2]
    assert list(bench.dispatcher.by_worker[WORKER][0].in_flight) == ids([old, crossed])
    bench.check()


def test_a_task_that_ended_meanwhile_is_not_queued_again_when_it_comes_back():
    bench = Bench()
    (task,) = bench.submit()
    bench.grant()
    bench.run()
    bench.done(task)
    bench.dispatcher.returned(WORKER, [task.id], Reason.FAIRNESS, 0)
    assert not bench.shape.queue
    bench.check()


# --- results ------------------------------------------------------------------------------------------------


def test_a_result_of_an_attempt_that_no_longer_counts_is_ignored_and_what_it_holds_given_up():
    bench = Bench()
    (task,) = bench.submit(retries=1)
    bench.grant()
    bench.run()
    for lost in bench.dispatcher.worker_died(WORKER):
        bench.verdicts.crashed(lost, death(WORKER, task.id), True)
    assert task.attempt == 1
    foreign = object_id(task_id(OTHER, 1))
    result = (task.id, 0, 0, (INLINE,), {"contained": ((foreign,),)}, MS)
    bench.dispatcher.done(WORKER, [result], bench.now, 0)
    assert task.entries[0].value is None
    # Its owner is at another node, and hears of it until it says so.
    assert bench.take(m.HoldsTold) == [m.HoldsTold(1, [foreign], b"")]
    bench.check()


def test_a_result_may_refer_to_what_only_the_arguments_of_its_task_kept_alive():
    bench = Bench()
    inner = Entry(object_id(task_id(ME, 900, 1)), True)
    bench.ownership.put(inner, INLINE, ())
    (task,) = bench.submit()
    inner.pins += 1
    task.pinned = [inner]
    bench.grant()
    bench.run()
    bench.done(task, extra={"contained": ((inner.id,),)})
    assert bench.ownership.entries[inner.id] is inner and inner.local == 1
    bench.ownership.drop_local([task.entries[0].id])
    # Until the sender's registration of the journey is here as well, nothing is known to be over.
    bench.ownership.depart(inner.id, WORKER)
    assert inner.id not in bench.ownership.entries
    bench.check()


def test_what_the_worker_kept_is_registered_before_the_arguments_are_let_go():
    bench = Bench()
    argument = Entry(object_id(task_id(ME, 900, 1)), True)
    bench.ownership.put(argument, INLINE, ())
    (task,) = bench.submit(arguments=[argument])
    bench.grant()
    bench.run()
    bench.done(task, extra={"kept": (argument.id,)})
    assert bench.ownership.holders[argument.id] == {WORKER: 1}


# --- what goes wrong ----------------------------------------------------------------------------------------


def crash(bench: Bench, news: m.WorkerDied) -> None:
    """As the inbox does it."""
    in_flight = bench.dispatcher.worker_died(news.worker)
    begun = tasks_begun(in_flight, news)
    for index in range(len(in_flight) - 1, -1, -1):
        bench.verdicts.crashed(in_flight[index], news, index < begun)


def test_tasks_behind_the_one_that_ran_when_the_worker_died_keep_their_retries_and_their_order():
    bench = Bench()
    warm(bench)
    tasks = bench.submit(4, retries=1)
    bench.run()
    crash(bench, death(WORKER, tasks[1].id))
    assert [(task.attempt, task.retries_left) for task in tasks] == [(1, 0), (1, 0), (0, 1), (0, 1)]
    assert ids(list(bench.shape.queue)) == ids(tasks)
    bench.check()


def test_what_was_submitted_is_recorded_before_an_attempt_of_it_is_retried():
    bench, told = Bench(), list[str]()
    bench.verdicts.before_told = lambda: told.append("submitted")
    bench.verdicts.emitter = SimpleNamespace(intern=lambda text: 0, task_retried=lambda *row: told.append("retried"))
    client = bench.actor()
    bench.call(client, retries=1)
    bench.run()
    bench.calls.worker_died(m.WorkerDied(WORKER, 4000, DeathCause.NODE_DIED, 0, 0, [], "its node is gone", ""))
    assert told == ["submitted", "retried"]


def test_a_task_that_was_lost_with_its_node_says_so_and_not_that_its_worker_died():
    bench, ends = Bench(), list[Outcome]()
    (task,) = bench.submit(1, retries=0)
    bench.grant()
    bench.run()
    bench.verdicts.emitter = SimpleNamespace(
        intern=lambda text: 0, task_finished=lambda time, task, attempt, outcome, *rest: ends.append(Outcome(outcome)),
    )  # fmt: skip
    crash(bench, m.WorkerDied(WORKER, 4000, DeathCause.NODE_DIED, 0, 0, [], "its node is gone", ""))
    assert task.state is TaskState.FAILED and ends == [Outcome.NODE_DIED]


def test_nothing_had_begun_at_a_worker_that_ran_nothing():
    bench = Bench()
    tasks = bench.submit(1)
    bench.grant()
    bench.run()
    crash(bench, death())
    assert tasks[0].state is TaskState.QUEUED and tasks[0].attempt == 0


def test_an_attempt_that_had_not_begun_is_told_from_an_earlier_one_at_the_same_worker():
    bench = Bench()
    (task,) = bench.submit(retries=2)
    bench.grant()
    bench.run()
    bench.failed(task, extra={"retry": True})
    bench.run()
    assert (task.attempt, task.retries_left, task.state) == (1, 1, TaskState.DISPATCHED)
    crash(bench, death(WORKER, task.id)._replace(attempts=(0,)))
    assert (task.attempt, task.retries_left, task.state) == (1, 1, TaskState.QUEUED)


def test_without_retries_the_error_says_how_the_worker_died():
    bench = Bench()
    (task,) = bench.submit()
    bench.grant()
    bench.run()
    crash(bench, death(WORKER, task.id))
    error = error_of(task)
    assert isinstance(error, WorkerCrashedError) and "killed by signal 9" in str(error)
    bench.check()


def test_what_a_failed_task_may_have_stored_is_freed_and_what_never_ran_is_not():
    bench = Bench()
    ran, waited = bench.submit(2)
    bench.grant()
    bench.run()
    bench.take()
    bench.failed(ran)
    bench.dispatcher.cancel(waited, False, False, 0)
    assert bench.take(m.FreeObjects) == [m.FreeObjects([ran.entries[0].id])]


def test_a_small_result_of_a_second_attempt_frees_a_large_one_of_the_first():
    bench = Bench()
    (task,) = bench.submit(retries=1)
    bench.grant()
    bench.run()
    bench.failed(task, extra={"retry": True})
    bench.run()
    bench.take()
    bench.done(task)
    assert bench.take(m.FreeObjects) == [m.FreeObjects([task.entries[0].id])]


@pytest.mark.parametrize("force", [False, True])
def test_a_task_that_waits_is_cancelled_at_once_and_one_that_runs_by_its_worker(force):
    bench = Bench()
    running, waiting = bench.submit(2)
    bench.grant()
    bench.run()
    bench.take()
    for task in (running, waiting):
        bench.dispatcher.cancel(task, force, True, 0)
    assert isinstance(error_of(waiting), TaskCancelledError)
    expected = m.KillWorker(WORKER, 1) if force else m.CancelTask(running.id, True)
    assert [message for message in bench.take() if not isinstance(message, m.FreeObjects)] == [expected]
    bench.failed(running, Outcome.CANCELLED)
    assert running.state is TaskState.CANCELLED
    bench.check()


def test_how_a_cancelled_task_ends_all_the_same_stands_and_it_is_not_retried():
    bench = Bench()
    gives, fails = bench.submit(2, retries=3)
    bench.grant()
    bench.grant(OTHER)
    bench.run()
    for task in (gives, fails):
        bench.dispatcher.cancel(task, False, True, 0)
    bench.done(gives)
    assert gives.state is TaskState.FINISHED and gives.entries[0].value == INLINE
    bench.failed(fails, extra={"retry": True}, worker=OTHER)
    assert fails.state is TaskState.FAILED and str(error_of(fails)) == "it failed"
    bench.check()


def test_a_task_that_ends_as_cancelled_by_itself_says_why_and_is_not_retried():
    bench = Bench()
    (task,) = bench.submit(retries=3)
    bench.grant()
    bench.run()
    bench.failed(task, Outcome.CANCELLED, extra={"retry": True})
    assert task.state is TaskState.CANCELLED and str(error_of(task)) == "it failed"
    bench.check()


def test_a_cancelled_task_that_comes_back_from_its_worker_does_not_run_again():
    bench = Bench()
    (task,) = bench.submit(retries=3)
    bench.grant()
    bench.run()
    bench.dispatcher.cancel(task, False, False, 0)
    bench.dispatcher.returned(WORKER, [task.id], Reason.BLOCKED_IN_GET, 0)
    assert task.state is TaskState.CANCELLED and not bench.shape.queue
    bench.check()


def test_cancelling_children_is_not_confused_by_one_that_ends_with_another_and_spares_actors_being_created():
    bench = Bench()
    parent = task_id(OTHER, 1)
    (first,) = bench.submit()
    second = bench.make(arguments=[first.entries[0]])
    second.ready = lambda task, entry: bench.dispatcher.argument_ready(task, entry, 0)
    (creation,) = bench.submit()
    creation.dispatched_to = object()
    creation.state = TaskState.DISPATCHED
    for task in (first, second, creation):
        task.parent = parent
    bench.calls.cancel_children(parent, 0)
    assert [first.state, second.state, creation.state] == [
        TaskState.CANCELLED, TaskState.FAILED, TaskState.DISPATCHED,
    ]  # fmt: skip


def test_a_failed_argument_fails_the_task_with_the_same_error_which_says_so():
    bench = Bench()
    (source,) = bench.submit()
    task = bench.make(arguments=[source.entries[0]])
    task.ready = lambda t, entry: bench.dispatcher.argument_ready(t, entry, 0)
    bench.grant()
    bench.run()
    bench.failed(source)
    assert task.state is TaskState.FAILED
    first, second = (load_error(each.entries[0].value) for each in (source, task))
    assert isinstance(first, RayError) and isinstance(second, RayTaskError)
    assert type(first) is type(second.cause) and first.args == second.cause.args
    assert first.needed_by == () and second.needed_by == (f"f (task {task.id.hex()})",)
    bench.check()


# --- pauses -------------------------------------------------------------------------------------------------


def lose(bench: Bench, task, cause: DeathCause = DeathCause.SIGNAL) -> list[float]:
    """The task is run and its worker dies; the pauses that tasks have now."""
    bench.dispatcher.tick(bench.now, 0)
    bench.now += 60
    bench.dispatcher.tick(bench.now, 0)
    bench.grant()
    bench.run()
    crash(bench, death(WORKER, task.id)._replace(cause=int(cause)))
    bench.check()
    return [seconds for _, seconds, _ in bench.dispatcher.paused]


def test_a_task_that_ends_its_workers_waits_longer_each_time():
    bench = Bench()
    (task,) = bench.submit(retries=-1)
    assert [lose(bench, task) for _ in range(4)] == [[], [0.1], [0.2], [0.4]]
    bench.dispatcher.tick(bench.now, 0)
    (other,) = bench.submit()
    assert list(bench.shape.queue) == [other]
    assert bench.dispatcher.tick(bench.now + 0.1, 0) is not None and list(bench.shape.queue) == [other]
    bench.dispatcher.tick(bench.now + 0.5, 0)
    assert list(bench.shape.queue) == [task, other] and not bench.dispatcher.paused
    bench.check()


def test_a_task_that_pauses_keeps_its_place_younger_ones_get_all_workers_but_one():
    bench = Bench()
    (old,) = bench.submit(retries=-1)
    lose(bench, old)
    lose(bench, old)
    young = bench.submit(3)
    bench.run()
    # One more than waits in line: that for the task which pauses.
    assert bench.dispatcher.tick(bench.now, 0) is not None and bench.shape.wanted == 4
    bench.pushed()
    bench.grant()
    bench.run()
    assert bench.pushed() == [] and bench.shape.wanted == 3
    assert bench.dispatcher.tick(bench.now + 0.09, 0) is not None and bench.dispatcher.by_worker[WORKER], "given back"
    bench.grant(OTHER)
    bench.run()
    assert bench.pushed() == [young[0].id]
    bench.now += 0.11
    bench.dispatcher.tick(bench.now, 0)
    bench.run()
    assert bench.pushed() == [old.id] and not bench.shape.keeping
    bench.done(old)
    bench.run()
    assert young[1].id in bench.pushed()
    bench.check()


def test_a_task_under_which_many_workers_have_died_holds_up_nobody():
    bench = Bench()
    (old,) = bench.submit(retries=-1)
    assert [lose(bench, old) for _ in range(7)][-1] == [3.2]
    (young,) = bench.submit()
    bench.pushed()
    bench.grant()
    bench.run()
    assert bench.pushed() == [young.id]
    bench.check()


def test_a_task_that_is_cancelled_during_its_pause_keeps_no_place():
    bench = Bench()
    (old,) = bench.submit(retries=-1)
    lose(bench, old)
    lose(bench, old)
    (young,) = bench.submit()
    bench.grant()
    bench.run()
    bench.pushed()
    bench.dispatcher.cancel(old, False, False, 0)
    bench.run()
    assert bench.pushed() == [young.id]
    bench.check()


def test_a_task_whose_result_was_lost_with_a_worker_is_not_held_to_have_ended_it():
    bench = Bench()
    warm(bench)
    done, guilty = bench.submit(2, retries=-1)
    for paused in ([], [guilty]):
        bench.run()
        crash(bench, death(WORKER, guilty.id))
        bench.grant()
        assert [task for _, _, task in bench.dispatcher.paused] == paused
    assert (done.attempt, guilty.attempt) == (2, 2) and done.state is TaskState.DISPATCHED


def test_a_task_that_is_cancelled_during_its_pause_does_not_come_back():
    bench = Bench()
    (task,) = bench.submit(retries=-1)
    lose(bench, task)
    lose(bench, task)
    bench.dispatcher.cancel(task, False, False, 0)
    bench.dispatcher.tick(bench.now + 60, 0)
    bench.dispatcher.tick(bench.now + 120, 0)
    assert task.state is TaskState.CANCELLED and not bench.shape.queue and not bench.dispatcher.paused


def test_kills_for_memory_have_a_number_of_their_own_and_a_task_that_may_not_run_again_has_none():
    bench = Bench()
    bench.verdicts.oom_retries_max = 3
    (task,) = bench.submit(retries=1)
    for _ in range(3):
        lose(bench, task, DeathCause.OOM)
    assert (task.attempt, task.retries_left, task.state) == (3, 1, TaskState.QUEUED)
    lose(bench, task, DeathCause.OOM)
    assert task.state is TaskState.FAILED and "killed for memory 4 times" in str(load_error(task.entries[0].value))
    (fragile,) = bench.submit()
    lose(bench, fragile, DeathCause.OOM)
    assert fragile.state is TaskState.FAILED and fragile.attempt == 0


def test_the_last_attempt_of_a_task_says_that_it_is():
    bench = Bench()
    (task,) = bench.submit(retries=2)
    lose(bench, task)
    assert task.options is None
    lose(bench, task)
    assert task.options == {"final": True}
