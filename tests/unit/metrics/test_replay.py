"""A collector that takes the place of one that was killed counts on from where that one was."""

from __future__ import annotations

import math
import random
import time

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from obsray import ids
from obsray.metrics import replay
from obsray.metrics.catalog import METRICS
from obsray.metrics.exporter import Families, resume
from obsray.metrics.exposed import settled
from obsray.telemetry.collector import Collector, own_ring
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.rings import RingState
from obsray.telemetry.spine import Ring
from obsray.testing.recorded_session import record_session

NODE, OTHER = b"thisnode", b"othernod"
NS = 1_000_000_000
OWN = "obsray_telemetry_"


def following(directory, node=NODE):
    collector = Collector(directory, 1 << 30, own_ring(directory, node))
    families = Families(collector, "n0")
    collector.folds.append(families.update)
    collector.gathered_folds.append(families.update_gathered)
    return collector, families


def numbers(families):
    """Everything that is folded from events: sample -> value. What is said of processes depends on who lives."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(families)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        if METRICS.get(family.name) is not None and METRICS[family.name].events
        for sample in family.samples
    }


def poll(collector):
    while collector.poll():
        pass


@pytest.mark.parametrize("slice_rows", [replay.SLICE_ROWS, 50])
def test_what_was_stored_and_what_stands_in_rings_is_counted_as_before(tmp_path, monkeypatch, slice_rows):
    monkeypatch.setattr(replay, "SLICE_ROWS", slice_rows)
    made = record_session(tmp_path, tasks=200)
    directory = made.directory
    first, counted = following(directory, made.node)
    poll(first)
    first.flush()
    ring = Ring(directory / "rings", ids.worker_id(made.node, b"late"), ProcessKind.DRIVER, made.node)
    now = time.time_ns()
    ring.tasks_submitted(
        now, ids.task_id(ring.process, 1), ids.NIL_TASK, bytes(16), bytes(16), ring.intern("late"), 0, 1, 50, 0, 0, 0,
        now - NS,
    )  # fmt: skip
    poll(first)  # read and not stored: the one after it finds it in the ring
    _, again = following(directory, made.node)
    assert resume(again)
    assert numbers(again) == pytest.approx(numbers(counted))
    assert again.series.submitted.sum() == counted.series.submitted.sum() >= 250


def test_what_workers_spent_their_time_on_is_counted_on_once(tmp_path):
    (tmp_path / "rings").mkdir()
    node = Ring(tmp_path / "rings", ids.worker_id(NODE, b"node"), ProcessKind.NODE, NODE)
    first, counted = following(tmp_path)
    for second in range(5):
        node.node_sample(second * NS + NS, 0.0, 3, 1, 2, 0, 0, 0, 0, 0)
    poll(first)
    first.flush()
    before = numbers(counted)
    spent = {name: value for name, value in before.items() if name[0] == "obsray_worker_seconds_total"}
    assert sum(spent.values()) == 3 * 4
    for turn in range(2):
        collector, again = following(tmp_path)
        assert resume(again)
        assert numbers(again) == pytest.approx(before), turn
        collector.flush()
    node.node_sample(6 * NS, 0.0, 3, 1, 2, 0, 0, 0, 0, 0)
    poll(collector)
    assert sum(again.processes.worker_seconds.values()) == 3 * 5


def test_the_order_in_which_parts_are_added_up_is_not_seen():
    parts = [random.Random(7).random() * 10**power for power in range(-6, 4) for _ in range(20)]
    forwards, backwards = sum(parts), sum(reversed(parts))
    assert forwards != backwards and settled(forwards) == settled(backwards) == pytest.approx(forwards)
    for value in (0.0, 3, 12345678901234.0, math.inf, 1e-9):
        assert settled(value) == value
    assert math.isnan(settled(math.nan))


def test_what_the_collector_says_of_itself_goes_on_with_the_next_one(tmp_path):
    (tmp_path / "rings").mkdir()
    node = Ring(tmp_path / "rings", ids.worker_id(NODE, b"node"), ProcessKind.NODE, NODE)
    first, counted = following(tmp_path)
    for second in range(50):
        node.node_sample(second * NS + NS, 0.0, 3, 1, 2, 0, 0, 0, 0, 0)
    poll(first)
    first.flush()
    first.sample_self()
    poll(first)

    def own(families):
        return {name[0]: value for name, value in numbers(families).items() if name[0].startswith(OWN)}

    before = own(counted)
    assert before[f"{OWN}events_total"] >= 50 and before[f"{OWN}bytes_total"] > 0
    assert before[f"{OWN}cpu_seconds_total"] > 0
    second, again = following(tmp_path)  # the first is killed: it says nothing more
    assert resume(again)
    assert all(own(again)[name] >= value for name, value in before.items())
    second.sample_self()
    poll(second)
    assert own(again)[f"{OWN}events_total"] > before[f"{OWN}events_total"]


def test_records_of_other_nodes_are_the_clusters_and_not_this_nodes(tmp_path):
    (tmp_path / "rings").mkdir()
    first, counted = following(tmp_path)
    there = tmp_path / "there"
    (there / "rings").mkdir(parents=True)
    far = Ring(there / "rings", ids.worker_id(OTHER, b"work"), ProcessKind.WORKER, OTHER)
    actor = ids.task_id(far.process, 1, ids.SEQUENCE_ACTOR)
    far.actor_created(NS, actor, ids.NIL_TASK, far.intern("Counter"), 0, 0, 0, 0, 0, 1, bytes(16))
    far.object_lost(NS, actor + bytes(4), 10, 0, 0)
    source = Collector(there, 1 << 30)
    poll(source)
    source.flush()
    parts = []
    for event, entries in source.writer.catalog.files.items():
        parts += [(event, (there / "telemetry" / entry.name).read_bytes()) for entry in entries]
    state = RingState.from_json(far.process.hex(), source.rings.readers[far.process].state.to_json())
    assert first.gather(OTHER, parts, {far.process: state}) == 3, "and that its ring was opened"
    poll(first)
    assert not counted.cluster.actors, "what is not stored is not told: a collector killed now would take it back"
    first.flush()
    _, again = following(tmp_path)
    assert resume(again)
    assert again.cluster.actors.keys() == counted.cluster.actors.keys() == {actor}
    assert again.series.objects_lost == counted.series.objects_lost == 0


def test_if_not_all_can_be_read_again_counting_starts_anew(tmp_path, monkeypatch):
    made = record_session(tmp_path, tasks=20)
    first, _ = following(made.directory, made.node)
    poll(first)
    first.flush()
    monkeypatch.setattr(replay, "ROWS_MAX", 10)
    _, again = following(made.directory, made.node)
    assert not resume(again)
    assert again.series.submitted.sum() == 0
