"""What the head's node tells an autoscaler about all nodes."""

from __future__ import annotations

from typing import Any

from obsray.autoscaler.demand import read_view
from obsray.core.node.resources import UNIT
from obsray.core.protocol import messages as m
from obsray.core.protocol.labels import IN
from obsray.ids import SEQUENCE_ACTOR, SEQUENCE_GROUP, task_id
from obsray.telemetry.events import ProcessKind
from tests.unit.node.cluster_bench import ClusterBench, Member
from tests.unit.node.node_bench import actor_spec
from tests.unit.node.test_node_delegation import define, granted, want


def ask(cluster: ClusterBench, member: Member, waited: float = 0.0) -> dict[str, Any]:
    """What the autoscaler is told."""
    tool = b"tool" + member.node[:4]
    if tool not in member.machine.clients:
        member.do(member.machine.client_joined, tool, ProcessKind.TOOL, 1)
    member.send(tool, m.Request(1, "demand", {"waited_seconds": waited}))
    cluster.settle()
    (reply,) = member.take(tool, m.Reply)
    assert reply.error == ""
    return reply.value


def test_all_nodes_tell_what_is_free_and_what_waits_and_each_unit_counts_once():
    cluster = ClusterBench({"cpus": 1}, {"cpus": 2})
    head, other = cluster.nodes
    driver, far = head.driver(), other.driver()
    define(head, driver, 1, CPU=1)
    want(cluster, head, driver, 1, 5)
    define(other, far, 7, CPU=64)
    want(cluster, other, far, 7, 3)
    cluster.pass_time(0.2)
    view = read_view(ask(cluster, head))
    assert [each.node for each in view.nodes] == [head.node, other.node]
    assert [each.free["CPU"] for each in view.nodes] == [0, 0]
    assert sorted((each.need["CPU"] // UNIT, each.units) for each in view.demands) == [(1, 2), (64, 3)]
    assert all(each.busy for each in view.nodes)


def test_what_has_only_just_begun_to_wait_is_not_told():
    cluster = ClusterBench({"cpus": 1})
    (head,) = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, CPU=8)
    want(cluster, head, driver, 1, 1)
    assert read_view(ask(cluster, head, waited=0.3)).demands == []
    cluster.pass_time(0.5)
    (waiting,) = read_view(ask(cluster, head, waited=0.3)).demands
    assert waiting.units == 1 and "CPU:8" in waiting.text


def test_labels_and_names_of_what_waits_are_told():
    cluster = ClusterBench({"cpus": 1})
    (head,) = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, {"selectors": [[("zone", IN, ["a"])]]}, CPU=1)
    want(cluster, head, driver, 1, 1)
    actor = task_id(driver, 9, SEQUENCE_ACTOR)
    head.send(driver, m.CreateActor(1, actor_spec(actor, driver, resources={"GPU": UNIT})))
    cluster.settle()
    found = {each.text for each in read_view(ask(cluster, head)).demands}
    assert found == {"f1 (CPU:1 on a node with zone=a)", "Counter (GPU:1)"}


def test_a_group_that_waits_is_told_with_its_bundles():
    cluster = ClusterBench({"cpus": 1}, {"cpus": 1})
    head, other = cluster.nodes
    driver = other.driver()
    spec = {
        "group": task_id(driver, 3, SEQUENCE_GROUP), "owner": driver, "job": 1, "name": "train",
        "namespace": "", "target": b"",
        "strategy": "SPREAD", "bundles": [{"CPU": 4 * UNIT}, {"CPU": UNIT}], "selectors": [], "detached": False,
    }  # fmt: skip
    other.send(driver, m.CreateGroup(1, spec))
    cluster.settle()
    (group,) = read_view(ask(cluster, head)).groups
    assert group.text == "placement group train (SPREAD: CPU:1, CPU:4)" and not group.taken


def test_a_node_says_why_it_is_not_idle_and_nothing_once_it_is():
    cluster = ClusterBench({"cpus": 0}, {"cpus": 1})
    head, other = cluster.nodes
    driver = head.driver()
    assert other.machine.scaling.busy() == ""
    define(head, driver, 1, CPU=1)
    want(cluster, head, driver, 1, 1)
    (lease,) = granted(head, driver)
    assert other.machine.scaling.busy() == "in use by 1 worker"
    head.send(driver, m.LeaseReturn(lease.lease, 1, 0))
    cluster.settle()
    assert other.machine.scaling.busy() == ""
    before, after = ask(cluster, head)["nodes"][1], None
    want(cluster, head, driver, 1, 1)
    head.send(driver, m.LeaseReturn(granted(head, driver)[0].lease, 1, 0))
    cluster.settle()
    after = ask(cluster, head)["nodes"][1]
    assert (before["busy"], after["busy"]) == ("", "") and after["leases"] == before["leases"] + 1
    other.driver()
    assert other.machine.scaling.busy() == "a program runs there"


def test_a_node_that_does_not_answer_counts_as_in_use():
    cluster = ClusterBench({"cpus": 1}, {"cpus": 1})
    head, other = cluster.nodes
    other.up = False
    tool = b"toolN000"
    head.do(head.machine.client_joined, tool, ProcessKind.TOOL, 1)
    head.send(tool, m.Request(1, "demand", {}))
    cluster.settle()
    assert head.take(tool, m.Reply) == []
    cluster.pass_time(3)
    (reply,) = head.take(tool, m.Reply)
    assert [each["busy"] for each in reply.value["nodes"]] == ["", "it does not answer"]


def test_a_wish_is_kept_at_the_head_whoever_says_it_and_the_next_takes_its_place():
    cluster = ClusterBench({"cpus": 1}, {"cpus": 1})
    head, other = cluster.nodes
    driver = other.driver()

    def wish(*bundles: Any) -> m.Reply:
        other.send(driver, m.Request(5, "request_resources", {"bundles": list(bundles)}))
        cluster.settle()
        (reply,) = other.take(driver, m.Reply)
        return reply

    assert wish(({"CPU": UNIT}, [])).value == {"offered": False}
    head.machine.scaling.offered = True
    selector = [("zone", IN, ["a"])]
    assert wish(({"CPU": UNIT}, []), ({"CPU": UNIT}, selector)).value == {"offered": True}
    assert read_view(ask(cluster, head)).wished == [({"CPU": UNIT}, ()), ({"CPU": UNIT}, (("zone", IN, ("a",)),))]
    assert head.records.named("resources_requested")[-1]["bundles"] == 2
    assert wish().value == {"offered": True} and read_view(ask(cluster, head)).wished == []
    cluster.cut(head, other)
    assert "cannot be reached now" in wish(({"CPU": UNIT}, [])).error
