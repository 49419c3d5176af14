"""The made-up views are shaped like the real ones over a recorded session, and the pages work over both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fake_views import PORT, TOKEN, FakeViews, task_id
from starlette.testclient import TestClient

from obsray.dashboard.app import create_app
from obsray.dashboard.pages import LIST_PAGES
from obsray.dashboard.source import Source
from obsray.dashboard.tables import TABLES
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.testing.recorded_session import Recorded, record_session


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    return record_session(tmp_path_factory.mktemp("sessions") / "s_20260101-000000_2", tasks=300)


@pytest.fixture(scope="module")
def real(recorded: Recorded) -> Views:
    views = Views(Store.open(recorded.directory))
    views.refresh()
    return views


@pytest.fixture
def client(recorded: Recorded) -> Iterator[TestClient]:
    app = create_app(Source(recorded.directory), TOKEN, PORT)
    headers = {"authorization": f"Bearer {TOKEN}"}
    with TestClient(app, base_url=f"http://127.0.0.1:{PORT}", headers=headers, follow_redirects=False) as client:
        yield client


def shape(value: Any, depth: int = 3) -> Any:
    """The keys of dictionaries and of the first of a list, down to ``depth``; what is keyed by names is a leaf."""
    if isinstance(value, dict) and depth:
        named = {
            "resources",
            "tasks",
            "workers",
            "actors",
            "by_state",
            "by_name",
            "session",
            "store",
            "sample",
            "fields",
            "collectors",
        }
        return {key: None if key in named else shape(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list) and value and depth:
        return [shape(value[0], depth - 1)]
    return None


@pytest.mark.parametrize("noun", [*TABLES, "overview", "ledger"])
def test_the_fake_answers_in_the_shape_of_the_real_views(real, noun):
    assert shape(getattr(FakeViews(20), noun)()) == shape(getattr(real, noun)())


def test_the_fake_tells_of_one_task_in_the_shape_of_the_real_views(real, recorded):
    fake, task = FakeViews(20).task(task_id(13)), real.task(recorded.waiting_task.hex())
    finished = real.task(recorded.killed_task.hex())
    assert fake is not None and task is not None and finished is not None
    assert set(fake) == set(task)
    assert shape(fake["arguments"]) == shape(task["arguments"])
    assert shape(fake["time_split"]) == shape(task["time_split"])
    assert set(fake["children"]) == set(task["children"])
    assert shape(fake["attempts"]) == shape(finished["attempts"])
    told = real.story(recorded.killed_task.hex())
    assert set(FakeViews(20).story(task_id(3))[0]) == set(told[0])


@pytest.mark.parametrize("noun", list(TABLES))
def test_every_column_of_a_table_exists_can_sort_and_can_filter(client, noun):
    rows = client.get(f"/api/v1/{noun}").json()["rows"]
    assert rows
    for key in TABLES[noun].keys:
        assert key in rows[0], key
        assert client.get(f"/api/v1/{noun}", params={"sort": f"-{key}"}).status_code == 200, key
        value = rows[0][key]
        # Puts have no producing task: their columns hold who put them, which their rows say in other words.
        if value not in (None, "") and (noun, key) not in (("objects", "producer"), ("objects", "task_id")):
            found = client.get(f"/api/v1/{noun}", params={"where": f"{key} = {value}", "limit": 1000})
            assert found.status_code == 200 and (isinstance(value, float) or found.json()["total"] >= 1), key


def test_every_page_over_a_recorded_session_is_answered(client, recorded):
    named = [value for name, value in vars(recorded).items() if isinstance(value, bytes)]
    paths = ["/", "/_overview", "/_ledger", "/ledger", *(f"/{noun}" for noun in LIST_PAGES)]
    paths += [f"/story/{identifier.hex()}" for identifier in named]
    paths += [f"/tasks/{value.hex()}" for name, value in vars(recorded).items() if name.endswith("_task")]
    for path in paths:
        assert client.get(path).status_code == 200, path


def test_counts_on_the_pages_are_the_counts_of_the_run(client, recorded):
    for state, number in (
        ("FINISHED", recorded.finished),
        ("FAILED", recorded.failed),
        ("CANCELLED", recorded.cancelled),
    ):
        assert client.get("/api/v1/tasks", params={"state": state}).json()["total"] == number
    assert client.get("/api/v1/tasks").json()["total"] == recorded.submitted
    tasks = client.get("/api/v1/ledger").json()["tasks"]
    assert tasks["pending"] == recorded.pending and tasks["balance_ok"]


@pytest.mark.parametrize(
    "column", ["name", "run_seconds", "queue_seconds", "total_seconds", "submitted_at_ns", "state"]
)
@pytest.mark.parametrize("sign", ["", "-"])
def test_pages_put_together_are_the_whole_list_in_order(client, recorded, column, sign):
    found: list[Any] = []
    for offset in range(0, recorded.submitted, 64):
        page = client.get("/api/v1/tasks", params={"sort": sign + column, "limit": 64, "offset": offset}).json()
        assert page["total"] == recorded.submitted
        found += page["rows"]
    assert len({row["task_id"] for row in found}) == recorded.submitted
    # What is not over has times that still grow, and stands at the end.
    known = [row[column] for row in found if row[column] is not None and row["ended_at_ns"]]
    assert known == sorted(known, reverse=bool(sign))


def test_a_killed_workers_task_shows_both_attempts(client, recorded):
    html = client.get(f"/tasks/{recorded.killed_task.hex()}").text
    assert "worker died" in html and "killed by signal 9" in html and recorded.killed_worker.hex() in html


def test_pending_tasks_say_why(client, recorded):
    assert "CPU: 1 wanted, 0 of 2 free" in client.get(f"/tasks/{recorded.queued_task.hex()}").text
    assert "the result of long_wait" in client.get(f"/tasks/{recorded.waiting_task.hex()}").text


def test_a_put_leads_to_its_story_because_no_task_made_it(client, recorded):
    html = client.get("/objects").text
    assert f"/story/{recorded.put_object[:16].hex()}" in html and f"/tasks/{recorded.put_object[:16].hex()}" not in html


def test_analyses_are_answered_for_programs(client, recorded):
    ask = lambda path, **given: client.get(f"/api/v1/{path}", params=given)  # noqa: E731
    waiting = ask(f"why/{recorded.waiting_task.hex()}").json()
    assert waiting["code"] == "WAIT_ARGUMENTS" and waiting["chain"][1]["name"] == "long_wait"
    assert ask(f"why/{recorded.waiting_group.hex()}").json()["noun"] == "placement_group"
    assert ask("books").json()["error_ratio"] <= 0.01 and ask("books", job="1").json()["job_id"] == "00000001"
    assert ask("critical-path").json()["path"] and ask("memory").json()["objects"] > 0
    (scenario,) = ask("what-if", workers="2", function="matrix=3", rough="1").json()["scenarios"]
    assert scenario["change"] == "2 x workers, matrix 3 x faster"
    assert ask("stragglers", job="1").json()["tasks"] > 0
    assert ask("different", where="state = FAILED").json()["selected"] == recorded.failed
    assert "failed" in client.get(f"/tasks/{recorded.failed_task.hex()}").text


@pytest.mark.parametrize(
    ("path", "status"),
    [("why/ffffffffffffffff", 404), ("why/zz", 400), ("books?job=77", 404), ("books?job=x", 400), ("books?x=1", 400),
     ("what-if?workers=0", 400), ("what-if?function=f", 400), ("what-if?function=nobody=2", 400), ("different", 400),
     ("different?where=colour=red", 400), ("different?where=name=nobody", 404), ("memory?x=1", 400)],
)  # fmt: skip
def test_analyses_that_cannot_be_are_refused_with_the_reason(client, path, status):
    answer = client.get(f"/api/v1/{path}")
    assert answer.status_code == status and answer.json()["detail"]
