"""An interrupt that meets the machines is raised once, and soon, whoever sees it first."""

from __future__ import annotations

import concurrent.futures
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import obsray
from obsray.causes import users_frames
from obsray.config import Config
from obsray.core.runtime import interrupts, launch, session
from obsray.core.runtime.interrupts import in_runtime, on_interrupt
from obsray.core.runtime.session import LEADER_SECONDS_MAX, Session, set_current
from obsray.core.runtime.values import Values
from obsray.core.runtime.watcher import Watcher
from obsray.core.transport.links import Reactor

_PACKAGE = Path(obsray.__file__).parent


def interrupted() -> Any:
    return SimpleNamespace(interrupt_pending=deque([None], maxlen=1))


def test_an_interrupt_is_raised_once():
    pending = interrupted()
    with pytest.raises(KeyboardInterrupt):
        Session.take_interrupt(pending)
    Session.take_interrupt(pending)


def test_what_the_watcher_sends_again_is_not_raised_by_who_waits_as_well(monkeypatch, tmp_path):
    waiting = interrupted()
    seen = waiting.interrupt_pending
    sent = []

    def send(thread: int, number: int) -> None:
        # The main thread has looked before and takes it now.
        Session.take_interrupt(waiting)
        sent.append(number)

    monkeypatch.setattr(signal, "pthread_kill", send)
    waiting.lock, waiting.closed, waiting.executor = _Nothing(), False, None
    waiting.dispatcher, waiting.inbox = SimpleNamespace(tick=lambda *_: None), SimpleNamespace(audit=lambda: None)
    waiting.values = SimpleNamespace(completions=(), notice_awaits=lambda now: None)
    waiting.send_everything, waiting.directory = lambda: None, tmp_path
    waiting.emitter, waiting.directory = None, Path()
    waiting.ownership = SimpleNamespace(unseen=SimpleNamespace(missed={}))
    Watcher(waiting, Config(profile_hz=0)).tick()
    assert sent == [signal.SIGINT] and not seen


def test_who_waits_for_the_dashboard_hears_it(monkeypatch):
    monkeypatch.setattr(launch.Context, "_dashboard_now", lambda self: "")
    waiting: Any = interrupted()
    waiting.take_interrupt, waiting.closed = lambda: Session.take_interrupt(waiting), False
    context = launch.Context(waiting, None, None, None, lambda: None)
    with pytest.raises(KeyboardInterrupt):
        context.wait_for_dashboard(20)


def test_who_drives_never_sleeps_without_an_end():
    asked: list[float] = []
    waiter = SimpleNamespace(missing=1)
    values = SimpleNamespace(completions=())
    driver: Any = SimpleNamespace(
        driving=_Nothing(), sleepers=[], turn=lambda seconds, alone: asked.append(seconds), values=values
    )
    for timeout in (None, 600.0, 0.0):
        Session.drive_or_sleep(driver, waiter, timeout)
    assert asked == [LEADER_SECONDS_MAX, LEADER_SECONDS_MAX, 0.0]


@pytest.fixture
def own_handler() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    set_current(None)


def inside(part: str, name: str = "step", call: Any = None) -> Any:
    """What ``call`` says when a function in this part of the package calls it."""
    scope: dict[str, Any] = {"__name__": "obsray." + part.removesuffix(".py").replace("/", ".")}
    exec(compile(f"def {name}(call): return call()", str(_PACKAGE / part), "exec"), scope)
    return scope[name](call or (lambda: in_runtime(sys._getframe(1))))


@pytest.mark.parametrize(
    "part", ["core/runtime/session.py", "telemetry/spine.py", "ids.py", "config.py", "errors.py", "gpu/capture.py"]
)
def test_what_the_machines_call_is_not_torn_open(part):
    assert (_PACKAGE / part).exists() and inside(part)
    # Nor is what is made of text there, as the emitters are.
    assert inside(part, call=eval("lambda: ask()", {"ask": lambda: in_runtime(sys._getframe(1))}))


@pytest.mark.parametrize("part", ["util/queue.py", "demo/command.py", "cli/command.py", "cluster_utils.py"])
def test_what_only_uses_the_runtime_is_interrupted_at_once(part):
    assert (_PACKAGE / part).exists() and not inside(part)
    assert not inside("core/runtime/executor.py", "call_user_code")


def test_the_handler_serves_whatever_session_there_is(own_handler):
    # One that another thread has shut down could not take its handler away.
    first, second = interrupted(), interrupted()
    for each in (first, second):
        each.closed, each.reactor, each.directory = False, SimpleNamespace(wake=lambda: None), None
        each.interrupt_pending.clear()
    set_current(first)
    interrupts.take_interrupts()
    stopping = threading.Thread(target=interrupts.restore_interrupts)
    stopping.start()
    stopping.join()
    first.closed = True
    set_current(second)
    interrupts.take_interrupts()
    inside("telemetry/spine.py", call=partial(signal.raise_signal, signal.SIGINT))
    assert second.interrupt_pending and not first.interrupt_pending
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    interrupts.restore_interrupts()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_a_session_the_handler_is_python_s_own(own_handler):
    signal.signal(signal.SIGINT, on_interrupt)
    with pytest.raises(KeyboardInterrupt):
        inside("telemetry/spine.py", call=partial(signal.raise_signal, signal.SIGINT))


