"""Metrics of user code: what is accepted, what is recorded, what is served and how it stays bounded."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.exposition import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from obsray.metrics import user
from obsray.metrics.exporter import Families
from obsray.telemetry.collector import Collector
from obsray.telemetry.events import ProcessKind
from obsray.telemetry.spine import Ring
from obsray.util import metrics


class Process:
    """A process with a ring that metrics record into."""

    def __init__(self, session: Path, seed: int) -> None:
        for name in ("rings", "telemetry"):
            (session / name).mkdir(exist_ok=True)
        self.ring = Ring(session / "rings", random.Random(seed).randbytes(8), ProcessKind.WORKER)
        self.session = SimpleNamespace(emitter=self.ring, closed=False, local=SimpleNamespace())


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Process:
    made = Process(tmp_path, 1)
    monkeypatch.setattr(metrics, "current_or_none", lambda: made.session)
    return made


def served(session: Path) -> dict[str, Any]:
    """What a scrape says about metrics of user code: sample name and labels -> value."""
    collector = Collector(session, 1 << 30)
    families = Families(collector, "n0")
    collector.folds.append(families.update)
    while collector.poll():
        pass
    registry = CollectorRegistry()
    registry.register(families)
    return {
        " ".join([sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
        if sample.name.startswith(user.PREFIX)
    }


def test_values_of_all_instruments_are_served(process, tmp_path):
    requests = metrics.Counter("requests", "Requests.", ("route",))
    requests.set_default_tags({"route": "/"})
    requests.inc()
    requests.inc(2.5)
    requests.inc(4, {"route": "/a"})
    level = metrics.Gauge("level")
    level.set(3)
    level.set(-2)
    latency = metrics.Histogram("latency", boundaries=[0.1, 1])
    for value in (0.05, 0.1, 0.5, 7):
        latency.observe(value)
    assert served(tmp_path) == {
        "obsray_user_requests_total route=/": 3.5,
        "obsray_user_requests_total route=/a": 4,
        "obsray_user_level": -2,
        "obsray_user_latency_bucket le=0.1": 2,
        "obsray_user_latency_bucket le=1.0": 3,
        "obsray_user_latency_bucket le=+Inf": 4,
        "obsray_user_latency_count": 4,
        "obsray_user_latency_sum": 7.65,
    }


def test_counters_add_up_over_processes_and_the_newest_gauge_counts(process, tmp_path, monkeypatch):
    counter, gauge = metrics.Counter("work"), metrics.Gauge("depth")
    counter.inc(1)
    gauge.set(10)
    other = Process(tmp_path, 2)
    monkeypatch.setattr(metrics, "current_or_none", lambda: other.session)
    for copy, record in ((pickle.loads(pickle.dumps(each)), each) for each in (counter, gauge)):
        assert copy.info == record.info
        copy.inc(2) if isinstance(copy, metrics.Counter) else copy.set(20)
    assert served(tmp_path) == {"obsray_user_work_total": 3, "obsray_user_depth": 20}


def test_label_values_and_families_are_bounded(process, tmp_path):
    counter = metrics.Counter("visits", tag_keys=("user",))
    for number in range(user.SERIES_MAX + 50):
        counter.inc(1, {"user": str(number)})
    for number in range(user.FAMILIES_MAX + 50):
        metrics.Counter(f"made_up_{number}").inc()
    found = served(tmp_path)
    visits = {name: value for name, value in found.items() if "visits" in name}
    assert len(visits) == user.SERIES_MAX + 1
    assert visits[f"obsray_user_visits_total user={user.OTHER}"] == 50
    assert len(found) - len(visits) == user.FAMILIES_MAX - 1


def test_one_process_interns_a_bounded_number_of_tag_values(process, monkeypatch):
    monkeypatch.setattr(metrics, "TAG_SETS_MAX", 10)
    before = len(process.ring._strings)
    counter = metrics.Counter("visits", tag_keys=("user",))
    for number in range(100):
        counter.inc(1, {"user": str(number)})
    assert len(process.ring._strings) - before == 2 + 10 + 1


def test_records_that_do_not_fit_the_first_definition_are_not_served(process, tmp_path):
    metrics.Counter("thing", tag_keys=("a",)).inc(1, {"a": "x"})
    metrics.Counter("thing", tag_keys=("b",)).inc(1, {"b": "x"})
    metrics.Gauge("thing", tag_keys=("a",)).set(9, {"a": "x"})
    assert served(tmp_path) == {"obsray_user_thing_total a=x": 1}


@pytest.mark.parametrize("definition", ["", "{", "[]", "{}", '{"tag_keys": 3}', json.dumps({"tag_keys": ["a"]})[:-3]])
def test_damaged_records_do_not_stop_the_scrape(process, tmp_path, definition):
    metrics.Counter("good").inc()
    ring = process.ring
    ring.user_metric(1, bytes(16), ring.intern("bad"), ring.intern("{"), 1.0, 0, ring.intern(definition))
    ring.user_metric(1, bytes(16), ring.intern("worse"), 0, 1.0, 77, ring.intern('{"tag_keys":[]}'))
    assert served(tmp_path) == {"obsray_user_good_total": 1}


def test_nothing_is_recorded_and_nothing_fails_without_a_runtime(monkeypatch):
    monkeypatch.setattr(metrics, "current_or_none", lambda: None)
    metrics.Counter("quiet").inc()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: metrics.Counter(""), ValueError),
        (lambda: metrics.Counter(3), TypeError),
        (lambda: metrics.Metric("a"), TypeError),
        (lambda: metrics.Counter("a", tag_keys="abc"), TypeError),
        (lambda: metrics.Gauge("a", tag_keys=(1,)), TypeError),
        (lambda: metrics.Gauge("a", tag_keys=("__a",)), ValueError),
        (lambda: metrics.Gauge("a", tag_keys=("a", "a")), ValueError),
        (lambda: metrics.Histogram("a", boundaries=[1], tag_keys=("le",)), ValueError),
        (lambda: metrics.Histogram("a"), ValueError),
        (lambda: metrics.Histogram("a", boundaries=[2, 1]), ValueError),
        (lambda: metrics.Histogram("a", boundaries=[0, 1]), ValueError),
        (lambda: metrics.Histogram("a", boundaries=[1, float("inf")]), ValueError),
        (lambda: metrics.Histogram("a", boundaries=["x"]), TypeError),
        (lambda: metrics.Counter("a").inc(float("nan")), ValueError),
        (lambda: metrics.Counter("a").inc(0), ValueError),
        (lambda: metrics.Gauge("a").set(None), TypeError),
        (lambda: metrics.Gauge("a").set(1, {"b": "x"}), ValueError),
        (lambda: metrics.Gauge("a", tag_keys=("b",)).set(1), ValueError),
        (lambda: metrics.Gauge("a", tag_keys=("b",)).set(1, {"b": 1}), TypeError),
        (lambda: metrics.Gauge("a", tag_keys=("b",)).set_default_tags({"c": "x"}), ValueError),
    ],
)
def test_wrong_use_is_an_error_where_it_happens(make, error):
    with pytest.raises(error):
        make()
