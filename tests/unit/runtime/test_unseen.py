"""Errors that nobody has looked at when nobody can any more."""

from __future__ import annotations

import logging
import threading

import pytest

from obsray.core.protocol.lifecycle import TaskState
from obsray.core.runtime.ownership import Entry, Ownership, RemoteWaiter, Task
from obsray.core.runtime.serialization import dump_error
from obsray.core.runtime.unseen import Unseen
from obsray.core.runtime.unseen_reports import FUNCTIONS_MAX, REPORT_SECONDS, UnseenReports
from obsray.core.runtime.verdicts import Verdicts
from obsray.errors import RayTaskError
from obsray.ids import object_id, task_id
from obsray.telemetry.events import Outcome
from obsray.telemetry.spine import Silent

ME, PEER = b"me__here", b"peerhere"
ERROR = dump_error(RayTaskError("f", "ValueError: boo"))


class Function:
    name = "f"


class Actor:
    name = "A"


def machines() -> tuple[Ownership, Verdicts]:
    ownership = Ownership(ME)
    return ownership, Verdicts(ownership, Silent(), lambda: 0)


def begun(ownership: Ownership, number: int, held: int = 1, returns: int = 1) -> Task:
    task = Task(task_id(ME, number), Function(), None, b"", returns)
    task.entries = tuple(Entry(object_id(task.id, index), True) for index in range(returns))
    for entry in task.entries:
        entry.local = held
    ownership.add_task(task)
    return task


def fail(verdicts: Verdicts, task: Task, outcome: Outcome = Outcome.APP_ERROR) -> None:
    verdicts.end(task, TaskState.FAILED, outcome, ERROR)


def test_an_error_whose_last_reference_goes_unread_is_missed_and_once() -> None:
    ownership, verdicts = machines()
    kept, forgotten = begun(ownership, 1, returns=3), begun(ownership, 2, held=0)
    fail(verdicts, kept)
    assert not ownership.unseen.missed
    fail(verdicts, forgotten)
    ownership.drop_local([entry.id for entry in kept.entries])
    assert ownership.unseen.missed == {"f": (2, ERROR)}


def test_a_task_without_results_is_missed_at_once() -> None:
    ownership, verdicts = machines()
    fail(verdicts, begun(ownership, 1, returns=0))
    assert ownership.unseen.missed == {"f": (1, ERROR)}


@pytest.mark.parametrize("way", ["read", "argument", "told", "asked"])
def test_an_error_that_somebody_got_is_not_missed(way: str) -> None:
    ownership, verdicts = machines()
    task = begun(ownership, 1)
    entry = task.entries[0]
    if way == "asked":
        ownership.asked_for(entry.id, PEER)
        assert isinstance((entry.waiters or [None])[0], RemoteWaiter)
    fail(verdicts, task)
    if way == "read":
        ownership.unseen.seen(entry.id)
    elif way == "argument":
        verdicts.argument_failed(begun(ownership, 2), entry)
    elif way == "told":
        ownership.asked_for(entry.id, PEER)
    ownership.drop_local([entry.id])
    assert not ownership.unseen.missed


def test_a_lost_process_is_missed_by_tasks_and_not_by_each_call_of_an_actor() -> None:
    ownership, verdicts = machines()
    fail(verdicts, begun(ownership, 1, held=0), Outcome.CANCELLED)
    call = begun(ownership, 2, held=0)
    call.actor = Actor()
    fail(verdicts, call, Outcome.WORKER_DIED)
    assert not ownership.unseen.missed
    fail(verdicts, begun(ownership, 3, held=0), Outcome.WORKER_DIED)
    assert ownership.unseen.missed


def report(unseen: Unseen, caplog: pytest.LogCaptureFixture, now: float, reports: UnseenReports) -> list[str]:
    caplog.clear()
    logging.getLogger("obsray").propagate = True
    with caplog.at_level(logging.ERROR, "obsray.tasks"):
        reports.say(now)
    return [record.getMessage() for record in caplog.records]


def test_many_errors_are_told_in_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    unseen = Unseen()
    reports = UnseenReports(unseen, threading.Lock())
    ownership, _ = machines()
    for number in range(FUNCTIONS_MAX + 5):
        task = begun(ownership, number + 1, returns=0)
        task.function = type("Function", (), {"name": f"f{number}"})
        for _ in range(1 + number):
            unseen.failed(task, ERROR)
    lines = report(unseen, caplog, 100.0, reports)
    assert len(lines) == FUNCTIONS_MAX + 1 and "boo" in lines[0] and "the first of 2 of f1" in lines[1]
    assert lines[-1] == "Unhandled errors of 5 more functions"
    unseen.failed(task, ERROR)
    assert report(unseen, caplog, 100.0 + REPORT_SECONDS / 2, reports) == []
    assert len(report(unseen, caplog, 100.0 + REPORT_SECONDS, reports)) == 1


@pytest.mark.parametrize("name", ["RAY_IGNORE_UNHANDLED_ERRORS", "OBSRAY_IGNORE_UNHANDLED_ERRORS"])
def test_nobody_is_told_who_does_not_want_to_hear(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(name, "1")
    unseen = Unseen()
    ownership, _ = machines()
    unseen.failed(begun(ownership, 1, returns=0), ERROR)
    assert report(unseen, caplog, 1.0, UnseenReports(unseen, threading.Lock())) == []
    assert not unseen.missed
