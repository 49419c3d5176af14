"""When a dashboard reads what nobody has asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from obsray.dashboard import hangs
from obsray.telemetry import hang_watch, session_file
from obsray.telemetry.hang_watch import HangRecords


class Asked:
    """A source that counts questions."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.is_live, self.looks = directory, True, 0

    async def ask(self, question: Any, key: str) -> Any:
        self.looks += key == "hangs"
        return {"hangs": []} if key == "hangs" else {}


@pytest.mark.parametrize(
    ("busy_percent", "waits", "looks"), [(100.0, False, 0), (100.0, True, 3), (3.0, False, 3), (3.0, True, 3)]
)
def test_a_dashboard_looks_while_something_waits_or_the_machine_has_nothing_better_to_do(
    tmp_path, monkeypatch, busy_percent, waits, looks
):
    session_file.update(tmp_path, **{hang_watch.WAITS: waits})
    rounds = iter([busy_percent] * 3)

    def percent() -> float:
        try:
            return next(rounds)
        except StopIteration:
            raise asyncio.CancelledError from None

    monkeypatch.setattr(hangs.psutil, "cpu_percent", percent)
    monkeypatch.setattr(hangs, "DASHBOARD_SECONDS", 0.0)
    monkeypatch.setattr(hangs, "LOOK_SECONDS", 0.0)
    source = Asked(tmp_path)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(hangs.HangWatch(source, HangRecords(tmp_path)).run())  # type: ignore[arg-type]
    assert source.looks == looks
