"""SIGTERM to a worker: user code is left by SystemExit, what ``atexit`` has runs, and then the signal does its work.

The wait status says who was asked to end and how, and its node acts on it as on every other death.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from obsray.core.runtime.interrupts import in_runtime

if TYPE_CHECKING:
    from obsray.core.runtime.executor import Executor


class Termination:
    """Whether this process has been asked to end. Its main thread is the one that hears of it."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.asked = False
        #: It ends now, in order: asking again changes nothing.
        self.ending = False
        signal.signal(signal.SIGTERM, self._on_signal)
        # A child that user code forks is no worker. What it is sent before it could say so must not be lost.
        os.register_at_fork(before=_block, after_in_parent=_unblock, after_in_child=_as_ever)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.ending:
            return
        executor, session = self._executor, self._executor.session
        self.asked = True
        executor.exiting = "SIGTERM"
        if in_runtime(frame):
            session.interrupt_pending.append(None)
            session.reactor.wake()
            return
        raise SystemExit(128 + number)


def _block() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))


def _unblock() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))


def _as_ever() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _unblock()


def die() -> NoReturn:
    """End by SIGTERM, without further ado."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue
    _as_ever()
    os.kill(os.getpid(), signal.SIGTERM)
    # Somebody has it blocked or traced.
    os._exit(128 + signal.SIGTERM)
