"""What tasks and methods write down of each execution, in a file that outlives their node: who ran what, and when."""

from __future__ import annotations

import os
import struct
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

#: Time (monotonic, which all processes of a machine share), who, what.
_LINE = struct.Struct("<dII")


def note(path: str, who: int, what: int) -> None:
    """One write at the end of the file: complete or not there, whenever the process is killed."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, _LINE.pack(time.monotonic(), who, what))
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Execution:
    """``again``: the same was executed before."""

    at: float
    who: int
    what: int
    again: bool


def noted(path: Path) -> list[Execution]:
    """All executions in the order of time."""
    found: list[Execution] = []
    seen: Counter[tuple[int, int]] = Counter()
    data = path.read_bytes() if path.exists() else b""
    for at, who, what in sorted(_LINE.iter_unpack(data)):
        found.append(Execution(at, who, what, again=seen[who, what] > 0))
        seen[who, what] += 1
    return found


def rate(times: list[float], began: float, seconds: float, bin_seconds: float) -> dict[float, float]:
    """Per second, by the middle of each interval."""
    counts = Counter(int((at - began) / bin_seconds) for at in times)
    return {
        (number + 0.5) * bin_seconds: counts[number] / bin_seconds
        for number in range(max(1, int(seconds / bin_seconds)))
    }
