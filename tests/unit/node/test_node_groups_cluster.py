"""Placement groups over several nodes: held everywhere or nowhere, known where asked for, moved when a node dies."""

from __future__ import annotations

import random
from typing import Any

import pytest
from cluster_bench import ClusterBench, Member, node_id

from obsray.core.node.arranging import Offer, arrange
from obsray.core.node.bundles import Bundle
from obsray.core.node.groups import PATIENCE_SECONDS
from obsray.core.node.resources import UNIT, Resources
from obsray.core.protocol import labels
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import ActorState, GroupState
from obsray.ids import SEQUENCE_ACTOR, SEQUENCE_DETACHED_GROUP, SEQUENCE_GROUP, task_id
from obsray.telemetry.events import Reason
from tests.unit.node.node_bench import actor_spec


def ask(member: Member, owner: bytes, *cpus: float, number: int = 1, detached: bool = False, **changes: Any) -> bytes:
    """Ask for a group; every node checks its books after each stimulus."""
    group = task_id(owner, number, SEQUENCE_DETACHED_GROUP if detached else SEQUENCE_GROUP)
    spec = {
        "group": group, "name": "", "namespace": "", "strategy": "PACK", "selectors": [], "detached": detached,
        "bundles": [{"CPU": round(each * UNIT)} for each in cpus], "job": member.machine.jobs.count, "target": bytes(8),
    }  # fmt: skip
    member.send(owner, m.CreateGroup(100 + number, {**spec, **changes}))
    return group


def state(member: Member, group: bytes) -> GroupState:
    return member.machine.groups.groups[group].state


def where(member: Member, group: bytes) -> list[int]:
    """The numbers of the nodes of its bundles, -1 for none."""
    nodes = [bundle.node if bundle.open else b"" for bundle in member.machine.groups.groups[group].bundles]
    return [int(node[1:4]) if node else -1 for node in nodes]


def define(member: Member, client: bytes, shape: int, placement: dict[str, Any], cpus: float = 1) -> None:
    member.send(client, m.DefineShape(shape, f"shape{shape}", {"CPU": round(cpus * UNIT)}, None, placement))


def free(*members: Member) -> list[float]:
    return [member.free() for member in members]


# --- where bundles go ------------------------------------------------------------------------------------------------


def bundles(*cpus: float, selector: Any = ()) -> list[Bundle]:
    return [Bundle(index, {"CPU": round(each * UNIT)}, selector) for index, each in enumerate(cpus)]


def offers(*cpus: float) -> list[Offer]:
    return [
        Offer(node_id(n), {"n": str(n)}, Resources({"CPU": round(each * UNIT)})) for n, each in enumerate(cpus)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("strategy", "wanted", "cpus", "found"),
    [
        ("PACK", (1, 1), (1, 2, 4), [1, 1]),
        ("PACK", (2, 2, 1), (2, 3, 2), [1, 0, 1]),
        ("SPREAD", (1, 1, 1), (4, 1, 1), [0, 1, 2]),
        ("SPREAD", (1, 1, 1), (4, 1), [0, 1, 0]),
        ("STRICT_SPREAD", (1, 3, 2), (3, 1, 2), [1, 0, 2]),
        ("STRICT_PACK", (1, 1, 1), (2, 2, 3), [2, 2, 2]),
    ],
)
def test_bundles_go_where_their_strategy_says(strategy, wanted, cpus, found):
    assert arrange(bundles(*wanted), strategy, offers(*cpus)) == found


def test_a_big_bundle_finds_its_place_though_small_ones_come_first():
    assert arrange(bundles(1, 1, 2), "SPREAD", offers(2, 2)) in ([0, 0, 1], [1, 1, 0])


def test_bundles_that_are_placed_count_for_where_the_others_go():
    there = offers(4, 4, 4)
    taken = {there[1].node: 1}
    assert arrange(bundles(1), "PACK", there, taken) == [1]
    assert arrange(bundles(1, 1), "STRICT_SPREAD", there, taken) == [0, 2]
    assert set(arrange(bundles(1, 1), "SPREAD", there, taken)) == {0, 2}


