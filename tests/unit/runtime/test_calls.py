"""Calls of actors: in order, at most once unless asked for, and never lost."""

from __future__ import annotations

from typing import Any

import pytest
from owner_bench import ME, OTHER, WORKER, Bench, death, ids

from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import ActorState, TaskState
from obsray.core.runtime.calls import IN_FLIGHT_MAX
from obsray.core.runtime.serialization import load_error
from obsray.errors import ActorDiedError, ActorUnavailableError, TaskCancelledError
from obsray.ids import NIL_TASK, task_id
from obsray.telemetry.events import DeathCause

THIRD = b"third___"


def states(tasks: list[Any]) -> list[str]:
    return [task.state.name for task in tasks]


def test_calls_wait_until_the_actor_lives_and_then_go_in_order():
    bench = Bench()
    client = bench.calls.client(task_id(ME, 1, 2), "Counter", created_here=True)
    tasks = bench.call(client, 3)
    bench.run()
    assert bench.pushed() == []
    bench.changed(client, ActorState.ALIVE)
    bench.run()
    assert bench.pushed() == ids(tasks)
    bench.check()


def test_who_got_a_handle_asks_the_node_once_where_the_actor_is():
    bench = Bench()
    actor = task_id(OTHER, 1, 2)
    bench.calls.client(actor, "Counter")
    bench.calls.client(actor, "Counter")
    assert bench.take() == [m.WatchActor(actor)]


def test_an_argument_that_is_missing_holds_up_the_calls_behind_it():
    bench = Bench()
    client = bench.actor()
    (source,) = bench.submit()
    first = bench.call(client, 1, arguments=[source.entries[0]])
    others = bench.call(client, 2)
    bench.grant(OTHER)
    bench.run()
    assert bench.pushed() == [source.id]
    bench.done(source, worker=OTHER)
    bench.run()
    assert bench.pushed() == ids(first + others)
    bench.check()


def test_an_actor_without_order_lets_calls_overtake_one_that_waits_for_its_argument():
    bench = Bench()
    client = bench.actor()
    client.ordered = False
    (source,) = bench.submit()
    first = bench.call(client, 1, arguments=[source.entries[0]])
    others = bench.call(client, 2)
    bench.run()
    assert bench.pushed() == ids(others)
    bench.grant(OTHER)
    bench.done(source, worker=OTHER)
    bench.run()
    assert bench.pushed()[-1:] == ids(first)
    bench.check()


def test_a_failed_argument_fails_its_call_and_the_others_go_on():
    bench = Bench()
    client = bench.actor()
    (source,) = bench.submit()
    (first,) = bench.call(client, 1, arguments=[source.entries[0]])
    others = bench.call(client, 2)
    bench.grant(OTHER)
    bench.run()
    bench.take()
    bench.failed(source, worker=OTHER)
    bench.run()
    assert first.state is TaskState.FAILED and bench.pushed() == ids(others)
    bench.check()


def test_an_actor_never_waits_for_what_was_collected_for_it():
    bench = Bench()
    client = bench.actor()
    (first,) = bench.call(client)
    bench.run()
    assert bench.pushed() == [first.id]
    # Their arguments come one by one while the actor runs.
    sources = bench.submit(3)
    second, *others = [bench.call(client, 1, arguments=[source.entries[0]])[0] for source in sources]
    bench.grant(OTHER)
    bench.run()
    bench.take()
    bench.done(sources[0], worker=OTHER)
    bench.turn()
    assert second.id in bench.pushed()
    for source in sources[1:]:
        bench.run()
        bench.done(source, worker=OTHER)
        bench.turn()
    bench.take()
    bench.done(first, second)
    bench.turn()
    assert all(task.id in client.in_flight for task in others) and not client.outgoing
    bench.check()


def test_calls_beyond_the_most_in_flight_follow_as_answers_come():
    bench = Bench()
    client = bench.actor()
    tasks = bench.call(client, IN_FLIGHT_MAX + 2)
    bench.run()
    assert len(bench.pushed()) == IN_FLIGHT_MAX
    bench.done(*tasks[:2])
    bench.run()
    assert bench.pushed() == ids(tasks[IN_FLIGHT_MAX:])


