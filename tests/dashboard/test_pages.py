"""What the pages and their JSON twins show, over rows that are known exactly."""

from __future__ import annotations

import json
import re
from html import unescape
from urllib.parse import parse_qs, urlsplit

import pytest
from fake_views import HOSTILE, OWNER, PORT, TOKEN, FakeViews, task_id, worker_id
from starlette.testclient import TestClient

from obsray.dashboard.app import create_app
from obsray.dashboard.pages import LIST_PAGES, STOP_POLLING
from obsray.dashboard.source import Busy, Source

PAGES = ["/", "/ledger", f"/tasks/{task_id(3)}", f"/story/{worker_id(1)}", *(f"/{noun}" for noun in LIST_PAGES)]
FRAGMENT = {"hx-request": "true"}


def ids_in(html: str) -> list[str]:
    """Ids of the tasks in a table, in order."""
    return re.findall(r'<td class="rank1"><a class="id" href="/tasks/([0-9a-f]{32})"', html)


def link(html: str, rel: str) -> str:
    found = re.search(rf'rel="{rel}" href="([^"]+)"', html)
    assert found, rel
    return unescape(found[1])


@pytest.mark.parametrize("path", PAGES)
def test_every_page_names_the_session_and_shows_the_loss_ledger(client, session_directory, path):
    html = client.get(path).text
    assert session_directory.name in html
    assert 'hx-get="/_ledger"' in html and "<footer" in html


@pytest.mark.parametrize("path", [*PAGES, "/_overview", "/_ledger", f"/tasks/{task_id(7)}", f"/story/{task_id(7)}"])
def test_user_text_never_becomes_markup(client, path):
    for headers in ({}, FRAGMENT):
        html = client.get(path, headers=headers).text
        assert "<script>" not in html and "\x1b" not in html and "\u202e" not in html and "\x07" not in html


def test_a_hostile_name_is_readable_as_what_it_is(client):
    html = client.get("/tasks", params={"where": "name contains alert"}).text
    assert ids_in(html) == [task_id(7)]
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in html


def test_parameters_come_back_as_text(client):
    wish = '"><script>alert(1)</script>'
    for path in ("/tasks", "/actors"):
        html = client.get(path, params={"name": wish}).text
        assert "<script>alert" not in html and "&gt;&lt;script&gt;" in html
    html = client.get("/tasks", params={"where": wish}).text
    assert "<script>alert" not in html and "is not" in html


def test_a_page_of_tasks_knows_how_many_there_are_in_all(client):
    html = client.get("/tasks").text
    assert "<b>1,000</b> tasks, showing 1–50" in html
    assert ids_in(html) == [task_id(number) for number in range(999, 949, -1)]


def test_paging_visits_every_task_once(client):
    address, seen = "/tasks?limit=200", []
    while True:
        html = client.get(address).text
        seen += ids_in(html)
        if 'rel="next"' not in html:
            break
        address = link(html, "next")
    assert sorted(seen) == [task_id(number) for number in range(1000)]


def test_filter_sort_and_page_stay_in_every_link(client):
    html = client.get("/tasks?state=FINISHED&where=run_seconds+%3E+1ms&sort=-run_seconds&limit=50").text
    asked = parse_qs(urlsplit(link(html, "next")).query)
    assert asked == {
        "state": ["FINISHED"],
        "where": ["run_seconds > 1ms"],
        "sort": ["-run_seconds"],
        "limit": ["50"],
        "offset": ["50"],
    }
    again = client.get(link(html, "next")).text
    assert link(again, "prev") == "/tasks?state=FINISHED&where=run_seconds+%3E+1ms&sort=-run_seconds&limit=50&offset=0"


