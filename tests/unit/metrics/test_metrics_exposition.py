"""The metrics are what the catalogue says, and what the events add up to."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from obsray import ids
from obsray.metrics import exporter
from obsray.metrics.catalog import BUCKETS, FUNCTIONS_KEPT, FUNCTIONS_MAX, METRICS, OTHER, USES_MIN
from obsray.metrics.exporter import Families
from obsray.metrics.series import Histogram, Labels, span_id
from obsray.metrics.waiting import TaskWindow
from obsray.telemetry.collector import Collector
from obsray.telemetry.columns import Texts
from obsray.telemetry.events import BY_NAME, ProcessKind
from obsray.telemetry.spine import Ring
from obsray.testing.recorded_session import record_session


class Exposed:
    """Everything a scrape says, by name and labels."""

    def __init__(self, families: Families) -> None:
        registry = CollectorRegistry()
        registry.register(families)
        self.text = generate_latest(registry).decode()
        self.families = {family.name: family for family in text_string_to_metric_families(self.text)}

    def value(self, sample: str, **labels: str) -> float:
        return sum(
            s.value
            for family in self.families.values()
            for s in family.samples
            if s.name == sample and labels.items() <= s.labels.items()
        )


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record_session(tmp_path_factory.mktemp("session"))


@pytest.fixture(scope="module")
def exposed(recorded):
    collector = Collector(recorded.directory, 1 << 30)
    families = Families(collector, "n0")
    collector.folds.append(families.update)
    while collector.poll():
        pass
    return Exposed(families)


def test_the_exposition_holds_the_catalogue_and_nothing_else(exposed):
    assert set(exposed.families) == {name for name, metric in METRICS.items() if metric.served_by != "dashboard"}
    for name, family in exposed.families.items():
        assert family.type == METRICS[name].type
        assert family.documentation == METRICS[name].help
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == set(METRICS[name].labels)


def test_every_metric_names_events_that_exist():
    for metric in METRICS.values():
        assert set(metric.events) <= set(BY_NAME)
        assert metric.name.startswith("obsray_")
        assert not metric.name.endswith("_total") or metric.type == "gauge"
        assert not {"task", "task_id", "object", "worker", "trace", "actor_id"} & set(metric.labels)


def test_names_say_unit_and_kind_as_prometheus_wants_them():
    for metric in METRICS.values():
        name = metric.name
        assert re.fullmatch(r"obsray_[a-z0-9]+(_[a-z0-9]+)*", name)
        assert metric.type in {"counter", "gauge", "histogram", "info"}
        assert metric.help.endswith(".")
        assert not re.search(r"milli|micro|minutes|hours|kilo|mega|percent|_ms$", name), "base units"
        assert {word for word in ("seconds", "bytes", "ratio") if word in name.split("_")} <= {metric.unit}
        assert metric.type != "histogram" or metric.unit == "seconds"
        assert "le" not in metric.labels and "quantile" not in metric.labels


def test_tasks_are_counted_by_function_and_outcome(exposed, recorded):
    assert exposed.value("obsray_tasks_submitted_total") == recorded.submitted
    assert exposed.value("obsray_tasks_finished_total", outcome="ok") == recorded.finished
    assert exposed.value("obsray_tasks_finished_total", outcome="app_error", fn="flaky") == recorded.failed
    assert exposed.value("obsray_tasks_finished_total", outcome="cancelled") == recorded.cancelled
    assert exposed.value("obsray_tasks_running") == 2
    assert exposed.value("obsray_tasks_pending") == recorded.pending - 2
    assert exposed.value("obsray_tasks_pending", reason="no_capacity", shape="matrix CPU:1") == 1
    assert exposed.value("obsray_tasks_pending", reason="arguments") == 1
    assert exposed.value("obsray_task_retries_total", cause="worker_died", fn="word_count") == 1


def test_durations_are_in_histograms_with_exemplars_of_real_traces(exposed, recorded):
    ended = exposed.value("obsray_task_duration_seconds_count")
    assert ended == recorded.finished + recorded.failed
    assert exposed.value("obsray_task_queue_seconds_count") == ended, "of every task once"
    samples = exposed.families["obsray_task_duration_seconds"].samples
    exemplars = [sample.exemplar for sample in samples if sample.exemplar]
    assert exemplars
    for sample in samples:
        if sample.exemplar:
            assert sample.exemplar.value <= float(sample.labels["le"])
            task = bytes.fromhex(sample.exemplar.labels["trace_id"])  # the trace of a root task is its id
            assert ids.owner_of(task) == recorded.driver
            assert sample.exemplar.labels["span_id"] in {span_id(task, 0).hex(), span_id(task, 1).hex()}


def test_node_store_and_workers_are_exposed(exposed):
    assert exposed.value("obsray_worker_deaths_total", cause="signal") == 1
    assert exposed.value("obsray_object_store_capacity_bytes", node="n0") == 1 << 30
    assert exposed.value("obsray_object_spilled_bytes_total") == 50_000_000
    assert exposed.value("obsray_scheduler_decisions_total", outcome="local") == 3
    assert exposed.value("obsray_scheduler_decisions_total", outcome="queue", reason="no_capacity") == 1
    assert exposed.value("obsray_resource_total", resource="CPU") == 2
    assert exposed.value("obsray_telemetry_events_dropped_total") == 0


def test_functions_beyond_the_bound_are_called_other(tmp_path):
    (tmp_path / "rings").mkdir()
    driver = Ring(tmp_path / "rings", bytes(range(8)), ProcessKind.DRIVER)
    nil = ids.NIL_TASK
    for number in range(FUNCTIONS_MAX + 50):
        task, name = ids.task_id(driver.process, number), driver.intern(f"f{number}")
        driver.task_submitted(1000, task, nil, nil, nil, name, name, 1, 0, 0, 0, 0, 0)
        driver.task_finished(2000, task, 0, 0, 0, 0)
    collector = Collector(tmp_path, 1 << 30)
    families = Families(collector, "n")
    collector.folds.append(families.update)
    collector.poll()
    exposed = Exposed(families)
    named = FUNCTIONS_MAX - FUNCTIONS_KEPT
    assert exposed.value("obsray_tasks_submitted_total", fn=OTHER) == FUNCTIONS_MAX + 50 - named
    assert exposed.value("obsray_tasks_finished_total", fn=OTHER) == FUNCTIONS_MAX + 50 - named
    assert exposed.value("obsray_tasks_submitted_total") == FUNCTIONS_MAX + 50
    labels = {s.labels["fn"] for s in exposed.families["obsray_tasks_submitted"].samples}
    assert len(labels) == named + 1


def test_a_function_that_comes_late_and_is_used_often_gets_a_name_and_no_counter_goes_back():
    texts = Texts()
    labels = Labels(texts, 6, 2)
    for number in range(10):
        labels.of(np.array([texts.code(f"f{number}")]))
    assert labels.names == ["f0", "f1", "f2", "f3"]
    often = [texts.code("f7"), texts.code("f8"), texts.code("f9")]
    for code in often:
        assert (labels.of(np.full(USES_MIN, code)) == 6).all(), "what was counted as other stays there"
    assert labels.names == ["f0", "f1", "f2", "f3", "f7", "f8"], "the bound holds"
    assert labels.of(np.array(often)).tolist() == [4, 5, 6]
    assert labels.name(6) == OTHER


def test_a_histogram_counts_each_value_in_the_bucket_that_bounds_it():
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = np.random.default_rng(seed)
    values = np.concatenate([10 ** chance.uniform(-5, 4, 1000), np.array(BUCKETS)])
    slots = chance.integers(0, 3, len(values))
    histogram = Histogram()
    for part in np.array_split(np.arange(len(values)), 7):
        histogram.add(slots[part], values[part])
    for slot in range(3):
        mine = values[slots == slot]
        cumulative = np.cumsum(histogram.counts[slot])
        assert cumulative.tolist() == [int((mine <= bound).sum()) for bound in BUCKETS] + [len(mine)]
        assert histogram.sums[slot] == pytest.approx(mine.sum())


def test_the_window_of_tasks_forgets_what_is_long_over_and_nothing_else():
    window, owner = TaskWindow(), bytes(range(8))
    count, step = 1_000_000, 50_000
    for start in range(0, count, step):
        made = np.frombuffer(b"".join(ids.task_id(owner, start + n) for n in range(step)), "V16")
        window.submit(made, np.full(step, 3, np.uint8), np.full(step, 10**18, np.uint64))
        assert (window.waited(made, np.full(step, 10**18 + 10**9, np.uint64)).round(3) == 1.0).all()
        assert (window.waited(made, np.full(step, 10**18 + 10**9, np.uint64)) < 0).all(), "once"
        assert (window.finish(made, 7) == 3).all()
    (kept,) = window._owners.values()
    assert len(kept.slots) < count // 2
    assert kept.base > 0


def test_what_was_only_taken_is_counted_when_somebody_asks_and_no_later_than_that(recorded):
    collector = Collector(recorded.directory, 1 << 30)
    batches: list = []
    at_once, asked = Families(collector, "n0"), Families(collector, "n0")
    collector.folds.append(batches.append)
    while collector.poll():
        pass
    edges = np.linspace(recorded.started_at_ns, recorded.ended_at_ns, 20).astype(np.uint64)
    for batch in batches:
        parts = {name: np.searchsorted(edges, columns["time_ns"]) for name, columns in batch.items()}
        for number in range(len(edges) + 1):
            some = {name: batch[name].take(parts[name] == number) for name in batch if number in parts[name]}
            at_once.update(some)
            asked.take(some)
    assert at_once.series.submitted.sum() > asked.series.submitted.sum()
    # What the machine is asked when somebody asks is another at each time.
    varies = ("obsray_node_", "obsray_telemetry_")
    one, other = (
        {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in Exposed(families).families.values()
            for sample in family.samples
            if not sample.name.startswith(varies)
        }
        for families in (at_once, asked)
    )
    assert other == pytest.approx(one)
    assert any(value for (name, *_), value in other.items() if name == "obsray_tasks_submitted_total")


def test_records_that_nobody_asks_for_are_folded_when_they_are_many_or_old(recorded, monkeypatch):
    collector = Collector(recorded.directory, 1 << 30)
    batches: list = []
    collector.folds.append(batches.append)
    while collector.poll():
        pass
    rows = sum(len(columns) for batch in batches for columns in batch.values())
    for name, bound in (("FOLD_ROWS", rows), ("FOLD_SECONDS", 0.0)):
        with monkeypatch.context() as patch:
            patch.setattr(exporter, name, bound)
            families = Families(collector, "n0")
            for batch in batches:
                families.take(batch)
            assert families.series.submitted.sum(), name


def test_metrics_whose_fold_fails_are_served_as_they_were(recorded, caplog, monkeypatch):
    collector = Collector(recorded.directory, 1 << 30)
    families = Families(collector, "n0")
    collector.folds.append(families.take)
    while collector.poll():
        pass
    before = Exposed(families).value("obsray_tasks_submitted_total")

    def fail(batch):
        raise RuntimeError("as a test")

    monkeypatch.setattr(families.gpu, "update", fail)
    families.take({})
    assert Exposed(families).value("obsray_tasks_submitted_total") == before > 0
    assert "are given no more records" in caplog.text
    caplog.clear()
    assert Exposed(families).value("obsray_tasks_submitted_total") == before
    assert not caplog.text, "said once"