# --- the death of its process -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "begun"),
    [
        ("my second call", 2),
        ("a call of mine that was answered", 0),
        ("nothing", 0),
        # It may have run after all of mine whose answers were lost.
        ("a call of somebody else", 4),
        ("nobody knows", 4),
    ],
)
def test_after_a_death_only_calls_that_may_have_run_use_up_a_retry(last, begun):
    bench = Bench()
    client = bench.actor()
    (answered,) = bench.call(client)
    tasks = bench.call(client, 4, retries=1)
    bench.run()
    bench.done(answered)
    started = {
        "my second call": [tasks[1].id],
        "a call of mine that was answered": [answered.id],
        "nothing": [NIL_TASK],
        "a call of somebody else": [task_id(THIRD, 1)],
        "nobody knows": [],
    }[last]
    bench.changed(client, ActorState.RESTARTING)
    bench.calls.worker_died(death(WORKER)._replace(started=started))
    assert [task.retries_left for task in tasks] == [0] * begun + [1] * (4 - begun)
    assert ids(list(client.queue)) == ids(tasks)
    bench.check()


@pytest.mark.parametrize("first", ["the death", "the restart"])
def test_no_call_that_may_not_be_repeated_waits_for_a_restart(first):
    bench = Bench()
    client = bench.actor()
    (source,) = bench.submit()
    begun, not_begun = bench.call(client, 2)
    (repeated,) = bench.call(client, 1, retries=1)
    bench.run()
    news = [
        lambda: bench.calls.worker_died(death(WORKER, begun.id)),
        lambda: bench.changed(client, ActorState.RESTARTING),
    ]
    if first == "the restart":
        news.reverse()
    news[0]()
    # The news are not complete: nobody knows it, or they are refused at once.
    (between,) = bench.call(client)
    (waits,) = bench.call(client, 1, arguments=[source.entries[0]])
    news[1]()
    for task, said in (begun, "may have had its effect"), (not_begun, "not made"), (between, "not made"):
        error = load_error(task.entries[0].value)
        assert isinstance(error, ActorUnavailableError) and said in str(error)
    assert ids(list(client.queue)) == [repeated.id, waits.id]
    bench.grant(OTHER)
    bench.run()
    bench.done(source, worker=OTHER)
    assert isinstance(load_error(waits.entries[0].value), ActorUnavailableError)
    bench.changed(client, ActorState.ALIVE, OTHER)
    bench.pushed()
    bench.run()
    assert bench.pushed() == [repeated.id]
    bench.check()


def test_a_call_that_was_repeated_already_waits_for_the_restart_it_was_promised():
    bench = Bench()
    client = bench.actor()
    (task,) = bench.call(client, 1, retries=1)
    bench.run()
    bench.calls.worker_died(death(WORKER, task.id))
    bench.changed(client, ActorState.RESTARTING)
    assert (task.retries_left, task.attempt, ids(list(client.queue))) == (0, 1, [task.id])
    bench.check()


def test_calls_of_an_actor_whose_first_process_never_got_through_its_constructor_wait_for_the_next():
    bench = Bench()
    client = bench.calls.client(task_id(ME, 1, 2), "Counter", created_here=True)
    tasks = bench.call(client, 2)
    bench.changed(client, ActorState.RESTARTING)
    bench.changed(client, ActorState.ALIVE, OTHER)
    bench.run()
    assert bench.pushed() == ids(tasks)


def test_calls_that_may_be_retried_run_again_first_and_in_order():
    bench = Bench()
    client = bench.actor()
    tasks = bench.call(client, 3, retries=1)
    bench.run()
    bench.pushed()
    bench.calls.worker_died(death(WORKER, tasks[1].id))
    later = bench.call(client, 1, retries=1)
    bench.changed(client, ActorState.RESTARTING)
    bench.run()
    assert bench.pushed() == []
    bench.changed(client, ActorState.ALIVE, OTHER)
    bench.run()
    assert bench.pushed() == ids(tasks + later)
    assert [task.attempt for task in tasks] == [1, 1, 0]
    bench.check()


