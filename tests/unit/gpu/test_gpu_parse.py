"""Raw buffers become the records that were made, and nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest

from obsray.gpu import layouts
from obsray.gpu.layouts import UnknownVersionError, layout
from obsray.gpu.parse import Records, parse
from tests.unit.gpu.captures import STEPS, buffers, parsed, run

LAYOUT = layout(130001)
KINDS = (
    "kernels", "copies", "peer_copies", "memsets", "synchronizations", "externals", "driver_calls", "runtime_calls",
    "graphs", "overheads",
)  # fmt: skip


def rows(records: Records) -> set[tuple[str, bytes]]:
    return {(kind, row.tobytes()) for kind in KINDS for row in getattr(records, kind)}


def count(records: Records) -> int:
    return sum(len(getattr(records, kind)) for kind in KINDS) + records.incomplete


def test_a_recorded_run_is_read_completely() -> None:
    found = parsed("step")
    assert sum(len(records.kernels) for records in found) == STEPS * 132
    assert sum(len(records.copies) for records in found) == STEPS * 9
    assert sum(len(records.externals) for records in found) == 1728
    assert sum(len(records.driver_calls) for records in found) == 5520
    assert all(records.unread_bytes == 0 and records.incomplete == 0 for records in found)


def test_every_kernel_has_one_of_the_29_names_and_a_size_that_can_be() -> None:
    names = {int(pointer, 16) for pointer in run("step")["kernel_names"]}
    assert len(names) == 29
    for records in parsed("step"):
        assert set(records.kernels["name"].tolist()) <= names
        assert (records.kernels["registers"] > 0).all()
        assert (records.kernels["start"] < records.kernels["end"]).all()
        assert (records.copies["bytes"] > 0).all()
    assert set().union(*(set(records.kernels["name"].tolist()) for records in parsed("step"))) == names


def test_runtime_calls_and_waits_are_read() -> None:
    (records,) = parsed("calls")
    counts = run("calls")["counts"]
    assert len(records.runtime_calls) == counts["RUNTIME"]
    assert len(records.synchronizations) == counts["SYNCHRONIZATION"]
    assert len(records.kernels) == counts["CONCURRENT_KERNEL"]
    assert set(records.synchronizations["what"].tolist()) == {3, 4}


def test_a_buffer_cut_short_gives_exactly_what_lies_whole_before_the_cut() -> None:
    data = buffers("step")[0]
    whole = rows(parse(data, LAYOUT))
    chance = random.Random(7)
    before = 0
    for cut in sorted(chance.randrange(len(data)) for _ in range(60)):
        records = parse(data[:cut], LAYOUT)
        assert rows(records) <= whole, f"cut at {cut}"
        assert records.unread_bytes < 216, f"cut at {cut}"
        assert count(records) >= before
        before = count(records)


def test_a_damaged_buffer_invents_no_record() -> None:
    data = buffers("step")[1]
    tasks = run("step")["tasks"]
    since, until = tasks[0]["start_ns"], tasks[-1]["end_ns"]
    whole = parse(data, LAYOUT, since, until)
    expected, total = rows(whole), count(whole)
    chance = random.Random(11)
    for _ in range(60):
        hurt = bytearray(data)
        damage = chance.randrange(1, 40)
        for _ in range(damage):
            hurt[chance.randrange(len(hurt))] = chance.randrange(256)
        records = parse(bytes(hurt), LAYOUT, since, until)
        # A damaged byte may spoil the record it lies in; the others are those that were recorded.
        assert len(rows(records) - expected) <= damage
        assert count(records) <= total
        assert records.unread_bytes >= 0


def test_noise_is_no_record() -> None:
    chance = np.random.default_rng(3)
    for size in (0, 1, 7, 8, 23, 1000, 100_000):
        data = chance.integers(0, 256, size, np.uint8).tobytes()
        records = parse(data, LAYOUT, 1_795_420_749_000_000_000, 1_795_420_750_000_000_000)
        assert count(records) == 0
        assert records.unread_bytes == size
    assert count(parse(bytes(4096), LAYOUT)) == 0


def test_times_outside_those_of_the_buffer_end_the_reading() -> None:
    data = buffers("step")[0]
    late = run("step")["tasks"][-1]["end_ns"] + 10_000_000_000
    records = parse(data, LAYOUT, since_ns=late)
    assert len(records.kernels) == 0
    assert records.unread_bytes > len(data) - 1000


def test_work_that_had_not_ended_is_counted_and_has_no_record() -> None:
    data = bytearray(buffers("step")[0])
    records = parse(bytes(data), LAYOUT)
    place = bytes(data).index(int(records.kernels["start"][0]).to_bytes(8, "little"))
    data[place : place + 24] = bytes(24)
    found = parse(bytes(data), LAYOUT)
    assert found.incomplete == 1
    assert len(found.kernels) == len(records.kernels) - 1
    assert found.unread_bytes == 0


def test_a_version_with_unknown_lengths_is_refused_and_said() -> None:
    with pytest.raises(UnknownVersionError, match=r"interface version 999999.*130001.*gpu_telemetry=off"):
        layout(999999)


def test_read_fields_lie_inside_their_records_in_every_version() -> None:
    for version in layouts.SIZES:
        made = layout(version)
        for kind, dtype in made.types.items():
            assert dtype.itemsize == made.words[kind] * 8, (version, kind)
            last = max(offset + np.dtype(code).itemsize for code, offset in layouts.FIELDS[kind].values())
            assert last <= dtype.itemsize, (version, kind)
