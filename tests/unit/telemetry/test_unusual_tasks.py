"""Which tasks are unusual and why: stragglers, what some tasks have in common, and sessions against each other."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from obsray import ids
from obsray.cli import command
from obsray.telemetry.answers.compare import compare
from obsray.telemetry.answers.differences import _measure, cliffs_delta
from obsray.telemetry.events import Outcome
from obsray.telemetry.table import QueryError
from tests.unit.telemetry.scenes import OTHER_NODE, Scene


def usual(scene: Scene, workers: list[bytes], count: int = 40, name: str = "f", seconds: float = 1.0) -> list[bytes]:
    """Tasks that take about as long as each other, in turn on some workers."""
    chance = random.Random(name)
    return [
        scene.run(name, workers[number % len(workers)], seconds * chance.uniform(0.95, 1.05))
        for number in range(count)
    ]  # fmt: skip


# --- stragglers --------------------------------------------------------------------------------------------


def only(scene: Scene) -> dict:
    found = scene.views().stragglers()
    assert found["total"] == 1, found["stragglers"]
    return found["stragglers"][0]


def test_a_task_that_computed_longer_had_more_work(tmp_path):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    usual(scene, [worker])
    task = scene.run("f", worker, 5.0)
    row = only(scene)
    assert (row["task_id"], row["cause"]) == (task.hex(), "more work") and row["factor"] == pytest.approx(5, rel=0.1)


def test_a_task_that_ran_long_without_a_cpu_waited_for_something(tmp_path):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    usual(scene, [worker])
    scene.run("f", worker, 5.0, cpu=1.0)
    assert only(scene)["cause"] == "off CPU"


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"fetch": 6.0}, "fetching arguments"),
        ({"blocked": 6.0}, "blocked in get"),
        ({"store": 6.0}, "storing the result"),
    ],
)
def test_a_task_whose_excess_is_one_part_has_that_for_a_cause(options, cause, tmp_path):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    usual(scene, [worker])
    scene.run("f", worker, 1.0, **options)
    row = only(scene)
    assert row["cause"] == cause and "usual are" in row["text"]


def test_the_first_run_in_a_process_is_told_from_the_others(tmp_path):
    scene = Scene(tmp_path / "session")
    for _ in range(6):
        worker = scene.worker()
        scene.run("f", worker, 4.0, cpu=4.0)
        usual(scene, [worker], 20)
    found = scene.views().stragglers()
    assert found["causes"] == {"more work": 6} or found["causes"] == {"cold worker": 6}
    assert found["causes"] == {"cold worker": 6}


def test_a_slow_node_and_a_slow_worker_are_named(tmp_path):
    by_node, by_worker = Scene(tmp_path / "node"), Scene(tmp_path / "worker")
    here, there = by_node.worker(), by_node.worker(node=OTHER_NODE)
    usual(by_node, [here], 60)
    for _ in range(8):
        by_node.run("f", there, 4.0)
    found = by_node.views().stragglers()
    assert found["causes"] == {"node": 8} and OTHER_NODE.hex()[:8] in found["stragglers"][0]["text"]
    good, bad = by_worker.worker(), by_worker.worker()
    usual(by_worker, [good], 60)
    for _ in range(8):
        by_worker.run("f", bad, 4.0)
    found = by_worker.views().stragglers()
    assert found["causes"] == {"worker": 8} and bad.hex()[:8] in found["stragglers"][0]["text"]


def test_a_task_with_more_data_is_slow_because_of_it(tmp_path):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    sizes = [10_000] * 20 + [20_000] * 10 + [40_000] * 5 + [400_000]
    for size in sizes:
        task = scene.submit("f", argument_bytes=size)
        scene.dispatch(task, worker)
        scene.end(task, worker, size / 10_000 * 0.1)
    found = scene.views().stragglers()
    assert {row["cause"] for row in found["stragglers"]} == {"data size"}
    assert "391 KiB" in found["stragglers"][0]["text"]


def test_a_machine_on_which_everything_is_slow_for_a_moment_is_recognised(tmp_path):
    scene = Scene(tmp_path / "session")
    workers = [scene.worker() for _ in range(4)]
    usual(scene, workers, 80)
    now = scene.now
    for worker in workers:
        scene.now = now
        scene.run("f", worker, 5.0, cpu=1.0)
    found = scene.views().stragglers()
    assert found["causes"] == {"busy machine": 4}


def test_even_functions_have_no_stragglers_and_uneven_ones_are_listed(tmp_path):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    usual(scene, [worker], 60)
    usual(scene, [worker], 50, "even", 0.5)
    chance = random.Random(7)
    for _ in range(60):
        scene.run("heavy_tailed", worker, chance.lognormvariate(0, 1.0))
    found = scene.views().stragglers()
    assert {row["name"] for row in found["stragglers"]} <= {"heavy_tailed"}
    assert [row["name"] for row in found["functions"] if row["uneven"]] == ["heavy_tailed"]
    assert scene.views().stragglers(7)["tasks"] == 0


# --- what is different -------------------------------------------------------------------------------------


def test_what_was_planted_in_slow_tasks_ranks_first(tmp_path):
    scene = Scene(tmp_path / "session")
    good, bad = scene.worker(), scene.worker()
    chance = random.Random(3)
    for number in range(120):
        slow = number % 4 == 0
        scene.run("f", bad if slow else good, chance.uniform(3, 4) if slow else chance.uniform(1, 2), cpu=0.5)
    found = scene.views().different([("run_seconds", ">", 2.5)])
    assert (found["selected"], found["others"]) == (30, 90)
    first = found["differences"][0]
    assert (first["what"], first["value"]) == ("worker_id", bad.hex()) or first["what"] == "total_seconds"
    told = {row["what"]: row for row in found["differences"]}
    assert told["worker_id"]["effect"] == pytest.approx(1.0) and told["worker_id"]["value"] == bad.hex()
    assert "run_seconds" not in told and "cpu_seconds" not in told, "what defines them is no difference"


def test_labels_and_measures_beside_the_lists_are_compared_too(tmp_path):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    for number in range(80):
        fails = number % 2 == 0
        task = scene.submit("load", argument_bytes=9_000 if fails else 1_000)
        scene.dispatch(task, worker)
        scene.end(task, worker, 0.1, Outcome.APP_ERROR if fails else Outcome.OK)
    found = scene.views().different([("state", "=", "FAILED")], [("name", "=", "load")])
    told = {row["what"]: row for row in found["differences"]}
    assert told["argument_bytes"]["effect"] == pytest.approx(1.0)
    assert told["argument_bytes"]["text"] == "bytes of arguments: more, median 8.79 KiB against 1000 B"
    assert "name" not in told


def test_chance_is_no_difference(tmp_path):
    scene = Scene(tmp_path / "session")
    workers = [scene.worker() for _ in range(3)]
    tasks = usual(scene, workers, 90)
    chosen = random.Random(5).sample(tasks, 30)
    found = scene.views().different([("task_id", "in", ",".join(task.hex() for task in chosen))])
    assert found["differences"] == [] and "beyond chance" in found["sentence"]


def test_choices_that_leave_nothing_to_compare_and_wrong_ones_are_refused(tmp_path):
    scene = Scene(tmp_path / "session")
    usual(scene, [scene.worker()], 5)
    view = scene.views()
    with pytest.raises(LookupError, match="no task fulfils name = g"):
        view.different([("name", "=", "g")])
    with pytest.raises(LookupError, match="every task fulfils"):
        view.different([("run_seconds", ">", 0)])
    with pytest.raises(QueryError, match="no column 'colour'"):
        view.different([("colour", "=", "red")])


def test_cliffs_delta_is_what_its_name_says():
    mine = np.array([True, True, False, False])
    assert cliffs_delta(np.array([3.0, 4.0, 1.0, 2.0]), mine)[0] == 1.0
    assert cliffs_delta(np.array([1.0, 2.0, 3.0, 4.0]), mine)[0] == -1.0
    assert cliffs_delta(np.array([1.0, 1.0, 1.0, 1.0]), mine) == (0.0, 0.0)


# --- two sessions ------------------------------------------------------------------------------------------


def session(directory, factor: float = 1.0, failing: int = 0, extra: str = "") -> Scene:
    scene = Scene(directory)
    worker = scene.worker()
    chance = random.Random(str(directory))
    for number in range(60):
        fails = number < failing
        scene.run("steady", worker, chance.uniform(0.9, 1.1))
        scene.run(
            "changed", worker, factor * chance.uniform(0.9, 1.1), outcome=Outcome.APP_ERROR if fails else Outcome.OK,
            error="ValueError: bad input" if fails else "",
        )  # fmt: skip
    if extra:
        scene.run(extra, worker)
    scene.views()
    return scene


def test_a_function_that_became_slower_is_found_and_only_that(tmp_path):
    before, after = session(tmp_path / "a"), session(tmp_path / "b", 1.2, extra="added")
    found = compare(before.views(), after.views())
    verdicts = {row["name"]: row["verdict"] for row in found["functions"]}
    assert verdicts == {"changed": "slower", "steady": "same", "added": "new"} and found["regressed"]
    assert found["functions"][0]["ratio"] == pytest.approx(1.2, rel=0.05)
    assert "changed is slower" in found["sentence"]
    back = compare(after.views(), before.views())
    assert {row["name"]: row["verdict"] for row in back["functions"]}["changed"] == "faster" and not back["regressed"]
    assert not compare(before.views(), after.views(), threshold=0.5)["regressed"]


def test_new_errors_and_more_failures_are_found(tmp_path):
    found = compare(session(tmp_path / "a").views(), session(tmp_path / "b", failing=20).views())
    assert found["regressed"] and found["functions"][0]["verdict"] == "fails more"
    assert found["errors"] == [{"error": "ValueError", "tasks": 20}]
    assert "new errors: ValueError" in found["sentence"]


def test_the_exit_code_of_a_comparison_says_whether_something_got_worse(tmp_path, capsys):
    first, second = str(session(tmp_path / "a").directory), str(session(tmp_path / "b", 1.5).directory)
    assert command.main(["compare", first, first]) == 0
    assert "nothing got worse" in capsys.readouterr().out
    assert command.main(["compare", first, second, "--json"]) == 3
    assert json.loads(capsys.readouterr().out)["regressions"] == 1
    assert command.main(["compare", first, second, "--threshold", "80"]) == 0
    assert command.main(["compare", first, second, "--threshold", "-1"]) == 1
    assert "--threshold -1" in capsys.readouterr().err
    assert command.main(["compare", first, str(tmp_path / "nothing")]) == 1
    assert "no session called" in capsys.readouterr().err


def test_a_measure_whose_medians_are_alike_is_told_by_how_many_are_above_them():
    values = np.concatenate([np.zeros(60), np.ones(40), np.zeros(100)])
    found = _measure("blocked_seconds", values, np.zeros(200, bool), np.arange(200) < 100)
    assert found is not None and found["inside"] == found["outside"] == 0
    assert found["text"].endswith("more, above 0 µs for 40% of them and 0% of the others")


def test_the_command_line_answers_about_unusual_tasks(tmp_path, capsys):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    usual(scene, [worker])
    task = scene.run("f", worker, 5.0)
    scene.views()
    options = ["--session", str(scene.directory)]
    assert command.main(["stragglers", *options]) == 0
    said = capsys.readouterr().out
    assert ids.short(task) in said and "more work" in said
    assert command.main(["stragglers", "1", "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["total"] == 1
    assert command.main(["different", "run_seconds > 3s", *options]) == 0
    assert "1 task against 40 others" in capsys.readouterr().out
    assert command.main(["different", "colour = red", *options]) == 2
    assert "colour" in capsys.readouterr().err
    assert command.main(["different", "name = nobody", *options]) == 1
    assert "nothing to compare with" in capsys.readouterr().err