def test_a_new_call_to_an_actor_that_restarts_waits_only_if_it_may_be_retried():
    bench = Bench()
    client = bench.actor()
    bench.changed(client, ActorState.RESTARTING)
    (refused,) = bench.call(client)
    (waits,) = bench.call(client, retries=1)
    assert isinstance(load_error(refused.entries[0].value), ActorUnavailableError)
    assert ids(list(client.queue)) == [waits.id]
    bench.check()


def test_calls_that_overtook_others_are_sorted_by_when_they_were_pushed():
    bench = Bench()
    client = bench.actor()
    client.ordered = False
    (source,) = bench.submit()
    (overtaken,) = bench.call(client, 1, arguments=[source.entries[0]])
    first, second = bench.call(client, 2, retries=1)
    bench.run()
    assert bench.pushed() == [first.id, second.id]
    bench.changed(client, ActorState.RESTARTING)
    bench.calls.worker_died(death(WORKER, first.id))
    assert states([first, second, overtaken]) == ["QUEUED", "QUEUED", "WAITING_ARGUMENTS"]
    assert [first.retries_left, second.retries_left] == [0, 1]
    bench.check()


def test_what_was_in_flight_is_repeated_elsewhere_only_if_it_may_be():
    """The news of the death of the old process, of another node, come after those of the new one."""
    bench = Bench()
    client = bench.actor()
    (lost,), again = bench.call(client), bench.call(client, 2, retries=1)
    bench.run()
    bench.pushed()
    bench.changed(client, ActorState.RESTARTING)
    bench.changed(client, ActorState.ALIVE, OTHER)
    bench.run()
    assert isinstance(load_error(lost.entries[0].value), ActorUnavailableError)
    assert bench.pushed() == ids(again)
    bench.calls.worker_died(death(WORKER))
    bench.run()
    assert bench.pushed() == []
    bench.check()


@pytest.mark.parametrize(
    ("cause", "error", "said"),
    [
        (DeathCause.OWNER_DIED, ActorDiedError, "was killed: its owner's node died while the call was running"),
        (DeathCause.KILLED_BY_REQUEST, ActorUnavailableError, "was killed on request: its owner's node died while"),
    ],
)
def test_a_call_that_lost_its_actor_hears_what_for_and_of_a_new_start_only_if_somebody_is_left_for_it(
    cause: DeathCause, error: type[Exception], said: str
):
    """The news of the process come before those of the actor, which its node sends."""
    bench = Bench()
    client = bench.actor()
    (lost,) = bench.call(client)
    bench.run()
    bench.calls.worker_died(death(WORKER, lost.id)._replace(cause=cause, detail="its owner's node died"))
    value = load_error(lost.entries[0].value)
    assert type(value) is error and said in str(value)
    assert ("starts again" in str(value)) == (error is ActorUnavailableError)


def test_calls_wait_while_an_actor_has_lost_its_process_and_nobody_has_said_what_becomes_of_it():
    bench = Bench()
    client = bench.actor()
    bench.calls.worker_died(death(WORKER))
    tasks = bench.call(client, 2, retries=1)
    bench.run()
    assert bench.pushed() == []
    bench.changed(client, ActorState.RESTARTING)
    bench.changed(client, ActorState.ALIVE, OTHER)
    bench.run()
    assert bench.pushed() == ids(tasks)


def test_every_call_of_a_dead_actor_fails_and_says_why():
    bench = Bench()
    client = bench.actor()
    in_flight = bench.call(client, 2)
    bench.run()
    (source,) = bench.submit()
    waiting = bench.call(client, 1, arguments=[source.entries[0]])
    bench.changed(client, ActorState.DEAD, detail="it was killed")
    late = bench.call(client, 1)
    for task in in_flight + waiting + late:
        error = load_error(task.entries[0].value)
        assert isinstance(error, ActorDiedError) and "it was killed" in str(error)
    bench.check()


