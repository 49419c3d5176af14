"""Objects across nodes: the directory at their home, pulls, copies, and what is lost with a node."""

from __future__ import annotations

import itertools
import random

import pytest
from cluster_bench import ClusterBench, Member
from node_bench import MIB, put_id

from obsray.core.node.directory import WAIT_SECONDS
from obsray.core.node.pulls import ATTEMPTS_MAX, IN_FLIGHT_MAX, Pulled
from obsray.core.node.step import (
    CutTransfers,
    PullObject,
    RefuseTransfer,
    RemoveFile,
    RestoreObject,
    ServeObject,
    SpillObject,
)
from obsray.core.protocol import messages as m
from obsray.core.protocol.fallback import FALLBACK
from obsray.core.protocol.lifecycle import NodeState, ObjectState
from obsray.ids import object_id, task_id

TOKENS = itertools.count(1)
LATE: dict[int, tuple[Member, bytes, bytes]] = {}


def write(member: Member, client: bytes, identifier: bytes, size: int = MIB) -> bytes:
    """A client of the node writes an object into its store."""
    member.send(client, m.CreateObject(1, identifier, size))
    (room,) = member.take(client, m.ObjectRoom)
    assert room.request == 1
    member.send(client, m.SealObject(identifier))
    return identifier


def pulls(member: Member) -> list[PullObject]:
    return member.take_effects(PullObject)


def transfer(cluster: ClusterBench, member: Member, pull: PullObject) -> str:
    """What the threads of two nodes do: the first source that has it sends all. Returns what went wrong."""
    failures = []
    for node, _ in pull.sources:
        source = cluster.member(node)
        if not source.up:
            failures.append((node, 0, "connection refused"))
            continue
        token = next(TOKENS)
        source.do(source.machine.transfer_asked, token, member.node, pull.object)
        for restore in source.take_effects(RestoreObject):
            source.do(source.machine.object_restored, restore.token, 0.0, "")
        answer = None
        for found in source.take_effects(ServeObject) + source.take_effects(RefuseTransfer):
            if found.token == token:
                answer = found
                LATE[token] = (source, member.node, pull.object)
            elif isinstance(found, ServeObject):
                give_back(source, found)
        if answer is None:
            LATE[token] = (source, member.node, pull.object)
            failures.append((node, 0, "it takes too long"))
            continue
        if isinstance(answer, RefuseTransfer):
            failures.append((node, 0, answer.error))
            continue
        assert answer.size == pull.size
        source.do(source.machine.transfer_over, member.node, pull.object, pull.size, 0.0, 0.1, "")
        member.do(member.machine.object_pulled, pull.token, Pulled((), node, 1, 0.1, tuple(failures)))
        return ""
    error = "; ".join(why for _, _, why in failures)
    result = Pulled(pull.missing, b"\0" * 8, 0, 0.1, tuple(failures), error)
    member.do(member.machine.object_pulled, pull.token, result)
    return error


def give_back(source: Member, answer: ServeObject) -> None:
    """The answer comes when nobody waits for it any more."""
    _, node, identifier = LATE[answer.token]
    source.do(source.machine.transfer_over, node, identifier, 0, 0.0, 0.0, "too late")


def settle(cluster: ClusterBench) -> None:
    """Messages arrive and transfers end until nothing moves."""
    cluster.settle()
    while begun := [(each, pull) for each in cluster.nodes if each.up for pull in pulls(each)]:
        for each, pull in begun:
            transfer(cluster, each, pull)
        cluster.settle()


def read(cluster: ClusterBench, member: Member, client: bytes, identifier: bytes, request: int = 5) -> object:
    member.send(client, m.PinObject(request, identifier))
    settle(cluster)
    answers = [each for each in member.take(client) if isinstance(each, m.ObjectPinned | m.ObjectRefused)]
    return answers[0] if answers else None


def holders(cluster: ClusterBench, identifier: bytes) -> list[int]:
    return [number for number, each in enumerate(cluster.nodes) if each.up and identifier in each.objects.entries]


