"""A session as speedscope's format: one profile for each track, for https://www.speedscope.app.

Behind them come the samples, one profile for each function.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from obsray.export import profiles
from obsray.export.tracks import read
from obsray.telemetry.views import Views
from obsray.version import VERSION

#: Functions whose samples are written; ``obsray profile --speedscope`` writes any.
FUNCTIONS_MAX = 100


def write(views: Views) -> Iterator[bytes]:
    """The file in pieces; views must be up to date."""
    found = read(views)
    frames: dict[str, int] = {}
    yield b'{"$schema":' + json.dumps(profiles.SCHEMA).encode() + b',"profiles":['
    comma = b""
    for track in found.tracks.values():
        if not track.slices:
            continue
        events = []
        for at, begins, slice_ in track.edges():
            frame = frames.setdefault(slice_[2], len(frames))
            events.append({"type": "O" if begins else "C", "frame": frame, "at": at})
        profile = {
            "type": "evented", "name": f"{found.processes.get(track.process, track.process)}: {track.name}",
            "unit": "nanoseconds", "startValue": events[0]["at"], "endValue": events[-1]["at"], "events": events,
        }  # fmt: skip
        yield comma + json.dumps(profile, separators=(",", ":")).encode()
        comma = b","
    for function, stacks in _profiles(views):
        yield (
            comma
            + json.dumps(profiles.sampled(f"profile of {function}", stacks, frames), separators=(",", ":")).encode()
        )
        comma = b","
    shared = profiles.shared(frames)
    yield (
        b'],"shared":'
        + json.dumps(shared).encode()
        + b',"exporter":'
        + json.dumps(f"obsray {VERSION}").encode()
        + b"}\n"
    )


def _profiles(views: Views) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The stacks of every function that was sampled, those with most time first."""
    try:
        functions = views.profile(refresh=False)["functions"]
    except LookupError:
        return
    for row in functions[:FUNCTIONS_MAX]:
        yield row["function"], views.profile(row["function"], refresh=False)["stacks"]
