"""What lies only on a node that drains is elsewhere before it leaves, or it is said what is not."""

from __future__ import annotations

import random

import pytest

from obsray.core.node.moving import BYTES_UNDER_WAY_MAX, OBJECTS_UNDER_WAY_MAX, STALL_SECONDS
from obsray.core.node.step import PullObject
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import ObjectState
from tests.unit.node.cluster_bench import ClusterBench, Member
from tests.unit.node.node_bench import MIB, put_id
from tests.unit.node.test_node_draining import drain, leaving
from tests.unit.node.test_node_sharing import holders, pulls, read, settle, transfer, write


def cluster_of(*stores: int) -> tuple[ClusterBench, bytes, bytes]:
    """Nodes with such stores (MiB), a driver at the head, and one of the last node that writes for it."""
    cluster = ClusterBench(*({"store": store * MIB} for store in stores))
    return cluster, cluster.nodes[0].driver(b"drvH"), cluster.nodes[-1].driver(b"drvL")


def leave(cluster: ClusterBench, member: Member, driver: bytes) -> None:
    """It drains, and its own driver ends."""
    assert drain(cluster, cluster.nodes[0], member.node).error == ""
    member.do(member.machine.client_left, driver)
    settle(cluster)
    cluster.pass_time(0.3)
    settle(cluster)


def check(cluster: ClusterBench) -> None:
    for member in cluster.nodes:
        if member.up:
            member.machine.check_invariants()


@pytest.mark.parametrize("spilled", [False, True])
def test_an_object_that_lies_only_on_a_node_that_drains_is_read_elsewhere_when_it_is_gone(spilled):
    cluster, owner, maker = cluster_of(64, 64, 64)
    home, other, there = cluster.nodes
    identifier = write(there, maker, put_id(owner, 1), MIB)
    cluster.settle()
    if spilled:
        there.do(lambda step: there.objects.spilling._spill(step, there.objects.entries[identifier]))
        there.spills_end()
    leave(cluster, there, maker)
    (moved,) = there.records.named("object_moved")
    assert moved["destination"] in (home.node, other.node) and moved["object_bytes"] == MIB
    assert leaving(there)[0] == "it was drained: repairs"
    cluster.kill(there)
    (entry,) = [each.objects.entries[identifier] for each in (home, other) if identifier in each.objects.entries]
    assert not entry.copy, "it may be dropped when room is short"
    assert not home.take(owner, m.ObjectLost)
    assert isinstance(read(cluster, home, owner, identifier), m.ObjectPinned)
    check(cluster)


def test_a_node_that_has_a_copy_keeps_it_and_nothing_is_sent():
    cluster, owner, maker = cluster_of(64, 64, 64)
    home, other, there = cluster.nodes
    reader = other.driver(b"drvR")
    identifier = write(there, maker, put_id(owner, 1), MIB)
    assert isinstance(read(cluster, other, reader, identifier), m.ObjectPinned)
    served = len(there.records.named("transfer_served"))
    leave(cluster, there, maker)
    assert not other.objects.entries[identifier].copy and identifier not in home.objects.entries
    assert len(there.records.named("transfer_served")) == served
    assert leaving(there)


def test_it_waits_for_what_is_on_its_way_and_tells_how_far_it_is():
    cluster, owner, maker = cluster_of(64, 64)
    home, there = cluster.nodes
    for number in range(3):
        write(there, maker, put_id(owner, number), MIB)
    cluster.settle()
    assert drain(cluster, home, there.node).error == ""
    there.do(there.machine.client_left, maker)
    cluster.settle()
    assert not leaving(there), "it leaves with the only copy"
    cluster.pass_time(0.5)
    drains = home.machine.abroad.described()[0]["drain"]
    assert (drains["left"], drains["left_bytes"], drains["moved"]) == (3, 3 * MIB, 0)
    (first, *rest) = pulls(home)
    transfer(cluster, home, first)
    cluster.settle()
    cluster.pass_time(0.5)
    assert home.machine.abroad.described()[0]["drain"]["moved"] == 1 and not leaving(there)
    for pull in rest:
        transfer(cluster, home, pull)
    settle(cluster)
    assert leaving(there)
    last = there.records.named("drain_progress")[-1]
    assert (last["moved"], last["left"], last["failed"]) == (3, 0, 0)


