"""Look after look: nodes are asked for, come, fail, leave and end, and all of it is recorded."""

from __future__ import annotations

import itertools
from typing import Any

from obsray.autoscaler.demand import Provided, Seen, View, Waiting
from obsray.autoscaler.machine import ASK_AGAIN_SECONDS, Autoscaler, End, Leave, Start
from obsray.autoscaler.settings import parse
from obsray.core.node.resources import UNIT
from obsray.core.protocol.lifecycle import InstanceState
from tests.unit.node.node_bench import Records

HEAD = Seen(b"the head", {"CPU": UNIT}, {}, {}, head=True, busy="a program runs there")
CPU = {"CPU": 4 * UNIT}


class Bench:
    """An autoscaler, a provider that does as it is told, a cluster, and a clock."""

    def __init__(self, **kind: Any) -> None:
        numbers = itertools.count(1)
        types = {"small": {"resources": {"CPU": 4}, "max_workers": 3, "idle_timeout_s": 10, **kind}}
        self.records = Records()
        self.settings = parse({"available_node_types": types}, "the test")
        self.machine = self.new(numbers)
        self._numbers = numbers
        self.now = 100.0
        self.provided: dict[bytes, Provided] = {}
        self.nodes: dict[bytes, Seen] = {}
        self.waiting: list[Waiting] = []

    def new(self, numbers: Any) -> Autoscaler:
        return Autoscaler(self.settings, self.records, lambda: b"node%04d" % next(numbers))

    def restart(self) -> None:
        """Another process takes the place of the autoscaler."""
        self.machine = self.new(self._numbers)

    def look(self, seconds: float = 1.0) -> list[Any]:
        self.now += seconds
        view = View([HEAD, *self.nodes.values()], self.waiting)
        actions = self.machine.look(self.now, int(self.now * 1e9), view, list(self.provided.values()))
        self.machine.sample(self.now, int(self.now * 1e9), 0.0)
        for action in actions:
            match action:
                case Start(node, kind):
                    self.provided[node] = Provided(node, kind.name)
                case End(node):
                    self.provided.pop(node, None)
        return actions

    def joins(self, node: bytes, **changes: Any) -> None:
        labels = {"ray.io/node-group": "small"}
        self.nodes[node] = Seen(node, CPU, changes.pop("free", CPU), labels, **changes)

    def started(self) -> list[bytes]:
        return [action.node for action in self.look() if isinstance(action, Start)]

    def told(self, event: str) -> list[dict[str, Any]]:
        return self.records.named(event)


def task(cpus: float = 4, count: int = 1) -> Waiting:
    return Waiting({"CPU": round(cpus * UNIT)}, count, name="f")


def test_a_node_is_asked_for_once_joins_works_idles_and_leaves():
    bench = Bench()
    bench.waiting = [task()]
    (node,) = bench.started()
    assert bench.look() == [] and bench.machine.instances[node].state is InstanceState.STARTING
    bench.joins(node, busy="in use by 1 worker", leases=1, free={})
    bench.waiting = []
    assert bench.look(30) == [] and bench.machine.instances[node].state is InstanceState.RUNNING
    bench.joins(node, leases=1)
    assert bench.look(9) == []
    (leave,) = bench.look(9)
    assert isinstance(leave, Leave) and leave.node == node
    bench.joins(node, leases=1, draining=True)
    assert bench.look() == [] and bench.machine.instances[node].state is InstanceState.LEAVING
    del bench.nodes[node]
    assert bench.look() == [End(node)] and not bench.machine.instances and bench.look() == []
    for event in ("instance_requested", "instance_joined", "instance_released", "instance_ended"):
        (record,) = bench.told(event)
        assert record["node"] == node
    assert "nothing has run there" in bench.told("instance_ended")[0]["error"]
    assert bench.told("instance_failed") == []


def test_an_idle_node_that_is_gone_before_the_next_look_has_left_and_not_failed():
    bench = Bench(idle_timeout_s=1)
    bench.waiting = [task()]
    (node,) = bench.started()
    bench.joins(node)
    bench.waiting = []
    bench.look()
    (leave,) = bench.look(2)
    assert leave == Leave(node, leave.why)
    del bench.nodes[node]
    # The machine may take a moment longer than the node.
    kept = bench.provided[node]
    assert bench.look() == [End(node)]
    bench.provided[node] = kept
    assert bench.look() == [] and not bench.machine.instances
    assert bench.told("instance_released") and not bench.told("instance_failed") and not bench.machine.barred(bench.now)


def test_work_between_two_looks_keeps_a_node():
    bench = Bench()
    bench.waiting = [task()]
    (node,) = bench.started()
    bench.joins(node)
    bench.waiting = []
    for leases in range(30):
        bench.joins(node, leases=leases)
        assert bench.look() == []