def test_the_wished_node_is_taken_if_it_has_room():
    there = offers(4, 4, 2)
    assert arrange(bundles(1, 1), "STRICT_PACK", there, target=there[2].node) == [2, 2]
    assert arrange(bundles(2, 1), "STRICT_PACK", there, target=there[2].node) == [0, 0]


def domains(*cpus_of: tuple[str, float]) -> list[Offer]:
    """Nodes with the label ``domain``, "" for none."""
    return [
        Offer(node_id(n), {"domain": name} if name else {}, Resources({"CPU": round(each * UNIT)}))
        for n, (name, each) in enumerate(cpus_of)
    ]


def test_bundles_by_label_go_to_nodes_that_share_its_value_and_to_few_of_them():
    strategy = f"{m.PACK_BY_LABEL}domain"
    there = domains(("a", 2), ("b", 2), ("", 8), ("b", 2), ("a", 1))
    assert arrange(bundles(1, 1, 1, 1), strategy, there) == [1, 1, 3, 3]
    assert arrange(bundles(1, 1), strategy, there) in ([1, 1], [3, 3])
    assert arrange(bundles(2, 1), strategy, domains(("a", 2), ("b", 2), ("a", 1))) == [0, 2]
    text = arrange(bundles(2, 2, 1), strategy, there)
    assert isinstance(text, str) and "bundle 2 lacks CPU" in text and "where domain is b, the roomiest of 2" in text
    assert arrange(bundles(1), strategy, domains(("", 4))) == "no node has the label domain"


def test_bundles_by_label_that_are_placed_again_go_to_where_the_others_are():
    there = domains(("a", 1), ("b", 9), ("a", 2))
    strategy = f"{m.PACK_BY_LABEL}domain"
    assert arrange(bundles(1), strategy, there, {there[0].node: 1}) == [0]
    assert arrange(bundles(2), strategy, there, {there[0].node: 1}) == [2]
    text = arrange(bundles(4), strategy, there, {there[0].node: 1})
    assert isinstance(text, str) and "where domain is a" in text
    gone = {node_id(7): 1}
    assert "as its other bundles takes more" in arrange(bundles(1), strategy, there, gone)


def test_what_is_lacking_names_the_closest_node():
    text = arrange(bundles(1, 5), "PACK", offers(1, 4, 2))
    closest = f"on node {node_id(1).hex()[:8]}, the closest of 3, once bundle 0 had room"
    assert text == f"bundle 1 lacks CPU 2 more (3 of 4 free) {closest}"
    wanted = labels.parse({"n": "9"}, "selector")
    assert "label n=9 (the node has n=" in arrange(bundles(1, selector=wanted), "PACK", offers(1, 4))


# --- two phases ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "nodes"), [("PACK", [0, 0]), ("STRICT_PACK", [0, 0]), ("SPREAD", [0, 1]), ("STRICT_SPREAD", [0, 1])]
)
def test_strategies_decide_how_many_nodes_are_used(strategy, nodes):
    bench = ClusterBench({"cpus": 2}, {"cpus": 2})
    head, other = bench.nodes
    driver = head.driver()
    group = ask(head, driver, 1, 1, strategy=strategy)
    head.send(driver, m.WatchGroup(group))
    bench.settle()
    assert where(head, group) == nodes
    assert free(head, other) == ([0, 2] if nodes == [0, 0] else [1, 1])
    assert head.take(driver, m.GroupChanged)[-1].state == GroupState.CREATED
    if nodes[1]:
        assert where(other, group) == nodes and state(other, group) is GroupState.CREATED
        (held,) = other.records.named("bundles_prepared")
        assert (held["bundles"], held["error"]) == (1, "")
    head.send(driver, m.RemoveGroup(group))
    bench.settle()
    assert free(head, other) == [2, 2]
    assert other.machine.groups.groups.get(group) is None or state(other, group) is GroupState.REMOVED


def test_a_group_goes_to_a_node_with_room_while_its_home_has_none():
    bench = ClusterBench({"cpus": 0}, {"cpus": 2}, {"cpus": 2})
    head = bench.nodes[0]
    group = ask(head, head.driver(), 1, 2)
    bench.settle()
    assert state(head, group) is GroupState.CREATED and sorted(where(head, group)) == [1, 2]


