"""What a job's duration consists of, how much later tasks may end, and what it would have taken otherwise."""

from __future__ import annotations

import json

import pytest

from obsray.cli import command
from obsray.telemetry.answers import replay_model
from obsray.telemetry.answers.critical import slack_seconds
from obsray.telemetry.answers.graph import Graph
from obsray.telemetry.answers.replay import Change
from obsray.telemetry.answers.whatif import what_if
from obsray.telemetry.events import WaitKind
from obsray.telemetry.questions import change_of
from obsray.telemetry.views import Views
from obsray.testing.recorded_session import record_session
from tests.unit.telemetry.scenes import NS, Scene


def waited(scene: Scene, first: bytes, count: int, began: int) -> None:
    """The driver has waited in get until now."""
    seconds = (scene.now - began) / NS
    scene.driver.process_waited(scene.tick(), int(WaitKind.GET), count, scene.result(first), seconds)


def flat(scene: Scene, tasks: int, workers: int, seconds: float = 1.0) -> None:
    """Tasks one after the other on a few workers, all submitted at once and awaited together."""
    scene.resources(CPU=float(workers))
    there = [scene.worker() for _ in range(workers)]
    scene.tick(0.1)
    submitted = [scene.submit("f") for _ in range(tasks)]
    began = scene.now
    for number in range(0, tasks, workers):
        now = scene.now
        for worker, task in zip(there, submitted[number : number + workers], strict=False):
            scene.now = now
            scene.dispatch(task, worker)
            scene.end(task, worker, seconds, dispatched=scene.now)
    waited(scene, submitted[0], tasks, began)


def kinds(found: dict) -> dict[str, float]:
    return {row["kind"]: row["seconds"] for row in found["kinds"]}


def test_the_pieces_of_the_path_follow_each_other_without_a_gap(tmp_path):
    scene = Scene(tmp_path / "session")
    flat(scene, 6, 2)
    found = scene.views().critical_path()
    path = found["path"]
    assert [piece["to_ns"] for piece in path[:-1]] == [piece["from_ns"] for piece in path[1:]]
    assert sum(kinds(found).values()) == pytest.approx(found["seconds"])
    assert (path[0]["from_ns"], path[-1]["to_ns"]) == (found["from_ns"], found["to_ns"])
    assert kinds(found)["run"] == pytest.approx(3.0, abs=0.05) and found["tasks_on_path"] == 3


def test_a_chain_of_arguments_is_the_path_and_what_is_beside_it_has_slack(tmp_path):
    scene = Scene(tmp_path / "session")
    scene.resources(CPU=2.0)
    first, second = scene.worker(), scene.worker()
    scene.tick(0.1)
    slow, quick = scene.submit("slow"), scene.submit("quick")
    join = scene.submit("join", needs=(scene.result(slow), scene.result(quick)))
    began = scene.now
    scene.dispatch(quick, second)
    scene.end(quick, second, 1.0)
    scene.now = began
    scene.dispatch(slow, first)
    scene.end(slow, first, 4.0)
    scene.ready(join, scene.result(slow))
    scene.dispatch(join, first)
    scene.end(join, first, 2.0, dispatched=scene.now)
    waited(scene, join, 1, began)
    view = scene.views()
    found = view.critical_path()
    assert [row["name"] for row in found["functions"]] == ["slow", "join"]
    assert [(row["name"], round(row["slack_seconds"])) for row in found["nearly"]] == [("quick", 3)]
    graph = Graph(view, 1)
    slack = {graph.name_of(number): seconds for number, seconds in enumerate(slack_seconds(graph).tolist())}
    assert slack["slow"] < 0.05 and slack["join"] < 0.05 and slack["quick"] == pytest.approx(3.0, abs=0.05)


def one_by_one(scene: Scene) -> None:
    worker = scene.worker()
    for _ in range(4):
        scene.tick(1.0)
        task = scene.submit("f")
        began = scene.now
        scene.dispatch(task, worker)
        scene.end(task, worker, 0.5)
        waited(scene, task, 1, began)


def test_a_driver_that_computes_between_calls_is_on_the_path(tmp_path):
    scene = Scene(tmp_path / "session")
    one_by_one(scene)
    found = scene.views().critical_path()
    assert kinds(found)["driver"] == pytest.approx(3.0, abs=0.05)
    assert kinds(found)["run"] == pytest.approx(2.0, abs=0.05)
    assert "run" in found["sentence"] and "driver" in found["sentence"]


def nested(scene: Scene) -> bytes:
    """A task that submits one and waits for it."""
    scene.resources(CPU=2.0)
    outer_worker, inner_worker = scene.worker(), scene.worker()
    scene.tick(0.1)
    outer = scene.submit("outer")
    began = scene.now
    scene.dispatch(outer, outer_worker)
    scene.start(outer, outer_worker)
    scene.tick(1.0)
    inner = scene.submit("inner", owner=outer_worker, parent=outer)
    scene.block(outer, outer_worker, scene.result(inner))
    blocked = scene.now
    scene.dispatch(inner, inner_worker)
    scene.end(inner, inner_worker, 3.0)
    seconds = (scene.now - blocked) / NS
    scene.rings[outer_worker].task_unblocked(scene.tick(), outer, int(WaitKind.GET), seconds)
    scene.end(outer, outer_worker, 2.0, blocked=seconds)
    waited(scene, outer, 1, began)
    return inner


