"""The ownership machine: who holds what, and when it ends."""

from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import TaskState
from obsray.core.runtime.ownership import NODE, READY, Entry, Ownership, Task
from obsray.ids import object_id, task_id

ME, PEER, THIRD = b"me__here", b"peerhere", b"thrdhere"


class Sink:
    """Collects what it was told."""

    def __init__(self) -> None:
        self.seen: list[Entry] = []

    def on_ready(self, entry: Entry) -> None:
        self.seen.append(entry)


class Function:
    name = "f"


def made(ownership: Ownership, number: int, value: bytes | int | None = None) -> Entry:
    """An owned object with one local reference."""
    entry = Entry(object_id(task_id(ME, number)), True)
    entry.local = 1
    ownership.entries[entry.id] = entry
    ownership.pending.add(entry.id)
    if value is not None:
        ownership.fulfil(entry, value)
    return entry


def sent(ownership: Ownership) -> list[tuple[bytes, object]]:
    ownership.settle()
    found = [(destination, m.decode(message)) for destination, message in ownership.outbox]
    ownership.outbox.clear()
    return found


def test_an_object_is_freed_when_its_last_local_reference_goes() -> None:
    ownership = Ownership(ME)
    entry = made(ownership, 1, 5_000_000)
    ownership.drop_local([entry.id])
    assert entry.id not in ownership.entries
    assert sent(ownership) == [(NODE, m.FreeObjects([entry.id]))]


def test_an_inline_value_is_freed_without_asking_the_node() -> None:
    ownership = Ownership(ME)
    ownership.drop_local([made(ownership, 1, b"\x80x").id])
    assert sent(ownership) == [] and not ownership.entries


def test_an_object_whose_task_still_runs_ends_only_when_the_task_does() -> None:
    ownership = Ownership(ME)
    entry = made(ownership, 1)
    ownership.drop_local([entry.id])
    assert entry.id in ownership.entries
    ownership.fulfil(entry, 9_000_000)
    assert entry.id not in ownership.entries
    assert sent(ownership) == [(NODE, m.FreeObjects([entry.id]))]


def test_a_holder_elsewhere_keeps_the_object() -> None:
    ownership = Ownership(ME)
    entry = made(ownership, 1, b"\x80x")
    ownership.add_holder(entry.id, PEER)
    ownership.drop_local([entry.id])
    assert entry.id in ownership.entries
    ownership.add_holder(entry.id, PEER, -1)
    assert entry.id not in ownership.entries


def test_a_release_that_overtakes_its_registration_does_not_end_the_object_early() -> None:
    ownership = Ownership(ME)
    entry = made(ownership, 1, b"\x80x")
    ownership.add_holder(entry.id, PEER, -1)
    ownership.add_holder(entry.id, PEER)
    assert entry.id in ownership.entries and not ownership.holders[entry.id]
    ownership.drop_local([entry.id])
    assert entry.id not in ownership.entries


def test_the_death_of_a_holder_is_a_release_and_later_registrations_of_it_do_not_count() -> None:
    ownership = Ownership(ME)
    entry = made(ownership, 1, b"\x80x")
    ownership.add_holder(entry.id, PEER)
    ownership.drop_local([entry.id])
    ownership.worker_died(PEER)
    assert entry.id not in ownership.entries
    other = made(ownership, 2, b"\x80x")
    ownership.add_holder(other.id, PEER)
    ownership.drop_local([other.id])
    assert other.id not in ownership.entries


def test_a_value_keeps_what_it_refers_to() -> None:
    ownership = Ownership(ME)
    inner = made(ownership, 1, b"\x80x")
    outer = Entry(object_id(task_id(ME, 2)), True)
    outer.local = 1
    ownership.put(outer, b"\x80y", [inner.id])
    ownership.drop_local([inner.id])
    assert inner.id in ownership.entries
    ownership.drop_local([outer.id])
    assert not ownership.entries


def test_a_borrower_releases_as_often_as_it_was_registered() -> None:
    ownership = Ownership(ME)
    inner = object_id(task_id(THIRD, 7))
    first, second = made(ownership, 1), made(ownership, 2)
    ownership.fulfil(first, b"\x80x", False, (inner,))
    ownership.fulfil(second, b"\x80x", False, (inner,))
    ownership.drop_local([first.id])
    assert sent(ownership) == []
    ownership.drop_local([second.id])
    assert sent(ownership) == [(THIRD, m.ReleaseHolders([inner, inner]))]


