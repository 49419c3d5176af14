"""Pages and answers about profiles, hangs and dead processes, over a session written record by record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from starlette.testclient import TestClient

from obsray.dashboard.app import create_app
from obsray.dashboard.source import Source
from obsray.telemetry.events import DeathCause
from tests.unit.telemetry.scenes import NS, Scene

TOKEN = "5a" * 32
PORT = 8265


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Two functions that were sampled, two actors that wait for each other, a worker that died."""
    made = Scene(tmp_path / "s_pages")
    worker = made.worker()
    ring = made.rings[worker]
    for number in range(10):
        task = made.run("load", worker, seconds=2.0 if number == 9 else 0.1)
        for stack, seconds in (
            ("load (w.py:1)\nparse (w.py:5)", 0.1),
            ("load (w.py:2)\n<fetch> (w.py:7)", 0.1 * number),
        ):
            ring.stack_sampled(
                made.tick(), task, 0, ring.intern("load"), ring.intern(stack), 0, 3, seconds, 0.05, 1 << 20
            )
    made.die(worker, DeathCause.SIGNAL, text="it was killed")
    (a, on_a), (b, on_b) = made.actor("A"), made.actor("B")
    for actor, on, name, other, wanted in ((a, on_a, "A.m", b, "B.n"), (b, on_b, "B.p", a, "A.q")):
        call = made.call(actor, name)
        made.dispatch(call, on, "")
        made.start(call, on, actor=actor)
        made.block(call, on, made.result(made.call(other, wanted)))
    made.dead = worker.hex()  # type: ignore[attr-defined]
    return made


@pytest.fixture
def client(scene: Scene) -> Iterator[TestClient]:
    view = scene.views()
    with (
        mock.patch.object(view.store, "is_live", lambda: True),
        mock.patch.object(view, "now_ns", lambda: scene.now + 10 * NS),
        mock.patch.object(view.store, "running", list),
        TestClient(
            create_app(Source(scene.directory, lambda _: view), TOKEN, PORT), base_url=f"http://127.0.0.1:{PORT}"
        ) as made,
    ):
        made.headers["authorization"] = f"Bearer {TOKEN}"
        yield made


def test_the_flame_graph_of_a_function_is_a_page(client: TestClient) -> None:
    text = client.get("/profile", params={"function": "load"}).text
    assert 'class="flame"' in text and "parse (w.py)" in text and "&lt;fetch&gt; (w.py)" in text
    assert "/static/flame.js" in text and "<fetch>" not in text
    assert "parse (w.py:5)" in client.get("/profile", params={"lines": "1"}).text
    compared = client.get("/profile", params={"function": "load", "show": "slow_vs_fast"}).text
    assert "Red: slow tasks spend more there" in compared and "1 tasks that ran" in compared


def test_a_profile_that_cannot_be_says_why(client: TestClient) -> None:
    assert "no task is called" in client.get("/profile", params={"function": "nope"}).text
    assert client.get("/profile", params={"show": "sideways"}).status_code == 400
    assert client.get("/api/v1/profile", params={"function": "nope"}).status_code == 404
    assert client.get("/api/v1/profile", params={"format": "xml"}).status_code == 400
    assert client.get("/api/v1/profile", params={"colour": "red"}).status_code == 400


def test_profiles_are_answered_in_three_formats(client: TestClient) -> None:
    found = client.get("/api/v1/profile", params={"function": "load"}).json()
    assert found["tasks"] == 10 and found["stacks"][0]["frames"][-1] == "<fetch> (w.py:7)"
    speedscope = client.get("/api/v1/profile", params={"format": "speedscope"}).json()
    assert speedscope["profiles"][0]["type"] == "sampled"
    assert client.get("/api/v1/profile", params={"format": "collapsed"}).text.startswith(
        "load (w.py:2);<fetch> (w.py:7) "
    )


def test_functions_and_tasks_lead_to_their_flame_graph(client: TestClient) -> None:
    assert "/profile?function=load" in client.get("/functions").text
    task = client.get("/api/v1/tasks?limit=1").json()["rows"][0]["task_id"]
    assert f"/profile?id={task}" in client.get(f"/tasks/{task}").text


def test_a_cycle_of_waits_is_drawn(client: TestClient) -> None:
    text = client.get("/hangs").text
    assert 'class="waits"' in text and "A.m" in text and "none of them can ever go on" in text
    (hang,) = client.get("/api/v1/hangs").json()["hangs"]
    assert hang["kind"] == "cycle" and len(hang["members"]) == 4


def test_what_is_left_of_a_worker_is_answered(scene: Scene, client: TestClient) -> None:
    found = client.get(f"/api/v1/post-mortem/{scene.dead}").json()  # type: ignore[attr-defined]
    assert "was killed by signal 9 (SIGKILL)" in found["sentence"] and found["cause"]["error"] == "it was killed"
    assert client.get("/api/v1/post-mortem/abcdabcdabcdabcd").status_code == 404