def three() -> tuple[ClusterBench, list[bytes]]:
    cluster = ClusterBench({}, {}, {})
    return cluster, [each.driver(b"drv%d" % number) for number, each in enumerate(cluster.nodes)]


def test_an_object_of_another_node_is_pulled_when_somebody_wants_to_read_it():
    cluster, (owner, reader, _) = three()
    home, there, _ = cluster.nodes
    identifier = write(home, owner, put_id(owner, 1))
    pinned = read(cluster, there, reader, identifier)
    assert isinstance(pinned, m.ObjectPinned) and pinned.size == MIB
    assert there.objects.entries[identifier].copy
    assert list(home.machine.sharing.directory.places[identifier].nodes) == [there.node]
    names = [name for name, fields in there.records.events if name.startswith(("transfer_", "object_"))]
    assert names == ["transfer_asked", "transfer_begun", "transfer_done", "object_pinned"]
    (served,) = home.records.named("transfer_served")
    assert (served["destination"], served["sent_bytes"]) == (there.node, MIB)


def test_many_readers_share_one_pull():
    cluster, (owner, reader, _) = three()
    home, there, _ = cluster.nodes
    other = there.driver(b"drvX")
    identifier = write(home, owner, put_id(owner, 1))
    for request in range(3):
        there.send(reader, m.PinObject(request, identifier))
    cluster.settle()
    there.send(other, m.PinObject(9, identifier))
    (pull,) = pulls(there)
    transfer(cluster, there, pull)
    assert [each.request for each in there.take(reader, m.ObjectPinned)] == [0, 1, 2]
    assert [each.request for each in there.take(other, m.ObjectPinned)] == [9]


def test_what_is_made_elsewhere_is_found_through_its_home():
    cluster, (owner, maker, reader) = three()
    home, there, third = cluster.nodes
    identifier = write(there, maker, put_id(owner, 1))
    assert not there.objects.entries[identifier].copy
    assert isinstance(read(cluster, third, reader, identifier), m.ObjectPinned)
    assert isinstance(read(cluster, home, owner, identifier), m.ObjectPinned)
    assert home.objects.entries[identifier].copy


def test_who_asks_before_an_object_exists_waits_for_it():
    cluster, (owner, maker, reader) = three()
    home, there, third = cluster.nodes
    identifier = put_id(owner, 1)
    assert read(cluster, third, reader, identifier) is None
    assert read(cluster, home, owner, identifier) is None
    write(there, maker, identifier)
    settle(cluster)
    assert len(third.take(reader, m.ObjectPinned)) == 1
    assert len(home.take(owner, m.ObjectPinned)) == 1


def test_who_asks_for_what_nobody_makes_is_told_when_its_owner_ends_and_after_a_while():
    cluster, (owner, _, reader) = three()
    home, _, third = cluster.nodes
    assert read(cluster, third, reader, put_id(owner, 1)) is None
    cluster.pass_time(WAIT_SECONDS + 1)
    (refused,) = third.take(reader, m.ObjectRefused)
    assert refused.error == "lost"
    assert [each.objects for each in home.take(owner, m.ObjectLost)] == [[put_id(owner, 1)]]
    assert read(cluster, third, reader, put_id(owner, 2)) is None
    home.leave(owner)
    cluster.settle()
    (refused,) = third.take(reader, m.ObjectRefused)
    assert refused.error == "lost" and "owner" in refused.detail


def test_a_freed_object_goes_from_all_nodes():
    cluster, (owner, first, second) = three()
    home, there, third = cluster.nodes
    identifier = write(there, first, put_id(owner, 1))
    cluster.settle()
    read(cluster, third, second, identifier)
    third.send(second, m.UnpinObjects([identifier]))
    home.send(owner, m.FreeObjects([identifier]))
    cluster.settle()
    assert holders(cluster, identifier) == []
    assert home.machine.sharing.directory.places == {}
    assert home.take(owner, m.ObjectLost) == []


