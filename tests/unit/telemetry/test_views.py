"""What people ask about a session is answered from what was recorded, live or long after."""

from __future__ import annotations

import json
import os
import random

import numpy as np
import pytest

from obsray import ids
from obsray.telemetry.collector import Collector
from obsray.telemetry.columns import Texts
from obsray.telemetry.events import DeathCause, DispatchReason, Outcome, ProcessKind, TaskType
from obsray.telemetry.runs import expand
from obsray.telemetry.spine import Ring
from obsray.telemetry.store import Store
from obsray.telemetry.table import Column, QueryError, query, same_id
from obsray.telemetry.tasks import STATES
from obsray.telemetry.views import Views
from obsray.testing.recorded_session import record_session


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record_session(tmp_path_factory.mktemp("session"))


@pytest.fixture(scope="module")
def view(recorded):
    return Views(Store.open(recorded.directory))


@pytest.fixture
def session(tmp_path):
    """An empty session: a driver, two workers, and a view of them."""
    (tmp_path / "rings").mkdir()
    rings = [Ring(tmp_path / "rings", bytes([n]) * 8, kind) for n, kind in ((1, ProcessKind.DRIVER), (2, 1), (3, 1))]
    return (*rings, Views(Store.open(tmp_path)))


def submit(
    driver: Ring, number: int, at: int = 1000, unready: int = 0, shape: str = "f CPU:1", retries: int = 3
) -> bytes:
    task = ids.task_id(driver.process, number)
    nil = ids.NIL_TASK
    name, shape_ = driver.intern("f"), driver.intern(shape)
    driver.task_submitted(at, task, nil, task, nil, name, shape_, 1, 1, unready, 0, retries, 0)
    return task


def end(worker: Ring, task: bytes, attempt: int, outcome: Outcome, at: int = 9000, dispatched: int = 2000) -> None:
    name = worker.intern("f")
    worker.task_ended(
        at, task, attempt, 1, 1, ids.NIL_TASK, name, dispatched, dispatched + 10, dispatched + 20, int(outcome),
        0.0, 0.0, 0.5, 0.0, 0.25, 0.0, 7,
    )  # fmt: skip


def state(view: Views, task: bytes) -> str:
    found = view.task(task.hex())
    assert found is not None
    return str(found["state"])


# --- states ----------------------------------------------------------------------------------------------


def test_a_task_goes_through_its_states_as_records_come_in(session):
    driver, worker, _, view = session
    task = submit(driver, 0, unready=1)
    assert state(view, task) == "PENDING_ARGS_AVAIL"
    driver.task_ready(1500, task, ids.object_id(task))
    assert state(view, task) == "PENDING_NODE_ASSIGNMENT"
    shape = driver.intern("f CPU:1")
    driver.tasks_dispatched(2000, worker.process, 1, 1, shape, 1, 0, 4, int(DispatchReason.LEASE_GRANTED), task)
    assert state(view, task) == "SUBMITTED_TO_WORKER"
    worker.running(0, task, 2100, worker.intern("f"), 0)
    assert state(view, task) == "RUNNING"
    worker.task_blocked(2200, task, 0, 1, ids.object_id(task))
    assert state(view, task) == "RUNNING_IN_RAY_GET"
    worker.task_unblocked(2300, task, 0, 1e-7)
    assert state(view, task) == "RUNNING"
    worker.idle(0)
    end(worker, task, 0, Outcome.OK)
    assert state(view, task) == "FINISHED", "the worker's word counts until the owner has spoken"
    driver.task_finished(9100, task, 0, int(Outcome.APP_ERROR), 0, driver.intern("ValueError"))
    assert state(view, task) == "FAILED", "the owner's word is the truth"


