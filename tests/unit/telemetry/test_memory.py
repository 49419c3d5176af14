"""What fills the object store is told by who made it, and what looks leaked is named."""

from __future__ import annotations

import json

import pytest

from obsray import ids
from obsray.cli import command
from obsray.telemetry.events import DeathCause
from tests.unit.telemetry.scenes import NS, Scene


def free(scene: Scene, identifier: bytes, size: int) -> None:
    scene.node.object_freed(scene.tick(), identifier, size, 1.0)


def put(scene: Scene, size: int, site: str = "train.py:30", owner: bytes | None = None) -> bytes:
    return scene.put(size, owner, site=site)


def test_live_bytes_are_summed_by_call_site_function_job_owner_and_age(tmp_path):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    kept = [put(scene, 10**6) for _ in range(3)]
    other = put(scene, 5 * 10**6, "load.py:7")
    task = scene.run("make", worker, 1.0, result=2 * 10**6)
    scene.node.object_created(scene.tick(), ids.object_id(task), worker, 2 * 10**6, 0.0)
    scene.node.object_sealed(scene.tick(), ids.object_id(task), worker, 2 * 10**6)
    gone = put(scene, 10**9)
    free(scene, gone, 10**9)
    scene.node.object_pinned(scene.tick(), other, worker, 5 * 10**6, 0.0)
    scene.tick(20)
    found = scene.views().memory()
    assert (found["objects"], found["bytes"], found["pinned_bytes"]) == (len(kept) + 2, 10 * 10**6, 5 * 10**6)
    assert {row["what"]: row["bytes"] for row in found["by_call_site"]} == {
        "load.py:7": 5 * 10**6, "train.py:30": 3 * 10**6, "result of a task, or not known": 2 * 10**6,
    }  # fmt: skip
    assert {row["what"]: row["bytes"] for row in found["by_function"]} == {
        "put by a driver": 8 * 10**6, "make": 2 * 10**6
    }  # fmt: skip
    assert [row["what"] for row in found["by_job"]] == ["00000001"]
    assert [row["bytes"] for row in found["by_owner"]] == [10 * 10**6]
    assert [row["what"] for row in found["by_age"]] == ["10 s to 1 min"]
    assert found["peak"]["bytes"] == 10**9 + 10 * 10**6


def test_who_keeps_what_alive_is_who_was_given_it_and_has_not_dropped_it(tmp_path):
    scene = Scene(tmp_path / "session")
    first, second, third = scene.worker(), scene.worker(), scene.worker()
    alone, lent, shared = put(scene, 10**6), put(scene, 2 * 10**6), put(scene, 4 * 10**6)
    for identifier, worker in ((lent, first), (shared, first), (shared, second), (alone, second), (alone, third)):
        scene.driver.object_held(scene.tick(), identifier, worker)
    scene.driver.object_let_go(scene.tick(), alone, second)
    scene.die(third, DeathCause.SIGNAL)
    view = scene.views()
    held = {row["what"]: (row["objects"], row["bytes"]) for row in view.memory()["by_holder"]}
    assert held == {
        view.process_label(scene.driver.process): (1, 10**6), view.process_label(first): (2, 6 * 10**6),
        view.process_label(second): (1, 4 * 10**6),
    }  # fmt: skip
    told = [row["text"] for row in view.story(alone.hex())]
    assert any("was given a reference" in text for text in told) and any("dropped its last" in text for text in told)


def leaking(scene: Scene, seconds: float = 1.0) -> None:
    """One place keeps what it puts, one frees it, and one made a few things at the beginning."""
    for _ in range(10):
        put(scene, 10**6, "cache.py:1 in once")
    for _ in range(30):
        put(scene, 10**6, "leak.py:12 in keep")
        free(scene, put(scene, 50 * 10**6, "fine.py:3 in use"), 50 * 10**6)
        scene.tick(seconds)


def test_what_is_put_again_and_again_and_never_freed_is_suspected_and_nothing_else(tmp_path):
    scene = Scene(tmp_path / "session")
    leaking(scene)
    found = scene.views().memory()
    assert [row["what"] for row in found["suspects"]] == ["leak.py:12 in keep"]
    suspect = found["suspects"][0]
    assert (suspect["objects"], suspect["bytes"]) == (30, 30 * 10**6)
    assert suspect["bytes_per_second"] == pytest.approx(10**6, rel=0.1)
    assert "30 of 30 objects were never freed" in suspect["text"] and "leak.py:12" in found["sentence"]


def test_of_a_session_that_is_over_the_moment_before_its_end_is_looked_at(tmp_path):
    scene = Scene(tmp_path / "session")
    kept = [put(scene, 10**6) for _ in range(4)]
    scene.tick(5)
    for identifier in kept:
        free(scene, identifier, 10**6)
    scene.node.job_ended(scene.tick(), 1, scene.driver.process, 0)
    scene.tick(3)
    found = scene.views().memory()
    assert (found["objects"], found["bytes"]) == (4, 4 * 10**6) and "were alive at the end" in found["sentence"]
    assert scene.now - found["at_ns"] > 2 * NS


def test_a_session_without_objects_has_an_answer(tmp_path):
    found = Scene(tmp_path / "session").views().memory()
    assert (found["objects"], found["bytes"], found["suspects"], found["by_age"]) == (0, 0, [], [])


def test_the_command_line_shows_what_fills_the_store(tmp_path, capsys):
    scene = Scene(tmp_path / "session")
    leaking(scene)
    scene.views()
    options = ["--session", str(scene.directory)]
    assert command.main(["memory", *options]) == 0
    said = capsys.readouterr().out
    assert "by call site of put" in said and "suspected leak" in said and "leak.py:12 in keep" in said
    assert command.main(["memory", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["objects"] == 40
