"""Nothing of a run is lost or counted twice, and a run works as well when nothing is recorded."""

from __future__ import annotations

import pytest

from tests.integration.programs import eventually, views

pytest_plugins = ["tests.integration.fixtures"]
pytestmark = pytest.mark.timeout(120)

#: Tasks of every fate: done, raised, cancelled, waiting for one that failed, streamed; calls of an actor.
MIXED = """
start()

@obsray.remote
def short(x): return x
@obsray.remote
def fails(x): raise ValueError(x)
@obsray.remote
def long(): time.sleep(600)
@obsray.remote
def parent(): return sum(obsray.get([short.remote(x) for x in range(20)]))
@obsray.remote(num_returns="streaming")
def stream():
    for number in range(5): yield number
@obsray.remote
class Counter:
    def __init__(self): self.total = 0
    def add(self, amount):
        self.total += amount
        return self.total

done = sum(obsray.get([short.remote(x) for x in range(3000)]))
failed = 0
for reference in [fails.remote(x) for x in range(20)] + [short.remote(fails.remote(1))]:
    try: obsray.get(reference)
    except ValueError: failed += 1
counter = Counter.remote()
obsray.get([counter.add.remote(1) for _ in range(300)])
items = sum(obsray.get(list(stream.remote())))
nested = obsray.get([parent.remote() for _ in range(4)])
running, queued = long.remote(), [long.remote() for _ in range(3)]
for reference in queued: obsray.cancel(reference)
obsray.cancel(running)
for reference in [running, *queued]:
    try: obsray.get(reference)
    except obsray.exceptions.TaskCancelledError: pass
del counter
pending = [long.remote() for _ in range(3)]
say(done=done, failed=failed, items=items, nested=nested)
listen()
"""


def test_after_a_run_every_event_and_every_task_is_accounted_for(program):
    driver = program(MIXED)
    directory = driver.hear()["directory"]
    answer = driver.hear()
    assert answer == {"done": 4498500, "failed": 21, "items": 10, "nested": [190] * 4}
    live = eventually(lambda: settled(directory, pending=3))
    driver.tell()
    assert driver.wait() == 0, driver.errors()

    book = views(directory).ledger()
    tasks, totals = book["tasks"], book["totals"]
    assert totals["events_lost"] == 0 and totals["events_read"] == totals["events_recorded"] > 3000
    # 3000 + 20 + 2 that depend + 1 actor + 300 calls + 1 stream + 4 parents with 20 children + 4 cancelled + 3 pending
    assert tasks["submitted"] == live["submitted"] == 3000 + 20 + 2 + 1 + 300 + 1 + 4 + 80 + 4 + 3
    # What had not ended when the program did is cancelled with it.
    assert (tasks["failed"], tasks["cancelled"], tasks["unaccounted"]) == (22, 4 + 3, 0)
    assert tasks["submitted"] == tasks["finished"] + tasks["failed"] + tasks["cancelled"] + tasks["pending"]
    assert tasks["balance_ok"]


def settled(directory, pending):
    tasks = views(directory).ledger()["tasks"]
    return tasks if tasks["pending"] == pending and tasks["balance_ok"] else None


def test_no_duration_of_a_run_is_negative_and_no_name_is_missing(program):
    driver = program(MIXED)
    directory = driver.hear()["directory"]
    driver.hear()
    driver.tell()
    assert driver.wait() == 0
    view = views(directory)
    names = set()
    for task in view.tasks(limit=10_000)["rows"]:
        names.add(task["name"])
        durations = {name: value for name, value in task.items() if name.endswith("_seconds") and value is not None}
        assert all(value >= 0 for value in durations.values()), task
        times = [task[name] for name in ("submitted_at_ns", "started_at_ns", "ended_at_ns") if task[name]]
        assert times == sorted(times), task
        if task["state"] == "FINISHED":
            assert task["worker_pid"], task
            assert task["started_at_ns"] and task["ended_at_ns"], task
        if task["name"] != "short":
            split = sum(piece["seconds"] for piece in view.task(task["task_id"], refresh=False)["time_split"])
            assert split == pytest.approx(task["total_seconds"], abs=0.05), task
    assert {"short", "fails", "long", "parent", "stream"} <= names
    assert any("Counter" in name and "add" in name for name in names) and "" not in names, names


def test_with_telemetry_off_everything_works_and_nothing_is_recorded(program):
    driver = program(MIXED, OBSRAY_TELEMETRY="off")
    directory = driver.hear()["directory"]
    assert driver.hear()["done"] == 4498500
    assert views(directory).ledger()["tasks"]["submitted"] == 0
    driver.tell()
    assert driver.wait() == 0, driver.errors()
