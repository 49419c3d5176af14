"""What the autoscaler did, as a table: folded from its events alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from obsray.telemetry.events import ProcessKind, ScalingCause, ScalingVerdict
from obsray.telemetry.spine import Ring
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views

NS = 1_000_000_000
START = 1_700_000_000 * NS


class Told:
    """A session of which only the rings of autoscalers are there."""

    def __init__(self, directory: Path) -> None:
        for name in ("rings", "telemetry"):
            (directory / name).mkdir()
        self.directory = directory
        self.views = Views(Store(directory))

    def autoscaler(self, name: bytes) -> Ring:
        return Ring(self.directory / "rings", name, ProcessKind.AUTOSCALER, b"the node")

    def scaling(self) -> dict[str, Any]:
        found = self.views.scaling()
        assert found is not None
        return found


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def sample(ring: Ring, at: int) -> None:
    ring.node_type_sample(at, ring.intern("big"), 1, 0, 0, 0, 3, 0, 0.001, ring.intern("CPU:4"), 0)


def judge(ring: Ring, at: int, demand: str, units: int) -> None:
    ring.demand_judged(at, ring.intern(demand), ScalingVerdict.AT_MAX, units, ring.intern("big"), ring.intern("full"))


def test_without_an_autoscaler_there_is_nothing_to_tell(told: Told):
    assert told.views.scaling() is None and told.views.instances() == []


def test_an_instance_is_followed_from_why_it_was_asked_for_to_its_end(told: Told):
    ring = told.autoscaler(b"scaler_1")
    kind, node = ring.intern("big"), b"node_one"
    sample(ring, START)
    ring.instance_requested(START, node, kind, ScalingCause.GROUP, 1, ring.intern("for placement group train"))
    ring.instance_joined(START + NS, node, kind, 1.0)
    assert [(row["state"], row["why"]) for row in told.views.instances()] == [("RUNNING", "for placement group train")]
    ring.instance_released(START + 2 * NS, node, kind, 60.0, ring.intern("nothing has run there for 60.0 s"))
    assert told.views.instances()[0]["state"] == "LEAVING"
    ring.instance_ended(START + 3 * NS, node, kind, 2.0, ring.intern("nothing has run there for 60.0 s"))
    (row,) = told.views.instances()
    assert (row["state"], row["cause"], row["start_seconds"], row["ended_at_ns"]) == (
        "ENDED",
        "group",
        1.0,
        START + 3 * NS,
    )
    decisions = told.scaling()["decisions"]
    assert [row["event"] for row in decisions] == [
        "instance_ended", "instance_released", "instance_joined", "instance_requested",
    ]  # fmt: skip
    assert "is started: for placement group train" in decisions[-1]["text"]


def test_what_waits_is_what_was_judged_last_and_not_over(told: Told):
    ring = told.autoscaler(b"scaler_1")
    sample(ring, START)
    judge(ring, START, "CPU:1", 7)
    judge(ring, START, "CPU:2", 1)
    judge(ring, START + NS, "CPU:1", 9)
    judge(ring, START + NS, "CPU:2", 0)
    (row,) = told.scaling()["demands"]
    assert (row["demand"], row["units"], row["since_ns"]) == ("CPU:1", 9, START)


def test_what_an_autoscaler_said_that_was_killed_does_not_stay(told: Told):
    judge(told.autoscaler(b"scaler_1"), START, "CPU:1", 7)
    sample(told.autoscaler(b"scaler_2"), START + NS)
    assert told.scaling()["demands"] == []
