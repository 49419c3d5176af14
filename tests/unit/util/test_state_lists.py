"""Lists of the state API: what matches, in which order, and what is not on the page."""

from __future__ import annotations

import random
import threading
from datetime import datetime

import pytest

from obsray.telemetry import asking
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.testing.recorded_session import record_session
from obsray.util import state
from obsray.util.state.common import GetApiOptions, ListApiOptions, StateResource, SummaryApiOptions, SummaryResource
from obsray.util.state.exception import StateTimeoutError


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    made = record_session(tmp_path_factory.mktemp("session"), tasks=300, live=False)
    (made.directory / "logs" / f"worker-{made.workers[0].hex()}.out").write_text("one\ntwo\nthree\n")
    return made


@pytest.fixture(scope="module")
def where(recorded):
    return str(recorded.directory)


@pytest.fixture(scope="module")
def everything(where):
    return state.list_tasks(where, limit=10_000, detail=True)


def test_a_page_says_how_many_match_and_how_many_come_after_it(where, everything):
    page = state.list_tasks(where, limit=10)
    assert len(page) == 10 and page.total == len(everything) and page.left_out == len(everything) - 10
    assert everything.left_out == 0 and everything.next_cursor is None


def test_keys_and_words_of_a_filter_may_be_written_in_capitals(where):
    small = state.list_tasks(where, filters=[("state", "=", "FINISHED")])
    assert small.total and state.list_tasks(where, filters=[("STATE", "=", "finished")]).total == small.total
    assert state.list_tasks(where, filters=[("State", "!=", "Finished")]).total + small.total == (
        state.list_tasks(where).total
    )
    with pytest.raises(ValueError, match="the keys are task_id"):
        state.list_tasks(where, filters=[("STAT", "=", "finished")])


KEYS = [
    None, "creation_time_ms", "-run_seconds", "name", "-state", "worker_pid", "attempt_number", "error_type",
    "-end_time_ms",
    "job_id",
]  # fmt: skip


@pytest.mark.parametrize("sort", KEYS)
def test_pages_joined_by_cursors_are_the_whole_list_in_order(where, everything, sort):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    found, cursor = [], None
    while True:
        page = state.list_tasks(where, limit=chance.choice([7, 23, 50]), sort=sort, cursor=cursor, detail=True)
        found += page
        cursor = page.next_cursor
        if cursor is None:
            break
        assert page.total == len(everything) and page.left_out == len(everything) - len(found)
    assert len(found) == len(everything)
    assert {(row.task_id, row.attempt_number) for row in found} == {
        (row.task_id, row.attempt_number) for row in everything
    }
    key = (sort or "-creation_time_ms").lstrip("-")
    values = [row[key] for row in found if row[key] is not None]
    assert values == sorted(values, reverse=(sort or "-").startswith("-"))
    assert all(row[key] is None for row in found[len(values) :])


def test_a_cursor_goes_on_behind_the_last_row_although_newer_tasks_came(tmp_path):
    made = record_session(tmp_path, tasks=40, live=False)
    views = Views(Store.open(made.directory))
    views.refresh()
    first = state.list_tasks(str(tmp_path), limit=5)
    ring_time = views.now_ns()
    # One more task, newer than all others.
    from obsray.telemetry.events import ProcessKind
    from obsray.telemetry.spine import Ring

    ring = Ring(tmp_path / "rings", b"newcomer", ProcessKind.DRIVER, made.node)
    ring.task_submitted(
        ring_time + 10**9, b"newcomer" + bytes(7) + b"\1", bytes(16), bytes(16), bytes(16), ring.intern("late"),
        0, 1, 0, 0,
        0, 3, 0,
    )  # fmt: skip
    second = state.list_tasks(str(tmp_path), limit=5, cursor=first.next_cursor)
    assert state.list_tasks(str(tmp_path), limit=1)[0].name == "late"
    assert "late" not in {row.name for row in second}
    assert not {row.task_id for row in first} & {row.task_id for row in second}


