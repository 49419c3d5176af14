"""Demands go where they can be met: here first, then where the wait is shortest, and back when there is room."""

from __future__ import annotations

import random
from typing import Any

import pytest
from cluster_bench import ClusterBench

from obsray.core.node.delegation import PREFERRED_SECONDS
from obsray.core.node.resources import UNIT
from obsray.core.protocol import messages as m
from obsray.telemetry.events import DeathCause, LeaseOutcome, Reason


def define(member, driver, shape, placement=None, **resources):
    amounts = {name: round(amount * UNIT) for name, amount in resources.items()}
    member.send(driver, m.DefineShape(shape, f"f{shape}", amounts, None, placement))


def want(cluster, member, driver, shape, count):
    member.send(driver, m.LeaseRequest(shape, count, count))
    cluster.settle()


def granted(member, driver):
    return member.take(driver, m.LeaseGranted)


def test_a_full_node_gives_the_rest_to_others_and_keeps_what_fits():
    cluster = ClusterBench({"cpus": 1}, {"cpus": 2}, {"cpus": 2})
    head = cluster.nodes[0]
    driver = head.driver()
    define(head, driver, 1, CPU=1)
    want(cluster, head, driver, 1, 5)
    assert [member.leased() for member in cluster.nodes] == [1, 2, 2]
    leases = granted(head, driver)
    assert len({lease.lease for lease in leases}) == 5 and len({lease.worker for lease in leases}) == 5
    spilled = [each for each in head.records.named("lease_decided") if each["outcome"] is LeaseOutcome.SPILLED]
    assert spilled and all(each["reason"] is Reason.NO_CAPACITY for each in spilled)
    assert {each["node"] for each in head.records.named("lease_candidate")} == {each.node for each in cluster.nodes}


def test_a_lease_elsewhere_is_returned_to_the_node_that_gave_it():
    cluster = ClusterBench({"cpus": 0}, {"cpus": 1})
    head, other = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, CPU=1)
    want(cluster, head, driver, 1, 1)
    (lease,) = granted(head, driver)
    assert other.leased() == 1 and other.machine.resources.free["CPU"] == 0
    head.send(driver, m.LeaseReturn(lease.lease, 3, 0))
    cluster.settle()
    assert other.leased() == 0 and other.machine.resources.free["CPU"] == UNIT


def test_what_was_taken_and_given_back_at_once_is_known_to_be_free_again():
    cluster = ClusterBench({"cpus": 0}, {"cpus": 2})
    head, other = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, CPU=1)
    want(cluster, head, driver, 1, 2)
    cluster.pass_time(0.1)
    for lease in granted(head, driver):
        head.send(driver, m.LeaseReturn(lease.lease, 1, 0))
    cluster.settle()
    peer = head.machine.peers.peers[other.node]
    assert peer.spare["CPU"] == 2 * UNIT
    # It has just been said what there is; what follows happens before it may be said again, and changes nothing.
    want(cluster, head, driver, 1, 2)
    for lease in granted(head, driver):
        head.send(driver, m.LeaseReturn(lease.lease, 1, 0))
    cluster.settle()
    assert other.leased() == 0
    cluster.pass_time(0.1)
    assert peer.spare["CPU"] == 2 * UNIT


def test_infeasible_work_waits_is_named_so_and_runs_when_a_fitting_node_joins():
    cluster = ClusterBench({"cpus": 1})
    head = cluster.nodes[0]
    driver = head.driver()
    define(head, driver, 1, special=1)
    want(cluster, head, driver, 1, 2)
    assert not granted(head, driver)
    assert head.records.named("lease_decided")[-1]["outcome"] is LeaseOutcome.INFEASIBLE
    other = cluster.add(cpus=1, custom={"special": 2})
    assert len(granted(head, driver)) == 2 and other.leased() == 2


