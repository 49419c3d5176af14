"""What replays know of a job: attempts that failed, nodes, items of generators, waits that end with one of several."""

from __future__ import annotations

import json
from unittest import mock

import pytest

from obsray.cli import command
from obsray.telemetry.answers.graph import CAPACITY, Graph
from obsray.telemetry.answers.offered import offered
from obsray.telemetry.answers.replay import Change, Replay
from obsray.telemetry.events import Outcome, ProcessKind, WaitKind
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.testing.scenarios import make_scenario
from obsray.testing.simulated_session import write_session
from obsray.testing.simulator import Simulator
from tests.unit.telemetry.scenes import NODE, NS, OTHER_NODE, Scene


def predicted(view: Views, **change: object) -> float:
    """Seconds with a change; the unchanged replay must be near."""
    found = view.what_if(changes=[Change(**change)])  # type: ignore[arg-type]
    assert found["error_ratio"] <= 0.05, found["sentence"]
    return float(found["scenarios"][0]["seconds"])


def waited(scene: Scene, first: bytes, count: int, began: int, kind: WaitKind = WaitKind.GET) -> None:
    scene.driver.process_waited(scene.tick(), int(kind), count, scene.result(first), (scene.now - began) / NS)


def test_attempts_that_failed_take_their_time_again(tmp_path):
    scene = Scene(tmp_path / "session")
    scene.resources(CPU=1.0)
    worker = scene.worker()
    scene.tick(0.1)
    first, second = scene.submit("flaky"), scene.submit("other")
    began = scene.now
    scene.dispatch(first, worker)
    scene.start(first, worker)
    ring = scene.rings[worker]
    scene.tick(2.0)
    name = ring.intern("flaky")
    ring.task_ended(
        scene.tick(), first, 0, 1, 1, bytes(16), name, began, began, began + 3_000_000, int(Outcome.APP_ERROR),
        0.0, 0.0, 2.0, 0.0, 2.0, 0.0, 0,
    )  # fmt: skip
    scene._started.pop(first)
    scene.retry(first, worker, Outcome.APP_ERROR, "ValueError")
    scene.dispatch(first, worker)
    scene.end(first, worker, 1.0, attempt=1, dispatched=scene.now)
    scene.dispatch(second, worker)
    scene.end(second, worker, 1.0, dispatched=scene.now)
    waited(scene, first, 2, began)
    assert predicted(scene.views(), workers=2.0) == pytest.approx(3.0, abs=0.1)


def test_tasks_stay_on_the_nodes_that_have_what_they_ask_for(tmp_path):
    scene = Scene(tmp_path / "session")
    name = scene.node.intern("other")
    scene.node.node_started(scene.now, OTHER_NODE, 2, name, 1 << 30, name, False, name)
    scene.resources(CPU=1.0, a=8.0)
    other = scene._ring(OTHER_NODE, ProcessKind.NODE, OTHER_NODE)
    for resource in ("CPU", "b"):
        other.resource_sample(scene.tick(), other.intern(resource), 1.0, 0.0)
    here, there = scene.worker(), scene.worker(node=OTHER_NODE)
    scene.tick(0.1)
    tasks = [(scene.submit("f", "CPU:1 a:1"), here) for _ in range(4)] + [(scene.submit("g", "CPU:1 b:1"), there)]
    began = scene.now
    for task, worker in tasks:
        if worker == there:
            scene.now = began
        scene.dispatch(task, worker)
        scene.end(task, worker, 1.0, dispatched=scene.now)
    scene.now = began + int(4.05 * NS)
    waited(scene, tasks[0][0], 5, began)
    view = scene.views()
    view.refresh()
    assert {name for of_node in offered(view).values() for name in of_node} == {"CPU", "a", "b"}
    # Only what is bound to the node of ``a`` waits there; the idle CPU of the other one is no help.
    assert predicted(view, functions={"g": 2.0}) == pytest.approx(4.05, abs=0.1)
    assert predicted(view, workers=2.0) == pytest.approx(2.05, abs=0.1)


