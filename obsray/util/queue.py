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
    """Says in its results, not by errors, that it was empty or full: looking is no failure of a task."""

    def __init__(self, maxsize: int) -> None:
        self.items: asyncio.Queue[Any] = asyncio.Queue(maxsize)

    async def put(self, item: Any, timeout: float | None) -> bool:
        try:
            await asyncio.wait_for(self.items.put(item), timeout)
        except TimeoutError:
            return False
        return True

    async def get(self, timeout: float | None) -> tuple[bool, Any]:
        try:
            return True, await asyncio.wait_for(self.items.get(), timeout)
        except TimeoutError:
            return False, None

    async def put_now(self, items: list[Any]) -> bool:
        if 0 < self.items.maxsize < self.items.qsize() + len(items):
            return False
        for item in items:
            self.items.put_nowait(item)
        return True

    async def get_now(self, count: int) -> tuple[bool, list[Any]]:
        if count > self.items.qsize():
            return False, []
        return True, [self.items.get_nowait() for _ in range(count)]

    async def size(self) -> int:
        return self.items.qsize()

    qsize = size

    async def empty(self) -> bool:
        return self.items.empty()

    async def full(self) -> bool:
        return self.items.full()


class Queue:
    """First in, first out, for any number of producers and consumers; send it to tasks and actors as an argument.

    ``maxsize`` items fit, any number if it is 0 or less. ``actor_options`` are those of ``ActorClass.options``. The
    queue ends with its last copy or with ``shutdown``; then its methods raise ``RayActorError``.
    """

    def __init__(self, maxsize: int = 0, actor_options: dict[str, Any] | None = None) -> None:
        self.maxsize = maxsize
        self._actor = remote(_QueueActor).options(**(actor_options or {})).remote(maxsize)
        self._ended = False

    @property
    def actor(self) -> Any:
        """The handle of the actor that holds the items; None after ``shutdown`` of this copy."""
        return None if self._ended else self._actor

    def _living(self) -> Any:
        if self._ended:
            raise ActorDiedError("the queue was shut down", self._actor._actor_id.hex())
        return self._actor

    def __len__(self) -> int:
        return self.size()

    def size(self) -> int:
        """How many items are in the queue."""
        return int(api.get(self._living().size.remote()))

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
            return self._living().put_now.remote([item])
        return self._living().put.remote(item, _checked(timeout))

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take an item; waits for one, at most ``timeout`` seconds. Raises Empty, ValueError for a negative timeout."""
        return _got(api.get(self._get(block, timeout)), block)

    async def get_async(self, block: bool = True, timeout: float | None = None) -> Any:
        """``get`` for coroutines."""
        return _got(await self._get(block, timeout), block)

    def _get(self, block: bool, timeout: float | None) -> Any:
        return self._living().get.remote(_checked(timeout)) if block else self._living().get_now.remote(1)

    def put_nowait(self, item: Any) -> None:
        """Add an item if there is room. Raises Full."""
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        """Take an item if there is one. Raises Empty."""
        return self.get(block=False)

    def put_nowait_batch(self, items: Iterable[Any]) -> None:
        """Add all items or, if there is not room for all, none. Raises Full."""
        _put(api.get(self._living().put_now.remote(list(items))))

    def get_nowait_batch(self, num_items: int) -> list[Any]:
        """Take that many items or, if there are not so many, none. Raises Empty, ValueError for a negative number."""
        if not isinstance(num_items, int) or num_items < 0:
            raise ValueError(f"num_items={num_items!r}: must be a number >= 0")
        done, items = api.get(self._living().get_now.remote(num_items))
        if not done:
            raise Empty
        return list(items)

    def shutdown(self, force: bool = False, grace_period_s: float = 5) -> None:
        """End the queue for everybody: after the calls it is doing, or at once with ``force`` or after the grace.

        Does nothing for a copy that was shut down already.
        """
        if self._ended:
            return
        if not force:
            ended = self._actor.__ray_terminate__.remote()
            api.wait([ended], timeout=grace_period_s)
        api.kill(self._actor)
        # The actor may answer until the order to kill it arrives; to this copy it is gone now.
        self._ended = True


def _checked(timeout: float | None) -> float | None:
    if timeout is not None and timeout < 0:
        raise ValueError(f"timeout={timeout}: must be >= 0 seconds")
    return timeout


def _put(done: bool) -> None:
    if not done:
        raise Full


def _got(answer: tuple[bool, Any], block: bool) -> Any:
    done, found = answer
    if not done:
        raise Empty
    return found if block else found[0]


__all__ = ["Empty", "Full", "Queue"]
