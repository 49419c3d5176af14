"""``tqdm`` for tasks and actors: their bars appear on the driver's terminal, together and below everything else.

In a driver a bar is drawn where it runs. In a worker each new state is a line of what the worker prints, at most one
per ``flush_interval_s`` and one at the end, and the driver draws it (``core/runtime/bars.py``).
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from obsray.core.runtime.bars import Bars, bars, marked
from obsray.core.runtime.repeats import without_control
from obsray.core.runtime.session import current_or_none

_BAR_CELLS = 10
_EIGHTHS = " ▏▎▍▌▋▊▉"
#: Of a bar in a driver, which costs nobody else anything.
_FLUSH_SECONDS_HERE = 0.1
#: Counts from here on are shortened.
_SHORTENED_FROM = 100_000
_numbers = itertools.count(1)


def safe_print(*args: Any, **kwargs: Any) -> None:
    """``print``, above the bars. While bars are drawn on a terminal, ``print`` itself does so, too."""
    instance().hide_bars()
    try:
        print(*args, **kwargs)
    finally:
        instance().unhide_bars()


def instance() -> Bars:
    """All bars that this process shows, with ``hide_bars()`` and ``unhide_bars()``."""
    return bars


class tqdm:
    """A progress bar over ``iterable``, or one that is moved by ``update``.

    ``total`` steps (the iterable's length if it has one), ``desc`` in front, ``unit`` behind; of several bars of one
    process, that with the lowest ``position`` is the highest. With a ``file``, each state is a line of it instead.
    Raises TypeError for a total that is no number.
    """

    #: In tasks and actors; a driver's bars move ten times a second.
    DEFAULT_FLUSH_INTERVAL_SECONDS = 1.0

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        desc: str | None = None,
        total: float | None = None,
        unit: str | None = None,
        position: int | None = None,
        flush_interval_s: float | None = None,
        file: TextIO | None = None,
    ) -> None:
        self._key = ""
        if total is None:
            length = getattr(iterable, "__len__", None)
            total = None if length is None else length()
        self._iterable = iterable
        self._desc = "" if desc is None else str(desc)
        self.total = total
        self._unit = unit or "it"
        self._position = position or 0
        session = current_or_none()
        self._in_worker = session is not None and session.executor is not None
        if flush_interval_s is None:
            flush_interval_s = self.DEFAULT_FLUSH_INTERVAL_SECONDS if self._in_worker else _FLUSH_SECONDS_HERE
        self._interval = flush_interval_s
        self._file = file
        self._x: float = 0
        self._began = time.monotonic()
        self._shown_at = -1e9
        #: What was shown last.
        self._shown: tuple[str, float, float | None] | None = None
        self._key = str(next(_numbers))
        self.refresh()

    def set_description(self, desc: str | None) -> None:
        """What stands in front."""
        self._desc = "" if desc is None else str(desc)
        self._show(force=False)

    def update(self, n: float = 1) -> None:
        """``n`` steps more."""
        self._x += n
        if time.monotonic() - self._shown_at >= self._interval:
            self._show(force=False)

    @property
    def n(self) -> float:
        """Steps so far."""
        return self._x

    @n.setter
    def n(self, n: float) -> None:
        self._x = n

    @property
    def total(self) -> float | None:
        """Steps in all, None where nobody knows."""
        return self._total

    @total.setter
    def total(self, total: float | None) -> None:
        if total is not None and not isinstance(total, (int, float)):
            raise TypeError(f"total={total!r}: must be a number")
        self._total = total

    def close(self) -> None:
        """Show the last state; further calls change nothing."""
        if self._key:
            self._show(force=True, over=True)
            self._key = ""

    def refresh(self) -> None:
        """Show the bar now."""
        self._show(force=True)

    def _show(self, force: bool, over: bool = False) -> None:
        now = time.monotonic()
        if not self._key or (not force and now - self._shown_at < self._interval):
            return
        state = (self._desc, self._x, self._total)
        if state == self._shown and not over:
            return
        said, self._shown_at, self._shown = self._shown, now, state
        text = self._text(now)
        if self._file is not None:
            if state != said:
                print(text, file=self._file, flush=True)
        elif self._in_worker:
            sys.stderr.write(self._line(text, over))
            sys.stderr.flush()
        else:
            bars.show(self._key, text, position=self._position, over=over)

    def _line(self, text: str, over: bool) -> str:
        return marked(self._key, self._position, over, without_control(text)) + "\n"

    def _text(self, now: float) -> str:
        head = f"{self._desc}: " if self._desc else ""
        seconds = max(now - self._began, 1e-9)
        rate = self._x / seconds
        pace = f"{rate:.2f}{self._unit}/s" if rate < 100 else f"{_number(round(rate))}{self._unit}/s"
        if not self._total:
            return f"{head}{_number(self._x)}{self._unit} [{_clock(seconds)}, {pace}]"
        share = min(1.0, max(0.0, self._x / self._total))
        eighths = int(share * _BAR_CELLS * 8)
        bar = ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).ljust(_BAR_CELLS)[:_BAR_CELLS]
        left = _clock((self._total - self._x) / rate) if rate > 0 and self._x <= self._total else "?"
        count = f"{_number(self._x)}/{_number(self._total)}"
        return f"{head}{int(share * 100):3d}%|{bar}| {count} [{_clock(seconds)}<{left}, {pace}]"

    def __iter__(self) -> Iterator[Any]:
        if self._iterable is None:
            raise ValueError("this bar has nothing to iterate over: give it an iterable, or call update()")
        for each in self._iterable:
            yield each
            self.update()
        self.close()

    def __enter__(self) -> tqdm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        """A bar that nobody closed has ended where it stood. Runs anywhere: what it calls must not wait for a lock."""
        if not self._key or self._file is not None:
            return
        if self._in_worker:
            try:
                os.write(2, self._line(self._text(time.monotonic()), over=True).encode())
            except (OSError, ValueError):
                pass
        else:
            bars.abandoned.append(self._key)


def _number(value: float) -> str:
    """As it is, or shortened: 999, 12500, 1.25M."""
    if abs(value) < _SHORTENED_FROM:
        return f"{value:g}"
    for unit in "kMGT":
        value /= 1000
        if abs(value) < 1000 or unit == "T":
            break
    return f"{value:.3g}{unit}" if abs(value) < 999.5 else f"{value:.0f}{unit}"


def _clock(seconds: float) -> str:
    """Minutes and seconds, with hours if there are any."""
    minutes, second = divmod(int(min(seconds, 1e9)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute:02d}:{second:02d}"


def trange(*args: Any, **kwargs: Any) -> tqdm:
    """``tqdm(range(*args), **kwargs)``."""
    return tqdm(range(*args), **kwargs)


__all__ = ["instance", "safe_print", "tqdm", "trange"]
