"""The threads of a worker meet in its executor: one runs tasks, another sends what they returned."""

from __future__ import annotations

import signal
import sys
import threading
from collections import deque
from types import SimpleNamespace
from typing import Any, cast

import pytest

from obsray.core.runtime.executor import Executor
from obsray.core.runtime.session import Session

RESULTS = 200_000


class Collecting:
    """A link that takes what it is sent a moment later, as a flush does."""

    def __init__(self) -> None:
        self.sent: list[list[Any]] = []

    def send(self, message: tuple[int, list[Any]]) -> None:
        self.sent.append(list(message[1]))


@pytest.fixture
def executor():
    interrupt, interval = signal.getsignal(signal.SIGINT), sys.getswitchinterval()
    session = SimpleNamespace(inbox=SimpleNamespace(handle=lambda kind, handler: None))
    sys.setswitchinterval(1e-6)
    yield Executor(cast(Session, session))
    sys.setswitchinterval(interval)
    signal.signal(signal.SIGINT, interrupt)


def test_no_result_is_lost_while_another_thread_sends(executor):
    link = Collecting()
    running = True

    def send() -> None:
        while running:
            executor.send_results()

    sender = threading.Thread(target=send)
    sender.start()
    for number in range(RESULTS):
        executor._add(link, (number,))
    running = False
    sender.join()
    executor.send_results()
    found = [number for batch in link.sent for (number,) in batch]
    assert len(found) == RESULTS, f"{RESULTS - len(found)} results were lost"
    assert found == list(range(RESULTS))


class Shared(deque):
    """A queue from whose front the main thread takes one each time that another thread has taken one."""

    def __init__(self, waiting) -> None:
        super().__init__(waiting)
        self.begun: list[Any] = []

    def _main_thread(self, taken: Any) -> Any:
        if self:
            self.begun.append(deque.popleft(self))
        return taken

    def pop(self) -> Any:
        return self._main_thread(super().pop())

    def popleft(self) -> Any:
        return self._main_thread(super().popleft())


def test_what_the_main_thread_begins_during_a_recall_is_older_than_all_that_goes_back(executor):
    executor.queue = Shared(range(100))
    back = executor._take_queue()
    begun = executor.queue.begun
    assert begun + back == list(range(100)) and begun and back


def test_what_waits_can_be_looked_through_while_the_main_thread_takes_from_it(executor):
    gone, stays = SimpleNamespace(), SimpleNamespace()
    executor.session.reactor = SimpleNamespace(wake=lambda: None)
    total = 20_000
    executor.queue.extend(SimpleNamespace(link=stays, number=number) for number in range(total))
    ran: list[int] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            executor.link_closed(gone)

    looking = threading.Thread(target=look)
    looking.start()
    while len(ran) < total:
        try:
            ran.append(executor.queue.popleft().number)
        except IndexError:
            continue
    done.set()
    looking.join()
    assert sorted(ran) == list(range(total)), "something ran twice or never"
