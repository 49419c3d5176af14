"""Pages of the analyses, over a session whose functions are called as nobody should call them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from fake_views import HOSTILE, PORT, TOKEN
from starlette.testclient import TestClient

from obsray.dashboard.analyses import PAGES, sessions_beside
from obsray.dashboard.app import create_app
from obsray.dashboard.source import Source
from obsray.telemetry.events import WaitKind
from tests.unit.telemetry.scenes import NS, Scene

PATHS = [path for path, _, _ in PAGES]


def recorded(directory: Path, seconds: float) -> None:
    """Ten runs of one function on two workers, one of them long, and a put."""
    scene = Scene(directory)
    scene.resources(CPU=2.0)
    there = [scene.worker(), scene.worker()]
    scene.tick(0.1)
    tasks = [scene.submit(HOSTILE) for _ in range(10)]
    began = scene.now
    for number in range(0, 10, 2):
        now = scene.now
        for worker, task in zip(there, tasks[number : number + 2], strict=True):
            scene.now = now
            scene.dispatch(task, worker)
            scene.end(task, worker, 10 * seconds if task == tasks[4] else seconds, dispatched=scene.now)
    waited = (scene.now - began) / NS
    scene.driver.process_waited(scene.tick(), int(WaitKind.GET), 10, scene.result(tasks[0]), waited)
    scene.views()


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("sessions")
    recorded(parent / "s_0101_000000_1", 1.0)
    recorded(parent / "s_0101_000000_2", 2.0)
    return parent


@pytest.fixture(scope="module")
def client(sessions: Path) -> Iterator[TestClient]:
    app = create_app(Source(sessions / "s_0101_000000_2"), TOKEN, PORT)
    headers = {"authorization": f"Bearer {TOKEN}"}
    with TestClient(app, base_url=f"http://127.0.0.1:{PORT}", headers=headers, follow_redirects=False) as client:
        yield client


def page(client: TestClient, address: str, status: int = 200) -> str:
    answer = client.get(address)
    assert answer.status_code == status, answer.text[-2000:]
    return answer.text


def text_of(html: str) -> str:
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)))


@pytest.mark.parametrize("path", PATHS)
def test_every_analysis_is_a_page_that_leads_to_the_others(client, path):
    html = page(client, path)
    assert all(f'href="{other}' in html for other in PATHS)
    assert "<script>" not in html and "\x1b" not in html and "\u202e" not in html and "\x07" not in html


@pytest.mark.parametrize("path", PATHS[:4])
def test_a_job_without_tasks_is_said_on_the_page(client, path):
    if path == "/stragglers":
        assert "0 of 0 tasks" in text_of(page(client, f"{path}?job=00000077"))
    else:
        assert "no job 00000077" in text_of(page(client, f"{path}?job=00000077"))
    page(client, f"{path}?job=nonsense", 400)
    page(client, f"{path}?unheard=1", 400)


def test_books_are_drawn_per_worker_and_answer_whether_more_workers_would_help(client):
    html = page(client, "/books?job=00000001")
    said = text_of(html)
    assert "Would more workers help?" in said and "run on CPU" in said
    assert html.count('<div class="lane">') == 2 and '<svg class="stack"' in html
    over = client.get("/api/v1/books?over_time=1").json()["over_time"]
    assert len(over["workers"]) == 2 and over["pieces"] and "over_time" not in client.get("/api/v1/books").json()
    assert re.search(r"Not accounted for 0\.\d\d %", said)


def test_the_critical_path_is_a_picture_whose_pieces_are_links_to_their_tasks(client):
    html = page(client, "/critical-path?job=00000001")
    assert re.search(r'<a href="/tasks/[0-9a-f]{32}"><rect class="act-cpu" x="[\d.]+%" width="[\d.]+%"', html)
    assert "slack" in text_of(html)


def test_what_if_answers_a_form_and_htmx_gets_the_answer_alone(client):
    whole = page(client, "/what-if?job=00000001")
    assert "The usual changes, best first" in whole and 'hx-get="/what-if"' in whole
    part = client.get("/what-if?job=00000001&workers=2&driver=1", headers={"hx-request": "true"}).text
    assert "<html" not in part and "2 x workers" in part and "% off" in text_of(part)
    page(client, "/what-if?workers=0", 400)
    page(client, "/what-if?function=unheard&function_factor=2", 400)


def test_stragglers_lead_to_their_task_and_to_what_is_different(client):
    html = page(client, "/stragglers")
    assert re.search(r'href="/tasks/[0-9a-f]{32}"', html) and 'href="/different?where=run_seconds' in html


def test_differences_are_asked_for_by_conditions(client):
    assert "Which tasks?" in page(client, "/different")
    assert "10 tasks" not in page(client, "/different?where=run_seconds+%3E+5s")
    assert "no task fulfils" in text_of(page(client, "/different?where=run_seconds+%3E+5000s"))
    page(client, "/different?where=nonsense", 400)


def test_two_sessions_are_compared_and_only_neighbours_may_be(client, sessions):
    html = page(client, "/compare?before=s_0101_000000_1")
    assert "slower" in text_of(html) or "same" in text_of(html)
    for outside in ("..", "/etc", "../sessions/s_0101_000000_1", "s_0101_000000_2"):
        assert client.get("/compare", params={"before": outside}).status_code == 404
    page(client, "/compare?before=s_0101_000000_1&threshold=much", 400)
    assert sessions_beside(sessions / "s_0101_000000_2") == ["s_0101_000000_1"]


def test_jobs_functions_and_tasks_lead_to_the_analyses(client):
    assert 'href="/books?job=00000001"' in page(client, "/jobs")
    assert 'href="/different?where=run_seconds' in page(client, "/functions")
    task = re.search(r'href="(/tasks/[0-9a-f]{32})"', page(client, "/tasks"))
    assert task and 'href="/critical-path?job=00000001"' in page(client, task[1])