def test_what_calls_of_a_dead_actor_stored_is_freed_once_its_process_can_store_no_more():
    bench = Bench()
    client = bench.actor()
    tasks = bench.call(client, 2)
    bench.run()
    bench.take()
    bench.changed(client, ActorState.DEAD, detail="it was killed")
    assert bench.take(m.FreeObjects) == []
    bench.calls.worker_died(death(WORKER))
    assert bench.take(m.FreeObjects) == [m.FreeObjects([task.entries[0].id for task in tasks])]


def test_an_answer_that_comes_after_the_actor_was_declared_dead_changes_nothing():
    bench = Bench()
    client = bench.actor()
    (task,) = bench.call(client)
    bench.run()
    bench.changed(client, ActorState.DEAD, detail="it was killed")
    error = task.entries[0].value
    bench.done(task)
    assert task.entries[0].value == error and task.state is TaskState.FAILED


# --- cancelling ---------------------------------------------------------------------------------------------


def test_a_call_that_waits_is_cancelled_and_the_next_one_takes_its_place():
    bench = Bench()
    client = bench.calls.client(task_id(ME, 1, 2), "Counter", created_here=True)
    first, second = bench.call(client, 2)
    bench.calls.cancel(first, True, 0)
    assert isinstance(load_error(first.entries[0].value), TaskCancelledError)
    bench.changed(client, ActorState.ALIVE)
    bench.run()
    assert bench.pushed() == [second.id]
    bench.check()


def test_a_call_that_runs_is_not_ended_by_force_because_others_use_the_process():
    bench = Bench()
    client = bench.actor()
    (task,) = bench.call(client)
    bench.run()
    bench.take()
    bench.calls.cancel_any(task, True, False, 0)
    assert bench.take() == [m.CancelTask(task.id, False)]


# --- connections that break ---------------------------------------------------------------------------------


def broke(bench: Bench) -> list[Any] | None:
    """The connection to WORKER broke, as the inbox does it; the calls in doubt."""
    bench.dispatcher.functions.pop(WORKER, None)
    unsent = bench.dispatcher.take_unsent(WORKER)
    bench.dispatcher.cut_off(WORKER, unsent)
    return bench.calls.connection_broke(WORKER, unsent)


def test_while_it_is_not_known_what_became_of_a_call_nothing_else_goes_to_the_actor():
    bench = Bench()
    client = bench.actor()
    first = bench.call(client, 2, retries=1)
    bench.run()
    assert bench.pushed() == ids(first)
    assert broke(bench) == first
    later = bench.call(client, 2)
    bench.run()
    assert bench.pushed() == []
    bench.calls.cut_off(WORKER, first)
    bench.run()
    out = bench.take()
    # A new connection knows no function yet; those that are repeated stay before the others.
    assert [type(message) for message in out] == [m.DefineFunction, m.Push]
    assert [fields[0] for fields in out[1].tasks] == ids(first + later)
    assert [task.attempt for task in first] == [1, 1]
    bench.check()


def test_calls_that_were_never_sent_are_not_in_doubt():
    bench = Bench()
    client = bench.actor()
    tasks = bench.call(client, 2)
    bench.calls.run(0)
    assert broke(bench) == [] and states(tasks) == ["QUEUED", "QUEUED"]
    bench.calls.cut_off(WORKER, [])
    bench.run()
    assert bench.pushed() == ids(tasks) and [task.attempt for task in tasks] == [0, 0]
    bench.check()


def test_a_call_that_may_not_be_repeated_fails_when_nobody_says_that_its_actor_died():
    bench = Bench()
    client = bench.actor()
    (task,) = bench.call(client)
    bench.run()
    assert bench.pushed() == [task.id]
    doubtful = broke(bench)
    bench.calls.cut_off(WORKER, doubtful)
    assert isinstance(load_error(task.entries[0].value), ActorUnavailableError)
    (later,) = bench.call(client)
    bench.run()
    assert later.id in bench.pushed()
    bench.check()


