"""Nobody starves behind long tasks, blocked tasks give their CPU back, and every decision can be asked why."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import obsray
from tests.integration.programs import eventually, views

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def session() -> Iterator[Path]:
    context = obsray.init(num_cpus=2, include_dashboard=False)
    yield Path(context.address_info["session_dir"])
    obsray.shutdown()


def task_of(reference: Any) -> str:
    return str(reference.hex()[:32])


@obsray.remote
def until(path: Path | None) -> None:
    """Short, except when there is a file to wait for."""
    while path is not None and not path.exists():
        time.sleep(0.005)


def test_what_waits_behind_a_task_that_is_suddenly_long_runs_on_other_workers(session, tmp_path):
    gate = tmp_path / "gate"
    obsray.get([until.remote(None) for _ in range(500)])  # now it is known to be short
    references = [until.remote(gate if number == 100 else None) for number in range(400)]
    ready, rest = obsray.wait(references, num_returns=399, timeout=30)
    assert len(ready) == 399 and rest == [references[100]]
    gate.touch()
    obsray.get(rest)


def test_recursion_may_be_deeper_than_there_are_cores(session):
    @obsray.remote
    def depth(levels):
        return 0 if levels == 0 else 1 + obsray.get(depth.remote(levels - 1))

    reference = depth.remote(12)
    assert obsray.get(reference, timeout=30) == 12
    task = task_of(reference)
    told = eventually(lambda: blocked_and_back(views(session).story(task)))
    assert told["task_blocked"]["waiting_in"] == "get" and told["task_blocked"]["objects"] == 1
    assert told["task_blocked"]["object"][:32] == views(session).task(task)["children"]["task_ids"][0]
    assert told["task_unblocked"]["blocked_seconds"] > 0
    values = views(session).task(task)
    assert values["blocked_seconds"] > 0 and values["children"]["total"] == 1
    assert sum(piece["seconds"] for piece in values["time_split"]) == pytest.approx(values["total_seconds"], rel=0.2)


def blocked_and_back(events: list[dict[str, Any]]) -> Any:
    found = {event["event"]: event["fields"] for event in events}
    return found if {"task_blocked", "task_unblocked"} <= set(found) else None


def test_a_task_blocked_in_get_lends_its_cpu(session):
    @obsray.remote(num_cpus=2)
    def outer():
        @obsray.remote(num_cpus=2)
        def inner():
            return obsray.available_resources().get("CPU", 0.0)

        return obsray.get(inner.remote())

    assert obsray.get(outer.remote(), timeout=30) == 0.0


def test_a_task_and_its_decision_are_found_with_reason_and_candidates(session):
    @obsray.remote(num_cpus=1.5)
    def odd_shape():
        return 1

    reference = odd_shape.remote()
    obsray.get(reference)
    task = task_of(reference)
    view = views(session)
    shape = eventually(lambda: (view.task(task) or {}).get("shape"))
    decision = eventually(lambda: [d for d in view.leases()["decisions"] if d["shape"] == shape])[-1]
    assert decision["outcome"] in ("granted", "queued") and decision["reason"] not in ("", "none")
    assert [c["feasible"] for c in decision["candidates"]] == [1]
    assert len(decision["candidates"][0]["node"]) == 16
    names = eventually(lambda: decided_and_sent(view.story(task)))
    assert {"lease_decided", "lease_candidate", "tasks_dispatched"} <= names


def decided_and_sent(events: list[dict[str, Any]]) -> set[str]:
    names = {event["event"] for event in events}
    return names if "task_ended" in names else set()


def test_an_infeasible_task_says_what_is_missing(session):
    reference = until.options(num_gpus=4).remote(None)
    ready, _ = obsray.wait([reference], timeout=0.2)
    assert not ready
    task, view = task_of(reference), views(session)
    reason = eventually(lambda: infeasible(view.task(task)))
    assert "GPU" in reason and "4" in reason, reason
    obsray.cancel(reference)
    with pytest.raises(obsray.exceptions.TaskCancelledError):
        obsray.get(reference)
    assert eventually(lambda: view.task(task)["state"] == "CANCELLED")


def infeasible(task: Any) -> str:
    reason = (task or {}).get("pending_reason") or ""
    return reason if "infeasible" in reason else ""


def test_a_task_that_waits_for_cpus_says_who_holds_them(session, tmp_path):
    gate = tmp_path / "gate"
    holders = [until.options(name="the_holder").remote(gate) for _ in range(2)]

    @obsray.remote(num_cpus=2)
    def wants_all():
        return 1

    waiting = wants_all.remote()
    view = views(session)
    reason = eventually(lambda: with_holder(view.task(task_of(waiting))))
    gate.touch()
    assert "no capacity" in reason and "CPU" in reason, reason
    assert obsray.get(waiting) == 1
    obsray.get(holders)


def with_holder(task: Any) -> str:
    reason = (task or {}).get("pending_reason") or ""
    return reason if "the_holder" in reason else ""


def test_a_task_that_waits_for_an_argument_names_its_producer(session, tmp_path):
    gate = tmp_path / "gate"
    argument = until.remote(gate)

    @obsray.remote
    def consumer(value):
        return value

    waiting = consumer.remote(argument)
    view = views(session)
    reason = eventually(lambda: (view.task(task_of(waiting)) or {}).get("pending_reason"))
    gate.touch()
    assert "until" in reason and "waits" in reason, reason
    assert obsray.get(waiting) is None