def test_hard_affinity_goes_only_there_and_to_nowhere_is_refused():
    cluster = ClusterBench({"cpus": 4}, {"cpus": 1})
    head, other = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, {"node": other.node, "soft": False}, CPU=1)
    want(cluster, head, driver, 1, 3)
    assert other.leased() == 1 and head.leased() == 0
    define(head, driver, 2, {"node": b"nowhere!", "soft": False}, CPU=1)
    (refused,) = head.take(driver, m.ShapeRefused)
    assert refused.kind == "unschedulable" and refused.shape == 2


@pytest.mark.parametrize("joined_first", [False, True])
def test_what_a_node_can_never_hold_is_refused_where_it_may_run_on_no_other(joined_first):
    cluster = ClusterBench({"cpus": 4}, {"cpus": 1, "custom": {"special": 1}})
    head, other = cluster.nodes
    driver = head.driver()
    tied = {"node": (head if joined_first else other).node}
    wants = {"CPU": 5} if joined_first else {"CPU": 2}
    define(head, driver, 1, {**tied, "soft": False}, **wants)
    define(head, driver, 2, {**tied, "soft": False, "selectors": [[("zone", "in", ["a"])]]}, CPU=1)
    define(head, driver, 3, {**tied, "soft": True}, **wants)
    define(head, driver, 4, {**tied, "soft": False}, CPU=1)
    refused = head.take(driver, m.ShapeRefused)
    assert [(each.shape, each.kind) for each in refused] == [(1, "unschedulable"), (2, "unschedulable")]
    assert "can never hold it: CPU" in refused[0].detail and "label zone=a" in refused[1].detail
    want(cluster, head, driver, 4, 1)
    assert len(granted(head, driver)) == 1


def test_soft_affinity_goes_there_if_it_can_and_elsewhere_if_not():
    cluster = ClusterBench({"cpus": 4}, {"cpus": 1})
    head, other = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, {"node": other.node, "soft": True}, CPU=1)
    define(head, driver, 2, {"node": b"nowhere!", "soft": True}, CPU=1)
    want(cluster, head, driver, 1, 1)
    want(cluster, head, driver, 2, 1)
    assert other.leased() == 1 and head.leased() == 1


def test_what_needs_no_gpu_leaves_gpus_alone_while_a_node_without_has_room():
    cluster = ClusterBench({"cpus": 4, "gpus": 2}, {"cpus": 2}, {"cpus": 8, "gpus": 8})
    head, plain, _ = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, CPU=1)
    define(head, driver, 2, CPU=1, GPU=1)
    want(cluster, head, driver, 1, 3)
    assert [member.leased() for member in cluster.nodes] == [1, 2, 0]
    moved = [each for each in head.records.named("lease_decided") if each["outcome"] is LeaseOutcome.SPILLED]
    assert {each["reason"] for each in moved} == {Reason.GPUS_KEPT_FREE} and {
        each["chosen_node"] for each in moved
    } == {plain.node}
    seen = head.records.take("lease_candidate")
    assert {each["node"] for each in seen} >= {member.node for member in cluster.nodes}
    assert [each["feasible"] for each in seen if each["reject"] is Reason.GPUS_KEPT_FREE] == [True, True]
    want(cluster, head, driver, 2, 1)
    assert [member.leased() for member in cluster.nodes] == [2, 2, 0]


def test_a_wish_counts_more_than_that_gpus_stay_free():
    cluster = ClusterBench({"cpus": 4, "gpus": 1}, {"cpus": 4})
    head = cluster.nodes[0]
    driver = head.driver()
    define(head, driver, 1, {"node": head.node, "soft": True}, CPU=1)
    define(head, driver, 2, {"near": head.node, "near_bytes": 1 << 30}, CPU=1)
    for shape in (1, 2):
        want(cluster, head, driver, shape, 1)
    assert [member.leased() for member in cluster.nodes] == [2, 0]


