"""Processors in a replay: what computes at the same time shares them, and a driver does one thing after another."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable

_NEAR = 1e-12


class Processors:
    """What shares the processors there are, however many workers: the beginnings of new processes, and where tasks are
    short all that drivers and workers compute."""

    def __init__(self, count: int, at: Callable[[float, Callable[[], None]], None]) -> None:
        self.count, self.at = count, at
        #: How much each has got that has been there from the beginning, and as of when.
        self.got = self.since = 0.0
        self.under_way: list[tuple[float, int, Callable[[], None]]] = []
        self.order, self.due = 0, float("inf")

    def compute(self, now: float, seconds: float, then: Callable[[], None]) -> None:
        """Do something once so much is computed."""
        self._pass(now)
        self.order += 1
        heapq.heappush(self.under_way, (self.got + seconds, self.order, then))
        self._look_later()

    def _rate(self) -> float:
        return min(1.0, self.count / max(len(self.under_way), 1))

    def _pass(self, now: float) -> None:
        self.got += (now - self.since) * self._rate()
        self.since = now

    def _look_later(self) -> None:
        if not self.under_way:
            return
        seconds = max(self.under_way[0][0] - self.got, 0.0) / self._rate()
        due = self.since + seconds
        if due < self.due - _NEAR:
            self.due = due
            self.at(seconds, lambda: self._look(due))

    def _look(self, due: float) -> None:
        if due != self.due:
            return  # an earlier look has come instead
        self.due = float("inf")
        self._pass(due)
        # It may come too early: others have had their shares meanwhile.
        then = heapq.heappop(self.under_way)[2] if self.under_way[0][0] <= self.got + _NEAR else None
        self._look_later()
        if then is not None:
            then()


class Line:
    """A process that computes one thing after the other, in the order in which they came."""

    def __init__(self, processors: Processors, clock: Callable[[], float]) -> None:
        self.processors, self.clock = processors, clock
        self.queue: deque[tuple[float, Callable[[], None]]] = deque()
        self.busy = False
        #: All that it computed.
        self.seconds = 0.0

    def do(self, seconds: float, then: Callable[[], None]) -> None:
        """Do something once so much is computed, after what came before."""
        self.seconds += seconds
        self.queue.append((seconds, then))
        if not self.busy:
            self._next()

    def _next(self) -> None:
        self.busy = bool(self.queue)
        if self.busy:
            seconds, then = self.queue.popleft()
            self.processors.compute(self.clock(), seconds, lambda: self._over(then))

    def _over(self, then: Callable[[], None]) -> None:
        then()
        self._next()
