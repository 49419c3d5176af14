"""A session as Perfetto's own format: packets of track events, with arrows, for ui.perfetto.dev and trace_processor.

Written by hand like OTLP; the tests read it with Perfetto's classes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any

from obsray.export.otlp import piece, varint
from obsray.export.tracks import Track, Tracks, read
from obsray.telemetry.views import Views

_BEGIN, _END, _INSTANT, _COUNTER = 1, 2, 3, 4
_SEQUENCE = b"\x50\x01"  # trusted_packet_sequence_id
_FIXED64 = struct.Struct("<Q").pack
_DOUBLE = struct.Struct("<d").pack


def write(views: Views) -> Iterator[bytes]:
    """The trace in pieces; views must be up to date."""
    found = read(views)
    # The first packet of a sequence says that nothing interned came before it.
    yield piece(1, _SEQUENCE + b"\x68\x01")
    for process, name in found.processes.items():
        described = piece(3, b"\x08" + varint(process) + piece(6, name.encode()))
        yield piece(
            1, _SEQUENCE + piece(60, b"\x08" + varint(_process_uuid(process)) + piece(2, name.encode()) + described)
        )
    for track in found.tracks.values():
        yield from _track(track)
    yield from _counters(found)


def _process_uuid(process: int) -> int:
    return process << 32 | 0xFFFFFFFF


def _track(track: Track) -> Iterator[bytes]:
    uuid = track.process << 32 | track.number
    parent = b"\x28" + varint(_process_uuid(track.process))
    yield piece(1, _SEQUENCE + piece(60, b"\x08" + varint(uuid) + parent + piece(2, (track.name or "marks").encode())))
    on_track = b"\x58" + varint(uuid)
    arriving: dict[int, list[int]] = {}
    for at, arrow in track.arriving:
        arriving.setdefault(at, []).append(arrow)
    for at, begins, (_, _, name, category, facts) in track.edges():
        if not begins:
            yield _packet(at, b"\x48" + varint(_END) + on_track)
            continue
        body = b"\x48" + varint(_BEGIN) + on_track + piece(22, category.encode()) + piece(23, name.encode())
        body += b"".join(piece(4, _annotation(key, value)) for key, value in facts.items())
        if category in ("task", "gpu"):
            # terminating_flow_ids (48): arrows that end here.
            body += b"".join(b"\x81\x03" + _FIXED64(arrow) for arrow in arriving.pop(at, ()))
        yield _packet(at, body)
    for at, arrow in track.leaving:
        # A point inside the slice: an arrow may leave in its middle. flow_ids (47).
        body = (
            b"\x48"
            + varint(_INSTANT)
            + on_track
            + piece(22, b"flow")
            + piece(23, b"to")
            + b"\xf9\x02"
            + _FIXED64(arrow)
        )
        yield _packet(at, body)
    for at, name in track.marks:
        yield _packet(at, b"\x48" + varint(_INSTANT) + on_track + piece(22, b"mark") + piece(23, name.encode()))


def _annotation(key: str, value: Any) -> bytes:
    """A ``DebugAnnotation``: name (10), and a value."""
    if isinstance(value, bool):
        told = b"\x10" + varint(int(value))
    elif isinstance(value, int):
        told = b"\x20" + varint(value & (1 << 64) - 1)
    elif isinstance(value, float):
        told = b"\x29" + _DOUBLE(value)
    else:
        told = piece(6, (value if isinstance(value, str) else json.dumps(value)).encode())
    return piece(10, key.encode()) + told


def _packet(at: int, event: bytes) -> bytes:
    return piece(1, b"\x40" + varint(at) + _SEQUENCE + piece(11, event))


def _counters(found: Tracks) -> Iterator[bytes]:
    for number, ((process, name), values) in enumerate(sorted(found.counters.items())):
        uuid = process << 32 | 1 << 31 | number
        described = (
            b"\x08" + varint(uuid) + b"\x28" + varint(_process_uuid(process)) + piece(2, name.encode()) + piece(8, b"")
        )
        yield piece(1, _SEQUENCE + piece(60, described))
        for at, value in values:
            # double_counter_value (44)
            yield _packet(at, b"\x48" + varint(_COUNTER) + b"\x58" + varint(uuid) + b"\xe1\x02" + _DOUBLE(float(value)))