def test_an_actor_that_starts_again_elsewhere_is_called_at_once():
    bench = Bench()
    client = bench.actor()
    tasks = bench.call(client, retries=1)
    bench.run()
    assert bench.pushed() == ids(tasks)
    assert broke(bench) == tasks
    bench.calls.worker_died(death(WORKER, tasks[0].id))
    bench.changed(client, ActorState.RESTARTING)
    bench.changed(client, ActorState.ALIVE, OTHER)
    bench.run()
    assert bench.pushed() == ids(tasks)
    bench.check()


def test_tasks_that_wait_to_be_sent_go_back_in_line_and_the_worker_gets_nothing_more():
    bench = Bench()
    bench.grant()
    (task,) = bench.submit()
    bench.dispatcher.run(bench.now, 0)
    assert broke(bench) is None
    assert task.state is TaskState.QUEUED and task.attempt == 0
    bench.run()
    assert bench.pushed() == []
    bench.grant(OTHER)
    bench.run()
    assert bench.pushed() == [task.id]
    bench.check()


# --- processes that cannot be reached -----------------------------------------------------------------------


def pushes(bench: Bench) -> list[set[bytes]]:
    """What was to be sent to WORKER and is not: the calls of each push."""
    return [{wired[0] for wired in message.tasks} for message in bench.take() if isinstance(message, m.Push)]


def test_calls_that_could_not_be_sent_go_back_in_line_in_their_order_and_are_sent_again():
    bench = Bench()
    client = bench.actor()
    first = bench.call(client, 2)
    bench.calls.run(0)
    bench.calls.push_all(0)
    second = bench.call(client, 2)
    bench.run()
    third = bench.call(client, 1)
    bench.calls.run(0)
    told = [bench.calls.not_sent(WORKER, calls) for calls in pushes(bench)]
    assert told == [True] + [False] * (len(told) - 1) and len(told) > 1
    bench.run()
    assert bench.pushed() == [] and states(first + second + third) == ["QUEUED"] * 5
    assert bench.calls.send_again(WORKER)
    bench.run()
    assert bench.pushed() == ids(first + second + third) and [task.attempt for task in first] == [0, 0]
    bench.check()


def test_a_call_that_was_never_sent_does_not_count_when_its_actor_dies():
    bench = Bench()
    client = bench.actor()
    tasks = bench.call(client, 3, retries=1)
    bench.run()
    for calls in pushes(bench):
        bench.calls.not_sent(WORKER, calls)
    # Nobody knows what ran there last, so everything that was in flight counts as begun.
    bench.calls.worker_died(death(WORKER, task_id(OTHER, 1)))
    assert states(tasks) == ["QUEUED"] * 3
    bench.changed(client, ActorState.RESTARTING)
    bench.changed(client, ActorState.ALIVE, worker=OTHER)
    bench.run()
    assert bench.pushed() == ids(tasks) and [task.retries_left for task in tasks] == [1, 1, 1]
    bench.check()


def test_a_call_that_is_cancelled_while_its_actor_cannot_be_reached_is_never_sent():
    bench = Bench()
    client = bench.actor()
    first, second = bench.call(client, 2)
    bench.run()
    for calls in pushes(bench):
        bench.calls.not_sent(WORKER, calls)
    bench.calls.cancel(first, False, 0)
    bench.calls.send_again(WORKER)
    bench.run()
    assert isinstance(load_error(first.entries[0].value), TaskCancelledError) and bench.pushed() == [second.id]
    bench.check()


def test_an_actor_that_cannot_be_reached_for_too_long_is_not_waited_for_any_more():
    bench = Bench()
    client = bench.actor()
    (task,) = bench.call(client, retries=3)
    bench.run()
    for calls in pushes(bench):
        bench.calls.not_sent(WORKER, calls)
    bench.calls.send_again(WORKER, given_up=60.0)
    error = load_error(task.entries[0].value)
    assert isinstance(error, ActorUnavailableError) and "could not be reached for 60 s" in str(error)
    bench.check()
