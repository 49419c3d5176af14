"""Profiles in speedscope's format: one sampled profile of each function, for https://www.speedscope.app."""

from __future__ import annotations

import json
import re
from typing import Any

from obsray.version import VERSION

SCHEMA = "https://www.speedscope.app/file-format-schema.json"
_FRAME = re.compile(r"^(?P<name>.*) \((?P<file>[^()]*):(?P<line>\d+)\)$")

Frames = dict[str, int]


def sampled(name: str, stacks: list[dict[str, Any]], frames: Frames) -> dict[str, Any]:
    """One profile; what its frames are called is added to ``frames``."""
    samples = [[frames.setdefault(frame, len(frames)) for frame in stack["frames"]] for stack in stacks]
    weights = [stack["seconds"] for stack in stacks]
    return {
        "type": "sampled", "name": name, "unit": "seconds", "startValue": 0, "endValue": sum(weights),
        "samples": samples, "weights": weights,
    }  # fmt: skip


def shared(frames: Frames) -> dict[str, Any]:
    """The frames that profiles refer to, with file and line where they say so."""
    return {"frames": [_frame(text) for text in frames]}


def _frame(text: str) -> dict[str, Any]:
    parts = _FRAME.match(text)
    if parts is None:
        return {"name": text}
    return {"name": parts["name"], "file": parts["file"], "line": int(parts["line"])}


def write(found: dict[str, Any]) -> bytes:
    """The answer of ``profile`` as a file."""
    frames: Frames = {}
    profile = sampled(found["what"], found["stacks"], frames)
    document = {
        "$schema": SCHEMA, "profiles": [profile], "shared": shared(frames), "name": found["what"],
        "exporter": f"obsray {VERSION}",
    }  # fmt: skip
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"
