"""Ray's state API over HTTP, over a recorded session."""

from __future__ import annotations

import os
import threading

import pytest
from fake_views import PORT
from starlette.testclient import TestClient

from obsray.dashboard.app import create_app
from obsray.dashboard.source import Source
from obsray.dashboard.state_api import RESOURCES, SUMMARIES
from obsray.testing.recorded_session import record_session
from obsray.util import state


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    made = record_session(tmp_path_factory.mktemp("sessions") / "s_20260101-000000_8", tasks=200, live=False)
    (made.directory / "token").write_bytes(os.urandom(32))
    (made.directory / "logs").mkdir(exist_ok=True)
    (made.directory / "logs" / f"worker-{made.workers[0].hex()}.out").write_text("one\ntwo\nthree\n")
    return made


@pytest.fixture(scope="module")
def get(recorded):
    token = (recorded.directory / "token").read_bytes().hex()
    app = create_app(Source(recorded.directory), token, PORT)
    with TestClient(app, base_url=f"http://127.0.0.1:{PORT}", headers={"authorization": f"Bearer {token}"}) as client:
        yield lambda path, **parameters: client.get(f"/api/v0/{path}", params=parameters)


@pytest.mark.parametrize("name", RESOURCES)
def test_each_kind_is_listed_as_the_state_api_lists_it(get, recorded, name):
    answer = get(name, limit=3, detail="true").json()
    found = answer["data"]["result"]
    rows = getattr(state, f"list_{name}")(str(recorded.directory), limit=3, detail=True)
    assert answer["result"] is True and answer["msg"] == ""
    assert found["total"] == found["num_filtered"] == rows.total and len(found["result"]) == len(rows) <= 3
    assert [set(row) for row in found["result"]] == [set(row) for row in rows]


@pytest.mark.parametrize("name", SUMMARIES)
def test_each_summary_is_that_of_the_state_api(get, recorded, name):
    found = get(f"{name}/summarize").json()["data"]["result"]
    assert found["result"]["node_id_to_summary"] == getattr(state, f"summarize_{name}")(str(recorded.directory))


def test_lists_are_filtered_sorted_and_paged_by_the_server(get, recorded):
    asked = {
        "filter_keys": ["name", "state"], "filter_predicates": ["=", "!="], "filter_values": ["matrix", "FAILED"],
        "sort": "creation_time_ms", "limit": 4, "detail": "1",
    }  # fmt: skip
    seen, cursor = [], None
    while True:
        found = get("tasks", **asked, **({"cursor": cursor} if cursor else {})).json()["data"]["result"]
        seen += found["result"]
        cursor = found["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == found["total"] > 4
    assert all(row["name"] == "matrix" and row["state"] != "FAILED" for row in seen)
    times = [row["creation_time_ms"] for row in seen]
    assert times == sorted(times) and len({row["task_id"] for row in seen}) == len(seen)


def test_logs_are_listed_and_read(get, recorded):
    worker = recorded.workers[0].hex()
    listed = get("logs", glob="worker-*").json()["data"]["result"]
    assert listed == {"worker_out": [f"worker-{worker}.out"]}
    assert get("logs/file", filename=f"worker-{worker}.out", lines=2).text == "two\nthree\n"
    assert get("logs/stream", filename=f"worker-{worker}.out", lines=-1).text == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("path", "parameters", "status", "said"),
    [
        ("tasks", {"limit": "many"}, 400, "whole number"),
        ("tasks", {"limit": "0"}, 400, ">= 1"),
        ("tasks", {"filter_keys": "name"}, 400, "equally often"),
        ("tasks", {"filter_keys": "colour", "filter_predicates": "=", "filter_values": "red"}, 400, "the keys are"),
        ("tasks", {"detail": "perhaps"}, 400, "true or false"),
        ("tasks", {"colour": "red"}, 400, "parameters:"),
        ("objects/summarize", {"summary_by": "colour"}, 400, "callsite"),
        ("logs/file", {}, 400, "exactly one"),
        ("logs/file", {"filename": "../token"}, 404, "there is no log"),
        ("logs/file", {"filename": "x", "lines": "few"}, 400, "number of lines"),
        ("logs/file", {"filename": "x", "format": "leading_1"}, 400, "format=text"),
        ("tasks", {"timeout": "soon"}, 400, "number of seconds"),
        ("tasks", {"timeout": "0"}, 400, "above 0"),
        ("tasks/summarize", {"timeout": "nan"}, 400, "above 0"),
        ("tasks", {"exclude_driver": "perhaps"}, 400, "true or false"),
        ("logs/tape", {}, 404, "logs/stream"),
        ("logs", {"node_id": "ff" * 8}, 400, "head of its cluster"),
    ],
)
def test_what_cannot_be_answered_says_why_in_the_same_form(get, path, parameters, status, said):
    answer = get(path, **parameters)
    assert answer.status_code == status
    body = answer.json()
    assert body["result"] is False and said in body["msg"] and body["data"] == {"result": None}


def test_an_answer_that_takes_longer_than_the_timeout_says_so_and_later_ones_come(recorded):
    source, held = Source(recorded.directory), threading.Event()
    token = (recorded.directory / "token").read_bytes().hex()
    app = create_app(source, token, PORT)
    with TestClient(app, base_url=f"http://127.0.0.1:{PORT}", headers={"authorization": f"Bearer {token}"}) as client:
        source._thread.submit(held.wait)
        try:
            answer = client.get("/api/v0/tasks", params={"timeout": "0.05"})
            assert answer.status_code == 504 and answer.json()["result"] is False
            assert "no answer within 0.05 s" in answer.json()["msg"]
        finally:
            held.set()
        for timeout in ("60", "-1"):
            assert client.get("/api/v0/tasks", params={"timeout": timeout}).json()["result"] is True


def test_that_there_are_no_tasks_of_programs_is_said_to_whoever_wants_them(get):
    told, silent = (get("tasks", exclude_driver=text).json()["data"]["result"] for text in ("false", "true"))
    assert told["total"] == silent["total"] and silent["warnings"] == []
    assert "no task stands for a program" in told["warnings"][0]
