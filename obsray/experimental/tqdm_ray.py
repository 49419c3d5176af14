"""``tqdm`` for tasks and actors: progress that appears on the driver's terminal.

In a driver a bar redraws its line, on a terminal and in a notebook. In a worker each new state is a line of what the
worker prints, at most one per ``flush_interval_s`` and one at the end, and reaches the terminal as everything it prints
does; so bars of many tasks never write over one another.
"""

from __future__ import annotations

import builtins
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from obsray.core.runtime.session import current_or_none

_BAR_CELLS = 20


def safe_print(*args: Any, **kwargs: Any) -> None:
    """``print``; what a bar drew on this line is ended first."""
    if tqdm._drawn is not None:
        tqdm._drawn._end_line()
    print(*args, **kwargs)


class tqdm:
    """A progress bar over ``iterable``, or one that is moved by ``update``.

    ``total`` steps (the iterable's length if it has one), ``desc`` in front, ``unit`` behind; ``position`` is there for
    compatibility. Raises TypeError for a total that is no number.
    """

    #: The bar that stands on the terminal's current line.
    _drawn: tqdm | None = None

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        desc: str | None = None,
        total: float | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float = 1.0,
        file: TextIO | None = None,
    ) -> None:
        if total is None:
            length = getattr(iterable, "__len__", None)
            total = None if length is None else length()
        if total is not None and not isinstance(total, (int, float)):
            raise TypeError(f"total={total!r}: must be a number")
        self._iterable = iterable
        self._desc = desc or ""
        self._total = total
        self._unit = unit or "it"
        self._interval = flush_interval_s
        self._file = file
        self._x: float = 0
        self._closed = False
        self._began = time.monotonic()
        self._shown_at = -1e9
        #: What the last display said, without its rate; how wide it was.
        self._shown: tuple[str, float] | None = None
        self._width = 0
        session = current_or_none()
        self._in_place = session is None or session.executor is None
        self.refresh()

    def set_description(self, desc: str) -> None:
        """What stands in front."""
        self._desc = desc
        self._show(force=False)

    def update(self, n: float = 1) -> None:
        """``n`` steps more."""
        self._x += n
        self._show(force=False)

    @property
    def n(self) -> float:
        """Steps so far."""
        return self._x

    def close(self) -> None:
        """Show the last state; further calls change nothing."""
        if self._closed:
            return
        self._show(force=True)
        self._closed = True
        self._end_line()

    def refresh(self) -> None:
        """Show the bar now."""
        self._show(force=True)

    def _show(self, force: bool) -> None:
        now = time.monotonic()
        state = (self._desc, self._x)
        # A line that was just said is not said again when the bar ends.
        if self._closed or (now - self._shown_at < self._interval if not force else self._shown == state):
            return
        self._shown_at, self._shown = now, state
        out, text = self._file or sys.stderr, self._text(now)
        if not self._in_place or not _redraws(out):
            print(text, file=out, flush=True)
            return
        if tqdm._drawn is not None and tqdm._drawn is not self:
            tqdm._drawn._end_line()
        tqdm._drawn = self
        # What stood there before is overwritten with blanks: not every notebook knows how to clear a line.
        out.write("\r" + text.ljust(self._width))
        out.flush()
        self._width = len(text)

    def _end_line(self) -> None:
        if tqdm._drawn is self:
            tqdm._drawn, self._width = None, 0
            out = self._file or sys.stderr
            out.write("\n")
            out.flush()

    def _text(self, now: float) -> str:
        head = f"{self._desc}: " if self._desc else ""
        rate = self._x / max(now - self._began, 1e-9)
        tail = f"{rate:.1f} {self._unit}/s, pid {os.getpid()}"
        if not self._total:
            return f"{head}{self._x:g} {self._unit} [{tail}]"
        share = min(1.0, self._x / self._total)
        done = round(share * _BAR_CELLS)
        bar = "█" * done + "·" * (_BAR_CELLS - done)
        return f"{head}{share:4.0%} {bar} {self._x:g}/{self._total:g} [{tail}]"

    def __iter__(self) -> Iterator[Any]:
        if self._iterable is None:
            raise TypeError("this bar has nothing to iterate over: give it an iterable, or call update()")
        for each in self._iterable:
            yield each
            self.update()
        self.close()

    def __enter__(self) -> tqdm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _redraws(out: TextIO) -> bool:
    """Whether a line can be written over: on a terminal, and in what a notebook shows of a cell."""
    return out.isatty() or (out is sys.stderr and hasattr(builtins, "__IPYTHON__"))


def trange(*args: Any, **kwargs: Any) -> tqdm:
    """``tqdm(range(*args), **kwargs)``."""
    return tqdm(range(*args), **kwargs)


__all__ = ["safe_print", "tqdm", "trange"]