def test_what_no_other_node_has_room_for_is_said_and_does_not_hold_it_up():
    cluster, owner, maker = cluster_of(2, 64)
    home, there = cluster.nodes
    big, small = write(there, maker, put_id(owner, 1), 8 * MIB), write(there, maker, put_id(owner, 2), MIB)
    cluster.settle()
    leave(cluster, there, maker)
    why = "1 object (8.0 MiB) went with it: no other node has room for 8,388,608 bytes"
    assert leaving(there)[0] == f"it was drained: repairs; {why}"
    (left,) = there.records.named("object_not_moved")
    assert left["object"] == big and "no other node has room" in left["error"]
    assert small in home.objects.entries


def test_another_node_is_asked_if_the_one_that_was_asked_dies():
    cluster, owner, maker = cluster_of(64, 128, 64)
    home, other, there = cluster.nodes
    identifier = write(there, maker, put_id(owner, 1), MIB)
    cluster.settle()
    assert drain(cluster, home, there.node).error == ""
    there.do(there.machine.client_left, maker)
    cluster.settle()
    assert pulls(other), "the one with most room is asked"
    cluster.kill(other)
    settle(cluster)
    cluster.pass_time(0.3)
    assert identifier in home.objects.entries and leaving(there)
    check(cluster)


def test_what_stands_still_is_given_up_at_last():
    cluster, owner, maker = cluster_of(64, 64)
    home, there = cluster.nodes
    write(there, maker, put_id(owner, 1), MIB)
    cluster.settle()
    assert drain(cluster, home, there.node).error == ""
    there.do(there.machine.client_left, maker)
    cluster.pass_time(STALL_SECONDS - 5)
    assert not leaving(there)
    cluster.pass_time(10)
    assert "1 object" in leaving(there)[0]


def test_what_is_freed_while_it_is_moved_is_gone_everywhere():
    cluster, owner, maker = cluster_of(64, 64)
    home, there = cluster.nodes
    identifier = write(there, maker, put_id(owner, 1), MIB)
    cluster.settle()
    assert drain(cluster, home, there.node).error == ""
    there.do(there.machine.client_left, maker)
    cluster.settle()
    home.send(owner, m.FreeObjects([identifier]))
    settle(cluster)
    cluster.pass_time(0.5)
    settle(cluster)
    assert holders(cluster, identifier) == [] and leaving(there)
    assert not home.machine.moving.errands
    check(cluster)


def test_what_its_own_processes_own_ends_with_them_and_is_not_moved():
    cluster, _, maker = cluster_of(64, 64)
    there = cluster.nodes[-1]
    write(there, maker, put_id(maker, 1), MIB)
    leave(cluster, there, maker)
    assert leaving(there)[0] == "it was drained: repairs" and not there.records.named("object_moved")


def test_not_all_is_under_way_at_once_and_all_arrives():
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    cluster, owner, maker = cluster_of(2048, 2048, 2048)
    home, other, there = cluster.nodes
    sizes = [chance.choice((1, 100, 200)) * MIB for _ in range(12)]
    objects = [write(there, maker, put_id(owner, number), size) for number, size in enumerate(sizes)]
    cluster.settle()
    assert drain(cluster, home, there.node).error == ""
    there.do(there.machine.client_left, maker)
    for _ in range(200):
        under_way = there.machine.moving._under_way
        assert sum(under_way.values()) <= BYTES_UNDER_WAY_MAX and len(under_way) <= OBJECTS_UNDER_WAY_MAX
        begun = [(each, pull) for each in (home, other) for pull in each.take_effects(PullObject)]
        for each, pull in begun:
            transfer(cluster, each, pull)
        cluster.settle()
        cluster.pass_time(0.1)
        if leaving(there):
            break
    assert leaving(there)[0] == "it was drained: repairs"
    cluster.kill(there)
    for identifier in objects:
        found = [each.objects.entries[identifier] for each in (home, other) if identifier in each.objects.entries]
        assert [entry for entry in found if not entry.copy and entry.state is ObjectState.SEALED]
    assert not home.take(owner, m.ObjectLost)
    check(cluster)