def test_a_node_that_refuses_makes_all_give_back_and_it_is_tried_again():
    bench = ClusterBench({"cpus": 1}, {"cpus": 1}, {"cpus": 1})
    head, second, third = bench.nodes
    # A program there takes the room before its node has reported that.
    driver = third.driver()
    third.define(driver, 1, CPU=1)
    third.want(driver, 1, 1)
    third.workers_join()
    (lease,) = third.granted(driver)
    group = ask(head, head.driver(), 1, 1, 1, strategy="SPREAD")
    bench.settle()
    assert state(head, group) is GroupState.PENDING and free(head, second) == [1, 1]
    failed = head.records.named("group_attempt_failed")[0]
    assert failed["node"] == third.node and "refused: bundle 2 lacks CPU 1 more (0 of 1 free)" in failed["error"]
    bench.pass_time(1.0)
    assert len(head.records.named("group_attempt_failed")) <= 2, "the node has reported what it has"
    third.give_back(driver, lease)
    bench.pass_time(1.0)
    assert state(head, group) is GroupState.CREATED and free(head, second, third) == [0, 0, 0]


def test_a_broken_link_ends_the_try_and_nothing_stays_held():
    bench = ClusterBench({"cpus": 1}, {"cpus": 1})
    head, other = bench.nodes
    group = ask(head, head.driver(), 1, 1, strategy="SPREAD")
    bench.deliver(head.node, other.node)
    assert free(head, other) == [0, 0] and state(head, group) is GroupState.PENDING
    bench.cut(head, other)
    assert free(head) == [1] and "the link" in head.records.named("group_attempt_failed")[0]["error"]
    bench.pass_time(2.0)
    assert state(head, group) is GroupState.CREATED and free(head, other) == [0, 0]


def test_an_answer_that_never_comes_ends_the_try():
    bench = ClusterBench({"cpus": 1}, {"cpus": 1})
    head, other = bench.nodes
    group = ask(head, head.driver(), 1, 1, strategy="SPREAD")
    bench.deliver(head.node, other.node)
    late = bench.wires[other.node, head.node].copy()
    bench.wires[other.node, head.node].clear()
    bench.pass_time(5.2)
    assert "did not answer" in head.records.named("group_attempt_failed")[0]["error"]
    # It comes after all: of an old try, so what it speaks of is given back and the new one stays.
    bench.wires[other.node, head.node].extend(late)
    bench.pass_time(1.0)
    assert state(head, group) is GroupState.CREATED and free(head, other) == [0, 0]


def test_a_home_that_dies_frees_what_others_held_for_it():
    bench = ClusterBench({"cpus": 1}, {"cpus": 1}, {"cpus": 1})
    head, home, third = bench.nodes
    driver = home.driver()
    created = ask(home, driver, 1, 1, strategy="SPREAD")
    bench.settle()
    tried = ask(home, driver, 1, number=2, strategy="SPREAD")
    bench.deliver(home.node, third.node)
    assert state(home, created) is GroupState.CREATED and free(head, home, third).count(0) == 3
    assert tried in third.machine.groups.groups or tried in head.machine.groups.groups
    bench.kill(home)
    assert free(head, third) == [1, 1]


def test_a_node_that_took_part_in_a_try_that_failed_hears_of_the_groups_end():
    bench = ClusterBench({"cpus": 1}, {"cpus": 1}, {"cpus": 1})
    head, second, third = bench.nodes
    driver = third.driver()
    third.define(driver, 1, CPU=1)
    third.want(driver, 1, 1)
    third.workers_join()
    owner = head.driver()
    group = ask(head, owner, 1, 1, 1, strategy="SPREAD")
    bench.settle()
    assert state(second, group) is GroupState.PENDING, "it holds nothing, but has a copy"
    head.send(owner, m.RemoveGroup(group))
    bench.settle()
    assert [state(each, group) for each in bench.nodes] == [GroupState.REMOVED] * 3


