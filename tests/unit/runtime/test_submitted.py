"""Equal calls in a row become one record, and readers cannot tell the difference."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np

from obsray import ids
from obsray.core.runtime.submitted import RUN_NS_MAX, SubmittedRun
from obsray.telemetry.columns import Columns
from obsray.telemetry.events import BY_NAME, CODES, TaskType
from obsray.telemetry.runs import submissions

OWNER = b"\x07" * 8


class Log:
    """An emitter that keeps what it is told."""

    def __init__(self) -> None:
        self.records: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *values: self.records.append((name, values))


def plan(name: int = 1, retries: int = 3) -> Any:
    return SimpleNamespace(name_number=name, shape=SimpleNamespace(name_number=9), retries=retries)


def add(run: SubmittedRun, at: int, number: int, of: Any, running: Any = None, trace: bytes | None = None) -> None:
    run.add(at, number, ids.task_id(OWNER, number), of, running, trace, ids.NIL_TASK, TaskType.TASK, 5)


def rows_of(log: Log) -> list[tuple[bytes, int, bytes, bytes, int]]:
    """(task, time, parent, trace, name) of every submission, whichever way it was recorded."""
    found = []
    for name, values in log.records:
        if name == "task_submitted":
            found.append((values[1], values[0], values[2], values[3], values[5]))
            continue
        event = BY_NAME[name]
        arrays = {"time_ns": np.array([values[0]], np.uint64), "process": np.array([OWNER], "V8")}
        arrays["sequence"] = np.array([1], np.uint64)
        for field, value in zip(event.fields, values[1:], strict=True):
            arrays[field.name] = np.array([value], CODES[field.code][1])
        told = submissions(Columns(event, arrays))
        for row in range(len(told)):
            found.append(
                (
                    told["task"][row].tobytes(), int(told["time_ns"][row]), told["parent"][row].tobytes(),
                    told["trace"][row].tobytes(), int(told["name"][row]),
                )
            )  # fmt: skip
    return found


def test_equal_calls_in_a_row_are_one_record():
    log, f = Log(), plan()
    run = SubmittedRun(log, 1)
    for number in range(1, 101):
        add(run, 1000 + 10 * number, number, f)
    assert log.records == [] and len(run.tasks()) == 100
    run.flush()
    assert [name for name, _ in log.records] == ["tasks_submitted"]
    assert [(task, at) for task, at, *_ in rows_of(log)] == [
        (ids.task_id(OWNER, number), 1000 + 10 * number) for number in range(1, 101)
    ]
    assert run.tasks() == set()
    run.flush()
    assert len(log.records) == 1


def test_a_call_without_a_trace_begins_its_own():
    log, f = Log(), plan()
    run = SubmittedRun(log, 1)
    for number in (1, 2, 3):
        add(run, number, number, f)
    run.flush()
    assert all(trace == task for task, _, _, trace, _ in rows_of(log))


def test_a_run_ends_after_a_millisecond():
    log, f = Log(), plan()
    run = SubmittedRun(log, 1)
    for number in range(1, 6):
        add(run, number * RUN_NS_MAX // 2, number, f)
    run.flush()
    assert [len(rows_of(SimpleNamespace(records=[record]))) for record in log.records] == [2, 2, 1]  # type: ignore[arg-type]


def test_whatever_is_submitted_in_whatever_order_is_recorded_once_and_as_it_was():
    seed = random.randrange(1 << 30)
    print("seed", seed)
    chance = random.Random(seed)
    plans = [plan(name) for name in (1, 2)]
    runnings = [None, SimpleNamespace(task=ids.task_id(OWNER, 77))]
    log = Log()
    run = SubmittedRun(log, 1)
    expected, at, number = [], 0, 0
    for _ in range(2000):
        # A number left out belongs to a call with references, which is recorded by itself.
        number += 1 if chance.random() < 0.9 else 2
        at += 100
        f, running = chance.choices(plans, (9, 1))[0], chance.choices(runnings, (9, 1))[0]
        trace = b"t" * 16 if running is not None else None
        add(run, at, number, f, running, trace)
        task = ids.task_id(OWNER, number)
        expected.append((task, at, ids.NIL_TASK if running is None else running.task, trace or task, f.name_number))
        if chance.random() < 0.05:
            run.flush()
    run.flush()
    assert rows_of(log) == expected