def test_what_is_freed_before_its_home_has_heard_of_it_goes_too():
    cluster, (owner, maker, _) = three()
    home, there, _ = cluster.nodes
    identifier = write(there, maker, put_id(owner, 1))
    home.send(owner, m.FreeObjects([identifier]))
    cluster.settle()
    assert holders(cluster, identifier) == []
    assert home.machine.sharing.directory.places == {} and home.take(owner, m.ObjectLost) == []


def test_of_a_stream_that_has_ended_nothing_stays_but_what_its_owner_keeps():
    cluster, (owner, maker, _) = three()
    home, there, _ = cluster.nodes
    task, another = task_id(owner, 1), task_id(owner, 2)
    kept, known, other = (object_id(task, 1), object_id(task, 2), object_id(another, 1))
    for identifier in (kept, known, other):
        write(there, maker, identifier)
    cluster.settle()
    # The news of this one are still under way.
    stray = write(there, maker, object_id(task, 3))
    there.send(maker, m.FreeItems(task, []))
    home.send(owner, m.FreeItems(task, [kept]))
    cluster.settle()
    held = {identifier: bool(holders(cluster, identifier)) for identifier in (kept, known, stray, other)}
    assert held == {kept: True, known: False, stray: False, other: True}
    assert set(home.machine.sharing.directory.places) == {kept, other}


def test_what_is_freed_on_its_way_does_not_arrive():
    cluster, (owner, reader, _) = three()
    home, there, _ = cluster.nodes
    identifier = write(home, owner, put_id(owner, 1))
    there.send(reader, m.PinObject(5, identifier))
    cluster.settle()
    (pull,) = pulls(there)
    home.send(owner, m.FreeObjects([identifier]))
    cluster.settle()
    assert [each.error for each in there.take(reader, m.ObjectRefused)] == ["unknown"]
    there.do(there.machine.object_pulled, pull.token, Pulled((), home.node, 1, 0.1))
    cluster.settle()
    assert holders(cluster, identifier) == [] and there.machine.sharing.pulls.pulls == {}


def test_the_objects_of_an_owner_that_ends_go_everywhere():
    cluster, (owner, maker, reader) = three()
    home, there, third = cluster.nodes
    identifier = write(there, maker, put_id(owner, 1))
    cluster.settle()
    read(cluster, third, reader, identifier)
    third.send(reader, m.UnpinObjects([identifier]))
    home.leave(owner)
    cluster.settle()
    assert holders(cluster, identifier) == []


def test_a_copy_is_dropped_for_room_and_its_home_hears_of_it():
    cluster = ClusterBench({}, {"store": 4 * MIB})
    home, there = cluster.nodes
    owner, reader = home.driver(), there.driver(b"drvR")
    identifier = write(home, owner, put_id(owner, 1), 3 * MIB)
    read(cluster, there, reader, identifier)
    there.send(reader, m.UnpinObjects([identifier]))
    write(there, reader, put_id(reader, 1), 3 * MIB)
    assert there.take_effects(SpillObject) == []
    assert identifier not in there.objects.entries
    cluster.settle()
    assert home.machine.sharing.directory.nodes_of(identifier) == [home.node]
    assert len(there.records.named("object_copy_dropped")) == 1
    # It can be had again.
    assert identifier in home.objects.entries


def test_the_last_copy_is_kept_when_the_original_is_gone():
    cluster = ClusterBench({}, {}, {"store": 4 * MIB})
    home, there, third = cluster.nodes
    owner, maker, reader = home.driver(), there.driver(b"drvM"), third.driver(b"drvR")
    identifier = write(there, maker, put_id(owner, 1), 3 * MIB)
    cluster.settle()
    read(cluster, third, reader, identifier)
    third.send(reader, m.UnpinObjects([identifier]))
    cluster.settle()
    cluster.kill(there)
    assert home.take(owner, m.ObjectLost) == []
    assert len(third.records.named("object_copy_kept")) == 1
    third.send(reader, m.CreateObject(1, put_id(reader, 1), 3 * MIB))
    assert third.spills_end() == [identifier]
    third.send(reader, m.AbortObject(put_id(reader, 1)))
    assert isinstance(read(cluster, home, owner, identifier), m.ObjectPinned)