def test_what_an_owner_leaves_behind_is_over_from_its_end_on_and_what_runs_ends_with_its_worker(session):
    driver, worker, node, view = session
    dispatched, runs, queued, waits, broken, done = (submit(driver, n, unready=n == 3) for n in range(6))
    for task in (dispatched, runs):
        shape = driver.intern("f CPU:1")
        driver.tasks_dispatched(2000, worker.process, 1, 1, shape, 1, 0, 4, int(DispatchReason.LEASE_GRANTED), task)
    worker.task_started(2500, runs, 0, 1, 1, ids.NIL_TASK, worker.intern("f"), 2000, 2100, 2200)
    end(worker, broken, 0, Outcome.APP_ERROR)
    end(worker, done, 0, Outcome.OK)
    driver.object_put(3000, ids.object_id(ids.task_id(driver.process, 9)), ids.NIL_TASK, 10, 1, 0)
    before = {task: state(view, task) for task in (dispatched, runs, queued, waits, broken)}
    assert set(before.values()) == set(STATES[:4])
    node.job_ended(20_000, 1, driver.process, int(DeathCause.UNKNOWN))
    rows = {bytes.fromhex(row["task_id"]): row for row in view.tasks()["rows"]}
    for task in (dispatched, queued, waits):
        row = rows[task]
        assert (row["state"], row["outcome"], row["ended_at_ns"]) == ("FAILED", "owner_died", 20_000)
        assert row["error"].startswith("its owner, driver 01010101") and "was killed or crashed" in row["error"]
        assert row["total_seconds"] == pytest.approx(19e-6)
    assert rows[runs]["state"] == "RUNNING", "its worker has not heard of it"
    assert (rows[broken]["state"], rows[broken]["outcome"], rows[broken]["ended_at_ns"]) == (
        "FAILED",
        "app_error",
        9000,
    )
    assert rows[done]["state"] == "FINISHED"
    assert view.task_table.open_rows.tolist() == [view.task_table.index.row(runs)]
    node.worker_died(
        30_000, worker.process, 7, int(DeathCause.KILLED_BY_REQUEST), 0, 9, 0, runs, node.intern("the owner ended")
    )
    row = next(row for row in view.tasks()["rows"] if row["task_id"] == runs.hex())
    assert (row["state"], row["outcome"], row["ended_at_ns"]) == ("FAILED", "owner_died", 30_000)
    assert not len(view.task_table.open_rows)
    assert view.task(queued.hex())["time_split"][-1]["what"] == "queued"
    assert view.task(runs.hex())["time_split"][-1] == {
        "what": "run", "seconds": pytest.approx(27.8e-6), "from_ns": 2200, "to_ns": 30_000,
        "why": f"running on worker 02020202 (pid {os.getpid()}), which did not live to say how it went",
    }  # fmt: skip
    # What was on its way when all this was concluded still counts.
    end(worker, runs, 0, Outcome.OK, at=29_000)
    driver.task_finished(19_000, queued, 0, int(Outcome.CANCELLED), 0, driver.intern("cancelled"))
    rows = {bytes.fromhex(row["task_id"]): row for row in view.tasks()["rows"]}
    assert (rows[runs]["state"], rows[runs]["outcome"], rows[runs]["error"]) == ("FINISHED", "ok", None)
    assert (rows[queued]["state"], rows[queued]["error"]) == ("CANCELLED", "cancelled")
    assert [row["state"] for row in view.objects()["rows"]] == ["FREED"]


def test_what_was_owned_on_a_node_that_is_lost_is_over(session):
    driver, _, node, view = session
    task = submit(driver, 0)
    lost = ids.mark_of(driver.process) + bytes(ids.NODE_ID_BYTES - ids.MARK_BYTES)
    node.node_changed(20_000, lost, node.intern("DEAD"), 1, node.intern("it is not heard of"))
    row = view.tasks()["rows"][0]
    assert (row["task_id"], row["state"], row["outcome"], row["ended_at_ns"]) == (
        task.hex(), "FAILED", "owner_died", 20_000
    )  # fmt: skip
    assert "was lost with node 01010101" in row["error"]


