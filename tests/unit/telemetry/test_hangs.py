"""Who waits for whom: cycles are named, whoever can still go on is not accused."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from unittest import mock

import pytest

from obsray import ids
from obsray.cli import hangs as command
from obsray.telemetry import hang_watch, session_file
from obsray.telemetry.answers import hangs
from obsray.telemetry.columns import Texts
from obsray.telemetry.events import LeaseOutcome, Reason, WaitKind
from obsray.telemetry.hang_watch import HangRecords
from obsray.telemetry.rings import RingDirectory
from tests.unit.telemetry.scenes import NS, Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "s_hangs")


def look(scene: Scene, after: float = 10.0) -> dict:
    """What hangs so many seconds later, in a session that lives."""
    view = scene.views()
    with (
        mock.patch.object(view.store, "is_live", lambda: True),
        mock.patch.object(view, "now_ns", lambda: scene.now + int(after * NS)),
        mock.patch.object(view.store, "running", list),
    ):
        return view.hangs()


def calling(scene: Scene, name: str, actor: bytes, worker: bytes) -> bytes:
    """A call that runs in an actor."""
    call = scene.call(actor, name)
    scene.dispatch(call, worker, "")
    scene.start(call, worker, actor=actor)
    return call


def two_actors(scene: Scene) -> tuple[bytes, bytes]:
    """A.m waits in get for B.n, which cannot begin because B is busy with B.p, which waits for A.q."""
    a, on_a = scene.actor("A")
    b, on_b = scene.actor("B")
    m, p = calling(scene, "A.m", a, on_a), calling(scene, "B.p", b, on_b)
    n, q = scene.call(b, "B.n"), scene.call(a, "A.q")
    scene.block(m, on_a, scene.result(n))
    scene.block(p, on_b, scene.result(q))
    return m, p


def test_actors_that_wait_for_each_other_are_a_cycle(scene: Scene) -> None:
    m, _ = two_actors(scene)
    (hang,) = look(scene)["hangs"]
    assert hang["kind"] == "cycle" and [one["name"] for one in hang["members"]] == ["A.m", "B.n", "B.p", "A.q"]
    assert hang["members"][0]["id"] == m.hex()
    assert [one["how"] for one in hang["members"]] == [
        "waits in get for", "waits for its turn at actor B, which is busy with",
        "waits in get for", "waits for its turn at actor A, which is busy with",
    ]  # fmt: skip
    assert "none of them can ever go on" in hang["sentence"]


def test_who_waits_behind_a_cycle_is_counted_and_not_accused(scene: Scene) -> None:
    m, _ = two_actors(scene)
    worker = scene.worker()
    for _ in range(2):
        task = scene.submit("victim")
        scene.dispatch(task, worker)
        scene.start(task, worker)
        scene.block(task, worker, scene.result(m))
    (hang,) = look(scene)["hangs"]
    assert len(hang["members"]) == 4 and hang["behind"] == 2


def test_a_wait_that_is_young_or_can_end_is_no_hang(scene: Scene) -> None:
    two_actors(scene)
    assert look(scene, after=0.5)["hangs"] == []


def test_a_chain_that_ends_in_something_that_runs_is_no_hang(scene: Scene) -> None:
    worker, other = scene.worker(), scene.worker()
    root = scene.submit("root")
    scene.dispatch(root, other)
    scene.start(root, other)
    waiting = scene.submit("waiting")
    scene.dispatch(waiting, worker)
    scene.start(waiting, worker)
    scene.block(waiting, worker, scene.result(root))
    found = look(scene)
    assert found["hangs"] == [] and found["blocked"] == 1 and found["looked_at"] == 2


def nested(scene: Scene, holders: int) -> None:
    """Tasks that hold the only slots and wait for inner ones that need a slot each."""
    shape = "slot:1"
    for _ in range(holders):
        worker = scene.worker()
        outer, inner = scene.submit("outer", shape), scene.submit("inner", shape)
        scene.grant(shape, worker)
        scene.dispatch(outer, worker)
        scene.start(outer, worker)
        scene.block(outer, worker, scene.result(inner))
    scene.decide(shape, LeaseOutcome.QUEUED, Reason.NO_CAPACITY, "slot 1 more (0 of 2 free)")


def test_tasks_that_hold_what_their_children_need_are_a_cycle(scene: Scene) -> None:
    nested(scene, 2)
    (hang,) = look(scene)["hangs"]
    assert [one["name"] for one in hang["members"]] == ["outer", "inner"]
    assert hang["members"][1]["how"] == "waits for slot, held by" and hang["behind"] == 2


def test_one_holder_that_can_end_saves_the_others(scene: Scene) -> None:
    nested(scene, 2)
    worker = scene.worker()
    free = scene.submit("free", "slot:1")
    scene.grant("slot:1", worker)
    scene.dispatch(free, worker)
    scene.start(free, worker)
    scene.decide("slot:1", LeaseOutcome.QUEUED, Reason.NO_CAPACITY, "slot 1 more (0 of 3 free)")
    assert look(scene)["hangs"] == []


def test_a_full_actor_that_waits_for_itself_is_a_cycle_and_one_with_a_place_left_is_not(scene: Scene) -> None:
    for calls, expected in ((1, 1), (2, 0)):
        actor, worker = scene.actor(f"Wide{calls}")
        ring = scene.rings[worker]
        ring.actor_concurrency(scene.tick(), actor, worker, 0, calls, 0)
        if calls == 1:
            # More than one group, so that calls run on threads.
            ring.actor_concurrency(scene.tick(), actor, worker, ring.intern("io"), 1, ring.intern("read"))
        outer = calling(scene, f"Wide{calls}.outer", actor, worker)
        scene.block(outer, worker, scene.result(scene.call(actor, f"Wide{calls}.inner")))
        names = [one["name"] for hang in look(scene)["hangs"] for one in hang["members"]]
        assert (f"Wide{calls}.outer" in names) is bool(expected)


def awaited(scene: Scene) -> tuple[bytes, bytes]:
    """A running task that another one waits for."""
    runner, waiter = scene.worker(), scene.worker()
    for _ in range(6):
        scene.run("load", runner, seconds=0.5)
    slow, waiting = scene.submit("load"), scene.submit("waiting")
    for task, worker in ((slow, runner), (waiting, waiter)):
        scene.dispatch(task, worker)
        scene.start(task, worker)
    scene.block(waiting, waiter, scene.result(slow))
    return slow, runner


def test_a_task_that_takes_far_longer_than_ever_and_is_waited_for_is_stuck(scene: Scene) -> None:
    slow, _ = awaited(scene)
    assert look(scene, 20)["hangs"] == []
    (hang,) = look(scene, 60)["hangs"]
    assert hang["kind"] == "stuck" and hang["members"][0]["id"] == slow.hex()
    assert "6 others took at most" in hang["sentence"] and "1 other waits for it" in hang["sentence"]


def test_a_task_that_was_seen_in_one_place_only_is_stuck(scene: Scene) -> None:
    runner, waiter = scene.worker(), scene.worker()
    still, waiting = scene.submit("still"), scene.submit("waiting")
    for task, worker in ((still, runner), (waiting, waiter)):
        scene.dispatch(task, worker)
        scene.start(task, worker)
    scene.block(waiting, waiter, scene.result(still))
    ring = scene.rings[runner]
    for _ in range(200):
        ring.stack_sampled(
            scene.tick(1.0), still, 0, ring.intern("still"), ring.intern("still (a.py:1)\nrecv (b.py:7)"), 0, 25, 1.0,
            0.0, 0,
        )  # fmt: skip
    (hang,) = look(scene)["hangs"]
    assert hang["kind"] == "stuck" and "always waiting in recv (b.py:7)" in hang["sentence"]


def test_a_session_that_is_over_hangs_no_more(scene: Scene) -> None:
    two_actors(scene)
    found = scene.views().hangs()
    assert found == {"hangs": [], "live": False, "blocked": 0, "looked_at": 0, "complete": True, "drivers": []}


def test_a_graph_too_large_accuses_nobody_it_has_not_looked_at(scene: Scene) -> None:
    two_actors(scene)
    with mock.patch.object(hangs, "THINGS_MAX", 2):
        found = look(scene)
    assert found["hangs"] == [] and not found["complete"]


def test_a_cycle_is_drawn_for_the_terminal_and_survives_json(scene: Scene) -> None:
    two_actors(scene)
    found = look(scene)
    text = command._text(found, False)
    lines = text.splitlines()
    first = next(number for number, line in enumerate(lines) if "┌─▶" in line)
    assert "A.m" in lines[first] and "└──" in text and text.index("┌─▶") < text.index("└──")
    assert json.loads(json.dumps(found)) == found


def noticed(scene: Scene, wanted: bytes, task: bytes = ids.NIL_TASK, worker: bytes = b"", count: int = 1) -> int:
    """A driver, or an async call on a worker, has been waiting; since when."""
    began = scene.tick()
    kind = WaitKind.AWAIT if worker else WaitKind.GET
    scene.rings[worker or scene.driver.process].wait_noticed(scene.tick(1.0), task, int(kind), count, wanted, began)
    return began


def test_a_program_that_waits_for_what_is_stuck_is_named(scene: Scene) -> None:
    runner = scene.worker()
    for _ in range(6):
        scene.run("load", runner, seconds=0.5)
    slow = scene.submit("load")
    scene.dispatch(slow, runner)
    scene.start(slow, runner)
    noticed(scene, scene.result(slow))
    found = look(scene, 60)
    (hang,) = found["hangs"]
    assert hang["kind"] == "stuck" and hang["behind"] == 1 and len(hang["drivers"]) == 1
    assert "1 other waits for it, among them driver" in hang["sentence"]
    (driver,) = found["drivers"]
    assert driver["for_id"] == slow.hex() and driver["for_state"] == "RUNNING" and driver["seconds"] > 60
    assert f"{driver['label']} waits in get for {driver['for']}, RUNNING" in command._text(found, False)


def test_programs_behind_a_cycle_are_named_and_those_whose_wait_is_over_are_not(scene: Scene) -> None:
    m, _ = two_actors(scene)
    began = noticed(scene, scene.result(m))
    over = noticed(scene, scene.result(m))
    scene.driver.process_waited(scene.tick(), int(WaitKind.GET), 1, scene.result(m), (scene.now - over) / NS)
    found = look(scene)
    (hang,) = found["hangs"]
    assert hang["behind"] == 1 and "among them driver" in hang["sentence"] and len(found["drivers"]) == 1
    scene.driver.process_waited(scene.tick(), int(WaitKind.GET), 1, scene.result(m), (scene.now - began) / NS)
    assert look(scene)["drivers"] == []


def test_async_calls_that_await_each_other_are_a_cycle(scene: Scene) -> None:
    for ended in (True, False):
        actor, worker = scene.actor(f"Loop{ended}")
        ring = scene.rings[worker]
        ring.actor_concurrency(scene.tick(), actor, worker, 0, 1, 0)
        outer = calling(scene, f"Loop{ended}.outer", actor, worker)
        inner = scene.call(actor, f"Loop{ended}.inner")
        noticed(scene, scene.result(inner), outer, worker)
        if ended:
            ring.await_ended(scene.tick(), outer, scene.result(inner), 1.0)
    (hang,) = look(scene)["hangs"]
    assert [one["name"] for one in hang["members"]] == ["LoopFalse.outer", "LoopFalse.inner"]
    assert hang["members"][0]["how"] == "awaits"
    assert why(scene, outer.hex())["code"] == "DEADLOCK"


def told(
    scene: Scene, ring: object, task: bytes, began: int, needed: int, wanted: list[bytes], missing: int = 0
) -> None:
    """A wait for several things has lasted, and these are missing."""
    four = [*wanted, *[ids.NIL_OBJECT] * 3][:4]
    ring.wait_objects(scene.tick(1.0), task, began, needed, missing or len(wanted), *four)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("needed", "found"), [(1, False), (2, True)])
def test_a_wait_for_some_of_several_hangs_when_fewer_can_come(scene: Scene, needed: int, found: bool) -> None:
    m, _ = two_actors(scene)
    worker, runner = scene.worker(), scene.worker()
    running, waiting = scene.submit("running"), scene.submit("waiting")
    for task, at in ((running, runner), (waiting, worker)):
        scene.dispatch(task, at)
        scene.start(task, at)
    began = scene.tick()
    scene.block(waiting, worker, scene.result(running), WaitKind.WAIT)
    told(scene, scene.rings[worker], waiting, began, needed, [scene.result(running), scene.result(m)])
    (hang,) = look(scene)["hangs"]
    assert hang["behind"] == int(found)


def test_a_get_of_several_hangs_with_the_one_that_cannot_come_whichever_was_told_first(scene: Scene) -> None:
    m, _ = two_actors(scene)
    began = noticed(scene, scene.result(scene.submit("other")), count=2)
    told(scene, scene.driver, ids.NIL_TASK, began, 2, [scene.result(m), scene.result(scene.submit("another"))])
    (hang,) = look(scene)["hangs"]
    assert hang["behind"] == 1 and "among them driver" in hang["sentence"]


@pytest.mark.parametrize(("kind", "found"), [(WaitKind.AWAIT, 0), (WaitKind.GATHER, 1)])
def test_who_gathers_needs_all_and_who_awaits_several_may_need_one(scene: Scene, kind: WaitKind, found: int) -> None:
    m, _ = two_actors(scene)
    runner = scene.worker()
    running = scene.submit("running")
    scene.dispatch(running, runner)
    scene.start(running, runner)
    actor, worker = scene.actor("Loop")
    scene.rings[worker].actor_concurrency(scene.tick(), actor, worker, 0, 10, 0)
    outer = calling(scene, "Loop.outer", actor, worker)
    for wanted in (scene.result(m), scene.result(running)):
        scene.rings[worker].wait_noticed(scene.tick(1.0), outer, int(kind), 1, wanted, scene.now - NS)
    (hang,) = look(scene)["hangs"]
    assert hang["behind"] == found


def why(scene: Scene, identifier: str) -> dict:
    view = scene.views()
    view.refresh()
    with (
        mock.patch.object(view.store, "is_live", lambda: True),
        mock.patch.object(view, "now_ns", lambda: scene.now + 60 * NS),
        mock.patch.object(view.store, "running", list),
    ):
        return view.why(identifier, refresh=False)


def test_why_says_that_a_task_is_stuck(scene: Scene) -> None:
    slow, _ = awaited(scene)
    answer = why(scene, slow.hex())
    assert answer["code"] == "RUNNING" and "others took at most" in answer["sentence"]
    assert "stuck" in answer["sentence"] and "obsray stack" in answer["fix"]


def test_a_hang_is_recorded_when_it_is_found_and_when_it_is_over(scene: Scene) -> None:
    m, _ = two_actors(scene)
    found = look(scene)["hangs"]
    records = HangRecords(scene.directory)
    records.looked([], scene.now)
    for at in (1, 2):
        records.looked(found, scene.now + at * NS)
    records.looked([], scene.now + 5 * NS)
    records.close()
    view = scene.views()
    view.refresh()
    (began,) = view.store.rows("hang_found")
    assert began["task"] == m and began["hang"] == "cycle" and began["members"] == 4
    (over,) = view.store.rows("hang_over")
    assert over["task"] == m and over["hung_seconds"] == 4.0
    told = [row["text"] for row in view.story(m.hex())]
    assert any("waits that can never end: " in line and "none of them can ever go on" in line for line in told)


def test_who_looks_next_goes_on_with_what_the_one_before_had_found(scene: Scene) -> None:
    two_actors(scene)
    found = look(scene)["hangs"]
    first, second = HangRecords(scene.directory), HangRecords(scene.directory)
    first.looked(found, scene.now + NS, {})
    first.close()
    view = scene.views()
    view.refresh()
    second.looked(found, scene.now + 2 * NS, hang_watch.recorded(view))
    second.looked([], scene.now + 4 * NS)
    second.close()
    view.refresh()
    assert len(list(view.store.rows("hang_found"))) == 1 and hang_watch.recorded(view) == {}
    (over,) = view.store.rows("hang_over")
    assert over["hung_seconds"] == pytest.approx(3.0, abs=0.1)


def test_a_collector_knows_whether_something_waits_without_looking_at_single_records(scene: Scene) -> None:
    waits, texts = hang_watch.Waits(), Texts()
    rings = RingDirectory(scene.directory / "rings", texts)

    def read() -> bool:
        rings.scan()
        waits.update(rings.read()[0])
        return waits.since > 0

    assert not read()
    m, p = two_actors(scene)
    assert read()
    for task in (m, p):
        scene.driver.task_unblocked(scene.tick(), task, int(WaitKind.GET), 1.0)
    assert not read()
    began = noticed(scene, scene.result(m))
    assert read()
    scene.driver.process_waited(scene.tick(), int(WaitKind.GET), 1, scene.result(m), (scene.now - began) / NS)
    assert not read()


def test_a_dashboard_looks_only_while_something_has_waited_for_a_while(scene: Scene) -> None:
    waits = hang_watch.Waits()
    watching = hang_watch.Watching(scene.directory, waits, seconds=20.0)
    session_file.update(scene.directory, dashboard_pid=os.getpid())

    def told(waited_seconds: float) -> bool:
        waits.since = time.monotonic() - waited_seconds if waited_seconds else 0.0
        watching.look(session_file.read(scene.directory))
        return hang_watch.something_waits(session_file.read(scene.directory))

    assert [told(seconds) for seconds in (0.0, 2.0, 9.0, 3600.0, 0.0)] == [False, False, True, True, False]