def test_a_wait_for_an_item_ends_with_the_item_and_not_with_the_generator(tmp_path):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    scene.tick(0.1)
    source = scene.submit("source")
    scene.dispatch(source, worker)
    scene.start(source, worker)
    for item in range(3):
        began = scene.now
        scene.tick(1.0)
        scene.rings[worker].task_item_yielded(scene.tick(), source, item, 10)
        waited(scene, source, 1, began)
        scene.tick(0.2)
    scene.end(source, worker, 10.0)
    view = scene.views()
    assert predicted(view, functions={"source": 2.0}) == pytest.approx(view.what_if()["actual_seconds"] / 2, abs=0.3)
    kinds = {row["kind"]: row["seconds"] for row in view.critical_path(refresh=False)["kinds"]}
    assert "blocked" not in kinds


def test_a_wait_that_gave_up_gives_up_again(tmp_path):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    scene.tick(0.1)
    slow = scene.submit("slow")
    began = scene.now
    scene.dispatch(slow, worker)
    scene.start(slow, worker)
    scene.now = began + NS
    waited(scene, slow, 1, began, WaitKind.WAIT)
    quick = scene.submit("quick")
    scene.end(slow, worker, 5.0)
    other = scene.worker()
    scene.dispatch(quick, other)
    scene.end(quick, other, 1.0)
    began += int(1.1 * NS)
    waited(scene, quick, 1, began)
    assert predicted(scene.views(), functions={"slow": 2.5}) < scene.views().what_if()["actual_seconds"] - 2.0


def test_a_task_that_waits_in_get_frees_what_another_one_needs(tmp_path):
    scene = Scene(tmp_path / "session")
    scene.resources(CPU=1.0)
    outer_worker, inner_worker = scene.worker(), scene.worker()
    scene.tick(0.1)
    outer = scene.submit("outer")
    scene.dispatch(outer, outer_worker)
    scene.start(outer, outer_worker)
    inner = scene.submit("inner", owner=outer_worker, parent=outer)
    scene.tick(2.0)
    scene.block(outer, outer_worker, scene.result(inner))
    blocked = scene.now
    scene.tick(0.005)
    scene.dispatch(inner, inner_worker)
    scene.end(inner, inner_worker, 1.0)
    seconds = (scene.now - blocked) / NS
    scene.rings[outer_worker].task_unblocked(scene.tick(), outer, int(WaitKind.GET), seconds)
    scene.end(outer, outer_worker, 2.0, blocked=seconds)
    view = scene.views()
    view.refresh()
    graph = Graph(view, 1)
    number = next(at for at in range(graph.count) if graph.name_of(at) == "inner")
    assert graph.bound[number] == CAPACITY and graph.name_of(int(graph.bound_by[number])) == "outer"
    assert abs(int(graph.bound_at[number]) - blocked) < NS // 100


def test_a_session_too_short_for_a_sample_has_the_cpus_that_it_was_told(tmp_path):
    scene = Scene(tmp_path / "session")
    task = scene.submit("f")
    worker = scene.worker()
    scene.dispatch(task, worker)
    scene.end(task, worker, 0.1)
    facts = {"resources": {"CPU": 20_000, "memory": 1 << 30}, "node": bytes([9] * 8).hex()}
    (scene.directory / "session.json").write_text(json.dumps(facts))
    view = scene.views()
    view.refresh()
    view.samples.resources_of.clear()
    assert list(offered(view).values()) == [{"CPU": 2.0, "memory": float(1 << 30)}]
    assert view.books(refresh=False)["cpus"] == 2.0


