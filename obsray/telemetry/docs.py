"""``docs/events.md``, made from the union of events: ``python -m obsray.telemetry.docs > docs/events.md``."""

from __future__ import annotations

import sys

from obsray.telemetry.events import CODES, EVENTS, PAYLOAD_OFFSET, RECORD_BYTES, SEQUENCE_OFFSET, Event, Field

_TYPES = {
    "id8": "8 byte id",
    "id16": "16 byte id",
    "id20": "20 byte id",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "i32": "int32",
    "f32": "float32",
    "f64": "float64",
    "str": "interned text",
}

_HEAD = f"""# Events

Everything that can happen, in the order of its number. Generated from `obsray/telemetry/events.py`; do not edit.

A record has {RECORD_BYTES} bytes: time in nanoseconds since the epoch (8), number of the kind (2), zero (2), the fields
from offset {PAYLOAD_OFFSET} on, packed little endian, and the ring's sequence number (4) at offset {SEQUENCE_OFFSET}.
`Store.events(name)` gives the columns `time_ns`, `process` (who recorded it) and `sequence`, then the fields.

A *label* is bounded and may become a metric label, a *detail* never does, a *measure* is a number to sum or to count
into a histogram. Durations are seconds, sizes are bytes.
"""


def markdown() -> str:
    """The whole page."""
    return "\n".join([_HEAD, _index(), *(_section(event) for event in EVENTS.values()), *_enumerations()])


def _index() -> str:
    rows = [f"| {event.kind} | [`{event.name}`](#{event.name}) | {event.text} |" for event in EVENTS.values()]
    return "\n".join(["| number | event | what it tells |", "|---|---|---|", *rows, ""])


def _section(event: Event) -> str:
    lines = [f"## {event.name}", "", f"{event.kind} · {event.severity.name.lower()} · {event.text}", ""]
    lines += ["| offset | field | type | role |", "|---|---|---|---|"]
    for field in event.fields:
        lines.append(f"| {event.offsets[field.name]} | `{field.name}` | {_type(field)} | {field.role.value} |")
    return "\n".join([*lines, ""])


def _type(field: Field) -> str:
    assert field.code in CODES
    if field.labels is not None:
        return f"[{field.labels.__name__}](#{field.labels.__name__.lower()})"
    return _TYPES[field.code]


def _enumerations() -> list[str]:
    found = {field.labels.__name__: field.labels for e in EVENTS.values() for field in e.fields if field.labels}
    sections = ["# Enumerations\n"]
    for name, labels in sorted(found.items()):
        values = ", ".join(f"{label.value} `{label.name.lower()}`" for label in labels)
        sections.append(f"## {name}\n\n{values}\n")
    return sections


if __name__ == "__main__":
    sys.stdout.write(markdown())