def test_of_other_nodes_those_with_gpus_come_last_for_what_needs_none():
    cluster = ClusterBench({"cpus": 0}, {"cpus": 4, "gpus": 4}, {"cpus": 1})
    head = cluster.nodes[0]
    driver = head.driver()
    define(head, driver, 1, CPU=1)
    want(cluster, head, driver, 1, 1)
    assert [member.leased() for member in cluster.nodes] == [0, 0, 1]
    want(cluster, head, driver, 1, 1)
    assert [member.leased() for member in cluster.nodes] == [0, 1, 1]


def test_what_waits_at_a_node_without_gpus_that_was_full_after_all_runs_where_the_gpus_are():
    cluster = ClusterBench({"cpus": 2, "gpus": 1}, {"cpus": 1})
    head, plain = cluster.nodes
    driver, other = head.driver(), plain.driver()
    define(head, driver, 1, CPU=1)
    define(plain, other, 1, CPU=1)
    # Both ask before either node has heard of the other's.
    plain.send(other, m.LeaseRequest(1, 1, 1))
    want(cluster, head, driver, 1, 1)
    assert plain.leased() == 1 and not granted(head, driver)
    cluster.pass_time(PREFERRED_SECONDS + 0.1)
    assert len(granted(head, driver)) == 1 and head.leased() == 1


def given_to_a_node_without_gpus() -> tuple[ClusterBench, Any, Any, bytes]:
    """A cluster, its head with a GPU, its node without, and a driver whose demand waits there for a worker."""
    cluster = ClusterBench({"cpus": 2, "gpus": 1}, {"cpus": 1})
    head, plain = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, CPU=1)
    head.send(driver, m.LeaseRequest(1, 1, 1))
    cluster.settle(workers=False)
    return cluster, head, plain, driver


def test_what_waits_at_a_node_without_gpus_for_its_worker_to_start_is_not_taken_back_at_once():
    cluster, head, plain, driver = given_to_a_node_without_gpus()
    assert head.machine.delegation.away
    cluster.pass_time(PREFERRED_SECONDS - 0.1, workers=False)
    assert not head.asked, "a worker was started where the GPUs are"
    cluster.settle()
    assert len(granted(head, driver)) == 1 and (head.leased(), plain.leased()) == (0, 1)


def test_a_worker_that_does_not_start_at_a_node_without_gpus_is_not_waited_for_for_ever():
    cluster, head, plain, driver = given_to_a_node_without_gpus()
    cluster.pass_time(PREFERRED_SECONDS + 0.1, workers=False)
    head.workers_join()
    assert len(granted(head, driver)) == 1 and (head.leased(), plain.leased()) == (1, 0)


def test_spread_takes_all_nodes_in_turn():
    cluster = ClusterBench({"cpus": 3}, {"cpus": 3}, {"cpus": 3})
    head = cluster.nodes[0]
    driver = head.driver()
    define(head, driver, 1, {"spread": True}, CPU=1)
    want(cluster, head, driver, 1, 6)
    assert [member.leased() for member in cluster.nodes] == [2, 2, 2]
    assert len(granted(head, driver)) == 6


@pytest.mark.parametrize("taken", [0, 1])
def test_what_is_spread_does_not_wait_for_ever_where_the_room_is_taken(taken):
    """By an actor, or by bundles: nothing there ever ends."""
    cluster = ClusterBench({"cpus": 1}, {"cpus": 1}, {"cpus": 1})
    head = cluster.nodes[0]
    driver, other = head.driver(), head.driver(b"drv2")
    define(head, other, 1, {"node": cluster.nodes[taken].node, "soft": False}, CPU=1)
    want(cluster, head, other, 1, 1)
    define(head, driver, 1, {"spread": True}, CPU=1)
    want(cluster, head, driver, 1, 9)
    served = 0
    for _ in range(20):
        leases = granted(head, driver)
        served += len(leases)
        left = 9 - served
        for lease in leases:
            head.send(driver, m.LeaseReturn(lease.lease, 1, 0))
        want(cluster, head, driver, 1, left)
        cluster.pass_time(0.5)
    assert served == 9
    assert cluster.nodes[taken].leased() == 1