def test_handing_out_registers_the_receiver_with_each_owner_also_if_it_is_the_receiver_itself() -> None:
    ownership = Ownership(ME)
    mine = made(ownership, 1, b"\x80x")
    theirs, foreign = object_id(task_id(PEER, 1)), object_id(task_id(THIRD, 1))
    ownership.hand_out([mine.id, theirs, foreign], PEER)
    assert ownership.holders[mine.id] == {PEER: 1}
    assert sent(ownership) == [(PEER, m.AddHolder([theirs], PEER)), (THIRD, m.AddHolder([foreign], PEER))]


def test_a_reference_on_its_way_back_to_its_owner_lives_although_the_sender_has_let_go() -> None:
    ownership = Ownership(ME)
    mine = made(ownership, 1, b"\x80x")
    ownership.add_holder(mine.id, PEER)
    ownership.drop_local([mine.id])
    # The sender registers the journey and then releases its own hold; the value itself takes longer.
    ownership.depart(mine.id, PEER)
    ownership.add_holder(mine.id, PEER, -1)
    assert mine.id in ownership.entries
    result = made(ownership, 2)
    ownership.fulfil(result, b"\x80y", False, (mine.id,))
    ownership.arrive([mine.id], PEER)
    assert mine.id in ownership.entries
    ownership.drop_local([result.id])
    assert not ownership.entries


def test_a_reference_in_a_value_that_a_process_sends_to_itself_lives_until_the_value_arrives_and_no_longer() -> None:
    ownership = Ownership(ME)
    mine, result = made(ownership, 1, b"\x80x"), made(ownership, 2)
    ownership.hand_out([mine.id], ME)
    # The task that made it is over, and what it returned has not been taken out.
    ownership.drop_local([mine.id])
    ownership.fulfil(result, b"\x80y", False, (mine.id,))
    ownership.arrive([mine.id], ME)
    assert mine.id in ownership.entries and not ownership.holders.get(mine.id)
    ownership.drop_local([result.id])
    assert not ownership.entries
    refused = made(ownership, 3, b"\x80x")
    ownership.hand_out([refused.id], ME)
    ownership.drop_local([refused.id])
    ownership.refuse([refused.id], ME)
    assert not ownership.entries


def test_what_a_task_that_ran_here_keeps_of_its_arguments_is_registered_with_others_only() -> None:
    ownership = Ownership(ME)
    mine, foreign = made(ownership, 1, b"\x80x"), object_id(task_id(THIRD, 1))
    ownership.register([mine.id, foreign], ME)
    assert sent(ownership) == [(THIRD, m.AddHolder([foreign], ME))]
    ownership.drop_local([mine.id])
    assert not ownership.entries


def test_a_value_that_is_faster_than_the_news_of_its_references_does_not_end_what_the_sender_still_holds() -> None:
    ownership = Ownership(ME)
    mine, result = made(ownership, 1, b"\x80x"), made(ownership, 2)
    ownership.add_holder(mine.id, PEER)
    ownership.fulfil(result, b"\x80y", False, (mine.id,))
    ownership.arrive([mine.id], PEER)
    ownership.drop_local([mine.id, result.id])
    assert mine.id in ownership.entries
    ownership.depart(mine.id, PEER)
    assert mine.id in ownership.entries
    ownership.add_holder(mine.id, PEER, -1)
    assert not ownership.entries


def test_the_death_of_a_sender_ends_the_journeys_of_what_it_sent() -> None:
    ownership = Ownership(ME)
    mine = made(ownership, 1, b"\x80x")
    ownership.depart(mine.id, PEER)
    ownership.drop_local([mine.id])
    assert mine.id in ownership.entries
    ownership.worker_died(PEER)
    assert not ownership.entries


