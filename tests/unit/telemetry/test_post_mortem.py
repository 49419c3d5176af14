"""What is left of a process that died: why, what it did last, what it had."""

from __future__ import annotations

from pathlib import Path

import pytest

from obsray.cli import post_mortem as command
from obsray.telemetry.events import DeathCause, Outcome, ProcessKind
from obsray.telemetry.task_memory import function_memory, memory_words, task_memory
from tests.unit.telemetry.scenes import NODE, Scene

MB = 1_000_000


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "s_dead")


def crashed(scene: Scene, cause: DeathCause = DeathCause.SIGNAL) -> tuple[bytes, bytes]:
    """A worker that is killed in the middle of a task, after it had grown and stored something."""
    worker = scene.worker()
    task = scene.submit("train")
    scene.dispatch(task, worker)
    scene.start(task, worker)
    ring = scene.rings[worker]
    collector = scene._ring(bytes([7]) * 8, ProcessKind.COLLECTOR)
    for step in range(30):
        collector.process_sample(
            scene.tick(1.0), worker, 1, int(ProcessKind.WORKER), (100 + 10 * step) * MB, 0, 1.0, 3, 9
        )
    ring.stack_sampled(
        scene.tick(), task, 0, ring.intern("train"), ring.intern("train (job.py:3)\nfit (job.py:9)"), 0, 25, 1.0, 0.9,
        300 * MB,
    )  # fmt: skip
    scene.die(worker, cause, task, 390 * MB)
    scene.retry(task, worker, Outcome.OOM if cause is DeathCause.OOM else Outcome.WORKER_DIED, "it died")
    return worker, task


def test_a_killed_worker_says_what_it_was_doing(scene: Scene) -> None:
    worker, task = crashed(scene)
    found = scene.views().post_mortem(worker.hex())
    assert "was killed by signal 9 (SIGKILL), in the middle of train" in found["sentence"]
    assert not found["alive"] and [one["task"] for one in found["running"]] == [task.hex()]
    (stack,) = found["stacks"]
    assert stack["stack"] == ["train (job.py:3)", "fit (job.py:9)"] and stack["function"] == "train"
    memory = found["memory"]
    assert (memory["first_bytes"], memory["peak_bytes"]) == (100 * MB, 390 * MB) and len(memory["points"]) == 30
    assert any(record["event"] == "worker_died" for record in found["events"])
    assert any(record["event"] == "task_started" for record in found["events"])
    text = command._text(found, False)
    assert "fit (job.py:9)" in text and "▂" in text and "█" in text


def test_a_task_and_an_actor_lead_to_the_process_they_died_with(scene: Scene) -> None:
    worker, task = crashed(scene)
    actor, its = scene.actor("Model")
    scene.die(its, DeathCause.EXIT_CODE)
    view = scene.views()
    assert view.post_mortem(task.hex())["process"] == worker.hex()
    assert view.post_mortem(actor.hex())["process"] == its.hex()


def test_a_task_that_took_its_process_with_it_at_once_is_found_by_the_word_of_its_node(scene: Scene) -> None:
    worker, task = scene.worker(), scene.submit("crash")
    scene.dispatch(task, worker)
    scene.die(worker, DeathCause.EXIT_CODE, task)
    scene.over(task, Outcome.WORKER_DIED, error="crash did not finish")
    found = scene.views().post_mortem(task.hex())
    assert found["process"] == worker.hex() and "in the middle of crash" in found["sentence"]


def test_of_a_kill_for_memory_the_numbers_are_told(scene: Scene) -> None:
    worker, task = crashed(scene, DeathCause.OOM)
    scene.node.memory_pressure(
        scene.tick(),
        worker,
        task,
        950 * MB,
        1000 * MB,
        390 * MB,
        scene.node.intern("it is the newest that may be retried"),
    )
    sentence = scene.views().post_mortem(worker.hex())["sentence"]
    assert "was killed because memory ran out" in sentence
    assert "906 MiB of 954 MiB were in use, 372 MiB of it by this process" in sentence


def test_what_it_owned_is_told_with_where_it_was_put(scene: Scene) -> None:
    worker, _ = crashed(scene)
    before = scene.views().post_mortem(worker.hex())["objects"]["owned_count"]
    identifier = worker + bytes([1]) + (1).to_bytes(7, "big") + bytes(4)
    ring = scene.rings[worker]
    ring.object_put(scene.now - 10, identifier, bytes(16), 5 * MB, 0, ring.intern("job.py:12"))
    scene.node.object_created(scene.now - 9, identifier, worker, 5 * MB, 0.0)
    scene.node.object_sealed(scene.now - 8, identifier, worker, 5 * MB)
    objects = scene.views().post_mortem(worker.hex())["objects"]
    assert objects["owned_count"] == before + 1 and objects["owned"][0]["call_site"] == "job.py:12"


def test_the_living_and_the_unknown_are_said_to_be_so(scene: Scene) -> None:
    worker = scene.worker()
    view = scene.views()
    assert view.post_mortem(worker.hex())["alive"] and "lives" in view.post_mortem(worker.hex())["sentence"]
    with pytest.raises(LookupError, match="no process"):
        view.post_mortem("ab" * 8)
    with pytest.raises(LookupError, match="nothing is recorded"):
        view.post_mortem("ab" * 16)
    with pytest.raises(ValueError, match="no id"):
        view.post_mortem("ab")
    never = scene.submit("never")
    with pytest.raises(LookupError, match="never ran"):
        scene.views().post_mortem(never.hex())


def test_a_task_has_a_peak_and_a_growth_of_memory(scene: Scene) -> None:
    worker = scene.worker()
    task = scene.run("grow", worker, seconds=3.0)
    ring = scene.rings[worker]
    for held in (100, 400, 250):
        ring.stack_sampled(scene.tick(), task, 0, ring.intern("grow"), ring.intern("g"), 0, 5, 0.2, 0.1, held * MB)
    view = scene.views()
    view.refresh()
    found = task_memory(view.store, task)
    assert found == {"peak_bytes": 400 * MB, "growth_bytes": 150 * MB, "samples": 15}
    assert memory_words(found) == "at most 381 MiB of its process' own memory, grew by 143 MiB"
    (row,) = function_memory(view)
    assert (row["name"], row["growth_bytes"], row["task"]) == ("grow", 150 * MB, task.hex())
    assert view.memory()["tasks"] == [row] and view.task(task.hex())["memory"] == found
    assert task_memory(view.store, NODE * 2) is None