@pytest.mark.parametrize("ended", [False, True])
def test_the_making_of_an_actor_outlives_its_owner_if_the_actor_does(session, ended):
    driver, worker, node, view = session
    task, actor, nil = (
        ids.task_id(driver.process, 0),
        ids.task_id(driver.process, 0, ids.SEQUENCE_DETACHED_ACTOR),
        bytes(16),
    )
    f, shape = driver.intern("A"), driver.intern("A CPU:1")
    driver.task_submitted(1000, task, nil, task, actor, f, shape, 1, 0, 0, int(TaskType.ACTOR_CREATION), 0, 0)
    driver.actor_created(1000, actor, task, f, 0, 0, shape, 0, 1, 1, nil)
    node.job_ended(20_000, 1, driver.process, int(DeathCause.UNKNOWN))
    assert state(view, task) == "PENDING_NODE_ASSIGNMENT", "its node makes it all the same"
    if ended:
        node.actor_died(30_000, actor, bytes(8), 0, int(DeathCause.KILLED_BY_REQUEST), 0, node.intern("killed"))
        row = view.tasks()["rows"][0]
        assert (row["state"], row["ended_at_ns"], row["error"]) == ("FAILED", 30_000, "killed")
    else:
        worker.task_ended(
            30_000, task, 0, 1, 1, actor, worker.intern("A"), 21_000, 22_000, 23_000, int(Outcome.OK),
            0.0, 0.0, 0.5, 0.0, 0.25, 0.0, 7,
        )  # fmt: skip
        assert state(view, task) == "FINISHED"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_order_in_which_processes_are_read_changes_nothing(session, order):
    driver, worker, _, view = session
    task = ids.task_id(driver.process, 0)
    for act in order:
        if act:
            end(worker, task, 0, Outcome.OK)
        else:
            submit(driver, 0)
            driver.tasks_finished(9500, task, 1, 7)
        view.refresh()
    row = view.tasks()["rows"][0]
    assert (row["state"], row["name"], row["result_bytes"], row["run_seconds"]) == ("FINISHED", "f", 7, 0.5)


def test_a_retried_task_waits_again_and_its_attempts_are_told(session):
    driver, first, second, view = session
    task = submit(driver, 0)
    end(first, task, 0, Outcome.APP_ERROR)
    driver.task_retried(9200, task, 0, int(Outcome.APP_ERROR), first.process, 0.0, driver.intern("boom"))
    assert state(view, task) == "PENDING_NODE_ASSIGNMENT"
    end(second, task, 1, Outcome.OK, at=20_000, dispatched=10_000)
    driver.task_finished(20_100, task, 1, int(Outcome.OK), 7, 0)
    found = view.task(task.hex())
    assert (found["state"], found["attempt"]) == ("FINISHED", 1)
    assert [(a["attempt"], a["worker_id"], a["outcome"]) for a in found["attempts"]] == [
        (0, first.process.hex(), "app_error"),
        (1, second.process.hex(), "ok"),
    ]


def test_a_late_record_of_an_old_attempt_does_not_undo_a_newer_one(session):
    driver, first, second, view = session
    task = submit(driver, 0)
    end(second, task, 1, Outcome.OK, at=20_000, dispatched=10_000)
    view.refresh()
    end(first, task, 0, Outcome.WORKER_DIED)
    driver.task_finished(20_100, task, 1, int(Outcome.OK), 7, 0)
    row = view.tasks()["rows"][0]
    assert (row["state"], row["worker_id"], row["attempt"]) == ("FINISHED", second.process.hex(), 1)


def test_a_finished_task_whose_result_was_lost_runs_again(session):
    driver, worker, _, view = session
    task = submit(driver, 0)
    end(worker, task, 0, Outcome.OK)
    driver.tasks_finished(9500, task, 1, 7)
    driver.task_retried(20_000, task, 0, int(Outcome.LOST_ARGUMENT), bytes(8), 0.0, 0)
    assert state(view, task) == "PENDING_NODE_ASSIGNMENT"
    end(worker, task, 1, Outcome.OK, at=30_000, dispatched=21_000)
    driver.task_finished(30_100, task, 1, int(Outcome.OK), 7, 0)
    assert state(view, task) == "FINISHED"