def test_labels_lead_to_nodes_that_have_them():
    cluster = ClusterBench(
        {"cpus": 2}, {"cpus": 2, "labels": {"side": "left"}}, {"cpus": 2, "labels": {"side": "right"}}
    )
    head, _, right = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, {"selectors": [[["side", "in", ["right"]]]]}, CPU=1)
    want(cluster, head, driver, 1, 2)
    assert right.leased() == 2


LEFT, RIGHT = [["side", "in", ["left"]]], [["side", "in", ["right"]]]


@pytest.mark.parametrize(
    "placement",
    [{"preferred": RIGHT}, {"selectors": [RIGHT, LEFT]}, {"selectors": [LEFT], "preferred": [["fast", "exists", []]]}],
    ids=["preferred", "alternatives", "both"],
)
def test_preferred_labels_lead_away_although_there_is_room_here_and_back_when_there_is_none_there(placement):
    best = {"side": "left", "fast": "yes"} if len(placement) == 2 else {"side": "right"}
    cluster = ClusterBench(
        {"cpus": 2, "labels": {"side": "left"}}, {"cpus": 2, "labels": {"side": "left"}}, {"cpus": 2, "labels": best}
    )
    head, _, other = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, placement, CPU=1)
    want(cluster, head, driver, 1, 2)
    assert [member.leased() for member in cluster.nodes] == [0, 0, 2]
    want(cluster, head, driver, 1, 4)
    assert head.leased() == 2 and other.leased() == 2
    at_home = other.driver(b"drv2")
    define(other, at_home, 1, placement, CPU=1)
    for lease in granted(head, driver):
        head.send(driver, m.LeaseReturn(lease.lease, 1, 0))
    cluster.settle()
    want(cluster, other, at_home, 1, 2)
    assert [member.leased() for member in cluster.nodes] == [0, 0, 2]


def test_what_is_given_to_a_preferred_node_waits_there_for_its_worker_and_not_for_ever_for_room():
    cluster = ClusterBench({"cpus": 2}, {"cpus": 1, "labels": {"side": "right"}})
    head, other = cluster.nodes
    driver, theirs = head.driver(), other.driver(b"drv2")
    define(other, theirs, 1, CPU=1)
    want(cluster, other, theirs, 1, 1)
    define(head, driver, 1, {"preferred": RIGHT}, CPU=1)
    # What is free there is not known to be taken.
    head.machine.peers.peers[other.node].spare["CPU"] = UNIT
    want(cluster, head, driver, 1, 1)
    assert head.machine.delegation.away and not head.leased()
    cluster.pass_time(3)
    assert not head.machine.delegation.away and head.leased() == 1


def test_work_near_its_large_argument_leaves_although_there_is_room_here():
    cluster = ClusterBench({"cpus": 2}, {"cpus": 2})
    head, other = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, {"near": other.node, "near_bytes": 1 << 26}, CPU=1)
    want(cluster, head, driver, 1, 2)
    assert other.leased() == 2 and head.leased() == 0


def test_what_waits_elsewhere_comes_back_when_there_is_room_here():
    cluster = ClusterBench({"cpus": 1}, {"cpus": 1})
    head, other = cluster.nodes
    driver, theirs = head.driver(), other.driver(b"drv2")
    define(head, driver, 1, CPU=1)
    define(other, theirs, 1, CPU=1)
    want(cluster, head, driver, 1, 1)
    (mine,) = granted(head, driver)
    # Two at once for one free place: one of them waits there.
    head.machine.peers.peers[other.node].spare["CPU"] = 2 * UNIT
    want(cluster, head, driver, 1, 2)
    assert other.leased() == 1
    assert head.machine.delegation.away
    head.send(driver, m.LeaseReturn(mine.lease, 1, 0))
    cluster.pass_time(0.3)
    assert not head.machine.delegation.away
    assert head.leased() == 1 and len(granted(head, driver)) == 2


