"""Actors: registration, names, placement, restarts, watchers, and the two ways to end one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from node_bench import Bench, actor_spec

from obsray.core.node.intake import Malformed
from obsray.core.node.resources import UNIT
from obsray.core.node.step import RemoveCheckpoints
from obsray.core.protocol import messages as m
from obsray.core.protocol.lifecycle import ActorState
from obsray.ids import NIL_WORKER, SEQUENCE_ACTOR, task_id
from obsray.telemetry.events import DeathCause, Reason


def create(bench: Bench, owner: bytes, number: int = 1, **changes: Any) -> bytes:
    """Ask for an actor that is registered without complaint; its owner is told of every change."""
    actor = task_id(owner, number, SEQUENCE_ACTOR)
    bench.send(owner, m.CreateActor(number, actor_spec(actor, owner, **changes)))
    assert [reply.error for reply in bench.take(owner, m.Reply)] == [""]
    return actor


def alive(bench: Bench, owner: bytes, number: int = 1, **changes: Any) -> tuple[bytes, bytes]:
    """An actor whose constructor has returned, and its worker."""
    actor = create(bench, owner, number, **changes)
    bench.workers_join()
    worker = bench.actors.actors[actor].worker
    assert [type(message) for message in bench.take(worker)] == [m.StartActor]
    bench.send(worker, m.ActorReady(actor, 7))
    return actor, worker


def states(bench: Bench, client: bytes) -> list[ActorState]:
    return [ActorState(news.state) for news in bench.take(client, m.ActorChanged)]


def test_an_actor_becomes_a_worker():
    bench = Bench(cpus=1)
    driver = bench.driver()
    actor, worker = alive(bench, driver, held={"CPU": UNIT})
    news = bench.take(driver, m.ActorChanged)
    assert [each.state for each in news] == [ActorState.ALIVE]
    assert (news[-1].worker, news[-1].path) == (worker, f"/sockets/{worker.hex()}.sock")
    assert bench.free() == 0
    assert [name for name, _ in bench.records.events if name.startswith("actor_")] == [
        "actor_created", "actor_placed", "actor_alive",
    ]  # fmt: skip
    assert bench.actors.actors[actor].state is ActorState.ALIVE


def test_what_is_only_needed_to_place_an_actor_is_free_afterwards():
    bench = Bench(cpus=1)
    driver = bench.driver()
    alive(bench, driver, 1)
    assert bench.free() == 1
    alive(bench, driver, 2)


def test_an_actor_waits_until_what_it_needs_to_be_placed_is_free():
    bench = Bench(cpus=1)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.want(driver, 1, 1)
    bench.workers_join()
    (lease,) = bench.granted(driver)
    actor = create(bench, driver)
    bench.workers_join()
    assert bench.actors.actors[actor].state is ActorState.PENDING_CREATION
    assert bench.take(driver, m.LeaseReclaim)
    bench.give_back(driver, lease)
    bench.workers_join()
    assert bench.actors.actors[actor].lease


def test_an_actor_gets_a_process_that_no_task_used():
    bench = Bench(cpus=1)
    driver = bench.driver()
    bench.define(driver, 1, CPU=1)
    bench.want(driver, 1, 1)
    bench.workers_join()
    (lease,) = bench.granted(driver)
    used = lease.worker
    bench.give_back(driver, lease)
    actor = create(bench, driver)
    bench.workers_join()
    given = bench.actors.actors[actor].lease
    assert given and bench.scheduler.leases[given].worker.id != used


def test_at_the_process_limit_an_actor_is_told_that_actors_hold_the_processes():
    bench = Bench(cpus=8, workers_max=2)
    driver = bench.driver()
    for number in (1, 2):
        alive(bench, driver, number)
    create(bench, driver, 3)
    decided = bench.records.take("lease_decided")[-1]
    assert (decided["reason"], decided["deficit"]) == (Reason.WORKER_LIMIT, "2 of 2 processes exist, 2 are actors")
    bench.send(driver, m.Request(9, "nodes", {}))
    assert bench.take(driver, m.Reply)[-1].value[0]["full"] == "2 of 2 processes exist, 2 are actors"


def test_a_name_belongs_to_one_living_actor_of_a_namespace():
    bench = Bench()
    driver = bench.driver()
    actor, worker = alive(bench, driver, 1, name="counter", namespace="a")
    other = task_id(driver, 2, SEQUENCE_ACTOR)
    bench.send(driver, m.CreateActor(5, actor_spec(other, driver, name="counter", namespace="a")))
    (reply,) = bench.take(driver, m.Reply)
    assert (reply.request, reply.kind) == (5, "name_taken")
    (died,) = bench.records.named("actor_died")
    assert died["actor"] == other, "it was asked for, and nobody waits for it in records for ever"
    create(bench, driver, 3, name="counter", namespace="b")
    bench.send(driver, m.Request(6, "get_actor", {"name": "counter", "namespace": "a"}))
    assert bench.take(driver, m.Reply)[0].value == {"actor": actor, "meta": b"meta"}
    bench.send(driver, m.Request(7, "list_actors", {"namespace": None}))
    assert len(bench.take(driver, m.Reply)[0].value) == 2
    bench.worker_dies(worker)
    bench.send(driver, m.Request(8, "get_actor", {"name": "counter", "namespace": "a"}))
    assert bench.take(driver, m.Reply)[0].value is None
    create(bench, driver, 4, name="counter", namespace="a")


def test_an_actor_starts_again_as_often_as_it_may():
    bench = Bench()
    driver = bench.driver()
    actor, worker = alive(bench, driver, restarts_max=2)
    bench.take(driver)
    for incarnation in (1, 2):
        bench.worker_dies(worker, signal=11)
        assert states(bench, driver) == [ActorState.RESTARTING]
        bench.workers_join()
        worker = bench.actors.actors[actor].worker
        (start,) = bench.take(worker, m.StartActor)
        assert start.incarnation == incarnation
        bench.send(worker, m.ActorReady(actor, 7))
        assert states(bench, driver) == [ActorState.ALIVE]
    bench.worker_dies(worker, signal=11, tail="Traceback: boom")
    (news,) = bench.take(driver, m.ActorChanged)
    assert (news.state, news.cause) == (ActorState.DEAD, DeathCause.SIGNAL)
    assert "killed by signal 11" in news.detail and "boom" in news.detail


def test_a_constructor_that_raises_is_the_end_with_its_error():
    bench = Bench()
    driver = bench.driver()
    actor = create(bench, driver, restarts_max=5)
    bench.workers_join()
    worker = bench.actors.actors[actor].worker
    bench.send(worker, m.ActorFailed(actor, b"pickled error", False))
    news = bench.take(driver, m.ActorChanged)[-1]
    assert (news.state, news.error) == (ActorState.DEAD, b"pickled error")
    assert [type(message) for message in bench.take(worker)][-1] is m.Exit
    bench.worker_dies(worker, signal=0)
    assert bench.take(driver, m.ActorChanged) == []


def test_an_actor_that_asks_to_exit_does_not_start_again():
    bench = Bench()
    driver = bench.driver()
    actor, worker = alive(bench, driver, restarts_max=-1)
    bench.send(worker, m.ActorFailed(actor, b"", True), m.Goodbye())
    bench.worker_dies(worker, signal=0)
    news = bench.take(driver, m.ActorChanged)[-1]
    assert (news.state, news.cause) == (ActorState.DEAD, DeathCause.INTENDED)


def test_killing_for_good_is_known_at_once():
    bench = Bench()
    driver = bench.driver()
    actor, worker = alive(bench, driver, restarts_max=-1, name="n")
    bench.take(driver)
    bench.send(driver, m.KillActor(actor, False, False))
    assert states(bench, driver) == [ActorState.DEAD]
    assert bench.actors.names.names == {}
    assert bench.killed() == [worker]
    bench.worker_dies(worker)
    assert states(bench, driver) == []
    assert bench.free() == 2


def test_killing_with_restart_uses_up_a_restart():
    bench = Bench()
    driver = bench.driver()
    actor, worker = alive(bench, driver, restarts_max=1)
    bench.take(driver)
    bench.send(driver, m.KillActor(actor, True, False))
    bench.worker_dies(worker)
    assert states(bench, driver) == [ActorState.RESTARTING]
    bench.workers_join()
    worker = bench.actors.actors[actor].worker
    bench.send(driver, m.KillActor(actor, True, False))
    bench.worker_dies(worker)
    assert states(bench, driver) == [ActorState.DEAD]


def test_a_graceful_end_leaves_time_for_the_calls_already_made():
    bench = Bench()
    driver = bench.driver()
    actor, worker = alive(bench, driver, restarts_max=-1)
    bench.send(driver, m.KillActor(actor, False, True))
    assert [type(message) for message in bench.take(worker)] == [m.Exit]
    bench.run_until_quiet(3600)
    assert bench.killed() == []
    bench.send(worker, m.Goodbye())
    bench.run_until_quiet(3)
    assert bench.killed() == [worker]
    bench.worker_dies(worker)
    assert states(bench, driver)[-1] is ActorState.DEAD
    assert bench.actors.actors[actor].cause is DeathCause.KILLED_BY_REQUEST
    assert "no handle to the actor was left" in bench.actors.actors[actor].detail


@pytest.mark.parametrize(
    ("graceful", "cause", "why"),
    [
        (False, DeathCause.KILLED_BY_REQUEST, "it never ran; its process was ended by kill()"),
        (True, DeathCause.INTENDED, "it never ran; no handle to the actor was left"),
    ],
)
def test_an_actor_that_waits_can_be_killed_and_ends_when_nobody_can_call_it(graceful, cause, why):
    bench = Bench(cpus=1)
    driver = bench.driver()
    actor = create(bench, driver, resources={"GPU": UNIT})
    bench.send(driver, m.KillActor(actor, False, graceful))
    assert states(bench, driver)[-1] is ActorState.DEAD
    assert (bench.actors.actors[actor].cause, bench.actors.actors[actor].detail) == (cause, why)
    assert bench.scheduler.waiting() == (0, 0)


@pytest.mark.parametrize("detached", [False, True])
def test_an_actor_ends_with_its_owner_unless_it_is_detached(detached):
    bench = Bench()
    driver, other = bench.driver(), bench.driver(b"driver_2")
    actor, worker = alive(bench, driver, restarts_max=-1, detached=detached)
    bench.send(other, m.WatchActor(actor))
    bench.take(other)
    bench.leave(driver)
    assert states(bench, other) == ([] if detached else [ActorState.DEAD])
    assert bench.killed() == ([] if detached else [worker])


def test_who_watches_an_unknown_actor_hears_that_it_is_dead():
    bench = Bench()
    driver = bench.driver()
    bench.send(driver, m.WatchActor(b"?" * 16))
    (news,) = bench.take(driver)
    assert news.state == ActorState.DEAD and "no such actor" in news.detail


def unborn(bench: Bench) -> tuple[bytes, bytes, bytes]:
    """A driver, the id of an actor that it has not created yet, and somebody else who was given its handle."""
    owner, other = bench.driver(), bench.driver(b"driver_2")
    actor = task_id(owner, 1, SEQUENCE_ACTOR)
    bench.send(other, m.WatchActor(actor))
    assert bench.take(other, m.ActorChanged) == []
    return owner, actor, other


def test_who_has_the_handle_of_an_actor_that_is_still_to_be_created_waits_for_it():
    bench = Bench()
    owner, actor, other = unborn(bench)
    assert alive(bench, owner)[0] == actor
    assert states(bench, other) == [ActorState.ALIVE]


@pytest.mark.parametrize(("intended", "cause"), [(False, DeathCause.START_FAILED), (True, DeathCause.INTENDED)])
def test_who_waits_for_an_actor_hears_that_it_will_never_be_created_early_or_late(intended, cause):
    bench = Bench()
    owner, actor, other = unborn(bench)
    bench.send(owner, m.ActorFailed(actor, b"pickled error", intended))
    bench.send(other, m.WatchActor(actor))
    for news in bench.take(other, m.ActorChanged):
        assert (news.state, news.cause, news.error) == (ActorState.DEAD, cause, b"pickled error")
    assert bench.actors.awaited == {}


def test_only_its_owner_can_say_that_an_actor_will_never_be_created():
    bench = Bench()
    owner, actor, other = unborn(bench)
    bench.send(other, m.ActorFailed(actor, b"lie", False))
    assert bench.take(other, m.ActorChanged) == []
    alive(bench, owner)
    assert states(bench, other) == [ActorState.ALIVE]


def test_an_actor_that_is_killed_before_its_owner_could_create_it_never_starts():
    bench = Bench()
    owner, actor, other = unborn(bench)
    bench.send(other, m.KillActor(actor, False, False))
    assert states(bench, other) == [ActorState.DEAD]
    create(bench, owner)
    assert states(bench, owner) == [ActorState.DEAD]
    bench.workers_join()
    assert bench.actors.by_worker == {} and bench.machine.resources.free == bench.machine.resources.total


def test_an_actor_to_come_dies_with_its_owner():
    bench = Bench()
    owner, _, other = unborn(bench)
    bench.leave(owner)
    assert states(bench, other) == [ActorState.DEAD]
    assert bench.actors.awaited == {}


def test_nobody_waits_for_an_actor_that_died_so_long_ago_that_it_was_forgotten(monkeypatch):
    monkeypatch.setattr("obsray.core.node.actors.DEAD_REMEMBERED_MAX", 1)
    bench = Bench()
    owner, other = bench.driver(), bench.driver(b"driver_2")
    actors = [create(bench, owner, number) for number in (1, 2)]
    for actor in actors:
        bench.send(owner, m.KillActor(actor, False, False))
    assert actors[0] not in bench.actors.actors
    bench.send(other, m.WatchActor(actors[0]))
    assert states(bench, other) == [ActorState.DEAD]


def test_a_worker_cannot_speak_for_the_actor_of_another():
    bench = Bench(cpus=2, prestart=1)
    bench.do(bench.machine.start)
    driver = bench.driver()
    actor = create(bench, driver)
    (stranger,) = bench.workers_join() or [driver]
    bench.send(driver, m.ActorReady(actor, 7), m.ActorFailed(actor, b"", False))
    assert bench.actors.actors[actor].state is ActorState.PENDING_CREATION
    assert stranger


def test_gpus_of_an_actor_are_named_to_it():
    bench = Bench(gpus=2)
    driver = bench.driver()
    actor = create(bench, driver, resources={"GPU": UNIT}, held={"GPU": UNIT})
    bench.workers_join()
    (start,) = bench.take(bench.actors.actors[actor].worker, m.StartActor)
    assert start.devices == {"GPU": [0]} or start.devices == {"GPU": (0,)}


@pytest.mark.parametrize(
    "changes",
    [
        {"resources": None}, {"held": {"CPU": -1}}, {"held": {"CPU": "1"}}, {"restarts_max": "x"}, {"task": b"short"},
        {"actor": b""}, {"runtime": {"env_vars": 3}}, {"job": None},
    ],
)  # fmt: skip
def test_a_malformed_specification_is_refused(changes):
    bench = Bench()
    driver = bench.driver()
    actor = task_id(driver, 1, SEQUENCE_ACTOR)
    with pytest.raises(Malformed):
        bench.send(driver, m.CreateActor(1, {**actor_spec(actor, driver), **changes}))
    incomplete = actor_spec(actor, driver)
    del incomplete["class_name"]
    with pytest.raises(Malformed):
        bench.send(driver, m.CreateActor(1, incomplete))
    assert bench.actors.actors == {}


def test_three_hundred_actors_are_placed_as_processes_come_up():
    bench = Bench(cpus=2, workers_max=400)
    driver = bench.driver()
    for number in range(300):
        create(bench, driver, number)
    assert 0 < len(bench.asked) <= bench.pool.starting_max
    while bench.workers_join():
        pass
    assert all(actor.lease for actor in bench.actors.actors.values())


@settings(max_examples=120, deadline=None, print_blob=True)
@given(st.lists(st.tuples(st.sampled_from("crfdkgKje"), st.integers(0, 4), st.integers(-1, 2)), max_size=60))
def test_no_actor_is_lost_whatever_happens(script):
    """The bench checks all invariants after every stimulus; in the end everything that was held is free."""
    bench = Bench(cpus=2, workers_max=4)
    drivers = {number % 2: bench.driver(b"driver_%d" % (number % 2)) for number in range(2)}
    for action, number, count in script:
        owner = drivers.get(number % 2)
        ids = task_id(b"driver_%d" % (number % 2), number, SEQUENCE_ACTOR)
        actor = bench.actors.actors.get(ids)
        worker = actor.worker if actor is not None and any(actor.worker) else None
        if action == "c" and owner:
            held = {"CPU": UNIT} if number % 2 else {}
            bench.send(owner, m.CreateActor(1, actor_spec(ids, owner, restarts_max=count, held=held)))
        elif action == "r" and worker in bench.machine.clients:
            bench.send(worker, m.ActorReady(ids, 7))
        elif action == "f" and worker in bench.machine.clients:
            bench.send(worker, m.ActorFailed(ids, b"", bool(count)))
        elif action == "d" and worker:
            bench.worker_dies(worker)
        elif action in "kgK" and owner:
            bench.send(owner, m.KillActor(ids, action == "K", action == "g"))
        elif action == "j":
            bench.workers_join(2)
        elif action == "e" and owner:
            bench.leave(drivers.pop(number % 2))
        bench.tick(0.5)
    for driver in drivers.values():
        bench.leave(driver)
    bench.run_until_quiet(10)
    for worker in bench.killed():
        bench.worker_dies(worker)
    assert all(actor.state is ActorState.DEAD for actor in bench.actors.actors.values())
    assert bench.machine.resources.free == bench.machine.resources.total


def test_an_actor_whose_process_keeps_dying_in_its_constructor_waits_longer_each_time():
    bench = Bench(cpus=1)
    driver = bench.driver()
    actor = create(bench, driver, restarts_max=-1)
    waited = []
    for _ in range(10):
        bench.workers_join()
        started = bench.now
        while bench.actors.actors[actor].worker == NIL_WORKER:
            assert bench.wake_at is not None
            bench.tick(max(0.0, bench.wake_at - bench.now))
            bench.workers_join()
        waited.append(round(bench.now - started, 1))
        bench.worker_dies(bench.actors.actors[actor].worker)
    assert waited == [0.0, 0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0]
    assert "starts again in 10 s" in bench.actors.actors[actor].detail
    bench.send(driver, m.KillActor(actor, False, False))
    assert bench.actors.actors[actor].state is ActorState.DEAD and not bench.actors.resting


def test_an_actor_that_has_lived_starts_again_at_once():
    bench = Bench(cpus=1)
    driver = bench.driver()
    actor, worker = alive(bench, driver, restarts_max=-1)
    for _ in range(4):
        bench.worker_dies(worker)
        bench.workers_join()
        worker = bench.actors.actors[actor].worker
        assert worker != NIL_WORKER
        bench.send(worker, m.ActorReady(actor, 7))
    assert not bench.actors.resting


def test_an_actor_that_gives_up_is_dead_with_its_error_and_does_not_start_again():
    bench = Bench(cpus=1)
    driver = bench.driver()
    actor, worker = alive(bench, driver, restarts_max=-1, checkpoint={"every": 1})
    stranger = bench.driver(b"driver_2")
    bench.send(stranger, m.ActorGaveUp(actor, b"not mine", "not mine"))
    assert bench.actors.actors[actor].state is ActorState.ALIVE
    bench.take(driver)
    bench.send(worker, m.ActorGaveUp(actor, b"error", "its hook raised"))
    (news,) = bench.take(driver, m.ActorChanged)
    assert (news.state, news.error, news.cause) == (ActorState.DEAD, b"error", DeathCause.GAVE_UP)
    assert bench.take_effects(RemoveCheckpoints) == [RemoveCheckpoints(actor)]
    bench.worker_dies(worker)
    assert bench.take(driver, m.ActorChanged) == []
