"""What the demo prints at the end, for people and as JSON."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from obsray.demo.parts import PartResult
from obsray.telemetry.store import Store
from obsray.telemetry.views import Views

#: How long the report waits for the collector to store what the processes have recorded so far.
SETTLE_SECONDS_MAX = 20.0
SETTLE_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Ledger:
    """What became of the events: recorded by processes, stored, lost. Recorded = stored + lost once all is drained."""

    recorded: int
    stored: int
    lost: int


def ledger_of(session: str) -> Ledger:
    """What became of the events recorded up to now, read again until the store has caught up with them.

    The session goes on recording meanwhile; only what was there at the first look is counted.
    """
    deadline = time.monotonic() + SETTLE_SECONDS_MAX
    recorded: dict[str, int] = {}
    while True:
        rings: list[Mapping[str, Any]] = Views(Store.open(session)).ledger()["rings"]
        recorded = recorded or {ring["process"]: ring["last_sequence"] for ring in rings}
        mine = [ring for ring in rings if ring["process"] in recorded]
        lost = sum(ring["gaps"] + ring["dropped"] for ring in mine)
        stored = sum(min(ring["stored"], recorded[ring["process"]]) for ring in mine)
        ledger = Ledger(sum(recorded.values()), stored, lost)
        if ledger.recorded <= ledger.stored + ledger.lost or time.monotonic() > deadline:
            return ledger
        time.sleep(SETTLE_POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the demo says at its end."""

    parts: Sequence[PartResult]
    cpus: int
    init_seconds: float
    total_seconds: float
    ledger: Ledger | None
    #: The link that opens it; "" if the runtime ends with the report.
    dashboard: str
    session: str

    @property
    def tasks(self) -> int:
        return sum(part.tasks for part in self.parts)

    def commands(self) -> list[str]:
        """The three commands to look closer; they answer while the demo is up and afterwards."""
        return [
            "obsray status",
            "obsray list tasks --sort -run_seconds",
            f"obsray story {self.parts[0].story}",
        ]

    def as_json(self) -> str:
        document = asdict(self)
        for described, part in zip(document["parts"], self.parts, strict=True):
            described["speedup"] = round(part.speedup, 3)
        document["tasks"] = self.tasks
        document["commands"] = self.commands()
        return json.dumps(document)

    def as_text(self) -> str:
        with_obsray = sum(part.seconds for part in self.parts)
        alone = sum(part.seconds_alone for part in self.parts)
        lines = ["", f"{'':<12}{'tasks':>7}{'obsray':>10}{'alone':>10}{'speed-up':>11}"]
        for part in self.parts:
            lines.append(row(part.name, part.tasks, part.seconds, part.seconds_alone))
        if len(self.parts) > 1:
            lines.append(row("all", self.tasks, with_obsray, alone))
        lines.append("")
        for part in self.parts:
            lines += [f"{part.name}: {part.did}", f"  ok: {part.checked}"]
        lines.append("")
        lines.append(f"{self.cpus} CPUs, ready in {self.init_seconds:.2f} s, {self.total_seconds:.1f} s in all")
        if self.ledger is None:
            lines.append("events: telemetry is off")
        else:
            lines.append(f"events recorded: {self.ledger.recorded:,}, events lost: {self.ledger.lost}")
        if self.dashboard:
            lines.append(f"dashboard: {self.dashboard}")
            lines.append("look closer, in another terminal:")
        else:
            lines.append(f"dashboard of what was recorded: {callable_here('obsray dashboard')}")
            lines.append("look closer:")
        lines += [f"  {callable_here(command)}" for command in self.commands()]
        return "\n".join(lines)


def callable_here(command: str) -> str:
    """The command as it can be typed in this directory: with the way to ``obsray`` if the shell does not know it."""
    there = Path(sys.executable).with_name("obsray")
    if shutil.which("obsray") is not None or not there.exists():
        return command
    path = there.relative_to(Path.cwd()) if there.is_relative_to(Path.cwd()) else there
    return f"{path} {command.removeprefix('obsray ')}"


def row(name: str, tasks: int, seconds: float, seconds_alone: float) -> str:
    """One line of the table."""
    return f"{name:<12}{tasks:>7,}{seconds:>8.2f} s{seconds_alone:>8.2f} s{seconds_alone / seconds:>9.2f} x"