def test_what_waits_elsewhere_for_a_bundle_of_a_removed_group_is_forgotten():
    bench = ClusterBench({"cpus": 1}, {"cpus": 1})
    head, other = bench.nodes
    driver = head.driver()
    group = ask(head, driver, 1, 1, strategy="STRICT_SPREAD")
    bench.settle()
    define(head, driver, 1, {"group": group, "bundle": 1})
    head.want(driver, 1, 3)
    bench.settle()
    assert head.machine.delegation.away
    head.send(driver, m.RemoveGroup(group))
    bench.settle()
    assert not head.machine.delegation.away
    # Nothing is wanted again that nobody wants any more.
    bench.kill(other)


# --- copies ----------------------------------------------------------------------------------------------------------


def test_work_for_a_bundle_elsewhere_runs_there():
    bench = ClusterBench({"cpus": 1}, {"cpus": 1})
    head, other = bench.nodes
    driver = head.driver()
    group = ask(head, driver, 1, 1, strategy="STRICT_SPREAD")
    bench.settle()
    for index in (0, 1):
        define(head, driver, index, {"group": group, "bundle": index})
        head.want(driver, index, 1)
    bench.settle()
    leases = {lease.shape: lease.worker for lease in head.granted(driver)}
    assert leases[0][4:] == head.node[:4] and leases[1][4:] == other.node[:4]
    assert head.machine.groups.nodes_of(group, 1) == [other.node]
    assert head.machine.groups.nodes_of(group, 0) == []


@pytest.mark.parametrize("home_cpus", [2, 0])
def test_work_for_any_bundle_goes_on_to_the_one_that_has_room(home_cpus):
    bench = ClusterBench({"cpus": home_cpus}, {"cpus": 2}, {"cpus": 2}, {"cpus": 2})
    head = bench.nodes[0]
    driver = head.driver()
    count = len([member for member in bench.nodes if member.free()])
    group = ask(head, driver, *([2] * count), strategy="STRICT_SPREAD")
    bench.settle()
    actors = [task_id(driver, number, SEQUENCE_ACTOR) for number in range(1, 2 * count + 1)]
    for request, actor in enumerate(actors):
        spec = actor_spec(actor, driver, placement={"group": group}, held={"CPU": UNIT})
        head.send(driver, m.CreateActor(10 + request, spec))
    bench.pass_time(10)
    assert [member.leased() for member in bench.nodes if member.pool.workers] == [2] * count
    define(head, driver, 1, {"group": group})
    head.want(driver, 1, 1)
    bench.pass_time(5)
    # Wherever room comes up, what waits gets there.
    full = bench.nodes[-1]
    (dies, *_) = [worker.id for worker in full.pool.workers.values() if worker.state.name == "ACTOR"]
    full.worker_dies(dies)
    bench.pass_time(20)
    (lease,) = head.granted(driver)
    assert lease.worker in full.pool.workers
    for member in bench.nodes:
        member.machine.check_invariants()


def test_a_shape_waits_for_the_description_of_its_group_and_is_refused_if_it_cannot_run():
    bench = ClusterBench({"cpus": 2}, {"cpus": 2}, {"cpus": 2})
    home, _, asker = bench.nodes
    group = ask(home, home.driver(), 1)
    bench.settle()
    driver = asker.driver()
    define(asker, driver, 1, {"group": group, "bundle": 0})
    define(asker, driver, 2, {"group": group, "bundle": 7})
    define(asker, driver, 3, {"group": group}, cpus=2)
    asker.want(driver, 1, 1)
    asker.want(driver, 2, 1)
    assert "has not said yet" in asker.records.named("lease_decided")[-1]["deficit"]
    actor = task_id(driver, 1, SEQUENCE_ACTOR)
    asker.send(driver, m.CreateActor(7, actor_spec(actor, driver, placement={"group": group, "bundle": 9})))
    bench.settle()
    refused = {(x.shape, x.kind) for x in asker.take(driver, m.ShapeRefused)}
    assert refused == {(2, "unschedulable"), (3, "unschedulable")}
    assert [lease.shape for lease in asker.granted(driver)] == [1]
    assert asker.machine.actors.actors[actor].state is ActorState.DEAD
    define(asker, driver, 4, {"group": task_id(home.node[4:] + home.node[:4], 99, SEQUENCE_GROUP)})
    bench.settle()
    assert [(x.shape, x.kind) for x in asker.take(driver, m.ShapeRefused)] == [(4, "group_removed")]


