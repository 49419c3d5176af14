"""A queue that tasks, actors and drivers share; it lives in an actor."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Iterable
from typing import Any

from obsray.core import api
from obsray.core.remote import remote
from obsray.errors import ActorDiedError


class Empty(queue.Empty):
    """There is nothing in the queue."""


class Full(queue.Full):
    """There is no room in the queue."""


class _QueueActor:
    """Has the methods of Ray's, for subclasses with an order of their own; ``Queue`` calls those whose results say that
    it was empty or full: looking is no failure of a task."""

    def __init__(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.queue: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    async def put(self, item: Any, timeout: float | None = None) -> None:
        try:
            await asyncio.wait_for(self.queue.put(item), timeout)
        except TimeoutError:
            raise Full from None

    async def get(self, timeout: float | None = None) -> Any:
        try:
            return await asyncio.wait_for(self.queue.get(), timeout)
        except TimeoutError:
            raise Empty from None

    def put_nowait(self, item: Any) -> None:
        self.put_nowait_batch([item])

    def get_nowait(self) -> Any:
        return self.get_nowait_batch(1)[0]

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        items = list(items)
        if 0 < self.maxsize < self.qsize() + len(items):
            raise Full
        for item in items:
            self.queue.put_nowait(item)

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        if num_items > self.qsize():
            raise Empty
        return [self.queue.get_nowait() for _ in range(num_items)]

    def qsize(self) -> int:
        return self.queue.qsize()

    def empty(self) -> bool:
        return self.queue.empty()

    def full(self) -> bool:
        return self.queue.full()

    async def try_put(self, item: Any, timeout: float | None) -> bool:
        try:
            await self.put(item, timeout)
        except Full:
            return False
        return True

    async def try_get(self, timeout: float | None) -> tuple[bool, Any]:
        try:
            return True, await self.get(timeout)
        except Empty:
            return False, None

    def try_put_nowait(self, item: Any) -> bool:
        try:
            self.put_nowait(item)
        except Full:
            return False
        return True

    def try_put_nowait_batch(self, items: list[Any]) -> bool:
        try:
            self.put_nowait_batch(items)
        except Full:
            return False
        return True

    def try_get_nowait(self) -> tuple[bool, Any]:
        try:
            return True, self.get_nowait()
        except Empty:
            return False, None

    def try_get_nowait_batch(self, num_items: int) -> tuple[bool, list[Any]]:
        try:
            return True, self.get_nowait_batch(num_items)
        except Empty:
            return False, []


class Queue:
    """First in, first out, for any number of producers and consumers; send it to tasks and actors as an argument.

    ``maxsize`` items fit, any number if it is 0 or less. ``actor_options`` are those of ``ActorClass.options``. The
    queue ends with its last copy or with ``shutdown``; then its methods raise ``RayActorError``.
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        self.maxsize = maxsize
        #: The handle of the actor that holds the items; None after ``shutdown`` of this copy. May be set, to that of
        #: another queue or of an actor of a class that is derived from this one's.
        self.actor: Any = remote(_QueueActor).options(**(actor_options or {})).remote(maxsize)

    def __repr__(self) -> str:
        return f"Queue(maxsize={self.maxsize}, actor={self.actor!r})"

    def _living(self) -> Any:
        if self.actor is None:
            raise ActorDiedError("the queue was shut down")
        return self.actor

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """How many items are in the queue."""
        return int(api.get(self._living().qsize.remote()))

    def qsize(self) -> int:
        """How many items are in the queue."""
        return self.size()

    def empty(self) -> bool:
        """Whether there is no item."""
        return self.size() == 0

    def full(self) -> bool:
        """Whether there is no room."""
        return 0 < self.maxsize <= self.size()

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an item; waits for room, at most ``timeout`` seconds. Raises Full, ValueError for a negative timeout."""
        _put(api.get(self._put(item, block, timeout)))

    async def put_async(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """``put`` for coroutines."""
        _put(await self._put(item, block, timeout))

    def _put(self, item: Any, block: bool, timeout: float | None) -> Any:
        if not block:
            return self._living().try_put_nowait.remote(item)
        return self._living().try_put.remote(item, _checked(timeout))

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take an item; waits for one, at most ``timeout`` seconds. Raises Empty, ValueError for a negative timeout."""
        return _got(api.get(self._get(block, timeout)))

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """``get`` for coroutines."""
        return _got(await self._get(block, timeout))

    def _get(self, block: bool, timeout: float | None) -> Any:
        return self._living().try_get.remote(_checked(timeout)) if block else self._living().try_get_nowait.remote()

    def put_nowait(self, item: Any) -> None:
        """Add an item if there is room. Raises Full."""
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        """Take an item if there is one. Raises Empty."""
        return self.get(block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add all items or, if there is not room for all, none. Raises Full."""
        _put(api.get(self._living().try_put_nowait_batch.remote(list(items))))

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take that many items or, if there are not so many, none. Raises Empty, ValueError for a negative number."""
        if not isinstance(num_items, int) or num_items < 0:
            raise ValueError(f"num_items={num_items!r}: must be a number >= 0")
        return list(_got(api.get(self._living().try_get_nowait_batch.remote(num_items))))

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """End the queue for everybody: after the calls it is doing, or at once with ``force`` or after the grace.

        Does nothing for a copy that was shut down already.
        """
        if self.actor is None:
            return
        if not force:
            ended = self.actor.__ray_terminate__.remote()
            api.wait([ended], timeout=grace_period_s)
        api.kill(self.actor)
        # The actor may answer until the order to kill it arrives; to this copy it is gone now.
        self.actor = None


def _checked(timeout: float | None) -> float | None:
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout={timeout}: must be >= 0 seconds")
    return timeout


def _put(done: bool) -> None:
    if not done:
        raise Full


def _got(answer: tuple[bool, Any]) -> Any:
    done, found = answer
    if not done:
        raise Empty
    return found


__all__ = ["Empty", "Full", "Queue"]
