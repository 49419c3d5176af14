"""Capturing hands raw buffers on and gets out of the way."""

from __future__ import annotations

import itertools
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest

from obsray.gpu import capture, chunks, cupti, layouts
from obsray.gpu.capture import Capture, Refused
from obsray.gpu.cupti import Cupti, CuptiError
from obsray.gpu.parse import walk
from obsray.gpu.words import Level, Stage
from tests.unit.gpu.captures import buffers, run, task
from tests.unit.gpu.fake_cupti import FakeCupti, Told

PROCESS = bytes.fromhex("00112233445566aa")
NAMES = {int(pointer, 16): text for pointer, text in run("step")["kernel_names"].items()}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of the recorded run, so that its records are of now."""
    times = itertools.count(run("step")["tasks"][-1]["end_ns"] + 1_000_000, 1000)
    monkeypatch.setattr("obsray.gpu.capture.time.time_ns", lambda: next(times))


def made(tmp_path: Path, library: Any, level: Level = Level.KERNELS, **changes: Any) -> tuple[Capture, Told]:
    told = Told()
    options = {"bytes_max": 64 << 20, "flush_seconds": 0.25, "cost_ratio_max": 0.1, **changes}
    return Capture(library, level, tmp_path, PROCESS, told, (3,), **options), told


def written(tmp_path: Path) -> list[chunks.Chunk]:
    return [chunk for path in chunks.files(tmp_path, PROCESS) for chunk in chunks.read(path, 0)[0]]


def test_a_buffer_is_written_as_it_came_and_its_names_before_it(tmp_path: Path, clock: None) -> None:
    library = FakeCupti()
    capture, _ = made(tmp_path, library)
    library.fill(buffers("step")[0], NAMES)
    library.fill(buffers("step")[1], NAMES)
    library.fill(buffers("step")[1], NAMES)
    capture.close()
    found = written(tmp_path)
    # Facts and names of calls; the rest of the kernels is launched first in the second buffer.
    assert [chunk.kind for chunk in found] == [
        chunks.FACTS, chunks.NAMES, chunks.NAMES, chunks.BUFFER, chunks.NAMES, chunks.BUFFER, chunks.BUFFER,
    ]  # fmt: skip
    texts = [text for chunk in (found[2], found[4]) for _, _, text in chunks.names(chunk.payload)]
    assert sorted(texts) == sorted(NAMES.values())
    assert len(found[3].payload) == len(buffers("step")[0])
    assert [chunk.number for chunk in found] == list(range(1, len(found) + 1))


def test_an_empty_buffer_is_no_chunk(tmp_path: Path) -> None:
    library = FakeCupti()
    capture, _ = made(tmp_path, library)
    address, size = library.request()
    assert size == 1 << 20
    library.complete(address, 0)
    capture.close()
    assert all(chunk.kind != chunks.BUFFER for chunk in written(tmp_path))


def test_records_that_cupti_dropped_are_counted_and_told(tmp_path: Path, clock: None) -> None:
    library = FakeCupti()
    capture, told = made(tmp_path, library)
    library.lost = 12
    library.fill(buffers("step")[0], NAMES)
    capture.close()
    assert told.named("gpu_records_lost")[0][2:] == (12, Stage.CUPTI)
    assert sum(chunk.lost for chunk in written(tmp_path)) == 12


def test_what_finds_no_room_on_disk_is_counted_and_told(
    tmp_path: Path, clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "FILE_BYTES", 1000)
    library = FakeCupti()
    capture, told = made(tmp_path, library, bytes_max=2000)
    for _ in range(3):
        library.fill(buffers("step")[0], NAMES)
    capture.close()
    assert sum(chunk.kind == chunks.BUFFER for chunk in written(tmp_path)) == 1
    lost = told.named("gpu_records_lost")
    assert [values[3] for values in lost] == [Stage.WORKER, Stage.WORKER]
    assert lost[0][2] == len(walk(buffers("step")[0], layouts.layout(130001))[0])


def test_a_task_is_marked_and_its_number_pushed_on_its_thread(tmp_path: Path) -> None:
    library = FakeCupti()
    capture, _ = made(tmp_path, library)
    number = capture.begin(task(5), 1, 42, True)
    assert library.pushed == [number]
    other = capture.begin(task(6), 0, 43, False)
    assert library.pushed == [number], "who shares a thread pushes nothing"
    capture.end(other)
    capture.end(number)
    assert library.pushed == []
    marks = [chunks.MARK.unpack(chunk.payload) for chunk in written(tmp_path) if chunk.kind == chunks.MARKS]
    assert [(mark[0], bool(mark[2]), mark[4], mark[6], mark[8]) for mark in marks] == [
        (number, False, 1, 42, task(5)), (other, False, 0, 43, task(6)), (other, True, 0, 43, task(6)),
        (number, True, 1, 42, task(5)),
    ]  # fmt: skip
    assert {mark[3] for mark in marks} == {threading.get_ident() & 0xFFFFFFFF}


def test_what_a_task_did_is_handed_over_before_its_end_is_told(
    tmp_path: Path, clock: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("obsray.gpu.capture.FLUSH_AFTER_NS", 0)
    monkeypatch.setattr("obsray.gpu.capture.COLLECT_SECONDS", 60.0)
    library = FakeCupti()
    capture, _ = made(tmp_path, library, flush_seconds=60.0)
    number = capture.begin(task(5), 0, 42, True)
    library.fill(buffers("step")[0], NAMES)
    capture.end(number)
    # The thread that collects sleeps; whoever gets the result may end this process now.
    assert library.flushed == [False]
    assert written(tmp_path)[-1].kind == chunks.BUFFER
    capture.close()
    assert library.flushed == [False, False, True], "what is complete first, then the rest"


def test_only_launches_are_recorded_by_default_and_all_calls_at_level_full(tmp_path: Path) -> None:
    library = FakeCupti()
    made(tmp_path, library)
    assert library.chosen == {(1, 307), (2, 211), (2, 41), (2, 131)}
    assert layouts.RUNTIME not in library.enabled and layouts.KERNEL in library.enabled
    full = FakeCupti()
    made(tmp_path, full, Level.FULL)
    assert {layouts.RUNTIME, layouts.DRIVER} <= full.enabled


def test_capturing_that_costs_too_much_steps_down_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeCupti()
    times = itertools.count(1_700_000_000_000_000_000, 1_000_000_000)
    monkeypatch.setattr("obsray.gpu.capture.time.time_ns", lambda: next(times))
    capture, told = made(tmp_path, library, Level.FULL, cost_ratio_max=0.05)
    for expected in (Level.KERNELS, Level.OFF):
        for _ in range(3):
            number = capture.begin(task(1), 0, 1, True)
            capture._cost_ns += 900_000_000
            capture.end(number)
        assert capture.level is expected
    changed = told.named("gpu_capture_changed")
    assert [(values[2], values[3]) for values in changed] == [(2, 1), (1, 0)]
    assert "5% is allowed" in told.texts[changed[0][5]]
    assert not library.enabled
    assert capture.begin(task(2), 0, 1, True) == 0


def test_a_version_nobody_knows_is_refused_before_anything_is_enabled(tmp_path: Path) -> None:
    library = FakeCupti(version=139999)
    with pytest.raises(Refused, match="interface version 139999"):
        made(tmp_path, library)
    assert not library.enabled and not library.subscribed
    assert not list(tmp_path.iterdir())


def test_a_subscriber_that_is_there_already_is_respected(tmp_path: Path) -> None:
    library = FakeCupti(taken=True)
    with pytest.raises(Refused, match="another profiler"):
        made(tmp_path, library)
    assert not library.enabled and not list(tmp_path.iterdir())


def test_where_no_library_works_the_reason_is_told_and_nothing_else_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    monkeypatch.setattr(cupti, "find", lambda: ["/nowhere/libcupti.so.99"])
    assert capture.start(Level.KERNELS, tmp_path, PROCESS, told, (0,), 1 << 20, 0.25, 0.1) is None
    assert "no libcupti was found" in told.texts[told.named("gpu_capture_refused")[0][2]]
    # Something that can be loaded and is not CUPTI.
    monkeypatch.setattr(cupti, "find", lambda: ["libc.so.6"])
    assert capture.start(Level.KERNELS, tmp_path, PROCESS, told, (0,), 1 << 20, 0.25, 0.1) is None
    assert "libc.so.6: it has no cupti" in told.texts[told.named("gpu_capture_refused")[1][2]]


def test_what_nobody_thought_of_stops_the_capture_and_reaches_nobody(tmp_path: Path, clock: None) -> None:
    library = FakeCupti()
    capture, told = made(tmp_path, library)

    def broken(*_: object) -> int:
        raise RuntimeError("boom")

    library.dropped = broken  # type: ignore[method-assign]
    library.fill(buffers("step")[0], NAMES)
    capture._thread.join(10)
    assert capture.level is Level.OFF and not library.enabled
    assert "boom" in told.texts[told.named("gpu_capture_changed")[0][5]]
    assert capture.begin(task(1), 0, 1, True) == 0
    capture.close()


def test_launches_are_told_from_other_calls() -> None:
    calls = {
        1: "cuLaunchKernelEx", 2: "cudaGraphLaunch_v10000", 3: "cuMemcpyHtoDAsync_v2", 4: "cudaGetDevice_v3020",
        5: "cuStreamSynchronize", 6: "cudaMalloc_v3020", 7: "cuCtxSynchronize", 8: "cudaMemsetAsync_v3020",
    }  # fmt: skip
    assert cupti.launches(calls) == [1, 2, 3, 5, 7, 8]


def test_a_library_that_is_none_is_an_error_that_says_which() -> None:
    with pytest.raises(CuptiError, match="nowhere"):
        Cupti("/nowhere/libcupti.so")
    assert cupti.find()[-1] == "libcupti.so.12"


def test_before_an_end_that_may_come_too_soon_what_is_done_is_handed_over_at_once(tmp_path: Path) -> None:
    library = FakeCupti()
    flushed = threading.Event()
    library.flush = lambda forced=False: flushed.set()
    capture, _ = made(tmp_path, library, flush_seconds=3600.0)
    capture.hurry()
    assert flushed.wait(60)
    capture.close()


class TorchProfile:
    """As much of ``torch.autograd.profiler.profile`` as is looked at."""

    def __init__(self, library: FakeCupti, *activities: str) -> None:
        self.kineto_activities = set(activities)
        self.library = library
        self.place_was_free = False

    def _prepare_trace(self) -> None:
        self.place_was_free = not self.library.subscribed


def test_torchs_profiler_gets_the_place_and_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    profile = type("profile", (TorchProfile,), {"_prepare_trace": TorchProfile._prepare_trace})
    monkeypatch.setitem(sys.modules, "torch.autograd.profiler", types.SimpleNamespace(profile=profile))
    library = FakeCupti()
    capture, told = made(tmp_path, library)
    watched = threading.Event()
    while profile._prepare_trace is TorchProfile._prepare_trace and not watched.wait(0.01):
        assert capture._thread.is_alive()
    of_the_host = profile(library, "ProfilerActivity.CPU")
    of_the_host._prepare_trace()
    assert library.subscribed and not of_the_host.place_was_free, "it does not look at GPUs"
    task = capture.begin(b"t" * 16, 1, 0, True)
    profiler = profile(library, "ProfilerActivity.CPU", "ProfilerActivity.CUDA")
    profiler._prepare_trace()
    assert profiler.place_was_free and not library.enabled and True in library.flushed
    (changed,) = told.named("gpu_capture_changed")
    assert "torch.profiler" in told.texts[changed[-1]] and changed[3] == Level.OFF
    capture.end(task)
    profile(library, "ProfilerActivity.CUDA")._prepare_trace()
    assert len(told.named("gpu_capture_changed")) == 1
    capture.close()