def test_only_as_many_tasks_as_a_batch_holds_count_as_sent(session):
    driver, worker, _, view = session
    tasks = [submit(driver, number, shape="f CPU:1" if number % 2 else "g CPU:1") for number in range(10)]
    shape = driver.intern("f CPU:1")
    driver.tasks_dispatched(2000, worker.process, 1, 1, shape, 3, 2, 4, 0, tasks[1])
    view.refresh()
    sent = {row["task_id"] for row in view.tasks([("state", "=", "SUBMITTED_TO_WORKER")])["rows"]}
    assert sent == {tasks[number].hex() for number in (1, 3, 5)}
    driver.task_recalled(3000, tasks[5], worker.process, 1, 0)
    assert state(view, tasks[5]) == "PENDING_NODE_ASSIGNMENT"


def test_random_histories_end_in_the_state_their_owner_said(tmp_path):
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    (tmp_path / "rings").mkdir()
    rings = [Ring(tmp_path / "rings", chance.randbytes(8), ProcessKind.WORKER) for _ in range(4)]
    view = Views(Store.open(tmp_path))
    collector = Collector(tmp_path, 1 << 30)
    expected: dict[str, str] = {}
    counts = [0] * len(rings)
    for _ in range(400):
        owner = chance.randrange(len(rings))
        number, counts[owner] = counts[owner], counts[owner] + 1
        driver, worker = rings[owner], chance.choice(rings)
        task = submit(driver, number)
        attempts = chance.choice([0, 0, 0, 1, 2])
        for attempt in range(attempts):
            if chance.random() < 0.7:
                end(worker, task, attempt, Outcome.APP_ERROR, at=9000 + attempt)
            driver.task_retried(9100 + attempt, task, attempt, int(Outcome.APP_ERROR), worker.process, 0.0, 0)
        outcome = chance.choice([Outcome.OK, Outcome.APP_ERROR, Outcome.CANCELLED, Outcome.WORKER_DIED])
        if outcome is not Outcome.WORKER_DIED:
            end(worker, task, attempts, outcome, at=9500)
        driver.task_finished(9600, task, attempts, int(outcome), 7, 0)
        names = {Outcome.OK: "FINISHED", Outcome.CANCELLED: "CANCELLED"}
        expected[task.hex()] = names.get(outcome, "FAILED")
        for act in (view.refresh, collector.poll, collector.flush):
            if chance.random() < 0.05:
                act()
    rows = view.tasks(limit=1000)["rows"]
    assert {row["task_id"]: row["state"] for row in rows} == expected
    assert view.ledger()["tasks"]["balance_ok"]


# --- pages -----------------------------------------------------------------------------------------------


def test_every_column_can_be_sorted_and_filtered(view, recorded):
    view.refresh()
    for name in view.task_columns(view.now_ns()):
        for sign in ("", "-"):
            page = view.tasks(sort=sign + name, limit=1000, refresh=False)
            assert (page["total"], len(page["rows"])) == (recorded.submitted, recorded.submitted)
            values = [row[name] for row in page["rows"] if row.get(name) is not None and name != "job_id"]
            # Page values of running tasks are computed a moment later than the sort.
            if name not in ("total_seconds", "run_seconds") and values and isinstance(values[0], int | float):
                assert values == sorted(values, reverse=bool(sign))


