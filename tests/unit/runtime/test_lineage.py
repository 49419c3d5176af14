"""What is remembered of finished tasks, what is made again of it, and where tasks with large arguments go."""

from __future__ import annotations

from owner_bench import CPU, ME, OTHER, WORKER, Bench, ids

from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import TaskState
from obsray.core.runtime.ownership import PENDING, READY, Entry, Task
from obsray.core.runtime.serialization import load_error
from obsray.core.runtime.verdicts import tasks_begun
from obsray.errors import (
    ObjectLostError,
    ObjectReconstructionFailedLineageEvictedError,
    ObjectReconstructionFailedMaxAttemptsExceededError,
)
from obsray.ids import mark_of, object_id, task_id
from obsray.telemetry.events import DeathCause

SIZE = 3 << 20
NODE = mark_of(WORKER) + b"rest"


class Sink:
    """Waits for an entry."""

    def __init__(self, bench: Bench, entry: Entry) -> None:
        self.told = 0
        bench.ownership.wait_for(entry, self)

    def on_ready(self, entry: Entry) -> None:
        self.told += 1


def finish(bench: Bench, *tasks: Task) -> None:
    """Have these run and return large values."""
    if not bench.dispatcher.leases:
        bench.grant()
    for task in tasks:
        bench.run()
        bench.done(task, value=SIZE)
    bench.run()
    bench.take()


def finished(bench: Bench, **options: object) -> Task:
    (task,) = bench.submit(**options)
    finish(bench, task)
    return task


def lose(bench: Bench, *tasks: Task) -> None:
    for task in tasks:
        bench.dispatcher.lineage.lost(task.entries[0], "its file is gone")


def check(bench: Bench) -> None:
    bench.check()
    bench.dispatcher.lineage.check_invariants()


def test_a_lost_result_is_made_again_once_somebody_waits_for_it():
    bench = Bench()
    task = finished(bench, retries=1)
    lose(bench, task)
    bench.run()
    assert bench.pushed() == [] and task.entries[0].state == PENDING
    check(bench)
    sink = Sink(bench, task.entries[0])
    bench.run()
    assert bench.pushed() == [task.id] and (task.attempt, task.retries_left) == (1, 0)
    bench.done(task, value=SIZE)
    assert sink.told == 1 and task.entries[0].state == READY
    check(bench)


def test_a_lost_item_of_a_stream_is_back_as_soon_as_its_task_yields_it_again_for_whatever_reason():
    bench = Bench()
    (task,) = bench.submit(retries=2)
    bench.grant()
    bench.run()
    item = bench.ownership.entries[task.id + b"\0\0\0\1"] = Entry(task.id + b"\0\0\0\1", True)
    item.local, lineage = 1, bench.dispatcher.lineage
    lineage.item_stored(task.id, item, WORKER)
    bench.ownership.fulfil(item, SIZE)
    lineage.lost(item, "its node died")
    sink = Sink(bench, item)
    assert (item.state, sink.told) == (PENDING, 0)
    assert lineage.item_again(task.id, 0, SIZE, (), WORKER) and (item.state, sink.told) == (READY, 1)
    assert not lineage.item_again(task.id, 0, SIZE, (), WORKER), "it is there"
    assert not lineage.item_again(task.id, 1, SIZE, (), WORKER), "there never was one"
    check(bench)


def test_a_lost_item_that_its_task_does_not_yield_again_is_an_error_and_its_node_may_forget_it():
    bench = Bench()
    (task,) = bench.submit(retries=2)
    task.returns = -1
    bench.grant()
    bench.run()
    lineage, entries = bench.dispatcher.lineage, bench.ownership.entries
    first, second = (
        entries.setdefault(each, Entry(each, True)) for each in (object_id(task.id, 1), object_id(task.id, 2))
    )
    for item in (first, second):
        item.local = 1
        lineage.item_stored(task.id, item, WORKER)
        bench.ownership.fulfil(item, SIZE)
    bench.done(task)
    for item in (first, second):
        lineage.lost(item, "its node died")
    Sink(bench, first)
    bench.run()
    bench.take()
    assert lineage.item_again(task.id, 0, SIZE, (), WORKER)
    bench.done(task)
    bench.ownership.settle()
    assert second.failed and [message.objects for message in bench.take(m.FreeObjects)] == [[second.id]]
    check(bench)


def test_without_retries_it_is_an_error():
    bench = Bench()
    task = finished(bench)
    lose(bench, task)
    Sink(bench, task.entries[0])
    error = load_error(task.entries[0].value)
    assert isinstance(error, ObjectReconstructionFailedMaxAttemptsExceededError) and "its file is gone" in str(error)
    assert bench.take(m.FreeObjects) == [m.FreeObjects([task.entries[0].id])]


def test_the_oldest_tasks_are_forgotten_when_there_are_too_many():
    bench = Bench(lineage_bytes_max=2500)
    tasks = [finished(bench, retries=1) for _ in range(3)]
    check(bench)
    lose(bench, *tasks)
    sinks = [Sink(bench, task.entries[0]) for task in tasks]
    error = load_error(tasks[0].entries[0].value)
    assert isinstance(error, ObjectReconstructionFailedLineageEvictedError) and "lineage_bytes_max" in str(error)
    assert [sink.told for sink in sinks] == [1, 0, 0]