class Freed:
    """Interrupted while it is freed."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_that_a_finalizer_swallows_comes_again(own_handler):
    told, woken = interrupted(), list[bool]()
    told.closed, told.directory, told.reactor = False, None, SimpleNamespace(wake=lambda: woken.append(True))
    told.interrupt_pending.clear()
    before = sys.unraisablehook
    set_current(told)
    interrupts.take_interrupts()
    try:
        Freed()
        assert told.interrupt_pending and woken
        # What is not an interrupt is told to whoever was told before.
        told.closed, seen = True, list[Any]()
        sys.unraisablehook = seen.append
        interrupts.hear_ignored(lambda: False)
        Freed()
        assert [each.exc_type for each in seen] == [KeyboardInterrupt]
    finally:
        sys.unraisablehook = before
        interrupts.restore_interrupts()
    interrupts.take_interrupts()
    interrupts.restore_interrupts()
    assert sys.unraisablehook is before


def test_a_watcher_that_asks_again_at_once_does_not_make_the_handler_call_itself_without_an_end(own_handler):
    asked: Any = interrupted()
    woken: list[bool] = []

    def wake() -> None:
        # The watcher takes the interrupt out and sends it, before the handler has returned.
        woken.append(True)
        asked.interrupt_pending.pop()
        signal.raise_signal(signal.SIGINT)

    asked.closed, asked.directory, asked.reactor = False, None, SimpleNamespace(wake=wake)
    set_current(asked)
    interrupts.take_interrupts()
    inside("telemetry/spine.py", call=partial(signal.raise_signal, signal.SIGINT))
    assert woken == [True] and asked.interrupt_pending
    interrupts.restore_interrupts()


def test_a_handler_of_the_program_stays(own_handler):
    interrupts.take_interrupts()
    mine = lambda number, frame: None  # noqa: E731
    signal.signal(signal.SIGINT, mine)
    interrupts.restore_interrupts()
    assert signal.getsignal(signal.SIGINT) is mine


def test_a_reactor_that_is_shut_down_wakes_nobody_else():
    reactor = Reactor(lambda link, messages: None, lambda link: None)
    fd = reactor._wake_fd
    reactor.shutdown()
    reused = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        assert reused == fd or os.dup2(reused, fd) == fd
        reactor.wake()
        with pytest.raises(BlockingIOError):
            os.eventfd_read(fd)
    finally:
        os.close(fd)
        if reused != fd:
            os.close(reused)


def test_an_interrupt_while_a_future_gets_its_value_is_for_the_thread_and_the_value_comes_later():
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()
    answers: Iterator[Any] = iter([KeyboardInterrupt(), 7])

    def rebuilt(entry: Any, data: Any) -> Any:
        answer = next(answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    entry = SimpleNamespace(value=b"")
    values: Any = SimpleNamespace(completions=deque([(future, entry, None)]), _rebuilt=rebuilt)
    values._complete = lambda *what: Values._complete(values, *what)
    with pytest.raises(KeyboardInterrupt):
        Values.complete_futures(values)
    assert not future.done()
    Values.complete_futures(values)
    assert future.result(0) == 7


def test_who_leaves_does_not_wait_for_ever_for_who_is_inside(monkeypatch):
    monkeypatch.setattr(session, "CLOSE_SECONDS_MAX", 0.01)
    said: list[str] = []
    leaving: Any = SimpleNamespace(
        lock=threading.Lock(), closed=False, failure=RuntimeError(), executor=object(),
        submitted=SimpleNamespace(flush=lambda: None), emitter=SimpleNamespace(close=lambda at: None),
        reactor=SimpleNamespace(wake=lambda: leaving.lock.acquire(), shutdown=lambda: said.append("shut down")),
        watcher=SimpleNamespace(stop=lambda: None, join=lambda: None),
    )  # fmt: skip
    Session.close(leaving)
    assert leaving.closed and not said
    leaving.lock.release()


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


def test_an_interrupt_may_hit_an_instruction_that_belongs_to_no_line():
    def fails() -> None:
        raise KeyboardInterrupt

    fails.__code__ = fails.__code__.replace(co_linetable=b"")
    with pytest.raises(KeyboardInterrupt) as caught:
        fails()
    trace = caught.value.__traceback__
    assert trace is not None and trace.tb_next is not None and trace.tb_next.tb_lineno is None
    kept = users_frames(trace)
    assert kept is not None and kept.tb_next is not None
    assert (kept.tb_next.tb_frame, kept.tb_next.tb_lineno) == (trace.tb_next.tb_frame, None)
