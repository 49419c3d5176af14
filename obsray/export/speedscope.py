"""A session as speedscope's format: one profile for each track, for https://www.speedscope.app."""

from __future__ import annotations

import json
from collections.abc import Iterator

from obsray.export.tracks import read
from obsray.telemetry.views import Views
from obsray.version import VERSION

_SCHEMA = "https://www.speedscope.app/file-format-schema.json"


def write(views: Views) -> Iterator[bytes]:
    """The file in pieces; views must be up to date."""
    found = read(views)
    frames: dict[str, int] = {}
    yield b'{"$schema":' + json.dumps(_SCHEMA).encode() + b',"profiles":['
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
    shared = {"frames": [{"name": name} for name in frames]}
    yield (
        b'],"shared":'
        + json.dumps(shared).encode()
        + b',"exporter":'
        + json.dumps(f"obsray {VERSION}").encode()
        + b"}\n"
    )