def test_what_was_only_on_a_dead_node_is_lost_and_its_owner_is_told_once_for_all():
    cluster, (owner, maker, reader) = three()
    home, there, third = cluster.nodes
    objects = [write(there, maker, put_id(owner, number)) for number in range(3)]
    cluster.settle()
    third.send(reader, m.PinObject(5, objects[0]))
    cluster.settle()
    pulls(third)
    cluster.kill(there)
    (lost,) = home.take(owner, m.ObjectLost)
    assert sorted(lost.objects) == objects and "is gone" in lost.detail
    assert read(cluster, home, owner, objects[1]) is None
    cluster.pass_time(1.1)
    (refused,) = home.take(owner, m.ObjectRefused)
    assert refused.error == "lost"
    assert len(home.records.named("object_lost")) == 3
    # Made again, it is there again.
    write(third, reader, objects[1])
    assert isinstance(read(cluster, home, owner, objects[1]), m.ObjectPinned)


def test_the_death_of_a_home_ends_what_its_clients_own():
    cluster, (owner, maker, reader) = three()
    home, there, third = cluster.nodes
    made = write(there, maker, put_id(owner, 1))
    cluster.settle()
    read(cluster, third, reader, made)
    third.send(reader, m.PinObject(6, put_id(owner, 2)))
    cluster.settle()
    cluster.kill(home)
    assert [each.error for each in third.take(reader, m.ObjectRefused)] == ["lost"]
    assert holders(cluster, made) == [2]
    third.send(reader, m.UnpinObjects([made]))
    assert holders(cluster, made) == []
    assert len(third.take_effects(CutTransfers)) == 1


def test_a_source_that_has_it_no_more_is_no_loss_while_another_has_it():
    cluster, (owner, maker, reader) = three()
    home, there, third = cluster.nodes
    identifier = write(there, maker, put_id(owner, 1))
    cluster.settle()
    read(cluster, third, reader, identifier)
    cluster.settle()
    home.send(owner, m.PinObject(5, identifier))
    (pull,) = pulls(home)
    failed = Pulled(((0, MIB),), b"\0" * 8, 0, 0.1, ((there.node, 0, "reset"),), "reset")
    home.do(home.machine.object_pulled, pull.token, failed)
    assert home.take(owner, m.ObjectRefused) == []
    cluster.pass_time(1.0)
    settle(cluster)
    assert len(home.take(owner, m.ObjectPinned)) == 1
    assert [each["error"] for each in home.records.named("transfer_retried")] == ["reset"]


def test_what_has_come_before_a_reset_is_not_fetched_again():
    cluster, (owner, reader, _) = three()
    home, there, _ = cluster.nodes
    identifier = write(home, owner, put_id(owner, 1))
    there.send(reader, m.PinObject(5, identifier))
    cluster.settle()
    (pull,) = pulls(there)
    failed = Pulled(((4096, MIB),), home.node, 1, 0.1, ((home.node, 4096, "reset"),), "reset")
    there.do(there.machine.object_pulled, pull.token, failed)
    cluster.pass_time(1.0)
    (pull,) = pulls(there)
    assert pull.missing == ((4096, MIB),)
    transfer(cluster, there, pull)
    assert len(there.take(reader, m.ObjectPinned)) == 1


def test_a_transfer_that_fails_again_and_again_is_given_up():
    cluster, (owner, reader, _) = three()
    home, there, _ = cluster.nodes
    identifier = write(home, owner, put_id(owner, 1))
    there.send(reader, m.PinObject(5, identifier))
    for _ in range(ATTEMPTS_MAX):
        cluster.pass_time(4.0)
        for pull in pulls(there):
            failed = Pulled(pull.missing, b"\0" * 8, 0, 0.1, ((home.node, 0, "checksum"),), "checksum")
            there.do(there.machine.object_pulled, pull.token, failed)
    (refused,) = there.take(reader, m.ObjectRefused)
    assert refused.error == "lost" and "checksum" in refused.detail
    assert there.objects.allocator.used_bytes == 0
    assert len(there.records.named("transfer_failed")) == 1