def test_what_waits_at_a_full_node_goes_to_one_that_joins():
    cluster = ClusterBench({"cpus": 0}, {"cpus": 1})
    head, full = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, CPU=1)
    want(cluster, head, driver, 1, 3)
    assert full.leased() == 1
    cluster.pass_time(0.5)
    new = cluster.add(cpus=1)
    cluster.pass_time(0.5)
    assert (full.leased(), new.leased()) == (1, 1)
    lease, _ = granted(head, driver)
    # What is left waits at one of them, and each unit is met once.
    head.send(driver, m.LeaseReturn(lease.lease, 1, 0))
    cluster.settle()
    cluster.pass_time(0.5)
    assert (full.leased(), new.leased()) == (1, 1) and len(granted(head, driver)) == 1
    for member in cluster.nodes:
        member.machine.check_invariants()


def test_what_is_spread_and_waits_goes_to_a_node_that_joins_wherever_it_waits():
    cluster = ClusterBench({"cpus": 1}, {"cpus": 1})
    head = cluster.nodes[0]
    driver = head.driver()
    define(head, driver, 1, {"spread": True}, CPU=1)
    want(cluster, head, driver, 1, 5)
    assert [member.leased() for member in cluster.nodes] == [1, 1]
    cluster.pass_time(0.5)
    cluster.add(cpus=3)
    cluster.pass_time(1.0)
    assert [member.leased() for member in cluster.nodes] == [1, 1, 3] and len(granted(head, driver)) == 5
    for member in cluster.nodes:
        member.machine.check_invariants()


def test_when_a_node_dies_what_waited_there_goes_elsewhere_and_its_clients_leases_end():
    cluster = ClusterBench({"cpus": 0}, {"cpus": 1}, {"cpus": 0})
    head, busy, third = cluster.nodes
    driver, theirs = head.driver(), third.driver(b"drv3")
    define(third, theirs, 1, CPU=1)
    want(cluster, third, theirs, 1, 1)
    define(head, driver, 1, CPU=1)
    want(cluster, head, driver, 1, 1)
    assert granted(third, theirs) and not granted(head, driver)
    cluster.kill(third)
    (worker,) = busy.pool.workers.values()
    assert worker.killed
    busy.worker_dies(worker.id)
    cluster.settle()
    assert granted(head, driver)
    cluster.kill(busy)
    assert any(not change.alive and change.node == busy.node for change in head.take(driver, m.NodeChanged))
    want(cluster, head, driver, 1, 1)
    last = cluster.add(cpus=1)
    assert last.leased() == 1


def test_the_end_of_a_driver_ends_its_work_on_all_nodes():
    cluster = ClusterBench({"cpus": 0}, {"cpus": 2})
    head, other = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, CPU=1)
    want(cluster, head, driver, 1, 2)
    assert other.leased() == 2
    head.leave(driver)
    cluster.settle()
    assert all(worker.killed for worker in other.pool.workers.values() if worker.uses)
    assert not [client for client in other.machine.clients.values() if client.foreign]


def test_the_death_of_a_worker_is_heard_by_clients_of_other_nodes():
    cluster = ClusterBench({"cpus": 0}, {"cpus": 1})
    head, other = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, CPU=1)
    want(cluster, head, driver, 1, 1)
    (lease,) = granted(head, driver)
    other.worker_dies(lease.worker, exit_code=1, signal=0)
    cluster.settle()
    (death,) = head.take(driver, m.WorkerDied)
    assert death.worker == lease.worker and death.cause == DeathCause.EXIT_CODE


