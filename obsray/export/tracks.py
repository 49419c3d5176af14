"""A session as tracks of slices, each slice inside the one around it: what formats are made of that want begin and end.

It is the trace of ``telemetry/timeline.py``, read back and put in order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from obsray.telemetry import timeline
from obsray.telemetry.views import Views


@dataclass(slots=True)
class Track:
    """One row of slices: ``(start, end, name, category, facts)`` in nanoseconds, outer before inner."""

    process: int
    number: int
    name: str = ""
    slices: list[tuple[int, int, str, str, dict[str, Any]]] = field(default_factory=list)
    #: ``(time, arrow)``: where arrows leave, and where they arrive.
    leaving: list[tuple[int, int]] = field(default_factory=list)
    arriving: list[tuple[int, int]] = field(default_factory=list)
    marks: list[tuple[int, str]] = field(default_factory=list)

    def edges(self) -> Iterator[tuple[int, bool, tuple[int, int, str, str, dict[str, Any]]]]:
        """Begins (True) and ends (False) in the order in which they happen, each end before the end around it."""
        open_: list[tuple[int, int, str, str, dict[str, Any]]] = []
        for slice_ in sorted(self.slices, key=lambda each: (each[0], -each[1])):
            while open_ and open_[-1][1] <= slice_[0] and open_[-1][0] < slice_[0]:
                ended = open_.pop()
                yield ended[1], False, ended
            if open_ and slice_[1] > open_[-1][1]:  # rounded to microseconds somewhere: it is inside
                slice_ = (slice_[0], open_[-1][1], *slice_[2:])
            open_.append(slice_)
            yield slice_[0], True, slice_
        while open_:
            ended = open_.pop()
            yield ended[1], False, ended


@dataclass(slots=True)
class Tracks:
    """All tracks, the names of processes, and counters: ``(process, name) -> [(time, value)]``."""

    tracks: dict[tuple[int, int], Track]
    processes: dict[int, str]
    counters: dict[tuple[int, str], list[tuple[int, float]]]


def read(views: Views) -> Tracks:
    """The tracks of a session; views must be up to date."""
    found = Tracks({}, {}, {})
    for chunk in timeline.write(views, refresh=False):
        for line in chunk.splitlines():
            text = line.rstrip(b",")
            if len(text) > 2:
                _add(found, json.loads(text))
    return found


def _add(found: Tracks, event: dict[str, Any]) -> None:
    phase, process, number = event["ph"], event["pid"], event.get("tid", 0)
    if phase == "M":
        if event["name"] == "process_name":
            found.processes[process] = event["args"]["name"]
        elif event["name"] == "thread_name":
            _track(found, process, number).name = event["args"]["name"]
        return
    at = round(event["ts"] * 1000)
    if phase == "C":
        found.counters.setdefault((process, event["name"]), []).append((at, event["args"]["used"]))
        return
    track = _track(found, process, number)
    if phase == "X":
        track.slices.append((at, at + round(event["dur"] * 1000), event["name"], event["cat"], event["args"]))
    elif phase == "s":
        track.leaving.append((at, event["id"] + (1 if event["cat"] == "submit" else 2 << 50)))
    elif phase == "f":
        track.arriving.append((at, event["id"] + (1 if event["cat"] == "submit" else 2 << 50)))
    elif phase == "i":
        track.marks.append((at, event["name"]))


def _track(found: Tracks, process: int, number: int) -> Track:
    key = (process, number)
    if key not in found.tracks:
        found.tracks[key] = Track(process, number)
    return found.tracks[key]