def test_removing_from_anywhere_ends_it_everywhere():
    bench = ClusterBench({"cpus": 1}, {"cpus": 1}, {"cpus": 1})
    head, second, third = bench.nodes
    driver, far = head.driver(), third.driver()
    group = ask(head, driver, 1, 1, strategy="STRICT_SPREAD")
    bench.settle()
    define(third, far, 1, {"group": group, "bundle": 1})
    third.want(far, 1, 1)
    third.send(far, m.WatchGroup(group))
    bench.settle()
    assert len(third.granted(far)) == 1 and third.take(far, m.GroupChanged)[0].state == GroupState.CREATED
    third.send(far, m.RemoveGroup(group))
    bench.settle()
    killed = [worker for member in bench.nodes for worker in member.killed()]
    assert len(killed) == 1
    for member in bench.nodes:
        for worker in killed:
            if worker in member.pool.workers:
                member.worker_dies(worker)
    bench.settle()
    assert free(head, second, third) == [1, 1, 1]
    assert next(x.kind for x in third.take(far, m.ShapeRefused)) == "group_removed"
    assert state(third, group) is GroupState.REMOVED


def test_a_detached_group_is_at_home_at_the_head_and_outlives_its_maker():
    bench = ClusterBench({"cpus": 1}, {"cpus": 1})
    head, other = bench.nodes
    driver = other.driver()
    group = ask(other, driver, 1, 1, detached=True, strategy="SPREAD", name="kept", namespace="n")
    bench.settle()
    assert other.take(driver, m.Reply)[-1].error == "" and state(head, group) is GroupState.CREATED
    mine = ask(other, driver, 1, number=2)
    bench.settle()
    other.leave(driver)
    bench.settle()
    assert state(head, group) is GroupState.CREATED and state(other, mine) is GroupState.REMOVED
    asker = other.driver(b"drv2")
    other.send(asker, m.Request(5, "get_group", {"name": "kept", "namespace": "n"}))
    bench.settle()
    assert other.take(asker, m.Reply)[-1].value["group"] == group


def test_groups_are_listed_and_found_from_every_node_and_names_are_taken_once():
    bench = ClusterBench({"cpus": 2}, {"cpus": 2}, {"cpus": 2})
    drivers = [member.driver() for member in bench.nodes]
    made = [ask(bench.nodes[n], drivers[n], 1, name=f"g{n}", namespace="n") for n in range(3)]
    bench.settle()
    ask(bench.nodes[2], drivers[2], 1, number=2, name="g0", namespace="n")
    bench.settle()
    assert bench.nodes[2].take(drivers[2], m.Reply)[-1].kind == "name_taken"
    bench.nodes[2].send(drivers[2], m.Request(1, "groups", {"group": None}))
    bench.nodes[2].send(drivers[2], m.Request(2, "groups", {"group": made[0]}))
    bench.settle()
    replies = {reply.request: reply.value for reply in bench.nodes[2].take(drivers[2], m.Reply)}
    assert {row["group"] for row in replies[1]} == set(made)
    assert [list(row["nodes"]) for row in replies[2]] == [[bench.nodes[0].node]]


def test_of_two_who_ask_for_a_name_at_once_one_gets_it():
    bench = ClusterBench({"cpus": 1}, {"cpus": 1}, {"cpus": 1})
    drivers = [member.driver() for member in bench.nodes]
    for number, driver in enumerate(drivers):
        ask(bench.nodes[number], driver, 1, name="only", namespace="n")
    bench.settle()
    kinds = sorted(bench.nodes[n].take(driver, m.Reply)[-1].kind for n, driver in enumerate(drivers))
    assert kinds == ["", "name_taken", "name_taken"]


