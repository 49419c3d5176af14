"""Whoever waits longer than a second is told for what, on a terminal and nowhere else."""

from __future__ import annotations

import io
import time

from obsray.cli import patience
from obsray.cli.patience import Patience


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_takes_long_is_said_with_how_far_it_is_and_goes_away(monkeypatch):
    monkeypatch.setattr(patience, "LONG_SECONDS", 0.0)
    terminal, deadline = Terminal(), time.monotonic() + 30
    with Patience(terminal) as waiting:
        waiting.says("reading records", lambda: "1,234 so far")
        while "1,234" not in terminal.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "reading records: 1,234 so far, " in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[2K")


def test_what_is_quick_or_seen_by_nobody_says_nothing(monkeypatch):
    terminal, pipe = Terminal(), io.StringIO()
    with Patience(terminal) as waiting:
        waiting.says("reading records")
    monkeypatch.setattr(patience, "LONG_SECONDS", 0.0)
    with Patience(pipe):
        pass
    assert terminal.getvalue() == pipe.getvalue() == ""
