"""What is said of holds over connections that break: it counts once, nothing is left, and nothing is freed too soon."""

from __future__ import annotations

from obsray.core.protocol import messages as m
from obsray.core.runtime.holds import Audit
from obsray.core.runtime.ownership import READY, Entry, Ownership
from obsray.ids import object_id, task_id

#: Of two nodes.
OWNER, HOLDER, GIVER = b"own1nod1", b"holdnod2", b"givenod3"


def owned(ownership: Ownership, number: int = 1) -> Entry:
    entry = Entry(object_id(task_id(OWNER, number)), True)
    entry.state, entry.value = READY, b"value"
    ownership.entries[entry.id] = entry
    return entry


def sent(ownership: Ownership, to: bytes) -> list:
    ownership.settle()
    found = [m.decode(message) for destination, message in ownership.outbox if destination == to]
    ownership.outbox.clear()
    return found


def hear(ownership: Ownership, sender: bytes, told: m.HoldsTold) -> int:
    """As the inbox does it: the number that is acknowledged."""
    counts, heard = ownership.correspondence.hear(sender, told.number)
    if counts and told.holder:
        ownership.audit.registered_abroad(told.holder, told.objects)
    for identifier in told.objects if counts else ():
        ownership.add_holder(identifier, told.holder or sender, 1 if told.holder else -1)
    return heard


def test_what_is_said_of_holds_is_said_again_until_it_is_heard_and_counts_once():
    owner, giver = Ownership(OWNER), Ownership(GIVER)
    entry = owned(owner)
    giver.tell_owner(OWNER, [entry.id], HOLDER)
    giver.tell_owner(OWNER, [entry.id], HOLDER)
    first, _ = sent(giver, OWNER)
    assert hear(owner, GIVER, first) == 1
    # The second was lost with the connection, and so was the acknowledgement of the first.
    giver.tell_owner(OWNER, [entry.id], HOLDER)
    giver.ask_again(OWNER)
    third, *again = sent(giver, OWNER)
    assert [told.number for told in again] == [1, 2, 3]
    # What overtook the rest does not count yet.
    assert [hear(owner, GIVER, told) for told in (third, *again)] == [1, 1, 2, 3]
    assert owner.holders[entry.id] == {HOLDER: 3}
    giver.correspondence.acknowledged(OWNER, 3)
    giver.ask_again(OWNER)
    assert sent(giver, OWNER) == [] and not giver.correspondence.unheard


def test_a_release_that_was_lost_with_its_connection_comes_with_the_next():
    owner, holder = Ownership(OWNER), Ownership(HOLDER)
    entry = owned(owner)
    owner.hand_out([entry.id], HOLDER)
    borrowed = holder.entry(entry.id)
    borrowed.registered = borrowed.local = 1
    holder.drop_local([entry.id])
    sent(holder, OWNER)
    holder.ask_again(OWNER)
    (told,) = sent(holder, OWNER)
    hear(owner, HOLDER, told)
    assert entry.id not in owner.entries and not owner.held_by[HOLDER]


def questions(ownership: Ownership, holder: bytes) -> list:
    ownership.look_at_holders()
    return sent(ownership, holder)


def test_a_hold_whose_value_never_came_ends_after_two_answers_and_not_before():
    owner, holder = Ownership(OWNER), Ownership(HOLDER)
    entry = owned(owner)
    owner.hand_out([entry.id], HOLDER)
    assert questions(owner, HOLDER) == []
    (asked,) = questions(owner, HOLDER)
    holder.say_what_is_held(OWNER, asked.number, asked.objects)
    (answer,) = sent(holder, OWNER)
    assert answer.counts == [0]
    assert owner.holder_says(HOLDER, answer.number, zip(answer.objects, answer.counts, strict=True)) == 0
    # The same answer once more, or one to an earlier question, says nothing new.
    (asked,) = questions(owner, HOLDER)
    assert owner.holder_says(HOLDER, answer.number, [(entry.id, 0)]) == 0 and entry.id in owner.entries
    assert owner.holder_says(HOLDER, asked.number, [(entry.id, 0)]) == 1
    assert entry.id not in owner.entries


def test_a_value_that_comes_between_two_answers_keeps_its_hold():
    owner = Ownership(OWNER)
    entry = owned(owner)
    owner.hand_out([entry.id], HOLDER)
    questions(owner, HOLDER)
    (asked,) = questions(owner, HOLDER)
    owner.holder_says(HOLDER, asked.number, [(entry.id, 0)])
    (asked,) = questions(owner, HOLDER)
    assert owner.holder_says(HOLDER, asked.number, [(entry.id, 1)]) == 0
    (asked,) = questions(owner, HOLDER)
    assert owner.holder_says(HOLDER, asked.number, [(entry.id, 0)]) == 0, "one contradiction is none"
    assert owner.holders[entry.id] == {HOLDER: 1}


def test_holders_at_the_same_node_are_not_asked():
    audit = Audit(OWNER)
    held = {b"samenod1": {b"object"}}
    for _ in range(3):
        assert audit.look(held, {b"object": {b"samenod1": 1}}) == ([], [])


def test_a_hold_at_the_same_node_whose_value_was_sent_from_another_and_never_came_ends_as_well():
    beside = b"besinod1"
    owner, holder, giver = Ownership(OWNER), Ownership(beside), Ownership(GIVER)
    lost, kept = owned(owner, 1), owned(owner, 2)
    giver.tell_owner(OWNER, [lost.id, kept.id], beside)
    (told,) = sent(giver, OWNER)
    hear(owner, GIVER, told)
    # Only the value with the second came.
    holder.entry(kept.id).registered = 1
    corrected = 0
    for look in range(3):
        asked = questions(owner, beside)
        assert len(asked) == min(look, 1)
        for each in asked:
            holder.say_what_is_held(OWNER, each.number, each.objects)
            (answer,) = sent(holder, OWNER)
            corrected += owner.holder_says(beside, answer.number, zip(answer.objects, answer.counts, strict=True))
    assert corrected == 1 and lost.id not in owner.entries
    assert owner.holders[kept.id] == {beside: 1}
    # What both agree on is not asked about again.
    assert questions(owner, beside) == questions(owner, beside) == []


def test_a_journey_that_lasts_for_three_looks_is_over():
    owner = Ownership(OWNER)
    entry = owned(owner)
    owner.depart(entry.id, HOLDER)
    assert [owner.look_at_holders() for _ in range(3)] == [0, 0, 1]
    assert entry.id not in owner.entries
