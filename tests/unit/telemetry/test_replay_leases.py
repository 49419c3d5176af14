"""Who gets which worker in a replay: as the scheduler has it, lease by lease."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from obsray.telemetry.answers.replay_leases import Leases, Process, Processors
from obsray.telemetry.answers.replay_model import FRESH, KEPT, WARM, _shared


class Clock:
    """Does things later, in order."""

    def __init__(self) -> None:
        self.now, self.order, self.later = 0.0, 0, list[tuple[float, int, Callable[[], None]]]()

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        self.order += 1
        heapq.heappush(self.later, (self.now + seconds, self.order, action))

    def until(self, instant: float, leases: Leases | None = None) -> None:
        while self.later and self.later[0][0] <= instant:
            self.now, _, action = heapq.heappop(self.later)
            if leases is not None:
                leases.now = self.now
            action()
        self.now = instant
        if leases is not None:
            leases.now = instant


class World:
    """One node, tasks that each need a CPU, and what was begun when and how."""

    def __init__(self, cpus: float, ready: int, processes_max: int = 256) -> None:
        tasks = 50
        self.clock = Clock()
        model: Any = SimpleNamespace(
            needs=[{"CPU": 1.0}], hosts=[[0]], shape_of=[0] * tasks, home=[0] * tasks, stays_of=[False] * tasks,
            left_by_actors=lambda workers: [{"CPU": cpus * workers}], cpus=lambda: cpus, processors=2,
            prestarted=lambda workers: (ready, 0), coming=[], linger_seconds=0.05, process_seconds=0.1,
            processes_max=processes_max,
        )  # fmt: skip
        self.begun: list[tuple[int, int]] = []
        self.leases = Leases(model, 1.0, self.clock.at, lambda task, kind: self.begun.append((task, kind)))
        self.driver = Process(True, True)

    def line_up(self, *tasks: int, owner: Process | None = None) -> None:
        for task in tasks:
            self.leases.line_up(task, owner or self.driver)

    def owner(self, task: int) -> Process:
        return self.leases.lease_of[task].process

    def tick(self, seconds: float) -> None:
        self.clock.until(self.clock.now + seconds, self.leases)

    def running(self) -> set[int]:
        return set(self.leases.lease_of)


def test_an_owner_keeps_its_worker_for_its_next_task():
    world = World(cpus=1.0, ready=1)
    world.line_up(0, 1)
    assert world.begun == [(0, FRESH)]
    world.leases.over(0)
    assert world.begun == [(0, FRESH), (1, KEPT)]
    world.leases.over(1)
    world.tick(0.04)
    world.line_up(2)
    assert world.begun[-1] == (2, KEPT), "it had not been idle for long"
    world.leases.over(2)
    world.tick(0.06)
    world.line_up(3)
    assert world.begun[-1] == (3, WARM)


def test_a_task_that_waits_holds_its_process_and_another_one_is_made():
    world = World(cpus=1.0, ready=1)
    world.line_up(0)
    world.line_up(1, owner=world.owner(0))
    world.tick(1.0)
    assert world.running() == {0}, "there is no CPU"
    world.leases.waits(0)
    assert world.running() == {0}, "there is no process"
    world.tick(0.09)
    assert world.running() == {0}
    world.tick(0.02)
    assert world.running() == {0, 1} and world.begun[-1] == (1, FRESH)


def test_what_is_waited_for_deepest_comes_first_and_others_twice_a_second():
    world = World(cpus=1.0, ready=8)
    world.line_up(0, 1, 2, 3)
    world.line_up(10, 11, owner=world.owner(0))
    world.leases.waits(0)
    assert world.running() == {0, 10}, "and not 1, which came earlier"
    world.line_up(20, owner=world.owner(10))
    world.leases.waits(10)
    assert world.running() == {0, 10, 20}
    world.tick(0.6)
    world.leases.over(20)
    world.tick(0.1)
    assert world.running() == {0, 10, 1}, "those that nobody waits for have their turn"


def test_who_has_more_gives_to_who_has_none():
    world = World(cpus=2.0, ready=4)
    world.line_up(*range(10))
    other = Process(True, True)
    world.line_up(20, 21, owner=other)
    assert world.running() == {0, 1}
    world.leases.over(0)
    assert world.running() == {1, 20}, "the driver had two and was asked for one"
    world.leases.over(1)
    assert world.running() == {2, 20}


def test_a_task_that_goes_on_shares_its_cpu_until_it_has_been_crowded_for_a_while():
    world = World(cpus=1.0, ready=4)
    world.line_up(0, 1, 2)
    world.leases.waits(0)
    assert world.running() == {0, 1}
    world.leases.goes_on(0)
    world.leases.over(1)
    assert world.running() == {0, 2}, "its owner keeps the worker, although 0 computes again"
    world.tick(0.31)
    world.line_up(3)
    world.leases.over(2)
    assert world.running() == {0}, "one too many for long: it went back"


def test_no_more_processes_are_made_than_may_be():
    world = World(cpus=1.0, ready=1, processes_max=2)
    world.line_up(0)
    for task in (1, 2):
        world.line_up(task, owner=world.owner(task - 1))
        world.leases.waits(task - 1)
        world.tick(1.0)
    assert world.running() == {0, 1}


def test_what_computes_at_the_same_time_shares_the_processors():
    clock, done = Clock(), dict[str, float]()
    processors = Processors(2, clock.at)
    for name in "abcd":
        processors.compute(0.0, 1.0, lambda name=name: done.update({name: clock.now}))
    clock.until(1.0)
    processors.compute(1.0, 0.5, lambda: done.update({"late": clock.now}))
    clock.until(10.0)
    # Four at half speed for a second; five at 0.4 until the four have their other half.
    assert done == pytest.approx({"a": 2.25, "b": 2.25, "c": 2.25, "d": 2.25, "late": 2.25})
    processors.compute(10.0, 3.0, lambda: done.update({"alone": clock.now}))
    clock.until(20.0)
    assert done["alone"] == pytest.approx(13.0)


def test_how_much_each_computed_is_found_from_when_it_began_and_ended():
    intervals = np.array([[0, 200], [0, 200], [0, 200], [0, 200], [300, 350]])
    assert _shared(intervals, 2).tolist() == pytest.approx([100.0] * 4 + [50.0])
    assert _shared(np.empty((0, 2), np.int64), 2).tolist() == []
