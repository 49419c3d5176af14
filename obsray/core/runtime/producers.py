"""The producer's side of generators: items go out one by one, no further ahead of the consumer than it allows."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from obsray.core.protocol import messages as m
from obsray.core.runtime.running import Running
from obsray.core.runtime.waiting import Waiter

if TYPE_CHECKING:
    from obsray.core.runtime.executor import Executor

log = logging.getLogger(__name__)

#: In place of a number of items taken.
ABANDONED, UNREAD = m.ITEMS_UNWANTED, m.ITEMS_UNREAD
#: ``returns`` of a task whose items are wanted all at once, when it has ended.
GATHERED = -2


class Window:
    """How far one stream is. ``ahead``: items that may be sent before they are taken, -1 without bound."""

    __slots__ = ("ahead", "gathered", "sent", "taken", "wake", "wanted")

    def __init__(self, ahead: int, wanted: list[int] | None = None, gathered: bool = False) -> None:
        self.ahead = -1 if gathered else ahead
        #: Nobody takes items before the last one is there.
        self.gathered = gathered
        #: Items that were lost, if the others are there: nobody takes those that are made again.
        self.wanted = wanted
        self.sent = 0
        self.taken = 0
        #: Called, with the session's lock held, when there is room; None while nobody waits for it.
        self.wake: Callable[[], None] | None = None


class Filled(NamedTuple):
    """Results of a generator that was to yield a certain number of values, as they travel."""

    values: list[Any]
    contained: list[list[bytes]]


class Producers:
    """The streams that this process makes. ``together_max``: items of all of them that may be sent and not yet
    taken (``_actor_generator_backpressure_num_objects``), -1 without bound."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.session = executor.session
        self.together_max = -1
        #: Of the stream that ended last on the main thread: how many items it was asked for, ABANDONED for all.
        self.last = ABANDONED
        self._windows: dict[bytes, Window] = {}

    def taken(self, task: bytes, count: int) -> None:
        """The consumer has taken ``count`` items, or is gone. Lock held."""
        window = self._windows.get(task)
        if window is None:
            return
        window.taken = count if count < 0 else max(count, window.taken)
        for other in (window,) if self.together_max < 0 else tuple(self._windows.values()):
            if other.wake is not None and not self._is_full(other):
                other.wake()

    def link_closed(self, link: Any) -> None:
        """The process that consumed these streams is gone. Lock held."""
        for running in tuple(self.executor.slots.values()):
            if running.link is link:
                self.taken(running.task, ABANDONED)

    def _is_full(self, window: Window) -> bool:
        if window.taken < 0 or window.wanted is not None or window.gathered:
            return False
        if 0 < window.ahead <= window.sent - window.taken:
            return True
        if self.together_max < 0:
            return False
        waiting = sum(
            max(0, w.sent - w.taken)
            # A copy: other threads may begin and end streams meanwhile.
            for w in tuple(self._windows.values())
            if w.taken >= 0 and w.wanted is None and not w.gathered
        )
        return waiting >= self.together_max

    def _open(self, running: Running) -> Window:
        options = running.options or {}
        ahead, wanted = options.get("backpressure", -1), options.get("wanted")
        window = self._windows[running.task] = Window(ahead, wanted, running.returns == GATHERED)
        return window

    def stream(self, running: Running, items: Any) -> None:
        """Send what a generator yields, on this thread. Raises ValueError for what is not a generator."""
        if hasattr(items, "__aiter__"):
            items = _in_own_loop(items)
        iterator = _iterator(running, items)
        window = self._open(running)
        self.last = ABANDONED
        try:
            for value in iterator:
                if window.taken != UNREAD:
                    self._send(running, window, value)
                if window.taken == ABANDONED or running.cancelled:
                    self.last = window.sent
                    break
                if (window.ahead > 0 or self.together_max > 0) and self._is_full(window):
                    self._wait(window)
        finally:
            del self._windows[running.task]
            _close(iterator)
        if running.cancelled:
            raise KeyboardInterrupt

    def fill(self, running: Running, items: Iterator[Any]) -> Filled:
        """Store what a generator of ``num_returns`` values yields, one by one, so that no two are in memory at once.

        What it has yielded before it raises counts. Raises ValueError if it yields too few.
        """
        executor, options = self.executor, running.options
        wanted = options.get("wanted") if options is not None else None
        running.made = made = Filled([], [])
        for index, value in enumerate(items):
            if index == running.returns:
                log.warning(
                    "%s yields more values than num_returns=%d: nobody can have the others",
                    running.loaded.name, running.returns,
                )  # fmt: skip
                _close(items)
                break
            stored: Any = None
            references: list[bytes] = []
            if wanted is None or index in wanted:
                identifier = running.task + index.to_bytes(4, "big")
                stored, references = executor.store_one(identifier, value, "the yielded value")
            made.values.append(stored)
            made.contained.append(references)
            value = None
        if len(made.values) < running.returns:
            raise ValueError(
                f"{running.loaded.name} must yield {running.returns} values (num_returns={running.returns}), "
                f"it yielded {len(made.values)}"
            )
        running.made = None
        return made

    def _wait(self, window: Window) -> None:
        waiter = Waiter(1)
        with self.session.lock:
            if self._is_full(window):
                window.wake = lambda: waiter.on_ready(None)
            else:
                waiter.missing = 0
            self.session.send_everything()
        self.session.wait_until(waiter, None)
        window.wake = None

    async def stream_on_loop(self, running: Running, items: Any, flush: Callable[[], None]) -> None:
        """The same on an actor's event loop, which runs other calls between items and while there is no room."""
        iterator = items if hasattr(items, "__aiter__") else _iterator(running, items)
        window = self._open(running)
        try:
            async for value in _each(iterator):
                if window.taken != UNREAD:
                    self._send(running, window, value)
                    flush()
                if window.taken == ABANDONED:
                    break
                if (window.ahead > 0 or self.together_max > 0) and self._is_full(window):
                    await self._wait_on_loop(window)
                else:
                    await asyncio.sleep(0)
        finally:
            del self._windows[running.task]
            if hasattr(iterator, "aclose"):
                await iterator.aclose()
            else:
                _close(iterator)

    async def _wait_on_loop(self, window: Window) -> None:
        loop = asyncio.get_running_loop()
        room: asyncio.Future[None] = loop.create_future()
        with self.session.lock:
            if not self._is_full(window):
                return
            window.wake = lambda: _wake(loop, room)
            self.session.send_everything()
        try:
            await room
        finally:
            window.wake = None

    def _send(self, running: Running, window: Window, value: Any) -> None:
        executor, session, index = self.executor, self.session, window.sent
        if window.wanted is not None and index not in window.wanted:
            window.sent = index + 1
            return
        stored, references = executor.store_one(
            running.task + (index + 1).to_bytes(4, "big"), value, "the yielded value"
        )
        size = len(stored) if type(stored) is bytes else stored
        now = time.time_ns()
        with session.lock:
            if references:
                session.ownership.hand_out(references, running.link.peer.worker)
            running.link.send(m.encode(m.Item(running.task, index, stored, references)))
            session.emitter.task_item_yielded(now, running.task, index, size)
            window.sent = index + 1
            if executor.sends_are_due(now):
                session.send_everything()


def _iterator(running: Running, items: Any) -> Iterator[Any]:
    if not hasattr(items, "__iter__"):
        raise ValueError(f'{running.loaded.name} is not a generator: num_returns="streaming" needs one that yields')
    return iter(items)


def _close(iterator: Any) -> None:
    close = getattr(iterator, "close", None)
    if close is not None and hasattr(iterator, "send"):
        close()


async def _each(iterator: Any) -> AsyncIterator[Any]:
    if hasattr(iterator, "__aiter__"):
        async for value in iterator:
            yield value
    else:
        for value in iterator:
            yield value


def _in_own_loop(items: Any) -> Iterator[Any]:
    """An async generator of a task, step by step."""
    loop = asyncio.new_event_loop()
    iterator = items.__aiter__()
    try:
        while True:
            try:
                value = loop.run_until_complete(iterator.__anext__())
            except StopAsyncIteration:
                return
            yield value
    finally:
        if hasattr(iterator, "aclose"):
            loop.run_until_complete(iterator.aclose())
        loop.close()


def _wake(loop: asyncio.AbstractEventLoop, room: asyncio.Future[None]) -> None:
    loop.call_soon_threadsafe(_resolve, room)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