def test_references_in_a_value_that_nobody_wants_are_given_up() -> None:
    ownership = Ownership(ME)
    mine = made(ownership, 1, b"\x80x")
    foreign = object_id(task_id(THIRD, 1))
    ownership.depart(mine.id, PEER)
    ownership.refuse([mine.id, foreign], PEER)
    ownership.drop_local([mine.id])
    assert not ownership.entries
    assert sent(ownership) == [(THIRD, m.ReleaseHolders([foreign]))]


def test_a_borrowed_value_is_asked_for_once() -> None:
    ownership = Ownership(ME)
    entry = ownership.entry(object_id(task_id(PEER, 1)))
    entry.local = 1
    one, two = Sink(), Sink()
    ownership.wait_for(entry, one)
    ownership.wait_for(entry, two)
    assert sent(ownership) == [(PEER, m.GetObject(entry.id))]
    ownership.fulfil(entry, b"\x80x")
    assert one.seen == two.seen == [entry]


def test_an_owner_answers_when_the_value_exists_and_says_so_when_it_never_will() -> None:
    ownership = Ownership(ME)
    entry = made(ownership, 1)
    ownership.asked_for(entry.id, PEER)
    assert sent(ownership) == []
    ownership.fulfil(entry, b"\x80x")
    assert sent(ownership) == [(PEER, m.ObjectValue(entry.id, b"\x80x", []))]
    ownership.asked_for(object_id(task_id(ME, 99)), PEER)
    ((_, answer),) = sent(ownership)
    assert answer.value is None and "freed" in answer.error


def test_what_a_dead_owner_had_promised_fails() -> None:
    ownership = Ownership(ME)
    entry = ownership.entry(object_id(task_id(PEER, 1)))
    entry.local = 1
    sink = Sink()
    ownership.wait_for(entry, sink)
    ownership.owner_lost(PEER, lambda identifier: b"\x02gone")
    assert sink.seen == [entry] and entry.failed and entry.value == b"\x02gone"


def test_what_a_dead_owner_had_in_the_store_fails_with_its_death() -> None:
    ownership = Ownership(ME)
    stored, inline = (ownership.entry(object_id(task_id(PEER, number))) for number in (1, 2))
    stored.local = inline.local = 1
    ownership.fulfil(stored, 300_000)
    ownership.fulfil(inline, b"\x80x")
    ownership.owner_lost(PEER, lambda identifier: b"\x02gone")
    assert stored.failed and stored.value == b"\x02gone"
    assert not inline.failed and inline.value == b"\x80x"


def test_a_task_waits_for_its_arguments_and_pins_them_until_it_ends() -> None:
    ownership = Ownership(ME)
    argument = made(ownership, 1)
    task = Task(task_id(ME, 2), Function(), None, b"", 1)
    result = Entry(object_id(task.id), True)
    task.entries, task.arguments, task.pinned = (result,), [(0, argument)], [argument]
    argument.pins += 1
    woken: list[Task] = []
    task.ready = lambda t, entry: woken.append(t)
    ownership.add_task(task)
    assert task.state is TaskState.WAITING_ARGUMENTS
    ownership.check_invariants()
    ownership.drop_local([argument.id])
    ownership.fulfil(argument, 1_000_000)
    assert woken == [task] and argument.id in ownership.entries
    task.state = TaskState.DISPATCHED
    ownership.finish(task, TaskState.FINISHED)
    assert argument.id not in ownership.entries
    ownership.check_invariants()


def test_a_second_value_for_an_object_is_ignored() -> None:
    ownership = Ownership(ME)
    entry = made(ownership, 1, b"\x80first")
    ownership.fulfil(entry, b"\x80second")
    assert entry.value == b"\x80first" and entry.state == READY


def test_an_owner_whose_connection_broke_is_asked_again_for_what_somebody_waits_for() -> None:
    ownership = Ownership(ME)
    wanted, unwanted = (ownership.entry(object_id(task_id(PEER, number))) for number in (1, 2))
    for entry in (wanted, unwanted):
        entry.local = 1
        ownership.wait_for(entry, Sink())
    unwanted.waiters = None
    assert len(sent(ownership)) == 2
    ownership.ask_again(PEER)
    assert sent(ownership) == [(PEER, m.GetObject(wanted.id))]
    assert not wanted.failed and not unwanted.requested
    ownership.ask_again(THIRD)
    assert sent(ownership) == []