def test_a_task_that_waits_for_another_hands_the_path_on_to_it(tmp_path):
    scene = Scene(tmp_path / "session")
    nested(scene)
    found = scene.views().critical_path()
    functions = {row["name"]: row["seconds"] for row in found["functions"]}
    assert functions["inner"] == pytest.approx(3.0, abs=0.1) and functions["outer"] == pytest.approx(2.0, abs=0.1)


def test_a_job_without_tasks_is_refused(tmp_path):
    scene = Scene(tmp_path / "session")
    with pytest.raises(LookupError, match="no task was submitted"):
        scene.views().critical_path()
    scene.submit("f")
    with pytest.raises(LookupError, match="no task of job 00000001 has ended yet"):
        scene.views().critical_path()
    with pytest.raises(LookupError, match="no job 00000009 has tasks; those that have: 00000001"):
        scene.views().what_if(9)


# --- what if -----------------------------------------------------------------------------------------------


def scenario(view: Views, **change: object) -> float:
    found = view.what_if(changes=[Change(**change)])  # type: ignore[arg-type]
    assert found["error_ratio"] <= 0.05 and found["trusted"], found["sentence"]
    return float(found["scenarios"][0]["seconds"])


@pytest.mark.parametrize("play", [lambda s: flat(s, 12, 2), lambda s: flat(s, 7, 3), one_by_one, nested])
def test_the_unchanged_replay_meets_what_happened(play, tmp_path):
    scene = Scene(tmp_path / "session")
    play(scene)
    found = scene.views().what_if()
    assert found["error_ratio"] <= 0.05, found["sentence"]
    assert found["scenarios"] == sorted(found["scenarios"], key=lambda row: row["seconds"])


def test_twice_the_workers_halve_what_waits_for_workers_and_nothing_else(tmp_path):
    many, single = Scene(tmp_path / "many"), Scene(tmp_path / "single")
    flat(many, 12, 2)
    one_by_one(single)
    assert scenario(many.views(), workers=2.0) == pytest.approx(3.0, rel=0.05)
    assert scenario(many.views(), workers=float("inf")) == pytest.approx(1.0, rel=0.1)
    before = single.views().what_if()["replayed_seconds"]
    assert scenario(single.views(), workers=2.0) == pytest.approx(before, rel=0.01)


def test_a_faster_function_helps_where_it_is_on_the_path(tmp_path):
    scene = Scene(tmp_path / "session")
    nested(scene)
    view = scene.views()
    before = view.what_if()["replayed_seconds"]
    assert before - scenario(view, functions={"inner": 3.0}) == pytest.approx(2.0, abs=0.1)
    assert before - scenario(view, functions={"outer": 2.0}) == pytest.approx(1.0, abs=0.6)
    with pytest.raises(ValueError, match=r"no task of this job is called 'other'; there are: inner, outer"):
        view.what_if(changes=[Change(functions={"other": 2.0})])


def test_a_faster_driver_helps_where_the_driver_is_the_path(tmp_path):
    scene = Scene(tmp_path / "session")
    one_by_one(scene)
    view = scene.views()
    assert view.what_if()["replayed_seconds"] - scenario(view, driver=2.0) == pytest.approx(1.5, abs=0.1)


def test_without_stragglers_the_longest_runs_are_as_long_as_others(tmp_path):
    scene = Scene(tmp_path / "session")
    scene.resources(CPU=1.0)
    worker = scene.worker()
    scene.tick(0.1)
    tasks = [scene.submit("f") for _ in range(40)]
    began = scene.now
    for number, task in enumerate(tasks):
        scene.dispatch(task, worker)
        scene.end(task, worker, 10.0 if number == 20 else 0.5, dispatched=scene.now)
    waited(scene, tasks[0], 40, began)
    assert scenario(scene.views(), no_stragglers=True) == pytest.approx(20.0, rel=0.05)


def test_large_jobs_are_replayed_in_bundles_that_change_little(tmp_path, monkeypatch):
    monkeypatch.setattr(replay_model, "TASKS_MAX", 50)
    scene = Scene(tmp_path / "session")
    flat(scene, 400, 2, 0.01)
    view = scene.views()
    found = what_if(view)
    assert found["error_ratio"] <= 0.05, found["sentence"]
    assert scenario(view, workers=2.0) == pytest.approx(found["replayed_seconds"] / 2, rel=0.1)


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"network": -1}, {"functions": {"f": "x"}}, {"driver": True}])
def test_factors_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match="a factor is a number above 0"):
        change_of(**wrong)


def test_the_command_line_shows_the_path_and_the_replays(tmp_path, capsys):
    made = record_session(tmp_path / "session", tasks=100, live=False)
    options = ["--session", str(made.directory)]
    assert command.main(["critical-path", *options]) == 0
    said = capsys.readouterr().out
    assert "the critical path of job 00000001 is" in said and "by function" in said
    assert command.main(["critical-path", "1", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["path"]
    assert command.main(["what-if", "--workers", "2", "--function", "word_count=3", *options]) == 0
    assert "2 x workers, word_count 3 x faster" in capsys.readouterr().out
    assert command.main(["what-if", "--json", *options]) == 0
    assert "error_ratio" in json.loads(capsys.readouterr().out)
    assert command.main(["what-if", "--workers", "zero", *options]) == 1
    assert "a factor is a number above 0" in capsys.readouterr().err