def test_a_name_is_free_again_when_its_group_is_removed_or_its_node_is_dead():
    bench = ClusterBench({"cpus": 1}, {"cpus": 1}, {"cpus": 1})
    _, one, other = bench.nodes
    drivers = [member.driver() for member in bench.nodes]

    def wants(number: int, asked: int) -> str:
        ask(bench.nodes[number], drivers[number], 1, number=asked, name="only", namespace="n")
        bench.settle()
        return bench.nodes[number].take(drivers[number], m.Reply)[-1].kind

    assert (wants(1, 1), wants(2, 1)) == ("", "name_taken")
    one.send(drivers[1], m.RemoveGroup(task_id(drivers[1], 1, SEQUENCE_GROUP)))
    bench.settle()
    assert (wants(2, 2), wants(1, 2), wants(0, 1)) == ("", "name_taken", "name_taken")
    bench.kill(other)
    assert wants(0, 2) == ""


def test_a_name_needs_the_control_store_and_what_has_none_does_not():
    bench = ClusterBench({"cpus": 1}, {"cpus": 1})
    head = bench.nodes[0]
    driver = head.driver()
    bench.control_answers = False
    group = ask(head, driver, 1)
    bench.settle()
    assert state(head, group) is GroupState.CREATED and head.take(driver, m.Reply)[-1].kind == ""
    ask(head, driver, 1, number=2, name="g", namespace="n")
    bench.settle()
    assert not head.take(driver, m.Reply)
    bench.control_is_away()
    assert head.take(driver, m.Reply)[-1].kind == "unavailable"


def test_a_name_that_was_asked_for_by_somebody_who_is_gone_is_given_back():
    bench = ClusterBench({"cpus": 1}, {"cpus": 1})
    head, other = bench.nodes
    driver, later = other.driver(), head.driver()
    bench.control_answers = False
    ask(other, driver, 1, name="g", namespace="n")
    other.leave(driver)
    bench.control_answers = True
    bench.settle()
    assert not bench.group_names and not other.scheduler.groups.groups
    ask(head, later, 1, name="g", namespace="n")
    bench.settle()
    assert head.take(later, m.Reply)[-1].kind == ""


def test_a_node_that_does_not_answer_is_left_out_of_the_list():
    bench = ClusterBench({"cpus": 1}, {"cpus": 1})
    head, other = bench.nodes
    driver = head.driver()
    head.send(driver, m.Request(1, "groups", {"group": None}))
    bench.wires[head.node, other.node].clear()
    bench.pass_time(3.2)
    assert head.take(driver, m.Reply)[-1].value == []


# --- nodes come and go -----------------------------------------------------------------------------------------------


def test_bundles_of_a_dead_node_move_and_the_others_stay():
    bench = ClusterBench({"cpus": 0}, {"cpus": 1}, {"cpus": 1})
    head, second, third = bench.nodes
    driver = head.driver()
    group = ask(head, driver, 1, 1, strategy="STRICT_SPREAD")
    bench.settle()
    lost = where(head, group).index(2)
    for index in (0, 1):
        define(head, driver, index, {"group": group, "bundle": index})
    head.want(driver, 1 - lost, 1)
    bench.settle()
    (lease,) = head.granted(driver)
    bench.kill(third)
    assert state(head, group) is GroupState.RESCHEDULING and state(second, group) is GroupState.RESCHEDULING
    assert head.records.named("group_rescheduling")[0]["bundles"] == 1
    assert lease.lease in second.scheduler.leases, "what runs in the others goes on"
    head.want(driver, lost, 1)
    bench.settle()
    assert not head.granted(driver)
    waiting = head.machine.groups.groups[group]
    assert waiting.reason is Reason.INFEASIBLE and "STRICT_SPREAD needs 2 nodes" not in waiting.deficit
    fourth = bench.add(cpus=1)
    bench.pass_time(0.5)
    assert state(head, group) is GroupState.CREATED and where(head, group)[lost] == 3
    bench.settle()
    assert [each.shape for each in head.granted(driver)] == [lost] and free(second, fourth) == [0, 0]


def test_an_infeasible_group_is_placed_when_a_fitting_node_joins():
    bench = ClusterBench({"cpus": 1}, {"cpus": 1})
    head = bench.nodes[0]
    group = ask(head, head.driver(), 4)
    bench.settle()
    waiting = head.records.named("group_waiting")[-1]
    assert waiting["reason"] is Reason.INFEASIBLE and "bundle 0 lacks CPU 3 more (1 of 1 free)" in waiting["deficit"]
    bench.add(cpus=4)
    bench.pass_time(0.5)
    assert state(head, group) is GroupState.CREATED and where(head, group) == [2]