def test_a_damaged_original_is_replaced_by_its_copy():
    cluster = ClusterBench({"store": 4 * MIB}, {})
    home, there = cluster.nodes
    owner, reader = home.driver(), there.driver(b"drvR")
    identifier = write(home, owner, put_id(owner, 1), 3 * MIB)
    read(cluster, there, reader, identifier)
    cluster.settle()
    home.send(owner, m.CreateObject(2, put_id(owner, 2), 3 * MIB), m.AbortObject(put_id(owner, 2)))
    home.spills_end()
    home.send(owner, m.PinObject(7, identifier))
    home.restores_end(error="checksum")
    settle(cluster)
    assert [each.request for each in home.take(owner, m.ObjectPinned)] == [7]
    assert not there.objects.entries[identifier].copy and home.objects.entries[identifier].copy


def test_a_large_object_for_many_nodes_is_read_from_its_maker_by_a_few():
    cluster = ClusterBench({"store": 64 * MIB}, *({"store": 64 * MIB} for _ in range(4)))
    home, *others = cluster.nodes
    owner = home.driver()
    identifier = write(home, owner, put_id(owner, 1), 16 * MIB)
    readers = [each.driver(b"drv%d" % number) for number, each in enumerate(others)]
    for each, reader in zip(others, readers, strict=True):
        each.send(reader, m.PinObject(5, identifier))
    settle(cluster)
    for each, reader in zip(others, readers, strict=True):
        assert len(each.take(reader, m.ObjectPinned)) == 1
    assert len(home.records.named("transfer_served")) == 2
    assert sum(len(each.records.named("transfer_served")) for each in others) == 2


def test_a_reader_of_a_large_object_that_dies_holds_nobody_up():
    cluster = ClusterBench(*({"store": 64 * MIB} for _ in range(4)))
    home, *others = cluster.nodes
    owner = home.driver()
    identifier = write(home, owner, put_id(owner, 1), 16 * MIB)
    readers = [each.driver(b"drv%d" % number) for number, each in enumerate(others)]
    for each, reader in zip(others, readers, strict=True):
        each.send(reader, m.PinObject(5, identifier))
        cluster.settle()
    assert pulls(others[2]) == []
    cluster.kill(others[0])
    settle(cluster)
    assert len(others[2].take(readers[2], m.ObjectPinned)) == 1


def test_small_objects_pass_large_ones_and_large_ones_come_too():
    cluster = ClusterBench({"store": 256 * MIB}, {"store": 256 * MIB})
    home, there = cluster.nodes
    owner, reader = home.driver(), there.driver(b"drvR")
    large = [write(home, owner, put_id(owner, number), 9 * MIB) for number in range(10)]
    small = [write(home, owner, put_id(owner, 100 + number), 1024) for number in range(10)]
    for request, identifier in enumerate(large + small):
        there.send(reader, m.PinObject(request, identifier))
    cluster.settle()
    begun = pulls(there)
    assert len(begun) <= IN_FLIGHT_MAX
    sizes = [pull.size for pull in begun]
    assert sizes.count(1024) >= 3 and sizes.count(9 * MIB) >= 2
    order = []
    while begun:
        pull = begun.pop(0)
        order.append(pull.size)
        transfer(cluster, there, pull)
        cluster.settle()
        begun += pulls(there)
    assert len(order) == 20
    # The last small one does not come last, although all large ones were wanted before it.
    assert max(place for place, size in enumerate(order) if size == 1024) < 18


