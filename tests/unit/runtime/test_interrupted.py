"""An interrupt that meets the machines is raised once, and soon, whoever sees it first."""

from __future__ import annotations

import signal
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from obsray.core.runtime import launch
from obsray.core.runtime.session import LEADER_SECONDS_MAX, Session


def interrupted() -> Any:
    return SimpleNamespace(interrupt_pending=deque([None], maxlen=1))


def test_an_interrupt_is_raised_once():
    session = interrupted()
    with pytest.raises(KeyboardInterrupt):
        Session.take_interrupt(session)
    Session.take_interrupt(session)


def test_what_the_watcher_sends_again_is_not_raised_by_who_waits_as_well(monkeypatch):
    session = interrupted()
    seen = session.interrupt_pending
    sent = []

    def send(thread: int, number: int) -> None:
        # The main thread has looked before and takes it now.
        Session.take_interrupt(session)
        sent.append(number)

    monkeypatch.setattr(signal, "pthread_kill", send)
    session.lock, session.closed, session.executor = _Nothing(), False, None
    session.dispatcher = SimpleNamespace(tick=lambda *_: None)
    session.values, session.send_everything = SimpleNamespace(completions=()), lambda: None
    Session._tick(session)
    assert sent == [signal.SIGINT] and not seen


def test_who_waits_for_the_dashboard_hears_it(monkeypatch):
    monkeypatch.setattr(launch.Context, "dashboard_url", "")
    session: Any = interrupted()
    session.take_interrupt = lambda: Session.take_interrupt(session)
    context = launch.Context(session, None, None, None, lambda: None)
    with pytest.raises(KeyboardInterrupt):
        context.wait_for_dashboard(20)


def test_who_drives_never_sleeps_without_an_end():
    asked: list[float] = []
    waiter = SimpleNamespace(missing=1)
    session: Any = SimpleNamespace(driving=_Nothing(), sleepers=[], turn=asked.append)
    for timeout in (None, 600.0, 0.0):
        Session.drive_or_sleep(session, waiter, timeout)
    assert asked == [LEADER_SECONDS_MAX, LEADER_SECONDS_MAX, 0.0]


class _Nothing:
    """A lock that nobody holds."""

    def acquire(self, blocking: bool = True) -> bool:
        return True

    def release(self) -> None:
        return None

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None