def test_the_cluster_is_the_sum_of_its_nodes():
    cluster = ClusterBench({"cpus": 1}, {"cpus": 2, "custom": {"left": 10}}, {"cpus": 2})
    head = cluster.nodes[0]
    driver = head.driver()
    head.take(driver)
    head.send(driver, m.Request(1, "resources", {}), m.Request(2, "nodes", {}))
    resources, nodes = head.take(driver, m.Reply)
    assert resources.value["total"]["CPU"] == 5 * UNIT and resources.value["available"]["left"] == 10 * UNIT
    assert len(nodes.value) == 3
    cluster.kill(cluster.nodes[1])
    head.take(driver)
    head.send(driver, m.Request(3, "resources", {}), m.Request(4, "nodes", {}))
    resources, nodes = head.take(driver, m.Reply)
    assert resources.value["total"]["CPU"] == 3 * UNIT and "left" not in resources.value["total"]
    assert [node.get("alive", True) for node in nodes.value] == [True, False, True]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_nothing_is_lost_and_the_books_balance(seed):
    print("seed", seed)
    chance = random.Random(seed)
    cluster = ClusterBench({"cpus": 1}, {"cpus": 2}, {"cpus": 2})
    drivers = [(member, member.driver(b"drv%d" % number)) for number, member in enumerate(cluster.nodes)]
    held: dict[bytes, list[tuple[int, int]]] = {driver: [] for _, driver in drivers}
    wanted = {driver: 0 for _, driver in drivers}
    for member, driver in drivers:
        define(member, driver, 1, {"spread": bool(chance.getrandbits(1))}, CPU=1)

    def collect():
        for member, driver in drivers:
            if not member.up:
                continue
            for message in member.take(driver):
                if isinstance(message, m.LeaseGranted):
                    held[driver].append((message.lease, message.worker))
                    wanted[driver] = max(0, wanted[driver] - 1)
                elif isinstance(message, m.NodeChanged) and not message.alive:
                    held[driver] = [each for each in held[driver] if each[1][4:] != message.node[:4]]
                elif isinstance(message, m.WorkerDied):
                    held[driver] = [each for each in held[driver] if each[1] != message.worker]

    for _ in range(150):
        member, driver = chance.choice([each for each in drivers if each[0].up])
        match chance.randrange(8):
            case 0 | 1 | 2:
                wanted[driver] = chance.randrange(6)
                member.send(driver, m.LeaseRequest(1, wanted[driver], wanted[driver]))
            case 3 | 4 if held[driver]:
                lease, _ = held[driver].pop(chance.randrange(len(held[driver])))
                member.send(driver, m.LeaseReturn(lease, 1, 0))
            case 5:
                cluster.pass_time(chance.random() * 0.3)
            case 6 if chance.random() < 0.2 and sum(each.up for each in cluster.nodes) > 2:
                cluster.kill(chance.choice([each for each in cluster.nodes[1:] if each.up]))
            case 7 if chance.random() < 0.3:
                cluster.add(cpus=chance.randrange(3))
        if chance.random() < 0.5:
            cluster.settle()
        collect()
    # In the end everybody gives back what it has and gets what it wants.
    for _ in range(60):
        for member, driver in drivers:
            if member.up:
                for lease, _ in held[driver]:
                    member.send(driver, m.LeaseReturn(lease, 1, 0))
                held[driver] = []
        for each in cluster.nodes:
            for worker in list(each.pool.workers.values()):
                if each.up and worker.killed:
                    each.worker_dies(worker.id)
        cluster.pass_time(0.2)
        collect()
    for member, driver in drivers:
        if member.up:
            assert wanted[driver] == 0, f"{wanted[driver]} of {driver} never came"
            member.send(driver, m.LeaseRequest(1, 0, 0))
            for lease, _ in held[driver]:
                member.send(driver, m.LeaseReturn(lease, 1, 0))
    cluster.pass_time(0.5)
    for member in cluster.nodes:
        if member.up:
            assert member.machine.resources.free["CPU"] == member.machine.resources.total["CPU"]