@pytest.mark.parametrize("column", ["name", "run_seconds", "queue_seconds", "submitted_at_ns", "result_bytes"])
@pytest.mark.parametrize("sign", ["", "-"])
def test_any_column_sorts_both_ways_over_the_whole_session(client, views, column, sign):
    found = client.get("/api/v1/tasks", params={"sort": sign + column, "limit": 1000}).json()["rows"]
    values = [row[column] for row in found if row[column] is not None]
    assert values == sorted(values, reverse=bool(sign))
    assert len(found) == 1000
    # What is not known comes last in either direction.
    assert all(row[column] is None for row in found[len(values) :])


def test_the_title_of_the_sorted_column_says_so_and_turns_it_round(client):
    html = client.get("/tasks?sort=run_seconds").text
    assert re.search(r'aria-sort="ascending"><a href="/tasks\?sort=-run_seconds"', html)


@pytest.mark.parametrize(
    ("parameters", "holds"),
    [
        ({"state": "FAILED"}, lambda row: row["state"] == "FAILED"),
        ({"name": "TRAIN"}, lambda row: "train" in row["name"]),
        ({"worker": "0101"}, lambda row: row["worker_id"] == worker_id(1)),
        ({"where": "run_seconds > 20ms"}, lambda row: (row["run_seconds"] or 0) > 0.02),
        ({"where": "result_bytes >= 2MiB"}, lambda row: row["result_bytes"] >= 2 << 20),
        ({"where": "state in FAILED, CANCELLED"}, lambda row: row["state"] in ("FAILED", "CANCELLED")),
        (
            {"where": "state != FINISHED", "name": "merge"},
            lambda row: row["state"] != "FINISHED" and row["name"] == "merge",
        ),
        ({"where": ["run_seconds > 1ms", "run_seconds < 2ms"]}, lambda row: 0.001 < (row["run_seconds"] or 0) < 0.002),
        ({"job": "2"}, lambda row: False),
    ],
)
def test_filters_are_applied_before_the_page_is_cut(client, views, parameters, holds):
    wanted = sum(map(holds, views.rows))
    found = client.get("/api/v1/tasks", params={**parameters, "limit": 10}).json()
    assert found["total"] == wanted and len(found["rows"]) == min(10, wanted)
    assert all(map(holds, found["rows"]))


@pytest.mark.parametrize(
    "parameters",
    [
        {"sort": "nonsense"},
        {"sort": "--name"},
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "many"},
        {"offset": "-1"},
        {"offset": str(1 << 70)},
        {"where": "name"},
        {"where": "nonsense = 1"},
        {"where": "run_seconds > soon"},
        {"where": "run_seconds > 1e999"},
        {"where": "attempt = 99999999999999999999"},
        {"where": "x" * 300},
        {"where": ["state = FAILED"] * 9},
        {"where": "state in " + ",".join("ab" for _ in range(40))},
        {"nonsense": "1"},
        {"where": "__class__ = 1"},
    ],
    ids=str,
)
def test_questions_that_make_no_sense_are_answered_with_what_would(client, parameters):
    answer = client.get("/api/v1/tasks", params=parameters)
    assert answer.status_code == 400 and len(answer.json()["detail"]) > 15
    assert client.get("/tasks", params=parameters).status_code == 400
    # htmx swaps successful answers only, and the reason must be seen where it was typed.
    fragment = client.get("/tasks", params=parameters, headers=FRAGMENT)
    assert fragment.status_code == 200 and 'role="alert"' in fragment.text and "<html" not in fragment.text


def test_a_task_page_shows_where_the_time_went(client, views):
    html = client.get(f"/tasks/{task_id(13)}").text
    for part in (
        "waiting for arguments",
        "queued",
        "dispatch",
        "fetch arguments",
        "deserialise",
        "run",
        "blocked in get",
        "store result",
    ):
        assert f"{part}</th>" in html
    assert "no free CPU: 4 of 4 held by train_step" in html
    widths = [float(width) for width in re.findall(r'<rect class="part-\w+" x="[\d.]+%" width="([\d.]+)%"', html)]
    assert len(widths) == 7 and 99 < sum(widths) < 103
    assert "ValueError: shard 13 is empty" in html and "Traceback" in html


