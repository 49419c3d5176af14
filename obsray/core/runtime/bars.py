"""Shell: progress bars at the bottom of the driver's terminal, those of all its tasks and its own, drawn together.

What a bar says is made by whoever has it (``experimental/tqdm_ray.py``). A worker prints it as a line with a mark in
front that no terminal shows, so that its output stays readable and needs no other way to the driver, from whichever
node; ``log_follower.py`` knows the mark and hands the bar over. Here it is decided how bars are shown:

* on a terminal as lines below everything else that the program writes, each drawn anew when it changes; a bar that ends
  becomes an ordinary line above them. The cursor rests where the first of them begins, so that what is written without
  asking (by a library that keeps the stream for itself) is never erased;
* in a notebook as one output that changes;
* anywhere else as lines, the end of each bar and what it says every ``LINE_SECONDS``.
"""

from __future__ import annotations

import atexit
import builtins
import itertools
import os
import re
import sys
import threading
import time
import unicodedata
from collections import deque
from dataclasses import dataclass
from typing import Any, TextIO

from obsray.core.runtime.repeats import without_control

#: A change is drawn this long after the last drawing at the earliest.
DRAW_SECONDS = 0.05
#: Where nothing can be drawn anew, a bar says so often where it is.
LINE_SECONDS = 10.0
#: Of a terminal this many lines are left to what else is written.
LINES_LEFT = 2
_MARK = re.compile(r"\x1b\]obsray-bar;([0-9a-z]{1,40});(-?\d{1,6});(open|over)\x07")


def marked(identifier: str, position: int, over: bool, text: str) -> str:
    """A line of a worker's output that is a bar. ``identifier``: digits and small letters, one for each bar."""
    return f"\x1b]obsray-bar;{identifier};{position};{'over' if over else 'open'}\x07{text}"


def read_mark(line: str) -> tuple[str, int, bool, str] | None:
    """What ``marked`` was called with; None for any other line."""
    if not line.startswith("\x1b]obsray-bar;"):
        return None
    found = _MARK.match(line)
    return found and (found[1], int(found[2]), found[3] == "over", line[found.end() :])


@dataclass(slots=True)
class _Bar:
    #: Whose it is ("": this process'), its place among those of the same process, and which came first.
    order: tuple[int, int, int]
    owner: str
    text: str
    said_at: float = 0.0


class Bars:
    """The bars that one process shows. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._bars: dict[str, _Bar] = {}
        self._numbers = itertools.count()
        self._owners: dict[str, int] = {}
        self._surface: _Surface | None = None
        #: Keys of bars that the garbage collector has found: it may do so on any thread and at any time.
        self.abandoned: deque[str] = deque()

    def show(self, key: str, text: str, owner: str = "", position: int = 0, over: bool = False) -> None:
        """A bar says ``text`` now; ``over``: for the last time. ``owner``: the worker whose bar it is."""
        text = without_control(text)
        with self._lock:
            if self._surface is None:
                self._surface = _surface()
            bar = self._bars.get(key)
            if bar is None:
                order = (self._owners.setdefault(owner, len(self._owners)), position, next(self._numbers))
                bar = self._bars[key] = _Bar(order, owner, text)
            bar.text = text
            if over:
                self._end([key])
            else:
                self._surface.changed(self._in_order(), bar)

    def end_of(self, owner: str) -> None:
        """A worker has ended, and with it its bars."""
        with self._lock:
            self._end([key for key, bar in self._bars.items() if bar.owner == owner])

    def end_others(self) -> None:
        """The runtime ends: bars of workers stay as they are, as lines."""
        with self._lock:
            self._end([key for key, bar in self._bars.items() if bar.owner])
            self._owners.clear()

    def end_all(self) -> None:
        """The program ends."""
        with self._lock:
            self._end(list(self._bars))

    def tick(self) -> None:
        """Draw what has changed since the last drawing, and end what nobody has any more."""
        if self._surface is not None:
            with self._lock:
                while self.abandoned:
                    self._end([self.abandoned.popleft()])
                if self._surface is not None:
                    self._surface.tick(self._in_order())

    def hide_bars(self) -> None:
        """Take the bars off a terminal, until ``unhide_bars`` or their next change."""
        with self._lock:
            if self._surface is not None:
                self._surface.hide()

    def unhide_bars(self) -> None:
        """Show them again."""
        with self._lock:
            if self._surface is not None:
                self._surface.draw(self._in_order())

    def _in_order(self) -> list[_Bar]:
        return sorted(self._bars.values(), key=lambda bar: bar.order)

    def _end(self, keys: list[str]) -> None:
        ended = sorted((self._bars.pop(key) for key in keys if key in self._bars), key=lambda bar: bar.order)
        surface = self._surface
        if surface is not None and ended:
            if not self._bars:
                self._surface = None
            surface.ended(ended, self._in_order())


class _Surface:
    """Where bars are shown, from the first to the last of them."""

    def changed(self, bars: list[_Bar], bar: _Bar) -> None:
        """``bar`` of ``bars`` says something else."""
        raise NotImplementedError

    def ended(self, over: list[_Bar], bars: list[_Bar]) -> None:
        """``over`` have said their last; ``bars`` are left, and if there are none, this is not called again."""
        raise NotImplementedError

    def tick(self, bars: list[_Bar]) -> None:
        """Draw what was put off."""

    def draw(self, bars: list[_Bar]) -> None:
        """Draw at once."""

    def hide(self) -> None:
        """Take away what is drawn."""


def can_draw(stream: Any) -> bool:
    """Whether ``stream`` is a terminal on which lines can be drawn anew."""
    return stream is not None and not stream.closed and stream.isatty() and os.environ.get("TERM") != "dumb"


def _surface() -> _Surface:
    stream: Any = sys.stderr
    stream = stream.stream if isinstance(stream, _Above) else stream
    if stream is None or stream.closed:
        return _Lines(None)
    if can_draw(stream):
        return _Terminal(stream)
    if hasattr(builtins, "__IPYTHON__") and not stream.isatty():
        return _Notebook()
    return _Lines(stream)


class _Lines(_Surface):
    """A file or a pipe."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def changed(self, bars: list[_Bar], bar: _Bar) -> None:
        now = time.monotonic()
        if not bar.said_at:
            bar.said_at = now
        elif now - bar.said_at >= LINE_SECONDS:
            bar.said_at = now
            self._say([bar])

    def ended(self, over: list[_Bar], bars: list[_Bar]) -> None:
        self._say(over)

    def _say(self, bars: list[_Bar]) -> None:
        if self._stream is not None:
            _write(self._stream, "".join(f"{bar.text}\n" for bar in bars))


