"""Who takes over the sockets looks once more for what the last driver brought in, or it would sleep on it."""

from collections import deque
from types import SimpleNamespace
from typing import Any

from obsray.core.runtime.executor import Executor
from obsray.core.runtime.session import Session
from obsray.core.runtime.waiting import Waiter


class Driving:
    """A lock whose last holder does something just before it lets go."""

    def __init__(self, last_act: Any) -> None:
        self.last_act = last_act
        self.released = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self.last_act()
        return True

    def release(self) -> None:
        self.released += 1


def never(*_: Any) -> None:
    raise AssertionError("it went to sleep although what it waits for is there")


def test_a_waiter_served_while_it_took_over_does_not_sleep() -> None:
    waiter = Waiter(1)
    session = object.__new__(Session)
    session.driving = Driving(lambda: waiter.on_ready(None))  # type: ignore[assignment]
    session.sleepers = []
    session.turn = never  # type: ignore[method-assign]
    session.values = SimpleNamespace(completions=())  # type: ignore[assignment]
    session.drive_or_sleep(waiter, None)
    assert session.driving.released == 1  # type: ignore[attr-defined]


def test_a_worker_given_work_while_it_took_over_does_not_sleep() -> None:
    executor = object.__new__(Executor)
    executor.queue = deque()
    executor.exiting = ""
    executor.checkpoints = None
    driving = Driving(lambda: executor.queue.append("work"))
    values = SimpleNamespace(completions=())
    executor.session = SimpleNamespace(driving=driving, sleepers=[], turn=never, values=values)  # type: ignore[assignment]
    executor._idle_turn()
    assert driving.released == 1
