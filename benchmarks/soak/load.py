"""What the program under test does, again and again; every value is checked."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import obsray
from obsray.experimental import internal_kv

#: Nothing here takes a second when all is well; a node that is killed costs a few.
ROUND_SECONDS_MAX = 90.0
FAR = {"resources": {"far": 0.01}, "num_cpus": 0.1}
ARRAY_BYTES = 1 << 20


class WrongValue(Exception):
    """Something came out that must not."""


@obsray.remote(max_retries=-1)
def same(value: int) -> int:
    """A small task."""
    return value


@obsray.remote(max_retries=-1)
def one_more(value: int) -> int:
    """A link of a chain."""
    return value + 1


@obsray.remote(max_retries=-1)
def array(value: int) -> Any:
    """A value that lies in the store, and is made again if it is lost with a node."""
    return np.full(ARRAY_BYTES, value % 251, np.uint8)


@obsray.remote(max_retries=-1)
def last(values: Any) -> int:
    """Reads all of it."""
    return int(values[-1])


@obsray.remote(max_retries=-1)
def items(count: int) -> Any:
    """A stream."""
    yield from range(count)


class _Echo:
    """An actor that may be killed at any time."""

    def say(self, value: int) -> int:
        return value


Echo: Any = obsray.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0)(_Echo)


class Load:
    """``done`` counts operations that were finished and checked; ``failure`` is what ended the load too early."""

    def __init__(self) -> None:
        self.done = 0
        self.rounds = 0
        #: What it does now, and since when (monotonic); what took longest.
        self.part, self.part_since = "", time.monotonic()
        self.slowest = 0.0, ""
        self.near = Echo.remote()
        self.far = Echo.options(resources={"far": 0.01}).remote()

    def run(self, until: float) -> None:
        """Rounds until ``until`` (monotonic). Raises WrongValue, or what the runtime raises."""
        parts: list[Callable[[], int]] = [
            self._tasks, self._far_tasks, self._chain, self._calls, self._arrays, self._puts, self._keys, self._stream,
            self._short_lived,
        ]  # fmt: skip
        while time.monotonic() < until:
            for part in parts:
                self.part, self.part_since = part.__name__.lstrip("_"), time.monotonic()
                self.done += part()
                self.slowest = max(self.slowest, (time.monotonic() - self.part_since, self.part))
            self.rounds += 1

    def _expect(self, what: str, found: Any, wanted: Any) -> None:
        if found != wanted:
            raise WrongValue(f"{what}: {str(found)[:200]} instead of {str(wanted)[:200]}")

    def _tasks(self) -> int:
        got = obsray.get([same.remote(x) for x in range(300)], timeout=ROUND_SECONDS_MAX)
        self._expect("tasks", got, list(range(300)))
        return 300

    def _far_tasks(self) -> int:
        got = obsray.get([same.options(**FAR).remote(x) for x in range(60)], timeout=ROUND_SECONDS_MAX)
        self._expect("far tasks", got, list(range(60)))
        return 60

    def _chain(self) -> int:
        ref = same.remote(0)
        for number in range(10):
            ref = (one_more.options(**FAR) if number % 2 else one_more).remote(ref)
        self._expect("chain", obsray.get(ref, timeout=ROUND_SECONDS_MAX), 10)
        return 11

    def _calls(self) -> int:
        refs = [actor.say.remote(x) for actor in (self.near, self.far) for x in range(50)]
        self._expect("calls", obsray.get(refs, timeout=ROUND_SECONDS_MAX), [*range(50)] * 2)
        return 100

    def _arrays(self) -> int:
        made = [array.options(**FAR).remote(self.rounds + x) for x in range(4)]
        read = obsray.get([last.remote(ref) for ref in made], timeout=ROUND_SECONDS_MAX)
        self._expect("arrays", read, [(self.rounds + x) % 251 for x in range(4)])
        return 8

    def _puts(self) -> int:
        refs = [obsray.put(np.full(ARRAY_BYTES, x, np.uint8)) for x in range(4)]
        read = obsray.get([last.remote(ref) for ref in refs], timeout=ROUND_SECONDS_MAX)
        self._expect("puts", read, list(range(4)))
        return 8

    def _keys(self) -> int:
        key, value = b"soak %d" % (self.rounds % 50), b"%d" % self.rounds
        internal_kv._internal_kv_put(key, value)
        self._expect("keys", internal_kv._internal_kv_get(key), value)
        return 2

    def _stream(self) -> int:
        got = [obsray.get(ref, timeout=ROUND_SECONDS_MAX) for ref in items.remote(10)]
        self._expect("stream", got, list(range(10)))
        return 10

    def _short_lived(self) -> int:
        if self.rounds % 5:
            return 0
        actor = Echo.remote()
        self._expect("an actor of its own", obsray.get(actor.say.remote(1), timeout=ROUND_SECONDS_MAX), 1)
        return 2