def test_pages_are_cut_from_one_order(view):
    whole = view.tasks(sort="-run_seconds", limit=1000)["rows"]
    parts = [
        row for offset in range(0, 240, 40) for row in view.tasks(sort="-run_seconds", limit=40, offset=offset)["rows"]
    ]
    ended = [row["task_id"] for row in whole if row["state"] == "FINISHED"]
    assert [row["task_id"] for row in parts if row["state"] == "FINISHED"] == ended


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([("state", "=", "FAILED")], lambda row: row["state"] == "FAILED"),
        ([("state", "!=", "FINISHED")], lambda row: row["state"] != "FINISHED"),
        ([("name", "contains", "MAT")], lambda row: row["name"] == "matrix"),
        ([("name", "in", "matrix,flaky")], lambda row: row["name"] in ("matrix", "flaky")),
        (
            [("name", "in", ["matrix"]), ("state", "=", "FINISHED")],
            lambda row: row["name"] == "matrix" and row["state"] == "FINISHED",
        ),
        ([("run_seconds", ">", "0.01")], lambda row: row["outcome"] and (row["run_seconds"] or 0) > 0.01),
        ([("attempt", ">=", 1)], lambda row: row["attempt"] >= 1),
        ([("outcome", "=", "app_error")], lambda row: row["outcome"] == "app_error"),
        ([("type", "=", "ACTOR_TASK")], lambda row: row["type"] == "ACTOR_TASK"),
    ],
)  # fmt: skip
def test_a_filter_keeps_exactly_the_rows_it_names(view, filters, expected):
    everything = view.tasks(limit=1000)["rows"]
    kept = view.tasks(filters, limit=1000)
    assert {row["task_id"] for row in kept["rows"]} == {row["task_id"] for row in everything if expected(row)}
    assert kept["total"] == len(kept["rows"])


def test_a_task_is_found_by_its_id_or_a_part_of_it(view, recorded):
    whole = recorded.killed_task.hex()
    assert view.tasks([("task_id", "=", whole)])["total"] == 1
    assert view.tasks([("task_id", "contains", whole[-3:])], limit=1000)["total"] >= 1
    assert view.tasks([("task_id", "=", "nonsense")])["total"] == 0


@pytest.mark.parametrize(
    "question",
    [
        {"filters": [("colour", "=", "red")]},
        {"filters": [("state", "~", "x")]},
        {"filters": [("run_seconds", ">", "soon")]},
        {"filters": [("task_id", "<", "00")]},
        {"sort": "-colour"},
    ],
)
def test_a_question_that_makes_no_sense_is_refused_with_a_reason(view, question):
    with pytest.raises(QueryError):
        view.tasks(**question)


def test_absent_values_match_nothing_and_sort_last():
    columns = {"x": lambda: Column("number", np.array([3.0, 1.0, 2.0]), None, np.array([False, True, False]))}
    texts = Texts()
    assert query(columns, 3, texts, [], "x", 9, 0)[0].tolist() == [2, 0, 1]
    assert query(columns, 3, texts, [], "-x", 9, 0)[0].tolist() == [0, 2, 1]
    assert query(columns, 3, texts, [("x", "<", 9)], "", 9, 0)[1] == 2


def test_a_small_page_of_many_rows_is_the_front_of_the_sorted_whole():
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    values = np.random.default_rng(seed).integers(0, 500, 5000)
    columns = {"x": lambda: Column("number", values)}
    for sort in ("x", "-x"):
        whole, _ = query(columns, 5000, Texts(), [], sort, 5000, 0)
        page, total = query(columns, 5000, Texts(), [], sort, 20, 100)
        assert total == 5000
        assert page.tolist() == whole[100:120].tolist()


def test_runs_of_tasks_expand_to_their_ids():
    owner = bytes(range(8))
    first = np.frombuffer(ids.task_id(owner, 255) + ids.task_id(owner, 7), "V16")
    found, _ = expand(first, np.array([3, 1], np.uint32))
    assert [value.tobytes() for value in found] == [ids.task_id(owner, n) for n in (255, 256, 257, 7)]


# --- one thing in full -----------------------------------------------------------------------------------


def test_every_task_of_the_recorded_run_is_in_the_state_it_was_left_in(view, recorded):
    want = {
        "running_task": "RUNNING", "blocked_task": "RUNNING_IN_RAY_GET", "queued_task": "PENDING_NODE_ASSIGNMENT",
        "waiting_task": "PENDING_ARGS_AVAIL", "killed_task": "FINISHED", "failed_task": "FAILED",
    }  # fmt: skip
    for name, expected in want.items():
        assert state(view, getattr(recorded, name)) == expected, name


