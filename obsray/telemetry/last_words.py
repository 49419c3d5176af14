"""What a process that was killed had no time to record itself: which attempts it had begun.

A short attempt costs no record (``spine.py``), so that of one that was cut off soon only the black box tells. Whoever
stores the records of the dead writes the missing ones behind those, as if they had been in time: readers need not know.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from obsray.telemetry.events import BY_NAME, RECORD_BYTES
from obsray.telemetry.spine import (
    FINAL_ATTEMPT,
    HEADER,
    HEADER_BYTES,
    MAGIC,
    NOW,
    NOW_SLOT_BYTES,
    NOW_SLOTS,
    TOLD,
    TOLD_AT,
)

_SEQUENCE_WORD = RECORD_BYTES // 4 - 1
_NO_ACTOR = bytes(16)


def add(directory: Path, process: bytes) -> int:
    """Record that ``process``, which is dead, had begun what its black box names and its records do not. Once only.

    Returns how many records that were. Those for which its last file has no room are left out.
    """
    try:
        with open(directory / f"{process.hex()}.now", "r+b") as file, mmap.mmap(file.fileno(), 0) as now:
            found = [slot for slot in range(min(NOW_SLOTS, len(now) // NOW_SLOT_BYTES)) if _untold(now, slot)]
            return _append(directory, process, now, found) if found else 0
    except (OSError, ValueError):
        # There is no black box, or it is gone meanwhile.
        return 0


def _untold(now: mmap.mmap, slot: int) -> bool:
    at = slot * NOW_SLOT_BYTES
    _, started_at, _, _, running = NOW.unpack_from(now, at)
    return bool(running) and bool(started_at) and started_at != TOLD.unpack_from(now, at + TOLD_AT)[0]


def _append(directory: Path, process: bytes, now: mmap.mmap, slots: list[int]) -> int:
    last = max(directory.glob(f"{process.hex()}.*.ring"), default=None)
    if last is None:
        return 0
    with open(last, "r+b") as file, mmap.mmap(file.fileno(), 0) as ring:
        magic, *_, first, _ = HEADER.unpack_from(ring)
        if magic != MAGIC:
            return 0
        with memoryview(ring)[HEADER_BYTES:] as records:
            free = _written(records)
            event, done = BY_NAME["task_started"], 0
            for slot in slots[: len(records) // RECORD_BYTES - free]:
                task, at, name, attempt, _ = NOW.unpack_from(now, slot * NOW_SLOT_BYTES)
                # When it was pushed only its owner knows.
                fields = (task, attempt & ~FINAL_ATTEMPT, 0, 0, _NO_ACTOR, name, at, at, at)
                number = (first + free + 1) & 0xFFFFFFFF
                event.struct.pack_into(records, free * RECORD_BYTES, at, event.kind, 0, *fields, number)
                TOLD.pack_into(now, slot * NOW_SLOT_BYTES + TOLD_AT, at)
                free, done = free + 1, done + 1
            return done


def _written(records: memoryview) -> int:
    """How many places are taken, up to the last record that is whole."""
    with records.cast("I") as words, words[_SEQUENCE_WORD :: RECORD_BYTES // 4] as column:
        numbers = column.tolist()
    while numbers and not numbers[-1]:
        numbers.pop()
    return len(numbers)
