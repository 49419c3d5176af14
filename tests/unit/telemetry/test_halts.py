"""What stands still is listed with what helps, and is the answer to why; what goes on, or was heard again, is not."""

from __future__ import annotations

import json
import os

import pytest

from obsray.telemetry.answers.why import why
from obsray.telemetry.events import Reason
from obsray.telemetry.halts import STOPPED
from obsray.telemetry.sentences import sentence
from obsray.telemetry.story import LAST_RECORDS
from obsray.telemetry.views import Views
from tests.unit.telemetry.scenes import NODE, OTHER_NODE, Scene

ZYGOTE = bytes(8)


@pytest.fixture
def scene(tmp_path) -> Scene:
    """Of a session that lives: its node is this process."""
    made = Scene(tmp_path / "s")
    facts = {"node": NODE.hex(), "node_pid": os.getpid()}
    (made.directory / "session.json").write_text(json.dumps(facts))
    return made


def halt(scene: Scene, process: bytes, pid: int, name: str) -> None:
    intern = scene.node.intern
    scene.node.process_halted(scene.tick(), process, pid, intern(name), intern(STOPPED))


def resume(scene: Scene, process: bytes, pid: int, name: str) -> None:
    intern = scene.node.intern
    scene.node.process_resumed(scene.tick(2), process, pid, intern(name), 2.0, intern("it goes on"))


def suspect(scene: Scene, node: bytes, state: str, why: str) -> None:
    scene.node.node_changed(scene.tick(), node, scene.node.intern(state), 1, scene.node.intern(why))


def seen(view: Views) -> list[tuple[str, int]]:
    return [(row["name"], row["pid"]) for row in view.halts()]


def test_what_stands_still_is_listed_until_it_goes_on(scene):
    worker, _ = scene.busy("f")
    halt(scene, worker, 71, "worker")
    halt(scene, ZYGOTE, 72, "zygote")
    view = scene.views()
    assert seen(view) == [("worker", 71), ("zygote", 72)]
    first, second = view.halts()
    assert "kill -CONT 71" in first["fix"] and "zygote_silent_seconds_max" in second["fix"]
    assert [row["pid"] for row in view.overview()["halts"]] == [71, 72]
    told = [sentence({"event": "process_halted", **record}, view) for record in view.store.rows("process_halted")]
    assert told[1] == f"the zygote (pid 72) stands still: {STOPPED}"
    resume(scene, worker, 71, "worker")
    assert seen(view) == [("zygote", 72)]


@pytest.mark.parametrize("who", ["worker", "owner", "zygote"])
def test_a_task_that_cannot_go_on_says_who_stands_still(scene, who):
    if who == "worker":
        worker, task = scene.worker(), scene.submit("f")
        scene.dispatch(task, worker)
        scene.start(task, worker)
        halt(scene, worker, 71, "worker")
    else:
        task = scene.submit("f")
        scene.queued("CPU:1", Reason.WORKER_STARTING)
        process = scene.driver.process if who == "owner" else ZYGOTE
        halt(scene, process, 71, "driver" if who == "owner" else "zygote")
    answer = why(scene.views(), task.hex())
    assert answer["code"] == "STANDS_STILL", answer
    assert "has stood still for" in answer["sentence"] and STOPPED in answer["sentence"]
    assert "CONT" in answer["fix"] or who == "zygote"


def test_a_call_names_the_actor_that_stands_still(scene):
    actor, worker = scene.actor("Model")
    call = scene.call(actor, "Model.fit")
    halt(scene, worker, 71, "worker")
    assert why(scene.views(), call.hex())["root_code"] == "STANDS_STILL"


def test_a_result_whose_owner_stands_still_says_so(scene):
    task = scene.run("f", scene.worker())
    halt(scene, scene.driver.process, 71, "driver")
    answer = why(scene.views(), task.hex())
    assert answer["code"] == "FINISHED" and "stands still and gives it to nobody" in answer["sentence"]


def test_a_node_that_is_not_heard_is_listed_until_it_is_heard_or_given_up(scene):
    for state, why_it_changed in (("alive", "heartbeats arrive again"), ("dead", "no heartbeat for 10.1 s")):
        suspect(scene, OTHER_NODE, "suspected", "no heartbeat for 3.2 s")
        view = scene.views()
        (row,) = view.halts()
        assert (row["name"], row["node_id"]) == ("node", OTHER_NODE.hex())
        assert abs(scene.now - row["halted_at_ns"] - 3.2e9) < 1e9
        suspect(scene, OTHER_NODE, state, why_it_changed)
        assert seen(view) == []


def test_nothing_stands_still_in_a_session_that_is_over(scene):
    halt(scene, ZYGOTE, 72, "zygote")
    assert seen(scene.views())
    (scene.directory / "session.json").write_text(json.dumps({"node": NODE.hex(), "node_pid": 0}))
    assert seen(scene.views()) == []


def test_the_story_of_a_node_says_what_stood_still_beside_it(scene):
    halt(scene, ZYGOTE, 72, "zygote")
    resume(scene, ZYGOTE, 72, "zygote")
    halt(scene, OTHER_NODE, 0, "worker")
    for _ in range(LAST_RECORDS):
        scene.node.user_mark(scene.tick(), bytes(16), 0, 0)
    told = [row["text"] for row in scene.views().story(NODE.hex()) if row["event"].startswith("process_")]
    assert told[0] == f"the zygote (pid 72) stands still: {STOPPED}" and len(told) == 3
    other = scene.views().story(OTHER_NODE.hex())
    assert [row["event"] for row in other] == ["process_halted"], "of another one only what names it"
