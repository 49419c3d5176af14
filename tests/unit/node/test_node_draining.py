"""A node that drains takes no more work, gives back what waits there, and leaves when it is free."""

from __future__ import annotations

from obsray.core.node.step import Shutdown
from obsray.core.protocol import messages as m
from tests.unit.node.cluster_bench import ClusterBench, Member
from tests.unit.node.test_node_delegation import define, granted, want


def drain(cluster: ClusterBench, asked: Member, node: bytes, **arguments: object) -> m.Reply:
    tool = asked.driver(b"tl%02d" % len(asked.machine.clients))
    asked.send(tool, m.Request(1, "drain", {"node": node, "reason": "repairs", **arguments}))
    cluster.settle()
    # Reports are bounded in rate.
    cluster.pass_time(0.1)
    (reply,) = asked.take(tool, m.Reply)
    return reply


def workers_end(cluster: ClusterBench, member: Member) -> None:
    """The processes that were asked to end have ended."""
    for worker in list(member.machine.pool.workers):
        if any(isinstance(message, m.Exit) for message in member.take(worker)):
            member.worker_dies(worker, signal=0)
    cluster.settle()


def leaving(member: Member) -> list[str]:
    return [effect.reason for effect in member.effects if isinstance(effect, Shutdown)]


def test_a_draining_node_gets_no_new_work_and_leaves_when_the_last_lease_is_returned():
    cluster = ClusterBench({"cpus": 0}, {"cpus": 1})
    head, other = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, CPU=1)
    want(cluster, head, driver, 1, 2)
    (lease,) = granted(head, driver)
    assert drain(cluster, head, other.node).error == ""
    assert not leaving(other) and head.machine.abroad.described()[0]["draining"] is True
    head.send(driver, m.LeaseReturn(lease.lease, 1, 0))
    cluster.settle()
    assert other.leased() == 0 and not leaving(other)
    workers_end(cluster, other)
    assert leaving(other)[0] == "it was drained: repairs"
    third = cluster.add(cpus=1)
    assert third.leased() == 1


def test_what_waits_at_a_draining_node_goes_to_others():
    cluster = ClusterBench({"cpus": 0}, {"cpus": 1}, {"cpus": 1})
    head, one, other = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, CPU=1)
    want(cluster, head, driver, 1, 4)
    first = granted(head, driver)
    assert len(first) == 2
    assert drain(cluster, head, one.node).error == ""
    for lease in first:
        head.send(driver, m.LeaseReturn(lease.lease, 1, 0))
        cluster.settle()
    assert one.leased() == 0 and other.leased() == 1


def test_a_deadline_ends_what_does_not_end_by_itself():
    cluster = ClusterBench({"cpus": 0}, {"cpus": 1})
    head, other = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, CPU=1)
    want(cluster, head, driver, 1, 1)
    assert drain(cluster, head, other.node, deadline_seconds=30).error == ""
    cluster.pass_time(29)
    assert not leaving(other)
    cluster.pass_time(2)
    assert "its deadline has come" in leaving(other)[0]


def test_all_nodes_end_with_a_head_that_nothing_takes_the_place_of_and_with_nobody_else():
    cluster = ClusterBench({"cpus": 1}, {"cpus": 1}, {"cpus": 1})
    head, other, third = cluster.nodes
    for leaver, ends in ((third, True), (head, False)):
        cluster.say(leaver.node, other.node, m.encode(m.NodeLeaves("somebody asked", ends)))
        cluster.settle()
        assert not leaving(other)
    cluster.say(head.node, other.node, m.encode(m.NodeLeaves("somebody asked", True)))
    cluster.settle()
    assert leaving(other) == ["its cluster has ended: somebody asked"]


def test_the_head_and_strangers_cannot_be_drained():
    cluster = ClusterBench({"cpus": 1}, {"cpus": 1})
    head, other = cluster.nodes
    assert "the head" in drain(cluster, head, head.node).error
    assert "not, or no longer" in drain(cluster, other, b"nowhere!").error


def test_a_draining_node_stays_until_nobody_needs_what_its_processes_own():
    cluster = ClusterBench({"cpus": 0}, {"cpus": 2})
    head, other = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, CPU=1)
    want(cluster, head, driver, 1, 1)
    (lease,) = granted(head, driver)
    head.send(driver, m.LeaseReturn(lease.lease, 1, 0))
    cluster.settle()
    assert drain(cluster, head, other.node).error == ""
    owner = next(iter(other.machine.pool.workers))
    other.send(owner, m.StillNeeded(1, 0))
    other.take(owner)
    workers_end(cluster, other)
    cluster.pass_time(30)
    assert not leaving(other) and list(other.machine.pool.workers) == [owner]
    assert "values that others hold" in other.machine.scaling.busy()
    other.worker_dies(owner, signal=0)
    assert leaving(other)


def test_a_node_that_is_to_leave_if_idle_stays_when_it_is_not():
    cluster = ClusterBench({"cpus": 0}, {"cpus": 1})
    head, other = cluster.nodes
    driver = head.driver()
    define(head, driver, 1, CPU=1)
    want(cluster, head, driver, 1, 1)
    (lease,) = granted(head, driver)
    assert drain(cluster, head, other.node, if_idle=True).error == ""
    assert head.machine.abroad.described()[0]["draining"] is False
    head.send(driver, m.LeaseReturn(lease.lease, 1, 0))
    cluster.settle()
    assert other.machine.scaling.busy() == ""
    assert drain(cluster, head, other.node, if_idle=True).error == ""
    assert head.machine.abroad.described()[0]["draining"] is True
