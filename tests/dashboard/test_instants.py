"""Pages and their JSON twins as they were at an instant: what a link of a chart leads to."""

from __future__ import annotations

import json
import re
from collections import Counter
from html import unescape

import pytest
from fake_views import PORT, TOKEN
from starlette.testclient import TestClient

from obsray.dashboard.app import create_app
from obsray.dashboard.pages import LIST_PAGES
from obsray.dashboard.source import Source
from obsray.telemetry import session_file
from obsray.telemetry.moments import said
from obsray.testing.recorded_session import record_session


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    return record_session(tmp_path_factory.mktemp("recorded"), tasks=60, live=False)


@pytest.fixture(scope="module")
def bounds(recorded):
    """The beginning of the session, its middle, and its end, in milliseconds."""
    facts = session_file.read(recorded.directory)
    start, end = (int(facts[name]) // 1_000_000 for name in ("started_at_ns", "stopped_at_ns"))
    return start, (start + end) // 2, end


@pytest.fixture(scope="module")
def client(recorded):
    app = create_app(Source(recorded.directory), TOKEN, PORT)
    with TestClient(app, base_url=f"http://127.0.0.1:{PORT}", headers={"authorization": f"Bearer {TOKEN}"}) as client:
        yield client


def states(client, **parameters):
    answer = client.get("/api/v1/tasks", params={"limit": 1000, **parameters})
    assert answer.status_code == 200, answer.text
    found = json.loads(answer.text)
    return Counter(row["state"] for row in found["rows"]), found


def test_tasks_are_in_the_states_that_they_were_in(client, bounds):
    start, middle, end = bounds
    now, found = states(client)
    assert "at_ns" not in found
    then, found = states(client, at=middle)
    assert found["at_ns"] == middle * 1_000_000
    assert then["FINISHED"] < now["FINISHED"] and then.total() < now.total()
    assert states(client, **{"from": start, "to": middle})[0] == then, "the end of a time that is shown"
    assert states(client, at=said(middle * 1_000_000))[0] == then
    after, found = states(client, at=end + 3_600_000)
    assert after == now and found["at_ns"] is None, "later than the end is the end"


@pytest.mark.parametrize("noun", LIST_PAGES)
def test_every_list_says_of_which_instant_it_is(client, bounds, noun):
    _, middle, end = bounds
    html = client.get(f"/{noun}", params={"from": 1, "to": middle}).text
    assert 'class="instant"' in html and "As it was at" in html
    assert "As it is now" in client.get(f"/{noun}", params={"from": middle, "to": end + 10_000}).text
    assert 'class="instant"' not in client.get(f"/{noun}").text


@pytest.mark.parametrize("page", ["/", "/gpus"])
def test_pages_that_live_stand_still_at_an_instant(client, bounds, page):
    _, middle, end = bounds
    html = client.get(page, params={"from": 1, "to": middle}).text
    assert "As it was at" in html and f'<a href="{page}">As it is now</a>' in html
    assert 'hx-trigger="never"' in html, "nothing puts now in its place"
    assert "As it is now: " in client.get(page, params={"to": end + 10_000}).text
    assert 'class="instant"' not in client.get(page).text
    assert client.get(page, params={"at": "yesterday"}).status_code == 400


def test_the_overview_counts_what_there_was(client, bounds):
    _, middle, _ = bounds
    then, _ = states(client, at=middle)
    answer = client.get("/api/v1/overview", params={"at": middle}).json()
    assert answer["at_ns"] == middle * 1_000_000 and answer["tasks_total"] == then.total()
    assert {name: number for name, number in answer["tasks"].items() if number} == then
    assert answer["uptime_seconds"] < client.get("/api/v1/overview").json()["uptime_seconds"]
    html = client.get("/", params={"at": middle}).text
    for state, number in then.items():
        row = rf"/tasks\?state={state}&(?:amp;)?at={middle}000000\".*?<td class=\"n\">{number}</td>"
        assert re.search(row, html, re.DOTALL), state
    assert "at_ns" not in client.get("/api/v1/overview").json()


def test_the_ledger_says_that_it_is_of_now(client, bounds):
    assert "As it is now" in client.get("/ledger", params={"from": 1, "to": bounds[1]}).text
    assert "As it is now" not in client.get("/ledger").text


def test_the_instant_stays_in_links_and_forms_and_can_be_left(client, bounds):
    _, middle, _ = bounds
    html = client.get("/tasks", params={"from": 1, "to": middle, "limit": 50, "state": "FINISHED"}).text
    links = [unescape(link) for link in re.findall(r'href="(/tasks\?[^"]*sort=[^"]*)"', html)]
    assert links and all(f"to={middle}" in link for link in links)
    assert f'<input type="hidden" name="to" value="{middle}">' in html
    (now,) = re.findall(r'<a href="([^"]+)">As it is now</a>', html)
    assert "to=" not in now and "state=FINISHED" in now


@pytest.mark.parametrize("text", ["yesterday", "-1", "<script>", "1e400", "nan"])
def test_what_is_no_moment_is_refused_in_a_sentence(client, text):
    answer = client.get("/api/v1/nodes", params={"at": text})
    assert answer.status_code == 400 and "is no moment" in answer.json()["detail"], answer.text
    page = client.get("/nodes", params={"at": text})
    assert page.status_code == 400 and "<script>" not in page.text


def test_before_the_session_there_is_nothing_to_show(client, bounds):
    answer = client.get("/api/v1/nodes", params={"at": bounds[0] - 10_000})
    assert answer.status_code == 400 and "before the session began" in answer.json()["detail"]
