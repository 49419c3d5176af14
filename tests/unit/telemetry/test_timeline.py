"""The trace says what the records say, in a form that other programs draw."""

from __future__ import annotations

import json
import random
from collections import defaultdict

import numpy as np
import pytest

from obsray import ids
from obsray.telemetry import timeline
from obsray.telemetry.events import Outcome, ProcessKind
from obsray.telemetry.spine import Ring
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.testing.recorded_session import record_session


def events_of(directory):
    return json.loads(b"".join(timeline.write(Views(Store.open(directory)))))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record_session(tmp_path_factory.mktemp("session"))


@pytest.fixture(scope="module")
def events(recorded):
    return events_of(recorded.directory)


def test_every_attempt_is_one_slice_and_open_ones_are_running(recorded, events):
    tasks = [event for event in events if event.get("cat") == "task"]
    running = {event["args"]["task_id"] for event in tasks if event["args"]["outcome"] == "running"}
    assert {recorded.running_task.hex(), recorded.blocked_task.hex()} <= running
    ended = [event for event in tasks if event["args"]["outcome"] in ("ok", "app_error")]
    assert len(ended) == recorded.finished + recorded.failed
    assert all(event["name"].startswith("task::") and event["dur"] >= 0 for event in tasks)


def test_slices_of_one_track_nest_or_come_one_after_the_other(events):
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            assert type(event["ts"]) is type(event["dur"]) is int and event["tid"] > 0
            tracks[event["pid"], event["tid"]].append((event["ts"], -event["dur"]))
    assert tracks
    for slices in tracks.values():
        open_ends: list[int] = []
        for begin, length in sorted(slices):
            while open_ends and open_ends[-1] <= begin:
                open_ends.pop()
            assert not open_ends or begin - length <= open_ends[-1]
            open_ends.append(begin - length)


def test_phases_lie_inside_their_task(events):
    names = {event["name"] for event in events if event.get("cat") == "phase"}
    assert {"task:deserialize_arguments", "task:execute", "task:store_outputs"} <= names


def test_processes_and_tracks_have_names(recorded, events):
    named = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert any(recorded.workers[0].hex()[:8] in name for name in named)
    used = {(event["pid"], event["tid"]) for event in events if event["ph"] == "X"}
    assert used <= {(event["pid"], event["tid"]) for event in events if event["name"] == "thread_name"}


def test_what_ran_at_the_same_time_lies_on_different_tracks_and_as_few_as_possible():
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    count = 400
    process = np.array([chance.randrange(3) for _ in range(count)])
    start = np.array([chance.randrange(1000) for _ in range(count)])
    end = start + np.array([chance.choice([0, 1, 5, 50]) for _ in range(count)])
    slot = timeline.slots(process, start, end)
    for number in range(3):
        mine = process == number
        most = max(int((mine & (start <= at) & (at < np.maximum(end, start + 1))).sum()) for at in range(1100))
        assert slot[mine].max() < most
        for each in range(int(slot[mine].max()) + 1):
            rows = np.flatnonzero(mine & (slot == each))
            rows = rows[np.lexsort((end[rows], start[rows]))]
            assert (end[rows][:-1] <= start[rows][1:]).all()


def test_arrows_lead_from_a_producer_to_its_consumer_and_from_a_parent_to_its_child(tmp_path):
    (tmp_path / "rings").mkdir()
    driver = Ring(tmp_path / "rings", b"d" * 8, ProcessKind.DRIVER)
    worker = Ring(tmp_path / "rings", b"w" * 8, ProcessKind.WORKER)
    name, shape, nil = driver.intern('say "ä"\n'), driver.intern("CPU:1"), ids.NIL_TASK
    first, second = ids.task_id(driver.process, 0), ids.task_id(driver.process, 1)
    driver.task_submitted(1_000, first, nil, first, nil, name, shape, 1, 0, 0, 0, 3, 0)
    driver.task_submitted(1_500_000, second, first, first, nil, name, shape, 1, 1, 1, 0, 3, 0)
    driver.task_arguments_waiting(1_500_000, second, ids.object_id(first))
    for task, begin, end in ((first, 1_000_000, 2_000_000), (second, 3_000_000, 4_000_000)):
        worker.task_ended(
            end, task, 0, 1, 1, nil, worker.intern('say "ä"\n'), begin, begin, begin, int(Outcome.OK),
            0.0, 0.0, 0.001, 0.0, 0.0, 0.0, 7,
        )  # fmt: skip
    found = events_of(tmp_path)
    for kind, at in (("data", 1999), ("control", 1500)):
        (begin,) = [event for event in found if event.get("cat") == kind and event["ph"] == "s"]
        (end,) = [event for event in found if event.get("cat") == kind and event["ph"] == "f"]
        assert begin["id"] == end["id"] and end["bp"] == "e"
        assert (begin["ts"], end["ts"]) == (at, 3000)
    assert {event["name"] for event in found if event.get("cat") == "task"} == {'task::say "ä"\n'}


def test_a_session_without_records_is_a_valid_trace(tmp_path):
    (tmp_path / "rings").mkdir()
    assert [event["ph"] for event in events_of(tmp_path)] == ["M"]
