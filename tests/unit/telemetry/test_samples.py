"""Samples of several nodes: each its own, and the cluster their sum."""

from __future__ import annotations

from obsray.telemetry.collector import Collector
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.samples import SampleTable
from obsray.telemetry.spine import Ring

ONE, TWO, DEAD = b"node_1..", b"node_2..", b"node_3.."


def test_what_nodes_have_is_summed_over_the_living_and_the_newest_sample_counts(tmp_path):
    (tmp_path / "rings").mkdir()
    collector = Collector(tmp_path, 1 << 30)
    table = SampleTable(collector.texts)
    collector.folds.append(table.update)
    rings = {node: Ring(tmp_path / "rings", node, ProcessKind.NODE, node) for node in (ONE, TWO, DEAD)}
    for time_ns, used in ((1, 0.0), (2, 1.0)):
        for number, (_, ring) in enumerate(rings.items(), 1):
            cpu, gpu = ring.intern("CPU"), ring.intern("GPU")
            ring.resource_sample(time_ns, cpu, 4.0 * number, used * number)
            ring.store_sample(time_ns, 100 * number, int(used) * 10, 0, 0, 0, 0, 0, 0, 0)
            if number == 2:
                ring.resource_sample(time_ns, gpu, 1.0, used)
        collector.poll()
    assert table.resources({ONE, TWO}) == {"CPU": {"total": 12, "used": 3}, "GPU": {"total": 1, "used": 1}}
    assert table.resources_of[DEAD] == {"CPU": {"total": 12, "used": 3}}
    store = table.totals("store_sample", {ONE, TWO})
    assert (store["capacity_bytes"], store["used_bytes"]) == (300, 20)
    assert table.newest("store_sample")["time_ns"] == 2 and table.newest("collector_sample") == {}
    for ring in rings.values():
        ring.close(3)
