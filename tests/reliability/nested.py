"""Tasks that make tasks, and a small actor, in a module that costs nothing to import: each of their processes does."""

from __future__ import annotations

import threading

import obsray


@obsray.remote
def nothing(value: int = 0) -> int:
    return value


@obsray.remote
def add_up(*values: int) -> int:
    return sum(values)


@obsray.remote
def deeper(depth: int) -> int:
    return 0 if depth == 0 else 1 + obsray.get(deeper.remote(depth - 1))


@obsray.remote
def twice(depth: int, pause_seconds: float = 0.0) -> int:
    """A fork bomb of tasks: each makes two more and waits for them."""
    threading.Event().wait(pause_seconds)
    return 1 if depth == 0 else sum(obsray.get([twice.remote(depth - 1, pause_seconds) for _ in range(2)]))


@obsray.remote(num_cpus=0)
class Small:
    def value(self) -> int:
        return 1
