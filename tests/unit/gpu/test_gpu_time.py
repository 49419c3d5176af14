"""A reserved GPU that idles says why: sessions of which the answer is known, and every piece of time in one place."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from obsray.telemetry.answers.gpu_time import ACTIVITIES, NAMES, GpuTime, union
from obsray.telemetry.events import WaitKind
from tests.unit.gpu.constructed import BEGIN_NS, OTHER, WORKER, Constructed, at


@pytest.fixture
def made(tmp_path: Path) -> Constructed:
    return Constructed(tmp_path)


def microseconds(made: Constructed, end: float, gpu: int = 0) -> dict[str, float]:
    """What one GPU spent its time on from the beginning to ``end``."""
    found = GpuTime(made.views(), BEGIN_NS, at(end))
    mine = found.pieces.device == [number for _, number in found.devices].index(gpu)
    seconds = np.bincount(found.pieces.activity[mine], found.pieces.seconds[mine], len(NAMES))
    assert seconds.sum() == pytest.approx(end / 1e6), "every instant is somewhere, once"
    return {name: round(float(value) * 1e6, 3) for name, value in zip(NAMES, seconds, strict=True) if value}


def test_a_gpu_that_nobody_asked_for_is_not_reserved(made: Constructed) -> None:
    assert microseconds(made, 1000) == {"not reserved": 1000}


def test_kernels_that_follow_their_launches_are_launch_bound(made: Constructed) -> None:
    made.reserve(100, 900)
    task = made.task(100, 900)
    for begin in range(100, 900, 20):
        made.kernel(begin, begin + 8, begin + 13, task)  # 8 us on the way, 5 of work, 7 until the next launch
    found = microseconds(made, 1000)
    assert found == {
        "compute": 200, "idle: launch-bound": 40 * 8 + 39 * 7, "idle: nothing submitted": 7, "not reserved": 200,
    }  # fmt: skip


def test_queued_kernels_with_pauses_between_them_are_not_launch_bound(made: Constructed) -> None:
    made.reserve(0, 1000)
    task = made.task(0, 1000)
    for number in range(10):
        made.kernel(number, 100 + 90 * number, 180 + 90 * number, task)
    found = microseconds(made, 1000)
    assert found["idle: between kernels"] == 90 and found["compute"] == 800
    assert found["idle: launch-bound"] == 100, "the first one was on its way"


def test_a_host_that_waits_for_every_kernel_synchronises(made: Constructed) -> None:
    made.reserve(0, 1000)
    task = made.task(0, 1000)
    for begin in range(0, 1000, 100):
        made.kernel(begin, begin + 10, begin + 60, task)
        made.wait(begin + 5, begin + 70, task)  # it wakes 10 us after the end, and launches 30 us later
    found = microseconds(made, 1000)
    assert found["compute"] == 500
    assert found["idle: synchronising"] == 9 * 10 + 9 * 30 + 9 * 10 + 10, "the wait, the host's pause, the way there"
    assert found["idle: launch-bound"] == 10


def test_a_stream_that_waits_for_an_event_does_not_stop_the_host(made: Constructed) -> None:
    from obsray.gpu.words import WaitingFor

    made.reserve(0, 5000)
    task = made.task(0, 5000)
    made.kernel(0, 10, 100, task)
    made.wait(50, 4900, task, what=WaitingFor.STREAM_WAIT_EVENT)
    assert "idle: synchronising" not in microseconds(made, 5000)


def test_arguments_on_their_way_and_values_of_others_are_input(made: Constructed) -> None:
    made.reserve(0, 10_000)
    task = made.task(0, 10_000, fetch=1000, unpack=500, blocked=3000, store=700)
    made.kernel(2000, 2010, 3010, task)
    made.blocked(4000, 7000, task)
    made.kernel(7500, 7510, 7600, task)
    found = microseconds(made, 10_000)
    assert found["idle: waiting for input"] == pytest.approx(4500, abs=1)
    assert found["idle: storing results"] == pytest.approx(700, abs=1)
    assert found["compute"] == 1090


def test_waiting_for_room_in_the_store_is_no_input(made: Constructed) -> None:
    made.reserve(0, 10_000)
    task = made.task(0, 10_000, blocked=3000)
    made.blocked(4000, 7000, task, kind=WaitKind.ALLOCATE)
    found = microseconds(made, 10_000)
    assert found["idle: storing results"] == pytest.approx(3000, abs=1)
    assert found["idle: nothing submitted"] == pytest.approx(7000, abs=1)


def test_code_that_does_something_else_submits_nothing(made: Constructed) -> None:
    made.reserve(0, 100_000)
    task = made.task(0, 100_000)
    made.kernel(10, 20, 40, task)
    made.kernel(50_000, 50_010, 50_050, task)
    found = microseconds(made, 100_000)
    assert found["idle: nothing submitted"] == pytest.approx(100_000 - 60 - 10 - 10, abs=1)
    assert found["idle: launch-bound"] == 20


def test_a_pause_after_a_wait_that_is_longer_than_a_launch_has_another_cause(made: Constructed) -> None:
    made.reserve(0, 50_000)
    task = made.task(0, 50_000)
    made.kernel(0, 10, 1010, task)
    made.wait(20, 1020, task)
    made.kernel(40_000, 40_010, 50_000, task)
    found = microseconds(made, 50_000)
    assert found["idle: nothing submitted"] == 40_000 - 1020
    assert found["idle: synchronising"] == 20


def test_copies_and_communication_count_where_nothing_computes(made: Constructed) -> None:
    made.reserve(0, 1000)
    task = made.task(0, 1000)
    made.kernel(0, 0, 400, task)
    made.kernel(0, 300, 600, task, name="ncclDevKernel_AllReduce_Sum_f32_RING_LL", stream=20)
    made.copy(0, 500, 800, task)
    found = microseconds(made, 1000)
    assert (found["compute"], found["communication"], found["copy"]) == (400, 200, 200)


def test_who_holds_a_gpu_without_work_is_told_apart(tmp_path: Path) -> None:
    made = Constructed(tmp_path, (0, 1, 2), (WORKER, OTHER))
    made.reserve(0, 1000)  # a leased worker whose task takes half of the time
    made.task(0, 500)
    actor = bytes(8) + b"\x02" + bytes(7)
    made.node.actor_placed(at(0), actor, OTHER, bytes(8), 0.0, 0)
    made.reserve(100, None, OTHER, gpu=1)
    made.reserve(0, 1000, bytes(8), gpu=2, group=bytes(15) + b"\x01", bundle=0)
    assert microseconds(made, 1000) == {"idle: nothing submitted": 500, "idle: no task": 500}
    assert microseconds(made, 1000, gpu=1) == {"not reserved": 100, "idle: actor without calls": 900}
    assert microseconds(made, 1000, gpu=2) == {"idle: bundle without work": 1000}


def test_what_is_not_captured_is_not_called_idle(made: Constructed) -> None:
    made.reserve(0, 1000, captured=False)
    made.rings[WORKER].gpu_capture_refused(at(0), WORKER, made.rings[WORKER].intern("no libcupti was found"))
    made.task(200, 1000)
    assert microseconds(made, 1000) == {"idle: no task": 200, "not observed": 800}


def test_a_capture_that_stopped_is_not_observed_from_there_on(made: Constructed) -> None:
    made.reserve(0, 1000)
    task = made.task(0, 1000)
    made.kernel(0, 0, 300, task)
    ring = made.rings[WORKER]
    ring.gpu_capture_changed(at(400), WORKER, 1, 0, 0.2, ring.intern("it took too much"))
    assert microseconds(made, 1000) == {"compute": 300, "idle: nothing submitted": 100, "not observed": 600}


def test_graphs_are_asked_for_once_and_their_pauses_are_the_gpus(made: Constructed) -> None:
    made.reserve(0, 1000)
    task = made.task(0, 1000)
    for number in range(10):
        made.kernel(100, 200 + 20 * number, 215 + 20 * number, task, graph=5)
    found = microseconds(made, 1000)
    assert found["idle: between kernels"] == 9 * 5 and found["compute"] == 150


def test_without_recorded_launches_short_pauses_count_as_launches(made: Constructed) -> None:
    made.reserve(0, 50_000)
    task = made.task(0, 50_000)
    for begin in (0, 500, 700, 30_000):
        made.kernel(None, begin, begin + 100, task)
    found = microseconds(made, 50_000)
    assert found["idle: launch-bound"] == 400 + 100
    assert found["idle: nothing submitted"] == 50_000 - 400 - 500


def test_union_joins_what_touches_or_overlaps() -> None:
    begin, end = union(np.array([5, 0, 20, 10, 30]), np.array([10, 3, 25, 22, 30]))
    assert (begin.tolist(), end.tolist()) == ([0, 5], [3, 25])


def oracle(
    kernels: list[tuple[int, int, int]], tasks: list[tuple[int, int]], held: list[tuple[int, int]], end: int
) -> dict[str, int]:
    """The same by looking at each microsecond by itself: which of the plain states it is in."""
    counts = dict.fromkeys(("compute", "not reserved", "idle: no task", "in a task"), 0)
    for now in range(end):
        if any(begin <= now < stop for _, begin, stop in kernels):
            counts["compute"] += 1
        elif not any(begin <= now < stop for begin, stop in held):
            counts["not reserved"] += 1
        elif not any(begin <= now < stop for begin, stop in tasks):
            counts["idle: no task"] += 1
        else:
            counts["in a task"] += 1
    return counts


def test_random_sessions_add_up_and_agree_with_a_slow_count(tmp_path: Path) -> None:
    for seed in range(8):
        chance = random.Random(seed)
        made, end = Constructed(tmp_path / str(seed)), 4000
        edges = sorted(chance.sample(range(end), 8))
        held = list(zip(edges[::2], edges[1::2], strict=True))
        tasks, kernels = [], []
        for begin, stop in held:
            made.reserve(begin, stop)
            inner = sorted(chance.sample(range(begin, stop + 1), min(4, stop - begin)))
            for first, last in zip(inner[::2], inner[1::2], strict=False):
                task = made.task(first, last)
                tasks.append((first, last))
                for _ in range(chance.randrange(6)):
                    launch = chance.randrange(first, last + 1)
                    start = chance.randrange(launch, last + 1)
                    kernels.append((launch, start, min(start + chance.randrange(1, 80), end)))
                    made.kernel(*kernels[-1], task, stream=chance.randrange(3))
        found, expected = microseconds(made, end), oracle(kernels, tasks, held, end)
        inside = sum(value for name, value in found.items() if name.startswith("idle: ") and name != "idle: no task")
        got = {name: found.get(name, 0) for name in expected} | {"in a task": inside}
        assert got == pytest.approx(expected), f"seed {seed}"


def test_every_activity_has_a_meaning() -> None:
    assert all(ACTIVITIES.values())
