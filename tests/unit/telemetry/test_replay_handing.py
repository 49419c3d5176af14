"""Replays of many short tasks: whether the driver or its workers are what takes the time."""

from __future__ import annotations

from pathlib import Path

import pytest

from obsray.telemetry import session_file
from obsray.telemetry.answers.replay import Change
from obsray.telemetry.answers.replay_processors import Line, Processors
from obsray.telemetry.events import Outcome, WaitKind
from obsray.telemetry.views import Views
from tests.unit.telemetry.scenes import NS, Scene

COUNT = 3000
SUBMITS_NS = 20_000
#: From one task to the next on a worker.
BETWEEN_NS = 5_000
#: Looks at the driver's stack are this far apart.
LOOK_SECONDS = 0.05


def flood(
    directory: Path, workers: int, run: float, heard: float, looked_at: bool = True, cpu: float = 0.0
) -> tuple[Views, float]:
    """A session of COUNT tasks that sleep ``run`` seconds each, in which the driver computes ``heard`` seconds for each
    result and hands out the next task then; and how long it took. One task at a time is ahead of each worker."""
    scene = Scene(directory)
    scene.resources(CPU=float(workers))
    processes = [scene.worker() for _ in range(workers)]
    scene.tick(0.1)
    base = scene.now
    tasks, submitted = [], []
    for _ in range(COUNT):
        scene.now += SUBMITS_NS - 1_000_000
        tasks.append(scene.submit("short"))
        submitted.append(scene.now)
    began = scene.now
    free, arrived = [base] * workers, [[base, base] for _ in range(workers)]
    driver = base
    events = []
    for number, task in enumerate(tasks):
        at = min(range(workers), key=lambda one: max(free[one], arrived[one][0]))
        came = max(arrived[at].pop(0), submitted[number])
        start = max(free[at] + BETWEEN_NS, came)
        free[at] = end = start + int(run * NS)
        driver = max(driver, end) + int(heard * NS)
        arrived[at].append(driver)
        events.append((end, driver, number, task, processes[at], came, start))
    ring = scene.driver
    looks = int((driver - began) / NS / LOOK_SECONDS) if looked_at else 0
    share = min(1.0, COUNT * heard / ((driver - base) / NS))
    stack = ring.intern("get (session.py:1)")
    for look in range(1, looks + 1):
        ring.stack_sampled(
            began + int(look * LOOK_SECONDS * NS), bytes(16), 0, ring.intern("(driver)"), stack, 0, 1,
            LOOK_SECONDS, LOOK_SECONDS * share, 0,
        )  # fmt: skip
    for end, over, _, task, worker, came, start in sorted(events):
        of_worker = scene.rings[worker]
        of_worker.task_ended(
            end, task, 0, 1, 1, bytes(16), of_worker.intern("short"), came, came, start, int(Outcome.OK),
            0.0, 0.0, run, 0.0, cpu, 0.0, 10,
        )  # fmt: skip
        ring.task_finished(over, task, 0, int(Outcome.OK), 10, ring.intern(""))
    scene.now = driver
    ring.process_waited(driver, int(WaitKind.GET), COUNT, scene.result(tasks[0]), (driver - began) / NS)
    return scene.views(), (driver - base) / NS


def foretold(view: Views, workers: float) -> float:
    found = view.what_if(changes=[Change(workers=workers)])
    assert found["error_ratio"] < 0.05, found["sentence"]
    assert not found["refused"], found["refused"]
    return float(found["scenarios"][0]["seconds"])


@pytest.mark.parametrize(("before", "after"), [(2, 1), (2, 4), (4, 2), (1, 2)])
@pytest.mark.parametrize(("run", "heard"), [(0.0001, 0.001), (0.001, 0.00005)], ids=["driver", "workers"])
def test_more_and_fewer_workers_are_foretold_whoever_is_what_takes_the_time(tmp_path, before, after, run, heard):
    view, _ = flood(tmp_path / "before", before, run, heard)
    _, really = flood(tmp_path / "after", after, run, heard)
    assert foretold(view, after / before) == pytest.approx(really, rel=0.08)


def test_a_flood_whose_driver_nobody_looked_at_is_refused(tmp_path):
    view, _ = flood(tmp_path / "session", 2, 0.0001, 0.001, looked_at=False)
    found = view.what_if(changes=[Change(workers=0.5)])
    assert not found["scenarios"] and "profile_hz" in found["refused"][0]["why"]


def test_what_computes_at_the_same_time_shares_the_processors():
    now, due = 0.0, []
    ended: dict[str, float] = {}

    def at(seconds, action):
        due.append((now + seconds, len(due), action))

    def run():
        nonlocal now
        while due:
            due.sort(key=lambda one: one[:2])
            now, _, action = due.pop(0)
            action()

    processors = Processors(2, at)
    line = Line(processors, lambda: now)
    for name, seconds in (("first", 1.0), ("second", 1.0)):
        line.do(seconds, lambda name=name: ended.setdefault(name, now))
    for name in ("a", "b", "c"):
        processors.compute(now, 1.5, lambda name=name: ended.setdefault(name, now))
    run()
    # Four on two processors until the first is done, then the second with what is left of the others.
    assert ended == pytest.approx({"first": 2.0, "a": 3.0, "b": 3.0, "c": 3.0, "second": 3.5})
    assert line.seconds == 2.0


@pytest.mark.parametrize(
    ("before", "change", "heard", "cpu", "said"),
    [
        (1, 2.0, 0.0002, 0.0004, "tasks and driver would compute for"),
        (4, 0.5, 0.00005, 0.00006, "in this run tasks and driver computed for"),
    ],
)
def test_where_more_compute_at_a_time_than_there_are_processors_nothing_is_foretold(
    tmp_path, before, change, heard, cpu, said
):
    view, _ = flood(tmp_path / "session", before, 0.001, heard, cpu=cpu)
    session_file.update(tmp_path / "session", processors=2)
    found = view.what_if(changes=[Change(workers=change)])
    assert found["error_ratio"] < 0.05 and not found["scenarios"]
    assert said in found["refused"][0]["why"] and "more at a time than there are CPUs (2)" in found["refused"][0]["why"]
    assert view.what_if(changes=[Change(workers=change)], rough=True)["scenarios"]


def test_a_driver_that_would_be_busy_as_it_never_was_is_not_foretold(tmp_path):
    view, _ = flood(tmp_path / "session", 1, 0.001, 0.0003)
    session_file.update(tmp_path / "session", processors=64)
    found = view.what_if(changes=[Change(workers=8.0)])
    assert not found["scenarios"] and "the driver would compute for" in found["refused"][0]["why"]
    assert view.what_if(changes=[Change(workers=2.0)])["scenarios"]