def test_a_node_that_is_in_use_after_all_is_asked_again_later():
    bench = Bench(idle_timeout_s=1)
    bench.waiting = [task()]
    (node,) = bench.started()
    bench.joins(node)
    bench.waiting = []
    bench.look()
    assert [type(action) for action in bench.look(2)] == [Leave]
    bench.joins(node, busy="in use by 1 worker")
    assert bench.look() == [] and bench.machine.instances[node].state is InstanceState.RUNNING
    bench.joins(node)
    assert bench.look(0.5) == []
    assert [type(action) for action in bench.look(ASK_AGAIN_SECONDS)] == [Leave]


def test_a_node_that_does_not_start_is_said_ended_and_tried_again_after_longer_and_longer_pauses():
    bench = Bench()
    bench.waiting = [task()]
    pauses = []
    for _ in range(4):
        nodes = bench.started()
        while not nodes:
            nodes = bench.started()
        (node,) = nodes
        bench.provided[node] = Provided(node, "small", failed="no such image")
        assert bench.look() == [End(node)]
        pauses.append(bench.told("instance_failed")[-1]["retry_seconds"])
    assert pauses == [1, 2, 4, 8]
    assert [record["failures"] for record in bench.told("instance_failed")] == [1, 2, 3, 4]
    assert bench.told("instance_failed")[0]["error"] == "no such image"
    bench.look()
    judged = [each for each in bench.told("demand_judged") if each["verdict"].name == "BACKING_OFF" and each["units"]]
    assert "4 times in a row no such node came (no such image)" in judged[-1]["why"]
    assert bench.told("node_type_sample")[-1]["error"] == "no such image"


def test_several_that_fail_together_count_as_one_failure():
    bench = Bench()
    bench.waiting = [task(4, 3)]
    nodes = bench.started()
    assert len(nodes) == 3
    bench.provided = {node: Provided(node, "small", failed="no quota") for node in nodes}
    bench.look()
    assert [record["failures"] for record in bench.told("instance_failed")] == [1, 1, 1]


def test_a_node_that_never_joins_is_given_up():
    bench = Bench(start_timeout_s=60)
    bench.waiting = [task()]
    (node,) = bench.started()
    assert bench.look(59) == []
    assert bench.look(3) == [End(node)]
    assert "did not join within 60 s" in bench.told("instance_failed")[0]["error"]


def test_a_node_that_dies_is_replaced_if_it_is_needed_and_one_that_dies_at_once_costs_a_pause():
    bench = Bench()
    bench.waiting = [task()]
    (node,) = bench.started()
    bench.joins(node, busy="in use by 1 worker", free={})
    bench.waiting = []
    bench.look()
    bench.look(100)
    bench.waiting = [task()]
    del bench.nodes[node]
    end, start = bench.look()
    assert end == End(node) and isinstance(start, Start)
    bench.joins(start.node)
    bench.look()
    del bench.nodes[start.node]
    assert bench.look(0.5) == [End(start.node)]
    assert "the last one ended 0 s after it had joined" in bench.machine.barred(bench.now)["small"]
    assert [type(action) for action in bench.look(1)] == [Start]


def test_an_autoscaler_that_is_started_again_knows_the_nodes_of_the_one_before():
    bench = Bench()
    bench.waiting = [task(4, 2)]
    joined, coming = bench.started()
    bench.joins(joined, busy="in use by 1 worker", free={})
    bench.restart()
    bench.waiting = [task(4)]
    assert bench.look() == []
    states = {node: instance.state for node, instance in bench.machine.instances.items()}
    assert states == {joined: InstanceState.RUNNING, coming: InstanceState.STARTING}
    bench.waiting = []
    bench.joins(joined)
    bench.joins(coming)
    bench.look()
    assert {action.node for action in bench.look(11)} == {joined, coming}


def test_a_node_that_somebody_drains_is_let_go():
    bench = Bench()
    bench.waiting = [task()]
    (node,) = bench.started()
    bench.joins(node, draining=True, busy="in use by 1 worker")
    bench.waiting = []
    bench.look()
    bench.look()
    assert bench.told("instance_released")[0]["why"] == "somebody drained it"


def test_a_judgement_is_told_when_it_changes_and_when_it_is_over():
    bench = Bench()
    bench.waiting = [task(99, 2)]
    bench.look()
    bench.look()
    (judged,) = bench.told("demand_judged")
    assert (judged["verdict"].name, judged["units"]) == ("INFEASIBLE", 2)
    bench.waiting = [task(99, 3)]
    bench.look()
    bench.waiting = []
    bench.look()
    assert [record["units"] for record in bench.told("demand_judged")] == [2, 3, 0]