def test_the_time_split_adds_up_to_the_whole(view, recorded):
    for row in view.tasks([("state", "=", "FINISHED")], limit=1000)["rows"]:
        found = view.task(row["task_id"], refresh=False)
        pieces = found["time_split"]
        assert [p["from_ns"] for p in pieces] == sorted(p["from_ns"] for p in pieces)
        assert sum(p["seconds"] for p in pieces) == pytest.approx(found["total_seconds"], rel=0.02, abs=2e-4)
        assert all(p["why"] for p in pieces)


def test_a_queued_task_says_what_is_missing_and_who_has_it(view, recorded):
    reason = view.task(recorded.queued_task.hex())["pending_reason"]
    assert "CPU: 1 wanted, 0 of 2 free" in reason
    assert "held by long_wait (word_count CPU:1) on 1 worker" in reason


def test_a_task_that_waits_for_arguments_names_them_and_their_producers(view, recorded):
    found = view.task(recorded.waiting_task.hex())
    assert "the result of long_wait (RUNNING)" in found["pending_reason"]
    assert found["arguments"][0]["producer_task_id"] == recorded.running_task.hex()


def test_the_killed_task_remembers_both_attempts(view, recorded):
    attempts = view.task(recorded.killed_task.hex())["attempts"]
    assert [a["outcome"] for a in attempts] == ["worker_died", "ok"]
    assert attempts[0]["worker_id"] == recorded.killed_worker.hex()


@pytest.mark.parametrize("identifier", ["", "xyz", "00", "ff" * 16, "ff" * 40])
def test_what_nobody_recorded_is_unknown(view, identifier):
    assert view.task(identifier) is None
    assert view.story(identifier) == []


# --- stories ---------------------------------------------------------------------------------------------


def texts(story):
    return [entry["text"] for entry in story]


def test_the_story_of_a_killed_worker_ends_with_what_it_was_doing(view, recorded):
    story = view.story(recorded.killed_worker.hex())
    death = next(entry for entry in story if entry["event"] == "worker_died")
    assert death["severity"] == "error"
    assert f"worker {recorded.killed_worker.hex()[:8]}" in death["text"]
    assert "was killed by signal 9 (SIGKILL) while running word_count" in death["text"]
    own = [entry for entry in story if entry["process"] == recorded.killed_worker.hex()]
    assert any("is running on" in entry["text"] for entry in own)


def test_the_story_of_a_task_tells_of_the_death_of_its_worker_and_the_retry(view, recorded):
    told = texts(view.story(recorded.killed_task.hex()))
    order = ["submitted word_count", "sent to", "is running on", "was killed by signal 9", "it is tried again",
             "ended on", "finished"]  # fmt: skip
    at = [next(i for i, text in enumerate(told) if part in text) for part in order]
    assert at == sorted(at)


def test_the_story_of_a_queued_task_holds_the_decisions_about_it(view, recorded):
    told = texts(view.story(recorded.queued_task.hex()))
    assert any("0 of 2 free" in text for text in told)
    assert any("was not chosen" in text for text in told)


def test_objects_actors_nodes_and_leases_have_stories(view, recorded):
    assert any("was spilled to spill/0001" in text for text in texts(view.story(recorded.spilled_object.hex())))
    assert any("is alive on" in text for text in texts(view.story(recorded.actor.hex())))
    assert any("is ready" in text for text in texts(view.story(recorded.node.hex())))
    assert any("granted" in text for text in texts(view.story("1")))
    assert any("submitted matrix" in text for text in texts(view.story(recorded.result_object.hex())))


