"""Perfetto's own trace processor reads what is exported: every slice, arrow, name and counter, without a complaint."""

from __future__ import annotations

from collections import Counter

import pytest
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from obsray.export import perfetto
from obsray.telemetry import timeline
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.testing.recorded_session import record_session
from tests.unit.telemetry.perfetto_engine import Engine

pytestmark = pytest.mark.timeout(300)
COMPLAINTS = "select name, value from stats where severity in ('error', 'data_loss') and value > 0"


@pytest.fixture(scope="module")
def views(tmp_path_factory):
    views = Views(Store.open(record_session(tmp_path_factory.mktemp("session"), tasks=80, live=False).directory))
    views.refresh()
    return views


@pytest.fixture
def engine(tmp_path):
    engine = Engine(tmp_path / "browser")
    yield engine
    engine.close()


def test_a_trace_in_perfettos_format_is_read_whole(views, engine):
    written = b"".join(perfetto.write(views))
    engine.load(written)
    assert engine.query(COMPLAINTS) == []
    packets = [packet.track_event for packet in Trace.FromString(written).packet if packet.HasField("track_event")]
    shown = (TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_INSTANT)
    slices = Counter((event.categories[0], event.name) for event in packets if event.type in shown)
    found = engine.query("select category, name, count(*) as number from slice group by 1, 2")
    assert {(row["category"], row["name"]): row["number"] for row in found} == slices
    open_ = engine.query("select count(*) as number from slice where dur < 0")
    assert open_ == [{"number": 0}], "each has an end"
    arrows = {arrow for event in packets for arrow in event.terminating_flow_ids}
    (count,) = engine.query("select count(*) as number from flow join slice on slice.id = slice_in")
    assert count["number"] >= len(arrows) > 0
    counters = Counter(event.type for event in packets)[TrackEvent.TYPE_COUNTER]
    assert engine.query("select count(*) as number from counter") == [{"number": counters}]
    names = {row["name"] for row in engine.query("select name from process where name is not null")}
    assert any("driver" in name for name in names) and any("worker" in name for name in names), names


def test_a_trace_in_chromes_format_is_read_with_the_same_tasks(views, engine):
    engine.load(b"".join(timeline.write(views, refresh=False)))
    assert engine.query(COMPLAINTS) == []
    found = engine.query("select name, count(*) as number from slice where category = 'task' group by 1")
    packets = [packet.track_event for packet in Trace.FromString(b"".join(perfetto.write(views))).packet]
    tasks = [
        event.name for event in packets if event.type == TrackEvent.TYPE_SLICE_BEGIN and "task" in event.categories
    ]
    assert {row["name"]: row["number"] for row in found} == Counter(tasks)
    assert engine.query("select count(*) > 0 as arrows from flow") == [{"arrows": 1}]
