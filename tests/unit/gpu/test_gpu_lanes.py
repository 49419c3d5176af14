"""GPU work on timelines: one lane for each stream, and an arrow from the task that asked for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from obsray.export import perfetto, tracks
from obsray.telemetry import timeline
from tests.unit.gpu.captures import STEPS
from tests.unit.gpu.constructed import OTHER, WORKER, Constructed, at
from tests.unit.gpu.test_gpu_streams import session
from tests.unit.gpu.test_gpu_views import views

__all__ = ["session", "views"]  # fixtures


@pytest.fixture
def made(tmp_path: Path) -> Constructed:
    found = Constructed(tmp_path, (0, 1), (WORKER, OTHER))
    found.reserve(0, 1000)
    task = found.task(0, 1000)
    for number in range(3):
        found.kernel(10 * number, 100 * number + 10, 100 * number + 60, task, stream=7)
        found.kernel(10 * number, 100 * number + 20, 100 * number + 90, task, name='nccl"AllReduce', stream=20)
    found.copy(500, 510, 520, task)
    found.kernel(600, 610, 620, worker=OTHER, gpu=1, stream=7)
    return found


def events(made: Constructed) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(b"".join(timeline.write(made.views())))
    return found


def test_each_stream_has_a_lane_of_its_own_in_its_gpus_group(made: Constructed) -> None:
    found = events(made)
    groups = {one["pid"]: one["args"]["name"] for one in found if one["name"] == "process_name"}  # type: ignore[index]
    lanes = {(one["pid"], one["tid"]): one["args"]["name"] for one in found if one["name"] == "thread_name"}  # type: ignore[index]
    work = [one for one in found if one.get("cat") == "gpu"]
    assert len(work) == 8
    placed = {(groups[one["pid"]], lanes[one["pid"], one["tid"]], one["name"]) for one in work}  # type: ignore[index]
    node = "of node a1a1a1a1"
    assert placed == {
        (f"GPU 0 {node}", "stream 7", "gemm"), (f"GPU 0 {node}", "stream 20", 'nccl"AllReduce'),
        (f"GPU 0 {node}", "stream 7", "copy htod"), (f"GPU 1 {node}", "stream 7", "gemm"),
    }  # fmt: skip
    first = min(work, key=lambda one: one["ts"])  # type: ignore[arg-type,return-value]
    assert first["ts"] == at(10) / 1000 and first["dur"] == 50 and first["args"]["after_launch_us"] == 10  # type: ignore[index]


def test_an_arrow_leads_from_the_task_to_its_first_work_on_each_stream(made: Constructed) -> None:
    arrows = [one for one in events(made) if one.get("cat") == "launch"]
    assert [one["ph"] for one in arrows].count("s") == [one["ph"] for one in arrows].count("f") == 2
    assert {one["ts"] for one in arrows if one["ph"] == "f"} == {at(10) / 1000, at(20) / 1000}


def test_work_of_several_processes_on_one_gpu_keeps_its_lanes_apart(tmp_path: Path) -> None:
    found = Constructed(tmp_path, (0,), (WORKER, OTHER))
    for worker in (WORKER, OTHER):
        found.kernel(None, 10, 20, worker=worker)
    names = {one["args"]["name"] for one in events(found) if one["name"] == "thread_name"}  # type: ignore[index]
    assert {"stream 7 of worker 01010101", "stream 7 of worker 02020202"} <= names


def test_overlapping_work_of_one_stream_is_drawn_beside_each_other(tmp_path: Path) -> None:
    found = Constructed(tmp_path)
    found.kernel(None, 10, 30)
    found.kernel(None, 29.9, 40)
    names = [one["args"]["name"] for one in events(found) if one["name"] == "thread_name"]  # type: ignore[index]
    assert "stream 7" in names and "stream 7 (2)" in names


def test_perfettos_own_format_has_the_lanes_too(made: Constructed) -> None:
    view = made.views()
    found = tracks.read(view)
    lanes = {track.name: len(track.slices) for track in found.tracks.values() if "stream" in track.name}
    assert sum(len(track.slices) for track in found.tracks.values() if track.name.startswith("stream")) == 8, lanes
    assert sum(len(track.arriving) for track in found.tracks.values() if track.name.startswith("stream")) == 2
    assert b"stream 20" in b"".join(perfetto.write(view))


def test_the_recorded_run_is_on_the_timeline_kernel_by_kernel(views) -> None:  # type: ignore[no-untyped-def]
    found = json.loads(b"".join(timeline.write(views)))
    work = [one for one in found if one.get("cat") == "gpu"]
    assert sum(not one["name"].startswith(("copy", "fill")) for one in work) == STEPS * 132
    assert all(one["args"]["task_id"] != "0" * 32 for one in work if not one["name"].startswith(("copy", "fill")))
