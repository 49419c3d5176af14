"""Random events, and the columns they should come back as."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from obsray.telemetry.events import EVENTS, Event, ProcessKind
from obsray.telemetry.spine import Ring

LIMITS = {"u8": 1 << 8, "u16": 1 << 16, "u32": 1 << 32, "u64": 1 << 64}
SIZES = {"id8": 8, "id16": 16, "id20": 20}

#: What a process emitted: event name -> rows of (time_ns, sequence, field values).
Emitted = dict[str, list[dict[str, Any]]]


def open_ring(session: Path, chance: random.Random, kind: ProcessKind = ProcessKind.WORKER) -> Ring:
    for name in ("rings", "telemetry"):
        (session / name).mkdir(parents=True, exist_ok=True)
    return Ring(session / "rings", chance.randbytes(8), kind, chance.randbytes(8))


def value_of(code: str, chance: random.Random) -> Any:
    if code in SIZES:
        return chance.randbytes(SIZES[code])
    if code == "str":
        return "".join(chance.choice("abcdeé ☃\n") for _ in range(chance.randrange(12)))
    if code == "f32":
        return float(chance.randrange(1 << 20)) / 1024
    if code == "f64":
        return chance.uniform(-1e9, 1e9)
    if code == "i32":
        return chance.randrange(-(1 << 31), 1 << 31)
    return chance.randrange(LIMITS[code])


def emit(ring: Ring, event: Event, time_ns: int, chance: random.Random) -> dict[str, Any]:
    """Record one event with random values; returns what a reader should find."""
    values = {field.name: value_of(field.code, chance) for field in event.fields}
    packed = [ring.intern(values[f.name]) if f.code == "str" else values[f.name] for f in event.fields]
    sequence = next_sequence(ring)
    getattr(ring, event.name)(time_ns, *packed)
    return {"time_ns": time_ns, "process": ring.process, "sequence": sequence, **values}


def next_sequence(ring: Ring) -> int:
    """The sequence the next record of a ring will get."""
    return ring.taken() + 1


def emit_many(ring: Ring, count: int, chance: random.Random) -> Emitted:
    """``count`` random events of random kinds."""
    emitted: Emitted = {}
    kinds = list(EVENTS.values())
    for number in range(count):
        event = chance.choice(kinds)
        emitted.setdefault(event.name, []).append(emit(ring, event, 1_000_000_000 + number, chance))
    return emitted
