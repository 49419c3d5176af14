"""The thread that watches a process: when it looks, and when it lets others alone."""

from __future__ import annotations

import threading
from collections import deque
from types import SimpleNamespace

import pytest

from obsray.config import Config
from obsray.core.runtime import executor as executor_module
from obsray.core.runtime import watcher as module
from obsray.core.runtime.executor import Executor
from obsray.core.runtime.running import Running
from obsray.core.runtime.watcher import TURNS_MANY, Watcher

PATIENCE_SECONDS = 30.0


class BusySession:
    """A session whose sockets somebody drives ``turns_a_look`` times between two looks."""

    emitter = directory = lock = executor = None
    closed = False

    def __init__(self, turns_a_look: int) -> None:
        self.ownership = SimpleNamespace(unseen=None)
        self._turns, self._more = 0, turns_a_look

    @property
    def turns(self) -> int:
        self._turns += self._more
        return self._turns


@pytest.fixture
def watching(monkeypatch):
    monkeypatch.setattr(module, "UnseenReports", lambda *_: None)
    monkeypatch.setattr(module, "HaltedNode", lambda *_: None)
    sessions: list[BusySession] = []

    def watch(turns_a_look: int) -> tuple[Watcher, threading.Semaphore]:
        session = BusySession(turns_a_look)
        sessions.append(session)
        watcher, looks = Watcher(session, Config(telemetry="off")), threading.Semaphore(0)
        watcher.tick = lambda: 60.0
        watcher.observe = lambda wait: looks.release() or wait
        watcher._thread.start()
        watchers.append(watcher)
        return watcher, looks

    watchers: list[Watcher] = []
    yield watch
    for session, watcher in zip(sessions, watchers, strict=True):
        session.closed = True
        watcher.wake()
        watcher._thread.join(PATIENCE_SECONDS)
        assert not watcher._thread.is_alive()


def test_it_lets_a_thread_alone_that_drives_again_and_again_until_something_is_to_be_sent(watching, monkeypatch):
    monkeypatch.setattr(module, "DOZE_SECONDS", 60.0)
    watcher, looks = watching(TURNS_MANY)
    assert looks.acquire(timeout=PATIENCE_SECONDS)  # its first look is after one tick
    while not watcher.dozes:
        assert watcher._thread.is_alive()
    assert not looks.acquire(timeout=5 * module.TICK_SECONDS)
    watcher.wake()
    assert looks.acquire(timeout=PATIENCE_SECONDS)


def test_it_looks_at_every_tick_where_the_sockets_are_driven_now_and_then(watching, monkeypatch):
    monkeypatch.setattr(module, "DOZE_SECONDS", 60.0)
    _, looks = watching(1)
    assert all(looks.acquire(timeout=PATIENCE_SECONDS) for _ in range(10))


class Between:
    """A worker with four tasks of one function, known to run for ``mean_ns``; ``sent_ns_ago`` when each ends."""

    def __init__(self, mean_ns: int, sent_ns_ago: int = 0) -> None:
        function = SimpleNamespace(calls=1, mean_ns=mean_ns)
        link = SimpleNamespace(state={0: function})
        queued = (bytes(16), 0, 0, b"", None, 1, bytes(16), None)
        self.tasks = [Running(link, 0, 0, 0, {}, 0, queued) for _ in range(4)]
        self.executor = executor = Executor.__new__(Executor)
        executor.queue, executor.exiting, executor.actor, executor.checkpoints = deque(self.tasks), "", None, None
        executor.termination = SimpleNamespace(asked=True)
        executor.execute = lambda running: setattr(executor, "_sent_ns", module.time.time_ns() - sent_ns_ago)
        #: How many tasks were left whenever the watcher was woken, and whenever the worker looked at its sockets.
        self.woken: list[int] = []
        self.glanced: list[int] = []
        executor.session = SimpleNamespace(
            lock=threading.Lock(),
            send_everything=lambda: setattr(executor, "exiting", "enough"),
            glance=lambda: self.glanced.append(len(executor.queue)),
            watcher=SimpleNamespace(dozes=True, wake=lambda: self.woken.append(len(executor.queue))),
        )
        executor.run()


def test_a_worker_with_a_result_that_waits_for_company_has_the_watcher_look_soon_unless_what_comes_next_is_short(
    minute,
):
    assert Between(minute + 1).woken == [3, 2, 1]
    assert Between(minute).woken == []


def test_a_worker_looks_at_its_sockets_itself_between_tasks_when_results_have_waited_long_enough(minute):
    found = Between(minute, sent_ns_ago=2 * minute)
    assert found.glanced == [3, 2, 1] and not found.woken
    assert Between(minute).glanced == []


@pytest.fixture
def minute(monkeypatch):
    """Results wait a minute for company: no machine is so slow that it would be over by itself."""
    monkeypatch.setattr(executor_module, "SEND_AFTER_NS", 60 * 10**9)
    return executor_module.SEND_AFTER_NS
