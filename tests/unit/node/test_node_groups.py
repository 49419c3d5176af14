"""Placement groups: reserved all or nothing, used from inside only, given back when the last worker is gone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obsray.core.node.arranging import Offer, arrange
from obsray.core.node.bundles import Bundle
from obsray.core.node.resources import UNIT, Resources
from obsray.core.protocol import labels
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import ActorState, GroupState
from obsray.ids import SEQUENCE_ACTOR, SEQUENCE_GROUP, task_id
from obsray.telemetry.events import DeathCause, LeaseOutcome, Reason
from tests.unit.node.node_bench import NODE, Bench, actor_spec

ELSEWHERE = b"NODEelse"


def group_id(owner: bytes, number: int = 1) -> bytes:
    return task_id(owner, number, SEQUENCE_GROUP)


def ask(bench: Bench, owner: bytes, *bundles: dict[str, float], number: int = 1, **changes: Any) -> bytes:
    """Ask for a group; the bench checks the books after each stimulus."""
    amounts = [{name: round(amount * UNIT) for name, amount in bundle.items()} for bundle in bundles]
    spec = {
        "group": group_id(owner, number), "name": "", "namespace": "", "strategy": "PACK", "bundles": amounts,
        "selectors": [], "detached": False, "job": 1, "target": bytes(8),
    }  # fmt: skip
    bench.send(owner, m.CreateGroup(100 + number, {**spec, **changes}))
    return group_id(owner, number)


def state(bench: Bench, group: bytes) -> GroupState:
    return bench.machine.groups.groups[group].state


def define(bench: Bench, client: bytes, shape: int, placement: dict[str, Any], **need: float) -> None:
    amounts = {name: round(amount * UNIT) for name, amount in need.items()}
    bench.send(client, m.DefineShape(shape, f"shape{shape}", amounts, None, placement))


def test_a_group_takes_its_bundles_together_and_tells_who_waits_for_it():
    bench = Bench(cpus=4)
    driver = bench.driver()
    group = ask(bench, driver, {"CPU": 1}, {"CPU": 2})
    bench.send(driver, m.WatchGroup(group))
    assert state(bench, group) is GroupState.CREATED and bench.free() == 1
    assert bench.take(driver, m.GroupChanged)[-1].state == GroupState.CREATED
    names = [name for name, fields in bench.records.events if fields.get("group") == group]
    assert names == [
        "group_requested", "lease_decided", "bundle_placed", "bundle_placed", "group_prepared", "group_created",
    ]  # fmt: skip


def test_a_group_that_cannot_fit_takes_nothing_and_says_which_bundle_lacks_what():
    bench = Bench(cpus=4)
    driver = bench.driver()
    group = ask(bench, driver, {"CPU": 3}, {"CPU": 3})
    assert state(bench, group) is GroupState.PENDING and bench.free() == 4
    (waiting,) = bench.records.named("group_waiting")
    assert waiting["reason"] is Reason.INFEASIBLE and "bundle 1 lacks CPU 2 more (1 of 4 free)" in waiting["deficit"]
    (decided,) = bench.records.named("lease_decided")
    assert (decided["outcome"], decided["group"]) == (LeaseOutcome.INFEASIBLE, group)


def test_strict_spread_over_more_bundles_than_nodes_waits_and_says_why():
    bench = Bench(cpus=4)
    group = ask(bench, bench.driver(), {"CPU": 1}, {"CPU": 1}, strategy="STRICT_SPREAD")
    assert state(bench, group) is GroupState.PENDING and bench.free() == 4
    assert "2 nodes" in bench.records.named("group_waiting")[0]["deficit"]


@pytest.mark.parametrize("strategy", ["PACK", "SPREAD", "STRICT_PACK"])
def test_all_other_strategies_fit_on_one_node(strategy):
    bench = Bench(cpus=4)
    assert state(bench, ask(bench, bench.driver(), {"CPU": 1}, {"CPU": 1}, strategy=strategy)) is GroupState.CREATED


def test_a_group_is_placed_when_room_comes_free():
    bench = Bench(cpus=2)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.want(driver, 1, 2)
    bench.workers_join()
    leases = bench.granted(driver)
    group = ask(bench, driver, {"CPU": 2})
    assert bench.records.named("group_waiting")[0]["reason"] is Reason.NO_CAPACITY
    # The holder has nothing more to run: it is asked for its workers.
    assert {message.lease for message in bench.take(driver, m.LeaseReclaim)} == {lease.lease for lease in leases}
    bench.give_back(driver, leases[0])
    assert state(bench, group) is GroupState.PENDING
    bench.give_back(driver, leases[1])
    assert state(bench, group) is GroupState.CREATED and bench.free() == 0


def test_a_big_group_gets_its_turn_although_small_tasks_keep_coming():
    bench = Bench(cpus=2)
    driver, other = bench.driver(), bench.driver(b"driver_2")
    for client in (driver, other):
        bench.define(client, 1, CPU=1)
        bench.want(client, 1, 50)
    bench.workers_join()
    group = ask(bench, driver, {"CPU": 2})
    held = {client: bench.granted(client) for client in (driver, other)}
    for _ in range(60):
        bench.tick(0.1)
        for client, leases in held.items():
            leases += bench.granted(client)
            if leases:
                bench.give_back(client, leases.pop(0))
        if state(bench, group) is GroupState.CREATED:
            break
    assert state(bench, group) is GroupState.CREATED
    bench.send(driver, m.RemoveGroup(group))
    assert bench.granted(driver) + bench.granted(other), "and the tasks go on after it"


def test_work_in_a_group_uses_its_share_alone():
    bench = Bench(cpus=4)
    driver = bench.driver()
    group = ask(bench, driver, {"CPU": 1}, {"CPU": 2})
    define(bench, driver, 1, {"group": group, "bundle": 0}, CPU=1)
    define(bench, driver, 2, {"group": group}, CPU=2)
    bench.define(driver, 3, CPU=1)
    for shape in (1, 2, 3):
        bench.want(driver, shape, 5)
    bench.workers_join()
    granted = [lease.shape for lease in bench.granted(driver)]
    assert sorted(granted) == [1, 2, 3], "one in each bundle, and one in what is left of the node"
    granted = [each for each in bench.records.named("lease_decided") if each["outcome"] is LeaseOutcome.GRANTED]
    decided = {each["shape"]: each for each in granted}
    assert (decided["shape1"]["reason"], decided["shape1"]["group"], decided["shape1"]["bundle"]) == (
        Reason.PLACEMENT, group, 0,
    )  # fmt: skip
    assert decided["shape2"]["bundle"] == 1 and not any(decided["shape3"]["group"])


def test_a_task_that_waits_in_a_bundle_lends_its_cpu_to_the_bundle_only():
    bench = Bench(cpus=2)
    driver = bench.driver()
    group = ask(bench, driver, {"CPU": 1})
    define(bench, driver, 1, {"group": group}, CPU=1)
    bench.define(driver, 2, CPU=2)
    bench.want(driver, 1, 2)
    bench.workers_join()
    (lease,) = bench.granted(driver)
    bench.send(lease.worker, m.Blocked())
    bench.workers_join()
    (second,) = bench.granted(driver)
    assert second.shape == 1 and bench.free() == 1
    bench.send(lease.worker, m.Unblocked())


def test_work_for_a_group_that_is_not_there_waits_for_it():
    bench = Bench(cpus=2)
    driver = bench.driver()
    group = ask(bench, driver, {"CPU": 3})
    define(bench, driver, 1, {"group": group}, CPU=1)
    bench.want(driver, 1, 1)
    decided = bench.records.named("lease_decided")[-1]
    assert (decided["reason"], decided["group"]) == (Reason.PLACEMENT, group)
    assert "waits: bundle 0 lacks CPU 1 more" in decided["deficit"]


def test_removing_a_group_ends_what_runs_in_it_and_refuses_what_waits():
    bench = Bench(cpus=2)
    driver = bench.driver()
    group = ask(bench, driver, {"CPU": 2})
    define(bench, driver, 1, {"group": group}, CPU=1)
    define(bench, driver, 2, {"group": group}, CPU=2)
    bench.want(driver, 1, 1)
    bench.workers_join()
    (lease,) = bench.granted(driver)
    bench.want(driver, 2, 1)
    actor = task_id(driver, 1, SEQUENCE_ACTOR)
    bench.send(driver, m.CreateActor(7, actor_spec(actor, driver, placement={"group": group}, restarts_max=5)))
    bench.workers_join()
    assert bench.machine.actors.actors[actor].worker != bytes(8)
    bench.take(driver)
    bench.send(driver, m.RemoveGroup(group), m.RemoveGroup(group))
    told = bench.take(driver)
    assert {(x.shape, x.kind) for x in told if isinstance(x, m.ShapeRefused)} == {
        (1, "group_removed"), (2, "group_removed"),
    }  # fmt: skip
    (news,) = [x for x in told if isinstance(x, m.ActorChanged)]
    assert (news.state, news.cause) == (ActorState.DEAD, DeathCause.PLACEMENT_REMOVED)
    killed = bench.killed()
    assert lease.worker in killed and len(killed) == 2
    assert bench.free() == 0, "the share is not free before the last worker is gone"
    for worker in killed:
        bench.worker_dies(worker)
    assert bench.free() == 2 and state(bench, group) is GroupState.REMOVED
    assert bench.machine.actors.actors[actor].state is ActorState.DEAD, "it does not start again"
    bench.want(driver, 1, 3)
    define(bench, driver, 9, {"group": group}, CPU=1)
    assert [x.shape for x in bench.take(driver, m.ShapeRefused)] == [9]


def test_a_group_ends_with_its_job_unless_it_is_detached():
    bench = Bench(cpus=4)
    first, second = bench.driver(), bench.driver(b"driver_2")
    mine = ask(bench, first, {"CPU": 1})
    kept = ask(bench, first, {"CPU": 1}, number=2, detached=True)
    others = ask(bench, second, {"CPU": 1}, job=2)
    bench.leave(first)
    assert [state(bench, each) for each in (mine, kept, others)] == [
        GroupState.REMOVED, GroupState.CREATED, GroupState.CREATED,
    ]  # fmt: skip


def test_a_name_belongs_to_one_group_at_a_time():
    bench = Bench(cpus=4)
    driver = bench.driver()
    group = ask(bench, driver, {"CPU": 1}, name="g", namespace="n")
    ask(bench, driver, {"CPU": 1}, number=2, name="g", namespace="n")
    assert bench.take(driver, m.Reply)[-1].kind == "name_taken"
    bench.send(driver, m.RemoveGroup(group))
    again = ask(bench, driver, {"CPU": 1}, number=3, name="g", namespace="n")
    bench.send(driver, m.Request(9, "get_group", {"name": "g", "namespace": "n"}))
    assert bench.take(driver, m.Reply)[-1].value["group"] == again


def test_bundles_share_no_device():
    bench = Bench(cpus=4, gpus=2)
    driver = bench.driver()
    group = ask(bench, driver, {"GPU": 1}, {"GPU": 0.5, "CPU": 1})
    define(bench, driver, 1, {"group": group, "bundle": 0}, GPU=1)
    define(bench, driver, 2, {"group": group, "bundle": 1}, GPU=0.5)
    bench.define(driver, 3, GPU=0.5)
    for shape in (1, 2, 3):
        bench.want(driver, shape, 1)
    bench.workers_join()
    devices = {lease.shape: lease.devices["GPU"] for lease in bench.granted(driver)}
    assert devices[1] != devices[2] == devices[3]


@pytest.mark.parametrize(
    "placement", [{"group": b"short"}, {"bundle": -2}, {"node": b"x"}, {"selectors": [[("k", "like", ["v"])]]}], ids=str
)
def test_a_placement_that_is_none_closes_the_link(placement):
    from obsray.core.node.intake import Malformed

    bench = Bench()
    with pytest.raises(Malformed):
        define(bench, bench.driver(), 1, placement, CPU=1)


def test_a_hard_affinity_to_a_node_that_does_not_exist_is_refused_and_a_soft_one_is_not():
    bench = Bench()
    driver = bench.driver()
    define(bench, driver, 1, {"node": ELSEWHERE, "soft": False}, CPU=1)
    assert [(x.shape, x.kind) for x in bench.take(driver, m.ShapeRefused)] == [(1, "unschedulable")]
    define(bench, driver, 2, {"node": ELSEWHERE, "soft": True}, CPU=1)
    define(bench, driver, 3, {"node": NODE, "soft": False}, CPU=1)
    for shape in (2, 3):
        bench.want(driver, shape, 1)
    bench.workers_join()
    assert len(bench.granted(driver)) == 2 and not bench.take(driver, m.ShapeRefused)


def test_labels_that_no_node_has_are_named_and_fallbacks_are_tried():
    bench = Bench()
    driver = bench.driver()
    wanted = labels.parse({"side": "left"}, "label_selector")
    define(bench, driver, 1, {"selectors": [wanted]}, CPU=1)
    bench.want(driver, 1, 1)
    decided = bench.records.named("lease_decided")[-1]
    assert (decided["outcome"], decided["reason"]) == (LeaseOutcome.INFEASIBLE, Reason.LABELS)
    assert "label side=left (the node has no label side)" in decided["deficit"]
    fallback = labels.parse({"ray.io/node-id": NODE.hex()}, "label_selector")
    define(bench, driver, 2, {"selectors": [wanted, fallback]}, CPU=1)
    bench.want(driver, 2, 1)
    bench.workers_join()
    assert [lease.shape for lease in bench.granted(driver)] == [2]


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ("left", True),
        ("right", False),
        ("!left", False),
        ("!right", True),
        ("in(left, up)", True),
        ("!in(left)", False),
    ],
)
def test_conditions_mean_what_they_say(condition, met):
    assert (labels.unmet(labels.parse({"side": condition}, "x"), {"side": "left"}) == "") is met


def test_a_node_without_the_label_is_not_in_anything():
    assert labels.unmet(labels.parse({"side": "left"}, "x"), {}) and not labels.unmet(
        labels.parse({"side": "!left"}, "x"), {}
    )


@pytest.mark.parametrize("selector", [{"a b": "v"}, {"k": ""}, {"k": "in()"}, {"k": 1}, {1: "v"}, ["k"], {"k": "a/b"}])
def test_a_selector_that_means_nothing_is_refused(selector):
    with pytest.raises((ValueError, TypeError), match="label_selector"):
        labels.parse(selector, "label_selector")


def offers(*cpus: int) -> list[Offer]:
    return [Offer(b"n%07d" % n, {"n": str(n)}, Resources({"CPU": c * UNIT})) for n, c in enumerate(cpus)]


@pytest.mark.parametrize(
    ("strategy", "cpus", "arranged"),
    [
        ("PACK", (2, 4), [1, 1, 1]),
        ("PACK", (2, 1), [0, 0, 1]),
        ("SPREAD", (4, 4), [0, 1, 0]),
        ("STRICT_PACK", (2, 4), [1, 1, 1]),
        ("STRICT_SPREAD", (1, 2, 4), [2, 1, 0]),
    ],
)
def test_strategies_choose_among_several_nodes(strategy, cpus, arranged):
    bundles = [Bundle(index, {"CPU": UNIT}, ()) for index in range(3)]
    assert arrange(bundles, strategy, offers(*cpus)) == arranged
    assert isinstance(arrange(bundles, "STRICT_SPREAD", offers(8, 8)), str)
    assert isinstance(arrange(bundles, strategy, offers(1, 1)), str)


actions = st.lists(
    st.tuples(st.sampled_from("ggxwwrbudk"), st.integers(0, 1), st.integers(0, 3), st.integers(0, 3)), max_size=60
)


@settings(max_examples=80, deadline=None, print_blob=True)
@given(actions)
def test_a_share_is_conserved_whatever_happens(script):
    """The bench checks all invariants after every stimulus; at the end everything is free again."""
    bench = Bench(cpus=4, gpus=1, workers_max=8)
    clients = [bench.driver(b"driver_%d" % number) for number in range(2)]
    groups: list[tuple[bytes, bytes]] = []
    held: dict[bytes, list[m.LeaseGranted]] = {client: [] for client in clients}
    shapes = 0
    for action, who, what, count in script:
        client = clients[who]
        leases = held[client]
        if action == "g":
            bundles = [{"CPU": 1.0 + what % 2}, {"CPU": 1.0, "GPU": 0.5}][: 1 + count % 2]
            groups.append((client, ask(bench, client, *bundles, number=len(groups) + 1, job=who + 1)))
        elif action == "x" and groups:
            bench.send(client, m.RemoveGroup(groups[what % len(groups)][1]))
            for worker in bench.killed():
                bench.worker_dies(worker)
        elif action == "w":
            shapes += 1
            placement = {"group": groups[what % len(groups)][1], "bundle": -1} if groups and count else {}
            define(bench, client, shapes, placement, CPU=1.0)
            bench.want(client, shapes, count)
        elif action == "r" and leases:
            bench.give_back(client, leases.pop(count % len(leases)))
        elif action in "bu" and leases:
            bench.send(leases[-1].worker, m.Blocked() if action == "b" else m.Unblocked())
        elif action == "d" and leases:
            bench.worker_dies(leases.pop().worker)
        elif action == "k":
            bench.tick(0.3 * count)
        bench.workers_join(count)
        for each in clients:
            held[each] = [one for one in held[each] + bench.granted(each) if one.lease in bench.scheduler.leases]
    for client in clients:
        bench.leave(client)
    for worker in bench.killed():
        bench.worker_dies(worker)
    assert bench.machine.resources.free == bench.machine.resources.total