def test_a_task_page_tells_the_story_and_leads_on(client):
    html = client.get(f"/tasks/{task_id(13)}").text
    assert "waits for the result of load_shard" in html
    for other in (task_id(0), task_id(1), worker_id(2)):
        assert other in html
    assert f"/tasks?where=parent_task_id%3D{task_id(13)}" in html and "25 tasks" in html


def test_a_waiting_task_says_why_in_one_sentence(client, views):
    waiting = next(row for row in views.rows if row["state"] == "PENDING_NODE_ASSIGNMENT")
    assert "4 of 4 are held by train_step" in client.get(f"/tasks/{waiting['task_id']}").text


def test_a_page_stops_asking_when_nothing_can_change_any_more(client, views):
    ended = next(row for row in views.rows if row["state"] == "FINISHED")["task_id"]
    running = next(row for row in views.rows if row["state"] == "RUNNING")["task_id"]
    assert client.get(f"/tasks/{ended}", headers=FRAGMENT).status_code == STOP_POLLING
    assert client.get(f"/tasks/{running}", headers=FRAGMENT).status_code == 200
    assert 'hx-trigger="every 1s"' in client.get(f"/tasks/{running}").text
    assert 'hx-trigger="every 1s"' not in client.get(f"/tasks/{ended}").text


def test_a_recorded_session_is_shown_as_such_and_never_polled(views, session_directory):
    (session_directory / "session.json").write_text('{"session": "old", "node_pid": 4194305}')
    app = create_app(Source(session_directory, lambda _: views), TOKEN, PORT)
    with TestClient(app, base_url=f"http://127.0.0.1:{PORT}", headers={"authorization": f"Bearer {TOKEN}"}) as client:
        assert client.get("/_overview").status_code == STOP_POLLING
        html = client.get("/").text
        assert "recorded" in html and "every 1s" not in html and "every 2s" not in html


def test_the_overview_counts_every_task(client, views):
    html = client.get("/").text
    assert "<p>1,000</p>" in html
    for state in {row["state"] for row in views.rows}:
        number = sum(row["state"] == state for row in views.rows)
        assert re.search(rf'href="/tasks\?state={state}".*?<td class="n">{number:,}</td>', html, re.DOTALL)


def test_the_overview_says_what_stands_still_and_what_helps(client, views, monkeypatch):
    halt = {
        "node_id": "09" * 8, "pid": 71, "name": "worker", "worker_id": "07" * 8, "why": HOSTILE, "label": "worker 7",
        "halted_at_ns": 1_800_000_000_000_000_000, "fix": f"`kill -CONT 71` has it go on, `{HOSTILE}` not",
    }  # fmt: skip
    real = views.overview
    monkeypatch.setattr(views, "overview", lambda refresh=True: {**real(refresh), "halts": [halt]})
    html = client.get("/").text
    assert (
        "What stands still" in html
        and "<code>kill -CONT 71</code> has it go on, <code>" in html
        and "worker 7" in html
        and HOSTILE not in html
    )


def test_the_chart_gets_its_numbers_as_data(client):
    html = client.get("/_overview").text
    found = re.search(r'id="series" hidden data-series="([^"]+)"', html)
    times, submitted, finished = json.loads(unescape(found[1])) if found else ([], [], [])
    assert len(times) == len(submitted) == len(finished) == 60


@pytest.mark.parametrize(
    "path", ["/nope", "/tasks/" + "0" * 32, "/story/" + "0" * 16, "/api/v2/tasks", "/static/nope.js"]
)
def test_what_is_not_there_is_a_404_that_says_where_to_go(client, path):
    answer = client.get(path)
    assert answer.status_code == 404
    if path.startswith("/api"):
        assert set(answer.json()) == {"error", "detail"}
    else:
        assert 'href="/tasks"' in answer.text