def test_a_story_is_in_order_and_has_no_record_twice(view, recorded):
    for name in ("killed_worker", "killed_task", "queued_task", "actor", "put_object", "driver"):
        story = view.story(getattr(recorded, name).hex())
        assert [entry["time_ns"] for entry in story] == sorted(entry["time_ns"] for entry in story)
        keys = [(entry["time_ns"], entry["process"], entry["text"], json.dumps(entry["fields"])) for entry in story]
        assert len(set(keys)) == len(keys)


# --- everything else -------------------------------------------------------------------------------------


def test_every_answer_is_plain_json(view, recorded):
    answers = [
        view.overview(), view.ledger(), view.workers(), view.actors(), view.objects(), view.nodes(), view.jobs(),
        view.leases(), view.functions(), view.tasks(), view.task(recorded.killed_task.hex()),
        view.story(recorded.killed_task.hex()),
    ]  # fmt: skip
    json.dumps(answers)


def test_the_overview_counts_what_was_recorded(view, recorded):
    found = view.overview()
    assert sum(found["tasks"].values()) == recorded.submitted
    assert found["tasks"]["FAILED"] == recorded.failed
    assert found["workers"] == {"BUSY": 1, "BLOCKED": 1, "DEAD": 1}
    assert found["events_total"] == recorded.events
    assert found["recent_errors"][0]["error"] == "ValueError: no luck today"
    assert len(found["recent_errors"]) == min(5, recorded.failed)
    assert found["ledger"]["events_lost"] == 0
    assert sum(found["rates"]["series"]["submitted"]) == recorded.submitted


def test_functions_are_summed_by_name(view, recorded):
    rows = {row["name"]: row for row in view.functions()}
    assert sum(row["total"] for row in rows.values()) == recorded.submitted
    assert rows["flaky"]["failed"] == recorded.failed
    assert 0 < rows["word_count"]["run_seconds_p50"] <= rows["word_count"]["run_seconds_p99"]


def test_objects_have_their_states_and_producers(view, recorded):
    rows = {row["object_id"]: row for row in view.objects(limit=100)["rows"]}
    assert rows[recorded.put_object.hex()]["state"] == "SEALED"
    assert rows[recorded.put_object.hex()]["pins"] == rows[recorded.put_object.hex()]["reads"] == 1
    assert rows[recorded.spilled_object.hex()]["state"] == "SPILLED"
    assert rows[recorded.result_object.hex()]["producer"] == "matrix"
    assert view.objects([("state", "=", "FREED")])["total"] == 1
    assert view.objects([("owner", "=", recorded.driver.hex())])["total"] == 4


def test_the_demand_of_a_shape_comes_with_its_reason(view):
    waiting = next(row for row in view.leases()["demand"] if row["shape"] == "matrix CPU:1")
    assert (waiting["wanted"], waiting["outcome"], waiting["reason"]) == (1, "queued", "no_capacity")
    assert view.leases()["decisions"][0]["candidates"]


def test_the_books_balance(view, recorded):
    book = view.ledger()
    assert book["tasks"] == {
        "submitted": recorded.submitted, "finished": recorded.finished, "failed": recorded.failed,
        "cancelled": recorded.cancelled, "pending": recorded.pending, "unaccounted": 0, "balance_ok": True,
    }  # fmt: skip
    assert book["totals"]["events_recorded"] == book["totals"]["events_read"] == recorded.events
    for ring in book["rings"]:
        assert ring["read"] + ring["gaps"] + ring["dropped"] == ring["last_sequence"]


def test_a_task_that_ran_though_nobody_submitted_it_upsets_the_books(session):
    driver, worker, _, view = session
    end(worker, ids.task_id(driver.process, 5), 0, Outcome.OK)
    task = submit(driver, 6, at=10_000_000_000)
    driver.tasks_finished(20_000_000_000, task, 1, 7)
    book = view.ledger()["tasks"]
    assert (book["unaccounted"], book["balance_ok"]) == (1, False)


