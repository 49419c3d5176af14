"""A fixed set of actors that share a stream of calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from obsray.core import api

Call = Callable[[Any, Any], Any]


class ActorPool:
    """Gives each call to an actor that has nothing to do; calls beyond that wait in the order they were submitted.

        pool = ActorPool([Worker.remote() for _ in range(4)])
        list(pool.map(lambda actor, value: actor.work.remote(value), range(100)))

    A call is ``fn(actor, value)`` and returns a reference, or the list of them that a call with ``num_returns`` gives:
    its result is then the list of their values. Not for use by several threads at once.
    """

    def __init__(self, actors: Iterable[Any]) -> None:
        self._idle = deque(actors)
        #: Number of the call -> its reference and the actor that is busy with it.
        self._running: dict[int, tuple[Any, Any]] = {}
        self._waiting: deque[tuple[int, Call, Any]] = deque()
        self._submitted = 0

    def submit(self, fn: Call, value: Any) -> None:
        """Let the next free actor do ``fn(actor, value)``."""
        self._waiting.append((self._submitted, fn, value))
        self._submitted += 1
        self._feed()

    def _feed(self) -> None:
        while self._waiting and self._idle:
            number, fn, value = self._waiting[0]
            reference = fn(self._idle[0], value)
            self._waiting.popleft()
            self._running[number] = (reference, self._idle.popleft())

    def map(self, fn: Call, values: Iterable[Any]) -> Iterator[Any]:
        """Submit all values; iterate over their results in the same order.

        Results of calls submitted before are dropped, and not waited for; the calls are made."""
        self._begin(fn, values)
        return self._results(self.get_next)

    def map_unordered(self, fn: Call, values: Iterable[Any]) -> Iterator[Any]:
        """Like ``map``, with the results in the order in which they become ready."""
        self._begin(fn, values)
        return self._results(self.get_next_unordered)

    def _begin(self, fn: Call, values: Iterable[Any]) -> None:
        while self._running:
            self._take(_awaited(self._running[min(self._running)][0]))
        self._waiting.clear()
        for value in values:
            self.submit(fn, value)

    def _results(self, take: Callable[[], Any]) -> Iterator[Any]:
        while self.has_next():
            yield take()

    def has_next(self) -> bool:
        """Whether there are results to come or to be taken."""
        return bool(self._running or self._waiting)

    def get_next(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The result of the call submitted first among those not taken; raises what the call raised.

        Raises TimeoutError after ``timeout`` seconds; the result can still be taken later, unless
        ``ignore_if_timedout``: then the call is given up and its actor goes on. Raises StopIteration if there is none.
        """
        self._check()
        result, _ = self._running[min(self._running)]
        return self._finish([_awaited(result)], timeout, ignore_if_timedout)

    def get_next_unordered(self, timeout: float | None = None, ignore_if_timedout: bool = False) -> Any:
        """The result that is ready first, else like ``get_next``."""
        self._check()
        return self._finish([_awaited(result) for result, _ in self._running.values()], timeout, ignore_if_timedout)

    def _check(self) -> None:
        if not self.has_next():
            raise StopIteration("no results are left")
        if not self._running:
            raise RuntimeError(f"{len(self._waiting)} calls wait and the pool has no actor to run them: push() one")

    def _finish(self, references: list[Any], timeout: float | None, ignore: bool) -> Any:
        ready, _ = api.wait(references, timeout=timeout)
        if ready:
            return api.get(self._take(ready[0]))
        if ignore:
            self._take(references[0])
            raise TimeoutError(f"no result within {timeout} s; the call was given up")
        raise TimeoutError(f"no result within {timeout} s")

    def _take(self, reference: Any) -> Any:
        number = next(number for number, (found, _) in self._running.items() if _awaited(found) == reference)
        result, actor = self._running.pop(number)
        self._idle.append(actor)
        self._feed()
        return result

    def has_free(self) -> bool:
        """Whether an actor has nothing to do."""
        return bool(self._idle) and not self._waiting

    def pop_idle(self) -> Any:
        """Take an actor that has nothing to do out of the pool; None if there is none."""
        return self._idle.popleft() if self.has_free() else None

    def push(self, actor: Any) -> None:
        """Add an actor. Raises ValueError if it belongs to the pool already."""
        if actor in self._idle or any(actor == busy for _, busy in self._running.values()):
            raise ValueError(f"{actor!r} belongs to the pool already")
        self._idle.append(actor)
        self._feed()


def _awaited(result: Any) -> Any:
    """The reference that tells when a call has ended: all that it returns become ready together."""
    return result[0] if isinstance(result, list) else result


__all__ = ["ActorPool"]
