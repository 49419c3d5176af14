"""What was recorded on a real GPU (tests/data/gpu), as tests use it."""

from __future__ import annotations

import functools
import gzip
import json
from pathlib import Path
from typing import Any

from obsray.gpu.attribution import Attributor, marks_of
from obsray.gpu.layouts import layout
from obsray.gpu.parse import Array, Records, parse

DATA = Path(__file__).resolve().parents[2] / "data" / "gpu"
STEPS = 8


@functools.cache
def run(name: str) -> dict[str, Any]:
    """The facts of a run: ``step`` (raw buffers, few calls) or ``calls`` (with the calls that launched)."""
    facts: dict[str, Any] = json.loads((DATA / f"{name}_run.json").read_text())
    return facts


@functools.cache
def buffers(name: str) -> tuple[bytes, ...]:
    return tuple(gzip.decompress(path.read_bytes()) for path in sorted(DATA.glob(f"{name}_buffer*.bin.gz")))


def parsed(name: str) -> list[Records]:
    return [parse(data, layout(run(name)["cupti_version"])) for data in buffers(name)]


def task(number: int) -> bytes:
    return b"gpuowner" + number.to_bytes(8, "big")


def marks(name: str) -> Array:
    facts = run(name)
    thread = facts.get("task_thread", 555987264)
    return marks_of(
        [
            (one["external_id"], one["start_ns"], one["end_ns"], thread, 0, 1, task(one["external_id"]))
            for one in facts["tasks"]
        ]
    )


def attributor(name: str) -> Attributor:
    made = Attributor()
    made.add_marks(marks(name))
    for records in parsed(name):
        made.add_records(records)
    return made
