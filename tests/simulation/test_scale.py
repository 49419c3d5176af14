"""What decisions cost in large clusters, in lines that are run: the same on every machine, however slow."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

from obsray.core.node.shortlist import LOOKED_AT_MAX, ROOMY_MAX
from obsray.testing.scale import ControlCost, Cost, ScaleBench, count, lines_run, measure_control
from obsray.testing.scale_charts import draw, processes


def test_a_decision_costs_about_the_same_in_a_cluster_ten_times_as_large():
    few, many = (count(nodes, 30).lines for nodes in (150, 1500))
    assert 0 < many < 1.5 * few


def test_hearing_of_a_node_costs_the_same_however_many_there_are():
    def nodes_looked_at(nodes: int) -> int:
        bench = ScaleBench(nodes)
        for _ in range(50):
            bench.decide()
        return max(len(bench.machine.delegation.shortlist.take()) for _ in range(20))

    # Those that have room may be among those whose turn it is.
    assert all(LOOKED_AT_MAX - ROOMY_MAX <= nodes_looked_at(nodes) <= LOOKED_AT_MAX for nodes in (150, 1500))


def test_a_link_that_breaks_and_comes_back_costs_the_same_however_many_there_are():
    def lines(nodes: int) -> int:
        bench = ScaleBench(nodes)
        bench.break_link(b"0007\1\0\0\0")
        counted = lines_run(lambda: [bench.break_link(b"%04d\1\0\0\0" % number) for number in range(10, 40)])
        bench.machine.peers.check_invariants()
        return counted

    few, many = lines(150), lines(1500)
    assert 0 < many < 1.5 * few


def test_a_tick_costs_what_is_due_however_many_cannot_be_reached():
    def lines(nodes: int) -> int:
        bench = ScaleBench(nodes)
        for number in range(1, nodes):
            bench.lose_link(b"%04d\1\0\0\0" % number)
        bench.pass_time(0.0001)  # which tells all others once what this one has to spare
        assert len(bench.machine.peers.apart) == nodes - 1
        counted = lines_run(lambda: [bench.pass_time(0.0001) for _ in range(20)])
        bench.machine.peers.check_invariants()
        bench.pass_time(1.0)
        assert all(peer.connecting for peer in bench.machine.peers.apart.values()), "not all were tried again"
        return counted

    few, many = lines(150), lines(1500)
    assert 0 < many < 1.5 * few


def test_work_goes_to_the_only_node_with_room_among_many():
    bench = ScaleBench(400, busy=1.0)
    (only,) = [node for node in bench.free if node.startswith(b"0399")]
    bench.decide()
    assert not bench.free[only], "nobody has room"
    bench.free[only] = 1
    bench.hear(only)
    assert bench.free[only] == 0 and bench.granted == 1


def test_who_waits_is_helped_after_all_nodes_have_been_looked_at():
    bench = ScaleBench(400, busy=1.0)
    # Nobody says so: as if the news had come before anybody waited.
    for peer in bench.machine.peers.usable():
        if peer.id.startswith(b"0399"):
            peer.spare = {"CPU": 10_000}
            bench.free[peer.id] = 1
    bench.decide()
    for _ in range(20):
        bench.pass_time(0.001)
    assert bench.granted == 1


def test_the_control_store_does_the_same_for_a_node_however_many_there_are():
    ticks = iter(range(1_000_000))
    cost = measure_control(50, 20, lambda: float(next(ticks)))
    assert cost.nodes == 50 and cost.heartbeat_seconds > 0


def test_the_curves_are_drawn_with_every_measured_point(tmp_path):
    costs = [Cost(nodes, 100, 0.1, 1e-5) for nodes in (10, 100, 1000, 10_000)]
    control = [ControlCost(nodes, 5e-6, 8e-5, 1e-3) for nodes in (10, 100, 1000, 10_000)]
    for path in draw(tmp_path, costs, control):
        root = ElementTree.fromstring(path.read_text())
        circles = [each for each in root.iter() if each.tag.endswith("circle")]
        assert len(circles) in (4, 8), path
    assert [processes(each) for each in control] == [1, 1, 2, 10]


def test_an_unknown_directory_for_the_curves_is_refused_before_anything_is_measured(capsys):
    from obsray.cli.command import main

    assert main(["sim", "--scale", "--draw", "/nowhere/at/all"]) != 0
    assert "is no directory" in capsys.readouterr().err