def test_every_key_of_a_task_can_be_filtered_as_its_rows_say(where, everything):
    for row in (everything[0], everything[-1], next(row for row in everything if row.state == "FAILED")):
        for key, value in row.items():
            if key in ("queue_seconds",):
                continue  # of open tasks it goes on while the test asks
            if value is not None:
                found = state.list_tasks(where, [(key, "=", value)], limit=10_000, detail=True)
                expected = [each for each in everything if each[key] == value]
                assert len(found) == len(expected), (key, value)
            others = state.list_tasks(where, [(key, "!=", "" if value is None else value)], limit=10_000, detail=True)
            assert len(others) == len([each for each in everything if each[key] != value or value is None]), key


def test_operators_beyond_equality(where, everything):
    slow = state.list_tasks(where, [("run_seconds", ">", 0.01)], limit=10_000, detail=True)
    assert {row.task_id for row in slow} == {
        row.task_id for row in everything if row.run_seconds and row.run_seconds > 0.01
    }
    named = state.list_tasks(
        where, [("name", "contains", "WORD"), ("state", "in", ["failed", "FINISHED"])], limit=10_000
    )
    assert named and all("word" in row.name and row.state in ("FAILED", "FINISHED") for row in named)


def test_a_time_range_keeps_what_began_inside(where, everything):
    times = sorted(row.creation_time_ms / 1e3 for row in everything)
    middle = times[len(times) // 2]
    early = state.list_tasks(where, until=middle, limit=10_000)
    late = state.list_tasks(where, since=datetime.fromtimestamp(middle), limit=10_000)
    assert abs(early.total + late.total - len(everything)) <= 2 and early.total and late.total
    assert state.list_tasks(where, since="100000d").total == len(everything)
    assert state.list_workers(where, until=1).total == 0


def test_every_attempt_is_a_row_with_the_node_it_ran_on(where, recorded):
    rows = state.get_task(recorded.killed_task.hex(), where)
    assert [(row.attempt_number, row.state) for row in rows] == [(1, "FINISHED"), (0, "FAILED")]
    assert rows[1].worker_id == recorded.killed_worker.hex() and rows[1].error_type == "WORKER_DIED"


def test_rows_are_made_of_one_page_only(where, monkeypatch):
    made = []
    original = Views.task_rows

    def counting(self, rows, now):
        made.append(len(rows))
        return original(self, rows, now)

    monkeypatch.setattr(Views, "task_rows", counting)
    page = state.list_tasks(where, [("func_or_class_name", "!=", "matrix"), ("job_id", "=", "00000001")], limit=5)
    assert page.left_out > 50 and sum(made) < 20


def test_objects_that_are_gone_are_listed_only_when_asked_for(where, recorded):
    states = {row.state for row in state.list_objects(where, limit=1000)}
    assert not states & {"FREED", "LOST"}
    (row,) = state.get_objects(recorded.put_object.hex(), where)
    for key in ("object_size", "type", "pid", "owner_id", "state", "call_site", "creation_time_ms"):
        if row[key] is not None:
            found = state.list_objects(where, [(key, "=", row[key]), ("state", "!=", "nothing")], limit=1000)
            assert row.object_id in {each.object_id for each in found}, key


@pytest.mark.parametrize(
    "arguments",
    [
        {"limit": 0}, {"limit": "5"}, {"filters": [("name", "~", "x")]}, {"filters": [("nothing", "=", 1)]},
        {"filters": [("name", "=")]}, {"sort": "nothing"}, {"cursor": "nonsense"}, {"since": "yesterdayish"},
        {"until": -1},
    ],
)  # fmt: skip
@pytest.mark.parametrize("ask", [state.list_tasks, state.list_actors, state.list_objects, state.list_cluster_events])
def test_what_is_asked_wrongly_is_refused_at_the_call(where, ask, arguments):
    with pytest.raises(ValueError):
        ask(where, **arguments)


def test_a_cursor_belongs_to_its_order(where):
    cursor = state.list_tasks(where, limit=1).next_cursor
    with pytest.raises(ValueError, match="sort="):
        state.list_tasks(where, sort="name", cursor=cursor)


def test_summaries_count_what_matches(where, everything):
    summary = state.summarize_tasks(where, filters=[("name", "=", "matrix")])["cluster"]["summary"]
    assert list(summary) == ["matrix"] and sum(summary["matrix"]["state_counts"].values()) == len(
        [row for row in everything if row.name == "matrix"]
    )
    objects = state.summarize_objects(where)["cluster"]
    listed = state.list_objects(where, limit=10_000)
    assert objects["total_objects"] == listed.total
    assert objects["total_size_mb"] == pytest.approx(sum(row.object_size for row in listed) / (1 << 20))


def test_the_client_asks_the_same(where, recorded):
    client = state.StateApiClient(address=where)
    rows = client.list(StateResource.TASKS, ListApiOptions(limit=3, filters=[("name", "=", "matrix")]))
    assert len(rows) == 3 and {row["name"] for row in rows} == {"matrix"}
    assert client.get(StateResource.ACTORS, recorded.actor.hex(), GetApiOptions()).actor_id == recorded.actor.hex()
    assert client.summary(SummaryResource.TASKS, options=SummaryApiOptions())["total_tasks"] > 0
    with pytest.raises(ValueError):
        client.get(StateResource.CLUSTER_EVENTS, "x")
    with pytest.raises(ValueError):
        state.StateApiClient(address=where, cookies={"a": "b"})


def test_logs_by_worker_tail_and_pattern(where, recorded):
    worker = recorded.workers[0].hex()
    assert list(state.get_log(where, worker_id=worker, tail=2)) == ["two\n", "three\n"]
    assert list(state.get_log(where, filename=f"worker-{worker}.out", follow=True)) == ["one\n", "two\n", "three\n"]
    assert state.list_logs(where, glob_filter="*.err") == {}
    with pytest.raises(ValueError, match="on its own machine"):
        state.list_logs(where, node_id="00" * 8)
    with pytest.raises(FileNotFoundError):
        next(state.get_log(where, submission_id="nobody"))
    for timeout, error in (
        ("soon", TypeError),
        (None, TypeError),
        (float("nan"), ValueError),
        (-1, ValueError),
        (True, TypeError),
    ):
        with pytest.raises(error, match="timeout="):
            state.get_log(where, worker_id=worker, timeout=timeout)
        with pytest.raises(error, match="timeout="):
            state.list_logs(where, timeout=timeout)
    with pytest.raises(ValueError, match="attempt_number"):
        state.get_log(where, task_id="00" * 16, attempt_number=-1)
    with pytest.raises(TypeError, match="as hex"):
        state.get_log(where, task_id=b"0" * 16)


def test_an_answer_that_is_not_there_in_time_is_an_error_and_what_was_read_is_kept(recorded, monkeypatch):
    directory = str(recorded.directory)
    going, refresh = threading.Event(), Views.refresh
    monkeypatch.setattr(asking, "_open", None)
    monkeypatch.setattr(Views, "refresh", lambda views: (going.wait(60.0), refresh(views))[1])
    for ask in (state.list_tasks, state.summarize_tasks, state.list_actors):
        with pytest.raises(StateTimeoutError, match=r"not been read within timeout=0.05 s.*ask again"):
            ask(directory, timeout=0.05)
    with pytest.raises(TimeoutError):
        state.get_task("ab" * 16, directory, timeout=0.05)
    going.set()
    assert len(state.list_tasks(directory, timeout=60)) > 0
    for wrong, error in (
        (0, ValueError),
        (-1, ValueError),
        ("3", TypeError),
        (True, TypeError),
        (float("nan"), ValueError),
    ):
        with pytest.raises(error, match="timeout="):
            state.list_tasks(directory, timeout=wrong)