def test_an_object_that_never_fits_comes_into_a_file_if_there_can_be_one():
    cluster = ClusterBench({}, {"store": 2 * MIB, "spill_bytes_max": 4 * MIB})
    home, there = cluster.nodes
    owner, reader = home.driver(), there.driver(b"drvR")
    identifier = write(home, owner, put_id(owner, 1), 3 * MIB)
    assert read(cluster, there, reader, identifier) is None
    (file,) = there.files_made()
    (pull,) = pulls(there)
    assert pull.offset == FALLBACK + file.number
    transfer(cluster, there, pull)
    (pinned,) = there.take(reader, m.ObjectPinned)
    assert pinned.offset == pull.offset
    # Nobody reads the copy any more: it goes when its place on disk is wanted.
    there.send(reader, m.UnpinObjects([identifier]))
    assert there.take_effects(RemoveFile) == []
    there.send(reader, m.CreateObject(7, put_id(reader, 7), 3 * MIB))
    assert there.take_effects(RemoveFile) == [RemoveFile(file.path)]
    there.files_made()
    assert len(there.take(reader, m.ObjectRoom)) == 1
    refused = read(cluster, there, reader, identifier)
    assert isinstance(refused, m.ObjectRefused) and refused.error == "too_large" and "2.0 MiB" in refused.detail


def test_a_pull_waits_for_room():
    cluster = ClusterBench({}, {"store": 4 * MIB})
    home, there = cluster.nodes
    owner, reader = home.driver(), there.driver(b"drvR")
    held = write(there, reader, put_id(reader, 1), 3 * MIB)
    there.send(reader, m.PinObject(1, held))
    there.take(reader)
    identifier = write(home, owner, put_id(owner, 1), 3 * MIB)
    assert read(cluster, there, reader, identifier) is None
    there.send(reader, m.UnpinObjects([held]))
    there.spills_end()
    settle(cluster)
    assert [each.request for each in there.take(reader, m.ObjectPinned)] == [5]


