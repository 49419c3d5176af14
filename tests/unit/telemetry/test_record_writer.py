"""What packs records in C packs the same bytes as Python, and refuses the same."""

from __future__ import annotations

import gc
import itertools
import random
import struct
import threading
import weakref
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest

from obsray.telemetry import spine
from obsray.telemetry.events import BY_NAME, EVENTS, RECORD_BYTES, ProcessKind
from obsray.telemetry.spine import FINAL_ATTEMPT, Ring
from tests.unit.telemetry.recording import value_of


class Colour(IntEnum):
    GREEN = 3


@pytest.fixture
def rings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Ring, Ring]:
    """One that packs in C, and one that packs in Python."""
    compiled = Ring(tmp_path, b"compiled", ProcessKind.WORKER)
    assert "_record_writer" in repr(compiled.task_ended), (
        "record_writer.c was not compiled: install gcc, then obsray again"
    )
    monkeypatch.setattr(spine, "_record_writer", None)
    return compiled, Ring(tmp_path, b"inpython", ProcessKind.WORKER)


def last(ring: Ring) -> bytes:
    offset = (ring.taken() - 1 - ring.base) * RECORD_BYTES
    return bytes(ring.buffer[offset : offset + RECORD_BYTES])


def test_every_event_is_packed_to_the_same_bytes(rings: tuple[Ring, Ring]) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for event in EVENTS.values():
        if event.name in ("ring_closed", "events_dropped"):
            continue  # these are not written through an emitter
        for _ in range(20):
            time_ns = chance.randrange(1 << 64)
            values = [
                chance.randrange(1 << 32) if field.code == "str" else value_of(field.code, chance)
                for field in event.fields
            ]
            for ring in rings:
                getattr(ring, event.name)(time_ns, *values)
            assert last(rings[0]) == last(rings[1]), (event.name, time_ns, values)


def test_values_of_other_types_are_taken_alike(rings: tuple[Ring, Ring]) -> None:
    for ring in rings:
        ring.task_unblocked(np.uint64(7), bytearray(b"short"), Colour.GREEN, np.float32(0.5))
    assert last(rings[0]) == last(rings[1])
    for ring in rings:
        ring.task_unblocked(time_ns=8, task=b"far too long for an id", waiting_in=True, blocked_seconds=3)
    assert last(rings[0]) == last(rings[1])


WRONG = {
    "an id that is no bytes": (1, "task", 1, 0.5),
    "a number that is too large": (1, b"task", 256, 0.5),
    "a number below zero": (1, b"task", -1, 0.5),
    "a time below zero": (-1, b"task", 1, 0.5),
    "a text in place of a number": (1, b"task", 1, "0.5"),
    "nothing in place of a number": (1, b"task", None, 0.5),
    "too few": (1, b"task", 1),
    "too many": (1, b"task", 1, 0.5, 2),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused_and_leaves_no_hole(rings: tuple[Ring, Ring], case: str) -> None:
    compiled = rings[0]
    taken = compiled.taken()
    for ring in rings:
        with pytest.raises((TypeError, OverflowError, struct.error)):
            ring.task_unblocked(*WRONG[case])
    assert compiled.taken() == taken
    for wrong in ({"nonsense": 1}, {"task": b"", "time_ns": 5}):
        with pytest.raises(TypeError):
            compiled.task_unblocked(1, b"task", 1, **wrong)
    assert compiled.taken() == taken


def test_what_threads_run_is_written_the_same(rings: tuple[Ring, Ring]) -> None:
    for ring in rings:
        ring.running(0, b"t" * 16, 1 << 60, 77, 3 | FINAL_ATTEMPT)
        ring.running(63, b"u" * 16, 5, 78, 0)
        ring.told(0, 1 << 60)
        ring.idle(63)
    assert bytes(rings[0]._now) == bytes(rings[1]._now)
    for wrong in ((64, b"", 1, 1, 1), (-1, b"", 1, 1, 1), (0, b"", 1, 1, 1 << 16), (0, b"")):
        with pytest.raises((IndexError, OverflowError, TypeError)):
            rings[0].running(*wrong)
    assert bytes(rings[0]._now) == bytes(rings[1]._now)


def test_threads_share_a_ring_across_segments(rings: tuple[Ring, Ring], monkeypatch: pytest.MonkeyPatch) -> None:
    ring, numbers, threads_count = rings[0], itertools.count(), 4

    def write() -> None:
        for _ in range(spine.SEGMENT_RECORDS):
            ring.user_mark(next(numbers), bytes(16), 0, 0)

    threads = [threading.Thread(target=write) for _ in range(threads_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kind, seen, sequences = BY_NAME["user_mark"].kind, [], []
    for path in sorted(ring.directory.glob(f"{ring.process.hex()}.*.ring")):
        data = path.read_bytes()[spine.HEADER_BYTES :]
        for at in range(0, len(data), RECORD_BYTES):
            time_ns, found = struct.unpack_from("<QH", data, at)
            if found == kind:
                seen.append(time_ns)
            sequences.append(int.from_bytes(data[at + RECORD_BYTES - 4 : at + RECORD_BYTES], "little"))
    assert sorted(seen) == list(range(threads_count * spine.SEGMENT_RECORDS))
    assert sequences[: ring.taken()] == list(range(1, ring.taken() + 1))


def test_a_ring_that_nobody_has_any_more_is_freed(tmp_path: Path) -> None:
    ring = Ring(tmp_path, b"shortone", ProcessKind.WORKER)
    ring.user_mark(1, bytes(16), 0, 0)
    gone = weakref.ref(ring)
    del ring
    gc.collect()
    assert gone() is None