def test_a_dead_session_is_told_in_full_from_its_directory(tmp_path):
    made = record_session(tmp_path, live=False, at_ns=1_700_000_000_000_000_000)
    Collector(tmp_path, 1 << 30).close()
    assert not list((tmp_path / "rings").glob("*.ring"))
    view = Views(Store.open(tmp_path))
    found = view.overview()
    assert not found["session"]["live"]
    assert found["events_total"] == made.events
    assert sum(found["tasks"].values()) == made.submitted
    assert view.ledger()["totals"]["events_stored"] == made.events
    assert state(view, made.running_task) == "FAILED", "its owner is recorded to have ended"
    assert view.now_ns() < 1_700_000_001_000_000_000 or view.now_ns() > 1_790_000_000_000_000_000
    assert any("killed by signal 9" in text for text in texts(view.story(made.killed_worker.hex())))


def test_states_are_the_familiar_ones():
    assert STATES == (
        "PENDING_ARGS_AVAIL", "PENDING_NODE_ASSIGNMENT", "SUBMITTED_TO_WORKER", "RUNNING", "RUNNING_IN_RAY_GET",
        "FINISHED", "FAILED", "CANCELLED",
    )  # fmt: skip


@pytest.mark.parametrize("size", [16, 20])
def test_an_id_is_looked_for_where_there_is_none(size):
    identifier = bytes(range(size))
    assert list(same_id(np.array([], f"S{size}"), identifier)) == []
    assert list(same_id(np.array([identifier, bytes(size - 1) + b"x"], f"S{size}"), identifier)) == [True, False]


# --- processes that are named before they are known -----------------------------------------------------------


def test_a_process_that_another_node_is_asked_for_is_no_row_before_it_is_known(session, tmp_path):
    driver, _, _, view = session
    elsewhere, actor = bytes([9]) * 8, bytes([7]) * 16
    driver.actor_placed(1000, actor, elsewhere, bytes(8), 0.1, 0)
    assert elsewhere.hex() not in {row["worker_id"] for row in view.workers()}
    Ring(tmp_path / "rings", elsewhere, ProcessKind.WORKER)
    (row,) = [row for row in view.workers() if row["worker_id"] == elsewhere.hex()]
    assert row["pid"] and row["actor_id"] == actor.hex()


def test_a_process_that_never_came_to_be_is_not_starting_when_the_session_is_over(session, tmp_path):
    driver, _, _, view = session
    asked = bytes([9]) * 8
    now = json.dumps({"node_pid": os.getpid(), "node_started_at_ns": 0})
    (tmp_path / "session.json").write_text(now)
    driver.worker_starting(1000, asked, 0, bytes(8))

    def found() -> str:
        return next(row["state"] for row in view.workers() if row["worker_id"] == asked.hex())

    assert found() == "STARTING"
    (tmp_path / "session.json").write_text(json.dumps({**json.loads(now), "stopped_at_ns": 2000}))
    assert found() == "DEAD"


def test_an_actor_that_was_never_placed_ends_with_the_process_that_created_it(session):
    driver, node, _, view = session
    nil, name = ids.NIL_TASK, driver.intern("Counter")
    waits, placed, detached = (ids.task_id(driver.process, number, ids.SEQUENCE_ACTOR) for number in (1, 2, 3))
    for actor in (waits, placed, detached):
        driver.actor_created(1000, actor, nil, name, 0, 0, 0, 0, int(actor == detached), 1, bytes(16))
    node.actor_placed(2000, placed, bytes(8), bytes(8), 0.0, 0)
    assert {row["state"] for row in view.actors()} == {"PENDING_CREATION"}
    driver.close(5000)
    rows = {row["actor_id"]: row for row in view.actors()}
    assert rows[waits.hex()]["state"] == "DEAD" and rows[waits.hex()]["died_at_ns"] == 5000
    assert rows[waits.hex()]["died_cause"] == "owner_died" and "before it was placed" in rows[waits.hex()]["error"]
    assert {rows[actor.hex()]["state"] for actor in (placed, detached)} == {"PENDING_CREATION"}
