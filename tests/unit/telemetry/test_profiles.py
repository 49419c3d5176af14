"""Profiles: what samples say about functions, tasks and the difference between slow and fast ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from obsray.dashboard import flame
from obsray.export import profiles as exported
from obsray.telemetry.answers.profile import collapsed, tree
from tests.unit.telemetry.scenes import Scene

PARSE = "load (work.py:3)\nparse (work.py:7)"
WAIT = "load (work.py:4)\nfetch (work.py:9)"


def sample(
    scene: Scene,
    worker: bytes,
    task: bytes,
    stack: str,
    seconds: float,
    cpu: float = 0.0,
    count: int = 5,
    memory: int = 0,
) -> None:
    ring, name = scene.rings[worker], scene._names[task][0] if task in scene._names else "(driver)"
    ring.stack_sampled(scene.tick(), task, 0, ring.intern(name), ring.intern(stack), 0, count, seconds, cpu, memory)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Ten fast tasks that parse for 0.1 s, one slow one that also waits for 2 s."""
    made = Scene(tmp_path / "s_profile")
    worker = made.worker()
    for _ in range(10):
        task = made.run("load", worker, seconds=0.1)
        sample(made, worker, task, PARSE, 0.1, 0.1)
    slow = made.run("load", worker, seconds=2.1)
    sample(made, worker, slow, PARSE, 0.1, 0.1)
    sample(made, worker, slow, WAIT, 2.0)
    other = made.run("other", worker, seconds=1.0)
    sample(made, worker, other, "other (work.py:20)", 1.0, 1.0)
    made.slow = slow  # type: ignore[attr-defined]
    return made


def test_a_function_is_the_sum_of_its_samples(scene: Scene) -> None:
    found = scene.views().profile("load")
    assert found["tasks"] == 11 and found["samples"] == 60
    assert found["seconds"] == pytest.approx(3.1, rel=1e-3) and found["cpu_seconds"] == pytest.approx(1.1, rel=1e-3)
    assert [stack["frames"] for stack in found["stacks"]] == [WAIT.split("\n"), PARSE.split("\n")]
    assert found["lines"][0]["line"] == "fetch (work.py:9)"
    root = tree(found)
    # Lines of one function are one box unless they are to be told apart.
    (load,) = root.sorted()
    assert load.name == "load (work.py)" and load.total == pytest.approx(3.1, rel=1e-3)
    assert [child.name for child in load.sorted()] == ["fetch (work.py)", "parse (work.py)"]
    assert len(tree(found, lines=True).children) == 2
    assert tree(found, cpu=True).total == pytest.approx(1.1, rel=1e-3)


def test_slow_tasks_are_compared_with_fast_ones(scene: Scene) -> None:
    found = scene.views().profile("load", slow_vs_fast=True)
    sides = found["slow_vs_fast"]
    assert (sides["slow_tasks"], sides["fast_tasks"]) == (1, 10)
    assert any("only 10 samples of slow tasks" in note for note in sides["notes"])
    by_leaf = {stack["frames"][-1]: stack for stack in found["stacks"]}
    assert by_leaf["fetch (work.py:9)"]["slow_seconds"] == pytest.approx(2.0, rel=1e-3)
    assert by_leaf["fetch (work.py:9)"]["fast_seconds"] == 0
    parse = by_leaf["parse (work.py:7)"]
    assert parse["slow_seconds"] == pytest.approx(parse["fast_seconds"], rel=1e-3)
    drawing, _ = flame.svg(tree(found), compared=True)
    assert "fetch (work.py)" in drawing and "slow tasks" in drawing


def test_one_task_an_actor_and_a_worker_can_be_asked_for(scene: Scene) -> None:
    view = scene.views()
    assert view.profile(thing=scene.slow.hex())["seconds"] == pytest.approx(2.1, rel=1e-3)  # type: ignore[attr-defined]
    worker = next(process for process in scene.rings if process[0] > 100)
    assert {row["function"] for row in view.profile(thing=worker.hex())["functions"]} == {"load", "other"}


def test_the_calls_of_an_actor_are_its_profile(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "s_actor")
    actor, worker = scene.actor()
    call = scene.call(actor, "Counter.add")
    scene.start(call, worker, actor=actor)
    sample(scene, worker, call, "Counter.add (work.py:2)", 0.5)
    assert scene.views().profile(thing=actor.hex())["seconds"] == pytest.approx(0.5)


def test_what_has_no_samples_says_why(scene: Scene, tmp_path: Path) -> None:
    view = scene.views()
    with pytest.raises(LookupError, match="no task is called 'loa'; there are load"):
        view.profile("loa")
    with pytest.raises(LookupError, match="at least 4"):
        view.profile("other", slow_vs_fast=True)
    with pytest.raises(LookupError, match="which function"):
        view.profile(slow_vs_fast=True)
    with pytest.raises(ValueError, match="no id"):
        view.profile(thing="abcd")
    with pytest.raises(LookupError, match="nothing was sampled"):
        Scene(tmp_path / "s_empty").views().profile()


def test_too_many_stacks_are_said(scene: Scene) -> None:
    worker = next(process for process in scene.rings if process[0] > 100)
    scene.rings[worker].stacks_overflowed(scene.tick(), worker, 4096, 1)
    (note,) = scene.views().profile("load")["notes"]
    assert "more than 4096 different stacks" in note


def test_profiles_travel_to_other_programs(scene: Scene) -> None:
    found = scene.views().profile("load")
    assert collapsed(found).splitlines()[0] == "load (work.py:4);fetch (work.py:9) 2000000"
    document = json.loads(exported.write(found))
    (profile,) = document["profiles"]
    assert profile["type"] == "sampled" and sum(profile["weights"]) == pytest.approx(profile["endValue"])
    frames = document["shared"]["frames"]
    assert [frames[number]["name"] for number in profile["samples"][0]] == ["load", "fetch"]
    assert frames[profile["samples"][0][1]] == {"name": "fetch", "file": "work.py", "line": 9}


def test_a_hostile_name_stays_text_in_the_drawing(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "s_hostile")
    worker = scene.worker()
    task = scene.run("load", worker)
    sample(scene, worker, task, "<script>alert(1)</script> (x.py:1)", 1.0)
    page = flame.standalone(scene.views().profile())
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
