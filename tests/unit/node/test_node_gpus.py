"""GPUs out of service: who gets what is left, what is said, and how they come back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from obsray.core.node.intake import Malformed
from obsray.core.node.resources import UNIT, Resources
from obsray.core.protocol import messages as m
from obsray.telemetry.events import LeaseOutcome, ProcessKind
from tests.unit.node.node_bench import Bench, actor_spec
from tests.unit.node.test_node_groups import ask, define

WATCH = b"watching"
WHY = "Xid 79: it has fallen off the bus"


def watched(gpus: int = 2, cpus: float = 4) -> tuple[Bench, bytes]:
    bench = Bench(cpus=cpus, gpus=gpus)
    bench.do(bench.machine.client_joined, WATCH, ProcessKind.TOOL, 7)
    return bench, bench.driver()


def judge(bench: Bench, gpu: int, healthy: bool = False, reason: str = WHY, xid: int = 79) -> Any:
    facts = {"gpu": gpu, "healthy": healthy, "reason": "" if healthy else reason, "xid": 0 if healthy else xid}
    bench.send(WATCH, m.Request(1, "gpu_health", facts))
    return bench.take(WATCH, m.Reply)[-1]


def lease(bench: Bench, driver: bytes, shape: int, gpus: float) -> Any:
    bench.define(driver, shape, GPU=gpus)
    bench.want(driver, shape, 1)
    bench.workers_join()
    granted = bench.granted(driver)
    return granted[0] if granted else None


def test_a_gpu_out_of_service_is_in_no_total_and_nobody_gets_it():
    bench, driver = watched()
    assert judge(bench, 0).value[0]["state"] == "OUT_OF_SERVICE"
    bench.send(driver, m.Request(2, "resources", {}))
    (reply,) = bench.take(driver, m.Reply)
    assert (reply.value["total"]["GPU"], reply.value["available"]["GPU"]) == (UNIT, UNIT)
    assert lease(bench, driver, 1, 1).devices == {"GPU": [1]}
    assert lease(bench, driver, 2, 0.5) is None
    (changed,) = bench.records.named("gpu_health_changed")
    assert (changed["gpu"], changed["xid"], changed["error"]) == (0, 79, WHY)


def test_who_waits_because_of_it_is_told_so_and_gets_it_when_it_is_well():
    bench, driver = watched()
    judge(bench, 0)
    assert lease(bench, driver, 1, 2) is None
    decided = bench.records.named("lease_decided")[-1]
    assert decided["outcome"] == LeaseOutcome.INFEASIBLE
    assert "GPU 2 (node has 1)" in decided["deficit"] and f"GPU 0 is out of service: {WHY}" in decided["deficit"]
    judge(bench, 0, healthy=True)
    bench.workers_join()
    assert bench.granted(driver)[0].devices == {"GPU": [0, 1]}


def test_what_waits_for_a_gpu_that_is_taken_learns_that_another_is_out_of_service():
    bench, driver = watched()
    judge(bench, 1)
    lease(bench, driver, 1, 1)
    assert lease(bench, driver, 2, 1) is None
    detail = bench.records.named("lease_decided")[-1]["deficit"]
    assert "0 of 1 free" in detail and "GPU 1 is out of service" in detail


def test_a_task_on_it_goes_on_and_its_worker_is_asked_back():
    bench, driver = watched(gpus=1)
    held = lease(bench, driver, 1, 1)
    judge(bench, 0)
    assert [asked.lease for asked in bench.take(driver, m.LeaseReclaim)] == [held.lease]
    assert held.worker in bench.pool.workers and not bench.killed()
    bench.give_back(driver, held)
    assert bench.free("GPU") == 0 == bench.machine.resources.total["GPU"]
    judge(bench, 0, healthy=True)
    assert bench.free("GPU") == 1


def test_an_actor_on_it_stays_and_its_restart_goes_elsewhere():
    bench, driver = watched()
    actor = driver + bytes(7) + b"\x01"
    spec = actor_spec(actor, driver, resources={"GPU": UNIT}, held={"GPU": UNIT}, restarts_max=1)
    bench.send(driver, m.CreateActor(1, spec))
    (worker,) = bench.workers_join()
    (start,) = bench.take(worker, m.StartActor)
    assert list(start.devices["GPU"]) == [0]
    bench.send(worker, m.ActorReady(actor, 4000))
    judge(bench, 0)
    assert not bench.killed()
    bench.worker_dies(worker)
    bench.run_until_quiet(5)
    (again,) = bench.workers_join()
    assert list(bench.take(again, m.StartActor)[0].devices["GPU"]) == [1]


def test_an_actor_with_gpus_whose_owner_is_gone_may_hand_over_what_it_recorded_but_not_for_long():
    bench, driver = watched(gpus=1)
    for number, held in ((1, {"GPU": UNIT}), (2, {"CPU": UNIT})):
        actor = driver + bytes(7) + bytes([number])
        bench.send(driver, m.CreateActor(number, actor_spec(actor, driver, resources=held, held=held)))
    bench.workers_join()
    workers = {bench.actors.by_worker[worker].id[-1]: worker for worker in bench.actors.by_worker}
    for number, worker in workers.items():
        bench.send(worker, m.ActorReady(driver + bytes(7) + bytes([number]), 4000))
    bench.leave(driver)
    assert bench.killed() == [workers[2]], "one without GPUs ends at once"
    assert bench.take(workers[1], m.Exit)
    bench.run_until_quiet(0.4)
    assert not bench.killed()
    bench.run_until_quiet(0.2)
    assert bench.killed() == [workers[1]], "one that is busy for longer than handing over takes"


def test_a_bundle_with_it_gives_it_to_nobody_either():
    bench, driver = watched()
    group = ask(bench, driver, {"GPU": 1})
    judge(bench, 0)
    define(bench, driver, 1, {"group": group, "bundle": 0}, GPU=1)
    bench.want(driver, 1, 1)
    bench.workers_join()
    assert not bench.granted(driver)
    assert "GPU 0 is out of service" in bench.records.named("lease_decided")[-1]["deficit"]
    judge(bench, 0, healthy=True)
    bench.workers_join()
    assert bench.granted(driver)[0].devices == {"GPU": [0]}


def test_the_same_said_twice_changes_nothing_and_only_the_watch_may_say_it():
    bench, driver = watched()
    judge(bench, 0)
    judge(bench, 0, reason="something else")
    assert len(bench.records.named("gpu_health_changed")) == 1
    bench.send(driver, m.Request(3, "gpu_health", {"gpu": 1, "healthy": False, "reason": WHY, "xid": 79}))
    assert bench.take(driver, m.Reply)[-1].kind == "not_allowed"
    assert bench.machine.resources.total["GPU"] == UNIT
    for wrong in ({"gpu": 9, "healthy": False}, {"gpu": 0}, {"gpu": 0, "healthy": "no"}):
        with pytest.raises(Malformed):
            bench.send(WATCH, m.Request(4, "gpu_health", wrong))


@settings(max_examples=60, deadline=None, print_blob=True)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.sampled_from([0.25, 0.5, 1, 2])), min_size=1, max_size=25
    )
)
def test_the_books_balance_whatever_goes_out_and_in(script):
    bench, driver = watched(gpus=3)
    held: list[Any] = []
    for shape, (what, gpu, amount) in enumerate(script, 1):
        if what == 0:
            judge(bench, gpu)
        elif what == 1:
            judge(bench, gpu, healthy=True)
        elif what == 2 or not held:
            bench.define(driver, shape, GPU=amount)
            bench.want(driver, shape, 1)
        else:
            bench.give_back(driver, held.pop())
        bench.workers_join()
        held += bench.granted(driver)
    for gpu in range(3):
        judge(bench, gpu, healthy=True)
    for shape in range(1, len(script) + 1):
        if (driver, shape) in bench.scheduler.demands:
            bench.want(driver, shape, 0)
    while held := held + bench.granted(driver):
        bench.give_back(driver, held.pop())
    assert bench.free("GPU") == 3 == bench.machine.resources.total["GPU"] / UNIT


def test_nothing_of_what_is_out_is_tried_on():
    resources = Resources({"GPU": 2 * UNIT})
    resources.take(1, {"GPU": UNIT // 2})
    resources.take_out(0, WHY)
    assert resources.emptied().capacity == {1: UNIT} and resources.emptied().free == {"GPU": UNIT}
    assert not resources.trial().fits({"GPU": 2 * UNIT})
    resources.take_out(7, WHY)
    resources.put_in(7)
    resources.check_invariants()