@pytest.mark.parametrize("nodes", [1, 2])
def test_what_a_run_predicts_for_other_numbers_of_cpus_is_what_a_run_with_them_takes(nodes, tmp_path):
    """Whole simulated runtimes with 1, 2 and 4 CPUs a node, each predicted by those with fewer."""
    seen = {}
    for cpus in (1, 2, 4):
        # In one batch: virtual drivers do not tell of their waits.
        work = {"name": "fixed", "tasks": 240, "run_ms": 50.0, "batch": 1000}
        run = Simulator(make_scenario("even", {"cpus": cpus, "nodes": nodes, "workload": [work]}), seed=1)
        run.run()
        views = Views(Store.open(write_session(run, tmp_path / str(cpus) / "session")))
        seen[cpus] = views.what_if(changes=[Change(workers=2.0), Change(workers=4.0)])
        assert seen[cpus]["error_ratio"] <= 0.05, seen[cpus]["sentence"]
    errors = {}
    for few, many in ((1, 2), (1, 4), (2, 4)):
        predicted = {row["change"]: row["seconds"] for row in seen[few]["scenarios"]}[f"{many // few} x workers"]
        errors[few, many] = predicted / seen[many]["actual_seconds"] - 1
    print(f"predicted against real, {nodes} nodes, seed 1:", {pair: f"{error:+.1%}" for pair, error in errors.items()})
    assert all(abs(error) <= 0.05 for error in errors.values()), errors


def test_what_a_replay_with_other_workers_does_not_know_is_said_instead_of_a_number(tmp_path):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    for _ in range(4):
        scene.run("f", worker, seconds=0.5, cpu=0.5)
    assert scene.views().what_if()["limits"] == []
    put = scene.put(30_000_000)
    scene.node.object_spilled(scene.tick(), put, 30_000_000, 0.1, 0)
    scene.node.node_started(scene.tick(), OTHER_NODE, 1, 0, 1 << 30, 0, False, 0)
    assert len(scene.views().what_if()["limits"]) == 1, "another node alone changes nothing"
    scene.node.transfer_done(scene.tick(), put, OTHER_NODE, NODE, 20_000_000, 0.0, 0.1, 1, 1)
    found = scene.views().what_if(changes=[Change(workers=2.0), Change(functions={"f": 2.0})])
    words = ("28.6 MiB went to disk", "19.1 MiB went from node to node")
    assert all(word in told for word, told in zip(words, found["limits"], strict=True)), found["limits"]
    assert [row["change"] for row in found["refused"]] == ["2 x workers"]
    assert [row["change"] for row in found["scenarios"]] == ["f 2 x faster"]
    guessed = scene.views().what_if(changes=[Change(workers=2.0)], rough=True)
    assert guessed["refused"] == [] and len(guessed["scenarios"]) == 1


def imports(scene: Scene, first_seconds: float, cpu: float) -> None:
    """Eight tasks of a second on two CPUs; the first in each process takes longer and computes more."""
    scene.resources(CPU=2.0)
    workers = [scene.worker() for _ in range(2)]
    scene.tick(0.1)
    tasks = [scene.submit("load") for _ in range(8)]
    began = scene.tick()
    for number, worker in enumerate(workers):
        scene.now = began
        for turn, task in enumerate(tasks[number::2]):
            scene.dispatch(task, worker)
            seconds = 1.0 if turn else first_seconds
            scene.end(task, worker, seconds, cpu=0.1 if turn else cpu, dispatched=scene.now)
    waited(scene, tasks[0], len(tasks), began)
    (scene.directory / "session.json").write_text(json.dumps({"processors": 2}))


def test_what_a_function_costs_at_first_is_paid_once_in_each_process(tmp_path):
    scene = Scene(tmp_path / "session")
    imports(scene, first_seconds=1.6, cpu=0.7)
    assert predicted(scene.views(), workers=0.5) == pytest.approx(8.0 + 0.6, abs=0.1), "one process loads it, not two"
    assert predicted(scene.views(), workers=2.0) == pytest.approx(2.0 + 2 * 0.6, abs=0.1), "four share two processors"


def test_a_first_run_that_only_takes_longer_is_a_longer_run(tmp_path):
    scene = Scene(tmp_path / "session")
    imports(scene, first_seconds=1.6, cpu=0.1)
    assert predicted(scene.views(), workers=0.5) == pytest.approx(8.0 + 2 * 0.6, abs=0.1)


