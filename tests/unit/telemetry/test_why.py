"""Of a planted cause the sentence names the cause: a matrix of what can be in a task's, actor's or group's way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from obsray import ids
from obsray.cli import command
from obsray.telemetry.answers.answer import Code
from obsray.telemetry.answers.why import UnknownThing, why
from obsray.telemetry.events import DeathCause, LeaseOutcome, Outcome, Reason, WaitKind
from obsray.telemetry.sentences import sentence
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views
from obsray.testing.recorded_session import record_session
from obsray.testing.scenarios import read_scenario
from obsray.testing.simulated_session import write_session
from obsray.testing.simulator import Simulator
from tests.unit.telemetry.scenes import NODE, OTHER_NODE, Scene

SCENARIOS = Path(__file__).resolve().parents[2] / "simulation" / "scenarios"
NO_CPU = "CPU 1 more (0 of 2 free)"
Plant = Callable[[Scene], bytes]
MATRIX: dict[str, tuple[Plant, str, str, tuple[str, ...]]] = {}


def cause(code: str, root: str, *words: str) -> Callable[[Plant], Plant]:
    """Registers a planted cause: what is asked about is what it returns; its code, root code, and words that the
    sentence must have."""

    def keep(plant: Plant) -> Plant:
        MATRIX[plant.__name__] = plant, code, root, words
        return plant

    return keep


# --- arguments ---------------------------------------------------------------------------------------------


@cause("WAIT_ARGUMENTS", "RUNNING", "the result of slow_load", "has been running")
def a_slow_producer(scene: Scene) -> bytes:
    _, slow = scene.busy("slow_load")
    task = scene.submit("train", needs=(scene.result(slow),))
    scene.tick(3)
    return task


@cause("WAIT_ARGUMENTS", "NO_CAPACITY", "the result of load", "CPU (1 more needed", "held by hog")
def a_producer_without_a_cpu(scene: Scene) -> bytes:
    scene.busy()
    load = scene.submit("load", "CPU:2")
    scene.queued("CPU:2", Reason.NO_CAPACITY, NO_CPU)
    return scene.submit("train", needs=(scene.result(load),))


@cause("WAIT_ARGUMENTS", "NO_CAPACITY", "the result of b", "further on, d", "held by hog")
def a_long_chain_is_followed_to_its_root(scene: Scene) -> bytes:
    scene.busy()
    task = scene.submit("d", "CPU:2")
    scene.queued("CPU:2", Reason.NO_CAPACITY, NO_CPU)
    for name in ("x", "y", "z", "b", "a"):
        task = scene.submit(name, needs=(scene.result(task),))
    return task


@cause("ARGUMENT_FAILED", "APP_ERROR", "never ran", "load", "ValueError: bad file")
def a_producer_that_failed(scene: Scene) -> bytes:
    worker = scene.worker()
    load = scene.submit("load")
    task = scene.submit("train", needs=(scene.result(load),))
    scene.dispatch(load, worker)
    scene.end(load, worker, outcome=Outcome.APP_ERROR, error="ValueError: bad file")
    scene.over(task, Outcome.LOST_ARGUMENT, error="ValueError: bad file")
    return task


@cause("ARGUMENT_LOST", "RUNNING", "was lost", "made again by load")
def an_argument_that_is_made_again(scene: Scene) -> bytes:
    worker = scene.worker()
    load = scene.run("load", worker, result=10**8)
    task = scene.submit("train")
    scene.driver.object_missing(scene.tick(), scene.result(load), 10**8, scene.driver.intern("its node died"))
    scene.driver.task_arguments_waiting(scene.tick(), task, scene.result(load))
    scene.driver.object_rebuilding(scene.tick(), scene.result(load), load, 2)
    scene.retry(load, bytes(8), Outcome.RESULT_LOST, "lost")
    scene.dispatch(load, worker)
    scene.start(load, worker, attempt=1)
    return task


# --- capacity ----------------------------------------------------------------------------------------------


@cause("NO_CAPACITY", "NO_CAPACITY", "CPU (1 more needed, 0 of 2 free)", "held by hog")
def a_cpu_held_by_another_function(scene: Scene) -> bytes:
    scene.busy("hog")
    task = scene.submit("f", "CPU:2")
    scene.queued("CPU:2", Reason.NO_CAPACITY, NO_CPU)
    scene.tick(5)
    return task


@cause("NO_CAPACITY", "NO_CAPACITY", "GPU (1 more needed, 0 of 1 free)", "held by trainer")
def a_gpu_and_only_its_holder_is_named(scene: Scene) -> bytes:
    scene.busy("bystander", "CPU:1")
    scene.busy("trainer", "CPU:1 GPU:1")
    task = scene.submit("f", "GPU:1 CPU:1")
    scene.queued("GPU:1 CPU:1", Reason.NO_CAPACITY, "GPU 1 more (0 of 1 free)")
    return task


@cause("NO_CAPACITY", "NO_CAPACITY", "held by actor Model")
def a_cpu_held_by_an_actor(scene: Scene) -> bytes:
    _, worker = scene.actor("Model", shape="Model CPU:1")
    scene.grant("Model CPU:1", worker)
    task = scene.submit("f", "CPU:2")
    scene.queued("CPU:2", Reason.NO_CAPACITY, NO_CPU)
    return task


@cause("NO_CAPACITY", "NO_CAPACITY", "workers that its owner holds", "f (", "no capacity for more")
def others_of_its_own_kind(scene: Scene) -> bytes:
    scene.queued("CPU:1", Reason.NO_CAPACITY, NO_CPU)
    scene.busy("f")
    scene.busy("f")
    return scene.submit("f")


@cause("FAIRNESS", "FAIRNESS", "others are served first")
def others_that_have_waited_longer(scene: Scene) -> bytes:
    task = scene.submit("f")
    scene.queued("CPU:1", Reason.FAIRNESS, NO_CPU)
    return task


@cause("INFEASIBLE", "INFEASIBLE", "no node can ever run it", "GPU 8 (node has 4)")
def a_shape_no_node_has(scene: Scene) -> bytes:
    task = scene.submit("f", "GPU:8")
    scene.decide("GPU:8", LeaseOutcome.INFEASIBLE, Reason.INFEASIBLE, "GPU 8 (node has 4)")
    return task


@cause("LABELS", "LABELS", "zone=mars")
def a_label_no_node_has(scene: Scene) -> bytes:
    task = scene.submit("f")
    scene.decide("CPU:1", LeaseOutcome.INFEASIBLE, Reason.LABELS, "no node has label zone=mars")
    return task


@cause("AFFINITY", "AFFINITY", "may run on node", OTHER_NODE.hex())
def a_node_that_is_not_this_one(scene: Scene) -> bytes:
    task = scene.submit("f")
    scene.decide("CPU:1", LeaseOutcome.INFEASIBLE, Reason.LABELS, f"it may run on node {OTHER_NODE.hex()} only")
    return task


@cause("AFFINITY", "AFFINITY", "can never run", "does not exist or is dead")
def a_node_that_is_dead(scene: Scene) -> bytes:
    task = scene.submit("f")
    scene.over(task, Outcome.UNSCHEDULABLE, error=f"f cannot run: node {OTHER_NODE.hex()} does not exist or is dead")
    return task


@cause("DRAINING", "DRAINING", "this node is draining")
def a_node_that_drains(scene: Scene) -> bytes:
    task = scene.submit("f")
    scene.decide("CPU:1", LeaseOutcome.INFEASIBLE, Reason.INFEASIBLE, "this node is draining")
    return task


@cause("ELSEWHERE", "ELSEWHERE", f"node {OTHER_NODE.hex()[:8]} was asked", "no capacity free")
def a_demand_that_went_to_another_node(scene: Scene) -> bytes:
    task = scene.submit("f")
    scene.decide("CPU:1", LeaseOutcome.SPILLED, Reason.NO_CAPACITY, chosen=OTHER_NODE)
    return task


# --- workers -----------------------------------------------------------------------------------------------


@cause("WORKER_START", "WORKER_START", "worker process that is starting", "begun")
def a_worker_that_starts(scene: Scene) -> bytes:
    task = scene.submit("f")
    scene.worker(ready=False)
    scene.queued("CPU:1", Reason.WORKER_STARTING)
    scene.tick(2)
    return task


@cause("WORKER_LIMIT", "WORKER_LIMIT", "limit of worker processes")
def as_many_processes_as_may_be(scene: Scene) -> bytes:
    task = scene.submit("f")
    scene.queued("CPU:1", Reason.WORKER_LIMIT)
    return task


@cause("WORKER_LIMIT", "WORKER_LIMIT", "limit of worker processes", "8 of 8 processes exist")
def the_limit_of_processes_and_how_many_there_are(scene: Scene) -> bytes:
    task = scene.submit("f")
    scene.queued("CPU:1", Reason.WORKER_LIMIT, "8 of 8 processes exist")
    return task


@cause("WORKER_LIMIT", "WORKER_LIMIT", "every process there may be waited for others", "8 of 8 processes exist")
def tasks_that_wait_for_tasks_too_deep(scene: Scene) -> bytes:
    task = scene.submit("f")
    text = "f cannot run: 8 of 8 processes exist and all of them wait"
    scene.over(task, Outcome.NESTED_TOO_DEEP, error=text)
    return task


@cause(
    "ARGUMENT_FAILED",
    "WORKER_LIMIT",
    "never ran",
    "the result of inner",
    "every process there may be waited for others",
)
def a_task_whose_argument_was_nested_too_deep(scene: Scene) -> bytes:
    inner = scene.submit("inner")
    task = scene.submit("outer", needs=(scene.result(inner),))
    scene.over(inner, Outcome.NESTED_TOO_DEEP, error="inner cannot run: 8 of 8 processes exist")
    scene.over(task, Outcome.LOST_ARGUMENT, error="inner cannot run: 8 of 8 processes exist")
    return task


@cause("INFEASIBLE", "INFEASIBLE", "no node can ever run it", "GPU 0 is out of service: its memory failed")
def a_gpu_that_is_out_of_service(scene: Scene) -> bytes:
    task = scene.submit("f", "GPU:1")
    text = "GPU 1 (node has 0), GPU 0 is out of service: its memory failed"
    scene.decide("GPU:1", LeaseOutcome.INFEASIBLE, Reason.INFEASIBLE, text)
    return task


@cause("ENVIRONMENT_FAILED", "ENVIRONMENT_FAILED", "is dead", "environment", "No matching distribution")
def an_actor_whose_environment_cannot_be_made(scene: Scene) -> bytes:
    return dead(scene, DeathCause.ENVIRONMENT_FAILED, "pip failed: No matching distribution")


@cause("ENVIRONMENT", "ENVIRONMENT", "runtime environment", "being made", "torch")
def an_environment_that_is_being_made(scene: Scene) -> bytes:
    shape = "CPU:1 env:0102030405060708"
    task = scene.submit("f", shape)
    description = scene.node.intern('{"pip": ["torch"]}')
    scene.node.environment_asked(scene.tick(), bytes([1, 2, 3, 4, 5, 6, 7, 8]), 1, description)
    scene.queued(shape, Reason.ENVIRONMENT)
    scene.tick(9)
    return task


@cause("ENVIRONMENT_FAILED", "ENVIRONMENT_FAILED", "environment cannot be made", "No matching distribution")
def an_environment_that_cannot_be_made(scene: Scene) -> bytes:
    task = scene.submit("f")
    scene.over(task, Outcome.ENVIRONMENT_FAILED, error="pip failed (exit code 1):\nERROR: No matching distribution")
    return task


@cause("SCHEDULER", "SCHEDULER", "has not answered", "late")
def a_scheduler_that_is_behind(scene: Scene) -> bytes:
    task = scene.submit("f")
    scene.node.lease_requested(scene.tick(), scene.driver.process, scene.node.intern("CPU:1"), 1, 1)
    scene.node.node_sample(scene.tick(4), 3.5, 1, 0, 1, 0, 0, 0, 0, 0)
    return task


@cause("ON_ITS_WAY", "ON_ITS_WAY", "has not asked for a worker")
def an_owner_that_has_not_asked(scene: Scene) -> bytes:
    return scene.submit("f")


@cause("BEHIND_OTHERS", "RUNNING", "runs there after first", "has been running")
def a_task_sent_behind_another(scene: Scene) -> bytes:
    worker, _ = scene.busy("first")
    task = scene.submit("second")
    scene.dispatch(task, worker)
    return task


# --- values ------------------------------------------------------------------------------------------------


@cause("STORE_FULL", "STORE_FULL", "room in the object store", "57.2 MiB wanted", "85.8 MiB pinned")
def a_store_that_is_full(scene: Scene) -> bytes:
    worker, task = scene.busy("writer")
    scene.block(task, worker, bytes(20), WaitKind.ALLOCATE)
    scene.node.object_allocation_waiting(scene.tick(), bytes(20), worker, 60 * 10**6, 10**6, 0, 90 * 10**6)
    return task


def moving(scene: Scene, worker: bytes, begun: bool) -> None:
    load = scene.submit("load")
    wanted = scene.result(load)
    scene.node.transfer_asked(scene.tick(), wanted, worker, OTHER_NODE)
    if begun:
        scene.node.transfer_begun(scene.tick(), wanted, OTHER_NODE, NODE, 800 * 10**6, 0.0, 1, 1)
    scene.tick(3)


@cause("TRANSFER", "TRANSFER", "763 MiB", f"from node {OTHER_NODE.hex()[:8]}")
def a_slow_transfer(scene: Scene) -> bytes:
    worker, task = scene.busy("train")
    moving(scene, worker, True)
    return task


@cause("TRANSFER", "TRANSFER", "asked for", "no room or source yet")
def a_transfer_that_has_not_begun(scene: Scene) -> bytes:
    worker, task = scene.busy("train")
    moving(scene, worker, False)
    return task


@cause("RESTORE", "RESTORE", "read back from disk", "47.7 MiB")
def an_argument_on_disk(scene: Scene) -> bytes:
    _, task = scene.busy("train")
    scene.node.object_restoring(scene.tick(), scene.put(50 * 10**6), 50 * 10**6, 0.0)
    return task


@cause("BLOCKED_IN_GET", "RUNNING", "in get", "for inner", "has been running")
def a_get_of_a_slow_child(scene: Scene) -> bytes:
    outer, task = scene.busy("outer")
    _, child = scene.busy("inner")
    scene.block(task, outer, scene.result(child))
    return task


@cause("DEADLOCK", "DEADLOCK", "waits for itself", "whoever holds slot waits in get")
def a_nested_get_deadlock(scene: Scene) -> bytes:
    worker, outer = scene.busy("outer", "slot:1")
    ring = scene.rings[worker]
    inner = scene.submit("inner", "slot:1", owner=worker, parent=outer)
    scene.queued("slot:1", Reason.NO_CAPACITY, "slot 1 more (0 of 1 free)", owner=ring.process)
    scene.block(outer, worker, scene.result(inner))
    return outer


@cause("DEADLOCK", "DEADLOCK", "A.outer", "waits for itself")
def an_actor_that_calls_itself(scene: Scene) -> bytes:
    actor, worker = scene.actor("A")
    outer = scene.call(actor, "A.outer")
    scene.dispatch(outer, worker, "")
    scene.start(outer, worker, actor=actor)
    inner = scene.call(actor, "A.inner", owner=worker)
    scene.block(outer, worker, scene.result(inner))
    return outer


# --- actors ------------------------------------------------------------------------------------------------


@cause("ACTOR_BUSY", "RUNNING", "one call at a time", "busy with Counter.slow")
def an_actor_that_is_busy(scene: Scene) -> bytes:
    actor, worker = scene.actor()
    slow = scene.call(actor, "Counter.slow")
    scene.dispatch(slow, worker, "")
    scene.start(slow, worker, actor=actor)
    return scene.call(actor, "Counter.add")


@cause("ORDERING", "RUNNING", "in the order in which they were made", "Counter.first", "the result of load")
def an_earlier_call_that_waits_for_its_argument(scene: Scene) -> bytes:
    actor, _ = scene.actor()
    _, load = scene.busy("load")
    scene.call(actor, "Counter.first", needs=(scene.result(load),))
    return scene.call(actor, "Counter.second")


def grouped(scene: Scene, group: str) -> tuple[bytes, bytes]:
    actor, worker = scene.actor("Server")
    ring = scene.rings[worker]
    ring.actor_concurrency(scene.tick(), actor, worker, 0, 1, 0)
    ring.actor_concurrency(scene.tick(), actor, worker, ring.intern("io"), 2, ring.intern("read,write"))
    for _ in range(2 if group else 1):
        call = scene.call(actor, "Server.read" if group else "Server.think")
        scene.dispatch(call, worker, "")
        scene.start(call, worker, actor=actor)
    return actor, worker


@cause("CONCURRENCY", "RUNNING", "concurrency group 'io' of 2 is full", "Server.read")
def a_concurrency_group_that_is_full(scene: Scene) -> bytes:
    actor, _ = grouped(scene, "io")
    return scene.call(actor, "Server.write")


@cause("CONCURRENCY", "RUNNING", "max_concurrency of 1 is full", "Server.think")
def the_default_group_that_is_full(scene: Scene) -> bytes:
    actor, _ = grouped(scene, "")
    return scene.call(actor, "Server.other")


@cause("ACTOR_PENDING", "NO_CAPACITY", "actor Model", "GPU (1 more needed", "held by trainer")
def an_actor_that_waits_for_a_gpu(scene: Scene) -> bytes:
    scene.busy("trainer", "GPU:1")
    actor, _ = scene.actor("Model", alive=False, shape="Model GPU:1")
    scene.queued("Model GPU:1", Reason.NO_CAPACITY, "GPU 1 more (0 of 1 free)")
    return scene.call(actor, "Model.fit")


@cause("ACTOR_PENDING", "RUNNING", "its constructor has been running")
def an_actor_with_a_slow_constructor(scene: Scene) -> bytes:
    actor, _ = scene.actor("Model", alive=False)
    worker = scene.worker()
    scene.node.actor_placed(scene.tick(), actor, worker, NODE, 0.01, 0)
    scene.tick(20)
    return scene.call(actor, "Model.fit")


@cause("ACTOR_RESTARTING", "ACTOR_RESTARTING", "to start again", "segmentation fault")
def an_actor_that_starts_again(scene: Scene) -> bytes:
    actor, worker = scene.actor("Model")
    error = scene.node.intern("segmentation fault")
    scene.node.actor_restarting(scene.tick(), actor, worker, 1, int(DeathCause.SIGNAL), error)
    return scene.call(actor, "Model.fit")


def dead(scene: Scene, why: DeathCause, text: str) -> bytes:
    actor, worker = scene.actor("Model")
    node = scene.node
    node.actor_died(scene.tick(), actor, worker, 0, int(why), node.intern("Model"), node.intern(text))
    return actor


@cause("ACTOR_DIED", "OUT_OF_MEMORY", "it was made to actor Model", "ran out of memory")
def a_call_to_an_actor_killed_for_its_memory(scene: Scene) -> bytes:
    actor = dead(scene, DeathCause.OOM, "")
    call = scene.call(actor, "Model.fit")
    scene.over(call, Outcome.ACTOR_DIED, error="the actor died")
    return call


@cause("APP_ERROR", "APP_ERROR", "is dead", "its constructor failed", "KeyError: 'path'")
def an_actor_whose_constructor_raised(scene: Scene) -> bytes:
    return dead(scene, DeathCause.START_FAILED, "KeyError: 'path'")


@cause("CANCELLED", "CANCELLED", "killed on request")
def an_actor_that_was_killed(scene: Scene) -> bytes:
    return dead(scene, DeathCause.KILLED_BY_REQUEST, "")


@cause("QUOTA", "QUOTA", "max_pending_calls", "refused")
def an_actor_with_too_many_calls(scene: Scene) -> bytes:
    actor, _ = scene.actor()
    scene.driver.call_refused(scene.tick(), actor, scene.driver.intern("Counter.add"), 10, 10)
    return actor


@cause("ACTOR_UNAVAILABLE", "ACTOR_UNAVAILABLE", "between two processes")
def a_call_between_two_processes(scene: Scene) -> bytes:
    actor, _ = scene.actor()
    call = scene.call(actor, "Counter.add")
    scene.over(call, Outcome.ACTOR_UNAVAILABLE, error="the actor is restarting")
    return call


# --- groups ------------------------------------------------------------------------------------------------


@cause("PLACEMENT", "NO_CAPACITY", "placement group trainers", "CPU:4", "held by hog")
def a_placement_group_that_waits(scene: Scene) -> bytes:
    scene.busy()
    group = scene.group("bundle 0 lacks CPU 2 more (0 of 2 free)")
    task = scene.submit("f", "CPU:1 in group")
    scene.queued("CPU:1 in group", Reason.PLACEMENT, "placement group trainers waits", group=group)
    return task


@cause("INFEASIBLE", "INFEASIBLE", "no nodes can ever hold it", "CPU 4 (node has 2)")
def a_placement_group_too_big(scene: Scene) -> bytes:
    return scene.group("CPU 4 (node has 2)", Reason.INFEASIBLE)


@cause("NODE_DIED", "NODE_DIED", "lost 1 of its bundles with node")
def a_placement_group_whose_node_died(scene: Scene) -> bytes:
    group = scene.group()
    scene.node.group_rescheduling(scene.tick(), group, OTHER_NODE, 1)
    return group


@cause("PLACEMENT_REMOVED", "PLACEMENT_REMOVED", "placement group was removed")
def a_placement_group_that_was_removed(scene: Scene) -> bytes:
    task = scene.submit("f")
    scene.over(task, Outcome.PLACEMENT_REMOVED, error="its placement group was removed")
    return task


# --- the end -----------------------------------------------------------------------------------------------


@cause("NO_CAPACITY", "NO_CAPACITY", "tried again (attempt 3)", "killed because it ran out of memory")
def a_task_that_is_killed_for_its_memory_again_and_again(scene: Scene) -> bytes:
    scene.busy()
    task = scene.submit("glutton", "CPU:2")
    for attempt in range(2):
        worker = scene.worker()
        scene.dispatch(task, worker)
        scene.start(task, worker, attempt)
        scene.die(worker, DeathCause.OOM, task, 2 * 10**9)
        text = f"worker {worker.hex()} was killed because it ran out of memory"
        scene.retry(task, worker, Outcome.OOM, text, attempt)
    scene.queued("CPU:2", Reason.NO_CAPACITY, NO_CPU)
    return task


@cause("OUT_OF_MEMORY", "OUT_OF_MEMORY", "3 times in all", "1.86 GiB", "ran out of memory")
def a_task_that_failed_for_its_memory(scene: Scene) -> bytes:
    task = scene.submit("glutton")
    for attempt in range(3):
        worker = scene.worker()
        scene.dispatch(task, worker)
        scene.start(task, worker, attempt)
        scene.die(worker, DeathCause.OOM, task, 2 * 10**9)
        if attempt < 2:
            scene.retry(task, worker, Outcome.OOM, "out of memory", attempt)
    scene.over(task, Outcome.OOM, 2, "OutOfMemoryError: out of memory")
    return task


@cause("WORKER_DIED", "WORKER_DIED", "its worker died", "exited with code 7")
def a_worker_that_crashed(scene: Scene) -> bytes:
    task = scene.submit("f")
    scene.over(task, Outcome.WORKER_DIED, error="worker 0a exited with code 7")
    return task


@cause("APP_ERROR", "APP_ERROR", "its function raised", "ZeroDivisionError")
def an_exception(scene: Scene) -> bytes:
    worker = scene.worker()
    return scene.run("f", worker, outcome=Outcome.APP_ERROR, error="ZeroDivisionError: division by zero")


@cause("CANCELLED", "CANCELLED", "was cancelled on request of driver", "before it began")
def a_cancelled_task(scene: Scene) -> bytes:
    task = scene.submit("f")
    scene.driver.task_cancel_requested(scene.tick(), task, 0, 1)
    scene.over(task, Outcome.CANCELLED)
    return task


@cause("FINISHED", "FINISHED", "queued (no capacity free", "busy with hog", "running f")
def a_finished_task_that_waited_for_a_cpu(scene: Scene) -> bytes:
    worker, hog = scene.busy()
    task = scene.submit("f")
    scene.queued("CPU:1", Reason.NO_CAPACITY, NO_CPU)
    scene.end(hog, worker, 4.0)
    scene.grant("CPU:1", worker)
    scene.dispatch(task, worker)
    scene.end(task, worker, 1.0, dispatched=scene.now)
    return task


@cause("FINISHED", "FINISHED", "pulling 763 MiB from node", "fetch arguments")
def a_finished_task_that_pulled_its_argument(scene: Scene) -> bytes:
    worker = scene.worker()
    task = scene.submit("f")
    scene.dispatch(task, worker)
    scene.start(task, worker)
    scene.tick(0.9)
    wanted = scene.result(scene.submit("load"))
    scene.node.transfer_done(scene.now, wanted, OTHER_NODE, NODE, 800 * 10**6, 0.0, 0.9, 1, 1)
    scene.end(task, worker, 0.1, fetch=1.0)
    return task


@cause("FINISHED", "FINISHED", "waiting for arguments", "the result of load")
def a_finished_task_that_waited_for_its_argument(scene: Scene) -> bytes:
    worker = scene.worker()
    load = scene.submit("load")
    task = scene.submit("f", needs=(scene.result(load),))
    scene.dispatch(load, worker)
    scene.end(load, worker, 5.0)
    scene.ready(task, scene.result(load))
    scene.dispatch(task, worker)
    scene.end(task, worker, 0.2, dispatched=scene.now)
    return task


@pytest.mark.parametrize("name", sorted(MATRIX))
def test_the_sentence_names_the_planted_cause(name, tmp_path):
    plant, code, root, words = MATRIX[name]
    scene = Scene(tmp_path / "session")
    identifier = plant(scene)
    scene.tick(0.5)
    found = scene.views().why(identifier.hex())
    told = found["sentence"]
    assert (found["code"], found["root_code"]) == (code, root), told
    assert [word for word in words if word not in told] == [], told
    if found["state"] in ("FAILED", "FINISHED", "CANCELLED"):
        parts = [part["why"] for part in found["time"]]
        assert not [why for why in parts if "failed: " in why or "{}" in why], "why it failed is not why it was queued"


def test_the_matrix_is_as_large_as_it_should_be():
    codes: dict[str, int] = {}
    for _, code, _, _ in MATRIX.values():
        codes[code] = codes.get(code, 0) + 1
    told = ", ".join(f"{count} {code}" for code, count in sorted(codes.items(), key=lambda pair: -pair[1]))
    # Each is a test of its own above, so all of them are named where this suite passes.
    print(f"{len(MATRIX)} planted causes, {len(codes)} codes: {told}")
    assert len(MATRIX) >= 58 and len(codes) >= 30


# --- objects, and what is around the matrix ------------------------------------------------------------------


def test_an_object_says_where_it_is_and_why(tmp_path):
    scene = Scene(tmp_path / "session")
    stored, spilled, lost, freed, small = (scene.put(10**6 * (n + 1), stored=n < 4) for n in range(5))
    node = scene.node
    node.object_spilled(scene.tick(), spilled, 2 * 10**6, 0.1, 0)
    node.object_lost(scene.tick(), lost, 3 * 10**6, int(Reason.NODE_DIED), node.intern("its last node died"))
    node.object_freed(scene.tick(), freed, 4 * 10**6, 1.0)
    _, running = scene.busy("load")
    view = scene.views()
    assert "is in the store" in view.why(stored.hex())["sentence"]
    assert "lies on disk" in view.why(spilled.hex())["sentence"]
    assert "its last node died" in view.why(lost.hex())["sentence"]
    assert "was freed" in view.why(freed.hex())["sentence"]
    assert "lies with its owner" in view.why(small.hex())["sentence"]
    pending = view.why(scene.result(running).hex())
    assert (pending["code"], pending["root_code"]) == ("WAIT_ARGUMENTS", "RUNNING")
    assert "the result of load" in pending["sentence"]


def test_an_expected_time_follows_from_how_long_the_function_takes(tmp_path):
    scene = Scene(tmp_path / "session")
    worker = scene.worker()
    for _ in range(5):
        scene.run("f", worker, 2.0)
    scene.queued("CPU:1", Reason.NO_CAPACITY, NO_CPU)
    scene.busy("f")
    waiting = [scene.submit("f") for _ in range(4)]
    found = scene.views().why(waiting[3].hex())
    assert found["eta_seconds"] == pytest.approx(4 * 2.0, rel=0.01)
    assert "3 tasks are ahead of it, of the same owner and shape" in found["facts"]


def test_every_task_actor_and_group_of_a_recorded_session_has_an_answer(tmp_path):
    made = record_session(tmp_path / "session", tasks=60)
    view = Views(Store.open(made.directory))
    ids_ = [row["task_id"] for row in view.tasks(limit=1000)["rows"]]
    ids_ += [row["actor_id"] for row in view.actors()] + [row["group_id"] for row in view.placement_groups()]
    ids_ += [row["object_id"] for row in view.objects(limit=1000)["rows"]]
    for identifier in ids_:
        found = why(view, identifier, refresh=False)
        assert found["sentence"] and found["code"] != "UNKNOWN", found
    codes = {name: why(view, getattr(made, name).hex())["code"] for name in (
        "running_task", "blocked_task", "queued_task", "waiting_task", "failed_task", "waiting_group",
    )}  # fmt: skip
    assert codes == {
        "running_task": "RUNNING", "blocked_task": "BLOCKED_IN_GET", "queued_task": "NO_CAPACITY",
        "waiting_task": "WAIT_ARGUMENTS", "failed_task": "APP_ERROR", "waiting_group": "NO_CAPACITY",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "share"), [("everything", 0.5), ("actors", 0.3)])
def test_everything_in_a_run_that_is_cut_off_anywhere_has_an_answer(name, share, tmp_path):
    run = Simulator(read_scenario(SCENARIOS / f"{name}.toml"), 2)
    run.run()
    del run.log.rows[int(len(run.log.rows) * share) :]
    view = Views(Store.open(write_session(run, tmp_path / "session")))
    open_ = view.tasks([("state", "!=", "FINISHED")], limit=40)["rows"]
    things = [row["task_id"] for row in [*open_, *view.tasks(limit=20)["rows"]]]
    things += [row["actor_id"] for row in view.actors()] + [row["group_id"] for row in view.placement_groups()]
    things += [row["object_id"] for row in view.objects(limit=20)["rows"]]
    assert len(things) > 20
    for identifier in things:
        found = view.why(identifier, refresh=False)
        assert found["sentence"] and found["code"] in Code.__members__ and found["chain"], found


def test_what_nobody_mentioned_and_what_is_no_id_is_refused(tmp_path):
    view = Scene(tmp_path / "session").views()
    with pytest.raises(UnknownThing, match="nothing is recorded about"):
        view.why(ids.task_id(bytes([1]) * 8, 77).hex())
    with pytest.raises(ValueError, match="an id is a hex number"):
        view.why("not an id")
    with pytest.raises(ValueError, match="is no id"):
        view.why("abcd")


def test_the_command_line_answers_with_a_sentence_the_parts_and_json(tmp_path, capsys):
    scene = Scene(tmp_path / "session")
    task = a_finished_task_that_waited_for_a_cpu(scene)
    scene.views()
    options = ["--session", str(scene.directory)]
    assert command.main(["why", ids.short(task), *options]) == 0
    said = capsys.readouterr().out
    assert "busy with hog" in said and "where the time went" in said and "code FINISHED" in said
    assert command.main(["why", task.hex(), "--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["code"] == "FINISHED"
    assert command.main(["why", "ffffffff:9", *options]) == 1
    assert "no thing of this session" in capsys.readouterr().err


def test_new_events_are_told(tmp_path):
    scene = Scene(tmp_path / "session")
    actor, _ = grouped(scene, "io")
    scene.driver.call_refused(scene.tick(), actor, scene.driver.intern("Server.read"), 3, 3)
    scene.driver.process_waited(scene.tick(), int(WaitKind.GET), 2, bytes(20), 1.5)
    view = scene.views()
    view.refresh()
    told = [
        sentence({"event": event, **row}, view)
        for event in ("actor_concurrency", "call_refused", "process_waited")
        for row in view.store.rows(event)
    ]
    assert "runs 2 calls at a time of its concurrency group 'io'" in told[1]
    assert "3 of its caller wait, 3 may" in told[2]
    assert "waited 1.5 s in get for 2 objects" in told[3]
