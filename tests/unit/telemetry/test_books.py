"""Every second of every worker slot is booked once, and what idle workers lacked is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from obsray.cli import command
from obsray.telemetry.answers.attempts import shares
from obsray.telemetry.answers.books import ACTIVITIES
from obsray.telemetry.answers.steps import Steps, seconds_where
from obsray.telemetry.events import LeaseOutcome, Reason, WaitKind
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.testing.recorded_session import record_session
from obsray.testing.scenarios import read_scenario
from obsray.testing.simulated_session import write_session
from obsray.testing.simulator import Simulator
from tests.unit.telemetry.scenes import NS, Scene

SCENARIOS = Path(__file__).resolve().parents[2] / "simulation" / "scenarios"


def simulated(name: str, directory: Path, seed: int = 1) -> Views:
    run = Simulator(read_scenario(SCENARIOS / f"{name}.toml"), seed)
    run.run()
    return Views(Store.open(write_session(run, directory / "session")))


def of(found: dict, activity: str) -> float:
    return sum(row["seconds"] for row in found["activities"] if row["activity"] == activity)


def balances(found: dict) -> bool:
    total = sum(row["seconds"] for row in found["activities"])
    wrong = abs(total - found["slots"] * found["wall_seconds"])
    return wrong <= 0.01 * found["slot_seconds"] and found["error_ratio"] <= 0.01 and found["slot_seconds"] > 0


@pytest.mark.parametrize("name", ["calm", "attrition", "nested_attrition", "actors", "large_objects", "slow_starts"])
def test_the_books_of_simulated_runs_close_within_one_percent(name, tmp_path):
    found = simulated(name, tmp_path).books()
    assert balances(found), found
    assert {row["activity"] for row in found["activities"]} <= set(ACTIVITIES)
    assert of(found, "run on CPU") > 0 and all(row["seconds"] >= 0 for row in found["activities"])


def test_the_books_of_a_recorded_session_close_and_sum_up_by_function_and_job(tmp_path):
    made = record_session(tmp_path / "session", tasks=200, live=False)
    found = Views(Store.open(made.directory)).books()
    assert balances(found)
    tasks = sum(row["seconds"] for row in found["functions"])
    assert sum(row["seconds"] for row in found["jobs"]) == pytest.approx(tasks)
    assert {"word_count", "matrix", "flaky"} <= {row["name"] for row in found["functions"]}
    flaky = next(row for row in found["functions"] if row["name"] == "flaky")
    assert flaky["failed_seconds"] > 0


def test_what_a_task_did_is_booked_where_it_belongs(tmp_path):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    scene.run("f", worker, 2.0, cpu=0.5, fetch=0.25, store=0.125)
    task = scene.submit("g")
    scene.dispatch(task, worker)
    scene.start(task, worker)
    scene.block(task, worker, bytes(20), WaitKind.ALLOCATE)
    scene.tick(1)
    scene.rings[worker].task_unblocked(scene.now, task, int(WaitKind.ALLOCATE), 1.0)
    scene.end(task, worker, 0.5, blocked=3.0)
    found = scene.views().books()
    assert balances(found)
    assert of(found, "run on CPU") == pytest.approx(1.0, abs=0.01)
    assert of(found, "run off CPU") == pytest.approx(1.5, abs=0.01)
    assert of(found, "fetch") == pytest.approx(0.25, abs=0.01)
    assert of(found, "store") == pytest.approx(0.125, abs=0.01)
    assert of(found, "waiting for room") == pytest.approx(1.0, abs=0.01)
    assert of(found, "blocked in get") == pytest.approx(2.0, abs=0.01)
    assert of(found, "starting") == pytest.approx(0.01, abs=0.002)


def test_calls_that_run_beside_each_other_share_their_slot(tmp_path):
    scene = Scene(tmp_path / "session")
    actor, worker = scene.actor("Server")
    calls = [scene.call(actor, "Server.read") for _ in range(3)]
    for call in calls:
        scene.start(call, worker, actor=actor)
    began = scene.now
    for call in calls:
        scene.now = began
        scene.end(call, worker, 2.0, actor=actor)
    found = scene.views().books()
    assert balances(found)
    assert of(found, "run on CPU") == pytest.approx(2.0, abs=0.05), "three at a time, in two seconds of one slot"


def test_a_worker_that_died_has_its_unfinished_work_in_the_books(tmp_path):
    scene = Scene(tmp_path / "session")
    worker, task = scene.busy("f")
    scene.tick(3)
    scene.die(worker, 3, task)  # type: ignore[arg-type]
    scene.tick(5)
    found = scene.views().books()
    assert balances(found) and of(found, "unfinished") == pytest.approx(3.0, abs=0.05)


# --- what idle workers lacked, and whether more of them would help ---------------------------------------------


def test_more_workers_help_where_tasks_wait_for_cpus(tmp_path):
    scene = Scene(tmp_path / "session")
    scene.resources(CPU=1.0)
    worker = scene.worker()
    scene.grant("CPU:1", worker)
    tasks = [scene.submit("f") for _ in range(8)]
    scene.queued("CPU:1", Reason.NO_CAPACITY, "CPU 1 more (0 of 1 free)")
    for task in tasks:
        scene.dispatch(task, worker)
        scene.end(task, worker, 1.0, dispatched=scene.now)
    found = scene.views().books()
    assert balances(found) and found["more_workers"]["helps"] == "yes", found["more_workers"]
    assert "all CPUs were taken" in found["more_workers"]["reason"]


def test_more_workers_do_not_help_where_the_driver_submits_one_by_one(tmp_path):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    for _ in range(5):
        scene.run("f", worker, 0.1)
        scene.tick(2)
    found = scene.views().books()
    assert balances(found) and found["more_workers"]["helps"] == "no"
    assert "the driver is what takes the time" in found["more_workers"]["reason"]
    assert of(found, "idle: nothing submitted") > 8


def test_more_workers_do_not_help_where_tasks_wait_for_one_another(tmp_path):
    scene = Scene(tmp_path / "session")
    first, second = scene.worker(), scene.worker()
    task = scene.submit("link")
    for _ in range(5):
        after = scene.submit("link", needs=(scene.result(task),))
        scene.dispatch(task, first)
        scene.end(task, first, 1.0)
        scene.ready(after, scene.result(task))
        task = after
    found = scene.views().books()
    assert balances(found) and found["more_workers"]["helps"] == "no", found["more_workers"]
    assert "results of others" in found["more_workers"]["reason"]
    assert of(found, "idle: waiting for arguments") > 4 and second


def test_a_job_has_books_of_its_own(tmp_path):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    scene.run("f", worker, 1.0)
    scene.node.job_ended(scene.tick(), 1, scene.driver.process, 0)
    scene.tick(20)
    view = scene.views()
    found = view.books(1)
    assert balances(found) and found["wall_seconds"] < 2 < view.books()["wall_seconds"]
    with pytest.raises(LookupError, match="no job 00000007; there are: 00000001"):
        view.books(7)


def test_the_command_line_shows_the_books(tmp_path, capsys):
    made = record_session(tmp_path / "session", tasks=60, live=False)
    options = ["--session", str(made.directory)]
    assert command.main(["books", *options]) == 0
    said = capsys.readouterr().out
    assert "would more workers help?" in said and "run on CPU" in said and "word_count" in said
    assert command.main(["books", "1", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["error_ratio"] <= 0.01
    assert command.main(["books", "--over-time", "--json", *options]) == 0
    told = json.loads(capsys.readouterr().out)
    # CPUs that have no process are nobody's.
    booked = {row["activity"]: row["seconds"] for row in told["activities"] if row["activity"] != "no process"}
    over = told["over_time"]["together"]["sums"]
    assert {name: over.get(name, 0.0) for name in booked} == pytest.approx(booked, rel=0.02, abs=0.01)
    assert len(told["over_time"]["workers"][0]["activities"].popitem()[1]) == told["over_time"]["pieces"]
    assert command.main(["books", "--over-time", *options]) == 0
    text = capsys.readouterr().out
    assert "over time, " in text and "all workers" in text and "█" in text
    assert command.main(["books", "77", *options]) == 1 and "no job 00000077" in capsys.readouterr().err
    assert command.main(["books", "x", *options]) == 1 and "a job id is a hex number" in capsys.readouterr().err


# --- arithmetic --------------------------------------------------------------------------------------------


def test_what_overlaps_on_one_worker_shares_the_time_and_what_does_not_keeps_it():
    worker = np.array([0, 0, 0, 1])
    start, end = np.array([0, 5, 20, 0]), np.array([10, 15, 30, 10])
    assert shares(worker, start, end).tolist() == pytest.approx([0.75, 0.75, 1.0, 1.0])


def test_seconds_in_which_something_holds_are_summed_for_each_interval():
    steps = Steps.of_intervals(np.array([1, 2, 5]) * NS, np.array([3, 4, 5]) * NS)
    assert steps.at(np.array([0, 1, 2, 3, 4]) * NS).tolist() == [0, 1, 2, 1, 0]
    low, high = np.array([0, 2]) * NS, np.array([10, 3]) * NS
    assert seconds_where(steps.times, steps.values > 0, low, high).tolist() == [3.0, 1.0]


def test_workers_do_not_idle_for_a_task_that_fits_nowhere(tmp_path):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    scene.submit("huge", "CPU:1,disk:1")
    scene.decide("CPU:1,disk:1", LeaseOutcome.INFEASIBLE, Reason.INFEASIBLE, "disk: 1 of 0")
    scene.grant("CPU:1", worker)
    scene.run("f", worker, 1.0)
    scene.tick(5)
    found = scene.views().books()
    assert balances(found)
    assert of(found, "idle: fits nowhere") > 4
    assert of(found, "idle: being scheduled") < 1