class _Terminal(_Surface):
    """A terminal. While bars are drawn on it, ``sys.stdout`` and ``sys.stderr`` make room for what is written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bars: list[_Bar] = []
        self._drawn = False
        self._drawn_at = 0.0
        #: Somebody has begun a line and not ended it.
        self._in_line = False
        self._changed = False
        self._streams: list[tuple[str, Any]] = []
        if os.environ.get("RAY_TQDM_PATCH_PRINT") != "0":
            for name in ("stdout", "stderr"):
                found = getattr(sys, name)
                if found is not None and not isinstance(found, _Above) and found.isatty():
                    setattr(sys, name, _Above(found, self))
                elif isinstance(found, _Above):
                    found.surface = self

    def changed(self, bars: list[_Bar], bar: _Bar) -> None:
        self._changed = True
        self.tick(bars)

    def tick(self, bars: list[_Bar]) -> None:
        self._bars = bars
        if (self._changed or not self._drawn) and time.monotonic() - self._drawn_at >= DRAW_SECONDS:
            self.draw(bars)

    def ended(self, over: list[_Bar], bars: list[_Bar]) -> None:
        self._bars = bars
        begin = "\n" if self._in_line else self._erasure()
        self._in_line = self._drawn = False
        _write(self._stream, begin + "".join(f"{bar.text}\n" for bar in over))
        if bars:
            self.draw(bars)
            return
        for name in ("stdout", "stderr"):
            found = getattr(sys, name)
            if isinstance(found, _Above) and found.surface is self:
                found.surface = None
                setattr(sys, name, found.stream)

    def draw(self, bars: list[_Bar]) -> None:
        if self._in_line:
            return
        try:
            columns, rows = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            columns, rows = 80, 24
        # Terminals whose size nobody knows say that it is nothing.
        columns, rows = columns or 80, rows or 24
        room = max(1, rows - LINES_LEFT)
        lines = [_cut(bar.text, columns - 1) for bar in bars[:room]]
        if len(bars) > room:
            lines[-1] = _cut(f"and {len(bars) - room + 1} more", columns - 1)
        up = f"\x1b[{len(lines) - 1}A" if len(lines) > 1 else ""
        _write(self._stream, self._erasure() + "\n".join(lines) + "\r" + up)
        self._drawn, self._changed, self._drawn_at = True, False, time.monotonic()

    def hide(self) -> None:
        _write(self._stream, self._erasure())
        self._drawn = False

    def above(self, stream: TextIO, text: str) -> int:
        """Write what somebody else has to say."""
        if self._drawn:
            self.hide()
        count = stream.write(text)
        stream.flush()
        self._in_line = not text.endswith("\n")
        self.tick(self._bars)
        return count

    def _erasure(self) -> str:
        return "\r\x1b[J" if self._drawn else ""


class _Above:
    """``sys.stdout`` or ``sys.stderr`` while bars are drawn below what is written to it."""

    def __init__(self, stream: TextIO, surface: _Terminal) -> None:
        self.stream = stream
        self.surface: _Terminal | None = surface

    def write(self, text: str) -> int:
        if self.surface is None or not text:
            return self.stream.write(text)
        with bars._lock:
            surface = self.surface
            return self.stream.write(text) if surface is None else surface.above(self.stream, text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _Notebook(_Surface):
    """What a notebook shows of a cell: one output for all bars, from the first to the last of them."""

    def __init__(self) -> None:
        self._display: Any = None
        self._over: list[str] = []
        self._drawn_at = 0.0
        self._changed = False

    def changed(self, bars: list[_Bar], bar: _Bar) -> None:
        self._changed = True
        self.tick(bars)

    def ended(self, over: list[_Bar], bars: list[_Bar]) -> None:
        self._over += [bar.text for bar in over]
        self.draw(bars)

    def tick(self, bars: list[_Bar]) -> None:
        if self._changed and time.monotonic() - self._drawn_at >= DRAW_SECONDS:
            self.draw(bars)

    def draw(self, bars: list[_Bar]) -> None:
        from IPython.display import display

        shown = {"text/plain": "\n".join([*self._over, *(bar.text for bar in bars)])}
        if self._display is None:
            self._display = display(shown, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._display.update(shown, raw=True)
        self._changed, self._drawn_at = False, time.monotonic()


def _write(stream: TextIO, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except (OSError, ValueError):
        # The terminal is gone, or the program has closed its own output.
        pass


def _cut(text: str, columns: int) -> str:
    """As much of ``text`` as has room in one line: one that goes on in the next could not be drawn anew."""
    if len(text) <= columns // 2:
        return text
    for index, character in enumerate(text):
        columns -= 0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        if columns < 0:
            return text[:index]
    return text


#: Those of this process.
bars = Bars()
atexit.register(bars.end_all)
