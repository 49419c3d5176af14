"""Other programs can read what is exported: checked with their own classes or schema."""

from __future__ import annotations

import json
from collections import defaultdict

import pyarrow.parquet as pq
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

from obsray.cli import command
from obsray.export import parquet, perfetto, speedscope
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.testing.recorded_session import record_session


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record_session(tmp_path_factory.mktemp("session"), tasks=80, live=False)


@pytest.fixture(scope="module")
def views(recorded):
    views = Views(Store.open(recorded.directory))
    views.refresh()
    return views


def test_perfetto_slices_nest_and_arrows_have_two_ends(views):
    trace = Trace.FromString(b"".join(perfetto.write(views)))
    depth, begins, tracks = defaultdict(int), defaultdict(int), {}
    last: dict[int, int] = {}
    out, into = set(), set()
    for packet in trace.packet:
        if packet.HasField("track_descriptor"):
            tracks[packet.track_descriptor.uuid] = packet.track_descriptor
        if not packet.HasField("track_event"):
            continue
        event = packet.track_event
        assert event.track_uuid in tracks and packet.timestamp > 0
        if event.type == TrackEvent.TYPE_SLICE_BEGIN:
            depth[event.track_uuid] += 1
            begins[event.categories[0]] += 1
            assert event.name
        elif event.type == TrackEvent.TYPE_SLICE_END:
            depth[event.track_uuid] -= 1
            assert depth[event.track_uuid] >= 0
        if event.type in (TrackEvent.TYPE_SLICE_BEGIN, TrackEvent.TYPE_SLICE_END):
            assert packet.timestamp >= last.get(event.track_uuid, 0)
            last[event.track_uuid] = packet.timestamp
        out |= set(event.flow_ids)
        into |= set(event.terminating_flow_ids)
    assert not any(depth.values()) and begins["task"] > 80 and begins["submit"] > 80
    assert out and out == into
    assert any(track.process.process_name for track in tracks.values())
    assert any(track.HasField("counter") for track in tracks.values())


def test_speedscope_profiles_open_and_close_frames_in_order(views):
    found = json.loads(b"".join(speedscope.write(views)))
    assert found["$schema"].endswith("file-format-schema.json") and found["profiles"]
    for profile in found["profiles"]:
        open_, at = [], profile["startValue"]
        for event in profile["events"]:
            assert event["at"] >= at
            at = event["at"]
            if event["type"] == "O":
                open_.append(event["frame"])
            else:
                assert open_.pop() == event["frame"]
        assert not open_ and at <= profile["endValue"]
        assert all(event["frame"] < len(found["shared"]["frames"]) for event in profile["events"])


def test_parquet_files_need_nothing_of_obsray(views, tmp_path):
    written = parquet.write(views, tmp_path / "out")
    tasks = pq.read_table(tmp_path / "out" / "tasks.parquet")
    assert tasks.num_rows == len(views.task_table) and "FINISHED" in set(tasks["state"].to_pylist())
    assert len(tasks["task_id"][0].as_py()) == 32 and tasks["parent_task_id"][0].as_py() is None
    ended = pq.read_table(tmp_path / "out" / "events" / "task_ended.parquet")
    assert written["events/task_ended.parquet"] == ended.num_rows and "ok" in set(ended["outcome"].to_pylist())
    with pytest.raises(FileExistsError):
        parquet.write(views, tmp_path / "out")


@pytest.mark.parametrize("form", ["perfetto", "chrome", "speedscope", "otlp", "parquet"])
def test_the_command_writes_every_format(recorded, form, tmp_path, capsys):
    path = tmp_path / "out"
    assert command.main(["export", f"--{form}", "-o", str(path), "--session", str(recorded.directory)]) == 0
    assert str(path) in capsys.readouterr().out and path.exists()
    if form == "otlp":
        data = TracesData.FromString(path.read_bytes())
        names = {span.name for of in data.resource_spans for scope in of.scope_spans for span in scope.spans}
        assert {"word_count", "word_count queue", "matrix submit"} <= names


def test_a_command_without_a_format_or_a_receiver_says_so(recorded, capsys):
    assert command.main(["export", "--session", str(recorded.directory)]) == 2
    arguments = ["export", "--otlp", "--endpoint", "http://127.0.0.1:9", "--timeout", "0.1"]
    assert command.main([*arguments, "--session", str(recorded.directory)]) == 1
    assert "goes on from there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--chrome", "--endpoint", "http://127.0.0.1:1"], "--endpoint goes with --otlp"),
        (["--perfetto", "--all"], "--all goes with --otlp"),
        (["--otlp", "--endpoint", "http://127.0.0.1:1", "-o", "x"], "either sent or written"),
        (["--otlp", "--endpoint", "127.0.0.1:4318"], "the endpoint must begin with http"),
        (["--parquet", "-o", "-"], "do not fit into one stream"),
        (["--chrome", "-o", "nowhere/x"], "cannot write nowhere/x"),
    ],
)
def test_what_an_export_cannot_do_is_said_and_nothing_is_written(recorded, tmp_path, monkeypatch, capsys, asked, said):
    monkeypatch.chdir(tmp_path)
    assert command.main(["export", *asked, "--session", str(recorded.directory)]) == 1
    assert said in capsys.readouterr().err and not list(tmp_path.iterdir())