def test_room_of_a_value_that_is_only_remembered_is_free_and_it_is_made_again_before_what_needs_it():
    bench = Bench()
    first = finished(bench, retries=1)
    second = finished(bench, retries=1, arguments=list(first.entries))
    bench.ownership.drop_local([first.entries[0].id])
    assert bench.take(m.FreeObjects) == [m.FreeObjects([first.entries[0].id])]
    check(bench)
    lose(bench, second)
    Sink(bench, second.entries[0])
    bench.run()
    assert bench.pushed() == [first.id] and second.state is TaskState.WAITING_ARGUMENTS
    bench.done(first, value=SIZE)
    bench.run()
    assert bench.pushed() == [second.id]
    bench.done(second, value=SIZE)
    check(bench)
    bench.ownership.drop_local([second.entries[0].id])
    assert not bench.ownership.entries and not bench.dispatcher.lineage.remembered
    check(bench)


def test_what_was_put_stays_as_long_as_a_task_might_need_it_again():
    bench = Bench()
    put = Entry(object_id(task_id(ME, 1, 1)), True)
    put.local = 1
    bench.ownership.put(put, SIZE, ())
    task = finished(bench, retries=1, arguments=[put])
    bench.ownership.drop_local([put.id])
    assert bench.take(m.FreeObjects) == []
    bench.ownership.drop_local([task.entries[0].id])
    (freed,) = bench.take(m.FreeObjects)
    assert set(freed.objects) == {put.id, task.entries[0].id}


def test_a_chain_longer_than_the_stack_is_forgotten_at_once():
    bench = Bench()
    last = finished(bench, retries=1)
    for _ in range(3000):
        before, last = last, finished(bench, retries=1, arguments=list(last.entries))
        bench.ownership.drop_local([before.entries[0].id])
    bench.ownership.drop_local([last.entries[0].id])
    assert not bench.ownership.entries and not bench.dispatcher.lineage.remembered


def test_an_attempt_given_back_waits_for_its_argument_and_uses_up_no_retry():
    bench = Bench()
    first = finished(bench, retries=1)
    (second,) = bench.submit(arguments=list(first.entries))
    bench.run()
    assert bench.pushed() == [second.id]
    lose(bench, first)
    bench.dispatcher.argument_lost(WORKER, second, first.entries[0].id, "it is gone", 0)
    bench.run()
    assert bench.pushed() == [first.id] and second.state is TaskState.WAITING_ARGUMENTS
    bench.done(first, value=SIZE)
    bench.run()
    assert bench.pushed() == [second.id] and second.attempt == 0
    check(bench)


def test_an_argument_that_can_never_be_read_ends_the_task():
    bench = Bench()
    first = finished(bench)
    (second,) = bench.submit(arguments=list(first.entries))
    for _ in range(11):
        bench.run()
        assert bench.pushed() == [second.id]
        bench.dispatcher.argument_lost(WORKER, second, first.entries[0].id, "no room", 0)
    error = load_error(second.entries[0].value)
    assert isinstance(error, ObjectLostError) and "no room" in str(error)
    check(bench)


def test_all_that_was_at_a_node_that_died_may_have_run():
    bench = Bench()
    tasks = [bench.make() for _ in range(3)]
    death = m.WorkerDied(WORKER, 0, int(DeathCause.NODE_DIED), 0, 0, [], "node x died: no heartbeat for 3 s", "")
    assert tasks_begun(tasks, death) == 3


def test_a_task_goes_to_where_most_bytes_of_its_arguments_are():
    bench = Bench()
    bench.dispatcher.node_ids[mark_of(WORKER)] = NODE
    there = finished(bench, retries=1)
    near, *_ = bench.submit(arguments=list(there.entries))
    (defined,) = bench.take(m.DefineShape)
    assert defined.placement == {"near": NODE, "near_bytes": 1 << 21} and defined.resources == CPU
    again, plain = *bench.submit(arguments=list(there.entries)), *bench.submit()
    assert again.shape is near.shape is not plain.shape and bench.take(m.DefineShape) == []


def test_small_arguments_and_those_that_are_here_lead_nowhere():
    bench = Bench()
    bench.dispatcher.node_ids[mark_of(WORKER)] = NODE
    (small,) = bench.submit()
    finish(bench, small)
    small.entries[0].value = 1000
    (task,) = bench.submit(arguments=list(small.entries))
    here = Entry(object_id(task_id(ME, 1, 1)), True)
    bench.ownership.put(here, 9 * SIZE, ())
    both = finished(bench, retries=1)
    (other,) = bench.submit(arguments=[here, *both.entries])
    assert task.shape is other.shape is bench.shape


def test_a_worker_for_spread_tasks_runs_one_and_goes_back():
    bench = Bench()
    bench.shape = bench.dispatcher.shape("f spread", CPU, None, "spread", {"spread": True})
    tasks = bench.submit(3)
    bench.grant(WORKER)
    bench.grant(OTHER)
    bench.run()
    assert bench.pushed() == ids(tasks[:2])
    bench.done(tasks[0])
    bench.run()
    told = bench.take()
    assert [each.lease for each in told if isinstance(each, m.LeaseReturn)] == [1]
    assert not [each for each in told if isinstance(each, m.Push)]
    check(bench)