@pytest.mark.parametrize("seed", range(6))
def test_no_object_is_lost_while_a_copy_lives_and_the_books_balance(seed):
    """Random writes, reads, frees, deaths: invariants are checked after every stimulus."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    cluster = ClusterBench(*({"store": 8 * MIB} for _ in range(4)))
    clients = {each: each.driver(b"drv%d" % number) for number, each in enumerate(cluster.nodes)}
    made: dict[bytes, int] = {}
    pinned: list[tuple[Member, bytes]] = []
    for round_number in range(150):
        alive = [each for each in cluster.nodes if each.up]
        member = chance.choice(alive)
        client = clients[member]
        action = chance.choice("wwwrrrrufsdt")
        if action == "w":
            owner = clients[chance.choice(alive)]
            identifier = put_id(owner, round_number)
            member.send(client, m.CreateObject(1, identifier, chance.randint(1, 2 * MIB)), m.SealObject(identifier))
            for answer in member.take(client, m.ObjectRoom):
                member.send(client, m.SealObject(identifier))
                made[identifier] = answer.offset
        elif action == "r" and made:
            identifier = chance.choice(sorted(made))
            member.send(client, m.PinObject(round_number, identifier))
            if chance.random() < 0.5:
                settle(cluster)
        elif action == "u" and pinned:
            reader, identifier = pinned.pop()
            if reader.up:
                reader.send(clients[reader], m.UnpinObjects([identifier]))
        elif action == "f" and made:
            mine = [each for each in made if each[:8] == client]
            if mine:
                member.send(client, m.FreeObjects([mine[0]]))
                del made[mine[0]]
        elif action == "s":
            cluster.settle()
        elif action == "t":
            cluster.pass_time(chance.random())
            for each in alive:
                each.spills_end()
                each.restores_end()
                each.files_made()
        elif action == "d" and len(alive) > 2 and chance.random() < 0.2:
            victim = chance.choice(alive[1:])
            cluster.kill(victim)
            made = {each: at for each, at in made.items() if each[:8] != clients[victim]}
        for each in [each for each in cluster.nodes if each.up]:
            for answer in each.take(clients[each], m.ObjectLost):
                for identifier in answer.objects:
                    # Nobody else has it: the news of a copy may be under way, but no copy is forgotten.
                    cluster.settle()
                    assert [n for n in holders(cluster, identifier) if _readable(cluster.nodes[n], identifier)] == []
                    made.pop(identifier, None)
    for each in [each for each in cluster.nodes if each.up]:
        each.leave(clients[each])
    for _ in range(5):
        settle(cluster)
        for each in [each for each in cluster.nodes if each.up]:
            each.spills_end()
            each.restores_end()
            each.files_made()
            for answer in each.take_effects(ServeObject):
                give_back(each, answer)
        cluster.pass_time(1.0)
    for each in [each for each in cluster.nodes if each.up]:
        assert each.objects.entries == {} and each.objects.allocator.used_bytes == 0
        assert each.machine.sharing.pulls.pulls == {} and each.machine.sharing.directory.places == {}
        assert each.machine.sharing.directory._by_owner == {}


def _readable(member: Member, identifier: bytes) -> bool:
    entry = member.objects.entries[identifier]
    return entry.state in (ObjectState.SEALED, ObjectState.SPILLED) and not entry.doomed


def test_a_link_that_comes_back_begins_anew():
    cluster, (owner, maker, _) = three()
    home, there, _ = cluster.nodes
    identifier = write(there, maker, put_id(owner, 1))
    cluster.settle()
    cluster.cut(home, there)
    cluster.settle()
    assert [each.objects for each in home.take(owner, m.ObjectLost)] == [[identifier]]
    assert identifier not in there.objects.entries
    cluster.pass_time(3.0)
    again = write(there, maker, put_id(owner, 2))
    assert isinstance(read(cluster, home, owner, again), m.ObjectPinned)
    assert cluster.nodes[0].machine.peers.peers[there.node].state is NodeState.ALIVE


def test_who_asks_for_what_is_lost_hears_it_although_its_node_is_not_declared_dead():
    cluster, (owner, maker, _) = three()
    home, there, _ = cluster.nodes
    identifier = write(there, maker, put_id(owner, 1))
    cluster.settle()
    cluster.kill(there, declare=False)
    assert read(cluster, home, owner, identifier) is None
    assert read(cluster, home, owner, put_id(owner, 2), 6) is None
    cluster.pass_time(1.5)
    (refused,) = home.take(owner, m.ObjectRefused)
    assert (refused.request, refused.error) == (5, "lost")
    # Of the other nobody knows, and it may be on the node that cannot be heard.
    home.hear_of(there, NodeState.DEAD)
    cluster.pass_time(WAIT_SECONDS + 1)
    assert [each.request for each in home.take(owner, m.ObjectRefused)] == [6]


def test_a_copy_whose_home_has_freed_it_is_not_lost_though_the_news_of_it_come_late():
    cluster, (owner, reader, _) = three()
    home, there, _ = cluster.nodes
    identifier = write(home, owner, put_id(owner, 1))
    there.send(reader, m.PinObject(5, identifier))
    cluster.settle()
    (pull,) = pulls(there)
    transfer(cluster, there, pull)
    # That the copy is there is still under way when the owner lets go.
    there.send(reader, m.UnpinObjects([identifier]))
    home.send(owner, m.FreeObjects([identifier]))
    cluster.settle()
    directory = home.machine.sharing.directory
    assert holders(cluster, identifier) == [] and directory.places == {} and directory.lost == {}
    assert home.records.named("object_lost") == [] and home.take(owner, m.ObjectLost) == []


def freed(member: Member, identifier: bytes) -> bool:
    """Whether the node has told that this object is gone for good."""
    return any(row["object"] == identifier for row in member.records.named("object_freed"))


@pytest.mark.parametrize("freed_first", [False, True])
def test_what_was_lost_here_is_so_again_when_its_copy_does_not_come_and_its_end_is_told(freed_first):
    cluster = ClusterBench({"store": 4 * MIB}, {})
    home, there = cluster.nodes
    owner, reader, other = home.driver(), there.driver(b"drvR"), home.driver(b"drvO")
    identifier = write(home, owner, put_id(owner, 1), 3 * MIB)
    read(cluster, there, reader, identifier)
    cluster.settle()
    home.send(owner, m.CreateObject(2, put_id(owner, 2), 3 * MIB), m.AbortObject(put_id(owner, 2)))
    home.spills_end()
    home.send(other, m.PinObject(8, identifier))
    home.restores_end(error="checksum")
    cluster.settle()
    (pull,) = pulls(home)
    entries = home.machine.objects.entries
    assert entries[identifier].copy and entries[identifier].state is ObjectState.CREATED
    if freed_first:
        home.send(owner, m.FreeObjects([identifier]))
    cluster.kill(there)
    home.do(home.machine.object_pulled, pull.token, Pulled(pull.missing, b"\0" * 8, 0, 0.1, (), "it is gone"))
    cluster.settle()
    cluster.pass_time(2 * WAIT_SECONDS)
    if not freed_first:
        assert entries[identifier].state is ObjectState.LOST and not freed(home, identifier)
        home.send(owner, m.FreeObjects([identifier]))
    assert identifier not in entries and freed(home, identifier)
    home.machine.check_invariants()


def test_what_was_lost_and_is_made_again_is_freed_everywhere_though_the_news_of_it_come_late():
    cluster, (owner, maker, _) = three()
    home, there, _ = cluster.nodes
    identifier = write(there, maker, put_id(owner, 1))
    cluster.settle()
    cluster.cut(home, there)
    cluster.settle()
    directory = home.machine.sharing.directory
    assert identifier in directory.lost
    cluster.pass_time(1.0)
    cluster.settle()
    # Its owner hears from its maker before its node hears from the other node, and lets go.
    write(there, maker, identifier)
    home.send(owner, m.FreeObjects([identifier]))
    cluster.settle()
    assert holders(cluster, identifier) == [] and directory.places == {} and directory.lost == {}


def test_what_was_lost_on_one_node_and_made_again_on_another_is_forgotten_by_both_when_it_is_freed():
    cluster = ClusterBench({}, {"store": 4 * MIB})
    home, there = cluster.nodes
    owner, maker = home.driver(), there.driver(b"drvM")
    identifier = write(there, maker, put_id(owner, 1), 3 * MIB)
    cluster.settle()
    there.send(maker, m.CreateObject(2, put_id(maker, 2), 3 * MIB), m.AbortObject(put_id(maker, 2)))
    there.spills_end()
    there.send(maker, m.PinObject(7, identifier))
    there.restores_end(error="checksum")
    cluster.settle()
    directory = home.machine.sharing.directory
    there.leave(maker)
    cluster.settle()
    assert identifier in directory.lost and identifier in there.machine.objects.entries
    write(home, owner, identifier)
    home.send(owner, m.FreeObjects([identifier]))
    cluster.settle()
    assert identifier not in there.machine.objects.entries and identifier not in home.machine.objects.entries
    assert directory.places == {} and directory.lost == {} and directory._lost_at == {} and directory._by_owner == {}


def test_all_who_waited_for_a_file_that_is_damaged_get_the_object_from_elsewhere():
    cluster = ClusterBench({"store": 4 * MIB}, {})
    home, there = cluster.nodes
    owner, reader = home.driver(), there.driver(b"drvR")
    other = home.driver(b"drvO")
    identifier = write(home, owner, put_id(owner, 1), 3 * MIB)
    read(cluster, there, reader, identifier)
    cluster.settle()
    home.send(owner, m.CreateObject(2, put_id(owner, 2), 3 * MIB), m.AbortObject(put_id(owner, 2)))
    home.spills_end()
    home.send(owner, m.PinObject(7, identifier))
    home.send(other, m.PinObject(8, identifier))
    home.restores_end(error="checksum")
    settle(cluster)
    assert [each.request for each in home.take(owner, m.ObjectPinned)] == [7]
    assert [each.request for each in home.take(other, m.ObjectPinned)] == [8]


def test_an_object_that_is_made_at_its_home_while_many_ask_for_it_is_found_by_all():
    cluster, (owner, first, second) = three()
    home, there, third = cluster.nodes
    identifier = put_id(owner, 1)
    home.send(owner, m.PinObject(5, identifier))
    assert read(cluster, there, first, identifier) is None
    write(home, owner, identifier)
    settle(cluster)
    assert home.take(owner, m.ObjectPinned) and there.take(first, m.ObjectPinned)
    assert isinstance(read(cluster, third, second, identifier), m.ObjectPinned)
    assert home.machine.sharing.directory.waiting == {}