@pytest.mark.parametrize("seed", range(12))
def test_shares_are_conserved_whatever_is_lost_and_whoever_dies(seed):
    """Every node checks its books after each stimulus. At rest a group is all there or holds nothing."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    bench = ClusterBench({"cpus": 2}, {"cpus": 3}, {"cpus": 2}, {"cpus": 1})
    drivers = {member.node: member.driver() for member in bench.nodes}
    asked: list[tuple[Member, bytes, bool]] = []
    removed: set[bytes] = set()
    for _ in range(120):
        up = [member for member in bench.nodes if member.up]
        member = chance.choice(up)
        match chance.choice("ggxwwcldddddtk"):
            case "g":
                cpus = [chance.choice((0.5, 1, 1)) for _ in range(chance.randint(1, 4))]
                strategy = chance.choice(m.GROUP_STRATEGIES)
                detached = chance.random() < 0.2
                number = len(asked) + 1
                driver = drivers[member.node]
                asked.append(
                    (member, ask(member, driver, *cpus, number=number, detached=detached, strategy=strategy), detached)
                )
            case "x" if asked:
                group = chance.choice(asked)[1]
                member.send(drivers[member.node], m.RemoveGroup(group))
                removed.add(group)
            case "w" if asked:
                shape = len(member.scheduler.demands) + len(member.scheduler.refused) + 1
                define(member, drivers[member.node], shape, {"group": chance.choice(asked)[1]}, chance.choice((0.5, 1)))
                try:
                    member.want(drivers[member.node], shape, 1)
                except ValueError:
                    pass
            case "c" if len(up) > 1:
                other = chance.choice([each for each in up if each is not member])
                bench.cut(member, other)
            case "d" if bench.wires:
                wire = chance.choice(list(bench.wires))
                bench.deliver(*wire)
            case "t":
                for each in up:
                    each.now += chance.choice((0.05, 0.3))
                    each.do(each.machine.tick)
            case "k" if len(up) > 2 and member is not bench.nodes[0] and chance.random() < 0.3:
                bench.kill(member)
            case "l":
                bench.settle()
        for each in bench.nodes:
            for worker in each.killed() if each.up else ():
                if worker in each.pool.workers:
                    each.worker_dies(worker)
    for _ in range(4):
        bench.pass_time(1.0)
        for each in bench.nodes:
            for worker in each.killed() if each.up else ():
                if worker in each.pool.workers:
                    each.worker_dies(worker)
    up = [member for member in bench.nodes if member.up]
    held = {
        member.node: sum(
            share.amounts.get("CPU", 0) for key, share in member.machine.resources.shares.items() if key < 0
        )
        for member in up
    }
    wanted = dict.fromkeys(held, 0)
    for member, group, detached in asked:
        home = bench.nodes[0] if detached else member
        if not home.up or group not in home.machine.groups.groups:
            continue
        found = home.machine.groups.groups[group]
        opened = [bundle for bundle in found.bundles if bundle.open]
        if found.state is GroupState.CREATED:
            assert len(opened) == len(found.bundles)
        elif found.state is GroupState.REMOVED:
            continue
        elif found.state is GroupState.PENDING:
            assert not opened
            assert group in home.scheduler.group_demands.waiting or found.trying, "nobody looks after it any more"
        for bundle in opened:
            wanted[bundle.node] += bundle.amounts["CPU"]
    assert held == wanted


def saturate(bench: ClusterBench, member: Member, cpus: int) -> tuple[bytes, list[m.LeaseGranted]]:
    """A driver of the node has all its CPUs, and wants many more."""
    driver = member.driver(b"busy")
    define(member, driver, 1, {"node": member.node, "soft": False})
    member.send(driver, m.LeaseRequest(1, 50, 50))
    bench.settle()
    leases = member.take(driver, m.LeaseGranted)
    assert len(leases) == cpus
    return driver, leases


def work_goes_on(bench: ClusterBench, member: Member, driver: bytes, leases: list[m.LeaseGranted]) -> None:
    """The oldest of its leases is returned; who gets the CPU is for the node to say."""
    member.send(driver, m.LeaseReturn(leases.pop(0).lease, 1, 0))
    bench.settle()
    bench.pass_time(0.4)
    leases += member.take(driver, m.LeaseGranted)


@pytest.mark.parametrize("strategy", ["STRICT_PACK", "STRICT_SPREAD"])
def test_a_group_gets_its_turn_at_full_nodes_although_others_keep_coming(strategy):
    bench = ClusterBench({"cpus": 0}, {"cpus": 2}, {"cpus": 2})
    head, one, other = bench.nodes
    busy = [(member, *saturate(bench, member, 2)) for member in (one, other)]
    bench.pass_time(0.1)
    # A whole node, or one of each.
    owner = head.driver()
    group = ask(head, owner, *((2,) if strategy == "STRICT_PACK" else (2, 2)), strategy=strategy)
    bench.settle()
    for _ in range(40):
        for member, driver, leases in busy:
            if leases:
                work_goes_on(bench, member, driver, leases)
        if state(head, group) is GroupState.CREATED:
            break
    assert state(head, group) is GroupState.CREATED, head.machine.groups.groups[group].deficit
    assert not one.scheduler.group_demands.turns and not other.scheduler.group_demands.turns
    head.send(owner, m.RemoveGroup(group))
    bench.settle()
    bench.pass_time(1.0)
    assert free(one) == free(other) == [0], "what the group had is not given to those who wait"


def test_a_turn_that_does_not_come_ends_and_what_was_held_for_it_goes_to_others():
    bench = ClusterBench({"cpus": 0}, {"cpus": 2}, {"cpus": 2})
    head, one, other = bench.nodes
    driver, leases = saturate(bench, one, 2)
    bench.pass_time(0.1)
    group = ask(head, head.driver(), 2, 2, strategy="STRICT_SPREAD")
    bench.pass_time(2.0)
    assert free(other) == [0] and one.scheduler.group_demands.turns, "it waits for its turn at one, and holds the other"
    bench.pass_time(PATIENCE_SECONDS)
    assert free(other) == [2] and not one.scheduler.group_demands.turns
    assert "had no room in 10 s" in head.records.named("group_attempt_failed")[-1]["error"]
    # The pause is longer than what it held the other for.
    bench.pass_time(PATIENCE_SECONDS - 2)
    assert free(other) == [2]
    for lease in leases:
        one.send(driver, m.LeaseReturn(lease.lease, 1, 0))
    one.send(driver, m.LeaseRequest(1, 0, 0))
    bench.settle()
    for lease in one.take(driver, m.LeaseGranted):
        one.send(driver, m.LeaseReturn(lease.lease, 1, 0))
    bench.settle()
    bench.pass_time(2.0)
    assert state(head, group) is GroupState.CREATED


def test_a_turn_ends_with_its_group_and_with_the_link_to_its_home():
    bench = ClusterBench({"cpus": 0}, {"cpus": 2})
    head, one = bench.nodes
    saturate(bench, one, 2)
    bench.pass_time(0.1)
    owner = head.driver()
    group = ask(head, owner, 2)
    bench.pass_time(1.5)
    assert set(one.scheduler.group_demands.turns) == {group}
    head.send(owner, m.RemoveGroup(group))
    bench.settle()
    assert not one.scheduler.group_demands.turns
    group = ask(head, owner, 2, number=2)
    bench.pass_time(1.5)
    assert set(one.scheduler.group_demands.turns) == {group}
    bench.cut(head, one)
    assert not one.scheduler.group_demands.turns


def test_nothing_is_kept_for_a_group_where_actors_hold_what_it_lacks():
    bench = ClusterBench({"cpus": 0}, {"cpus": 2})
    head, one = bench.nodes
    owner = one.driver(b"acts")
    for number in range(2):
        one.send(
            owner, m.CreateActor(number, actor_spec(task_id(owner, number, SEQUENCE_ACTOR), owner, held={"CPU": UNIT}))
        )
    bench.settle()
    assert free(one) == [0]
    ask(head, head.driver(), 2)
    bench.pass_time(3.0)
    assert not one.scheduler.group_demands.turns
    assert "held by actors" in head.records.named("group_attempt_failed")[-1]["error"]
