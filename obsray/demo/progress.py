"""A progress bar on stderr: one line redrawn on a terminal, one line per stage elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

WIDTH_CHARACTERS = 28
REDRAW_SECONDS = 0.05


class Progress:
    """Shows one stage after the other; a stage ends when the next begins or at ``finish``."""

    def __init__(self, stream: TextIO | None = None, *, quiet: bool = False) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.quiet = quiet
        self.redraws = not quiet and self.stream.isatty()
        self.label = ""
        self.unit = ""
        self.total = 0
        self.done = 0
        self.note = ""
        self.started = 0.0
        self.drawn = 0.0

    def begin(self, label: str, total: int, unit: str) -> None:
        """Start the stage ``label`` of ``total`` steps, counted in ``unit``."""
        self.finish()
        self.label, self.total, self.unit = label, total, unit
        self.done, self.note = 0, ""
        self.started = time.monotonic()
        self.draw()

    def advance(self, steps: int = 1, note: str = "") -> None:
        """``steps`` more are done; ``note`` replaces the words at the end of the line."""
        self.done += steps
        self.note = note or self.note
        if time.monotonic() - self.drawn >= REDRAW_SECONDS:
            self.draw()

    def finish(self) -> None:
        """The running stage is over."""
        if not self.label or self.quiet:
            return
        seconds = time.monotonic() - self.started
        line = f"  {self.label}: {self.done} {self.unit} in {seconds:.1f} s{self._note()}"
        self.stream.write(f"\r\x1b[K{line}\n" if self.redraws else f"{line}\n")
        self.stream.flush()
        self.label = ""

    def abandon(self) -> None:
        """Leave a half-drawn line behind, so that the next message starts on its own."""
        if self.label and self.redraws:
            self.stream.write("\n")
            self.stream.flush()
        self.label = ""

    def draw(self) -> None:
        """Redraw the line, on a terminal."""
        if not self.redraws:
            return
        self.drawn = time.monotonic()
        filled = WIDTH_CHARACTERS * min(self.done, self.total) // max(self.total, 1)
        bar = "█" * filled + "░" * (WIDTH_CHARACTERS - filled)
        seconds = self.drawn - self.started
        line = f"  {self.label:<24} {bar} {self.done}/{self.total} {self.unit}  {seconds:.1f} s{self._note()}"
        self.stream.write(f"\r\x1b[K{line}")
        self.stream.flush()

    def _note(self) -> str:
        return f"  {self.note}" if self.note else ""