@pytest.mark.parametrize("path", ["/tasks/xyz", "/tasks/0", "/story/" + "0" * 41, "/tasks/%3Cscript%3E"])
def test_what_is_no_id_is_said_to_be_none(client, path):
    answer = client.get(path)
    assert answer.status_code == 400 and "hex digits" in answer.text and "<script>" not in answer.text


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (task_id(3), f"/tasks/{task_id(3)}"),
        (task_id(3).upper(), f"/tasks/{task_id(3)}"),
        (f"{OWNER[:8]}:3", f"/tasks/{task_id(3)}"),
        (worker_id(2), f"/story/{worker_id(2)}"),
        (f"{OWNER[:8]}:a1", f"/story/{OWNER}0200000000000001"),
        ("train_step", "/tasks?name=train_step"),
        ("a&b=c", "/tasks?name=a%26b%3Dc"),
        ("//evil.test", "/tasks?name=%2F%2Fevil.test"),
        ("deadbeef", "/tasks?name=deadbeef"),
        (OWNER[:8], f"/tasks?name={OWNER[:8]}"),
        ("", "/tasks"),
    ],
)
def test_the_search_field_understands_ids_and_names(client, text, place):
    assert client.get("/find", params={"q": text}).headers["location"] == place


@pytest.mark.parametrize(
    "noun", ["overview", "ledger", "tasks", "actors", "objects", "workers", "nodes", "jobs", "functions"]
)
def test_every_page_has_a_twin_in_json(client, noun):
    answer = client.get(f"/api/v1/{noun}")
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/json"
    if noun not in ("overview", "ledger"):
        assert {"rows", "total", "limit", "offset"} <= set(answer.json())


def test_the_twin_of_a_task_has_its_parts_and_its_story_is_beside_it(client):
    task = client.get(f"/api/v1/tasks/{task_id(13)}").json()
    assert task["task_id"] == task_id(13) and task["time_split"][0]["what"] == "waiting for arguments"
    assert len(client.get(f"/api/v1/story/{task_id(13)}").json()["events"]) == 6
    assert client.get(f"/api/v1/tasks/{'0' * 32}").status_code == 404


def test_numbers_that_are_none_are_null_in_json(client, views):
    views.rows[0]["run_seconds"] = float("nan")
    found = client.get("/api/v1/tasks", params={"where": f"task_id={task_id(0)}"}).json()
    assert found["rows"][0]["run_seconds"] is None


def test_a_crowd_is_told_to_come_back(client, monkeypatch):
    async def full(*_: object, **__: object) -> None:
        raise Busy("64 questions are waiting")

    monkeypatch.setattr(Source, "ask", full)
    answer = client.get("/tasks")
    assert answer.status_code == 503 and answer.headers["retry-after"] == "1"


def test_a_broken_view_is_reported_without_its_insides(session_directory):
    class Broken(FakeViews):
        def overview(self, refresh=True):
            raise RuntimeError(f"secret {HOSTILE}")

    app = create_app(Source(session_directory, lambda _: Broken(10)), TOKEN, PORT)
    client = TestClient(
        app,
        base_url=f"http://127.0.0.1:{PORT}",
        headers={"authorization": f"Bearer {TOKEN}"},
        raise_server_exceptions=False,
    )
    answer = client.get("/")
    assert answer.status_code == 500 and "secret" not in answer.text and "RuntimeError" in answer.text


def test_changes_that_are_not_foretold_are_rows_below_their_reason(client, views, monkeypatch):
    found = views.what_if()
    found["refused"] = [{"change": f"{n} x workers", "why": "disks are shared", "rough": True} for n in (2, 4)]
    monkeypatch.setattr(views, "what_if", lambda *_, **__: found)
    html = client.get("/what-if", headers=FRAGMENT).text
    assert re.findall(r'<th scope="row">(\d x workers)</th>.*no number', html) == ["2 x workers", "4 x workers"]
    assert html.count("disks are shared") == 1 and "for a guess tick" in html
