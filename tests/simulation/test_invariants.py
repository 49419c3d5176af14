"""The invariants see what they are there for: each test breaks one thing in a machine and expects the run to fail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from obsray.core.node.objects import ObjectTable
from obsray.core.node.resources import Resources
from obsray.core.node.scheduler import Scheduler
from obsray.core.protocol.lifecycle import TaskState, advance
from obsray.core.runtime.calls import ActorCalls
from obsray.core.runtime.dispatch import Dispatcher
from obsray.core.runtime.ownership import READY, Ownership
from obsray.core.runtime.verdicts import Verdicts
from obsray.telemetry.events import Outcome
from obsray.testing.scenarios import make_scenario
from obsray.testing.simulator import SimulationFailed, Simulator
from obsray.testing.virtual_worker import VirtualExecutor

KILLS = [{"name": "kill_workers_between_steps", "mean_steps": 40.0, "count_max": 30}]
TASKS = {"workload": [{"name": "fixed", "tasks": 120, "run_ms": 1.0}], "fault": KILLS}
REFERENCES = {
    "workload": [{"name": "references", "rounds": 60, "copies": 2}],
    "fault": [{"name": "late_messages", "ratio": 0.3, "late_ms_max": 4.0}],
}
STORED = {"workload": [{"name": "large_results", "tasks": 40, "object_bytes": 500_000}], "store_bytes": 8 << 20}
ACTORS = {
    "workload": [{"name": "actors", "actors": 2, "calls": 150, "restarts": 9, "retries": 9}],
    "fault": [{"name": "kill_workers", "mean_ms": 8.0}],
}
NESTED = {"workload": [{"name": "nested", "roots": 4, "width": 3, "depth": 2}]}


def failure(scenario: dict[str, Any]) -> str:
    """What the first failing of some seeds says."""
    for seed in range(1, 9):
        try:
            Simulator(make_scenario("broken", scenario), seed).run()
        except SimulationFailed as failed:
            return str(failed)
    pytest.fail("eight seeds saw nothing")


@pytest.mark.parametrize("scenario", [TASKS, REFERENCES, STORED, ACTORS, NESTED])
def test_nothing_is_broken_to_begin_with(scenario):
    for seed in range(1, 9):
        Simulator(make_scenario("whole", scenario), seed).run()


def without(owner: type, name: str, monkeypatch: pytest.MonkeyPatch, instead: Callable[..., Any]) -> None:
    monkeypatch.setattr(owner, name, instead)


def test_a_task_that_is_dropped_on_its_way_back_to_the_queue_is_seen(monkeypatch):
    def requeue(self, task):
        task.dispatched_to = None
        advance(task, TaskState.QUEUED)

    without(Dispatcher, "requeue", monkeypatch, requeue)
    assert "is queued 0 times" in failure(TASKS)


def test_a_retry_too_many_is_seen(monkeypatch):
    def again(self, task, outcome, worker, why, *pause):
        self.emitter.task_retried(self.clock_ns(), task.id, task.attempt, outcome, worker, 0.0, 0)
        task.attempt += 1
        self.requeue(task)

    without(Verdicts, "_again", monkeypatch, again)
    scenario = {**TASKS, "workload": [{"name": "fixed", "tasks": 60, "run_ms": 2.0, "retries": 1}]}
    assert "2 are allowed" in failure(scenario)


def test_a_retry_that_is_not_recorded_is_seen(monkeypatch):
    def again(self, task, outcome, worker, why, *pause):
        task.retries_left -= 1
        task.attempt += 1
        self.requeue(task)

    without(Verdicts, "_again", monkeypatch, again)
    assert "which is not its last" in failure(TASKS)


def test_an_end_that_is_told_twice_is_seen(monkeypatch):
    whole = Ownership.finish

    def finish(self, task, state):
        whole(self, task, state)
        if task.attempt:
            told.append(task)
            self.tasks[task.id] = task

    told: list[Any] = []
    without(Ownership, "finish", monkeypatch, finish)
    failure(TASKS)
    assert told


def test_arguments_that_stay_pinned_are_seen(monkeypatch):
    without(Ownership, "unpin", monkeypatch, lambda self, pinned: None)
    assert "left over at the end" in failure(NESTED | {"workload": [{"name": "chains", "chains": 2, "length": 5}]})


def test_holders_that_are_not_registered_are_seen(monkeypatch):
    without(Ownership, "hand_out", monkeypatch, lambda self, identifiers, receiver: None)
    assert "ObjectFreedError" in failure(REFERENCES)


def test_a_result_that_is_kept_after_its_arguments_are_let_go_is_seen(monkeypatch):
    whole = Ownership.fulfil

    def fulfil(self, entry, value, failed=False, contained=()):
        task = self.tasks.get(entry.id[:16])
        if task is not None and task.pinned is not None and contained:
            pinned, task.pinned = task.pinned, None
            self.unpin(pinned)
        whole(self, entry, value, failed, contained)

    without(Ownership, "fulfil", monkeypatch, fulfil)
    assert "ObjectFreedError" in failure(REFERENCES)


def test_resources_that_are_not_given_back_are_seen(monkeypatch):
    def give(self, key):
        self.shares.pop(key)

    without(Resources, "give", monkeypatch, give)
    assert "InvariantViolated" in failure(TASKS)


def test_a_blocked_worker_whose_cpu_is_not_lent_means_waits_that_do_not_end(monkeypatch):
    without(Scheduler, "block", monkeypatch, lambda self, worker, sure: None)
    assert "these waits do not end" in failure({**NESTED, "cpus": 1, "finish_within_ms": 3000})


def test_an_object_that_moves_while_it_is_read_is_seen(monkeypatch):
    whole = ObjectTable._admit

    def admit(self, step, entry, reader):
        whole(self, step, entry, reader)
        reader_sees.append(entry.id)
        self._unpin_all(step, reader.client, entry)
        self._drop(step, entry)

    reader_sees: list[bytes] = []
    without(ObjectTable, "_admit", monkeypatch, admit)
    assert failure(STORED) and reader_sees


def test_a_value_that_a_second_attempt_changes_is_seen(monkeypatch):
    def fulfil(self, entry, value, failed=False, contained=()):
        if entry.state == READY and not failed and type(value) is bytes and len(value) > 1:
            entry.value = value
        whole(self, entry, value, failed, contained)

    whole = Ownership.fulfil
    again = VirtualExecutor._add

    def add(self, link, result):
        again(self, link, result)
        task, _, outcome, values, *_ = result
        if outcome == Outcome.OK and type(values[0]) is bytes and len(values[0]) > 1:
            value = msgpack.unpackb(values[0][1:], use_list=False)
            other = b"\x80" + msgpack.packb((*value[:3], value[3] + 1_000_000))
            owner = self.simulator.processes[task[:8]]
            entry = owner.ownership.entries.get(task + bytes(4))
            if entry is not None:
                self.agenda.after(2_000_000, owner.do, fulfil, owner.ownership, entry, other)

    monkeypatch.setattr(VirtualExecutor, "_add", add)
    scenario = {"workload": [{"name": "read_twice", "tasks": 5}]}
    assert "has two values" in failure(scenario)


def test_calls_out_of_order_are_seen(monkeypatch):
    def put_back(self, task):
        client = task.actor
        if client is None:
            if task.dispatched_to is not None:
                task.dispatched_to.forget(task)
            self.dispatcher.requeue(task)
            return
        client.forget(task)
        task.dispatched_to = None
        advance(task, TaskState.QUEUED)
        client.queue.append(task)
        self.active.add(client)

    whole = ActorCalls.__init__

    def make(self, *arguments):
        whole(self, *arguments)
        self.verdicts.requeue = lambda task: put_back(self, task)

    without(ActorCalls, "__init__", monkeypatch, make)
    assert "begins after its call" in failure(ACTORS)


def test_events_that_are_not_told_are_seen(monkeypatch):
    whole = Dispatcher.argument_ready

    def argument_ready(self, task, entry, time_ns):
        emitter, self.emitter = self.emitter, Silent()
        whole(self, task, entry, time_ns)
        self.emitter = emitter

    without(Dispatcher, "argument_ready", monkeypatch, argument_ready)
    assert "by events WAITING_ARGUMENTS" in failure({"workload": [{"name": "chains", "chains": 2, "length": 5}]})


class Silent:
    """Tells nothing."""

    def task_ready(self, *values: Any) -> None:
        """Not told."""