def nested(scene: Scene, children: int) -> None:
    """A task that computes for a second, then waits for children of two seconds each; one CPU, and processes enough."""
    scene.resources(CPU=1.0)
    above, below = scene.worker(), scene.worker()
    scene.tick(0.1)
    parent = scene.submit("parent")
    began = scene.tick()
    scene.dispatch(parent, above)
    scene.start(parent, above)
    scene.tick(1.0)
    tasks = [scene.submit("child", owner=above, parent=parent) for _ in range(children)]
    scene.block(parent, above, scene.result(tasks[0]), count=children)
    blocked = scene.now
    for child in tasks:
        scene.dispatch(child, below)
        scene.end(child, below, 2.0, dispatched=scene.now)
    seconds = (scene.now - blocked) / NS
    scene.rings[above].task_unblocked(scene.tick(), parent, int(WaitKind.GET), seconds)
    scene.end(parent, above, 1.0, blocked=seconds)
    waited(scene, parent, 1, began)


def test_tasks_that_wait_for_others_are_foretold_for_a_few_times_as_many_workers_and_not_beyond(tmp_path):
    scene = Scene(tmp_path / "session")
    nested(scene, children=4)
    found = scene.views().what_if(changes=[Change(workers=4.0), Change(workers=5.0), Change(workers=float("inf"))])
    assert found["error_ratio"] <= 0.05, found["sentence"]
    (told,) = found["scenarios"]
    assert told["change"] == "4 x workers" and told["seconds"] == pytest.approx(3.0, abs=0.2)
    assert [row["change"] for row in found["refused"]] == ["5 x workers", "unlimited workers"]
    assert all("1 task waited for others" in row["why"] and "not beyond" in row["why"] for row in found["refused"])


@pytest.mark.parametrize(
    ("beginnings", "crowded", "why"),
    [(0.2, 0.4, ""), (0.4, 0.0, "40% of the time: that"), (0.0, 0.6, "for 60% of the")],
)
def test_where_real_runs_differ_from_one_another_a_guess_has_to_be_asked_for(beginnings, crowded, why, tmp_path):
    scene = Scene(tmp_path / "session")
    nested(scene, children=4)
    view, run = scene.views(), Replay.run

    def told(replay: Replay) -> float:
        seconds = run(replay)
        replay.leases.beginnings = beginnings * seconds * replay.model.processors
        replay.leases.crowded_seconds = crowded * seconds
        return seconds

    with mock.patch("obsray.telemetry.answers.whatif.Replay.run", told):
        found = view.what_if(changes=[Change(workers=2.0), Change(functions={"child": 2.0})])
        guessed = view.what_if(changes=[Change(workers=2.0)], rough=True)
    assert [row["change"] for row in found["refused"]] == (["2 x workers"] if why else [])
    assert all(why in row["why"] for row in found["refused"]) and len(found["scenarios"]) == 2 - bool(why)
    assert len(guessed["scenarios"]) == 1 and not guessed["refused"]


def test_a_job_that_would_not_end_gets_no_number_even_if_one_asks_for_a_guess(tmp_path):
    scene = Scene(tmp_path / "session")
    nested(scene, children=1)
    found = scene.views().what_if(changes=[Change(workers=0.5)], rough=True)
    assert found["scenarios"] == []
    assert "2 of its tasks would never run to their end with 0.5 CPUs" in found["refused"][0]["why"]


def handed_out(scene: Scene, driver_share: float | None) -> None:
    """Twenty seconds of tasks that take 10 ms, each 90 ms after the one before it."""
    scene.resources(CPU=1.0)
    worker, collector = scene.worker(), scene._ring(bytes([7]) * 8, ProcessKind.COLLECTOR)
    tasks, began = [scene.submit("tiny") for _ in range(200)], scene.now
    for number, task in enumerate(tasks):
        scene.now = began + number * NS // 10 + NS * 9 // 100
        scene.dispatch(task, worker)
        scene.end(task, worker, 0.01, cpu=0.01, dispatched=scene.now)
        if number % 10 == 0 and driver_share is not None:
            used = 3.0 + driver_share * (scene.now - began) / NS
            collector.process_sample(scene.now, scene.driver.process, 1, int(ProcessKind.DRIVER), 1, 1, used, 1, 1)
    waited(scene, tasks[0], len(tasks), began)


