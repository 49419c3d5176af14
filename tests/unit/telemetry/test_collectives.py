"""A group's row adds up what its members recorded, whoever recorded it and in whatever order."""

from __future__ import annotations

import numpy as np
import pytest

from obsray.telemetry.events import ProcessKind
from obsray.telemetry.samples import PerSecond
from obsray.telemetry.spine import Ring
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views

NOBODY = bytes(16)
GROUP = b"g" * 16


@pytest.fixture
def session(tmp_path):
    (tmp_path / "rings").mkdir()
    rings = [Ring(tmp_path / "rings", bytes([n]) * 8, ProcessKind.WORKER) for n in (1, 2)]
    return rings, Views(Store.open(tmp_path))


def join(ring, rank):
    name, backend = ring.intern("gradients"), ring.intern("obsray")
    ring.collective_joined(1_000 + rank, GROUP, name, NOBODY, rank, 2, backend, 0.5)


def operate(ring, rank, number, wait):
    name, operation = ring.intern("gradients"), ring.intern("allreduce")
    ring.collective_ended(
        2_000 + number, GROUP, name, NOBODY, operation, number, rank, 2, 100, 110, 1.0, wait, 1.0 - wait
    )


def test_a_group_says_for_whom_its_members_waited(session):
    (one, two), view = session
    join(one, 0)
    assert [row["state"] for row in view.collectives()] == ["FORMING"]
    join(two, 1)
    for number in (1, 2, 3):
        operate(one, 0, number, 0.5)
        operate(two, 1, number, 0.25)
    (row,) = view.collectives()
    assert (row["state"], row["name"], row["members"], row["operations"]) == ("READY", "gradients", 2, 3)
    assert (row["sent_bytes"], row["seconds"], row["wait_seconds"]) == (660, 6.0, 2.25)
    assert row["wait_ratio"] == pytest.approx(0.375)
    # Rank 1 waited less than rank 0: it is the one that came late.
    assert row["slowest_rank"] == 1


def test_a_clock_that_is_off_by_years_costs_no_memory():
    counts = PerSecond()
    for seconds in (1_795_000_000, 5, 1_795_000_001):
        counts.add(np.array([seconds * 1_000_000_000], np.uint64))
    assert counts.series(1_795_000_002, 3) == [0, 1, 1]
    assert len(counts.counts) < 1000


def test_a_group_ends_when_all_have_left_or_one_says_why_it_broke(session):
    (one, two), view = session
    join(one, 0)
    join(two, 1)
    one.collective_left(3_000, GROUP, one.intern("gradients"), NOBODY, 0, 2)
    assert [row["state"] for row in view.collectives()] == ["READY"]
    two.collective_left(3_001, GROUP, two.intern("gradients"), NOBODY, 1, 2)
    assert [row["state"] for row in view.collectives()] == ["LEFT"]
    two.collective_broken(2_900, GROUP, two.intern("gradients"), NOBODY, 1, 2, two.intern("rank 0 is gone"))
    (row,) = view.collectives()
    assert (row["state"], row["broken"]) == ("BROKEN", "rank 0 is gone")
    two.collective_broken(9, NOBODY, two.intern("never met"), NOBODY, 1, 2, two.intern("late"))
    assert len(view.collectives()) == 1