def test_no_number_of_workers_makes_a_job_shorter_than_its_driver_computes(tmp_path):
    scene = Scene(tmp_path / "session")
    handed_out(scene, driver_share=0.95)
    view = scene.views()
    found = view.what_if(changes=[Change(workers=4.0), Change(driver=2.0, workers=4.0), Change(workers=0.5)])
    assert found["error_ratio"] <= 0.05, found["sentence"]
    told = {row["change"]: row for row in found["scenarios"]}
    alone, both = told["4 x workers"], told["4 x workers, driver 2 x faster"]
    assert alone["seconds"] == pytest.approx(0.95 * found["actual_seconds"], rel=0.03)
    assert "the driver computes" in alone["bound"]
    assert both["seconds"] == pytest.approx(0.475 * found["actual_seconds"], rel=0.03)
    assert [row["change"] for row in found["refused"]] == ["0.5 x workers"], "fewer workers might do as well"


@pytest.mark.parametrize("driver_share", [None, 0.3])
def test_what_limits_how_fast_tasks_are_handed_out_is_not_guessed(driver_share, tmp_path):
    scene = Scene(tmp_path / "session")
    handed_out(scene, driver_share)
    found = scene.views().what_if(changes=[Change(workers=2.0), Change(functions={"tiny": 2.0}), Change(driver=2.0)])
    assert [row["change"] for row in found["refused"]] == ["2 x workers", "driver 2 x faster"]
    assert "put more work into each task" in found["refused"][0]["why"], found["refused"]
    assert [row["change"] for row in found["scenarios"]] == ["tiny 2 x faster"]


def test_no_number_of_workers_makes_a_job_shorter_than_all_cpus_compute(tmp_path):
    scene = Scene(tmp_path / "session")
    workers, collector = [scene.worker() for _ in range(2)], scene._ring(bytes([7]) * 8, ProcessKind.COLLECTOR)
    scene.tick(0.1)
    tasks, began = [scene.submit("busy") for _ in range(40)], scene.now
    for number, task in enumerate(tasks):
        worker = workers[number % 2]
        scene.now = began + (number // 2) * NS
        scene.dispatch(task, worker)
        scene.end(task, worker, 0.99, cpu=0.495, dispatched=scene.now)
        if number % 2:
            at = scene.now
            for process in (*workers, scene.driver.process):
                kind = ProcessKind.DRIVER if process == scene.driver.process else ProcessKind.WORKER
                used = (0.01 if kind is ProcessKind.DRIVER else 0.495) * (1 + (at - began) / NS)
                collector.process_sample(at, process, 1, int(kind), 1, 1, used, 1, 1)
    waited(scene, tasks[0], len(tasks), began)
    (scene.directory / "session.json").write_text(json.dumps({"processors": 1}))
    found = scene.views().what_if(changes=[Change(workers=2.0), Change(workers=2.0, functions={"busy": 2.0})])
    assert found["error_ratio"] <= 0.05, found["sentence"]
    told = {row["change"]: row for row in found["scenarios"]}
    both = told["2 x workers, busy 2 x faster"]
    assert told["2 x workers"]["seconds"] == pytest.approx(found["actual_seconds"], rel=0.1)
    assert "all CPUs" in told["2 x workers"]["bound"]
    assert both["seconds"] == pytest.approx(found["actual_seconds"] / 2, rel=0.15)


def test_nothing_is_foretold_of_a_job_whose_unchanged_replay_is_far_off(tmp_path, capsys):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    for _ in range(3):
        scene.run("f", worker, seconds=0.5, cpu=0.5)
    view = scene.views()
    with mock.patch("obsray.telemetry.answers.whatif.Replay.run", lambda replay: 10.0):
        found = view.what_if()
        assert found["scenarios"] == [] and len(found["refused"]) >= 4 and not found["trusted"]
        assert "nothing is foretold: the unchanged replay is" in found["sentence"]
        assert command.main(["what-if", "--session", str(scene.directory)]) == 0
        said = capsys.readouterr().out
        assert "not foretold because the unchanged replay is" in said and "x as fast" not in said
        assert command.main(["what-if", "--rough", "--session", str(scene.directory)]) == 0
        assert "x as fast" in capsys.readouterr().out
